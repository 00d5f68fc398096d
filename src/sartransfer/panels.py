"""Pictures for the report: the best, the median and the worst scene of each test set, as plain arrays."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sartransfer.catalog import IGNORE_INDEX, Catalog
from sartransfer.data.ground import pixel_metres
from sartransfer.data.patches import category_index
from sartransfer.errors import InputError
from sartransfer.evaluate import TestScores
from sartransfer.models.checkpoint import Checkpoint, read_checkpoint
from sartransfer.predict import predict_chip, predict_classes
from sartransfer.readers import open_entry, read_label
from sartransfer.recipe import Recipe
from sartransfer.results import ScoredRun, value_of
from sartransfer.scene import Scene, Window
from sartransfer.wholefile import replacing

LARGEST = (
    1024  # pixels a side: of larger scenes the panels show one pixel in n, so that all of the scene is there
)
ROWS = 512  # lines read at a time


def write_panels(
    out: Path,
    catalog: Catalog,
    runs: Sequence[ScoredRun],
    recipe: Recipe,
    folders: dict[tuple[str, float, int], Path],
    device: str = "cpu",
) -> list[Path]:
    """Write ``panels/<test_set>-<rank>.npz`` for the report, from the first seed at the largest fraction.

    Scenes are ranked by the primary metric of the start that is best on the test set; scenes where it is
    undefined are left out. Predictions of all starts are of the same seed, whose weights must be there for each: where
    they were thrown away for all seeds, what panels there are stay as they are.
    """
    fraction, seed = max(r.fraction for r in runs), None
    for candidate in recipe.seeds:
        have = {r.initialization for r in runs if r.fraction == fraction and r.seed == candidate}
        if have == set(recipe.initializations) and all(
            (folders[name, fraction, candidate] / f"{recipe.training_of(name).weights}.safetensors").is_file()
            for name in have
        ):
            seed = candidate
            break
    if seed is None:
        return []
    chosen = {r.initialization: r for r in runs if r.fraction == fraction and r.seed == seed}
    checkpoints = {
        name: read_checkpoint(folders[name, fraction, seed], which=recipe.training_of(name).weights)
        for name in chosen
    }
    for checkpoint in checkpoints.values():
        checkpoint.model.to(device).eval()
    (out / "panels").mkdir(exist_ok=True)
    for old in (out / "panels").glob("*.npz"):  # of other scenes or test sets, from before the recipe grew
        old.unlink()
    written = []
    for test_set in next(iter(chosen.values())).tests:
        best = max(chosen.values(), key=lambda r: _or_low(value_of(r.tests[test_set], recipe.primary)))
        for rank, scene_id in rank_scenes(best.tests[test_set], recipe).items():
            path = out / "panels" / f"{test_set}-{rank}.npz"
            write_panel(path, catalog, scene_id, rank, chosen, checkpoints, test_set, recipe, device, seed)
            written.append(path)
    return written


def rank_scenes(found: TestScores, recipe: Recipe) -> dict[str, str]:
    """Return the ids of the best, median and worst scene by the primary metric (chips: by the true class's margin)."""
    scored = []
    for scene in found.scenes:
        if scene.logits is not None:
            others = np.delete(scene.logits, scene.label)
            value = float(scene.logits[scene.label] - others.max())
        else:
            value = value_of(TestScores(found.test_set, found.classes, (scene,)), recipe.primary)
        if math.isfinite(value):
            scored.append((value, scene.id))
    scored.sort()
    if not scored:
        return {}
    ranks = {"best": scored[-1][1]}
    if len(scored) > 2:
        ranks["median"] = scored[(len(scored) - 1) // 2][1]
    if len(scored) > 1:
        ranks["worst"] = scored[0][1]
    return ranks


def write_panel(
    path: Path,
    catalog: Catalog,
    scene_id: str,
    rank: str,
    runs: dict[str, ScoredRun],
    checkpoints: dict[str, Checkpoint],
    test_set: str,
    recipe: Recipe,
    device: str = "cpu",
    seed: int = 0,
) -> None:
    """Write the arrays of one panel: image, label, the prediction of each start, and their scores.

    With the scene's own size (height, width), how many pixels were left out (`step`), and the side of a pixel in metres
    (NaN where the scene does not lie on a map).
    """
    entry = next(e for e in catalog.in_split(test_set) if e.id == scene_id)
    scene = open_entry(entry)
    views, step = recipe.prediction.views, 1
    if recipe.task == "classify":
        image = scene.read(window=scene.central_window(LARGEST)).data
        label = np.array(category_index(catalog, entry))
        predictions = np.array(
            [predict_chip(c, c.model, scene, device, views).argmax() for c in checkpoints.values()]
        )
    else:
        step = -(-max(scene.height, scene.width) // LARGEST)
        image = _thinned(scene, step)
        label = read_label(entry, catalog)[::step, ::step]
        predictions = np.stack([_classes(c, scene, step, views, device) for c in checkpoints.values()])
    values = []
    for name in checkpoints:
        one = tuple(s for s in runs[name].tests[test_set].scenes if s.id == scene_id)
        values.append(value_of(TestScores(test_set, catalog.classes, one), recipe.primary))
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            image=image,
            band_names=np.array(scene.names),
            label=label,
            scene=np.array(scene_id),
            rank=np.array(rank),
            initializations=np.array(list(checkpoints)),
            predictions=predictions,
            scores=np.array(values),
            size=np.array([scene.height, scene.width]),
            step=np.array(step),
            pixel_m=np.array(_metres(scene)),
            seed=np.array(seed),
        )


def _thinned(scene: Scene, step: int) -> NDArray[np.float32]:
    """Read one pixel in `step` along each side of a scene (B, h, w), some lines at a time."""
    rows = max(step, ROWS // step * step)
    parts = [
        scene.read(window=Window(row, 0, min(rows, scene.height - row), scene.width)).data[:, ::step, ::step]
        for row in range(0, scene.height, rows)
    ]
    return np.concatenate(parts, axis=1)


def _metres(scene: Scene) -> float:
    try:
        return pixel_metres(scene)
    except InputError:  # no map, or degrees: said in pixels alone
        return math.nan


def _classes(checkpoint: Checkpoint, scene: Scene, step: int, views: int, device: str) -> NDArray[np.uint8]:
    """Predict a whole scene, and keep the classes of one pixel in `step` along each side."""
    whole = np.full((scene.height, scene.width), IGNORE_INDEX, dtype=np.uint8)
    for place, classes, valid in predict_classes(checkpoint, checkpoint.model, scene, device, views):
        whole[place.slices] = np.where(valid, classes, IGNORE_INDEX)
    return whole[::step, ::step]


def _or_low(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
