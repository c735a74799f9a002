"""The running vLLM servers of the `vllm_managed` backend, as any process of the cluster asks after them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dlgforge_core.config import CALL_TIMEOUT_S, VllmConfig
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.cluster.calls import ask_all, first_line
from dlgforge_core.runtime.serving.vllm_metrics import ReplicaMetrics
from dlgforge_core.runtime.serving.vllm_server import ReplicaState, ReplicaStatus


@dataclass(frozen=True)
class VllmFleet:
    """What asks after the servers; it can be sent to actors.

    After a server died its endpoint comes back under the same name with another address, so ask again every
    few seconds.
    """

    config: VllmConfig
    names: tuple[str, ...]
    actors: tuple[Any, ...]
    timeout_s: float = CALL_TIMEOUT_S

    def statuses(self) -> list[ReplicaStatus]:
        """Every server's state, in at most 15 s. A server whose actor was placed anew is started again."""
        found = ask_all(self.actors, "status")
        result = []
        for name, actor, answer in zip(self.names, self.actors, found, strict=True):
            if isinstance(answer, ReplicaStatus):
                if answer.state is ReplicaState.NEW:
                    actor.start.remote()
                result.append(answer)
            else:
                result.append(ReplicaStatus(name, ReplicaState.LOST, error=first_line(answer)))
        return result

    def endpoints(self) -> list[Endpoint]:
        """Return the endpoints of the servers that are healthy now."""
        return [self.endpoint(s) for s in self.statuses() if s.state is ReplicaState.HEALTHY]

    def endpoint(self, status: ReplicaStatus) -> Endpoint:
        """Return the endpoint of one server."""
        # vLLM batches max_num_seqs; as many again may wait, so that no place in the batch stays empty.
        batch = self.config.max_num_seqs
        endpoint = Endpoint(status.name, status.base_url, status.api_key, timeout_s=self.timeout_s)
        return replace(endpoint, max_in_flight=2 * batch) if batch else endpoint

    def metrics(self) -> list[ReplicaMetrics]:
        """Figures of every server that can be read."""
        return [m for m in ask_all(self.actors, "metrics") if isinstance(m, ReplicaMetrics)]
