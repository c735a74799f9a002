"""Keys of servers: fit to be sent, and kept out of what the servers say."""

from __future__ import annotations

import re
from collections.abc import Iterable
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


def secret_parts(value: str) -> list[str]:
    """The words of a header's value that may be a secret: long, or letters mixed with digits.

    Others, the name of a team for instance, are no secret, and may well be in a text that is to stay whole.
    """
    return [
        word
        for word in value.split()
        if len(word) >= _LONG
        or (len(word) >= _RANDOM and re.search("[A-Za-z]", word) and re.search("[0-9]", word))
    ]


_LONG = 20
_RANDOM = 8


def redact(said: AnyStr, secrets: str | Iterable[str]) -> AnyStr:
    """`said` without the key, or each of the secrets, as it is and as JSON may write it.

    Give it the whole text: once shortened for a message, half a key may be left in it.
    """
    for secret in [secrets] if isinstance(secrets, str) else secrets:
        for form in (secret, secret.replace("/", "\\/")):
            if form and isinstance(said, bytes):
                said = said.replace(form.encode(), b"***")
            elif form and isinstance(said, str):
                said = said.replace(form, "***")
    return said
