"""Backscatter shown as 8-bit display values, for networks that learned on those: predict --reader display."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from sartransfer.catalog import Asset, Catalog, Entry, write_catalog
from sartransfer.contract import InputBand, InputContract
from sartransfer.errors import InputError, UnitError
from sartransfer.geotiff import write_geotiff
from sartransfer.models import build_model, write_checkpoint
from sartransfer.readers import open_files, open_scene
from sartransfer.scene import GeoReference

pytestmark = pytest.mark.usefixtures("one_thread")
CONTRACT = InputContract(
    tuple(InputBand(n, "digital_number", role=r, mean=128.0, std=50.0) for n, r in (("before", "reference"),
                                                                                  ("after", "flood")))
)  # fmt: skip
PLACE = GeoReference("EPSG:32633", (10.0, 0.0, 5e5, 0.0, -10.0, 6e6))
BANDS = "before=digital_number@reference|after=digital_number@flood"
SIZE = 40


def write_image(path, decibel, unit="sigma0", *, scale="linear", second=None, date=None):
    """An image of VV, and of VH before it where `second` is given."""
    bands = [decibel] if second is None else [second, decibel]
    values = np.stack(bands).astype(np.float64)
    values = values if scale == "db" else 10 ** (values / 10)
    ending = "_db" if scale == "db" else ""
    names = [f"{unit}_{p}{ending}" for p in (("vv",) if second is None else ("vh", "vv"))]
    tags = {"SARTRANSFER_TIMES": date} if date else None
    return write_geotiff(path, values.astype(np.float32), georeference=PLACE, descriptions=names,
                         units=[f"{unit}{ending}"] * len(names), tags=tags, nodata=float("nan"))  # fmt: skip


@pytest.fixture(scope="module")
def pair():
    """Decibels before and after, a strip of water among them, and one pixel without a value."""
    rng = np.random.default_rng(0)
    before = rng.normal(-9, 3, (SIZE, SIZE))
    after = before.copy()
    after[:15] -= 10
    before[30, 30] = np.nan
    return before, after


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    torch.manual_seed(0)
    model = build_model("unet-resnet18", 2, 2, encoder_depth=3, decoder_channels=[8, 8, 8])
    meta = {"classes": ("dry", "flooded"), "contract": CONTRACT.to_json(), "identity": "n", "epoch": 1}
    write_checkpoint(folder / "n", model, meta)
    return folder / "n.json"


def shown(decibel):
    """The stretch, by its formula: 255 (dB + 25) / 25, cut and rounded."""
    return np.clip(np.round((decibel.astype(np.float32) + 25) * 10.2), 0, 255)


@pytest.mark.parametrize("unit", ["sigma0", "gamma0"])
@pytest.mark.parametrize("scale", ["linear", "db"])
def test_display_values_are_the_stretch_of_what_the_file_holds(pair, tmp_path, unit, scale):
    path = write_image(tmp_path / "a.tif", pair[0], unit, scale=scale, second=pair[0] - 7)
    scene = open_scene(path, "display")
    data, valid = scene.read()
    assert (scene.names, [str(b.unit) for b in scene.bands]) == (("display",), ["digital_number"])
    expected = shown(pair[0])
    assert not valid[30, 30]
    good = np.isfinite(pair[0])
    assert np.abs(data[0] - expected)[good].max() <= 1  # a value on the half may round either way
    assert (data[0] == expected)[good].mean() > 0.99


def test_other_units_are_refused_with_what_to_do(tmp_path):
    write_geotiff(
        tmp_path / "a.tif", np.ones((1, 4, 4), np.float32), descriptions=["amplitude_vv"], units=["amplitude"]
    )
    with pytest.raises(UnitError, match="made of sigma0 or gamma0"):
        open_scene(tmp_path / "a.tif", "display")


def test_an_image_that_is_shown_already_is_not_shown_again(tmp_path):
    """Taken for decibels, all greys of an 8-bit image would be 255."""
    write_geotiff(tmp_path / "a.tif", np.full((1, 4, 4), 90, np.uint8))
    with pytest.raises(UnitError, match="holds whole numbers and does not say of what"):
        open_scene(tmp_path / "a.tif", "display")
    write_geotiff(tmp_path / "b.tif", np.full((1, 4, 4), -9, np.int16), descriptions=["sigma0_vv_db"])
    assert (open_scene(tmp_path / "b.tif", "display").read().data == shown(np.array(-9.0))).all()


def test_files_of_a_scene_share_a_reader_or_have_one_each(pair, tmp_path):
    one, two = (write_image(tmp_path / f"{n}.tif", p) for n, p in zip("ab", pair, strict=True))
    both = open_files(f"{one}|{two}", BANDS, "display")
    each = open_files(f"{one}|{two}", BANDS, "display|display")
    half = open_files(f"{one}|{two}", "before=digital_number|after=sigma0", "display|")
    assert both.names == each.names == ("before", "after")
    np.testing.assert_array_equal(both.read().data, each.read().data)
    np.testing.assert_array_equal(half.read().data[0], both.read().data[0])
    assert half.read().data[1].max() < 2  # as it lies in the file
    with pytest.raises(InputError, match="2 files, but 3 readers"):
        open_files(f"{one}|{two}", BANDS, "display|display|display")
    with pytest.raises(InputError, match="reader='dsplay'"):
        open_files(f"{one}|{two}", BANDS, "dsplay")


def read(path):
    with rasterio.open(path) as file:
        return file.read(1), file.tags()


def test_a_fetched_pair_is_mapped_by_a_network_of_display_values(call, pair, network, tmp_path):
    """As the same pair given as 8-bit images, and with a warning where it is gamma0."""
    for unit in ("sigma0", "gamma0"):
        for name, image in zip(("before", "after"), pair, strict=True):
            write_image(tmp_path / f"{unit}-{name}.tif", image, unit, second=image - 7)
    for name, image in zip(("before", "after"), pair, strict=True):
        grey = np.where(np.isfinite(image), shown(image), 0)[None].astype(np.float32)
        grey[:, ~np.isfinite(image)] = np.nan
        write_geotiff(
            tmp_path / f"grey-{name}.tif", grey, georeference=PLACE, descriptions=[name], nodata=float("nan")
        )

    def predict(unit, *more, out=None):
        scene = f"{tmp_path}/{unit}-before.tif|{tmp_path}/{unit}-after.tif"
        return call("predict", network, scene, "-o", out or tmp_path / f"{unit}-map.tif", "--bands", BANDS, "--device",
                    "cpu", "--engine", "eager", *more)  # fmt: skip

    code, _, said = predict("sigma0")  # read as it is: the file says otherwise
    assert (code, "sigma0" in said) == (2, True)
    assert predict("grey")[0] == 0
    found = {}
    for unit in ("sigma0", "gamma0"):
        code, _, said = predict(unit, "--reader", "display", "--overwrite")
        assert code == 0, said
        assert ("which is gamma0; the stretch was made for sigma0" in said) == (unit == "gamma0")
        found[unit], tags = read(tmp_path / f"{unit}-map.tif")
        assert ("gamma0" in tags["SARTRANSFER_WARNINGS"]) == (unit == "gamma0")
        assert json.loads(tags["SARTRANSFER_OPTIONS"])["reader"] == "display"
    expected, _ = read(tmp_path / "grey-map.tif")
    assert (found["sigma0"] == expected).mean() > 0.99  # halves may round either way
    np.testing.assert_array_equal(found["sigma0"], found["gamma0"])
    code, _, said = predict("sigma0", "--reader", "display", "--dry-run", out=tmp_path / "none.tif")
    assert (code, f"{SIZE} x {SIZE} pixels" in said + _) == (0, True)
    for more, expected in (
        (("--reader", "dsplay"), "reader='dsplay' is not known"),
        (("--reader", "display|display|display"), "2 files, but 3 readers"),
    ):
        code, _, said = predict("sigma0", *more, out=tmp_path / "none.tif")
        assert (code, expected in said, "Traceback" in said) == (2, True, False), said


def test_catalogs_and_lists_are_mapped_by_the_reader_that_they_name(call, pair, network, tmp_path):
    for name, image in zip(("before", "after"), pair, strict=True):
        write_image(tmp_path / f"{name}.tif", image, "gamma0", scale="db")
    files = [tmp_path / f"{name}.tif" for name in ("before", "after")]
    words = ("--device", "cpu", "--engine", "eager")
    pair_words = "|".join(map(str, files))
    code, _, said = call(
        "predict",
        network,
        pair_words,
        "-o",
        tmp_path / "one.tif",
        "--bands",
        BANDS,
        "--reader",
        "display",
        *words,
    )
    assert code == 0, said
    expected, _ = read(tmp_path / "one.tif")
    bands = [open_files(pair_words, BANDS, "display").bands[i : i + 1] for i in range(2)]
    named = tuple(Asset(p, "display", b) for p, b in zip(files, bands, strict=True))
    write_catalog(Catalog("c", (Entry("po", named),), ("dry", "flooded")), tmp_path / "c.csv")
    plain = tuple(Asset(p, None, b) for p, b in zip(files, bands, strict=True))
    write_catalog(Catalog("d", (Entry("po", plain),), ("dry", "flooded")), tmp_path / "d.csv")
    Path(tmp_path / "list.txt").write_text(f"{pair_words}\n")
    for scenes, more, name in (
        ("c.csv", (), "po"),
        ("d.csv", ("--reader", "display"), "po"),
        ("list.txt", ("--reader", "display", "--bands", BANDS), "after"),
    ):
        out = tmp_path / f"maps-{scenes}"
        asked = ("predict", network, tmp_path / scenes, "-o", out, *more, *words)
        code, _, said = call(*asked)
        assert code == 0, said
        assert "which is gamma0" in said
        np.testing.assert_array_equal(read(out / f"{name}.tif")[0], expected)
        code, _, said = call(*asked)
        assert (code, "found finished" in said) == (0, True), said
    # A map is not taken for one of the same files read otherwise; these do not say what they hold.
    for file in files:
        write_geotiff(
            file,
            np.nan_to_num(pair[0], nan=-9.0)[None].astype(np.float32),
            georeference=PLACE,
            overwrite=True,
        )
    out = tmp_path / "maps"
    code, _, said = call("predict", network, tmp_path / "c.csv", "-o", out, *words)
    assert (code, "whose unit the file does not say: it was taken for sigma0 in dB" in said) == (0, True), (
        said
    )
    (out / "maps.jsonl").unlink()
    code, _, said = call("predict", network, tmp_path / "d.csv", "-o", out, *words)
    assert (code, "read by display instead of its ending" in said) == (2, True), said
    code, _, said = call("predict", network, tmp_path / "d.csv", "-o", out, "--reader", "display", *words)
    assert (code, "found finished" in said) == (0, True), said


def test_scores_on_display_values_of_gamma0_are_told_of(call, pair, network, tmp_path):
    entries = []
    for unit in ("sigma0", "gamma0"):
        files = [
            write_image(tmp_path / f"{unit}-{i}.tif", image, unit, scale="db") for i, image in enumerate(pair)
        ]
        label = write_geotiff(tmp_path / f"{unit}-l.tif", np.ones((SIZE, SIZE), np.uint8), georeference=PLACE)
        bands = open_files("|".join(map(str, files)), BANDS, "display").bands
        assets = tuple(Asset(p, "display", (b,)) for p, b in zip(files, bands, strict=True))
        entries.append(Entry(unit, assets, label=label, split=unit, group=unit))
    catalog = write_catalog(Catalog("c", tuple(entries), ("dry", "flooded")), tmp_path / "c.csv")
    for unit in ("sigma0", "gamma0"):
        code, _, said = call("evaluate", network, "--catalog", catalog, "--split", unit, "--device", "cpu")
        assert (code, "which is gamma0" in said) == (0, unit == "gamma0"), said
