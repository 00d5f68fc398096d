"""Maps that grow window by window on disk, survive a kill, and become GeoTIFFs when they are whole."""

import contextlib
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import OutputError
from sartransfer.geotiff import TILE, placement
from sartransfer.journal import Journal
from sartransfer.rawfile import read_at, write_at
from sartransfer.scene import GeoReference, Window

CACHE = (
    64 * 2**20
)  # bytes that GDAL may hold of the files it reads and writes; its own choice is 5 % of the machine
ROWS_BYTES = (
    32 * 2**20
)  # bytes of rows that are turned into a GeoTIFF at once, where a row of tiles is not more


@dataclass(frozen=True, slots=True)
class Layer:
    """One file of a map."""

    path: Path
    """Where it goes in the end."""
    count: int
    """Bands."""
    dtype: str
    nodata: float
    descriptions: tuple[str, ...]
    colormap: Mapping[int, tuple[int, int, int]] | None = None
    scale: float = 1.0
    """What a stored number is to be multiplied with."""


class GrowingMap:
    """Layers of one map, kept raw in a folder beside it until all windows are there.

    Windows may come in any order; which are there is in a journal, so that the same call goes on after a kill. The
    GeoTIFFs are made of the raw layers row by row, so that neither the order nor a kill changes a byte of them.
    """

    def __init__(
        self, layers: Sequence[Layer], height: int, width: int, task: Mapping[str, Any] | None
    ) -> None:
        """Begin, or go on with what an earlier call for the same `task` left; None: nothing is gone on with."""
        self.layers, self.height, self.width = tuple(layers), height, width
        self.folder = layers[0].path.with_name(f".{layers[0].path.name}.partial")
        self.resumable = task is not None
        header: dict[str, Any] = {
            "size": [height, width],
            "task": uuid.uuid4().hex if task is None else dict(task),
        }
        header["layers"] = [[layer.path.name, layer.count, layer.dtype] for layer in layers]
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{layers[0].path} cannot be written ({error}). Is the disk full, or the folder read-only?"
            ) from error
        self.journal = Journal(self.folder / "windows.jsonl", json.loads(json.dumps(header)))
        self._files: list[int] = []
        try:
            if not self.journal.continued:
                self._forget()
            for number, layer in enumerate(self.layers):
                file = os.open(self.folder / f"{number}.raw", os.O_RDWR | os.O_CREAT, 0o600)
                self._files.append(file)
                os.ftruncate(file, layer.count * height * width * np.dtype(layer.dtype).itemsize)
        except OSError as error:
            self.close()
            raise OutputError(f"{layers[0].path} cannot be written ({error}). Is the disk full?") from error

    @property
    def done(self) -> set[Window]:
        """The windows that are there."""
        return self.journal.done

    def _forget(self) -> None:
        """Remove what another task left in the folder."""
        for path in self.folder.iterdir():
            if path != self.journal.path:
                path.unlink()

    def add(self, window: Window, arrays: Sequence[NDArray[Any]]) -> None:
        """Put one window's (count, h, w) of every layer in its place; on disk when this returns."""
        try:
            for file, layer, array in zip(self._files, self.layers, arrays, strict=True):
                values = np.ascontiguousarray(array, dtype=layer.dtype).reshape(
                    layer.count, *array.shape[-2:]
                )
                for band, image in enumerate(values):
                    for i, line in enumerate(image):
                        place = (band * self.height + window.row + i) * self.width + window.col
                        write_at(file, line, place * line.itemsize)
                os.fsync(file)
        except OSError as error:
            raise OutputError(
                f"{self.layers[0].path} could not be written ({error}). Is the disk full?"
            ) from error
        self.journal.add(window)

    def rows(self, number: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (first row, values (count, n, width)) of a layer, from top to bottom, by whole rows of tiles."""
        layer = self.layers[number]
        size = np.dtype(layer.dtype).itemsize
        step = TILE * max(1, ROWS_BYTES // (TILE * self.width * layer.count * size))
        for first in range(0, self.height, step):
            n = min(step, self.height - first)
            values = np.empty((layer.count, n, self.width), dtype=layer.dtype)
            for band in range(layer.count):
                read_at(self._files[number], values[band], (band * self.height + first) * self.width * size)
            yield first, values

    def counts(self) -> NDArray[np.int64]:
        """Return how often each value 0 to 255 is in the first layer."""
        found = np.zeros(256, dtype=np.int64)
        for _, values in self.rows(0):
            found += np.bincount(values.ravel(), minlength=256)
        return found

    def finish(self, georeference: GeoReference, tags: Mapping[str, str], *, overwrite: bool = False) -> None:
        """Make the GeoTIFFs, all of them or none, and remove the folder.

        Raises `OutputError` where one exists by now, or cannot be written whole.
        """
        from rasterio.errors import CRSError, RasterioError

        made: list[tuple[Path, Path]] = []
        try:
            for number, layer in enumerate(self.layers):
                temporary = self.folder / f"{number}.tif"
                write_rows(temporary, self, number, georeference, tags)
                made.append((temporary, layer.path))
            for _, path in made:
                if path.exists() and not overwrite:
                    raise OutputError(
                        f"{path} exists by now. Choose another name, or overwrite it (--overwrite)."
                    )
            for temporary, path in reversed(made):  # the classes last: where they are, all is
                temporary.replace(path)
        except (OSError, RasterioError, CRSError) as error:
            raise OutputError(
                f"{self.layers[0].path} could not be written ({error}). Is the disk full?"
            ) from error
        self.remove()

    def close(self) -> None:
        """Let go of the files; what is there stays for a later call."""
        for file in self._files:
            os.close(file)
        self._files.clear()
        self.journal.__exit__(None, None, None)

    def remove(self) -> None:
        """Let go of the files and remove the folder."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> "GrowingMap":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep what is there where somebody stopped the work, remove it where an error did."""
        begun = self.done or any(self.folder.glob("features*"))
        if isinstance(error, KeyboardInterrupt) and self.resumable and begun:
            self.close()
        else:
            self.remove()


def write_rows(
    path: Path, grown: GrowingMap, number: int, georeference: GeoReference, tags: Mapping[str, str]
) -> None:
    """Write one layer as a tiled, deflated GeoTIFF, a few rows of tiles at a time, and read it back.

    Raises `OutputError` where what was written is not what was given (GDAL may tell of a full disk only in its log).
    """
    import rasterio
    from rasterio.windows import Window as Part

    layer = grown.layers[number]
    place = placement(georeference)
    with (
        rasterio.Env(GDAL_CACHEMAX=CACHE),
        _quiet(),
        rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=layer.count,
            height=grown.height,
            width=grown.width,
            dtype=layer.dtype,
            nodata=layer.nodata,
            tiled=True,
            blockxsize=TILE,
            blockysize=TILE,
            compress="deflate",
            predictor=3 if layer.dtype.startswith("float") else 2,
            bigtiff="if_safer",
            **place,
        ) as file,
    ):
        file.update_tags(**tags)
        for i, text in enumerate(layer.descriptions):
            file.set_band_description(i + 1, text)
        if layer.scale != 1:
            file.scales = [layer.scale] * layer.count
        if layer.colormap:
            file.write_colormap(1, {int(k): (*rgb, 255) for k, rgb in layer.colormap.items()})
        for first, values in grown.rows(number):
            file.write(values, window=Part(0, first, grown.width, values.shape[1]))
    with rasterio.Env(GDAL_CACHEMAX=CACHE), _quiet(), rasterio.open(path) as file:
        for first, values in grown.rows(number):
            found = file.read(window=Part(0, first, grown.width, values.shape[1]))
            if not np.array_equal(found, values, equal_nan=layer.dtype.startswith("float")):
                raise OutputError(f"{layer.path} could not be written whole. Is the disk full?")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warning that a file is not georeferenced: the scene is not."""
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
