"""`python -m dlgforge_core.review`: the page where people read and mark dialogues, and what goes with it.

Without a command it serves the page. `export TOOL FILE` writes dialogues for Label Studio or Argilla, and
`import FILE` keeps the marks in what these have exported.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qsl

from dlgforge_core.config import StoreConfig
from dlgforge_core.database.database import Database
from dlgforge_core.database.dsn import redact_dsn, resolve_dsn
from dlgforge_core.database.embedded import dlgforge_home
from dlgforge_core.errors import ConfigError, DlgforgeError
from dlgforge_core.review import HOST, PORT
from dlgforge_core.review.exchange import LABEL_STUDIO_CONFIG, TOOLS, exported, import_marks, tool_of
from dlgforge_core.review.filters import Filters
from dlgforge_core.review.index import update_index
from dlgforge_core.review.marks import reviewer_name
from dlgforge_core.review.server import serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; returns 1, with the reason, when it cannot be done."""
    given = _parser().parse_args(arguments)
    try:
        if given.command == "export":
            _export(given.tool, given.file, given.query)
        elif given.command == "import":
            _import(given.file, given.reviewer)
        else:
            serve(_run_state(), given.host, given.port, on_ready=_announce)
    except DlgforgeError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def _parser() -> argparse.ArgumentParser:
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m dlgforge_core.review", description=summary)
    parser.add_argument("--host", default=HOST, help=f"the address to listen on ({HOST}, this machine alone)")
    parser.add_argument("--port", type=int, default=PORT, help=f"the port, 0 for any that is free ({PORT})")
    commands = parser.add_subparsers(dest="command", metavar="command")
    export = commands.add_parser("export", help="write dialogues for an annotation tool")
    export.add_argument("tool", choices=list(TOOLS))
    export.add_argument("file", type=Path, help="the JSON file to write")
    export.add_argument(
        "--query", default="", help="which dialogues: what stands after ? in the address of a list"
    )
    taken = commands.add_parser("import", help="keep the marks in what an annotation tool has exported")
    taken.add_argument("file", type=Path, help="the JSON file to read")
    taken.add_argument(
        "--reviewer", default="", help="whose marks they are, in place of the names in the file"
    )
    return parser


def _export(tool: str, path: Path, query: str) -> None:
    filters = Filters.of_query(dict(parse_qsl(query.removeprefix("?"))))
    database = _run_state()
    database.migrate()
    with database.connection() as connection:
        update_index(connection)
        with path.open("wb") as file:
            for piece in exported(connection, tool_of(tool), filters):
                file.write(piece)
    print(f"The dialogues are in {path}")
    if tool == "label-studio":
        print(f"The labelling interface for them:\n\n{LABEL_STUDIO_CONFIG}")


def _import(path: Path, reviewer: str) -> None:
    name = reviewer_name(reviewer) if reviewer else ""
    content = path.read_bytes()
    if not content.strip():
        raise ConfigError(f"{path} is empty")
    database = _run_state()
    database.migrate()
    with database.connection() as connection:
        done = import_marks(connection, content, str(path), name)
    print("\n".join(done.lines))


def _run_state() -> Database:
    """Return the database of the run state: that in DLGFORGE_POSTGRES_DSN, else the embedded one."""
    settings = StoreConfig().postgres
    resolved = resolve_dsn(settings.dsn, os.environ, None, dlgforge_home(os.environ))
    print(f"Dialogues of {redact_dsn(resolved.dsn)}", flush=True)
    return Database(resolved.dsn, settings)


def _announce(address: str) -> None:
    print(f"\n    {address}\n\nThe token in it lets its bearer in, until this ends: Ctrl-C.", flush=True)


if __name__ == "__main__":
    sys.exit(main())
