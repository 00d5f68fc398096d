"""The refined Lee filter as a loop for numba: the twin of `directional`, every sum in the same order.

See `kernels`. A block's shared sums lie in planes of one buffer, at constant distances, from which all eight halves are
added up; which of them a pixel takes is chosen lane by lane.
"""

import numpy as np

from sartransfer.radar.kernels import count_known, load_block

SIGNATURE = (
    "UniTuple(int64, 2)(float32[:,::1], boolean[:,::1], boolean, int64, int64, float64, float32[:,::1])"
)
ROWS, COLS = 32, 64  # pixels of a block
S = 72  # between a block's rows
TALL = ROWS + 8  # two rows more than are read, so that sums of the last ones stay in the buffer
P = TALL * S  # between planes: the values; runs of 2, 3 and 4; the pieces of `directional._pick`
TWO, THREE, FOUR, SQUARE, HIGH, FLAT = P, 2 * P, 3 * P, 4 * P, 5 * P, 6 * P
LOWER_LEFT, UPPER_LEFT, UPPER_RIGHT, LOWER_RIGHT = 7 * P, 8 * P, 9 * P, 10 * P
PLANES = 11


def pieces(x, tall, cols, w, squared):
    """Fill the planes of `w` from a block `x` (tall, cols + 6): of its values, or of their squares."""
    for i in range(tall):
        line, v = x[i * S : i * S + cols + 6], w[i * S :]
        if squared:
            for j in range(cols + 6):
                v[j] = line[j] * line[j]
        else:
            for j in range(cols + 6):
                v[j] = line[j]
        for j in range(cols + 5):
            two, more = v[j] + v[j + 1], v[j + 2] + v[j + 3]
            v[j + TWO] = two
            v[j + THREE] = v[j] + (v[j + 1] + v[j + 2])
            v[j + FOUR] = two + more
    for i in range(tall - 2):
        v = w[i * S :]
        for j in range(cols + 4):
            below = v[j + (FOUR + S)] + v[j + (FOUR + 2 * S)]
            first = v[j + FOUR] + v[j + (FOUR + S)]
            v[j + SQUARE] = first + (v[j + (FOUR + 2 * S)] + v[j + (FOUR + 3 * S)])
            v[j + FLAT] = v[j + FOUR] + below
            upper = v[j + THREE] + v[j + (THREE + S)]
            v[j + HIGH] = upper + (v[j + (THREE + 2 * S)] + v[j + (THREE + 3 * S)])
        for j in range(cols + 4):
            left, right = v[j + (TWO + S)], v[j + (TWO + S + 1)]
            top, bottom = v[j + THREE], v[j + (THREE + 2 * S)]
            v[j + LOWER_LEFT] = v[j] + (left + bottom)
            v[j + UPPER_LEFT] = top + (left + v[j + 2 * S])
            v[j + UPPER_RIGHT] = top + (right + v[j + (2 * S + 2)])
            v[j + LOWER_RIGHT] = v[j + 2] + (right + bottom)


def pick(w, cols, half, out):
    """Write the sum over each pixel's half (of `directional.HALVES`) to `out`."""
    for j in range(cols):
        upper_left, upper_right = w[j + SQUARE], w[j + (SQUARE + 3)]
        lower_left, lower_right = w[j + (SQUARE + 3 * S)], w[j + (SQUARE + 3 * S + 3)]
        h, s = half[j], upper_left + w[j + (FLAT + 4 * S)]
        s = upper_right + w[j + (FLAT + 4 * S + 3)] if h == 1.0 else s
        t = (lower_left + w[j + LOWER_LEFT]) + w[j + (LOWER_LEFT + 4 * S + 4)]
        s = t if h == 2.0 else s
        t = (upper_right + w[j + UPPER_RIGHT]) + w[j + (UPPER_RIGHT + 4 * S + 4)]
        s = t if h == 3.0 else s
        t = upper_left + w[j + (HIGH + 4)]
        s = t if h == 4.0 else s
        t = lower_left + w[j + (HIGH + 3 * S + 4)]
        s = t if h == 5.0 else s
        t = (upper_left + w[j + (UPPER_LEFT + 4 * S)]) + w[j + (UPPER_LEFT + 4)]
        s = t if h == 6.0 else s
        t = (lower_right + w[j + (LOWER_RIGHT + 4)]) + w[j + (LOWER_RIGHT + 4 * S)]
        out[j] = t if h == 7.0 else s


def small_means(x, good, gaps, tall, cols, means, row):
    """Fill `means` (tall - 2, cols + 4) with means over 3 x 3 pixels; NaN where none of them has a value."""
    for i in range(tall - 2):
        v, line = x[i * S :], means[i * S : i * S + cols + 4]
        for j in range(cols + 6):
            row[j] = v[j] + (v[j + S] + v[j + 2 * S])
        if gaps > 0:
            for j in range(cols + 4):
                line[j] = row[j] + (row[j + 1] + row[j + 2])
            v = good[i * S :]
            for j in range(cols + 6):
                row[j] = v[j] + (v[j + S] + v[j + 2 * S])
            for j in range(cols + 4):
                n = row[j] + (row[j + 1] + row[j + 2])
                line[j] = line[j] * (1.0 / n) if n > 0 else np.nan
        else:
            for j in range(cols + 4):
                line[j] = (row[j] + (row[j + 1] + row[j + 2])) * (1.0 / 9.0)


def area(value, middle):
    """Return the mean of an area of 3 x 3 pixels; the middle one where it has no value."""
    return value if value == value else middle


def steeper(half, steepest, slope, middle, one, other, number):
    """Return the half and the slope of the steepest edge so far: of edge `number`, if that is steeper."""
    slope = abs(slope)
    side = number if abs(middle - one) <= abs(middle - other) else number + 1.0
    return (side if slope > steepest else half), max(steepest, slope)


def edge_sides(means, cols, half):
    """Write the half along the steepest edge at each pixel of a row, as `directional.edge_side`."""
    for j in range(cols):
        a11 = means[j + (2 * S + 2)]
        a00, a01, a02 = area(means[j], a11), area(means[j + 2], a11), area(means[j + 4], a11)
        a10, a12 = area(means[j + 2 * S], a11), area(means[j + (2 * S + 4)], a11)
        a20, a21 = area(means[j + 4 * S], a11), area(means[j + (4 * S + 2)], a11)
        a22 = area(means[j + (4 * S + 4)], a11)
        side, most = steeper(0.0, -1.0, ((((a02 + a12) + a22) - a00) - a10) - a20, a11, a10, a12, 0.0)
        side, most = steeper(side, most, ((((a01 + a02) + a12) - a10) - a20) - a21, a11, a20, a02, 2.0)
        side, most = steeper(side, most, ((((a00 + a01) + a02) - a20) - a21) - a22, a11, a01, a21, 4.0)
        side, most = steeper(side, most, ((((a00 + a01) + a10) - a12) - a21) - a22, a11, a00, a22, 6.0)
        half[j] = side


def refined_rows(image, valid, has_valid, top, bottom, noise, out):
    """Refined Lee filter; see `kernels` for the arguments."""
    width = image.shape[1]
    x, good, means = np.zeros(P), np.ones(P), np.zeros(P)
    x2, good2 = x.reshape((TALL, S)), good.reshape((TALL, S))
    values, squares, ones = np.zeros(PLANES * P), np.zeros(PLANES * P), np.zeros(PLANES * P)
    row, half, total, powers, n = np.zeros(S), np.zeros(S), np.zeros(S), np.zeros(S), np.zeros(S)
    known = negative = 0
    for r0 in range(top, bottom, ROWS):
        rows = min(ROWS, bottom - r0)
        for c0 in range(0, width, COLS):
            cols = min(COLS, width - c0)
            gaps = load_block(image, valid, has_valid, 0.0, r0 - 3, c0 - 3, rows + 6, cols + 6, x2, good2)
            if gaps > 0:
                more = count_known(image, valid, has_valid, r0, r0 + rows, c0, c0 + cols)
                known, negative = known + more[0], negative + more[1]
                pieces(good, rows + 6, cols, ones, False)
            else:
                known += rows * cols
                n[:] = 28.0
            small_means(x, good, gaps, rows + 6, cols, means, row)
            pieces(x, rows + 6, cols, values, False)
            pieces(x, rows + 6, cols, squares, True)
            for i in range(rows):
                b = i * S
                edge_sides(means[b:], cols, half)
                pick(values[b:], cols, half, total)
                pick(squares[b:], cols, half, powers)
                if gaps > 0:
                    pick(ones[b:], cols, half, n)
                line, z = out[r0 + i, c0 : c0 + cols], x2[i + 3, 3 : 3 + cols]
                for j in range(cols):
                    weight = 1.0 / max(n[j], 1.0)
                    mean = total[j] * weight
                    squared = mean * mean
                    variance = max(powers[j] * weight - squared, 0.0)
                    below = variance * (1 + noise)
                    share = max(variance - noise * squared, 0.0) / below if below > 0 else 0.0
                    line[j] = np.float32(mean + share * (z[j] - mean))
                if gaps > 0:
                    here = good2[i + 3, 3 : 3 + cols]
                    for j in range(cols):
                        if here[j] == 0.0:
                            line[j] = np.nan
    return known, negative


HELPERS = (pieces, pick, small_means, area, steeper, edge_sides)
