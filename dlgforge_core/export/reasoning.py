"""Reasoning in the messages of a dataset: as a field of its own, between tags in the text, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlgforge_core.config.saving import Reasoning
from dlgforge_core.dialogue import TurnDetails

FIELD = "reasoning_content"
"""The field of a message that holds reasoning, as chat templates of reasoning models read it."""


def answer_reasoning(details: TurnDetails) -> str:
    """Return what was thought before the answer: the turn's reasoning without that of its tool calls."""
    before = "\n\n".join(filter(None, details.call_reasoning))
    return details.reasoning.removeprefix(before).lstrip("\n") if before else details.reasoning


def call_reasoning(details: TurnDetails, call: int) -> str:
    """Return what was thought right before a tool call, by its number in the turn."""
    return details.call_reasoning[call] if call < len(details.call_reasoning) else ""


def with_reasoning(message: Mapping[str, Any], reasoning: str, form: Reasoning) -> dict[str, Any]:
    """Return an assistant's message with its reasoning.

    As a field it is there in every such message, empty without reasoning, so that columns have one form.
    """
    if form == "field":
        return {**message, FIELD: reasoning}
    if form == "tags":
        return {**message, "content": in_tags(message["content"], reasoning, form)}
    return dict(message)


def in_tags(text: str, reasoning: str, form: Reasoning) -> str:
    """Return an answer after its reasoning between `<think>` tags, where that is the form."""
    return f"<think>\n{reasoning}\n</think>\n\n{text}" if form == "tags" and reasoning else text
