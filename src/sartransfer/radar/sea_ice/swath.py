"""The extra-wide swath of Sentinel-1 across range: angles, sub-swaths, noise, scalloping, calibration.

Numbers are of EW GRDM products of Sentinel-1A (IPF 3.52) as their annotation gives them, rounded. Columns are
counted from near range; a swath of another number of columns is the same swath, sampled more coarsely or finely.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from sartransfer.errors import InputError, one_of

Array = NDArray[np.float64]
POLARIZATIONS = ("HH", "HV")
SWATH_M = 419_480.0  # 10,487 columns of 40 m
EARTH_M = 6_371_000.0
ORBIT_M = 708_000.0  # over the ground, from slant ranges and angles of the annotation by the law of cosines
NEAR_DEG = 18.92  # incidence angle in the first column; the last one's 46.4 follows from the triangle
SUBSWATHS = ("EW1", "EW2", "EW3", "EW4", "EW5")
SEAMS = (0.0, 0.2968, 0.4780, 0.6755, 0.8543, 1.0)
"""Where sub-swaths begin and end, as a share of the swath: columns 3112, 5013, 7084 and 8959 of 10,487."""
LOOKS = 10.7
"""Equivalent number of looks of EW GRDM: 6 looks in range by 2 in azimuth (ESA, Sentinel-1 SAR User Guide, table of
Level-1 GRD resolutions; Sentinel-1 Product Definition, S1-RS-MDA-52-7440)."""
BETA_TABLE = 1087.0  # A of beta nought in the calibration annotation: one number all over an EW product
BURST_M = 20_900.0
"""Ground between two bursts of a sub-swath: 52.3 marks of ten lines in the azimuth noise vectors."""
# Noise-equivalent sigma0 in dB at tenths of each sub-swath: noiseRangeLut / A^2 of the annotation, rounded to
# .1 dB. The pattern of the antenna in elevation makes it rise towards both ends, and in EW1 in the middle too.
NESZ_DB: dict[str, tuple[tuple[float, ...], ...]] = {
    "HH": (
        (-20.0, -24.2, -25.4, -24.7, -23.0, -22.6, -24.1, -25.4, -25.5, -24.2, -21.3),
        (-26.9, -28.0, -28.6, -28.8, -28.8, -28.6, -28.3, -28.0, -27.4, -26.6, -25.4),
        (-25.7, -27.4, -28.6, -29.4, -29.8, -30.0, -29.8, -29.4, -28.6, -27.5, -26.0),
        (-28.6, -30.4, -31.7, -32.5, -32.8, -32.7, -32.2, -31.3, -29.9, -28.1, -25.9),
        (-30.5, -31.3, -32.0, -32.3, -32.4, -32.4, -32.0, -31.5, -30.8, -29.9, -29.1),
    ),
    "HV": (
        (-20.7, -25.0, -26.3, -25.6, -24.0, -23.5, -25.0, -26.4, -26.4, -25.1, -22.2),
        (-28.3, -29.5, -30.0, -30.2, -30.2, -30.0, -29.7, -29.3, -28.8, -27.9, -26.6),
        (-27.2, -29.0, -30.3, -31.1, -31.5, -31.6, -31.4, -31.0, -30.2, -29.0, -27.4),
        (-29.9, -31.8, -33.1, -33.9, -34.2, -34.1, -33.6, -32.6, -31.2, -29.4, -27.1),
        (-31.5, -32.4, -33.0, -33.4, -33.5, -33.4, -33.1, -32.6, -31.9, -30.9, -30.2),
    ),
}
SCALLOP = {"HH": (1.21, 1.21, 1.19, 1.17, 1.14), "HV": (1.23, 1.22, 1.19, 1.17, 1.15)}
"""Factor of the noise between two bursts, by sub-swath; 1 in the middle of a burst."""
# What the annotation gets wrong: the noise that is there is the annotated one times a factor of each sub-swath
# and product. Park et al. (2018, IEEE TGRS 56, 1555) fit such factors to HV of EW and find them some hundredths
# to a few tenths from 1 before they correct the annotation; newer processors are better. The spread is assumed.
NOISE_ERROR = 0.03


@dataclass(frozen=True, slots=True)
class Swath:
    """The swath, sampled by so many columns and lines of one spacing."""

    lines: int
    columns: int
    spacing_m: float
    """Between lines; columns span the whole swath, whatever their number."""
    first_burst: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """Where in its cycle each sub-swath is at line 0, from 0 to 1: bursts of one follow those of the other."""

    def __post_init__(self) -> None:
        if self.lines < 16 or self.columns < 16:
            raise InputError(
                f"a swath of {self.lines} lines and {self.columns} columns: must be at least 16."
            )
        if not (np.isfinite(self.spacing_m) and self.spacing_m > 0):
            raise InputError(f"spacing_m={self.spacing_m}: must be above 0.")
        if len(self.first_burst) != len(SUBSWATHS):
            raise InputError(f"first_burst must have {len(SUBSWATHS)} numbers, not {len(self.first_burst)}.")

    @property
    def stretch(self) -> float:
        """How many metres of a real swath a metre across this one stands for; 1 in a scene of full size."""
        return SWATH_M / (self.columns * self.spacing_m)

    @property
    def bounds(self) -> tuple[int, ...]:
        """The first column of each sub-swath, and the number of columns."""
        return tuple(round(s * self.columns) for s in SEAMS)

    def across(self, columns: Array) -> Array:
        """Return metres from near range, on a swath of full width, of columns counted at their centres from 0."""
        return (np.asarray(columns, dtype=np.float64) + 0.5) / self.columns * SWATH_M

    def incidence_deg(self, columns: Array) -> Array:
        """Return the incidence angle of columns (see `look_triangle`)."""
        return look_triangle(self.across(columns))[0]

    def sigma_table(self, columns: Array) -> Array:
        """Return A of sigma0: sigma0 = beta0 sin(angle), so A = A of beta0 / sqrt(sin(angle))."""
        return np.asarray(BETA_TABLE / np.sqrt(np.sin(np.radians(self.incidence_deg(columns)))))

    def nesz(self, polarization: str) -> Array:
        """Return the noise-equivalent sigma0 of every column in linear power, without scalloping."""
        if polarization not in POLARIZATIONS:
            raise InputError(one_of("polarization", polarization, POLARIZATIONS))
        out = np.empty(self.columns)
        for i, (first, end) in enumerate(zip(self.bounds, self.bounds[1:], strict=False)):
            place = np.linspace(0.0, 1.0, max(end - first, 1))
            table = NESZ_DB[polarization][i]
            level = CubicSpline(np.linspace(0, 1, len(table)), table)(place)
            out[first:end] = 10 ** (level / 10)
        return out

    def scalloping(self, polarization: str, lines: Array) -> Array:
        """Return the noise's factor (5, L) of each sub-swath at lines (L,): the azimuth pattern, undone for the echo.

        In decibels a parabola over each burst, as antenna patterns are near their peak.
        """
        cycle = np.asarray(lines, dtype=np.float64)[None, :] * self.spacing_m * self.stretch / BURST_M
        place = 2.0 * ((cycle + np.array(self.first_burst)[:, None]) % 1.0) - 1.0
        peak = np.array(SCALLOP[polarization])[:, None]
        out: Array = peak ** (place**2)
        return out


def look_triangle(across_m: Array) -> tuple[Array, Array]:
    """Return incidence angle (degrees) and slant range (m) at ground ranges from the first column, on a sphere."""
    orbit = EARTH_M + ORBIT_M
    near = np.radians(NEAR_DEG)
    first = near - np.arcsin(EARTH_M * np.sin(near) / orbit)  # at the Earth's centre, from below the antenna
    turn = first + np.asarray(across_m, dtype=np.float64) / EARTH_M
    slant = np.sqrt(EARTH_M**2 + orbit**2 - 2 * EARTH_M * orbit * np.cos(turn))
    angle = np.degrees(np.arctan2(orbit * np.sin(turn), orbit * np.cos(turn) - EARTH_M))
    return angle, slant
