"""`make demo`: run the main job for real, then show where the dialogues are and a few of them.

Takes a run config file that names `ops.dialogue_dataset.config.output_dir`; by default examples/demo.yaml.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from dlgforge_core.database.embedded import dlgforge_home, embedded_dsn
from dlgforge_core.printable import printable

CONFIG = "examples/demo.yaml"
MODULE = "dlgforge_dagster.definitions"
JOB = ["dagster", "job", "execute", "-m", MODULE, "-j", "generate_dialogues", "-c"]
SHOWN = 3


def main(config: str = CONFIG) -> int:
    """Return the exit code of the job."""
    started = time.monotonic()
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
    dialogues = [json.loads(line) for line in (folder / "data/sharegpt/train.jsonl").open(encoding="utf-8")]
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


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
