"""Fields of a provider's own go back to the endpoint that sent them, and to no other."""

from __future__ import annotations

import httpx
import orjson
import pytest

from dlgforge_core.config import AgentConfig
from dlgforge_core.llm import provider_state
from dlgforge_core.llm.chat import request_body
from dlgforge_core.llm.completions import read_completion
from dlgforge_core.llm.dialect import Dialect, adapt, is_about_tools
from dlgforge_core.llm.server_errors import read_error
from dlgforge_core.llm.tool_calls import Message, ToolDefinition, call_message, result_message
from dlgforge_core.llm.transport import HttpAnswer

TOOL = ToolDefinition("find", "Finds.", {"type": "object"})
SIGN = {"google": {"thought_signature": "c2ln"}}
ANSWER = read_completion(
    orjson.dumps(
        {
            "choices": [
                {
                    "message": {
                        "content": None,
                        "reasoning_content": "Hm.",
                        "tool_calls": [
                            {
                                "id": "a",
                                "type": "function",
                                "function": {"name": "find", "arguments": "{}"},
                                "extra_content": SIGN,
                            }
                        ],
                    }
                }
            ]
        }
    )
)
MESSAGES: list[Message] = [
    {"role": "user", "content": "Which tides?"},
    call_message("", ANSWER.tool_calls, ANSWER.state),
    result_message(ANSWER.tool_calls[0], "The moon."),
]


def sent(dialect: Dialect) -> bytes:
    return request_body(dialect, AgentConfig(), "m", MESSAGES, seed=1, schema=None, tools=[TOOL])


def refused(message: str) -> HttpAnswer:
    return HttpAnswer(400, httpx.Headers(), orjson.dumps({"error": {"message": message}}))


def test_an_endpoint_gets_what_it_sends_and_no_other_does() -> None:
    its_own, another = Dialect(), Dialect()
    provider_state.notice(its_own, ANSWER)
    message = orjson.loads(sent(its_own))["messages"][1]
    assert (message["reasoning_content"], message["tool_calls"][0]["extra_content"]) == ("Hm.", SIGN)
    message = orjson.loads(sent(another))["messages"][1]
    assert message.keys() == {"role", "content", "tool_calls"}
    assert message["tool_calls"][0].keys() == {"id", "type", "function"}


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (
            "thinking is enabled but reasoning_content is missing in assistant tool call message",
            "reasoning_content",
        ),
        (
            "Missing `reasoning_content` field in the assistant message at message index 1",
            "reasoning_content",
        ),
        ("Function call is missing a thought_signature in functionCall parts.", "extra_content"),
        ("reasoning_details must be passed back for tool use", "reasoning_details"),
    ],
)
def test_a_field_that_is_missed_is_sent_and_tools_stay(message: str, field: str) -> None:
    dialect = Dialect()
    error = read_error(refused(message))
    assert provider_state.adapt(dialect, error, sent(dialect))
    assert dialect.state_fields == {field}
    # Calls that have none are told in words then; the same words must not be sent for ever.
    provider_state.adapt(dialect, error, sent(dialect))
    assert not provider_state.adapt(dialect, error, sent(dialect))
    assert dialect.tools


def test_a_field_that_is_refused_is_left_out_for_good() -> None:
    dialect = Dialect()
    provider_state.notice(dialect, ANSWER)
    error = read_error(refused("messages.1.reasoning_content: Extra inputs are not permitted"))
    assert provider_state.adapt(dialect, error, sent(dialect))
    provider_state.notice(dialect, ANSWER)
    assert b'"reasoning_content"' not in sent(dialect)
    assert not provider_state.adapt(dialect, error, sent(dialect))


@pytest.mark.parametrize(
    "message",
    [
        "tool_calls[0].function.arguments is not supported here",
        "An assistant message with 'tool_calls' must be followed by tool messages",
        "Unsupported tool use in this turn",
    ],
)
def test_what_speaks_of_tools_is_no_lack_of_them_once_they_have_worked(message: str) -> None:
    dialect = Dialect(tools_worked=True)
    error = read_error(refused(message))
    assert is_about_tools(error, sent(dialect))
    adapt(dialect, error, sent(dialect))
    assert dialect.tools
    dialect = Dialect()
    assert adapt(dialect, error, sent(dialect))
    assert not dialect.tools


def test_parts_with_thinking_are_text_for_others() -> None:
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "So."}]
    message = call_message("So.", ANSWER.tool_calls, {"content": parts})
    assert provider_state.as_wanted([message], set())[0]["content"] == "So."
    assert provider_state.as_wanted([message], {"content"})[0]["content"] == parts
