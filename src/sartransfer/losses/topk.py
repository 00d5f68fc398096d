"""The smooth top-k loss: exact in O(n) with its own backward for k = 2, a stable recursion for any k.

A label counts as hit where its score is among the k highest, so that look-alike classes and wrong labels cost
less than with cross-entropy. Berrada, Zisserman & Kumar (2018), arXiv:1802.07595, eq. (8); with k = 2 and
alpha = 1 it is eq. (1) of Huang et al. (2020). With a = s / (k tau) and e_k the elementary symmetric polynomial
of exp(a_j) over all j but the label y (a sum over all subsets of k of them), it is

    L = tau * log(1 + exp(u)),   u = alpha / tau + log e_k - log e_{k-1} - a_y.

For k = 2 everything follows from two sums. Let s1 >= s2 be the two highest scores of the others, S the sum and K
the sum of squares of e_j = exp(a_j - a2) over all others **but the highest** (so that 1 <= S and nothing overflows
or cancels), and D = exp(a2 - a1) <= 1. Then

    e_1 = exp(a1) R,  R = 1 + D S,      e_2 = exp(a1 + a2) P,  P = S + D (S^2 - K) / 2,

and with g = sigmoid(u), Q = D (S^2 + K) / 2 the gradient is -g/2 for the label, g/2 * Q / (P R) for the highest
other and g/2 * e_j ((R + D Q) / (P R) - e_j D / P) for the rest: sums of positive numbers up to the last
difference, whose second term is never the larger. They add up to 0. All of it holds for a2 = a1, D = 1 in these
formulas too, which spares the search for s2, as long as S does not underflow.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sartransfer.errors import InputError, RecipeError
from sartransfer.losses.pixel import IGNORE_INDEX, full_precision
from sartransfer.losses.weighting import (
    DivideBy,
    check_shapes,
    checked_divisor,
    checked_weights,
    labels_and_shares,
)

BLOCK = 1 << 18
"""Scores worked on at once on a CPU: what fits its cache."""

LEAST = {4: 1e-30, 8: 1e-250}
"""By the bytes of a number: the S of a2 = a1 under which a row is worked out with a2; far from losing digits."""


class TopKSmoothLoss(nn.Module):
    """Smooth top-k loss: (logits (B, C, ...), target (B, ...)) -> scalar, the mean over what counts.

    The temperature `tau` smooths the maximum over subsets, `alpha` is the margin between the label and the k-th
    of the others. k = 2 is a closed form in O(C), any other k a recursion in O(C k^2). Computed in float32 or
    better (float64 for logits of float64), without overflow for scores of any size and without a switch to a
    hard loss. The backward may be differentiated again. Where C <= k every label is hit: the loss is 0.

    Args:
        k: classes of which one must be right, from 1. tau: temperature, above 0. alpha: margin, from 0.
        class_weights: one number a class, from 0.
        ignore_index: target value that does not count; a batch with nothing else gives 0.
        divide_by: ``weights``: the mean is divided by the sum of the class weights of its pixels, as
            `torch.nn.CrossEntropyLoss` has it (their scale does not matter then); ``count``: by their number.

    Raises:
        RecipeError: k, tau, alpha, class weights or `divide_by` out of range.
        InputError: on a call: shapes or, on the CPU, labels that do not fit.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        k: int = 2,
        tau: float = 1.0,
        alpha: float = 1.0,
        *,
        class_weights: Sequence[float] | Tensor | None = None,
        ignore_index: int = IGNORE_INDEX,
        divide_by: DivideBy = "weights",
    ) -> None:
        super().__init__()
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise RecipeError(f"{k=}: must be a whole number from 1.")
        if not (tau > 0 and math.isfinite(tau)):
            raise RecipeError(f"{tau=}: must be above 0.")
        if not (alpha >= 0 and math.isfinite(alpha)):
            raise RecipeError(f"{alpha=}: must be 0 or more.")
        self.k = k
        self.settings = _Settings(float(tau), float(alpha), ignore_index, checked_divisor(divide_by))
        self.register_buffer("class_weights", checked_weights(class_weights), persistent=False)

    def extra_repr(self) -> str:
        """Return k and the settings."""
        return f"k={self.k}, tau={self.settings.tau}, alpha={self.settings.alpha}"

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar of float32 (float64 for logits of float64)."""
        weights = self.class_weights
        check_shapes(logits, target, weights)
        classes = logits.shape[1]
        scores = full_precision(logits)
        if scores.ndim > 2:
            scores, target = scores.movedim(1, -1).reshape(-1, classes), target.reshape(-1)
        if weights is not None:
            weights = weights.to(scores)
        if classes <= self.k:
            _check_labels(target, classes, self.settings.ignore_index)
            return scores[:0].sum()  # 0, with a gradient of 0
        loss: Tensor
        if self.k == 2:
            if torch.is_grad_enabled() and scores.requires_grad:
                loss = _Top2.apply(scores, target, weights, self.settings)
            else:
                loss, _ = _top2(scores, target, weights, self.settings, differentiate=False)
            return loss
        _check_labels(target, classes, self.settings.ignore_index)
        return _any_k(scores, target, weights, self.k, self.settings)


@dataclass(frozen=True, slots=True)
class _Settings:
    tau: float
    alpha: float
    ignore_index: int
    divide_by: DivideBy


class _Top2(torch.autograd.Function):
    """Loss for k = 2 with the gradient found on the way forward; a second derivative goes through tensors."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, target: Tensor, weights: Tensor | None, settings: _Settings
    ) -> Tensor:
        loss, gradient = _top2(scores, target, weights, settings, differentiate=True)
        ctx.save_for_backward(scores, target, weights, gradient)
        ctx.settings = settings
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        scores, target, weights, gradient = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the gradient is to be differentiated itself
            _, gradient = _top2_by_torch(scores, target, weights, ctx.settings, differentiate=True)
        return gradient * outer[0], None, None, None


def _top2(
    scores: Tensor, target: Tensor, weights: Tensor | None, settings: _Settings, *, differentiate: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the loss and its gradient (N, n) for scores (N, n), n >= 3; on a CPU by numpy.

    numpy because a small operation costs it a third of what it costs torch, and its argmax a tenth.
    """
    if scores.device.type != "cpu":
        return _top2_by_torch(scores, target, weights, settings, differentiate=differentiate)
    s, y = scores.detach().numpy(), target.long().numpy()
    n, ignored = s.shape[1], settings.ignore_index
    kept = None
    # A label below 0 is a huge one without its sign: one look finds all that are no classes.
    if len(y) and (np.maximum.reduce(y.view(np.uint64)) >= n or (0 <= ignored < n and ignored in y)):
        kept = np.flatnonzero(y != ignored)
        s, y = s[kept], y[kept]
        _check_labels(torch.from_numpy(y), n, ignored)
    share: Any = None if weights is None else weights.numpy()[y]
    total = float(len(y) if share is None or settings.divide_by == "count" else share.sum())
    share = (1.0 if share is None else share) / (total or 1.0)
    gradient = np.empty(s.shape, s.dtype) if differentiate else None
    loss = torch.from_numpy(_top2_by_numpy(s, y, share, settings, gradient))
    if gradient is None:
        return loss, None
    if kept is not None:
        whole = np.zeros(tuple(scores.shape), s.dtype)
        whole[kept] = gradient
        gradient = whole
    return loss, torch.from_numpy(gradient)


def _top2_by_numpy(
    s: NDArray[Any], y: NDArray[np.int64], share: Any, settings: _Settings, gradient: NDArray[Any] | None
) -> NDArray[Any]:
    """Return sum(share * loss), of shape (), for scores (N, n), labels (N,); fill `gradient` unless None."""
    rows, n = s.shape
    if rows * n <= BLOCK:
        return _block(s, y, share, settings, gradient)
    loss = np.zeros((), s.dtype)
    step = max(1, BLOCK // n)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        out = None if gradient is None else gradient[part]
        loss += _block(s[part], y[part], share if isinstance(share, float) else share[part], settings, out)
    return loss


def _block(
    s: NDArray[Any], y: NDArray[np.int64], share: Any, settings: _Settings, gradient: NDArray[Any] | None
) -> NDArray[Any]:
    # What underflows is mended below; scores that are not finite give a loss that is not.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        e = s.copy()
        n, flat = e.shape[1], e.reshape(-1)
        at_highest = np.arange(0, flat.size, n)
        at_label = at_highest + y
        label = flat[at_label]
        flat[at_label] = -np.inf
        at_highest += e.argmax(1)
        highest = flat[at_highest]
        flat[at_highest] = -np.inf
        e -= highest[:, None]
        e *= 0.5 / settings.tau
        np.exp(e, out=e)
        S, K = np.vecdot(e, _ones(n, e.dtype)), np.vecdot(e, e)
        highest -= label
        terms, half, Q, P, R = _rows_by_numpy(highest, S, K, share, settings)
        if gradient is not None:
            half_P = half / P
            Q *= half_P
            Q /= R  # the gradient of the highest; (R + Q) / (P R) = 1 / P + Q / (P R)
            np.multiply(e, half_P[:, None], out=gradient)
            half_P += Q
            np.subtract(half_P[:, None], gradient, out=gradient)
            gradient *= e
            flat = gradient.reshape(-1)
            flat[at_highest] = Q
            flat[at_label] = np.negative(half, out=half)
        if len(S) and not np.minimum.reduce(S) >= LEAST[s.itemsize]:  # or it is not a number
            low = np.logical_not(LEAST[s.itemsize] <= S)
            _mend(s, y, share, settings, low, terms, gradient)
        return np.asarray(np.add.reduce(terms))


@lru_cache(maxsize=8)
def _ones(n: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    ones = np.ones(n, dtype)
    ones.setflags(write=False)
    return ones


def _rows_by_numpy(
    lead: NDArray[Any], S: NDArray[Any], K: NDArray[Any], share: Any, settings: _Settings
) -> tuple[NDArray[Any], ...]:
    """Return share * loss, g/2, Q, P and R of the module's docstring, D = 1; `lead` is s1 - s_y, overwritten.

    In place where it can be: with few classes these small operations are half of the work.
    """
    SS = S * S
    Q = SS + K
    Q *= 0.5
    P = SS - Q
    P += S
    R = S + 1.0
    u = lead
    u *= 0.5 / settings.tau
    u += settings.alpha / settings.tau
    u += np.log(P / R)
    soft = np.copysign(u, -1.0)  # log(1 + exp(u)) = max(u, 0) + log1p(exp(-abs(u)))
    np.exp(soft, out=soft)
    np.log1p(soft, out=soft)
    soft += np.maximum(u, 0.0)
    u -= soft
    np.exp(u, out=u)  # sigmoid(u) = exp(u - log(1 + exp(u)))
    u *= share * 0.5
    soft *= share * settings.tau
    return soft, u, Q, P, R


def _mend(
    s: NDArray[Any],
    y: NDArray[np.int64],
    share: Any,
    settings: _Settings,
    low: NDArray[np.bool_],
    terms: NDArray[Any],
    gradient: NDArray[Any] | None,
) -> None:
    """Replace terms and gradient in rows whose sums underflowed: the highest other is far above the rest."""
    shares = torch.from_numpy(np.broadcast_to(np.asarray(share, s.dtype), low.shape)[low])
    scores, labels = torch.from_numpy(s[low]), torch.from_numpy(y[low])
    terms_low, gradient_low = _top2_of_rows(scores, labels, shares, settings)
    terms[low] = terms_low.numpy()
    if gradient is not None:
        gradient[low] = gradient_low.numpy()


def _top2_by_torch(
    scores: Tensor, target: Tensor, weights: Tensor | None, settings: _Settings, *, differentiate: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the same for tensors on any device; the gradient may be differentiated."""
    scores, labels, share = _without_ignored(scores, target, weights, settings)
    terms, gradient = _top2_of_rows(scores, labels, share, settings)
    return terms.sum(), gradient if differentiate else None


def _top2_of_rows(
    scores: Tensor, labels: Tensor, share: Tensor, settings: _Settings
) -> tuple[Tensor, Tensor]:
    """Return share * loss (N,) and its gradient (N, n)."""
    at_label = labels.unsqueeze(1)
    others = scores.scatter(1, at_label, -math.inf)
    at_highest = others.argmax(1, keepdim=True)
    highest = others.gather(1, at_highest)
    rest = others.scatter(1, at_highest, -math.inf)
    second = rest.detach().amax(1, keepdim=True)  # any shift gives the same loss: it needs no gradient
    scale = 0.5 / settings.tau
    e = ((rest - second) * scale).exp()
    D = ((second - highest) * scale).exp()
    S, K = e.sum(1, keepdim=True), (e * e).sum(1, keepdim=True)
    Q = (D * S * S + D * K) * 0.5
    P, R = S + (D * S * S - Q), D * S + 1
    u = (second - scores.gather(1, at_label)) * scale + (P / R).log() + settings.alpha / settings.tau
    soft = torch.logaddexp(u, torch.zeros_like(u))
    factor = share.unsqueeze(1)
    half = torch.sigmoid(u) * factor * 0.5
    common = half / (P * R)
    gradient = common * e * ((R + D * Q) - e * (D * R))
    gradient = gradient.scatter(1, at_highest, common * Q).scatter(1, at_label, -half)
    return (soft * factor * settings.tau).squeeze(1), gradient


def _any_k(scores: Tensor, target: Tensor, weights: Tensor | None, k: int, settings: _Settings) -> Tensor:
    """Return the loss of scores (N, n), n > k, with autograd through a recursion in the log domain.

    In float64 where the device has it: log e_k - log e_{k-1} of scores of 1e4 leaves float32 few digits.
    """
    s, labels, share = _without_ignored(scores, target, weights, settings)
    s = s if s.device.type == "mps" else s.double()
    at_label = labels.unsqueeze(1)
    numbers = torch.arange(s.shape[1] - 1, device=s.device)
    label = s.gather(1, at_label)
    others = s.gather(1, numbers + (numbers >= at_label))
    logs = _log_polynomials((others - label) / (k * settings.tau), k)
    u = settings.alpha / settings.tau + logs[k] - logs[k - 1]
    return (settings.tau * torch.logaddexp(u, torch.zeros_like(u)) * share).sum().to(scores.dtype)


def _without_ignored(
    scores: Tensor, target: Tensor, weights: Tensor | None, settings: _Settings
) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores with rows of 0 where ignored (there they may be NaN), labels, and factors of the terms."""
    labels, share = labels_and_shares(
        target,
        weights,
        ignore_index=settings.ignore_index,
        divide_by=settings.divide_by,
        dtype=scores.dtype,
    )
    return torch.where((target != settings.ignore_index).unsqueeze(1), scores, 0.0), labels, share


def _log_polynomials(a: Tensor, k: int) -> list[Tensor]:
    """Return log e_0 .. log e_k (N,) of exp(a), a (N, m), m >= k.

    The e_r of two halves together are sums of products of the e_r of each: neighbours are merged until one
    group is left. All terms are positive and added in the log domain, so nothing overflows and nothing cancels.
    """
    groups = [torch.zeros_like(a), a]  # the r-th: log e_r (N, groups) of each group
    left: list[Tensor] | None = None
    while (number := groups[0].shape[1]) > 1:
        if number % 2:
            last = [g[:, -1:] for g in groups]
            left = last if left is None else _merged(last, left, k)
        even = number - number % 2
        groups = _merged([g[:, 0:even:2] for g in groups], [g[:, 1:even:2] for g in groups], k)
    if left is not None:
        groups = _merged(groups, left, k)
    return [g.squeeze(1) for g in groups]


def _merged(one: list[Tensor], two: list[Tensor], k: int) -> list[Tensor]:
    merged = [torch.zeros_like(one[0])]
    for degree in range(1, min(k, len(one) + len(two) - 2) + 1):
        pairs = range(max(0, degree - len(two) + 1), min(degree, len(one) - 1) + 1)
        merged.append(torch.logsumexp(torch.stack([one[i] + two[degree - i] for i in pairs]), dim=0))
    return merged


def _check_labels(target: Tensor, classes: int, ignore_index: int) -> None:
    if target.is_cuda:  # looking would make the processor wait for every batch
        return
    known = (target == ignore_index) | ((target >= 0) & (target < classes))
    if not bool(known.all()):
        raise InputError(
            f"the target holds {int(target[~known][0])}: labels go from 0 to {classes - 1}, and {ignore_index} is "
            "ignored."
        )
