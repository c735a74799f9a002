"""The manifest for KubeRay names the versions that are in use here."""

from __future__ import annotations

import re
from pathlib import Path

import ray
import yaml

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "examples" / "kubernetes" / "raycluster.yaml"


def test_the_manifest_has_the_versions_of_ray_and_python_in_use() -> None:
    """Ray takes no client and no node of another version of either."""
    text = MANIFEST.read_text()
    spec = yaml.safe_load(text)["spec"]
    assert spec["rayVersion"] == ray.__version__
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["ci"]["steps"]
    (version,) = [
        step["with"]["python-version"] for step in steps if "python-version" in step.get("with", {})
    ]
    python = f"py{version.replace('.', '')}"
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    images = [one["image"] for group in groups for one in group["template"]["spec"]["containers"]]
    assert {image.rpartition(":")[2] for image in images} == {f"ray-{ray.__version__}-{python}"}
    assert set(re.findall(r"\d+\.\d+\.\d+-py\d+", text)) == {f"{ray.__version__}-{python}"}


def test_the_manifest_guards_the_cluster_with_a_token() -> None:
    manifest = yaml.safe_load(MANIFEST.read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayCluster")
    assert manifest["spec"]["authOptions"] == {"mode": "token"}
