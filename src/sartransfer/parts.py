"""A part of a scene: what lies on one side of a straight cut through its grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError, one_of
from sartransfer.scene import Source, Window

Side = Literal["upper-right", "lower-left"]
SIDES: tuple[Side, ...] = ("upper-right", "lower-left")


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


@dataclass(frozen=True, slots=True)
class Part:
    """One side of a cut, from a distance on."""

    cut: Cut
    side: Side
    buffer: float = 0.0
    """Pixels next to the cut that belong to neither side."""

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise InputError(one_of("side", self.side, SIDES))
        if not (np.isfinite(self.buffer) and self.buffer >= 0):
            raise InputError(f"buffer={self.buffer}: must be 0 or more pixels.")

    def mask(self, window: Window) -> NDArray[np.bool_]:
        """Say which pixels of a window have their centre in this part: (h, w)."""
        rows = np.arange(window.row, window.row + window.height)[:, None] + 0.5
        cols = np.arange(window.col, window.col + window.width)[None, :] + 0.5
        return self._is_beyond(self.cut.distance(rows, cols))

    def holds(self, window: Window) -> bool:
        """Say whether every pixel of a window has its centre in this part."""
        rows = np.array([0.5, window.height - 0.5])[:, None] + window.row
        cols = np.array([0.5, window.width - 0.5])[None, :] + window.col
        return bool(self._is_beyond(self.cut.distance(rows, cols)).all())  # convex: its corners tell

    def window(self, height: int, width: int) -> Window:
        """Return the smallest window of a grid that holds all of this part; `InputError` if there is nothing."""
        mask = self.mask(Window(0, 0, height, width))
        if not mask.any():
            raise InputError(
                f"the cut leaves nothing of {height} x {width} pixels on the side {self.side!r}."
            )
        rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        return Window(int(rows[0]), int(cols[0]), int(rows[-1] - rows[0]) + 1, int(cols[-1] - cols[0]) + 1)

    def _is_beyond(self, distance: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.asarray(
            distance > self.buffer if self.side == "upper-right" else distance < -self.buffer, dtype=np.bool_
        )


@dataclass(frozen=True, slots=True)
class PartSource:
    """The pixels of one part of a scene; elsewhere nothing is valid, so nobody can see across the cut."""

    source: Source
    part: Part

    def read(self, indices: Sequence[int], window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read the window; what lies outside the part is not valid."""
        values, valid = self.source.read(indices, window)
        return values, valid & self.part.mask(window)
