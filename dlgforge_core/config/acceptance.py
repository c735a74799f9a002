"""`run.accept`: what a finished dialogue must be like to count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from dlgforge_core.common.hints import hint
from dlgforge_core.config.base import ConfigModel, KeyedError
from dlgforge_core.config.checks import ACCEPT_CHECKS, CHECKS_OF_THE_WHOLE
from dlgforge_core.config.judging import JudgeConfig
from dlgforge_core.verdicts import MAX_SCORE


def _checks(names: list[str]) -> list[str]:
    for name in names:
        if name in CHECKS_OF_THE_WHOLE:
            raise ValueError(
                f"{name!r} looks at the whole dataset, but it is decided when a dialogue is finished; "
                f"choose from {', '.join(ACCEPT_CHECKS)}"
            )
        if name not in ACCEPT_CHECKS:
            raise ValueError(
                f"{name!r} is no check of a dialogue; {hint(name, ACCEPT_CHECKS, 'choose from')}"
            )
    return names


class AcceptConfig(ConfigModel):
    """What a finished dialogue must be like to count in `total_samples`; with no key set all count."""

    min_score: Annotated[float, Field(ge=0.0, le=float(MAX_SCORE))] | None = Field(
        None, description="Lowest mean of the judge's scores, 0 to 10. Unset: no bound."
    )
    required_labels: list[str] = Field(
        [], description="Labels, from judge.reasons, that every verdict must give."
    )
    forbidden_labels: list[str] = Field(
        [], description="Labels, from judge.reasons, that no verdict may give."
    )
    min_dimensions: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(
        {}, description="By dimension of judge.rubric, the lowest mean rating."
    )
    goal_met: bool | None = Field(
        None,
        description="true: the user must have reached the goal, by what it expects or as the judge sees it; "
        "false: must have missed it. Dialogues without a goal are not held to it. Unset: no condition.",
    )
    checks: Annotated[list[str], AfterValidator(_checks)] = Field(
        [],
        description=f"Checks that must find nothing wrong in the dialogue: {', '.join(ACCEPT_CHECKS)}. "
        "With schema alone whatever is finished counts, and only dropped dialogues are replaced.",
    )

    @property
    def active(self) -> bool:
        """Whether a dialogue has to be accepted at all."""
        return bool(self.model_dump(exclude_defaults=True))

    @property
    def needs_verdicts(self) -> bool:
        """Whether it depends on the judge's verdicts."""
        return bool(
            self.min_score is not None or self.required_labels or self.forbidden_labels or self.min_dimensions
        )

    def check(self, judge: JudgeConfig, *, has_goals: bool = False, judges_goals: bool = False) -> None:
        """Raise KeyedError when no dialogue could be accepted, or not while it is made.

        `judges_goals`: of some goals the judge says whether they were met.
        """
        if self.goal_met is not None and not has_goals:
            raise KeyedError(
                ("run", "accept", "goal_met"), "there are no conversation.goals; add some, or leave this out"
            )
        of_goals = self.goal_met is not None and judges_goals
        if (self.needs_verdicts or of_goals) and judge.mode != "online":
            without = {"checks"} if of_goals else {"checks", "goal_met"}
            key = next(key for key in self.model_dump(exclude_defaults=True) if key not in without)
            raise KeyedError(
                ("run", "accept", key),
                f"a dialogue is accepted when it is finished, but with judge.mode = {judge.mode!r} it has no "
                f"verdict then; set judge.mode to online, or leave {key} out (saving.filters looks at "
                "verdicts that are given afterwards)",
            )
        for key in ("required_labels", "forbidden_labels"):
            self._check_names(key, getattr(self, key), judge.reasons, "label of judge.reasons")
        rated = {dimension.name: dimension for dimension in judge.rubric}
        self._check_names(
            "min_dimensions", list(self.min_dimensions), list(rated), "dimension of judge.rubric"
        )
        for name, least in self.min_dimensions.items():
            if least > rated[name].max:
                raise KeyedError(
                    ("run", "accept", "min_dimensions"),
                    f"{name} = {least:g} is more than the rubric's scale has; use {rated[name].max} or less",
                )
        if both := sorted({*self.required_labels} & {*self.forbidden_labels}):
            raise KeyedError(
                ("run", "accept", "forbidden_labels"),
                f"{', '.join(both)} is in required_labels as well, so that no dialogue could be accepted; "
                "keep it in one of them",
            )

    def _check_names(self, key: str, names: Sequence[str], known: Sequence[str], what: str) -> None:
        for name in names:
            if name not in known:
                right = hint(name, known, "choose from") if known else "it has none"
                raise KeyedError(("run", "accept", key), f"{name!r} is no {what}; {right}")
