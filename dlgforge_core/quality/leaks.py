"""Leaks: what a message gives away of instructions, of a persona, of passages that were shown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from dlgforge_core.common.questions import normal_form
from dlgforge_core.config import ConversationConfig, PromptsConfig
from dlgforge_core.config.prompts import read_system_prompt
from dlgforge_core.dialogue import Dialogue, Role, Turn
from dlgforge_core.llm.markup import Markup, default_markup
from dlgforge_core.prompting.passage_marks import FRAME, QUOTE_MARK, names_material, names_source
from dlgforge_core.prompting.phrases import phrase_pattern
from dlgforge_core.prompting.templates import SHIPPED, Templates
from dlgforge_core.sources import Origin

_MAX_PHRASES = 2000  # a message is searched for each of them
PHRASES = phrase_pattern(SHIPPED.by_message.values(), _MAX_PHRASES)
"""What finds a phrase of the shipped templates."""


def phrases_of(prompts: PromptsConfig, conversation: ConversationConfig) -> re.Pattern[str]:
    """Return what finds a phrase of the templates in use with a configuration."""
    templates = Templates.of(prompts)
    system_prompts = [read_system_prompt(one.text) for one in conversation.system_prompts]
    if templates is SHIPPED and not system_prompts:
        return PHRASES
    return phrase_pattern([*templates.by_message.values(), *system_prompts], _MAX_PHRASES)


def messages_of(dialogue: Dialogue) -> Iterator[tuple[int, str, str]]:
    """(turn from 1, "user" or "assistant", text) of every message."""
    for number, turn in enumerate(dialogue.turns, start=1):
        for role, text in turn.messages:
            yield number, role, text


def written_messages_of(dialogue: Dialogue) -> Iterator[tuple[int, str, str]]:
    """As `messages_of`, of those that models wrote, and not the seed."""
    origins = [turn.details.origin for turn in dialogue.turns]
    for number, role, text in messages_of(dialogue):
        origin = origins[number - 1]
        if origin is not Origin.SEED and (origin is not Origin.SEED_QUESTION or role != "user"):
            yield number, role, text


def leaks(
    dialogue: Dialogue,
    leak_words: int,
    markup: Markup | None = None,
    phrases: re.Pattern[str] = PHRASES,
) -> Iterator[tuple[int, str, str, str]]:
    """(turn from 1, role, text, what it does) of every message that gives something away.

    `leak_words` in a row, the same as in a persona's text, count as repeating it. `markup` knows what the
    configuration adds to tags and tokens, and what of them it keeps; `phrases` are those of its templates.
    """
    plan, markup = dialogue.plan, markup or default_markup()
    personas = plan.user_persona, plan.assistant_persona
    secret = [words for persona in personas for words in _runs(persona.description, leak_words)]
    for number, role, text in written_messages_of(dialogue):
        problem = _of_material(dialogue, dialogue.turns[number - 1], role, text)
        if mark := markup.leftover(text):
            problem = f"says {mark!r}, which models write around their thinking and turns"
        elif match := phrases.search(text):
            problem = f"says {match[0]!r}"
        elif shared := _shared(secret, text):
            problem = f"says {shared!r}, a persona's text"
        if problem:
            yield number, role, text, problem


def _of_material(dialogue: Dialogue, turn: Turn, role: str, text: str) -> str:
    """How a message gives away the passages that its writer was shown; "" when it does not."""
    if match := FRAME.search(text):
        return f"says {match[0]!r}, the frame of passages"
    details = turn.details
    if role == "user":
        asked_from = any(evidence.given_to is Role.USER_SIMULATOR for evidence in details.evidence)
        if asked_from and names_material(text, dialogue.plan.topic.topic):
            return "speaks of the passage that the question was asked from"
    # In code, and where no passage was shown, ">" is markdown like any other.
    elif (details.evidence or details.tools) and "```" not in text and QUOTE_MARK.search(text):
        return "quotes lines as passages are quoted"
    elif any(evidence.given_to is Role.ASSISTANT for evidence in details.evidence) and (
        named := names_source(text, turn.user, dialogue.plan.topic.topic)
    ):
        return f"says {named!r}, of passages that its reader has never seen"
    return ""


@lru_cache(maxsize=256)
def _runs(text: str, n: int) -> tuple[str, ...]:
    """Return all runs of `n` words of a text, in its normal form."""
    words = normal_form(text).split()
    return tuple(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))


def _shared(runs: Sequence[str], text: str) -> str:
    """Return the first in the alphabet of these runs of words that a text has; "" for none."""
    if not runs:
        return ""
    words = f" {normal_form(text)} "
    return min((run for run in runs if run in words and f" {run} " in words), default="")
