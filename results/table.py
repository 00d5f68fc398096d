"""Print the Markdown table of a committed comparison: python results/table.py results/flood-ombria."""

import json
import sys
from pathlib import Path


def interval(mean: float | None, low: float | None, high: float | None, sign: str = "") -> str:
    """Return ``.712 [.690, .734]``, or ``undefined``."""
    if mean is None:
        return "undefined"
    if low is None or high is None:
        return f"{mean:{sign}.3f}"
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def main(folder: Path) -> None:
    """Print scores and differences of the primary metric."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    primary = results["primary"]
    sets = [t["name"] for t in results["test_sets"]]
    print(f"{primary['metric']} of {primary['class'] or 'all classes'}: mean over seeds and 95 % t interval\n")
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


if __name__ == "__main__":
    main(Path(sys.argv[1]))
