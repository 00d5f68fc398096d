"""Samples: normalization from training pixels, augmentation, patches, the store of scenes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_data import CLASSES, contract_of, make_catalog, write_scene

from sartransfer.catalog import IGNORE_INDEX, Asset, Catalog, Entry
from sartransfer.contract import InputBand, InputContract
from sartransfer.data import normalize
from sartransfer.data.augment import augment, restretch
from sartransfer.data.normalize import fit_normalization, resolve_contract
from sartransfer.data.patches import EpochSampler, Samples, SceneStore, WholeScenes, class_frequencies
from sartransfer.errors import CatalogError, InputError, UnitError
from sartransfer.radar.units import parse_unit
from sartransfer.readers import open_entry
from sartransfer.readers.array import write_array
from sartransfer.recipe import AugmentRecipe, BandRecipe, PatchRecipe
from sartransfer.scene import ArraySource, Band, Scene, Window

RNG = np.random.default_rng(5)
DB = parse_unit("sigma0_db")


def scene_of(values, names=("a", "b"), unit="sigma0_db"):
    return Scene(
        "s", tuple(Band(n, parse_unit(unit)) for n in names), *values.shape[1:], source=ArraySource(values)
    )


# ---- normalization ----


def test_statistics_equal_those_of_all_valid_pixels(monkeypatch):
    monkeypatch.setattr(normalize, "BLOCK_PIXELS", 100)  # several blocks a scene, the last one short
    stacks = [RNG.normal(-1000 + 30 * i, 3, (2, 23 + i, 17)).astype(np.float32) for i in range(3)]
    stacks[0][0, :5] = np.nan
    stacks[1][1, :, 3] = np.nan
    scenes = [scene_of(s) for s in stacks]
    bands = (BandRecipe(name="a"), BandRecipe(name="b"), BandRecipe(name="c", difference=("a", "b")))
    fitted = fit_normalization(resolve_contract(bands, scenes[0]), scenes)
    pixels = np.concatenate([s.reshape(2, -1) for s in stacks], axis=1).astype(np.float64)
    pixels = pixels[:, np.isfinite(pixels).all(axis=0)]
    expected = np.stack([*pixels, pixels[0] - pixels[1]])
    np.testing.assert_allclose([b.mean for b in fitted.bands], expected.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose([b.std for b in fitted.bands], expected.std(axis=1), rtol=1e-6)
    assert [b.unit for b in fitted.bands] == ["sigma0_db"] * 3
    normalized = np.concatenate([fitted.read(s).data[:, fitted.read(s).valid] for s in scenes], axis=1)
    np.testing.assert_allclose(normalized.mean(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(normalized.std(axis=1), 1, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, -17.3])
def test_a_constant_band_is_refused(value):
    values = np.stack([RNG.normal(size=(31, 7)), np.full((31, 7), value)]).astype(np.float32)
    scenes = [scene_of(values), scene_of(values[:, :5])]
    with pytest.raises(InputError, match="'b' is constant over the training scenes"):
        fit_normalization(resolve_contract((), scenes[0]), scenes)


def test_a_small_deviation_far_from_zero_is_none_the_less_one():
    values = (5000 + RNG.choice([0.0, 0.25], (1, 40, 40))).astype(np.float32)
    scene = scene_of(values, ("a",), "digital_number")
    (band,) = fit_normalization(resolve_contract((), scene), [scene]).bands
    assert band.std == pytest.approx(values.astype(float).std(), rel=1e-9)


def test_no_valid_pixel_is_refused():
    scene = scene_of(np.full((2, 4, 4), np.nan, dtype=np.float32))
    with pytest.raises(InputError, match="no valid pixel"):
        fit_normalization(resolve_contract((), scene), [scene])


def test_units_come_from_the_scene_or_the_recipe():
    scene = scene_of(RNG.normal(size=(2, 4, 4)).astype(np.float32))
    bands = (BandRecipe(name="a", unit="sigma0"), BandRecipe(name="d", difference=("b", "a")))
    assert [b.unit for b in resolve_contract(bands, scene).bands] == ["sigma0", "sigma0_db"]
    with pytest.raises(UnitError, match="unit of band 'a' is unknown"):
        resolve_contract((), scene_of(np.zeros((2, 4, 4), dtype=np.float32), unit="unknown"))
    with pytest.raises(InputError, match=r"Did you mean|Must be one of"):
        resolve_contract((BandRecipe(name="c"),), scene)
    with pytest.raises(UnitError, match="the network expects gamma0"):
        resolve_contract((BandRecipe(name="a", unit="gamma0"),), scene)


# ---- augmentation ----

PLAIN = InputContract((InputBand("a", "sigma0_db"), InputBand("b", "sigma0_db")))
TURNS = [(k, m) for k in range(4) for m in (False, True)]


def turned(array, k, mirror):
    out = np.rot90(array, k, axes=(-2, -1))
    return np.flip(out, -1) if mirror else out


def drawn(shape, recipe, draws=200):
    """The set of placements that occur, recognized by where the pixel numbers of the image went."""
    numbers = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(1, *shape)
    mask = (np.arange(shape[0] * shape[1]) % 251).astype(np.uint8).reshape(shape)
    valid = mask % 2 == 0
    found = set()
    for i in range(draws):
        image, label, good = augment(numbers, mask, valid, PLAIN, recipe, np.random.default_rng(i))
        np.testing.assert_array_equal(label, (image[0].astype(int) % 251))  # the label went with the image
        np.testing.assert_array_equal(good, label % 2 == 0)
        found.add((image.shape[1:], tuple(image[0].ravel())))
    return found, numbers


def test_the_label_moves_with_the_image_through_all_of_the_dihedral_group():
    found, numbers = drawn((5, 5), AugmentRecipe(flips=True, rotations=True))
    everything = {((5, 5), tuple(turned(numbers, k, m)[0].ravel())) for k, m in TURNS}
    assert len(everything) == 8
    assert found == everything


def test_flips_alone_mirror_and_oblong_samples_turn_by_180():
    found, numbers = drawn((4, 4), AugmentRecipe(flips=True))
    assert found == {((4, 4), tuple(turned(numbers, 0, m)[0].ravel())) for m in (False, True)}
    found, numbers = drawn((3, 5), AugmentRecipe(rotations=True))
    assert found == {((3, 5), tuple(turned(numbers, k, False)[0].ravel())) for k in (0, 2)}


def test_nothing_is_changed_unless_asked_for():
    image = RNG.normal(size=(2, 4, 4)).astype(np.float32)
    out, mask, _ = augment(
        image, None, np.ones((4, 4), bool), PLAIN, AugmentRecipe(), np.random.default_rng(0)
    )
    np.testing.assert_array_equal(out, image)
    assert mask is None


def test_a_restretched_difference_is_the_difference_of_the_restretched_bands():
    values = RNG.normal([[[-12]], [[-9]]], [[[4]], [[2.5]]], (2, 32, 32)).astype(np.float32)
    scene = scene_of(values, ("before", "after"))
    bands = (
        BandRecipe(name="before"),
        BandRecipe(name="after"),
        BandRecipe(name="change", difference=("after", "before")),
    )
    contract = fit_normalization(resolve_contract(bands, scene), [scene])
    recipe = AugmentRecipe(gain=0.3, shift=0.5, band_shift=0.4)
    image = contract.read(scene).data
    means, stds = (np.array([getattr(b, k) for b in contract.bands])[:, None, None] for k in ("mean", "std"))
    offsets = []
    for seed in range(20):
        out = restretch(image, contract, recipe, np.random.default_rng(seed))
        physical = out.astype(np.float64) * stds + means
        np.testing.assert_allclose(physical[2], physical[1] - physical[0], atol=2e-4)
        gain, offset = np.polyfit(image[0].ravel(), out[0].ravel(), 1)  # z' = g z + s + t
        assert 0.7 <= gain <= 1.3
        assert abs(offset) <= 0.9
        np.testing.assert_allclose(out[1] - gain * image[1], (out[1] - gain * image[1]).mean(), atol=1e-4)
        offsets.append((offset, (out[1] - gain * image[1]).mean()))
    one, two = np.array(offsets).T
    assert len(set(np.round(one - two, 6))) == 20  # the bands' own shifts differ
    assert np.ptp(one) > 0.5


def test_a_difference_in_another_unit_moves_alone():
    bands = (
        InputBand("a", "sigma0", std=0.1),
        InputBand("b", "sigma0", std=0.1),
        InputBand("d", "sigma0_db", difference=("a", "b"), std=3.0),
    )
    image = np.zeros((3, 4, 4), np.float32)
    out = restretch(image, InputContract(bands), AugmentRecipe(band_shift=0.4), np.random.default_rng(1))
    assert np.abs(out[2]).max() <= 0.4


def test_what_is_not_valid_stays_at_the_mean():
    image = np.ones((2, 6, 6), np.float32)
    valid = np.ones((6, 6), bool)
    valid[2, 3] = False
    image[:, 2, 3] = 0
    out, _, good = augment(
        image, None, valid, PLAIN, AugmentRecipe(rotations=True, shift=1.0), np.random.default_rng(2)
    )
    assert (out[:, ~good] == 0).all()
    assert (out[:, good] != 0).all()


# ---- patches ----


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return make_catalog(tmp_path_factory.mktemp("scenes"), {"train": 4}, size=40, ignore=0.2)


@pytest.fixture(scope="module")
def store(catalog):
    return SceneStore(catalog, catalog.entries, contract_of(catalog))


def of(store, *, seed=0, epoch=0, augmented=False, **patch):
    recipe = AugmentRecipe(flips=augmented, rotations=augmented)
    samples = Samples(store, patch=PatchRecipe(size=8, **patch) if patch else None, recipe=recipe, seed=seed)
    samples.epoch = epoch
    return [samples[i] for i in range(len(samples))]


def equal(one, other):
    return all(torch.equal(a["image"], b["image"]) for a, b in zip(one, other, strict=True))


def test_samples_follow_from_seed_epoch_and_index(store):
    first = of(store, per_scene=3, augmented=True)
    assert len(first) == 12
    assert equal(first, of(store, per_scene=3, augmented=True))
    assert equal(first[7:8], of(store, per_scene=3, augmented=True)[7:8])
    assert not equal(first, of(store, per_scene=3, augmented=True, seed=1))
    assert not equal(first, of(store, per_scene=3, augmented=True, epoch=1))


def test_places_are_drawn_anew_or_stay(store):
    assert not equal(of(store, per_scene=2), of(store, per_scene=2, epoch=1))
    assert equal(of(store, per_scene=2, redraw=False), of(store, per_scene=2, redraw=False, epoch=7))
    assert not equal(of(store, per_scene=2, redraw=False), of(store, per_scene=2, redraw=False, seed=1))


def test_a_patch_is_cut_from_its_scene_with_its_label(store):
    for number, sample in enumerate(of(store, per_scene=5, min_labelled=0.0)):
        image, _, target = store.read(number // 5)
        places = np.lib.stride_tricks.sliding_window_view(image[0], (8, 8))
        rows, cols = np.nonzero((places == sample["image"][0].numpy()).all(axis=(2, 3)))
        assert len(rows) == 1
        cut = target.mask[rows[0] : rows[0] + 8, cols[0] : cols[0] + 8]
        np.testing.assert_array_equal(sample["mask"].numpy(), cut)


def test_every_place_can_be_drawn(store):
    rows = set()
    for epoch in range(60):
        samples = Samples(store, patch=PatchRecipe(size=38), recipe=AugmentRecipe(), seed=0)
        samples.epoch = epoch
        window = samples._draw(0, samples.patch, np.random.default_rng([0, epoch, 0]))
        rows.add((window.row, window.col))
    assert rows == {(r, c) for r in range(3) for c in range(3)}


def test_patches_have_enough_label(tmp_path):
    label = np.full((40, 40), IGNORE_INDEX, np.uint8)
    label[:, :14] = 1
    path = write_array(
        tmp_path / "a.npz", RNG.normal(size=(1, 40, 40)).astype(np.float32), [Band("a", DB)], label=label
    )
    catalog = Catalog("c", (Entry("a", (Asset(path),), label=path, split="train"),), CLASSES)
    store = SceneStore(catalog, catalog.entries, contract_of(catalog))
    masks = [s["mask"] for s in of(store, per_scene=40, min_labelled=0.6)]
    assert min(float((m != IGNORE_INDEX).float().mean()) for m in masks) >= 0.6
    bare = replace(catalog.entries[0])
    write_array(
        tmp_path / "b.npz", RNG.normal(size=(1, 40, 40)).astype(np.float32), [Band("a", DB)],
        label=np.full((40, 40), IGNORE_INDEX, np.uint8),
    )  # fmt: skip
    bare = Entry("bare", (Asset(tmp_path / "b.npz"),), label=tmp_path / "b.npz", split="train")
    with pytest.raises(CatalogError, match=r"'bare': no patch of 8 px with 60% of its label known"):
        of(SceneStore(catalog.with_entries([bare]), [bare], store.contract), min_labelled=0.6)


def test_a_patch_larger_than_its_scene_is_refused(store):
    with pytest.raises(InputError, match=r"40 x 40 pixels is smaller than data.patch.size=41"):
        Samples(store, patch=PatchRecipe(size=41), recipe=AugmentRecipe(), seed=0)


def test_scenes_of_several_sizes_cannot_be_batched_whole(tmp_path, catalog):
    other = write_scene(tmp_path / "x.npz", np.random.default_rng(0), size=32)
    mixed = catalog.with_entries([*catalog.entries, Entry("x", (Asset(other),), label=other, split="train")])
    store = SceneStore(mixed, mixed.entries, contract_of(catalog))
    with pytest.raises(InputError, match=r"differ in size .* data.patch.size"):
        Samples(store, patch=None, recipe=AugmentRecipe(), seed=0)
    assert WholeScenes(store).batch_size(16) == 1
    assert len(of(store, per_scene=2)) == 10


def test_the_order_is_a_new_permutation_in_every_epoch(store):
    samples = Samples(store, patch=PatchRecipe(size=8, per_scene=6), recipe=AugmentRecipe(), seed=0)
    sampler = EpochSampler(samples)
    first = list(sampler)
    assert sorted(first) == list(range(24))
    assert first == list(sampler)
    samples.epoch = 1
    assert sorted(sampler) == list(range(24))
    assert list(sampler) != first


# ---- the store ----


def test_cached_equals_uncached(catalog, store):
    bare = SceneStore(catalog, catalog.entries, store.contract, cache_bytes=0)
    for index in range(len(store)):
        for window in (None, Window(0, 0, 40, 40), Window(3, 5, 7, 11), Window(39, 39, 1, 1)):
            one, two = store.read(index, window), bare.read(index, window)
            np.testing.assert_array_equal(one[0], two[0])
            np.testing.assert_array_equal(one[1], two[1])
            np.testing.assert_array_equal(one[2].mask, two[2].mask)
    for either in (store, bare):
        with pytest.raises(InputError, match="leaves"):
            either.read(0, Window(38, 0, 4, 4))


def test_augmentation_never_writes_into_the_cache(store):
    before = store.read(0)[0].copy()
    of(store, augmented=True, per_scene=4)
    samples = Samples(store, patch=None, recipe=AugmentRecipe(flips=True, gain=0.5, shift=1.0), seed=0)
    for _ in range(4):
        samples[0]
    np.testing.assert_array_equal(store.read(0)[0], before)


def test_pixels_without_a_value_have_no_label(tmp_path):
    values = RNG.normal(size=(1, 8, 8)).astype(np.float32)
    values[0, 2, 3] = np.nan
    path = write_array(tmp_path / "a.npz", values, [Band("a", DB)], label=np.ones((8, 8), np.uint8))
    catalog = Catalog("c", (Entry("a", (Asset(path),), label=path, split="train"),), CLASSES)
    image, valid, target = SceneStore(catalog, catalog.entries, contract_of(catalog)).read(0)
    assert target.mask[2, 3] == IGNORE_INDEX
    assert (target.mask != IGNORE_INDEX).sum() == valid.sum() == 63
    assert image[0, 2, 3] == 0


def test_chips_are_cut_from_the_centre(tmp_path):
    values = np.arange(9 * 12, dtype=np.float32).reshape(1, 9, 12)
    path = write_array(tmp_path / "a.npz", values, [Band("a", parse_unit("digital_number"))])
    entries = tuple(Entry(f"e{c}", (Asset(path),), category=c, split="train") for c in CLASSES)
    catalog = Catalog("c", entries, CLASSES)
    contract = resolve_contract((), open_entry(entries[0]))
    cached = SceneStore(catalog, entries, contract, chip=4)
    bare = SceneStore(catalog, entries, contract, chip=4, cache_bytes=0)
    for store in (cached, bare):
        np.testing.assert_array_equal(store.read(1)[0], values[:, 2:6, 4:8])
        np.testing.assert_array_equal(store.read(1, Window(1, 2, 3, 2))[0], values[:, 3:6, 6:8])
        assert store.read(1)[2].category == 1
        assert store.read(1)[2].mask is None
        with pytest.raises(InputError, match="leaves"):
            store.read(1, Window(2, 0, 3, 4))
    np.testing.assert_array_equal(class_frequencies(cached), [1, 1])
    assert Samples(cached, patch=None, recipe=AugmentRecipe(), seed=0)[1]["mask"] == 1
    with pytest.raises(InputError, match="chip=10"):
        SceneStore(catalog, entries, contract, chip=10)
    stray = Entry("stray", (Asset(path),), category="sea", split="train")
    with pytest.raises(CatalogError, match="'stray' has the class 'sea'"):
        SceneStore(catalog, [stray], contract).read(0)


def test_class_frequencies_count_known_pixels(catalog, store):
    masks = np.concatenate([store.read(i)[2].mask.ravel() for i in range(len(store))])
    np.testing.assert_array_equal(class_frequencies(store), [(masks == 0).sum(), (masks == 1).sum()])
    assert (masks == IGNORE_INDEX).any()


def test_whole_scenes_come_in_catalog_order(store):
    whole = WholeScenes(store)
    assert [whole[i]["index"] for i in range(len(whole))] == [0, 1, 2, 3]
    assert whole.batch_size(16) == 16
    np.testing.assert_array_equal(whole[2]["mask"].numpy(), store.read(2)[2].mask)
