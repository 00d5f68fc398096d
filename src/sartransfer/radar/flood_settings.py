"""What a flood is taken to be: rules, limits and their units, and the legend of why a pixel is none."""

from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError, UnitError, one_of
from sartransfer.radar.speckle import SpeckleFilter
from sartransfer.radar.thresholds import LEAST_TILE, METHODS, bin_edges


class Rule(IntEnum):
    """What decided on a pixel; the values of the provenance raster."""

    DRY = 0
    FLOODED = 1
    PERMANENT_WATER = 2
    FEW_CONNECTED = 3
    STEEP = 4
    SLOPE_UNKNOWN = 5
    HIGH_ABOVE_DRAINAGE = 6
    LOW_MEMBERSHIP = 7
    WATER_BEFORE = 8
    NO_VALUE = 255


LEGEND: dict[int, str] = {
    Rule.DRY: "not flagged",
    Rule.FLOODED: "flooded",
    Rule.PERMANENT_WATER: "removed: permanent water",
    Rule.FEW_CONNECTED: "removed: too few connected pixels",
    Rule.STEEP: "removed: slope",
    Rule.SLOPE_UNKNOWN: "removed: no slope or height is known",
    Rule.HIGH_ABOVE_DRAINAGE: "removed: too high above the nearest drainage",
    Rule.LOW_MEMBERSHIP: "removed: fuzzy membership",
    Rule.WATER_BEFORE: "removed: water before as well",
    Rule.NO_VALUE: "no value",
}


class SlopeUnit(StrEnum):
    """How a slope is written: 5 per cent are 2.86 degrees, 5 degrees are 8.75 per cent."""

    DEGREES = "degrees"
    PERCENT = "percent"


def convert_slope(
    slope: NDArray[np.floating] | float, source: SlopeUnit, target: SlopeUnit
) -> NDArray[np.float64]:
    """Convert a slope between degrees and per cent: 100 tan(degrees)."""
    values = np.asarray(slope, dtype=np.float64)
    if source is target:
        return values
    if source is SlopeUnit.DEGREES:
        return np.asarray(100 * np.tan(np.deg2rad(values)))
    return np.asarray(np.rad2deg(np.arctan(values / 100)))


@dataclass(frozen=True, slots=True)
class Slope:
    """A limit of the slope and its unit."""

    limit: float
    """Pixels below it are kept."""
    unit: SlopeUnit
    """Degrees or per cent; said, never guessed."""

    def __post_init__(self) -> None:
        if not isinstance(self.unit, SlopeUnit):
            raise UnitError(one_of("slope unit", self.unit, SlopeUnit))
        top = 90.0 if self.unit is SlopeUnit.DEGREES else float("inf")
        if not 0 < self.limit <= top:
            raise InputError(
                f"a slope limit of {self.limit:g} {self.unit} must lie above 0 and up to {top:g}."
            )


MEASURES: dict[str, str] = {
    "db_ratio": "after / before, both in dB (the practice's quirk: not a ratio of power)",
    "db_drop": "before - after in dB, which is 10 log10 of before / after in power: the log-ratio",
}


@dataclass(frozen=True, slots=True)
class FloodSettings:
    """A change rule; the defaults are UN-SPIDER's recommended practice as its script is written.

    Its steps: focal mean of the **decibels** over a disc of 50 m; after / before in dB above 1.25; JRC seasonality of
    10 months or more is not flood; fewer than 8 connected pixels (with diagonals) are dropped; slopes of 5 degrees or
    more, or not known, are dropped last. UN-SPIDER, Recommended Practice: Flood Mapping and Damage Assessment using
    Sentinel-1 SAR data in Google Earth Engine.
    """

    measure: str = "db_ratio"
    """A key of `MEASURES`; more is more of a flood."""
    threshold: float | str = 1.25
    """A pixel is flagged above it; or a key of `thresholds.METHODS`: found on tiles with two populations."""
    speckle: SpeckleFilter = field(default_factory=SpeckleFilter)
    """The filter before anything is compared."""
    mean_of: str = "db"
    """``db`` as the practice does (focal mean only), or ``power``."""
    permanent_months: int = 10
    """Months of water a year (JRC seasonality) from which water is permanent."""
    min_connected: int = 8
    """Connected pixels that a flood has at least; 1: all are kept."""
    max_slope: Slope | None = Slope(5.0, SlopeUnit.DEGREES)
    """None: slopes are not looked at."""
    tile: int = 100
    """Pixels a side of the tiles on which a threshold is found."""

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise InputError(one_of("measure", self.measure, MEASURES))
        if isinstance(self.threshold, str):
            if self.threshold not in METHODS:
                raise InputError(one_of("threshold", self.threshold, METHODS))
            if self.measure == "db_ratio":
                raise InputError(
                    "the ratio of decibels has no two populations to part; use measure='db_drop'."
                )
        elif not np.isfinite(self.threshold):
            raise InputError(f"threshold={self.threshold}: must be finite.")
        if self.mean_of not in ("db", "power"):
            raise InputError(one_of("mean_of", self.mean_of, ("db", "power")))
        if self.mean_of == "db" and self.speckle.name not in ("focal_mean", "none"):
            raise InputError(f"{self.speckle.name} is a filter of linear power: use mean_of='power'.")
        if not 1 <= self.permanent_months <= 12:
            raise InputError(f"permanent_months={self.permanent_months}: must be from 1 to 12.")
        if not 1 <= self.min_connected <= 255:
            raise InputError(f"min_connected={self.min_connected}: must be from 1 to 255.")
        if self.tile < LEAST_TILE:
            raise InputError(f"tile={self.tile}: must be at least {LEAST_TILE} pixels.")


def change_settings(
    settings: FloodSettings,
    *,
    threshold: float | str | None = None,
    max_slope: Slope | None = None,
    permanent_months: int | None = None,
    min_connected: int | None = None,
    radius: float | None = None,
) -> FloodSettings:
    """Return a rule with the fields that are not None changed; `radius` is that of its focal mean, in metres.

    Raises `InputError` for a value that a rule cannot have, and a radius where the filter has none.
    """
    given = {"threshold": threshold, "max_slope": max_slope, "permanent_months": permanent_months,
             "min_connected": min_connected}  # fmt: skip
    changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if radius is not None:
        if settings.speckle.name != "focal_mean":
            raise InputError(f"radius={radius:g}: {settings.speckle.name} has none, only focal_mean has one.")
        changed["speckle"] = replace(settings.speckle, radius=radius)
    return replace(settings, **changed)


UN_SPIDER = FloodSettings()
PRACTICES: dict[str, FloodSettings] = {
    "un_spider": UN_SPIDER,
    "un_spider_5_percent": FloodSettings(max_slope=Slope(5.0, SlopeUnit.PERCENT)),
    "db_drop": FloodSettings("db_drop", 3.0, mean_of="power"),
    "log_ratio_otsu": FloodSettings("db_drop", "otsu", mean_of="power"),
    "log_ratio_kittler_illingworth": FloodSettings("db_drop", "kittler_illingworth", mean_of="power"),
}
"""Change rules by name; 5 per cent is the slope that the paper to `un_spider` wrote down."""

DROP_EDGES = bin_edges(-30.0, 30.0, 0.1)


@dataclass(frozen=True, slots=True)
class Layers:
    """What is known of the ground, each (H, W) on the images' grid, or None."""

    seasonality: NDArray[np.floating] | None = None
    """Months of water a year, 0 to 12 (JRC Global Surface Water); NaN: none."""
    slope: NDArray[np.floating] | None = None
    """In `slope_unit`; NaN: not known, and then removed, as in the practice."""
    slope_unit: SlopeUnit | None = None

    def __post_init__(self) -> None:
        if self.slope is not None and not isinstance(self.slope_unit, SlopeUnit):
            raise UnitError(
                "the slope's unit is not said. " + one_of("slope_unit", self.slope_unit, SlopeUnit)
            )
