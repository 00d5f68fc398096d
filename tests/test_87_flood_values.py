"""What a pair's values and tags say against what is declared: refused, taken as no value, or warned of."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import rasterio

from sartransfer.errors import InputError, UnitError
from sartransfer.geotiff import open_geotiff, write_geotiff
from sartransfer.prepare import prepare_flood
from sartransfer.prepare.flood_values import CheckedSource
from sartransfer.radar.flood import PRACTICES, Rule, SlopeUnit, change_settings
from sartransfer.radar.fuzzy import FuzzySettings
from sartransfer.scene import ArraySource, GeoReference, Window

UTM = GeoReference("EPSG:32630", (10.0, 0.0, 700_000.0, 0.0, -10.0, 4_400_000.0))
SIDE = 64
NO_LAYERS = (
    "permanent water was not removed: no seasonality is given",
    "slopes were not removed: no slope is given",
)
DB_DROP = PRACTICES["db_drop"]


def decibels(seed=0):
    """One band before, and after with a lake 13 dB below."""
    before = 10 * np.log10(np.random.default_rng(seed).gamma(4.4, 0.05 / 4.4, (SIDE, SIDE)))
    after = before.copy()
    after[10:40, 10:50] -= 13
    return before.astype(np.float32), after.astype(np.float32)


def power(values):
    return (10 ** (values / 10)).astype(np.float32)


def write(path, image, name="sigma0_vh_db", **more):
    return write_geotiff(path, image, georeference=UTM, descriptions=[name], **more)


def pair(folder, before, after, name="sigma0_vh_db", tags=({}, {}), **more):
    return [
        write(folder / f"{n}.tif", i, name, tags=t, **more)
        for n, i, t in zip(("before", "after"), (before, after), tags, strict=True)
    ]


def provenance(made):
    return open_geotiff(made.provenance).source.read([0], Window(0, 0, SIDE, SIDE))[0][0]


def tags_of(path):
    with rasterio.open(path) as file:
        return file.tags()


# --- declarations that the values belie


@pytest.mark.parametrize("settings", [PRACTICES["un_spider"], DB_DROP], ids=["un_spider", "db_drop"])
def test_decibels_declared_as_linear_are_refused_though_some_are_above_zero(tmp_path, settings):
    before, after = decibels()
    before[::10, ::10], after[::10, ::10] = 3.0, 2.0  # 1 % above 0 dB
    files = pair(tmp_path, before, after, "sigma0_vh")
    with pytest.raises(UnitError, match=r"scene 'before': band 'sigma0_vh' is declared as sigma0, which is linear, and"
                       r" \d\d% of its values are negative .*Say sigma0_db"):  # fmt: skip
        prepare_flood(*files, tmp_path / "m.tif", settings=settings)
    assert not (tmp_path / "m.tif").exists()


@pytest.mark.parametrize("border", [0.0, -9999.0, None], ids=["with zeros", "with -9999", "without a border"])
def test_power_declared_as_decibels_is_refused(tmp_path, border):
    before, after = (power(i) for i in decibels())
    if border is not None:
        before[:, :20] = border
    with pytest.raises(UnitError, match=r"99 % of its values are above 0 dB .*linear power. Say sigma0 in"):
        prepare_flood(*pair(tmp_path, before, after), tmp_path / "m.tif")


def test_uncalibrated_decibels_may_be_above_zero_but_not_beyond_what_16_bits_hold(tmp_path):
    before, after = (i + 55 for i in decibels())
    made = prepare_flood(
        *pair(tmp_path, before, after, "intensity_vh_db"), tmp_path / "m.tif", settings=DB_DROP
    )
    assert made.warnings == NO_LAYERS
    assert made.counts["flooded"] > 1000
    files = pair(tmp_path, power(before), power(after), "intensity_vh_db", overwrite=True)
    with pytest.raises(UnitError, match="most of its values are above 100 dB"):
        prepare_flood(*files, tmp_path / "n.tif", settings=DB_DROP)


def test_8_bit_display_values_are_no_power(tmp_path):
    images = [np.clip((i + 30) * 8, 0, 255).astype(np.uint8) for i in decibels()]
    for name in ("intensity_vh", "sigma0_vh"):
        files = pair(tmp_path, *images, name, overwrite=True)
        with pytest.raises(UnitError, match=r"whole numbers from .*8-bit display values"):
            prepare_flood(*files, tmp_path / "m.tif", settings=DB_DROP)
    files = pair(tmp_path, *images, "amplitude_vh", overwrite=True)
    made = prepare_flood(*files, tmp_path / "m.tif", settings=DB_DROP)
    assert sum("8-bit display values" in w for w in made.warnings) == 2
    # 16 bits of amplitude are as they were
    wide = [np.round(np.sqrt(power(i)) * 2000).astype(np.uint16) for i in decibels()]
    files = pair(tmp_path, *wide, "amplitude_vh", overwrite=True)
    assert prepare_flood(*files, tmp_path / "n.tif", settings=DB_DROP).warnings == NO_LAYERS


def test_values_that_are_odd_are_warned_of(tmp_path):
    before, after = decibels()
    after[:3] = 45.0
    made = prepare_flood(*pair(tmp_path, before, after), tmp_path / "m.tif")
    assert "scene 'after', band 'sigma0_vh_db': declared sigma0_db, but values run from" in made.warnings[0]
    linear = [power(i) for i in decibels()]
    linear[0][:, :5] = -0.001
    linear[1][:, :5] = 0
    made = prepare_flood(*pair(tmp_path, *linear, "sigma0_vh", overwrite=True), tmp_path / "n.tif")
    assert "values fall to -0.001: decibels, perhaps" in made.warnings[0]
    assert "7.8% of the values are exactly 0" in made.warnings[1]
    assert len(made.warnings) == 4


def test_a_fill_below_zero_is_no_value_of_power_either_and_no_sign_of_decibels(tmp_path):
    before, after = (power(i) for i in decibels())
    for columns in (10, 50):
        after[:, -columns:] = np.nan
        files = pair(tmp_path, before, after, "sigma0_vh", overwrite=True)
        right = prepare_flood(*files, tmp_path / "right.tif", settings=DB_DROP, overwrite=True)
        after[:, -columns:] = -9999
        files = pair(tmp_path, before, after, "sigma0_vh", overwrite=True)
        made = prepare_flood(*files, tmp_path / "m.tif", settings=DB_DROP, overwrite=True)
        assert np.array_equal(provenance(made), provenance(right))
        windows = prepare_flood(*files, tmp_path / "w.tif", settings=DB_DROP, overwrite=True, window=9)
        assert np.array_equal(provenance(windows), provenance(right))
        assert f"{columns * SIDE} values below -60 (down to -9999), which no power is" in made.warnings[0]


# --- no value though no file says so


@pytest.mark.parametrize("settings", [PRACTICES["un_spider"], DB_DROP], ids=["un_spider", "db_drop"])
@pytest.mark.parametrize(
    ("fill", "words"),
    [
        (-9999.0, r"640 values below -60 dB or above 100 dB \(from -9999 to"),
        (-99.0, "640 values below -60 dB"),
        (9999.0, "640 values below -60 dB or above 100 dB"),
        (0.0, r"640 values are exactly 0 dB \(15.6%\)"),
    ],
)
@pytest.mark.parametrize("which", [0, 1])
def test_undeclared_fills_are_mapped_as_declared_ones(tmp_path, settings, fill, words, which):
    images = list(decibels())
    images[which][:, -10:] = np.nan
    right = prepare_flood(*pair(tmp_path, *images), tmp_path / "right.tif", settings=settings)
    assert right.warnings == NO_LAYERS
    images[which][:, -10:] = fill
    files = pair(tmp_path, *images, overwrite=True)
    for window in (17, 4096):
        made = prepare_flood(*files, tmp_path / f"{window}.tif", settings=settings, window=window)
        assert np.array_equal(provenance(made), provenance(right))
        assert made.area_km2 == right.area_km2
        (told,) = (w for w in made.warnings if "were taken as no value" in w)
        assert told.startswith(f"scene '{('before', 'after')[which]}'")
        assert re.search(words, told), told
        assert told in tags_of(made.mask)["SARTRANSFER_WARNINGS"]


def test_zeros_among_whole_decibels_are_kept_while_they_are_few(tmp_path):
    before, after = (np.round(i) for i in decibels())
    before[:4, :8] = 0.0  # 32 of 4096: .8 %
    made = prepare_flood(*pair(tmp_path, before, after), tmp_path / "m.tif", settings=DB_DROP)
    assert "no value" not in made.counts
    before[:8, :8] = 0.0
    made = prepare_flood(*pair(tmp_path, before, after, overwrite=True), tmp_path / "n.tif", settings=DB_DROP)
    assert made.counts["no value"] == 64


def test_the_fuzzy_rules_leave_fills_out_too(tmp_path):
    before, after = decibels()
    hand = np.zeros((SIDE, SIDE), np.float32)
    ground = write(tmp_path / "hand.tif", hand, "hand")
    settings = FuzzySettings(tile=32)
    after[:, -10:] = np.nan
    right = prepare_flood(
        *pair(tmp_path, before, after), tmp_path / "right.tif", settings=settings, hand=ground
    )
    after[:, -10:-5], after[:, -5:] = 0.0, -9999.0
    files = pair(tmp_path, before, after, overwrite=True)
    made = prepare_flood(*files, tmp_path / "m.tif", settings=settings, hand=ground)
    assert np.array_equal(provenance(made), provenance(right))
    assert (provenance(made)[:, -10:] == Rule.NO_VALUE).all()
    assert sum("were taken as no value" in w for w in made.warnings) == 2
    hand[5, 5] = -9999
    ground = write(tmp_path / "fill.tif", hand, "hand")
    with pytest.raises(InputError, match="hand falls to -9999 m"):
        prepare_flood(*files, tmp_path / "x.tif", settings=settings, hand=ground)


def test_a_map_that_is_mostly_without_a_value_is_said_to_be(tmp_path):
    before, after = decibels()
    for columns, told in ((32, False), (40, True)):  # half, and over half
        after[:, :columns] = np.nan
        made = prepare_flood(*pair(tmp_path, before, after, overwrite=True), tmp_path / f"{columns}.tif")
        assert ("62.5% of the pixels have no value in one of the two scenes" in made.warnings) == told


def test_a_checked_source_is_its_source_but_for_what_is_no_value():
    values = np.array([[[-61, -60, 0, 100, 101, np.nan]], [[-61, -60, 0, 100, 101, 5]]], np.float32)
    source = CheckedSource(ArraySource(values), {1: (-60.0, 100.0)}, frozenset({1}))
    data, valid = source.read([1, 0], Window(0, 0, 1, 6))
    assert np.array_equal(data, values[::-1], equal_nan=True)
    assert valid[0].tolist() == [[False, True, False, True, False, True]]
    assert valid[1].tolist() == [[True] * 5 + [False]]
    assert not source.gives_new_arrays


# --- slopes, by windows


def test_a_slope_in_radians_is_told_whatever_the_windows(tmp_path):
    files = pair(tmp_path, *decibels())
    settings = change_settings(PRACTICES["un_spider"], radius=0.0)
    slope = np.zeros((SIDE, SIDE), np.float32)
    slope[60, 60] = 0.4
    radians = write(tmp_path / "radians.tif", slope, "slope")
    slope[1, 1] = 9.0
    degrees = write(tmp_path / "degrees.tif", slope, "slope")
    for name, odd in ((radians, True), (degrees, False)):
        for window in (32, 4096):
            made = prepare_flood(*files, tmp_path / "m.tif", slope=name, slope_unit=SlopeUnit.DEGREES, window=window,
                                 overwrite=True, settings=settings)  # fmt: skip
            assert any("is it in radians" in w for w in made.warnings) == odd


# --- where the files come from


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"SARTRANSFER_ORBITS": "descending-12"}, {"SARTRANSFER_ORBITS": "ascending-99"},
         "before is of orbit descending-12, after of ascending-99"),
        ({"SARTRANSFER_ORBITS": "descending-8 descending-81"}, {"SARTRANSFER_ORBITS": "descending-8"},
         "before is of orbit descending-8, descending-81, after of descending-8"),
        ({"PASS": "DESCENDING", "RELATIVE_ORBIT": "12"}, {"SARTRANSFER_ORBITS": "descending-13"}, "descending-13"),
        ({"PASS": "DESCENDING", "RELATIVE_ORBIT": "12"}, {"SARTRANSFER_ORBITS": "descending-12"}, None),
        ({"SARTRANSFER_ORBITS": "a-1 b-2"}, {"SARTRANSFER_ORBITS": "b-2 a-1"}, None),
        ({"SARTRANSFER_ORBITS": "descending-12"}, {}, None),
        ({"SARTRANSFER_ORBITS": "descending-12"}, {"PASS": "ASCENDING", "RELATIVE_ORBIT": "unknown"}, None),
        ({"SARTRANSFER_ORBITS": "descending-12"}, {"SARTRANSFER_ORBITS": "descending-unknown"}, None),
    ],
)  # fmt: skip
def test_images_of_other_orbits_are_told_of(call, tmp_path, before, after, told):
    files = pair(tmp_path, *decibels(), tags=(before, after))
    code, _, err = call("prepare", "flood", *files, "-o", tmp_path / "m.tif")
    assert code == 0, err
    for words in (" ".join(err.split()), tags_of(tmp_path / "m.tif")["SARTRANSFER_WARNINGS"]):
        assert ("differences of geometry look like change" in words) == (told is not None)
        assert told is None or told in words


def test_speckle_that_was_filtered_already_is_told_of(tmp_path):
    def run(*names, settings=PRACTICES["un_spider"]):
        tags = [{"SARTRANSFER_SPECKLE": json.dumps({"name": n, "size": 7})} if n else {} for n in names]
        files = pair(tmp_path, *decibels(), tags=tags, overwrite=True)
        made = prepare_flood(*files, tmp_path / "m.tif", settings=settings, overwrite=True)
        assert made.warnings[-2:] == NO_LAYERS
        return made.warnings[:-2]

    assert run("none", "none") == run(None, None) == run(None, "none") == ()
    assert run("lee", "lee") == tuple(
        f"scene '{n}' was filtered already (lee), and the rule filters it again (focal_mean)"
        for n in ("before", "after")
    )
    assert run("none", "frost")[1].startswith("before was filtered by none, after by frost")
    unfiltered = FuzzySettings()  # its images come filtered
    assert unfiltered.speckle.name == "none"
    assert run("lee", "lee", settings=replace(DB_DROP, speckle=unfiltered.speckle)) == ()
    files = pair(tmp_path, *decibels(), tags=({"SARTRANSFER_SPECKLE": "["},) * 2, overwrite=True)
    assert prepare_flood(*files, tmp_path / "m.tif", overwrite=True).warnings == NO_LAYERS
