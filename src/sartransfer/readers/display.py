"""The reader ``display``: backscatter in dB shown as 8-bit display values, for networks that learned on those.

Display values are not calibrated and nobody can turn them back. The other way is possible: 255 (dB + 25) / 25, cut to 0
to 255, is a usual stretch of VV over land and water. Scores of a network on such values say what its stretch and this
one together are good for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import UnitError
from sartransfer.geotiff import open_geotiff
from sartransfer.radar.units import UNKNOWN, convert, parse_unit
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

    def read(self, indices: Sequence[int], window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read the window as float32 whole numbers."""
        values, valid = self.source.read([self.index], window)
        with np.errstate(invalid="ignore"):
            decibel = convert(values.astype(np.float32), self.band.unit, SIGMA0_DB)
            shown = np.clip(np.round(255.0 * (decibel - LOW_DB) / (HIGH_DB - LOW_DB)), 0, 255)
        good = valid & np.isfinite(decibel)
        return np.where(good, shown, 0).astype(np.float32), good


def open_display(path: Path, bands: tuple[Band, ...] = ()) -> Scene:
    """Open the first band of a GeoTIFF of sigma0 as display values, under the name and role of `bands`' only one.

    A band of unknown unit is taken for sigma0 in dB. Raises `UnitError` for any other unit than sigma0.
    """
    scene = open_geotiff(path)
    band = scene.bands[0]
    if band.unit == UNKNOWN:  # Sen1Floods11 says it in its paper only
        band = replace(band, unit=SIGMA0_DB)
    if band.unit not in (SIGMA0_DB, parse_unit("sigma0")):
        raise UnitError(f"{path}: band {band.name!r} is {band.unit}; display values are made of sigma0.")
    shown = bands[0] if bands else DISPLAY
    return replace(scene, bands=(shown,), source=DisplaySource(scene.source, band, 0))
