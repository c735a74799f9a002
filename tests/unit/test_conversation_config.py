"""The section `conversation`: what it leaves alone by default, and what of it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dlgforge_core.config import ConversationConfig, GenerationConfig, LlmConfig, validate
from dlgforge_core.errors import ConfigError
from dlgforge_core.planning.fingerprint import content_config, content_fingerprint
from dlgforge_core.planning.personas import read_personas
from dlgforge_core.planning.plan import plan_run, spare_of
from dlgforge_core.planning.seeds import read_seeds
from tests.support.recipes import recipe_problem

GOAL = {"goals": [{"text": "wants a refund"}]}
LLM = LlmConfig()


def configured(**sections: Any) -> GenerationConfig:
    run = {"total_samples": 12, "target_languages": ["en"], **sections.pop("run", {})}
    return validate(GenerationConfig, {"run": run, **sections}, "test")


def test_the_defaults_have_no_columns() -> None:
    assert ConversationConfig().columns == []
    both = ConversationConfig(ends="user", goals=configured(conversation=GOAL).conversation.goals)
    assert both.columns == ["ended_by", "goal", "goal_met", "goal_reason"]


@pytest.mark.parametrize(
    "conversation",
    [{"opens": "assistant"}, {"ends": "user"}, GOAL, {"goals": [{"text": "x", "weight": 2.0}]}],
)
def test_what_is_set_counts_for_the_fingerprint(conversation: dict[str, Any]) -> None:
    personas = read_personas()
    usual, other = configured(), configured(conversation=conversation)
    assert "conversation" not in content_config(usual, LLM, personas)
    assert content_fingerprint(usual, LLM, personas) != content_fingerprint(other, LLM, personas)
    usual_words = configured(conversation={"opens": "user", "ends": "planned", "goals": []})
    assert content_fingerprint(usual, LLM, personas) == content_fingerprint(usual_words, LLM, personas)


def test_turns_after_which_the_user_may_end_count_where_they_say_so() -> None:
    def prints(**conversation: Any) -> set[str]:
        return {
            content_fingerprint(
                configured(run={"n_turns": 6, "min_turns": n}, conversation=conversation),
                LLM,
                read_personas(),
            )
            for n in (1, 3)
        }

    assert len(prints()) == 1
    assert len(prints(ends="user")) == 2


def test_goals_are_drawn_by_weight_and_move_nothing_else() -> None:
    goals = [{"text": "wants a refund for {{ topic }}", "weight": 3.0}, {"text": ""}]
    batches, personas = read_seeds("", strict=True), read_personas()
    (usual,) = plan_run(configured(), LLM, personas, batches).plans
    (plan,) = plan_run(configured(conversation={"goals": goals}), LLM, personas, batches).plans
    drawn = list(plan.dialogues())
    assert sum(bool(one.goal) for one in drawn) == 9
    for one, other in zip(drawn, usual.dialogues(), strict=True):
        assert one.goal in ("", f"wants a refund for {one.topic.topic}")
        assert other.goal == ""
        assert (one.n_turns, one.topic, one.user_persona, one.assistant_persona) == (
            *(other.n_turns, other.topic, other.user_persona, other.assistant_persona),
        )
        assert "goal" not in other.to_json()
        assert type(one).from_json(one.to_json()) == one
    assert spare_of(drawn[0]).goal == drawn[0].goal


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"run": {"accept": {"goal_met": True}}}, "run.accept.goal_met: there are no conversation.goals"),
        (
            {"run": {"accept": {"goal_met": True}}, "judge": {"mode": "offline"}, "conversation": GOAL},
            "run.accept.goal_met: a dialogue is accepted when it is finished",
        ),
        ({"run": {"n_turns": 2}, "conversation": {"ends": "user"}}, "conversation.ends: the user may end"),
        ({"run": {"max_turns": 2}, "conversation": {"ends": "user"}}, "run.max_turns = 2; set min_turns"),
        ({"conversation": {"ends": "judge"}}, "conversation.ends = 'judge'"),
        ({"conversation": {"goals": [{"text": "{{ persn }}"}]}}, "did you mean 'persona'"),
        ({"conversation": {"goals": [{"text": "{{ attributes.mood }}"}]}}, "no attribute 'mood'"),
    ],
)
def test_what_cannot_be_is_refused(sections: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        configured(**sections)
    assert problem in str(error.value)


RECIPES = {
    "saving: {filters: {goal_met: true}}\n": "mine.yaml:1: saving.filters.goal_met: there are no",
    "conversation:\n  goals:\n    - {file: goal.jinja}\n": "goal.jinja:2: conversation.goals.0: there is no",
    "conversation: {goals: [x]}\nsaving: {output_columns: {topic: goal}}\n": "column of conversation.ends",
    "prompts: {qa_generator: {end_marker: Stop}}\n": "prompts.qa_generator.end_marker: it must use",
}


@pytest.mark.parametrize("text", RECIPES)
def test_what_cannot_be_is_refused_with_file_and_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "goal.jinja").write_text("A goal of\n{{ who }}\n")
    assert RECIPES[text] in recipe_problem(tmp_path / "mine.yaml", text)
