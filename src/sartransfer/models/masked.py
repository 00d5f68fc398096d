"""Masked autoencoding of images without labels, to pretrain an encoder of Prithvi's form (He et al. 2022)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartransfer.errors import InputError, RecipeError, WeightsError
from sartransfer.models.initialize import InitializationReport
from sartransfer.models.prithvi import PrithviSegmenter
from sartransfer.models.prithvi_encoder import position_embedding

VARIANCE = 1e-6  # added to a patch's variance, as in the published code (facebookresearch/mae)


class Painter(nn.Module):
    """The light decoder: paints the pixels of all patches from the tokens of those that are seen."""

    def __init__(self, inside: int, pixels: int, *, width: int, depth: int, heads: int) -> None:
        from timm.models.vision_transformer import Block

        super().__init__()
        self.width = width
        self.embed = nn.Linear(inside, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads, 4.0, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.predict = nn.Linear(width, pixels)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, seen: Tensor, kept: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Return patches (B, L, pixels) for tokens (B, 1 + N, inside), the class token first, at `kept` (B, N)."""
        known = self.embed(seen)
        places = position_embedding(self.width, grid).to(known.device)
        tokens = self.mask_token.to(known).expand(len(known), len(places) - 1, -1)
        tokens = tokens.scatter(1, kept[..., None].expand(-1, -1, self.width), known[:, 1:])
        whole = torch.cat([known[:, :1], tokens], dim=1) + places
        painted: Tensor = self.predict(self.norm(self.blocks(whole)))[:, 1:]
        return painted


class MaskedAutoencoder(nn.Module):
    """A network's encoder on the patches that are seen, and a light decoder that paints those that are hidden.

    He et al. (2022), arXiv:2111.06377; several dates are frames, whose tokens are hidden alike. The encoder (and a
    projection before it) is that of the network itself: what is learned here is what it starts from. Parameters of the
    decoder are named ``reconstruction.*``, so that no network takes them for its own.
    """

    def __init__(
        self,
        network: PrithviSegmenter,
        *,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        normalize: bool = True,
    ) -> None:
        """Take the encoder of `network`, and build a decoder.

        Args:
            network: as `build_model` returns it; its own decoder and class layer are left alone.
            width: channels of the decoder's tokens, a multiple of 16 and of `heads`. depth: its blocks.
            normalize: compare with each patch's pixels scaled to mean 0 and standard deviation 1.

        Raises:
            RecipeError: a width that does not fit.
        """
        super().__init__()
        if width % 16 or width % heads or depth < 1:
            raise RecipeError(f"masked: {width=} must be a multiple of 16 and of {heads=}; depth 1 or more.")
        encoder = network.encoder
        self.encoder, self.input_projection = encoder, network.input_projection
        self.normalize, self.patch, self.frames = normalize, encoder.patch, encoder.frames
        self._each_frame = network.each_frame
        pixels = encoder.patch**2 * network.in_channels // encoder.frames
        self.reconstruction = Painter(encoder.width, pixels, width=width, depth=depth, heads=heads)

    def draw(self, x: Tensor, ratio: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw which tokens of each image are seen: their numbers (B, N), and hidden (B, L), True where hidden.

        At least one token is seen and one hidden.
        """
        frames, rows, columns = self.encoder.grid(self._each_frame(x))
        tokens = frames * rows * columns
        if tokens < 2:
            raise InputError(
                f"an image of {tuple(x.shape[-2:])} pixels is one patch of {self.patch}: nothing can be hidden."
            )
        seen = min(max(1, round(tokens * (1 - ratio))), tokens - 1)
        order = torch.rand(len(x), tokens, generator=generator).argsort(dim=1).to(x.device)
        kept = order[:, :seen].sort(dim=1).values
        hidden = torch.ones(len(x), tokens, dtype=torch.bool, device=x.device).scatter_(1, kept, False)
        return kept, hidden

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        """Return the painted patches (B, L, patch**2 * bands) of images (B, C, H, W) of which `kept` is seen."""
        images = self._each_frame(x)
        seen = self.encoder.visible(images, kept)
        painted: Tensor = self.reconstruction(seen, kept, self.encoder.grid(images))
        return painted

    def patches(self, x: Tensor) -> Tensor:
        """Return an image's own pixels, patch by patch, in the order of the tokens: (B, L, patch**2 * bands).

        A patch's pixels come row by row, each with its bands.
        """
        batch, _, height, width = x.shape
        p, rows, columns = self.patch, height // self.patch, width // self.patch
        cut = x.reshape(batch, self.frames, -1, rows, p, columns, p)
        return cut.permute(0, 1, 3, 5, 4, 6, 2).reshape(batch, self.frames * rows * columns, -1)

    def loss(
        self, x: Tensor, kept: Tensor, hidden: Tensor, valid: Tensor | None = None
    ) -> tuple[Tensor, int]:
        """Return the mean squared error over the hidden patches, and how many of them count.

        Args:
            x: (B, C, H, W), normalized. kept, hidden: from `draw`.
            valid: (B, H, W), True where there are pixels; a patch with less than half of them does not count.

        Returns:
            The mean over patches of the mean over their pixels (0 where no patch counts), and the number of patches.
        """
        target = self.patches(x)
        if self.normalize:
            target = (target - target.mean(-1, keepdim=True)) / (
                target.var(-1, keepdim=True) + VARIANCE
            ).sqrt()
        counted = hidden
        if valid is not None:
            share = F.avg_pool2d(valid[:, None].float(), self.patch).flatten(1)
            counted = hidden & (share.repeat(1, self.frames) >= 0.5)
        errors = (self.forward(x, kept).float() - target).square().mean(-1)
        number = int(counted.sum())
        return (errors * counted).sum() / max(1, number), number


def pretraining_report(model: MaskedAutoencoder, whole: InitializationReport) -> InitializationReport:
    """Return what became of the parameters that are pretrained, from the report on the whole network.

    The network's own decoder and class layer take no part; the decoder that paints starts random.
    """
    names = list(model.state_dict())
    own = set(names)
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    lists = {
        kind: tuple(n for n in getattr(whole, kind) if n in own) for kind in ("loaded", "adapted", "frozen")
    }
    rest = tuple(n for n in names if n not in lists["loaded"] and n not in lists["adapted"])
    kinds = {"total": tuple(names), "random": rest, **lists}
    return InitializationReport(
        source=whole.source,
        loaded=lists["loaded"],
        adapted=lists["adapted"],
        random=rest,
        frozen=lists["frozen"],
        ignored=whole.ignored,
        parameters={k: sum(sizes.get(n, 0) for n in group) for k, group in kinds.items()},
        first_layer=whole.first_layer,
        partial=whole.partial,
        notes=(*whole.notes, "masked autoencoding: no labels; its light decoder is not handed on"),
        links=whole.links,
    )


def check_form(network: nn.Module, name: str) -> PrithviSegmenter:
    """Return `network` as what can be pretrained here; raises `WeightsError` for one of another form."""
    if not isinstance(network, PrithviSegmenter):
        raise WeightsError(
            f"model {name!r} cannot be pretrained by masked autoencoding: only networks of Prithvi's form can, e.g. "
            "`vit` with its own width and depth."
        )
    return network
