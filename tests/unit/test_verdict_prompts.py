"""What a judge is told to look at before it scores: language, question, passages."""

from __future__ import annotations

from dlgforge_core.config import JudgeConfig
from dlgforge_core.dialogue import DialoguePlan, Persona, Turn
from dlgforge_core.prompting.goal_verdicts import goal_judge
from dlgforge_core.prompting.quoting import quote_passages
from dlgforge_core.prompting.verdict_prompts import conversation_judge, turn_judge, verdict_schema
from dlgforge_core.prompting.verdict_reading import judgement_from
from dlgforge_core.sources import SeedTopic

SOMEBODY = Persona("p", "", "")
PLAN = DialoguePlan("d", 0, "es", 2, SeedTopic("t", "es", "pan", "", "b"), SOMEBODY, SOMEBODY, goal="g")
JUDGE = JudgeConfig()
TURN = Turn(0, "¿Cómo?", "Así.")
PASSAGES = quote_passages(["Así se hace."])


def test_the_answers_language_is_asked_for_last_and_named_first() -> None:
    last = turn_judge(PLAN, JUDGE, [TURN], TURN)[-1]["content"]
    assert last.splitlines()[-1].startswith("Look first: is the answer written in Spanish, or in another")
    schema = verdict_schema(JUDGE)
    assert next(iter(schema["properties"])) == "answer_language"
    assert schema["required"] == list(schema["properties"])


def test_what_is_looked_at_follows_what_is_judged() -> None:
    whole = conversation_judge(PLAN, JUDGE, [TURN, TURN])[-1]["content"]
    assert "are the answers written in Spanish" in whole
    assert "what the passages say" not in whole
    assert (
        "Does it say what the passages say"
        in turn_judge(PLAN, JUDGE, [], TURN, evidence=PASSAGES)[-1]["content"]
    )
    assert "Do they say" in conversation_judge(PLAN, JUDGE, [TURN], evidence=PASSAGES)[-1]["content"]
    assert all("Look first" not in message["content"] for message in goal_judge(PLAN, [TURN]))


def test_a_verdict_without_the_language_is_read_as_well() -> None:
    verdict = {"comment": "Good.", "reasons": ["helpful"], "score": 8}
    assert judgement_from(verdict, JUDGE) == judgement_from({"answer_language": "Spanish", **verdict}, JUDGE)
