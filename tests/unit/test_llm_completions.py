"""Completions of many makes: parts, event streams, usage, and state that belongs to the provider."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlgforge_core.llm.completions import Answer, read_completion
from dlgforge_core.llm.tool_calls import call_message


def message(**fields: Any) -> Answer:
    return read_completion(orjson.dumps({"choices": [{"message": fields, "finish_reason": "stop"}]}))


# Parts


@pytest.mark.parametrize(
    ("content", "text", "reasoning"),
    [
        ([{"type": "text", "text": None}], "", ""),
        ([{"type": "text", "text": None}, {"type": "text", "text": "Yes."}], "Yes.", ""),
        (["Yes", {"type": "text", "text": "."}, "", None, 7], "Yes.", ""),
        ([{"type": "reasoning", "text": "Hm."}, {"type": "text", "text": "Yes."}], "Yes.", "Hm."),
        ([{"type": "reasoning", "summary": [{"text": "Hm."}]}, {"text": "Yes."}], "Yes.", "Hm."),
        (
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "Let me "}, {"text": "see."}]},
                {"type": "text", "text": "Yes."},
            ],
            "Yes.",
            "Let me see.",
        ),
        ([{"type": "thinking", "thinking": "Hm.", "signature": "abc"}, {"text": "Yes."}], "Yes.", "Hm."),
        ([{"text": "Hm.", "thought": True}, {"text": "Yes."}], "Yes.", "Hm."),
        ([{"type": "output_text", "text": {"value": "Yes.", "annotations": []}}], "Yes.", ""),
        ([{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "Yes."}], "Yes.", ""),
        ([{"type": "some_call", "text": "{}"}, {"type": "text", "text": "Yes."}], "Yes.", ""),
        ({"type": "text", "text": "Yes."}, "Yes.", ""),
        ([{"type": ["text"], "text": "No."}, {"type": 7}, {"text": "Yes."}], "Yes.", ""),
        (7, "", ""),
        (None, "", ""),
    ],
)
def test_parts_of_a_message(content: object, text: str, reasoning: str) -> None:
    answer = message(content=content)
    assert (answer.text, answer.reasoning) == (text, reasoning)


def test_a_refusal_is_one_only_when_it_says_something() -> None:
    assert (
        message(content=[{"type": "refusal", "refusal": None}, {"type": "text", "text": "Yes."}]).refusal
        == ""
    )
    assert message(content=[{"type": "refusal", "refusal": "No."}]).refusal == "No."
    assert message(content="Yes.", refusal=None).refusal == ""


def test_the_older_protocol_has_its_text_beside_the_message() -> None:
    assert read_completion(b'{"choices": [{"text": "Yes.", "finish_reason": "stop"}]}').text == "Yes."


@pytest.mark.parametrize("tokens", [2**62, -1, True, "12", 1e300, [1], 10**30])
def test_usage_that_no_call_has_is_no_usage(tokens: object) -> None:
    body = json.dumps({"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": tokens}})
    assert not read_completion(body.encode()).tells_usage


# Streams

SIGN = {"sign": "s"}


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **top: Any) -> str:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return json.dumps({"id": "x", "choices": choices, **top})


CHUNKS = (
    chunk({"role": "assistant", "content": ""}),
    chunk({"reasoning_content": "Let me"}),
    chunk({"reasoning_content": " see."}),
    chunk({"content": "Hello"}),
    chunk({"content": " thère."}),
    chunk({}, "stop"),
    chunk(None, usage={"prompt_tokens": 7, "completion_tokens": 3}),
)


def stream(*events: str, end: str = "\n\n", done: bool = True) -> bytes:
    return "".join(f"data: {event}{end}" for event in (*events, *(["[DONE]"] if done else []))).encode()


@pytest.mark.parametrize(
    "body",
    [
        stream(*CHUNKS),
        stream(*CHUNKS, end="\r\n\r\n"),
        stream(*CHUNKS, end="\r\r"),
        stream(*CHUNKS, done=False),
        b": OPENROUTER PROCESSING\n\n" + stream(*CHUNKS),
        b"\xef\xbb\xbf\n" + stream(*CHUNKS).replace(b"data: ", b"event: message\nid: 4\ndata:"),
        stream(*(event.replace(', "choices"', ',\ndata: "choices"') for event in CHUNKS)),
        stream(*CHUNKS).rstrip(),
        stream(*(event.replace('"choices"', '"x": "\\ud800", "choices"') for event in CHUNKS)),
        "\n".join(CHUNKS).encode(),
        "".join(CHUNKS).encode(),
    ],
)
def test_a_stream_that_nobody_asked_for_is_read(body: bytes) -> None:
    answer = read_completion(body)
    assert (answer.text, answer.reasoning) == ("Hello thère.", "Let me see.")
    assert (answer.finish_reason, answer.prompt_tokens, answer.completion_tokens) == ("stop", 7, 3)


def test_calls_in_a_stream_are_put_together() -> None:
    events = [
        chunk({"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "find"}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"query"'}}]}),
        chunk({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "look", "arguments": ""}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": ': "tides"}'}}]}),
        chunk({"tool_calls": [{"index": 1, "function": {"arguments": "{}"}, "extra_content": SIGN}]}),
        chunk({"reasoning_details": [{"type": "reasoning.text", "text": "Hm."}]}),
        chunk({}, "tool_calls"),
    ]
    answer = read_completion(stream(*events))
    assert [(c.id, c.name, c.arguments) for c in answer.tool_calls] == [
        ("a", "find", {"query": "tides"}),
        ("b", "look", {}),
    ]
    assert answer.tool_calls[1].state == {"extra_content": SIGN}
    assert answer.reasoning == "Hm."
    # Without an index, as Ollama and others send them: whole calls, each with an id.
    one = {"id": "a", "function": {"name": "find", "arguments": {"query": "x"}}}
    events = [chunk({"tool_calls": [one, {**one, "id": "b"}]}), chunk({}, "tool_calls")]
    assert len(read_completion(stream(*events)).tool_calls) == 2


@pytest.mark.parametrize(
    "body",
    [
        stream(*CHUNKS[:4], done=False),
        stream(*CHUNKS[:4], done=False)[:-40],
        b": keep-alive\n\n",
        stream(),
        "\n".join(CHUNKS[:4]).encode(),
    ],
)
def test_half_a_stream_is_no_answer(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"cut short|without an answer"):
        read_completion(body)


def test_what_follows_a_completion_is_not_read() -> None:
    body = b'{"choices": [{"message": {"content": "Yes."}}]}'
    assert read_completion(body + b"\n{}{}").text == "Yes."
    assert read_completion(body + b"\ndata: [DONE]").text == "Yes."


def test_a_long_stream_is_read_in_time_that_grows_with_its_length() -> None:
    started = time.process_time()
    events = [chunk({"content": "x" * 10})] * 10_000
    assert len(read_completion(stream(*events, chunk({}, "stop"))).text) == 100_000
    assert len(read_completion("\n".join([*events, chunk({}, "stop")]).encode()).text) == 100_000
    assert time.process_time() - started < 2


@given(
    st.lists(
        st.sampled_from(["data:", "event: error", "{", "}", '"choices"', ":", "[", "]", "\n", "\r", " x"])
    )
)
def test_any_stream_is_an_answer_or_a_value_error(parts: list[str]) -> None:
    for body in ("".join(parts), "data: " + "".join(parts)):
        with suppress(ValueError):
            read_completion(body.encode())


# State


def test_a_message_goes_back_with_the_fields_it_came_with() -> None:
    call = {
        "id": "a",
        "type": "function",
        "function": {"name": "find", "arguments": "{}"},
        "extra_content": {"google": {"thought_signature": "c2ln"}},
    }
    details = [{"type": "reasoning.encrypted", "data": "gAAA", "index": 0}]
    state = {"reasoning_content": "Hm.", "reasoning_details": details}
    answer = message(content=None, tool_calls=[call], annotations=[], audio=None, **state)
    assert call_message("", answer.tool_calls, answer.state) == {
        "role": "assistant",
        "content": None,
        "tool_calls": [call],
        **state,
    }


def test_thinking_among_the_parts_goes_back_as_it_came() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
        {"type": "text", "text": "So."},
    ]
    call = {"id": "a", "function": {"name": "find", "arguments": "{}"}}
    answer = message(content=parts, tool_calls=[call])
    assert call_message(answer.text, answer.tool_calls, answer.state)["content"] == parts


def test_state_is_kept_with_calls_alone_and_within_bounds() -> None:
    assert message(content="Yes.", reasoning_content="Hm.").state == {}
    deep: Any = {}
    for _ in range(150):
        deep = {"a": deep}
    call = {"id": "a" * 5000, "function": {"name": "f" * 5000, "arguments": deep}, "more": "x" * 100_000}
    answer = message(content=None, tool_calls=[call], reasoning="x" * 1_000_000)
    assert answer.state == {}
    (read,) = answer.tool_calls
    assert len(read.id) < 300
    assert len(read.name) < 300
    assert read.state == {}
    assert "deeper than 32" in read.problem
    orjson.dumps(call_message("", answer.tool_calls, answer.state))


@pytest.mark.parametrize("depth", [33, 300, 5000])
def test_arguments_of_any_depth_are_shown_to_the_model(depth: int) -> None:
    for written in ('{"a":' * depth + "1" + "}" * depth, '{"a":' + "[" * depth + "]" * depth + "}"):
        body = json.dumps(
            {"choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": written}}]}}]}
        )
        (call,) = read_completion(body.encode()).tool_calls
        assert call.problem
        assert call.arguments == {}


def test_a_message_that_is_repeated_as_a_whole_at_the_end_counts_once() -> None:
    def chunk(**fields: object) -> str:
        return json.dumps({"choices": [{"index": 0, **fields}]})

    whole = chunk(delta={}, message={"content": "Yes."}, finish_reason="stop")
    for events in ((chunk(delta={"content": "Yes."}), whole), (whole,)):
        assert read_completion(stream(*events)).text == "Yes."
