"""One dialogue's state machine: user simulator -> dedup -> assistant -> judge -> commit, and on."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from dlgforge_core.config import AgentsConfig, CoverageConfig, JudgeConfig
from dlgforge_core.dialogue import DialoguePlan, DropReason, Judgement, Role, Turn, TurnDetails
from dlgforge_core.generation.grounding import Anchor, Grounding, evidence_of
from dlgforge_core.generation.tools import Toolbox, answer_with_tools
from dlgforge_core.knowledge.types import Hit
from dlgforge_core.llm.client import CallError, Completion, LlmClient, Message, ToolDefinition
from dlgforge_core.prompting import dialogue_prompts as prompts
from dlgforge_core.prompting.model_output import question_of, without_quotes
from dlgforge_core.prompting.passage_marks import names_material
from dlgforge_core.prompting.quoting import quote_passages
from dlgforge_core.prompting.verdict_evidence import chunks_shown, verdict_messages
from dlgforge_core.prompting.verdict_prompts import judgement_from, verdict_schema
from dlgforge_core.scheduling.call_seed import call_seed
from dlgforge_core.scheduling.call_slots import CallSlots
from dlgforge_core.store.reservations import Reservation
from dlgforge_core.store.worker_store import Claim

_ANSWER_ATTEMPTS = 2


class DialogueStore(Protocol):
    """What a dialogue needs of the run state."""

    async def reserve(self, dialogue_id: str, turn_index: int, question: str) -> Reservation: ...

    async def save_answer(
        self, dialogue_id: str, turn_index: int, answer: str, details: TurnDetails
    ) -> None: ...

    async def commit_turn(
        self, dialogue_id: str, turn: Turn, *, final: bool, judgement: Judgement | None = None
    ) -> None: ...


@dataclass(frozen=True)
class DialogueContext:
    """What all dialogues of a worker share. `models` names the model of each role."""

    store: DialogueStore
    client: LlmClient
    slots: CallSlots
    seed: int
    agents: AgentsConfig
    models: Mapping[Role, str]
    judge: JudgeConfig
    coverage: CoverageConfig
    toolbox: Toolbox
    tool_rounds: int
    question_kinds: Sequence[str] = ()
    grounding: Grounding | None = None
    keep_reasoning: bool = False

    @functools.cached_property
    def verdict_schema(self) -> dict[str, Any]:
        """What the judge's answers must look like."""
        return verdict_schema(self.judge)


class DialogueRun:
    """Carries one claimed dialogue to its end.

    Each answer is durable before the next call is made, so that a crash costs the calls in flight and no
    more. Raises CallError when the dialogue must be dropped.
    """

    def __init__(
        self, context: DialogueContext, claim: Claim, on_turn: Callable[[], None] = lambda: None
    ) -> None:
        self._context = context
        self._on_turn = on_turn
        self._plan: DialoguePlan = claim.plan
        self._turns = list(claim.turns)
        self._draft = claim.draft
        self._anchor: Anchor | None = None
        self._kinds = question_kinds(
            context.question_kinds, context.seed, self._plan.dialogue_id, self._plan.n_turns
        )
        per_turn = 3 if self._judges_turns else 2
        self._calls_left = (self._plan.n_turns - len(self._turns)) * per_turn + self._judges_conversation

    @property
    def _judges_turns(self) -> bool:
        judge = self._context.judge
        return judge.mode == "online" and judge.granularity == "turn"

    @property
    def _judges_conversation(self) -> bool:
        judge = self._context.judge
        return judge.mode == "online" and judge.granularity == "conversation"

    async def run(self) -> None:
        """Make the turns that are missing."""
        if (grounding := self._context.grounding) is not None:
            self._anchor = await grounding.anchor(self._plan)
        for index in range(len(self._turns), self._plan.n_turns):
            await self._turn(index)

    async def _turn(self, index: int) -> None:
        store, plan = self._context.store, self._plan
        draft = self._draft if self._draft and self._draft.turn_index == index else None
        question = draft.question if draft else await self._ask(index)
        if draft and draft.answer:
            answer, details = draft.answer, draft.details
        else:
            answer, details = await self._answer(index, question)
            await store.save_answer(plan.dialogue_id, index, answer, details)
        turn = Turn(index, question, answer, details=details)
        self._turns.append(turn)
        if self._judges_turns:
            turn = self._turns[-1] = replace(turn, judgement=await self._verdict(whole=False))
        final = index + 1 == plan.n_turns
        whole = await self._verdict(whole=True) if final and self._judges_conversation else None
        await store.commit_turn(plan.dialogue_id, turn, final=final, judgement=whole)
        self._on_turn()

    async def _ask(self, index: int) -> str:
        """A question that nobody has asked before."""
        messages = self._asking(index)
        last = self._context.coverage.question_dedup_retries
        for attempt in range(last + 1):
            completion = await self._complete(Role.USER_SIMULATOR, index, attempt, messages)
            question = question_of(completion.text)
            grounded = self._anchor is not None
            if grounded and attempt < last and names_material(question, self._plan.topic.topic):
                why = prompts.NAMES_MATERIAL
            else:
                reservation = await self._context.store.reserve(self._plan.dialogue_id, index, question)
                if reservation.accepted:
                    return question
                why = prompts.ASKED_BEFORE
            messages = prompts.another_question(messages, question, why)
            self._calls_left += 1
        raise CallError(
            DropReason.DEDUP_EXHAUSTED,
            f"turn {index + 1}: {attempt + 1} questions in a row had been asked before, last {question!r}, "
            f"which is {reservation.similarity:.0%} like {reservation.collides_with!r}",
        )

    def _asking(self, index: int) -> list[Message]:
        anchor = self._anchor
        return prompts.user_simulator(
            self._plan,
            self._turns,
            kinds=self._kinds[: index + 1],
            evidence=quote_passages([anchor.evidence[index].text]) if anchor is not None else "",
            on_topic=anchor is None or anchor.on_topic,
            instructions=self._context.agents.qa_generator.instructions,
        )

    async def _answer(self, index: int, question: str) -> tuple[str, TurnDetails]:
        grounding, anchor = self._context.grounding, self._anchor
        hits: list[Hit] = []
        asked_from = None
        if grounding is not None and anchor is not None:
            asked_from = anchor.evidence[index]
            hits = await grounding.passages(self._plan, question, asked_from)
        passages = quote_passages([hit.chunk.text for hit in hits])
        messages = prompts.assistant(
            self._plan,
            self._turns,
            question,
            grounded=bool(hits),
            passages=passages,
            instructions=self._context.agents.kb_responder.instructions,
        )
        for attempt in range(_ANSWER_ATTEMPTS):
            completion, tools = await answer_with_tools(
                functools.partial(self._complete, Role.ASSISTANT, index, attempt),
                messages,
                self._toolbox(),
                self._context.tool_rounds,
                hits.extend,
            )
            if answer := without_quotes(completion.text, grounded=anchor is not None):
                return answer, TurnDetails(
                    evidence=evidence_of(self._plan, asked_from, hits, answer),
                    tools=tools,
                    reasoning=completion.reasoning if self._context.keep_reasoning else "",
                    off_topic=anchor is not None and not anchor.on_topic,
                )
            self._calls_left += 1
        raise CallError(
            DropReason.INVALID_OUTPUT,
            f"turn {index + 1}: {_ANSWER_ATTEMPTS} answers in a row did nothing but repeat the passages",
        )

    def _toolbox(self) -> Toolbox:
        grounding = self._context.grounding
        if grounding is None:
            return self._context.toolbox
        return self._context.toolbox.searching(functools.partial(grounding.search, self._plan))

    async def _complete(
        self,
        role: Role,
        index: int,
        attempt: int,
        messages: Sequence[Message],
        tools: Sequence[ToolDefinition] | None = None,
    ) -> Completion:
        context = self._context
        async with context.slots.slot(self._calls_left):
            completion = await context.client.complete(
                role,
                context.agents.of(role),
                context.models[role],
                messages,
                affinity=self._plan.dialogue_id,
                seed=self._call_seed(role, index, attempt),
                tools=tools,
            )
        if not completion.tool_calls:
            self._calls_left -= 1
        return completion

    async def _verdict(self, *, whole: bool) -> Judgement:
        """On the last turn, or on the whole conversation."""
        context, plan, turns = self._context, self._plan, self._turns
        judged = [turn.details for turn in (turns if whole else turns[-1:])]
        texts: Mapping[str, str] = {}
        if context.grounding is not None:
            # By ids, so that the judge is shown the same after a resume.
            texts = await context.grounding.texts(chunks_shown(context.judge, judged))
        messages = verdict_messages(
            context.judge,
            plan,
            turns,
            texts,
            whole=whole,
            instructions=context.agents.qa_judge.instructions,
        )
        async with context.slots.slot(self._calls_left):
            verdict, _ = await context.client.complete_json(
                Role.JUDGE,
                context.agents.of(Role.JUDGE),
                context.models[Role.JUDGE],
                messages,
                context.verdict_schema,
                functools.partial(judgement_from, judge=context.judge),
                affinity=plan.dialogue_id,
                seed=self._call_seed(Role.JUDGE, plan.n_turns if whole else turns[-1].index, 0),
            )
        self._calls_left -= 1
        return verdict

    def _call_seed(self, role: Role, index: int, attempt: int) -> int:
        return call_seed(self._context.seed, self._plan.dialogue_id, index, role, attempt)


def question_kinds(kinds: Sequence[str], seed: int, dialogue_id: str, n_turns: int) -> list[str]:
    """What sort of question each of the first turns wants, the same in every run of the plan.

    Each dialogue has an order of its own and uses every kind once before any again.
    """
    order = sorted(kinds, key=lambda kind: hashlib.blake2b(f"{seed}:{dialogue_id}:{kind}".encode()).digest())
    return list(itertools.islice(itertools.cycle(order), n_turns))
