"""From the kept logits of a comparison's runs to its ensembles and to how far probabilities can be believed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.calibration import fit_temperature, score_calibration
from sartransfer.ensemble import EnsembleScores, join_scores
from sartransfer.evaluate import TestScores
from sartransfer.metrics import Reliability, reliability, softmax
from sartransfer.recipe import Recipe
from sartransfer.results import ScoredRun

RunKey = tuple[str, float, int]
"""(initialization, fraction, seed)"""


def ensembles_json(runs: Sequence[ScoredRun], recipe: Recipe) -> list[dict[str, Any]]:
    """Return the ensemble of the seeds of every initialization and fraction on every test set, as JSON values.

    Empty for segmentation. The accuracy's interval is exact over patches, were each drawn on its own.
    """
    return [
        {
            "initialization": name,
            "fraction": fraction,
            "test_set": test_set,
            "bagged": recipe.training_of(name).bootstrap,
            **ensemble_json(join_scores([r.tests[test_set] for r in members])),
        }
        for name, fraction, test_set, members in _cells(runs, recipe)
    ]


def ensemble_json(found: EnsembleScores) -> dict[str, Any]:
    """Return the scores of one ensemble as JSON values; None for what is undefined."""
    low, high = found.interval()
    values = found.scores
    return {
        "members": found.members,
        "patches": len(found.ids),
        "accuracy": _finite(values["accuracy"]),
        "low": _finite(low),
        "high": _finite(high),
        "f1_macro": _finite(values["f1_macro"]),
        "f1_weighted": _finite(values["f1_weighted"]),
        "top2": None if found.top2 is None else _finite(found.top2),
        "mean_entropy": _mean(found.entropy),
        "spread": _mean(found.spread),
        "member_accuracies": [_finite(a) for a in found.member_accuracies],
    }


def calibration_json(
    runs: Sequence[ScoredRun], validations: Mapping[RunKey, TestScores | None], recipe: Recipe
) -> list[dict[str, Any]]:
    """Return how far the probabilities of every initialization and fraction fit each test set, as JSON values.

    Each run's temperature is fitted on its own validation logits (`validations`). ``ece``, ``nll`` and ``brier``
    are means over the runs, before and after division by it; a run without a temperature (no validation patch
    misclassified, see `calibration.fit_temperature`) counts with 1. ``bins`` are pooled over the runs. The
    values after are None where no run has a temperature. Empty for segmentation.
    """
    temperatures = {key: _temperature(found) for key, found in validations.items()}
    found = []
    for name, fraction, test_set, members in _cells(runs, recipe):
        fitted = [temperatures.get((r.initialization, r.fraction, r.seed), math.nan) for r in members]
        known = [t for t in fitted if math.isfinite(t)]
        tests = [_arrays(r.tests[test_set]) for r in members]
        after = [t if math.isfinite(t) else 1.0 for t in fitted]
        found.append(
            {
                "initialization": name,
                "fraction": fraction,
                "test_set": test_set,
                "runs": len(members),
                "temperature": float(np.mean(known)) if known else None,
                "temperatures": [_finite(t) for t in fitted],
                **_scores(tests, [1.0] * len(tests), "before"),
                **(_scores(tests, after, "after") if known else _NO_AFTER),
            }
        )
    return found


def _cells(runs: Sequence[ScoredRun], recipe: Recipe) -> Iterator[tuple[str, float, str, list[ScoredRun]]]:
    """Yield (initialization, fraction, test set, its runs) wherever chips were scored."""
    if recipe.task != "classify":
        return
    for name in recipe.initializations:
        for fraction in recipe.fractions:
            members = [r for r in runs if (r.initialization, r.fraction) == (name, fraction)]
            for test_set in members[0].tests if members else ():
                chips = [s for r in members for s in r.tests[test_set].scenes]
                if chips and all(s.logits is not None for s in chips):
                    yield name, fraction, test_set, members


def _temperature(found: TestScores | None) -> float:
    if found is None or any(s.logits is None for s in found.scenes):
        return math.nan
    return fit_temperature(*_arrays(found))


def _arrays(found: TestScores) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    logits = np.array([s.logits for s in found.scenes], dtype=np.float64).reshape(-1, len(found.classes))
    return logits, np.array([s.label for s in found.scenes], dtype=np.int64)


def _scores(
    tests: Sequence[tuple[NDArray[np.float64], NDArray[np.int64]]], temperatures: Sequence[float], when: str
) -> dict[str, Any]:
    each = [score_calibration(*test, t) for test, t in zip(tests, temperatures, strict=True)]
    pooled = np.concatenate([softmax(logits / t) for (logits, _), t in zip(tests, temperatures, strict=True)])
    diagram = reliability(pooled, np.concatenate([labels for _, labels in tests]))
    return {
        **{f"{k}_{when}": _mean([getattr(e, k) for e in each]) for k in ("ece", "nll", "brier")},
        f"bins_{when}": _bins_json(diagram),
    }


_NO_AFTER = dict.fromkeys(f"{key}_after" for key in ("ece", "nll", "brier", "bins"))


def _bins_json(diagram: Reliability) -> list[dict[str, Any]]:
    """Return the bins that hold samples."""
    edges = zip(diagram.edges[:-1], diagram.edges[1:], strict=True)
    return [
        {
            "low": float(low),
            "high": float(high),
            "count": int(count),
            "confidence": float(confidence),
            "accuracy": float(accuracy),
        }
        for (low, high), count, confidence, accuracy in zip(
            edges, diagram.count, diagram.confidence, diagram.accuracy, strict=True
        )
        if count
    ]


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float | None:
    return _finite(float(np.mean(values))) if len(values) else None


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
