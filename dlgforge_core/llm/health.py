"""What is known of one endpoint from the outcomes of its calls: may it be called, and by how many at once.

Two independent judgements. The circuit: an endpoint on which the calls of several dialogues fail is left
alone for a growing, jittered time, then tried with a call that belongs to no dialogue. The limit: how many
calls it bears at once, found by going down when it says 429 or times out and up while it is saturated and
answers well.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.stats import FailureKind

START_LIMIT = 64
FAILURES_TO_OPEN = 5
DIALOGUES_TO_OPEN = 2
"""One dialogue's failures, however many, may be its own fault."""
RECENT_FAILURES = 20
FAILURE_RATE_TO_OPEN = 0.6
FAILURE_RATE_WEIGHT = 0.05  # of the newest outcome in the moving average
OVERLOAD_RATE_TO_CUT = 0.3
OVERLOAD_RATE_WEIGHT = 0.1
FIRST_BACK_OFF_S = 0.25
LONGEST_BACK_OFF_S = 15.0
REFUSED_BACK_OFF_S = 60.0
LONGEST_PAUSE_S = 900.0
"""An endpoint that asks for a longer pause is not waited for."""
GROWTH_PER_ANSWER = 0.05  # of the limit near a known ceiling: 5 % more in each round trip
LOW_GROWTH = 0.5  # the same, shared among the calls of a round trip when the limit is small
GROWTH_REST = 10.0  # after a Retry-After, stay at the limit found for this many times as long


class EndpointState(StrEnum):
    """State of an endpoint's circuit."""

    CLOSED = "closed"  # calls go through
    OPEN = "open"  # left alone
    HALF_OPEN = "half_open"  # tried with a call of no dialogue


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    """One endpoint at one moment, for progress lines. `reason`: of the last failure, empty if it is well.

    `lessons`: what it is asked for otherwise than by default.
    """

    endpoint: str
    state: EndpointState
    limit: int
    in_flight: int
    reason: str
    lessons: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "endpoint": self.endpoint,
            "state": self.state.value,
            "limit": self.limit,
            "in_flight": self.in_flight,
            "reason": self.reason,
            "lessons": list(self.lessons),
        }


class HealthTracker:
    """Circuit and limit of one endpoint. Times are those of one monotonic clock, in seconds."""

    __slots__ = (
        "_answers", "_back_off_max_s", "_ceiling_known", "_failed_dialogues", "_failures_to_open",
        "_growth_from", "_last_cut", "_overload_rate", "_overloads_in_a_row", "_random", "_recent",
        "consecutive_failures", "endpoint", "failed_trials", "failing_since", "failure_rate", "in_flight",
        "limit", "longest_pause_s", "open_until", "opened", "paused_until", "reason", "refused", "state",
        "unknown_models", "waiting_for_probe",
    )  # fmt: skip

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        failures_to_open: int = FAILURES_TO_OPEN,
        back_off_max_s: float = LONGEST_BACK_OFF_S,
    ) -> None:
        self.endpoint = endpoint
        self._failures_to_open = failures_to_open
        self.state = EndpointState.CLOSED
        self.in_flight = 0
        self.limit = float(min(START_LIMIT, endpoint.max_in_flight))
        self.consecutive_failures = 0
        self.failure_rate = 0.0
        self.failing_since: float | None = None
        """When it first failed, or said 429, after its last good answer."""
        self.reason = ""
        self.refused = False
        """The key or the address is wrong, so that waiting does not help."""
        self.unknown_models: dict[str, str] = {}
        self.paused_until = 0.0
        self.longest_pause_s = 0.0
        """The longest pause it has asked for after its last good answer."""
        self.open_until = 0.0
        self.opened = 0
        """How often in a row the circuit opened without a good answer in between."""
        self.failed_trials = 0
        """How often in a row a call of no dialogue failed."""
        self._failed_dialogues: set[str] = set()
        """Whose calls failed after the last good answer; a few, which is all that matters."""
        self._recent: deque[str] = deque(maxlen=RECENT_FAILURES)
        self._answers: list[tuple[str, float]] = []
        """The last two dialogues that were answered, and when."""
        self.waiting_for_probe = False
        self._back_off_max_s = back_off_max_s
        self._ceiling_known = False
        self._growth_from = 0.0
        self._last_cut = float("-inf")
        self._overload_rate = 0.0
        self._overloads_in_a_row = 0
        self._random = random.Random()

    # What the router asks

    def has_room(self, now: float) -> bool:
        """Whether a call may start now."""
        return (
            self.state is EndpointState.CLOSED
            and self.in_flight < int(self.limit)
            and self.paused_until <= now
        )

    def bears(self, now: float) -> int:
        """How many calls it takes at once, those under way included."""
        if self.state is not EndpointState.CLOSED:
            return 0
        return int(self.limit) if self.paused_until <= now else self.in_flight

    def has_answered(self, since: float, *, other_than: str) -> bool:
        """Whether a dialogue `other_than` this one has been answered after `since`."""
        return any(when > since for dialogue, when in self._answers if dialogue != other_than)

    def patience_ends(self, patience_s: float) -> float | None:
        """When an endpoint that fails has had its `patience_s`; the pause it asked for does not count."""
        if self.failing_since is None:
            return None
        return self.failing_since + self.longest_pause_s + patience_s

    def asks_too_much(self, now: float) -> bool:
        """Whether the pause it asked for is longer than anybody waits."""
        return self.paused_until - now > LONGEST_PAUSE_S

    def snapshot(self) -> EndpointHealth:
        """Return the state for progress lines."""
        return EndpointHealth(self.endpoint.name, self.state, int(self.limit), self.in_flight, self.reason)

    # What calls report; `in_flight` no longer counts the call that does

    def answered(self, now: float, *, saturated: bool, dialogue: str = "") -> None:
        """Count an answer; `saturated`: as many as the limit allows were in flight."""
        if self.state is not EndpointState.CLOSED:
            self._close()
        self._answers = [*[(d, when) for d, when in self._answers if d != dialogue][-1:], (dialogue, now)]
        self._failed_dialogues.clear()
        self.failed_trials = 0
        self.consecutive_failures = 0
        self.failure_rate *= 1.0 - FAILURE_RATE_WEIGHT
        self.failing_since = None
        self.longest_pause_s = 0.0
        self.reason = ""
        self._overloads_in_a_row = 0
        self._overload_rate *= 1.0 - OVERLOAD_RATE_WEIGHT
        if saturated and now >= self._growth_from:
            growth = max(GROWTH_PER_ANSWER, LOW_GROWTH / self.limit) if self._ceiling_known else 1.0
            self.limit = min(float(self.endpoint.max_in_flight), self.limit + growth)

    def overloaded(self, now: float, reason: str, retry_after_s: float | None) -> None:
        """Note that a call was one too many (429). Not a failure: it works, but has enough."""
        self._failing(now, reason)
        self._overload_rate += OVERLOAD_RATE_WEIGHT * (1.0 - self._overload_rate)
        # A stray 429 is one call too many. When many come, the calls it still holds are what it bears.
        bears = self.limit - 1.0
        if self._overload_rate > OVERLOAD_RATE_TO_CUT:
            bears = min(bears, float(self.in_flight))
        self.limit = max(1.0, bears)
        self._ceiling_known = True
        self._overloads_in_a_row += 1
        if retry_after_s is not None:
            self.reason = f"{reason} (it asks for a pause of {retry_after_s:g} s)"
            self.paused_until = max(self.paused_until, now + retry_after_s)
            self.longest_pause_s = max(self.longest_pause_s, retry_after_s)
            self._growth_from = max(self._growth_from, now + GROWTH_REST * retry_after_s)
        elif self.in_flight == 0:
            self.paused_until = now + self._jittered(min(self._overloads_in_a_row, 16))

    def failed(self, now: float, kind: FailureKind, reason: str, started: float, dialogue: str = "") -> bool:
        """Count a failure, by the endpoint or its own request, of a call that began at `started`.

        Returns whether the endpoint is taken to be at fault: several dialogues failed, and none succeeded.
        """
        self._failing(now, reason)
        self.consecutive_failures += 1
        if len(self._failed_dialogues) < DIALOGUES_TO_OPEN:
            self._failed_dialogues.add(dialogue)
        self._recent.append(dialogue)
        self.failure_rate += FAILURE_RATE_WEIGHT * (1.0 - self.failure_rate)
        if kind is FailureKind.TIMEOUT and started > self._last_cut:
            # One cut for all the calls of one congestion: those begun before the last cut say nothing new.
            self._last_cut = now
            self._ceiling_known = True
            self.limit = max(1.0, self.limit * 0.7)
        if self.state is not EndpointState.CLOSED:
            return True
        several = len(self._failed_dialogues) >= DIALOGUES_TO_OPEN
        if (several and self.consecutive_failures >= self._failures_to_open) or (
            self.failure_rate > FAILURE_RATE_TO_OPEN and len(set(self._recent)) >= DIALOGUES_TO_OPEN
        ):
            self._open(now)
            return True
        # With few calls at once, five in a row may take minutes of time-outs: look sooner.
        if self.in_flight == 0 and kind is FailureKind.TIMEOUT and self.consecutive_failures > 1:
            self._open(now)
        return False

    def refuse(self, now: float, reason: str) -> None:
        """Note that the key or the address is wrong: leave the endpoint alone for long."""
        self._failing(now, reason)
        self.refused = True
        self._open(now)

    def trial_begun(self) -> None:
        """Note that a trial looks whether the endpoint is back."""
        if self.state is EndpointState.OPEN:
            self.state = EndpointState.HALF_OPEN

    def trial_failed(self, now: float, reason: str) -> None:
        """Note that the trial failed: nobody's request is to blame."""
        self._failing(now, reason)
        self.failed_trials += 1
        self._open(now)

    def trial_succeeded(self, now: float) -> None:
        """Note that the trial was answered: what failed were requests."""
        self.answered(now, saturated=False)
        self.paused_until = min(self.paused_until, now)

    def _failing(self, now: float, reason: str) -> None:
        self.reason = reason
        if self.failing_since is None:
            self.failing_since = now

    def _open(self, now: float) -> None:
        self.state = EndpointState.OPEN
        self.opened += 1
        self.open_until = now + (REFUSED_BACK_OFF_S if self.refused else self._jittered(self.opened))

    def _close(self) -> None:
        self.state = EndpointState.CLOSED
        self.opened = 0
        self.refused = False
        self.failure_rate = 0.0
        self.consecutive_failures = 0
        # It may have come back cold: begin lower, and double with every round trip.
        self.limit = max(1.0, self.limit / 2)
        self._ceiling_known = False

    def _jittered(self, times: int) -> float:
        full = min(self._back_off_max_s, FIRST_BACK_OFF_S * 2.0 ** (times - 1))
        return full * self._random.uniform(0.5, 1.0)
