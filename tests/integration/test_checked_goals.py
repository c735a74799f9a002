"""Goals that are checked by calls of tools, from the recipe to the dataset."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import chdir
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dlgforge_core.config import GenerationConfig, KnowledgeConfig, LlmConfig, read_recipe, validate
from dlgforge_core.dialogue import Role
from dlgforge_core.export.columns import OptionalColumns
from dlgforge_core.export.verify import verify_dataset
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.generation.prepare import prepare_run
from dlgforge_core.judging.results import judged_dialogues
from dlgforge_core.knowledge.indexing import index_knowledge
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.planning.seed_folder import read_seed_batches
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_store import RunStore
from dlgforge_core.tools.declarations import definitions_from
from dlgforge_core.verdicts import GoalVerdict
from dlgforge_dagster.assets.dialogue_dataset import _has_state
from tests.support.dialogues import lines
from tests.support.judging import judge, judging
from tests.support.recipes import MODELS, ROOT
from tests.support.runs import prepared, spec, work
from tests.support.simulated_endpoint import simulated_endpoint

PATTERN = "return|refund|exchange"


def test_the_recipe_of_checked_goals(store: RunStore, tmp_path: Path) -> None:
    recipe = read_recipe(ROOT / "examples/recipes/checked_goals.yaml")
    agents = {role: {"model": model} for role, model in MODELS.items()}
    llm = LlmConfig.model_validate({"backend": "openai", "base_url": "http://x/v1", "agents": agents})
    with chdir(ROOT):
        batches = read_seed_batches(recipe.seeds.path).batches
        knowledge = KnowledgeConfig(path=str(recipe.knowledge.path))
        index = index_knowledge(store.database, store.dataset, knowledge)
    store.save_seed_batches(batches)
    run = prepare_run(store, recipe.generation, llm, batches, index_id=index.index_id)
    options: dict[str, Any] = {
        "tool_calls": "once",
        "tool_call_share": 0.4,
        "tool_calls_at_once": 2,
        "tool_arguments": '{"query": "Returns and refunds"}',
        "role_models": {model: role for role, model in MODELS.items()},
    }
    with simulated_endpoint(models=list(MODELS.values()), record_requests=5000, **options) as sim:
        work(spec(store, run, Endpoint("simulated", sim.base_url)))
        requests = [request["body"] for request in sim.stats()["requests"]]
        assert set(sim.stats()["by_role"]) == {"qa_generator", "kb_responder"}  # nobody judges
    progress = store.progress(run.run_id)
    assert (progress.planned, progress.done, progress.complete) == (8, 8, True)
    assert set(progress.shortcomings) == {"goal_met"}

    # The expectation is in no prompt, the goal in the user simulator's alone.
    shown: Counter[str] = Counter()
    for request in requests:
        text = "\n".join(str(message["content"]) for message in request["messages"])
        assert PATTERN not in text
        shown[request["model"]] += "The customer wants to" in text
    assert shown[MODELS[Role.ASSISTANT]] == 0 < shown[MODELS[Role.USER_SIMULATOR]]

    dialogues = list(judged_dialogues(store, Scope(run_id=run.run_id)))
    reasons: Counter[str] = Counter()
    for dialogue in dialogues:
        calls = [event for turn in dialogue.turns for event in turn.details.tools]
        verdict = dialogue.goal_verdict
        assert verdict is not None
        assert verdict.met
        assert bool(calls) == ("calls" in dialogue.plan.expects)
        assert all(turn.details.call_rounds in ((), (2,)) for turn in dialogue.turns)
        reasons[verdict.reason] += 1
    assert reasons == {"1 expected call was made.": 6, "No forbidden call was made.": 2}

    columns = OptionalColumns(conversation=run.generation.conversation.columns)
    write_dataset(
        dialogues, tmp_path, saving=recipe.saving.files, columns=columns, offered=["vector_db_search"]
    )
    assert verify_dataset(tmp_path) == dict.fromkeys(recipe.saving.formats, 8)
    rows = pq.read_table(tmp_path / "data/parquet/train.parquet").to_pylist()
    assert Counter((row["goal_met"], row["goal_reason"]) for row in rows) == Counter(
        {(True, reason): n for reason, n in reasons.items()}
    )
    called = [row for row in lines(tmp_path / "data/openai_messages/train.jsonl") if _calls(row)]
    assert len(called) == 6
    for row in called:
        assert all(call["function"]["arguments"] == {"query": "Returns and refunds"} for call in _calls(row))
        assert all(len(m["tool_calls"]) == 2 for m in row["messages"] if "tool_calls" in m)
    again = prepare_run(store, recipe.generation, llm, batches, index_id=index.index_id)
    assert (again.run_id, store.progress(again.run_id).pending) == (run.run_id, 0)


DESK = '''
def lend(query: str, state: dict) -> str:
    """Lends a book."""
    state["lent"] += 1
    return "Lent."
'''


def test_goals_by_the_final_state_are_no_judges(store: RunStore) -> None:
    goals = [
        {"text": f"Two books for sk-{n}", "expect": {"state": {"contains": {"lent": n}}}} for n in (2, 3)
    ]
    config = judging()
    sections = {
        "run": {"total_samples": 4, "target_languages": ["en"], "n_turns": 2},
        "conversation": {"goals": goals},
        "judge": config.model_dump(),
        "tools": {
            "enabled": True,
            "modules": {"desk": DESK},
            "functions": [{"python": "desk:lend"}],
            "state": {"initial": [{"value": {"lent": 0}}]},
        },
    }
    with simulated_endpoint(tool_calls="once", record_requests=1000) as sim:
        endpoint = Endpoint("simulated", sim.base_url)
        run = prepared(store, validate(GenerationConfig, sections, "test"))
        work(spec(store, run, endpoint))
        dialogues = list(store.dialogues(run.run_id))
        record = store.run(run.run_id)
        assert record is not None
        assert _has_state(record)
        assert [tool.name for tool in definitions_from(record.config)] == ["lend"]
        assert [dialogue.final_state for dialogue in dialogues] == [{"lent": 2}] * 4
        verdicts = Counter(dialogue.goal for dialogue in dialogues)
        assert verdicts == {
            GoalVerdict(True, "The state is as expected."): 2,
            GoalVerdict(False, "the state.lent is 2, and not 3"): 2,
        }
        sim.reset()
        assert judge(store, run, config, endpoint).given == 8  # on turns, and on no goal
        judged = list(judged_dialogues(store, Scope(run_id=run.run_id)))
        assert Counter(dialogue.goal_verdict for dialogue in judged) == verdicts
        assert "goal" not in json.dumps([request["body"] for request in sim.stats()["requests"]])


def _calls(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [call for message in row["messages"] for call in message.get("tool_calls", ())]
