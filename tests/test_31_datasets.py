"""Known datasets from folders of the published structure; the check of a catalog; the real ones if there."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sartransfer.catalog import Asset, Catalog, Entry
from sartransfer.data.check import check_catalog, unit_warnings
from sartransfer.data.datasets import DATASETS, class_folders
from sartransfer.data.leakage import check_leakage, refuse_leaks, relation
from sartransfer.data.splits import assign_validation
from sartransfer.errors import InputError, LeakageError
from sartransfer.geotiff import write_geotiff
from sartransfer.radar.units import parse_unit
from sartransfer.readers import open_entry, read_label
from sartransfer.readers.array import write_array
from sartransfer.scene import Band, parse_bands

RNG = np.random.default_rng(0)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)
    return path


def big_image(seed, size=512):
    """Two dates of speckle whose grain is some pixels wide, as in resampled radar images: (2, size, size)."""
    rng = np.random.default_rng(seed)
    noise = rng.gamma(3.0, 20.0, (2, size + 2, size + 2))
    return sum(noise[:, i : i + size, j : j + size] for i in range(3) for j in range(3)) / 9


def make_ombria(root):
    """Two images of 512 px, cut into 4 tiles each: one wholly in train, one torn between train and test."""
    number = 0
    for seed, splits in ((1, ["train"] * 4), (2, ["train", "train", "test", "train"])):
        image = big_image(seed)
        for split, (r, c) in zip(splits, [(0, 0), (0, 256), (256, 0), (256, 256)], strict=True):
            number += 1
            tile = image[:, r : r + 256, c : c + 256]
            folder = root / "OmbriaS1" / split
            save(folder / "BEFORE" / f"S1_before_{number:04}.png", tile[0])
            save(folder / "AFTER" / f"S1_after_{number:04}.png", tile[1])
            save(folder / "MASK" / f"S1_mask_{number:04}.png", (tile[1] < 50) * 255)
    for event in ("ALBANIA", "GUYANA"):
        folder = root / "2021" / event / "Sentinel1"
        for i in (1, 2, 10):
            for kind, name in (("BEFORE", "imbefore"), ("AFTER", "imafter")):
                save(folder / kind / f"{name}_{i}.png", RNG.gamma(3, 20, (256, 256)))
            save(folder / "MASK" / f"gt_{i}.png", (RNG.random((256, 256)) > 0.5) * 255)
    return root


def test_ombria_of_the_published_structure(tmp_path):
    catalog = DATASETS["ombria"](make_ombria(tmp_path))
    assert Counter(e.split for e in catalog.entries) == {"train": 7, "test": 1, "albania": 3, "guyana": 3}
    assert [e.id for e in catalog.in_split("albania")] == ["albania_1", "albania_2", "albania_10"]
    scene = open_entry(catalog.in_split("train")[0])
    assert [(b.name, str(b.unit), b.role) for b in scene.bands] == [
        ("before", "digital_number", "reference"),
        ("after", "digital_number", "flood"),
    ]
    groups = [e.group for e in catalog.entries if e.split in ("train", "test")]
    by_number = dict(zip((e.id[-4:] for e in catalog.entries), groups, strict=False))
    assert len({by_number[f"{i:04}"] for i in (1, 2, 3, 4)}) == 1
    assert len({by_number[f"{i:04}"] for i in (5, 6, 7, 8)}) == 1
    assert by_number["0001"] != by_number["0005"]
    assert {e.group for e in catalog.in_split("guyana")} == {"guyana"}
    assert set(np.unique(read_label(catalog.entries[0], catalog))) == {0, 1}
    assert check_catalog(catalog) == []


def test_the_torn_image_is_reported_and_may_be_declared(tmp_path):
    catalog = assign_validation(DATASETS["ombria"](make_ombria(tmp_path)), 0.5, seed=0)
    leaks = check_leakage(catalog)
    assert {(k.kind, k.split_b, k.id_b) for k in leaks} == {
        ("group", "test", "test_0007"),
        ("continued image", "test", "test_0007"),
    }
    with pytest.raises(LeakageError, match="'test' stand in"):
        refuse_leaks(leaks)
    refuse_leaks(leaks, allowed={"test"})
    assert [relation(catalog, s, leaks) for s in catalog.test_sets] == ["same scenes", *["unseen events"] * 2]


def test_sen1floods11_of_the_published_structure(tmp_path):
    data = RNG.normal(-12, 3, (2, 16, 16)).astype(np.float32)
    data[:, 0, 0] = np.nan
    label = RNG.integers(-1, 2, (16, 16)).astype(np.int16)
    for folder in ("S1Hand", "LabelHand"):
        (tmp_path / folder).mkdir()
    write_geotiff(tmp_path / "S1Hand" / "Ghana_1_S1Hand.tif", data, descriptions=("VV", "VH"), nodata=np.nan)
    with pytest.raises(InputError, match=r"no label Ghana_1_LabelHand\.tif"):
        DATASETS["sen1floods11"](tmp_path)
    write_geotiff(tmp_path / "LabelHand" / "Ghana_1_LabelHand.tif", label)
    catalog = DATASETS["sen1floods11"](tmp_path)
    entry = catalog.in_split("test")[0]
    assert (entry.id, entry.group) == ("Ghana_1", "ghana")
    scene = open_entry(entry)
    assert scene.band("VH").unit == parse_unit("sigma0_db")
    assert not scene.read().valid[0, 0]
    np.testing.assert_array_equal(read_label(entry, catalog), np.where(label < 0, 255, label))


def test_class_folders_with_and_without_splits(tmp_path):
    for split in ("train", "val", "test"):
        for name in ("forest", "water"):
            for i in range(2):
                save(tmp_path / "a" / split / name / f"{i}.png", RNG.integers(0, 255, (8, 8)))
                save(tmp_path / "b" / name / f"{split}{i}.png", RNG.integers(0, 255, (8, 8, 3)))
    one = class_folders(tmp_path / "a", bands=parse_bands("a=amplitude:HH"))
    assert one.classes == ("forest", "water")
    assert Counter((e.split, e.category) for e in one.entries) == {
        (s, c): 2 for s in ("train", "validation", "test") for c in ("forest", "water")
    }
    assert open_entry(one.entries[0]).bands == parse_bands("a=amplitude:HH")
    assert {e.split for e in class_folders(tmp_path / "b").entries} == {None}
    assert {e.split for e in DATASETS["eurosat"](tmp_path / "b").entries} == {None}
    assert str(open_entry(DATASETS["nwpu"](tmp_path / "b").entries[0]).bands[0].unit) == "optical"
    assert str(open_entry(DATASETS["mstar"](tmp_path / "a").entries[0]).bands[0].unit) == "digital_number"
    (tmp_path / "a" / "more").mkdir()
    with pytest.raises(InputError, match=r"others beside them \(more\)"):
        class_folders(tmp_path / "a")


@pytest.mark.parametrize("name", [n for n in DATASETS if not n.startswith("simulated")])  # those are made
@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_is_not_so_says_what_to_do(tmp_path, name, there):
    with pytest.raises(InputError, match=r"(Download|Put the images)"):
        DATASETS[name](tmp_path if there else tmp_path / "no")


def test_ombria_with_a_missing_mask_is_refused(tmp_path):
    make_ombria(tmp_path)
    (tmp_path / "OmbriaS1/train/MASK/S1_mask_0001.png").unlink()
    with pytest.raises(InputError, match="7 images before, 7 after and 6 masks"):
        DATASETS["ombria"](tmp_path)


def test_the_check_finds_each_kind_of_problem(tmp_path):
    image = save(tmp_path / "a.png", RNG.integers(0, 255, (16, 16)))
    twin = save(tmp_path / "twin.png", np.asarray(Image.open(image)))
    other = [save(tmp_path / f"{i}.png", RNG.integers(0, 255, (16, 16))) for i in range(5)]
    good = save(tmp_path / "good.png", RNG.integers(0, 2, (16, 16)))
    cut = tmp_path / "cut.png"
    cut.write_bytes(image.read_bytes()[:-60])
    plain = tmp_path / "plain.npz"
    np.savez(plain, data=RNG.normal(size=(1, 16, 16)))
    black = [save(tmp_path / f"black{i}.png", np.zeros((16, 16))) for i in range(2)]

    def entry(id, path, label=good):
        return Entry(id, (Asset(path),), label=label)

    entries = (
        entry("fine", image),
        entry("missing", tmp_path / "no.png"),
        entry("damaged", cut),
        entry("unit", plain),
        entry("values", other[0], save(tmp_path / "values.png", np.full((16, 16), 7))),
        entry("size", other[1], save(tmp_path / "size.png", np.zeros((16, 15)))),
        entry("empty", other[2], save(tmp_path / "empty.png", np.full((16, 16), 255))),
        entry("twin", twin),
        entry("black0", black[0]),
        entry("black1", black[1]),
        Entry("sizes", (Asset(other[3]), Asset(save(tmp_path / "w.png", np.ones((9, 9)))))),
        Entry("class", (Asset(other[4]),), category="sea"),
    )
    found = check_catalog(Catalog("c", entries, ("dry", "flooded")))
    assert [(p.id, p.kind) for p in found] == [
        ("missing", "missing file"),
        ("damaged", "unreadable"),
        ("unit", "unit"),
        ("values", "label"),
        ("size", "label"),
        ("empty", "empty label"),
        ("twin", "duplicate"),
        ("sizes", "unreadable"),
        ("class", "label"),
    ]
    assert "16 x 16" in found[7].message
    assert "9 x 9" in found[7].message


needs_data = pytest.mark.skipif("SARTRANSFER_DATA" not in os.environ, reason="SARTRANSFER_DATA is not set")
DATA = Path(os.environ.get("SARTRANSFER_DATA", "."))


@needs_data
def test_the_real_ombria():
    catalog = DATASETS["ombria"](DATA / "ombria")
    assert Counter(e.split for e in catalog.entries) == {
        "train": 624,
        "test": 70,
        "albania": 22,
        "guyana": 30,
    }
    trained = {e.group for e in catalog.in_split("train")}
    assert sum(e.group in trained for e in catalog.in_split("test")) == 69
    assert 50 <= len(trained) <= 75
    catalog = assign_validation(catalog, 0.15, seed=0)
    assert len(catalog.in_split("validation")) == round(0.15 * 624)
    leaks = check_leakage(catalog)
    # every published test tile but one continues an image seen before; floods of 2021 and validation do not
    assert {k.split_b for k in leaks} == {"test"}
    assert len({k.id_b for k in leaks if k.kind == "continued image"}) == 69
    assert {k.kind for k in leaks} == {"group", "continued image"}
    refuse_leaks(leaks, allowed={"test"})


@needs_data
def test_the_real_sen1floods11():
    catalog = DATASETS["sen1floods11"](DATA / "sen1floods11")
    assert len(catalog.entries) == 8
    assert check_catalog(catalog) == []
    assert check_leakage(catalog) == []
    data, valid = open_entry(catalog.entries[0]).read()
    assert -30 < data[0][valid].mean() < 0


@needs_data
@pytest.mark.parametrize(
    ("name", "folder", "counts"), [("mstar", "mstar", (2746, 2425)), ("nwpu", "nwpu12", (3000, 720))]
)
def test_the_real_patches(name, folder, counts):
    catalog = DATASETS[name](DATA / folder)
    assert (len(catalog.in_split("train")), len(catalog.in_split("test"))) == counts
    assert open_entry(catalog.entries[0]).read().valid.all()


def test_decibels_declared_linear_are_noticed(tmp_path):
    """Before anything is trained: the commonest unit mix-up, in a catalog and in a comparison's warnings."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        write_array(
            tmp_path / f"{name}.npz",
            rng.normal(-13, 4, (1, 32, 32)).astype(np.float32),
            (Band("VV", parse_unit("sigma0"), "VV"),),
            label=np.zeros((32, 32), np.uint8),
        )
    entries = tuple(Entry(n, (Asset(tmp_path / f"{n}.npz"),), category="x") for n in ("a", "b"))
    catalog = Catalog("mixed up", entries, ("x",))
    assert [(p.kind, p.id) for p in check_catalog(catalog)] == [("unit", "a"), ("unit", "b")]
    assert "decibels, perhaps" in check_catalog(catalog)[0].message
    assert len(unit_warnings(catalog)) == 2
