"""Segmentation of images of any size: pad to the stride, run, enlarge by a whole factor, crop."""

from torch import Tensor, nn
from torch.nn import functional as F

from sartransfer.errors import RecipeError
from sartransfer.models.bilinear import enlarged
from sartransfer.models.network import Network

ONE_VALUE = "Expected more than 1 value per channel"
"""What torch says of a batch norm in training that sees one value of a channel, of which there is no variance."""


class Segmenter(Network):
    """Encoder, decoder and head for an input of any size: (B, C, H, W) -> logits (B, num_classes, H, W).

    The input is padded with zeros (the training mean, once normalized) at the bottom and on the right to a
    multiple of `stride`. Logits are enlarged by `factor` exactly, never to a size: a window at a multiple of
    the stride then sees the same sampling grid as the whole scene.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        segmentation_head: nn.Module | None = None,
        *,
        in_channels: int,
        num_classes: int,
        stride: int,
        factor: int,
        classifier_names: tuple[str, ...],
    ) -> None:
        super().__init__(
            encoder,
            task="segment",
            in_channels=in_channels,
            num_classes=num_classes,
            stride=stride,
            classifier_names=classifier_names,
        )
        self.decoder = decoder
        self.segmentation_head = segmentation_head or nn.Identity()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes, H, W) for an input (B, C, H, W) of any size.

        Raises `RecipeError` in training where a batch norm sees one value of a channel: a batch of one small image.
        """
        self.check_input(x)
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.stride, 0, -height % self.stride))
        try:
            logits: Tensor = self.segmentation_head(self.decoder(self.encoder(self.input_projection(x))))
        except ValueError as error:
            if ONE_VALUE not in str(error):
                raise
            raise RecipeError(one_value_words()) from error
        if self.factor > 1:
            logits = enlarged(logits, factor=self.factor)
        return logits[..., :height, :width]


def one_value_words() -> str:
    """Return what is to be done where a batch norm sees one value."""
    return (
        "batch norm sees one value a channel in a batch of one image, and has no variance of it. Take "
        "training.batch_size 2 or more, larger patches, or training.freeze_batch_norm."
    )
