"""Knowledge in a real Postgres: incremental indexing, retrieval in workers, and even use of documents."""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import psycopg
import pytest

from dlgforge_core.common import files
from dlgforge_core.common.plain_files import open_plain
from dlgforge_core.config import CoverageConfig, KnowledgeConfig, PostgresConfig, RetrievalConfig, validate
from dlgforge_core.database.connection import connect_async
from dlgforge_core.database.database import Database
from dlgforge_core.errors import BackendError, ConfigError, KnowledgeError
from dlgforge_core.knowledge.coverage import (
    Assignment,
    KnownUses,
    assign_document,
    coverage_counts,
    release_document,
    unused_languages,
)
from dlgforge_core.knowledge.endpoints import embedding_endpoint, rerank_endpoint
from dlgforge_core.knowledge.index_reader import IndexReader
from dlgforge_core.knowledge.index_store import index_documents, prune_indexes
from dlgforge_core.knowledge.indexing import index_knowledge
from dlgforge_core.knowledge.pool import Candidates, DocumentPool
from dlgforge_core.knowledge.retrieval import Knowledge, open_knowledge
from dlgforge_core.knowledge.types import Document, IndexReport
from dlgforge_core.store.run_store import RunStore
from tests.support.documents import pdf
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint

pytestmark = pytest.mark.anyio
KEY = "sk-knowledge-secret-1234"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "knowledge"
    place.mkdir()
    (place / "rent.md").write_text(
        "# Rent\n\nThe landlord returns the deposit when the keys are handed over."
    )
    (place / "bread.txt").write_text("Sourdough bread rises slowly when the kitchen is cold in winter.")
    (place / "pain.html").write_text("<p>Le pain au levain demande du temps, de la patience et un four.</p>")
    (place / "moon.pdf").write_bytes(pdf("The moon turns around the earth in twenty seven days."))
    lines = [
        {"id": "tides", "title": "المد", "text": "سبب المد والجزر هو جاذبية القمر ثم جاذبية الشمس."},
        {"id": "moho", "text": "El moho negro aparece en las esquinas de las paredes frías del dormitorio."},
    ]
    (place / "more.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\nnot json\n")
    return place


def index(store: RunStore, place: object, dataset: str = "", **keys: object) -> IndexReport:
    return index_knowledge(
        store.database, dataset, validate(KnowledgeConfig, {"path": str(place), **keys}, "knowledge")
    )


def opened(store: RunStore, index_id: str, dataset: str = "", **keys: object) -> Knowledge:
    retrieval = validate(RetrievalConfig, keys, "retrieval")
    return open_knowledge(store.database, dataset, index_id, retrieval)


def rows(store: RunStore, table: str) -> int:
    with store.connection() as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    assert row is not None
    return int(row[0])


# Indexing


def test_every_format_is_indexed_and_unchanged_files_are_not_read_again(
    store: RunStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = index(store, folder)
    assert (first.n_files, first.n_read, first.n_documents, first.n_broken) == (5, 5, 6, 1)
    assert first.problems[0].startswith("more.jsonl, line 3: not JSON")
    assert first.by_language == {"en": 3, "fr": 1, "ar": 1, "es": 1}
    assert first.built
    assert first.bytes > 0

    opens: list[str] = []

    def open_counted(path: str | Path) -> Any:
        opens.append(str(path))
        return open_plain(path)

    monkeypatch.setattr(files, "open_plain", open_counted)
    again = index(store, folder)
    assert opens == []
    assert (again.index_id, again.n_read, again.n_unchanged, again.built) == (first.index_id, 0, 5, False)
    assert again.problems == first.problems  # still there, though not read again

    (folder / "bread.txt").write_text("Sourdough bread rises quickly when the kitchen is warm.")
    (folder / "moon.pdf").unlink()
    changed = index(store, folder)
    assert [Path(path).name for path in opens] == ["bread.txt"]
    assert (changed.n_read, changed.n_unchanged, changed.n_removed, changed.n_documents) == (1, 3, 1, 5)
    assert changed.index_id != first.index_id
    assert latest_index(store, "") == changed.index_id


def test_the_same_documents_have_the_same_index_id_anywhere(
    store: RunStore, folder: Path, tmp_path: Path
) -> None:
    first = index(store, folder)
    elsewhere = tmp_path / "elsewhere"
    folder.rename(elsewhere)
    assert index(store, elsewhere, "other").index_id == first.index_id
    assert index(store, elsewhere, "other", chunk_chars=30, chunk_overlap_chars=5).index_id != first.index_id


def test_other_chunk_sizes_read_the_files_again(store: RunStore, folder: Path) -> None:
    index(store, folder)
    smaller = index(store, folder, chunk_chars=40, chunk_overlap_chars=10)
    assert smaller.n_read == 5
    assert smaller.n_chunks > 10


def test_an_earlier_index_stays_readable_until_it_is_pruned(store: RunStore, folder: Path) -> None:
    first = index(store, folder)
    (folder / "rent.md").unlink()
    second = index(store, folder)

    async def found(index_id: str) -> list[str]:
        async with opened(store, index_id) as knowledge:
            return [hit.chunk.document for hit in await knowledge.search("deposit", language="en")]

    assert asyncio.run(found(first.index_id)) == ["rent.md"]
    assert asyncio.run(found(second.index_id)) == []
    assert prune_indexes(store.database, "", keep=[first.index_id]) == 0
    chunks = rows(store, "knowledge_chunks")
    assert prune_indexes(store.database, "") == 1
    assert rows(store, "knowledge_chunks") == chunks - 1
    assert asyncio.run(found(second.index_id)) == []
    with pytest.raises(KnowledgeError, match="no knowledge index"):
        asyncio.run(found(first.index_id))


def latest_index(store: RunStore, dataset: str) -> str:
    """Return the id of the index that was made or confirmed last; empty when there is none."""
    with store.connection() as connection:
        row = connection.execute(
            "SELECT index_id FROM knowledge_indexes WHERE dataset = %s ORDER BY built_at DESC LIMIT 1",
            (dataset,),
        ).fetchone()
    return row[0] if row else ""


def test_datasets_do_not_share_what_they_know(store: RunStore, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "only.md").write_text("# Only\n\nThe deposit of the other dataset is not yours at all.")
    first, second = index(store, folder, "one"), index(store, other, "two")
    assert [d.name for d in index_documents(store.database, "two", second.index_id)] == ["only.md"]
    assert index_documents(store.database, "two", first.index_id) == []
    assert latest_index(store, "") == ""
    prune_indexes(store.database, "two", latest=0)
    assert latest_index(store, "one") == first.index_id
    assert rows(store, "knowledge_chunks") == first.n_chunks + 1  # `two` still has its document

    async def search() -> list[str]:
        async with opened(store, first.index_id, "one") as knowledge:
            return [hit.chunk.document for hit in await knowledge.search("deposit", language="en")]

    assert asyncio.run(search()) == ["rent.md"]


def test_a_file_that_cannot_be_fetched_keeps_what_was_read_of_it(
    store: RunStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = index(store, folder)
    (folder / "bread.txt").write_text("New text about bread that cannot be fetched.")

    def fail(*_: object, **__: object) -> None:
        raise PermissionError("no entry")

    with monkeypatch.context() as patch:
        patch.setattr(files, "open_plain", fail)
        report = index(store, folder)
    assert report.index_id == first.index_id
    assert any(p.startswith("bread.txt: it cannot be read: PermissionError") for p in report.problems)
    assert index(store, folder).n_read == 1  # tried again


def test_no_knowledge_and_no_readable_document(store: RunStore, tmp_path: Path) -> None:
    assert index_knowledge(store.database, "", KnowledgeConfig()) == IndexReport()
    (tmp_path / "bad.pdf").write_bytes(b"nothing")
    with pytest.raises(KnowledgeError, match=r"(?s)no document of .* can be read.*bad\.pdf"):
        index(store, tmp_path)


def test_documents_come_from_any_fsspec_address(store: RunStore) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/docs/deep/a.txt", b"The deposit is returned by the landlord within weeks.")
    try:
        report = index(store, "memory://docs")
        assert [d.name for d in index_documents(store.database, "", report.index_id)] == ["deep/a.txt"]
    finally:
        memory.rm("/docs", recursive=True)


def _index_in_process(arguments: tuple[str, str]) -> str:
    dsn, place = arguments
    return index_knowledge(Database(dsn), "", KnowledgeConfig(path=place)).index_id


def test_processes_that_index_at_once_make_one_index(store: RunStore, folder: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        ids = pool.map(_index_in_process, [(store.database.dsn, str(folder))] * 3)
    assert len(set(ids)) == 1
    assert rows(store, "knowledge_indexes") == 1
    assert rows(store, "knowledge_documents") == 6


def test_one_text_is_one_document_however_many_files_hold_it(store: RunStore, folder: Path) -> None:
    text = (folder / "rent.md").read_text()
    for name in ("a copy.md", "sub.txt", "z.md"):
        (folder / name).write_text(text.replace(" ", "  ") + "\n")
    report = index(store, folder)
    assert (report.n_documents, report.n_copies, report.n_broken) == (6, 3, 1)
    assert report.notes == ("a copy.md counts once, with the same text in rent.md, sub.txt, z.md",)
    names = [document.name for document in index_documents(store.database, "", report.index_id)]
    assert "a copy.md" in names
    assert "rent.md" not in names
    (folder / "a copy.md").unlink()
    again = index(store, folder)
    assert (again.n_read, again.n_documents, again.n_copies) == (0, 6, 2)
    assert "rent.md" in [document.name for document in index_documents(store.database, "", again.index_id)]


def test_formats_that_are_not_read_are_named(store: RunStore, folder: Path) -> None:
    for name in ("a.docx", "b.DOCX", "c.csv", "LICENSE"):
        (folder / name).write_text("x")
    report = index(store, folder)
    assert report.n_unknown == 4
    assert report.notes == (
        ".docx is not read: a.docx, b.DOCX",
        "a file without an ending is not read: LICENSE",
        ".csv is not read: c.csv",
    )


def test_the_settings_of_reading_read_the_files_again(store: RunStore, folder: Path) -> None:
    (folder / "more.jsonl").write_text('{"id": 1, "body": "The kettle is filled with fresh water."}')
    assert any("set knowledge.text_key" in problem for problem in index(store, folder).problems)
    report = index(store, folder, text_key="body", languages=["en"])
    assert (report.n_read, report.problems, report.by_language) == (5, (), {"en": 5})


def test_a_file_whose_state_nobody_tells_is_read_anew(
    store: RunStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index(store, folder)
    monkeypatch.setattr("dlgforge_core.common.files.file_state", lambda _: "")
    assert index(store, folder).n_read == 5
    assert index(store, folder).n_read == 5


# Retrieval


@pytest.mark.parametrize(
    ("query", "language", "document"),
    [
        ("Does the landlord return my deposits?", "en", "en/rental-deposit.md"),
        ("Why is the crumb of my loaf gummy?", "en-GB", "en/bread-at-home.md"),
        ("I pushed a password, what now?", "en", "en/git-in-daily-use.md"),
        ("Ma béchamel fait des grumeaux", "fr", "fr/sauces-de-base.md"),
        ("un orage eclate sur la crete", "fr", "fr/randonnee-en-montagne.md"),
        ("لماذا يلتصق الأرز بقاع القدر؟", "ar", "ar/rice-dishes.md"),
        ("كل كم ينبغي تنظيف مرشح المكيف؟", "Moroccan Arabic", "ar/air-conditioner-care.md"),
        ("A mis tomates se les pone negra la parte de abajo", "es-MX", "es/huerto-en-el-balcon.md"),
        ("¿Qué es una clave foránea?", None, "es/bases-de-datos.md"),
    ],
)
def test_the_shipped_documents_answer(
    shipped: tuple[RunStore, str], query: str, language: str | None, document: str
) -> None:
    store, index_id = shipped

    async def search() -> str:
        async with opened(store, index_id) as knowledge:
            return (await knowledge.search(query, k=1, language=language))[0].chunk.document

    assert asyncio.run(search()) == document


@pytest.fixture(scope="module")
def shipped(server_dsn: str) -> Iterator[tuple[RunStore, str]]:
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute("CREATE DATABASE shipped")
    store = RunStore(Database(server_dsn.replace("/dlgforge?", "/shipped?")))
    store.migrate()
    yield store, index(store, "shipped").index_id
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute("DROP DATABASE shipped WITH (FORCE)")


async def test_documents_chunks_and_relevance(shipped: tuple[RunStore, str]) -> None:
    store, index_id = shipped
    async with opened(store, index_id, top_k=4) as knowledge:
        assert knowledge.index_id == index_id
        arabic = knowledge.pool("Gulf Arabic").documents
        assert {document.language for document in arabic} == {"ar"}
        assert len(knowledge.pool("pt")) == len(knowledge.pool()) == 15
        (rent,) = [d for d in knowledge.pool("en").documents if d.name == "en/rental-deposit.md"]
        assert rent.title == "Getting a rental deposit back"
        chunks = await knowledge.chunks_of(rent.name)
        assert [chunk.ordinal for chunk in chunks] == list(range(rent.n_chunks))
        assert all(len(chunk.text) <= 800 for chunk in chunks)
        assert await knowledge.chunks([chunks[2].chunk_id, chunks[0].chunk_id]) == [chunks[2], chunks[0]]
        hits = await knowledge.search("deposit", language="en")
        assert len(hits) == 4
        assert hits[0].chunk.document == rent.name
        french = await knowledge.search("la pizza", pool=knowledge.pool("fr"))
        assert {hit.chunk.language for hit in french} == {"fr"}
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert await knowledge.search("  ", language="en") == []
        for pool in (knowledge.pool(), knowledge.pool("en")):
            fit = await knowledge.relevance("baking bread at home", "", pool, "en")
            assert pool.names[int(fit.relevance.argmax())] == "en/bread-at-home.md"
            hit, *_ = await knowledge.search("baking bread at home", pool=pool, language="en")
            assert fit.relevance_of("en/bread-at-home.md") == pytest.approx(hit.score)
            unknown = await knowledge.relevance("xyzzy", "", pool, "en")
            assert not unknown.relevance.any()
        with pytest.raises(KnowledgeError, match="has no document 'gone'"):
            await knowledge.chunks_of("gone")


async def test_equal_texts_are_found_once(store: RunStore, folder: Path) -> None:
    notice = "The landlord keeps the keys and the deposit until the flat is clean."
    for n in range(6):
        (folder / f"flat{n}.md").write_text(f"{notice}\n\nFlat number {n} has {n + 3} rooms and a balcony.")
    report = await asyncio.to_thread(index, store, folder, chunk_chars=80, chunk_overlap_chars=0)
    async with opened(store, report.index_id) as knowledge:
        hits = await knowledge.search("landlord keeps keys deposit flat", language="en")
    texts = [hit.chunk.text for hit in hits]
    assert texts[0] == notice
    assert len(set(texts)) == len(texts) == 3


async def test_documents_of_unknown_language_are_for_every_language(store: RunStore, tmp_path: Path) -> None:
    (tmp_path / "en.md").write_text("The landlord returns the deposit when the keys are handed over.")
    (tmp_path / "fr.md").write_text("Le propriétaire rend le dépôt de garantie à la remise des clés.")
    (tmp_path / "faq.md").write_text("# FAQ Q: Reset? A: Hold 5 s.")
    report = await asyncio.to_thread(index, store, tmp_path)
    assert report.by_language == {"en": 1, "fr": 1, "": 1}
    async with opened(store, report.index_id) as knowledge:
        for language, names in {"en": ["en.md", "faq.md"], "fr": ["faq.md", "fr.md"]}.items():
            pool = knowledge.pool(language)
            assert pool.names == names
            hits = await knowledge.search("reset", pool=pool, language=language)
            assert [hit.chunk.document for hit in hits] == ["faq.md"]
        assert len(knowledge.pool("de")) == 3
    counts = coverage_counts(store.database, "f", index_id=report.index_id, languages=["en-GB"])
    assert sorted(counts) == [("en.md", 0), ("faq.md", 0)]
    assert unused_languages(report.by_language, ["en"]) == {"fr": 1}
    assert unused_languages(report.by_language, ["en", "de"]) == {}


async def test_a_broken_connection_is_opened_again(shipped: tuple[RunStore, str]) -> None:
    store, index_id = shipped
    async with opened(store, index_id) as knowledge:
        with store.connection() as connection:
            killed = connection.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE application_name = 'dlgforge knowledge'"
            ).fetchone()
        assert killed is not None
        assert killed[0] >= 1
        assert await knowledge.search("deposit", language="en")


# Dense, hybrid, reranked


@pytest.fixture(scope="module")
def endpoint() -> Iterator[SimulatedEndpoint]:
    with simulated_endpoint(models=["m"], api_key=KEY, embedding_dimensions=512, record_requests=200) as sim:
        yield sim


def embedding(sim: SimulatedEndpoint, **keys: object) -> dict[str, object]:
    os.environ["TEST_KNOWLEDGE_KEY"] = KEY
    return {
        "backend": "endpoint",
        "model": "m",
        "base_url": sim.base_url,
        "api_key_env": "TEST_KNOWLEDGE_KEY",
        **keys,
    }


@pytest.fixture(autouse=True)
def _no_key_left() -> Iterator[None]:
    yield
    os.environ.pop("TEST_KNOWLEDGE_KEY", None)


async def test_dense_and_hybrid_search_by_an_endpoint(
    store: RunStore, folder: Path, endpoint: SimulatedEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    config = validate(
        KnowledgeConfig, {"path": str(folder), "embedding": embedding(endpoint, batch_size=4)}, "k"
    )
    report = await asyncio.to_thread(index_knowledge, store.database, "", config)
    assert report.n_embedded == 6
    (folder / "rent.md").write_text("# Rent\n\nWhoever pays late owes interest on the rent.")
    report = await asyncio.to_thread(index_knowledge, store.database, "", config)
    assert report.n_embedded == 1  # the other texts have their vectors
    server = embedding_endpoint(config.embedding)
    for mode in ("dense", "hybrid"):
        async with open_knowledge(
            store.database, "", report.index_id, RetrievalConfig(mode=mode), embedding=server
        ) as knowledge:
            hits = await knowledge.search("bread that rises slowly in the cold kitchen", language="en")
            assert hits[0].chunk.document == "bread.txt", mode
            if mode == "hybrid":
                assert hits[0].score == pytest.approx(2 / 61)
            french = await knowledge.search("bread in the kitchen", pool=knowledge.pool("fr"), language="en")
            assert {hit.chunk.document for hit in french} <= {"pain.html"}
            endpoint.configure(retrieval_faults={"500": 1.0})
            try:
                with caplog.at_level(logging.WARNING):
                    hits = await knowledge.search("bread that rises slowly", language="en")
            finally:
                endpoint.configure(retrieval_faults={})
            assert hits[0].chunk.document == "bread.txt"  # by words
    assert "the search goes on without" in caplog.text
    assert KEY not in caplog.text
    with store.connection() as connection:
        dump = str(connection.execute("SELECT settings FROM knowledge_indexes").fetchall())
    assert KEY not in dump


async def test_a_dense_search_without_vectors_is_refused(store: RunStore, folder: Path) -> None:
    report = await asyncio.to_thread(index, store, folder)
    with pytest.raises(KnowledgeError, match=r"the knowledge index has no vectors: set knowledge\.embedding"):
        async with opened(store, report.index_id, mode="dense"):
            pass
    with pytest.raises(ConfigError, match="no endpoint was given"):
        async with opened(
            store, report.index_id, rerank={"backend": "endpoint", "base_url": "http://127.0.0.1:1/v1"}
        ):
            pass


def test_embeddings_that_fail_say_so_and_go_on_where_they_stopped(
    store: RunStore, folder: Path, endpoint: SimulatedEndpoint
) -> None:
    endpoint.configure(embedding_batch=2)
    try:
        with pytest.raises(BackendError, match=r"the embedding endpoint .* status 400: .*at most 2") as noted:
            index(store, folder, embedding=embedding(endpoint, batch_size=4))
        assert KEY not in str(noted.value)
        # The last two texts went in a call of their own, which may have been quicker than the refusal.
        assert index(store, folder, embedding=embedding(endpoint, batch_size=2)).n_embedded in (4, 6)
    finally:
        endpoint.configure(embedding_batch=None)


async def test_a_reranker_orders_the_candidates(
    store: RunStore, folder: Path, endpoint: SimulatedEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "long.md").write_text("Bread. " * 20)  # first by BM25; the reranker counts the query's words
    report = await asyncio.to_thread(index, store, folder)
    rerank = {**embedding(endpoint), "candidates": 5, "backend": "endpoint"}
    retrieval = validate(RetrievalConfig, {"top_k": 1, "rerank": rerank}, "retrieval")
    query = "bread bread kitchen cold winter sourdough"
    async with open_knowledge(
        store.database,
        "",
        report.index_id,
        retrieval,
        reranker=rerank_endpoint(retrieval.rerank),
    ) as knowledge:
        (hit,) = await knowledge.search(query, language="en")
        assert hit.chunk.document == "bread.txt"
        assert hit.score == pytest.approx(1.0)
        sent = endpoint.requests("/v1/rerank")[-1]
        assert sent["authorization"]
        assert sent["body"]["query"] == query
        endpoint.configure(retrieval_faults={"reset": 1.0})
        try:
            with caplog.at_level(logging.WARNING):
                hits = await knowledge.search(query, language="en")
        finally:
            endpoint.configure(retrieval_faults={})
        assert len(hits) == 1
        assert "reranking failed; the search goes on without" in caplog.text
        assert KEY not in caplog.text


# Coverage

EVEN = CoverageConfig(doc_coverage_epsilon=0.0)
FORTY = [f"d{n:02}" for n in range(40)]


def candidates(relevance: Mapping[str, float]) -> Candidates:
    names = sorted(relevance)
    pool = DocumentPool([Document(name, "", "", 1) for name in names])
    return Candidates(pool, np.array([relevance[name] for name in names], np.float32))


async def _work(dsn: str, worker: int, dialogues: int) -> None:
    reader = IndexReader(Database(dsn), "")

    async def one(n: int) -> None:
        # A topic fits a few documents well, and few topics fit most of them.
        relevance = {name: float((i * i + n) % 7 == 0) + i / 100 for i, name in enumerate(FORTY)}
        await reader.run(
            lambda connection: assign_document(
                connection, "f", f"w{worker}-{n}", candidates(relevance), coverage=EVEN, seed=1
            )
        )

    try:
        for start in range(0, dialogues, 10):
            await asyncio.gather(*(one(n) for n in range(start, min(start + 10, dialogues))))
    finally:
        await reader.aclose()


def _worker(arguments: tuple[str, int, int]) -> None:
    asyncio.run(_work(*arguments))


def test_four_workers_use_forty_documents_evenly(store: RunStore) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.map(_worker, [(store.database.dsn, worker, 500) for worker in range(4)], chunksize=1)
    with store.connection() as connection:
        counts = dict(coverage_counts(store.database, "f"))
        noted = connection.execute("SELECT document, nth FROM knowledge_assignments").fetchall()
    assert sum(counts.values()) == 2000
    assert len(counts) == 40
    assert (max(counts.values()) - min(counts.values())) / 50 <= 0.10
    # No count was lost: each document was given for the first time, the second time, and so on, once.
    assert Counter(noted) == Counter((name, nth) for name, uses in counts.items() for nth in range(uses))


async def test_a_dialogue_keeps_its_document_until_it_is_released(store: RunStore) -> None:
    connection = await connect_async(store.database.dsn, PostgresConfig())
    async with connection:
        two = candidates({"a": 1.0, "b": 0.5})
        first = await assign_document(connection, "f", "x", two, coverage=EVEN, seed=1)
        again = await asyncio.gather(
            assign_document(connection, "f", "x", candidates({"c": 9.0}), coverage=EVEN, seed=2)
        )
        assert (first.document, first.nth) == ("a", 0)
        assert list(again) == [first]
        await release_document(connection, "f", "x")
        await release_document(connection, "f", "x")
        await release_document(connection, "f", "never")
        assert coverage_counts(store.database, "f") == []
        assert (await assign_document(connection, "f", "y", two, coverage=EVEN, seed=1)) == first
        assert (await assign_document(connection, "g", "y", two, coverage=EVEN, seed=1)) == first
        with pytest.raises(ValueError, match="no documents to choose from"):
            await assign_document(connection, "f", "z", candidates({}), coverage=EVEN, seed=1)


async def test_one_dialogue_assigned_by_many_at_once_is_counted_once(shipped: tuple[RunStore, str]) -> None:
    store, index_id = shipped
    async with opened(store, index_id) as one, opened(store, index_id) as two:
        french = Candidates(one.pool("fr"), np.ones(len(one.pool("fr")), np.float32))
        given = await asyncio.gather(
            *(
                knowledge.assign_document("many", "x", french, coverage=EVEN, seed=1)
                for knowledge in (one, two) * 8
            )
        )
    assert len(set(given)) == 1
    counts = coverage_counts(store.database, "many", index_id=index_id)
    assert counts[0] == (given[0].document, 1)
    assert len(counts) == 15
    assert [uses for _, uses in counts[1:]] == [0] * 14


async def test_two_workers_meet_in_any_order_without_deadlock(shipped: tuple[RunStore, str]) -> None:
    store, index_id = shipped
    async with opened(store, index_id) as one, opened(store, index_id) as two:

        async def work(knowledge: Knowledge, tag: str, order: int) -> None:
            pool = knowledge.pool("en")
            for n in range(40):
                wanted = Candidates(pool, order * np.arange(len(pool), dtype=np.float32))
                await knowledge.assign_document("meet", f"{tag}{n}", wanted, coverage=EVEN, seed=1)
                if n % 3 == 0:
                    await knowledge.release_document("meet", f"{tag}{n}")

        started = time.monotonic()
        await asyncio.gather(work(one, "a", 1), work(two, "b", -1))
    assert time.monotonic() - started < 30
    assert sum(uses for _, uses in coverage_counts(store.database, "meet")) == 2 * (40 - 14)


async def test_many_documents_are_used_evenly_by_workers_that_do_not_see_each_other(store: RunStore) -> None:
    """More documents than are looked up for each dialogue, all dialogues about the same few."""
    n, pools = 700, 3
    names = {f"d{i:03}": float(max(0, i - 600)) for i in range(n)}
    workers = [
        (await connect_async(store.database.dsn, PostgresConfig()), candidates(names)) for _ in range(pools)
    ]
    known = [KnownUses(fitting.pool) for _, fitting in workers]
    given: list[Assignment] = []
    for i in range(2 * n):
        connection, fitting = workers[i % pools]
        given.append(
            await assign_document(
                connection, "f", f"x{i}", fitting, coverage=EVEN, seed=1, known=known[i % pools]
            )
        )
        if i == n // 2:  # one is given back, and only one worker knows
            released = await release_document(connection, "f", f"x{i}")
            known[i % pools].add(released, -1)
    for connection, _ in workers:
        await connection.close()
    uses = Counter(assignment.document for assignment in given)
    counts = dict(coverage_counts(store.database, "f"))
    assert sum(counts.values()) == 2 * n - 1
    assert set(counts.values()) <= {1, 2, 3}
    assert list(counts.values()).count(2) >= n - 150  # room for some that were used once more
    assert uses[released] in (2, 3)
    # The fittest are taken first.
    assert {assignment.document for assignment in given[:50]} == {f"d{i}" for i in range(650, 700)}
