"""What a number of seeds can find: the smallest true difference that is called better four times in five."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from sartransfer.intervals import check_confidence, reaches, smallest_sign_flip_p, t_quantile

FloatArray = NDArray[np.float64]


def smallest_detectable_difference(
    n_seeds: int, sd: float, power: float = 0.8, confidence: float = 0.95, *, contrasts: int = 1
) -> float:
    """Smallest true mean difference that `compare_paired` calls better on this test set with this power.

    `sd` is the standard deviation of the differences between seeds, in units of the score; the differences
    are taken as normal. "Better" needs both the t interval and the sign-flip test, and so does this: at 6
    seeds it is 26 % more than the t-test's own smallest difference, at 7 seeds 7 %, at 10 seeds 2 %. The part
    of the t-test is solved from the noncentral t distribution; what the sign-flip test adds is drawn (seeded,
    to about 0.5 %) for up to 11 seeds, and under 1 % of it, and left out, above. inf where n is too small for
    the sign-flip test to reach 1 - confidence (n < 6 at 95 %): "better" can never be said there.

    `contrasts`: how many are planned. Of several, the t-test is asked for (1 - confidence) / contrasts, which is what
    Holm's rule asks of the smallest p: the power is then this or more, whatever the other contrasts show.
    """
    if not (sd >= 0 and np.isfinite(sd)):
        raise ValueError(f"{sd=}. Must be 0 or more, and finite")
    if not 0 < power < 1:
        raise ValueError(f"{power=}. Must lie between 0 and 1")
    check_confidence(confidence)
    if contrasts < 1:
        raise ValueError(f"{contrasts=}. Must be 1 or more")
    if n_seeds < 2 or not reaches(smallest_sign_flip_p(n_seeds), confidence):
        return float("inf")
    return _detectable(n_seeds, power, confidence, contrasts) * sd


@lru_cache(maxsize=256)
def _detectable(n: int, power: float, confidence: float, contrasts: int) -> float:
    """Smallest detectable difference for differences of standard deviation 1."""
    critical = t_quantile(n - 1, 1 - (1 - confidence) / contrasts)

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
