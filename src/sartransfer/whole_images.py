"""A network's answer for whole images in memory: in one pass, or by exact windows where they are too large for that."""

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from sartransfer.contract import InputBand, InputContract
from sartransfer.models import Network
from sartransfer.models.checkpoint import Checkpoint
from sartransfer.predict import ONE_PASS_PIXELS, predict_windows
from sartransfer.radar.units import parse_unit
from sartransfer.scene import ArraySource, Band, Scene
from sartransfer.scene_plan import in_one_pass

PLAIN = "digital_number"


def whole_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits of whole images (B, C, H, W), float32, on their device: (B, K, H, W), or (B, K) for classes.

    Images of up to `ONE_PASS_PIXELS` go through together. Larger ones go one by one, by the windows of
    `predict.plan_scene`, so that a half of an EW scene is validated on with the memory of a window.

    Args:
        model: in eval mode. images: normalized; what has no value is 0.
    """
    height, width = images.shape[-2:]
    if in_one_pass(model, height, width, ONE_PASS_PIXELS) or getattr(model, "task", "") != "segment":
        logits: Tensor = model(images)
        return logits.float()
    return torch.stack([_by_windows(cast(Network, model), image) for image in images])


def _by_windows(model: Network, image: Tensor) -> Tensor:
    """Ask for one image as if it were a scene of plain numbers that need no normalization."""
    names = [str(i) for i in range(len(image))]
    scene = Scene(
        id="image",
        bands=tuple(Band(n, parse_unit(PLAIN)) for n in names),
        height=image.shape[-2],
        width=image.shape[-1],
        source=ArraySource(image.float().cpu().numpy()),
    )
    contract = InputContract(tuple(InputBand(n, PLAIN) for n in names))
    checkpoint = Checkpoint(model, tuple(map(str, range(model.num_classes))), contract, {}, Path())
    device = "cpu" if image.device.type == "cpu" else str(image.device)
    out = np.empty((model.num_classes, *image.shape[-2:]), dtype=np.float32)
    for window, logits, _ in predict_windows(checkpoint, model, scene, device, 1):
        rows, cols = window.slices
        out[:, rows, cols] = logits.numpy()
    return torch.from_numpy(out).to(image.device)
