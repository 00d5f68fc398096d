"""Validation by epoch until the stop, a line for each initialization, with final accuracy and epochs as bars."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sartransfer.figures.style import (
    ScoreTicks,
    draw_legend,
    initialization_colours,
    initialization_markers,
    plot_style,
)
from sartransfer.figures.words import Results, floats, ordered_test_sets, primary_words, short, wrapped

SHOWN_TEST_SETS = 3


def draw_stopping(results: Results, fraction: float) -> Figure | None:
    """Draw the validation metric by epoch (mean over seeds, band from the lowest to the highest), stops marked.

    The line is bold while all seeds still train, and dotted, over those that are left, from the first stop on:
    their mean is no longer that of the same runs. Below: accuracy on the test sets with its 95 % interval over
    seeds, and the epochs until the stop (median, and range over seeds).
    """
    runs = [r for r in results["runs"] if r["fraction"] == fraction and (r["curves"] or {}).get("epoch")]
    names = [n for n in results["initializations"] if any(r["initialization"] == n for r in runs)]
    if not names:
        return None
    rows = [
        r
        for r in results["table"]
        if (r["fraction"], r["metric"], r["class"]) == (fraction, "accuracy", "") and r["mean"] is not None
    ]
    sets = ordered_test_sets(rows, results)[:SHOWN_TEST_SETS]
    colours, markers = initialization_colours(results), initialization_markers(results)
    with plot_style():
        figure = Figure(figsize=(11.5, 4.4 + 0.36 * len(names)), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=[3.3, 0.75 + 0.36 * len(names)])
        above, below = parts
        axes = above.subplots()
        for name in names:
            mine = [r["curves"] for r in runs if r["initialization"] == name]
            _curve(axes, mine, colours[name], markers[name])
        axes.set_title(
            f"validation {primary_words(results)}, mean and range over seeds; a mark where a seed stopped"
        )
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(ScoreTicks())
        axes.grid(color="#eeeeee")
        bars = below.subplots(1, len(sets) + 1, squeeze=False, sharey=True)[0]
        shades = [colours[n] for n in names]
        for panel, test_set in zip(bars, sets, strict=False):
            found = {r["initialization"]: r for r in rows if r["test_set"] == test_set}
            ends = [_ends(found.get(n)) for n in names]
            _bars(panel, ends, shades, [_percent(found.get(n)) for n in names])
            panel.set_title(f"accuracy, {short(test_set, 30)}")
            panel.set_xlim(0, 1.3)
            panel.set_xticks([0, 0.5, 1.0], ["0", ".5", "1"])
        epochs = [floats(r["epochs"] for r in runs if r["initialization"] == n) for n in names]
        ends = [(float(np.median(e)), float(e.min()), float(e.max())) for e in epochs]
        _bars(bars[-1], ends, shades, [f"{middle:g} ({low:g} to {high:g})" for middle, low, high in ends])
        bars[-1].set_title("epochs until the stop, median and range")
        bars[-1].set_xlim(0, 1.45 * max(high for *_, high in ends))
        bars[-1].xaxis.set_major_locator(MaxNLocator(5, integer=True))
        bars[0].set_yticks(range(len(names)), [wrapped(n) for n in names])
        bars[0].set_ylim(len(names) - 0.5, -0.5)
        draw_legend(figure, names, results)
    return figure


def _curve(axes: Axes, runs: Sequence[Mapping[str, Any]], colour: str, marker: str) -> None:
    last = max(int(curves["epoch"][-1]) for curves in runs)
    values = np.full((len(runs), last), np.nan)
    for row, curves in zip(values, runs, strict=True):
        row[np.array(curves["epoch"], dtype=int) - 1] = floats(curves["validation_metric"])
    stops = [int(curves["epoch"][-1]) for curves in runs]
    epochs, together = np.arange(1, last + 1), min(stops)
    mean = np.array([_mean(column) for column in values.T])
    axes.plot(epochs[:together], mean[:together], color=colour, linewidth=1.8)
    axes.plot(epochs[together - 1 :], mean[together - 1 :], ":", color=colour, linewidth=1.1)
    if len(runs) > 1:
        inside = values[:, :together]
        axes.fill_between(
            epochs[:together], inside.min(axis=0), inside.max(axis=0), color=colour, alpha=0.14, linewidth=0
        )
    for row, stop in zip(values, stops, strict=True):
        axes.plot([stop], [row[stop - 1]], marker, color=colour, markersize=5, alpha=0.8, markeredgewidth=0)


def _bars(
    axes: Axes, ends: Sequence[tuple[float, float, float]], colours: Sequence[str], words: Sequence[str]
) -> None:
    """Draw (middle, low, high) as bars from 0 with whiskers, and their numbers beside them."""
    for y, ((middle, low, high), colour, text) in enumerate(zip(ends, colours, words, strict=True)):
        axes.barh([y], [middle], height=0.62, color=colour, alpha=0.55)
        axes.plot([low, high], [y, y], color="#222222", linewidth=1.3)
        reach = np.nanmax([middle, high, 0.0])
        axes.annotate(text, (reach, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _ends(row: Mapping[str, Any] | None) -> tuple[float, float, float]:
    if row is None:
        return (float("nan"),) * 3
    low, high = (row["mean"] if row[k] is None else row[k] for k in ("low", "high"))
    return row["mean"], low, high


def _percent(row: Mapping[str, Any] | None) -> str:
    return "no run" if row is None else f"{100 * row['mean']:.2f} %"


def _mean(column: NDArray[np.float64]) -> float:
    known = column[~np.isnan(column)]
    return float(known.mean()) if known.size else float("nan")
