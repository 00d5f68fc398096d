"""Counting pairs of bytes as a loop for numba: the twin of the sums in `metrics.confusion_matrix`, exact both ways."""

import numpy as np
from numpy.typing import NDArray

from sartransfer.compiled import kernel_for, run_bands

FEW_SIGNATURE = "int64(uint8[::1], uint8[::1], boolean[::1], boolean, uint8, int64, int64, uint32[:,::1])"
SIGNATURE = "void(uint8[::1], uint8[::1], boolean[::1], boolean, int64, int64, uint32[:,::1])"
BLOCK = 4096  # pixels whose bytes stay in the cache
HISTOGRAMS = 4  # filled in turn: a processor waits for a count that it has just written
MOST = 1 << 30  # pixels of a histogram of 32 bits, with room
CACHED = 1 << 15  # wide numbers that stay in the cache from the look at their range to the copy
STEP = 1 << 20  # pixels that a thread takes at least


def count_few(target, guess, valid, has_valid, ignore, first, last, counts):
    """Count pairs of classes up to 14, two pixels at a time; return the largest class that is there.

    A pixel is a byte, 16 target + guess, or 255 where it does not count; two of them are a place in `counts`
    (2, 65536): half as many additions, which wait for each other, as pixels.
    """
    codes = np.zeros(BLOCK, np.uint8)
    pairs = codes.view(np.uint16)
    a, b = counts[0], counts[1]
    largest = np.uint8(0)
    for start in range(first, last, BLOCK):
        n = min(BLOCK, last - start)
        t, p = target[start : start + n], guess[start : start + n]
        if n < BLOCK:
            codes[n:] = np.uint8(255)
        if has_valid:
            keep = valid[start : start + n]
            for i in range(n):
                code = np.uint8((t[i] << np.uint8(4)) | p[i])
                codes[i] = code if (t[i] != ignore) & keep[i] else np.uint8(255)
            for i in range(n):
                most = max(t[i], p[i])
                largest = max(largest, most if (t[i] != ignore) & keep[i] else np.uint8(0))
        else:
            for i in range(n):
                code = np.uint8((t[i] << np.uint8(4)) | p[i])
                codes[i] = code if t[i] != ignore else np.uint8(255)
            for i in range(n):
                most = max(t[i], p[i])
                largest = max(largest, most if t[i] != ignore else np.uint8(0))
        for i in range(0, BLOCK // 2, 2):
            a[pairs[i]] += np.uint32(1)
            b[pairs[i + 1]] += np.uint32(1)
    return np.int64(largest)


def count_bytes(target, guess, valid, has_valid, first, last, counts):
    """Add the pairs of any bytes from `first` to `last` to `counts` (HISTOGRAMS, 65536), at 256 target + guess."""
    n = last - first
    t, p = target[first:last], guess[first:last]
    whole = n // 4 * 4
    if has_valid:
        keep = valid[first:last]
        for i in range(n):
            counts[i & 3, (np.int64(t[i]) << 8) | np.int64(p[i])] += np.uint32(keep[i])
        return
    a, b, c, d = counts[0], counts[1], counts[2], counts[3]
    for i in range(0, whole, 4):
        a[(np.int64(t[i]) << 8) | np.int64(p[i])] += np.uint32(1)
        b[(np.int64(t[i + 1]) << 8) | np.int64(p[i + 1])] += np.uint32(1)
        c[(np.int64(t[i + 2]) << 8) | np.int64(p[i + 2])] += np.uint32(1)
        d[(np.int64(t[i + 3]) << 8) | np.int64(p[i + 3])] += np.uint32(1)
    for i in range(whole, n):
        a[(np.int64(t[i]) << 8) | np.int64(p[i])] += np.uint32(1)


def pair_counts(
    target: NDArray[np.generic],
    guess: NDArray[np.generic],
    valid: NDArray[np.bool_] | None,
    ignore_index: int | None,
) -> NDArray[np.int64] | None:
    """Return how often each pair of bytes occurs, (256, 256), truth by row; None: numpy shall count.

    Args:
        target, guess: (N,) uint8, bool or any integers that fit into a byte. valid: (N,), True = counts.
        ignore_index: a target that does not count.
    """
    if not target.size or target.size > MOST:
        return None
    few = kernel_for(count_few, FEW_SIGNATURE, target.size)
    if few is None:
        return None
    t, p = _bytes(target), _bytes(guess)
    if t is None or p is None:
        return None
    keep = np.ones(1, dtype=bool) if valid is None else np.ascontiguousarray(valid)
    # 255 is no class here: where it is not to be ignored, and occurs, the largest class says so.
    ignore = ignore_index if ignore_index is not None and 0 <= ignore_index <= 255 else None
    none = 255 if ignore is None else ignore

    def by_two(first: int, last: int) -> tuple[int, NDArray[np.int64]]:
        counts = np.zeros((2, 1 << 16), dtype=np.uint32)
        largest = few(t, p, keep, valid is not None, none, first, last, counts)
        both = counts.sum(axis=0, dtype=np.int64).reshape(256, 256)
        return int(largest), both.sum(axis=0) + both.sum(axis=1)

    if ignore is not None or not bool((t == 255).any()):
        found = run_bands(by_two, target.size, step=STEP)
        if max(largest for largest, _ in found) <= 14:
            counts = np.zeros((256, 256), dtype=np.int64)
            counts[:16, :16] = np.sum([c for _, c in found], axis=0).reshape(16, 16)
            counts[15, 15] = 0
            return counts
    any_byte = kernel_for(count_bytes, SIGNATURE, target.size)
    assert any_byte is not None  # numba is there: the other kernel was

    def by_one(first: int, last: int) -> NDArray[np.int64]:
        counts = np.zeros((HISTOGRAMS, 1 << 16), dtype=np.uint32)
        any_byte(t, p, keep, valid is not None, first, last, counts)
        return np.asarray(counts.sum(axis=0, dtype=np.int64))

    every = np.sum(run_bands(by_one, target.size, step=STEP), axis=0, dtype=np.int64).reshape(256, 256)
    if ignore is not None:
        every[ignore] = 0
    return np.asarray(every)


def _bytes(values: NDArray[np.generic]) -> NDArray[np.uint8] | None:
    """Return classes as bytes; None where some are none."""
    if values.dtype in (np.uint8, np.bool_):
        return np.ascontiguousarray(values).view(np.uint8)
    out = np.empty(values.size, dtype=np.uint8)

    def narrow(first: int, last: int) -> bool:
        for start in range(first, last, CACHED):
            some = values[start : min(start + CACHED, last)]
            if int(some.min()) < 0 or int(some.max()) > 255:
                return False
            out[start : start + some.size] = some
        return True

    return out if all(run_bands(narrow, values.size, step=STEP)) else None
