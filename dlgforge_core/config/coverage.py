"""`coverage`: how repeats are kept out."""

from __future__ import annotations

from pydantic import Field

from dlgforge_core.config.base import ConfigModel, NonNegativeInt


class CoverageConfig(ConfigModel):
    """How repeats are kept out."""

    question_dedup_retries: NonNegativeInt = Field(
        3, description="New questions asked for after a repeated one, before the dialogue is dropped."
    )
