"""Judging finished dialogues: rolling, in the order of the turns, each verdict durable before the next."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dlgforge_core.config import JudgeConfig
from dlgforge_core.config.run import OPEN_PER_SLOT
from dlgforge_core.database.reconnecting import ReconnectingConnection
from dlgforge_core.dialogue import DropReason, Role
from dlgforge_core.judging.judges import Judge, Subject, judges_goal, messages_about, subjects
from dlgforge_core.judging.store import Finished, Verdict, finished_dialogues
from dlgforge_core.llm.client import CallError, LlmClient
from dlgforge_core.prompting import verdict_prompts as prompts
from dlgforge_core.prompting.goal_verdicts import with_goal_schema
from dlgforge_core.prompting.templates import SHIPPED, Templates
from dlgforge_core.prompting.verdict_reading import judgement_from
from dlgforge_core.scheduling.call_seed import call_seed
from dlgforge_core.scheduling.call_slots import CallSlots
from dlgforge_core.scheduling.rolling import Rolling
from dlgforge_core.store.results import Scope
from dlgforge_core.verdicts import Judgement


@dataclass
class Tally:
    """What one judge did in this session. `kept` verdicts were there before and stand."""

    kept: int = 0
    given: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """The first failure of each reason."""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def failed(self, error: CallError) -> None:
        """Count a verdict that could not be had."""
        self.failures[error.reason.value] += 1
        self.examples.setdefault(error.reason.value, str(error)[:500])


@dataclass(frozen=True, slots=True)
class Chain:
    """What one judge is to judge of one dialogue, in order, and its verdicts that stand."""

    dialogue: Finished
    judge: Judge
    missing: tuple[Subject, ...]
    standing: Mapping[int, Judgement]


def chains(
    connection: ReconnectingConnection,
    dataset: str,
    scope: Scope,
    config: JudgeConfig,
    judges: Sequence[Judge],
    tallies: Mapping[str, Tally],
    templates: Templates = SHIPPED,
) -> Iterator[Chain]:
    """Everything of a scope of `dataset` that a judge has not judged, or has judged when it read otherwise.

    What stands is counted into `tallies` on the way.
    """
    for dialogue in finished_dialogues(connection, dataset, scope, config, [judge.key for judge in judges]):
        wanted = subjects(config, dialogue.plan, dialogue.turns, dialogue.texts, templates)
        for judge in judges:
            standing: dict[int, Judgement] = {}
            for subject in wanted:
                kept = dialogue.verdicts.get((judge.key, subject.index))
                if kept is not None and kept.digest == subject.digest:
                    standing[subject.index] = kept.judgement
            tallies[judge.key].kept += len(standing)
            missing = tuple(subject for subject in wanted if subject.index not in standing)
            if missing:
                yield Chain(dialogue, judge, missing, standing)


async def _nothing_left() -> bool:
    return True  # what there was to judge is known from the start


class Engine:
    """Keeps the call slots busy with chains until there are none left. Belongs to one event loop.

    `put` returns once a verdict is durable. A verdict that cannot be had is counted, and tried again in the
    next session; raises RunStoppedError when no endpoint can serve, and what `put` and `more` raise.
    """

    def __init__(
        self,
        client: LlmClient,
        slots: CallSlots,
        put: Callable[[Verdict], Awaitable[object]],
        config: JudgeConfig,
        tallies: Mapping[str, Tally],
        templates: Templates = SHIPPED,
    ) -> None:
        self._client = client
        self._put = put
        self._config = config
        self._tallies = tallies
        self._templates = templates
        self._slots = slots
        schema = prompts.verdict_schema(config)
        self._schemas = {False: schema, True: with_goal_schema(schema)}
        most = OPEN_PER_SLOT * config.concurrency  # as many as when generating
        self._rolling: Rolling[Chain] = Rolling(self._judge, slots, most)

    def drain(self) -> None:
        """Begin no further call; those under way go on, and their verdicts are kept."""
        self._rolling.stop(drain=True)

    async def run(self, more: Callable[[int], Sequence[Chain]]) -> None:
        """Judge what `more(n)` gives, at most n chains at a time, until it gives none.

        `more` runs in a thread. Cancelling cuts off the calls under way.
        """
        rolling = self._rolling
        try:
            await rolling.run(lambda room: asyncio.to_thread(more, room), _nothing_left)
        except BaseException:
            rolling.stop()
            raise
        finally:
            await rolling.let_go()
        if rolling.failure is not None:
            raise rolling.failure

    async def _judge(self, chain: Chain) -> None:
        """Get the missing verdicts of a chain, in order: each prompt begins with the one before."""
        verdicts = dict(chain.standing)
        tally = self._tallies[chain.judge.key]
        for place, subject in enumerate(chain.missing):
            try:
                verdict = await self._ask(chain, subject, verdicts, len(chain.missing) - place, tally)
            except CallError as error:
                tally.failed(error)
                if error.reason in (DropReason.INVALID_OUTPUT, DropReason.REFUSED):
                    continue
                return  # what the endpoint does not take or cannot do, it will not with more text either
            verdicts[subject.index] = verdict
            dialogue_id = chain.dialogue.plan.dialogue_id
            await self._put(Verdict(dialogue_id, subject.index, chain.judge.key, verdict, subject.digest))
            tally.given += 1

    async def _ask(
        self, chain: Chain, subject: Subject, verdicts: Mapping[int, Judgement], left: int, tally: Tally
    ) -> Judgement:
        plan, judge = chain.dialogue.plan, chain.judge
        turns = [replace(turn, judgement=verdicts.get(turn.index)) for turn in chain.dialogue.turns]
        messages = messages_about(
            *(subject.index, self._config, plan, turns, chain.dialogue.texts),
            instructions=judge.agent.instructions,
            templates=self._templates,
        )
        goal = judges_goal(subject.index, plan, turns)
        async with self._slots.slot(left, judge.caller):
            verdict, completion = await self._client.complete_json(
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
        tally.prompt_tokens += completion.prompt_tokens
        tally.completion_tokens += completion.completion_tokens
        return verdict
