"""Thresholds between two populations from histograms, and the tiles whose histogram has two of them.

Everything here works on counts, which add up: a scene that is read by windows gives the same threshold to the last bit.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError, one_of

Counts = NDArray[np.integer]
Edges = NDArray[np.float64]

MIN_SHARE = 0.1  # of the smaller population in a tile, as in Martinis et al. and Chini et al.
LEAST_TILE = 32  # pixels a side: fewer say little, and their histograms need more memory than the scene
MIN_GAIN = 0.05  # of two populations over one (see `bimodality`): an even spread of values has 0
MIN_FILLED = 0.5  # least share of a tile's pixels that have a value


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold, and how it was found."""

    value: float
    """In the values' unit; the lower population lies below."""
    method: str
    """A key of `METHODS`, or ``given``."""
    tiles: int = 0
    """Tiles whose histogram has two populations, from which it was found."""
    tiles_seen: int = 0
    """Tiles with enough values."""
    gain: float | None = None
    """By how much two populations describe the pooled values better than one (see `bimodality`)."""


def bin_edges(low: float, high: float, step: float) -> Edges:
    """Return the edges of equal bins from low to high, (n + 1,)."""
    number = round((high - low) / step)
    if not (np.isfinite([low, high, step]).all() and step > 0 and number >= 2):
        raise InputError(f"bins from {low:g} to {high:g} in steps of {step:g}: must be two or more.")
    return np.asarray(low + step * np.arange(number + 1), dtype=np.float64)


def histogram(values: NDArray[np.floating], edges: Edges) -> Counts:
    """Count values (any shape) in equal bins, (n,); NaN are left out, what lies outside goes into the end bins."""
    return np.bincount(_bins(values[np.isfinite(values)], edges), minlength=len(edges) - 1)


def tile_histograms(values: NDArray[np.floating], edges: Edges, tile: int) -> Counts:
    """Count the values of an image (H, W) tile by tile, (rows of tiles, columns of tiles, n); NaN are left out.

    Tiles of `tile` x `tile` pixels from the upper left corner; those at the right and lower edges are cut.
    """
    if values.ndim != 2 or tile < 2:
        raise InputError(
            f"values {values.shape} in tiles of {tile} px: must be (H, W), in tiles of 2 px or more."
        )
    known = np.isfinite(values)
    row, col = np.nonzero(known)
    rows, cols = -(-values.shape[0] // tile), -(-values.shape[1] // tile)
    number = len(edges) - 1
    where = (row // tile * cols + col // tile) * number + _bins(values[known], edges)
    return np.bincount(where, minlength=rows * cols * number).reshape(rows, cols, number)


def otsu(counts: Counts, edges: Edges) -> float:
    """Return the edge that maximizes the variance between the two classes: w0 w1 (m0 - m1)^2.

    Where several edges next to each other do, as over an empty valley, their middle. Otsu 1979, IEEE Transactions on
    Systems, Man and Cybernetics 9, 62-66. Raises `InputError` where fewer than two bins are filled.
    """
    below, above, first, second, *_ = _split(counts, edges)
    between = np.where((below > 0) & (above > 0), below * above * (first - second) ** 2, -1.0)
    best = int(between.argmax())
    last = best
    while last + 1 < len(between) and between[last + 1] == between[best]:
        last += 1
    return float(edges[best + 1] + edges[last + 1]) / 2


def kittler_illingworth(counts: Counts, edges: Edges) -> float:
    """Return the edge of minimum error between two normal distributions (Kittler and Illingworth).

    The minimum of J = 1 + 2 (P0 ln s0 + P1 ln s1) - 2 (P0 ln P0 + P1 ln P1), with the spread within a bin in the
    variances, so that a class of one bin has one too; of equal neighbours the middle. Kittler and Illingworth 1986,
    Pattern Recognition 19, 41-47; for changes in radar images Bazi, Bruzzone and Melgani 2005, IEEE TGRS 43, 874-887.
    """
    error = _errors(counts, edges)
    best = int(error.argmin())
    last = best
    while last + 1 < len(error) and error[last + 1] == error[best]:
        last += 1
    return float(edges[best + 1] + edges[last + 1]) / 2


METHODS: dict[str, Callable[[Counts, Edges], float]] = {
    "otsu": otsu,
    "kittler_illingworth": kittler_illingworth,
}


def bimodality(counts: Counts, edges: Edges, threshold: float) -> tuple[float, float]:
    """Return the share of the smaller class, and the gain of two classes over one.

    The gain is J of one normal distribution, 1 + 2 ln s, less Kittler and Illingworth's J at the threshold: twice the
    log-likelihood a pixel that two classes win. It is below 0 for a normal or a uniform distribution however it is cut
    (cut in the middle -0.37 and 0), and above 0 for two normal ones of equal size from 3.5 standard deviations apart.
    """
    index = int(np.clip(np.searchsorted(edges, threshold, side="right") - 1, 1, len(counts) - 1))
    below, above, *_ = _split(counts, edges)
    total = below[0] + above[0]
    share = min(below[index - 1], above[index - 1]) / total
    if share == 0:
        return 0.0, float("-inf")
    middles = (edges[:-1] + edges[1:]) / 2
    mean = (counts * middles).sum() / total
    variance = (counts * (middles - mean) ** 2).sum() / total + (edges[1] - edges[0]) ** 2 / 12
    return float(share), float(1 + np.log(variance) - _errors(counts, edges)[index - 1])


def find_threshold(
    histograms: Counts,
    edges: Edges,
    method: str,
    *,
    tile_pixels: int,
    eligible: NDArray[np.bool_] | None = None,
    above: float = -np.inf,
) -> Threshold:
    """Find a threshold on the pooled values of the tiles that have two populations.

    A scene's whole histogram hides a flood of a few per cent; a tile at its edge shows it. A tile is taken where each
    side of its own threshold has `MIN_SHARE` of its values, and two populations describe it better than one by more
    than `MIN_GAIN` (`bimodality`). Tiles as in Martinis, Twele and Voigt 2009, NHESS 9, 303-314, and Chini et al. 2017,
    IEEE TGRS 55, 6975-6988; the criterion is ours.

    Args:
        histograms: (rows, columns, n) of `tile_histograms`. edges: of the bins. method: a key of `METHODS`.
        tile_pixels: pixels of a whole tile. eligible: (rows, columns), tiles that may be taken; None: all.
        above: a threshold must lie above it, in each tile and of all pooled; of a drop in dB 0. Below it a tile parts
            what grew brighter from what did not. The upper population's mean lies above its threshold, so above this.

    Raises `InputError` where no tile has two populations: there is no threshold to find then.
    """
    if method not in METHODS:
        raise InputError(one_of("threshold method", method, METHODS))
    flat = histograms.reshape(-1, histograms.shape[-1])
    seen = flat.sum(axis=1) >= MIN_FILLED * tile_pixels
    if eligible is not None:
        seen &= eligible.ravel()
    taken, low = [], 0
    for counts in flat[seen]:
        if np.count_nonzero(counts) > 1:
            own = METHODS[method](counts, edges)
            share, gain = bimodality(counts, edges, own)
            if share >= MIN_SHARE and gain > MIN_GAIN:
                if own > above:
                    taken.append(counts)
                else:
                    low += 1
    if not taken:
        aside = f" on the right side ({low} part at {above:g} or below, where no flood is)" if low else ""
        raise InputError(
            f"none of {int(seen.sum())} tiles has two populations with {MIN_SHARE:.0%} of the pixels each{aside}: no "
            "flood that a histogram shows, or tiles of the wrong size. Give a threshold, or other tiles."
        )
    pooled = np.sum(taken, axis=0)
    value = METHODS[method](pooled, edges)
    if not value > above:
        raise InputError(
            f"the threshold of {len(taken)} tiles together is {value:.2f}, which is not above {above:g}: more of them "
            "grew brighter than flooded. Give a threshold, or other tiles."
        )
    return Threshold(value, method, len(taken), int(seen.sum()), bimodality(pooled, edges, value)[1])


def quantile(counts: Counts, edges: Edges, share: float) -> float:
    """Return the value below which `share` of the counted values lie, linear within a bin."""
    total = int(counts.sum())
    if total == 0:
        raise InputError("no value was counted: there is no quantile.")
    upto = np.concatenate([[0], np.cumsum(counts)]) / total
    index = int(np.searchsorted(upto[1:], share))
    index = min(index, len(counts) - 1)
    part = (share - upto[index]) / max(upto[index + 1] - upto[index], 1e-300)
    return float(edges[index] + min(max(part, 0.0), 1.0) * (edges[index + 1] - edges[index]))


def _bins(values: NDArray[np.floating], edges: Edges) -> NDArray[np.int64]:
    step = edges[1] - edges[0]
    index = np.floor((values.astype(np.float64) - edges[0]) / step)
    bins: NDArray[np.int64] = np.clip(index, 0, len(edges) - 2).astype(np.int64)
    return bins


def _split(counts: Counts, edges: Edges) -> tuple[Edges, Edges, Edges, Edges, Edges, Edges]:
    """Return both classes' counts, means and sums of squares (about 0), for a cut at each inner edge (n - 1,)."""
    if counts.ndim != 1 or len(edges) != len(counts) + 1:
        raise InputError(f"counts {counts.shape} with {len(edges)} edges: must be (n,) with n + 1.")
    if np.count_nonzero(counts) < 2:
        raise InputError("all values lie in one bin or there are none: no threshold can part them.")
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    sums, squares = np.cumsum(counts * middles), np.cumsum(counts * middles**2)
    first = sums[:-1] / np.maximum(below, 1)
    second = (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return below, above, first, second, squares[:-1], squares[-1] - squares[:-1]


def _errors(counts: Counts, edges: Edges) -> Edges:
    """Return Kittler and Illingworth's J for a cut at each inner edge, infinite where a class is empty."""
    below, above, first, second, squares0, squares1 = _split(counts, edges)
    filled = (below > 0) & (above > 0)
    within = (edges[1] - edges[0]) ** 2 / 12
    total = below[0] + above[0]
    error = np.full(len(below), np.inf)
    p0, p1 = below[filled] / total, above[filled] / total
    v0 = np.maximum(squares0[filled] / below[filled] - first[filled] ** 2, 0) + within
    v1 = np.maximum(squares1[filled] / above[filled] - second[filled] ** 2, 0) + within
    error[filled] = 1 + p0 * np.log(v0) + p1 * np.log(v1) - 2 * (p0 * np.log(p0) + p1 * np.log(p1))
    return error
