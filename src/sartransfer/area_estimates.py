"""How large each class really is: the area that a map shows, corrected by what its errors on reference data tell.

A map's own area is biased where a class is missed more often than it is seen where it is not. With reference data the
bias can be taken off and the rest be told as an uncertainty (Olofsson et al. 2014, Remote Sensing of Environment 148).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError

RESAMPLES = 2000
CONFIDENCE = 0.95
FEWEST = 5  # groups: resampling fewer says little about what another group would give


@dataclass(frozen=True, slots=True)
class AreaEstimate:
    """Areas of K classes, in the unit of the mapped areas."""

    area: NDArray[np.float64]
    """(K,) corrected for the map's errors."""
    standard_error: NDArray[np.float64]
    """(K,)."""
    low: NDArray[np.float64]
    """(K,) lower end of the interval of 95 %, not below 0."""
    high: NDArray[np.float64]
    """(K,)."""


def adjusted_areas(
    confusion: NDArray[np.integer] | NDArray[np.floating], mapped: NDArray[np.floating]
) -> AreaEstimate:
    """Return error-adjusted areas with their standard errors from a sample of reference points.

    Olofsson et al. 2014, equations 4, 9, 10 and 11: with the map's classes as strata, W_i the share of class i in the
    map and n_ij the points mapped as i that are j, p_ij = W_i n_ij / n_i, the area of j is A sum_i p_ij, and its
    standard error A sqrt(sum_i (W_i p_ij - p_ij^2) / (n_i - 1)). The points must be drawn at random (within classes
    or over the map) and independently: of all pixels of test scenes that is not so (`resampled_areas`).

    Args:
        confusion: (K, K) points; rows truth, columns map.
        mapped: (K,) area of each class in the map.

    Raises `InputError` for shapes that do not agree, and a mapped class with fewer than two points.
    """
    counts, mapped = _checked(np.asarray(confusion)[None], mapped)
    sampled = counts[0].sum(axis=0)
    if ((sampled < 2) & (mapped > 0)).any():
        raise InputError(
            f"class {int(np.flatnonzero((sampled < 2) & (mapped > 0))[0])} is in the map, but fewer than two reference "
            "points are mapped as it: its errors are not known. Add points there."
        )
    total = mapped.sum()
    weight = mapped / total
    shares = weight * counts[0] / np.maximum(sampled, 1)  # p_ij, rows truth j, columns map i
    area = total * shares.sum(axis=1)
    variance = ((weight * shares - shares**2) / np.maximum(sampled - 1, 1)).sum(axis=1)
    error = total * np.sqrt(np.maximum(variance, 0.0))
    return AreaEstimate(area, error, np.maximum(area - 1.96 * error, 0.0), area + 1.96 * error)


def resampled_areas(
    confusions: NDArray[np.integer], mapped: NDArray[np.floating], *, seed: int = 0
) -> AreaEstimate:
    """Return error-adjusted areas with an interval over groups of test scenes, drawn again with replacement.

    The area is that of `adjusted_areas` for all groups together. Pixels of one event err together, so that groups,
    not pixels, are drawn (2000 times, percentiles): the interval says what other events might have given, if the
    mapped scene errs as those of the test set do. A drawing without a mapped class takes its errors from all groups.

    Args:
        confusions: (G, K, K) of each group; rows truth, columns map.
        mapped: (K,) area of each class in the map.

    Raises `InputError` for fewer than five groups, shapes that do not agree, a mapped class without reference.
    """
    counts, mapped = _checked(np.asarray(confusions), mapped)
    if len(counts) < FEWEST:
        raise InputError(
            f"{len(counts)} groups of test scenes are too few to tell how areas vary: {FEWEST} at least."
        )
    together = counts.sum(axis=0)
    if ((together.sum(axis=0) == 0) & (mapped > 0)).any():
        raise InputError(
            "a class is in the map that no test scene was ever mapped as: its errors are not known."
        )

    def areas(confusion: NDArray[np.float64]) -> NDArray[np.float64]:
        sampled = confusion.sum(axis=-2, keepdims=True)
        whole = together.sum(axis=0, keepdims=True)
        shares = np.where(sampled > 0, confusion / np.maximum(sampled, 1), together / np.maximum(whole, 1))
        found: NDArray[np.float64] = (shares * mapped).sum(axis=-1)
        return found

    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=RESAMPLES)
    found = areas(np.einsum("rg,gjk->rjk", drawn.astype(np.float64), counts))
    edge = (1 - CONFIDENCE) / 2
    low, high = np.quantile(found, [edge, 1 - edge], axis=0)
    return AreaEstimate(areas(together), found.std(axis=0, ddof=1), low, high)


def _checked(
    confusions: NDArray[np.integer] | NDArray[np.floating], mapped: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    counts = confusions.astype(np.float64)
    areas: NDArray[np.float64] = np.asarray(mapped, dtype=np.float64)
    if counts.ndim != 3 or counts.shape[1:] != (len(areas), len(areas)):
        raise InputError(
            f"a confusion matrix of shape {counts.shape[1:]} and {len(areas)} mapped areas do not belong together."
        )
    if (counts < 0).any() or (areas < 0).any() or not (np.isfinite(areas).all() and areas.sum() > 0):
        raise InputError("counts and areas must be 0 or more, and the map must not be empty.")
    return counts, areas
