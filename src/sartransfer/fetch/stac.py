"""Sentinel-1 from a STAC API: backscatter that lies on a map already (RTC), read by window from cloud-optimized TIFFs.

The server is asked for a collection, an area and a period only; mode, polarization, pass and orbit are filtered here,
since servers differ in what else they can be asked.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray
from shapely.errors import ShapelyError
from shapely.geometry import box, mapping, shape

from sartransfer.errors import FetchError, InputError, UnitError
from sartransfer.fetch.passes import Acquisition
from sartransfer.fetch.request import PASSES, Area, Grid, Period
from sartransfer.radar.units import Quantity, Scale, Unit, convert, parse_unit

PRODUCT = "amplitude"
"""The unit of a collection of GRD products: not calibrated, not on a map; `fetch.grd` does both."""

COLLECTION_UNITS = {"sentinel-1-rtc": "gamma0", "sentinel-1-grd": PRODUCT}
"""What collections of these names hold, at the archives below; RTC is gamma0 on terrain, never sigma0."""

MOST_ITEMS = 2000  # two months of one area have some tens
TIMEOUT = 60.0  # seconds without an answer
RTC_PIXEL = 10.0  # metres of the Planetary Computer's RTC
# For GDAL's reads of windows over HTTP: no listing of folders, a few tries more, and no memory of what has failed.
HTTP_OPTIONS = {
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/",
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_CONNECTTIMEOUT": "30",
    "GDAL_HTTP_TIMEOUT": "120",
}
# Absolute orbit to relative (ESA, Sentinel-1 product specification and SentiWiki; the same in SNAP, ASF and ISCE2).
FIRST_ORBIT = {"a": 73, "b": 27, "c": 172, "d": 42}
# S1C was moved in June 2026; its last image before is of absolute orbit 8018 (isce-framework/isce2, pull 28130).
C_MOVED, C_FIRST_ORBIT = 8018, 99
ORBITS = 175


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A STAC API and one of its collections."""

    url: str
    collection: str
    unit: str
    """Of the assets ``vv`` and ``vh``, one of `radar.units.UNIT_NAMES`; ``amplitude`` for GRD products."""
    sign: bool = False
    """Its assets need a signature of the package planetary-computer."""
    token_origins: tuple[str, ...] = ()
    """Scheme, host and port that may be sent the token of the environment (`fetch.download.TOKEN`)."""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            _ = parts.port  # is read, and may be no number
        except ValueError as error:
            raise InputError(f"endpoint {self.url!r} is no address: {error}.") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise InputError(f"endpoint {self.url!r}: give the https address of a STAC API.")
        if not self.collection:
            raise InputError("name the collection of the endpoint (--collection).")
        unit = parse_unit(self.unit)
        if self.unit != PRODUCT and unit.quantity not in (Quantity.SIGMA0, Quantity.GAMMA0):
            raise UnitError(
                f"unit={self.unit!r}: must be gamma0 or sigma0 (or _db), or {PRODUCT} for GRD products."
            )


ENDPOINTS = {
    "planetary-computer": Endpoint(
        "https://planetarycomputer.microsoft.com/api/stac/v1", "sentinel-1-rtc", "gamma0", sign=True
    ),
    "planetary-computer-grd": Endpoint(
        "https://planetarycomputer.microsoft.com/api/stac/v1", "sentinel-1-grd", PRODUCT, sign=True
    ),
    "copernicus": Endpoint(
        "https://stac.dataspace.copernicus.eu/v1",
        "sentinel-1-grd",
        PRODUCT,
        token_origins=("https://download.dataspace.copernicus.eu", "https://zipper.dataspace.copernicus.eu"),
    ),
}


def own_endpoint(url: str, collection: str | None, unit: str | None) -> Endpoint:
    """Return an endpoint that is none of the known; raises where its collection or unit is not said and not known."""
    if not collection:
        raise InputError(f"endpoint {url}: name the collection too (--collection).")
    known = unit or COLLECTION_UNITS.get(collection)
    if known is None:
        raise UnitError(
            f"what the collection {collection!r} holds is not known: say it (--unit gamma0, sigma0, gamma0_db, "
            f"sigma0_db, or {PRODUCT} for GRD products, which are calibrated and mapped here)."
        )
    return Endpoint(url.rstrip("/"), collection, known, token_origins=(url,))


@dataclass(frozen=True, slots=True)
class StacArchive:
    """A collection of backscatter on a map."""

    endpoint: Endpoint

    @property
    def unit(self) -> Unit:
        """Linear power of the collection's quantity."""
        return Unit(parse_unit(self.endpoint.unit).quantity, Scale.LINEAR)

    def search(self, area: Area, period: Period) -> list[Acquisition]:
        """Return what the collection has of an area in a period."""
        return search_endpoint(self.endpoint, area, period)

    def load(
        self, frame: Acquisition, grid: Grid, polarizations: Sequence[str], scratch: Path
    ) -> NDArray[np.float32]:
        """Read a window of a frame onto the grid: bilinear in power, means where pixels grow, dB unmixed."""
        odc = required("odc.stac", "odc-stac")
        geobox = required("odc.geo.geobox", "odc-stac").GeoBox
        import rasterio
        from rasterio.errors import RasterioError

        stored = parse_unit(self.endpoint.unit)
        how = "average" if grid.resolution > 1.5 * RTC_PIXEL else "bilinear"
        item = signed(frame.source) if self.endpoint.sign else frame.source
        names = [asset_name(item, p) for p in polarizations]
        for name in names:
            check_address(item, str(item.assets[name].href))
        target = geobox((grid.height, grid.width), rasterio.Affine(*grid.transform), grid.crs)
        try:
            with rasterio.Env(**HTTP_OPTIONS):
                found = odc.load(
                    [item],
                    bands=names,
                    geobox=target,
                    dtype="float32",
                    resampling="nearest" if stored.scale is Scale.DB else how,
                    pool=None,
                )
        except (RasterioError, OSError, ValueError, KeyError) as error:
            raise FetchError(
                f"{frame.id} of {self.endpoint.url} cannot be read: {error}. Try again: what has been read is kept."
            ) from error
        out = np.empty((len(names), grid.height, grid.width), dtype=np.float32)
        for i, name in enumerate(names):
            if name not in found or found[name].sizes.get("time") != 1:
                raise FetchError(f"{frame.id} of {self.endpoint.url} has no pixels in its asset {name!r}.")
            layer = found[name]
            values = np.asarray(layer.values[0], dtype=np.float32)
            nodata = layer.attrs.get("nodata")
            if nodata is not None and np.isfinite(nodata):
                values = np.where(values == np.float32(nodata), np.nan, values)
            linear = convert(values, stored, self.unit)
            out[i] = np.where(
                linear >= 0, linear, np.nan
            )  # a power below 0 is a nodata that was not declared
        return out

    def bytes_to_load(self, frame: Acquisition, grid: Grid, polarizations: Sequence[str]) -> int:
        """Return the bytes of the window at the archive's pixels, not compressed."""
        pixels = grid.height * grid.width * max(grid.resolution / RTC_PIXEL, 1.0) ** 2
        return round(pixels * 4 * len(polarizations))

    def describe(self) -> dict[str, Any]:
        """Endpoint and collection, and what its assets hold."""
        return {
            "kind": "stac",
            "endpoint": self.endpoint.url,
            "collection": self.endpoint.collection,
            "assets": self.endpoint.unit,
        }


def search_endpoint(endpoint: Endpoint, area: Area, period: Period) -> list[Acquisition]:
    """Return all items of an area and period as acquisitions; raises `FetchError` where that cannot be done."""
    stac = required("pystac_client", "pystac-client")
    exceptions = required("pystac_client.exceptions", "pystac-client")
    requests = required("requests", "pystac-client")
    try:
        client = stac.Client.open(endpoint.url, timeout=TIMEOUT)
        asked = client.search(
            collections=[endpoint.collection],
            intersects=mapping(area.geometry),
            datetime=str(period),
            limit=100,
            max_items=MOST_ITEMS + 1,
        )
        items = list(asked.items())
    except (requests.RequestException, exceptions.APIError) as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise FetchError(
            f"{endpoint.url} cannot be asked for {endpoint.collection}: {words[0][:300]}. Check the address and your "
            "connection, and try again."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, NotImplementedError) as error:
        raise FetchError(f"{endpoint.url} does not answer as a STAC API does: {error}.") from error
    if len(items) > MOST_ITEMS:
        raise FetchError(
            f"{endpoint.url} has over {MOST_ITEMS} images of that area and period: take less of either."
        )
    by_id = {item.id: item for item in items}  # pages may overlap while a server takes in new items
    return [acquisition_of(item) for item in by_id.values()]


def acquisition_of(item: Any) -> Acquisition:
    """Return a STAC item as an acquisition, its pass empty and its orbit None where it does not say them.

    Raises `FetchError` for one without a time or a footprint.
    """
    said = item.properties
    platform = str(said.get("platform") or "")
    moment = item.datetime
    if moment is None and said.get("start_datetime"):
        try:
            moment = datetime.fromisoformat(str(said["start_datetime"]))
        except ValueError as error:
            raise FetchError(
                f"item {item.id} says start_datetime={said['start_datetime']!r}: {error}."
            ) from error
    direction = str(said.get("sat:orbit_state") or "").lower()
    orbit = _whole_number(item, "sat:relative_orbit", most=ORBITS)
    if orbit is None and (absolute := _whole_number(item, "sat:absolute_orbit")) is not None:
        orbit = _relative_orbit(platform, absolute)
    if moment is None:
        raise FetchError(
            f"item {item.id} does not say its time (datetime): it cannot be told from which period it is."
        )
    try:
        footprint = shape(item.geometry) if item.geometry else box(*item.bbox)
    except (ShapelyError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise FetchError(f"item {item.id} has no footprint that can be read: {error}.") from error
    sizes = [file_size(item, str(name), asset) for name, asset in item.assets.items()]
    polarizations = said.get("sar:polarizations") or ()
    if not isinstance(polarizations, list | tuple) or not all(isinstance(p, str) for p in polarizations):
        raise FetchError(
            f"item {item.id} says sar:polarizations={polarizations!r}: a list of texts is expected, as ['VV', 'VH']."
        )
    return Acquisition(
        id=str(item.id),
        time=moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC),
        orbit_pass=direction if direction in PASSES else "",
        relative_orbit=orbit,
        footprint=footprint,
        polarizations=tuple(p.upper() for p in polarizations),
        mode=str(said.get("sar:instrument_mode") or "").upper(),
        platform=platform,
        size=sum(s for s in sizes if s) if any(sizes) else None,
        source=item,
    )


def _whole_number(item: Any, key: str, most: int | None = None) -> int | None:
    """Return a property that is a whole number from 1; None where it is not said; else raises `FetchError`."""
    value = item.properties.get(key)
    if value is None:
        return None
    try:
        number = int(value)
        good = not isinstance(value, bool) and number == float(value) and 1 <= number <= (most or number)
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        allowed = f"from 1{f' to {most}' if most else ''}"
        raise FetchError(f"item {item.id} says {key}={value!r}: a whole number {allowed} is expected.")
    return number


def file_size(item: Any, name: str, asset: Any) -> int | None:
    """Return the bytes of an asset as it says them; raises `FetchError` for what is no number of bytes."""
    size = asset.extra_fields.get("file:size")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
        raise FetchError(
            f"item {item.id}: its asset {name!r} says file:size={size!r}, which is no number of bytes."
        )
    return size


def _relative_orbit(platform: str, absolute: int) -> int | None:
    """Return the relative orbit of an absolute one; None for a satellite whose first is not known."""
    letter = platform.lower()[-1:]
    first = C_FIRST_ORBIT if letter == "c" and absolute > C_MOVED else FIRST_ORBIT.get(letter)
    return None if first is None else (absolute - first) % ORBITS + 1


def asset_name(item: Any, polarization: str) -> str:
    """Return the name of the asset that is a polarization: ``vv``, in either case."""
    for name in item.assets:
        if str(name).lower() == polarization.lower():
            return str(name)
    raise FetchError(
        f"item {item.id} has no asset {polarization.lower()!r}, only {', '.join(item.assets) or 'none'}."
    )


def check_address(item: Any, href: str) -> None:
    """Refuse an address that is not on the network: a catalog must not make this machine read its own files."""
    try:
        scheme = urlsplit(href).scheme
    except ValueError:
        scheme = ""
    if scheme not in ("http", "https", "s3"):
        raise FetchError(
            f"item {item.id} points to {href[:200]!r}: only http, https and s3 addresses are read."
        )


def signed(item: Any) -> Any:
    """Return a copy of an item whose addresses carry the Planetary Computer's signature; tokens last under an hour."""
    computer = required("planetary_computer", "planetary-computer")
    requests = required("requests", "pystac-client")
    try:
        return computer.sign(item)
    except (requests.RequestException, ValueError, KeyError) as error:
        raise FetchError(f"the Planetary Computer does not sign {item.id}: {str(error)[:300]}.") from error


def bare_address(href: str) -> str:
    """Return an address without its query, which may hold a signature."""
    parts = urlsplit(href)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def required(module: str, package: str, extra: str = "fetch") -> ModuleType:
    """Import a package of the extra; raises `FetchError` saying how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise FetchError(
            f"the package {package} is not installed ({error}): pip install 'sartransfer[{extra}]'."
        ) from error
