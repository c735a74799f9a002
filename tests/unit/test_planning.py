"""Plans: deterministic, even, extendable, and the same whatever part of them is asked for."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.config import (
    CoverageConfig,
    EmbeddedConfig,
    GenerationConfig,
    JudgeConfig,
    LlmConfig,
    PersonasConfig,
    RerankConfig,
    RetrievalConfig,
    RunConfig,
    VllmConfig,
)
from dlgforge_core.dialogue import DialoguePlan, Persona
from dlgforge_core.errors import ConfigError
from dlgforge_core.planning.fingerprint import ContentSource, content_config, content_fingerprint
from dlgforge_core.planning.personas import Personas
from dlgforge_core.planning.plan import Planning, plan_run
from dlgforge_core.planning.seeds import SeedBatch
from dlgforge_core.planning.turn_counts import TurnCounts
from dlgforge_core.sources import SeedTopic


def personas(users: int = 5, assistants: int = 3) -> Personas:
    def some(role: str, n: int) -> tuple[Persona, ...]:
        return tuple(Persona(f"{role}{i}", f"{role} {i}", f"Is {role} number {i}.") for i in range(n))

    return Personas(some("user", users), some("assistant", assistants))


def batch(name: str, **topics: int) -> SeedBatch:
    found = [
        SeedTopic(f"{name}-{language}-{i}", language, f"topic {i}", None, name)
        for language, n in topics.items()
        for i in range(n)
    ]
    return SeedBatch(name, hashlib.sha256(name.encode()).hexdigest(), tuple(found))


BATCHES = [batch("first", en=7, fr=4, ar=1), batch("second", en=3, fr=6)]


def planned(
    batches: Sequence[SeedBatch] = BATCHES,
    who: Personas | None = None,
    languages: list[str] | None = None,
    batch_names: list[str] | None = None,
    **run: Any,
) -> Planning:
    run = {"target_languages": ["en", "fr"], **run}
    return plan_run(
        GenerationConfig(run=RunConfig(**run)),
        LlmConfig(),
        who or personas(),
        batches,
        languages=languages,
        batch_names=batch_names,
    )


def spread(values: Iterable[object]) -> int:
    counts = Counter(values).values()
    return max(counts) - min(counts)


runs = st.fixed_dictionaries(
    {
        "seed": st.integers(-(2**70), 2**70),
        "total_samples": st.integers(1, 60),
        "turn_count_distribution": st.sampled_from(["uniform", "poisson", "exponential"]),
        "turn_count_mean": st.none() | st.floats(1e-9, 1e9),
        "target_languages": st.permutations(["en", "fr", "ar"]).map(lambda x: x[:2]),
    },
    optional={"n_turns": st.integers(1, 20)},
)


# --- how many, and of what


def test_every_batch_gets_its_samples_shared_among_the_languages() -> None:
    planning = planned(target_languages=["fr", "en", "ar"], total_samples=11)
    assert [(p.batch, p.language, p.n_dialogues) for p in planning.plans] == [
        ("first", "fr", 4),
        ("first", "en", 4),
        ("first", "ar", 3),
        ("second", "fr", 4),
        ("second", "en", 4),
    ]
    assert planning.n_dialogues == 19
    assert planning.notes == ("seed batch 'second' has no topics in 'ar': 3 dialogues are not made",)


def test_fewer_samples_than_languages() -> None:
    planning = planned(total_samples=1)
    assert [(p.batch, p.language) for p in planning.plans] == [("first", "en"), ("second", "en")]
    assert planning.notes == ("run.total_samples = 1 leaves no dialogue for 'fr'",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"target_languages": ["en", "de"]},
            r"names 'de', but .*\(first has en, fr, ar; second has en, fr\)",
        ),
        ({"target_languages": ["ar"], "batch_names": ["second"]}, "names 'ar', but .*second has en, fr"),
        ({"languages": ["es"]}, "language es is not in run.target_languages; it names: en, fr"),
        ({"batch_names": ["third"]}, "seed batch third is not there; there are: first, second"),
        ({"batches": []}, "no seed batch"),
        ({"batches": [BATCHES[0], BATCHES[0]]}, "share the name first"),
    ],
)
def test_what_cannot_be_planned(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planned(**arguments)


@given(runs)
@settings(deadline=None)
def test_topics_and_personas_are_used_evenly(run: dict[str, Any]) -> None:
    for plan in planned(**run).plans:
        dialogues = list(plan.dialogues())
        assert [d.ordinal for d in dialogues] == list(range(plan.n_dialogues))
        assert {d.topic.language for d in dialogues} == {plan.language}
        for used, among in (
            ([d.topic.id for d in dialogues], [t.id for t in plan.topics]),
            ([d.user_persona.id for d in dialogues], [p.id for p in plan.personas.user]),
            ([d.assistant_persona.id for d in dialogues], [p.id for p in plan.personas.assistant]),
        ):
            counts = Counter(used)
            every = [counts[id] for id in among]
            assert sum(every) == len(used)
            assert max(every) - min(every) <= 1


def test_every_round_has_an_order_of_its_own() -> None:
    (plan,) = planned([batch("b", en=8)], personas(8, 8), target_languages=["en"], total_samples=800).plans
    rounds = [tuple(plan.dialogue(8 * k + i).topic.id for i in range(8)) for k in range(100)]
    assert len(set(rounds)) > 95
    assert spread(r[0] for r in rounds) < 20  # every topic comes first now and then
    # The cycles are independent: topics and personas, and the two personas, meet in all combinations.
    dialogues = list(plan.dialogues())
    assert len({(d.topic.id, d.user_persona.id) for d in dialogues}) == 64
    assert len({(d.user_persona.id, d.assistant_persona.name) for d in dialogues}) == 64


def test_many_topics_are_shuffled_too() -> None:
    (plan,) = planned([batch("b", en=3000)], target_languages=["en"], total_samples=4500).plans
    assert spread(d.topic.id for d in plan.dialogues()) == 1
    order = [d.topic.id for d in plan.dialogues()]
    assert sum(a < b for a, b in pairwise(order)) < 2500


# --- turn counts


@given(
    st.sampled_from(["uniform", "poisson", "exponential"]),
    st.tuples(st.integers(1, 1000), st.integers(1, 1000)).map(sorted),
    st.none() | st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    st.floats(0, 1, exclude_min=True, exclude_max=True),
)
@settings(deadline=None)
def test_turn_counts_keep_their_bounds(
    distribution: Any, bounds: tuple[int, int], mean: float | None, u: float
) -> None:
    low, high = bounds
    run = RunConfig(min_turns=low, max_turns=high, turn_count_distribution=distribution, turn_count_mean=mean)
    assert low <= TurnCounts.from_config(run).at(u) <= high


@given(
    st.sampled_from(["uniform", "poisson", "exponential"]),
    st.floats(0.5, 600),
    st.floats(0.001, 0.999),
    st.floats(0.001, 0.999),
)
@settings(deadline=None)
def test_turn_counts_rise_with_the_quantile(distribution: Any, mean: float, u: float, v: float) -> None:
    turns = TurnCounts(distribution, 1, 10_000, mean)
    low, high = sorted((u, v))
    assert turns.at(low) <= turns.at(high)


@pytest.mark.parametrize(
    ("distribution", "mean", "deviation"),
    [
        ("poisson", 8.0, 8**0.5),
        ("poisson", 40.0, 40**0.5),
        ("poisson", 500.0, 500**0.5),
        ("exponential", 10.0, 10.0),
        ("uniform", None, 288.7),
    ],
)
def test_turn_counts_have_their_mean(distribution: str, mean: float | None, deviation: float) -> None:
    n = 20_000
    (plan,) = planned(
        [batch("b", en=1)],
        target_languages=["en"],
        total_samples=n,
        min_turns=1,
        max_turns=999 if distribution == "uniform" else 1000,
        turn_count_distribution=distribution,
        turn_count_mean=mean,
    ).plans
    turns = [d.n_turns for d in plan.dialogues()]
    expected = mean or 500.0
    assert fmean(turns) == pytest.approx(expected, abs=4 * deviation / n**0.5)
    spread_of = fmean((t - expected) ** 2 for t in turns) ** 0.5
    assert spread_of == pytest.approx(deviation, rel=0.05)


def test_poisson_counts_have_the_right_shares() -> None:
    from math import exp, factorial

    turns = TurnCounts("poisson", 1, 6, 4.0)
    n = 100_000
    counts = Counter(turns.at((i + 0.5) / n) for i in range(n))
    for k in range(2, 6):
        assert counts[k] / n == pytest.approx(exp(-4) * 4**k / factorial(k), abs=2e-5)
    assert counts[1] / n == pytest.approx(exp(-4) * 5, abs=2e-5)


def test_fixed_turns_win() -> None:
    plans = planned(n_turns=9, min_turns=2, max_turns=3).plans
    assert {d.n_turns for p in plans for d in p.dialogues()} == {9}


# --- the same again


@given(runs, st.integers(0, 60))
@settings(deadline=None)
def test_more_samples_continue_the_same_plan(run: dict[str, Any], more: int) -> None:
    short = {(p.batch, p.language): p for p in planned(**run).plans}
    long = {
        (p.batch, p.language): p
        for p in planned(**{**run, "total_samples": run["total_samples"] + more}).plans
    }
    for key, plan in short.items():
        assert long[key].plan_id == plan.plan_id
        assert list(long[key].dialogues())[: plan.n_dialogues] == list(plan.dialogues())


@given(runs, st.sampled_from(["first", "second"]), st.integers(0, 1))
@settings(deadline=None)
def test_a_partition_is_a_slice_of_the_whole(run: dict[str, Any], name: str, which: int) -> None:
    language = run["target_languages"][which]
    whole = planned(**run)
    if (name, language) == ("second", "ar"):
        with pytest.raises(ConfigError, match="no seed batch has topics"):
            planned(**run, languages=[language], batch_names=[name])
        return
    part = planned(**run, languages=[language], batch_names=[name])
    same = [p for p in whole.plans if (p.batch, p.language) == (name, language)]
    assert list(part.plans) == same
    assert [list(p.dialogues()) for p in part.plans] == [list(p.dialogues()) for p in same]


@given(runs)
@settings(max_examples=30, deadline=None)
def test_plans_survive_storage(run: dict[str, Any]) -> None:
    for plan in planned(**run).plans:
        assert list(pickle.loads(pickle.dumps(plan)).dialogues()) == list(plan.dialogues())
        first = plan.dialogue(0)
        assert DialoguePlan.from_json(json.loads(json.dumps(first.to_json()))) == first


def test_dialogues_outside_the_plan() -> None:
    plan = planned().plans[0]
    for ordinal in (-1, plan.n_dialogues):
        with pytest.raises(IndexError):
            plan.dialogue(ordinal)


def test_ids_are_unique() -> None:
    ids = [d.dialogue_id for p in planned(total_samples=2000).plans for d in p.dialogues()]
    assert len(set(ids)) == len(ids) == 4000
    assert all(len(id) == 24 for id in ids)


def test_the_seed_decides() -> None:
    def seen(seed: int) -> list[object]:
        plans = planned(total_samples=40, seed=seed).plans
        return [(d.n_turns, d.topic.id, d.user_persona.id) for p in plans for d in p.dialogues()]

    assert seen(1) == seen(1)
    assert seen(1) != seen(2)
    assert seen(1) != seen(-1)


GOLDEN = """
import dataclasses, hashlib, json
from tests.unit.test_planning import planned
for kind in ("uniform", "poisson", "exponential"):
    planning = planned(seed=7, total_samples=40, turn_count_distribution=kind, max_turns=12)
    # Without the fingerprint, which changes with every default of the configuration.
    plans = [dataclasses.replace(plan, fingerprint="f") for plan in planning.plans]
    made = [dialogue.to_json() for plan in plans for dialogue in plan.dialogues()]
    print(hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16], made[3]["dialogue_id"])
print(planning.plans[0].fingerprint)
"""


@pytest.mark.parametrize("hash_seed", ["0", "1", "random"])
def test_plans_are_the_same_in_every_process(hash_seed: str) -> None:
    env = {**os.environ, "PYTHONHASHSEED": hash_seed}
    found = subprocess.run(
        [sys.executable, "-c", GOLDEN], env=env, capture_output=True, text=True, check=True, timeout=60
    )
    *made, fingerprint = found.stdout.splitlines()
    # A change here makes every earlier plan another one: raise fingerprint.CONTENT_VERSION with it.
    assert made == [
        "213673e28e5d8984 647818719b10ebe657a6dbbf",
        "e63197bac77d21af 647818719b10ebe657a6dbbf",
        "9efc2dfdfc90d4b2 647818719b10ebe657a6dbbf",
    ]
    here = planned(seed=7, total_samples=40, turn_count_distribution="exponential", max_turns=12)
    assert fingerprint == here.plans[0].fingerprint == here.fingerprint


# --- the fingerprint


Settings = dict[str, Any] | None


def print_of(
    run: Settings = None,
    judge: Settings = None,
    coverage: Settings = None,
    llm: Settings = None,
    who: Personas | None = None,
    paths: Settings = None,
) -> str:
    generation = GenerationConfig(
        run=RunConfig(**(run or {})),
        judge=JudgeConfig(**(judge or {})),
        coverage=CoverageConfig(**(coverage or {})),
        personas=PersonasConfig(**(paths or {})),
    )
    return content_fingerprint(generation, LlmConfig(**(llm or {})), who or personas())


ATTACHED = {"backend": "vllm_attach", "model": "m", "base_url": "http://gpu:8000/v1"}


@pytest.mark.parametrize(
    "change",
    [
        {"run": {"seed": 1}},
        {"run": {"n_turns": 3}},
        {"run": {"min_turns": 1}},
        {"run": {"max_turns": 9}},
        {"run": {"turn_count_distribution": "exponential"}},
        {"run": {"turn_count_mean": 3.0}},
        {"judge": {"mode": "off"}},
        {"judge": {"granularity": "conversation"}},
        {"judge": {"reasons": ["clear"]}},
        {"run": {"fallback_language": "en"}},
        {"run": {"keep_reasoning": True}},
        {"coverage": {"question_dedup_retries": 1}},
        {"coverage": {"question_similarity_threshold": 0.9}},
        {"who": personas(4)},
        {"llm": {"agents": {"kb_responder": {"temperature": 0.1}}}},
        {"llm": {"agents": {"qa_judge": {"model": "other"}}}},
        {"llm": {"agents": {"qa_generator": {"extra_body": {"min_p": 0.1}}}}},
        {"llm": {"model": "other"}},
        {"llm": {"embedded": EmbeddedConfig(model_path="/models/other.gguf")}},
    ],
)
def test_what_changes_the_content_changes_the_fingerprint(change: dict[str, Any]) -> None:
    assert print_of(**change) != print_of()


@pytest.mark.parametrize(
    "change",
    [
        {"run": {"total_samples": 99}},
        {"run": {"target_languages": ["fr"]}},
        {"run": {"concurrency": 2, "max_open_dialogues": 3, "patience_s": 1.0, "lease_s": 5.0}},
        {"run": {"max_tokens": 1, "max_dialogues": 1, "resume_run_id": "x"}},
        {"run": {"turn_count_mean": 4.0}},  # what it is anyhow
        {"paths": {"path": "personas.yaml"}},
        {"llm": {"agents": {"qa_generator": {"extra_body": {}}}, "timeout_s": 9.0}},
        {"llm": {"api_key_env": "MY_KEY", "headers_env": {"x": "MY_ORG"}}},
        {"llm": {"api_key_env": "MY_KEY", "embedded": EmbeddedConfig(threads=1, context_tokens=512)}},
    ],
)
def test_what_does_not_change_the_content_leaves_the_fingerprint(change: dict[str, Any]) -> None:
    assert print_of(**change) == print_of()


def test_where_a_model_runs_does_not_matter_but_its_weights_do() -> None:
    managed = {"backend": "vllm_managed", "vllm": VllmConfig(model="m")}
    attached = print_of(llm=ATTACHED)
    assert print_of(llm=managed) == attached
    assert print_of(llm={**ATTACHED, "base_url": "http://other/v1"}) == attached
    assert print_of(llm={**managed, "vllm": VllmConfig(model="m", replicas=4)}) == attached
    assert print_of(llm={**managed, "vllm": VllmConfig(model="n", served_model_name="m")}) != attached


def test_which_model_reranks_matters_but_not_where_it_runs() -> None:
    def grounded(**rerank: Any) -> str:
        config: dict[str, Any] = {"backend": "endpoint", "base_url": "http://gpu/v1", "model": "m", **rerank}
        generation = GenerationConfig(retrieval=RetrievalConfig(rerank=RerankConfig(**config)))
        return content_fingerprint(generation, LlmConfig(), personas(), ContentSource("", "an index"))

    elsewhere = {"base_url": "http://other/v1", "api_key_env": "MY_KEY", "timeout_s": 1.0}
    assert grounded(**elsewhere) == grounded()
    for change in ({"model": "n"}, {"candidates": 5}, {"backend": "off"}):
        assert grounded(**change) != grounded()
    assert grounded(backend="off", candidates=5) == grounded(backend="off")


def test_settings_without_effect_do_not_count() -> None:
    assert print_of(run={"n_turns": 3, "min_turns": 1}) == print_of(run={"n_turns": 3})
    off = {"mode": "off"}
    assert print_of(judge={**off, "reasons": ["clear"]}) == print_of(judge=off)


def test_every_config_key_is_decided_on() -> None:
    """A new key counts as content unless planning says that it does not."""
    content = content_config(GenerationConfig(), LlmConfig(), personas())
    assert set(content["run"]) == {"seed", "turns"}
    sections = {"run", "personas", "judge", "coverage", "retrieval", "tools"}
    sections |= {
        "answers",
        "attributes",
        "prompts",
        "examples",
        "conversation",
        "reasoning",
        "topics",
    }  # where they are set
    assert set(GenerationConfig.model_fields) == sections
    grounded = content_config(GenerationConfig(), LlmConfig(), personas(), ContentSource("", "an index"))
    assert grounded.keys() - content.keys() == {"knowledge", "retrieval", "doc_coverage"}
    keys = {*grounded["coverage"], *grounded["doc_coverage"]}
    assert keys == set(GenerationConfig().coverage.model_dump())


def test_another_dataset_or_other_knowledge_is_other_content() -> None:
    sources = [ContentSource(), ContentSource("support"), ContentSource("", "i"), ContentSource("", "j")]
    prints = {content_fingerprint(GenerationConfig(), LlmConfig(), personas(), s) for s in sources}
    assert len(prints) == 4
    assert print_of() == content_fingerprint(GenerationConfig(), LlmConfig(), personas())


def test_the_sorts_of_questions_are_content() -> None:
    assert print_of(run={"question_kinds": []}) == print_of()
    assert print_of(run={"question_kinds": ["why"]}) != print_of()
