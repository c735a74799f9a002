"""Reservations of questions (dedup): who is first where near-copies are rejected, and what repeats what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any

import orjson
import psycopg

from dlgforge_core.common.questions import normal_form
from dlgforge_core.conversation.outcomes import QuestionRejected, Rejection
from dlgforge_core.store import statements as sql
from dlgforge_core.store.near_duplicates import (
    CROWD,
    Marks,
    band_hashes,
    banding_for,
    crowded_banding_for,
    greatest_distance,
    jaccard,
    marks,
    shingles,
)

# Candidates verified for one question, those with the likest signatures first.
MOST_CANDIDATES = 256

# The weight of one question in the mean of how many share a band: a few odd ones are no crowd.
_WEIGHT = 0.01

# Questions looked at for one: in a crowd about `CROWD` share a band, and some of the longer bands.
_MOST_SHARING = 4096

# How long the lock may be held while its holder does nothing, in seconds. The work in between takes
# milliseconds.
STALL_S = 10.0


@dataclass(frozen=True, slots=True)
class Reservation:
    """Whether a question is its turn's own now; true when it is.

    Otherwise `collides_with` is the normal form of the question that was there before, and `similarity` the
    Jaccard similarity to it.
    """

    accepted: bool
    collides_with: str = ""
    similarity: float = 0.0

    def __bool__(self) -> bool:
        return self.accepted


ACCEPTED = Reservation(True)


class Question:
    """A question of the group: the columns of its operation, its normal form, and what it is found by."""

    def __init__(self, row: Mapping[str, Any], form: str, marks: Marks) -> None:
        self.row = row
        self.form = form
        self.marks = marks
        self.long_bands: list[int] = []
        self.crowded = False

    @cached_property
    def shingles(self) -> frozenset[str]:
        """Made when they are first needed: most questions have no candidate to be compared with."""
        return shingles(self.form)

    def found_by(self) -> dict[str, Any]:
        """Return the row of a look-up, as Postgres reads it."""
        bands = _array([*self.marks.bands, *self.long_bands])
        asked = {key: value for key, value in self.row.items() if key not in ("question", "position")}
        return {**asked, "signature": "x" + self.marks.signature, "bands": bands}

    def kept(self) -> dict[str, Any]:
        """Return the row with what near-copies will be found by."""
        bands = _array(self.long_bands if self.crowded else self.marks.bands)
        found_by = {"signature": "x" + self.marks.signature, "bands": bands}
        return {**self.row, "normal_form": self.form, **found_by}


# Place in the group; whether a question of the same key is this write, repeated, or None without one; how
# many share a band; the normal forms of candidates; and whether questions with longer bands are kept.
Found = tuple[int, bool | None, int, list[str] | None, bool]


class UnlikeQuestions:
    """Reserves questions of a fingerprint that are less than `threshold` similar to every one kept.

    In a transaction of the caller's: `lock`, `find`, `reserve`.
    """

    def __init__(self, fingerprint: str, threshold: float) -> None:
        self._fingerprint = fingerprint
        self._threshold = threshold
        self._banding = banding_for(threshold)
        self._long_banding = crowded_banding_for(threshold)
        self._distance = greatest_distance(threshold)
        self._sketch_distance = greatest_distance(threshold, bits=1)
        self._mean_sharing = 0.0
        self._crowded = False  # whether questions with longer bands are known to be kept

    def prepared(self, rows: Sequence[Mapping[str, Any]]) -> list[Question]:
        """Return the operations of a group with what is needed to compare them."""
        forms = [normal_form(row["question"]) for row in rows]
        found_by = marks(forms, self._banding, self._fingerprint)
        questions = [Question(*parts) for parts in zip(rows, forms, found_by, strict=True)]
        if self._crowded:
            self._lengthen(questions)
        return questions

    async def lock(self, connection: psycopg.AsyncConnection) -> None:
        """Keep other workers' reservations out until the transaction ends."""
        await connection.execute(
            sql.LOCK_QUESTIONS,
            {"fingerprint": self._fingerprint, "stall_ms": round(1000 * STALL_S)},
            prepare=True,
        )

    async def find(
        self, connection: psycopg.AsyncConnection, questions: Sequence[Question]
    ) -> psycopg.AsyncCursor[Found]:
        """Look up what is kept that these questions might collide with."""
        return await connection.execute(
            sql.FIND_CANDIDATES,
            {
                "rows": _json([question.found_by() for question in questions]),
                "fingerprint": self._fingerprint,
                "most": MOST_CANDIDATES,
                "most_sharing": _MOST_SHARING,
                "distance": self._distance,
                "sketch_distance": self._sketch_distance,
            },
            prepare=True,
        )

    async def reserve(
        self, connection: psycopg.AsyncConnection, questions: Sequence[Question], found: Sequence[Found]
    ) -> dict[int, Reservation]:
        """Reserve those that nobody has; the results by `op`, of questions whose worker holds the lease."""
        if not self._crowded and any(crowded for *_, crowded in found):
            self._crowded = True
            self._lengthen(questions)
            found = await (await self.find(connection, questions)).fetchall()
        by_op = {question.row["op"]: question for question in questions}
        results = self._decide(by_op, found)
        unlike = [by_op[op] for op, result in results.items() if result]
        rejected = [_rejected(by_op[op].row, result) for op, result in results.items() if not result]
        if rejected:
            values = {"rows": _json(rejected)}
            await connection.execute(sql.RECORD_OUTCOMES.encode(), values, prepare=True)
        if not unlike:
            return results
        await self._keep_crowds(connection, unlike)
        cursor = await connection.execute(
            sql.RESERVE_UNLIKE_QUESTIONS.encode(),
            {"rows": _json([question.kept() for question in unlike]), "fingerprint": self._fingerprint},
            prepare=True,
        )
        for op, accepted in await cursor.fetchall():
            if not accepted:  # somebody reserved the same question without the lock
                results[op] = Reservation(False, by_op[op].form, 1.0)
        return results

    async def _keep_crowds(self, connection: psycopg.AsyncConnection, unlike: Sequence[Question]) -> None:
        """Give those in a crowd their longer bands, and let look-ups know of the first of them."""
        crowded = [question for question in unlike if question.crowded]
        if not crowded or self._crowded:
            return
        if self._mean_sharing <= CROWD:
            for question in crowded:
                question.crowded = False
            return
        self._lengthen(crowded)
        await connection.execute(sql.NOTE_CROWDED, {"fingerprint": self._fingerprint}, prepare=True)

    def _lengthen(self, questions: Sequence[Question]) -> None:
        forms = [question.form for question in questions]
        hashes = band_hashes(forms, self._long_banding, self._fingerprint)
        for question, bands in zip(questions, hashes, strict=True):
            question.long_bands = bands

    def _decide(self, questions: Mapping[int, Question], found: Sequence[Found]) -> dict[int, Reservation]:
        """Take the questions one after the other, each against what is kept and those taken before it."""
        results: dict[int, Reservation] = {}
        taken: dict[int, list[Question]] = {}
        for op, own, sharing, candidates, _ in sorted(found, key=itemgetter(0)):
            question = questions[op]
            question.crowded = sharing > CROWD
            self._mean_sharing += _WEIGHT * (sharing - self._mean_sharing)
            if own is None:
                kept = [(text, shingles(text)) for text in candidates or ()]
                met = {id(other): other for band in question.marks.bands for other in taken.get(band, ())}
                results[op] = self._compared(
                    question, [*kept, *((other.form, other.shingles) for other in met.values())]
                )
            else:
                results[op] = ACCEPTED if own else Reservation(False, question.form, 1.0)
            if results[op]:
                for band in question.marks.bands:
                    taken.setdefault(band, []).append(question)
        return results

    def _compared(self, question: Question, others: Sequence[tuple[str, frozenset[str]]]) -> Reservation:
        similarity, form = max(
            ((jaccard(question.shingles, pieces), text) for text, pieces in others), default=(0.0, "")
        )
        return Reservation(False, form, similarity) if similarity >= self._threshold else ACCEPTED


def _rejected(row: Mapping[str, Any], result: Reservation) -> dict[str, Any]:
    """Return the row that records a rejected question."""
    outcome = QuestionRejected(
        row["question"], Rejection.ASKED_BEFORE, result.similarity, result.collides_with
    )
    return {**row, "kind": outcome.kind, "data": outcome.to_json()}


def _array(numbers: Sequence[int]) -> str:
    return "{" + ",".join(map(str, numbers)) + "}"


def _json(rows: Sequence[Mapping[str, Any]]) -> str:
    return orjson.dumps(rows).decode()
