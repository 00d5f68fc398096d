"""The reader ``mstar``: MSTAR's Phoenix files as distributed, known by their content and never by their ending.

A Phoenix file is an ASCII header between ``[PhoenixHeaderVer01.0x]`` and ``[EndofPhoenixHeader]`` with a line
``key= value`` for each fact, perhaps a native header, and then the magnitude of every pixel followed by the
phase of every pixel, row by row and big-endian. Target chips are float32, full scenes uint16. Endings (.000 to
.030) number the vehicles of one collection, differently in each, and so mean nothing.

Source: MSTAR public release, Sensor Data Management System, US Air Force Research Laboratory; the readers that
come with it (mstar2raw, J. F. Querns, 1998).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError, UnitError
from sartransfer.radar.units import UNKNOWN, parse_unit
from sartransfer.scene import POLARIZATIONS, Band, Scene, Window

MAGIC = b"[PhoenixHeaderVer"
END = b"[EndofPhoenixHeader]"
MOST_BLANK = 64  # bytes before the magic; files begin with one line break
MOST_HEADER = 1 << 16
TYPES = {4: ">f4", 2: ">u2"}
AMPLITUDE = parse_unit("amplitude")


@dataclass(frozen=True, slots=True)
class PhoenixHeader:
    """What a Phoenix file says of itself; facts that it leaves out are None."""

    version: str
    """``01.04`` or ``01.05``."""
    rows: int
    columns: int
    offset: int
    """Bytes before the magnitudes: the Phoenix header and the native one."""
    bytes_per_value: int
    """4: float32, as in target chips; 2: uint16, as in full scenes."""
    target_type: str | None = None
    """As written: ``t72_tank``, ``bmp2_tank``, ``zsu23-4_gun`` ..."""
    serial_number: str | None = None
    """As written: ``132``, ``9563``, ``A64`` ..."""
    azimuth_deg: float | None = None
    """TargetAz: from where the vehicle is seen, 0 to 360."""
    desired_depression_deg: float | None = None
    """What was planned: 15, 17, 30 ..."""
    measured_depression_deg: float | None = None
    polarization: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Every line of the header, as text."""

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1 or self.bytes_per_value not in TYPES:
            raise InputError(
                f"a Phoenix file of {self.rows} x {self.columns} pixels of {self.bytes_per_value} bytes cannot be."
            )

    @property
    def depression_deg(self) -> int | None:
        """The depression in whole degrees: as planned, or as measured where no plan is written."""
        given = (
            self.measured_depression_deg
            if self.desired_depression_deg is None
            else self.desired_depression_deg
        )
        return None if given is None else round(given)


class PhoenixImage(NamedTuple):
    """The numbers of a Phoenix file; unpacks as ``magnitude, phase = read_phoenix(path)``."""

    magnitude: NDArray[np.generic]
    """(H, W) float32 or uint16."""
    phase: NDArray[np.float32] | None
    """(H, W) radians; None for full scenes, whose 16-bit phase has no scale in the header."""


@dataclass(frozen=True, slots=True)
class PhoenixSource:
    """Magnitudes of a Phoenix file; the rows of a window are read, and nothing is kept."""

    path: Path
    header: PhoenixHeader

    def read(self, indices: Sequence[int], window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read the window; what is not finite is not valid."""
        rows = _block(self.path, self.header, 0, window.row, window.height)
        values = np.stack([rows[:, window.slices[1]]] * len(indices))
        return values, np.isfinite(values)


def is_phoenix(path: Path) -> bool:
    """Say whether a file begins as a Phoenix file does; False for folders and for files that are not there."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return MAGIC in file.read(MOST_BLANK + len(MAGIC))


def open_mstar(path: Path, bands: tuple[Band, ...] = ()) -> Scene:
    """Open a Phoenix file: one band ``amplitude``, of the polarization in the header (HH where it names none).

    The header is read now, pixels later. Phase is no band, since radians are no unit that a network could be
    promised: `read_phoenix` returns it. `bands` may name the one band otherwise. Raises `InputError` for a file
    that is none or is damaged, `UnitError` if `bands` declare anything but an amplitude.
    """
    path = Path(path)
    header = read_phoenix_header(path)
    own = Band("amplitude", AMPLITUDE, header.polarization or "HH")
    if len(bands) > 1:
        names = ", ".join(b.name for b in bands)
        raise InputError(f"{path} has one band, amplitude, but {len(bands)} are named: {names}.")
    for band in bands:
        if band.unit not in (UNKNOWN, AMPLITUDE):
            raise UnitError(f"{path}: band {band.name!r} is an amplitude, not {band.unit}. Correct `bands`.")
        if band.polarization not in (None, own.polarization):
            raise InputError(
                f"{path}: band {band.name!r} is {own.polarization} as the file says, but {band.polarization} as "
                "given. Correct `bands`."
            )
        own = replace(band, unit=AMPLITUDE, polarization=own.polarization)
    source = PhoenixSource(path, header)
    return Scene(path.stem, (own,), header.rows, header.columns, source, platform="MSTAR X-band")


def read_phoenix_header(path: str | Path) -> PhoenixHeader:
    """Read the header of a Phoenix file, and check it against the file's size.

    Raises `InputError`, naming the file, if it is missing, is no Phoenix file, has no end of header or lacks a
    key that is needed to read it, or if its size is not what the header says (a truncated download).
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(MOST_HEADER)
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}. Check the path.") from error
    begin = head.find(MAGIC, 0, MOST_BLANK + len(MAGIC))
    if begin < 0:
        raise InputError(
            f"{path} is no Phoenix file: it does not begin with {MAGIC.decode()}..]. MSTAR chips as JPEG are opened "
            "by the reader 'image'."
        )
    end = head.find(END, begin)
    if end < 0:
        raise InputError(f"{path} is truncated: {END.decode()} does not follow. Download it again.")
    first, *lines = head[begin:end].decode("latin-1").splitlines()
    fields: dict[str, str] = {}
    for line in lines:
        key, equals, value = line.partition("=")
        if equals:
            fields.setdefault(key.strip(), value.strip())
    length = _whole(path, fields, "PhoenixHeaderLength")
    if length < end + len(END):
        raise InputError(
            f"{path}: PhoenixHeaderLength= {length}, but the header ends at byte {end + len(END)} only."
        )
    offset = length + _whole(path, fields, "native_header_length")
    rows, columns = _whole(path, fields, "NumberOfRows"), _whole(path, fields, "NumberOfColumns")
    return PhoenixHeader(
        version=first.removeprefix(MAGIC.decode()).rstrip("] \t"),
        rows=rows,
        columns=columns,
        offset=offset,
        bytes_per_value=_bytes_per_value(
            path, _whole(path, fields, "PhoenixSigSize"), size, offset, rows, columns
        ),
        target_type=fields.get("TargetType") or None,
        serial_number=fields.get("TargetSerNum") or None,
        azimuth_deg=_number(path, fields, "TargetAz"),
        desired_depression_deg=_number(path, fields, "DesiredDepression"),
        measured_depression_deg=_number(path, fields, "MeasuredDepression"),
        polarization=_polarization(path, fields.get("Polarization", "")),
        fields=fields,
    )


def read_phoenix(path: str | Path) -> PhoenixImage:
    """Read magnitude and phase of a Phoenix file, whole; raises `InputError` as `read_phoenix_header` does."""
    path = Path(path)
    header = read_phoenix_header(path)
    magnitude = _block(path, header, 0, 0, header.rows)
    if header.bytes_per_value != 4:
        return PhoenixImage(magnitude, None)
    return PhoenixImage(magnitude, _block(path, header, 1, 0, header.rows).astype(np.float32))


def _block(path: Path, header: PhoenixHeader, layer: int, row: int, count: int) -> NDArray[np.generic]:
    """Read `count` rows of magnitude (layer 0) or phase (layer 1) in the byte order of this machine."""
    kind = np.dtype(TYPES[header.bytes_per_value])
    begin = header.offset + kind.itemsize * header.columns * (layer * header.rows + row)
    values = np.fromfile(path, dtype=kind, count=count * header.columns, offset=begin)
    if values.size != count * header.columns:
        raise InputError(f"{path} is shorter than when it was opened. Is it being written?")
    return values.reshape(count, header.columns).astype(kind.newbyteorder("="))


def _bytes_per_value(path: Path, told: int, size: int, offset: int, rows: int, columns: int) -> int:
    if size != told:
        fault = "truncated" if size < told else "damaged, or holds more than one image"
        raise InputError(
            f"{path} has {size} bytes, and {told} as its header says (PhoenixSigSize): it is {fault}. "
            "Download it again."
        )
    for width in TYPES:
        if rows * columns and told == offset + 2 * width * rows * columns:
            return width
    raise InputError(
        f"{path}: {told - offset} bytes of data are not magnitude and phase of {rows} x {columns} pixels, neither in "
        f"float32 ({8 * rows * columns} bytes) nor in uint16 ({4 * rows * columns})."
    )


def _whole(path: Path, fields: Mapping[str, str], key: str) -> int:
    if key not in fields:
        raise InputError(f"{path}: its Phoenix header lacks {key!r}. Is the file damaged? Download it again.")
    if not re.fullmatch(r"\d{1,12}", fields[key]):
        raise InputError(f"{path}: {key}= {fields[key]!r} is no whole number.")
    return int(fields[key])


def _number(path: Path, fields: Mapping[str, str], key: str) -> float | None:
    text = fields.get(key)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise InputError(f"{path}: {key}= {text!r} is no number.")
    return value


def _polarization(path: Path, text: str) -> str | None:
    if not text:
        return None
    if text.upper() not in POLARIZATIONS:
        raise InputError(f"{path}: Polarization= {text!r} is not one of {', '.join(POLARIZATIONS)}.")
    return text.upper()
