"""Bodies of completions as some servers send them: streams of events, broken JSON, content in parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

SPOILT = ("surrogate", "half_utf8", "nan", "newline", "bom", "trailing", "parts")


def written(completion: Mapping[str, Any], spoilt: str) -> bytes:
    """Return the body of a completion, spoilt in one way or not at all."""
    message = completion["choices"][0]["message"]
    content = message["content"]
    if spoilt == "parts" and content:
        parts: list[dict[str, Any]] = [
            {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
            {"type": "text", "text": None},
            {"type": "text", "text": content},
            {"type": "refusal", "refusal": None},
        ]
        message = {**message, "content": parts}
        completion = {**completion, "choices": [{**completion["choices"][0], "message": message}]}
    body = orjson.dumps(completion)
    if spoilt == "surrogate":
        return body.replace(b'"id":"', b'"id":"\\ud83d', 1)
    if spoilt == "half_utf8":
        return body.replace(b'"id":"', b'"id":"\xf0\x9f', 1)
    if spoilt == "nan":
        return body.replace(b'"logprobs":null', b'"logprobs":NaN', 1)
    if spoilt == "newline":
        return body.replace(b'"id":"', b'"id":"\n\x01', 1)
    if spoilt == "bom":
        return b"\xef\xbb\xbf" + body
    return body + b"\n\n<!-- served by a cache -->" if spoilt == "trailing" else body


def streamed(completion: Mapping[str, Any]) -> bytes:
    """Return a completion as a stream of events."""
    choice = completion["choices"][0]
    message = choice["message"]
    deltas: list[dict[str, Any]] = [{"role": "assistant"}]
    for name in ("reasoning_content", "content"):
        text = message.get(name) or ""
        deltas += [{name: text[n : n + 20]} for n in range(0, len(text), 20)]
    for index, call in enumerate(message.get("tool_calls") or ()):
        arguments = call["function"]["arguments"]
        first = {**call, "index": index, "function": {**call["function"], "arguments": arguments[:5]}}
        deltas.append({"tool_calls": [first]})
        deltas.append({"tool_calls": [{"index": index, "function": {"arguments": arguments[5:]}}]})
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]}
    usage = {"choices": [], "usage": completion["usage"]}
    events = [orjson.dumps(event) for event in (*chunks, last, usage)]
    return b": keep-alive\r\n\r\n" + b"".join(b"data: %s\r\n\r\n" % event for event in (*events, b"[DONE]"))
