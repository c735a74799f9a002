"""One session of a run: start the work, report while it goes on, end it whatever happens."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlgforge_core.durations import duration
from dlgforge_core.errors import RunStoppedError, StoreError
from dlgforge_core.llm.call_figures import CallFigures, UnderWay
from dlgforge_core.llm.stats import CallStats, merged_calls
from dlgforge_core.scheduling.background import Runner, report_while
from dlgforge_core.store.attempts import Shortfall
from dlgforge_core.store.run_records import Progress
from dlgforge_core.store.run_store import RunStore
from dlgforge_core.usage import Spending

_SHORTFALLS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Status:
    """Where a session stands; `calls` are those of this session, but for what was spent before it."""

    progress: Progress
    calls: CallFigures
    seconds_left: float | None

    @property
    def counts(self) -> tuple[int, ...]:
        """What has changed when a new line is worth it."""
        progress = self.progress
        return progress.done, progress.dropped, progress.unaccepted, progress.turns, self.calls.answered

    def __str__(self) -> str:
        progress = self.progress
        drops = ", ".join(f"{reason} {n}" for reason, n in sorted(progress.drop_reasons.items()))
        replaced = progress.unaccepted or progress.spares
        parts = [
            f"{progress.done}/{progress.planned} dialogues {'accepted' if replaced else 'done'}",
            *filter(None, [self.calls.under_way.dialogues_text()]),
            f"{progress.turns} turns",
            str(self.calls),
        ]
        if drops:
            parts.insert(1, f"dropped {progress.dropped} ({drops})")
        if progress.unaccepted:
            why = ", ".join(f"{name} {n}" for name, n in progress.shortcomings.items())
            parts.insert(1, f"not accepted {progress.unaccepted} ({why})")
        if progress.unjudged:
            parts.append(f"{progress.unjudged} unjudged")
        if self.seconds_left is not None:
            parts.append(f"about {duration(self.seconds_left)} left")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a session came to. `calls` counts this run's calls over all its sessions."""

    run_id: str
    progress: Progress
    calls: CallStats
    elapsed_s: float
    stop_reason: str | None


def shortfall_text(progress: Progress, shortfalls: Sequence[Shortfall]) -> str:
    """Return where a run came to fewer accepted dialogues than were asked for, why, and what would help."""
    lines = [
        f"{short.samples} on {short.topic!r} ({short.language}, {short.batch}), after {short.attempts} "
        f"attempts: {', '.join(f'{name} {n}' for name, n in short.reasons.items())}"
        for short in shortfalls[:_SHORTFALLS_SHOWN]
    ]
    if len(shortfalls) > _SHORTFALLS_SHOWN:
        lines.append("and others")
    head = f"{progress.done} of {progress.planned} dialogues were accepted, of {progress.made} that were made"
    remedy = "To go on, run the same again with a greater run.max_attempts_per_sample"
    return "\n  ".join([f"{head}; not accepted in the end:", *lines, remedy])


def generate(
    store: RunStore,
    run_id: str,
    make_runner: Callable[[], Runner],
    on_status: Callable[[Status], None],
    *,
    poll_s: float = 0.5,
    first_report_s: float = 3.0,
    among: Sequence[str] = (),
) -> RunReport:
    """Work on the run to its end, calling `on_status` every few seconds.

    With `among` it is about those of its dialogues alone. `make_runner` is called only when something is left
    to do: a finished run makes no call at all.
    An interrupt (any exception raised in the waiting thread) cuts the work off; what was committed stays,
    and running again resumes. Raises RunStoppedError when the run cannot go on, StoreError.
    """
    started = time.monotonic()
    before = store.progress(run_id, among)
    if before.nothing_to_do:
        if not among:
            store.set_status(run_id, "complete")
        return _report(store, run_id, started, None, among)
    store.set_status(run_id, "running")
    spent = merged_calls(store.worker_stats(run_id)).spending
    with _reason_kept(store, run_id):
        runner = make_runner()

        def report(elapsed_s: float) -> None:
            # The workers have patience with a Postgres that is away; so has the one who only looks on.
            with contextlib.suppress(StoreError):
                on_status(_status(store.progress(run_id, among), before, spent, runner.stats(), elapsed_s))

        started = time.monotonic()
        runner.start()
        result = report_while(runner, report, started, poll_s=poll_s, first_report_s=first_report_s)
        if fault := store.judge_fault(run_id):
            raise RunStoppedError(fault)
    came_to = _report(store, run_id, started, result.stop_reason, among)
    complete = (store.progress(run_id) if among else came_to.progress).complete
    store.set_status(run_id, "complete" if complete else "stopped", result.stop_reason)
    return came_to


@contextlib.contextmanager
def _reason_kept(store: RunStore, run_id: str) -> Iterator[None]:
    """Whatever ends the session before its time is written down with the run, and raised again."""
    try:
        yield
    except BaseException as error:
        reason = str(error) or type(error).__name__
        with contextlib.suppress(StoreError):  # it must not hide what really happened
            store.set_status(run_id, "stopped", reason)
        if isinstance(error, RunStoppedError):
            message = f"{reason}\nRun the same configuration again to resume run {run_id}."
            raise type(error)(message) from None
        raise


def _report(
    store: RunStore, run_id: str, started: float, stop_reason: str | None, among: Sequence[str]
) -> RunReport:
    return RunReport(
        run_id=run_id,
        progress=store.progress(run_id, among),
        calls=merged_calls(store.worker_stats(run_id)),
        elapsed_s=time.monotonic() - started,
        stop_reason=stop_reason,
    )


def _status(
    now: Progress, before: Progress, spent: Spending, stats: Mapping[str, Any] | None, elapsed_s: float
) -> Status:
    calls, under_way = CallStats.from_json((stats or {}).get("calls", ())), UnderWay()
    if stats and "under_way" in stats:
        under_way = UnderWay.from_json(stats["under_way"])
    turns = now.turns - before.turns
    return Status(
        progress=now,
        calls=CallFigures.of(calls, elapsed_s, under_way, spent),
        seconds_left=elapsed_s / turns * (now.turns_planned - now.turns) if turns > 0 else None,
    )
