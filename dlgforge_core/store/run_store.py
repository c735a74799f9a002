"""The run state as planners, progress displays and exports see it: synchronous, one call a question."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import orjson

from dlgforge_core.database.connection import Connection
from dlgforge_core.database.database import Database
from dlgforge_core.dialogue import Dialogue, DropReason
from dlgforge_core.planning.plan import Plan
from dlgforge_core.planning.seeds import SeedBatch
from dlgforge_core.run_outcomes import Outcomes
from dlgforge_core.sources import SeedTopic
from dlgforge_core.store.attempts import Shortfall, open_spares, retry_dropped, shortfall
from dlgforge_core.store.results import (
    Part,
    Scope,
    attribute_counts,
    former_dialogues,
    has_seed_metadata,
    outcomes,
    parts,
    stream_dialogues,
    throughput,
)
from dlgforge_core.store.run_records import Progress, RunRecord, progress, run_id_of
from dlgforge_core.store.unjudged import judge_again, judge_fault
from dlgforge_core.store.worker_rows import silent_workers, worker_stats
from dlgforge_core.store.writes import storable

_COPY_CHUNK = 2_000


class RunStore:
    """The run state of one dataset; every method opens what it needs and leaves nothing open.

    Several datasets share a database: what is asked for by a run's id or fingerprint is found whatever the
    dataset; seed batches and "the latest run" are those of `dataset` alone.
    """

    def __init__(self, database: Database, dataset: str = "") -> None:
        self.database = database
        self.dataset = dataset

    def __repr__(self) -> str:
        return f"RunStore(dataset={self.dataset!r})"

    def connection(self) -> AbstractContextManager[Connection]:
        """Return a connection for a few statements, as `Database.connection` gives it."""
        return self.database.connection()

    def migrate(self) -> list[int]:
        """Bring the schema up to date; returns the versions applied now."""
        return self.database.migrate()

    # Seed batches

    def save_seed_batches(self, batches: Sequence[SeedBatch], *, all_there_are: bool = False) -> None:
        """Keep these batches' topics, replacing earlier content under the same names.

        With `all_there_are` the others are forgotten: the dataset is of these alone from now on. Plans keep
        their own topics, so that runs on former ones can still be resumed.
        """
        names = [batch.name for batch in batches]
        with self.connection() as connection, connection.transaction():
            if all_there_are:
                connection.execute(
                    "DELETE FROM seed_batches WHERE dataset = %s AND name <> ALL(%s)", (self.dataset, names)
                )
            for batch in batches:
                connection.execute(
                    "INSERT INTO seed_batches (dataset, name, digest, topics) VALUES (%s, %s, %s, %s::jsonb) "
                    "ON CONFLICT (dataset, name) DO UPDATE SET digest = excluded.digest, "
                    "topics = excluded.topics, read_at = now()",
                    (
                        self.dataset,
                        batch.name,
                        batch.digest,
                        _json([topic.to_json() for topic in batch.topics]),
                    ),
                )

    def forget_seed_batches(self, names: Collection[str]) -> None:
        """Make these batches former seeds, as `save_seed_batches` does with those that are not there."""
        with self.connection() as connection:
            connection.execute(
                "DELETE FROM seed_batches WHERE dataset = %s AND name = ANY(%s)", (self.dataset, list(names))
            )

    def seed_batches(self, names: Sequence[str] | None = None) -> list[SeedBatch]:
        """Return the kept batches of topics, by name; all of them when `names` is None."""
        with self.connection() as connection:
            rows = connection.execute(
                "SELECT name, digest, topics FROM seed_batches "
                "WHERE dataset = %(dataset)s AND topics <> '[]' "
                "AND (%(names)s::text[] IS NULL OR name = ANY(%(names)s)) ORDER BY name",
                {"dataset": self.dataset, "names": None if names is None else list(names)},
            ).fetchall()
        return [
            SeedBatch(
                name=name,
                digest=digest,
                topics=tuple(SeedTopic.from_json(topic) for topic in topics),
                problems=(),
            )
            for name, digest, topics in rows
        ]

    # Runs

    def register_run(self, fingerprint: str, plans: Sequence[Plan], config: Mapping[str, Any]) -> str:
        """Write down a run and the rows of its dialogues that are not there yet; returns the run's id."""
        run_id = run_id_of(fingerprint, plans)
        with self.connection() as connection:
            with connection.transaction():
                connection.execute(
                    "INSERT INTO generation_runs (run_id, fingerprint, config, dataset) "
                    "VALUES (%s, %s, %s::jsonb, %s) "
                    "ON CONFLICT (run_id) DO UPDATE SET config = excluded.config, updated_at = now()",
                    (run_id, fingerprint, _json(config), self.dataset),
                )
                for plan in plans:
                    connection.execute(
                        "INSERT INTO plans AS p (plan_id, fingerprint, batch, batch_digest, language) "
                        "VALUES (%s, %s, %s, %s, %s) ON CONFLICT (plan_id) DO UPDATE "
                        "SET batch_digest = excluded.batch_digest WHERE p.batch_digest IS NULL",
                        (plan.plan_id, fingerprint, plan.batch, plan.batch_digest, plan.language),
                    )
                    connection.execute(
                        "INSERT INTO run_plans (run_id, plan_id, n_dialogues) VALUES (%s, %s, %s) "
                        "ON CONFLICT DO NOTHING",
                        (run_id, plan.plan_id, plan.n_dialogues),
                    )
            for plan in plans:
                _insert_dialogues(connection, plan)
        return run_id

    def retry_dropped(
        self,
        run_id: str,
        reasons: Collection[DropReason] = (DropReason.ENDPOINT_ERROR,),
        *,
        changed: Collection[DropReason] = (),
        setup: str = "",
    ) -> dict[str, int]:
        """`attempts.retry_dropped` of a run."""
        with self.connection() as connection:
            return retry_dropped(connection, run_id, reasons, changed, setup)

    def open_spares(self, run_id: str, attempts: int) -> int:
        """`attempts.open_spares` of a run."""
        with self.connection() as connection:
            return open_spares(connection, run_id, attempts)

    def shortfall(self, run_id: str) -> list[Shortfall]:
        """`attempts.shortfall` of a run."""
        with self.connection() as connection:
            return shortfall(connection, run_id)

    def judge_again(self, run_id: str) -> int:
        """`unjudged.judge_again` of a run."""
        with self.connection() as connection:
            return judge_again(connection, run_id)

    def judge_fault(self, run_id: str) -> str:
        """`unjudged.judge_fault` of a run."""
        with self.connection() as connection:
            return judge_fault(connection, run_id)

    def run(self, run_id: str | None = None) -> RunRecord | None:
        """Return a run of this dataset by its id, or the one worked on last; None when there is none."""
        with self.connection() as connection:
            row = connection.execute(
                "SELECT run_id, fingerprint, config, status, stop_reason, dataset FROM generation_runs "
                "WHERE dataset = %(dataset)s AND (%(id)s::text IS NULL OR run_id = %(id)s) "
                "ORDER BY updated_at DESC LIMIT 1",
                {"dataset": self.dataset, "id": run_id},
            ).fetchone()
        return RunRecord(*row) if row else None

    def run_ids(self, limit: int = 10) -> list[str]:
        """Return the runs of this dataset worked on last, the latest first."""
        with self.connection() as connection:
            rows = connection.execute(
                "SELECT run_id FROM generation_runs WHERE dataset = %s ORDER BY updated_at DESC LIMIT %s",
                (self.dataset, limit),
            ).fetchall()
        return [row[0] for row in rows]

    def resumable_indexes(self) -> set[str]:
        """Ids of the knowledge indexes that unfinished runs of this dataset draw on."""
        with self.connection() as connection:
            rows = connection.execute(
                "SELECT DISTINCT config -> 'source' ->> 'index_id' FROM generation_runs "
                "WHERE dataset = %s AND status <> 'complete'",
                (self.dataset,),
            ).fetchall()
        return {row[0] for row in rows if row[0]}

    def set_status(self, run_id: str, status: str, stop_reason: str | None = None) -> None:
        """Record how a run stands: `running`, `complete` or `stopped`."""
        with self.connection() as connection:
            connection.execute(
                "UPDATE generation_runs SET status = %s, stop_reason = %s, updated_at = now() "
                "WHERE run_id = %s",
                (status, stop_reason, run_id),
            )

    def progress(self, run_id: str, among: Sequence[str] = ()) -> Progress:
        """`run_records.progress` of a run."""
        with self.connection() as connection:
            return progress(connection, run_id, among)

    def worker_stats(self, run_id: str) -> list[Mapping[str, Any]]:
        """Return what every worker of the run, past ones included, has counted."""
        with self.connection() as connection:
            return worker_stats(connection, run_id=run_id)

    def silent_workers(self, run_id: str) -> set[tuple[str, int]]:
        """Host and pid of the run's worker processes that hold no valid lease: ended, or stuck."""
        with self.connection() as connection:
            return silent_workers(connection, run_id=run_id)

    # What came out

    def samples(self, scope: Scope | str, n: int) -> list[Dialogue]:
        """Return a few finished dialogues of a scope or run, of as many languages as there are."""
        with self.connection() as connection:
            return list(stream_dialogues(connection, _scope(scope), limit=n, mixed=True))

    def dialogues(self, scope: Scope | str) -> Iterator[Dialogue]:
        """Yield the finished dialogues of a scope or run by batch, language and ordinal; streamed."""
        with self.connection() as connection:
            yield from stream_dialogues(connection, _scope(scope))

    def outcomes(self, scope: Scope | str) -> Outcomes:
        """How the planned dialogues of a scope or run ended."""
        with self.connection() as connection:
            return outcomes(connection, _scope(scope))

    def has_seed_metadata(self, scope: Scope | str) -> bool:
        """Whether the seed topic of any finished dialogue of a scope or run has metadata."""
        with self.connection() as connection:
            return has_seed_metadata(connection, _scope(scope))

    def attribute_counts(self, scope: Scope | str) -> dict[str, dict[str, tuple[int, int]]]:
        """How many dialogues of a scope or run were planned and kept, by attribute and value."""
        with self.connection() as connection:
            return attribute_counts(connection, _scope(scope))

    def parts(self, scope: Scope | str) -> list[Part]:
        """How each seed batch and language of a scope or run stands."""
        with self.connection() as connection:
            return parts(connection, _scope(scope))

    def former_dialogues(self, fingerprint: str) -> int:
        """Finished dialogues made under a fingerprint from seeds that are not the dataset's any more."""
        with self.connection() as connection:
            return former_dialogues(connection, fingerprint)

    def throughput(self, scope: Scope | str) -> list[tuple[float, float]]:
        """Return turns committed a second over time: (seconds since the first turn, turns/s)."""
        with self.connection() as connection:
            return throughput(connection, _scope(scope))


def _scope(scope: Scope | str) -> Scope:
    return Scope(run_id=scope) if isinstance(scope, str) else scope


def _insert_dialogues(connection: Connection, plan: Plan) -> None:
    """Write the rows of `plan` that are missing; concurrent callers wait for one another.

    In chunks, each a transaction: a plan of a million dialogues neither grows this process nor holds one
    transaction open for minutes.
    """
    while True:
        with connection.transaction():
            row = connection.execute(
                "SELECT n_dialogues FROM plans WHERE plan_id = %s FOR UPDATE", (plan.plan_id,)
            ).fetchone()
            start = row[0] if row else 0
            stop = min(plan.n_dialogues, start + _COPY_CHUNK)
            if start >= stop:
                return
            with (
                connection.cursor() as cursor,
                cursor.copy(
                    "COPY dialogues (dialogue_id, plan_id, ordinal, n_turns, plan) FROM STDIN"
                ) as copy,
            ):
                for ordinal in range(start, stop):
                    dialogue = plan.dialogue(ordinal)
                    row = (dialogue.dialogue_id, plan.plan_id, ordinal, dialogue.n_turns)
                    copy.write_row((*row, _json(dialogue.to_json())))
            connection.execute("UPDATE plans SET n_dialogues = %s WHERE plan_id = %s", (stop, plan.plan_id))


def _json(value: Any) -> str:
    """JSON text that jsonb takes; see `storable`, which few values need, and which takes its time."""
    try:
        encoded = orjson.dumps(value, default=dict)
    except orjson.JSONEncodeError:  # a lone surrogate, perhaps
        return orjson.dumps(storable(value)).decode()
    return (orjson.dumps(storable(value)) if b"\\u0000" in encoded else encoded).decode()
