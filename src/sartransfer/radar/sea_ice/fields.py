"""Correlated random fields on coarse grids, and the small periodic tiles that put texture on single pixels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from sartransfer.errors import InputError

Field = NDArray[np.float32]
TILES = (509, 761)
"""Sides of the two texture tiles: primes, so that their sum repeats after 387,349 pixels only."""
TILE_SCALE = 32.0  # numbers of a tile that are one standard deviation: eight bits hold four of them


@dataclass(frozen=True, slots=True)
class Grid:
    """Where a coarse grid's nodes lie on a scene: every `step` pixels from row and column 0, one beyond each end."""

    height: int
    """Of the scene, pixels."""
    width: int
    step: int

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1 or self.step < 1:
            raise InputError(f"a grid of {self.height} x {self.width} at {self.step} px is not possible.")

    @property
    def shape(self) -> tuple[int, int]:
        """Nodes down and along."""
        return (self.height - 1) // self.step + 2, (self.width - 1) // self.step + 2

    def make(
        self,
        length_px: float,
        rng: np.random.Generator,
        *,
        smoothness: float = 3.0,
        aspect: float = 1.0,
        turn: float = 0.0,
    ) -> Field:
        """Return a Gaussian field on the nodes, of expected mean 0 and variance 1.

        Power spectrum (1 + (length k)^2)^-smoothness (Matern), cut from a larger periodic field. `length_px` is in
        pixels of the scene; `aspect` above 1 draws it out along the direction `turn` (radians from the rows' axis).
        """
        rows, cols = self.shape
        length = max(length_px / self.step, 1e-3)
        margin = int(np.ceil(3 * length * np.sqrt(aspect)))
        n = fft.next_fast_len(rows + margin, real=True), fft.next_fast_len(cols + margin, real=True)
        ky, kx = 2 * np.pi * fft.fftfreq(n[0])[:, None], 2 * np.pi * fft.rfftfreq(n[1])[None, :]
        along, beside = ky * np.cos(turn) + kx * np.sin(turn), kx * np.cos(turn) - ky * np.sin(turn)
        squared = length**2 * (aspect * along**2 + beside**2 / aspect)
        power = (1.0 + squared) ** -smoothness
        # rfft keeps half of the columns; all but the first (and, if n is even, the last) stand for two
        weight = np.full(power.shape[1], 2.0)
        weight[0] = 1.0
        if n[1] % 2 == 0:
            weight[-1] = 1.0
        mean = float((power * weight).sum() / (n[0] * n[1]))
        noise = fft.rfft2(rng.standard_normal(n, dtype=np.float32))
        field = fft.irfft2(noise * np.sqrt(power / mean).astype(np.float32), s=n)
        return np.ascontiguousarray(field[:rows, :cols], dtype=np.float32)

    def warp(self, field: Field, down: Field, along: Field) -> Field:
        """Return the field as found at each node moved by (down, along), both in pixels of the scene."""
        from scipy.ndimage import map_coordinates

        rows, cols = self.shape
        i, j = np.mgrid[:rows, :cols].astype(np.float32)
        moved = map_coordinates(
            field, [i + down / self.step, j + along / self.step], order=1, mode="nearest", output=np.float32
        )
        return np.asarray(moved, dtype=np.float32)

    def at_pixels(self, field: Field, first: int, rows: int) -> Field:
        """Return a field at the pixels of rows first ... first + rows - 1: (rows, width), bilinear in float32.

        The very operations of the compiled kernel in their order, so that both give the same bits.
        """
        row = np.arange(first, first + rows)
        i, f = row // self.step, ((row % self.step) / np.float32(self.step)).astype(np.float32)[:, None]
        nodes = field[i] + f * (field[i + 1] - field[i])
        column = np.arange(self.width)
        j, g = column // self.step, ((column % self.step) / np.float32(self.step)).astype(np.float32)
        left = nodes[:, j]
        out: Field = left + g * (nodes[:, j + 1] - left)
        return out


def make_tile(side: int, length_px: float, rng: np.random.Generator) -> NDArray[np.int8]:
    """Return a periodic Gaussian tile (side, side) in eight bits, `TILE_SCALE` to a standard deviation / sqrt(2).

    Two tiles of different sides are added, each with half of the variance.
    """
    k = 2 * np.pi * length_px * fft.fftfreq(side)
    power = (1.0 + k[:, None] ** 2 + k[None, :] ** 2) ** -2.0
    spectrum = fft.fft2(rng.standard_normal((side, side))) * np.sqrt(power / power.mean())
    tile = np.real(fft.ifft2(spectrum))
    scaled = np.rint(tile / tile.std() * TILE_SCALE / np.sqrt(2))
    out: NDArray[np.int8] = np.clip(scaled, -127, 127).astype(np.int8)
    return out


def at_quantile(field: Field, share: float) -> float:
    """Return the value that so large a share of a field lies above."""
    if not 0 <= share <= 1:
        raise InputError(f"share={share}: must be 0 to 1.")
    return float(np.quantile(field, 1.0 - share))
