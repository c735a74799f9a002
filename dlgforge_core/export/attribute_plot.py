"""A plot of dialogues by attribute: planned against kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlgforge_core.export.plots import BLUE, GREY, Panel, grid_png, label, whole_numbers

_VALUES_SHOWN = 20

Counts = Mapping[str, tuple[int, int]]
"""Dialogues planned and kept, by value."""


def attributes_png(counts: Mapping[str, Counts]) -> bytes:
    """Return a PNG with a panel for each attribute: dialogues planned and kept, by value."""
    return grid_png([_panel_of(name, values) for name, values in counts.items()])


def _panel_of(name: str, counts: Counts) -> Panel:
    return f"Dialogues by {name}", lambda axes: _draw(axes, counts)


def _draw(axes: Any, counts: Counts) -> None:
    most = sorted(counts.items(), key=lambda item: (-item[1][0], item[0]))[:_VALUES_SHOWN]
    rows = range(len(most))
    axes.barh(rows, [planned for _, (planned, _) in most], color=GREY, height=0.8, alpha=0.4, label="planned")
    axes.barh(rows, [kept for _, (_, kept) in most], color=BLUE, height=0.45, label="kept")
    axes.set_yticks(rows, [label(value) for value, _ in most])
    axes.invert_yaxis()
    axes.set_xlabel("dialogues", fontsize=9)
    axes.legend(fontsize=9, frameon=False)
    whole_numbers(axes.xaxis)
