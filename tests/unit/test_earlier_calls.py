"""Calls of earlier turns in the assistant's prompt: as they were made or, where that is refused, in words."""

from __future__ import annotations

import orjson

from dlgforge_core.config import AgentConfig
from dlgforge_core.conversation.steps import Answer
from dlgforge_core.dialogue import Turn, TurnDetails
from dlgforge_core.generation.tool_rounds import calls_of, tools_called
from dlgforge_core.llm import provider_state
from dlgforge_core.llm.chat import Completion, request_body
from dlgforge_core.llm.dialect import Dialect
from dlgforge_core.llm.server_errors import read_error
from dlgforge_core.llm.tool_calls import Message, ToolCall, ToolDefinition, call_message, result_message
from dlgforge_core.prompting.dialogue_prompts import assistant
from dlgforge_core.tool_events import ToolEvent, ToolProblem
from tests.support.dialogues import make_dialogue
from tests.unit.test_provider_state import refused

PLAN = make_dialogue(0).plan
FOUND = ToolEvent("find", {"words": "eliot"}, '["b3"]', call_id="c1")
REFUSED = ToolEvent("lend", {"book": "b3"}, error="it is lent", call_id="c2", problem=ToolProblem.ERROR)
SEARCHED = ToolEvent("vector_db_search", {"query": "rules"}, "> A rule.", call_id="c3")


def test_functions_stay_in_the_prompt_with_what_they_gave_and_searches_do_not() -> None:
    details = TurnDetails(tools=(FOUND, SEARCHED, REFUSED, SEARCHED), call_rounds=(2, 1, 1))
    prompt = assistant(PLAN, [Turn(0, "Eliot?", "It is lent.", details=details)], "And then?")
    roles = [message["role"] for message in prompt]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "tool", "assistant", "user"]
    first, gave, second, failed = prompt[2:6]
    assert [call["id"] for call in first["tool_calls"]] == [gave["tool_call_id"]] == ["c1"]
    assert gave["content"] == '["b3"]'
    assert second["tool_calls"][0]["function"] == {"name": "lend", "arguments": '{"book":"b3"}'}
    assert failed["content"] == "Error: it is lent"


def test_no_two_calls_of_a_dialogue_have_the_same_id() -> None:
    calls = (ToolCall("c1", "find"), ToolCall("c1", "find"), ToolCall("c9", "find"))
    completion = Completion("", "tool_calls", 1, 1, None, "a", "m", 0.1, tool_calls=calls)
    turns = [Turn(0, "Eliot?", "It is lent.", details=TurnDetails(tools=(FOUND, REFUSED)))]
    called = tools_called(completion, Answer(1, 0, "And then?"), turns, keep_reasoning=False)
    ids = [call.id for call in calls_of(called)]
    assert len({*ids, "c1", "c2"}) == 5
    assert ids[-1] == "c9"


def test_calls_without_what_a_provider_wants_with_them_are_put_in_words() -> None:
    call, state = ToolCall("c2", "lend", {"book": "b3"}), {"reasoning_content": "Hm."}
    messages: list[Message] = [
        {"role": "user", "content": "Eliot?"},
        call_message("", [ToolCall("c1", "find", {})]),
        result_message(ToolCall("c1", "find", {}), "b3"),
        {"role": "assistant", "content": "It is there."},
        {"role": "user", "content": "Lend it."},
        call_message("", [call], state),
        result_message(call, "It is lent."),
    ]
    tool = ToolDefinition("find", "Finds.", {"type": "object"})
    dialect = Dialect()

    def sent() -> bytes:
        return request_body(dialect, AgentConfig(), "m", messages, seed=1, schema=None, tools=[tool])

    error = read_error(refused("reasoning_content is missing in assistant tool call message at index 1"))
    assert provider_state.adapt(dialect, error, sent()), "it is sent where it is known"
    assert provider_state.adapt(dialect, error, sent()), "and calls without it are told in words"
    first, _, _, second, gave = orjson.loads(sent())["messages"]
    assert first == {"role": "user", "content": "Eliot?\n\nFound by find {}:\nb3"}
    assert (second["reasoning_content"], gave["content"]) == ("Hm.", "It is lent.")
    assert not provider_state.adapt(dialect, error, sent()), "the same words are not sent for ever"
