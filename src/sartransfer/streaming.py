"""Maps that grow window by window on disk, survive a kill, and become cloud-optimized GeoTIFFs when they are whole."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.cloud import CACHE, WRITING, Layer, cache_within, write_cloud_optimized
from sartransfer.errors import OutputError
from sartransfer.geotiff import TILE
from sartransfer.journal import Journal, first_line
from sartransfer.rawfile import read_at, write_at
from sartransfer.recipe.places import digest
from sartransfer.scene import GeoReference, Window

BLOCK_BYTES = 4 * 2**20  # of a layer that are looked at together, where a tile of all its bands is not more
JOURNAL = "windows.jsonl"
PLACING = "placing.json"
# Endings of what GIS programs keep beside a map: they would show the one that was there before.
NOTED = (".aux.xml", ".ovr", ".msk")
OPTIONS_TAG = "SARTRANSFER_OPTIONS"
STATISTICS = re.compile(
    rb'<Histograms>.*?</Histograms>|<MDI key="STATISTICS_[^"]*">[^<]*</MDI>|<!--.*?-->|<\?.*?\?>', re.DOTALL
)
Beside = Callable[[Sequence[Path]], Sequence[tuple[Path, Path]]]
"""Takes the finished, not yet placed GeoTIFFs; makes files beside them: (where it is now, where it goes)."""


def _folder(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def earlier_task(path: Path) -> dict[str, Any]:
    """Return the task of the unfinished map that an earlier call left beside `path`; empty where there is none."""
    try:
        with (_folder(path) / JOURNAL).open(encoding="utf-8") as file:
            task = json.loads(file.readline())["task"]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return task if isinstance(task, dict) else {}


def placed(path: Path) -> list[Path]:
    """Return the files of a map that an earlier call had put in place when it was killed, before the map itself.

    Only those that are as it left them: of the same size and time.
    """
    folder, found = _folder(path), []
    try:
        for made, name, *was in json.loads((folder / PLACING).read_text("utf-8")):
            there = path.with_name(name)
            if there.exists() and not (folder / made).exists() and was == _stamp(there):
                found.append(there)
    except (OSError, ValueError, TypeError):
        return []
    return found


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def continues(layers: Sequence[Layer], height: int, width: int, task: Mapping[str, Any] | None) -> bool:
    """Return whether `GrowingMap` with these words would go on with what an earlier call left."""
    try:
        with (_folder(layers[0].path) / JOURNAL).open(encoding="utf-8") as file:
            return file.readline() == f"{first_line(_header(layers, height, width, task))}\n"
    except (OSError, ValueError):
        return False


def _header(
    layers: Sequence[Layer], height: int, width: int, task: Mapping[str, Any] | None
) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(
        json.dumps(
            {
                "size": [height, width],
                "task": uuid.uuid4().hex if task is None else dict(task),
                "layers": [[layer.path.name, layer.count, layer.dtype] for layer in layers],
            }
        )
    )
    return header


def scene_parts(files: Sequence[Path]) -> list[Path]:
    """Return files, and those in folders."""
    found = [p for file in files for p in (sorted(file.rglob("*")) if file.is_dir() else [file])]
    return [p for p in found if p.is_file()]


def sidecars(files: Sequence[Path]) -> list[tuple[Path, list[int | str]]]:
    """Return what stands beside files and tells where they lie or which pixels are valid, and what changes with it.

    In folders it is among their `scene_parts`.
    """
    found: dict[Path, list[int | str]] = {}
    for file in files:
        if not file.is_file():
            continue
        short = file.suffix[1:]
        worlds = {f"{short[:1]}{short[-1:]}w", f"{short}w", "wld", "tab"} if short else {"wld", "tab"}
        beside = [file.with_suffix(f".{end}") for world in sorted(worlds) for end in (world, world.upper())]
        for path in (file.with_name(f"{file.name}.msk"), *beside):
            if path.is_file():
                found[path] = [path.stat().st_size, path.stat().st_mtime_ns]
        notes = file.with_name(f"{file.name}.aux.xml")
        if notes.is_file() and (said := _said(notes.read_bytes())):
            found[notes] = [hashlib.sha256(said).hexdigest()[:16]]
    return list(found.items())


def _said(notes: bytes) -> bytes:
    """Return what GDAL's notes beside a file say, but for statistics, which viewers add when a file is looked at."""
    rest = STATISTICS.sub(b"", notes)
    for name in (b"Metadata", b"PAMRasterBand", b"PAMDataset"):  # what holds nothing now
        rest = re.sub(rb"<%s\b[^<>]*>\s*</%s>" % (name, name), b"", rest)
    return b"".join(rest.split())


def map_note(task: Mapping[str, Any], layers: Sequence[Layer]) -> dict[str, Any]:
    """Return what tells a map of a task from one made with other options: JSON values, without places and versions.

    It is the map's tag `OPTIONS_TAG`, by which `archive.made` knows a map that is there.

    Args:
        task: as `mapping.map_task` returns it. layers: of the map, the classes first.
    """
    return {
        "networks": digest([task.get(name) for name in ("tensors", "contracts", "classes")]),
        **{name: task.get(name) for name in ("bands", "views", "engines")},
        **{name: task[name] for name in ("reader",) if name in task},
        "plans": [[plan["method"], plan["core"], plan["halo"]] for plan in task.get("plans", ())],
        "layers": {each.path.stem.removeprefix(layers[0].path.stem): each.dtype for each in layers},
    }


def writing_bytes(layers: Sequence[Layer], height: int, width: int, memory: int | None) -> int:
    """Return the most bytes that making the files of layers of this size takes (`GrowingMap.finish`).

    `memory`: what `cache_within` was given.
    """
    pixels = height * width
    largest = max(pixels * layer.count * layer.kept.itemsize for layer in layers)
    return WRITING + 2 * min(cache_within(memory), largest)  # a cache of what is read, and of what is written


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
        self.folder = _folder(layers[0].path)
        self.task = task
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{layers[0].path} cannot be written ({error}). Is the disk full, or the folder read-only?"
            ) from error
        self.journal = Journal(
            self.folder / JOURNAL, _header(self.layers, height, width, task), forget=self._forget
        )
        self._files: list[int] = []
        try:
            for path in placed(layers[0].path):  # made anew of the raw layers, with all the others
                path.unlink()
            (self.folder / PLACING).unlink(missing_ok=True)
            for number, layer in enumerate(self.layers):
                file = os.open(self.folder / f"{number}.raw", os.O_RDWR | os.O_CREAT, 0o600)
                self._files.append(file)
                os.ftruncate(file, layer.count * height * width * layer.kept.itemsize)
        except OSError as error:
            if self.done:
                self.close()
            else:
                self.remove()
            raise OutputError(f"{layers[0].path} cannot be written ({error}). Is the disk full?") from error

    @property
    def resumable(self) -> bool:
        """Whether a later call can go on from here."""
        return self.task is not None

    @property
    def done(self) -> set[Window]:
        """The windows that are there."""
        return self.journal.done

    def _forget(self) -> None:
        """Remove what another task left in the folder."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != JOURNAL:
                path.unlink()

    def add(self, window: Window, arrays: Sequence[NDArray[Any]]) -> None:
        """Put one window's (count, h, w) of every layer in its place; on disk when this returns."""
        try:
            for file, layer, array in zip(self._files, self.layers, arrays, strict=True):
                values = np.ascontiguousarray(layer.stored(array)).reshape(layer.count, *array.shape[-2:])
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

    def blocks(self, number: int) -> Iterator[tuple[Window, NDArray[Any]]]:
        """Yield windows of whole tiles with a layer's values (count, h, w), row of tiles by row of tiles."""
        layer = self.layers[number]
        size = layer.kept.itemsize
        tiles = max(1, BLOCK_BYTES // (TILE * TILE * layer.count * size))
        for row in range(0, self.height, TILE):
            for col in range(0, self.width, tiles * TILE):
                window = Window(row, col, min(TILE, self.height - row), min(tiles * TILE, self.width - col))
                values = np.empty((layer.count, window.height, window.width), dtype=layer.kept)
                for band, image in enumerate(values):
                    for i, line in enumerate(image):
                        place = (band * self.height + row + i) * self.width + col
                        read_at(self._files[number], line, place * size)
                yield window, values

    def counts(self) -> NDArray[np.int64]:
        """Return how often each value 0 to 255 is in the first layer."""
        found = np.zeros(256, dtype=np.int64)
        for _, values in self.blocks(0):
            found += np.bincount(values.ravel(), minlength=256)
        return found

    def finish(
        self,
        georeference: GeoReference,
        tags: Mapping[str, str],
        *,
        overwrite: bool = False,
        beside: Beside | None = None,
        cache: int = CACHE,
    ) -> None:
        """Make the GeoTIFFs and what stands beside them, put all of them in place or none, and remove the folder.

        `cache`: of `write_cloud_optimized`. Raises `OutputError` where one exists by now, or cannot be written whole.
        """
        from rasterio.errors import CRSError, RasterioError

        made: list[tuple[Path, Path]] = []
        if self.task is not None:
            tags = {**tags, OPTIONS_TAG: json.dumps(map_note(self.task, self.layers), sort_keys=True)}
        try:
            for number, layer in enumerate(self.layers):
                temporary = self.folder / f"{number}.tif"
                raw = self.folder / f"{number}.raw"
                blocks = partial(self.blocks, number)
                write_cloud_optimized(
                    temporary, raw, layer, self.height, self.width, georeference, tags, blocks, cache
                )
                made.append((temporary, layer.path))
            if beside is not None:
                made += beside([temporary for temporary, _ in made])
            for _, path in made:
                if path.exists() and not overwrite:
                    raise OutputError(
                        f"{path} exists by now. Choose another name, or overwrite it (--overwrite)."
                    )
            self._note_placing(made)
            for layer in self.layers:
                for ending in NOTED:
                    layer.path.with_name(f"{layer.path.name}{ending}").unlink(missing_ok=True)
            for temporary, path in reversed(made):  # the classes last: where they are, all is
                temporary.replace(path)
        except (OSError, RasterioError, CRSError) as error:
            raise OutputError(
                f"{self.layers[0].path} could not be written ({error}). Is the disk full?"
            ) from error
        self.remove()

    def _note_placing(self, made: Sequence[tuple[Path, Path]]) -> None:
        """Write which files go where, so that a call after a kill knows its own (`placed`)."""
        entries = [
            [temporary.relative_to(self.folder).as_posix(), path.name, *_stamp(temporary)]
            for temporary, path in made
        ]
        with (self.folder / PLACING).open("w", encoding="utf-8") as file:
            json.dump(entries, file)
            file.flush()
            os.fsync(file.fileno())

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
        """Keep what is there, and note that on the error; remove it where nothing could go on from it."""
        begun = bool(self.done) or any(self.folder.rglob("features*"))
        if error is None or not self.resumable or not begun:
            self.remove()
            return
        self.close()
        with contextlib.suppress(OSError):  # the error itself is to be told
            for number in range(len(self.layers)):  # made anew of the raw layers, which need the room
                (self.folder / f"{number}.tif").unlink(missing_ok=True)
        number = len(self.done)
        what = {0: "What is done is", 1: "1 finished window is"}.get(number, f"{number} finished windows are")
        error.add_note(
            f"{what} kept in {self.folder}: the same command goes on from there, with the same checkpoint and scene."
        )
