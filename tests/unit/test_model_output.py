"""What the roles said, without what models add to it."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlgforge_core.generation.question_kinds import question_kinds
from dlgforge_core.prompting.model_output import answer_of, question_of, without_quotes
from dlgforge_core.prompting.passage_marks import names_material, names_source


@pytest.mark.parametrize(
    ("message", "question"),
    [
        ("How long must it rise?", "How long must it rise?"),
        ('"How long must it rise?"', "How long must it rise?"),
        ("User: How long?", "How long?"),
        ("**Question:** How long?", "How long?"),
        ("Pregunta: ¿Cuánto?", "¿Cuánto?"),
        ("سؤال: كم من الوقت؟", "كم من الوقت؟"),
        ("1. How long?\n2. How hot?", "How long?"),
        ("- How long?", "How long?"),
        ("Sure! Here is a question:\n\nHow long?", "How long?"),
        ("How long?\n\nAssistant: An hour.", "How long?"),
        ("I want to bake.\nUser: How long?", "I want to bake."),
        ("How long?\n\nIt depends on the flour and the heat.", "How long?"),
        # What leads to a question is part of it.
        ("I live in a small flat.\n\nWhere can it rise?", "I live in a small flat.\n\nWhere can it rise?"),
        ("Hi!\nWhere can it rise?", "Hi!\nWhere can it rise?"),
        (
            "Here is my code:\n\nprint(1)\n\nWhy does it fail?",
            "Here is my code:\n\nprint(1)\n\nWhy does it fail?",
        ),
        ("Why does it fail?\n\n```\nx = 1?\n```\nThanks", "Why does it fail?\n\n```\nx = 1?\n```\nThanks"),
        ("Tell me about yeast.\nIn short.", "Tell me about yeast.\nIn short."),
        ("What is “proofing”?", "What is “proofing”?"),
        ('"Hot" or "cold"', '"Hot" or "cold"'),
        ("```\nHow long must it rise?\n```", "How long must it rise?"),
        ("```text\nTell me how long.\n```", "Tell me how long."),
        ("```\nSELECT 1\n```", "```\nSELECT 1\n```"),
    ],
)
def test_the_question_in_an_answer(message: str, question: str) -> None:
    assert question_of(message) == question


@given(st.text())
def test_a_question_is_never_lost_and_the_same_when_read_again(text: str) -> None:
    question = question_of(text)
    assert bool(question) == bool(text.strip())


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("Let it rise for an hour.", "Let it rise for an hour."),
        ("Assistant: Let it rise.", "Let it rise."),
        ("**Answer:** Let it rise.\n\nThen bake it.", "Let it rise.\n\nThen bake it."),
        ("Respuesta: Una hora.", "Una hora."),
        ("Réponse : Une heure.", "Une heure."),
        ("الجواب: ساعة.", "ساعة."),
        ("回答：一小时。", "一小时。"),
        ("Assistant: An hour.\nUser: And then?\nAssistant: Bake it.", "An hour."),
        ("Assistant:", ""),
        # A conversation that an answer tells of.
        ("Ask like this:\nUser: How long?\nAssistant: An hour.",) * 2,
        ('"Let it rise for an hour."', "Let it rise for an hour."),
        ("« Une heure. »", "Une heure."),
        ('"Rise" is one word, the other is "rest"',) * 2,
        ("'I don't know'",) * 2,
        ("```markdown\nLet it **rise**.\n```", "Let it **rise**."),
        ("```text\nLet it rise.\n```", "Let it rise."),
        ("```\nprint(1)\n```",) * 2,
        ("```python\nprint(1)\n```",) * 2,
        ("```markdown\nOne.\n```\nand\n```markdown\ntwo\n```",) * 2,
        ("A: the first choice\nB: the second",) * 2,
        ("AI: what machines do that seems clever.",) * 2,
        ("Answers: there are two of them.",) * 2,
    ],
)
def test_the_answer_in_an_answer(message: str, answer: str) -> None:
    assert answer_of(message) == answer


@given(st.text(alphabet="aA: \n`\"'>«»?"))
def test_an_answer_without_labels_marks_and_quotes_is_as_it_was(text: str) -> None:
    assert answer_of("So: " + text).startswith("So:")


def test_an_answer_does_not_repeat_the_passages_form() -> None:
    assert without_quotes("Plain text\n> as it is") == "Plain text\n> as it is"
    assert without_quotes("<passages>\n[1]\n> one\n>\n</passages>\nSo it is.") == "So it is."
    assert without_quotes("<passage>\n> one") == ""
    assert without_quotes("So:\n> it is", grounded=True) == "So:\nit is"
    assert without_quotes("```\n> x\n```", grounded=True) == "```\n> x\n```"


@pytest.mark.parametrize(
    ("question", "does"),
    [
        ("What does this passage say about salt?", True),
        ("What does the text above say?", True),
        ("> Salt slows it. Why?", True),
        ("Why does salt slow the dough?", False),
    ],
)
def test_a_question_that_gives_the_material_away(question: str, does: bool) -> None:
    assert names_material(question) is does
    assert not names_material(question, "reading passages aloud")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("The passage states that salt slows it.", "The passage states"),
        ("Salt slows it, according to the provided passages.", "according to the provided passages"),
        ("This excerpt doesn't say.", "This excerpt doesn't"),
        ("As described in the passage above, salt slows it.", "As described in the passage above"),
        ("The passage of time suggests patience.", ""),
        ("Birds use the passage between the islands, based on the passage of the wind.", ""),
        ("A passage boat says nothing.", ""),
    ],
)
def test_an_answer_that_speaks_of_its_passages(answer: str, words: str) -> None:
    assert names_source(answer, "Why does salt slow the dough?", "bread") == words
    assert not names_source(answer, "What does the passage say?")


@given(st.lists(st.text(min_size=1), min_size=1, max_size=8, unique=True), st.integers(), st.text())
def test_a_dialogue_has_every_kind_once_before_any_again(
    kinds: list[str], seed: int, dialogue_id: str
) -> None:
    chosen = question_kinds(kinds, seed, dialogue_id, 2 * len(kinds))
    assert sorted(chosen[: len(kinds)]) == sorted(kinds)
    assert chosen[: len(kinds)] == chosen[len(kinds) :]
    assert question_kinds([], seed, dialogue_id, 3) == []


def test_dialogues_have_orders_of_their_own() -> None:
    kinds = ["a", "b", "c", "d"]
    first = [question_kinds(kinds, 0, f"d{n}", 1)[0] for n in range(400)]
    assert all(70 <= first.count(kind) <= 130 for kind in kinds)


@pytest.mark.parametrize(
    "piece",
    [
        "\n",
        " ",
        "? ",
        ": ",
        "> ",
        "User: ",
        "passage ",
        "the given ",
        "according to the passage ",
        "<passages>",
        '"',
        "```text\n",
    ],
)
def test_patterns_are_linear(piece: str) -> None:
    text = (piece * (200_000 // len(piece) + 1))[:200_000]
    started = time.process_time()
    question_of(text)
    names_material(text)
    names_source(text)
    answer_of(text, grounded=True)
    assert time.process_time() - started < 6
