"""A moving average of a network's weights, steadier than the weights of any one step."""

from collections.abc import Sequence

from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from sartransfer.models.network import Network

__all__ = ["AveragedModel", "average_of"]


def average_of(model: Network, decay: float) -> AveragedModel:
    """Return a moving average of `model`'s weights and batch-norm statistics (Polyak and Juditsky 1992).

    After step n each value is kept by the share min(decay, (1 + n) / (10 + n)): early steps, which the random
    start still rules, are forgotten quickly.
    """

    def move(averaged: Sequence[Tensor], current: Sequence[Tensor], steps: Tensor | int) -> None:
        kept = min(decay, (1 + int(steps)) / (10 + int(steps)))
        for mine, new in zip(averaged, current, strict=True):
            if mine.is_floating_point():
                mine.lerp_(new.to(mine), 1 - kept)
            else:
                mine.copy_(new)

    averaged = AveragedModel(model, multi_avg_fn=move, use_buffers=True)
    averaged.requires_grad_(False)
    return averaged
