"""Agreement of people with judges: a person who marks counts as a judge who gives one of two scores."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dlgforge_core.database.connection import Connection
from dlgforge_core.judging.agreement import agreement_of
from dlgforge_core.review.ended import ended_dialogues, latest_judges
from dlgforge_core.review.filters import Filters
from dlgforge_core.review.listing import every
from dlgforge_core.review.marks import marks_of
from dlgforge_core.verdicts import MAX_SCORE, mean_scores

PEOPLE = "all reviewers"
THRESHOLD = 6
"""From which score on a judge counts as saying good, unless another one is asked for."""
MAX_DIALOGUES = 20_000
_GOOD, _BAD = MAX_SCORE, 0


@dataclass(frozen=True, slots=True)
class Rated:
    """A dialogue that was marked: whether each reviewer finds it good, and each judge's mean score."""

    marks: Mapping[str, bool]
    scores: Mapping[str, float]

    @property
    def good(self) -> bool:
        """Whether nobody has marked it bad."""
        return all(self.marks.values())


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two who have both rated dialogues, of whom the first is a person.

    `alpha` is Krippendorff's, over good and bad; None where it is not defined. Of a judge `auc` is how often
    a dialogue that the person finds good has a higher score than one that they find bad; ties count half.
    """

    first: str
    second: str
    both_good: int
    both_bad: int
    first_good: int
    second_good: int
    alpha: float | None
    auc: float | None = None

    @property
    def dialogues(self) -> int:
        """How many both have rated."""
        return self.both_good + self.both_bad + self.first_good + self.second_good

    @property
    def same(self) -> float:
        """The share of which both think the same."""
        return (self.both_good + self.both_bad) / self.dialogues


@dataclass(frozen=True, slots=True)
class ReviewAgreement:
    """How people agree with judges and each other, and at which threshold most with each judge."""

    dialogues: int
    good: int
    with_judges: Sequence[Comparison]
    among_people: Sequence[Comparison]
    best_thresholds: Mapping[str, tuple[int, float]]


def rated_dialogues(connection: Connection, filters: Filters, reviewer: str = "") -> list[Rated]:
    """Return the dialogues among those of the filters that were marked, `MAX_DIALOGUES` at most."""
    marked = filters if filters.marked in ("yes", "good", "bad", "mine") else replace(filters, marked="yes")
    judges, found = latest_judges(connection), list[Rated]()
    for ids in every(connection, marked, reviewer):
        marks = marks_of(connection, ids)
        for one in ended_dialogues(connection, ids, judges):
            if given := marks.get(one.dialogue_id):
                means = mean_scores(one.dialogue.by_judge)
                if not means and (score := one.dialogue.mean_score) is not None:
                    means = {one.judge: score}
                found.append(Rated({mark.reviewer: mark.good for mark in given}, means))
        if len(found) >= MAX_DIALOGUES:
            break
    return found


def review_agreement(rated: Sequence[Rated], threshold: int = THRESHOLD) -> ReviewAgreement:
    """Return how far marks and scores agree, where a score from `threshold` on says good."""
    people = sorted({name for one in rated for name in one.marks})
    judges = sorted({name for one in rated for name in one.scores})
    raters = [*([PEOPLE] if len(people) > 1 else []), *people]
    with_judges = [_with_judge(rated, person, judge, threshold) for judge in judges for person in raters]
    among = [
        _compared(a, b, [(one.marks[a], one.marks[b]) for one in _of_both(rated, a, b)])
        for a, b in itertools.combinations(people, 2)
    ]
    return ReviewAgreement(
        dialogues=len(rated),
        good=sum(one.good for one in rated),
        with_judges=[one for one in with_judges if one is not None],
        among_people=[one for one in among if one is not None],
        best_thresholds={judge: best for judge in judges if (best := _best(rated, judge)) is not None},
    )


def _of_both(rated: Sequence[Rated], first: str, second: str) -> list[Rated]:
    return [one for one in rated if first in one.marks and second in one.marks]


def _opinion(one: Rated, person: str) -> bool | None:
    return one.good if person == PEOPLE else one.marks.get(person)


def _with_judge(rated: Sequence[Rated], person: str, judge: str, threshold: float) -> Comparison | None:
    pairs = _of_judge(rated, person, judge)
    return _compared(person, judge, _at(threshold, pairs), _auc(pairs))


def _of_judge(rated: Sequence[Rated], person: str, judge: str) -> list[tuple[bool, float]]:
    """Return what both a person and a judge have rated: whether it is good, and the score."""
    return [
        (opinion, one.scores[judge])
        for one in rated
        if judge in one.scores and (opinion := _opinion(one, person)) is not None
    ]


def _at(threshold: float, pairs: Sequence[tuple[bool, float]]) -> list[tuple[bool, bool]]:
    return [(good, score >= threshold) for good, score in pairs]


def _compared(
    first: str, second: str, pairs: Sequence[tuple[bool, bool]], auc: float | None = None
) -> Comparison | None:
    """Return a comparison of opinions; None where there is none of both."""
    if not pairs:
        return None
    counts = Counter(pairs)
    combinations = [((_score(a), _score(b)), n) for (a, b), n in counts.items()]
    alpha = agreement_of([first, second], combinations).alpha
    both, neither = counts[True, True], counts[False, False]
    return Comparison(first, second, both, neither, counts[True, False], counts[False, True], alpha, auc)


def _score(good: bool) -> int:
    return _GOOD if good else _BAD


def _best(rated: Sequence[Rated], judge: str) -> tuple[int, float] | None:
    """Return the threshold with which a judge agrees most with all reviewers, and alpha there."""
    pairs = _of_judge(rated, PEOPLE, judge)
    alphas = [
        (one.alpha, -threshold)
        for threshold in range(1, MAX_SCORE + 1)
        if (one := _compared(PEOPLE, judge, _at(threshold, pairs))) is not None and one.alpha is not None
    ]
    if not alphas:
        return None
    alpha, threshold = max(alphas)
    return -threshold, alpha


def _auc(pairs: Sequence[tuple[bool, float]]) -> float | None:
    """Return the area under the ROC curve of scores; None where all or none are good."""
    n_good = sum(good for good, _ in pairs)
    n_bad = len(pairs) - n_good
    if not n_good or not n_bad:
        return None
    below, won = 0, 0.0
    for _, group in itertools.groupby(sorted(pairs, key=lambda pair: pair[1]), key=lambda pair: pair[1]):
        of_score = Counter(good for good, _ in group)
        won += of_score[True] * (below + of_score[False] / 2)
        below += of_score[False]
    return won / (n_good * n_bad)
