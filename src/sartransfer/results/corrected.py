"""The correction of both statements for several planned contrasts (Holm)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from sartransfer.intervals import (
    crossed_half_width,
    crossed_interval,
    crossed_mean_squares,
    has_spread,
    holm,
    t_test_p,
)

SMALLEST = 1e-12
"""So small a p is looked for; what is smaller is said to be this."""


def crossed_p(differences: NDArray[np.float64]) -> float:
    """Two-sided p of the mean of `differences` (S, G): 1 - the confidence at which `crossed_interval` ends at 0.

    The half width grows with the confidence, so that the interval excludes 0 wherever 1 - confidence is larger.
    Errors are those of `crossed_interval`; without any spread (to rounding) the p is 1 where the mean is 0, and 0
    elsewhere.
    """
    whole = crossed_interval(differences)
    complete = differences[:, ~np.isnan(differences).any(axis=0)]
    if not has_spread(complete):
        return 1.0 if whole.mean == 0 else 0.0
    squares = crossed_mean_squares(complete)
    seeds, groups = complete.shape

    def reach(log_p: float) -> float:
        half = crossed_half_width(*squares, seeds, groups, -float(np.expm1(log_p)))
        return float(half) - abs(whole.mean)

    least, most = float(np.log(SMALLEST)), -1e-9
    if reach(least) <= 0:
        return SMALLEST
    return 1.0 if reach(most) >= 0 else float(np.exp(optimize.brentq(reach, least, most, xtol=1e-10)))


def adjusted_here(family: Sequence[NDArray[np.float64]], planned: int) -> list[float | None]:
    """Return Holm-adjusted t p of differences (S,) over the `planned` contrasts; None where nothing can be tested."""
    able = [len(d) >= 2 and bool(np.isfinite(d).all()) for d in family]
    return _adjusted([t_test_p(d) if a else None for d, a in zip(family, able, strict=True)], planned)


def adjusted_new(family: Sequence[NDArray[np.float64]], planned: int) -> list[float | None]:
    """Return Holm-adjusted crossed p of differences (S, G), NaN where undefined, as `adjusted_here` does."""
    able = [len(d) >= 2 and int(np.isfinite(d).all(axis=0).sum()) >= 2 for d in family]
    return _adjusted([crossed_p(d) if a else None for d, a in zip(family, able, strict=True)], planned)


def _adjusted(p_values: Sequence[float | None], planned: int) -> list[float | None]:
    """Holm, in which a contrast that cannot be tested counts as not significant; None where only one is planned."""
    if planned < 2:
        return [None] * len(p_values)
    p = [1.0 if one is None else one for one in p_values]
    corrected = holm([*p, *[1.0] * (planned - len(p))])
    return [None if one is None else float(q) for q, one in zip(corrected, p_values, strict=False)]
