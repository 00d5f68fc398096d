"""How a scene is cut into windows for a network, and what memory that will take: plain geometry, no pixel is read."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from sartransfer.scene import Window

ONE_PASS, EXACT, SPLIT, MEASURED, OVERLAP = "one pass", "windows", "split stage", "measured", "overlap"
METHODS = (ONE_PASS, EXACT, SPLIT, MEASURED, OVERLAP)


@dataclass(frozen=True, slots=True)
class ScenePlan:
    """How a scene of one size goes through a network."""

    method: str
    """``one pass``, ``windows`` (exact), ``split stage`` (exact), ``measured`` (windows, exact, after what the network
    asks of the whole image was measured by windows) or ``overlap`` (not exact)."""
    stride: int
    """Windows begin at multiples of this."""
    core: int
    """Side of the part of a window that is kept, in pixels."""
    halo: int
    """Pixels around it that are computed as well; for ``overlap`` half a window."""
    rows: int = 0
    """Rows of features in a band of the split stage."""
    features_bytes: int = 0
    """Bytes of the scene's features at 1/16 that the split stage keeps."""
    features_in_memory: bool = False
    """Whether they are kept in memory; else in a file."""
    frugal: bool = False
    """Whether the split stage's steps give back to each other what an engine would keep for the next scene."""
    memory: int = 0
    """Bytes that this takes at its peak, beyond what the process held before and the network's weights."""
    passes: int = 0
    """How often all windows are looked at before they are asked, for ``measured``."""
    look: int = 0
    """The halo of those looks."""

    @property
    def exact(self) -> bool:
        """Whether the answer is that of one pass over the whole scene."""
        return self.method != OVERLAP

    def describe(self) -> str:
        """Return the plan in words, for a map's metadata."""
        if self.method == ONE_PASS:
            return ONE_PASS
        if self.method == EXACT:
            return (
                f"windows of {self.core} px with a halo of {self.halo} px (exact: as far as the network sees)"
            )
        if self.method == SPLIT:
            return (
                f"split stage: encoder by windows of {self.core} px with a halo of {self.halo} px, head over "
                "the whole scene (exact)"
            )
        if self.method == MEASURED:
            times = {0: "told their place", 1: "looked at once before", 2: "looked at twice before"}
            return (
                f"windows of {self.core} px with a halo of {self.halo} px, "
                f"{times.get(self.passes, f'looked at {self.passes} times before')} for what the network asks of the "
                "whole image (exact)"
            )
        return (
            f"overlapped windows of {2 * self.halo} px with smooth weights (not exact: the network sees farther "
            "than a window)"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return asdict(self)


def cut(height: int, width: int, core: int) -> Iterator[Window]:
    """Yield squares of `core` pixels, cut to the scene, row by row: every pixel lies in one."""
    for row in range(0, height, core):
        for col in range(0, width, core):
            yield Window(row, col, min(core, height - row), min(core, width - col))


def grow(kept: Window, halo: int, stride: int, height: int, width: int) -> Window:
    """Return what must be seen to know `kept`: with a halo, from a multiple of `stride`, inside the scene."""
    top = max(0, kept.row // stride * stride - halo)
    left = max(0, kept.col // stride * stride - halo)
    bottom = min(height, -(-(kept.row + kept.height) // stride) * stride + halo)
    right = min(width, -(-(kept.col + kept.width) // stride) * stride + halo)
    return Window(top, left, bottom - top, right - left)


def hull(windows: list[Window]) -> Window:
    """Return the smallest window that holds all of them."""
    top, left = min(w.row for w in windows), min(w.col for w in windows)
    bottom, right = max(w.row + w.height for w in windows), max(w.col + w.width for w in windows)
    return Window(top, left, bottom - top, right - left)


def inside(window: Window, of: Window) -> tuple[slice, slice]:
    """Return the slices that cut `window` out of an array that begins at `of`."""
    row, col = window.row - of.row, window.col - of.col
    return slice(row, row + window.height), slice(col, col + window.width)


View = tuple[int, bool]
"""(turns by 90 degrees, mirrored before): ``rot90(flip(image, -1) if mirrored else image, turns)``."""


def viewed(window: Window, height: int, width: int, view: View) -> Window:
    """Return where a window of a scene of `height` x `width` lies in a view of the scene."""
    turns, mirror = view
    if mirror:
        window = Window(window.row, width - window.col - window.width, window.height, window.width)
    for _ in range(turns % 4):  # pixel (r, c) goes to (width - 1 - c, r)
        window = Window(width - window.col - window.width, window.row, window.width, window.height)
        height, width = width, height
    return window


def unviewed(window: Window, height: int, width: int, view: View) -> Window:
    """Return where a window of a view lies in the scene of `height` x `width`: the inverse of `viewed`."""
    turns, mirror = view
    sizes = (height, width) if turns % 2 == 0 else (width, height)
    window = viewed(window, *sizes, (-turns, False))
    return viewed(window, height, width, (0, mirror))


def viewed_size(height: int, width: int, view: View) -> tuple[int, int]:
    """Return the height and width of a view of a scene."""
    return (height, width) if view[0] % 2 == 0 else (width, height)


def covering(side: int, step: int) -> list[tuple[int, int]]:
    """Return (first, last + 1) of windows of two steps along a side, one step apart."""
    number = max(1, -(-side // step) - 1)
    return [(i * step, min(side, (i + 2) * step)) for i in range(number)]


def rounded(value: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple
