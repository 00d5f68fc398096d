"""Readers: images, prepared arrays, entries of several files, labels; all of it without rasterio too."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sartransfer.catalog import IGNORE_INDEX, Asset, Catalog, Entry
from sartransfer.errors import CatalogError, InputError, OutputError, UnitError
from sartransfer.geotiff import write_geotiff
from sartransfer.radar.units import UNKNOWN, parse_unit
from sartransfer.readers import (
    ENDINGS,
    READERS,
    open_entry,
    open_scene,
    read_label,
    refuse_unsaid_labels,
    unsaid_labels,
)
from sartransfer.readers.array import open_array, write_array
from sartransfer.scene import Band, GeoReference, Window, parse_bands

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
PLACE = GeoReference("EPSG:32633", (10.0, 0.0, 5e5, 0.0, -10.0, 5e6))


def save(path, array):
    Image.fromarray(array).save(path)
    return path


def test_every_ending_has_a_reader():
    assert set(ENDINGS.values()) <= set(READERS)


def test_a_grey_png_is_digital_numbers(tmp_path):
    scene = open_scene(save(tmp_path / "a.png", GREY))
    assert scene.bands == (Band("grey", parse_unit("digital_number")),)
    np.testing.assert_array_equal(scene.read().data[0], GREY)
    np.testing.assert_array_equal(scene.read(window=Window(3, 5, 7, 9)).data[0], GREY[3:10, 5:14])
    with pytest.raises(UnitError, match="cannot turn digital_number into sigma0"):
        scene.read(units="sigma0")


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_sixteen_bits_are_kept(tmp_path, ending):
    values = RNG.integers(0, 65536, (20, 30), dtype=np.uint16)
    scene = open_scene(save(tmp_path / f"a{ending}", values), "image", parse_bands("amplitude=amplitude:HH"))
    np.testing.assert_array_equal(scene.read().data[0], values)
    np.testing.assert_allclose(
        scene.read(units="intensity").data[0], values.astype(np.float64) ** 2, rtol=1e-6
    )


def test_colour_is_optical(tmp_path):
    scene = open_scene(save(tmp_path / "a.png", COLOUR))
    assert scene.names == ("red", "green", "blue")
    assert {str(b.unit) for b in scene.bands} == {"optical"}
    np.testing.assert_array_equal(scene.read(["blue", "red"]).data, COLOUR.transpose(2, 0, 1)[[2, 0]])


def test_a_jpeg_is_as_pillow_decodes_it(tmp_path):
    path = save(tmp_path / "a.jpeg", GREY)
    with Image.open(path) as image:
        np.testing.assert_array_equal(open_scene(path).read().data[0], np.asarray(image))


def test_alpha_is_the_valid_mask(tmp_path):
    alpha = np.where(np.arange(30) < 4, 0, 255).astype(np.uint8) * np.ones((20, 1), dtype=np.uint8)
    data, valid = open_scene(save(tmp_path / "a.png", np.dstack([COLOUR, alpha]))).read()
    np.testing.assert_array_equal(valid, alpha > 0)
    np.testing.assert_array_equal(data[:, valid], COLOUR.transpose(2, 0, 1)[:, valid])


def test_a_palette_is_refused_as_a_scene(tmp_path):
    Image.fromarray(GREY).convert("P").save(tmp_path / "a.png")
    with pytest.raises(InputError, match="mode 'P'"):
        open_scene(tmp_path / "a.png")


def test_another_number_of_bands_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"has 3 band\(s\).*but 1 are named: a"):
        open_scene(save(tmp_path / "a.png", COLOUR), bands=parse_bands("a=optical"))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_a_truncated_image_is_refused(tmp_path, ending, share):
    whole = save(tmp_path / f"a{ending}", np.kron(GREY, np.ones((9, 9), dtype=np.uint8))).read_bytes()
    path = tmp_path / f"cut{ending}"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match="Is it whole"):
        open_scene(path).read()


def test_missing_files_endings_and_readers_are_named(tmp_path):
    for name in ("a.png", "a.tif", "a.npz"):
        with pytest.raises(InputError, match=f"{name} is not there"):
            open_scene(tmp_path / name)
    with pytest.raises(InputError, match=r"no reader is known for '.tiv'.*Did you mean '.tif'"):
        open_scene(tmp_path / "a.tiv")
    with pytest.raises(InputError, match="Did you mean 'image'"):
        open_scene(tmp_path / "a.png", "imag")


BANDS = parse_bands("before=sigma0_db:VV@reference,after=sigma0_db:VV@flood")
DATA = RNG.normal(-12, 3, (2, 20, 30)).astype(np.float32)


def test_a_prepared_array_comes_back(tmp_path):
    data, mask = DATA.copy(), RNG.random((20, 30)) > 0.2
    data[0, 0, 0] = np.nan
    scene = open_scene(write_array(tmp_path / "a.npz", data, BANDS, valid=mask, georeference=PLACE))
    assert scene.bands == BANDS
    assert scene.georeference == PLACE
    read, valid = scene.read(["after", "before"], Window(0, 2, 11, 13))
    expected = (mask & np.isfinite(data).all(0))[:11, 2:15]
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(read[:, valid], data[::-1, :11, 2:15][:, valid])


def test_a_bare_array_is_of_unknown_unit(tmp_path):
    np.savez(tmp_path / "a.npz", data=DATA)
    assert open_array(tmp_path / "a.npz").bands == (Band("band_1", UNKNOWN), Band("band_2", UNKNOWN))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"x": DATA}, "needs a key 'data'"),
        ({"data": DATA[0]}, "needs a key 'data'"),
        ({"data": DATA, "names": np.array(["a"])}, "1 names for 2 bands"),
        ({"data": DATA, "valid": np.ones((3, 3))}, "'valid' is"),
        ({"data": DATA, "label": np.ones((3, 3))}, "'label' is"),
        ({"data": DATA.astype(np.complex64)}, "complex64"),
        ({"data": np.array([[[None]]])}, "object"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, keys, message):
    np.savez(tmp_path / "a.npz", **keys)
    with pytest.raises(InputError, match=message):
        open_array(tmp_path / "a.npz")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
def test_a_truncated_array_is_refused(tmp_path, share):
    whole = write_array(tmp_path / "a.npz", DATA, BANDS).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match="Is it whole"):
        open_array(tmp_path / "cut.npz").read()


def test_an_existing_array_is_kept(tmp_path):
    write_array(tmp_path / "a.npz", DATA, BANDS)
    with pytest.raises(OutputError, match="exists already"):
        write_array(tmp_path / "a.npz", DATA, BANDS)


def pair(tmp_path, after=None):
    before = save(tmp_path / "before.png", GREY)
    after = save(tmp_path / "after.png", GREY.T[::-1].T if after is None else after)
    assets = tuple(Asset(p, None, parse_bands(f"{p.stem}=digital_number")) for p in (before, after))
    return Entry("pair", assets, platform="Sentinel-1")


def test_an_entry_stacks_its_files(tmp_path):
    scene = open_entry(pair(tmp_path))
    assert (scene.id, scene.names, scene.platform) == ("pair", ("before", "after"), "Sentinel-1")
    both = np.stack([GREY, GREY[:, ::-1]])
    both[1] = np.asarray(Image.open(tmp_path / "after.png"))
    np.testing.assert_array_equal(scene.read().data, both)
    np.testing.assert_array_equal(
        scene.read(["after", "before"], Window(1, 2, 3, 4)).data, both[::-1, 1:4, 2:6]
    )
    (tmp_path / "before.png").unlink()
    np.testing.assert_array_equal(scene.read(["after"]).data, both[1:])


def test_files_of_several_bands_stack_in_any_order(tmp_path):
    one = write_array(tmp_path / "one.npz", DATA, BANDS)
    two = save(tmp_path / "two.png", COLOUR)
    scene = open_entry(Entry("e", (Asset(one), Asset(two))))
    everything = np.concatenate([DATA, COLOUR.transpose(2, 0, 1)])
    order = [3, 0, 4, 1]
    np.testing.assert_array_equal(scene.read([scene.names[i] for i in order]).data, everything[order])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_files_of_several_times_are_a_scene_of_the_last(tmp_path, order):
    files = []
    for name, tags in (
        ("before", {"START": "2021-01-02T05:00:00", "PLATFORM": "S1A"}),
        ("after", {"START": "2021-01-14T05:00:00+00:00", "PLATFORM": "S1B"}),
    ):
        path = tmp_path / f"{name}.tif"
        files.append(write_geotiff(path, GREY, georeference=PLACE, descriptions=(name,), tags=tags))
    plain = write_geotiff(tmp_path / "mask.tif", GREY, georeference=PLACE, descriptions=("mask",))
    scene = open_entry(Entry("e", tuple(Asset(p) for p in (*(files[i] for i in order), plain))))
    assert (scene.time, scene.platform) == (datetime(2021, 1, 14, 5, tzinfo=UTC), "S1B")
    given = datetime(2020, 1, 1)
    scene = open_entry(Entry("e", tuple(map(Asset, files)), time=given, platform="RCM-1"))
    assert (scene.time, scene.platform) == (given, "RCM-1")


def test_sizes_and_places_must_agree(tmp_path):
    with pytest.raises(InputError, match=r"20 x 30 pixels, .*10 x 30"):
        open_entry(pair(tmp_path, GREY[:10].copy()))
    moved = GeoReference(PLACE.crs, (10.0, 0.0, 5e5 + 20, 0.0, -10.0, 5e6))
    assets = [
        Asset(write_array(tmp_path / f"{b.name}.npz", DATA[:1], [b], georeference=g))
        for b, g in zip(BANDS, (PLACE, moved), strict=True)
    ]
    with pytest.raises(InputError, match="do not lie on one grid"):
        open_entry(Entry("e", tuple(assets)))


def spellings(code):
    from rasterio.crs import CRS

    crs = CRS.from_epsg(code)
    return (crs.to_wkt(), crs.to_wkt(version="WKT2_2019"), crs.to_wkt(version="WKT1_ESRI"), crs.to_proj4())


@pytest.mark.parametrize("other", ["EPSG:3995", "EPSG:3031", "EPSG:32633", "+proj=stere +lat_0=90"])
def test_one_transform_in_two_coordinate_systems_is_two_places(tmp_path, other):
    polar = (1000.0, 0.0, 5e5, 0.0, -1000.0, -9e5)
    image = write_geotiff(tmp_path / "a.tif", GREY, georeference=GeoReference("EPSG:3413", polar))
    moved = write_geotiff(tmp_path / "b.tif", GREY // 128, georeference=GeoReference(other, polar))
    entry = Entry("e", (Asset(image),), label=moved)
    with pytest.raises(InputError, match=r"scene and label do not lie on one grid.*in EPSG:3413 and "):
        read_label(entry, Catalog("c", (entry,), ("dry", "flooded")))
    with pytest.raises(InputError, match=r"images do not lie on one grid.*in EPSG:3413 and "):
        open_entry(Entry("e", (Asset(image), Asset(moved, bands=parse_bands("m=optical")))))


@pytest.mark.parametrize("way", range(4))
def test_one_coordinate_system_in_two_spellings_is_one_place(tmp_path, way):
    values = {"one": DATA[:1], "two": DATA[1:]}
    places = (PLACE, GeoReference(spellings(32633)[way], PLACE.transform))
    paths = [
        write_array(tmp_path / f"{name}.npz", data, [band], georeference=place)
        for (name, data), band, place in zip(values.items(), BANDS, places, strict=True)
    ]
    np.testing.assert_array_equal(open_entry(Entry("e", tuple(map(Asset, paths)))).read().data, DATA)


def test_a_coordinate_system_that_nothing_leads_to_is_told(tmp_path):
    names = ("EPSG:32633", 'LOCAL_CS["grid",UNIT["metre",1]]')
    paths = [
        write_array(
            tmp_path / f"{i}.npz", DATA[i : i + 1], [BANDS[i]], georeference=GeoReference(n, PLACE.transform)
        )
        for i, n in enumerate(names)
    ]
    with pytest.raises(InputError, match=r"coordinate systems .* differ"):
        open_entry(Entry("e", tuple(map(Asset, paths))))


def test_two_files_with_one_band_name_are_refused(tmp_path):
    path = save(tmp_path / "a.png", GREY)
    with pytest.raises(InputError, match=r"two bands have one name \(grey, grey\).*before=UNIT\|after=UNIT"):
        open_entry(Entry("e", (Asset(path), Asset(path))))


LABEL = RNG.integers(0, 3, (20, 30), dtype=np.uint8) * 100  # 0, 100, 200
MEANING = {0: 0, 100: 1, 200: IGNORE_INDEX}
EXPECTED = np.select([LABEL == 0, LABEL == 100], [0, 1], IGNORE_INDEX)


def labelled(tmp_path, path, values=MEANING):
    image = save(tmp_path / "image.png", GREY)
    entry = Entry("e", (Asset(image),), label=path)
    return entry, Catalog("c", (entry,), ("dry", "flooded"), dict(values))


@pytest.mark.parametrize("kind", ["png", "palette.png", "tif", "npz"])
def test_labels_become_classes(tmp_path, kind):
    path = tmp_path / f"label.{kind}"
    if kind == "tif":
        write_geotiff(path, LABEL.astype(np.int16))
    elif kind == "npz":
        write_array(path, DATA, BANDS, label=LABEL)
    else:
        image = Image.fromarray(LABEL)
        if kind.startswith("palette"):
            image.putpalette([v for i in range(256) for v in (255 - i, i, 0)])
        image.save(path)
    entry, catalog = labelled(tmp_path, path)
    label = read_label(entry, catalog)
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, EXPECTED)
    np.testing.assert_array_equal(read_label(entry, catalog, Window(3, 4, 5, 6)), EXPECTED[3:8, 4:10])


def test_negative_values_and_nodata_of_a_label(tmp_path):
    raster = np.array([[-1, 0], [1, -9999]], dtype=np.int16).repeat(10, 0).repeat(15, 1)
    path = write_geotiff(tmp_path / "l.tif", raster, nodata=-9999)
    entry, catalog = labelled(tmp_path, path, {-1: IGNORE_INDEX, 0: 0, 1: 1})
    expected = np.array([[255, 0], [1, 255]]).repeat(10, 0).repeat(15, 1)
    np.testing.assert_array_equal(read_label(entry, catalog), expected)


def test_values_are_class_indices_where_nothing_is_said(tmp_path):
    values = RNG.choice([0, 1, 255], (20, 30)).astype(np.uint8)
    entry, catalog = labelled(tmp_path, save(tmp_path / "l.png", values), {})
    np.testing.assert_array_equal(read_label(entry, catalog), values)
    entry, catalog = labelled(tmp_path, save(tmp_path / "l.png", values + np.uint8(1)), {})
    with pytest.raises(InputError, match=r"l\.png: label value 2 is not listed"):
        read_label(entry, catalog)


def masks(tmp_path, *labels, values=None):
    """A catalog of one image under labels: arrays are PNG, (array, nodata) GeoTIFF."""
    image, entries = save(tmp_path / "image.png", GREY), []
    for i, label in enumerate(labels):
        path = tmp_path / f"l{i}.{'tif' if isinstance(label, tuple) else 'png'}"
        if isinstance(label, tuple):
            write_geotiff(path, label[0], nodata=label[1], overwrite=True)
        else:
            save(path, label)
        entries.append(Entry(f"e{i}", (Asset(image),), label=path))
    return Catalog("c", tuple(entries), ("dry", "wet"), values or {})


FLOOD = (GREY > 128).astype(np.uint8)
DRY = np.zeros_like(FLOOD)


def test_a_mask_of_0_and_255_is_refused_where_nothing_says_what_255_is(tmp_path):
    for labels in (
        [FLOOD * 255],
        [DRY, FLOOD * 255],
        [(FLOOD * 255, None)],
        [(FLOOD * np.float32(255), -1.0)],
        [(FLOOD * 255, 0)],
    ):
        catalog = masks(tmp_path, *labels)
        entry, words = unsaid_labels(catalog, catalog.entries)
        assert entry.id == f"e{len(labels) - 1}"
        assert f"the {len(labels)} label(s)" in words
        with pytest.raises(
            CatalogError, match=rf"'{entry.id}'.*is it wet.*\{{0: dry, 255: wet\}}.*255: ignore"
        ):
            refuse_unsaid_labels(catalog, catalog.entries)


def test_a_mask_whose_255_is_said_or_explained_passes(tmp_path):
    nothing = FLOOD * 255
    for catalog in (
        masks(tmp_path, nothing, values={0: 0, 255: 1}),
        masks(tmp_path, nothing, values={0: 0, 255: 255}),
        masks(tmp_path, nothing, FLOOD),  # class numbers: a dry tile with pixels that are not known
        masks(tmp_path, (nothing, 255.0)),  # declared as nodata
        masks(tmp_path, DRY),
        masks(tmp_path, (np.where(FLOOD, np.nan, 0).astype(np.float32), None)),
    ):
        refuse_unsaid_labels(catalog, catalog.entries)
    alone = masks(tmp_path, nothing, FLOOD)
    with pytest.raises(CatalogError):
        refuse_unsaid_labels(alone, alone.entries[:1])  # another set explains nothing
    bare = Entry("bare", alone.entries[0].assets)
    gone = Entry("gone", bare.assets, label=tmp_path / "gone.png")
    refuse_unsaid_labels(alone, (bare, gone))  # told by who reads them


def test_labels_that_do_not_fit_are_refused(tmp_path):
    entry, catalog = labelled(tmp_path, save(tmp_path / "l.png", LABEL), {0: 0, 100: 1})
    with pytest.raises(InputError, match=r"label value 200 is not listed.*0, 100"):
        read_label(entry, catalog)
    entry, catalog = labelled(tmp_path, save(tmp_path / "l.png", LABEL[:, :29].copy()))
    with pytest.raises(InputError, match=r"20 x 29 pixels, the scene has 20 x 30"):
        read_label(entry, catalog)
    entry, catalog = labelled(tmp_path, save(tmp_path / "l.png", COLOUR))
    with pytest.raises(InputError, match="one layer"):
        read_label(entry, catalog)
    entry, catalog = labelled(tmp_path, write_geotiff(tmp_path / "f.tif", np.full((20, 30), 0.5)))
    with pytest.raises(InputError, match=r"label value 0\.5"):
        read_label(entry, catalog)
    entry, catalog = labelled(tmp_path, None)
    with pytest.raises(InputError, match="has no label raster"):
        read_label(entry, catalog)


def test_nothing_here_needs_rasterio(tmp_path):
    """A bare GPU machine has no GDAL: the import is blocked in a process of its own."""
    save(tmp_path / "a.png", GREY)
    write_array(tmp_path / "a.npz", DATA, BANDS, label=LABEL)
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    script = f"""
import sys
sys.modules["rasterio"] = None
from pathlib import Path
import sartransfer.readers as r
from sartransfer.errors import InputError
from sartransfer.catalog import Asset, Catalog, Entry
from sartransfer.data import check, leakage, splits, datasets
folder = Path({str(tmp_path)!r})
assert r.open_scene(folder / "a.png").read().data.shape == (1, 20, 30)
entry = Entry("e", (Asset(folder / "a.npz"),), label=folder / "a.npz", split="train")
catalog = Catalog("c", (entry,), ("dry", "flooded"), {MEANING!r})
assert r.open_entry(entry).read().data.shape == (2, 20, 30)
assert r.read_label(entry, catalog).shape == (20, 30)
assert leakage.check_leakage(catalog) == [] and check.check_catalog(catalog) == []
try:
    r.open_scene(folder / "a.tif")
except InputError as error:
    assert "needs rasterio" in str(error)
else:
    raise SystemExit("a TIFF was opened without rasterio")
"""
    source = str(Path(__file__).parents[1] / "src")
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
