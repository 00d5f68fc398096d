"""GeoTIFF in and out, of plain local files."""

import contextlib
import json
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError, OutputError, UnitError, refuse_existing, refuse_input
from sartransfer.radar.units import POWERS, UNIT_NAMES, UNKNOWN, Quantity, Unit, parse_unit
from sartransfer.scene import POLARIZATIONS, Band, GeoReference, Scene, Window
from sartransfer.textfile import class_names, parse_json
from sartransfer.wholefile import replacing

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
TILE = 256  # pixels along one side of a storage tile


@dataclass(frozen=True, slots=True)
class GeoTiffSource:
    """Pixels of a GeoTIFF; the file is opened for each read, so that threads and forks share no handle."""

    path: Path
    gives_new_arrays: ClassVar[bool] = True

    def read(self, indices: Sequence[int], window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read the window; scale and offset of the file are applied, nodata and masks are not valid."""
        from rasterio.enums import MaskFlags
        from rasterio.windows import Window as RasterWindow

        numbers = [i + 1 for i in indices]
        part = RasterWindow(window.col, window.row, window.width, window.height)
        with opened(self.path) as file:
            values: NDArray[np.generic] = file.read(numbers, window=part)
            if all(file.mask_flag_enums[i] == [MaskFlags.all_valid] for i in indices):
                valid = np.broadcast_to(np.True_, values.shape)
            else:
                valid = file.read_masks(numbers, window=part) > 0
            scales = np.array([file.scales[i] for i in indices])
            offsets = np.array([file.offsets[i] for i in indices])
        if (scales != 1).any() or (offsets != 0).any():
            values = values * scales[:, None, None] + offsets[:, None, None]
        return values, valid

    def window_bytes(self, side: int) -> int:
        """Return the bytes that reading a window of side x side pixels takes beyond twice the window itself.

        GDAL decodes whole blocks: of a file in one strip all of it for each window.
        """
        with opened(self.path) as file:
            pixel = int(sum(np.dtype(d).itemsize for d in file.dtypes))
            blocks, size = file.block_shapes[0], (int(file.height), int(file.width))
            mixed = file.count > 1 and file.profile.get("interleave") == "pixel"
        whole = [min(n, (-(-side // block) + 1) * block) for n, block in zip(size, blocks, strict=True)]
        # The blocks of each band are kept; those of all bands together are taken apart from one more of them.
        apart = min(blocks[0], size[0]) * min(blocks[1], size[1]) if mixed else 0
        return pixel * max(0, int(whole[0] * whole[1] + apart) - 2 * side * side)


def open_geotiff(path: str | Path, bands: Sequence[Band] | None = None) -> Scene:
    """Open a GeoTIFF; pixels are read by window, when `Scene.read` asks for them.

    What a band is comes from its description (``sigma0_vv_db``, ``VV``, ``incidence_angle_deg``) and its tag
    ``UNIT=sigma0_db``. `bands`, in file order, name them otherwise; what neither says is of unknown unit: the
    scene opens, and is refused where a unit is needed. Nodata values and masks become not valid.

    Raises:
        InputError: missing, not local, damaged, no TIFF, complex, or another number of bands than given.
        UnitError: the file and `bands` both declare a unit, and not the same one.
    """
    path = Path(path)
    with opened(path) as file:
        odd = sorted({d for d in file.dtypes if d not in DTYPES})
        if odd:
            raise InputError(
                f"{path}: pixels of type {', '.join(odd)} cannot be read. "
                f"Must be one of: {', '.join(DTYPES)}. "
                "Take the modulus of a complex product first."
            )
        told = tuple(
            _band(i, text, file.tags(i + 1).get("UNIT", "")) for i, text in enumerate(file.descriptions)
        )
        georeference = read_georeference(file)
        height, width = file.height, file.width
        tags = file.tags()
    return Scene(
        id=path.stem,
        bands=_merge(path, _distinct(told), tuple(bands or ())),
        height=height,
        width=width,
        source=GeoTiffSource(path),
        georeference=georeference,
        time=_time(tags),
        platform=tags.get("PLATFORM") or None,
    )


def _time(tags: Mapping[str, str]) -> datetime | None:
    """Read a time as `prepare` (START) or `fetch` (its passes, the first of them) writes it into its scenes.

    Another program's words are no time.
    """
    try:
        return datetime.fromisoformat(tags.get("START") or tags.get("SARTRANSFER_TIMES", "").split(" ")[0])
    except ValueError:
        return None


def write_geotiff(
    path: str | Path,
    array: NDArray[Any],
    *,
    georeference: GeoReference | None = None,
    descriptions: Sequence[str] = (),
    units: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
    nodata: float | None = None,
    colormap: Mapping[int, tuple[int, int, int]] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an array as a tiled, deflated GeoTIFF: all of it under the final name, or nothing.

    Args:
        path: the file to write; written to a temporary name beside it and renamed when it is whole.
        array: (B, H, W) or (H, W); bool is written as uint8.
        georeference: CRS with transform or control points; None: none is written.
        descriptions: one a band; `open_geotiff` reads them back.
        units: one a band, as in `radar.units.UNIT_NAMES`; written as the band's tag ``UNIT``.
        tags: of the whole file.
        nodata: the value that means "no value".
        colormap: class value -> (red, green, blue), for a single uint8 band.
        overwrite: replace a file that exists.

    Raises:
        OutputError: the file exists, the folder does not, or it could not be written whole (disk full).
        InputError: an array that is no image, or counts that do not agree.
    """
    path = Path(path)
    image = np.asarray(array)
    image = image.astype(np.uint8) if image.dtype == bool else image
    image = image[None] if image.ndim == 2 else image
    _check_image(path, image, descriptions, units)
    _check_options(path, image, georeference, nodata, colormap)
    refuse_existing(path, overwrite)
    from rasterio.errors import RasterioError

    place = georeference or GeoReference()
    with replacing(path, RasterioError, InputError) as temporary:
        try:
            with quiet():
                _write(temporary, image, place, descriptions, units, tags, nodata, colormap)
            # GDAL may report a full disk only to its log: what was written is read back before it gets its name.
            if not _same(temporary, image):
                raise OutputError(f"{path} could not be written whole. Is the disk full?")
        finally:
            temporary.with_name(temporary.name + ".aux.xml").unlink(missing_ok=True)
    return path


def footprint(georeference: GeoReference, height: int, width: int) -> NDArray[np.float64] | None:
    """Return the outline of a grid in longitude and latitude (N, 2), degrees; None where not known.

    Sides are followed at 16 steps, so that their curvature in degrees is kept; longitudes run on past 180
    where the outline crosses the antimeridian. A grid that holds a pole is not outlined truly.
    """
    if georeference.crs is None:
        return None
    if georeference.transform is not None:
        a, b, c, d, e, f = georeference.transform
        steps = np.linspace(0.0, 1.0, 17)[:-1]
        col = np.concatenate([steps, np.ones(16), 1 - steps, np.zeros(16)]) * width
        row = np.concatenate([np.zeros(16), steps, np.ones(16), 1 - steps]) * height
        x, y = a * col + b * row + c, d * col + e * row + f
    elif len(georeference.gcps) >= 3:
        x, y = np.array([g[2:4] for g in georeference.gcps]).T
    else:
        return None
    from rasterio.errors import CRSError
    from rasterio.warp import transform

    try:
        lon, lat = transform(georeference.crs, "EPSG:4326", list(x), list(y))
    except CRSError as error:
        raise InputError(
            f"the coordinate reference system {georeference.crs[:80]!r} is not known."
        ) from error
    lon, lat = np.asarray(lon), np.asarray(lat)
    around = np.unwrap(np.append(lon, lon[:1]), period=360)  # along the outline, wherever degrees begin anew
    if georeference.transform is not None and np.isclose(around[0], around[-1]):
        lon = around[:-1] + (360 if around.min() < -180 else 0)
    elif np.ptp(lon) > 180:  # a pole inside, or control points, which follow no outline
        lon = np.where(lon < 0, lon + 360, lon)
    points = np.stack([lon, lat], axis=1)
    return points if np.isfinite(points).all() else None


class _Quiet:
    """Silences the warning that a file is not georeferenced, while a file is open in any thread.

    Warning filters are the whole process's: threads that put back what they found would undo each other.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.filters = threading.Lock(), 0, contextlib.ExitStack()

    def __enter__(self) -> None:
        from rasterio.errors import NotGeoreferencedWarning

        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self.filters.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore", NotGeoreferencedWarning)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.filters.close()


_QUIET = _Quiet()


def quiet() -> _Quiet:
    """Silence the warning that a file is not georeferenced, which `Scene.georeference` says; threads may share it."""
    return _QUIET


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a GeoTIFF with rasterio. Raises `InputError` for what is missing, not local, damaged or no TIFF."""
    # GDAL's own file systems (/vsicurl/, /vsizip/) and formats that point elsewhere (VRT) are shut out: the
    # name must be a plain file, is made absolute, and only the TIFF driver may open it.
    try:
        import rasterio
        from rasterio.errors import RasterioError
    except ImportError as error:
        raise InputError(
            f"{path}: GeoTIFF needs rasterio (pip install rasterio), or prepare arrays (.npz) elsewhere."
        ) from error
    if str(path).startswith("/vsi") or not path.is_file():
        raise InputError(f"{path} is not there, or is no local file. Download it first, and check the path.")
    try:
        with quiet(), rasterio.open(path.resolve(), driver="GTiff") as file:
            yield file
    except RasterioError as error:
        raise InputError(
            f"{path} cannot be read as a TIFF: {error}. Is it whole? Download it again."
        ) from error


def read_georeference(file: Any) -> GeoReference:
    """Return where an open raster lies on Earth: by its transform, or by its control points."""
    points, points_crs = file.gcps
    if points and file.transform.is_identity:
        gcps = tuple((float(p.row), float(p.col), float(p.x), float(p.y), float(p.z or 0.0)) for p in points)
        return GeoReference(crs=points_crs.to_wkt() if points_crs else None, gcps=gcps)
    crs = file.crs.to_wkt() if file.crs else None
    if file.transform.is_identity and crs is None:
        return GeoReference()
    return GeoReference(crs=crs, transform=tuple(float(v) for v in file.transform[:6]))  # type: ignore[arg-type]


def _band(index: int, description: str | None, tag: str) -> Band:
    """Say what a band is from its description and tag; words that mean nothing here are only its name."""
    name = (description or "").strip() or f"band_{index + 1}"
    words = name.lower().split("_")
    polarization = next((w.upper() for w in words if w.upper() in POLARIZATIONS), None)
    rest = "_".join(w for w in words if w.upper() not in POLARIZATIONS)
    unit = parse_unit(rest) if rest in UNIT_NAMES else UNKNOWN
    if tag.strip().lower() in UNIT_NAMES:
        declared = parse_unit(tag)
        if unit not in (UNKNOWN, declared) and not _bare(unit):
            raise UnitError(
                f"band {name!r} is tagged UNIT={tag}, which its name belies. Correct one of the two."
            )
        unit = declared
    return Band(name, unit=unit, polarization=polarization)


def _bare(unit: Unit) -> bool:
    """Say whether a name may well leave the scale out: ``sigma0`` with UNIT=sigma0_db is no contradiction."""
    return unit.quantity in POWERS and str(unit) == unit.quantity.value


def _distinct(bands: tuple[Band, ...]) -> tuple[Band, ...]:
    names = [b.name for b in bands]
    return tuple(
        replace(b, name=f"{b.name}_{i + 1}") if names.count(b.name) > 1 else b for i, b in enumerate(bands)
    )


def _merge(path: Path, told: tuple[Band, ...], given: tuple[Band, ...]) -> tuple[Band, ...]:
    """Name the file's bands as given; a unit that both declare must be the same."""
    if not given:
        return told
    if len(given) != len(told):
        raise InputError(
            f"{path} has {len(told)} bands ({', '.join(b.name for b in told)}), but {len(given)} are named "
            f"({', '.join(b.name for b in given)}). Name all of them, in file order."
        )
    out = []
    for mine, theirs in zip(given, told, strict=True):
        if Quantity.UNKNOWN not in (mine.unit.quantity, theirs.unit.quantity) and mine.unit != theirs.unit:
            raise UnitError(
                f"{path}: band {theirs.name!r} is {theirs.unit} as the file says, but {mine.unit} as given "
                f"for {mine.name!r}. Correct `bands`, or the file."
            )
        if None not in (mine.polarization, theirs.polarization) and mine.polarization != theirs.polarization:
            raise InputError(
                f"{path}: band {theirs.name!r} is {theirs.polarization} as the file says, but {mine.polarization} as "
                f"given for {mine.name!r}. Name the bands in file order: {', '.join(b.name for b in told)}."
            )
        unit = theirs.unit if mine.unit == UNKNOWN else mine.unit
        out.append(replace(mine, unit=unit, polarization=mine.polarization or theirs.polarization))
    return tuple(out)


def _check_image(path: Path, image: NDArray[Any], descriptions: Sequence[str], units: Sequence[str]) -> None:
    if image.ndim != 3 or 0 in image.shape or image.dtype.name not in DTYPES:
        raise InputError(
            f"{path}: an array of shape {image.shape} and type {image.dtype} is no image. "
            f"Must be (B, H, W) or (H, W), of one of: {', '.join(DTYPES)}."
        )
    for name, values in (("descriptions", descriptions), ("units", units)):
        if values and len(values) != len(image):
            raise InputError(f"{path}: {len(image)} bands, but {len(values)} {name}: {', '.join(values)}.")
    for unit in units:
        parse_unit(unit)


def _check_options(
    path: Path,
    image: NDArray[Any],
    georeference: GeoReference | None,
    nodata: float | None,
    colormap: Mapping[int, tuple[int, int, int]] | None,
) -> None:
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    if colormap and (len(image) != 1 or image.dtype != np.uint8):
        raise InputError(f"{path}: a colormap is for one uint8 band, not {len(image)} of {image.dtype}.")
    if nodata is not None and image.dtype.kind in "ui":
        limits = np.iinfo(image.dtype)
        if not (limits.min <= nodata <= limits.max and nodata == int(nodata)):
            raise InputError(f"{path}: nodata={nodata} is no {image.dtype}: {limits.min} to {limits.max}.")
    if georeference is not None and georeference.crs is not None:
        try:
            CRS.from_user_input(georeference.crs)
        except CRSError as error:
            raise InputError(
                f"{path}: the coordinate reference system {georeference.crs[:80]!r} is not known. "
                "Must be WKT or an authority code such as EPSG:32633."
            ) from error


def _write(
    path: Path,
    image: NDArray[Any],
    georeference: GeoReference,
    descriptions: Sequence[str],
    units: Sequence[str],
    tags: Mapping[str, str] | None,
    nodata: float | None,
    colormap: Mapping[int, tuple[int, int, int]] | None,
) -> None:
    import rasterio

    place = placement(georeference)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=image.shape[0],
        height=image.shape[1],
        width=image.shape[2],
        dtype=image.dtype.name,
        nodata=nodata,
        tiled=True,
        blockxsize=TILE,
        blockysize=TILE,
        compress="deflate",
        predictor=3 if image.dtype.kind == "f" else 2,
        bigtiff="if_safer",
        **place,
    ) as file:
        file.write(image)
        if tags:
            file.update_tags(**tags)
        for i, text in enumerate(descriptions):
            file.set_band_description(i + 1, text)
        for i, unit in enumerate(units):
            file.update_tags(i + 1, UNIT=unit)
        if colormap:
            file.write_colormap(1, {int(k): (*rgb, 255) for k, rgb in colormap.items()})


def _same(path: Path, image: NDArray[Any]) -> bool:
    with opened(path) as file:
        return all(
            np.array_equal(file.read(i + 1), band, equal_nan=band.dtype.kind == "f")
            for i, band in enumerate(image)
        )


def placement(georeference: GeoReference) -> dict[str, Any]:
    """Return where a raster lies on Earth as `rasterio.open` takes it, from a transform or ground control points."""
    import rasterio
    from rasterio.control import GroundControlPoint

    if georeference.transform is not None:
        return {"crs": georeference.crs, "transform": rasterio.Affine(*georeference.transform)}
    if georeference.gcps:
        points = [GroundControlPoint(row=r, col=c, x=x, y=y, z=z) for r, c, x, y, z in georeference.gcps]
        return {"crs": georeference.crs, "gcps": points}
    return {}


def write_classes_tag(classes: Sequence[str]) -> str:
    """Return class names for a map's tag: ``0=land,1=water``, or JSON where that is ambiguous."""
    if any(c in name for name in classes for c in ",={"):
        return json.dumps(dict(enumerate(classes)), ensure_ascii=False)
    return ",".join(f"{i}={name}" for i, name in enumerate(classes))


def map_classes(file: Any) -> dict[int, str]:
    """Return class number -> name of an open map, from its tag ``SARTRANSFER_CLASSES``; empty where it has none.

    Raises `InputError` for a tag that is damaged, or names that `textfile.class_names` does not take.
    """
    text = file.tags().get("SARTRANSFER_CLASSES", "")
    try:
        if text.startswith("{"):
            found = {int(k): v for k, v in parse_json(text).items()}
        else:
            parts = (part.partition("=") for part in text.split(",") if part)
            found = {int(number): name for number, sign, name in parts if sign and number.isdecimal()}
        return dict(zip(found, class_names(found.values()), strict=True))
    except ValueError as error:
        raise InputError(
            f"{file.name}: its tag SARTRANSFER_CLASSES does not name classes ({error}). It should look like "
            "0=land,1=water; map the scene anew, or mend it: gdal_edit.py -mo SARTRANSFER_CLASSES=0=land,1=water FILE"
        ) from error


def check_outputs(
    paths: Sequence[Path], inputs: Sequence[Path], overwrite: bool, *, what: str, lost: str
) -> None:
    """Refuse what could not be written in the end, before anything is computed.

    Args:
        paths: to be written, the main one first: a GeoTIFF. inputs: files that must not be lost.
        overwrite: replace what is there. what, lost: how errors call the main file and an input.

    Raises `OutputError` for another ending, a missing folder, an input or a folder, a file that is there.
    """
    out = paths[0]
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(f"{out} does not end in .tif: a {what} is written as a GeoTIFF. Change the name.")
    for path in paths:
        refuse_input(path, inputs, lost)
        if path.is_dir():
            raise OutputError(f"{path} is a folder. Give the name of a file.")
        refuse_existing(path, overwrite)
