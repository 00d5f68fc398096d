"""Half a scene to train on, half to validate on: a straight cut through the footprint, and what lies on which side.

As in Karimzadeh and Pires de Lima (IGARSS 2023): the scene's area of values is a square that stands on the map at an
angle; the cut joins the middle of its left and upper corners to the middle of its lower and right ones. In their code
(github.com/geohai/sea-ice-segment, resources/EE_IO-poly_type-all.csv) the lower left half (SW) trains and the upper
right one (NE) validates. Theirs cuts the labels only, so that training patches see validation pixels; here a window is
on a side when all of it is.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError, one_of
from sartransfer.scene import Window

Side = Literal["upper-right", "lower-left"]
SIDES: tuple[Side, ...] = ("upper-right", "lower-left")
VALIDATES: Side = "upper-right"


@dataclass(frozen=True, slots=True)
class Cut:
    """A straight line through a scene's grid."""

    row: float
    """A point on it: pixels from the upper edge of the grid; a pixel's centre is half a pixel in."""
    col: float
    """Pixels from the left edge."""
    normal: tuple[float, float]
    """(rows, columns) of length 1, towards the upper right side."""

    def __post_init__(self) -> None:
        if not np.isclose(np.hypot(*self.normal), 1.0):
            raise InputError(f"normal={self.normal}: must have the length 1.")

    def distance(self, rows: NDArray[np.floating], cols: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the pixels between points and the line: positive on the upper right side."""
        down, right = self.normal
        return np.asarray(down * (rows - self.row) + right * (cols - self.col), dtype=np.float64)


def cut_in_half(valid: NDArray[np.bool_]) -> Cut:
    """Cut the footprint of a scene in half.

    Args:
        valid: (H, W), True where the scene has values; of a large scene every tenth pixel will do, scaled back.

    Its corners are those of the smallest rectangle, turned as it may be, that holds all these pixels. Where it stands
    straight the cut is level. Raises `InputError` if nothing is valid.
    """
    left, upper, right, lower = _corners(valid)
    one, two = (left + upper) / 2, (lower + right) / 2
    along = (two - one) / np.hypot(*(two - one))
    normal = np.array([-along[1], along[0]])  # (rows, columns), across
    middle = (one + two) / 2
    if normal @ ((upper + right) / 2 - middle) < 0:
        normal = -normal
    return Cut(float(middle[0]), float(middle[1]), (float(normal[0]), float(normal[1])))


def half_mask(cut: Cut, side: Side, window: Window, buffer: float = 0.0) -> NDArray[np.bool_]:
    """Say which pixels of a window have their centre on a side, more than `buffer` pixels from the cut: (h, w)."""
    _check(side, buffer)
    rows = np.arange(window.row, window.row + window.height)[:, None] + 0.5
    cols = np.arange(window.col, window.col + window.width)[None, :] + 0.5
    distance = cut.distance(rows, cols)
    return np.asarray(distance > buffer if side == "upper-right" else distance < -buffer)


def is_on_side(cut: Cut, side: Side, window: Window, buffer: float = 0.0) -> bool:
    """Say whether every pixel of a window has its centre on a side, more than `buffer` pixels from the cut."""
    _check(side, buffer)
    rows = np.array([0.5, window.height - 0.5])[:, None] + window.row
    cols = np.array([0.5, window.width - 0.5])[None, :] + window.col
    distance = cut.distance(rows, cols)  # a window is convex: its corners tell
    return bool((distance > buffer).all() if side == "upper-right" else (distance < -buffer).all())


def half_window(cut: Cut, side: Side, height: int, width: int) -> Window:
    """Return the smallest window that holds all of a side: a whole half, to be read and masked in one pass."""
    _check(side, 0.0)
    whole = Window(0, 0, height, width)
    mask = half_mask(cut, side, whole)
    if not mask.any():
        raise InputError(f"the cut leaves nothing of {height} x {width} pixels on the side {side!r}.")
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Window(int(rows[0]), int(cols[0]), int(rows[-1] - rows[0]) + 1, int(cols[-1] - cols[0]) + 1)


def _corners(valid: NDArray[np.bool_]) -> tuple[NDArray[np.float64], ...]:
    """Return the left, upper, right and lower corner of a footprint, each (row, column)."""
    import shapely

    rows = np.flatnonzero(valid.any(axis=1))
    if rows.size == 0:
        raise InputError("no pixel of the scene has a value: its footprint cannot be cut in half.")
    first = valid[rows].argmax(axis=1)
    last = valid.shape[1] - valid[rows, ::-1].argmax(axis=1)
    # Both ends of each line of pixels, upper and lower edge: these hold the corners of all pixels.
    ends = [(r + down, c) for down in (0, 1) for r, c in ((rows, first), (rows, last))]
    points = np.concatenate([np.stack([c, r], axis=1) for r, c in ends]).astype(np.float64)
    rectangle = shapely.oriented_envelope(shapely.multipoints(points))
    ring = shapely.get_coordinates(rectangle)[:4, ::-1]
    # Left is the leftmost corner; of two, the lower: then upper, right and lower follow clockwise as one sees them.
    at = int(np.lexsort((-ring[:, 0], np.round(ring[:, 1], 6)))[0])
    turn = 1 if ring[(at + 1) % 4][0] < ring[(at - 1) % 4][0] else -1
    return tuple(ring[(at + turn * k) % 4] for k in range(4))


def _check(side: str, buffer: float) -> None:
    if side not in SIDES:
        raise InputError(one_of("side", side, SIDES))
    if not (np.isfinite(buffer) and buffer >= 0):
        raise InputError(f"buffer={buffer}: must be 0 or more pixels.")
