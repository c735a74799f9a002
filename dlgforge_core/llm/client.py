"""The client every LLM call goes through: routing, retries, repair and accounting."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar, overload

from dlgforge_core.config import AgentConfig, MarkupConfig, RoutingConfig
from dlgforge_core.dialogue import Role
from dlgforge_core.llm import answers, structured
from dlgforge_core.llm.answers import Reply, UsableAnswer
from dlgforge_core.llm.attempts import Attempts
from dlgforge_core.llm.call_errors import CallError, RequestRefusedError
from dlgforge_core.llm.calls import Call
from dlgforge_core.llm.chat import Completion
from dlgforge_core.llm.dialect import Dialect
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.forms import Form, Written
from dlgforge_core.llm.health import EndpointHealth
from dlgforge_core.llm.markup import Markup, default_markup
from dlgforge_core.llm.prices import PriceList
from dlgforge_core.llm.roles import RoleRecord
from dlgforge_core.llm.stats import CallStats, FailureKind
from dlgforge_core.llm.structured import JsonMode
from dlgforge_core.llm.tool_calls import Message, ToolCall, ToolDefinition

__all__ = [
    "CallError",
    "Completion",
    "LlmClient",
    "Message",
    "RequestRefusedError",
    "ToolCall",
    "ToolDefinition",
]

T = TypeVar("T")


class LlmClient:
    """Calls the endpoints' models. An async context manager; belongs to one event loop.

    `stats` counts everything, `roles` tells who has been answered. `expected_failures`: so many dialogues are
    known to fail. Calls whose price is not in `prices` count as of unknown price. Raises ConfigError without
    endpoints, or for a key no header can hold.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        routing: RoutingConfig,
        *,
        patience_s: float = 60.0,
        markup: MarkupConfig | None = None,
        expected_failures: int = 0,
        prices: PriceList | None = None,
    ) -> None:
        self.stats = CallStats()
        self.roles = RoleRecord(self.stats, expected_failures)
        self._markup = default_markup() if markup in (None, MarkupConfig()) else Markup(markup)
        self._on_reply: list[Callable[[Call, Reply], None]] = []
        self._began: dict[int, float] = {}
        """When each call under way began, the oldest first."""
        self._attempts = Attempts(
            endpoints,
            routing,
            self.stats,
            patience_s=patience_s,
            failures_to_stop=self.roles.failures_to_stop,
            prices=prices,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections; calls that wait for an endpoint fail."""
        await self._attempts.aclose()

    async def move_endpoints(self, endpoints: Sequence[Endpoint]) -> None:
        """Follow endpoints that came back elsewhere: of each name known, take the address and key given."""
        await self._attempts.move(endpoints)

    def on_answer(self, notify: Callable[[], None]) -> None:
        """Call `notify` whenever an answer, usable or not, has been counted in `stats`."""
        self._attempts.on_answer = notify

    def on_reply(self, notify: Callable[[Call, Reply], None]) -> None:
        """Call `notify` with every call that was answered, and its answer, usable or not."""
        self._on_reply.append(notify)

    def on_setback(self, notify: Callable[[], None]) -> None:
        """Call `notify` when an endpoint may bear less than before; see `capacity`."""
        self._attempts.router.on_setback = notify

    def before_call(self, permit: Callable[[], Awaitable[None]]) -> None:
        """Have every call for a dialogue wait until `permit` returns; trials of endpoints do not."""
        self._attempts.before_call = permit

    def capacity(self, caller: str) -> tuple[Hashable, int]:
        """Return which endpoints a caller has, as a key, and how many calls these bear at once."""
        return self._attempts.router.capacity(caller)

    def under_way(self) -> tuple[int, float]:
        """Return how many calls are under way, and the age of the oldest in seconds; for status lines."""
        with contextlib.suppress(RuntimeError):  # the loop's thread has just begun or ended one
            for began in self._began.values():
                return len(self._began), time.monotonic() - began
        return 0, 0.0

    def dialect(self, endpoint: str, model: str) -> Dialect:
        """Return what an endpoint is known to understand for a model."""
        return self._attempts.dialect(endpoint, model)

    def health(self) -> list[EndpointHealth]:
        """Return the state of every endpoint, for progress lines."""
        return self._attempts.health()

    async def complete(
        self,
        role: Role,
        agent: AgentConfig,
        model: str,
        messages: Sequence[Message],
        *,
        affinity: str,
        seed: int | None = None,
        tools: Sequence[ToolDefinition] | None = None,
    ) -> Completion:
        """Return what the model says next, as plain text without its reasoning, or the tools it calls.

        `affinity` names the dialogue, which `prefix_affinity` keeps on one endpoint. An answer that is
        empty, garbage, declined or cut too early is asked for once more. An endpoint that takes no `tools`
        is asked without them, the messages of tools told in words. Raises CallError when this call cannot
        succeed, RequestRefusedError while that may be about any call of its role, RunStoppedError when none
        can.
        """
        names = [tool.name for tool in tools or ()]
        replies: list[Reply] = []
        while True:
            call = Call(role, agent, model, messages, affinity, _other(seed, replies), tools=tools or ())
            reply = await self._answer(call, replies)
            cleaned, problem = answers.usable(
                reply,
                names,
                last_chance=len(replies) > 1,
                markup=self._markup,
                most=answers.most_chars(agent),
            )
            if problem:
                self.stats.of(reply.endpoint, role).failures[problem] += 1
            if cleaned:
                return answers.completion(cleaned, model, replies)
            if len(replies) > 1:
                assert problem is not None
                self._give_up(call, problem, reply)

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
        caller: str = "",
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
        caller: str = "",
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
        caller: str = "",
    ) -> tuple[Any, Completion]:
        """Return what `read` makes of an answer by the JSON `schema`, and the completion it came in.

        `read` raises ValueError, with a message for the model, for an object it cannot use; without it the
        object itself is given, checked for the essentials of `schema`. The schema is enforced by the endpoint
        if it can do that, else asked for in words. A bad answer is shown to the model to be corrected, once.
        `caller` is who asks where that is not just the role, as endpoints name whom they serve.
        Raises CallError and RunStoppedError as `complete` does.
        """
        reader = read or functools.partial(structured.check, schema=schema)
        form = Form(schema, lambda written: structured.parse(written.text, reader))
        return await self.complete_form(
            role, agent, model, messages, form, affinity=affinity, seed=seed, caller=caller
        )

    async def complete_form(
        self,
        role: Role,
        agent: AgentConfig,
        model: str,
        messages: Sequence[Message],
        form: Form[T],
        *,
        affinity: str,
        seed: int | None = None,
        tools: Sequence[ToolDefinition] | None = None,
        caller: str = "",
    ) -> tuple[T | None, Completion]:
        """Return what the `form` reads in an answer, and the completion it came in; None if it calls `tools`.

        With tools, which many servers do not offer beside structured output, the caller asks for the form in
        words. All else is as with `complete_json`, which asks for JSON.
        """
        names = [tool.name for tool in tools or ()]
        schema = None if names else form.schema
        replies: list[Reply] = []
        asked = messages
        while True:
            call = Call(role, agent, model, asked, affinity, _other(seed, replies), schema, caller=caller)
            call.words, call.tools = form.words, tools or ()
            reply = await self._answer(call, replies)
            if names and (calls := self._tool_calls(reply, names, agent)):
                return None, answers.completion(calls, model, replies)
            written = self._written(reply)
            kind, problem = FailureKind.INVALID_JSON, ""
            try:
                value = form.read(written)
            except ValueError as error:
                problem = str(error)
            else:
                held = reply.json_mode is JsonMode.JSON_SCHEMA and "response_format" not in agent.extra_body
                if schema and held and "{" not in written.text:
                    answers.notice_ignored_schema(reply, written.text)  # and in words was understood
                else:
                    reply.dialect.ignored_schemas = 0
                answer = UsableAnswer(written.text, (), written.reasoning)
                return value, answers.completion(answer, model, replies)
            if reply.answer.refusal or reply.answer.finish_reason == "content_filter":
                kind = FailureKind.REFUSED
            elif not written.text:
                kind, problem = FailureKind.EMPTY, "the answer is empty"
            elif written.cut:
                kind, problem = FailureKind.CUT, "it was cut off; be shorter"
            self.stats.of(reply.endpoint, role).failures[kind] += 1
            if schema and (not form.words or reply.json_mode is JsonMode.JSON_SCHEMA):
                answers.notice_ignored_schema(reply, written.text)
            if len(replies) > 1:
                self._give_up(call, kind, reply, problem)
            asked = structured.correction(messages, written.text, problem, form.again)

    def _tool_calls(self, reply: Reply, names: Sequence[str], agent: AgentConfig) -> UsableAnswer | None:
        most = answers.most_chars(agent)
        found, _ = answers.usable(reply, names, last_chance=False, markup=self._markup, most=most)
        return found if found.tool_calls else None

    def _written(self, reply: Reply) -> Written:
        raw = reply.answer.text[: answers.MAX_RAW_CHARS]
        text = self._markup.without_thinking(raw)
        thought = reply.answer.reasoning or ("" if text == raw.strip() else self._markup.clean(raw).reasoning)
        return Written(text, raw, thought, reply.answer.finish_reason == "length", self._markup)

    async def _answer(self, call: Call, replies: list[Reply]) -> Reply:
        """Make the call and put its answer at the end of `replies`, the answers that came before."""
        call.attempts = len(replies)  # so that asking again counts as a retry
        self._began[id(call)] = time.monotonic()
        try:
            reply = await self._attempts.answer(call)
        except CallError as error:
            raise self.roles.error_of(call.role, call.affinity, error) from None
        finally:
            del self._began[id(call)]
        replies.append(reply)
        for notify in self._on_reply:
            notify(call, reply)
        return reply

    def _give_up(self, call: Call, kind: FailureKind, reply: Reply, problem: str = "") -> NoReturn:
        raise self.roles.error_of(call.role, call.affinity, answers.failure(kind, reply, problem))


def _other(seed: int | None, replies: Sequence[Reply]) -> int | None:
    # The same seed would give the same answer again.
    return seed if seed is None or not replies else (seed + len(replies)) % 2**31
