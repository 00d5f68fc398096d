"""Known datasets from folders of the published structure; the check of a catalog; the real ones if there."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sartransfer.catalog import Asset, Catalog, Entry
from sartransfer.data.check import check_catalog, look_at_labels, unit_warnings
from sartransfer.data.datasets import DATASETS, class_folders
from sartransfer.data.leakage import check_leakage, refuse_leaks, relation
from sartransfer.data.overlap import content_pairs
from sartransfer.data.resolve import open_training_data
from sartransfer.data.splits import assign_validation
from sartransfer.errors import CatalogError, InputError, LeakageError
from sartransfer.geotiff import write_geotiff
from sartransfer.radar.units import parse_unit
from sartransfer.readers import open_entry, read_label
from sartransfer.readers.array import write_array
from sartransfer.recipe import DataRecipe
from sartransfer.runs import fingerprint
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
    assert catalog.pixel_m == 10.0  # the PNG cannot say it
    assert fingerprint(catalog) == fingerprint(replace(catalog, pixel_m=None))  # finished runs stay finished
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


def test_labels_are_looked_at_in_a_bounded_number_of_scenes(tmp_path, monkeypatch):
    """As many as `check_catalog`, which reads all, finds faults among: spread from the first on, within the time."""
    image = save(tmp_path / "image.png", RNG.integers(0, 255, (16, 16)))
    good = save(tmp_path / "good.png", RNG.integers(0, 2, (16, 16)))
    empty = save(tmp_path / "empty.png", np.full((16, 16), 255))
    odd = save(tmp_path / "odd.png", np.full((16, 16), 7))

    def catalog(*labels, split="train"):
        entries = (Entry(f"e{i}", (Asset(image),), label=p, split=split) for i, p in enumerate(labels))
        return Catalog("c", tuple(entries), ("dry", "flooded"))

    found = look_at_labels(catalog(*[good, empty] * 5), "segment")
    assert (found.seen, found.of, found.empty) == (10, 10, 5)
    assert found.describe() == "of 10 of 10 training scenes looked at; 5 hold nothing but ignored pixels"
    for number in (1, 3, 4, 9, 10, 11):
        found = look_at_labels(catalog(*[good] * 10), "segment", most=number)
        assert found.seen == len(range(0, 10, -(-10 // number))) <= number
    with pytest.raises(InputError, match="value 7"):
        look_at_labels(catalog(good, odd), "segment")
    assert look_at_labels(catalog(good, odd), "segment", most=1).seen == 1
    assert look_at_labels(catalog(good, odd), "segment", seconds=-1.0).seen == 1
    with pytest.raises(InputError, match="no label raster"):
        look_at_labels(catalog(good, None), "segment")
    with pytest.raises(CatalogError, match="all 2 training scenes looked at"):
        look_at_labels(catalog(empty, empty), "segment")
    chips = tuple(Entry(n, (Asset(image),), category=n, split="train") for n in ("dry", "sea"))
    with pytest.raises(CatalogError, match="'sea'"):
        look_at_labels(Catalog("c", chips, ("dry", "flooded")), "classify")
    assert look_at_labels(Catalog("c", chips[:1], ("dry", "flooded")), "classify").seen == 1


def test_masks_of_0_and_255_are_a_problem_of_their_split(tmp_path):
    """OMBRIA's own form in a catalog that does not say so: every flooded pixel would be ignored."""
    images = [save(tmp_path / f"{i}.png", RNG.integers(0, 255, (16, 16))) for i in range(5)]
    mask = RNG.random((16, 16)) > 0.5
    classes, raw = save(tmp_path / "good.png", mask), save(tmp_path / "raw.png", mask * 255)
    dry = save(tmp_path / "dry.png", np.zeros((16, 16)))

    def catalog(labels, values=None):
        entries = (
            Entry(f"e{i}", (Asset(images[i]),), label=p, split=split, group=f"e{i}")
            for i, (p, split) in enumerate(labels)
        )
        return Catalog("c", tuple(entries), ("dry", "flooded"), values or {})

    mixed = [(dry, "train"), (raw, "train"), (classes, "validation"), (raw, "test"), (raw, None)]
    found = check_catalog(catalog(mixed))
    assert [(p.kind, p.id) for p in found] == [("label", "e1"), ("label", "e3"), ("label", "e4")]
    assert "is it flooded?" in found[0].message
    assert check_catalog(catalog(mixed[:2] + mixed[3:], {0: 0, 255: 1})) == []
    assert check_catalog(catalog([(raw, "train"), (classes, "train")])) == []
    with pytest.raises(CatalogError, match="is it flooded"):
        look_at_labels(catalog(mixed), "segment")
    for split in ("train", "validation"):
        other = {"train": "validation", "validation": "train"}[split]
        with pytest.raises(CatalogError, match="is it flooded"):
            open_training_data(catalog([(raw, split), (classes, other)]), DataRecipe(dataset="ombria"))
    open_training_data(
        catalog([(raw, "train"), (raw, "validation")], {0: 0, 255: 1}), DataRecipe(dataset="ombria")
    )


def test_a_pair_of_two_quantities_is_a_problem(tmp_path):
    power = RNG.gamma(2.0, 0.05, (2, 16, 16)).astype(np.float32)
    bands = parse_bands("before=gamma0@reference,after=sigma0@flood")
    path = write_array(tmp_path / "a.npz", power, bands)
    found = check_catalog(Catalog("c", (Entry("a", (Asset(path),), category="x"),), ("x",)))
    assert [(p.kind, p.id) for p in found] == [("unit", "a")]
    assert "'before' is gamma0, 'after' is sigma0" in found[0].message


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


def save16(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint16)).save(path)
    return path


def make_dsn(root, name, *, swapped=False):
    """Patches of 16 px cut from two 16-bit images with a step of 10: chains that overlap, and lone ones."""
    rng = np.random.default_rng(3)
    places = {}
    for image in ("A1_HH", "B2_VV"):
        pixels = rng.rayleigh(100, (240, 240)).astype(np.uint16)
        for category, column in (("forest", 10), ("water", 120)):
            for row in (0, 10, 20, 60, 100, 116, 160, 220):  # 100 and 116 touch; the first three overlap
                text = f"{column}_{row}" if swapped else f"{row}_{column}"
                stem = f"{category}_{name}{image}_{text}"
                save16(root / category / f"{stem}.png", pixels[row : row + 16, column : column + 16])
                places[f"{category}/{stem}"] = (image, category, row)
    return places


def chains(catalog, places):
    """Rows of each group's patches."""
    out = {}
    for entry in catalog.entries:
        image, category, row = places[entry.id]
        out.setdefault(entry.group, []).append((image, category, row))
    return sorted(sorted(members) for members in out.values())


EXPECTED_CHAINS = sorted(
    [(image, category, row) for row in rows]
    for image in ("A1_HH", "B2_VV")
    for category in ("forest", "water")
    for rows in ((0, 10, 20), (60,), (100, 116), (160,), (220,))
)


def test_terrasar_patches_are_grouped_by_what_overlaps(tmp_path):
    places = make_dsn(tmp_path, "TSX_")
    catalog = DATASETS["tsx5"](tmp_path)
    assert chains(catalog, places) == EXPECTED_CHAINS
    assert catalog.classes == ("forest", "water")
    counts = Counter((e.split, e.category) for e in catalog.entries)
    assert counts == {
        (s, c): n for s, n in (("train", 10), ("validation", 3), ("test", 3)) for c in catalog.classes
    }
    first = open_entry(catalog.entries[0])
    assert first.bands == (Band("amplitude", parse_unit("amplitude"), "HH"),)
    assert open_entry(catalog.entries[-1]).bands[0].polarization == "VV"
    assert first.read(units="amplitude_log2").data.max() < 1
    assert check_leakage(catalog) == []
    assert check_catalog(catalog) == []


def listed(root, train, test):
    for name, ids in (("slc_train_3.txt", train), ("slc_val_3.txt", test)):
        rows = [f"{i}.npy,{i.split('/')[0]}" for i in ids]
        (root / name).write_text("\n".join(["path,catename", *rows]) + "\n")


def test_slc_patches_are_split_as_listed_and_grouped_by_what_they_show(tmp_path):
    places = make_dsn(tmp_path, "", swapped=True)
    liar = "forest/forest_A1_HH_10_10"  # column 10, row 10; under another name it still shows the same
    (tmp_path / f"{liar}.png").rename(tmp_path / "forest/forest_A1_HH_10_200.png")
    places["forest/forest_A1_HH_10_200"] = places.pop(liar)
    ids = sorted(places)
    tested = [i for i in ids if i.endswith("_20")]
    listed(tmp_path, [i for i in ids if i not in tested], tested)
    catalog = DATASETS["s1slc8"](tmp_path)
    assert chains(catalog, places) == EXPECTED_CHAINS
    assert Counter(e.split for e in catalog.entries) == {"train": 28, "test": 4}
    leaks = check_leakage(catalog)
    assert {(k.kind, k.split_b) for k in leaks} == {("group", "test")}
    assert relation(catalog, "test", leaks) == "same scenes"
    with pytest.raises(LeakageError):
        refuse_leaks(leaks)
    apart = DATASETS["s1slc8-apart"](tmp_path)
    assert chains(apart, places) == EXPECTED_CHAINS
    assert set(apart.splits) == {"train", "validation", "test"}
    assert check_leakage(apart) == []
    listed(tmp_path, [*ids, "forest/forest_A1_HH_9_9"], tested)
    with pytest.raises(InputError, match=r"lacks 1 patches of its lists: forest/forest_A1_HH_9_9"):
        DATASETS["s1slc8"](tmp_path)
    (tmp_path / "slc_val_3.txt").unlink()
    with pytest.raises(InputError, match=r"slc_val_3\.txt cannot be read"):
        DATASETS["s1slc8"](tmp_path)
    save16(tmp_path / "water" / "water_7.png", np.ones((16, 16)))
    with pytest.raises(InputError, match="does not say class, product, polarization and place"):
        DATASETS["s1slc8-apart"](tmp_path)


GRD = "S1A_IW_GRDH_1SDV_20150823T221233_20150823T221258_007396_00A2CA_54D0"
NAMED_WITHIN = "S1A_IW_GRDH_1SSV_20160131T204259_20160131T204324_009743_00E3C6_E792"
SLC = "S1A_IW_SLC__1SDV_20150823T221231_20150823T221258_007396_00A2CA_3FF3"
HH = "S1A_IW_GRDH_1SDH_20141102T174053_20141102T174113_003106_003902_C1A4"


def make_opensarship(root):
    """Folders as they come out of the archives: of the product's name, or (2.0) with the annotation in them."""
    rng = np.random.default_rng(0)
    chips = {
        GRD: ["Cargo_x10661_y11170", "Tanker_x10503_y10891"],
        "unpacked (1)": ["Other Type_x909_y5436", "Tug_x9_y8"],
        SLC: ["Cargo_x25277_y9768"],
        HH: ["Cargo_x1_y1"],
    }
    for product, names in chips.items():
        layers = 1 if product == "unpacked (1)" else 2
        for name in names:
            for part in ("Patch", "Patch_Cal"):
                (root / product / part).mkdir(parents=True, exist_ok=True)
                values = rng.gamma(1.0, 0.1, (layers, 21, 21)).astype(np.float32)
                write_geotiff(root / product / part / f"{name}.tif", values)
            save(root / product / "Patch_Uint8" / f"Visual_{name}_vv.tif", rng.integers(0, 255, (21, 21)))
        (root / product / "Ship.xml").write_text("<ShipList>")  # as published: not well-formed in places
    (root / "unpacked (1)" / f"{NAMED_WITHIN}.xml").write_text("<product/>")
    return root


def test_opensarship_of_the_published_structure(tmp_path):
    catalog = DATASETS["opensarship"](make_opensarship(tmp_path))
    assert {e.id: (e.category, e.group, e.split) for e in catalog.entries} == {
        f"{GRD}/Cargo_x10661_y11170": ("Cargo", "S1A orbit 007396", None),
        f"{GRD}/Tanker_x10503_y10891": ("Tanker", "S1A orbit 007396", None),
        f"{NAMED_WITHIN}/Other Type_x909_y5436": ("Other Type", "S1A orbit 009743", None),
        f"{NAMED_WITHIN}/Tug_x9_y8": ("Tug", "S1A orbit 009743", None),
    }
    assert catalog.classes == ("Cargo", "Other Type", "Tanker", "Tug")
    both, single = open_entry(catalog.entries[0]), open_entry(catalog.entries[-1])
    assert [(b.name, str(b.unit), b.polarization) for b in both.bands] == [
        ("VH", "sigma0", "VH"),
        ("VV", "sigma0", "VV"),
    ]
    assert single.names == ("VV",)
    assert np.isfinite(single.read(["VV"], units="sigma0_db").data).all()
    (tmp_path / GRD / "Patch_Cal" / "ship.tif").write_bytes(b"II*\0")
    with pytest.raises(InputError, match="does not say category and place"):
        DATASETS["opensarship"](tmp_path)
    (tmp_path / GRD).rename(tmp_path / "some folder")
    with pytest.raises(InputError, match="does not say which Sentinel-1 product"):
        DATASETS["opensarship"](tmp_path)


def test_opensarship_without_a_product_that_can_be_read(tmp_path):
    make_opensarship(tmp_path)
    for name in (GRD, "unpacked (1)"):
        (tmp_path / name / "Patch_Cal").rename(tmp_path / name / "Patch_Else")
    with pytest.raises(
        InputError, match=r"no chips of detected products in VV \(2 products of other kinds\)"
    ):
        DATASETS["opensarship"](tmp_path)


@needs_data
def test_the_size_of_an_mstar_chip_gives_its_class_away():
    """From height and width alone, with nothing of the picture: over 60 %, where guessing gets 11 %."""
    catalog = DATASETS["mstar"](DATA / "mstar")

    def sizes(split):
        scenes = [(open_entry(e), e.category) for e in catalog.in_split(split)]
        return [((s.height, s.width), category) for s, category in scenes]

    seen = {}
    for size, category in sizes("train"):
        seen.setdefault(size, Counter())[category] += 1
    test = sizes("test")
    right = sum(size in seen and seen[size].most_common(1)[0][0] == category for size, category in test)
    guess = Counter(category for _, category in test).most_common(1)[0][1]
    assert right / len(test) == pytest.approx(1564 / 2425)  # 64.5 %
    assert guess / len(test) < 0.12
    # and four classes have a size of their own
    alone = {next(iter(c)) for c in seen.values() if len(c) == 1}
    assert alone == {"BRDM_2", "D7", "T62", "ZIL131"}


def overlap_of(one, other):
    """Rows and columns of the pixels that two patches of 64 px share, from their (row, column)."""
    (r, c), (s, d) = one, other
    return (max(r, s), min(r, s) + 64), (max(c, d), min(c, d) + 64)


@needs_data
def test_the_real_tsx_groups_do_not_overlap():
    catalog = DATASETS["tsx5"](DATA / "tsx5")
    assert Counter(e.split for e in catalog.entries) == {"train": 945, "validation": 336, "test": 332}
    every = {(e.category, e.split) for e in catalog.entries}
    assert len(every) == 15  # each class in each split
    places, pixels = [], []
    for entry in catalog.entries:
        *_, product, polarization, row, column = entry.assets[0].path.stem.split("_")
        places.append((f"{product} {polarization}", int(row), int(column)))
        pixels.append(np.asarray(Image.open(entry.assets[0].path)))
    assert len({e.group for e in catalog.entries}) == 48
    pairs = crossing = 0
    for i, (image, row, column) in enumerate(places):
        for j in range(i):
            if places[j][0] != image or max(abs(places[j][1] - row), abs(places[j][2] - column)) >= 64:
                continue
            pairs += 1
            crossing += catalog.entries[i].group != catalog.entries[j].group
            (r0, r1), (c0, c1) = overlap_of((row, column), places[j][1:])
            mine = pixels[i][r0 - row : r1 - row, c0 - column : c1 - column]
            theirs = pixels[j][r0 - places[j][1] : r1 - places[j][1], c0 - places[j][2] : c1 - places[j][2]]
            assert np.array_equal(mine, theirs)  # the names tell the truth
    assert (pairs, crossing) == (3970, 0)
    polarizations = Counter((e.category, e.assets[0].bands[0].polarization) for e in catalog.entries)
    assert {c for c, p in polarizations if p == "VV"} == {"residential"}  # confounded, and said so
    assert {c for c, p in polarizations if p == "HH"} == set(catalog.classes) - {"residential"}


@needs_data
def test_the_real_slc_split_of_the_authors_shares_pixels_and_ours_does_not():
    catalog, apart = DATASETS["s1slc8"](DATA / "s1slc8"), DATASETS["s1slc8-apart"](DATA / "s1slc8")
    assert Counter(e.split for e in catalog.entries) == {"train": 2230, "test": 320}
    assert set(Counter(e.category for e in catalog.in_split("test")).values()) == {40}
    trained = {e.group for e in catalog.in_split("train")}
    assert sum(e.group in trained for e in catalog.in_split("test")) == 247
    assert len({e.group for e in apart.entries}) == 744
    assert len({(e.category, e.split) for e in apart.entries}) == 24
    pixels = [np.asarray(Image.open(e.assets[0].path)).astype(np.int64) for e in apart.entries]
    pairs = content_pairs(np.stack(pixels))
    assert len(pairs) == 4238
    assert all(apart.entries[i].group == apart.entries[j].group for i, j in pairs)
    split = {e.id: e.split for e in catalog.entries}
    torn = [(apart.entries[i].id, apart.entries[j].id) for i, j in pairs]
    torn = [(a, b) for a, b in torn if split[a] != split[b]]
    assert len(torn) == 997
    assert len({a if split[a] == "test" else b for a, b in torn}) == 227
