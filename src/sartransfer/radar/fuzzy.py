"""Water from one image, its height above the nearest drainage (HAND) and fuzzy memberships, after HydroSAR.

HydroSAR (Alaska Satellite Facility, asf_tools.hydrosar.water_map) finds a threshold on low-lying tiles of 100 x 100
pixels, caps it, and keeps a pixel below it whose memberships of backscatter, height, slope and size of its region are
none of them zero and in the mean at least .45. Done otherwise here: the tiles are those with two populations
(`thresholds.find_threshold`) parted by Kittler and Illingworth, not HydroSAR's five parted by expectation maximization;
and the slope has both its components (HydroSAR's code hands the second to numpy as an output by slip).
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError
from sartransfer.radar.connected import connected_counts
from sartransfer.radar.flood_settings import Rule
from sartransfer.radar.speckle import SpeckleFilter
from sartransfer.radar.thresholds import (
    LEAST_TILE,
    Counts,
    Threshold,
    bin_edges,
    find_threshold,
    histogram,
    quantile,
    tile_histograms,
)

CAPS_DB = {"VV": -15.5, "VH": -23.0}
"""The highest threshold of each polarization, dB."""
DB_EDGES = bin_edges(-50.0, 10.0, 0.05)
HAND_EDGES = bin_edges(0.0, 1000.0, 0.1)
METHOD = "kittler_illingworth"


@dataclass(frozen=True, slots=True)
class FuzzySettings:
    """HydroSAR's numbers."""

    tile: int = 100
    """Pixels a side of the tiles on which the threshold is found."""
    max_hand_m: float = 15.0
    """Ground below it may flood ..."""
    low_share: float = 0.8
    """... and tiles with more than this share of such ground are looked at."""
    membership: float = 0.45
    """The least mean of the four memberships."""
    min_pixels: int = 3
    """Regions of fewer pixels are dropped; membership of size rises from 0 here ..."""
    full_pixels: int = 10
    """... to 1 here."""
    steep_deg: float = 15.0
    """The membership of slope falls from 1 at level ground to 0 here."""
    hand_spread: float = 3.0
    """The membership of height falls from the median to this many standard deviations and ..."""
    hand_margin_m: float = 5.0
    """... this many metres above it."""
    speckle: SpeckleFilter = field(default_factory=lambda: SpeckleFilter("none"))
    """Before anything else, in power; HydroSAR's images come filtered."""

    def __post_init__(self) -> None:
        if self.tile < LEAST_TILE or not 1 <= self.min_pixels < self.full_pixels <= 255:
            raise InputError(
                f"tile={self.tile}, min_pixels={self.min_pixels}, full_pixels={self.full_pixels}: tile from "
                f"{LEAST_TILE}; min_pixels from 1, below full_pixels, which is up to 255."
            )
        if not (0 <= self.membership <= 1 and 0 <= self.low_share < 1 and 0 < self.steep_deg <= 90):
            raise InputError(
                f"membership={self.membership:g} and low_share={self.low_share:g} must lie between 0 and 1, "
                f"steep_deg={self.steep_deg:g} between 0 and 90."
            )


def z_membership(values: NDArray[np.floating], low: float, high: float) -> NDArray[np.float64]:
    """Return 1 up to low, 0 from high, and between them two parabolas that meet at .5 half way.

    NaN stays NaN. With high at or below low it is a step.
    """
    x = np.asarray(values, dtype=np.float64)
    part = np.clip((x - low) / (high - low), 0, 1) if high > low else np.where(np.isnan(x), x, x > low)
    return np.where(part < 0.5, 1 - 2 * part**2, 2 * (1 - part) ** 2)


def slope_degrees(height_m: NDArray[np.floating], pixel_size: tuple[float, float]) -> NDArray[np.float32]:
    """Return the slope of a surface (H, W) in metres, in degrees: central differences, one-sided at borders and gaps.

    `pixel_size` is (height, width) in metres. NaN where a direction has no neighbour with a value.
    """
    padded = np.pad(np.asarray(height_m, dtype=np.float64), 1, constant_values=np.nan)
    middle = padded[1:-1, 1:-1]
    squared = np.zeros(middle.shape)
    for before, after, size in (
        (padded[:-2, 1:-1], padded[2:, 1:-1], pixel_size[0]),
        (padded[1:-1, :-2], padded[1:-1, 2:], pixel_size[1]),
    ):
        down, up = (middle - before) / size, (after - middle) / size
        change = np.where(np.isnan(down), up, np.where(np.isnan(up), down, (down + up) / 2))
        squared += change**2
    return np.rad2deg(np.arctan(np.sqrt(squared))).astype(np.float32)


def low_tiles(hand_m: NDArray[np.floating], settings: FuzzySettings) -> NDArray[np.bool_]:
    """Return which tiles have enough ground that may flood, (rows, columns); without a height it may not."""
    edges = np.array([-0.5, 0.5, 1.5])
    low = np.asarray(hand_m < settings.max_hand_m, dtype=np.float32)
    counts = tile_histograms(low, edges, settings.tile)
    share: NDArray[np.bool_] = counts[..., 1] > settings.low_share * counts.sum(axis=-1)
    return share


def water_threshold(
    histograms: Counts, eligible: NDArray[np.bool_], cap_db: float, settings: FuzzySettings
) -> Threshold:
    """Return the threshold in dB found on eligible tiles (of `DB_EDGES`), or the cap where that is lower.

    The cap, too, where no tile has two populations.
    """
    try:
        found = find_threshold(histograms, DB_EDGES, METHOD, tile_pixels=settings.tile**2, eligible=eligible)
    except InputError:
        return Threshold(cap_db, "cap, since no tile has two populations")
    if found.value > cap_db:
        return Threshold(cap_db, f"cap, below {METHOD}", found.tiles, found.tiles_seen, found.gain)
    return found


def hand_limits(counts: Counts, settings: FuzzySettings) -> tuple[float, float]:
    """Return the heights in metres between which membership falls from 1 to 0, from the counts of `count_heights`.

    Of the lowest 90 per cent: the median, and the median + 3 standard deviations + 5 m.
    """
    if not counts.any():
        return 0.0, settings.hand_margin_m
    top = quantile(counts, HAND_EDGES, 0.9)
    middles = (HAND_EDGES[:-1] + HAND_EDGES[1:]) / 2
    kept = np.where(middles <= top, counts, 0)
    kept = kept if kept.any() else counts
    mean = (kept * middles).sum() / kept.sum()
    spread = float(np.sqrt((kept * (middles - mean) ** 2).sum() / kept.sum()))
    low = quantile(kept, HAND_EDGES, 0.5)
    return low, low + settings.hand_spread * spread + settings.hand_margin_m


def count_heights(hand_m: NDArray[np.floating]) -> Counts:
    """Count heights above 0 in bins of `HAND_EDGES`; 0 is the drainage itself."""
    return histogram(np.where(hand_m > 0, hand_m, np.nan), HAND_EDGES)


@dataclass(frozen=True, slots=True)
class WaterLimits:
    """What is known of a whole scene before its windows are decided on."""

    low_db: float
    """The median of the pixels below the threshold: full membership up to here."""
    threshold: Threshold
    hand_m: tuple[float, float]
    """Of `hand_limits`."""


def count_below(db: NDArray[np.float32], threshold: float) -> Counts:
    """Count the values at or below a threshold in bins of `DB_EDGES`."""
    return histogram(np.where(db <= threshold, db, np.nan), DB_EDGES)


def median_below(counts: Counts) -> float:
    """Return the median of `count_below`, or the lowest value that there is where nothing was counted."""
    return quantile(counts, DB_EDGES, 0.5) if counts.any() else float(DB_EDGES[0])


def fuzzy_water(
    db: NDArray[np.float32],
    sizes: NDArray[np.uint8],
    hand_m: NDArray[np.floating],
    slope_deg: NDArray[np.floating],
    limits: WaterLimits,
    settings: FuzzySettings,
) -> NDArray[np.uint8]:
    """Decide on the pixels of one image (H, W) at or below its threshold: provenance, values of `Rule`.

    `sizes` are `connected_counts` of those pixels, capped at `full_pixels` or more. FLOODED means water here. Of the
    rules that remove a pixel the first is kept: size, height, slope, mean membership.
    """
    initial = db <= limits.threshold.value
    size = 1 - z_membership(sizes.astype(np.float64), settings.min_pixels, settings.full_pixels)
    # HydroSAR counts a region of the least size as membership 0 and drops it; fewer than 3 pixels are dropped here.
    small = sizes < settings.min_pixels
    height = z_membership(hand_m, *limits.hand_m)
    level = z_membership(slope_deg, 0.0, settings.steep_deg)
    dark = z_membership(db, limits.low_db, limits.threshold.value)
    mean = (size + height + level + dark) / 4
    out = np.where(initial, Rule.FLOODED, Rule.DRY).astype(np.uint8)
    out[initial & ~(mean >= settings.membership)] = Rule.LOW_MEMBERSHIP
    out[initial & (level == 0)] = Rule.STEEP
    out[initial & (height == 0)] = Rule.HIGH_ABOVE_DRAINAGE
    out[initial & (np.isnan(height) | np.isnan(level))] = Rule.SLOPE_UNKNOWN
    out[initial & small] = Rule.FEW_CONNECTED
    out[np.isnan(db)] = Rule.NO_VALUE
    return out


def combine_water(maps: list[NDArray[np.uint8]], settings: FuzzySettings) -> NDArray[np.uint8]:
    """Join the provenance of several polarizations: water where one of them has it, in regions of 3 pixels or more.

    Elsewhere the rule of the first that flagged the pixel; no value only where none has one.
    """
    out = maps[0].copy()
    for other in maps[1:]:
        open_ = (out == Rule.DRY) | (out == Rule.NO_VALUE)
        out = np.where((other == Rule.FLOODED) | (open_ & (other != Rule.NO_VALUE)), other, out)
    water = out == Rule.FLOODED
    few = water & (connected_counts(water, settings.min_pixels) < settings.min_pixels)
    out[few] = Rule.FEW_CONNECTED
    return out


def water_to_flood(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the provenance of a flood: water after it that was none before; no value where one date has none."""
    out = after.copy()
    out[(after == Rule.FLOODED) & (before == Rule.FLOODED)] = Rule.WATER_BEFORE
    out[before == Rule.NO_VALUE] = Rule.NO_VALUE
    return out
