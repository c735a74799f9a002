"""Keys of servers: fit to be sent, and kept out of what is told, however it is spelled there."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import groupby
from typing import Any, AnyStr
from urllib.parse import unquote, urlsplit

import orjson

from dlgforge_core.common.bodies import BodyError, read_json
from dlgforge_core.errors import ConfigError

MARK = "***"
_LEAST_CHARS = 8
_LONG_WORD = 16
_WORD = re.compile(r"[^\W_]+")
# Escapes are escaped again so often, and no more: patterns must not read a run of them over and over.
_DEPTH = 4
_BACKSLASHES = 8
_LEAST_BASE64 = 10
_NAMED = {'"': "&quot;", "'": "&apos;", "&": "&amp;", "<": "&lt;", ">": "&gt;"}
# How every code of a character begins.
_CODED = re.compile(rf"%[0-9a-f]{{2}}|&\#|{'|'.join(_NAMED.values())}|\\", re.IGNORECASE)
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
    """`content` without each of the secrets, as it is or as JSON, HTML, URLs and base64 may write it.

    Values that can be none are left where they are. Give it the whole text: once shortened for a message,
    half a key may be left in it.
    """
    for secret in [secrets] if isinstance(secrets, str) else secrets:
        if not can_be_secret(secret):
            continue
        if isinstance(content, bytes):
            text = content.decode("latin-1")
            content = _pattern_for(text, secret, as_bytes=True).sub(mark, text).encode("latin-1")
        else:
            content = _pattern_for(content, secret, as_bytes=False).sub(mark, content)
    return content


def holds_secret(content: str | bytes, secrets: Iterable[str]) -> bool:
    """Whether one of the secrets is in a text, in any spelling that `redact` knows."""
    text = content.decode("latin-1") if isinstance(content, bytes) else content
    return any(
        _pattern_for(text, secret, as_bytes=isinstance(content, bytes)).search(text)
        for secret in secrets
        if can_be_secret(secret)
    )


def redact_body(body: bytes, secrets: Iterable[str]) -> bytes:
    """Return a server's answer without the secrets, in what its JSON holds once it is decoded, too."""
    secrets = [secret for secret in secrets if can_be_secret(secret)]
    if not secrets:
        return body
    try:
        return orjson.dumps(_redacted(read_json(body), secrets))
    except (BodyError, ValueError, TypeError, RecursionError):
        return redact(body, secrets)


def _redacted(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, str):
        return redact(value, secrets)
    if isinstance(value, list):
        return [_redacted(item, secrets) for item in value]
    if isinstance(value, dict):
        return {redact(key, secrets): _redacted(item, secrets) for key, item in value.items()}
    return value


def _pattern_for(text: str, secret: str, *, as_bytes: bool) -> re.Pattern[str]:
    """Return what finds a secret in this text. Most hold no code: they are read much faster."""
    return _pattern(secret.strip(), as_bytes, coded=_CODED.search(text) is not None)


@lru_cache(maxsize=256)
def _pattern(secret: str, as_bytes: bool, *, coded: bool) -> re.Pattern[str]:
    """Compile what finds a secret in all its spellings, in bytes read as Latin-1.

    `coded`: each character may be coded, in any way; else it is as it is, but for the spaces in URLs.
    """
    text = secret.encode().decode("latin-1") if as_bytes else secret
    if coded:
        spelling = "".join(_spellings(char, len(list(run))) for char, run in groupby(text))
    else:
        spelling = re.escape(text).replace(r"\ ", "[ +]")
    return re.compile("|".join([spelling, f"(?i:{secret.encode().hex()})", *_in_base64(secret.encode())]))


@lru_cache(maxsize=1024)
def _spellings(char: str, count: int) -> str:
    """Return a pattern of a character that comes `count` times in a row."""
    code = ord(char)
    percent = "".join(f"%(?:25){{0,{_DEPTH}}}{byte:02x}" for byte in char.encode())
    backslash = rf"\\{{1,{_BACKSLASHES}}}"
    coded = [percent, rf"&\#0{{0,{_DEPTH}}}{code};", rf"&\#x0{{0,{_DEPTH}}}{code:x};"]
    if code < 0x10000:
        coded.append(f"{backslash}u{code:04x}")
    if code < 0x100:
        coded.append(f"{backslash}x{code:02x}")
    plain = [re.escape(char)]
    if char in "\"'/\\":
        plain = [rf"\\{{0,{_BACKSLASHES}}}{re.escape(char)}"]
    if char == " ":
        plain.append(r"\+")
    if char in _NAMED:
        coded.append(_NAMED[char])
    if char == "\\" and count > 1:  # one quantifier: several in a row would try every way to share a long run
        return rf"(?:\\{{{count},{(_BACKSLASHES + 1) * count}}}|(?i:{'|'.join(coded)}){{{count}}})"
    return f"(?:{'|'.join(plain)}|(?i:{'|'.join(coded)}))" * count


def _in_base64(secret: bytes) -> Iterable[str]:
    """Yield the characters that stand for the secret alone, wherever in a group of three bytes it begins."""
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + secret).decode().rstrip("=")
        # What is mixed with the bytes before and after is left out.
        start = (before * 8 + 5) // 6
        end = (before + len(secret)) * 8 // 6
        core = encoded[start:end]
        if len(core) >= _LEAST_BASE64:
            yield "".join({"+": r"(?:[+\-]|%2[bB])", "/": r"(?:\\?/|_|%2[fF])"}.get(c, c) for c in core)


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
            found |= set(value.values() if isinstance(value, Mapping) else [value])
        else:
            found |= secret_variables(value)
    return {name for name in found if isinstance(name, str) and name}


def password_of(url: str) -> str:
    """Return the password in a URL; empty without one."""
    try:
        return unquote(urlsplit(url).password or "")
    except ValueError:
        return ""
