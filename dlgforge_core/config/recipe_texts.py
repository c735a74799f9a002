"""Templates in a recipe: those in files beside it are read, and all are checked, with file and line.

What comes of it is plain configuration, which holds the texts themselves: nothing depends on the files later.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from dlgforge_core.common.templates import MAX_SOURCE_CHARS, BadTemplateError, TextTemplate
from dlgforge_core.common.text_files import read_beside
from dlgforge_core.config.prompts import (
    FOR_DOCUMENTS,
    MESSAGES,
    check_attributes,
    check_message,
    read_system_prompt,
)
from dlgforge_core.dialogue import Role
from dlgforge_core.errors import ConfigError

FILE = "file"
_MAX_FILE_BYTES = 4 * MAX_SOURCE_CHARS
Keys = tuple[int | str, ...]
Lines = Callable[[Keys], tuple[int | None, yaml.Node | None]]
_Check = Callable[[str], TextTemplate]


def with_texts(data: Mapping[str, Any], path: Path, find: Lines) -> dict[str, Any]:
    """Return the data of a recipe with the texts of the files that it names in their places.

    `find` tells the line and the node of a key. Raises ConfigError with one line for every problem.
    """
    attributes = data.get("attributes")
    knowledge = data.get("knowledge")
    reader = _Reader(path, find, attributes if isinstance(attributes, Mapping) else {})
    reader.documents = isinstance(knowledge, Mapping) and bool(knowledge.get("path"))
    made = {**data}
    if isinstance(prompts := data.get("prompts"), Mapping):
        made["prompts"] = reader.prompts(prompts)
    conversation = data.get("conversation")
    if isinstance(conversation, Mapping):
        found = {
            key: reader.drawn_texts(key, conversation[key])
            for key in ("system_prompts", "goals")
            if isinstance(conversation.get(key), list)
        }
        made["conversation"] = {**conversation, **found}
    if reader.problems:
        raise ConfigError("\n  ".join([f"{path} cannot be used:", *reader.problems]))
    return made


class _Reader:
    documents = False
    """Whether the dialogues draw on documents."""

    def __init__(self, path: Path, find: Lines, attributes: Collection[str]) -> None:
        self._attributes = attributes
        self._path = path
        self._find = find
        self.problems: list[str] = []

    def prompts(self, prompts: Mapping[str, Any]) -> dict[str, Any]:
        made = {**prompts}
        for role, messages in MESSAGES.items():
            if isinstance(own := prompts.get(role.value), Mapping):
                made[role.value] = {**own}
                for message in messages:
                    keys = ("prompts", role.value, message)
                    text = self._text(own.get(message), keys, _check_of(role, message))
                    if text is not None:
                        made[role.value][message] = text
                        self._check_documents(role, message, text, keys)
        return made

    def _check_documents(self, role: Role, message: str, text: str, keys: Keys) -> None:
        variable = FOR_DOCUMENTS.get((role, message))
        if self.documents and variable and variable not in check_message(role, message, text).used:
            problem = f"knowledge.path is set, and the template does not use {{{{ {variable} }}}}"
            self._problem(keys, f"{problem}, so that the documents would not be seen")

    def drawn_texts(self, key: str, given: list[Any]) -> list[Any]:
        return [self._drawn_text(one, ("conversation", key, i)) for i, one in enumerate(given)]

    def _drawn_text(self, given: Any, keys: Keys) -> Any:
        """Return an entry with its text in it: a text by itself, or a file, stand for one."""
        if isinstance(given, str):
            return {"text": given, **self._read(given, keys)}
        if not isinstance(given, Mapping):
            return given
        if FILE not in given:
            return {**given, **self._read(given.get("text"), (*keys, "text"))}
        if "text" in given:
            self._problem(keys, "it has both `text` and `file`; keep one")
        rest = {key: value for key, value in given.items() if key != FILE}
        return {**rest, **self._read({FILE: given[FILE]}, keys)}

    def _read(self, value: Any, keys: Keys) -> dict[str, str]:
        text = self._text(value, keys, read_system_prompt)
        return {"text": text} if text is not None else {}

    def _text(self, value: Any, keys: Keys, check: _Check) -> str | None:
        """Return the text that a value stands for; None where it is no template, or something else."""
        if isinstance(value, str):
            return value if self._passes(value, check, lambda line: self._line_of(keys, line), keys) else None
        if not isinstance(value, Mapping):
            return None
        name = value.get(FILE)
        if set(value) != {FILE} or not isinstance(name, str):
            self._problem(keys, "give a text, or {file: a file beside the recipe}")
            return None
        try:
            text = read_beside(self._path.parent, name, _MAX_FILE_BYTES)
        except ValueError as error:
            self._problem(keys, str(error))
            return None
        file = self._path.parent / name
        return text if self._passes(text, check, lambda line: f"{file}:{line}", keys) else None

    def _passes(self, text: str, check: _Check, location_of: Callable[[int], str], keys: Keys) -> bool:
        try:
            check_attributes(check(text), self._attributes)
        except BadTemplateError as error:
            self.problems.append(f"{location_of(error.line)}: {_dotted(keys)}: {error.problem}")
            return False
        except ValueError as error:
            self.problems.append(f"{location_of(1)}: {_dotted(keys)}: {error}")
            return False
        return True

    def _line_of(self, keys: Keys, line: int) -> str:
        """Return the location of a line of a template in the recipe itself."""
        key_line, node = self._find(keys)
        if isinstance(node, yaml.ScalarNode):
            if node.style == "|":
                return f"{self._path}:{node.start_mark.line + 1 + line}"
            key_line = node.start_mark.line + 1
        return f"{self._path}:{key_line}" + (f" (line {line} of the template)" if line > 1 else "")

    def _problem(self, keys: Keys, text: str) -> None:
        line, _ = self._find(keys)
        self.problems.append(f"{self._path}:{line}: {_dotted(keys)}: {text}")


def _check_of(role: Role, message: str) -> _Check:
    return lambda text: check_message(role, message, text)


def _dotted(keys: Keys) -> str:
    return ".".join(map(str, keys))
