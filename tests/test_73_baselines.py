"""Threshold rules as rows of a comparison: against brute force, with the networks' pixels, apart from rule labels."""

import copy
import csv
import json

import numpy as np
import pytest

from sartransfer.baselines import (
    NO_SEED,
    PREFIX,
    check_baselines,
    pixels_of,
    rule_rows,
    rules_json,
    score_rules,
)
from sartransfer.catalog import Asset, Catalog, Entry, write_catalog
from sartransfer.comparison import compare
from sartransfer.errors import RecipeError
from sartransfer.figures import draw_epochs
from sartransfer.plan import plan_comparison
from sartransfer.radar.flood import map_flood
from sartransfer.radar.flood_baselines import OtsuRule
from sartransfer.radar.units import parse_unit
from sartransfer.readers import open_entry, open_scene, read_label
from sartransfer.readers.array import write_array
from sartransfer.recipe import parse_recipe
from sartransfer.report import write_report
from sartransfer.results import TestSet
from sartransfer.scene import Band
from sartransfer.wording import RULE_LABELS, UNSEEN_EVENTS

SIZE = 32
CLASSES = ("dry", "flooded")


def write_pair(path, seed, *, unit="digital_number", kind="pair", holes=False):
    """A pair with a flooded half of the scene: darker after by a good deal, with noise."""
    rng = np.random.default_rng(seed)
    label = np.zeros((SIZE, SIZE), np.uint8)
    label[:, : 8 + seed % 16] = 1
    before = rng.normal(120, 15, label.shape)
    after = rng.normal(120, 15, label.shape) - 50 * label
    if unit == "digital_number":
        images = np.clip(np.round([before, after]), 0, 255)
    else:
        images = (np.array([before, after]) - 120) / 10 - 12  # dB: -12, and -17 where flooded
    label[rng.random(label.shape) < 0.05] = 255
    values = images.astype(np.float32)
    if holes:
        values[1, :4] = np.nan
    known = parse_unit(unit)
    bands = [Band("before", known, "VH", role="reference"), Band("after", known, "VH", role="flood")]
    if kind == "single":
        values, bands = values[1:], [Band("VH", known, "VH")]
    return write_array(path, values, bands, label=label)


def make_floods(folder, splits, **more):
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for split, count in splits.items():
        for i in range(count):
            path = write_pair(folder / f"{split}{i}.npz", len(entries), **more)
            entries.append(Entry(f"{split}{i}", (Asset(path),), label=path, split=split, group=f"{split}{i}"))
    return Catalog("floods", tuple(entries), CLASSES)


def recipe_of(folder, bands=("before", "after"), **more):
    return parse_recipe({
        "name": "floods", "task": "segment", "data": {"catalog": str(folder / "catalog.csv"), "bands": list(bands)},
        "model": {"name": "unet-resnet18", "options": {"encoder_depth": 3, "decoder_channels": [8, 8, 8]}},
        "initializations": {"random": "random"}, "seeds": 1, "primary": {"metric": "iou", "class": "flooded"},
        "training": {"epochs": 2, "batch_size": 4, "precision": "fp32"}, **more,
    })  # fmt: skip


def sets_of(catalog):
    return [TestSet(n, len(catalog.in_split(n)), 1, "unseen events") for n in catalog.test_sets]


def iou_of(scores):
    c = scores.confusion
    return c[1, 1] / (c[1].sum() + c[0, 1])


def test_the_fitted_rule_is_the_best_of_all_thresholds_on_training_and_is_counted_on_the_test(tmp_path):
    catalog = make_floods(tmp_path, {"train": 3, "test": 2})
    recipe = recipe_of(tmp_path, baselines=["threshold", "threshold-drop", "threshold-after"])
    runs, words = score_rules(recipe, catalog, sets_of(catalog), "hash", tmp_path / "rules")
    assert [r.initialization for r in runs] == [
        "rule:threshold",
        "rule:threshold-drop",
        "rule:threshold-after",
    ]
    assert {r.seed for r in runs} == {NO_SEED}

    pixels = {}
    for split in ("train", "test"):
        parts = [(open_entry(e).read().data, read_label(e, catalog)) for e in catalog.in_split(split)]
        pixels[split] = np.concatenate(
            [np.vstack([d.reshape(2, -1), t.reshape(1, -1)]) for d, t in parts], axis=1
        )

    def counts(split, low_after, low_drop):
        before, after, truth = pixels[split]
        guess = (after <= low_after) & (before - after >= low_drop) & (truth != 255)
        hits = (guess & (truth == 1)).sum()
        return hits / (guess.sum() + (truth == 1).sum() - hits)

    after_only = {a: counts("train", a, -999) for a in range(40, 180)}
    best = max(after_only, key=after_only.get)
    (test,) = runs[2].tests.values()
    assert iou_of(test) == pytest.approx(counts("test", best, -999))
    assert f"after at most {best}: fitted on 3 training images (IoU {after_only[best]:.3f})" in words[
        "threshold-after"
    ]["test"]  # fmt: skip
    drops = {d: counts("train", 999, d) for d in range(-40, 120)}
    drop = max(drops, key=drops.get)
    assert iou_of(runs[1].tests["test"]) == pytest.approx(counts("test", 999, drop))
    # the pair of thresholds cannot be worse on training than either alone
    both = float(words["threshold"]["test"].rsplit("IoU ", 1)[1].rstrip(")"))
    assert both >= max(after_only[best], drops[drop]) - 5e-4


def test_scores_are_kept_and_done_anew_for_other_data(tmp_path, monkeypatch):
    catalog = make_floods(tmp_path, {"train": 2, "test": 1})
    recipe = recipe_of(tmp_path, baselines=["threshold"])
    (first,), _ = score_rules(recipe, catalog, sets_of(catalog), "a", tmp_path / "rules")
    kept = tmp_path / "rules" / "threshold-test.json"
    values = json.loads(kept.read_text())
    values["scenes"][0]["confusion"] = [[1, 2], [3, 4]]
    kept.write_text(json.dumps(values))
    (again,), words = score_rules(recipe, catalog, sets_of(catalog), "a", tmp_path / "rules")
    assert again.tests["test"].confusion.tolist() == [[1, 2], [3, 4]]
    assert "fitted on 2 training images" in words["threshold"]["test"]
    (other,), _ = score_rules(recipe, catalog, sets_of(catalog), "b", tmp_path / "rules")
    np.testing.assert_array_equal(other.tests["test"].confusion, first.tests["test"].confusion)


def test_a_calibrated_pair_gets_the_practice_as_written(tmp_path):
    catalog = make_floods(tmp_path, {"train": 1, "test": 2}, unit="sigma0_db", holes=True)
    recipe = recipe_of(tmp_path, baselines=["threshold"])
    (run,), words = score_rules(recipe, catalog, sets_of(catalog), "a", tmp_path / "rules")
    assert "UN-SPIDER" in words["threshold"]["test"]
    entry = catalog.in_split("test")[1]
    (before, after), valid = open_entry(entry).read()
    made = map_flood(before, after, parse_unit("sigma0_db"), pixel_size=(10.0, 10.0), valid=valid)
    truth = read_label(entry, catalog)
    counted = valid & (truth != 255)
    score = run.tests["test"].scenes[1].confusion
    assert score.sum() == counted.sum()  # the pixels that the networks are scored on, and no others
    assert score[1, 1] == (counted & (truth == 1) & (made.provenance == 1)).sum()
    assert score[0, 1] == (counted & (truth == 0) & (made.provenance == 1)).sum()


def test_a_single_calibrated_image_gets_otsu(tmp_path):
    catalog = make_floods(tmp_path, {"train": 2, "test": 1}, unit="sigma0_db", kind="single")
    recipe = recipe_of(tmp_path, bands=("VH",), baselines=["threshold"])
    (run,), words = score_rules(recipe, catalog, sets_of(catalog), "a", tmp_path / "rules")
    assert "Otsu's threshold" in words["threshold"]["test"]
    assert "all 2 training images" in words["threshold"]["test"]
    entry = catalog.in_split("test")[0]
    data, valid = open_entry(entry).read()
    water = data[0] < OtsuRule().threshold(data[0], valid)
    truth = read_label(entry, catalog)
    c = run.tests["test"].confusion
    assert c[1, 1] + c[0, 1] == pytest.approx((water & (truth != 255)).sum(), abs=truth.size // 20)
    assert iou_of(run.tests["test"]) > 0.5


def test_which_bands_a_rule_looks_at(tmp_path):
    def scene(*bands):
        values = np.zeros((len(bands), 4, 4), np.float32)
        return open_scene(write_array(tmp_path / "x.npz", values, list(bands), overwrite=True))

    db, eight = parse_unit("gamma0_db"), parse_unit("digital_number")
    pair = [Band(f"{w}_{p.lower()}", db, p, role=r) for w, r in (("before", "reference"), ("after", "flood"))
            for p in ("VV", "VH")]  # fmt: skip
    found = pixels_of(scene(*pair))
    assert (found.form, [b.name for b in found.bands]) == ("change", ["before_vh", "after_vh"])
    named = pixels_of(scene(Band("before", eight), Band("after", eight)))
    assert named.form == "stretched"
    assert pixels_of(scene(Band("VV", db, "VV"), Band("VH", db, "VH"))).bands[0].name == "VV"
    assert pixels_of(scene(Band("red", parse_unit("optical")))) is None
    assert pixels_of(scene(Band("before", db, "VV"), Band("after", db, "VH"))) is None  # two polarizations
    assert pixels_of(scene(Band("before", eight), Band("after", db))) is None


def test_baselines_that_cannot_be_are_refused_before_training(tmp_path):
    catalog = make_floods(tmp_path, {"train": 1, "test": 1}, unit="sigma0_db", kind="single")
    check_baselines(recipe_of(tmp_path), catalog, ["test"])
    check_baselines(recipe_of(tmp_path, baselines=["threshold"]), catalog, ["test"])
    with pytest.raises(RecipeError, match="8-bit display values only"):
        check_baselines(recipe_of(tmp_path, baselines=["threshold-drop"]), catalog, ["test"])
    three = Catalog("c", catalog.entries, ("dry", "flooded", "ice"))
    with pytest.raises(RecipeError, match="two classes of pixels"):
        check_baselines(recipe_of(tmp_path, baselines=["threshold"]), three, ["test"])
    optical = make_floods(tmp_path / "o", {"train": 1, "test": 1}, unit="optical", kind="single")
    with pytest.raises(RecipeError, match="no test set has a pair"):
        check_baselines(recipe_of(tmp_path, baselines=["threshold"]), optical, ["test"])


def test_recipes_without_baselines_keep_their_digest(tmp_path):
    plain = recipe_of(tmp_path)
    given = recipe_of(tmp_path, baselines=[], rule_labelled=[])
    assert plain.digest() == given.digest()
    assert plain.digest() != recipe_of(tmp_path, baselines=["threshold"]).digest()


def test_unseen_events_are_joined_for_rules_too(tmp_path):
    catalog = make_floods(tmp_path, {"train": 1, "po": 1, "elbe": 1})
    recipe = recipe_of(tmp_path, baselines=["threshold"])
    sets = sets_of(catalog)
    runs, words = score_rules(recipe, catalog, sets, "a", tmp_path / "rules")
    rows = rule_rows(runs, sets)
    joined = [r for r in rows if r[3] == UNSEEN_EVENTS and r[4:8] == ("", "", "flooded", "iou")]
    total = sum(runs[0].tests[n].confusion for n in ("po", "elbe"))
    assert joined[0][8] == pytest.approx(total[1, 1] / (total[1].sum() + total[0, 1]))
    assert {r[0] for r in rows} == {PREFIX + "threshold"}
    (found,) = rules_json(runs, words, sets)
    assert {s["test_set"] for s in found["scores"]} == {"po", "elbe", UNSEEN_EVENTS}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison of one start with the rule, on a test set with hand labels and one that a rule has labelled."""
    folder = tmp_path_factory.mktemp("compared")
    catalog = make_floods(folder, {"train": 4, "validation": 1, "hand": 1, "ruled": 1})
    write_catalog(catalog, folder / "catalog.csv")
    recipe = recipe_of(folder, baselines=["threshold"], rule_labelled=["ruled"], initializations={
        "random": "random", "other": {"from": "random", "freeze": ["encoder.layer1"]}})  # fmt: skip
    return recipe, compare(recipe, folder / "out", device="cpu"), folder / "out"


def test_the_rule_is_a_row_of_the_results_under_its_own_kind(compared):
    _, made, out = compared
    with (out / "results.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["initialization"].startswith(PREFIX)]
    assert {r["seed"] for r in rows} == {str(NO_SEED)}
    whole = next(r for r in rows if (r["test_set"], r["group"], r["scene"], r["class"], r["metric"])
                 == ("hand", "", "", "flooded", "iou"))  # fmt: skip
    (rule,) = made.results["rules"]
    kept = next(
        s for s in rule["scores"] if (s["test_set"], s["class"], s["metric"]) == ("hand", "flooded", "iou")
    )
    assert float(whole["value"]) == kept["value"]
    assert not any(
        r["initialization"].startswith(PREFIX) for r in made.results["table"]
    )  # no start, no seeds
    assert kept["value"] > 0.7


def test_rule_and_network_are_scored_on_the_same_pixels(compared):
    _, _, out = compared
    network = json.loads((out / "runs/random/1/seed0/scores/hand.json").read_text())
    rule = json.loads((out / "rules/threshold-hand.json").read_text())
    for one, two in zip(network["scenes"], rule["scenes"], strict=True):
        assert one["id"] == two["id"]
        np.testing.assert_array_equal(np.sum(one["confusion"], axis=1), np.sum(two["confusion"], axis=1))


def test_agreement_with_a_rule_is_kept_apart_from_accuracy(compared):
    _, made, out = compared
    relation = {t["name"]: (t["relation"], t["events_unseen"]) for t in made.results["test_sets"]}
    assert relation["ruled"] == (RULE_LABELS, False)
    assert relation["hand"] == ("unseen events", True)
    assert any("agreement with that rule" in w for w in made.results["warnings"])
    verdict = [s for s in made.verdict if "random" in s and "other" in s]
    assert verdict
    assert not any("ruled" in s for s in verdict)  # no verdict rests on it
    assert any("come from a rule" in s for s in made.verdict)
    text = write_report(out).read_text()
    assert "agreement with that rule" in text
    assert text.count("threshold rule") >= 2
    assert "baseline, no network" in text


def test_scores_and_losses_by_epoch_are_drawn_for_all_starts(compared):
    _, made, _ = compared
    figure = draw_epochs(made.results, 1.0)
    score, loss = figure.axes[:2]
    assert len(score.lines) == 2
    assert len(loss.lines) == 4  # validation and training
    run = next(r for r in made.results["runs"] if r["initialization"] == "random")
    np.testing.assert_allclose(score.lines[0].get_ydata(), run["curves"]["validation_metric"])
    assert draw_epochs(made.results, 0.5) is None
    assert loss.get_yscale() == "linear"
    leapt = copy.deepcopy(made.results)
    leapt["runs"][0]["curves"]["validation_loss"][0] = (
        90.0  # as a random start may do: the others would lie at 0
    )
    assert draw_epochs(leapt, 1.0).axes[1].get_yscale() == "log"


def test_a_test_set_that_is_not_there_cannot_be_rule_labelled(tmp_path):
    write_catalog(make_floods(tmp_path, {"train": 2, "validation": 1, "test": 1}), tmp_path / "catalog.csv")
    with pytest.raises(RecipeError, match="rule_labelled='tset'"):
        plan_comparison(recipe_of(tmp_path, rule_labelled=["tset"]), tmp_path / "out")


def test_a_single_image_of_display_values_gets_otsu_of_what_is_shown(tmp_path):
    """Against brute force: the cut of 0 to 255 with the largest variance between."""
    values = np.random.default_rng(4).normal(120, 15, (SIZE, SIZE))
    label = np.zeros((SIZE, SIZE), np.uint8)
    label[:, :11] = 1
    values = np.clip(np.round(values - 70 * label), 0, 255).astype(np.float32)
    band = Band("after", parse_unit("digital_number"), "VV", role="flood")
    path = write_array(tmp_path / "one.npz", values[None], [band], label=label)
    catalog = Catalog(
        "floods", (Entry("one", (Asset(path),), label=path, split="test", group="one"),), CLASSES
    )
    assert pixels_of(open_entry(catalog.entries[0])).form == "shown"
    recipe = recipe_of(tmp_path, bands=("after",), baselines=["threshold"])
    check_baselines(recipe, catalog, ["test"])
    (run,), words = score_rules(recipe, catalog, sets_of(catalog), "a", tmp_path / "rules")
    assert "display values" in words["threshold"]["test"]

    def between(cut):
        low, high = values[values < cut], values[values >= cut]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2 if len(low) and len(high) else 0

    cut = max(range(1, 256), key=between)
    water = values < cut
    c = run.tests["test"].confusion
    assert abs(int(c[1, 1]) - int((water & (label == 1)).sum())) <= 3
    assert abs(int(c[0, 1]) - int((water & (label == 0)).sum())) <= 3
    assert iou_of(run.tests["test"]) > 0.9
