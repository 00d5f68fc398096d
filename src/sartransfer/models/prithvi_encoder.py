"""The encoder of Prithvi: a vision transformer on frames of patches, with a fixed position embedding.

Jakubik et al. (2023), arXiv:2310.18660 (V1), and Szwarcman et al. (2024), arXiv:2412.02732 (V2), pretrain it as a
masked autoencoder (He et al. 2022) on six optical bands. Parameters have the published names.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from sartransfer.errors import InputError

EPS = 1e-5
"""Of every layer norm: PyTorch's default, not the 1e-6 of other vision transformers."""


def position_embedding(channels: int, grid: tuple[int, int, int]) -> Tensor:
    """Return the fixed sine-cosine embedding of a grid of tokens.

    Of the channels 6/16 tell the column, 6/16 the row and 4/16 the frame, in this order; each part is sin, then
    cos, of position / 10000 ** (2 i / part). It is computed for the grid at hand and never loaded: files hold it for
    224 pixels and their own number of frames.

    Args:
        channels: the network's width, a multiple of 16.
        grid: (frames, rows, columns) of tokens.

    Returns:
        (1 + frames * rows * columns, channels) float32 on the CPU: a row of zeros for the class token, then
        the tokens, frame by frame and row by row.
    """
    frames, rows, columns = grid
    space, time = channels // 16 * 6, channels // 16 * 4
    parts = (
        _waves(columns, space).view(1, 1, columns, space),
        _waves(rows, space).view(1, rows, 1, space),
        _waves(frames, time).view(frames, 1, 1, time),
    )
    tokens = torch.cat([p.expand(frames, rows, columns, -1) for p in parts], dim=-1).flatten(0, 2)
    return torch.cat([tokens.new_zeros(1, channels), tokens]).float()


def _waves(number: int, channels: int) -> Tensor:
    half = torch.arange(channels // 2, dtype=torch.float64, device="cpu")
    places = torch.arange(number, dtype=torch.float64, device="cpu")
    angles = torch.outer(places, 10000.0 ** (-half / (channels / 2)))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class PrithviEncoder(nn.Module):
    """Patch embedding, class token, transformer blocks, norm: an image of frames -> maps of tokens.

    The published patch embedding is a 3-D convolution one frame deep; here it is the same thing, a 2-D
    convolution of every frame, so that the ways to fit a first layer to other bands hold for it
    (`prithvi_weights.flat_patches` takes the published tensor's axis of length 1 out).
    """

    def __init__(
        self,
        bands: int,
        *,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        frames: int = 1,
        drop_path: float = 0.0,
        layers: Sequence[int] | None = None,
    ) -> None:
        """Build it with the published random start.

        Args:
            bands: of one frame.
            width: channels of a token. depth: number of blocks. heads: of each attention.
            patch: side of a patch in pixels.
            frames: number of images that are seen together.
            drop_path: chance that a block is skipped in training.
            layers: numbers of the blocks whose tokens are returned, from 0; None: the last.
        """
        from timm.models.vision_transformer import Block

        super().__init__()
        self.width, self.depth, self.patch, self.frames = width, depth, patch, frames
        self.layers = tuple(layers) if layers is not None else (depth - 1,)
        self.patch_embed = nn.Sequential(
            OrderedDict(proj=nn.Conv2d(bands, width, kernel_size=patch, stride=patch))
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(
            Block(width, heads, 4.0, qkv_bias=True, norm_layer=nn.LayerNorm, drop_path=drop_path)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=EPS)
        self._start()

    def _start(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.detach().view(self.width, -1))
        nn.init.normal_(self.cls_token, std=0.02)

    def grid(self, x: Tensor) -> tuple[int, int, int]:
        """Return (frames, rows, columns) of the tokens of an image (B, frames * bands, H, W).

        Raises:
            InputError: another number of channels, or a size that is no multiple of the patch.
        """
        _, channels, height, width = x.shape
        bands = cast(nn.Conv2d, self.patch_embed[0]).in_channels  # a projection before it may have changed it
        if channels != self.frames * bands or height % self.patch or width % self.patch:
            raise InputError(
                f"the encoder takes (B, {self.frames} frames x {bands} bands, H, W) with H and W multiples of "
                f"{self.patch}, not {tuple(x.shape)}."
            )
        return self.frames, height // self.patch, width // self.patch

    def embed(self, x: Tensor) -> Tensor:
        """Return the tokens before the first block, with their places: (B, 1 + frames * rows * columns, width)."""
        grid, batch = self.grid(x), len(x)
        patches = self.patch_embed(x.reshape(batch * self.frames, -1, *x.shape[-2:]))
        places = position_embedding(self.width, grid).to(x.device)
        t = patches.flatten(2).transpose(1, 2).reshape(batch, -1, self.width) + places[1:]
        return torch.cat([(self.cls_token + places[:1]).expand(batch, -1, -1), t], dim=1)

    def visible(self, x: Tensor, kept: Tensor) -> Tensor:
        """Return what all blocks and the norm make of some of an image's tokens alone: (B, 1 + N, width).

        Args:
            x: (B, frames * bands, H, W).
            kept: (B, N) numbers of the tokens that are seen, from 0 (the class token, always seen, is not counted).
        """
        t = self.embed(x)
        chosen = t[:, 1:].gather(1, kept[..., None].expand(-1, -1, self.width))
        t = torch.cat([t[:, :1], chosen], dim=1)
        for block in self.blocks:
            t = block(t)
        seen: Tensor = self.norm(t)
        return seen

    def tokens(self, x: Tensor) -> list[Tensor]:
        """Return the tokens after each of `layers`: (B, 1 + frames * rows * columns, width) each.

        Those of the last block are normalized, the others are not, as published. The class token comes first.

        Args:
            x: (B, frames * bands, H, W), one frame after the other; H and W are multiples of `patch`.

        Raises:
            InputError: another number of channels, or a size that is no multiple of the patch.
        """
        t = self.embed(x)
        found: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks[: max(self.layers) + 1]):
            t = block(t)
            if number in self.layers:
                found[number] = self.norm(t) if number == self.depth - 1 else t
        return [found[number] for number in self.layers]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return a map (B, frames * width, H / patch, W / patch) for each of `layers`: frames as channels."""
        rows, columns = x.shape[-2] // self.patch, x.shape[-1] // self.patch
        return [
            t[:, 1:]
            .reshape(len(t), self.frames, rows, columns, self.width)
            .permute(0, 1, 4, 2, 3)
            .reshape(len(t), self.frames * self.width, rows, columns)
            for t in self.tokens(x)
        ]
