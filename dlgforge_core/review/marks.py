"""Marks and edits of reviewers, in Postgres."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from dlgforge_core.common.invisible import is_visible, tidy
from dlgforge_core.database.connection import Connection
from dlgforge_core.errors import ConfigError
from dlgforge_core.printable import printable
from dlgforge_core.store.writes import storable
from dlgforge_core.verdicts import Mark

Part = Literal["opening", "user", "assistant"]
PARTS: tuple[Part, ...] = get_args(Part)
"""The messages that a turn may have."""

MAX_NAME, MAX_COMMENT, MAX_TEXT = 60, 10_000, 1_000_000
"""How long names of reviewers and labels, comments and edited messages may be, in characters."""

_MARKS = """
SELECT dialogue_id, reviewer, verdict = 'good', label, comment FROM review_marks
WHERE dialogue_id = ANY(%(ids)s) ORDER BY dialogue_id, reviewer
"""
_PUT_MARK = """
INSERT INTO review_marks (dialogue_id, reviewer, verdict, label, comment)
SELECT dialogue_id, %(reviewer)s, %(verdict)s, %(label)s, %(comment)s FROM dialogues
WHERE dialogue_id = %(id)s
ON CONFLICT (dialogue_id, reviewer) DO UPDATE
SET verdict = excluded.verdict, label = excluded.label, comment = excluded.comment, marked_at = now()
RETURNING dialogue_id
"""
_LABELS = "SELECT label FROM review_marks WHERE label <> '' GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 50"
_EDITS = """
SELECT dialogue_id, turn_index, part, revision, reviewer, text FROM review_edits
WHERE dialogue_id = ANY(%(ids)s) ORDER BY dialogue_id, turn_index, part, revision
"""
_ORIGINAL = """
SELECT CASE %(part)s WHEN 'user' THEN user_text WHEN 'assistant' THEN assistant_text
       ELSE nullif(details ->> 'opening', '') END
FROM turns WHERE dialogue_id = %(id)s AND turn_index = %(turn)s
"""
_PUT_EDIT = """
INSERT INTO review_edits (dialogue_id, turn_index, part, revision, reviewer, text)
SELECT %(id)s, %(turn)s, %(part)s, %(revision)s, %(reviewer)s, %(text)s
WHERE %(revision)s = 1 + coalesce((SELECT max(revision) FROM review_edits
    WHERE dialogue_id = %(id)s AND turn_index = %(turn)s AND part = %(part)s), 0)
ON CONFLICT DO NOTHING
RETURNING revision
"""


@dataclass(frozen=True, slots=True)
class Edit:
    """A revision of a message; `text` is None where it takes those before back."""

    turn_index: int
    part: Part
    revision: int
    reviewer: str
    text: str | None


Edits = Mapping[tuple[int, Part], Sequence[Edit]]
"""The revisions of a dialogue's messages, by turn and part, the latest last."""


def reviewer_name(text: str) -> str:
    """Return a reviewer's name as it is kept. Raises ConfigError for what is no name."""
    return _word(text, "the name of a reviewer", needed=True)


def mark_of(reviewer: str, verdict: str, label: str = "", comment: str = "") -> Mark:
    """Return a checked mark. Raises ConfigError."""
    if verdict not in ("good", "bad"):
        raise ConfigError(f"a mark is good or bad, not {verdict!r}")
    if len(comment) > MAX_COMMENT:
        raise ConfigError(f"a comment has at most {MAX_COMMENT:,} characters; this one has {len(comment):,}")
    kept = storable(comment.strip())
    return Mark(reviewer_name(reviewer), verdict == "good", _word(label, "a label"), kept)


def _word(text: str, what: str, *, needed: bool = False) -> str:
    word = " ".join(printable(tidy(unicodedata.normalize("NFC", storable(text)))).split())
    if len(word) > MAX_NAME:
        raise ConfigError(f"{what} has at most {MAX_NAME} characters; this one has {len(word)}")
    if needed and not is_visible(word):
        raise ConfigError(f"{what} is empty")
    return word


def marks_of(connection: Connection, ids: Sequence[str]) -> dict[str, list[Mark]]:
    """Return the marks of dialogues, by dialogue; those without any are left out."""
    found: dict[str, list[Mark]] = {}
    for dialogue_id, *columns in connection.execute(_MARKS, {"ids": list(ids)}).fetchall():
        found.setdefault(dialogue_id, []).append(Mark(*columns))
    return found


def put_mark(connection: Connection, dialogue_id: str, mark: Mark) -> bool:
    """Keep a mark in place of the reviewer's former one; returns whether there is such a dialogue."""
    values = {"id": dialogue_id, "reviewer": mark.reviewer, "verdict": mark.verdict}
    texts = {"label": mark.label, "comment": mark.comment}
    return connection.execute(_PUT_MARK, {**values, **texts}).fetchone() is not None


def remove_mark(connection: Connection, dialogue_id: str, reviewer: str) -> None:
    """Take a reviewer's mark back."""
    connection.execute(
        "DELETE FROM review_marks WHERE (dialogue_id, reviewer) = (%s, %s)", (dialogue_id, reviewer)
    )


def labels(connection: Connection) -> list[str]:
    """Return the labels that marks have, the most frequent first."""
    return [row[0] for row in connection.execute(_LABELS).fetchall()]


def edits_of(connection: Connection, ids: Sequence[str]) -> dict[str, dict[tuple[int, Part], list[Edit]]]:
    """Return all revisions of dialogues' messages, by dialogue; those without any are left out."""
    found: dict[str, dict[tuple[int, Part], list[Edit]]] = {}
    for dialogue_id, *columns in connection.execute(_EDITS, {"ids": list(ids)}).fetchall():
        edit = Edit(*columns)
        found.setdefault(dialogue_id, {}).setdefault((edit.turn_index, edit.part), []).append(edit)
    return found


def put_edit(
    connection: Connection,
    dialogue_id: str,
    location: tuple[int, Part],
    reviewer: str,
    text: str | None,
    *,
    revision: int,
) -> None:
    """Keep a revision of a message; None, or the original's text, takes those before back.

    `revision` is its number, from 1. Raises ConfigError for a message that is not there, a text that is empty
    or too long, and where somebody has made a revision of this number already.
    """
    turn, part = location
    values = {"id": dialogue_id, "turn": turn, "part": part, "revision": revision}
    row = connection.execute(_ORIGINAL, values).fetchone()
    if row is None or row[0] is None:
        raise ConfigError(f"dialogue {dialogue_id} has no such message: turn {turn + 1}, {part}")
    if text is not None:
        text = storable(text.replace("\r\n", "\n"))
        if not is_visible(text):
            raise ConfigError("the message would be empty; the original is kept")
        if len(text) > MAX_TEXT:
            raise ConfigError(f"a message has at most {MAX_TEXT:,} characters; this one has {len(text):,}")
    kept = None if text == row[0] else text
    put = connection.execute(
        _PUT_EDIT, {**values, "reviewer": reviewer_name(reviewer), "text": kept}
    ).fetchone()
    if put is None:
        raise ConfigError("somebody has edited this message meanwhile: look at it, and edit it again")


def texts_of(edits: Edits) -> dict[tuple[int, Part], str]:
    """Return the texts in force of those messages that are edited."""
    latest = {location: revisions[-1].text for location, revisions in edits.items() if revisions}
    return {location: text for location, text in latest.items() if text is not None}
