"""The thermal noise of a TOPS product, from the vectors of its annotation: along range, and its scalloping in azimuth.

Sub-swaths meet in a step of noise, and each begins at a line of its own. So the vectors along range are interpolated
between lines within one sub-swath only, by the bounds that the azimuth blocks give. Elsewhere (older processors, which
give no blocks) the table is interpolated bilinearly over the whole image.

Source: Sentinel-1 Product Specification, S1-RS-MDA-52-7441, noise annotation; Thermal Denoising of Products Generated
by the S-1 IPF, ESA MPC-0392: noise in DN^2 = noiseRangeLut x noiseAzimuthLut.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError
from sartransfer.radar.calibration import LineVectors

MOST_FACTOR = 10.0  # scalloping is 1 to 2; what is more is no factor
SEAM_STEP = 200  # rows from one point of a seam to the next


@dataclass(frozen=True, slots=True)
class NoiseBlock:
    """A part of the image that lies in one sub-swath, and how its noise varies with the lines."""

    swath: str
    """EW1 to EW5, IW1 to IW3."""
    first_line: int
    last_line: int
    """Included."""
    first_pixel: int
    last_pixel: int
    """Included."""
    lines: NDArray[np.float64]
    """(N,) increasing; every tenth line, about."""
    factors: NDArray[np.float64]
    """(N,) by which the noise along range is multiplied at these lines: 1 to 1.3."""

    def __post_init__(self) -> None:
        if self.last_line < self.first_line or self.last_pixel < self.first_pixel:
            raise InputError(
                f"noise block {self.swath}: lines {self.first_line} to {self.last_line}, pixels {self.first_pixel} to "
                f"{self.last_pixel} enclose nothing."
            )
        if len(self.lines) != len(self.factors) or len(self.lines) == 0 or (np.diff(self.lines) <= 0).any():
            raise InputError(
                f"noise block {self.swath}: {len(self.lines)} lines and {len(self.factors)} factors; they must be as "
                "many, at least one, and the lines must increase."
            )
        good = np.isfinite(self.lines) & (self.factors > 0) & (self.factors <= MOST_FACTOR)
        if not good.all():
            place = int(good.argmin())
            raise InputError(
                f"noise block {self.swath}: factor {self.factors[place]:g} at line {self.lines[place]:g}; factors must "
                f"be numbers above 0, to {MOST_FACTOR:g}."
            )

    def factor(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the factor at rows (R,): linear, and beyond the outermost lines continued with their slope.

        The lines given end up to nine before the block does; held there, the factor would be wrong by .01. The slope
        goes on for as many lines as lie between two as a rule, and to half or twice the outermost factor at most;
        beyond, the factor is held.
        """
        out = np.interp(rows, self.lines, self.factors)
        if len(self.lines) > 1:
            reach = float(np.median(np.diff(self.lines)))
            for end, inner, beyond in (
                (0, 1, rows < self.lines[0]),
                (-1, -2, rows > self.lines[-1]),
            ):
                slope = (self.factors[end] - self.factors[inner]) / (self.lines[end] - self.lines[inner])
                change = slope * np.clip(rows[beyond] - self.lines[end], -reach, reach)
                out[beyond] = self.factors[end] + np.clip(change, -self.factors[end] / 2, self.factors[end])
        return out


@dataclass(frozen=True, slots=True)
class Noise:
    """The mean noise power of a product, in the unit of DN^2 (see `build_noise`)."""

    ranges: LineVectors
    blocks: tuple[NoiseBlock, ...]
    """Empty for processors before IPF 2.9."""
    by_swath: tuple[tuple[str, LineVectors], ...]
    """`ranges`, cut to each sub-swath."""

    def at(
        self,
        rows: Sequence[float] | NDArray[np.float64],
        columns: Sequence[float] | NDArray[np.float64],
        *,
        azimuth: bool = True,
    ) -> NDArray[np.float64]:
        """Return the noise at rows (R,) and columns (C,), both increasing: (R, C), in DN^2.

        `azimuth`: multiply by the azimuth factors (scalloping); else they count as 1.
        """
        rows, columns = np.asarray(rows, dtype=np.float64), np.asarray(columns, dtype=np.float64)
        if not self.blocks:
            return self.ranges.at(rows, columns)
        out = np.zeros((len(rows), len(columns)))
        known = np.zeros(out.shape, dtype=bool)
        vectors = dict(self.by_swath)
        for block in self.blocks:
            r = slice(*np.searchsorted(rows, [block.first_line, block.last_line + 1]))
            c = slice(*np.searchsorted(columns, [block.first_pixel, block.last_pixel + 1]))
            if r.start < r.stop and c.start < c.stop:
                part = vectors[block.swath].at(rows[r], columns[c])
                out[r, c] = part * block.factor(rows[r])[:, None] if azimuth else part
                known[r, c] = True
        if not known.all():  # outside every block, where as a rule nothing was imaged
            out[~known] = self.ranges.at(rows, columns)[~known]
        return out


def seam_lines(blocks: Sequence[NoiseBlock]) -> tuple[NDArray[np.float64], ...]:
    """Return where sub-swaths meet: lines (N, 2) of row and column, pixel centres counted from 0.

    A seam lies between the last pixel of a block and the first of the next sub-swath's; it jumps where the blocks do.
    Points follow every `SEAM_STEP` rows, so that a map may bend it. Empty without blocks.
    """
    seams: dict[str, list[tuple[float, float]]] = {}
    for block in sorted(blocks, key=lambda b: b.first_line):
        meets = [
            b
            for b in blocks
            if b.swath != block.swath
            and abs(b.first_pixel - block.last_pixel - 1) <= 1
            and b.first_line <= block.last_line
            and b.last_line >= block.first_line
        ]
        if meets:
            first, last = block.first_line - 0.5, block.last_line + 0.5
            rows = [*np.arange(first, last, SEAM_STEP).tolist(), last]
            seams.setdefault(block.swath, []).extend((row, block.last_pixel + 0.5) for row in rows)
    return tuple(np.array(points) for points in seams.values())


def build_noise(ranges: LineVectors, blocks: Sequence[NoiseBlock] = ()) -> Noise:
    """Return the noise of a product from its vectors along range and its blocks, if it has any.

    Vectors hold 0 where a sub-swath has not begun, or has ended: no noise is 0, so these are left out rather than
    interpolated towards. Raises `InputError` where nothing is above 0, as in the first products of 2014, and for values
    below 0.
    """
    for line, pixels, values in zip(ranges.lines, ranges.pixels, ranges.values, strict=True):
        if (values < 0).any():
            place = int(values.argmin())
            raise InputError(
                f"noise of {values[place]:g} at line {line:g}, pixel {pixels[place]:g}: no noise is below 0."
            )
    kept = [
        (line, pixels[values > 0], values[values > 0])
        for line, pixels, values in zip(ranges.lines, ranges.pixels, ranges.values, strict=True)
        if (values > 0).any()
    ]
    if not kept:
        raise InputError("the noise vectors hold nothing above 0: the noise of this product is not known.")
    whole = _vectors(kept)
    swaths = tuple(dict.fromkeys(b.swath for b in blocks))
    return Noise(whole, tuple(blocks), tuple((s, _within(whole, blocks, s)) for s in swaths))


def _within(ranges: LineVectors, blocks: Sequence[NoiseBlock], swath: str) -> LineVectors:
    """Return the part of each vector that lies in a sub-swath, at the line of that vector."""
    mine = [b for b in blocks if b.swath == swath]
    kept = []
    for line, pixels, values in zip(ranges.lines, ranges.pixels, ranges.values, strict=True):
        for block in mine:
            inside = (pixels >= block.first_pixel) & (pixels <= block.last_pixel)
            if block.first_line <= line <= block.last_line and inside.any():
                kept.append((line, pixels[inside], values[inside]))
                break
    return _vectors(kept) if kept else ranges


def _vectors(kept: list[tuple[float, NDArray[np.float64], NDArray[np.float64]]]) -> LineVectors:
    lines, pixels, values = zip(*kept, strict=True)
    return LineVectors(np.array(lines, dtype=np.float64), tuple(pixels), tuple(values))
