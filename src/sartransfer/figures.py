"""The plots of a report, drawn from results alone; no window, no global figure, no mathtext.

A plot is a matplotlib `Figure`, or None where the results hold nothing to plot; `render` turns it into SVG or
PNG bytes. An initialization keeps its colour and its marker in all of them.
"""

import io
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import Formatter, FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

Results = Mapping[str, Any]
Format = Literal["svg", "png"]

BASELINE_COLOUR = "#4d4d4d"
INITIALIZATION_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7")
"""Okabe and Ito (2008), without black (text) and yellow (too pale on white)."""
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


def metric_words(metric: str, class_name: str = "") -> str:
    """Return a metric's name for people, such as ``IoU (flooded)``."""
    known = {"iou": "IoU", "miou": "mean IoU", "f1": "F1", "cohen_kappa": "Cohen's kappa"}
    words = known.get(metric, metric.replace("_", " "))
    return f"{words} ({class_name})" if class_name else words


def fraction_words(fraction: float) -> str:
    """Return a share of the labels in percent, such as ``2.5 %``."""
    return f"{100 * fraction:.4g} %"


def is_primary(row: Mapping[str, Any], results: Results) -> bool:
    """Whether a row of the table or a contrast is about the primary metric."""
    primary = results["primary"]
    return bool(row["metric"] == primary["metric"] and row["class"] == primary["class"])


def ordered_test_sets(rows: Iterable[Mapping[str, Any]], results: Results) -> list[str]:
    """Return the test sets that `rows` speak of: those joined over events first, then as in the results."""
    present = {row["test_set"] for row in rows}
    listed = [t["name"] for t in results["test_sets"]]
    return sorted(present - set(listed)) + [name for name in listed if name in present]


def render(figure: Figure, fmt: Format) -> bytes:
    """Return the figure as SVG or PNG bytes, the same bytes each time."""
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"Date": None} if fmt == "svg" else {"Software": None}
    with _style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format=fmt, dpi=160, metadata=metadata)
    return buffer.getvalue()


def draw_differences(results: Results, fraction: float) -> Figure | None:
    """Draw each difference a - b with its 95 % intervals and one dot per seed, one panel per test set."""
    contrasts = [c for c in results["contrasts"] if is_primary(c, results) and c["fraction"] == fraction]
    if not contrasts:
        return None
    pairs = list(dict.fromkeys((c["a"], c["b"]) for c in contrasts))
    colours = initialization_colours(results)
    places = {pair: i for i, pair in enumerate(pairs)}
    with _style():
        labels = [_pair_words(a, b) for a, b in pairs]
        figure, panels = _panels(ordered_test_sets(contrasts, results), labels, row_height=0.56, share_x=True)
        for c in contrasts:
            axes, y, colour = panels[c["test_set"]], places[c["a"], c["b"]], colours.get(c["a"], "#222222")
            seeds = _floats(c["per_seed"])
            axes.plot(seeds, y + 0.30 + _spread(len(seeds), 0.06), ".", color=colour, alpha=0.6, markersize=5)
            for statement in c["statements"]:
                here = statement["scope"] == "on this test set"
                _interval(axes, statement, y - 0.18 if here else y + 0.06, colour, filled=here)
        for axes in panels.values():
            axes.axvline(0, color="#222222", linewidth=0.9, zorder=1)
            axes.xaxis.set_major_formatter(_ScoreTicks(sign=True))
            _widen(axes)
        _frame(list(panels.values()), contrasts)
        figure.supxlabel(f"difference in {_metric(results)}, a − b   (right of 0: a is better)", fontsize=9)
        dark = "#222222"
        fixed = Line2D([], [], color=dark, marker="o", linewidth=2.4, label="on this test set, 95 % interval")
        new = Line2D(
            [],
            [],
            color=dark,
            marker="o",
            linewidth=1.1,
            label="on new events, 95 % interval (an arrow: it runs on)",
        )
        new.set_markerfacecolor("white")
        seed = Line2D([], [], color=dark, marker=".", linewidth=0, alpha=0.6, label="one seed, this test set")
        figure.legend(handles=[fixed, new, seed], loc="outside upper left", ncols=3, frameon=False)
    return figure


def draw_scores(results: Results, fraction: float) -> Figure | None:
    """Draw every seed's primary score as a dot, with mean and interval, one panel per test set.

    All panels have the same scale, each about its own scores, so that widths may be compared across panels.
    """
    rows = [r for r in results["table"] if is_primary(r, results) and r["fraction"] == fraction]
    if not rows:
        return None
    names = [n for n in results["initializations"] if any(r["initialization"] == n for r in rows)]
    colours, markers = initialization_colours(results), _markers(results)
    with _style():
        labels = [_wrapped(n) for n in names]
        figure, panels = _panels(ordered_test_sets(rows, results), labels, row_height=0.46, share_x=False)
        reach: dict[str, list[float]] = {name: [] for name in panels}
        for row in rows:
            axes, y, name = panels[row["test_set"]], names.index(row["initialization"]), row["initialization"]
            values = _floats(row["values"])
            axes.plot(
                values,
                y + 0.22 + _spread(len(values), 0.10),
                markers[name],
                color=colours[name],
                alpha=0.6,
                markersize=4,
                markeredgewidth=0,
            )
            _interval(axes, row, y - 0.16, colours[name], filled=True)
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
            axes.xaxis.set_major_formatter(_ScoreTicks())
        figure.supxlabel(
            f"{_metric(results)}: mean and 95 % interval over seeds, one mark per seed", fontsize=9
        )
    return figure


def draw_curves(results: Results, fraction: float) -> Figure | None:
    """Draw validation loss and validation metric by epoch: a colour per initialization, a line per seed."""
    runs = [r for r in results["runs"] if r["fraction"] == fraction and (r["curves"] or {}).get("epoch")]
    if not runs:
        return None
    colours, markers = initialization_colours(results), _markers(results)
    with _style():
        figure = Figure(figsize=(11.5, 4.1), layout="constrained")
        loss, metric = figure.subplots(1, 2)
        lowest, highest = np.inf, -np.inf
        for run in runs:
            curves, name = run["curves"], run["initialization"]
            epochs = _floats(curves["epoch"])
            for axes, key in ((loss, "validation_loss"), (metric, "validation_metric")):
                values = _floats(curves[key])
                axes.plot(epochs, values, color=colours[name], linewidth=0.9, alpha=0.65)
                best = np.flatnonzero(epochs == run["best_epoch"])
                axes.plot(epochs[best], values[best], markers[name], color=colours[name], markersize=4.5)
                if axes is loss and np.isfinite(values).any():
                    lowest, highest = min(lowest, np.nanmin(values)), max(highest, np.nanmax(values))
        if lowest > 0 and highest > 20 * lowest:
            loss.set_yscale("log")
            loss.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            loss.yaxis.set_minor_formatter(NullFormatter())
        metric.yaxis.set_major_formatter(_ScoreTicks())
        for axes, title in ((loss, "validation loss"), (metric, f"validation {_metric(results)}")):
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(color="#eeeeee")
        shown = [n for n in results["initializations"] if any(r["initialization"] == n for r in runs)]
        _legend(figure, shown, results)
    return figure


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
    classes = [_short(c, 18) for c in results["classes"]]
    many = len(classes) > 6
    columns = 2 if len(names) == 4 and many else min(len(names), 4 if len(names) == 4 else 3)
    deep = -(-len(names) // columns)
    rows, margin = deep * len(sets), 0.085 * max(len(c) for c in classes) + 0.1
    side = {1: 5.0, 2: 4.4}.get(columns, 3.3) if many else {1: 2.9, 2: 2.7}.get(columns, 2.4)
    with _style():
        height = (side + 0.34) * rows + 0.3 + (margin if _rotation(classes) else 0.2)
        width = (side + 0.1) * columns + margin + 0.35
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat:
            axes.set_visible(False)
        for c in found:
            down, across = divmod(names.index(c["initialization"]), columns)
            axes = grid[sets.index(c["test_set"]) * deep + down, across]
            title = _short(c["initialization"], 34)
            if test_set is None:
                title += f"\n{_short(c['test_set'], 34)}"
            _matrix(axes, np.asarray(c["matrix"], dtype=np.float64), classes, title)
            lowest = names.index(c["initialization"]) + columns >= len(names)
            last = lowest and c["test_set"] == sets[-1]
            axes.tick_params(labelleft=across == 0, labelbottom=last)
        figure.supxlabel("predicted class", fontsize=9)
        figure.supylabel("true class", fontsize=9)
    return figure


def draw_label_efficiency(results: Results) -> Figure | None:
    """Draw the primary score against the share of the labels, or return None for a single fraction."""
    rows = [r for r in results["table"] if is_primary(r, results)]
    fractions = sorted({r["fraction"] for r in rows})
    if len(fractions) < 2:
        return None
    colours, markers = initialization_colours(results), _markers(results)
    sets = ordered_test_sets(rows, results)
    columns = min(3, len(sets))
    with _style():
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
            axes.set_title(_short(test_set, 44))
            axes.set_xscale("log")
            axes.set_xticks(fractions, [fraction_words(f) for f in fractions])
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.minorticks_off()
            axes.yaxis.set_major_formatter(_ScoreTicks())
            axes.grid(color="#eeeeee")
        figure.supxlabel("share of the training labels", fontsize=9)
        figure.supylabel(_metric(results), fontsize=9)
        _legend(figure, results["initializations"], results)
    return figure


class _ScoreTicks(Formatter):
    """Ticks with equal decimals, without the leading zero and with a true minus sign, such as ``.60``."""

    def __init__(self, *, sign: bool = False) -> None:
        self.sign = sign

    def __call__(self, x: float, pos: int | None = None) -> str:
        return self.format_ticks([x])[0]

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        decimals = max((len(f"{v:.4f}".rstrip("0").split(".")[1]) for v in values), default=0)
        texts = [f"{abs(v):.{decimals}f}" for v in values]
        texts = [t[1:] if t.startswith("0.") else t for t in texts]
        signs = [
            "" if not float(t) else "−" if v < 0 else "+" * self.sign
            for v, t in zip(values, texts, strict=True)
        ]
        return [s + t if float(t) else "0" for s, t in zip(signs, texts, strict=True)]


@contextmanager
def _style() -> Iterator[None]:
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        yield


def _panels(
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
        axes.set_title(_short(title, 44))
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


def _legend(figure: Figure, names: Sequence[str], results: Results) -> None:
    colours, markers = initialization_colours(results), _markers(results)
    handles = [
        Line2D([], [], color=colours[n], marker=markers[n], markersize=4.5, label=_short(n, 40))
        for n in names
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=min(len(handles), 4), frameon=False)


def _interval(axes: Axes, row: Mapping[str, Any], y: float, colour: str, *, filled: bool) -> None:
    if row["mean"] is None:
        return
    if row["low"] is not None and row["high"] is not None:
        axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2.4 if filled else 1.1)
    axes.plot([row["mean"]], [y], "o", color=colour, markersize=5.5, mfc=colour if filled else "white")


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


def _efficiency(axes: Axes, rows: Sequence[Mapping[str, Any]], colour: str, marker: str) -> None:
    rows = sorted(rows, key=lambda r: float(r["fraction"]))
    x = _floats([r["fraction"] for r in rows])
    mean, low, high = (_floats([r[key] for r in rows]) for key in ("mean", "low", "high"))
    axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.plot(x, mean, color=colour, marker=marker, linewidth=1.8, markersize=5)
    for fraction, row in zip(x, rows, strict=True):
        seeds = _floats(row["values"])
        axes.plot(np.full(seeds.size, fraction), seeds, ".", color=colour, alpha=0.35, markersize=4)


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


def _markers(results: Results) -> dict[str, str]:
    return {n: MARKERS[i % len(MARKERS)] for i, n in enumerate(results["initializations"])}


def _metric(results: Results) -> str:
    return _short(metric_words(results["primary"]["metric"], results["primary"]["class"]), 40)


def _pair_words(a: str, b: str) -> str:
    first, second = _short(a, 26), _short(b, 26)
    return f"{first} − {second}" if len(first) + len(second) <= 22 else f"{first}\n− {second}"


def _wrapped(name: str) -> str:
    return "\n".join(textwrap.wrap(_short(name, 48), 26)[:2]) or "(no name)"


def _short(text: str, length: int) -> str:
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    if len(text) <= length:
        return text
    kept = length // 2
    return f"{text[:kept]}…{text[len(text) - (length - kept - 1) :]}"


def _floats(values: Iterable[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)


def _spread(number: int, reach: float) -> NDArray[np.float64]:
    return np.linspace(-reach, reach, number) if number > 1 else np.zeros(number)
