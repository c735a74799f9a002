"""Estimate of what a whole plan takes, from the few dialogues that a preview has made.

Each role's usage in a turn is fitted over all turns of the few as a straight line in the turn's number, for
prompts grow with the conversation; its calls as their mean; a verdict on the whole conversation as a line in
the number of turns. Of the few a turn counts as often as they came to it: users may leave, dialogues be
dropped. Summed up over the plan's dialogues, whose languages, attributes and numbers of turns are known: the
few are weighted so that their languages and attributes have the plan's shares (raking). With acceptance each
sample takes 1/share dialogues, and no more than are allowed. What the plan has used already is known: only
what is left to make is estimated.

The range is a bootstrap: the same is worked out for the few drawn with replacement, many times; what comes
out is spread as much further as Student's t is wider than the normal distribution, for the few are few. The
share that is accepted is drawn from its posterior, which is as wide as it should be. Of all that the range is
the middle 90 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

MEASURES = ("calls", "prompt_tokens", "completion_tokens", "dollars", "seconds")
_CALLS = MEASURES.index("calls")
_RESAMPLES = 300
_FEWEST_RESAMPLES = 50
_MOST_NUMBERS = 5_000_000
"""Held at once: fewer resamples are drawn of many dialogues with many turns."""
_TAIL = 0.05
_RAKING_ROUNDS = 20
_MAX_WEIGHT = 5.0

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Sample:
    """A dialogue of the few. Of the planned `turns` it came to `reached`, the last of them perhaps in part.

    `by_turn` is its usage, by role an array of turns and `MEASURES`; `whole` that of the verdict on the
    whole, if there was one.
    """

    language: str
    turns: int
    reached: int
    by_turn: Mapping[str, Floats]
    whole: Mapping[str, Floats] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WholePlan:
    """What is to be made: dialogues by language and number of turns, and of each value of an attribute.

    `attempts`: how many dialogues at most may be made for each; 1 without acceptance. So many were
    `accepted` so far, of those that have `ended`. `left` are the dialogues not yet made, spares included, by
    language, number of turns and how many of these are made; all of them where it is unset. What was made has
    `used` so much, by role.
    """

    dialogues: Mapping[tuple[str, int], int]
    attributes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    attempts: int = 1
    accepted: int = 0
    ended: int = 0
    left: Mapping[tuple[str, int, int], int] | None = None
    used: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def to_make(self) -> Mapping[tuple[str, int, int], int]:
        """Dialogues not yet made, by language, number of turns and how many of these are made."""
        if self.left is not None:
            return self.left
        return {(language, turns, 0): count for (language, turns), count in self.dialogues.items()}

    @property
    def n_dialogues(self) -> int:
        """How many dialogues there are to be."""
        return sum(self.dialogues.values())

    @property
    def n_turns(self) -> int:
        """How many turns they have together."""
        return sum(turns * count for (_, turns), count in self.dialogues.items())


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that is estimated, and its range; without one `low` and `high` are the number itself."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a whole plan takes, by role and `MEASURES`; "" is all roles together.

    `made` is how many dialogues are made for those that the plan asks for; `samples` how many it is by.
    """

    samples: int
    made: Figure
    figures: Mapping[str, Mapping[str, Figure]]

    @property
    def total(self) -> Mapping[str, Figure]:
        """All roles together."""
        return self.figures[""]


def estimate(samples: Sequence[Sample], plan: WholePlan, seed: int = 0) -> Estimate:
    """Return what the plan takes, by these few dialogues of it. Raises ValueError without any."""
    if not samples:
        raise ValueError("no dialogue was made to estimate by")
    roles = sorted({*plan.used, *(role for one in samples for role in (*one.by_turn, *one.whole))})
    random, n = np.random.default_rng(seed), len(samples)
    longest = max(turns for _, turns in plan.dialogues)
    resamples = min(_RESAMPLES, max(_FEWEST_RESAMPLES, _MOST_NUMBERS // (n * longest)))
    if n == 1 and plan.attempts == 1:
        resamples = 0
    # How often each dialogue is drawn; the first row is the few as they are.
    drawn = np.vstack([np.ones((1, n)), random.multinomial(n, [1 / n] * n, size=resamples)])
    attempts = np.ones(1 + resamples)
    if plan.attempts > 1 and plan.ended:
        refused = plan.ended - plan.accepted
        likely = random.beta(plan.accepted + 0.5, refused + 0.5, size=resamples)
        shares = np.concatenate([[plan.accepted / plan.ended], likely])
        attempts = np.array([_attempts(share, plan.attempts) for share in shares])
    usage = _usage(samples, plan, roles, drawn)
    usage = (usage[:1] + _widening(n) * (usage - usage[:1])) * attempts[:, None, None]
    usage += [plan.used.get(role, np.zeros(len(MEASURES))) for role in roles]
    usage = np.concatenate([usage, usage.sum(axis=1, keepdims=True)], axis=1)
    figures = {
        role: {
            name: _figure(usage[:, i, m], plan.used[role][m] if role in plan.used else 0.0)
            for m, name in enumerate(MEASURES)
        }
        for i, role in enumerate([*roles, ""])
    }
    made = np.full(1, float(plan.n_dialogues))
    if plan.attempts > 1:
        made = attempts * sum(plan.to_make.values()) + (plan.ended if plan.left is not None else 0)
    return Estimate(n, _figure(made), figures)


def _attempts(share: float, most: int) -> float:
    """How many dialogues, `most` at most, are made for a sample when such a share of them is accepted."""
    return float(most) if share <= 0 else (1 - (1 - share) ** most) / share


def _figure(found: Floats, least: float = 0.0) -> Figure:
    """Return the first of the numbers, with the range of the others around it."""
    value, draws = float(found[0]), found[1:]
    if not len(draws):
        return Figure(value, value, value)
    low, high = (float(end) for end in np.quantile(draws, [_TAIL, 1 - _TAIL]))
    return Figure(value, max(least, min(value, low)), max(value, high))


def _widening(n: int) -> float:
    """How much wider a range by so few is than the bootstrap finds it.

    The bootstrap's variance is (n - 1)/n of the true one; Student's quantile is by its expansion.
    """
    if n < 2:
        return 1.0
    z, degrees = NormalDist().inv_cdf(1 - _TAIL), n - 1
    t = z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    return float(t / z * (n / (n - 1)) ** 0.5)


def _usage(samples: Sequence[Sample], plan: WholePlan, roles: Sequence[str], drawn: Floats) -> Floats:
    """Return the usage of what is left of the plan, by draw, role and measure, at one attempt for each."""
    weights = _weights(samples, plan, drawn)
    left = Counter[tuple[int, int]]()
    for (_, planned, done), count in plan.to_make.items():
        left[planned, done] += count
    longest = max([*(planned for planned, _ in left), *(sample.turns for sample in samples)])
    turns, reached = (np.array([getattr(s, name) for s in samples]) for name in ("turns", "reached"))
    numbers = np.arange(longest)
    come_to = _come_to(weights, turns[:, None] > numbers, reached[:, None] > numbers)
    # How many dialogues of the plan have each turn before them, and come to it.
    due = np.array([sum(n for (end, done), n in left.items() if done <= k < end) for k in numbers]) * come_to
    found = np.zeros((len(drawn), len(roles), len(MEASURES)))
    for i, role in enumerate(roles):
        by_turn = np.zeros((len(samples), longest, len(MEASURES)))
        for s, sample in enumerate(samples):
            if (rows := sample.by_turn.get(role)) is not None:
                by_turn[s, : len(rows)] = rows
        per_turn = _lines(
            weights, reached[:, None] > numbers, np.broadcast_to(numbers, by_turn.shape[:2]), by_turn, numbers
        )
        found[:, i] = (per_turn * due[:, :, None]).sum(axis=1)
        having = np.array([role in sample.whole for sample in samples])
        if having.any():
            whole = np.array([sample.whole.get(role, np.zeros(len(MEASURES))) for sample in samples])
            at = np.array([planned for planned, _ in left], np.int64)
            dialogues = np.array(list(left.values()))
            each = _lines(weights, having[:, None], reached[:, None], whole[:, None], at)
            share = weights @ having / weights.sum(axis=1)
            found[:, i] += (each * dialogues[:, None]).sum(axis=1) * share[:, None]
    return found


def _come_to(weights: Floats, has: Bools, reaches: Bools) -> Floats:
    """Return by draw which share of the dialogues that have a turn come to it."""
    due, reached = weights @ has, weights @ reaches
    shares = np.ones_like(due)
    for k in range(due.shape[1]):
        before = shares[:, k - 1] if k else shares[:, k]
        # Nobody drawn has so many turns: as in the turn before.
        shares[:, k] = np.where(due[:, k] > 0, reached[:, k] / np.maximum(due[:, k], 1e-12), before)
    return shares


def _lines(weights: Floats, counts: Bools, points: Ints, usage: Floats, at: Ints) -> Floats:
    """Return by draw what weighted lines through the usage say `at` some points, never less than nothing.

    The usage is by dialogue, point and measure; of the points those count that are in `counts`.
    """
    weight = weights[:, :, None] * counts  # by draw, dialogue and point
    total = np.maximum(weight.sum(axis=(1, 2)), 1e-12)
    middle = (weight * points).sum(axis=(1, 2)) / total
    spread = (weight * points**2).sum(axis=(1, 2)) / total - middle**2
    mean = np.einsum("dsp,spm->dm", weight, usage) / total[:, None]
    slope = np.einsum("dsp,spm->dm", weight * points, usage) / total[:, None] - middle[:, None] * mean
    slope = np.where(spread[:, None] > 1e-9, slope / np.maximum(spread, 1e-9)[:, None], 0.0)
    slope[:, _CALLS] = 0.0
    found = mean[:, None] + (at - middle[:, None])[:, :, None] * slope[:, None]
    return np.asarray(np.maximum(0.0, found))


def _weights(samples: Sequence[Sample], plan: WholePlan, drawn: Floats) -> Floats:
    """Return weights with which the few of each draw have the plan's shares of languages and attributes."""
    languages = Counter[str]()
    for (language, _, _), count in plan.to_make.items():
        languages[language] += count
    margins: list[tuple[list[str], Mapping[str, int]]] = [
        ([sample.language for sample in samples], languages)
    ]
    margins += [
        ([sample.attributes.get(name, "") for sample in samples], values)
        for name, values in plan.attributes.items()
    ]
    weights = drawn.astype(np.float64)
    for _ in range(_RAKING_ROUNDS):
        for values, wanted in margins:
            weights = _with_shares(weights, values, wanted)
        weights = np.clip(weights, drawn / _MAX_WEIGHT, drawn * _MAX_WEIGHT)
    return weights


def _with_shares(weights: Floats, values: Sequence[str], wanted: Mapping[str, int]) -> Floats:
    """Return weights with which each value has its share, of the values alone that were drawn."""
    known = sorted(value for value in set(values) if wanted.get(value, 0))
    if len(known) < 2:
        return weights
    members = np.array([[value == one for one in known] for value in values], np.float64)
    has = weights @ members
    share = np.array([wanted[value] for value in known]) * (has > 0)
    target = share / np.maximum(share.sum(axis=1, keepdims=True), 1e-12) * has.sum(axis=1, keepdims=True)
    factors = np.where(has > 0, target / np.maximum(has, 1e-12), 1.0)
    others = 1 - members.sum(axis=1)
    return np.asarray(weights * (factors @ members.T + others))
