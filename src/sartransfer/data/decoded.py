"""Decoded pixels in files, in chunks of 128 x 128: as they are, mapped into memory, or in bitshuffle and LZ4.

A random window costs the copy of its pixels and nothing else. Values are as they were before normalization: float32,
NaN where a band has none; or uint16, where all are whole numbers that fit, which is proved for every pixel when they
are written. See `cache` for where the files lie and when they are made anew.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.compiled import Kernel, kernel_for
from sartransfer.errors import InputError
from sartransfer.rawfile import write_at
from sartransfer.scene import Window

KINDS = ("memory-map", "bitshuffle-lz4")
CHUNK = 128  # pixels a side: a window decodes little beside it, and of a mapped file touches few pages
NO_VALUE = 65535  # stands in uint16 files where a band has no value
DTYPES = ("uint8", "uint16", "float32")


@dataclass(frozen=True, slots=True)
class Planes:
    """What a file of planes holds."""

    kind: str
    """One of `KINDS`."""
    shape: tuple[int, int, int]
    """Bands, rows, columns."""
    dtype: str
    """One of `DTYPES`."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.dtype not in DTYPES or len(self.shape) != 3 or min(self.shape) < 1:
            raise InputError(f"{self} cannot be kept: kinds {', '.join(KINDS)}, types {', '.join(DTYPES)}.")

    @property
    def bytes(self) -> int:
        """Bytes of the values themselves, in whole chunks."""
        down, across = self.chunks
        return down * across * self.shape[0] * CHUNK * CHUNK * np.dtype(self.dtype).itemsize

    @property
    def chunks(self) -> tuple[int, int]:
        """Chunks down and across."""
        return -(-self.shape[1] // CHUNK), -(-self.shape[2] // CHUNK)


def write_planes(path: Path, planes: Planes, blocks: Iterable[NDArray[Any]]) -> None:
    """Write blocks of rows (B, h, W), from the top, each but the last a multiple of `CHUNK` rows high.

    Raises `OSError` (disk full); `InputError` where bitshuffle is not installed.
    """
    packed, places = planes.kind == "bitshuffle-lz4", [0]
    pack = _bitshuffle().compress_lz4 if packed else None
    with path.open("wb") as file:
        for block in blocks:
            for chunk in _chunks(block.astype(planes.dtype, copy=False)):
                values = chunk if pack is None else pack(chunk)
                write_at(file.fileno(), values, places[-1])
                places.append(places[-1] + values.nbytes)
    if packed:
        np.array(places, dtype="<u8").tofile(_index(path))


@dataclass(slots=True)
class PlaneFile:
    """A file that `write_planes` wrote, open for reading; it may be sent to other processes, which open it anew."""

    path: Path
    planes: Planes
    _values: NDArray[Any] | None = field(default=None, init=False, repr=False)
    _places: NDArray[np.uint64] | None = field(default=None, init=False, repr=False)

    def __getstate__(self) -> tuple[Path, Planes]:
        return self.path, self.planes

    def __setstate__(self, state: tuple[Path, Planes]) -> None:
        self.path, self.planes = state
        self._values = self._places = None

    def open(self) -> None:
        """Map the file; raises `InputError` if it is not there or not whole."""
        if self._values is not None:
            return
        try:
            if self.planes.kind == "bitshuffle-lz4":
                self._places = np.fromfile(_index(self.path), dtype="<u8")
                down, across = self.planes.chunks
                if len(self._places) != down * across + 1 or self._places[-1] != self.path.stat().st_size:
                    raise ValueError("cut short")
                if self._places[0] != 0 or (self._places[1:] <= self._places[:-1]).any():
                    raise ValueError("its chunks are nowhere")
                self._values = np.asarray(np.memmap(self.path, dtype=np.uint8, mode="r"))
                return
            if self.path.stat().st_size != self.planes.bytes:
                raise ValueError("cut short")
            # Private copies of pages: nothing is written, and compiled loops take no read-only arrays.
            shape = (*self.planes.chunks, self.planes.shape[0], CHUNK, CHUNK)
            self._values = np.asarray(np.memmap(self.path, dtype=self.planes.dtype, mode="c", shape=shape))
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path} is not whole ({error}). Remove it; it is made anew.") from None

    @property
    def mapped(self) -> NDArray[Any] | None:
        """The chunks of a memory map (down, across, B, 128, 128); None for another kind."""
        return self._values if self.planes.kind == "memory-map" else None

    def parts(self, window: Window) -> Iterator[tuple[NDArray[Any], int, int, Window]]:
        """Yield what a window is made of: chunks, the row and column in them, and the part of the window that it is."""
        self.open()
        bottom, right = window.row + window.height, window.col + window.width
        for i in range(window.row // CHUNK, -(-bottom // CHUNK)):
            for j in range(window.col // CHUNK, -(-right // CHUNK)):
                top, left = max(window.row, i * CHUNK), max(window.col, j * CHUNK)
                low, end = min(bottom, (i + 1) * CHUNK), min(right, (j + 1) * CHUNK)
                part = Window(top - window.row, left - window.col, low - top, end - left)
                yield self._chunk(i, j), top - i * CHUNK, left - j * CHUNK, part

    def _chunk(self, i: int, j: int) -> NDArray[Any]:
        assert self._values is not None  # `parts` has opened the file
        if self._places is None:
            chunk: NDArray[Any] = self._values[i, j]
            return chunk
        number, bands = i * self.planes.chunks[1] + j, self.planes.shape[0]
        first, last = (int(p) for p in self._places[number : number + 2])
        shape, dtype = (bands, CHUNK, CHUNK), np.dtype(self.planes.dtype)
        try:
            unpacked: NDArray[Any] = _bitshuffle().decompress_lz4(self._values[first:last], shape, dtype)
        except (RuntimeError, ValueError) as error:
            # It has changed since it was opened, and its checksum compared.
            raise InputError(
                f"{self.path} is damaged ({error}): is the disk failing? Remove the folder {self.path.parent}; it is "
                "made anew."
            ) from error
        return unpacked

    def read(self, window: Window) -> NDArray[Any]:
        """Return a window (B, h, w) as it was written."""
        out = np.empty((self.planes.shape[0], window.height, window.width), dtype=self.planes.dtype)
        for values, row, col, part in self.parts(window):
            rows, cols = part.slices
            out[:, rows, cols] = values[:, row : row + part.height, col : col + part.width]
        return out


def read_normalized(
    file: PlaneFile,
    window: Window,
    mean: NDArray[np.float32],
    std: NDArray[np.float32],
    image: NDArray[np.float32],
    valid: NDArray[np.bool_],
) -> None:
    """Fill `image` (B, h, w) with (x - mean) / std of a window, 0 where a band has no value, and `valid` (h, w).

    `mean` and `std` (B,). Both arrays are written over: a batch's own, or ones that are used again and again. One pass
    from the file to the batch where numba is installed; the same bits where it is not.
    """
    if image.shape != (file.planes.shape[0], window.height, window.width) or valid.shape != image.shape[1:]:
        raise InputError(f"a window of {window.height} x {window.width} does not fit {image.shape}.")
    file.open()
    plain, mapped = image.flags.c_contiguous and valid.flags.c_contiguous, file.mapped
    pixels, dtype = math.prod(file.planes.shape) if plain else 0, file.planes.dtype
    if mapped is not None:
        whole = kernel_for(FILL_MAPPED[dtype], MAPPED_SIGNATURES[dtype], pixels, (FILL[dtype],))
        if whole is not None and plain:
            whole(mapped, window.row, window.col, mean, std, image, valid)
            return
    kernel = kernel_for(FILL[dtype], SIGNATURES[dtype], pixels) if plain else None
    for values, row, col, part in file.parts(window):
        if kernel is not None:
            place = part.row, part.col, part.height, part.width
            kernel(values, row, col, mean, std, image, valid, *place)
            continue
        rows, cols = part.slices
        target, here = image[:, rows, cols], valid[rows, cols]
        here[:] = True
        for band in range(len(mean)):
            line = values[band, row : row + part.height, col : col + part.width]
            np.subtract(line, mean[band], out=target[band], dtype=np.float32, casting="unsafe")
            np.divide(target[band], std[band], out=target[band])
            here &= line != NO_VALUE if line.dtype == np.uint16 else np.isfinite(line)
        if not here.all():
            target[:, ~here] = 0.0


def narrow(values: NDArray[np.float32]) -> NDArray[np.uint16] | None:
    """Return float32 values as uint16, `NO_VALUE` for NaN; None unless each one comes back as it was."""
    known = np.isfinite(values)
    filled = np.where(known, values, np.float32(0))
    if filled.min() < 0 or filled.max() >= NO_VALUE or not (known | np.isnan(values)).all():
        return None
    whole = filled.astype(np.uint16)
    if not np.array_equal(whole.astype(np.float32), filled) or np.signbit(filled).any():
        return None
    whole[~known] = NO_VALUE
    return whole


SIGNATURES = {
    dtype: (
        f"void({dtype}[:,:,::1], int64, int64, float32[::1], float32[::1], float32[:,:,::1], boolean[:,::1], "
        "int64, int64, int64, int64)"
    )
    for dtype in ("uint16", "float32")
}

MAPPED_SIGNATURES = {
    dtype: (
        f"void({dtype}[:,:,:,:,::1], int64, int64, float32[::1], float32[::1], float32[:,:,::1], boolean[:,::1])"
    )
    for dtype in ("uint16", "float32")
}


def fill_numbers(
    values: Any, row: Any, col: Any, mean: Any, std: Any, image: Any, valid: Any,
    top: Any, left: Any, height: Any, width: Any,
) -> None:  # fmt: skip
    """Normalize and check a window of float32 in one pass: the compiled twin of what `read_normalized` does.

    The window lies in `values` from (row, col) on, and in `image` and `valid` from (top, left) on.
    """
    for r in range(height):
        missing = 0
        good = valid[top + r, left : left + width]
        for c in range(width):
            good[c] = True
        for b in range(len(image)):
            line, target = values[b, row + r, col : col + width], image[b, top + r, left : left + width]
            m, s = mean[b], std[b]
            wrong: Any = np.int32(0)
            for c in range(width):
                v = line[c]
                target[c] = (v - m) / s
                ok = (v < np.float32(np.inf)) & (v > np.float32(-np.inf))
                wrong += np.int32(0) if ok else np.int32(1)
            missing += wrong
            if wrong > 0:
                for c in range(width):
                    v = line[c]
                    good[c] = good[c] & (v < np.float32(np.inf)) & (v > np.float32(-np.inf))
        if missing > 0:
            for b in range(len(image)):
                target = image[b, top + r, left : left + width]
                for c in range(width):
                    target[c] = target[c] if good[c] else np.float32(0)


def fill_counts(
    values: Any, row: Any, col: Any, mean: Any, std: Any, image: Any, valid: Any,
    top: Any, left: Any, height: Any, width: Any,
) -> None:  # fmt: skip
    """Do `fill_numbers` for uint16, cast to float32: the largest value of a row says whether any is missing."""
    for r in range(height):
        good = valid[top + r, left : left + width]
        for c in range(width):
            good[c] = True
        largest: Any = np.uint16(0)
        for b in range(len(image)):
            line, target = values[b, row + r, col : col + width], image[b, top + r, left : left + width]
            m, s = mean[b], std[b]
            for c in range(width):
                target[c] = (np.float32(line[c]) - m) / s
            for c in range(width):
                largest = max(largest, line[c])
        if largest == NO_VALUE:
            for b in range(len(image)):
                line = values[b, row + r, col : col + width]
                for c in range(width):
                    good[c] = good[c] & (line[c] != NO_VALUE)
            for b in range(len(image)):
                target = image[b, top + r, left : left + width]
                for c in range(width):
                    target[c] = target[c] if good[c] else np.float32(0)


def by_chunks(fill: Kernel) -> Kernel:
    """Return the loop that does `fill` for every chunk (down, across, B, 128, 128) that a window lies in."""

    def fill_mapped(chunks: Any, row: Any, col: Any, mean: Any, std: Any, image: Any, valid: Any) -> None:
        height, width = valid.shape
        bottom, right = row + height, col + width
        for i in range(row // CHUNK, (bottom + CHUNK - 1) // CHUNK):
            top, low = max(row, i * CHUNK), min(bottom, (i + 1) * CHUNK)
            for j in range(col // CHUNK, (right + CHUNK - 1) // CHUNK):
                left, end = max(col, j * CHUNK), min(right, (j + 1) * CHUNK)
                fill(
                    chunks[i, j], top - i * CHUNK, left - j * CHUNK, mean, std, image, valid, top - row, left - col,
                    low - top, end - left,
                )  # fmt: skip

    return fill_mapped


FILL = {"uint16": fill_counts, "float32": fill_numbers}
FILL_MAPPED = {dtype: by_chunks(fill) for dtype, fill in FILL.items()}


def _chunks(block: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Cut a block of rows into chunks, left to right and down, filled up with zeros at the edges."""
    number, height, width = block.shape
    for row in range(0, height, CHUNK):
        for col in range(0, width, CHUNK):
            part = block[:, row : row + CHUNK, col : col + CHUNK]
            chunk = np.zeros((number, CHUNK, CHUNK), dtype=block.dtype)
            chunk[:, : part.shape[1], : part.shape[2]] = part
            yield chunk


def _index(path: Path) -> Path:
    return path.with_name(path.name + ".index")


def _bitshuffle() -> Any:
    try:
        import bitshuffle
    except ImportError as error:
        raise InputError(
            "data.cache: bitshuffle-lz4 needs bitshuffle: pip install 'sartransfer[fast]'; or take memory-map."
        ) from error
    return bitshuffle
