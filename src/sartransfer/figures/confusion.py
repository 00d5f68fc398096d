"""Confusion matrices side by side."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sartransfer.figures.style import plot_style
from sartransfer.figures.words import Results, ordered_test_sets, short


def draw_confusion(results: Results, fraction: float, test_set: str | None = None) -> Figure | None:
    """Draw confusion matrices, each row (true class) adding up to 100 %, side by side by initialization.

    `test_set` None: all of them, below each other.
    """
    found = [
        c
        for c in results["confusion"]
        if c["fraction"] == fraction and test_set in (None, c["test_set"]) and c["matrix"]
    ]
    if not found:
        return None
    names = [n for n in results["initializations"] if any(c["initialization"] == n for c in found)]
    sets = ordered_test_sets(found, results)
    classes = [short(c, 18) for c in results["classes"]]
    many = len(classes) > 6
    columns = 2 if len(names) == 4 and many else min(len(names), 4 if len(names) == 4 else 3)
    deep = -(-len(names) // columns)
    rows, margin = deep * len(sets), 0.085 * max(len(c) for c in classes) + 0.1
    side = {1: 5.0, 2: 4.4}.get(columns, 3.3) if many else {1: 2.9, 2: 2.7}.get(columns, 2.4)
    with plot_style():
        height = (side + 0.34) * rows + 0.3 + (margin if _rotation(classes) else 0.2)
        width = (side + 0.1) * columns + margin + 0.35
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat:
            axes.set_visible(False)
        for c in found:
            down, across = divmod(names.index(c["initialization"]), columns)
            axes = grid[sets.index(c["test_set"]) * deep + down, across]
            title = short(c["initialization"], 34)
            if test_set is None:
                title += f"\n{short(c['test_set'], 34)}"
            _matrix(axes, np.asarray(c["matrix"], dtype=np.float64), classes, title)
            lowest = names.index(c["initialization"]) + columns >= len(names)
            last = lowest and c["test_set"] == sets[-1]
            axes.tick_params(labelleft=across == 0, labelbottom=last)
        figure.supxlabel("predicted class", fontsize=9)
        figure.supylabel("true class", fontsize=9)
    return figure


def _matrix(axes: Axes, matrix: NDArray[np.float64], classes: Sequence[str], title: str) -> None:
    total = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, total, out=np.full_like(matrix, np.nan), where=total > 0)
    axes.set_visible(True)
    axes.imshow(np.nan_to_num(share), cmap="Blues", vmin=0, vmax=1, aspect="equal")
    size = 9.0 if len(classes) <= 6 else 7.0 if len(classes) <= 11 else 5.0
    for i, j in np.ndindex(*share.shape):
        value = share[i, j]
        digits = 1 if len(classes) <= 6 else 0
        words = "–" if np.isnan(value) else f"{100 * value:.{digits}f}"
        faint = len(classes) > 6 and value < 0.005
        colour = "white" if value > 0.55 else "#bbbbbb" if faint else "#222222"
        axes.text(j, i, words, ha="center", va="center", fontsize=size, color=colour)
    axes.set_xticks(range(len(classes)), classes, rotation=_rotation(classes))
    axes.set_yticks(range(len(classes)), classes)
    axes.tick_params(length=0, labelsize=9 if len(classes) <= 6 else 7.5)
    axes.set_title(title)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _rotation(classes: Sequence[str]) -> int:
    """Return the angle at which the class names do not run into each other."""
    return 0 if len(classes) <= 6 and max(len(c) for c in classes) * len(classes) <= 24 else 90
