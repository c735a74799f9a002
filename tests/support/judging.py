"""Judging what was generated: in this process, and in one of its own that may be killed.

`python -m tests.support.judging` reads one line of JSON from stdin (`dsn`, `fingerprint`, `judge`,
`endpoints` by name), prints "ready", judges once it is told to by another line, and prints its report as
JSON. It dies with its starter.
"""

from __future__ import annotations

import contextlib
import json
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dlgforge_core.config import DistributedConfig, JudgeConfig, LlmConfig, validate
from dlgforge_core.database.database import Database
from dlgforge_core.generation.prepare import PreparedRun
from dlgforge_core.judging.run import LEASE_S, JudgingReport, JudgingStatus, judge_dialogues
from dlgforge_core.judging.worker_thread import JudgingSpec
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.prices import price_list
from dlgforge_core.runtime.distributed.runners import needs_of_judging
from dlgforge_core.runtime.serving.processes import PR_SET_PDEATHSIG, prctl
from dlgforge_core.scheduling.background import Runner
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_store import RunStore
from tests.support.processes import kill
from tests.support.runs import LLM, planned, spec, work
from tests.support.simulated_endpoint import SimulatedEndpoint

_ROOT = Path(__file__).resolve().parents[2]


def judging(**options: Any) -> JudgeConfig:
    """Return an offline configuration, as from plain data."""
    return validate(JudgeConfig, {"mode": "offline", "patience_s": 3.0, **options}, "judge")


def generated(store: RunStore, sim: SimulatedEndpoint, total: int, **run: Any) -> PreparedRun:
    """Return a finished run without verdicts; the endpoint's counts begin anew after it."""
    made = planned(store, total, judge=judging(), concurrency=32, **run)
    work(spec(store, made, Endpoint("simulated", sim.base_url)))
    assert store.progress(made.run_id).done == total
    sim.reset()
    return made


def in_this_process(spec: JudgingSpec, llm: LlmConfig, endpoints: Sequence[Endpoint]) -> Runner:
    """Return the one worker of a session on these endpoints."""
    assert endpoints, "nothing should be missing"
    needs = needs_of_judging(spec, DistributedConfig())
    prices = price_list(llm, needs.callers, needs.models, endpoints)
    prices.check(*needs.budget)
    return replace(spec, endpoints=tuple(endpoints), prices=prices).thread()


def judge(
    store: RunStore,
    run: PreparedRun,
    config: JudgeConfig,
    *endpoints: Endpoint,
    on_status: Callable[[JudgingStatus], None] = lambda status: None,
    on_wait: Callable[[], None] = lambda: None,
    first_report_s: float = 3.0,
    llm: LlmConfig = LLM,
    make_runner: Callable[[JudgingSpec], Runner] | None = None,
    lease_s: float = LEASE_S,
) -> JudgingReport:
    """One session on everything of the run's fingerprint, by a worker in this process by default."""
    return judge_dialogues(
        store,
        Scope(fingerprint=run.fingerprint),
        config,
        llm,
        make_runner or (lambda spec: in_this_process(spec, llm, endpoints)),
        on_status,
        on_wait=on_wait,
        lease_s=lease_s,
        poll_s=0.02,
        first_report_s=first_report_s,
    )


def verdicts(store: RunStore) -> dict[tuple[str, int, str], tuple[Any, ...]]:
    """Every verdict, with all there is to it, by dialogue, turn and judge key."""
    with store.connection() as connection:
        rows = connection.execute(
            "SELECT dialogue_id, turn_index, judge_key, score, reasons, comment, judged_at FROM judgements"
        ).fetchall()
    return {row[:3]: row[3:] for row in rows}


class JudgingProcess:
    """A process that judges."""

    def __init__(self, store: RunStore, run: PreparedRun, judge: dict[str, Any], sim: SimulatedEndpoint):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.judging"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
        )
        task = {
            "dsn": store.database.dsn,
            "fingerprint": run.fingerprint,
            "judge": judge,
            "endpoints": {"simulated": sim.base_url},
        }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(task).encode() + b"\n")
        self.process.stdin.flush()
        assert self.line() == "ready"

    def go(self) -> None:
        """Have it judge."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()

    def line(self, timeout_s: float = 60.0) -> str:
        """Return the next line it prints; fails the test when none comes."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], timeout_s)
        assert ready, f"the judging process said nothing within {timeout_s} s"
        return self.process.stdout.readline().decode().strip()

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        kill(self.process)


@contextlib.contextmanager
def judging_process(
    store: RunStore, run: PreparedRun, judge: dict[str, Any], sim: SimulatedEndpoint
) -> Iterator[JudgingProcess]:
    """Yield a process that judges everything of the run's fingerprint, once it is told to `go`.

    It is gone when the block is left.
    """
    made = JudgingProcess(store, run, judge, sim)
    try:
        yield made
    finally:
        made.kill()


def main() -> None:
    """Judge until nothing is missing."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    task = json.loads(sys.stdin.readline())
    endpoints = [Endpoint(name, url) for name, url in task["endpoints"].items()]
    print("ready", flush=True)
    sys.stdin.readline()
    report = judge_dialogues(
        RunStore(Database(task["dsn"])),
        Scope(fingerprint=task["fingerprint"]),
        judging(**task["judge"]),
        LLM,
        lambda spec: in_this_process(spec, LLM, endpoints),
        lambda status: None,
    )
    print(json.dumps({"given": report.given, "kept": report.kept, "missing": report.missing}), flush=True)


if __name__ == "__main__":
    main()
