"""Personas: who the user simulator and the assistant play, read from a YAML file.

The file has two lists, `user` and `assistant`; each entry has a `name`, a `description` of one or two
sentences, and an `id` if the name is not to give it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from dlgforge_core.common import yaml_source
from dlgforge_core.common.hints import hint
from dlgforge_core.common.yaml_source import Listing, Mapping, Node, Scalar, bad_character, shown
from dlgforge_core.config import PersonasConfig
from dlgforge_core.dialogue import Persona
from dlgforge_core.errors import SeedError

_ROLES = ("user", "assistant")
_KEYS = ("id", "name", "description")
_MAX_CHARS = {"id": 100, "name": 100, "description": 1000}


@dataclass(frozen=True, slots=True)
class Personas:
    """The personas of each role, in the order of the file; neither is empty."""

    user: tuple[Persona, ...]
    assistant: tuple[Persona, ...]

    def __post_init__(self) -> None:
        if not self.user or not self.assistant:
            raise SeedError("personas: user and assistant must have at least one persona each")


NOBODY = Persona("", "", "")
"""Who talks where there are no personas."""


def personas_of(config: PersonasConfig) -> Personas:
    """Return the personas that a configuration asks for. Raises SeedError as `read_personas` does."""
    return read_personas(config.path) if config.enabled else Personas((NOBODY,), (NOBODY,))


def read_personas(path: str = "") -> Personas:
    """Return the personas in the file at `path`; empty means the shipped ones.

    Raises SeedError with one line for every problem: file, line, key, value and what would be right.
    """
    if not path:
        shipped = resources.files("dlgforge_core") / "data" / "personas.yaml"
        return parse_personas(shipped.read_bytes(), shipped.name)
    where = Path(path)
    if not where.exists():
        raise SeedError(f"{where}: no such file")
    return parse_personas(yaml_source.read_bytes(where), str(where))


def parse_personas(data: bytes, label: str) -> Personas:
    """Return the personas of a file's text; `label` names it in messages. Raises SeedError with the line."""
    root = yaml_source.parse_yaml(yaml_source.normalise(data, label), label)
    if not isinstance(root, Mapping):
        raise SeedError(
            f"{label}:{root.line}: the file is not a mapping; it must have the lists user and assistant"
        )
    reader = _Reader(label)
    lists = reader.fields(root, _ROLES)
    personas = {}
    for role in _ROLES:
        key, value = lists.get(role, (None, None))
        if isinstance(value, Listing) and value.items:
            personas[role] = reader.personas(role, value)
        elif key is None:
            reader.problems.append(f"{label}: {role} is missing; it must be a list of personas")
        else:
            reader.problem(key.line, f"{role} must be a list with at least one persona")
    if reader.problems:
        raise SeedError("\n  ".join([f"{label} cannot be used:", *reader.problems[:20]]))
    return Personas(user=personas["user"], assistant=personas["assistant"])


class _Reader:
    def __init__(self, label: str) -> None:
        self.label = label
        self.problems: list[str] = []
        self._lines_by_id: dict[str, int] = {}

    def problem(self, line: int, text: str) -> None:
        self.problems.append(f"{self.label}:{line}: {text}")

    def fields(self, mapping: Mapping, known: tuple[str, ...]) -> dict[str, tuple[Scalar, Node]]:
        """Return the known keys of a mapping; an unknown or repeated one is a problem."""
        found: dict[str, tuple[Scalar, Node]] = {}
        for key, value in mapping.pairs:
            name = key.text or ""
            if name not in known:
                self.problem(key.line, f"{shown(key)}: unknown key; {hint(name, known)}")
            elif name in found:
                self.problem(key.line, f"{name} stands on line {found[name][0].line} already; keep one")
            else:
                found[name] = (key, value)
        return found

    def personas(self, role: str, listing: Listing) -> tuple[Persona, ...]:
        found = (self._persona(role, item) for item in listing.items)
        return tuple(persona for persona in found if persona is not None)

    def _persona(self, role: str, item: Node) -> Persona | None:
        if not isinstance(item, Mapping):
            self.problem(item.line, f"{role}: {shown(item)} is no persona; give `name` and `description`")
            return None
        before = len(self.problems)
        fields = self.fields(item, _KEYS)
        name = self._text(role, "name", fields, item.line)
        description = self._text(role, "description", fields, item.line)
        id = self._text(role, "id", fields, item.line) if "id" in fields else _slug(name)
        if len(self.problems) > before:
            return None
        if id in self._lines_by_id:
            self.problem(
                item.line,
                f"{role}: id = {shown(id)}: the persona on line {self._lines_by_id[id]} has the same id; "
                "give each an `id` or `name` of its own",
            )
            return None
        self._lines_by_id[id] = item.line
        return Persona(id=id, name=name, description=description)

    def _text(self, role: str, key: str, fields: dict[str, tuple[Scalar, Node]], line: int) -> str:
        if key not in fields:
            self.problem(line, f"{role}: {key} is missing; every persona has a name and a description")
            return ""
        value = fields[key][1]
        text = " ".join(value.text.split()) if isinstance(value, Scalar) and value.text else ""
        if not text:
            self.problem(value.line, f"{role}: {key} = {shown(value)} must be text that is not empty")
        elif len(text) > _MAX_CHARS[key]:
            self.problem(
                value.line, f"{role}: {key} has {len(text)} characters; it may have {_MAX_CHARS[key]} at most"
            )
        elif bad := bad_character(text):
            self.problem(value.line, f"{role}: {key} {bad}")
        return text


def _slug(name: str) -> str:
    return re.sub(r"[\W_]+", "-", name.casefold()).strip("-") or name
