"""The reader ``terrasarx``: detected TerraSAR-X and TanDEM-X L1B products (MGD, GEC, EEC), calibrated.

A product is a folder with an annotation of its own name (``TSX1_SAR__MGD_....xml``, root ``level1Product``) and
``IMAGEDATA/IMAGE_HH_*.tif`` of 16-bit amplitudes for each polarization.

Source: TerraSAR-X Level 1b Product Format Specification, DLR TX-GS-DD-3307; radiometric calculations,
TSXX-ITD-TN-0049: beta0 = calFactor DN^2, sigma0 = beta0 sin(incidence angle).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError
from sartransfer.geotiff import GeoTiffSource, open_geotiff
from sartransfer.radar.incidence import IncidenceAngle, incidence_angle
from sartransfer.radar.units import parse_unit
from sartransfer.readers.terrasarx_annotation import (
    Corner,
    TerraSarXProduct,
    find_annotation,
    is_annotation,
    read_terrasarx_annotation,
)
from sartransfer.scene import Band, GeoReference, Scene, Window, choose_bands

ANGLE = "incidence_angle_deg"


def is_terrasarx(path: Path) -> bool:
    """Say whether a path is a TerraSAR-X product: its folder, or its annotation."""
    try:
        return is_annotation(find_annotation(path))
    except InputError:
        return False


def open_terrasarx(path: Path, bands: tuple[Band, ...] = ()) -> Scene:
    """Open a product by its folder or its annotation; pixels are read by window.

    Bands, for each polarization: ``amplitude_hh`` (the 16-bit numbers, not calibrated) and, where the product
    is calibrated, ``sigma0_hh`` (linear power: calFactor DN^2 sin(incidence angle); the noise is not subtracted);
    and ``incidence_angle_deg``, on the ellipsoid, from the corners and the centre of the scene (see
    `radar.incidence`; slopes of the terrain are not in it, in EEC products neither). `bands` choose among these by
    name. Where DN is 0 nothing was imaged: amplitude and sigma0 are not valid.

    Raises:
        InputError: no such product, complex data (SSC), an annotation that is damaged, declares entities or
            names files outside its folder, images of another size than it says, or a band that is not there.
        UnitError: `bands` declare another unit than the product's.
    """
    product = read_terrasarx_annotation(path)
    own: list[Band] = []
    kinds: list[tuple[str, int]] = []
    for number, layer in enumerate(product.layers):
        for kind in ("amplitude", "sigma0") if layer.calibration_factor is not None else ("amplitude",):
            own.append(Band(f"{kind}_{layer.polarization.lower()}", parse_unit(kind), layer.polarization))
            kinds.append((kind, number))
    own.append(Band(ANGLE, parse_unit(ANGLE)))
    kinds.append((ANGLE, 0))
    images = [open_geotiff(layer.path) for layer in product.layers]
    for image, layer in zip(images, product.layers, strict=True):
        if (image.height, image.width, len(image.bands)) != (product.rows, product.columns, 1):
            raise InputError(
                f"{layer.path} has {len(image.bands)} layer(s) of {image.height} x {image.width} pixels, one of "
                f"{product.rows} x {product.columns} as its annotation says. Is it whole?"
            )
    place = images[0].georeference
    chosen = choose_bands(product.path, own, bands)
    return Scene(
        id=product.path.stem,
        bands=tuple(own[i] for i in chosen),
        height=product.rows,
        width=product.columns,
        source=TerraSarXSource(product, tuple(kinds[i] for i in chosen), _angle(product, place)),
        georeference=_corner_points(product) if place == GeoReference() else place,
        time=product.start,
        platform=product.mission,
    )


@dataclass(frozen=True, slots=True)
class TerraSarXSource:
    """Pixels of a product; every read opens the images anew, and nothing is kept."""

    product: TerraSarXProduct
    kinds: tuple[tuple[str, int], ...]
    """What each band is, and of which layer."""
    angle: IncidenceAngle

    def read(self, indices: Sequence[int], window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read the window; where DN is 0, or the file has no data, amplitude and sigma0 are not valid."""
        wanted = [self.kinds[i] for i in indices]
        rows = np.arange(window.row, window.row + window.height, dtype=np.float64)[:, None]
        columns = np.arange(window.col, window.col + window.width, dtype=np.float64)[None, :]
        numbers, masks = {}, {}
        for layer in {layer for kind, layer in wanted if kind != ANGLE}:
            data, mask = GeoTiffSource(self.product.layers[layer].path).read([0], window)
            numbers[layer] = data[0].astype(np.float64)
            masks[layer] = mask[0] & (data[0] > 0)
        values = np.empty((len(wanted), window.height, window.width), dtype=np.float32)
        valid = np.ones(values.shape, dtype=bool)
        for i, (kind, layer) in enumerate(wanted):
            if kind == ANGLE:
                values[i] = self.angle(rows, columns)
                continue
            valid[i] = masks[layer]
            values[i] = numbers[layer]
            if kind == "sigma0":
                factor = self.product.layers[layer].calibration_factor or math.nan
                values[i] = factor * numbers[layer] ** 2 * np.sin(np.radians(self.angle(rows, columns)))
        return values, valid


def _angle(product: TerraSarXProduct, place: GeoReference) -> IncidenceAngle:
    try:
        corners = [_pixel(product, corner, place) for corner in product.corners]
        return incidence_angle(corners, _pixel(product, product.center, place))
    except InputError as error:
        raise InputError(f"{product.path}: {error}") from error


def _pixel(product: TerraSarXProduct, corner: Corner, place: GeoReference) -> tuple[float, float, float]:
    """Return row, column and angle of a corner: by its coordinates where the image is a map, else as annotated."""
    if product.product_type != "MGD" and place.transform is not None and place.crs is not None:
        from rasterio.warp import transform

        a, b, c, d, e, f = place.transform
        xs, ys = transform("EPSG:4326", place.crs, [corner.longitude], [corner.latitude])
        column, row = np.linalg.solve([[a, b], [d, e]], [xs[0] - c, ys[0] - f])
        return float(row) - 0.5, float(column) - 0.5, corner.incidence_angle_deg
    if corner.row is None or corner.column is None:
        raise InputError("it is not said at which pixels the corners of the scene lie (refRow, refColumn).")
    return corner.row, corner.column, corner.incidence_angle_deg


def _corner_points(product: TerraSarXProduct) -> GeoReference:
    points = tuple(
        (p.row + 0.5, p.column + 0.5, p.longitude, p.latitude, 0.0)
        for p in product.corners
        if p.row is not None and p.column is not None
    )
    return GeoReference("EPSG:4326", None, points)
