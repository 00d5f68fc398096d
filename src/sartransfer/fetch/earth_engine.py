"""Sentinel-1 from Google Earth Engine, for those with an account: sigma0 that Google has calibrated and mapped."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from sartransfer.errors import FetchError
from sartransfer.fetch.passes import MODE, Acquisition
from sartransfer.fetch.request import Area, Grid, Period
from sartransfer.fetch.stac import required
from sartransfer.radar.units import Unit, parse_unit

# Linear power: COPERNICUS/S1_GRD is the same in decibels, which must not be averaged.
COLLECTION = "COPERNICUS/S1_GRD_FLOAT"
NODATA = -1.0  # of pixels that Earth Engine masks; no power is negative
TILE = 1024  # pixels a side of one request: 8 MB of two bands, where 48 MB are allowed


@dataclass(frozen=True)
class EarthEngineArchive:
    """Google's collection of Sentinel-1 GRD, linear sigma0 on the ellipsoid with a terrain model for places."""

    project: str | None = None
    """A Google Cloud project that is registered for Earth Engine."""
    url: str | None = None
    """Of the REST interface; None: Google's."""
    credentials: Any = "persistent"
    """As `ee.Initialize` takes them; by default those that ``earthengine authenticate`` left."""

    @property
    def unit(self) -> Unit:
        """Linear sigma0."""
        return parse_unit("sigma0")

    def search(self, area: Area, period: Period) -> list[Acquisition]:
        """Return what the collection has of an area in a period."""
        ee = self._started()
        bounds = ee.Geometry(mapping(area.geometry), None, False)
        end = period.end + timedelta(seconds=1)  # filterDate leaves the end out
        collection = (
            ee.ImageCollection(COLLECTION)
            .filterBounds(bounds)
            .filterDate(int(period.start.timestamp() * 1000), int(end.timestamp() * 1000))
            .filter(ee.Filter.eq("instrumentMode", MODE))
        )
        found = self._asked(collection.getInfo)
        return [_acquisition(feature) for feature in found.get("features", ())]

    def load(
        self, frame: Acquisition, grid: Grid, polarizations: Sequence[str], scratch: Path
    ) -> NDArray[np.float32]:
        """Compute the pixels of a frame on the grid, tile by tile."""
        ee = self._started()
        image = ee.Image(frame.source).select(list(polarizations))
        if grid.resolution <= 15:  # where pixels grow, Earth Engine takes means from its pyramid by itself
            image = image.resample("bilinear")
        image = image.unmask(NODATA, False)
        out = np.full((len(polarizations), grid.height, grid.width), np.nan, dtype=np.float32)
        for row in range(0, grid.height, TILE):
            for col in range(0, grid.width, TILE):
                part = grid.part(row, col, min(TILE, grid.height - row), min(TILE, grid.width - col))
                pixels = self._asked(lambda p=part: ee.data.computePixels(_question(image, p, polarizations)))
                rows, cols = slice(row, row + part.height), slice(col, col + part.width)
                for i, name in enumerate(polarizations):
                    values = np.asarray(pixels[name], dtype=np.float32)
                    if values.shape != (part.height, part.width):
                        raise FetchError(f"{frame.id}: Earth Engine sent {values.shape} of {name}.")
                    out[i, rows, cols] = np.where(values >= 0, values, np.nan)
        return out

    def bytes_to_load(self, frame: Acquisition, grid: Grid, polarizations: Sequence[str]) -> int:
        """Return the bytes of the window on the grid."""
        return grid.height * grid.width * 4 * len(polarizations)

    def describe(self) -> dict[str, Any]:
        """The collection."""
        return {"kind": "earth-engine", "collection": COLLECTION}

    def _started(self) -> Any:
        ee = required("ee", "earthengine-api", extra="earth-engine")
        if not ee.data.is_initialized():
            self._asked(lambda: ee.Initialize(self.credentials, url=self.url, project=self.project))
        return ee

    def _asked(self, question: Any) -> Any:
        ee = required("ee", "earthengine-api", extra="earth-engine")
        try:
            return question()
        except ee.EEException as error:
            raise FetchError(
                f"Earth Engine refuses: {str(error)[:400]}. Sign in once with `earthengine authenticate`, and name a "
                "registered project (--project)."
            ) from error
        except (OSError, ValueError, KeyError) as error:
            raise FetchError(f"Earth Engine cannot be reached: {str(error)[:300]}.") from error


def _question(image: Any, grid: Grid, polarizations: Sequence[str]) -> dict[str, Any]:
    return {
        "expression": image,
        "fileFormat": "NUMPY_NDARRAY",
        "bandIds": list(polarizations),
        "grid": {
            "dimensions": {"width": grid.width, "height": grid.height},
            "affineTransform": {
                "scaleX": grid.resolution,
                "shearX": 0,
                "translateX": grid.left,
                "shearY": 0,
                "scaleY": -grid.resolution,
                "translateY": grid.top,
            },
            "crsCode": grid.crs,
        },
    }


def _acquisition(feature: dict[str, Any]) -> Acquisition:
    """Return an image as `getInfo` describes it; raises `FetchError` where it lacks what is needed."""
    said = feature.get("properties", {})
    polarizations = said.get("transmitterReceiverPolarisation")
    if not isinstance(polarizations, list):  # a text would be taken letter by letter
        raise FetchError(
            f"Earth Engine describes {feature.get('id')} with polarizations {polarizations!r}, no list."
        )
    try:
        moment = datetime.fromtimestamp(said["system:time_start"] / 1000, UTC)
        return Acquisition(
            id=str(said.get("system:index") or feature["id"].rsplit("/", 1)[-1]),
            time=moment,
            orbit_pass=str(said["orbitProperties_pass"]).lower(),
            relative_orbit=int(said["relativeOrbitNumber_start"]),
            footprint=_footprint(said["system:footprint"]),
            polarizations=tuple(polarizations),
            mode=str(said["instrumentMode"]),
            platform=f"SENTINEL-1{said.get('platform_number', '')}",
            source=str(feature["id"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        raise FetchError(f"Earth Engine describes {feature.get('id')} without {error}.") from error


def _footprint(geometry: dict[str, Any]) -> BaseGeometry:
    """Return a footprint as a polygon: Earth Engine gives it as a closed line."""
    if geometry.get("type") == "LinearRing":
        geometry = {"type": "Polygon", "coordinates": [geometry["coordinates"]]}
    return shape(geometry).buffer(0)
