"""Print the Markdown tables of a committed comparison: python results/table.py results/flood-ombria."""

import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SCORES = (
    ("accuracy", "accuracy"),
    ("top2", "top-2"),
    ("f1_macro", "F1 (macro)"),
    ("f1_weighted", "F1 (weighted)"),
)


def interval(mean: float | None, low: float | None, high: float | None, sign: str = "") -> str:
    """Return ``.712 [.690, .734]``, or ``undefined``."""
    if mean is None:
        return "undefined"
    if low is None or high is None:
        return f"{mean:{sign}.3f}"
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def percent(mean: float | None, low: float | None, high: float | None, sign: str = "") -> str:
    """Return ``83.21 [82.90, 83.52]``, in percent, or ``undefined``."""
    if mean is None:
        return "undefined"
    if low is None or high is None:
        return f"{100 * mean:{sign}.2f}"
    return f"{100 * mean:{sign}.2f} [{100 * low:{sign}.2f}, {100 * high:{sign}.2f}]"


def print_table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print one table with a blank line after it."""
    head = list(head)
    print("| " + " | ".join(head) + " |")
    print("|---" * len(head) + "|")
    for row in rows:
        print("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |")
    print()


def print_scenes(results: dict[str, Any]) -> None:
    """Print scores of the primary metric of scenes, and differences."""
    primary = results["primary"]
    sets = [t["name"] for t in results["test_sets"]]
    print(
        f"{primary['metric']} of {primary['class'] or 'all classes'}: mean over seeds and 95 % t interval\n"
    )
    print("| initialization | " + " | ".join(sets) + " | median epoch kept | minutes a run |")
    print("|---" * (len(sets) + 3) + "|")
    for name in results["initializations"]:
        cells = []
        for test_set in sets:
            row = next(
                r
                for r in results["table"]
                if (r["initialization"], r["test_set"], r["metric"], r["class"])
                == (name, test_set, primary["metric"], primary["class"])
            )
            cells.append(interval(row["mean"], row["low"], row["high"]))
        runs = [r for r in results["runs"] if r["initialization"] == name and r["status"] == "finished"]
        epochs = sorted(r["best_epoch"] for r in runs)
        minutes = sorted(r["seconds"] / 60 for r in runs)
        middle = len(runs) // 2
        print(f"| {name} | " + " | ".join(cells) + f" | {epochs[middle]} | {minutes[middle]:.1f} |")
    print("\n| difference | test set | on this test set | verdict | on new events | verdict |")
    print("|---|---|---|---|---|---|")
    for contrast in results["contrasts"]:
        cells = []
        for statement in contrast["statements"]:
            cells.append(interval(statement["mean"], statement["low"], statement["high"], "+"))
            cells.append(statement["verdict"])
        cells += ["", ""] * (2 - len(contrast["statements"]))
        print(f"| {contrast['a']} - {contrast['b']} | {contrast['test_set']} | " + " | ".join(cells) + " |")


def print_patches(results: dict[str, Any]) -> None:
    """Print what the report says of classified patches: scores, ensembles, shares of the labels, tests by patch."""
    cells = {
        (r["initialization"], r["fraction"], r["test_set"], r["metric"]): (r["mean"], r["low"], r["high"])
        for r in results["table"]
        if r["class"] == ""
    }
    names, fractions = results["initializations"], sorted(results["fractions"], reverse=True)
    sets = list(dict.fromkeys(r["test_set"] for r in results["table"]))
    several = len(fractions) > 1
    for test_set in sets:
        share = f", {100 * fractions[0]:.4g} % of the labels" if several else ""
        print(f"{test_set}{share}: percent, mean over seeds and 95 % t interval\n")
        print_table(
            ["entry", "seeds", *(words for _, words in SCORES), "best epoch", "epochs", "minutes a run"],
            [
                [name, *_runs(results, name, fractions[0], cells, test_set)]
                for name in names
                if (name, fractions[0], test_set, "accuracy") in cells
            ],
        )
    if results.get("ensembles"):
        print("Ensembles of the seeds (majority vote): percent, 95 % exact interval over patches\n")
        print_table(
            [
                *["share of labels"] * several,
                "entry",
                "test set",
                "members",
                "accuracy",
                "top-2",
                "F1 (macro)",
            ],
            [
                [
                    *[f"{100 * e['fraction']:.4g} %"] * several,
                    *(e["initialization"], e["test_set"], e["members"]),
                    percent(e["accuracy"], e["low"], e["high"]),
                    *(percent(e[key], None, None) for key in ("top2", "f1_macro")),
                ]
                for e in results["ensembles"]
            ],
        )
    if several:
        print("Accuracy by share of the training labels: percent, mean over seeds and 95 % t interval\n")
        print_table(
            ["entry", "test set", *(f"{100 * f:.4g} %" for f in reversed(fractions))],
            [
                [
                    name,
                    t,
                    *(
                        percent(*cells.get((name, f, t, "accuracy"), (None,) * 3))
                        for f in reversed(fractions)
                    ),
                ]
                for name in names
                for t in sets
            ],
        )
    metric = results["primary"]["metric"] + (
        f" of {results['primary']['class']}" * bool(results["primary"]["class"])
    )
    print(f"Differences in {metric}, in points, paired by seed; above 0 a is better\n")
    print_table(
        [
            *["share of labels"] * several,
            "a - b",
            "test set",
            "on this test set",
            "verdict",
            "on new events",
            "verdict",
        ],
        [
            [
                *[f"{100 * c['fraction']:.4g} %"] * several,
                *(f"{c['a']} - {c['b']}", c["test_set"]),
                *_statements(c["statements"]),
            ]
            for c in results["contrasts"]
        ],
    )
    tests = results.get("patches", {}).get("mcnemar", [])
    if tests:
        print("Patch by patch (McNemar, exact): medians over seeds, Holm over the seeds of each row\n")
        print_table(
            [*["share of labels"] * several, "a - b", "test set", "a alone right", "b alone right", "median p",
             "seeds with p < .05", "majority vote"],
            [
                [
                    *[f"{100 * m['fraction']:.4g} %"] * several,
                    *(f"{m['a']} - {m['b']}", m["test_set"], f"{m['only_a']:g}", f"{m['only_b']:g}"),
                    f"{m['median_p']:.2g}",
                    f"{m['significant']} of {m['seeds']}" + _favour(m),
                    _vote(m["majority"]),
                ]
                for m in tests
            ],
        )  # fmt: skip


def _runs(
    results: dict[str, Any],
    name: str,
    fraction: float,
    cells: dict[tuple[str, float, str, str], Any],
    test_set: str,
) -> list[str]:
    runs = [
        r
        for r in results["runs"]
        if (r["initialization"], r["fraction"], r["status"]) == (name, fraction, "finished")
    ]
    scores = [percent(*cells.get((name, fraction, test_set, key), (None,) * 3)) for key, _ in SCORES]
    lasting = [
        f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})" if values else "-"
        for values in (
            [r["best_epoch"] for r in runs if r["best_epoch"] is not None],
            [r["epochs"] for r in runs if r["epochs"] is not None],
            [r["seconds"] / 60 for r in runs if r["seconds"] is not None],
        )
    ]
    return [str(len(runs)), *scores, *lasting]


def _statements(statements: list[dict[str, Any]]) -> list[str]:
    cells = []
    for statement in statements:
        ends = (statement[key] for key in ("mean", "low", "high"))
        cells += [percent(*ends, sign="+"), statement["verdict"]]
    return cells + ["", ""] * (2 - len(statements))


def _favour(row: dict[str, Any]) -> str:
    sides = [(row["for_a"], "a"), (row["significant"] - row["for_a"], "b")]
    words = ", ".join(f"{count} for {side}" for count, side in sides if count)
    return f" ({words})" if words else ""


def _vote(vote: dict[str, Any] | None) -> str:
    return "-" if vote is None else f"{vote['only_a']} : {vote['only_b']}, p = {vote['p_value']:.2g}"


def main(folder: Path) -> None:
    """Print the tables of the comparison whose results.json lies in `folder`."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    if results["task"] == "classify":
        print_patches(results)
    else:
        print_scenes(results)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
