"""Machines on this one: sets of Linux namespaces, with an address, a host name and processes of their own.

    with network(folder) as lan:
        head = lan.machine("head")
        head.popen(["ray", "start", ...])
        lan.cut(head)

They hang on a switch, a namespace as well, and this process does too, as `lan.outside`. Nothing outlives the
process that made them: the first process of a machine dies with it, the kernel then ends all others of the
machine, and links go with their namespaces.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from dlgforge_core.runtime.serving.processes import PR_SET_PDEATHSIG, prctl
from tests.support.waiting import wait_until

_SPACES = ("--net", "--uts", "--pid", "--mount", "--ipc")
_CLONE_NEWNET = 0x40000000

# The first process of a machine: it reaps what has lost its parent, as such a process must.
_INIT = """
import ctypes, os, signal
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with its starter
print("up", flush=True)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
while True:
    signal.sigwait([signal.SIGCHLD])
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
"""
# Ray keeps its files and sockets in /tmp/ray: one a machine. Nobody answers there for names, at once.
_BOOT = """
set -e
hostname "$0"
mount --bind "$1/ray" /tmp/ray
mount --bind "$1/hosts" /etc/hosts
mount --bind "$1/resolv.conf" /etc/resolv.conf
ip link set lo up
shift
exec "$@"
"""


def cannot_make_machines() -> str:
    """Why no namespaces can be made here; empty when they can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if missing := [name for name in ("ip", "unshare", "nsenter") if shutil.which(name) is None]:
        return f"{', '.join(missing)}: not installed (apt-get install iproute2 util-linux)"
    tried = subprocess.run(
        ["unshare", *_SPACES, "--fork", "--mount-proc", "ip", "link", "add", "try", "type", "bridge"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"namespaces are refused here: {tried.stderr.strip()}" if tried.returncode else ""


class Machine:
    """One machine: its namespaces live as long as its first process."""

    def __init__(self, name: str, address: str, folder: Path) -> None:
        self.name, self.address, self.folder = name, address, folder
        self.disturbed = False
        """Whether its link was cut since it was started."""
        self._keeper: subprocess.Popen[str] | None = None
        self._pid = 0

    @property
    def up(self) -> bool:
        """Whether it runs."""
        return self._keeper is not None

    def boot(self) -> None:
        """Start it, without any link."""
        shutil.rmtree(self.folder / "ray", ignore_errors=True)
        (self.folder / "ray").mkdir(parents=True)
        (self.folder / "hosts").write_text(
            f"127.0.0.1 localhost\n{self.address or '127.0.0.2'} {self.name}\n"
        )
        (self.folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        Path("/tmp/ray").mkdir(exist_ok=True)
        boot = ["sh", "-c", _BOOT]
        init = [sys.executable, "-I", "-S", "-c", _INIT]
        log = (self.folder / "boot.log").open("wb")
        self._keeper = subprocess.Popen(
            ["unshare", *_SPACES, "--fork", "--mount-proc", *boot, self.name, str(self.folder), *init],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            preexec_fn=_die_with_starter,
        )
        log.close()
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == "up\n", (self.folder / "boot.log").read_text()
        (first,) = psutil.Process(self._keeper.pid).children()
        self._pid = first.pid

    def power_off(self) -> None:
        """End all its processes at once, and with them its links."""
        if self._keeper is None:
            return
        processes = self.processes()
        os.kill(self._pid, signal.SIGKILL)
        self._keeper.wait(30)
        if self._keeper.stdout is not None:
            self._keeper.stdout.close()
        psutil.wait_procs(processes, 30)
        self._keeper = None

    def processes(self) -> list[psutil.Process]:
        """All its processes."""
        return [process for process in psutil.process_iter() if _net(process.pid) == _net(self._pid)]

    @staticmethod
    def pid_on_it(process: psutil.Process) -> int:
        """Return the number that one of its processes has there, 0 when it has ended."""
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            return 0
        return int(status.partition("NSpid:")[2].split("\n", 1)[0].split()[-1])

    def command(self, *command: str | Path, cwd: Path = Path("/")) -> list[str]:
        """Return the command that runs `command` on it."""
        spaces = [f"{space}=/proc/{self._pid}/ns/{_file_of(space)}" for space in _SPACES]
        return ["nsenter", *spaces, "--", "env", f"--chdir={cwd}", *map(str, command)]

    def popen(
        self, command: Sequence[str | Path], cwd: Path = Path("/"), **options: Any
    ) -> subprocess.Popen[Any]:
        """Run a program on it, which ends with this process or the machine."""
        return subprocess.Popen(self.command(*command, cwd=cwd), preexec_fn=_die_with_starter, **options)

    def run(self, *command: str | Path, env: Mapping[str, str] | None = None) -> str:
        """Run a program on it to its end, and return its output; fails when it fails."""
        done = subprocess.run(
            self.command(*command), capture_output=True, text=True, env=env, timeout=120, check=False
        )
        assert done.returncode == 0, f"{command} on {self.name}: {done.stdout}{done.stderr}"
        return done.stdout

    @property
    def enter(self) -> Callable[[], None]:
        """What a child process calls to have the network of this machine."""
        path = f"/proc/{self._pid}/ns/net"
        return lambda: _enter_network(path)


class Network:
    """Machines on a switch."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._switch = Machine("switch", "", folder / "switch")
        self._machines: list[Machine] = []
        self._prefix = _free_prefix()
        self.outside = f"{self._prefix}.254"
        """The address of this process's own machine."""

    def open(self) -> None:
        """Make the switch, and the link of this process's own machine."""
        self._switch.boot()
        self._ip(self._switch, "link add lan type bridge")
        self._ip(self._switch, f"addr add {self._prefix}.1/24 dev lan")
        self._ip(self._switch, "link set lan up")
        name = f"lan{os.getpid()}"
        _ip(f"link add {name} type veth peer name outside netns {self._switch._pid}")
        self._ip(self._switch, "link set outside master lan up")
        _ip(f"addr add {self.outside}/24 dev {name}")
        _ip(f"link set {name} up")

    def machine(self, name: str) -> Machine:
        """Return a machine that runs."""
        made = Machine(name, f"{self._prefix}.{len(self._machines) + 10}", self._folder / name)
        self._machines.append(made)
        self.start(made)
        return made

    def start(self, machine: Machine) -> None:
        """Start a machine that does not run, with its address."""
        machine.boot()
        machine.disturbed = False
        port = _port(machine)
        _ip(f"link add {port} netns {self._switch._pid} type veth peer name eth0 netns {machine._pid}")
        self._ip(self._switch, f"link set {port} master lan up")
        self._ip(machine, f"addr add {machine.address}/24 dev eth0")
        self._ip(machine, "link set eth0 up")
        # Leads nowhere. Ray and others take the address of the way out for the machine's own.
        self._ip(machine, f"route add default via {self._prefix}.1")

    def cut(self, machine: Machine) -> None:
        """Take its link down at the switch: nothing arrives, and nobody is told."""
        machine.disturbed = True
        if machine.up:
            self._ip(self._switch, f"link set {_port(machine)} down")

    def mend(self, machine: Machine) -> None:
        """Take its link up again."""
        self._ip(self._switch, f"link set {_port(machine)} up")

    @contextlib.contextmanager
    def without(self, machine: Machine) -> Iterator[None]:
        """Cut a machine off within the block."""
        self.cut(machine)
        try:
            yield
        finally:
            if machine.up:
                self.mend(machine)

    def lose(self, machine: Machine) -> None:
        """Have a machine vanish: cut off first, so that its kernel tells nobody that its connections end."""
        self.cut(machine)
        machine.power_off()
        with contextlib.suppress(AssertionError):  # the kernel may have removed it by now
            self._ip(self._switch, f"link del {_port(machine)}")

    def close(self) -> None:
        """End all machines."""
        for machine in (*self._machines, self._switch):
            machine.power_off()

    def _ip(self, machine: Machine, arguments: str) -> None:
        machine.run("ip", *arguments.split())


@contextlib.contextmanager
def network(folder: Path) -> Iterator[Network]:
    """Yield a network without machines; all are gone afterwards."""
    made = Network(folder)
    try:
        made.open()
        yield made
    finally:
        made.close()
        wait_until(lambda: not _addresses(made._prefix), 30, "the network is gone")


def _port(machine: Machine) -> str:
    return f"p{machine.address.rpartition('.')[2]}"


def _file_of(space: str) -> str:
    return {"--mount": "mnt"}.get(space, space.removeprefix("--"))


def _die_with_starter() -> None:
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _enter_network(path: str) -> None:
    space = os.open(path, os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(space, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), path)
    os.close(space)


def _net(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return ""


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True)


def _addresses(prefix: str) -> list[str]:
    return [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family is socket.AF_INET and address.address.startswith(f"{prefix}.")
    ]


def _free_prefix() -> str:
    """Return the first three numbers of addresses that this machine has none of."""
    taken = (f"10.211.{number}" for number in range(256))
    return next(prefix for prefix in taken if not _addresses(prefix))
