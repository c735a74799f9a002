"""The run state as one worker sees it: claim dialogues, make every answer durable, keep the lease."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from dlgforge_core.common.questions import normal_form
from dlgforge_core.conversation.acceptance import NONE_LACKING
from dlgforge_core.conversation.outcomes import Outcome, Unjudged, outcome_from
from dlgforge_core.conversation.state import State, fold
from dlgforge_core.database.connection import AsyncConnection
from dlgforge_core.database.database import Database
from dlgforge_core.database.group_writer import GroupWriter
from dlgforge_core.dialogue import DialoguePlan, DropReason, Ending, Turn
from dlgforge_core.errors import StoreError, UnstorableError
from dlgforge_core.store import statements as sql
from dlgforge_core.store import writes
from dlgforge_core.store.lease import Lease
from dlgforge_core.store.reservations import ACCEPTED, Reservation, UnlikeQuestions
from dlgforge_core.verdicts import GoalVerdict, Judgement

# How long writes gather while every call slot is taken and calls wait: the delay costs nothing then.
_LINGER_S = 0.02


@dataclass(frozen=True, slots=True)
class Claim:
    """A dialogue leased to this worker, and its state: what was committed and recorded of it before."""

    plan: DialoguePlan
    state: State


class WorkerStore:
    """One worker's side of the run state; an asynchronous context manager.

    Two connections: one holds the worker's lock and does claims and heartbeats, the other writes groups.
    A connection that breaks is opened again for up to `patience_s`; every write can be repeated, because
    it is keyed by dialogue, turn and worker. Then StoreError. `similarity_threshold` is the Jaccard
    similarity from which questions count as near-copies; at 1 only exact repeats are rejected. `attempts`
    are those at each sample; at 1 no dialogue is replaced.
    """

    def __init__(
        self,
        database: Database,
        *,
        run_id: str,
        fingerprint: str,
        lease_s: float,
        patience_s: float = 60.0,
        max_dialogues: int | None = None,
        setup: str = "",
        similarity_threshold: float = 1.0,
        attempts: int = 1,
    ) -> None:
        self.write_is_awaited: Callable[[], bool] = lambda: True
        """Whether somebody waits for the next write; if not, writes gather a little longer."""
        self.lease = Lease(lease_s)
        """Whether calls may be made for the dialogues that are claimed."""
        self._run_id = run_id
        self._run = {"fingerprint": fingerprint, "attempts": attempts}
        self._lease_s = lease_s
        self._max_dialogues = max_dialogues
        self._setup = setup
        self._unlike = (
            UnlikeQuestions(fingerprint, similarity_threshold) if similarity_threshold < 1 else None
        )
        self._worker_id = 0
        self._locked = False
        self._relock: asyncio.Task[None] | None = None
        name, doubt = "dlgforge worker", self.lease.doubt
        self._control = database.reconnecting_async(name, patience_s, self._control_opened, doubt)
        self._writing = database.reconnecting_async(name, patience_s, self._writing_opened, doubt)
        self.lease.look = self._look
        self._writer: GroupWriter[writes.Write] = GroupWriter(self._write_group, self._linger_s)

    @property
    def worker_id(self) -> int:
        """This worker's number in the table `workers`."""
        return self._worker_id

    @property
    def locked(self) -> bool:
        """Whether this worker's lock is held: without it only the lease keeps others away."""
        return self._locked

    async def __aenter__(self) -> WorkerStore:
        await self.register()
        self._writer.start()
        return self

    async def register(self) -> None:
        """Become a worker of the run, under a new number; the start, or the way on after a lost lease."""

        async def run(connection: AsyncConnection) -> tuple[int, bool]:
            asked_at = self.lease.now()
            cursor = await connection.execute(
                sql.REGISTER_WORKER,
                {
                    "run": self._run_id,
                    "host": socket.gethostname(),
                    "pid": os.getpid(),
                    "lease": self._lease_s,
                },
            )
            row = await cursor.fetchone()
            assert row is not None
            self.lease.renewed(asked_at)
            return int(row[0]), bool(row[1])

        self._worker_id, self._locked = await self._control.run(run)

    async def __aexit__(self, *exc: object) -> None:
        await self._writer.close()
        if self._relock is not None:
            await asyncio.gather(self._relock, return_exceptions=True)
        try:
            await self._control.run(self._end)
        finally:
            for connection in (self._control, self._writing):
                await connection.aclose()

    # Leases

    async def claim(self, limit: int) -> list[Claim]:
        """Lease up to `limit` free dialogues of the run, those with most turns first.

        Where there are fewer, also finished ones that are to be given the verdicts they lack.
        """

        async def run(connection: AsyncConnection) -> list[Claim]:
            limited = self._max_dialogues is not None
            values = {"run": self._run_id, "limit": limit, "me": self._worker_id}
            async with connection.transaction():
                if limited:
                    await connection.execute(sql.LOCK_CLAIMS, {"run": self._run_id})
                cursor = await connection.execute(
                    sql.claim(limited=limited), {**values, "max_dialogues": self._max_dialogues}
                )
            rows = await cursor.fetchall()
            if len(rows) < limit:
                cursor = await connection.execute(sql.CLAIM_UNJUDGED, {**values, "limit": limit - len(rows)})
                rows += await cursor.fetchall()
            return [_claim_from_row(row) for row in rows]

        return await self._control.run(run)

    async def heartbeat(self, stats: Mapping[str, Any]) -> bool:
        """Renew the lease and publish what was counted; False when the lease had been lost."""

        async def run(connection: AsyncConnection) -> bool:
            asked_at = self.lease.now()
            cursor = await connection.execute(
                sql.HEARTBEAT,
                {"me": self._worker_id, "lease": self._lease_s, "stats": _stats_json(stats)},
            )
            await self._take_lock(connection)
            if cursor.rowcount == 1:
                self.lease.renewed(asked_at)
            return cursor.rowcount == 1

        return await self._control.run(run)

    async def take_over(self) -> int:
        """Free the dialogues of workers that are dead or whose lease expired; returns how many."""

        async def run(connection: AsyncConnection) -> int:
            cursor = await connection.execute(sql.TAKE_OVER, {"me": self._worker_id})
            row = await cursor.fetchone()
            return int(row[0]) if row else 0

        return await self._control.run(run)

    async def unfinished(self) -> int:
        """How many dialogues of the run are neither finished nor dropped, or are to be judged again."""
        return (await self._counts())[0]

    async def finished(self) -> int:
        """How many dialogues of the run are finished."""
        return (await self._counts())[1]

    async def has_verdict(self) -> bool:
        """Whether the judge has ever given a verdict in this run, whoever asked for it."""

        async def run(connection: AsyncConnection) -> bool:
            row = await (await connection.execute(sql.HAS_VERDICT, {"run": self._run_id})).fetchone()
            return bool(row and row[0])

        return await self._control.run(run)

    async def take_over_and_count_tokens(self) -> int:
        """`take_over`, then the tokens, in and out, that the run's other workers have published."""
        await self.take_over()

        async def run(connection: AsyncConnection) -> int:
            cursor = await connection.execute(sql.TOKENS_USED, {"run": self._run_id, "me": self._worker_id})
            row = await cursor.fetchone()
            return int(row[0]) if row else 0

        return await self._control.run(run)

    async def _counts(self) -> tuple[int, int]:
        async def run(connection: AsyncConnection) -> tuple[int, int]:
            cursor = await connection.execute(sql.COUNTS, {"run": self._run_id})
            row = await cursor.fetchone()
            assert row is not None
            return int(row[0]), int(row[1])

        return await self._control.run(run)

    # Writes of one dialogue; each returns when the write is durable. All raise LeaseLostError when another
    # worker has taken the dialogue over.

    async def reserve(
        self, dialogue_id: str, turn_index: int, question: str, position: int = 0
    ) -> Reservation:
        """Make this question this turn's own; rejected when it, or a near-copy, was asked before.

        Either is recorded as the turn's outcome at `position`.
        """
        result = await self._writer.submit(
            writes.ReserveQuestion(self._worker_id, dialogue_id, turn_index, position, question)
        )
        if isinstance(result, Reservation):
            return result
        return ACCEPTED if result else Reservation(False, normal_form(question), 1.0)

    async def record(self, dialogue_id: str, turn_index: int, position: int, outcome: Outcome) -> None:
        """Keep an outcome of the turn in progress, at its position among them."""
        await self._writer.submit(
            writes.RecordOutcome(self._worker_id, dialogue_id, turn_index, position, outcome)
        )

    async def commit_turn(
        self,
        dialogue_id: str,
        turn: Turn,
        *,
        final: bool,
        judgement: Judgement | None = None,
        unjudged: Sequence[Unjudged] = (),
        shortcomings: Mapping[str, str] = NONE_LACKING,
        goal: GoalVerdict | None = None,
    ) -> None:
        """Keep a turn, and fold its outcomes away; with `final` the dialogue is finished.

        With `shortcomings` it is not accepted, and its spare is opened.
        """
        me = self._worker_id
        await self._writer.submit(
            writes.CommitTurn(me, dialogue_id, turn, final, judgement, unjudged, shortcomings, goal)
        )

    async def finish(
        self,
        dialogue_id: str,
        ended_by: Ending,
        *,
        judgement: Judgement | None = None,
        goal: GoalVerdict | None = None,
        unjudged: Sequence[Unjudged] = (),
        shortcomings: Mapping[str, str] = NONE_LACKING,
    ) -> None:
        """Finish a dialogue that ends before another turn, and fold its outcomes away."""
        me = self._worker_id
        await self._writer.submit(
            writes.FinishDialogue(me, dialogue_id, ended_by, judgement, goal, unjudged, shortcomings)
        )

    async def amend(
        self,
        dialogue_id: str,
        judgements: Mapping[int | None, Judgement],
        unjudged: Sequence[Unjudged] = (),
        goal: GoalVerdict | None = None,
    ) -> None:
        """Keep verdicts, by turn index or None, that a finished dialogue lacked, and give it back."""
        await self._writer.submit(
            writes.AmendDialogue(self._worker_id, dialogue_id, judgements, unjudged, goal)
        )

    async def drop(self, dialogue_id: str, reason: DropReason, detail: str) -> None:
        """Give a dialogue up, with the reason; its questions are free again, and its spare is opened."""
        await self._writer.submit(
            writes.DropDialogue(self._worker_id, dialogue_id, reason, detail[:2000], self._setup)
        )

    def _linger_s(self) -> float:
        return 0.0 if self.write_is_awaited() else _LINGER_S

    async def _write_group(self, ops: Sequence[writes.Write]) -> Sequence[object]:
        async def run(connection: AsyncConnection) -> Sequence[object]:
            return await writes.execute(connection, self._run, ops, self._unlike)

        self.lease.writing(True)
        try:
            return await self._writing.run(run)
        except UnstorableError:
            if len(ops) == 1:
                raise
            # One bad value must not fail its neighbours: find it by writing each alone.
            return [(await self._each_alone(op)) for op in ops]
        finally:
            self.lease.writing(False)

    async def _each_alone(self, op: writes.Write) -> object:
        try:
            return (await self._write_group([op]))[0]
        except UnstorableError as error:
            return error

    # Connections

    async def _take_lock(self, connection: AsyncConnection) -> None:
        """Hold this worker's lock.

        Tried, not waited for: after a broken connection the server may still keep the old session for a
        while, and the lease's expiry holds meanwhile.
        """
        if self._locked:
            return
        await connection.execute(sql.NOTE_LOST_LOCKS)
        cursor = await connection.execute(sql.TRY_WORKER_LOCK, {"me": self._worker_id})
        row = await cursor.fetchone()
        self._locked = bool(row and row[0])

    async def _take_lock_again(self) -> None:
        with contextlib.suppress(StoreError):  # the next heartbeat tries again, and tells how it ends
            await self._control.run(self._take_lock)

    def _look(self) -> None:
        self._control.look()
        self._writing.look()

    async def _end(self, connection: AsyncConnection) -> None:
        await connection.execute(sql.END_WORKER, {"me": self._worker_id})

    async def _control_opened(self, connection: AsyncConnection, again: bool) -> None:
        if self._worker_id:  # the lock went with the connection before
            self._locked = False
            await self._take_lock(connection)

    async def _writing_opened(self, connection: AsyncConnection, again: bool) -> None:
        await connection.execute(sql.BY_KEY_ONLY)
        if again:  # perhaps the other one broke as well, unnoticed
            self._locked = False
            self._relock = asyncio.create_task(self._take_lock_again())


def _claim_from_row(row: Sequence[Any]) -> Claim:
    plan_json, turn_rows, outcomes, attempt, judgement, goal = row
    plan = DialoguePlan.from_json(plan_json)
    turns = tuple(Turn.from_row(row) for row in turn_rows or ())
    committed = State.of(
        plan,
        turns,
        n_turns=len(turns) if attempt else plan.n_turns,  # one that is finished may have ended early
        review=attempt,
        judgement=Judgement.from_json(judgement) if judgement else None,
        has_goal=bool(plan.goal),
        goal=GoalVerdict.from_json(goal),
    )
    return Claim(plan, fold(committed, (outcome_from(kind, data) for kind, data in outcomes or ())))


def _stats_json(stats: Mapping[str, Any]) -> str:
    # Enum members among the keys are strings, but not to orjson's quick path.
    return orjson.dumps(stats, option=orjson.OPT_NON_STR_KEYS).decode()
