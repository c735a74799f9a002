"""One session of offline judging: judge what is missing, report while it goes on, end it whatever happens."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dlgforge_core.config import JudgeConfig, LlmConfig, PromptsConfig
from dlgforge_core.config.run import RunConfig
from dlgforge_core.database.reconnecting import ReconnectingConnection
from dlgforge_core.durations import duration
from dlgforge_core.errors import RunStoppedError, StoreError
from dlgforge_core.judging.judges import Judge, judges_of
from dlgforge_core.judging.sessions import PlanRow, judging_session, session_tallies
from dlgforge_core.judging.store import (
    begin_judging,
    count_verdicts,
    fingerprint_of,
    finish_judging,
    finished_dialogues,
    judging_locks,
    plans_of,
)
from dlgforge_core.judging.tallies import Tallies, Tally, add_tallies, failures_of
from dlgforge_core.judging.worker import chains_of
from dlgforge_core.judging.worker_thread import APPLICATION, JudgingSpec
from dlgforge_core.llm.call_figures import CallFigures, UnderWay
from dlgforge_core.llm.stats import CallStats, merged_calls
from dlgforge_core.prompting.templates import SHIPPED, Templates
from dlgforge_core.scheduling.background import Runner, report_while
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_store import RunStore

LEASE_S: float = RunConfig().lease_s
"""After how many seconds without a sign a judging worker loses its dialogues, unless the run says so."""


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
        return failures_of(self.tallies)

    @property
    def missing(self) -> int:
        """Verdicts that are still to be given."""
        return max(0, self.wanted - self.kept - self.given)


def judge_dialogues(
    store: RunStore,
    scope: Scope,
    config: JudgeConfig,
    llm: LlmConfig,
    make_runner: Callable[[JudgingSpec], Runner],
    on_status: Callable[[JudgingStatus], None],
    *,
    on_wait: Callable[[], None] = lambda: None,
    prompts: PromptsConfig | None = None,
    lease_s: float = LEASE_S,
    poll_s: float = 0.5,
    first_report_s: float = 3.0,
) -> JudgingReport:
    """Judge the finished dialogues of a scope with every offline judge, as far as they are not judged yet.

    `make_runner` is called only when something is missing, and carries the workers. Every verdict is kept as
    it comes: running again goes on where this session ended. `on_wait` is told when another process judges
    the same. `prompts` are the configuration's own. A worker that gives no sign for `lease_s` loses its
    dialogues to the others.
    An interrupt (any exception raised in the calling thread) cuts the calls off. Raises ConfigError,
    RunStoppedError when no endpoint can serve, StoreError.
    """
    judges = judges_of(config, llm, prompts)
    stopping = threading.Event()
    reader = store.database.reconnecting(APPLICATION, config.patience_s, stopping)
    with contextlib.closing(reader):
        fingerprint = reader.run(lambda c: fingerprint_of(c, scope))
        with judging_locks(store.database, fingerprint, judges, on_wait):
            begun = reader.run(lambda c: begin_judging(c, store.dataset, fingerprint, judges))
            wanted, present = reader.run(lambda c: count_verdicts(c, scope, judges, config.granularity))
            templates = Templates.of(prompts) if prompts is not None else SHIPPED
            started = time.monotonic()
            plans = reader.run(lambda c: plans_of(c, scope))
            # Without anything missing no endpoint is needed, and perhaps no server started.
            start, tallies = _first_missing(reader, store.dataset, plans, config, judges, templates)
            calls, stop_reason = CallStats(), None
            if start is not None:
                number, after = start
                with judging_session(
                    reader, fingerprint, judges, plans, plan_number=number, after=after
                ) as session:
                    spec = JudgingSpec(
                        session=session,
                        dataset=store.dataset,
                        config=config,
                        judges=judges,
                        database=store.database,
                        routing=llm.routing,
                        lease_s=lease_s,
                        markup=llm.markup,
                        prompts=prompts,
                    )
                    runner = make_runner(spec)
                    started = time.monotonic()
                    runner.start()
                    watch = _Watch(wanted, min(sum(present.values()), wanted), spec, runner, started)
                    try:
                        stop_reason = _see_through(runner, watch, on_status, poll_s, first_report_s)
                    except BaseException:
                        stopping.set()  # what is wrong may be Postgres: no patience with it any more
                        raise
                    add_tallies(tallies, reader.run(lambda c: session_tallies(c, session.session_id)))
                    calls = merged_calls(spec.worker_stats())
            if sum(tally.kept + tally.given for tally in tallies.values()) >= wanted:
                stop_reason = None  # the last verdict cost the last token
            if stop_reason is None:
                reader.run(lambda c: finish_judging(c, store.dataset, fingerprint, begun))
            else:  # what it did not come to is not counted in the tallies
                _, present = reader.run(lambda c: count_verdicts(c, scope, judges, config.granularity))
                for key, tally in tallies.items():
                    tally.kept = max(0, present.get(key, 0) - tally.given)
    return JudgingReport(fingerprint, judges, wanted, tallies, calls, time.monotonic() - started, stop_reason)


def _first_missing(
    reader: ReconnectingConnection,
    dataset: str,
    plans: Sequence[PlanRow],
    config: JudgeConfig,
    judges: Sequence[Judge],
    templates: Templates,
) -> tuple[tuple[int, int] | None, Tallies]:
    """Return what the first dialogue that lacks a verdict comes after, and the tallies of those before it.

    That is the number of its plan, and the ordinal before its own; None when no dialogue lacks any.
    """
    tallies = {judge.key: Tally() for judge in judges}
    keys = list(tallies)
    for number, dialogue in finished_dialogues(reader, dataset, plans, config, keys):
        chains = chains_of(dialogue, config, judges, templates)
        if any(chain.missing for chain in chains):
            return (number, dialogue.ordinal - 1), tallies
        for chain in chains:
            tallies[chain.judge.key].kept += chain.kept
    return None, tallies


def _see_through(
    runner: Runner,
    watch: _Watch,
    on_status: Callable[[JudgingStatus], None],
    poll_s: float,
    first_report_s: float,
) -> str | None:
    """Return why it ended before everything was judged; None when it did not."""

    def report(elapsed_s: float) -> None:
        # The workers have patience with a Postgres that is away; so has the one who only looks on.
        with contextlib.suppress(StoreError):
            on_status(watch.status())

    try:
        result = report_while(runner, report, watch.started, poll_s=poll_s, first_report_s=first_report_s)
    except RunStoppedError as error:
        raise type(error)(f"{error}\nRun the same configuration again to go on judging.") from None
    return result.stop_reason


@dataclass(frozen=True, slots=True)
class _Watch:
    wanted: int
    present: int
    spec: JudgingSpec
    runner: Runner
    started: float

    def status(self) -> JudgingStatus:
        with self.spec.database.connection() as connection:
            tallies = session_tallies(connection, self.spec.session.session_id)
        elapsed = max(time.monotonic() - self.started, 1e-3)
        failures = failures_of(tallies)
        given = sum(tally.given for tally in tallies.values())
        ended = given + failures.total()
        stats = self.runner.stats() or {}
        calls, under_way = CallStats.from_json(stats.get("calls", ())), UnderWay()
        if "under_way" in stats:
            under_way = UnderWay.from_json(stats["under_way"])
        # Those judged anew because the text has changed were counted as present.
        left = max(0, self.wanted - self.present - ended)
        return JudgingStatus(
            wanted=self.wanted,
            judged=min(self.wanted, self.present + given),
            failures=failures,
            calls=CallFigures.of(calls, elapsed, under_way),
            seconds_left=elapsed / ended * left if ended else None,
        )
