"""What the XML files of a Sentinel-1 GRD product say: manifest, annotation, calibration and noise.

Source: Sentinel-1 Product Specification, S1-RS-MDA-52-7441; Sentinel-1 Product Definition, S1-RS-MDA-52-7440.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError, one_of
from sartransfer.radar.calibration import QUANTITIES, LineVectors
from sartransfer.radar.geolocation import GeolocationGrid
from sartransfer.radar.noise import Noise, NoiseBlock, build_noise
from sartransfer.readers.sentinel1_files import (
    MANIFEST,
    ProductFiles,
    find_file,
    open_product_files,
    polarizations,
)
from sartransfer.readers.xml import parse_xml, read_number, read_text

_text = partial(read_text, kind="a Sentinel-1 annotation")
_number = partial(read_number, kind="a Sentinel-1 annotation")

MODES = ("EW", "IW")
MISSIONS = ("S1A", "S1B", "S1C", "S1D")
SPEED_OF_LIGHT = 299792458.0
TABLES = {"sigma0": "sigmaNought", "beta0": "betaNought", "gamma0": "gamma"}
SAFE = "{http://www.esa.int/safe/sentinel-1.0}"
SOFTWARE = "Sentinel-1 IPF"
# Products made before July 2015 give their noise without the processor's scale: noise x k x dn is meant, with dn of the
# calibration annotation (ESA MPC-0392; k as quoted by pyroSAR, and by nansat for EW). Told from others by its size.
OLD_NOISE_SCALE = {"IW": 75088.7, "EW": 56065.87}
# Noise-equivalent sigma0, the median: -22 or less by specification. What has another unit is 20 dB off or more (one
# factor of dn in the scale of old products: 26 dB).
PLAUSIBLE_NOISE_DB = (-45.0, -12.0)
POSSIBLE_NOISE_DB = (-70.0, 0.0)  # of any one value: in real products -35 to -19


@dataclass(frozen=True, slots=True)
class Sentinel1Layer:
    """The image of one polarization, and what calibrates it."""

    polarization: str
    measurement: str | None
    """The image's name in the product; None where it is missing."""
    tables: dict[str, LineVectors] = field(repr=False)
    """A of `radar.calibration.QUANTITIES`."""
    noise: Noise | None = field(repr=False)
    """None where it is not known, or was removed already."""
    noise_fault: str | None
    """Why it is not known."""
    noise_removed: bool
    """True where the processor has subtracted it already."""


@dataclass(frozen=True, slots=True)
class Sentinel1Product:
    """What a product says of itself."""

    files: ProductFiles
    id: str
    platform: str
    """``Sentinel-1A`` to ``Sentinel-1D``."""
    mode: str
    """EW or IW."""
    start: datetime
    """UTC."""
    stop: datetime
    orbit_pass: str
    """ASCENDING or DESCENDING."""
    orbit: int
    """Absolute."""
    relative_orbit: int | None
    """None where there is no manifest to say it."""
    processor: str | None
    """Version of the Instrument Processing Facility, ``003.52``; None where there is no manifest to say it."""
    rows: int
    columns: int
    spacing_m: tuple[float, float]
    """Between rows, and between columns."""
    grid: GeolocationGrid = field(repr=False)
    layers: tuple[Sentinel1Layer, ...]

    @property
    def polarizations(self) -> tuple[str, ...]:
        """HH, HV or VV, VH, or one of them."""
        return tuple(layer.polarization for layer in self.layers)

    @property
    def azimuth_vectors(self) -> bool:
        """Whether the annotation gives noise in azimuth (IPF 2.9 and later)."""
        return any(layer.noise is not None and layer.noise.blocks for layer in self.layers)


def read_sentinel1_annotation(path: str | Path) -> Sentinel1Product:
    """Read what a product says, given its SAFE folder, zip, manifest, or folder in the layout of cloud archives.

    The images need not be there. Raises `InputError` for what is no EW or IW GRD product, for files that are missing
    (named), damaged, or declare entities, and for polarizations that do not agree.
    """
    files = open_product_files(path)
    manifest = _manifest(files)
    found = polarizations(files)
    for polarization in manifest.polarizations:
        if polarization not in found:
            find_file(files, "annotation/", "", polarization, (".xml",))  # it names what is missing
    heads = [_xml(files, find_file(files, "annotation/", "", p, (".xml",))) for p in found]
    first, where = heads[0]
    shape = _shape(first, where)
    for (root, name), polarization in zip(heads, found, strict=True):
        _check_kind(root, name, polarization)
        if _shape(root, name) != shape:
            raise InputError(
                f"{name}: {_shape(root, name)} pixels, but {shape} in {where}. Is the product whole?"
            )
    mode = _text(first, where, "adsHeader/mode")
    information = "imageAnnotation/imageInformation/"
    return Sentinel1Product(
        files=files,
        id=files.id,
        platform=_platform(_text(first, where, "adsHeader/missionId")),
        mode=mode,
        start=_time(first, where, "adsHeader/startTime"),
        stop=_time(first, where, "adsHeader/stopTime"),
        orbit_pass=_text(first, where, "generalAnnotation/productInformation/pass").upper(),
        orbit=int(_number(first, where, "adsHeader/absoluteOrbitNumber")),
        relative_orbit=manifest.relative_orbit,
        processor=manifest.processor,
        rows=shape[0],
        columns=shape[1],
        spacing_m=(
            _number(first, where, information + "azimuthPixelSpacing"),
            _number(first, where, information + "rangePixelSpacing"),
        ),
        grid=_grid(first, where),
        layers=tuple(_layer(files, root, p, mode) for (root, _), p in zip(heads, found, strict=True)),
    )


@dataclass(frozen=True, slots=True)
class _Manifest:
    polarizations: tuple[str, ...] = ()
    relative_orbit: int | None = None
    processor: str | None = None


def _manifest(files: ProductFiles) -> _Manifest:
    if MANIFEST not in files.names:  # some mirrors leave it out; it says nothing that pixels need
        return _Manifest()
    root, where = _xml(files, MANIFEST)
    sent = [e.text or "" for e in root.iter() if e.tag.endswith("}transmitterReceiverPolarisation")]
    orbit = next((e.text for e in root.iter(f"{SAFE}relativeOrbitNumber")), None)
    versions = [e.get("version") for e in root.iter(f"{SAFE}software") if e.get("name") == SOFTWARE]
    try:
        return _Manifest(
            tuple(p.strip().upper() for p in sent),
            None if orbit is None else int(orbit),
            versions[0] if versions else None,
        )
    except ValueError as error:
        raise InputError(f"{where}: relativeOrbitNumber {orbit!r} is no whole number.") from error


def _platform(mission: str) -> str:
    if mission not in MISSIONS:
        raise InputError(one_of("missionId", mission, MISSIONS))
    return f"Sentinel-1{mission[2]}"


def _check_kind(root: Element, where: str, polarization: str) -> None:
    kind, mode = _text(root, where, "adsHeader/productType"), _text(root, where, "adsHeader/mode")
    if kind != "GRD":
        raise InputError(
            f"{where}: {one_of('product type', kind, ('GRD',))} Complex products (SLC) are not read: order the GRD."
        )
    if mode not in MODES:
        raise InputError(f"{where}: {one_of('mode', mode, MODES)}")
    if _text(root, where, "adsHeader/polarisation") != polarization:
        raise InputError(
            f"{where}: polarization {_text(root, where, 'adsHeader/polarisation')}, but {polarization} by its name."
        )


def _shape(root: Element, where: str) -> tuple[int, int]:
    information = "imageAnnotation/imageInformation/"
    return (
        int(_number(root, where, information + "numberOfLines")),
        int(_number(root, where, information + "numberOfSamples")),
    )


def _grid(root: Element, where: str) -> GeolocationGrid:
    points = root.findall("geolocationGrid/geolocationGridPointList/geolocationGridPoint")
    names = ("line", "pixel", "latitude", "longitude", "height", "incidenceAngle", "slantRangeTime")
    table = np.array([[_number(p, where, n) for n in names] for p in points], dtype=np.float64).reshape(-1, 7)
    lines, pixels = np.unique(table[:, 0]), np.unique(table[:, 1])
    if len(lines) * len(pixels) != len(table) or len(np.unique(table[:, :2], axis=0)) != len(table):
        raise InputError(
            f"{where}: the geolocation grid has {len(table)} points, but {len(lines)} lines and {len(pixels)} pixels. "
            "It must be regular; products joined of several slices are not read."
        )
    ordered = table[np.lexsort((table[:, 1], table[:, 0]))].reshape(len(lines), len(pixels), 7)
    latitude, longitude, height, angle, delay = np.moveaxis(ordered[..., 2:], -1, 0)
    if not ((angle > 0) & (angle < 90)).all():
        raise InputError(
            f"{where}: incidence angles from {angle.min():g} to {angle.max():g} degrees cannot be."
        )
    try:
        return GeolocationGrid(lines, pixels, latitude, longitude, height, angle, delay * SPEED_OF_LIGHT / 2)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _layer(files: ProductFiles, root: Element, polarization: str, mode: str) -> Sentinel1Layer:
    calibration, place = _xml(
        files, find_file(files, "annotation/calibration/", "calibration-", polarization, (".xml",))
    )
    vectors = calibration.findall("calibrationVectorList/calibrationVector")
    tables = {q: _vectors(vectors, place, TABLES[q]) for q in QUANTITIES}
    for quantity, table in tables.items():
        if min(float(v.min()) for v in table.values) <= 0:
            raise InputError(f"{place}: {TABLES[quantity]} holds values that are not above 0. Is it whole?")
    done = "imageAnnotation/processingInformation/thermalNoiseCorrectionPerformed"
    removed = (root.findtext(done) or "").strip().lower() == "true"
    noise, fault = None, None
    if not removed:
        try:
            name = find_file(files, "annotation/calibration/", "noise-", polarization, (".xml",))
            noise_root, noise_place = _xml(files, name)
            noise = _noise(noise_root, noise_place, tables["sigma0"], _first_dn(vectors, place), mode)
        except (
            InputError
        ) as error:  # to be raised where noise is asked for: without it the product can be read
            fault = str(error)
    try:
        measurement: str | None = find_file(files, "measurement/", "", polarization, (".tiff", ".tif"))
    except InputError:
        measurement = None
    return Sentinel1Layer(polarization, measurement, tables, noise, fault, removed)


def _noise(root: Element, where: str, sigma0: LineVectors, dn: float, mode: str) -> Noise:
    """Read either version of the noise annotation; old vectors are brought to the unit of DN^2."""
    new = root.findall("noiseRangeVectorList/noiseRangeVector")
    old = root.findall("noiseVectorList/noiseVector")
    if not new and not old:
        raise InputError(f"{where} holds neither noiseRangeVector nor noiseVector. Is it whole?")
    try:
        if new:
            blocks = tuple(
                _block(v, where) for v in root.findall("noiseAzimuthVectorList/noiseAzimuthVector")
            )
            noise = build_noise(_vectors(new, where, "noiseRangeLut"), blocks)
        else:
            vectors = _vectors(old, where, "noiseLut")
            if _noise_db(build_noise(vectors), sigma0) < PLAUSIBLE_NOISE_DB[0]:
                scale = OLD_NOISE_SCALE[mode] * dn
                vectors = LineVectors(vectors.lines, vectors.pixels, tuple(v * scale for v in vectors.values))
            noise = build_noise(vectors)
    except InputError as error:
        raise InputError(str(error) if where in str(error) else f"{where}: {error}") from error
    level = _noise_db(noise, sigma0)
    if not PLAUSIBLE_NOISE_DB[0] <= level <= PLAUSIBLE_NOISE_DB[1]:
        raise InputError(f"{where}: noise of {level:.1f} dB in sigma0 cannot be: its scale is not known.")
    _check_values(noise, sigma0, where)
    return noise


def _noise_db(noise: Noise, sigma0: LineVectors) -> float:
    """Return the median noise-equivalent sigma0, in dB, at the points of the middle vector."""
    middle = len(noise.ranges.lines) // 2
    table = sigma0.at(noise.ranges.lines[[middle]], noise.ranges.pixels[middle])[0]
    return float(np.median(10 * np.log10(noise.ranges.values[middle] / table**2)))


def _check_values(noise: Noise, sigma0: LineVectors, where: str) -> None:
    """Raise `InputError`, naming the place, if one value is not what noise can be."""
    ranges = noise.ranges
    for line, pixels, values in zip(ranges.lines, ranges.pixels, ranges.values, strict=True):
        levels = 10 * np.log10(values / sigma0.at([line], pixels)[0] ** 2)
        wrong = (levels < POSSIBLE_NOISE_DB[0]) | (levels > POSSIBLE_NOISE_DB[1])
        if wrong.any():
            place = int(wrong.argmax())
            raise InputError(
                f"{where}: noise of {values[place]:g} at line {line:g}, pixel {pixels[place]:g} is {levels[place]:.1f} "
                f"dB in sigma0; it cannot be: {POSSIBLE_NOISE_DB[0]:g} to {POSSIBLE_NOISE_DB[1]:g}. Download it again."
            )


def _block(vector: Element, where: str) -> NoiseBlock:
    names = ("firstAzimuthLine", "lastAzimuthLine", "firstRangeSample", "lastRangeSample")
    first, last, left, right = (int(_number(vector, where, n)) for n in names)
    return NoiseBlock(
        _text(vector, where, "swath"),
        first,
        last,
        left,
        right,
        _numbers(vector, where, "line"),
        _numbers(vector, where, "noiseAzimuthLut"),
    )


def _vectors(vectors: list[Element], where: str, name: str) -> LineVectors:
    table = {_number(v, where, "line"): v for v in vectors}  # of a line that stands twice, the last
    try:
        return LineVectors(
            np.array(sorted(table), dtype=np.float64),
            tuple(_numbers(table[line], where, "pixel") for line in sorted(table)),
            tuple(_numbers(table[line], where, name) for line in sorted(table)),
        )
    except InputError as error:
        raise InputError(str(error) if where in str(error) else f"{where}: {name}: {error}") from error


def _first_dn(vectors: list[Element], where: str) -> float:
    return float(_numbers(vectors[0], where, "dn")[0])


def _xml(files: ProductFiles, name: str) -> tuple[Element, str]:
    label = files.label(name)
    return parse_xml(files.read(name), label), label


def _time(root: Element, where: str, path: str) -> datetime:
    text = _text(root, where, path)
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"{where}: {path} {text!r} is not ISO 8601.") from error
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def _numbers(element: Element, where: str, path: str) -> NDArray[np.float64]:
    text = _text(element, where, path)
    try:
        return np.array(text.split(), dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{where}: {path} holds something that is no number.") from error
