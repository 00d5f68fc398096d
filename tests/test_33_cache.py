"""Decoded scenes on disk: the values of the files, made once, made anew when anything changes, and within bounds."""

import json
import os
import pickle
import time

import numpy as np
import pytest
import torch
from small_data import contract_of, make_catalog, make_task, numbers, run_fit, same_tensors, tensors

import sartransfer.compiled as compiled
from sartransfer.catalog import Asset, Catalog, Entry
from sartransfer.contract import InputBand, InputContract
from sartransfer.data import cache
from sartransfer.data.cache import DecodedScenes, Storage, make_room
from sartransfer.data.decoded import KINDS, PlaneFile, Planes, narrow, read_normalized, write_planes
from sartransfer.data.patches import Samples, SceneStore
from sartransfer.errors import InputError, OutputError, RecipeError
from sartransfer.geotiff import write_geotiff
from sartransfer.radar.units import parse_unit
from sartransfer.readers import open_entry
from sartransfer.recipe import AugmentRecipe, PatchRecipe, parse_recipe
from sartransfer.scene import Band, Window
from sartransfer.timings import waiting_warning, write_timing

SIZE = (300, 217)  # several chunks of 128, the last ones cut


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SARTRANSFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SARTRANSFER_CACHE_GB", raising=False)
    monkeypatch.setattr(cache, "_in_use", set())
    return tmp_path / "cache"


def write_scenes(folder, *, whole_numbers, number=2, nodata=True, seed=0):
    """GeoTIFFs of two bands with a label each: counts of 16 bits, or decibels; some pixels without a value."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, entries = np.random.default_rng(seed), []
    for i in range(number):
        label = rng.integers(0, 3, SIZE).astype(np.uint8)
        if whole_numbers:
            values = rng.integers(1, 3000, (2, *SIZE)).astype(np.uint16)
            values[0, 40:60, :20] = 0 if nodata else 7
            write_geotiff(folder / f"{i}.tif", values, nodata=0 if nodata else None)
            bands = (Band("HH", parse_unit("digital_number")), Band("HV", parse_unit("digital_number")))
        else:
            values = rng.normal(-12, 3, (2, *SIZE)).astype(np.float32)
            values[1, 100:110, 30:50] = np.nan
            write_geotiff(folder / f"{i}.tif", values)
            bands = (Band("HH", parse_unit("sigma0_db")), Band("HV", parse_unit("sigma0_db")))
        write_geotiff(folder / f"{i}-label.tif", label)
        asset = Asset(folder / f"{i}.tif", bands=bands)
        entries.append(Entry(str(i), (asset,), label=folder / f"{i}-label.tif", split="train", group=str(i)))
    values = {0: 0, 1: 1, 2: 255}
    return Catalog("scenes", tuple(entries), ("ice", "water"), values)


def contract(catalog, *, difference=False):
    unit = str(catalog.entries[0].assets[0].bands[0].unit)
    bands = [InputBand("HH", unit, mean=3.25, std=1.7), InputBand("HV", unit, mean=-0.3, std=0.9)]
    if difference:
        bands.append(InputBand("ratio", unit, difference=("HH", "HV"), mean=1.0, std=2.0))
    return InputContract(tuple(bands))


WINDOWS = [
    Window(0, 0, *SIZE),
    Window(37, 5, 64, 200),
    Window(127, 127, 2, 2),
    Window(299, 216, 1, 1),
    Window(90, 10, 130, 70),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whole_numbers", [True, False])
@pytest.mark.parametrize("difference", [True, False])
def test_the_values_are_those_of_the_files(tmp_path, folder, kind, whole_numbers, difference):
    catalog = write_scenes(tmp_path / "data", whole_numbers=whole_numbers)
    wanted = contract(catalog, difference=difference)
    plain = SceneStore(catalog, catalog.entries, wanted, cache_bytes=0)
    kept = SceneStore(catalog, catalog.entries, wanted, cache=kind)
    seen = 0
    for index in range(2):
        for window in [None, *WINDOWS]:
            ours, theirs = kept.read(index, window), plain.read(index, window)
            assert np.array_equal(ours[0], theirs[0])
            assert np.array_equal(ours[1], theirs[1])
            assert np.array_equal(ours[2].mask, theirs[2].mask)
            seen += int((~theirs[1]).sum())
            if window is not None:
                assert np.array_equal(kept.read_mask(index, window), theirs[2].mask)
                assert np.array_equal(plain.read_mask(index, window), theirs[2].mask)
                for store in (kept, plain):
                    image, valid = np.full(ours[0].shape, 9, np.float32), np.zeros(ours[1].shape, bool)
                    mask = store.read_into(index, window, image, valid)
                    assert np.array_equal(image, theirs[0])
                    assert np.array_equal(valid, theirs[1])
                    assert np.array_equal(mask, theirs[2].mask)
    assert seen > 0
    headers = [json.loads(p.read_text()) for p in folder.glob("*/header.json")]
    small = whole_numbers and not difference
    assert [h["image"] for h in headers] == ["uint16" if small else "float32"] * 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whole_numbers", [True, False])
def test_the_compiled_pass_gives_the_same_bits(tmp_path, monkeypatch, kind, whole_numbers):
    pytest.importorskip("numba")
    catalog = write_scenes(tmp_path / "data", whole_numbers=whole_numbers, number=1)
    store = SceneStore(catalog, catalog.entries, contract(catalog), cache=kind)
    for window in WINDOWS:
        monkeypatch.setattr(compiled, "_ready", {})
        monkeypatch.setattr(compiled, "LARGE", 1 << 60)
        slow = store.read(0, window)
        monkeypatch.setattr(compiled, "LARGE", 1)
        fast = store.read(0, window)
        assert np.array_equal(slow[0], fast[0])
        assert np.array_equal(slow[1], fast[1])


def test_whole_numbers_are_kept_in_16_bits_only_if_each_comes_back():
    values = np.array([0.0, 1.0, 65534.0, np.nan], np.float32)
    assert narrow(values).tolist() == [0, 1, 65534, 65535]
    for odd in (65535.0, -1.0, 0.5, np.inf, -np.inf, -0.0, 1e9):
        assert narrow(np.append(values, np.float32(odd))) is None, odd


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_planes_come_back_as_they_were_written(tmp_path, kind, dtype):
    values = (np.random.default_rng(0).random((3, *SIZE)) * 200).astype(dtype)
    planes = Planes(kind, values.shape, dtype)
    write_planes(tmp_path / "p", planes, (values[:, r : r + 128] for r in range(0, SIZE[0], 128)))
    file = pickle.loads(pickle.dumps(PlaneFile(tmp_path / "p", planes)))  # noqa: S301, as worker processes get it
    for window in WINDOWS:
        rows, cols = window.slices
        assert np.array_equal(file.read(window), values[:, rows, cols])
    data = (tmp_path / "p").read_bytes()
    (tmp_path / "p").write_bytes(data[:-1])
    with pytest.raises(InputError, match="not whole"):
        PlaneFile(tmp_path / "p", planes).open()
    with pytest.raises(InputError, match="cannot be kept"):
        Planes("zip", (1, 1, 1), "uint8")
    with pytest.raises(InputError, match="does not fit"):
        read_normalized(
            file, WINDOWS[0], np.zeros(3, np.float32), np.ones(3, np.float32), np.zeros((3, 4, 4), np.float32),
            np.zeros((4, 4), bool),
        )  # fmt: skip


def made(folder):
    return {p.parent.name: p.stat().st_ino for p in folder.glob("*/header.json")}


def test_scenes_are_decoded_once_and_anew_when_something_changes(tmp_path, folder):
    catalog = write_scenes(tmp_path / "data", whole_numbers=True)
    wanted = contract(catalog)

    def keep(catalog=catalog, wanted=wanted, kind="memory-map"):
        store = SceneStore(catalog, catalog.entries, wanted, cache=kind)
        assert made(folder) == before  # opening reads no pixel
        store.prepare()
        return store

    before = {}
    keep()
    before = made(folder)
    assert len(before) == 2
    assert keep().read(0)[0].shape == (2, *SIZE)
    assert made(folder) == before
    # Another normalization is the same decoded scene.
    other = InputContract(tuple(InputBand(b.name, b.unit, mean=0.0, std=5.0) for b in wanted.bands))
    plain = SceneStore(catalog, catalog.entries, other, cache_bytes=0)
    assert np.array_equal(keep(wanted=other).read(1)[0], plain.read(1)[0])
    assert made(folder) == before
    # Fewer bands, another meaning of the labels, another kind, new pixels: made anew.
    for again in (
        {"wanted": InputContract(wanted.bands[:1])},
        {"catalog": Catalog("scenes", catalog.entries, catalog.classes, {0: 1, 1: 0, 2: 255})},
        {"kind": "bitshuffle-lz4"},
    ):
        keep(**again)
        assert len(made(folder)) == len(before) + 2
        before = made(folder)
    values = np.full((2, *SIZE), 77, np.uint16)
    write_geotiff(tmp_path / "data/0.tif", values, overwrite=True)
    image = keep().read(0)[0]
    assert (image[0] == (np.float32(77) - np.float32(3.25)) / np.float32(1.7)).all()
    assert len(made(folder)) == len(before) + 1


@pytest.mark.parametrize("middle", [False, True])
def test_a_change_that_keeps_size_and_time_is_seen(tmp_path, folder, monkeypatch, middle):
    monkeypatch.setattr("sartransfer.data.cache.ENDS", 8)
    catalog = write_scenes(tmp_path / "data", whole_numbers=True, number=1)
    SceneStore(catalog, catalog.entries, contract(catalog), cache="memory-map").prepare()
    path = tmp_path / "data/0-label.tif"
    was, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2 if middle else -1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    store = SceneStore(catalog, catalog.entries, contract(catalog), cache="memory-map")
    try:
        store.prepare()
    except InputError:
        return  # the changed byte made the label unreadable: it was read
    assert len(made(folder)) == 2


def test_damaged_and_unfinished_files_are_made_anew(tmp_path, folder):
    catalog = write_scenes(tmp_path / "data", whole_numbers=False, number=1)
    store = SceneStore(catalog, catalog.entries, contract(catalog), cache="bitshuffle-lz4")
    whole = store.read(0)[0]
    (place,) = made(folder)
    for name in ("image", "image.index", "label", "header.json"):
        path = folder / place / name
        path.write_bytes(path.read_bytes()[:-3])
        again = SceneStore(catalog, catalog.entries, contract(catalog), cache="bitshuffle-lz4")
        assert np.array_equal(again.read(0)[0], whole)
    assert [p.name for p in folder.iterdir()] == [place]  # nothing unfinished stays


def test_a_full_disk_leaves_nothing_behind(tmp_path, folder, monkeypatch):
    catalog = write_scenes(tmp_path / "data", whole_numbers=False, number=1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sartransfer.data.decoded.write_at", full)
    with pytest.raises(OutputError, match=r"No space left on device.*data.cache: none"):
        SceneStore(catalog, catalog.entries, contract(catalog), cache="memory-map").prepare()
    assert list(folder.iterdir()) == []


def test_the_cache_is_bounded_and_the_longest_unused_leave(tmp_path, folder, monkeypatch):
    catalog = write_scenes(tmp_path / "data", whole_numbers=True, number=4)
    each = cache._most_bytes(open_entry(catalog.entries[0]), contract(catalog))
    storage = Storage(folder, int(2.5 * each))

    def keep(*numbers):
        entries = [catalog.entries[n] for n in numbers]
        scenes = [open_entry(e) for e in entries]
        DecodedScenes(catalog, entries, scenes, contract(catalog), "memory-map", storage).prepare()
        time.sleep(0.01)  # so that the times of use differ

    keep(0)
    first = set(made(folder))
    keep(1)
    second = set(made(folder)) - first
    keep(0)  # used again: the other one is the longest unused
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) <= storage.limit_bytes
    cache._in_use.clear()
    room = Storage(folder, sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) + 10)
    make_room(room, 1000)
    assert set(made(folder)) == first
    cache._in_use.update(folder / name for name in first)
    with pytest.raises(InputError, match="Raise SARTRANSFER_CACHE_GB"):
        make_room(room, room.limit_bytes)
    assert set(made(folder)) == first != second
    with pytest.raises(
        InputError, match=r"4 scenes take up to .* Raise SARTRANSFER_CACHE_GB, or set data.cache: none"
    ):
        keep(0, 1, 2, 3)
    monkeypatch.setenv("SARTRANSFER_CACHE_GB", "much")
    with pytest.raises(InputError, match="SARTRANSFER_CACHE_GB='much'"):
        Storage.from_environment()
    monkeypatch.setenv("SARTRANSFER_CACHE_GB", "2")
    monkeypatch.delenv("SARTRANSFER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Storage.from_environment() == Storage(tmp_path / "xdg/sartransfer/training", 2 * 10**9)


def test_a_second_process_that_is_sooner_wins(tmp_path, folder, monkeypatch):
    catalog = write_scenes(tmp_path / "data", whole_numbers=True, number=1)
    real = cache.write_planes

    def overtaken(path, planes, blocks):
        monkeypatch.setattr(cache, "write_planes", real)
        SceneStore(catalog, catalog.entries, contract(catalog), cache="memory-map").prepare()
        real(path, planes, blocks)

    monkeypatch.setattr(cache, "write_planes", overtaken)
    store = SceneStore(catalog, catalog.entries, contract(catalog), cache="memory-map")
    plain = SceneStore(catalog, catalog.entries, contract(catalog), cache_bytes=0)
    assert np.array_equal(store.read(0)[0], plain.read(0)[0])
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("travelled", [False, True])
def test_samples_are_the_same_with_and_without_a_cache(tmp_path, travelled):
    """Also where they were sent to another process, as workers of a loader get them."""
    catalog = write_scenes(tmp_path / "data", whole_numbers=False)
    augment = AugmentRecipe(flips=True, rotations=True, gain=0.1)
    patch = PatchRecipe(size=48, per_scene=3, min_labelled=0.5)
    found = []
    for kind in ("none", *KINDS):
        store = SceneStore(catalog, catalog.entries, contract(catalog), cache=kind, cache_bytes=0)
        samples = Samples(store, patch=patch, recipe=augment, seed=3)
        samples = pickle.loads(pickle.dumps(samples)) if travelled else samples  # noqa: S301 our own
        loader = torch.utils.data.DataLoader(samples, batch_size=3)
        found.append(list(loader))
    for batches in found[1:]:
        for one, other in zip(found[0], batches, strict=True):
            assert torch.equal(one["image"], other["image"])
            assert torch.equal(one["mask"], other["mask"])


def test_chips_have_no_mask(tmp_path):
    catalog = make_catalog(tmp_path / "data", {"train": 2}, size=40)
    entries = [Entry(e.id, e.assets, category="land", split="train", group=e.id) for e in catalog.entries]
    chips = catalog.with_entries(entries)
    plain, kept = (
        SceneStore(chips, chips.entries, contract_of(catalog), chip=24, cache=kind)
        for kind in ("none", "memory-map")
    )
    for index in range(2):
        ours, theirs = kept.read(index), plain.read(index)
        assert np.array_equal(ours[0], theirs[0])
        assert ours[2] == theirs[2]
        assert kept.read_mask(index, Window(0, 0, 5, 5)) is None


def test_training_with_a_cache_is_the_same_training(tmp_path):
    catalog = make_catalog(tmp_path / "data", {"train": 4, "validation": 2}, size=40)

    def cached(catalog, entries, contract):
        return SceneStore(catalog, entries, contract, cache="bitshuffle-lz4")

    patch = PatchRecipe(size=32)
    plain = run_fit(tmp_path / "plain", make_task(catalog, patch=patch))
    kept = run_fit(tmp_path / "kept", make_task(catalog, patch=patch, store=cached))
    assert numbers(plain.curves) == numbers(kept.curves)
    assert same_tensors(tensors(tmp_path / "plain", "last"), tensors(tmp_path / "kept", "last"))
    # The time that went by waiting for data is written down, an epoch a line.
    head, *lines = (tmp_path / "kept/timing.csv").read_text().splitlines()
    assert head == "epoch,seconds,waited_seconds,waited_share"
    rows = [[float(v) for v in line.split(",")] for line in lines]
    assert [row[0] for row in rows] == [1, 2]
    for _, seconds, waited, share in rows:
        assert 0 < waited < seconds
        assert share == pytest.approx(waited / seconds, rel=0.05, abs=1e-3)


RECIPE = {
    "name": "r", "task": "segment", "data": {"catalog": "c.csv"}, "model": {"name": "unet-resnet18"},
    "initializations": {"random": "random"}, "primary": {"metric": "iou_macro"},
}  # fmt: skip


def test_a_recipe_with_a_cache_asks_for_the_same(tmp_path):
    plain = parse_recipe(RECIPE)
    kept = parse_recipe({**RECIPE, "data": {"catalog": "c.csv", "cache": "memory-map"}})
    assert plain.data.cache == "none"
    assert plain.digest() == kept.digest()
    with pytest.raises(RecipeError, match="cache"):
        parse_recipe({**RECIPE, "data": {"catalog": "c.csv", "cache": "zip"}})
    catalog = write_scenes(tmp_path / "data", whole_numbers=True, number=1)
    with pytest.raises(RecipeError, match=r"data.cache='zip' is not known. Must be one of: none, memory-map"):
        SceneStore(catalog, catalog.entries, contract(catalog), cache="zip")


def test_a_training_that_waits_for_data_says_so(tmp_path):
    """Of two runs, 200 + 100 seconds, 90 + 10 went by waiting: 33 %. Little, or little of much, is not worth a word."""
    folders = [tmp_path / name for name in "ab"]
    for folder, rows in zip(
        folders, ([(1, 120, 60, 0.5), (2, 80, 30, 0.375)], [(1, 100, 10, 0.1)]), strict=True
    ):
        folder.mkdir()
        write_timing(folder, rows)
    text = waiting_warning([*folders, tmp_path / "never ran"], "none")
    assert text is not None
    assert text.startswith("33% of the training's 5 minutes")
    assert "data.cache: memory-map" in text
    assert "SARTRANSFER_CACHE" in (waiting_warning(folders, "bitshuffle-lz4") or "")
    assert waiting_warning(folders[1:], "none") is None  # 10 seconds
    write_timing(folders[1], [(1, 10000, 100, 0.01)])
    assert waiting_warning(folders[1:], "none") is None  # 1 %
    assert waiting_warning([tmp_path / "never ran"], "none") is None
