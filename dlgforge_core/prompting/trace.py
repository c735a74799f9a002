"""Prompted traces: an answer with notes before it, in JSON where an endpoint enforces it, else between tags.

Whatever a model makes of the form, no part of the notes is taken for the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlgforge_core.config.reasoning import ANSWER_PART, TracePartConfig
from dlgforge_core.llm import structured
from dlgforge_core.llm.forms import Form, Written

_AGAIN = "in the form that was asked for, with every part of it"


@dataclass(frozen=True, slots=True)
class TracedAnswer:
    """An answer, and the notes that led to it."""

    answer: str
    trace: str


class Trace:
    """What notes consist of, and the form in which they come with the answer."""

    def __init__(self, parts: Sequence[TracePartConfig]) -> None:
        self.parts = [part.model_dump() for part in parts]
        self._names = [*(part.name for part in parts), ANSWER_PART]
        tags = "\n".join(f"<{name}>…</{name}>" for name in self._names)
        self.words = f"Write it in this form, and nothing else:\n{tags}"
        """What asks for the form where no schema enforces it."""
        self.form = Form(_schema(self._names), self._read, self.words, _AGAIN)
        names = "|".join(re.escape(name) for name in sorted(self._names, key=len, reverse=True))
        self._tag = re.compile(rf"<(?P<end>/?)[ \t]*(?P<name>{names})[ \t]*>", re.IGNORECASE)
        self._key = re.compile(rf'"(?:{names})"[ \t]*:', re.IGNORECASE)
        # **Evidence:**, ## Evidence, evidence: at the start of a line.
        self._label = re.compile(
            rf"^[ \t]*(?:(?:[-*+][ \t]+)?[*_]{{0,3}}(?P<name>{names})[ \t]?[*_]{{0,3}}[ \t]?[:：][*_]{{0,3}}"
            rf"|#{{1,6}}[ \t]*[*_]{{0,3}}(?P<heading>{names})[*_:：]{{0,4}}[ \t]*$)[ \t]*",
            re.IGNORECASE | re.MULTILINE,
        )

    def holds(self, text: str) -> bool:
        """Whether a text holds notes, or the beginning of some."""
        notes = {name for name in self._labels(text) if name != ANSWER_PART}
        return bool(self._tag.search(text) or self._key.search(text)) or len(notes) > 1

    def _labels(self, text: str) -> set[str]:
        return {_named(match) for match in self._label.finditer(text)}

    def _read(self, written: Written) -> TracedAnswer:
        """Return what a model wrote, as answer and trace. Raises ValueError when it cannot be told apart."""
        problem = ""
        for text in dict.fromkeys((written.text, written.raw)):  # a part may be called as thinking is
            for found in self._readings(text, written.cut):
                try:
                    return self._checked(found, written)
                except ValueError as error:
                    problem = problem or str(error)
        if written.reasoning and not problem and not written.cut and not self.holds(written.text):
            # A model that thinks by itself does not always care for notes.
            return TracedAnswer(written.tidy(written.text), "")
        raise ValueError(problem or f"it lacks {', '.join(self._names)}")

    def _readings(self, text: str, cut: bool) -> Iterator[dict[str, str]]:
        for value in structured.objects(text):
            if all(name in value for name in self._names):
                yield {name: _plain(given) for name, given in value.items()}
                return
        if self._tag.search(text):
            yield self._between_tags(text, cut)
        elif not cut and self._labels(text):
            yield self._below_labels(text)

    def _between_tags(self, text: str, cut: bool) -> dict[str, str]:
        found: dict[str, str] = {}
        marks = list(self._tag.finditer(text))
        for number, mark in enumerate(marks):
            name = self._known(mark["name"])
            if mark["end"] or name in found:
                continue
            ends = [
                later for later in marks[number + 1 :] if later["end"] and self._known(later["name"]) == name
            ]
            if name == ANSWER_PART:  # which may speak of tags itself
                end = ends[-1].start() if ends else len(text)
            else:
                end = marks[number + 1].start() if number + 1 < len(marks) else len(text)
            if name == ANSWER_PART and cut and not ends:
                continue
            found[name] = text[mark.end() : end].strip()
            if name == ANSWER_PART:
                break
        return found

    def _below_labels(self, text: str) -> dict[str, str]:
        found: dict[str, str] = {}
        marks = list(self._label.finditer(text))
        for number, mark in enumerate(marks):
            name = self._known(_named(mark))
            if name == ANSWER_PART:
                found.setdefault(name, text[mark.end() :].strip())
                break
            end = marks[number + 1].start() if number + 1 < len(marks) else len(text)
            found.setdefault(name, text[mark.end() : end].strip())
        return found

    def _checked(self, found: Mapping[str, str], written: Written) -> TracedAnswer:
        if missing := [name for name in self._names if name not in found]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        answer = written.tidy(found[ANSWER_PART])
        if self.holds(answer):
            raise ValueError("the notes are repeated in the answer")
        notes = {name: text for name, text in found.items() if name in self._names[:-1] and text.strip()}
        if not notes:
            raise ValueError("its notes are empty")
        lines = (
            f"{name[0].upper()}{name[1:]}: {notes[name].strip()}" for name in self._names if name in notes
        )
        return TracedAnswer(answer, "\n\n".join(lines))

    def _known(self, name: str) -> str:
        """Return a part's name as it is configured."""
        return next((one for one in self._names if one.casefold() == name.casefold()), name)


def _named(label: re.Match[str]) -> str:
    return label["name"] or label["heading"]


def _plain(value: Any) -> str:
    """Return a part in JSON as text; of a list each item has its line."""
    if isinstance(value, list):
        return "\n".join(map(_plain, value))
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_plain(item)}" for name, item in value.items())
    return "" if value is None else str(value)


def _schema(names: Sequence[str]) -> dict[str, Any]:
    properties = {name: {"type": "string"} for name in names}
    return {
        "title": "answer_with_notes",
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
