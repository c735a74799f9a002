"""Which hosts are this machine, and keys that stay out of what is told."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlgforge_core.common.hosts import is_loopback
from dlgforge_core.common.secrets import redact, sendable
from dlgforge_core.config import AgentConfig, RoutingConfig
from dlgforge_core.dialogue import Role
from dlgforge_core.errors import BackendError, ConfigError, RunStoppedError
from dlgforge_core.knowledge.endpoints import JsonClient
from dlgforge_core.llm.call_errors import CallError
from dlgforge_core.llm.client import LlmClient
from dlgforge_core.llm.completions import is_in_pieces, read_completion
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.server_errors import MAX_REASON_CHARS
from dlgforge_core.llm.transport import EndpointTransport, HttpAnswer

KEY = "sk-se/cr+et-0123456789-abcdefghijklmnop"


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LocalHost", "localhost.", "gpu.localhost", "localhost.localdomain", "ip6-localhost"),
        *("127.0.0.1", "127.1.2.3", "::1", "::1%lo", "::ffff:127.0.0.1", "0.0.0.0", "::"),
    ],
)
def test_this_machine_is_known_by_every_name(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "10.0.0.1", "localhost.example.org", "notlocalhost", "fe80::1%eth0"])
def test_other_machines_are_others(host: str) -> None:
    assert not is_loopback(host)


def test_a_key_is_sent_without_white_space_and_never_with_odd_characters() -> None:
    assert sendable(f" {KEY}\n", "K") == KEY
    assert sendable("", "K") == ""
    for bad in ("ké-secret", "a\nsecret"):
        with pytest.raises(ConfigError, match=r"^K holds characters no API key has$"):
            sendable(bad, "K")


@given(st.text(), st.text())
def test_a_key_is_taken_out_of_any_text(before: str, after: str) -> None:
    for form in (KEY, KEY.replace("/", "\\/")):
        message = f"{before}{form}{after}"
        assert form not in redact(message, KEY)
        raw = message.encode("utf-8", "surrogatepass")
        assert form.encode() not in redact(raw, KEY)
    assert redact(before, "") == before


class _Repeats(BaseHTTPRequestHandler):
    """Refuses every call and repeats the key where a message is cut."""

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        key = self.headers["Authorization"].removeprefix("Bearer ")
        escaped = key.replace("/", "\\/")
        body = f"{escaped} {key} ".rjust(MAX_REASON_CHARS - 20, "x") + f"{key} is refused"
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def base_url() -> Iterator[str]:
    with _served(_Repeats) as url:
        yield url


def test_half_a_key_is_not_reported_either(base_url: str) -> None:
    async def refused() -> None:
        client = JsonClient(Endpoint("rerank", base_url, api_key=KEY))
        try:
            await client.post("/rerank", {})
        finally:
            await client.aclose()

    with pytest.raises(BackendError, match="status 401") as error:
        asyncio.run(refused())
    assert "***" in str(error.value)
    assert not re.search(r"sk-se|cr\+et", str(error.value))


class _Writes(BaseHTTPRequestHandler):
    """Answers with a completion that says what the request asks it to say."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps(
            {"choices": [{"message": {"content": asked["say"]}}], **asked.get("more", {})}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def _served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _asked(api_key: str, **request: object) -> HttpAnswer:
    async def ask(url: str) -> HttpAnswer:
        transport = EndpointTransport(Endpoint("e", url, api_key=api_key))
        try:
            return await transport.post_chat(json.dumps(request).encode())
        finally:
            await transport.aclose()

    with _served(_Writes) as url:
        return asyncio.run(ask(url))


@pytest.mark.parametrize(
    "shown_text", [KEY, quote(KEY, safe=""), base64.b64encode(b"u:" + KEY.encode()).decode()]
)
def test_a_completion_that_holds_the_key_is_no_answer(shown_text: str) -> None:
    answer = _asked(KEY, say=f"It is {shown_text}!")
    assert answer.leaked
    assert KEY.encode() not in answer.body


def _streamed(*pieces: str) -> bytes:
    chunks: list[Any] = [{"choices": [{"delta": {"content": piece}}]} for piece in pieces]
    chunks[-1]["choices"][0] |= {"finish_reason": "stop"}
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode()


@pytest.mark.parametrize(
    "body",
    [
        _streamed("It is ", KEY[:5], KEY[5:]) + b"data: [DONE]\n\n",
        _streamed(KEY[:5], KEY[5:]).replace(b"data: ", b""),
        json.dumps(
            {"choices": [{"message": {"content": [{"type": "text", "text": t} for t in (KEY[:9], KEY[9:])]}}]}
        ).encode(),
        json.dumps(
            {
                "choices": [
                    {"message": {"content": "Yes.", "reasoning": [{"text": KEY[:9]}, {"text": KEY[9:]}]}}
                ]
            }
        ).encode(),
    ],
)
def test_a_completion_that_holds_the_key_in_pieces_is_distinguished_from_its_text(body: bytes) -> None:
    assert KEY.encode() not in body
    assert is_in_pieces(body)
    assert KEY in read_completion(body).written
    assert not is_in_pieces(b'{"choices": [{"message": {"content": "Yes.", "reasoning": null}}]}')


class _Streams(BaseHTTPRequestHandler):
    """Answers with a stream whose chunks hold the key that it was sent, in two halves."""

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        key = self.headers["Authorization"].removeprefix("Bearer ")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(_streamed("It is ", key[:5], key[5:]) + b"data: [DONE]\n\n")

    def log_message(self, *arguments: object) -> None:
        pass


def test_a_call_whose_answer_holds_the_key_in_pieces_fails() -> None:
    async def ask(url: str) -> None:
        endpoint = Endpoint("e", url, api_key=KEY)
        async with LlmClient([endpoint], RoutingConfig(), patience_s=0.0) as client:
            messages = [{"role": "user", "content": "Hi"}]
            await client.complete(Role.ASSISTANT, AgentConfig(), "m", messages, affinity="a")

    with _served(_Streams) as url, pytest.raises((CallError, RunStoppedError), match="holds the key"):
        asyncio.run(ask(url))


@pytest.mark.parametrize("dummy", ["EMPTY", "depends", "0", "none", "sk-no-key-required"])
def test_what_a_model_writes_stays_as_it_is(dummy: str) -> None:
    shown_text = f"It depends on 10 {dummy} things, EMPTY ones and none."
    answer = _asked(dummy, say=shown_text)
    assert not answer.leaked
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == shown_text


def test_a_key_beside_what_the_model_wrote_is_taken_out() -> None:
    answer = _asked(KEY, say="Fine.", more={"request": {"key": KEY}})
    assert not answer.leaked
    assert json.loads(answer.body)["request"] == {"key": "***"}
