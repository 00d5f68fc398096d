"""Scores of a checkpoint on scenes: one integer confusion matrix a scene, or the logits of every patch."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sartransfer.catalog import IGNORE_INDEX, Catalog, Entry
from sartransfer.data.patches import category_index
from sartransfer.data.strata import bins_of, open_strata
from sartransfer.errors import CatalogError, InputError, OutputError
from sartransfer.members import check_members, open_members, plan_members, predict_members
from sartransfer.metrics import confusion_matrix, top_k_accuracy
from sartransfer.models.checkpoint import Checkpoint
from sartransfer.npz import UNREADABLE_ZIP
from sartransfer.predict import predict_chips, predict_windows
from sartransfer.readers import open_entry, read_label, refuse_unsaid_labels
from sartransfer.recipe import StrataRecipe
from sartransfer.runs import now, read_json, write_json
from sartransfer.scene import Scene, Window
from sartransfer.wholefile import replacing
from sartransfer.windowed import all_answered, unanswered

DAMAGED_SCORES: tuple[type[Exception], ...] = (*UNREADABLE_ZIP, LookupError, TypeError, AttributeError)
"""What files of scores that were cut off or edited end in."""


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
    strata: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """Kind of stratum (`recipe.StrataRecipe.bins`) -> (B, K, K): one confusion matrix a bin."""


@dataclass(frozen=True, slots=True)
class TestScores:
    """How all scenes of one test set came out."""

    __test__ = False  # not a test, whatever pytest thinks of the name

    test_set: str
    classes: tuple[str, ...]
    scenes: tuple[SceneScore, ...]
    views: int = 1
    """Flips and turns of each scene whose probabilities were averaged."""
    bins: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Kinds of strata that were counted, with the edges of their bins."""

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(K, K), summed over the scenes."""
        total: NDArray[np.int64] = np.sum([s.confusion for s in self.scenes], axis=0, dtype=np.int64)
        return total

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups, sorted."""
        return tuple(sorted({s.group for s in self.scenes}))

    def top2(self) -> float | None:
        """Share of chips whose class is among the two highest logits; None for segmentation."""
        logits = [s.logits for s in self.scenes if s.logits is not None]
        if not logits or len(self.classes) < 2:
            return None
        return top_k_accuracy(np.stack(logits), np.array([s.label for s in self.scenes]), 2)


def uncounted_warning(scores: TestScores) -> str | None:
    """Return what to say of scenes without a single pixel that has a value and a label: they are in no score."""
    empty = [s.id for s in scores.scenes if not s.confusion.any()]
    if not empty:
        return None
    named = ", ".join(empty[:3]) + (", ..." if len(empty) > 3 else "")
    return (
        f"Test set {scores.test_set!r}: {len(empty)} of {len(scores.scenes)} scenes ({named}) have no pixel with both "
        "a value and a label, and are in no score. Look at their labels (`sartransfer catalog check`)."
    )


def evaluate_checkpoint(
    checkpoint: Checkpoint | Sequence[Checkpoint],
    catalog: Catalog,
    test_set: str,
    *,
    device: str = "cpu",
    views: int | None = None,
    strata: StrataRecipe | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TestScores:
    """Predict every scene of a test set and count, in float32; chips by batches.

    Args:
        checkpoint: network, contract and classes; several that segment are asked together, as `mapping.predict_scene`
            asks them: their mean probabilities decide.
        catalog: where the test set is. test_set: the name of a split. device: ``cpu`` or ``cuda``.
        views: flips and turns that are averaged (1, 4, 8); None: as many as the checkpoint was made for.
        strata: count pixels by these too. progress: told (scenes done, scenes).

    Raises:
        CatalogError: no such split, a scene without label, other classes than the checkpoint's, labels of 0 and 255
            alone where nothing says what 255 means.
        InputError, UnitError: a scene that the network cannot take, an answer that is not finite, or networks that
            cannot be asked together.
    """
    networks = (checkpoint,) if isinstance(checkpoint, Checkpoint) else tuple(checkpoint)
    check_together(networks)
    first = networks[0]
    entries = catalog.in_split(test_set)
    if not entries:
        raise CatalogError(
            f"catalog {catalog.name!r} has no split {test_set!r}; it has {', '.join(catalog.splits) or 'none'}."
        )
    if catalog.classes != first.classes:
        raise CatalogError(
            f"the checkpoint knows the classes {', '.join(first.classes)}, the catalog has "
            f"{', '.join(catalog.classes)}. They must be the same, in the same order."
        )
    if first.task == "segment":
        refuse_unsaid_labels(catalog, entries)
    for network in networks:
        network.model.to(device).eval()
    found: dict[int, SceneScore] = {}
    for number, score in _scored(networks, catalog, entries, device, views, strata):
        found[number] = score
        if progress:
            progress(len(found), len(entries))
    bins = strata.bins if strata and first.task == "segment" else {}
    scored = tuple(found[i] for i in range(len(entries)))
    return TestScores(test_set, catalog.classes, scored, views or first.views, bins)


def check_together(checkpoints: Sequence[Checkpoint]) -> None:
    """Raise `InputError` for no network, and for several that cannot be scored as one map's are (`check_members`)."""
    if len(checkpoints) == 1:
        return
    if checkpoints and all(c.task == "classify" for c in checkpoints):
        raise InputError("networks that classify patches are joined by their votes: sartransfer ensemble.")
    check_members(checkpoints)


def _scored(
    networks: Sequence[Checkpoint],
    catalog: Catalog,
    entries: Sequence[Entry],
    device: str,
    views: int | None,
    strata: StrataRecipe | None,
) -> Iterator[tuple[int, SceneScore]]:
    """Yield (number, score) of every entry, chips by batches, in whatever order they are ready."""
    first = networks[0]
    if first.task == "classify":
        labels = [category_index(catalog, entry) for entry in entries]  # told before the first is predicted
        scenes = (open_entry(entry) for entry in entries)
        for number, logits in predict_chips(first, first.model, scenes, device, views or first.views):
            yield number, _score_chip(entries[number], labels[number], logits)
        return
    for number, entry in enumerate(entries):
        windows = _answers(networks, open_entry(entry), device, views)
        yield number, _score_scene(entry, catalog, windows, strata)


def _answers(
    networks: Sequence[Checkpoint], scene: Scene, device: str, views: int | None
) -> Iterator[tuple[Window, torch.Tensor, NDArray[np.bool_]]]:
    """Yield the windows of a scene with logits, or of several networks mean probabilities, (K, h, w) and validity."""
    if len(networks) == 1:
        yield from predict_windows(networks[0], networks[0].model, scene, device, views or networks[0].views)
        return
    plans, _ = plan_members(networks, scene.height, scene.width, views=views, device=device)
    members = open_members(networks, plans, scene, device, views=views)
    for window, logits, valid in predict_members(members, scene, device):
        yield window, torch.stack([torch.softmax(each, 0) for each in logits]).mean(0), valid


def _score_scene(
    entry: Entry,
    catalog: Catalog,
    windows: Iterable[tuple[Window, torch.Tensor, NDArray[np.bool_]]],
    strata: StrataRecipe | None,
) -> SceneScore:
    if entry.label is None:
        raise CatalogError(f"entry {entry.id!r} has no label raster: nothing to score against.")
    number = len(catalog.classes)
    opened = open_strata(strata, entry, catalog) if strata else None
    label = opened.label if opened else read_label(entry, catalog)
    total = np.zeros((number, number), dtype=np.int64)
    parts = (
        {k: np.zeros((bins_of(k, e), number, number), dtype=np.int64) for k, e in strata.bins.items()}
        if strata
        else {}
    )
    for window, logits, valid in windows:
        _check_finite(logits[:, torch.from_numpy(valid)], entry.id)
        classes, truth = logits.argmax(0).numpy(), label[window.slices]
        total += confusion_matrix(truth, classes, number, valid=valid, ignore_index=IGNORE_INDEX)
        for kind, places in opened.bins(window).items() if opened else ():
            for i, matrix in enumerate(parts[kind]):
                here = valid & (places == i)
                matrix += confusion_matrix(truth, classes, number, valid=here, ignore_index=IGNORE_INDEX)
    return SceneScore(entry.id, entry.group or entry.id, total, strata=parts)


def _score_chip(entry: Entry, label: int, logits: NDArray[np.float32]) -> SceneScore:
    _check_finite(torch.from_numpy(logits), entry.id)
    total = np.zeros((len(logits),) * 2, dtype=np.int64)
    total[label, int(logits.argmax())] = 1
    return SceneScore(entry.id, entry.group or entry.id, total, logits, label)


def _check_finite(logits: torch.Tensor, scene_id: str) -> None:
    """Refuse logits (K, ...) of NaN or infinity, as maps do: argmax would make a class of them."""
    if not all_answered(logits) and bool(unanswered(logits).any()):
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
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                ids=np.array([s.id for s in scores.scenes]),
                groups=np.array([s.group for s in scores.scenes]),
                labels=np.array([s.label for s in scores.scenes], dtype=np.int64),
                logits=np.stack([s.logits for s in scores.scenes if s.logits is not None]),
            )
    write_json(folder / "scores" / f"{scores.test_set}.json", scores_json(scores))


def scores_json(scores: TestScores) -> dict[str, Any]:
    """Return the confusion matrix of every scene, and of its strata, as JSON values."""
    kept: dict[str, Any] = {
        "test_set": scores.test_set,
        "classes": list(scores.classes),
        "views": scores.views,
        "scenes": [_scene_json(s) for s in scores.scenes],
    }
    return kept | ({"bins": {k: list(e) for k, e in scores.bins.items()}} if scores.bins else {})


def _scene_json(scene: SceneScore) -> dict[str, Any]:
    kept: dict[str, Any] = {"id": scene.id, "group": scene.group, "confusion": scene.confusion.tolist()}
    return kept | ({"strata": {k: m.tolist() for k, m in scene.strata.items()}} if scene.strata else {})


def read_scores(
    folder: Path, test_set: str, views: int | None = None, strata: StrataRecipe | None = None
) -> TestScores | None:
    """Read what `write_scores` wrote; None where the test set was not scored, or not so.

    Args:
        folder: of the run. test_set: its name. views: with so many views; None: with any number.
        strata: with the pixels counted by these strata, in these bins; None: with any, or none.

    Raises `InputError` for what is damaged.
    """
    path = folder / "scores" / f"{test_set}.json"
    if not path.is_file():
        return None
    try:
        return _read_scores(path, folder / "logits" / f"{test_set}.npz", views, strata)
    except DAMAGED_SCORES as error:
        raise InputError(
            f"{path}, or the logits beside it, is damaged ({error}). Delete it and run again: only the scores are "
            "computed anew."
        ) from error


def _read_scores(path: Path, kept: Path, views: int | None, strata: StrataRecipe | None) -> TestScores | None:
    values = read_json(path)
    if views is not None and values.get("views", 1) != views:
        return None
    bins = {k: tuple(e) for k, e in values.get("bins", {}).items()}
    if strata is not None and bins != strata.bins:
        return None
    logits: dict[str, tuple[NDArray[np.float32], int]] = {}
    if kept.is_file():
        with np.load(kept, allow_pickle=False) as data:
            ids, rows, labels = data["ids"], data["logits"], data["labels"]
        logits = {str(i): (row, int(label)) for i, row, label in zip(ids, rows, labels, strict=True)}
    scenes = []
    for value in values["scenes"]:
        row, label = logits.get(value["id"], (None, -1))
        confusion = np.array(value["confusion"], dtype=np.int64)
        parts = {k: np.array(m, dtype=np.int64) for k, m in value.get("strata", {}).items()}
        scenes.append(SceneScore(value["id"], value["group"], confusion, row, label, parts))
    classes = tuple(values["classes"])
    return TestScores(values["test_set"], classes, tuple(scenes), values.get("views", 1), bins)


def log_look(path: Path, test_set: str, recipe_hash: str, **facts: Any) -> None:
    """Append to the log of looks at test scores: who chose after having looked cannot hide it.

    The line is on disk on return, whole or not at all; after one that a kill cut off a new line begins.
    Raises `OutputError` where it cannot be written.
    """
    import json
    import os

    line = json.dumps({"time": now(), "test_set": test_set, "recipe_hash": recipe_hash, **facts}) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else f"\n{line}"
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}). Is the disk full?"
        ) from error
