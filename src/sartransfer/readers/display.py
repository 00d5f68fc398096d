"""The reader ``display``: backscatter in dB shown as 8-bit display values, for networks that learned on those.

Display values are not calibrated and nobody can turn them back. The other way is possible: 255 (dB + 25) / 25, cut to 0
to 255, is a usual stretch of VV over land and water. Scores of a network on such values say what its stretch and this
one together are good for. Gamma0 is taken as it is, which shows it brighter: over flat ground it lies 10 log10(1 / cos
angle) dB above sigma0, .6 dB at 30 degrees and 1.6 dB at 46.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import UnitError
from sartransfer.geotiff import open_geotiff
from sartransfer.radar.units import UNKNOWN, Quantity, Scale, Unit, convert, parse_unit
from sartransfer.scene import Band, Scene, Source, Window

LOW_DB, HIGH_DB = -25.0, 0.0
SIGMA0_DB = parse_unit("sigma0_db")
DISPLAY = Band("display", unit=parse_unit("digital_number"))


@dataclass(frozen=True, slots=True)
class DisplaySource:
    """One band of backscatter, stretched to 0 to 255 and rounded."""

    source: Source
    band: Band
    """What the file holds."""
    index: int
    told: bool = True
    """Whether the file says so; else it is taken for sigma0 in dB."""

    def read(self, indices: Sequence[int], window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read the window as float32 whole numbers."""
        values, valid = self.source.read([self.index], window)
        with np.errstate(invalid="ignore"):
            decibel = convert(
                values.astype(np.float32), self.band.unit, Unit(self.band.unit.quantity, Scale.DB)
            )
            shown = np.clip(np.round(255.0 * (decibel - LOW_DB) / (HIGH_DB - LOW_DB)), 0, 255)
        good = valid & np.isfinite(decibel)
        return np.where(good, shown, 0).astype(np.float32), good


def open_display(path: Path, bands: tuple[Band, ...] = ()) -> Scene:
    """Open VV of a GeoTIFF of backscatter as display values, under the name and role of `bands`' only one.

    Of several bands the one of polarization VV is taken, and the first where none says so. A band of unknown unit is
    taken for sigma0 in dB. Raises `UnitError` for any other unit than sigma0 and gamma0, linear or in dB, and for whole
    numbers of an unknown one.
    """
    scene = open_geotiff(path)
    index = next((i for i, b in enumerate(scene.bands) if b.polarization == "VV"), 0)
    band = scene.bands[index]
    told = band.unit != UNKNOWN
    if not told:  # Sen1Floods11 says it in its paper only
        values, _ = scene.source.read([index], Window(0, 0, 1, 1))
        if np.issubdtype(values.dtype, np.integer):
            raise UnitError(
                f"{path}: band {band.name!r} holds whole numbers and does not say of what: display values already? "
                "Read it as it is (leave the reader `display` out), or say what it is by its band description "
                "(sigma0_vv_db)."
            )
        band = replace(band, unit=SIGMA0_DB)
    if band.unit.quantity not in (Quantity.SIGMA0, Quantity.GAMMA0):
        raise UnitError(
            f"{path}: band {band.name!r} is {band.unit}; display values are made of sigma0 or gamma0. Read it as it is "
            "(leave the reader `display` out), or say what it is by its band description (sigma0_vv_db)."
        )
    shown = bands[0] if bands else DISPLAY
    return replace(scene, bands=(shown,), source=DisplaySource(scene.source, band, index, told))


def display_warnings(scene: Scene) -> list[str]:
    """Say of a scene that is shown as display values of what they are made, where the stretch was not made for it."""
    found = []
    for source in getattr(scene.source, "sources", (scene.source,)):
        if not isinstance(source, DisplaySource):
            continue
        band = source.band
        if not source.told:
            found.append(
                f"display values were made of {band.name!r}, whose unit the file does not say: it was taken for sigma0 "
                "in dB."
            )
        if band.unit.quantity is Quantity.GAMMA0:
            found.append(
                f"display values were made of {band.name!r}, which is gamma0; the stretch was made for sigma0: they "
                "are brighter by .6 dB (30 degrees) to 1.6 dB (46 degrees), 6 to 16 of 255."
            )
        if band.polarization not in (None, "VV"):
            found.append(f"display values were made of {band.name!r}; the stretch was made for VV.")
    return list(dict.fromkeys(found))
