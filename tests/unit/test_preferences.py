"""Several answers in the configuration, comparisons as judges write them, and rows of preference pairs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dlgforge_core.config import DatasetFilesConfig, GenerationConfig, JudgeConfig, Recipe, validate
from dlgforge_core.dialogue import Candidate, Dialogue, Turn, TurnDetails
from dlgforge_core.errors import ConfigError
from dlgforge_core.export.columns import OptionalColumns
from dlgforge_core.export.format_context import FormatContext
from dlgforge_core.export.preferences import dpo_problem, dpo_records
from dlgforge_core.export.scrub import Scrubber
from dlgforge_core.export.verify import verify_dataset
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.planning.fingerprint import content_config
from dlgforge_core.planning.personas import read_personas
from dlgforge_core.prompting.comparison import comparison_schema, judgements_from
from dlgforge_core.tool_events import ToolEvent
from dlgforge_core.verdicts import Judgement
from tests.support.dialogues import lines, make_dialogue
from tests.support.runs import LLM


def scored(score: int) -> Judgement:
    return Judgement(score, ("clear",), "Fine.")


def call(query: str) -> TurnDetails:
    return TurnDetails(tools=(ToolEvent("lookup", {"query": query}, f"found {query}", call_id="call00000"),))


def several(*, tools: bool = False, reason: str = "Worse.") -> Dialogue:
    """Two turns, each with one answer that is worse by 5, one that is as good, and one without a verdict."""
    mine, other = (call("a"), call("b")) if tools else (TurnDetails(), TurnDetails())
    candidates = (
        Candidate(reason, judgement=scored(3), details=other),
        Candidate("Best.", chosen=True, judgement=scored(8)),
        Candidate("As good.", judgement=scored(8)),
        Candidate("Unread."),
    )
    details = TurnDetails(tools=mine.tools, candidates=candidates)
    return make_dialogue(turns=tuple(Turn(n, f"Why {n}?", "Best.", scored(8), details) for n in range(2)))


def test_each_pair_is_a_row_with_all_before_it_as_its_prompt() -> None:
    rows = list(dpo_records(several()))
    assert [len(row["prompt"]) for row in rows] == [1, 3]
    assert rows[1] == {
        "id": "d0",
        "turn": 1,
        "prompt": [
            {"role": "user", "content": "Why 0?"},
            {"role": "assistant", "content": "Best."},
            {"role": "user", "content": "Why 1?"},
        ],
        "chosen": [{"role": "assistant", "content": "Best."}],
        "rejected": [{"role": "assistant", "content": "Worse."}],
        "chosen_score": 8.0,
        "rejected_score": 3.0,
        "margin": 5.0,
    }
    assert [dpo_problem(row) for row in rows] == [None, None]
    assert not list(dpo_records(several(), FormatContext(min_margin=5.5)))
    assert len(list(dpo_records(several(), FormatContext(min_margin=5)))) == 2
    assert not list(dpo_records(several(reason="Best."))), "the same text is no pair"
    assert not list(dpo_records(make_dialogue()))


def test_tool_calls_belong_to_the_answer_that_they_were_made_for(tmp_path: Path) -> None:
    saving = DatasetFilesConfig(formats=["dpo", "parquet"])
    write_dataset(
        [several(tools=True), make_dialogue(1)],
        tmp_path,
        saving=saving,
        columns=OptionalColumns(candidates=True),
    )
    assert verify_dataset(tmp_path) == {"dpo": 1, "parquet": 2}
    row = lines(tmp_path / "data/dpo/train.jsonl")[1]
    for column, query in (("chosen", "a"), ("rejected", "b")):
        assert [message["role"] for message in row[column]] == ["assistant", "tool", "assistant"]
        assert row[column][0]["tool_calls"][0]["function"]["arguments"] == {"query": query}
    assert [tool["function"]["name"] for tool in row["tools"]] == ["lookup"]


ROW = next(iter(dpo_records(several())))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"score": 3}, "there is no column 'score'"),
        ({"prompt": []}, "'prompt' must end with the user's message"),
        ({"prompt": ROW["chosen"]}, "'prompt' must end with the user's message"),
        ({"chosen": []}, "'chosen' must end with an answer"),
        ({"rejected": ROW["prompt"]}, "'rejected' must end with an answer"),
        ({"rejected": ROW["chosen"]}, "'chosen' and 'rejected' are the same"),
        ({"margin": 4.0}, "'margin' must be"),
        ({"chosen_score": 3.0, "margin": 0.0}, "'margin' must be"),
        ({"prompt": [{"role": "user", "content": None}]}, "message 0 of 'prompt' and 'chosen' has no text"),
    ],
)
def test_what_is_wrong_with_a_pair_is_reported(change: dict[str, Any], problem: str) -> None:
    assert re.search(problem, dpo_problem({**ROW, **change}) or "")


def test_secrets_are_struck_out_of_answers_that_were_not_chosen() -> None:
    scrubbed = Scrubber({"hunter2hunter2"}).dialogue(several(reason="It is hunter2hunter2."))
    assert "hunter2" not in repr(scrubbed)


def test_details_with_candidates_come_back_from_the_store() -> None:
    details = several(tools=True).turns[0].details
    assert TurnDetails.from_json(details.to_json()) == details
    assert "candidates" not in TurnDetails(reasoning="Hm.").to_json()


VERDICT = {"score": 7, "reasons": ["clear"], "comment": "Fine."}
LOW = {**VERDICT, "score": "2/10"}


@pytest.mark.parametrize(
    "answer",
    [
        {"answer_1": VERDICT, "answer_2": LOW},
        {"Answer 2": LOW, "Answer 1": VERDICT},
        {"1": VERDICT, "2": LOW},
        {"answers": [VERDICT, LOW]},
        {"verdicts": {"candidate_1": VERDICT, "candidate_2": LOW}},
    ],
)
def test_a_comparison_is_read_as_judges_write_it(answer: dict[str, Any]) -> None:
    assert [one.score for one in judgements_from(answer, JudgeConfig(), 2)] == [7, 2]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"answer_1": VERDICT}, "answer_2 is missing; give a verdict on each of 2 answers"),
        ({"answers": [VERDICT]}, "answer_1 is missing"),
        ({"answers": [VERDICT, LOW, LOW]}, "answer_1 is missing"),
        (VERDICT, "answer_1 is missing"),
        ({"answer_1": VERDICT, "answer_2": {**VERDICT, "score": 11}}, "answer_2: score must be"),
    ],
)
def test_a_comparison_that_lacks_a_verdict_is_asked_for_again(answer: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        judgements_from(answer, JudgeConfig(), 2)
    assert comparison_schema(JudgeConfig(), 2)["required"] == ["answer_1", "answer_2"]


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"answers": {"candidates": 0}}, "answers.candidates = 0"),
        ({"answers": {"candidates": 9}}, "answers.candidates = 9"),
        (
            {"answers": {"candidates": 3, "temperatures": [0.1, 0.2]}},
            "temperatures has 2 entries",
        ),
        ({"answers": {"models": ["a", "b"]}}, "models has 2 entries and candidates = 1"),
        ({"answers": {"candidates": 2, "models": ["a", " "]}}, "models.1 is empty"),
        ({"answers": {"candidates": 2, "temperatures": [0.1, 3.0]}}, "answers.temperatures.1 = 3.0"),
        ({"answers": {"candidates": 2}, "judge": {"mode": "off"}}, "answers.candidates: of 2 answers"),
        ({"answers": {"candidates": 2}, "judge": {"mode": "offline"}}, "answers.candidates: of 2 answers"),
        ({"answers": {"revise": 6}, "judge": {"mode": "off"}}, "answers.revise: an answer is revised"),
        ({"answers": {"revise": 6}, "judge": {"granularity": "conversation"}}, "answers.revise: an answer"),
        ({"answers": {"revise": 11}}, "answers.revise"),
        ({"saving": {"formats": ["dpo"]}}, "saving.formats: dpo has a row for each pair"),
        (
            {"answers": {"candidates": 2, "models": ["a", "b"]}, "llm": {"backend": "embedded"}},
            "answers.models: backend embedded serves one model",
        ),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        validate(Recipe, config, "test")


def test_they_count_in_the_fingerprint_where_they_are_set() -> None:
    personas = read_personas()
    assert "answers" not in content_config(GenerationConfig(), LLM, personas)
    config = validate(GenerationConfig, {"answers": {"candidates": 2}}, "test")
    assert content_config(config, LLM, personas)["answers"] == {"candidates": 2}
