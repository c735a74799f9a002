"""`coverage`: how repeats are kept out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dlgforge_core.config.base import ConfigModel, NonNegativeInt, Probability


class CoverageConfig(ConfigModel):
    """How repeats are kept out."""

    question_dedup_retries: NonNegativeInt = Field(
        3, description="New questions asked for after a repeated one, before the dialogue is dropped."
    )
    question_similarity_threshold: Annotated[float, Field(ge=0.5, le=1.0)] = Field(
        0.8,
        description="From which similarity to a question of the dataset another one is rejected as a repeat: "
        "the share of their three-letter pieces, case and punctuation aside, that the two have in common "
        "(Jaccard), 0.5 to 1. With 1 only exact repeats are, which costs least. Raise it where questions "
        "rightly differ by a number or a name alone.",
    )
    doc_coverage_mode: Literal["balanced", "relevance"] = Field(
        "balanced",
        description="Which document a dialogue is grounded in. `balanced`: of the least used ones the one "
        "that fits its topic best, so that all are used evenly; `relevance`: the one that fits best.",
    )
    doc_coverage_epsilon: Probability = Field(
        0.05, description="Share of the dialogues that get a document drawn at random instead."
    )
    doc_coverage_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.2, description="Share of the documents, the least used ones, that `balanced` chooses from."
    )
