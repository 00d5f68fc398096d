"""Labels of a rule and scenes that were trained on: what files and run folders know themselves, without being told."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from small_data import make_catalog, write_small
from test_86_tiles import SMALL, make_flood

from sartransfer import seen
from sartransfer.catalog import Asset, Catalog, Entry, read_catalog, write_catalog
from sartransfer.data.rule_labels import is_rule_labelled, rule_of_label, ruled_entries
from sartransfer.folds import cut_folds, plan_folds
from sartransfer.geotiff import write_geotiff
from sartransfer.plan import plan_comparison, relation_of
from sartransfer.prepare import pair_catalog, prepare_tiles
from sartransfer.readers import open_scene
from sartransfer.recipe import Recipe, parse_recipe
from sartransfer.runs import write_json
from sartransfer.seen import standings

NETWORK = SimpleNamespace(metadata={"identity": "it"})


def recipe_of(catalog, **more):
    return parse_recipe({
        "name": "r", "task": "segment", "data": {"catalog": str(catalog), "validation": {"fraction": 0.25}},
        "model": {"name": "unet-resnet18", "options": {"encoder_depth": 3, "decoder_channels": [8, 8, 8]}},
        "initializations": {"random": "random"}, "seeds": [0], "primary": {"metric": "iou", "class": "water"},
        "training": {"epochs": 1},
    } | more)  # fmt: skip


def run_of(folder, recipe, identity="it"):
    """The folder of a run as far as it says what it was trained on."""
    folder.mkdir(parents=True)
    write_json(folder / "run.json", {"identity": identity, "status": "finished"})
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    return folder


@pytest.fixture
def mine(tmp_path):
    """A catalog that a run was trained on, and the run."""
    path = write_small(tmp_path / "mine", {"train": 4, "test": 2})
    return path, run_of(tmp_path / "run", recipe_of(path))


@pytest.fixture
def tiles(tmp_path):
    """Tiles of two floods by a rule, and of one that is drawn by hand."""
    pairs = {name: make_flood(tmp_path, name, seed=i) for i, name in enumerate(("ebro", "elbe", "oder"))}
    hand = tmp_path / "hand.tif"
    scene = open_scene(pairs["oder"][2])
    write_geotiff(hand, scene.read().data[0].astype(np.uint8), georeference=scene.georeference, nodata=255.0)
    pairs["oder"] = (*pairs["oder"][:2], hand)
    return prepare_tiles(pair_catalog(pairs), tmp_path / "tiles", SMALL, tests=["elbe", "oder"]).catalog


def test_tiles_keep_the_mark_of_the_rule_that_made_their_labels(tiles):
    catalog = read_catalog(tiles)
    assert {e.group for e in ruled_entries(catalog.entries)} == {"ebro", "elbe"}
    assert json.loads(rule_of_label(catalog.in_split("elbe")[0].label)) == {"rules": "change"}
    assert [is_rule_labelled(catalog, name) for name in ("elbe", "oder")] == [True, False]


def test_without_a_word_in_the_recipe_scores_on_a_rules_labels_are_agreement(tiles, tmp_path):
    more = {"primary": {"metric": "iou", "class": "flooded"}}
    data = {"catalog": str(tiles), "validation": {"fraction": 0}}
    recipe = recipe_of(tiles, data=data, training={"epochs": 1, "weights": "last"}, **more)
    assert recipe.rule_labelled == ()
    sets = {t.name: t for t in plan_comparison(recipe, tmp_path / "out").test_sets}
    assert (sets["elbe"].relation, sets["elbe"].is_joined) == ("labels of a rule", False)
    assert (sets["oder"].relation, sets["oder"].is_joined) == ("unseen events", True)
    catalog = read_catalog(tiles)
    assert relation_of(None, catalog, "elbe") == "labels of a rule"
    mixed = catalog.with_entries(
        replace(e, split="both" if e.split != "train" else "train") for e in catalog.entries
    )
    assert relation_of(None, mixed, "both") == "labels of a rule"  # one is enough


def test_folds_of_a_rules_labels_are_agreement_too(tiles, tmp_path):
    catalog = read_catalog(tiles)
    ruled = catalog.with_entries(replace(e, split="train") for e in catalog.entries if e.group != "oder")
    hand = catalog.with_entries(
        replace(e, split="train", group=f"{e.group}{i % 2}")
        for i, e in enumerate(catalog.entries)
        if e.group == "oder"
    )
    for name, entries, said, expected in (
        ("ruled", ruled, (), "labels of a rule"),
        ("hand", hand, (), "unseen events"),
        ("said", hand, ("held-out",), "labels of a rule"),  # of labels that do not say it themselves
    ):
        path = write_catalog(entries, tmp_path / f"{name}.csv")
        recipe = recipe_of(
            path, data={"catalog": str(path), "validation": {"fraction": 0}}, rule_labelled=said,
            training={"epochs": 1, "weights": "last"}, primary={"metric": "iou", "class": "flooded"},
        )  # fmt: skip
        cut = cut_folds(recipe, 2)
        (tmp_path / name / "folds").mkdir(parents=True)
        for number, fold in enumerate(cut.catalogs, start=1):
            write_catalog(fold, tmp_path / name / "folds" / f"fold-{number}.csv")
        plans = plan_folds(cut, tmp_path / name)
        assert {p.test_sets[0].relation for p in plans} == {expected}, name


def test_a_mask_whose_tag_was_emptied_and_other_files_are_no_rules(tmp_path):
    paths = [tmp_path / name for name in ("empty.tif", "none.tif", "absent.tif", "label.png", "broken.tif")]
    write_geotiff(paths[0], np.zeros((4, 4), np.uint8), tags={"SARTRANSFER_FLOOD": ""})
    write_geotiff(paths[1], np.zeros((4, 4), np.uint8))
    paths[4].write_text("no image")
    assert [rule_of_label(p) for p in paths] == [None] * 5


def copies(catalog, folder, split="train", again=None):
    """Its scenes as a test set of other files, ids and groups; `again` writes one in its own way."""
    folder.mkdir()
    entries = []
    for i, e in enumerate(read_catalog(catalog).in_split(split)):
        path = (again or shutil.copy)(e.assets[0].path, folder / f"s{i}{'.tif' if again else '.npz'}")
        entries.append(Entry(f"s{i}", (Asset(path),), label=e.label, split="test", group=f"g{i}"))
    return Catalog("copies", tuple(entries), ("land", "water"))


def as_geotiff(source, target):
    scene = open_scene(source)
    return write_geotiff(target, scene.read().data, descriptions=scene.names, units=["sigma0_db"] * 2)


def test_scenes_that_were_trained_on_are_known_under_any_name(mine, tmp_path, monkeypatch):
    path, run = mine
    (found,) = standings({run: NETWORK}, None, copies(path, tmp_path / "a"), ["test"]).values()
    assert found.relation == "same scenes"
    assert "4 of 4 scenes" in found.why
    other = copies(path, tmp_path / "b", again=as_geotiff)
    assert standings({run: NETWORK}, None, other, ["test"])["test"].relation == "same scenes"
    fresh = copies(path, tmp_path / "c", split="test")
    found = standings({run: NETWORK}, None, fresh, ["test"])["test"]
    assert found.relation == "unseen events"
    assert "none of the 4 scenes that were trained on" in found.why
    monkeypatch.setattr(seen, "DECODED", 0)  # of more than can be decoded: files of the same bytes
    assert (
        standings({run: NETWORK}, None, copies(path, tmp_path / "d"), ["test"])["test"].relation
        == "same scenes"
    )
    assert standings({run: NETWORK}, None, fresh, ["test"])["test"].relation == "unseen events"


def test_where_it_cannot_be_known_it_is_said(mine, tmp_path):
    path, run = mine
    fresh = copies(path, tmp_path / "new", split="test")

    def relation(network=NETWORK, catalog=fresh, folder=run):
        found = standings({folder: network}, None, catalog, ["test"])["test"]
        return found.relation, found.why

    named = fresh.with_entries(replace(e, group="train1") for e in fresh.entries)
    assert relation(catalog=named)[0] == "not known"
    assert "train1 is a group of the scenes that were trained on too" in relation(catalog=named)[1]
    lone = fresh.with_entries(replace(e, group=None) for e in fresh.entries)
    assert relation(catalog=lone)[0] == "not known"
    assert relation(SimpleNamespace(metadata={"identity": "another"}))[0] == "not known"  # of another run
    assert relation(folder=tmp_path / "nowhere" / "best.safetensors")[0] == "not known"
    whole = read_catalog(path)  # with training scenes of its own: believed, and said so
    assert relation(folder=tmp_path / "nowhere", catalog=whole)[0] == "unseen events"
    assert "if the network was trained on" in relation(folder=tmp_path / "nowhere", catalog=whole)[1]
    shutil.rmtree(tmp_path / "mine")
    assert relation()[0] == "not known"
    assert "not at hand" in relation()[1]


def test_a_recipe_that_is_the_runs_own_says_it_and_another_is_compared(mine, tmp_path):
    path, run = mine
    own = Recipe.from_yaml(run / "recipe.yaml")
    found = standings({run: NETWORK}, own, read_catalog(path), ["test"])["test"]
    assert (found.relation, found.why) == ("unseen events", "")
    # Its training scenes are another recipe's tests: that recipe's splits say nothing of this network.
    turned = make_catalog(tmp_path / "turned", {"train": 2}, seed=9)
    mixed = Catalog("t", (*turned.entries, *copies(path, tmp_path / "e").entries), turned.classes)
    other = recipe_of(write_catalog(mixed, tmp_path / "turned.csv"))
    assert relation_of(other, mixed, "test") == "unseen events"
    assert standings({run: NETWORK}, other, mixed, ["test"])["test"].relation == "same scenes"
    # Two networks together know what either knows.
    second = run_of(
        tmp_path / "second", recipe_of(write_small(tmp_path / "far", {"train": 2, "test": 1}, seed=5))
    )
    both = {second: NETWORK, run: NETWORK}
    assert standings({second: NETWORK}, other, mixed, ["test"])["test"].relation == "unseen events"
    assert standings(both, other, mixed, ["test"])["test"].relation == "same scenes"
    again = read_catalog(path)
    none = standings({run: NETWORK}, None, again, ["elbe"], source=path)["elbe"]
    assert (none.relation, none.why) == ("not known", "there is no scene in 'elbe'")
    assert standings({run: NETWORK}, None, again, ["train"], source=path)["train"].relation == "same scenes"
