"""Patches: tiled by majority, written and gone on with, and simulated collections of them."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_patches import AMPLITUDE

from sartransfer.catalog import IGNORE_INDEX, Asset, Catalog, Entry, read_catalog, write_catalog
from sartransfer.data.collections import CLASSES as COVERS
from sartransfer.data.collections import simulated_collections
from sartransfer.data.leakage import check_leakage, relation
from sartransfer.data.levels import take_level
from sartransfer.data.resolve import open_catalog
from sartransfer.data.tiling import tile_labels
from sartransfer.errors import CatalogError, InputError, OutputError
from sartransfer.geotiff import write_geotiff
from sartransfer.prepare import patches as prepare
from sartransfer.radar.units import parse_unit
from sartransfer.readers import open_entry
from sartransfer.readers.array import write_array
from sartransfer.recipe import DataRecipe
from sartransfer.scene import ArraySource, Band, GeoReference, Scene, Window

RNG = np.random.default_rng(34)
# ---- tiling ----


def tiled_by_hand(label, valid, size, min_share, min_known):
    """The claim, pixel by pixel."""
    found, left = [], Counter()
    for row in range(0, label.shape[0], size):
        for col in range(0, label.shape[1], size):
            if row + size > label.shape[0] or col + size > label.shape[1]:
                left["edge"] += 1
                continue
            votes = Counter()
            for r in range(row, row + size):
                for c in range(col, col + size):
                    if valid[r, c] and label[r, c] != IGNORE_INDEX:
                        votes[int(label[r, c])] += 1
            known = sum(votes.values())
            if known == 0 or known / size**2 < min_known:
                left["unknown"] += 1
                continue
            (winner, most), *others = votes.most_common()
            if most / known < min_share or (others and others[0][1] == most):
                left["mixed"] += 1
                continue
            found.append((Window(row, col, size, size), winner, most / known))
    return found, left


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 17), st.integers(1, 17)),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.4, 0.5, 0.75, 1.0]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(0, 999),
)
def test_tiles_are_what_a_loop_over_pixels_finds(shape, size, min_share, min_known, seed):
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 1, 2, 254, IGNORE_INDEX], size=shape, p=[0.4, 0.2, 0.1, 0.1, 0.2]).astype(np.uint8)
    valid = rng.random(shape) < 0.8
    tiling = tile_labels(label, valid, size, min_share=min_share, min_known=min_known)
    expected, left = tiled_by_hand(label, valid, size, min_share, min_known)
    assert list(tiling.windows) == [w for w, _, _ in expected]
    assert tiling.classes.tolist() == [c for _, c, _ in expected]
    assert tiling.shares.tolist() == pytest.approx([s for _, _, s in expected])
    assert (tiling.edge, tiling.unknown, tiling.mixed) == (left["edge"], left["unknown"], left["mixed"])


def test_a_tie_has_no_majority_and_a_worked_example():
    label = np.array([[0, 0, 1, 1, 2], [0, 1, 1, 0, 2]], np.uint8)  # tiles: 3 of 4 are 0; 3 of 4 are 1
    tiling = tile_labels(label, np.ones((2, 5), bool), 2)
    assert (tiling.classes.tolist(), tiling.shares.tolist(), tiling.edge) == ([0, 1], [0.75, 0.75], 1)
    label[0, 1] = 1
    tied = tile_labels(label, np.ones((2, 5), bool), 2, min_share=0)
    assert (tied.classes.tolist(), tied.mixed) == ([1], 1)
    assert tile_labels(label[:1], np.ones((1, 5), bool), 2).edge == 3


def test_a_tiling_that_cannot_be_is_refused():
    label, valid = np.zeros((4, 4), np.uint8), np.ones((4, 4), bool)
    with pytest.raises(InputError, match="size=0"):
        tile_labels(label, valid, 0)
    with pytest.raises(InputError, match=r"min_share=1\.5 is not allowed"):
        tile_labels(label, valid, 2, min_share=1.5)
    with pytest.raises(InputError, match="one shape"):
        tile_labels(label, valid[:2], 2)


# ---- patches on disk ----


def write_big(folder, name, rng, *, shape=(70, 90), georeference=None, hole=True):
    """A 16-bit scene of two bands and its label of stripes; some pixels without a value."""
    values = rng.integers(1, 60000, (2, *shape)).astype(np.uint16)
    if hole:
        values[:, :20, :18] = 0
    label = np.broadcast_to(np.arange(shape[1]) * 4 // shape[1], shape).astype(np.uint8) * 10
    write_geotiff(
        folder / f"{name}.tif", values, georeference=georeference, descriptions=["hh", "hv"],
        units=["amplitude"] * 2, nodata=0,
    )  # fmt: skip
    write_geotiff(folder / f"{name}_label.tif", label[None], georeference=georeference)
    return values, label


@pytest.fixture
def scenes(tmp_path):
    """Two scenes of one group and one of none, with labels that are paths of levels."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    place = GeoReference("EPSG:32633", (10.0, 0.0, 5e5, 0.0, -10.0, 5e6))
    truth = {}
    entries = []
    for i, (name, group) in enumerate((("a", "rome"), ("b", "rome"), ("c/d", None))):
        at = replace(place, transform=(10.0, 0.0, 5e5 + 5000 * i, 0.0, -10.0, 5e6))
        file = name.replace("/", "-")
        truth[name] = write_big(folder, file, np.random.default_rng(i), georeference=at)
        bands = tuple(Band(n, parse_unit("amplitude"), n.upper()) for n in ("hh", "hv"))
        entries.append(
            Entry(name, (Asset(folder / f"{file}.tif", None, bands),), label=folder / f"{file}_label.tif",
                  group=group, split="test" if name == "b" else None, platform="TerraSAR-X")
        )  # fmt: skip
    classes = ("water/lake", "town/dense/blocks", "town/open", "field")
    return Catalog("big", tuple(entries), classes, {0: 0, 10: 1, 20: 2, 30: 3}, "made here"), truth


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_patches_hold_the_scene_s_pixels_units_place_and_label(tmp_path, scenes):
    catalog, truth = scenes
    done = prepare.prepare_patches(catalog, tmp_path / "out", 16, min_known=0.6)
    made = read_catalog(done.catalog)
    assert made.classes == catalog.classes
    assert made.source == "made here"
    assert Counter(e.category for e in made.entries) == {k: v for k, v in done.counts.items() if v}
    assert {e.group for e in made.entries} == {"rome", "c/d"}
    assert done.groups == 2
    places = 3 * 4 * 5  # of 16 px in 70 x 90; 6 x 5 - 4 x 5 partial ones a scene
    assert len(made.entries) + done.unknown + done.mixed == places
    assert (done.edge, done.unknown) == (
        3 * 10,
        3,
    )  # the hole of 20 x 18 px takes one place, and little of others
    for entry in made.entries:
        name, row, col = (entry.id[: -len("_r00000_c00000")], int(entry.id[-12:-7]), int(entry.id[-5:]))
        values, label = truth[name]
        part = (slice(row, row + 16), slice(col, col + 16))
        scene = open_entry(entry)
        stored, valid = scene.source.read([0, 1], scene.window)
        assert stored.dtype == np.uint16
        np.testing.assert_array_equal(np.where(valid, stored, 0), values[:, *part])
        np.testing.assert_array_equal(valid, values[:, *part] > 0)
        assert [(b.name, str(b.unit), b.polarization) for b in scene.bands] == [
            ("hh", "amplitude", "HH"), ("hv", "amplitude", "HV"),
        ]  # fmt: skip
        votes = Counter((label[part][values[0][part] > 0] // 10).tolist())
        assert made.classes.index(entry.category) == votes.most_common(1)[0][0]
        whole = open_entry(next(e for e in catalog.entries if e.id == name)).georeference.transform
        assert scene.georeference.transform == (10, 0, whole[2] + 10 * col, 0, -10, whole[5] - 10 * row)
        assert entry.split == ("test" if name == "b" else None)
        assert entry.platform == "TerraSAR-X"
    assert check_leakage(made) == []  # neighbours touch, and do not overlap


def test_a_stopped_job_goes_on_and_ends_with_the_same_bytes(tmp_path, scenes, monkeypatch):
    catalog, _ = scenes
    prepare.prepare_patches(catalog, tmp_path / "whole", 16)
    expected = content(tmp_path / "whole")
    written = []

    def count(path, *args, **more):
        if len(written) == 11:
            raise OutputError("the disk is full")
        written.append(path)
        return write_geotiff(path, *args, **more)

    out = tmp_path / "out"
    monkeypatch.setattr(prepare, "write_geotiff", count)
    with pytest.raises(OutputError, match="the disk is full"):
        prepare.prepare_patches(catalog, out, 16)
    assert not (out / "catalog.csv").exists()
    assert len(content(out)) == 12  # and the manifest
    with pytest.raises(OutputError, match=r"another job \(other size\)"):
        prepare.prepare_patches(catalog, out, 20)
    monkeypatch.setattr(prepare, "write_geotiff", write_geotiff)
    monkeypatch.setattr(prepare, "STRIP_VALUES", 1)  # strip by strip comes to the same
    times = {p: p.stat().st_mtime_ns for p in written}
    prepare.prepare_patches(catalog, out, 16)
    assert content(out) == expected
    assert {p: p.stat().st_mtime_ns for p in written} == times  # what was there was not written again


def test_nothing_that_is_there_is_overwritten(tmp_path, scenes):
    catalog, _ = scenes
    out = tmp_path / "out"
    prepare.prepare_patches(catalog, out, 32)
    before = content(out)
    with pytest.raises(OutputError, match="these patches are done"):
        prepare.prepare_patches(catalog, out, 32)
    assert content(out) == before
    other = tmp_path / "mine"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds something else"):
        prepare.prepare_patches(catalog, other, 32)
    with pytest.raises(OutputError, match="is a file"):
        prepare.prepare_patches(catalog, other / "notes.txt", 32)
    assert content(other) == {"notes.txt": b"mine"}


def test_what_yields_no_patch_says_why(tmp_path, scenes):
    catalog, _ = scenes
    for size, said in ((100, "3 at the edges"), (0, "size=0")):
        with pytest.raises(InputError, match=said):
            prepare.prepare_patches(catalog, tmp_path / "out", size)
    prepare.prepare_patches(catalog, tmp_path / "out", 32)  # the folder is free for better settings
    bare = catalog.with_entries([replace(catalog.entries[0], label=None)])
    with pytest.raises(CatalogError, match="'a' has neither a label raster nor a class"):
        prepare.prepare_patches(bare, tmp_path / "other", 32)
    with pytest.raises(CatalogError, match="names no classes"):
        prepare.prepare_patches(replace(bare, classes=(), label_values={}), tmp_path / "other", 32)
    assert not (tmp_path / "other").exists()


def test_scenes_of_one_class_give_patches_of_it(tmp_path):
    path = write_array(tmp_path / "a.npz", RNG.normal(-9, 2, (1, 20, 20)).astype(np.float32), AMPLITUDE)
    catalog = Catalog("c", (Entry("a", (Asset(path),), category="sea"),), ("land", "sea"))
    done = prepare.prepare_patches(catalog, tmp_path / "out", 10)
    assert done.counts == {"land": 0, "sea": 4}
    one = read_catalog(done.catalog).entries[0]
    np.testing.assert_array_equal(
        open_entry(one).read().data, open_entry(catalog.entries[0]).read(window=Window(0, 0, 10, 10)).data
    )
    assert open_entry(one).read().data.dtype == np.float32
    odd = catalog.with_entries([replace(catalog.entries[0], category="lnd")])
    with pytest.raises(CatalogError, match="Did you mean 'land'"):
        prepare.prepare_patches(odd, tmp_path / "odd", 10)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32])
def test_a_number_that_no_pixel_has_marks_what_is_not_valid(dtype):
    values = np.arange(256).astype(dtype).reshape(1, 16, 16)
    valid = np.ones((1, 16, 16), bool)
    valid[0, 0, 5:8] = False
    marked, nodata = prepare._marked(values, valid)
    is_marked = np.isnan(marked) if dtype is np.float32 else marked == nodata
    np.testing.assert_array_equal(is_marked, ~valid)
    np.testing.assert_array_equal(marked[valid], values[valid])
    assert marked.dtype == dtype


def test_eight_bits_that_are_all_in_use_become_sixteen():
    values = np.concatenate([np.arange(256), [7]]).astype(np.uint8).reshape(1, 1, 257)
    valid = np.arange(257).reshape(1, 1, 257) != 256
    marked, nodata = prepare._marked(values, valid)
    assert (marked.dtype, nodata) == (np.int16, 32767)
    np.testing.assert_array_equal(marked == nodata, ~valid)


def test_control_points_are_those_of_the_patch():
    """A grid of control points of a tilted and bent scene: exact on its nodes, near between them."""
    rows, cols = (g.ravel() for g in np.meshgrid(np.arange(0, 101, 20), np.arange(0, 121, 20), indexing="ij"))
    x, y = 10 + 0.002 * cols + 0.0005 * rows + 1e-7 * cols * rows, 50 - 0.001 * rows + 0.0003 * cols
    gcps = tuple(zip(*(v.tolist() for v in (rows * 1.0, cols * 1.0, x, y, 0 * x)), strict=True))
    scene = open_like(GeoReference("EPSG:4326", gcps=gcps), (100, 120))
    place = prepare.place_of(scene, Window(20, 40, 20, 40))
    assert place.transform is None
    assert [g[:2] for g in place.gcps] == [(0, 0), (0, 40), (20, 40), (20, 0)]
    for row, col, found_x, found_y, _ in place.gcps:
        r, c = row + 20, col + 40
        assert found_x == pytest.approx(10 + 0.002 * c + 0.0005 * r + 1e-7 * c * r, abs=1e-9)
        assert found_y == pytest.approx(50 - 0.001 * r + 0.0003 * c, abs=1e-9)
    line = replace(scene, georeference=GeoReference("EPSG:4326", gcps=gcps[:4]))  # all in one row
    assert len(prepare.place_of(line, Window(0, 0, 5, 5)).gcps) == 4


def open_like(georeference, shape):
    return Scene("s", AMPLITUDE, *shape, ArraySource(np.ones((1, *shape))), georeference)


# ---- simulated collections ----


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    return simulated_collections(tmp_path_factory.mktemp("sim") / "c", seed=1, collections=6, patches=60)


def test_simulated_collections_are_16_bit_patches_in_three_levels(simulated):
    assert simulated.classes == COVERS
    assert all(c.count("/") == 2 for c in COVERS)
    assert Counter(e.group for e in simulated.entries) == {f"city{i:02d}": 60 for i in range(1, 7)}
    with Image.open(simulated.entries[0].assets[0].path) as image:
        assert np.asarray(image).dtype == np.uint16
    scene = open_entry(simulated.entries[0])
    assert (str(scene.bands[0].unit), scene.bands[0].polarization) == ("amplitude", "HH")
    assert (scene.height, scene.width) == (48, 48)
    seven = take_level(simulated, 1, ("military", "unclassified"))
    counts = Counter(e.category for e in seven.entries)
    assert len(seven.classes) == len(counts) == 7
    assert counts["settlements"] > 5 * counts["bare ground"]  # imbalanced
    assert simulated.source.startswith("simulated")


def test_simulated_collections_follow_from_their_seed(simulated, tmp_path):
    small = {"collections": 2, "patches": 8, "size": 16}
    made = [simulated_collections(tmp_path / f"{i}", seed=s, **small) for i, s in enumerate((3, 3, 4))]
    pixels = [[open_entry(e).read().data for e in c.entries] for c in made]
    assert [e.category for e in made[0].entries] == [e.category for e in made[1].entries]
    assert all(np.array_equal(a, b) for a, b in zip(pixels[0], pixels[1], strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(pixels[0], pixels[2], strict=True))
    assert simulated_collections(tmp_path / "0", seed=3, **small) == made[0]  # found, not made again
    with pytest.raises(OutputError, match="other settings"):
        simulated_collections(tmp_path / "0", seed=4, **small)
    assert json.loads((tmp_path / "0" / "simulated.json").read_text())["kind"] == "collections"


def test_an_unseen_collection_is_another_distribution(simulated):
    """What a class looks like differs more between collections than chance within them allows, and so a
    classifier does worse on a collection it has not seen than on unseen patches of those it has."""
    entries = take_level(simulated, 1, ("military", "unclassified")).entries
    bits = np.stack([np.log2(open_entry(e).read().data[0] + 1) for e in entries])
    steps = [np.abs(np.diff(bits, axis=a)).mean((1, 2)) for a in (1, 2)]
    quantiles = np.quantile(bits, [0.05, 0.5, 0.95, 0.99], axis=(1, 2))
    features = np.column_stack([bits.mean((1, 2)), bits.std((1, 2)), *quantiles, *steps])
    city, name = (np.array(v) for v in zip(*((e.group, e.category) for e in entries), strict=True))
    town = features[name == "settlements"][:, 0]
    where = city[name == "settlements"]
    between = np.var([town[where == c].mean() for c in np.unique(where)], ddof=1)
    within = np.mean([town[where == c].var(ddof=1) / (where == c).sum() for c in np.unique(where)])
    assert between > 5 * within  # 1 would be chance (an F ratio); its 99.9 % point here is about 4.5

    def right(held):
        """Of held-out patches, the share whose nearest training patch (standardized) is of their class."""
        mean, std = features[~held].mean(0), features[~held].std(0)
        z = (features - mean) / std
        distance = ((z[held][:, None] - z[~held][None]) ** 2).sum(-1)
        return (name[~held][distance.argmin(1)] == name[held]).mean()

    unseen = np.mean([right(city == c) for c in np.unique(city)])
    parts = np.random.default_rng(0).integers(6, size=len(city))
    seen = np.mean([right(parts == k) for k in range(6)])
    assert seen > unseen + 0.05


def test_a_recipe_takes_both_tests_out_of_the_simulated_collections(simulated):
    folder = simulated.entries[0].assets[0].path.parent.parent
    assert (folder / "city01").is_dir()
    path = write_catalog(simulated, folder.parent / "c.csv", overwrite=True)
    tests = {"test1": {"per_class": 2}, "test2": {"groups": ["city05", "city06"]}}
    data = DataRecipe.model_validate(
        {"catalog": str(path), "level": 1, "drop": ["military", "unclassified"], "tests": tests}
    )
    catalog = open_catalog(data)
    assert {s: relation(catalog, s) for s in catalog.test_sets} == {
        "test1": "same scenes", "test2": "unseen events",
    }  # fmt: skip
    assert len(catalog.in_split("test1")) == 14
