"""What a map consists of, file by file, and what one window of logits gives to each of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sartransfer.cloud import Layer
from sartransfer.errors import InputError, one_of
from sartransfer.windowed import all_answered, refuse_unanswered, unanswered

NODATA = 255
SHARES = 254  # what a probability of 1 is in eight bits; 255 is nodata
PROBABILITIES = ("float32", "float16", "uint8")
# Okabe and Ito's colours, told apart with any kind of colour vision.
COLOURS = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233),
    (213, 94, 0), (240, 228, 66), (120, 120, 120),
)  # fmt: skip


def class_colours(classes: Sequence[str]) -> dict[int, tuple[int, int, int]]:
    """Return a colour for each class number."""
    return {i: COLOURS[i % len(COLOURS)] for i in range(len(classes))}


def plan_layers(
    out: Path,
    classes: Sequence[str],
    *,
    probabilities: bool | str = False,
    entropy: bool = False,
    spread: bool = False,
) -> list[Layer]:
    """Return the files of a map, the classes first.

    Args:
        out: where the classes go; the others stand beside it with ``-probabilities``, ``-entropy``, ``-spread``.
        classes: names, in the order of the logits.
        probabilities: one band a class, as True (``float32``) or one of `PROBABILITIES`.
        entropy, spread: one band each, float32, in nats.

    Raises `InputError` for another kind of probabilities, and more classes than eight bits hold.
    """
    kind = "float32" if probabilities is True else probabilities or None
    if kind is not None and kind not in PROBABILITIES:
        raise InputError(one_of("probabilities", kind, PROBABILITIES))
    if len(classes) > NODATA:
        raise InputError(f"{len(classes)} classes: a map holds at most {NODATA}.")
    layers = [Layer(out, 1, "uint8", NODATA, ("class",), class_colours(classes), overviews="mode")]
    if kind:
        names = tuple(f"probability_{c}" for c in classes)
        path = beside(out, "-probabilities.tif")
        whole = kind == "uint8"
        nodata, scale = (NODATA, 1 / SHARES) if whole else (float("nan"), 1.0)
        layers.append(Layer(path, len(names), kind, nodata, names, scale=scale))
    for wanted, name in ((entropy, "entropy"), (spread, "spread")):
        if wanted:
            layers.append(Layer(beside(out, f"-{name}.tif"), 1, "float32", float("nan"), (f"{name}_nats",)))
    return layers


def beside(out: Path, ending: str) -> Path:
    """Return the name of a file that stands beside a map: ``map.tif``, ``-entropy.tif`` -> ``map-entropy.tif``."""
    return out.with_name(f"{out.stem}{ending}")


def window_values(
    layers: Sequence[Layer], logits: Sequence[Tensor], valid: NDArray[np.bool_]
) -> list[NDArray[Any]]:
    """Return what one window gives to each of the layers of `plan_layers`, nodata where it is not valid.

    Args:
        logits: (K, h, w) of each network; of several, the mean of their probabilities counts. The spread is what
            they disagree about, in nats: the entropy of the mean less the mean of the entropies (the mutual
            information of class and network; Depeweg et al. 2018).
        valid: (h, w).

    Raises `InputError` where the answer for a valid pixel is not finite.
    """
    for found in logits:
        if not all_answered(found):
            refuse_unanswered(int((unanswered(found).numpy() & valid).sum()))
    alone = len(logits) == 1
    needed = len(layers) > 1 or not alone
    shares = [torch.softmax(found, 0) for found in logits] if needed else []
    mean = torch.stack(shares).mean(0) if shares else logits[0]
    classes = (logits[0] if alone else mean).argmax(0).numpy()
    values: list[NDArray[Any]] = [np.where(valid, classes, NODATA)[None].astype(np.uint8)]
    for layer in layers[1:]:
        if layer.count > 1 or layer.descriptions[0].startswith("probability_"):
            told = mean.numpy()
            if layer.dtype == "uint8":
                values.append(np.where(valid, np.rint(told * SHARES), NODATA).astype(np.uint8))
            else:
                values.append(np.where(valid, told, np.nan).astype(np.float32))
            continue
        found = _entropy(mean)
        if layer.descriptions[0] == "spread_nats":
            found = (found - torch.stack([_entropy(each) for each in shares]).mean(0)).clamp_min(0)
        values.append(np.where(valid, found.numpy(), np.nan)[None].astype(np.float32))
    return values


def _entropy(shares: Tensor) -> Tensor:
    """Return the entropy of probabilities (K, h, w) in nats, (h, w)."""
    found: Tensor = torch.special.entr(shares).sum(0)
    return found
