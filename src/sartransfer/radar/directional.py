"""The refined Lee filter's geometry: eight halves of a 7 x 7 window, and which of them lies along the edge."""

from collections.abc import Callable, Iterator

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
    means = sums * (1 / np.maximum(counts, 1))
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
    """Return the sum over the chosen half at each pixel: two or three pieces each, that are shared by all pixels.

    A half is a square of 4 x 4 with a rectangle of 3 beside it; or a square of 4 x 4 with a triangle of six pixels at
    two of its sides. The order of additions is that of `directional_kernels`.
    """
    height, width = half.shape
    two = x[:, :-1] + x[:, 1:]
    three, four = x[:, :-2] + two[:, 1:], two[:, :-2] + two[:, 2:]
    pairs = three[:-1] + three[1:], four[:-1] + four[1:]
    square, high = pairs[1][:-2] + pairs[1][2:], pairs[0][:-2] + pairs[0][2:]
    flat = four[:-2] + pairs[1][1:]
    lower_left = x[:-2, :-2] + (two[1:-1, :-1] + three[2:])
    upper_left = three[:-2] + (two[1:-1, :-1] + x[2:, :-2])
    upper_right = three[:-2] + (two[1:-1, 1:] + x[2:, 2:])
    lower_right = x[:-2, 2:] + (two[1:-1, 1:] + three[2:])

    def at(piece: Array, row: int, col: int) -> Array:
        return piece[row : row + height, col : col + width]

    def halves() -> Iterator[Callable[[], Array]]:
        yield lambda: at(square, 0, 0) + at(flat, 4, 0)
        yield lambda: at(square, 0, 3) + at(flat, 4, 3)
        yield lambda: (at(square, 3, 0) + at(lower_left, 0, 0)) + at(lower_left, 4, 4)
        yield lambda: (at(square, 0, 3) + at(upper_right, 0, 0)) + at(upper_right, 4, 4)
        yield lambda: at(square, 0, 0) + at(high, 0, 4)
        yield lambda: at(square, 3, 0) + at(high, 3, 4)
        yield lambda: (at(square, 0, 0) + at(upper_left, 4, 0)) + at(upper_left, 0, 4)
        yield lambda: (at(square, 3, 3) + at(lower_right, 0, 4)) + at(lower_right, 4, 0)

    out = np.empty((height, width))
    for number, total in enumerate(halves()):
        here = half == number
        if here.any():
            np.copyto(out, total(), where=here)
    return out
