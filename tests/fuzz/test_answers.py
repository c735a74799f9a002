"""What endpoints send: bodies, headers and markup. Nothing but the typed errors comes of it, and soon."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from contextlib import suppress
from typing import Any

import httpx
import orjson
from hypothesis import given
from hypothesis import strategies as st

from dlgforge_core.common.bodies import BodyError, read_body, read_json
from dlgforge_core.config import AgentConfig, JudgeConfig, validate
from dlgforge_core.config.reasoning import TracePartConfig
from dlgforge_core.dialogue import Role
from dlgforge_core.llm import answers, pauses, server_errors, structured, tool_calls
from dlgforge_core.llm.answers import Reply
from dlgforge_core.llm.chat import request_body
from dlgforge_core.llm.completions import answer_of, read_completion
from dlgforge_core.llm.dialect import Dialect, adapt
from dlgforge_core.llm.forms import Written
from dlgforge_core.llm.markup import default_markup
from dlgforge_core.llm.structured import JsonMode
from dlgforge_core.llm.transport import HttpAnswer
from dlgforge_core.prompting.comparison import judgements_from
from dlgforge_core.prompting.ending import ending_form
from dlgforge_core.prompting.model_output import question_of, without_quotes
from dlgforge_core.prompting.passage_marks import names_material
from dlgforge_core.prompting.quoting import neutralise, quote
from dlgforge_core.prompting.trace import Trace
from dlgforge_core.prompting.verdict_reading import judgement_from
from dlgforge_core.tools.web_search import WebSearchError, read_results
from tests.fuzz.budget import fuzz, quickly

JUDGE = JudgeConfig()
RATED = validate(JudgeConfig, {"rubric": [{"name": "clear"}, {"name": "kind", "about": "both"}]}, "judge")
TRACE = Trace([TracePartConfig(name="evidence", content="what is known")])
MIB = 1024 * 1024
KEYS = st.sampled_from(
    [
        *(
            "choices",
            "message",
            "content",
            "text",
            "type",
            "refusal",
            "reasoning",
            "reasoning_content",
            "usage",
        ),
        *(
            "tool_calls",
            "function",
            "name",
            "arguments",
            "id",
            "index",
            "delta",
            "finish_reason",
            "error",
            "code",
        ),
        *(
            "prompt_tokens",
            "completion_tokens",
            "score",
            "reasons",
            "comment",
            "extra_content",
            "detail",
            "data",
        ),
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["8/10", "stop", "length", "find", "{}", '{"a":' * 300, "<think>", "</s>", "\ud83d", "\0"]
    )
)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=25,
)
MARKS = st.sampled_from(
    [
        *(
            "<think>",
            "</think>",
            "<seed:think>",
            "[THINK]",
            "[/THINK]",
            "◁think▷",
            "<|channel|>analysis",
            "</s>",
        ),
        "<|message|>",
        "<|end|>",
        "<|im_start|>assistant\n",
        "<|im_end|>",
        "<s>",
        "[INST]",
        "]~b]",
        "[e~[",
        *(
            "```",
            "`",
            "~~~",
            "\n",
            "> ",
            "<passages>",
            "</passages>",
            "[1]",
            "User: ",
            "Question:",
            "?",
            ".",
            '"',
        ),
        *(
            "<tool_call>",
            "</tool_call>",
            '{"name": "find"',
            "{",
            "}",
            "'",
            ",",
            ":",
            "\\",
            "\ud800",
            "\0",
            "\x1b[2J",
        ),
        *(
            "<",
            ">",
            "|",
            "<|",
            "|>",
            " ",
            "a",
            "é",
            "你",
            "\u202e",
            "\u2028",
            "<answer>",
            "analysis",
            "Sure:",
        ),
    ]
)
TEXTS = st.lists(MARKS | st.text(max_size=5), max_size=25).map("".join)
LONG = st.tuples(st.lists(MARKS, min_size=1, max_size=4).map("".join), st.integers(1, 60_000)).map(
    lambda pair: pair[0] * (pair[1] // len(pair[0]) + 1)
)


def written(value: Any) -> bytes:
    return json.dumps(value).encode()


def reply(answer: Any) -> Reply:
    return Reply(answer, "a", Dialect(), JsonMode.JSON_SCHEMA, True, 0.1)


BEFORE = ["", "data: ", "\ufeff", "[", '{"choices": ', ": x\n\ndata: "]
ENCODINGS = ["", "gzip", "deflate", "gzip, gzip", "br", "identity", "x-gzip,"]
PAUSES = ("retry-after", "retry-after-ms", "x-ratelimit-reset-requests")


@fuzz
@given(
    JSON,
    st.sampled_from(["", "data: ", "\ufeff", "[", '{"choices": ', ": x\n\ndata: "]),
    st.binary(max_size=8),
)
def test_any_body_is_an_answer_or_a_value_error(value: Any, before: str, after: bytes) -> None:
    for body in (before.encode() + written(value) + after, written({"choices": [{"message": value}]})):
        with suppress(ValueError):
            quickly(read_completion, body)
        with suppress(BodyError):
            quickly(read_json, body)
        with suppress(WebSearchError):
            quickly(read_results, body, 5)


@fuzz
@given(JSON, JSON, JSON)
def test_any_message_can_be_used_stored_and_sent_back(content: Any, calls: Any, more: Any) -> None:
    message = {
        "content": content,
        "tool_calls": [{"id": more, "function": {"name": "find", "arguments": calls}}],
    }
    body = written({"choices": [{"message": {**message, "reasoning_details": more}, "finish_reason": more}]})
    try:
        answer = quickly(read_completion, body)
    except ValueError:
        return
    quickly(answers.usable, reply(answer), ["find"], last_chance=True)
    sent = tool_calls.call_message(answer.text, answer.tool_calls, answer.state)
    orjson.dumps([dict(call.arguments) for call in answer.tool_calls])
    if answer.tool_calls:
        request_body(Dialect(), AgentConfig(), "m", [sent], seed=1, schema=None)
    answer_of(more)


@fuzz
@given(TEXTS | LONG)
def test_any_text_is_cleaned_quoted_and_judged_soon(text: str) -> None:
    answer_text, reasoning = quickly(default_markup().clean, text)
    assert len(answer_text) + len(reasoning) <= 2 * len(text) + 2
    quickly(default_markup().leftover, text)
    question = quickly(question_of, text)
    quickly(names_material, question)
    quickly(without_quotes, text, grounded=True)
    assert quickly(neutralise, quickly(neutralise, text)) == neutralise(text)
    quickly(quote, text)
    with suppress(ValueError):
        quickly(structured.parse, text, lambda value: judgement_from(value, JUDGE))
    quickly(tool_calls.split_calls, text, ["find"])
    quickly(tool_calls.read_arguments, text)


@fuzz
@given(JSON, TEXTS | LONG, st.booleans())
def test_any_answer_in_a_form_is_read_or_refused(value: Any, text: str, cut: bool) -> None:
    for written_text in (text, json.dumps(value)):
        for form in (TRACE.form, ending_form("[END]")):
            with suppress(ValueError):
                quickly(form.read, Written(written_text, written_text, "", cut, default_markup()))
        quickly(TRACE.holds, written_text)
    data = value if isinstance(value, dict) else {"score": value, "ratings": value, "answers": value}
    for judge in (JUDGE, RATED):
        with suppress(ValueError):
            quickly(judgement_from, data, judge, goal=True)
        with suppress(ValueError):
            quickly(judgements_from, data, judge, 3)


@fuzz
@given(JSON | TEXTS, st.sampled_from([200, 400, 403, 422, 429, 500, 503]), st.text(max_size=30), TEXTS)
def test_any_error_is_read(body: Any, status: int, header: str, words: str) -> None:
    value = header.encode("utf-8", "replace")
    headers = httpx.Headers([(name.encode(), value) for name in PAUSES])
    for data in (
        written(body),
        written({"error": {"message": words, "code": body}}),
        words.encode("utf-8", "replace"),
    ):
        http = HttpAnswer(status, headers, data)
        error = quickly(server_errors.read_error, http)
        pause = quickly(pauses.pause_s, http)
        assert pause is None or 0 <= pause < float("inf")
        sent = b'{"messages":[{"role":"system","content":"x"}],"tools":[{}],"seed":1,"temperature":0}'
        quickly(adapt, Dialect(), error, sent)
        Dialect().refused_alike(Role.JUDGE, error)
        quickly(server_errors.error_within, data)


class _Response:
    def __init__(self, body: bytes, encoding: str) -> None:
        self.headers = httpx.Headers({"content-encoding": encoding})
        self._body = body

    async def aiter_raw(self) -> Any:
        for n in range(0, len(self._body), 1000):
            yield self._body[n : n + 1000]


@fuzz
@given(
    st.binary(max_size=3000),
    st.sampled_from(ENCODINGS),
)
def test_any_encoding_is_decoded_within_bounds(body: bytes, encoding: str) -> None:
    tracemalloc.start()
    try:
        with suppress(BodyError):
            asyncio.run(read_body(_Response(body, encoding), MIB))
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()
