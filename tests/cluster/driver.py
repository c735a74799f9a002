"""A distributed run without Dagster, on the machine it is started on: `python -m tests.cluster.driver`.

It reads one line of JSON from stdin (`dsn`, `plan` for tests.support.runs.planned, `base_url` of the
endpoint, `address` of the cluster, and `workers`), prints what it is informed of, and fails with the reason
when the run is not finished.
"""

from __future__ import annotations

import json
import sys

from dlgforge_core.config import ActorConfig, RayConfig
from dlgforge_core.database.database import Database
from dlgforge_core.errors import DlgforgeError
from dlgforge_core.generation.run import generate
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_core.runtime.distributed.runners import needs_of_run, start_runner
from dlgforge_core.scheduling.background import Runner
from dlgforge_core.store.run_store import RunStore
from tests.support.runs import LLM, planned, spec


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    """Work on the run until it ends."""
    task = json.loads(sys.stdin.readline())
    store = RunStore(Database(task["dsn"]))
    run = planned(store, **task["plan"])
    job, llm = spec(store, run), LLM.model_copy(update={"base_url": task["base_url"]})
    ray = RayConfig(address=task["address"], workers=ActorConfig(**task["workers"]))
    with RaySession(ray, progress=_say) as session:

        def runner() -> Runner:
            return start_runner(
                job,
                needs_of_run(job, llm),
                session,
                ray,
                llm,
                dsn=task["dsn"],
                dsn_source="the test",
                endpoints=lambda _: [Endpoint("sim", task["base_url"])],
                fleet=lambda: None,
                progress=_say,
            )

        try:
            report = generate(store, run.run_id, runner, lambda status: _say(str(status)))
        except DlgforgeError as error:
            _say(f"failed: {error}")
            sys.exit(1)
    if report.stop_reason:
        _say(f"stopped: {report.stop_reason}")
        sys.exit(1)


if __name__ == "__main__":
    main()
