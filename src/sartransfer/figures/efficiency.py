"""Scores over the share of the labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from sartransfer.figures.style import (
    ScoreTicks,
    draw_legend,
    initialization_colours,
    initialization_markers,
    plot_style,
)
from sartransfer.figures.words import (
    Results,
    floats,
    fraction_words,
    is_primary,
    ordered_test_sets,
    primary_words,
    short,
)
from sartransfer.wording import metric_words


def draw_label_efficiency(results: Results, metric: str | None = None) -> Figure | None:
    """Draw the primary score, or a `metric` of the whole, against the share of the labels; None for one share."""
    rows = [
        r
        for r in results["table"]
        if (is_primary(r, results) if metric is None else (r["metric"], r["class"]) == (metric, ""))
    ]
    fractions = sorted({r["fraction"] for r in rows})
    if len(fractions) < 2:
        return None
    colours, markers = initialization_colours(results), initialization_markers(results)
    sets = ordered_test_sets(rows, results)
    columns = 2 if len(sets) == 4 else min(3, len(sets))
    with plot_style():
        deep = -(-len(sets) // columns)
        size = ({1: 7.0, 2: 9.5}.get(columns, 11.5), 3.2 * deep + 0.9)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(deep, columns, squeeze=False)
        for axes in grid.flat[len(sets) :]:
            axes.set_visible(False)
        for axes, test_set in zip(grid.flat, sets, strict=False):
            for name in results["initializations"]:
                mine = [r for r in rows if r["initialization"] == name and r["test_set"] == test_set]
                _efficiency(axes, mine, colours[name], markers[name])
            axes.set_title(short(test_set, 44))
            axes.set_xscale("log")
            axes.set_xticks(fractions, [fraction_words(f) for f in fractions])
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.minorticks_off()
            axes.yaxis.set_major_formatter(ScoreTicks())
            axes.grid(color="#eeeeee")
        figure.supxlabel("share of the training labels", fontsize=9)
        words = primary_words(results) if metric is None else metric_words(metric)
        figure.supylabel(words, fontsize=9)
        draw_legend(figure, results["initializations"], results)
    return figure


def _efficiency(axes: Axes, rows: Sequence[Mapping[str, Any]], colour: str, marker: str) -> None:
    rows = sorted(rows, key=lambda r: float(r["fraction"]))
    x = floats([r["fraction"] for r in rows])
    mean, low, high = (floats([r[key] for r in rows]) for key in ("mean", "low", "high"))
    axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.plot(x, mean, color=colour, marker=marker, linewidth=1.8, markersize=5)
    for fraction, row in zip(x, rows, strict=True):
        seeds = floats(row["values"])
        axes.plot(np.full(seeds.size, fraction), seeds, ".", color=colour, alpha=0.35, markersize=4)
