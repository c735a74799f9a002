"""The recipe with a rubric, run: slips leave turns unjudged until the next run, ratings reach the dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dlgforge_core.config import Recipe, read_recipe
from dlgforge_core.export.columns import OptionalColumns
from dlgforge_core.export.verify import verify_dataset
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.generation.prepare import PreparedRun
from dlgforge_core.judging.results import judged_dialogues, rated_dimensions, rating_figures
from dlgforge_core.judging.store import latest_judging
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.quality.figures import DialogueFigures
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_store import RunStore
from tests.support.dialogues import lines
from tests.support.judging import judge, judging
from tests.support.runs import prepared, spec, work
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint

ROOT = Path(__file__).parents[2]
RATED = {
    "reasons": ["helpful"],
    "comment": "Fine.",
    "dimensions": {"depth": "4/5", "Natural question": 1},
    "question_ok": "yes",
    "answer_ok": True,
}
# Depth 3/4 of its scale with weight 2, the question 1/2: (2 * 0.75 + 0.5) / 3 = 0.667.
VERDICT = {
    "score": 7,
    "reasons": ["helpful"],
    "comment": "Fine.",
    "dimensions": {"depth": 4.0, "natural_question": 1.0},
    "question_ok": True,
    "answer_ok": True,
}
SLIP = {**RATED, "dimensions": {"depth": "rather deep", "natural_question": 1}}


@pytest.fixture
def recipe() -> Recipe:
    return read_recipe(ROOT / "examples/recipes/rubric.yaml")


def endpoint(sim: SimulatedEndpoint) -> Endpoint:
    return Endpoint("simulated", sim.base_url)


def test_the_recipe_of_a_rubric(store: RunStore, recipe: Recipe, tmp_path: Path) -> None:
    generation = recipe.generation
    with simulated_endpoint(verdict=RATED, faults={"bad_json": 0.6}, record_requests=200) as sim:
        run = prepared(store, generation)
        work(spec(store, run, endpoint(sim)))
        progress = store.progress(run.run_id)
        assert (progress.done, progress.dropped) == (6, 0)
        assert 0 < progress.unjudged < 12
        asked = [
            r["body"] for r in sim.stats()["requests"] if "You judge" in r["body"]["messages"][0]["content"]
        ]
        schema = asked[0]["response_format"]["json_schema"]["schema"]["properties"]
        assert list(schema["dimensions"]["properties"]) == ["depth", "natural_question"]
        assert "The user was to be: " in asked[0]["messages"][0]["content"]
        _slip(store, run, sim, progress.unjudged)

        sim.configure(verdict=RATED, faults={})
        sim.reset()
        work(spec(store, prepared(store, generation), endpoint(sim)))
        assert sim.stats()["by_role"] == {"qa_judge": progress.unjudged}
    assert store.progress(run.run_id).unjudged == 0
    scope = Scope(run_id=run.run_id)
    dialogues = list(store.dialogues(scope))
    verdicts = [turn.judgement for dialogue in dialogues for turn in dialogue.turns]
    assert [verdict.to_json() if verdict else None for verdict in verdicts] == [VERDICT] * 12
    figures = DialogueFigures.of(dialogues)
    assert {name: (rated.mean, rated.count) for name, rated in figures.ratings.items()} == {
        "depth": (4.0, 12),
        "natural_question": (1.0, 12),
    }
    assert (figures.share_ok("question"), figures.mean_score) == (1.0, 7.0)

    names = rated_dimensions(store, scope)
    assert names == ["depth", "natural_question"]
    write_dataset(dialogues, tmp_path, saving=recipe.saving.files, columns=OptionalColumns(dimensions=names))
    assert verify_dataset(tmp_path)
    for row in (
        *pq.read_table(tmp_path / "data/parquet/train.parquet").to_pylist(),
        *lines(tmp_path / "data/sharegpt_judged/train.jsonl"),
    ):
        assert row["turn_judgements"] == [VERDICT, VERDICT]


def _slip(store: RunStore, run: PreparedRun, sim: SimulatedEndpoint, lacking: int) -> None:
    """Judge again with ratings that nobody can read: no dialogue is dropped, what is unjudged stays so."""
    sim.configure(verdict=SLIP, faults={})
    work(spec(store, prepared(store, run.generation), endpoint(sim)))
    progress = store.progress(run.run_id)
    assert (progress.done, progress.dropped, progress.unjudged) == (6, 0, lacking)


def test_offline_judges_rate_by_the_same_rubric(store: RunStore, recipe: Recipe) -> None:
    options: dict[str, Any] = {
        "rubric": [one.model_dump() for one in recipe.judge.rubric],
        "judges": [{"name": "a", "model": "judge-a"}, {"name": "b", "model": "judge-b"}],
    }
    with simulated_endpoint() as sim:
        generation = recipe.generation.model_copy(update={"judge": judging(**options)})
        run = prepared(store, generation)
        work(spec(store, run, endpoint(sim)))
        report = judge(store, run, judging(**options), endpoint(sim))
        assert (report.given, report.missing) == (24, 0)
        again = judge(store, run, judging(**options), endpoint(sim))
        assert (again.given, again.kept) == (0, 24)
        options["rubric"][0]["weight"] = 1.0
        assert judge(store, run, judging(**options), endpoint(sim)).given == 24
        scores = judge(store, run, judging(judges=options["judges"]), endpoint(sim))
        assert scores.given == 24
        judge(store, run, judging(**options), endpoint(sim))
    scope = Scope(fingerprint=run.fingerprint)
    assert rated_dimensions(store, scope) == ["depth", "natural_question"]
    with store.connection() as connection:
        judges = latest_judging(connection, "", run.fingerprint)
        figures = rating_figures(connection, scope, judges)
    assert {name: one.units for name, one in figures.items()} == {"depth": 12, "natural_question": 12}
    for dialogue in judged_dialogues(store, scope):
        for turn in dialogue.turns:
            given = [v.judgement for v in dialogue.by_judge if v.turn_index == turn.index]
            assert len(given) == 2
            assert turn.judgement is not None
            depths = [one.dimensions["depth"] for one in given]
            assert turn.judgement.dimensions["depth"] == sum(depths) / 2
            assert turn.judgement.answer_ok == all(one.answer_ok for one in given)
