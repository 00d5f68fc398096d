"""Simulated Sentinel-1 GRD products in the real layout, written without the package's code."""

import warnings
import zipfile
from dataclasses import dataclass, field, replace

import numpy as np
import rasterio
from rasterio.control import GroundControlPoint

EARTH = 6371e3  # of the sphere on which the simulated swath lies
STAMP = "20180116t075430-20180116t075530-020177-0226b9"


@dataclass(frozen=True)
class Swath:
    """A right-looking swath along a great circle: latitude and longitude in closed form."""

    spacing: float = 40.0
    latitude: float = 78.0
    longitude: float = -5.0
    heading: float = 200.0

    def __call__(self, line, pixel):
        """Degrees at pixel centres, counted from 0."""
        lat, lon, head = np.radians([self.latitude, self.longitude, self.heading])
        start = np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
        north = np.array([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)])
        ahead = np.cos(head) * north + np.sin(head) * np.cross(north, start)
        right = np.cross(ahead, start)
        u, v = np.broadcast_arrays(
            np.multiply(line, self.spacing / EARTH), np.multiply(pixel, self.spacing / EARTH)
        )
        track = np.cos(u)[..., None] * start + np.sin(u)[..., None] * ahead
        x, y, z = np.moveaxis(np.cos(v)[..., None] * track + np.sin(v)[..., None] * right, -1, 0)
        return np.degrees(np.arcsin(z)), np.degrees(np.arctan2(y, x))


def polar_stereographic(latitude, longitude):
    """EPSG:3413, from Snyder, Map Projections - A Working Manual (USGS 1395), p. 161: WGS 84, 70 N, 45 W."""
    a, e = 6378137.0, 0.0818191908426215

    def t(phi):
        s = e * np.sin(phi)
        return np.tan(np.pi / 4 - phi / 2) / ((1 - s) / (1 + s)) ** (e / 2)

    phi, lam, true = np.radians(latitude), np.radians(longitude) + np.pi / 4, np.radians(70.0)
    m = np.cos(true) / np.sqrt(1 - (e * np.sin(true)) ** 2)
    rho = a * m * t(phi) / t(true)
    return rho * np.sin(lam), -rho * np.cos(lam)


def angle_at(pixel, columns):
    """The simulated incidence angle: 19 to 47 degrees, as in EW, steeper growth in near range."""
    share = np.asarray(pixel) / (columns - 1)
    return 19.0 + 34.0 * share - 6.0 * share**2


@dataclass(frozen=True)
class Simulated:
    """What a simulated product holds; every table is a function of line and pixel."""

    counts: dict  # polarization -> (rows, columns) uint16
    mission: str = "S1A"
    mode: str = "EW"
    processor: str = "003.52"
    noise: str = "new"  # new, old, unscaled, none, removed
    swath: Swath = field(default_factory=Swath)
    step: int = 20  # lines and pixels between points of the geolocation grid
    kind: str = "GRD"
    blocks: tuple = ()  # (swath, first line, last line, first pixel, last pixel, lines, factors)
    range_noise: object = None  # pixels, line -> values; None: 250 + pixel + line / 10
    height: object = None  # line, pixel -> metres
    slant_range: object = None

    @property
    def shape(self):
        return next(iter(self.counts.values())).shape

    def table(self, quantity, line, pixel):
        """A of the calibration annotation: linear in both, so that bilinear interpolation is exact."""
        base = {"sigmaNought": 600.0, "betaNought": 450.0, "gamma": 550.0, "dn": 450.0}[quantity]
        return base + 0 * pixel if quantity in ("betaNought", "dn") else base - 0.5 * pixel + 0.25 * line


def marks(last, step):
    """0, step, 2 step ... and the last: the points of an annotation's tables."""
    return sorted({*range(0, last + 1, step), last})


def words(values):
    return " ".join(f"{v:.6e}" if isinstance(v, float) else str(v) for v in values)


def head(product, polarization):
    return (
        f"<adsHeader><missionId>{product.mission}</missionId><productType>{product.kind}</productType>"
        f"<polarisation>{polarization}</polarisation><mode>{product.mode}</mode><swath>{product.mode}</swath>"
        "<startTime>2018-01-16T07:54:30.125000</startTime><stopTime>2018-01-16T07:55:30.500000</stopTime>"
        "<absoluteOrbitNumber>20177</absoluteOrbitNumber><missionDataTakeId>140985</missionDataTakeId>"
        "<imageNumber>001</imageNumber></adsHeader>"
    )


def annotation_xml(product, polarization):
    rows, columns = product.shape
    lines, pixels = marks(rows - 1, product.step), marks(columns - 1, product.step)
    height = product.height or (lambda line, pixel: 0.0)
    slant = product.slant_range or (lambda line, pixel: 8e5 + 20.0 * pixel)
    points = []
    for line in lines:
        for pixel in pixels:
            lat, lon = product.swath(line, pixel)
            points.append(
                "<geolocationGridPoint><azimuthTime>2018-01-16T07:54:30.125000</azimuthTime>"
                f"<slantRangeTime>{float(slant(line, pixel)) * 2 / 299792458.0:.15e}</slantRangeTime>"
                f"<line>{line}</line><pixel>{pixel}</pixel><latitude>{float(lat):.15e}</latitude>"
                f"<longitude>{float(lon):.15e}</longitude><height>{float(height(line, pixel)):.15e}</height>"
                f"<incidenceAngle>{float(angle_at(pixel, columns)):.15e}</incidenceAngle>"
                "<elevationAngle>2.0e+01</elevationAngle></geolocationGridPoint>"
            )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<product>{head(product, polarization)}'
        "<generalAnnotation><productInformation><pass>Descending</pass></productInformation></generalAnnotation>"
        "<imageAnnotation><imageInformation>"
        "<productFirstLineUtcTime>2018-01-16T07:54:30.125000</productFirstLineUtcTime>"
        f"<rangePixelSpacing>{product.swath.spacing:e}</rangePixelSpacing>"
        f"<azimuthPixelSpacing>{product.swath.spacing:e}</azimuthPixelSpacing>"
        f"<numberOfSamples>{columns}</numberOfSamples><numberOfLines>{rows}</numberOfLines></imageInformation>"
        "<processingInformation><thermalNoiseCorrectionPerformed>"
        f"{'true' if product.noise == 'removed' else 'false'}</thermalNoiseCorrectionPerformed>"
        "</processingInformation></imageAnnotation>"
        f'<geolocationGrid><geolocationGridPointList count="{len(points)}">{"".join(points)}'
        "</geolocationGridPointList></geolocationGrid></product>"
    )


def calibration_xml(product, polarization):
    rows, columns = product.shape
    vectors = []
    for line in (*marks(rows - 1, 16), rows + 20):  # real products go on beyond the last line too
        pixels = np.array(marks(columns - 1, 11))
        tables = "".join(
            f'<{q} count="{len(pixels)}">{words([float(v) for v in product.table(q, line, pixels)])}</{q}>'
            for q in ("sigmaNought", "betaNought", "gamma", "dn")
        )
        vectors.append(
            f"<calibrationVector><azimuthTime>2018-01-16T07:54:30.125000</azimuthTime><line>{line}</line>"
            f'<pixel count="{len(pixels)}">{words(pixels)}</pixel>{tables}</calibrationVector>'
        )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<calibration>{head(product, polarization)}<calibrationInformation>'
        "<absoluteCalibrationConstant>1.000000e+00</absoluteCalibrationConstant></calibrationInformation>"
        f'<calibrationVectorList count="{len(vectors)}">{"".join(vectors)}</calibrationVectorList></calibration>'
    )


def noise_xml(product, polarization):
    rows, columns = product.shape
    pixels = np.array(marks(columns - 1, 9))
    scale = {"unscaled": 1 / (56065.87 * 450.0), "none": 0.0}.get(product.noise, 1.0)
    old = product.noise in ("old", "unscaled", "none")
    tag, lut = ("noiseVector", "noiseLut") if old else ("noiseRangeVector", "noiseRangeLut")
    vectors = []
    for line in marks(rows - 1, 15):
        if product.range_noise:
            places, values = product.range_noise(line)
        else:
            places, values = pixels, 250.0 + pixels + line / 10
        vectors.append(
            f"<{tag}><azimuthTime>2018-01-16T07:54:30.125000</azimuthTime><line>{line}</line>"
            f'<pixel count="{len(places)}">{words(places)}</pixel>'
            f'<{lut} count="{len(places)}">{words([float(v) * scale for v in values])}</{lut}></{tag}>'
        )
    azimuth = ""
    if not old:
        lines = marks(rows - 1, 10)
        blocks = product.blocks or (
            (f"{product.mode}1", 0, rows - 1, 0, columns - 1, lines, [1 + i / 1000 for i in lines]),
        )
        azimuth = "".join(
            f"<noiseAzimuthVector><swath>{swath}</swath><firstAzimuthLine>{first}</firstAzimuthLine>"
            f"<firstRangeSample>{left}</firstRangeSample><lastAzimuthLine>{last}</lastAzimuthLine>"
            f'<lastRangeSample>{right}</lastRangeSample><line count="{len(at)}">{words(at)}</line>'
            f'<noiseAzimuthLut count="{len(at)}">{words([float(f) for f in factors])}</noiseAzimuthLut>'
            "</noiseAzimuthVector>"
            for swath, first, last, left, right, at, factors in blocks
        )
        azimuth = f'<noiseAzimuthVectorList count="1">{azimuth}</noiseAzimuthVectorList>'
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<noise>{head(product, polarization)}'
        f'<{tag}List count="{len(vectors)}">{"".join(vectors)}</{tag}List>{azimuth}</noise>'
    )


def manifest_xml(product):
    sent = "".join(
        f"<s1sarl1:transmitterReceiverPolarisation>{p}</s1sarl1:transmitterReceiverPolarisation>"
        for p in product.counts
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<xfdu:XFDU xmlns:xfdu="urn:ccsds:schema:xfdu:1" xmlns:safe="http://www.esa.int/safe/sentinel-1.0" '
        'xmlns:s1sarl1="http://www.esa.int/safe/sentinel-1.0/sentinel-1/sar/level-1"><metadataSection>'
        '<safe:processing name="GRD Post Processing"><safe:facility country="Italy">'
        f'<safe:software name="Sentinel-1 IPF" version="{product.processor}"/></safe:facility></safe:processing>'
        '<safe:orbitReference><safe:orbitNumber type="start">20177</safe:orbitNumber>'
        '<safe:relativeOrbitNumber type="start">155</safe:relativeOrbitNumber></safe:orbitReference>'
        f"{sent}</metadataSection></xfdu:XFDU>"
    )


def write_counts(path, counts, swath, step=20):
    """A strip TIFF of 16 bits with ground control points, as measurements are."""
    rows, columns = counts.shape
    points = [
        GroundControlPoint(
            row=line, col=pixel, x=float(swath(line, pixel)[1]), y=float(swath(line, pixel)[0])
        )
        for line in marks(rows - 1, step)
        for pixel in marks(columns - 1, step)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            dtype="uint16",
            count=1,
            height=rows,
            width=columns,
            gcps=points,
            crs="EPSG:4326",
        ) as file:
            file.write(counts.astype(np.uint16), 1)


def file_names(product, *, flat):
    """Polarization -> (annotation, calibration, noise, measurement), as in a SAFE or in a cloud archive."""
    names = {}
    for number, polarization in enumerate(product.counts, start=1):
        mode, pol = product.mode.lower(), polarization.lower()
        stem = f"{mode}-{pol}" if flat else f"{product.mission.lower()}-{mode}-grd-{pol}-{STAMP}-{number:03d}"
        names[polarization] = (
            f"annotation/{stem}.xml",
            f"annotation/calibration/calibration-{stem}.xml",
            f"annotation/calibration/noise-{stem}.xml",
            f"measurement/{stem}.tiff",
        )
    return names


def product_name(product):
    kind = "GRDM" if product.mode == "EW" else "GRDH"
    letters = "DH" if "HH" in product.counts else "DV"
    return f"{product.mission}_{product.mode}_{kind}_1S{letters}_20180116T075430_20180116T075530_020177_0226B9_6D37"


def write_product(parent, product, *, flat=False):
    """Write a product as a SAFE folder, or (`flat`) as public cloud archives lay it out; returns its folder."""
    folder = parent / (product_name(product) + ("" if flat else ".SAFE"))
    for inner in ("annotation/calibration", "annotation/rfi", "measurement", "preview", "support"):
        (folder / inner).mkdir(parents=True)
    (folder / "manifest.safe").write_text(manifest_xml(product))
    (folder / "preview/map-overlay.kml").write_text("<kml/>")
    for polarization, names in file_names(product, flat=flat).items():
        writers = (annotation_xml, calibration_xml, noise_xml)
        for name, writer in zip(names, writers, strict=False):
            (folder / name).write_text(writer(product, polarization))
        (folder / "annotation/rfi" / ("rfi-" + names[0].split("/")[1])).write_text("<rfi/>")
        write_counts(folder / names[3], product.counts[polarization], product.swath, product.step)
    return folder


def zip_product(folder, path, *, prefix=None):
    """Pack a product as agencies do: one folder, deflated; `prefix` "": its files bare."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                inner = file.relative_to(folder).as_posix()
                archive.write(file, (f"{folder.name}/" if prefix is None else prefix) + inner)
    return path


def make_product(rng, rows=60, columns=80, polarizations=("HH", "HV"), **fields):
    """A product of random counts, none of them 0."""
    counts = {p: rng.integers(30, 900, (rows, columns)).astype(np.uint16) for p in polarizations}
    return replace(Simulated(counts), **fields)
