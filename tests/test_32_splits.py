"""Splits against brute force; leaks against scenes cut up on purpose."""

import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sartransfer.catalog import Asset, Catalog, Entry
from sartransfer.data.leakage import Leak, check_leakage, refuse_leaks, relation, stitch_groups, stitch_pairs
from sartransfer.data.splits import (
    assign_test,
    assign_validation,
    draw_per_class,
    group_folds,
    hold_out_groups,
    take_fraction,
)
from sartransfer.errors import CatalogError, LeakageError, RecipeError
from sartransfer.readers.array import write_array
from sartransfer.scene import GeoReference, parse_bands


def catalog(sizes, split="train", category=None):
    """Groups of the given sizes; a size of 0 is an entry without a group."""
    entries = []
    for g, size in enumerate(sizes):
        for i in range(size or 1):
            entries.append(
                Entry(
                    f"{g}_{i}", (Asset("x.png"),), split=split, group=f"g{g}" if size else None,
                    category=category(g) if category else None,
                )
            )  # fmt: skip
    return Catalog("c", tuple(entries), tuple(sorted({e.category for e in entries if e.category})))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=8), st.floats(0.05, 0.95), st.integers(0, 99))
def test_validation_is_as_near_as_any_choice_of_whole_groups(sizes, fraction, seed):
    drawn = assign_validation(catalog(sizes), fraction, seed)
    split_of = {}
    for entry in drawn.entries:
        assert split_of.setdefault(entry.group or entry.id, entry.split) == entry.split
    weights = [s or 1 for s in sizes]
    total = sum(weights)
    choices = [sum(c) for k in range(1, len(weights)) for c in combinations(weights, k)]
    nearest = min(abs(c - fraction * total) for c in choices)
    assert abs(len(drawn.in_split("validation")) - fraction * total) == pytest.approx(nearest)
    assert drawn == assign_validation(catalog(sizes), fraction, seed)


def test_the_draw_depends_on_the_seed():
    draws = {
        tuple(e.id for e in assign_validation(catalog([0] * 20), 0.3, s).in_split("validation"))
        for s in range(9)
    }
    assert len(draws) > 5


def test_every_entry_is_as_likely_as_any_other():
    counts = Counter(
        e.id for s in range(600) for e in assign_validation(catalog([0] * 10), 0.3, s).in_split("validation")
    )
    # 600 draws of 3 in 10: 180 each, standard deviation 11
    assert all(120 < counts[f"{i}_0"] < 240 for i in range(10))


def test_patches_are_drawn_class_by_class():
    many = catalog([0] * 90, category=lambda g: "rare" if g < 10 else "common")
    drawn = assign_validation(many, 0.2, 0)
    assert Counter(e.category for e in drawn.in_split("validation")) == {"rare": 2, "common": 16}


def test_one_group_cannot_be_divided():
    with pytest.raises(CatalogError, match="at least two groups"):
        assign_validation(catalog([5]), 0.2, 0)
    with pytest.raises(CatalogError, match="validation split already"):
        assign_validation(assign_validation(catalog([5, 5]), 0.5, 0), 0.5, 0)
    for fraction in (0, 1, -1, float("nan")):
        with pytest.raises(CatalogError, match="between 0 and 1"):
            assign_validation(catalog([5, 5]), fraction, 0)


def test_a_test_set_is_drawn_from_what_has_no_split():
    mixed = catalog([3, 3, 3, 3], split=None)
    mixed = mixed.with_entries([*mixed.entries, Entry("fixed", (Asset("x.png"),), split="albania")])
    drawn = assign_test(mixed, 0.25, 0, "held")
    assert Counter(e.split for e in drawn.entries) == {"train": 9, "held": 3, "albania": 1}
    assert len({e.group for e in drawn.in_split("held")}) == 1
    with pytest.raises(CatalogError, match="'albania' already"):
        assign_test(mixed, 0.25, 0, "albania")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=5), st.integers(1, 6), st.integers(0, 99))
def test_so_many_patches_of_each_class_are_drawn_and_training_keeps_some(sizes, count, seed):
    names = [f"class{k}" for k in range(len(sizes))]
    entries = tuple(
        Entry(f"{k}_{i}", (Asset("x.png"),), category=names[k], split="train" if i % 4 else "validation")
        for k, size in enumerate(sizes)
        for i in range(size)
    )
    whole = Catalog("c", entries, tuple(names))
    left = Counter(e.category for e in whole.in_split("train"))
    if any(left[n] <= count for n in names):
        short = ", ".join(f"{n} ({left[n]})" for n in names if left[n] <= count)
        with pytest.raises(CatalogError, match=re.escape(f" of {short} in the groups")):
            draw_per_class(whole, "t", count, seed)
        return
    drawn = draw_per_class(whole, "t", count, seed)
    assert drawn == draw_per_class(whole, "t", count, seed)
    assert Counter(e.category for e in drawn.in_split("t")) == dict.fromkeys(names, count)
    assert drawn.in_split("validation") == whole.in_split("validation")
    assert {e.id for e in drawn.in_split("train")} == {e.id for e in whole.in_split("train")} - {
        e.id for e in drawn.in_split("t")
    }


def test_groups_are_held_out_whole():
    mixed = catalog([3, 2, 4, 0], split=None)
    held = hold_out_groups(mixed, {"far": ["g2"], "near": ["g0", "g1"]})
    assert [(e.id, e.split) for e in held.entries] == [
        (e.id, {"g0": "near", "g1": "near", "g2": "far"}.get(e.group, "train")) for e in mixed.entries
    ]
    assert {e.split for e in hold_out_groups(mixed, {}).entries} == {"train"}
    fixed = mixed.with_entries([*held.entries, Entry("map", (Asset("x.png"),), group="g9")])
    assert hold_out_groups(fixed, {}) == fixed  # what has no split there stays without
    with pytest.raises(RecipeError, match=r"data\.tests\.t\.groups='g9' is not known"):
        hold_out_groups(fixed, {"t": ["g9"]})
    with pytest.raises(CatalogError, match="group 'g2' stands in the split 'far'"):
        hold_out_groups(fixed, {"t": ["g2"]})
    with pytest.raises(CatalogError, match="'near' already"):
        hold_out_groups(fixed, {"near": []})


def test_folds_hold_every_group_out_once_and_are_balanced():
    sizes = [7, 1, 1, 4, 3, 2, 2]
    folds = group_folds(catalog(sizes), 3, seed=1)
    held = [e.id for f in folds for e in f.in_split("test")]
    assert sorted(held) == sorted(e.id for e in catalog(sizes).entries)
    for fold in folds:
        assert not {e.group for e in fold.in_split("test")} & {e.group for e in fold.in_split("train")}
    assert sorted(len(f.in_split("test")) for f in folds) == [6, 7, 7]
    with pytest.raises(CatalogError, match="of 7 groups"):
        group_folds(catalog(sizes), 8, seed=1)
    with pytest.raises(CatalogError, match="already"):
        group_folds(catalog(sizes, split="test"), 2, seed=1)
    with pytest.raises(CatalogError, match="seed=-1 must be 0 or more"):
        group_folds(catalog(sizes), 3, seed=-1)


@pytest.mark.parametrize("classes", [None, lambda g: f"class{g % 3}"])
def test_smaller_fractions_lie_within_larger_ones(classes):
    whole = catalog([1] * 60, category=classes)
    whole = whole.with_entries([*whole.entries, Entry("t", (Asset("x.png"),), split="test")])
    before: set[str] = set()
    for fraction in (0.001, 0.05, 0.1, 0.25, 0.5, 1.0):
        kept = take_fraction(whole, fraction, seed=3)
        ids = {e.id for e in kept.in_split("train")}
        assert before <= ids
        assert len(ids) == max(round(fraction * 60), 3 if classes else 1)
        assert len({e.category for e in kept.in_split("train")}) == (3 if classes else 1)
        assert len(kept.in_split("test")) == 1
        before = ids
    for fraction in (0, 1.1, float("nan")):
        with pytest.raises(CatalogError, match="above 0, up to 1"):
            take_fraction(whole, fraction, 0)


def speckle(seed, size, layers=2):
    rng = np.random.default_rng(seed)
    noise = rng.gamma(3.0, 20.0, (layers, size + 2, size + 2))
    smooth = sum(noise[:, i : i + size, j : j + size] for i in range(3) for j in range(3)) / 9
    return smooth * (1 + np.add.outer(np.linspace(0, 2, size), np.linspace(0, 3, size)))  # trends in common


def tiles_of(image, tile):
    rows, cols = (n // tile for n in image.shape[1:])
    return [
        image[:, r * tile : (r + 1) * tile, c * tile : (c + 1) * tile]
        for r in range(rows)
        for c in range(cols)
    ]


@pytest.mark.parametrize("layers", [1, 2])
def test_tiles_of_one_image_are_stitched_and_others_are_not(layers):
    """Eight images of 9 tiles each, shuffled: the known truth, exactly, neighbour by neighbour."""
    cut = [(k, i, t) for k in range(8) for i, t in enumerate(tiles_of(speckle(k, 768, layers), 256))]
    order = np.random.default_rng(0).permutation(len(cut))
    images = [cut[i][2] for i in order]
    owner = np.array([cut[i][0] for i in order])
    place = [divmod(cut[i][1], 3) for i in order]
    truth = {
        (a, b)
        for a in range(len(images))
        for b in range(len(images))
        if owner[a] == owner[b] and (place[b][0] - place[a][0], place[b][1] - place[a][1]) in ((0, 1), (1, 0))
    }
    assert set(stitch_pairs(images)) == truth
    groups = stitch_groups(images)
    for a, b in combinations(range(len(images)), 2):
        assert (groups[a] == groups[b]) == (owner[a] == owner[b])
    assert groups[0] == 0
    assert sorted(set(groups)) == list(range(8))


def test_unrelated_tiles_stay_alone():
    images = [speckle(1000 + i, 128) for i in range(300)]
    assert stitch_pairs(images) == []
    np.testing.assert_array_equal(stitch_groups(images), np.arange(300))


def test_flat_dark_or_empty_borders_tell_nothing():
    flat = [np.zeros((1, 128, 128)), np.ones((1, 128, 128)), np.full((1, 128, 128), np.nan)]
    ramp = [np.broadcast_to(np.arange(128.0), (1, 128, 128)) + i for i in range(3)]
    point = [np.zeros((1, 128, 128)) for _ in range(4)]
    for i, image in enumerate(point):  # a bright target at one place of every border
        image[0, 40, :], image[0, :, 40] = 1000.0, 1000.0
        image += np.random.default_rng(i).random((1, 128, 128))
    assert stitch_pairs(flat) == []
    assert stitch_pairs(flat + ramp) == []
    assert stitch_pairs(point) == []


def test_tiles_of_several_sizes_meet_where_their_borders_are_as_long():
    image = speckle(5, 256)
    left, right, other = image[:, :, :100], image[:, :, 100:], speckle(6, 200)
    np.testing.assert_array_equal(stitch_groups([left, other, right]), [0, 1, 0])
    assert stitch_pairs([left, other, right]) == [(0, 2)]


def test_short_lines_tell_nothing():
    image = speckle(5, 64)
    assert stitch_pairs([image[:, :32, :32], image[:, :32, 32:]]) == []
    with pytest.raises(ValueError, match=r"\(K, H, W\)"):
        stitch_pairs([image[0]])


def png(path, array):
    Image.fromarray(np.clip(array, 0, 255).astype(np.uint8)).save(path)
    return path


def entries_of(paths, splits, groups=None):
    groups = groups or [None] * len(paths)
    return tuple(
        Entry(f"e{i}", (Asset(p),), split=s, group=g)
        for i, (p, s, g) in enumerate(zip(paths, splits, groups, strict=True))
    )


def test_the_same_image_in_another_format_is_found(tmp_path):
    a, b = (speckle(i, 64)[0] for i in range(2))
    paths = [png(tmp_path / "a.png", a), png(tmp_path / "b.png", b), png(tmp_path / "a.tif", a)]
    paths += [png(tmp_path / "black1.png", a * 0), png(tmp_path / "black2.png", a * 0)]
    entries = tuple(
        Entry(f"e{i}", (Asset(p, "image"),), split=s)
        for i, (p, s) in enumerate(zip(paths, ["train", "test", "validation", "train", "test"], strict=True))
    )
    leaks = check_leakage(Catalog("c", entries, ()))
    assert leaks == [Leak("content", "train", "e0", "validation", "e2")]
    for allowed in ((), {"validation"}, {"train", "validation", "test"}):
        with pytest.raises(
            LeakageError, match=r"content: 1 of 'validation' stand in 'train' too, e\.g\. e0 and e2"
        ):
            refuse_leaks(leaks, allowed)
    assert check_leakage(Catalog("c", entries, ()), pixels=False) == []


def test_groups_on_both_sides_and_relations(tmp_path):
    paths = [png(tmp_path / f"{i}.png", speckle(i, 64)[0]) for i in range(5)]
    splits = ["train", "train", "validation", "seen", "new"]
    told = Catalog("c", entries_of(paths, splits, ["x", "y", "z", "y", "w"]), ())
    leaks = check_leakage(told)
    assert leaks == [Leak("group", "train", "e1", "seen", "e3")]
    assert relation(told, "seen") == "same scenes"
    assert relation(told, "new", leaks) == "unseen events"
    untold = Catalog("c", entries_of(paths, splits, ["x", None, "z", "y", "w"]), ())
    assert relation(untold, "new") == "not known"
    with pytest.raises(LeakageError):
        refuse_leaks(leaks, {"new"})
    refuse_leaks(leaks, {"seen"})


def test_between_training_and_validation_nothing_is_allowed():
    leak = Leak("group", "train", "a", "validation", "b")
    for allowed in ({"validation"}, {"train"}, {"test"}):
        with pytest.raises(LeakageError):
            refuse_leaks([leak], allowed)


@pytest.mark.parametrize(
    ("crs", "shift", "leaks"),
    [
        ("EPSG:32633", 0.0, True),  # another date of the same place
        ("EPSG:32633", 320.0, True),  # half of it
        ("EPSG:32633", 635.0, False),  # half a pixel of it
        ("EPSG:32633", 640.0, False),  # the neighbour, which shares a border
        ("EPSG:32633", 6400.0, False),
        ("EPSG:32632", 0.0, False),  # the same numbers six degrees to the west
    ],
)
def test_footprints_overlap_or_not(tmp_path, crs, shift, leaks):
    pytest.importorskip("rasterio")
    bands = parse_bands("VV=sigma0_db")
    paths = []
    for i, (zone, x) in enumerate((("EPSG:32633", 5e5), (crs, 5e5 + shift))):
        place = GeoReference(zone, (10, 0, x, 0, -10, 5e6))
        paths.append(write_array(tmp_path / f"{i}.npz", speckle(i, 64, 1), bands, georeference=place))
    found = check_leakage(Catalog("c", entries_of(paths, ["train", "test"]), ()))
    assert found == ([Leak("footprint", "train", "e0", "test", "e1")] if leaks else [])


def test_one_place_in_two_zones_and_across_the_antimeridian(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    from rasterio.warp import transform

    bands = parse_bands("VV=sigma0_db")
    assert rasterio
    for lon, one, two in ((12.0, 32632, 32633), (180.0, 32660, 32601)):
        paths = []
        for i, zone in enumerate((one, two)):
            (x,), (y,) = transform("EPSG:4326", f"EPSG:{zone}", [lon], [60.0])
            # the second begins in the middle of the first: wholly east of the antimeridian
            place = GeoReference(f"EPSG:{zone}", (10, 0, x - 320 * (1 - i) + 20 * i, 0, -10, y + 320))
            path = tmp_path / f"{zone}.npz"
            paths.append(write_array(path, speckle(i, 64, 1), bands, georeference=place))
        found = check_leakage(Catalog("c", entries_of(paths, ["train", "test"]), ()))
        assert [k.kind for k in found] == ["footprint"]


def test_only_the_best_match_on_both_sides_counts():
    """A noisier take of the right half fits the left half too, but less well than the right half itself."""
    image = speckle(5, 256)
    left, right = image[:, :, :128], image[:, :, 128:]
    noisier = right + np.random.default_rng(0).normal(0, 5, right.shape)
    assert stitch_pairs([left, noisier]) == [(0, 1)]
    assert stitch_pairs([left, noisier, right]) == [(0, 2)]
    mirrored = [t[:, :, ::-1] for t in (left, noisier, right)]
    assert stitch_pairs(mirrored) == [(2, 0)]
