"""Who judges dialogues that are there already, and what exactly a verdict is about."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from dlgforge_core.config import AgentConfig, JudgeConfig, JudgeModelConfig, LlmConfig, PromptsConfig
from dlgforge_core.config.backends import backend_of
from dlgforge_core.dialogue import DialoguePlan, Persona, Role, Turn
from dlgforge_core.errors import ConfigError
from dlgforge_core.llm.tool_calls import Message
from dlgforge_core.prompting import verdict_prompts as prompts
from dlgforge_core.prompting.templates import SHIPPED, Templates
from dlgforge_core.prompting.verdict_evidence import evidence_shown, verdict_messages
from dlgforge_core.sources import Origin, SeedTopic

WHOLE = -1
"""The turn index of a verdict on the whole conversation."""

_SOMEBODY = Persona(id="", name="name", description="description")
_SAMPLE_PLAN = DialoguePlan(
    dialogue_id="",
    ordinal=0,
    language="en",
    n_turns=2,
    topic=SeedTopic(id="", language="en", topic="topic"),
    user_persona=_SOMEBODY,
    assistant_persona=_SOMEBODY,
)
_SAMPLE_TURNS = (Turn(0, "question", "answer"), Turn(1, "another question", "another answer"))


@dataclass(frozen=True, slots=True)
class Judge:
    """A model that judges, and how. `key` is the digest of everything that makes its verdicts."""

    name: str
    model: str
    agent: AgentConfig
    key: str
    caller: str = Role.JUDGE.value
    """As whom it calls: several judges have names of their own where they have providers of their own."""

    @property
    def seed(self) -> int:
        """What the sampling seeds of its calls are derived from."""
        return int(self.key[:8], 16)

    @property
    def settings(self) -> dict[str, Any]:
        """Its sampling, as plain data."""
        settings = {"temperature": self.agent.temperature, "top_p": self.agent.top_p}
        return {**settings, "extra_body": self.agent.extra_body} if self.agent.extra_body else settings


@dataclass(frozen=True, slots=True)
class Subject:
    """What one verdict is about: a turn, or with index WHOLE the conversation; `digest` is of its text."""

    index: int
    digest: bytes


def judges_of(config: JudgeConfig, llm: LlmConfig, prompts: PromptsConfig | None = None) -> tuple[Judge, ...]:
    """Return the offline judges, in the order of the configuration; `prompts` are its own.

    Raises ConfigError when two of them would give the same verdicts, or the backend serves no such model.
    """
    own = prompts.of(Role.JUDGE) if prompts is not None else {}
    judges = tuple(_judge(config, llm, one, own) for one in config.judges or [JudgeModelConfig()])
    names = [judge.name for judge in judges]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"judge.judges: {', '.join(twice)} names two judges; give each a `name` of its own")
    by_key: dict[str, Judge] = {}
    for judge in judges:
        if (other := by_key.setdefault(judge.key, judge)) is not judge:
            raise ConfigError(
                f"judge.judges: {other.name!r} and {judge.name!r} are the same model at the same temperature "
                "and would give the same verdicts; change one of them, or leave it out"
            )
    served = llm.model_of(Role.JUDGE)
    unlike = [judge.model for judge in judges if judge.model != served and not judge.agent.has_address]
    if backend_of(llm.backend).serves_one_model and unlike:
        raise ConfigError(
            f"judge.judges asks for {', '.join(unlike)}, but the managed servers serve {served!r} alone; "
            "attach servers that serve the other judges (llm.backend vllm_attach), or leave these out"
        )
    return judges


def _judge(config: JudgeConfig, llm: LlmConfig, one: JudgeModelConfig, own: Mapping[str, str]) -> Judge:
    changes = {"model": one.model or None, "temperature": one.temperature, "max_tokens": one.max_tokens}
    agent = provider_of(one, llm).model_copy(
        update={name: value for name, value in changes.items() if value is not None}
    )
    model = agent.model or (llm.model if agent.has_address else llm.model_of(Role.JUDGE))
    name = one.name or model
    if not model:
        raise ConfigError(f"judge.judges: {name!r} has endpoints of its own and names no model; set `model`")
    if agent.has_credentials and not agent.has_address and backend_of(llm.backend).starts_servers:
        raise ConfigError(
            f"judge.judges: {name!r} has a key of its own and no address; set its `base_url` too"
        )
    return Judge(
        name,
        model,
        agent,
        _key(config, llm, agent, model, own),
        caller=f"{Role.JUDGE.value}:{name}" if one.is_apart else Role.JUDGE.value,
    )


def provider_of(one: JudgeModelConfig, llm: LlmConfig) -> AgentConfig:
    """Return the judge of `llm.agents` with what one of several has of its own in the way of a provider."""
    own: set[str] = set()
    if one.has_address:
        own |= {"base_url", "endpoints"}
    if one.has_credentials:
        own |= {"api_key_env", "headers_env"}
    own |= {name for name in ("timeout_s", "max_attempts") if getattr(one, name) is not None}
    update = {name: getattr(one, name) for name in own}
    prices = {**llm.agents.qa_judge.prices, **one.prices}
    return llm.agents.qa_judge.model_copy(update={**update, "prices": prices})


def _key(config: JudgeConfig, llm: LlmConfig, agent: AgentConfig, model: str, own: Mapping[str, str]) -> str:
    # A prompt made of fixed words stands for the prompts' version: nobody has to remember to raise a number.
    # It holds the reasons and the dimensions of a rubric, too, but for their weights.
    evidence, instructions = "passages" if config.show_evidence else "", agent.instructions
    turns, last = _SAMPLE_TURNS, _SAMPLE_TURNS[1]
    sample: list[Any] = [
        prompts.conversation_judge(_SAMPLE_PLAN, config, turns, evidence=evidence, instructions=instructions),
        prompts.turn_judge(
            _SAMPLE_PLAN, config, turns[:1], last, evidence=evidence, instructions=instructions
        ),
        prompts.verdict_schema(config),
    ]
    if config.rubric:
        sample.append([dimension.weight for dimension in config.rubric])
    sampling: list[Any] = [agent.temperature, agent.top_p]
    if agent.extra_body:
        sampling.append(orjson.dumps(agent.extra_body, option=orjson.OPT_SORT_KEYS).decode())
    weights = "" if agent.has_address else backend_of(llm.backend).weights(llm)
    parts = [weights, model, sampling, config.granularity, sample]
    return _digest([*parts, dict(sorted(own.items()))] if own else parts).hex()


def subjects(
    config: JudgeConfig,
    plan: DialoguePlan,
    turns: Sequence[Turn],
    texts: Mapping[str, str],
    templates: Templates = SHIPPED,
) -> list[Subject]:
    """Return what is to be judged of a dialogue, in order. `texts` are those of its chunks, by id.

    What a seed says word for word is not. The digest of a turn covers all that its judge is shown: the turns
    before it as well, and what the prompt says of topic and language, but not earlier verdicts.
    """
    plain = [replace(turn, judgement=None) for turn in turns]
    generated = [turn.index for turn in plain if turn.details.origin is not Origin.SEED]
    indices = [WHOLE] if config.granularity == "conversation" else generated
    messages = {i: messages_about(i, config, plan, plain, texts, templates=templates) for i in indices}
    return [Subject(i, _digest(prompt)) for i, prompt in messages.items()]


def messages_about(
    index: int,
    config: JudgeConfig,
    plan: DialoguePlan,
    turns: Sequence[Turn],
    texts: Mapping[str, str],
    instructions: str = "",
    templates: Templates = SHIPPED,
) -> list[Message]:
    """Return the prompt for a verdict on one turn, or with index WHOLE on the conversation."""
    whole = index == WHOLE
    seen = turns if whole else turns[: index + 1]
    judged = seen if whole else seen[-1:]
    return verdict_messages(
        config,
        plan,
        seen,
        evidence_shown(config, [turn.details for turn in judged], texts),
        whole=whole,
        instructions=instructions,
        templates=templates,
        goal=judges_goal(index, plan, turns),
    )


def judges_goal(index: int, plan: DialoguePlan, turns: Sequence[Turn]) -> bool:
    """Whether a verdict on a turn, or with index WHOLE on the conversation, says if the goal was met.

    Of those on turns the last one does: its judge is shown the whole conversation.
    """
    return plan.goal_is_judged and index in (WHOLE, len(turns) - 1)


def _digest(data: Any) -> bytes:
    return hashlib.blake2b(orjson.dumps(data), digest_size=16).digest()
