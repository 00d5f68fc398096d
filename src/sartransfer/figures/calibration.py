"""Reliability diagrams: how often a network is right when it is so sure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sartransfer.figures.style import ScoreTicks, initialization_colours, plot_style
from sartransfer.figures.words import Results, ordered_test_sets, short

FAINT = "#8a949c"


def draw_reliability(results: Results, fraction: float, test_set: str | None = None) -> Figure | None:
    """Draw accuracy over confidence, before and after temperature, side by side by initialization.

    A mark is a bin of confidence, pooled over the runs; its area is its share of the patches. `test_set` None:
    all of them, below each other. None where no calibration is in the results.
    """
    found = [
        c
        for c in results.get("calibration", [])
        if c["fraction"] == fraction and test_set in (None, c["test_set"])
    ]
    if not found:
        return None
    names = [n for n in results["initializations"] if any(c["initialization"] == n for c in found)]
    sets = ordered_test_sets(found, results)
    columns = min(len(names), 4 if len(names) == 4 else 3)
    deep = -(-len(names) // columns)
    colours = initialization_colours(results)
    with plot_style():
        figure = Figure(figsize=(2.75 * columns + 0.7, 2.95 * deep * len(sets) + 0.75), layout="constrained")
        grid = figure.subplots(deep * len(sets), columns, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat:
            axes.set_visible(False)
        for c in found:
            down, across = divmod(names.index(c["initialization"]), columns)
            axes = grid[sets.index(c["test_set"]) * deep + down, across]
            title = short(c["initialization"], 34)
            if test_set is None and len(sets) > 1:
                title += f"\n{short(c['test_set'], 34)}"
            _diagram(axes, c, colours[c["initialization"]], title)
            lowest = names.index(c["initialization"]) + columns >= len(names) and c["test_set"] == sets[-1]
            axes.tick_params(labelleft=across == 0, labelbottom=lowest)
        figure.supxlabel("confidence: the probability of the class predicted", fontsize=9)
        figure.supylabel("share predicted rightly", fontsize=9)
        dark = "#222222"
        figure.legend(
            handles=[
                Line2D([], [], color=dark, marker="o", markersize=5, linewidth=1.4, label="as trained"),
                Line2D([], [], color=FAINT, marker="o", markersize=5, linewidth=1.4, linestyle=(0, (4, 2)),
                       markerfacecolor="white", label="after temperature"),
                Line2D([], [], color="#aab2b9", linewidth=0.9, label="as sure as it is right"),
            ],
            loc="outside upper left", ncols=3, frameon=False,
        )  # fmt: skip
    return figure


def _diagram(axes: Axes, c: Mapping[str, Any], colour: str, title: str) -> None:
    axes.set_visible(True)
    axes.plot([0, 1], [0, 1], color="#aab2b9", linewidth=0.9, zorder=1)
    if c["bins_after"]:
        _line(axes, c["bins_after"], FAINT, filled=False)
    _line(axes, c["bins_before"], colour, filled=True)
    axes.set(xlim=(0, 1.03), ylim=(-0.03, 1.03), aspect="equal", title=title)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ScoreTicks())
    axes.grid(color="#eeeeee")
    axes.text(0.04, 0.97, _words(c), transform=axes.transAxes, va="top", fontsize=8, color="#444444")


def _line(axes: Axes, bins: Sequence[Mapping[str, Any]], colour: str, *, filled: bool) -> None:
    confidence, accuracy, count = (
        np.array([b[key] for b in bins], dtype=np.float64) for key in ("confidence", "accuracy", "count")
    )
    style: Any = "-" if filled else (0, (4, 2))
    axes.plot(confidence, accuracy, color=colour, linewidth=1.4, linestyle=style, zorder=3 if filled else 2)
    area = 8 + 130 * count / count.sum()
    face = colour if filled else "white"
    axes.scatter(confidence, accuracy, s=area, color=face, edgecolors=colour, linewidths=1.0,
                 alpha=0.85 if filled else 1.0, zorder=4 if filled else 2, clip_on=False)  # fmt: skip


def _words(c: Mapping[str, Any]) -> str:
    before, after = (
        None if c[k] is None else f"{c[k]:.3f}".removeprefix("0") for k in ("ece_before", "ece_after")
    )
    return f"ECE {before}" if after is None else f"ECE {before} → {after}\nT {c['temperature']:.2f}"
