"""Changes of a JSON document: the operations add, replace and remove of JSON Patch (RFC 6902).

What a tool did to a dialogue's state is recorded as such changes, so that the state is their fold.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dlgforge_core.json_pointer import pointer_part, pointer_parts

Change = Mapping[str, Any]
"""{"op": "replace", "path": "/books/0/lent_to", "value": "Ann"}; `remove` has no value."""

OPERATIONS = ("add", "replace", "remove")
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
_END = "-"
"""The place after the last item of a list."""


def changes_between(before: Any, after: Any) -> tuple[Change, ...]:
    """Return the changes that make `after` of `before`."""
    return tuple(_differences(before, after, ""))


def changed(document: Any, changes: Iterable[Change]) -> Any:
    """Return a document after these changes; `document` stays as it is, and shares no part with it.

    Raises ValueError, naming the change, for one that does not fit.
    """
    made = copy.deepcopy(document)
    for change in changes:
        made = _apply(made, change)
    return made


def _differences(before: Any, after: Any, path: str) -> Iterator[Change]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in before:
            if name not in after:
                yield {"op": "remove", "path": f"{path}/{pointer_part(name)}"}
        for name, value in after.items():
            inner = f"{path}/{pointer_part(name)}"
            if name in before:
                yield from _differences(before[name], value, inner)
            else:
                yield {"op": "add", "path": inner, "value": value}
    elif isinstance(before, list) and isinstance(after, list):
        yield from _differences_of_lists(before, after, path)
    elif not _same(before, after):
        yield {"op": "replace", "path": path, "value": after}


def _differences_of_lists(before: list[Any], after: list[Any], path: str) -> Iterator[Change]:
    """Item by item; of one that became shorter what was taken out of one place, if that is all."""
    spare = len(before) - len(after)
    if spare > 0:
        start = next((i for i, item in enumerate(after) if not _same(item, before[i])), len(after))
        if all(map(_same, before[start + spare :], after[start:])):
            for index in reversed(range(start, start + spare)):
                yield {"op": "remove", "path": f"{path}/{index}"}
        else:
            yield {"op": "replace", "path": path, "value": after}
        return
    for index, (old, new) in enumerate(zip(before, after, strict=False)):
        yield from _differences(old, new, f"{path}/{index}")
    for item in after[len(before) :]:
        yield {"op": "add", "path": f"{path}/{_END}", "value": item}


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same in JSON, where 1, 1.0 and true are not."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other)


def _apply(document: Any, change: Change) -> Any:
    operation, path = change.get("op"), change.get("path")
    if operation not in OPERATIONS or not isinstance(path, str):
        raise ValueError("a change has an op, which is add, replace or remove, and a path")
    if operation != "remove" and "value" not in change:
        raise ValueError(f"the change {operation} {path!r} has no value")
    if path and not path.startswith("/"):
        raise ValueError(f"the path {path!r} does not begin with /")
    value = copy.deepcopy(change.get("value"))
    if not path:
        if operation == "remove":
            raise ValueError("the whole state cannot be removed")
        return value
    *within, last = pointer_parts(path)
    parent = _inner(document, within, path)
    if isinstance(parent, dict):
        _change_mapping(parent, last, operation, value, path)
    elif isinstance(parent, list):
        _change_list(parent, last, operation, value, path)
    else:
        raise _nothing_at(path)
    return document


def _inner(document: Any, parts: Sequence[str], path: str) -> Any:
    for part in parts:
        if isinstance(document, dict) and part in document:
            document = document[part]
        elif isinstance(document, list) and _INDEX.fullmatch(part) and int(part) < len(document):
            document = document[int(part)]
        else:
            raise _nothing_at(path)
    return document


def _change_mapping(parent: dict[str, Any], name: str, operation: str, value: Any, path: str) -> None:
    if operation != "add" and name not in parent:
        raise _nothing_at(path)
    if operation == "remove":
        del parent[name]
    else:
        parent[name] = value


def _change_list(parent: list[Any], index: str, operation: str, value: Any, path: str) -> None:
    if operation == "add" and index == _END:
        parent.append(value)
        return
    if not _INDEX.fullmatch(index) or int(index) >= len(parent) + (operation == "add"):
        raise _nothing_at(path)
    if operation == "add":
        parent.insert(int(index), value)
    elif operation == "remove":
        del parent[int(index)]
    else:
        parent[int(index)] = value


def _nothing_at(path: str) -> ValueError:
    return ValueError(f"there is nothing at {path!r} in the state")
