"""Array in, array out: a network's answer for one image, in one pass or by overlapping windows."""

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sartransfer.errors import InputError, one_of
from sartransfer.models.checkpoint import Checkpoint
from sartransfer.scene import Scene, Window

ONE_PASS_PIXELS = 2048 * 2048  # up to this many pixels a scene goes through in one pass
HALO = 256  # pixels around a window that are computed and thrown away
CORE = 1024  # side of the part of a window that is kept
CHIPS_AT_ONCE = 64  # chips of one shape that go through the network together


def choose_device(wanted: str) -> str:
    """Return ``cuda`` or ``cpu`` for ``auto``; raises `InputError` for a device that is not there."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device={wanted!r}, but no CUDA device is here. Use device=cpu.")
    if wanted != "cpu" and not wanted.startswith("cuda"):
        raise InputError(f"device={wanted!r} is not known. Must be one of: auto, cpu, cuda.")
    return wanted


def choose_precision(wanted: str, device: str) -> str:
    """Return ``bf16`` or ``fp32``: ``auto`` takes bf16 where the processor computes in it."""
    if wanted != "auto":
        return wanted
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def autocast(precision: str, device: str) -> AbstractContextManager[None]:
    """Return the context in which a network computes in bf16, or as it is for fp32."""
    if precision == "bf16":
        return torch.autocast(device_type=device.split(":")[0], dtype=torch.bfloat16)
    return nullcontext()


def predict_logits(
    model: nn.Module, images: Tensor, *, device: str = "cpu", precision: str = "fp32", views: int = 1
) -> Tensor:
    """Return the logits of a batch, in one pass.

    Args:
        model: in eval mode already, on `device`.
        images: (B, C, H, W) float32, normalized.
        device: where the network is. precision: fp32 or bf16 (logits come back in float32).
        views: 1, 4 or 8 flips and turns of each image whose probabilities are averaged.

    Returns:
        The logits (of several views: the logarithms of their mean probabilities), float32, on the CPU:
        (B, K, H, W) for segmentation, (B, K) for classification.

    Raises:
        InputError: another number of channels than the network has, or of views than 1, 4 or 8.
    """
    if views != 1 and views not in VIEWS:
        raise InputError(one_of("views", views, (1, *VIEWS)))
    expected = getattr(model, "in_channels", images.shape[1])
    if images.shape[1] != expected:
        raise InputError(f"the network takes {expected} bands, the image has {images.shape[1]}.")
    images = images.to(device).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), autocast(precision, device):
        if views == 1:
            logits: Tensor = model(images)
            return logits.float().cpu()
        seen = torch.stack([_seen(model, images, *view) for view in VIEWS[views]])
    return (seen.logsumexp(0) - math.log(views)).cpu()


VIEWS = {
    4: tuple((turns, mirror) for turns in (0, 2) for mirror in (False, True)),
    8: tuple((turns, mirror) for turns in range(4) for mirror in (False, True)),
}
"""Number of views -> (turns by 90 degrees, mirrored) of each."""


def _seen(model: nn.Module, images: Tensor, turns: int, mirror: bool) -> Tensor:
    """Return the logarithms of the probabilities of one view of `images`, turned back."""
    view = torch.rot90(images.flip(-1) if mirror else images, turns, (-2, -1))
    shares: Tensor = model(view.contiguous(memory_format=torch.channels_last)).float().log_softmax(1)
    if shares.ndim == 2:
        return shares
    back = torch.rot90(shares, -turns, (-2, -1))
    return back.flip(-1) if mirror else back


def plan_windows(height: int, width: int, stride: int) -> Iterator[tuple[Window, Window]]:
    """Cut a scene into windows: pairs of (what is computed, what is kept of it), in scene coordinates.

    Origins are multiples of `stride`, so that every window sees the same grid of features. A scene up to
    `ONE_PASS_PIXELS` is one window; larger ones get a halo of `HALO` pixels, which is not exact for networks
    that see farther (the map's metadata says so).
    """
    if height * width <= ONE_PASS_PIXELS:
        whole = Window(0, 0, height, width)
        yield whole, whole
        return
    core = -(-CORE // stride) * stride
    halo = -(-HALO // stride) * stride
    for row in range(0, height, core):
        for col in range(0, width, core):
            kept = Window(row, col, min(core, height - row), min(core, width - col))
            top, left = max(0, row - halo), max(0, col - halo)
            bottom = min(height, row + kept.height + halo)
            right = min(width, col + kept.width + halo)
            yield Window(top, left, bottom - top, right - left), kept


def predict_classes(
    checkpoint: Checkpoint, model: torch.nn.Module, scene: Scene, device: str, views: int | None = None
) -> Iterable[tuple[Window, NDArray[np.uint8], NDArray[np.bool_]]]:
    """Yield the windows of a scene with their classes (h, w) uint8 and valid pixels (h, w)."""
    for window, logits, valid in predict_windows(checkpoint, model, scene, device, views):
        yield window, logits.argmax(0).numpy().astype(np.uint8), valid


def predict_windows(
    checkpoint: Checkpoint, model: torch.nn.Module, scene: Scene, device: str, views: int | None = None
) -> Iterable[tuple[Window, torch.Tensor, NDArray[np.bool_]]]:
    """Yield the windows of a scene with their logits (K, h, w) and valid pixels (h, w).

    `views`: as `predict_logits` takes them; None: as many as the checkpoint was made for.
    """
    number = views or checkpoint.views
    for seen, kept in plan_windows(scene.height, scene.width, int(checkpoint.model.stride)):
        image, valid = checkpoint.contract.read(scene, seen)
        logits = predict_logits(model, torch.from_numpy(image)[None], device=device, views=number)[0]
        rows = slice(kept.row - seen.row, kept.row - seen.row + kept.height)
        cols = slice(kept.col - seen.col, kept.col - seen.col + kept.width)
        yield kept, logits[:, rows, cols], valid[rows, cols]


def predict_chip(
    checkpoint: Checkpoint, model: torch.nn.Module, scene: Scene, device: str, views: int | None = None
) -> NDArray[np.float32]:
    """Return the logits (K,) of one chip, cut from its centre as in training."""
    ((_, logits),) = predict_chips(checkpoint, model, [scene], device, views)
    return logits


def predict_chips(
    checkpoint: Checkpoint,
    model: torch.nn.Module,
    scenes: Iterable[Scene],
    device: str,
    views: int | None = None,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (number, logits (K,)) of every chip, cut from its centre as in training.

    Chips of one shape go through the network together, `CHIPS_AT_ONCE` at most and no more pixels than
    `ONE_PASS_PIXELS`; so they come out of order where the shapes differ. A chip's logits do not depend on its
    company, but for rounding. Scenes are read when their turn comes.

    Raises:
        InputError: a scene smaller than the chip that the network was trained on.
    """
    number_of_views = views or checkpoint.views
    waiting: dict[tuple[int, ...], list[tuple[int, NDArray[np.float32]]]] = {}

    def answered(batch: list[tuple[int, NDArray[np.float32]]]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        images = torch.from_numpy(np.stack([image for _, image in batch]))
        logits = predict_logits(model, images, device=device, views=number_of_views).numpy()
        yield from zip((number for number, _ in batch), logits, strict=True)

    for number, scene in enumerate(scenes):
        image, _ = checkpoint.contract.read(scene, _chip_window(checkpoint, scene))
        batch = waiting.setdefault(image.shape, [])
        batch.append((number, image))
        if len(batch) >= min(CHIPS_AT_ONCE, max(1, ONE_PASS_PIXELS // (image.shape[-2] * image.shape[-1]))):
            yield from answered(waiting.pop(image.shape))
    for batch in waiting.values():
        yield from answered(batch)


def _chip_window(checkpoint: Checkpoint, scene: Scene) -> Window:
    chip = checkpoint.metadata.get("chip")
    if chip is None:
        return scene.window
    if chip > min(scene.height, scene.width):
        raise InputError(
            f"{scene.id!r} of {scene.height} x {scene.width} px is smaller than the chip of {chip}."
        )
    return scene.central_window(chip)
