"""A network that sees far at low resolution, in three steps: encoder by window, its head by bands, enlarging by window.

The features of the whole scene at 1/16 are kept: in memory, or in a file where they are many. What looks far (the
atrous branches and the mean over the image) looks at them once, so that no window needs the head's wide halo.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sartransfer.errors import OutputError
from sartransfer.gpu import float32_kept, layout
from sartransfer.models.aspp import OUTPUT_STRIDE, AsppHead
from sartransfer.models.segmenter import Segmenter
from sartransfer.rawfile import read_at, write_at

FLOAT = 4  # bytes
MEAN_ROWS = 64  # rows of features on a GPU that are summed at once
Answers = NDArray[np.float32] | Tensor
"""Logits of a whole scene at 1/16, (h, w, K) float32: an array, or a tensor on the GPU where its features are."""


def can_split(model: nn.Module) -> bool:
    """Say whether a network is an encoder that gives one map and a head that this module can run by bands."""
    return (
        isinstance(model, Segmenter)
        and isinstance(model.decoder, AsppHead)
        and isinstance(model.segmentation_head, nn.Identity)
        and model.factor == OUTPUT_STRIDE
    )


def encode(model: nn.Module, images: Tensor, beyond: tuple[int, int] | None = None) -> Tensor:
    """Return the encoder's features (B, C, h / 16, w / 16) of images (B, bands, H, W), padded with zeros to h x w.

    `beyond`: rows and columns of zeros below and on the right; None: up to a multiple of the network's stride, as for
    a whole scene.
    """
    network = cast(Segmenter, model)
    features: Tensor = network.encoder(network.input_projection(padded(images, network.stride, beyond)))
    return features


def padded(images: Tensor, stride: int, beyond: tuple[int, int] | None = None) -> Tensor:
    """Return images with `beyond` (rows below, columns on the right) of zeros; None: up to multiples of `stride`."""
    below, right = beyond or (-images.shape[-2] % stride, -images.shape[-1] % stride)
    return F.pad(images, (0, right, 0, below)) if below or right else images


class Features:
    """Features of a whole scene (height, width, channels) float32, in memory, a file or a GPU, written by window.

    A file is read and written by plain calls, not mapped: mapped pages would count as memory of the process.
    """

    def __init__(
        self, height: int, width: int, channels: int, path: Path | None = None, device: str | None = None
    ) -> None:
        """Make room; a file at `path` of the right size is taken as it is. Raises `OutputError` (disk full).

        `device`: they are kept as a tensor there, and what is read stays there; None: in memory, or at `path`.
        """
        self.height, self.width, self.channels = height, width, channels
        self.path, self.device = path, device
        self._cells: Tensor | None = None
        self._row = width * channels * FLOAT
        self._array: NDArray[np.float32] | None = None
        self._file = -1
        if device is not None:
            self._cells = torch.empty((height, width, channels), device=device)
            return
        if path is None:
            self._array = np.empty((height, width, channels), dtype=np.float32)
            return
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            if os.fstat(self._file).st_size != height * self._row:
                os.ftruncate(self._file, height * self._row)
        except OSError as error:
            raise OutputError(
                f"{path}: no room for the scene's features ({error}). Is the disk full?"
            ) from error

    def __enter__(self) -> "Features":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def write(self, row: int, col: int, block: Tensor) -> None:
        """Put features (C, h, w) at a place; on disk when this returns, where they are kept there."""
        if self._cells is not None:
            self._cells[row : row + block.shape[1], col : col + block.shape[2]] = block.permute(1, 2, 0)
            return
        cells = block.permute(1, 2, 0)
        if self._array is not None:
            place = self._array[row : row + cells.shape[0], col : col + cells.shape[1]]
            torch.from_numpy(place).copy_(cells)
            return
        values = cells.contiguous().numpy()
        try:
            for i, line in enumerate(values):
                write_at(self._file, line, (row + i) * self._row + col * self.channels * FLOAT)
            os.fsync(self._file)
        except OSError as error:
            raise OutputError(
                f"{self.path}: the scene's features could not be written ({error}). Is the disk full?"
            ) from error

    def read(self, first: int, last: int) -> Tensor:
        """Return the rows [first, last) as (1, C, h, width), channels last in memory."""
        if self._cells is not None:
            return self._cells[first:last].permute(2, 0, 1)[None]
        if self._array is not None:
            rows = self._array[first:last]
        else:
            rows = np.empty((last - first, self.width, self.channels), dtype=np.float32)
            read_at(self._file, rows, first * self._row)
        return torch.from_numpy(rows).permute(2, 0, 1)[None]

    def mean(self) -> Tensor:
        """Return the mean over all cells (1, C, 1, 1), summed row by row in float64: no window or band changes it."""
        total = torch.zeros(1, self.channels, dtype=torch.float64, device=self.device)
        step = 1 if self._cells is None else MEAN_ROWS
        for row in range(0, self.height, step):
            total += self.read(row, min(self.height, row + step)).double().sum(dim=(2, 3))
        return (total / (self.height * self.width)).float()[..., None, None]


def decode_by_bands(model: nn.Module, features: Features, rows: int, device: str = "cpu") -> Answers:
    """Return the logits of all features (h, w, K), by bands of `rows` rows (even), each branch with its own margin."""
    head = cast(AsppHead, cast(Segmenter, model).decoder)
    mean = features.mean().to(device) if head.pooling != "average" else None

    def band(first: int, last: int) -> Tensor:
        return decode_band(head, features, first, last, mean, device)

    return decode_with(band, features, rows, head.classifier.out_channels)


def decode_with(band: Callable[[int, int], Tensor], features: Features, rows: int, classes: int) -> Answers:
    """Return the logits of all features (h, w, K), `band(first, last)` after another.

    All bands have as many rows, the last one by rows that were answered before: engines compile anew for another size.
    """
    size = features.height, features.width, classes
    there = torch.empty(size, device=features.device)  # without a device: in memory
    for first in range(0, features.height, rows):
        last = min(features.height, first + rows)
        start = max(0, last - rows)
        there[first:last] = band(start, last)[0, :, first - start :].permute(1, 2, 0)
    return there if features.device is not None else there.numpy()


class Halves(Protocol):
    """What the split stage asks: a network's encoder and head."""

    @property
    def stride(self) -> int:
        """Of the network, in pixels."""
        ...

    def encode(self, images: Tensor, beyond: tuple[int, int] | None = None) -> Tensor:
        """Return features, where the images are, as the function `encode` does."""
        ...

    def decode(self, features: Features, rows: int) -> Answers:
        """Return logits, as `decode_by_bands` does."""
        ...

    def rest(self) -> None:
        """Give back the memory that is kept from call to call; the next call makes room anew."""
        ...


@dataclass(frozen=True, slots=True)
class EagerHalves:
    """The halves of a network as it is."""

    model: Segmenter
    device: str = "cpu"

    @property
    def stride(self) -> int:
        """Of the network, in pixels."""
        return self.model.stride

    def encode(self, images: Tensor, beyond: tuple[int, int] | None = None) -> Tensor:
        """Return features, where the images are."""
        where = images.device
        images = images.to(self.device).contiguous(memory_format=layout(self.device))
        with torch.inference_mode(), float32_kept(self.device):
            return encode(self.model, images, beyond).to(where)

    def decode(self, features: Features, rows: int) -> Answers:
        """Return the logits (h, w, K) of all features."""
        with torch.inference_mode(), float32_kept(self.device):
            return decode_by_bands(self.model, features, rows, self.device)

    def rest(self) -> None:
        """Do nothing: torch keeps nothing."""


def band_margin(head: AsppHead) -> int:
    """Return how many rows beyond a band the head reads: the largest rate, and one for the 3x3 convolution."""
    return 1 + max([int(cast(nn.Conv2d, b[0]).dilation[0]) for b in _atrous(head)] or [2])


def _atrous(head: AsppHead) -> list[nn.Sequential]:
    return [cast(nn.Sequential, b) for b in list(head.branches)[1:]]


def decode_band(
    head: AsppHead, features: Features, first: int, last: int, mean: Tensor | None, device: str = "cpu"
) -> Tensor:
    """Return the head's logits (1, K, last - first, w) for rows [first, last) of the features, as for all at once.

    Zeros are put only beyond the scene's true edges.
    """
    height, width = features.height, features.width
    top, bottom = max(0, first - 1), min(height, last + 1)  # what the 3x3 convolution reads
    margin = band_margin(head) - 1
    start = max(0, min(top - margin, (top // 2 - 1) * 2))
    stop = min(height, max(bottom + margin, (-(-bottom // 2) + 1) * 2))
    x = features.read(start, stop).to(device)

    def rows(a: int, b: int) -> Tensor:
        """Rows [a, b) of the scene's features, zero outside the scene."""
        inside = x[:, :, max(a, 0) - start : min(b, height) - start]
        return F.pad(inside, (0, 0, max(0, -a), max(0, b - height))) if a < 0 or b > height else inside

    parts = [cast(Tensor, head.branches[0](rows(top, bottom)))]
    for branch in _atrous(head):
        conv, rate = cast(nn.Conv2d, branch[0]), int(cast(nn.Conv2d, branch[0]).dilation[0])
        found = F.conv2d(rows(top - rate, bottom + rate), conv.weight, conv.bias, 1, (0, rate), rate)
        parts.append(branch[2](branch[1](found)))
    if mean is None:
        a, b = max(0, (top // 2 - 1) * 2), min(height, (-(-bottom // 2) + 1) * 2)
        pooled = head.pooling_branch(F.avg_pool2d(rows(a, b), 2, 2))
        pooled = F.interpolate(pooled, scale_factor=2, mode="bilinear", align_corners=False)
        parts.append(pooled[:, :, top - a : bottom - a])
    else:
        parts.append(head.pooling_branch(mean).expand(-1, -1, bottom - top, width))
    joined = torch.cat(parts, dim=1)
    parts.clear()
    narrow = head.project(joined)
    del joined
    # The margin of the 3x3 convolution: rows that were computed, or the zeros beyond the scene's edge.
    conv = cast(nn.Conv2d, head.refine[0])
    narrow = F.pad(narrow, (0, 0, int(first == 0), int(last == height)))
    fine = F.conv2d(narrow, conv.weight, conv.bias, 1, (0, 1))
    logits: Tensor = head.classifier(head.refine[2](head.refine[1](fine)))
    return logits


def band_bytes(head: AsppHead, width: int, rows: int) -> int:
    """Return the bytes of the tensors that a band of `rows` rows of features `width` wide needs at once."""
    inside = cast(nn.Conv2d, head.branches[0][0]).in_channels  # type: ignore[index]
    channels = cast(nn.Conv2d, head.branches[0][0]).out_channels  # type: ignore[index]
    read = (rows + 2 * band_margin(head)) * inside
    # The rows read, one padded copy of them, the branches, and the branches joined.
    return FLOAT * width * (2 * read + (rows + 2) * channels * (2 * (len(head.branches) + 1) + 1))


def enlarge(logits: Answers, row: int, col: int, height: int, width: int) -> Tensor:
    """Return the logits (K, height, width) of a window at (`row`, `col`), both multiples of 16, as in one pass.

    Args:
        logits: of the whole scene at 1/16, (h, w, K) float32; of a tensor the answer is on its device.
        row, col, height, width: the window, in the scene's pixels.
    """
    f = OUTPUT_STRIDE
    top, left = max(0, row // f - 1), max(0, col // f - 1)
    bottom = min(logits.shape[0], -(-(row + height) // f) + 1)
    right = min(logits.shape[1], -(-(col + width) // f) + 1)
    cells = logits[top:bottom, left:right]
    part = (cells if isinstance(cells, Tensor) else torch.from_numpy(cells.copy())).permute(2, 0, 1)[None]
    wide = F.interpolate(part, scale_factor=f, mode="bilinear", align_corners=False)[0]
    return wide[:, row - top * f :, col - left * f :][:, :height, :width]


def enlarge_classes(logits: NDArray[np.float32], row: int, col: int, height: int, width: int) -> Tensor:
    """Return the classes (height, width) uint8 of a window as `enlarge` and argmax give them, but for ties.

    The arguments are those of `enlarge`. Pixels at one of the 16 x 16 places inside a cell have the same weights: for
    each place the classes of all cells are worked out at once, on arrays of the features' size that stay in the
    processor's cache (20 times as fast as enlarging in torch and then taking argmax).
    """
    f = OUTPUT_STRIDE
    h, w = -(-height // f), -(-width // f)
    rows = np.clip(np.arange(row // f - 1, row // f + h + 1), 0, logits.shape[0] - 1)
    cols = np.clip(np.arange(col // f - 1, col // f + w + 1), 0, logits.shape[1] - 1)
    part = torch.from_numpy(np.ascontiguousarray(logits[rows[:, None], cols].transpose(2, 0, 1)))
    classes = torch.empty(h, f, w, f, dtype=torch.uint8)
    found = torch.empty(f, h, w, dtype=torch.uint8)
    values, other = torch.empty(2, len(part), h, w)
    best, more = torch.empty(h, w), torch.empty(h, w, dtype=torch.bool)
    for y in range(f):
        share, above = _share(y)
        line = torch.lerp(part[:, above : above + h], part[:, above + 1 : above + 1 + h], share)
        three = [line[:, :, i : i + w].contiguous() for i in range(3)]
        for x in range(f):
            share, left = _share(x)
            torch.mul(three[left], 1 - share, out=values)
            torch.mul(three[left + 1], share, out=other)
            values += other
            best.copy_(values[0])
            label = found[x].zero_()
            for number in range(1, len(values)):
                torch.gt(values[number], best, out=more)
                torch.maximum(label, more.view(torch.uint8) * number, out=label)
                torch.maximum(best, values[number], out=best)
        classes[:, y] = found.permute(1, 2, 0)
    return classes.reshape(h * f, w * f)[:height, :width]


def _share(place: int) -> tuple[float, int]:
    """Return the share of the second of two cells at a place (0 to 15) inside a cell, and which two (0: one before)."""
    at = (place + 0.5) / OUTPUT_STRIDE - 0.5
    return (at + 1, 0) if at < 0 else (at, 1)
