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
    Marks,
    banding_for,
    greatest_distance,
    jaccard,
    marks,
    shingles,
)

# Candidates verified for one question. Unrelated ones are rarely among them; only in a dataset of very like
# questions could a near-copy stand behind so many.
MOST_CANDIDATES = 256

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

    @cached_property
    def shingles(self) -> frozenset[str]:
        """Made when they are first needed: most questions have no candidate to be compared with."""
        return shingles(self.form)

    def with_marks(self) -> dict[str, Any]:
        """Return the row, with what near-copies are found by, as Postgres writes it."""
        bands = "{" + ",".join(map(str, self.marks.bands)) + "}"
        return {**self.row, "normal_form": self.form, "sketch": "x" + self.marks.sketch, "bands": bands}


# Place in the group; whether a question of the same key is this write, repeated, or None without one; and
# the normal forms that share a band.
Found = tuple[int, bool | None, list[str]]


class UnlikeQuestions:
    """Reserves questions of a fingerprint that are less than `threshold` similar to every one kept.

    In a transaction of the caller's: `lock`, `find`, `reserve`.
    """

    def __init__(self, fingerprint: str, threshold: float) -> None:
        self._fingerprint = fingerprint
        self._threshold = threshold
        self._banding = banding_for(threshold)
        self._distance = greatest_distance(threshold)

    def prepared(self, rows: Sequence[Mapping[str, Any]]) -> list[Question]:
        """Return the operations of a group with what is needed to compare them."""
        forms = [normal_form(row["question"]) for row in rows]
        found_by = marks(forms, self._banding, self._fingerprint)
        return [Question(*parts) for parts in zip(rows, forms, found_by, strict=True)]

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
                "rows": _json(questions),
                "fingerprint": self._fingerprint,
                "most": MOST_CANDIDATES,
                "distance": self._distance,
            },
            prepare=True,
        )

    async def reserve(
        self, connection: psycopg.AsyncConnection, questions: Sequence[Question], found: Sequence[Found]
    ) -> dict[int, Reservation]:
        """Reserve those that nobody has; the results by `op`, of questions whose worker holds the lease."""
        by_op = {question.row["op"]: question for question in questions}
        results = self._decide(by_op, found)
        unlike = [by_op[op] for op, result in results.items() if result]
        rejected = [_rejected(by_op[op].row, result) for op, result in results.items() if not result]
        if rejected:
            rows = orjson.dumps(rejected).decode()
            await connection.execute(sql.RECORD_OUTCOMES.encode(), {"rows": rows}, prepare=True)
        if not unlike:
            return results
        cursor = await connection.execute(
            sql.RESERVE_UNLIKE_QUESTIONS.encode(),
            {"rows": _json(unlike), "fingerprint": self._fingerprint},
            prepare=True,
        )
        for op, accepted in await cursor.fetchall():
            if not accepted:  # somebody reserved the same question without the lock
                results[op] = Reservation(False, by_op[op].form, 1.0)
        return results

    def _decide(self, questions: Mapping[int, Question], found: Sequence[Found]) -> dict[int, Reservation]:
        """Take the questions one after the other, each against what is kept and those taken before it."""
        results: dict[int, Reservation] = {}
        taken: dict[int, list[Question]] = {}
        for op, own, candidates in sorted(found, key=itemgetter(0)):
            question = questions[op]
            if own is None:
                kept = [(text, shingles(text)) for text in candidates]
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


def _json(questions: Sequence[Question]) -> str:
    return orjson.dumps([question.with_marks() for question in questions]).decode()
