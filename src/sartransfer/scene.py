"""Scene: bands on one grid, read lazily by window, with a valid mask; a 64 px chip is a small scene."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError, UnitError, one_of
from sartransfer.radar.units import UNKNOWN, Unit, convert, parse_unit

POLARIZATIONS = ("HH", "HV", "VH", "VV")
CACHED_PIXELS = 2**17  # of float32: half a MiB, a few of which the second level of the cache holds


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of pixels: first row and column, height and width."""

    row: int
    col: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or self.row < 0 or self.col < 0:
            raise InputError(f"{self} is not a window: row and col from 0, height and width from 1.")

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slices that cut this window out of an (H, W) array."""
        return slice(self.row, self.row + self.height), slice(self.col, self.col + self.width)

    def is_inside(self, height: int, width: int) -> bool:
        """Say whether the window lies wholly in a grid of this height and width."""
        return self.row + self.height <= height and self.col + self.width <= width


@dataclass(frozen=True, slots=True)
class Band:
    """One layer of a scene and what its numbers are."""

    name: str
    """What the band is called here: ``sigma0_hh_db``, ``before``, ``red`` ..."""
    unit: Unit = UNKNOWN
    """Quantity and scale; unknown until somebody says so."""
    polarization: str | None = None
    """HH, HV, VH or VV; None where there is none (an angle, an optical band)."""
    role: str | None = None
    """What the band is to the task: ``reference`` (before), ``flood`` (after) ..."""
    time: datetime | None = None
    """When it was acquired, where that differs between bands."""

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("a band needs a name.")
        if self.polarization is not None and self.polarization not in POLARIZATIONS:
            raise UnitError(one_of("polarization", self.polarization, POLARIZATIONS))


_BAND = re.compile(
    r"(?P<name>[^=:@/,|]+)(=(?P<unit>\w+))?(:(?P<polarization>\w+|-))?(@(?P<role>[^=:@/,|]+))?(/(?P<time>[^,|@]+))?"
)


def parse_bands(text: str) -> tuple[Band, ...]:
    """Read bands from text, in file order: ``name=unit[:POL][@role][/time]``, separated by commas.

    ``VV=sigma0_db,VH=sigma0_db``, ``before=digital_number@reference,after=digital_number@flood``,
    ``hh=sigma0:HH/2021-01-01T06:00:00``. Units are `radar.units.UNIT_NAMES`; a name alone is of unknown
    unit. A band that is named as a polarization has it; ``:-`` says that it has none. Empty text is no bands.
    Raises `InputError` for text that does not parse, `UnitError` for a unit or polarization not known.
    """
    bands = []
    for part in (p.strip() for p in text.split(",")) if text.strip() else ():
        match = _BAND.fullmatch(part)
        if match is None:
            raise InputError(
                f"band {part!r} is not of the form name=unit[:POL][@role][/time] (VV=sigma0_db)."
            )
        name, role, stamp = match["name"].strip(), match["role"], match["time"]
        polarization = match["polarization"] or (name.upper() if name.upper() in POLARIZATIONS else None)
        try:
            time = datetime.fromisoformat(stamp) if stamp else None
        except ValueError as error:
            raise InputError(
                f"band {name!r}: time {stamp!r} is not ISO 8601 (2021-01-01T06:00:00)."
            ) from error
        bands.append(
            Band(
                name,
                unit=parse_unit(match["unit"]) if match["unit"] else UNKNOWN,
                polarization=None if polarization in (None, "-") else polarization.upper(),
                role=role.strip() if role else None,
                time=time,
            )
        )
    return tuple(bands)


def format_bands(bands: Sequence[Band]) -> str:
    """Write bands as text that `parse_bands` reads back equal; raises `InputError` where that cannot be."""
    parts = []
    for band in bands:
        text = f"{band.name}={band.unit}"
        implied = band.name.upper() if band.name.upper() in POLARIZATIONS else None
        if band.polarization != implied:
            text += f":{band.polarization or '-'}"
        text += f"@{band.role}" if band.role else ""
        parts.append(text + (f"/{band.time.isoformat()}" if band.time else ""))
    text = ",".join(parts)
    if parse_bands(text) != tuple(bands):
        raise InputError(
            f"bands cannot be written as {text!r}: a name or role must not hold any of = : @ / , |"
        )
    return text


def choose_bands(where: object, own: Sequence[Band], bands: Sequence[Band]) -> list[int]:
    """Return the places in a product's `own` bands of those that were asked for; none asked for: all.

    Raises `InputError` for a band that is not there, `UnitError` for one that is declared to be something else;
    `where` is what errors call the product.
    """
    names = [b.name for b in own]
    chosen = []
    for band in bands:
        if band.name not in names:
            raise InputError(f"{where}: {one_of('band', band.name, names)}")
        mine = own[names.index(band.name)]
        if band.unit not in (UNKNOWN, mine.unit):
            raise UnitError(f"{where}: band {band.name!r} is {mine.unit}, not {band.unit}. Correct `bands`.")
        chosen.append(names.index(band.name))
    return chosen or list(range(len(own)))


class Reading(NamedTuple):
    """What `Scene.read` returns; it unpacks as ``data, valid = scene.read()``."""

    data: NDArray[np.float32]
    """(B, H, W), in the asked units; NaN where a band has no value."""
    valid: NDArray[np.bool_]
    """(H, W), True where every band that was read has a value."""


class Source(Protocol):
    """Where a scene's pixels come from.

    One that says ``gives_new_arrays = True`` has each `read` make arrays that nobody else holds: a scene works in them.
    """

    def read(self, indices: Sequence[int], window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Return values (B, h, w) of the bands at `indices` (from 0) and their validity (B, h, w)."""
        ...


@dataclass(frozen=True, slots=True)
class ArraySource:
    """Pixels already in memory."""

    values: NDArray[np.generic]
    """(B, H, W)."""
    valid: NDArray[np.bool_] | None = None
    """(B, H, W) or (H, W); None: every finite value is valid."""

    def read(self, indices: Sequence[int], window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Cut the window out."""
        rows, cols = window.slices
        values = self.values[list(indices), rows, cols]
        if self.valid is None:
            return values, np.isfinite(values)
        valid = self.valid if self.valid.ndim == 3 else np.broadcast_to(self.valid, self.values.shape)
        return values, valid[list(indices), rows, cols]


@dataclass(frozen=True, slots=True)
class GeoReference:
    """Where a scene is on Earth: a coordinate reference system and an affine transform, or control points."""

    crs: str | None = None
    """As WKT or an authority code; None where it is not known."""
    transform: tuple[float, float, float, float, float, float] | None = None
    """(a, b, c, d, e, f): x = a col + b row + c, y = d col + e row + f; pixel corners, CRS units."""
    gcps: tuple[tuple[float, float, float, float, float], ...] = ()
    """Ground control points (row, col, x, y, z) where no affine transform is true."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Bands on one grid, each with its unit; nothing is read before `read` is called."""

    id: str
    bands: tuple[Band, ...]
    height: int
    """Rows."""
    width: int
    """Columns."""
    source: Source = field(repr=False)
    georeference: GeoReference = GeoReference()
    time: datetime | None = None
    platform: str | None = None

    def __post_init__(self) -> None:
        if not self.bands:
            raise InputError(f"scene {self.id!r} has no bands.")
        names = [b.name for b in self.bands]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise InputError(f"scene {self.id!r} has two bands of one name: {', '.join(twice)}.")
        if self.height < 1 or self.width < 1:
            raise InputError(f"scene {self.id!r} is empty: {self.height} x {self.width} pixels.")

    @property
    def window(self) -> Window:
        """The whole scene as a window."""
        return Window(0, 0, self.height, self.width)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the bands, in order."""
        return tuple(b.name for b in self.bands)

    def central_window(self, side: int) -> Window:
        """The square of `side` pixels at the scene's centre, cut to the scene where it is smaller."""
        height, width = min(side, self.height), min(side, self.width)
        return Window((self.height - height) // 2, (self.width - width) // 2, height, width)

    def band(self, name: str) -> Band:
        """Return the band called `name`; raises `InputError` with the nearest name if there is none."""
        for band in self.bands:
            if band.name == name:
                return band
        raise InputError(f"scene {self.id!r}: " + one_of("band", name, self.names))

    def read(
        self,
        bands: Sequence[str] | None = None,
        window: Window | None = None,
        *,
        units: Mapping[str, Unit | str] | Unit | str | None = None,
    ) -> Reading:
        """Read bands of one window, in the asked units.

        Args:
            bands: names, in the order wanted; None: all.
            window: a rectangle inside the scene; None: the whole scene.
            units: the unit wanted for every band, or by band name; None: as stored.

        Returns:
            `Reading`: data (B, H, W) float32 with NaN where a band has no value, and valid (H, W), True where
            all of these bands have one. A value that has no image in the asked unit (the decibel of zero) is
            not valid.

        Raises:
            InputError: no band of that name, or a window that leaves the scene.
            UnitError: a conversion that is not known, naming both sides.
        """
        wanted = self.names if bands is None else tuple(bands)
        chosen = [self.band(n) for n in wanted]
        window = window or self.window
        if not window.is_inside(self.height, self.width):
            raise InputError(
                f"{window} leaves scene {self.id!r} of {self.height} x {self.width} pixels; "
                "cut it to the scene first."
            )
        targets = [self._target(band, units) for band in chosen]
        raw, known = self.source.read([self.names.index(n) for n in wanted], window)
        if getattr(self.source, "gives_new_arrays", False) and raw.dtype == np.float32:
            data = cast(NDArray[np.float32], raw)
        else:
            data = np.empty(raw.shape, dtype=np.float32)
        valid = np.empty(raw.shape[1:], dtype=np.bool_)
        for rows in row_blocks(*raw.shape):
            part, good = data[:, rows], known[:, rows]
            for i, (band, target) in enumerate(zip(chosen, targets, strict=True)):
                if data is not raw:
                    part[i] = raw[i, rows]
                if target is not None:
                    part[i] = convert(part[i], band.unit, target)
            good = good & np.isfinite(part)
            if not good.all():
                part[~good] = np.nan
            np.logical_and.reduce(good, out=valid[rows])
        return Reading(data, valid)

    @staticmethod
    def _target(band: Band, units: Mapping[str, Unit | str] | Unit | str | None) -> Unit | None:
        wanted = units.get(band.name) if isinstance(units, Mapping) else units
        return parse_unit(wanted) if isinstance(wanted, str) else wanted


def row_blocks(bands: int, height: int, width: int) -> Iterator[slice]:
    """Cut (bands, height, width) pixels into blocks of rows that stay in the processor's cache while one works on them.

    Numpy takes 2 ns a pixel for what one reading asks of such a block, and 29 where each step's array is new memory.
    """
    step = max(1, CACHED_PIXELS // max(1, bands * width))
    return (slice(first, min(height, first + step)) for first in range(0, height, step))


def as_utc(time: datetime) -> datetime:
    """Return a time in UTC, to compare it with others; one that names no zone is UTC, as radar products write it."""
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
