"""What makes a judge another one, and a verdict one on another text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlgforge_core.config import JudgeConfig, LlmConfig, validate
from dlgforge_core.dialogue import DialoguePlan, Evidence, Persona, Role, Turn, TurnDetails
from dlgforge_core.errors import ConfigError
from dlgforge_core.judging.judges import WHOLE, judges_of, messages_about, subjects
from dlgforge_core.sources import Origin, SeedTopic
from dlgforge_core.tool_events import ToolEvent
from dlgforge_core.verdicts import Judgement

NOBODY = Persona("p", "Somebody", "Says little.")
PLAN = DialoguePlan("d", 0, "en", 3, SeedTopic("t", "en", "a topic"), NOBODY, NOBODY)
TURNS = tuple(Turn(i, f"question {i}", f"answer {i}") for i in range(3))


def llm(**options: Any) -> LlmConfig:
    data = {"backend": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1", **options}
    return validate(LlmConfig, data, "llm")


def offline(**options: Any) -> JudgeConfig:
    return validate(JudgeConfig, {"mode": "offline", **options}, "judge")


def key(config: JudgeConfig, settings: LlmConfig) -> str:
    return judges_of(config, settings)[0].key


def test_without_judges_the_judge_of_the_agents_judges() -> None:
    settings = llm(agents={"qa_judge": {"model": "judge", "temperature": 0.2, "max_tokens": 77}})
    (judge,) = judges_of(offline(), settings)
    assert (judge.name, judge.model) == ("judge", "judge")
    assert judge.agent == settings.agents.qa_judge
    assert judges_of(offline(), llm())[0].model == "m"


@pytest.mark.parametrize(
    ("judge", "settings"),
    [
        ({"judges": [{"model": "n"}]}, {}),
        ({"judges": [{"temperature": 0.5}]}, {}),
        ({"granularity": "conversation"}, {}),
        ({"reasons": ["good", "bad"]}, {}),
        ({"show_evidence": False}, {}),
        ({}, {"model": "n"}),
        ({}, {"agents": {"qa_judge": {"top_p": 0.5}}}),
        ({}, {"agents": {"qa_judge": {"extra_body": {"min_p": 0.1}}}}),
    ],
)
def test_what_makes_another_judge(judge: dict[str, Any], settings: dict[str, Any]) -> None:
    assert key(offline(**judge), llm(**settings)) != key(offline(), llm())


@pytest.mark.parametrize(
    ("judge", "settings"),
    [
        ({"judges": [{"name": "n"}]}, {}),
        ({"judges": [{"max_tokens": 5}]}, {}),
        ({"concurrency": 99, "patience_s": 1.0}, {}),
        ({}, {"base_url": "http://127.0.0.1:2/v1"}),
        ({}, {"agents": {"kb_responder": {"temperature": 0.1}}}),
        ({}, {"agents": {"qa_judge": {"extra_body": {}}}}),
    ],
)
def test_what_does_not(judge: dict[str, Any], settings: dict[str, Any]) -> None:
    assert key(offline(**judge), llm(**settings)) == key(offline(), llm())


@given(st.integers(0, 2), st.sampled_from(["user", "assistant"]), st.text(max_size=20))
def test_a_changed_turn_changes_what_it_and_later_ones_are_judged_on(
    index: int, side: str, text: str
) -> None:
    def change(turn: Turn) -> dict[str, Any]:
        return {side: turn.user + "!" + text}

    changed = tuple(replace(t, **change(t)) if t.index == index else t for t in TURNS)
    before, after = subjects(offline(), PLAN, TURNS, {}), subjects(offline(), PLAN, changed, {})
    assert [s.index for s in after] == [0, 1, 2]
    assert [a == b for a, b in zip(after, before, strict=True)] == [i < index for i in range(3)]
    whole = offline(granularity="conversation")
    assert [s.index for s in subjects(whole, PLAN, TURNS, {})] == [WHOLE]
    of_seed = (replace(TURNS[0], details=TurnDetails(origin=Origin.SEED)), *TURNS[1:])
    assert [s.index for s in subjects(offline(), PLAN, of_seed, {})] == [1, 2]
    assert subjects(whole, PLAN, changed, {}) != subjects(whole, PLAN, TURNS, {})


def test_earlier_verdicts_are_no_part_of_what_is_judged() -> None:
    judged = tuple(replace(turn, judgement=Judgement(3, ("clear",))) for turn in TURNS)
    assert subjects(offline(), PLAN, judged, {}) == subjects(offline(), PLAN, TURNS, {})


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"mode": "online", "judges": [{"model": "a"}]}, "set mode to offline, or leave judges empty"),
        ({"judges": [{"model": "a"}, {"model": "a", "temperature": 0.5}]}, "more than once"),
        ({"reasons": []}, "name at least one label"),
        ({"judges": [{"modle": "a"}]}, "did you mean 'model'"),
    ],
)
def test_what_cannot_be_configured(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        offline(**options)


@pytest.mark.parametrize(
    ("judges", "problem"),
    [
        ([{"name": "a", "model": "m"}, {"name": "b"}], "'a' and 'b' are the same model"),
        ([{"temperature": 0.5}, {"model": "m"}], "m names two judges"),
    ],
)
def test_judges_that_cannot_be_distinguished(judges: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        judges_of(offline(judges=judges), llm())


def test_managed_servers_serve_one_model() -> None:
    settings = validate(LlmConfig, {"backend": "vllm_managed", "vllm": {"model": "served"}}, "llm")
    assert judges_of(offline(), settings)[0].model == "served"
    with pytest.raises(ConfigError, match=r"asks for other, but the managed servers serve 'served' alone"):
        judges_of(offline(judges=[{"model": "served"}, {"model": "other"}]), settings)


@pytest.mark.parametrize("granularity", ["turn", "conversation"])
def test_other_evidence_is_another_subject_where_it_is_shown(granularity: str) -> None:
    cited = Evidence("c1", "doc.md", Role.ASSISTANT, cited=True)
    turns = [replace(TURNS[0], details=TurnDetails(evidence=(cited,))), *TURNS[1:]]
    shown = offline(granularity=granularity)
    one, other = (subjects(shown, PLAN, turns, {"c1": text}) for text in ("A fact.", "Another fact."))
    assert [a != b for a, b in zip(one, other, strict=True)] == [True, *[False] * (len(one) - 1)]
    hidden = offline(granularity=granularity, show_evidence=False)
    assert subjects(hidden, PLAN, turns, {"c1": "A fact."}) == subjects(hidden, PLAN, TURNS, {})


def test_what_a_search_of_the_web_gave_is_shown_too() -> None:
    found = ToolEvent("web_search", {"query": "q"}, result="<passages>\n[1]\n> From the web.\n</passages>")
    failed = ToolEvent("web_search", {"query": "q"}, error="timed out")
    turn = replace(TURNS[0], details=TurnDetails(tools=(failed, found)))
    (_, message) = messages_about(0, offline(), PLAN, [turn], {})
    assert message["content"].startswith(found.result)
