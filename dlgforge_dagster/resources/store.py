"""The run state as a Dagster resource."""

import os
from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import PrivateAttr

from dlgforge_core.config import PostgresConfig, StoreConfig, validate
from dlgforge_core.database.database import Database
from dlgforge_core.database.dsn import ResolvedDsn, has_password, resolve_dsn
from dlgforge_core.database.embedded import dlgforge_home
from dlgforge_core.database.ping import ping_blocking
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.config import config_class, plain
from dlgforge_dagster.crashes import fail_on_crash
from dlgforge_dagster.liveness import show_liveness
from dlgforge_dagster.storage import instance_dsn

_Base: Any = config_class(StoreConfig, dg.ConfigurableResource)


class StoreResource(_Base):  # type: ignore[misc]
    """Postgres that holds the run state: `store.postgres.dsn`, DLGFORGE_POSTGRES_DSN, or Dagster's own.

    Setting it up only remembers the instance and the run; the first use connects and migrates, and shows that
    the run's process lives.
    """

    _instance: dg.DagsterInstance | None = PrivateAttr(default=None)
    _run_id: str | None = PrivateAttr(default=None)
    _store: RunStore | None = PrivateAttr(default=None)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Note the run; nothing is connected before the first use."""
        self._instance = context.instance
        self._run_id = context.run.run_id if context.run is not None else None
        run = context.run
        # After a run's end Dagster sets resources up once more.
        shows = run is not None and not run.is_finished and _shows_password(run.run_config)
        if shows and context.log is not None:
            context.log.warning(
                "store.postgres.dsn in the run config holds a password, and Dagster keeps and shows that "
                "config; write dsn: {env: NAME} and set the variable, or set DLGFORGE_POSTGRES_DSN"
            )

    @property
    def settings(self) -> PostgresConfig:
        """The checked settings. Raises ConfigError."""
        return validate(StoreConfig, plain(self, StoreConfig), "resources.store.config").postgres

    def resolve(self) -> ResolvedDsn:
        """Return the connection string in force, and where it came from."""
        own = instance_dsn(self._instance) if self._instance is not None else None
        return resolve_dsn(self.settings.dsn, os.environ, own, dlgforge_home(os.environ))

    def run_store(self, dataset: str = "") -> RunStore:
        """Return a dataset's run state, reachable and up to date. Raises StoreError with cause and remedy."""
        if self._store is None:
            resolved = self.resolve()
            ping_blocking(resolved.dsn, self.settings.connect_timeout_s)
            store = RunStore(Database(resolved.dsn, self.settings))
            store.migrate()
            self._store = store
            if self._instance is not None and self._run_id is not None:
                show_liveness(self._instance, self._run_id, store)
                fail_on_crash(self._instance, self._run_id)
        return RunStore(self._store.database, dataset)


def _shows_password(run_config: Mapping[str, Any]) -> bool:
    found: Any = run_config
    for key in ("resources", "store", "config", "postgres", "dsn"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return isinstance(found, str) and has_password(found)
