"""The cut of a scene in two halves: areas, directions, and no pixel that training and validation share."""

import numpy as np
import pytest

from sartransfer.data.halves import cut_in_half
from sartransfer.errors import InputError
from sartransfer.parts import Cut, Part
from sartransfer.scene import Window


def footprint(height, width, angle, side, middle=None):
    """A square that stands at an angle (degrees) in a grid: True inside."""
    row, col = middle or (height / 2, width / 2)
    y, x = np.mgrid[:height, :width] + 0.5
    turn = np.deg2rad(angle)
    along = (x - col) * np.cos(turn) + (y - row) * np.sin(turn)
    across = -(x - col) * np.sin(turn) + (y - row) * np.cos(turn)
    return (abs(along) < side / 2) & (abs(across) < side / 2)


@pytest.mark.parametrize("angle", [0, 8, 23, 44, 46, 67, 82])
def test_both_sides_have_half_of_the_footprint(angle):
    valid = footprint(180, 200, angle, 110)
    cut = cut_in_half(valid)
    whole = Window(0, 0, 180, 200)
    upper, lower = (Part(cut, side).mask(whole) for side in ("upper-right", "lower-left"))
    assert not (upper & lower).any()
    assert (upper & valid).sum() == pytest.approx(valid.sum() / 2, rel=0.02)
    assert (lower & valid).sum() == pytest.approx(valid.sum() / 2, rel=0.02)
    # the cut runs through the middle, parallel to two of the sides
    assert cut.distance(np.array([90.0]), np.array([100.0]))[0] == pytest.approx(0, abs=1)
    direction = np.rad2deg(np.arctan2(cut.normal[0], cut.normal[1])) % 90
    assert min(abs(direction - angle), 90 - abs(direction - angle)) < 1.5


@pytest.mark.parametrize("angle", [10, 30, 60, 80])
def test_the_upper_right_half_holds_the_upper_and_the_right_corner(angle):
    """As the paper's code: NE is bounded by the upper and right extremes of the footprint, SW by the others."""
    valid = footprint(160, 160, angle, 90)
    rows, cols = np.nonzero(valid)
    cut = cut_in_half(valid)
    extremes = [np.argmin(rows), np.argmax(cols), np.argmax(rows), np.argmin(cols)]
    distance = cut.distance(rows[extremes] + 0.5, cols[extremes] + 0.5)
    assert (distance[:2] > 20).all()
    assert (distance[2:] < -20).all()


@pytest.mark.parametrize("buffer", [0.0, 7.5])
@pytest.mark.parametrize("angle", [0, 17, 45, 71])
def test_no_training_patch_sees_a_validation_pixel(angle, buffer):
    rng = np.random.default_rng(angle)
    valid = footprint(140, 150, angle, 95)
    cut = cut_in_half(valid)
    whole = Window(0, 0, 140, 150)
    y, x = np.mgrid[:140, :150] + 0.5
    distance = cut.normal[0] * (y - cut.row) + cut.normal[1] * (x - cut.col)  # pixel by pixel
    np.testing.assert_array_equal(Part(cut, "upper-right", buffer).mask(whole), distance > buffer)
    np.testing.assert_array_equal(Part(cut, "lower-left", buffer).mask(whole), distance < -buffer)
    validation = Part(cut, "upper-right").mask(whole)
    shared = kept = 0
    for _ in range(400):
        size = int(rng.integers(1, 40))
        patch = Window(int(rng.integers(0, 140 - size)), int(rng.integers(0, 150 - size)), size, size)
        for side, wanted in (("upper-right", distance > buffer), ("lower-left", distance < -buffer)):
            assert Part(cut, side, buffer).holds(patch) == wanted[patch.slices].all()
        if Part(cut, "lower-left", buffer).holds(patch):
            kept += 1
            shared += int(validation[patch.slices].sum())
            assert distance[patch.slices].max() < -buffer
    assert kept > 50
    assert shared == 0


def test_the_window_of_a_half_holds_all_of_it_and_no_more():
    cut = Cut(30.0, 40.0, (-np.sqrt(0.5), np.sqrt(0.5)))
    for side in ("upper-right", "lower-left"):
        mask = Part(cut, side).mask(Window(0, 0, 60, 50))
        window = Part(cut, side).window(60, 50)
        assert mask[window.slices].sum() == mask.sum()
        edges = mask[window.slices]
        assert edges[0].any()
        assert edges[-1].any()
        assert edges[:, 0].any()
        assert edges[:, -1].any()


def test_what_is_refused():
    with pytest.raises(InputError, match="no pixel of the scene has a value"):
        cut_in_half(np.zeros((5, 5), bool))
    cut = cut_in_half(np.ones((4, 6), bool))
    assert (cut.row, cut.col, cut.normal) == (2.0, 3.0, (-1.0, 0.0))  # straight: a level cut, up is "upper"
    with pytest.raises(InputError, match="side='NE' is not known"):
        Part(cut, "NE")
    with pytest.raises(InputError, match="buffer=-1"):
        Part(cut, "lower-left", -1)
    with pytest.raises(InputError, match="length 1"):
        Cut(0, 0, (1.0, 1.0))
    with pytest.raises(InputError, match="leaves nothing"):
        Part(Cut(-5.0, 0.0, (-1.0, 0.0)), "upper-right").window(4, 4)


# ---- in a recipe ----

MONTHS = {"jan": 1, "feb": 2, "mar": 3, "jun": 6, "jul": 7}
METRES = 80.0


def write_ice(folder, *, size=96, tilt=20.0, crs="EPSG:3413", seed=0):
    """A scene a month, its area of values a square at an angle; each pixel of band `number` has a number of its own."""
    from datetime import datetime

    from sartransfer.catalog import Asset, Catalog, Entry, write_catalog
    from sartransfer.geotiff import write_geotiff
    from sartransfer.scene import GeoReference

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    entries = []
    for k, (name, month) in enumerate(MONTHS.items()):
        inside = footprint(size, size, tilt, 0.7 * size)
        y, x = np.mgrid[:size, :size]
        label = (np.sin(y / 4 + x / 9 + k) + np.cos(x / 5) > 0.2).astype(np.uint8)
        number = np.arange(size * size, dtype=np.float32).reshape(size, size)
        hh = np.float32(-14) - 4 * label + rng.normal(size=(size, size)).astype(np.float32)
        values = np.where(inside, np.stack([number, hh]), np.nan).astype(np.float32)
        place = GeoReference(crs, (METRES, 0, 1e6 * k, 0, -METRES, 0))
        units = ("digital_number", "sigma0_db")
        write_geotiff(folder / f"{name}.tif", values, georeference=place, descriptions=("number", "HH"),
                      units=units, nodata=np.nan)  # fmt: skip
        write_geotiff(folder / f"{name}_label.tif", np.where(inside, label, 255).astype(np.uint8),
                      georeference=place)  # fmt: skip
        entries.append(
            Entry(name, (Asset(folder / f"{name}.tif"),), folder / f"{name}_label.tif", split="train"
                  if month not in (1, 7) else name, group=name, time=datetime(2018, month, 15))
        )  # fmt: skip
    catalog = Catalog("ice", tuple(entries), ("water", "ice"), {0: 0, 1: 1, 255: 255})
    return write_catalog(catalog, folder / "catalog.csv")


def ice_recipe(catalog, **data):
    from sartransfer.recipe import DataRecipe

    halves = data.pop("halves", {"months": [2, 6]})
    return DataRecipe.model_validate(
        {"catalog": str(catalog), "bands": ["number", "HH"], "normalization": "none",
         "validation": {"halves": halves}, **data}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("buffer_m", "rotations", "cache"),
    [
        (0.0, False, "none"),
        (0.0, True, "none"),
        (400.0, True, "none"),
        (0.0, True, "memory-map"),
        (400.0, False, "memory-map"),
    ],
)
def test_training_shares_no_pixel_with_validation(tmp_path, monkeypatch, buffer_m, rotations, cache):
    """Every pixel that training reads, through patches and turns, against every pixel that validation reads."""
    from sartransfer.data.patches import Samples, WholeScenes
    from sartransfer.data.resolve import open_catalog, open_training_data
    from sartransfer.recipe import AugmentRecipe

    data = ice_recipe(
        write_ice(tmp_path),
        halves={"months": [2, 6], "buffer_m": buffer_m},
        patch={"size_m": 9 * METRES, "per_scene": 40, "min_labelled": 0.5},
        cache=cache,
    )
    monkeypatch.setenv("SARTRANSFER_CACHE", str(tmp_path / "cache"))
    catalog = open_catalog(data)
    assert [e.id for e in catalog.in_split("validation")] == ["feb-ne", "jun-ne"]
    assert [e.id for e in catalog.in_split("train")] == ["feb-sw", "mar", "jun-sw"]
    opened = open_training_data(catalog, data)

    held = {}
    for item in WholeScenes(opened.validation):
        known = (item["mask"] != 255).numpy()
        numbers = item["image"][0].numpy()
        seen = set(numbers[numbers != 0].astype(int).ravel())  # 0 stands for no value, and is a pixel outside
        assert set(numbers[known].astype(int)) <= seen
        held[opened.validation.entries[item["index"]].id.removesuffix("-ne")] = seen

    augment = AugmentRecipe(flips=rotations, rotations=rotations)
    samples = Samples(opened.train, patch=data.patch, recipe=augment, seed=3)
    assert samples.patch.size == 9
    shared = read = 0
    for epoch in (0, 1):
        samples.epoch = epoch
        for i in range(len(samples)):
            entry = opened.train.entries[i // 40]
            name = entry.id.removesuffix("-sw")
            numbers = samples[i]["image"][0].numpy().astype(int)
            read += numbers.size
            if name in held:
                assert len(set(numbers.ravel())) == 81 or (numbers == 0).any()
                shared += len(set(numbers[numbers > 0].ravel()) & held[name])
                # the buffer is kept: no pixel of the patch lies nearer to the cut
                rows, cols = np.divmod(numbers[numbers > 0], 96)
                distance = entry.part.cut.distance(rows + 0.5, cols + 0.5)
                assert distance.max() < -buffer_m / METRES
    assert read == 2 * 120 * 81
    assert shared == 0


def test_the_halves_have_all_of_a_scene_and_each_label_once(tmp_path):
    from sartransfer.catalog import read_catalog
    from sartransfer.data.resolve import open_catalog
    from sartransfer.readers import open_entry, read_label

    path = write_ice(tmp_path)
    whole = read_catalog(path)
    cut = open_catalog(ice_recipe(path))
    for name in ("feb", "jun"):
        (entry,) = (e for e in whole.entries if e.id == name)
        halves = [e for e in cut.entries if e.id.startswith(f"{name}-")]
        valid = [open_entry(e).read().valid for e in halves]
        np.testing.assert_array_equal(valid[0] ^ valid[1], open_entry(entry).read().valid)
        assert valid[0].sum() == pytest.approx(valid[1].sum(), rel=0.03)
        labels = [read_label(e, cut) != 255 for e in halves]
        np.testing.assert_array_equal(labels[0] ^ labels[1], read_label(entry, whole) != 255)


def test_statistics_are_of_the_training_halves_alone(tmp_path):
    from sartransfer.data.resolve import open_catalog, open_training_data
    from sartransfer.readers import open_entry

    data = ice_recipe(write_ice(tmp_path), normalization="training")
    catalog = open_catalog(data)
    contract = open_training_data(catalog, data).contract
    values = [r.data[1][r.valid] for r in (open_entry(e).read() for e in catalog.in_split("train"))]
    assert contract.bands[1].mean == pytest.approx(np.concatenate(values).astype(float).mean())


def test_what_lies_beyond_the_cut_does_not_move_an_answer(tmp_path):
    """A network that sees the whole image answers for a half as if nothing else were in the file."""
    from sartransfer.data.patches import WholeScenes
    from sartransfer.data.resolve import open_catalog, open_training_data
    from sartransfer.geotiff import open_geotiff, write_geotiff

    path = write_ice(tmp_path)
    data = ice_recipe(path)
    catalog = open_catalog(data)
    before = [item["image"].numpy() for item in WholeScenes(open_training_data(catalog, data).validation)]
    for entry in catalog.in_split("validation"):
        file = entry.assets[0].path
        scene = open_geotiff(file)
        values = scene.read().data.copy()
        outside = ~entry.part.mask(scene.window) & np.isfinite(values[1])
        values[:, outside] = 1e6
        write_geotiff(file, values, georeference=scene.georeference, descriptions=("number", "HH"),
                      units=("digital_number", "sigma0_db"), nodata=np.nan, overwrite=True)  # fmt: skip
    after = [item["image"].numpy() for item in WholeScenes(open_training_data(catalog, data).validation)]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_large_scene_is_cut_as_a_small_one(monkeypatch, tmp_path):
    from sartransfer.data import halves
    from sartransfer.readers import open_scene

    write_ice(tmp_path, size=120, tilt=31)
    scene = open_scene(tmp_path / "feb.tif")
    exact = halves.cut_scene(scene)
    monkeypatch.setattr(halves, "STEPS", 30)
    monkeypatch.setattr(halves, "ROWS", 16)
    thinned = halves.cut_scene(scene)
    rows, cols = np.array([30.0, 60.0, 90.0]), np.array([90.0, 60.0, 30.0])
    np.testing.assert_allclose(thinned.distance(rows, cols), exact.distance(rows, cols), atol=3)


@pytest.mark.parametrize(
    ("halves", "words"),
    [
        ({"months": [2, 4]}, "no training scene of catalog 'ice' is of month 4; there are 2, 3, 6"),
        ({"months": [1]}, "month 1"),
        ({"scenes": ["febr"]}, "febr is not among the training scenes"),
        ({"months": [2], "buffer_m": 1e6}, "the cut leaves nothing"),
    ],
)
def test_a_scene_that_cannot_be_cut_is_named(tmp_path, halves, words):
    from sartransfer.data.resolve import open_catalog
    from sartransfer.errors import SartransferError

    with pytest.raises(SartransferError, match=words):
        open_catalog(ice_recipe(write_ice(tmp_path), halves=halves))


def test_a_buffer_in_metres_needs_metres(tmp_path):
    from sartransfer.data.resolve import open_catalog

    path = write_ice(tmp_path, crs="EPSG:4326")
    open_catalog(ice_recipe(path), check=False)
    with pytest.raises(InputError, match="lies in degrees"):
        open_catalog(ice_recipe(path, halves={"months": [2], "buffer_m": 80}), check=False)


def test_a_cut_catalog_is_not_written_and_leaks_nothing(tmp_path):
    from sartransfer.catalog import write_catalog
    from sartransfer.data.leakage import check_leakage
    from sartransfer.data.resolve import open_catalog
    from sartransfer.errors import CatalogError

    catalog = open_catalog(ice_recipe(write_ice(tmp_path)))
    assert check_leakage(catalog) == []
    with pytest.raises(CatalogError, match="is a part of a scene"):
        write_catalog(catalog, tmp_path / "cut.csv")


def test_the_halves_of_a_scene_are_no_duplicates_but_a_copy_of_it_is(tmp_path):
    from dataclasses import replace

    from sartransfer.catalog import Asset
    from sartransfer.data.check import check_catalog
    from sartransfer.data.resolve import open_catalog

    catalog = open_catalog(ice_recipe(write_ice(tmp_path)))
    halves = [e for e in catalog.entries if e.part is not None]
    assert halves
    assert check_catalog(catalog) == []
    path = tmp_path / "copy.tif"
    path.write_bytes(halves[0].assets[0].path.read_bytes())
    copy = replace(halves[1], id="copy", assets=(Asset(path),))  # the other side, of another file
    found = check_catalog(catalog.with_entries([*catalog.entries, copy]))
    assert [(p.kind, p.id) for p in found] == [("duplicate", "copy")]
    again = replace(halves[0], id="again")  # one side twice
    found = check_catalog(catalog.with_entries([*catalog.entries, again]))
    assert [(p.kind, p.id) for p in found] == [("duplicate", "again")]


def test_halves_and_a_fraction_are_one_too_many():
    from sartransfer.recipe import ValidationRecipe

    with pytest.raises(ValueError, match="either `halves` or `fraction`"):
        ValidationRecipe.model_validate({"fraction": 0.1, "halves": {"months": [2]}})
    with pytest.raises(ValueError, match="name the scenes to cut"):
        ValidationRecipe.model_validate({"halves": {}})
    kept = ValidationRecipe.model_validate({"halves": {"months": [2]}})
    assert ValidationRecipe.model_validate(kept.model_dump(mode="json")) == kept


# ---- random patches ----


def test_patches_have_enough_of_what_counts(tmp_path):
    from sartransfer.data.patches import Samples
    from sartransfer.data.resolve import open_catalog, open_training_data
    from sartransfer.errors import CatalogError, RecipeError
    from sartransfer.recipe import AugmentRecipe, PatchRecipe

    data = ice_recipe(write_ice(tmp_path))
    store = open_training_data(open_catalog(data), data).train

    def masks(seed=0, epochs=(0,), **patch):
        patch = PatchRecipe.model_validate({"size": 12, "per_scene": 30, "min_labelled": 0.0, **patch})
        samples = Samples(store, patch=patch, recipe=AugmentRecipe(), seed=seed)
        found = []
        for samples.epoch in epochs:
            found += [samples[i] for i in range(len(samples))]
        return np.stack([s["mask"].numpy() for s in found]), np.stack([s["image"].numpy() for s in found])

    def share(mask, value):
        return (mask == value).mean(axis=(1, 2))

    loose, _ = masks()
    assert share(loose, 255).max() > 0.3
    assert share(masks(min_labelled=0.7)[0], 255).max() <= 0.3
    both, _ = masks(min_class={"ice": 0.2, "water": 0.25})
    assert share(both, 1).min() >= 0.2
    assert share(both, 0).min() >= 0.25
    assert share(loose, 1).min() < 0.2
    fixed = masks(redraw=False, epochs=(0, 1))[1]
    np.testing.assert_array_equal(fixed[: len(fixed) // 2], fixed[len(fixed) // 2 :])
    drawn = masks(epochs=(0, 1))[1]
    assert (drawn[: len(drawn) // 2] != drawn[len(drawn) // 2 :]).any()
    np.testing.assert_array_equal(drawn, masks(epochs=(0, 1))[1])
    assert (drawn != masks(seed=1, epochs=(0, 1))[1]).any()
    with pytest.raises(RecipeError, match="Did you mean"):
        masks(min_class={"icy": 0.1})
    with pytest.raises(CatalogError, match=r"and 90% of it ice"):
        masks(size=24, min_class={"ice": 0.9})
    with pytest.raises(CatalogError, match=r"lies wholly in its half"):
        masks(size=50)


def test_a_size_in_metres_is_one_number_of_pixels(tmp_path):
    from sartransfer.data.ground import common_pixel_metres, in_pixels, pixel_metres
    from sartransfer.readers import open_scene
    from sartransfer.recipe import PatchRecipe

    write_ice(tmp_path / "a")
    scene = open_scene(tmp_path / "a" / "feb.tif")
    assert pixel_metres(scene) == pytest.approx(METRES)
    assert in_pixels(PatchRecipe(size_m=80_000), [scene]).size == 1000
    write_ice(tmp_path / "b", crs="EPSG:2263")  # feet
    feet = open_scene(tmp_path / "b" / "feb.tif")
    assert pixel_metres(feet) == pytest.approx(METRES * 0.3048, rel=1e-4)
    with pytest.raises(InputError, match="cannot be trained on together"):
        common_pixel_metres([scene, feet])
    with pytest.raises(InputError, match="less than a pixel"):
        in_pixels(PatchRecipe(size_m=30), [scene])
    for wrong in ({}, {"size": 3, "size_m": 3}, {"size": 3, "min_class": {"a": 0.6, "b": 0.6}}):
        with pytest.raises(ValueError, match=r"either `size`|add up to"):
            PatchRecipe.model_validate(wrong)
