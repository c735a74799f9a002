"""`checks`: what a set of dialogues must be like to pass."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dlgforge_core.config.base import ConfigModel, NonNegativeInt, Probability
from dlgforge_core.verdicts import MAX_SCORE

ACCEPT_CHECKS = (
    "schema",
    "roles_alternate",
    "no_empty_messages",
    "turn_counts",
    "no_cut_messages",
    "no_leaks",
    "language",
)
"""The checks that look at one dialogue by itself: those that `run.accept.checks` may name."""
CHECKS_OF_THE_WHOLE = ("unique_questions", "drop_rate", "judge_pass_rate", "goals_met")
"""The others, which are not there yet when a dialogue is finished."""


class ChecksConfig(ConfigModel):
    """What a set of dialogues must be like to pass. Shares are between 0 and 1."""

    max_drop_rate: Probability = Field(
        0.5,
        description="Greatest share of dialogues dropped, among those that ended: of all, and of each "
        "partition with 4 or more.",
    )
    max_cut_share: Probability = Field(
        0.1, description="Greatest share of messages that end in the middle of a sentence."
    )
    max_leak_share: Probability = Field(
        0.0, description="Greatest share of dialogues that repeat their instructions or a persona's text."
    )
    leak_words: Annotated[int, Field(ge=3)] = Field(
        8, description="Words in a row, the same as in a persona's text, that count as a leak."
    )
    min_language_share: Probability = Field(
        0.9, description="Smallest share of messages that are in the dialogue's language."
    )
    pass_score: Annotated[int, Field(ge=0, le=MAX_SCORE)] = Field(
        6, description=f"Score, 0 to {MAX_SCORE}, from which on a verdict is a pass."
    )
    min_pass_rate: Probability = Field(0.5, description="Smallest share of verdicts that are passes.")
    min_goals_met: Probability = Field(
        0.0, description="Smallest share of users who reach their goal, see conversation.goals."
    )
    max_opening_share: Probability | None = Field(
        0.5,
        description="Greatest share of a language's questions that begin with the same three words. As the "
        "next two, of the dataset that was written, in languages with 20 questions or more. Null: off.",
    )
    min_distinct_2: Probability | None = Field(
        None,
        description="Smallest distinct-2 of a language's questions: different pairs of words in a row among "
        "all, in a sample of at most 1,000 questions. What is usual depends on the language. Null: off.",
    )
    max_self_similarity: Probability | None = Field(
        None,
        description="Greatest mean similarity of two of a language's questions, measured as for "
        "coverage.question_similarity_threshold. Null: off.",
    )
    max_examples: NonNegativeInt = Field(5, description="Examples that a check shows of what it found.")
