"""Parts that prompts are put together from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dlgforge_core.config import ExampleConfig
from dlgforge_core.dialogue import DialoguePlan
from dlgforge_core.languages import in_language
from dlgforge_core.llm.tool_calls import Message
from dlgforge_core.prompting.quoting import neutralise


def inline(text: str) -> str:
    """Text from a seed file as part of a sentence: no line of its own, no control token."""
    return " ".join(neutralise(text).split())


def everywhere(plan: DialoguePlan) -> dict[str, Any]:
    """Return the variables that the templates of all messages have."""
    return {"language": in_language(plan.language), "attributes": attributes_of(plan)}


def attributes_of(plan: DialoguePlan) -> Mapping[str, str]:
    """Return the dialogue's attributes as parts of sentences."""
    return {name: inline(value) for name, value in plan.attributes.items()}


def shown(examples: Sequence[ExampleConfig]) -> list[dict[str, str]]:
    """Return examples as templates take them."""
    return [{"question": neutralise(one.question), "answer": neutralise(one.answer)} for one in examples]


def beginning(*texts: str) -> list[Message]:
    """Return the system message of these texts, one below the other; none where they are all empty."""
    text = "\n".join(text for text in texts if text.strip())
    return [{"role": "system", "content": text}] if text else []
