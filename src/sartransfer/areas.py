"""How large the pixels and polygons of a map are on the ellipsoid, in square metres."""

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RectBivariateSpline

from sartransfer.errors import InputError
from sartransfer.scene import GeoReference

if TYPE_CHECKING:
    from pyproj import CRS, Geod

NODE = 64  # pixels between the places where a pixel's area is worked out; between them a cubic spline
WIDEST = 1.6e7  # metres across in that projection: beyond, its far side is torn
EDGE = 500.0  # metres: longer edges of a polygon are divided, since what is straight on a map is no geodesic


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a grid lies on the ellipsoid; made by `open_ground`."""

    height: int
    width: int
    transform: tuple[float, float, float, float, float, float]
    """From (col, row) at pixel corners to the CRS."""
    crs: "CRS"
    _areas: RectBivariateSpline

    def pixel_areas(self, first: int, rows: int) -> NDArray[np.float64]:
        """Return the area of each pixel of `rows` rows from row `first` on: (rows, width), square metres."""
        found = self._areas(first + 0.5 + np.arange(rows), 0.5 + np.arange(self.width))
        return np.asarray(found, dtype=np.float64)

    @property
    def pixel_sides(self) -> tuple[float, float]:
        """Height and width of the pixel at the centre, in metres along the ellipsoid."""
        row, col = self.height / 2, self.width / 2
        lon, lat = self.to_degrees(
            np.array([[col, row - 0.5], [col, row + 0.5], [col - 0.5, row], [col + 0.5, row]])
        ).T
        _, _, far = self.geod.inv(lon[::2], lat[::2], lon[1::2], lat[1::2])
        return float(far[0]), float(far[1])

    @property
    def geod(self) -> "Geod":
        """The ellipsoid."""
        from pyproj import Geod

        ellipsoid = self.crs.ellipsoid
        assert ellipsoid is not None  # as `open_ground` saw to
        return Geod(a=ellipsoid.semi_major_metre, b=ellipsoid.semi_minor_metre)

    def to_crs(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (N, 2) pixel coordinates (col, row) in the CRS (x, y)."""
        a, b, c, d, e, f = self.transform
        col, row = points[:, 0], points[:, 1]
        return np.stack([a * col + b * row + c, d * col + e * row + f], axis=1)

    def to_degrees(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (N, 2) pixel coordinates (col, row) as longitude and latitude of the CRS's own datum."""
        return _degrees(self.crs, self.to_crs(points))


def open_ground(georeference: GeoReference, height: int, width: int) -> Ground:
    """Look up where a grid lies on the ellipsoid; needs pyproj (the extra ``gis``).

    Areas of pixels are those of their four corners in an equal-area projection of the ellipsoid: for a map in degrees
    the cylindrical one, else Lambert's azimuthal one about the scene's centre, so that poles and the antimeridian are
    no exception.

    Raises `InputError` without CRS or transform (control points alone do not say how large a pixel is), for a CRS that
    is not known, or a grid that leaves what the CRS can show.
    """
    try:
        from pyproj import CRS
        from pyproj.exceptions import CRSError
    except ImportError as error:
        raise InputError('areas need pyproj: pip install "sartransfer[gis]".') from error
    if georeference.crs is None or georeference.transform is None:
        raise InputError(
            "this map has no coordinate reference system with a transform, so that areas are not known. Geocode the "
            "scene first (sartransfer prepare sentinel1, or a warp in a GIS)."
        )
    try:
        crs = CRS.from_user_input(georeference.crs)
    except CRSError as error:
        raise InputError(
            f"the coordinate reference system {georeference.crs[:80]!r} is not known."
        ) from error
    if crs.ellipsoid is None or not (crs.is_geographic or crs.is_projected):
        raise InputError(f"areas are not known in {crs.name!r}: it is neither geographic nor projected.")
    if crs.geodetic_crs is None or {axis.unit_name for axis in crs.geodetic_crs.axis_info[:2]} != {"degree"}:
        raise InputError(
            f"areas are not known in {crs.name!r}: its longitudes and latitudes are not in degrees."
        )
    rows, cols = _nodes(height), _nodes(width)
    a, b, c, d, e, f = georeference.transform
    row, col = np.meshgrid(rows, cols, indexing="ij")
    corners = []
    for down, right in ((-0.5, -0.5), (-0.5, 0.5), (0.5, 0.5), (0.5, -0.5)):
        x, y = col + right, row + down
        corners.append(np.stack([a * x + b * y + c, d * x + e * y + f], axis=-1))
    middle = np.array([[a * width / 2 + b * height / 2 + c, d * width / 2 + e * height / 2 + f]])
    ((lon, lat),) = _degrees(crs, middle)
    outside = InputError(f"the map leaves what {crs.name!r} can show: areas are not known there.")
    places = np.stack(corners).reshape(-1, 2)
    points = _degrees(crs, places)
    if not (np.isfinite(points).all() and abs(lat) <= 90 and (np.abs(points[:, 1]) <= 90 + 1e-9).all()):
        raise outside
    x, y = _even(
        crs.ellipsoid, places if crs.is_geographic else points, None if crs.is_geographic else (lon, lat)
    )
    if max(np.ptp(x), np.ptp(y)) > WIDEST and not crs.is_geographic:
        raise InputError(
            "the map spans half the Earth: areas are known of smaller ones, or of one in degrees."
        )
    plane = np.stack([x, y], axis=-1).reshape(4, *row.shape, 2)
    first, second = plane[2] - plane[0], plane[3] - plane[1]  # the diagonals
    areas = 0.5 * np.abs(first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0])
    if not np.isfinite(areas).all() or (areas <= 0).any():
        raise outside
    return Ground(height, width, georeference.transform, crs, RectBivariateSpline(rows, cols, areas))


def _even(
    ellipsoid: Any, points: NDArray[np.float64], middle: tuple[float, float] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return degrees (lon, lat) as coordinates of an equal-area projection in metres.

    About `middle` Lambert's azimuthal one (by PROJ); without one the cylindrical one, in which longitudes run on past
    180 as they do in the map (Snyder 1987, Map Projections, eq. 10-14 and 3-12).
    """
    a, b = ellipsoid.semi_major_metre, ellipsoid.semi_minor_metre
    if middle is not None:
        from pyproj import Proj

        x, y = Proj(proj="laea", lon_0=middle[0], lat_0=middle[1], a=a, b=b)(points[:, 0], points[:, 1])
        return np.asarray(x), np.asarray(y)
    e = np.sqrt(1 - (b / a) ** 2)
    sine = np.sin(np.radians(points[:, 1]))
    q = sine / (1 - (e * sine) ** 2) + (np.arctanh(e * sine) / e if e > 0 else sine)
    return a * np.radians(points[:, 0]), a * (1 - e**2) * q / 2


def _nodes(side: int) -> NDArray[np.float64]:
    """Return centres of pixels from the first to the last (of a single one, places about it)."""
    edge = 0.5 if side > 1 else 0.25
    return np.linspace(edge, side - edge, max(4, min(side, 33), -(-side // NODE) + 1))


def _degrees(crs: "CRS", points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (N, 2) coordinates (x, y) of a CRS as degrees on its own datum."""
    from pyproj import Transformer

    geographic: Any = crs.geodetic_crs
    transformer = Transformer.from_crs(crs, geographic, always_xy=True)
    return np.stack(transformer.transform(points[:, 0], points[:, 1]), axis=1)


def polygon_areas(ground: Ground, polygons: NDArray[Any]) -> NDArray[np.float64]:
    """Return the areas of polygons on the ellipsoid, in square metres, holes taken off.

    Args:
        ground: where the map lies on the ellipsoid.
        polygons: (N,) shapely polygons, in pixel coordinates (col, row). Their edges are straight in the map's CRS;
            they are divided every `EDGE` metres, and the pieces taken as geodesics (Karney 2013, by pyproj.Geod).
    """
    if len(polygons) == 0:
        return np.zeros(0)
    step = max(1.0, EDGE / max(ground.pixel_sides))
    points, rings, firsts = divided(polygons, step)
    lon, lat = ground.to_degrees(points).T
    geod = ground.geod
    each = np.array(
        [
            abs(geod.polygon_area_perimeter(lon[first : last - 1], lat[first : last - 1])[0])
            for first, last in itertools.pairwise(rings)
        ]
    )
    each[np.setdiff1d(np.arange(len(each)), firsts[:-1])] *= -1  # holes
    return np.asarray(np.add.reduceat(each, firsts[:-1]), dtype=np.float64)


def divided(
    polygons: NDArray[Any], step: float
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return polygons with their edges divided into equal parts no longer than `step`: points, rings, polygons.

    As `shapely.to_ragged_array` does: points (N, 2), where each ring begins among them (and where the last ends), where
    each polygon begins among the rings. (shapely.segmentize may make several polygons of one that touches itself.)

    Raises `ValueError` for geometries that are no polygons.
    """
    import shapely

    kind, points, offsets = shapely.to_ragged_array(polygons)
    if kind != shapely.GeometryType.POLYGON:
        raise ValueError(f"polygons are expected, not {kind}")
    rings, firsts = offsets
    ways = np.diff(points, axis=0, append=points[-1:])
    parts = np.maximum(1, np.ceil(np.hypot(*ways.T) / step - 1e-9)).astype(np.int64)
    parts[np.asarray(rings[1:]) - 1] = 1  # from the end of a ring nothing leads to the next
    begins = np.concatenate([[0], np.cumsum(parts)])
    share = (np.arange(begins[-1]) - np.repeat(begins[:-1], parts)) / np.repeat(parts, parts)
    out = np.repeat(points, parts, axis=0) + share[:, None] * np.repeat(ways, parts, axis=0)
    return out, begins[np.asarray(rings)], np.asarray(firsts, dtype=np.int64)
