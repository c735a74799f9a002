"""The coordinator: starts workers, replaces those that are lost, and says how it goes.

It does not hand out work: workers claim dialogues from the store, so that any number of them shares a run,
and what a lost worker had claimed is taken up by the others or by its replacement.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dlgforge_core.config import ActorConfig, EndpointConfig, RoutingConfig, validate
from dlgforge_core.errors import DlgforgeError, RunStoppedError, StoreError
from dlgforge_core.generation.local import WorkerSpec, WorkerThread
from dlgforge_core.generation.worker import WorkerCounts, WorkerResult
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.vllm_fleet import VllmFleet

WORKER_RESTARTS = 5  # for each worker that was asked for
_POLL_S = 0.5
_PLACEMENT_PROGRESS_S = 10.0
_STOP_S = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one worker, or all together, ended; what failed is told in words, so that it travels anywhere."""

    result: WorkerResult | None = None
    error: str = ""
    error_kind: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Outcome:
        """The outcome of something that raised."""
        return cls(error=str(error) or type(error).__name__, error_kind=type(error).__name__)

    def unwrap(self) -> WorkerResult:
        """The result. Raises RunStoppedError, StoreError or DlgforgeError when it failed."""
        if self.result is not None:
            return self.result
        kinds: Mapping[str, type[DlgforgeError]] = {
            "RunStoppedError": RunStoppedError,
            "StoreError": StoreError,
        }
        raise kinds.get(self.error_kind, DlgforgeError)(self.error)


def spec_in_place(spec: WorkerSpec, keys: Mapping[str, str]) -> WorkerSpec:
    """The spec with what this actor's environment says of routing; `keys` are by endpoint name."""
    changes: dict[str, Any] = {}
    if text := os.environ.get("LLM_ROUTING_ENDPOINTS_JSON"):
        configs = [validate(EndpointConfig, item, "LLM_ROUTING_ENDPOINTS_JSON") for item in json.loads(text)]
        changes["endpoints"] = tuple(
            Endpoint(c.label, c.base_url, keys.get(c.label, ""), c.weight, c.max_in_flight, c.timeout_s)
            for c in configs
        )
    if strategy := os.environ.get("LLM_ROUTING_STRATEGY"):
        settings = {**spec.routing.model_dump(), "strategy": strategy}
        changes["routing"] = validate(RoutingConfig, settings, "LLM_ROUTING_STRATEGY")
    return replace(spec, **changes)


class WorkerActor:
    """One worker in a process of its own, anywhere on the cluster."""

    def __init__(self) -> None:
        self._thread: WorkerThread | None = None

    def work(self, spec: WorkerSpec, keys: Mapping[str, str], fleet: VllmFleet | None) -> Outcome:
        """Work until nothing is left or `stop` is called."""
        try:
            refresh = fleet.endpoints if fleet is not None else None
            self._thread = WorkerThread(spec_in_place(spec, keys), refresh)
            self._thread.start()
            while not self._thread.wait(_POLL_S):
                pass
            return Outcome(self._thread.result())
        except Exception as error:
            return Outcome.of(error)

    def where(self) -> tuple[str, int]:
        """Host and pid, once the actor has its place."""
        return socket.gethostname(), os.getpid()

    def stop(self, reason: str) -> None:
        """Cut off the calls and let go of the dialogues."""
        if self._thread is not None:
            self._thread.stop(reason)


class Coordinator:
    """Watches over the workers of one run; a Ray actor, or a part of the driver.

    `run` blocks; the other methods may be called meanwhile from other threads.
    """

    def __init__(
        self,
        workers: ActorConfig,
        environment: Mapping[str, str],
        *,
        spawn_workers: bool,
        fleet: VllmFleet | None = None,
    ) -> None:
        self._config = workers
        self._environment = dict(environment)
        self._spawn_workers = spawn_workers
        self._fleet = fleet
        self._events: list[str] = []
        self._wanted = workers.replicas if spawn_workers else 0
        self._restarts_left = WORKER_RESTARTS * max(1, self._wanted)
        self._running: dict[Any, Any] = {}  # result ref -> actor
        self._unplaced: dict[Any, float] = {}  # placement ref -> when the actor was asked for
        self._stop_reason: str | None = None
        self._own: WorkerActor | None = None

    def run(self, spec: WorkerSpec, keys: Mapping[str, str]) -> Outcome:
        """Have the run worked on until nothing is left; counts are those of this coordinator's workers."""
        if not self._spawn_workers:
            self._own = WorkerActor()
            return self._own.work(spec, keys, self._fleet)
        counts, outcome = WorkerCounts(), None
        stop_reason: str | None = None
        try:
            while outcome is None:
                self._start_missing(spec, keys)
                self._watch_placement()
                for ended in self._ended():
                    if ended is None:
                        if self._restarts_left < 0:
                            outcome = Outcome(
                                error="workers were lost again and again; see the Ray logs of their nodes",
                                error_kind="RunStoppedError",
                            )
                    elif ended.result is None:
                        outcome = ended  # what stopped one worker stops all: endpoints or Postgres are gone
                    else:
                        self._wanted -= 1  # it found nothing left to do, and needs no replacement
                        add_counts(counts, ended.result.counts)
                        stop_reason = stop_reason or ended.result.stop_reason
                if outcome is None and not self._running and self._wanted <= 0:
                    outcome = Outcome(WorkerResult(counts, stop_reason))
            return outcome
        finally:
            self._end_all(self._stop_reason or "the run ended")

    def stop(self, reason: str) -> None:
        """Ask all workers to end; `run` returns soon after."""
        self._stop_reason = reason
        self._wanted = 0
        if self._own is not None:
            self._own.stop(reason)
        for actor in list(self._running.values()):
            actor.stop.remote(reason)

    def add_workers(self, n: int) -> None:
        """Have `n` more workers share the load."""
        if self._spawn_workers and self._stop_reason is None:
            self._wanted += n
            self._say(f"{n} more workers asked for")

    def events(self, since: int = 0) -> list[str]:
        """What happened, from line number `since` on."""
        return self._events[since:]

    def worker_places(self) -> list[tuple[str, int]]:
        """Host and pid of the workers that run now."""
        import ray

        refs = [actor.where.remote() for actor in list(self._running.values())]
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=5.0) if refs else ([], [])
        return [ray.get(ref) for ref in ready]

    def _say(self, text: str) -> None:
        self._events.append(text)

    def _start_missing(self, spec: WorkerSpec, keys: Mapping[str, str]) -> None:
        import ray

        while len(self._running) < self._wanted:
            worker: Any = ray.remote(WorkerActor)
            actor = worker.options(
                num_cpus=self._config.num_cpus,
                num_gpus=self._config.num_gpus,
                max_concurrency=4,  # `work` blocks one thread; `stop` and `where` need others
                runtime_env={"env_vars": self._environment},
                scheduling_strategy="SPREAD",
            ).remote()
            self._running[actor.work.remote(spec, dict(keys), self._fleet)] = actor
            self._unplaced[actor.where.remote()] = time.monotonic()

    def _watch_placement(self) -> None:
        import ray

        if not self._unplaced:
            return
        ready, waiting = ray.wait(list(self._unplaced), num_returns=len(self._unplaced), timeout=0)
        for ref in ready:
            del self._unplaced[ref]
            try:
                host, pid = ray.get(ref)
                self._say(f"a worker runs on {host}, process {pid}")
            except ray.exceptions.RayError:
                continue  # its end is told by its work
        now = time.monotonic()
        late = [ref for ref in waiting if now - self._unplaced[ref] > _PLACEMENT_PROGRESS_S]
        if late:
            for ref in late:
                self._unplaced[ref] = now
            self._say(
                f"{len(late)} workers wait for a place on the cluster; each asks for "
                f"{self._config.num_cpus:g} CPU and {self._config.num_gpus:g} GPU (ray.workers)"
            )

    def _ended(self) -> list[Outcome | None]:
        """Outcomes of workers that ended since the last call; None for each that was lost."""
        import ray

        if not self._running:
            time.sleep(_POLL_S / 10)
            return []
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=_POLL_S)
        outcomes: list[Outcome | None] = []
        for ref in ready:
            del self._running[ref]
            try:
                outcomes.append(ray.get(ref))
            except ray.exceptions.RayError as error:
                outcomes.append(None)
                self._restarts_left -= 1
                if self._stop_reason is None:
                    self._say(f"a worker was lost ({_first_line(error)}); starting another")
        return outcomes

    def _end_all(self, reason: str) -> None:
        import ray

        if not self._running:
            return
        refs, actors = list(self._running), list(self._running.values())
        for actor in actors:
            actor.stop.remote(reason)
        ray.wait(refs, num_returns=len(refs), timeout=_STOP_S)
        for actor in actors:
            with contextlib.suppress(Exception):
                ray.kill(actor)
        self._running.clear()


def add_counts(total: WorkerCounts, more: WorkerCounts) -> None:
    """Add one worker's counts to a sum."""
    total.done += more.done
    total.turns += more.turns
    total.lost += more.lost
    for reason, n in more.dropped.items():
        total.dropped[reason] = total.dropped.get(reason, 0) + n


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
