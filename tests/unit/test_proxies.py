"""One rule for proxies, curl's, and certificates that the environment names."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import ssl
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import certifi
import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dlgforge_core.common.proxies import is_exempt, proxy_for
from dlgforge_core.common.tls import client_context
from dlgforge_core.errors import ConfigError
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.transport import EndpointTransport, HttpAnswer, TransportError

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("no_proxy", "url", "exempt"),
    [
        ("10.0.0.0/8", "http://10.2.3.4:8000/v1", True),
        ("10.0.0.0/8", "http://11.2.3.4:8000/v1", False),
        ("10.1.2.3/8", "http://10.9.9.9/v1", True),
        ("10.0.0.0/8", "http://10.example.com/v1", False),
        ("192.168.7.7", "https://192.168.7.7/v1", True),
        ("*.corp", "https://gpu.corp/v1", True),
        ("*.corp", "https://a.b.corp./v1", True),
        (".corp", "https://gpu.corp/v1", True),
        ("corp", "https://gpu.corp/v1", True),
        ("corp", "https://gpucorp/v1", False),
        ("corp.", "https://GPU.Corp/v1", True),
        ("gpu-*.corp", "https://gpu-7.corp/v1", True),
        ("192.168.1.*", "http://192.168.1.5/v1", True),
        ("192.168.1.*", "http://192.168.2.5/v1", False),
        ("https://gpu.corp/v1", "https://gpu.corp/v1", True),
        ("gpu.corp:8000", "http://gpu.corp:8000/v1", True),
        ("gpu.corp:8000", "http://gpu.corp:8001/v1", False),
        ("gpu.corp:443", "https://gpu.corp/v1", True),
        ("[fd00::1]", "http://[fd00::1]:8000/v1", True),
        ("[fd00::1]:8000", "http://[fd00::1]:8000/v1", True),
        ("[fd00::1]:8001", "http://[fd00::1]:8000/v1", False),
        ("fd00::/8", "http://[fd12:3::4]:8000/v1", True),
        ("[fd00::]/8", "http://[fd12:3::4]:8000/v1", True),
        ("fd00::1", "http://[fd00:0:0::1]/v1", True),
        ("::ffff:10.0.0.0/104", "http://10.2.3.4/v1", True),
        ("10.0.0.0/8", "http://[::ffff:10.2.3.4]/v1", True),
        ("::/0", "http://[::ffff:10.2.3.4]/v1", True),
        ("::ffff:10.2.3.4", "http://[::ffff:10.2.3.4]/v1", True),
        ("::ffff:10.2.3.4", "http://10.2.3.4/v1", True),
        ("::/0", "http://10.2.3.4/v1", False),
        ("fd00::/8", "http://10.2.3.4/v1", False),
        ("*", "http://anything.example/v1", True),
        ("a.example, *", "http://anything.example/v1", True),
        ("a.example  b.example", "http://b.example/v1", True),
        ("", "http://b.example/v1", False),
        (",, ,", "http://b.example/v1", False),
        ("[::1", "http://b.example/v1", False),
        ("10.0.0.0/99,b.example", "http://b.example/v1", True),
        ("https://b.example", "http://b.example/v1", True),
        ("bücher.example", "http://xn--bcher-kva.example/v1", True),
    ],
)
def test_what_no_proxy_lists_is_reached_without(no_proxy: str, url: str, exempt: bool) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        env = {"HTTP_PROXY": PROXY, "https_proxy": PROXY, name: no_proxy}
        assert proxy_for(url, env) == (None if exempt else PROXY)


def test_variables_small_letters_first() -> None:
    url = "https://api.example/v1"
    assert proxy_for(url, {"https_proxy": "a.example:1", "HTTPS_PROXY": PROXY}) == "http://a.example:1"
    assert proxy_for(url, {"https_proxy": "", "HTTPS_PROXY": PROXY, "ALL_PROXY": PROXY}) is None
    assert proxy_for(url, {"ALL_PROXY": PROXY}) == PROXY
    assert proxy_for(url, {"HTTP_PROXY": PROXY}) is None
    assert proxy_for("http://api.example/v1", {"HTTP_PROXY": PROXY}) == PROXY
    assert proxy_for("http://api.example/v1", {"HTTP_PROXY": PROXY, "REQUEST_METHOD": "GET"}) is None
    for host in ("localhost", "127.0.0.1", "[::1]", "x.localhost"):
        assert proxy_for(f"http://{host}:8000/v1", {"HTTP_PROXY": PROXY}) is None


@pytest.mark.parametrize(
    "value", ["socks5://u:hunter2@p:1", "http://u:hunter2@p:x", "http://", "p p", "http://p:0"]
)
def test_a_proxy_that_cannot_be_used_is_reported_by_its_variable_alone(value: str) -> None:
    with pytest.raises(ConfigError, match="ALL_PROXY") as error:
        proxy_for("https://api.example/v1", {"ALL_PROXY": value})
    assert "hunter2" not in str(error.value)


NAMES = st.from_regex(r"[a-z0-9]{1,8}(\.[a-z0-9]{1,8}){0,3}", fullmatch=True)


@settings(max_examples=60)
@given(st.ip_addresses(), st.integers(0, 32), st.integers(1, 65535))
def test_networks_hold_what_the_standard_library_says(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, bits: int, port: int
) -> None:
    network = ipaddress.ip_network(f"{address}/{bits}", strict=False)
    assert is_exempt(str(address), port, str(network))
    shown = f"[{address}]" if address.version == 6 else str(address)
    assert is_exempt(str(address), port, f"x.example,{shown}:{port}")
    assert not is_exempt(str(address), port, f"{shown}:{port % 65535 + 1}")


@settings(max_examples=60)
@given(NAMES, NAMES, st.integers(1, 65535))
def test_a_domain_stands_for_those_below_it(name: str, other: str, port: int) -> None:
    for entry in (name, f".{name}", f"*.{name}", f"{name}:{port}", name.upper()):
        assert is_exempt(f"{other}.{name}", port, entry) or other.isdigit() or name.replace(".", "").isdigit()
    if not (f".{other}").endswith(f".{name}"):
        assert not is_exempt(other, port, name)


@settings(max_examples=100)
@given(st.text("[]:/.*,0123456789abcdef%- \t@é", max_size=30), st.text(max_size=10))
@example("[::1]", "")
@example("fd00::/8", "")
def test_no_value_ends_in_another_error(no_proxy: str, more: str) -> None:
    for host in ("api.example", "10.2.3.4", "fd00::1"):
        is_exempt(host, 443, no_proxy + more)
    url = proxy_for("https://api.example/v1", {"https_proxy": PROXY, "no_proxy": no_proxy})
    assert url is None or httpx.Proxy(url)


class _Proxy(BaseHTTPRequestHandler):
    """Refuses everything, and keeps what it was asked for."""

    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_POST(self) -> None:
        self.asked.append((f"{self.command} {self.path}", self.headers["Proxy-Authorization"]))
        self.send_response(502)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_CONNECT = do_POST

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://model.invalid/v1", "POST http://model.invalid/v1/chat/completions"),
        ("https://model.invalid/v1", "CONNECT model.invalid:443"),
    ],
)
def test_a_proxy_gets_its_password(monkeypatch: pytest.MonkeyPatch, url: str, asked: str) -> None:
    async def ask() -> HttpAnswer:
        transport = EndpointTransport(Endpoint("e", url))
        try:
            return await transport.post_chat(b"{}")
        finally:
            await transport.aclose()

    _Proxy.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Proxy)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv(f"{url.partition(':')[0]}_proxy", f"http://u:p%40ss@127.0.0.1:{server.server_port}")
    try:
        with suppress(TransportError):
            assert asyncio.run(ask()).status == 502
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert _Proxy.asked == [(asked, f"Basic {base64.b64encode(b'u:p@ss').decode()}")]


# Certificates


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_certificates_that_are_not_there_are_reported_by_variable_and_path(tmp_path: Path, name: str) -> None:
    missing = tmp_path / "nothing" / "ca.pem"
    with pytest.raises(ConfigError, match="there is no such") as error:
        client_context({name: str(missing)})
    assert f"{name} = {missing}" in str(error.value)


def test_what_holds_no_certificates_is_reported_and_what_does_is_used(tmp_path: Path) -> None:
    broken = tmp_path / "ca.pem"
    broken.write_text("no certificate")
    for env in (
        {"SSL_CERT_FILE": str(broken)},
        {"SSL_CERT_FILE": str(tmp_path)},
        {"SSL_CERT_DIR": str(broken)},
    ):
        with pytest.raises(ConfigError, match=f"{next(iter(env))} = "):
            client_context(env)
    for env in (
        {},
        {"SSL_CERT_FILE": ""},
        {"REQUESTS_CA_BUNDLE": certifi.where()},
        {"SSL_CERT_DIR": str(tmp_path)},
    ):
        assert isinstance(client_context(env), ssl.SSLContext)
