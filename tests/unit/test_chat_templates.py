"""Exported messages in chat templates of the shapes that models ship, run as `transformers` runs them."""

from __future__ import annotations

import json

import jinja2
import jinja2.sandbox
import pytest

from dlgforge_core.export.openai_messages import openai_messages_record
from tests.support.dialogues import grounded

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


def environment() -> jinja2.Environment:
    """Return an environment as `transformers` makes it, but strict of what is not there."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    made.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    made.globals["raise_exception"] = raise_exception
    return made


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_take_messages_with_tool_calls(name: str) -> None:
    messages = openai_messages_record(grounded(0, n_tools=2))["messages"]
    assert [message["content"] for message in messages if "tool_calls" in message] == [""] * 4
    rendered = environment().from_string(TEMPLATES[name]).render(messages=messages)
    assert "result 1" in rendered
    assert "None" not in rendered
