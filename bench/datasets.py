"""What writing a dataset takes: `python -m bench.datasets --dialogues 100000 200000`.

Dialogues of made-up questions in six languages, one turn each with an answer of about 80 words, judged, on
2,000 seed topics, are written with the default formats in the splits `train` and `test`, and read back. No
Postgres takes part. Each size has a process of its own, so that the peak of memory is its own, too.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.fixture import peak_mb
from bench.questions import LANGUAGES
from dlgforge_core.config import DatasetFilesConfig
from dlgforge_core.dialogue import Dialogue, DialoguePlan, Persona, Turn
from dlgforge_core.export.verify import verify_dataset
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.sources import SeedTopic
from dlgforge_core.verdicts import Judgement

_TOPICS = 2_000
_QUESTIONS_AN_ANSWER = 8


def dialogues(count: int) -> Iterator[Dialogue]:
    """Yield so many dialogues, the same ones each time."""
    draw = random.Random(1)
    user, assistant = Persona("u", "Careful buyer", "Asks."), Persona("a", "Teacher", "Explains.")
    languages = sorted(LANGUAGES)
    for number in range(count):
        language = languages[number % len(languages)]
        phrases = LANGUAGES[language]
        topic = SeedTopic(f"topic-{number % _TOPICS}", language, f"topic {number % _TOPICS}", batch="bench")
        plan = DialoguePlan(f"dialogue-{number}", number, language, 1, topic, user, assistant)
        answer = " ".join(phrases.question(draw) for _ in range(_QUESTIONS_AN_ANSWER))
        verdict = Judgement(draw.randint(4, 10), ("clear",))
        yield Dialogue(plan, (Turn(0, f"{phrases.question(draw)} ({number})", answer, verdict),))


def _cpu() -> float:
    """Return the CPU time of this process and of those that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(count: int) -> None:
    """Write and read back so many dialogues, and print what it took."""
    drawn = time.process_time()
    for _ in dialogues(min(count, 10_000)):
        pass
    drawn = (time.process_time() - drawn) * count / min(count, 10_000)
    with tempfile.TemporaryDirectory(prefix="dlgforge-bench-") as folder:
        wall, cpu = time.monotonic(), _cpu()
        saving = DatasetFilesConfig(splits={"train": 0.9, "test": 0.1})
        write_dataset(dialogues(count), Path(folder), saving=saving)
        wall, cpu = time.monotonic() - wall, _cpu() - cpu - drawn
        written = peak_mb()
        reading, verifying = time.monotonic(), _cpu()
        verify_dataset(Path(folder))
        reading, verifying = time.monotonic() - reading, _cpu() - verifying
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    print(
        f"{count:>9,}  {wall:8.1f} s, {cpu:7.1f} s of CPU ({1e6 * cpu / count:4.0f} µs a dialogue), "
        f"peak {written:.0f} MB; read back in {reading:.1f} s, {verifying:.1f} s of CPU, "
        f"peak {peak_mb():.0f} MB; {size / 1e6:,.0f} MB",
        flush=True,
    )


def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dialogues", type=int, nargs="+", default=[100_000, 200_000])
    context = multiprocessing.get_context("spawn")
    for count in parser.parse_args().dialogues:
        process = context.Process(target=measure, args=(count,))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
