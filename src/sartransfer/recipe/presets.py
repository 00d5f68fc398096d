"""Initializations by the names a paper gave them."""

from collections.abc import Callable, Mapping
from typing import Any

from sartransfer.errors import one_of

NWPU_EPOCHS = 15  # the paper names no number for its optical stage


def _random(given: dict[str, Any]) -> dict[str, Any]:
    return {"from": "random"}


def _imagenet(given: dict[str, Any]) -> dict[str, Any]:
    start: dict[str, Any] = {"from": "torchvision", "name": "ResNet18_Weights.IMAGENET1K_V1"}
    if "path" in given:
        start = {"from": "file", "path": given.pop("path")}
    return {**start, **{k: given.pop(k) for k in ("allow_missing", "first_layer") if k in given}}


def _imagenet_optical(given: dict[str, Any]) -> dict[str, Any]:
    if "root" not in given:
        raise ValueError(
            "TL-ImageNet2RS2TSX learns NWPU-RESISC45 on its way: give `root`, the folder where it lies, sorted "
            "into {train,test}/<class>/*.jpg"
        )
    met = {
        k: given[k] for k in ("first_layer",) if k in given
    }  # the SAR bands meet three colours the same way
    stage = {
        "name": "nwpu",
        "task": "classify",
        "start": _imagenet(given),
        "data": {
            "dataset": "nwpu",
            "root": given.pop("root"),
            "validation": {"fraction": 0.1},
            "patch": {"size": 128},
        },
        "training": {
            "epochs": given.pop("epochs", NWPU_EPOCHS),
            "batch_size": 32,
            "optimizer": {"name": "adamw", "lr": 3.0e-4, "weight_decay": 0.01},
            "schedule": {"name": "one-cycle"},
            "augment": {"flips": True},
        },
    }
    return {"from": "stages", "stages": [stage], **met}


PRESETS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "RD-TSX": _random,
    "TL-ImageNet2TSX": _imagenet,
    "TL-ImageNet2RS2TSX": _imagenet_optical,
}
"""Huang et al. 2020 (GRSL): random; ImageNet; ImageNet -> NWPU-RESISC45; each then trained on SAR land cover."""


def expand_preset(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn ``{preset: NAME, ...}`` into the initialization it stands for.

    Args:
        values: ``preset``; ``path``: ImageNet weights of a ResNet-18 in a file (else torchvision's, from its
            hub), with ``allow_missing`` where they stop early; ``root``: the folder of NWPU-RESISC45 and
            ``epochs`` of that stage, for TL-ImageNet2RS2TSX; anything else goes to the initialization.

    Raises:
        ValueError: an unknown name, or something that the preset needs is not given.
    """
    given = dict(values)
    name = str(given.pop("preset"))
    if name not in PRESETS:
        raise ValueError(one_of("preset", name, PRESETS))
    start = PRESETS[name](given)
    return {**start, **given}
