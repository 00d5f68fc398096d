"""Stitching: which images continue one another across their borders, so that they were cut from one.

Noise between unrelated images does not agree; the noise of two lines of pixels that were neighbours does
(speckle is correlated over a resolution cell, and scene edges go on). What is compared are the *differences*
along the border lines: they are nearly white, so that slow trends, which agree by chance, do not count.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Measured on OMBRIA's 746 tiles (256 px), where unrelated lines scatter by 0.08: of 933 ties, over 250
# close loops of tiles and all come back to where they began; none joins two floods. Between training and
# test none at all is found among 5,171 MSTAR chips, 3,720 photographs (NWPU-RESISC45) and 4,163 TerraSAR-X
# and SLC patches.
LEAST_CORRELATION = 0.4
DEVIATIONS = (
    6.4  # the same in standard deviations 1 / sqrt(n) of white lines: shorter lines must agree better
)
MOST_FLAT = 0.75  # of a line: steps of 0, as of nodata or of dark water in 8 bits
BLOCK = 2048  # lines that are compared with all others at once: bounds the memory


def stitch_pairs(images: Sequence[NDArray[Any]]) -> list[tuple[int, int]]:
    """Return the pairs (i, j) of images that continue one another: j to the right of i, or below it.

    Args:
        images: (K, H, W) each, any numbers; NaN where there is no value. K layers of one grid: the dates
            of a pair, the colours of a photograph. Sizes may differ; borders of equal length are compared.

    A pair continues if the differences along the adjoining border lines correlate by at least
    `LEAST_CORRELATION` (more for lines under 256 pixels) in *every* layer, and each is the other's best
    match. Lines under 42 pixels are too short to tell anything. Matrix products, block by block: under a
    second for a thousand images.
    """
    borders = [border_lines(image) for image in images]
    return stitch_lines(borders)


def stitch_groups(images: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """Return a group number (N,) for each image; those that continue one another share it.

    Args:
        images: as in `stitch_pairs`.

    Numbers count from 0 in the order of each group's first image. Two images share a group directly or over
    others between them; an image that continues none is alone.
    """
    return group_pairs(len(images), stitch_pairs(images))


Lines = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def border_lines(image: NDArray[Any]) -> Lines:
    """Return an image's right, left, bottom and top line, each (K, length)."""
    if image.ndim != 3:
        raise ValueError(f"an image to stitch is (K, H, W), not {image.shape}")
    lines = (image[:, :, -1], image[:, :, 0], image[:, -1, :], image[:, 0, :])
    right, left, bottom, top = (np.array(line, dtype=np.float32) for line in lines)
    return right, left, bottom, top


def stitch_lines(borders: Sequence[Lines]) -> list[tuple[int, int]]:
    """Return the pairs of `stitch_pairs` from border lines alone (see `border_lines`)."""
    pairs = []
    for first, second in ((0, 1), (2, 3)):
        shapes = [lines[first].shape for lines in borders]
        for shape in sorted(set(shapes)):
            members = [i for i, s in enumerate(shapes) if s == shape]
            least = max(LEAST_CORRELATION, DEVIATIONS / np.sqrt(max(shape[1] - 1, 1)))
            if len(members) < 2 or least > 1:
                continue
            ends = _white(np.stack([borders[i][first] for i in members]))
            starts = _white(np.stack([borders[i][second] for i in members]))
            pairs += [(members[a], members[b]) for a, b in _mutual_best(ends, starts, least)]
    return sorted(set(pairs))


def group_pairs(count: int, pairs: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Return the connected component (N,) of each of `count` images tied by `pairs`."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows, cols = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    ties = coo_matrix((np.ones(len(rows), dtype=bool), (rows, cols)), shape=(count, count))
    labels = connected_components(ties, directed=False)[1]
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(int(k), len(numbers)) for k in labels], dtype=np.int64)


def _white(lines: NDArray[np.float32]) -> NDArray[np.float32]:
    """Clipped differences along lines (N, K, L), of mean 0 and length 1; no contrast or no values: 0."""
    steps = np.nan_to_num(np.diff(lines, axis=-1), nan=0.0, posinf=0.0, neginf=0.0)
    # One bright point or shore on each of two lines correlates them by itself: no step counts for over three
    # usual ones (the median of those that are not 0), and a line that is mostly flat tells nothing.
    size = np.sort(np.abs(steps), axis=-1)
    flat = (size == 0).sum(axis=-1, keepdims=True)
    middle = np.minimum((flat + steps.shape[-1]) // 2, steps.shape[-1] - 1)
    usual = np.where(flat > MOST_FLAT * steps.shape[-1], 0, np.take_along_axis(size, middle, axis=-1))
    steps = np.clip(steps, -3 * usual, 3 * usual)
    steps -= steps.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(steps, axis=-1, keepdims=True)
    out: NDArray[np.float32] = np.divide(steps, length, out=np.zeros_like(steps), where=length > 1e-3 * usual)
    return out


def _mutual_best(
    ends: NDArray[np.float32], starts: NDArray[np.float32], least: float
) -> list[tuple[int, int]]:
    """Pairs (end, start), each the other's best match, that correlate by `least` or more in every layer."""
    count = len(ends)
    best_start, row_score = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.float32)
    best_end, column_score = np.zeros(count, dtype=np.int64), np.full(count, -2.0, dtype=np.float32)
    for begin in range(0, count, BLOCK):
        block = ends[begin : begin + BLOCK]
        score = block[:, 0] @ starts[:, 0].T
        for layer in range(1, ends.shape[1]):
            np.minimum(score, block[:, layer] @ starts[:, layer].T, out=score)
        here = np.arange(len(block))
        score[here, begin + here] = -1.0  # an image does not continue itself
        best_start[begin : begin + len(block)] = score.argmax(axis=1)
        row_score[begin : begin + len(block)] = score.max(axis=1)
        better = score.max(axis=0) > column_score
        best_end[better] = begin + score.argmax(axis=0)[better]
        column_score = np.maximum(column_score, score.max(axis=0))
    found = np.flatnonzero((row_score >= least) & (best_end[best_start] == np.arange(count)))
    return [(int(i), int(best_start[i])) for i in found]
