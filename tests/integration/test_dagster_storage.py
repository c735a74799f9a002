"""Dagster's instance storage, by the repo's dagster.yaml, on the embedded Postgres and on a TCP server."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from dagster import DagsterInstance, job, op
from dagster._core.instance.ref import InstanceRef
from dagster._core.test_utils import instance_for_test
from psycopg.conninfo import conninfo_to_dict

from dlgforge_core.database.embedded import release_embedded
from dlgforge_core.database.ping import PingError, ping_blocking
from dlgforge_core.errors import StoreError
from dlgforge_dagster.storage import instance_dsn, libpq_dsn, sqlalchemy_url
from tests.support.postgres import TcpPostgres, tcp_postgres, wait_until_stopped

_REPO = Path(__file__).resolve().parents[2]
_JOB = """
from dagster import Definitions, job, op

@op
def say():
    return 1

@job
def greet():
    say()

defs = Definitions(jobs=[greet])
"""


@op
def say() -> int:
    return 1


@job
def greet() -> None:
    say()


@pytest.fixture(scope="module")
def server() -> Iterator[TcpPostgres]:
    with tcp_postgres() as running:
        yield running


@pytest.fixture
def dagster_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a DAGSTER_HOME with the repo's dagster.yaml; its embedded server is gone afterwards."""
    for name in ("DLGFORGE_HOME", "DLGFORGE_POSTGRES_DSN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    shutil.copy(_REPO / "dagster.yaml", tmp_path)
    yield tmp_path
    release_embedded(tmp_path / ".dlgforge")
    wait_until_stopped(tmp_path / ".dlgforge")


def _instance(home: Path) -> DagsterInstance:
    return DagsterInstance.from_ref(InstanceRef.from_dir(str(home)))


def _dagster(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "dagster", *arguments],
        env={**os.environ, "DAGSTER_HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
    )


def _run_and_read(home: Path) -> str | None:
    with _instance(home) as instance:
        result = greet.execute_in_process(instance=instance)
        assert result.success
    with _instance(home) as instance:
        run = instance.get_run_by_id(result.run_id)
        assert run is not None
        assert run.is_success
        kinds = [
            entry.dagster_event_type for entry in instance.all_logs(result.run_id) if entry.is_dagster_event
        ]
        assert "STEP_SUCCESS" in [kind.value for kind in kinds if kind is not None]
        return instance_dsn(instance)


def test_the_embedded_server_keeps_runs_and_events(dagster_home: Path) -> None:
    dsn = _run_and_read(dagster_home)
    assert dsn is not None
    data = dagster_home / ".dlgforge" / "postgres"
    assert (data / "PG_VERSION").exists()
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SHOW data_directory").fetchone() == (str(data),)
    ping_blocking(dsn, 5.0)


def test_a_dsn_in_the_environment_is_used(
    dagster_home: Path, server: TcpPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLGFORGE_POSTGRES_DSN", server.dsn)
    dsn = _run_and_read(dagster_home)
    assert dsn is not None
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT count(*) FROM public.runs").fetchone()
    assert row is not None
    assert row[0] >= 1
    assert not (dagster_home / ".dlgforge").exists()


def test_a_dsn_in_dagster_yaml_is_used_and_not_shown(dagster_home: Path, server: TcpPostgres) -> None:
    settings = (dagster_home / "dagster.yaml").read_text()
    settings = settings.replace("config: {}", f'config: {{dsn: "{server.dsn}"}}')
    (dagster_home / "dagster.yaml").write_text(settings)
    done = _dagster(dagster_home, "instance", "info")
    assert done.returncode == 0, done.stderr
    assert "PostgresRunStorage" in done.stdout
    assert not (dagster_home / ".dlgforge").exists()
    for secret in (server.password, quote(server.password, safe="")):
        assert secret not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [({"password": "hunter2"}, "password is wrong"), ({"database": "absent"}, "createdb absent")],
)
def test_a_dsn_that_cannot_work_is_reported_at_once(
    dagster_home: Path,
    server: TcpPostgres,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str],
    message: str,
) -> None:
    dsn = server.dsn_with(**change)
    with pytest.raises(PingError, match=message) as caught:
        ping_blocking(dsn, 5.0)
    assert not caught.value.transient
    monkeypatch.setenv("DLGFORGE_POSTGRES_DSN", dsn)
    with pytest.raises(StoreError, match=message) as refused:
        _instance(dagster_home)
    assert "hunter2" not in str(refused.value)
    assert server.password not in str(refused.value)


def test_the_command_line_works_from_an_empty_folder(dagster_home: Path) -> None:
    (dagster_home / "jobs.py").write_text(_JOB)
    listed = _dagster(dagster_home, "job", "list", "-f", "jobs.py")
    assert "greet" in listed.stdout, listed.stderr
    done = _dagster(dagster_home, "job", "execute", "-f", "jobs.py", "-j", "greet")
    assert done.returncode == 0, done.stderr
    assert "RUN_SUCCESS" in done.stderr + done.stdout
    runs = _dagster(dagster_home, "run", "list")
    assert "greet" in runs.stdout, runs.stderr
    wait_until_stopped(dagster_home / ".dlgforge", 10.0)


def test_the_dsn_of_a_plain_dagster_postgres_instance(server: TcpPostgres) -> None:
    config = {
        "postgres": {
            "postgres_db": {
                "username": server.user,
                "password": server.password,
                "hostname": "127.0.0.1",
                "db_name": server.database,
                "port": server.port,
            }
        }
    }
    with instance_for_test(overrides={"storage": config}) as instance:
        dsn = instance_dsn(instance)
    assert dsn is not None
    ping_blocking(dsn, 5.0)


def test_an_instance_without_postgres_has_no_dsn() -> None:
    with DagsterInstance.ephemeral() as instance:
        assert instance_dsn(instance) is None


@pytest.mark.parametrize(
    ("dsn", "url"),
    [
        ("host=h user=u password='p@/ %' dbname=d", "postgresql+psycopg2://u:p%40%2F %25@h/d"),
        ("postgresql://u@[::1]:5/d", "postgresql+psycopg2://u@[::1]:5/d"),
        ("postgresql://u@/d?host=/a%20b&port=5432", "postgresql+psycopg2://u@/d?host=%2Fa+b&port=5432"),
        ("postgresql://u@h1:1,h2:2/d", "postgresql+psycopg2://u@/d?host=h1%2Ch2&port=1%2C2"),
        ("postgresql://u@h/d?sslmode=require", "postgresql+psycopg2://u@h/d?sslmode=require"),
    ],
)
def test_dsns_as_sqlalchemy_urls_and_back(dsn: str, url: str) -> None:
    assert sqlalchemy_url(dsn) == url
    assert conninfo_to_dict(libpq_dsn(url)) == conninfo_to_dict(dsn)
