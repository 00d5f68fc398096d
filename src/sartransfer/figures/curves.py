"""Validation by epoch, a line for each run."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from sartransfer.figures.style import (
    ScoreTicks,
    draw_legend,
    initialization_colours,
    initialization_markers,
    plot_style,
)
from sartransfer.figures.words import Results, floats, primary_words


def draw_curves(results: Results, fraction: float) -> Figure | None:
    """Draw validation loss and validation metric by epoch: a colour per initialization, a line per seed."""
    runs = [r for r in results["runs"] if r["fraction"] == fraction and (r["curves"] or {}).get("epoch")]
    if not runs:
        return None
    colours, markers = initialization_colours(results), initialization_markers(results)
    with plot_style():
        figure = Figure(figsize=(11.5, 4.1), layout="constrained")
        loss, metric = figure.subplots(1, 2)
        lowest, highest = np.inf, -np.inf
        for run in runs:
            curves, name = run["curves"], run["initialization"]
            epochs = floats(curves["epoch"])
            for axes, key in ((loss, "validation_loss"), (metric, "validation_metric")):
                values = floats(curves[key])
                axes.plot(epochs, values, color=colours[name], linewidth=0.9, alpha=0.65)
                best = np.flatnonzero(epochs == run["best_epoch"])
                axes.plot(epochs[best], values[best], markers[name], color=colours[name], markersize=4.5)
                if axes is loss and np.isfinite(values).any():
                    lowest, highest = min(lowest, np.nanmin(values)), max(highest, np.nanmax(values))
        if lowest > 0 and highest > 20 * lowest:
            loss.set_yscale("log")
            loss.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            loss.yaxis.set_minor_formatter(NullFormatter())
        metric.yaxis.set_major_formatter(ScoreTicks())
        for axes, title in ((loss, "validation loss"), (metric, f"validation {primary_words(results)}")):
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(color="#eeeeee")
        shown = [n for n in results["initializations"] if any(r["initialization"] == n for r in runs)]
        draw_legend(figure, shown, results)
    return figure
