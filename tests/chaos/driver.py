"""One worker in a process of its own, to be stopped and killed: `python -m tests.chaos.driver`.

It reads one line of JSON from stdin (`dsn`, `plan` for tests.support.runs.planned, `endpoints` by name, and
`dies`, where it kills itself, see tests.chaos.deaths), prints "ready" once it is connected, and "done" when
the run has nothing left. It dies with its starter.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys

import uvloop

from dlgforge_core.database.database import Database
from dlgforge_core.generation.worker import Worker
from dlgforge_core.generation.worker_thread import run_worker
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.serving.processes import PR_SET_PDEATHSIG, prctl
from dlgforge_core.store.run_store import RunStore
from tests.chaos.deaths import die_at
from tests.support.runs import planned, spec


def _ready(_: Worker) -> None:
    print("ready", flush=True)


def main() -> None:
    """Work until nothing is left."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    task = json.loads(sys.stdin.readline())
    if task["dies"]:
        die_at(*task["dies"])
    store = RunStore(Database(task["dsn"]))
    run = planned(store, **task["plan"])
    endpoints = [Endpoint(name, url) for name, url in task["endpoints"].items()]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_worker(spec(store, run, *endpoints), _ready))
    print("done", flush=True)


if __name__ == "__main__":
    main()
