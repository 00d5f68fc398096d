"""Networks by name: one dict, and the prefixes ``smp:`` and ``timm:`` for whole libraries."""

import inspect
import json
from collections.abc import Callable
from typing import Any

from sartransfer.errors import RecipeError, one_of
from sartransfer.models.aspp import build_resnet18_aspp
from sartransfer.models.libraries import build_smp, build_timm, build_unet_resnet18
from sartransfer.models.network import Classifier, Network
from sartransfer.models.prithvi import (
    build_prithvi_v1_100m,
    build_prithvi_v2_300m,
    build_prithvi_v2_600m,
    build_vit,
)
from sartransfer.models.resnet import build_resnet18
from sartransfer.models.terratorch_backbones import build_terratorch
from sartransfer.models.unet import build_unet

MODELS: dict[str, Callable[..., Network]] = {
    "resnet18-aspp": build_resnet18_aspp,
    "unet-resnet18": build_unet_resnet18,
    "resnet18": build_resnet18,
    "unet": build_unet,
    "prithvi-v1-100m": build_prithvi_v1_100m,
    "prithvi-v2-300m": build_prithvi_v2_300m,
    "prithvi-v2-600m": build_prithvi_v2_600m,
    "vit": build_vit,
}
"""Name -> builder(in_channels, num_classes, **options)."""

LIBRARIES: dict[str, Callable[..., Network]] = {
    "smp:ARCHITECTURE:ENCODER": build_smp,
    "timm:NAME": build_timm,
    "terratorch:BACKBONE": build_terratorch,
}

PATTERNS = tuple(LIBRARIES)


def build_model(name: str, in_channels: int, num_classes: int, **options: Any) -> Network:
    """Build a network with random weights; `load_initialization` brings others.

    Args:
        name: a key of `MODELS`, ``smp:ARCHITECTURE:ENCODER`` (e.g. ``smp:Unet:resnet34``), ``timm:NAME`` or
            ``terratorch:BACKBONE``.
        in_channels: number of bands.
        num_classes: number of classes.
        options: what the network's builder takes, e.g. ``aspp_channels``, ``dropout``, ``encoder_depth``.

    Returns:
        The network in training mode: (B, in_channels, H, W) -> logits (B, num_classes, H, W) to segment,
        (B, num_classes) to classify. It carries ``task``, ``stride``, ``in_channels``, ``num_classes``,
        ``encoder``, ``classifier_names``, and ``built`` (this call's arguments).

    Raises:
        RecipeError: an unknown name or option, or fewer than one band or two classes.
    """
    if in_channels < 1 or num_classes < 2:
        raise RecipeError(
            f"{in_channels=}, {num_classes=}: a network needs one band and two classes at least."
        )
    try:
        plain = json.loads(json.dumps(options))
    except TypeError as error:
        raise RecipeError(f"the options of {name!r} must be plain values: {error}") from error
    kind, *rest = name.split(":")
    if "lora" in plain and "lora" not in _keywords(MODELS.get(name, build_terratorch)):
        raise RecipeError(
            f"training.lora adapts the attention of networks of Prithvi's form (prithvi-..., vit); {name!r} is another."
        )
    if kind == "smp" and len(rest) == 2:
        model: Network = build_smp(rest[0], rest[1], in_channels, num_classes, **plain)
    elif kind == "timm" and len(rest) == 1:
        model = build_timm(rest[0], in_channels, num_classes, **plain)
    elif kind == "terratorch" and len(rest) == 1:
        model = build_terratorch(rest[0], in_channels, num_classes, **plain)
    elif name in MODELS:
        _check_options(name, plain)
        model = MODELS[name](in_channels, num_classes, **plain)
    else:
        raise RecipeError(one_of("model", name, (*MODELS, *PATTERNS)))
    model.built = {"name": name, "in_channels": in_channels, "num_classes": num_classes, "options": plain}
    return model


def networks_for(task: str) -> list[str]:
    """Return the names, and forms of names, of the networks that ``segment`` or ``classify``."""
    found = []
    for name, builder in (MODELS | LIBRARIES).items():
        classifies = issubclass(inspect.signature(builder).return_annotation, Classifier)
        if classifies == (task == "classify"):
            found.append(name)
    return found


def _check_options(name: str, options: dict[str, Any]) -> None:
    parameters = inspect.signature(MODELS[name]).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    allowed = _keywords(MODELS[name])
    for key in options:
        if key not in allowed:
            raise RecipeError(one_of(f"option of {name}", key, allowed))


def _keywords(builder: Callable[..., Network]) -> list[str]:
    return [p.name for p in inspect.signature(builder).parameters.values() if p.kind is p.KEYWORD_ONLY]
