"""The Ray session: clusters of our own, borrowed, nested and out of reach; nothing stays behind."""

from __future__ import annotations

import contextlib
import http.server
import os
import secrets
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from dlgforge_core.config import ActorConfig, RayConfig
from dlgforge_core.errors import RayError, RunStoppedError
from dlgforge_core.generation.run import generate
from dlgforge_core.generation.worker_thread import WorkerThread
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.cluster import address as ray_address
from dlgforge_core.runtime.cluster import session as ray_session
from dlgforge_core.runtime.cluster.private_folder import TOKEN_PATH
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_core.runtime.distributed.needs_head import NeedsHead
from dlgforge_core.store.run_store import RunStore
from tests.support.ports import closed_port, free_port
from tests.support.processes import alive, command_line, descendants, line_of, program
from tests.support.run_state import leased
from tests.support.runs import planned, spec
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint
from tests.support.waiting import seconds_until, wait_until

OWNED_DRIVER = """
import time
from dlgforge_core.config import RayConfig
from dlgforge_core.runtime.cluster.session import RaySession
import ray
session = RaySession(RayConfig(address="local"))
session.connect()
print("gcs", ray.get_runtime_context().gcs_address, flush=True)
time.sleep(600)
"""
HEAD = """
import sys, time, ray
from ray.cluster_utils import Cluster
# Else it is recorded as this machine's cluster, for every `auto` to take.
ray._private.utils.write_ray_address = lambda *_: None
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
print("address", cluster.address, flush=True)
time.sleep(600)
"""


pytestmark = [pytest.mark.alone, pytest.mark.usefixtures("no_ray_address")]


@pytest.fixture
def no_recorded_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if `ray start` had never been run on this machine."""
    monkeypatch.setattr(ray_session, "recorded_address", lambda: "")


@pytest.fixture
def short_folder() -> Iterator[str]:
    """Yield a folder whose path leaves room for the names of Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as folder:
        yield folder


@pytest.fixture(scope="module")
def other_cluster() -> Iterator[tuple[str, int]]:
    """Yield a cluster that is not ours, and the pid of its holder."""
    with program(HEAD) as process:
        yield line_of(process, "address"), process.pid
        parts = descendants(process.pid)
        process.kill()
        for part in parts:
            if part.is_running():
                part.kill()


def probed_with(gcs: str, token: str) -> str:
    """Return what a cluster says to somebody who has this token, or none."""
    mode = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    env = {**os.environ, **mode}
    message = subprocess.run(
        [sys.executable, "-c", ray_address._PROBE, gcs], env=env, capture_output=True, text=True, check=False
    )
    return message.stdout.lower()


def listening_addresses(processes: list[psutil.Process]) -> set[str]:
    found = set()
    for process in processes:
        for connection in process.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN:
                found.add(connection.laddr.ip.removeprefix("::ffff:"))
    return found


def test_owned_cluster_runs_work_on_loopback_alone_and_ends_with_the_session(
    no_recorded_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    folders_before = set(Path(tempfile.gettempdir()).glob("dlgforge-ray-*"))
    sigterm = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of another cluster")
    for name in ("OPENAI_API_KEY", "MY_LLM", "DLGFORGE_POSTGRES_DSN", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "mark-of-a-secret-0123")
    monkeypatch.setenv("DLGFORGE_CHILD_ENV", "FOR_WORKERS_*")
    monkeypatch.setenv("FOR_WORKERS_TOO", "yes")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    before_env = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", TOKEN_PATH)}
    message: list[str] = []
    config = RayConfig(workers=ActorConfig(replicas=5, num_cpus=1.5))
    with RaySession(config, progress=message.append) as session:
        assert not ray.is_initialized()
        session.connect()
        session.connect()
        assert session.owned
        assert "starting a local Ray cluster" in message[0]
        assert message[1].startswith("RAY_AUTH_MODE=disabled does not count")
        assert len(message) == 2
        gcs = ray.get_runtime_context().gcs_address
        # Whoever has no token, or that of another cluster, is refused.
        for token in ("", secrets.token_hex(32)):
            assert "authenticat" in probed_with(gcs, token)
        double: Any = ray.remote(lambda x: 2 * x)
        assert ray.get(double.remote(21), timeout=60) == 42
        assert ray.get_runtime_context().namespace == "dlgforge"
        environment: Any = ray.remote(lambda: dict(__import__("os").environ))
        of_worker = ray.get(environment.remote(), timeout=60)
        assert of_worker["FOR_WORKERS_TOO"] == "yes"
        assert of_worker["HTTPS_PROXY"] == "http://127.0.0.1:9"
        assert of_worker["PATH"] == os.environ["PATH"]
        # All actors the configuration asks for have a place, whatever the number of cores.
        resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
        assert resources["CPU"] >= 5 * 1.5 + 0.1
        processes = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
        assert len(processes) > 4
        environments = [of_worker, *(process.environ() for process in processes)]
        assert not [each for each in environments if "mark-of-a-secret-0123" in str(each)]
        assert listening_addresses(processes) <= {"127.0.0.1", "::1"}
        assert signal.getsignal(signal.SIGTERM) is sigterm
        folders = set(Path(tempfile.gettempdir()).glob("dlgforge-ray-*")) - folders_before
        assert folders
        for folder in folders:
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
    assert not ray.is_initialized()
    seconds_until(lambda: not alive(processes), 30)
    session.shutdown()
    assert not any(folder.exists() for folder in folders)
    assert {name: os.environ.get(name) for name in before_env} == before_env


def test_kill_9_of_the_driver_leaves_nothing_within_10_s(short_folder: str) -> None:
    with program(OWNED_DRIVER, env={"RAY_TMPDIR": short_folder}) as process:
        line_of(process, "gcs")
        assert os.listdir(short_folder)
        time.sleep(1)
        parts = descendants(process.pid)
        names = {p.name() for p in parts}
        assert {"raylet", "gcs_server"} <= names
        process.kill()
        process.wait()
        took = seconds_until(lambda: not alive(parts), 30)
        seconds_until(lambda: not os.listdir(short_folder), 30)
    print(f"{len(parts)} processes were gone {took:.1f} s after kill -9 of the driver")


def test_kill_9_of_a_driver_that_is_starting_its_cluster_leaves_nothing(short_folder: str) -> None:
    def parts() -> list[psutil.Process]:
        """Return the processes of the cluster, and its reaper."""
        return [p for p in psutil.process_iter() if f"{short_folder}/dlgforge-ray-" in command_line(p)]

    with program(OWNED_DRIVER, env={"RAY_TMPDIR": short_folder}) as process:
        wait_until(
            lambda: "gcs_server" in {p.name() for p in parts()}, 60, "the first process of the cluster"
        )
        process.kill()
        process.wait()
    seconds_until(lambda: not parts() and not os.listdir(short_folder), 30)


def test_kill_9_of_the_raylet_leaves_no_agents() -> None:
    with program(OWNED_DRIVER) as process:
        line_of(process, "gcs")
        time.sleep(1)
        raylet = next(p for p in descendants(process.pid) if p.name() == "raylet")
        below = raylet.children(recursive=True)
        assert below
        raylet.kill()
        seconds_until(lambda: not alive(below), 30)


def test_a_session_whose_thread_ended_keeps_its_cluster(no_recorded_cluster: None) -> None:
    session = RaySession(RayConfig())
    thread = threading.Thread(target=session.connect)
    thread.start()
    thread.join(60)
    try:
        time.sleep(1)
        assert ray.get(ray.remote(lambda: 1).remote(), timeout=60) == 1
        # A second session in the same process uses the connection and leaves it alone.
        with RaySession(RayConfig(address="127.0.0.1:1")) as nested:
            nested.connect()
            assert not nested.owned
        assert ray.is_initialized()
    finally:
        session.shutdown()
    assert not ray.is_initialized()


def test_explicit_address_is_borrowed_and_stays(other_cluster: tuple[str, int]) -> None:
    address, pid = other_cluster
    message: list[str] = []
    with RaySession(RayConfig(address=address), progress=message.append) as session:
        session.connect()
        assert not session.owned
        assert ray.get(ray.remote(lambda: 7).remote(), timeout=60) == 7
    assert message == [f"using the Ray cluster at {address} (borrowed: it stays when the run ends)"]
    assert not ray.is_initialized()
    assert "raylet" in {p.name() for p in descendants(pid)}


def test_ray_address_of_the_environment_wins(other_cluster: tuple[str, int]) -> None:
    address, _ = other_cluster
    session = RaySession(RayConfig(address="127.0.0.1:1"), env={"RAY_ADDRESS": address})
    try:
        session.connect()
        assert ray.get_runtime_context().gcs_address == address
    finally:
        session.shutdown()


def test_stale_record_and_no_fallback_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    message: list[str] = []
    with closed_port() as port:
        monkeypatch.setattr(ray_session, "recorded_address", lambda: f"127.0.0.1:{port}")
        with (
            RaySession(RayConfig(auto_start_local=False), progress=message.append) as session,
            pytest.raises(RayError, match=r"auto_start_local is false; set ray\.address"),
        ):
            session.connect()
    assert "Connection refused" in message[0]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:{closed}", r"127\.0\.0\.1:\d+: Connection refused; start the cluster, correct ray"),
        ("ray://127.0.0.1:{closed}", r"ray://127\.0\.0\.1:\d+: Connection refused"),
        ("no-such-host.invalid:6379", r"no-such-host\.invalid:6379: "),
        ("gpu-head", "'gpu-head' is not an address; use 'auto', 'local', 'host:6379'"),
        (
            "http://head:8265",
            "ray.address = 'http://head:8265' is the address of Ray's dashboard .*'ray://head:",
        ),
        ("ftp://head:6379", "'ftp://head:6379' is not an address; use 'auto', 'local', 'host:6379'"),
    ],
)
def test_unreachable_address_is_named_at_once(address: str, reason: str) -> None:
    started = time.monotonic()
    with (
        closed_port() as port,
        RaySession(RayConfig(address=address.format(closed=port))) as session,
        pytest.raises(RayError, match=reason),
    ):
        session.connect()
    assert time.monotonic() - started < 10
    assert not ray.is_initialized()


def test_a_wrong_address_of_the_environment_is_named_as_such() -> None:
    session = RaySession(RayConfig(), env={"RAY_ADDRESS": "http://head:8265"})
    with pytest.raises(RayError, match=r"^RAY_ADDRESS = 'http://head:8265' is"):
        session.connect()


class Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_is_no_ray_head_is_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_address, "PROBE_TIMEOUT_S", 3.0)
    server = http.server.HTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with (
            RaySession(RayConfig(address=f"127.0.0.1:{server.server_port}")) as session,
            pytest.raises(RayError, match="as a Ray head"),
        ):
            session.connect()
    finally:
        server.shutdown()
        server.server_close()


def test_work_in_this_process_ends_in_order_when_the_head_of_its_servers_is_lost(store: RunStore) -> None:
    lost: list[str] = []
    reported: list[str] = []
    run = planned(store, 200)
    with simulated_endpoint(latency_s=0.2) as sim:
        thread = WorkerThread(spec(store, run, Endpoint("s", sim.base_url)))
        with pytest.raises(RunStoppedError, match=f"^the head is away\nRun .* to resume run {run.run_id}"):
            generate(
                store,
                run.run_id,
                lambda: NeedsHead(thread, lambda: "".join(lost), lambda: reported.append("off")),
                lambda status: lost.append("the head is away") if status.progress.turns else None,
                poll_s=0.1,
                first_report_s=0.2,
            )
    progress, record = store.progress(run.run_id), store.run(run.run_id)
    assert 0 < progress.turns < progress.turns_planned
    assert leased(store, run.run_id) == 0
    assert reported == ["off"], "or Ray would end this process"
    assert record is not None
    assert (record.status, record.stop_reason) == ("stopped", "the head is away")


# A cluster that wants a token, and Ray's client

GUARDED_HEAD = """
import sys, time, ray
from ray.cluster_utils import Cluster
ray._private.utils.write_ray_address = lambda *_: None
cluster = Cluster(initialize_head=True, head_node_args={
    "num_cpus": 4, "include_dashboard": False, "ray_client_server_port": int(sys.argv[1])})
print("address", cluster.address, flush=True)
time.sleep(600)
"""
DOUBLING = """
import sys
from dlgforge_core.config import RayConfig
from dlgforge_core.errors import RayError, RunStoppedError
from dlgforge_core.generation.worker_thread import WorkerThread
from dlgforge_core.generation.run import generate
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.cluster.session import RaySession
import ray
try:
    report = lambda text: print("progress", text, flush=True)
    with RaySession(RayConfig(address=sys.argv[1]), progress=report) as session:
        session.connect()
        doubled = ray.remote(lambda x: 2 * x).remote(21)
        print("result", ray.get(doubled, timeout=60), session.head_lost, flush=True)
        print("gcs", getattr(ray.get_runtime_context(), "gcs_address", ""), flush=True)
except RayError as error:
    print("result", error, flush=True)
"""
RUN = """
import sys, ray
from dlgforge_core.config import RayConfig
from dlgforge_core.database.database import Database
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.distributed.needs_head import NeedsHead
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_core.store.run_store import RunStore
from tests.support.ray_runs import carry
from tests.support.runs import planned
class Other:
    def there(self):
        return True
address, dsn, url = sys.argv[1:]
store = RunStore(Database(dsn))
with RaySession(RayConfig(address=address)) as session:
    session.connect()
    run = planned(store, 8)
    report = carry(store, run, Endpoint("s", url))
    print("result", report.progress.done, report.stop_reason, flush=True)
    # A driver that was killed keeps the name of its coordinator until the cluster gives it up.
    run = planned(store, 4, seed=1)
    name = f"coordinator-{run.run_id}"
    other = ray.remote(Other).options(name=name, namespace="dlgforge", num_cpus=0).remote()
    ray.get(other.there.remote())
    messages = []
    report = carry(store, run, Endpoint("s", url), message=messages)
shares = any("worked on from elsewhere" in line for line in messages)
print("beside another", report.progress.done, report.stop_reason, shares, flush=True)
"""


@dataclass
class Guarded:
    gcs: str
    client: str
    token: dict[str, str]
    pid: int


@contextlib.contextmanager
def guarded_cluster(folder: Path, **env: str) -> Iterator[Guarded]:
    """Run a cluster that wants a token, with what tells a program where the token is."""
    path = folder / "token"
    path.write_text(secrets.token_hex(32))
    token = {"RAY_AUTH_TOKEN_PATH": str(path)}
    port = free_port()
    with program(GUARDED_HEAD, str(port), env={"RAY_AUTH_MODE": "token", **token, **env}) as process:
        gcs = line_of(process, "address")
        yield Guarded(gcs, f"ray://127.0.0.1:{port}", token, process.pid)
        parts = descendants(process.pid)
        process.kill()
        for part in parts:
            if part.is_running():
                part.kill()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded_cluster(tmp_path_factory.mktemp("ray")) as cluster:
        yield cluster


@pytest.mark.parametrize("kind", ["gcs", "client"])
def test_a_cluster_that_wants_a_token_is_given_the_one_that_is_there(
    guarded: Guarded, kind: str, tmp_path: Path
) -> None:
    address = getattr(guarded, kind)
    with program(DOUBLING, address, env=guarded.token) as process:
        assert line_of(process, "result") == "42"
    with program(DOUBLING, address, env={"HOME": str(tmp_path)}) as process:  # where no token is
        reported = line_of(process, "result")
    assert f"no Ray cluster can be used at {address}: it refused our token" in reported
    assert "set RAY_AUTH_MODE=token" in reported
    assert "~/.ray/auth_token" in reported


@pytest.mark.parametrize("knows", [True, False])
def test_auto_borrows_the_recorded_cluster_with_the_right_token_alone(
    guarded: Guarded, tmp_path: Path, short_folder: str, knows: bool
) -> None:
    token = guarded.token if knows else {"HOME": str(tmp_path)}
    env = {"RAY_TMPDIR": recorded(short_folder, guarded.gcs), **token}
    with program(DOUBLING, "auto", env=env) as process:
        assert line_of(process, "result") == "42"
        assert line_of(process, "gcs") != guarded.gcs if not knows else line_of(process, "gcs") == guarded.gcs


def test_auto_does_not_borrow_a_cluster_that_wants_no_token(
    other_cluster: tuple[str, int], guarded: Guarded, short_folder: str
) -> None:
    env = {"RAY_TMPDIR": recorded(short_folder, other_cluster[0]), **guarded.token}
    with program(DOUBLING, "auto", env=env) as process:
        assert "it wants no token" in line_of(process, "progress")
        assert line_of(process, "result") == "42"
        assert line_of(process, "gcs") != other_cluster[0]


def recorded(folder: str, address: str) -> str:
    """Return a folder for RAY_TMPDIR in which `ray start` has recorded a cluster."""
    record = Path(folder) / "ray" / "ray_current_cluster"
    record.parent.mkdir()
    record.write_text(address)
    return folder


def test_runs_by_way_of_the_client(guarded: Guarded, store: RunStore, sim: SimulatedEndpoint) -> None:
    with program(RUN, guarded.client, store.database.dsn, sim.base_url, env=guarded.token) as process:
        assert line_of(process, "result") == "8 None"
        assert line_of(process, "beside another") == "4 None True"


def test_importing_the_session_does_not_import_ray() -> None:
    code = "import sys, dlgforge_core.runtime.serving.provisioners; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False).returncode == 0
