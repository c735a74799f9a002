"""The coordinator: starts workers, replaces those that are lost, and says how it goes.

It does not hand out work: workers claim dialogues from the store, to make them or to judge them, so that any
number of them shares a run, and what a lost worker had claimed is taken up by the others or by its
replacement.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dlgforge_core.common.restarts import RestartBudget
from dlgforge_core.config import ActorConfig
from dlgforge_core.errors import StoreError
from dlgforge_core.llm.endpoints import Credentials
from dlgforge_core.runtime.cluster.calls import (
    PLACEMENT_PROGRESS_S,
    cluster_line,
    kill_quietly,
    quietly,
    reported_again_after,
)
from dlgforge_core.runtime.distributed.job import Job
from dlgforge_core.runtime.distributed.worker_actor import Outcome, WorkerActor, loss_reason
from dlgforge_core.runtime.serving.vllm_fleet import VllmFleet
from dlgforge_core.scheduling.background import WorkResult

WORKER_RESTARTS = 5  # for each worker that was asked for, in any ten minutes
_POLL_S = 0.5
_STOP_S = 10.0


@dataclass(slots=True)
class _Worker:
    """One worker actor, as the coordinator sees it."""

    actor: Any
    work: Any
    where: Any
    asked_at: float
    reported_at: float
    process: tuple[str, int] | None = None
    silent_since: float | None = None


@dataclass(slots=True)
class _Ends:
    """What the workers that have ended came to."""

    any_result: bool = False
    complete: bool = False
    stop_reason: str | None = None
    failure: Outcome | None = None


class Coordinator:
    """Watches over the workers of one run; a Ray actor, or a part of the driver.

    `run` blocks; the other methods may be called meanwhile from other threads. `placement_timeout_s` bounds
    how long no worker at all may wait for a place; None on a cluster that may grow.
    """

    def __init__(
        self,
        workers: ActorConfig,
        environment: Mapping[str, str],
        *,
        spawn_workers: bool,
        fleet: VllmFleet | None = None,
        placement_timeout_s: float | None = None,
    ) -> None:
        self._config = workers
        self._environment = dict(environment)
        self._spawn_workers = spawn_workers
        self._fleet = fleet
        self._placement_timeout_s = placement_timeout_s
        self._events: list[str] = []
        self._lock = threading.Lock()  # around what other threads change: _wanted, _stop_reason
        self._wanted = workers.replicas if spawn_workers else 0
        self._stop_reason: str | None = None
        self._budget = RestartBudget(WORKER_RESTARTS * max(1, self._wanted))
        self._start_at = 0.0
        self._leases_at = 0.0
        self._workers: list[_Worker] = []
        self._loss = ""
        self._own = WorkerActor()

    def run(self, spec: Job, credentials: Mapping[str, Credentials]) -> Outcome:
        """Have the run worked on until nothing is left. Never raises: what failed is the outcome."""
        if not self._spawn_workers:
            return self._own.work(spec, credentials, self._fleet)
        try:
            return self._watch(spec, credentials)
        except Exception as error:
            return Outcome.of(error)
        finally:
            self._end_all(self._stop_reason or "the run ended")

    def stop(self, reason: str) -> None:
        """Ask all workers to end; `run` returns soon after."""
        with self._lock:
            self._stop_reason = self._stop_reason or reason
            self._wanted = 0
        self._own.stop(reason)

    def add_workers(self, n: int) -> None:
        """Have `n` more workers share the load. Raises ValueError where none are spawned."""
        if not self._spawn_workers:
            raise ValueError("run.distributed.spawn.workers is false: the coordinator does the work itself")
        with self._lock:
            if self._stop_reason is not None:
                return
            self._wanted += n
        self._budget.grow(n * WORKER_RESTARTS)
        self._say(f"{n} more workers asked for")

    def where(self) -> tuple[str, int]:
        """Host and pid, once it has its place."""
        return self._own.where()

    def events(self, since: int = 0) -> list[str]:
        """Return what happened, from line number `since` on."""
        return self._events[since:]

    def _say(self, text: str) -> None:
        self._events.append(text)

    def _watch(self, spec: Job, credentials: Mapping[str, Credentials]) -> Outcome:
        ends, done_at = _Ends(), None
        while self._stop_reason is None:
            self._start_missing(spec, credentials)
            if (problem := self._watch_placement()) is not None:
                return problem
            self._watch_leases(spec)
            for worker, outcome in self._ended():
                if outcome is None:
                    if (problem := self._lost(worker)) is not None:
                        return problem
                else:
                    self._note(ends, worker, outcome)
            working = any(worker.process is not None for worker in self._workers)
            restarting = self._start_at > time.monotonic()
            if ends.complete:
                done_at = done_at or time.monotonic()
                # The others see it within a second or two; one that hangs, or never had a place, must not
                # hold the run.
                if not working or time.monotonic() - done_at > _STOP_S:
                    return Outcome(WorkResult(None))
            elif (ends.any_result or ends.failure) and not working and not restarting:
                if ends.failure is not None and not ends.any_result:
                    return ends.failure
                return Outcome(WorkResult(ends.stop_reason))
        return Outcome(WorkResult(self._stop_reason))

    def _note(self, ends: _Ends, worker: _Worker, outcome: Outcome) -> None:
        """Take down how a worker ended; it needs no replacement."""
        with self._lock:
            self._wanted = max(0, self._wanted - 1)
        if outcome.result is None:
            # Its node may be cut off from what the others still reach. If not, they fail as well, soon.
            ends.failure = outcome
            where = f" on {worker.process[0]}" if worker.process else ""
            self._say(f"a worker{where} ended: {outcome.error}")
            return
        ends.any_result = True
        if outcome.result.stop_reason is None:
            ends.complete = True
            with self._lock:
                self._wanted = 0
        else:
            ends.stop_reason = ends.stop_reason or outcome.result.stop_reason

    def _start_missing(self, spec: Job, credentials: Mapping[str, Credentials]) -> None:
        import ray

        if time.monotonic() < self._start_at:
            return
        while len(self._workers) < self._wanted:
            worker: Any = ray.remote(WorkerActor)
            actor = worker.options(
                num_cpus=self._config.num_cpus,
                num_gpus=self._config.num_gpus,
                max_concurrency=4,  # `work` blocks one thread; `stop` and `where` need others
                runtime_env={"env_vars": self._environment},
                scheduling_strategy="SPREAD",
            ).remote()
            now = time.monotonic()
            # Keys and the DSN go in a method call: the arguments of a creation are kept by the cluster.
            work = actor.work.remote(spec, dict(credentials), self._fleet)
            self._workers.append(_Worker(actor, work, actor.where.remote(), now, now))

    def _watch_placement(self) -> Outcome | None:
        """Note who has a place now; the run's end when on a cluster that cannot grow nobody gets one."""
        import ray

        waiting = [worker for worker in self._workers if worker.process is None]
        if not waiting:
            return None
        ready, _ = ray.wait([w.where for w in waiting], num_returns=len(waiting), timeout=0)
        for worker in waiting:
            if worker.where in ready:
                with contextlib.suppress(ray.exceptions.RayError):  # its end is told by its work
                    worker.process = ray.get(worker.where)
                    self._say(f"a worker runs on {worker.process[0]}, process {worker.process[1]}")
        now = time.monotonic()
        waiting = [worker for worker in waiting if worker.where not in ready]
        late = [
            worker
            for worker in waiting
            if now - worker.reported_at > reported_again_after(PLACEMENT_PROGRESS_S, now - worker.asked_at)
        ]
        asked = (
            f"each asks for {self._config.num_cpus:g} CPU and {self._config.num_gpus:g} GPU (ray.workers); "
        )
        if late:
            for worker in late:
                worker.reported_at = now
            longest = now - min(worker.asked_at for worker in late)
            self._say(
                f"{len(waiting)} of {len(self._workers)} workers wait for a place on the cluster, for "
                f"{longest:.0f} s; {asked}{cluster_line()}"
            )
        limit = self._placement_timeout_s
        if limit is None or len(waiting) < len(self._workers) or not waiting:
            return None
        if now - max(worker.asked_at for worker in waiting) <= limit:
            return None
        return Outcome.stopped(
            f"no worker got a place on the local Ray cluster within {limit:g} s; {asked}{cluster_line()}. "
            "Lower ray.workers.num_cpus or num_gpus, or set ray.address to a larger cluster"
        )

    def _watch_leases(self, spec: Job) -> None:
        """End workers whose process is there but gives no sign: others have their dialogues by now."""
        lease_s = spec.lease_s
        now = time.monotonic()
        if now < self._leases_at:
            return
        self._leases_at = now + max(1.0, lease_s / 3)
        try:
            silent = spec.silent_workers()
        except StoreError:
            return  # the workers have their own patience with Postgres, and tell how it ends
        for worker in self._workers:
            if worker.process not in silent:
                worker.silent_since = None
            elif worker.silent_since is None:
                worker.silent_since = now
            elif now - worker.silent_since > lease_s:
                assert worker.process is not None
                host, pid = worker.process
                self._say(f"the worker on {host}, process {pid}, gives no sign of life: ending it")
                kill_quietly(worker.actor)  # its work then fails, and it is replaced
                worker.silent_since = None

    def _ended(self) -> list[tuple[_Worker, Outcome | None]]:
        """Workers that ended since the last call, with their outcome; None for those that were lost."""
        import ray

        if not self._workers:
            time.sleep(_POLL_S / 5)
            return []
        ready, _ = ray.wait([w.work for w in self._workers], num_returns=1, timeout=_POLL_S)
        ended: list[tuple[_Worker, Outcome | None]] = []
        for worker in [w for w in self._workers if w.work in ready]:
            self._workers.remove(worker)
            try:
                ended.append((worker, ray.get(worker.work)))
            except ray.exceptions.RayError as error:
                self._loss = loss_reason(error)
                ended.append((worker, None))
            kill_quietly(worker.actor)
        return ended

    def _lost(self, worker: _Worker) -> Outcome | None:
        """Have a lost worker replaced; the run's end when too many were."""
        if not self._wanted:
            return None
        where = f" on {worker.process[0]}, process {worker.process[1]}," if worker.process else ""
        pause = self._budget.spend()
        if pause is None:
            return Outcome.stopped(f"workers were lost again and again, the last one{where} so: {self._loss}")
        self._start_at = time.monotonic() + pause
        self._say(f"a worker{where} was lost ({self._loss}); starting another in {pause:g} s")
        return None

    def _end_all(self, reason: str) -> None:
        import ray

        with quietly("stopping the workers"):
            placed = [worker for worker in self._workers if worker.process is not None]
            for worker in placed:
                worker.actor.stop.remote(reason)
            if placed:
                ray.wait([worker.work for worker in placed], num_returns=len(placed), timeout=_STOP_S)
        for worker in self._workers:
            kill_quietly(worker.actor)
        self._workers = []
