"""Optional parameters of a call: which of them an error names, and in which order they are left out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dlgforge_core.llm.server_errors import ErrorAnswer

NEEDED = frozenset({"model", "messages", "tools", "response_format"})
"""Never left out by name: what is asked, and what has ways of its own to be asked for otherwise."""
ORDER = ("stream", "seed", "top_p", "temperature", "max_completion_tokens", "max_tokens")
"""Of our own parameters, those first whose loss matters least. What the configuration adds goes before."""

# Keywords of JSON schemas that bound values: what they say is checked when an answer is read.
KEYWORDS = frozenset(
    {
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "pattern"),
        *("minItems", "maxItems", "uniqueItems", "minLength", "maxLength", "strict"),
        *("minProperties", "maxProperties", "additionalProperties"),
    }
)

_REFUSES = (
    r"(?:not (?:be )?(?:support|allow|permit|accept|available|implement|recogni[sz]e|compatible|valid)"
    r"|n't (?:support|allow|accept|work)|unsupported|unrecogni[sz]ed|unknown|unexpected|deprecated|disallowed"
    r"|cannot|can not|can only|must|should|only|extra|remove|ignored|forbidden|invalid|illegal|out of range"
    r"|does ?n[o']t|greater than|less than|at (?:most|least)|between|no longer)"
)


def droppable(sent: Mapping[str, Any]) -> list[str]:
    """Return the parameters of a request that may be left out, those first whose loss matters least."""
    added = [name for name in sent if name not in NEEDED and name not in ORDER]
    return [*added, *(name for name in ORDER if name in sent)]


def named(error: ErrorAnswer, sent: Mapping[str, Any]) -> str:
    """Return the parameter of `sent` that an error names and that is missed least; "" when it names none.

    Fields that hold a parameter's name go first; then names in quotes of any kind; then bare ones that stand
    near a word of refusal, for most are ordinary words.
    """
    candidates = droppable(sent)
    parts = {part for param in error.params for part in re.split(r"[^\w]+", param.casefold())}
    if known := [name for name in candidates if name.casefold() in parts]:
        return known[0]
    if parts & {name.casefold() for name in (*ORDER, *NEEDED)}:
        return ""  # it names one that was not sent, or that cannot be left out
    for name in candidates:
        if re.search(rf"[`'\"“‘«(\[{{]{re.escape(name.casefold())}[`'\"”’»)\]}}:=]", error.text):
            return name
    return next((name for name in candidates if _is_refused_in_words(name, error.text)), "")


def _is_refused_in_words(name: str, text: str) -> bool:
    word = rf"(?<![\w.]){re.escape(name.casefold())}(?![\w-])"
    return bool(re.search(rf"{word}.{{0,100}}{_REFUSES}|{_REFUSES}.{{0,60}}{word}", text))


def named_keywords(error: ErrorAnswer, sent: Mapping[str, Any]) -> set[str]:
    """Return the bounding keywords of the schema in `sent` that an error names."""
    return {
        keyword
        for keyword in set(keywords_in(sent))
        if re.search(rf"(?<![a-z]){keyword.casefold()}(?![a-z])", error.text)
    }


def keywords_in(sent: Mapping[str, Any]) -> Iterator[str]:
    """Yield the bounding keywords in the schema of a request; none when it holds none."""
    wanted = sent.get("response_format")
    schema = wanted.get("json_schema") if isinstance(wanted, dict) else None
    yield from _keys(schema) if isinstance(schema, dict) else ()


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key in KEYWORDS:
                yield key
            yield from _keys(item)
    elif isinstance(value, list):
        for item in value:
            yield from _keys(item)


def without_keywords(value: Any, keywords: Sequence[str] | set[str]) -> Any:
    """Return a schema without these keywords, at any depth."""
    if not keywords:
        return value
    if isinstance(value, dict):
        return {k: without_keywords(item, keywords) for k, item in value.items() if k not in keywords}
    if isinstance(value, list):
        return [without_keywords(item, keywords) for item in value]
    return value
