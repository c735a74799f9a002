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
    event_bytes_a_run: float
    events_a_run: float


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
