"""Plots of a dataset's diversity, by language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dlgforge_core.export import plots
from dlgforge_core.quality.diversity import MAX_N, TOP

_LANGUAGES_SHOWN = 12
_COLOURS = (plots.BLUE, plots.ORANGE, plots.GREY)

Bars = tuple[str, Sequence[float]]
"""A label, and a value for each language."""


def diversity_png(diversity: Mapping[str, Any]) -> bytes:
    """Return a PNG of the figures in `Diversity.to_json`: distinct-n, similarity, topics and openings."""
    return plots.grid_png(
        [
            ("Distinct-n of the questions", lambda axes: _distinct_panel(axes, diversity)),
            ("Similarity of the questions", lambda axes: _similarity_panel(axes, diversity)),
            (f"Share of the {TOP} most frequent", lambda axes: _frequent_panel(axes, diversity)),
        ]
    )


def _distinct_panel(axes: Any, diversity: Mapping[str, Any]) -> None:
    questions = [part["questions"] for part in _shown(diversity).values()]
    numbers = range(1, MAX_N + 1)
    bars = [(f"n = {n}", [part[f"distinct_{n}"] or 0.0 for part in questions]) for n in numbers]
    _grouped(axes, list(_shown(diversity)), bars)


def _similarity_panel(axes: Any, diversity: Mapping[str, Any]) -> None:
    questions = [part["questions"] for part in _shown(diversity).values()]
    bars = [
        ("of all pairs", [part["self_similarity"] or 0.0 for part in questions]),
        ("to the nearest", [part["nearest_similarity"] or 0.0 for part in questions]),
    ]
    _grouped(axes, list(_shown(diversity)), bars)


def _frequent_panel(axes: Any, diversity: Mapping[str, Any]) -> None:
    parts = _shown(diversity).values()
    bars = [(name, [part[name]["top_share"] for part in parts]) for name in ("openings", "topics")]
    _grouped(axes, list(_shown(diversity)), bars)


def _shown(diversity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the languages with most questions."""
    ranked = sorted(
        (item for item in diversity["by_language"].items() if item[1]["questions"]["messages"]),
        key=lambda item: (-item[1]["questions"]["messages"], item[0]),
    )
    return dict(ranked[:_LANGUAGES_SHOWN])


def _grouped(axes: Any, languages: Sequence[str], bars: Sequence[Bars]) -> None:
    if not languages:
        return plots.nothing(axes, "no questions yet")
    height = 0.8 / len(bars)
    for number, ((label, values), colour) in enumerate(zip(bars, _COLOURS, strict=False)):
        offset = (number - (len(bars) - 1) / 2) * height
        rows = [row + offset for row in range(len(languages))]
        axes.barh(rows, values, height=height, color=colour, label=label)
    axes.set_yticks(range(len(languages)), [plots.label(language) for language in languages])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    # Below the axis: bars may fill all of it.
    axes.legend(fontsize=9, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=len(bars))
    return None
