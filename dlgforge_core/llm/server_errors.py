"""Errors as servers of many makes write them: read into one form, and told apart by codes before words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from dlgforge_core.common import bodies
from dlgforge_core.llm.transport import HttpAnswer
from dlgforge_core.llm.vocabulary import CODES, NOT_MEANT, STATUSES, WORDS, Meaning, squeeze
from dlgforge_core.printable import printable

MAX_REASON_CHARS = 300
MAX_ERROR_BYTES = 20_000
"""Of an error's body; what comes behind is not read."""
_MAX_TEXTS = 200
_MAX_DEPTH = 12

_CODE_NAMES = frozenset(
    {
        *("code", "type", "status", "reason", "errorcode", "errortype", "errcode", "statuscode"),
        *("finishmessage", "failedcheck", "blockreason", "nativefinishreason"),
    }
)
_MESSAGE_NAMES = (
    "message",
    "detail",
    "msg",
    "error_msg",
    "error_message",
    "status_msg",
    "title",
    "reason",
    "raw",
)
# What a server repeats of the request is not its own words.
_ECHOES = frozenset({"input", "body", "request", "messages", "prompt", "url", "headers"})


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error as a server wrote it; what it left out is empty.

    `codes` are all codes, types and statuses, the outermost first; `params` are the parameters it names in
    fields; `text` is all that it says, in one line of lower case. `words` are the user's own, by meaning.
    """

    status: int
    message: str
    code: str = ""
    type: str = ""
    param: str = ""
    codes: tuple[str, ...] = ()
    params: tuple[str, ...] = ()
    text: str = ""
    words: Mapping[str, Meaning] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.status}: {self.message}" if self.message else f"status {self.status}"

    @property
    def own_meaning(self) -> Meaning | None:
        """What it means by the words of the configuration."""
        return next((m for word, m in self.words.items() if word.casefold() in self.text), None)

    def names(self, *words: str) -> bool:
        """Whether anything it says holds one of `words`."""
        return any(word in self.text for word in words)

    @property
    def meaning(self) -> Meaning | None:
        """What it means, by the user's words, then its codes, then its words; None when nothing tells."""
        if (own := self.own_meaning) is not None:
            return own
        by_code = list(self.meanings_of_codes())
        # A general code (invalid_request_error) says less than a particular one, or than plain words.
        for meaning in by_code:
            if meaning not in (Meaning.REQUEST, Meaning.SERVER, Meaning.KEY):
                return meaning
        by_words = meaning_of_words(self.text)
        if by_words is not None and not (by_words is Meaning.RATE_LIMIT and by_code):
            return by_words
        return by_code[0] if by_code else None

    def meanings_of_codes(self) -> Iterator[Meaning]:
        """Yield what each of its codes means, as far as they are known."""
        for code in self.codes:
            for name in (code, code.rpartition(".")[2], code.partition(".")[0]):
                if meaning := CODES.get(squeeze(name)):
                    yield meaning
                    break


def meaning_of_words(text: str) -> Meaning | None:
    """Return what an error's words mean, by the first pattern that is found in them."""
    for meaning, pattern in WORDS:
        if pattern.search(text) and not (meaning in NOT_MEANT and NOT_MEANT[meaning].search(text)):
            return meaning
    return None


def read_error(answer: HttpAnswer, words: Mapping[str, Meaning] | None = None) -> ErrorAnswer:
    """Read the body of an error: OpenAI's shape, those of other servers, or plain text."""
    body = answer.body[:MAX_ERROR_BYTES]
    data = plain_json(body) if len(answer.body) <= MAX_ERROR_BYTES else None
    if data is None:
        text = body.decode("utf-8", "replace")
        return ErrorAnswer(answer.status, excerpt(text), text=_line(text), words=words or {})
    return _error_of(answer.status, data, words or {})


def error_within(body: bytes, words: Mapping[str, Meaning] | None = None) -> ErrorAnswer | None:
    """Return the error that a 200 carries in place of an answer, or beside it; None when there is none.

    Its status is the one that it names, or the one that goes with what it means.
    """
    return error_in(plain_json(body), body, words)


def error_in(data: Any, body: bytes, words: Mapping[str, Meaning] | None = None) -> ErrorAnswer | None:
    """Return the error that the 200 with this `body` carries, as `error_within`; `data` is its JSON."""
    if len(body) > MAX_ERROR_BYTES and not _ERROR_KEY.search(body):
        return None
    if isinstance(data, list) and len(data) == 1:
        data = data[0]
    if not isinstance(data, dict):
        return None
    found = _found_within(data)
    if found is None:
        return None
    error = _error_of(200, found, words or {})
    return replace(error, status=_status_of(error))


_ERROR_KEY = re.compile(rb'"(error|errors|base_resp|error_code|error_msg|detail)"\s*:')


def _found_within(data: dict[str, Any]) -> Any:
    """Return the part of a 200's body that is an error."""
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    for holder in (data, choice):
        for name in ("error", "errors"):
            if holder.get(name):
                return {name: holder[name]}
    base = data.get("base_resp")  # MiniMax'
    if isinstance(base, dict) and base.get("status_code"):
        return base
    if choices:
        return None
    if data.get("object") == "error" or any(
        data.get(name)
        for name in ("detail", "error_code", "error_msg", "errorCode", "message", "msg", "promptFeedback")
    ):
        return data
    return None


def _status_of(error: ErrorAnswer) -> int:
    for code in error.codes:
        if re.fullmatch(r"[45]\d\d", code):
            return int(code)
    if error.meaning is not None:
        return STATUSES[error.meaning]
    if named := _NAMED_STATUS.search(error.text):
        return int(named.group(1))
    return 500


_NAMED_STATUS = re.compile(
    r"(?:\berror code:?|\bstatus(?: code)?:?|\bhttp(?:/[\d.]+)?|^\W{0,3})\s{0,3}([45]\d\d)\b"
)


def _error_of(status: int, data: Any, words: Mapping[str, Meaning]) -> ErrorAnswer:
    if isinstance(data, list) and data and isinstance(data[0], dict) and "error" in data[0]:  # Gemini's
        data = data[0]
    outer = data.get("error") or data.get("errors") or data if isinstance(data, dict) else data
    if isinstance(outer, list) and outer and isinstance(outer[0], dict) and "loc" not in outer[0]:
        outer = outer[0]
    fields = list(_fields(data))
    texts = [text for _, text in fields]
    codes = [text for name, text in fields if squeeze(name) in _CODE_NAMES and len(text) <= 80]
    params = [
        text for name, text in fields if name in ("param", "loc", "parameter", "field", "pointer") and text
    ]

    def field_of(name: str) -> str:
        value = outer.get(name) if isinstance(outer, dict) else None
        return value if isinstance(value, str) else ""

    return ErrorAnswer(
        status,
        excerpt(_message(outer)),
        field_of("code"),
        field_of("type"),
        field_of("param"),
        tuple(dict.fromkeys(codes)),
        tuple(dict.fromkeys(params)),
        _line(" ".join(texts)),
        words,
    )


def _message(outer: Any) -> str:
    """Return what to show: the message, and one within it where a gateway repeats another server's."""
    if not isinstance(outer, dict):
        return str(outer)
    found = [outer[name] for name in _MESSAGE_NAMES if outer.get(name)]
    first = found[0] if found else outer
    metadata = outer.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None  # OpenRouter's
    shown = first if isinstance(first, str) else json.dumps(first, ensure_ascii=False, default=str)
    return f"{shown}: {raw}" if isinstance(raw, str) and raw else shown


def _fields(data: Any) -> Iterator[tuple[str, str]]:
    """Every text and number of an error with the name of its field, outermost first; bounded."""
    level: list[tuple[str, Any]] = [("", data)]
    count = 0
    for _ in range(_MAX_DEPTH):
        deeper: list[tuple[str, Any]] = []
        for name, value in level:
            if name == "loc" and isinstance(value, list):
                yield name, ".".join(str(part) for part in value[:20])
            elif isinstance(value, dict):
                deeper.extend((str(k), v) for k, v in value.items() if k not in _ECHOES)
                deeper.extend(_limits_in(value.get("headers")))
            elif isinstance(value, list):
                deeper.extend((name, item) for item in value)
            elif isinstance(value, str | int | float) and not isinstance(value, bool):
                count += 1
                yield name, str(value)
                if isinstance(value, str) and (inner := _json_within(value)) is not None:
                    deeper.append((name, inner))
            if count >= _MAX_TEXTS:
                return
        if not deeper:
            return
        level = deeper[:_MAX_TEXTS]


def _limits_in(headers: Any) -> Iterator[tuple[str, Any]]:
    """Yield what headers that OpenRouter repeats in an error say of limits and pauses."""
    for name, value in headers.items() if isinstance(headers, dict) else ():
        if "ratelimit" in str(name).lower() or "retry" in str(name).lower():
            yield str(name), value


def fields_of(body: bytes) -> Iterator[tuple[str, str]]:
    """Every text and number of an error's body with the name of its field; none when it is no JSON."""
    data = plain_json(body) if len(body) <= MAX_ERROR_BYTES else None
    return iter(()) if data is None else _fields(data)


def _json_within(text: str) -> Any:
    """Return the JSON that a text holds, as gateways repeat other servers' bodies; None without one."""
    start = text.find("{")
    if start < 0:
        return None
    try:
        value, _ = json.JSONDecoder(strict=False).raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and value else None


def plain_json(body: bytes) -> Any:
    """Return the JSON value that a body is; None for any other body, and for one that holds too much."""
    try:
        bodies.check_size(body)
        return orjson.loads(body)
    except ValueError:
        return None


def _line(text: str) -> str:
    return " ".join(text[:MAX_ERROR_BYTES].casefold().split())


def excerpt(text: str | bytes) -> str:
    """One line of at most MAX_REASON_CHARS, for messages; control characters are written out."""
    if isinstance(text, bytes):
        text = text[: 8 * MAX_REASON_CHARS].decode("utf-8", "replace")
    line = printable(" ".join(text[: 8 * MAX_REASON_CHARS].split()))
    return line if len(line) <= MAX_REASON_CHARS else line[: MAX_REASON_CHARS - 3] + "..."


def is_context_overflow(error: ErrorAnswer) -> bool:
    """Whether a request was refused because it does not fit the model's context, or a minute's tokens."""
    if error.status == 429 and error.own_meaning is None:
        # Limits of a minute speak of too many tokens as well.
        return error.names("request too large") or Meaning.CONTEXT_OVERFLOW in error.meanings_of_codes()
    return error.status == 413 or error.meaning is Meaning.CONTEXT_OVERFLOW


def is_content_filter(error: ErrorAnswer) -> bool:
    """Whether a request was refused for what it says."""
    return error.meaning is Meaning.CONTENT_FILTER


def is_unknown_model(error: ErrorAnswer) -> bool:
    """Whether a 404 is about the model, not the address."""
    return error.param == "model" or error.meaning is Meaning.UNKNOWN_MODEL or error.names("model")


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
        and bool(_SYSTEM_ROLE.search(error.text))
    )
