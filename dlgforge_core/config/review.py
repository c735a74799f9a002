"""`saving.review`: what of reviewers' work goes into the dataset."""

from __future__ import annotations

from pydantic import Field

from dlgforge_core.config.base import ConfigModel

MARKS = "marks"
"""The column of reviewers' marks."""


class ReviewConfig(ConfigModel):
    """What reviewers did on the page of `make review` that goes into the dataset."""

    edits: bool = Field(
        False, description="Whether messages that reviewers have edited are written as edited."
    )
    marks: bool = Field(
        False,
        description="Whether reviewers' marks are a column of the ShareGPT and Parquet files, where there "
        "are any. It has the names that reviewers gave.",
    )
