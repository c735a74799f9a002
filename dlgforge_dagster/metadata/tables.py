"""Tables and lists on asset pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg

from dlgforge_core.export.markdown import escape_inline


def table(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str] | None = None
) -> dg.TableMetadataValue:
    """Return a table for the asset page.

    `columns` gives the type of each ("" is text), and is needed where there may be no row; else the first
    row tells.
    """
    kinds = {int: "int", float: "float"}
    columns = columns or {name: kinds.get(type(value), "") for name, value in rows[0].items()}
    return dg.MetadataValue.table(
        records=[dg.TableRecord(dict(row)) for row in rows],
        schema=dg.TableSchema([dg.TableColumn(name, kind or "string") for name, kind in columns.items()]),
    )


def count_table(name: str, figure: str, counts: Mapping[str, int]) -> dg.TableMetadataValue:
    """Return counts by name, as a table."""
    return table([{name: key, figure: n} for key, n in sorted(counts.items())], {name: "", figure: "int"})


def bullets(lines: Iterable[str]) -> dg.MarkdownMetadataValue:
    """Return lines as a list, their markup escaped."""
    return dg.MetadataValue.md("\n".join(f"- {escape_inline(line, 500)}" for line in lines))
