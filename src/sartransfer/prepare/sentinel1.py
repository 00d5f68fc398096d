"""Sentinel-1 GRD products as maps: calibrated, freed of noise, averaged, geocoded, in decibels with their angle."""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError, OutputError, one_of
from sartransfer.geotiff import check_outputs
from sartransfer.npz import DAMAGED_ZIP
from sartransfer.prepare.sentinel1_target import Target, plan_target
from sartransfer.radar.border import Border
from sartransfer.radar.calibration import FLOOR_DB, decibels, floor_power
from sartransfer.radar.calibration import multilook as average_looks
from sartransfer.radar.noise import seam_lines
from sartransfer.readers.sentinel1 import (
    ANGLE,
    CACHE_MB,
    check_measurements,
    check_noise,
    find_border,
    read_backscatter,
)
from sartransfer.readers.sentinel1_annotation import Sentinel1Product, read_sentinel1_annotation
from sartransfer.readers.sentinel1_border import BORDER_NOISE, has_border_noise
from sartransfer.readers.sentinel1_files import ZipFiles
from sartransfer.scene import Window

BLOCK = 512  # samples of the map along one side of what is worked on at once
STRIP_PIXELS = 1 << 21  # of the product, that are calibrated at once: some 100 MB
STEP = 16  # samples between points whose line and pixel are found exactly; linear between, to .01 px
MOST_AT_FLOOR = 0.01  # of the valid pixels; above, there is a warning
SPARE = 64 << 20  # bytes of an image beside its pixels
MOST_RATIO = 200  # of an image to what a zip holds of it; 16-bit speckle packs to a half or so
COG = {"compress": "deflate", "predictor": "yes", "overview_resampling": "average", "bigtiff": "if_safer"}


@dataclass(frozen=True, slots=True)
class PreparedScene:
    """What was written."""

    path: Path
    bands: tuple[str, ...]
    """``sigma0_hh_db``, ``sigma0_hv_db``, ``incidence_angle_deg``, in file order."""
    crs: str
    """EPSG code, or WKT."""
    pixel_size: float
    """In units of the projection."""
    height: int
    width: int
    valid_share: float
    """Share of the map's pixels that have values."""
    warnings: tuple[str, ...] = ()
    """What should be looked at; also in the tag ``SARTRANSFER_WARNINGS``."""

    @property
    def unit(self) -> str:
        """What the projection counts in: ``m``, or as it calls it (``degree``, ``US survey foot``)."""
        from rasterio.crs import CRS

        name = str(CRS.from_user_input(self.crs).units_factor[0])
        return "m" if name in ("metre", "meter") else name


@dataclass(frozen=True, slots=True)
class _Job:
    product: Sentinel1Product
    paths: tuple[str | None, ...]
    """Where each layer's image was unpacked to."""
    quantity: str
    decibel: bool
    denoise: bool
    azimuth_noise: bool
    looks: int
    target: Target
    border: Border | None
    """What along the edges has no value; None: nothing is masked."""

    @property
    def bands(self) -> tuple[str, ...]:
        ending = "_db" if self.decibel else ""
        return (*(f"{self.quantity}_{p.lower()}{ending}" for p in self.product.polarizations), ANGLE)

    @property
    def units(self) -> tuple[str, ...]:
        unit = f"{self.quantity}_db" if self.decibel else self.quantity
        return (*(unit for _ in self.product.polarizations), ANGLE)


def prepare_sentinel1(
    product: str | Path,
    out: str | Path,
    *,
    quantity: str = "sigma0",
    decibel: bool = True,
    denoise: bool = True,
    azimuth_noise: bool = True,
    border_noise: str = "auto",
    multilook: int = 2,
    crs: str | None = None,
    pixel_size: float | None = None,
    sea_level: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PreparedScene:
    """Make a map of a Sentinel-1 EW or IW GRD product: a cloud-optimized GeoTIFF of backscatter and incidence angle.

    The order matters: noise is subtracted from single pixels, these are calibrated and averaged in linear power, then
    brought onto the map (bilinear between averages, in linear power), and only then raised to -40 dB
    (`radar.calibration.FLOOR_DB`), so that decibels are finite and the mean of dark water is not lifted. Places come
    from splines through the product's geolocation grid (`radar.geolocation`), at the heights the grid has: no terrain
    model is used. Pixels without a value in any band are NaN in all, which is the file's nodata. Bands carry their
    units as `sartransfer.open_scene` reads them; tags say how the map was made. Works window by window: memory does
    not grow with the scene. A zip's images are unpacked beside `out` meanwhile.

    Args:
        product: SAFE folder, its zip, or a folder in the layout of public cloud archives.
        out: the GeoTIFF (.tif); written under a temporary name, and renamed when it is whole.
        quantity: ``sigma0``, ``beta0`` or ``gamma0`` (on the ellipsoid). decibel: else linear power.
        denoise: subtract the thermal noise. azimuth_noise: with its scalloping, where the product gives it.
        border_noise: ``auto``: mask what was not imaged along the edges of products before IPF 2.9, though it is not 0
            (`radar.border`); ``mask``: of all products; ``keep``: of none.
        multilook: pixels a side that are averaged: 2 makes 80 m of EW's 40 m.
        crs: EPSG code or WKT. None: polar stereographic (EPSG:3413, EPSG:3031) from 60 degrees on, else UTM.
        pixel_size: in units of `crs`. None: the averaged pixels' size. Larger pixels are means of what lies in them.
        sea_level: place pixels on the ellipsoid even where the grid follows terrain, for sea ice beside mountains
            (`GeolocationGrid.at_sea_level`).
        overwrite: replace a file that exists. progress: told (blocks done, blocks in all).

    Raises:
        InputError: no such product, missing or empty files (named), unknown noise, a projection that cannot show it.
        OutputError: the file exists, its folder does not, its name does not end in .tif, or it cannot be written whole.
    """
    out = Path(out)
    source = read_sentinel1_annotation(product)
    own = [source.files.raster(layer.measurement) for layer in source.layers if layer.measurement]
    check_outputs([out], [Path(product), *map(Path, own)], overwrite, what="scene", lost="the product itself")
    _check(source, multilook, denoise, border_noise)
    target = plan_target(source, multilook, crs, pixel_size, sea_level)
    from rasterio.errors import RasterioError

    try:
        with ExitStack() as stack:
            folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent))
            )
            paths = _unpack(source, folder)
            border = find_border(source, border_noise, paths)
            job = _Job(source, paths, quantity, decibel, denoise, azimuth_noise, multilook, target, border)
            share, warnings = _write(job, folder / "blocks.tif", folder / "map.tif", progress)
            (folder / "map.tif").replace(out)
    except (OSError, RasterioError) as error:
        raise OutputError(f"{out} could not be written ({error}). Is the disk full?") from error
    return PreparedScene(
        out, job.bands, target.crs, target.pixel_size, target.height, target.width, share, warnings
    )


def _check(product: Sentinel1Product, looks: int, denoise: bool, border_noise: str) -> None:
    if border_noise not in BORDER_NOISE:
        raise InputError(one_of("border_noise", border_noise, BORDER_NOISE))
    most = min(product.rows, product.columns) // 2
    if not 1 <= looks <= most:
        raise InputError(f"multilook={looks} is not possible: 1 (no averaging) to {most} for {product.id}.")
    check_measurements(product)
    if denoise:
        for layer in product.layers:
            check_noise(product, layer)


def _unpack(product: Sentinel1Product, folder: Path) -> tuple[str | None, ...]:
    """Unpack the images of a zip under names of our own; seeking in compressed files is slow."""
    files = product.files
    if not isinstance(files, ZipFiles):
        return (None,) * len(product.layers)
    paths = []
    with zipfile.ZipFile(files.path) as archive:
        for layer in product.layers:
            path = folder / f"{layer.polarization.lower()}.tif"
            try:
                member = archive.getinfo(f"{files.prefix}{layer.measurement}")
                _check_bomb(product, files.path, member)
                with archive.open(member) as packed, path.open("wb") as plain:
                    shutil.copyfileobj(packed, plain, 1 << 20)  # which ends where the member said it would
            except DAMAGED_ZIP as error:
                raise InputError(f"{files.path} cannot be unpacked: {error}. Download it again.") from error
            paths.append(str(path.resolve()))
    return tuple(paths)


def _check_bomb(product: Sentinel1Product, path: Path, member: zipfile.ZipInfo) -> None:
    """Refuse an image that would unpack to far more than its annotation says, or than images pack: a zip bomb."""
    most = 2 * product.rows * product.columns * 2 + SPARE
    if member.file_size > most:
        what = f"an image of {product.rows} x {product.columns} pixels has under {most >> 20} MB"
    elif member.file_size > max(SPARE, MOST_RATIO * member.compress_size):
        what = f"no image packs to under 1 / {MOST_RATIO} of its size, as this one does"
    else:
        return
    raise InputError(
        f"{path} is not unpacked: {member.filename!r} would have {member.file_size >> 20} MB, and {what}. Download it "
        "again."
    )


def _write(
    job: _Job, blocks: Path, final: Path, progress: Callable[[int, int], None] | None
) -> tuple[float, tuple[str, ...]]:
    """Write the map block by block, then as a cloud-optimized GeoTIFF; return the valid share, and warnings."""
    import rasterio
    import rasterio.shutil

    target = job.target
    step = max(1, BLOCK // target.fine)
    windows = [
        Window(row, col, min(step, target.height - row), min(step, target.width - col))
        for row in range(0, target.height, step)
        for col in range(0, target.width, step)
    ]
    place = rasterio.Affine(target.pixel_size, 0, target.left, 0, -target.pixel_size, target.top)
    lowest = np.float32(FLOOR_DB if job.decibel else 10 ** (FLOOR_DB / 10))
    floor = np.nextafter(lowest, np.float32(np.inf))
    valid, floored = 0, np.zeros(len(job.bands) - 1, dtype=np.int64)
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB << 20):
        with rasterio.open(
            blocks, "w", driver="GTiff", dtype="float32", nodata=np.nan, count=len(job.bands),
            height=target.height, width=target.width, crs=target.crs, transform=place,
            tiled=True, blockxsize=BLOCK, blockysize=BLOCK, bigtiff="if_safer",
        ) as file:  # fmt: skip
            for number, window in enumerate(windows):
                data = _block(job, window)
                valid += int(np.isfinite(data[0]).sum())
                floored += (data[:-1] <= floor).sum(axis=(1, 2))
                part = rasterio.windows.Window(window.col, window.row, window.width, window.height)
                file.write(data, window=part)
                if progress:
                    progress(number + 1, len(windows))
            warnings = _warnings(job, valid, floored)
            file.update_tags(**_tags(job), SARTRANSFER_WARNINGS="; ".join(warnings) or "none")
            for i, (band, unit) in enumerate(zip(job.bands, job.units, strict=True), start=1):
                file.set_band_description(i, band)
                file.update_tags(i, UNIT=unit)
        rasterio.shutil.copy(blocks, final, driver="COG", **COG)
        # GDAL may report a full disk only to its log: what was written is read back before it gets its name.
        with rasterio.open(blocks) as one, rasterio.open(final) as two:
            whole = all(one.checksum(i) == two.checksum(i) for i in one.indexes)
    if not whole:
        raise OSError("the file read back is not what was written")
    return valid / (target.height * target.width), warnings


def _warnings(job: _Job, valid: int, floored: NDArray[np.int64]) -> tuple[str, ...]:
    shares = dict(zip(job.bands[:-1], (floored / max(valid, 1)).tolist(), strict=True))
    found = [f"{share:.0%} of {name}" for name, share in shares.items() if share > MOST_AT_FLOOR]
    if not found:
        return ()
    advice = "these pixels tell of no backscatter"
    if job.border is None and has_border_noise(job.product):
        advice = "border noise was kept: --border-noise mask"
    return (f"{', '.join(found)} lies at the floor of {FLOOR_DB:g} dB: {advice}",)


def _block(job: _Job, window: Window) -> NDArray[np.float32]:
    """Return all bands of one window of the map (B, h, w), NaN where any has no value."""
    target, product = job.target, job.product
    height, width = window.height * target.fine, window.width * target.fine
    lines, pixels = _places(target, window, height, width)
    row, column = ((_refine(n, height, width) + 0.5) / job.looks - 0.5 for n in (lines, pixels))
    rows, columns = product.rows // job.looks, product.columns // job.looks
    with np.errstate(invalid="ignore"):  # NaN, far outside
        inside = (row > -0.5) & (row < rows - 0.5) & (column > -0.5) & (column < columns - 0.5)
    out = np.full((len(job.bands), window.height, window.width), np.nan)
    if not inside.any():
        return out.astype(np.float32)
    row, column = np.where(inside, row, -9.0), np.where(inside, column, -9.0)
    first = (max(0, int(row[inside].min()) - 1), max(0, int(column[inside].min()) - 1))
    last = (min(rows, int(row.max()) + 3), min(columns, int(column.max()) + 3))
    part = Window(*first, last[0] - first[0], last[1] - first[1])
    for layer in range(len(product.layers)):
        power, valid = _averaged(job, layer, part)
        power, valid = _sample(power, valid, np.stack([row - part.row, column - part.col]), inside)
        mean, good = average_looks(power, valid, target.fine)
        out[layer] = np.where(good, mean, np.nan)
    angle = target.grid.incidence_at(np.nan_to_num(lines), np.nan_to_num(pixels))
    out[-1] = average_looks(_refine(angle, height, width), np.ones_like(inside), target.fine)[0]
    out[:-1] = floor_power(out[:-1])
    if job.decibel:
        out[:-1] = decibels(out[:-1])
    out[:, ~np.isfinite(out).all(axis=0)] = np.nan
    return out.astype(np.float32)


def _places(
    target: Target, window: Window, height: int, width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return line and pixel in the product of every `STEP`-th sample of a window, one beyond its end."""
    fine = target.pixel_size / target.fine
    down = np.arange((height - 1) // STEP + 2) * STEP + window.row * target.fine + 0.5
    along = np.arange((width - 1) // STEP + 2) * STEP + window.col * target.fine + 0.5
    x, y = np.meshgrid(target.left + along * fine, target.top - down * fine)
    return target.to_map.inverse(x, y)


def _refine(nodes: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Return values at every sample (height, width) from those at every `STEP`-th, linear between."""
    for axis, size in enumerate((height, width)):
        whole, rest = np.divmod(np.arange(size), STEP)
        weight = (rest / STEP).reshape((-1, 1) if axis == 0 else (1, -1))
        low, high = nodes.take(whole, axis=axis), nodes.take(whole + 1, axis=axis)
        nodes = low + (high - low) * weight
    return nodes


def _averaged(job: _Job, layer: int, window: Window) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return averaged linear power of a window of averaged pixels, and where it is valid; strip by strip."""
    looks = job.looks
    step = max(1, STRIP_PIXELS // (window.width * looks * looks))
    strips = []
    for top in range(window.row, window.row + window.height, step):
        count = min(step, window.row + window.height - top)
        power, valid = read_backscatter(
            job.product,
            layer,
            Window(top * looks, window.col * looks, count * looks, window.width * looks),
            job.quantity,
            denoise=job.denoise,
            azimuth_noise=job.azimuth_noise,
            path=job.paths[layer],
            border=job.border,
        )
        strips.append(average_looks(power, valid, looks))
    return np.concatenate([s[0] for s in strips]), np.concatenate([s[1] for s in strips])


def _sample(
    power: NDArray[np.float64],
    valid: NDArray[np.bool_],
    places: NDArray[np.float64],
    inside: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Interpolate power at places (2, H, W), from valid neighbours alone; valid where these weigh half or more."""
    from scipy.ndimage import map_coordinates

    def at(image: NDArray[np.float64]) -> NDArray[np.float64]:
        values: NDArray[np.float64] = map_coordinates(image, places, order=1, mode="grid-constant", cval=0.0)
        return values

    weight = at(valid.astype(np.float64))
    good = inside & (weight > 0.5 - 1e-9)
    return np.where(good, at(np.where(valid, power, 0.0)) / np.where(good, weight, 1.0), 0.0), good


def _tags(job: _Job) -> dict[str, Any]:
    from sartransfer import __version__

    product = job.product
    removed = all(layer.noise_removed for layer in product.layers)
    azimuth = job.azimuth_noise and product.azimuth_vectors
    noise = "range and azimuth vectors" if azimuth else "range vectors"
    border = "none expected (IPF 2.9 or later)"
    if job.border is not None:
        border = f"masked, to {job.border.deepest} pixels from an edge"
    elif has_border_noise(product):
        border = "kept"
    return {
        "SOFTWARE": f"sartransfer {__version__}",
        "PRODUCT": product.id,
        "PLATFORM": product.platform,
        "MODE": product.mode,
        "START": product.start.isoformat(),
        "STOP": product.stop.isoformat(),
        "PASS": product.orbit_pass,
        "ORBIT": str(product.orbit),
        "RELATIVE_ORBIT": str(product.relative_orbit or "unknown"),
        "PROCESSOR": f"Sentinel-1 IPF {product.processor or 'unknown'}",
        "QUANTITY": job.quantity,
        "NOISE_SUBTRACTED": "by the processor" if removed else noise if job.denoise else "no",
        "BORDER_NOISE": border,
        "MULTILOOK": f"{job.looks} x {job.looks} in linear power",
        "FLOOR_DB": f"{FLOOR_DB:g}",
        **_seams(job),
        "GEOCODING": "cubic splines through the geolocation grid, "
        + ("at its heights" if job.target.to_map.lift is not None else "on the ellipsoid"),
    }


def _seams(job: _Job) -> dict[str, str]:
    """Return the tag SEAMS: where sub-swaths meet, as lines of x and y on the map; nothing where that is not known."""
    noise = next((layer.noise for layer in job.product.layers if layer.noise is not None), None)
    lines = seam_lines(noise.blocks) if noise is not None else ()
    places = [np.stack(job.target.to_map.forward(line[:, 0], line[:, 1]), axis=1) for line in lines]
    return {"SEAMS": json.dumps([np.round(place, 1).tolist() for place in places])} if places else {}
