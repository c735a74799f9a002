"""Machines: a database, a head, two nodes, a server of models, and a desk that is not of the cluster."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import psycopg
import pytest

from dlgforge_core.database.database import Database
from dlgforge_core.store.run_store import RunStore
from tests.cluster.cluster import Cluster
from tests.cluster.machines import Machine, Network, cannot_make_machines, network
from tests.support.postgres import TcpPostgres, tcp_postgres
from tests.support.runs import MODEL
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint

_numbers = itertools.count()


@pytest.fixture(scope="session")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Yield the network that all machines are in."""
    if problem := cannot_make_machines():
        pytest.skip(problem)
    with network(tmp_path_factory.mktemp("machines")) as made:
        yield made


@pytest.fixture(scope="session")
def database(lan: Network) -> Machine:
    """Return the machine of Postgres."""
    return lan.machine("database")


@pytest.fixture(scope="session")
def postgres(database: Machine) -> Iterator[TcpPostgres]:
    """Yield the server on it."""
    with tcp_postgres(database.address, database.enter) as server:
        connection = Database(server.dsn).reconnecting("dlgforge test", 60.0)
        connection.run(lambda _: None)  # it listens before it is up
        connection.close()
        yield server


@pytest.fixture
def store(postgres: TcpPostgres) -> RunStore:
    """Return an empty, migrated run state."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    made = RunStore(Database(postgres.dsn_with(database=name)))
    made.migrate()
    return made


@pytest.fixture(scope="session")
def models(lan: Network) -> Machine:
    """Return the machine that serves models."""
    return lan.machine("models")


@pytest.fixture
def sim(models: Machine) -> Iterator[SimulatedEndpoint]:
    """Yield an endpoint on it that keeps what it is asked."""
    with simulated_endpoint(
        host=models.address, enter=models.enter, models=["m", MODEL], latency_s=0.3, record_requests=10_000
    ) as made:
        yield made


@pytest.fixture(scope="session")
def desk(lan: Network) -> Machine:
    """Return a machine that is no part of the cluster."""
    return lan.machine("desk")


@pytest.fixture(scope="session")
def whole_cluster(lan: Network) -> Cluster:
    """Return the cluster, started."""
    made = Cluster(lan, lan.machine("head"), [lan.machine("node-1"), lan.machine("node-2")])
    made.start()
    return made


@pytest.fixture
def cluster(whole_cluster: Cluster) -> Cluster:
    """Return the cluster with all its nodes, whatever the test before did to them."""
    whole_cluster.repair()
    return whole_cluster
