"""Which proxy the environment names for an address: one rule, curl's, for every client."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from dlgforge_core.common.hosts import is_loopback
from dlgforge_core.errors import ConfigError

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_PORTS = {"http": 80, "https": 443}
_SPLIT = re.compile(r"[\s,]+")
_PORT = re.compile(r"(\[.*\]|[^:]*):(\d{1,5})")


def proxy_for(url: str, env: Mapping[str, str] = os.environ) -> str | None:
    """Return the address of the proxy for `url`; None without one, and for this machine itself.

    It is in HTTPS_PROXY, HTTP_PROXY or ALL_PROXY; NO_PROXY lists what is reached without. Small letters win.
    Raises ConfigError, which does not show the value, for a proxy that cannot be used.
    """
    parts = urlsplit(url)
    host, scheme = parts.hostname or "", parts.scheme.lower()
    if is_loopback(host) or is_exempt(host, parts.port or _PORTS.get(scheme), _value("no_proxy", env)):
        return None
    for name in (f"{scheme}_proxy", "all_proxy"):
        # A program behind a web server gets HTTP_PROXY from whoever sends a header Proxy.
        found = _value(name, {} if name == "http_proxy" and "REQUEST_METHOD" in env else env)
        if name in env or found:
            return _usable(found, name.upper(), scheme.upper()) if found else None
    return None


def _value(name: str, env: Mapping[str, str]) -> str:
    value = env[name] if name in env else env.get(name.upper(), "")
    return value.strip()


def _usable(proxy: str, name: str, scheme: str) -> str:
    proxy = proxy if "://" in proxy else f"http://{proxy}"  # as curl takes it
    try:
        parts = urlsplit(proxy)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        usable = usable and proxy.isascii() and proxy.isprintable() and " " not in proxy
    except ValueError:
        usable = False
    if not usable:
        # Without the value: it may hold a password.
        raise ConfigError(
            f"the proxy that {name} names in the environment cannot be used; it looks "
            "like http://host:3128, or http://user:password@host:3128 with special characters "
            f"percent-encoded. For addresses that need none, list their hosts in NO_PROXY, or set "
            f"{scheme.lower()}_proxy to nothing"
        )
    return proxy


def is_exempt(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether `no_proxy` lists a host, an IPv6 address without brackets.

    Its entries, with commas or spaces between: `*`; a domain, which stands for those below it as well, with
    or without a dot or `*.` before it; an address; a network (10.0.0.0/8, fd00::/8). Each may have a port.
    """
    name = _plain(host)
    address = _address(name)
    return any(_matches(entry, name, address, port) for entry in _SPLIT.split(no_proxy) if entry)


def _matches(entry: str, name: str, address: _Address | None, port: int | None) -> bool:
    if entry == "*":
        return True
    entry = entry.split("://", 1)[-1]
    # More than one colon without brackets: an IPv6 address, which has no port.
    if found := _PORT.fullmatch(entry):
        if int(found[2]) != port:
            return False
        entry = found[1]
    entry = entry.replace("[", "").replace("]", "")
    if address is not None:
        try:
            network = ipaddress.ip_network(entry.split("%")[0], strict=False)
        except ValueError:
            return "*" in entry and fnmatchcase(name, entry)  # 192.168.1.*
        return _holds(network, address)
    entry = _plain(entry.partition("/")[0].removeprefix("*").removeprefix("."))
    if "*" in entry or "?" in entry:
        return fnmatchcase(name, entry) or fnmatchcase(name, f"*.{entry}")
    return bool(entry) and (name == entry or name.endswith(f".{entry}"))


def _holds(network: _Network, address: _Address) -> bool:
    """Whether a network holds an address; one of IPv4 that is written in IPv6 is both."""
    if isinstance(network, ipaddress.IPv6Network) and (first := network.network_address.ipv4_mapped):
        network = ipaddress.ip_network(f"{first}/{max(0, network.prefixlen - 96)}", strict=False)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address in network or (mapped is not None and mapped in network)


def _plain(name: str) -> str:
    name = name.lower().rstrip(".")
    try:
        return name.encode("idna").decode() if not name.isascii() else name
    except UnicodeError:
        return name


def _address(name: str) -> _Address | None:
    try:
        return ipaddress.ip_address(name.split("%", maxsplit=1)[0])
    except ValueError:
        return None
