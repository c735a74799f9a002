"""The shipped recipe but for fewer dialogues, end to end: its documents, the embedded model."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.job import DAGSTER, ROOT, Project
from tests.support.datasets import load_dataset


@pytest.mark.alone
def test_the_grounded_recipe(tmp_path: Path) -> None:
    project = Project(tmp_path)
    recipe = tmp_path / "recipes" / "grounded.yaml"
    recipe.parent.mkdir()
    shipped = (ROOT / "recipes" / "grounded.yaml").read_text()
    fewer = shipped.replace("total_samples: 4", "total_samples: 2")
    assert fewer != shipped
    recipe.write_text(fewer)
    module, job = "dlgforge_dagster.definitions", "generate_dialogues_grounded"
    done = subprocess.run(
        [DAGSTER, "job", "execute", "-m", module, "-j", job],
        cwd=tmp_path,
        env=project.env,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / ".dlgforge" / "datasets" / "grounded"
    rows = load_dataset(folder, "parquet", tmp_path / "cache")["train"]
    assert rows.num_rows >= 1
    evidence = [e for row in rows for turn in row["turn_evidence"] for e in turn]
    assert {e["given_to"] for e in evidence} == {"qa_generator", "kb_responder"}
    assert all(e["document"].startswith("en/") for e in evidence)
    for name in ("sharegpt", "openai_messages"):
        assert load_dataset(folder, name, tmp_path / "cache")["train"].num_rows == rows.num_rows
    stats = json.loads((folder / "dataset_stats.json").read_text())
    assert stats["dialogues"] == rows.num_rows
