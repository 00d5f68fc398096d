"""Losses that wrong labels harm less: generalized cross-entropy, and cross-entropy joined to the top-2 loss."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartransfer.errors import RecipeError, one_of
from sartransfer.losses.pixel import IGNORE_INDEX, full_precision
from sartransfer.losses.topk import TopKSmoothLoss
from sartransfer.losses.weighting import (
    DivideBy,
    check_shapes,
    checked_divisor,
    checked_weights,
    labels_and_shares,
)

WEIGHT_ON = ("both", "top2")


class GeneralizedCrossEntropy(nn.Module):
    """(1 - p^q) / q of the label's probability p: (logits (B, C, ...), target (B, ...)) -> scalar mean.

    Zhang & Sabuncu (2018), arXiv:1805.07836, eq. (6). Towards q = 0 it is cross-entropy, at q = 1 the mean
    absolute error, 1 - p, which symmetric label noise does not move but which is slow to train.

    Args:
        q: above 0, to 1. class_weights, ignore_index, divide_by: as for `TopKSmoothLoss`.

    Raises:
        RecipeError: q, class weights or `divide_by` out of range.
        InputError: on a call: shapes that do not fit.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        q: float = 0.7,
        *,
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int = IGNORE_INDEX,
        divide_by: DivideBy = "weights",
    ) -> None:
        super().__init__()
        if not 0 < q <= 1:
            raise RecipeError(f"{q=}: must be above 0, to 1.")
        self.q = q
        self.ignore_index = ignore_index
        self.divide_by = checked_divisor(divide_by)
        self.register_buffer("class_weights", checked_weights(class_weights), persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar of float32 (float64 for logits of float64)."""
        check_shapes(logits, target, self.class_weights)
        logits = full_precision(logits)
        minus_log_p = F.cross_entropy(logits, target.long(), ignore_index=self.ignore_index, reduction="none")
        terms = -torch.expm1(-self.q * minus_log_p) / self.q
        _, shares = labels_and_shares(
            target,
            self.class_weights,
            ignore_index=self.ignore_index,
            divide_by=self.divide_by,
            dtype=logits.dtype,
        )
        return (terms * shares).sum()


class CombinedLoss(nn.Module):
    """(1 - lam) * cross-entropy + lam * smooth top-2 loss: (logits (B, C, ...), target (B, ...)) -> scalar.

    Huang et al. (2020), eq. (2), with cross-entropy of one-hot labels where it prints -sum s_i log softmax. The
    equation weighs the top-2 term alone, the text says samples are weighted: `weight_on` chooses. A weighted term
    is the sum of weight times loss over the *number* of pixels that count, as the equation has it; so the scale of
    the weights matters (their literal form, with the sum 1, makes the top-2 term nearly inert).

    Args:
        lam: share of the top-2 loss, from 0 to 1. tau, alpha: of the top-2 loss.
        weight_on: ``both`` terms or ``top2`` alone get the class weights.
        class_weights, ignore_index: as for `TopKSmoothLoss`.
        divide_by: ``count``, or ``weights``: each weighted term by the sum of its weights.

    Raises:
        RecipeError: a setting out of range. InputError: on a call: shapes or, on the CPU, labels that do not fit.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        lam: float = 0.2,
        tau: float = 1.0,
        weight_on: Literal["both", "top2"] = "both",
        *,
        alpha: float = 1.0,
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int = IGNORE_INDEX,
        divide_by: DivideBy = "count",
    ) -> None:
        super().__init__()
        if not 0 <= lam <= 1:
            raise RecipeError(f"{lam=}: must be from 0 to 1.")
        if weight_on not in WEIGHT_ON:
            raise RecipeError(one_of("weight_on", weight_on, WEIGHT_ON))
        self.lam = lam
        self.top2 = TopKSmoothLoss(
            2, tau, alpha, class_weights=class_weights, ignore_index=ignore_index, divide_by=divide_by
        )
        self.ignore_index = ignore_index
        self.divide_by = checked_divisor(divide_by)
        weights = checked_weights(class_weights) if weight_on == "both" else None
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar of float32 (float64 for logits of float64)."""
        logits = full_precision(logits)
        top2 = self.top2(logits, target)
        terms = F.cross_entropy(logits, target.long(), ignore_index=self.ignore_index, reduction="none")
        _, shares = labels_and_shares(
            target,
            self.class_weights,
            ignore_index=self.ignore_index,
            divide_by=self.divide_by,
            dtype=logits.dtype,
        )
        loss: Tensor = (1 - self.lam) * (terms * shares).sum() + self.lam * top2
        return loss
