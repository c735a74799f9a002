"""Writes of a worker, and how a group of them reaches Postgres at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import psycopg

from dlgforge_core.common.questions import question_key
from dlgforge_core.conversation.outcomes import Outcome, Unjudged
from dlgforge_core.dialogue import DropReason, Ending, Turn, TurnDetails
from dlgforge_core.errors import LeaseLostError
from dlgforge_core.planning.plan import spare_id
from dlgforge_core.store import statements as sql
from dlgforge_core.store.finishing import FINISH_DIALOGUES
from dlgforge_core.store.reservations import UnlikeQuestions
from dlgforge_core.usage import Usage, usage_json
from dlgforge_core.verdicts import GoalVerdict, Judgement


@dataclass(frozen=True, slots=True)
class ReserveQuestion:
    """Make a question this turn's own; the result says whether it is."""

    worker_id: int
    dialogue_id: str
    turn_index: int
    position: int
    question: str

    def row(self) -> dict[str, Any]:
        """Return the columns of the statement's input that are its own."""
        return {
            "turn_index": self.turn_index,
            "position": self.position,
            "question": _storable(self.question),
            "question_key": question_key(self.question).hex(),
        }


@dataclass(frozen=True, slots=True)
class RecordOutcome:
    """Keep an outcome of the turn in progress, at its position among them."""

    worker_id: int
    dialogue_id: str
    turn_index: int
    position: int
    outcome: Outcome
    usage: Usage = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Return the columns of the statement's input that are its own."""
        return {
            "turn_index": self.turn_index,
            "position": self.position,
            "kind": self.outcome.kind,
            "data": storable(self.outcome.to_json()),
            **_usage(self.usage),
        }


@dataclass(frozen=True, slots=True)
class CommitTurn:
    """Keep a turn and fold its outcomes away; with `final` the dialogue is finished, under `judgement`.

    With `shortcomings` it does not count, and its spare is opened.
    """

    worker_id: int
    dialogue_id: str
    turn: Turn
    final: bool
    judgement: Judgement | None
    unjudged: Sequence[Unjudged] = ()
    shortcomings: Mapping[str, str] = field(default_factory=dict)
    goal: GoalVerdict | None = None
    usage: Usage = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Return the columns of the statement's input that are its own."""
        return {
            "turn_index": self.turn.index,
            "user_text": _storable(self.turn.user),
            "assistant_text": _storable(self.turn.assistant),
            "judgement": _verdict(self.turn.judgement),
            "details": _details(self.turn.details),
            "final": self.final,
            "conversation": _verdict(self.judgement),
            "goal": _goal(self.goal),
            **_lacking(self.unjudged),
            **_replaced(self.dialogue_id, self.shortcomings),
            **_usage(self.usage),
        }


@dataclass(frozen=True, slots=True)
class FinishDialogue:
    """Finish a dialogue that ends before another turn, and fold its outcomes away.

    With `shortcomings` it does not count, and its spare is opened.
    """

    worker_id: int
    dialogue_id: str
    ended_by: Ending
    judgement: Judgement | None
    goal: GoalVerdict | None
    unjudged: Sequence[Unjudged] = ()
    shortcomings: Mapping[str, str] = field(default_factory=dict)
    usage: Usage = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Return the columns of the statement's input that are its own."""
        return {
            "ended_by": self.ended_by.value,
            "conversation": _verdict(self.judgement),
            "goal": _goal(self.goal),
            **_lacking(self.unjudged),
            **_replaced(self.dialogue_id, self.shortcomings),
            **_usage(self.usage),
        }


@dataclass(frozen=True, slots=True)
class AmendDialogue:
    """Keep verdicts that a finished dialogue lacked, by turn index or None, and give the dialogue back."""

    worker_id: int
    dialogue_id: str
    judgements: Mapping[int | None, Judgement]
    unjudged: Sequence[Unjudged] = ()
    goal: GoalVerdict | None = None
    usage: Usage = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Return the columns of the statement's input that are its own."""
        turns = [
            {"turn_index": index, "judgement": _verdict(judgement)}
            for index, judgement in self.judgements.items()
            if index is not None
        ]
        return {
            "turns": turns,
            "conversation": _verdict(self.judgements.get(None)),
            "goal": _goal(self.goal),
            **_lacking(self.unjudged),
            **_usage(self.usage),
        }


@dataclass(frozen=True, slots=True)
class DropDialogue:
    """Give a dialogue up, with the reason; its spare is opened, where there are any."""

    worker_id: int
    dialogue_id: str
    reason: DropReason
    detail: str
    setup: str = ""
    usage: Usage = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Return the columns of the statement's input that are its own."""
        return {
            "reason": self.reason.value,
            "detail": _storable(self.detail),
            "setup": self.setup,
            "spare": spare_id(self.dialogue_id),
            **_usage(self.usage),
        }


Write = ReserveQuestion | RecordOutcome | CommitTurn | FinishDialogue | AmendDialogue | DropDialogue

_STATEMENTS: Mapping[type[Write], str] = {
    CommitTurn: sql.COMMIT_TURNS,
    FinishDialogue: FINISH_DIALOGUES,
    AmendDialogue: sql.AMEND_DIALOGUES,
    RecordOutcome: sql.RECORD_OUTCOMES,
    DropDialogue: sql.DROP_DIALOGUES,
    ReserveQuestion: sql.RESERVE_QUESTIONS,
}

_LOST = object()
"""The result of a write that no statement has given back."""


async def execute(
    connection: psycopg.AsyncConnection,
    run: Mapping[str, object],
    ops: Sequence[Write],
    unlike: UnlikeQuestions | None = None,
) -> list[object]:
    """Carry the operations out; returns their results, in order.

    `run` is what the statements must know of it: `fingerprint`, and how many `attempts` a sample may take.

    It takes one round trip; where `unlike` refuses near-copies, questions take one or more besides, in
    transactions of their own. A write whose worker no longer holds the lease has no effect, and a
    LeaseLostError for its result.
    """
    rows: dict[type[Write], list[dict[str, Any]]] = {}
    for number, op in enumerate(ops):
        common = {"op": number, "worker_id": op.worker_id, "dialogue_id": op.dialogue_id}
        rows.setdefault(type(op), []).append(common | op.row())
    results: list[object] = [_LOST] * len(ops)
    questions = rows.pop(ReserveQuestion, []) if unlike is not None else []
    kinds = [kind for kind in _STATEMENTS if kind in rows]
    if len(kinds) == 1:
        cursors = [await _send(connection, run, kinds[0], rows)]
    elif kinds:
        # Between two synchronisations a pipeline in autocommit mode is one transaction.
        async with connection.pipeline():
            cursors = [await _send(connection, run, kind, rows) for kind in kinds]
    else:
        cursors = []
    for cursor in cursors:
        for number, result in await cursor.fetchall():
            results[number] = result
    if unlike is not None and questions:  # after the others: what a drop frees can be asked again
        for number, reservation in (await unlike.reserve(connection, questions)).items():
            results[number] = reservation
    return [
        LeaseLostError(f"dialogue {op.dialogue_id} was taken over by another worker") if got is _LOST else got
        for op, got in zip(ops, results, strict=True)
    ]


async def _send(
    connection: psycopg.AsyncConnection,
    run: Mapping[str, object],
    kind: type[Write],
    rows: Mapping[type[Write], list[dict[str, Any]]],
) -> psycopg.AsyncCursor[tuple[int, object]]:
    # JSON, because arrays cost several times the CPU to encode, here and there.
    parameters = {"rows": orjson.dumps(rows[kind]).decode(), **run}
    return await connection.execute(_STATEMENTS[kind].encode(), parameters, prepare=True)


def _verdict(judgement: Judgement | None) -> dict[str, Any] | None:
    if judgement is None:
        return None
    plain = {**judgement.to_json(), "comment": _storable(judgement.comment)}
    return {**plain, "goal": _goal(judgement.goal)} if judgement.goal else plain


def _goal(verdict: GoalVerdict | None) -> dict[str, Any] | None:
    return storable(verdict.to_json()) if verdict else None


def _replaced(dialogue_id: str, shortcomings: Mapping[str, str]) -> dict[str, Any]:
    """Return what a dialogue lacks, and its spare; nothing when it counts."""
    if not shortcomings:
        return {}
    return {"shortcomings": storable(shortcomings), "spare": spare_id(dialogue_id)}


def _lacking(unjudged: Sequence[Unjudged]) -> dict[str, Any]:
    """How many verdicts are lacking, and why the last one was not had."""
    if not unjudged:
        return {"unjudged": 0}
    last = unjudged[-1]
    return {"unjudged": len(unjudged), "reason": last.reason.value, "detail": _storable(last.detail)}


def _usage(usage: Usage) -> dict[str, Any]:
    """Return what calls have used, where any was made."""
    return {"usage": usage_json(usage)} if usage else {}


def _details(details: TurnDetails) -> Any:
    return storable(details.to_json()) or None


def storable(value: Any) -> Any:
    """Plain data as jsonb takes it: every text in it without NUL and lone surrogates."""
    if isinstance(value, str):
        return _storable(value)
    if isinstance(value, Mapping):
        return {_storable(str(key)): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value


def _storable(text: str) -> str:
    """Text Postgres can hold: no NUL, no lone surrogates."""
    if text.isascii():
        return text.replace("\0", "")
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
