"""What turns Prithvi's tokens into maps of pixels: a neck with an FCN head, or a pyramid with a U-Net decoder."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartransfer.errors import RecipeError
from sartransfer.models.unet import double_conv

UNET_CHANNELS = (512, 256, 128, 64)


class PixelNorm(nn.Module):
    """A layer norm over the channels of every pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        y: Tensor = self.ln(x.permute(0, 2, 3, 1))
        return y.permute(0, 3, 1, 2)


class NeckHead(nn.Module):
    """Four transposed convolutions, each twice as fine, then the FCN head's convolution.

    The decoder of the published fine-tuning on Sen1Floods11 (NASA-IMPACT/hls-foundation-os): two of
    [transposed 2x2, layer norm, GELU, transposed 2x2], then 3x3 convolution, batch norm, ReLU and dropout.
    """

    scale = 16
    """How many times finer the answer is than the tokens' grid."""
    multiple = 1
    """The tokens' grid must be a multiple of this."""
    taps = 1
    """How many of the encoder's layers it takes."""

    def __init__(
        self, inside: int, *, neck_channels: int, head_channels: int = 256, dropout: float = 0.1
    ) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for channels in (inside, neck_channels):
            steps += [
                nn.ConvTranspose2d(channels, neck_channels, 2, stride=2),
                PixelNorm(neck_channels),
                nn.GELU(),
                nn.ConvTranspose2d(neck_channels, neck_channels, 2, stride=2),
            ]
        self.neck = nn.Sequential(*steps)
        self.head = nn.Sequential(
            nn.Conv2d(neck_channels, head_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(head_channels),
            nn.ReLU(),
            nn.Dropout2d(dropout),
        )
        self.out_channels = head_channels

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return (B, out_channels, 16 h, 16 w) for the last of the maps (B, inside, h, w)."""
        x: Tensor = self.head(self.neck(features[-1]))
        return x


class PyramidUNet(nn.Module):
    """Four layers' maps made 4, 2, 1 and 1/2 times as fine, then a U-Net decoder from the coarsest up.

    The learned pyramid and U-Net decoder with which terratorch fine-tunes Prithvi. The answer is half as fine
    as the image (for patches of 16 pixels), as with the U-Net decoder of older versions of smp; with recent ones
    terratorch's last block no longer doubles the size, and its answer is a quarter as fine.
    """

    scale = 8
    multiple = 2
    taps = 4

    def __init__(self, inside: int, *, channels: Sequence[int] = UNET_CHANNELS, dropout: float = 0.1) -> None:
        super().__init__()
        if len(channels) != 4 or min(channels) < 1:
            raise RecipeError(
                f"prithvi: decoder_channels={list(channels)} must be four numbers, 1 or more each."
            )
        self.four = nn.Sequential(
            nn.ConvTranspose2d(inside, inside // 2, 2, stride=2),
            nn.BatchNorm2d(inside // 2),
            nn.GELU(),
            nn.ConvTranspose2d(inside // 2, inside // 4, 2, stride=2),
        )
        self.two = nn.ConvTranspose2d(inside, inside // 2, 2, stride=2)
        skips = (inside, inside // 2, inside // 4, 0)
        below = (inside, *channels[:3])
        self.blocks = nn.ModuleList(
            double_conv(a + skip, b) for a, skip, b in zip(below, skips, channels, strict=True)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.out_channels = channels[-1]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return (B, out_channels, 8 h, 8 w) for four maps (B, inside, h, w) with even h and w."""
        first, second, third, fourth = features
        skips = [third, self.two(second), self.four(first), None]
        x = F.max_pool2d(fourth, 2)
        for block, skip in zip(self.blocks, skips, strict=True):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = block(x if skip is None else torch.cat([x, skip], dim=1))
        dropped: Tensor = self.dropout(x)
        return dropped
