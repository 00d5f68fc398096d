"""The contrasts that a recipe plans, paired by seed and group, with their intervals and statements."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.evaluate import TestScores
from sartransfer.recipe import PrimaryRecipe, Recipe
from sartransfer.results.pairs import differs, pairs
from sartransfer.results.rows import UNSEEN, ScoredRun, TestSet, joined_scores, scores_by_group, value_of
from sartransfer.statistics import Statement, cohen_dz, compare_paired, holm, t_test_p


def contrasts(
    runs: Sequence[ScoredRun], recipe: Recipe, test_sets: Sequence[TestSet]
) -> list[dict[str, Any]]:
    """Return each planned difference on each test set, and on all unseen events together, with two statements.

    Differences are paired by seed, and by seed and group; a seed that either start lacks is left out. Within
    one test set and fraction the t tests are corrected for the number of planned contrasts (Holm); one that
    cannot be tested (runs missing, score undefined) counts as not significant.
    """
    found = []
    sets = [(t.name, [t.name], t.events_unseen) for t in test_sets]
    unseen = [t.name for t in test_sets if t.is_joined]
    if len(unseen) > 1:
        sets.append((UNSEEN, unseen, True))
    index = {(r.initialization, r.fraction, r.seed): r for r in runs}
    for fraction in recipe.fractions:
        for name, members, events_unseen in sets:
            family = []
            for a, b in pairs(recipe):
                both = [s for s in recipe.seeds if (a, fraction, s) in index and (b, fraction, s) in index]
                if both:
                    left = [joined_scores(index[a, fraction, s], members, name) for s in both]
                    right = [joined_scores(index[b, fraction, s], members, name) for s in both]
                    family.append((a, b, both, left, right))
            tested = [_differences(left, right, recipe.primary) for *_, left, right in family]
            adjusted = _adjusted(tested, len(pairs(recipe)))
            for (a, b, both, left, right), p in zip(family, adjusted, strict=True):
                found.append(_contrast(a, b, fraction, name, both, left, right, recipe, events_unseen, p))
    return found


def _differences(
    left: Sequence[TestScores], right: Sequence[TestScores], primary: PrimaryRecipe
) -> NDArray[np.float64]:
    return np.array([value_of(x, primary) - value_of(y, primary) for x, y in zip(left, right, strict=True)])


def _adjusted(family: Sequence[NDArray[np.float64]], planned: int) -> list[float | None]:
    """Holm over the `planned` contrasts of one family; None where there is only one, or nothing to test."""
    testable = [len(d) >= 2 and bool(np.isfinite(d).all()) for d in family]
    if planned < 2:
        return [None] * len(family)
    p = [t_test_p(d) if able else 1.0 for d, able in zip(family, testable, strict=True)]
    corrected = holm([*p, *[1.0] * (planned - len(p))])
    return [float(q) if able else None for q, able in zip(corrected, testable, strict=False)]


def _contrast(
    a: str,
    b: str,
    fraction: float,
    test_set: str,
    seeds: Sequence[int],
    left: Sequence[TestScores],
    right: Sequence[TestScores],
    recipe: Recipe,
    events_unseen: bool,
    p_adjusted: float | None,
) -> dict[str, Any]:
    primary = recipe.primary
    differences = _differences(left, right, primary)
    groups = left[0].groups

    def by_group(side: Sequence[TestScores]) -> NDArray[np.float64]:
        if not events_unseen:  # then no statement rests on groups, and each chip may be one of its own
            return np.empty((len(side), 0))
        parts = [scores_by_group(s) for s in side]
        return np.array([[value_of(of[g], primary) for g in groups] for of in parts])

    statements: tuple[Statement, ...] = ()
    if len(seeds) >= 2:
        statements = compare_paired(
            np.array([value_of(s, primary) for s in left]),
            np.array([value_of(s, primary) for s in right]),
            by_group(left),
            by_group(right),
            events_unseen=events_unseen,
            margin=recipe.margin,
            p_adjusted=p_adjusted,
        )
    defined = bool(np.isfinite(differences).all())
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
        "groups": len(groups),
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
