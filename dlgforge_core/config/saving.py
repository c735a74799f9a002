"""`saving`: where and how the dataset is written."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from dlgforge_core.config.base import ConfigModel


class SavingConfig(ConfigModel):
    """Where and how the dataset is written."""

    output_dir: str = Field("", description="Folder of the dataset. Empty: .dlgforge/datasets/<fingerprint>.")
    formats: list[str] = Field(
        ["sharegpt", "openai_messages", "parquet"],
        description="Formats to write: sharegpt, openai_messages, parquet.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = ["sharegpt", "openai_messages", "parquet"]
        bad = [f for f in self.formats if f not in known]
        if bad or not self.formats:
            raise ValueError(f"formats = {self.formats}: choose from {', '.join(known)}")
        return self
