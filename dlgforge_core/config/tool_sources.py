"""Tools in a recipe that are written elsewhere: Python modules and OpenAPI documents in files beside it.

What comes of it is plain configuration, which holds the sources themselves: a run, its resume and its workers
depend on no file later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from dlgforge_core.common.text_files import read_beside
from dlgforge_core.common.yaml_aliases import load_yaml
from dlgforge_core.config.functions import MAX_MODULE_CHARS
from dlgforge_core.config.openapi import function_of
from dlgforge_core.errors import ConfigError

_MAX_DOCUMENT_BYTES = 5_000_000
_OPENAPI_KEYS = {"file", "operation", "server"}
Keys = tuple[int | str, ...]


def with_tool_sources(
    data: Mapping[str, Any], path: Path, line_of: Callable[[Keys], int | None]
) -> dict[str, Any]:
    """Return the data of a recipe with the modules and operations that it names in their places.

    `line_of` tells the line of a key. Raises ConfigError with one line for every problem.
    """
    tools = data.get("tools")
    if not isinstance(tools, Mapping):
        return dict(data)
    reader, made = _Reader(path, line_of), {**tools}
    if isinstance(modules := tools.get("modules"), Mapping):
        made["modules"] = {name: reader.module(name, value) for name, value in modules.items()}
    if isinstance(functions := tools.get("functions"), list):
        made["functions"] = [reader.function(number, one) for number, one in enumerate(functions)]
    if reader.problems:
        raise ConfigError("\n  ".join([f"{path} cannot be used:", *reader.problems]))
    return {**data, "tools": made}


class _Reader:
    def __init__(self, path: Path, line_of: Callable[[Keys], int | None]) -> None:
        self._path = path
        self._line_of = line_of
        self._documents: dict[str, Any] = {}
        self.problems: list[str] = []

    def module(self, name: Any, value: Any) -> Any:
        """Return the source of a module: a text by itself, or {file: a file beside the recipe}."""
        keys = ("tools", "modules", str(name))
        if isinstance(value, str):
            return self._compiled(value, f"<{'.'.join(keys)}>", keys)
        file = value.get("file") if isinstance(value, Mapping) and set(value) == {"file"} else None
        if not isinstance(file, str):
            self._problem(keys, "give the source, or {file: a file beside the recipe}")
            return ""
        try:
            source = read_beside(self._path.parent, file, 4 * MAX_MODULE_CHARS)
        except ValueError as error:
            self._problem(keys, str(error))
            return ""
        return self._compiled(source, str(self._path.parent / file), keys)

    def _compiled(self, source: str, file: str, keys: Keys) -> str:
        try:
            compile(source, file, "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None)
            self._problem(keys, f"{file}{f':{line}' if line else ''}: {error}")
        return source

    def function(self, number: int, value: Any) -> Any:
        """Return a function; what an `openapi` in it stands for is overruled by what else it says."""
        if not isinstance(value, Mapping) or "openapi" not in value:
            return value
        keys: Keys = ("tools", "functions", number, "openapi")
        rest = {name: item for name, item in value.items() if name != "openapi"}
        named = value["openapi"]
        if not isinstance(named, Mapping) or not {"file", "operation"} <= set(named) <= _OPENAPI_KEYS:
            self._problem(keys, "give file, beside the recipe, and operation, its operationId; and server")
            return rest
        try:
            document = self._document(str(named["file"]))
            made = function_of(document, str(named["operation"]), str(named.get("server", "")), rest)
        except (ValueError, yaml.YAMLError, ConfigError, RecursionError) as error:
            self._problem(keys, f"{named['file']}: {error}")
            return rest
        http = rest.get("http") if isinstance(rest.get("http"), Mapping) else {}
        return {**made, **rest, "http": {**made["http"], **(http or {})}}

    def _document(self, file: str) -> Any:
        if file not in self._documents:
            text = read_beside(self._path.parent, file, _MAX_DOCUMENT_BYTES)
            self._documents[file] = load_yaml(text, file)[1]
        return self._documents[file]

    def _problem(self, keys: Keys, text: str) -> None:
        line = self._line_of(keys)
        self.problems.append(f"{self._path}:{line}: {'.'.join(map(str, keys))}: {text}")
