"""Polygons of an ice chart: read from a file, brought to a scene's projection, drawn on its grid window by window."""

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError, nearest
from sartransfer.scene import GeoReference, Scene, Window

# What files of these endings begin with: GDAL opens a file by what is in it, and a VRT named .gpkg points elsewhere.
# ESRI Shapefile Technical Description (1998), file code 9994; SQLite, database file format, 1.3.
ENDINGS = {".shp": b"\x00\x00\x27\x0a", ".gpkg": b"SQLite format 3\x00"}
CLOSE = 0.1  # of a pixel: how far a side may lie from its true course once it is reprojected
ROUNDS = 4  # of making sides shorter
ARC = 16  # straight pieces in a quarter of a circle: a buffer is drawn true to 0.12 % of its width
NONE = -1
HALF_TURN = 180.0
RIM = 1e-6  # degrees


@dataclass(frozen=True, slots=True)
class ChartFile:
    """A chart as its file has it."""

    geometries: NDArray[np.object_]
    """(N,) shapely polygons and multipolygons."""
    table: dict[str, NDArray[Any]]
    """Column -> (N,) values."""
    crs: str


def read_chart(path: Path, layer: str | None = None, crs: str | None = None) -> ChartFile:
    """Read all polygons of a Shapefile or GeoPackage; needs pyogrio.

    Args:
        path: a plain local file, .shp or .gpkg.
        layer: of a GeoPackage with several.
        crs: where the file does not say it.

    Raises `InputError` for a missing or damaged file, several layers of which none is named, no coordinate
    reference system, geometries that are no polygons, or pyogrio not installed.
    """
    import shapely

    try:
        pyogrio = importlib.import_module("pyogrio")  # which has no types
        unreadable = (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, OSError, ValueError)
    except ImportError as error:
        raise InputError(
            f'{path}: ice charts need pyogrio: pip install "sartransfer[icechart]", or pip install pyogrio.'
        ) from error
    # GDAL's own file systems (/vsicurl/ ...) and drivers that point elsewhere are shut out, as in geotiff.
    if str(path).startswith("/vsi") or not path.is_file():
        raise InputError(f"{path} is not there, or is no local file. Check the path of the chart.")
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"{path}: an ice chart must end in {' or '.join(ENDINGS)}; unpack or convert it.")
    _check_start(path)
    try:
        layers = [str(name) for name, _ in pyogrio.list_layers(path.resolve())]
        if layer is None and len(layers) != 1:
            raise InputError(
                f"{path} has {len(layers)} layers: {', '.join(layers)}. Name one: --layer NAME (layer=)."
            )
        if layer is not None and layer not in layers:
            raise InputError(f"{path} has no layer {layer!r}: {', '.join(layers)}.{nearest(layer, layers)}")
        meta, _, wkb, values = pyogrio.raw.read(
            path.resolve(), layer=layer or layers[0], force_2d=True, datetime_as_string=True
        )
    except unreadable as error:
        raise InputError(f"{path} cannot be read as an ice chart: {error}. Is it whole?") from error
    crs = crs or meta["crs"]
    if not crs:
        missing = (
            f"{path.with_suffix('.prj').name} beside it" if path.suffix.lower() == ".shp" else "its entry"
        )
        raise InputError(
            f"{path} does not say its projection: {missing} is missing. Get it from where the chart came from, or "
            "give the projection: --chart-crs EPSG:3411 (chart_crs=)."
        )
    geometries = np.asarray(shapely.from_wkb(wkb), dtype=object)
    kept = ~(shapely.is_missing(geometries) | shapely.is_empty(geometries))
    odd = sorted({g.geom_type for g in geometries[kept]} - {"Polygon", "MultiPolygon"})
    if odd or not kept.any():
        raise InputError(f"{path} holds {', '.join(odd) or 'nothing'} where polygons are expected.")
    table = {str(n): v[kept] for n, v in zip(meta["fields"], values, strict=True)}
    return ChartFile(geometries[kept], table, str(crs))


def _check_start(path: Path) -> None:
    """Refuse a file that is not what its ending says."""
    ending = path.suffix.lower()
    try:
        with path.open("rb") as file:
            head = file.read(len(ENDINGS[ending]))
    except OSError as error:
        raise InputError(f"{path} cannot be read as an ice chart: {error.strerror or error}.") from error
    if head != ENDINGS[ending]:
        raise InputError(
            f"{path} is no {'Shapefile' if ending == '.shp' else 'GeoPackage'}, whatever its name: it begins with "
            f"{head!r}, not {ENDINGS[ending]!r}. Is it whole? Convert it otherwise."
        )


def check_grid(scene: Scene, buffer_m: float) -> float:
    """Return metres a unit of the scene's projection; NaN where it is in degrees.

    Raises `InputError` if the scene has no projection with an affine transform (a product that is not geocoded), or
    a buffer in metres is wanted on a grid in degrees.
    """
    from rasterio.crs import CRS

    place = scene.georeference
    if place.crs is None or place.transform is None:
        raise InputError(
            f"scene {scene.id!r} does not lie on a map ({'control points only' if place.gcps else 'no projection'}). "
            "Geocode it first: sartransfer prepare sentinel1."
        )
    crs = CRS.from_user_input(place.crs)
    if crs.is_projected:
        return float(crs.linear_units_factor[1])
    if buffer_m > 0:
        raise InputError(
            f"--buffer (buffer_m={buffer_m:g}): scene {scene.id!r} lies in degrees, where metres have no one length. "
            "Bring it to a projection first."
        )
    return float("nan")


def project_polygons(
    chart: ChartFile, scene: Scene, margin: float = 0.0
) -> tuple[NDArray[np.object_], NDArray[np.intp]]:
    """Bring the polygons within `margin` (units of the projection) of a scene to its projection.

    Longitudes of a chart in degrees may run from -180 to 180, from 0 to 360, or beyond 180 on either side. Sides are
    cut into pieces first, so that a line that is straight in the chart's projection (a parallel, say) keeps its course
    to a tenth of a pixel. Returns the polygons (M,) and their places in `chart` (M,). Raises `InputError` if a polygon
    cannot be shown in the scene's projection, or crosses the antimeridian with a side the long way round the Earth.
    """
    import shapely
    from rasterio.crs import CRS
    from rasterio.errors import CRSError
    from rasterio.warp import transform, transform_bounds

    try:
        source = CRS.from_user_input(chart.crs)
    except CRSError as error:
        raise InputError(
            f"the chart's projection {chart.crs[:80]!r} is not known. Give it as EPSG:3411: --chart-crs (chart_crs=)."
        ) from error
    target = CRS.from_user_input(scene.georeference.crs)
    frame = frame_of(scene.georeference, scene.window).buffer(margin, join_style="mitre")
    degrees = source.is_geographic
    if degrees and target.is_geographic:  # grids have no antimeridian; frames of two datums lie metres apart
        left, bottom, right, top = frame.buffer(0.01, join_style="mitre").bounds
    elif source == target:
        left, bottom, right, top = frame.bounds
    else:
        left, bottom, right, top = transform_bounds(target, source, *frame.bounds, densify_pts=101)
    spans = [(left, right)] if left <= right else [(left, 180.0), (-180.0, right)]  # across the antimeridian
    xmin, ymin, xmax, ymax = shapely.bounds(chart.geometries).T
    beside = (ymin <= top) & (ymax >= bottom)
    if degrees:
        # A ring around the pole that was closed the long way covers what lies beyond it too.
        north = np.where(ymin + ymax >= 0, 90.0, ymax)
        south = np.where(ymin + ymax >= 0, ymin, -90.0)
        _refuse_wrapped(chart.geometries, np.flatnonzero((south <= top) & (north >= bottom)))
    shapes: list[object] = []
    places: list[int] = []
    for turn in (0.0, -360.0, 360.0) if degrees else (0.0,):
        hit = np.zeros(len(beside), dtype=bool)
        for low, high in spans:
            hit |= (xmin + turn <= high) & (xmax + turn >= low) & beside
        if degrees and not target.is_geographic:
            hit[places] = False  # once is enough: a projection takes all turns alike
            turn = 0.0
        places += np.flatnonzero(hit).tolist()
        shapes += list(chart.geometries[hit] if turn == 0 else _shift(chart.geometries[hit], turn))
    near = np.array(places, dtype=np.intp)
    order = np.argsort(near, kind="stable")
    near, polygons = near[order], np.array(shapes, dtype=object)[order]
    if source == target:
        inside = shapely.intersects(shapely.box(*shapely.bounds(polygons).T), frame)
        return polygons[inside], near[inside]

    def project(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = (np.asarray(c) for c in transform(source, target, points[:, 0], points[:, 1]))
        if degrees and target.is_geographic:
            x = x + 360 * np.round((points[:, 0] - x) / 360)  # the turn that was asked for
        return np.stack([x, y], axis=1)

    a, b, _, d, e, _ = scene.georeference.transform or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    tolerance = CLOSE * min(np.hypot(a, d), np.hypot(b, e))
    pieces = _shorten(polygons, project, tolerance)
    moved = np.asarray(shapely.transform(pieces, project), dtype=object)
    lost = ~np.isfinite(shapely.bounds(moved)).all(axis=1) | _has_nan(moved)
    if lost.any():
        raise InputError(
            f"{int(lost.sum())} polygons near scene {scene.id!r} reach to where its projection does not. Cut the "
            "chart to the scene's surroundings first."
        )
    inside = shapely.intersects(shapely.box(*shapely.bounds(moved).T), frame)
    return moved[inside], near[inside]


def frame_of(place: GeoReference, window: Window) -> Any:
    """Return the outline of a window of a grid as a shapely polygon, in the units of its projection."""
    import shapely

    a, b, c, d, e, f = place.transform or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    rows = np.array([0, 0, 1, 1]) * window.height + window.row
    cols = np.array([0, 1, 1, 0]) * window.width + window.col
    return shapely.polygons(np.stack([a * cols + b * rows + c, d * cols + e * rows + f], axis=1))


def draw_polygons(
    polygons: NDArray[np.object_], numbers: Iterable[int], place: GeoReference, window: Window
) -> NDArray[np.int32]:
    """Draw polygons on a window of a grid: (h, w), the number of the one that holds a pixel's centre, or `NONE`.

    Where polygons overlap, the later one is drawn over the earlier: `draw_values` tells whether that matters.
    """
    import rasterio
    from rasterio.features import rasterize

    shapes = [(polygon, int(number)) for polygon, number in zip(polygons, numbers, strict=True)]
    shape = (window.height, window.width)
    if not shapes:
        return np.full(shape, NONE, dtype=np.int32)
    a, b, c, d, e, f = place.transform or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    x, y = a * window.col + b * window.row + c, d * window.col + e * window.row + f
    drawn: NDArray[np.int32] = rasterize(
        shapes, shape, fill=NONE, transform=rasterio.Affine(a, b, x, d, e, y), dtype="int32"
    )
    return drawn


def draw_values(
    polygons: NDArray[np.object_],
    values: NDArray[np.int64],
    numbers: NDArray[np.intp],
    place: GeoReference,
    window: Window,
) -> tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.intp]]:
    """Draw polygons' values on a window of a grid, and say where polygons of different values overlap.

    Args:
        polygons, values, numbers: (M,) each; a value is 0 to 32,767. place: of the grid. window: a part of it.

    Returns the greatest and the least value of the polygons that hold a pixel's centre, (h, w) each, `NONE` where
    none does; and the numbers of those that were seen. A centre on an edge between two lies in either, not in both.
    """
    order = np.argsort(values, kind="stable")
    lookup = np.append(np.arange(len(polygons)), NONE)
    top = draw_polygons(polygons[order], lookup[order], place, window)
    seen = np.unique(top)
    table = np.append(values, NONE).astype(np.int16)  # a window's memory is a quarter of that of int64
    high = table[top]
    low = high
    if len(np.unique(values)) > 1:
        bottom = draw_polygons(polygons[order[::-1]], lookup[order[::-1]], place, window)
        low = table[bottom]
        rows, cols = np.nonzero(high != low)
        if len(rows):
            # Sides along a row of centres are drawn for both neighbours; the few that overlap are asked one by one.
            a, b, c, d, e, f = place.transform or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
            x, y = (part + 0.5 + start for part, start in ((cols, window.col), (rows, window.row)))
            x, y = a * x + b * y + c, d * x + e * y + f
            both = _inside(polygons, top[rows, cols], x, y) & _inside(polygons, bottom[rows, cols], x, y)
            low[rows[~both], cols[~both]] = high[rows[~both], cols[~both]]
        seen = np.union1d(seen, np.unique(bottom))
    return high, low, numbers[seen[seen != NONE]]


def _inside(
    polygons: NDArray[np.object_], owners: NDArray[np.int32], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Say which points (K,) lie in the inside of their polygon."""
    import shapely

    inside = np.zeros(len(owners), dtype=bool)
    for owner in np.unique(owners):
        mine = owners == owner
        inside[mine] = shapely.contains_xy(polygons[owner], x[mine], y[mine])
    return inside


def draw_near(
    lines: NDArray[np.object_], distance: float, place: GeoReference, window: Window
) -> NDArray[np.bool_]:
    """Say which pixels' centres lie within `distance` (units of the projection) of lines: (h, w)."""
    import shapely

    near = np.zeros((window.height, window.width), dtype=bool)
    frame = frame_of(place, window)
    reach = frame.buffer(1.01 * distance, quad_segs=ARC)
    clipped = shapely.clip_by_rect(lines, *reach.bounds)
    clipped = clipped[~shapely.is_empty(clipped)]
    if len(clipped):
        bands = shapely.buffer(clipped, distance, quad_segs=ARC)
        near |= draw_polygons(bands, [1] * len(bands), place, window) != NONE
    return near


def tiles(scene: Scene, size: int) -> Iterator[Window]:
    """Yield windows of at most `size` pixels a side that cover a scene."""
    for row in range(0, scene.height, size):
        for col in range(0, scene.width, size):
            yield Window(row, col, min(size, scene.height - row), min(size, scene.width - col))


def _shorten(polygons: NDArray[np.object_], project: Any, tolerance: float) -> NDArray[np.object_]:
    """Cut sides until the middle of each lies within `tolerance` of the middle of its projected ends."""
    import shapely

    for _ in range(ROUNDS):
        starts, ends = _sides(polygons)
        lengths = np.hypot(*(ends - starts).T)
        middle = project((starts + ends) / 2)
        off = np.hypot(*(middle - (project(starts) + project(ends)) / 2).T)
        bent = np.isfinite(off) & (off > tolerance) & (lengths > 0)
        if not bent.any():
            break
        # A chord's distance from its arc grows with the square of its length.
        longest = float((lengths[bent] * np.sqrt(tolerance / off[bent])).min())
        polygons = np.asarray(shapely.segmentize(polygons, longest), dtype=object)
    return polygons


def _sides(polygons: NDArray[np.object_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both ends (K, 2) of all sides of all rings."""
    import shapely

    rings = shapely.get_rings(shapely.get_parts(polygons))
    points, ring = shapely.get_coordinates(rings, return_index=True)
    same = ring[1:] == ring[:-1]
    return points[:-1][same], points[1:][same]


def _has_nan(polygons: NDArray[np.object_]) -> NDArray[np.bool_]:
    import shapely

    points, owner = shapely.get_coordinates(polygons, return_index=True)
    bad = np.zeros(len(polygons), dtype=bool)
    bad[owner[~np.isfinite(points).all(axis=1)]] = True
    return bad


def _shift(polygons: NDArray[np.object_], turn: float) -> NDArray[np.object_]:
    """Move polygons by so many degrees of longitude."""
    import shapely

    return np.asarray(
        shapely.transform(polygons, lambda points: points + np.array([turn, 0.0])), dtype=object
    )


def _refuse_wrapped(polygons: NDArray[np.object_], places: NDArray[np.intp]) -> None:
    """Refuse polygons in degrees with a side of more than half the Earth: from 170 to -170, the short way meant.

    Drawn as they stand they would cover all but what they mean. A side once round the Earth belongs to a belt or a
    cap where it joins the two rims of the map, and the ring comes to it along one rim and leaves along the other.
    """
    import shapely

    rings, ring_of = shapely.get_rings(shapely.get_parts(polygons[places]), return_index=True)
    parts_of = shapely.get_parts(polygons[places], return_index=True)[1]
    points, ring = shapely.get_coordinates(rings, return_index=True)
    wide = (np.abs(np.diff(points[:, 0])) > HALF_TURN + 1e-9) & (ring[1:] == ring[:-1])
    for number in np.unique(ring[1:][wide]):
        corners = points[ring == number][:-1]
        steps = np.roll(corners, -1, axis=0)[:, 0] - corners[:, 0]
        for k in np.flatnonzero(np.abs(steps) > HALF_TURN + 1e-9):
            before, after = corners[k - 1, 0], corners[(k + 2) % len(corners), 0]
            start, end = corners[k, 0], corners[(k + 1) % len(corners), 0]
            rims = abs(abs(steps[k]) - 360) < RIM and abs(before - start) < RIM and abs(after - end) < RIM
            if not rims:
                place = int(places[parts_of[ring_of[number]]])
                raise InputError(
                    f"polygon {place + 1} of the chart has a side from {start:g} to {end:g} degrees of longitude, more "
                    "than half the Earth: it crosses the antimeridian, and would be drawn the long way round. Cut it "
                    "at 180 degrees, give its longitudes from 0 to 360, or bring the chart to a polar projection."
                )
