"""The tables and plots of a comparison that labels pixels: all scores on one page, and scores by strata."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from sartransfer.wording import metric_words, number_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = dict[str, Any]
View = dict[str, Any]
Draw = Callable[["Figure | None", str], View | None]
"""Makes of a plot and its words what the page shows."""

SCORES = (
    ("f1_weighted", "F1 (weighted)"),
    ("f1_macro", "F1 (macro)"),
    ("iou_micro", "IoU (micro)"),
    ("iou_macro", "IoU (macro)"),
    ("iou_weighted", "IoU (weighted)"),
)
MOST_CLASSES = 4
"""Of more classes, their recall is left to the other tables."""


def scene_view(results: Results, draw: Draw) -> View | None:
    """Return what the report shows of labelled scenes, or None for a comparison of patches."""
    if results["task"] != "segment" or not results["table"]:
        return None
    largest = max(results["fractions"])
    return {
        "table": _table(results, largest),
        "strata": _strata(results, largest, draw),
        "halves": halves_words(results["recipe"]),
    }


def halves_words(recipe: str) -> str | None:
    """Return how scenes were cut for validation, as the recipe (YAML) says, or None.

    Such a scene counts in two splits, which would look like a leak if nothing were said.
    """
    try:
        halves = yaml.safe_load(recipe)["data"]["validation"]["halves"]
        which = [*(f"month {m}" for m in halves["months"]), *halves["scenes"]]
        side, buffer = halves["side"].upper(), float(halves["buffer_m"])
    except (yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError):
        return None
    return f"Scenes cut in two ({', '.join(which)}): their {side} halves validate, the others train" + (
        f", {buffer:g} m from the cut." if buffer else ". They are counted in both splits."
    )


def scene_figures(results: Results, fraction: float) -> "dict[str, Figure | None]":
    """Return the plots that only scenes have, by the name of their file."""
    from sartransfer import figures

    kinds = dict.fromkeys(r["kind"] for r in results.get("strata", []))
    return {
        f"by-{kind.rpartition('_')[0].replace('_', '-')}": figures.draw_strata(results, fraction, kind)
        for kind in kinds
    }


def _table(results: Results, fraction: float) -> View:
    """Return all scores at once: one row a test set and start, the mean of the runs with its interval."""
    from sartransfer import figures

    rows = [r for r in results["table"] if r["fraction"] == fraction]
    cells = {(r["initialization"], r["test_set"], r["metric"], r["class"]): r for r in rows}
    columns = [(metric, "", title) for metric, title in SCORES if any(r["metric"] == metric for r in rows)]
    if len(results["classes"]) <= MOST_CLASSES:
        columns += [("recall", c, f"Recall of {c}") for c in reversed(results["classes"])
                    if any((r["metric"], r["class"]) == ("recall", c) for r in rows)]  # fmt: skip
    return {
        "titles": [title for *_, title in columns],
        "rows": [
            {
                "test_set": test_set,
                "name": name,
                "seeds": max(r["n_seeds"] for key, r in cells.items() if key[:2] == (name, test_set)),
                "cells": [_cell(cells.get((name, test_set, metric, c))) for metric, c, _ in columns],
            }
            for test_set in figures.ordered_test_sets(rows, results)
            for name in results["initializations"]
            if any(key[:2] == (name, test_set) for key in cells)
        ],
    }


def _strata(results: Results, fraction: float, draw: Draw) -> list[View]:
    """Return, for each kind of stratum, its plot and one table a test set."""
    from sartransfer import figures

    found = []
    rows = [r for r in results.get("strata", []) if r["fraction"] == fraction]
    for kind in dict.fromkeys(r["kind"] for r in rows):
        mine = [r for r in rows if r["kind"] == kind]
        words = figures.STRATA[kind]
        found.append(
            {
                "title": f"By {words}",
                "image": draw(
                    figures.draw_strata(results, fraction, kind),
                    f"Scores by {words}, with 95 % intervals over seeds; the numbers are in the tables.",
                ),
                "tables": [
                    _stratum_table(results, [r for r in mine if r["test_set"] == s], s, kind)
                    for s in figures.ordered_test_sets(mine, results)
                ],
            }
        )
    return found


def _stratum_table(results: Results, rows: Sequence[Mapping[str, Any]], test_set: str, kind: str) -> View:
    from sartransfer import figures

    names = [n for n in results["initializations"] if any(r["initialization"] == n for r in rows)]
    shown = [(s["metric"], s["class"]) for s in rows[0]["scores"]]
    cells = {(r["low"], r["initialization"], s["metric"], s["class"]): s for r in rows for s in r["scores"]}
    pixels = {r["low"]: r["pixels"] for r in rows}
    return {
        "test_set": test_set,
        "names": names,
        "titles": [metric_words(metric, class_) for metric, class_ in shown],
        "rows": [
            {
                "bin": words,
                "pixels": f"{pixels[low]:,}",
                "cells": [_cell(cells[low, name, *score]) for score in shown for name in names],
            }
            for low, words in zip(pixels, figures.bin_words(rows, kind), strict=True)
        ],
    }


def _cell(row: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return the words of a mean and of its interval, cut at 0 and 1, beyond which no score lies."""
    if row is None:
        return "–", ""
    if row["mean"] is None:
        return "undefined", ""
    if row["low"] is None or row["high"] is None:
        return number_words(row["mean"]), "no interval"
    low, high = (number_words(min(1.0, max(0.0, row[end]))) for end in ("low", "high"))
    return number_words(row["mean"]), f"[{low}, {high}]"
