"""A head of Ray that fails to take a client in."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.integration.test_ray_session import DOUBLING, guarded_cluster
from tests.support.processes import command_line, descendants, line_of, program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_ray_address")


@pytest.mark.nightly
def test_a_head_that_starts_no_server_for_a_client_is_asked_again(tmp_path: Path) -> None:
    def starting() -> psutil.Process | None:
        parts = descendants(cluster.pid)
        return next((part for part in parts if "--mode=specific-server" in command_line(part)), None)

    with (
        guarded_cluster(tmp_path, RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S="8") as cluster,
        program(DOUBLING, cluster.client, env=cluster.token) as process,
    ):
        wait_until(starting, 60, "the head starts a server for the client").suspend()
        lines: list[str] = []
        while "asking again" not in "".join(lines):
            lines.append(line_of(process, "progress"))
        assert line_of(process, "result") == "42"
