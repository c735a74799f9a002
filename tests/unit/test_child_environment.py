"""What children have of our environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from dlgforge_core.common.child_environment import MODEL_SERVER, PROGRAM, RAY, child_environment
from dlgforge_core.config import VllmConfig
from dlgforge_core.runtime.cluster.reaper import RayReaper
from dlgforge_core.runtime.serving.vllm_server import serve_environment

SECRETS = {
    "OPENAI_API_KEY": "sk-1",
    "DLGFORGE_POSTGRES_DSN": "postgresql://u:pw@db/x",
    "AWS_SECRET_ACCESS_KEY": "aws-1",
    "SERPER_API_KEY": "serper-1",
    "RAY_AUTH_TOKEN": "token-1",
    "PGPASSWORD": "pw",
    "GITHUB_TOKEN": "ghp-1",
    "MY_SERVICE": "whatever",
}
NEEDED = {"PATH": "/bin", "HOME": "/h", "LC_ALL": "C", "LD_LIBRARY_PATH": "/lib", "OMP_NUM_THREADS": "4"}
SERVING = {
    "CUDA_VISIBLE_DEVICES": "0",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "VLLM_LOGGING_LEVEL": "INFO",
    "HF_TOKEN": "hf_1",
    "HF_HOME": "/models",
    "https_proxy": "http://proxy:3128",
    "SSL_CERT_FILE": "/ca.pem",
}


def test_programs_have_what_they_need_and_no_key() -> None:
    env = {**SECRETS, **NEEDED, **SERVING}
    assert child_environment(PROGRAM, env) == NEEDED
    assert child_environment(MODEL_SERVER, env) == {**NEEDED, **SERVING}


def test_the_user_names_further_ones() -> None:
    env = {**SECRETS, **NEEDED, "DLGFORGE_CHILD_ENV": "AWS_*, MY_SERVICE"}
    further = {"AWS_SECRET_ACCESS_KEY": "aws-1", "MY_SERVICE": "whatever"}
    assert child_environment(PROGRAM, env) == {**NEEDED, **further}


def test_a_ray_cluster_gets_rays_variables_and_none_of_our_keys() -> None:
    keys = {name: value for name, value in SECRETS.items() if name not in ("RAY_AUTH_TOKEN", "PGPASSWORD")}
    network = {"https_proxy": "http://proxy:3128", "SSL_CERT_FILE": "/ca.pem", "PGSSLROOTCERT": "/pg.pem"}
    env = {**keys, **NEEDED, **network, "RAY_TMPDIR": "/t", "HF_TOKEN": "hf_1"}
    assert child_environment(RAY, env) == {**NEEDED, **network, "RAY_TMPDIR": "/t"}
    assert child_environment((*RAY, *MODEL_SERVER), env)["HF_TOKEN"] == "hf_1"


def test_vllm_gets_the_models_token_and_none_of_our_keys() -> None:
    env = serve_environment(VllmConfig(model="m"), "127.0.0.1", "own", {**SECRETS, **NEEDED, **SERVING})
    assert not SECRETS.keys() & env.keys()
    assert env.items() >= {**NEEDED, **SERVING, "VLLM_API_KEY": "own"}.items()
    given = VllmConfig(model="m", env={"MY_SERVICE": "for vLLM"})
    assert serve_environment(given, "127.0.0.1", "own", SECRETS)["MY_SERVICE"] == "for vLLM"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_reaper_has_no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    folder = os.open(tmp_path, os.O_RDONLY)
    reaper = RayReaper(str(tmp_path), folder)
    try:
        environ = Path(f"/proc/{reaper.pid}/environ").read_text()
    finally:
        reaper.finish()
        os.close(folder)
    assert not any(name in environ for name in SECRETS)
