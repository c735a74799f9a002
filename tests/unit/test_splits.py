"""Splits: no seed topic in two, the same answer every time, and shares near what was asked."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.export.splits import SplitAssigner
from dlgforge_core.sources import SeedTopic

THREE = {"train": 0.8, "validation": 0.1, "test": 0.1}


def assigned(topics: list[SeedTopic], shares: dict[str, float]) -> dict[SeedTopic | str, str]:
    assigner = SplitAssigner(shares)
    for topic in topics:
        assigner.add(topic)
    return {topic.id + topic.language: assigner.split_of_id(topic.id) for topic in topics}


def plain(n: int, prefix: str = "t") -> list[SeedTopic]:
    return [SeedTopic(f"{prefix}{i}", "en", f"{prefix} {i}") for i in range(n)]


topics = st.lists(
    st.builds(
        SeedTopic,
        id=st.sampled_from("abcdefghijklmnop"),
        language=st.sampled_from(["en", "fr", "ar"]),
        topic=st.sampled_from(["Rain", "rain ", "snow", "wind", "sun", "fog", "hail", "ice"]),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(topics, st.randoms(use_true_random=False))
def test_no_topic_is_in_two_splits_whatever_the_order(topics: list[SeedTopic], rng: random.Random) -> None:
    first = SplitAssigner(THREE)
    for topic in topics:
        first.add(topic)
    again = SplitAssigner(THREE)
    for topic in rng.sample(topics, len(topics)) * 2:  # more dialogues on the same topics
        again.add(topic)
    by_id: dict[str, set[str]] = {}
    by_subject: dict[tuple[str, str], set[str]] = {}
    for topic in topics:
        split = first.split_of_id(topic.id)
        assert again.split_of_id(topic.id) == split
        by_id.setdefault(topic.id, set()).add(split)
        by_subject.setdefault((topic.language, topic.topic.strip().lower()), set()).add(split)
    assert all(len(splits) == 1 for splits in (*by_id.values(), *by_subject.values()))


@pytest.mark.parametrize("n", [3, 4, 5, 10, 17, 20, 50, 99, 200, 1000, 20_000])
@pytest.mark.parametrize("shares", [THREE, {"train": 0.9, "validation": 0.1}, {"a": 0.5, "b": 0.5}])
def test_shares_are_met_in_small_sets_too(n: int, shares: dict[str, float]) -> None:
    counts = Counter(assigned(plain(n), shares).values())
    assert set(counts) == set(shares), "every split has something"
    for split, share in shares.items():
        # Below ten topics a tenth is less than one, and the least that a split gets is one.
        assert abs(counts[split] - share * n) <= (max(1.0, 0.01 * n) if n >= 10 else len(shares) - 1)


def test_fewer_topics_than_splits() -> None:
    assert len(set(assigned(plain(1), THREE).values())) == 1


@pytest.mark.parametrize(("n", "more", "at_most"), [(20, 1, 2), (100, 10, 4), (20_000, 2_000, 0)])
def test_more_topics_move_few_of_the_old_ones(n: int, more: int, at_most: int) -> None:
    before = assigned(plain(n), THREE)
    after = assigned(plain(n) + plain(more, "new"), THREE)
    assert sum(before[key] != after[key] for key in before) <= at_most


def test_the_same_topic_in_other_languages_goes_with_it() -> None:
    topics = [
        SeedTopic(f"t{i}", language, f"{language} {i}") for i in range(40) for language in ("en", "fr", "ar")
    ]
    splits = assigned(topics, THREE)
    for i in range(40):
        assert len({splits[f"t{i}{language}"] for language in ("en", "fr", "ar")}) == 1
    counts = Counter(splits.values())
    assert (counts["validation"], counts["test"]) == (12, 12)


def test_the_dealing_is_the_same_on_every_machine_and_release() -> None:
    splits = assigned(plain(12), THREE)
    assert sorted(str(key) for key, split in splits.items() if split != "train") == ["t1en", "t9en"]
