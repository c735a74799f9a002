"""Dialogues as reviewers left them, for exports: with their marks, and edits in place of originals."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from dlgforge_core.database.connection import Connection
from dlgforge_core.database.database import Database
from dlgforge_core.dialogue import Dialogue, Turn
from dlgforge_core.review.marks import Part, edits_of, marks_of, texts_of
from dlgforge_core.store.results import Scope

_BATCH = 200

_HAS_MARKS = """
WITH wanted AS ({wanted})
SELECT EXISTS (
    SELECT FROM review_marks JOIN dialogues d USING (dialogue_id) JOIN wanted USING (plan_id)
    WHERE d.status = 'done' AND d.ordinal < wanted.n_dialogues
)
"""


def has_marks(database: Database, scope: Scope) -> bool:
    """Whether any finished dialogue of a scope was marked. Raises StoreError."""
    with database.connection() as connection:
        row = connection.execute(scope.sql(_HAS_MARKS), scope.parameters).fetchone()
    return bool(row and row[0])


def with_marks(database: Database, dialogues: Iterable[Dialogue]) -> Iterator[Dialogue]:
    """`dialogues` with their marks, streamed. Raises StoreError."""
    return _in_batches(database, dialogues, _marked)


def with_edits(
    database: Database, dialogues: Iterable[Dialogue], on_edited: Callable[[int], None] = lambda n: None
) -> Iterator[Dialogue]:
    """`dialogues` with the latest revision of each message, streamed. Raises StoreError.

    `on_edited` is told the number of edited messages of each dialogue that has some. Verdicts, tool calls and
    reasoning stay as they were.
    """

    def edited(connection: Connection, batch: list[Dialogue]) -> Iterator[Dialogue]:
        found = edits_of(connection, [dialogue.plan.dialogue_id for dialogue in batch])
        for dialogue in batch:
            texts = texts_of(found.get(dialogue.plan.dialogue_id, {}))
            if texts:
                on_edited(len(texts))
            yield as_edited(dialogue, texts)

    return _in_batches(database, dialogues, edited)


def as_edited(dialogue: Dialogue, texts: Mapping[tuple[int, Part], str]) -> Dialogue:
    """Return a dialogue with other texts of its messages, by turn and part; itself where there are none."""
    if not texts:
        return dialogue
    return replace(dialogue, turns=tuple(_turn(turn, texts) for turn in dialogue.turns))


def _turn(turn: Turn, texts: Mapping[tuple[int, Part], str]) -> Turn:
    opening = texts.get((turn.index, "opening"), turn.details.opening)
    user = texts.get((turn.index, "user"), turn.user)
    assistant = texts.get((turn.index, "assistant"), turn.assistant)
    # The chosen answer is the turn's own, in pairs as well.
    candidates = tuple(
        replace(one, answer=assistant) if one.chosen else one for one in turn.details.candidates
    )
    details = replace(turn.details, opening=opening, candidates=candidates)
    return replace(turn, user=user, assistant=assistant, details=details)


def _marked(connection: Connection, batch: list[Dialogue]) -> Iterator[Dialogue]:
    found = marks_of(connection, [dialogue.plan.dialogue_id for dialogue in batch])
    for dialogue in batch:
        marks = found.get(dialogue.plan.dialogue_id)
        yield replace(dialogue, marks=tuple(marks)) if marks else dialogue


def _in_batches(
    database: Database,
    dialogues: Iterable[Dialogue],
    change: Callable[[Connection, list[Dialogue]], Iterator[Dialogue]],
) -> Iterator[Dialogue]:
    stream = iter(dialogues)
    with database.connection() as connection:
        while batch := list(itertools.islice(stream, _BATCH)):
            yield from change(connection, batch)
