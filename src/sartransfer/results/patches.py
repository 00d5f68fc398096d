"""What a comparison of classified patches has besides scores: pairs patch by patch, collections, counts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.catalog import Catalog
from sartransfer.ensemble import join_scores
from sartransfer.errors import InputError
from sartransfer.evaluate import TestScores
from sartransfer.metrics import mcnemar
from sartransfer.recipe import Recipe
from sartransfer.results.pairs import pairs
from sartransfer.results.rows import ScoredRun, TestSet, is_own_group, joined_scores, scores_by_group
from sartransfer.results.trainings import describe_trainings, training_notes
from sartransfer.statistics import holm, t_interval
from sartransfer.wording import UNSEEN_EVENTS, p_words

SIGNIFICANT = 0.05


def patches_json(
    runs: Sequence[ScoredRun], recipe: Recipe, test_sets: Sequence[TestSet], catalog: Catalog
) -> dict[str, Any]:
    """Return the members ``mcnemar`` and ``patches`` of the results; nothing for segmentation."""
    if recipe.task != "classify":
        return {}
    tests = mcnemar_rows(runs, recipe, test_sets)
    return {
        "mcnemar": tests,
        "patches": {
            "counts": count_patches(catalog),
            "trainings": describe_trainings(recipe),
            "notes": training_notes(recipe),
            "mcnemar": mcnemar_statements(tests),
            "collections": collection_rows(runs, recipe),
        },
    }


def mcnemar_rows(
    runs: Sequence[ScoredRun], recipe: Recipe, test_sets: Sequence[TestSet]
) -> list[dict[str, Any]]:
    """Return McNemar's exact test, patch by patch, of each planned contrast on each test set.

    One row a seed that both have, with p adjusted by Holm over those seeds; then, for two seeds or more, one with
    ``seed`` None for the majority votes of the seeds. ``only_a``: patches that a alone had right. Where several
    test sets hold unseen events, they follow together under `UNSEEN_EVENTS`.
    """
    index = {(r.initialization, r.fraction, r.seed): r for r in runs}
    sets = [(t.name, [t.name]) for t in test_sets]
    unseen = [t.name for t in test_sets if t.is_joined]
    if len(unseen) > 1:
        sets.append((UNSEEN_EVENTS, unseen))
    found = []
    for fraction in recipe.fractions:
        for name, members in sets:
            for a, b in pairs(recipe):
                both = [s for s in recipe.seeds if (a, fraction, s) in index and (b, fraction, s) in index]
                sides = [
                    [joined_scores(index[start, fraction, s], members, name) for s in both]
                    for start in (a, b)
                ]
                if not both or any(s.logits is None for side in sides for one in side for s in one.scenes):
                    continue
                head = {"a": a, "b": b, "fraction": fraction, "test_set": name}
                found += [head | row for row in _mcnemar(sides[0], sides[1], both)]
    return found


def _mcnemar(
    left: Sequence[TestScores], right: Sequence[TestScores], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    rows = [{"seed": s, **_test(_right(x), _right(y))} for s, x, y in zip(seeds, left, right, strict=True)]
    adjusted = holm([row["p_value"] for row in rows])
    rows = [row | {"p_adjusted": float(p)} for row, p in zip(rows, adjusted, strict=True)]
    if len(seeds) > 1:
        votes = [_voted_right(side) for side in (left, right)]
        rows.append({"seed": None, **_test(*votes), "p_adjusted": None, "members": len(seeds)})
    return rows


def _test(a: Mapping[str, bool], b: Mapping[str, bool]) -> dict[str, Any]:
    if a.keys() != b.keys():
        raise InputError(
            f"two runs were scored on different patches ({len(a)} and {len(b)}): they cannot be compared patch by"
            " patch. Delete their `scores` folders and run the comparison again."
        )
    first = np.array([a[i] for i in a], dtype=np.bool_)
    second = np.array([b[i] for i in a], dtype=np.bool_)
    return {
        "patches": len(a),
        "only_a": int(np.count_nonzero(first & ~second)),
        "only_b": int(np.count_nonzero(second & ~first)),
        "p_value": mcnemar(first, second),
    }


def _right(found: TestScores) -> dict[str, bool]:
    """Say of each patch, by its id, whether the highest logit is its class."""
    return {s.id: s.logits is not None and int(s.logits.argmax()) == s.label for s in found.scenes}


def _voted_right(members: Sequence[TestScores]) -> dict[str, bool]:
    joined = join_scores(members)
    return dict(zip(joined.ids, (joined.prediction == joined.labels).tolist(), strict=True))


def mcnemar_statements(tests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Join the rows of `mcnemar_rows` to one statement a contrast, with its words.

    ``median_p`` is over the seeds; ``significant`` counts the seeds whose p is under `SIGNIFICANT` after Holm over
    the seeds, ``for_a`` those of them where a is the better one; ``only_a`` and ``only_b`` are medians.
    """
    cells: dict[tuple[str, str, float, str], list[Mapping[str, Any]]] = {}
    for row in tests:
        cells.setdefault((row["a"], row["b"], row["fraction"], row["test_set"]), []).append(row)
    found = []
    for (a, b, fraction, test_set), rows in cells.items():
        seeds = [r for r in rows if r["seed"] is not None]
        certain = [r for r in seeds if r["p_adjusted"] < SIGNIFICANT]
        joined = {
            "a": a,
            "b": b,
            "fraction": fraction,
            "test_set": test_set,
            "patches": seeds[0]["patches"],
            "seeds": len(seeds),
            "median_p": float(np.median([r["p_value"] for r in seeds])),
            "significant": len(certain),
            "for_a": sum(r["only_a"] > r["only_b"] for r in certain),
            "only_a": float(np.median([r["only_a"] for r in seeds])),
            "only_b": float(np.median([r["only_b"] for r in seeds])),
            "majority": next((dict(r) for r in rows if r["seed"] is None), None),
        }
        found.append(joined | {"words": _words(joined)})
    return found


def _words(joined: Mapping[str, Any]) -> str:
    a, b, n, significant = joined["a"], joined["b"], joined["seeds"], joined["significant"]
    text = (
        f"Of {joined['patches']} patches {a} alone has {joined['only_a']:g} right and {b} alone {joined['only_b']:g}"
        f" (median over {n} seed{'s' if n > 1 else ''}, median p {_p(joined['median_p'])}). "
    )
    corrected = " after Holm over the seeds" if n > 1 else ""
    if not significant:
        text += f"No seed tells them apart at p < {SIGNIFICANT:g}{corrected}."
    else:
        sides = [(joined["for_a"], a), (significant - joined["for_a"], b)]
        favour = " and ".join(f"{count} for {name}" for count, name in sides if count)
        text += f"{significant} of {n} seeds tell them apart at p < {SIGNIFICANT:g}{corrected}: {favour}."
    vote = joined["majority"]
    if vote:
        text += (
            f" The majority vote of the {vote['members']} seeds: {vote['only_a']} against {vote['only_b']},"
            f" p {_p(vote['p_value'])}."
        )
    return text


def _p(value: float) -> str:
    words = p_words(value)
    return words if words.startswith("<") else f"= {words}"


def collection_rows(runs: Sequence[ScoredRun], recipe: Recipe) -> list[dict[str, Any]]:
    """Return the accuracy on each group of each test set: mean and t interval (95 %) over the seeds.

    Groups that are one chip each are left out, and so is a test set of a single group.
    """
    values: dict[tuple[str, float, str, str], dict[int, float]] = {}
    sizes: dict[tuple[str, str], int] = {}
    for run in runs:
        for test_set, found in run.tests.items():
            parts = {g: p for g, p in scores_by_group(found).items() if not is_own_group(g, p)}
            if len(parts) < 2:
                continue
            for group, part in parts.items():
                key = (run.initialization, run.fraction, test_set, group)
                sizes[test_set, group] = len(part.scenes)
                values.setdefault(key, {})[run.seed] = float(np.mean(list(_right(part).values())))
    rows = []
    for (name, fraction, test_set, group), by_seed in values.items():
        known: NDArray[np.float64] = np.array([by_seed[s] for s in recipe.seeds if s in by_seed])
        interval = t_interval(known) if len(known) > 1 else None
        rows.append(
            {
                "initialization": name,
                "fraction": fraction,
                "test_set": test_set,
                "group": group,
                "patches": sizes[test_set, group],
                "mean": float(known.mean()),
                "low": None if interval is None else interval.low,
                "high": None if interval is None else interval.high,
                "values": [by_seed.get(s) for s in recipe.seeds],
            }
        )
    return rows


def count_patches(catalog: Catalog) -> list[dict[str, Any]]:
    """Return, for each split, its patches by class (in the order of the classes) and its collections.

    ``collections`` counts the groups, None where a patch has none or each is its own.
    """
    rows = []
    for split in catalog.splits:
        entries = catalog.in_split(split)
        counts = Counter(e.category for e in entries)
        groups = {e.group for e in entries}
        named = None not in groups and "" not in groups and groups != {e.id for e in entries}
        rows.append(
            {
                "split": split,
                "patches": len(entries),
                "collections": len(groups) if named else None,
                "classes": [counts[name] for name in catalog.classes],
            }
        )
    return rows
