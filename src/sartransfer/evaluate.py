"""Scores of a checkpoint on scenes: one integer confusion matrix a scene, or the logits of every patch."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sartransfer.catalog import IGNORE_INDEX, Catalog, Entry
from sartransfer.data.patches import category_index
from sartransfer.errors import CatalogError, InputError
from sartransfer.metrics import confusion_matrix, top_k_accuracy
from sartransfer.models.checkpoint import Checkpoint
from sartransfer.predict import predict_chips, predict_windows
from sartransfer.readers import open_entry, read_label
from sartransfer.runs import now, read_json, write_json
from sartransfer.scene import Window


@dataclass(frozen=True, slots=True)
class SceneScore:
    """How one scene came out."""

    id: str
    group: str
    confusion: NDArray[np.int64]
    """(K, K): rows truth, columns prediction; a chip counts once."""
    logits: NDArray[np.float32] | None = None
    """(K,) of a chip; None for a segmented scene."""
    label: int = -1
    """Class index of a chip."""


@dataclass(frozen=True, slots=True)
class TestScores:
    """How all scenes of one test set came out."""

    __test__ = False  # not a test, whatever pytest thinks of the name

    test_set: str
    classes: tuple[str, ...]
    scenes: tuple[SceneScore, ...]
    views: int = 1
    """Flips and turns of each scene whose probabilities were averaged."""

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(K, K), summed over the scenes."""
        total: NDArray[np.int64] = np.sum([s.confusion for s in self.scenes], axis=0, dtype=np.int64)
        return total

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups, sorted."""
        return tuple(sorted({s.group for s in self.scenes}))

    def of_group(self, group: str) -> "TestScores":
        """The scores of one group alone."""
        return TestScores(self.test_set, self.classes, tuple(s for s in self.scenes if s.group == group))

    def top2(self) -> float | None:
        """Share of chips whose class is among the two highest logits; None for segmentation."""
        logits = [s.logits for s in self.scenes if s.logits is not None]
        if not logits or len(self.classes) < 2:
            return None
        return top_k_accuracy(np.stack(logits), np.array([s.label for s in self.scenes]), 2)


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    catalog: Catalog,
    test_set: str,
    *,
    device: str = "cpu",
    views: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TestScores:
    """Predict every scene of a test set and count, in float32; chips by batches.

    Args:
        checkpoint: network, contract and classes. catalog: where the test set is.
        test_set: the name of a split. device: ``cpu`` or ``cuda``.
        views: flips and turns that are averaged (1, 4, 8); None: as many as the checkpoint was made for.

    Raises:
        CatalogError: no such split, a scene without label, other classes than the checkpoint's.
        InputError, UnitError: a scene that the network cannot take, or an answer that is not finite.
    """
    entries = catalog.in_split(test_set)
    if not entries:
        raise CatalogError(
            f"catalog {catalog.name!r} has no split {test_set!r}; it has {', '.join(catalog.splits) or 'none'}."
        )
    if catalog.classes != checkpoint.classes:
        raise CatalogError(
            f"the checkpoint knows the classes {', '.join(checkpoint.classes)}, the catalog has "
            f"{', '.join(catalog.classes)}. They must be the same, in the same order."
        )
    model = checkpoint.model.to(device).eval()
    views = views or checkpoint.views
    found: dict[int, SceneScore] = {}
    for number, score in _scored(checkpoint, model, catalog, entries, device, views):
        found[number] = score
        if progress:
            progress(len(found), len(entries))
    return TestScores(test_set, catalog.classes, tuple(found[i] for i in range(len(entries))), views)


def _scored(
    checkpoint: Checkpoint,
    model: torch.nn.Module,
    catalog: Catalog,
    entries: Sequence[Entry],
    device: str,
    views: int,
) -> Iterator[tuple[int, SceneScore]]:
    """Yield (number, score) of every entry, chips by batches, in whatever order they are ready."""
    if checkpoint.task == "classify":
        labels = [category_index(catalog, entry) for entry in entries]  # told before the first is predicted
        scenes = (open_entry(entry) for entry in entries)
        for number, logits in predict_chips(checkpoint, model, scenes, device, views):
            yield number, _score_chip(entries[number], labels[number], logits)
        return
    for number, entry in enumerate(entries):
        windows = predict_windows(checkpoint, model, open_entry(entry), device, views)
        yield number, _score_scene(entry, catalog, windows)


def _score_scene(
    entry: Entry, catalog: Catalog, windows: Iterable[tuple[Window, torch.Tensor, NDArray[np.bool_]]]
) -> SceneScore:
    if entry.label is None:
        raise CatalogError(f"entry {entry.id!r} has no label raster: nothing to score against.")
    total = np.zeros((len(catalog.classes),) * 2, dtype=np.int64)
    for window, logits, valid in windows:
        _check_finite(logits[:, torch.from_numpy(valid)], entry.id)
        classes = logits.argmax(0).numpy()
        truth = read_label(entry, catalog, window)
        total += confusion_matrix(
            truth, classes, len(catalog.classes), valid=valid, ignore_index=IGNORE_INDEX
        )
    return SceneScore(entry.id, entry.group or entry.id, total)


def _score_chip(entry: Entry, label: int, logits: NDArray[np.float32]) -> SceneScore:
    _check_finite(torch.from_numpy(logits), entry.id)
    total = np.zeros((len(logits),) * 2, dtype=np.int64)
    total[label, int(logits.argmax())] = 1
    return SceneScore(entry.id, entry.group or entry.id, total, logits, label)


def _check_finite(logits: torch.Tensor, scene_id: str) -> None:
    """Refuse NaN: argmax would make a class of it. (-inf is a probability of 0, as averaged views can have.)"""
    if bool((torch.isnan(logits) | torch.isposinf(logits)).any()):
        raise InputError(
            f"scene {scene_id!r}: the network's answer holds NaN or infinity. Has its training diverged? "
            "A smaller training.optimizer.lr or training.gradient_clip may help."
        )


def write_scores(scores: TestScores, folder: Path) -> None:
    """Write ``scores/<test_set>.json`` and, for chips, ``logits/<test_set>.npz`` into a run folder."""
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    if scores.scenes and scores.scenes[0].logits is not None:
        (folder / "logits").mkdir(exist_ok=True)
        path = folder / "logits" / f"{scores.test_set}.npz"
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp.npz")
        np.savez_compressed(
            temporary,
            ids=np.array([s.id for s in scores.scenes]),
            groups=np.array([s.group for s in scores.scenes]),
            labels=np.array([s.label for s in scores.scenes], dtype=np.int64),
            logits=np.stack([s.logits for s in scores.scenes if s.logits is not None]),
        )
        temporary.replace(path)
    write_json(folder / "scores" / f"{scores.test_set}.json", scores_json(scores))


def scores_json(scores: TestScores) -> dict[str, Any]:
    """Return the confusion matrix of every scene as JSON values."""
    return {
        "test_set": scores.test_set,
        "classes": list(scores.classes),
        "views": scores.views,
        "scenes": [{"id": s.id, "group": s.group, "confusion": s.confusion.tolist()} for s in scores.scenes],
    }


def read_scores(folder: Path, test_set: str, views: int | None = None) -> TestScores | None:
    """Read what `write_scores` wrote; None where the test set was not scored, or not with this many views."""
    path = folder / "scores" / f"{test_set}.json"
    if not path.is_file():
        return None
    values = read_json(path)
    if views is not None and values.get("views", 1) != views:
        return None
    logits: dict[str, tuple[NDArray[np.float32], int]] = {}
    kept = folder / "logits" / f"{test_set}.npz"
    if kept.is_file():
        with np.load(kept, allow_pickle=False) as data:
            ids, rows, labels = data["ids"], data["logits"], data["labels"]
        logits = {str(i): (row, int(label)) for i, row, label in zip(ids, rows, labels, strict=True)}
    scenes = []
    for value in values["scenes"]:
        row, label = logits.get(value["id"], (None, -1))
        confusion = np.array(value["confusion"], dtype=np.int64)
        scenes.append(SceneScore(value["id"], value["group"], confusion, row, label))
    return TestScores(values["test_set"], tuple(values["classes"]), tuple(scenes), values.get("views", 1))


def log_look(path: Path, test_set: str, recipe_hash: str, **facts: Any) -> None:
    """Append to the log of looks at test scores: who chose after having looked cannot hide it."""
    import json

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(
            json.dumps({"time": now(), "test_set": test_set, "recipe_hash": recipe_hash, **facts}) + "\n"
        )
