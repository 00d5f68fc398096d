"""The plain U-Net, trained from scratch: what the flood experiment sets against the foundation model."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartransfer.errors import RecipeError
from sartransfer.models.segmenter import Segmenter


def double_conv(inside: int, outside: int) -> nn.Sequential:
    """Return twice a 3x3 convolution, batch norm and ReLU; the size stays."""
    layers: list[nn.Module] = []
    for channels in (inside, outside):
        layers += [nn.Conv2d(channels, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
    return nn.Sequential(*layers)


class ContractingPath(nn.Module):
    """Double convolutions with 2x2 max pooling between them: an image -> one map a level, finest first."""

    def __init__(self, in_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            double_conv(a, b) for a, b in zip((in_channels, *channels[:-1]), channels, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return maps (B, channels[i], H / 2**i, W / 2**i)."""
        features: list[Tensor] = []
        for number, level in enumerate(self.levels):
            x = level(F.max_pool2d(x, 2) if number else x)
            features.append(x)
        return features


class ExpandingPath(nn.Module):
    """Transposed 2x2 convolutions, each joined with the contracting path's map and convolved twice."""

    def __init__(self, channels: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        pairs = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.levels = nn.ModuleList(double_conv(2 * b, b) for _, b in pairs)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return (B, channels[0], H, W)."""
        x = features[-1]
        for up, level, skip in zip(self.ups, self.levels, features[-2::-1], strict=True):
            x = level(torch.cat([skip, up(x)], dim=1))
        dropped: Tensor = self.dropout(x)
        return dropped


def build_unet(
    in_channels: int,
    num_classes: int,
    *,
    channels: Sequence[int] = (64, 128, 256, 512, 1024),
    dropout: float = 0.0,
) -> Segmenter:
    """Build the U-Net of Ronneberger, Fischer and Brox (2015), arXiv:1505.04597, from scratch.

    As is usual now its convolutions are padded and followed by batch norm, so that the answer has the input's
    size. The flood paper says "U-Net" and no more; these channels are the original's.

    Args:
        in_channels: number of bands.
        num_classes: number of classes.
        channels: of each level, finest first; two at least.
        dropout: share of channels that are dropped before the class layer.

    Raises:
        RecipeError: fewer than two levels, or a level without channels.
    """
    widths = tuple(int(c) for c in channels)
    if len(widths) < 2 or min(widths) < 1:
        raise RecipeError(f"unet: channels={list(channels)} must be two levels at least, each 1 or more.")
    return Segmenter(
        ContractingPath(in_channels, widths),
        ExpandingPath(widths, dropout),
        nn.Conv2d(widths[0], num_classes, 1),
        in_channels=in_channels,
        num_classes=num_classes,
        stride=2 ** (len(widths) - 1),
        factor=1,
        classifier_names=("segmentation_head.weight", "segmentation_head.bias"),
    )
