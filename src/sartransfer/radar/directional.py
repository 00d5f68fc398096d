"""The refined Lee filter's geometry: eight halves of a 7 x 7 window, and which of them lies along the edge."""

import numpy as np
from numpy.typing import NDArray

from sartransfer.radar.neighbourhoods import Array, Valid, box_sum

# The eight halves, each with the edge itself: offsets (dy, dx) from -3 to 3, dy downwards.
HALVES = ("left", "right", "lower left", "upper right", "upper", "lower", "upper left", "lower right")
# left: dx <= 0; lower left: dx <= dy; upper: dy <= 0; upper left: dx <= -dy; the others mirror them.

EDGES = (
    (((0, 2), (1, 2), (2, 2)), ((0, 0), (1, 0), (2, 0)), ((1, 0), (1, 2))),
    (((0, 1), (0, 2), (1, 2)), ((1, 0), (2, 0), (2, 1)), ((2, 0), (0, 2))),
    (((0, 0), (0, 1), (0, 2)), ((2, 0), (2, 1), (2, 2)), ((0, 1), (2, 1))),
    (((0, 0), (0, 1), (1, 0)), ((1, 2), (2, 1), (2, 2)), ((0, 0), (2, 2))),
)
# Of each edge the 3 x 3 means (row, column) on either side, and the outer ones of its two halves.


def edge_aligned_sums(x: Array, good: Valid) -> tuple[Array, Array, Array]:
    """Return sum, sum of squares and number of values over the half-window along the edge at each pixel.

    From a block with a halo of 3 pixels (h + 6, w + 6) to (h, w); see `speckle.refined_lee`.
    """
    half = edge_side(x, good)
    total, squares = _pick(x, half), _pick(x * x, half)
    if good is None:
        return total, squares, np.full(total.shape, 28.0)
    return total, squares, np.maximum(_pick(good.astype(np.float64), half), 1)


def edge_side(x: Array, good: Valid) -> NDArray[np.int8]:
    """Return the index of the half (in `HALVES`) that lies along the steepest edge, (h, w)."""
    height, width = x.shape[0] - 6, x.shape[1] - 6
    sums = box_sum(x, 3)
    counts = np.full(sums.shape, 9.0) if good is None else box_sum(good.astype(np.float64), 3)
    means = sums / np.maximum(counts, 1)
    middle = means[2 : 2 + height, 2 : 2 + width]

    def area(i: int, j: int) -> Array:
        rows, cols = slice(2 * i, 2 * i + height), slice(2 * j, 2 * j + width)
        return (
            means[rows, cols] if good is None else np.where(counts[rows, cols] > 0, means[rows, cols], middle)
        )

    steepest = np.full((height, width), -1.0)
    half = np.zeros((height, width), dtype=np.int8)
    for number, (brighter, darker, (one, other)) in enumerate(EDGES):
        size = area(*brighter[0]) + area(*brighter[1])
        size += area(*brighter[2])
        for place in darker:
            size -= area(*place)
        np.abs(size, out=size)
        steeper = size > steepest
        first = np.abs(middle - area(*one)) <= np.abs(middle - area(*other))
        np.copyto(half, np.where(first, np.int8(2 * number), np.int8(2 * number + 1)), where=steeper)
        np.maximum(steepest, size, out=steepest)
    return half


def _pick(x: Array, half: NDArray[np.int8]) -> Array:
    """Return the sum over the chosen half at each pixel: all eight from sums of runs that begin at either side."""
    height, width = half.shape
    before, after = [x[:, :width]], [x[:, 6 : 6 + width]]
    for k in range(1, 7):
        before.append(before[-1] + x[:, k : k + width])
        after.append(after[-1] + x[:, 6 - k : 6 - k + width])

    def stack(runs: list[Array], first: int = 0) -> Array:
        total = runs[0][first : first + height] + runs[1][first + 1 : first + 1 + height]
        for row, run in enumerate(runs[2:], start=first + 2):
            total += run[row : row + height]
        return total

    out = np.empty((height, width))
    halves = (
        ([before[3]] * 7, 0),
        ([after[3]] * 7, 0),
        (before, 0),
        (after[::-1], 0),
        ([before[6]] * 4, 0),
        ([before[6]] * 4, 3),
        (before[::-1], 0),
        (after, 0),
    )
    for number, (runs, first) in enumerate(halves):
        here = half == number
        if here.any():
            np.copyto(out, stack(runs, first), where=here)
    return out
