"""Speckle filters as loops for numba: 7 x 7 boxes, rings and discs, in blocks that stay in the processor's cache.

Each is the twin of a numpy kernel in `filters`: every sum in the same order, so that the bits are the same. They take a
float32 image (H, W), fill rows `top` to `bottom` of `out`, and return the values that are known and, among these, the
negative ones. See `compiled`: nothing here is compiled, or imports numba, before a large image comes.
"""

import numpy as np

ROWS, COLS = 32, 256  # pixels of a block
DISC_ROWS, DISC_COLS = 64, 256  # of the disc's: more rows, since its halo is higher
S = 264  # between a block's rows in its buffers: a constant, so that the compiler sees what overlaps
LOWEST = -3.4028234663852886e38  # the least float32: what is not below it is no minus infinity

BOX_SIGNATURE = (
    "UniTuple(int64, 2)(float32[:,::1], boolean[:,::1], boolean, int64, int64, int64, float64, float64, "
    "float32[:,::1])"
)
FROST_SIGNATURE = (
    "UniTuple(int64, 2)(float32[:,::1], boolean[:,::1], boolean, int64, int64, float64, float32[:,::1])"
)
DISC_SIGNATURE = (
    "UniTuple(int64, 2)(float32[:,::1], boolean[:,::1], boolean, int64, int64, int64[::1], float32[:,::1])"
)


def load_block(image, valid, has_valid, least, top, left, rows, cols, x, good):
    """Copy a rectangle that may leave the image into `x`, 0 where there is no value; say how many have none.

    Where some have none, `good` becomes 1 for values and 0 for the others; else it is left as it is.
    """
    height, width = image.shape
    first, last = max(top, 0), min(top + rows, height)
    lo, hi = max(left, 0), min(left + cols, width)
    missing = rows * cols - (last - first) * (hi - lo)
    if missing > 0:
        x[:rows, :cols] = 0.0
    for r in range(first, last):
        line, target = image[r, lo:hi], x[r - top, lo - left : hi - left]
        wrong = 0
        if has_valid:
            mask = valid[r, lo:hi]
            for j in range(hi - lo):
                v = line[j]
                ok = (v >= least) & (v < np.inf) & mask[j]
                target[j] = np.float64(v) if ok else 0.0
                wrong += 0 if ok else 1
        else:
            for j in range(hi - lo):
                v = line[j]
                ok = (v >= least) & (v < np.inf)
                target[j] = np.float64(v) if ok else 0.0
                wrong += 0 if ok else 1
        missing += wrong
    if missing > 0:
        good[:rows, :cols] = 0.0
        for r in range(first, last):
            line, target = image[r, lo:hi], good[r - top, lo - left : hi - left]
            for j in range(hi - lo):
                v = line[j]
                ok = (v >= least) & (v < np.inf)
                if has_valid:
                    ok = ok & valid[r, lo + j]
                target[j] = 1.0 if ok else 0.0
    return missing


def count_known(image, valid, has_valid, top, bottom, left, right):
    """Count values that are finite and valid, and the negative ones of them."""
    known = negative = 0
    for r in range(top, bottom):
        for c in range(left, right):
            v = image[r, c]
            if (v >= LOWEST) & (v < np.inf) and (not has_valid or valid[r, c]):
                known += 1
                negative += 1 if v < 0 else 0
    return known, negative


def column_sums(x, cols, s, q):
    """Sum values and squares of 7 rows of a flat block: 7 = 1 + 2 + 4, as `run_sum` does."""
    for j in range(cols):
        a0, a1, a2, a3 = x[j], x[j + S], x[j + 2 * S], x[j + 3 * S]
        a4, a5, a6 = x[j + 4 * S], x[j + 5 * S], x[j + 6 * S]
        s[j] = (a0 + (a1 + a2)) + ((a3 + a4) + (a5 + a6))
        q[j] = (a0 * a0 + (a1 * a1 + a2 * a2)) + ((a3 * a3 + a4 * a4) + (a5 * a5 + a6 * a6))


def across(s, j):
    """Sum 7 neighbours of a row in the same order."""
    return (s[j] + (s[j + 1] + s[j + 2])) + ((s[j + 3] + s[j + 4]) + (s[j + 5] + s[j + 6]))


def reciprocals(good, cols, n, w):
    """Write 1 / number of values in 7 x 7 pixels (1 where there is none) to `w`."""
    for j in range(cols + 6):
        n[j] = (good[j] + (good[j + S] + good[j + 2 * S])) + (
            (good[j + 3 * S] + good[j + 4 * S]) + (good[j + 5 * S] + good[j + 6 * S])
        )
    for j in range(cols):
        w[j] = 1.0 / max(across(n, j), 1.0)


def box_rows(image, valid, has_valid, top, bottom, mode, noise, looks, out):
    """Lee (mode 0) or gamma-MAP filter (mode 1) over 7 x 7 pixels."""
    width = image.shape[1]
    x, good = np.zeros((ROWS + 6) * S), np.ones((ROWS + 6) * S)
    x2, good2 = x.reshape((ROWS + 6, S)), good.reshape((ROWS + 6, S))
    s, q, n, w = np.zeros(S), np.zeros(S), np.zeros(S), np.zeros(S)
    known = negative = 0
    for r0 in range(top, bottom, ROWS):
        rows = min(ROWS, bottom - r0)
        for c0 in range(0, width, COLS):
            cols = min(COLS, width - c0)
            gaps = load_block(image, valid, has_valid, 0.0, r0 - 3, c0 - 3, rows + 6, cols + 6, x2, good2)
            if gaps > 0:
                more = count_known(image, valid, has_valid, r0, r0 + rows, c0, c0 + cols)
                known, negative = known + more[0], negative + more[1]
            else:
                known += rows * cols
                w[:] = 1.0 / 49.0
            for i in range(rows):
                column_sums(x[i * S :], cols + 6, s, q)
                if gaps > 0:
                    reciprocals(good[i * S :], cols, n, w)
                line, z = out[r0 + i, c0 : c0 + cols], x2[i + 3, 3 : 3 + cols]
                if mode == 0:
                    for j in range(cols):
                        mean = across(s, j) * w[j]
                        squared = mean * mean
                        variance = max(across(q, j) * w[j] - squared, 0.0)
                        below = variance * (1 + noise)
                        share = max(variance - noise * squared, 0.0) / below if below > 0 else 0.0
                        line[j] = np.float32(mean + share * (z[j] - mean))
                else:
                    for j in range(cols):
                        mean = across(s, j) * w[j]
                        squared = mean * mean
                        variance = max(across(q, j) * w[j] - squared, 0.0)
                        c2 = variance / squared if squared > 0 else 0.0
                        a = (1 + noise) / (c2 - noise if c2 > noise else 1.0)
                        b = mean * (a - looks - 1)
                        likeliest = (b + np.sqrt(b * b + 4 * a * looks * mean * z[j])) / (2 * a)
                        kept = z[j] if c2 >= 2 * noise else likeliest
                        line[j] = np.float32(mean if c2 <= noise else kept)
                if gaps > 0:
                    here = good2[i + 3, 3 : 3 + cols]
                    for j in range(cols):
                        if here[j] == 0.0:
                            line[j] = np.nan
    return known, negative


def decay_of(t):
    """Return exp(t) for t of 0 or less, 4e-18 below -40: a polynomial of t / 128, squared seven times.

    Within 1e-13 of the weights' sum; the same additions and multiplications on any machine (`filters.decay`).
    """
    u = max(t, -40.0) * 0.0078125
    p = u * (1 / 120 + u * (1 / 720))
    p = 1 + u * (1 + u * (1 / 2 + u * (1 / 6 + u * (1 / 24 + p))))
    p = p * p
    p = p * p
    p = p * p
    p = p * p
    p = p * p
    p = p * p
    return p * p


def weights(exponents, distance, cols, out):
    """Write the weight at a distance for each pixel of a row."""
    for j in range(cols):
        out[j] = decay_of(exponents[j] * distance)


def weighed_rings(x, cols, e1, e2, e5, e10, e13, out):
    """Add up the neighbours of a row of pixels by their weights; `x` is flat, from the first of the 7 rows on.

    Rings by squared distance 0, 1, 4, 9, 2, 5, 10, 8, 13, 18, as `ring_sums` has them; the weights at 2, 3 and at the
    diagonals' 2 and 3 pixels are powers of those at 1.
    """
    for j in range(cols):
        a, b = e1[j], e2[j]
        r1 = (x[j + (3 * S + 2)] + x[j + (3 * S + 4)]) + (x[j + (2 * S + 3)] + x[j + (4 * S + 3)])
        r4 = (x[j + (3 * S + 1)] + x[j + (3 * S + 5)]) + (x[j + (S + 3)] + x[j + (5 * S + 3)])
        r9 = (x[j + 3 * S] + x[j + (3 * S + 6)]) + (x[j + 3] + x[j + (6 * S + 3)])
        r2 = (x[j + (2 * S + 2)] + x[j + (4 * S + 2)]) + (x[j + (2 * S + 4)] + x[j + (4 * S + 4)])
        out[j] = x[j + (3 * S + 3)] + a * r1 + (a * a) * r4 + (a * a * a) * r9 + b * r2
    for j in range(cols):
        r5 = (x[j + (2 * S + 1)] + x[j + (4 * S + 1)]) + (x[j + (2 * S + 5)] + x[j + (4 * S + 5)])
        r5 = r5 + ((x[j + (S + 2)] + x[j + (5 * S + 2)]) + (x[j + (S + 4)] + x[j + (5 * S + 4)]))
        r10 = (x[j + 2 * S] + x[j + 4 * S]) + (x[j + (2 * S + 6)] + x[j + (4 * S + 6)])
        r10 = r10 + ((x[j + 2] + x[j + (6 * S + 2)]) + (x[j + 4] + x[j + (6 * S + 4)]))
        out[j] = out[j] + e5[j] * r5 + e10[j] * r10
    for j in range(cols):
        b = e2[j]
        r8 = (x[j + (S + 1)] + x[j + (5 * S + 1)]) + (x[j + (S + 5)] + x[j + (5 * S + 5)])
        r13 = (x[j + S] + x[j + 5 * S]) + (x[j + (S + 6)] + x[j + (5 * S + 6)])
        r13 = r13 + ((x[j + 1] + x[j + (6 * S + 1)]) + (x[j + 5] + x[j + (6 * S + 5)]))
        r18 = (x[j] + x[j + 6 * S]) + (x[j + 6] + x[j + (6 * S + 6)])
        out[j] = out[j] + (b * b) * r8 + e13[j] * r13 + (b * b * b) * r18


def frost_rows(image, valid, has_valid, top, bottom, damping, out):
    """Frost filter over 7 x 7 pixels."""
    width = image.shape[1]
    x, good = np.zeros((ROWS + 6) * S), np.ones((ROWS + 6) * S)
    x2, good2 = x.reshape((ROWS + 6, S)), good.reshape((ROWS + 6, S))
    s, q, n, w = np.zeros(S), np.zeros(S), np.zeros(S), np.zeros(S)
    e1, e2, e5, e10, e13 = np.zeros(S), np.zeros(S), np.zeros(S), np.zeros(S), np.zeros(S)
    above, below = np.zeros(S), np.zeros(S)
    known = negative = 0
    for r0 in range(top, bottom, ROWS):
        rows = min(ROWS, bottom - r0)
        for c0 in range(0, width, COLS):
            cols = min(COLS, width - c0)
            gaps = load_block(image, valid, has_valid, 0.0, r0 - 3, c0 - 3, rows + 6, cols + 6, x2, good2)
            if gaps > 0:
                more = count_known(image, valid, has_valid, r0, r0 + rows, c0, c0 + cols)
                known, negative = known + more[0], negative + more[1]
            else:
                known += rows * cols
                w[:] = 1.0 / 49.0
            for i in range(rows):
                column_sums(x[i * S :], cols + 6, s, q)
                line, block, ones = out[r0 + i, c0 : c0 + cols], x[i * S :], good[i * S :]
                if gaps > 0:
                    reciprocals(good[i * S :], cols, n, w)
                for j in range(cols):
                    mean = across(s, j) * w[j]
                    squared = mean * mean
                    variance = max(across(q, j) * w[j] - squared, 0.0)
                    n[j] = -damping * (variance / squared if squared > 0 else 0.0)
                weights(n, 1.0, cols, e1)
                weights(n, np.sqrt(2.0), cols, e2)
                weights(n, np.sqrt(5.0), cols, e5)
                weights(n, np.sqrt(10.0), cols, e10)
                weights(n, np.sqrt(13.0), cols, e13)
                weighed_rings(block, cols, e1, e2, e5, e10, e13, above)
                if gaps > 0:
                    weighed_rings(ones, cols, e1, e2, e5, e10, e13, below)
                    here = ones[3 * S + 3 : 3 * S + 3 + cols]
                    for j in range(cols):
                        value = np.float32(above[j] / (below[j] if below[j] > 0 else 1.0))
                        line[j] = value if here[j] > 0 else np.float32(np.nan)
                else:
                    for j in range(cols):
                        a, b = e1[j], e2[j]
                        total = 1 + a * 4.0 + (a * a) * 4.0 + (a * a * a) * 4.0 + b * 4.0
                        total = total + e5[j] * 8.0 + e10[j] * 8.0 + (b * b) * 4.0 + e13[j] * 8.0
                        line[j] = np.float32(above[j] / (total + (b * b * b) * 4.0))
    return known, negative


def disc_rows(image, valid, has_valid, top, bottom, half_widths, out):
    """Mean over a disc (see `neighbourhoods.disc`) of any finite values."""
    width = image.shape[1]
    high, reach = len(half_widths) - 1, 0
    for wanted in half_widths:
        reach = max(reach, wanted)
    tall, wide = DISC_ROWS + high, DISC_COLS + 2 * reach
    x, good = np.zeros((tall, wide)), np.ones((tall, wide))
    run = np.zeros(DISC_COLS)
    total, number = np.zeros((DISC_ROWS, DISC_COLS)), np.zeros((DISC_ROWS, DISC_COLS))
    full = 1.0 / np.float64(2 * half_widths.sum() + len(half_widths))
    for r0 in range(top, bottom, DISC_ROWS):
        rows = min(DISC_ROWS, bottom - r0)
        for c0 in range(0, width, DISC_COLS):
            cols = min(DISC_COLS, width - c0)
            gaps = load_block(
                image, valid, has_valid, LOWEST, r0 - high // 2, c0 - reach, rows + high, cols + 2 * reach, x, good
            )  # fmt: skip
            disc_block(x, half_widths, reach, rows, cols, run, total)
            if gaps > 0:
                disc_block(good, half_widths, reach, rows, cols, run, number)
            for i in range(rows):
                line, sums, numbers = out[r0 + i, c0 : c0 + cols], total[i, :cols], number[i, :cols]
                here = good[i + high // 2, reach : reach + cols]
                if gaps > 0:
                    for j in range(cols):
                        mean = np.float32(sums[j] * (1.0 / max(numbers[j], 1.0)))
                        line[j] = mean if here[j] > 0 else np.float32(np.nan)
                else:
                    for j in range(cols):
                        line[j] = np.float32(sums[j] * full)
    return 0, 0


def disc_block(x, half_widths, reach, rows, cols, run, total):
    """Sum a block over a disc, row by row from the top, as `neighbourhoods.disc_sum` does.

    A row of the block is added, as a run of each width in turn, to all sums that it is part of.
    """
    total[:rows, :cols] = 0.0
    line = run[:cols]
    for i in range(rows + len(half_widths) - 1):
        line[:] = x[i, reach : reach + cols]
        for half in range(reach + 1):
            if half > 0:
                left, right = (
                    x[i, reach - half : reach - half + cols],
                    x[i, reach + half : reach + half + cols],
                )
                for j in range(cols):
                    line[j] += left[j] + right[j]
            for k in range(max(0, i - rows + 1), min(len(half_widths), i + 1)):
                if half_widths[k] == half:
                    sums = total[i - k, :cols]
                    for j in range(cols):
                        sums[j] += line[j]


HELPERS = (
    load_block,
    count_known,
    column_sums,
    across,
    reciprocals,
    decay_of,
    weights,
    weighed_rings,
    disc_block,
)
