"""Forms of answers: what an answer is to look like, and how it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from dlgforge_core.llm import text as texts
from dlgforge_core.llm.markup import Markup

T_co = TypeVar("T_co", covariant=True)

JSON_AGAIN = "with one JSON object and nothing else, as asked for before"


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote: `text` without its thinking, `raw` as it came.

    `reasoning` is what it thought by itself; `cut` says that it was not at its end.
    """

    text: str
    raw: str
    reasoning: str
    cut: bool
    markup: Markup

    def tidy(self, text: str) -> str:
        """Return a part of it as other answers are taken. Raises ValueError when nothing is left."""
        words = texts.printable(self.markup.clean(text).text)
        if texts.is_garbage(words):
            raise ValueError("the answer is empty")
        return words


@dataclass(frozen=True, slots=True)
class Form(Generic[T_co]):
    """A form of answers.

    `schema` is for endpoints that hold their models to one; `words` ask the others for it, where these are
    not to be asked for JSON by the schema itself. `read` raises ValueError, with a message for the model, for
    what it cannot use; `again` is how a model is to answer that was not understood.
    """

    schema: Mapping[str, Any]
    read: Callable[[Written], T_co]
    words: str = ""
    again: str = JSON_AGAIN
