"""A Ray cluster over several machines, and runs that are started on its machines."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from dlgforge_core.database.dsn import DSN_ENV
from dlgforge_core.runtime.cluster.head import tcp_problem
from tests.cluster.machines import Machine, Network
from tests.end_to_end.job import ROOT, Project, run_config
from tests.support.processes import descendants
from tests.support.simulated_endpoint import SimulatedEndpoint
from tests.support.waiting import wait_until

HEAD_PORT, CLIENT_PORT = 6379, 10001
_BIN = Path(sys.executable).parent
# Of two CPUs a node, so that each has room for one.
_WORKERS = {"replicas": 2, "num_cpus": 1.5}
_NODE = ("--disable-usage-stats", "--object-store-memory=100000000", "--block")


@dataclass
class Cluster:
    """A head and two nodes with room for one worker each; a token keeps others away."""

    lan: Network
    head: Machine
    nodes: list[Machine]
    token: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """For machines of the cluster."""
        return f"{self.head.address}:{HEAD_PORT}"

    @property
    def client_address(self) -> str:
        """For others."""
        return f"ray://{self.head.address}:{CLIENT_PORT}"

    def env(self, machine: Machine) -> dict[str, str]:
        """Return the environment of what runs on a machine, which has the cluster's token."""
        home = machine.folder / "home"
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        (home / ".ray").mkdir(parents=True, exist_ok=True)
        (home / ".ray" / "auth_token").write_text(self.token)
        return kept | {"HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0", "DAGSTER_DISABLE_TELEMETRY": "1"}

    def start(self) -> None:
        """Start all of it, and wait until it is whole."""
        self.start_head()
        for node in self.nodes:
            self.start_node(node)
        self._wait_until_whole()

    def start_head(self) -> None:
        """Run `ray start --head`."""
        listens = (f"--port={HEAD_PORT}", f"--ray-client-server-port={CLIENT_PORT}")
        self._ray(self.head, "--head", "--num-cpus=0", "--include-dashboard=false", *listens)
        ports = (HEAD_PORT, CLIENT_PORT)
        wait_until(
            lambda: not any(tcp_problem(f"{self.head.address}:{port}") for port in ports), 120, "a head"
        )

    def start_node(self, node: Machine) -> None:
        """Run `ray start` on a machine that is to be a node."""
        self._ray(node, f"--address={self.address}", "--num-cpus=2")

    def _ray(self, machine: Machine, *arguments: str) -> None:
        command = [str(_BIN / "ray"), "start", f"--node-ip-address={machine.address}", *arguments, *_NODE]
        with (machine.folder / "ray.log").open("ab") as log:
            self._running[machine.name] = machine.popen(
                command,
                env=self.env(machine) | {"RAY_AUTH_MODE": "token"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def repair(self) -> None:
        """Have every node that something was done to start anew, as the ones before know nothing of it."""
        for node in self.nodes:
            if node.disturbed:
                self.lan.lose(node)
                self.lan.start(node)
                self.start_node(node)
        self._wait_until_whole()

    def _wait_until_whole(self) -> None:
        whole = sorted(machine.name for machine in (self.head, *self.nodes))

        def look() -> bool:
            for node in self.nodes:  # where all is busy Ray's 30 s for a start are too few
                if self._running[node.name].poll() is not None:
                    self.start_node(node)
            return sorted(self.living()) == whole

        wait_until(look, 300, "the cluster is whole")

    def living(self) -> list[str]:
        """Return the host names of the nodes that the head takes for living."""
        source = (
            "import sys; from dlgforge_core.runtime.cluster.survey import survey\n"
            "print(*(node.host for node in survey(sys.argv[1]).nodes))"
        )
        env = self.env(self.head) | {"RAY_AUTH_MODE": "token"}
        return self.head.run(sys.executable, "-c", source, self.address, env=env).split()


class Running:
    """A program on a machine, and what it prints."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process, self._output = process, output

    @property
    def log(self) -> str:
        """What it has printed."""
        return self._output.read_text("utf-8", "replace")

    def wait_for(self, pattern: str, timeout_s: float = 120.0) -> str:
        """Wait until a line of its log matches, and return that; it must not end before."""
        found = re.compile(pattern)

        def look() -> str:
            ended = self.process.poll() is not None
            line = next((line for line in self.log.splitlines() if found.search(line)), "")
            assert line or not ended, f"it ended without {pattern!r}: {self.log[-4000:]}"
            return line

        try:
            return wait_until(look, timeout_s, repr(pattern))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log[-4000:]}") from None

    def finish(self, timeout_s: float = 240.0) -> str:
        """Wait for its end, which must be a success; returns what it printed."""
        wait_until(lambda: self.process.poll() is not None, timeout_s, f"{self._output} tells its end")
        assert self.process.returncode == 0, self.log[-5000:]
        return self.log

    def fail(self, timeout_s: float = 240.0) -> str:
        """Wait for its end, which must be a failure; returns what it printed."""
        wait_until(lambda: self.process.poll() is not None, timeout_s, f"{self._output} tells its end")
        assert self.process.returncode != 0, self.log[-5000:]
        return self.log


@contextlib.contextmanager
def driver(
    cluster: Cluster,
    machine: Machine,
    folder: Path,
    *,
    address: str,
    dsn: str,
    plan: Mapping[str, Any],
    sim: SimulatedEndpoint,
) -> Iterator[Running]:
    """Have a run worked on from a machine, on a cluster; the driver is gone at the end."""
    task = {"dsn": dsn, "plan": plan, "base_url": sim.base_url, "address": address, "workers": _WORKERS}
    output = folder / "driver.log"
    with output.open("ab") as log:
        process = machine.popen(
            [sys.executable, "-m", "tests.cluster.driver"],
            cwd=ROOT,
            env=cluster.env(machine),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    assert process.stdin is not None
    process.stdin.write(json.dumps(task).encode() + b"\n")
    process.stdin.close()
    try:
        yield Running(process, output)
    finally:
        end(process)


def end(process: subprocess.Popen[Any]) -> None:
    """End what runs on a machine, with what is below it."""
    below = descendants(process.pid) if process.poll() is None else []
    process.kill()
    for part in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            part.kill()
    process.wait(30)


def recipe(llm: Mapping[str, Any], address: str, **run: Any) -> dict[str, Any]:
    """Return the run config of a job with two workers on the cluster at an address."""
    settings = {"target_languages": ["en"], "n_turns": 2, "concurrency": 2, **run}
    config = run_config(llm, distributed={"enabled": True}, **settings)
    config["resources"]["ray"] = {"config": {"address": address, "workers": _WORKERS}}
    return config


@contextlib.contextmanager
def job(
    cluster: Cluster, machine: Machine, folder: Path, config: dict[str, Any], dsn: str
) -> Iterator[Running]:
    """Run the job on a machine; it has ended at the end."""
    project = Project(folder)
    path = project.config(config)
    output = folder / "job.log"
    with output.open("wb") as log:
        process = machine.popen(
            project.command(path),
            cwd=folder,
            env=project.env | cluster.env(machine) | {DSN_ENV: dsn},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Running(process, output)
    finally:
        end(process)
