"""What an archive must be able to do, whichever it is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sartransfer.fetch.passes import Acquisition
from sartransfer.fetch.request import Area, Grid, Period
from sartransfer.radar.units import Unit


class Archive(Protocol):
    """A place that Sentinel-1 images come from."""

    @property
    def unit(self) -> Unit:
        """What `load` returns: sigma0 or gamma0, linear power."""
        ...

    def search(self, area: Area, period: Period) -> list[Acquisition]:
        """Return what the archive has of an area in a period; raises `FetchError` where it cannot be asked."""
        ...

    def load(
        self, frame: Acquisition, grid: Grid, polarizations: Sequence[str], scratch: Path
    ) -> NDArray[np.float32]:
        """Return linear power (B, H, W) on a grid, NaN without a value; `scratch` is kept until all is written."""
        ...

    def bytes_to_load(self, frame: Acquisition, grid: Grid, polarizations: Sequence[str]) -> int:
        """Return how many bytes of one frame will be read, at most about."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what the provenance says of the archive: no keys, no signatures."""
        ...
