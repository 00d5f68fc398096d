"""Scenes decoded once for training, on disk: random windows then cost a copy of their pixels.

In the folder that SARTRANSFER_CACHE names, else in ``sartransfer/training`` of the user's cache (XDG_CACHE_HOME, or
``~/.cache``): at most SARTRANSFER_CACHE_GB gigabytes (100), the longest unused scenes leave first. A scene lies under
a hash of its files (paths, sizes, times of change and both ends' content), of which bands are wanted in which units,
and of what its labels mean; so what has changed is made anew, and the old files leave in their turn. Written under
another name, and named when whole; each file's CRC-32 is in the header and compared when a process first opens the
scene, so that what a disk has damaged is made anew too.
"""

import hashlib
import json
import os
import shutil
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sartransfer
from sartransfer.catalog import IGNORE_INDEX, Catalog, Entry
from sartransfer.contract import InputContract
from sartransfer.data.decoded import CHUNK, KINDS, PlaneFile, Planes, narrow, read_normalized, write_planes
from sartransfer.errors import InputError, OutputError, RecipeError, one_of
from sartransfer.readers import read_label
from sartransfer.scene import Scene, Window

FORMAT = 1  # of these files; another number makes all anew
GIGABYTES = 100.0
ENDS = 1 << 16  # bytes at each end of a file that enter its hash
BLOCK_PIXELS = 1 << 22  # decoded at a time

READ_BYTES = 1 << 22  # of a file at a time, for its checksum

_in_use: set[Path] = set()  # what this process has opened, and must not clear away
# Files whose checksum this process has compared, and what they were then.
_seen_whole: dict[Path, tuple[int, ...]] = {}


@dataclass(frozen=True, slots=True)
class Storage:
    """Where decoded scenes are kept, and how much of them."""

    folder: Path
    limit_bytes: int

    @classmethod
    def from_environment(cls) -> "Storage":
        """Return the place that the user chose, or the user's cache; raises `InputError` for a limit that is none."""
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        folder = os.environ.get("SARTRANSFER_CACHE") or str(Path(base) / "sartransfer" / "training")
        text = os.environ.get("SARTRANSFER_CACHE_GB", str(GIGABYTES))
        try:
            limit = float(text)
        except ValueError:
            limit = -1.0
        if not (np.isfinite(limit) and limit > 0):
            raise InputError(f"SARTRANSFER_CACHE_GB={text!r}: must be a number of gigabytes above 0.")
        return cls(Path(folder).expanduser(), int(limit * 1e9))


class DecodedScenes:
    """The scenes of a store in the cache; decoded into it when they are first asked for, or by `prepare`."""

    def __init__(
        self,
        catalog: Catalog,
        entries: Sequence[Entry],
        scenes: Sequence[Scene],
        contract: InputContract,
        kind: str,
        storage: Storage | None = None,
    ) -> None:
        """Raises `RecipeError` for an unknown `kind`, `InputError` if all cannot be kept together."""
        if kind not in KINDS:
            raise RecipeError(one_of("data.cache", kind, ("none", *KINDS)))
        self.catalog, self.entries, self.scenes, self.contract = catalog, entries, scenes, contract
        self.kind, self.storage = kind, storage or Storage.from_environment()
        self._mean = np.array([b.mean for b in contract.bands], dtype=np.float32)
        self._std = np.array([b.std for b in contract.bands], dtype=np.float32)
        self._files: list[tuple[PlaneFile, PlaneFile | None] | None] = [None] * len(scenes)
        need = sum(_most_bytes(scene, contract) for scene in scenes)
        if need > self.storage.limit_bytes:
            raise InputError(
                f"data.cache: {len(scenes)} scenes take up to {need / 1e9:.3g} GB decoded, but "
                f"{self.storage.limit_bytes / 1e9:.3g} GB are allowed in {self.storage.folder}. Raise "
                "SARTRANSFER_CACHE_GB, or set data.cache: none."
            )

    def prepare(self) -> None:
        """Decode what is not there yet, so that no other process has to."""
        for index in range(len(self.scenes)):
            self._opened(index)

    def read(
        self, index: int, window: Window
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.uint8] | None]:
        """Return what `InputContract.read` and `read_label` would: image, valid, and the label or None."""
        image = np.empty((len(self._mean), window.height, window.width), dtype=np.float32)
        valid = np.empty((window.height, window.width), dtype=bool)
        self.read_into(index, window, image, valid)
        return image, valid, self.read_label(index, window)

    def read_into(
        self, index: int, window: Window, image: NDArray[np.float32], valid: NDArray[np.bool_]
    ) -> None:
        """Fill arrays of the caller with a window of scene `index`; see `decoded.read_normalized`."""
        read_normalized(self._opened(index)[0], window, self._mean, self._std, image, valid)

    def read_label(self, index: int, window: Window) -> NDArray[np.uint8] | None:
        """Return the classes (h, w) of a window, `IGNORE_INDEX` where nothing is known or no band has a value."""
        labels = self._opened(index)[1]
        return None if labels is None else labels.read(window)[0]

    def _opened(self, index: int) -> tuple[PlaneFile, PlaneFile | None]:
        found = self._files[index]
        if found is None:
            found = self._files[index] = self._open(index)
        return found

    def _open(self, index: int) -> tuple[PlaneFile, PlaneFile | None]:
        entry, scene = self.entries[index], self.scenes[index]
        made_from = _described(entry, self.catalog, self.contract, self.kind)
        made_from["size"] = [scene.height, scene.width]
        told = json.dumps(made_from, sort_keys=True)
        folder = self.storage.folder / hashlib.sha256(told.encode()).hexdigest()[:32]
        files = _existing(folder, entry, made_from)
        if files is None:
            if folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)  # damaged
            make_room(self.storage, _most_bytes(scene, self.contract))
            self._build(folder, entry, scene, told)
            files = _existing(folder, entry, made_from)
            if files is None:
                raise OutputError(f"{folder} could not be written whole. Is the disk full?")
        _in_use.add(folder)
        os.utime(folder / "header.json")
        return files

    def _build(self, folder: Path, entry: Entry, scene: Scene, told: str) -> None:
        temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            temporary.mkdir(parents=True)
            header: dict[str, Any] = {"format": FORMAT, "made_from": json.loads(told), "label": None}
            shape = (len(self.contract.bands), scene.height, scene.width)
            header["image"] = self._write_image(temporary / "image", scene, shape)
            if entry.label is not None:
                planes = Planes(self.kind, (1, scene.height, scene.width), "uint8")
                write_planes(temporary / "label", planes, self._labels(temporary / "image", header, entry))
                header["label"] = planes.dtype
            header["crc32"] = {path.name: _checksum(path) for path in sorted(temporary.iterdir())}
            (temporary / "header.json").write_text(json.dumps(header), encoding="utf-8")
            for (
                path
            ) in temporary.iterdir():  # before the name: a loss of power leaves no named file half empty
                _to_disk(path)
            try:
                temporary.replace(folder)
            except OSError:
                if not folder.is_dir():  # else another process was sooner, with the same
                    raise
        except OSError as error:
            raise OutputError(
                f"{folder} could not be written ({error.strerror}). Free some space, or set SARTRANSFER_CACHE to "
                "another place, or data.cache: none."
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _write_image(self, path: Path, scene: Scene, shape: tuple[int, int, int]) -> str:
        """Write the image as uint16 if that is the same, else as float32; return which."""

        def blocks() -> Iterator[NDArray[np.float32]]:
            for window in _rows(scene.height, scene.width):
                data, valid = self.contract.read(scene, window, normalize=False)
                data[:, ~valid] = np.nan  # one band without a value is as good as none
                yield data

        def narrowed() -> Iterator[NDArray[np.uint16]]:
            for block in blocks():
                small = narrow(block)
                if small is None:
                    raise _TooWideError
                yield small

        try:
            write_planes(path, Planes(self.kind, shape, "uint16"), narrowed())
        except _TooWideError:
            write_planes(path, Planes(self.kind, shape, "float32"), blocks())
            return "float32"
        return "uint16"

    def _labels(self, path: Path, header: dict[str, Any], entry: Entry) -> Iterator[NDArray[np.uint8]]:
        label = read_label(entry, self.catalog)
        shape = (len(self.contract.bands), *label.shape)
        image = PlaneFile(path, Planes(self.kind, shape, header["image"]))
        for window in _rows(*label.shape):
            data = np.empty((shape[0], window.height, window.width), dtype=np.float32)
            valid = np.empty(data.shape[1:], dtype=bool)
            read_normalized(image, window, self._mean, self._std, data, valid)
            yield np.where(valid, label[window.slices], np.uint8(IGNORE_INDEX))[None]


class _TooWideError(Exception):
    """Values that are no whole numbers of 16 bits."""


def make_room(storage: Storage, need: int) -> None:
    """Remove the longest unused scenes until `need` bytes fit; raises `InputError` if those in use leave no room."""
    found = []
    for header in storage.folder.glob("*/header.json"):
        try:
            size = sum(f.stat().st_size for f in header.parent.iterdir())
            found.append((header.stat().st_mtime_ns, size, header.parent))
        except OSError:
            continue  # another process has just removed it
    total = sum(size for _, size, _ in found)
    for _, size, folder in sorted(found):
        if total + need <= storage.limit_bytes:
            return
        if folder not in _in_use:
            doomed = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
            try:
                folder.replace(doomed)
            except OSError:
                continue
            shutil.rmtree(doomed, ignore_errors=True)
            total -= size
    if total + need > storage.limit_bytes:
        raise InputError(
            f"data.cache: {need / 1e9:.3g} GB more do not fit into {storage.folder}, which may hold "
            f"{storage.limit_bytes / 1e9:.3g} GB and has {total / 1e9:.3g} GB in use. Raise SARTRANSFER_CACHE_GB."
        )


def _existing(
    folder: Path, entry: Entry, wanted: dict[str, Any]
) -> tuple[PlaneFile, PlaneFile | None] | None:
    """Return the files of a scene, mapped; None where they are missing, not whole, or not as they were written."""
    try:
        header = json.loads((folder / "header.json").read_text(encoding="utf-8"))
        made = header["made_from"]
        if made != json.loads(json.dumps(wanted)):
            return None
        number = len(made["inputs"])
        height, width = made["size"]
        image = PlaneFile(folder / "image", Planes(made["kind"], (number, height, width), header["image"]))
        label = None
        if entry.label is not None:
            label = PlaneFile(folder / "label", Planes(made["kind"], (1, height, width), header["label"]))
            label.open()
        image.open()
        packed = made["kind"] == "bitshuffle-lz4"
        names = ["image", *(["label"] if label else [])]
        names += [f"{name}.index" for name in names if packed]
        if not all(_is_as_written(folder / name, header["crc32"][name]) for name in names):
            return None
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return None
    return image, label


def _is_as_written(path: Path, checksum: int) -> bool:
    """Compare a file with its checksum; once in a process, unless the file has changed since."""
    facts = path.stat()
    now = (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, checksum)
    if _seen_whole.get(path) != now:
        if _checksum(path) != checksum:
            return False
        _seen_whole[path] = now
    return True


def _checksum(path: Path) -> int:
    """Return the CRC-32 of a file's bytes."""
    found, buffer = 0, memoryview(bytearray(READ_BYTES))
    with path.open("rb", buffering=0) as file:
        while number := file.readinto(buffer):
            found = zlib.crc32(buffer[:number], found)
    return found


def _to_disk(path: Path) -> None:
    """Wait until a file is on disk; raises `OSError` where it cannot be."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _described(entry: Entry, catalog: Catalog, contract: InputContract, kind: str) -> dict[str, Any]:
    """Return all that a decoded scene depends on, as JSON values."""
    label = None
    if entry.label is not None:
        label = [_stamp(entry.label), sorted(catalog.label_values.items()), len(catalog.classes)]
    return {
        "format": FORMAT,
        "version": sartransfer.__version__,
        "kind": kind,
        "inputs": [[b.name, b.unit, b.polarization, b.role, b.difference] for b in contract.bands],
        "assets": [[_stamp(a.path), a.reader, repr(a.bands)] for a in entry.assets],
        "part": repr(entry.part),
        "label": label,
    }


def _stamp(path: Path) -> list[Any]:
    """Return what tells a file, or a product's folder, from what it was before."""
    path = path.resolve()
    if path.is_dir():
        return [str(path), [_stamp(p) for p in sorted(path.rglob("*")) if p.is_file()]]
    try:
        facts = path.stat()
        with path.open("rb") as file:
            ends = hashlib.sha256(file.read(ENDS))
            file.seek(max(0, facts.st_size - ENDS))
            ends.update(file.read(ENDS))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    beside = [
        _stamp(p) for p in (path.with_name(path.name + end) for end in (".msk", ".aux.xml")) if p.is_file()
    ]
    # The time of change cannot be set, as that of the content can: a file mended in its middle shows.
    changed = [facts.st_mtime_ns, facts.st_ctime_ns]
    return [str(path), facts.st_size, changed, ends.hexdigest()[:16], beside]


def _most_bytes(scene: Scene, contract: InputContract) -> int:
    """Return the most that a decoded scene takes, with its label and a little for the rest."""
    down, across = (-(-n // CHUNK) * CHUNK for n in (scene.height, scene.width))
    return int(down * across * (4 * len(contract.bands) + 1) * 1.01) + (1 << 16)


def _rows(height: int, width: int) -> Iterator[Window]:
    rows = max(CHUNK, BLOCK_PIXELS // width // CHUNK * CHUNK)
    for row in range(0, height, rows):
        yield Window(row, 0, min(rows, height - row), width)
