"""Simulated landscapes of water, open land and forest: what lies on the ground before any sensor looks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from sartransfer.errors import InputError, one_of

CLASSES = ("water", "open land", "forest")
WATER, OPEN_LAND, FOREST = range(3)


@dataclass(frozen=True, slots=True)
class Landscape:
    """What lies on the ground, before any sensor looks."""

    classes: NDArray[np.uint8]
    """(H, W), 0 water, 1 open land, 2 forest."""
    parcels: NDArray[np.int32]
    """(H, W), number of the field that a pixel belongs to, from 0; drawn under water and forest too."""
    relief: NDArray[np.float32]
    """(H, W), smooth terrain height, standardized."""

    def __post_init__(self) -> None:
        if not self.classes.shape == self.parcels.shape == self.relief.shape or self.classes.ndim != 2:
            raise InputError(
                f"a landscape's arrays must be (H, W) and alike: {self.classes.shape}, {self.parcels.shape}, "
                f"{self.relief.shape}."
            )
        if self.classes.size and self.classes.max() >= len(CLASSES):
            raise InputError(one_of("class", int(self.classes.max()), range(len(CLASSES))))


def make_field(size: int, length_px: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a Gaussian random field (size, size) of expected mean 0 and variance 1.

    Its power spectrum is (1 + (length k)^2)^-3 (Matern); it is cut from a larger periodic one, so
    that opposite edges do not match.
    """
    n = fft.next_fast_len(size + int(np.ceil(3 * length_px)), real=True)
    k = 2 * np.pi * length_px * fft.fftfreq(n)
    power = (1.0 + k[:, None] ** 2 + k[None, :] ** 2) ** -3.0
    spectrum = fft.rfft2(rng.standard_normal((n, n))) * np.sqrt(power[:, : n // 2 + 1] / power.mean())
    field: NDArray[np.float64] = fft.irfft2(spectrum, s=(n, n))
    return field[:size, :size]


def make_landscape(size: int, rng: np.random.Generator) -> Landscape:
    """Return a landscape of size x size pixels (10 m each): lakes, winding rivers, fields and woods.

    Water lies in the lowest terrain and along rivers; land is cut into fields; woods follow a smooth field,
    in part from field to field and in part across them, so that their edges are partly straight. Features
    have their size in pixels: a larger landscape has more of them, not larger ones.
    """
    if size < 8:
        raise InputError(f"size={size}: a landscape needs at least 8 pixels a side.")
    relief = make_field(size, 14.0, rng)
    parcels = _make_parcels(size, rng)
    lakes = relief + 0.1 * make_field(size, 2.0, rng) < rng.uniform(-1.7, -0.9)
    by_parcel = rng.normal(size=parcels.max() + 1)[parcels]
    ragged = make_field(size, 2.5, rng)
    wooded = make_field(size, 12.0, rng) + 0.35 * relief + 0.6 * by_parcel + 0.3 * ragged > rng.uniform(
        0.1, 0.9
    )
    classes = np.where(wooded, FOREST, OPEN_LAND).astype(np.uint8)
    for _ in range(rng.poisson(0.7 * size / 128)):
        lakes |= _make_river(size, rng)
    classes[lakes] = WATER
    return Landscape(classes, parcels, relief.astype(np.float32))


def _make_parcels(size: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Number rectangular fields in rows of one width each, turned and gently bent."""
    turn = rng.uniform(0, np.pi)
    y, x = np.mgrid[:size, :size].astype(float)
    u = np.cos(turn) * x + np.sin(turn) * y + 3.0 * make_field(size, 30.0, rng)
    v = -np.sin(turn) * x + np.cos(turn) * y + 3.0 * make_field(size, 30.0, rng)
    rows = np.searchsorted(_make_cuts(v, 12.0, 30.0, rng), v)
    parcels = np.zeros((size, size), dtype=np.int32)
    first = 0
    for row in np.unique(rows):
        here = rows == row
        cuts = _make_cuts(u, 10.0, 50.0, rng)
        parcels[here] = first + np.searchsorted(cuts, u[here])
        first += cuts.size + 1
    return np.unique(parcels, return_inverse=True)[1].reshape(size, size).astype(np.int32)


def _make_cuts(
    values: NDArray[np.float64], shortest: float, longest: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    number = int(np.ptp(values) / shortest) + 2
    return float(values.min()) - rng.uniform(0, longest) + np.cumsum(rng.uniform(shortest, longest, number))


def _make_river(size: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return where one river is: a sine-generated curve (Langbein and Leopold 1966) of wandering phase."""
    steps = 4 * size
    s = np.arange(2 * steps) * 0.5
    bends = rng.uniform(0.6, 1.2) * np.sin(
        2 * np.pi * s / rng.uniform(45, 90) + np.cumsum(rng.normal(0, 0.06, s.size))
    )
    drift = ndimage.gaussian_filter1d(rng.normal(0, 1, s.size), 80.0, mode="reflect") * 4.0
    angle = rng.uniform(0, 2 * np.pi) + bends + drift
    path = np.cumsum(0.5 * np.stack([np.sin(angle), np.cos(angle)]), axis=1)
    path += rng.uniform(0.0, 1.0, size=(2, 1)) * size - path[:, steps : steps + 1]
    margin = 12
    rows, cols = (np.rint(path).astype(int) + margin).clip(-1, size + 2 * margin)
    inside = (rows >= 0) & (cols >= 0) & (rows < size + 2 * margin) & (cols < size + 2 * margin)
    dry = np.ones((size + 2 * margin, size + 2 * margin), dtype=bool)
    dry[rows[inside], cols[inside]] = False
    distance = ndimage.distance_transform_edt(dry)[margin:-margin, margin:-margin]
    half_width = rng.uniform(1.2, 3.5) * (1 + 0.2 * make_field(size, 10.0, rng))
    river: NDArray[np.bool_] = distance <= half_width
    return river
