"""The reader ``sentinel1``: Sentinel-1 EW and IW GRD products, calibrated and freed of thermal noise.

A product is a SAFE folder, its zip, or a folder as public cloud archives lay it out (``annotation/ew-hh.xml``).
See `sentinel1_files`, `sentinel1_annotation`, `radar.calibration` and `radar.noise`.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError, one_of
from sartransfer.geotiff import quiet
from sartransfer.radar.border import Border
from sartransfer.radar.calibration import QUANTITIES, calibrate
from sartransfer.radar.units import parse_unit
from sartransfer.readers.sentinel1_annotation import (
    Sentinel1Layer,
    Sentinel1Product,
    read_sentinel1_annotation,
)
from sartransfer.readers.sentinel1_border import BORDER_NOISE, measure_border
from sartransfer.readers.sentinel1_files import find_file, open_product_files
from sartransfer.scene import Band, GeoReference, Scene, Window, choose_bands

ANGLE = "incidence_angle_deg"
CACHE_MB = 128  # of GDAL; it would take 5 % of the machine's memory


def is_sentinel1(path: Path) -> bool:
    """Say whether a path is a Sentinel-1 product: its folder, manifest or zip, by the names of its files."""
    try:
        open_product_files(path)
    except InputError:
        return False
    return True


def open_sentinel1(
    path: Path,
    bands: tuple[Band, ...] = (),
    *,
    quantity: str = "sigma0",
    denoise: bool = True,
    azimuth_noise: bool = True,
    border_noise: str = "auto",
) -> Scene:
    """Open a product on its own grid, in radar geometry; pixels are read by window.

    Bands: for each polarization ``amplitude_hh`` (the 16-bit numbers) and ``sigma0_hh`` (linear power, see
    `read_backscatter`), and ``incidence_angle_deg`` from the geolocation grid. `bands` choose among these by name.
    The georeference is the grid as ground control points. Where DN is 0 nothing was imaged: not valid; nor is the
    border noise of products before IPF 2.9 (`border_noise`: auto, mask or keep, see `readers.sentinel1_border`), for
    which the first read goes through the co-polarized image once.

    Single pixels of dark water fall below zero once the noise is subtracted, and have no decibels. For decibels
    without holes, average first: `sartransfer.prepare.sentinel1`.

    Raises:
        InputError: no such product, files that are missing, empty, damaged or of another size than the annotation
            says, noise that is not known, a quantity or band that is not there.
        UnitError: `bands` declare another unit than the product's.
    """
    product = read_sentinel1_annotation(path)
    _check_quantity(quantity)
    if border_noise not in BORDER_NOISE:
        raise InputError(one_of("border_noise", border_noise, BORDER_NOISE))
    check_measurements(product)
    own: list[Band] = []
    kinds: list[tuple[str, int]] = []
    for number, layer in enumerate(product.layers):
        if denoise:
            check_noise(product, layer)
        for kind in ("amplitude", quantity):
            own.append(Band(f"{kind}_{layer.polarization.lower()}", parse_unit(kind), layer.polarization))
            kinds.append((kind, number))
    own.append(Band(ANGLE, parse_unit(ANGLE)))
    kinds.append((ANGLE, 0))
    chosen = choose_bands(product.id, own, bands)
    return Scene(
        id=product.id,
        bands=tuple(own[i] for i in chosen),
        height=product.rows,
        width=product.columns,
        source=Sentinel1Source(
            product, tuple(kinds[i] for i in chosen), denoise, azimuth_noise, border_noise
        ),
        georeference=_control_points(product),
        time=product.start,
        platform=product.platform,
    )


@dataclass(frozen=True, slots=True)
class Sentinel1Source:
    """Pixels of a product; every read opens the images anew, so that threads and forks share no handle."""

    product: Sentinel1Product
    kinds: tuple[tuple[str, int], ...]
    """What each band is, and of which layer."""
    denoise: bool
    azimuth_noise: bool
    border_noise: str = "auto"
    borders: list[Border | None] = field(default_factory=list, compare=False, repr=False)
    """What `measure_border` found: empty before the first read. Two threads that begin at once find the same."""

    def read(self, indices: Sequence[int], window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read the window; where DN is 0 or border noise, amplitude and backscatter are not valid."""
        wanted = [self.kinds[i] for i in indices]
        values = np.empty((len(wanted), window.height, window.width), dtype=np.float32)
        valid = np.ones(values.shape, dtype=bool)
        counts = {n: read_counts(self.product, n, window) for n in {n for kind, n in wanted if kind != ANGLE}}
        for i, (kind, number) in enumerate(wanted):
            if kind == ANGLE:
                rows, columns = _places(window)
                values[i] = self.product.grid.incidence_on(rows, columns)
                continue
            valid[i] = _imaged(counts[number], window, self._border())
            values[i] = counts[number]
            if kind in QUANTITIES:
                values[i] = _backscatter(
                    self.product.layers[number],
                    counts[number],
                    window,
                    kind,
                    denoise=self.denoise,
                    azimuth_noise=self.azimuth_noise,
                )
        return values, valid

    def _border(self) -> Border | None:
        if not self.borders:
            self.borders.append(find_border(self.product, self.border_noise))
        return self.borders[0]


def find_border(
    product: Sentinel1Product, border_noise: str = "auto", paths: Sequence[str | None] = ()
) -> Border | None:
    """Return the border noise that is to be masked (`measure_border`); `paths`: where the images lie, if elsewhere."""

    def read(layer: int, window: Window) -> NDArray[np.uint16]:
        return read_counts(product, layer, window, path=paths[layer] if paths else None)

    return measure_border(product, read, border_noise)


def read_counts(
    product: Sentinel1Product, layer: int, window: Window, *, path: str | None = None
) -> NDArray[np.uint16]:
    """Read the 16-bit numbers DN of a window (h, w), 0 where nothing was imaged.

    `path`: where the image lies, if not in the product (unpacked from its zip).
    """
    from rasterio.windows import Window as RasterWindow

    with _opened(product, product.layers[layer], path) as file:
        counts: NDArray[np.uint16] = file.read(
            1, window=RasterWindow(window.col, window.row, window.width, window.height)
        )
    return counts


def read_backscatter(
    product: Sentinel1Product,
    layer: int,
    window: Window,
    quantity: str = "sigma0",
    *,
    denoise: bool = True,
    azimuth_noise: bool = True,
    path: str | None = None,
    border: Border | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Read linear backscatter of a window and where it is valid (DN above 0, and within `border`): both (h, w).

    (DN^2 - noise) / A^2, not floored: pixels in which less came back than the mean noise are negative.

    Args:
        product: from `read_sentinel1_annotation`. layer: index of the polarization.
        window: inside the product. quantity: ``sigma0``, ``beta0`` or ``gamma0``.
        denoise: subtract the noise along range, and, with `azimuth_noise`, its scalloping (products before IPF 2.9
            do not give that). Nothing is subtracted twice, where the processor has done so.
        path: where the image lies, if not in the product. border: from `find_border`.
    """
    _check_quantity(quantity)
    if denoise:
        check_noise(product, product.layers[layer])
    counts = read_counts(product, layer, window, path=path)
    power = _backscatter(
        product.layers[layer], counts, window, quantity, denoise=denoise, azimuth_noise=azimuth_noise
    )
    return power, _imaged(counts, window, border)


def check_noise(product: Sentinel1Product, layer: Sentinel1Layer) -> None:
    """Raise `InputError` if the noise of a layer is not known, and was not removed by the processor either."""
    if layer.noise is None and not layer.noise_removed:
        raise InputError(
            f"{product.id}: the noise of {layer.polarization} is not known ({layer.noise_fault}). "
            "Use denoise=False, or take a product that was processed anew."
        )


def check_measurements(product: Sentinel1Product) -> None:
    """Raise `InputError`, naming the file, if an image is missing, empty, or not as the annotation says."""
    for layer in product.layers:
        with _opened(product, layer, None) as file:
            if (file.height, file.width, file.count) != (product.rows, product.columns, 1):
                raise InputError(
                    f"{_label(product, layer)} has {file.count} layer(s) of {file.height} x {file.width} pixels, but "
                    f"one of {product.rows} x {product.columns} by its annotation. Is it whole?"
                )
            if file.dtypes[0] != "uint16":
                raise InputError(
                    f"{_label(product, layer)} holds {file.dtypes[0]}, not uint16 as GRD products do."
                )


@contextlib.contextmanager
def _opened(product: Sentinel1Product, layer: Sentinel1Layer, path: str | None) -> Iterator[Any]:
    # Only the TIFF driver may open it, and no file beside it is looked for.
    try:
        import rasterio
        from rasterio.errors import RasterioError
    except ImportError as error:
        raise InputError(
            f"{product.id}: Sentinel-1 products need rasterio (pip install rasterio)."
        ) from error
    name = layer.measurement
    if name is None:  # it names what is missing
        name = find_file(product.files, "measurement/", "", layer.polarization, (".tiff", ".tif"))
    if product.files.size(name) == 0:
        raise InputError(
            f"{product.files.label(name)} is empty (0 bytes): the product came without its image of "
            f"{layer.polarization}. Download it again."
        )
    try:
        with (
            quiet(),
            rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_CACHEMAX=CACHE_MB << 20),
            rasterio.open(path or product.files.raster(name), driver="GTiff") as file,
        ):
            yield file
    except RasterioError as error:
        raise InputError(
            f"{product.files.label(name)} cannot be read as a TIFF: {error}. Download it again."
        ) from error


def _backscatter(
    layer: Sentinel1Layer,
    counts: NDArray[np.uint16],
    window: Window,
    quantity: str,
    *,
    denoise: bool,
    azimuth_noise: bool,
) -> NDArray[np.float64]:
    rows, columns = _places(window)
    table = layer.tables[quantity].at(rows, columns)
    if not denoise or layer.noise is None:
        return calibrate(counts, table)
    return calibrate(counts, table, layer.noise.at(rows, columns, azimuth=azimuth_noise))


def _imaged(counts: NDArray[np.uint16], window: Window, border: Border | None) -> NDArray[np.bool_]:
    valid: NDArray[np.bool_] = counts > 0
    if border is not None:
        valid &= border.inside(window.row, window.col, window.height, window.width)
    return valid


def _places(window: Window) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rows = np.arange(window.row, window.row + window.height, dtype=np.float64)
    return rows, np.arange(window.col, window.col + window.width, dtype=np.float64)


def _control_points(product: Sentinel1Product) -> GeoReference:
    grid = product.grid
    points = tuple(
        (
            float(line) + 0.5,  # the grid counts from pixel centres, control points from corners
            float(pixel) + 0.5,
            float(grid.longitude[i, j]),
            float(grid.latitude[i, j]),
            float(grid.height_m[i, j]),
        )
        for i, line in enumerate(grid.lines)
        for j, pixel in enumerate(grid.pixels)
    )
    return GeoReference("EPSG:4326", None, points)


def _check_quantity(quantity: str) -> None:
    if quantity not in QUANTITIES:
        raise InputError(one_of("quantity", quantity, QUANTITIES))


def _label(product: Sentinel1Product, layer: Sentinel1Layer) -> str:
    return product.files.label(layer.measurement or "measurement/")
