"""Every compiled pattern of the code on hostile texts of 100 kB, of its own characters: all end soon."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import signal
from collections.abc import Iterable, Iterator
from itertools import islice
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from types import FrameType, ModuleType
from typing import Any

import pytest

import dlgforge_core
import dlgforge_dagster

CHARS = 100_000
MAX_S = 2.0
"""Of a processor, for one pattern on one text; linear ones take milliseconds."""
MAX_MATCHES = 100
MAX_PIECES = 4


def modules() -> Iterator[ModuleType]:
    for package in (dlgforge_core, dlgforge_dagster):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__") and ".vllm_middleware" not in found.name:
                yield importlib.import_module(found.name)


def patterns_in(value: Any, depth: int = 3) -> Iterator[re.Pattern[Any]]:
    if isinstance(value, re.Pattern):
        yield value
    elif depth and type(value) is dict:
        for item in (*value.keys(), *value.values()):
            yield from patterns_in(item, depth - 1)
    elif depth and type(value) in (list, tuple, set, frozenset):
        for item in value:
            yield from patterns_in(item, depth - 1)
    elif depth and (isinstance(value, type) or type(value).__module__.startswith("dlgforge")):
        for item in getattr(value, "__dict__", {}).values():
            yield from patterns_in(item, depth - 1)


def all_patterns() -> dict[str, re.Pattern[Any]]:
    """Return the patterns by where they are, each once."""
    found: dict[tuple[Any, int], tuple[str, re.Pattern[Any]]] = {}
    for module in modules():
        for name, value in vars(module).items():
            if isinstance(value, type) and value.__module__ != module.__name__:
                continue
            for pattern in patterns_in(value):
                found.setdefault((pattern.pattern, pattern.flags), (f"{module.__name__}.{name}", pattern))
    numbered: dict[str, re.Pattern[Any]] = {}
    for place, pattern in found.values():
        numbered[f"{place}[{len(numbered)}]"] = pattern
    return numbered


def pieces_of(tree: Any) -> Iterator[str]:
    """Yield the runs of literals in a pattern, and a character of each set."""
    run = ""
    for operator, argument in tree:
        if operator is codes.LITERAL:
            run += chr(argument)
            continue
        if run:
            yield run
            run = ""
        if operator is codes.IN:
            yield from islice(_of_set(argument), 3)
        elif operator is codes.ANY:
            yield "a"
        elif operator is codes.NOT_LITERAL:
            yield "b" if argument == ord("a") else "a"
        else:
            for part in _trees(argument):
                yield from pieces_of(part)
    if run:
        yield run


def _trees(argument: Any) -> Iterator[Any]:
    if isinstance(argument, parser.SubPattern):
        yield argument
    elif isinstance(argument, list | tuple):
        for part in argument:
            yield from _trees(part)


_CATEGORIES = {codes.CATEGORY_SPACE: " \n", codes.CATEGORY_DIGIT: "1", codes.CATEGORY_WORD: "w_"}


def _of_set(argument: Iterable[tuple[Any, Any]]) -> Iterator[str]:
    items = list(argument)
    if items[0][0] is codes.NEGATE:
        left_out = {value for operator, value in items if operator is codes.LITERAL}
        yield next(char for char in "ab .1<" if ord(char) not in left_out)
        return
    for operator, value in items:
        if operator is codes.LITERAL:
            yield chr(value)
        elif operator is codes.RANGE:
            yield chr(value[0])
        elif operator is codes.CATEGORY:
            yield from _CATEGORIES.get(value, "a!")


def hostile_texts(pattern: re.Pattern[Any]) -> Iterator[str]:
    """Yield long texts in which the pattern begins to match in many places, and goes on for long."""
    source = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    flags = pattern.flags & ~re.UNICODE if isinstance(pattern.pattern, bytes) else pattern.flags
    pieces = list(dict.fromkeys(pieces_of(parser.parse(source, flags & ~re.DEBUG))))
    chosen = pieces[:MAX_PIECES]
    for piece in dict.fromkeys([*chosen, "".join(pieces), "".join(chosen[:2]), "".join(chosen[-2:])]):
        if piece:
            yield piece * (CHARS // len(piece) + 1)
    if len(chosen) > 1:  # one beginning, then more of the same, and no end
        for piece in chosen[1:3]:
            yield chosen[0] + piece * (CHARS // len(piece)) + "\x01"


def uses_of(place: str) -> set[str]:
    """Return the methods by which the code uses the pattern at a place; `search` where it does not show."""
    module, _, name = place.partition("[")[0].rpartition(".")
    source = inspect.getsource(importlib.import_module(module))
    found = set(re.findall(rf"\b{name}\.(\w+)\(", source))
    return found or {"search"}


def use(pattern: re.Pattern[Any], methods: set[str], content: Any) -> None:
    if methods <= {"match", "fullmatch"}:
        for method in methods:
            getattr(pattern, method)(content)
    else:
        for _ in islice(pattern.finditer(content), MAX_MATCHES):
            pass


class TooSlowError(Exception):
    pass


def stop(_signal: int, _frame: FrameType | None) -> None:
    raise TooSlowError


def test_every_pattern_ends_soon_on_hostile_texts() -> None:
    patterns = all_patterns()
    assert len(patterns) > 100
    before = signal.signal(signal.SIGVTALRM, stop)
    slow = []
    try:
        for place, pattern in patterns.items():
            methods = uses_of(place)
            for text in hostile_texts(pattern):
                content = text.encode("latin-1", "replace") if isinstance(pattern.pattern, bytes) else text
                signal.setitimer(signal.ITIMER_VIRTUAL, MAX_S)
                try:
                    use(pattern, methods, content)
                except TooSlowError:
                    slow.append(f"{place}: {pattern.pattern!r} on {text[:60]!r}...")
                    break
                finally:
                    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    finally:
        signal.signal(signal.SIGVTALRM, before)
    assert not slow, "\n".join(slow)


def use_on_all(pattern: re.Pattern[str]) -> None:
    for text in hostile_texts(pattern):
        use(pattern, {"search"}, text)


@pytest.mark.parametrize("source", [r"(a+)+b", r"\s+$", r"<b.*c>", r"(?:x|x)*y"])
def test_a_slow_pattern_would_be_found(source: str) -> None:
    before = signal.signal(signal.SIGVTALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.2)
        with pytest.raises(TooSlowError):
            use_on_all(re.compile(source))
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
