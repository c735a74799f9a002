"""Carries a run on a Ray cluster: the coordinator and, through it, the workers, as `run.distributed` says."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from dlgforge_core.common.restarts import RestartBudget
from dlgforge_core.config import RayConfig, SpawnConfig
from dlgforge_core.llm.call_figures import UnderWay
from dlgforge_core.runtime.cluster.calls import (
    PLACEMENT_PROGRESS_S,
    kill_quietly,
    quietly,
    reported_again_after,
)
from dlgforge_core.runtime.distributed.coordinator import Coordinator
from dlgforge_core.runtime.distributed.job import Job
from dlgforge_core.runtime.distributed.worker_actor import Outcome, loss_reason
from dlgforge_core.runtime.serving.vllm_fleet import VllmFleet
from dlgforge_core.scheduling.background import WorkResult

COORDINATOR_RESTARTS = 5  # in any ten minutes
# How long actors may wait for a place on a cluster of our own, which has room for all of them; on a machine
# with much to do their processes take long to start.
PLACEMENT_TIMEOUT_S = 240.0
# A coordinator that says nothing for this long hangs.
_SILENT_S = 60.0
_STOP_S = 12.0
_NAME_TRIES_S = 3.0


class RayRunner:
    """The runner of a distributed run; needs this process connected to Ray.

    `spawn.coordinator` puts the coordinator into an actor of its own, named `coordinator-<name of the job>`,
    else it is a thread here. `spawn.workers` has it start worker actors, else it does the work itself. Keys
    and the DSN travel as arguments of a method call, never in the actors' environment, which Ray's dashboard
    shows. `placement_timeout_s` is for clusters that cannot grow: how long actors may wait for a place.
    `alive` tells whether the cluster is still there, so that nothing is waited for that cannot come;
    `head_lost` why its head counts as lost: the actors then still work, for a while. `disconnect` is called
    once nothing of the cluster is of use, for Ray would soon end this process.
    """

    def __init__(
        self,
        spec: Job,
        ray_config: RayConfig,
        spawn: SpawnConfig,
        *,
        environment: Mapping[str, str],
        fleet: VllmFleet | None,
        progress: Callable[[str], None],
        placement_timeout_s: float | None = None,
        alive: Callable[[], bool] = lambda: True,
        head_lost: Callable[[], str] = lambda: "",
        disconnect: Callable[[], None] = lambda: None,
    ) -> None:
        self._credentials = {endpoint.name: endpoint.credentials for endpoint in spec.endpoints}
        # Actors take the endpoints from their environment, see worker_actor.spec_with_credentials.
        in_actor = spawn.coordinator or spawn.workers
        from_environment = in_actor and "LLM_ROUTING_ENDPOINTS_JSON" in environment
        self._spec: Job = replace(spec, endpoints=()) if from_environment else spec
        self._ray_config = ray_config
        self._spawn = spawn
        self._environment = dict(environment)
        self._fleet = fleet
        self._progress = progress
        self._placement_timeout_s = placement_timeout_s
        self._alive, self._head_lost, self._disconnect = alive, head_lost, disconnect
        self._earlier_workers = 0
        self._budget = RestartBudget(COORDINATOR_RESTARTS)
        self._stopping = False
        self._outcome: Outcome | None = None
        self._actor: Any = None
        self._ref: Any = None
        self._where_ref: Any = None
        self._where = ""
        self._restart_at: float | None = None
        self._events_seen = 0
        self._events_ref: Any = None
        self._asked_at = self._reported_at = 0.0
        self._answered = False
        self._local: Coordinator | None = None
        self._local_thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the coordinator, and with it the workers."""
        self._earlier_workers = len(self._spec.worker_stats())
        try:
            if self._spawn.coordinator:
                self._start_actor()
            else:
                self._start_local()
        except BaseException:  # an interrupt too
            self.stop("interrupted")
            raise

    def wait(self, timeout_s: float) -> bool:
        """Whether the run has ended within `timeout_s` seconds; a lost coordinator is replaced meanwhile."""
        if self._outcome is not None:
            return True
        if not self._alive():
            self._outcome = Outcome.stopped(
                "the local Ray cluster of this run has died: its raylet was killed, or ran out of memory"
            )
            self._disconnect()
            return True
        if reason := self._head_lost():
            self.stop(reason)  # in order, as far as that goes: later nobody could
            self._disconnect()
            self._outcome = Outcome.stopped(reason)
            return True
        if self._local is not None:
            self._wait_local(timeout_s)
            return self._outcome is not None
        try:
            self._wait_actor(timeout_s)
        except ConnectionError as error:  # Ray's client has given the cluster up, and ends all its calls
            reason = f"the Ray cluster at {self._ray_config.address} cannot be reached any more ({error})"
            self._outcome = Outcome.stopped(self._head_lost() or reason)
            self._disconnect()
        return self._outcome is not None

    def stop(self, reason: str) -> None:
        """End the workers and the coordinator: in order, then by force; takes 12 s at most."""
        self._stopping = True
        if self._local is not None:
            self._local.stop(reason)
            self._wait_local(_STOP_S)
        elif self._actor is not None:
            import ray

            with quietly("stopping the coordinator"):
                # One that never had its place cannot end in order, and has nothing to end.
                if self._outcome is None and self._answered and self._alive():
                    self._actor.stop.remote(reason)
                    if ray.wait([self._ref], timeout=_STOP_S)[0]:
                        self._outcome = ray.get(self._ref)
            self._end_actor()
        self._outcome = self._outcome or Outcome.stopped(reason)

    def stats(self) -> Mapping[str, Any] | None:
        """Return what the workers of this session have published, put together."""
        stats = self._spec.worker_stats()[self._earlier_workers :]
        return {
            "calls": [item for worker in stats for item in worker.get("calls", ())],
            "under_way": UnderWay.of_workers(stats).to_json(),
        }

    def result(self) -> WorkResult:
        """How the run ended; raises what it failed with. Call once `wait` has returned True."""
        assert self._outcome is not None
        return self._outcome.unwrap()

    # The coordinator as an actor

    def _start_actor(self) -> None:
        self._where = ""
        self._actor, self._where_ref = self._new_actor()
        self._events_seen, self._events_ref, self._answered = 0, None, False
        self._asked_at = self._reported_at = time.monotonic()
        self._restart_at = None
        self._ref = self._actor.run.remote(self._spec, self._credentials)

    def _new_actor(self) -> tuple[Any, Any]:
        """Return a coordinator, and a reference to its machine and process."""
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
        keywords = {
            "spawn_workers": self._spawn.workers,
            "fleet": self._fleet,
            "placement_timeout_s": self._placement_timeout_s,
        }
        name = f"coordinator-{self._spec.name}"
        replacing = self._ref is not None
        deadline = time.monotonic() + (_NAME_TRIES_S if replacing else 0.0)
        while True:
            try:
                actor = coordinator.options(name=name, **options).remote(*arguments, **keywords)
                return actor, actor.where.remote()  # through ray:// the first call tells of a taken name
            except ValueError:  # the name is taken
                if time.monotonic() > deadline:
                    break
                time.sleep(0.2)  # by the one that was lost, which the cluster is still taking down
        self._progress(f"run {self._spec.name} is worked on from elsewhere, too; sharing it")
        actor = coordinator.options(**options).remote(*arguments, **keywords)
        return actor, actor.where.remote()

    def _wait_actor(self, timeout_s: float) -> None:
        import ray

        if self._restart_at is not None:
            time.sleep(max(0.0, min(timeout_s, self._restart_at - time.monotonic())))
            if time.monotonic() >= self._restart_at:
                self._start_actor()
            return
        ready, _ = ray.wait([self._ref], timeout=timeout_s)
        if not ready:
            self._follow_events()
            return
        try:
            self._outcome = ray.get(self._ref)
        except ray.exceptions.RayError as error:
            self._lost(loss_reason(error))
            return
        self._report_last_events()
        self._end_actor()

    def _lost(self, reason: str) -> None:
        """Have a lost coordinator replaced. Its workers went with it, what they had committed is there."""
        self._report_last_events()
        self._end_actor()
        pause = None if self._stopping else self._budget.spend()
        if self._stopping:
            self._outcome = Outcome.stopped(f"stopped ({reason})")
        elif pause is None:
            self._outcome = Outcome.stopped(
                f"the coordinator was lost again and again, last{self._where} so: {reason}"
            )
        else:
            self._progress(
                f"the coordinator{self._where} was lost ({reason}); starting another in {pause:g} s"
            )
            self._restart_at = time.monotonic() + pause

    def _follow_events(self) -> None:
        """Tell what the coordinator has said since; see whether it has a place, and lives."""
        import ray

        self._note_place()
        now = time.monotonic()
        if self._events_ref is None:
            self._events_ref = self._actor.events.remote(self._events_seen)
            self._asked_at = now if self._answered else self._asked_at
        if ray.wait([self._events_ref], timeout=0)[0]:
            with contextlib.suppress(ray.exceptions.RayError):  # its end is told by `run`
                self._report_events(ray.get(self._events_ref))
                self._answered = True
            self._events_ref = None
            return
        waited = now - self._asked_at
        if self._answered:
            if waited > _SILENT_S:
                self._progress(f"the coordinator{self._where} has not answered for {waited:.0f} s: ending it")
                self._end_actor()  # `run` then fails, and another one is started
            return
        config = self._ray_config.coordinator
        asked = f"it asks for {config.num_cpus:g} CPU and {config.num_gpus:g} GPU (ray.coordinator)"
        if self._placement_timeout_s is not None and waited > self._placement_timeout_s:
            self._end_actor()
            self._outcome = Outcome.stopped(
                f"the coordinator got no place on the local Ray cluster within {waited:.0f} s; {asked}"
            )
        elif now - self._reported_at > reported_again_after(PLACEMENT_PROGRESS_S, waited):
            self._reported_at = now
            self._progress(f"the coordinator waits for a place on the cluster, for {waited:.0f} s; {asked}")

    def _note_place(self) -> None:
        """Take down the coordinator's machine: what Ray says of a loss does not name it."""
        import ray

        if self._where or not ray.wait([self._where_ref], timeout=0)[0]:
            return
        with contextlib.suppress(ray.exceptions.RayError):  # its end is told by `run`
            host, pid = ray.get(self._where_ref)
            self._where = f" on {host}, process {pid},"
            self._progress(f"the coordinator runs on {host}, process {pid}")

    def _report_last_events(self) -> None:
        import ray

        with quietly("asking the coordinator what it has said last"):
            self._report_events(ray.get(self._actor.events.remote(self._events_seen), timeout=2.0))

    def _report_events(self, events: list[str]) -> None:
        self._events_seen += len(events)
        for event in events:
            self._progress(event)

    def _end_actor(self) -> None:
        kill_quietly(self._actor)

    # The coordinator as a thread of this process

    def _start_local(self) -> None:
        self._local = Coordinator(
            self._ray_config.workers,
            self._environment,
            spawn_workers=self._spawn.workers,
            fleet=self._fleet,
            placement_timeout_s=self._placement_timeout_s,
        )
        self._local_thread = threading.Thread(
            target=self._run_local, name="dlgforge-coordinator", daemon=True
        )
        self._local_thread.start()

    def _run_local(self) -> None:
        assert self._local is not None
        self._outcome = self._local.run(self._spec, self._credentials)

    def _wait_local(self, timeout_s: float) -> None:
        assert self._local is not None
        if self._local_thread is not None and self._local_thread.ident is not None:
            self._local_thread.join(timeout_s)
        self._report_events(self._local.events(self._events_seen))
