"""What the annotation of a TerraSAR-X or TanDEM-X L1B product says, of its pixels and of where they lie.

Source: TerraSAR-X Level 1b Product Format Specification, DLR TX-GS-DD-3307.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element

from sartransfer.errors import InputError, one_of
from sartransfer.readers.xml import read_number, read_text, read_xml
from sartransfer.scene import POLARIZATIONS

_text = partial(read_text, kind="a TerraSAR-X L1B annotation")
_number = partial(read_number, kind="a TerraSAR-X L1B annotation")

DETECTED = ("MGD", "GEC", "EEC")
ROOT = "level1Product"
HEAD = 4096  # bytes within which the annotation names its root


@dataclass(frozen=True, slots=True)
class Corner:
    """A point of the scene for which the annotation gives the incidence angle."""

    row: float | None
    """From 0 at the centre of the first pixel; None where it is not given."""
    column: float | None
    latitude: float
    longitude: float
    incidence_angle_deg: float


@dataclass(frozen=True, slots=True)
class Layer:
    """The image of one polarization."""

    polarization: str
    path: Path
    calibration_factor: float | None
    """calFactor: beta0 = calFactor DN^2; None for products that are not calibrated."""


@dataclass(frozen=True, slots=True)
class TerraSarXProduct:
    """What the annotation of a product says."""

    path: Path
    """The annotation."""
    product_type: str
    """MGD (ground range), GEC (on the ellipsoid) or EEC (on a terrain model)."""
    mission: str
    """``TSX-1``, ``TDX-1`` ..."""
    orbit_direction: str
    """ASCENDING or DESCENDING."""
    look_direction: str
    """RIGHT or LEFT."""
    start: datetime
    rows: int
    columns: int
    layers: tuple[Layer, ...]
    corners: tuple[Corner, Corner, Corner, Corner]
    center: Corner


def read_terrasarx_annotation(path: str | Path) -> TerraSarXProduct:
    """Read the annotation of a product, given its folder or the annotation itself.

    Errors as in `terrasarx.open_terrasarx`, as far as they concern the annotation.
    """
    annotation = find_annotation(Path(path))
    root = read_xml(annotation)
    if root.tag != ROOT:
        raise InputError(f"{annotation} is no TerraSAR-X annotation: its root is {root.tag}, not {ROOT}.")
    info, where = "productInfo/", str(annotation)
    product_type = _text(root, where, info + "productVariantInfo/productVariant").upper()
    if product_type not in DETECTED:
        raise InputError(
            f"{annotation}: {one_of('product variant', product_type, DETECTED)} Complex products (SSC) are not read: "
            "order the detected product, or detect it first."
        )
    calibrated = root.findtext(info + "productVariantInfo/radiometricCorrection", "CALIBRATED")
    points = root.findall(info + "sceneInfo/sceneCornerCoord")
    if len(points) != 4:
        raise InputError(f"{annotation} gives {len(points)} corners of the scene, not 4. Is it whole?")
    first, second, third, fourth = (_corner(p, where) for p in points)
    center = root.find(info + "sceneInfo/sceneCenterCoord")
    if center is None:
        raise InputError(f"{annotation} does not say {info}sceneInfo/sceneCenterCoord. Is it whole?")
    start = _text(root, where, info + "sceneInfo/start/timeUTC")
    try:
        time = datetime.fromisoformat(start)
    except ValueError as error:
        raise InputError(f"{annotation}: the start time {start!r} is not ISO 8601.") from error
    return TerraSarXProduct(
        path=annotation,
        product_type=product_type,
        mission=_text(root, where, info + "missionInfo/mission"),
        orbit_direction=_text(root, where, info + "missionInfo/orbitDirection"),
        look_direction=_text(root, where, info + "acquisitionInfo/lookDirection"),
        start=time,
        rows=int(_number(root, where, info + "imageDataInfo/imageRaster/numberOfRows")),
        columns=int(_number(root, where, info + "imageDataInfo/imageRaster/numberOfColumns")),
        layers=_layers(root, annotation, calibrated.upper() == "CALIBRATED"),
        corners=(first, second, third, fourth),
        center=_corner(center, where),
    )


def find_annotation(path: Path) -> Path:
    """Return the annotation of a product, given its folder or itself; `InputError` if a folder has not just one."""
    if not path.is_dir():
        return path
    own = path / f"{path.name}.xml"
    if own.is_file():
        return own
    found = [p for p in sorted(path.glob("*.xml")) if is_annotation(p)]
    if len(found) != 1:
        raise InputError(
            f"{path} holds {len(found)} annotations (XML files with the root {ROOT}) and none of its own name; one was "
            "expected. Give the folder of one product, or the annotation itself."
        )
    return found[0]


def is_annotation(path: Path) -> bool:
    """Say whether a file is an XML file whose root, within its first bytes, is that of an annotation."""
    if path.suffix.lower() != ".xml" or not path.is_file():
        return False
    with path.open("rb") as file:
        return f"<{ROOT}".encode() in file.read(HEAD)


def _layers(root: Element, annotation: Path, calibrated: bool) -> tuple[Layer, ...]:
    where = str(annotation)
    factors: dict[str, set[float]] = {}
    for constant in root.findall("calibration/calibrationConstant") if calibrated else ():
        factor = _number(constant, where, "calFactor")
        if factor <= 0:
            raise InputError(f"{annotation}: calFactor {factor} cannot be: it is above 0.")
        factors.setdefault(_text(constant, where, "polLayer").upper(), set()).add(factor)
    layers = []
    for image in root.findall("productComponents/imageData"):
        polarization = _text(image, where, "polLayer").upper()
        if polarization not in POLARIZATIONS:
            raise InputError(f"{annotation}: {one_of('polLayer', polarization, POLARIZATIONS)}")
        mine = factors.get(polarization, set())
        if calibrated and len(mine) != 1:
            raise InputError(
                f"{annotation}: {len(mine)} calibration factors for {polarization}, one was expected."
            )
        layers.append(Layer(polarization, _inside(annotation, image), next(iter(mine), None)))
    names = [layer.polarization for layer in layers]
    if not layers or len(set(names)) != len(names):
        raise InputError(f"{annotation} names images of {', '.join(names) or 'no polarization'}.")
    return tuple(layers)


def _inside(annotation: Path, image: Element) -> Path:
    """Return the file that the annotation names, which must lie in the product's folder."""
    folder = annotation.parent
    name = _text(image, str(annotation), "file/location/filename")
    path = folder / (image.findtext("file/location/path") or "") / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{annotation} names the image {path}, which is not in the product's folder: refused. Take the product as "
            "it was delivered."
        )
    return path


def _corner(point: Element, where: str) -> Corner:
    row, column = point.find("refRow"), point.find("refColumn")
    angle = _number(point, where, "incidenceAngle")
    if not 0 < angle < 90:
        raise InputError(f"{where}: an incidence angle of {angle} degrees cannot be: 0 to 90.")
    return Corner(
        None if row is None else _number(point, where, "refRow") - 1,  # counted from 1
        None if column is None else _number(point, where, "refColumn") - 1,
        _number(point, where, "lat"),
        _number(point, where, "lon"),
        angle,
    )
