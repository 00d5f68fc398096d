"""A STAC item beside a map: where and when it is, what its values mean, and what it was made of."""

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer import __version__
from sartransfer.cloud import Layer
from sartransfer.errors import InputError
from sartransfer.geotiff import footprint
from sartransfer.scene import GeoReference, Scene, as_utc

VERSION = "1.0.0"
SCHEMAS = "https://stac-extensions.github.io"
PROJECTION = f"{SCHEMAS}/projection/v1.1.0/schema.json"
RASTER = f"{SCHEMAS}/raster/v1.1.0/schema.json"
CLASSIFICATION = f"{SCHEMAS}/classification/v1.1.0/schema.json"
PROCESSING = f"{SCHEMAS}/processing/v1.1.0/schema.json"
COG = "image/tiff; application=geotiff; profile=cloud-optimized"
GEOPACKAGE = "application/geopackage+sqlite3"
# As in the names of Sentinel-1 products: S1A_IW_GRDH_1SDV_20210101T060000_20210101T060025_...
STAMP = re.compile(r"(?<!\d)(\d{8}T\d{6})(?!\d)")
# Its first, middle or last line: a Sentinel-1 product takes about a minute, joined slices a few.
SAME_SCENE = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class MapFacts:
    """What a STAC item tells of a map."""

    scene: Scene
    time: datetime
    """Of the acquisition."""
    layers: tuple[Layer, ...]
    """The classes first."""
    classes: tuple[str, ...]
    polygons: Path | None
    sources: tuple[Path, ...]
    """Files of the scene; empty for one in memory."""
    checkpoints: tuple[str, ...]
    """Identity of each network."""
    method: str
    """How the scene went through the network, in words."""
    areas: Mapping[str, float] | None
    """Square metres of each class, where they are known."""


def scene_time(scene: Scene, given: datetime | None = None) -> datetime:
    """Return when a scene was taken: as given, as it says, or as its name says (20210101T060000); UTC.

    Raises `InputError` where none of these tells it (a STAC item needs a time), or the one that is given is not the
    scene's own: of several scenes one time would be given to all.
    """
    own = scene.time
    if own is None and (found := STAMP.search(scene.id)):
        with contextlib.suppress(ValueError):
            own = datetime.strptime(found.group(1), "%Y%m%dT%H%M%S")
    if own is None and given is None:
        raise InputError(
            f"scene {scene.id!r} does not tell when it was taken, and a STAC item needs a time. Give it: "
            "--time 2021-01-01T06:00:00."
        )
    told = [as_utc(time) for time in (given, own) if time]
    if abs(told[0] - told[-1]) > SAME_SCENE:
        raise InputError(
            f"scene {scene.id!r} was taken at {time_stamp(told[1])}, as it or its name says, and not at "
            f"{time_stamp(told[0])}. Leave out --time, or rename the scene."
        )
    return told[0]


def time_stamp(time: datetime) -> str:
    """Return a time in UTC as an item tells it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def make_item(facts: MapFacts, folder: Path) -> dict[str, Any]:
    """Return the STAC item of a map, as JSON values; links are relative to `folder`, where it is going to lie.

    Geometry and box are in longitude and latitude; a map across the antimeridian has a polygon on either side, and a
    box whose west is greater than its east (RFC 7946, 3.1.9 and 5.2). A map without a place has neither.

    STAC 1.0.0 with the extensions projection, raster, classification and processing.
    """
    scene, main = facts.scene, facts.layers[0]
    geometry, box = outline(scene.georeference, scene.height, scene.width)
    stamp = time_stamp(facts.time)
    properties: dict[str, Any] = {
        "datetime": stamp,
        "title": f"Classes of {scene.id}",
        "processing:software": {"sartransfer": __version__},
        "processing:lineage": f"{', '.join(facts.classes)} by {len(facts.checkpoints)} trained network"
        f"{'s' if len(facts.checkpoints) > 1 else ''}; {facts.method}",
        "sartransfer:checkpoints": list(facts.checkpoints),
        **_projection(scene.georeference, scene.height, scene.width),
    }
    if scene.platform:
        properties["platform"] = scene.platform
    if facts.areas is not None:
        properties["sartransfer:area_km2"] = {name: area / 1e6 for name, area in facts.areas.items()}
    assets = {_name(layer, main): _asset(layer, layer is main, facts) for layer in facts.layers}
    if facts.polygons is not None:
        assets["polygons"] = {
            "href": f"./{facts.polygons.name}", "type": GEOPACKAGE, "roles": ["data"],
            "title": "Regions of each class, with their areas on the ellipsoid",
        }  # fmt: skip
    links = [
        {"rel": "derived_from", "href": _relative(path, folder), "title": path.name} for path in facts.sources
    ]
    item: dict[str, Any] = {
        "type": "Feature", "stac_version": VERSION,
        "stac_extensions": [PROJECTION, RASTER, CLASSIFICATION, PROCESSING],
        "id": main.path.stem, "geometry": geometry, "properties": properties, "links": links, "assets": assets,
    }  # fmt: skip
    return item if box is None else {**item, "bbox": box}


def outline(
    georeference: GeoReference, height: int, width: int
) -> tuple[dict[str, Any] | None, list[float] | None]:
    """Return geometry (GeoJSON) and box (west, south, east, north) of a grid in degrees; None without a place."""
    import shapely
    import shapely.affinity
    from shapely.geometry.polygon import orient

    points = footprint(georeference, height, width)
    if points is None:
        return None, None
    points = np.asarray(points, dtype=np.float64)
    if georeference.transform is None:  # control points come row by row: only what they span is known
        polygon = shapely.MultiPoint(points).convex_hull
    elif (pole := _pole(georeference, height, width, points)) is not None:
        south, north = (points[:, 1].min(), 90.0) if pole > 0 else (-90.0, points[:, 1].max())
        polygon = shapely.box(-180.0, south, 180.0, north)
    else:
        polygon = shapely.Polygon(points)
    parts = []
    for turn in (-360.0, 0.0, 360.0):
        moved = shapely.affinity.translate(polygon, turn)
        part = shapely.intersection(moved, shapely.box(-180, -90, 180, 90))
        parts += [p for p in shapely.get_parts(part) if p.geom_type == "Polygon" and p.area > 0]
    if not parts:
        return None, None
    parts = [orient(p) for p in parts]
    bounds = shapely.bounds(np.array(parts))
    west, south, east, north = (float(v) for v in (*bounds[:, :2].min(0), *bounds[:, 2:].max(0)))
    if len(parts) > 1 and west == -180 and east == 180 and bounds[:, 2].min() < bounds[:, 0].max():
        west, east = float(bounds[:, 0].max()), float(bounds[:, 2].min())
    found = parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
    return shapely.geometry.mapping(found), [west, south, east, north]


def _pole(georeference: GeoReference, height: int, width: int, points: NDArray[np.float64]) -> int | None:
    """Return 1 or -1 where the outline goes once around the north or the south pole."""
    turns = np.diff(points[:, 0], append=points[:1, 0])
    turns = (turns + 180.0) % 360.0 - 180.0
    if abs(turns.sum()) < 180.0:
        return None
    return 1 if points[:, 1].mean() > 0 else -1


def _projection(georeference: GeoReference, height: int, width: int) -> dict[str, Any]:
    from rasterio.crs import CRS

    found: dict[str, Any] = {"proj:shape": [height, width], "proj:epsg": None}
    if georeference.transform is not None:
        found["proj:transform"] = [*georeference.transform, 0.0, 0.0, 1.0]
    if georeference.crs is not None and georeference.transform is not None:
        crs = CRS.from_user_input(georeference.crs)
        code = crs.to_epsg()
        found["proj:epsg"] = code
        if code is None:
            found["proj:wkt2"] = crs.to_wkt(version="WKT2_2019")
    return found


def _name(layer: Layer, main: Layer) -> str:
    return "classes" if layer is main else layer.path.stem.removeprefix(f"{main.path.stem}-")


TITLES = {
    "probabilities": "Probability of each class",
    "entropy": "Entropy of the class probabilities, in nats",
    "spread": "Disagreement of the networks: mutual information of class and network, in nats",
}


def _asset(layer: Layer, main: bool, facts: MapFacts) -> dict[str, Any]:
    missing: Any = "nan" if np.isnan(layer.nodata) else layer.nodata
    bands = []
    for text in layer.descriptions:
        band: dict[str, Any] = {
            "name": text, "nodata": missing, "data_type": layer.kept.name, "sampling": "area"
        }  # fmt: skip
        if layer.scale != 1:
            band |= {"scale": layer.scale, "offset": 0}
        if text.endswith("_nats"):
            band["unit"] = "nat"
        bands.append(band)
    asset: dict[str, Any] = {
        "href": f"./{layer.path.name}", "type": COG, "roles": ["data"], "raster:bands": bands,
        "title": "Class of each pixel" if main else TITLES[_name(layer, facts.layers[0])],
    }  # fmt: skip
    if main:
        asset["classification:classes"] = [
            _class(i, name, (layer.colormap or {}).get(i)) for i, name in enumerate(facts.classes)
        ] + [{"value": int(layer.nodata), "name": "nodata", "nodata": True, "description": "no value"}]
    return asset


def _class(value: int, name: str, colour: Sequence[int] | None) -> dict[str, Any]:
    """Return a class; its short name holds what the extension allows: letters, digits, - and _."""
    found: dict[str, Any] = {
        "value": value,
        "name": re.sub(r"[^0-9A-Za-z-_]", "_", name),
        "description": name,
    }
    if colour is not None:
        found["color_hint"] = "{:02X}{:02X}{:02X}".format(*colour)
    return found


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:  # another drive
        return path.resolve().as_uri()
