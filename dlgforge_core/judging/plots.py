"""A picture of what judges said: scores of each, and of pairs how the scores of one go with the other's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from dlgforge_core.export import plots
from dlgforge_core.judging.agreement import N_SCORES, Agreement, PairAgreement
from dlgforge_core.judging.rating_agreement import DimensionFigures

_MOST_JUDGES = 6
_MOST_PAIRS = 3


def judges_png(agreement: Agreement, ratings: Mapping[str, DimensionFigures] | None = None) -> bytes:
    """Return a PNG: a histogram of scores for each of the first judges and for all, and some pairs.

    With `ratings` of a rubric also the mean of each judge by dimension.
    """
    shown = [
        (f"Scores of {_short(name)}", agreement.histograms[name], agreement.mean_of(name))
        for name in agreement.judges[:_MOST_JUDGES]
    ]
    if len(agreement.judges) > 1:
        shown.append(("Scores of all together", agreement.merged, agreement.mean))
    panels: list[plots.Panel] = [
        (title, partial(_histogram, counts=counts, mean=mean)) for title, counts, mean in shown
    ]
    panels += [
        (f"{_short(pair.first)} and {_short(pair.second)}", partial(_confusion, pair=pair))
        for pair in agreement.pairs[:_MOST_PAIRS]
    ]
    if ratings:
        shown_judges = agreement.judges[:_MOST_JUDGES]
        panels.append(("Mean ratings", partial(_ratings, ratings=ratings, judges=shown_judges)))
    return plots.grid_png(panels)


def _ratings(axes: Any, ratings: Mapping[str, DimensionFigures], judges: Sequence[str]) -> None:
    width = 0.8 / len(judges)
    for index, judge in enumerate(judges):
        means = [(row, figures.mean_of(judge)) for row, figures in enumerate(ratings.values())]
        rows = [row + (index - (len(judges) - 1) / 2) * width for row, mean in means if mean is not None]
        axes.barh(rows, [mean for _, mean in means if mean is not None], height=width, label=_short(judge))
    axes.set_yticks(range(len(ratings)), [_short(name.replace("_", " ")) for name in ratings])
    axes.invert_yaxis()
    axes.legend(fontsize=8, frameon=False)


def _short(name: str) -> str:
    # A "$" would start mathematics.
    return (name if len(name) <= 24 else "…" + name[-23:]).replace("$", r"\$")


def _histogram(axes: Any, counts: Sequence[int], mean: float | None) -> None:
    if mean is None:
        return plots.nothing(axes, "no verdicts")
    return plots.score_histogram(axes, counts, mean)


def _confusion(axes: Any, pair: PairAgreement) -> None:
    if not pair.units:
        return plots.nothing(axes, "nothing judged by both")
    axes.imshow(pair.confusion, cmap="Purples", origin="lower", aspect="auto")
    axes.set_xticks(range(0, N_SCORES, 2))
    axes.set_yticks(range(0, N_SCORES, 2))
    axes.set_xlabel(_short(pair.second), fontsize=9)
    axes.set_ylabel(_short(pair.first), fontsize=9)
