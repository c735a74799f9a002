"""The rolling scheduler: one worker keeps its call slots busy until the run has nothing left to claim."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dlgforge_core.config import AgentsConfig, GenerationConfig
from dlgforge_core.dialogue import Role
from dlgforge_core.errors import LeaseLostError, RunRefusedError
from dlgforge_core.generation.dialogue_run import DialogueContext, DialogueRun
from dlgforge_core.generation.grounding import Grounding
from dlgforge_core.generation.tools import Toolbox
from dlgforge_core.llm.client import CallError, LlmClient, RequestRefusedError
from dlgforge_core.scheduling.call_slots import CallSlots, claim_threshold
from dlgforge_core.store.worker_store import Claim, WorkerStore

_log = logging.getLogger(__name__)

_RELOCK_S = 1.0  # how often a worker whose lock was lost tries to take it again
_POLL_S = 1.0  # how often a worker without claims looks whether others left some behind


@dataclass(slots=True)
class WorkerCounts:
    """What one worker has done, published with its heartbeat."""

    done: int = 0
    turns: int = 0
    lost: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerResult:
    """How a worker ended: `stop_reason` is None when the run has nothing left to do."""

    counts: WorkerCounts
    stop_reason: str | None


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
    ) -> None:
        self._store = store
        self._client = client
        self._run_config = generation.run
        self._context = DialogueContext(
            store=store,
            client=client,
            slots=CallSlots(generation.run.concurrency),
            seed=generation.run.seed,
            agents=agents,
            models=models,
            judge=generation.judge,
            coverage=generation.coverage,
            question_kinds=tuple(generation.run.question_kinds or ()),
            grounding=grounding,
            toolbox=toolbox or Toolbox(generation.tools),
            tool_rounds=generation.tools.max_rounds,
            keep_reasoning=generation.run.keep_reasoning,
        )
        slots = self._context.slots
        store.in_a_hurry = lambda: not slots.all_wanted
        self._open: set[asyncio.Task[None]] = set()
        client.on_answer(self._check_budget)
        client.before_call(store.lease.permit)
        self._refused: dict[str, RequestRefusedError] = {}
        """Dialogues whose request was refused by an endpoint that has never answered its role: held back."""
        self._counts = WorkerCounts()
        self._stop_reason: str | None = None
        self._stopping = asyncio.Event()
        self._tokens_elsewhere = 0
        self._failure: BaseException | None = None
        self._drain = False
        self._changed = asyncio.Event()
        self._lease_in_doubt = asyncio.Event()
        store.lease.on_doubt = self._lease_in_doubt.set
        self._started_at = time.time()

    def stop(self, reason: str, *, drain: bool = False) -> None:
        """Let go of the open dialogues, which stay resumable, and return.

        With `drain` the calls under way are waited for and their answers kept; else they are cut off.
        """
        self._stop_reason = self._stop_reason or reason
        self._drain = drain and self._failure is None
        if self._drain:
            self._context.slots.close()
        self._stopping.set()
        self._changed.set()

    def stats(self) -> dict[str, Any]:
        """What was counted so far, as plain data.

        `tokens`, `calls`, `counts`, `open`, the endpoints' health, and the Unix times of start and telling.
        """
        calls = self._client.stats
        return {
            "tokens": self._tokens(),
            "calls": calls.to_json(),
            "counts": {
                "done": self._counts.done,
                "turns": self._counts.turns,
                "lost": self._counts.lost,
                "dropped": dict(self._counts.dropped),
            },
            "open": len(self._open),
            "endpoints": [health.to_json() for health in self._client.health()],
            "started_at": self._started_at,
            "updated_at": time.time(),
        }

    def _tokens(self) -> int:
        return self._client.stats.tokens

    async def run(self) -> WorkerResult:
        """Work until nothing is left to claim, a budget is used up or `stop` is called.

        Raises RunStoppedError when no endpoint can serve, StoreError when Postgres is gone.
        """
        lease = asyncio.create_task(self._keep_lease(), name="lease")
        lease.add_done_callback(self._lease_ended)
        try:
            # First what others began and left behind, then the rest.
            self._tokens_elsewhere = await self._store.take_over_and_count_tokens()
            self._check_budget()
            await self._roll()
        finally:
            await self._let_go()  # under the lease, for calls that are waited for may take long
            lease.cancel()
            await asyncio.gather(lease, return_exceptions=True)
        await self._store.heartbeat(self.stats())
        if self._failure is not None:
            raise self._failure
        return WorkerResult(self._counts, self._stop_reason)

    async def _roll(self) -> None:
        loop = asyncio.get_running_loop()
        run = self._run_config
        worthwhile = claim_threshold(run.concurrency, run.open_dialogues)
        empty_at = float("-inf")  # when the store last had less to claim than was asked for
        while not self._stopping.is_set():
            self._changed.clear()
            await self._drop_refused(lambda e: self._client.stats.of(e.endpoint, e.role).calls > 0)
            room = run.open_dialogues - len(self._open)
            if room >= worthwhile and loop.time() - empty_at >= _POLL_S:
                claims = await self._store.claim(room)
                for claim in claims:
                    self._begin(claim)
                if len(claims) < room:
                    empty_at = loop.time()
                if not self._open and await self._nothing_left():
                    return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _POLL_S)
            if not self._open:
                empty_at = float("-inf")

    async def _nothing_left(self) -> bool:
        """Whether this worker is done; a budget that ended the run is set as the stop reason."""
        if await self._store.take_over():
            return False
        if self._refused:
            if not await self._store.finished():
                error = next(iter(self._refused.values()))
                self._fail(RunRefusedError(f"every call of {error.role.value} was refused; {error}"))
                return False
            await self._drop_refused()
        unfinished = await self._store.unfinished()
        if not unfinished:
            return True
        limit = self._run_config.max_dialogues
        if limit is not None and await self._store.finished() >= limit:
            self.stop(f"run.max_dialogues = {limit} is reached; {unfinished} dialogues are left")
        return False

    def _begin(self, claim: Claim) -> None:
        task = asyncio.create_task(self._carry(claim), name=claim.plan.dialogue_id)
        self._open.add(task)
        task.add_done_callback(self._ended)

    async def _carry(self, claim: Claim) -> None:
        try:
            try:
                await DialogueRun(self._context, claim, self._count_turn).run()
            except RequestRefusedError as error:
                # Dropped once it is known to be about this dialogue, and not about every one.
                self._refused[claim.plan.dialogue_id] = error
            except CallError as error:
                await self._drop(claim.plan.dialogue_id, error)
            else:
                self._counts.done += 1
        except LeaseLostError:
            self._counts.lost += 1
            self._lease_in_doubt.set()

    async def _drop(self, dialogue_id: str, error: CallError) -> None:
        _log.info("dialogue %s is dropped: %s: %s", dialogue_id, error.reason, error)
        await self._store.drop(dialogue_id, error.reason, str(error))
        if self._context.grounding is not None:
            await self._context.grounding.release(dialogue_id)
        dropped = self._counts.dropped
        dropped[error.reason.value] = dropped.get(error.reason.value, 0) + 1

    async def _drop_refused(self, which: Callable[[RequestRefusedError], bool] = lambda error: True) -> None:
        for dialogue_id, error in list(self._refused.items()):
            if which(error):
                del self._refused[dialogue_id]
                try:
                    await self._drop(dialogue_id, error)
                except LeaseLostError:
                    self._counts.lost += 1

    def _count_turn(self) -> None:
        self._counts.turns += 1

    def _check_budget(self) -> None:
        limit = self._run_config.max_tokens
        if limit is not None and self._tokens_elsewhere + self._tokens() >= limit:
            self.stop(f"run.max_tokens = {limit} is used up", drain=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)
        self._changed.set()

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self.stop(str(error))

    async def _let_go(self) -> None:
        """End what is open; the leases end with the store's context, or with a new registration."""
        tasks = list(self._open)
        if not self._drain:
            for task in tasks:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # The lease

    async def _keep_lease(self) -> None:
        pause = min(5.0, self._run_config.lease_s / 3)
        while True:
            self._tokens_elsewhere = await self._store.take_over_and_count_tokens()
            self._check_budget()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(
                    self._lease_in_doubt.wait(), pause if self._store.locked else _RELOCK_S
                )
            self._lease_in_doubt.clear()
            if not await self._store.heartbeat(self.stats()):
                _log.warning("the lease was lost: other workers took over; starting afresh")
                # First let go, then register: a task of before must not write under the new lease.
                await self._let_go()
                self._refused.clear()
                await self._store.register()

    def _lease_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)
