"""Draw one curve from two comparisons: shares of the labels from one, all labels from the other.

    python results/label_efficiency.py results/flood-label-efficiency results/flood-foundation

Starts are those of the first folder; the second has them under the same names, trained alike with all labels. Writes
``label-efficiency.png`` into the first folder and prints the scores as a Markdown table.
"""

import json
import sys
from pathlib import Path
from typing import Any

from sartransfer.figures import draw_label_efficiency, render


def joined(few: dict[str, Any], all_labels: dict[str, Any]) -> dict[str, Any]:
    """Return the results of `few` with the rows of the other at 100 %."""
    starts = few["initializations"]
    if (
        few["primary"] != all_labels["primary"]
        or 1.0 in few["fractions"]
        or 1.0 not in all_labels["fractions"]
    ):
        raise SystemExit("the two comparisons do not go together")
    lacking = [name for name in starts if name not in all_labels["initializations"]]
    if lacking:
        raise SystemExit(f"the second comparison has no start {lacking[0]!r}")
    rows = [r for r in all_labels["table"] if r["fraction"] == 1.0 and r["initialization"] in starts]
    return {**few, "fractions": [1.0, *few["fractions"]], "table": [*few["table"], *rows]}


def print_scores(results: dict[str, Any]) -> None:
    """Print mean and interval of the primary score by start, share and test set."""
    primary = results["primary"]
    rows = [r for r in results["table"] if (r["metric"], r["class"]) == (primary["metric"], primary["class"])]
    sets = list(dict.fromkeys(r["test_set"] for r in rows))
    shares = sorted(set(results["fractions"]) & {r["fraction"] for r in rows})
    print("| start | test set | " + " | ".join(f"{s:.0%}" for s in shares) + " |")
    print("|---" * (2 + len(shares)) + "|")
    for test_set in sets:
        for name in results["initializations"]:
            cells = []
            for share in shares:
                found = [
                    r
                    for r in rows
                    if (r["initialization"], r["test_set"], r["fraction"]) == (name, test_set, share)
                ]
                cells.append(
                    " - ".join(f"{r['mean']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for r in found) or "-"
                )
            print(f"| {name} | {test_set} | " + " | ".join(cells) + " |")


def main() -> None:
    """Join, draw, print."""
    folders = [Path(name) for name in sys.argv[1:3]]
    few, all_labels = (json.loads((f / "results.json").read_text(encoding="utf-8")) for f in folders)
    results = joined(few, all_labels)
    figure = draw_label_efficiency(results)
    assert figure is not None  # there are two shares at least
    (folders[0] / "label-efficiency.png").write_bytes(render(figure, "png"))
    print_scores(results)


if __name__ == "__main__":
    main()
