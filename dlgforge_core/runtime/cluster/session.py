"""The Ray cluster of a run: one that runs already, or a local one that starts and stops with the run."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from dlgforge_core.common.child_environment import MODEL_SERVER, RAY
from dlgforge_core.common.cpus import available_cpus
from dlgforge_core.config import RayConfig
from dlgforge_core.errors import RayError
from dlgforge_core.runtime.cluster.address import bare_address, checked_address, problem_with_borrowing
from dlgforge_core.runtime.cluster.head import HeadWatch
from dlgforge_core.runtime.cluster.private_folder import PrivateFolder
from dlgforge_core.runtime.cluster.reaper import RayReaper
from dlgforge_core.runtime.cluster.record import recorded_address
from dlgforge_core.runtime.cluster.signals import handler_kept
from dlgforge_core.runtime.cluster.start import START_TIMEOUT_S, own_environment, patient_start

CONNECT_TIMEOUT_S = 90.0  # and START_TIMEOUT_S more where a cluster is started
SHUTDOWN_TIMEOUT_S = 30.0
# Nothing large goes through the object store: turns are in Postgres, text comes over HTTP.
LOCAL_OBJECT_STORE_BYTES = 128 * 1024 * 1024
# For what a run places besides its coordinator and workers.
SPARE_CPUS = 1
# A head starts a process for each of Ray's clients, from one of many threads, which now and then fails; it
# waits half a minute for it, and answers so.
_NO_CLIENT_SERVER = ("Starting Ray client server failed", "Proxy failed to Connect to backend")
_CLIENT_STARTS = 3
_TRACEBACK = "Traceback (most recent call last):"

_log = logging.getLogger(__name__)

# Ray is imported where it is used: a process that never connects need not wait half a second for it.


class RaySession:
    """This process's connection to a Ray cluster, made by the first `connect()`.

    `ray.address` (which RAY_ADDRESS overrides) is `auto`, `local`, `host:port` or `ray://host:port`. With
    `auto` a cluster that this user's `ray start` left running on this machine, and that wants their token, is
    used, else a local one is started if `auto_start_local` says so. A cluster that was there before us is
    borrowed and is never shut down; neither is a connection that this process had already. Use it as a
    context manager, or call `shutdown()`.
    """

    def __init__(
        self,
        config: RayConfig,
        *,
        progress: Callable[[str], None] = _log.info,
        env: Mapping[str, str] = os.environ,
    ) -> None:
        self.config = config
        self._progress = progress
        self._address = env.get("RAY_ADDRESS") or config.address
        self._named = "RAY_ADDRESS" if env.get("RAY_ADDRESS") else "ray.address"
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._release = threading.Event()
        self._reaper: RayReaper | None = None
        self._folder: PrivateFolder | None = None
        self._head: HeadWatch | None = None
        self._connected = False
        self._owned = False

    @property
    def owned(self) -> bool:
        """Whether the cluster was started by this session, on this machine alone."""
        return self._owned

    @property
    def alive(self) -> bool:
        """False once a local cluster of ours has died; a borrowed one may yet come back."""
        return self._reaper is None or self._reaper.raylet_runs()

    @property
    def head_lost(self) -> str:
        """Why the cluster's head counts as lost; empty while it is there.

        Ray ends this process, at once and without a word, a minute after the head went.
        """
        return self._head.lost if self._head is not None else ""

    @property
    def single_machine(self) -> bool:
        """Whether all nodes of the connected cluster are on this machine, and so reach its loopback."""
        if self._owned:
            return True
        import ray

        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        here = {socket.gethostname(), os.uname().nodename}
        return all(node["NodeManagerHostname"] in here for node in nodes if node["Alive"])

    def connect(self, *, serves_models: bool = False) -> None:
        """Use the cluster, or start one; does nothing when done already.

        One that is started has of this process's environment what it needs: with `serves_models` the model
        hub's token, too.

        Takes some seconds; on a machine with much to do a local cluster may take minutes to start. Raises
        RayError when there is no cluster at the address, none may be started, or Ray cannot start; the
        message names the address and what to do.
        """
        import ray

        with self._lock:
            if self._connected:
                return
            if ray.is_initialized():
                self._progress("using the Ray connection that this process has already")
                self._head = _watch_of_head("")
                self._connected = True
                return
            try:
                address = self.find()
                if address is None:
                    self._start_local(MODEL_SERVER if serves_models else ())
                else:
                    self._borrow(address)
                self._head = _watch_of_head(address or "")
            except BaseException:  # an interrupt too: nothing half-started stays
                self._close()
                raise
            self._connected = True

    def shutdown(self) -> None:
        """Disconnect, and stop the cluster if it was started here. Idempotent; never raises."""
        with self._lock:
            self._connected = False
            self._close()

    def __enter__(self) -> RaySession:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def _close(self) -> None:
        if self._head is not None:
            self._head.stop()
        if self._thread is not None:
            # After an interrupt, ray.init may still be at work on that thread: it comes first.
            self._release.set()
            self._thread.join(SHUTDOWN_TIMEOUT_S)
            if self._thread.is_alive():
                _log.error("Ray did not shut down within %g s", SHUTDOWN_TIMEOUT_S)
        if self._reaper is not None:
            self._reaper.finish()
        if self._folder is not None:
            self._folder.remove()
        self._thread, self._reaper, self._head, self._folder = None, None, None, None
        self._owned = False

    def find(self) -> str | None:
        """Return the address to connect to, known to answer; None when a local cluster is to be started.

        Raises RayError as `connect` does.
        """
        if self._address == "local":
            return None
        if self._address != "auto":
            return checked_address(self._address, self._named)
        recorded = recorded_address()
        if recorded:
            problem = problem_with_borrowing(recorded)
            if not problem:
                return recorded
            self._progress(f"the Ray cluster recorded on this machine is not used: {recorded}: {problem}")
        if not self.config.auto_start_local:
            raise RayError(
                "no Ray cluster to use runs on this machine and ray.auto_start_local is false; set "
                "ray.address to your cluster ('host:6379' or 'ray://host:10001'), run `ray start --head` "
                "with a token, or set ray.auto_start_local to true"
            )
        return None

    def _borrow(self, address: str) -> None:
        self._progress(f"using the Ray cluster at {address} (borrowed: it stays when the run ends)")
        for left in reversed(range(_CLIENT_STARTS)):
            try:
                self._init({"address": address})
                return
            except Exception as error:
                if left and any(words in str(error.__cause__) for words in _NO_CLIENT_SERVER):
                    self._progress(
                        f"{address}: the head did not start a server for this client; asking again"
                    )
                    continue
                raise RayError(f"cannot use the Ray cluster at {address}: {_reason(error)}") from error

    def _start_local(self, variables: Iterable[str]) -> None:
        import ray

        coordinator, workers = self.config.coordinator, self.config.workers
        wanted = coordinator.num_cpus + workers.replicas * workers.num_cpus
        gpus = coordinator.num_gpus + workers.replicas * workers.num_gpus
        # Ray's CPUs are a count for placing actors: with fewer than the actors ask for, some never start.
        cpus = max(available_cpus(), math.ceil(wanted) + SPARE_CPUS)
        self._progress(
            f"starting a local Ray cluster with {cpus} CPU slots ({self._named} = {self._address})"
        )
        self._folder = PrivateFolder(self._progress)
        arguments: dict[str, Any] = {
            "address": "local",
            "_temp_dir": self._folder.for_ray,
            "num_cpus": cpus,
            "include_dashboard": False,
            "object_store_memory": LOCAL_OBJECT_STORE_BYTES,
            "_node_ip_address": "127.0.0.1",
        }
        try:
            self._reaper = RayReaper(self._folder.path, self._folder.in_use)
            with _loopback_only(), own_environment((*RAY, *variables)), patient_start(self._progress):
                self._init(arguments, CONNECT_TIMEOUT_S + START_TIMEOUT_S)
            self._owned = True
            _watch_local_node(self._reaper)
        except Exception as error:
            self._folder.release()
            if self._reaper is not None:
                self._reaper.keep_folder()
            logs, self._folder = self._folder.for_ray, None  # they stay, for whoever looks into it
            raise RayError(
                f"a local Ray cluster could not be started: {_reason(error)}; set ray.address to a running "
                f"one, or look at the logs in {logs}/session_latest/logs"
            ) from error
        available: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        if gpus > available.get("GPU", 0):
            raise RayError(
                f"ray.workers and ray.coordinator ask for {gpus:g} GPUs and this machine has "
                f"{available.get('GPU', 0):g}; set num_gpus to 0, or ray.address to a cluster"
            )

    def _init(self, arguments: dict[str, Any], timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        """`ray.init` on a thread that lives as long as the connection. Raises what it raises.

        Not on the caller's thread: there Python's side of Ray would take over SIGTERM, which belongs to
        whoever runs us; and the kernel ends a local cluster when the *thread* that started it ends.
        """
        import ray

        done = threading.Event()
        failure: list[BaseException] = []
        self._release.clear()

        def hold() -> None:
            try:
                with handler_kept(signal.SIGTERM):
                    ray.init(
                        namespace=self.config.namespace,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        **arguments,
                    )
            except BaseException as error:  # Ray also ends with SystemExit
                failure.append(error)
            done.set()
            if not failure:
                self._release.wait()
            ray.shutdown()

        self._thread = threading.Thread(target=hold, name="ray-session", daemon=True)
        self._thread.start()
        if not done.wait(timeout_s):
            raise RayError(f"Ray did not answer within {timeout_s:g} s")
        if failure:
            raise RayError(_reason(failure[0])) from failure[0]


def _watch_of_head(address: str) -> HeadWatch | None:
    """Return a watch of the head that this process is connected to, by way of `address`.

    Ray's client (ray://) does not know the head's own address; its server is on the head's node.
    """
    import ray

    if address.startswith("ray://"):
        return HeadWatch(bare_address(address))
    known = getattr(ray.get_runtime_context(), "gcs_address", "")  # a client's context has none
    return HeadWatch(known) if known else None


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """Let a local cluster listen on 127.0.0.1 alone.

    Ray turns 127.0.0.1 into the machine's outward address unless this constant is false; it is false on
    macOS and Windows, so that a loopback cluster is a case that Ray knows.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _watch_local_node(reaper: RayReaper) -> None:
    """Have the reaper watch over the local cluster that this process has just started."""
    import psutil
    import ray
    from ray._private import worker

    node: Any = worker._global_node
    processes = {name: [info.process.pid for info in infos] for name, infos in node.all_processes.items()}
    raylet = processes["raylet"][0]
    others = [pid for pids in processes.values() for pid in pids]
    others += [child.pid for child in psutil.Process(raylet).children(recursive=True)]
    reaper.watch(raylet, ray.get_runtime_context().get_node_id(), others)


def _reason(error: BaseException) -> str:
    text = str(error)
    if _TRACEBACK in text:  # of Ray's server: its last line tells what went wrong
        text = text.partition(_TRACEBACK)[0] + text.strip().splitlines()[-1]
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= 600 else text[:600] + " ..."
