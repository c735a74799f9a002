"""Exported messages in chat templates of the shapes that models ship, run as `transformers` runs them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox
import pytest

from dlgforge_core.config import DatasetFilesConfig, validate
from dlgforge_core.dialogue import Candidate, Turn
from dlgforge_core.export.formats import FORMATS
from dlgforge_core.export.openai_messages import openai_messages_record
from dlgforge_core.export.verify import verify_dataset
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.verdicts import Judgement
from tests.support.dialogues import grounded, lines, make_dialogue

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
        "{%- if messages[0]['role'] == 'system' %}{% set told = messages[0]['content'] | trim %}"
        "{% set messages = messages[1:] %}{% else %}{% set told = '' %}{% endif %}"
        "{{ '<|start_header_id|>system<|end_header_id|>\\n\\n' + told }}"
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
        "{%- if messages[0]['role'] == 'system' %}{% set told = messages[0]['content'] %}"
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
        "{{ '[INST] ' }}{% if loop.last and told is defined %}{{ told + '\\n\\n' }}{% endif %}"
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
    write_dataset(several, folder, saving=saving, system=True, candidates=True)
    verify_dataset(folder)
    return folder


def conversations(folder: Path, form: str) -> Iterator[tuple[list[dict[str, Any]], list[Any] | None]]:
    """Yield the messages and tools of each row, as the card says that they are to be had from it."""
    for row in lines(folder / "data" / form / "train.jsonl"):
        if form == "dpo":
            messages = row["prompt"] + row["chosen"]
            yield row["prompt"] + row["rejected"], row.get("tools")
        elif form == "prompt_completion":
            messages = row["prompt"] + row["completion"]
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
    if form in ("openai_messages", "prompt_completion", "dpo"):
        called = {"llama3": '"parameters": ', "qwen": '"arguments": ', "mistral": '"arguments": '}[model]
        assert called + '{"query": "rain 1", "top_k": 3}' in whole  # an object, and no text of one
        assert "result 1" in whole
