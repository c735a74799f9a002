"""A judging worker: claims finished dialogues, and has every verdict durable before its judge's next call."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dlgforge_core.config import JudgeConfig
from dlgforge_core.config.run import OPEN_PER_SLOT
from dlgforge_core.dialogue import DropReason, Role
from dlgforge_core.errors import LeaseLostError
from dlgforge_core.judging.judges import Judge, Subject, judges_goal, messages_about, subjects
from dlgforge_core.judging.store import Finished, Verdict
from dlgforge_core.judging.tallies import Tallies, Tally
from dlgforge_core.judging.worker_store import JudgingStore
from dlgforge_core.llm.call_figures import UnderWay
from dlgforge_core.llm.chat import Completion
from dlgforge_core.llm.client import CallError, LlmClient
from dlgforge_core.prompting import verdict_prompts as prompts
from dlgforge_core.prompting.goal_verdicts import with_goal_schema
from dlgforge_core.prompting.templates import SHIPPED, Templates
from dlgforge_core.prompting.verdict_reading import judgement_from
from dlgforge_core.scheduling.background import WorkResult
from dlgforge_core.scheduling.budgets import limited, used_up
from dlgforge_core.scheduling.call_seed import call_seed
from dlgforge_core.scheduling.call_slots import CallSlots
from dlgforge_core.scheduling.lease_keeper import LeaseKeeper
from dlgforge_core.scheduling.rolling import Rolling
from dlgforge_core.store.lease_holder import Used
from dlgforge_core.verdicts import Judgement

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chain:
    """What one judge is to judge of one dialogue, in order, and its verdicts that stand.

    `kept` of those were there before the session.
    """

    dialogue: Finished
    judge: Judge
    missing: tuple[Subject, ...]
    standing: Mapping[int, Judgement]
    kept: int


def chains_of(
    dialogue: Finished, config: JudgeConfig, judges: Sequence[Judge], templates: Templates = SHIPPED
) -> list[Chain]:
    """Return a chain for each judge: what it has not judged, or has judged when it read otherwise."""
    wanted = subjects(config, dialogue.plan, dialogue.turns, dialogue.texts, templates)
    made = []
    for judge in judges:
        standing: dict[int, Judgement] = {}
        kept = 0
        for subject in wanted:
            there = dialogue.verdicts.get((judge.key, subject.index))
            if there is not None and there.digest == subject.digest:
                standing[subject.index] = there.judgement
                kept += not there.is_new
        missing = tuple(subject for subject in wanted if subject.index not in standing)
        made.append(Chain(dialogue, judge, missing, standing, kept))
    return made


@dataclass(slots=True)
class _Open:
    """A dialogue that is claimed: how many of its chains go on, and what is to be counted at its end."""

    dialogue_id: str
    left: int
    tallies: Tallies = field(default_factory=dict)
    lost: bool = False


@dataclass(frozen=True, slots=True)
class _Item:
    chain: Chain
    dialogue: _Open


class JudgingWorker:
    """Keeps its call slots busy with chains until the session has none left. Belongs to one event loop.

    `load` gives the dialogues of these ids as chains, and may block. A verdict that cannot be had is counted,
    and tried again in the next session.
    """

    def __init__(
        self,
        store: JudgingStore,
        client: LlmClient,
        config: JudgeConfig,
        load: Callable[[Sequence[str]], Sequence[Sequence[Chain]]],
        *,
        judges: int,
        lease_s: float,
        templates: Templates = SHIPPED,
    ) -> None:
        self._store = store
        self._client = client
        self._config = config
        self._load = load
        self._n_judges = judges
        self._templates = templates
        self._slots = slots = CallSlots(config.concurrency, client.capacity)
        schema = prompts.verdict_schema(config)
        self._schemas = {False: schema, True: with_goal_schema(schema)}
        most = OPEN_PER_SLOT * config.concurrency  # as many as when generating
        self._rolling: Rolling[_Item] = Rolling(self._carry, slots, most)
        self._keeper = LeaseKeeper(store, self._rolling, lease_s, self.stats, self._others_used)
        self._elsewhere = Used()
        self._stop_reason: str | None = None
        self._started_at = time.time()
        store.write_is_awaited = lambda: not slots.all_wanted
        store.counts_usage = limited(config)
        store.lease.on_doubt = self._keeper.doubt.set
        client.on_setback(slots.look_again)
        client.on_answer(self._check_budget)
        client.before_call(store.lease.permit)

    def stop(self, reason: str, *, drain: bool = False) -> None:
        """Begin no further call, and return; with `drain` those under way go on, and are kept."""
        self._stop_reason = self._stop_reason or reason
        self._rolling.stop(drain=drain)

    def stats(self) -> dict[str, Any]:
        """Return what was counted so far, as plain data; see `generation.worker.Worker.stats`."""
        calls = self._client.stats
        return {
            "tokens": calls.tokens,
            "dollars": calls.dollars,
            "calls": calls.to_json(),
            "under_way": UnderWay(*self._client.under_way()).to_json(),
            "endpoints": [health.to_json() for health in self._client.health()],
            "started_at": self._started_at,
            "updated_at": time.time(),
        }

    async def run(self) -> WorkResult:
        """Judge until nothing is left to claim, a budget is used up or `stop` is called.

        Raises RunStoppedError when no endpoint can serve, StoreError when Postgres is gone.
        """
        await self._keeper.run(self._claim, self._nothing_left)
        return WorkResult(self._stop_reason)

    async def _claim(self, room: int) -> list[_Item]:
        """Claim dialogues until there are chains for the room; those with nothing missing end here."""
        items: list[_Item] = []
        while len(items) < room:
            ids = await self._store.claim(max(1, (room - len(items)) // self._n_judges))
            if not ids:
                break
            ended = []
            gone = set(ids)
            for chains in await asyncio.to_thread(self._load, ids):
                dialogue = _Open(chains[0].dialogue.plan.dialogue_id, sum(bool(c.missing) for c in chains))
                dialogue.tallies = {chain.judge.key: Tally(kept=chain.kept) for chain in chains}
                gone.discard(dialogue.dialogue_id)
                items += [_Item(chain, dialogue) for chain in chains if chain.missing]
                if not dialogue.left:
                    ended.append(dialogue)
            ended += [_Open(dialogue_id, 0) for dialogue_id in gone]  # deleted since they were claimed
            await asyncio.gather(*map(self._finish, ended))
        return items

    async def _nothing_left(self) -> bool:
        if await self._store.take_over():
            return False
        return not await self._store.left()

    async def _carry(self, item: _Item) -> None:
        dialogue = item.dialogue
        try:
            await self._judge(item.chain, dialogue.tallies[item.chain.judge.key])
        except LeaseLostError:
            self._lost(dialogue)
        dialogue.left -= 1
        if not dialogue.left and not dialogue.lost:
            await self._finish(dialogue)

    async def _finish(self, dialogue: _Open) -> None:
        try:
            await self._store.finish(dialogue.dialogue_id, dialogue.tallies)
        except LeaseLostError:
            self._lost(dialogue)

    def _lost(self, dialogue: _Open) -> None:
        _log.info("dialogue %s is judged by another worker now", dialogue.dialogue_id)
        dialogue.lost = True
        self._keeper.doubt.set()

    async def _judge(self, chain: Chain, tally: Tally) -> None:
        """Get the missing verdicts of a chain, in order: each prompt begins with the one before."""
        verdicts = dict(chain.standing)
        dialogue_id = chain.dialogue.plan.dialogue_id
        for index, subject in enumerate(chain.missing):
            try:
                verdict, completion = await self._ask(chain, subject, verdicts, len(chain.missing) - index)
            except CallError as error:
                tally.failed(error)
                if error.reason in (DropReason.INVALID_OUTPUT, DropReason.REFUSED):
                    continue
                return  # what the endpoint does not take or cannot do, it will not with more text either
            verdicts[subject.index] = verdict
            given = Tally(
                given=1,
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=completion.completion_tokens,
            )
            kept = Verdict(dialogue_id, subject.index, chain.judge.key, verdict, subject.digest)
            await self._store.put(kept, given)

    async def _ask(
        self, chain: Chain, subject: Subject, verdicts: Mapping[int, Judgement], left: int
    ) -> tuple[Judgement, Completion]:
        plan, judge = chain.dialogue.plan, chain.judge
        turns = [replace(turn, judgement=verdicts.get(turn.index)) for turn in chain.dialogue.turns]
        messages = messages_about(
            *(subject.index, self._config, plan, turns, chain.dialogue.texts),
            instructions=judge.agent.instructions,
            templates=self._templates,
        )
        goal = judges_goal(subject.index, plan, turns)
        async with self._slots.slot(left, judge.caller):
            return await self._client.complete_json(
                Role.JUDGE,
                judge.agent,
                judge.model,
                prompts.alternating(messages),
                self._schemas[goal],
                functools.partial(judgement_from, judge=self._config, goal=goal),
                affinity=plan.dialogue_id,
                seed=call_seed(judge.seed, plan.dialogue_id, subject.index, Role.JUDGE, 0),
                caller=judge.caller,
            )

    def _others_used(self, used: Used) -> None:
        self._elsewhere = used
        self._check_budget()

    def _check_budget(self) -> None:
        calls, others = self._client.stats, self._elsewhere
        reason = used_up("judge", self._config, others.tokens + calls.tokens, others.dollars + calls.dollars)
        if reason is not None:
            self.stop(reason, drain=True)
