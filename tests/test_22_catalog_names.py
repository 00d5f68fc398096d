"""What a catalog says amiss without being broken: names of splits, scenes without a pixel, a split or a class."""

from dataclasses import replace

import numpy as np
import pytest

from sartransfer.catalog import Asset, Catalog, Entry, read_catalog, write_catalog
from sartransfer.contract import InputBand, InputContract
from sartransfer.data.check import STRIPE, check_catalog, holds_nothing, unit_warnings
from sartransfer.data.patches import Samples, SceneStore
from sartransfer.data.resolve import open_catalog
from sartransfer.data.splits import assign_test, assign_validation, fraction_warnings, left_out, take_fraction
from sartransfer.errors import CatalogError, OutputError, RecipeError
from sartransfer.radar.units import parse_unit
from sartransfer.readers.array import write_array
from sartransfer.recipe import AugmentRecipe, BandRecipe, DataRecipe, PatchRecipe, parse_recipe
from sartransfer.recipe.data import name_fault
from sartransfer.scene import ArraySource, Band, Scene

DB = parse_unit("sigma0_db")
VALIDATION = ("val", "VAL", "valid", "dev", "Dev", "Validation", "VALIDATION")
TRAIN = ("training", "Training", "trn", "Train", "TRAIN")
NO_NAMES = (
    "../run",
    "../x",
    "a/b",
    "a\\b",
    "unseen events",
    ".hidden",
    "-x",
    "Überflutung",
    "a\n",
    "a:b",
    "..",
)
NAMES = ("test", "albania", "held-out", "solo", "sen1floods11", "2021", "v1.2_a+b", "Test", "trainee")


def entry(id, split=None, **more):
    return Entry(id, (Asset(f"{id}.tif"),), split=split, **more)


# ---- names of splits ----


@pytest.mark.parametrize(
    ("name", "meant"), [*((n, "validation") for n in VALIDATION), *((n, "train") for n in TRAIN)]
)
def test_what_others_call_training_and_validation_is_no_test_set(tmp_path, name, meant):
    """`val` was a test set of unseen events, and validation was drawn from training."""
    with pytest.raises(CatalogError, match=f"split '{name}'.*did you mean '{meant}'"):
        entry("a", name)
    (tmp_path / "c.csv").write_text(f"id,image,split\na,a.tif,train\nb,b.tif,{name}\n")
    with pytest.raises(CatalogError, match=rf"c\.csv, row 3: entry 'b': split '{name}'.*'{meant}'"):
        read_catalog(tmp_path / "c.csv")


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_that_is_no_file_s_is_refused_in_catalogs(name):
    """`../run` put scores in the place of a run's record, `a/b` ended a run after its training."""
    with pytest.raises(CatalogError, match=r"letters, digits, '\.', '_', '\+' and '-' only.*Rename it"):
        entry("a", name)
    with pytest.raises(CatalogError, match="entry 'a'"):
        replace(entry("a", "test"), split=name)  # as draws and splits by event do
    with pytest.raises(CatalogError, match="Rename it"):
        assign_test(Catalog("c", (entry("a"), entry("b")), ()), 0.5, 0, name)


@pytest.mark.parametrize("name", [*NAMES, "train", "validation", None, ""])
def test_names_that_are_good_stay_so(tmp_path, name):
    catalog = Catalog("c", (Entry("a", (Asset(tmp_path / "a.tif"),), split=name),), ())
    read = read_catalog(write_catalog(catalog, tmp_path / "c.csv"))
    assert read.entries[0].split == (name or None)


@pytest.mark.parametrize("name", [*NO_NAMES, "val", "Train"])
@pytest.mark.parametrize(
    "part", [("tests", {"per_class": 3}), ("external", {"dataset": "sen1floods11", "root": "x"})]
)
def test_a_recipe_s_test_sets_are_named_alike(name, part):
    """The names that a catalog refuses are refused before it is opened, and only those."""

    def recipe(given):
        return parse_recipe(
            {
                "name": "r",
                "task": "classify",
                "data": {"catalog": "c.csv", part[0]: {given: part[1]}},
                "model": {"name": "resnet18"},
                "initializations": {"a": "random"},
                "primary": {"metric": "accuracy"},
            }
        )

    with pytest.raises(RecipeError, match=rf"data\.{part[0]}: ") as caught:
        recipe(name)
    assert name_fault(name) in str(caught.value)
    for good in NAMES:
        assert good in getattr(recipe(good).data, part[0])


def test_what_is_proposed_instead_would_do():
    for name, near in (("a/b", "a-b"), ("unseen events", "unseen-events"), ("../run", "run")):
        assert f"{near!r} for example" in name_fault(name)
        assert name_fault(near) is None
    assert name_fault("..").endswith("Rename it.")


# ---- scenes in which no pixel is valid ----


def write_scene(folder, id, values, **more):
    bands = [Band(n, DB) for n in ("a", "b")[: len(values)]]
    label = np.zeros(values.shape[1:], np.uint8)
    label[:, ::2] = 1
    path = write_array(folder / f"{id}.npz", values.astype(np.float32), bands, label=label)
    return Entry(id, (Asset(path),), label=path, **more)


def decibels(seed, bands=2):
    return np.random.default_rng(seed).normal(-12, 3, (bands, 24, 24))


@pytest.fixture
def scenes(tmp_path):
    """Scenes that are whole, empty, empty in one band, empty where the other is not, and with one pixel."""
    bare, one_band, torn, single = (decibels(i) for i in range(1, 5))
    bare[:] = np.nan
    one_band[1] = np.nan
    torn[0, :12], torn[1, 12:] = np.nan, np.nan
    value = single[:, 20, 3].copy()
    single[:] = np.nan
    single[:, 20, 3] = value
    named = {"whole": decibels(0), "bare": bare, "one_band": one_band, "torn": torn, "single": single}
    entries = [write_scene(tmp_path, id, values, split="train") for id, values in named.items()]
    return Catalog("c", tuple(entries), ("dry", "flooded"))


def test_a_scene_without_a_valid_pixel_is_a_problem(scenes):
    found = [(p.id, p.message) for p in check_catalog(scenes) if p.kind == "empty scene"]
    assert [id for id, _ in found] == ["bare", "one_band", "torn"]
    assert "no pixel is valid: there is no value of a, b." in found[0][1]
    assert "no pixel is valid: there is no value of b." in found[1][1]
    assert "no pixel is valid: none has a value in every band." in found[2][1]
    assert {p.kind for p in check_catalog(scenes)} == {"empty scene"}
    assert check_catalog(scenes, content=False) == []


@pytest.mark.parametrize(
    ("bands", "expected"),
    [
        ((), ["bare", "one_band", "torn"]),
        ((BandRecipe(name="a"),), ["bare"]),
        ((BandRecipe(name="b"),), ["bare", "one_band"]),
        ((BandRecipe(name="d", difference=("a", "b")),), ["bare", "one_band", "torn"]),
    ],
)
def test_of_a_recipe_the_bands_that_it_asks_for_count(scenes, bands, expected):
    found = check_catalog(scenes, bands=bands)
    assert [p.id for p in found if p.kind == "empty scene"] == expected


def test_a_comparison_tells_of_scenes_without_any_value(scenes):
    """Not of those with a band that is empty, which the recipe may not ask for."""
    assert [w for w in unit_warnings(scenes) if "no pixel is valid" in w] == [
        "scene 'bare': no pixel is valid. Mend it, or leave it out."
    ]


def test_one_pixel_is_found_wherever_it_lies():
    side = 2 * STRIPE + 3  # three stripes, and more than the centre that is looked at first
    values = np.full((1, side, 600), np.nan, np.float32)
    scene = Scene("s", (Band("a", DB),), side, 600, source=ArraySource(values))
    assert holds_nothing(scene)
    for row, col in ((0, 0), (side // 2, 300), (STRIPE - 1, 599), (STRIPE, 0), (side - 1, 599)):
        values[0, row, col] = -10
        assert not holds_nothing(scene)
        values[0, row, col] = np.nan


def test_no_patch_of_a_scene_without_pixels_is_said_to_be_so(scenes):
    """It was said to have too little label, which data.patch cannot mend."""
    contract = InputContract((InputBand("a", "sigma0_db"), InputBand("b", "sigma0_db")))

    def draw(id):
        chosen = [e for e in scenes.entries if e.id == id]
        store = SceneStore(scenes, chosen, contract)
        return Samples(store, patch=PatchRecipe(size=8), recipe=AugmentRecipe(), seed=0)[0]

    for id in ("bare", "torn"):
        with pytest.raises(CatalogError, match=f"'{id}'.*no pixel of the scene is valid") as caught:
            draw(id)
        assert "min_labelled" not in str(caught.value)
    with pytest.raises(CatalogError, match=r"'single'.*Lower data\.patch\.min_labelled"):
        draw("single")


# ---- scenes without a split ----


def test_scenes_that_are_left_out_are_told_of_once(tmp_path, call):
    entries = [
        write_scene(tmp_path, f"s{i}", decibels(i), split=split)
        for i, split in enumerate(["train", "train", "test", *[None] * 7])
    ]
    catalog = Catalog("c", tuple(entries), ("dry", "flooded"))
    (words,) = left_out(catalog)
    assert words.startswith("7 of 10 scenes have no split and are left out: s3, s4, s5, s6, s7 and 2 more.")
    for split in (None, "train"):
        assert left_out(catalog.with_entries(replace(e, split=split) for e in entries)) == []
    few = left_out(catalog.with_entries(entries[:4]))
    assert few[0].startswith("1 of 4 scenes have no split and are left out: s3. Fill")
    code, out, _ = call("catalog", "check", write_catalog(catalog, tmp_path / "c.csv"))
    assert out.count("have no split") == 1
    assert code == 0
    assert "10 scenes, 0 problems" in out


# ---- shares of the training scenes ----


@pytest.mark.parametrize("sizes", [(4,), (100,), (3, 1, 8), (50, 2), (1,)])
def test_a_share_that_cannot_be_had_is_told_with_the_one_that_is_taken(sizes):
    """`fractions: [0.01]` of four scenes trained on one of them and was called 1% of the labels."""
    members = [(k, i) for k, size in enumerate(sizes) for i in range(size)]
    entries = [entry(f"{k}-{i}", "train", category=f"c{k}" if len(sizes) > 1 else None) for k, i in members]
    catalog = Catalog("c", (*entries, entry("t", "test")), ())
    for fraction in (0.01, 0.1, 0.25, 0.5, 0.9, 1.0):
        taken = len(take_fraction(catalog, fraction, 0).in_split("train"))
        found = fraction_warnings(catalog, [fraction])
        assert len(found) == (abs(taken - fraction * len(entries)) > 0.2 * fraction * len(entries))
        if found:
            assert f"{fraction:g} is not to be had of {len(entries)} training scenes" in found[0]
            assert f": {taken} of them are taken, {100 * taken / len(entries):.1f}% of the labels" in found[0]
    assert fraction_warnings(catalog.with_entries([]), [0.1]) == []


# ---- advice ----


def test_a_catalog_without_classes_is_told_so_once(tmp_path, call):
    """Each label was said to hold values that are not listed: 255 alone was."""
    entries = [write_scene(tmp_path, f"s{i}", decibels(i), split="train") for i in range(3)]
    bare = Catalog("nameless", tuple(entries), ())
    (problem,) = check_catalog(bare)
    assert (problem.kind, problem.id) == ("label", "nameless")
    assert "names no classes" in problem.message
    assert "catalog check RECIPE" in problem.message
    code, out, _ = call("catalog", "check", write_catalog(bare, tmp_path / "c.csv"))
    assert (code, out.count("names no classes")) == (1, 1)
    assert "not listed" not in out
    assert check_catalog(replace(bare, classes=("dry", "flooded"))) == []
    assert check_catalog(bare.with_entries(replace(e, label=None) for e in entries)) == []
    odd = check_catalog(replace(bare, classes=("dry",)))
    assert len(odd) == 3  # where classes are named, each label is still looked at
    assert all("not listed" in p.message for p in odd)


def test_one_group_is_answered_with_what_to_do():
    one = Catalog("c", tuple(entry(f"e{i}", "train", group="g") for i in range(4)), ())
    with pytest.raises(CatalogError, match="'validation' cannot be drawn") as caught:
        assign_validation(one, 0.2, 0)
    for fix in (
        "column `group`",
        "split `validation`",
        "data.validation.halves",
        "fraction: 0",
        "weights: last",
    ):
        assert fix in str(caught.value)
    with pytest.raises(CatalogError, match="column `group`, or fill the column `split`") as caught:
        assign_test(one.with_entries(replace(e, split=None) for e in one.entries), 0.2, 0)
    assert "validation" not in str(caught.value)


@pytest.mark.parametrize("name", ["w.txt", "w", "w.tsv", "w.csv.bak", ".csv"])
def test_a_catalog_is_not_written_under_another_ending(tmp_path, call, name):
    catalog = Catalog("c", (Entry("a", (Asset(tmp_path / "a.tif"),), split="train"),), ("x",))
    with pytest.raises(OutputError, match=r"\.csv .*\.geojson"):
        write_catalog(catalog, tmp_path / name)
    source = write_catalog(catalog, tmp_path / "Good.CSV")
    code, _, err = call("catalog", "write", source, "-o", tmp_path / name)
    assert code == 2
    assert ".geojson" in err
    assert not (tmp_path / name).exists()


def test_classes_of_patches_in_another_order_are_not_answered_with_label_values(tmp_path):
    rows = "".join(f"{i},{i}.tif,{('bus', 'tank')[i % 2]},train,g{i}\n" for i in range(4))
    (tmp_path / "c.csv").write_text(f"id,image,class,split,group\n{rows}")
    path = str(tmp_path / "c.csv")
    with pytest.raises(RecipeError, match=r"Leave them out.*column `class`") as caught:
        open_catalog(DataRecipe(catalog=path, classes=("tank", "bus")), check=False)
    assert "label_values" not in str(caught.value)
    same = open_catalog(DataRecipe(catalog=path, classes=("bus", "tank")), check=False)
    assert same.classes == ("bus", "tank")
    (tmp_path / "d.csv").write_text('# {"classes": ["a", "b"]}\nid,image,label,split\n0,0.tif,0.png,train\n')
    with pytest.raises(
        RecipeError, match=r"data\.label_values"
    ):  # a raster's values have a meaning to be told
        open_catalog(DataRecipe(catalog=str(tmp_path / "d.csv"), classes=("b", "a")), check=False)
