"""Running the shipped job as a user does: `dagster job execute` in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DAGSTER = str(Path(sys.executable).parent / "dagster")
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")


class Project:
    """A DAGSTER_HOME of its own with the shipped dagster.yaml, and the job run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copy(ROOT / "dagster.yaml", folder)
        self.env = {k: v for k, v in os.environ.items() if k in _KEPT} | {
            "DAGSTER_HOME": str(folder),
            "DAGSTER_DISABLE_TELEMETRY": "1",
        }

    @property
    def home(self) -> Path:
        """Where dlgforge keeps its own files."""
        return self.folder / ".dlgforge"

    def config(self, config: Mapping[str, Any]) -> Path:
        """Write a run config file."""
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(dict(config)))
        return path

    def command(self, config: Path) -> list[str]:
        """Return the command that runs the main job."""
        module = "dlgforge_dagster.definitions"
        return [DAGSTER, "job", "execute", "-m", module, "-j", "generate_dialogues", "-c", str(config)]

    def start(self, config: Path, **env: str) -> subprocess.Popen[str]:
        """Start the job; its output is one stream."""
        return subprocess.Popen(
            self.command(config),
            cwd=self.folder,
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def execute(self, config: Path, timeout_s: float = 240, **env: str) -> tuple[int, str]:
        """Run the job to its end; returns exit code and output."""
        process = self.start(config, **env)
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            raise AssertionError(f"the job did not end in {timeout_s} s:\n{output}") from None
        return process.returncode, output


def run_config(llm: Mapping[str, Any], **run: Any) -> dict[str, Any]:
    """Run config of the whole job; the dataset goes to the folder `dataset`."""
    return {
        "ops": {
            "dialogues": {"config": {"run": run}},
            "dialogue_dataset": {"config": {"output_dir": "dataset"}},
        },
        "resources": {"llm": {"config": dict(llm)}},
    }
