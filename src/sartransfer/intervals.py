"""Tests and intervals of paired differences: exact sign flips, t, and seeds crossed with groups, both random.

S is the number of seeds (runs), G the number of groups; every score is a fraction (0.01 = one point). Small functions,
documented by the shape of their arrays; `statistics.compare_paired` joins them into statements. Scores that cannot be
used (infinite, or too few of them) raise SartransferError; arguments of a wrong shape or range raise ValueError.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from sartransfer.errors import SartransferError

FloatArray = NDArray[np.float64]

EXACT_SIGN_FLIP_LIMIT = 16
"""Up to so many differences all 2^n sign patterns are enumerated."""
ROUNDING = 1e-12
"""A spread of at most so much of the largest difference is rounding, and counts as none."""


@dataclass(frozen=True)
class Interval:
    """A mean with its two-sided confidence interval, in the units of the score."""

    mean: float
    low: float
    high: float
    df: float
    """Degrees of freedom of the t quantile that gives this width (equivalent, if crossed)."""
    confidence: float
    dropped_groups: int = 0
    """Groups left out because the score was undefined there in at least one run."""

    def __post_init__(self) -> None:
        """Check the order of the ends."""
        if not self.low <= self.mean <= self.high:
            raise ValueError(f"interval {self.low} .. {self.high} must hold its mean {self.mean}")
        check_confidence(self.confidence)

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0

    def within(self, margin: float) -> bool:
        """Whether the whole interval lies inside -margin .. margin."""
        return self.low >= -margin and self.high <= margin


def smallest_sign_flip_p(n: int) -> float:
    """Smallest two-sided p that a sign-flip test of n differences can reach: 2 / 2^n (1 for n = 0)."""
    if n < 0:
        raise ValueError(f"{n=}. Must be 0 or more")
    return min(1.0, 2.0 ** (1 - n))


def sign_flip_test(
    differences: ArrayLike, *, generator: np.random.Generator | None = None, draws: int = 65_536
) -> float:
    """Two-sided sign-flip p of the mean of `differences` (n,): exact up to n = 16, Monte Carlo above.

    The p is the share of sign patterns whose mean is at least as far from 0 as the one seen. Above n = 16
    `draws` random patterns are taken from `generator` (by default one seeded with 0) and the p is (1 + hits)
    / (1 + draws), which keeps the test valid (Phipson and Smyth 2010). Source: Fisher 1935, The Design of
    Experiments, section 21.
    """
    d = finite_vector(differences, at_least=1)
    tolerance = 1e-12 * float(np.abs(d).sum())  # sums that are equal in exact arithmetic must count as equal
    seen = abs(float(d.sum())) - tolerance
    if d.size <= EXACT_SIGN_FLIP_LIMIT:
        sums = d[:1]  # the first sign stays: a pattern and its mirror image have the same |sum|
        for value in d[1:]:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= seen))
    if draws < 1:
        raise ValueError(f"{draws=}. Must be 1 or more")
    rng = np.random.default_rng(0) if generator is None else generator
    hits = 0
    for start in range(0, draws, 4096):  # in blocks: draws x n signs need not be held at once
        signs = 2.0 * rng.integers(0, 2, size=(min(4096, draws - start), d.size)) - 1.0
        hits += int(np.count_nonzero(np.abs(signs @ d) >= seen))
    return (1 + hits) / (1 + draws)


def t_interval(differences: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student t interval of the mean of `differences` (n,), n >= 2, with n - 1 degrees of freedom."""
    d = finite_vector(differences, at_least=2)
    mean, half = float(d.mean()), float(t_quantile(d.size - 1, confidence) * d.std(ddof=1) / np.sqrt(d.size))
    return Interval(mean, mean - half, mean + half, float(d.size - 1), confidence)


def t_test_p(differences: ArrayLike) -> float:
    """Two-sided one-sample t-test p of the mean of `differences` (n,), n >= 2: what `holm` takes.

    Without any spread (to rounding) the p is 1 where the mean is 0, and 0 elsewhere.
    """
    d = finite_vector(differences, at_least=2)
    mean, error = float(d.mean()), float(d.std(ddof=1) / np.sqrt(d.size))
    if not has_spread(d):
        return 1.0 if mean == 0 else 0.0
    return float(2 * special.stdtr(d.size - 1, -abs(mean / error)))


def cohen_dz(differences: ArrayLike) -> float:
    """Effect size of paired `differences` (n,), n >= 2: mean / standard deviation (Cohen 1988).

    Without any spread (to rounding) it is NaN where the mean is 0, and infinite elsewhere.
    """
    d = finite_vector(differences, at_least=2)
    mean, sd = float(d.mean()), float(d.std(ddof=1))
    if not has_spread(d):
        return float("nan") if mean == 0 else float(np.copysign(np.inf, mean))
    return mean / sd


def has_spread(differences: ArrayLike) -> bool:
    """Whether `differences` differ by more than rounding: .3 - .2 and .4 - .3 are the same tenth."""
    d = np.asarray(differences, dtype=np.float64)
    return float(np.ptp(d)) > ROUNDING * float(np.abs(d).max())


def crossed_mean_squares(differences: ArrayLike) -> tuple[float, float, float]:
    """Mean squares (seeds, groups, residual) of `differences` (S, G) without replication, S and G >= 2.

    For d_sg = mu + a_s + b_g + e_sg they are expected at var_e + G var_a, var_e + S var_b and var_e
    (Searle, Casella and McCulloch 1992, Variance Components).
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 2 or min(d.shape) < 2:
        raise ValueError(f"differences have shape {d.shape}. Must be (S, G) with 2 or more seeds and groups")
    if not np.isfinite(d).all():
        raise SartransferError("differences hold NaN or infinite values; drop those groups first")
    seeds, groups = d.shape
    seed_effect = d.mean(axis=1) - d.mean()
    group_effect = d.mean(axis=0) - d.mean()
    residual = d - d.mean() - seed_effect[:, None] - group_effect[None, :]
    return (
        groups * float(np.square(seed_effect).sum()) / (seeds - 1),
        seeds * float(np.square(group_effect).sum()) / (groups - 1),
        float(np.square(residual).sum()) / ((seeds - 1) * (groups - 1)),
    )


def crossed_half_width(
    ms_seeds: ArrayLike,
    ms_groups: ArrayLike,
    ms_residual: ArrayLike,
    seeds: int,
    groups: int,
    confidence: float = 0.95,
) -> FloatArray:
    """Half the width of the interval of a crossed mean, from its three mean squares (one shape for all).

    Var(mean) is estimated by v = (MS_S + MS_G - MS_E) / (S G). Satterthwaite's degrees of freedom for it
    (1946) are themselves estimated and err too often when S or G is small: 7 % at S = 3, G = 30 and 12 % at
    S = 2, G = 30 instead of 5 %. So each mean square carries the t quantile of its own degrees of freedom,

        half^2 = (t_S^2 MS_S + t_G^2 MS_G - t_E^2 MS_E) / (S G),   df S-1, G-1 and (S-1)(G-1),

    and half^2 is never let under t_S^2 MS_S / (S G) or t_G^2 MS_G / (S G). Without the subtraction this is
    the two-variance interval of Banerjee (1961, Sankhya A 23), which holds its level for every ratio of the
    variances, because the chi-square(1) distribution function is concave. The floor matters because MS_E can
    exceed MS_S or MS_G by chance: the subtraction would then take off a variance that is there, and the
    interval would be too short. The variance used is therefore never under max(MS_S, MS_G) / (S G), and the
    error with the subtraction is at worst 5.0 % over a grid of ratios (integrated in the tests).
    """
    t_seeds = t_quantile(seeds - 1, confidence) ** 2
    t_groups = t_quantile(groups - 1, confidence) ** 2
    t_residual = t_quantile((seeds - 1) * (groups - 1), confidence) ** 2
    from_seeds, from_groups = np.multiply(t_seeds, ms_seeds), np.multiply(t_groups, ms_groups)
    both = from_seeds + from_groups - t_residual * np.asarray(ms_residual)
    squared = np.maximum(both, np.maximum(from_seeds, from_groups)) / (seeds * groups)
    return np.asarray(np.sqrt(squared), dtype=np.float64)


def half_width_of_groups(differences: ArrayLike, confidence: float = 0.95) -> float:
    """Half the width that the groups alone would leave of `differences` (S, G), with ever so many seeds.

    The residual shrinks with the seeds as their own effect does; what stays is var_b / G, estimated by (MS_G - MS_E) /
    (S G), 0 where that is negative. Errors are those of `crossed_mean_squares`.
    """
    d = np.asarray(differences, dtype=np.float64)
    _, of_groups, of_rest = crossed_mean_squares(d)
    return t_quantile(d.shape[1] - 1, confidence) * float(np.sqrt(max(of_groups - of_rest, 0.0) / d.size))


def fold_means(differences: ArrayLike, folds: ArrayLike) -> FloatArray:
    """Mean of `differences` (S, G) over the groups of each fold: (S, K), folds in the order of their numbers.

    `folds` (G,): the number of each group's fold. A group with a NaN in any run counts in no mean; a fold of such
    groups alone is NaN.
    """
    d, number = np.asarray(differences, dtype=np.float64), np.asarray(folds)
    if d.ndim != 2 or number.shape != d.shape[1:]:
        raise ValueError(f"folds have shape {number.shape}, differences {d.shape}. Must be (G,) and (S, G)")
    defined = ~np.isnan(d).any(axis=0)
    means = np.full((d.shape[0], np.unique(number).size), np.nan)
    for k, fold in enumerate(np.unique(number)):
        if (mine := defined & (number == fold)).any():
            means[:, k] = d[:, mine].mean(axis=1)
    return means


def crossed_interval(differences: ArrayLike, confidence: float = 0.95) -> Interval:
    """Interval of the mean of `differences` (S, G) for new seeds and new groups, both random and crossed.

    A group with a NaN in any run (score undefined there) is dropped for all runs, and counted in
    `dropped_groups`. `df` is the number at which a plain t interval on max(MS_S + MS_G - MS_E, MS_S, MS_G) /
    (S G) has this width; see `crossed_half_width` for the rule. Fewer than two seeds or two complete groups,
    or infinite values, raise SartransferError: with one group, how groups differ cannot be known.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 2:
        raise ValueError(f"differences have shape {d.shape}. Must be (S, G): seeds by groups")
    if np.isinf(d).any():
        raise SartransferError(
            "differences hold infinite values; a score must be a number, or NaN where undefined"
        )
    kept = d[:, ~np.isnan(d).any(axis=0)]
    dropped = d.shape[1] - kept.shape[1]
    seeds, groups = kept.shape
    if seeds < 2 or groups < 2:
        raise SartransferError(
            f"a crossed interval needs 2 or more seeds and 2 or more groups, not {seeds} and {groups}"
            f" ({dropped} groups dropped for an undefined score); call it not estimable"
        )
    ms_seeds, ms_groups, ms_residual = crossed_mean_squares(kept)
    half = float(crossed_half_width(ms_seeds, ms_groups, ms_residual, seeds, groups, confidence))
    variance = max(ms_seeds + ms_groups - ms_residual, ms_seeds, ms_groups) / (seeds * groups)
    if variance > 0:
        df = float(special.stdtridf((1 + confidence) / 2, half / np.sqrt(variance)))
    else:
        df = float(min(seeds, groups) - 1)
    mean = float(kept.mean())
    return Interval(mean, mean - half, mean + half, df, confidence, dropped)


def holm(p_values: ArrayLike) -> FloatArray:
    """Adjust `p_values` (m,) for m planned contrasts by Holm's step-down rule (1979): (m,)."""
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p_values={p.tolist()}. Must be one list of numbers from 0 to 1")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    return adjusted


def reaches(p: float, confidence: float) -> bool:
    """Whether a p is small enough for this confidence."""
    return p <= 1 - confidence + 1e-12  # 1 - 0.95 is not exactly 0.05 in binary


def t_quantile(df: int, confidence: float) -> float:
    """Two-sided quantile of Student's t."""
    check_confidence(confidence)
    return float(special.stdtrit(df, (1 + confidence) / 2))


def check_confidence(confidence: float) -> None:
    """Refuse a confidence that is no share, such as 95."""
    if not 0 < confidence < 1:
        raise ValueError(f"{confidence=}. Must lie between 0 and 1, such as 0.95")


def finite_vector(values: ArrayLike, *, at_least: int) -> FloatArray:
    """Return `values` (n,) as numbers, checked."""
    d = np.asarray(values, dtype=np.float64)
    if d.ndim != 1 or d.size < at_least:
        raise ValueError(f"differences have shape {d.shape}. Must be (n,) with n of {at_least} or more")
    if not np.isfinite(d).all():
        raise SartransferError(f"differences={d.tolist()}. Must all be finite")
    return d
