"""Fixtures of all suites: a real Postgres of the test session's own, a fresh database for each test."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from dlgforge_core.database.database import Database
from dlgforge_core.database.embedded import embedded_dsn
from dlgforge_core.store.run_store import RunStore
from tests.support.simulated.options import Options
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint

_numbers = itertools.count()

# What runs in a shell's background inherits it ignored, and the tests interrupt runs by it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _loggers() -> None:
    """Alembic, which migrates Dagster's storage, disables the loggers that are there when it is set up."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("dlgforge_") and isinstance(logger, logging.Logger):
            logger.disabled = False


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
def no_ray_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster is named by the environment the tests were started in."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """Yield a Dagster instance in a folder of its own."""
    with dg.instance_for_test() as made:
        yield made


@pytest.fixture(scope="session")
def shared_endpoint() -> Iterator[SimulatedEndpoint]:
    """Ask for `sim` instead; a test that kills its endpoint starts one of its own."""
    with simulated_endpoint() as made:
        yield made


@pytest.fixture
def sim(shared_endpoint: SimulatedEndpoint) -> SimulatedEndpoint:
    """Return a simulated endpoint with every option at its default, and nothing counted."""
    shared_endpoint.configure(**dataclasses.asdict(Options()))
    shared_endpoint.reset()
    return shared_endpoint


@pytest.fixture
def store(dsn: str) -> RunStore:
    """Return an empty, migrated run state."""
    made = RunStore(Database(dsn))
    made.migrate()
    return made
