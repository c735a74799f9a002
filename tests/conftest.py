"""Fixtures of all suites: a real Postgres of the test session's own, a fresh database for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from dlgforge_core.store.embedded import embedded_dsn
from dlgforge_core.store.run_store import RunStore

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server_dsn(tmp_path_factory: pytest.TempPathFactory) -> str:
    """DSN of an embedded server that ends with the test session."""
    return embedded_dsn(Path(tmp_path_factory.mktemp("home")))


@pytest.fixture
def dsn(server_dsn: str) -> Iterator[str]:
    """DSN of an empty database."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield server_dsn.replace("/dlgforge?", f"/{name}?")
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def store(dsn: str) -> RunStore:
    """An empty, migrated run state."""
    made = RunStore(dsn)
    made.migrate()
    return made
