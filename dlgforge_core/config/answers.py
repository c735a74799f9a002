"""`answers`: several answers of the assistant to one question, and another try at a poor one."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from dlgforge_core.config.agents import Temperature
from dlgforge_core.config.backends import backend_of
from dlgforge_core.config.base import ConfigModel, KeyedError
from dlgforge_core.config.judging import JudgeConfig
from dlgforge_core.config.llm import LlmConfig
from dlgforge_core.verdicts import MAX_SCORE

MAX_CANDIDATES = 8


class AnswersConfig(ConfigModel):
    """How many answers the assistant gives to each question, of which the judge chooses one."""

    candidates: Annotated[int, Field(ge=1, le=MAX_CANDIDATES)] = Field(
        1,
        description=f"Answers to each question, {MAX_CANDIDATES} at most. Of several the judge rates each in "
        "one call; the one with the highest score is the answer, of equal ones the first.",
    )
    temperatures: list[Temperature] = Field(
        [],
        description="Sampling temperature of each candidate, one entry each. Empty: that of "
        "llm.agents.kb_responder.",
    )
    models: list[str] = Field(
        [],
        description="Model of each candidate, one entry each, asked for at the assistant's endpoints. Empty: "
        "the assistant's model.",
    )
    revise: Annotated[float, Field(gt=0.0, le=float(MAX_SCORE))] | None = Field(
        None,
        description="An answer with a lower score is written anew, once, by an assistant that is shown the "
        "judge's comment; the one with the higher score is the answer. Null: none is.",
    )

    @property
    def several(self) -> bool:
        """Whether a question may get more than one answer."""
        return self.candidates > 1 or self.revise is not None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key in ("temperatures", "models"):
            given: list[object] = getattr(self, key)
            if given and len(given) != self.candidates:
                raise ValueError(
                    f"{key} has {len(given)} entries and candidates = {self.candidates}; name one for each "
                    "candidate, or none"
                )
        if blank := [number for number, model in enumerate(self.models) if not model.strip()]:
            raise ValueError(f"models.{blank[0]} is empty; name a model for each candidate, or none")
        return self

    def check_models(self, llm: LlmConfig) -> None:
        """Raise KeyedError when the candidates' models are not served where the assistant is asked."""
        if self.models and not llm.agents.kb_responder.has_address and backend_of(llm.backend).starts_servers:
            raise KeyedError(
                ("answers", "models"),
                f"backend {llm.backend} serves one model; leave models out, or set "
                "llm.agents.kb_responder.base_url to an endpoint that serves these",
            )

    def check(self, judge: JudgeConfig) -> None:
        """Raise KeyedError when nobody could choose among the answers."""
        if self.candidates > 1 and judge.mode != "online":
            raise KeyedError(
                ("answers", "candidates"),
                f"of {self.candidates} answers the judge chooses one while the dialogue is made, but "
                f"judge.mode = {judge.mode!r}; set judge.mode to online, or candidates to 1",
            )
        if self.revise is not None and (judge.mode != "online" or judge.granularity != "turn"):
            raise KeyedError(
                ("answers", "revise"),
                "an answer is revised after the judge's verdict on it, but judge.mode = "
                f"{judge.mode!r} with granularity {judge.granularity!r} gives none on each turn while the "
                "dialogue is made; set mode to online and granularity to turn, or leave revise out",
            )
