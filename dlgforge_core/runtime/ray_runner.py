"""Carries a run on a Ray cluster: the coordinator and, through it, the workers, as `run.distributed` says."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from dlgforge_core.config import RayConfig, SpawnConfig
from dlgforge_core.errors import RunStoppedError
from dlgforge_core.generation.local import WorkerSpec
from dlgforge_core.generation.worker import WorkerResult
from dlgforge_core.runtime.coordinator import Coordinator, Outcome
from dlgforge_core.runtime.vllm_fleet import VllmFleet
from dlgforge_core.store.run_store import RunStore

COORDINATOR_RESTARTS = 3
_STOP_S = 12.0


class RayRunner:
    """The runner of a distributed run; needs this process connected to Ray.

    `spawn.coordinator` puts the coordinator into an actor of its own, else it is a thread here.
    `spawn.workers` has it start worker actors, else it does the generating itself. Keys and the DSN travel
    as arguments of a method call, never in the actors' environment, which Ray's dashboard shows.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        ray_config: RayConfig,
        spawn: SpawnConfig,
        *,
        environment: Mapping[str, str],
        fleet: VllmFleet | None,
        progress: Callable[[str], None],
    ) -> None:
        self._keys = {endpoint.name: endpoint.api_key for endpoint in spec.endpoints}
        # Actors take the endpoints from their environment, see coordinator.spec_in_place.
        in_actor = spawn.coordinator or spawn.workers
        told = in_actor and "LLM_ROUTING_ENDPOINTS_JSON" in environment
        self._spec = replace(spec, endpoints=()) if told else spec
        self._ray_config = ray_config
        self._spawn = spawn
        self._environment = dict(environment)
        self._fleet = fleet
        self._progress = progress
        self._store = RunStore(spec.dsn, spec.postgres)
        self._earlier_workers = 0
        self._restarts_left = COORDINATOR_RESTARTS
        self._stopping = False
        self._events_seen = 0
        self._outcome: Outcome | None = None
        self._actor: Any = None
        self._ref: Any = None
        self._local: Coordinator | None = None
        self._local_thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the coordinator, and with it the workers."""
        self._earlier_workers = len(self._store.worker_stats(self._spec.run.run_id))
        if self._spawn.coordinator:
            self._start_actor()
        else:
            self._start_local()

    def wait(self, timeout_s: float) -> bool:
        """Whether the run has ended within `timeout_s` seconds; a lost coordinator is replaced meanwhile."""
        if self._outcome is not None:
            return True
        if self._local_thread is not None:
            self._local_thread.join(timeout_s)
        else:
            self._wait_actor(timeout_s)
        self._tell_events()
        return self._outcome is not None

    def stop(self, reason: str) -> None:
        """End the workers and the coordinator: in order, then by force."""
        self._stopping = True
        if self._local is not None:
            self._local.stop(reason)
            return
        if self._actor is None:
            return
        import ray

        with contextlib.suppress(Exception):
            self._actor.stop.remote(reason)
            ready, _ = ray.wait([self._ref], timeout=_STOP_S)
            if ready and self._outcome is None:
                self._outcome = ray.get(self._ref)
        with contextlib.suppress(Exception):
            ray.kill(self._actor)
        self._outcome = self._outcome or Outcome(error=reason, error_kind="RunStoppedError")

    def stats(self) -> Mapping[str, Any] | None:
        """What the workers of this sitting have published, put together."""
        stats = self._store.worker_stats(self._spec.run.run_id)[self._earlier_workers :]
        return {"calls": [item for worker in stats for item in worker.get("calls", ())]}

    def result(self) -> WorkerResult:
        """How the run ended; raises what it failed with. Call once `wait` has returned True."""
        assert self._outcome is not None
        return self._outcome.unwrap()

    # The coordinator as an actor

    def _start_actor(self) -> None:
        import ray

        config = self._ray_config.coordinator
        coordinator: Any = ray.remote(Coordinator)
        options = {
            "num_cpus": config.num_cpus,
            "num_gpus": config.num_gpus,
            "max_concurrency": 4,  # `run` blocks one thread; `stop`, `events` and `add_workers` need others
            "runtime_env": {"env_vars": self._environment},
            "namespace": self._ray_config.namespace,
        }
        arguments = (self._ray_config.workers, self._environment)
        keywords = {"spawn_workers": self._spawn.workers, "fleet": self._fleet}
        name = f"coordinator-{self._spec.run.run_id}"
        try:
            self._actor = coordinator.options(name=name, **options).remote(*arguments, **keywords)
        except ValueError:  # another sitting of this run is under way, and has the name
            self._actor = coordinator.options(**options).remote(*arguments, **keywords)
        self._events_seen = 0
        self._ref = self._actor.run.remote(self._spec, self._keys)

    def _wait_actor(self, timeout_s: float) -> None:
        import ray

        ready, _ = ray.wait([self._ref], timeout=timeout_s)
        if not ready:
            return
        try:
            self._outcome = ray.get(self._ref)
        except ray.exceptions.RayError as error:
            if self._stopping:
                self._outcome = Outcome(error="stopped", error_kind="RunStoppedError")
            elif self._restarts_left > 0:
                self._restarts_left -= 1
                self._progress(f"the coordinator was lost ({type(error).__name__}); starting another")
                time.sleep(0.5)
                self._start_actor()
            else:
                lost = RunStoppedError(f"the coordinator was lost again and again: {type(error).__name__}")
                self._outcome = Outcome.of(lost)

    # The coordinator as a thread of this process

    def _start_local(self) -> None:
        self._local = Coordinator(
            self._ray_config.workers,
            self._environment,
            spawn_workers=self._spawn.workers,
            fleet=self._fleet,
        )
        self._local_thread = threading.Thread(
            target=self._run_local, name="dlgforge-coordinator", daemon=True
        )
        self._local_thread.start()

    def _run_local(self) -> None:
        assert self._local is not None
        try:
            self._outcome = self._local.run(self._spec, self._keys)
        except Exception as error:
            self._outcome = Outcome.of(error)

    def _tell_events(self) -> None:
        events: list[str] = []
        if self._local is not None:
            events = self._local.events(self._events_seen)
        elif self._actor is not None:
            import ray

            with contextlib.suppress(Exception):
                events = ray.get(self._actor.events.remote(self._events_seen), timeout=2.0)
        self._events_seen += len(events)
        for event in events:
            self._progress(event)
