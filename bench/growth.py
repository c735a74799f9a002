"""Whether dialogues slow with their number where near-copies are refused: `python -m bench.growth`.

200,000 dialogues of one turn, without a judge, in one worker in this process, on a simulated endpoint
without latency, whose questions are of a narrow vocabulary (bench/questions.py), the hardest to tell apart:
14 words each of the same 24. Prints the rate of each tenth, the worker's CPU and memory.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from itertools import pairwise

import uvloop

from bench.fixture import fresh_store
from bench.memory import sampled
from bench.questions import NARROW_WORDS
from dlgforge_core.config import GenerationConfig, JudgeConfig, RunConfig
from dlgforge_core.llm.endpoints import Endpoint
from tests.support.runs import MODEL, prepared, spec
from tests.support.simulated_endpoint import simulated_endpoint

TENTHS = 10


def main() -> None:
    """Print a line for each tenth, and how the last one compares with the first."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dialogues", type=int, default=200_000)
    parser.add_argument("--slots", type=int, default=64)
    arguments = parser.parse_args()

    run_config = RunConfig(
        total_samples=arguments.dialogues, target_languages=["en"], n_turns=1, concurrency=arguments.slots
    )
    generation = GenerationConfig(run=run_config, judge=JudgeConfig(mode="off"))
    marks = [arguments.dialogues * tenth // TENTHS for tenth in range(TENTHS)]
    threshold = generation.coverage.question_similarity_threshold
    print(
        f"load average {os.getloadavg()[0]:.1f}; near-copies from a similarity of {threshold} on are refused"
    )
    with (
        fresh_store("bench") as store,
        simulated_endpoint(models=[MODEL], question_words=NARROW_WORDS) as sim,
    ):
        run = prepared(store, generation)
        cpu = time.process_time()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            rows = runner.run(sampled(spec(store, run, Endpoint("simulated", sim.base_url)), marks))
        cpu = time.process_time() - cpu
        refused = sim.stats()["calls"] - 2 * arguments.dialogues
        if store.progress(run.run_id).done != arguments.dialogues:
            raise SystemExit(f"the plan was not finished: {store.progress(run.run_id)}")
    print("   done  seconds  dialogues/s  rss_mb")
    rates = []
    for (before, since, _), (done, seconds, rss) in pairwise(rows):
        rates.append((done - before) / (seconds - since))
        print(f"{done:7}  {seconds:7.1f}  {rates[-1]:11.0f}  {rss:6.0f}")
    print(
        f"the last tenth at {rates[-1] / rates[0]:.2f} of the first one's rate; {refused} calls besides, "
        f"{1000 * cpu / arguments.dialogues:.2f} ms of CPU a dialogue; load average {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
