"""Texts that the plan draws for a dialogue, from a recipe's templates: system messages and goals."""

from __future__ import annotations

from dlgforge_core.config.prompts import read_system_prompt
from dlgforge_core.dialogue import DialoguePlan, Persona
from dlgforge_core.errors import ConfigError
from dlgforge_core.prompting.parts import everywhere, inline


def system_prompt_of(source: str, plan: DialoguePlan) -> str:
    """Return the system message of a dialogue, from its template. Raises ConfigError when it is too long."""
    return _drawn_text("system_prompts", source, plan, plan.assistant_persona)


def goal_of(source: str, plan: DialoguePlan) -> str:
    """Return the user's goal in a dialogue, from its template. Raises ConfigError when it is too long."""
    return _drawn_text("goals", source, plan, plan.user_persona)


def _drawn_text(key: str, source: str, plan: DialoguePlan, persona: Persona) -> str:
    try:
        text = read_system_prompt(source).render(
            topic=inline(plan.topic.topic), persona=inline(persona.description), **everywhere(plan)
        )
    except ValueError as error:
        raise ConfigError(f"conversation.{key}: {error}") from None
    return text.strip()
