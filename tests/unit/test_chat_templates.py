"""Exported messages in chat templates of the shapes that models ship, run as `transformers` runs them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.config import DatasetFilesConfig, validate
from dlgforge_core.dialogue import Candidate, Dialogue, Turn, TurnDetails
from dlgforge_core.export.columns import OptionalColumns
from dlgforge_core.export.format_context import FormatContext
from dlgforge_core.export.formats import FORMATS
from dlgforge_core.export.openai_messages import openai_messages_record
from dlgforge_core.export.records import clean
from dlgforge_core.export.sharegpt_tools import sharegpt_tools_problem, sharegpt_tools_record
from dlgforge_core.export.verify import verify_dataset
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.tool_events import ToolEvent
from dlgforge_core.verdicts import Judgement
from tests.support.dialogues import any_text, grounded, lines, make_dialogue

# Written for this test in the shapes of templates: how each treats the content of a message with tool calls.
TEMPLATES = {
    "joins the contents": "{{ messages | map(attribute='content') | join('\\n') }}",
    "adds them up": "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}",
    "trims them": "{% for m in messages %}{{ m['content'] | trim }}{% endfor %}",
    "measures them": (
        "{% for m in messages %}{% if m.content | length > 0 %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "asks for text": (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}"
        "{% else %}{{ raise_exception('content must be text') }}{% endif %}{% endfor %}"
    ),
    "looks into them": (
        "{% for m in messages %}{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1] }}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "strips by method": "{% for m in messages %}{{ m.content.strip() }}{% endfor %}",
    "calls instead of content": (
        "{% for m in messages %}{% if m.tool_calls is defined %}{% for call in m.tool_calls %}"
        "{{ '<tool_call>' ~ ({'name': call.function.name, 'arguments': call.function.arguments} | tojson) }}"
        "{% endfor %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "none or content": "{% for m in messages %}{{ m.content if m.content is not none else '' }}{% endfor %}",
}


def environment(undefined: type[jinja2.Undefined] = jinja2.StrictUndefined) -> jinja2.Environment:
    """Return an environment as `transformers` makes it, but strict of what is not there."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, undefined=undefined
    )
    made.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    made.globals["raise_exception"] = raise_exception
    return made


# How models' own templates lay conversations out, those with tools among them; written for this test.
MODELS = {
    "qwen": (
        "{%- if messages[0].role == 'system' %}{{ '<|im_start|>system\\n' + messages[0].content }}"
        "{%- else %}{{ '<|im_start|>system\\nYou are helpful.' }}{% endif %}"
        "{%- if tools %}{{ '\\n<tools>' }}{% for tool in tools %}{{ '\\n' + (tool | tojson) }}{% endfor %}"
        "{{ '\\n</tools>' }}{% endif %}{{ '<|im_end|>\\n' }}"
        "{%- for m in messages %}"
        "{%- if m.role == 'user' or (m.role == 'assistant' and not m.tool_calls) %}"
        "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
        "{%- elif m.role == 'assistant' %}{{ '<|im_start|>assistant' }}"
        "{%- if m.content %}{{ '\\n' + m.content }}{% endif %}"
        "{%- for call in m.tool_calls %}{% set call = call.function if call.function else call %}"
        '{{ \'\\n<tool_call>\\n{"name": "\' + call.name + \'", "arguments": \' }}'
        "{{- call.arguments | tojson }}{{ '}\\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\\n' }}"
        "{%- elif m.role == 'tool' %}"
        "{%- if messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
        "{{ '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}"
        "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\\n' }}{% endif %}"
        "{%- endif %}{% endfor %}"
    ),
    "llama3": (
        "{{ '<|begin_of_text|>' }}"
        "{%- if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}"
        "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
        "{{ '<|start_header_id|>system<|end_header_id|>\\n\\n' + system }}"
        "{%- if tools is not none %}{% for t in tools %}{{ t | tojson(indent=4) }}{% endfor %}{% endif %}"
        "{{ '<|eot_id|>' }}"
        "{%- for m in messages %}"
        "{%- if not (m.role == 'ipython' or m.role == 'tool' or 'tool_calls' in m) %}"
        "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' "
        "+ m['content'] | trim + '<|eot_id|>' }}"
        "{%- elif 'tool_calls' in m %}"
        "{%- if not m.tool_calls | length == 1 %}{{ raise_exception('one call at once') }}{% endif %}"
        "{%- set call = m.tool_calls[0].function %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n{\"name\": \"' + call.name + '\", ' }}"
        "{{- '\"parameters\": ' }}{{ call.arguments | tojson }}{{ '}<|eot_id|>' }}"
        "{%- else %}{{ '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}"
        "{%- if m.content is mapping or m.content is iterable %}{{ m.content | tojson }}"
        "{%- else %}{{ m.content }}{% endif %}{{ '<|eot_id|>' }}{% endif %}{% endfor %}"
    ),
    "mistral": (
        "{%- if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
        "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
        "{%- set asked = rest | selectattr('role', 'equalto', 'user') | list %}"
        "{%- set ns = namespace(n=0) %}{% for m in rest %}"
        "{%- if not (m.role == 'tool' or (m.tool_calls is defined and m.tool_calls is not none)) %}"
        "{%- if (m['role'] == 'user') != (ns.n % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "{%- set ns.n = ns.n + 1 %}{% endif %}{% endfor %}{{ '<s>' }}"
        "{%- for m in rest %}{% if m['role'] == 'user' %}"
        "{%- if tools is not none and m == asked[-1] %}"
        "{{ '[AVAILABLE_TOOLS] ' ~ (tools | tojson) }}{% endif %}"
        "{{ '[INST] ' }}{% if loop.last and system is defined %}{{ system + '\\n\\n' }}{% endif %}"
        "{{ m['content'] + '[/INST]' }}"
        "{%- elif m.tool_calls is defined and m.tool_calls is not none %}{{ '[TOOL_CALLS] [' }}"
        "{%- for call in m.tool_calls %}{{ (call.function | tojson)[:-1] }}"
        "{%- if call.id is not defined or call.id | length != 9 %}"
        "{{ raise_exception('ids have 9') }}{% endif %}"
        "{{ ', \"id\": \"' + call.id + '\"}' }}{% endfor %}{{ ']</s>' }}"
        "{%- elif m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + '</s>' }}"
        "{%- elif m['role'] == 'tool' %}"
        "{%- if m.tool_call_id is not defined or m.tool_call_id | length != 9 %}"
        "{{ raise_exception('9') }}{% endif %}"
        '{{ \'[TOOL_RESULTS] {"content": \' ~ (m.content | tojson) ~ \', "call_id": "\' + m.tool_call_id }}'
        "{{- '\"}[/TOOL_RESULTS]' }}{% else %}{{ raise_exception('only user, assistant and tool') }}"
        "{%- endif %}{% endfor %}"
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_take_messages_with_tool_calls(name: str) -> None:
    messages = openai_messages_record(grounded(0, n_tools=2))["messages"]
    assert [message["content"] for message in messages if "tool_calls" in message] == [""] * 4
    rendered = environment().from_string(TEMPLATES[name]).render(messages=messages)
    assert "result 1" in rendered
    assert "None" not in rendered


def with_worse_answer(turn: Turn) -> Turn:
    """Return a turn with two answers, of which its own was chosen."""
    worse = Candidate("Worse.", judgement=Judgement(3, ()), details=turn.details)
    candidates = (Candidate(turn.assistant, chosen=True, judgement=Judgement(8, ())), worse)
    return replace(turn, judgement=Judgement(8, ()), details=replace(turn.details, candidates=candidates))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset in every format: with tools and without, with a system message and without."""
    folder = tmp_path_factory.mktemp("exported")
    dialogues = [grounded(0, n_tools=2), make_dialogue(1, (Turn(0, "Why?", "So."), Turn(1, "And?", "Too.")))]
    guided = [
        replace(one, plan=replace(one.plan, dialogue_id=f"t{i}", system_prompt="Be brief."))
        for i, one in enumerate(dialogues)
    ]
    saving = validate(DatasetFilesConfig, {"formats": list(FORMATS)}, "saving")
    several = [replace(one, turns=tuple(map(with_worse_answer, one.turns))) for one in [*dialogues, *guided]]
    write_dataset(several, folder, saving=saving, columns=OptionalColumns(system=True, candidates=True))
    verify_dataset(folder)
    return folder


def as_llama_factory_reads(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the messages of a row, by the rules of LLaMA-Factory: who may speak where, calls as JSON."""
    messages = [{"role": "system", "content": row["system"]}] if row["system"] else []
    assert len(row["conversations"]) % 2 == 0
    for place, message in enumerate(row["conversations"]):
        who, value = message["from"], message["value"]
        assert who in (("human", "observation"), ("gpt", "function_call"))[place % 2]
        if who == "function_call":
            read = json.loads(value)
            calls = read if isinstance(read, list) else [read]
            functions = [{"name": call["name"], "arguments": call["arguments"]} for call in calls]
            calls = [{"id": "call00000", "type": "function", "function": one} for one in functions]
            messages.append({"role": "assistant", "content": "", "tool_calls": calls})
        elif who == "observation":
            messages.append({"role": "tool", "tool_call_id": "call00000", "content": value})
        else:
            messages.append({"role": "user" if who == "human" else "assistant", "content": value})
    for tool in json.loads(row["tools"]) if row["tools"] else ():
        assert isinstance(tool["function"]["parameters"]["properties"], dict)
    return messages


def conversations(folder: Path, form: str) -> Iterator[tuple[list[dict[str, Any]], list[Any] | None]]:
    """Yield the messages and tools of each row, as the card says that they are to be had from it."""
    for row in lines(folder / "data" / form / "train.jsonl"):
        if form == "dpo":
            messages = row["prompt"] + row["chosen"]
            yield row["prompt"] + row["rejected"], row.get("tools")
        elif form == "prompt_completion":
            messages = row["prompt"] + row["completion"]
        elif form == "sharegpt_tools":
            messages = as_llama_factory_reads(row)
            row["tools"] = json.loads(row["tools"]) if row["tools"] else None
        elif "conversations" in row:
            roles = {"human": "user", "gpt": "assistant"}
            guided = [{"role": "system", "content": row["system"]}] if row["system"] else []
            messages = guided + [
                {"role": roles[m["from"]], "content": m["value"]} for m in row["conversations"]
            ]
        else:
            messages = row["messages"]
        if form == "openai_messages":
            for call in [call for message in messages for call in message.get("tool_calls", ())]:
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        yield messages, row.get("tools")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("form", FORMATS)
def test_templates_of_models_render_the_rows_of_every_format(exported: Path, form: str, model: str) -> None:
    template = environment(jinja2.Undefined).from_string(MODELS[model])
    texts = [
        template.render(messages=messages, tools=tools) for messages, tools in conversations(exported, form)
    ]
    assert len(texts) == (16 if form in ("prompt_completion", "dpo") else 4)
    whole = "\n".join(texts)
    assert "None" not in whole
    assert "Undefined" not in whole
    assert "Too." in whole
    if model != "mistral":  # which has it with a question that ends the conversation alone
        assert "Be brief." in whole
    if form in ("openai_messages", "prompt_completion", "dpo", "sharegpt_tools"):
        called = {"llama3": '"parameters": ', "qwen": '"arguments": ', "mistral": '"arguments": '}[model]
        assert called + '{"query": "rain 1", "top_k": 3}' in whole  # an object, and no text of one
        assert "result 1" in whole


def at_once(ordinal: int = 0) -> Dialogue:
    """Return a dialogue whose first answer took two calls at once, then one, and whose second took none."""
    events = [
        ToolEvent("vector_db_search", {"query": f"rain {i}"}, f"result {i}", call_id="same") for i in range(3)
    ]
    details = TurnDetails(
        tools=tuple(events), call_rounds=(2, 1), reasoning="A.\n\nB.\n\nC.", call_reasoning=("A.", "", "B.")
    )
    turns = (Turn(0, "Why?", "So.", details=details), Turn(1, "And?", "Too."))
    return make_dialogue(ordinal, turns)


def written_row(folder: Path, form: str, **saving: Any) -> dict[str, Any]:
    files = validate(DatasetFilesConfig, {"formats": [form], **saving}, "saving")
    write_dataset([at_once()], folder, saving=files)
    verify_dataset(folder)
    (row,) = lines(folder / "data" / form / "train.jsonl")
    return row


def shape(messages: list[dict[str, Any]]) -> list[Any]:
    return [[c["id"] for c in m["tool_calls"]] if "tool_calls" in m else m["content"] for m in messages]


def test_calls_made_at_once_are_in_one_message_and_their_results_in_order(tmp_path: Path) -> None:
    row = written_row(tmp_path, "openai_messages", reasoning="field")
    assert shape(row["messages"]) == [
        *("Why?", ["call00000", "call00001"], "result 0", "result 1", ["call00002"], "result 2", "So."),
        *("And?", "Too."),
    ]
    thoughts = [m["reasoning_content"] for m in row["messages"] if m["role"] == "assistant"]
    assert thoughts == ["A.", "B.", "C.", ""]
    apart = written_row(tmp_path, "openai_messages", parallel_calls="apart")["messages"]
    assert shape(apart)[1:7] == [
        ["call00000"],
        "result 0",
        ["call00001"],
        "result 1",
        ["call00002"],
        "result 2",
    ]


@pytest.mark.parametrize("model", MODELS)
def test_templates_of_models_render_calls_made_at_once(tmp_path: Path, model: str) -> None:
    template = environment(jinja2.Undefined).from_string(MODELS[model])
    row = written_row(tmp_path, "openai_messages", tool_arguments="object")
    if model == "llama3":
        with pytest.raises(jinja2.TemplateError, match="one call at once"):
            template.render(**row)
        row = written_row(tmp_path, "openai_messages", tool_arguments="object", parallel_calls="apart")
    text = template.render(**row)
    places = [text.index(f"rain {i}") for i in (0, 1)] + [text.index(f"result {i}") for i in (0, 1)]
    assert sorted(places) == (places if model != "llama3" else [places[i] for i in (0, 2, 1, 3)])
    assert '{"query": "rain 2"}' in text


def test_arguments_are_text_or_objects(tmp_path: Path) -> None:
    def arguments(**saving: str) -> set[type]:
        row = written_row(tmp_path, "openai_messages", **saving)
        calls = [call for message in row["messages"] for call in message.get("tool_calls", ())]
        return {type(call["function"]["arguments"]) for call in calls}

    assert arguments() == arguments(tool_arguments="text") == {str}
    assert arguments(tool_arguments="object") == {dict}
    assert "objects, as chat templates want them" in (tmp_path / "README.md").read_text("utf-8")


def test_llama_factory_gets_calls_made_at_once_as_a_list(tmp_path: Path) -> None:
    row = written_row(tmp_path, "sharegpt_tools", reasoning="tags")
    assert [m["from"] for m in row["conversations"]] == [
        *("human", "function_call", "observation", "function_call", "observation", "gpt", "human", "gpt"),
    ]
    first, second, last = (row["conversations"][i]["value"] for i in (1, 3, 5))
    thought, _, calls = first.rpartition("</think>\n\n")
    assert thought == "<think>\nA.\n"
    assert [call["arguments"] for call in json.loads(calls)] == [{"query": "rain 0"}, {"query": "rain 1"}]
    assert second == '<think>\nB.\n</think>\n\n{"name":"vector_db_search","arguments":{"query":"rain 2"}}'
    assert last == "<think>\nC.\n</think>\n\nSo."
    assert row["conversations"][2]["value"] == "result 0\n</tool_response>\n<tool_response>\nresult 1"
    apart = written_row(tmp_path, "sharegpt_tools", parallel_calls="apart")
    assert [m["value"] for m in apart["conversations"] if m["from"] == "observation"] == [
        f"result {i}" for i in range(3)
    ]
    opened = replace(
        at_once(), turns=(replace(at_once().turns[1], details=TurnDetails(opening="Hi."), index=0),)
    )
    record = sharegpt_tools_record(opened)
    assert (record["tools"], record["conversations"][0]["from"]) == ("", "human")
    assert sharegpt_tools_problem(record) is None


@settings(max_examples=60, deadline=None)
@given(any_text, any_text, any_text, st.booleans())
def test_any_texts_make_rows_that_llama_factory_reads(
    query: str, result: str, thought: str, twice: bool
) -> None:
    event = ToolEvent("vector_db_search", {"query": query, "n": 10**30}, result)
    tricky = replace(
        event, arguments={"query": "</think>\n\n{"}, result="\n</tool_response>\n<tool_response>\n"
    )
    details = TurnDetails(
        tools=(event, tricky),
        call_rounds=(2,) if twice else (),
        reasoning=thought,
        call_reasoning=(thought, ""),
    )
    record = sharegpt_tools_record(
        make_dialogue(0, (Turn(0, "Why?", "So.", details=details),)), FormatContext(reasoning="tags")
    )
    read = orjson.loads(orjson.dumps(clean(record)))
    assert sharegpt_tools_problem(read) is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c.pop(), "must be pairs"),
        (lambda c: c.insert(0, c.pop()), "[0] is of 'gpt', who cannot speak there"),
        (lambda c: c[2].update({"from": "human"}), "[2] is of 'human' after 'function_call'"),
        (
            lambda c: c[1].update(value='{"name": "other", "arguments": {}}'),
            "[1] answers a call of 'other',",
        ),
        (lambda c: c[1].update(value='{"name": "vector_db_search", "arguments": "{}"}'), "an object as"),
    ],
)
def test_rows_that_llama_factory_would_pass_over_are_found(change: Any, problem: str) -> None:
    record = sharegpt_tools_record(at_once())
    assert sharegpt_tools_problem(record) is None
    change(record["conversations"])
    assert problem in str(sharegpt_tools_problem(record))
