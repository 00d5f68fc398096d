"""The contrasts that a recipe plans, paired by seed and group, with their intervals and statements."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError
from sartransfer.evaluate import TestScores
from sartransfer.recipe import PrimaryRecipe, Recipe
from sartransfer.results.corrected import adjusted_here, adjusted_new
from sartransfer.results.pairs import differs, pairs
from sartransfer.results.rows import ScoredRun, TestSet, joined_scores, scores_by_group, value_of
from sartransfer.statistics import SEEN, Statement, cohen_dz, compare_paired, fold_means
from sartransfer.wording import NOT_KNOWN, OTHER_DATA, RULE_LABELS, UNSEEN_EVENTS

NO_NEW_EVENTS = {
    NOT_KNOWN: "Nothing says whether training has seen these scenes or their groups, so they say nothing about new"
    " events.",
    RULE_LABELS: "The labels come from a rule: agreement with it says nothing about accuracy on new events.",
    OTHER_DATA: "Its scenes name no group (the column `group`), so that nothing tells which are of one event.",
}
"""Why a test set of a relation says nothing about new events, where it is not that training has seen the groups."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A planned contrast on one test set and fraction: the scores of the runs of both starts, paired by seed."""

    a: str
    b: str
    fraction: float
    test_set: str
    seeds: tuple[int, ...]
    left: tuple[TestScores, ...]
    """Of a, one a seed."""
    right: tuple[TestScores, ...]
    whole: tuple[NDArray[np.float64], NDArray[np.float64]]
    """Primary score of a and of b on the whole test set, (S,) each."""
    grouped: tuple[NDArray[np.float64], NDArray[np.float64]]
    """And on each group, (S, G) each; (S, 0) where no statement rests on groups."""
    folds: NDArray[np.int64] | None
    """(G,): which training held out each group, where one held out several; None elsewhere."""
    seen: str
    """Why nothing can be said of new events; empty where something can."""

    @property
    def differences(self) -> NDArray[np.float64]:
        """The differences of the whole test set, (S,)."""
        return self.whole[0] - self.whole[1]

    @property
    def crossed(self) -> NDArray[np.float64]:
        """The differences that are crossed with seeds: of each group, or of each fold's groups together."""
        found = self.grouped[0] - self.grouped[1]
        return found if self.folds is None else fold_means(found, self.folds)


def contrasts(
    runs: Sequence[ScoredRun], recipe: Recipe, test_sets: Sequence[TestSet]
) -> list[dict[str, Any]]:
    """Return each planned difference on each test set, and on all unseen events together, with two statements.

    Differences are paired by seed, and by seed and group; a seed that either start lacks is left out. Within
    one test set and fraction the tests of either statement are corrected for the number of planned contrasts (Holm);
    one that cannot be tested (runs missing, score undefined) counts as not significant. Of a test set that several
    trainings share, with several groups each (`TestSet.held_out`), seeds are crossed with those trainings' means.

    Raises:
        InputError: the runs of one contrast were scored on different groups.
    """
    found = []
    planned = len(pairs(recipe))
    for fraction in recipe.fractions:
        for family in _families(runs, recipe, test_sets, fraction):
            here = adjusted_here([pair.differences for pair in family], planned)
            new = adjusted_new([pair.crossed for pair in family], planned)
            found += [_contrast(pair, recipe, p, q) for pair, p, q in zip(family, here, new, strict=True)]
    return found


def _families(
    runs: Sequence[ScoredRun], recipe: Recipe, test_sets: Sequence[TestSet], fraction: float
) -> Iterator[list[Pair]]:
    """Yield, test set by test set, the contrasts of which there are runs."""
    sets = [(t.name, [t.name], _why_not(t), t.held_out) for t in test_sets]
    unseen = [t.name for t in test_sets if t.is_joined]
    if len(unseen) > 1:
        sets.append((UNSEEN_EVENTS, unseen, "", ()))
    index = {(r.initialization, r.fraction, r.seed): r for r in runs}
    for name, members, seen, held_out in sets:
        family = []
        for a, b in pairs(recipe):
            both = [s for s in recipe.seeds if (a, fraction, s) in index and (b, fraction, s) in index]
            if not both:
                continue
            left = tuple(joined_scores(index[a, fraction, s], members, name) for s in both)
            right = tuple(joined_scores(index[b, fraction, s], members, name) for s in both)
            if seen:  # then no statement rests on groups, and each chip may be one of its own
                grouped = (np.empty((len(both), 0)),) * 2
            else:
                _check_groups(a, b, left, right)
                grouped = (_by_group(left, recipe.primary), _by_group(right, recipe.primary))
            whole = (_whole(left, recipe.primary), _whole(right, recipe.primary))
            folds = None if seen else _folds(left[0].groups, held_out)
            family.append(Pair(a, b, fraction, name, tuple(both), left, right, whole, grouped, folds, seen))
        yield family


def _why_not(test_set: TestSet) -> str:
    return "" if test_set.events_unseen else NO_NEW_EVENTS.get(test_set.relation, SEEN)


def _check_groups(a: str, b: str, left: Sequence[TestScores], right: Sequence[TestScores]) -> None:
    """Refuse sides that cannot be paired group by group: their groups are not the same ones."""
    for scores in (*left, *right):
        if apart := sorted(set(scores.groups) ^ set(left[0].groups)):
            raise InputError(
                f"the runs of {a} and {b} were scored on different groups of test set {scores.test_set!r}: "
                f"{', '.join(apart[:3])}{', ...' if len(apart) > 3 else ''} not in all of them. Score them again on "
                "one catalog (delete scores/ in their run folders and run the comparison)."
            )


def _whole(side: Sequence[TestScores], primary: PrimaryRecipe) -> NDArray[np.float64]:
    return np.array([value_of(scores, primary) for scores in side])


def _by_group(side: Sequence[TestScores], primary: PrimaryRecipe) -> NDArray[np.float64]:
    """Return the score of each run on each group (S, G), groups in the order of `TestScores.groups`."""
    parts = [scores_by_group(s) for s in side]
    return np.array([[value_of(of[g], primary) for g in side[0].groups] for of in parts])


def _folds(groups: Sequence[str], held_out: Sequence[Sequence[str]]) -> NDArray[np.int64] | None:
    """Return the number of the training that held out each group; None where none held out several."""
    if all(len(of) < 2 for of in held_out):
        return None
    place = {group: number for number, of in enumerate(held_out) for group in of}
    return np.array([place[g] for g in groups], dtype=np.int64)


def _contrast(
    pair: Pair, recipe: Recipe, p_adjusted: float | None, p_adjusted_new: float | None
) -> dict[str, Any]:
    primary = recipe.primary
    differences = pair.differences
    statements: tuple[Statement, ...] = ()
    if len(pair.seeds) >= 2:
        statements = compare_paired(
            *pair.whole,
            *pair.grouped,
            events_unseen=not pair.seen,
            margin=recipe.margin,
            p_adjusted=p_adjusted,
            p_adjusted_new=p_adjusted_new,
            seen=pair.seen,
            folds=pair.folds,
        )
    defined = bool(np.isfinite(differences).all())
    own = bool(recipe.contrasts) or any(start.training for start in recipe.initializations.values())
    return {
        "a": pair.a,
        "b": pair.b,
        **({"differs": differs(recipe, pair.a, pair.b)} if own else {}),
        "fraction": pair.fraction,
        "test_set": pair.test_set,
        "metric": primary.metric,
        "class": primary.class_,
        "seeds": list(pair.seeds),
        "groups": len(pair.left[0].groups),
        **_of_groups(pair, primary),
        "difference": float(differences.mean()) if defined else None,
        "effect_size": _finite(cohen_dz(differences)) if defined and len(pair.seeds) >= 2 else None,
        "per_seed": [_finite(d) for d in differences],
        "statements": [statement_json(s) for s in statements] or [_one_seed()],
    }


def _of_groups(pair: Pair, primary: PrimaryRecipe) -> dict[str, int]:
    """Count what must be known of the groups, where it is not 0: left out, of one start only, lacking classes."""
    a, b = pair.grouped
    counts = {
        "groups_left_out": int(np.isnan(a - b).any(axis=0).sum()),
        "groups_of_one_start": int((np.isnan(a) != np.isnan(b)).any(axis=0).sum()),
        "folds": 0 if pair.folds is None else len(np.unique(pair.folds)),
    }
    if primary.metric.endswith("_macro") and not pair.seen:
        parts = scores_by_group(pair.left[0]).values()
        counts["groups_lacking_classes"] = sum(bool((p.confusion.sum(axis=1) == 0).any()) for p in parts)
    return {name: count for name, count in counts.items() if count}


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
