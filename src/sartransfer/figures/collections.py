"""Accuracy by collection, entry against entry."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sartransfer.figures.style import (
    ScoreTicks,
    draw_legend,
    initialization_colours,
    initialization_markers,
    plot_style,
)
from sartransfer.figures.words import Results, short

MOST_COLLECTIONS = 40
"""Of more, the largest are drawn; the table has them all."""


def draw_collections(results: Results, fraction: float, test_set: str) -> Figure | None:
    """Draw the accuracy on each collection of a test set: mean and 95 % interval over seeds, one mark an entry.

    Where entries differ in their training alone (loss against loss), each start has a panel with its trainings;
    else one panel holds all entries. Collections are in the order of the first entry's accuracy.
    """
    rows = [
        r
        for r in results.get("patches", {}).get("collections", [])
        if r["fraction"] == fraction and r["test_set"] == test_set
    ]
    if not rows:
        return None
    cells = {(r["initialization"], r["group"]): r for r in rows}
    families = [f for f in _families(results, fraction) if any(n == name for n in f for name, _ in cells)]
    sizes = {r["group"]: r["patches"] for r in rows}
    groups = sorted(sizes, key=lambda g: (-sizes[g], g))[:MOST_COLLECTIONS]
    first = families[0][0]
    groups.sort(key=lambda g: (cells[first, g]["mean"] if (first, g) in cells else 2.0, g))
    colours, markers = initialization_colours(results), initialization_markers(results)
    most = max(len(f) for f in families)
    with plot_style():
        width = {1: 8.0, 2: 10.2}.get(len(families), 11.5)
        figure = Figure(figsize=(width, 1.5 + (0.16 + 0.13 * most) * len(groups)), layout="constrained")
        panels = figure.subplots(1, len(families), squeeze=False, sharex=True, sharey=True)[0]
        for axes, names in zip(panels, families, strict=True):
            for i, name in enumerate(names):
                shift = 0.6 * (i / max(1, len(names) - 1) - 0.5) if len(names) > 1 else 0.0
                for y, group in enumerate(groups):
                    row = cells.get((name, group))
                    if row is not None:
                        _mark(axes, row, y + shift, colours[name], markers[name])
            if len(families) > 1:
                axes.set_title(short(" / ".join(names), 48))
            for edge in range(1, len(groups)):
                axes.axhline(edge - 0.5, color="#dddddd", linewidth=0.6, zorder=0)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter(ScoreTicks())
            axes.grid(axis="x", color="#eeeeee")
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
        panels[0].set_yticks(range(len(groups)), [f"{short(g, 26)} ({sizes[g]})" for g in groups])
        panels[0].set_ylim(len(groups) - 0.5, -0.5)
        figure.supxlabel("accuracy, mean and 95 % interval over seeds; in brackets the patches", fontsize=9)
        draw_legend(figure, list(dict.fromkeys(n for f in families for n in f)), results)
    return figure


def _families(results: Results, fraction: float) -> list[list[str]]:
    """Return the entries of each panel: one start's trainings, the one they are compared with first; else all."""
    found: dict[str, list[str]] = {}
    for c in results["contrasts"]:
        if c.get("differs") == "training" and c["fraction"] == fraction:
            family = found.setdefault(c["b"], [c["b"]])
            if c["a"] not in family:
                family.append(c["a"])
    return list(found.values()) or [list(results["initializations"])]


def _mark(axes: Any, row: Any, y: float, colour: str, marker: str) -> None:
    if row["low"] is not None and row["high"] is not None:
        ends = np.clip([row["low"], row["high"]], 0.0, 1.0)
        axes.plot(ends, [y, y], color=colour, linewidth=1.5, alpha=0.8)
    axes.plot([row["mean"]], [y], marker, color=colour, markersize=4.5)
