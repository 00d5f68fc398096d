"""How much the choice of test scenes tells: scores and differences with their scenes or events drawn again.

Intervals over seeds say what another training would give on the same scenes; these say what other scenes would have
given. Percentiles of few units are too narrow even where these are independent, so their ends are moved apart
(`widening`). What that cannot mend: tiles of one event say nothing yet of another event, and neighbours that are alike
count as if they were not.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sartransfer.evaluate import TestScores
from sartransfer.recipe import PrimaryRecipe, Recipe
from sartransfer.results.pairs import pairs
from sartransfer.results.rows import ScoredRun, TestSet, joined_scores
from sartransfer.wording import UNSEEN_EVENTS

RESAMPLES = 1000
CONFIDENCE = 0.95
FEWEST = 5  # units in all of what is drawn (groups; else scenes, of all groups): fewer say little of others
FEWEST_OF_ONE = 3  # scenes of each group where they are drawn within it: one never varies, two hardly

Counts = NDArray[np.float64]


def resampled_json(
    runs: Sequence[ScoredRun], recipe: Recipe, test_sets: Sequence[TestSet], *, seed: int = 0
) -> dict[str, list[dict[str, Any]]]:
    """Return intervals (95 %) of the primary score and of the planned differences over scenes.

    What is drawn, with replacement: the groups of a test set where it has five or more, else the scenes of each of its
    groups. Seeds stay as they are: a value is the mean over seeds of the score of all pixels that a drawing holds; a
    difference is taken within a drawing, of the seeds that both starts have. The ends are the percentiles of the
    drawings, moved away from the value itself by `widening`, and cut where scores end. A set with fewer than five
    scenes has no interval, nor has one whose score a drawing in twenty leaves undefined. Where scenes are drawn within
    groups and a group has fewer than three, ``low`` and ``high`` are None and ``reason`` says so.

    Returns ``scores`` (initialization, fraction, test_set, drawn, number, widened: the factor, low, high) and
    ``contrasts`` (a, b, ... the same), as JSON values; nothing for classified patches, whose ensembles have
    intervals of their own.
    """
    found: dict[str, list[dict[str, Any]]] = {"scores": [], "contrasts": []}
    if recipe.task != "segment":
        return found
    sets = [(t.name, [t.name]) for t in test_sets]
    unseen = [t.name for t in test_sets if t.is_joined]
    if len(unseen) > 1:
        sets.append((UNSEEN_EVENTS, unseen))
    for fraction in recipe.fractions:
        for name, members in sets:
            every = {
                (r.initialization, r.seed): joined_scores(r, members, name)
                for r in runs
                if r.fraction == fraction and all(m in r.tests for m in members)
            }
            if not every:
                continue
            units, drawn = _units(next(iter(every.values())))
            number = len(set(units))
            if number < FEWEST:
                continue
            facts = {"fraction": fraction, "test_set": name, "drawn": drawn, "number": number}
            if reason := _few(units):
                none = {**facts, "low": None, "high": None, "reason": reason}
                of = dict.fromkeys(start for start, _ in every)
                found["scores"] += [
                    {"initialization": start, **none} for start in recipe.initializations if start in of
                ]
                found["contrasts"] += [
                    {"a": a, "b": b, **none} for a, b in pairs(recipe) if a in of and b in of
                ]
                continue
            facts["widened"] = factor = widening(units)
            # The first line is every unit once: the value itself.
            shares = np.concatenate([np.ones((1, number), dtype=np.float32), _drawings(units, seed)])
            values = {
                key: _values(_drawn_matrices(tests, units, shares), tests.classes, recipe.primary)
                for key, tests in every.items()
            }
            for start in recipe.initializations:
                mine = [values[start, s] for s in recipe.seeds if (start, s) in values]
                if mine and (ends := _ends(mine, factor, 0.0)):
                    found["scores"].append({"initialization": start, **facts, **ends})
            for a, b in pairs(recipe):
                both = [s for s in recipe.seeds if (a, s) in values and (b, s) in values]
                ends = _ends([values[a, s] - values[b, s] for s in both], factor, -1.0) if both else None
                if ends:
                    found["contrasts"].append({"a": a, "b": b, **facts, **ends})
    return found


def _units(tests: TestScores) -> tuple[list[tuple[str, ...]], str]:
    """Return what each scene belongs to, (stratum, unit), and what the units are."""
    groups = list(dict.fromkeys(s.group for s in tests.scenes))
    if len(groups) >= FEWEST and len(groups) < len(tests.scenes):
        return [("", s.group) for s in tests.scenes], "groups"
    return [(s.group if len(groups) < FEWEST else "", s.id) for s in tests.scenes], "scenes"


def _few(units: Sequence[tuple[str, ...]]) -> str:
    """Say how many groups have too few scenes to draw from; nothing where all have enough."""
    sizes = Counter(stratum for stratum, _ in set(units))
    few = sum(size < FEWEST_OF_ONE for size in sizes.values())
    verb = "has" if few == 1 else "have"
    return f"{few} of {len(sizes)} groups {verb} fewer than {FEWEST_OF_ONE} scenes" if few else ""


def widening(units: Sequence[tuple[str, ...]]) -> float:
    """Return by how much the distance of the ends from the value grows for units (stratum, unit) drawn again.

    Drawings of n have a variance n / (n - 1) too small, and percentiles are as if it were known: the factor is the root
    of the mean of n / (n - 1) over strata times t over z, with as many degrees of freedom as units beyond one a stratum
    (after the expanded percentiles of Hesterberg 2015, The American Statistician 69, section 5.3). 1 for many.
    """
    sizes = Counter(stratum for stratum, _ in set(units))
    spread = np.sqrt(np.mean([n / (n - 1) for n in sizes.values()]))
    share = (1 + CONFIDENCE) / 2
    return float(spread * stats.t.ppf(share, sizes.total() - len(sizes)) / stats.norm.ppf(share))


def _drawings(units: Sequence[tuple[str, ...]], seed: int) -> NDArray[np.float32]:
    """Return how often each unit is in each drawing (R, U), as many of each stratum as it has."""
    distinct = list(dict.fromkeys(units))
    rng = np.random.default_rng(seed)
    drawn = np.empty((RESAMPLES, len(distinct)), dtype=np.float32)
    strata = np.array([stratum for stratum, _ in distinct])
    for stratum in dict.fromkeys(strata.tolist()):
        (mine,) = np.nonzero(strata == stratum)
        drawn[:, mine] = rng.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), size=RESAMPLES)
    return drawn


def _drawn_matrices(
    tests: TestScores, units: Sequence[tuple[str, ...]], drawings: NDArray[np.float32]
) -> Counts:
    """Return the confusion matrix of each drawing (R, K, K)."""
    number = len(tests.classes)
    places = {unit: i for i, unit in enumerate(dict.fromkeys(units))}
    by_unit = np.zeros((len(places), number, number))
    for unit, scene in zip(units, tests.scenes, strict=True):
        by_unit[places[unit]] += scene.confusion
    flat = drawings.astype(np.float64) @ by_unit.reshape(len(places), -1)
    return flat.reshape(-1, number, number)


def _values(counts: Counts, classes: Sequence[str], primary: PrimaryRecipe) -> NDArray[np.float64]:
    """Return the primary score of many confusion matrices (R, K, K), as `metrics.scores` has it of one; NaN for 0/0."""
    hit, truth, guessed = np.diagonal(counts, axis1=1, axis2=2), counts.sum(2), counts.sum(1)
    kind, _, over = primary.metric.partition("_")
    if primary.metric == "accuracy" or over == "micro":
        hits, total = hit.sum(1), truth.sum(1)
        return _ratio(hits, 2 * total - hits) if kind == "iou" else _ratio(hits, total)
    above, below = {
        "precision": (hit, guessed),
        "recall": (hit, truth),
        "f1": (2 * hit, truth + guessed),
        "iou": (hit, truth + guessed - hit),
    }[kind]
    by_class = _ratio(above, below)
    if primary.class_:
        return by_class[:, list(classes).index(primary.class_)]
    defined = ~np.isnan(by_class)
    weights = defined.astype(np.float64) if over == "macro" else np.where(defined, truth, 0.0)
    whole = weights.sum(1) if over == "macro" else truth.sum(1)
    return _ratio((weights * np.where(defined, by_class, 0.0)).sum(1), whole)


def _ratio(above: Counts, below: Counts) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)
    return found


def _ends(values: Sequence[NDArray[np.float64]], factor: float, least: float) -> dict[str, float] | None:
    """Return the interval of the mean over seeds; None where it is undefined, or often is when drawn again.

    Args:
        values: (1 + R,) of each seed; the first is of all units once.
        factor: the distance of the ends from that first value is multiplied by it.
        least: ends are cut there and at 1.
    """
    value, *drawn = np.mean(values, axis=0)
    known = np.array(drawn)[np.isfinite(drawn)]
    if not np.isfinite(value) or len(known) < 0.95 * RESAMPLES:
        return None
    edge = (1 - CONFIDENCE) / 2
    ends = value + factor * (np.quantile(known, [edge, 1 - edge]) - value)
    low, high = np.clip(ends, least, 1.0)
    return {"low": float(low), "high": float(high)}
