"""The differences between initializations, with their intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sartransfer.figures.style import (
    ScoreTicks,
    draw_interval,
    initialization_colours,
    panel_grid,
    place_legend,
    plot_style,
)
from sartransfer.figures.words import (
    Results,
    floats,
    is_primary,
    ordered_test_sets,
    pair_words,
    primary_words,
    spread,
)


def draw_differences(results: Results, fraction: float) -> Figure | None:
    """Draw each difference a - b with its 95 % intervals and one dot per seed, one panel per test set."""
    contrasts = [c for c in results["contrasts"] if is_primary(c, results) and c["fraction"] == fraction]
    if not contrasts:
        return None
    pairs = list(dict.fromkeys((c["a"], c["b"]) for c in contrasts))
    colours = initialization_colours(results)
    places = {pair: i for i, pair in enumerate(pairs)}
    with plot_style():
        labels = [pair_words(a, b) for a, b in pairs]
        figure, panels = panel_grid(
            ordered_test_sets(contrasts, results), labels, row_height=0.56, share_x=True
        )
        for c in contrasts:
            axes, y, colour = panels[c["test_set"]], places[c["a"], c["b"]], colours.get(c["a"], "#222222")
            seeds = floats(c["per_seed"])
            axes.plot(seeds, y + 0.30 + spread(len(seeds), 0.06), ".", color=colour, alpha=0.6, markersize=5)
            for statement in c["statements"]:
                here = statement["scope"] == "on this test set"
                draw_interval(axes, statement, y - 0.18 if here else y + 0.06, colour, filled=here)
        for axes in panels.values():
            axes.axvline(0, color="#222222", linewidth=0.9, zorder=1)
            axes.xaxis.set_major_formatter(ScoreTicks(sign=True))
            _widen(axes)
        _frame(list(panels.values()), contrasts)
        figure.supxlabel(
            f"difference in {primary_words(results)}, a − b   (right of 0: a is better)", fontsize=9
        )
        dark = "#222222"
        fixed = Line2D([], [], color=dark, marker="o", linewidth=2.4, label="on this test set, 95 % interval")
        new = Line2D(
            [],
            [],
            color=dark,
            marker="o",
            linewidth=1.1,
            label=f"on new {results.get('groups_are', 'events')}, 95 % interval (an arrow: it runs on)",
        )
        new.set_markerfacecolor("white")
        seed = Line2D([], [], color=dark, marker=".", linewidth=0, alpha=0.6, label="one seed, this test set")
        place_legend(figure, [fixed, new, seed], (3, 1))
    return figure


def _frame(panels: Sequence[Axes], contrasts: Sequence[Mapping[str, Any]]) -> None:
    """Set the common frame by seeds and fixed test sets; an interval over few events runs out of it, with an arrow.

    With two events it may span more than the whole scale, and all else would shrink to a point.
    """
    values = [v for c in contrasts for v in c["per_seed"] if v is not None] + [0.0]
    for c in contrasts:
        for s in c["statements"]:
            if s["scope"] == "on this test set":
                values += [s[k] for k in ("low", "high") if s[k] is not None]
    room = max(0.6 * (max(values) - min(values)), 0.01)
    low, high = min(values) - room, max(values) + room
    for axes in panels:
        for line in list(axes.lines):
            places, heights = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
            if len(places) != 2 or line.get_transform() != axes.transData or heights[0] != heights[1]:
                continue
            for end, marker, edge in ((places.min(), "<", low), (places.max(), ">", high)):
                if end < low or end > high:
                    axes.plot(
                        [edge], heights[:1], marker, color=line.get_color(), markersize=6, clip_on=False
                    )
        axes.set_xlim(low, high)


def _widen(axes: Axes) -> None:
    low, high = axes.get_xlim()
    if high - low < 0.02:
        middle = (low + high) / 2
        axes.set_xlim(middle - 0.01, middle + 0.01)
