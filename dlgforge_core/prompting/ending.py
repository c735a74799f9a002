"""The user's end of a conversation: how the user simulator says that it has no further question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlgforge_core.llm.forms import Form, Written
from dlgforge_core.llm.structured import parse
from dlgforge_core.prompting.model_output import question_of
from dlgforge_core.prompting.rating_reading import first_of
from dlgforge_core.prompting.rubric import walk_fields, yes_or_no

END_MARKER = "[END]"
"""What the user simulator writes to end the conversation, where it cannot be held to a schema."""

_SCHEMA: Mapping[str, Any] = {
    "title": "question_or_end",
    "type": "object",
    "properties": {"ends": {"type": "boolean"}, "question": {"type": "string"}},
    "required": ["ends", "question"],
    "additionalProperties": False,
}

_ENDS = ("ends", "end", "ended", "end_conversation", "is_end", "done", "finished")
_QUESTION = ("question", "message", "text", "content", "next_question")


def question_or_end(data: Mapping[str, Any]) -> str:
    """Return the question in an answer by the schema; empty when the user ends the conversation.

    Raises ValueError for an answer that does neither.
    """
    fields: dict[str, Any] = {}
    for name, value in walk_fields(data):
        fields.setdefault(name, value)
    ends = yes_or_no(first_of(fields, _ENDS))
    if ends is None:  # a question may well hold an object of its own
        raise ValueError("ends must be true or false")
    if ends:
        return ""
    question = first_of(fields, _QUESTION)
    if not isinstance(question, str) or not any(map(str.isalnum, question)):
        raise ValueError("question is empty, and ends is not true; ask a question, or set ends to true")
    return _read(question)


def ending_form(words: str) -> Form[str]:
    """Return the form of an answer that is a question, or empty where the user ends the conversation.

    `words` tell of the marker, for endpoints that do not hold their models to a schema.
    """
    return Form(
        _SCHEMA, _question_or_end, words, "with the question alone, or ending it, as asked for before"
    )


def _question_or_end(written: Written) -> str:
    """Return what was written, in JSON or in words. Raises ValueError for neither, and what is cut."""
    try:
        return parse(written.text, question_or_end)
    except ValueError:
        if written.text.lstrip(" `\n").removeprefix("json").lstrip().startswith("{"):
            raise
    if written.cut:
        raise ValueError("it was cut off; be shorter")
    return _read(written.tidy(written.text))


def _read(text: str) -> str:
    """Empty for a text that begins or ends with the marker; a question that speaks of it goes on."""
    bare = text.strip(" \t\n\r.!*_`'\"")
    folded = bare.casefold()
    marker = END_MARKER.casefold()
    if folded.startswith(marker) or folded.endswith(marker) or folded == marker.strip("[]"):
        return ""
    return question_of(text)
