"""Train recipes/label-noise.yaml at several shares of wrong labels, and draw accuracy over share.

    python results/label_noise.py out/label-noise --results results/label-noise [--shares 0.2 0.4] [--seeds 3]

Look-alikes are taken from the data, before any noise: each class's is the one that cross-entropy trained on true
labels confuses it with most often on validation. Can be stopped and started again; finished runs are kept.
"""

import argparse
import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from sartransfer import Recipe, compare
from sartransfer.metrics import softmax
from sartransfer.statistics import t_interval

RECIPE = Path(__file__).parent.parent / "recipes" / "label-noise.yaml"


def look_alikes(clean: Path, classes: list[str]) -> dict[str, str]:
    """Return class -> the class it is most often taken for on validation, by mean probability over the runs."""
    total = np.zeros((len(classes), len(classes)))
    for file in sorted(clean.glob("runs/cross-entropy/*/seed*/logits/validation.npz")):
        kept = np.load(file)
        probabilities = softmax(kept["logits"])
        for label in range(len(classes)):
            total[label] += probabilities[kept["labels"] == label].sum(axis=0)
    if not total.any():
        raise SystemExit(f"no validation logits under {clean}: has its comparison finished?")
    np.fill_diagonal(total, -1.0)
    return {classes[i]: classes[int(j)] for i, j in enumerate(total.argmax(axis=1))}


def run(out: Path, shares: list[float], seeds: int, jobs: int) -> list[dict[str, Any]]:
    """Train all comparisons and return one row a loss, kind, share and seed."""
    common = (f"seeds={seeds}",)
    compare(Recipe.from_yaml(RECIPE, common), out / "clean", jobs=jobs)
    results = json.loads((out / "clean" / "results.json").read_text(encoding="utf-8"))
    alike = look_alikes(out / "clean", results["classes"])
    print("look-alikes:", ", ".join(f"{a} -> {b}" for a, b in alike.items()))
    (out / "look-alikes.json").write_text(json.dumps(alike, indent=1) + "\n", encoding="utf-8")
    folders = [("uniform", 0.0, out / "clean"), ("alike", 0.0, out / "clean")]
    for share in sorted(shares, reverse=True):  # the most telling first
        for kind in ("uniform", "alike"):
            noise: dict[str, Any] = {"share": share, "kind": kind}
            if kind == "alike":
                noise["alike"] = alike
            setting = f"data.label_noise={json.dumps(noise)}"
            folder = out / f"{kind}-{share:g}"
            compare(Recipe.from_yaml(RECIPE, (*common, setting)), folder, jobs=jobs)
            folders.append((kind, share, folder))
    rows = []
    for kind, share, folder in folders:
        table = json.loads((folder / "results.json").read_text(encoding="utf-8"))["table"]
        for row in table:
            if row["metric"] in ("accuracy", "f1_macro", "top2") and not row["class"]:
                for seed, value in enumerate(row["values"]):
                    rows.append({"kind": kind, "share": share, "loss": row["initialization"], "seed": seed,
                                 "metric": row["metric"], "value": value})  # fmt: skip
    return rows


def values_of(rows: list[dict[str, Any]], kind: str, share: float, loss: str) -> np.ndarray:
    """Return the accuracies (S,), by seed."""
    found = [
        r for r in rows if (r["kind"], r["share"], r["loss"], r["metric"]) == (kind, share, loss, "accuracy")
    ]
    return np.array([r["value"] for r in sorted(found, key=lambda r: r["seed"])])


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table: accuracy with 95 % t interval, and the paired difference from cross-entropy."""
    losses = list(dict.fromkeys(r["loss"] for r in rows))
    lines = ["| wrong labels | " + " | ".join(losses) + " |", "|---" * (len(losses) + 1) + "|"]
    for kind in ("uniform", "alike"):
        for share in sorted({r["share"] for r in rows}):
            base, cells = values_of(rows, kind, share, losses[0]), []
            for loss in losses:
                own = values_of(rows, kind, share, loss)
                interval = t_interval(own)
                cell = f"{own.mean():.3f} [{interval.low:.3f}, {interval.high:.3f}]"
                if loss != losses[0]:
                    gap = t_interval(own - base)
                    cell += f"; {gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
                cells.append(cell)
            lines.append(f"| {share:.0%}, {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw accuracy over the share of wrong labels, one panel a kind, mean and range over seeds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, kind in zip(axes, ("uniform", "alike"), strict=True):
        shares = sorted({r["share"] for r in rows})
        for loss in dict.fromkeys(r["loss"] for r in rows):
            values = np.array([values_of(rows, kind, s, loss) for s in shares])
            (line,) = axis.plot([100 * s for s in shares], values.mean(axis=1), marker="o", ms=4, label=loss)
            axis.fill_between([100 * s for s in shares], values.min(axis=1), values.max(axis=1),
                              color=line.get_color(), alpha=0.12, lw=0)  # fmt: skip
        axis.set_xlabel("wrong training labels, per cent")
        axis.set_title("to any other class" if kind == "uniform" else "to the look-alike", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("test accuracy")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train, then write rows, table and figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.4])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    rows = run(given.out, given.shares, given.seeds, given.jobs)
    given.results.mkdir(parents=True, exist_ok=True)
    with (given.results / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    shutil.copy(given.out / "look-alikes.json", given.results)
    draw(rows, given.results / "accuracy.png")
    print(table(rows))


if __name__ == "__main__":  # worker processes import this file anew
    main()
