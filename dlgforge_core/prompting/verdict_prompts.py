"""Verdicts: the judge's prompts, the schema of its answers, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from dlgforge_core.config import JudgeConfig
from dlgforge_core.dialogue import DialoguePlan, Persona, Role, Turn, topic_of
from dlgforge_core.llm.tool_calls import Message
from dlgforge_core.prompting.parts import beginning, everywhere, inline
from dlgforge_core.prompting.quoting import quote
from dlgforge_core.prompting.rubric import ratings_schema, rubric_text
from dlgforge_core.prompting.templates import SHIPPED, Templates
from dlgforge_core.verdicts import MAX_SCORE, Judgement


def turn_judge(
    plan: DialoguePlan,
    judge: JudgeConfig,
    before: Sequence[Turn],
    turn: Turn,
    *,
    evidence: str = "",
    instructions: str = "",
    templates: Templates = SHIPPED,
) -> list[Message]:
    """One verdict on the answer of a turn. `evidence` is quoted material behind it, of this turn only.

    Earlier turns come with their verdicts, so that each prompt begins with most of the one before.
    """
    messages = _so_far(plan, judge, before, turn, evidence, instructions, templates)
    return [
        *messages,
        {"role": "user", "content": exchanges_of(plan, evidence, [turn], templates, whole=False)},
    ]


def comparing_judge(
    plan: DialoguePlan,
    judge: JudgeConfig,
    before: Sequence[Turn],
    answers: Sequence[Turn],
    *,
    evidence: str = "",
    instructions: str = "",
    templates: Templates = SHIPPED,
) -> list[Message]:
    """One verdict on each of several `answers` to a question, the same turn with each of them.

    The prompt begins as that for a verdict on the turn.
    """
    messages = _so_far(plan, judge, before, answers[0], evidence, instructions, templates)
    listed = (f"Answer {n}:\n{quote(turn.assistant)}" for n, turn in enumerate(answers, 1))
    compared = templates.render(
        Role.JUDGE,
        "answers",
        evidence=evidence,
        question=_question(answers[0]),
        answers="\n".join(listed),
        count=str(len(answers)),
        **everywhere(plan),
    )
    return [*messages, {"role": "user", "content": compared}]


def _so_far(
    plan: DialoguePlan,
    judge: JudgeConfig,
    before: Sequence[Turn],
    turn: Turn,
    evidence: str,
    instructions: str,
    templates: Templates,
) -> list[Message]:
    about = topic_of(plan, [*before, turn])
    system = _judge_system(plan, judge, about, evidence, instructions, templates, whole=False)
    messages = beginning(system)
    for earlier in before:
        messages.append({"role": "user", "content": _exchange(earlier)})
        if earlier.judgement is not None:
            messages.append({"role": "assistant", "content": _verdict_text(earlier.judgement)})
    return messages


def alternating(messages: Sequence[Message]) -> list[Message]:
    """Return the messages, with neighbours of one role in one, as many chat templates want it.

    There are such where an earlier turn has no verdict.
    """
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"]:
            joined[-1] = {**message, "content": f"{joined[-1]['content']}\n\n{message['content']}"}
        else:
            joined.append(message)
    return joined


def conversation_judge(
    plan: DialoguePlan,
    judge: JudgeConfig,
    turns: Sequence[Turn],
    *,
    evidence: str = "",
    instructions: str = "",
    templates: Templates = SHIPPED,
) -> list[Message]:
    """One verdict on the whole dialogue. `evidence` is quoted material behind its answers."""
    about = topic_of(plan, turns)
    system = _judge_system(plan, judge, about, evidence, instructions, templates, whole=True)
    return [*beginning(system), {"role": "user", "content": exchanges_of(plan, evidence, turns, templates)}]


def verdict_schema(judge: JudgeConfig) -> dict[str, Any]:
    """JSON schema of a verdict: reasons from the configured labels, and a score or a rubric's ratings."""
    properties = {
        # What is said before the score is what it is given for. Small judges overlook a wrong language unless
        # they have to name it; it is not read.
        "answer_language": {"type": "string", "maxLength": 24},
        "comment": {"type": "string", "maxLength": 160},
        "reasons": {
            "type": "array",
            "items": {"type": "string", "enum": list(judge.reasons)},
            "minItems": 1,
            "maxItems": min(3, len(judge.reasons)),
        },
        **(ratings_schema(judge.rubric) if judge.rubric else _SCORE),
    }
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_SCORE: dict[str, Any] = {"score": {"type": "integer", "minimum": 0, "maximum": MAX_SCORE}}


def _judge_system(
    plan: DialoguePlan,
    judge: JudgeConfig,
    about: str,
    evidence: str,
    instructions: str,
    templates: Templates,
    *,
    whole: bool,
) -> str:
    return templates.render(
        Role.JUDGE,
        "system",
        topic=inline(about),
        whole=whole,
        reasons=", ".join(judge.reasons),
        max_score=MAX_SCORE,
        evidence=bool(evidence),
        instructions=instructions,
        system_prompt=quote(plan.system_prompt) if plan.system_prompt else "",
        rubric=rubric_text(judge.rubric, plan, templates) if judge.show_rubric else "",
        user_persona=_persona(plan.user_persona) if judge.show_persona else "",
        assistant_persona=_persona(plan.assistant_persona) if judge.show_persona else "",
        **everywhere(plan),
    )


def _persona(persona: Persona) -> str:
    return inline(f"{persona.name}. {persona.description}") if persona.description else ""


def exchanges_of(
    plan: DialoguePlan,
    evidence: str,
    turns: Sequence[Turn],
    templates: Templates,
    *,
    whole: bool = True,
    alone: bool = False,
) -> str:
    """Return what is judged, after the material behind it; see the templates' variables."""
    return templates.render(
        Role.JUDGE,
        "exchanges",
        evidence=evidence,
        exchanges="\n\n".join(map(_exchange, turns)),
        whole=whole,
        alone=alone,
        **everywhere(plan),
    )


def _exchange(turn: Turn) -> str:
    return f"{_question(turn)}\nAssistant:\n{quote(turn.assistant)}"


def _question(turn: Turn) -> str:
    opening = f"Assistant:\n{quote(turn.details.opening)}\n" if turn.details.opening else ""
    return f"{opening}User:\n{quote(turn.user)}"


def _verdict_text(judgement: Judgement) -> str:
    reasons = ", ".join(f'"{reason}"' for reason in judgement.reasons)
    if ratings := judgement.ratings:
        return f'{{"reasons": [{reasons}], {orjson.dumps(ratings).decode()[1:]}'
    return f'{{"reasons": [{reasons}], "score": {judgement.score}}}'
