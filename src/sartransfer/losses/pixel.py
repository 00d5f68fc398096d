"""Losses over pixels or patches that leave ignored ones out: cross-entropy, soft Dice, focal."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartransfer.errors import RecipeError

IGNORE_INDEX = 255


class PixelLoss(nn.Module):
    """Cross-entropy weighted by class, each pixel's term times ``(1 - p)**gamma``.

    With logits (B, C, ...) and targets (B, ...): the sum over pixels that count, divided by the sum of
    their class weights, as `torch.nn.CrossEntropyLoss` has it. ``gamma`` 0 is cross-entropy; above 0 it is
    the focal loss of Lin et al. (2017), arXiv:1708.02002, eq. (5), p the probability of the true class. A
    batch with nothing that counts gives 0, with a gradient of 0.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        gamma: float = 0.0,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__()
        self.gamma = gamma
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar of float32 (float64 for logits of float64)."""
        logits, target = full_precision(logits), target.long()
        counts = target != self.ignore_index
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        terms = F.cross_entropy(
            logits,
            target,
            weight=weights,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction="none",
        )
        labels = torch.where(counts, target, 0)
        if self.gamma > 0:
            log_p = F.log_softmax(logits, dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)
            rest = -torch.expm1(log_p)
            terms = terms * rest.clamp(min=1e-12) ** self.gamma  # below, the power's gradient may be infinite
        shares = counts.to(logits.dtype) if weights is None else weights[labels] * counts
        total = shares.sum()
        return terms.sum() / torch.where(total > 0, total, 1.0)


class DiceLoss(nn.Module):
    """One minus the soft Dice coefficient, averaged over the classes present in the batch's targets.

    Per class, over all pixels of the batch that count: 1 - (2 sum p t + smooth) / (sum p + sum t + smooth).
    A class without a target pixel has no Dice to speak of and is left out; with no class left the loss is 0.
    """

    def __init__(
        self,
        *,
        classes: Sequence[int] | None = None,
        smooth: float = 0.0,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__()
        self.classes = None if classes is None else list(classes)
        self.smooth = smooth
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar of float32 (float64 for logits of float64)."""
        logits, target = full_precision(logits), target.long()
        counts = (target != self.ignore_index).unsqueeze(1)
        numbers = torch.arange(logits.shape[1], device=logits.device)
        hot = target.unsqueeze(1) == numbers.view(1, -1, *[1] * (logits.ndim - 2))
        truth = (hot & counts).to(logits.dtype)
        p = logits.softmax(dim=1) * counts
        over = [0, *range(2, logits.ndim)]
        both, size = (p * truth).sum(over), truth.sum(over)
        whole = p.sum(over) + size
        present = size > 0
        if self.classes is not None:
            chosen = torch.zeros_like(present)
            chosen[self.classes] = True
            present = present & chosen
        terms = 1 - (2 * both + self.smooth) / (whole + self.smooth).clamp(min=1e-7)
        return torch.where(present, terms, 0.0).sum() / present.sum().clamp(min=1)


def full_precision(logits: Tensor) -> Tensor:
    """Return logits of float16 or bfloat16 as float32; sums over a million pixels need it."""
    return logits if logits.dtype == torch.float64 else logits.float()


def class_weights_of(values: Sequence[float] | Tensor | None, num_classes: int) -> Tensor | None:
    """Return class weights (C,) as float32, or None; `RecipeError` unless one a class, none negative."""
    if values is None:
        return None
    weights = torch.as_tensor(values, dtype=torch.float32)
    if weights.shape != (num_classes,) or not bool((weights >= 0).all()) or not bool((weights > 0).any()):
        raise RecipeError(
            f"class_weights={weights.tolist()}: expected {num_classes} numbers from 0, not all 0."
        )
    return weights
