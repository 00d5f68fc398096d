"""Validation by epoch, a line for each run."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sartransfer.figures.style import (
    ScoreTicks,
    draw_legend,
    initialization_colours,
    initialization_markers,
    plot_style,
    scale_losses,
)
from sartransfer.figures.words import Results, floats, primary_words


def draw_curves(results: Results, fraction: float) -> Figure | None:
    """Draw validation loss and validation metric by epoch: a colour per initialization, a line per seed.

    Where nothing was validated, the training loss.
    """
    runs = [r for r in results["runs"] if r["fraction"] == fraction and (r["curves"] or {}).get("epoch")]
    if not runs:
        return None
    colours, markers = initialization_colours(results), initialization_markers(results)
    drawn = {
        "validation_loss": "validation loss",
        "validation_metric": f"validation {primary_words(results)}",
    }
    if not any(np.isfinite(floats(run["curves"][key])).any() for run in runs for key in drawn):
        drawn = {"train_loss": "training loss (nothing was validated)"}
    with plot_style():
        figure = Figure(figsize=(11.5 if len(drawn) > 1 else 6.5, 4.1), layout="constrained")
        panels = dict(zip(drawn, np.atleast_1d(figure.subplots(1, len(drawn))), strict=True))
        for key, axes in panels.items():
            lowest, highest = np.inf, -np.inf
            for run in runs:
                curves, name = run["curves"], run["initialization"]
                epochs, values = floats(curves["epoch"]), floats(curves[key])
                axes.plot(epochs, values, color=colours[name], linewidth=0.9, alpha=0.65)
                best = np.flatnonzero(epochs == run["best_epoch"])
                axes.plot(epochs[best], values[best], markers[name], color=colours[name], markersize=4.5)
                if np.isfinite(values).any():
                    lowest, highest = min(lowest, np.nanmin(values)), max(highest, np.nanmax(values))
            if key == "validation_metric":
                axes.yaxis.set_major_formatter(ScoreTicks())
            else:
                scale_losses(axes, lowest, highest)
            axes.set_title(drawn[key])
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(color="#eeeeee")
        shown = [n for n in results["initializations"] if any(r["initialization"] == n for r in runs)]
        draw_legend(figure, shown, results)
    return figure
