"""Planning a run on the shipped seeds and working on it in this process, as the tests need it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import uvloop

from dlgforge_core.config import (
    CoverageConfig,
    GenerationConfig,
    JudgeConfig,
    LlmConfig,
    RoutingConfig,
    RunConfig,
    ToolsConfig,
)
from dlgforge_core.generation.prepare import PreparedRun, prepare_run
from dlgforge_core.generation.worker import Worker, WorkerResult
from dlgforge_core.generation.worker_thread import WorkerSpec, run_worker
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.stats import CallStats, merged_calls
from dlgforge_core.planning.seeds import read_seeds
from dlgforge_core.store.run_store import RunStore

MODEL = "simulated"
LLM = LlmConfig(backend="openai", model=MODEL, base_url="http://127.0.0.1:1/v1")


def planned(
    store: RunStore,
    total: int = 8,
    *,
    judge: JudgeConfig | None = None,
    coverage: CoverageConfig | None = None,
    tools: ToolsConfig | dict[str, Any] | None = None,
    index_id: str = "",
    **run: Any,
) -> PreparedRun:
    """Return a registered run: English, two turns each, eight call slots, unless `run` says otherwise."""
    settings = {"total_samples": total, "target_languages": ["en"], "patience_s": 3.0, **run}
    if not {"min_turns", "max_turns"} & settings.keys():
        settings.setdefault("n_turns", 2)
    generation = GenerationConfig(
        run=RunConfig(**settings),
        judge=judge or JudgeConfig(),
        coverage=coverage or CoverageConfig(),
        tools=ToolsConfig.model_validate(tools or {}),
    )
    return prepared(store, generation, index_id)


def prepared(store: RunStore, generation: GenerationConfig, index_id: str = "") -> PreparedRun:
    """Return the registered run of this configuration, planned on the shipped seeds."""
    batches = read_seeds("", strict=True)
    store.save_seed_batches(batches)
    return prepare_run(store, generation, LLM, batches, index_id=index_id)


def spec(store: RunStore, run: PreparedRun, *endpoints: Endpoint, **routing: Any) -> WorkerSpec:
    """Return a worker of this run on these endpoints."""
    return WorkerSpec(
        run=run,
        database=store.database,
        endpoints=endpoints,
        routing=RoutingConfig(**routing),
    )


WORK_TIMEOUT_S = 200.0


def work(worker: WorkerSpec, timeout_s: float = WORK_TIMEOUT_S) -> WorkerResult:
    """Work in this process until the run has nothing left."""
    started: list[Worker] = []
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        # uvloop swallows what the handler of a signal raises, and with it the time-out of a test.
        return runner.run(asyncio.wait_for(run_worker(worker, started.append), timeout_s))


def calls(store: RunStore, run: PreparedRun) -> CallStats:
    """Return what all workers of the run have counted."""
    return merged_calls(store.worker_stats(run.run_id))


def begins_with(longer: Sequence[Mapping[str, Any]], shorter: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a prompt begins as another, but for what a judge is asked of that one's last answer."""
    *before, last = shorter
    same = list(longer[: len(before)]) == before
    there = longer[len(before)]
    return same and there == {**last, "content": last["content"].split("\n\nLook first: ")[0]}
