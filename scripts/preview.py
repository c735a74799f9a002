"""`make preview`: the job preview_dialogues of a recipe, or of the demo.

python -m scripts.preview recipes/mine.yaml --dialogues 3
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from dlgforge_core.config.asset_names import DIALOGUES
from dlgforge_dagster.dataset import DatasetSpec
from scripts.demo import CONFIG, MODULE


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code of the job."""
    parser = argparse.ArgumentParser(prog="python -m scripts.preview", description=__doc__)
    parser.add_argument("recipe", type=Path, nargs="?", help=f"a recipe; none: {CONFIG}")
    parser.add_argument("--dialogues", type=int, help="how many dialogues (run.preview_dialogues)")
    given = parser.parse_args(arguments)
    if given.recipe is not None and not given.recipe.is_file():
        print(f"there is no recipe {given.recipe}", file=sys.stderr)
        return 1
    dataset = DatasetSpec(given.recipe.stem if given.recipe else "")
    folder = {"DLGFORGE_RECIPES": str(given.recipe.parent)} if given.recipe else {}
    command = [str(Path(sys.executable).parent / "dagster"), "job", "execute", "-m", MODULE]
    command += ["-j", dataset.label("preview_dialogues"), *([] if given.recipe else ["-c", CONFIG])]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        if given.dialogues is not None:
            config = {"run": {"preview_dialogues": given.dialogues}}
            yaml.safe_dump({"ops": {dataset.op(DIALOGUES): {"config": config}}}, file)
            file.flush()
            command += ["-c", file.name]
        return subprocess.run(command, env={**os.environ, **folder}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
