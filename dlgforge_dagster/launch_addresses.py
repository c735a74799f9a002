"""Paths and addresses in the config of a launched run that are no input: what the kernel or a cloud shows."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

# Where the kernel shows the environment, and with it the keys, of this very process.
_SYSTEM_FOLDERS = ("/proc", "/sys")
_LOCAL = ("", "file", "local", "asynclocal")
# Filesystems of fsspec that are made of addresses in their arguments, or in a file.
_INDIRECT = ("dir", "reference", "generic", "dask", "async_wrapper", "asyncwrapper")
_SHOWN = 200
_METADATA_SERVERS = ("metadata.google.internal", "metadata", "100.100.100.200", "fd00:ec2::254")


def leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value that is no mapping and no list, and where it is."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaves(value, (*path, str(key)))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from leaves(value, (*path, str(number)))
    else:
        yield path, tree


def path_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the paths in a config: those of the kernel, and those found in other files."""
    for path, value in leaves(config):
        if not isinstance(value, str) or "\0" in value:
            continue
        parts = [_address(part) for part in value.split("::")] if "://" in value else [("", value)]
        if any(protocol in _INDIRECT for protocol, _ in parts):
            yield (
                f"{'.'.join(path)} = {value[:_SHOWN]!r} takes its files from addresses in it, or in a list; "
                "name those themselves"
            )
        elif any(protocol in _LOCAL and _is_system_file(local) for protocol, local in parts):
            yield f"{'.'.join(path)} = {value[:_SHOWN]!r} is the kernel's view of this process, and no input"


def _address(text: str) -> tuple[str, str]:
    """Protocol and path of a part of an address that is a chain; no protocol means a path of this machine."""
    protocol, colons, path = text.partition("://")
    return (protocol, path) if colons else ("", text)


def _is_system_file(path: str) -> bool:
    """Whether a path, as it is or as Python shortens one that the kernel finds too long, is one of those."""
    path = os.path.expanduser(path)
    shortened = os.path.normpath(path.rstrip("/") or "/")
    return any(
        real == folder or real.startswith(folder + "/")
        for spelling in (path, shortened)
        if len(spelling) <= os.pathconf("/", "PC_PATH_MAX")
        for real in (os.path.realpath(spelling),)
        for folder in _SYSTEM_FOLDERS
    )


def metadata_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the addresses in a config that are a cloud's metadata server."""
    for path, value in leaves(config):
        if isinstance(value, str) and "://" in value and _is_metadata_server(value):
            yield (
                f"{'.'.join(path)} = {value!r} is a cloud's metadata server, which gives this machine's "
                "credentials to whoever asks from it"
            )


def _is_metadata_server(url: str) -> bool:
    """Whether an address is on the link alone, where clouds have it, in whatever form a resolver takes."""
    try:
        host = urlsplit(url if "[" in url else url.rpartition("::")[2]).hostname or ""
    except ValueError:
        return False
    if host.rstrip(".") in _METADATA_SERVERS:
        return True
    try:
        packed = socket.inet_pton(socket.AF_INET6, host) if ":" in host else socket.inet_aton(host)
    except (OSError, UnicodeError):
        return False
    address = ipaddress.ip_address(packed)
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_link_local) or str(mapped) in _METADATA_SERVERS
