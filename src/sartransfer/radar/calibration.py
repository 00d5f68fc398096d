"""From the numbers of a detected product to backscatter: look-up tables, looks, decibels.

Source: Sentinel-1 Product Specification, S1-RS-MDA-52-7441, calibration annotation; Radiometric Calibration of
S-1 Level-1 Products, ESA-EOPG-CSCOP-TN-0002: value = DN^2 / A^2, with A interpolated bilinearly in the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError

QUANTITIES = ("sigma0", "beta0", "gamma0")
FLOOR_DB = -40.0
"""Below what any mode of Sentinel-1 can tell from noise: -22 to -35 dB of noise, averaged over some 40 looks."""


@dataclass(frozen=True, slots=True)
class LineVectors:
    """A look-up table as annotations give it: values at some columns, along a few lines of the image."""

    lines: NDArray[np.float64]
    """(N,) rows of the image, from 0 at the centre of the first; increasing."""
    pixels: tuple[NDArray[np.float64], ...]
    """For each line, the columns that have a value; increasing, and not the same in every line."""
    values: tuple[NDArray[np.float64], ...]
    """For each line, the values at those columns."""

    def __post_init__(self) -> None:
        if not len(self.lines) == len(self.pixels) == len(self.values) or len(self.lines) == 0:
            raise InputError(
                f"a table needs as many lines ({len(self.lines)}) as vectors of columns ({len(self.pixels)}) and of "
                f"values ({len(self.values)}), and at least one."
            )
        if (np.diff(self.lines) <= 0).any():
            raise InputError(f"the lines of a table must increase: {self.lines.tolist()}.")
        for line, pixels, values in zip(self.lines, self.pixels, self.values, strict=True):
            if len(pixels) != len(values) or len(pixels) == 0 or (np.diff(pixels) <= 0).any():
                raise InputError(
                    f"line {line:g} of a table has {len(pixels)} columns and {len(values)} values: they must be as "
                    "many, at least one, and the columns must increase."
                )
            if not (np.isfinite(values).all() and np.isfinite(pixels).all()):
                raise InputError(f"line {line:g} of a table holds values that are no numbers.")

    def at(
        self, rows: Sequence[float] | NDArray[np.float64], columns: Sequence[float] | NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the table at rows (R,) and columns (C,) of the image: (R, C), bilinear, held at its edges."""
        place = np.interp(rows, self.lines, np.arange(len(self.lines), dtype=np.float64))
        low = np.floor(place).astype(np.intp)
        high = np.minimum(low + 1, len(self.lines) - 1)
        used, back = np.unique(np.concatenate([low, high]), return_inverse=True)
        table = np.stack([np.interp(columns, self.pixels[i], self.values[i]) for i in used])
        below, above = table[back[: len(low)]], table[back[len(low) :]]
        out: NDArray[np.float64] = below + (above - below) * (place - low)[:, None]
        return out


def calibrate(
    counts: NDArray[np.generic], table: NDArray[np.float64], noise: NDArray[np.float64] | float = 0.0
) -> NDArray[np.float64]:
    """Return linear backscatter (DN^2 - noise) / A^2; negative where less came back than noise has on average.

    `counts`: the 16-bit numbers DN; `table`: A of sigma0, beta0 or gamma0 at the same pixels; `noise`: in DN^2.
    Negative values are kept: only their mean is without bias.
    """
    power = np.square(np.asarray(counts, dtype=np.float64))
    power -= noise
    power /= np.square(table)
    return power


def multilook(
    power: NDArray[np.float64], valid: NDArray[np.bool_], looks: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Average `looks` x `looks` pixels in linear power: (H // looks, W // looks), and where that is valid.

    Pixels that are not valid are left out; a mean is valid where at least half of its pixels are. What is left over
    at the lower and right edges is dropped. Where not valid the mean is 0.
    """
    if looks < 1:
        raise InputError(f"looks={looks} is not possible: 1 (no averaging) or more.")
    if looks == 1:
        return np.where(valid, power, 0.0), valid
    height, width = power.shape[0] // looks, power.shape[1] // looks
    shape = (height, looks, width, looks)
    good = valid[: height * looks, : width * looks]
    kept = np.where(good, power[: height * looks, : width * looks], 0.0).reshape(shape).sum(axis=(1, 3))
    count = good.reshape(shape).sum(axis=(1, 3))
    return kept / np.maximum(count, 1), 2 * count >= looks * looks


def floor_power(power: NDArray[np.float64]) -> NDArray[np.float64]:
    """Raise linear power to `FLOOR_DB`, so that its decibels are finite; NaN stay.

    The last step, after noise is subtracted and pixels are averaged: raising first every pixel whose noise came out
    below its mean would make the average of dark water too bright.
    """
    out: NDArray[np.float64] = np.maximum(power, 10.0 ** (FLOOR_DB / 10.0))
    return out


def decibels(power: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 10 log10 of a power that is above 0 (see `floor_power`); NaN stay."""
    out: NDArray[np.float64] = 10.0 * np.log10(power)
    return out
