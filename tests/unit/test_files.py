"""Folders of files: links as volumes and hubs make them, rings of them, and web servers' answers."""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dlgforge_core.common import files
from dlgforge_core.common.files import Folder
from dlgforge_core.errors import KnowledgeError, SeedError
from dlgforge_core.knowledge.folder import KnowledgeFolder
from dlgforge_core.planning.seed_folder import read_seed_batches


def names(folder: Path, **options: str) -> list[str]:
    return [file.name for file in Folder(str(folder), **options).listing().files]


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Return a volume as Kubernetes mounts a ConfigMap, with a file and a subfolder."""
    folder = tmp_path / "volume"
    for version in ("..2026_01", "..2026_02"):
        write(folder / version / "a.md", version)
        write(folder / version / "sub" / "b.txt", version)
    (folder / "..data").symlink_to("..2026_01")
    (folder / "a.md").symlink_to("..data/a.md")
    (folder / "sub").symlink_to("..data/sub")
    return folder


def test_a_kubernetes_volume_is_read_and_its_exchange_is_seen(volume: Path) -> None:
    before = Folder(str(volume)).listing()
    assert [file.name for file in before.files] == ["a.md", "sub/b.txt"]
    assert not before.unreadable
    (volume / "..tmp").symlink_to("..2026_02")
    (volume / "..tmp").replace(volume / "..data")
    after = Folder(str(volume)).listing()
    assert [file.name for file in after.files] == ["a.md", "sub/b.txt"]
    assert {file.state for file in before.files}.isdisjoint(file.state for file in after.files)
    with Folder(str(volume)).open(after.files[0]) as stream:
        assert stream.read() == b"..2026_02"


def test_a_snapshot_of_a_hub_is_read(tmp_path: Path) -> None:
    write(tmp_path / "blobs" / "9f86d081", "the text")
    snapshot = tmp_path / "snapshots" / "0a1b2c"
    (snapshot / "docs").mkdir(parents=True)
    (snapshot / "docs" / "a.md").symlink_to("../../../blobs/9f86d081")
    assert names(snapshot) == ["docs/a.md"]
    assert [file.name for file in KnowledgeFolder(str(snapshot)).files()] == ["docs/a.md"]
    with pytest.raises(KnowledgeError, match=r"docs/a\.md: a link that leads out of the folder"):
        KnowledgeFolder(str(snapshot), "inside").files()


def test_a_file_or_a_folder_that_is_a_link_itself(tmp_path: Path) -> None:
    write(tmp_path / "real" / "a.md")
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "b.md").symlink_to("real/a.md")
    assert names(tmp_path / "folder") == ["a.md"]
    assert names(tmp_path / "b.md") == ["b.md"]
    assert names(tmp_path / "folder", links="inside") == ["a.md"]


def test_a_file_that_is_replaced_after_it_was_listed_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("sk-secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    for links, target in [
        ("anywhere", "/proc/self/environ"),
        ("anywhere", "/dev/zero"),
        ("inside", str(secret)),
    ]:
        path = folder / "a.md"
        path.write_text("text")
        inside = Folder(str(folder), links=links)
        (file,) = inside.listing().files
        with inside.open(file) as stream:
            assert stream.read() == b"text"
        path.unlink()
        path.symlink_to(target)
        with pytest.raises(OSError, match=r"a link to what is no file|a link that leads out|no plain file"):
            inside.read(file, 1000)
        path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="no plain file"):
        Folder(str(folder)).read(file, 1000)


def test_rings_and_broken_links_are_reported(tmp_path: Path) -> None:
    write(tmp_path / "sub" / "a.md")
    (tmp_path / "sub" / "up").symlink_to("..")
    (tmp_path / "sub" / "self").symlink_to("self")
    (tmp_path / "gone.md").symlink_to("nowhere.md")
    (tmp_path / "other").symlink_to("sub")
    os.mkfifo(tmp_path / "pipe.md")
    listing = Folder(str(tmp_path)).listing()
    assert [file.name for file in listing.files] == ["sub/a.md"]
    assert listing.unreadable == {
        "gone.md": "a link that leads nowhere: No such file or directory",
        "other": "the folder is read already, as sub",
        "pipe.md": "neither a file nor a folder",
        "sub/self": "a link that leads nowhere: Too many levels of symbolic links",
        "sub/up": "the folder is read already, as the whole one",
    }
    assert KnowledgeFolder(str(tmp_path)).listing().problems[0].startswith("gone.md: a link")


def test_few_links_do_not_make_many_folders(tmp_path: Path) -> None:
    for level in range(12):
        folder = tmp_path / f"level{level}"
        write(folder / "a.md")
        for n in range(4):
            (folder / f"link{n}").symlink_to(f"../level{level + 1}")
    assert len(names(tmp_path)) == 12
    assert len(names(tmp_path / "level0")) == 12


@pytest.mark.parametrize("target", ["/proc/self/environ", "/proc/self", "/dev/zero", "/"])
def test_what_the_kernel_makes_is_no_document(tmp_path: Path, target: str) -> None:
    write(tmp_path / "a.md")
    (tmp_path / "b.txt").symlink_to(target)
    listing = Folder(str(tmp_path)).listing()
    assert [file.name for file in listing.files] == ["a.md"]
    assert listing.unreadable.keys() == {"b.txt"}


def test_broken_links_among_seed_files_are_reported(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "en:\n  cooking:\n")
    (tmp_path / "b.yaml").symlink_to("nowhere")
    (tmp_path / "c.txt").symlink_to("nowhere")
    found = read_seed_batches(str(tmp_path))
    assert found.problems == [f"{tmp_path}/b.yaml: a link that leads nowhere: No such file or directory"]
    assert not read_seed_batches(str(tmp_path), only="a").problems
    with pytest.raises(SeedError, match="leads nowhere"):
        read_seed_batches(str(tmp_path), strict=True)


# Web servers


@contextmanager
def web(pages: dict[str, tuple[dict[str, str], list[bytes]]]) -> Iterator[str]:
    """Serve these pages, headers and parts of the body, without sizes where no header tells one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers, parts = pages.get(self.path, ({}, []))
            self.send_response(200 if self.path in pages else 404)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                try:
                    for part in parts:
                        self.wfile.write(part)
                except OSError:
                    return  # the reader has seen enough

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


HTML = {"Content-Type": "text/html"}


def test_a_web_folder_is_listed_and_read() -> None:
    pages = {
        "/docs/": (HTML, [b'<a href="a.txt">a</a> <a href="sub/">sub</a>']),
        "/docs/sub/": (HTML, [b'<a href="b.md">b</a>']),
        "/docs/a.txt": ({}, [b"one"]),
        "/docs/sub/b.md": ({"Content-Length": "3"}, [b"two"]),
    }
    with web(pages) as address:
        folder = Folder(f"{address}/docs/")
        found = folder.listing().files
        assert [file.name for file in found] == ["a.txt", "sub/b.md"]
        assert [folder.read(file, 100) for file in found] == [b"one", b"two"]
        assert folder.read(found[0], 2) is None
        (file,) = Folder(f"{address}/docs/a.txt").listing().files
        assert file.name == "a.txt"


def test_answers_of_web_servers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_ANSWER_BYTES", 1_000_000)
    packed = gzip.compress(b"x" * 50_000_000)
    pages = {
        "/long/": (HTML, [b"x" * 100_000] * 5_000),
        "/packed/": ({"Content-Encoding": "gzip", **HTML}, [packed]),
        "/seeds/": (HTML, [b'<a href="a.yaml">a</a>']),
        "/seeds/a.yaml": ({}, [b"#" * 100_000] * 5_000),
    }
    monkeypatch.setattr("dlgforge_core.planning.seed_folder.MAX_FILE_BYTES", 1_000_000)
    with web(pages) as address:
        for name in ("long", "packed"):
            with pytest.raises(KnowledgeError, match=r"more than 1,000,000 bytes"):
                KnowledgeFolder(f"{address}/{name}/").files()
        with pytest.raises(SeedError, match=r"a\.yaml has more bytes than it is said to have"):
            read_seed_batches(f"{address}/seeds/")


def test_a_web_folder_without_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_MAX_WEB_ENTRIES", 30)
    links = b"".join(b'<a href="%d/">x</a>' % n for n in range(3))
    pages = {"/" + "0/" * depth: (HTML, [links]) for depth in range(40)}
    with web(pages) as address, pytest.raises(KnowledgeError, match="more than 30 files and folders"):
        KnowledgeFolder(f"{address}/").files()
