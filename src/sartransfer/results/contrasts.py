"""The contrasts that a recipe plans, paired by seed and group, with their intervals and statements."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.evaluate import TestScores
from sartransfer.recipe import PrimaryRecipe, Recipe
from sartransfer.results.corrected import adjusted_here, adjusted_new
from sartransfer.results.pairs import differs, pairs
from sartransfer.results.rows import (
    NOT_KNOWN,
    RULE_LABELS,
    UNSEEN,
    ScoredRun,
    TestSet,
    joined_scores,
    scores_by_group,
    value_of,
)
from sartransfer.statistics import SEEN, Statement, cohen_dz, compare_paired

NO_NEW_EVENTS = {
    NOT_KNOWN: "Nothing says whether training has seen these scenes or their groups, so they say nothing about new"
    " events.",
    RULE_LABELS: "The labels come from a rule: agreement with it says nothing about accuracy on new events.",
}
"""Why a test set of a relation says nothing about new events, where it is not that training has seen the groups."""


def contrasts(
    runs: Sequence[ScoredRun], recipe: Recipe, test_sets: Sequence[TestSet]
) -> list[dict[str, Any]]:
    """Return each planned difference on each test set, and on all unseen events together, with two statements.

    Differences are paired by seed, and by seed and group; a seed that either start lacks is left out. Within
    one test set and fraction the tests of either statement are corrected for the number of planned contrasts (Holm);
    one that cannot be tested (runs missing, score undefined) counts as not significant.
    """
    found = []
    sets = [
        (t.name, [t.name], "" if t.events_unseen else NO_NEW_EVENTS.get(t.relation, SEEN)) for t in test_sets
    ]
    unseen = [t.name for t in test_sets if t.is_joined]
    if len(unseen) > 1:
        sets.append((UNSEEN, unseen, ""))
    index = {(r.initialization, r.fraction, r.seed): r for r in runs}
    for fraction in recipe.fractions:
        for name, members, seen in sets:
            family = []
            for a, b in pairs(recipe):
                both = [s for s in recipe.seeds if (a, fraction, s) in index and (b, fraction, s) in index]
                if both:
                    left = [joined_scores(index[a, fraction, s], members, name) for s in both]
                    right = [joined_scores(index[b, fraction, s], members, name) for s in both]
                    family.append((a, b, both, left, right))
            grouped = [(_by_group(x, recipe, seen), _by_group(y, recipe, seen)) for *_, x, y in family]
            planned = len(pairs(recipe))
            here = adjusted_here([_differences(x, y, recipe.primary) for *_, x, y in family], planned)
            new = adjusted_new([x - y for x, y in grouped], planned)
            for one, groups, *p in zip(family, grouped, here, new, strict=True):
                found.append(_contrast(*one, fraction, name, groups, recipe, seen, *p))
    return found


def _differences(
    left: Sequence[TestScores], right: Sequence[TestScores], primary: PrimaryRecipe
) -> NDArray[np.float64]:
    return np.array([value_of(x, primary) - value_of(y, primary) for x, y in zip(left, right, strict=True)])


def _by_group(side: Sequence[TestScores], recipe: Recipe, seen: str) -> NDArray[np.float64]:
    """Return the score of each run on each group (S, G), groups in the order of `TestScores.groups`."""
    if seen:  # then no statement rests on groups, and each chip may be one of its own
        return np.empty((len(side), 0))
    parts = [scores_by_group(s) for s in side]
    return np.array([[value_of(of[g], recipe.primary) for g in side[0].groups] for of in parts])


def _contrast(
    a: str,
    b: str,
    seeds: Sequence[int],
    left: Sequence[TestScores],
    right: Sequence[TestScores],
    fraction: float,
    test_set: str,
    grouped: tuple[NDArray[np.float64], NDArray[np.float64]],
    recipe: Recipe,
    seen: str,
    p_adjusted: float | None,
    p_adjusted_new: float | None,
) -> dict[str, Any]:
    primary = recipe.primary
    differences = _differences(left, right, primary)
    statements: tuple[Statement, ...] = ()
    if len(seeds) >= 2:
        statements = compare_paired(
            np.array([value_of(s, primary) for s in left]),
            np.array([value_of(s, primary) for s in right]),
            *grouped,
            events_unseen=not seen,
            margin=recipe.margin,
            p_adjusted=p_adjusted,
            p_adjusted_new=p_adjusted_new,
            seen=seen,
        )
    defined = bool(np.isfinite(differences).all())
    undefined = int(np.isnan(grouped[0] - grouped[1]).any(axis=0).sum())
    own = bool(recipe.contrasts) or any(start.training for start in recipe.initializations.values())
    return {
        "a": a,
        "b": b,
        **({"differs": differs(recipe, a, b)} if own else {}),
        "fraction": fraction,
        "test_set": test_set,
        "metric": primary.metric,
        "class": primary.class_,
        "seeds": list(seeds),
        "groups": len(left[0].groups),
        **({"groups_left_out": undefined} if undefined else {}),
        "difference": float(differences.mean()) if defined else None,
        "effect_size": _finite(cohen_dz(differences)) if defined and len(seeds) >= 2 else None,
        "per_seed": [_finite(d) for d in differences],
        "statements": [statement_json(s) for s in statements] or [_one_seed()],
    }


def statement_json(statement: Statement) -> dict[str, Any]:
    """Return a statement as JSON values."""
    interval = statement.interval
    return {
        "scope": statement.scope,
        "mean": None if interval is None else interval.mean,
        "low": None if interval is None else _finite(interval.low),
        "high": None if interval is None else _finite(interval.high),
        "df": None if interval is None else _finite(interval.df),
        "p_value": statement.p_value,
        "p_adjusted": statement.p_adjusted,
        "verdict": statement.verdict,
        "reason": statement.reason,
    }


def _one_seed() -> dict[str, Any]:
    return {
        "scope": "on this test set",
        **dict.fromkeys(("mean", "low", "high", "df", "p_value", "p_adjusted")),
        "verdict": "too few runs to tell",
        "reason": "one seed says nothing of chance; six are the fewest that can be certain at 5 %.",
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
