"""What the values of a pair say against their units, and which of them are no value though no file says so."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import UnitError
from sartransfer.prepare.flood_pair import FloodPair
from sartransfer.radar.units import POWERS, Quantity, Scale, Unit, implausible
from sartransfer.scene import Scene, Source, Window

LEAST_DB, MOST_DB = -60.0, 100.0
"""Decibels beyond are no measurement: -60 as in `radar.units.PLAUSIBLE`; 96 is the square of 16 bits of amplitude."""

MANY = 0.01  # of a scene's values that are exactly 0: more are a border or a fill, not chance
SAMPLE = 2**20  # pixels of a scene from which quantiles are taken
BYTE = 255
BYTE_LEVELS = 8  # different whole numbers up to 255, from which a band is taken for a display value


@dataclass(frozen=True, slots=True)
class CheckedSource:
    """A source some of whose values are no value: those beyond limits, and those of exactly 0 where told."""

    source: Source
    limits: Mapping[int, tuple[float, float]]
    """By a band's place the least and the greatest value; what lies outside is no value."""
    zeros: frozenset[int]
    """Places of the bands of which 0 is no value."""

    @property
    def gives_new_arrays(self) -> bool:
        """Whether the source underneath does (`scene.Source`)."""
        return bool(getattr(self.source, "gives_new_arrays", False))

    def read(self, indices: Sequence[int], window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read the source's values, with fewer of them valid."""
        values, known = self.source.read(indices, window)
        valid = np.array(known)
        for place, index in enumerate(indices):
            band = values[place]
            if index in self.limits:
                low, high = self.limits[index]
                valid[place] &= np.greater_equal(band, low) & np.less_equal(band, high)
            if index in self.zeros:
                valid[place] &= np.not_equal(band, 0)
        return values, valid


@dataclass(slots=True)
class _Seen:
    """What has been counted of one band."""

    known: int = 0
    negative: int = 0
    zeros: int = 0
    below: int = 0
    """`LEAST_DB`."""
    beyond: int = 0
    """`MOST_DB`."""
    low: float = np.inf
    high: float = -np.inf
    whole: bool = True
    """Whether all are whole numbers."""
    sample: list[NDArray[np.float32]] = field(default_factory=list)


def check_values(
    pair: FloodPair, bands: tuple[Sequence[str], Sequence[str]], window: int
) -> tuple[FloodPair, tuple[str, ...]]:
    """Return the pair without what is no value, and warnings; `bands` are those looked at, before and after.

    Both scenes are read once, by windows; the answer does not depend on these. Decibels below -60 or above 100 are no
    value, and exactly 0 dB neither, which is how SNAP marks it: a measured value is 0 to the last bit in one pixel of
    millions. Only where all decibels are whole numbers, few zeros (up to 1 %) are kept.

    Linear power below 0 is no value anyway; far below, and many zeros, are warned of.

    Raises `UnitError` for what cannot be of the declared unit: decibels declared as linear power (over half of the
    values negative, fills left out), linear power declared as decibels (99 % positive), 8-bit display
    values declared as power.
    """
    warnings: list[str] = []
    scenes = [
        _check_scene(scene, names, list(pair.windows(window, 1)), warnings)
        for scene, names in zip((pair.before, pair.after), bands, strict=True)
    ]
    return replace(pair, before=scenes[0], after=scenes[1]), tuple(warnings)


def _check_scene(scene: Scene, names: Sequence[str], windows: Iterable[Window], warnings: list[str]) -> Scene:
    limits: dict[int, tuple[float, float]] = {}
    zeros = set()
    for name in names:
        unit, where = scene.band(name).unit, f"scene {scene.id!r}, band {name!r}"
        seen = _look(scene, name, windows)
        if not seen.known:
            continue
        if unit.scale is Scale.DB:
            dropped = _check_decibels(where, unit, seen, warnings)
            limits[scene.names.index(name)] = LEAST_DB, MOST_DB
            if dropped:
                zeros.add(scene.names.index(name))
        elif unit.quantity in (*POWERS, Quantity.AMPLITUDE):
            _check_linear(scene, name, unit, seen, warnings)
            if seen.negative:  # else a window of negative noise or fill alone would be taken for decibels
                limits[scene.names.index(name)] = 0.0, np.inf
    if not limits:
        return scene
    return replace(scene, source=CheckedSource(scene.source, limits, frozenset(zeros)))


def _look(scene: Scene, name: str, windows: Iterable[Window]) -> _Seen:
    """Count a band's values; the sample is of the same pixels whatever the windows."""
    seen, step = _Seen(), max(1, isqrt(scene.height * scene.width // SAMPLE))
    for part in windows:
        image = scene.read([name], part).data[0]
        seen.sample.append(image[-part.row % step :: step, -part.col % step :: step].ravel())
        values = image[np.isfinite(image)]
        if values.size:
            seen.known += values.size
            seen.low, seen.high = min(seen.low, float(values.min())), max(seen.high, float(values.max()))
            seen.negative += int(np.count_nonzero(values < 0))
            seen.zeros += values.size - int(np.count_nonzero(values))
            if seen.low < LEAST_DB:
                seen.below += int(np.count_nonzero(values < LEAST_DB))
            if seen.high > MOST_DB:
                seen.beyond += int(np.count_nonzero(values > MOST_DB))
            seen.whole = seen.whole and bool((values == np.floor(values)).all())
    return seen


def _check_decibels(where: str, unit: Unit, seen: _Seen, warnings: list[str]) -> bool:
    """Judge a band in decibels; return whether its zeros are no value."""
    no_zeros = seen.zeros > 0 and (not seen.whole or seen.zeros > MANY * seen.known)
    sample = np.concatenate(seen.sample)
    sample = sample[np.isfinite(sample) & (sample >= LEAST_DB)]
    sample = sample[sample != 0] if no_zeros else sample
    calibrated = unit.quantity is not Quantity.INTENSITY  # the square of a digital number is above 0 dB
    linear = calibrated and sample.size and float(np.quantile(sample, 0.01)) > 0
    if linear or 2 * seen.beyond > seen.known:
        share = (
            "99 % of its values are above 0 dB" if linear else f"most of its values are above {MOST_DB:g} dB"
        )
        raise UnitError(
            f"{where} is declared as {unit}, but {share} ({seen.low:.4g} to {seen.high:.4g}): these look like linear "
            f"power. Say {unit.quantity} in the file's band description or tag UNIT, or where it says nothing with "
            "`bands` (--bands)."
        )
    sample = sample[sample <= MOST_DB]
    odd = implausible(sample, unit) if calibrated else None
    if odd:
        warnings.append(f"{where}: {odd}")
    if seen.below or seen.beyond:
        warnings.append(
            f"{where}: {seen.below + seen.beyond} values below {LEAST_DB:g} dB or above {MOST_DB:g} dB (from "
            f"{seen.low:.4g} to {seen.high:.4g}) were taken as no value; declare the file's nodata"
        )
    if no_zeros:
        warnings.append(
            f"{where}: {seen.zeros} values are exactly 0 dB ({seen.zeros / seen.known:.1%}) and were taken as no "
            "value; declare the file's nodata"
        )
    return no_zeros


def _check_linear(scene: Scene, name: str, unit: Unit, seen: _Seen, warnings: list[str]) -> None:
    """Judge a band of power or amplitude."""
    where = f"scene {scene.id!r}, band {name!r}"
    if 2 * (seen.negative - seen.below) > seen.known - seen.zeros - seen.below:
        decibel = Unit(unit.quantity if unit.quantity in POWERS else Quantity.INTENSITY, Scale.DB)
        share = (seen.negative - seen.below) / (seen.known - seen.below)
        raise UnitError(
            f"scene {scene.id!r}: band {name!r} is declared as {unit}, which is linear, and {share:.0%} of its values "
            f"are negative ({seen.low:.4g} to {seen.high:.4g}): these look like decibels. Say {decibel} in the file's "
            "band description or tag UNIT, or where it says nothing with `bands` (--bands)."
        )
    sample = np.concatenate(seen.sample)
    sample = sample[np.isfinite(sample) & (sample >= LEAST_DB)]
    if seen.whole and seen.low >= 0 and seen.high <= BYTE and len(np.unique(sample)) >= BYTE_LEVELS:
        words = (
            f"{where} is declared as {unit}, but all its values are whole numbers from {seen.low:g} to "
            f"{seen.high:g}: these look like 8-bit display values"
        )
        if unit.quantity in POWERS:
            raise UnitError(
                f"{words}, whose stretch is not known, so that a ratio of them means nothing. Take the calibrated "
                "images, or declare digital_number and train on them."
            )
        warnings.append(f"{words}, of which a ratio means nothing unless 0 is no backscatter")
    odd = implausible(sample, unit)
    if odd:
        warnings.append(f"{where}: {odd}")
    if seen.below:
        warnings.append(
            f"{where}: {seen.below} values below {LEAST_DB:g} (down to {seen.low:.4g}), which no power is, were taken "
            "as no value; declare the file's nodata"
        )
    if seen.zeros > MANY * seen.known:
        warnings.append(
            f"{where}: {seen.zeros / seen.known:.1%} of the values are exactly 0; if that is a border, declare the "
            "file's nodata: a filter of power takes it for dark ground"
        )
