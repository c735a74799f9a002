"""Attributes of dialogues: drawn evenly over each prefix, by case, over languages, and not in step."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.config import AttributeConfig, GenerationConfig, LlmConfig, validate
from dlgforge_core.dialogue import DialoguePlan
from dlgforge_core.planning.attribute_draws import AttributeSequence, whole_shares
from dlgforge_core.planning.personas import read_personas
from dlgforge_core.planning.plan import Planning, plan_run, spare_of
from dlgforge_core.planning.seeds import parse_seed_batch

_SEEDS = parse_seed_batch("a.yaml", b"en: {bread: , tea: }\nde: {Brot: }\nfr: {pain: }\n")
MOODS: Mapping[str, Any] = {
    "tone": {"values": {"calm": 3, "angry": 1}},
    "channel": {
        "values": {"chat": 1, "mail": 1, "phone": 0},
        "cases": [{"when": {"tone": "angry"}, "values": {"phone": 2, "chat": 1}}],
    },
}


def sequence(
    attributes: Mapping[str, Any], key: bytes = b"key", languages: Any = ("en",)
) -> AttributeSequence:
    config = validate(GenerationConfig, {"attributes": attributes}, "recipe")
    return AttributeSequence(config.attributes, key, languages)


def planned(n: int, attributes: Mapping[str, Any] = MOODS, **run: Any) -> Planning:
    run = {"total_samples": n, "target_languages": ["en", "de", "fr"], **run}
    config = validate(GenerationConfig, {"run": run, "attributes": attributes}, "recipe")
    return plan_run(config, LlmConfig(), read_personas(), [_SEEDS])


def of(planning: Planning) -> list[DialoguePlan]:
    return [dialogue for plan in planning.plans for dialogue in plan.dialogues()]


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.integers(1, 40) | st.sampled_from([0.1, 0.25, 2.5]), min_size=1, max_size=7),
    other=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    key=st.binary(max_size=8),
)
def test_each_prefix_has_the_shares_up_to_one(weights: list[float], other: list[int], key: bytes) -> None:
    both = {
        name: {"values": {f"v{i}": weight for i, weight in enumerate(of)}}
        for name, of in (("a", weights), ("b", other))
    }
    drawn = sequence(both, key)
    for name, of in (("a", weights), ("b", other)):
        shares = [Fraction(str(weight)) for weight in of]
        counts = Counter[str]()
        for number in range(60):
            counts[drawn.of("en", number)[name]] += 1
            for i, share in enumerate(shares):
                assert abs(counts[f"v{i}"] - (number + 1) * share / sum(shares)) < 1


def test_cases_have_their_own_shares() -> None:
    drawn = sequence(MOODS)
    counts = Counter((one["tone"], one["channel"]) for one in (drawn.of("en", i) for i in range(240)))
    assert counts == {
        ("calm", "chat"): 90,
        ("calm", "mail"): 90,
        ("angry", "phone"): 40,
        ("angry", "chat"): 20,
    }


def test_attributes_do_not_go_in_step() -> None:
    """Two with the same weights come together as often as chance would have them, up to a few."""
    alike = {"values": {"x": 1, "y": 1, "z": 2}}
    drawn = sequence({"a": alike, "b": alike, "c": {"values": ["p", "q"]}})
    found = [drawn.of("en", i) for i in range(400)]
    for one, other in itertools.combinations("abc", 2):
        pairs = Counter((d[one], d[other]) for d in found)
        shares = {"x": 0.25, "y": 0.25, "z": 0.5, "p": 0.5, "q": 0.5}
        for v, w in itertools.product({d[one] for d in found}, {d[other] for d in found}):
            assert abs(pairs[v, w] - 400 * shares[v] * shares[w]) <= 4


@pytest.mark.parametrize("n", [1, 7, 100, 101])
def test_a_dataset_is_even_over_its_languages_together_and_in_each(n: int) -> None:
    made = of(planned(n, {"tone": {"values": ["calm", "angry", "sad"]}}))
    counts = Counter(one.attributes["tone"] for one in made)
    assert max(counts.values()) - (min(counts.values()) if len(counts) == 3 else 0) <= 1
    for language in ("en", "de", "fr"):
        within = [one.attributes["tone"] for one in made if one.language == language]
        assert all(abs(within.count(tone) - len(within) / 3) < 2 for tone in ("calm", "angry", "sad"))


def test_a_plan_is_the_same_anywhere_continues_and_does_not_depend_on_the_order_of_keys() -> None:
    few, many = planned(60), planned(90)
    assert [one.to_json() for one in of(few)] == [one.to_json() for one in of(planned(60))]
    by_id = {one.dialogue_id: one for one in of(many)}
    assert all(by_id[one.dialogue_id] == one for one in of(few))
    turned = {
        "channel": {**MOODS["channel"], "values": {"phone": 0, "mail": 1, "chat": 1}},
        "tone": {"values": {"angry": 1, "calm": 3}},
    }
    assert of(planned(60, turned)) == of(few)
    assert of(planned(60, seed=1)) != of(few)


def test_a_plan_does_not_depend_on_which_partition_is_asked_for() -> None:
    config = validate(
        GenerationConfig,
        {"run": {"total_samples": 30, "target_languages": ["en", "it", "de"], "fallback_language": ""},
         "attributes": MOODS},
        "recipe",
    )  # fmt: skip
    alone = plan_run(config, LlmConfig(), read_personas(), [_SEEDS], languages=["de"])
    both = plan_run(config, LlmConfig(), read_personas(), [_SEEDS], languages=["en", "de"])
    assert of(alone) == [one for one in of(both) if one.language == "de"]
    counts = Counter(one.attributes["tone"] for one in of(both))
    assert counts == {"calm": 15, "angry": 5}  # a language without topics leaves no hole


def test_spares_and_the_store_keep_them_and_no_attributes_leave_no_trace() -> None:
    one = of(planned(3))[0]
    assert spare_of(one).attributes == one.attributes
    assert DialoguePlan.from_json(one.to_json()) == one
    plain = planned(3, {})
    assert all("attributes" not in dialogue.to_json() for dialogue in of(plain))
    assert plain.fingerprint != planned(3).fingerprint


def test_shares_are_whole_and_small() -> None:
    assert whole_shares([0.5, 0.25, 0.25]) == [2, 1, 1]
    assert whole_shares([70, 30]) == [7, 3]
    assert whole_shares([1e-6, 1.0]) == [1, 10_000]
    rough = whole_shares([0.3333333, 0.6666667])
    assert sum(rough) <= 10_001
    assert abs(rough[0] / sum(rough) - 1 / 3) < 1e-4


def test_the_first_case_that_applies_counts() -> None:
    attribute = validate(
        AttributeConfig,
        {
            "values": ["x", "y"],
            "cases": [
                {"when": {"a": ["1", "2"]}, "values": ["x"]},
                {"when": {"a": "2", "b": "3"}, "values": ["y"]},
                {"when": {"b": "3"}, "values": ["y"]},
            ],
        },
        "attribute",
    )
    cases = [attribute.case_of({"a": a, "b": b}) for a, b in (("2", "3"), ("0", "3"), ("0", "0"))]
    assert cases == [0, 2, -1]
