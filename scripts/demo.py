"""`make demo`: run the main job for real, then show where the dialogues are and a few of them.

Takes a run config file that names `ops.dialogue_dataset.config.output_dir`; by default examples/demo.yaml.
With `--model NAME` it takes the file of that model's own, and fetches the model unless it is there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from dlgforge_core.database.embedded import dlgforge_home, embedded_dsn
from dlgforge_core.errors import BackendError
from dlgforge_core.printable import printable
from dlgforge_core.runtime.serving.named_models import named_model

CONFIG = "examples/demo.yaml"
MODEL_CONFIGS = {"qwen-1.5b": "examples/demo_qwen.yaml"}
WHAT_IT_IS = {
    CONFIG: "A model of 135 million parameters, in English alone: it shows that everything works. Its text "
    "is poor and\nits verdicts mean nothing; `make demo MODEL=qwen-1.5b` shows four languages with a better "
    "one.",
    MODEL_CONFIGS["qwen-1.5b"]: "A model of 1.5 billion parameters on this machine: four languages, answers "
    "from documents,\nverdicts. It takes about twelve minutes on two busy cores.",
}
MODULE = "dlgforge_dagster.definitions"
JOB = ["dagster", "job", "execute", "-m", MODULE, "-j", "generate_dialogues", "-c"]
SHOWN = 3


def main(config: str = CONFIG) -> int:
    """Return the exit code of the job."""
    started = time.monotonic()
    if config in WHAT_IT_IS:
        print(WHAT_IT_IS[config], flush=True)
    if not os.environ.get("DLGFORGE_POSTGRES_DSN"):
        embedded_dsn(dlgforge_home(os.environ))  # held until the end, so that the server starts once
    print(f"$ {' '.join([*JOB, config])}", flush=True)
    job = subprocess.run([str(Path(sys.executable).parent / JOB[0]), *JOB[1:], config], check=False)
    if job.returncode:
        print("\nThe job failed; the reason is above. Run it again to resume.", file=sys.stderr)
        return job.returncode
    settings = yaml.safe_load(Path(config).read_text())
    show(Path(settings["ops"]["dialogue_dataset"]["config"]["output_dir"]), time.monotonic() - started)
    return 0


def show(folder: Path, seconds: float) -> None:
    """Print the dataset's files and a few of its dialogues, of different languages."""
    files = sorted((folder / "data/sharegpt").glob("train*.jsonl"))
    dialogues = [json.loads(line) for path in files for line in path.open(encoding="utf-8")]
    by_language: dict[str, list[dict[str, Any]]] = {}
    for dialogue in dialogues:
        by_language.setdefault(dialogue["language"], []).append(dialogue)
    counts = ", ".join(f"{len(group)} {language}" for language, group in sorted(by_language.items()))
    print(f"\n{len(dialogues)} dialogues ({counts}), {seconds:.0f} s\n")
    for path in sorted(path for path in folder.rglob("[!.]*") if path.is_file()):
        print(f"  {path}  {path.stat().st_size:,} bytes")
    rounds = max(map(len, by_language.values()), default=0)
    mixed = [group[i] for i in range(rounds) for group in by_language.values() if i < len(group)]
    for dialogue in mixed[:SHOWN]:
        print(f"\n--- {dialogue['language']}: {printable(dialogue['topic'])}")
        for message in dialogue["conversations"]:
            who = {"human": "user", "gpt": "assistant"}[message["from"]]
            print(f"{who:>9}: {printable(message['value'])}")


def _config() -> str:
    """Return the run config file that is asked for; ends the program when its model cannot be had."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default=CONFIG)
    parser.add_argument("--model", choices=sorted(MODEL_CONFIGS), help="a larger model than the shipped one")
    given = parser.parse_args()
    if not given.model:
        return str(given.config)
    try:
        named_model(given.model, lambda line: print(line, flush=True))
    except BackendError as error:
        sys.exit(str(error))
    return MODEL_CONFIGS[given.model]


if __name__ == "__main__":
    sys.exit(main(_config()))
