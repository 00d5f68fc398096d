"""The reader ``ai4arctic``: Sentinel-1 EW scenes with ice charts of the AI4Arctic (AutoICE) datasets, netCDF.

Raw: HH and HV in dB at 40 m, the incidence angle on a grid of points, the chart as polygon numbers with their SIGRID-3
codes. Ready to train (``*_prep.nc``): at 80 m, standardized or scaled, the chart as classes; of the test scenes the
chart is in a file of its own (``*_reference.nc``). Source: doi 10.11583/DTU.c.6244065. Needs h5py.
"""

import contextlib
import importlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError, one_of
from sartransfer.radar.icechart import CLASSES, DOMINANCE, What, label_value, parse_polygon_codes
from sartransfer.radar.units import UNKNOWN, implausible, parse_unit
from sartransfer.scene import Band, GeoReference, Scene, Window

HH, HV, ANGLE = "nersc_sar_primary", "nersc_sar_secondary", "sar_incidenceangle"
ANGLE_GRID = "sar_grid_incidenceangle"
CHARTS: dict[What, str] = {"concentration": "SIC", "stage": "SOD", "floe": "FLOE"}
# Mean and standard deviation over the training scenes, as its makers published them with the dataset
# (github.com/astokholm/AI4ArcticSeaIceChallenge, misc/global_meanstd.npy): dB, dB, degrees.
PUBLISHED = {
    HH: (-14.508254953309349, 5.659745919326586),
    HV: (-24.701211250236728, 4.746759336539111),
    ANGLE: (33.99801788456536, 8.322267212079046),
}
ANGLES = (15.0, 50.0)  # degrees: Sentinel-1 EW looks from 18.9 to 47.0
NO_CLASS = 15  # in a packed label
LINES = 7  # of the image that are looked at to find out its units
FIX = "Download it again from DTU Data (doi 10.11583/DTU.c.6244065)."
_STAMP = re.compile(r"(?<!\d)(20\d{6})[Tt](\d{6})")


class Encoding(StrEnum):
    """What the numbers of a file are."""

    PHYSICAL = "physical"
    """Decibels and degrees."""
    STANDARDIZED = "standardized"
    """(x - mean) / std with the published statistics: undone on reading."""
    UNKNOWN = "unknown"
    """Anything else, such as a scale from -1 to 1 whose ends are not known: bands are of unknown unit."""


def find_encoding(
    angle: NDArray[np.floating], hh: NDArray[np.floating], hv: NDArray[np.floating]
) -> Encoding:
    """Find out what the numbers are, from samples of each (any shape, NaN left out).

    The incidence angle tells: it is known what EW sees. In degrees it lies within 15 to 50; standardized, it does so
    once that is undone, and leaves -1 to 1, which a scaled one cannot. HH and HV must then be plausible decibels;
    otherwise the answer is unknown.
    """
    finite = angle[np.isfinite(angle)].astype(np.float64)
    if finite.size == 0:
        return Encoding.UNKNOWN
    low, high = float(finite.min()), float(finite.max())
    mean, std = PUBLISHED[ANGLE]
    if low >= ANGLES[0] and high <= ANGLES[1]:
        found = Encoding.PHYSICAL
    elif max(-low, high) > 1.001 and low * std + mean >= ANGLES[0] and high * std + mean <= ANGLES[1]:
        found = Encoding.STANDARDIZED
    else:
        return Encoding.UNKNOWN
    for values, name in ((hh, HH), (hv, HV)):
        seen = _decode(values[np.isfinite(values) & (values != 0)].astype(np.float32), name, found)
        # Standardized numbers pass for decibels near 0: their mean would lie far above what ice and water return.
        if seen.size and (implausible(seen, parse_unit("sigma0_db")) or not -45 < np.median(seen) < -2):
            return Encoding.UNKNOWN
    return found


def open_ai4arctic(path: Path, bands: tuple[Band, ...] = ()) -> Scene:
    """Open a scene; pixels are read by window.

    Bands: ``sigma0_hh_db``, ``sigma0_hv_db``, ``incidence_angle_deg``, with these units where `find_encoding` finds
    them out, else of unknown unit; `bands` rename them in this order. Where HH or HV is 0, NaN or the file's fill
    value, nothing is valid. Raw scenes have their control points as georeference; ready-to-train ones none: their
    grid of points does not say which pixels it belongs to.

    Raises `InputError` for a missing or damaged file, missing variables, or h5py not installed.
    """
    path = Path(path)
    with _opened(path) as file:
        height, width = _shape(path, file)
        is_raw = ANGLE not in file
        grid = _read_grid(path, file) if is_raw else None
        rows = np.unique(np.linspace(0, height - 1, LINES).astype(int))
        sample = {name: np.stack([_floats(file[name], row) for row in rows]) for name in (HH, HV)}
        angle = grid.angle if grid is not None else np.stack([_floats(file[ANGLE], row) for row in rows])
        place = _control_points(file) if is_raw else GeoReference()
    encoding = find_encoding(angle, sample[HH], sample[HV])
    units = ("sigma0_db", "sigma0_db", "incidence_angle_deg")
    own = tuple(
        Band(name, UNKNOWN if encoding is Encoding.UNKNOWN else parse_unit(unit), polarization)
        for name, unit, polarization in zip(
            ("sigma0_hh_db", "sigma0_hv_db", "incidence_angle_deg"), units, ("HH", "HV", None), strict=True
        )
    )
    if bands and len(bands) != len(own):
        raise InputError(f"{path} has 3 bands (HH, HV, incidence angle), but {len(bands)} are named.")
    return Scene(
        id=path.stem,
        bands=bands or own,
        height=height,
        width=width,
        source=Ai4ArcticSource(path, encoding, grid),
        georeference=place,
        time=stamp_of(path),
        platform=_platform(path),
    )


@dataclass(frozen=True, slots=True)
class AngleGrid:
    """Incidence angles on a regular grid of an image's lines and samples."""

    lines: NDArray[np.float64]
    samples: NDArray[np.float64]
    angle: NDArray[np.float64]
    """(lines, samples), as in the file."""

    def on(self, window: Window) -> NDArray[np.float32]:
        """Return the angle at each pixel of a window, linear between the points."""
        rows = np.arange(window.row, window.row + window.height)
        cols = np.arange(window.col, window.col + window.width)
        along = np.stack([np.interp(cols, self.samples, line) for line in self.angle])
        place = np.clip(np.interp(rows, self.lines, np.arange(len(self.lines))), 0, len(self.lines) - 1)
        first = np.minimum(place.astype(int), len(self.lines) - 2)
        weight = (place - first)[:, None]
        return np.asarray(along[first] * (1 - weight) + along[first + 1] * weight, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Ai4ArcticSource:
    """Pixels of a scene; the file is opened for each read, so that threads and forks share no handle."""

    path: Path
    encoding: Encoding
    grid: AngleGrid | None

    def read(self, indices: Sequence[int], window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read the window; standardized numbers are turned back into decibels and degrees."""
        values = np.empty((len(indices), window.height, window.width), dtype=np.float32)
        valid = np.ones(values.shape, dtype=bool)
        with _opened(self.path) as file:
            for i, name in enumerate((HH, HV, ANGLE)[k] for k in indices):
                if name == ANGLE and self.grid is not None:
                    values[i] = self.grid.on(window)
                    continue
                raw = _floats(file[name], window.slices)
                valid[i] = np.isfinite(raw) & (raw != 0 if name != ANGLE else True)
                values[i] = _decode(raw, name, self.encoding)
        return values, valid


def read_ai4arctic_chart(
    path: Path, what: What = "ice-water", dominance: float = DOMINANCE
) -> NDArray[np.uint8]:
    """Read the chart of a scene as classes of `radar.icechart.CLASSES` (H, W), 255 where there is none.

    Of raw files the polygons' codes are read, with `dominance`; ready-to-train files have their classes, made with
    65 %. Raises `InputError` for a file without a chart, codes or classes that are not known, or another `what`.
    """
    if what not in CLASSES:
        raise InputError(one_of("what", what, CLASSES))
    with _opened(path) as file:
        if "polygon_icechart" in file:
            return _from_polygons(path, file, what, dominance)
        name = CHARTS.get(what, "SIC")
        if name not in file:
            raise InputError(f"{path} has no ice chart ({name}). Name the file that ends in _reference.nc.")
        chart = file[name]
        values = np.asarray(chart[()])
        fill = _number(chart.attrs.get("chart_fill_value", 255))
    classes = CLASSES["concentration" if what == "ice-water" else what]
    empty = ~np.isfinite(values) | (values == fill) | (values == 255)
    odd = np.unique(values[~empty & ((values < 0) | (values >= len(classes)))])
    if odd.size:
        raise InputError(
            f"{path}: {name} has classes that are not known: {', '.join(map(str, odd[:5]))}. {FIX}"
        )
    out = np.where(empty, 255, values).astype(np.uint8)
    return np.where(out == 255, 255, out >= 1).astype(np.uint8) if what == "ice-water" else out


def read_ai4arctic_label(path: Path) -> NDArray[np.int32]:
    """Read concentration, stage and floe size of a scene in one number a pixel (H, W): see `pack`."""
    first, second, third = (read_ai4arctic_chart(path, what) for what in CHARTS)
    return pack(first, second, third)


def pack(
    concentration: NDArray[np.uint8], stage: NDArray[np.uint8], floe: NDArray[np.uint8]
) -> NDArray[np.int32]:
    """Put three classes (255: none) into one number: concentration + 16 stage + 256 floe, 15 for none.

    A catalog has one label a scene; its `label_values` then choose (`data.datasets.ai4arctic`).
    """
    parts = [np.minimum(np.asarray(c, dtype=np.int32), NO_CLASS) for c in (concentration, stage, floe)]
    return np.asarray(parts[0] + 16 * parts[1] + 256 * parts[2], dtype=np.int32)


def stamp_of(path: Path) -> datetime:
    """Return when a scene's first line was taken, from its name; raises `InputError` if it does not say so."""
    match = _STAMP.search(path.name)
    try:
        return datetime.strptime("".join(match.groups()) if match else "", "%Y%m%d%H%M%S")
    except ValueError as error:
        raise InputError(f"{path}: its name does not say when it was taken (20180124T194759).") from error


def _from_polygons(path: Path, file: Any, what: What, dominance: float) -> NDArray[np.uint8]:
    if "polygon_codes" not in file:
        raise InputError(f"{path} has polygons without their codes (polygon_codes). {FIX}")
    polygons = parse_polygon_codes(_texts(file["polygon_codes"][()]))
    numbers = np.asarray(file["polygon_icechart"][()])
    if numbers.dtype.kind == "f":
        numbers = np.where(np.isfinite(numbers), numbers, -1).astype(np.int32)
    size = max([int(numbers.max()), *polygons]) + 2
    table = np.full(size, 255, dtype=np.uint8)  # the last is for what is not charted: -1
    for number, polygon in polygons.items():
        value = label_value(polygon, what, dominance)
        if number >= 0 and value < len(CLASSES[what]):
            table[number] = value
    out: NDArray[np.uint8] = table[numbers if numbers.dtype.kind == "u" else np.maximum(numbers, -1)]
    return out


def _texts(values: Any) -> list[str]:
    """Return texts of a netCDF variable: strings, or rows of single characters."""
    array = np.asarray(values)
    if array.dtype.kind == "S" and array.ndim == 2:
        return [b"".join(row).decode("utf-8").rstrip("\0 ") for row in array]
    return [v.decode("utf-8") if isinstance(v, bytes) else str(v) for v in array.ravel()]


def _decode(raw: NDArray[np.float32], name: str, encoding: Encoding) -> NDArray[np.float32]:
    if encoding is not Encoding.STANDARDIZED:
        return raw
    mean, std = PUBLISHED[name]
    return (raw * np.float32(std) + np.float32(mean)).astype(np.float32)


def _floats(variable: Any, part: Any) -> NDArray[np.float32]:
    """Read a part of a variable, NaN where it has one of its fill values."""
    values = np.asarray(variable[part], dtype=np.float32)
    for name in ("_FillValue", "variable_fill_value"):
        fill = variable.attrs.get(name)
        if fill is not None:
            values = np.where(values == np.float32(_number(fill)), np.float32(np.nan), values)
    return values


def _number(value: Any) -> float:
    return float(np.asarray(value).ravel()[0])


def _shape(path: Path, file: Any) -> tuple[int, int]:
    for name in (HH, HV):
        if name not in file:
            raise InputError(f"{path} has no {name}; it has {', '.join(sorted(file))[:200]}. {FIX}")
    shape = file[HH].shape
    charted = {
        name: file[name].shape for name in (HV, ANGLE, *CHARTS.values(), "polygon_icechart") if name in file
    }
    odd = next((name for name, other in charted.items() if other != shape), None)
    if len(shape) != 2 or odd:
        raise InputError(f"{path}: {HH} is {shape}, {odd} is {charted.get(odd or '')}. {FIX}")
    return int(shape[0]), int(shape[1])


def _read_grid(path: Path, file: Any) -> AngleGrid:
    names = ("sar_grid_line", "sar_grid_sample", ANGLE_GRID)
    for name in names:
        if name not in file:
            raise InputError(
                f"{path} has neither {ANGLE} nor {name}: its incidence angle is not known. {FIX}"
            )
    line, sample, angle = (np.asarray(file[name][()], dtype=np.float64).ravel() for name in names)
    lines, samples = np.unique(line), np.unique(sample)
    whole = len(line) == len(lines) * len(samples) and len(lines) > 1 and len(samples) > 1
    out = np.full((len(lines), len(samples)), np.nan)
    if whole:
        out[np.searchsorted(lines, line), np.searchsorted(samples, sample)] = angle
    if not whole or not np.isfinite(out).all():
        raise InputError(
            f"{path}: the points of {ANGLE_GRID} are no regular grid of lines and samples. {FIX}"
        )
    return AngleGrid(lines, samples, out)


def _control_points(file: Any) -> GeoReference:
    names = ("sar_grid_line", "sar_grid_sample", "sar_grid_longitude", "sar_grid_latitude")
    if any(name not in file for name in names):
        return GeoReference()
    columns = [np.asarray(file[name][()], dtype=np.float64).ravel() for name in names]
    return GeoReference(
        "EPSG:4326",
        gcps=tuple(
            (float(r), float(c), float(x), float(y), 0.0) for r, c, x, y in zip(*columns, strict=True)
        ),
    )


def _platform(path: Path) -> str:
    return f"Sentinel-1{path.name[2]}" if re.match(r"S1[A-D]_", path.name) else "Sentinel-1"


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        h5py = importlib.import_module("h5py")
    except ImportError as error:
        raise InputError(
            f'{path}: netCDF needs h5py: pip install "sartransfer[ai4arctic]", or pip install h5py.'
        ) from error
    if not path.is_file():
        raise InputError(f"{path} is not there. Check the path of the scene.")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path} cannot be read as netCDF-4: {error}. Is it whole? {FIX}") from error
    with file:
        _refuse_elsewhere(path, file, h5py)
        yield file


def _refuse_elsewhere(path: Path, file: Any, h5py: Any) -> None:
    """Refuse variables whose values lie in other files (external storage, virtual datasets, links): a scene is one."""
    for name in file:
        link = file.get(name, getlink=True)
        variable = None if isinstance(link, h5py.ExternalLink) else file.get(name)
        stored = isinstance(variable, h5py.Dataset) and (variable.external or variable.is_virtual)
        if variable is None or variable.file.filename != file.filename or stored:
            raise InputError(f"{path}: {name} lies in another file, which is not read. {FIX}")
