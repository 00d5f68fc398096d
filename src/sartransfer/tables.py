"""The tables and plots of a comparison of patches, in the words and the order that the report shows."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sartransfer.wording import duration_words, percent_words, range_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = dict[str, Any]
View = dict[str, Any]
Draw = Callable[["Figure | None", str], View | None]
"""Makes of a plot and its words what the page shows."""

SCORES = (
    ("f1_macro", "F1 (macro)"),
    ("f1_weighted", "F1 (weighted)"),
    ("accuracy", "top-1"),
    ("top2", "top-2"),
)
TRAININGS = (
    ("augmentation", "Augmentation"),
    ("input", "Input"),
    ("loss", "Loss"),
    ("class_weights", "Class weights"),
    ("sampler", "Sampling"),
    ("learning_rate", "Learning rate"),
    ("stop", "Length"),
    ("prediction", "Prediction"),
)


def patch_view(results: Results, draw: Draw) -> View | None:
    """Return what the report shows of classified patches, or None for a comparison that labels pixels."""
    from sartransfer import figures

    if results["task"] != "classify":
        return None
    kept = results.get("patches", {})
    fractions = sorted(results["fractions"], reverse=True)
    other = results["primary"]["metric"] != "accuracy"
    return {
        "trainings": _trainings(kept.get("trainings", {})),
        "counts": _counts(results, kept.get("counts", [])),
        "score_titles": [title for _, title in SCORES],
        "notes": kept.get("notes", []),
        "shares": [_share(results, fraction, draw) for fraction in fractions],
        "efficiency": draw(
            figures.draw_label_efficiency(results, "accuracy") if other else None,
            "Accuracy against the share of the training labels.",
        ),
        "verdicts": _verdicts(results, fractions) if len(fractions) > 1 else None,
    }


def patch_figures(results: Results, fraction: float) -> "dict[str, Figure | None]":
    """Return the plots that only patches have, by the name of their file."""
    from sartransfer import figures

    if results["task"] != "classify":
        return {}
    return {
        "until-the-stop": figures.draw_stopping(results, fraction),
        **{
            f"collections-{name}": figures.draw_collections(results, fraction, name)
            for name in _collection_sets(results, fraction)
        },
    }


def _share(results: Results, fraction: float, draw: Draw) -> View:
    """Return the tables and plots of one share of the labels."""
    from sartransfer import figures

    rows = [r for r in results["table"] if r["fraction"] == fraction and r["class"] == ""]
    sets = figures.ordered_test_sets(rows, results)
    return {
        "fraction": figures.fraction_words(fraction),
        "test_sets": sets,
        "scores": _scores(results, rows, sets),
        "epochs": epoch_rows(results, fraction),
        "final": _final(results, rows, fraction, sets),
        "stopping": draw(
            figures.draw_stopping(results, fraction),
            "Validation by epoch until the stop, with final accuracy and epochs; the numbers are in the tables.",
        ),
        "collections": [
            _collections(results, fraction, name, draw) for name in _collection_sets(results, fraction)
        ],
        "mcnemar": [
            row | {"tests": _tests(results, row)}
            for row in results.get("patches", {}).get("mcnemar", [])
            if row["fraction"] == fraction
        ],
    }


def _trainings(trainings: Mapping[str, Mapping[str, str]]) -> View | None:
    """Return what entries share in their training, said once, and a table of what tells them apart."""
    if not trainings:
        return None
    words = {key: list(dict.fromkeys(t[key] for t in trainings.values())) for key, _ in TRAININGS}
    apart = [(key, title) for key, title in TRAININGS if len(words[key]) > 1]
    return {
        "shared": [
            words[key][0] if words[key][0].startswith("without") else f"{title.lower()}: {words[key][0]}"
            for key, title in TRAININGS
            if len(words[key]) == 1
        ],
        "titles": [title for _, title in apart],
        "rows": [(name, [t[key] for key, _ in apart]) for name, t in trainings.items()] if apart else [],
    }


def _counts(results: Results, counts: Sequence[Mapping[str, Any]]) -> View | None:
    if not counts:
        return None
    return {
        "splits": [c["split"] for c in counts],
        "rows": [
            (name, [f"{c['classes'][i]:,}" for c in counts]) for i, name in enumerate(results["classes"])
        ],
        "patches": [f"{c['patches']:,}" for c in counts],
        "collections": ["–" if c["collections"] is None else f"{c['collections']:,}" for c in counts],
    }


def _scores(results: Results, rows: Iterable[Mapping[str, Any]], sets: Sequence[str]) -> list[View]:
    """Return one row an entry: for each test set the four scores as (mean, interval) in percent."""
    cells = {(r["initialization"], r["test_set"], r["metric"]): r for r in rows}
    return [
        {
            "name": name,
            "seeds": max(r["n_seeds"] for key, r in cells.items() if key[0] == name),
            "cells": [_cell(cells.get((name, s, metric))) for s in sets for metric, _ in SCORES],
        }
        for name in results["initializations"]
        if any(key[0] == name for key in cells)
    ]


def _cell(row: Mapping[str, Any] | None) -> tuple[str, str]:
    if row is None:
        return "–", ""
    return percent_words(row["mean"]), "" if row["mean"] is None else range_words(row["low"], row["high"])


def epoch_rows(results: Mapping[str, Any], fraction: float) -> list[View]:
    """Return, for each entry, its finished runs' best epochs, epochs and seconds: median, lowest and highest."""
    rows = []
    for name in results["initializations"]:
        runs = [
            r
            for r in results["runs"]
            if (r["initialization"], r["fraction"], r["status"]) == (name, fraction, "finished")
        ]
        if runs:
            row: View = {"name": name, "runs": len(runs)}
            for key in ("best_epoch", "epochs", "seconds"):
                values = [r[key] for r in runs if r[key] is not None]
                ends = (statistics.median(values), min(values), max(values)) if values else (None,) * 3
                row[key] = dict(zip(("median", "low", "high"), ends, strict=True))
                write = duration_words if key == "seconds" else _number
                row[key]["words"] = write(ends[0])
                row[key]["range"] = f"{write(ends[1])} to {write(ends[2])}" if len(values) > 1 else ""
            rows.append(row)
    return rows


def _size(fraction: float, patches: int) -> str:
    return f"{patches:,} patches" if fraction == 1 else f"about {fraction * patches:,.0f} patches"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def _final(
    results: Results, rows: Iterable[Mapping[str, Any]], fraction: float, sets: Sequence[str]
) -> list[View]:
    """Return one row an entry: for each test set the accuracy of its runs, then of its ensemble."""
    runs = {(r["initialization"], r["test_set"]): r for r in rows if r["metric"] == "accuracy"}
    joined = {
        (e["initialization"], e["test_set"]): e
        for e in results.get("ensembles", [])
        if e["fraction"] == fraction
    }
    found = []
    for name in results["initializations"]:
        cells = []
        for test_set in sets:
            cells.append(_cell(runs.get((name, test_set))))
            e = joined.get((name, test_set))
            value = "–" if e is None else percent_words(e["accuracy"])
            cells.append((value, "" if e is None else range_words(e["low"], e["high"])))
        members = max((e["members"] for key, e in joined.items() if key[0] == name), default=None)
        if any(key[0] == name for key in runs):
            found.append({"name": name, "members": members, "cells": cells})
    return found


def _collection_sets(results: Results, fraction: float) -> list[str]:
    """Return the test sets with several collections, those of unseen ones first."""
    from sartransfer import figures

    rows = [r for r in results.get("patches", {}).get("collections", []) if r["fraction"] == fraction]
    unseen = {t["name"] for t in results["test_sets"] if t["events_unseen"]}
    return sorted(figures.ordered_test_sets(rows, results), key=lambda name: name not in unseen)


def _collections(results: Results, fraction: float, test_set: str, draw: Draw) -> View:
    from sartransfer import figures

    rows = [
        r for r in results["patches"]["collections"] if (r["fraction"], r["test_set"]) == (fraction, test_set)
    ]
    sizes = {r["group"]: r["patches"] for r in rows}
    cells = {(r["initialization"], r["group"]): r for r in rows}
    names = [n for n in results["initializations"] if any(key[0] == n for key in cells)]
    relation = next((t["relation"] for t in results["test_sets"] if t["name"] == test_set), "")
    return {
        "test_set": test_set,
        "relation": relation,
        "unseen": any(t["name"] == test_set and t["events_unseen"] for t in results["test_sets"]),
        "names": names,
        "rows": [(g, sizes[g], [_cell(cells.get((n, g))) for n in names]) for g in sorted(sizes)],
        "image": draw(
            figures.draw_collections(results, fraction, test_set),
            f"Accuracy by collection on {test_set}; the numbers are in the table.",
        ),
    }


def _tests(results: Results, joined: Mapping[str, Any]) -> list[View]:
    keys = ("a", "b", "fraction", "test_set")
    return [row for row in results["mcnemar"] if all(row[k] == joined[k] for k in keys)]


def _verdicts(results: Results, fractions: Sequence[float]) -> View:
    """Return, for each contrast and share of the labels, the statements on every test set."""
    from sartransfer import figures

    found = [c for c in results["contrasts"] if figures.is_primary(c, results)]
    sets = figures.ordered_test_sets(found, results)
    cells = {(c["a"], c["b"], c["fraction"], c["test_set"]): c["statements"] for c in found}
    train = next(
        (c["patches"] for c in results.get("patches", {}).get("counts", []) if c["split"] == "train"), None
    )
    return {
        "test_sets": sets,
        "rows": [
            {
                "a": a,
                "b": b,
                "fraction": figures.fraction_words(fraction),
                "patches": "" if train is None else _size(fraction, train),
                "cells": [cells.get((a, b, fraction, s), []) for s in sets],
            }
            for a, b in dict.fromkeys((c["a"], c["b"]) for c in found)
            for fraction in fractions
        ],
    }


def resampled_view(results: Results) -> list[View]:
    """Return, for each share of the labels, the primary score and the differences with their scenes drawn again."""
    from sartransfer import figures

    found = results.get("resampled") or {"scores": [], "contrasts": []}
    means = {
        (r["initialization"], r["fraction"], r["test_set"]): r["mean"]
        for r in results["table"]
        if figures.is_primary(r, results)
    }
    differences = {
        (c["a"], c["b"], c["fraction"], c["test_set"]): c["difference"] for c in results["contrasts"]
    }
    tables = []
    for fraction in sorted({row["fraction"] for row in found["scores"]}, reverse=True):
        scores = [r for r in found["scores"] if r["fraction"] == fraction]
        contrasts = [r for r in found["contrasts"] if r["fraction"] == fraction]
        sets = figures.ordered_test_sets(scores, results)
        many = results.get("groups_are", "events")
        drawn = {
            r["test_set"]: f"{r['number']} {many if r['drawn'] == 'groups' else 'scenes'}" for r in scores
        }
        cells = {
            (r["initialization"], r["test_set"]): r
            | {"mean": means.get((r["initialization"], fraction, r["test_set"]))}
            for r in scores
        }
        rows = [
            {"name": name, "against": None, "cells": [cells.get((name, s)) for s in sets]}
            for name in results["initializations"]
            if any(start == name for start, _ in cells)
        ]
        for a, b in dict.fromkeys((r["a"], r["b"]) for r in contrasts):
            mine = {
                r["test_set"]: r | {"mean": differences.get((a, b, fraction, r["test_set"]))}
                for r in contrasts
                if (r["a"], r["b"]) == (a, b)
            }
            rows.append({"name": a, "against": b, "cells": [mine.get(s) for s in sets]})
        tables.append(
            {
                "fraction": figures.fraction_words(fraction),
                "test_sets": [(s, drawn[s]) for s in sets],
                "rows": rows,
            }
        )
    return tables
