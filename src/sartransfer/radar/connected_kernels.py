"""Connected regions and the flood's rules as loops for numba: twins of `connected` and `flood.decide`, exact."""

import numpy as np

COUNT_SIGNATURE = "void(boolean[:,::1], int64, int64, uint8[:,::1])"
DECIDE_SIGNATURE = (
    "void(uint8[:,::1], uint8[:,::1], int64, uint8[:,::1], int64, uint8[::1], int64, int64, uint8[:,::1])"
)


def root_of(parent, i):
    """Return the first run of a run's region; on the way each one is hung to its grandparent."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


def find_runs(row, starts, ends, first):
    """Write the runs of flagged pixels of a row (start, end) from number `first` on; return the next number."""
    width, j = len(row), 0
    while j < width:
        while j < width and not row[j]:
            j += 1
        if j < width:
            starts[first] = j
            while j < width and row[j]:
                j += 1
            ends[first] = j
            first += 1
    return first


def count_regions(flagged, cap, reach, out):
    """Write the pixels of each flagged pixel's region, at most `cap`; 0 elsewhere. `reach` 1: diagonals connect."""
    height, width = flagged.shape
    runs = 0
    for r in range(height):
        row = flagged[r]
        if width > 0 and row[0]:
            runs += 1
        for j in range(1, width):
            runs += 1 if row[j] & (not row[j - 1]) else 0
    starts, ends = np.empty(runs, np.int32), np.empty(runs, np.int32)
    parent, size = np.empty(runs, np.int64), np.zeros(runs, np.int64)
    firsts = np.zeros(height + 1, np.int64)
    before, here = 0, 0
    for r in range(height):
        number = find_runs(flagged[r], starts, ends, here)
        above = before
        for i in range(here, number):
            parent[i] = i
            # Two runs touch where each begins before the other ends; with diagonals, one pixel after it.
            while above < here and ends[above] + reach <= starts[i]:
                above += 1
            k = above
            while k < here and starts[k] < ends[i] + reach:
                a, b = root_of(parent, k), root_of(parent, i)
                parent[max(a, b)] = min(a, b)
                k += 1
        before, here = here, number
        firsts[r + 1] = number
    for i in range(runs):
        size[root_of(parent, i)] += ends[i] - starts[i]
    for r in range(height):
        out[r, :] = 0
        for i in range(firsts[r], firsts[r + 1]):
            out[r, starts[i] : ends[i]] = min(size[root_of(parent, i)], cap)


def decide_rows(levels, ground, index, counts, least, table, top, bottom, out):
    """Look the rule of each pixel up in `table`; see `flood.decide`."""
    width = levels.shape[1]
    for r in range(top, bottom):
        a, g, n, line = levels[r], ground[r], counts[r], out[r]
        for j in range(width):
            known = (g[j] & 128) == 0
            flagged = (a[j] > index) & known
            code = (g[j] & 7) | (8 if flagged else 0) | (16 if n[j] < least else 0) | (0 if known else 32)
            line[j] = table[code]


HELPERS = (root_of, find_runs)
