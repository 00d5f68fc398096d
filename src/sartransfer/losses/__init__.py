"""Losses by name, and weighted sums of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sartransfer.errors import InputError, RecipeError, one_of
from sartransfer.losses.pixel import IGNORE_INDEX, DiceLoss, PixelLoss, class_weights_of
from sartransfer.losses.robust import CombinedLoss, GeneralizedCrossEntropy
from sartransfer.losses.topk import TopKSmoothLoss
from sartransfer.losses.weighting import DivideBy, complement_weights

__all__ = [
    "IGNORE_INDEX",
    "LOSSES",
    "CombinedLoss",
    "GeneralizedCrossEntropy",
    "LossSum",
    "TopKSmoothLoss",
    "build_loss",
    "complement_weights",
]


def _cross_entropy(
    num_classes: int,
    *,
    ignore_index: int = IGNORE_INDEX,
    class_weights: Sequence[float] | Tensor | None = None,
    label_smoothing: float = 0.0,
) -> nn.Module:
    if not 0 <= label_smoothing < 1:
        raise RecipeError(f"{label_smoothing=}: must be from 0 to under 1.")
    return PixelLoss(
        label_smoothing=label_smoothing,
        class_weights=class_weights_of(class_weights, num_classes),
        ignore_index=ignore_index,
    )


def _focal(
    num_classes: int,
    *,
    ignore_index: int = IGNORE_INDEX,
    class_weights: Sequence[float] | Tensor | None = None,
    gamma: float = 2.0,
) -> nn.Module:
    if gamma < 0:
        raise RecipeError(f"{gamma=}: must be 0 or more.")
    return PixelLoss(
        gamma=gamma,
        class_weights=class_weights_of(class_weights, num_classes),
        ignore_index=ignore_index,
    )


def _dice(
    num_classes: int,
    *,
    ignore_index: int = IGNORE_INDEX,
    class_weights: Sequence[float] | Tensor | None = None,  # Dice balances classes by itself
    classes: Sequence[int] | None = None,
    smooth: float = 0.0,
) -> nn.Module:
    if classes is not None and (not classes or any(not 0 <= c < num_classes for c in classes)):
        raise RecipeError(f"{classes=}: must be numbers of classes, from 0 to {num_classes - 1}.")
    if smooth < 0:
        raise RecipeError(f"{smooth=}: must be 0 or more.")
    return DiceLoss(classes=classes, smooth=smooth, ignore_index=ignore_index)


def _topk_smooth(
    num_classes: int,
    *,
    ignore_index: int = IGNORE_INDEX,
    class_weights: Sequence[float] | Tensor | None = None,
    k: int = 2,
    tau: float = 1.0,
    alpha: float = 1.0,
    divide_by: DivideBy = "weights",
) -> nn.Module:
    return TopKSmoothLoss(
        k,
        tau,
        alpha,
        class_weights=class_weights_of(class_weights, num_classes),
        ignore_index=ignore_index,
        divide_by=divide_by,
    )


def _combined(
    num_classes: int,
    *,
    ignore_index: int = IGNORE_INDEX,
    class_weights: Sequence[float] | Tensor | None = None,
    lam: float = 0.2,
    tau: float = 1.0,
    alpha: float = 1.0,
    weight_on: Literal["both", "top2"] = "both",
    divide_by: DivideBy = "count",
) -> nn.Module:
    return CombinedLoss(
        lam,
        tau,
        weight_on,
        alpha=alpha,
        class_weights=class_weights_of(class_weights, num_classes),
        ignore_index=ignore_index,
        divide_by=divide_by,
    )


def _generalized_cross_entropy(
    num_classes: int,
    *,
    ignore_index: int = IGNORE_INDEX,
    class_weights: Sequence[float] | Tensor | None = None,
    q: float = 0.7,
    divide_by: DivideBy = "weights",
) -> nn.Module:
    return GeneralizedCrossEntropy(
        q,
        class_weights=class_weights_of(class_weights, num_classes),
        ignore_index=ignore_index,
        divide_by=divide_by,
    )


LOSSES: dict[str, Callable[..., nn.Module]] = {
    "cross_entropy": _cross_entropy,
    "dice": _dice,
    "focal": _focal,
    "topk_smooth": _topk_smooth,
    "combined": _combined,
    "generalized_cross_entropy": _generalized_cross_entropy,
}
"""Name -> builder(num_classes, *, ignore_index, class_weights, **its own options)."""


class LossSum(nn.Module):
    """A weighted sum of losses: (logits (B, C, ...), target (B, ...)) -> scalar."""

    def __init__(
        self,
        losses: Mapping[str, nn.Module],
        factors: Mapping[str, float],
        num_classes: int,
        ignore_index: int,
    ) -> None:
        super().__init__()
        self.losses = nn.ModuleDict(losses)
        self.factors = dict(factors)
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the sum; raises `InputError` where shapes or, on the CPU, labels do not fit."""
        if logits.shape[1] != self.num_classes or logits.shape[:1] + logits.shape[2:] != target.shape:
            raise InputError(
                f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not fit: expected "
                f"(B, {self.num_classes}, ...) and (B, ...)."
            )
        if not target.is_cuda:  # on a GPU looking would make the processor wait for every batch
            known = (target == self.ignore_index) | ((target >= 0) & (target < self.num_classes))
            if not bool(known.all()):
                raise InputError(
                    f"the target holds {int(target[~known][0])}: labels go from 0 to {self.num_classes - 1}, "
                    f"and {self.ignore_index} is ignored."
                )
        terms = [self.factors[name] * loss(logits, target) for name, loss in self.losses.items()]
        total: Tensor = torch.stack(terms).sum()
        return total


def build_loss(
    terms: Mapping[str, float],
    *,
    num_classes: int,
    ignore_index: int = IGNORE_INDEX,
    class_weights: Sequence[float] | Tensor | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> LossSum:
    """Build a weighted sum of losses, e.g. ``{"cross_entropy": 1.0, "dice": 1.0}``.

    Args:
        terms: name in `LOSSES` -> its factor, above 0.
        num_classes: C of the logits.
        ignore_index: target value that does not count.
        class_weights: one number a class, from 0; Dice alone takes no notice.
        options: name -> that loss's own options: cross_entropy ``label_smoothing``; focal ``gamma``; dice
            ``classes``, ``smooth``; topk_smooth ``k``, ``tau``, ``alpha``, ``divide_by``; combined ``lam``,
            ``tau``, ``alpha``, ``weight_on``, ``divide_by``; generalized_cross_entropy ``q``, ``divide_by``.

    Returns:
        A module, to be moved to the logits' device: (logits (B, C, H, W) or (B, C), target (B, H, W) or (B,))
        -> scalar of float32, under mixed precision too.

    Raises:
        RecipeError: an unknown name or option, or a factor, weight or option out of range.
    """
    if not terms:
        raise RecipeError(f"a loss needs one term at least, of: {', '.join(LOSSES)}.")
    given = dict(options or {})
    for name in (*terms, *given):
        if name not in LOSSES:
            raise RecipeError(one_of("loss", name, LOSSES))
    losses = {}
    for name, factor in terms.items():
        if not factor > 0:
            raise RecipeError(f"loss {name!r} has the factor {factor}: must be above 0.")
        try:
            losses[name] = LOSSES[name](
                num_classes,
                **{"ignore_index": ignore_index, "class_weights": class_weights, **given.get(name, {})},
            )
        except TypeError as error:
            raise RecipeError(f"loss {name!r}: {error}") from error
    return LossSum(losses, terms, num_classes, ignore_index)
