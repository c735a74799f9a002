"""Records that were read back from a dataset's files, checked."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import orjson

from dlgforge_core.tool_events import ERROR


def sharegpt_problem(record: dict[str, Any], renamed: Mapping[str, str]) -> str | None:
    """Return what is wrong with a record of ShareGPT, or None."""
    conversations = renamed.get("conversations", "conversations")
    messages = record[conversations]
    if not messages or not all(isinstance(m["from"], str) and isinstance(m["value"], str) for m in messages):
        return f"{conversations!r} must be a list of 'from' and 'value'"
    spoken = [m["from"] for m in messages]
    spoken = spoken[1:] if spoken[0] == "gpt" else spoken  # which opened the conversation
    if not spoken or spoken != ["human", "gpt"] * (len(spoken) // 2):
        return f"{conversations!r} must go from human to gpt, turn by turn"
    return None


def openai_problem(record: dict[str, Any]) -> str | None:
    """Return what is wrong with a record: a user, calls with their results, an answer, turn by turn.

    A system message may stand before all of them, and after it the one with which the assistant opens.
    """
    if unknown := set(record) - {"messages", "tools"}:
        return f"OpenAI takes no key {sorted(unknown)[0]!r}"
    tools = {tool["function"]["name"] for tool in record.get("tools", ())}
    expected, open_calls, seen, forms = "user", dict[str, str](), set[str](), set[type]()
    before = _before_the_user(record["messages"])
    for index, message in enumerate(record["messages"][before:], start=before):
        role = message["role"]
        where = f"'messages'[{index}]"
        if role == "tool":
            if (name := open_calls.pop(message["tool_call_id"], None)) is None:
                return f"{where} answers no call that is open"
            if problem := unknown_tool_problem(name, tools, message["content"]):
                return f"{where} {problem}"
        elif open_calls or role != expected:
            return f"{where} is of {role!r}, and {'tool' if open_calls else expected!r} must speak"
        if role == "assistant" and message.get("tool_calls"):
            for call in message["tool_calls"]:
                name, arguments = call["function"]["name"], call["function"]["arguments"]
                if call["id"] in seen:
                    return f"{where}: the call id {call['id']!r} was used before"
                read = orjson.loads(arguments) if isinstance(arguments, str) else arguments
                if not isinstance(read, dict):
                    return f"{where}: arguments must be the text of a JSON object, or an object"
                forms.add(type(arguments))
                seen.add(call["id"])
                open_calls[call["id"]] = name
            continue
        if not isinstance(message["content"], str):
            return f"{where}: 'messages' must be a list of 'role' and 'content'"
        if role != "tool":
            expected = "assistant" if role == "user" else "user"
    if len(forms) > 1:
        return "arguments are here text and there objects"
    answered = any(message["role"] == "user" for message in record["messages"])
    return None if answered and expected == "user" else "the messages must end with an answer"


def unknown_tool_problem(name: str, tools: Container[str], result: str) -> str | None:
    """Return what is wrong with a call of a tool that is not in `tools`: its result must be an error."""
    if name in tools or str(result).startswith(ERROR):
        return None
    return f"answers a call of {name!r}, which is not in 'tools'"


def _before_the_user(messages: list[dict[str, Any]]) -> int:
    """How many messages stand before the user's first: of the system, and with which the assistant opens."""
    allowed = iter(("system", "assistant"))  # in this order
    count = 0
    for message in messages[:2]:
        plain = isinstance(message["content"], str) and not message.get("tool_calls")
        if not plain or message["role"] not in allowed:
            break
        count += 1
    return count
