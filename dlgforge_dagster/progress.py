"""Progress of a session: a bar in the terminal, lines in the log, figures on the asset page."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

import dagster as dg
from tqdm import tqdm

from dlgforge_core.llm.call_figures import CallFigures
from dlgforge_core.scheduling.pace import Pace

_COLUMNS = 80


class SessionStatus(Protocol):
    """Where a session stands; `counts` are what makes a new line worth it."""

    @property
    def calls(self) -> CallFigures:
        """The session's calls so far."""

    @property
    def counts(self) -> tuple[int, ...]:
        """What has changed since the last line."""


class ProgressReport:
    """Shows where a session stands as often as it is told: see `progress_report`."""

    def __init__(self, context: dg.AssetExecutionContext, terminal: TextIO | None) -> None:
        self._context = context
        self._terminal = terminal
        self._bar: tqdm[Any] | None = None
        self._pace = Pace()

    def show(self, status: SessionStatus, done: int, planned: int, figures: Mapping[str, Any]) -> None:
        """Show that `done` of `planned` are there; `figures` are more of it for the asset page."""
        if self._terminal is not None:
            self._draw(self._terminal, done, planned, str(status))
        calls = status.calls
        if self._pace.due(calls.elapsed_s, status.counts):
            self._context.log.info(str(status))
            rates = {
                "calls_per_s": round(calls.calls_per_s, 2),
                "tokens_per_s": round(calls.tokens_per_s, 1),
            }
            spent = {"cost": str(calls.spending)} if calls.spending else {}
            self._context.log_event(
                dg.AssetObservation(self._context.asset_key, metadata={**figures, **rates, **spent})
            )

    def _draw(self, terminal: TextIO, done: int, planned: int, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone
            if self._bar is None:
                known = os.get_terminal_size(terminal.fileno()).columns > 0  # not in every container
                # The cursor goes back to the line's beginning: lines of the log then replace the bar.
                self._bar = tqdm(
                    total=planned,
                    file=terminal,
                    ncols=None if known else _COLUMNS,
                    dynamic_ncols=known,
                    leave=False,
                    bar_format="{percentage:3.0f}% |{bar:20}| {desc}\r",
                )
            self._bar.total, self._bar.n = planned, done
            self._bar.set_description_str(text)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.close()


@contextlib.contextmanager
def progress_report(context: dg.AssetExecutionContext) -> Iterator[ProgressReport]:
    """Yield what shows a session's progress while the block runs.

    The bar is drawn when somebody waits at a terminal for a run that `dagster job execute` carries; with
    NO_PROGRESS_BAR set it is not.
    """
    with _terminal(context) as terminal:
        report = ProgressReport(context, terminal)
        try:
            yield report
        finally:
            report.close()


@contextlib.contextmanager
def _terminal(context: dg.AssetExecutionContext) -> Iterator[TextIO | None]:
    """Yield the terminal that this process runs in the foreground of, if any.

    Not by the standard streams: Dagster sends those of a step through a file.
    """
    if context.run.remote_job_origin is not None or os.environ.get("NO_PROGRESS_BAR"):
        yield None  # a webserver or a daemon launched it
        return
    terminal = None
    with contextlib.suppress(OSError):
        terminal = Path("/dev/tty").open("w")  # noqa: SIM115
    if terminal is None:  # not within an except: what fails while it is out would be told with this error
        yield None
        return
    with terminal:
        yield terminal if os.tcgetpgrp(terminal.fileno()) == os.getpgrp() else None
