"""Previews of prompts with tools: what the assistant is offered, and what a model that plays one is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from dlgforge_core.config import read_recipe
from dlgforge_core.generation.preview import planned, preview
from dlgforge_core.generation.preview_text import prompt_lines
from dlgforge_core.generation.tool_preview import offered_tools
from dlgforge_core.preflight.context import context_needs
from dlgforge_core.store.preview import RecordedCall
from tests.support.recipes import ROOT

RECIPES = ROOT / "examples/recipes"


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def shown(path: Path) -> dict[str, list[str]]:
    """Return the lines under each heading of a preview."""
    found: dict[str, list[str]] = {}
    for line in preview(read_recipe(path)):
        if line.startswith("\n## "):
            found[line.removeprefix("\n## ")] = lines = []
        elif found:
            lines.append(line)
    return found


def test_functions_in_python_are_shown_as_the_assistant_is_offered_them() -> None:
    tools = [orjson.loads(line) for line in shown(RECIPES / "library.yaml")["kb_responder, tools"]]
    assert [tool["name"] for tool in tools] == read_recipe(RECIPES / "library.yaml").tools.function_names
    assert tools[2]["parameters"]["required"] == ["book_id", "reader_id"]


def test_a_dialogue_has_the_tools_that_are_drawn_and_a_model_that_plays_one_gets_the_state() -> None:
    found = shown(RECIPES / "support.yaml")
    (plan,) = planned(read_recipe(RECIPES / "support.yaml"), 1)
    assert tuple(orjson.loads(line)["name"] for line in found["kb_responder, tools"]) == plan.tools
    assert '{"type":"object","required":["status"]' in found["tool_simulator, system"][0]
    assert '"A-1002":{"item":"an atlas"' in found["tool_simulator, user"][0]
    assert 'Call: get_order {"order":"(order)"}' in found["tool_simulator, user"][0]


def test_searches_are_shown_and_no_server_is_started(tmp_path: Path) -> None:
    recipe: dict[str, Any] = {
        "knowledge": {"path": "examples/recipes/documents"},
        "tools": {
            "enabled": True,
            "web_search": True,
            "functions": [{"name": "get_time", "mcp": "clock"}],
            "mcp_servers": {"clock": {"command": ["no-such-program"]}},
        },
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    read = read_recipe(tmp_path / "mine.yaml")
    (plan,) = planned(read, 1)
    offered = {tool.name: tool.description for tool in offered_tools(read, plan)}
    assert list(offered) == ["vector_db_search", "web_search", "get_time"]
    assert offered["get_time"] == "(as the MCP server 'clock' describes it)"


def test_without_tools_there_are_none() -> None:
    assert not any("tool" in heading for heading in shown(RECIPES / "goals.yaml"))


def test_tools_count_for_the_longest_call() -> None:
    recipe = read_recipe(RECIPES / "support.yaml")
    needs = context_needs(recipe)
    assert needs["kb_responder"] > 2 * 5 * 4000 / 3.5, "results of two turns with five rounds each"
    assert needs["tool_simulator"] > 2 * 5 * 4000 / 3.5


def test_a_recorded_call_keeps_the_tools_that_were_offered() -> None:
    tool = {"type": "function", "function": {"name": "find", "description": "", "parameters": {}}}
    messages = [{"role": "user", "content": "Find it."}]
    call = RecordedCall("d", 1, "kb_responder", messages, "", 1, 1, None, 0.1, 0.0, [tool])
    assert RecordedCall.from_json(call.to_json()).tools == [tool]
    earlier = {name: value for name, value in call.to_json().items() if name != "tools"}
    assert RecordedCall.from_json(earlier).tools == ()
    text = "\n".join(prompt_lines(call.role, call.messages, call.tools))
    assert text.startswith('\n## kb_responder, tools\n{"name":"find"')
