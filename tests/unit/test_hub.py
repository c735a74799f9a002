"""Pushing a dataset to a hub: what arrives, what a second push does, and how refusals are told."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dlgforge_core.config import DatasetFilesConfig, HfPushConfig, SavingConfig, validate
from dlgforge_core.errors import ConfigError
from dlgforge_core.export import hub as hub_module
from dlgforge_core.export.hub import HubError, PushedDataset, dataset_files, hub_token, push_dataset
from dlgforge_core.export.verify import DatasetError, verify_dataset
from dlgforge_core.export.writer import write_dataset
from tests.support.datasets import load
from tests.support.dialogues import make_dialogue
from tests.support.hub import Fault, Hub, hub_server

REPO = "lab/talks"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    # Xet needs a storage service of its own; without it the client speaks LFS.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_module, "MAX_WAIT_S", 0.05)
    with hub_server() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "dataset"
    write(place)
    return place


def write(folder: Path, n: int = 20, formats: tuple[str, ...] = ("sharegpt", "parquet")) -> None:
    dialogues = [make_dialogue(i, seed_id=f"s{i}", topic=f"topic {i}") for i in range(n)]
    splits = {"train": 0.8, "validation": 0.2}
    write_dataset(dialogues, folder, saving=DatasetFilesConfig(formats=list(formats), splits=splits))


def push(hub: Hub, folder: Path, token: str | None = None, **options: object) -> PushedDataset:
    settings = validate(HfPushConfig, {"repo_id": REPO, "endpoint": hub.url, **options}, "hf_push")
    return push_dataset(folder, settings, hub.token if token is None else token)


def test_what_is_pushed_is_the_dataset_and_loads(hub: Hub, folder: Path, tmp_path: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    (folder / ".writing-x").mkdir()
    (folder / ".writing-x" / "spool").write_text("half")
    pushed = push(hub, folder)
    files = hub.files(REPO)
    assert set(files) - {".gitattributes"} == set(dataset_files(folder))
    for name, path in dataset_files(folder).items():
        assert files[name] == path.read_bytes()
    assert not {".lock", "notes.txt"} & set(files)
    assert (pushed.repo_id, pushed.revision, pushed.changed) == (REPO, "main", True)
    assert pushed.commit == hub.head(REPO).id
    assert pushed.commit_url == f"{hub.url}/datasets/{REPO}/commit/{pushed.commit}"
    assert hub.head(REPO).message == "20 dialogues"
    assert hub.repos[REPO].private
    checked_out = tmp_path / "checked-out"
    hub.write_to(checked_out, REPO)
    assert verify_dataset(checked_out) == {"sharegpt": 20, "parquet": 20}
    assert load(checked_out, "sharegpt", tmp_path / "cache") == {"train": 16, "validation": 4}


def test_a_second_push_changes_nothing(hub: Hub, folder: Path) -> None:
    first = push(hub, folder)
    again = push(hub, folder)
    assert (again.changed, again.commit, again.commit_url) == (False, first.commit, first.commit_url)
    assert len(hub.repos[REPO].branches["main"]) == 2
    assert sum("PUT" in request for request in hub.requests) == 2, "large files are sent once"


def test_files_that_are_no_longer_written_go_and_others_stay(hub: Hub, folder: Path) -> None:
    push(hub, folder)
    hub.files(REPO)["LICENSE"] = b"theirs"
    write(folder, formats=("sharegpt",))
    assert push(hub, folder).changed
    assert not any(name.startswith("data/parquet/") for name in hub.files(REPO))
    assert hub.files(REPO)["LICENSE"] == b"theirs"


def test_a_branch_is_made_where_it_is_missing(hub: Hub, folder: Path) -> None:
    pushed = push(hub, folder, revision="draft", commit_message="A first draft")
    assert pushed.revision == "draft"
    assert hub.head(REPO, "draft").message == "A first draft"
    assert "README.md" not in hub.files(REPO, "main")
    assert not push(hub, folder, revision="draft").changed


@pytest.mark.parametrize(
    "path",
    ["repos/create", "revision/main", "tree/main", "validate-yaml", "preupload", "/lfs/", "commit/main"],
)
def test_what_the_hub_cannot_do_for_the_moment_is_tried_again(hub: Hub, folder: Path, path: str) -> None:
    hub.faults.append(Fault(path, 503, times=2))
    assert push(hub, folder).changed
    assert len(hub.repos[REPO].branches["main"]) == 2


def test_a_line_that_breaks_is_tried_again(hub: Hub, folder: Path) -> None:
    hub.faults += [Fault("repos/create", 0, times=2), Fault("commit/main", 0)]
    assert push(hub, folder).changed
    assert len(hub.repos[REPO].branches["main"]) == 2


def test_a_hub_that_stays_away_is_reported(hub: Hub, folder: Path) -> None:
    hub.faults.append(Fault("repos/create", 503, times=1000))
    with pytest.raises(HubError, match=r"refused the push \(503\): try again later"):
        push(hub, folder)
    assert len(hub.requests) == hub_module.ATTEMPTS


def test_a_token_that_is_refused_is_reported_and_not_shown(
    hub: Hub, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "hf_aTokenThatNobodyMaySee0123456789"
    with pytest.raises(HubError, match=r"\(401\): the token in HF_TOKEN is not valid there") as caught:
        push(hub, folder, token=secret)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert secret not in str(caught.value)
    push(hub, folder)
    assert secret not in caplog.text
    assert hub.token not in caplog.text


def test_a_repository_that_cannot_be_is_reported(hub: Hub, folder: Path) -> None:
    with pytest.raises(HubError, match=r"\(404\): there is no dataset nobody/talks"):
        push(hub, folder, repo_id="nobody/talks")


def test_a_refused_commit_is_reported(hub: Hub, folder: Path) -> None:
    hub.faults.append(Fault("commit/main", 403))
    with pytest.raises(HubError, match=r"\(403\): the token in HF_TOKEN may not write to lab/talks"):
        push(hub, folder)
    assert len(hub.repos[REPO].branches["main"]) == 1


def test_nothing_private_goes_to_a_public_repository(hub: Hub, folder: Path) -> None:
    push(hub, folder, private=False)
    write(folder, 30)
    with pytest.raises(HubError, match="is a public dataset"):
        push(hub, folder)
    assert len(hub.repos[REPO].branches["main"]) == 2


def test_nobody_at_the_endpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "MAX_WAIT_S", 0.01)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(HubError, match=r"the hub at http://127\.0\.0\.1:9 cannot be used: ConnectError"):
        push_dataset(folder, HfPushConfig(repo_id=REPO, endpoint="http://127.0.0.1:9"), "hf_x")


def test_no_dataset_no_push(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no dataset"):
        push(hub, tmp_path)
    assert hub.requests == []


def test_an_empty_dataset_is_not_pushed_over_a_good_one(hub: Hub, folder: Path, tmp_path: Path) -> None:
    push(hub, folder)
    good = dict(hub.files(REPO))
    empty = tmp_path / "empty" / "data" / "sharegpt"
    empty.mkdir(parents=True)
    (empty / "train.jsonl").touch()
    with pytest.raises(HubError, match="holds no dialogue"):
        push(hub, tmp_path / "empty")
    assert hub.files(REPO) == good


def test_the_token_comes_from_the_environment() -> None:
    settings = HfPushConfig(token_env="LAB_TOKEN")
    assert hub_token(settings, {"LAB_TOKEN": " hf_x\n"}) == "hf_x"
    with pytest.raises(
        HubError, match=r"set the environment variable LAB_TOKEN \(saving\.hf_push\.token_env\)"
    ):
        hub_token(settings, {"HF_TOKEN": "hf_x"})


@pytest.mark.parametrize(
    ("push", "message"),
    [
        ({"enabled": True}, "repo_id is empty"),
        ({"repo_id": "a/b/c"}, "owner/name"),
        ({"token_env": "hf_abcDEF"}, "does not name an environment variable"),
        ({"endpoint": "https://me:pw@hub.test"}, "without a user or password"),
        ({"endpoint": "hub.test"}, "must be a URL"),
        ({"revision": "a b"}, "is no branch name"),
        ({"repoid": "a/b"}, "did you mean 'repo_id'"),
    ],
)
def test_what_cannot_be_pushed_is_reported_before(push: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        validate(SavingConfig, {"hf_push": push}, "saving")
    assert "hf_abcDEF" not in str(caught.value)
    assert "pw@" not in str(caught.value)


def test_config_dumps_hold_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    saving = SavingConfig(hf_push=replace_push(enabled=True, repo_id=REPO))
    assert "hf_secret" not in saving.model_dump_json() + repr(saving)


def replace_push(**changes: object) -> HfPushConfig:
    return HfPushConfig().model_copy(update=changes)


@pytest.mark.parametrize("path", ["repos/create", "revision/main", "commit/main"])
def test_a_push_has_a_time_out_for_all_of_it(hub: Hub, folder: Path, path: str) -> None:
    """A hub that sends a byte now and then is never silent: no time-out of a single read ends the call."""
    hub.faults.append(Fault(path, 200, times=1000, drip_s=0.05))
    started = time.monotonic()
    with pytest.raises(HubError, match=r"not done within 1 s \(saving\.hf_push\.timeout_s\)"):
        push(hub, folder, timeout_s=1.0)
    assert time.monotonic() - started < 25
