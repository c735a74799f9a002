"""Which split a dialogue belongs to: no seed topic in two of them, and the same answer every time.

Seed topics that share an id (the same topic in another language) or are about the same subject in the same
language make a group, and a group is in one split. Groups stand in the order of a keyed hash, and cuts in
that order divide them. Each cut is where the hash alone would put it, as long as every share is within a
hundredth of what was asked; in small sets, where chance is coarser than that, it is moved to the nearest
place that fits best. So

- more dialogues on topics that are there already move nothing;
- more topics move few: in sets of some ten thousand none, in smaller ones those next to a cut;
- cuts are met to within half a group, counted in seed topics, not in dialogues or turns; but every split has
  a group, as long as there are groups enough.
"""

from __future__ import annotations

import bisect
import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

from dlgforge_core.sources import SeedTopic

_KEY = b"dlgforge-splits-1"
_SPAN = 2**64
_TOLERANCE = 0.01


def keyed_hash(text: str) -> int:
    """64 bits of a keyed hash of `text`, the same on any machine."""
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=_KEY).digest())


class SplitAssigner:
    """Give it every topic with `add`, then ask it with `split_of_id`. Memory grows with the topics alone."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        self._names = list(shares)
        self._shares = list(shares.values())
        self._parents: dict[int, int] = {}
        self._members: dict[int, set[int]] = {}  # of a seed id: the topics under it
        self._cuts: list[int] | None = None

    def add(self, topic: SeedTopic) -> None:
        """Make `topic` known; the order of the calls does not matter."""
        by_id, by_subject = keyed_hash(f"id\0{topic.id}"), keyed_hash(_subject(topic))
        self._members.setdefault(by_id, set()).add(by_subject)
        self._union(by_id, by_subject)
        self._cuts = None

    def split_of_id(self, topic_id: str) -> str:
        """Return the split of the topics with an id. Raises KeyError where none was added."""
        if self._cuts is None:
            self._cuts = self._make_cuts()
        group = self._find(keyed_hash(f"id\0{topic_id}"))
        return self._names[bisect.bisect_right(self._cuts, _position(group))]

    def _find(self, node: int) -> int:
        while (parent := self._parents[node]) != node:
            self._parents[node] = node = self._parents[parent]
        return node

    def _union(self, a: int, b: int) -> None:
        for node in (a, b):
            self._parents.setdefault(node, node)
        # The least hash stands for its group: who came first does not matter.
        low, high = sorted((self._find(a), self._find(b)))
        self._parents[high] = low

    def _make_cuts(self) -> list[int]:
        """Return the hash at which each split but the first begins."""
        sizes: dict[int, int] = {}
        for by_id, subjects in self._members.items():
            group = _position(self._find(by_id))
            sizes[group] = sizes.get(group, 0) + len(subjects)
        groups = sorted(sizes)
        upto = [0, *accumulate(sizes[group] for group in groups)]
        ends = _ends(groups, upto, self._shares)
        return [groups[end] if end < len(groups) else _SPAN for end in ends]


def _position(group: int) -> int:
    # Hashed again: the least of several hashes is not spread evenly.
    return keyed_hash(f"group\0{group}")


def _ends(groups: Sequence[int], upto: Sequence[int], shares: Sequence[float]) -> list[int]:
    """How many groups, in order, come before the end of each split but the last."""
    n, total = len(groups), upto[-1]
    borders = list(accumulate(shares))[:-1]
    by_hash = [bisect.bisect_left(groups, int(border * _SPAN)) for border in borders]
    bounds = [0, *by_hash, n]
    parts = [upto[b] - upto[a] for a, b in pairwise(bounds)]
    if all(
        part and abs(part / total - share) <= _TOLERANCE for part, share in zip(parts, shares, strict=True)
    ):
        return by_hash
    ends: list[int] = []
    for i, border in enumerate(borders, start=1):
        end = _nearest(upto, border * total)
        if n >= len(shares):  # each split its group, those to come included
            end = min(max(end, (ends[-1] if ends else 0) + 1), n - (len(shares) - i))
        ends.append(end)
    return ends


def _nearest(upto: Sequence[int], wanted: float) -> int:
    right = bisect.bisect_left(upto, wanted)
    if right == 0:
        return 0
    if right == len(upto):
        return right - 1
    return right if upto[right] - wanted <= wanted - upto[right - 1] else right - 1


def _subject(topic: SeedTopic) -> str:
    text = " ".join(unicodedata.normalize("NFKC", topic.topic).casefold().split())
    # Those on no topic in words are told apart by their ids: a document's, or a conversation's.
    return f"topic\0{topic.language}\0{text}" if text else f"seed\0{topic.id}"
