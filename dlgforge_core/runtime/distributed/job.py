"""What the workers on a cluster do: a run of dialogues, or a session of judging."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from dlgforge_core.config import DistributedConfig, RoutingConfig
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.prices import PriceList
from dlgforge_core.llm.providers import Callers
from dlgforge_core.scheduling.background import Runner


class Job(Protocol):
    """Everything a worker needs, wherever it runs: a dataclass that can be pickled, and holds secrets."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where its calls go."""

    @property
    def routing(self) -> RoutingConfig:
        """How its calls are shared among them."""

    @property
    def prices(self) -> PriceList:
        """What its calls cost."""

    @property
    def name(self) -> str:
        """What it is called on a cluster."""

    @property
    def lease_s(self) -> float:
        """After how many seconds without a sign a worker loses what it has claimed."""

    def thread(self, refresh: Callable[[], Sequence[Endpoint]] | None = None) -> Runner:
        """Return a worker, to be started in this process; `refresh` tells where endpoints are now."""

    def worker_stats(self) -> list[Mapping[str, Any]]:
        """Return what every worker, past ones included, has counted."""

    def silent_workers(self) -> set[tuple[str, int]]:
        """Host and pid of worker processes that hold no valid lease."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a job needs started, and how it is carried."""

    distributed: DistributedConfig
    concurrency: int
    """Calls at once, of each worker."""
    callers: Callers
    models: Mapping[str, Sequence[str]]
    """By caller, for their prices."""
    budget: tuple[str, float | None]
    """The key that limits what calls may cost, and the limit."""
    addresses: Mapping[str, str] = field(default_factory=dict)
    """What workers call beside the LLM, by the keys that say so."""
