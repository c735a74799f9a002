"""Texts that the plan draws for a dialogue, from a recipe's templates: system messages, goals, states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlgforge_core.config import GoalConfig
from dlgforge_core.config.expectations import with_texts_made
from dlgforge_core.config.prompts import read_system_prompt
from dlgforge_core.dialogue import DialoguePlan, Persona
from dlgforge_core.errors import ConfigError
from dlgforge_core.prompting.parts import everywhere, inline


def system_prompt_of(source: str, plan: DialoguePlan) -> str:
    """Return the system message of a dialogue, from its template. Raises ConfigError when it is too long."""
    return _drawn_text("conversation.system_prompts", source, plan, plan.assistant_persona)


def goal_of(source: str, plan: DialoguePlan) -> str:
    """Return the user's goal in a dialogue, from its template. Raises ConfigError when it is too long."""
    return _drawn_text("conversation.goals", source, plan, plan.user_persona)


def state_of(value: Mapping[str, Any] | None, plan: DialoguePlan) -> dict[str, Any] | None:
    """Return what a dialogue's tools begin with, from a document whose texts are templates; None without.

    Raises ConfigError when a text in it is too long.
    """
    if value is None:
        return None
    made: dict[str, Any] = with_texts_made(value, lambda text: _exact("tools.state", text, plan))
    return made


def expectation_of(goal: GoalConfig, plan: DialoguePlan) -> dict[str, Any]:
    """Return what must have happened for a goal to be met in a dialogue, as plain data; empty for nothing.

    Raises ConfigError when a text in it is too long.
    """
    if not goal.expect.active:
        return {}
    made: dict[str, Any] = with_texts_made(
        goal.expect.plain, lambda text: _exact("conversation.goals", text, plan)
    )
    return made


def _exact(key: str, source: str, plan: DialoguePlan) -> str:
    return _drawn_text(key, source, plan, plan.user_persona, exact=True)


def _drawn_text(key: str, source: str, plan: DialoguePlan, persona: Persona, *, exact: bool = False) -> str:
    try:
        text = read_system_prompt(source).render(
            topic=inline(plan.topic.topic), persona=inline(persona.description), **everywhere(plan)
        )
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None
    return text if exact else text.strip()
