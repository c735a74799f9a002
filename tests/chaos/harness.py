"""Killing workers and counting what it cost, exactly.

A call is known by the sampling seed in its request, which the engine derives from dialogue, turn, role and
attempt. Of every call the endpoint accepted, Postgres tells whether its result is durable: a question is by
its draft or its turn, an answer likewise, a verdict by its turn. A call is *in flight* at a kill when the
endpoint has accepted it and its result is not durable once the dead worker's sessions are gone. Most of
these are being served at that moment; the others were answered, and their result was on its way to Postgres.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlgforge_core.common.questions import question_key
from dlgforge_core.config import GenerationConfig
from dlgforge_core.dialogue import Role
from dlgforge_core.generation.prepare import PreparedRun
from dlgforge_core.scheduling.call_seed import call_seed
from dlgforge_core.store.run_store import RunStore
from tests.support.postgres import wait_for_sessions_to_end
from tests.support.processes import kill
from tests.support.simulated_endpoint import SimulatedEndpoint

_ROOT = Path(__file__).resolve().parents[2]
_ATTEMPTS = 4  # questions asked for one turn at most, by default


class Driver:
    """A worker process; see tests.chaos.driver."""

    def __init__(
        self,
        store: RunStore,
        plan: dict[str, Any],
        endpoints: dict[str, str],
        dies: tuple[str, int] | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.driver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
        )
        assert self.process.stdin is not None
        task = {"dsn": store.database.dsn, "plan": plan, "endpoints": endpoints, "dies": dies}
        self.process.stdin.write(json.dumps(task).encode() + b"\n")
        self.process.stdin.flush()

    def expect(self, line: str, timeout_s: float = 60.0) -> None:
        """Wait until the driver prints `line`; fails the test when it does not."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], timeout_s)
        message = self.process.stdout.readline() if ready else b"nothing"
        assert message == line.encode() + b"\n", f"the driver wrote {message!r} in {timeout_s} s, not {line}"

    def finish(self, timeout_s: float = 60.0) -> None:
        """Wait until it has done all there is; fails the test when it does not or fails."""
        self.expect("done", timeout_s)
        assert self.process.wait(60) == 0

    def die(self, timeout_s: float = 60.0) -> None:
        """Wait until it has killed itself."""
        assert self.process.wait(timeout_s) == -signal.SIGKILL

    def stop(self) -> None:
        """SIGSTOP, and wait until the process stands still."""
        os.kill(self.process.pid, signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)

    def go_on(self) -> None:
        """SIGCONT."""
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        kill(self.process)


@contextlib.contextmanager
def driver(
    store: RunStore, plan: dict[str, Any], dies: tuple[str, int] | None = None, **sims: SimulatedEndpoint
) -> Iterator[Driver]:
    """Yield a driver on the plan and endpoints; it is gone when the block is left.

    It `dies` at a point, for the nth time; see tests.chaos.deaths.
    """
    made = Driver(store, plan, {name: sim.base_url for name, sim in sims.items()}, dies)
    try:
        yield made
    finally:
        made.kill()


@dataclass(frozen=True)
class Call:
    """What a call was for. `step` is the role's value."""

    dialogue_id: str
    turn_index: int
    step: str


class SharedSeedError(AssertionError):
    """Calls of a plan cannot be told apart by their seeds."""


class Book:
    """Tells what each call of a run was for, and which results are durable."""

    def __init__(self, store: RunStore, run: PreparedRun) -> None:
        self._read(store, run.run_id, run.generation.run.seed)

    @classmethod
    def of_job(cls, store: RunStore) -> Book:
        """Return the book of the latest run of a job, whose configuration has no seed of its own."""
        record = store.run()
        assert record is not None
        book = cls.__new__(cls)
        book._read(store, record.run_id, GenerationConfig().run.seed)
        return book

    def _read(self, store: RunStore, run_id: str, seed: int) -> None:
        self._store = store
        self.run_id = run_id
        with store.connection() as connection:
            self.plans: dict[str, int] = dict(
                connection.execute(
                    "SELECT dialogue_id, n_turns FROM dialogues JOIN run_plans USING (plan_id) "
                    "WHERE run_id = %s",
                    (run_id,),
                ).fetchall()
            )
        self._by_seed = {
            call_seed(seed, dialogue_id, index, role, attempt): Call(dialogue_id, index, role.value)
            for dialogue_id, n_turns in self.plans.items()
            for index in range(n_turns)
            for role in Role
            for attempt in range(_ATTEMPTS)
        }
        n_seeds = sum(self.plans.values()) * len(Role) * _ATTEMPTS
        if len(self._by_seed) != n_seeds:
            raise SharedSeedError("two calls of this plan share a seed: plan another one")

    @property
    def needed(self) -> int:
        """Calls of the whole plan: three a turn."""
        return 3 * sum(self.plans.values())

    def accepted(self, *sims: SimulatedEndpoint) -> list[Call]:
        """Every call the endpoints have accepted so far, in order; they must record all requests."""
        return [self._by_seed[request["body"]["seed"]] for sim in sims for request in sim.stats()["requests"]]

    def durable(self) -> set[Call]:
        """Count the calls whose results are in Postgres."""
        found: set[Call] = set()
        with self._store.connection() as connection:
            for dialogue_id, index in connection.execute("SELECT dialogue_id, turn_index FROM turns"):
                found |= {Call(dialogue_id, index, role.value) for role in Role}
            for dialogue_id, index, kind in connection.execute(
                "SELECT dialogue_id, turn_index, kind FROM outcomes"
            ):
                role = Role.ASSISTANT if kind == "answered" else Role.USER_SIMULATOR
                found.add(Call(dialogue_id, index, role.value))
        return found

    def turns(self) -> dict[tuple[str, int], tuple[object, ...]]:
        """Every committed turn, with all that was said and when."""
        with self._store.connection() as connection:
            rows = connection.execute(
                "SELECT dialogue_id, turn_index, user_text, assistant_text, judgement::text, worker_id, "
                "created_at FROM turns"
            ).fetchall()
        return {(row[0], row[1]): tuple(row[2:]) for row in rows}

    def check_complete(self) -> None:
        """Check that the plan is made exactly: every turn once, no question twice, nothing left over."""
        progress = self._store.progress(self.run_id)
        assert progress.done == len(self.plans), progress
        turns = self.turns()
        wanted = {(dialogue_id, i) for dialogue_id, n in self.plans.items() for i in range(n)}
        assert turns.keys() == wanted
        questions = Counter(question_key(str(row[0])) for row in turns.values())
        assert len(questions) == len(turns), [q for q, n in questions.items() if n > 1]
        with self._store.connection() as connection:
            assert connection.execute("SELECT count(*) FROM outcomes").fetchone() == (0,)
            assert connection.execute(
                "SELECT count(*) FROM dialogues WHERE worker_id IS NOT NULL"
            ).fetchone() == (0,)
            assert connection.execute("SELECT count(*) FROM questions").fetchone() == (len(turns),)


def repeated(calls: list[Call]) -> Counter[Call]:
    """How often each call was made beyond the first time."""
    return Counter({call: n - 1 for call, n in Counter(calls).items() if n > 1})


@dataclass(frozen=True)
class Kill:
    """What one kill met."""

    after_s: float
    serving: int  # calls the endpoint was serving for the worker
    accepted: tuple[Call, ...]  # since the last kill
    in_flight: frozenset[Call]  # of these, those whose result is not durable
    durable: frozenset[Call]
    turns: dict[tuple[str, int], tuple[object, ...]]


def kill_one(
    book: Book, store: RunStore, victim: Driver, sim: SimulatedEndpoint, after_s: float, before: int
) -> Kill:
    """Let the only worker live for `after_s` more seconds, kill it, and take stock.

    `before`: how many calls had been accepted when it started.
    """
    time.sleep(after_s)
    victim.stop()
    serving = sim.stats()["in_flight"]
    victim.kill()
    wait_for_sessions_to_end(store)
    accepted, durable = tuple(book.accepted(sim)[before:]), frozenset(book.durable())
    return Kill(after_s, serving, accepted, frozenset(accepted) - durable, durable, book.turns())


def kill_and_resume(
    store: RunStore,
    plan: dict[str, Any],
    book: Book,
    sim: SimulatedEndpoint,
    moments_s: Sequence[float],
) -> tuple[list[Kill], tuple[Call, ...]]:
    """Run the plan, killing its worker at each of `moments_s` (seconds after it connected); then finish.

    Gives the kills, and the calls of the last session.
    """
    kills: list[Kill] = []
    before = 0
    for after_s in moments_s:
        with driver(store, plan, simulated=sim) as victim:
            victim.expect("ready")
            kills.append(kill_one(book, store, victim, sim, after_s, before))
        before += len(kills[-1].accepted)
    with driver(store, plan, simulated=sim) as last:
        last.expect("ready")
        last.finish()
    return kills, tuple(book.accepted(sim)[before:])
