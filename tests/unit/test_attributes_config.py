"""The section `attributes`: what can never be drawn is refused, with file, line and key."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from dlgforge_core.config import GenerationConfig, read_recipe, validate
from dlgforge_core.dialogue import Role
from dlgforge_core.errors import ConfigError
from dlgforge_core.generation.preview import planned, prompts_of
from dlgforge_dagster.config import config_class, plain
from tests.support.recipes import recipe_problem

_TONE = "  tone: {values: {calm: 3, angry: 1}}\n"
_CHANNEL = _TONE + "  channel:\n    values: [a, b]\n    cases:\n"


def refused(tmp_path: Path, attributes: str) -> str:
    path = tmp_path / "support.yaml"
    return recipe_problem(path, f"attributes:\n{attributes}").replace(f"{path}:", "")


@pytest.mark.parametrize(
    ("attributes", "line", "key", "words"),
    [
        ("  tone: {values: {calm: -1, angry: 1}}", 2, "tone.values.calm", "= -1"),
        ("  tone: {values: {calm: .inf}}", 2, "tone.values.calm", "finite"),
        ("  tone: {values: {calm: 0, angry: 0.0}}", 2, "tone.values", "all weights are 0"),
        ("  tone: {values: {calm: 0, angry: 1}}", 2, "tone.values.calm", "can never be drawn"),
        ("  tone: {values: []}", 2, "tone.values", "0 values"),
        ("  tone: {values: [calm, calm]}", 2, "tone.values", "'calm' is there more than once"),
        ("  newsletter: {values: [yes, no]}", 2, "newsletter.values", "True is not text"),
        ("  age: {values: {18: 1}}", 2, "age.values", "18 is not text; put it in quotes"),
        ('  tone: {values: ["a\\n b"]}', 2, "tone.values", "one line"),
        ("  Tone: {values: [calm]}", 2, "Tone", "small letters"),
        ("  tone: {value: [calm]}", 2, "tone.value", "unknown key; did you mean 'values'?"),
        (
            _CHANNEL + "      - when: {tune: angry}\n        values: [a]",
            6, "channel.cases.0.when.tune", "did you mean 'tone'?",
        ),
        (
            _CHANNEL + "      - when: {tone: angri}\n        values: [a]",
            6, "channel.cases.0.when.tone", "did you mean 'angry'?",
        ),
        (
            _CHANNEL + "      - when: {tone: angry}\n        values: [c]",
            7, "channel.cases.0.values.c", "no value of attributes.channel.values",
        ),
        (
            _CHANNEL + "      - when: {}\n        values: [a]",
            6, "channel.cases.0.when", "when is empty",
        ),
        (
            "  a: {values: [x, y], cases: [{when: {b: p}, values: [x]}]}\n"
            "  b: {values: [p, q], cases: [{when: {c: r}, values: [p]}]}\n"
            "  c: {values: [r, s], cases: [{when: {a: x}, values: [r]}]}",
            None, ".cases", "so that none of them can be drawn first",
        ),
        ("  a: {values: [x, y], cases: [{when: {a: x}, values: [x]}]}", 2, "a.cases", "a depends on a"),
        (
            _CHANNEL + "      - {when: {tone: [angry, calm]}, values: [a]}\n"
            "      - {when: {tone: calm}, values: [b]}",
            7, "channel.cases.1.when", "the case never applies",
        ),
        (
            _CHANNEL + "      - {when: {tone: [angry, calm]}, values: [a]}",
            4, "channel.values", "can never be drawn",
        ),
        (
            _TONE + "  a: {values: {x: 1, y: 0}, cases: [{when: {tone: angry}, values: [y]}]}\n"
            "  b: {values: [p, q], cases: [{when: {tone: calm, a: y}, values: [p]}]}",
            4, "b.cases.0.when", "the values never come together",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(
    tmp_path: Path, attributes: str, line: int | None, key: str, words: str
) -> None:
    message = refused(tmp_path, attributes)
    assert words in message
    assert f"attributes.{key}" in message if line else key in message
    assert line is None or f"  {line}: attributes" in message


def test_too_many_combinations_are_refused(tmp_path: Path) -> None:
    many = "".join(f"  a{i}: {{values: [{', '.join(f'v{j}' for j in range(30))}]}}\n" for i in range(4))
    when = ", ".join(f"a{i}: v0" for i in range(4))
    message = refused(tmp_path, f"{many}  b: {{values: [x, y], cases: [{{when: {{{when}}}, values: [x]}}]}}")
    assert "20,000 combinations" in message
    assert "attributes.b.cases" in message


def test_a_column_that_is_named_like_an_attribute_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, f"{_TONE}saving: {{output_columns: {{topic: attribute_tone}}}}")
    assert "saving.output_columns.topic" in message
    assert "attribute_tone" in message


def test_the_prompt_of_the_user_simulator_has_one_line_with_them(tmp_path: Path) -> None:
    path = tmp_path / "support.yaml"
    path.write_text("run: {total_samples: 4, target_languages: [en]}\n")
    plain_prompts = dict(prompts_of(read_recipe(path), next(iter(planned(read_recipe(path), 1)))))
    path.write_text(
        f"run: {{total_samples: 4, target_languages: [en]}}\nattributes:\n{_TONE}  a_b: {{values: ['<|x|>']}}"
    )
    recipe = read_recipe(path)
    dialogue = next(iter(planned(recipe, 1)))
    prompts = dict(prompts_of(recipe, dialogue))
    tone = dialogue.attributes["tone"]
    message = set(prompts[Role.USER_SIMULATOR][0]["content"].splitlines())
    more = message - set(plain_prompts[Role.USER_SIMULATOR][0]["content"].splitlines())
    assert more == {f"What this conversation is like: a_b: ‹|x|>, tone: {tone}."}
    assert prompts[Role.ASSISTANT][0] == plain_prompts[Role.ASSISTANT][0]


def test_own_templates_use_them_and_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "support.yaml"
    own = (
        "prompts: {kb_responder: {system: 'Calm a user who is {{ attributes.tone }}.'}}\nattributes:\n"
        + _TONE
    )
    path.write_text(own)
    recipe = read_recipe(path)
    dialogue = next(iter(planned(recipe, 1)))
    system_message = dict(prompts_of(recipe, dialogue))[Role.ASSISTANT][0]["content"]
    assert system_message == f"Calm a user who is {dialogue.attributes['tone']}."
    path.write_text(own.replace("attributes.tone", "attributes.tune"))
    with pytest.raises(ConfigError, match="no attribute 'tune'; did you mean 'tone'"):
        read_recipe(path)


def test_dagster_takes_them_as_they_are() -> None:
    attributes: dict[str, Any] = {
        "tone": {"values": ["calm", "angry"]},
        "channel": {"values": ["a", "b"], "cases": [{"when": {"tone": "calm"}, "values": {"a": 2}}]},
    }
    given = validate(GenerationConfig, {"attributes": attributes}, "recipe")
    made = config_class(given)()
    assert validate(GenerationConfig, plain(made, GenerationConfig), "ops") == given


def test_a_long_list_is_refused_before_its_values_are_compared() -> None:
    started = time.process_time()
    with pytest.raises(ConfigError, match="it has 90000 values"):
        validate(
            GenerationConfig, {"attributes": {"tone": {"values": [f"v{i}" for i in range(90_000)]}}}, "x"
        )
    assert time.process_time() - started < 5, "a look at each pair takes a minute"
