"""Starting a local Ray cluster: what it gets of our environment, and patience on a busy machine."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from dlgforge_core.common.child_environment import child_environment

START_TIMEOUT_S = 240.0
"""How long a node of a local cluster may take to register."""
_REPORT_EVERY_S = 30.0
_POLL_S = 0.5
_PORT_WAIT = "RAY_gcs_server_port_wait_time_s"  # 30 s where it is not set


@contextlib.contextmanager
def patient_start(progress: Callable[[str], None], timeout_s: float = START_TIMEOUT_S) -> Iterator[None]:
    """Have `ray.init` wait for its first node for up to `timeout_s` seconds; `progress` is told of the wait.

    Ray itself gives up after 30 s, and lets nobody change that: on a machine whose CPUs are all taken a start
    may take longer. So the look-up that it repeats for so long does not return before the node is there.
    """
    from ray._private import services

    look_up: Callable[..., Any] = services.get_node

    def patient_look_up(*arguments: Any) -> Any:
        started = reported_at = time.monotonic()
        while True:
            try:
                return look_up(*arguments)
            except RuntimeError:  # not registered yet
                now = time.monotonic()
                if now - started > timeout_s or not _raylet_lives():
                    raise
                if now - reported_at > _REPORT_EVERY_S:
                    reported_at = now
                    progress(
                        f"the local Ray cluster is still starting, for {now - started:.0f} s: this machine "
                        f"has much to do; it is waited for {timeout_s:.0f} s"
                    )
                time.sleep(_POLL_S)

    services.get_node = patient_look_up
    given = _PORT_WAIT in os.environ
    os.environ.setdefault(_PORT_WAIT, f"{timeout_s:.0f}")
    try:
        yield
    finally:
        services.get_node = look_up
        if not given:
            del os.environ[_PORT_WAIT]


@contextlib.contextmanager
def own_environment(wanted: Iterable[str]) -> Iterator[None]:
    """Have what `ray.init` starts get the variables `wanted` of ours, and DLGFORGE_CHILD_ENV's.

    Ray hands on everything. Workers have what its processes have.
    """
    from ray._private import services as typed_services

    services: Any = typed_services
    start: Callable[..., Any] = services.ConsolePopen

    def start_with_less(*arguments: Any, env: Mapping[str, str], **options: Any) -> Any:
        of_ray = {name: value for name, value in env.items() if os.environ.get(name) != value}
        return start(*arguments, env={**child_environment(wanted), **of_ray}, **options)

    services.ConsolePopen = start_with_less
    try:
        yield
    finally:
        services.ConsolePopen = start


def _raylet_lives() -> bool:
    """Whether the node's process, a child of this one, is there: one that has died is not waited for."""
    import psutil

    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.name() == "raylet" and child.status() != psutil.STATUS_ZOMBIE:
                return True
    return False
