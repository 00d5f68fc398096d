"""Paired comparison of two starts, "a minus b", with seeds and groups (scenes, events) crossed and random.

S is the number of seeds (runs), G the number of groups; every score is a fraction (0.01 = one point), and
seed s of a is paired with seed s of b. Small functions, documented by the shape of their arrays;
`compare_paired` joins them into two statements: one on this test set, one on new events. Scores that cannot
be used (infinite, or too few of them) raise SartransferError; arguments of a wrong shape or range raise
ValueError.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from sartransfer.errors import SartransferError

FloatArray = NDArray[np.float64]
Scope = Literal["on this test set", "on new events"]
Verdict = Literal["better", "worse", "too few runs to tell", "no difference found", "not estimable"]

EXACT_SIGN_FLIP_LIMIT = 16
"""Up to so many differences all 2^n sign patterns are enumerated."""
SEEN = "The groups were also seen in training, so they say nothing about new events."
FAILS_CORRECTION = "it does not survive the correction for several contrasts"


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
        _check_confidence(self.confidence)

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0

    def within(self, margin: float) -> bool:
        """Whether the whole interval lies inside -margin .. margin."""
        return self.low >= -margin and self.high <= margin


@dataclass(frozen=True)
class Statement:
    """What may be said about "a minus b" in one scope, with the numbers it stands on."""

    scope: Scope
    interval: Interval | None
    p_value: float | None
    """Exact sign-flip p over seeds; only on this test set."""
    p_adjusted: float | None
    """Holm-adjusted p, where several contrasts were planned."""
    verdict: Verdict
    reason: str
    """One sentence in plain words."""

    def __post_init__(self) -> None:
        """Check scope and verdict."""
        if self.scope not in get_args(Scope):
            raise ValueError(f"scope={self.scope!r}. Must be one of: {get_args(Scope)}")
        if self.verdict not in get_args(Verdict):
            raise ValueError(f"verdict={self.verdict!r}. Must be one of: {get_args(Verdict)}")


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
    d = _finite_vector(differences, at_least=1)
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
    d = _finite_vector(differences, at_least=2)
    mean, half = float(d.mean()), float(_t_quantile(d.size - 1, confidence) * d.std(ddof=1) / np.sqrt(d.size))
    return Interval(mean, mean - half, mean + half, float(d.size - 1), confidence)


def t_test_p(differences: ArrayLike) -> float:
    """Two-sided one-sample t-test p of the mean of `differences` (n,), n >= 2: what `holm` takes.

    Without any spread the p is 1 where the mean is 0, and 0 elsewhere.
    """
    d = _finite_vector(differences, at_least=2)
    mean, error = float(d.mean()), float(d.std(ddof=1) / np.sqrt(d.size))
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * special.stdtr(d.size - 1, -abs(mean / error)))


def cohen_dz(differences: ArrayLike) -> float:
    """Effect size of paired `differences` (n,), n >= 2: mean / standard deviation (Cohen 1988).

    Without any spread it is NaN where the mean is 0, and infinite elsewhere.
    """
    d = _finite_vector(differences, at_least=2)
    mean, sd = float(d.mean()), float(d.std(ddof=1))
    if sd == 0:
        return float("nan") if mean == 0 else float(np.copysign(np.inf, mean))
    return mean / sd


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
    t_seeds = _t_quantile(seeds - 1, confidence) ** 2
    t_groups = _t_quantile(groups - 1, confidence) ** 2
    t_residual = _t_quantile((seeds - 1) * (groups - 1), confidence) ** 2
    from_seeds, from_groups = np.multiply(t_seeds, ms_seeds), np.multiply(t_groups, ms_groups)
    both = from_seeds + from_groups - t_residual * np.asarray(ms_residual)
    squared = np.maximum(both, np.maximum(from_seeds, from_groups)) / (seeds * groups)
    return np.asarray(np.sqrt(squared), dtype=np.float64)


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


def smallest_detectable_difference(
    n_seeds: int, sd: float, power: float = 0.8, confidence: float = 0.95
) -> float:
    """Smallest true mean difference that `compare_paired` calls better on this test set with this power.

    `sd` is the standard deviation of the differences between seeds, in units of the score; the differences
    are taken as normal. "Better" needs both the t interval and the sign-flip test, and so does this: at 6
    seeds it is 26 % more than the t-test's own smallest difference, at 7 seeds 7 %, at 10 seeds 2 %. The part
    of the t-test is solved from the noncentral t distribution; what the sign-flip test adds is drawn (seeded,
    to about 0.5 %) for up to 11 seeds, and under 1 % of it, and left out, above. inf where n is too small for
    the sign-flip test to reach 1 - confidence (n < 6 at 95 %): "better" can never be said there.
    """
    if not (sd >= 0 and np.isfinite(sd)):
        raise ValueError(f"{sd=}. Must be 0 or more, and finite")
    if not 0 < power < 1:
        raise ValueError(f"{power=}. Must lie between 0 and 1")
    _check_confidence(confidence)
    if n_seeds < 2 or not _reaches(smallest_sign_flip_p(n_seeds), confidence):
        return float("inf")
    return _detectable(n_seeds, power, confidence) * sd


@lru_cache(maxsize=256)
def _detectable(n: int, power: float, confidence: float) -> float:
    """Smallest detectable difference for differences of standard deviation 1."""
    critical = _t_quantile(n - 1, confidence)

    def shortfall(noncentrality: float) -> float:  # the upper tail alone: "worse" finds no better start
        return float(1 - special.nctdtr(n - 1, noncentrality, critical) - power)

    if shortfall(0.0) >= 0:  # a power under half of 1 - confidence is had for nothing
        return 0.0
    high = 1.0
    while shortfall(high) < 0:
        high *= 2
    of_t = float(optimize.brentq(shortfall, 0.0, high, xtol=1e-10)) / float(np.sqrt(n))
    if n > 11:
        return of_t
    # For each drawn sample z (n,) of mean difference 0: from which shift on do both tests say better?
    z = np.random.default_rng(n).standard_normal((2**16 if n < 10 else 2**14, n))
    by_t = critical * z.std(axis=1, ddof=1) / np.sqrt(n) - z.mean(axis=1)
    both = np.maximum(by_t, _sign_flip_shifts(z, confidence))
    drawn_t, drawn_both = np.quantile(by_t, power), np.quantile(both, power)
    return of_t + float(drawn_both - drawn_t)  # the draws' own error cancels for the most part


def _sign_flip_shifts(z: FloatArray, confidence: float) -> FloatArray:
    """Shift from which on the exact sign-flip test is certain of a positive mean: (M,) for `z` (M, n).

    Flipping the signs of a part A of the differences leaves a mean at least as far from 0 as the one seen
    exactly where A or its rest has a sum of 0 or less, which a large enough shift ends; the p counts the
    parts where it has not, each with its rest, and the pattern that flips none.
    """
    draws, n = z.shape
    parts = np.arange(1, 2 ** (n - 1))  # as bits; the last difference is always in the rest
    members = (parts[:, None] >> np.arange(n)) & 1
    size = members.sum(axis=1)
    allowed = int((1 - confidence + 1e-12) * 2 ** (n - 1)) - 1  # parts that may remain at p <= 1 - confidence
    shifts = np.empty(draws)
    for start in range(0, draws, 2048):
        block = z[start : start + 2048]
        sums = block @ members.T.astype(np.float64)
        needed = np.maximum(-sums / size, (sums - block.sum(axis=1, keepdims=True)) / (n - size))
        place = needed.shape[1] - 1 - allowed
        shifts[start : start + 2048] = np.partition(needed, place, axis=1)[:, place]
    return shifts


def compare_paired(
    whole_a: ArrayLike,
    whole_b: ArrayLike,
    groups_a: ArrayLike,
    groups_b: ArrayLike,
    *,
    events_unseen: bool,
    margin: float = 0.01,
    confidence: float = 0.95,
    p_adjusted: float | None = None,
    p_adjusted_new: float | None = None,
    seen: str = SEEN,
) -> tuple[Statement, Statement]:
    """Say what may be said about a minus b: on this test set, and on new events.

    `whole_a`, `whole_b` (S,): score of each run on the whole test set, paired by seed. `groups_a`,
    `groups_b` (S, G): score of each run on each group, NaN where undefined. `events_unseen`: whether the
    groups are events that no training run saw. `margin`: smallest difference of interest, in units of the
    score. `p_adjusted`, `p_adjusted_new`: Holm-adjusted p of this contrast (`holm`), where several were planned:
    of `t_test_p` for the first statement, of the crossed interval (`results.corrected`) for the second. They bind the
    verdicts; intervals stay at `confidence`. `seen`: what to say of new events where `events_unseen` is false.

    On this test set (it is fixed, the seeds are random): better or worse if the t interval over seeds
    excludes 0, and the sign-flip p and `p_adjusted` are at most 1 - confidence. On new events (seeds and
    groups are random): better or worse if the crossed interval excludes 0, and `p_adjusted_new` is at most
    1 - confidence. Otherwise "no difference found"
    where the interval lies within +-margin, else "too few runs to tell". Both say so always where so few
    seeds can never be sure (under 6 at 95 %): what cannot be certain here cannot be on new events.
    """
    a, b = _pair(whole_a, whole_b, 1, "whole")
    per_group_a, per_group_b = _pair(groups_a, groups_b, 2, "groups")
    if a.size != per_group_a.shape[0]:
        raise ValueError(
            f"whole scores have {a.size} runs and group scores {per_group_a.shape[0]}. Must be the same"
        )
    if not (margin >= 0 and np.isfinite(margin)):
        raise ValueError(f"{margin=}. Must be 0 or more, and finite")
    if not all(p is None or 0 <= p <= 1 for p in (p_adjusted, p_adjusted_new)):
        raise ValueError(f"{p_adjusted=}, {p_adjusted_new=}. Must lie from 0 to 1")
    _check_confidence(confidence)
    return (
        _on_this_test_set(a - b, margin, confidence, p_adjusted),
        _on_new_events(
            per_group_a - per_group_b, "" if events_unseen else seen, margin, confidence, p_adjusted_new
        ),
    )


def _on_this_test_set(d: FloatArray, margin: float, confidence: float, p_adjusted: float | None) -> Statement:
    if d.size == 0 or np.isnan(d).any():
        reason = "There are no runs."
        if d.size:
            reason = "The score is undefined on the whole test set in at least one run."
        return Statement("on this test set", None, None, p_adjusted, "not estimable", reason)
    p = sign_flip_test(d)
    interval = t_interval(d, confidence) if d.size >= 2 else None
    smallest = smallest_sign_flip_p(d.size)

    def say(verdict: Verdict, reason: str) -> Statement:
        return Statement("on this test set", interval, p, p_adjusted, verdict, reason)

    if interval is None or not _reaches(smallest, confidence):
        return say("too few runs to tell", _too_few(d.size, smallest, confidence))
    numbers = f"{_in_words(interval)} over {_count(d.size, 'paired run')} (sign-flip p = {p:.3g}"
    numbers += ")" if p_adjusted is None else f", Holm-adjusted p = {p_adjusted:.3g})"
    doubts = []
    if not interval.excludes_zero:
        doubts.append("the interval includes 0")
    if not _reaches(p, confidence):
        doubts.append("the sign-flip test does not confirm it")
    if p_adjusted is not None and not _reaches(p_adjusted, confidence):
        doubts.append(FAILS_CORRECTION)
    return say(*_verdict(interval, doubts, numbers, margin))


def _on_new_events(
    d: FloatArray, seen: str, margin: float, confidence: float, p_adjusted: float | None
) -> Statement:
    complete = int(np.count_nonzero(~np.isnan(d).any(axis=0))) if d.size else 0
    dropped = d.shape[1] - complete
    aside = f" ({_count(dropped, 'event')} left out, where the score is undefined)" if dropped else ""
    reason = seen
    if not reason and d.shape[0] < 2:
        reason = "There is only one run." if d.shape[0] else "There are no runs."
    elif not reason and complete < 2:
        reason = f"There is {'only one event' if complete else 'no event'} to judge from{aside}."
    if reason:
        return Statement("on new events", None, None, None, "not estimable", reason)
    interval = crossed_interval(d, confidence)

    def say(verdict: Verdict, reason: str) -> Statement:
        return Statement("on new events", interval, None, p_adjusted, verdict, reason)

    if not _reaches(smallest := smallest_sign_flip_p(d.shape[0]), confidence):
        return say("too few runs to tell", _too_few(d.shape[0], smallest, confidence))
    numbers = f"{_in_words(interval)} over {_count(d.shape[0], 'paired run')} and {complete} events{aside}"
    if p_adjusted is not None:
        numbers += f", Holm-adjusted p = {p_adjusted:.3g}"
    doubts = [] if interval.excludes_zero else ["the interval includes 0"]
    if p_adjusted is not None and not _reaches(p_adjusted, confidence):
        doubts.append(FAILS_CORRECTION)
    return say(*_verdict(interval, doubts, numbers, margin))


def _verdict(interval: Interval, doubts: Sequence[str], numbers: str, margin: float) -> tuple[Verdict, str]:
    """Word the outcome once the interval and what speaks against certainty are known."""
    if not doubts:
        return ("better" if interval.mean > 0 else "worse"), f"{numbers}."
    joined = " and ".join(doubts)
    points = f"{100 * margin:.3g} point{'' if margin == 0.01 else 's'}"
    if interval.within(margin):
        return "no difference found", f"{numbers}: {joined}, and all of it lies within {points} either way."
    return "too few runs to tell", f"{numbers}: {joined}, and it reaches beyond {points}."


def _too_few(runs: int, smallest: float, confidence: float) -> str:
    return (
        f"With {_count(runs, 'paired run')} the sign-flip test cannot go under p = {smallest:.3g}, so"
        f" {confidence:.0%} certainty is out of reach whatever the scores."
    )


def _in_words(interval: Interval) -> str:
    low, mean, high = (f"{100 * x:+.2f}" for x in (interval.low, interval.mean, interval.high))
    return f"The difference is {mean} points, {interval.confidence:.0%} interval {low} to {high},"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _reaches(p: float, confidence: float) -> bool:
    return p <= 1 - confidence + 1e-12  # 1 - 0.95 is not exactly 0.05 in binary


def _t_quantile(df: int, confidence: float) -> float:
    _check_confidence(confidence)
    return float(special.stdtrit(df, (1 + confidence) / 2))


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"{confidence=}. Must lie between 0 and 1, such as 0.95")


def _finite_vector(values: ArrayLike, *, at_least: int) -> FloatArray:
    d = np.asarray(values, dtype=np.float64)
    if d.ndim != 1 or d.size < at_least:
        raise ValueError(f"differences have shape {d.shape}. Must be (n,) with n of {at_least} or more")
    if not np.isfinite(d).all():
        raise SartransferError(f"differences={d.tolist()}. Must all be finite")
    return d


def _pair(a: ArrayLike, b: ArrayLike, ndim: int, name: str) -> tuple[FloatArray, FloatArray]:
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != ndim or first.shape != second.shape:
        wanted = "(S,)" if ndim == 1 else "(S, G)"
        raise ValueError(f"{name}_a has shape {first.shape}, {name}_b {second.shape}. Both must be {wanted}")
    if np.isinf(first).any() or np.isinf(second).any():
        raise SartransferError(
            f"{name} scores hold infinite values; a score is a number, or NaN where undefined"
        )
    return first, second
