"""What each class and each pixel counts in a loss."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sartransfer.errors import InputError, RecipeError, one_of

DivideBy = Literal["weights", "count"]
DIVIDE_BY: tuple[DivideBy, ...] = ("weights", "count")


def complement_weights(counts: ArrayLike, *, literal: bool = False) -> NDArray[np.float64]:
    """Weigh each class by the share of all others: w_y = (1 - N_y/N) / (n - 1), times n for a mean of 1.

    Huang et al. (2020), eq. (3). The weights of two classes differ by little even where their counts differ
    tenfold: no class gets more than 1 / (n - 1). As printed they sum to 1, so a mean over the batch that is
    not divided by them shrinks n times; by default they are multiplied by n, as the authors' code does.

    Args:
        counts: training samples (or pixels) of each class, (n,), n from 2; a class may have none.
        literal: the form as printed, with the sum 1.

    Raises:
        InputError: fewer than two classes, a count below 0 or not finite, or no sample at all.
    """
    number = np.asarray(counts, dtype=np.float64)
    fits = number.ndim == 1 and len(number) >= 2 and np.isfinite(number).all() and (number >= 0).all()
    if not fits or not number.sum() > 0:
        raise InputError(
            f"counts={number.tolist()}: expected one number from 0 for each of two classes or more, not all 0."
        )
    classes = len(number)
    weights: NDArray[np.float64] = (1 - number / number.sum()) / (classes - 1)
    return weights if literal else classes * weights


def checked_weights(values: Sequence[float] | Tensor | None) -> Tensor | None:
    """Return class weights as float32, or None; `RecipeError` unless they are finite, from 0, not all 0."""
    if values is None:
        return None
    weights = torch.as_tensor(values, dtype=torch.float32)
    fits = weights.ndim == 1 and bool((torch.isfinite(weights) & (weights >= 0)).all())
    if not fits or not bool((weights > 0).any()):
        raise RecipeError(
            f"class_weights={weights.tolist()}: expected one number a class, from 0, not all 0."
        )
    return weights


def checked_divisor(divide_by: str) -> DivideBy:
    """Return what weighted terms are divided by; `RecipeError` for another word than those of `DIVIDE_BY`."""
    if divide_by not in DIVIDE_BY:
        raise RecipeError(one_of("divide_by", divide_by, DIVIDE_BY))
    return "weights" if divide_by == "weights" else "count"


def check_shapes(logits: Tensor, target: Tensor, class_weights: Tensor | None) -> None:
    """Raise `InputError` unless logits (B, C, ...), integer targets (B, ...) and weights (C,) fit."""
    if logits.ndim < 2 or logits.shape[:1] + logits.shape[2:] != target.shape:
        raise InputError(
            f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not fit: expected (B, C, ...) "
            "and (B, ...)."
        )
    if target.is_floating_point() or target.is_complex():
        raise InputError(f"the target is of {target.dtype}: expected labels, of an integer type.")
    if class_weights is not None and len(class_weights) != logits.shape[1]:
        raise InputError(
            f"{len(class_weights)} class weights do not fit logits {tuple(logits.shape)}: expected "
            f"{logits.shape[1]}."
        )


def labels_and_shares(
    target: Tensor,
    class_weights: Tensor | None,
    *,
    ignore_index: int,
    divide_by: DivideBy,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return each pixel's label (0 where ignored) and the factor of its term in the sum that is the loss.

    Both have the target's shape. The factors are the weights of the classes (1 without), 0 where ignored, over
    their own sum or over the number of pixels that count; all 0 where that is 0.
    """
    target = target.long()
    counts = target != ignore_index
    labels = torch.where(counts, target, 0)
    shares = counts.to(dtype) if class_weights is None else class_weights.to(dtype)[labels] * counts
    total = shares.sum() if divide_by == "weights" else counts.sum().to(dtype)
    return labels, shares / torch.where(total > 0, total, 1.0)
