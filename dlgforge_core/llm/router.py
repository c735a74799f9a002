"""Which endpoint takes the next call, and who waits while none can."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from dlgforge_core.config import RoutingStrategy
from dlgforge_core.errors import ConfigError, RunRefusedError, RunStoppedError
from dlgforge_core.llm import patience
from dlgforge_core.llm.balancing import Balancer
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.health import (
    FAILURES_TO_OPEN,
    LONGEST_BACK_OFF_S,
    EndpointHealth,
    EndpointState,
    HealthTracker,
)
from dlgforge_core.llm.stats import FailureKind

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

Probe = Callable[[Endpoint], Awaitable[str]]
"""Makes a call of no dialogue to an endpoint; gives why it is not answered, or ""."""


@dataclass(slots=True, eq=False)
class Slot:
    """The right to make one call to one endpoint; must be given back by one of the router's methods."""

    tracker: HealthTracker
    started: float
    dialogue: str
    saturated: bool

    @property
    def endpoint(self) -> Endpoint:
        """Where to call."""
        return self.tracker.endpoint


class Wanted(NamedTuple):
    """What a call asks for: a model, of an endpoint that takes the caller's calls."""

    caller: str
    model: str


@dataclass(slots=True, order=True)
class _Waiter:
    ticket: int
    affinity: str = field(compare=False)
    avoid: Collection[str] = field(compare=False)
    future: asyncio.Future[Slot] = field(compare=False)


class Router:
    """Gives slots, first come, first served, and keeps the health of the endpoints.

    Raises ConfigError without endpoints. Belongs to one event loop.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        strategy: RoutingStrategy,
        *,
        patience_s: float,
        probe: Probe,
        failures_to_open: int = FAILURES_TO_OPEN,
    ) -> None:
        if not endpoints:
            raise ConfigError("there is no endpoint to call; set llm.base_url or llm.routing.endpoints")
        self.patience_s = patience_s
        self._probe = probe
        back_off_max_s = max(0.25, min(LONGEST_BACK_OFF_S, patience_s / 8))
        self.trackers = [
            HealthTracker(e, failures_to_open=failures_to_open, back_off_max_s=back_off_max_s)
            for e in endpoints
        ]
        self._groups: dict[str, list[HealthTracker]] = {}
        self._balancer = Balancer(endpoints, strategy)
        self._waiting: dict[Wanted, list[_Waiter]] = {}
        self._tickets = itertools.count()
        self._stopped: RunStoppedError | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._trials: dict[str, asyncio.Task[str]] = {}
        self._wake: asyncio.TimerHandle | None = None
        self.on_setback: Callable[[], None] = lambda: None
        """Called when an endpoint may bear less than before."""

    # Slots

    def ticket(self) -> int:
        """Return a place in the queue, kept by a call over its retries."""
        return next(self._tickets)

    def serving(self, caller: str) -> list[HealthTracker]:
        """Return the endpoints that take a caller's calls. Raises ConfigError when there is none."""
        group = self._groups.get(caller)
        if group is None:
            group = self._groups[caller] = [t for t in self.trackers if t.endpoint.serves(caller)]
        if not group:
            raise ConfigError(f"no endpoint takes the calls of {caller}")
        return group

    def capacity(self, caller: str) -> tuple[Hashable, int]:
        """Return which endpoints a caller has, as a key, and how many calls these bear at once, 1 or more."""
        group = self.serving(caller)
        now = asyncio.get_running_loop().time()
        return tuple(t.endpoint.name for t in group), max(1, sum(t.bears(now) for t in group))

    async def acquire(self, ticket: int, wanted: Wanted, affinity: str, avoid: Collection[str] = ()) -> Slot:
        """Wait for a slot at an endpoint, outside `avoid` if possible.

        Raises RunStoppedError when no endpoint can be used, now or for longer than the patience.
        """
        self._raise_if_stopped()
        self._check_usable(wanted)
        loop = asyncio.get_running_loop()
        queue = self._waiting.setdefault(wanted, [])
        if not queue and (slot := self._take(loop.time(), wanted, affinity, avoid)):
            return slot
        waiter = _Waiter(ticket, affinity, avoid, loop.create_future())
        heapq.heappush(queue, waiter)
        self._dispatch()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and not waiter.future.exception():
                self.abandoned(waiter.future.result())
            raise

    def answered(self, slot: Slot) -> None:
        """Note that the call was answered, if only to say that the request is wrong."""
        now = self._leave(slot)
        tracker = slot.tracker
        if tracker.state is not EndpointState.CLOSED:
            _log.warning("endpoint %s answers again", slot.endpoint.name)
        tracker.answered(now, saturated=slot.saturated, dialogue=slot.dialogue)
        self._dispatch()

    def overloaded(self, slot: Slot, reason: str, retry_after_s: float | None) -> None:
        """Note that the endpoint answered 429."""
        now = self._leave(slot)
        slot.tracker.overloaded(now, reason, retry_after_s)
        self._after_failure(now)

    def failed(self, slot: Slot, kind: FailureKind, reason: str) -> bool:
        """Count a failure, by the endpoint or its own request; return whether the endpoint is at fault."""
        now = self._leave(slot)
        tracker = slot.tracker
        was_closed = tracker.state is EndpointState.CLOSED
        at_fault = tracker.failed(now, kind, reason, slot.started, slot.dialogue)
        if was_closed and tracker.state is EndpointState.OPEN:
            _log.warning("endpoint %s is left alone for now: %s", slot.endpoint.name, reason)
        self._after_failure(now)
        return at_fault

    def refused(self, slot: Slot, reason: str) -> None:
        """Note that the endpoint will not serve us: wrong key or wrong address."""
        now = self._leave(slot)
        if not slot.tracker.refused:
            _log.warning("endpoint %s is taken out: %s", slot.endpoint.name, reason)
        slot.tracker.refuse(now, reason)
        self._after_failure(now)

    def unknown_model(self, slot: Slot, model: str, reason: str) -> None:
        """Note that the endpoint does not serve `model`, or not what is asked of it."""
        now = self._leave(slot)
        if model not in slot.tracker.unknown_models:
            _log.warning("endpoint %s is not used for the model %s: %s", slot.endpoint.name, model, reason)
        slot.tracker.unknown_models[model] = reason
        # It works, after all.
        slot.tracker.answered(now, saturated=False)
        self._after_failure(now)

    async def is_at_fault(self, name: str, since: float, dialogue: str) -> bool:
        """Whether it is the endpoint, not the requests of `dialogue`, that has failed `since` then.

        Others are answered, or a call that belongs to nobody is: then it is not.
        Raises RunStoppedError when that call's failure ends the patience.
        """
        tracker = next(t for t in self.trackers if t.endpoint.name == name)
        if tracker.has_answered(since, other_than=dialogue):
            return False
        reason = await self._try_out(tracker)
        self._raise_if_stopped()
        return bool(reason)

    def abandoned(self, slot: Slot) -> None:
        """Free the slot of a call that its caller gave up, which says nothing about the endpoint."""
        self._leave(slot)
        self._dispatch()

    def moved(self, endpoint: Endpoint) -> None:
        """Forget what failed: the endpoint of this name has another address or key now."""
        for tracker in self.trackers:
            if tracker.endpoint.name == endpoint.name:
                tracker.endpoint = endpoint
                tracker.refused = False
                tracker.failed_trials = 0
                tracker.open_until = min(tracker.open_until, asyncio.get_running_loop().time())
        self._dispatch()

    def health(self) -> list[EndpointHealth]:
        """Return the state of every endpoint."""
        return [t.snapshot() for t in self.trackers]

    async def aclose(self) -> None:
        """Stop probing; calls that wait are told that the client was closed."""
        self._stop(RunStoppedError("the client was closed"))
        if self._wake:
            self._wake.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _leave(self, slot: Slot) -> float:
        slot.tracker.in_flight -= 1
        return asyncio.get_running_loop().time()

    # Choosing

    def _take(self, now: float, wanted: Wanted, affinity: str, avoid: Collection[str]) -> Slot | None:
        group = self.serving(wanted.caller)
        free = [t for t in group if t.has_room(now) and wanted.model not in t.unknown_models]
        if avoid and len(free) > 1:
            free = [t for t in free if t.endpoint.name not in avoid] or free
        if not free:
            return None
        tracker = free[0] if len(free) == 1 else self._balancer.choose(free, affinity, group)
        tracker.in_flight += 1
        saturated = tracker.in_flight >= int(tracker.limit) - 1
        return Slot(tracker, now, affinity, saturated)

    # Waiting

    def _dispatch(self) -> None:
        """Give free slots to those who wait, in the order they came."""
        queues = {wanted: queue for wanted, queue in self._waiting.items() if queue}
        if not queues:
            return
        now = asyncio.get_running_loop().time()
        while queues:
            wanted = min(queues, key=lambda kind: queues[kind][0])
            queue = queues[wanted]
            waiter = queue[0]
            if not waiter.future.done():
                slot = self._take(now, wanted, waiter.affinity, waiter.avoid)
                if slot is None:
                    # Nothing is free for such calls; others may be served elsewhere.
                    del queues[wanted]
                    continue
                waiter.future.set_result(slot)
            heapq.heappop(queue)
            if not queue:
                del queues[wanted]
        if any(self._waiting.values()):
            self._schedule_wake(now)

    def _schedule_wake(self, now: float) -> None:
        """Wake up when a pause ends, or patience; at once where no call is left that could end a doubt."""
        times = [t.paused_until for t in self.trackers if t.paused_until > now]
        for group in self._groups.values():
            ends = [t.patience_ends(self.patience_s) for t in group]
            if None not in ends:
                times.append(max(end for end in ends if end is not None))
        if self._wake:
            self._wake.cancel()
            self._wake = None
        times = [t for t in times if t > now]
        if any(t.state is EndpointState.CLOSED and self._is_in_doubt(t, now) for t in self.trackers):
            times.append(now)
        if times:
            loop = asyncio.get_running_loop()
            self._wake = loop.call_at(min(times) + 0.001, self._on_wake)

    def _on_wake(self) -> None:
        self._wake = None
        self._after_failure(asyncio.get_running_loop().time())

    # Failing and stopping

    def _after_failure(self, now: float) -> None:
        for tracker in self.trackers:
            if tracker.state is EndpointState.OPEN and not tracker.waiting_for_probe:
                tracker.waiting_for_probe = True
                self._begin(self._bring_back(tracker))
            elif tracker.state is EndpointState.CLOSED and self._is_in_doubt(tracker, now):
                self._begin(self._try_out(tracker))
        for caller, group in self._groups.items():
            whose = f" for {caller}" if len(group) < len(self.trackers) else ""
            if error := patience.reason_to_stop(group, now, self.patience_s, whose):
                self._stop(error)
        if any(t.unknown_models for t in self.trackers):
            for wanted, queue in self._waiting.items():
                if queue and (reason := patience.unusable(self.serving(wanted.caller), wanted.model)):
                    for waiter in queue:
                        _fail(waiter, RunRefusedError(reason))
        self._dispatch()
        self.on_setback()

    async def _bring_back(self, tracker: HealthTracker) -> None:
        """Wait out the back-off of an open circuit and try, until the endpoint is back."""
        loop = asyncio.get_running_loop()
        try:
            while tracker.state is not EndpointState.CLOSED and not self._stopped:
                left_s = tracker.open_until - loop.time()
                if left_s > 0 and tracker.state is EndpointState.OPEN:
                    await asyncio.sleep(left_s)
                else:
                    await self._try_out(tracker)
        finally:
            tracker.waiting_for_probe = False
        self._dispatch()

    async def _try_out(self, tracker: HealthTracker) -> str:
        """Make a call of no dialogue, or wait for the one under way; returns why it was not answered."""
        name = tracker.endpoint.name
        trial = self._trials.get(name)
        if trial is None:
            trial = self._trials[name] = self._begin(self._trial(tracker))
            trial.add_done_callback(lambda _: self._trials.pop(name, None))
        try:
            return await asyncio.shield(trial)
        except asyncio.CancelledError:
            if trial.cancelled():
                self._raise_if_stopped()
            raise

    async def _trial(self, tracker: HealthTracker) -> str:
        tracker.trial_begun()
        try:
            reason = await self._probe(tracker.endpoint)
        except Exception as error:  # whatever it is, nobody may wait for it for ever
            _log.exception("a trial of endpoint %s failed", tracker.endpoint.name)
            reason = f"{type(error).__name__}: {error}"
        now = asyncio.get_running_loop().time()
        if reason:
            tracker.trial_failed(now, reason)
            self._after_failure(now)
        else:
            if tracker.state is not EndpointState.CLOSED:
                _log.warning("endpoint %s answers again", tracker.endpoint.name)
            tracker.trial_succeeded(now)
            self._dispatch()
        return reason

    def _begin(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _is_in_doubt(self, tracker: HealthTracker, now: float) -> bool:
        """Whether patience is over with an endpoint that may still be well, and no call to it under way."""
        return (
            patience.has_had_enough(tracker, now, self.patience_s)
            and tracker.in_flight == 0
            and tracker.endpoint.name not in self._trials
        )

    def _check_usable(self, wanted: Wanted) -> None:
        if any(t.unknown_models for t in self.trackers) and (
            reason := patience.unusable(self.serving(wanted.caller), wanted.model)
        ):
            raise RunRefusedError(reason)

    def _stop(self, error: RunStoppedError) -> None:
        self._stopped = self._stopped or error
        for queue in self._waiting.values():
            for waiter in queue:
                _fail(waiter, _like(self._stopped))
            queue.clear()

    def _raise_if_stopped(self) -> None:
        if self._stopped is not None:
            raise _like(self._stopped)


def _like(error: RunStoppedError) -> RunStoppedError:
    """Return another such error: each that is raised has a traceback of its own."""
    return type(error)(str(error))


def _fail(waiter: _Waiter, error: RunStoppedError) -> None:
    if not waiter.future.done():
        waiter.future.set_exception(error)
