"""The recipe of conversations, run in each of its ways: what models are asked, what is kept and exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from dlgforge_core.config import SavingConfig, validate
from dlgforge_core.config.recipe import Recipe, read_recipe
from dlgforge_core.dialogue import Role
from dlgforge_core.export.columns import OptionalColumns
from dlgforge_core.export.verify import verify_dataset
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.quality.collectors import COLLECTORS, PASS_RATE
from dlgforge_core.quality.findings import problems_of
from dlgforge_core.sources import Origin
from dlgforge_core.store.run_store import RunStore
from tests.support.dialogues import lines
from tests.support.judging import judge, judging, verdicts
from tests.support.recipes import MODELS, ROOT, ExampleRun, run_example, run_recipe
from tests.support.simulated_endpoint import simulated_endpoint

PARCEL = ["My parcel should have come on Monday.", "It is 48213."]
PARCEL_ANSWERS = [
    "I am sorry. Could you give me the order number?",
    "Thank you. It was handed to the carrier on Friday and is in the depot in Leeds.",
]
CARD = ["Can I exchange a gift card for money?", "And if I lose it?"]
CARD_ANSWER = "No, but it is valid for three years."
CHECKED = set(COLLECTORS) - {"language", PASS_RATE}
SYSTEM = "You answer customers of a bookshop, briefly."


def made(
    store: RunStore,
    from_seed: str,
    languages: Sequence[str] = ("en",),
    sections: Mapping[str, Any] = MappingProxyType({}),
    options: Mapping[str, Any] = MappingProxyType({}),
    **run: Any,
) -> ExampleRun:
    """Run the recipe in another way, with more `sections`; `options` are those of the simulated endpoint."""
    recipe = read_recipe(ROOT / "examples/recipes/seed_conversations.yaml").model_dump()
    recipe["run"] |= {"target_languages": list(languages), "total_samples": 2, **run}
    recipe["conversation"] |= {"from_seed": from_seed, **sections.get("conversation", {})}
    recipe |= {name: section for name, section in sections.items() if name != "conversation"}
    return run_recipe(store, validate(Recipe, recipe, "test"), **options)


def test_the_recipe_of_conversations_continues_them(store: RunStore, tmp_path: Path) -> None:
    example = run_example(store, "seed_conversations.yaml")
    dialogues = sorted(example.dialogues, key=lambda one: len(one.turns))
    assert [len(one.turns) for one in dialogues] == [3, 3, 4, 4]
    for dialogue in dialogues[2:]:
        assert [turn.user for turn in dialogue.turns[:2]] == PARCEL
        assert [turn.assistant for turn in dialogue.turns[:2]] == PARCEL_ANSWERS
        assert [turn.details.origin.value for turn in dialogue.turns] == ["seed", "seed", "", ""]
        assert [turn.judgement is None for turn in dialogue.turns] == [True, True, False, False]
        assert dialogue.plan.system_prompt == SYSTEM
    for dialogue in dialogues[:2]:
        assert [turn.user for turn in dialogue.turns[:2]] == CARD
        assert dialogue.turns[0].assistant == CARD_ANSWER
        assert [turn.details.origin.value for turn in dialogue.turns] == ["seed", "seed_question", ""]
        assert [turn.judgement is None for turn in dialogue.turns] == [True, False, False]
    calls = [request["model"] for request in example.requests]
    counts = {role: calls.count(model) for role, model in MODELS.items() if model in calls}
    assert counts == {"qa_generator": 6, "kb_responder": 8, "qa_judge": 8}, "none for what the seeds have"
    contents = [message["content"] for messages in example.asked(Role.ASSISTANT) for message in messages]
    assert {*PARCEL, *PARCEL_ANSWERS, *CARD, CARD_ANSWER} <= set(contents)
    assert any(text.startswith(f"{SYSTEM}\nHow you answer: ") for text in contents)
    for dialogue in dialogues:
        assert not problems_of(dialogue, ["en"], CHECKED)
    new = [turn.user for one in dialogues for turn in one.turns if not turn.details.origin]
    assert len(set(new)) == len(new) == 6

    saving = example.recipe.saving.files
    write_dataset(
        dialogues,
        tmp_path,
        saving=saving,
        columns=OptionalColumns(system=True, conversation=["turn_origins"]),
    )
    rows = {row["id"]: row for row in lines(tmp_path / "data/sharegpt/train.jsonl")}
    row = rows[dialogues[3].plan.dialogue_id]
    assert row["turn_origins"] == ["seed", "seed", "generated", "generated"]
    assert (row["system"], row["seed_id"], row["n_turns"]) == (SYSTEM, "late-parcel", 4)
    assert [message["value"] for message in row["conversations"][:4:2]] == PARCEL
    first = [row["messages"][0] for row in lines(tmp_path / "data/openai_messages/train.jsonl")]
    assert first.count({"role": "system", "content": SYSTEM}) == 2
    assert set(verify_dataset(tmp_path).values()) == {4}
    again = example.prepare_again(store)
    assert (again.run_id, store.progress(again.run_id).pending) == (example.run.run_id, 0)


def test_the_questions_of_conversations_are_answered_anew(store: RunStore) -> None:
    result = made(store, "answer")
    assert {tuple(turn.user for turn in one.turns) for one in result.dialogues} == {
        tuple(PARCEL),
        tuple(CARD),
    }
    turns = [turn for one in result.dialogues for turn in one.turns]
    assert {turn.details.origin.value for turn in turns} == {"seed_question"}
    assert not {turn.assistant for turn in turns} & {*PARCEL_ANSWERS, CARD_ANSWER}
    assert all(turn.judgement for turn in turns)
    assert not result.asked(Role.USER_SIMULATOR)
    assert len(result.asked(Role.ASSISTANT)) == len(result.asked(Role.JUDGE)) == 4
    assert not any(answer in str(result.requests) for answer in (*PARCEL_ANSWERS, CARD_ANSWER))


def test_conversations_are_translated(store: RunStore) -> None:
    result = made(store, "translate", ["es", "fr"], total_samples=4)
    assert [one.plan.language for one in result.dialogues] == ["es", "es", "fr", "fr"]
    turns = [turn for one in result.dialogues for turn in one.turns]
    assert {turn.details.origin.value for turn in turns} == {"translated"}
    asked, answered = result.asked(Role.USER_SIMULATOR), result.asked(Role.ASSISTANT)
    assert (len(asked), len(answered)) == (8, 8)
    wanted = {
        f"Translate into {language}:\n\n{text}"
        for language in ("Spanish", "French")
        for text in (*PARCEL, *CARD)
    }
    assert {messages[-1]["content"] for messages in asked} == wanted
    assert all(messages[0]["content"].startswith("You translate what the user says") for messages in asked)
    later = [messages for messages in asked if len(messages) > 2]
    assert {messages[1]["content"].partition("\n\n")[2] for messages in later} == {PARCEL[0], CARD[0]}
    # The last answer of the cards' conversation is not there to be translated.
    translating = [messages for messages in answered if "Translate into" in messages[-1]["content"]]
    assert len(translating) == 6
    assert all(one.plan.system_prompt == "" for one in result.dialogues)


ANSWERS = {"candidates": 2, "temperatures": [0.2, 0.7], "revise": 8}
TEMPLATE = "{text} ({temperature}, asked: {last:.10})"
SCORES = {"asked: A reviewer": 9, "asked: Translate": 2, "(0.2,": 3, "(0.7,": 6}


@pytest.mark.parametrize(
    ("from_seed", "candidates"),
    [
        # Of the parcel's conversation, and of the gift card's, whose last question has no answer.
        ("continue", [[0, 0, 3, 3], [0, 3, 3]]),
        ("answer", [[3, 3], [3, 3]]),
        ("translate", [[0, 0], [0, 3]]),
    ],
)
def test_new_answers_are_chosen_among_several_and_revised_and_the_seeds_have_no_pairs(
    store: RunStore, tmp_path: Path, from_seed: str, candidates: list[list[int]]
) -> None:
    """With goals, too: each dialogue takes one verdict more on that."""
    sections = {"answers": ANSWERS, "conversation": {"goals": [{"text": "wants the money back"}]}}
    options = {"text_template": TEMPLATE, "scores": SCORES}
    languages = ["es" if from_seed == "translate" else "en"]
    result = made(store, from_seed, languages, sections, options)
    dialogues = sorted(result.dialogues, key=lambda one: one.plan.topic.id, reverse=True)
    assert [[len(t.details.candidates) for t in one.turns] for one in dialogues] == candidates
    several = [turn for one in dialogues for turn in one.turns if turn.details.candidates]
    for turn in several:
        assert "(0.7, asked: A reviewer)" in turn.assistant, "the better one, written anew"
        assert [one.judgement and one.judgement.score for one in turn.details.candidates] == [3, 6, 9]
        assert turn.judgement
        assert turn.judgement.score == 9
    translated = [turn for one in dialogues for turn in one.turns if "asked: Translate" in turn.assistant]
    assert [turn.judgement and turn.judgement.score for turn in translated] == (
        [2, 2, 2] if from_seed == "translate" else []
    ), "poor, and not revised all the same"
    assert len(result.asked(Role.ASSISTANT)) == 3 * len(several) + len(translated)
    goals = [messages for messages in result.asked(Role.JUDGE) if "money back" in str(messages)]
    assert len(goals) == 2
    assert all(one.goal for one in dialogues)
    assert len(result.asked(Role.JUDGE)) == 2 * len(several) + len(translated) + 2

    saving = validate(SavingConfig, {"formats": ["dpo", "parquet"], "min_margin": 2}, "test").files
    summary = write_dataset(
        dialogues,
        tmp_path,
        saving=saving,
        columns=OptionalColumns(candidates=True, conversation=["turn_origins"]),
    )
    assert summary.preferences.pairs == 2 * len(several)
    rows = lines(tmp_path / "data/dpo/train.jsonl")
    asked = {row["prompt"][-1]["content"] for row in rows}
    assert asked == {turn.user for turn in several}
    assert all(verify_dataset(tmp_path).values())


def test_judged_offline_what_the_seeds_have_is_not(store: RunStore) -> None:
    config = judging()
    result = made(store, "continue", sections={"judge": config.model_dump()})
    with simulated_endpoint() as sim:
        report = judge(store, result.run, config, Endpoint("simulated", sim.base_url))
    assert (report.wanted, report.given, report.missing) == (4, 4, 0)
    judged = {(dialogue_id, turn) for dialogue_id, turn, _ in verdicts(store)}
    assert judged == {
        (one.plan.dialogue_id, turn.index)
        for one in result.dialogues
        for turn in one.turns
        if turn.details.origin is not Origin.SEED
    }


@pytest.mark.parametrize("from_seed", ["continue", "answer", "translate"])
def test_what_was_cut_off_goes_on_where_it_was(store: RunStore, from_seed: str) -> None:
    languages = ["es"] if from_seed == "translate" else ["en"]
    requests = list[dict[str, Any]]()
    for budget in (60, 120, None):
        result = made(store, from_seed, languages, total_samples=6, max_tokens=budget, concurrency=2)
        requests += result.requests
    assert len(result.dialogues) == 6
    assert all(len(one.turns) == one.plan.n_turns for one in result.dialogues)
    calls = [str(sorted(request.items())) for request in requests]
    assert len(set(calls)) == len(calls), "no call is made twice"
