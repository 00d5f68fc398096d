"""Any backbone of terratorch as an encoder, with one decoder that takes whatever maps it gives."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartransfer.errors import RecipeError, WeightsError, nearest
from sartransfer.models.bilinear import enlarged
from sartransfer.models.segmenter import Segmenter

LAYERS = 4  # how many of the backbone's maps are taken, its last ones
PROBE = 224  # side of the image that a new backbone is asked about, the size most of them were trained on
REFUSED = ("pretrained", "ckpt_path", "checkpoint_path", "in_channels", "in_chans")


class SumOfMaps(nn.Module):
    """Maps brought to one number of channels and the finest one's size, added, and convolved once more.

    The semantic branch of panoptic feature pyramids (Kirillov et al. 2019), without its steps between.
    """

    def __init__(self, channels: Sequence[int], outside: int, dropout: float) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, outside, 1) for c in channels)
        self.smooth = nn.Sequential(
            nn.Conv2d(outside, outside, 3, padding=1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Dropout2d(dropout),
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return (B, outside, h, w) of the finest of the maps (B, C_i, h_i, w_i)."""
        finest = max((m.shape[-2:] for m in maps), key=lambda s: s[0] * s[1])
        total: Tensor | None = None
        for conv, single in zip(self.lateral, maps, strict=True):
            x = conv(single)
            if x.shape[-2:] != finest:
                x = enlarged(x, size=(finest[0], finest[1]))
            total = x if total is None else total + x
        smooth: Tensor = self.smooth(total)
        return smooth


class TerratorchSegmenter(Segmenter):
    """A backbone of terratorch, a decoder and a class layer: (B, C, H, W) -> logits (B, num_classes, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes, H, W); the input is padded to the coarsest map's step."""
        self.check_input(x)
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.stride, 0, -height % self.stride))
        logits = self.segmentation_head(self.decoder(maps_of(self.encoder, self.input_projection(x))))
        logits = enlarged(logits, size=(x.shape[-2], x.shape[-1]))
        return logits[..., :height, :width]

    def first_layer(self) -> tuple[str, nn.Conv2d]:
        """Return the first convolution; that of a backbone whose first one is 3-D takes no other bands."""
        try:
            return super().first_layer()
        except WeightsError:
            for name, module in self.encoder.named_modules():
                if isinstance(module, nn.Conv3d):
                    return f"encoder.{name}", module  # type: ignore[return-value]  # only its name and shape are asked
            raise


def maps_of(backbone: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the last maps (B, C, h, w) of a backbone, tokens put back on their grid.

    Raises:
        RecipeError: an answer that is neither maps nor a square of tokens.
    """
    found: Any = backbone(x)
    found = list(found) if isinstance(found, list | tuple) else [found]
    prepare = getattr(backbone, "prepare_features_for_image_model", None)
    if callable(prepare) and found and found[0].ndim == 3:
        found = list(prepare(found))
    maps = [_channels_first(m, x) if m.ndim == 4 else _on_grid(m, x) for m in found[-LAYERS:]]
    if not maps:
        raise RecipeError("the backbone gives no maps.")
    return maps


def _channels_first(found: Tensor, x: Tensor) -> Tensor:
    """Return a map (B, C, h, w) of the image's shape; Swin transformers of torchvision put the channels last."""
    height, width = x.shape[-2:]
    first, last = (
        found.shape[-2] * width == found.shape[-1] * height,
        found.shape[1] * width == found.shape[2] * height,
    )
    return found.permute(0, 3, 1, 2) if last and not first else found


def _on_grid(tokens: Tensor, x: Tensor) -> Tensor:
    """Return tokens (B, N, C) as a map; a class token before a grid of the image's shape is left out."""
    if tokens.ndim == 3:
        for first in (0, 1):
            number = tokens.shape[1] - first
            rows = round(math.sqrt(number * x.shape[-2] / x.shape[-1]))
            if rows and number % rows == 0 and rows * x.shape[-1] == number // rows * x.shape[-2]:
                return tokens[:, first:].transpose(1, 2).reshape(len(tokens), -1, rows, number // rows)
    raise RecipeError(
        f"an answer of {tuple(tokens.shape)} to {tuple(x.shape)} is neither a map nor a grid of tokens."
    )


def registry() -> Any:
    """Return terratorch's backbones by name; raises `RecipeError` where terratorch is not installed."""
    try:
        from terratorch.registry import BACKBONE_REGISTRY
    except ImportError as error:
        raise RecipeError(
            f"terratorch is needed for networks and weights named terratorch:..., and cannot be imported ({error}): "
            "pip install 'sartransfer[terratorch]'."
        ) from None
    return BACKBONE_REGISTRY


def build_terratorch(
    name: str,
    in_channels: int,
    num_classes: int,
    *,
    decoder_channels: int = 128,
    dropout: float = 0.1,
    **options: Any,
) -> TerratorchSegmenter:
    """Build a segmentation network on a backbone of terratorch, with random weights.

    Args:
        name: in terratorch's registry, e.g. ``timm_resnet50``, ``satlas_swin_b_sentinel1_si``.
        in_channels: number of bands. num_classes: of classes.
        decoder_channels: of the decoder. dropout: before the class layer.
        options: what the backbone takes besides, e.g. ``num_frames``, ``bands``.

    Raises:
        RecipeError: terratorch is missing, an unknown name, or a backbone that cannot be built or asked so.
    """
    backbones = registry()
    for key in REFUSED:
        if key in options:
            raise RecipeError(
                f"option {key!r} is not allowed in a network's options: bands come from the data, weights from "
                "`initialization` ({from: terratorch, name: ...})."
            )
    if name not in backbones:
        names = sorted({str(n).removeprefix("terratorch_") for n in backbones})
        raise RecipeError(f"terratorch has no backbone {name!r}.{nearest(name, names)}")
    backbone = _built(
        lambda words: backbones.build(name, pretrained=False, **words), name, in_channels, options
    )
    training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            maps = maps_of(backbone, torch.zeros(1, in_channels, PROBE, PROBE))
    except RecipeError:
        raise
    except Exception as error:  # any of the libraries' own
        raise RecipeError(
            f"terratorch:{name} does not answer an image of {in_channels} bands ({type(error).__name__}: "
            f"{str(error)[:200]}). Give the options that it needs."
        ) from error
    backbone.train(training)
    channels = [m.shape[1] for m in maps]
    return TerratorchSegmenter(
        backbone,
        SumOfMaps(channels, decoder_channels, dropout),
        nn.Conv2d(decoder_channels, num_classes, 1),
        in_channels=in_channels,
        num_classes=num_classes,
        stride=max(PROBE // m.shape[-1] for m in maps),
        factor=1,
        classifier_names=("segmentation_head.weight", "segmentation_head.bias"),
    )


def _built(
    build: Callable[[dict[str, Any]], nn.Module], name: str, in_channels: int, options: dict[str, Any]
) -> nn.Module:
    """Build a backbone for so many bands, by whichever of terratorch's words for that it takes."""
    refused: Exception | None = None
    names = [f"band{i}" for i in range(in_channels)]
    words: list[dict[str, Any]] = [
        {"bands": names},
        {"in_chans": in_channels},
        {"in_channels": in_channels},
        {"model_bands": names},
    ]
    if {"bands", "model_bands"} & options.keys():
        words = [{}]
    for more in words:
        try:
            return build({**more, **options})
        except Exception as error:  # of terratorch, timm, torchgeo and others
            refused = refused or error
    raise RecipeError(
        f"terratorch:{name} cannot be built with {in_channels} bands and {options}: {refused}"
    ) from refused


def terratorch_weights(name: str) -> dict[str, Tensor]:
    """Return the published weights of a backbone, as terratorch fetches them.

    Raises:
        RecipeError: terratorch is missing, or there is no such backbone. Whatever else its hub raises.
    """
    backbones = registry()
    if name not in backbones:
        raise RecipeError(f"terratorch has no backbone {name!r}.")
    backbone: nn.Module = backbones.build(name, pretrained=True)
    return dict(backbone.state_dict())
