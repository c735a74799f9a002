"""The run state as one worker sees it: claim dialogues, make every answer durable, keep the lease."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dlgforge_core.common.questions import normal_form
from dlgforge_core.conversation.acceptance import NONE_LACKING
from dlgforge_core.conversation.outcomes import Outcome, Unjudged, outcome_from
from dlgforge_core.conversation.state import State, fold
from dlgforge_core.database.connection import AsyncConnection
from dlgforge_core.database.database import Database
from dlgforge_core.dialogue import DialoguePlan, DropReason, Ending, Turn
from dlgforge_core.store import claims, writes
from dlgforge_core.store import statements as sql
from dlgforge_core.store.lease_holder import LeaseHolder
from dlgforge_core.store.reservations import ACCEPTED, Reservation, UnlikeQuestions
from dlgforge_core.usage import Usage, usage_from_json
from dlgforge_core.verdicts import GoalVerdict, Judgement


@dataclass(frozen=True, slots=True)
class Claim:
    """A dialogue leased to this worker, and its state: what was committed and recorded of it before."""

    plan: DialoguePlan
    state: State
    usage: Usage = field(default_factory=dict)
    """What the calls for it have used before."""


class WorkerStore(LeaseHolder[writes.Write]):
    """One worker's side of the run state, as `LeaseHolder` describes it.

    Every write is keyed by dialogue, turn and worker, so that it can be repeated. `similarity_threshold` is
    the Jaccard similarity from which questions count as near-copies; at 1 only exact repeats are rejected.
    `attempts` are those at each sample; at 1 no dialogue is replaced. `among`: no dialogues but these; empty
    for all.
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
        among: Sequence[str] = (),
    ) -> None:
        super().__init__(
            database,
            self._execute,
            application="dlgforge worker",
            lease_s=lease_s,
            patience_s=patience_s,
            run_id=run_id,
        )
        self.usage_of: Callable[[str], Usage] = lambda dialogue_id: {}
        """What the calls for a dialogue have used, which its writes keep."""
        self._run_id = run_id
        self._run = {"fingerprint": fingerprint, "attempts": attempts}
        self._among = list(among) or None
        self._max_dialogues = max_dialogues
        self._plans: int | None = None
        self._setup = setup
        self._unlike = (
            UnlikeQuestions(fingerprint, similarity_threshold) if similarity_threshold < 1 else None
        )

    # Claims

    async def claim(self, limit: int) -> list[Claim]:
        """Lease up to `limit` free dialogues of the run, those with most turns first.

        Where there are fewer, also finished ones that are to be given the verdicts they lack.
        """

        async def run(connection: AsyncConnection) -> list[Claim]:
            rows: list[Sequence[Any]] = []

            async def take(statement: str, most: int) -> None:
                if len(rows) < most:
                    values = {"run": self._run_id, "me": self._worker_id, "among": self._among}
                    cursor = await connection.execute(
                        statement.encode(), {**values, "limit": most - len(rows)}
                    )
                    rows.extend(await cursor.fetchall())

            async with connection.transaction():
                room = await self._room(connection, limit)
                if await self._has_many_plans(connection):
                    await take(claims.CLAIM_OF_MANY_PLANS, room)
                await take(claims.CLAIM, room)
            await take(claims.CLAIM_UNJUDGED, limit)
            return [_claim_from_row(row) for row in rows]

        return await self._control.run(run)

    async def _room(self, connection: AsyncConnection, limit: int) -> int:
        """Return how many of `limit` dialogues the budget has room for until the transaction ends."""
        if self._max_dialogues is None:
            return limit
        row = await (await connection.execute(claims.BUDGET, {"run": self._run_id})).fetchone()
        assert row is not None
        taken, may_be_fewer = row
        if may_be_fewer and (taken is None or self._max_dialogues - taken < limit):
            row = await (await connection.execute(claims.COUNT_TAKEN, {"run": self._run_id})).fetchone()
            assert row is not None
            taken = row[0]
        return max(0, min(limit, self._max_dialogues - int(taken)))

    async def _has_many_plans(self, connection: AsyncConnection) -> bool:
        """Whether the run has so many plans that a claim must not lock its share of each."""
        if self._plans is None:  # a run's plans stay the same
            row = await (await connection.execute(claims.COUNT_PLANS, {"run": self._run_id})).fetchone()
            assert row is not None
            self._plans = int(row[0])
        return self._plans > claims.FEW_PLANS

    async def unfinished(self) -> int:
        """How many dialogues to work on are neither finished nor dropped, or are to be judged again."""
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

    async def _counts(self) -> tuple[int, int]:
        async def run(connection: AsyncConnection) -> tuple[int, int]:
            cursor = await connection.execute(sql.COUNTS, {"run": self._run_id, "among": self._among})
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
            writes.RecordOutcome(
                self._worker_id, dialogue_id, turn_index, position, outcome, self.usage_of(dialogue_id)
            )
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
        me, usage = self._worker_id, self.usage_of(dialogue_id)
        await self._writer.submit(
            writes.CommitTurn(me, dialogue_id, turn, final, judgement, unjudged, shortcomings, goal, usage)
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
        me, usage = self._worker_id, self.usage_of(dialogue_id)
        await self._writer.submit(
            writes.FinishDialogue(me, dialogue_id, ended_by, judgement, goal, unjudged, shortcomings, usage)
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
            writes.AmendDialogue(
                self._worker_id, dialogue_id, judgements, unjudged, goal, self.usage_of(dialogue_id)
            )
        )

    async def drop(self, dialogue_id: str, reason: DropReason, detail: str) -> None:
        """Give a dialogue up, with the reason; its questions are free again, and its spare is opened."""
        me, usage = self._worker_id, self.usage_of(dialogue_id)
        await self._writer.submit(
            writes.DropDialogue(me, dialogue_id, reason, detail[:2000], self._setup, usage)
        )

    async def _execute(self, connection: AsyncConnection, ops: Sequence[writes.Write]) -> Sequence[object]:
        return await writes.execute(connection, self._run, ops, self._unlike)


def _claim_from_row(row: Sequence[Any]) -> Claim:
    plan_json, turn_rows, outcomes, attempt, judgement, goal, usage = row
    plan = DialoguePlan.from_json(plan_json)
    turns = tuple(Turn.from_row(row) for row in turn_rows or ())
    committed = State.of(
        plan,
        turns,
        n_turns=len(turns) if attempt else plan.n_turns,  # one that is finished may have ended early
        review=attempt,
        judgement=Judgement.from_json(judgement) if judgement else None,
        has_goal=plan.goal_is_judged,
        goal=GoalVerdict.from_json(goal),
    )
    state = fold(committed, (outcome_from(kind, data) for kind, data in outcomes or ()))
    return Claim(plan, state, usage_from_json(usage))
