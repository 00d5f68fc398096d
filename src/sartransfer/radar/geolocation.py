"""Where the pixels of a product in radar geometry lie: its geolocation grid, mapped there and back.

A swath of 400 km is bent against every map: its far side is not parallel to its near side, and pixels of equal
ground range are not equal on the map. One affine transform misses by kilometres; splines through the grid do not.

Terrain is no smooth function of the pixel: a spline that follows it swings on into the plain. So the splines go through
the grid's points on the ellipsoid, and what heights add to these is interpolated linearly.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError

Array = NDArray[np.float64]
SEMI_MAJOR_M, FLATTENING = 6378137.0, 1 / 298.257223563  # WGS 84
STEPS = 25  # of Newton's method; three are enough inside the grid
CLOSE_PX = 1e-3


@dataclass(frozen=True, slots=True)
class GeolocationGrid:
    """Points of a product whose place on Earth is known, on some of its lines and pixels."""

    lines: Array
    """(L,) rows, from 0 at the centre of the first; increasing, at least 2."""
    pixels: Array
    """(P,) columns, likewise."""
    latitude: Array
    """(L, P) degrees, WGS 84."""
    longitude: Array
    """(L, P) degrees."""
    height_m: Array
    """(L, P) over the ellipsoid."""
    incidence_deg: Array
    """(L, P) incidence angle."""
    slant_range_m: Array
    """(L, P) from the antenna to the point."""

    def __post_init__(self) -> None:
        shape = (len(self.lines), len(self.pixels))
        if min(shape) < 2 or (np.diff(self.lines) <= 0).any() or (np.diff(self.pixels) <= 0).any():
            raise InputError(
                f"a geolocation grid needs two lines and two pixels at least, increasing, not {shape}."
            )
        for name in ("latitude", "longitude", "height_m", "incidence_deg", "slant_range_m"):
            values = getattr(self, name)
            if values.shape != shape or not np.isfinite(values).all():
                raise InputError(f"the geolocation grid's {name} must be {shape} finite numbers.")

    def incidence_at(self, lines: Array, pixels: Array) -> Array:
        """Return the incidence angle at points of any one shape; beyond the grid its edge is continued straight."""
        spline = _spline(self.lines, self.pixels, self.incidence_deg)
        line = np.clip(lines, self.lines[0], self.lines[-1])
        pixel = np.clip(pixels, self.pixels[0], self.pixels[-1])
        angle: Array = spline.ev(line, pixel)
        angle = angle + spline.ev(line, pixel, dx=1) * (lines - line)
        out: Array = angle + spline.ev(line, pixel, dy=1) * (pixels - pixel)
        return out

    def incidence_on(self, rows: Array, columns: Array) -> Array:
        """Return the incidence angle on rows (R,) and columns (C,), both increasing: (R, C)."""
        angle: Array = _spline(self.lines, self.pixels, self.incidence_deg)(rows, columns)
        return angle

    def at_sea_level(self) -> "GeolocationGrid":
        """Return the grid with its points moved from the terrain down to the ellipsoid, at the same slant range.

        What lies high comes back early and is imaged too near: the point at height h on the same pixel lies h / tan
        (incidence angle) further out than the sea does. Beside mountains that is kilometres, and the grid's 20 km
        spread it over the ice in front. Right to some 10 m for heights up to 2 km.
        """
        if not self.height_m.any():
            return self
        angle = np.radians(self.incidence_deg)
        shift = self.height_m / np.tan(angle)  # metres on the ground, towards the antenna
        up, here = _cartesian(self.latitude, self.longitude, 0.0)
        outward = np.gradient(here, self.pixels, axis=1)
        outward -= (outward * up).sum(axis=-1, keepdims=True) * up
        outward /= np.linalg.norm(outward, axis=-1, keepdims=True)
        latitude, longitude = _geographic(here - shift[..., None] * outward)
        # of the triangle antenna - point - Earth's centre: d cos(angle) / d height = -(1 / range + cos(angle) / radius)
        cosine = np.cos(angle) + self.height_m * (1 / self.slant_range_m + np.cos(angle) / SEMI_MAJOR_M)
        return replace(
            self,
            latitude=latitude,
            longitude=longitude,
            height_m=np.zeros_like(self.height_m),
            incidence_deg=np.degrees(np.arccos(np.clip(cosine, -1, 1))),
        )


@dataclass(frozen=True, slots=True)
class GridMap:
    """Lines and pixels of a product to coordinates on a map, and back (see `build_grid_map`)."""

    lines: Array
    pixels: Array
    x_spline: Any
    y_spline: Any
    guess: Array
    """(6, 2): line and pixel from a polynomial of second degree in the scaled coordinates."""
    center: Array
    """(2,) and"""
    scale: float
    """what scales them: map units."""
    lift: Array | None = None
    """(L, P, 2): what heights add to x and y at the grid's points; linear between."""

    def forward(self, lines: Array, pixels: Array) -> tuple[Array, Array]:
        """Return x and y at points of any one shape; beyond the grid its edge is continued straight."""
        x, y, _ = self._step(np.asarray(lines, dtype=np.float64), np.asarray(pixels, dtype=np.float64))
        return x, y

    def inverse(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return line and pixel at map coordinates of any one shape, by Newton's method; NaN where there is none.

        Found to a thousandth of a pixel, against `forward`.
        """
        u, v = (np.asarray(x) - self.center[0]) / self.scale, (np.asarray(y) - self.center[1]) / self.scale
        first = _quadratic(u, v) @ self.guess
        line, pixel = first[..., 0], first[..., 1]
        miss = np.full(np.shape(line), np.inf)
        for _ in range(STEPS):
            here_x, here_y, (xl, xp, yl, yp) = self._step(line, pixel)
            dx, dy = x - here_x, y - here_y
            area = xl * yp - xp * yl
            move_line, move_pixel = (dx * yp - dy * xp) / area, (dy * xl - dx * yl) / area
            miss = np.hypot(move_line, move_pixel)  # slopes are those without heights: slower, but as exact
            line, pixel = line + move_line, pixel + move_pixel
            if not (miss > CLOSE_PX * 1e-3).any():
                break
        found = miss < CLOSE_PX
        return np.where(found, line, np.nan), np.where(found, pixel, np.nan)

    def _step(self, line: Array, pixel: Array) -> tuple[Array, Array, tuple[Array, Array, Array, Array]]:
        """Return x, y and their slopes by line and by pixel; beyond the grid, straight on from its edge."""
        on_line = np.clip(line, self.lines[0], self.lines[-1])
        on_pixel = np.clip(pixel, self.pixels[0], self.pixels[-1])
        xl, yl = (s.ev(on_line, on_pixel, dx=1) for s in (self.x_spline, self.y_spline))
        xp, yp = (s.ev(on_line, on_pixel, dy=1) for s in (self.x_spline, self.y_spline))
        off_line, off_pixel = line - on_line, pixel - on_pixel
        x = self.x_spline.ev(on_line, on_pixel) + xl * off_line + xp * off_pixel
        y = self.y_spline.ev(on_line, on_pixel) + yl * off_line + yp * off_pixel
        if self.lift is not None:
            added = self._lift(on_line, on_pixel, self.lift)
            x, y = x + added[..., 0], y + added[..., 1]
        return x, y, (xl, xp, yl, yp)

    def _lift(self, line: Array, pixel: Array, lift: Array) -> Array:
        """Interpolate `lift` bilinearly at points inside the grid."""
        i = np.clip(np.searchsorted(self.lines, line, side="right") - 1, 0, len(self.lines) - 2)
        j = np.clip(np.searchsorted(self.pixels, pixel, side="right") - 1, 0, len(self.pixels) - 2)
        u = ((line - self.lines[i]) / (self.lines[i + 1] - self.lines[i]))[..., None]
        v = ((pixel - self.pixels[j]) / (self.pixels[j + 1] - self.pixels[j]))[..., None]
        near = lift[i, j] * (1 - v) + lift[i, j + 1] * v
        far = lift[i + 1, j] * (1 - v) + lift[i + 1, j + 1] * v
        out: Array = near * (1 - u) + far * u
        return out


def build_grid_map(
    lines: Array, pixels: Array, x: Array, y: Array, lift: tuple[Array, Array] | None = None
) -> GridMap:
    """Return the map through grid points x, y (L, P) at lines (L,) and pixels (P,): cubic splines.

    `lift`: what is added to x and to y, (L, P) each, linear between the points; see `GeolocationGrid.at_sea_level`.

    Raises `InputError` for coordinates that are not finite, or where the grid folds or is torn apart in these
    coordinates: at the antimeridian or a pole in degrees, or outside of what the projection can show.
    """
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("the product has no coordinates in this projection. Choose another crs.")
    down_x, down_y = np.diff(x, axis=0)[:, :-1], np.diff(y, axis=0)[:, :-1]
    along_x, along_y = np.diff(x, axis=1)[:-1], np.diff(y, axis=1)[:-1]
    area = down_x * along_y - along_x * down_y
    if not ((area > 0).all() or (area < 0).all()):
        raise InputError(
            "the product folds or is torn apart in this projection: in degrees, at the antimeridian or a pole. "
            "Choose a projected crs, such as EPSG:3413 (Arctic) or EPSG:3031 (Antarctic)."
        )
    center, scale = np.array([x.mean(), y.mean()]), float(max(np.ptp(x), np.ptp(y)) / 2)
    design = _quadratic((x - center[0]) / scale, (y - center[1]) / scale).reshape(-1, 6)
    wanted = np.stack(np.meshgrid(lines, pixels, indexing="ij"), axis=-1).reshape(-1, 2)
    guess = np.asarray(np.linalg.lstsq(design, wanted, rcond=None)[0], dtype=np.float64)
    added = None if lift is None else np.stack(lift, axis=-1)
    return GridMap(
        lines, pixels, _spline(lines, pixels, x), _spline(lines, pixels, y), guess, center, scale, added
    )


def _quadratic(u: Array, v: Array) -> Array:
    return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=-1)


def _spline(lines: Array, pixels: Array, values: Array) -> Any:
    from scipy.interpolate import RectBivariateSpline  # slow to import, and used here alone

    return RectBivariateSpline(
        lines, pixels, values, kx=min(3, len(lines) - 1), ky=min(3, len(pixels) - 1), s=0
    )


def _cartesian(latitude: Array, longitude: Array, height: float) -> tuple[Array, Array]:
    """Return the upward direction and the place (..., 3), in metres from the Earth's centre."""
    lat, lon = np.radians(latitude), np.radians(longitude)
    up = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    squared = FLATTENING * (2 - FLATTENING)
    radius = SEMI_MAJOR_M / np.sqrt(1 - squared * np.sin(lat) ** 2)
    factor = np.stack([radius + height, radius + height, radius * (1 - squared) + height], axis=-1)
    return up, factor * up


def _geographic(place: Array) -> tuple[Array, Array]:
    """Return latitude and longitude in degrees of places (..., 3) next to the ellipsoid (Bowring's formula)."""
    squared = FLATTENING * (2 - FLATTENING)
    minor = SEMI_MAJOR_M * (1 - FLATTENING)
    x, y, z = place[..., 0], place[..., 1], place[..., 2]
    across = np.hypot(x, y)
    reduced = np.arctan2(z * SEMI_MAJOR_M, across * minor)
    up = z + squared / (1 - squared) * minor * np.sin(reduced) ** 3
    out = across - squared * SEMI_MAJOR_M * np.cos(reduced) ** 3
    return np.degrees(np.arctan2(up, out)), np.degrees(np.arctan2(y, x))
