"""What decides what is generated, apart from the seeds and the models."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from dlgforge_core.config.base import ConfigModel
from dlgforge_core.config.coverage import CoverageConfig
from dlgforge_core.config.inputs import PersonasConfig
from dlgforge_core.config.judging import JudgeConfig
from dlgforge_core.config.knowledge import RetrievalConfig
from dlgforge_core.config.run import RunConfig
from dlgforge_core.config.tools import ToolsConfig


class GenerationConfig(ConfigModel):
    """Everything the `dialogues` asset is configured with, apart from its resources."""

    run: RunConfig = Field(default_factory=RunConfig, description="What to make.")
    personas: PersonasConfig = Field(default_factory=PersonasConfig, description="Who talks.")
    judge: JudgeConfig = Field(default_factory=JudgeConfig, description="How dialogues are judged.")
    coverage: CoverageConfig = Field(default_factory=CoverageConfig, description="How repeats are kept out.")
    tools: ToolsConfig = Field(default_factory=ToolsConfig, description="What the assistant may call.")
    retrieval: RetrievalConfig = Field(
        default_factory=RetrievalConfig, description="How passages are found, where there is knowledge."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.run.accept.check(self.judge)
        return self
