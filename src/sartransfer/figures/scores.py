"""The primary score of every seed, by initialization and test set."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sartransfer.figures.style import (
    ScoreTicks,
    draw_interval,
    initialization_colours,
    initialization_markers,
    panel_grid,
    plot_style,
)
from sartransfer.figures.words import (
    Results,
    floats,
    is_primary,
    ordered_test_sets,
    primary_words,
    spread,
    wrapped,
)


def draw_scores(results: Results, fraction: float) -> Figure | None:
    """Draw every seed's primary score as a dot, with mean and interval, one panel per test set.

    All panels have the same scale, each about its own scores, so that widths may be compared across panels.
    """
    rows = [_within(r) for r in results["table"] if is_primary(r, results) and r["fraction"] == fraction]
    if not rows:
        return None
    names = [n for n in results["initializations"] if any(r["initialization"] == n for r in rows)]
    colours, markers = initialization_colours(results), initialization_markers(results)
    with plot_style():
        labels = [wrapped(n) for n in names]
        figure, panels = panel_grid(ordered_test_sets(rows, results), labels, row_height=0.46, share_x=False)
        reach: dict[str, list[float]] = {name: [] for name in panels}
        for row in rows:
            axes, y, name = panels[row["test_set"]], names.index(row["initialization"]), row["initialization"]
            values = floats(row["values"])
            axes.plot(
                values,
                y + 0.22 + spread(len(values), 0.10),
                markers[name],
                color=colours[name],
                alpha=0.6,
                markersize=4,
                markeredgewidth=0,
            )
            draw_interval(axes, row, y - 0.16, colours[name], filled=True)
            if row["mean"] is None:
                axes.annotate(
                    "undefined",
                    (0.5, y),
                    xycoords=("axes fraction", "data"),
                    ha="center",
                    va="center",
                    color="#777777",
                )
            reach[row["test_set"]] += [v for v in (row["low"], row["high"]) if v is not None]
            reach[row["test_set"]] += values[~np.isnan(values)].tolist()
        spans = [max(r) - min(r) for r in reach.values() if r]
        span = max([*spans, 0.01]) * 1.12
        for name, axes in panels.items():
            if reach[name]:
                middle = (max(reach[name]) + min(reach[name])) / 2
                axes.set_xlim(middle - span / 2, middle + span / 2)
            axes.xaxis.set_major_formatter(ScoreTicks())
        figure.supxlabel(
            f"{primary_words(results)}: mean and 95 % interval over seeds, one mark per seed", fontsize=9
        )
    return figure


def _within(row: dict[str, Any]) -> dict[str, Any]:
    """Cut an interval at 0 and 1, beyond which no score lies: few seeds give t intervals that do not know it."""
    return {**row, **{end: min(1.0, max(0.0, row[end])) for end in ("low", "high") if row[end] is not None}}
