"""Floods from the command line: pairs, dates, units, limits of the rules, and one area for one mask."""

import json
import math
import re
from datetime import UTC, datetime

import numpy as np
import pytest
import rasterio
import torch

from sartransfer.areas import open_ground
from sartransfer.catalog import Asset, Entry, read_catalog
from sartransfer.contract import InputBand, InputContract
from sartransfer.errors import InputError, UnitError
from sartransfer.geotiff import open_geotiff, write_geotiff
from sartransfer.models import build_model, write_checkpoint
from sartransfer.polygons import class_areas
from sartransfer.prepare import flood_pair as flood_pair_module
from sartransfer.prepare import pair_catalog, prepare_flood
from sartransfer.radar.flood import PRACTICES, Rule, Slope, SlopeUnit, area_km2, change_settings, map_flood
from sartransfer.radar.fuzzy import FuzzySettings
from sartransfer.radar.units import parse_unit
from sartransfer.readers import open_entry, open_files
from sartransfer.scene import GeoReference, parse_bands

UTM = GeoReference("EPSG:32630", (10.0, 0.0, 700_000.0, 0.0, -10.0, 4_400_000.0))
SIDE = 48
DAYS = {"before": "2024-10-19T06:12:54Z", "after": "2024-10-31T06:12:54Z"}


def images(seed=0, side=SIDE):
    """Power of VV and VH before, and after with a lake at a twentieth of it."""
    before = np.random.default_rng(seed).gamma(4.4, 0.05 / 4.4, (2, side, side)).astype(np.float32)
    after = before.copy()
    after[:, 10:34, 10:38] /= 20
    return before, after


def write(path, image, place=UTM, names=("gamma0_vv", "gamma0_vh"), time=None, **more):
    tags = {"SARTRANSFER_TIMES": time} if time else {}
    return write_geotiff(
        path, image, georeference=place, descriptions=names, tags=tags, nodata=np.nan, **more
    )


@pytest.fixture
def pair(tmp_path):
    """Files as `fetch flood` writes them."""
    return [
        write(tmp_path / f"{n}.tif", i, time=DAYS[n])
        for n, i in zip(("before", "after"), images(), strict=True)
    ]


def tags_of(path):
    with rasterio.open(path) as file:
        return file.tags()


# --- several pairs of one event


def mask_of(folder, name):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[10:34, 10:38] = 1
    return write_geotiff(folder / f"{name}.tif", mask, georeference=UTM, nodata=255.0)


def test_an_event_may_have_several_pairs_and_none_is_lost(call, tmp_path):
    words = []
    for number, event in enumerate(("po", "po", "elbe", "po-2")):
        files = [write(tmp_path / f"{number}-{w}.tif", i)
                 for w, i in zip(("before", "after"), images(number), strict=True)]  # fmt: skip
        files.append(mask_of(tmp_path, f"{number}-mask"))
        words += ["--pair", f"{event}=" + "|".join(map(str, files))]
    out = tmp_path / "out"
    code, _, err = call("prepare", "tiles", *words, "--size", 16, "--test", "elbe", "-o", out)
    assert code == 0, err
    entries = read_catalog(out / "catalog.csv").entries
    counted = {e: sum(x.group == e for x in entries) for e in ("po", "elbe", "po-2")}
    assert counted["po"] == 2 * counted["po-2"] > 0
    assert counted["elbe"] == 9  # a test is whole
    assert {e.split for e in entries if e.group == "po"} == {"train"}
    assert len({e.id for e in entries}) == len(entries)
    assert not {e.id.rsplit("_", 2)[0] for e in entries if e.group == "po"} & {"po-2"}
    code, _, err = call("prepare", "tiles", *words, *words[:2], "--test", "elbe", "-o", tmp_path / "x")
    assert code == 2
    assert "event 'po'" in err
    assert "given twice" in err


def test_pairs_as_a_mapping_keep_their_events_as_names(pair, tmp_path):
    mask = mask_of(tmp_path, "mask")
    made = pair_catalog({"po": (*pair, mask)})
    assert [(e.id, e.group) for e in made.entries] == [("po", "po")]


# --- swapped files


def test_files_that_were_fetched_know_their_time(pair):
    assert open_geotiff(pair[0]).time == datetime(2024, 10, 19, 6, 12, 54, tzinfo=UTC)


@pytest.mark.parametrize(
    "bands",
    [
        "before_vv=gamma0,before_vh=gamma0|after_vv=gamma0,after_vh=gamma0",
        "a=gamma0@before,b=gamma0@before|c=gamma0@after,d=gamma0@after",
    ],
    ids=["names", "roles"],
)
def test_swapped_files_of_a_pair_are_not_mapped(pair, bands):
    before, after = pair
    scene = open_files(f"{before}|{after}", bands)
    assert scene.time == datetime(2024, 10, 31, 6, 12, 54, tzinfo=UTC)
    with pytest.raises(InputError, match=r"of 2024-10-31.*after\.tif.*of 2024-10-19.*before\.tif.*swapped"):
        open_files(f"{after}|{before}", bands)
    first, second = (parse_bands(b) for b in bands.split("|"))
    with pytest.raises(InputError, match="swapped"):
        open_entry(Entry("po", (Asset(after, bands=first), Asset(before, bands=second))))
    with pytest.raises(InputError, match="swapped"):  # in any order of the files
        open_entry(Entry("po", (Asset(before, bands=second), Asset(after, bands=first))))


@pytest.mark.usefixtures("one_thread")
def test_the_command_predict_makes_no_map_of_swapped_files(call, pair, tmp_path):
    before, after = pair
    inputs = tuple(InputBand(n, "gamma0_db", "VH", mean=-15.0, std=4.0) for n in ("before_vh", "after_vh"))
    torch.manual_seed(0)
    network = build_model("unet-resnet18", 2, 2, encoder_depth=3, decoder_channels=[8, 8, 8])
    meta = {
        "classes": ("dry", "flooded"),
        "contract": InputContract(inputs).to_json(),
        "identity": "n",
        "epoch": 1,
    }
    write_checkpoint(tmp_path / "net", network, meta)
    bands = ("--bands", "before_vv=gamma0,before_vh=gamma0|after_vv=gamma0,after_vh=gamma0")
    words = ("predict", tmp_path / "net.json", f"{after}|{before}", "-o", tmp_path / "map.tif", *bands)
    code, _, err = call(*words)
    assert code == 2
    assert "the two files are swapped" in " ".join(err.split())
    assert not (tmp_path / "map.tif").exists()
    code, _, err = call(*words[:2], f"{before}|{after}", *words[3:])
    assert code == 0, err
    assert (tmp_path / "map.tif").exists()


def test_files_without_times_and_other_names_are_as_they_were(pair, tmp_path):
    before, after = pair
    plain = [write(tmp_path / f"plain-{p.name}", open_geotiff(p).read().data) for p in pair]
    bands = "before_vv=gamma0,before_vh=gamma0|after_vv=gamma0,after_vh=gamma0"
    for files in ((plain[1], plain[0]), (after, plain[0]), (plain[1], before)):
        assert open_files("|".join(map(str, files)), bands).names[0] == "before_vv"
    assert open_files(f"{after}|{before}", "a=gamma0,b=gamma0|c=gamma0,hereafter=gamma0").names[0] == "a"


def test_a_time_without_a_zone_is_utc(pair, tmp_path):
    early = write_geotiff(tmp_path / "early.tif", images()[0], georeference=UTM,
                          descriptions=["gamma0_vv", "gamma0_vh"], tags={"START": "2024-10-19T06:12:53"})  # fmt: skip
    with pytest.raises(InputError, match="swapped"):
        prepare_flood(pair[1], early, tmp_path / "m.tif")
    assert prepare_flood(early, pair[1], tmp_path / "m.tif").area_km2 > 0
    with pytest.raises(InputError, match="swapped"):  # one second apart
        prepare_flood(pair[0], early, tmp_path / "n.tif")


# --- options of prepare flood


def flood(call, *words):
    return call("prepare", "flood", *words)


def test_bands_and_pixel_size_can_be_said(call, tmp_path):
    files = [write(tmp_path / f"{n}.tif", i, GeoReference(), ("one", "two"))
             for n, i in zip(("b", "a"), images(), strict=True)]  # fmt: skip
    out = tmp_path / "m.tif"
    code, _, err = flood(call, *files, "-o", out)
    assert code == 2
    assert "--pixel-size" in err
    code, _, err = flood(call, *files, "-o", out, "--pixel-size", "10")
    assert code == 2
    assert "--bands" in err
    code, _, err = flood(call, *files, "-o", out, "--pixel-size", "10", "--band", "one")
    assert code == 2
    assert "--bands" in err
    code, _, err = flood(call, *files, "-o", out, "--bands", "VV=gamma0,VH=gamma0", "--pixel-size", "10")
    assert code == 0, err
    before, after = images()
    whole = map_flood(before[1], after[1], parse_unit("gamma0"), pixel_size=(10.0, 10.0))
    assert np.array_equal(open_geotiff(out).read().data[0], whole.mask)
    both = "VV=gamma0,VH=gamma0|VH=gamma0,VV=gamma0"  # after: the other way round
    words = ("-o", out, "--overwrite", "--pixel-size", "20,10")
    code, _, err = flood(call, *files, "--bands", both, *words)
    assert code == 0, err
    whole = map_flood(before[1], after[0], parse_unit("gamma0"), pixel_size=(20.0, 10.0))
    assert np.array_equal(open_geotiff(out).read().data[0], whole.mask)
    for wrong in (("--bands", "VH=gamma0"), ("--bands", "|"), ("--bands", "a|b|c"), ("--pixel-size", "1,2,3"),
                  ("--pixel-size", "ten"), ("--pixel-size", "-1"), ("--pixel-size", "nan")):  # fmt: skip
        given = ("--bands", both) if wrong[0] == "--pixel-size" else ()
        assert flood(call, *files, *given, *wrong, "-o", tmp_path / "x.tif")[0] == 2, wrong
    assert not (tmp_path / "x.tif").exists()


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        (("--map-threshold", "1.4"), {"threshold": 1.4}),
        (("--rule", "db_drop", "--map-threshold", "otsu"), {"threshold": "otsu"}),
        (("--max-slope", "8", "--max-slope-unit", "percent"), {"max_slope": Slope(8.0, SlopeUnit.PERCENT)}),
        (("--permanent-months", "3"), {"permanent_months": 3}),
        (("--min-connected", "100"), {"min_connected": 100}),
        (("--radius", "0"), {"radius": 0.0}),
        (("--radius", "25", "--min-connected", "30"), {"radius": 25.0, "min_connected": 30}),
    ],
)
def test_each_limit_of_a_rule_can_be_changed(call, tmp_path, words, changed):
    side = 120 if "otsu" in words else SIDE
    before, after = images(3, side)
    after[:, 42:45, 2:5] = 1e-6  # a small one of its own
    if side > SIDE:
        after[:, 10:70] = before[:, 10:70] / 20
    rng = np.random.default_rng(1)
    months, slope = rng.integers(0, 13, (side, side)).astype(np.float32), rng.uniform(0, 8, (side, side))
    files = [write(tmp_path / f"{n}.tif", i) for n, i in (("before", before), ("after", after))]
    months_file = write(tmp_path / "months.tif", months[None], names=["months"])
    slope_file = write(tmp_path / "slope.tif", slope[None].astype(np.float32), names=["slope"])
    ground = ("--seasonality", months_file, "--slope", slope_file, "--slope-unit", "degrees")
    out = tmp_path / "m.tif"
    code, printed, err = flood(call, *files, "-o", out, *words, *ground)
    assert code == 0, err
    rule = "db_drop" if "--rule" in words else "un_spider"
    settings = change_settings(PRACTICES[rule], **changed)
    made = prepare_flood(*files, tmp_path / "n.tif", settings=settings, seasonality=months_file,
                         slope=slope_file, slope_unit=SlopeUnit.DEGREES)  # fmt: skip
    plain = prepare_flood(*files, tmp_path / "p.tif", settings=PRACTICES[rule], seasonality=months_file,
                          slope=slope_file, slope_unit=SlopeUnit.DEGREES)  # fmt: skip
    mine = open_geotiff(tmp_path / "m-provenance.tif").read().data
    assert np.array_equal(mine, open_geotiff(made.provenance).read().data)
    assert not np.array_equal(mine, open_geotiff(plain.provenance).read().data)
    told, was = (json.loads(tags_of(p)["SARTRANSFER_FLOOD"]) for p in (out, plain.mask))
    radius = changed.pop("radius", None)
    expected = {**was, **{k: v if not isinstance(v, Slope) else {"limit": v.limit, "unit": str(v.unit)}
                          for k, v in changed.items()}}  # fmt: skip
    if radius is not None:
        expected["speckle"] = {**was["speckle"], "radius": radius}
    assert told == expected
    assert "changed" in " ".join(printed.split())


def test_limits_that_mean_nothing_are_refused(call, pair, tmp_path):
    out = tmp_path / "x.tif"
    for words, message in (
        (("--max-slope", "5"), "go together"),
        (("--max-slope-unit", "percent"), "go together"),
        (("--max-slope", "5", "--max-slope-unit", "radians"), "max-slope-unit"),
        (("--max-slope", "91", "--max-slope-unit", "degrees"), "slope limit"),
        (("--map-threshold", "much"), "threshold"),
        (("--map-threshold", "nan"), "finite"),
        (("--map-threshold", "otsu"), "no two populations"),  # of a ratio of decibels
        (("--permanent-months", "13"), "from 1 to 12"),
        (("--min-connected", "0"), "from 1 to 255"),
        (("--radius", "-1"), "radius"),
        (("--rule", "fuzzy", "--radius", "20"), "fuzzy rules find their own"),
    ):
        code, _, err = flood(call, *pair, "-o", out, *words)
        assert code == 2, words
        assert message in " ".join(err.split()), words
    assert not out.exists()


# --- decibels declared as linear


@pytest.mark.parametrize("settings", [*PRACTICES.values(), FuzzySettings()], ids=[*PRACTICES, "fuzzy"])
@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)])
def test_decibels_declared_as_linear_are_named(tmp_path, settings, which):
    files = []
    for number, image in enumerate(images()):
        values = 10 * np.log10(image) if number in which else image
        files.append(write(tmp_path / f"{number}.tif", values, names=("sigma0_vv", "sigma0_vh")))
    hand = write(tmp_path / "hand.tif", np.zeros((1, SIDE, SIDE), np.float32), names=["hand"])
    with pytest.raises(UnitError, match=r"scene '[01]'.*sigma0, which is linear.*these look like decibels"):
        prepare_flood(*files, tmp_path / "m.tif", settings=settings, hand=hand)
    assert not (tmp_path / "m.tif").exists()


def test_a_few_negative_values_of_power_are_no_decibels(tmp_path):
    before, after = images()
    before[:, :, :5] = -0.001  # where the noise that was subtracted exceeds the power
    files = [write(tmp_path / f"{n}.tif", i) for n, i in (("b", before), ("a", after))]
    assert prepare_flood(*files, tmp_path / "m.tif").area_km2 > 0
    nothing = write(tmp_path / "n.tif", np.full_like(before, np.nan))
    with pytest.raises(InputError, match="no pixel has a value both in"):
        prepare_flood(nothing, files[1], tmp_path / "n-mask.tif")


# --- one mask, one area

PLACES = {
    "utm": UTM,
    "utm_far_east": GeoReference("EPSG:32630", (10.0, 0.0, 950_000.0, 0.0, -10.0, 6_800_000.0)),
    "degrees": GeoReference("EPSG:4326", (0.01, 0.0, -0.4, 0.0, -0.01, 60.0)),
    "polar": GeoReference("EPSG:3413", (40.0, 0.0, -600_000.0, 0.0, -40.0, -900_000.0)),
    "mercator": GeoReference("EPSG:3857", (10.0, 0.0, 0.0, 0.0, -10.0, 6_000_000.0)),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_mask_has_the_area_that_the_command_areas_tells(tmp_path, place, monkeypatch):
    files = [write(tmp_path / f"{n}.tif", i, place) for n, i in zip(("b", "a"), images(), strict=True)]
    settings = change_settings(PRACTICES["un_spider"], radius=0.0, min_connected=1)
    made = prepare_flood(*files, tmp_path / "m.tif", settings=settings, thresholds=[2.0])
    told = class_areas(made.mask)["flooded"]
    assert made.area_km2 == pytest.approx(told[1] / 1e6, rel=1e-9)
    at = made.sensitivity.thresholds.index(1.25)
    assert made.sensitivity.area_km2[at] == made.area_km2
    assert 0 < made.sensitivity.area_km2[1 - at] < made.area_km2
    # and pixel by pixel
    areas = open_ground(place, SIDE, SIDE).pixel_areas(0, SIDE)
    mask = open_geotiff(made.mask).source.read([0], open_geotiff(made.mask).window)[0][0]
    assert made.area_km2 == pytest.approx(math.fsum(areas[mask == 1]) / 1e6, rel=1e-12)

    def absent(*_):
        raise InputError("no pyproj")

    monkeypatch.setattr(flood_pair_module, "open_ground", absent)  # an install without the extra gis
    again = prepare_flood(*files, tmp_path / "again.tif", settings=settings)
    assert again.area_km2 == pytest.approx(made.area_km2, rel=2e-4)


def test_areas_by_strips_are_those_of_all_rows(monkeypatch):
    from sartransfer.radar import flood as module

    rng = np.random.default_rng(4)
    wet, areas = rng.random((37, 23)) < 0.3, rng.uniform(90, 110, (37, 23))
    monkeypatch.setattr(module, "STRIP", 100)
    assert area_km2(wet, lambda first, rows: areas[first : first + rows]) == pytest.approx(
        areas[wet].sum() / 1e6
    )
    assert area_km2(wet, areas[:, 0]) == pytest.approx((wet * areas[:, :1]).sum() / 1e6)
    assert area_km2(wet, 100.0) == pytest.approx(wet.sum() * 1e-4)
    assert area_km2(np.zeros((3, 4), bool), 100.0) == 0.0


def test_what_flooded_means_has_not_moved(pair, tmp_path):
    made = prepare_flood(*pair, tmp_path / "m.tif")
    before, after = images()
    whole = map_flood(before[1], after[1], parse_unit("gamma0"), pixel_size=(10.0, 10.0))
    assert made.area_km2 == pytest.approx((whole.provenance == Rule.FLOODED).sum() * 1e-4, rel=1e-3)
    assert re.search(r'"radius": 50\.0', tags_of(made.mask)["SARTRANSFER_FLOOD"])
