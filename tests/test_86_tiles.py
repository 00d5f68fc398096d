"""Tiles of mapped floods: what is kept and left out counted by hand, splits by event, hashes that tell."""

import json
from dataclasses import replace

import numpy as np
import pytest

from sartransfer import open_scene
from sartransfer.catalog import Asset, Catalog, Entry, read_catalog
from sartransfer.data.check import unit_warnings
from sartransfer.errors import CatalogError, InputError, OutputError
from sartransfer.geotiff import write_geotiff
from sartransfer.prepare import TileSettings, pair_catalog, prepare_patches, prepare_tiles
from sartransfer.readers import open_entry, read_label
from sartransfer.scene import GeoReference

SIZE = 16
SMALL = TileSettings(size=SIZE)


def make_flood(folder, name, rows=2, cols=3, seed=0, extra=0):
    """A pair and its mask of rows x cols tiles: tile k (row by row) is flooded in k of its 16 rows; `extra` pixels."""
    rng = np.random.default_rng(seed)
    height, width = rows * SIZE + extra, cols * SIZE + extra
    mask = np.zeros((height, width), np.uint8)
    for k in range(rows * cols):
        r, c = divmod(k, cols)
        mask[r * SIZE : r * SIZE + min(k, SIZE), c * SIZE : (c + 1) * SIZE] = 1
    place = GeoReference("EPSG:32630", (10.0, 0.0, 7e5 + 1e5 * seed, 0.0, -10.0, 4.3e6))
    before = rng.gamma(4.4, 0.05 / 4.4, (2, height, width)).astype(np.float32)
    after = np.where(mask, before / 10, before)
    paths = []
    for when, image in (("before", before), ("after", after)):
        path = folder / f"{name}-{when}.tif"
        write_geotiff(path, image, georeference=place, descriptions=["gamma0_vv", "gamma0_vh"],
                      units=["gamma0"] * 2, nodata=float("nan"))  # fmt: skip
        paths.append(path)
    path = folder / f"{name}-mask.tif"
    write_geotiff(
        path, mask, georeference=place, nodata=255.0, tags={"SARTRANSFER_FLOOD": '{"rules": "change"}'}
    )
    return (*paths, path)


@pytest.fixture
def floods(tmp_path):
    return pair_catalog({n: make_flood(tmp_path, n, seed=i) for i, n in enumerate(("ebro", "po", "elbe"))})


def test_training_is_filtered_and_tests_are_whole(floods, tmp_path):
    made = prepare_tiles(floods, tmp_path / "out", SMALL, tests=["elbe"], validation=["po"])
    # tile k has k/16 flooded: 10 % needs k >= 2, so 4 of 6 train
    assert made.counts == {"train": {"ebro": 4}, "validation": {"po": 6}, "elbe": {"elbe": 6}}
    assert made.left_out == {"too little known": 0, "too little flooded": 2, "at the edges": 0}
    assert made.filtered_tests == {"elbe": 4}
    catalog, strict = read_catalog(made.catalog), read_catalog(made.filtered)
    assert [e.split for e in strict.entries].count("elbe") == 4
    assert [e.split for e in strict.entries].count("train") == 4
    assert "a rule from the same images" in catalog.source
    listing = json.loads(made.listing.read_text())
    assert [t["flooded"] for t in listing["tiles"] if t["split"] == "elbe"] == [k / 16 for k in range(6)]
    assert listing["hash"] == made.hash
    assert not unit_warnings(catalog)


def test_tiles_are_the_pixels_of_the_scenes_in_their_place(floods, tmp_path):
    made = prepare_tiles(floods, tmp_path / "out", SMALL, tests=["elbe"])
    catalog = read_catalog(made.catalog)
    whole = {e.id: open_entry(e) for e in floods.entries}
    entry = next(e for e in catalog.entries if e.id.startswith("elbe_r00016_c00032"))
    scene = open_entry(entry)
    assert scene.names == ("before_vv", "before_vh", "after_vv", "after_vh")
    assert {str(b.unit) for b in scene.bands} == {"gamma0"}
    assert [b.role for b in scene.bands] == ["reference", "reference", "flood", "flood"]
    np.testing.assert_array_equal(scene.read().data, whole["elbe"].read().data[:, 16:32, 32:48])
    expected = read_label(floods.entries[2], floods)[16:32, 32:48]
    np.testing.assert_array_equal(read_label(entry, catalog), expected)
    a, _, west, _, e, north = whole["elbe"].georeference.transform
    assert scene.georeference.transform[2::3] == (west + 32 * a, north + 16 * e)


def test_hashes_are_of_the_content_and_change_with_a_pixel(floods, tmp_path):
    one = prepare_tiles(floods, tmp_path / "one", SMALL, tests=["elbe"])
    two = prepare_tiles(floods, tmp_path / "two", SMALL, tests=["elbe"])
    other = prepare_tiles(floods, tmp_path / "other", SMALL, tests=["po"])
    assert one.hash == two.hash != other.hash  # other splits, other hash
    paths = make_flood(tmp_path, "ebro2", seed=0)
    image, _ = open_scene(paths[1]).read()
    image[0, 20, 20] += 1
    write_geotiff(paths[1], image, georeference=open_scene(paths[1]).georeference,
                  descriptions=["gamma0_vv", "gamma0_vh"], units=["gamma0"] * 2, overwrite=True)  # fmt: skip
    hashes = []
    for name, after in (("a", paths[1]), ("b", floods.entries[0].assets[1].path)):
        pairs = {"ebro": (paths[0], after, paths[2]), "po": make_flood(tmp_path, f"po{name}", seed=1)}
        made = prepare_tiles(pair_catalog(pairs), tmp_path / f"h{name}", SMALL, tests=["po"])
        hashes.append({t["id"]: t["sha256"] for t in json.loads(made.listing.read_text())["tiles"]})
    assert [k for k in hashes[0] if hashes[0][k] != hashes[1][k]] == ["ebro_r00016_c00016"]


def test_places_without_a_value_or_label_are_left_out_of_training_and_kept_in_tests(tmp_path):
    for name in ("a", "b"):
        paths = make_flood(tmp_path, name, seed=ord(name))
        image, _ = open_scene(paths[0]).read()
        image[1, SIZE : SIZE + 8] = np.nan  # half of the lowest row of tiles, one band
        image[:, SIZE:, 2 * SIZE :] = np.nan  # and all of the last tile
        write_geotiff(paths[0], image, georeference=open_scene(paths[0]).georeference,
                      descriptions=["gamma0_vv", "gamma0_vh"], units=["gamma0"] * 2, nodata=float("nan"),
                      overwrite=True)  # fmt: skip
    pairs = {n: tuple(tmp_path / f"{n}-{w}.tif" for w in ("before", "after", "mask")) for n in ("a", "b")}
    made = prepare_tiles(pair_catalog(pairs), tmp_path / "out", SMALL, tests=["b"])
    assert made.counts == {"train": {"a": 1}, "b": {"b": 5}}
    assert made.left_out == {"too little known": 4, "too little flooded": 2, "at the edges": 0}
    catalog = read_catalog(made.catalog)
    half = next(e for e in catalog.entries if e.id == "b_r00016_c00000")
    label = read_label(half, catalog)
    assert (label[:8] == 255).all()
    assert (label[8:] != 255).all()
    tiles = {t["id"]: t for t in json.loads(made.listing.read_text())["tiles"]}
    assert tiles["b_r00016_c00000"]["known"] == 0.5
    assert tiles["b_r00016_c00000"]["flooded"] == 0.0  # its 3 flooded rows have no value


def test_the_paper_s_counts_are_drawn_from_all_events_and_say_so(floods, tmp_path):
    made = prepare_tiles(floods, tmp_path / "out", SMALL, counts=(6, 2, 3), seed=3)
    splits = {s: sum(events.values()) for s, events in made.counts.items()}
    assert splits == {"train": 6, "validation": 2, "test": 3}
    listing = json.loads(made.listing.read_text())
    assert all(t["flooded"] >= 0.1 for t in listing["tiles"])  # the paper filters all
    assert "nothing of new floods" in read_catalog(made.catalog).source
    assert len({t["event"] for t in listing["tiles"] if t["split"] == "test"}) > 1
    again = prepare_tiles(floods, tmp_path / "again", SMALL, counts=(6, 2, 3), seed=3)
    other = prepare_tiles(floods, tmp_path / "other", SMALL, counts=(6, 2, 3), seed=4)
    assert made.hash == again.hash != other.hash
    with pytest.raises(InputError, match="12 tiles are left, 196 were asked for"):
        prepare_tiles(floods, tmp_path / "more", SMALL, counts=(156, 20, 20))


def test_a_stopped_job_goes_on_and_a_done_one_is_not_repeated(floods, tmp_path):
    def stop(done, of):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_tiles(floods, tmp_path / "out", SMALL, tests=["elbe"], progress=stop)
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.tif")}
    assert kept
    made = prepare_tiles(floods, tmp_path / "out", SMALL, tests=["elbe"])
    assert all(p.stat().st_mtime_ns == t for p, t in kept.items())
    assert made.hash == prepare_tiles(floods, tmp_path / "whole", SMALL, tests=["elbe"]).hash
    with pytest.raises(OutputError, match="these patches are done"):
        prepare_tiles(floods, tmp_path / "out", SMALL, tests=["elbe"])
    with pytest.raises(OutputError, match="another job"):
        prepare_tiles(floods, tmp_path / "out", SMALL, tests=["po"])


def test_edges_are_counted_and_splits_of_the_catalog_are_kept(tmp_path):
    pairs = {n: make_flood(tmp_path, n, rows=1, cols=4, seed=i, extra=5) for i, n in enumerate("ab")}
    catalog = pair_catalog(pairs)
    given = catalog.with_entries(
        Entry(e.id, e.assets, e.label, split="test" if e.id == "b" else "train", group=e.group)
        for e in catalog.entries
    )
    made = prepare_tiles(given, tmp_path / "out", SMALL)
    assert made.left_out["at the edges"] == 2 * (2 * 5 - 4)
    assert made.counts == {"train": {"a": 2}, "test": {"b": 4}}


def test_what_cannot_be_split_or_cut_is_refused(floods, tmp_path):
    out = tmp_path / "out"
    for words, message in (
        ({}, "no test: name the events"), ({"tests": ["rhine"]}, "event='rhine'"),
        ({"counts": (0, 1, 1)}, "counts"), ({"counts": (1, 1, 1), "tests": ["po"]}, "no events beside"),
    ):  # fmt: skip
        with pytest.raises((CatalogError, InputError), match=message):
            prepare_tiles(floods, out, SMALL, **words)
    with pytest.raises(InputError, match="no training tile"):
        prepare_tiles(floods, out, TileSettings(size=SIZE, min_flooded=0.9), tests=["po"])
    with pytest.raises(InputError, match="no training tile"):
        prepare_tiles(floods, out, TileSettings(size=256), tests=["po"])
    for bad in ({"size": 0}, {"min_flooded": 1.5}, {"min_known": -0.1}):
        with pytest.raises(InputError):
            TileSettings(**bad)
    with pytest.raises(CatalogError, match="flooded class"):
        prepare_tiles(floods, out, TileSettings(size=SIZE, flooded="wet"), tests=["po"])
    entry = floods.entries[0]
    for broken in (Entry("x", entry.assets, group="x"), Entry("x", entry.assets, label=entry.label)):
        with pytest.raises(CatalogError, match=r"no label raster|names no event"):
            prepare_tiles(Catalog("c", (broken,), ("dry", "flooded")), out, SMALL, tests=["x"])
    assert Asset(entry.assets[0].path).bands == ()


def test_a_mask_that_is_not_there_and_events_that_are_all_held_out_are_told(floods, tmp_path):
    before, after, _ = make_flood(tmp_path, "oder")
    with pytest.raises(InputError, match=r"the mask .*none\.tif cannot be read"):
        pair_catalog({"oder": (before, after, tmp_path / "none.tif")})
    with pytest.raises(CatalogError, match="no event is left to train on"):
        prepare_tiles(floods, tmp_path / "out", SMALL, tests=["ebro", "po", "elbe"])
    assert not (tmp_path / "out").exists()


def test_a_mask_of_0_and_255_is_refused_with_what_to_do(floods, tmp_path):
    before, after, mask = make_flood(tmp_path, "gis", seed=5)
    values, place = open_scene(mask).read().data[0].astype(np.uint8), open_scene(mask).georeference
    write_geotiff(mask, values * np.uint8(255), georeference=place, overwrite=True)
    pair = {"gis": (before, after, mask)}
    with pytest.raises(CatalogError, match=r"'gis'.*is it flooded.*class numbers"):
        pair_catalog(pair)
    raw = Catalog(
        "c", (replace(floods.entries[0], id="gis", label=mask, assets=(Asset(after),)),), ("dry", "flooded")
    )
    with pytest.raises(CatalogError, match=r"'gis'.*is it flooded"):
        prepare_tiles(raw, tmp_path / "out", SMALL, tests=["ebro"])
    with pytest.raises(CatalogError, match=r"'gis'.*is it flooded"):
        prepare_patches(raw, tmp_path / "patches", SIZE)
    write_geotiff(mask, values * np.uint8(255), georeference=place, nodata=255.0, overwrite=True)
    pair_catalog(pair)  # declared as nodata: nothing is flooded there


def test_the_command_cuts_pairs(call, tmp_path):
    paths = {n: make_flood(tmp_path, n, seed=i) for i, n in enumerate(("ebro", "po"))}
    words = [w for n, p in paths.items() for w in ("--pair", f"{n}={p[0]}|{p[1]}|{p[2]}")]
    code, out, err = call("prepare", "tiles", *words, "--size", SIZE, "--test", "po", "-o", tmp_path / "out")
    assert code == 0, err
    assert "too little flooded" in out
    assert read_catalog(tmp_path / "out" / "catalog.csv").test_sets == ("po",)
    assert call("prepare", "tiles", "--pair", "a=b", "-o", tmp_path / "x")[0] == 2
    assert call("prepare", "tiles", *words, "--counts", "1,2", "-o", tmp_path / "x")[0] == 2
    assert call("prepare", "tiles", "-o", tmp_path / "x")[0] == 2
