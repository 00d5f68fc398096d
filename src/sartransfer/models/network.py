"""What every network here has in common, and the one that classifies whole patches."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sartransfer.errors import InputError, WeightsError, nearest
from sartransfer.models.channels import cyclic_projection


class Network(nn.Module):
    """An encoder, whose weights an initialization fills, and something after it that answers the task."""

    encoder: nn.Module
    input_projection: nn.Module
    """Identity, or the 1x1 convolution that `add_input_projection` put before the encoder."""
    task: str
    """``segment`` (logits a pixel) or ``classify`` (logits a patch)."""
    in_channels: int
    num_classes: int
    stride: int
    """Shifting the input by this many pixels shifts the answer by as many; 1 for a classifier."""
    classifier_names: tuple[str, ...]
    """Parameters of the final class layer: new ones where the classes differ."""
    built: dict[str, Any]
    """The name and the options `build_model` was called with, as JSON values."""

    def __init__(
        self,
        encoder: nn.Module,
        *,
        task: str,
        in_channels: int,
        num_classes: int,
        stride: int,
        classifier_names: tuple[str, ...],
    ) -> None:
        super().__init__()
        self.input_projection = nn.Identity()
        self.encoder = encoder
        self.task = task
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.stride = stride
        self.classifier_names = classifier_names
        self.built = {}

    def train(self, mode: bool = True) -> "Network":
        """Switch to training mode, except batch norms whose parameters are all frozen: they stay as they are.

        A frozen batch norm in training mode would go on moving its running statistics.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                own = list(module.parameters(recurse=False))
                if own and not any(p.requires_grad for p in own):
                    module.eval()
        return self

    def first_layer(self) -> tuple[str, nn.Conv2d]:
        """Return the name and the module of the encoder's first convolution, the one that meets the bands."""
        for name, module in self.encoder.named_modules():
            if isinstance(module, nn.Conv2d):
                return f"encoder.{name}" if name else "encoder", module
        raise WeightsError(
            f"the encoder of {self.built.get('name', 'this network')!r} has no 2-D convolution, "
            "so that weights cannot be fitted to the bands."
        )

    def add_input_projection(self, channels: int) -> None:
        """Put a 1x1 convolution from the bands to `channels` before the encoder, which then takes those.

        The projection starts as `channels.cyclic_projection`. The first layer's weight is made anew (zeros)
        and is for the caller to fill.
        """
        name, conv = self.first_layer()
        if conv.groups != 1 or conv.in_channels != self.in_channels:
            raise WeightsError(
                f"{name} does not take the {self.in_channels} bands directly; use another method."
            )
        weight = conv.weight
        projection = nn.Conv2d(self.in_channels, channels, 1, bias=False)
        start = cyclic_projection(self.in_channels, channels)
        projection.weight = nn.Parameter(start.to(weight.device, weight.dtype))
        conv.weight = nn.Parameter(weight.new_zeros(weight.shape[0], channels, *weight.shape[2:]))
        conv.in_channels = channels
        self.input_projection = projection
        self.train(self.training)

    def check_input(self, x: Tensor) -> None:
        """Raise `InputError` unless `x` is (B, in_channels, H, W)."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise InputError(
                f"the network takes (B, {self.in_channels}, H, W), not {tuple(x.shape)}: "
                "are the bands those it was built for?"
            )


class Classifier(Network):
    """Encoder, mean over the image, dropout, one linear layer: (B, C, H, W) -> logits (B, num_classes)."""

    def __init__(
        self, encoder: nn.Module, features: int, *, in_channels: int, num_classes: int, dropout: float = 0.0
    ) -> None:
        super().__init__(
            encoder,
            task="classify",
            in_channels=in_channels,
            num_classes=num_classes,
            stride=1,
            classifier_names=("head.weight", "head.bias"),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes)."""
        self.check_input(x)
        features: Tensor = self.encoder(self.input_projection(x))
        if features.ndim == 4:
            features = features.mean(dim=(2, 3))
        logits: Tensor = self.head(self.dropout(features))
        return logits


def matching(names: Iterable[str], patterns: Sequence[str]) -> set[str]:
    """Return the names that a pattern matches: a shell glob, or the name of a module that holds them."""
    return {n for n in names if any(fnmatchcase(n, p) or n.startswith(f"{p.rstrip('.')}.") for p in patterns)}


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Freeze the parameters whose names match, and keep their batch norms in evaluation mode.

    Args:
        model: changed in place.
        patterns: shell globs or module names: ``encoder``, ``encoder.layer1.*``, ``*.bn1.*``.

    Returns:
        The names of all frozen parameters, in the network's order.

    Raises:
        WeightsError: a pattern that names nothing.
    """
    check_freeze(model, patterns)
    parameters = dict(model.named_parameters())
    frozen = matching(parameters, patterns)
    for name in frozen:
        parameters[name].requires_grad_(False)
    model.train(model.training)
    return [n for n in parameters if n in frozen]


def check_freeze(model: nn.Module, patterns: Sequence[str], more: Sequence[str] = ()) -> None:
    """Raise `WeightsError` for a pattern that names no parameter, counting `more` as parameters too."""
    parameters = [*(n for n, _ in model.named_parameters()), *more]
    for pattern in patterns:
        if not matching(parameters, [pattern]):
            modules = [n for n, _ in model.named_modules() if n]
            raise WeightsError(
                f"freeze: {pattern!r} names no parameter of the network.{nearest(pattern, modules)} "
                f"Its parts are: {', '.join(n for n, m in model.named_children() if list(m.parameters()))}."
            )


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise `WeightsError` where a tensor holds NaN or infinity."""
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise WeightsError(f"the weights hold NaN or infinity in {name!r}: the file is damaged or diverged.")
