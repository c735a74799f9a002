"""The recipe of prompted traces, run: in whatever form notes come, they are the reasoning and no answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from dlgforge_core.config import GenerationConfig, RunConfig
from dlgforge_core.dialogue import Dialogue, Role
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.quality.leaks import leaks
from dlgforge_core.store.run_store import RunStore
from tests.support.dialogues import lines
from tests.support.recipes import MODELS, ExampleRun, run_example
from tests.support.runs import prepared, spec, work
from tests.support.simulated_endpoint import simulated_endpoint

NOTES = "Evidence: Something on evidence.\n\nSteps: Something on steps.\n\nLimits: Something on limits."
WORDS = "Write it in this form, and nothing else:\n<evidence>…</evidence>\n<steps>"


def answers_asked(example: ExampleRun) -> list[dict[str, Any]]:
    return [request for request in example.requests if request["model"] == MODELS[Role.ASSISTANT]]


def finished(example: ExampleRun, total: int) -> list[Dialogue]:
    """Return the dialogues, of which none was dropped, with no note in an answer."""
    assert len(example.dialogues) == total
    for dialogue in example.dialogues:
        assert not list(leaks(dialogue, 12))
        for turn in dialogue.turns:
            assert not any(word in turn.assistant for word in ("<", "Something on", "evidence"))
    return example.dialogues


@pytest.mark.parametrize("support", ["json_schema", "json_object", "none"])
def test_the_recipe_of_a_prompted_trace(store: RunStore, tmp_path: Path, support: str) -> None:
    example = run_example(store, "prompted_trace.yaml", json_schema_support=support)
    dialogues = finished(example, 6)
    asked = answers_asked(example)
    last = [request["messages"][-1]["content"] for request in asked]
    assert all("\n- limits: what is uncertain or missing\n" in text for text in last)
    schemas = Counter("response_format" in request for request in asked)
    worded = [WORDS in text for text in last]
    if support == "json_schema":
        assert schemas == {True: 12}
        assert not any(worded)
        schema = asked[0]["response_format"]["json_schema"]["schema"]
        assert list(schema["properties"]) == ["evidence", "steps", "limits", "answer"]
    else:
        assert [WORDS in text for text in last] == ["response_format" not in request for request in asked]
        assert schemas[False] == 12
    # Only the question at hand asks for notes: answers stand in the prompt as the user sees them.
    assert all("limits" not in m["content"] for request in asked for m in request["messages"][:-1])

    write_dataset(dialogues, tmp_path, saving=example.recipe.saving.files)
    rows = lines(tmp_path / "data/openai_messages/train.jsonl")
    spoken = [m for row in rows for m in row["messages"] if m["role"] == "assistant"]
    assert len(spoken) == 12
    if support != "json_schema":
        assert [m["reasoning_content"] for m in spoken] == [NOTES] * 12
    for message in spoken:
        assert [part.split(":")[0] for part in message["reasoning_content"].split("\n\n")] == [
            *("Evidence", "Steps", "Limits")
        ]
    assert "Evidence" not in (tmp_path / "data/sharegpt/train.jsonl").read_text()
    again = example.prepare_again(store)
    assert (again.run_id, store.progress(again.run_id).pending) == (example.run.run_id, 0)


@pytest.mark.parametrize("field", ["reasoning_content", "think"])
def test_what_a_model_thinks_by_itself_has_precedence(store: RunStore, field: str) -> None:
    options: dict[str, Any] = {
        "reasoning": "Let me think of it.",
        "reasoning_field": field,
        "json_schema_support": "none",
    }
    example = run_example(store, "prompted_trace.yaml", **options)
    turns = [turn for dialogue in finished(example, 6) for turn in dialogue.turns]
    assert {turn.details.reasoning for turn in turns} == {"Let me think of it."}


def test_answers_that_call_tools_are_asked_for_notes_in_words(store: RunStore) -> None:
    with simulated_endpoint(tool_calls="once", record_requests=100) as sim:
        search = {"web_search": True, "web_search_url": sim.base_url.removesuffix("/v1") + "/search"}
        generation = GenerationConfig.model_validate(
            {
                "run": {"total_samples": 4, "target_languages": ["en"], "n_turns": 1},
                "judge": {"mode": "off"},
                "reasoning": {"prompted": True},
                "tools": {"enabled": True, **search},
            }
        )
        run = prepared(store, generation)
        worker = spec(store, run, Endpoint("simulated", sim.base_url))
        work(replace(worker, web_search_key=SecretStr("key-of-the-search")))
        asked = [r["body"] for r in sim.stats()["requests"] if "tools" in r["body"]]
    details = [dialogue.turns[0].details for dialogue in store.dialogues(run.run_id)]
    assert [(len(one.tools), one.reasoning) for one in details] == [(1, NOTES)] * 4
    assert len(asked) == 8
    assert not any("response_format" in request for request in asked)
    assert all(WORDS in next(m["content"] for m in r["messages"] if m["role"] == "user") for r in asked)


def test_a_model_that_writes_no_notes_is_asked_once_more_and_then_given_up(store: RunStore) -> None:
    run = RunConfig(total_samples=2, target_languages=["en"], n_turns=1)
    plain: dict[str, Any] = {"json_schema_support": "none", "writes_forms": False}
    example = run_example(store, "prompted_trace.yaml", {"run": run}, **plain)
    progress = store.progress(example.run.run_id)
    assert (progress.done, progress.drop_reasons) == (0, {"invalid_output": 2})
    asked = [messages[-1]["content"] for messages in example.asked(Role.ASSISTANT)]
    again = "That answer cannot be used: it lacks evidence, steps, limits, answer. Answer again, in the form"
    assert sum(text.startswith(again) for text in asked) == 2
