"""`judge`: how dialogues are judged."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from dlgforge_core.config.base import ConfigModel


class JudgeConfig(ConfigModel):
    """How dialogues are judged."""

    mode: Literal["online", "off"] = Field("online", description="Judge while generating, or not at all.")
    granularity: Literal["turn", "conversation"] = Field("turn", description="What one verdict is about.")
    reasons: list[str] = Field(
        [
            "accurate",
            "helpful",
            "clear",
            "off_topic",
            "wrong_language",
            "repetitive",
            "incomplete",
            "incorrect",
        ],
        description="The labels a verdict may give as reasons.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mode == "online" and not self.reasons:
            raise ValueError(
                "reasons is empty; name at least one label, for example ['helpful', 'incorrect']"
            )
        return self
