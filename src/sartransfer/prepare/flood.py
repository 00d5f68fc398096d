"""A flood mask and the reasons for it from two scenes, read by windows: scenes of any size in little memory."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sartransfer import __version__
from sartransfer.errors import InputError, UnitError
from sartransfer.geotiff import check_outputs, write_geotiff
from sartransfer.prepare.flood_fuzzy import fuzzy_flood
from sartransfer.prepare.flood_pair import (
    FloodPair,
    band_unit,
    choose_bands,
    open_flood_pair,
    origin_warnings,
)
from sartransfer.prepare.flood_values import check_values
from sartransfer.radar.flood import (
    DROP_EDGES,
    LEGEND,
    UN_SPIDER,
    FloodSettings,
    Layers,
    Rule,
    Sensitivity,
    SlopeUnit,
    area_km2,
    check_units,
    decide,
    flood_levels,
    flood_strength,
    flood_warnings,
    ground_rules,
    provenance_mask,
    resolve_threshold,
    sensitivity,
    steepest,
)
from sartransfer.radar.fuzzy import FuzzySettings
from sartransfer.radar.thresholds import Threshold, tile_histograms
from sartransfer.scene import Band, Scene

WINDOW = 2048
MOSTLY = 0.5  # share of pixels without a value, above which a map is of little
# Okabe and Ito's colours for what is flooded and why the rest is not.
COLOURS: dict[int, tuple[int, int, int]] = {
    Rule.DRY: (240, 240, 240), Rule.FLOODED: (0, 114, 178), Rule.PERMANENT_WATER: (86, 180, 233),
    Rule.FEW_CONNECTED: (240, 228, 66), Rule.STEEP: (213, 94, 0), Rule.SLOPE_UNKNOWN: (120, 120, 120),
    Rule.HIGH_ABOVE_DRAINAGE: (230, 159, 0), Rule.LOW_MEMBERSHIP: (204, 121, 167),
    Rule.WATER_BEFORE: (0, 158, 115), Rule.NO_VALUE: (0, 0, 0),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PreparedFlood:
    """What was written, and what was found."""

    mask: Path
    """uint8: 1 flooded, 0 not, 255 no value."""
    provenance: Path
    """uint8: values of `radar.flood.Rule`; the legend is in its tags."""
    thresholds: dict[str, Threshold]
    """By measure, or for the fuzzy rules by date and polarization."""
    counts: dict[str, int]
    """Pixels by rule, in words."""
    area_km2: float
    """Of what is flooded."""
    sensitivity: Sensitivity | None
    """The area at other thresholds, where they were asked for."""
    warnings: tuple[str, ...]


def prepare_flood(
    before: str | Path | Scene,
    after: str | Path | Scene,
    out: str | Path,
    *,
    settings: FloodSettings | FuzzySettings = UN_SPIDER,
    band: str | None = None,
    seasonality: str | Path | Scene | None = None,
    slope: str | Path | Scene | None = None,
    slope_unit: SlopeUnit | None = None,
    hand: str | Path | Scene | None = None,
    thresholds: Sequence[float] = (),
    bands: tuple[Sequence[Band], Sequence[Band]] = ((), ()),
    pixel_size: tuple[float, float] | None = None,
    window: int = WINDOW,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> PreparedFlood:
    """Map a flood from a scene before and one after it; writes the mask and ``<out>-provenance.tif``.

    The result does not depend on the windows, to the last pixel. Held in memory are a few bytes a pixel: a scene of
    10,000 x 10,000 stays under 2 GB.

    Args:
        before, after: scenes on one grid, or files that a reader knows; their bands' units must be known.
        out: the mask, a GeoTIFF (.tif) with the place of `after`; new, or `overwrite`.
        settings: a change rule (`radar.flood.PRACTICES`), or the fuzzy rules, which need `hand` and look at VH and VV.
        band: name or polarization of the band compared; None: the only one, or VH.
        seasonality: months of water a year, 0 to 12. slope: in `slope_unit`, which must be said. hand: metres above the
            nearest drainage. Each a file or scene of one band on the same grid.
        thresholds: further ones, at which the area is reported (not for the fuzzy rules).
        bands: what the bands of the files before and after are, in file order; none: as the files say.
        pixel_size: height and width in metres, where the scenes do not say where they are.
        window: pixels a side that are read at once. progress: told the windows done so far.

    Raises:
        UnitError: units unknown, not alike, without a meaning for the rule, or belied by the values
            (`flood_values.check_values`); a slope without its unit.
        InputError: grids that differ, swapped dates, a threshold that cannot be found, a scene without a value, a layer
            of the ground beyond what it can be.
        OutputError: a file exists already or cannot be written; both files are written, or none.
    """
    out = Path(out)
    extra = out.with_name(f"{out.stem}-provenance.tif")
    given = [Path(i) for i in (before, after, seasonality, slope, hand) if isinstance(i, str | Path)]
    check_outputs([out, extra], given, overwrite, what="mask", lost="one of the scenes")
    if not np.isfinite(list(thresholds)).all():
        raise InputError(f"thresholds {list(thresholds)}: must be finite.")
    if window < 1:
        raise InputError(f"window={window}: must be at least 1 pixel.")
    if slope is not None and not isinstance(slope_unit, SlopeUnit):
        raise UnitError(f"slope_unit={slope_unit!r}: say whether the slope is in {' or '.join(SlopeUnit)}.")
    pair = open_flood_pair(
        before, after, {"seasonality": seasonality, "slope": slope, "hand": hand}, pixel_size, bands
    )
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done)

    moved: Sensitivity | None = None
    origin = origin_warnings(pair.before, pair.after, settings.speckle)
    if isinstance(settings, FuzzySettings):
        if thresholds:
            raise InputError(
                "other thresholds can be tried for the change rules only: leave `thresholds` out."
            )
        provenance, limits, odd = fuzzy_flood(pair, settings, window, tick)
        found = {name: limit.threshold for name, limit in limits.items()}
        provenance, left_out = _without_permanent(pair, provenance, window)
        warnings = (*origin, *odd, *left_out)
    else:
        provenance, threshold, moved, odd = _change(
            pair, settings, band, slope_unit, tuple(thresholds), window, tick
        )
        found = {settings.measure: threshold}
        warnings = (*origin, *odd)
    counts = np.bincount(provenance.ravel(), minlength=256)
    nothing = counts[Rule.NO_VALUE] / provenance.size
    if nothing == 1:
        raise InputError(
            f"no pixel has a value both in {pair.before.id!r} and in {pair.after.id!r}: nothing can be mapped."
        )
    if nothing > MOSTLY:
        warnings = (*warnings, f"{nothing:.1%} of the pixels have no value in one of the two scenes")
    words = {text: int(counts[rule]) for rule, text in LEGEND.items() if counts[rule]}
    _write(pair, out, extra, provenance, settings, found, warnings, overwrite)
    area = area_km2(provenance == Rule.FLOODED, pair.areas)
    return PreparedFlood(out, extra, found, words, area, moved, warnings)


def _change(
    pair: FloodPair,
    settings: FloodSettings,
    band: str | None,
    slope_unit: SlopeUnit | None,
    others: tuple[float, ...],
    window: int,
    tick: Callable[[], None],
) -> tuple[NDArray[np.uint8], Threshold, Sensitivity | None, tuple[str, ...]]:
    """Apply a change rule by windows: the provenance, the threshold, the area at others, warnings."""
    scenes = tuple(zip((pair.before, pair.after), choose_bands(pair, band), strict=True))
    check_units(band_unit(*scenes[0]), band_unit(*scenes[1]), settings)
    pair, odd = check_values(pair, ([scenes[0][1]], [scenes[1][1]]), window)
    scenes = ((pair.before, scenes[0][1]), (pair.after, scenes[1][1]))
    filters = [pair.with_looks(scene, name, settings.speckle) for scene, name in scenes]
    windows = list(pair.windows(window, settings.tile))

    def read(number: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        one, two = (
            pair.read_db(scene, name, windows[number], speckle, settings.mean_of)
            for (scene, name), speckle in zip(scenes, filters, strict=True)
        )
        return one, flood_strength(one, two, settings.measure)

    counts = None
    if isinstance(settings.threshold, str):
        tile = settings.tile
        counts = np.zeros(
            (-(-pair.height // tile), -(-pair.width // tile), len(DROP_EDGES) - 1), dtype=np.int32
        )
        for number, part in enumerate(windows):
            rows, cols = (
                slice(start // tile, -(-(start + length) // tile))
                for start, length in ((part.row, part.height), (part.col, part.width))
            )
            counts[rows, cols] = tile_histograms(read(number)[1], DROP_EDGES, tile)
            tick()
    threshold = resolve_threshold(settings, counts)
    tried = sorted({threshold.value, *others})
    levels = np.zeros((pair.height, pair.width), dtype=np.uint8)
    ground = np.zeros((pair.height, pair.width), dtype=np.uint8)
    positive, steep = 0, None
    for number, part in enumerate(windows):
        one, strength = read(number)
        levels[part.slices] = flood_levels(strength, tried)
        layers = Layers(
            pair.read_layer("seasonality", part),
            pair.read_layer("slope", part),
            slope_unit if "slope" in pair.layers else None,
        )
        ground[part.slices] = ground_rules(np.isfinite(strength), settings, layers)
        positive += int(np.count_nonzero(one >= 0))
        here = steepest(layers)
        steep = here if steep is None or here is None else max(steep, here)
        tick()
    left_out = flood_warnings(settings, "seasonality" in pair.layers, "slope" in pair.layers, positive, steep)
    warnings = (*odd, *left_out)
    moved = sensitivity(levels, ground, tried, settings, pair.areas) if others else None
    return decide(levels, ground, settings, tried.index(threshold.value)), threshold, moved, warnings


def _without_permanent(
    pair: FloodPair, provenance: NDArray[np.uint8], window: int
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Take permanent water out of a flood of the fuzzy rules, where a seasonality is given."""
    warnings = flood_warnings(
        FloodSettings("db_drop", 0.0, max_slope=None), "seasonality" in pair.layers, True, 0
    )
    if "seasonality" in pair.layers:
        for part in pair.windows(window, 1):
            here = provenance[part.slices]
            layers = Layers(pair.read_layer("seasonality", part))
            permanent = ground_rules(np.ones(here.shape, dtype=bool), UN_SPIDER, layers) & 1 > 0
            here[permanent & (here == Rule.FLOODED)] = Rule.PERMANENT_WATER
    return provenance, warnings


def _write(
    pair: FloodPair,
    out: Path,
    extra: Path,
    provenance: NDArray[np.uint8],
    settings: FloodSettings | FuzzySettings,
    found: dict[str, Threshold],
    warnings: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Write both files or none."""
    rules = "change" if isinstance(settings, FloodSettings) else "fuzzy"
    tags = {
        "SARTRANSFER_VERSION": __version__,
        "SARTRANSFER_SCENES": f"{pair.before.id} -> {pair.after.id}",
        "SARTRANSFER_FLOOD": json.dumps({"rules": rules, **asdict(settings)}),
        "SARTRANSFER_THRESHOLDS": json.dumps({k: asdict(t) for k, t in found.items()}),
        "SARTRANSFER_WARNINGS": "; ".join(warnings) or "none",
        "AREA_OR_POINT": "Area",
    }
    place = pair.after.georeference if pair.after.georeference.transform else pair.before.georeference
    legend = {**tags, "SARTRANSFER_LEGEND": "; ".join(f"{int(k)}={text}" for k, text in LEGEND.items())}
    write_geotiff(
        extra, provenance, georeference=place, descriptions=["provenance"], tags=legend, colormap=COLOURS,
        overwrite=overwrite,
    )  # fmt: skip
    classes = {**tags, "SARTRANSFER_CLASSES": "0=dry,1=flooded"}
    colours = {0: COLOURS[Rule.DRY], 1: COLOURS[Rule.FLOODED]}
    try:
        write_geotiff(
            out, provenance_mask(provenance), georeference=place, descriptions=["class"], tags=classes,
            nodata=Rule.NO_VALUE, colormap=colours, overwrite=overwrite,
        )  # fmt: skip
    except BaseException:  # Ctrl-C too: both files are written, or none
        extra.unlink(missing_ok=True)
        raise
