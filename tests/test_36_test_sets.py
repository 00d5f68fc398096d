"""Labels in levels, and the two kinds of test sets: drawn by class from training groups, and whole groups."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from small_data import make_catalog
from small_patches import AMPLITUDE, TESTS, ids, patches, recipe_of, write_cities

from sartransfer.catalog import TRAIN, Asset, Catalog, Entry, read_catalog, write_catalog
from sartransfer.data.leakage import check_leakage, content_hashes, refuse_leaks, relation
from sartransfer.data.levels import cut_label, take_level
from sartransfer.data.resolve import open_catalog, same_scenes
from sartransfer.errors import CatalogError, LeakageError, RecipeError
from sartransfer.readers.array import write_array
from sartransfer.recipe import DataRecipe
from sartransfer.scene import GeoReference


@pytest.fixture(scope="module")
def cities(tmp_path_factory):
    return write_cities(tmp_path_factory.mktemp("cities"))


# ---- levels ----


LEVELS = [
    "town/dense/towers",
    "water/sea",
    "town/dense/blocks",
    "town/open/villas",
    "unknown",
    "water / lake",
]


@pytest.mark.parametrize(
    ("level", "drop", "classes", "kept"),
    [
        (1, (), ("town", "water", "unknown"), [0, 1, 2, 3, 4, 5]),
        (1, ("unknown",), ("town", "water"), [0, 1, 2, 3, 5]),
        (2, (), ("town/dense", "water/sea", "town/open", "unknown", "water/lake"), [0, 1, 2, 3, 4, 5]),
        (2, ("town/open", "unknown"), ("town/dense", "water/sea", "water/lake"), [0, 1, 2, 5]),
        (3, ("unknown",), ("town/dense/towers", "water/sea", "town/dense/blocks", "town/open/villas", "water/lake"),
         [0, 1, 2, 3, 5]),
        (None, ("unknown", "water / lake"), tuple(LEVELS[:4]), [0, 1, 2, 3]),
    ],
)  # fmt: skip
def test_labels_are_cut_to_their_level_and_classes_left_out(level, drop, classes, kept):
    found = take_level(patches(LEVELS), level, drop)
    assert found.classes == classes
    assert [e.id for e in found.entries] == [f"p{i}" for i in kept]
    for entry in found.entries:
        whole = LEVELS[int(entry.id[1:])]
        expected = whole if level is None else "/".join(p.strip() for p in whole.split("/")[:level])
        assert entry.category == expected


def test_without_level_and_drop_nothing_is_touched():
    catalog = replace(patches(LEVELS), classes=(*LEVELS, "never seen"))
    assert take_level(catalog) is catalog
    assert "never seen" not in take_level(catalog, 1).classes  # of those that remain


def test_the_order_of_the_classes_is_the_catalog_s_or_sorted():
    catalog = replace(patches(LEVELS), classes=("water/sea", "unknown", *LEVELS[2:4], LEVELS[0], LEVELS[5]))
    assert take_level(catalog, 1).classes == ("water", "unknown", "town")
    assert take_level(replace(catalog, classes=()), 1).classes == ("town", "unknown", "water")


def test_labels_that_cannot_be_cut_are_refused(tmp_path):
    assert cut_label("a / b/c", 2) == "a/b"
    with pytest.raises(CatalogError, match="empty part"):
        take_level(patches(["a//b", "c"]), 1)
    with pytest.raises(RecipeError, match=r"data\.drop='wter' is not known.*Did you mean 'water'"):
        take_level(patches(LEVELS), 1, ["wter"])
    with pytest.raises(RecipeError, match=r"data\.drop='town'"):  # at level 2 there is no such class
        take_level(patches(LEVELS), 2, ["town"])
    with pytest.raises(CatalogError, match="'town' holds the class 'town/dense'"):
        take_level(patches(["town", "town/dense/blocks", "sea"]), 2)
    with pytest.raises(CatalogError, match=r"1 class\(es\) remain"):
        take_level(patches(LEVELS), 1, ["water", "unknown"])
    with pytest.raises(RecipeError, match="has a label raster"):
        take_level(make_catalog(tmp_path, {"train": 1}, size=8), 1)


# ---- Test Data 1 and 2, through a recipe ----


def test_two_kinds_of_test_sets(cities):
    data = recipe_of(cities, tests=TESTS)
    catalog = open_catalog(data)
    assert catalog == open_catalog(data)
    assert ids(catalog, "test2") == {
        f"{c}{i}" for c in "be" for i in range(28)
    }  # whole, but for what was dropped
    assert Counter(e.category for e in catalog.in_split("test1")) == {"town": 9, "water": 9}
    groups = {s: {e.group for e in catalog.in_split(s)} for s in catalog.splits}
    assert len(groups["validation"]) == 1
    assert groups["test1"] <= groups["train"] == set("acdf") - groups["validation"]
    assert not groups["test2"] & (groups["train"] | groups["validation"] | groups["test1"])
    assert len(catalog.entries) == 6 * 28
    assert all(e.split for e in catalog.entries)
    # no picture of Test Data 2 is seen in training, whatever its name
    seen = {
        h for s in ("train", "validation", "test1") for e in catalog.in_split(s) for h in content_hashes(e)
    }
    assert not seen & {h for e in catalog.in_split("test2") for h in content_hashes(e)}
    assert relation(catalog, "test1") == "same scenes"
    assert relation(catalog, "test2") == "unseen events"
    assert same_scenes(data) == ("test1",)


def test_the_draw_is_the_seed_s_and_hardly_the_validation_s(cities):
    def drawn(seed=3, validation=0):
        tests = TESTS | {"test1": {"per_class": 4, "seed": seed}}
        return open_catalog(
            recipe_of(cities, tests=tests, validation={"fraction": 0.2, "seed": validation}), check=False
        )

    assert ids(drawn(), "test1") != ids(drawn(seed=4), "test1")
    one, other = drawn(), drawn(validation=1)
    validated = {e.group for c in (one, other) for e in c.in_split("validation")}
    assert len(validated) == 2
    same = {e.id for c in (one,) for e in c.in_split("test1") if e.group not in validated}
    assert same <= ids(other, "test1")


def test_two_draws_do_not_overlap(cities):
    tests = {"one": {"per_class": 5}, "two": {"per_class": 5}}
    catalog = open_catalog(recipe_of(cities, tests=tests))
    assert not ids(catalog, "one") & ids(catalog, "two")
    assert len(catalog.in_split("one")) == len(catalog.in_split("two")) == 10


def test_every_patch_of_a_class_is_as_likely_to_be_drawn(cities):
    counts = Counter()
    for seed in range(100):
        data = recipe_of(
            cities, tests={"t": {"per_class": 6, "seed": seed}}, validation={"fraction": 0}
        )  # fmt: skip
        counts.update(ids(open_catalog(data, check=False), "t"))
    water = [f"{c}{i}" for c in "abcdef" for i in range(22, 28)]
    # 100 draws of 6 in 36: 16.7 each, standard deviation 3.7
    assert all(2 < counts[w] < 34 for w in water)
    assert sum(counts[w] for w in water) == 600


def test_test_sets_that_cannot_be_are_refused(cities):
    def refused(kind, said, **more):
        with pytest.raises(kind, match=said):
            open_catalog(recipe_of(cities, **more), check=False)

    refused(
        CatalogError, r"data\.tests\.t: 40 patches a class .* water \(30\)", tests={"t": {"per_class": 40}}
    )
    refused(CatalogError, r"town \(\d+\), water \(\d+\)", tests={"t": {"per_class": 200}})
    enough = {"tests": {"t": {"per_class": 29}}}
    assert len(open_catalog(recipe_of(cities, **enough), check=False).in_split("t")) == 58
    refused(CatalogError, r"water \(30\)", tests={"t": {"per_class": 30}})  # none would be left to train on
    refused(RecipeError, r"data\.tests\.t\.groups='g' is not known", tests={"t": {"groups": ["g"]}})
    refused(RecipeError, "'a' is in 't' already", tests={"t": {"groups": ["a"]}, "u": {"groups": ["b", "a"]}})


def test_an_unknown_group_is_answered_with_the_nearest(tmp_path):
    many = patches(["x", "y"] * 15, [f"berlin-{i:02d}" for i in range(29)] + ["roma"])
    path = write_catalog(many, tmp_path / "c.csv")
    with pytest.raises(RecipeError, match=r"'rome' is not known.* and 10 more\..*Did you mean 'roma'\?"):
        open_catalog(DataRecipe.model_validate({"catalog": str(path), "tests": {"t": {"groups": ["rome"]}}}))


def test_groups_are_taken_from_training_where_there_are_splits(cities, tmp_path):
    catalog = read_catalog(cities)
    given = {"a": "validation", "b": "fixed"}
    split = catalog.with_entries(replace(e, split=given.get(e.group, TRAIN)) for e in catalog.entries)
    path = write_catalog(split, tmp_path / "c.csv")
    found = open_catalog(recipe_of(path, tests={"t": {"groups": ["c"]}, "u": {"per_class": 3}}))
    assert {s: len({e.group for e in found.in_split(s)}) for s in ("validation", "fixed", "t", "train")} == {
        "validation": 1, "fixed": 1, "t": 1, "train": 3,
    }  # fmt: skip
    assert {e.group for e in found.in_split("u")} <= set("def")
    with pytest.raises(CatalogError, match="group 'b' stands in the split 'fixed'"):
        open_catalog(recipe_of(path, tests={"t": {"groups": ["b"]}}))
    with pytest.raises(CatalogError, match="'fixed' already"):
        open_catalog(recipe_of(path, tests={"fixed": {"groups": ["c"]}}))


def test_of_label_rasters_groups_can_be_held_out_and_no_patches_a_class(tmp_path):
    catalog = make_catalog(tmp_path, {"": 5}, size=8)  # groups 0 to 4
    path = write_catalog(catalog, tmp_path / "c.csv")
    held = DataRecipe.model_validate({"catalog": str(path), "tests": {"new": {"groups": ["1", "2"]}}})
    assert len(open_catalog(held).in_split("new")) == 2
    drawn = DataRecipe.model_validate({"catalog": str(path), "tests": {"new": {"per_class": 1}}})
    with pytest.raises(CatalogError, match="has no class"):
        open_catalog(drawn)


@pytest.fixture
def placed(tmp_path):
    """Patches of one scene on the ground, cut as tiles, in two groups; `shift` pixels overlap."""

    def make(overlap=0, copy=False):
        entries = []
        for i in range(24):
            place = GeoReference("EPSG:32633", (10.0, 0.0, 5e5 + 10.0 * (16 - overlap) * i, 0.0, -10.0, 5e6))
            values = np.random.default_rng(0 if copy else i).gamma(2, 50, (1, 16, 16)).astype(np.float32)
            path = write_array(tmp_path / f"{i}_{overlap}_{copy}.npz", values, AMPLITUDE, georeference=place)
            entries.append(Entry(f"p{i}", (Asset(path),), category="xy"[i % 2], group=f"g{i // 8}"))
        name = tmp_path / f"c{overlap}{copy}.csv"
        return write_catalog(Catalog("c", tuple(entries), ("x", "y")), name)

    return make


def test_a_drawn_test_may_share_groups_with_training_and_nothing_else(placed):
    asked = {"tests": {"t": {"per_class": 3}}, "validation": {"fraction": 0.0}}

    def opened(path, **more):
        return open_catalog(DataRecipe.model_validate({"catalog": str(path)} | asked | more))

    fine = opened(placed())
    assert {k.kind for k in check_leakage(fine)} == {"group"}
    with pytest.raises(LeakageError, match="footprint"):
        opened(placed(overlap=4))
    with pytest.raises(LeakageError, match="content"):
        opened(placed(copy=True), same_scenes=["t"])
    # the same catalog with the split written down is refused: only what the recipe draws is known to be drawn
    leaks = check_leakage(fine)
    with pytest.raises(LeakageError, match="group"):
        refuse_leaks(leaks)
    refuse_leaks(leaks, drawn=["t"])
    moved = fine.with_entries(replace(e, split="validation") if e.split == "t" else e for e in fine.entries)
    with pytest.raises(LeakageError, match="group"):  # with validation nothing is shared
        refuse_leaks(check_leakage(moved), drawn=["t"])


# ---- test sets from other data ----


def chart(folder, *, classes=("land", "water"), values=None, **more):
    """A small catalog file in a folder of its own, with other label values where asked for."""
    catalog = make_catalog(folder, {"test": 2, "extra": 1}, seed=5, name="other", **more)
    return str(write_catalog(replace(catalog, classes=classes, label_values=values or {}), folder / "c.csv"))


def with_external(ours, **external):
    return DataRecipe.model_validate({"catalog": ours, "external": external})


def test_other_data_are_a_test_set_and_nothing_else(tmp_path):
    ours = str(write_catalog(make_catalog(tmp_path / "a"), tmp_path / "a" / "catalog.csv"))
    data = with_external(ours, far={"catalog": chart(tmp_path / "b")}, near={
        "catalog": chart(tmp_path / "c", ignore=0.1), "split": "extra"})  # fmt: skip
    alone, joined = open_catalog(DataRecipe(catalog=ours)), open_catalog(data, check=False)
    assert joined.entries[: len(alone.entries)] == alone.entries
    assert [e.id for e in joined.in_split("far")] == ["far/test0", "far/test1", "far/extra0"]
    assert [e.id for e in joined.in_split("near")] == ["near/extra0"]
    assert set(joined.splits) == {"train", "validation", "test", "far", "near"}


def test_other_data_must_mean_the_same_by_their_labels(tmp_path):
    ours = str(write_catalog(make_catalog(tmp_path / "a"), tmp_path / "a" / "catalog.csv"))
    unlike = chart(tmp_path / "b", classes=("water", "land"))
    with pytest.raises(
        RecipeError, match=r"data.external.far: its classes are water, land; ours are land, water"
    ):
        open_catalog(with_external(ours, far={"catalog": unlike}))
    turned = chart(tmp_path / "c", values={0: 1, 1: 0})
    with pytest.raises(RecipeError, match="label value 0 means another class"):
        open_catalog(with_external(ours, far={"catalog": turned}))
    more = chart(tmp_path / "d", values={0: 0, 1: 1, 7: 255})
    assert open_catalog(with_external(ours, far={"catalog": more})).label_values == {
        0: 0,
        1: 1,
        7: 255,
        255: 255,
    }
    with pytest.raises(RecipeError, match="has a split 'test' already"):
        open_catalog(with_external(ours, test={"catalog": more}))
    with pytest.raises(RecipeError, match=r"split='tset'.*Did you mean"):
        open_catalog(with_external(ours, far={"catalog": more, "split": "tset"}))
    with pytest.raises(RecipeError, match=r"data.external.far.dataset"):
        open_catalog(with_external(ours, far={"dataset": "ombra", "root": "."}))


def test_other_data_are_seen_by_the_leak_check(tmp_path):
    catalog = make_catalog(tmp_path / "a")
    ours = str(write_catalog(catalog, tmp_path / "a" / "catalog.csv"))
    with pytest.raises(LeakageError, match="'far'"):
        open_catalog(with_external(ours, far={"catalog": ours, "split": "train"}))


def test_display_values_of_backscatter(tmp_path):
    """-25 to 0 dB as 0 to 255: by hand, and the same from linear power."""
    from sartransfer.geotiff import write_geotiff
    from sartransfer.readers import open_scene
    from sartransfer.scene import parse_bands

    decibel = np.array([[-30.0, -25.0, -12.5], [0.0, 3.0, np.nan]], dtype=np.float32)
    write_geotiff(tmp_path / "db.tif", decibel, descriptions=("VV",), units=("sigma0_db",))
    write_geotiff(tmp_path / "linear.tif", 10 ** (decibel / 10), descriptions=("VV",), units=("sigma0",))
    write_geotiff(tmp_path / "bare.tif", decibel)
    write_geotiff(tmp_path / "gamma.tif", decibel, descriptions=("VV",), units=("gamma0_db",))
    bands = parse_bands("after=digital_number@flood")
    for name in ("db", "linear", "bare"):
        scene = open_scene(tmp_path / f"{name}.tif", "display", bands)
        data, valid = scene.read()
        assert scene.bands == bands
        np.testing.assert_array_equal(valid, np.isfinite(decibel))
        np.testing.assert_array_equal(data[0][valid], [0, 0, 128, 255, 255])
    # gamma0 is taken as it is, by the same stretch; `display_warnings` says so (test_91_display)
    data, valid = open_scene(tmp_path / "gamma.tif", "display", bands).read()
    np.testing.assert_array_equal(data[0][valid], [0, 0, 128, 255, 255])
