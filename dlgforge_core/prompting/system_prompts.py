"""System messages of the assistant, from a recipe's templates."""

from __future__ import annotations

from dlgforge_core.config.prompts import read_system_prompt
from dlgforge_core.dialogue import DialoguePlan
from dlgforge_core.errors import ConfigError
from dlgforge_core.prompting.parts import everywhere, inline


def system_prompt_of(source: str, plan: DialoguePlan) -> str:
    """Return the system message of a dialogue, from its template. Raises ConfigError when it is too long."""
    try:
        text = read_system_prompt(source).render(
            topic=inline(plan.topic.topic),
            persona=inline(plan.assistant_persona.description),
            **everywhere(plan),
        )
    except ValueError as error:
        raise ConfigError(f"conversation.system_prompts: {error}") from None
    return text.strip()
