"""Reservations of questions (dedup): who is first where near-copies are rejected, and what repeats what.

A group of reservations takes two steps. Without a lock, its candidates are looked for in the worker's index
and compared by their texts. Then one statement keeps what nobody has, questions and log, provided that the
log still ends where it was read to. If it does not, a transaction keeps them, then waits for the lock of the
fingerprint, reads from the log what others have kept meanwhile, compares that as well, and ends with the row
of the log, or is undone. So near-copies never pass each other unseen, and only the reading and the row are
taken one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson
import psycopg

from dlgforge_core.common.questions import normal_form
from dlgforge_core.conversation.outcomes import QuestionRejected, Rejection
from dlgforge_core.store import statements as sql
from dlgforge_core.store.near_duplicates import jaccard, marks_of, shingles
from dlgforge_core.store.near_index import NearIndex, Searched, entries_of
from dlgforge_core.store.question_log import LogRow, QuestionLog

_MANY = 16  # questions that take Postgres longer to write than it takes a worker to read the log
_TEXTS_AT_ONCE = 5000
_TEXTS = """
SELECT question_key, normal_form, dialogue_id, turn_index FROM questions
WHERE fingerprint = %(fingerprint)s AND question_key = ANY(%(keys)s) AND normal_form IS NOT NULL
"""


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


class UndoneError(Exception):
    """A group has to be decided anew; without the operations in `lost`, whose workers have lost the lease."""

    def __init__(self, lost: frozenset[int] = frozenset()) -> None:
        super().__init__(lost)
        self.lost = lost


@dataclass(frozen=True, slots=True)
class Kept:
    """A question that is kept: its key and normal form, and whose it is."""

    key: bytes
    form: str
    dialogue_id: str
    turn_index: int


class Question:
    """A question of the group: the columns of its operation, its normal form, and what was found for it."""

    def __init__(self, row: Mapping[str, Any], form: str) -> None:
        self.row = row
        self.op: int = row["op"]
        self.form = form
        self.key = bytes.fromhex(row["question_key"])
        self.kept: dict[str, Any] = {**row, "normal_form": form}
        """The row that is kept of it."""
        self.own = False  # whether it is kept as this turn's already
        self.written: bool | None = None
        """Whether this transaction has kept it; False if it was kept before, None without a transaction."""
        self.result: Reservation = ACCEPTED
        self._against_kept: Reservation = ACCEPTED

    @cached_property
    def shingles(self) -> frozenset[str]:
        """Made when they are first needed: most questions have no candidate to be compared with."""
        return shingles(self.form)

    def compare(self, kept: Kept, threshold: float) -> None:
        """Compare with a question that is kept; the most similar one is what it collides with.

        Raises UndoneError where it was kept as this turn's between the look and the transaction.
        """
        result = self._against_kept
        mine = (kept.dialogue_id, kept.turn_index) == (self.row["dialogue_id"], self.row["turn_index"])
        if mine and kept.key == self.key and self.written is not None:
            if not self.written:
                raise UndoneError
            return  # its own row, found by another's question that was the same and is no longer kept
        if kept.key == self.key:
            self.own = mine
            result = _most_similar(result, kept.form, 1.0, threshold)
        elif not mine:  # or it is superseded
            result = _most_similar(result, kept.form, jaccard(self.shingles, shingles(kept.form)), threshold)
        self._against_kept = result

    def decide(self, others: Iterable[Question], threshold: float) -> set[int]:
        """Compare with those accepted before it in the group; return the operations it is rejected for."""
        self.result = self._against_kept
        blamed: set[int] = set()
        for other in others if not self.rejected and not self.own else ():
            similarity = jaccard(self.shingles, other.shingles)
            self.result = _most_similar(self.result, other.form, similarity, threshold)
            if similarity >= threshold:
                blamed.add(other.op)
        return blamed

    @property
    def rejected(self) -> bool:
        """Whether it is not to be this turn's own."""
        return not self.own and not self.result

    def outcome(self) -> dict[str, Any]:
        """Return the row that records a rejected question."""
        similarity, collides_with = self.result.similarity, self.result.collides_with
        outcome = QuestionRejected(self.row["question"], Rejection.ASKED_BEFORE, similarity, collides_with)
        return {**self.row, "kind": outcome.kind, "data": outcome.to_json()}


def _most_similar(found: Reservation, form: str, similarity: float, threshold: float) -> Reservation:
    if similarity < threshold or (similarity, found.collides_with) <= (found.similarity, form):
        return found  # of those equally similar the first in order, so that all machines name the same
    return Reservation(False, form, similarity)


class Group:
    """Questions that are reserved together, but for the operations in `lost`, and their candidates."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], lost: frozenset[int], threshold: float) -> None:
        self.questions = [
            Question(row, normal_form(row["question"])) for row in rows if row["op"] not in lost
        ]
        marks = marks_of([question.form for question in self.questions])
        self.entries = entries_of([question.key for question in self.questions], marks)
        self.candidates: dict[int, set[bytes]] = {}
        """Keys of what is still to be compared, by place in the group."""
        self.blamed: frozenset[int] = frozenset()
        """The operations that others of the group are rejected for."""
        self._searched = Searched(marks, threshold)
        self._index: NearIndex | None = None
        self._seen = 0

    def look_up(self, index: NearIndex) -> None:
        """Find candidates among what is new in the index since the last time."""
        since = self._seen if index is self._index else 0
        for place, found in index.find(self._searched, since).items():
            self.candidates.setdefault(place, set()).update(found)
        self._index, self._seen = index, index.size

    @property
    def rejected(self) -> list[dict[str, Any]]:
        """Return the rows that record the questions that are rejected."""
        return [question.outcome() for question in self.questions if question.rejected]

    @property
    def unlike(self) -> list[dict[str, Any]]:
        """Return the rows of the other questions."""
        return [question.kept for question in self.questions if not question.rejected]

    def keys(self) -> list[bytes]:
        """Return the keys of all that is still to be compared."""
        return list(set().union(*self.candidates.values()))

    def compare(self, kept: Mapping[bytes, Kept], threshold: float) -> None:
        """Compare with the candidates' texts; those that are no longer kept are in nobody's way."""
        for place, keys in self.candidates.items():
            for key in keys & kept.keys():
                self.questions[place].compare(kept[key], threshold)

    def decide(self, threshold: float) -> None:
        """Take the questions one after the other, each against those accepted before it."""
        blamed: set[int] = set()
        taken: dict[int, list[Question]] = {}
        for question, bands in zip(self.questions, self._searched.shared_bands, strict=True):
            met = {other.op: other for band in bands if band in taken for other in taken[band]}
            blamed |= question.decide(met.values(), threshold)
            if not question.rejected:
                for band in bands:
                    taken.setdefault(band, []).append(question)
        self.blamed = frozenset(blamed)

    def new_entries(self) -> bytes:
        """Return what is appended to the log of those accepted that are not kept yet."""
        new = [not question.rejected and not question.own for question in self.questions]
        return self.entries[new].tobytes()


class Answer:
    """The operations that a statement gives back, each with a result; none where it was not sent."""

    def __init__(self) -> None:
        self._cursor: psycopg.AsyncCursor[tuple[int, Any]] | None = None
        self._rows: dict[int, Any] = {}

    async def send(
        self,
        connection: psycopg.AsyncConnection,
        statement: str,
        rows: Sequence[Mapping[str, Any]],
        **of: object,
    ) -> None:
        """Send the statement, where there are rows for it."""
        if rows:
            values = {"rows": orjson.dumps(rows).decode(), **of}
            self._cursor = await connection.execute(statement.encode(), values, prepare=True)

    async def by_op(self) -> dict[int, Any]:
        """Return the results by operation; awaits them."""
        if self._cursor is not None:
            self._rows, self._cursor = dict(await self._cursor.fetchall()), None
        return self._rows


class Sent:
    """What is written of a group: those rejected, those reserved, and the row of the log."""

    def __init__(self, group: Group) -> None:
        self.questions = {question.op: question for question in group.questions}
        self.rejected = Answer()
        self.reserved = Answer()
        self.row: LogRow | None = None


class UnlikeQuestions:
    """Reserves questions of a fingerprint that are less than `threshold` similar to every one kept."""

    def __init__(self, fingerprint: str, threshold: float) -> None:
        self._of = {"fingerprint": fingerprint}
        self._threshold = threshold
        self._log = QuestionLog(fingerprint, threshold)

    async def reserve(
        self, connection: psycopg.AsyncConnection, rows: Sequence[Mapping[str, Any]]
    ) -> dict[int, Reservation]:
        """Reserve the questions of `rows`; returns the results by operation, of those with a lease."""
        lost: frozenset[int] = frozenset()
        while True:
            group = await self._look(connection, rows, lost)
            try:
                sent = await self._at_once(connection, group) or await self._in_turn(connection, group)
                return await self._results(sent)
            except UndoneError as error:
                lost |= error.lost

    async def _look(
        self,
        connection: psycopg.AsyncConnection,
        rows: Sequence[Mapping[str, Any]],
        lost: frozenset[int],
    ) -> Group:
        """Return a group, decided by what this worker knows."""
        await self._log.begin(connection)
        group = Group(rows, lost, self._threshold)
        if self._log.others_append:
            await self._log.read(connection)
        group.look_up(self._log.index)
        await self._compare(connection, group)
        group.decide(self._threshold)
        return group

    async def _at_once(self, connection: psycopg.AsyncConnection, group: Group) -> Sent | None:
        """Keep a group in one statement; None where others have the lock, or have kept questions since."""
        if group.blamed:  # which the transaction has to be undone for, if their leases are lost
            return None
        if self._log.others_append and len(group.questions) > _MANY:
            return None  # or others would wait for as long as it takes Postgres to write them
        sent = Sent(group)
        if new := group.new_entries():
            sent.row = self._log.next_row(new)
            of = {**self._of, **self._log.values_of(sent.row), "last_tag": self._log.tag}
            try:
                await sent.reserved.send(connection, sql.RESERVE_UNLIKE_QUESTIONS_AT_ONCE, group.unlike, **of)
            except psycopg.errors.LockNotAvailable:  # another one has written the same question just now
                return None
            if not (await sent.reserved.by_op()).pop(sql.KEPT):
                return None
        else:
            await sent.reserved.send(connection, sql.RESERVE_UNLIKE_QUESTIONS, group.unlike, **self._of)
        await sent.rejected.send(connection, sql.RECORD_OUTCOMES, group.rejected)
        return sent

    async def _in_turn(self, connection: psycopg.AsyncConnection, group: Group) -> Sent:
        """Keep a group, wait for the lock, and see that others have kept nothing like it. Raises UndoneError.

        It is kept first, because that is what takes time, and undone where it should not have been.
        """
        sent = Sent(group)
        try:
            async with connection.pipeline() as pipeline, connection.transaction():
                await sent.rejected.send(connection, sql.RECORD_OUTCOMES, group.rejected)
                await sent.reserved.send(connection, sql.RESERVE_UNLIKE_QUESTIONS, group.unlike, **self._of)
                await self._log.lock(connection)
                since = await self._log.send_read(connection)
                await pipeline.sync()  # without it the server could not tell who stands still now
                written = await sent.reserved.by_op()
                if lost := group.blamed - written.keys():
                    raise UndoneError(lost)
                for question in group.questions:
                    question.written = written.get(question.op, False)
                await self._with_lock(connection, pipeline, group, await since.fetchall())
                if new := group.new_entries():
                    sent.row = self._log.next_row(new)
                    await self._log.append(connection, sent.row)
                return sent
        except psycopg.errors.IdleInTransactionSessionTimeout as error:
            # This process stood still with the lock; the connection is gone, and the group is written again.
            raise psycopg.OperationalError(str(error)) from None

    async def _with_lock(
        self,
        connection: psycopg.AsyncConnection,
        pipeline: psycopg.AsyncPipeline,
        group: Group,
        since: Sequence[LogRow],
    ) -> None:
        """Compare a group that is written with what others have kept since. Raises UndoneError."""
        read_on = await self._log.take(connection, since)
        group.look_up(self._log.index)
        compared = await self._compare(connection, group)
        if read_on or compared:
            await pipeline.sync()  # or the server would not cut a holder of the lock off that stands still
        if compared:
            decided = group.rejected
            group.decide(self._threshold)
            if group.rejected != decided:
                raise UndoneError

    async def _results(self, sent: Sent) -> dict[int, Reservation]:
        """Return the results by operation, once they are committed."""
        if sent.row is not None:
            self._log.appended(sent.row)
        results = {op: sent.questions[op].result for op in await sent.rejected.by_op()}
        for op, accepted in (await sent.reserved.by_op()).items():
            # If not, the same question is kept by one who does not reject near-copies.
            results[op] = ACCEPTED if accepted else Reservation(False, sent.questions[op].form, 1.0)
        return results

    async def _compare(self, connection: psycopg.AsyncConnection, group: Group) -> bool:
        """Compare a group with the texts of its candidates; whether it had any."""
        if not group.candidates:
            return False
        keys = group.keys()
        for begin in range(0, len(keys), _TEXTS_AT_ONCE):
            values = {**self._of, "keys": keys[begin : begin + _TEXTS_AT_ONCE]}
            cursor = await connection.execute(_TEXTS, values, prepare=True, binary=True)
            group.compare({row[0]: Kept(*row) for row in await cursor.fetchall()}, self._threshold)
        group.candidates = {}
        return True
