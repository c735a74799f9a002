"""Previews: the first few dialogues of a plan, and an estimate that the run which follows keeps to."""

from __future__ import annotations

from typing import Any

import pytest

from dlgforge_core.config import GenerationConfig
from dlgforge_core.generation.preview_text import estimate_lines, preview_markdown, preview_text
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.store.run_store import RunStore
from tests.support.previews import preview
from tests.support.runs import calls, prepared, spec, work
from tests.support.simulated_endpoint import SimulatedEndpoint

RECIPES: dict[str, dict[str, Any]] = {
    "turns and languages": {"run": {"min_turns": 1, "max_turns": 4, "target_languages": ["en", "fr", "es"]}},
    "verdicts on the whole, attributes": {
        "run": {"min_turns": 1, "max_turns": 4, "target_languages": ["en", "ar"]},
        "judge": {"granularity": "conversation"},
        "attributes": {"tone": {"values": {"calm": 3, "angry": 1}}},
    },
    "candidates, the assistant opens": {
        "run": {"min_turns": 1, "max_turns": 3, "target_languages": ["en"]},
        "answers": {"candidates": 2},
        "conversation": {"opens": "assistant"},
    },
}


def generation(name: str, **run: Any) -> GenerationConfig:
    recipe = RECIPES[name]
    run = {"total_samples": 200, "concurrency": 32, "patience_s": 10.0, **recipe["run"], **run}
    return GenerationConfig.model_validate({**recipe, "run": run})


@pytest.mark.parametrize("name", RECIPES)
def test_the_run_that_follows_takes_what_was_estimated(
    store: RunStore, sim: SimulatedEndpoint, name: str
) -> None:
    run, endpoint = prepared(store, generation(name)), Endpoint("simulated", sim.base_url)
    found = preview(store, spec(store, run, endpoint))
    assert found.n_ended == store.progress(run.run_id).done == 5
    made = sim.stats()["calls"]
    assert made == sum(len(dialogue.calls) for dialogue in found.dialogues)
    work(spec(store, run, endpoint))
    assert found.estimate is not None
    used, estimated = calls(store, run).total(), found.estimate.total
    print(*estimate_lines(found), used.calls, used.prompt_tokens, used.completion_tokens, sep="\n")
    assert sim.stats()["calls"] == used.calls, "no call was made twice"
    for measure in ("calls", "prompt_tokens", "completion_tokens"):
        assert estimated[measure].value == pytest.approx(getattr(used, measure), rel=0.2), measure
        assert estimated[measure].low <= estimated[measure].value <= estimated[measure].high


def test_a_preview_shows_prompts_beside_what_came_back_and_is_there_without_a_further_call(
    store: RunStore, sim: SimulatedEndpoint
) -> None:
    run = prepared(store, generation("turns and languages", preview_dialogues=3, total_samples=30))
    worker = spec(store, run, Endpoint("simulated", sim.base_url))
    found = preview(store, worker)
    made = sim.stats()["calls"]
    again = preview(store, worker)
    assert sim.stats()["calls"] == made
    assert again.estimate == found.estimate
    assert [d.dialogue_id for d in again.dialogues] == [d.dialogue_id for d in found.dialogues]
    assert [d.plan["language"] for d in found.dialogues] == ["en", "fr", "es"]
    text, markdown = preview_text(found), preview_markdown(found)
    first = found.dialogues[0]
    for shown in (text, markdown):
        assert all(call.answer in shown for call in first.calls)
        assert str(first.calls[0].messages[0]["content"]) in shown
    assert "## qa_judge, came back" in text
    # A greater number goes on after them.
    more = prepared(store, generation("turns and languages", preview_dialogues=4, total_samples=30))
    four = preview(store, spec(store, more, Endpoint("simulated", sim.base_url)))
    assert [d.dialogue_id for d in four.dialogues][:3] == [d.dialogue_id for d in found.dialogues]
    assert sim.stats()["calls"] == made + len(four.dialogues[3].calls)


def test_spares_are_not_made_and_the_share_accepted_counts(store: RunStore, sim: SimulatedEndpoint) -> None:
    accept = {"accept": {"min_score": 3}, "max_attempts_per_sample": 4}
    run = prepared(store, generation("turns and languages", preview_dialogues=6, total_samples=60, **accept))
    found = preview(store, spec(store, run, Endpoint("simulated", sim.base_url)))
    progress = store.progress(run.run_id)
    assert progress.made == found.n_ended == 6
    assert found.plan.accepted == progress.done
    assert found.estimate is not None
    assert 0 < progress.unaccepted < 6
    share = progress.done / 6
    left = 60 - progress.done
    assert found.estimate.made.value == pytest.approx(6 + left * (1 - (1 - share) ** 4) / share)
    assert found.estimate.made.low < found.estimate.made.value < found.estimate.made.high
    assert f"{progress.done} of 6 were accepted so far" in "\n".join(estimate_lines(found))


def test_a_plan_that_a_run_has_begun_is_estimated_by_what_it_took(
    store: RunStore, sim: SimulatedEndpoint
) -> None:
    endpoint, name = Endpoint("simulated", sim.base_url), "turns and languages"
    begun = prepared(store, generation(name, total_samples=60, max_dialogues=55, concurrency=4))
    work(spec(store, begun, endpoint))
    run = prepared(store, generation(name, total_samples=60, max_tokens=20_000_000))
    found = preview(store, spec(store, run, endpoint))
    assert found.estimate is not None
    assert found.by_run
    assert not any(dialogue.calls for dialogue in found.dialogues)
    lines = "\n".join(estimate_lines(found))
    assert "made before it" in lines
    assert "run.max_tokens" not in lines
    work(spec(store, run, endpoint))
    used, estimated = calls(store, run).total(), found.estimate.total
    for measure in ("calls", "prompt_tokens", "completion_tokens"):
        assert estimated[measure].value == pytest.approx(getattr(used, measure), rel=0.05), measure
    few = prepared(store, generation(name, total_samples=60, max_tokens=used.prompt_tokens // 2))
    done = preview(store, spec(store, few, endpoint))
    assert done.estimate is not None
    assert done.estimate.total["calls"].value == used.calls
    lines = "\n".join(estimate_lines(done))
    assert "All of it is made" in lines
    assert "is less than the whole plan takes" in lines
