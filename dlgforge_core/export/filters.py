"""What stays out of a dataset: by the judge's verdicts, and by predicates of the caller's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from dlgforge_core.config.saving import FiltersConfig
from dlgforge_core.dialogue import Dialogue
from dlgforge_core.errors import DlgforgeError

Predicate = Callable[[Dialogue], bool]
UNJUDGED, MIN_SCORE, REASONS = "unjudged", "min_score", "judge_reasons"
MIN_DIMENSIONS, REQUIRE_OK, GOAL_MET, MARKS = "min_dimensions", "require_ok", "goal_met", "marks"
SEMANTIC_DEDUP = "semantic_dedup"


class EmptyDatasetError(DlgforgeError):
    """No dialogue is left to write: an empty dataset never takes the place of one that is there.

    `read` dialogues were read; `refused` counts them by the filter that refused them.
    """

    def __init__(self, read: int, refused: Mapping[str, int], filters: FiltersConfig) -> None:
        self.read, self.refused = read, dict(refused)
        if not read:
            super().__init__("there is no dialogue to write; what was written before stays as it is")
            return
        settings = {
            UNJUDGED: "no verdict, and saving.filters.keep_unjudged is false",
            MIN_SCORE: f"a mean score below saving.filters.min_score = {filters.min_score}",
            REASONS: f"a reason among saving.filters.judge_reasons = {filters.labels}",
            MIN_DIMENSIONS: f"a mean rating below saving.filters.min_dimensions = {filters.min_dimensions}",
            REQUIRE_OK: f"not good enough by saving.filters.require_ok = {filters.require_ok}",
            GOAL_MET: f"the user's goal, by saving.filters.goal_met = {str(filters.goal_met).lower()}",
            MARKS: f"reviewers' marks, by saving.filters.marks = {filters.marks}",
            SEMANTIC_DEDUP: "opened like another one (saving.semantic_dedup)",
        }
        counts = "; ".join(
            f"{count} by {name} ({settings[name]})" if name in settings else f"{count} by {name}"
            for name, count in refused.items()
            if count
        )
        super().__init__(
            f"no dialogue is left to write: {read} were read, and the filters refused all of them: {counts}. "
            "Loosen the filters; what was written before stays as it is"
        )


class NoPairsError(EmptyDatasetError):
    """Pairs alone were to be written, and none of the dialogues has any."""

    def __init__(self, read: int, refused: Mapping[str, int], kept: int, min_margin: float) -> None:
        DlgforgeError.__init__(
            self,
            f"none of {kept} dialogues has a pair of answers whose scores differ by saving.min_margin = "
            f"{min_margin:g} or more: ask for more answers (answers.candidates, answers.revise), lower "
            "min_margin, or write other formats as well; what was written before stays as it is",
        )
        self.read, self.refused = read, dict(refused)


class Sieve:
    """Asks each filter in turn; a dialogue is counted under the first that refuses it."""

    def __init__(self, filters: FiltersConfig, keep: Sequence[tuple[str, Predicate]] = ()) -> None:
        self._filters = filters
        self._labels = frozenset(filters.labels)
        self._keep = list(keep)
        self.read = 0
        # Filters that are set are listed even where they refuse nothing.
        self.refused: Counter[str] = Counter(dict.fromkeys(self._active(), 0))

    def _active(self) -> list[str]:
        of_verdicts = {
            UNJUDGED: not self._filters.keep_unjudged,
            MIN_SCORE: self._filters.min_score is not None,
            REASONS: bool(self._labels),
            MIN_DIMENSIONS: bool(self._filters.min_dimensions),
            REQUIRE_OK: bool(self._filters.require_ok),
            GOAL_MET: self._filters.goal_met is not None,
            MARKS: self._filters.marks != "any",
        }
        return [*(name for name, on in of_verdicts.items() if on), *(name for name, _ in self._keep)]

    def __call__(self, dialogue: Dialogue) -> bool:
        """Whether `dialogue` is kept."""
        self.read += 1
        refusal = (
            self._verdicts(dialogue)
            or self._goal(dialogue)
            or self._marks(dialogue)
            or next((name for name, keeps in self._keep if not keeps(dialogue)), None)
        )
        if refusal is not None:
            self.refused[refusal] += 1
        return refusal is None

    def _verdicts(self, dialogue: Dialogue) -> str | None:
        score = dialogue.mean_score
        if score is None:
            return None if self._filters.keep_unjudged else UNJUDGED
        if self._filters.min_score is not None and score < self._filters.min_score:
            return MIN_SCORE
        if self._labels and any(self._labels & set(verdict.reasons) for verdict in dialogue.verdicts):
            return REASONS
        return self._ratings(dialogue)

    def _goal(self, dialogue: Dialogue) -> str | None:
        wanted, verdict = self._filters.goal_met, dialogue.goal_verdict
        if wanted is None or not dialogue.plan.goal:
            return None
        if verdict is None:
            return None if self._filters.keep_unjudged else UNJUDGED
        return None if verdict.met is wanted else GOAL_MET

    def _marks(self, dialogue: Dialogue) -> str | None:
        if self._filters.marks == "any":
            return None
        bad = any(not mark.good for mark in dialogue.marks)
        return MARKS if bad or (self._filters.marks == "good" and not dialogue.marks) else None

    def _ratings(self, dialogue: Dialogue) -> str | None:
        for dimension, floor in self._filters.min_dimensions.items():
            rating = dialogue.mean_rating(dimension)
            if rating is None and not self._filters.keep_unjudged:
                return UNJUDGED
            if rating is not None and rating < floor:
                return MIN_DIMENSIONS
        for part in self._filters.require_ok:
            opinions = [v.question_ok if part == "question" else v.answer_ok for v in dialogue.verdicts]
            if False in opinions:
                return REQUIRE_OK
        return None
