"""Features of a frozen encoder, worked out once for each image and remembered from epoch to epoch."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from sartransfer.gpu import on_gpu
from sartransfer.models.network import Network
from sartransfer.recipe import AugmentRecipe

MOST = 2**30  # bytes of features that are remembered: 500,000 images with 512 numbers


def can_remember(model: Network, augment: AugmentRecipe, device: str) -> bool:
    """Say whether the same image always has the same features, and images come again.

    True for a classifier on the CPU whose encoder is frozen whole, has no chance in it and meets the bands directly, if
    images are turned and mirrored at most: restretched ones never come again.
    """
    restretched = augment.gain or augment.shift or augment.band_shift
    parameters = list(model.encoder.parameters())
    chance = any(
        (isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0) or type(m).__name__ == "DropPath"
        for m in model.encoder.modules()
    )
    return (
        model.task == "classify"
        and not restretched
        and not chance
        and isinstance(model.input_projection, nn.Identity)
        and bool(parameters)
        and not any(p.requires_grad for p in parameters)
        and not on_gpu(device)
    )


class Remembered:
    """An encoder's forward pass that is asked only for images it has not met."""

    def __init__(self, encoder: nn.Module, batch: int) -> None:
        self._ask = encoder.forward
        self._batch = batch
        self._known: dict[tuple[bytes, torch.dtype], Tensor] = {}
        self._bytes = 0
        self.met = 0
        """Images that were met before, of all that were asked for."""
        self.asked = 0

    def __call__(self, images: Tensor) -> Tensor:
        """Return the features of images (B, C, H, W), one row each."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else images.dtype
        keys = [(_digest(image), dtype) for image in images]
        new = {key: i for i, key in enumerate(keys) if key not in self._known}
        self.asked, self.met = self.asked + len(keys), self.met + len(keys) - len(new)
        rows = dict(zip(new, self._features(images, list(new.values())), strict=True)) if new else {}
        if self._bytes < MOST:
            self._known.update(rows)
            self._bytes += sum(row.numel() * row.element_size() for row in rows.values())
        return torch.stack([rows[key] if key in rows else self._known[key] for key in keys])

    def _features(self, images: Tensor, places: list[int]) -> list[Tensor]:
        """Return the features of the images at some places.

        They go through in batches of one size, the last filled up with zeros: kernels for another number of images
        round otherwise, and a training that was stopped would not end with the same numbers.
        """
        found: list[Tensor] = []
        for first in range(0, len(places), self._batch):
            some = images[places[first : first + self._batch]]
            whole = some.new_zeros((self._batch, *some.shape[1:]))
            whole[: len(some)] = some
            with torch.no_grad():
                features = self._ask(whole.contiguous(memory_format=torch.channels_last))
            found += [row.clone() for row in features[: len(some)]]
        return found


def _digest(image: Tensor) -> bytes:
    values = image.permute(1, 2, 0).reshape(-1)  # as images lie in memory: channels last
    shape = repr((tuple(image.shape), str(image.dtype))).encode()
    return hashlib.blake2b(values.view(torch.uint8).numpy().data, digest_size=16, key=shape[:64]).digest()


@contextmanager
def remembering(
    model: Network, augment: AugmentRecipe, batch: int, device: str
) -> Iterator[Remembered | None]:
    """Remember the features of a network's encoder while it is trained, where that may be done (`can_remember`)."""
    if not can_remember(model, augment, device):
        yield None
        return
    encoder = cast(Any, model.encoder)
    encoder.forward = remembered = Remembered(encoder, batch)
    try:
        yield remembered
    finally:
        del encoder.forward  # the class's own shows again
