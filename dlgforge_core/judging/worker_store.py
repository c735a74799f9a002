"""The run state as one judging worker sees it: claim dialogues, keep verdicts while they are its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from dlgforge_core.database.connection import AsyncConnection
from dlgforge_core.database.database import Database
from dlgforge_core.errors import LeaseLostError
from dlgforge_core.judging.store import Verdict
from dlgforge_core.judging.tallies import Tallies, Tally, add_tallies, tallies_from_json, tallies_to_json
from dlgforge_core.store.lease_holder import LeaseHolder
from dlgforge_core.store.writes import storable

_ALIVE = "SELECT 1 FROM workers WHERE worker_id = %(me)s AND ended_at IS NULL"

# First what others have let go of.
_CLAIM_FREED = """
UPDATE judging_claims SET worker_id = %(me)s
WHERE session_id = %(session)s AND dialogue_id IN (
    SELECT dialogue_id FROM judging_claims WHERE session_id = %(session)s AND worker_id IS NULL
    LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
RETURNING dialogue_id
"""

# The row of the session makes claims take turns.
_CURSOR = """
SELECT plans -> plan_number ->> 0, (plans -> plan_number ->> 1)::int, plan_number, after
FROM judging_sessions WHERE session_id = %(session)s FOR UPDATE
"""

_CLAIM_NEXT = """
WITH next AS (
    SELECT dialogue_id, ordinal FROM dialogues
    WHERE plan_id = %(plan)s AND ordinal > %(after)s AND ordinal < %(n)s AND status = 'done'
    ORDER BY ordinal LIMIT %(limit)s
),
claimed AS (
    INSERT INTO judging_claims (session_id, dialogue_id, worker_id)
    SELECT %(session)s, dialogue_id, %(me)s FROM next
)
SELECT dialogue_id, ordinal FROM next ORDER BY ordinal
"""

_ADVANCE = """
UPDATE judging_sessions SET plan_number = %(number)s, after = %(after)s WHERE session_id = %(session)s
"""

# Asked when this worker has nothing open: what is still claimed by it is of a claim whose reply was lost.
_LEFT = """
WITH strays AS (
    UPDATE judging_claims SET worker_id = NULL WHERE session_id = %(session)s AND worker_id = %(me)s
)
SELECT (SELECT count(*) FROM judging_claims WHERE session_id = %(session)s)
     + (SELECT count(*) FROM judging_sessions
        WHERE session_id = %(session)s AND plans -> plan_number IS NOT NULL)
"""

# This worker's row is locked before any claim, as by `TAKE_OVER`.
_WRITTEN = "SELECT tallies FROM workers WHERE worker_id = %(me)s FOR UPDATE"

# A dialogue that was deleted meanwhile needs no verdict. The later verdict of a judge on the same thing
# replaces the earlier.
_PUT = """
WITH owned AS MATERIALIZED (
    SELECT v.* FROM jsonb_to_recordset(%(rows)s::jsonb)
        AS v (op int, dialogue_id text, turn_index int, judge_key text, score int, reasons text[],
              comment text, digest text, ratings jsonb)
    JOIN judging_claims c ON c.session_id = %(session)s AND c.dialogue_id = v.dialogue_id
    WHERE c.worker_id = %(me)s
    FOR SHARE OF c
),
put AS (
    INSERT INTO judgements
        (dialogue_id, turn_index, judge_key, score, reasons, comment, text_digest, ratings)
    SELECT v.dialogue_id, v.turn_index, v.judge_key, v.score, v.reasons, v.comment,
           decode(v.digest, 'hex'), v.ratings
    FROM owned v JOIN dialogues USING (dialogue_id)
    ON CONFLICT (dialogue_id, turn_index, judge_key) DO UPDATE
    SET score = excluded.score, reasons = excluded.reasons, comment = excluded.comment,
        text_digest = excluded.text_digest, ratings = excluded.ratings, judged_at = now()
)
SELECT op FROM owned
"""

_FINISH = """
DELETE FROM judging_claims c USING jsonb_to_recordset(%(rows)s::jsonb) AS f (op int, dialogue_id text)
WHERE c.session_id = %(session)s AND c.dialogue_id = f.dialogue_id AND c.worker_id = %(me)s
RETURNING f.op
"""

_KEEP_TALLIES = "UPDATE workers SET tallies = %(tallies)s::jsonb WHERE worker_id = %(me)s"


@dataclass(frozen=True, slots=True)
class PutVerdict:
    """Keep a verdict; `tally` is what it adds to its judge's."""

    verdict: Verdict
    tally: Tally

    @property
    def dialogue_id(self) -> str:
        """The dialogue that it is about."""
        return self.verdict.dialogue_id

    @property
    def tallies(self) -> Mapping[str, Tally]:
        """What is added to the tallies."""
        return {self.verdict.judge_key: self.tally}

    def row(self) -> dict[str, Any]:
        """Return the columns of the statement's input."""
        return self.verdict.to_json()


@dataclass(frozen=True, slots=True)
class FinishDialogue:
    """Be done with a dialogue; `tallies` are what else is to be counted of it."""

    dialogue_id: str
    tallies: Tallies = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Return the columns of the statement's input."""
        return {"dialogue_id": self.dialogue_id}


Write = PutVerdict | FinishDialogue
_STATEMENTS: Mapping[type[Write], str] = {PutVerdict: _PUT, FinishDialogue: _FINISH}


class JudgingStore(LeaseHolder[Write]):
    """One worker's side of a judging session, as `LeaseHolder` describes it."""

    def __init__(
        self,
        database: Database,
        *,
        session_id: str,
        lease_s: float,
        patience_s: float,
        application: str,
    ) -> None:
        super().__init__(
            database,
            self._execute,
            application=application,
            lease_s=lease_s,
            patience_s=patience_s,
            session_id=session_id,
        )
        self._session_id = session_id
        self._tallies: Tallies = {}
        self._writes = 0

    async def register(self) -> None:
        """Become a worker of the session, whose tallies begin anew."""
        await super().register()
        self._tallies, self._writes = {}, 0

    @property
    def _values(self) -> dict[str, Any]:
        return {"session": self._session_id, "me": self._worker_id}

    async def claim(self, limit: int) -> list[str]:
        """Claim up to `limit` dialogues of the session; returns their ids, none when all are claimed."""

        async def run(connection: AsyncConnection) -> list[str]:
            async with connection.transaction():
                return await self._claim(connection, limit)

        return await self._control.run(run)

    async def _claim(self, connection: AsyncConnection, limit: int) -> list[str]:
        values = self._values
        if not await (await connection.execute(_ALIVE, values)).fetchone():
            return []  # the next heartbeat tells
        cursor = await connection.execute(_CLAIM_FREED, {**values, "limit": limit})
        ids = [row[0] for row in await cursor.fetchall()]
        row = await (await connection.execute(_CURSOR, values)).fetchone()
        while row is not None and row[0] is not None and len(ids) < limit:
            plan, n, number, after = row
            wanted = limit - len(ids)
            part = {"plan": plan, "n": n, "after": after, "limit": wanted}
            found = await (await connection.execute(_CLAIM_NEXT, {**values, **part})).fetchall()
            ids += [dialogue_id for dialogue_id, _ in found]
            to = (number, found[-1][1]) if len(found) == wanted else (number + 1, -1)
            await connection.execute(_ADVANCE, {**values, "number": to[0], "after": to[1]})
            row = await (await connection.execute(_CURSOR, values)).fetchone()
        return ids

    async def left(self) -> bool:
        """Whether anything is left to claim, or claimed by others. To be asked with nothing open."""

        async def run(connection: AsyncConnection) -> bool:
            row = await (await connection.execute(_LEFT, self._values)).fetchone()
            return bool(row and row[0])

        return await self._control.run(run)

    # Each returns when the write is durable; raises LeaseLostError when another worker has taken the dialogue
    # over.

    async def put(self, verdict: Verdict, tally: Tally) -> None:
        """Keep a verdict, and count it."""
        await self._writer.submit(PutVerdict(verdict, tally))

    async def finish(self, dialogue_id: str, tallies: Tallies) -> None:
        """Give a dialogue back that all is done of which can be, and count what became of it."""
        await self._writer.submit(FinishDialogue(dialogue_id, tallies))

    async def _execute(self, connection: AsyncConnection, ops: Sequence[Write]) -> Sequence[object]:
        """Carry the operations out in one transaction, together with the tallies that they make.

        The tallies are kept whole, and with the number of the group, so that a group can be repeated whose
        reply was lost.
        """
        values, number = self._values, self._writes + 1
        rows: dict[type[Write], list[dict[str, Any]]] = {}
        for n, op in enumerate(ops):
            rows.setdefault(type(op), []).append({"op": n, **op.row()})
        async with connection.transaction():
            row = await (await connection.execute(_WRITTEN, values)).fetchone()
            before = row[0] if row else None
            if before is not None and before["writes"] == number:
                self._tallies, self._writes = tallies_from_json([before["judges"]]), number
                return [None] * len(ops)
            results: list[object] = [
                LeaseLostError(f"dialogue {op.dialogue_id} was taken over by another worker") for op in ops
            ]
            for kind in _STATEMENTS:
                if kind in rows:
                    parameters = {"rows": orjson.dumps(rows[kind]).decode(), **values}
                    cursor = await connection.execute(_STATEMENTS[kind].encode(), parameters, prepare=True)
                    for (n,) in await cursor.fetchall():
                        results[n] = None
            tallies: Tallies = {}
            add_tallies(tallies, self._tallies)  # a copy: the group may be written again
            for op, result in zip(ops, results, strict=True):
                if result is None:
                    add_tallies(tallies, op.tallies)
            kept = storable({"writes": number, "judges": tallies_to_json(tallies)})
            await connection.execute(_KEEP_TALLIES, {**values, "tallies": orjson.dumps(kept).decode()})
        self._tallies, self._writes = tallies, number
        return results
