"""One call over its attempts: an endpoint, a request in its dialect, and what a failure leads to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import tenacity

from dlgforge_core.config import AgentConfig, RoutingConfig
from dlgforge_core.dialogue import DropReason, Role
from dlgforge_core.llm import chat, completions, pauses, refusals, server_errors, tool_calls
from dlgforge_core.llm.answers import Reply
from dlgforge_core.llm.call_errors import CallError, RequestRefusedError
from dlgforge_core.llm.check import probe
from dlgforge_core.llm.dialect import Dialect, adapt
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.health import FAILURES_TO_OPEN, EndpointState
from dlgforge_core.llm.refusals import Blame
from dlgforge_core.llm.router import Router, Slot
from dlgforge_core.llm.stats import CallStats, Counts, FailureKind
from dlgforge_core.llm.tool_calls import Message, ToolDefinition
from dlgforge_core.llm.transport import EndpointTransport, HttpAnswer, TransportError

_log = logging.getLogger(__name__)

MAX_ADAPTATIONS = 8
REFUSALS_TO_STOP = 10
"""Calls in a row refused alike, none of their role answered before: it is no matter of one call."""


class _Retry(Exception):
    """This attempt failed, another may not. `wait`: back off first."""

    def __init__(self, kind: FailureKind, reason: str, *, wait: bool = True) -> None:
        super().__init__(reason)
        self.kind = kind
        self.wait = wait


@dataclass(slots=True)
class Call:
    """One call on its way through its attempts."""

    role: Role
    agent: AgentConfig
    model: str
    messages: Sequence[Message]
    affinity: str
    seed: int | None
    schema: Mapping[str, Any] | None = None
    tools: Sequence[ToolDefinition] = ()
    ticket: int = 0
    attempts: int = 0
    """HTTP calls made, all of them."""
    spent: int = 0
    """Those that count against max_attempts: not trials of a recovering endpoint, not 429s."""
    overloads: int = 0
    overloaded_since: float = 0.0
    adaptations: int = 0
    avoid: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    first_failure: _Retry | None = None


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, _Retry) and not error.wait:
        return 0.0
    if isinstance(error, _Retry) and error.kind is FailureKind.RATE_LIMITED:
        return _OVERLOAD_WAIT(state)
    return _FAILURE_WAIT(state)


# Short for 429: the endpoint's own pause and limit hold its calls back.
_OVERLOAD_WAIT = tenacity.wait_random_exponential(multiplier=0.05, max=2.0)
_FAILURE_WAIT = tenacity.wait_random_exponential(multiplier=0.1, max=10.0)


class Attempts:
    """Makes calls until one is answered, and remembers what each endpoint understands.

    Belongs to one event loop. Raises ConfigError without endpoints, or for a key no header can hold.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], routing: RoutingConfig, stats: CallStats, *, patience_s: float
    ) -> None:
        self.transports = {e.name: EndpointTransport(e) for e in endpoints}
        self.router = Router(
            endpoints,
            routing.strategy,
            patience_s=patience_s,
            probe=self._probe,
            # Before one call alone has used up its attempts at a dead endpoint.
            failures_to_open=max(1, min(FAILURES_TO_OPEN, routing.max_attempts - 1)),
        )
        self.on_answer: Callable[[], None] = lambda: None
        """Called whenever an answer has been counted."""
        self.before_call: Callable[[], Awaitable[None]] | None = None
        """Awaited before every request: it goes out when that returns."""
        self._stats = stats
        self._without_usage: set[str] = set()
        self._patience_s = patience_s
        self._max_attempts = routing.max_attempts
        self._dialects: dict[tuple[str, str], Dialect] = {}
        self._retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_Retry), stop=self._is_spent, wait=_wait, reraise=True
        )

    async def answer(self, call: Call) -> Reply:
        """The chat completion that answers `call`.

        Raises CallError when this call cannot succeed, RunStoppedError when none can.
        """
        call.ticket = self.router.ticket()
        try:
            return await self._attempt(call)
        except _Retry as failure:
            call.first_failure = failure
        # Only now: setting tenacity up is a tenth of the CPU of a call that just works.
        try:
            reply: Reply = await self._retrying.copy()(self._attempt_again, call)
        except _Retry:
            tried = "\n".join(f"  {reason}" for reason in call.reasons)
            raise CallError(
                DropReason.ENDPOINT_ERROR, f"given up after {call.attempts} attempts:\n{tried}"
            ) from None
        return reply

    async def _attempt_again(self, call: Call) -> Reply:
        if failure := call.first_failure:
            # The attempt made before counts as the first of tenacity's, so that it waits and stops rightly.
            call.first_failure = None
            raise failure
        return await self._attempt(call)

    def _is_spent(self, state: tenacity.RetryCallState) -> bool:
        call: Call = state.args[0]
        if call.spent >= self._max_attempts or call.adaptations > MAX_ADAPTATIONS:
            return True
        # An overloaded endpoint slows a run down; but a request it never takes must end some time.
        return (
            call.overloads > 2 * self._max_attempts
            and asyncio.get_running_loop().time() - call.overloaded_since > self._patience_s
        )

    async def _attempt(self, call: Call) -> Reply:
        slot = await self.router.acquire(call.ticket, call.model, call.affinity, call.avoid)
        name = slot.endpoint.name
        counts = self._stats.of(name, call.role)
        call.attempts += 1
        if call.attempts > 1:
            counts.retries += 1
        dialect = self._dialect(name, call.model)
        # As asked now: another call may find out meanwhile that the endpoint understands less.
        mode, tools_offered = dialect.json_mode, bool(call.tools) and dialect.tools
        loop = asyncio.get_running_loop()
        try:
            body = chat.request_body(
                dialect,
                call.agent,
                call.model,
                call.messages,
                seed=call.seed,
                schema=call.schema,
                tools=call.tools,
            )
            if self.before_call is not None:
                await self.before_call()
            started = loop.time()
            http = await self.transports[name].post_chat(body)
        except TransportError as error:
            self._failed(call, slot, counts, error.kind, str(error))
        except BaseException:
            self.router.abandoned(slot)
            raise
        if http.status != 200:
            self._refused(call, slot, counts, dialect, http, body)
        latency_s = loop.time() - started
        try:
            answer = completions.read_completion(http.body)
        except ValueError as error:
            self._failed(call, slot, counts, FailureKind.INVALID_BODY, str(error))
        self.router.answered(slot)
        dialect.answered.add(call.role)
        if not answer.tells_usage:
            self._note_missing_usage(name)
            answer = answer.with_estimated_usage(body)
        counts.calls += 1
        counts.prompt_tokens += answer.prompt_tokens
        counts.completion_tokens += answer.completion_tokens
        counts.cached_tokens += answer.cached_tokens or 0
        counts.latency.add(latency_s)
        self.on_answer()
        return Reply(answer, name, dialect, mode, tools_offered, latency_s)

    def _note_missing_usage(self, name: str) -> None:
        if name not in self._without_usage:
            self._without_usage.add(name)
            _log.warning(
                "endpoint %s does not tell how many tokens it uses (`usage` is missing): they are estimated, "
                "%d characters a token",
                name,
                completions.CHARS_PER_TOKEN,
            )

    # Failures

    def _failed(self, call: Call, slot: Slot, counts: Counts, kind: FailureKind, reason: str) -> NoReturn:
        """The endpoint failed: blame it and try again, elsewhere if possible."""
        counts.failures[kind] += 1
        if not slot.trial:
            call.spent += 1
        self._note(call, slot, reason)
        if slot.endpoint.name not in call.avoid:
            call.avoid.append(slot.endpoint.name)
        self.router.failed(slot, kind, reason)
        raise _Retry(kind, reason)

    def _refused(
        self, call: Call, slot: Slot, counts: Counts, dialect: Dialect, http: HttpAnswer, sent: bytes
    ) -> NoReturn:
        """An answer with a status other than 200: find out whose fault it is."""
        error = server_errors.read_error(http)
        pause_s = pauses.pause_s(http)
        refusal = refusals.judge(
            error,
            sent,
            pause_s=pause_s,
            has_key=slot.endpoint.has_key,
            location=self.transports[slot.endpoint.name].redact(http.headers.get("location", "")),
        )
        kind, reason = refusal.kind, refusal.reason
        if refusal.blame is Blame.ENDPOINT or (
            http.status in (401, 403, 404) and self._has_answered(slot, dialect, refusal)
        ):
            self._failed(call, slot, counts, kind, reason)
        counts.failures[kind] += 1
        self._note(call, slot, reason)
        if refusal.blame is Blame.OVERLOAD:
            call.overloads += 1
            call.overloaded_since = call.overloaded_since or asyncio.get_running_loop().time()
            self.router.overloaded(slot, reason, pause_s)
            raise _Retry(kind, reason)
        if refusal.blame is Blame.SETUP:
            self.router.refused(slot, reason)
        elif refusal.blame is Blame.MODEL:
            self.router.unknown_model(slot, call.model, reason)
        elif refusal.blame is Blame.TOOL_CALL:
            self.router.answered(slot)
            call.tools = ()
            call.messages = tool_calls.fold(call.messages)
            call.adaptations += 1
        else:
            self._ask_differently(call, slot, dialect, error, sent)
            call.adaptations += 1
        raise _Retry(kind, reason, wait=False)

    def _ask_differently(
        self, call: Call, slot: Slot, dialect: Dialect, error: server_errors.ErrorAnswer, sent: bytes
    ) -> None:
        """Learn from a refused request, or ask elsewhere. Raises CallError when neither can help."""
        name = slot.endpoint.name
        if server_errors.is_context_overflow(error):
            self.router.answered(slot)
            raise CallError(DropReason.CONTEXT_OVERFLOW, f"{name}: {error}")
        if server_errors.is_content_filter(error):
            self.router.answered(slot)
            raise CallError(DropReason.REFUSED, f"{name}: {error}")
        tools = dialect.tools
        if adapt(dialect, error, sent):
            self.router.answered(slot)
            if tools and not dialect.tools:
                _log.warning(
                    "endpoint %s takes no tools for the model %s, so its answers are made without them (%s); "
                    "vLLM takes them with --enable-auto-tool-choice and --tool-call-parser, which go into "
                    "llm.vllm.extra_args where dlgforge starts it",
                    name,
                    call.model,
                    error,
                )
            else:
                _log.info("endpoint %s: %s; asking differently from now on", name, error)
            return
        alike = dialect.refused_alike(call.role, error)
        if alike >= REFUSALS_TO_STOP:
            reason = f"it answers every call of {call.role.value} with {error}"
            self.router.unknown_model(slot, call.model, reason)
            return
        self.router.answered(slot)
        if not alike or not self._may_ask_elsewhere(call, name):
            raise RequestRefusedError(name, call.role, f"{name}: {error}")

    def _may_ask_elsewhere(self, call: Call, name: str) -> bool:
        """Keep `call` away from the endpoint `name`; whether there is another that it has not been to."""
        call.spent += 1
        if name not in call.avoid:
            call.avoid.append(name)
        return call.spent < self._max_attempts and any(
            tracker.endpoint.name not in call.avoid
            and tracker.state is EndpointState.CLOSED
            and call.model not in tracker.unknown_models
            for tracker in self.router.trackers
        )

    def _note(self, call: Call, slot: Slot, reason: str) -> None:
        call.reasons.append(f"{slot.endpoint.name}: {reason}")
        del call.reasons[: -2 * self._max_attempts]

    def _has_answered(self, slot: Slot, dialect: Dialect, refusal: refusals.Refusal) -> bool:
        """Whether the endpoint has shown that it takes our key, or serves the model: it may do so again."""
        if refusal.blame is Blame.SETUP:
            return any(
                known.answered for (name, _), known in self._dialects.items() if name == slot.endpoint.name
            )
        return refusal.blame is Blame.MODEL and bool(dialect.answered)

    # Endpoints

    def _dialect(self, name: str, model: str) -> Dialect:
        dialect = self._dialects.get((name, model))
        if dialect is None:
            dialect = self._dialects[(name, model)] = Dialect()
        return dialect

    async def _probe(self, endpoint: Endpoint) -> str:
        return await probe(self.transports[endpoint.name])

    async def move(self, endpoints: Sequence[Endpoint]) -> None:
        """Follow endpoints that came back elsewhere: of each name known, take the address and key given."""
        for endpoint in endpoints:
            before = self.transports.get(endpoint.name)
            if before is None or before.endpoint == endpoint:
                continue
            _log.info("endpoint %s is at %s now", endpoint.name, endpoint.base_url)
            self.transports[endpoint.name] = EndpointTransport(endpoint)
            self.router.moved(endpoint)
            await before.aclose()

    async def aclose(self) -> None:
        """Close all connections; calls that wait for an endpoint fail."""
        await self.router.aclose()
        for transport in self.transports.values():
            await transport.aclose()
