"""Keys of servers: fit to be sent, and kept out of what is told, however it is spelled there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, AnyStr
from urllib.parse import unquote, urlsplit

import orjson

from dlgforge_core.common.bodies import BodyError, read_json
from dlgforge_core.common.spellings import decoded, forms
from dlgforge_core.errors import ConfigError

MARK = "***"
_LEAST_CHARS = 8
_LONG_WORD = 16
_WORD = re.compile(r"[^\W_]+")
_SECRET_NAME = re.compile(
    r"sig|token|key|secret|passw|pwd|credential|auth|session|x-(?:amz|goog|oss|cos)-", re.IGNORECASE
)
_USER = re.compile(r"(?<=://)([^/?#@\s:]*)(:[^/?#@\s]*)?@")
_PARAMETER = re.compile(r"(?<=[?&;])([^=&;#\s]{1,80})=([^&;#\s\"'<>)\]]+)")


def sendable(key: str, name: str) -> str:
    """`key` without white space around it. `name` tells whose it is, for the message.

    Raises ConfigError when no header can carry it.
    """
    key = key.strip()
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"{name} holds characters no API key has")
    return key


def can_be_secret(value: str) -> bool:
    """Whether a value may be a secret, and not a word that stands for none: "EMPTY", "depends", "not-needed".

    Servers that need no key are given such words, which may well be in a text that is to stay whole. A secret
    mixes letters and digits, or is long and no words.
    """
    value = value.strip()
    if len(value) < _LEAST_CHARS:
        return False
    letters, digits = any(map(str.isalpha, value)), sum(map(str.isdigit, value))
    if (letters and digits) or digits >= _LEAST_CHARS:
        return True
    return any(len(word) >= _LONG_WORD for word in _WORD.findall(value))


def secret_parts(value: str) -> list[str]:
    """Return the words of a header's value that may be a secret."""
    return [word for word in value.split() if can_be_secret(word)]


def redact(content: AnyStr, secrets: str | Iterable[str], mark: str = MARK) -> AnyStr:
    """`content` without each of the secrets, as it is or in whatever `spellings` can decode.

    Values that can be none are left where they are. Give it the whole text: once shortened for a message,
    half a key may be left in it.
    """
    needles = _needles((secrets,) if isinstance(secrets, str) else tuple(secrets))
    text = content.decode("latin-1") if isinstance(content, bytes) else content
    spans = sorted(_found(text, needles)) if needles else []
    if not spans:
        return content
    parts: list[str] = []
    position = 0
    for start, end in spans:
        if start >= position:
            parts += [text[position:start], mark]
        position = max(position, end)
    redacted = "".join([*parts, text[position:]])
    return redacted.encode("latin-1") if isinstance(content, bytes) else redacted


def holds_secret(content: str | bytes, secrets: Iterable[str]) -> bool:
    """Whether one of the secrets is in a text, in any spelling that `redact` knows."""
    needles = _needles(tuple(secrets))
    if not needles:
        return False
    text = content.decode("latin-1") if isinstance(content, bytes) else content
    return next(_found(text, needles), None) is not None


def _found(text: str, needles: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """Yield the parts of a text that stand for one of the secrets; some of them overlap."""
    for form in forms(text, min(map(len, needles))):
        for needle in needles:
            start = form.text.find(needle)
            while start >= 0:
                yield form.origin(start, start + len(needle))
                start = form.text.find(needle, start + len(needle))


@lru_cache(maxsize=256)
def _needles(secrets: tuple[str, ...]) -> tuple[str, ...]:
    """Return what to look for in decoded texts: what can be secrets, as they are and as their own decoding.

    The latter since other characters of a text may be coded where what looks like a code in a key is not.
    """
    found: dict[str, None] = {}
    for secret in (secret.strip() for secret in secrets):
        for text in (secret, secret.encode().decode("latin-1"), secret.replace(" ", "+")):
            found |= dict.fromkeys([text, *decoded(text)])
    return tuple(filter(can_be_secret, found))


def redact_body(body: bytes, secrets: Iterable[str]) -> bytes:
    """Return a server's answer without the secrets, in what its JSON holds once it is decoded, too."""
    secrets = tuple(secrets)
    if not _needles(secrets):
        return body
    try:
        return orjson.dumps(_redacted(read_json(body), secrets))
    except (BodyError, ValueError, TypeError, RecursionError):
        return redact(body, secrets)


def _redacted(value: Any, secrets: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        return redact(value, secrets)
    if isinstance(value, list):
        return [_redacted(item, secrets) for item in value]
    if isinstance(value, dict):
        return {redact(key, secrets): _redacted(item, secrets) for key, item in value.items()}
    if isinstance(value, int | float) and holds_secret(str(value), secrets):
        return MARK
    return value


def shown_address(text: str) -> str:
    """Return an address, or a text with addresses, without passwords and signatures, to be shown.

    "https://user:***@host/a?sv=2024&sig=***"
    """
    return _PARAMETER.sub(_shown_parameter, _USER.sub(_shown_user, text))


def _shown_user(found: re.Match[str]) -> str:
    user, password = found.groups()
    if password is None:
        return f"{MARK}@" if can_be_secret(user) else found[0]
    return f"{user}:{MARK}@"


def _shown_parameter(found: re.Match[str]) -> str:
    name, value = found.groups()
    if _SECRET_NAME.search(unquote(name)) or (len(value) >= 20 and can_be_secret(value)):
        return f"{name}={MARK}"
    return found[0]


def environment_secrets(env: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return what may be a secret in an environment, by the names and the values of its variables."""
    return tuple({value for name, value in env.items() if _SECRET_NAME.search(name) and can_be_secret(value)})


def address_secrets(address: str) -> list[str]:
    """Return the passwords and signatures in an address, for taking them out of other texts."""
    found = [part for user in _USER.finditer(address) for part in (user[1], (user[2] or "")[1:])]
    found += [value[2] for value in _PARAMETER.finditer(address) if _shown_parameter(value) != value[0]]
    return list(dict.fromkeys(value for part in found if can_be_secret(value := unquote(part))))


def shown_error(error: BaseException, address: str) -> str:
    """Return what a library says of an address that cannot be read, without the secrets in it."""
    return shown_address(redact(str(error), address_secrets(address)))


def secret_variables(config: Any) -> set[str]:
    """Return the variables that hold keys by a configuration in plain data: what its `*_env` name."""
    if isinstance(config, list):
        return set[str]().union(*map(secret_variables, config))
    if not isinstance(config, Mapping):
        return set()
    found: set[str] = set()
    for key, value in config.items():
        if str(key).endswith("_env"):
            # Arguments of a tool may have such names, too: their schemas hold more than texts.
            named = value.values() if isinstance(value, Mapping) else [value]
            found |= {name for name in named if isinstance(name, str)}
        else:
            found |= secret_variables(value)
    return found - {""}


def password_of(url: str) -> str:
    """Return the password in a URL; empty without one."""
    try:
        return unquote(urlsplit(url).password or "")
    except ValueError:
        return ""
