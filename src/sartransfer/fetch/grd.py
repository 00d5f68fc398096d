"""Sentinel-1 GRD products from a STAC API: downloaded whole, calibrated and mapped here, then put on the grid."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import FetchError, SartransferError
from sartransfer.fetch.passes import Acquisition
from sartransfer.fetch.request import Area, Grid, Period
from sartransfer.fetch.stac import (
    TIMEOUT,
    Endpoint,
    bare_address,
    required,
    search_endpoint,
    signed,
)
from sartransfer.prepare.sentinel1 import prepare_sentinel1
from sartransfer.radar.units import Unit, parse_unit

TOKEN = "SARTRANSFER_STAC_TOKEN"
"""Environment variable with a bearer token, sent to the endpoint's own download hosts only."""
MAP_PIXEL = 10.0  # metres of the map of a product; the pixel of an IW GRD product
BLOCK = 1 << 16  # bytes; a block that breaks off is lost
PRODUCT_BYTES = 900_000_000  # of one polarization of an IW GRDH product, where the archive does not say


@dataclass(frozen=True, slots=True)
class ProductArchive:
    """A collection of GRD products with their annotation: sigma0 comes of them, on the ellipsoid."""

    endpoint: Endpoint

    @property
    def unit(self) -> Unit:
        """Linear sigma0, thermal noise subtracted."""
        return parse_unit("sigma0")

    def search(self, area: Area, period: Period) -> list[Acquisition]:
        """Return what the collection has of an area in a period."""
        return search_endpoint(self.endpoint, area, period)

    def load(
        self, frame: Acquisition, grid: Grid, polarizations: Sequence[str], scratch: Path
    ) -> NDArray[np.float32]:
        """Return a window of a product's map; product and map are made once and kept in `scratch`."""
        path = scratch / f"{plain_name(frame.id)}.tif"
        if not path.is_file():
            product = download_product(self.endpoint, frame, scratch / "products")
            try:
                prepare_sentinel1(
                    product,
                    path,
                    quantity="sigma0",
                    decibel=False,
                    multilook=1,
                    crs=grid.crs,
                    pixel_size=min(MAP_PIXEL, grid.resolution),
                )
            except SartransferError as error:
                raise FetchError(f"{frame.id} was loaded but cannot be mapped: {error}") from error
        return read_onto(path, grid, [f"sigma0_{p.lower()}" for p in polarizations])

    def bytes_to_load(self, frame: Acquisition, grid: Grid, polarizations: Sequence[str]) -> int:
        """Return the product's bytes: as the archive says, or from its shape, or a usual one's."""
        if frame.size is not None:
            return frame.size
        shape = frame.source.properties.get("s1:shape") if frame.source is not None else None
        if isinstance(shape, list | tuple) and len(shape) == 2:
            return int(shape[0]) * int(shape[1]) * 2 * len(frame.polarizations)
        return PRODUCT_BYTES * len(frame.polarizations)

    def describe(self) -> dict[str, Any]:
        """Endpoint and collection, and what was done to its products."""
        return {
            "kind": "stac, products",
            "endpoint": self.endpoint.url,
            "collection": self.endpoint.collection,
            "processing": "sigma0 on the ellipsoid, thermal noise subtracted, no terrain model",
        }


def download_product(endpoint: Endpoint, frame: Acquisition, folder: Path) -> Path:
    """Download a product's images and annotation into ``folder/<id>``; files that are whole are not loaded again."""
    target = folder / plain_name(frame.id)
    item = signed(frame.source) if endpoint.sign else frame.source
    files = dict(product_files(item))
    lacking = {"annotation/", "annotation/calibration/", "measurement/"} - {
        n[: n.rindex("/") + 1] for n in files if "/" in n
    }
    if lacking:
        raise FetchError(
            f"item {frame.id} has no assets for {', '.join(sorted(lacking))}: a product needs images, annotation, "
            "calibration and noise."
        )
    for name, href in files.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            download(href, path, hosts=endpoint.token_hosts)
    return target


def plain_name(text: str) -> str:
    """Return an item's id as a file name: it comes from a server, and must not lead out of the folder."""
    return re.sub(r"[^\w.-]+", "_", text).strip(".") or "item"


def product_files(item: Any) -> Iterator[tuple[str, str]]:
    """Yield (name in a product's folder, address) of the files that `readers.sentinel1` reads."""
    for asset in item.assets.values():
        href = _https(asset)
        base = Path(unquote(urlsplit(href).path)).name
        lower = base.lower()
        if lower == "manifest.safe":
            yield "manifest.safe", href
        elif lower.startswith(("calibration-", "noise-")) and lower.endswith(".xml"):
            yield f"annotation/calibration/{base}", href
        elif lower.endswith(".xml") and "/annotation/" in urlsplit(href).path and "/rfi/" not in href:
            yield f"annotation/{base}", href
        elif lower.endswith((".tif", ".tiff")) and "measurement" in urlsplit(href).path:
            yield f"measurement/{base}", href


def _https(asset: Any) -> str:
    """Return the asset's address, or its alternate one over https where it lies in a store that needs keys."""
    href = str(asset.href)
    if urlsplit(href).scheme in ("http", "https"):
        return href
    others = asset.extra_fields.get("alternate") or {}
    for other in others.values() if isinstance(others, dict) else ():
        found = str(other.get("href", "")) if isinstance(other, dict) else ""
        if urlsplit(found).scheme == "https":
            return found
    return href


def download(href: str, path: Path, *, hosts: Sequence[str] = ()) -> Path:
    """Download a file, going on where an earlier try stopped; renamed when it is whole.

    Raises `FetchError` for what is not http(s), an answer that is no success, or fewer bytes than announced.
    """
    parts = urlsplit(href)
    if parts.scheme not in ("http", "https"):
        raise FetchError(
            f"{href[:200]!r} is not on http or https: products in an object store that needs keys cannot be loaded. "
            "Take another source, or download the product yourself and use `sartransfer prepare sentinel1`."
        )
    requests = required("requests", "pystac-client")
    part = path.with_name(f"{path.name}.part")
    have = part.stat().st_size if part.is_file() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    token = os.environ.get(TOKEN)
    if token and parts.hostname in hosts:
        headers["Authorization"] = f"Bearer {token}"
    try:
        with requests.get(href, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code in (401, 403):
                raise FetchError(
                    f"{bare_address(href)} needs an account (HTTP {answer.status_code}). Put its token into the "
                    f"environment variable {TOKEN}."
                )
            if answer.status_code == 416:  # the part is no part of this file
                part.unlink(missing_ok=True)
                raise FetchError(f"{bare_address(href)} has changed since it was begun. Try again.")
            answer.raise_for_status()
            going_on = have > 0 and answer.status_code == 206
            length = answer.headers.get("Content-Length")
            expected = None if length is None else int(length) + (have if going_on else 0)
            with part.open("ab" if going_on else "wb") as file:
                for block in answer.iter_content(BLOCK):
                    file.write(block)
    except requests.RequestException as error:
        words = str(error).replace(parts.query, "...") if parts.query else str(error)
        raise FetchError(
            f"{bare_address(href)} could not be loaded: {words[:300]}. Try again: what is there is kept."
        ) from error
    size = part.stat().st_size
    if expected is not None and size != expected:
        raise FetchError(f"{bare_address(href)} stopped at {size} of {expected} bytes. Try again.")
    part.replace(path)
    return path


def read_onto(path: Path, grid: Grid, names: Sequence[str]) -> NDArray[np.float32]:
    """Read bands of a map of linear power onto a grid (B, H, W): bilinear, or means where pixels grow."""
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.errors import RasterioError
    from rasterio.warp import reproject

    try:
        with rasterio.open(path) as file:
            how = Resampling.average if grid.resolution > 1.5 * abs(file.transform.a) else Resampling.bilinear
            out = np.full((len(names), grid.height, grid.width), np.nan, dtype=np.float32)
            for i, name in enumerate(names):
                band = rasterio.band(file, file.descriptions.index(name) + 1)
                reproject(
                    band,
                    out[i],
                    dst_transform=rasterio.Affine(*grid.transform),
                    dst_crs=grid.crs,
                    src_nodata=float("nan"),
                    dst_nodata=float("nan"),
                    resampling=how,
                )
    except (RasterioError, OSError, ValueError) as error:
        raise FetchError(f"{path} cannot be read ({error}). Delete it, and try again.") from error
    return out
