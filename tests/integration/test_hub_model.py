"""Models on a hub: fetched once, gone on with after a break, held against their checksum, kept."""

from __future__ import annotations

import hashlib
import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from dlgforge_core.config import EmbeddedConfig
from dlgforge_core.config.hub_file import HubFile, hub_file
from dlgforge_core.errors import BackendError
from dlgforge_core.runtime.serving import hub_model
from dlgforge_core.runtime.serving.embedded_model import model_path
from dlgforge_core.runtime.serving.hub_model import fetch_model, folder_of, kept_model, remote_size
from tests.support.hub import Fault, Hub, hub_server

CONTENT = b"GGUF" + bytes(range(256)) * 2000
FILE = HubFile("lab/tiny-1.5B-GGUF", "q4/tiny.gguf")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as made:
        made.add_model(FILE.repo_id, {FILE.path: CONTENT})
        yield made


@pytest.fixture
def env(hub: Hub, tmp_path: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "DLGFORGE_HOME": str(tmp_path)}


def test_it_is_fetched_once_and_kept_with_revision_and_checksum(hub: Hub, env: dict[str, str]) -> None:
    lines: list[str] = []
    assert kept_model(FILE, env) is None
    assert remote_size(FILE, env) == len(CONTENT)
    path = fetch_model(FILE, lines.append, env)
    assert path.read_bytes() == CONTENT
    kept = json.loads(path.with_name(path.name + ".json").read_text())
    assert kept["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert kept["commit"] == hub.head(f"models/{FILE.repo_id}").id
    assert f"fetching {FILE.address}: 512,004 bytes" in lines[0]
    # The branch moves; what was fetched stays, and nobody is asked.
    hub.add_model(FILE.repo_id, {FILE.path: CONTENT + b"newer"})
    asked = len(hub.requests)
    assert fetch_model(FILE, lines.append, env) == path == kept_model(FILE, env)
    assert len(hub.requests) == asked
    assert path.read_bytes() == CONTENT
    other = HubFile(FILE.repo_id, FILE.path, "v2")
    hub.add_model(FILE.repo_id, {FILE.path: b"GGUF of v2"}, "v2")
    assert fetch_model(other, lines.append, env).read_bytes() == b"GGUF of v2"


def test_a_download_that_broke_off_goes_on_where_it_was(
    hub: Hub, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 16 * 1024)  # of 10 MB
    hub.cut_after = 100_000
    hub.faults = [Fault("/resolve/", 500)]  # the client's own tries to go on
    with pytest.raises(BackendError, match=r"refused it \(500\): try again later"):
        fetch_model(FILE, print, env)
    hub.faults.clear()
    (part,) = folder_of(FILE, env).rglob("*.part")
    assert 0 < part.stat().st_size <= 100_000
    there = part.stat().st_size
    lines: list[str] = []
    assert fetch_model(FILE, lines.append, env).read_bytes() == CONTENT
    assert f"{there:,} of them are there" in lines[0]
    assert hub.requests[-1].endswith(f"bytes={there}-")
    assert not list(folder_of(FILE, env).rglob("*.part"))


def test_what_is_not_what_the_hub_says_is_thrown_away(
    hub: Hub, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_model, "_digest", lambda path: "0" * 64)
    with pytest.raises(BackendError, match=r"what came has SHA-256 0000.* was thrown away"):
        fetch_model(FILE, print, env)
    assert not [path for path in folder_of(FILE, env).rglob("*") if path.suffix in (".part", ".gguf")]


def test_files_of_one_name_in_different_folders_are_kept_apart(hub: Hub, env: dict[str, str]) -> None:
    spaced = HubFile(FILE.repo_id, "q8 (best)/tiny.gguf")
    hub.add_model(FILE.repo_id, {FILE.path: CONTENT, spaced.path: b"GGUF of eight bits"})
    first, second = fetch_model(FILE, print, env), fetch_model(spaced, print, env)
    assert (first.read_bytes(), second.read_bytes()) == (CONTENT, b"GGUF of eight bits")
    hub.requests.clear()
    assert (fetch_model(FILE, print, env), fetch_model(spaced, print, env)) == (first, second)
    assert not hub.requests


@pytest.fixture
def small_disk() -> Iterator[Callable[[], None]]:
    """Let no file grow above 100,000 bytes, until there is room again."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def make_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield make_room
    make_room()


def test_a_disk_that_is_full_is_named_and_the_download_goes_on_later(
    hub: Hub, env: dict[str, str], small_disk: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 16 * 1024)
    with pytest.raises(BackendError, match=r"cannot be kept in .*is the disk full"):
        fetch_model(FILE, print, env)
    assert kept_model(FILE, env) is None
    (part,) = folder_of(FILE, env).rglob("*.part")
    small_disk()
    there = part.stat().st_size
    assert 0 < there <= 100_000
    assert fetch_model(FILE, print, env).read_bytes() == CONTENT
    assert hub.requests[-1].endswith(f"bytes={there}-")


def test_a_disk_without_room_is_found_out_before(
    hub: Hub, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(BackendError, match=r"needs 512,004 more bytes, and 1,000 are free"):
        fetch_model(FILE, print, env)
    assert not any(request.startswith("GET") for request in hub.requests)


def test_a_whole_download_without_its_record_is_not_fetched_again(
    hub: Hub, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(FILE, env) / "q4"
    (folder / "tiny.gguf.json").mkdir(parents=True)  # it cannot be written
    with pytest.raises(BackendError, match="cannot be kept"):
        fetch_model(FILE, print, env)
    assert kept_model(FILE, env) is None
    (folder / "tiny.gguf.json").rmdir()
    (folder / "tiny.gguf.another.part").write_bytes(b"of what the branch was before")
    hub.requests.clear()
    path = fetch_model(FILE, print, env)
    assert path.read_bytes() == CONTENT
    assert not any(request.startswith("GET") for request in hub.requests)
    assert not list(folder.glob("*.part"))


def test_without_the_hub_what_is_there_is_used(hub: Hub, env: dict[str, str]) -> None:
    pinned = HubFile(FILE.repo_id, FILE.path, hub.head(f"models/{FILE.repo_id}").id)
    hub.add_model(FILE.repo_id, {FILE.path: CONTENT}, pinned.revision)
    path = fetch_model(pinned, print, env)
    offline = env | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert fetch_model(pinned, print, offline) == path
    with pytest.raises(BackendError, match=f"{FILE.path}@main cannot be fetched"):
        fetch_model(FILE, print, offline)


@pytest.mark.parametrize(
    ("file", "token", "words"),
    [
        (HubFile("lab/none", "m.gguf"), None, "there is no such model, or it needs a token: set HF_TOKEN"),
        (HubFile(FILE.repo_id, "other.gguf"), None, "there is no such file, repository or revision"),
        (FILE, "hf_anotherTokenOfSomebodyElse", "set HF_TOKEN to one that may read it"),
    ],
)
def test_refusals_say_what_helps(env: dict[str, str], file: HubFile, token: str | None, words: str) -> None:
    env = env | ({"HF_TOKEN": token} if token else {})
    with pytest.raises(BackendError, match=words) as caught:
        fetch_model(file, print, env)
    assert env["HF_TOKEN"] not in str(caught.value)


def test_a_hub_that_is_not_there(env: dict[str, str]) -> None:
    with pytest.raises(BackendError, match="ConnectError"):
        fetch_model(FILE, print, env | {"HF_ENDPOINT": "http://127.0.0.1:9"})


def test_the_embedded_backend_takes_it(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    config = EmbeddedConfig(model_path=f"hf://{FILE.repo_id}/{FILE.path}@main")
    assert model_path(config).read_bytes() == CONTENT
    assert config.asked_for_kinds
    assert hub_file(config.model_path) == FILE
