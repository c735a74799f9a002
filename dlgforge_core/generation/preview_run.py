"""A preview: the first few dialogues of a run's plan, really made, and an estimate for the whole of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dlgforge_core.config import RunConfig
from dlgforge_core.errors import StoreError
from dlgforge_core.generation.estimate import Estimate, WholePlan, estimate
from dlgforge_core.generation.prepare import PreparedRun
from dlgforge_core.generation.preview_samples import (
    busy_seconds,
    is_recorded,
    mean_turn,
    sample_of,
    used_by_role,
    whole_plan,
)
from dlgforge_core.generation.run import RunReport, Status, generate
from dlgforge_core.llm.stats import CallStats
from dlgforge_core.scheduling.background import Runner
from dlgforge_core.store.preview import (
    PreviewedDialogue,
    RecordedCall,
    first_dialogues,
    left_to_make,
    planned_turns,
    previewed,
    put_calls,
)
from dlgforge_core.store.run_store import RunStore


@dataclass(frozen=True, slots=True)
class Preview:
    """What a preview came to. `estimate` is None when nothing was answered.

    `slots`: calls at once of the whole run. `report` is that of the session, about the few alone; `calls` are
    all that the run has made. `by_run`: the estimate is by these, since of the few no call was kept.
    """

    dialogues: Sequence[PreviewedDialogue]
    estimate: Estimate | None
    plan: WholePlan
    slots: int
    report: RunReport
    n_ended: int
    run: RunConfig
    by_run: bool = False
    judged_later: bool = False

    @property
    def calls(self) -> CallStats:
        """All calls of the run so far."""
        return self.report.calls

    @property
    def used(self) -> str:
        """What the run has used so far, in words."""
        total, spent = self.calls.total(), self.calls.spending
        parts = [f"{total.calls:,} calls", f"{total.prompt_tokens:,} tokens in"]
        parts += [f"{total.completion_tokens:,} out", *([str(spent)] if spent else [])]
        return ", ".join(parts)

    @property
    def unpriced(self) -> list[str]:
        """The roles whose calls have a price that is not known."""
        return sorted({c.role for dialogue in self.dialogues for c in dialogue.calls if c.dollars is None})

    @property
    def costs_money(self) -> bool:
        """Whether any call has cost something."""
        return any(call.dollars for dialogue in self.dialogues for call in dialogue.calls)

    @property
    def seconds(self) -> tuple[float, float]:
        """How long the plan takes: if the endpoints stay as fast with all call slots, and at today's pace."""
        if self.estimate is None:
            return 0.0, 0.0
        calls = [call for dialogue in self.dialogues for call in dialogue.calls]
        figures = self.estimate.total
        longest = max(turns for _, turns in self.plan.dialogues) / max(1, self.plan.n_turns)
        # The calls of one dialogue wait for each other.
        best = figures["seconds"].value * max(1 / self.slots, longest)
        pace = figures["calls"].value * busy_seconds(calls) / max(1, len(calls))
        return best, max(best, pace)


def preview_run(
    store: RunStore,
    run: PreparedRun,
    make_runner: Callable[[tuple[str, ...], Callable[[RecordedCall], None]], Runner],
    on_status: Callable[[Status], None],
    *,
    slots: int,
    poll_s: float = 0.5,
    first_report_s: float = 3.0,
) -> Preview:
    """Make the first `run.preview_dialogues` of the plan, as far as they are not made, and estimate the rest.

    `make_runner` gets their ids, and what is to be told of every answered call. The dialogues are the plan's
    own: whoever works on the run afterwards goes on after them. Raises what `generate` does.
    """
    generation = run.generation
    with store.connection() as connection:
        languages = generation.run.target_languages
        few = first_dialogues(connection, run.run_id, languages, generation.run.preview_dialogues)
    calls: list[RecordedCall] = []

    def keep() -> None:
        done = calls[:]  # another thread adds to them
        with store.connection() as connection:
            put_calls(connection, done)
        del calls[: len(done)]

    def on_report(status: Status) -> None:
        with contextlib.suppress(StoreError):  # they are kept next time
            keep()
        on_status(status)

    try:
        report = generate(
            store,
            run.run_id,
            lambda: make_runner(tuple(few), calls.append),
            on_report,
            poll_s=poll_s,
            first_report_s=first_report_s,
            among=few,
        )
    finally:
        with contextlib.suppress(StoreError):  # it must not hide what really happened
            keep()
    return _preview(store, run, few, report, slots)


def _preview(store: RunStore, run: PreparedRun, few: Sequence[str], report: RunReport, slots: int) -> Preview:
    generation, progress = run.generation, store.progress(run.run_id)
    with store.connection() as connection:
        dialogues = previewed(connection, few)
        turns, left = planned_turns(connection, run.run_id), left_to_make(connection, run.run_id)
    attributes = store.attribute_counts(run.run_id) if generation.attributes else {}
    used = used_by_role(report.calls)
    plan = whole_plan(turns, left, attributes, progress, generation, used)
    samples = [sample_of(dialogue, generation) for dialogue in dialogues if is_recorded(dialogue, generation)]
    by_run = not samples and progress.turns > 0 and bool(used)
    if by_run:
        samples = [mean_turn(used, progress.turns)]
    return Preview(
        dialogues=dialogues,
        estimate=estimate(samples, plan) if samples else None,
        plan=plan,
        run=generation.run,
        slots=slots,
        report=report,
        n_ended=progress.made,
        by_run=by_run,
        judged_later=generation.judge.mode == "offline",
    )
