"""Persona files."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.errors import SeedError
from dlgforge_core.planning.personas import Personas, parse_personas, read_personas

GOOD = """\
user:
  - name: Curious Beginner
    description: Asks plain
      questions.
assistant:
  - {id: guide, name: practical guide, description: Gives steps.}
"""


def test_shipped_personas() -> None:
    personas = read_personas()
    assert len(personas.user) >= 12
    assert len(personas.assistant) >= 6
    everyone = personas.user + personas.assistant
    assert len({p.id for p in everyone}) == len(everyone)
    for persona in everyone:
        assert 30 <= len(persona.description) <= 200
        assert 1 <= persona.description.count(".") <= 2
        assert not re.search(r"\byour?\b", persona.description, re.IGNORECASE)


def test_ids_come_from_names_where_none_is_given(tmp_path: Path) -> None:
    file = tmp_path / "personas.yaml"
    file.write_text(GOOD)
    personas = read_personas(str(file))
    assert [(p.id, p.name, p.description) for p in personas.user] == [
        ("curious-beginner", "Curious Beginner", "Asks plain questions.")
    ]
    assert [p.id for p in personas.assistant] == ["guide"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    description: Asks plain\n      questions.\n", "", "p.yaml:2: user: description is missing"),
        ("name: Curious Beginner", "name: ''", "p.yaml:2: user: name = '' must be text that is not empty"),
        ("name: Curious Beginner", "name: [a]", "p.yaml:2: user: name = a list must be text"),
        (
            "    description: Asks",
            "    descripton: Asks",
            "p.yaml:3: 'descripton': unknown key; did you mean",
        ),
        ("assistant:", "asistant:", "did you mean 'assistant'?"),
        ("assistant:", "asistant:", "p.yaml: assistant is missing"),
        ("{id: guide,", "{id: curious-beginner,", "p.yaml:6: assistant: id = 'curious-beginner'"),
        ("  - {id: guide, name: practical guide, description: Gives steps.}", "  - x", "'x' is no persona"),
        (
            "  - {id: guide, name: practical guide, description: Gives steps.}",
            "",
            "p.yaml:5: assistant must be",
        ),
        ("Gives steps.", "x" * 1001, "description has 1001 characters; it may have 1000 at most"),
        ("name: Curious Beginner", "name: a\n    name: b", "p.yaml:3: name stands on line 2 already"),
        (GOOD, "- a", "p.yaml:1: the file is not a mapping"),
        (GOOD, "user: [", "p.yaml:1: not valid YAML"),
        (GOOD, "", "the file is empty"),
    ],
)
def test_errors_name_line_key_and_value(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(SeedError, match=re.escape(message)):
        parse_personas(GOOD.replace(old, new).encode(), "p.yaml")


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(SeedError) as raised:
        parse_personas(b"user: [{name: a}, {description: b}]\n", "p.yaml")
    assert len(str(raised.value).splitlines()) == 4


def test_missing_file_and_empty_roles(tmp_path: Path) -> None:
    with pytest.raises(SeedError, match="no such file"):
        read_personas(str(tmp_path / "nowhere.yaml"))
    with pytest.raises(SeedError, match="at least one persona each"):
        Personas(user=(), assistant=read_personas().assistant)


@given(st.binary(max_size=200) | st.text(st.characters(exclude_categories=["Cs"])).map(str.encode))
@settings(deadline=None)
def test_any_content_is_read_or_refused(data: bytes) -> None:
    with pytest.raises(SeedError, match=r"^p\.yaml"):
        parse_personas(data, "p.yaml")
