"""How far probabilities can be believed: temperature, likelihood, Brier score, entropy; arrays in, numbers out.

Reliability diagrams and the expected calibration error are in `metrics`. Entropies and likelihoods are in nats.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sartransfer.metrics import (
    FloatArray,
    check_probabilities,
    checked_samples,
    expected_calibration_error,
    softmax,
)


@dataclass(frozen=True, slots=True)
class CalibrationScores:
    """How well probabilities fit what happened; all are 0 for a network that is sure and always right."""

    ece: float
    """Expected calibration error in 15 bins, from 0 to 1."""
    nll: float
    """Mean negative log-likelihood of the true class, in nats."""
    brier: float
    """Mean squared distance from the truth, from 0 to 2."""


def score_calibration(logits: ArrayLike, labels: ArrayLike, temperature: float = 1.0) -> CalibrationScores:
    """Score the probabilities softmax(`logits` / `temperature`): logits (N, C), labels (N,); NaN for no samples."""
    x, truth = checked_samples(logits, labels, "logits")
    p = softmax(x / _positive(temperature))
    return CalibrationScores(
        ece=expected_calibration_error(p, truth),
        nll=negative_log_likelihood(x, truth, temperature),
        brier=brier_score(p, truth),
    )


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the temperature T at which softmax(`logits` / T) is most likely to give `labels`.

    `logits` (N, C) of a validation set and `labels` (N,); the classes predicted do not change with T (Guo et al.
    2017, arXiv:1706.04599, section 4.2). The likelihood has one maximum in 1/T at most, found by Brent's method
    where its slope is 0. It has none, and T is NaN, where no sample is misclassified (the surer, the likelier),
    where the logits are no better than chance (the less sure, the likelier), and for no samples.
    """
    from scipy.optimize import brentq  # slow to import

    x, truth = checked_samples(logits, labels, "logits")
    margin = x - np.take_along_axis(x, truth[:, None], axis=1)
    if not (margin > 0).any() or margin.mean() >= 0:
        return float("nan")

    def slope(log_inverse: float) -> float:
        """Of the negative log-likelihood, over 1/T: the margin expected at this temperature."""
        weights = softmax(np.exp(log_inverse) * margin)
        return float((weights * margin).sum(axis=1).mean())

    low = high = -float(np.log(np.abs(margin).max()))  # where 1/T turns the largest margin into 1
    while slope(low) >= 0:
        low -= 2
        if low < -600:  # rounding alone makes the logits better than chance
            return float("nan")
    while slope(high) <= 0:
        high += 2
    return float(np.exp(-brentq(slope, low, high, xtol=1e-12)))


def negative_log_likelihood(logits: ArrayLike, labels: ArrayLike, temperature: float = 1.0) -> float:
    """Mean of -log softmax(`logits` / `temperature`) at the label, in nats: logits (N, C), labels (N,)."""
    x, truth = checked_samples(logits, labels, "logits")
    if truth.size == 0:
        return float("nan")
    own = np.take_along_axis(log_softmax(x / _positive(temperature)), truth[:, None], axis=1)
    return float(-own.mean())


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean over samples of sum_c (p_c - [c is the label])^2, from 0 to 2: probabilities (N, C), labels (N,).

    With two classes it is twice the score that counts one of them alone. Source: Brier 1950.
    """
    p, truth = checked_samples(probabilities, labels, "probabilities")
    check_probabilities(p)
    if truth.size == 0:
        return float("nan")
    return float(((p - np.eye(p.shape[1])[truth]) ** 2).sum(axis=1).mean())


def predictive_entropy(probabilities: ArrayLike) -> FloatArray:
    """Return the entropy of `probabilities` (..., C) in nats: (...), from 0 (sure) to log C (no idea)."""
    p = np.asarray(probabilities, dtype=np.float64)
    check_probabilities(p)
    logarithm = np.log(p, out=np.zeros_like(p), where=p > 0)  # 0 log 0 is 0
    return np.asarray(np.maximum(-(p * logarithm).sum(axis=-1), 0.0), dtype=np.float64)


def log_softmax(logits: ArrayLike) -> FloatArray:
    """Return the logarithms of softmax(`logits`) (..., C), exact where the probability itself would be 0."""
    x = np.asarray(logits, dtype=np.float64)
    shifted = x - x.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), dtype=np.float64)


def _positive(temperature: float) -> float:
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"{temperature=}. Must be finite and above 0")
    return temperature
