"""Scores by strata of pixels: by incidence angle, by distance from a seam, by distance from a polygon edge."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sartransfer.figures.style import (
    ScoreTicks,
    draw_legend,
    initialization_colours,
    initialization_markers,
    plot_style,
)
from sartransfer.figures.words import Results, is_primary, ordered_test_sets, short
from sartransfer.wording import metric_words

LETTERS_PER_INCH = 13  # of the bins' names, before they are turned
FEW = 0.05
"""A class with less than this share of a bin's labelled pixels has a hollow mark in its recall."""
KINDS = {
    "incidence_angle_deg": "incidence angle, degrees",
    "seam_m": "distance from the nearest seam between sub-swaths",
    "edge_m": "distance from where the label changes",
    "edge_px": "distance from where the label changes, pixels",
    "polygon_edge_m": "distance from the nearest polygon edge",
    "polygon_edge_px": "distance from the nearest polygon edge, pixels",
}
"""Kind of stratum -> its words."""


def draw_strata(results: Results, fraction: float, kind: str) -> Figure | None:
    """Draw the primary score and the recall of each class by the bins of a stratum, mean and 95 % interval over seeds.

    One column a test set, one row a score; above, the share of the labelled pixels in each bin. The recall of a class
    that has less than `FEW` of the bin's pixels has a hollow mark.
    """
    rows = [r for r in results.get("strata", []) if r["fraction"] == fraction and r["kind"] == kind]
    if not rows:
        return None
    sets = ordered_test_sets(rows, results)
    names = [n for n in results["initializations"] if any(r["initialization"] == n for r in rows)]
    shown = [(s["metric"], s["class"]) for s in rows[0]["scores"]]
    shown = [(m, c) for m, c in shown if m == "recall" or is_primary({"metric": m, "class": c}, results)]
    labels = bin_words(rows, kind)
    colours, markers = initialization_colours(results), initialization_markers(results)
    with plot_style():
        width = {1: 6.4, 2: 10.2}.get(len(sets), 11.5)
        figure = Figure(figsize=(width, 1.95 * len(shown) + 1.9), layout="constrained")
        grid = figure.subplots(
            len(shown) + 1, len(sets), squeeze=False, sharex=True, sharey="row",
            height_ratios=[0.42, *[1.0] * len(shown)],
        )  # fmt: skip
        tallest = 1.0
        for column, test_set in zip(grid.T, sets, strict=True):
            mine = [r for r in rows if r["test_set"] == test_set]
            tallest = max(tallest, _shares(column[0], [r for r in mine if r["initialization"] == names[0]]))
            column[0].set_title(short(test_set, 40))
            for axes, (metric, class_) in zip(column[1:], shown, strict=True):
                for i, name in enumerate(names):
                    shift = 0.34 * (i / (len(names) - 1) - 0.5) if len(names) > 1 else 0.0
                    own = [r for r in mine if r["initialization"] == name]
                    cells = [_score(r, metric, class_) for r in own]
                    few = [metric == "recall" and is_rare(r, class_, results) for r in own]
                    _line(axes, cells, few, shift, colours[name], markers[name])
                axes.yaxis.set_major_formatter(ScoreTicks())
                axes.yaxis.set_major_locator(MaxNLocator(5))
                axes.grid(axis="y", color="#eeeeee")
            column[-1].set_xticks(range(len(labels)), labels)
            if len(sets) * len(labels) * max(map(len, labels)) > LETTERS_PER_INCH * width:
                column[-1].tick_params(axis="x", labelrotation=90)
            column[-1].set_xlim(-0.5, len(labels) - 0.5)
        for axes, (metric, class_) in zip(grid[1:, 0], shown, strict=True):
            axes.set_ylabel(short(metric_words(metric, class_), 24), fontsize=9)
        grid[0, 0].set_ylim(0, 1.45 * tallest)  # one axis for all test sets, or the tallest bars are cut off
        grid[0, 0].set_ylabel("% of pixels", fontsize=8)
        figure.supxlabel(KINDS[kind], fontsize=9)
        draw_legend(figure, names, results)
    return figure


def bin_words(rows: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
    """Return the bins of a kind for people, in their order, such as ``1–5 km`` and ``from 5 km``."""
    bins = list(dict.fromkeys((r["low"], r["high"]) for r in rows))
    unit = "km" if kind.endswith("_m") and max(low for low, _ in bins) >= 1000 else "m"
    unit = unit if kind.endswith("_m") else ""
    scale = 1000.0 if unit == "km" else 1.0
    ending = f" {unit}" if unit else ""
    return [
        f"from {low / scale:g}{ending}" if high is None else f"{low / scale:g}–{high / scale:g}{ending}"
        for low, high in bins
    ]


def is_rare(row: Mapping[str, Any], class_: str, results: Results) -> bool:
    """Return whether a class has some, but less than `FEW`, of a stratum's labelled pixels (rows: true classes)."""
    matrix = np.asarray(row["matrix"], dtype=np.float64)
    return bool(0 < matrix[results["classes"].index(class_)].sum() < FEW * matrix.sum())


def _score(row: Mapping[str, Any], metric: str, class_: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(s for s in row["scores"] if (s["metric"], s["class"]) == (metric, class_))
    return found


def _line(
    axes: Axes,
    cells: Sequence[Mapping[str, Any]],
    few: Sequence[bool],
    shift: float,
    colour: str,
    marker: str,
) -> None:
    places = np.arange(len(cells)) + shift
    means = np.array([np.nan if c["mean"] is None else c["mean"] for c in cells])
    axes.plot(places, means, color=colour, linewidth=1.0, alpha=0.5)
    for x, mean, cell, rare in zip(places, means, cells, few, strict=True):
        axes.plot(x, mean, marker, color=colour, markersize=4.5, mfc="white" if rare else colour, zorder=3)
        if cell["low"] is not None and cell["high"] is not None:
            ends = np.clip([cell["low"], cell["high"]], 0.0, 1.0)
            axes.plot([x, x], ends, color=colour, linewidth=1.4, alpha=0.8)


def _shares(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> float:
    """Draw the share of the pixels in each bin, in percent; return the largest."""
    total = sum(r["pixels"] for r in rows) or 1
    shares = [100 * r["pixels"] / total for r in rows]
    axes.bar(range(len(rows)), shares, width=0.7, color="#d3d9de")
    for x, share in enumerate(shares):
        text = "< 1" if 0 < share < 1 else f"{share:.0f}"
        axes.annotate(text, (x, share), xytext=(0, 1), textcoords="offset points", ha="center", fontsize=7.5)
    axes.tick_params(axis="y", left=False, labelleft=False)
    axes.spines["left"].set_visible(False)
    return max(shares, default=0.0)
