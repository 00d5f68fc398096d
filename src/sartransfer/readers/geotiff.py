"""The reader ``geotiff``: any GeoTIFF, band by band."""

from pathlib import Path

from sartransfer.geotiff import open_geotiff
from sartransfer.scene import Band, Scene


def open_geotiff_scene(path: Path, bands: tuple[Band, ...] = ()) -> Scene:
    """Open a GeoTIFF (see `sartransfer.geotiff.open_geotiff`); `bands` empty: as the file says."""
    return open_geotiff(path, bands)
