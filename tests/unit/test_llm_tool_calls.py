"""Tool calls: reading what models write, telling a refusal from a failure, and doing without."""

import json

import httpx
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dlgforge_core.config import AgentConfig
from dlgforge_core.llm import answers, refusals
from dlgforge_core.llm.answers import Reply, UsableAnswer
from dlgforge_core.llm.chat import request_body
from dlgforge_core.llm.completions import Answer, read_completion
from dlgforge_core.llm.dialect import Dialect, adapt
from dlgforge_core.llm.refusals import Blame
from dlgforge_core.llm.server_errors import read_error
from dlgforge_core.llm.stats import FailureKind
from dlgforge_core.llm.structured import JsonMode
from dlgforge_core.llm.tool_calls import (
    MAX_CALLS,
    Message,
    ToolCall,
    ToolDefinition,
    call_message,
    fold,
    read_arguments,
    read_calls,
    result_message,
    split_calls,
)
from dlgforge_core.llm.transport import HttpAnswer

SEARCH = ToolDefinition("search", "Finds.", {"type": "object", "properties": {"query": {"type": "string"}}})
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def message(**fields: object) -> Answer:
    return read_completion(orjson.dumps({"choices": [{"message": fields, "finish_reason": "tool_calls"}]}))


# Arguments


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_arguments_written_as_json_come_back(arguments: dict[str, object]) -> None:
    written = orjson.dumps(arguments).decode()
    for form in (arguments, written, json.dumps(written), f"```json\n{written}\n```"):
        assert read_arguments(form) == (arguments, "")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('{"query": "tides", "top_k": 3', {"query": "tides", "top_k": 3}),
        ('{"query": "tid', {"query": "tid"}),
        ('{"query": ["a", "b', {"query": ["a", "b"]}),
        ("{'query': 'tides', 'all': True}", {"query": "tides", "all": True}),
        ('Sure: {"query": "tides"} is what I need.', {"query": "tides"}),
        ('{"query": "line\nbreak"}', {"query": "line\nbreak"}),
        ("", {}),
        (None, {}),
    ],
)
def test_arguments_are_repaired(written: object, read: object) -> None:
    assert read_arguments(written) == (read, "")


@given(st.text() | JSON | st.binary())
@settings(deadline=None)
@example("{" * 5000)
@example("[" * 100_000)
@example("{'a': b'bytes'}")
@example("{'a': {1, 2}}")
@example("{1: 2}")
@example('{"a": 1e999}')
@example("-" * 10_000)
@example('"\ud800"')
@example('{"a": "\ud800"}')
def test_any_arguments_are_an_object_or_a_problem(written: object) -> None:
    arguments, problem = read_arguments(written)
    assert isinstance(arguments, dict)
    assert not (arguments and problem)
    assert len(problem) < 300
    orjson.dumps(call_message("", [ToolCall("1", "search", arguments)]))


# Calls


def test_calls_are_read_and_sent_back() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"query":"x"}'}}
    answer = message(content=None, tool_calls=[call])
    assert answer.tool_calls == (ToolCall("c1", "search", {"query": "x"}),)
    assert call_message("", answer.tool_calls) == {"role": "assistant", "content": None, "tool_calls": [call]}
    assert message(content="x", tool_calls=None).tool_calls == ()


def test_broken_arguments_are_data_and_are_not_sent_back_broken() -> None:
    call = {"id": "c1", "function": {"name": "search", "arguments": "tides, please"}}
    (read,) = message(content="", tool_calls=[call]).tool_calls
    assert read.arguments == {}
    assert "must be a JSON object, not tides, please" in read.problem
    sent = call_message("", [read])["tool_calls"][0]["function"]["arguments"]
    assert sent == "{}"


@given(JSON)
def test_any_list_of_calls_is_read_without_surprise(items: object) -> None:
    read_calls(items)
    read_calls([items, {"function": items}, {"function": {"name": items, "arguments": items}}])


def test_a_loop_of_calls_is_cut() -> None:
    assert len(read_calls([{"function": {"name": "search"}}] * 500)) == MAX_CALLS


@pytest.mark.parametrize(
    "written",
    [
        '<tool_call>\n{"name": "search", "arguments": {"query": "x"}}\n</tool_call>',
        '<tool_call>{"name": "search", "arguments": "{\\"query\\": \\"x\\"}"}',
        '{"name": "search", "parameters": {"query": "x"}}',
        '```json\n{"name": "search", "arguments": {"query": "x"}}\n```',
    ],
)
def test_calls_written_into_the_text_are_read(written: str) -> None:
    assert split_calls(written, ["search"]) == ("", (ToolCall("call_0", "search", {"query": "x"}),))


PAY = '{"name": "pay", "arguments": {"euros": 5}}'


@pytest.mark.parametrize(
    ("written", "words", "calls"),
    [
        (
            f"To pay, do this:\n\n```json\n{PAY}\n```\nThis takes the payment.",
            "To pay, do this:",
            [("pay", 5)],
        ),
        (f"```\n{PAY}\n```\nand\n```json\n{PAY.replace('5', '6')}\n```", "", [("pay", 5), ("pay", 6)]),
        (f"{PAY}\n{PAY.replace('5', '6')}\n", "", [("pay", 5), ("pay", 6)]),
        (f"```\n{PAY}\n\n{PAY.replace('5', '6')}\n```", "", [("pay", 5), ("pay", 6)]),
        (f"Both:\n```json\n[{PAY}, {PAY.replace('5', '6')}]\n```", "Both:", [("pay", 5), ("pay", 6)]),
        ("```json\n{'name': 'pay', 'parameters': {'euros': 5}}\n``` Done.", "", [("pay", 5)]),
        (f'```json\n{{"a": 1}}\n```\n```json\n{PAY}\n```', '```json\n{"a": 1}\n```', [("pay", 5)]),
    ],
)
def test_calls_in_fences_among_words_are_read(written: str, words: str, calls: list[tuple[str, int]]) -> None:
    rest, found = split_calls(written, ["pay"])
    assert (rest, [(call.name, call.arguments["euros"]) for call in found]) == (words, calls)
    assert len({call.id for call in found}) == len(found)
    assert split_calls(written, ["search"]) == (written, ()), "it is no tool that was offered"


@pytest.mark.parametrize(
    "written",
    [
        'As JSON:\n```json\n{"name": "pay", "city": "Bern"}\n```',  # a person
        'As JSON:\n```json\n{"name": "pay"}\n```',
        'As JSON:\n```json\n{"name": "pay", "arguments": "none"}\n```',
        'As JSON:\n```json\n{"name": "pay", "arguments": {}, "price": 5}\n```',
        'As JSON:\n```json\n{"name": "pay", "arguments": {"euros": 5',  # cut: 50 may have been meant
        "As code:\n```python\npay(5)\n```",
        "As a list:\n```json\n[]\n```",
    ],
)
def test_other_code_among_words_is_text(written: str) -> None:
    assert split_calls(written, ["pay"]) == (written, ())


@given(st.text('`json{}[]":, payrgumentsn\n', max_size=80))
def test_any_text_is_split_without_surprise(written: str) -> None:
    words, calls = split_calls(f"x ```{written}``` y", ["pay"])
    assert calls or words == f"x ```{written}``` y"


def test_other_text_is_left_alone_and_tags_never_stay() -> None:
    for stated in ('{"name": "Ada", "arguments": 2}', '{"name": "search"} is how you call it', "search"):
        assert split_calls(stated, ["search"]) == (stated, ())
    assert split_calls('{"name": "search"}', []) == ('{"name": "search"}', ())
    assert split_calls('Wait. <tool_call>{"name": "other"}</tool_call>', []) == ("Wait.", ())


# Reasoning


def test_reasoning_in_a_field_of_its_own() -> None:
    assert message(content="x", reasoning_content=" hm ").reasoning == "hm"
    assert message(content="x", reasoning="hm").reasoning == "hm"
    assert message(content="x", reasoning_content=None, reasoning=["hm"]).reasoning == "hm"
    assert message(content="x", reasoning_content=7, reasoning={"effort": 1}).reasoning == ""


# What can be used


def reply(
    content: str | None, *, offered: bool = True, finish_reason: str = "stop", **fields: object
) -> Reply:
    answer = message(content=content, **fields)._replace(finish_reason=finish_reason)
    return Reply(answer, "a", Dialect(), JsonMode.TEXT, offered, 0.1)


CALLS = [{"id": "1", "function": {"name": "search", "arguments": "{}"}}]


def test_a_call_without_text_is_an_answer_only_when_tools_were_offered() -> None:
    def judge(made: Reply) -> tuple[UsableAnswer, FailureKind | None]:
        return answers.usable(made, ["search"], last_chance=False)

    stated, problem = judge(reply(None, tool_calls=CALLS, finish_reason="tool_calls"))
    assert (stated.text, [call.name for call in stated.tool_calls], problem) == ("", ["search"], None)
    stated, problem = judge(reply("Let me see.", tool_calls=CALLS))
    assert (stated.text, len(stated.tool_calls), problem) == ("Let me see.", 1, None)
    assert judge(reply("", finish_reason="tool_calls")) == (UsableAnswer(""), FailureKind.EMPTY)
    assert judge(reply(None, tool_calls=CALLS, offered=False)) == (UsableAnswer(""), FailureKind.EMPTY)
    assert judge(reply("Yes.", tool_calls=CALLS, offered=False)) == (UsableAnswer("Yes."), None)
    tagged = 'Yes. <tool_call>{"name": "search"}</tool_call>'
    assert judge(reply(tagged, offered=False)) == (UsableAnswer("Yes."), None)
    assert len(judge(reply(tagged))[0].tool_calls) == 1


# Refusals


def body(dialect: Dialect, messages: list[Message] | None = None) -> bytes:
    asked = messages or [{"role": "user", "content": 'What is "tools":[]?'}]
    return request_body(dialect, AgentConfig(), "m", asked, seed=1, schema=None, tools=[SEARCH])


@pytest.mark.parametrize(
    ("status", "stated", "blame"),
    [
        (
            400,
            '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
            Blame.REQUEST,
        ),
        (400, "registry.ollama.ai/library/gemma:2b does not support tools", Blame.REQUEST),
        (404, "No endpoints found that support tool use.", Blame.REQUEST),
        (500, "tools param requires --jinja flag", Blame.REQUEST),
        (422, "Extra inputs are not permitted: tools", Blame.REQUEST),
        (400, "Only user and assistant roles are supported!", Blame.REQUEST),
        (500, "Failed to parse tool call arguments as JSON", Blame.TOOL_CALL),
        (400, "Failed to call a function. See 'failed_generation'", Blame.TOOL_CALL),
        (500, "internal error while running tools", Blame.ENDPOINT),
        (503, "no tools today", Blame.ENDPOINT),
        (404, "The model `m` does not exist", Blame.MODEL),
    ],
)
def test_servers_without_tools_are_known_by_their_words(status: int, stated: str, blame: Blame) -> None:
    dialect = Dialect()
    sent = body(dialect)
    error = read_error(HttpAnswer(status, httpx.Headers(), orjson.dumps({"error": {"message": stated}})))
    refusal = refusals.judge(error, sent, pause_s=None, has_key=True, location="")
    assert refusal.blame is blame
    if blame is Blame.REQUEST:
        assert adapt(dialect, error, sent)
        assert not dialect.tools
        assert "tools" not in orjson.loads(body(dialect))
        # Without tools in the request, the words mean something else.
        assert not adapt(Dialect(), error, body(dialect))


def test_tool_messages_are_put_in_words_where_there_are_no_tools() -> None:
    call = ToolCall("c1", "search", {"query": "tides"})
    messages: list[Message] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why tides?"},
        call_message("", [call, ToolCall("c2", "search", {})]),
        result_message(call, "The moon."),
        result_message(ToolCall("c2", "search", {}), "Nothing."),
    ]
    assert "tool_calls" in body(Dialect(), messages).decode()
    sent = orjson.loads(body(Dialect(tools=False), messages))["messages"]
    assert sent == fold(messages)
    assert [m["role"] for m in sent] == ["system", "user"]
    assert sent[1]["content"] == (
        'Why tides?\n\nFound by search {"query":"tides"}:\nThe moon.\n\nFound by search {}:\nNothing.'
    )
    assert messages[1]["content"] == "Why tides?"
    assert fold(messages[3:4])[0]["role"] == "user"
