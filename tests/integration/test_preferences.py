"""The recipe with several answers, run: the judge chooses, poor answers are revised, pairs are written."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from dlgforge_core.config import Recipe, read_recipe
from dlgforge_core.dialogue import Dialogue
from dlgforge_core.export.columns import OptionalColumns
from dlgforge_core.export.filters import NoPairsError
from dlgforge_core.export.verify import verify_dataset
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_store import RunStore
from tests.support.dialogues import lines, stats
from tests.support.runs import prepared, spec, work
from tests.support.simulated_endpoint import simulated_endpoint

ROOT = Path(__file__).parents[2]
TEMPLATE = "{text} ({temperature}, asked: {last:.10})"
SCORES = {"asked: A reviewer": 8, "(0.2,": 4, "(0.7,": 7, "(1.2,": 6}
TURNS = 8


@pytest.fixture
def recipe() -> Recipe:
    return read_recipe(ROOT / "examples/recipes/preferences.yaml")


def finished(store: RunStore, run_id: str) -> list[Dialogue]:
    return list(store.dialogues(Scope(run_id=run_id)))


def test_the_recipe_of_preference_pairs(store: RunStore, recipe: Recipe, tmp_path: Path) -> None:
    with simulated_endpoint(text_template=TEMPLATE, scores=SCORES, record_requests=200) as sim:
        run = prepared(store, recipe.generation)
        work(spec(store, run, Endpoint("simulated", sim.base_url)))
        # Of each turn three answers and a revision; one verdict on all of the former, one on the latter.
        assert sim.stats()["by_role"] == {
            "qa_generator": TURNS,
            "kb_responder": 4 * TURNS,
            "qa_judge": 2 * TURNS,
        }
        asked = [request["body"] for request in sim.stats()["requests"]]
    assert store.progress(run.run_id).done == 4
    seeds = [body["seed"] for body in asked if body["messages"][-1]["role"] == "user" and not _judges(body)]
    assert len(set(seeds)) == len(seeds) == 5 * TURNS
    compared = [body for body in asked if "These are 3 answers" in body["messages"][-1]["content"]]
    assert [body["max_tokens"] for body in compared] == [3 * 256] * TURNS
    orders = {
        tuple(body["messages"][-1]["content"].find(f"({t},") for t in ("0.2", "0.7")) for body in compared
    }
    assert len({first < second for first, second in orders}) == 2, "not always in the same order"

    dialogues = finished(store, run.run_id)
    for dialogue in dialogues:
        for turn in dialogue.turns:
            assert "(0.7, asked: A reviewer)" in turn.assistant
            assert turn.judgement is not None
            assert turn.judgement.score == 8
            assert [
                (one.judgement.score if one.judgement else None, one.temperature, one.revision, one.chosen)
                for one in turn.details.candidates
            ] == [
                (4, 0.2, False, False),
                (7, 0.7, False, False),
                (6, 1.2, False, False),
                (8, 0.7, True, True),
            ]
    _check_dataset(recipe, dialogues, tmp_path)


def _judges(body: dict[str, object]) -> bool:
    return "response_format" in body


def _check_dataset(recipe: Recipe, dialogues: list[Dialogue], folder: Path) -> None:
    summary = write_dataset(
        dialogues, folder, saving=recipe.saving.files, columns=OptionalColumns(candidates=True)
    )
    assert verify_dataset(folder) == {"openai_messages": 4, "dpo": 4, "parquet": 4}
    rows = lines(folder / "data/dpo/train.jsonl")
    # 8 against 4 and 6; against 7 the margin is less than 2.
    assert sorted((row["chosen_score"], row["rejected_score"], row["margin"]) for row in rows) == [
        *[(8.0, 4.0, 4.0)] * TURNS,
        *[(8.0, 6.0, 2.0)] * TURNS,
    ]
    assert summary.preferences.pairs == 16
    assert stats(folder)["preferences"] == {
        "turns": 8,
        "candidates": 32,
        "revised": 8,
        "pairs": 16,
        "min_margin": 2.0,
        "mean_margin": 3.0,
        "margins": {"2": 8, "4": 8},
        "turns_without_pair": {"unjudged": 0, "too_close": 0},
    }
    card = (folder / "README.md").read_text("utf-8")
    assert "8 questions got several answers, 32 in all" in card
    assert "16 pairs of answers in `dpo`" in card
    read = load_dataset(str(folder), "dpo", cache_dir=str(folder / "cache"))["train"]
    assert len(read) == 16
    for row, dialogue in zip(read.select(range(4)), [dialogues[0]] * 4, strict=True):
        turn = dialogue.turns[row["turn"]]
        assert row["prompt"][-1] == {"role": "user", "content": turn.user}
        assert len(row["prompt"]) == 2 * row["turn"] + 1
        assert row["chosen"] == [{"role": "assistant", "content": turn.assistant}]
        assert row["rejected"][0]["content"] in [one.answer for one in turn.details.candidates[:3]]
    table = pq.read_table(folder / "data/parquet/train.parquet").to_pylist()
    assert [len(turn) for row in table for turn in row["turn_candidates"]] == [4] * TURNS
    assert {one["judgement"]["score"] for one in table[0]["turn_candidates"][0]} == {4, 6, 7, 8}


def test_without_verdicts_the_first_answers_stand_and_are_judged_by_the_next_run(
    store: RunStore, recipe: Recipe, tmp_path: Path
) -> None:
    with simulated_endpoint(text_template=TEMPLATE, faults={"bad_json": 1.0}) as sim:
        run = prepared(store, recipe.generation)
        work(spec(store, run, Endpoint("simulated", sim.base_url)))
        progress = store.progress(run.run_id)
        assert (progress.done, progress.dropped, progress.unjudged) == (4, 0, TURNS)
        sim.configure(faults={}, scores=SCORES)
        sim.reset()
        work(spec(store, prepared(store, recipe.generation), Endpoint("simulated", sim.base_url)))
        assert sim.stats()["by_role"] == {"qa_judge": TURNS}
    dialogues = finished(store, run.run_id)
    for turn in (turn for dialogue in dialogues for turn in dialogue.turns):
        assert "(0.2, asked: " in turn.assistant
        assert turn.judgement is not None
        assert turn.judgement.score == 4
        assert [one.judgement for one in turn.details.candidates] == [None] * 3
    assert "none of 4 dialogues has a pair" in _no_pairs(dialogues, tmp_path)
    write_dataset(dialogues, tmp_path, saving=recipe.saving.files, columns=OptionalColumns(candidates=True))
    assert verify_dataset(tmp_path) == {"openai_messages": 4, "parquet": 4}
    assert stats(tmp_path)["preferences"]["turns_without_pair"] == {"unjudged": 8, "too_close": 0}
    assert "8 have none: in 0 no score is lower by 2 or more, in 8" in (tmp_path / "README.md").read_text(
        "utf-8"
    )


def _no_pairs(dialogues: list[Dialogue], folder: Path) -> str:
    saving = read_recipe(ROOT / "examples/recipes/preferences.yaml").saving.files
    with pytest.raises(NoPairsError) as raised:
        write_dataset(
            dialogues,
            folder,
            saving=saving.model_copy(update={"formats": ["dpo"]}),
            columns=OptionalColumns(candidates=True),
        )
    return str(raised.value)
