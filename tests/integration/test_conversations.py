"""Who opens and who ends conversations, and whether users meet their goals."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dlgforge_core.config import GenerationConfig, validate
from dlgforge_core.dialogue import Ending, Role
from dlgforge_core.export.columns import OptionalColumns
from dlgforge_core.export.verify import verify_dataset
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.judging.results import judged_dialogues
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.quality.figures import DialogueFigures
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.metadata.dialogues import course_metadata
from tests.support.dialogues import lines, stats
from tests.support.judging import judge, judging
from tests.support.recipes import ExampleRun, run_example
from tests.support.runs import prepared, spec, work
from tests.support.simulated_endpoint import simulated_endpoint

MONEY, VOUCHER = "The customer wants the money back", "The customer wants a voucher for the trouble with "
FORMATS = {"sharegpt_judged": 8, "openai_messages": 8, "prompt_completion": 20, "parquet": 8}


def test_the_recipe_of_goals(store: RunStore, tmp_path: Path) -> None:
    example = run_example(store, "goals.yaml", user_ends=MONEY)
    run, dialogues = example.run, example.dialogues
    progress = store.progress(run.run_id)
    assert (progress.planned, progress.done, progress.complete) == (8, 8, True)
    assert progress.made > 8
    assert set(progress.shortcomings) == {"goal_met"}
    for dialogue in dialogues:
        ends = dialogue.plan.goal.startswith(MONEY)
        assert dialogue.ended_by == (Ending.USER if ends else Ending.PLANNED)
        assert len(dialogue.turns) == (2 if ends else 4)
        assert dialogue.opening
        assert dialogue.judgement is not None
        assert dialogue.goal_verdict == dialogue.judgement.goal is not None
        assert dialogue.goal_verdict is not None
        assert dialogue.goal_verdict.met
    assert Counter(dialogue.plan.goal.startswith(MONEY) for dialogue in dialogues) == {True: 6, False: 2}

    _check_requests(example)
    page: Any = course_metadata(DialogueFigures.of(dialogues), run.generation.conversation.columns)
    assert [tuple(row.data.values()) for row in page["ended_by"].records] == [("planned", 2), ("user", 6)]
    assert [tuple(row.data.values()) for row in page["goals"].records] == [("met", 8)]

    columns = run.generation.conversation.columns
    write_dataset(
        dialogues, tmp_path, saving=example.recipe.saving.files, columns=OptionalColumns(conversation=columns)
    )
    assert verify_dataset(tmp_path) == dict.fromkeys(FORMATS, 8)
    for form, n_rows in FORMATS.items():
        assert len(lines(tmp_path / f"data/{form}/train.jsonl")) == n_rows
    for row in lines(tmp_path / "data/sharegpt_judged/train.jsonl"):
        assert (row["ended_by"] == "user") == row["goal"].startswith(MONEY)
        assert (row["goal_met"], type(row["goal_reason"])) == (True, str)
        assert [m["from"] for m in row["conversations"]][:3] == ["gpt", "human", "gpt"]
    for row in lines(tmp_path / "data/openai_messages/train.jsonl"):
        assert set(row) == {"messages"}
        assert [m["role"] for m in row["messages"]][:3] == ["assistant", "user", "assistant"]
    written = stats(tmp_path)
    assert (written["ended_by"], written["opened_by_assistant"], written["goals"]) == (
        {"planned": 2, "user": 6},
        8,
        {"met": 8},
    )
    again = example.prepare_again(store)
    assert (again.run_id, store.progress(again.run_id).pending) == (run.run_id, 0)


def _check_requests(example: ExampleRun) -> None:
    for messages in example.asked(Role.USER_SIMULATOR):
        assert (
            "The user's goal, which the assistant is not told: The customer wants" in messages[0]["content"]
        )
    answered = example.asked(Role.ASSISTANT)
    openings = Counter(len(messages) for messages in answered)
    for messages in answered:
        shown = "\n".join(message["content"] for message in messages)
        assert MONEY not in shown
        assert VOUCHER not in shown
        assert messages[1]["content"].startswith("The user has just come to you")
        roles = [message["role"] for message in messages[1:]]
        assert roles == (["user", "assistant"] * len(roles))[: len(roles)]
    assert openings[2] == openings[4]  # each dialogue is opened once, and its first question answered once
    for messages in example.asked(Role.JUDGE):
        assert "> " in messages[-1]["content"]
        assert (
            "\n\nThe user's goal, which the assistant was not told: The customer wants"
            in messages[-1]["content"]
        )
        assert messages[-1]["content"].startswith("Assistant:\n> ")


GOALS: dict[str, Any] = {"goals": [{"text": "A refund"}, {"text": ""}], "ends": "user"}


@pytest.mark.parametrize("support", ["json_schema", "json_object", "none"])
def test_a_verdict_on_goals_alone_is_asked_for_again(store: RunStore, support: str) -> None:
    settings = {
        "run": {"total_samples": 8, "target_languages": ["en"], "n_turns": 3, "min_turns": 1},
        "conversation": GOALS,
    }
    generation = validate(GenerationConfig, settings, "test")
    refused = {"contains": "You judge whether the user", "status": 400, "body": {"error": {"message": "No."}}}
    options: dict[str, Any] = {"json_schema_support": support, "user_ends": "A refund"}
    with simulated_endpoint(canned=[refused], **options) as sim:
        run = prepared(store, generation)
        work(spec(store, run, Endpoint("simulated", sim.base_url)))
        dialogues = list(store.dialogues(run.run_id))
        assert Counter((d.plan.goal, d.ended_by, len(d.turns)) for d in dialogues) == {
            ("A refund", Ending.USER, 1): 4,
            ("", Ending.PLANNED, 3): 4,
        }
        assert not any(dialogue.goal_verdict for dialogue in dialogues)
        assert all(turn.judgement for dialogue in dialogues for turn in dialogue.turns)
        progress = store.progress(run.run_id)
        assert (progress.unjudged, progress.turns, progress.done) == (4, 16, 8)

        sim.configure(canned=[])
        sim.reset()
        work(spec(store, prepared(store, generation), Endpoint("simulated", sim.base_url)))
        assert sim.stats()["by_role"] == {"qa_judge": 4}
        judged = list(store.dialogues(run.run_id))
        assert [bool(dialogue.goal_verdict) for dialogue in judged] == [bool(d.plan.goal) for d in judged]
        assert [dialogue.turns for dialogue in judged] == [dialogue.turns for dialogue in dialogues]
        assert store.progress(run.run_id).unjudged == 0


@pytest.mark.parametrize(("granularity", "calls"), [("turn", 6), ("conversation", 4)])
def test_offline_judges_say_whether_goals_were_met(store: RunStore, granularity: str, calls: int) -> None:
    config = judging(granularity=granularity)
    settings = {
        "run": {"total_samples": 4, "target_languages": ["en"], "n_turns": 2, "min_turns": 1},
        "conversation": GOALS,
        "judge": config.model_dump(),
    }
    with simulated_endpoint(user_ends="A refund", verdict={"goal_met": True}) as sim:
        endpoint = Endpoint("simulated", sim.base_url)
        run = prepared(store, validate(GenerationConfig, settings, "test"))
        work(spec(store, run, endpoint))
        sim.reset()
        assert judge(store, run, config, endpoint).given == calls
        assert sim.stats()["by_role"] == {"qa_judge": calls}
        assert judge(store, run, config, endpoint).kept == calls
    dialogues = list(judged_dialogues(store, Scope(run_id=run.run_id)))
    assert Counter(dialogue.ended_by for dialogue in dialogues) == {Ending.USER: 2, Ending.PLANNED: 2}
    for dialogue in dialogues:
        assert bool(dialogue.goal_verdict) == bool(dialogue.plan.goal)
        assert dialogue.goal_verdict is None or dialogue.goal_verdict.met
