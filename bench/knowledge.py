"""The knowledge index at 100,000 chunks: building, loading and searching it, and giving documents out.

python -m bench.knowledge
python -m bench.knowledge --documents 1000
python -m bench.knowledge --one-chunk --documents 100000
python -m bench.knowledge --citations
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import re
import statistics
import tempfile
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path

import numpy as np

from bench.fixture import fresh_store, peak_mb
from bench.memory import rss_mb
from dlgforge_core.config import CoverageConfig, KnowledgeConfig, RetrievalConfig
from dlgforge_core.dialogue import DialoguePlan, Persona
from dlgforge_core.generation.grounding import Anchor, Grounding
from dlgforge_core.knowledge.chunking import chunk_spans
from dlgforge_core.knowledge.citations import CITED_FROM, support
from dlgforge_core.knowledge.dense import DenseIndex
from dlgforge_core.knowledge.embedding import normalised
from dlgforge_core.knowledge.folder import KnowledgeFolder
from dlgforge_core.knowledge.indexing import index_knowledge
from dlgforge_core.knowledge.lexical import best
from dlgforge_core.knowledge.retrieval import Knowledge, open_knowledge
from dlgforge_core.planning.seeds import read_seeds
from dlgforge_core.store.run_store import RunStore

_CHARS_OF_DOCUMENT = 5_760  # some nine chunks
_CHARS_OF_CHUNK = 400
_NEW_WORDS = 60_000  # of each language: names, rare words, typos


def shipped() -> dict[str, list[str]]:
    """Return the shipped documents' texts by language."""
    folder = KnowledgeFolder("shipped")
    texts: dict[str, list[str]] = {}
    for file in folder.files():
        with folder.open(file) as stream:
            texts.setdefault(file.name.split("/")[0], []).append(stream.read().decode())
    return texts


def documents(n: int, seed: int = 1, *, one_chunk: bool = False) -> Iterator[dict[str, str]]:
    """Documents of the shipped ones' sentences, with a tenth of their words exchanged for rare ones.

    With `one_chunk` they are short, and all in English.
    """
    chars = _CHARS_OF_CHUNK if one_chunk else _CHARS_OF_DOCUMENT
    generator = random.Random(seed)
    sentences = {
        language: [s for text in texts for s in re.split(r"(?<=[.!?؟])\s+", text) if s]
        for language, texts in shipped().items()
    }
    languages = ["en"] if one_chunk else sorted(sentences)
    for number in range(n):
        language = languages[number % len(languages)]
        size, parts = 0, list[str]()
        while size < chars:
            words = generator.choice(sentences[language]).split()
            for at in range(len(words)):
                if generator.random() < 0.1:
                    # Few of them often, most of them seldom, as words are.
                    rank = int(_NEW_WORDS ** generator.random())
                    words[at] = f"{words[at][:3]}{_spelt(rank, language)}"
            parts.append(" ".join(words))
            size += len(parts[-1]) + 1
        yield {"id": str(number), "title": f"Document {number}", "text": " ".join(parts)}


def _spelt(number: int, language: str) -> str:
    letters = "ابتثجحخدذرزسشصضطظعغفقكلمنهوي" if language == "ar" else "abcdefghijklmnopqrstuvwxyz"
    word = ""
    while number:
        number, rest = divmod(number, len(letters))
        word += letters[rest]
    return word


def queries(n: int, seed: int = 2) -> list[tuple[str, str]]:
    """Questions of four to twelve words that follow one another in a shipped document, and their language."""
    generator = random.Random(seed)
    texts = [(text.split(), language) for language, all_ in shipped().items() for text in all_]
    made = []
    for _ in range(n):
        words, language = generator.choice(texts)
        length = generator.randint(4, 12)
        start = generator.randrange(len(words) - length)
        made.append((" ".join(words[start : start + length]), language))
    return made


def show(name: str, seconds: list[float]) -> None:
    """Print median and 99th percentile."""
    ms = sorted(1000 * s for s in seconds)
    print(f"{name}: median {statistics.median(ms):.2f} ms, p99 {ms[int(0.99 * len(ms))]:.2f} ms", flush=True)


def build(store: RunStore, n_documents: int, one_chunk: bool) -> str:
    """Index the documents twice, the second time with nothing changed; returns the index' id."""
    with tempfile.TemporaryDirectory(prefix="dlgforge-bench-") as place:
        with Path(place, "all.jsonl").open("w", encoding="utf-8") as file:
            for document in documents(n_documents, one_chunk=one_chunk):
                file.write(json.dumps(document, ensure_ascii=False) + "\n")
        # Only these are told apart: all that are known would take most of the time.
        config = KnowledgeConfig(path=place, languages=["en"] if one_chunk else sorted(shipped()))
        before = rss_mb()
        cpu = time.process_time()
        report = index_knowledge(store.database, "", config)
        cpu = time.process_time() - cpu
        print(f"load average {os.getloadavg()[0]:.1f}")
        print(
            f"built: {report.n_documents:,} documents, {report.n_chunks:,} chunks in {report.seconds:.1f} s "
            f"({cpu:.1f} s of CPU here), peak memory {peak_mb():.0f} MB (before: {before:.0f} MB), "
            f"index {report.bytes / 2**20:.0f} MiB",
            flush=True,
        )
        again = index_knowledge(store.database, "", config)
        assert again.index_id == report.index_id
        assert again.n_read == 0
        print(f"nothing changed: {again.seconds:.2f} s")
    return report.index_id


async def search(store: RunStore, index_id: str, n: int) -> None:
    """Load the index as a worker does, and search it."""
    gc.collect()
    before, started = rss_mb(), time.monotonic()
    async with open_knowledge(store.database, "", index_id, RetrievalConfig()) as knowledge:
        print(f"loaded in {time.monotonic() - started:.2f} s, RSS +{rss_mb() - before:.0f} MB")
        asked = queries(n)
        await knowledge.search(*asked[0][:1])
        alone, within = list[float](), list[float]()
        cpu = time.process_time()
        for query, language in asked:
            alone.append(await timed(knowledge.search(query, language=language)))
        cpu = time.process_time() - cpu
        for query, language in asked:
            pool = knowledge.pool(language)
            within.append(await timed(knowledge.search(query, language=language, pool=pool)))
        show("search, all documents", alone)
        print(
            f"  CPU of this process: {1000 * cpu / len(asked):.2f} ms each, the client of Postgres included"
        )
        show(f"search, the {len(knowledge.pool('en')):,} documents of one language", within)
        held = await longest_hold(knowledge, asked)
        print(f"event loop held at most {1000 * held:.1f} ms while 8 searches ran at once")
        await grounding(knowledge, min(n, 500))


async def timed(call: Awaitable[object]) -> float:
    """Seconds of one call, which begins when it is awaited."""
    started = time.perf_counter()
    await call
    return time.perf_counter() - started


async def longest_hold(knowledge: Knowledge, asked: list[tuple[str, str]]) -> float:
    """Return the longest time for which nothing else ran on the event loop during searches."""
    longest, done = 0.0, False

    async def watch() -> None:
        nonlocal longest
        while not done:
            started = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - started)

    async def run(part: list[tuple[str, str]]) -> None:
        for query, language in part:
            await knowledge.search(query, language=language)

    watcher = asyncio.create_task(watch())
    await asyncio.gather(*(run(asked[start::8]) for start in range(8)))
    done = True
    await watcher
    return longest


async def grounding(knowledge: Knowledge, n: int) -> None:
    """Ask for what the engine does: a document and its chunks a dialogue, passages a turn."""
    engine = Grounding(knowledge, "bench", seed=1, coverage=CoverageConfig(), top_k=3)
    topics = [topic for batch in read_seeds("", strict=True) for topic in batch.topics]
    nobody = Persona("p", "p", "")
    plans = [DialoguePlan(f"x{i}", i, "en", 3, topics[i % len(topics)], nobody, nobody) for i in range(n)]
    await engine.anchor(plans.pop())  # the first one reads all counts
    cpu, anchors, seconds = time.process_time(), list[Anchor](), list[float]()
    for plan in plans:
        started = time.perf_counter()
        anchors.append(await engine.anchor(plan))
        seconds.append(time.perf_counter() - started)
    show(f"a dialogue's document, of {len(knowledge.pool('en')):,}", seconds)
    print(f"  CPU of this process: {1000 * (time.process_time() - cpu) / len(plans):.2f} ms each")
    cpu, seconds = time.process_time(), list[float]()
    for plan, anchor in zip(plans, anchors, strict=True):
        question = plan.topic.question or plan.topic.topic
        seconds.append(await timed(engine.passages(plan, question, anchor.evidence[0])))
    show("a turn's passages", seconds)
    print(f"  CPU of this process: {1000 * (time.process_time() - cpu) / len(plans):.2f} ms each")


def dense(n_chunks: int, dimensions: int, n: int) -> None:
    """Exact search among random vectors; its time does not depend on what they are."""
    generator = np.random.default_rng(1)
    index = DenseIndex(normalised(generator.standard_normal((n_chunks, dimensions), np.float32)))
    asked = normalised(generator.standard_normal((n, dimensions), np.float32))
    half = np.zeros(n_chunks, np.bool_)
    half[: n_chunks // 10] = True
    for name, mask in ((f"dense, {dimensions} dimensions", None), ("  a tenth of the documents", half)):
        seconds = []
        for vector in asked:
            started = time.perf_counter()
            best(index.scores(vector, mask), 3)
            seconds.append(time.perf_counter() - started)
        show(name, seconds)
    print(f"  vectors in memory: {n_chunks * dimensions * 4 / 2**20:.0f} MiB")


def citations() -> None:
    """How `support` tells the passage a sentence was taken from, shortened, from others on its subject."""
    generator = random.Random(3)
    own, neighbour, other = list[float](), list[float](), list[float]()
    by_language = shipped()
    for language, texts in by_language.items():
        cut = [[t[a:b] for a, b in chunk_spans(t, 800, 0)] for t in texts]
        for which, chunks in enumerate(cut):
            for at, chunk in enumerate(chunks):
                for sentence in re.split(r"(?<=[.!?؟])\s+", chunk):
                    words = [w for w in sentence.split() if generator.random() < 0.8]
                    if len(words) < 8:
                        continue
                    answer = " ".join(words)
                    own.append(support(answer, chunk, language))
                    neighbour += [support(answer, c, language) for i, c in enumerate(chunks) if i != at]
                    other.append(support(answer, generator.choice(cut[which - 1]), language))
    for name, scores in (
        ("its own, every fifth word left out", own),
        ("others of the same document", neighbour),
        ("of another document", other),
    ):
        share = sum(s >= CITED_FROM for s in scores) / len(scores)
        print(f"{name}: median {statistics.median(scores):.2f}, cited {share:.1%} of {len(scores):,}")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, default=10_800)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--one-chunk", action="store_true", help="short documents, all in English")
    parser.add_argument("--citations", action="store_true")
    arguments = parser.parse_args()
    if arguments.citations:
        citations()
        return
    with fresh_store("bench") as store:
        index_id = build(store, arguments.documents, arguments.one_chunk)
        asyncio.run(search(store, index_id, arguments.queries))
    if arguments.one_chunk:
        return
    for dimensions in (384, 1024):
        dense(100_000, dimensions, 200)


if __name__ == "__main__":
    main()
