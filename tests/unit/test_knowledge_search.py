"""Lexical and dense search, fusion, the choice of a document, and the configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlgforge_core.config import CoverageConfig, KnowledgeConfig, RetrievalConfig, validate
from dlgforge_core.errors import ConfigError, KnowledgeError
from dlgforge_core.knowledge.dense import (
    DenseIndex,
    reciprocal_rank_fusion,
    vector_to_bytes,
    vectors_from_rows,
)
from dlgforge_core.knowledge.embedding import normalised, open_embedder
from dlgforge_core.knowledge.endpoints import embedding_endpoint, rerank_endpoint
from dlgforge_core.knowledge.lexical import LexicalIndex, best
from dlgforge_core.knowledge.pool import Candidates, Choice, DocumentPool
from dlgforge_core.knowledge.types import Document

CHUNKS = [
    ("Photograph every wall before you hand over the keys.", "en"),
    ("The landlord returns the deposit when the flat is clean.", "en"),
    ("Le propriétaire rend le dépôt de garantie.", "fr"),
    ("يعيد المالك مبلغ التأمين إلى المستأجر.", "ar"),
    ("我们明天去公园散步。", "zh"),
]


def test_words_find_their_chunk_in_every_language() -> None:
    index = LexicalIndex.build(CHUNKS)
    for query, language, place in [
        ("return of deposits by landlords", "en", 1), ("photographs", "en", 0), ("les dépôts", "fr", 2),
        ("depots des proprietaires", "fr", 2), ("المستأجرين والتأمين", "ar", 3), ("公园", "zh", 4),
    ]:  # fmt: skip
        scores = index.scores(query, [language])
        assert scores is not None, query
        assert best(scores, 1)[0][0] == place, query


def test_bm25_is_lucenes() -> None:
    # Two chunks, one has the term: idf = ln(1 + (2 - 1 + 0.5) / (1 + 0.5)); both have three terms.
    index = LexicalIndex.build([("red green blue", "xx"), ("one two three", "xx")])
    scores = index.scores("green", ["xx"])
    assert scores is not None
    assert scores.tolist() == pytest.approx([np.log(2.0) / (1 + 1.5), 0.0], rel=1e-6)


def test_an_index_survives_its_bytes() -> None:
    index = LexicalIndex.build(CHUNKS)
    again = LexicalIndex.from_files(index.to_files(), len(CHUNKS))
    first, second = index.scores("deposit keys", ["en"]), again.scores("deposit keys", ["en"])
    assert first is not None
    assert second is not None
    assert first.tolist() == second.tolist()


def test_unknown_words_and_empty_indexes_find_nothing() -> None:
    assert LexicalIndex.build(CHUNKS).scores("xylophone the", ["en"]) is None
    empty = LexicalIndex.from_files(LexicalIndex.build([("...", "en")]).to_files(), 1)
    assert empty.scores("anything", ["en"]) is None


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 50))
def test_best_is_the_sorted_positive_head(values: list[int], k: int) -> None:
    scores = np.asarray(values, np.float32)
    expected = sorted(((-v, i) for i, v in enumerate(values) if v > 0))[:k]
    assert best(scores, k) == [(i, -v) for v, i in expected]


def test_dense_scores_are_cosines_within_the_mask() -> None:
    generator = np.random.default_rng(1)
    vectors = normalised(generator.normal(size=(40, 8)).astype(np.float32))
    index = DenseIndex(vectors)
    mask = np.zeros(40, np.bool_)
    for chosen in ([3, 17], list(range(20))):  # gathered, and masked after the whole product
        mask[:] = False
        mask[chosen] = True
        scores = index.scores(vectors[3], mask)
        assert scores[3] == pytest.approx(1.0, abs=1e-6)
        assert (scores[~mask] == -1).all()
        assert scores[mask] == pytest.approx((vectors @ vectors[3])[mask], abs=1e-6)
    with pytest.raises(KnowledgeError, match="9 numbers, the index' have 8"):
        index.scores(np.ones(9, np.float32), None)


def test_vectors_at_rest_keep_three_digits() -> None:
    vectors = normalised(np.random.default_rng(2).normal(size=(5, 384)).astype(np.float32))
    kept = vectors_from_rows([vector_to_bytes(vector) for vector in vectors])
    assert kept.dtype == np.float32
    assert np.abs(kept - vectors).max() < 2e-4
    with pytest.raises(KnowledgeError, match="differ in length"):
        vectors_from_rows([b"\0\0", b"\0\0\0\0"])


def test_reciprocal_rank_fusion_is_the_papers_formula() -> None:
    fused = reciprocal_rank_fusion([[7, 8], [8, 9]])
    assert fused == pytest.approx({7: 1 / 61, 8: 1 / 62 + 1 / 61, 9: 1 / 62})


# Coverage

DOCUMENTS = [(f"d{n:02}", 1.0 - n / 100) for n in range(20)]


def candidates_of(relevance: Sequence[tuple[str, float]]) -> Candidates:
    ordered = sorted(relevance)
    pool = DocumentPool([Document(name, "", "", 1) for name, _ in ordered])
    return Candidates(pool, np.array([value for _, value in ordered], np.float32))


def ranked(
    relevance: Sequence[tuple[str, float]],
    uses: Mapping[str, int],
    coverage: CoverageConfig,
    seed: int,
    dialogue_id: str,
    n: int = 1,
) -> list[str]:
    candidates = candidates_of(relevance)
    counts = np.array([uses.get(name, 0) for name in candidates.pool.names], np.int64)
    places = Choice(candidates, coverage, seed, dialogue_id).best(counts, n)
    return [candidates.pool.names[place] for place in places]


def choose(*arguments: Any) -> str:
    (document,) = ranked(*arguments)
    return document


def balanced(**keys: Any) -> CoverageConfig:
    return CoverageConfig(**{"doc_coverage_epsilon": 0.0, **keys})


def test_balanced_takes_the_fittest_of_the_least_used() -> None:
    assert choose(DOCUMENTS, {}, balanced(), 1, "x") == "d00"
    used = {f"d{n:02}": 1 for n in range(18)}  # d18 and d19 are left; the fraction, 4, takes two more
    assert choose(DOCUMENTS, used, balanced(), 1, "x") == "d00"
    used = {f"d{n:02}": 2 for n in range(18)}
    assert choose(DOCUMENTS, used, balanced(), 1, "x") == "d18"


def test_relevance_mode_ignores_the_counts() -> None:
    coverage = balanced().model_copy(update={"doc_coverage_mode": "relevance"})
    assert choose(DOCUMENTS, {"d00": 99}, coverage, 1, "x") == "d00"


def test_ties_and_epsilon_depend_on_the_seed_and_the_dialogue_alone() -> None:
    tied = [(f"d{n}", 1.0) for n in range(10)]
    picks = Counter(choose(tied, {}, balanced(), 1, f"x{n}") for n in range(1000))
    assert len(picks) == 10
    assert max(picks.values()) < 2 * min(picks.values())
    assert choose(tied, {}, balanced(), 1, "x") == choose(list(reversed(tied)), {}, balanced(), 1, "x")
    assert {choose(tied, {}, balanced(), seed, "x") for seed in range(50)} > {
        choose(tied, {}, balanced(), 1, "x")
    }


def test_epsilon_draws_uniformly_that_often() -> None:
    coverage = CoverageConfig(doc_coverage_epsilon=0.3)
    used = {document: 5 for document, _ in DOCUMENTS[1:]}  # without epsilon it is always d00
    picks = Counter(choose(DOCUMENTS, used, coverage, 7, f"x{n}") for n in range(4000))
    others = 4000 - picks["d00"]
    assert others / 4000 == pytest.approx(0.3 * 19 / 20, abs=0.03)
    assert max(picks[d] for d, _ in DOCUMENTS[1:]) < 3 * min(picks[d] for d, _ in DOCUMENTS[1:])


@given(
    st.lists(
        st.tuples(st.text(max_size=5), st.floats(0, 10)), min_size=1, max_size=30, unique_by=lambda c: c[0]
    ),
    st.data(),
)
def test_balanced_never_uses_what_is_ahead(candidates: list[tuple[str, float]], data: st.DataObject) -> None:
    uses = {name: data.draw(st.integers(0, 4)) for name, _ in candidates}
    fraction = data.draw(st.floats(0.01, 1.0))
    chosen = choose(candidates, uses, balanced(doc_coverage_fraction=fraction), 3, "x")
    assert uses[chosen] <= min(uses.values()) + 1


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 45))
def test_the_best_are_ranked_alike_however_many_are_asked_for(relevance: list[int], n: int) -> None:
    documents = [(f"d{i}", float(value)) for i, value in enumerate(relevance)]
    all_ = ranked(documents, {}, balanced(), 1, "x", len(documents))
    values = dict(documents)
    assert [values[name] for name in all_] == sorted(values.values(), reverse=True)
    assert ranked(documents, {}, balanced(), 1, "x", n) == all_[:n]


def test_a_document_is_found_in_its_pool_by_name() -> None:
    candidates = candidates_of([("b", 2.0), ("a", 1.0), ("é", 3.0)])
    assert [candidates.relevance_of(name) for name in ("a", "b", "é", "", "c", "z")] == [1, 2, 3, 0, 0, 0]


# Configuration


@pytest.mark.parametrize(
    ("data", "reported"),
    [
        ({"chunk_chars": 100, "chunk_overlap_chars": 100}, "chunk_overlap_chars = 100 is not less than"),
        ({"embedding": {"backend": "endpoint", "model": "m"}}, "base_url is empty"),
        ({"embedding": {"backend": "endpoint", "base_url": "http://h/v1"}}, "model is empty"),
        (
            {"embedding": {"backend": "endpoint", "model": "m", "base_url": "http://u:p@h/v1"}},
            "holds a password",
        ),
    ],
)
def test_knowledge_that_cannot_work_is_refused(data: dict[str, object], reported: str) -> None:
    with pytest.raises(ConfigError, match=reported):
        validate(KnowledgeConfig, data, "knowledge")


def test_keys_come_from_the_named_variable() -> None:
    config = KnowledgeConfig.model_validate(
        {"embedding": {"backend": "endpoint", "model": "m", "base_url": "http://h/v1/", "api_key_env": "EMB"}}
    ).embedding
    endpoint = embedding_endpoint(config, {"EMB": "sk-1"})
    assert endpoint is not None
    assert (endpoint.base_url, endpoint.api_key) == ("http://h/v1", "sk-1")
    assert "sk-1" not in repr(endpoint)
    with pytest.raises(ConfigError, match="EMB is not set"):
        embedding_endpoint(config, {})
    assert embedding_endpoint(KnowledgeConfig().embedding, {}) is None
    assert rerank_endpoint(RetrievalConfig().rerank, {}) is None


def test_a_missing_package_is_named_with_its_extra() -> None:
    try:
        import sentence_transformers  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match=r"pip install 'dlgforge\[dense\]'"):
            open_embedder("sentence_transformers", "m", None)
    with pytest.raises(ConfigError, match=r"knowledge\.embedding\.base_url"):
        open_embedder("endpoint", "m", None)
