"""Which host names stand for this machine alone."""

from __future__ import annotations

import ipaddress

_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"})


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine itself, by name or address, as an IPv6 address without brackets.

    So are `*.localhost` and the unspecified addresses: who connects to 0.0.0.0 comes to this machine.
    """
    name = host.lower().rstrip(".")
    if name in _NAMES or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.split("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_unspecified
