"""Prithvi for segmentation: the foundation model's encoder with a new decoder, on any bands and dates.

There are five ways from the six optical bands of its pretraining to others:

=======  ==========================  =====================================  ===============================
way      option of the network       setting of the start                   what a patch embedding answers
=======  ==========================  =====================================  ===============================
mean     --                          ``first_layer: mean`` (as reference)   6 / bands of the mean kernel
select   --                          ``first_layer: select, select: [..]``  the kernels chosen, unscaled
pad      ``slots: [0, 1]``           --                                     six bands, zeros in the others
conv1x1  --                          ``first_layer: conv1x1``               six mixtures of the bands, learned
frames   ``frames: 2``               ``first_layer: mean``                  each date by itself, as a frame
=======  ==========================  =====================================  ===============================

Ways combine: two dates of VV and VH are four bands, or two frames of two bands.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from sartransfer.errors import RecipeError, WeightsError, one_of
from sartransfer.models.bilinear import enlarged
from sartransfer.models.lora import add_lora
from sartransfer.models.prithvi_decoders import UNET_CHANNELS, NeckHead, PyramidUNet
from sartransfer.models.prithvi_encoder import PrithviEncoder
from sartransfer.models.segmenter import Segmenter

BANDS = ("BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR1", "SWIR2")
"""What the published weights were trained on, in order: Harmonized Landsat and Sentinel-2, reflectance x 10,000."""
DECODERS: dict[str, type[NeckHead] | type[PyramidUNet]] = {"fcn": NeckHead, "unet": PyramidUNet}
"""``fcn``: transposed convolutions and an FCN head; ``unet``: a pyramid of four layers and a U-Net decoder."""
LORA = ("rank", "alpha", "layers", "dropout", "keep")


ONE_PASS_PIXELS = 512 * 512
"""Up to so many pixels an image goes in one pass: twice the 224 px of the pretraining a side, and a little. Beyond it
the places of patches are ones that no training has seen, and a scene goes by overlapped windows of that size."""


class PrithviSegmenter(Segmenter):
    """Prithvi's encoder, a decoder and a class layer: (B, C, H, W) -> logits (B, num_classes, H, W).

    The channels are the bands of the first frame, then those of the second and so on. The input is padded with
    zeros at the bottom and on the right to a multiple of `stride`; logits are enlarged to the patches' exact
    size. A vision transformer sees the whole image at once and knows where in it a patch lies: unlike a
    convolutional network it answers a window otherwise than the same pixels in a larger image.
    """

    encoder: PrithviEncoder

    def __init__(
        self,
        encoder: PrithviEncoder,
        decoder: NeckHead | PyramidUNet,
        *,
        in_channels: int,
        num_classes: int,
        slots: Sequence[int] | None = None,
    ) -> None:
        super().__init__(
            encoder,
            decoder,
            nn.Conv2d(decoder.out_channels, num_classes, 1),
            in_channels=in_channels,
            num_classes=num_classes,
            stride=encoder.patch * decoder.multiple,
            factor=1,
            classifier_names=("segmentation_head.weight", "segmentation_head.bias"),
        )
        self.one_pass_pixels = ONE_PASS_PIXELS
        self.frames = encoder.frames
        self.slots = tuple(slots) if slots is not None else None
        self.first_channels = len(BANDS) if slots is not None else in_channels // encoder.frames
        """How many channels the first layer meets at once: the bands of one frame, or six with `slots`."""
        self.last_layer = encoder.depth + 1
        """The largest number that `layer_of` gives."""

    @contextmanager
    def one_frame(self) -> Iterator[None]:
        """Let ``in_channels`` be what the first layer meets at once, for those who fit weights to it."""
        whole, self.in_channels = self.in_channels, self.first_channels
        try:
            yield
        finally:
            self.in_channels = whole

    def add_input_projection(self, channels: int) -> None:
        """Put a 1x1 convolution from a frame's bands to `channels` before the encoder (see `Network`)."""
        with self.one_frame():
            super().add_input_projection(channels)

    def layer_of(self, name: str) -> int:
        """Return how deep a parameter lies: see `layer_of`, which needs nothing but the name."""
        return layer_of(name, self.encoder.depth)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes, H, W) for an input (B, C, H, W) of any size."""
        self.check_input(x)
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.stride, 0, -height % self.stride))
        logits: Tensor = self.segmentation_head(self.decoder(self.encoder(self.each_frame(x))))
        if logits.shape[-2:] != x.shape[-2:]:
            logits = enlarged(logits, size=(x.shape[-2], x.shape[-1]))
        return logits[..., :height, :width]

    def each_frame(self, x: Tensor) -> Tensor:
        """Return what the encoder takes: every frame's bands in their slots, or through the projection."""
        if self.slots is None and isinstance(self.input_projection, nn.Identity):
            return x
        batch, channels, height, width = x.shape
        x = x.reshape(batch * self.frames, channels // self.frames, height, width)
        if self.slots is not None:
            wide = x.new_zeros(len(x), len(BANDS), height, width)
            wide[:, list(self.slots)] = x
            x = wide
        x = self.input_projection(x)
        return x.reshape(batch, -1, height, width)


def layer_of(name: str, depth: int) -> int:
    """Return the depth of a parameter for layer-wise learning rates (Clark et al. 2020; Bao et al. 2022).

    0 for the patch embedding, the class token and a projection before them; 1 to `depth` for the blocks; depth + 1 for
    the last norm, the decoder and the class layer. A rate decayed by d is ``lr * d ** (depth + 1 - layer_of(name))``.

    Raises:
        WeightsError: a block that an encoder of `depth` blocks does not have.
    """
    part = name.removeprefix("encoder.")
    if part.startswith(("patch_embed.", "cls_token", "input_projection.")):
        return 0
    if part.startswith("blocks."):
        number = int(part.split(".")[1])
        if number >= depth:
            raise WeightsError(f"{name}: the encoder has {depth} blocks, 0 to {depth - 1}.")
        return number + 1
    return depth + 1


def _check_slots(slots: Sequence[int], bands: int) -> None:
    if len(slots) != bands or len(set(slots)) != bands or any(not 0 <= s < len(BANDS) for s in slots):
        raise RecipeError(
            f"prithvi: slots={list(slots)} must be {bands} different numbers from 0 to {len(BANDS) - 1}, one for each "
            f"band of a frame: {', '.join(f'{i} {b}' for i, b in enumerate(BANDS))}."
        )


def build_prithvi(
    in_channels: int,
    num_classes: int,
    *,
    width: int,
    depth: int,
    heads: int,
    patch: int,
    decoder: str = "fcn",
    frames: int = 1,
    slots: Sequence[int] | None = None,
    neck_channels: int | None = None,
    head_channels: int = 256,
    decoder_channels: Sequence[int] = UNET_CHANNELS,
    dropout: float = 0.1,
    drop_path: float = 0.0,
    lora: Mapping[str, Any] | None = None,
) -> PrithviSegmenter:
    """Build a network of Prithvi's form with random weights; `load_prithvi` brings the published ones.

    Args:
        in_channels: number of bands of all frames: the first frame's, then the second's.
        num_classes: number of classes.
        width: channels of a token. depth: blocks. heads: of each attention. patch: its side in pixels.
        decoder: one of `DECODERS`.
        frames: images seen together, e.g. 2 for before and after.
        slots: with it the first layer stays one of six bands, and ours are put at these of them.
        neck_channels: of the ``fcn`` neck; None: as `width`, as published. head_channels: of its head.
        decoder_channels: four numbers for ``unet``.
        dropout: before the class layer. drop_path: chance that a block is skipped in training.
        lora: arguments of `add_lora` for the encoder, e.g. ``{rank: 8, alpha: 16, keep: [patch_embed]}``.

    Raises:
        RecipeError: an unknown decoder or a size that does not fit.
    """
    if decoder not in DECODERS:
        raise RecipeError(one_of("decoder", decoder, DECODERS))
    if width % 16 or width % heads or patch < 1 or depth < 1:
        raise RecipeError(
            f"prithvi: {width=} must be a multiple of 16 and of {heads=}; depth and patch 1 or more."
        )
    if frames < 1 or in_channels % frames:
        raise RecipeError(f"prithvi: {frames=} frames cannot share {in_channels} bands evenly.")
    bands = in_channels // frames
    if slots is not None:
        _check_slots(slots, bands)
    taps = DECODERS[decoder].taps
    if depth < taps:
        raise RecipeError(f"prithvi: {decoder=} takes {taps} layers, and there are {depth} blocks.")
    encoder = PrithviEncoder(
        bands if slots is None else len(BANDS),
        width=width,
        depth=depth,
        heads=heads,
        patch=patch,
        frames=frames,
        drop_path=drop_path,
        layers=[(i + 1) * depth // taps - 1 for i in range(taps)],
    )
    inside = frames * width
    parts: NeckHead | PyramidUNet
    if decoder == "fcn":
        parts = NeckHead(
            inside, neck_channels=neck_channels or width, head_channels=head_channels, dropout=dropout
        )
    else:
        parts = PyramidUNet(inside, channels=tuple(decoder_channels), dropout=dropout)
    model = PrithviSegmenter(encoder, parts, in_channels=in_channels, num_classes=num_classes, slots=slots)
    if lora is not None:
        for key in lora:
            if key not in LORA:
                raise RecipeError(one_of("setting of lora", key, LORA))
        add_lora(model.encoder, **lora)
    return model


build_vit = partial(build_prithvi, width=192, depth=8, heads=6, patch=16)
"""A transformer of Prithvi's form in a size of one's own: `width`, `depth`, `heads` and `patch` are options."""
build_prithvi_v1_100m = partial(build_prithvi, width=768, depth=12, heads=12, patch=16)
"""Prithvi-EO-1.0-100M: 86.2 M parameters in the encoder."""
build_prithvi_v2_300m = partial(build_prithvi, width=1024, depth=24, heads=16, patch=16)
"""Prithvi-EO-2.0-300M: 303.9 M."""
build_prithvi_v2_600m = partial(build_prithvi, width=1280, depth=32, heads=16, patch=14)
"""Prithvi-EO-2.0-600M: 631.2 M, patches of 14 pixels."""
