"""What calls of tools cost: `python -m bench.tools --dialogues 1000`.

Dialogues of two turns on a simulated endpoint without latency, judged, in one worker in this process:
without tools, and with a Python function that changes a state, which the assistant calls before each answer.
By turns, so that both meet the same machine. CPU is that of this process, the store's client and the tools
included.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from bench.fixture import fresh_store, work
from dlgforge_core.config import GenerationConfig
from dlgforge_core.llm.endpoints import Endpoint
from tests.support.runs import MODEL, prepared, spec
from tests.support.simulated_endpoint import simulated_endpoint

_DESK = '''
def lend(query: str, state: dict) -> str:
    """Lends the book that fits best."""
    state["lent"].append(query[:40])
    return f"Lent, number {len(state['lent'])}."
'''
TOOLS: dict[str, Any] = {
    "enabled": True,
    "modules": {"desk": _DESK},
    "functions": [{"python": "desk:lend"}],
    "state": {"initial": [{"value": {"lent": []}}]},
}


def measure(dialogues: int, tools: dict[str, Any], seed: int) -> tuple[int, float]:
    """Return the calls of a run, and milliseconds of CPU for each."""
    run_config = {"seed": seed, "total_samples": dialogues, "target_languages": ["en"], "concurrency": 64}
    generation = GenerationConfig.model_validate({"run": {**run_config, "n_turns": 2}, "tools": tools})
    with fresh_store("bench") as store, simulated_endpoint(models=[MODEL], tool_calls="once") as sim:
        run = prepared(store, generation)
        cost = work(spec(store, run, Endpoint("simulated", sim.base_url)))
        calls, progress = sim.stats()["calls"], store.progress(run.run_id)
        if not (progress.complete and progress.done == dialogues):
            raise SystemExit(f"the plan was not finished: {progress}")
        if tools:
            dialogue = next(iter(store.dialogues(run.run_id)))
            assert len((dialogue.final_state or {})["lent"]) == 2, dialogue
        return calls, 1000 * cost.cpu_s / calls


def main() -> None:
    """Print a line for each pair of runs, and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dialogues", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=2)
    arguments = parser.parse_args()
    measure(20, {}, 0)  # what is imported at first use counts for neither
    measure(20, TOOLS, 0)
    print("pair  tools  calls  cpu_ms/call")
    rows = []
    for seed in range(1, arguments.pairs + 1):
        costs = []
        for name, tools in (("no", {}), ("yes", TOOLS)):
            calls, cost = measure(arguments.dialogues, tools, seed)
            print(f"{seed:4}  {name:>5}  {calls:5}  {cost:11.2f}")
            costs.append(cost)
        rows.append(costs)
    plain, with_tools = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"medians {plain:.2f} and {with_tools:.2f} ms of CPU a call, ratio {with_tools / plain:.2f}")


if __name__ == "__main__":
    main()
