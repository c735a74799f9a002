"""The log of a dataset's questions in Postgres, and the index that a worker makes of it.

Rows are appended under a lock alone, so that they are numbered in the order in which they were committed: who
has read up to a number has everything before it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence

import psycopg

from dlgforge_core.database import lock_keys
from dlgforge_core.store.near_duplicates import marks_of
from dlgforge_core.store.near_index import NearIndex, Run, entries_of
from dlgforge_core.store.near_runs import SharedRuns

_ROWS_AT_ONCE = 32
_OLDER_AT_ONCE = 2000
_PATIENCE_S = 60.0  # for another worker of this machine, which reads the log for all

# How long the lock may be held while its holder does nothing, in seconds. The work in between takes
# milliseconds.
STALL_S = 10.0

# It makes reservations of one fingerprint take turns; a holder that stands still is cut off, so that the
# others go on.
_LOCK = f"""
SELECT set_config('idle_in_transaction_session_timeout', %(stall_ms)s::text, true),
       pg_advisory_xact_lock({lock_keys.QUESTIONS}, hashtext(%(fingerprint)s))
"""

# From the last row that is known, which must be there still, on.
_READ = """
SELECT seq, tag, CASE WHEN seq > %(seq)s THEN entries END FROM question_log
WHERE fingerprint = %(fingerprint)s AND seq >= %(seq)s ORDER BY seq LIMIT %(most)s
"""
# The rows in which shared runs end.
_TAGS = "SELECT seq, tag FROM question_log WHERE fingerprint = %(fingerprint)s AND seq = ANY(%(ends)s)"
_ENTRIES = "SELECT entries FROM question_log WHERE fingerprint = %(fingerprint)s AND seq = %(seq)s"
_APPEND = "INSERT INTO question_log VALUES (%(fingerprint)s, %(seq)s, %(tag)s, %(entries)s)"

_UNLOGGED = "SELECT after FROM unlogged_questions WHERE fingerprint = %(fingerprint)s"
_OLDER = """
SELECT question_key, normal_form FROM questions
WHERE fingerprint = %(fingerprint)s AND question_key > %(after)s AND normal_form IS NOT NULL
ORDER BY question_key LIMIT %(most)s
"""
_OLDER_LOGGED = "UPDATE unlogged_questions SET after = %(after)s WHERE fingerprint = %(fingerprint)s"
_ALL_LOGGED = "DELETE FROM unlogged_questions WHERE fingerprint = %(fingerprint)s"

LogRow = tuple[int, int, bytes | None]
"""Number, tag and entries; of the row that was known before without these."""


class QuestionLog:
    """The log of a fingerprint as one worker knows it: `index` has what was read of it."""

    def __init__(self, fingerprint: str, threshold: float) -> None:
        self._fingerprint = fingerprint
        self._threshold = threshold
        self._seq = 0  # of the last row that was read
        self._tag = 0
        self._begun = False
        self._shared = SharedRuns(f"{fingerprint} {threshold}")
        self.index = NearIndex(threshold, self._shared)
        self.others_append = False
        """Whether others had appended rows the last time, so that it is better to read before one tries."""

    @property
    def tag(self) -> int:
        """The tag of the last row that was read, 0 where there was none."""
        return self._tag

    async def lock(self, connection: psycopg.AsyncConnection) -> None:
        """Keep other workers' reservations out until the transaction ends."""
        await connection.execute(
            _LOCK, {"fingerprint": self._fingerprint, "stall_ms": round(1000 * STALL_S)}, prepare=True
        )

    async def send_read(self, connection: psycopg.AsyncConnection) -> psycopg.AsyncCursor[LogRow]:
        """Ask for what has been appended; for `take`."""
        values = {"fingerprint": self._fingerprint, "seq": self._seq, "most": _ROWS_AT_ONCE}
        return await connection.execute(_READ, values, prepare=True, binary=True)

    async def take(self, connection: psycopg.AsyncConnection, rows: Sequence[LogRow]) -> bool:
        """Take in what was read, and read on to the end; whether there was more.

        Raises OperationalError where the log is no longer the one that was read before.
        """
        self.others_append = len(rows) > bool(self._seq)
        read_on = False
        while self._take(rows):
            read_on = True
            await asyncio.sleep(0)
            rows = await (await self.send_read(connection)).fetchall()
        return read_on

    def _take(self, rows: Sequence[LogRow]) -> bool:
        """Take in rows; whether there may be more to read."""
        known = bool(self._seq)
        if known and (not rows or rows[0][:2] != (self._seq, self._tag)):
            # Another server, which lacks what the last one had: the group is written again, from `begin` on.
            self._seq, self._tag, self._begun = 0, 0, False
            self.index = NearIndex(self._threshold, self._shared)
            raise psycopg.OperationalError("the log of questions is another one than before")
        for row in rows[known:]:
            self._add(row)
        return len(rows) == _ROWS_AT_ONCE

    def _add(self, row: LogRow) -> None:
        self._seq, self._tag, entries = row
        assert entries is not None
        self.index.add(entries, self._seq, self._tag)

    def next_row(self, entries: bytes) -> LogRow:
        """Return the row that follows the last one that was read."""
        return self._seq + 1, secrets.randbits(63), entries

    def values_of(self, row: LogRow) -> dict[str, object]:
        """Return the row's columns, by name."""
        return {"fingerprint": self._fingerprint, "seq": row[0], "tag": row[1], "entries": row[2]}

    async def append(self, connection: psycopg.AsyncConnection, row: LogRow) -> None:
        """Append the next row, under the lock and with the end known."""
        await connection.execute(_APPEND, self.values_of(row), prepare=True)

    def appended(self, row: LogRow) -> None:
        """Take in a row of this worker's, once it is committed."""
        if row[0] == self._seq + 1:
            self._add(row)

    async def begin(self, connection: psycopg.AsyncConnection) -> None:
        """Read the log from its beginning, once; before that, append what earlier versions have kept."""
        if self._begun:
            return
        while await self._has_older(connection):
            async with connection.transaction():
                await self.lock(connection)
                await self.read(connection)
                await self._append_older(connection)
        waited = time.monotonic() + _PATIENCE_S
        while not self._begun:
            with self._shared.alone("reading") as alone:
                if alone or time.monotonic() > waited:
                    await self._open_shared(connection)
                    await self.read(connection)
                    self._begun = True
            if not self._begun:
                await asyncio.sleep(0.05)

    async def _open_shared(self, connection: psycopg.AsyncConnection) -> None:
        """Begin with what others on this machine have made of the log, as far as it is this log."""
        found = self._shared.from_beginning()
        ends = {"fingerprint": self._fingerprint, "ends": [run.end.seq for run in found]}
        tags: dict[int, int] = dict(await (await connection.execute(_TAGS, ends)).fetchall())
        if wrong := [run for run in found if tags.get(run.end.seq) != run.end.tag]:
            self._shared.discard(wrong)  # of what a fail-over lost: they would be in the way
            return
        opened: list[Run] = []
        for run in found:
            try:
                opened.append(run.open())
            except (OSError, ValueError):  # just merged into a larger one, or broken: the rest is read
                break
        if opened:
            end = found[len(opened) - 1].end
            of = {"fingerprint": self._fingerprint, "seq": end.seq}
            row = await (await connection.execute(_ENTRIES, of)).fetchone()
            assert row is not None
            self._seq, self._tag = end.seq, end.tag
            self.index = NearIndex(self._threshold, self._shared, opened)
            self.index.add(row[0], end.seq, end.tag, end.included)

    async def read(self, connection: psycopg.AsyncConnection) -> None:
        """Take in what has been appended since."""
        await self.take(connection, await (await self.send_read(connection)).fetchall())

    async def _has_older(self, connection: psycopg.AsyncConnection) -> bool:
        cursor = await connection.execute(_UNLOGGED, {"fingerprint": self._fingerprint})
        return await cursor.fetchone() is not None

    async def _append_older(self, connection: psycopg.AsyncConnection) -> None:
        of = {"fingerprint": self._fingerprint}
        unlogged = await (await connection.execute(_UNLOGGED, of)).fetchone()
        if unlogged is None:
            return
        cursor = await connection.execute(_OLDER, {**of, "after": unlogged[0], "most": _OLDER_AT_ONCE})
        older = await cursor.fetchall()
        if not older:
            await connection.execute(_ALL_LOGGED, of)
            return
        keys = [key for key, _ in older]
        entries = entries_of(keys, marks_of([form for _, form in older])).tobytes()
        await self.append(connection, self.next_row(entries))
        await connection.execute(_OLDER_LOGGED, {**of, "after": keys[-1]})
