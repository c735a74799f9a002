"""Acceptance: what is lacking is told by name, spares are the plan's own, and bad settings are told of."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.config import (
    ACCEPT_CHECKS,
    AcceptConfig,
    GenerationConfig,
    JudgeConfig,
    LlmConfig,
    MarkupConfig,
    RunConfig,
    read_recipe,
    validate,
)
from dlgforge_core.conversation.acceptance import Acceptance
from dlgforge_core.dialogue import Dialogue, Turn
from dlgforge_core.errors import ConfigError
from dlgforge_core.generation.accepting import acceptance_of
from dlgforge_core.planning.fingerprint import content_fingerprint
from dlgforge_core.planning.personas import read_personas
from dlgforge_core.planning.plan import plan_run, spare_id
from dlgforge_core.planning.seeds import read_seeds
from dlgforge_core.quality.checks import CHECKS
from dlgforge_core.quality.collectors import COLLECTORS, GOALS_MET, PASS_RATE
from dlgforge_core.verdicts import Judgement
from tests.support.dialogues import judged, make_dialogue

LABELS = JudgeConfig().reasons
ON_WHOLE = JudgeConfig(granularity="conversation")


def shortcomings(dialogue: Dialogue, judge: JudgeConfig | None = None, **accept: Any) -> dict[str, str]:
    acceptance = Acceptance(AcceptConfig(**accept), judge or JudgeConfig())
    return dict(acceptance.shortcomings(dialogue))


def verdict(score: int, *labels: str) -> Judgement:
    return Judgement(score, labels)


@pytest.mark.parametrize(
    ("accept", "lacking"),
    [
        ({"min_score": 6.5}, {}),
        ({"min_score": 6.6}, {"min_score": "the mean score is 6.5, below 6.6"}),
        ({"forbidden_labels": ["incorrect"]}, {}),
        ({"forbidden_labels": ["clear", "incorrect"]}, {"forbidden_labels: clear": "turn 2 is clear"}),
        ({"required_labels": ["helpful"]}, {}),
        (
            {"required_labels": ["clear", "accurate"]},
            {
                "required_labels: clear": "turn 1 is not clear",
                "required_labels: accurate": "turn 1 is not accurate",
            },
        ),
    ],
)
def test_what_is_lacking_is_reported_by_name(accept: dict[str, Any], lacking: dict[str, str]) -> None:
    dialogue = judged(0, verdict(9, "helpful"), verdict(4, "helpful", "clear"))
    assert shortcomings(dialogue, **accept) == lacking


def test_a_verdict_that_is_missing_is_no_acceptance_unless_none_is_needed() -> None:
    dialogue = judged(0, verdict(9), None)
    assert shortcomings(dialogue, min_score=0) == {"unjudged": "no verdict on turn 2"}
    assert shortcomings(dialogue, checks=["schema"]) == {}
    assert shortcomings(dialogue, ON_WHOLE, min_score=0) == {"unjudged": "no verdict on the conversation"}
    whole = dataclasses.replace(judged(0, None, None), judgement=verdict(3))
    assert shortcomings(whole, ON_WHOLE, min_score=3) == {}
    assert list(shortcomings(whole, ON_WHOLE, min_score=4)) == ["min_score"]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 10), st.lists(st.sampled_from(LABELS), max_size=4, unique=True)),
        min_size=1,
        max_size=5,
    ),
    st.floats(0, 10),
    st.sets(st.sampled_from(LABELS), max_size=3),
    st.sets(st.sampled_from(LABELS), max_size=2),
)
def test_it_is_accepted_where_every_bound_holds_and_there_alone(
    given_verdicts: list[tuple[int, list[str]]], least: float, forbidden: set[str], required: set[str]
) -> None:
    dialogue = judged(0, *(verdict(score, *labels) for score, labels in given_verdicts))
    found = shortcomings(
        dialogue, min_score=least, forbidden_labels=sorted(forbidden), required_labels=sorted(required)
    )
    mean = sum(score for score, _ in given_verdicts) / len(given_verdicts)
    holds = (
        mean >= least
        and all(required <= set(labels) for _, labels in given_verdicts)
        and not any(forbidden & set(labels) for _, labels in given_verdicts)
    )
    assert (not found) is holds


def test_checks_look_at_the_dialogue_by_itself() -> None:
    generation = GenerationConfig(
        run=RunConfig(accept=AcceptConfig(checks=["language", "no_empty_messages"]), target_languages=["fr"])
    )
    acceptance = acceptance_of(generation, MarkupConfig())
    assert acceptance is not None
    question, answer = "Why does the rain fall on the hills?", "Because the clouds rise and grow cold there."
    english = make_dialogue(0, (Turn(0, question, answer),), language="fr")
    found = acceptance.shortcomings(english)
    assert found.keys() == {"language"}
    assert "speaks en, asked was fr" in found["language"]
    assert acceptance_of(GenerationConfig(), MarkupConfig()) is None


def test_checks_of_single_dialogues_are_known_by_name() -> None:
    assert set(ACCEPT_CHECKS) == COLLECTORS.keys() - {PASS_RATE, GOALS_MET}
    for check in CHECKS:
        if check.name not in ACCEPT_CHECKS:
            with pytest.raises(ConfigError, match="looks at the whole dataset"):
                validate(AcceptConfig, {"checks": [check.name]}, "x")


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (
            {"run": {"accept": {"min_score": 7}}, "judge": {"mode": "offline"}},
            r":3: run\.accept\.min_score: a dialogue is accepted when it is finished, but with judge\.mode = "
            r"'offline' it has no verdict then; set judge\.mode to online",
        ),
        (
            {"run": {"accept": {"forbidden_labels": ["incorrect"]}}, "judge": {"mode": "off"}},
            r":3: run\.accept\.forbidden_labels: .* judge\.mode = 'off'",
        ),
        (
            {"run": {"accept": {"forbidden_labels": ["incorect"]}}},
            r":3: run\.accept\.forbidden_labels: 'incorect' is no label of judge\.reasons; did you mean "
            "'incorrect'",
        ),
        (
            {"run": {"accept": {"forbidden_labels": ["clear"], "required_labels": ["clear"]}}},
            r"run\.accept\.forbidden_labels: clear is in required_labels as well",
        ),
        (
            {"run": {"accept": {"min_dimensions": {"depth": 3.0}}}},
            r":3: run\.accept\.min_dimensions: 'depth' is no dimension of judge\.rubric; it has none",
        ),
        ({"run": {"accept": {"checks": ["langauge"]}}}, r"run\.accept\.checks: 'langauge' .* 'language'"),
        ({"run": {"accept": {"min_scores": 5}}}, r"min_scores: unknown key; did you mean 'min_score'"),
        ({"run": {"accept": {"min_score": 11}}}, r"min_score = 11"),
        ({"run": {"max_attempts_per_sample": 0}}, r"max_attempts_per_sample = 0"),
    ],
)
def test_what_no_dialogue_could_meet_is_reported_with_its_line(
    tmp_path: Path, config: dict[str, Any], problem: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    with pytest.raises(ConfigError, match=problem):
        read_recipe(path)


def test_only_what_is_asked_of_a_dialogue_is_part_of_the_fingerprint() -> None:
    def fingerprint(**run: Any) -> str:
        generation = GenerationConfig(run=RunConfig(**run))
        return content_fingerprint(generation, LlmConfig(), read_personas())

    plain = fingerprint()
    assert fingerprint(accept=AcceptConfig(), max_attempts_per_sample=3) == plain
    asked = fingerprint(accept=AcceptConfig(min_score=5))
    assert asked == fingerprint(accept=AcceptConfig(min_score=5), max_attempts_per_sample=3)
    assert len({plain, asked, fingerprint(accept=AcceptConfig(checks=["schema"]))}) == 3


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 30), st.integers(1, 20), st.integers(0, 5))
def test_a_spare_is_its_sample_under_an_id_of_its_own(ordinal: int, attempt: int, seed: int) -> None:
    generation = GenerationConfig(run=RunConfig(total_samples=40, target_languages=["en"], seed=seed))
    (plan,) = plan_run(generation, LlmConfig(), read_personas(), read_seeds("", strict=True)).plans
    first, spare = plan.dialogue(ordinal), plan.dialogue(ordinal, attempt)
    assert dataclasses.replace(spare, dialogue_id=first.dialogue_id) == first
    assert plan.dialogue(ordinal, attempt + 1).dialogue_id == spare_id(spare.dialogue_id)
    ids = {plan.dialogue(n, k).dialogue_id for n in range(20) for k in range(4)}
    assert len(ids) == 80
    assert all(len(one) == 24 and int(one, 16) >= 0 for one in ids)
