"""Judge committed comparisons again from their CSV: python results/rejudge.py results/*/ [--write].

Says what today's rules call otherwise than results.json does. With --write, results.json takes the statements and the
verdict that today's rules give; scores, intervals of scores and all else stay.
"""

import argparse
import csv
import json
import lzma
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from sartransfer.recipe import parse_recipe
from sartransfer.results import TestSet, verdict_words
from sartransfer.results.contrasts import NO_NEW_EVENTS, statement_json
from sartransfer.results.corrected import adjusted_here, adjusted_new
from sartransfer.runs import write_json
from sartransfer.statistics import SEEN, compare_paired, fold_means
from sartransfer.wording import group_words

Scores = dict[tuple[str, float, str, str], dict[int, float]]
"""(start, fraction, test set, group or "") -> seed -> primary score; NaN where undefined."""


def read_scores(folder: Path, primary: dict[str, str]) -> Scores:
    """Return the primary scores of whole test sets and of groups, from results.csv or results.csv.xz."""
    plain = folder / "results.csv"
    wanted = f",,{primary['class']},{primary['metric']},"  # no scene; other lines need no parsing
    with (
        plain.open(encoding="utf-8") if plain.is_file() else lzma.open(f"{plain}.xz", "rt", encoding="utf-8")
    ) as file:
        rows = csv.DictReader([next(file), *(line for line in file if wanted in line)])
    found: Scores = {}
    for row in rows:
        if not row["scene"]:
            place = row["initialization"], float(row["fraction"]), row["test_set"], row["group"]
            found.setdefault(place, {})[int(row["seed"])] = float(row["value"] or "nan")
    return found


def rejudge(folder: Path) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Yield each contrast of a folder's results.json, with the statements that today's rules make of its CSV."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    yield from _judged(results, read_scores(folder, results["primary"]))


def _judged(results: dict[str, Any], scores: Scores) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    described = _test_sets(results)
    planned = len({(c["a"], c["b"]) for c in results["contrasts"]})
    families: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for contrast in results["contrasts"]:
        families.setdefault((contrast["fraction"], contrast["test_set"]), []).append(contrast)
    for (fraction, name), family in families.items():
        test_set = described.get(name)
        seen = ""
        if test_set is not None and not test_set.events_unseen:
            seen = NO_NEW_EVENTS.get(test_set.relation, SEEN)
        groups = [] if seen else sorted({g for a, f, t, g in scores if (f, t) == (fraction, name) and g})
        sides = []
        for c in family:
            places = [(c[key], fraction, name) for key in "ab"]
            whole = [_column(scores, (*place, ""), c["seeds"]) for place in places]
            parts = [
                np.array([_column(scores, (*place, g), c["seeds"]) for g in groups])
                .reshape(len(groups), -1)
                .T
                if groups
                else np.empty((len(c["seeds"]), 0))
                for place in places
            ]
            sides.append((*whole, *parts))
        here = adjusted_here([a - b for a, b, _, _ in sides], planned)
        held_out = [fold["held_out"] for fold in results.get("folds", [])]
        number = {group: i for i, of in enumerate(held_out) for group in of}
        folds = [number[g] for g in groups] if groups and any(len(of) > 1 for of in held_out) else None
        crossed = [a - b if folds is None else fold_means(a - b, folds) for _, _, a, b in sides]
        new = adjusted_new(crossed, planned)
        margin = yaml.safe_load(results["recipe"]).get("margin", 0.01)
        for c, side, p, q in zip(family, sides, here, new, strict=True):
            if len(c["seeds"]) < 2:
                yield c, c["statements"]
                continue
            made = compare_paired(
                *side,
                events_unseen=not seen,
                margin=margin,
                p_adjusted=p,
                p_adjusted_new=q,
                seen=seen,
                folds=folds,
            )
            yield c, [statement_json(s) for s in made]


def _column(scores: Scores, place: tuple[str, float, str, str], seeds: list[int]) -> NDArray[np.float64]:
    of = scores.get(place, {})
    return np.array([of.get(seed, math.nan) for seed in seeds])


def _test_sets(results: dict[str, Any]) -> dict[str, TestSet]:
    keys = ("name", "scenes", "groups", "relation")
    return {t["name"]: TestSet(*(t[k] for k in keys), t.get("grouped", True)) for t in results["test_sets"]}


def write_again(folder: Path) -> None:
    """Put today's statements and verdict into a folder's results.json."""
    path = folder / "results.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    groups = results["groups_are"]
    again = _judged(results, read_scores(folder, results["primary"]))
    for contrast, statements in list(again):
        contrast["statements"] = statements
    recipe = parse_recipe(yaml.safe_load(results["recipe"]))
    words = verdict_words(recipe, results["contrasts"], list(_test_sets(results).values()))
    results["verdict"] = [group_words(w, groups) for w in words]
    for contrast in results["contrasts"]:
        for statement in contrast["statements"]:
            statement["reason"] = group_words(statement["reason"], groups)
    write_json(path, results)


def main() -> None:
    """Judge the folders named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--write", action="store_true", help="put today's statements into results.json")
    asked = parser.parse_args()
    for folder in asked.folders:
        if not (folder / "results.json").is_file():
            continue
        for contrast, statements in rejudge(folder):
            for old, new in zip(contrast["statements"], statements, strict=True):
                if old["verdict"] != new["verdict"]:
                    print(
                        f"{folder.name}, {contrast['test_set']}, {contrast['fraction']:.0%}: {contrast['a']} -"
                        f" {contrast['b']}, {new['scope']}: {old['verdict']} -> {new['verdict']}"
                    )
        if asked.write:
            write_again(folder)


if __name__ == "__main__":
    main()
