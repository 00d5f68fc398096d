"""What the annotation of a simulated scene's product says: where its pixels lie, how they are calibrated, its noise."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from sartransfer.radar.calibration import LineVectors
from sartransfer.radar.geolocation import GeolocationGrid
from sartransfer.radar.noise import Noise, NoiseBlock, build_noise
from sartransfer.radar.sea_ice.scene import IceScene
from sartransfer.radar.sea_ice.swath import BETA_TABLE, POLARIZATIONS, SUBSWATHS, look_triangle
from sartransfer.readers.sentinel1_writing import WrittenProduct, regular, stop_after

EPSG = 3413  # polar stereographic, as `prepare sentinel1` takes for high latitudes
# Marks of annotations in a product of 40 m pixels: every 40 pixels and 167 lines, noise every 10 lines, places
# every 525 pixels and 500 lines. A smaller product has as many as fit, and 8 at least.
PIXELS, LINES, NOISE_LINES, GRID_PIXELS, GRID_LINES = 40, 167, 10, 525, 500


@dataclass(frozen=True, slots=True)
class Place:
    """Where a scene lies: the upper left corner on the map (EPSG:3413), metres."""

    left: float
    top: float


def describe_product(scene: IceScene, place: Place, time: datetime) -> WrittenProduct:
    """Return what the annotation of a scene's product says: places, tables, and the noise that it takes to be there."""
    swath = scene.swath
    spread = max(swath.columns / 10_487, 1e-9)
    every = max(1, min(PIXELS, round(PIXELS * spread) or 1, swath.columns // 8))
    lines = regular(swath.lines - 1, min(LINES, max(1, swath.lines // 8)))
    marks = np.unique(np.concatenate([regular(swath.columns - 1, every), *_seams(swath.bounds)]))
    amplitude, angle = swath.sigma_table(marks), np.radians(swath.incidence_deg(marks))
    tables = {
        "sigma0": amplitude,
        "beta0": np.full_like(marks, BETA_TABLE),
        "gamma0": BETA_TABLE / np.sqrt(np.tan(angle)),
    }
    noise = {
        p: _noise(scene, p, scene.tables.annotated[k][marks.astype(int)] * amplitude**2, lines, marks)
        for k, p in enumerate(POLARIZATIONS)
    }
    return WrittenProduct(
        start=time,
        stop=stop_after(time, swath.lines, swath.spacing_m),
        lines=swath.lines,
        columns=swath.columns,
        spacing_m=swath.spacing_m,
        grid=_geolocation(scene, place),
        tables={q: LineVectors(lines, (marks,) * len(lines), (v,) * len(lines)) for q, v in tables.items()},
        noise=noise,
        orbit=time.month,
    )


def _noise(
    scene: IceScene,
    polarization: str,
    ranges: NDArray[np.float64],
    lines: NDArray[np.float64],
    marks: NDArray[np.float64],
) -> Noise:
    swath = scene.swath
    every = max(1, min(NOISE_LINES, round(NOISE_LINES / swath.stretch)))
    at = regular(swath.lines - 1, every)
    factors = swath.scalloping(polarization, at)
    blocks = [
        NoiseBlock(name, 0, swath.lines - 1, first, end - 1, at, factors[i])
        for i, (name, first, end) in enumerate(
            zip(SUBSWATHS, swath.bounds[:-1], swath.bounds[1:], strict=True)
        )
    ]
    return build_noise(LineVectors(lines, (marks,) * len(lines), (ranges,) * len(lines)), blocks)


def _seams(bounds: tuple[int, ...]) -> list[NDArray[np.float64]]:
    """Return the last and first columns on both sides of each seam, where noise has to be given on both."""
    return [np.array([b - 1, b], dtype=np.float64) for b in bounds[1:-1]]


def _geolocation(scene: IceScene, place: Place) -> GeolocationGrid:
    from rasterio.warp import transform

    swath = scene.swath
    lines = regular(swath.lines - 1, max(1, min(GRID_LINES, (swath.lines - 1) // 8)))
    pixels = regular(swath.columns - 1, max(1, min(GRID_PIXELS, (swath.columns - 1) // 8)))
    x, y = np.meshgrid(*to_map(scene, place, pixels + 0.5, lines + 0.5))
    longitude, latitude = transform(f"EPSG:{EPSG}", "EPSG:4326", x.ravel(), y.ravel())
    angle, slant = look_triangle(swath.across(pixels))
    flat = np.zeros(x.shape)
    return GeolocationGrid(
        lines,
        pixels,
        np.reshape(latitude, x.shape),
        np.reshape(longitude, x.shape),
        flat,
        flat + angle,
        flat + slant,
    )


def to_map(
    scene: IceScene, place: Place, column: NDArray[np.float64], row: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x of columns and y of rows, both counted from the corner of the product's first pixel."""
    spacing = scene.swath.spacing_m
    return place.left + (scene.swath.columns - column) * spacing, place.top - row * spacing
