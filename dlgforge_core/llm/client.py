"""The client every LLM call goes through: routing, retries, repair and accounting."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar, overload

import tenacity

from dlgforge_core.config import AgentConfig, RoutingConfig
from dlgforge_core.dialogue import DropReason, Role
from dlgforge_core.llm import chat, structured, text
from dlgforge_core.llm.chat import Answer, CallError, Completion, Dialect, Message
from dlgforge_core.llm.check import probe
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.health import FAILURES_TO_OPEN, EndpointHealth
from dlgforge_core.llm.router import Router, Slot
from dlgforge_core.llm.stats import CallStats, Counts, FailureKind
from dlgforge_core.llm.structured import JsonMode
from dlgforge_core.llm.transport import EndpointTransport, HttpAnswer, TransportError

__all__ = ["CallError", "Completion", "LlmClient", "Message"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

IGNORED_SCHEMAS_TO_LOWER = 3
MAX_ADAPTATIONS = 8


class _Retry(Exception):
    """This attempt failed, another may not. `wait`: back off first."""

    def __init__(self, kind: FailureKind, reason: str, *, wait: bool = True) -> None:
        super().__init__(reason)
        self.kind = kind
        self.wait = wait


@dataclass(slots=True)
class _Call:
    """One call on its way through its attempts."""

    role: Role
    agent: AgentConfig
    model: str
    messages: Sequence[Message]
    affinity: str
    seed: int | None
    schema: Mapping[str, Any] | None
    ticket: int
    attempts: int = 0
    """HTTP calls made, all of them."""
    spent: int = 0
    """Those that count against max_attempts: not trials of a recovering endpoint, not 429s."""
    overloads: int = 0
    overloaded_since: float = 0.0
    adaptations: int = 0
    avoid: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Reply:
    """A chat completion, as it came, and from where."""

    answer: Answer
    endpoint: str
    dialect: Dialect
    json_mode: JsonMode
    latency_s: float


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


class LlmClient:
    """Calls the endpoints' models. An async context manager; belongs to one event loop.

    `stats` counts everything. Raises ConfigError without endpoints, or for a key no header can hold.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], routing: RoutingConfig, *, patience_s: float = 60.0
    ) -> None:
        self.stats = CallStats()
        self._patience_s = patience_s
        self._max_attempts = routing.max_attempts
        self._transports = {e.name: EndpointTransport(e) for e in endpoints}
        self._router = Router(
            endpoints,
            routing.strategy,
            patience_s=patience_s,
            probe=self._probe,
            # Before one call alone has used up its attempts at a dead endpoint.
            failures_to_open=max(1, min(FAILURES_TO_OPEN, routing.max_attempts - 1)),
        )
        self._dialects: dict[tuple[str, str], Dialect] = {}
        self._retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_Retry), stop=self._is_spent, wait=_wait, reraise=True
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections; calls that wait for an endpoint fail."""
        await self._router.aclose()
        for transport in self._transports.values():
            await transport.aclose()

    async def move_endpoints(self, endpoints: Sequence[Endpoint]) -> None:
        """Follow endpoints that came back elsewhere: of each name known, take the address and key given."""
        for endpoint in endpoints:
            before = self._transports.get(endpoint.name)
            if before is None or before.endpoint == endpoint:
                continue
            logger.info("endpoint %s is at %s now", endpoint.name, endpoint.base_url)
            self._transports[endpoint.name] = EndpointTransport(endpoint)
            self._router.moved(endpoint)
            await before.aclose()

    def health(self) -> list[EndpointHealth]:
        """The state of every endpoint, for progress lines."""
        return self._router.health()

    async def complete(
        self,
        role: Role,
        agent: AgentConfig,
        model: str,
        messages: Sequence[Message],
        *,
        affinity: str,
        seed: int | None = None,
    ) -> Completion:
        """What the model says next, as plain text without its reasoning.

        `affinity` names the dialogue, which `prefix_affinity` keeps on one endpoint. An answer that is
        empty, garbage, declined or cut too early is asked for once more. Raises CallError when this call
        cannot succeed, RunStoppedError when none can.
        """
        said: list[_Reply] = []
        while True:
            reply = await self._call(role, agent, model, messages, affinity, _other(seed, said), None, said)
            said.append(reply)
            counts = self.stats.of(reply.endpoint, role)
            usable, problem = _usable_text(reply.answer, last_chance=len(said) > 1)
            if problem:
                counts.failures[problem] += 1
            if usable:
                return _completion(usable, model, said)
            if len(said) > 1:
                assert problem is not None
                _give_up(problem, reply)

    @overload
    async def complete_json(
        self,
        role: Role,
        agent: AgentConfig,
        model: str,
        messages: Sequence[Message],
        schema: Mapping[str, Any],
        read: None = None,
        *,
        affinity: str,
        seed: int | None = None,
    ) -> tuple[dict[str, Any], Completion]: ...

    @overload
    async def complete_json(
        self,
        role: Role,
        agent: AgentConfig,
        model: str,
        messages: Sequence[Message],
        schema: Mapping[str, Any],
        read: Callable[[dict[str, Any]], T],
        *,
        affinity: str,
        seed: int | None = None,
    ) -> tuple[T, Completion]: ...

    async def complete_json(
        self,
        role: Role,
        agent: AgentConfig,
        model: str,
        messages: Sequence[Message],
        schema: Mapping[str, Any],
        read: Callable[[dict[str, Any]], Any] | None = None,
        *,
        affinity: str,
        seed: int | None = None,
    ) -> tuple[Any, Completion]:
        """What `read` makes of an answer that follows the JSON `schema`, and the completion it came in.

        `read` raises ValueError, with a message for the model, for an object it cannot use; without it the
        object itself is given, checked for the essentials of `schema`. The schema is enforced by the endpoint
        if it can do that, else asked for in words. A bad answer is shown to the model to be corrected, once.
        Raises CallError and RunStoppedError as `complete` does.
        """
        read = read or functools.partial(structured.check, schema=schema)
        said: list[_Reply] = []
        asked = messages
        while True:
            reply = await self._call(role, agent, model, asked, affinity, _other(seed, said), schema, said)
            said.append(reply)
            answer = text.clean(reply.answer.text)
            kind, problem = FailureKind.INVALID_JSON, ""
            try:
                value = structured.parse(answer, read)
            except ValueError as error:
                problem = str(error)
            else:
                reply.dialect.ignored_schemas = 0
                return value, _completion(answer, model, said)
            if reply.answer.refusal or reply.answer.finish_reason == "content_filter":
                kind = FailureKind.REFUSED
            elif not answer:
                kind, problem = FailureKind.EMPTY, "the answer is empty"
            elif reply.answer.finish_reason == "length":
                kind, problem = FailureKind.CUT, "it was cut off; be shorter"
            self.stats.of(reply.endpoint, role).failures[kind] += 1
            _notice_ignored_schema(reply, answer)
            if len(said) > 1:
                _give_up(kind, reply, problem)
            asked = structured.correction(messages, answer, problem)

    # One call, over its attempts

    async def _call(
        self,
        role: Role,
        agent: AgentConfig,
        model: str,
        messages: Sequence[Message],
        affinity: str,
        seed: int | None,
        schema: Mapping[str, Any] | None,
        said: Sequence[_Reply],
    ) -> _Reply:
        call = _Call(role, agent, model, messages, affinity, seed, schema, self._router.ticket())
        call.attempts = len(said)  # so that asking again counts as a retry
        try:
            reply: _Reply = await self._retrying.copy()(self._attempt, call)
        except _Retry:
            tried = "\n".join(f"  {reason}" for reason in call.reasons)
            raise CallError(
                DropReason.ENDPOINT_ERROR, f"given up after {call.attempts} attempts:\n{tried}"
            ) from None
        return reply

    def _is_spent(self, state: tenacity.RetryCallState) -> bool:
        call: _Call = state.args[0]
        if call.spent >= self._max_attempts or call.adaptations > MAX_ADAPTATIONS:
            return True
        # An overloaded endpoint slows a run down; but a request it never takes must end some time.
        return (
            call.overloads > 2 * self._max_attempts
            and asyncio.get_running_loop().time() - call.overloaded_since > self._patience_s
        )

    async def _attempt(self, call: _Call) -> _Reply:
        slot = await self._router.acquire(call.ticket, call.model, call.affinity, call.avoid)
        name = slot.endpoint.name
        counts = self.stats.of(name, call.role)
        call.attempts += 1
        if call.attempts > 1:
            counts.retries += 1
        dialect = self._dialect(name, call.model)
        mode = dialect.json_mode
        loop = asyncio.get_running_loop()
        try:
            body = chat.request_body(
                dialect, call.agent, call.model, call.messages, seed=call.seed, schema=call.schema
            )
            started = loop.time()
            http = await self._transports[name].post_chat(body)
        except TransportError as error:
            self._failed(call, slot, counts, error.kind, str(error))
        except BaseException:
            self._router.abandoned(slot)
            raise
        if http.status != 200:
            self._refused(call, slot, counts, dialect, http, body)
        latency_s = loop.time() - started
        try:
            answer = chat.read_completion(http.body)
        except ValueError as error:
            self._failed(call, slot, counts, FailureKind.INVALID_BODY, str(error))
        self._router.answered(slot)
        counts.calls += 1
        counts.prompt_tokens += answer.prompt_tokens
        counts.completion_tokens += answer.completion_tokens
        counts.cached_tokens += answer.cached_tokens or 0
        counts.latency.add(latency_s)
        return _Reply(answer, name, dialect, mode, latency_s)

    def _failed(self, call: _Call, slot: Slot, counts: Counts, kind: FailureKind, reason: str) -> NoReturn:
        """The endpoint failed: blame it and try again, elsewhere if possible."""
        counts.failures[kind] += 1
        if not slot.trial:
            call.spent += 1
        self._note(call, slot, reason)
        if slot.endpoint.name not in call.avoid:
            call.avoid.append(slot.endpoint.name)
        self._router.failed(slot, kind, reason)
        raise _Retry(kind, reason)

    def _refused(
        self, call: _Call, slot: Slot, counts: Counts, dialect: Dialect, http: HttpAnswer, sent: bytes
    ) -> NoReturn:
        """An answer with a status other than 200: find out whose fault it is."""
        error = chat.read_error(http)
        status, reason = http.status, str(error)
        pause_s = chat.retry_after_s(http.headers)
        if status == 429 and error.names("insufficient_quota", "billing"):
            self._taken_out(call, slot, counts, FailureKind.KEY_REFUSED, f"out of quota: {reason}")
        if status in (429, 529) or (status == 503 and pause_s is not None):
            self._overloaded(call, slot, counts, reason, pause_s)
        if status >= 500 or status in (408, 409, 425):
            self._failed(call, slot, counts, FailureKind.SERVER_ERROR, reason)
        if status == 401 or (status == 403 and not chat.is_content_filter(error)):
            hint = "the key was refused" if slot.endpoint.api_key else "no key is set, and one is wanted"
            self._taken_out(call, slot, counts, FailureKind.KEY_REFUSED, f"{hint} ({reason})")
        if status == 404 and chat.is_unknown_model(error):
            counts.failures[FailureKind.UNKNOWN_MODEL] += 1
            self._note(call, slot, reason)
            self._router.unknown_model(slot, call.model, reason)
            raise _Retry(FailureKind.UNKNOWN_MODEL, reason, wait=False)
        if status in (404, 405) or 300 <= status < 400:
            location = self._transports[slot.endpoint.name].redact(http.headers.get("location", ""))
            hint = f", to {chat.excerpt(location)}" if location else ""
            self._taken_out(
                call, slot, counts, FailureKind.WRONG_ADDRESS,
                f"{reason}{hint}; is base_url right? It ends in /v1 as a rule",
            )  # fmt: skip
        self._router.answered(slot)
        counts.failures[FailureKind.BAD_REQUEST] += 1
        self._note(call, slot, reason)
        if chat.is_context_overflow(error):
            raise CallError(DropReason.CONTEXT_OVERFLOW, f"{slot.endpoint.name}: {reason}")
        if chat.is_content_filter(error):
            raise CallError(DropReason.REFUSED, f"{slot.endpoint.name}: {reason}")
        if chat.adapt(dialect, error, sent):
            call.adaptations += 1
            logger.info("endpoint %s: %s; asking differently from now on", slot.endpoint.name, reason)
            raise _Retry(FailureKind.BAD_REQUEST, reason, wait=False)
        raise CallError(DropReason.ENDPOINT_ERROR, f"{slot.endpoint.name}: {reason}")

    def _taken_out(self, call: _Call, slot: Slot, counts: Counts, kind: FailureKind, reason: str) -> NoReturn:
        counts.failures[kind] += 1
        self._note(call, slot, reason)
        self._router.refused(slot, reason)
        raise _Retry(kind, reason, wait=False)

    def _overloaded(
        self, call: _Call, slot: Slot, counts: Counts, reason: str, pause_s: float | None
    ) -> NoReturn:
        counts.failures[FailureKind.RATE_LIMITED] += 1
        call.overloads += 1
        call.overloaded_since = call.overloaded_since or asyncio.get_running_loop().time()
        self._note(call, slot, reason)
        self._router.overloaded(slot, reason, pause_s)
        raise _Retry(FailureKind.RATE_LIMITED, reason)

    def _note(self, call: _Call, slot: Slot, reason: str) -> None:
        call.reasons.append(f"{slot.endpoint.name}: {reason}")
        del call.reasons[: -2 * self._max_attempts]

    def _dialect(self, name: str, model: str) -> Dialect:
        dialect = self._dialects.get((name, model))
        if dialect is None:
            dialect = self._dialects[(name, model)] = Dialect()
        return dialect

    async def _probe(self, endpoint: Endpoint) -> str:
        return await probe(self._transports[endpoint.name])


def _other(seed: int | None, said: Sequence[_Reply]) -> int | None:
    # The same seed would give the same answer again.
    return seed if seed is None or not said else (seed + len(said)) % 2**31


def _usable_text(answer: Answer, *, last_chance: bool) -> tuple[str, FailureKind | None]:
    """The text if it can be used, and what is wrong with the answer, if anything."""
    if answer.refusal or answer.finish_reason == "content_filter":
        return "", FailureKind.REFUSED
    said = text.clean(answer.text)
    if answer.finish_reason == "length":
        whole = text.whole_sentences(said)
        # Losing the end of a long answer does no harm; losing most of it is worth another try.
        enough = bool(whole) and (last_chance or 2 * len(whole) >= len(said)) and not text.is_garbage(whole)
        return whole if enough else "", FailureKind.CUT
    if not said:
        return "", FailureKind.EMPTY
    if text.is_garbage(said):
        return "", FailureKind.GARBAGE
    return said, None


def _completion(said: str, model: str, replies: Sequence[_Reply]) -> Completion:
    last = replies[-1]
    cached = [r.answer.cached_tokens for r in replies if r.answer.cached_tokens is not None]
    return Completion(
        text=said,
        finish_reason=last.answer.finish_reason,
        prompt_tokens=sum(r.answer.prompt_tokens for r in replies),
        completion_tokens=sum(r.answer.completion_tokens for r in replies),
        cached_tokens=sum(cached) if cached else None,
        endpoint=last.endpoint,
        model=model,
        latency_s=last.latency_s,
    )


def _notice_ignored_schema(reply: _Reply, answer: str) -> None:
    """After some answers without a trace of JSON, ask for it in another way."""
    dialect = reply.dialect
    if not answer or "{" in answer or dialect.json_mode is not reply.json_mode:
        return
    dialect.ignored_schemas += 1
    if dialect.ignored_schemas >= IGNORED_SCHEMAS_TO_LOWER and dialect.json_mode is not JsonMode.TEXT:
        dialect.json_mode = dialect.json_mode.lower()
        dialect.ignored_schemas = 0
        logger.info(
            "endpoint %s ignores response_format; asking for %s now", reply.endpoint, dialect.json_mode.value
        )


_PROBLEMS: dict[FailureKind, Callable[[_Reply], str]] = {
    FailureKind.REFUSED: lambda r: f"declined: {chat.excerpt(r.answer.refusal or r.answer.finish_reason)}",
    FailureKind.EMPTY: lambda r: "no text",
    FailureKind.CUT: lambda r: "cut at max_tokens before a whole sentence or object; raise max_tokens",
    FailureKind.GARBAGE: lambda r: f"not text: {chat.excerpt(r.answer.text)!r}",
    FailureKind.INVALID_JSON: lambda r: chat.excerpt(r.answer.text),
}


def _give_up(kind: FailureKind, reply: _Reply, problem: str = "") -> NoReturn:
    reason = DropReason.REFUSED if kind is FailureKind.REFUSED else DropReason.INVALID_OUTPUT
    said = _PROBLEMS[kind](reply)
    detail = f"{problem}: {said}" if problem and kind is FailureKind.INVALID_JSON else said
    raise CallError(reason, f"{reply.endpoint} gave no usable answer, asked twice; the last one: {detail}")
