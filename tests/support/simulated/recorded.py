"""Answers that a real model once gave, given again to the prompts that they belong to.

A prompt is told by what it holds, not by its exact words, so that recordings outlive changes to the
templates: the topic or the passage, and the questions and answers before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.simulated.content import text_of
from tests.support.simulated.options import ROLES

USER_SIMULATOR = ROLES[0]
_PASSAGE_CHARS = 60


class RecordedAnswers:
    """The dialogues of a file that `scripts.record_answers` has written; empty without one."""

    def __init__(self, path: str) -> None:
        content = json.loads(Path(path).read_text("utf-8")) if path else {"dialogues": []}
        self._dialogues: Sequence[Mapping[str, Any]] = content["dialogues"]
        self._asked: set[str] = set()

    def text(self, role: str, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return what a role said to this; "" when nothing recorded fits."""
        return self.question(messages) if role == USER_SIMULATOR else self.answer(messages)

    def question(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return what the user says next, which was not said before; "" when nothing recorded fits."""
        whole, last = _plain(*messages), _plain(messages[-1])
        best, found = (0, 0, 0), ""
        for dialogue in self._dialogues:
            turns = dialogue["turns"]
            asked = _turns_in(whole, turns)
            if asked == len(turns) or turns[asked]["user"] in self._asked:
                continue
            passage = _squeezed(turns[asked]["passage"])[:_PASSAGE_CHARS]
            fits = asked, bool(passage) and passage in last, _squeezed(dialogue["topic"]) in whole
            if fits > best:
                best, found = fits, turns[asked]["user"]
        if found:
            self._asked.add(found)
        return found

    def answer(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return the answer to the question that comes last; "" when it is not a recorded one."""
        turn = self._latest("user", _plain(messages[-1]))
        return turn["assistant"] if turn else ""

    def verdict(self, messages: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Return the verdict on the answer that comes last; empty when it is not a recorded one."""
        turn = self._latest("assistant", _plain(*messages))
        return (turn["verdict"] if turn else None) or {}

    def _latest(self, part: str, text: str) -> Mapping[str, Any] | None:
        found = [
            # Of answers that are alike, the one after as many turns.
            ((position, _turns_in(text, dialogue["turns"]) == number), turn)
            for dialogue in self._dialogues
            for number, turn in enumerate(dialogue["turns"], 1)
            if (position := text.rfind(_squeezed(turn[part]))) >= 0
        ]
        return max(found, key=lambda one: one[0])[1] if found else None


def _turns_in(text: str, turns: Sequence[Mapping[str, Any]]) -> int:
    """Return how many turns a text has, one after the other: a question may repeat an answer word by word."""
    end = 0
    for number, turn in enumerate(turns):
        for part in (turn["user"], turn["assistant"]):
            start = text.find(_squeezed(part), end)
            if start < 0:
                return number
            end = start + len(_squeezed(part))
    return len(turns)


def _plain(*messages: Mapping[str, Any]) -> str:
    return _squeezed("\n".join(map(text_of, messages)))


def _squeezed(text: str) -> str:
    return " ".join(re.findall(r"\w+", text))  # quoted passages have marks of their own
