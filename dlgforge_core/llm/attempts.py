"""One call over its attempts: an endpoint, a request in its dialect, and what a failure leads to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import NoReturn

import tenacity

from dlgforge_core.config import RoutingConfig
from dlgforge_core.dialogue import DropReason
from dlgforge_core.llm import completions, pauses, provider_state, refusals, server_errors
from dlgforge_core.llm.answers import Reply
from dlgforge_core.llm.call_errors import CallError
from dlgforge_core.llm.calls import MAX_ADAPTATIONS, Call, Retry, request_body, wait
from dlgforge_core.llm.check import probe
from dlgforge_core.llm.dialect import Dialect, adapt, is_about_tools
from dlgforge_core.llm.dialects import Dialects, searches
from dlgforge_core.llm.endings import Endings
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.health import FAILURES_TO_OPEN, EndpointHealth, EndpointState
from dlgforge_core.llm.prices import PriceList
from dlgforge_core.llm.refusals import Blame
from dlgforge_core.llm.roles import FAILURES_TO_STOP
from dlgforge_core.llm.router import Router, Slot
from dlgforge_core.llm.server_errors import ErrorAnswer
from dlgforge_core.llm.stats import CallStats, Counts, FailureKind
from dlgforge_core.llm.transport import EndpointTransport, HttpAnswer, TransportError
from dlgforge_core.llm.trial import TRIAL_MESSAGES, Trial
from dlgforge_core.llm.vocabulary import Meaning

_log = logging.getLogger(__name__)


class Attempts:
    """Makes calls until one is answered, and remembers what each endpoint understands.

    Belongs to one event loop. Raises ConfigError without endpoints, or for a key no header can hold.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        routing: RoutingConfig,
        stats: CallStats,
        *,
        patience_s: float,
        failures_to_stop: int = FAILURES_TO_STOP,
        prices: PriceList | None = None,
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
        self._prices = prices or PriceList()
        self._words = {word: Meaning(meaning) for word, meaning in routing.error_words.items()}
        self._endings = Endings(routing.finish_reasons)
        self._without_usage: set[str] = set()
        self._last_failed: dict[str, Call] = {}
        """By endpoint the call that failed last: what its trial looks like."""
        self._patience_s = patience_s
        self._failures_to_stop = failures_to_stop
        self._max_attempts = routing.max_attempts
        self._dialects = Dialects()
        self._retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Retry), stop=self._is_spent, wait=wait, reraise=True
        )

    async def answer(self, call: Call) -> Reply:
        """Return the chat completion that answers `call`.

        Raises CallError when this call cannot succeed, RunStoppedError when none can.
        """
        call.ticket = self.router.ticket()
        try:
            return await self._attempt(call)
        except Retry as failure:
            call.first_failure = failure
        try:
            return await self._answer_at_last(call)
        finally:
            call.end_search()

    async def _answer_at_last(self, call: Call) -> Reply:
        """Return the answer to a call whose first attempt failed."""
        while True:
            # Only now: setting tenacity up is a tenth of the CPU of a call that just works.
            try:
                reply: Reply = await self._retrying.copy()(self._attempt_again, call)
            except Retry:
                if not await self._is_fault_of_endpoints(call):
                    tried = "\n".join(f"  {reason}" for reason in call.reasons)
                    message = f"given up after {call.attempts} attempts:\n{tried}"
                    endpoint = next(reversed(call.failed_at), "")
                    raise CallError(DropReason.ENDPOINT_ERROR, message, endpoint) from None
                call.begin_again()
            else:
                return reply

    async def _is_fault_of_endpoints(self, call: Call) -> bool:
        """Whether every endpoint that the call failed on fails others as well: then it is no call's fault."""
        if not call.failed_at or call.adaptations > MAX_ADAPTATIONS:
            return False
        for name, since in list(call.failed_at.items()):
            self._last_failed[name] = call
            if not await self.router.is_at_fault(name, since, call.affinity):
                return False
        return True

    async def _attempt_again(self, call: Call) -> Reply:
        if failure := call.first_failure:
            # The attempt made before counts as the first of tenacity's, so that it waits and stops rightly.
            call.first_failure = None
            raise failure
        if (search := call.waits_for) is not None:
            call.waits_for = None
            await search.wait()
        return await self._attempt(call)

    def _is_spent(self, state: tenacity.RetryCallState) -> bool:
        call: Call = state.args[0]
        if call.spent >= self._most(call) or call.adaptations > MAX_ADAPTATIONS:
            return True
        # An overloaded endpoint slows a run down; but a request it never takes must end some time.
        return (
            call.overloads > 2 * self._most(call)
            and asyncio.get_running_loop().time() - call.overloaded_since > self._patience_s
        )

    async def _attempt(self, call: Call) -> Reply:
        slot = await self.router.acquire(call.ticket, call.wanted, call.affinity, call.avoid)
        name = slot.endpoint.name
        counts = self._stats.of(name, call.role)
        call.attempts += 1
        if call.attempts > 1:
            counts.retries += 1
        dialect = self._dialects.of(name, call.model)
        # As asked now: another call may find out meanwhile that the endpoint understands less.
        mode, tools_offered = dialect.json_mode, bool(call.tools) and dialect.tools
        loop = asyncio.get_running_loop()
        try:
            asked_in = call.tried if call.tried is not None and call.tried_at == name else dialect
            body = request_body(asked_in, call, call.messages)
            if self.before_call is not None:
                await self.before_call()
            started = loop.time()
            http = await self.transports[name].post_chat(body, call.agent.timeout_s)
        except TransportError as failure:
            self._failed(call, slot, counts, failure.kind, str(failure))
        except BaseException:
            self.router.abandoned(slot)
            raise
        if http.status != 200:
            error = server_errors.read_error(http, self._words)
            self._refused(call, slot, counts, dialect, error, http, body)
        latency_s = loop.time() - started
        try:
            answer = completions.read_answer(http.body, self._words)
        except ValueError as unreadable:
            self._failed(call, slot, counts, FailureKind.INVALID_BODY, str(unreadable))
        if isinstance(answer, ErrorAnswer):
            self._refused(call, slot, counts, dialect, answer, http, body)
        transport = self.transports[name]
        if http.leaked or (
            transport.has_secrets
            and completions.is_in_pieces(http.body)
            and transport.holds_secret(answer.written)
        ):
            reason = "its answer holds the key that it was sent"
            self._failed(call, slot, counts, FailureKind.LEAKED_KEY, reason)
        if not answer.tells_usage:
            self._note_missing_usage(name)
            answer = answer.with_estimated_usage(body)
        tokens = answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens or 0
        used = self._prices.usage(call.wanted.caller, name, call.model, *tokens)
        counts.add_usage(used)
        ending = self._endings.of(answer.finish_reason, name)
        if ending.failure is not None:
            self._failed(call, slot, counts, ending.failure, ending.problem)
        self.router.answered(slot)
        dialect.answered.add(call.role)
        dialect.tools_worked = dialect.tools_worked or tools_offered
        provider_state.notice(dialect, answer)
        if asked_in is not dialect:
            dialect.learn(asked_in)
            self._dialects.tell(name, call.model, call.reasons[-1])
            call.end_search()
        counts.calls += 1
        counts.latency.add(latency_s)
        self.on_answer()
        if answer.finish_reason != ending.kind.value:
            answer = answer._replace(finish_reason=ending.kind.value)
        return Reply(answer, name, dialect, mode, tools_offered, latency_s, used)

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
        """Count a failure, of the endpoint or of the call, and try again, elsewhere if possible."""
        counts.failures[kind] += 1
        name = slot.endpoint.name
        self._note(call, slot, reason)
        if name not in call.avoid:
            call.avoid.append(name)
        self._last_failed[name] = call
        call.failed_at.setdefault(name, slot.started)
        if not self.router.failed(slot, kind, reason):
            call.spent += 1
        raise Retry(kind, reason)

    def _refused(
        self,
        call: Call,
        slot: Slot,
        counts: Counts,
        dialect: Dialect,
        error: ErrorAnswer,
        http: HttpAnswer,
        sent: bytes,
    ) -> NoReturn:
        """Find out whose fault an error is, whatever status it came with, and do what follows from it."""
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
            error.status in (400, 401, 403, 404, 412) and self._has_answered(slot, dialect, refusal)
        ):
            self._failed(call, slot, counts, kind, reason)
        counts.failures[kind] += 1
        self._note(call, slot, reason)
        if refusal.blame is Blame.OVERLOAD:
            call.overloads += 1
            call.overloaded_since = call.overloaded_since or asyncio.get_running_loop().time()
            call.failed_at.setdefault(slot.endpoint.name, slot.started)
            self._last_failed[slot.endpoint.name] = call
            self.router.overloaded(slot, reason, pause_s)
            raise Retry(kind, reason)
        if refusal.blame is Blame.SETUP:
            self.router.refused(slot, reason)
        elif refusal.blame is Blame.MODEL:
            self.router.unknown_model(slot, call.model, reason)
        elif refusal.blame is Blame.TOOL_CALL:
            self.router.answered(slot)
            call.do_without_tools()
            call.adaptations += 1
        else:
            self._ask_differently(call, slot, dialect, error, sent)
            call.adaptations += 1
        raise Retry(kind, reason, wait=False)

    def _ask_differently(
        self, call: Call, slot: Slot, dialect: Dialect, error: ErrorAnswer, sent: bytes
    ) -> None:
        """Learn from a refused request, or ask elsewhere. Raises CallError when neither can help."""
        name = slot.endpoint.name
        if server_errors.is_context_overflow(error):
            self.router.answered(slot)
            raise CallError(DropReason.CONTEXT_OVERFLOW, f"{name}: {error}", name)
        if server_errors.is_content_filter(error):
            self.router.answered(slot)
            raise CallError(DropReason.REFUSED, f"{name}: {error}", name)
        if provider_state.adapt(dialect, error, sent):
            self.router.answered(slot)
            _log.info("endpoint %s: %s; its own fields are sent as it wants them from now on", name, error)
            return
        if adapt(dialect, error, sent):
            self.router.answered(slot)
            call.tried = None  # what is known now may be enough
            self._dialects.tell(name, call.model, str(error))
            return
        if searches(call, name, dialect, sent):
            self.router.answered(slot)
            return
        if dialect.tools_worked and is_about_tools(error, sent):
            # They have worked here: it is about what this call has sent.
            self.router.answered(slot)
            _log.info("endpoint %s: %s; this call is made without tools", name, error)
            call.do_without_tools()
            return
        alike = dialect.refused_alike(call.role, error)
        if alike >= self._failures_to_stop:
            reason = f"it answers every call of {call.role.value} with {error}"
            self.router.unknown_model(slot, call.model, reason)
            return
        self.router.answered(slot)
        if not alike or not self._may_ask_elsewhere(call, name):
            raise CallError(DropReason.ENDPOINT_ERROR, f"{name}: {error}", name)

    def dialect(self, endpoint: str, model: str) -> Dialect:
        """Return what an endpoint is known to understand for a model."""
        return self._dialects.of(endpoint, model)

    def health(self) -> list[EndpointHealth]:
        """Return the state of every endpoint, with what was learned of it."""
        return [
            replace(health, lessons=self._dialects.lessons_of(health.endpoint))
            for health in self.router.health()
        ]

    def _may_ask_elsewhere(self, call: Call, name: str) -> bool:
        """Keep `call` away from the endpoint `name`; whether there is another that it has not been to."""
        call.spent += 1
        if name not in call.avoid:
            call.avoid.append(name)
        return call.spent < self._most(call) and any(
            tracker.endpoint.name not in call.avoid
            and tracker.state is EndpointState.CLOSED
            and call.model not in tracker.unknown_models
            for tracker in self.router.serving(call.wanted.caller)
        )

    def _most(self, call: Call) -> int:
        """Return how many attempts the call has."""
        return call.agent.max_attempts or self._max_attempts

    def _note(self, call: Call, slot: Slot, reason: str) -> None:
        call.reasons.append(f"{slot.endpoint.name}: {reason}")
        del call.reasons[: -2 * self._most(call)]

    def _has_answered(self, slot: Slot, dialect: Dialect, refusal: refusals.Refusal) -> bool:
        """Whether the endpoint has shown that it takes our key, or serves the model: it may do so again."""
        if refusal.blame is Blame.SETUP:
            return self._dialects.has_answered(slot.endpoint.name)
        return refusal.blame is Blame.MODEL and bool(dialect.answered)

    # Endpoints

    async def _probe(self, endpoint: Endpoint) -> str:
        """Why the endpoint does not answer a call of no dialogue, in the form of the one that failed last."""
        transport = self.transports[endpoint.name]
        reason = await probe(transport)
        call = self._last_failed.get(endpoint.name)
        if reason or call is None:
            return reason
        dialect = self._dialects.of(endpoint.name, call.model)
        counts = self._stats.of(endpoint.name, call.role)
        counts.retries += 1
        body = request_body(dialect, call, TRIAL_MESSAGES)
        trial = Trial(transport, body, self._words, self._endings, timeout_s=call.agent.timeout_s)
        reason = await trial.make()
        tokens = trial.prompt_tokens, trial.completion_tokens, 0
        counts.add_usage(self._prices.usage(call.wanted.caller, endpoint.name, call.model, *tokens))
        return reason

    async def move(self, endpoints: Sequence[Endpoint]) -> None:
        """Follow endpoints that came back elsewhere: of each name known, take the address and key given."""
        for found in endpoints:
            before = self.transports.get(found.name)
            if before is None:
                continue
            endpoint = replace(found, callers=before.endpoint.callers)
            if before.endpoint == endpoint:
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
