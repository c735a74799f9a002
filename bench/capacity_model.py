"""What a plan and a number of replicas come to on one Postgres: plain arithmetic from measured unit costs."""

from __future__ import annotations

from dataclasses import dataclass

SLOTS = 256
"""Call slots of a replica."""
CALL_S = 5.0
"""Seconds of a call."""
CORES = 16
"""Of the server's machine."""
HEADROOM = 0.6
"""Share of the cores that a steady load may take: the rest is for checkpoints, vacuum and peaks."""
CONNECTIONS_A_WORKER = 2
OTHER_CONNECTIONS = 40
"""Of Dagster, the run's own process, the review page and people."""


@dataclass(frozen=True)
class UnitCosts:
    """What was measured, for one call, one dialogue, one worker or one run."""

    calls_a_dialogue: float
    cpu_ms_a_call: float
    """Of all the server's processes, with leases at the rate at which it was measured."""
    wal_bytes_a_call: float
    commits_a_call: float
    rows_a_call: float
    """Rows inserted, updated or deleted."""
    bytes_a_dialogue: float
    """At rest, with indexes and near-copies."""
    near_copy_bytes_a_question: float
    questions_a_dialogue: float
    lease_cpu_ms_a_worker_s: float
    """Server CPU for one worker's lease in a second, whatever the number of workers."""
    lease_cpu_us_a_pair_s: float
    """The part of it that each other worker of the run adds."""


# Of `python -m bench.capacity calls` and `python -m bench.leases`; docs/capacity.md says when and where.
MEASURED = UnitCosts(
    calls_a_dialogue=12,
    cpu_ms_a_call=0.90,
    wal_bytes_a_call=2100,
    commits_a_call=0.56,
    rows_a_call=2.68,
    bytes_a_dialogue=13_200,
    near_copy_bytes_a_question=720,
    questions_a_dialogue=4,
    lease_cpu_ms_a_worker_s=0.63,
    lease_cpu_us_a_pair_s=4.3,
)


@dataclass(frozen=True)
class Load:
    """What so many replicas come to in a second."""

    replicas: int
    calls_s: float
    cores: float
    lease_cores: float
    wal_mb_s: float
    commits_s: float
    connections: int

    @property
    def first_limit(self) -> str:
        """What is used up first on a server of `CORES`, or nothing."""
        if self.cores > CORES:
            return "CPU of Postgres"
        if self.cores > HEADROOM * CORES:
            return "CPU of Postgres, at peaks"
        return ""


@dataclass(frozen=True)
class Plan:
    """What so many dialogues come to, once they are made."""

    dialogues: float
    gb: float
    near_copy_gb: float
    wal_gb: float
    calls: float

    def days(self, load: Load) -> float:
        """Return how long these replicas take."""
        return self.calls / load.calls_s / 86_400


def load(costs: UnitCosts, replicas: int, slots: int = SLOTS, call_s: float = CALL_S) -> Load:
    """Return what replicas that keep all their slots busy come to."""
    calls_s = replicas * slots / call_s
    lease = replicas * costs.lease_cpu_ms_a_worker_s / 1e3
    lease += replicas * (replicas - 1) * costs.lease_cpu_us_a_pair_s / 1e6
    return Load(
        replicas=replicas,
        calls_s=calls_s,
        cores=calls_s * costs.cpu_ms_a_call / 1e3 + lease,
        lease_cores=lease,
        wal_mb_s=calls_s * costs.wal_bytes_a_call / 1e6,
        commits_s=calls_s * costs.commits_a_call,
        connections=replicas * CONNECTIONS_A_WORKER + OTHER_CONNECTIONS,
    )


def plan(costs: UnitCosts, dialogues: float) -> Plan:
    """Return what a plan of so many dialogues comes to."""
    calls = dialogues * costs.calls_a_dialogue
    return Plan(
        dialogues=dialogues,
        gb=dialogues * costs.bytes_a_dialogue / 1e9,
        near_copy_gb=dialogues * costs.questions_a_dialogue * costs.near_copy_bytes_a_question / 1e9,
        wal_gb=calls * costs.wal_bytes_a_call / 1e9,
        calls=calls,
    )


def most_replicas(costs: UnitCosts, cores: float = HEADROOM * CORES) -> int:
    """Return how many replicas these cores bear."""
    low, high = 0, 1
    while load(costs, high).cores <= cores:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if load(costs, middle).cores <= cores else (low, middle)
    return low


def tables(costs: UnitCosts) -> str:
    """Return what replicas and plans come to, as text."""
    lines = ["replicas  calls/s  cores of PG  of it leases  WAL MB/s  commits/s  connections  first limit"]
    for replicas in (10, 100, 1000):
        one = load(costs, replicas)
        lines.append(
            f"{replicas:8}  {one.calls_s:7.0f}  {one.cores:11.2f}  {one.lease_cores:12.2f}  "
            f"{one.wal_mb_s:8.1f}  {one.commits_s:9.0f}  {one.connections:11}  {one.first_limit}"
        )
    lines.append(f"{most_replicas(costs)} replicas take {HEADROOM:.0%} of {CORES} cores")
    lines.append(
        "dialogues      calls   at rest GB  of it near-copies  WAL GB  days by 10, 100, 1,000 replicas"
    )
    for dialogues in (1e6, 1e8):
        one_plan = plan(costs, dialogues)
        days = ", ".join(f"{one_plan.days(load(costs, replicas)):.3g}" for replicas in (10, 100, 1000))
        lines.append(
            f"{dialogues:9.0e}  {one_plan.calls:9.1e}  {one_plan.gb:11.0f}  {one_plan.near_copy_gb:17.0f}  "
            f"{one_plan.wal_gb:6.0f}  {days}"
        )
    return "\n".join(lines)
