"""The map that a Sentinel-1 product becomes: its projection, its grid, and the way from there to lines and pixels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError
from sartransfer.radar.geolocation import GeolocationGrid, GridMap, build_grid_map
from sartransfer.readers.sentinel1_annotation import Sentinel1Product

FINEST, COARSEST = 1 / 8, 64  # sizes of a map's pixel, in averaged pixels of the product
MOST_PIXELS = 1 << 33
ON_GRID = 1e-6  # of a pixel: nearer to a line of the grid is on it
HIGH_LATITUDE = 60.0
ARCTIC, ANTARCTIC = "EPSG:3413", "EPSG:3031"


@dataclass(frozen=True, slots=True)
class Target:
    """The map to be made, and the way from it to the product."""

    crs: str
    pixel_size: float
    left: float
    top: float
    height: int
    width: int
    fine: int
    """Samples along a side of a pixel, so that coarse pixels are averages and not single values."""
    to_map: GridMap
    grid: GeolocationGrid


def plan_target(
    product: Sentinel1Product, looks: int, crs: str | None, pixel_size: float | None, sea_level: bool
) -> Target:
    """Choose the projection, and lay its grid: corners on multiples of the pixel size, round the whole product."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError
    from rasterio.warp import transform

    sea = product.grid.at_sea_level()
    grid = sea if sea_level else product.grid
    name = crs or _default_crs(grid)
    try:
        projection = CRS.from_user_input(name)
    except CRSError as error:
        raise InputError(f"crs={name[:80]!r} is not known. Give an EPSG code (EPSG:3413) or WKT.") from error
    if pixel_size is None:
        if projection.is_geographic:
            raise InputError(f"{name} counts in degrees: give pixel_size in degrees, or a projected crs.")
        pixel_size = looks * max(product.spacing_m) / projection.linear_units_factor[1]
    if not 0 < pixel_size < float("inf"):
        raise InputError(f"pixel_size={pixel_size} is not possible: above 0, in units of {name}.")

    def project(points: GeolocationGrid) -> NDArray[np.float64]:
        try:
            places = transform("EPSG:4326", projection, points.longitude.ravel(), points.latitude.ravel())
        except Exception as error:  # GDAL's exceptions for points outside of a projection have no public base
            raise InputError(
                f"{product.id} cannot be shown in {name}: {error}. Choose another crs."
            ) from error
        return np.reshape(np.array(places[:2], dtype=np.float64), (2, *points.latitude.shape))

    flat = project(sea)
    lift = None if grid is sea else project(grid) - flat
    to_map = build_grid_map(
        grid.lines, grid.pixels, flat[0], flat[1], None if lift is None else (lift[0], lift[1])
    )
    x, y = _outline(to_map, product.rows, product.columns)
    # A product that ends on the grid's lines, but for rounding, gets no row or column of nothing beyond it.
    left, bottom = (np.floor(n.min() / pixel_size + ON_GRID) for n in (x, y))
    right, top = (np.ceil(n.max() / pixel_size - ON_GRID) for n in (x, y))
    width, height = round(right - left), round(top - bottom)
    left, top = left * pixel_size, top * pixel_size
    size = pixel_size / (looks * _size(to_map, product))
    if not FINEST <= size <= COARSEST or height * width > MOST_PIXELS:
        raise InputError(
            f"pixel_size={pixel_size:g} in {name} is {size:.3g} times the product's averaged pixels and makes a map of "
            f"{height} x {width}. Allowed: {FINEST} to {COARSEST} times. Change multilook={looks} with it."
        )
    code = projection.to_epsg()
    return Target(
        crs=f"EPSG:{code}" if code else projection.to_wkt(),
        pixel_size=float(pixel_size),
        left=float(left),
        top=float(top),
        height=height,
        width=width,
        fine=max(1, round(size)),
        to_map=to_map,
        grid=grid,
    )


def _default_crs(grid: GeolocationGrid) -> str:
    row, column = len(grid.lines) // 2, len(grid.pixels) // 2
    latitude, longitude = float(grid.latitude[row, column]), float(grid.longitude[row, column])
    if abs(latitude) >= HIGH_LATITUDE:
        return ARCTIC if latitude > 0 else ANTARCTIC
    zone = int((longitude + 180) // 6) % 60 + 1
    return f"EPSG:{(32600 if latitude >= 0 else 32700) + zone}"


def _outline(to_map: GridMap, rows: int, columns: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return map coordinates along the edge of the outermost pixels."""
    steps = np.linspace(0, 1, 201)
    side, none, full = steps, np.zeros_like(steps), np.ones_like(steps)
    lines = np.concatenate([none, side, full, side]) * rows - 0.5
    pixels = np.concatenate([side, full, side, none]) * columns - 0.5
    return to_map.forward(lines, pixels)


def _size(to_map: GridMap, product: Sentinel1Product) -> float:
    """Return the side of a product's pixel at its centre, in map units."""
    row, column = (product.rows - 1) / 2, (product.columns - 1) / 2
    x, y = to_map.forward(np.array([row, row + 1, row]), np.array([column, column, column + 1]))
    return float(abs((x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])) ** 0.5)
