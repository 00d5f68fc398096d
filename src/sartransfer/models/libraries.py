"""Networks of segmentation-models-pytorch and timm, with random weights and without parts that do nothing."""

import difflib
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sartransfer.errors import RecipeError, SartransferError, one_of
from sartransfer.models.network import Classifier, Network
from sartransfer.models.segmenter import Segmenter

# Options that would fetch or unpickle weights, or change what a network takes and gives.
REFUSED = {
    "pretrained",
    "checkpoint_path",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "cache_dir",
    "encoder_weights",
    "in_channels",
    "in_chans",
    "classes",
    "num_classes",
    "aux_params",
    "activation",
    "upsampling",
    "features_only",
    "global_pool",
}


def smp_architectures() -> dict[str, type[nn.Module]]:
    """Return the segmentation networks on offer: those that are encoder, decoder and head in a row."""
    import segmentation_models_pytorch as smp
    from segmentation_models_pytorch.base import SegmentationModel

    found = {c.__name__: c for c in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    return {n: c for n, c in sorted(found.items()) if c.forward is SegmentationModel.forward}


def build_smp(
    architecture: str, encoder: str, in_channels: int, num_classes: int, **options: Any
) -> Segmenter:
    """Build a network of segmentation-models-pytorch, e.g. ``Unet`` on ``resnet18``, with random weights.

    Args:
        architecture: a class of the library.
        encoder: an encoder of the library, or ``tu-NAME`` for one of timm.
        in_channels: number of bands.
        num_classes: number of classes.
        options: what the class takes, e.g. ``encoder_depth``, ``decoder_channels``.

    Raises:
        RecipeError: an unknown name or option, or a network that takes images of one size only.
    """
    import segmentation_models_pytorch as smp
    from segmentation_models_pytorch.encoders import encoders

    architectures = smp_architectures()
    if architecture not in architectures:
        raise RecipeError(one_of("smp architecture", architecture, architectures))
    if encoder.startswith("tu-"):
        _check_timm(encoder.removeprefix("tu-"))
    elif encoder not in encoders or encoder.startswith("timm-"):
        raise RecipeError(one_of("smp encoder", encoder, sorted(smp.encoders.get_encoder_names())))
    _check_options(options)
    own = [
        p for p in inspect.signature(architectures[architecture]).parameters if p not in (*REFUSED, "kwargs")
    ]
    for key in options:
        if key not in own and not encoder.startswith("tu-"):  # the library passes the rest to a timm encoder
            raise RecipeError(one_of(f"option of smp:{architecture}", key, own))
    name = f"smp:{architecture}:{encoder}"
    try:
        core: Any = architectures[architecture](
            encoder_name=encoder,
            encoder_weights=None,
            in_channels=in_channels,
            classes=num_classes,
            **options,
        )
    except (TypeError, ValueError, KeyError) as error:
        raise RecipeError(f"{name} cannot be built with {options}: {error}") from error
    model = Segmenter(
        core.encoder,
        core.decoder,
        core.segmentation_head,
        in_channels=in_channels,
        num_classes=num_classes,
        stride=2 ** (len(core.encoder.out_channels) - 1),
        factor=1,  # the library's own heads enlarge to the input's size
        classifier_names=tuple(
            f"segmentation_head.{n}" for n, _ in core.segmentation_head.named_parameters()
        ),
    )
    try:
        drop_unused(model)
    except SartransferError:
        raise
    except (RuntimeError, AssertionError, ValueError) as error:
        raise RecipeError(f"{name} does not run on images of any size: {error}") from error
    return model


def build_unet_resnet18(
    in_channels: int,
    num_classes: int,
    *,
    encoder_depth: int = 4,
    decoder_channels: Sequence[int] = (128, 64, 32, 16),
    **options: Any,
) -> Segmenter:
    """Build the U-Net on ResNet-18 that ends its encoder with layer3: layer1-3 weights fill all of it."""
    return build_smp(
        "Unet",
        "resnet18",
        in_channels,
        num_classes,
        encoder_depth=encoder_depth,
        decoder_channels=tuple(decoder_channels),
        **options,
    )


def build_timm(
    name: str, in_channels: int, num_classes: int, *, dropout: float = 0.0, **options: Any
) -> Classifier:
    """Build a classifier on a timm network with random weights; other options go to ``timm.create_model``."""
    import timm

    _check_timm(name)
    _check_options(options)
    try:
        encoder = timm.create_model(name, pretrained=False, in_chans=in_channels, num_classes=0, **options)
    except (TypeError, ValueError, KeyError) as error:
        raise RecipeError(f"timm:{name} cannot be built with {options}: {error}") from error
    features: Any = getattr(encoder, "head_hidden_size", None) or encoder.num_features
    return Classifier(encoder, features, in_channels=in_channels, num_classes=num_classes, dropout=dropout)


def drop_unused(model: Network) -> list[str]:
    """Replace parts whose parameters cannot influence the output by nothing, and return their names.

    The library keeps a ResNet's layer4 when only four of five levels are used: three quarters of the encoder
    that no gradient reaches, which an initialization report would count and DDP would wait for.
    """
    size = max(64, 2 * model.stride)
    parameters = dict(model.named_parameters())
    training = model.training
    model.eval()
    with torch.enable_grad():
        logits = model(torch.zeros(1, model.in_channels, size, size))
        gradients = torch.autograd.grad(logits.sum(), list(parameters.values()), allow_unused=True)
    model.train(training)
    unused = {n for n, g in zip(parameters, gradients, strict=True) if g is None}
    dropped: list[str] = []
    for name, module in list(model.named_modules()):
        own = [n for n, _ in module.named_parameters(prefix=name)]
        if own and unused.issuperset(own) and not name.startswith(tuple(f"{d}." for d in dropped)):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, nn.Identity())
            dropped.append(name)
    return dropped


def _check_timm(name: str) -> None:
    import timm

    if not timm.is_model(name):  # this also keeps out names that timm would look up in a hub
        raise RecipeError(f"timm has no model {name!r}.{_close_timm(name)}")


def _close_timm(name: str) -> str:
    import timm

    close = difflib.get_close_matches(name, timm.list_models(), n=3)
    return f" Near it: {', '.join(close)}." if close else ""


def _check_options(options: dict[str, Any]) -> None:
    for key in sorted(REFUSED & options.keys()):
        raise RecipeError(
            f"option {key!r} is not allowed in a network's options: bands and classes come from the data, "
            "weights from `initialization`, and a network is built without them."
        )
