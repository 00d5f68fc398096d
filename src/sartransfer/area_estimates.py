"""How large each class really is: the area that a map shows, corrected by what its errors on reference data tell.

A map's own area is biased where a class is missed more often than it is seen where it is not. Two estimators take the
bias off, and which is right depends on where the reference comes from. Points drawn on the map itself: `adjusted_areas`
(Olofsson et al. 2014, Remote Sensing of Environment 148). Test scenes of other places: `corrected_areas`, since what
share of "flooded" pixels is flooded depends on how much flood there is, and that is the test scenes', not the map's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sartransfer.errors import InputError

CONFIDENCE = 0.95
FEWEST = 5  # groups with every class: of fewer the spread is hardly known
GREATEST = 20.0  # 1-norm of the inverse: for two classes recall + specificity - 1 of about 1 / 20
FAR = 2.0  # odds of a class in the map against the least and the greatest of the test groups' maps


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
    notes: tuple[str, ...] = ()
    """What must be told with the numbers: areas cut at 0, a map unlike the test groups' maps."""


def adjusted_areas(
    confusion: NDArray[np.integer] | NDArray[np.floating], mapped: NDArray[np.floating]
) -> AreaEstimate:
    """Return error-adjusted areas with their standard errors from reference points drawn on the map itself.

    Olofsson et al. 2014, equations 4, 9, 10 and 11: with the map's classes as strata, W_i the share of class i in the
    map and n_ij the points mapped as i that are j, p_ij = W_i n_ij / n_i, the area of j is A sum_i p_ij, and its
    standard error A sqrt(sum_i (W_i p_ij - p_ij^2) / (n_i - 1)). The points must be drawn at random on this map (within
    classes or over all of it) and independently. Of test scenes elsewhere neither is so: `corrected_areas`.

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


def corrected_areas(
    confusions: NDArray[np.integer], mapped: NDArray[np.floating], classes: Sequence[str] | None = None
) -> AreaEstimate:
    """Return the areas of one new scene, by the errors on groups of test scenes, with a prediction interval of 95 %.

    With r_ji the share of the pixels of class j that are mapped as i (all groups together), the mapped areas m are
    expected to be sum_j r_ji x_j of the true areas x; the estimate solves that for x. The rates r do not depend on how
    much there is of each class (Buonaccorsi 2010, Measurement Error, chapter 2; for two classes Rogan and Gladen 1978,
    American Journal of Epidemiology 107: x = (m - f A) / (recall - f), f the share of false alarms).

    The interval is of one scene more, not of the mean: were this scene's errors those of group g, and corrected by the
    other groups, the estimate would be off by e_g. The ends are +- t(G-1) s sqrt(1 + 1/G), s the standard deviation of
    e over the G groups that hold every class, cut at 0 and the map's area. It holds if this scene is to the test groups
    as they are to each other.

    Args:
        confusions: (G, K, K) of each group; rows truth, columns map.
        mapped: (K,) area of each class in the map.
        classes: (K,) names for messages; None: their numbers.

    Raises `InputError` where nothing can be estimated: shapes that do not agree, fewer than five groups with every
    class, a class without reference, or rates that do not tell the classes apart.
    """
    counts, mapped = _checked(np.asarray(confusions), mapped)
    names = [f"class {i}" for i in range(len(mapped))] if classes is None else list(classes)
    if len(counts) < FEWEST:
        raise InputError(
            f"{len(counts)} groups of test scenes are too few to tell how areas vary: {FEWEST} at least. "
            "Areas are not estimable."
        )
    truth, total = counts.sum(axis=2), mapped.sum()
    seen = (truth.sum(axis=0) > 0) | (mapped > 0) | (counts.sum(axis=(0, 1)) > 0)
    if (nowhere := np.flatnonzero(seen & (truth.sum(axis=0) == 0))).size:
        raise InputError(
            f"no test scene holds {names[nowhere[0]]}: how often it is missed is not known. Areas are not "
            "estimable. Score test scenes that hold it."
        )
    notes = [
        f"{names[i]} is neither in the map nor in any test scene: told as 0." for i in np.flatnonzero(~seen)
    ]
    (kept,) = np.nonzero(seen)
    counts, truth, part = counts[:, kept][:, :, kept], truth[:, kept], mapped[kept]
    known = [names[i] for i in kept]
    whole = (truth > 0).all(axis=1)
    if whole.sum() < FEWEST:
        rare = int(np.argmin((truth > 0).sum(axis=0)))
        raise InputError(
            f"{int(whole.sum())} groups of test scenes hold every class ({known[rare]} is in "
            f"{int((truth[:, rare] > 0).sum())} of {len(counts)}): {FEWEST} at least. Areas are not estimable."
        )
    together = counts.sum(axis=0)
    raw = np.linalg.solve(_rates(together, known).T, part)
    area = np.maximum(raw, 0.0) * (total / np.maximum(raw, 0.0).sum())
    off = []
    for group in counts[whole]:
        errors = group / group.sum(axis=1, keepdims=True)
        shown = errors.T @ area  # the map that this scene would have got with them
        others = _rates(together - group, known, " without one of the test groups")
        off.append(area - np.linalg.solve(others.T, shown))
    number = len(off)
    error = np.std(off, axis=0, ddof=1) * np.sqrt(1 + 1 / number)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, number - 1) * error
    for i in np.flatnonzero(raw < -1e-9 * total).tolist():
        notes.append(
            f"{known[i]}: the rates give {raw[i]:,.4g}, told as 0: the map shows less of it than false alarms alone "
            "would."
            + ("" if len(known) == 2 else " The others are scaled to the map's area.")
            + (
                " That is beyond the interval: this scene errs unlike the test groups."
                if raw[i] < -half[i]
                else ""
            )
        )
    notes += _unlike(counts, part, known)
    out = np.zeros((4, len(mapped)))
    out[:, kept] = area, error, np.maximum(area - half, 0.0), np.minimum(area + half, total)
    return AreaEstimate(out[0], out[1], out[2], out[3], tuple(notes))


def _rates(confusion: NDArray[np.float64], names: Sequence[str], where: str = "") -> NDArray[np.float64]:
    """Return P(map | truth), rows truth; raise `InputError` where truth cannot be had back from the map."""
    rates: NDArray[np.float64] = confusion / confusion.sum(axis=1, keepdims=True)
    if (never := np.flatnonzero(rates.sum(axis=0) == 0)).size:
        raise InputError(
            f"no pixel of the test scenes was mapped as {names[never[0]]}{where}: what the map shows of it tells "
            "nothing, and areas are not estimable."
        )
    others = np.where(np.eye(len(rates), dtype=bool), -1.0, rates)
    for i in np.flatnonzero(np.diagonal(rates) <= others.max(axis=0)).tolist():
        j = int(others[:, i].argmax())
        raise InputError(
            f"{names[i]} is mapped where it is {names[j]} ({rates[j, i]:.1%} of it) at least as often as where it is "
            f"{names[i]} ({rates[i, i]:.1%}){where}: the map does not tell them apart, and areas are not estimable."
        )
    try:
        enlarged = float(np.abs(np.linalg.inv(rates.T)).sum(axis=0).max())
    except np.linalg.LinAlgError:
        enlarged = np.inf
    if not enlarged <= GREATEST:
        raise InputError(
            f"the errors on the test scenes hardly tell {', '.join(names)} apart{where}: an error of the rates would "
            f"be enlarged {enlarged:.3g} times ({GREATEST:g} at most), and areas are not estimable."
        )
    return rates


def _unlike(counts: NDArray[np.float64], mapped: NDArray[np.float64], names: Sequence[str]) -> list[str]:
    """Say which classes have a share of the map far outside that of the test groups' maps."""
    shown = counts.sum(axis=1)
    shares = shown / shown.sum(axis=1, keepdims=True)
    low, high, mine = shares.min(axis=0), shares.max(axis=0), mapped / mapped.sum()
    # Odds, multiplied out: shares of 0 and 1 need no exception.
    below = mine * (1 - low) * FAR < low * (1 - mine)
    above = mine * (1 - high) > FAR * high * (1 - mine)
    told = [
        f"{names[i]} is {mine[i]:.1%} of this map and {low[i]:.1%} to {high[i]:.1%} of the test groups' maps"
        for i in np.flatnonzero(below | above).tolist()
    ]
    return [f"{'; '.join(told)}: whether the errors are alike so far outside is not known."] if told else []


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
