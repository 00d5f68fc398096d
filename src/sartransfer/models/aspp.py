"""ResNet-18 with an atrous spatial pyramid pooling head: the network of the sea-ice experiment."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartransfer.errors import RecipeError, one_of
from sartransfer.models.bilinear import enlarged
from sartransfer.models.resnet import ResNetTrunk
from sartransfer.models.segmenter import Segmenter

POOLINGS = ("average", "global")
OUTPUT_STRIDE = 16


def _conv(inside: int, outside: int, size: int, rate: int = 1) -> nn.Sequential:
    padding = 0 if size == 1 else rate
    return nn.Sequential(
        nn.Conv2d(inside, outside, size, padding=padding, dilation=rate, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(),
    )


class AsppHead(nn.Module):
    """Five branches (1x1; 3x3 at three rates; pooling), projection, 3x3 convolution, class layer.

    Chen et al. (2017), arXiv:1706.05587, as torchvision's DeepLabV3 has it. `pooling` ``average`` replaces
    the mean over the image by 2x2 averages, so that a training patch and a whole scene see the same
    statistics; with ``global`` one pass over a scene and passes over its tiles disagree.
    """

    def __init__(
        self,
        inside: int,
        num_classes: int,
        *,
        channels: int = 256,
        rates: Sequence[int] = (12, 24, 36),
        pooling: str = "average",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.branches = nn.ModuleList(
            [_conv(inside, channels, 1), *(_conv(inside, channels, 3, rate) for rate in rates)]
        )
        self.pooling_branch = _conv(inside, channels, 1)
        self.project = nn.Sequential(*_conv((len(rates) + 2) * channels, channels, 1), nn.Dropout(dropout))
        self.refine = _conv(channels, channels, 3)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes, h, w) for features (B, inside, h, w); ``average`` needs even h and w."""
        features = [branch(x) for branch in self.branches]
        if self.pooling == "average":
            pooled = self.pooling_branch(F.avg_pool2d(x, 2, 2))
            pooled = enlarged(pooled, factor=2)
        else:
            pooled = self.pooling_branch(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        logits: Tensor = self.classifier(self.refine(self.project(torch.cat([*features, pooled], dim=1))))
        return logits


def build_resnet18_aspp(
    in_channels: int,
    num_classes: int,
    *,
    aspp_channels: int = 256,
    rates: Sequence[int] = (12, 24, 36),
    pooling: str = "average",
    dropout: float = 0.5,
) -> Segmenter:
    """Build conv1 to layer3 of ResNet-18 (output stride 16) with an ASPP head.

    Karimzadeh & Pires de Lima (IGARSS 2023): 5,604,930 parameters with ``aspp_channels=256`` (their code),
    3,964,482 with 128 (the paper's "4 M"), for three bands and two classes. Raises `RecipeError` for options out of
    range.
    """
    if pooling not in POOLINGS:
        raise RecipeError(one_of("pooling", pooling, POOLINGS))
    if not _is_count(aspp_channels):
        raise RecipeError(
            f"aspp_channels={aspp_channels!r} is not allowed: a whole number from 1, such as 256."
        )
    if not isinstance(rates, list | tuple) or not all(_is_count(rate) for rate in rates):
        raise RecipeError(
            f"rates={rates!r} is not allowed: a list of whole numbers from 1, such as [12, 24, 36]."
        )
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise RecipeError(f"dropout={dropout!r} is not allowed: a number from 0 to under 1.")
    trunk = ResNetTrunk(in_channels, stages=3)
    head = AsppHead(
        trunk.out_channels,
        num_classes,
        channels=aspp_channels,
        rates=rates,
        pooling=pooling,
        dropout=dropout,
    )
    return Segmenter(
        trunk,
        head,
        in_channels=in_channels,
        num_classes=num_classes,
        stride=OUTPUT_STRIDE * (2 if pooling == "average" else 1),  # 2x2 averages need even features
        factor=OUTPUT_STRIDE,
        classifier_names=("decoder.classifier.weight", "decoder.classifier.bias"),
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
