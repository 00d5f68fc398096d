"""Writing a Sentinel-1 GRD product: manifest, annotation, calibration, noise, measurements. For simulated scenes.

What is written is what `sentinel1_annotation` reads, in the layout and with the elements of the Sentinel-1 Product
Specification, S1-RS-MDA-52-7441, as far as anything here or in xarray-sentinel asks for them. Nothing passes as the
agency's: the manifest names this package as the processor.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from sartransfer import __version__
from sartransfer.errors import InputError, OutputError, one_of, refuse_existing
from sartransfer.radar.calibration import LineVectors
from sartransfer.radar.geolocation import GeolocationGrid
from sartransfer.radar.noise import Noise

Array = NDArray[np.float64]
SPEED_OF_LIGHT = 299792458.0
FREQUENCY_HZ = 5.405000454334350e9  # of Sentinel-1's radar, as annotations have it
RATE_HZ = 2.502314e7  # of range samples in EW; no pixel depends on it
MODES = {"EW": "GRDM", "IW": "GRDH"}
HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
GCP_STEP = 1  # every point of the geolocation grid becomes a control point


@dataclass(frozen=True, slots=True)
class WrittenProduct:
    """All that a product says, beside its pixels."""

    start: datetime
    stop: datetime
    lines: int
    columns: int
    spacing_m: float
    grid: GeolocationGrid
    tables: dict[str, LineVectors]
    """A of sigma0, beta0 and gamma0, on the same lines and pixels."""
    noise: dict[str, Noise]
    """By polarization, the one received as it was sent first; with azimuth blocks."""
    mode: str = "EW"
    mission: str = "S1A"
    orbit: int = 1
    orbit_pass: str = "Descending"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(one_of("mode", self.mode, MODES))
        if set(self.tables) != {"sigma0", "beta0", "gamma0"}:
            raise InputError(f"tables of sigma0, beta0 and gamma0 are needed, not {sorted(self.tables)}.")
        if tuple(self.noise) not in (("HH", "HV"), ("VV", "VH"), ("HH",), ("VV",)):
            raise InputError(
                f"polarizations {tuple(self.noise)}: must be HH, HV or VV, VH, or the first of them."
            )

    @property
    def name(self) -> str:
        """The product's name without .SAFE, as agencies form it."""
        letters = ("D" if len(self.noise) == 2 else "S") + next(iter(self.noise))[0]
        stem = (
            f"{self.mission}_{self.mode}_{MODES[self.mode]}_1S{letters}_{self.start:%Y%m%dT%H%M%S}_"
            f"{self.stop:%Y%m%dT%H%M%S}_{self.orbit:06d}_{self.orbit:06X}"
        )
        return f"{stem}_{hashlib.sha256(stem.encode()).hexdigest()[:4].upper()}"

    def stem(self, number: int, polarization: str) -> str:
        """Return what the files of one polarization are called."""
        return (
            f"{self.mission}-{self.mode}-grd-{polarization}-{self.start:%Y%m%dt%H%M%S}-{self.stop:%Y%m%dt%H%M%S}-"
            f"{self.orbit:06d}-{self.orbit:06x}-{number:03d}"
        ).lower()

    def time_of(self, line: float) -> str:
        """Return the azimuth time of a line."""
        share = line / max(self.lines - 1, 1)
        return (self.start + share * (self.stop - self.start)).strftime("%Y-%m-%dT%H:%M:%S.%f")


def write_sentinel1(
    parent: str | Path,
    product: WrittenProduct,
    blocks: Iterable[tuple[int, NDArray[np.uint16]]],
    *,
    overwrite: bool = False,
) -> Path:
    """Write a product as a SAFE folder under `parent`, whole or not at all; return the folder.

    Args:
        parent: a folder that is there. product: what its annotation says.
        blocks: (first line, DN (polarizations, rows, columns)) from the first line to the last; nothing else of the
            images is held in memory. overwrite: replace a product of that name.

    Raises `InputError` for blocks that do not make up the product, `OutputError` if it exists or cannot be written.
    """
    parent = Path(parent)
    folder = parent / f"{product.name}.SAFE"
    refuse_existing(folder, overwrite)
    partial = Path(tempfile.mkdtemp(prefix=f".{product.name}.", dir=parent))
    try:
        partial.chmod(0o755)  # mkdtemp makes it private
        for part in ("annotation/calibration", "measurement"):
            (partial / part).mkdir(parents=True)
        for number, polarization in enumerate(product.noise, start=1):
            stem = product.stem(number, polarization)
            _text(partial / f"annotation/{stem}.xml", annotation_xml(product, number, polarization))
            inner = partial / "annotation/calibration"
            _text(inner / f"calibration-{stem}.xml", calibration_xml(product, number, polarization))
            _text(inner / f"noise-{stem}.xml", noise_xml(product, number, polarization))
        _write_images(partial / "measurement", product, blocks)
        _text(partial / "manifest.safe", manifest_xml(product, partial))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)  # noqa: PTH105
    except OSError as error:
        raise OutputError(f"{folder} could not be written: {error}. Is the disk full?") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def annotation_xml(product: WrittenProduct, number: int, polarization: str) -> str:
    """Return the annotation: what the image is, and where its points lie."""
    g = product.grid
    points = "".join(
        f"<geolocationGridPoint><azimuthTime>{product.time_of(line)}</azimuthTime>"
        f"<slantRangeTime>{2 * g.slant_range_m[i, j] / SPEED_OF_LIGHT:.15e}</slantRangeTime>"
        f"<line>{int(line)}</line><pixel>{int(pixel)}</pixel><latitude>{g.latitude[i, j]:.15e}</latitude>"
        f"<longitude>{g.longitude[i, j]:.15e}</longitude><height>{g.height_m[i, j]:.15e}</height>"
        f"<incidenceAngle>{g.incidence_deg[i, j]:.15e}</incidenceAngle>"
        f"<elevationAngle>{_elevation(g.incidence_deg[i, j]):.15e}</elevationAngle></geolocationGridPoint>"
        for i, line in enumerate(g.lines)
        for j, pixel in enumerate(g.pixels)
    )
    step = (product.stop - product.start) / max(product.lines - 1, 1)
    return (
        f"{HEAD}<product>{_head(product, number, polarization)}"
        f"<generalAnnotation><productInformation><pass>{escape(product.orbit_pass)}</pass>"
        "<timelinessCategory>NRT-3h</timelinessCategory><projection>Ground Range</projection>"
        f"<radarFrequency>{FREQUENCY_HZ:.15e}</radarFrequency>"
        f"<rangeSamplingRate>{RATE_HZ:.15e}</rangeSamplingRate></productInformation></generalAnnotation>"
        "<imageAnnotation><imageInformation>"
        f"<productFirstLineUtcTime>{product.time_of(0)}</productFirstLineUtcTime>"
        f"<productLastLineUtcTime>{product.time_of(product.lines - 1)}</productLastLineUtcTime>"
        f"<ascendingNodeTime>{product.time_of(0)}</ascendingNodeTime>"
        f"<slantRangeTime>{2 * g.slant_range_m[0, 0] / SPEED_OF_LIGHT:.15e}</slantRangeTime>"
        "<pixelValue>Detected</pixelValue><outputPixels>16 bit Unsigned Integer</outputPixels>"
        f"<rangePixelSpacing>{product.spacing_m:.6e}</rangePixelSpacing>"
        f"<azimuthPixelSpacing>{product.spacing_m:.6e}</azimuthPixelSpacing>"
        f"<azimuthTimeInterval>{step.total_seconds():.15e}</azimuthTimeInterval>"
        f"<numberOfSamples>{product.columns}</numberOfSamples><numberOfLines>{product.lines}</numberOfLines>"
        f"<incidenceAngleMidSwath>{g.incidence_deg[0, len(g.pixels) // 2]:.15e}</incidenceAngleMidSwath>"
        "</imageInformation><processingInformation>"
        "<thermalNoiseCorrectionPerformed>false</thermalNoiseCorrectionPerformed></processingInformation>"
        "</imageAnnotation><swathTiming><linesPerBurst>0</linesPerBurst><samplesPerBurst>0</samplesPerBurst>"
        '<burstList count="0"/></swathTiming>'
        f'<geolocationGrid><geolocationGridPointList count="{g.latitude.size}">{points}'
        "</geolocationGridPointList></geolocationGrid></product>"
    )


def calibration_xml(product: WrittenProduct, number: int, polarization: str) -> str:
    """Return the calibration annotation: A of sigma0, beta0 and gamma0 along some lines."""
    t = product.tables
    vectors = "".join(
        f"<calibrationVector><azimuthTime>{product.time_of(line)}</azimuthTime><line>{int(line)}</line>"
        f"{_list('pixel', t['sigma0'].pixels[i], whole=True)}{_list('sigmaNought', t['sigma0'].values[i])}"
        f"{_list('betaNought', t['beta0'].values[i])}{_list('gamma', t['gamma0'].values[i])}"
        f"{_list('dn', t['beta0'].values[i])}</calibrationVector>"
        for i, line in enumerate(t["sigma0"].lines)
    )
    return (
        f"{HEAD}<calibration>{_head(product, number, polarization)}<calibrationInformation>"
        "<absoluteCalibrationConstant>1.000000e+00</absoluteCalibrationConstant></calibrationInformation>"
        f'<calibrationVectorList count="{len(t["sigma0"].lines)}">{vectors}</calibrationVectorList></calibration>'
    )


def noise_xml(product: WrittenProduct, number: int, polarization: str) -> str:
    """Return the noise annotation: vectors along range, and each sub-swath's factors along its lines."""
    noise = product.noise[polarization]
    ranges = "".join(
        f"<noiseRangeVector><azimuthTime>{product.time_of(line)}</azimuthTime><line>{int(line)}</line>"
        f"{_list('pixel', noise.ranges.pixels[i], whole=True)}{_list('noiseRangeLut', noise.ranges.values[i])}"
        "</noiseRangeVector>"
        for i, line in enumerate(noise.ranges.lines)
    )
    blocks = "".join(
        f"<noiseAzimuthVector><swath>{escape(b.swath)}</swath><firstAzimuthLine>{b.first_line}</firstAzimuthLine>"
        f"<firstRangeSample>{b.first_pixel}</firstRangeSample><lastAzimuthLine>{b.last_line}</lastAzimuthLine>"
        f"<lastRangeSample>{b.last_pixel}</lastRangeSample>{_list('line', b.lines, whole=True)}"
        f"{_list('noiseAzimuthLut', b.factors)}</noiseAzimuthVector>"
        for b in noise.blocks
    )
    return (
        f"{HEAD}<noise>{_head(product, number, polarization)}"
        f'<noiseRangeVectorList count="{len(noise.ranges.lines)}">{ranges}</noiseRangeVectorList>'
        f'<noiseAzimuthVectorList count="{len(noise.blocks)}">{blocks}</noiseAzimuthVectorList></noise>'
    )


def manifest_xml(product: WrittenProduct, folder: Path) -> str:
    """Return the manifest: who made it, its orbit and polarizations, and every file with its size and MD5."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.safe")
    entries = "".join(
        f'<dataObject ID="file{i}" repID="{_kind(p)}"><byteStream size="{p.stat().st_size}">'
        f'<fileLocation locatorType="URL" href="./{escape(p.relative_to(folder).as_posix())}"/>'
        f'<checksum checksumName="MD5">{_md5(p)}</checksum></byteStream></dataObject>'
        for i, p in enumerate(files)
    )
    sent = "".join(
        f"<s1sarl1:transmitterReceiverPolarisation>{p}</s1sarl1:transmitterReceiverPolarisation>"
        for p in product.noise
    )
    relative = (product.orbit - 73) % 175 + 1  # of Sentinel-1A (ESA)
    orbits = "".join(
        f'<safe:{name} type="{end}">{number}</safe:{name}>'
        for name, number in (("orbitNumber", product.orbit), ("relativeOrbitNumber", relative))
        for end in ("start", "stop")
    )
    blocks = next(iter(product.noise.values())).blocks
    swaths = "".join(f"<s1sarl1:swath>{s}</s1sarl1:swath>" for s in dict.fromkeys(b.swath for b in blocks))
    return (
        f'{HEAD}<xfdu:XFDU xmlns:xfdu="urn:ccsds:schema:xfdu:1" xmlns:safe="http://www.esa.int/safe/sentinel-1.0" '
        'xmlns:s1="http://www.esa.int/safe/sentinel-1.0/sentinel-1" '
        'xmlns:s1sarl1="http://www.esa.int/safe/sentinel-1.0/sentinel-1/sar/level-1" '
        'version="esa/safe/sentinel-1.0/sentinel-1/sar/level-1/grd/standard/ewdp"><metadataSection>'
        f"<safe:platform><safe:familyName>SENTINEL-1</safe:familyName><safe:number>{product.mission[2]}</safe:number>"
        f"<safe:instrument><safe:extension><s1sarl1:instrumentMode><s1sarl1:mode>{product.mode}</s1sarl1:mode>{swaths}"
        "</s1sarl1:instrumentMode></safe:extension></safe:instrument></safe:platform>"
        '<safe:processing name="Simulation, not measured"><safe:facility name="none">'
        f'<safe:software name="sartransfer" version="{escape(__version__)}"/></safe:facility></safe:processing>'
        f"<safe:acquisitionPeriod><safe:startTime>{product.time_of(0)}</safe:startTime>"
        f"<safe:stopTime>{product.time_of(product.lines - 1)}</safe:stopTime></safe:acquisitionPeriod>"
        f"<safe:orbitReference>{orbits}<safe:extension><s1:orbitProperties><s1:pass>{product.orbit_pass.upper()}"
        f"</s1:pass><s1:ascendingNodeTime>{product.time_of(0)}</s1:ascendingNodeTime></s1:orbitProperties>"
        "</safe:extension></safe:orbitReference>"
        f"<s1sarl1:productType>GRD</s1sarl1:productType><s1sarl1:missionDataTakeID>{product.orbit}"
        "</s1sarl1:missionDataTakeID>"
        f"{sent}</metadataSection><dataObjectSection>{entries}</dataObjectSection></xfdu:XFDU>\n"
    )


def regular(last: int, step: int) -> Array:
    """Return 0, step, 2 step ... and the last: the lines or pixels at which annotations give their tables."""
    return np.array(sorted({*range(0, last + 1, step), last}), dtype=np.float64)


def stop_after(start: datetime, lines: int, spacing_m: float) -> datetime:
    """Return when the last line was imaged, at Sentinel-1's 6.8 km/s over the ground."""
    return start + timedelta(seconds=max(lines - 1, 1) * spacing_m / 6800.0)


def _write_images(
    folder: Path, product: WrittenProduct, blocks: Iterable[tuple[int, NDArray[np.uint16]]]
) -> None:
    import rasterio
    from rasterio.control import GroundControlPoint
    from rasterio.windows import Window

    g = product.grid
    points = [
        GroundControlPoint(
            row=float(line) + 0.5, col=float(pixel) + 0.5, x=float(g.longitude[i, j]), y=float(g.latitude[i, j]),
            z=float(g.height_m[i, j]),
        )
        for i, line in enumerate(g.lines[::GCP_STEP])
        for j, pixel in enumerate(g.pixels[::GCP_STEP])
    ]  # fmt: skip
    done = 0
    with ExitStack() as stack:
        files = [
            stack.enter_context(
                rasterio.open(
                    folder / f"{product.stem(n, p)}.tiff", "w", driver="GTiff", dtype="uint16", count=1,
                    height=product.lines, width=product.columns, gcps=points, crs="EPSG:4326", bigtiff="if_safer",
                )
            )
            for n, p in enumerate(product.noise, start=1)
        ]  # fmt: skip
        for first, counts in blocks:
            if first != done or counts.shape[0] != len(files) or counts.shape[2] != product.columns:
                raise InputError(
                    f"a block of {counts.shape} at line {first} does not go on from line {done}."
                )
            for file, image in zip(files, counts, strict=True):
                file.write(image, 1, window=Window(0, first, product.columns, len(image)))
            done += counts.shape[1]
    if done != product.lines:
        raise InputError(f"{done} lines were made, {product.lines} are needed.")


def _head(product: WrittenProduct, number: int, polarization: str) -> str:
    return (
        f"<adsHeader><missionId>{escape(product.mission)}</missionId><productType>GRD</productType>"
        f"<polarisation>{polarization}</polarisation><mode>{product.mode}</mode><swath>{product.mode}</swath>"
        f"<startTime>{product.time_of(0)}</startTime><stopTime>{product.time_of(product.lines - 1)}</stopTime>"
        f"<absoluteOrbitNumber>{product.orbit}</absoluteOrbitNumber><missionDataTakeId>{product.orbit}"
        f"</missionDataTakeId><imageNumber>{number:03d}</imageNumber></adsHeader>"
    )


def _list(tag: str, values: Sequence[float] | Array, *, whole: bool = False) -> str:
    text = " ".join(str(int(v)) if whole else f"{v:.9e}" for v in values)
    return f'<{tag} count="{len(values)}">{text}</{tag}>'


def _elevation(incidence_deg: float) -> float:
    # law of sines between the Earth's centre, the antenna and the point
    return float(np.degrees(np.arcsin(6371.0 / (6371.0 + 708.0) * np.sin(np.radians(incidence_deg)))))


def _text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _kind(path: Path) -> str:
    """Return which part of a product a file is, as manifests call it."""
    if path.parent.name == "measurement":
        return "s1Level1MeasurementSchema"
    word = path.name.partition("-")[0]
    return {"calibration": "s1Level1CalibrationSchema", "noise": "s1Level1NoiseSchema"}.get(
        word, "s1Level1ProductSchema"
    )


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
