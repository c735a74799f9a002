"""Pictures of a set of dialogues, small enough to travel with a materialization's metadata."""

from __future__ import annotations

import base64
import io
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dlgforge_core.export.stats import DatasetFigures
from dlgforge_core.quality.figures import DialogueFigures, length_of_class
from dlgforge_core.verdicts import MAX_SCORE

BLUE, ORANGE, GREY = "#4f43dd", "#e8834a", "#8a8fa3"
_DPI = 80
_COLOURS = 32
_DOCUMENTS_SHOWN = 30
_drawing = threading.Lock()  # matplotlib's settings are the process's, and two writers may draw at once

Panel = tuple[str, Callable[[Any], None]]


def overview_png(
    figures: DialogueFigures,
    *,
    drop_reasons: Mapping[str, int] | None = None,
    tokens_by_role: Mapping[str, tuple[int, int]] | None = None,
    throughput: Sequence[tuple[float, float]] | None = None,
) -> bytes:
    """Return a PNG of six plots or, where nothing is known of the run, of the first three.

    `tokens_by_role` gives tokens in and out; `throughput` seconds since the start and turns a second.
    """
    panels: list[Panel] = [
        ("Turns of a dialogue", lambda axes: _turn_counts(axes, figures)),
        ("Length of a message, characters", lambda axes: _lengths(axes, figures)),
        ("Judge's scores", lambda axes: _scores(axes, figures)),
    ]
    if figures.ratings:
        panels.append(("Mean ratings by the rubric", lambda axes: _ratings(axes, figures)))
    if figures.goals:
        panels.append(("Goals of users", lambda axes: _bars(axes, figures.goals, "dialogues")))
    if figures.tool_calls:
        panels.append(("Calls of tools", lambda axes: _bars(axes, figures.tool_calls, "calls")))
    if drop_reasons is not None:
        panels.append(("Dialogues by outcome", lambda axes: _outcomes(axes, figures, drop_reasons)))
    if tokens_by_role is not None:
        panels.append(("Tokens by role", lambda axes: _tokens(axes, tokens_by_role)))
    if throughput is not None:
        panels.append(("Turns a second", lambda axes: _throughput(axes, throughput)))
    return grid_png(panels)


def coverage_png(uses: Sequence[int]) -> bytes:
    """Return a PNG of how many dialogues each document was given to: by rank, and documents by number."""
    most = sorted(uses, reverse=True)
    return grid_png(
        [
            ("Dialogues of each document, by rank", lambda axes: _ranks(axes, most)),
            ("Documents by number of dialogues", lambda axes: _spread(axes, Counter(most))),
        ]
    )


def _ranks(axes: Any, uses: Sequence[int]) -> None:
    axes.fill_between(range(len(uses)), uses, step="post", alpha=0.35, color=BLUE)
    axes.step(range(len(uses)), uses, where="post", color=BLUE)
    axes.axhline(sum(uses) / len(uses), color=ORANGE, linewidth=1.5, label="even")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("documents", fontsize=9)
    axes.legend(fontsize=9, frameon=False)
    whole_numbers(axes.yaxis)


def _spread(axes: Any, counts: Mapping[int, int]) -> None:
    axes.bar(list(counts), list(counts.values()), color=BLUE, width=0.8)
    axes.set_xlabel("dialogues", fontsize=9)
    axes.set_ylabel("documents", fontsize=9)
    whole_numbers(axes.xaxis)
    whole_numbers(axes.yaxis)


def dataset_plots(dataset: DatasetFigures) -> dict[str, bytes]:
    """SVG files by name, those that have something to show; the same figures make the same bytes."""
    figures = dataset.dialogues
    plots: dict[str, bytes] = {}

    def draw(name: str, title: str, panel: Callable[[Any], None], height: float = 3.4) -> None:
        plots[f"{name}.svg"] = _svg(title, panel, height)

    draw("turns", "Turns of a dialogue", lambda axes: _turn_counts(axes, figures))
    draw("lengths", "Length of a message, characters", lambda axes: _lengths(axes, figures))
    if figures.scores:
        draw("scores", "Judge's scores", lambda axes: _scores(axes, figures))
    if figures.ratings:
        height = 1.4 + 0.3 * len(figures.ratings)
        draw("ratings", "Mean ratings by the rubric", lambda axes: _ratings(axes, figures), height)
    if dataset.reasons:
        draw("reasons", "Judge's reasons", lambda axes: _bars(axes, dataset.reasons, "verdicts"))
    if dataset.by_language:
        height = 1.4 + 0.3 * min(len(dataset.by_language), _DOCUMENTS_SHOWN)
        draw("languages", "Dialogues by language and split", lambda axes: _languages(axes, dataset), height)
    if figures.goals:
        draw("goals", "Goals of users", lambda axes: _bars(axes, figures.goals, "dialogues"), 2.0)
    if figures.tool_calls:
        height = 1.4 + 0.22 * min(len(figures.tool_calls), _DOCUMENTS_SHOWN)
        draw("tools", "Calls of tools", lambda axes: _bars(axes, figures.tool_calls, "calls"), height)
    if dataset.given:
        height = 1.4 + 0.22 * min(len(dataset.given), _DOCUMENTS_SHOWN)
        shown = f", the {_DOCUMENTS_SHOWN} most used" if len(dataset.given) > _DOCUMENTS_SHOWN else ""
        draw(
            "documents",
            f"Turns a document was given to{shown}",
            lambda axes: _bars(axes, dataset.given, "turns"),
            height,
        )
    return plots


def markdown_image(png: bytes, alt: str) -> str:
    """Return a PNG as markdown that carries it."""
    return f"![{alt}](data:image/png;base64,{base64.b64encode(png).decode()})"


def grid_png(panels: Sequence[Panel]) -> bytes:
    """Return a PNG of titled panels, three in a row."""
    # Here and not above: a second of import that workers never need. No pyplot: it keeps global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    rows = (len(panels) + 2) // 3
    figure = Figure(figsize=(12, 3.1 * rows), dpi=_DPI, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    for index, (title, draw) in enumerate(panels, start=1):
        _panel(figure.add_subplot(rows, 3, index), title, draw)
    canvas.draw()
    pixels = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba(), "raw", "RGBA", 0, 1)
    picture = pixels.convert("RGB").quantize(_COLOURS)
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return out.getvalue()


def _svg(title: str, draw: Callable[[Any], None], height: float) -> bytes:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Text stays text: viewers shape and order Arabic, and have the letters that the bundled font lacks.
    settings: Any = {"svg.hashsalt": "dlgforge", "svg.fonttype": "none", "text.parse_math": False}
    with _drawing, rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        figure = Figure(figsize=(6, height), layout="constrained")
        canvas: Any = FigureCanvasSVG(figure)
        _panel(figure.add_subplot(), title, draw)
        out = io.BytesIO()
        canvas.print_svg(out, metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _panel(axes: Any, title: str, draw: Callable[[Any], None]) -> None:
    axes.set_title(title, fontsize=11, loc="left")
    axes.tick_params(labelsize=9, color=GREY)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    draw(axes)


def _bars(axes: Any, counts: Mapping[str, int], unit: str) -> None:
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_DOCUMENTS_SHOWN]
    # By place and not by name: two names may be cut to the same label.
    bars = axes.barh(range(len(most)), [count for _, count in most], color=BLUE, height=0.7)
    axes.set_yticks(range(len(most)), [label(name) for name, _ in most])
    axes.bar_label(bars, padding=3, fontsize=8)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.set_xlabel(unit, fontsize=9)
    whole_numbers(axes.xaxis)


def _languages(axes: Any, dataset: DatasetFigures) -> None:
    most = sorted(dataset.by_language.items(), key=lambda item: (-item[1], item[0]))[:_DOCUMENTS_SHOWN]
    left = [0] * len(most)
    # In the order of the configuration, whatever dialogue came first.
    for colour, split in zip((BLUE, ORANGE, GREY) * len(dataset.by_split), dataset.by_split, strict=False):
        if split not in dataset.language_by_split:
            continue
        counts = [dataset.language_by_split[split][language] for language, _ in most]
        axes.barh(range(len(most)), counts, left=left, color=colour, height=0.7, label=split)
        left = [a + b for a, b in zip(left, counts, strict=True)]
    axes.set_yticks(range(len(most)), [label(language) for language, _ in most])
    axes.invert_yaxis()
    axes.set_xlabel("dialogues", fontsize=9)
    # Beside the bars: there is room for it nowhere among them.
    axes.legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.0)
    whole_numbers(axes.xaxis)


def label(name: str) -> str:
    """Return a name as a plot can show it."""
    # Control characters have no place in XML.
    shown = "".join(c if c.isprintable() else " " for c in name)
    return shown if len(shown) <= 40 else "…" + shown[-39:]


def nothing(axes: Any, text: str) -> None:
    """Say in a panel why it is empty."""
    axes.text(0.5, 0.5, text, ha="center", va="center", color=GREY, transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


def whole_numbers(axis: Any) -> None:
    """Have an axis of counts show no fractions."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))


def _turn_counts(axes: Any, figures: DialogueFigures) -> None:
    if not figures.turn_counts:
        return nothing(axes, "no dialogues yet")
    axes.bar(list(figures.turn_counts), list(figures.turn_counts.values()), color=BLUE, width=0.8)
    low, high = min(figures.turn_counts), max(figures.turn_counts)
    axes.set_xlim(low - 1, high + 1)
    axes.set_ylabel("dialogues", fontsize=9)
    whole_numbers(axes.xaxis)
    whole_numbers(axes.yaxis)


def _lengths(axes: Any, figures: DialogueFigures) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    if not figures.n_turns:
        return nothing(axes, "no messages yet")
    for counts, colour, label in (
        (figures.user_lengths, ORANGE, "user"),
        (figures.assistant_lengths, BLUE, "assistant"),
    ):
        classes = range(min(counts) - 1, max(counts) + 2)
        lengths = [length_of_class(number) for number in classes]
        heights = [counts.get(number, 0) for number in classes]
        axes.fill_between(lengths, heights, step="mid", alpha=0.35, color=colour)
        axes.step(lengths, heights, where="mid", color=colour, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=8))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("messages", fontsize=9)
    axes.legend(fontsize=9, frameon=False)
    whole_numbers(axes.yaxis)


def _scores(axes: Any, figures: DialogueFigures) -> None:
    mean = figures.mean_score
    if mean is None:
        return nothing(axes, "nothing was judged")
    return score_histogram(axes, [figures.scores.get(score, 0) for score in range(MAX_SCORE + 1)], mean)


def score_histogram(axes: Any, counts: Sequence[int], mean: float) -> None:
    """Verdicts by score, from 0 to MAX_SCORE, and their mean."""
    axes.bar(range(MAX_SCORE + 1), counts, color=BLUE, width=0.8)
    axes.axvline(mean, color=ORANGE, linewidth=1.5, label=f"mean {mean:.1f}")
    axes.set_xticks(range(0, MAX_SCORE + 1, 2))
    axes.set_ylabel("verdicts", fontsize=9)
    axes.legend(fontsize=9, frameon=False)
    whole_numbers(axes.yaxis)


def _ratings(axes: Any, figures: DialogueFigures) -> None:
    """Means of each dimension, and with a thin line from the lowest to the highest rating that was given."""
    rated = sorted(figures.ratings.items())
    rows = range(len(rated))
    bars = axes.barh(rows, [one.mean for _, one in rated], color=BLUE, height=0.6)
    axes.hlines(
        rows,
        [one.lowest for _, one in rated],
        [one.highest for _, one in rated],
        color=ORANGE,
        linewidth=1.5,
    )
    axes.bar_label(bars, fmt="%.2f", label_type="center", fontsize=9, color="white")
    axes.set_yticks(rows, [name.replace("_", " ") for name, _ in rated])
    axes.margins(x=0.1)
    axes.invert_yaxis()


def _outcomes(axes: Any, figures: DialogueFigures, drop_reasons: Mapping[str, int]) -> None:
    named = {"done": figures.n_dialogues, **dict(sorted(drop_reasons.items(), key=lambda item: -item[1]))}
    labels = [name.replace("_", " ") for name in named]
    bars = axes.barh(labels, list(named.values()), color=[BLUE] + [ORANGE] * len(drop_reasons), height=0.6)
    axes.bar_label(bars, padding=3, fontsize=9)
    axes.margins(x=0.15, y=0.4 / len(named))
    axes.set_xlim(left=0, right=None if any(named.values()) else 1)
    axes.invert_yaxis()
    whole_numbers(axes.xaxis)


def _tokens(axes: Any, tokens: Mapping[str, tuple[int, int]]) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    if not any(sum(pair) for pair in tokens.values()):
        return nothing(axes, "no tokens were counted")
    roles = list(tokens)
    prompt = [tokens[role][0] for role in roles]
    axes.barh(roles, prompt, color=GREY, height=0.6, label="in")
    axes.barh(roles, [tokens[role][1] for role in roles], left=prompt, color=BLUE, height=0.6, label="out")
    axes.invert_yaxis()
    axes.legend(fontsize=9, frameon=False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(EngFormatter())


def _throughput(axes: Any, series: Sequence[tuple[float, float]]) -> None:
    if not series:
        return nothing(axes, "no turns yet")
    span = series[-1][0] + series[0][0]
    unit, name = (1.0, "s") if span < 180 else (60.0, "min") if span < 3 * 3600 else (3600.0, "h")
    times, rates = [at / unit for at, _ in series], [rate for _, rate in series]
    axes.fill_between(times, rates, step="mid", alpha=0.35, color=BLUE)
    axes.step(times, rates, where="mid", color=BLUE)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"time, {name}", fontsize=9)
