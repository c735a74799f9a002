"""Conversations for the review page, worth looking at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dlgforge_core.dialogue import Candidate, Dialogue, Ending, Evidence, Role, Turn, TurnDetails
from dlgforge_core.review.index import update_index
from dlgforge_core.store.run_store import RunStore
from dlgforge_core.tool_events import ToolEvent
from dlgforge_core.verdicts import GoalVerdict, Judgement
from tests.support.dialogues import make_dialogue
from tests.support.review import put_dialogue, put_run

_BREAD = [
    (
        "My sourdough comes out flat every time. What am I doing wrong?",
        "A flat loaf is most often one that has risen for too long, or a starter that is not lively "
        "enough. Try "
        "the float test first: a spoonful of starter should float in water. Then shorten the second "
        "rise: the dough "
        "is ready when a dent made with a finger springs back slowly, and not all the way.",
        9,
        ("helpful", "accurate"),
        "Names the two usual causes and a test for each.",
    ),
    (
        "It floats. So it rises for too long? I leave it overnight in the kitchen.",
        "Then that is it. At room temperature four hours are plenty; overnight belongs in the "
        "refrigerator, where "
        "12 hours at 4 °C do what four do on the table. Bake it straight from the cold: it scores "
        "better, too.",
        8,
        ("helpful",),
        "Right, and practical.",
    ),
]
_RICE = [
    (
        "كيف أطبخ أرز basmati في 4 خطوات؟",
        "اغسل الأرز حتى يصفو الماء، ثم انقعه 20 دقيقة. سخّن ملعقتين من السمن وحمّص الأرز دقيقتين. "
        "أضف كوبًا ونصف "
        "كوب من الماء المغلي لكل كوب أرز مع الملح، ثم غطِّ القدر واتركه على نار هادئة 15 دقيقة.",
        8,
        ("accurate",),
        "إجابة واضحة ومفيدة.",
    ),
    (
        "وهل أرفع الغطاء لأرى إن كان قد نضج؟",
        "لا ترفعه قبل انتهاء الوقت، فالبخار هو الذي يطبخ الحبات. أطفئ النار بعد 15 دقيقة، وانتظر 10 دقائق.",
        9,
        ("helpful",),
        "",
    ),
]
_TOPICS = {
    "en": [
        "planning a small garden",
        "a train to the sea",
        "learning to swim late",
        "repairing a bicycle wheel",
    ],
    "fr": ["choisir un vélo pour la ville", "une recette de soupe pour l’hiver", "apprendre l’italien"],
}


def put_samples(store: RunStore) -> list[str]:
    """Keep two conversations with everything that a page shows, and others; returns their ids."""
    with store.connection() as connection:
        plans = {language: put_run(connection, language, batch="home") for language in ("en", "ar", "fr")}
        ids = [
            put_dialogue(connection, plans["en"], _bread()),
            put_dialogue(connection, plans["ar"], _dialogue(1, _RICE, "ar", "طبخ الأرز", "ar")),
        ]
        ordinal = 2
        for language, topics in _TOPICS.items():
            for topic in topics * 2:
                score = 3 + (ordinal * 5) % 7
                texts = [
                    (
                        _QUESTIONS[language].format(topic),
                        _ANSWERS[language],
                        score,
                        ("too_long",) if score < 6 else ("helpful",),
                        "",
                    )
                ]
                ids.append(
                    put_dialogue(connection, plans[language], _dialogue(ordinal, texts, language, topic))
                )
                ordinal += 1
        put_dialogue(
            connection,
            plans["en"],
            make_dialogue(ordinal, (), topic="a letter to the landlord"),
            status="dropped",
            drop_reason="refused",
            drop_detail="the assistant's model gave no answer: content_filter",
        )
        update_index(connection)
    return ids


_QUESTIONS = {
    "en": "Where do I begin with {}? I have a free weekend and 200 euros.",
    "fr": "Par où commencer : {} ? J’ai un week-end et 200 euros.",
}
_ANSWERS = {
    "en": "Begin with the smallest part that you can finish, and keep half of the money back: what "
    "is missing "
    "shows only on the second day.",
    "fr": "Commencez par le plus petit morceau que vous pouvez terminer, et gardez la moitié de "
    "l’argent : ce "
    "qui manque ne se voit que le deuxième jour.",
}


def _dialogue(
    ordinal: int,
    texts: Sequence[tuple[str, str, int, tuple[str, ...], str]],
    language: str,
    topic: str,
    seed: str = "",
) -> Dialogue:
    turns = tuple(
        Turn(i, question, answer, Judgement(score, reasons, comment))
        for i, (question, answer, score, reasons, comment) in enumerate(texts)
    )
    dialogue = make_dialogue(
        ordinal, turns, language=language, topic=topic, batch="home.yaml", seed_id=seed or topic
    )
    models = {Role.USER_SIMULATOR: "qwen2.5-7b", Role.ASSISTANT: "qwen2.5-32b", Role.JUDGE: "judge-1"}
    return replace(dialogue, models={role.value: model for role, model in models.items()})


def _bread() -> Dialogue:
    dialogue = _dialogue(0, _BREAD, "en", "baking bread at home")
    first, second = dialogue.turns
    details = TurnDetails(
        evidence=(
            Evidence("a1", "guides/sourdough.md", Role.USER_SIMULATOR, 2.5),
            Evidence("b2", "guides/proofing.pdf", Role.ASSISTANT, 3.25, cited=True),
        ),
        tools=(
            ToolEvent(
                "vector_db_search",
                {"query": "flat sourdough causes", "top_k": 3},
                "[1] guides/proofing.pdf: Over-proofed dough collapses in the oven ...",
            ),
        ),
        reasoning="They say every time, so it is no accident. Over-proofing or a weak starter: the "
        "float test.",
    )
    candidates = (
        Candidate(
            second.assistant, chosen=True, judgement=second.judgement, model="qwen2.5-32b", temperature=0.7
        ),
        Candidate("Just buy bread.", judgement=Judgement(1, ("unhelpful",), "No help."), model="qwen2.5-7b"),
    )
    turns = (replace(first, details=details), replace(second, details=TurnDetails(candidates=candidates)))
    plan = replace(
        dialogue.plan,
        system_prompt="You are a baker who answers beginners in two or three sentences.",
        attributes={"tone": "friendly", "expertise": "beginner"},
        goal="Find out why the bread stays flat, and what to change tonight.",
    )
    return replace(
        dialogue,
        plan=plan,
        turns=turns,
        ended_by=Ending.USER,
        goal=GoalVerdict(True, "The user knows the cause and where to put the dough tonight."),
    )
