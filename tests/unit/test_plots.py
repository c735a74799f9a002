"""Figures and pictures of a set of dialogues."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import pytest
from PIL import Image

from dlgforge_core.dialogue import Dialogue, DialoguePlan, Evidence, Persona, Role, Turn, TurnDetails
from dlgforge_core.export.plots import markdown_image, overview_png
from dlgforge_core.quality.figures import DialogueFigures, length_class, length_of_class
from dlgforge_core.sources import SeedTopic
from dlgforge_core.tool_events import ToolEvent
from dlgforge_core.verdicts import Judgement


def dialogue(n_turns: int, score: int | None = 7) -> Dialogue:
    persona = Persona("p", "P", "somebody")
    plan = DialoguePlan("id", 0, "en", n_turns, SeedTopic("t", "en", "topic"), persona, persona)
    verdict = Judgement(score, ("clear",)) if score is not None else None
    turns = tuple(Turn(i, "q" * 10, "a" * 100, verdict) for i in range(n_turns))
    return Dialogue(plan, turns)


def test_figures_count_every_turn_and_verdict() -> None:
    figures = DialogueFigures.of([dialogue(2, 4), dialogue(3, 10), dialogue(1, None)])
    assert (figures.n_dialogues, figures.n_turns, figures.mean_turns) == (3, 6, 2.0)
    assert figures.turn_counts == {1: 1, 2: 1, 3: 1}
    assert figures.mean_score == pytest.approx((2 * 4 + 3 * 10) / 5)
    assert (figures.user_chars, figures.assistant_chars) == (60, 600)
    assert DialogueFigures().mean_score is None


@pytest.mark.parametrize("chars", [0, 1, 5, 99, 100_000])
def test_a_length_is_near_the_middle_of_its_class(chars: int) -> None:
    assert length_of_class(length_class(chars)) == pytest.approx(chars, rel=0.15, abs=0.5)


@pytest.mark.parametrize("figures", [DialogueFigures(), DialogueFigures.of([dialogue(2)] * 30)])
def test_the_picture_is_small_and_complete_whatever_there_is(figures: DialogueFigures) -> None:
    for extra, height in (
        ({}, 248),
        ({"drop_reasons": {"refused": 2}, "tokens_by_role": {"qa_judge": (10, 5)}, "throughput": []}, 496),
        ({"drop_reasons": {}, "tokens_by_role": {}, "throughput": [(0.5, 1.0), (1.5, 2.0)]}, 496),
    ):
        png = overview_png(figures, **extra)
        assert Image.open(io.BytesIO(png)).size == (960, height)
        assert len(png) < 40_000
    assert base64.b64decode(markdown_image(png, "x").split("base64,")[1].rstrip(")")) == png


def test_figures_tell_how_many_answers_draw_on_their_passages() -> None:
    asked = Evidence("c1", "a.md", Role.USER_SIMULATOR, cited=True)
    cited, left = (Evidence(c, "a.md", Role.ASSISTANT, cited=c == "c1") for c in ("c1", "c2"))
    details = [
        TurnDetails((asked, cited, left), (ToolEvent("web_search", {}),)),
        TurnDetails((asked, left)),
        TurnDetails((asked,)),
        TurnDetails(),
    ]
    turns = tuple(Turn(i, "q", "a", details=each) for i, each in enumerate(details))
    figures = DialogueFigures.of([replace(dialogue(1), turns=turns)])
    assert (figures.grounded_turns, figures.cited_turns) == (2, 1)
    assert figures.tool_calls == {"web_search": 1}
