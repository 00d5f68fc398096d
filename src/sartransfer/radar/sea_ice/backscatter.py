"""C-band backscatter of water and sea ice in HH and HV by class, incidence angle, wind and season.

Slopes are published regressions; levels at the reference angle lie within published ranges, and are round numbers: no
paper gives all classes, both polarizations and all seasons of one sensor. What is assumed is said so.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError
from sartransfer.radar.synthetic import sigma0_water

Array = NDArray[np.float64]


class Surface(IntEnum):
    """What lies in a pixel; the values of truth rasters."""

    WATER = 0
    NEW = 1
    """New ice and nilas: under 10 cm, smooth and saline."""
    YOUNG = 2
    """Young ice: 10 to 30 cm, with frost flowers."""
    FIRST_YEAR = 3
    OLD = 4
    LAND = 5
    FAST = 6
    """First-year ice that is fast to the coast: level."""


NAMES = ("water", "new ice", "young ice", "first-year ice", "old ice", "land", "fast ice")
ICE = (Surface.NEW, Surface.YOUNG, Surface.FIRST_YEAR, Surface.OLD, Surface.FAST)

REFERENCE_DEG = 35.0

# VV / HH of the sea by incidence angle and wind direction: Mouche et al. 2005, IEEE TGRS 43, 753, model from
# airborne C-band measurements; (A, B, C) of A exp(B angle) + C up, across and down the wind.
_RATIO = (
    (0.00650704, 0.128983, 0.992839),
    (0.00782194, 0.121405, 0.992839),
    (0.00598416, 0.140952, 0.992885),
)


@dataclass(frozen=True, slots=True)
class Signature:
    """Mean backscatter of one class at 35 degrees, its slope, and how uneven it is."""

    hh_db: float
    hv_db: float
    hh_slope: float
    """dB a degree of incidence angle."""
    hv_slope: float
    regional_db: float
    """Standard deviation over tens of kilometres: snow, salt, deformation. Assumed."""
    texture_db: float
    """Standard deviation from pixel to pixel, before speckle: ridges, floes too small to be seen. Assumed."""
    hv_share: float = 1.0
    """Unevenness of HV against that of HH, in dB: deformation shows more in HV (Mäkynen and Karvonen 2017)."""


# Slopes in winter. First-year -.235, multi-year -.167 dB a degree in HH (Geldsetzer and Howell 2023, IEEE TGRS
# 61, doi 10.1109/TGRS.2023.3315056; Mahmud et al. 2018, IEEE TGRS 56: -.22 and -.16); HV -.16 of deformed
# first-year ice (Mäkynen and Karvonen 2017, IEEE TGRS 55, doi 10.1109/TGRS.2017.2721981); HV of old ice
# flatter, as a volume is (assumed -.12). New and young ice scatter at the surface: -.28 and -.25 (assumed,
# between first-year ice and water). Levels: winter C-band HH at 30 to 40 degrees lies at -8 to -12 dB for
# multi-year, -13 to -18 for first-year, -17 to -24 for smooth new ice, and young ice with frost flowers as
# bright as deformed first-year ice (Onstott 1992, in Carsey, ed., Microwave Remote Sensing of Sea Ice, AGU
# Geophysical Monograph 68, chapter 5; Dierking 2010, IEEE TGRS 48, 1045). HV lies 8 to 12 dB below HH on old
# ice, 10 to 14 on first-year ice; that of new ice lies under the noise. Round numbers.
WINTER: dict[Surface, Signature] = {
    Surface.NEW: Signature(-20.5, -31.0, -0.28, -0.20, 1.2, 0.4),
    Surface.YOUNG: Signature(-13.5, -26.0, -0.25, -0.18, 1.3, 0.7),
    Surface.FIRST_YEAR: Signature(-14.5, -26.5, -0.235, -0.16, 0.9, 1.1, 1.2),
    Surface.OLD: Signature(-10.0, -19.5, -0.167, -0.12, 0.8, 0.9),
    Surface.FAST: Signature(-17.0, -28.5, -0.25, -0.18, 0.7, 0.6, 1.2),
    # Rock, tundra and glaciers: brighter than the ice and rough. Assumed; relief is not simulated.
    Surface.LAND: Signature(-9.5, -18.0, -0.14, -0.12, 2.0, 2.0),
}
# Full melt: wet snow hides the volume, so that old ice falls by 5 to 8 dB; first-year ice, whose rough surface it
# hides as well, by 2 or 3; between the two 1 to 2 dB are left (Onstott 1992; Scharien et al. 2012, doi
# 10.1029/2011JC007353, on ponds; Zhang et al. 2021, doi 10.5194/tc-2021-85, on the lost contrast in Fram
# Strait; Karlsen et al. 2024, Annals of Glaciology, on level and deformed ice not told apart at C band once
# melt begins). Slopes: -.28, between ice and water, where ponds lie (assumed). New and young ice are rare, and
# wet. Round numbers.
MELT: dict[Surface, Signature] = {
    Surface.NEW: Signature(-20.0, -30.5, -0.28, -0.20, 1.2, 0.4),
    Surface.YOUNG: Signature(-17.5, -28.5, -0.28, -0.20, 1.2, 0.5),
    Surface.FIRST_YEAR: Signature(-17.0, -28.0, -0.28, -0.19, 1.3, 1.0, 1.1),
    Surface.OLD: Signature(-15.8, -26.0, -0.26, -0.17, 1.3, 1.0, 1.1),
    Surface.FAST: Signature(-18.0, -28.5, -0.29, -0.20, 1.3, 0.8, 1.1),
    Surface.LAND: Signature(-10.5, -17.5, -0.14, -0.12, 1.8, 2.0),
}
# How far each month has melted, 0 to 1: air off East Greenland is above freezing from June to September, snow
# melts fully in July; in August ponds drain and in September freeze over. Assumed from that calendar.
MELTED = (0.0, 0.0, 0.0, 0.0, 0.15, 0.7, 1.0, 0.85, 0.4, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Weather:
    """What a month's scene was taken in."""

    month: int
    wind_m_s: float
    """Neutral wind at 10 m in the middle of the scene."""
    wind_direction_deg: float
    """Against the look direction; 0: towards the radar."""

    def __post_init__(self) -> None:
        if not 1 <= self.month <= 12:
            raise InputError(f"month={self.month}: must be 1 to 12.")
        if not 0.5 <= self.wind_m_s <= 30:
            raise InputError(f"wind_m_s={self.wind_m_s:g}: must be 0.5 to 30 m/s.")

    @property
    def melted(self) -> float:
        """How far snow has melted, 0 to 1."""
        return MELTED[self.month - 1]


def signature_of(surface: Surface, melted: float) -> Signature:
    """Return the signature of ice or land between winter (0) and full melt (1), linear in decibels."""
    cold, wet = WINTER[surface], MELT[surface]
    names = Signature.__dataclass_fields__
    return Signature(**{n: (1 - melted) * getattr(cold, n) + melted * getattr(wet, n) for n in names})


def mean_backscatter(surface: Surface, weather: Weather, incidence_deg: Array) -> Array:
    """Return mean linear sigma0 (2, ...) in HH and HV of a surface at incidence angles."""
    angle = np.asarray(incidence_deg, dtype=np.float64)
    if surface is Surface.WATER:
        return sea_backscatter(weather.wind_m_s, weather.wind_direction_deg, angle)
    s = signature_of(surface, weather.melted)
    off = angle - REFERENCE_DEG
    return 10 ** (np.stack([s.hh_db + s.hh_slope * off, s.hv_db + s.hv_slope * off]) / 10)


def sea_backscatter(
    wind_m_s: Array | float, wind_direction_deg: Array | float, incidence_deg: Array | float
) -> Array:
    """Return linear sigma0 (2, ...) of open water in HH and HV, arguments broadcast together.

    HH is CMOD5.N's VV (Hersbach 2010) over the ratio of Mouche et al. 2005; HV is VH by Vachon and Wolfe 2011 (the
    two are equal by reciprocity). See `radar.synthetic.sigma0_water`.
    """
    vv, hv = sigma0_water(wind_m_s, wind_direction_deg, incidence_deg)
    return np.stack([vv / polarization_ratio(incidence_deg, wind_direction_deg), hv])


def polarization_ratio(incidence_deg: Array | float, wind_direction_deg: Array | float) -> Array:
    """Return VV / HH of the sea in linear power (Mouche et al. 2005), at angles and wind directions in degrees."""
    angle = np.asarray(incidence_deg, dtype=np.float64)
    up, across, down = (a * np.exp(b * angle) + c for a, b, c in _RATIO)
    turn = np.radians(wind_direction_deg)
    mean, first, second = (up + down + 2 * across) / 4, (up - down) / 2, (up + down - 2 * across) / 4
    out: Array = mean + first * np.cos(turn) + second * np.cos(2 * turn)
    return out
