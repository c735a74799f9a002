"""`judge`: how dialogues are judged."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dlgforge_core.config.base import BareOff, ConfigModel, PositiveInt, Seconds
from dlgforge_core.config.endpoints import ProviderConfig
from dlgforge_core.config.prices import Dollars
from dlgforge_core.config.rubric import RubricConfig

# Settings of `judge` that say who judges afterwards and how hard to work on it. They have no part in what
# is generated.
OFFLINE_KEYS = frozenset({"judges", "distributed", "concurrency", "max_tokens", "max_cost", "patience_s"})


class JudgeModelConfig(ProviderConfig):
    """One of several offline judges. What it leaves out is as in llm.agents.qa_judge."""

    name: str = Field("", description="Name in tables and plots. Empty: the model.")
    model: str = Field("", description="Model that judges. Empty: that of llm.agents.qa_judge.")
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = Field(
        None, description="Sampling temperature. Unset: that of llm.agents.qa_judge."
    )
    max_tokens: PositiveInt | None = Field(
        None, description="Most tokens of one verdict. Unset: those of llm.agents.qa_judge."
    )


class JudgeConfig(ConfigModel):
    """How dialogues are judged."""

    mode: Annotated[Literal["online", "offline", "off"], BareOff] = Field(
        "online",
        description="Judge while generating, afterwards by the asset `judgements`, or not at all.",
    )
    granularity: Literal["turn", "conversation"] = Field("turn", description="What one verdict is about.")
    show_evidence: bool = Field(
        True,
        description="Show the judge the passages that the assistant was given, so that it can tell what they "
        "do not support.",
    )
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
            "unsupported",
        ],
        description="The labels a verdict may give as reasons.",
    )
    rubric: RubricConfig = Field(
        [],
        description="Dimensions that a verdict rates, with whether question and answer are good enough to be "
        "used. The score is not asked for then: it is the weighted mean of the ratings' shares of their "
        "scales, from 0 to 10, rounded, halves up. Empty: the judge gives the score.",
    )
    show_rubric: bool = Field(
        True,
        description="Tell the judge the dimensions of `rubric` in its system message. False: an own template "
        "prompts.qa_judge.system speaks of them itself.",
    )
    show_persona: bool = Field(False, description="Tell the judge who user and assistant were to be.")
    judges: list[JudgeModelConfig] = Field(
        [], description="Who judges in mode offline, each on its own. Empty: llm.agents.qa_judge alone."
    )
    concurrency: PositiveInt = Field(
        8,
        description="Calls that may be under way at once in mode offline, over all judges, in each worker.",
    )
    distributed: bool | None = Field(
        None,
        description="Whether Ray workers judge in mode offline. Unset: as run.distributed.enabled of the run "
        "that is judged. Which actors are started, run.distributed.spawn says.",
    )
    max_tokens: PositiveInt | None = Field(
        None,
        description="Budget of one session in mode offline: stop cleanly, to go on another time, once it has "
        "used this many tokens (in and out).",
    )
    max_cost: Dollars | None = Field(
        None,
        description="Budget of one session in mode offline, in US dollars, as run.max_cost is that of a run.",
    )
    patience_s: Seconds = Field(
        60.0, description="Seconds for which no endpoint may answer before offline judging stops."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mode != "off" and not self.reasons:
            raise ValueError(
                "reasons is empty; name at least one label, for example ['helpful', 'incorrect']"
            )
        if self.mode == "online" and self.judges:
            raise ValueError(
                f"judges names {len(self.judges)}, but mode online judges while generating, with "
                "llm.agents.qa_judge alone; set mode to offline, or leave judges empty"
            )
        labels = Counter(judge.name or judge.model or "llm.agents.qa_judge" for judge in self.judges)
        if twice := sorted(label for label, n in labels.items() if n > 1):
            raise ValueError(f"judges holds {', '.join(twice)} more than once; give each a `name` of its own")
        return self
