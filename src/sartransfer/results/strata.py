"""Scores by strata of pixels: one confusion matrix a bin, seed by seed, with intervals over the seeds."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.evaluate import SceneScore, TestScores
from sartransfer.recipe import PrimaryRecipe, Recipe
from sartransfer.results.rows import ScoredRun, value_of
from sartransfer.statistics import t_interval

MOST_CLASSES = 6
"""Of more classes, recall is not given class by class."""


def strata_rows(runs: Sequence[ScoredRun], recipe: Recipe) -> list[dict[str, Any]]:
    """Return the scores of each start on each test set in each bin of each stratum that was counted.

    One row a bin: ``kind``, ``low`` and ``high`` (None: no end), ``pixels`` with a label, ``matrix`` (K, K) summed over
    the seeds, and ``scores``: the primary metric, accuracy, and recall of each class, each with its mean over seeds,
    its t interval (95 %; None for fewer than two seeds) and the value of every seed. A bin without pixels is kept, its
    scores undefined.
    """
    rows = []
    for name in recipe.initializations:
        for fraction in recipe.fractions:
            mine = {r.seed: r for r in runs if (r.initialization, r.fraction) == (name, fraction)}
            for test_set in next(iter(mine.values())).tests if mine else ():
                found = {seed: r.tests[test_set] for seed, r in mine.items()}
                head = {"initialization": name, "fraction": fraction, "test_set": test_set}
                rows += [head | row for row in _bins(found, recipe)]
    return rows


def _bins(found: dict[int, TestScores], recipe: Recipe) -> list[dict[str, Any]]:
    first = next(iter(found.values()))
    rows = []
    for kind, edges in first.bins.items():
        counts = {seed: _summed(scores, kind) for seed, scores in found.items()}
        number = next(iter(counts.values())).shape[0]
        for i in range(number):
            matrices = {seed: counts[seed][i] for seed in counts}
            rows.append(
                {
                    "kind": kind,
                    "low": edges[i],
                    "high": edges[i + 1] if i + 1 < len(edges) else None,
                    "pixels": int(next(iter(matrices.values())).sum()),
                    "matrix": np.sum(list(matrices.values()), axis=0).tolist(),
                    "scores": _scores(matrices, recipe, first.classes),
                }
            )
    return rows


def _summed(scores: TestScores, kind: str) -> NDArray[np.int64]:
    """Add up the scenes of a test set: (B, K, K)."""
    total: NDArray[np.int64] = np.sum([s.strata[kind] for s in scores.scenes], axis=0, dtype=np.int64)
    return total


def _scores(
    matrices: dict[int, NDArray[np.int64]], recipe: Recipe, classes: tuple[str, ...]
) -> list[dict[str, Any]]:
    wanted: list[tuple[str, str]] = [(recipe.primary.metric, recipe.primary.class_), ("accuracy", "")]
    if len(classes) <= MOST_CLASSES:
        wanted += [("recall", name) for name in classes]
    rows = []
    for metric, class_ in dict.fromkeys(wanted):
        primary = PrimaryRecipe.model_validate({"metric": metric, "class": class_})
        values = [
            _value(matrices[seed], primary, classes) if seed in matrices else math.nan
            for seed in recipe.seeds
        ]
        known = np.array([v for v in values if not math.isnan(v)])
        interval = t_interval(known) if len(known) > 1 else None
        rows.append(
            {
                "metric": metric,
                "class": class_,
                "mean": float(known.mean()) if len(known) else None,
                "low": None if interval is None else interval.low,
                "high": None if interval is None else interval.high,
                "values": [None if math.isnan(v) else v for v in values],
            }
        )
    return rows


def _value(matrix: NDArray[np.int64], metric: PrimaryRecipe, classes: tuple[str, ...]) -> float:
    return value_of(TestScores("", classes, (SceneScore("", "", matrix),)), metric)
