"""The arithmetic of docs/capacity.md."""

from __future__ import annotations

import dataclasses

import pytest

from bench.capacity_model import CORES, HEADROOM, MEASURED, UnitCosts, load, most_replicas, plan

COSTS = UnitCosts(
    calls_a_dialogue=10,
    cpu_ms_a_call=1.0,
    wal_bytes_a_call=2000,
    commits_a_call=0.5,
    rows_a_call=2.0,
    bytes_a_dialogue=10_000,
    near_copy_bytes_a_question=1000,
    questions_a_dialogue=4,
    lease_cpu_ms_a_worker_s=1.0,
    lease_cpu_us_a_pair_s=10.0,
)


def test_a_hundred_replicas_come_to_what_their_slots_come_to() -> None:
    found = load(COSTS, 100)
    assert found.calls_s == 5120
    assert found.lease_cores == pytest.approx(100 * 0.001 + 100 * 99 * 10e-6)
    assert found.cores == pytest.approx(5.12 + found.lease_cores)
    assert found.wal_mb_s == pytest.approx(10.24)
    assert found.commits_s == 2560
    assert found.connections == 240
    assert found.first_limit == ""


def test_leases_grow_with_the_square_of_the_workers() -> None:
    assert load(COSTS, 1000).lease_cores > 50 * load(COSTS, 100).lease_cores
    assert load(COSTS, 1000).first_limit == "CPU of Postgres"


def test_as_many_replicas_as_the_cores_bear() -> None:
    most = most_replicas(COSTS)
    assert load(COSTS, most).cores <= HEADROOM * CORES < load(COSTS, most + 1).cores
    dear = dataclasses.replace(COSTS, cpu_ms_a_call=10.0)
    assert most_replicas(dear) < most / 5


def test_a_plan_at_rest_and_the_days_it_takes() -> None:
    found = plan(COSTS, 1e6)
    assert (found.calls, found.gb, found.near_copy_gb, found.wal_gb) == (1e7, 10.0, 4.0, 20.0)
    assert found.days(load(COSTS, 10)) == pytest.approx(1e7 / 512 / 86_400)


def test_a_hundred_replicas_fit_a_server_by_what_was_measured() -> None:
    assert load(MEASURED, 100).first_limit == ""
