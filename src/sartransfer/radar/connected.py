"""How many pixels hang together with each flagged one, counted band by band and exactly."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sartransfer.compiled import kernel_for
from sartransfer.errors import InputError, one_of
from sartransfer.radar import connected_kernels

BAND = 1024  # rows that are labelled at once
NEIGHBOURS = {4: ndimage.generate_binary_structure(2, 1), 8: ndimage.generate_binary_structure(2, 2)}


def connected_counts(
    flagged: NDArray[np.bool_], cap: int = 255, *, neighbours: int = 8, band: int = BAND
) -> NDArray[np.uint8]:
    """Return the number of pixels of each flagged pixel's connected region, at most `cap`; 0 elsewhere.

    As Earth Engine's connectedPixelCount. Regions are labelled in bands of `band` rows, and joined where they touch
    across two bands: exact at any band height, and of an image of 10,000 x 10,000 no labels are held as a whole. A
    compiled loop over runs of flagged pixels takes large images where numba is installed: the same counts.

    Args:
        flagged: (H, W) bool. cap: 1 to 255. neighbours: 8 with the diagonals, or 4.
    """
    if flagged.ndim != 2 or flagged.dtype != bool:
        raise InputError(
            f"flagged has the shape {flagged.shape} and type {flagged.dtype}: must be (H, W) bool."
        )
    if neighbours not in NEIGHBOURS:
        raise InputError(one_of("neighbours", neighbours, NEIGHBOURS))
    if not 1 <= cap <= 255 or band < 1:
        raise InputError(f"cap={cap}, band={band}: cap must be from 1 to 255, band at least 1.")
    kernel = kernel_for(
        connected_kernels.count_regions,
        connected_kernels.COUNT_SIGNATURE,
        flagged.size,
        connected_kernels.HELPERS,
    )
    if kernel is not None:
        counts = np.empty(flagged.shape, dtype=np.uint8)
        kernel(np.ascontiguousarray(flagged), cap, int(neighbours == 8), counts)
        return counts
    structure = NEIGHBOURS[neighbours]
    sizes, firsts, pairs = [], [0], []
    above: NDArray[np.int64] | None = None
    for top in range(0, len(flagged), band):
        labels, number = ndimage.label(flagged[top : top + band], structure)
        sizes.append(np.bincount(labels.ravel(), minlength=number + 1)[1:])
        if above is not None:
            pairs.append(_touching(above, _numbered(labels[0], firsts[-1]), neighbours))
        above = _numbered(labels[-1], firsts[-1])
        firsts.append(firsts[-1] + number)
    joined = _joined(np.concatenate([np.zeros(0, np.int64), *sizes]), pairs)
    capped = np.minimum(joined, cap).astype(np.uint8)
    out = np.zeros(flagged.shape, dtype=np.uint8)
    for top, first in zip(range(0, len(flagged), band), firsts[:-1], strict=True):
        labels, number = ndimage.label(flagged[top : top + band], structure)
        out[top : top + band] = np.concatenate([np.zeros(1, np.uint8), capped[first : first + number]])[
            labels
        ]
    return out


def _numbered(row: NDArray[np.int32], first: int) -> NDArray[np.int64]:
    """Return a row's regions numbered over all bands, -1 where there is none."""
    return np.where(row > 0, row.astype(np.int64) - 1 + first, -1)


def _touching(above: NDArray[np.int64], below: NDArray[np.int64], neighbours: int) -> NDArray[np.int64]:
    """Return pairs (n, 2) of regions that touch between two rows."""
    found = [np.stack([above, below], axis=1)]
    if neighbours == 8:
        found += [np.stack([above[1:], below[:-1]], axis=1), np.stack([above[:-1], below[1:]], axis=1)]
    both = np.concatenate(found)
    return both[(both >= 0).all(axis=1)]


def _joined(sizes: NDArray[np.int64], pairs: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return for each region the pixels of all that it hangs together with."""
    edges = np.concatenate([np.zeros((0, 2), np.int64), *pairs])
    if not len(edges):
        return sizes
    graph = coo_array((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(len(sizes),) * 2)
    _, groups = connected_components(graph, directed=False)
    total = np.zeros(int(groups.max()) + 1, dtype=np.int64)
    np.add.at(total, groups, sizes)
    joined: NDArray[np.int64] = total[groups]
    return joined
