"""Domain types: what is planned, said and kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from dlgforge_core.sources import Exchange, FromSeed, Origin, PlannedDocument, SeedTopic
from dlgforge_core.state_changes import changed
from dlgforge_core.tool_events import ToolEvent
from dlgforge_core.usage import RoleUsage, usage_from_json
from dlgforge_core.verdicts import GoalVerdict, Judgement, JudgeVerdict, Mark


class Role(StrEnum):
    """Who makes a call; the names are the keys of `llm.agents` in the config."""

    USER_SIMULATOR = "qa_generator"
    ASSISTANT = "kb_responder"
    JUDGE = "qa_judge"
    TOOL_SIMULATOR = "tool_simulator"


OPTIONAL_ROLES = frozenset({Role.TOOL_SIMULATOR})
"""Roles that a run has where something asks for them; others need not care whether they could be called."""


class DropReason(StrEnum):
    """Why a planned dialogue was not finished."""

    DEDUP_EXHAUSTED = "dedup_exhausted"
    ENDPOINT_ERROR = "endpoint_error"
    CONTEXT_OVERFLOW = "context_overflow"
    INVALID_OUTPUT = "invalid_output"
    REFUSED = "refused"


class Ending(StrEnum):
    """Why a finished dialogue ended where it did."""

    PLANNED = "planned"
    """It has as many turns as were planned."""
    USER = "user"
    """The user had nothing more to ask."""


@dataclass(frozen=True, slots=True)
class Persona:
    """A character a role plays: a short name and how it behaves, in one or two sentences."""

    id: str
    name: str
    description: str


_WHERE_SET = frozenset(
    {"system_prompt", "examples", "attributes", "goal", "expects", "document", "from_seed", "tools"}
)
_UNSET: tuple[Any, ...] = ("", None, {})


@dataclass(frozen=True, slots=True)
class DialoguePlan:
    """One dialogue to be made. `dialogue_id` is the same on any machine for the same inputs."""

    dialogue_id: str
    ordinal: int
    language: str
    n_turns: int
    topic: SeedTopic
    user_persona: Persona
    assistant_persona: Persona
    system_prompt: str = ""
    """The system message that the assistant is told, beside how it answers; "" without one."""
    examples: tuple[int, ...] | None = None
    """The few-shot examples that were drawn for it, by their number in the configuration; None: all."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """The values that were drawn for it of what varies from dialogue to dialogue, by name."""
    goal: str = ""
    """What the user wants to reach, which the assistant is not told; "" without one."""
    expects: Mapping[str, Any] = field(default_factory=dict)
    """What must have happened for it to be met, as plain data; empty where the judge says whether it was."""
    document: PlannedDocument | None = None
    """What it is made from where it has no topic; None where documents are given out as they are needed."""
    from_seed: FromSeed | None = None
    """What is made of its seed's conversation; None when there is none."""
    tools: tuple[str, ...] | None = None
    """The declared tools that its assistant is offered, by name; None where none are declared."""
    tool_state: Mapping[str, Any] | None = None
    """The state that its tools read and change, as it is at first; None without one."""

    def to_json(self) -> dict[str, Any]:
        """As plain data, for the store; what is absent leaves no trace."""
        data = asdict(self)
        if not self.topic.messages:
            del data["topic"]["messages"]
        if self.tool_state is None:  # an empty one is there
            del data["tool_state"]
        return {name: value for name, value in data.items() if name not in _WHERE_SET or value not in _UNSET}

    @property
    def goal_is_judged(self) -> bool:
        """Whether the judge is to say that the user's goal was met."""
        return bool(self.goal) and not self.expects

    @property
    def given(self) -> tuple[Exchange, ...]:
        """What the seed gives of its first turns: questions and, but to be answered anew, their answers."""
        if self.from_seed is None:
            return ()
        if self.from_seed is FromSeed.ANSWER:
            return tuple(Exchange(one.user) for one in self.topic.exchanges)
        return self.topic.exchanges

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DialoguePlan:
        """Return the inverse of `to_json`."""
        return cls(
            dialogue_id=data["dialogue_id"],
            ordinal=data["ordinal"],
            language=data["language"],
            n_turns=data["n_turns"],
            topic=SeedTopic.from_json(data["topic"]),
            user_persona=Persona(**data["user_persona"]),
            assistant_persona=Persona(**data["assistant_persona"]),
            system_prompt=data.get("system_prompt", ""),
            examples=tuple(data["examples"]) if "examples" in data else None,
            attributes=data.get("attributes", {}),
            goal=data.get("goal", ""),
            expects=data.get("expects", {}),
            document=PlannedDocument(**data["document"]) if data.get("document") else None,
            from_seed=FromSeed(data["from_seed"]) if data.get("from_seed") else None,
            tools=tuple(data["tools"]) if "tools" in data else None,
            tool_state=data.get("tool_state"),
        )


@dataclass(frozen=True, slots=True)
class Evidence:
    """A passage a role was given: a chunk of a document, and how well it matched (higher is better).

    `document` is its name in the knowledge folder. `cited`: the assistant's answer draws on it. `text` is
    filled for exports alone: the store has it among the chunks.
    """

    chunk_id: str
    document: str
    given_to: Role
    score: float = 0.0
    cited: bool = False
    text: str = ""


@dataclass(frozen=True, slots=True)
class TurnDetails:
    """What stood behind an answer: passages, tool calls, and the model's reasoning where it is kept."""

    evidence: tuple[Evidence, ...] = ()
    tools: tuple[ToolEvent, ...] = ()
    reasoning: str = ""
    off_topic: bool = False
    """The passages say nothing of the seed topic, and the roles were not told of it."""
    call_reasoning: tuple[str, ...] = ()
    """The part of `reasoning` that came with each of the tool calls; empty where none did."""
    call_rounds: tuple[int, ...] = ()
    """How many of the tool calls were made at once, one round after the other; empty where each was alone."""
    opening: str = ""
    """With what the assistant opened the conversation before this turn, its first."""
    opening_reasoning: str = ""
    """The model's reasoning before that, where it is kept."""
    candidates: tuple[Candidate, ...] = ()
    """Where there may be several answers, all that were given, in the order they were made."""
    origin: Origin = Origin.GENERATED

    def to_json(self) -> dict[str, Any]:
        """As plain data, for the store; empty when there is nothing."""
        if self == _NO_DETAILS:  # as of most turns
            return {}
        # Not by `asdict`, which copies everything that calls of tools have given.
        data: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        data["evidence"] = [asdict(evidence) for evidence in self.evidence]
        for evidence in data["evidence"]:
            del evidence["text"]
        data["tools"] = [event.to_json() for event in self.tools]
        data["candidates"] = [candidate.to_json() for candidate in self.candidates]
        return {key: value for key, value in data.items() if value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> TurnDetails:
        """Return the inverse of `to_json`."""
        if not data:
            return cls()
        return cls(
            evidence=tuple(
                Evidence(**{**item, "given_to": Role(item["given_to"])}) for item in data.get("evidence", ())
            ),
            tools=tuple(map(ToolEvent.from_json, data.get("tools", ()))),
            reasoning=data.get("reasoning", ""),
            call_reasoning=tuple(data.get("call_reasoning", ())),
            call_rounds=tuple(data.get("call_rounds", ())),
            off_topic=data.get("off_topic", False),
            opening=data.get("opening", ""),
            opening_reasoning=data.get("opening_reasoning", ""),
            candidates=tuple(map(Candidate.from_json, data.get("candidates", ()))),
            origin=Origin(data.get("origin", "")),
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer to a question that may get several; the turn's own is the one that was `chosen`.

    A `revision` was written after the judge's comment on the best of the others. `details` are tool calls
    and reasoning; those of the chosen one are the turn's.
    """

    answer: str
    chosen: bool = False
    revision: bool = False
    judgement: Judgement | None = None
    model: str = ""
    temperature: float | None = None
    details: TurnDetails = TurnDetails()

    def to_json(self) -> dict[str, Any]:
        """As plain data, for the store."""
        data = {
            "chosen": self.chosen,
            "revision": self.revision,
            "judgement": self.judgement.to_json() if self.judgement is not None else None,
            "model": self.model,
            "details": self.details.to_json(),
        }
        filled = {name: value for name, value in data.items() if value}
        own = {"temperature": self.temperature} if self.temperature is not None else {}
        return {"answer": self.answer, **filled, **own}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Candidate:
        """Return the inverse of `to_json`."""
        verdict, details = data.get("judgement"), TurnDetails.from_json(data.get("details"))
        judgement = Judgement.from_json(verdict) if verdict else None
        return cls(**{**data, "judgement": judgement, "details": details})


_NO_DETAILS = TurnDetails()


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer; `index` counts from 0."""

    index: int
    user: str
    assistant: str
    judgement: Judgement | None = None
    details: TurnDetails = TurnDetails()

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Turn:
        """From what the store keeps: index, user, assistant, judgement and details, the last two as JSON."""
        index, user, assistant, verdict, details = row
        judgement = Judgement.from_json(verdict) if verdict else None
        return cls(index, user, assistant, judgement, TurnDetails.from_json(details))

    @property
    def messages(self) -> Iterator[tuple[str, str]]:
        """("user" or "assistant", text) of its messages, in order."""
        if self.details.opening:
            yield "assistant", self.details.opening
        yield "user", self.user
        yield "assistant", self.assistant


def topic_of(plan: DialoguePlan, turns: Sequence[Turn]) -> str:
    """Return what a dialogue is about: its seed topic, or "" when it was led off it by its document."""
    return "" if any(turn.details.off_topic for turn in turns) else plan.topic.topic


def documents_of(turns: Sequence[Turn]) -> list[str]:
    """Return the documents that questions were asked from, each once, in order."""
    asked_from = (
        evidence.document
        for turn in turns
        for evidence in turn.details.evidence
        if evidence.given_to is Role.USER_SIMULATOR
    )
    return list(dict.fromkeys(asked_from))


def title_of(plan: DialoguePlan, turns: Sequence[Turn]) -> str:
    """Return a dialogue's title for readers: its topic, or its documents', or its id."""
    return topic_of(plan, turns) or ", ".join(documents_of(turns)) or plan.dialogue_id


def state_after(
    plan: DialoguePlan, turns: Sequence[Turn], events: Sequence[ToolEvent] = ()
) -> dict[str, Any] | None:
    """Return the state of a dialogue's tools after these turns, and tool calls that came after them."""
    if plan.tool_state is None:
        return None
    calls = [*(event for turn in turns for event in turn.details.tools), *events]
    state: dict[str, Any] = changed(plan.tool_state, (change for call in calls for change in call.changes))
    return state


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A finished dialogue. `judgement` is set when the judge looks at the whole conversation.

    `goal` is the verdict on the user's goal where the judge was asked for that alone.
    Of several judges, `by_judge` has every verdict; those on turns and on the whole are merged ones then.
    """

    plan: DialoguePlan
    turns: tuple[Turn, ...]
    judgement: Judgement | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    by_judge: tuple[JudgeVerdict, ...] = ()
    ended_by: Ending = Ending.PLANNED
    goal: GoalVerdict | None = None
    marks: tuple[Mark, ...] = ()  # of reviewers, where they were asked for
    usage: Mapping[str, RoleUsage] = field(default_factory=dict)  # by role, of what was made for it

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Dialogue:
        """From what the store keeps.

        Plan, judgement, models, rows of turns, how it ended, goal verdict and usage.
        """
        plan, judgement, models, turns, ended_by, goal, usage = row
        return cls(
            plan=DialoguePlan.from_json(plan),
            turns=tuple(Turn.from_row(turn) for turn in turns or ()),
            judgement=Judgement.from_json(judgement) if judgement else None,
            models=models or {},
            ended_by=Ending(ended_by or Ending.PLANNED),
            goal=GoalVerdict.from_json(goal),
            usage=usage_from_json(usage),
        )

    @property
    def opening(self) -> str:
        """With what the assistant opened the conversation; empty where the user did."""
        return self.turns[0].details.opening if self.turns else ""

    @property
    def final_state(self) -> Mapping[str, Any] | None:
        """The state that its tools left behind; None without one."""
        return state_after(self.plan, self.turns)

    @property
    def goal_verdict(self) -> GoalVerdict | None:
        """Whether the user's goal was met, whichever verdict says so; None where none does."""
        goal_verdicts = (judgement.goal for judgement in reversed(self.verdicts))
        return self.goal or next((goal for goal in goal_verdicts if goal is not None), None)

    @property
    def verdicts(self) -> list[Judgement]:
        """All that it carries: those on its turns, then the one on the whole."""
        every = (*(turn.judgement for turn in self.turns), self.judgement)
        return [judgement for judgement in every if judgement is not None]

    @property
    def scores(self) -> list[float]:
        """Of everything judged, in the order of `verdicts`: of several judges the mean, not rounded."""
        given: dict[int | None, list[int]] = {}
        for verdict in self.by_judge:
            given.setdefault(verdict.turn_index, []).append(verdict.judgement.score)
        judged = [(turn.index, turn.judgement) for turn in self.turns]
        return [
            sum(given[index]) / len(given[index]) if index in given else float(judgement.score)
            for index, judgement in (*judged, (None, self.judgement))
            if judgement is not None
        ]

    def mean_rating(self, dimension: str) -> float | None:
        """Return the mean rating in a dimension of a rubric; None when nothing was rated in it."""
        ratings = [v.dimensions[dimension] for v in self.verdicts if dimension in v.dimensions]
        return sum(ratings) / len(ratings) if ratings else None

    @property
    def mean_score(self) -> float | None:
        """The mean of its scores; None when nothing was judged."""
        scores = self.scores
        return sum(scores) / len(scores) if scores else None
