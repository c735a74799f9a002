"""The record that `ray start` leaves of this machine's cluster, and whether to believe it.

It lies in the temporary folder, where every user of the machine may write. Whose cluster we use gets our
keys, the database and our code.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

_RECORD_BYTES = 1024
_LISTENING = "0A"
_UNSPECIFIED = (ipaddress.ip_address("0.0.0.0"), ipaddress.ip_address("::"))

_log = logging.getLogger(__name__)


def recorded_address() -> str:
    """Return the cluster that `ray start` recorded on this machine; empty when there is none to believe.

    Not Ray's own `auto`, which takes any raylet it sees: that may be another run's private cluster, which
    ends with that run.
    """
    from ray._common.utils import get_ray_address_file

    path = str(get_ray_address_file(None))
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    except OSError as error:
        _log.warning("the record of a Ray cluster is not used: %s", error)
        return ""
    with os.fdopen(fd, "rb") as file:
        if problem := _problem_with(os.fstat(fd)):
            _log.warning("the record of a Ray cluster in %s is not used: %s", path, problem)
            return ""
        address = file.read(_RECORD_BYTES).decode(errors="replace").strip()
    return address if address.rpartition(":")[2].isdigit() else ""


def foreign_listener(address: str) -> str:
    """Why what listens at `host:port` is not ours; empty when it is ours or root's, or on another machine.

    A cluster may have ended and left its record, and its port to whoever came first.
    """
    host, _, port = address.rpartition(":")
    local = _local_address(host.strip("[]"))
    if local is None:
        return ""
    uids = {uid for ip, uid in _listeners(int(port)) if ip == local or ip in _UNSPECIFIED}
    foreign = sorted(uids - {os.geteuid(), 0})
    return f"what listens there is run by uid {foreign[0]}" if foreign else ""


def _problem_with(record: os.stat_result) -> str:
    if not stat.S_ISREG(record.st_mode):
        return "it is no plain file"
    if record.st_uid not in (os.geteuid(), 0):
        return f"uid {record.st_uid} wrote it, and this is uid {os.geteuid()}"
    if record.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write to it (its mode is {stat.S_IMODE(record.st_mode):04o})"
    if record.st_nlink > 1:
        return "it has a second name elsewhere"
    return ""


def _local_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that `host` stands for, if it is one of this machine's own."""
    with contextlib.suppress(OSError, ValueError):
        family, kind, _, _, where = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind((where[0], 0))
        return ipaddress.ip_address(where[0])
    return None


def _listeners(port: int) -> Iterator[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]]:
    """Addresses on which somebody listens at `port`, each with its user. Known on Linux only."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            ip, _, listens_at = fields[1].partition(":")
            if fields[3] != _LISTENING or int(listens_at, 16) != port:
                continue
            words = bytes.fromhex(ip)  # each word of 32 bits in the order of the machine
            packed = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
            found = ipaddress.ip_address(packed)
            if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
                found = found.ipv4_mapped
            yield found, int(fields[7])
