"""Water of two dates by fuzzy rules (`radar.fuzzy`), read by windows: what a scene has in common is counted first."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError, UnitError
from sartransfer.prepare.flood_pair import FloodPair, band_unit
from sartransfer.prepare.flood_values import check_values
from sartransfer.radar.connected import connected_counts
from sartransfer.radar.flood import Rule, water_unit
from sartransfer.radar.fuzzy import (
    CAPS_DB,
    DB_EDGES,
    FuzzySettings,
    WaterLimits,
    combine_water,
    count_below,
    count_heights,
    fuzzy_water,
    hand_limits,
    low_tiles,
    median_below,
    slope_degrees,
    water_threshold,
    water_to_flood,
)
from sartransfer.radar.thresholds import tile_histograms
from sartransfer.scene import Scene
from sartransfer.windows import grow, inside

LEAST_HAND_M = -100.0  # some models have heights a little below 0; -9999 and -32768 are fills
SLOPE_HALO = 1  # pixels that a slope needs on each side


def fuzzy_flood(
    pair: FloodPair, settings: FuzzySettings, window: int, tick: Callable[[], None]
) -> tuple[NDArray[np.uint8], dict[str, WaterLimits], tuple[str, ...]]:
    """Return the provenance of a flood (H, W), the limits by date and polarization (``after VH``), and warnings."""
    if "hand" not in pair.layers:
        raise InputError(
            "the fuzzy rules need the height above the nearest drainage: give `hand` (--hand), in metres."
        )
    scenes = {"before": pair.before, "after": pair.after}
    bands = {
        d: {b.polarization: b.name for b in s.bands if b.polarization in CAPS_DB} for d, s in scenes.items()
    }
    common = [p for p in ("VH", "VV") if all(p in names for names in bands.values())]
    if not common:
        raise InputError(
            f"no band of {' or '.join(CAPS_DB)} is in both scenes: {', '.join(pair.before.names)}; "
            f"{', '.join(pair.after.names)}."
        )
    for date, scene in scenes.items():
        for polarization in common:
            band = bands[date][polarization]
            try:
                water_unit(band_unit(scene, band))
            except UnitError as error:
                raise UnitError(f"scene {scene.id!r}, band {band!r}: {error}") from error
    looked_at = [[bands[date][p] for p in common] for date in scenes]
    pair, warnings = check_values(pair, (looked_at[0], looked_at[1]), window)
    maps, limits = [], {}
    for date, scene in (("before", pair.before), ("after", pair.after)):
        waters = []
        for polarization in common:
            band = bands[date][polarization]
            water, limits[f"{date} {polarization}"] = _water(
                pair, scene, band, CAPS_DB[polarization], settings, window, tick
            )
            waters.append(water)
        maps.append(combine_water(waters, settings))
    return water_to_flood(maps[0], maps[1]), limits, warnings


def _water(
    pair: FloodPair,
    scene: Scene,
    band: str,
    cap_db: float,
    settings: FuzzySettings,
    window: int,
    tick: Callable[[], None],
) -> tuple[NDArray[np.uint8], WaterLimits]:
    """Map the water of one band of one date in three passes: threshold, pixels below it, memberships."""
    shape = (pair.height, pair.width)
    speckle = pair.with_looks(scene, band, settings.speckle)
    tiles = tuple(-(-n // settings.tile) for n in shape)
    counts = np.zeros((*tiles, len(DB_EDGES) - 1), dtype=np.int32)
    low = np.zeros(tiles, dtype=bool)
    heights = count_heights(np.zeros(0))
    windows = list(pair.windows(window, settings.tile))
    for part in windows:
        hand = pair.read_layer("hand", part)
        assert hand is not None  # looked for above
        lowest = float(np.fmin.reduce(hand, axis=None))
        if lowest < LEAST_HAND_M:
            raise InputError(
                f"hand falls to {lowest:g} m: heights above the nearest drainage are 0 or more. Is that an unmarked "
                f"nodata value? Declare it (rio edit-info FILE --nodata {lowest:g})."
            )
        rows, cols = (
            slice(start // settings.tile, -(-(start + length) // settings.tile))
            for start, length in ((part.row, part.height), (part.col, part.width))
        )
        counts[rows, cols] = tile_histograms(
            pair.read_db(scene, band, part, speckle, "power"), DB_EDGES, settings.tile
        )
        low[rows, cols] = low_tiles(hand, settings)
        heights += count_heights(hand)
        tick()
    threshold = water_threshold(counts, low, cap_db, settings)
    initial = np.zeros(shape, dtype=bool)
    below = count_below(np.zeros(0, np.float32), threshold.value)
    for part in windows:
        db = pair.read_db(scene, band, part, speckle, "power")
        initial[part.slices] = db <= threshold.value
        below += count_below(db, threshold.value)
        tick()
    limits = WaterLimits(median_below(below), threshold, hand_limits(heights, settings))
    sizes = connected_counts(initial, settings.full_pixels)
    out = np.full(shape, Rule.NO_VALUE, dtype=np.uint8)
    for part in windows:
        wide = pair.read_layer("hand", part, SLOPE_HALO)
        assert wide is not None
        inner = inside(part, grow(part, SLOPE_HALO, 1, *shape))
        out[part.slices] = fuzzy_water(
            pair.read_db(scene, band, part, speckle, "power"),
            sizes[part.slices],
            wide[inner],
            slope_degrees(wide, pair.pixel_size)[inner],
            limits,
            settings,
        )
        tick()
    return out, limits
