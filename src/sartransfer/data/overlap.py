"""Patches cut from one image that share pixels: which they are, and splits that do not tear them apart."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import CatalogError

PROBE = 5  # pixels along one side of the corner that is looked for in other patches


def position_pairs(
    places: NDArray[np.integer], images: Sequence[Hashable], size: int
) -> list[tuple[int, int]]:
    """Return the pairs (i, j), i < j, of square patches of one image that overlap or touch, by their places.

    Args:
        places: (N, 2) row and column of each patch.
        images: (N,) which image it was cut from.
        size: side of all patches, pixels.
    """
    cells: dict[tuple[Hashable, int, int], list[int]] = {}
    pairs = []
    for j, (row, col) in enumerate(places.tolist()):
        r, c = row // size, col // size
        for cell in ((images[j], r + a, c + b) for a in (-1, 0, 1) for b in (-1, 0, 1)):
            for i in cells.get(cell, ()):
                if max(abs(places[i, 0] - row), abs(places[i, 1] - col)) <= size:
                    pairs.append((i, j))
        cells.setdefault((images[j], r, c), []).append(j)
    return sorted(pairs)


def content_pairs(patches: NDArray[np.integer]) -> list[tuple[int, int]]:
    """Return the pairs (i, j), i < j, of patches that show the same pixels, wherever they are said to lie.

    Args:
        patches: (N, H, W) whole numbers, as stored (not resampled, not scaled).

    A corner of `PROBE` x `PROBE` pixels of one patch is looked for in all others; where it is found, every pixel
    that the two then share must be equal. So overlaps of at least `PROBE` pixels each way are found, and nothing
    else; corners of one single value are not looked for. Two seconds for 2,500 patches of 64 pixels.
    """
    count, height, width = patches.shape
    if count == 0 or min(height, width) < PROBE:
        return []
    weights = np.random.default_rng(0).integers(1, 2**63, (PROBE, PROBE), dtype=np.uint64) | np.uint64(1)
    corners = [(r, c) for r in (0, height - PROBE) for c in (0, width - PROBE)]
    sums = [_probe_sums(patch, weights) for patch in patches]
    owners = [
        (i, r, c)
        for i in range(count)
        for r, c in corners
        if np.ptp(patches[i, r : r + PROBE, c : c + PROBE])
    ]
    if not owners:
        return []
    probes = np.array([sums[i][r, c] for i, r, c in owners], dtype=np.uint64)
    order = np.argsort(probes, kind="stable")
    ordered = probes[order]
    seen = np.zeros(1 << 20, dtype=bool)  # by their lowest 20 bits: spares a search for nearly every square
    seen[probes & np.uint64(seen.size - 1)] = True
    pairs: set[tuple[int, int]] = set()
    for j in range(count):
        flat = sums[j].ravel()
        likely = np.flatnonzero(seen[flat & np.uint64(seen.size - 1)])
        first, last = (np.searchsorted(ordered, flat[likely], side) for side in ("left", "right"))
        for at, begin, end in zip(likely, first, last, strict=True):
            row, col = divmod(int(at), sums[j].shape[1])
            for k in order[begin:end]:
                i, r, c = owners[k]
                pair = (min(i, j), max(i, j))
                if i != j and pair not in pairs and _agree(patches[i], patches[j], r - row, c - col):
                    pairs.add(pair)
    return sorted(pairs)


def split_groups(
    groups: Sequence[str], classes: Sequence[str], shares: Mapping[str, float]
) -> dict[str, str]:
    """Divide whole groups among splits so that every class has its share of patches in each, as near as can be.

    Args:
        groups: (N,) the group of each patch.
        classes: (N,) its class; a group may hold several.
        shares: split -> share of the patches; adds up to 1.

    Returns:
        Group -> split. Nothing is drawn: the largest groups are dealt first, and then groups are moved and
        swapped while the sum of squared deviations falls, (held / wanted - 1)^2 over all classes and splits.

    Raises:
        CatalogError: shares that do not add up to 1, or a class that cannot be in every split.
    """
    if abs(sum(shares.values()) - 1) > 1e-9 or min(shares.values()) <= 0:
        raise CatalogError(f"shares {dict(shares)} are not allowed: each above 0, together 1.")
    names, kinds, parts = sorted(set(groups)), sorted(set(classes)), list(shares)
    held = np.zeros((len(names), len(kinds)))
    for group, kind in zip(groups, classes, strict=True):
        held[names.index(group), kinds.index(kind)] += 1
    held /= held.sum(axis=0)
    goal = np.array([shares[p] for p in parts])[:, None]
    filled = np.zeros((len(parts), len(kinds)))
    part_of = np.zeros(len(names), dtype=np.int64)
    for g in sorted(range(len(names)), key=lambda g: -held[g].max()):
        # To the split that is emptiest, measured by what it shall hold, in the classes of this group.
        losses = [(((filled[p] + held[g]) / goal[p]) ** 2).sum() for p in range(len(parts))]
        part_of[g] = int(np.argmin(losses))
        filled[part_of[g]] += held[g]
    _improve(held, goal, part_of, filled)
    for p, c in zip(*np.nonzero(filled < 1e-12), strict=True):
        raise CatalogError(
            f"no patch of class {kinds[c]!r} can be in split {parts[p]!r}: too few groups hold it."
        )
    return {name: parts[p] for name, p in zip(names, part_of, strict=True)}


def _improve(
    held: NDArray[np.float64],
    goal: NDArray[np.float64],
    part_of: NDArray[np.int64],
    filled: NDArray[np.float64],
) -> None:
    """Move groups, and swap them two by two, while the sum of squared deviations falls; in place.

    A small split weighs as much as a large one, so that no class is left out of it.
    """

    def loss(moved: NDArray[np.float64], old: int, new: int) -> NDArray[np.float64]:
        """Deviation of two parts when `moved` (..., C) goes from one to the other."""
        left, right = (filled[old] - moved) / goal[old] - 1, (filled[new] + moved) / goal[new] - 1
        return np.asarray((left**2).sum(axis=-1) + (right**2).sum(axis=-1))

    better = True
    while better:
        better = False
        for g in range(len(held)):
            for new in range(len(goal)):
                old = int(part_of[g])
                others = np.flatnonzero(part_of == new)
                if new == old:
                    continue
                moves = np.vstack([held[g], held[g] - held[others]])  # alone, or against one of the others
                losses = loss(moves, old, new)
                k = int(np.argmin(losses))
                if losses[k] < loss(np.zeros_like(held[g]), old, new) - 1e-12:
                    part_of[g] = new
                    if k:
                        part_of[others[k - 1]] = old
                    filled[old] -= moves[k]
                    filled[new] += moves[k]
                    better = True


def _probe_sums(patch: NDArray[np.integer], weights: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Weighted sums, modulo 2^64, of every `PROBE` x `PROBE` square: equal squares have equal sums."""
    values = patch.astype(np.int64).astype(np.uint64)
    rows, cols = patch.shape[0] - PROBE + 1, patch.shape[1] - PROBE + 1
    out = np.zeros((rows, cols), dtype=np.uint64)
    for i in range(PROBE):
        for j in range(PROBE):
            out += values[i : i + rows, j : j + cols] * weights[i, j]
    return out


def _agree(one: NDArray[np.integer], other: NDArray[np.integer], down: int, right: int) -> bool:
    """Say whether all shared pixels are equal when `other` lies `down` and `right` of `one`."""
    height, width = one.shape
    a, b = slice(max(0, down), min(height, height + down)), slice(max(0, right), min(width, width + right))
    shifted = other[a.start - down : a.stop - down, b.start - right : b.stop - right]
    return np.array_equal(one[a, b], shifted)
