"""The run state as a Dagster resource."""

import os
from typing import Any

import dagster as dg
from pydantic import PrivateAttr

from dlgforge_core.config import PostgresConfig, StoreConfig, validate
from dlgforge_core.store.dsn import ResolvedDsn, ping_blocking, resolve_dsn
from dlgforge_core.store.embedded import dlgforge_home
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.alive import show_alive
from dlgforge_dagster.config import config_class, plain
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
        self._instance = context.instance
        self._run_id = context.run.run_id if context.run is not None else None

    @property
    def settings(self) -> PostgresConfig:
        """The checked settings. Raises ConfigError."""
        return validate(StoreConfig, plain(self, StoreConfig), "resources.store.config").postgres

    def resolve(self) -> ResolvedDsn:
        """The connection string in force, and where it came from."""
        own = instance_dsn(self._instance) if self._instance is not None else None
        return resolve_dsn(self.settings.dsn, os.environ, own, dlgforge_home(os.environ))

    def run_store(self, dataset: str = "") -> RunStore:
        """A dataset's run state, reachable and up to date. Raises StoreError naming cause and remedy."""
        if self._store is None:
            resolved = self.resolve()
            ping_blocking(resolved.dsn, self.settings.connect_timeout_s)
            store = RunStore(resolved.dsn, self.settings)
            store.migrate()
            self._store = store
            if self._instance is not None and self._run_id is not None:
                show_alive(self._instance, self._run_id, store)
        return RunStore(self._store.dsn, self._store.config, dataset)
