"""Who opens and who ends conversations, and goals: what is read of models, and what is written of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.config import DatasetFilesConfig, FiltersConfig, JudgeConfig, validate
from dlgforge_core.config.acceptance import AcceptConfig
from dlgforge_core.conversation.acceptance import Acceptance
from dlgforge_core.dialogue import Dialogue, Ending, Turn, TurnDetails
from dlgforge_core.export.columns import OptionalColumns
from dlgforge_core.export.filters import Sieve
from dlgforge_core.export.markdown import sample_markdown
from dlgforge_core.export.verify import verify_dataset
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.judging.judges import WHOLE, judges_goal, subjects
from dlgforge_core.judging.results import merged
from dlgforge_core.llm.forms import Written
from dlgforge_core.llm.markup import default_markup
from dlgforge_core.prompting.ending import END_MARKER, ending_form
from dlgforge_core.prompting.goal_verdicts import goal_from
from dlgforge_core.prompting.verdict_reading import judgement_from
from dlgforge_core.quality.findings import problems_of
from dlgforge_core.verdicts import GoalVerdict, Judgement
from tests.support.dialogues import everything, lines, make_dialogue, stats
from tests.unit.test_chat_templates import MODELS, environment

FORM = ending_form("To end it, write [END].")


def read(text: str, *, cut: bool = False) -> str:
    return FORM.read(Written(text, text, "", cut, default_markup()))


@pytest.mark.parametrize(
    "text",
    [
        *('{"ends": true, "question": ""}', '{"question": "Why?", "ends": "yes"}', '{"ends": true}'),
        *('```json\n{"ends": true, "question": ""}\n```', '{"ends": false, "question": "[END]"}'),
        *("[END]", "[end].", "**[END]**", "Thanks, that helps! [END]", "[END] Thank you.", '"[END]"', "END"),
    ],
)
def test_the_user_ends_the_conversation(text: str) -> None:
    assert read(text) == ""


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ('{"ends": false, "question": "Why?"}', "Why?"),
        ('Here: {"ends": "no", "question": "Question: Why?"}', "Why?"),
        ("Why?", "Why?"),
        ("User: Why does it print [END] twice?", "Why does it print [END] twice?"),
        ('How do I read {"question": "x"} in Python?', 'How do I read {"question": "x"} in Python?'),
        ("What comes to an end?", "What comes to an end?"),
    ],
)
def test_the_user_goes_on(text: str, question: str) -> None:
    assert read(text) == question


@pytest.mark.parametrize(
    "text", ["", '{"ends": false, "question": ""}', '{"ends": fal', "{}", "{'question': 1}"]
)
def test_what_is_neither_is_asked_for_again(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(text)
    with pytest.raises(ValueError, match="shorter"):
        read("Why does it", cut=True)


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_question_the_end_or_refused(text: str) -> None:
    try:
        question = read(text)
    except ValueError:
        return
    assert question or END_MARKER.casefold().strip("[]") in text.casefold() or "ends" in text


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        ({"goal_reason": "Paid.", "goal_met": True}, GoalVerdict(True, "Paid.")),
        ({"goal_met": "no", "reason": "Not paid."}, GoalVerdict(False, "Not paid.")),
        ({"verdict": {"goal reached": "Yes, it was.", "explanation": "So."}}, GoalVerdict(True, "So.")),
        ({"goal_met": {"value": False}}, GoalVerdict(False)),
    ],
)
def test_verdicts_on_goals_are_read_as_judges_write_them(data: dict[str, Any], verdict: GoalVerdict) -> None:
    assert goal_from(data) == verdict


def test_a_verdict_that_does_not_tell_is_asked_for_again() -> None:
    plain = {"comment": "So.", "reasons": ["clear"], "score": 7}
    with pytest.raises(ValueError, match="goal_met must be true or false, and is missing"):
        judgement_from(plain, JudgeConfig(), goal=True)
    with pytest.raises(ValueError, match="not 'perhaps'"):
        goal_from({"goal_met": "perhaps"})
    judgement = judgement_from({**plain, "goal_met": True, "goal_reason": "Paid."}, JudgeConfig(), goal=True)
    assert judgement == Judgement(7, ("clear",), "So.", goal=GoalVerdict(True, "Paid."))
    assert Judgement.from_json(judgement.to_json()) == judgement
    assert "goal" not in judgement_from(plain, JudgeConfig()).to_json()


def test_of_several_judges_most_decide_on_the_goal() -> None:
    verdicts = [
        Judgement(5, ("clear",), goal=GoalVerdict(met, f"{n}")) for n, met in enumerate((False, True, True))
    ]
    assert merged(verdicts).goal == GoalVerdict(True, "1")
    assert merged(verdicts[:2]).goal == GoalVerdict(False, "0")
    assert merged([Judgement(5, ("clear",))]).goal is None


def opened(ordinal: int = 0, *, goal: str = "A refund") -> Dialogue:
    """Return a dialogue that the assistant opened."""
    details = TurnDetails(opening="Welcome to sk-proj-1.", opening_reasoning="Be kind.")
    turns = (Turn(0, "Why?", "So.", details=details), Turn(1, "And?", "Too."))
    made = make_dialogue(ordinal, turns, seed_id=f"s{ordinal}")
    return replace(made, plan=replace(made.plan, goal=goal, n_turns=4), ended_by=Ending.USER)


def written(folder: Path, dialogues: list[Dialogue], **saving: Any) -> Path:
    formats = ["sharegpt", "openai_messages", "prompt_completion", "parquet"]
    columns = ["ended_by", "goal", "goal_met", "goal_reason"]
    files = validate(DatasetFilesConfig, {"formats": formats, "reasoning": "field", **saving}, "saving")
    write_dataset(
        dialogues, folder, saving=files, columns=OptionalColumns(conversation=columns), secrets=["sk-proj-1"]
    )
    verify_dataset(folder)
    return folder


def test_every_format_begins_with_the_opening(tmp_path: Path) -> None:
    folder = written(
        tmp_path, [replace(opened(0), goal=GoalVerdict(True, "By sk-proj-1.")), opened(1, goal="")]
    )
    row, other = lines(folder / "data/sharegpt/train.jsonl")
    assert row["conversations"][0] == {"from": "gpt", "value": "Welcome to [secret]."}
    assert [row[name] for name in ("ended_by", "goal", "goal_met")] == ["user", "A refund", True]
    assert [other[name] for name in ("goal", "goal_met", "goal_reason")] == ["", None, None]
    greeting = {"role": "assistant", "content": "Welcome to [secret].", "reasoning_content": "Be kind."}
    for form, n_rows in (("openai_messages", 2), ("parquet", 2), ("prompt_completion", 4)):
        rows = lines(folder / f"data/{form}/train.jsonl")
        assert [(row.get("messages") or row["prompt"])[0] for row in rows] == [greeting] * n_rows
    for row in lines(folder / "data/prompt_completion/train.jsonl"):
        assert row["prompt"][-1]["role"] == "user"
    counted = stats(folder)
    assert counted["goals"] == {"met": 1}
    assert counted["words_and_tokens"]["openings"]["messages"] == 2
    assert not any("sk-proj-1" in text for _, text in everything(folder))


@pytest.mark.parametrize("model", MODELS)
def test_templates_that_want_the_user_first_refuse_the_opening(tmp_path: Path, model: str) -> None:
    template = environment(jinja2.Undefined).from_string(MODELS[model])
    (row,) = lines(written(tmp_path / "with", [opened(0)]) / "data/openai_messages/train.jsonl")
    if model == "mistral":
        with pytest.raises(jinja2.TemplateError, match="alternate"):
            template.render(messages=row["messages"], tools=None)
        assert "want the user to begin (Mistral" in (tmp_path / "with/README.md").read_text()
    else:
        assert "Welcome to" in template.render(messages=row["messages"], tools=None)
    folder = written(tmp_path / "without", [opened(0)], opening="none")
    (row,) = lines(folder / "data/openai_messages/train.jsonl")
    assert "Welcome" not in template.render(messages=row["messages"], tools=None)
    assert "opened_by_assistant" not in stats(folder)


def test_samples_show_the_opening_and_the_goal() -> None:
    shown = sample_markdown([replace(opened(0), goal=GoalVerdict(False, "Not paid."))])
    assert shown.index("Welcome") < shown.index("**User**")
    assert "*Goal missed*: \u2068A refund\u2069 · \u2068Not paid.\u2069" in shown
    assert "Goal" not in sample_markdown([opened(0)])


def test_checks_know_openings_and_early_ends() -> None:
    names = {"roles_alternate", "turn_counts", "no_empty_messages"}
    assert problems_of(opened(0), ["en"], names) == {}
    planned = replace(opened(0), ended_by=Ending.PLANNED)
    assert set(problems_of(planned, ["en"], names)) == {"turn_counts"}
    first = replace(opened(0).turns[0], details=TurnDetails(opening="..."))
    blank = replace(opened(0), turns=(first, opened(0).turns[1]))
    assert set(problems_of(blank, ["en"], names)) == {"no_empty_messages"}


@pytest.mark.parametrize("wanted", [True, False])
def test_goals_decide_what_is_accepted_and_kept(wanted: bool) -> None:
    met, missed, unjudged, without = _cases(wanted)
    acceptance = Acceptance(AcceptConfig(goal_met=wanted), JudgeConfig())
    lacking = [set(acceptance.shortcomings(one)) for one in (met, missed, unjudged, without)]
    assert lacking == [set(), {"goal_met"}, {"unjudged"}, set()]
    for keep, kept in ((True, [True, False, True, True]), (False, [True, False, False, True])):
        judged = [replace(one, turns=_judged(one)) for one in (met, missed, unjudged, without)]
        sieve = Sieve(FiltersConfig(goal_met=wanted, keep_unjudged=keep))
        assert [sieve(one) for one in judged] == kept
        assert sieve.refused["goal_met"] == 1


def _cases(wanted: bool) -> list[Dialogue]:
    verdict = Judgement(9, ("clear",), goal=GoalVerdict(not wanted))
    return [
        replace(opened(0), goal=GoalVerdict(wanted)),
        replace(opened(1), judgement=verdict),
        opened(2),
        opened(3, goal=""),
    ]


def _judged(dialogue: Dialogue) -> tuple[Turn, ...]:
    return tuple(replace(turn, judgement=Judgement(8, ("clear",))) for turn in dialogue.turns)


@pytest.mark.parametrize(("granularity", "wanted"), [("turn", [False, True]), ("conversation", [True])])
def test_offline_judges_say_it_at_the_end(granularity: Any, wanted: list[bool]) -> None:
    dialogue, judge = opened(0), JudgeConfig(mode="offline", granularity=granularity)
    plan, turns = dialogue.plan, dialogue.turns
    found = subjects(judge, plan, turns, {})
    assert [judges_goal(one.index, plan, turns) for one in found] == wanted
    assert judges_goal(WHOLE, plan, turns)
    assert not judges_goal(WHOLE, replace(plan, goal=""), turns)
    before = subjects(judge, replace(plan, goal=""), turns, {})
    assert [one != other for one, other in zip(found, before, strict=True)] == wanted
