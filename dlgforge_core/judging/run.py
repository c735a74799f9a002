"""One session of offline judging: judge what is missing, report while it goes on, end it whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dlgforge_core.config import JudgeConfig, LlmConfig, MarkupConfig, PromptsConfig, RoutingConfig
from dlgforge_core.database.group_writer import GroupWriter
from dlgforge_core.durations import duration
from dlgforge_core.errors import RunStoppedError
from dlgforge_core.judging.engine import Chain, Engine, Tally, chains
from dlgforge_core.judging.judges import Judge, judges_of
from dlgforge_core.judging.store import (
    Verdict,
    begin_judging,
    count_verdicts,
    fingerprint_of,
    finish_judging,
    judging_locks,
    put_verdicts,
)
from dlgforge_core.llm.call_figures import CallFigures, UnderWay
from dlgforge_core.llm.client import LlmClient
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.following import follow_endpoints
from dlgforge_core.llm.stats import CallStats
from dlgforge_core.prompting.templates import SHIPPED, Templates
from dlgforge_core.scheduling.background import LoopThread, report_while
from dlgforge_core.scheduling.call_slots import CallSlots
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_store import RunStore

_LINGER_S = 0.02
_APPLICATION = "dlgforge judging"  # the name of its connections


@dataclass(frozen=True, slots=True)
class JudgingStatus:
    """Where a session stands; `calls` are those of this session."""

    wanted: int
    judged: int
    failures: Mapping[str, int]
    calls: CallFigures
    seconds_left: float | None

    @property
    def counts(self) -> tuple[int, ...]:
        """What has changed when a new line is worth it."""
        return self.judged, sum(self.failures.values()), self.calls.answered

    def __str__(self) -> str:
        parts = [f"{self.judged}/{self.wanted} verdicts", str(self.calls)]
        if self.failures:
            reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(self.failures.items()))
            parts.insert(1, f"failed {sum(self.failures.values())} ({reasons})")
        if self.seconds_left is not None:
            parts.append(f"about {duration(self.seconds_left)} left")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class JudgingReport:
    """What a session came to. `tallies` are by judge key; `calls` are those of this session alone."""

    fingerprint: str
    judges: tuple[Judge, ...]
    wanted: int
    tallies: Mapping[str, Tally]
    calls: CallStats
    elapsed_s: float
    stop_reason: str | None = None

    @property
    def kept(self) -> int:
        """Verdicts that were there before and stand."""
        return sum(tally.kept for tally in self.tallies.values())

    @property
    def given(self) -> int:
        """Verdicts of this session."""
        return sum(tally.given for tally in self.tallies.values())

    @property
    def failures(self) -> Counter[str]:
        """Verdicts that could not be had, by reason, over all judges."""
        return sum((tally.failures for tally in self.tallies.values()), Counter())

    @property
    def missing(self) -> int:
        """Verdicts that are still to be given."""
        return max(0, self.wanted - self.kept - self.given)


def judge_dialogues(
    store: RunStore,
    scope: Scope,
    config: JudgeConfig,
    llm: LlmConfig,
    endpoints: Callable[[], Sequence[Endpoint]],
    on_status: Callable[[JudgingStatus], None],
    *,
    on_wait: Callable[[], None] = lambda: None,
    refresh: Callable[[], Callable[[], Sequence[Endpoint]] | None] = lambda: None,
    prompts: PromptsConfig | None = None,
    poll_s: float = 0.5,
    first_report_s: float = 3.0,
) -> JudgingReport:
    """Judge the finished dialogues of a scope with every offline judge, as far as they are not judged yet.

    `endpoints` is called only when something is missing. Every verdict is kept as it comes: running again
    goes on where this session ended. `on_wait` is told when another process judges the same, `refresh` gives
    once the endpoints are there what tells where they are now, for servers that come back elsewhere.
    `prompts` are the configuration's own.
    An interrupt (any exception raised in the calling thread) cuts the calls off. Raises ConfigError,
    RunStoppedError when no endpoint can serve, StoreError.
    """
    judges = judges_of(config, llm, prompts)
    templates = Templates.of(prompts) if prompts is not None else SHIPPED
    tallies = {judge.key: Tally() for judge in judges}
    stopping = threading.Event()
    reader = store.database.reconnecting(_APPLICATION, config.patience_s, stopping)
    with contextlib.closing(reader):
        fingerprint = reader.run(lambda c: fingerprint_of(c, scope))
        with judging_locks(store.database, fingerprint, judges, on_wait):
            begun = reader.run(lambda c: begin_judging(c, store.dataset, fingerprint, judges))
            wanted, present = reader.run(lambda c: count_verdicts(c, scope, judges, config.granularity))
            started = time.monotonic()
            todo = chains(reader, store.dataset, scope, config, judges, tallies, templates)
            first = next(todo, None)  # without it no endpoint is needed, and perhaps no server started
            calls = CallStats()
            stop_reason = None
            if first is not None:
                work = _Work(
                    store,
                    config,
                    llm.routing,
                    llm.markup,
                    tallies,
                    itertools.chain([first], todo),
                    stopping,
                    templates,
                )
                session = _Session(work, tuple(endpoints()), refresh())
                started = time.monotonic()
                session.start()
                watch = _Watch(
                    wanted, min(present, wanted), tallies, session.stats, session.under_way, started
                )
                _see_through(session, lambda _: on_status(watch.status()), started, poll_s, first_report_s)
                calls, stop_reason = session.stats(), session.stop_reason
            if sum(tally.kept + tally.given for tally in tallies.values()) >= wanted:
                stop_reason = None  # the last verdict cost the last token
            if stop_reason is None:
                reader.run(lambda c: finish_judging(c, store.dataset, fingerprint, begun))
    return JudgingReport(fingerprint, judges, wanted, tallies, calls, time.monotonic() - started, stop_reason)


def _see_through(
    session: _Session, report: Callable[[float], None], started: float, poll_s: float, first_report_s: float
) -> None:
    try:
        report_while(session, report, started, poll_s=poll_s, first_report_s=first_report_s)
    except RunStoppedError as error:
        raise type(error)(f"{error}\nRun the same configuration again to go on judging.") from None


@dataclass(frozen=True, slots=True)
class _Watch:
    wanted: int
    present: int
    tallies: Mapping[str, Tally]
    stats: Callable[[], CallStats]
    under_way: Callable[[], UnderWay]
    started: float

    def status(self) -> JudgingStatus:
        elapsed = max(time.monotonic() - self.started, 1e-3)
        failures: Counter[str] = sum((tally.failures for tally in self.tallies.values()), Counter())
        given = sum(tally.given for tally in self.tallies.values())
        ended = given + failures.total()
        # Those judged anew because the text has changed were counted as present.
        left = max(0, self.wanted - self.present - ended)
        return JudgingStatus(
            wanted=self.wanted,
            judged=min(self.wanted, self.present + given),
            failures=failures,
            calls=CallFigures.of(self.stats(), elapsed, self.under_way()),
            seconds_left=elapsed / ended * left if ended else None,
        )


@dataclass(frozen=True, slots=True)
class _Work:
    """What a session works with."""

    store: RunStore
    config: JudgeConfig
    routing: RoutingConfig
    markup: MarkupConfig
    tallies: Mapping[str, Tally]
    todo: Iterator[Chain]
    stopping: threading.Event
    templates: Templates


class _Session:
    """The engine on an event loop and a thread of its own; the caller's stays free to be interrupted."""

    def __init__(
        self,
        work: _Work,
        endpoints: Sequence[Endpoint],
        refresh: Callable[[], Sequence[Endpoint]] | None,
    ) -> None:
        self.stop_reason: str | None = None
        """Why it ended before everything was judged: the budget."""
        self._work = work
        self._endpoints = endpoints
        self._refresh = refresh
        self._client: LlmClient | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = LoopThread(self._judge, "dlgforge-judging")

    def start(self) -> None:
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within `timeout_s` seconds."""
        return self._thread.wait(timeout_s)

    def stop(self, reason: str) -> None:
        """Cut the calls off and end; the reason is for those who keep one."""
        self._work.stopping.set()
        self._thread.call_soon(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def stats(self) -> CallStats:
        """Return the calls so far."""
        return self._client.stats if self._client is not None else CallStats()

    def under_way(self) -> UnderWay:
        """Return what goes on at the moment."""
        return UnderWay(*self._client.under_way()) if self._client is not None else UnderWay()

    def result(self) -> None:
        """Raise what it failed with. To be called once `wait` has returned True."""
        self._thread.result()

    def _check_budget(self, engine: Engine, tokens: int) -> None:
        limit = self._work.config.max_tokens
        if limit is not None and tokens >= limit:
            self.stop_reason = f"judge.max_tokens = {limit} is used up"
            engine.drain()

    async def _judge(self) -> None:
        self._task = asyncio.current_task()
        work = self._work
        if work.stopping.is_set():
            return
        store, patience_s = work.store, work.config.patience_s
        connection = store.database.reconnecting(_APPLICATION, patience_s, work.stopping)

        async def write(verdicts: Sequence[Verdict]) -> Sequence[object]:
            await asyncio.to_thread(connection.run, lambda c: put_verdicts(c, verdicts))
            return [None] * len(verdicts)

        following: asyncio.Task[None] | None = None
        async with LlmClient(
            self._endpoints, work.routing, patience_s=patience_s, markup=work.markup
        ) as client:
            self._client = client
            slots = CallSlots(work.config.concurrency, client.capacity)
            # While every slot is taken and calls wait, letting verdicts gather costs nothing.
            writer = GroupWriter(write, lambda: _LINGER_S if slots.all_wanted else 0.0)
            writer.start()
            if self._refresh is not None:
                following = asyncio.create_task(follow_endpoints(client, self._refresh))
            try:
                engine = Engine(client, slots, writer.submit, work.config, work.tallies, work.templates)
                client.on_setback(slots.look_again)
                client.on_answer(lambda: self._check_budget(engine, client.stats.tokens))
                await engine.run(lambda n: list(itertools.islice(work.todo, n)))
            finally:
                if following is not None:
                    following.cancel()
                await writer.close()
                connection.close()
