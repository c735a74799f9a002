"""What a simulated endpoint does with a chat completion: check, queue, serve, spoil."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Protocol

import orjson

from tests.support.simulated import bodies, content, retrieval
from tests.support.simulated.canned import CannedReplies, CannedReplyError
from tests.support.simulated.classify import USER_SIMULATOR, Classifier
from tests.support.simulated.errors import RequestError, error_body, status_error
from tests.support.simulated.memory import Occurrences, PrefixCache, PrefixLookup, Ring
from tests.support.simulated.options import IMMEDIATE_FAULTS, Options
from tests.support.simulated.recorded import RecordedAnswers
from tests.support.simulated.schema import fill
from tests.support.simulated.scores import with_fields, with_scores
from tests.support.simulated.stats import Stats
from tests.support.simulated.tools import ToolCalls, simulated_result, tool_calls_for

_NORMAL = NormalDist()


class Client(Protocol):
    """The connection a call came by."""

    def reply(self, status: int, body: bytes, headers: bytes = b"", sent: int | None = None) -> None:
        """Send an answer; with `sent`, only that many bytes of the body, and close."""

    def reset(self) -> None:
        """Close at once without an answer."""


@dataclass(slots=True, eq=False)
class Call:
    """One admitted chat completion. Times are of time.monotonic()."""

    client: Client
    model: str
    role: str
    schema: Mapping[str, Any] | None  # of a verdict; None: plain text is wanted
    key: int
    fault: str
    prompt: PrefixLookup
    max_tokens: int | None
    form: tuple[str, ...] = ()  # the parts between tags that are asked for
    tool_calls: ToolCalls | None = None
    streams: bool = False
    ends: bool = False  # of the user simulator: the conversation
    temperature: Any = None
    last: str = ""  # message of the prompt
    messages: Sequence[Mapping[str, Any]] = ()  # where answers are recorded
    state: str = "new"  # then queued, serving or hanging, at last done
    queued_at: float = 0.0
    started_at: float = 0.0
    nominal_s: float = 0.0
    handle: asyncio.Handle | None = None


class Service:
    """The simulated model server. All of it runs in the event loop's thread."""

    def __init__(self, options: Options, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.in_flight = 0
        self.serving = 0
        self._queue: deque[Call] = deque()
        self.options = options
        self._apply(options)
        self.reset()

    # Switching

    def reset(self) -> None:
        """Forget everything that was counted, said and cached. Calls under way go on."""
        options = self.options
        self.stats = Stats(options.record_requests)
        self.stats.in_flight_max = self.in_flight
        self.stats.serving_max = self.serving
        self._cache = PrefixCache(options.prefix_cache_entries)
        self._seen = Occurrences()
        self._questions = Ring()
        self._count = 0
        self._fault_spread = content.Spread(options.seed)
        self._verdict_spread = content.Spread(options.seed + 1)
        self._duplicate_spread = content.Spread(options.seed + 2)
        self._retrieval_spread = content.Spread(options.seed + 3)
        self._ending_spread = content.Spread(options.seed + 4)

    def configure(self, options: Options) -> None:
        """Take new options for calls to come, and start queued ones if there are more slots now."""
        self.options = options
        self._apply(options)
        self._cache.max_entries = options.prefix_cache_entries
        if self.stats.requests.maxlen != options.record_requests:
            self.stats.requests = deque(self.stats.requests, maxlen=options.record_requests)
        self._drain()

    def _apply(self, options: Options) -> None:
        self._classifier = Classifier(options)
        self._canned = CannedReplies(options.canned)
        self._recorded = RecordedAnswers(options.recorded)
        self._fault_bounds: list[tuple[float, str]] = []
        bound = 0.0
        for name, share in options.faults.items():
            if name != "bad_json":
                bound += share
                self._fault_bounds.append((bound, name))
        self._bad_json_share = options.faults.get("bad_json", 0.0)

    # A call's way through

    def chat(self, client: Client, body: bytes, authorization: bytes) -> Call | None:
        """Take a chat completion. Returns it when its answer is yet to come, else None."""
        stats = self.stats
        stats.calls += 1
        try:
            self.authorize(authorization)
            call = self._admit(client, body, authorization)
        except RequestError as error:
            stats.errors[error.code or str(error.status)] += 1
            self._error(client, error)
            return None
        except CannedReplyError as reply:
            stats.faults["canned"] += 1
            self._reply(client, reply.status, reply.body, reply.headers)
            return None
        if call.fault in IMMEDIATE_FAULTS and call.fault != "hang":
            self._inject(call)
            return None
        self.in_flight += 1
        stats.in_flight_max = max(stats.in_flight_max, self.in_flight)
        if call.fault == "hang":
            stats.faults["hang"] += 1
            call.state = "hanging"
        elif self.options.slots is None or self.serving < self.options.slots:
            self._start(call)
        else:
            call.state = "queued"
            call.queued_at = time.monotonic()
            self._queue.append(call)
        return call

    def authorize(self, authorization: bytes) -> None:
        """Raise RequestError (401) unless the header holds the key this endpoint wants, if any."""
        key = self.options.api_key
        if key and authorization != b"Bearer " + key.encode():
            what = "Incorrect API key provided." if authorization else "You didn't provide an API key."
            raise RequestError(401, what, "invalid_api_key")

    def abandon(self, call: Call) -> None:
        """Note that the client has gone: free what the call held, as model servers do."""
        if call.state == "done":
            return
        self.stats.aborted += 1
        if call.state == "serving":
            if call.handle:
                call.handle.cancel()
            self._release(call)
        call.state = "done"
        self.in_flight -= 1
        self._drain()

    def _admit(self, client: Client, body: bytes, authorization: bytes) -> Call:
        options, stats = self.options, self.stats
        try:
            request = orjson.loads(body)
            model, messages = request["model"], request["messages"]
        except (ValueError, KeyError, TypeError):
            raise RequestError(400, "The body must be JSON with 'model' and 'messages'.", None) from None
        if not isinstance(model, str):
            raise RequestError(400, "'model' must be a string.", None, "model")
        if options.record_requests:
            stats.requests.append(
                {"path": "/v1/chat/completions", "authorization": bool(authorization), "body": request}
            )
        if options.models and model not in options.models:
            raise RequestError(
                404, f"The model `{model}` does not exist or you do not have access to it.", "model_not_found"
            )
        if not isinstance(messages, list) or not messages:
            raise RequestError(400, "'messages' must be a list of messages.", None, "messages")
        if not all(isinstance(m, dict) and "role" in m for m in messages):
            raise RequestError(400, "Every message must be an object with a role.", None, "messages")
        if not options.system_role and messages[0]["role"] == "system":
            raise RequestError(400, "System role not supported", None)
        if request.get("stream"):
            raise RequestError(400, "Streaming is not supported.", "unsupported_value", "stream")
        role, kind, schema = self._classifier.classify(model, messages, request.get("response_format"))
        self._canned.check(request, body)
        tool_calls = tool_calls_for(options, request)
        kind = "tool_call" if tool_calls else kind
        stats.by_role[role] += 1
        stats.by_kind[kind] += 1
        stats.by_model[model] += 1
        if options.capacity is not None and self.in_flight >= options.capacity:
            stats.faults["capacity"] += 1
            raise status_error(429)
        fault = self._fault(verdict=schema is not None)
        if fault in IMMEDIATE_FAULTS and fault != "hang":
            prompt = PrefixLookup(0, 0, 0)  # refused before the model saw the prompt: nothing is cached
        else:
            prompt = self._cache.look_up(model, messages)
            stats.conversation(prompt.conversation, role)
        if options.context_tokens is not None and prompt.prompt_tokens > options.context_tokens:
            raise RequestError(
                400,
                f"This model's maximum context length is {options.context_tokens} tokens, but the messages "
                f"came to {prompt.prompt_tokens} tokens.",
                "context_length_exceeded",
                "messages",
            )
        max_tokens = request.get("max_completion_tokens") or request.get("max_tokens")
        form = content.form_in(messages) if options.writes_forms else ()
        call = Call(client, model, role, schema, self._key(body), fault, prompt, max_tokens, form, tool_calls)
        call.ends = self._ends(role, messages)
        if options.recorded:
            call.messages = messages
        call.temperature, call.last = request.get("temperature"), content.text_of(messages[-1])
        call.streams = options.streams == "always" or (
            options.streams == "by_default" and request.get("stream") is not False
        )
        return call

    def _ends(self, role: str, messages: list[Any]) -> bool:
        if role != USER_SIMULATOR or not self.options.user_ends:
            return False
        may_end = any("end the conversation" in content.text_of(message) for message in messages[1:])
        return may_end and bool(re.search(self.options.user_ends, content.text_of(messages[0])))

    def _key(self, body: bytes) -> int:
        options = self.options
        self._count += 1
        if options.seed_by == "counter":
            return content.mix(options.seed, self._count)
        key = content.body_key(body, options.seed)
        before = self._seen.add(key)
        return content.mix(key, before) if before else key

    def _fault(self, verdict: bool) -> str:
        if self._fault_bounds:
            drawn = self._fault_spread.next()
            for bound, name in self._fault_bounds:
                if drawn < bound:
                    return name
        if verdict and self._bad_json_share and self._verdict_spread.next() < self._bad_json_share:
            return "bad_json"
        return ""

    # Serving

    def _start(self, call: Call) -> None:
        options = self.options
        mean = options.latency_by_role.get(call.role, options.latency_s) * options.slow_factor
        if mean and options.latency_sigma:
            sigma = options.latency_sigma
            z = _NORMAL.inv_cdf(content.unit(content.mix(call.key, 2)))
            mean *= math.exp(sigma * z - sigma * sigma / 2)
        call.nominal_s = mean
        call.state = "serving"
        call.started_at = now = time.monotonic()
        self.serving += 1
        stats = self.stats
        stats.serving_max = max(stats.serving_max, self.serving)
        if stats.first_start is None:
            stats.first_start = now
        if call.queued_at:
            stats.queue_wait_s_sum += now - call.queued_at
        if mean:
            call.handle = self._loop.call_later(mean, self._finish, call)
        else:
            call.handle = self._loop.call_soon(self._finish, call)

    def _release(self, call: Call) -> None:
        now = time.monotonic()
        self.serving -= 1
        self.stats.service_s_sum += now - call.started_at
        self.stats.last_end = now

    def _drain(self) -> None:
        slots = self.options.slots
        while self._queue and (slots is None or self.serving < slots):
            call = self._queue.popleft()
            if call.state == "queued":
                self._start(call)

    def _finish(self, call: Call) -> None:
        call.handle = None
        call.state = "done"
        self._release(call)
        self.in_flight -= 1
        self.stats.served += 1
        self.stats.nominal_service_s_sum += call.nominal_s
        self._drain()
        if call.fault:
            self._inject(call)
        else:
            self._answer(call)

    def _inject(self, call: Call) -> None:
        fault, client = call.fault, call.client
        self.stats.faults[fault] += 1
        if fault == "reset":
            client.reset()
        elif fault == "garbage":
            self._reply(client, 200, b"<html><body>upstream said nothing sensible</body></html>")
        elif fault.isdigit():
            self._error(client, status_error(int(fault)))
        else:
            self._answer(call)

    # Answers

    def _answer(self, call: Call) -> None:
        fault, finish_reason = call.fault, "stop"
        if call.tool_calls and fault not in ("empty", "refusal", "length"):
            self._send(call, self._completion(call, "", "tool_calls"))
            return
        try:
            text = self._plain_text(call) if call.schema is None else self._structured(call, call.schema)
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            what = f"Invalid schema for response_format: {error!r}"
            self._error(call.client, RequestError(400, what, "invalid_json_schema", "response_format"))
            return
        if fault in ("empty", "refusal"):
            text = ""
        elif fault == "length":
            text, finish_reason = text[: len(text) // 2], "length"
        elif call.schema is None and call.max_tokens and text.count(" ") >= call.max_tokens:
            text, finish_reason = " ".join(text.split(" ")[: call.max_tokens]), "length"
        elif self.options.finish_reasons and (reason := self._odd_ending()):
            text, finish_reason = text[: len(text) // 2], reason
        self._send(call, self._completion(call, text, finish_reason))

    def _odd_ending(self) -> str:
        drawn = self._ending_spread.next()
        for reason, share in self.options.finish_reasons.items():
            if drawn < share:
                self.stats.faults["finish_reason"] += 1
                return reason
            drawn -= share
        return ""

    def _send(self, call: Call, body: bytes) -> None:
        if call.fault == "cut":
            self.stats.by_status[200] += 1
            call.client.reply(200, body, sent=len(body) // 2)
        else:
            self._reply(call.client, 200, body)

    def _plain_text(self, call: Call) -> str:
        return "That is all. [END]" if call.ends else self._text(call)

    def _structured(self, call: Call, schema: Mapping[str, Any]) -> str:
        if schema.get("title") == "tool_result" and (result := simulated_result(self.options, call.last)):
            return result
        if call.role != USER_SIMULATOR or call.fault == "bad_json":
            return self._verdict(call, schema)
        message = {"ends": call.ends, "question": "" if call.ends else self._text(call)}
        return orjson.dumps(message).decode()

    def _text(self, call: Call) -> str:
        options = self.options
        if call.messages and (text := self._recorded.text(call.role, call.messages)):
            return text
        if call.role != USER_SIMULATOR:
            text = content.answer(call.key, options.answer_words)
            text = content.in_form(text, call.form) if call.form else text
        elif options.duplicate_rate and self._repeats():
            self.stats.duplicates += 1
            return self._questions.pick(call.key)
        else:
            text = content.question(call.key, self.options.question_words)
        if options.text_template != "{text}":
            text = options.text_template.format(
                text=text, role=call.role, model=call.model, temperature=call.temperature, last=call.last
            )
        if call.role == USER_SIMULATOR:
            self._questions.add(text)
        return text

    def _repeats(self) -> bool:
        return self._duplicate_spread.next() < self.options.duplicate_rate and len(self._questions) > 0

    def _verdict(self, call: Call, schema: Mapping[str, Any]) -> str:
        value = fill(schema, call.key)
        if isinstance(value, dict) and self.options.verdict:
            value = with_fields(value, self.options.verdict)
        if isinstance(value, dict) and call.messages:
            value = with_fields(value, self._recorded.verdict(call.messages))
        if isinstance(value, dict) and self.options.scores:
            value = with_scores(value, self.options.scores, call.last)
        text = orjson.dumps(value).decode()
        if call.fault == "bad_json":
            # Half an object never parses; a bare number or string would, so it gets a brace of its own.
            text = text[: len(text) // 2] if text[:1] in "{[" and len(text) > 3 else "{" + text
        return text

    def _completion(self, call: Call, text: str, finish_reason: str) -> bytes:
        refusal = "I'm sorry, but I can't help with that." if call.fault == "refusal" else None
        prompt_tokens, cached_tokens, _ = call.prompt
        completion_tokens = len((refusal or text).split())
        stats = self.stats
        stats.prompt_tokens += prompt_tokens
        stats.cached_tokens += cached_tokens
        stats.completion_tokens += completion_tokens
        message = self._message(call, text, finish_reason, refusal)
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached_tokens},
        }
        completion = {
            "id": f"chatcmpl-{call.key:016x}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": call.model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}],
            "usage": usage if self.options.usage else None,
        }
        if call.streams:
            return bodies.streamed(completion)
        return bodies.written(completion, self.options.spoilt)

    def _message(self, call: Call, text: str, finish_reason: str, refusal: str | None) -> dict[str, Any]:
        calls = call.tool_calls if finish_reason == "tool_calls" else None
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": refusal}
        if refusal or calls:
            message["content"] = None
        if calls:
            message["tool_calls"] = calls
            if self.options.state_field == "reasoning_content":
                message["reasoning_content"] = "The documents may tell."
        options = self.options
        if options.reasoning and call.schema is None and not refusal:
            if options.reasoning_field == "think":
                message["content"] = f"<think>\n{options.reasoning}\n</think>\n\n{text}"
            else:
                message[options.reasoning_field] = options.reasoning
        return message

    # Embeddings, reranking, web search

    def retrieve(self, client: Client, path: bytes, body: bytes, authorization: bytes, key: bytes) -> None:
        """Answer a POST on one of the routes of `retrieval`; `key` is that of the web search."""
        options = self.options
        try:
            if path == b"/search":
                if options.search_key and key != options.search_key.encode():
                    raise RequestError(403, f"Unauthorized: {key.decode()}", None)  # repeating it, as some do
            else:
                self.authorize(authorization)
            fault = self._retrieval_fault()
            if fault == "reset":
                self.stats.faults[fault] += 1
                client.reset()
                return
            if fault:
                self.stats.faults[fault] += 1
                raise status_error(int(fault))
            answer = retrieval.answer(path, options, self.stats, body, bool(authorization or key))
        except RequestError as error:
            self._error(client, error)
            return
        if options.retrieval_latency_s:
            self._loop.call_later(options.retrieval_latency_s, self._reply, client, 200, answer)
        else:
            self._reply(client, 200, answer)

    def _retrieval_fault(self) -> str:
        if self.options.retrieval_faults:
            drawn = self._retrieval_spread.next()
            for name, share in self.options.retrieval_faults.items():
                if drawn < share:
                    return name
                drawn -= share
        return ""

    def _reply(self, client: Client, status: int, body: bytes, headers: bytes = b"") -> None:
        self.stats.by_status[status] += 1
        client.reply(status, body, headers)

    def _error(self, client: Client, error: RequestError) -> None:
        headers = b""
        if error.status == 429 and self.options.retry_after_s is not None:
            headers = b"retry-after: %g\r\n" % self.options.retry_after_s
        self._reply(client, error.status, error_body(error), headers)
