"""The ice chart of a simulated scene as an analyst would draw it: few polygons, smooth, not free of mistakes.

Works on shares of each surface in coarse cells, as large as an analyst can look at; never on single pixels.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError
from sartransfer.radar.sea_ice.backscatter import Surface
from sartransfer.radar.sigrid3 import NOT_FILLED

Array = NDArray[np.float64]
CELLS = 220
"""Cells across a scene: 1.9 km at full size. Charts of 1 : 1 to 5 million are drawn no finer (assumed)."""
SMOOTHING = 2.2  # cells (standard deviation) over which an analyst sees concentration
LEAST_CELLS = 60  # an analyst leaves smaller polygons out: 200 km^2 at full size (assumed)
ZONES = (0.1, 0.4, 0.7, 0.9)
"""Shares of ice between zones: open water, very open, open, close, very close ice (WMO No. 259)."""
# Position of edges on charts: 2 km mean square error between services (Pastusiak 2016, Polish Cartographical
# Review 48, doi 10.1515/pcr-2016-0005), which is two charts' errors together; most of it smooth along an edge
# (assumed).
DISPLACEMENT_M = 1400.0
# Concentration by eye: one analyst against another differs by a tenth or two (Karvonen et al. 2015, IEEE JSTARS
# 8, 1799).
TENTH_WRONG = 0.35  # share of polygons whose total is a tenth off. Assumed
GROSS_SHARE = 0.01  # of the scene: no larger polygon is taken for ice or water when it is the other (assumed)
STAGES = {Surface.OLD: 95, Surface.FIRST_YEAR: 86, Surface.FAST: 86, Surface.YOUNG: 83, Surface.NEW: 81}
"""Surface -> SIGRID-3 stage of development; thickest first."""
COLUMNS = ("CT", "CA", "SA", "FA", "CB", "SB", "FB", "CC", "SC", "FC")
LAND = -1


@dataclass(frozen=True, slots=True)
class Zone:
    """One polygon of a chart."""

    shape: Any
    """A shapely polygon in pixels of the product: x along columns, y down the lines."""
    kind: str
    """POLY_TYPE: I, W or L."""
    codes: dict[str, int]
    """SIGRID-3 codes by `COLUMNS`; -9 where not filled."""
    mistake: str | None = None
    """What is wrong with it on purpose."""

    @property
    def is_ice(self) -> bool | None:
        """Whether an ice-water label calls it ice; None on land."""
        return None if self.kind == "L" else self.codes["CT"] >= 10


def cell_of(height: int, width: int) -> int:
    """Return the side of an analyst's cell in pixels of the product."""
    return max(4, round(max(height, width) / CELLS))


def count_cells(surface: NDArray[np.uint8], first: int, cell: int, counts: NDArray[np.int64]) -> None:
    """Add a block of rows to the counts of surfaces in each cell, (cells down, cells along, 7), in place."""
    _, along, kinds = counts.shape
    row = (np.arange(first, first + len(surface)) // cell)[:, None]
    column = (np.arange(surface.shape[1]) // cell)[None, :]
    flat = (row * along + column) * kinds + surface
    low = int(row[0, 0]) * along * kinds
    found = np.bincount(flat.ravel() - low)
    counts.reshape(-1)[low : low + len(found)] += found


def draw_chart(
    counts: NDArray[np.int64],
    cell: int,
    land: Any,
    seed: int,
    *,
    mistakes: float = 0.05,
    displacement_px: float = 0.0,
) -> tuple[Zone, ...]:
    """Draw the polygons of a scene, from the counts of surfaces in its cells.

    Args:
        counts: (cells down, cells along, 7), from `count_cells`. cell: its side in pixels.
        land: shapely geometry of the coast, in pixels; the one thing that charts take from maps.
        seed: of everything that the analyst does. mistakes: share of the polygons that are called something else:
            small ones of ice water and the other way round, large ones another stage.
        displacement_px: standard deviation by which edges lie off.

    Polygons do not overlap, and cover the scene and four cells round it. Raises `InputError` for a share that is
    none.
    """
    if not 0 <= mistakes <= 1:
        raise InputError(f"mistakes={mistakes}: a share of the polygons, 0 to 1.")
    rng = np.random.default_rng([seed, 2])
    shares, sea = _shares(counts)
    codes = _zones(shares, sea)
    faces = _polygons(codes, cell, rng, displacement_px)
    zones = []
    area = counts.shape[0] * counts.shape[1] * cell**2
    import shapely

    for shape, where, open_water in faces:
        wet = shapely.difference(shape, land) if land is not None else shape
        for part in shapely.get_parts(wet):
            if part.geom_type == "Polygon" and part.area > cell**2 / 100:
                zones.append(_zone(part, _mean(shares, sea, where), open_water, rng))
    zones = _mistaken(zones, mistakes, area, rng)
    if land is not None:
        parts = [p for p in shapely.get_parts(land) if p.geom_type == "Polygon"]
        zones += [Zone(part, "L", dict.fromkeys(COLUMNS, NOT_FILLED)) for part in parts]
    return tuple(zones)


def _shares(counts: NDArray[np.int64]) -> tuple[Array, Array]:
    """Return the share of each surface of the sea (rows, columns, 7), as seen by eye, and of sea in all."""
    from scipy.ndimage import gaussian_filter

    total = np.maximum(counts.sum(axis=-1), 1)
    wet = counts.astype(np.float64) / total[..., None]
    wet[..., Surface.LAND] = 0.0
    blurred = np.stack(
        [gaussian_filter(wet[..., k], SMOOTHING, mode="nearest") for k in range(wet.shape[-1])], -1
    )
    sea = blurred.sum(axis=-1)
    return blurred / np.maximum(sea, 1e-9)[..., None], sea


def _zones(shares: Array, sea: Array) -> NDArray[np.int16]:
    """Return a number for what each cell is called: zone of concentration times ten plus leading stage."""
    from rasterio.features import sieve

    ice = 1.0 - shares[..., Surface.WATER]
    zone = np.searchsorted(ZONES, ice.ravel(), side="right").reshape(ice.shape)
    thick = np.stack([shares[..., s] for s in STAGES], axis=-1)
    stage = np.argmax(thick, axis=-1)
    code = np.where(zone == 0, 0, 10 * zone + stage).astype(np.int16)
    code = np.pad(code, 4, mode="edge")
    return np.asarray(sieve(code, LEAST_CELLS, connectivity=4), dtype=np.int16)


def _polygons(
    codes: NDArray[np.int16], cell: int, rng: np.random.Generator, displacement_px: float
) -> list[tuple[Any, NDArray[np.bool_], bool]]:
    """Return smooth polygons in pixels that fit together, each with its cells (without the pad) and if it is water.

    The edges between cells are joined to lines that end where three zones meet; each line is smoothed between its
    ends, so that neighbours keep one common edge.
    """
    import shapely
    from rasterio.features import shapes as outline

    found = [(shapely.geometry.shape(s), int(v)) for s, v in outline(codes, connectivity=4)]
    regions = [shape for shape, _ in found]
    net = shapely.line_merge(shapely.unary_union([r.boundary for r in regions]))
    frame = shapely.box(0, 0, codes.shape[1], codes.shape[0]).exterior
    parts = shapely.get_parts(net)
    on_frame = shapely.covers(frame, parts)
    lines = [line if fixed else _smooth(line) for line, fixed in zip(parts, on_frame, strict=True)]
    moved = shapely.transform(
        np.array(lines, dtype=object), _displacement(codes.shape, rng, displacement_px / cell)
    )
    faces = shapely.get_parts(shapely.polygonize(shapely.get_parts(shapely.unary_union(moved)).tolist()))
    tree = shapely.STRtree(regions)
    merged: dict[int, list[Any]] = {}
    for face in faces:
        hits = tree.query(face, predicate="intersects")
        if len(hits):
            areas = [shapely.intersection(regions[h], face).area for h in hits]
            merged.setdefault(int(hits[int(np.argmax(areas))]), []).append(face)
    out = []
    for number, pieces in merged.items():
        whole = shapely.unary_union(pieces)
        here = _cells(regions[number], codes.shape)[4:-4, 4:-4]
        for part in shapely.get_parts(whole):
            if part.geom_type == "Polygon" and here.any():
                placed = shapely.transform(part, lambda xy: (xy - 4) * cell)
                out.append((placed, here, found[number][1] == 0))
    return out


def _cells(region: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    from rasterio.features import rasterize

    return np.asarray(rasterize([(region, 1)], shape[:2]), dtype=bool)


def _smooth(line: Any) -> Any:
    """Return a staircase as a hand would draw it: its corners cut twice (Chaikin 1974), its ends where they are."""
    import shapely

    points = shapely.get_coordinates(shapely.simplify(line, 0.75))
    closed = bool((points[0] == points[-1]).all()) and len(points) > 3
    for _ in range(2):
        if len(points) < 3:
            break
        first, second = points[:-1], points[1:]
        cut = np.stack([0.75 * first + 0.25 * second, 0.25 * first + 0.75 * second], axis=1).reshape(-1, 2)
        points = (
            np.concatenate([cut, cut[:1]]) if closed else np.concatenate([points[:1], cut[1:-1], points[-1:]])
        )
    return shapely.linestrings(points)


def _displacement(shape: tuple[int, ...], rng: np.random.Generator, size: float) -> Any:
    """Return a function that moves points (N, 2) smoothly, by so many cells (standard deviation) in each direction."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    noise = rng.standard_normal((2, *shape))
    smooth = np.stack([gaussian_filter(n, 12.0, mode="nearest") for n in noise])
    smooth *= size / np.maximum(smooth.std(axis=(1, 2), keepdims=True), 1e-9)
    inwards = [np.minimum(np.arange(n) + 0.5, np.arange(n)[::-1] + 0.5) for n in shape]
    smooth *= np.clip(np.minimum.outer(*inwards) / 4 - 0.125, 0, 1)  # what lies on the frame stays there

    def move(points: Array) -> Array:
        at = np.stack([points[:, 1] - 0.5, points[:, 0] - 0.5])
        off: Array = np.stack([map_coordinates(s, at, order=1, mode="nearest") for s in smooth], axis=1)
        return points + off

    return move


def _mean(shares: Array, sea: Array, where: NDArray[np.bool_]) -> Array:
    weight = sea * where
    if weight.sum() <= 0:
        weight = where.astype(np.float64)
    mean: Array = (shares * weight[..., None]).sum(axis=(0, 1)) / weight.sum()
    return mean


def _zone(shape: Any, mean: Array, open_water: bool, rng: np.random.Generator) -> Zone:
    """Return a polygon with the codes that its mean shares get."""
    ice = 1.0 - float(mean[Surface.WATER])
    tenths = 0 if open_water else int(np.clip(np.rint(10 * ice), 1, 10))
    if rng.random() < TENTH_WRONG and 2 <= tenths <= 9:
        tenths += int(rng.choice([-1, 1]))
    codes = dict.fromkeys(COLUMNS, NOT_FILLED)
    if tenths < 1:
        codes["CT"] = 0 if ice < 0.01 else 1
        return Zone(shape, "W", codes)
    codes["CT"] = 92 if tenths == 10 else 10 * tenths
    amounts: dict[int, float] = {}
    for surface, stage in STAGES.items():
        amounts[stage] = amounts.get(stage, 0.0) + float(mean[surface])
    parts = [(s, round(10 * a / max(ice, 1e-9) * tenths / 10)) for s, a in amounts.items()]
    parts = [(s, t) for s, t in parts if t >= 1][:3] or [(max(amounts, key=lambda s: amounts[s]), tenths)]
    form = 8 if mean[Surface.FAST] > 0.5 * ice else 4 if tenths < 4 else 5 if tenths < 9 else 6
    for letter, (stage, part) in zip("ABC", parts, strict=False):
        codes[f"S{letter}"], codes[f"F{letter}"] = stage, form
        if len(parts) > 1:
            codes[f"C{letter}"] = 92 if part == 10 else 10 * part
    return Zone(shape, "I", codes)


def _mistaken(zones: list[Zone], share: float, area: float, rng: np.random.Generator) -> list[Zone]:
    """Call some polygons what they are not."""
    out = []
    for zone in zones:
        small = zone.shape.area < GROSS_SHARE * area
        if rng.random() >= share or (zone.kind == "W" and not small):
            out.append(zone)
        elif zone.kind == "W":
            codes = {**zone.codes, "CT": 50, "SA": STAGES[Surface.NEW], "FA": 4}
            out.append(replace(zone, kind="I", codes=codes, mistake="water called ice"))
        elif small and rng.random() < 0.7:
            codes = {**dict.fromkeys(COLUMNS, NOT_FILLED), "CT": 1}
            out.append(replace(zone, kind="W", codes=codes, mistake="ice called water"))
        else:
            other = STAGES[Surface.FIRST_YEAR if zone.codes["SA"] == STAGES[Surface.OLD] else Surface.OLD]
            out.append(replace(zone, codes={**zone.codes, "SA": other}, mistake="stage"))
    return out
