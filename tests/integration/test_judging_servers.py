"""Judging with managed servers on a Ray cluster: where they are now is asked, and their head is watched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from dlgforge_core.config import DistributedConfig, LlmConfig, RayConfig, VllmConfig
from dlgforge_core.errors import RunStoppedError
from dlgforge_core.judging.worker_thread import JudgingSpec
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.distributed.runners import needs_of_judging, start_runner
from dlgforge_core.scheduling.background import Runner
from dlgforge_core.store.run_store import RunStore
from tests.support.judging import generated, judge, judging, verdicts
from tests.support.simulated_endpoint import simulated_endpoint

MANAGED = LlmConfig(backend="vllm_managed", model="simulated", vllm=VllmConfig(model="simulated"))
LOST = "the head of the Ray cluster at 10.0.0.1:6379 has been out of reach for 25 s"

N = 40
TURNS = 2 * N


class Session:
    """What stands for the connection to a cluster; `look` is called as often as the head is looked after."""

    def __init__(self, look: Callable[[], str] = lambda: "") -> None:
        self._look = look
        self.connected = True

    @property
    def head_lost(self) -> str:
        """Why the head counts as lost."""
        return self._look()

    def shutdown(self) -> None:
        """Disconnect."""
        self.connected = False


@dataclass
class Servers:
    """What stands for managed servers."""

    now: list[Endpoint]
    asked: int = 0

    def endpoints(self) -> list[Endpoint]:
        """Return where they are now."""
        self.asked += 1
        return self.now


def runner(spec: JudgingSpec, session: Session, servers: Servers) -> Runner:
    """Return the runner of a session in this process, as the asset has it started."""
    return start_runner(
        spec,
        needs_of_judging(spec, DistributedConfig()),
        session,  # type: ignore[arg-type]
        RayConfig(),
        MANAGED,
        dsn="",
        dsn_source="the test",
        endpoints=lambda _: servers.now,
        fleet=lambda: servers,  # type: ignore[arg-type, return-value]
        progress=lambda _: None,
    )


def test_judging_ends_in_order_when_the_head_of_its_servers_is_lost_and_goes_on(store: RunStore) -> None:
    session = Session(lambda: LOST if len(verdicts(store)) >= 5 else "")
    with simulated_endpoint(record_requests=1000) as sim:
        run = generated(store, sim, N)
        sim.configure(latency_s=0.3)
        servers = Servers([Endpoint("vllm-0", sim.base_url)])
        config = judging(concurrency=4)
        with pytest.raises(RunStoppedError, match=f"^{LOST}\nRun .* to go on judging") as caught:
            judge(
                store,
                run,
                config,
                llm=MANAGED,
                make_runner=lambda spec: runner(spec, session, servers),
            )
        assert LOST in str(caught.value)
        assert not session.connected, "or Ray would end this process"
        before = verdicts(store)
        assert 5 <= len(before) < TURNS
        calls = sim.stats()["calls"]
        with store.connection() as connection:
            held = connection.execute("SELECT count(*) FROM judging_claims").fetchone()
        assert held == (0,), "dialogues are let go of in order"
        sim.configure(latency_s=0.0)
        report = judge(
            store,
            run,
            config,
            llm=MANAGED,
            make_runner=lambda spec: runner(spec, Session(), servers),
        )
        assert (report.given, report.kept, report.missing) == (TURNS - len(before), len(before), 0)
        assert before.items() <= verdicts(store).items()
        assert sim.stats()["calls"] <= TURNS + calls - len(before)


def test_judging_follows_a_server_that_comes_back_elsewhere(store: RunStore) -> None:
    with simulated_endpoint() as first, simulated_endpoint() as second:
        run = generated(store, first, N)
        first.configure(latency_s=0.3)
        servers = Servers([Endpoint("vllm-0", first.base_url)])

        def move() -> str:
            if servers.now[0].base_url == first.base_url and len(verdicts(store)) >= 5:
                servers.now = [Endpoint("vllm-0", second.base_url)]
                first.kill()
            return ""

        report = judge(
            store,
            run,
            judging(concurrency=4, patience_s=60.0),
            llm=MANAGED,
            make_runner=lambda spec: runner(spec, Session(move), servers),
        )
        assert (report.given, report.missing) == (TURNS, 0)
        assert second.stats()["calls"] >= TURNS / 2
