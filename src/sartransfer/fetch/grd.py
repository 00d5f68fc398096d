"""Sentinel-1 GRD products from a STAC API: downloaded whole, calibrated and mapped here, then put on the grid."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import FetchError, SartransferError
from sartransfer.fetch.download import LONGEST_NAME, Remote, download, split_address
from sartransfer.fetch.passes import Acquisition
from sartransfer.fetch.request import Area, Grid, Period
from sartransfer.fetch.stac import Endpoint, file_size, search_endpoint, signed
from sartransfer.prepare.sentinel1 import prepare_sentinel1
from sartransfer.radar.units import Unit, parse_unit

MAP_PIXEL = 10.0  # metres of the map of a product; the pixel of an IW GRD product
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
        if isinstance(shape, list | tuple) and [type(n) for n in shape] == [int, int]:
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
    for name, remote in files.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            download(remote, path, origins=endpoint.token_origins)
    return target


def plain_name(text: str) -> str:
    """Return an item's id as a file name: it comes from a server, and must not lead out of the folder."""
    name = re.sub(r"[^\w.-]+", "_", text).strip(".") or "item"
    if len(name.encode()) > LONGEST_NAME:
        return f"{name[:40]}-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:16]}"
    return name


def product_files(item: Any) -> Iterator[tuple[str, Remote]]:
    """Yield (name in a product's folder, file in the archive) of the files that `readers.sentinel1` reads."""
    for key, asset in item.assets.items():
        href = _https(asset)
        path = split_address(href).path
        base = Path(unquote(path)).name
        place = _place(base.lower(), path, href)
        if place is None:
            continue
        if not base.isprintable() or "\\" in base or len(base.encode(errors="replace")) > LONGEST_NAME:
            raise FetchError(
                f"item {item.id}: its asset {key!r} is named {base[:80]!r}. A file's name has printable characters "
                f"without a backslash, and at most {LONGEST_NAME} bytes. Take another product or source."
            )
        said = asset.extra_fields.get("file:checksum")
        checksum = said if isinstance(said, str) else None
        name = "manifest.safe" if place == "" else f"{place}{base}"
        yield name, Remote(href, file_size(item, str(key), asset), checksum)


def _place(name: str, path: str, href: str) -> str | None:
    """Return in which folder of a product a file belongs, by its name in small letters; None: in none."""
    if name == "manifest.safe":
        return ""
    if name.startswith(("calibration-", "noise-")) and name.endswith(".xml"):
        return "annotation/calibration/"
    if name.endswith(".xml") and "/annotation/" in path and "/rfi/" not in href:
        return "annotation/"
    if name.endswith((".tif", ".tiff")) and "measurement" in path:
        return "measurement/"
    return None


def _https(asset: Any) -> str:
    """Return the asset's address, or its alternate one over https where it lies in a store that needs keys."""
    href = str(asset.href)
    if split_address(href).scheme in ("http", "https"):
        return href
    others = asset.extra_fields.get("alternate") or {}
    for other in others.values() if isinstance(others, dict) else ():
        found = str(other.get("href", "")) if isinstance(other, dict) else ""
        if split_address(found).scheme == "https":
            return found
    return href


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
