"""Means by epoch: the score on validation for all starts, and their losses on training and validation."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sartransfer.figures.style import (
    ScoreTicks,
    draw_legend,
    initialization_colours,
    plot_style,
    scale_losses,
)
from sartransfer.figures.words import Results, floats, primary_words

FEWEST = 2  # epochs that make a curve


def draw_epochs(results: Results, fraction: float) -> Figure | None:
    """Draw validation score and losses by epoch: a line for the mean of each start's seeds, a band from least to most.

    A start's line ends with its longest run; where a run has stopped earlier it counts no more. None where no run of
    this share of the labels has a validation score.
    """
    found = {name: _runs(results, fraction, name) for name in results["initializations"]}
    shown = [name for name, runs in found.items() if runs]
    if not shown:
        return None
    colours = initialization_colours(results)
    with plot_style():
        figure = Figure(figsize=(11.5, 4.1), layout="constrained")
        score, loss = figure.subplots(1, 2)
        lowest, highest = np.inf, -np.inf
        for name in shown:
            for axes, key, style in (
                (score, "validation_metric", "-"),
                (loss, "validation_loss", "-"),
                (loss, "train_loss", ":"),
            ):
                epochs, values = _table(found[name], key)
                known = np.isfinite(values).any(axis=0)
                if not known.any():
                    continue
                epochs, values = epochs[known], values[:, known]
                axes.plot(epochs, np.nanmean(values, axis=0), style, color=colours[name], linewidth=1.4)
                low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
                if style == "-":
                    axes.fill_between(epochs, low, high, color=colours[name], alpha=0.12, linewidth=0)
                if axes is loss:
                    lowest, highest = min(lowest, low.min()), max(highest, high.max())
        scale_losses(loss, lowest, highest)
        score.yaxis.set_major_formatter(ScoreTicks())
        score.set_title(f"validation {primary_words(results)} by epoch")
        loss.set_title("loss by epoch: validation, and training (dotted)")
        for axes in (score, loss):
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(color="#eeeeee")
        draw_legend(figure, shown, results)
    return figure


def _runs(results: Results, fraction: float, name: str) -> list[dict[str, Any]]:
    """Return the curves of a start's runs that have a validation score at some epoch."""
    out = []
    for run in results["runs"]:
        curves = run["curves"] or {}
        same = (run["initialization"], run["fraction"]) == (name, fraction)
        if (
            same
            and len(curves.get("epoch", ())) >= FEWEST
            and np.isfinite(floats(curves["validation_metric"])).any()
        ):
            out.append(curves)
    return out


def _table(runs: list[dict[str, Any]], key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the epochs (E,) of all runs and their values (runs, E), NaN where a run has none."""
    # Results of earlier versions may lack a curve.
    columns = [(floats(c["epoch"]), floats(c.get(key) or [None] * len(c["epoch"]))) for c in runs]
    epochs = np.unique(np.concatenate([e for e, _ in columns]))
    values = np.full((len(runs), len(epochs)), np.nan)
    for i, (own, numbers) in enumerate(columns):
        values[i, np.searchsorted(epochs, own)] = numbers
    return epochs, values
