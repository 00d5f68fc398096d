"""Regions of one class in a map, as runs along its rows; regions that are too small join their neighbours.

Nothing is held pixel by pixel: memory grows with the number of runs (about 300 bytes each), not with the map.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Rows = Iterable[tuple[int, NDArray[np.uint8]]]
"""(first row, classes (n, width)), from top to bottom."""
PixelAreas = Callable[[int, int], NDArray[np.float64]]
"""(first row, number of rows) -> area of each pixel (n, width)."""


@dataclass(frozen=True, slots=True)
class Runs:
    """A map as runs of equal values along its rows."""

    height: int
    width: int
    starts: NDArray[np.int64]
    """(N,) first pixel of each run, counted row by row; every row begins with a run."""
    values: NDArray[np.uint8]
    """(N,)."""
    areas: NDArray[np.float64]
    """(N,) of the run's pixels together."""

    def rows(self, step: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield (first row, classes (n, width)) by `step` rows."""
        lengths = np.diff(self.starts, append=self.height * self.width)
        for first in range(0, self.height, step):
            n = min(step, self.height - first)
            low, high = np.searchsorted(self.starts, [first * self.width, (first + n) * self.width])
            yield first, np.repeat(self.values[low:high], lengths[low:high]).reshape(n, self.width)


def find_runs(rows: Rows, height: int, width: int, pixel_areas: PixelAreas) -> Runs:
    """Return the runs of a map that comes from top to bottom."""
    starts, values, areas = [], [], []
    for first, classes in rows:
        begins = np.ones(classes.shape, dtype=bool)
        begins[:, 1:] = classes[:, 1:] != classes[:, :-1]
        places = np.flatnonzero(begins)
        starts.append(places + first * width)
        values.append(classes.ravel()[places])
        areas.append(np.add.reduceat(pixel_areas(first, len(classes)).ravel(), places))
    return Runs(height, width, np.concatenate(starts), np.concatenate(values), np.concatenate(areas))


def merge_small(runs: Runs, min_area: float, nodata: int) -> Runs:
    """Return the map without regions below the minimum mapping unit: each has joined a neighbour.

    A region is what hangs together by sides of pixels, of one class. In rounds, each region below `min_area` that is
    smaller than all such neighbours takes the class of its largest neighbour (of equal areas, the one that begins
    last), until none is left. Nodata neither takes nor gives; a small region that only nodata surrounds stays.
    """
    above, below, beside = _touching(runs)
    same = runs.values[above] == runs.values[below]
    labels = _components(above[same], below[same], len(runs.starts))
    count = int(labels.max()) + 1
    areas: NDArray[np.float64] = np.bincount(labels, runs.areas, count).astype(np.float64)
    classes = np.zeros(count, dtype=np.uint8)
    classes[labels] = runs.values
    one = np.concatenate([labels[above[~same]], labels[beside]])
    two = np.concatenate([labels[below[~same]], labels[beside + 1]])
    known = (classes[one] != nodata) & (classes[two] != nodata)
    one, two = _unique(one[known], two[known], count)
    final = np.arange(count)  # region at first -> region now
    while True:
        moving, towards = _movers(areas, one, two, min_area)
        if not len(moving):
            break
        classes[moving] = classes[towards]
        equal = classes[one] == classes[two]
        joined = _components(one[equal], two[equal], len(areas))
        count = int(joined.max()) + 1
        areas = np.bincount(joined, areas, count).astype(np.float64)
        merged = np.zeros(count, dtype=np.uint8)
        merged[joined] = classes
        classes, final = merged, joined[final]
        one, two = _unique(joined[one[~equal]], joined[two[~equal]], count)
    return Runs(runs.height, runs.width, runs.starts, classes[final[labels]], runs.areas)


def _touching(runs: Runs) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return runs one above the other (two arrays), and those that have another to their right in the same row."""
    below = np.union1d(runs.starts[runs.starts >= runs.width], runs.starts + runs.width)
    below = below[below < runs.height * runs.width]
    lower = np.searchsorted(runs.starts, below, side="right") - 1
    upper = np.searchsorted(runs.starts, below - runs.width, side="right") - 1
    beside = np.flatnonzero(runs.starts[1:] % runs.width != 0)
    return upper, lower, beside


def _movers(
    areas: NDArray[np.float64], one: NDArray[np.int64], two: NDArray[np.int64], min_area: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the regions that move in this round, no two of them neighbours, and whom each joins."""
    order = np.argsort(areas, kind="stable")
    rank = np.empty(len(areas), dtype=np.int64)
    rank[order] = np.arange(len(areas))
    sources, targets = np.concatenate([one, two]), np.concatenate([two, one])
    mine = areas[sources] < min_area
    sources, targets = sources[mine], targets[mine]
    largest = np.full(len(areas), -1, dtype=np.int64)
    np.maximum.at(largest, sources, rank[targets])
    lowest = np.full(len(areas), len(areas), dtype=np.int64)
    small = areas[targets] < min_area
    np.minimum.at(lowest, sources[small], rank[targets[small]])
    moving = np.flatnonzero((largest >= 0) & (rank < lowest))
    return moving, order[largest[moving]]


def _components(one: NDArray[np.int64], two: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Number the connected parts of a graph, in the order of their first members."""
    graph = coo_array((np.ones(len(one), dtype=np.bool_), (one, two)), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    _, firsts, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.empty(len(firsts), dtype=np.int64)
    order[np.argsort(firsts)] = np.arange(len(firsts))
    return np.asarray(order[inverse], dtype=np.int64)


def _unique(
    one: NDArray[np.int64], two: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    low, high = np.minimum(one, two), np.maximum(one, two)
    keys = np.unique(low * count + high)
    return keys // max(count, 1), keys % max(count, 1)
