"""What the simulated endpoint remembers between calls, all of it bounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.support.simulated.content import text_of


class PrefixLookup(NamedTuple):
    """Words of a prompt, how many of them were seen before, and what identifies its conversation."""

    prompt_tokens: int
    cached_tokens: int
    conversation: int


class PrefixCache:
    """Message prefixes seen before, as a prefix cache of a model server would find them again.

    A prompt hits up to the longest run of whole messages, from its start, that an earlier prompt for the
    same model began with. The least recently used prefixes are dropped.
    """

    def __init__(self, max_entries: int) -> None:
        self.max_entries = max_entries
        self._tokens: dict[int, int] = {}  # hash of a prefix -> its words; in order of use

    def __len__(self) -> int:
        return len(self._tokens)

    def look_up(self, model: str, messages: list[Mapping[str, Any]]) -> PrefixLookup:
        """How much of a prompt was seen before; from now on all of it was."""
        known, prefix, total, cached, hitting = self._tokens, hash(model), 0, 0, True
        conversation = 0
        for message in messages:
            content, role = message.get("content"), message.get("role")
            if not isinstance(content, str):
                content = text_of(message)
            prefix = hash((prefix, role, content))
            seen = known.pop(prefix, None)
            if seen is not None and hitting:
                total = cached = seen  # words of a prefix seen before need no counting
            else:
                hitting = False
                total += len(content.split())
            known[prefix] = total
            if not conversation and role not in ("system", "developer"):
                conversation = prefix
        while len(known) > self.max_entries:
            del known[next(iter(known))]
        return PrefixLookup(total, cached, conversation or prefix)


class Occurrences:
    """How often a key came up, for the keys that came up lately."""

    def __init__(self, max_entries: int = 65_536) -> None:
        self._max_entries = max_entries
        self._counts: dict[int, int] = {}

    def add(self, key: int) -> int:
        """Count `key` once more and return how often it came up before."""
        before = self._counts.pop(key, 0)
        self._counts[key] = before + 1
        if len(self._counts) > self._max_entries:
            del self._counts[next(iter(self._counts))]
        return before


class Ring:
    """The last `size` texts, any of which can be had at once."""

    def __init__(self, size: int = 1024) -> None:
        self._size = size
        self._texts: list[str] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str) -> None:
        """Remember `text`, forgetting the oldest one when full."""
        if len(self._texts) < self._size:
            self._texts.append(text)
        else:
            self._texts[self._next] = text
            self._next = (self._next + 1) % self._size

    def pick(self, key: int) -> str:
        """One of the remembered texts, chosen by `key`. Raises ZeroDivisionError when there is none."""
        return self._texts[key % len(self._texts)]
