"""Floods by change between two radar images: for every pixel the rule that decided.

Decibels or power must be said (`Unit`); what is not calibrated is refused where a rule needs it. The functions work on
whole arrays and, one by one, on windows: `map_flood` here and `prepare_flood` give the same map.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sartransfer.compiled import LARGE, kernel_for, run_bands
from sartransfer.errors import InputError, UnitError
from sartransfer.radar import connected_kernels
from sartransfer.radar.connected import connected_counts
from sartransfer.radar.flood_settings import (
    DROP_EDGES,
    LEGEND,
    MEASURES,
    PRACTICES,
    UN_SPIDER,
    FloodSettings,
    Layers,
    Rule,
    Slope,
    SlopeUnit,
    change_settings,
    convert_slope,
)
from sartransfer.radar.speckle import SpeckleFilter
from sartransfer.radar.thresholds import Counts, Threshold, find_threshold, tile_histograms
from sartransfer.radar.units import POWERS, Quantity, Scale, Unit, convert

__all__ = [
    "DROP_EDGES",
    "LEGEND",
    "MEASURES",
    "PRACTICES",
    "UN_SPIDER",
    "FloodMap",
    "FloodSettings",
    "Layers",
    "PixelAreas",
    "Rule",
    "Sensitivity",
    "Slope",
    "SlopeUnit",
    "area_km2",
    "change_settings",
    "check_units",
    "convert_slope",
    "decide",
    "flood_levels",
    "flood_strength",
    "flood_warnings",
    "ground_rules",
    "map_flood",
    "provenance_mask",
    "resolve_threshold",
    "sensitivity",
    "smooth_db",
    "steepest",
    "water_unit",
]

PixelAreas = Callable[[int, int], NDArray[np.float64]]
"""From the first row and a number of rows to the area of their pixels, square metres: (rows, W) or (rows, 1)."""

CALIBRATED = (Quantity.SIGMA0, Quantity.GAMMA0, Quantity.BETA0)
MOST_THRESHOLDS = 254
RADIANS = (
    1.58  # a right angle is 1.571: a slope in radians lies below, one in degrees of real ground rarely does
)
STRIP = LARGE
"""Pixels that `map_flood` works on at once: their images stay in memory that is used again, where that of a whole
scene would be asked of the system anew at every step, which takes longer than the arithmetic."""


@dataclass(frozen=True, slots=True)
class FloodMap:
    """What is flooded, and why the rest is not."""

    provenance: NDArray[np.uint8]
    """(H, W), values of `Rule`; `LEGEND` says what they mean."""
    threshold: Threshold
    warnings: tuple[str, ...] = ()
    """What was left out, and what looks odd (see `flood_warnings`)."""

    @property
    def mask(self) -> NDArray[np.uint8]:
        """(H, W): 1 flooded, 0 not, 255 no value."""
        return provenance_mask(self.provenance)

    def counts(self) -> dict[str, int]:
        """Return the pixels of each rule that occurs, in words."""
        found = np.bincount(self.provenance.ravel(), minlength=256)
        return {text: int(found[rule]) for rule, text in LEGEND.items() if found[rule]}


def provenance_mask(provenance: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return 1 where flooded, 255 where there is no value, 0 elsewhere."""
    table = np.zeros(256, dtype=np.uint8)
    table[[Rule.FLOODED, Rule.NO_VALUE]] = 1, 255
    return table[provenance]


def check_units(before: Unit, after: Unit, settings: FloodSettings) -> Unit:
    """Return the linear unit that both images are filtered in; raises `UnitError` where the rule has no meaning.

    Both must be of one quantity. A ratio of decibels needs calibrated backscatter (sigma0, gamma0, beta0); a difference
    also takes uncalibrated intensity and amplitude, if both images come from one calibration.
    """
    if before.quantity is not after.quantity:
        raise UnitError(f"before is {before}, after {after}: they cannot be compared. Calibrate both alike.")
    quantity = Quantity.INTENSITY if before.quantity is Quantity.AMPLITUDE else before.quantity
    allowed = CALIBRATED if settings.measure == "db_ratio" else POWERS
    if quantity not in allowed or Scale.LOG2 in (before.scale, after.scale):
        words = ", ".join((*allowed, *(["amplitude"] if allowed is POWERS else [])))
        raise UnitError(
            f"a flood cannot be told from {before} by {settings.measure}: must be one of {words}, linear or in dB. Say "
            "what the bands are (VH=sigma0_db), or calibrate them."
        )
    return Unit(quantity, Scale.LINEAR)


def water_unit(unit: Unit) -> None:
    """Raise `UnitError` unless a unit is that of calibrated backscatter, which thresholds in dB are about."""
    if unit.quantity not in CALIBRATED:
        raise UnitError(
            f"water cannot be told from {unit} by thresholds in dB: must be one of {', '.join(CALIBRATED)}, linear "
            "or in dB. Say what the bands are (VH=sigma0_db), or calibrate them."
        )


def smooth_db(
    values: NDArray[np.generic],
    unit: Unit,
    speckle: SpeckleFilter,
    mean_of: str,
    *,
    valid: NDArray[np.bool_] | None = None,
    pixel_size: tuple[float, float],
) -> NDArray[np.float32]:
    """Return an image (H, W) of power, amplitude or decibels filtered, in dB; NaN without a value.

    `pixel_size` (height, width) in metres. The filter runs in power or, with mean_of="db", in decibels, as the practice
    does; a zero has no decibel and is left out then.
    """
    power = Unit(Quantity.INTENSITY if unit.quantity is Quantity.AMPLITUDE else unit.quantity, Scale.LINEAR)
    decibel = Unit(power.quantity, Scale.DB)
    image = np.asarray(values, dtype=np.float32)
    if unit.quantity is Quantity.AMPLITUDE:
        image, unit = convert(image, unit, power), power
    if mean_of == "db":
        return speckle.mean(convert(image, unit, decibel), valid, pixel_size=pixel_size)
    filtered = speckle(convert(image, unit, power), valid, pixel_size=pixel_size)
    return convert(filtered, power, decibel)


def flood_strength(
    before_db: NDArray[np.float32], after_db: NDArray[np.float32], measure: str
) -> NDArray[np.float32]:
    """Return the measure of change (see `MEASURES`), float32; NaN where either has no value.

    A ratio to 0 dB is 0, as in Earth Engine.
    """
    if measure == "db_drop":
        return before_db - after_db
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: NDArray[np.float32] = np.divide(after_db, before_db, dtype=np.float32)
    zero = before_db == 0
    if zero.any():
        ratio[zero] = np.where(np.isfinite(after_db[zero]), np.float32(0), after_db[zero])
    return ratio


def flood_levels(strength: NDArray[np.float32], thresholds: Sequence[float]) -> NDArray[np.uint8]:
    """Return how many of the thresholds each pixel lies above (they ascend): flagged at the i-th where > i."""
    if not 1 <= len(thresholds) <= MOST_THRESHOLDS or any(a >= b for a, b in pairwise(thresholds)):
        raise InputError(f"thresholds {list(thresholds)}: must ascend, 1 to {MOST_THRESHOLDS} of them.")
    levels = np.zeros(strength.shape, dtype=np.uint8)
    for threshold in thresholds:
        levels += strength > threshold
    return levels


def ground_rules(
    known: NDArray[np.bool_], settings: FloodSettings, layers: Layers | None = None
) -> NDArray[np.uint8]:
    """Return for each pixel (H, W) the rules of the ground that would remove it, as a sum of bits.

    1 permanent water, 2 steep, 4 slope unknown, 128 no value. Raises `InputError` for a seasonality that is not from 0
    to 12 months, and a slope below 0 or above 90 degrees: a value that means no value must be declared (as NaN here).
    """
    layers = layers or Layers()
    _check_layers(layers, known.shape)
    ground: NDArray[np.uint8] = (~known).view(np.uint8) << np.uint8(7)
    if layers.seasonality is not None:
        least, most = _range(layers.seasonality)
        if most > 12:
            raise InputError(
                f"seasonality reaches {most:g}: it counts months, 0 to 12. Is it the occurrence in per cent, or an "
                "unmarked nodata value?"
            )
        if least < 0:
            raise InputError(
                f"seasonality falls to {least:g}: it counts months, 0 to 12. Is that an unmarked nodata value? Declare "
                f"it (rio edit-info FILE --nodata {least:g})."
            )
        ground |= (layers.seasonality >= settings.permanent_months).view(np.uint8)
    if layers.slope is not None and layers.slope_unit is not None and settings.max_slope is not None:
        least, most = _range(layers.slope)
        if least < 0:
            raise InputError(
                f"slope falls to {least:g}: it is 0 or more. Is that an unmarked nodata value? Declare it (rio "
                f"edit-info FILE --nodata {least:g})."
            )
        if layers.slope_unit is SlopeUnit.DEGREES and most > 90:
            raise InputError(
                f"slope reaches {most:g}: in degrees it is 90 at most. Is it in per cent (--slope-unit percent), or "
                "an unmarked nodata value?"
            )
        limit = float(convert_slope(settings.max_slope.limit, settings.max_slope.unit, layers.slope_unit))
        ground |= (layers.slope >= limit).view(np.uint8) << np.uint8(1)
        ground |= np.isnan(layers.slope).view(np.uint8) << np.uint8(2)
    return ground


def _range(values: NDArray[np.floating]) -> tuple[float, float]:
    """Return the least and the greatest value, 0 and 0 where there is none: no limit is broken then."""
    if not values.size:
        return 0.0, 0.0
    low, high = float(np.fmin.reduce(values, axis=None)), float(np.fmax.reduce(values, axis=None))
    return (0.0, 0.0) if np.isnan(low) else (low, high)


def steepest(layers: Layers) -> float | None:
    """Return the greatest slope in degrees that there is; None without a slope in degrees."""
    if layers.slope is None or layers.slope_unit is not SlopeUnit.DEGREES:
        return None
    return _range(layers.slope)[1]


def _check_layers(layers: Layers, shape: tuple[int, ...]) -> None:
    for name, layer in (("seasonality", layers.seasonality), ("slope", layers.slope)):
        if layer is not None and layer.shape != shape:
            raise InputError(f"{name} is {layer.shape}, the images are {shape}: bring them onto one grid.")


def decide(
    levels: NDArray[np.uint8], ground: NDArray[np.uint8], settings: FloodSettings, index: int = 0
) -> NDArray[np.uint8]:
    """Return the provenance (H, W) at the `index`-th threshold: change, permanent water, connected pixels, slope.

    In the practice's order: pixels on slopes still count as connected, permanent water does not.
    """
    flagged = (levels > index) & (ground < 128)
    counts = flagged.view(np.uint8)
    if settings.min_connected > 1:
        counts = connected_counts(flagged & (ground & 1 == 0), settings.min_connected)
    table = _rules()
    out = np.empty(levels.shape, dtype=np.uint8)
    kernel = kernel_for(connected_kernels.decide_rows, connected_kernels.DECIDE_SIGNATURE, levels.size)
    if kernel is not None:
        levels, ground = np.ascontiguousarray(levels), np.ascontiguousarray(ground)

        def work(top: int, bottom: int) -> None:
            kernel(levels, ground, index, counts, settings.min_connected, table, top, bottom, out)

        run_bands(work, len(levels))
        return out
    code = (ground & 7) | (flagged.view(np.uint8) << np.uint8(3)) | ((ground & 128) >> np.uint8(2))
    code |= (counts < settings.min_connected).view(np.uint8) << np.uint8(4)
    return np.take(table, code, out=out, mode="clip")


@functools.cache
def _rules() -> NDArray[np.uint8]:
    """Return the rule of each code: bits of `ground_rules` 1, 2, 4; 8 flagged, 16 few connected, 32 no value."""
    table = np.zeros(64, dtype=np.uint8)
    for code in range(64):
        if code & 32:
            table[code] = Rule.NO_VALUE
        elif code & 8:
            steep = Rule.STEEP if code & 2 else Rule.SLOPE_UNKNOWN if code & 4 else Rule.FLOODED
            table[code] = Rule.PERMANENT_WATER if code & 1 else Rule.FEW_CONNECTED if code & 16 else steep
    return table


def resolve_threshold(settings: FloodSettings, histograms: Counts | None) -> Threshold:
    """Return the given threshold, or the one found on tiles of the drop in dB (`tile_histograms` of `DROP_EDGES`).

    One that is found lies above 0: below, it would part what grew brighter, and all else would be flood.
    """
    if not isinstance(settings.threshold, str):
        return Threshold(float(settings.threshold), "given")
    assert histograms is not None  # the callers count wherever a method is named
    return find_threshold(histograms, DROP_EDGES, settings.threshold, tile_pixels=settings.tile**2, above=0.0)


def map_flood(
    before: NDArray[np.generic],
    after: NDArray[np.generic],
    unit: Unit,
    *,
    pixel_size: tuple[float, float],
    settings: FloodSettings = UN_SPIDER,
    layers: Layers | None = None,
    valid: NDArray[np.bool_] | None = None,
) -> FloodMap:
    """Map a flood from an image before and one after it (H, W), both of `unit`; see `FloodSettings`.

    `pixel_size` (height, width) in metres. Raises `UnitError` for a unit that the rule cannot use, `InputError` for
    arrays that are not alike or, where a threshold is to be found, no tile with two populations.
    """
    if np.shape(before) != np.shape(after):
        raise InputError(f"before is {np.shape(before)}, after {np.shape(after)}: bring them onto one grid.")
    check_units(unit, unit, settings)
    before, after, layers = np.asarray(before), np.asarray(after), layers or Layers()
    if before.ndim != 2 or not before.size:
        raise InputError(f"images are (H, W) with at least one pixel, not {before.shape}.")
    height, width = before.shape
    _check_layers(layers, (height, width))
    levels, ground = np.empty((height, width), dtype=np.uint8), np.empty((height, width), dtype=np.uint8)
    estimated = settings.speckle.needs_looks and settings.speckle.looks is None
    whole = estimated or isinstance(settings.threshold, str)  # both are found in all of the image
    halo = settings.speckle.halo(pixel_size)[0]
    found: list[Threshold] = []

    def strip(top: int, bottom: int) -> int:
        """Fill levels and ground of some rows; return how many pixels of `before` have 0 dB or more."""
        first, last = max(top - halo, 0), min(bottom + halo, height)
        part, inner = slice(first, last), slice(top - first, bottom - first)
        one, two = (
            smooth_db(
                image[part], unit, settings.speckle, settings.mean_of,
                valid=None if valid is None else valid[part], pixel_size=pixel_size,
            )[inner]
            for image in (before, after)
        )  # fmt: skip
        strength = flood_strength(one, two, settings.measure)
        counts = (
            tile_histograms(strength, DROP_EDGES, settings.tile)
            if isinstance(settings.threshold, str)
            else None
        )
        threshold = resolve_threshold(settings, counts)
        found.append(threshold)
        rows = slice(top, bottom)
        here = Layers(
            None if layers.seasonality is None else layers.seasonality[rows],
            None if layers.slope is None else layers.slope[rows],
            layers.slope_unit,
        )
        levels[rows] = flood_levels(strength, [threshold.value])
        ground[rows] = ground_rules(np.isfinite(strength), settings, here)
        return int(np.count_nonzero(one >= 0))

    def band(top: int, bottom: int) -> int:
        starts = range(top, bottom, rows)
        return sum(strip(start, min(start + rows, bottom)) for start in starts)

    rows = height if whole else -(-STRIP // width)
    positive = sum(run_bands(band, height, step=rows))
    warnings = flood_warnings(
        settings, layers.seasonality is not None, layers.slope is not None, positive, steepest(layers)
    )
    return FloodMap(decide(levels, ground, settings), found[0], warnings)


def flood_warnings(
    settings: FloodSettings,
    has_seasonality: bool,
    has_slope: bool,
    positive_before: int,
    steepest_deg: float | None = None,
) -> tuple[str, ...]:
    """Say which rules were left out for want of a layer, and where a ratio of decibels means nothing.

    `steepest_deg` is the greatest slope, where it is declared as degrees: up to a right angle in radians is odd.
    """
    out = []
    if not has_seasonality:
        out.append("permanent water was not removed: no seasonality is given")
    if settings.max_slope is not None and not has_slope:
        out.append("slopes were not removed: no slope is given")
    if settings.max_slope is not None and steepest_deg is not None and 0 < steepest_deg <= RADIANS:
        out.append(
            f"the slope reaches {steepest_deg:.3g} degrees only, less than a right angle has in radians: is it in "
            "radians? (degrees = 57.3 times that)"
        )
    if settings.measure == "db_ratio" and positive_before:
        out.append(
            f"{positive_before} pixels are of 0 dB or more before the flood, where after / before in dB means nothing"
        )
    return tuple(out)


def area_km2(flooded: NDArray[np.bool_], pixel_area_m2: PixelAreas | NDArray[np.floating] | float) -> float:
    """Return the area of what is true (H, W); `pixel_area_m2` as in `sensitivity`."""
    height, width = flooded.shape
    if callable(pixel_area_m2):
        areas = pixel_area_m2
    else:
        by_row = np.broadcast_to(np.asarray(pixel_area_m2, dtype=np.float64), (height,))[:, None]

        def areas(first: int, rows: int) -> NDArray[np.float64]:
            return by_row[first : first + rows]

    total, step = 0.0, max(1, STRIP // width)
    for first in range(0, height, step):
        part = flooded[first : first + step]
        if part.any():
            total += float(np.sum(np.broadcast_to(areas(first, len(part)), part.shape), where=part))
    return total / 1e6


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """The flooded area at each of several thresholds, all other rules as they are."""

    thresholds: tuple[float, ...]
    pixels: tuple[int, ...]
    area_km2: tuple[float, ...]

    def rows(self) -> list[Mapping[str, float]]:
        """Return one row a threshold."""
        return [
            {"threshold": t, "pixels": n, "area_km2": a}
            for t, n, a in zip(self.thresholds, self.pixels, self.area_km2, strict=True)
        ]


def sensitivity(
    levels: NDArray[np.uint8],
    ground: NDArray[np.uint8],
    thresholds: Sequence[float],
    settings: FloodSettings,
    pixel_area_m2: PixelAreas | NDArray[np.floating] | float,
) -> Sensitivity:
    """Say how the flooded area moves with the threshold: every rule is applied anew at each of them.

    Args:
        levels: of `flood_levels` at these thresholds. ground: of `ground_rules`. thresholds: in the levels' order.
        settings: of the rule; their own threshold is not asked.
        pixel_area_m2: of a pixel, or one a row (H,), or those of any rows (`PixelAreas`).
    """
    pixels, areas = [], []
    for index in range(len(thresholds)):
        flooded = decide(levels, ground, settings, index) == Rule.FLOODED
        pixels.append(int(np.count_nonzero(flooded)))
        areas.append(area_km2(flooded, pixel_area_m2))
    return Sensitivity(tuple(float(t) for t in thresholds), tuple(pixels), tuple(areas))
