"""What a network expects of a scene: its bands, their units and their normalization."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError, UnitError
from sartransfer.radar.units import (
    COUNTS,
    ROUNDING,
    Quantity,
    Scale,
    Unit,
    can_convert,
    implausible,
    parse_unit,
)
from sartransfer.scene import Band, Reading, Scene, Window, row_blocks

FAR = 3.0  # training standard deviations between a scene's mean and training's that earn a warning
NOTHING = 0.02  # below every other whole number, as log2 of 1 too (.0625)
SPREAD = 3.0  # times smaller or larger than in training from where on a standard deviation does
BLACK = 0.01  # share of a scene, and of its outermost pixels, that are exactly 0; most of OMBRIA's have under .002


@dataclass(frozen=True, slots=True)
class InputBand:
    """One input of a network: a band of the scene, or the difference of two of its bands."""

    name: str
    unit: str
    """What the numbers must be, e.g. ``sigma0_db`` (see `radar.units.UNIT_NAMES`)."""
    polarization: str | None = None
    role: str | None = None
    difference: tuple[str, str] | None = None
    """(a, b): this input is a - b, two bands of the scene, each in `unit`."""
    mean: float = 0.0
    """Mean over valid training pixels, in `unit`."""
    std: float = 1.0
    """Standard deviation over valid training pixels, in `unit`."""

    def __post_init__(self) -> None:
        parse_unit(self.unit)
        largest, smallest = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)
        if not abs(self.mean) <= largest or not smallest <= self.std <= largest:  # scenes are float32
            raise InputError(
                f"input {self.name!r} cannot be normalized with mean {self.mean} and std {self.std}: "
                "is the band constant, or are there pixels of -3.4e38, a nodata that the files do not declare?"
            )


@dataclass(frozen=True, slots=True)
class InputContract:
    """All inputs of a network, in the order of its channels."""

    bands: tuple[InputBand, ...]

    def read(self, scene: Scene, window: Window | None = None, *, normalize: bool = True) -> Reading:
        """Read a window of `scene` as the network wants it: (C, H, W) float32, and valid (H, W).

        Normalized to (x - mean) / std; pixels without a value are 0 then (the training mean), and NaN with
        ``normalize=False``. Raises `InputError` for a missing band, `UnitError` for a unit that cannot be
        turned into the expected one.
        """
        sources = self._sources(scene)
        units = [parse_unit(band.unit) for band in self.bands]
        passes: list[dict[str, Unit]] = []  # one, unless a band is wanted in two units
        for names, unit in zip(sources, units, strict=True):
            for name in names:
                free = next((p for p in passes if p.get(name, unit) == unit), None)
                if free is None:
                    passes.append({name: unit})
                else:
                    free[name] = unit
        values: dict[tuple[str, Unit], NDArray[np.float32]] = {}
        masks = []
        for wanted in passes:
            data, mask = scene.read(list(wanted), window, units=wanted)
            values.update(zip(wanted.items(), data, strict=True))
            masks.append(mask)
        valid = masks[0] if len(masks) == 1 else np.logical_and.reduce(masks)
        read = [(*names, unit) for names, unit in zip(sources, units, strict=True)]
        if len(passes) == 1 and read == list(passes[0].items()):
            out = data  # just what is asked for, and nobody else's
        else:
            out = np.empty((len(self.bands), *valid.shape), dtype=np.float32)
        for rows in row_blocks(*out.shape):
            for i, (band, names, unit) in enumerate(zip(self.bands, sources, units, strict=True)):
                part = out[i, rows]
                if out is not data:
                    part[:] = values[names[0], unit][rows]
                if band.difference:
                    part -= values[names[1], unit][rows]
                if normalize:
                    part -= band.mean
                    part /= band.std
            if normalize and not valid[rows].all():
                out[:, rows][:, ~valid[rows]] = 0.0
        return Reading(out, valid)

    def check(self, scene: Scene) -> None:
        """Raise the error that `read` would raise for this scene, without reading a pixel."""
        for band, names in zip(self.bands, self._sources(scene), strict=True):
            for name in names:
                source, target = scene.band(name).unit, parse_unit(band.unit)
                if not can_convert(source, target):
                    if band.difference and {scene.band(n).unit.quantity for n in names} == {
                        source.quantity,
                        target.quantity,
                    }:
                        one, two = (f"{n!r} ({scene.band(n).unit})" for n in names)
                        raise UnitError(
                            f"scene {scene.id!r}: input {band.name!r} is the difference of the bands {one} and {two}: "
                            "two quantities, and the one cannot be turned into the other. Process both images alike, "
                            "or leave the difference out."
                        )
                    if source.quantity is Quantity.UNKNOWN:
                        raise UnitError(
                            f"scene {scene.id!r}: the unit of band {name!r} is unknown, the network expects {target}. "
                            f"Say what the band is: {name}={target} in the catalog's column `bands`, or --bands."
                        )
                    raise UnitError(
                        f"scene {scene.id!r}: band {name!r} is {source}, the network expects {target}, and the "
                        "one cannot be turned into the other."
                    )

    def warnings(self, scene: Scene, reading: Reading) -> list[str]:
        """Say what is odd about a normalized `reading`: units belied, far from the training statistics, a black border.

        Args:
            scene: where the reading comes from; its outermost pixels are read where many pixels are 0.
            reading: as `read` returns it, normalized; it may be some of the scene's pixels in any order.
        """
        found = []
        if not reading.valid.any():
            return [f"scene {scene.id!r} has no valid pixel in the window that was looked at"]
        for channel, band, names in zip(reading.data, self.bands, self._sources(scene), strict=True):
            values, odd = channel[reading.valid], None
            if band.difference is None:
                own = values * band.std + band.mean
                odd = implausible(own, parse_unit(band.unit), slack=ROUNDING * abs(band.mean))
                border = None if odd else _black_border(scene, scene.names.index(names[0]), own)
                found += [f"scene {scene.id!r}, band {band.name!r}: {text}" for text in (odd, border) if text]
            # damaged values may be beyond what float32 can add
            distance, spread = (float(f(values, dtype=np.float64)) for f in (np.mean, np.std))
            fitted = (band.mean, band.std) != (0.0, 1.0)  # else there is no standard deviation of training
            if fitted and not odd and not 1 / SPREAD <= spread <= SPREAD:
                found.append(
                    f"scene {scene.id!r}, band {band.name!r}: its standard deviation is {spread * band.std:.3g}, that "
                    f"of training is {band.std:.3g} ({band.unit}): another stretch, unit or kind of scene; "
                    "the network has not seen such values"
                )
            if abs(distance) > FAR:
                found.append(
                    f"scene {scene.id!r}, band {band.name!r}: its mean lies {distance:+.1f} training standard "
                    f"deviations from the training mean ({band.mean:.4g} {band.unit}); "
                    "the network has not seen such values"
                )
        return found

    def to_json(self) -> list[dict[str, Any]]:
        """Return the contract as JSON values."""
        return [asdict(band) for band in self.bands]

    @classmethod
    def from_json(cls, values: Sequence[dict[str, Any]]) -> "InputContract":
        """Read back what `to_json` wrote; raises `InputError` for a difference that is not of two bands."""
        bands = []
        for value in values:
            pair = value.get("difference")
            if pair and not (isinstance(pair, list | tuple) and len(pair) == 2):
                raise InputError(
                    f"input {value.get('name')!r}: difference={pair!r} must be two names of bands."
                )
            bands.append(InputBand(**{**value, "difference": tuple(pair) if pair else None}))
        return cls(tuple(bands))

    def _sources(self, scene: Scene) -> list[tuple[str, ...]]:
        """Return, for each input, the band of the scene that it is, or the two that it is the difference of.

        By name; or else by polarization and role, where one band fits that is no other input already: a
        network for a pair must not see one image twice.
        """
        plain: dict[str, str] = {
            b.name: b.name for b in self.bands if b.name in scene.names and not b.difference
        }
        taken = {n for b in self.bands for n in b.difference or () if n in scene.names} | set(plain)
        for band in self.bands:
            if band.difference is None and band.name not in plain:
                plain[band.name] = self._fitting(scene, band, taken)
                taken.add(plain[band.name])
        return [
            tuple(scene.band(plain.get(n, n)).name for n in band.difference or (band.name,))
            for band in self.bands
        ]

    @staticmethod
    def _fitting(scene: Scene, band: InputBand, taken: set[str]) -> str:
        match = [b.name for b in scene.bands if b.name not in taken and _fits(b, band)]
        if len(match) == 1:
            return match[0]
        raise InputError(
            f"scene {scene.id!r} has no band {band.name!r} ({band.unit}"
            f"{', ' + band.polarization if band.polarization else ''}); it has "
            f"{', '.join(f'{b.name} ({b.unit})' for b in scene.bands)}. Name them with `bands`."
        )


def _black_border(scene: Scene, index: int, values: NDArray[np.floating]) -> str | None:
    """Say that a band of whole numbers is 0 in many pixels, at the scene's edge too: nothing was measured there.

    Args:
        scene: of the band. index: of the band in it.
        values: its valid pixels, or some of them, in whatever unit: 0 is 0 in all that whole numbers can be turned
            into, but for decibels, where it has no value.
    """
    unit = scene.bands[index].unit
    if unit.quantity not in COUNTS or unit.scale is not Scale.LINEAR:
        return None
    share = float(np.mean(np.abs(values) < NOTHING))
    if share <= BLACK:
        return None
    edges = (
        Window(0, 0, 1, scene.width),
        Window(scene.height - 1, 0, 1, scene.width),
        Window(0, 0, scene.height, 1),
        Window(0, scene.width - 1, scene.height, 1),
    )
    read = [scene.source.read([index], edge) for edge in edges]
    border = np.concatenate([data[valid] for data, valid in read])
    if border.size == 0 or not np.array_equal(border, np.round(border)) or np.mean(border == 0) <= BLACK:
        return None
    return (
        f"{100 * share:.2g} % of its pixels are exactly 0, at the edge of the scene too: a black border, perhaps, that "
        "is mapped as if it had been measured. Declare 0 as the file's nodata (gdal_edit.py -a_nodata 0)"
    )


def _fits(band: Band, wanted: InputBand) -> bool:
    """Say whether an unnamed band is the one: convertible, and of the same polarization and role."""
    if wanted.polarization is None and band.unit.quantity is not Quantity.INCIDENCE_ANGLE:
        return False
    same = band.polarization == wanted.polarization and (wanted.role is None or band.role == wanted.role)
    return same and can_convert(band.unit, parse_unit(wanted.unit))
