"""What is asked of an archive: an area, two periods, and which images of Sentinel-1 will do."""

import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from shapely import get_coordinates, make_valid, segmentize, union_all
from shapely.errors import ShapelyError
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from sartransfer.errors import InputError, one_of
from sartransfer.radar.speckle import SpeckleFilter

PASSES = ("ascending", "descending")
POLARIZATIONS = ("VV", "VH")
DATES = ("one", "all")
MOST_PIXELS = 400_000_000  # 20,000 x 20,000: two bands of it are 3.2 GB in memory
MOST_BYTES = 64 << 20  # of a GeoJSON file


@dataclass(frozen=True, slots=True)
class Area:
    """The area of interest, in degrees of longitude and latitude (WGS 84)."""

    geometry: BaseGeometry
    """A polygon or several."""

    def __post_init__(self) -> None:
        west, south, east, north = self.geometry.bounds if not self.geometry.is_empty else (math.nan,) * 4
        if not (-180 <= west <= east <= 180 and -90 <= south <= north <= 90):
            raise InputError(
                f"the area runs from {west:g}, {south:g} to {east:g}, {north:g}: GeoJSON is in degrees, longitude "
                "(-180 to 180) before latitude (-90 to 90). Is it in a projection?"
            )
        if self.geometry.area <= 0 or not self.geometry.is_valid:
            raise InputError("the area has no extent or crosses itself. Give a polygon.")
        if east - west > 180:
            raise InputError("the area spans over 180 degrees of longitude. Cut it at the antimeridian.")

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north in degrees."""
        west, south, east, north = self.geometry.bounds
        return west, south, east, north

    def to_json(self) -> dict[str, Any]:
        """The geometry as GeoJSON."""
        values: dict[str, Any] = json.loads(json.dumps(mapping(self.geometry)))
        return values


def read_area(path: str | Path) -> Area:
    """Read the polygons of a GeoJSON file (geometry, feature or collection) as one area; raises `InputError`."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not there. Give a GeoJSON file with a polygon.")
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path} is over {MOST_BYTES >> 20} MB: simplify the polygon.")
    try:
        return parse_area(json.loads(path.read_text(encoding="utf-8-sig")))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as GeoJSON: {error}.") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def parse_area(document: Any) -> Area:
    """Return the area that a GeoJSON document describes; polygons that overlap are joined."""
    geometries = list(_geometries(document))
    if not geometries:
        raise InputError("the GeoJSON holds no polygon.")
    try:
        found = [make_valid(shape(g)) for g in geometries]
    except (ShapelyError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(f"the GeoJSON holds a polygon that cannot be read: {error}.") from error
    joined = union_all(found)
    return Area(joined if joined.geom_type in ("Polygon", "MultiPolygon") else joined.buffer(0))


def parse_box(words: str) -> Area:
    """Return the area of ``west,south,east,north`` in degrees."""
    try:
        west, south, east, north = (float(w) for w in words.split(","))
    except ValueError as error:
        raise InputError(f"box {words!r}: give west,south,east,north in degrees.") from error
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    if not (west < east and south < north):
        raise InputError(f"box {words!r} is empty: west must be less than east, south less than north.")
    return parse_area({"type": "Polygon", "coordinates": [ring]})


def _geometries(document: Any) -> Any:
    if not isinstance(document, dict):
        raise InputError("the GeoJSON is not an object.")
    kind = document.get("type")
    if kind in ("Polygon", "MultiPolygon"):
        yield document
    elif kind == "Feature":
        yield from _geometries(document.get("geometry") or {"type": "GeometryCollection", "geometries": []})
    elif kind in ("FeatureCollection", "GeometryCollection"):
        for part in document.get("features" if kind == "FeatureCollection" else "geometries") or ():
            yield from _geometries(part)
    else:
        raise InputError(f"the GeoJSON is of type {kind!r}: must hold polygons.")


@dataclass(frozen=True, slots=True)
class Period:
    """A span of time, UTC; both ends belong to it."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start > self.end:
            raise InputError(f"the period {self} ends before it starts.")

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%dT%H:%M:%SZ}/{self.end:%Y-%m-%dT%H:%M:%SZ}"


def parse_period(text: str) -> Period:
    """Return the period of ``2024-10-01/2024-10-28``: whole days, UTC, both included; times are ISO 8601.

    A single day (``2024-10-19``) is the whole of it.
    """
    parts = [p.strip() for p in text.split("/")]
    if len(parts) == 1 and len(parts[0]) == 10:
        parts *= 2
    if len(parts) != 2:
        raise InputError(f"period {text!r}: give START/END, such as 2024-10-01/2024-10-28, or one day.")
    try:
        start, end = (datetime.fromisoformat(p) for p in parts)
    except ValueError as error:
        raise InputError(
            f"period {text!r}: {error}. Give START/END, such as 2024-10-01/2024-10-28, or one day."
        ) from error
    if len(parts[1]) == 10:
        end += timedelta(days=1, seconds=-1)
    start, end = (t.replace(tzinfo=UTC) if t.tzinfo is None else t.astimezone(UTC) for t in (start, end))
    return Period(start, end)


@dataclass(frozen=True, slots=True)
class FloodRequest:
    """Two dates of one area."""

    area: Area
    before: Period
    after: Period
    polarizations: tuple[str, ...] = POLARIZATIONS
    orbit_pass: str | None = None
    """``ascending`` or ``descending``; None: either, but the same before and after."""
    relative_orbit: int | None = None
    """1 to 175; None: the one that covers most of the area, before and after."""
    mix_orbits: bool = False
    """Let before and after come from different orbits: another look direction changes the image too."""
    dates: str = "one"
    """``one``: of each period the pass that covers most; ``all``: every pass, the latest on top."""
    resolution: float = 10.0
    """Metres a pixel."""
    crs: str | None = None
    """A projected coordinate system in metres; None: the UTM zone of the area's middle."""
    speckle: SpeckleFilter = field(default_factory=lambda: SpeckleFilter("none"))
    """In linear power, before anything is written."""
    decibel: bool = False
    """Write decibels; else linear power."""
    min_coverage: float = 0.95
    """Least share of the area's pixels with a value, on either date."""
    note: str = ""
    """Written into the provenance: where dates and area come from."""

    def __post_init__(self) -> None:
        if self.before.end >= self.after.start:
            raise InputError(
                f"before ({self.before}) must end before after ({self.after}) starts. Are they swapped?"
            )
        if not self.polarizations or len(set(self.polarizations)) != len(self.polarizations):
            raise InputError(f"polarizations {list(self.polarizations)}: one or more, each once.")
        for name in self.polarizations:
            if name not in POLARIZATIONS:
                raise InputError(one_of("polarization", name, POLARIZATIONS))
        if self.orbit_pass is not None and self.orbit_pass not in PASSES:
            raise InputError(one_of("pass", self.orbit_pass, PASSES))
        if self.relative_orbit is not None and not 1 <= self.relative_orbit <= 175:
            raise InputError(f"relative_orbit={self.relative_orbit}: Sentinel-1 has 1 to 175 in its 12 days.")
        if self.dates not in DATES:
            raise InputError(one_of("dates", self.dates, DATES))
        if not (math.isfinite(self.resolution) and 1 <= self.resolution <= 10_000):
            raise InputError(f"resolution={self.resolution:g}: metres a pixel, 1 to 10000.")
        if not 0 <= self.min_coverage <= 1:
            raise InputError(f"min_coverage={self.min_coverage:g}: a share from 0 to 1.")


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid in metres, north up."""

    crs: str
    """Authority code or WKT."""
    left: float
    top: float
    resolution: float
    height: int
    width: int

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """As in `scene.GeoReference`."""
        return (self.resolution, 0.0, self.left, 0.0, -self.resolution, self.top)

    def part(self, row: int, col: int, height: int, width: int) -> "Grid":
        """Return a rectangle of it."""
        r = self.resolution
        return Grid(self.crs, self.left + col * r, self.top - row * r, r, height, width)


def plan_grid(request: FloodRequest) -> Grid:
    """Lay a grid round the area: corners on multiples of the resolution, in its UTM zone where no CRS is named.

    Raises `InputError` for a CRS that is not known or not in metres, and for more than `MOST_PIXELS` pixels.
    """
    from rasterio.crs import CRS
    from rasterio.errors import CRSError
    from rasterio.warp import transform

    west, south, east, north = request.area.bounds
    name = request.crs or utm_code((west + east) / 2, (south + north) / 2)
    try:
        crs = CRS.from_user_input(name)
        factor = crs.linear_units_factor[1] if crs.is_projected else 0.0
    except CRSError as error:
        raise InputError(f"crs={name[:80]!r} is not known. Give an EPSG code such as EPSG:32630.") from error
    if factor != 1.0:
        raise InputError(f"crs={name[:80]!r} does not count in metres. Give a projection that does, or none.")
    outline = get_coordinates(segmentize(request.area.geometry, max(east - west, north - south) / 64))
    x, y = (np.asarray(v) for v in transform("EPSG:4326", crs, *outline.T.tolist()))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError(f"the area cannot be shown in {name[:80]}. Choose another crs.")
    r = request.resolution
    left, bottom = (math.floor(v.min() / r + 1e-9) * r for v in (x, y))
    right, top = (math.ceil(v.max() / r - 1e-9) * r for v in (x, y))
    height, width = round((top - bottom) / r), round((right - left) / r)
    if height * width > MOST_PIXELS:
        raise InputError(
            f"the area is {height} x {width} pixels at {r:g} m: over {MOST_PIXELS:,}. Cut the area into parts, or "
            "give larger pixels (--resolution)."
        )
    return Grid(name, left, top, r, max(height, 1), max(width, 1))


def utm_code(longitude: float, latitude: float) -> str:
    """Return the EPSG code of a place's UTM zone (its 6 degrees; the exceptions of Norway are left out)."""
    zone = min(int((longitude + 180) // 6) + 1, 60)
    return f"EPSG:{(32600 if latitude >= 0 else 32700) + zone}"


def area_mask(area: Area, grid: Grid) -> Any:
    """Return (H, W) bool: pixels whose centre lies in the area; at least one is true."""
    from rasterio import Affine
    from rasterio.features import geometry_mask
    from rasterio.warp import transform_geom

    west, south, east, north = area.bounds
    fine = mapping(segmentize(area.geometry, max(east - west, north - south) / 64))
    drawn = transform_geom("EPSG:4326", grid.crs, fine)
    for touched in (False, True):  # an area smaller than a pixel holds no centre
        inside = geometry_mask(
            [drawn],
            (grid.height, grid.width),
            Affine(*grid.transform),
            all_touched=touched,
            invert=True,
        )
        if inside.any():
            return inside
    raise InputError("the area holds no pixel of the grid: give smaller pixels (--resolution).")
