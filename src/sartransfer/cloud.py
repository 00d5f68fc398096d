"""Cloud-optimized GeoTIFFs of raw layers on disk, in memory that does not grow with them."""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import OutputError, one_of
from sartransfer.geotiff import TILE, placement, quiet
from sartransfer.scene import GeoReference, Window

CACHE = (
    64 * 2**20
)  # bytes that GDAL may hold of the files it reads and writes; its own choice is 5 % of the machine
LEAST_CACHE = 8 * 2**20  # with less GDAL reads its own blocks again and again
WRITING = (
    76 * 2**20
)  # bytes that writing takes beside twice the cache: threads that compress, blocks read again
KINDS = {"uint8": "Byte", "float32": "Float32", "float16": "Float32"}
"""Type of a layer -> GDAL's type of its raw file."""
RESAMPLINGS = ("mode", "average")

Blocks = Iterable[tuple[Window, NDArray[Any]]]
"""(where, values (count, h, w)) of windows that together are the whole layer."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One file of a map."""

    path: Path
    """Where it goes in the end."""
    count: int
    """Bands."""
    dtype: str
    """``uint8``, ``float32``, or ``float16``: floats rounded to 16 bits. The file holds those as float32, whose zeros
    deflate well: in tiles of 16 bits and several bands GDAL 3.10's COG driver leaves bytes beyond the scene undefined,
    so that no two files were the same.
    """
    nodata: float
    descriptions: tuple[str, ...]
    colormap: Mapping[int, tuple[int, int, int]] | None = None
    scale: float = 1.0
    """What a stored number is to be multiplied with."""
    overviews: str = "average"
    """How overviews are made: ``average``, or ``mode`` for classes; pixels without a value do not count."""

    def __post_init__(self) -> None:
        if self.dtype not in KINDS:
            raise ValueError(one_of("dtype", self.dtype, KINDS))
        if self.overviews not in RESAMPLINGS:
            raise ValueError(one_of("overviews", self.overviews, RESAMPLINGS))

    @property
    def kept(self) -> np.dtype[Any]:
        """The type of its raw file."""
        return np.dtype("float32" if self.dtype == "float16" else self.dtype)

    def stored(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the values as the file will hold them: of the raw file's type, rounded where the layer is."""
        if self.dtype == "float16":
            values = np.asarray(values).astype(np.float16)
        return np.asarray(values, dtype=self.kept)


def cache_within(memory: int | None) -> int:
    """Return the bytes that GDAL may hold while a map is written in `memory` bytes; None: `CACHE`."""
    return CACHE if memory is None else min(CACHE, max(LEAST_CACHE, (memory - WRITING) // 2))


def write_cloud_optimized(
    path: Path,
    raw: Path,
    layer: Layer,
    height: int,
    width: int,
    georeference: GeoReference,
    tags: Mapping[str, str],
    blocks: Callable[[], Blocks],
    cache: int = CACHE,
) -> None:
    """Write a raw layer as a cloud-optimized GeoTIFF (GDAL's COG driver), and read it back.

    Tiled, deflated, with overviews, all directories before the pixels; the same raw file gives the same bytes.

    Args:
        path: the GeoTIFF. raw: the layer, band after band, beside `path`; what GDAL is told about it is written to
            ``<raw>.vrt`` and removed.
        layer, height, width, georeference, tags: what it is, and where.
        blocks: yields what the raw layer holds; compared with what the file holds.
        cache: bytes that GDAL may hold (`cache_within`); it changes no byte of the file.

    Raises `OutputError` where what was written is not what was given (GDAL may tell of a full disk only in its log).
    """
    import rasterio
    from rasterio.shutil import copy
    from rasterio.windows import Window as Part

    told = raw.with_name(f"{raw.name}.vrt")
    options: dict[str, Any] = {
        "BLOCKSIZE": TILE,
        "COMPRESS": "DEFLATE",
        "PREDICTOR": "NO" if layer.colormap else "YES",  # differences of classes mean nothing
        "OVERVIEW_RESAMPLING": layer.overviews.upper(),
        "RESAMPLING": layer.overviews.upper(),
        "BIGTIFF": "IF_SAFER",
        "NUM_THREADS": "ALL_CPUS",  # they compress; blocks are written in order, so their number changes no byte
    }
    with rasterio.Env(GDAL_CACHEMAX=cache, GDAL_VRT_ENABLE_RAWRASTERBAND="YES"), quiet():
        told.write_text(_raw_bands(raw, layer, height, width), encoding="utf-8")
        try:
            _describe(told, layer, georeference, tags)
            copy(str(told.resolve()), str(path.resolve()), driver="COG", **options)
        except rasterio.errors.RasterioError:
            raise
        except Exception as error:  # GDAL's own errors have no public class
            if not type(error).__module__.startswith("rasterio"):
                raise
            raise OutputError(f"{layer.path} could not be written ({error}). Is the disk full?") from error
        finally:
            told.unlink(missing_ok=True)
    with rasterio.Env(GDAL_CACHEMAX=cache), quiet(), rasterio.open(path.resolve(), driver="GTiff") as file:
        for window, values in blocks():
            found = file.read(window=Part(window.col, window.row, window.width, window.height))
            if not np.array_equal(found, values, equal_nan=values.dtype.kind == "f"):
                raise OutputError(f"{layer.path} could not be written whole. Is the disk full?")


def _raw_bands(raw: Path, layer: Layer, height: int, width: int) -> str:
    """Return GDAL's description (a VRT) of the raw file; only its sizes and its name in its own folder are in it."""
    size = layer.kept.itemsize
    order = "LSB" if sys.byteorder == "little" else "MSB"
    bands = "".join(
        f'<VRTRasterBand dataType="{KINDS[layer.dtype]}" band="{i + 1}" subClass="VRTRawRasterBand">'
        f'<SourceFilename relativeToVRT="1">{raw.name}</SourceFilename>'
        f"<ImageOffset>{i * height * width * size}</ImageOffset><PixelOffset>{size}</PixelOffset>"
        f"<LineOffset>{width * size}</LineOffset><ByteOrder>{order}</ByteOrder></VRTRasterBand>"
        for i in range(layer.count)
    )
    return f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{bands}</VRTDataset>'


def _describe(path: Path, layer: Layer, georeference: GeoReference, tags: Mapping[str, str]) -> None:
    import rasterio
    from rasterio.crs import CRS

    place = placement(georeference)
    crs = CRS.from_user_input(place["crs"]) if place.get("crs") else None
    with rasterio.open(path.resolve(), "r+", driver="VRT") as file:
        if "gcps" in place:
            file.gcps = (place["gcps"], crs)
        elif place:
            file.transform = place["transform"]
            if crs is not None:
                file.crs = crs
        file.nodata = layer.nodata
        file.update_tags(**tags)
        for i, text in enumerate(layer.descriptions):
            file.set_band_description(i + 1, text)
        if layer.scale != 1:
            file.scales = [layer.scale] * layer.count
        if layer.colormap:
            file.write_colormap(1, {int(k): (*rgb, 255) for k, rgb in layer.colormap.items()})
