"""Near-copies among a million questions: `python -m bench.near_duplicates`.

Questions (bench/questions.py: in six languages, or of a narrow vocabulary) are reserved by one worker, 512
dialogues at once, each with its next question as soon as all have an answer: a worker's own path, from
`WorkerStore.reserve` on, with nothing else written meanwhile. One in twenty is a planted near-copy of a
question that was kept before, drawn from a sample of 20,000 of them; some of these are changed until they are
hardly above the threshold. Similarities are worked out anew here, from the definition. CPU milliseconds are
those of a reservation in the worker and in the Postgres process that serves it. Stops by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import random
import statistics
import time
from dataclasses import dataclass, field

import psutil
import uvloop

from bench.fixture import fresh_store
from bench.memory import rss_mb
from bench.questions import NEAR_COPIES, VOCABULARIES
from dlgforge_core.common.questions import normal_form
from dlgforge_core.config import GenerationConfig, RunConfig
from dlgforge_core.store.near_duplicates import banding_for
from dlgforge_core.store.reservations import Reservation
from dlgforge_core.store.run_store import RunStore
from dlgforge_core.store.worker_store import WorkerStore
from tests.support.runs import prepared

DIALOGUES = 512
SAMPLE = 20_000
PLANTED = 0.05
BLOCKS = 10
SEVERAL = "several changes"
PROBES = 2000


def pieces(text: str) -> set[str]:
    """Return the shingles of a question, by their definition."""
    padded = f" {normal_form(text)} "
    widths = (2 if "\u3040" <= c <= "\u30ff" or "\u3400" <= c <= "\u9fff" else 3 for c in padded)
    return {padded[i : i + n] for i, n in enumerate(widths) if i + n <= len(padded)}


def similarity(one: str, other: str) -> float:
    """Return the Jaccard similarity of two questions."""
    a, b = pieces(one), pieces(other)
    return len(a & b) / len(a | b)


@dataclass(frozen=True)
class Asked:
    """A question, and for a planted one how it was made and how similar it is to its original."""

    language: str
    text: str
    kind: str = ""
    similarity: float = 0.0


@dataclass
class Asker:
    """Makes the questions, and keeps the tally of what became of them."""

    threshold: float
    draw: random.Random
    vocabulary: str = "templates"
    kept: list[tuple[str, str]] = field(default_factory=list)
    n_kept: int = 0
    refused: int = 0
    false_refusals: int = 0
    found: collections.Counter[str] = field(default_factory=collections.Counter)
    planted: collections.Counter[str] = field(default_factory=collections.Counter)
    below: int = 0

    def next(self) -> Asked:
        """Return a new question, or a near-copy of one that was kept."""
        if self.kept and self.draw.random() < PLANTED:
            return self.near_copy()
        return self.question()

    def question(self) -> Asked:
        """Return a new question."""
        return Asked(*VOCABULARIES[self.vocabulary](self.draw))

    def near_copy(self) -> Asked:
        """Return a near-copy of a question that was kept."""
        language, original = self.draw.choice(self.kept)
        kind = self.draw.choice([*NEAR_COPIES, *[SEVERAL] * (len(NEAR_COPIES) // 4)])
        if kind != SEVERAL:
            text = NEAR_COPIES[kind](original, language, self.draw)
            return Asked(language, text, kind, similarity(text, original))
        text, alike = original, 1.0
        while alike >= self.threshold + 0.05:
            before, text = (
                text,
                NEAR_COPIES[self.draw.choice(["typo", "word swapped"])](text, language, self.draw),
            )
            alike = similarity(text, original)
        # The last change may have gone too far.
        return max(
            (Asked(language, one, kind, similarity(one, original)) for one in (before, text)),
            key=lambda asked: (asked.similarity >= self.threshold, -asked.similarity),
        )

    def count(self, asked: Asked, result: Reservation) -> None:
        """Take note of an answer."""
        if result:
            self.n_kept += 1
            if not asked.kind:
                self._sample(asked)
        else:
            self.refused += 1
            self.false_refusals += similarity(asked.text, result.collides_with) < self.threshold
        if asked.kind:
            if asked.similarity < self.threshold:
                self.below += 1
                return
            exact = "of that the same normal form" if asked.similarity == 1.0 else None
            near = "0.8 to 0.85" if 0.8 <= asked.similarity < 0.85 else None
            for label in filter(None, ("all", asked.kind, exact, near)):
                self.planted[label] += 1
                self.found[label] += not result

    def _sample(self, asked: Asked) -> None:
        # Reservoir sampling: every question kept so far is in the sample with the same probability.
        if len(self.kept) < SAMPLE:
            self.kept.append((asked.language, asked.text))
        elif (place := self.draw.randrange(self.n_kept)) < SAMPLE:
            self.kept[place] = (asked.language, asked.text)


@dataclass
class Clock:
    """Seconds and CPU seconds spent on reservations: those of the bench itself are left out by `pause`."""

    servers: list[psutil.Process]
    wall_s: float = 0.0
    client_s: float = 0.0
    server_s: float = 0.0

    def start(self) -> None:
        """Begin, or go on."""
        self.wall_s -= time.monotonic()
        self.client_s -= time.process_time()
        self.server_s -= self._server()

    def pause(self) -> None:
        """Stop counting."""
        self.wall_s += time.monotonic()
        self.client_s += time.process_time()
        self.server_s += self._server()

    def _server(self) -> float:
        return sum(t.user + t.system for t in (server.cpu_times() for server in self.servers))


@dataclass
class Bench:
    """One worker that reserves questions for its dialogues."""

    worker: WorkerStore
    asker: Asker
    dialogues: list[str]
    servers: list[psutil.Process]
    turn: int = 1

    async def load(self, questions: int, limit_s: float) -> None:
        """Ask so many questions, or for so long."""
        started = time.monotonic()
        done = mark = 0
        block = questions // BLOCKS
        first_rss = rss_mb()
        clock = Clock(self.servers)
        print("     asked     kept  refused  seconds  a second  client_ms  postgres_ms  rss_mb")
        while done < questions and time.monotonic() - started < limit_s:
            asked = [self.asker.next() for _ in range(min(DIALOGUES, questions - done))]
            clock.start()
            results = await asyncio.gather(
                *[
                    self.worker.reserve(dialogue, self.turn, one.text)
                    for dialogue, one in zip(self.dialogues, asked, strict=False)
                ]
            )
            clock.pause()
            self.turn += 1
            for one, result in zip(asked, results, strict=True):
                self.asker.count(one, result)
            done += len(asked)
            if done - mark >= block or done == questions:
                n = done - mark
                print(
                    f"{done:10}  {self.asker.n_kept:7}  {self.asker.refused:7}  "
                    f"{time.monotonic() - started:7.0f}  {n / clock.wall_s:8.0f}  "
                    f"{1000 * clock.client_s / n:9.2f}  {1000 * clock.server_s / n:11.2f}  {rss_mb():6.1f}",
                    flush=True,
                )
                first_rss = first_rss if mark else rss_mb()
                mark, clock = done, Clock(self.servers)
        print(f"resident memory since the first {block}: {rss_mb() - first_rss:+.1f} MB")

    async def probe(self, *, near: bool) -> None:
        """Time single reservations: near-copies (a look-up alone), or new questions (which are kept too)."""
        times = []
        for n in range(PROBES):
            asked = self.asker.near_copy() if near else self.asker.question()
            started = time.perf_counter()
            result = await self.worker.reserve(self.dialogues[n % DIALOGUES], self.turn, asked.text)
            took = time.perf_counter() - started
            self.turn += n % DIALOGUES == DIALOGUES - 1
            if bool(result) != near:
                times.append(1000 * took)
        times.sort()
        print(
            f"one at a time, {'refused' if near else 'kept'} ({len(times)}): median "
            f"{statistics.median(times):.2f} ms, p99 {times[int(0.99 * len(times))]:.2f} ms"
        )


def print_sizes(store: RunStore) -> None:
    """Report what the questions take in Postgres."""
    with store.connection() as connection:
        row = connection.execute(
            "SELECT pg_database_size(current_database()), pg_table_size('questions'), "
            "pg_table_size('question_log'), pg_relation_size('questions_pkey'), "
            "pg_relation_size('questions_dialogue') FROM questions LIMIT 1"
        ).fetchone()
    assert row is not None
    names = ("database", "questions", "log", "index of keys", "index of dialogues")
    print(", ".join(f"{name} {size / 2**20:.0f} MB" for name, size in zip(names, row, strict=True)))


def servers(store: RunStore) -> list[psutil.Process]:
    """Return the processes of Postgres that serve the worker."""
    with store.connection() as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'dlgforge worker'"
        ).fetchall()
    return [psutil.Process(pid) for (pid,) in rows]


async def measure(store: RunStore, questions: int, threshold: float, vocabulary: str, limit_s: float) -> None:
    """Load, probe, and print."""
    run = prepared(
        store,
        GenerationConfig(run=RunConfig(total_samples=DIALOGUES, target_languages=["en"], n_turns=1)),
    )
    worker = WorkerStore(
        store.database,
        run_id=run.run_id,
        fingerprint=run.fingerprint,
        lease_s=3600.0,
        similarity_threshold=threshold,
    )
    async with worker:
        dialogues = [claim.plan.dialogue_id for claim in await worker.claim(DIALOGUES)]
        # Opens the connection whose server process is watched.
        await worker.reserve(dialogues[0], 0, "Is anybody there?")
        bench = Bench(worker, Asker(threshold, random.Random(1), vocabulary), dialogues, servers(store))
        await bench.load(questions, limit_s)
        asker = bench.asker
        for label, planted in asker.planted.most_common():
            print(f"planted near-copies, {label}: {asker.found[label] / planted:.4f} of {planted} refused")
        print(
            f"planted below the threshold: {asker.below}; refused, planted or not: {asker.refused}, of these "
            f"{asker.false_refusals} less similar than the threshold to what they were said to collide with"
        )
        print_sizes(store)
        await bench.probe(near=True)
        await bench.probe(near=False)


def main() -> None:
    """Print the load by blocks, the recall, and the latencies."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=int, default=1_000_000)
    parser.add_argument("--threshold", type=float, default=0.8, help="1: exact repeats only")
    parser.add_argument("--vocabulary", choices=list(VOCABULARIES), default="templates")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds after which to stop loading")
    arguments = parser.parse_args()
    if arguments.threshold < 1:
        banding = banding_for(arguments.threshold)
        print(f"threshold {arguments.threshold}: {banding.bands} bands of {banding.rows} rows")
    with fresh_store("bench") as store, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(
            measure(store, arguments.questions, arguments.threshold, arguments.vocabulary, arguments.limit)
        )


if __name__ == "__main__":
    main()
