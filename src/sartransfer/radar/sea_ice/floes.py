"""Ice floes as convex polygons whose sizes follow a power law, and drawing them row by row."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError

SIDES = 7
"""Straight edges of a floe: fragments of a cracked sheet are convex polygons with rounded corners."""
TONES = 8
"""Brightnesses that floes of one class have."""
OLD_FROM = TONES + 1
"""Codes 1 to 8 are first-year floes of tones 0 to 7, 9 to 16 old ones; 0 is no floe."""
# Number of floes by diameter d goes as d^-exponent, with a seasonal cycle by break-up and melt (Stern et al. 2018,
# Elementa 6, 48 and 49, doi 10.1525/elementa.305 and .304: one law from 10 m to 30 km). Ends: 1.65 to 2.03 by area of a
# floe, steeper where ice is scarce (Denton and Timmermans 2022, The Cryosphere 16, 1563), which is twice that less 1 by
# diameter: 2.3 to 3.06. Which month has which is assumed.
EXPONENTS = (2.3, 2.3, 2.3, 2.4, 2.5, 2.7, 2.9, 3.0, 2.9, 2.6, 2.4, 2.3)
"""By month, January first."""
SMALLEST_M = 160.0  # four pixels of 40 m; smaller floes are texture
LARGEST_M = 12_000.0  # "giant floe" begins at 10 km (WMO No. 259)


@dataclass(frozen=True, slots=True)
class Floes:
    """Floes in the order in which they are drawn."""

    row: NDArray[np.float32]
    """(N,) centre, pixels of the scene."""
    col: NDArray[np.float32]
    radius: NDArray[np.float32]
    """(N,) pixels."""
    normals: NDArray[np.float32]
    """(N, SIDES, 2): outward direction of each side, (down, along)."""
    reach: NDArray[np.float32]
    """(N, SIDES): distance of each side from the centre, pixels."""
    code: NDArray[np.uint8]
    """(N,) class and tone."""

    def __post_init__(self) -> None:
        n = len(self.row)
        if not all(len(x) == n for x in (self.col, self.radius, self.normals, self.reach, self.code)):
            raise InputError("floes: all arrays must be of one length.")

    def __len__(self) -> int:
        return len(self.row)

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """Return all arrays, in the order in which they stand here."""
        return self.row, self.col, self.radius, self.normals, self.reach, self.code

    def crossing(self, first: int, rows: int) -> "Floes":
        """Return those that may have pixels in rows first ... first + rows - 1, in their order."""
        extent = np.float32(1.5) * self.radius + np.float32(1)
        hit = (self.row + extent >= first) & (self.row - extent <= first + rows - 1)
        return Floes(*(values[hit] for values in self.arrays()))


def power_law(
    count: int, exponent: float, smallest: float, largest: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return diameters whose density falls as d^-exponent between two sizes, by the inverse of its integral."""
    if not 0 < smallest < largest:
        raise InputError(f"floes from {smallest:g} to {largest:g}: must be above 0 and increase.")
    u, power = rng.random(count), 1.0 - exponent
    if abs(power) < 1e-9:
        return np.asarray(smallest * (largest / smallest) ** u)
    low, high = smallest**power, largest**power
    return np.asarray((low + u * (high - low)) ** (1 / power))


def mean_area(exponent: float, smallest: float, largest: float) -> float:
    """Return the mean area of a floe of that law: pi / 4 times the mean of the squared diameter."""

    def moment(order: float) -> float:
        power = order + 1.0 - exponent
        if abs(power) < 1e-9:
            return float(np.log(largest / smallest))
        return float((largest**power - smallest**power) / power)

    return np.pi / 4 * moment(2.0) / moment(0.0)


def make_floes(
    places: NDArray[np.float64],
    diameter: NDArray[np.float64],
    code: NDArray[np.uint8],
    rng: np.random.Generator,
) -> Floes:
    """Return floes of those centres (N, 2) in pixels, diameters (N,) in pixels, and codes, the largest drawn first."""
    n = len(places)
    around = (np.arange(SIDES) + rng.uniform(-0.35, 0.35, (n, SIDES))) * (2 * np.pi / SIDES)
    around += rng.uniform(0, 2 * np.pi, (n, 1))
    stretch = np.exp(rng.normal(0, 0.18, (n, 1)))  # length to width of 1.4, about; assumed
    turn = rng.uniform(0, np.pi, (n, 1))
    normals = np.stack([np.sin(around), np.cos(around)], axis=-1)
    # A polygon of 7 sides at the radius of the disc of the same area; sides differ by a tenth.
    reach = diameter[:, None] / 2 * 0.95 * np.exp(rng.normal(0, 0.1, (n, SIDES)))
    reach = reach * np.sqrt((stretch * np.cos(around - turn)) ** 2 + (np.sin(around - turn) / stretch) ** 2)
    order = np.argsort(-diameter, kind="stable")
    return Floes(
        places[order, 0].astype(np.float32),
        places[order, 1].astype(np.float32),
        (diameter[order] / 2).astype(np.float32),
        normals[order].astype(np.float32),
        reach[order].astype(np.float32),
        code[order],
    )


def draw_floes(near: Floes, first: int, out: NDArray[np.uint8]) -> None:
    """Write the code of the floe in each pixel into `out` (rows, width), whose first row is row `first` of the scene.

    Every row of a convex polygon is one stretch of pixels, whose ends follow from its sides. They are written floe by
    floe, so that smaller floes lie on larger ones.
    """
    rows, width = out.shape
    extent = np.float32(1.5) * near.radius + np.float32(1)
    top = np.maximum(np.ceil(near.row - extent), first).astype(np.int64)
    bottom = np.minimum(np.floor(near.row + extent), first + rows - 1).astype(np.int64)
    count = np.maximum(bottom - top + 1, 0)
    owner = np.repeat(np.arange(len(near)), count)
    start = np.cumsum(count) - count
    row = np.arange(count.sum()) - start[owner] + top[owner]
    left, right = _stretch(near, owner, row, width)
    code = near.code[owner]
    for i in np.flatnonzero(right >= left):
        out[row[i] - first, left[i] : right[i] + 1] = code[i]


def _stretch(
    floes: Floes, owner: NDArray[np.int64], row: NDArray[np.int64], width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first and last column of each floe in a row; first > last where it has none."""
    down = (row - floes.row[owner]).astype(np.float64)
    low, high = np.full(len(row), -1e9), np.full(len(row), 1e9)
    for k in range(SIDES):
        ny, nx = floes.normals[owner, k, 0].astype(np.float64), floes.normals[owner, k, 1].astype(np.float64)
        room = floes.reach[owner, k].astype(np.float64) - ny * down
        bound = room / np.where(np.abs(nx) < 1e-6, 1e-6, nx)
        high = np.where(nx >= 1e-6, np.minimum(high, bound), high)
        low = np.where(nx <= -1e-6, np.maximum(low, bound), low)
        closed = (np.abs(nx) < 1e-6) & (room < 0)
        low, high = np.where(closed, 1e9, low), np.where(closed, -1e9, high)
    middle = floes.col[owner].astype(np.float64)
    left = np.clip(np.ceil(middle + low), 0, width).astype(np.int64)
    right = np.clip(np.floor(middle + high), -1, width - 1).astype(np.int64)
    return left, right
