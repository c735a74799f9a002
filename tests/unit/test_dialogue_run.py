"""A dialogue's run: whenever it is cut off, what goes on repeats the call in flight and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import orjson
import pytest

from dlgforge_core.config import AgentsConfig, AnswersConfig, JudgeConfig, ToolsConfig
from dlgforge_core.conversation.outcomes import Asked, Outcome, QuestionRejected, Rejection, outcome_from
from dlgforge_core.conversation.script import Script
from dlgforge_core.conversation.state import State, fold
from dlgforge_core.conversation.steps import Done
from dlgforge_core.dialogue import DialoguePlan, Ending, Persona, Role, Turn
from dlgforge_core.generation.dialogue_context import DialogueContext
from dlgforge_core.generation.dialogue_run import DialogueRun
from dlgforge_core.generation.grounding import Anchor, Grounding
from dlgforge_core.knowledge.types import Chunk, Hit
from dlgforge_core.llm.client import Completion, LlmClient, Message
from dlgforge_core.llm.tool_calls import ToolCall
from dlgforge_core.scheduling.call_slots import CallSlots
from dlgforge_core.sources import SeedTopic
from dlgforge_core.store.reservations import ACCEPTED, Reservation
from dlgforge_core.store.worker_store import Claim
from dlgforge_core.tools.toolbox import Toolbox
from dlgforge_core.verdicts import GoalVerdict, Judgement

CHUNKS = [Chunk(f"0{n}", "bread.md", n, text, "en") for n, text in enumerate(["Yeast rises.", "Salt slows."])]
NOBODY = Persona("p", "somebody", "Curious.")
MET = GoalVerdict(True, "It was paid.")
PLAN = DialoguePlan("d1", 0, "en", 2, SeedTopic("t", "en", "bread"), NOBODY, NOBODY)


ONE = AnswersConfig()
SEVERAL = AnswersConfig(candidates=2, temperatures=[0.2, 1.0], models=["small", "large"], revise=9.0)


class CrashError(Exception):
    """The process is gone."""


@dataclass
class Store:
    """Keeps what is written as Postgres would, as plain data; the first question of a turn is a repeat."""

    turns: list[Turn] = field(default_factory=list)
    outcomes: list[tuple[str, bytes]] = field(default_factory=list)
    plan: DialoguePlan = PLAN
    finished: tuple[Ending, GoalVerdict | None] | None = None

    def _keep(self, turn_index: int, position: int, outcome: Outcome) -> None:
        assert turn_index == len(self.turns)
        assert position == len(self.outcomes), "each outcome has its own place"
        self.outcomes.append((outcome.kind, orjson.dumps(outcome.to_json())))

    async def reserve(self, dialogue_id: str, turn_index: int, question: str, position: int) -> Reservation:
        if not self.outcomes:
            self._keep(turn_index, position, QuestionRejected(question, Rejection.ASKED_BEFORE, 1.0, "why"))
            return Reservation(False, "why", 1.0)
        self._keep(turn_index, position, Asked(question))
        return ACCEPTED

    async def record(self, dialogue_id: str, turn_index: int, position: int, outcome: Outcome) -> None:
        self._keep(turn_index, position, outcome)

    async def commit_turn(self, dialogue_id: str, turn: Turn, *, final: bool, **rest: Any) -> None:
        self.turns.append(turn)
        self.outcomes.clear()

    async def finish(self, dialogue_id: str, ended_by: Ending, **rest: Any) -> None:
        self.finished = ended_by, rest["goal"]
        self.outcomes.clear()

    async def amend(self, *_: Any) -> None:
        raise AssertionError("it was never finished before")

    def claim(self) -> Claim:
        """Return the dialogue as it is taken up again."""
        kept = (outcome_from(kind, orjson.loads(data)) for kind, data in self.outcomes)
        begun = State(self.plan.n_turns, tuple(self.turns), has_goal=bool(self.plan.goal))
        return Claim(self.plan, fold(begun, kept))


@dataclass
class Client:
    """A model that searches twice before each answer. It crashes at its `crash_at`th call."""

    crash_at: int = -1
    calls: list[tuple[Role, int | None, int]] = field(default_factory=list)

    def _count(self, role: Role, seed: int | None, messages: Sequence[Message]) -> None:
        self.calls.append((role, seed, len(messages)))
        if len(self.calls) - 1 == self.crash_at:
            raise CrashError

    async def complete(
        self,
        role: Role,
        agent: Any,
        model: str,
        messages: Sequence[Message],
        *,
        tools: Any = None,
        **rest: Any,
    ) -> Completion:
        self._count(role, rest["seed"], messages)
        searched = sum(message["role"] == "tool" for message in messages)
        calls: tuple[ToolCall, ...] = ()
        text = f"{role.value} {rest['seed']}?"
        if role is Role.ASSISTANT and tools and searched < 2:
            text, calls = "", (ToolCall("same", "vector_db_search", {"query": f"bread {searched}"}),)
        return Completion(
            text, "stop", 1, 1, None, "a", model, 0.1, calls, bool(tools), f"thought {searched}"
        )

    async def complete_json(
        self,
        role: Role,
        agent: Any,
        model: str,
        messages: Sequence[Message],
        schema: Any,
        *_: Any,
        **rest: Any,
    ) -> tuple[Judgement | GoalVerdict | list[Judgement], None]:
        self._count(role, rest["seed"], messages)
        if (compared := len(schema["properties"])) and "answer_1" in schema["properties"]:
            assert agent.max_tokens == 256 * compared
            return [Judgement(score, ("clear",), "Say more.") for score in range(compared)], None
        alone = "goal_met" in schema["properties"]
        return MET if alone else Judgement(7, ("clear",), "fine"), None

    async def complete_form(
        self, role: Role, agent: Any, model: str, messages: Sequence[Message], *_: Any, **rest: Any
    ) -> tuple[str, None]:
        self._count(role, rest["seed"], messages)
        return "", None


class Documents:
    """Grounding in two chunks."""

    knowledge: Any

    def __init__(self) -> None:
        self.knowledge = self

    async def anchor(self, plan: DialoguePlan) -> Anchor:
        return Anchor(True, tuple(CHUNKS))

    async def passages(self, plan: DialoguePlan, question: str, asked_from: Chunk) -> list[Hit]:
        return [Hit(asked_from, 2.0)]

    async def search(self, plan: DialoguePlan, query: str, *, k: int) -> list[Hit]:
        return [Hit(chunk, 0.5) for chunk in CHUNKS]

    async def texts(self, chunk_ids: Sequence[str]) -> dict[str, str]:
        return {chunk.chunk_id: chunk.text for chunk in CHUNKS}

    async def chunks(self, chunk_ids: Sequence[str]) -> list[Chunk]:
        return [chunk for chunk in CHUNKS if chunk.chunk_id in chunk_ids]


USUAL = Script(3, tool_rounds=3, judges_turns=True)


def carry(store: Store, client: Client, script: Script = USUAL, answers: AnswersConfig = ONE) -> object:
    """Carry the dialogue on, as a worker that has just claimed it."""
    judge = JudgeConfig()
    context = DialogueContext(
        script=replace(script, candidates=answers.candidates, revise=answers.revise),
        store=store,
        client=cast(LlmClient, client),
        slots=CallSlots(1),
        seed=1,
        agents=AgentsConfig(),
        models=dict.fromkeys(Role, "m"),
        judge=judge,
        toolbox=Toolbox(ToolsConfig(enabled=True)),
        grounding=cast(Grounding, Documents()),
        keep_reasoning=True,
        answers=answers,
    )
    return asyncio.run(DialogueRun(context, store.claim()).run())


CALLS_A_TURN = 2 + 3 + 1
"""Two questions, of which the first is a repeat, two searches and the answer, and a verdict."""
CALLS_WITH_CANDIDATES = 2 + 2 * 3 + 1 + 1 + 1
"""Two answers with their searches and a comparison; a revision, which has found enough, and a verdict."""


def test_without_a_crash_every_call_is_made_once() -> None:
    store, client = Store(), Client()
    assert carry(store, client) == Done()
    assert len(client.calls) == len(set(client.calls)) == 2 * CALLS_A_TURN
    assert [turn.judgement is not None for turn in store.turns] == [True, True]
    ids = [[event.call_id for event in turn.details.tools] for turn in store.turns]
    assert ids == [["same", "same_1"], ["same_2", "same_3"]], "ids of their own, whatever the server gives"
    for turn in store.turns:
        assert turn.details.reasoning == "thought 0\n\nthought 1\n\nthought 2"
        given = [e.chunk_id for e in turn.details.evidence if e.given_to is Role.ASSISTANT]
        assert sorted(given) == ["00", "01"]


def test_of_several_answers_each_is_made_once_with_its_own_tool_calls() -> None:
    store, client = Store(), Client()
    assert carry(store, client, answers=SEVERAL) == Done()
    assert len(client.calls) == len(set(client.calls)) == 2 * CALLS_WITH_CANDIDATES
    for turn in store.turns:
        first, second, revision = turn.details.candidates
        assert [one.chosen for one in (first, second, revision)] == [False, False, True]
        assert len({one.answer for one in (first, second, revision)}) == 3
        assert (revision.answer, revision.judgement) == (turn.assistant, turn.judgement)
        assert {one.judgement.score for one in (first, second) if one.judgement} == {0, 1}
        better = max((first, second), key=lambda one: one.judgement.score if one.judgement else -1)
        assert (revision.model, revision.temperature) == (better.model, better.temperature)
        assert [(one.model, one.temperature) for one in (first, second)] == [("small", 0.2), ("large", 1.0)]
        assert [len(one.details.tools) for one in (first, second)] == [2, 2]
        assert turn.details.tools == better.details.tools, "what was found for the answer that it improves"


@pytest.mark.parametrize(
    ("answers", "crash_at"),
    [(ONE, n) for n in range(2 * CALLS_A_TURN)] + [(SEVERAL, n) for n in range(2 * CALLS_WITH_CANDIDATES)],
)
def test_a_crash_costs_the_call_in_flight_and_no_more(answers: AnswersConfig, crash_at: int) -> None:
    uncut, whole = Store(), Client()
    carry(uncut, whole, answers=answers)
    store, client = Store(), Client(crash_at)
    with pytest.raises(CrashError):
        carry(store, client, answers=answers)
    assert carry(store, client, answers=answers) == Done()
    assert client.calls[:crash_at] + client.calls[crash_at + 1 :] == whole.calls
    assert store.turns == uncut.turns
    assert store.outcomes == []


COURSE = replace(USUAL, opens=True, may_end_after=1, judges_goal=True)
"""The assistant opens; the user asks once, then ends it; its goal is judged by a call of its own."""
COURSE_CALLS = 1 + (1 + 3 + 1) + 1 + 1


@pytest.mark.parametrize("crash_at", [None, *range(COURSE_CALLS)])
def test_a_conversation_that_the_user_ends_costs_no_call_twice(crash_at: int | None) -> None:
    plan = replace(PLAN, goal="A refund")
    uncut, whole = Store(plan=plan), Client()
    assert carry(uncut, whole, COURSE) == Done()
    assert len(whole.calls) == len(set(whole.calls)) == COURSE_CALLS
    assert [role for role, _, _ in whole.calls][:2] == [Role.ASSISTANT, Role.USER_SIMULATOR]
    (turn,) = uncut.turns
    assert (turn.details.opening, turn.details.opening_reasoning) == (
        f"kb_responder {whole.calls[0][1]}?",
        "thought 0",
    )
    assert (uncut.finished, uncut.outcomes) == ((Ending.USER, MET), [])
    if crash_at is not None:
        store, client = Store(plan=plan), Client(crash_at)
        with pytest.raises(CrashError):
            carry(store, client, COURSE)
        assert carry(store, client, COURSE) == Done()
        assert client.calls[:crash_at] + client.calls[crash_at + 1 :] == whole.calls
        assert (store.turns, store.finished) == (uncut.turns, uncut.finished)
