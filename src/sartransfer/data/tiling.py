"""Cutting a scene into patches that do not overlap, each with the one class that most of its pixels have."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sartransfer.catalog import IGNORE_INDEX
from sartransfer.errors import InputError
from sartransfer.scene import Window

MIN_SHARE = 0.5
MIN_KNOWN = 0.7


@dataclass(frozen=True, slots=True)
class Tiling:
    """Patches of one scene, and how many places gave none."""

    windows: tuple[Window, ...]
    """Row by row, on the grid that begins at the scene's first pixel."""
    classes: NDArray[np.int64]
    """(N,), class index of each."""
    shares: NDArray[np.float64]
    """(N,), share of the class among the patch's known pixels."""
    unknown: int
    """Places left out since too few of their pixels have a label and a value."""
    mixed: int
    """Places left out since no class has the wanted share, or two have the same."""
    edge: int
    """Places at the right and lower edge that a whole patch does not fit into."""


def tile_labels(
    label: NDArray[np.uint8],
    valid: NDArray[np.bool_],
    size: int,
    *,
    min_share: float = MIN_SHARE,
    min_known: float = MIN_KNOWN,
    first_row: int = 0,
) -> Tiling:
    """Tile a scene into squares of `size` pixels, and name each by majority of its label.

    Args:
        label: (H, W) class indices, `IGNORE_INDEX` where nothing is known.
        valid: (H, W), True where the image has a value; a pixel counts as known if it has both.
        size: pixels a side.
        min_share: least share of the winning class among a patch's known pixels; a tie has no winner.
        min_known: least share of known pixels in a patch. One known pixel is needed at least.
        first_row: row of the scene that `label` begins with, for scenes that are read in parts.

    Raises `InputError` for arrays of two shapes, a size below 1 or shares outside 0 to 1.
    """
    if label.shape != valid.shape or label.ndim != 2:
        raise InputError(f"label {label.shape} and valid {valid.shape} must be (H, W) and of one shape.")
    check_tiling(size, min_share, min_known)
    (height, width), (down, across) = label.shape, (n // size for n in label.shape)
    edge = -(-height // size) * -(-width // size) - down * across
    counts = _count(label, valid, size, down, across)
    known = counts.sum(axis=1)
    winner, most = counts.argmax(axis=1), counts.max(axis=1, initial=0)
    seen = (known > 0) & (known >= min_known * size * size)
    alone = (counts == most[:, None]).sum(axis=1) == 1
    clear = seen & alone & (most >= min_share * known)
    chosen = np.flatnonzero(clear)
    return Tiling(
        windows=tuple(
            Window(first_row + int(i) // across * size, int(i) % across * size, size, size) for i in chosen
        ),
        classes=winner[chosen].astype(np.int64),
        shares=most[chosen] / known[chosen],
        unknown=int((~seen).sum()),
        mixed=int((seen & ~clear).sum()),
        edge=edge,
    )


def check_tiling(size: int, min_share: float, min_known: float) -> None:
    """Raise `InputError` for a size below 1 pixel or shares outside 0 to 1."""
    if size < 1:
        raise InputError(f"size={size}: a patch has at least 1 pixel a side.")
    for name, value in (("min_share", min_share), ("min_known", min_known)):
        if not 0 <= value <= 1:
            raise InputError(f"{name}={value} is not allowed: a share from 0 to 1.")


def _count(
    label: NDArray[np.uint8], valid: NDArray[np.bool_], size: int, down: int, across: int
) -> NDArray[np.int64]:
    """Return the known pixels of each class in each tile: (tiles, classes up to the highest that occurs)."""
    rows, cols = down * size, across * size
    known = np.where(valid, label, np.uint8(IGNORE_INDEX))[:rows, :cols]
    tile = (np.arange(rows) // size)[:, None] * across + (np.arange(cols) // size)[None, :]
    flat = np.bincount((tile * 256 + known).ravel(), minlength=down * across * 256)
    counts: NDArray[np.int64] = flat.reshape(down * across, 256)[:, :IGNORE_INDEX].astype(np.int64)
    return counts
