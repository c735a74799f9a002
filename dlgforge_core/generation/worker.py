"""The worker: claims dialogues and keeps its call slots busy until the run has nothing left to claim."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dlgforge_core.config import AgentsConfig, GenerationConfig
from dlgforge_core.conversation.acceptance import Acceptance
from dlgforge_core.conversation.outcomes import (
    Amended,
    Committed,
    Compared,
    Finished,
    GoalJudged,
    Judged,
    Outcome,
    Unjudged,
)
from dlgforge_core.conversation.script import Script
from dlgforge_core.conversation.steps import Dropped
from dlgforge_core.dialogue import Role
from dlgforge_core.errors import LeaseLostError, RunRefusedError, RunStoppedError
from dlgforge_core.generation.dialogue_context import DialogueContext
from dlgforge_core.generation.dialogue_run import DialogueRun
from dlgforge_core.generation.dialogue_usage import OpenUsage
from dlgforge_core.generation.grounding import Grounding
from dlgforge_core.generation.judge_watch import JudgeWatch
from dlgforge_core.llm.call_figures import UnderWay
from dlgforge_core.llm.client import LlmClient, RequestRefusedError
from dlgforge_core.prompting.templates import Templates
from dlgforge_core.prompting.trace import Trace
from dlgforge_core.scheduling.background import WorkResult
from dlgforge_core.scheduling.budgets import limited, used_up
from dlgforge_core.scheduling.call_slots import CallSlots
from dlgforge_core.scheduling.lease_keeper import LeaseKeeper
from dlgforge_core.scheduling.rolling import Rolling
from dlgforge_core.store.lease_holder import Used
from dlgforge_core.store.unjudged import NO_VERDICT
from dlgforge_core.store.worker_store import Claim, WorkerStore
from dlgforge_core.tools.toolbox import Toolbox

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class WorkerCounts:
    """What one worker has done, published with its heartbeat."""

    done: int = 0
    turns: int = 0
    lost: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    unaccepted: int = 0


@dataclass(frozen=True, slots=True)
class _Held:
    """A dialogue whose request was refused by an endpoint that has never answered its role."""

    dialogue_id: str
    run: DialogueRun
    error: RequestRefusedError


@dataclass(frozen=True, slots=True)
class WorkerResult(WorkResult):
    """How a worker ended, and what it has done."""

    counts: WorkerCounts


class Worker:
    """Claims dialogues and carries them forward, many at once, none owning a call slot.

    More dialogues are open than there are slots, and a free slot goes to the call whose dialogue has most
    work left. A dialogue that ends is replaced at once: there is no barrier anywhere.
    """

    def __init__(
        self,
        store: WorkerStore,
        client: LlmClient,
        generation: GenerationConfig,
        agents: AgentsConfig,
        models: Mapping[Role, str],
        grounding: Grounding | None = None,
        toolbox: Toolbox | None = None,
        acceptance: Acceptance | None = None,
    ) -> None:
        self._store = store
        self._client = client
        self._run_config = generation.run
        toolbox = toolbox or Toolbox(generation.tools)
        reasoning = generation.reasoning
        searches = generation.tools.enabled and grounding is not None
        self._context = DialogueContext(
            script=Script.of(generation, has_tools=searches or bool(toolbox.definitions)),
            store=store,
            client=client,
            slots=CallSlots(generation.run.concurrency, client.capacity),
            seed=generation.run.seed,
            agents=agents,
            models=models,
            judge=generation.judge,
            question_kinds=tuple(generation.run.question_kinds or ()),
            grounding=grounding,
            toolbox=toolbox,
            keep_reasoning=generation.run.keep_reasoning or reasoning.prompted,
            trace=Trace(reasoning.parts) if reasoning.prompted else None,
            acceptance=acceptance,
            templates=Templates.of(generation.prompts),
            examples=generation.examples,
            answers=generation.answers,
        )
        slots = self._context.slots
        store.write_is_awaited = lambda: not slots.all_wanted
        self._has_budget = store.counts_usage = limited(generation.run)
        self._usage = OpenUsage(client)
        store.usage_of = self._usage.of
        self._rolling: Rolling[Claim | _Held] = Rolling(self._carry, slots, generation.run.open_dialogues)
        client.on_answer(self._answered)
        client.on_setback(slots.look_again)
        client.before_call(store.lease.permit)
        self._held: dict[str, _Held] = {}
        """Held back until it is known whether such requests are refused for what they hold, or all are."""
        self._open: dict[str, DialogueRun] = {}
        self._judging = JudgeWatch()
        self._counts = WorkerCounts()
        self._stop_reason: str | None = None
        self._elsewhere = Used()
        self._keeper = LeaseKeeper(
            store, self._rolling, generation.run.lease_s, self.stats, self._others_used, self._forget
        )
        store.lease.on_doubt = self._keeper.doubt.set
        self._started_at = time.time()

    def stop(self, reason: str, *, drain: bool = False) -> None:
        """Let go of the open dialogues, which stay resumable, and return.

        With `drain` the calls under way are waited for and their answers kept; else they are cut off.
        """
        self._stop_reason = self._stop_reason or reason
        self._rolling.stop(drain=drain)

    def stats(self) -> dict[str, Any]:
        """Return what was counted so far, as plain data.

        `tokens`, `dollars`, `calls`, `counts`, `under_way`, the endpoints' health, and when it started and
        told this (Unix times).
        """
        calls = self._client.stats
        return {
            "tokens": calls.tokens,
            "dollars": calls.dollars,
            "calls": calls.to_json(),
            "counts": {
                "done": self._counts.done,
                "turns": self._counts.turns,
                "lost": self._counts.lost,
                "dropped": dict(self._counts.dropped),
                "unaccepted": self._counts.unaccepted,
                "unjudged": dict(self._judging.unjudged),
            },
            "under_way": self._under_way().to_json(),
            "endpoints": [health.to_json() for health in self._client.health()],
            "started_at": self._started_at,
            "updated_at": time.time(),
        }

    def turn_of(self, dialogue_id: str) -> int:
        """Return the turn, from 1, that a dialogue is in; 1 when it is not open."""
        run = self._open.get(dialogue_id)
        return run.turn if run is not None else 1

    def _under_way(self) -> UnderWay:
        turns = [run.turn for run in list(self._open.values())]
        calls, oldest_s = self._client.under_way()
        return UnderWay(calls, oldest_s, len(turns), (min(turns), max(turns)) if turns else None)

    async def run(self) -> WorkerResult:
        """Work until nothing is left to claim, a budget is used up or `stop` is called.

        Raises RunStoppedError when no endpoint can serve, StoreError when Postgres is gone.
        """
        await self._keeper.run(self._claim, self._nothing_left)
        return WorkerResult(self._stop_reason, self._counts)

    async def _claim(self, room: int) -> list[Claim]:
        await self._check_judge()
        return await self._store.claim(room)

    async def _nothing_left(self) -> bool:
        """Whether this worker is done; a budget that ended the run is set as the stop reason."""
        if await self._store.take_over():
            return False
        if self._held:
            if not await self._store.finished():
                error = next(iter(self._held.values())).error
                self._fail(RunRefusedError(f"no call of {error.role.value} was answered; {error}"))
                return False
            self._go_on(lambda held: True)
            return False
        unfinished = await self._store.unfinished()
        if not unfinished:
            return True
        limit = self._run_config.max_dialogues
        if limit is not None and await self._store.finished() >= limit:
            self.stop(f"run.max_dialogues = {limit} is reached; {unfinished} dialogues are left")
        return False

    async def _carry(self, item: Claim | _Held) -> None:
        if isinstance(item, _Held):
            dialogue_id, run = item.dialogue_id, item.run
            work = run.go_on_without(item.error)
        else:
            dialogue_id = item.plan.dialogue_id
            self._usage.open(dialogue_id, item.usage)
            run = DialogueRun(self._context, item, functools.partial(self._saw, dialogue_id))
            work = run.run()
        self._open[dialogue_id] = run
        try:
            end = await work
            if isinstance(end, Dropped):
                await self._drop(dialogue_id, end)
            elif not run.accepted:
                await self._gave_up(dialogue_id)
                self._counts.unaccepted += 1
            elif not run.reviews:
                self._counts.done += 1
        except RequestRefusedError as error:
            # Taken for this dialogue's own once it is known that not every request is refused.
            self._held[dialogue_id] = _Held(dialogue_id, run, error)
            self._go_on(self._is_its_own)
        except LeaseLostError:
            self._counts.lost += 1
            self._keeper.doubt.set()
        finally:
            del self._open[dialogue_id]
            if dialogue_id not in self._held:
                self._usage.close(dialogue_id)

    async def _drop(self, dialogue_id: str, end: Dropped) -> None:
        _log.info("dialogue %s is dropped: %s: %s", dialogue_id, end.reason, end.detail)
        await self._store.drop(dialogue_id, end.reason, end.detail)
        await self._gave_up(dialogue_id)
        dropped = self._counts.dropped
        dropped[end.reason.value] = dropped.get(end.reason.value, 0) + 1

    async def _gave_up(self, dialogue_id: str) -> None:
        """Give back the document of a dialogue that does not count; its spare may be there to be claimed."""
        if self._context.grounding is not None:
            await self._context.grounding.release(dialogue_id)
        if self._context.acceptance is not None:
            self._rolling.replenished()

    def _saw(self, dialogue_id: str, outcome: Outcome | Committed | Finished | Amended) -> None:
        match outcome:
            case Committed():
                self._counts.turns += 1
            case Judged() | GoalJudged() | Compared() | Unjudged():
                self._judging.saw(dialogue_id, outcome)

    async def _check_judge(self) -> None:
        """Stop the run when the judge has never worked; what it left unjudged is judged on resume."""
        fault = self._judging.fault
        if fault and not await self._store.has_verdict():
            self._fail(RunStoppedError(f"{NO_VERDICT}: {fault}"))

    def _answered(self) -> None:
        self._check_budget()
        if self._held:
            self._go_on(self._is_its_own)

    def _is_its_own(self, held: _Held) -> bool:
        """Whether the role has been answered: then the failure is about this dialogue alone."""
        return self._client.roles.has_answer(held.error.role)

    def _go_on(self, which: Callable[[_Held], bool]) -> None:
        for held in [held for held in self._held.values() if which(held)]:
            del self._held[held.dialogue_id]
            self._rolling.add(held)

    def _others_used(self, used: Used) -> None:
        self._elsewhere = used
        self._check_budget()

    def _forget(self) -> None:
        self._held.clear()
        self._usage.clear()

    def _check_budget(self) -> None:
        if not self._has_budget:
            return
        calls, others = self._client.stats, self._elsewhere
        reason = used_up(
            "run", self._run_config, others.tokens + calls.tokens, others.dollars + calls.dollars
        )
        if reason is not None:
            self.stop(reason, drain=True)

    def _fail(self, error: BaseException) -> None:
        self._stop_reason = self._stop_reason or str(error)
        self._rolling.fail(error)
