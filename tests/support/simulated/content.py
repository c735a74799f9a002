"""What the simulated endpoint says: deterministic text, unique for every key."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from json import JSONDecodeError, JSONDecoder
from typing import Any


def _words(text: str) -> list[str]:
    return text.split()


_ADJECTIVES = _words(
    "stale warm cold busy idle shared local remote small large early late quiet noisy dense sparse "
    "short long strict loose plain mixed broken fresh hidden public private stable fragile narrow "
    "wide shallow deep sorted random cheap costly spare extra partial whole single double nested flat "
    "linear circular recent ancient common rare clean dirty signed open closed simple complex modern "
    "legacy regional global daily weekly "
)
_NOUNS = _words(
    "indexes caches queues replicas tables buffers shards leases tokens workers gardens rivers "
    "bridges markets recipes sensors engines harbours lessons budgets forests libraries contracts "
    "schedules ledgers batches streams routers kernels drivers packets tickets invoices patients "
    "students teachers farmers pilots sailors bakers clinics museums theatres stations factories "
    "laboratories orchards meadows glaciers islands deserts volcanoes planets comets molecules "
    "proteins enzymes circuits magnets batteries turbines windows ladders anchors "
)
_VERBS = _words(
    "slow block feed split merge follow replace mirror shelter drain cool heat move guard limit join "
    "hide reveal repeat resist absorb balance carry check clear copy count cover cross divide double "
    "drive enter escape exceed extend favour fill filter finish fix force forget form gather govern "
    "group grow handle help hold improve include invite keep lead learn leave lift link mark match "
    "measure mend "
)
# "stale indexes", 12 bits of a key in one look-up.
_PAIRS = [f"{adjective} {noun}" for adjective in _ADJECTIVES for noun in _NOUNS]
assert len(_PAIRS) == 4096
assert len(_VERBS) == 64

QUESTION_WORDS = 14
_GOLDEN = 0.6180339887498949
_WORD_64 = 0xFFFFFFFFFFFFFFFF


class Spread:
    """Numbers between 0 and 1 that fall into any interval in near exact proportion to its length."""

    def __init__(self, seed: int) -> None:
        self._offset = unit(mix(seed, 0x5EED))
        self._count = 0

    def next(self) -> float:
        """Return the next number of the golden ratio's additive sequence."""
        self._count += 1
        return (self._offset + self._count * _GOLDEN) % 1.0


def mix(a: int, b: int) -> int:
    """64 well mixed bits of two numbers; the same on every machine."""
    packed = (a & _WORD_64).to_bytes(8, "little") + (b & _WORD_64).to_bytes(8, "little")
    return int.from_bytes(blake2b(packed, digest_size=8).digest(), "little")


def unit(bits: int) -> float:
    """64 bits as a number between 0 and 1, both excluded."""
    return ((bits >> 11) + 0.5) / (1 << 53)


def body_key(body: bytes, seed: int) -> int:
    """Return a stable 64-bit hash of a request body."""
    key = (seed & _WORD_64).to_bytes(8, "little")
    return int.from_bytes(blake2b(body, digest_size=8, key=key).digest(), "little")


def _clause(bits: int) -> str:
    return f"{_PAIRS[bits & 4095]} {_VERBS[bits >> 12 & 63]} {_PAIRS[bits >> 18 & 4095]}"


def question(key: int, words: Sequence[str] = ()) -> str:
    """Return a question of 12 words; no two keys give the same but for 60-bit collisions.

    With `words` it is 14 of these.
    """
    if words:
        return " ".join(random.Random(key).choices(words, k=QUESTION_WORDS))
    bits = mix(key, 1)
    return f"Could {_clause(bits)} while {_clause(bits >> 30)}?"


def answer(key: int, words: int) -> str:
    """Sentences of five words each, `words` words in all, the last sentence being cut to fit."""
    sentences: list[str] = []
    bits, left = 0, 0
    while len(sentences) * 5 < words:
        if not left:
            digest = blake2b(
                key.to_bytes(8, "little"), digest_size=60, salt=len(sentences).to_bytes(4, "little")
            )
            bits, left = int.from_bytes(digest.digest(), "little"), 16
        sentences.append(_clause(bits).capitalize())
        bits, left = bits >> 30, left - 1
    if excess := len(sentences) * 5 - words:
        sentences[-1] = sentences[-1].rsplit(" ", excess)[0]
    return ". ".join(sentences) + "."


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a chat message, whose content may be a string, a list of parts, or absent."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""


_FORM = re.compile(r"^<([^<>/\n]{1,80})>…</\1>$", re.MULTILINE)


def form_in(messages: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the names of a form between tags that the latest message with one asks for."""
    for message in reversed(messages):
        if "…</" in (text := text_of(message)):
            return tuple(_FORM.findall(text))
    return ()


def in_form(text: str, names: Sequence[str]) -> str:
    """Return a text as the last part of a form."""
    parts = [*((name, f"Something on {name}.") for name in names[:-1]), (names[-1], text)]
    return "\n".join(f"<{name}>\n{part}\n</{name}>" for name, part in parts)


def schema_in_text(text: str) -> Mapping[str, Any] | None:
    """Return the first JSON schema of an object written out in `text`, or None."""
    decoder = JSONDecoder()
    for start in re.finditer(r"\{", text):
        try:
            value, _ = decoder.raw_decode(text, start.start())
        except JSONDecodeError:
            continue
        if isinstance(value, dict) and isinstance(value.get("properties"), dict):
            return value
    return None
