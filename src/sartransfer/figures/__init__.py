"""The plots of a report, drawn from results alone; no window, no global figure, no mathtext.

A plot is a matplotlib `Figure`, or None where the results hold nothing to plot; `render` turns it into SVG or
PNG bytes. An initialization keeps its colour and its marker in all of them.
"""

from sartransfer.figures.calibration import draw_reliability
from sartransfer.figures.collections import draw_collections
from sartransfer.figures.confusion import draw_confusion
from sartransfer.figures.curves import draw_curves
from sartransfer.figures.differences import draw_differences
from sartransfer.figures.efficiency import draw_label_efficiency
from sartransfer.figures.epochs import draw_epochs
from sartransfer.figures.scores import draw_scores
from sartransfer.figures.stopping import draw_stopping
from sartransfer.figures.strata import KINDS as STRATA
from sartransfer.figures.strata import bin_words, draw_strata
from sartransfer.figures.style import (
    BASELINE_COLOUR,
    INITIALIZATION_COLOURS,
    MARKERS,
    Format,
    initialization_colours,
    render,
)
from sartransfer.figures.words import Results, fraction_words, is_primary, ordered_test_sets

__all__ = [
    "BASELINE_COLOUR",
    "INITIALIZATION_COLOURS",
    "MARKERS",
    "STRATA",
    "Format",
    "Results",
    "bin_words",
    "draw_collections",
    "draw_confusion",
    "draw_curves",
    "draw_differences",
    "draw_epochs",
    "draw_label_efficiency",
    "draw_reliability",
    "draw_scores",
    "draw_stopping",
    "draw_strata",
    "fraction_words",
    "initialization_colours",
    "is_primary",
    "ordered_test_sets",
    "render",
]
