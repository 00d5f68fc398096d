"""Threshold rules as rows of a comparison: fitted on its training scenes where they are fitted, scored on its tests.

What a threshold does is the least that a network must do. Which rule it is follows from what the scenes are: a pair of
8-bit display values gets thresholds fitted on training, a calibrated pair UN-SPIDER's practice, a single image
Otsu's threshold of the image itself.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.catalog import IGNORE_INDEX, TRAIN, Catalog, Entry
from sartransfer.contract import InputContract
from sartransfer.data.normalize import resolve_contract
from sartransfer.errors import InputError, RecipeError
from sartransfer.evaluate import SceneScore, TestScores, scores_json
from sartransfer.metrics import confusion_matrix
from sartransfer.radar.flood import Rule, map_flood
from sartransfer.radar.flood_baselines import OtsuRule, count_pair, fit_otsu_rule, fit_stretched_rule
from sartransfer.radar.flood_settings import UN_SPIDER
from sartransfer.radar.units import POWERS, Quantity, Scale, Unit
from sartransfer.readers import open_entry, read_label, refuse_unsaid_labels
from sartransfer.recipe import Recipe
from sartransfer.results import ScoredRun, TestSet, tidy_rows
from sartransfer.runs import read_json, write_json
from sartransfer.scene import Band, Scene

VERSION = 1  # raise when a rule comes out otherwise: kept scores of an older version are not used
PREFIX = "rule:"
"""Of rules where starts are named, as in results.csv."""
NO_SEED = -1
"""In the column of seeds: a rule has none."""
SHOWN, SHOWN_DB = 255.0, 25.0  # display values, and the decibels that a usual stretch shows by them
PIXEL = 10.0  # metres, of scenes that do not say where they are: Sentinel-1 IW GRD
KINDS = {"threshold": "both", "threshold-drop": "drop", "threshold-after": "after"}
"""Baseline -> which thresholds of a stretched pair are fitted."""

Predict = Callable[[Scene], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Pixels:
    """What a rule looks at in a scene."""

    form: str
    """``stretched``, ``change``, ``single``, or ``shown``: a single image of display values."""
    bands: tuple[Band, ...]
    """Before and after, or one."""


def pixels_of(scene: Scene) -> Pixels | None:
    """Return the bands that a threshold rule works on, or None where there are none that it could.

    A pair is told by the roles ``reference`` and ``flood``, or the names before and after; of several polarizations VH
    is taken, as in UN-SPIDER's practice, of a single date the first band.
    """
    before, after = (_with_role(scene, *words) for words in (("reference", "before"), ("flood", "after")))
    pairs = [(a, b) for a in before for b in after if (a.polarization, a.unit) == (b.polarization, b.unit)]
    pairs.sort(key=lambda pair: pair[0].polarization != "VH")
    for pair in pairs:
        unit = pair[0].unit
        if unit == Unit(Quantity.DIGITAL_NUMBER, Scale.LINEAR):
            return Pixels("stretched", pair)
        if unit.quantity in POWERS:
            return Pixels("change", pair)
    single = [b for b in scene.bands if b.unit.quantity in POWERS]
    if single and not (before or after):
        return Pixels("single", (single[0],))
    shown = [b for b in after or scene.bands if b.unit == Unit(Quantity.DIGITAL_NUMBER, Scale.LINEAR)]
    return Pixels("shown", (shown[0],)) if len(shown) == 1 and not before else None


def _with_role(scene: Scene, role: str, name: str) -> list[Band]:
    return [b for b in scene.bands if b.role == role] or [b for b in scene.bands if b.name == name]


def check_baselines(recipe: Recipe, catalog: Catalog, test_sets: Sequence[str]) -> None:
    """Refuse baselines that no test set allows, before anything is trained; raises `RecipeError`."""
    if not recipe.baselines:
        return
    if recipe.task != "segment" or len(catalog.classes) != 2:
        raise RecipeError(
            f"baselines {list(recipe.baselines)}: threshold rules tell two classes of pixels apart (task: segment); "
            f"this is {recipe.task} with {len(catalog.classes)} classes."
        )
    forms = {name: _form(catalog, name) for name in test_sets}
    if not any(forms.values()):
        raise RecipeError(
            "baselines: no test set has a pair (bands of the roles reference and flood) or a calibrated band that a "
            "threshold could look at. Say what the bands are, or leave baselines out."
        )
    only = [b for b in recipe.baselines if b != "threshold"]
    if only and "stretched" not in forms.values():
        raise RecipeError(
            f"baselines {only}: for pairs of 8-bit display values only; `threshold` is for all."
        )


def _form(catalog: Catalog, split: str) -> str | None:
    entries = catalog.in_split(split)
    found = pixels_of(open_entry(entries[0])) if entries else None
    return found.form if found else None


def score_rules(
    recipe: Recipe, catalog: Catalog, test_sets: Sequence[TestSet], data_hash: str, folder: Path
) -> tuple[list[ScoredRun], dict[str, dict[str, str]]]:
    """Score every baseline on every test set that has what it needs; kept in `folder`, and done once.

    Pixels that count are those that count for the networks. Returns the scores as of runs called ``rule:NAME`` with
    the seed `NO_SEED`, and the words that say what the rule is: baseline -> test set -> words.
    """
    runs: list[ScoredRun] = []
    words: dict[str, dict[str, str]] = {}
    for name in recipe.baselines:
        tests: dict[str, TestScores] = {}
        said: dict[str, str] = {}
        fitted: dict[str, tuple[Predict, str]] = {}  # by form: fitted once for all test sets
        for test_set in test_sets:
            made = _kept_or_scored(name, recipe, catalog, test_set.name, data_hash, folder, fitted)
            if made is not None:
                tests[test_set.name], said[test_set.name] = made
        if tests:
            runs.append(ScoredRun(PREFIX + name, max(recipe.fractions), NO_SEED, tests))
            words[name] = said
    return runs, words


def rule_rows(runs: Iterable[ScoredRun], test_sets: Sequence[TestSet]) -> list[Any]:
    """Return the rows of rules for results.csv; unseen events are joined where the rule has all of them."""
    rows = []
    for run in runs:
        whole = all(t.name in run.tests for t in test_sets if t.is_joined)
        rows += tidy_rows([run], test_sets if whole else ())
    return rows


def rules_json(
    runs: Iterable[ScoredRun], words: dict[str, dict[str, str]], test_sets: Sequence[TestSet]
) -> list[dict[str, Any]]:
    """Return, for each rule, what it is and its scores of whole test sets, as JSON values."""
    found = []
    for run in runs:
        name = run.initialization.removeprefix(PREFIX)
        rows = [r for r in rule_rows([run], test_sets) if r[4] == "" and r[5] == ""]
        scores = [
            {"test_set": r[3], "class": r[6], "metric": r[7], "value": None if np.isnan(r[8]) else r[8]}
            for r in rows
        ]
        found.append({"name": name, "words": words[name], "scores": scores})
    return found


def _kept_or_scored(
    name: str,
    recipe: Recipe,
    catalog: Catalog,
    test_set: str,
    data_hash: str,
    folder: Path,
    fitted: dict[str, tuple[Predict, str]],
) -> tuple[TestScores, str] | None:
    form = _form(catalog, test_set)
    if form is None or (name != "threshold" and form != "stretched"):
        return None
    bands = [b.model_dump(mode="json") for b in recipe.data.bands]
    key = json.loads(
        json.dumps([VERSION, name, data_hash, list(catalog.classes), bands, _wet(recipe, catalog)])
    )
    path = folder / f"{name}-{test_set}.json"
    kept = read_json(path) if path.is_file() else {}
    if kept.get("key") != key:
        if form not in fitted:
            fitted[form] = FORMS[form](name, catalog, _wet(recipe, catalog))
        predict, words = fitted[form]
        scores = _score(predict, recipe, catalog, test_set)
        kept = {"key": key, "words": words, **scores_json(scores)}
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, kept)
    scenes = tuple(
        SceneScore(s["id"], s["group"], np.array(s["confusion"], dtype=np.int64)) for s in kept["scenes"]
    )
    return TestScores(test_set, catalog.classes, scenes), kept["words"]


def _score(predict: Predict, recipe: Recipe, catalog: Catalog, test_set: str) -> TestScores:
    """Count what a rule says of a test set."""
    refuse_unsaid_labels(catalog, catalog.in_split(test_set))
    first = catalog.in_split(TRAIN) or catalog.in_split(test_set)
    contract = resolve_contract(recipe.data.bands, open_entry(first[0]))
    wet = _wet(recipe, catalog)
    scenes = tuple(_scene(e, catalog, contract, predict, wet) for e in catalog.in_split(test_set))
    return TestScores(test_set, catalog.classes, scenes)


def _scene(entry: Entry, catalog: Catalog, contract: InputContract, predict: Predict, wet: int) -> SceneScore:
    scene = open_entry(entry)
    valid = contract.read(scene, normalize=False).valid
    flooded = predict(scene)
    guess = np.where(flooded, wet, 1 - wet).astype(np.uint8)
    truth = read_label(entry, catalog)
    total = confusion_matrix(truth, guess, len(catalog.classes), valid=valid, ignore_index=IGNORE_INDEX)
    return SceneScore(entry.id, entry.group or entry.id, total)


def _wet(recipe: Recipe, catalog: Catalog) -> int:
    """Return the class that the rule finds: the primary score's, or the second."""
    return catalog.classes.index(recipe.primary.class_) if recipe.primary.class_ in catalog.classes else 1


def _stretched(name: str, catalog: Catalog, wet: int) -> tuple[Predict, str]:
    kind, unit = KINDS[name], Unit(Quantity.DIGITAL_NUMBER, Scale.LINEAR)
    entries = _alike(catalog, "stretched")
    rule = fit_stretched_rule((_counted(e, catalog, wet) for e in entries), unit, kind)
    limits = []
    if kind != "drop":
        limits.append(f"after at most {rule.max_after}")
    if kind != "after":
        limits.append(f"before - after at least {rule.min_drop}")
    words = f"display values, {' and '.join(limits)}: fitted on {len(entries)} training images (IoU {rule.iou:.3f})"

    def predict(scene: Scene) -> NDArray[np.bool_]:
        values, valid = scene.read(_names(scene, "stretched"))
        return np.asarray(rule.predict(values, valid) == 1)

    return predict, words


def _counted(entry: Entry, catalog: Catalog, wet: int) -> NDArray[np.integer]:
    scene = open_entry(entry)
    values, valid = scene.read(_names(scene, "stretched"))
    label = read_label(entry, catalog)
    binary = np.where(label == IGNORE_INDEX, IGNORE_INDEX, label == wet).astype(np.uint8)
    return count_pair(values, binary, valid)


def _change(name: str, catalog: Catalog, wet: int) -> tuple[Predict, str]:
    def predict(scene: Scene) -> NDArray[np.bool_]:
        found = pixels_of(scene)
        if found is None or found.form != "change":
            raise InputError(f"scene {scene.id!r} has no calibrated pair as the others of its test set have.")
        data, valid = scene.read([b.name for b in found.bands])
        made = map_flood(data[0], data[1], found.bands[0].unit, pixel_size=_pixel_size(scene), valid=valid)
        return np.asarray(made.provenance == Rule.FLOODED)

    return predict, (
        f"UN-SPIDER's practice as written: after / before in dB above {UN_SPIDER.threshold}, focal mean of 50 m, 8 "
        "connected pixels; tile by tile, without permanent water and slopes, fitted on nothing"
    )


def _pixel_size(scene: Scene) -> tuple[float, float]:
    """Return a pixel's height and width in metres: as a projected grid says, or `PIXEL`."""
    place = scene.georeference
    if place.transform is None or place.crs is None:
        return PIXEL, PIXEL
    from rasterio.crs import CRS

    crs = CRS.from_user_input(place.crs)
    if not crs.is_projected:
        return PIXEL, PIXEL
    a, b, _, d, e, _ = place.transform
    factor = float(crs.linear_units_factor[1])
    return float(np.hypot(b, e)) * factor, float(np.hypot(a, d)) * factor


def _single(name: str, catalog: Catalog, wet: int) -> tuple[Predict, str]:
    entries = _alike(catalog, "single", needed=False)
    rule = OtsuRule()
    if entries:
        rule = fit_otsu_rule(
            ((_decibels(open_entry(e)), None) for e in entries), Unit(Quantity.SIGMA0, Scale.DB)
        )
    fallback = (
        "each image has one" if rule.fallback is None else f"{rule.fallback:.1f} dB, of all {len(entries)} training "
        "images, where an image has not two populations"
    )  # fmt: skip

    def predict(scene: Scene) -> NDArray[np.bool_]:
        return np.asarray(rule.predict(_decibels(scene)) == 1)

    return predict, f"water below Otsu's threshold of the image in dB; {fallback}; no labels are used"


def _shown(name: str, catalog: Catalog, wet: int) -> tuple[Predict, str]:
    rule = OtsuRule()

    def predict(scene: Scene) -> NDArray[np.bool_]:
        data, valid = scene.read(_names(scene, "shown"))
        # Otsu's threshold goes with the values under any a x + b: what is shown as 0 to 255 falls within its histogram.
        return np.asarray(rule.predict(data / SHOWN * SHOWN_DB - SHOWN_DB, valid) == 1)

    return (
        predict,
        "water below Otsu's threshold of the image's display values; each image has one; no labels are used",
    )


def _decibels(scene: Scene) -> NDArray[np.float32]:
    """Return the one band that is looked at in dB (1, H, W)."""
    (name,) = _names(scene, "single")
    unit = Unit(scene.band(name).unit.quantity, Scale.DB)
    return scene.read([name], units=unit).data


def _names(scene: Scene, form: str) -> list[str]:
    found = pixels_of(scene)
    if found is None or found.form != form:
        raise InputError(f"scene {scene.id!r} has not the bands that the others of its test set have.")
    return [b.name for b in found.bands]


def _alike(catalog: Catalog, form: str, *, needed: bool = True) -> list[Entry]:
    """Return the training scenes that are of this form."""
    found = []
    for entry in catalog.in_split(TRAIN):
        pixels = pixels_of(open_entry(entry))
        if pixels is not None and pixels.form == form:
            found.append(entry)
    if needed and not found:
        raise InputError("no training scene is a pair of 8-bit display values: a threshold cannot be fitted.")
    return found


FORMS: dict[str, Callable[[str, Catalog, int], tuple[Predict, str]]] = {
    "stretched": _stretched,
    "change": _change,
    "single": _single,
    "shown": _shown,
}
