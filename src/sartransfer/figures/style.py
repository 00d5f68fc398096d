"""What all plots share: colours, marks, ticks, panels, intervals; and a figure turned into bytes."""

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import Formatter, FuncFormatter, MaxNLocator, NullFormatter

from sartransfer.figures.words import Results, short

Format = Literal["svg", "png"]

BASELINE_COLOUR = "#4d4d4d"
INITIALIZATION_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7")
"""Okabe and Ito (2008), without black (text) and yellow (too pale on white)."""
EDGE = 8.0  # pixels that stay free beside a legend
LINE = 0.2  # inches of a legend's line
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STYLE = {
    "text.parse_math": False,  # a name may hold a dollar sign
    "text.usetex": False,
    "svg.hashsalt": "sartransfer",
    "svg.fonttype": "path",
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.8,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "xtick.color": "#444444",
    "ytick.color": "#222222",
    "figure.facecolor": "white",
}


def initialization_colours(results: Results) -> dict[str, str]:
    """Return the colour of each initialization: grey for the baseline, else by its place in the recipe."""
    others = [name for name in results["initializations"] if name != results["baseline"]]
    colours = {n: INITIALIZATION_COLOURS[i % len(INITIALIZATION_COLOURS)] for i, n in enumerate(others)}
    return {results["baseline"]: BASELINE_COLOUR} | colours


def render(figure: Figure, fmt: Format) -> bytes:
    """Return the figure as SVG or PNG bytes, the same bytes each time."""
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"Date": None} if fmt == "svg" else {"Software": None}
    with plot_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format=fmt, dpi=160, metadata=metadata)
    return buffer.getvalue()


class ScoreTicks(Formatter):
    """Ticks with equal decimals, without the leading zero and with a true minus sign, such as ``.60``."""

    def __init__(self, *, sign: bool = False) -> None:
        self.sign = sign

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return one tick's text."""
        return self.format_ticks([x])[0]

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """Return the ticks' texts, all with as many decimals as the finest needs."""
        decimals = max((len(f"{v:.4f}".rstrip("0").split(".")[1]) for v in values), default=0)
        texts = [f"{abs(v):.{decimals}f}" for v in values]
        texts = [t[1:] if t.startswith("0.") else t for t in texts]
        signs = [
            "" if not float(t) else "−" if v < 0 else "+" * self.sign
            for v, t in zip(values, texts, strict=True)
        ]
        return [s + t if float(t) else "0" for s, t in zip(signs, texts, strict=True)]


@contextmanager
def plot_style() -> Iterator[None]:
    """Draw in the style of all plots: no mathtext, no TeX, the same identifiers in every SVG."""
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        yield


def panel_grid(
    titles: Sequence[str], labels: Sequence[str], *, row_height: float, share_x: bool
) -> tuple[Figure, dict[str, Axes]]:
    """Return a grid of panels, one per title, whose rows are `labels` from the top down."""
    columns = min(3, len(titles))
    deep = -(-len(titles) // columns)
    width = {1: 8.0, 2: 10.2}.get(columns, 11.5)
    height = (row_height * max(len(labels), 1) + 0.75) * deep + 0.75
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(deep, columns, squeeze=False, sharex=share_x, sharey=True)
    for axes in grid.flat[len(titles) :]:
        axes.set_visible(False)
    panels = dict(zip(titles, grid.flat, strict=False))
    for i, (title, axes) in enumerate(panels.items()):
        axes.set_title(short(title, 44))
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelbottom=not share_x or i + columns >= len(titles))
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color="#eeeeee")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        for edge in range(1, len(labels)):
            axes.axhline(edge - 0.5, color="#dddddd", linewidth=0.6, zorder=0)
    return figure, panels


def scale_losses(axes: Axes, lowest: float, highest: float) -> None:
    """Draw losses by their logarithms where they span more than a factor of 20: one start's leap hides the rest."""
    if lowest > 0 and highest > 20 * lowest:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def draw_legend(figure: Figure, names: Sequence[str], results: Results) -> None:
    """Name the initializations above the panels."""
    colours, markers = initialization_colours(results), initialization_markers(results)
    handles = [
        Line2D([], [], color=colours[n], marker=markers[n], markersize=4.5, label=short(n, 40)) for n in names
    ]
    place_legend(figure, handles, range(min(len(handles), 4), 0, -1))


def place_legend(figure: Figure, handles: Sequence[Line2D], columns: Sequence[int]) -> None:
    """Put a legend above the panels in the first number of columns that the figure is wide enough for, or the last.

    The figure grows by the lines that this takes beyond those of the first number.
    """
    lines = [-(-len(handles) // number) for number in columns]
    for number, needed in zip(columns, lines, strict=True):
        # Matplotlib fills column by column; what is read row by row should stand in the order that was given.
        ordered = [handle for first in range(number) for handle in handles[first::number]]
        legend = figure.legend(handles=ordered, loc="outside upper left", ncols=number, frameon=False)
        if legend.get_window_extent().width <= figure.bbox.width - 2 * EDGE or number == columns[-1]:
            figure.set_figheight(figure.get_figheight() + LINE * (needed - lines[0]))
            return
        legend.remove()


def draw_interval(axes: Axes, row: Mapping[str, Any], y: float, colour: str, *, filled: bool) -> None:
    """Draw the mean of a row at height `y`, and its interval where it has one."""
    if row["mean"] is None:
        return
    if row["low"] is not None and row["high"] is not None:
        axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2.4 if filled else 1.1)
    axes.plot([row["mean"]], [y], "o", color=colour, markersize=5.5, mfc=colour if filled else "white")


def initialization_markers(results: Results) -> dict[str, str]:
    """Return the marker of each initialization, by its place in the recipe."""
    return {n: MARKERS[i % len(MARKERS)] for i, n in enumerate(results["initializations"])}
