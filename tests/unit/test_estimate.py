"""Estimates of a whole plan, from dialogues whose usage is known."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.generation.estimate import MEASURES, Sample, WholePlan, estimate
from dlgforge_core.generation.preview_samples import busy_seconds
from dlgforge_core.planning.rotation import in_rotation, spread
from dlgforge_core.store.preview import RecordedCall


def dialogue(
    turns: int, reached: int | None = None, language: str = "en", scale: float = 1.0, **more: object
) -> Sample:
    """Return a dialogue of two calls a turn; prompts of the k-th have 100 + 50 k tokens, times `scale`."""
    rows = np.zeros((turns, len(MEASURES)))
    for k in range(turns if reached is None else reached):
        rows[k] = (2, scale * (100 + 50 * k), scale * 40, 0.01, 0.5)
    sample = Sample(language, turns, turns if reached is None else reached, {"kb_responder": rows})
    return replace(sample, **more)  # type: ignore[arg-type]


def plan(counts: Mapping[tuple[str, int], int], **more: object) -> WholePlan:
    return replace(WholePlan(counts), **more)  # type: ignore[arg-type]


def prompt_tokens(turns: int) -> float:
    return sum(100 + 50 * k for k in range(turns))


@given(
    st.lists(st.integers(1, 8), min_size=2, max_size=6),
    st.dictionaries(st.integers(1, 12), st.integers(1, 99), min_size=1),
)
@settings(max_examples=50, deadline=None)
def test_prompts_that_grow_are_extrapolated_to_turns_that_were_not_made(
    made: list[int], counts: dict[int, int]
) -> None:
    found = estimate([dialogue(n) for n in made], plan({("en", n): c for n, c in counts.items()})).total
    turns = sum(n * c for n, c in counts.items())
    assert found["calls"].value == pytest.approx(2 * turns)
    assert found["completion_tokens"].value == pytest.approx(40 * turns)
    if max(made) > 1:
        expected = sum(c * prompt_tokens(n) for n, c in counts.items())
        assert found["prompt_tokens"].value == pytest.approx(expected)
    for figure in found.values():
        assert figure.low <= figure.value <= figure.high


def test_languages_count_as_the_plan_has_them() -> None:
    few = [dialogue(3), dialogue(3), dialogue(3), dialogue(3, language="ar", scale=2.0)]
    found = estimate(few, plan({("en", 3): 50, ("ar", 3): 50})).total
    assert found["completion_tokens"].value == pytest.approx(100 * 3 * 40 * 1.5)


def test_attributes_count_as_the_plan_has_them() -> None:
    few = [dialogue(2, attributes={"length": "short"})] * 3 + [
        dialogue(2, scale=3.0, attributes={"length": "long"})
    ]
    whole = plan({("en", 2): 100}, attributes={"length": {"short": 50, "long": 50, "never seen": 0}})
    assert estimate(few, whole).total["completion_tokens"].value == pytest.approx(100 * 2 * 40 * 2)


def test_a_verdict_on_the_whole_is_counted_by_dialogues_and_not_by_turns() -> None:
    few = [
        dialogue(n, whole={"qa_judge": np.array([1.0, 100.0 + 30 * n, 10.0, 0.0, 1.0])}) for n in (1, 2, 2, 4)
    ]
    found = estimate(few, plan({("en", 2): 10, ("en", 6): 10})).figures["qa_judge"]
    assert found["calls"].value == pytest.approx(20)
    assert found["prompt_tokens"].value == pytest.approx(10 * 160 + 10 * 280)


def test_turns_that_are_not_come_to_are_not_paid_for() -> None:
    few = [dialogue(4), dialogue(4), dialogue(4, reached=2), dialogue(4, reached=2)]
    found = estimate(few, plan({("en", 4): 100})).total
    assert found["calls"].value == pytest.approx(100 * 2 * 3)


@pytest.mark.parametrize(
    ("accepted", "ended", "factor"), [(4, 4, 1.0), (2, 4, 1.9375), (0, 4, 5.0), (0, 0, 1.0)]
)
def test_samples_take_as_many_dialogues_as_are_refused(accepted: int, ended: int, factor: float) -> None:
    whole = plan({("en", 2): 100}, attempts=5, accepted=accepted, ended=ended)
    found = estimate([dialogue(2)] * 4, whole)
    assert found.made.value == pytest.approx(100 * factor)
    assert found.total["calls"].value == pytest.approx(100 * 4 * factor)
    if ended:
        assert found.made.low < found.made.high


def test_what_was_used_is_known_and_only_what_is_left_estimated() -> None:
    used = {"kb_responder": np.array([80.0, 9000.0, 1600.0, 0.0, 1.0])}
    few = [dialogue(4, scale=scale) for scale in (0.5, 1.0, 1.5)]
    half = plan({("en", 4): 20}, left={("en", 4, 0): 9, ("en", 4, 2): 2}, used=used)
    found = estimate(few, half).total
    assert found["calls"].value == pytest.approx(80 + 2 * (9 * 4 + 2 * 2))
    assert found["completion_tokens"].value == pytest.approx(1600 + 40 * 40)
    made = plan({("en", 4): 20}, left={}, used=used)
    for figure, known in zip(estimate(few, made).total.values(), used["kb_responder"], strict=True):
        assert figure.low == figure.value == figure.high == known


@pytest.mark.parametrize(("accepted", "ended"), [(0, 5), (1, 5), (3, 5), (5, 5), (12, 30)])
def test_refusals_do_not_take_the_range_below_one_dialogue_for_each_sample(accepted: int, ended: int) -> None:
    # All dialogues are alike: the range is that of the share that is accepted.
    whole = plan({("en", 2): 100}, attempts=16, accepted=accepted, ended=ended)
    found = estimate([dialogue(2)] * 5, whole)
    assert found.made.low >= 100 - 1e-6
    assert found.made.high <= 1600 + 1e-6
    for end in ("low", "value", "high"):
        assert getattr(found.total["calls"], end) == pytest.approx(4 * getattr(found.made, end))


def test_one_dialogue_gives_no_range_and_none_no_estimate() -> None:
    found = estimate([dialogue(2)], plan({("en", 2): 10}))
    assert all(figure.low == figure.value == figure.high for figure in found.total.values())
    with pytest.raises(ValueError, match="no dialogue"):
        estimate([], plan({("en", 2): 10}))


def test_the_range_holds_the_truth_about_as_often_as_it_says() -> None:
    # Dialogues whose answers are longer or shorter than others' throughout, by a half.
    draw = random.Random(1)
    held = 0
    for _ in range(40):
        few = [dialogue(3, scale=draw.lognormvariate(0, 0.4)) for _ in range(5)]
        truth = 100 * 3 * 40 * np.exp(0.4**2 / 2)
        figure = estimate(few, plan({("en", 3): 100})).total["completion_tokens"]
        held += figure.low <= truth <= figure.high
    assert held >= 30


@dataclass(frozen=True)
class Part:
    batch: str
    language: str
    n_dialogues: int


def test_the_first_few_are_of_all_languages_and_seed_batches() -> None:
    parts = [Part(batch, language, 4) for batch in "ab" for language in ("en", "fr", "es")]
    order = list(in_rotation(parts))
    assert len(set(order)) == len(order) == 24
    first = [part for part, _ in order[:3]]
    assert {part.language for part in first} == {"en", "fr", "es"}
    assert {part.batch for part in first} == {"a", "b"}
    assert [ordinal for _, ordinal in order] == sorted(ordinal for _, ordinal in order)
    assert list(in_rotation([])) == []


@pytest.mark.parametrize("count", [5, 8, 20])
def test_numbers_of_turns_are_spread(count: int) -> None:
    quarters = Counter(int(spread(number) * 4) for number in range(count))
    assert max(quarters.values()) - min(quarters[i] for i in range(4)) <= 2


def test_time_under_way_counts_once() -> None:
    def call(ended_at: float, seconds: float) -> RecordedCall:
        return RecordedCall("d", 1, "qa_judge", [], "", 1, 1, None, seconds, ended_at)

    assert busy_seconds([call(10, 2), call(11, 2), call(30, 5), call(29, 1)]) == pytest.approx(8)
    assert busy_seconds([]) == 0
