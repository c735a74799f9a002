"""Rubrics: what may be one, what the judge is told, how ratings are read, and the score they make."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.config import JudgeConfig, Recipe, read_recipe, validate
from dlgforge_core.config.saving import DatasetFilesConfig, FiltersConfig
from dlgforge_core.dialogue import Dialogue, DialoguePlan, Persona, Turn
from dlgforge_core.errors import ConfigError
from dlgforge_core.export.columns import OptionalColumns
from dlgforge_core.export.filters import Sieve
from dlgforge_core.export.schema import PARQUET_SCHEMA
from dlgforge_core.export.verify import verify_dataset
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.judging.agreement import agreement_of
from dlgforge_core.judging.rating_agreement import IntervalAlpha, dimension_figures
from dlgforge_core.judging.results import merged
from dlgforge_core.llm.structured import parse
from dlgforge_core.planning.fingerprint import content_config
from dlgforge_core.planning.personas import read_personas
from dlgforge_core.prompting.rating_reading import read_rating
from dlgforge_core.prompting.rubric import rubric_score
from dlgforge_core.prompting.verdict_prompts import conversation_judge, turn_judge, verdict_schema
from dlgforge_core.prompting.verdict_reading import judgement_from
from dlgforge_core.sources import SeedTopic
from dlgforge_core.verdicts import Judgement
from tests.support.dialogues import judged, stats

RUBRIC: list[dict[str, Any]] = [
    {
        "name": "depth",
        "about": "answer",
        "description": "Does it explain why?",
        "levels": {1: "names things only", 5: "explains how they hang together"},
        "weight": 3.0,
    },
    {"name": "natural_question", "about": "question", "min": 0, "max": 10},
    {"name": "tone", "about": "both", "min": -2, "max": 2, "weight": 0.5},
]
JUDGE = validate(JudgeConfig, {"reasons": ["helpful", "incorrect"], "rubric": RUBRIC}, "judge")
GOOD: dict[str, Any] = {
    "comment": "Fine.",
    "reasons": ["helpful"],
    "dimensions": {"depth": 4, "natural_question": 7, "tone": -1},
    "question_ok": True,
    "answer_ok": False,
}
READ = Judgement(7, ("helpful",), "Fine.", {"depth": 4.0, "natural_question": 7.0, "tone": -1.0}, True, False)
PLAN = DialoguePlan(
    "d",
    0,
    "en",
    2,
    SeedTopic("t", "en", "a topic"),
    Persona("u", "Novice", "Asks  plainly."),
    Persona("a", "Expert", "Answers."),
)
TURNS = (Turn(0, "question 0", "answer 0"), Turn(1, "question 1", "answer 1"))


def answer_with(**changes: Any) -> dict[str, Any]:
    data = copy.deepcopy(GOOD)
    for name, value in changes.items():
        place = data["dimensions"] if name in data["dimensions"] else data
        place[name] = value
    return data


def test_the_score_is_the_weighted_mean_of_the_shares_of_the_scales() -> None:
    # depth 3/4 of its scale, the question 7/10, tone 1/4: (3*0.75 + 0.7 + 0.5*0.25) / 4.5 = 0.6833.
    assert judgement_from(GOOD, JUDGE) == READ
    worst = {"depth": 1.0, "natural_question": 0.0, "tone": -2.0}
    best = {"depth": 5.0, "natural_question": 10.0, "tone": 2.0}
    assert (rubric_score(JUDGE.rubric, worst), rubric_score(JUDGE.rubric, best)) == (0, 10)
    halves = validate(
        JudgeConfig, {"rubric": [{"name": "a", "weight": 0.1}, {"name": "b", "weight": 0.3}]}, "j"
    )
    # 0.1/0.4 of 10 is 2.5, which is rounded up.
    assert rubric_score(halves.rubric, {"a": 5, "b": 1}) == 3


@pytest.mark.parametrize(
    "data",
    [
        GOOD,
        answer_with(score=1),
        answer_with(depth="4"),
        answer_with(depth="4/5"),
        answer_with(depth="4 out of 5"),
        answer_with(depth="80 %"),
        answer_with(depth="four"),
        answer_with(depth=4.0),
        answer_with(depth=[4]),
        answer_with(depth={"score": 4, "explanation": "5 reasons are missing"}),
        answer_with(depth={"rating": "4/5", "comment": "Good"}),
        answer_with(depth="4 - it explains most"),
        answer_with(tone="-1"),
        answer_with(tone="\u22121"),
        answer_with(question_ok="yes", answer_ok="No, it is wrong."),
        answer_with(question_ok=1, answer_ok=0),
        answer_with(question_ok={"ok": True, "why": "clear"}, answer_ok="not ok"),
        {**{k: v for k, v in GOOD.items() if k != "dimensions"}, **GOOD["dimensions"]},
        {**GOOD, "dimensions": [{"name": name, "score": v} for name, v in GOOD["dimensions"].items()]},
        {
            **GOOD,
            "dimensions": [{"dimension": "Depth", "rating": 4}, {"Natural Question": 7}, {"tone": -1}],
        },
        {
            "verdict": {
                **GOOD,
                "dimensions": {
                    "question": {"natural-question": "7/10"},
                    "answer": {"Depth": 4},
                    "both": {"TONE": -1},
                },
            }
        },
        {
            "comment": "Fine.",
            "reasons": "helpful",
            "ratings": GOOD["dimensions"],
            "question": {"ok": True},
            "answer": {"ok": "no"},
        },
        {**GOOD, "explanations": {"depth": "It names four of five causes.", "tone": "cold"}},
    ],
)
def test_ratings_are_read_whatever_their_form(data: dict[str, Any]) -> None:
    assert (
        parse(f"Here you are:\n```json\n{json.dumps(data)}\n```", lambda found: judgement_from(found, JUDGE))
        == READ
    )


@pytest.mark.parametrize(
    ("value", "least", "most", "rating"),
    [
        ("0", -5, 0, 0.0),
        ("-2/0", -5, 0, None),
        ("80 %", -5, 0, None),
        ("50 %", -2, 2, None),
        ("5/10", -2, 2, None),
        ("2/2", -2, 2, 2.0),
        ("80 %", 1, 5, 4.0),
        ("8/10", 0, 5, 4.0),
        ("70 %", 0, 100, 70.0),
        ("1000", 0, 1000, 1000.0),
        ("900/1000", 0, 1000, 900.0),
    ],
)
def test_shares_are_ratings_where_a_scale_begins_at_nothing(
    value: str, least: int, most: int, rating: float | None
) -> None:
    assert read_rating(value, most, least) == rating


def test_a_levels_words_and_a_fraction_are_ratings() -> None:
    assert judgement_from(answer_with(depth="Names things only."), JUDGE).dimensions["depth"] == 1
    assert judgement_from(answer_with(depth=3.5), JUDGE).dimensions["depth"] == 3.5


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"depth": 0}, r"depth must be a whole number from 1 to 5, not 0"),
        ({"depth": "6/5"}, r"depth must be a whole number from 1 to 5"),
        ({"depth": "between 3 and 4"}, r"depth must be"),
        ({"depth": "3-4"}, r"depth must be"),
        ({"depth": None}, r"depth must be"),
        ({"depth": True}, r"depth must be"),
        ({"depth": [3, 4]}, r"depth must be"),
        ({"depth": float("nan")}, r"depth must be"),
        ({"tone": 3}, r"tone must be a whole number from -2 to 2, not 3"),
        ({"Depth": 2}, r"depth must be a whole number from 1 to 5, and is rated 2 and 4"),
        ({"dimensions": {}}, r"depth must be a whole number from 1 to 5, and is missing"),
        ({"question_ok": "perhaps"}, r"question_ok must be true or false, not 'perhaps'"),
        ({"question_ok": "yes and no"}, r"question_ok must be"),
        ({"answer_ok": None}, r"answer_ok must be true or false"),
        ({"answer_ok": 2}, r"answer_ok must be true or false, not 2"),
        ({"reasons": []}, r"reasons must name some of"),
    ],
)
def test_any_other_rating_is_reported_to_the_judge(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as error:
        judgement_from(answer_with(**change), JUDGE)
    assert len(str(error.value)) < 200


_ANY = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["depth", "tone", "name", "score", "question_ok", "question", "ok"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(_ANY, st.sampled_from([*GOOD, *GOOD["dimensions"]]))
def test_any_ratings_are_a_judgement_on_the_scales_or_a_value_error(value: Any, name: str) -> None:
    with suppress(ValueError):
        judgement = judgement_from(answer_with(**{name: value}), JUDGE)
        assert 0 <= judgement.score <= 10
        for one in JUDGE.rubric:
            assert one.min <= judgement.dimensions[one.name] <= one.max
        assert isinstance(judgement.question_ok, bool)
        assert Judgement.from_json(json.loads(json.dumps(judgement.to_json()))) == judgement


def test_a_verdict_without_a_rubric_is_what_it_was() -> None:
    plain = Judgement(8, ("helpful",), "Good.")
    assert plain.to_json() == {"score": 8, "reasons": ["helpful"], "comment": "Good."}
    assert hash(plain) == hash(Judgement(8, ("helpful",), "Good."))
    extra = judgement_from({"score": 8, "reasons": ["helpful"], "depth": 3}, JudgeConfig(reasons=["helpful"]))
    assert extra.ratings is None


def test_the_schema_asks_for_ratings_and_for_no_score() -> None:
    schema = verdict_schema(JUDGE)
    fields = ["answer_language", "comment", "reasons", "dimensions", "question_ok", "answer_ok"]
    assert list(schema["properties"]) == fields
    assert schema["required"] == list(schema["properties"])
    dimensions = schema["properties"]["dimensions"]
    assert dimensions["properties"]["tone"] == {"type": "integer", "minimum": -2, "maximum": 2}
    assert dimensions["required"] == ["depth", "natural_question", "tone"]
    assert dimensions["additionalProperties"] is False


def test_the_judge_is_shown_the_dimensions_and_its_own_ratings() -> None:
    before = Turn(0, "question 0", "answer 0", READ)
    system, _, verdict, _ = turn_judge(PLAN, JUDGE, [before], TURNS[1])
    assert (
        "- depth (of the answer), 1 to 5: Does it explain why? "
        "[1 = names things only; 5 = explains how they hang together]\n"
        "- natural_question (of the question), 0 to 10\n"
        "- tone (of the question and answer), -2 to 2"
    ) in system["content"]
    assert "score" not in system["content"]
    assert "Novice" not in system["content"]
    assert json.loads(verdict["content"]) == {k: v for k, v in GOOD.items() if k != "comment"}
    assert "the whole conversation" in conversation_judge(PLAN, JUDGE, TURNS)[0]["content"]


def test_personas_are_shown_when_asked() -> None:
    shown = JUDGE.model_copy(update={"show_persona": True})
    for messages in (turn_judge(PLAN, shown, [], TURNS[0]), conversation_judge(PLAN, shown, TURNS)):
        assert "The user was to be: Novice. Asks plainly.\n" in messages[0]["content"]
        assert "The assistant was to be: Expert. Answers." in messages[0]["content"]


def test_it_is_part_of_the_fingerprint_where_it_is_set() -> None:
    def judge_of(**options: Any) -> dict[str, Any]:
        recipe = Recipe(judge=validate(JudgeConfig, options, "judge"))
        content = content_config(recipe.generation, recipe.llm, read_personas(""))
        found: dict[str, Any] = content["judge"]
        return found

    assert not {"rubric", "show_persona"} & judge_of().keys()
    assert judge_of(rubric=RUBRIC)["rubric"][0]["levels"] == {"1": "names things only", **RUBRIC_LAST}
    assert judge_of(show_persona=True)["show_persona"] is True


RUBRIC_LAST = {"5": "explains how they hang together"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("judge:\n  rubric:\n  - {name: Depth}\n", r":3: judge\.rubric\.0: name = 'Depth' cannot name"),
        ("judge:\n  rubric:\n  - {name: score}\n", r":3: judge\.rubric\.0: name = 'score' cannot name"),
        (
            "judge:\n  rubric:\n  - {name: a, min: 5}\n",
            r":3: judge\.rubric\.0: a: the scale goes from min = 5",
        ),
        ("judge:\n  rubric:\n  - {name: a, levels: {6: x}}\n", r"a: levels has '6', which is no whole"),
        ("judge:\n  rubric:\n  - name: a\n    wieght: 2.0\n", r":4: judge\.rubric\.0\.wieght: unknown key"),
        ("judge: {rubric: [{name: a, weight: 0.0}]}\n", r"judge\.rubric\.0\.weight = 0\.0"),
        ("judge: {rubric: [{name: a}, {name: a}]}\n", r":1: judge\.rubric: rubric names a more than once"),
        (
            "judge: {rubric: [{name: depth}]}\nsaving:\n  filters:\n    min_dimensions: {dept: 3.0}\n",
            r":4: saving\.filters\.min_dimensions\.dept: no dimension of judge\.rubric; did you mean 'depth'",
        ),
        (
            "saving:\n  filters:\n    require_ok: [answer]\n",
            r":3: saving\.filters\.require_ok: there is no judge",
        ),
    ],
)
def test_what_cannot_be_a_rubric_is_reported_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        read_recipe(tmp_path / "a.yaml")


def test_verdicts_of_several_judges_are_one() -> None:
    other = Judgement(3, ("incorrect",), "", {"depth": 1.0, "natural_question": 7.0, "tone": 2.0}, True, True)
    both = merged([READ, other])
    assert both.dimensions == {"depth": 2.5, "natural_question": 7.0, "tone": 0.5}
    assert (both.question_ok, both.answer_ok) == (True, False)
    assert merged([READ, other, other]).answer_ok is True


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 10), min_size=1, max_size=3), max_size=12))
def test_agreement_in_a_dimension_is_that_of_scores(units: list[list[int]]) -> None:
    alpha = IntervalAlpha()
    for unit in units:
        alpha.add([float(value) for value in unit])
    expected = agreement_of("abc", [((*unit, None, None)[:3], 1) for unit in units]).alpha
    assert alpha.value() == (pytest.approx(expected) if expected is not None else None)


def test_figures_of_a_dimension() -> None:
    found = dimension_figures(
        [("tone", [("a", 1.0), ("b", 2.0)], 3), ("tone", [("a", -1.0)], 1), ("depth", [("b", 4.0)], 2)]
    )
    assert list(found) == ["depth", "tone"]
    assert (found["tone"].mean_of("a"), found["tone"].mean_of("b"), found["tone"].units) == (0.5, 2.0, 3)
    assert found["depth"].mean_of("a") is None


def rated(ordinal: int, *depths: float | None, answer_ok: bool = True) -> Dialogue:
    """Return a dialogue with these ratings, a turn each."""
    return judged(
        ordinal,
        *(
            Judgement(5, ("helpful",), "", {"depth": d}, True, answer_ok) if d is not None else None
            for d in depths
        ),
    )


def test_filters_by_ratings() -> None:
    filters = FiltersConfig(min_dimensions={"depth": 3.0}, require_ok=["answer"], keep_unjudged=True)
    sieve = Sieve(filters)
    kept = [rated(0, 2.0, 4.0), rated(1, None), rated(2, 3.0), judged(3, Judgement(5, ("helpful",)))]
    out = [rated(4, 2.0, 3.9), rated(5, 5.0, answer_ok=False)]
    assert [sieve(dialogue) for dialogue in [*kept, *out]] == [True] * 4 + [False] * 2
    assert sieve.refused == {"min_dimensions": 1, "require_ok": 1}
    strict = Sieve(filters.model_copy(update={"keep_unjudged": False}))
    assert [strict(dialogue) for dialogue in kept] == [True, False, True, False]


def test_a_dataset_has_ratings_where_there_is_a_rubric_alone(tmp_path: Path) -> None:
    dialogues = [rated(0, 2.0, 4.5), rated(1, None)]
    saving = DatasetFilesConfig(formats=["sharegpt_judged", "parquet"])
    write_dataset(dialogues, tmp_path / "rated", saving=saving, columns=OptionalColumns(dimensions=["depth"]))
    write_dataset(dialogues, tmp_path / "plain", saving=saving)
    assert verify_dataset(tmp_path / "rated")
    table = pq.read_table(tmp_path / "rated/data/parquet/train.parquet")
    assert [v["dimensions"] for v in table.to_pylist()[0]["turn_judgements"]] == [
        {"depth": 2.0},
        {"depth": 4.5},
    ]
    assert stats(tmp_path / "rated")["scores"]["dimensions"] == {"depth": {"mean": 3.25, "verdicts": 2}}
    assert (tmp_path / "rated/plots/ratings.svg").exists()
    plain = pq.read_table(tmp_path / "plain/data/parquet/train.parquet")
    assert plain.schema.equals(PARQUET_SCHEMA)
    assert "dimensions" not in json.dumps(plain.to_pylist())
