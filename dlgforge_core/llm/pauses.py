"""How long a server asks us to wait: in headers, in the fields of an error, or in words."""

from __future__ import annotations

import email.utils
import re
import time

import httpx

from dlgforge_core.llm.transport import HttpAnswer

MAX_ERROR_BYTES = 20_000
"""Of an error's body, where the pause it asks for is looked for."""

# As OpenAI ("try again in 1m12.5s", "in 350ms"), Gemini ("Please retry in 2.5s") and others write it.
_WAIT = re.compile(
    rb"(?:re)?try(?: again)? in (?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)(ms|s\b| ?sec))?", re.IGNORECASE
)


def pause_s(answer: HttpAnswer) -> float | None:
    """How long the server asks us to wait, in seconds: by its headers, or else in words."""
    if (asked := retry_after_s(answer.headers)) is not None:
        return asked
    found = _WAIT.search(answer.body[:MAX_ERROR_BYTES])
    if found is None or not any(found.groups()):
        return None
    hours, minutes, seconds, unit = found.groups()
    last = float(seconds or 0) / (1000 if unit == b"ms" else 1)
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + last


def retry_after_s(headers: httpx.Headers) -> float | None:
    """How long the server asks us to wait, in seconds; from Retry-After (seconds or date) or its kin."""
    milliseconds = headers.get("retry-after-ms")
    value = headers.get("retry-after")
    try:
        if milliseconds:
            return max(0.0, float(milliseconds) / 1000)
        if value is None:
            return None
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value or "").timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
