"""Semantic dedup: the first of dialogues that open alike is kept, whatever the batches and blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.config import EmbeddingConfig, SemanticDedupConfig
from dlgforge_core.dialogue import Dialogue, DialoguePlan, Persona, Turn
from dlgforge_core.errors import ConfigError
from dlgforge_core.knowledge.embedding import blocking_embedder
from dlgforge_core.quality import semantic
from dlgforge_core.quality.semantic import SemanticDedup, check_size
from dlgforge_core.sources import SeedTopic

PERSONA = Persona("p", "P", "p")


def dialogue(number: int, question: str) -> Dialogue:
    plan = DialoguePlan(f"d{number}", number, "en", 1, SeedTopic("t", "en", "t"), PERSONA, PERSONA)
    return Dialogue(plan, (Turn(0, question, "a"),))


def dialogues(questions: Sequence[str]) -> list[Dialogue]:
    return [dialogue(number, question) for number, question in enumerate(questions)]


def on_a_circle(texts: Sequence[str]) -> np.ndarray:
    """Return an embedder for questions that are angles, in degrees; of any length."""
    angles = np.radians([float(text) for text in texts])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * 7.0


def kept(questions: Sequence[str], threshold: float) -> list[str]:
    dedup = SemanticDedup(on_a_circle, threshold)
    out = [d.turns[0].user for d in dedup.filter(dialogues(questions))]
    assert dedup.n_refused == len(questions) - len(out)
    return out


def by_definition(questions: Sequence[str], threshold: float) -> list[str]:
    out: list[str] = []
    for question in questions:
        if all(np.cos(np.radians(float(question) - float(k))) < threshold - 1e-5 for k in out):
            out.append(question)
    return out


def test_more_dialogues_than_can_be_compared_are_refused_with_the_reason() -> None:
    embedding = EmbeddingConfig(backend="sentence_transformers", model="m")
    config = SemanticDedupConfig(threshold=0.9, embedding=embedding, max_dialogues=1_000)
    check_size(config, 1_000)
    with pytest.raises(
        ConfigError, match=r"each of 3,000 .* 9\.0 times .*max_dialogues = 1,000.*threshold to null"
    ):
        check_size(config, 3_000)
    check_size(config.model_copy(update={"max_dialogues": 3_000}), 3_000)
    check_size(SemanticDedupConfig(max_dialogues=1_000), 3_000)  # off


def test_the_first_of_each_group_is_kept() -> None:
    # cos 20 degrees = 0.94, cos 40 degrees = 0.77
    assert kept(["0", "20", "40", "90", "100", "0"], 0.9) == ["0", "40", "90"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 359).map(str), max_size=40), st.sampled_from([0.5, 0.9, 0.999, 1.0]))
def test_batches_and_blocks_do_not_matter(questions: list[str], threshold: float) -> None:
    expected = by_definition(questions, threshold)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(semantic, "BATCH", 3)
        patch.setattr(semantic, "_BLOCK", 2)
        assert kept(questions, threshold) == expected
        one_by_one = SemanticDedup(on_a_circle, threshold)
        assert [d.turns[0].user for one in dialogues(questions) for d in one_by_one.filter([one])] == expected
    assert kept(questions, threshold) == expected


def test_dialogues_are_read_a_batch_ahead_and_no_further() -> None:
    read: list[int] = []

    def source() -> Iterator[Dialogue]:
        for number in range(10_000):
            read.append(number)
            yield dialogue(number, str(number % 360))

    next(SemanticDedup(on_a_circle, 0.9).filter(source()))
    assert len(read) == semantic.BATCH


def test_texts_without_a_vector_are_alike_to_none() -> None:
    dedup = SemanticDedup(lambda texts: np.zeros((len(texts), 2)), 0.5)
    assert len(list(dedup.filter(dialogues(["1", "2"])))) == 2


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.1, float("nan")])
def test_a_threshold_out_of_bounds_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"threshold = .*\(0, 1\]"):
        SemanticDedup(on_a_circle, threshold)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((1, 2)), r"shape \(1, 2\); it must be \(2, dimensions\)"),
        (np.zeros(2), r"shape \(2,\)"),
        (np.full((2, 2), np.nan), "not finite"),
    ],
)
def test_an_embedder_that_breaks_its_word_is_distinguished(vectors: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(SemanticDedup(lambda _: vectors, 0.9).filter(dialogues(["1", "2"])))


def test_what_cannot_embed_is_named_by_its_own_section() -> None:
    config = EmbeddingConfig(backend="endpoint", model="m", base_url="http://127.0.0.1:9/v1")
    with (
        pytest.raises(ConfigError, match=r"set saving\.semantic_dedup\.embedding\.base_url"),
        blocking_embedder(config, None, "saving.semantic_dedup.embedding"),
    ):
        pass
