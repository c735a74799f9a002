"""Verdicts as judges write them."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.config import JudgeConfig
from dlgforge_core.llm import structured
from dlgforge_core.prompting.verdict_reading import judgement_from
from dlgforge_core.verdicts import MAX_SCORE, Judgement

JUDGE = JudgeConfig(reasons=["accurate", "too_long", "not helpful"])


def read(text: str) -> Judgement:
    return structured.parse(text, lambda value: judgement_from(value, JUDGE))


def verdict(**fields: Any) -> Judgement:
    return read(orjson.dumps({"score": 8, "reasons": ["accurate"], "comment": "Fine.", **fields}).decode())


@pytest.mark.parametrize(
    ("score", "whole"),
    [
        *(("8", 8), ("8/10", 8), ("8 / 10", 8), ("8 out of 10", 8), ("8.0", 8), (" 8 ", 8), ("**8**", 8)),
        *(
            (7.5, 8),
            ("7,5", 8),
            (7.4, 7),
            ("4/5", 8),
            ("80%", 8),
            ("80/100", 8),
            ("Score: 8", 8),
            ("eight", 8),
        ),
        *(("8 (good)", 8), ("8 - good", 8), ([8], 8), ({"value": 8}, 8), ("0", 0), ("10/10", 10), (8.0, 8)),
        *(("8 points", 8), ("8.5/10", 9), ("8.", 8)),
        *(("~8", 8), ("8+", 8), ("8/10 because 2/10 would be too few", 8)),
    ],
)
def test_a_score_that_is_plain_is_read(score: object, whole: int) -> None:
    assert verdict(score=score).score == whole


def test_labels_may_be_numbered() -> None:
    assert verdict(reasons=["1. Accurate", "2) too long"]).reasons == ("accurate", "too_long")


@pytest.mark.parametrize(
    "score",
    [
        *(
            11,
            -1,
            "11",
            "85",
            True,
            None,
            "high",
            "",
            "between 7 and 8",
            "8 or 9",
            "12/10",
            "8/7",
            [7, 8],
            1e300,
        ),
        *({"a": 1}, "1" * 5000, "-3", "ten out of ten, or eleven"),
    ],
)
def test_any_other_score_is_reported_to_the_judge(score: object) -> None:
    with pytest.raises(ValueError, match=r"score must be a whole number from 0 to 10, not ") as error:
        verdict(score=score)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("given_as", "known"),
    [
        (["Accurate"], ("accurate",)),
        ("accurate", ("accurate",)),
        ("ACCURATE", ("accurate",)),
        ("Accurate, Too long", ("accurate", "too_long")),
        ("too-long; not_helpful", ("too_long", "not helpful")),
        ("accurate and not helpful", ("accurate", "not helpful")),
        (["accurate: all of it is right", "TOO LONG."], ("accurate", "too_long")),
        ([{"label": "accurate", "weight": 1}], ("accurate",)),
        ({"accurate": True, "too_long": False}, ("accurate",)),
        (["accurate", "kind", "accurate", 7], ("accurate",)),
    ],
)
def test_labels_are_read_whatever_their_form(given_as: object, known: tuple[str, ...]) -> None:
    assert verdict(reasons=given_as).reasons == known


@pytest.mark.parametrize("reasons", [[], "", None, 7, ["kind"], "inaccurate", [["accurate"]]])
def test_no_known_label_is_shown_to_the_judge(reasons: object) -> None:
    with pytest.raises(ValueError, match="reasons must name some of: accurate, too_long, not helpful"):
        verdict(reasons=reasons)


@pytest.mark.parametrize(
    "text",
    [
        '{"score": 8, "reasons": ["accurate"], "comment": "Fine.",}',
        '{"score": 8, "reasons": ["accurate",], "comment": "Fine."}',
        '```json\n{"score": 8, "reasons": ["accurate"], "comment": "Fine."}\n```',
        'Here it is:\n{"Score": "8/10", "Reasons": "Accurate", "Comment": "Fine."}\nDone.',
        "{'score': 8, 'reasons': ['accurate'], 'comment': 'Fine.'}",
        '{"score": 8, "reasons": ["accurate"], "comment": \u201cFine.\u201d}',
        '{"verdict": {"score": 8, "reasons": ["accurate"], "comment": "Fine."}}',
        '{"SCORE": 8, "REASON": "accurate", "EXPLANATION": "Fine."}',
        '{"score": 8, "reasons": ["accurate"], "comment": "Fi\nne."}'.replace("\n", ""),
    ],
)
def test_what_is_almost_json_is_read(text: str) -> None:
    assert read(text) == Judgement(8, ("accurate",), "Fine.")


@settings(max_examples=100)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ),
    st.sampled_from(["score", "reasons", "comment"]),
)
def test_any_verdict_is_a_judgement_or_a_value_error(value: Any, field: str) -> None:
    with suppress(ValueError):
        judgement = judgement_from({"score": 8, "reasons": ["accurate"], field: value}, JUDGE)
        assert 0 <= judgement.score <= MAX_SCORE
        assert set(judgement.reasons) <= set(JUDGE.reasons)
        assert isinstance(judgement.comment, str)


@settings(max_examples=100)
@given(
    st.lists(
        st.sampled_from([*"{}[]\",:'\\", "score", "8", " ", "accurate", "\n", "None", "\u201c"]), max_size=30
    )
)
def test_any_text_is_read_without_another_error(parts: list[str]) -> None:
    with suppress(ValueError):
        read("".join(parts))


@pytest.mark.parametrize("piece", ["{", '{"', "{'a':", "{,", "{}", '{"a":{', "[{", "{(", "'{", "{\\"])
def test_reading_takes_no_second_for_a_megabyte(piece: str) -> None:
    started = time.process_time()
    with suppress(ValueError):
        read(piece * (1_000_000 // len(piece)))
    for field in ("score", "reasons", "comment"):
        with suppress(ValueError):
            verdict(**{field: piece * 100_000})
            verdict(**{field: " (,8" * 100_000})
    assert time.process_time() - started < 1.5
