"""Words and tokens of a dataset: with a tokenizer from a file or a hub, or estimated and said to be."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from dlgforge_core.dialogue import Turn
from dlgforge_core.errors import ConfigError
from dlgforge_core.export.token_counts import estimated_tokens, token_counter
from dlgforge_dagster.metadata.dataset import dataset_metadata
from tests.support.dialogues import make_dialogue, stats, write

TURNS = (Turn(0, "Why does it rain?", "Because it does."), Turn(1, "为什么下雨？", "\ud800!"))


def tokenizer_json() -> bytes:
    """Return a tokenizer that has a token for each word and each mark, and a special one before a text."""
    made = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(["<s>"])
    text: str = made.to_str()
    return text.encode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model" / "tokenizer.json"
    path.parent.mkdir()
    path.write_bytes(tokenizer_json())
    return path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Serve `lab/model` as a hub does, and nothing else."""
    body = tokenizer_json()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            there = self.path in (f"/lab/model/resolve/{name}/tokenizer.json" for name in ("main", "v2"))
            self.send_response(200 if there else 404)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", "a" * 40)
            self.send_header("Content-Length", str(len(body) if there else 0))
            if not there:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            if there and self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield
        server.shutdown()


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("a", 1), ("four", 1), ("fives", 2), ("为什么", 3), ("\ud800", 1)]
)
def test_the_estimate_is_by_bytes(text: str, tokens: int) -> None:
    assert estimated_tokens(text) == tokens


def test_without_a_tokenizer_tokens_are_estimated_and_marked_as_such(tmp_path: Path) -> None:
    summary = write(tmp_path, [make_dialogue(turns=TURNS)])
    figures = stats(tmp_path)["words_and_tokens"]
    assert figures["tokenizer"]["estimated"] is True
    assert figures["tokenizer"]["name"] is None
    assert figures["user"] == {"words": 4 + 5, "tokens": 5 + 5, "mean_words": 4.5, "mean_tokens": 5.0}
    assert figures["assistant"]["words"] == 3
    card = " ".join((tmp_path / "README.md").read_text("utf-8").split())
    assert "Tokens: 10 and 5, estimated: a token for every 4 bytes of a message in UTF-8" in card
    page = dataset_metadata(summary, [])
    assert (page["words"], page["tokens"]) == (12, 15)
    assert page["tokens_are"].startswith("estimated: ")


@pytest.mark.parametrize("folder", [False, True])
def test_a_file_or_its_folder_counts_and_is_named(tmp_path: Path, file: Path, folder: bool) -> None:
    out = tmp_path / "out"
    summary = write(out, [make_dialogue(turns=TURNS)], tokenizer=str(file.parent if folder else file))
    figures = stats(out)["words_and_tokens"]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    name = f"tokenizer.json (SHA-256 {digest})"
    assert figures["tokenizer"] == {"name": name, "estimated": False, "rule": ""}
    assert figures["user"]["tokens"] == 5 + 2  # words and marks, no special token
    assert summary.sizes.counted_by == f"counted with {name}"
    card = " ".join((out / "README.md").read_text("utf-8").split())
    assert f"counted with {name}" in card
    assert "estimated" not in card
    assert str(tmp_path) not in card


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("name", ["lab/model", "lab/model@v2"])
def test_a_model_of_the_hub_counts(name: str) -> None:
    counter = token_counter(name)
    assert counter.count("Why does it rain?") == 5
    assert counter.name.startswith(f"{name} (SHA-256 ")


@pytest.mark.usefixtures("hub")
def test_a_model_that_the_hub_has_not_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'lab/other': the hub gives no tokenizer\.json"):
        token_counter("lab/other")


@pytest.mark.parametrize("name", ["nothing.json", "folder/tokenizer.json", "model", "a/b/c"])
def test_a_file_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"saving\.tokenizer = '{name}': there is no such file"):
        token_counter(name)


def test_a_file_that_is_no_tokenizer_is_named(file: Path) -> None:
    file.write_text('{"version": "1.0"}', "utf-8")
    with pytest.raises(ConfigError, match="is no tokenizer that is understood"):
        token_counter(str(file))
    with file.open("r+b") as sparse:
        sparse.truncate(257 * 2**20)
    with pytest.raises(ConfigError, match="it has more than 268,435,456 bytes"):
        token_counter(str(file))


def test_the_package_that_is_missing_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"pip install 'dlgforge\[tokens\]'"):
        token_counter(str(file))
