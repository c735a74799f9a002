"""Errors as servers of many makes write them: read into one form, and told apart."""

from __future__ import annotations

import re
from typing import NamedTuple

import orjson

from dlgforge_core.llm.transport import HttpAnswer
from dlgforge_core.printable import printable

MAX_REASON_CHARS = 300


class ErrorAnswer(NamedTuple):
    """An error as a server told it; fields it left out are empty."""

    status: int
    message: str
    code: str
    type: str
    param: str

    def __str__(self) -> str:
        return f"{self.status}: {self.message}" if self.message else f"status {self.status}"

    def names(self, *words: str) -> bool:
        """Whether code, type, parameter or message hold one of `words`."""
        text = self.said.lower()
        return any(word in text for word in words)

    @property
    def said(self) -> str:
        """All of it in one line."""
        return f"{self.code} {self.type} {self.param} {self.message}"


def read_error(answer: HttpAnswer) -> ErrorAnswer:
    """Read the body of an error: OpenAI's shape, those of other servers, or plain text."""
    try:
        data = orjson.loads(answer.body)
    except ValueError:
        return ErrorAnswer(answer.status, excerpt(answer.body), "", "", "")
    if isinstance(data, list) and data and isinstance(data[0], dict):  # Gemini's
        data = data[0]
    error = data.get("error", data) if isinstance(data, dict) else data
    if not isinstance(error, dict):
        return ErrorAnswer(answer.status, excerpt(str(error)), "", "", "")
    message = error.get("message") or error.get("detail") or ""

    def text(key: str) -> str:
        value = error.get(key)
        return value if isinstance(value, str) else ""

    return ErrorAnswer(answer.status, excerpt(str(message)), text("code"), text("type"), text("param"))


def excerpt(text: str | bytes) -> str:
    """One line of at most MAX_REASON_CHARS, for messages; control characters are written out."""
    if isinstance(text, bytes):
        text = text[: 8 * MAX_REASON_CHARS].decode("utf-8", "replace")
    line = printable(" ".join(text[: 8 * MAX_REASON_CHARS].split()))
    return line if len(line) <= MAX_REASON_CHARS else line[: MAX_REASON_CHARS - 3] + "..."


_OVERFLOW = re.compile(
    r"context[ _]length|context[ _]size|context[ _]window|max_model_len|too many (input )?tokens"
    r"|prompt is too long|input is too long|exceeds? the (maximum|available)"
)


def is_context_overflow(error: ErrorAnswer) -> bool:
    """Whether a request was refused because it does not fit the model's context."""
    return error.status == 413 or bool(_OVERFLOW.search(f"{error.code} {error.type} {error.message}".lower()))


def is_content_filter(error: ErrorAnswer) -> bool:
    """Whether a request was refused for what it says."""
    return error.names("content_filter", "content_policy", "content management policy", "moderation")


def is_unknown_model(error: ErrorAnswer) -> bool:
    """Whether a 404 is about the model, not the address."""
    return error.param == "model" or error.code == "model_not_found" or error.names("model")


# What chat templates and servers say of a system message they have no place for.
_SYSTEM_ROLE = re.compile(
    r"system[ _](role|message|prompt|instruction)s?\b.{0,40}(support|allowed|permitted|enabled|accept)"
    r"|(support|allow|permit|accept)\w*.{0,40}\bsystem[ _](role|message|prompt|instruction)"
    r"|developer instructions? (is|are) not (enabled|supported)"
    r"|\bonly\b((?!\bsystem\b).){0,60}\broles? (is|are) (supported|allowed|accepted)"
    r"|(?<!optional system message, conversation )roles must alternate"
    r"|(invalid|unsupported|unknown|unexpected) role.{0,20}\bsystem\b",
    re.DOTALL,
)


def is_system_refusal(error: ErrorAnswer, sent: bytes) -> bool:
    """Whether a server means, by this error, that it takes no system message such as was `sent`."""
    # Within a message's text the quotes would be escaped. llama.cpp says 500 when a chat template raises.
    return (
        error.status in (400, 422, 500)
        and b'"role":"system"' in sent
        and bool(_SYSTEM_ROLE.search(error.said.lower()))
    )
