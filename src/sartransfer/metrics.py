"""Everything from one integer confusion matrix (C, C), rows truth, columns prediction, or from kept logits.

A score that is 0/0 is undefined and says so with NaN; it is never 0 or 1. Values that cannot be scored (a
label outside the classes, a NaN logit) raise InputError; arguments of a wrong shape or range, ValueError.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sartransfer.errors import InputError
from sartransfer.paircounts import pair_counts

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_BLOCK = 1 << 18
"""Pixels counted at a time: the temporaries of a block stay in the cache, however large the scene."""


class Scores(TypedDict):
    """What `scores` returns; (C,) arrays by class, fractions from 0 to 1, NaN where undefined."""

    accuracy: float
    precision: FloatArray
    recall: FloatArray
    f1: FloatArray
    iou: FloatArray
    f1_micro: float
    f1_macro: float
    f1_weighted: float
    iou_micro: float
    iou_macro: float
    iou_weighted: float
    undefined_classes: int
    """Classes in neither truth nor prediction: f1 and iou are undefined, and left out of the macro means."""


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram in equal bins of confidence; confidence and accuracy are NaN in empty bins."""

    edges: FloatArray
    """(bins + 1,) from 0 to 1; a bin holds its upper edge, not its lower."""
    count: IntArray
    """(bins,) number of samples."""
    confidence: FloatArray
    """(bins,) mean probability of the predicted class."""
    accuracy: FloatArray
    """(bins,) share of samples predicted rightly."""


def confusion_matrix(
    target: ArrayLike,
    prediction: ArrayLike,
    num_classes: int,
    *,
    valid: ArrayLike | None = None,
    ignore_index: int | None = None,
) -> IntArray:
    """Count (truth, prediction) pairs: (C, C) int64, rows truth, columns prediction.

    `target` and `prediction` are integer (or boolean) arrays of one shape, any shape. A pixel counts where
    `valid` (same shape, True = usable) is True and its target is not `ignore_index`. A class outside 0 ..
    C-1 among the pixels that count raises InputError with the value. Matrices of parts add up to the matrix
    of the whole.
    """
    if num_classes < 1:
        raise ValueError(f"{num_classes=}. Must be 1 or more")
    truth, guess = _integers(target, "target"), _integers(prediction, "prediction")
    usable = None if valid is None else np.asarray(valid)
    if truth.shape != guess.shape or (usable is not None and usable.shape != truth.shape):
        shapes = f"target {truth.shape}, prediction {guess.shape}"
        shapes += "" if usable is None else f", valid {usable.shape}"
        raise ValueError(f"shapes differ: {shapes}. All must be the same")
    if usable is not None and usable.dtype != np.bool_:
        raise ValueError(f"valid has dtype {usable.dtype}. Must be bool, True = usable")
    truth, guess = truth.reshape(-1), guess.reshape(-1)
    usable = None if usable is None else usable.reshape(-1)
    by_byte = pair_counts(truth, guess, usable, ignore_index)
    if by_byte is not None:
        return _from_bytes(by_byte, num_classes, ignore_index)
    counts = np.zeros(num_classes * num_classes, dtype=np.int64)
    for start in range(0, truth.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        t, p = truth[block], guess[block]
        keep = None if usable is None else usable[block]
        if ignore_index is not None:
            labelled = t != ignore_index
            keep = labelled if keep is None else keep & labelled
        if keep is not None and not keep.all():
            t, p = t[keep], p[keep]
        _check_classes(t, num_classes, "target", ignore_index)
        _check_classes(p, num_classes, "prediction", None)
        # to the index type first: 200 * 3 overflows in uint8
        counts += np.bincount(t.astype(np.intp) * num_classes + p.astype(np.intp), minlength=counts.size)
    return counts.reshape(num_classes, num_classes)


def _from_bytes(counts: IntArray, num_classes: int, ignore_index: int | None) -> IntArray:
    """Cut the matrix out of counts of all bytes (256, 256); a class outside it that was counted is an error."""
    for name, found in (("target", counts.sum(axis=1)), ("prediction", counts.sum(axis=0))):
        _check_classes(np.flatnonzero(found), num_classes, name, ignore_index if name == "target" else None)
    matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
    size = min(num_classes, len(counts))
    matrix[:size, :size] = counts[:size, :size]
    return matrix


def confusion_matrix_normalized(cm: ArrayLike) -> FloatArray:
    """Divide each row of `cm` (C, C) by its sum: (C, C), rows of classes absent from the truth NaN."""
    counts = _checked_matrix(cm)
    return _ratio(counts, np.broadcast_to(counts.sum(axis=1, keepdims=True), counts.shape))


def scores(cm: ArrayLike) -> Scores:
    """Work out every score of the confusion matrix `cm` (C, C).

    By class, with TP, FP and FN counted against the rest: precision TP/(TP+FP), recall TP/(TP+FN), f1
    2TP/(2TP+FP+FN), iou TP/(TP+FP+FN). Micro sums TP, FP and FN over classes first (so f1_micro is the
    accuracy A, and iou_micro is A/(2-A)); macro is the plain mean over the classes where the score is
    defined, their remainder counted in `undefined_classes`; weighted is the mean weighted by the truth's
    pixels.
    """
    counts = _checked_matrix(cm)
    hit, truth, guessed = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    total, hits = truth.sum(), hit.sum()
    union = truth + guessed - hit
    f1, iou = _ratio(2 * hit, truth + guessed), _ratio(hit, union)
    defined = union > 0
    weights = _ratio(truth, np.full_like(truth, total))
    any_defined = bool(defined.any())

    def macro(by_class: FloatArray) -> float:
        return float(by_class[defined].mean()) if any_defined else float("nan")

    def weighted(by_class: FloatArray) -> float:
        return float((weights * by_class)[defined].sum()) if any_defined else float("nan")

    accuracy = float(_ratio(hits, total))
    return Scores(
        accuracy=accuracy,
        precision=_ratio(hit, guessed),
        recall=_ratio(hit, truth),
        f1=f1,
        iou=iou,
        f1_micro=accuracy,  # over all classes FP and FN are the same errors, seen from two sides
        f1_macro=macro(f1),
        f1_weighted=weighted(f1),
        iou_micro=float(_ratio(hits, 2 * total - hits)),
        iou_macro=macro(iou),
        iou_weighted=weighted(iou),
        undefined_classes=int(np.count_nonzero(~defined)),
    )


def tidy(cm: ArrayLike, classes: Sequence[str]) -> list[tuple[str, str, float]]:
    """List the scores of `cm` (C, C) as rows (class, metric, value), the class empty for the whole."""
    all_scores = scores(cm)
    if len(classes) != all_scores["f1"].size:
        raise ValueError(f"{len(classes)} class names for {all_scores['f1'].size} classes: {list(classes)}")
    rows = [
        ("", "accuracy", all_scores["accuracy"]),
        ("", "f1_micro", all_scores["f1_micro"]),
        ("", "f1_macro", all_scores["f1_macro"]),
        ("", "f1_weighted", all_scores["f1_weighted"]),
        ("", "iou_micro", all_scores["iou_micro"]),
        ("", "iou_macro", all_scores["iou_macro"]),
        ("", "iou_weighted", all_scores["iou_weighted"]),
    ]
    for index, name in enumerate(classes):
        rows += [
            (name, "precision", float(all_scores["precision"][index])),
            (name, "recall", float(all_scores["recall"][index])),
            (name, "f1", float(all_scores["f1"][index])),
            (name, "iou", float(all_scores["iou"][index])),
        ]
    return rows


def softmax(logits: ArrayLike) -> FloatArray:
    """Turn `logits` (..., C) into probabilities (..., C) that sum to 1; the largest is taken off first."""
    x = np.asarray(logits, dtype=np.float64)
    if not np.isfinite(x).all():
        raise InputError("logits hold NaN or infinite values")
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float64)


def top_k_accuracy(logits: ArrayLike, labels: ArrayLike, k: int) -> float:
    """Share of `labels` (N,) among the k largest of `logits` (N, C); NaN for no samples.

    Equal logits are ranked by class number, as argmax does, so that k = 1 is the accuracy and a model that
    says the same for all classes gains nothing.
    """
    x, truth = checked_samples(logits, labels, "logits")
    if not 1 <= k <= x.shape[1]:
        raise ValueError(f"{k=}. Must lie from 1 to the {x.shape[1]} classes")
    if truth.size == 0:
        return float("nan")
    own = np.take_along_axis(x, truth[:, None], axis=1)
    before = (x > own) | ((x == own) & (np.arange(x.shape[1]) < truth[:, None]))
    return float(np.mean(before.sum(axis=1) < k))


def reliability(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> Reliability:
    """Compare confidence with accuracy in equal bins, from `probabilities` (N, C) and `labels` (N,).

    Confidence is the probability of the predicted class (Guo et al. 2017, arXiv:1706.04599, section 2).
    """
    p, truth = checked_samples(probabilities, labels, "probabilities")
    check_probabilities(p)
    if bins < 1:
        raise ValueError(f"{bins=}. Must be 1 or more")
    edges = np.linspace(0, 1, bins + 1)
    confidence = p.max(axis=1, initial=0.0)
    right = p.argmax(axis=1) == truth
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins).astype(np.int64)
    return Reliability(
        edges=edges,
        count=count,
        confidence=_ratio(np.bincount(index, weights=confidence, minlength=bins), count),
        accuracy=_ratio(np.bincount(index, weights=right, minlength=bins), count),
    )


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Mean |accuracy - confidence| over the bins of `reliability`, weighted by samples; NaN for none.

    `probabilities` (N, C), `labels` (N,). Source: Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017,
    equation 3.
    """
    diagram = reliability(probabilities, labels, bins)
    filled = diagram.count > 0
    if not filled.any():
        return float("nan")
    gap = np.abs(diagram.accuracy - diagram.confidence)[filled]
    return float(np.average(gap, weights=diagram.count[filled]))


def majority_vote(predictions: ArrayLike, probabilities: ArrayLike) -> IntArray:
    """Join M models by vote: `predictions` (M, N) and `probabilities` (M, N, C) give the classes (N,), int64.

    Classes with equally many votes are told apart by their mean probability over all M models, and, should
    that be equal too, the lower class number wins.
    """
    votes, p = _integers(predictions, "predictions"), np.asarray(probabilities, dtype=np.float64)
    if votes.ndim != 2 or p.ndim != 3 or p.shape[:2] != votes.shape or min(p.shape[0], p.shape[2]) < 1:
        raise ValueError(
            f"predictions have shape {votes.shape}, probabilities {p.shape}. Must be (M, N) and (M, N, C)"
        )
    _check_classes(votes, p.shape[2], "predictions", None)
    check_probabilities(p)
    counts = np.stack([(votes == c).sum(axis=0) for c in range(p.shape[2])], axis=-1)
    tied = counts == counts.max(axis=-1, keepdims=True)
    ranked = np.where(tied, p.mean(axis=0), -1.0)
    return np.asarray(ranked.argmax(axis=-1), dtype=np.int64)


def proportion_interval(hits: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a share, `hits` out of `total` independent draws; (NaN, NaN) for no draw.

    Its ends are the shares at which so many hits, or more extreme numbers, have half of 1 - `confidence`
    (Clopper and Pearson 1934): it covers the true share at least as often as it says.
    """
    from scipy.stats import beta  # slow to import

    if not 0 <= hits <= total or not 0 < confidence < 1:
        raise ValueError(
            f"{hits=} of {total=} at {confidence=}. Must be 0 <= hits <= total, 0 < confidence < 1"
        )
    if total == 0:
        return float("nan"), float("nan")
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, hits, total - hits + 1)) if hits > 0 else 0.0
    high = float(beta.isf(tail, hits + 1, total - hits)) if hits < total else 1.0
    return low, high


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> float:
    """Exact two-sided McNemar p that two models err equally often on the same samples (N,), both boolean.

    Of the samples that only one model got right, half should be a's (binomial test; McNemar 1947); 1 where
    there is none.
    """
    from scipy.stats import binomtest  # slow to import, and used here alone

    a, b = np.asarray(correct_a), np.asarray(correct_b)
    if a.ndim != 1 or a.shape != b.shape or a.dtype != np.bool_ or b.dtype != np.bool_:
        raise ValueError(
            f"correct_a is {a.dtype} {a.shape}, correct_b {b.dtype} {b.shape}. Both must be bool (N,)"
        )
    only_a, only_b = int(np.count_nonzero(a & ~b)), int(np.count_nonzero(b & ~a))
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def _ratio(above: ArrayLike, below: ArrayLike) -> FloatArray:
    """Divide, with NaN for 0/0 and no warning."""
    numerator, denominator = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    undefined = np.full(denominator.shape, np.nan)
    return np.asarray(
        np.divide(numerator, denominator, out=undefined, where=denominator > 0), dtype=np.float64
    )


def _integers(values: ArrayLike, name: str) -> NDArray[np.integer | np.bool_]:
    array = np.asarray(values)
    if array.size == 0 and array.dtype == np.float64:  # an empty list has no type of its own
        array = array.astype(np.int64)
    if array.dtype.kind not in "iub":
        raise ValueError(f"{name} has dtype {array.dtype}. Must be integer or bool: classes, not scores")
    return array


def _check_classes(
    values: NDArray[np.integer | np.bool_], num_classes: int, name: str, ignore_index: int | None
) -> None:
    if values.size == 0:
        return
    for value in (int(values.min()), int(values.max())):
        if not 0 <= value < num_classes:
            fix = "" if name != "target" else f" or {ignore_index=}"
            raise InputError(
                f"{name} holds the value {value}. Must be a class from 0 to {num_classes - 1}{fix}"
            )


def _checked_matrix(cm: ArrayLike) -> IntArray:
    counts = np.asarray(cm)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.size == 0:
        raise ValueError(f"the confusion matrix has shape {counts.shape}. Must be (C, C)")
    if counts.dtype.kind not in "iu":
        raise ValueError(f"the confusion matrix has dtype {counts.dtype}. Must be integer counts")
    if counts.min() < 0:
        raise ValueError(f"the confusion matrix holds {counts.min()}. Counts must be 0 or more")
    return counts.astype(np.int64)


def checked_samples(scores_by_class: ArrayLike, labels: ArrayLike, name: str) -> tuple[FloatArray, IntArray]:
    """Return values by class (N, C) as float64 and labels (N,) as int64; raises for what cannot be scored."""
    x, truth = np.asarray(scores_by_class, dtype=np.float64), _integers(labels, "labels")
    if x.ndim != 2 or x.shape[1] < 1 or truth.shape != x.shape[:1]:
        raise ValueError(f"{name} have shape {x.shape}, labels {truth.shape}. Must be (N, C) and (N,)")
    if not np.isfinite(x).all():
        raise InputError(f"{name} hold NaN or infinite values")
    _check_classes(truth, x.shape[1], "labels", None)
    return x, truth.astype(np.int64)


def check_probabilities(p: FloatArray) -> None:
    """Raise `InputError` unless the last axis of `p` (..., C) holds numbers from 0 that sum to 1."""
    if p.size == 0:
        return
    sums = p.sum(axis=-1)
    # 1e-2 lets half-precision softmax outputs pass, and catches logits
    if not (p.min() >= 0 and np.abs(sums - 1).max() <= 1e-2):
        raise InputError(
            f"probabilities run from {p.min():.4g} to {p.max():.4g} and sum to {sums.min():.4g} .. "
            f"{sums.max():.4g}. Must be 0 or more and sum to 1; call softmax on logits first"
        )
