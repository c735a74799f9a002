"""Keys of servers: fit to be sent, and kept out of what the servers say."""

from __future__ import annotations

from typing import AnyStr

from dlgforge_core.errors import ConfigError


def sendable(key: str, name: str) -> str:
    """`key` without white space around it. `name` tells whose it is, for the message.

    Raises ConfigError when no header can carry it.
    """
    key = key.strip()
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"{name} holds characters no API key has")
    return key


def redact(said: AnyStr, key: str) -> AnyStr:
    """`said` without the key, as it is and as JSON may write it.

    Give it the whole text: once shortened for a message, half a key may be left in it.
    """
    for form in (key, key.replace("/", "\\/")):
        if form and isinstance(said, bytes):
            said = said.replace(form.encode(), b"***")
        elif form and isinstance(said, str):
            said = said.replace(form, "***")
    return said
