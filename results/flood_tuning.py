"""Compare settings of a flood recipe on whole looks held out of training, without a glance at a test set.

    python results/flood_tuning.py results/flood-tuning/grid.yaml out/flood-tuning --jobs 12 [--device cuda]

Validation drawn from the events that are trained on does not tell what helps on another event. So groups (stitched
components of OMBRIA) are clustered by how they look (quantiles of the image before and after, Ward's method), each
cluster is held out once, and a setting is judged by its mean over the clusters. Writes ``folds.csv`` (a row a setting,
fold and seed) and prints means. Can be stopped and started again; finished runs are kept.
"""

import argparse
import csv
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.cluster.hierarchy import fcluster, linkage

from sartransfer import Recipe
from sartransfer.catalog import Catalog
from sartransfer.children import end_with_parent
from sartransfer.data.resolve import TrainingData, open_catalog, open_training_data
from sartransfer.readers import open_entry
from sartransfer.runs import RunFolder
from sartransfer.stages import Job, train_job

QUANTILES = (0.1, 0.5, 0.9)
COLUMNS = (
    "setting",
    "fold",
    "seed",
    "iou_last",
    "loss_last",
    "iou_best",
    "loss_best",
    "epoch_best",
    "seconds",
)


def clusters(catalog: Catalog, number: int) -> dict[str, int]:
    """Return group -> number of its cluster, from 0 by falling number of scenes."""
    looks: dict[str, list[list[float]]] = {}
    for entry in catalog.entries:
        before, after = open_entry(entry).read(bands=("before", "after")).data
        look = [*np.quantile(before, QUANTILES), *np.quantile(after, QUANTILES), float(before.std())]
        looks.setdefault(str(entry.group), []).append(look)
    names = sorted(looks)
    means = np.array([np.mean(looks[name], axis=0) for name in names])
    found = fcluster(linkage((means - means.mean(0)) / means.std(0), "ward"), number, "maxclust")
    sizes = {
        int(k): sum(len(looks[n]) for n, f in zip(names, found, strict=True) if f == k) for k in set(found)
    }
    order = {k: i for i, k in enumerate(sorted(sizes, key=lambda k: (-sizes[k], k)))}
    return {name: order[int(f)] for name, f in zip(names, found, strict=True)}


def fold_of(catalog: Catalog, places: dict[str, int], fold: int) -> Catalog:
    """Return the training scenes with one cluster as validation; nothing else is in it."""
    entries = tuple(
        replace(e, split="validation" if places[str(e.group)] == fold else "train") for e in catalog.entries
    )
    return replace(catalog, entries=entries)


_OPEN: dict[str, Any] = {}


def prepared(recipe: Recipe, number: int, fold: int) -> TrainingData:
    """Open one fold's scenes, or take those that the last run of this process had."""
    key = json.dumps([recipe.data.model_dump(mode="json"), number, fold])
    if _OPEN.get("key") != key:
        whole = open_catalog(recipe.data, check=False)
        own = replace(whole, entries=tuple(e for e in whole.entries if e.split in ("train", "validation")))
        places = clusters(own, number)
        _OPEN.update(key=key, data=open_training_data(fold_of(own, places, fold), recipe.data))
    found: TrainingData = _OPEN["data"]
    return found


def one(base: str, out: Path, name: str, setting: dict[str, Any], number: int, fold: int, seed: int,
        device: str) -> dict[str, Any]:  # fmt: skip
    """Train one setting with one cluster held out; returns its row."""
    recipe = Recipe.from_yaml(Path(base), tuple(setting.get("set", ())))
    start = recipe.initializations[setting.get("start", "imagenet")]
    model = start.model or recipe.model
    training = recipe.training_of(setting.get("start", "imagenet"))
    job = Job(name, recipe.task, recipe.data, model, start, training, recipe.primary, seed)
    folder = RunFolder(out / name / f"fold{fold}-seed{seed}")
    identity = job.identity(f"{number} clusters, {fold} held out")
    if folder.status(identity) != "finished":
        data = prepared(recipe, number, fold)
        train_job(
            job, folder, data, identity=identity, stages_folder=out / "stages", device=device,
            recipe_yaml=recipe.to_yaml(),
        )  # fmt: skip
        for weights in folder.path.glob("*.safetensors"):
            weights.unlink()  # only the curves are wanted
    with (folder.path / "curves.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    best = min(rows, key=lambda r: float(r["validation_loss"]))
    return {
        "setting": name, "fold": fold, "seed": seed,
        "iou_last": float(rows[-1]["validation_metric"] or "nan"), "loss_last": float(rows[-1]["validation_loss"]),
        "iou_best": float(best["validation_metric"] or "nan"), "loss_best": float(best["validation_loss"]),
        "epoch_best": int(best["epoch"]), "seconds": sum(float(r["seconds"]) for r in rows),
    }  # fmt: skip


def _begin() -> None:
    import torch

    end_with_parent()
    torch.set_num_threads(1)


def main() -> None:
    """Train all settings with all folds and print the means."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("grid", type=Path)
    ask.add_argument("out", type=Path)
    ask.add_argument("--jobs", type=int, default=2)
    ask.add_argument("--device", default="cpu")
    given = ask.parse_args()
    grid = yaml.safe_load(given.grid.read_text(encoding="utf-8"))
    base = str(given.grid.parent / grid["recipe"])
    number = int(grid["clusters"])
    common = list(grid.get("set", ()))
    tasks = [
        (name, {**setting, "set": [*common, *setting.get("set", ())]}, fold, seed)
        for seed in grid["seeds"]
        for fold in range(number)
        for name, setting in grid["settings"].items()
    ]
    rows = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.jobs, mp_context=context, initializer=_begin) as pool:
        waiting = {
            pool.submit(one, base, given.out, name, setting, number, fold, seed, given.device): (
                name,
                fold,
                seed,
            )
            for name, setting, fold, seed in tasks
        }
        for done in as_completed(waiting):
            try:
                rows.append(done.result())
                print(json.dumps(rows[-1]), flush=True)
            except Exception as error:  # one setting that fails must not cost the others
                print("failed:", waiting[done], type(error).__name__, error, flush=True)
            rows.sort(key=lambda r: (list(grid["settings"]).index(r["setting"]), r["seed"], r["fold"]))
            with (given.out / "folds.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
    for name in grid["settings"]:
        own = [r for r in rows if r["setting"] == name]
        if own:
            folds = [np.mean([r["iou_last"] for r in own if r["fold"] == f]) for f in range(number)]
            best = np.mean([r["iou_best"] for r in own])
            each = " ".join(f"{f:.3f}" for f in folds)
            print(f"{name:28s} last {np.mean(folds):.3f} ({each}) best by loss {best:.3f} runs {len(own)}")


if __name__ == "__main__":
    main()
