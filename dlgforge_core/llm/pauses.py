"""How long a server asks us to wait: in headers, in the fields of an error, or in words."""

from __future__ import annotations

import datetime
import email.utils
import math
import re
import time
from collections.abc import Iterator, Mapping

from dlgforge_core.llm.server_errors import MAX_ERROR_BYTES, fields_of
from dlgforge_core.llm.transport import HttpAnswer

LONGEST_S = 366 * 86_400.0
"""A longer pause is nobody's wish but a mistake, and is not read."""
_MAX_CHARS = 80
_EPOCH_S = 1e9
_EPOCH_MS = 1e11

_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "秒": 1.0, "分": 60.0, "小": 3600.0}
_PART = re.compile(
    r"(\d{1,9}(?:\.\d{1,9})?)\s{0,2}"
    r"(milliseconds?|msecs?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|秒|分钟?|小时)(?![a-z])",
    re.IGNORECASE,
)
_BETWEEN_PARTS = re.compile(r"\s{0,2}(?:,|and)?\s{0,2}")
_NUMBER = re.compile(r"[+-]?\d{1,20}(?:\.\d{1,20})?")
_ASKS = re.compile(
    r"(?:re-?try(?: (?:your|the) request)?|try again|wait|available again|resets?|allowed)"
    r"\W{0,3}(?:again\W{0,2})?"
    r"(?:after|in|for|at least|until|at)?\W{0,3}(?=\d)|请(?:在|等待)?\s?(?=\d)"
    r"|(?=(?<![\d.])\d{1,6}\s?(?:秒|分钟?|小时)[之以]?[后後])",
    re.IGNORECASE,
)
_GRPC = re.compile(r"retry_delay\W{1,6}seconds\W{1,4}(\d{1,9})")
_FIELDS = frozenset(
    {"retrydelay", "retryafter", "retryafterseconds", "retryafterms", "retryinseconds"}
    | {"waitseconds", "estimatedtime", "resetseconds"}
)


def pause_s(answer: HttpAnswer) -> float | None:
    """How long the server asks us to wait, in seconds; None when it does not say, or nothing that can be.

    Its Retry-After goes first, then what the error says of itself, then when its limits are reset.
    """
    if (asked := retry_after_s(answer.headers)) is not None:
        return asked
    fields = list(fields_of(answer.body))
    for name, text in fields:
        squeezed = name.replace("_", "").replace("-", "").casefold()
        if squeezed in _FIELDS and (found := _seconds(text, ms=squeezed.endswith("ms"))) is not None:
            return found
    texts = [text for _, text in fields] or [answer.body[:MAX_ERROR_BYTES].decode("utf-8", "replace")]
    if (in_words := next((s for s in map(_in_words, texts) if s is not None), None)) is not None:
        return in_words
    # OpenRouter repeats headers in the body.
    return _until_reset({**{name.lower(): text for name, text in fields}, **answer.headers})


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the pause of Retry-After or its kin, in seconds: from a number, a duration, a date or a time.

    Gateways send that of the server behind them under names of their own (llm_provider-retry-after).
    """
    named = [
        (name.lower().replace("_", "-"), value) for name, value in headers.items() if "retry" in name.lower()
    ]
    for suffix in ("retry-after-ms", "retry-after"):
        for name, value in sorted(named, key=lambda item: len(item[0])):
            found = _seconds(value, ms=suffix.endswith("ms")) if name.endswith(suffix) else None
            if found is not None:
                return found
    return None


def _until_reset(headers: Mapping[str, str]) -> float | None:
    """Seconds until a limit is reset: of limits that are used up, the longest; else the shortest."""
    resets = dict(_resets(headers))
    used_up = [
        seconds
        for name, seconds in resets.items()
        if (_NUMBER.fullmatch(left := headers.get(name.replace("reset", "remaining"), "").strip()))
        and float(left) <= 0
    ]
    if used_up:
        return max(used_up)
    return min(resets.values(), default=None)


# The IETF's draft: "default";r=0;t=33, or limit=100, remaining=0, reset=12 before.
_STRUCTURED = re.compile(r"\b(?:t|reset)=(\d{1,9})\b")


def _resets(headers: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    for name, value in headers.items():
        lower = name.lower()
        if "ratelimit" in lower.replace("-", "").replace("_", "") and "reset" in lower:
            seconds = _seconds(value)
            if seconds is not None:
                yield lower, seconds
        elif lower == "ratelimit" and (found := _STRUCTURED.search(value[:500])):
            yield lower, min(float(found.group(1)), LONGEST_S)


def _in_words(text: str) -> float | None:
    if found := _GRPC.search(text):
        return _sane(float(found.group(1)))
    for asked in _ASKS.finditer(text):
        start = asked.end()
        if (seconds := _duration(text, start)[0]) is not None:
            return seconds
        if time_there := _ISO.match(text, start):
            return _seconds(time_there.group())
        number = _NUMBER.match(text, start)
        if number and not re.match(r"\s?\w|[-/:]\d", text[number.end() : number.end() + 2]):
            return _sane(float(number.group()))
    return None


_ISO = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?")


def _seconds(text: str, *, ms: bool = False) -> float | None:
    """Return a header's or field's value in seconds from now; None when it is no time."""
    text = text.strip().strip("\"'")
    if not text or len(text) > _MAX_CHARS:
        return None
    if _NUMBER.fullmatch(text):
        number = float(text)
        if number > _EPOCH_MS:
            number = number / 1000 - time.time()
        elif number > _EPOCH_S:
            number -= time.time()
        elif ms:
            number /= 1000
        return _sane(number)
    iso8601 = text[2:] if text[:2].upper() == "PT" else text
    seconds, end = _duration(iso8601, 0)
    if seconds is not None and end == len(iso8601):
        return seconds
    return _until(text)


def _until(text: str) -> float | None:
    """Seconds until a date as HTTP writes it, or a time as ISO 8601 does."""
    try:
        if text[:4].isdigit():
            when = datetime.datetime.fromisoformat(text)
        else:
            when = email.utils.parsedate_to_datetime(text)
        if when.tzinfo is None:
            when = when.replace(tzinfo=datetime.UTC)
        return _sane(when.timestamp() - time.time())
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


def _duration(text: str, start: int) -> tuple[float | None, int]:
    """Return the duration from `start`, such as 1h2m3.5s or 2 minutes and 5 seconds, and its end."""
    total: float | None = None
    end = position = start
    for _ in range(5):
        part = _PART.match(text, position)
        if part is None:
            break
        unit = part.group(2).casefold()
        total = (total or 0.0) + float(part.group(1)) * _UNIT_S[
            "ms" if unit.startswith(("ms", "mil")) else unit[0]
        ]
        end = part.end()
        between = _BETWEEN_PARTS.match(text, end)
        position = between.end() if between else end
    return (None if total is None else _sane(total)), end


def _sane(seconds: float) -> float | None:
    if not math.isfinite(seconds) or seconds > LONGEST_S:
        return None
    return round(max(0.0, seconds), 3)
