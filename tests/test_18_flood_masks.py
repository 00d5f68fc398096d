"""Flood masks: the practice worked by hand, thresholds against brute force, and windows against the whole."""

import json
import math
import shutil
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from scipy import ndimage

from sartransfer.errors import InputError, OutputError, UnitError
from sartransfer.geotiff import open_geotiff, write_geotiff
from sartransfer.prepare import flood as flood_module
from sartransfer.prepare.flood import prepare_flood
from sartransfer.prepare.flood_pair import open_flood_pair
from sartransfer.prepare.tiles import pair_catalog
from sartransfer.radar.connected import connected_counts
from sartransfer.radar.flood import (
    LEGEND,
    PRACTICES,
    UN_SPIDER,
    FloodSettings,
    Layers,
    Rule,
    Slope,
    SlopeUnit,
    convert_slope,
    decide,
    flood_levels,
    flood_strength,
    ground_rules,
    map_flood,
    sensitivity,
    smooth_db,
)
from sartransfer.radar.flood_baselines import (
    OtsuRule,
    StretchedRule,
    count_pair,
    fit_otsu_rule,
    fit_stretched_rule,
)
from sartransfer.radar.fuzzy import (
    CAPS_DB,
    DB_EDGES,
    FuzzySettings,
    WaterLimits,
    combine_water,
    count_below,
    count_heights,
    fuzzy_water,
    hand_limits,
    low_tiles,
    median_below,
    slope_degrees,
    water_threshold,
    water_to_flood,
    z_membership,
)
from sartransfer.radar.speckle import SpeckleFilter, focal_mean
from sartransfer.radar.thresholds import (
    METHODS,
    Threshold,
    bimodality,
    bin_edges,
    find_threshold,
    histogram,
    kittler_illingworth,
    otsu,
    quantile,
    tile_histograms,
)
from sartransfer.radar.units import UNKNOWN, parse_unit
from sartransfer.scene import ArraySource, Band, GeoReference, Scene, Window

DB = parse_unit("sigma0_db")
POWER = parse_unit("sigma0")
PIXEL = (10.0, 10.0)
PLAIN = replace(UN_SPIDER, speckle=SpeckleFilter("none"), min_connected=1)
DEGREES, PERCENT = SlopeUnit.DEGREES, SlopeUnit.PERCENT


# --- the recommended practice


def test_the_ratio_of_decibels_is_the_quirk_that_it_is():
    """-8 -> -10 dB is a drop of 2 dB, -16 -> -20 of 4; both are exactly 1.25, and above it only what falls further."""
    before = np.array([[-8, -8, -16, -16, -20, 3, -5, 0, -0.5]], np.float32)
    after = np.array([[-10, -10.1, -20, -20.1, -22, 4, 4, -9, -3]], np.float32)
    found = map_flood(before, after, DB, pixel_size=PIXEL, settings=PLAIN)
    assert found.provenance.tolist() == [[0, 1, 0, 1, 0, 1, 0, 0, 1]]
    # 3 -> 4 dB grew brighter and is flagged by the practice as written; that is said.
    assert "2 pixels are of 0 dB or more" in found.warnings[-1]
    drop = replace(PLAIN, measure="db_drop", threshold=3.0)
    assert map_flood(before, after, DB, pixel_size=PIXEL, settings=drop).mask.tolist() == [
        [0, 0, 1, 1, 0, 0, 0, 1, 0]
    ]


def test_every_step_of_the_practice_by_hand():
    """No filter: columns flagged or not, one rule after the other in the order of the script."""
    before = np.full((6, 12), -12.0, np.float32)
    after = np.full((6, 12), -12.0, np.float32)
    after[:4, :5] = -18.0  # 20 pixels
    after[5, 0] = -18.0  # one alone
    after[:, 8:] = -18.0  # 24 pixels, of which 16 on permanent water leave 8
    before[2, 3] = np.nan
    seasonality = np.zeros((6, 12), np.float32)
    seasonality[:4, 8:] = 10
    seasonality[0, 0] = 9
    seasonality[0, 1] = np.nan
    slope = np.zeros((6, 12), np.float32)
    slope[4:, 11] = 5.0
    slope[4, 10] = 4.999
    slope[1, 0] = np.nan
    layers = Layers(seasonality, slope, DEGREES)
    settings = replace(UN_SPIDER, speckle=SpeckleFilter("none"))
    found = map_flood(before, after, DB, pixel_size=PIXEL, settings=settings, layers=layers)
    expected = np.zeros((6, 12), int)
    expected[:4, :5] = Rule.FLOODED
    expected[5, 0] = Rule.FEW_CONNECTED
    expected[:4, 8:] = Rule.PERMANENT_WATER
    expected[4:, 8:] = Rule.FLOODED
    expected[4:, 11] = Rule.STEEP  # they counted as connected: 8 with them, 6 without
    expected[1, 0] = Rule.SLOPE_UNKNOWN
    expected[2, 3] = Rule.NO_VALUE
    assert np.array_equal(found.provenance, expected)
    assert found.mask[2, 3] == 255
    assert found.mask[0, 0] == 1
    assert found.mask[5, 0] == 0
    assert found.warnings == ()
    assert sum(found.counts().values()) == 72
    assert found.counts()["removed: permanent water"] == 16
    # With one pixel more on permanent water the eight are seven, and all of them go.
    layers.seasonality[4, 8] = 12
    found = map_flood(before, after, DB, pixel_size=PIXEL, settings=settings, layers=layers)
    assert (found.provenance[4:, 8:] == [[2, 3, 3, 3], [3, 3, 3, 3]]).all()


def test_five_degrees_are_not_five_per_cent():
    assert convert_slope(5.0, DEGREES, PERCENT) == pytest.approx(8.7489, abs=1e-4)
    assert convert_slope(5.0, PERCENT, DEGREES) == pytest.approx(2.8624, abs=1e-4)
    before, after = np.full((1, 4), -12.0), np.full((1, 4), -18.0)
    slope = np.array([[2.8, 2.9, 4.9, 5.1]])  # degrees
    for limit, kept in ((Slope(5.0, DEGREES), [1, 1, 1, 0]), (Slope(5.0, PERCENT), [1, 0, 0, 0])):
        settings = replace(PLAIN, max_slope=limit)
        for unit in (DEGREES, PERCENT):
            layers = Layers(slope=convert_slope(slope, DEGREES, unit), slope_unit=unit)
            found = map_flood(before, after, DB, pixel_size=PIXEL, settings=settings, layers=layers)
            assert found.mask.tolist() == [kept]
    with pytest.raises(UnitError, match="slope's unit is not said"):
        Layers(slope=slope)
    with pytest.raises(UnitError, match="degrees, percent"):
        Slope(5.0, "deg")
    assert PRACTICES["un_spider"].max_slope == Slope(5.0, DEGREES)
    assert PRACTICES["un_spider_5_percent"].max_slope == Slope(5.0, PERCENT)


def test_the_practice_takes_the_mean_of_decibels_and_offers_that_of_power():
    db = np.full((30, 30), -20.0, np.float32)
    db[15, 15] = 0.0
    as_written = smooth_db(db, DB, UN_SPIDER.speckle, UN_SPIDER.mean_of, pixel_size=PIXEL)
    assert as_written[15, 15] == pytest.approx((-20.0 * 80 + 0) / 81)
    power = smooth_db(db, DB, UN_SPIDER.speckle, "power", pixel_size=PIXEL)
    assert power[15, 15] == pytest.approx(10 * math.log10((0.01 * 80 + 1) / 81), abs=1e-5)
    # 50 m are 5 pixels of 10 m, 2 of 25 m
    assert as_written[15, 20] == as_written[15, 15]
    assert as_written[15, 21] == -20.0
    coarse = smooth_db(db, DB, UN_SPIDER.speckle, "db", pixel_size=(25.0, 25.0))
    assert coarse[15, 17] > -20.0
    assert coarse[15, 18] == -20.0
    # A zero has no decibel: left out in dB, a value in power.
    linear = (10 ** (db / 10)).astype(np.float32)
    linear[15, 15] = 0.0
    out = smooth_db(linear, POWER, UN_SPIDER.speckle, "db", pixel_size=PIXEL)
    assert np.isnan(out[15, 15])
    assert out[15, 16] == pytest.approx(-20.0, abs=1e-5)
    out = smooth_db(linear, POWER, UN_SPIDER.speckle, "power", pixel_size=PIXEL)
    assert out[15, 15] == pytest.approx(10 * math.log10(0.01 * 80 / 81), abs=1e-5)


def test_units_are_asked_for():
    ones = np.full((9, 9), 0.1, np.float32)
    for name in ("digital_number", "optical", "intensity", "amplitude", "incidence_angle_deg"):
        with pytest.raises(UnitError, match="cannot be told from"):
            map_flood(ones, ones, parse_unit(name), pixel_size=PIXEL)
    with pytest.raises(UnitError, match="unknown by db_ratio"):
        map_flood(ones, ones, UNKNOWN, pixel_size=PIXEL)
    drop = replace(PLAIN, measure="db_drop", threshold=3.0)
    for name in ("digital_number", "unknown", "amplitude_log2"):
        with pytest.raises(UnitError, match="cannot be told from"):
            map_flood(ones, ones, parse_unit(name), pixel_size=PIXEL, settings=drop)
    # Amplitude and intensity have a difference in dB, and it is the same.
    dark = ones * 0.25
    for name in ("amplitude", "intensity", "gamma0", "beta0", "sigma0"):
        unit = parse_unit(name)
        found = map_flood(ones, dark, unit, pixel_size=PIXEL, settings=drop)
        assert found.mask.all(), name
        half = map_flood(ones, ones * 0.6, unit, pixel_size=PIXEL, settings=drop)
        assert bool(half.mask.all()) == (name == "amplitude")  # 4.4 dB of amplitude, 2.2 of power
    # Linear and dB of the same scene give the same map.
    rng = np.random.default_rng(0)
    before, after = rng.gamma(4, 0.02, (2, 40, 40)).astype(np.float32)
    for settings in (UN_SPIDER, drop):
        one = map_flood(before, after, POWER, pixel_size=PIXEL, settings=settings)
        two = map_flood(10 * np.log10(before), 10 * np.log10(after), DB, pixel_size=PIXEL, settings=settings)
        assert (one.provenance != two.provenance).mean() < 0.002  # what lies on the threshold, to rounding


def test_slopes_and_months_that_cannot_be_are_refused():
    before, after = np.full((4, 4), -12.0, np.float32), np.full((4, 4), -18.0, np.float32)

    def found(**layers):
        return map_flood(before, after, DB, pixel_size=PIXEL, settings=PLAIN, layers=Layers(**layers))

    def but_one(value, others=3.0):
        values = np.full((4, 4), others, np.float32)
        values[2, 1] = value
        return values

    for slope, unit, words in (
        (150.0, DEGREES, "slope reaches 150: in degrees it is 90 at most"),
        (-9999.0, DEGREES, "slope falls to -9999: .*unmarked nodata"),
        (-1.0, PERCENT, "slope falls to -1"),
    ):
        with pytest.raises(InputError, match=words):
            found(slope=but_one(slope), slope_unit=unit)
    with pytest.raises(InputError, match=r"seasonality falls to -9999: .*unmarked nodata"):
        found(seasonality=but_one(-9999.0))
    assert found(slope=but_one(150.0), slope_unit=PERCENT).counts() == {"flooded": 15, "removed: slope": 1}
    assert (
        found(slope=but_one(np.nan), slope_unit=DEGREES).counts()["removed: no slope or height is known"] == 1
    )
    assert found(seasonality=but_one(np.nan)).counts() == {"flooded": 16}
    nothing = np.full((4, 4), np.nan, np.float32)
    assert found(slope=nothing, slope_unit=DEGREES, seasonality=nothing).warnings == ()
    # Radians: no slope reaches more than a right angle, 1.571. Level ground and per cent are not asked.
    for value, unit, odd in (
        (0.9, DEGREES, True),
        (1.6, DEGREES, False),
        (0.0, DEGREES, False),
        (0.9, PERCENT, False),
    ):
        warnings = found(slope=but_one(value, 0.0), slope_unit=unit).warnings
        assert any("is it in radians" in w for w in warnings) == odd, (value, unit)


def test_what_does_not_fit_is_refused():
    good = np.full((4, 4), -10.0, np.float32)
    with pytest.raises(InputError, match="one grid"):
        map_flood(good, good[:3], DB, pixel_size=PIXEL)
    with pytest.raises(InputError, match="seasonality reaches 80: it counts months"):
        map_flood(good, good, DB, pixel_size=PIXEL, layers=Layers(np.full((4, 4), 80.0)))
    with pytest.raises(InputError, match="slope is"):
        map_flood(good, good, DB, pixel_size=PIXEL, layers=Layers(slope=good[:2], slope_unit=DEGREES))
    for bad, word in (
        ({"measure": "ratio"}, "measure"),
        ({"threshold": "otsu"}, "two populations"),
        ({"measure": "db_drop", "threshold": "otzu"}, "otsu"),
        ({"threshold": float("nan")}, "finite"),
        ({"mean_of": "log"}, "mean_of"),
        ({"speckle": SpeckleFilter("lee")}, "linear power"),
        ({"permanent_months": 13}, "permanent_months"),
        ({"min_connected": 0}, "min_connected"),
        ({"tile": 2}, "tile"),
    ):
        with pytest.raises(InputError, match=word):
            FloodSettings(**bad)
    found = map_flood(good, good, DB, pixel_size=PIXEL)
    assert found.warnings == (
        "permanent water was not removed: no seasonality is given",
        "slopes were not removed: no slope is given",
    )


# --- connected pixels


@pytest.mark.parametrize("neighbours", [4, 8])
@pytest.mark.parametrize("band", [1, 2, 7, 64])
@pytest.mark.parametrize("share", [0.1, 0.45, 0.62])
def test_connected_pixels_are_counted_exactly_across_bands(neighbours, band, share):
    flagged = np.random.default_rng(int(100 * share)).random((40, 33)) < share
    labels, _ = ndimage.label(flagged, np.ones((3, 3)) if neighbours == 8 else None)
    sizes = np.bincount(labels.ravel())
    expected = np.where(flagged, np.minimum(sizes[labels], 200), 0)
    assert np.array_equal(connected_counts(flagged, 200, neighbours=neighbours, band=band), expected)


def test_a_spiral_across_every_band_is_one_region():
    flagged = np.zeros((21, 21), dtype=bool)
    y, x, dy, dx = 0, 0, 0, 1
    for length in (20, 20, 20, 20, 18, 18, 16, 16, 14, 14, 12, 12):
        for _ in range(length):
            flagged[y, x] = True
            y, x = y + dy, x + dx
        dy, dx = dx, -dy
    total = int(flagged.sum())
    assert 100 < total < 255
    for band in (1, 3, 21):
        assert (connected_counts(flagged, band=band, neighbours=4)[flagged] == total).all()
    assert (connected_counts(flagged, 8, band=4)[flagged] == 8).all()
    assert not connected_counts(np.zeros((5, 5), bool)).any()
    with pytest.raises(InputError, match="neighbours"):
        connected_counts(flagged, neighbours=6)
    with pytest.raises(InputError, match="cap"):
        connected_counts(flagged, 256)


# --- thresholds


def brute_force(method, values, edges):
    """The best cut of binned values: every edge tried, classes as lists of numbers."""
    middles = (edges[:-1] + edges[1:]) / 2
    binned = middles[np.digitize(values, edges) - 1]
    width = edges[1] - edges[0]
    scores = {}
    for edge in edges[1:-1]:
        low, high = binned[binned < edge], binned[binned > edge]
        if not (len(low) and len(high)):
            continue
        p, q = len(low) / len(binned), len(high) / len(binned)
        if method == "otsu":
            scores[edge] = -p * q * (low.mean() - high.mean()) ** 2
        else:
            s, t = (math.sqrt(c.var() + width**2 / 12) for c in (low, high))
            scores[edge] = (
                1 + 2 * (p * math.log(s) + q * math.log(t)) - 2 * (p * math.log(p) + q * math.log(q))
            )
    return scores


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(6))
def test_thresholds_are_the_best_of_all(method, seed):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(-8, 1.5, 300 + 100 * seed), rng.normal(0, 1 + seed / 3, 700)])
    edges = bin_edges(-20, 20, 0.5)
    scores = brute_force(method, values, edges)
    found = METHODS[method](histogram(values, edges), edges)
    best = min(scores.values())
    ties = [e for e, s in scores.items() if s <= best + 1e-12]
    assert ties[0] <= found <= ties[-1]
    assert found == pytest.approx((ties[0] + ties[-1]) / 2)


def test_over_an_empty_valley_the_middle_is_taken():
    edges = bin_edges(0, 10, 1)
    counts = np.array([5, 3, 0, 0, 0, 0, 4, 6, 0, 0])
    assert otsu(counts, edges) == 4.0
    assert kittler_illingworth(counts, edges) == 4.0
    for method in METHODS.values():
        with pytest.raises(InputError, match="one bin"):
            method(np.array([0, 9, 0, 0, 0, 0, 0, 0, 0, 0]), edges)


def test_minimum_error_is_near_the_crossing_of_two_normal_distributions_and_otsu_is_not():
    """A small, narrow flood and wide land: the cut of least error, where both densities cross, from a closed form."""
    rng = np.random.default_rng(0)
    p, m0, s0, m1, s1 = 0.15, 9.0, 1.0, 0.0, 2.0
    values = np.concatenate([rng.normal(m0, s0, 15_000), rng.normal(m1, s1, 85_000)])
    edges = bin_edges(-30, 30, 0.1)
    a = 1 / s1**2 - 1 / s0**2
    b = 2 * (m0 / s0**2 - m1 / s1**2)
    c = m1**2 / s1**2 - m0**2 / s0**2 + 2 * math.log(p / (1 - p) * s1 / s0)
    crossing = next(float(r) for r in np.roots([a, b, c]) if m1 < r < m0)
    counts = histogram(values, edges)
    assert kittler_illingworth(counts, edges) == pytest.approx(crossing, abs=0.3)
    assert abs(otsu(counts, edges) - crossing) > 1.0


def test_one_population_is_told_from_two():
    rng = np.random.default_rng(1)
    edges = bin_edges(-30, 30, 0.1)
    for values in (rng.normal(0, 2, 50_000), rng.uniform(-5, 5, 50_000), rng.gumbel(0, 2, 50_000)):
        for method in METHODS.values():
            counts = histogram(values, edges)
            share, gain = bimodality(counts, edges, method(counts, edges))
            assert gain < 0.02 or share < 0.1
    # The closed form for a normal distribution cut in its middle: -2 ln(2 sqrt(1 - 2 / pi))
    counts = histogram(rng.normal(0, 2, 400_000), edges)
    assert bimodality(counts, edges, 0.0)[1] == pytest.approx(
        -2 * math.log(2 * math.sqrt(1 - 2 / math.pi)), abs=0.01
    )
    apart = np.concatenate([rng.normal(0, 1, 50_000), rng.normal(5, 1, 50_000)])
    counts = histogram(apart, edges)
    assert bimodality(counts, edges, 2.5)[1] == pytest.approx(math.log(1 + 25 / 4) - 2 * math.log(2), abs=0.1)
    assert bimodality(counts, edges, -29.9) == (0.0, float("-inf"))


def test_histograms_of_tiles_are_those_of_cut_out_tiles_and_add_up():
    rng = np.random.default_rng(2)
    values = rng.normal(0, 12, (50, 37)).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = np.nan
    edges = bin_edges(-20, 20, 1.0)
    tiles = tile_histograms(values, edges, 16)
    assert tiles.shape == (4, 3, 40)
    for r, c in np.ndindex(4, 3):
        part = values[16 * r : 16 * r + 16, 16 * c : 16 * c + 16]
        known = np.clip(part[np.isfinite(part)].astype(float), -20, 19.999)  # what lies outside: end bins
        assert np.array_equal(tiles[r, c], np.histogram(known, edges)[0])
    assert np.array_equal(tiles.sum(axis=(0, 1)), histogram(values, edges))
    for share in (0.01, 0.25, 0.5, 0.9):
        inside = values[np.isfinite(values) & (np.abs(values) < 19)]
        assert quantile(histogram(inside, edges), edges, share) == pytest.approx(
            np.quantile(inside, share), abs=0.15
        )


def test_a_threshold_is_found_on_the_tiles_that_have_two_populations():
    rng = np.random.default_rng(3)
    values = rng.normal(0, 1, (160, 160))
    values[20:60, 20:60] += 8.0  # 6 % of the image, half of four tiles or less
    edges = bin_edges(-30, 30, 0.1)
    found = find_threshold(tile_histograms(values, edges, 40), edges, "kittler_illingworth", tile_pixels=1600)
    assert 2.5 < found.value < 5.5
    assert (found.tiles, found.tiles_seen) == (4, 16)
    assert found.gain > 0
    with pytest.raises(InputError, match="none of 16 tiles has two populations"):
        find_threshold(
            tile_histograms(rng.normal(0, 1, (160, 160)), edges, 40), edges, "otsu", tile_pixels=1600
        )
    with pytest.raises(InputError, match="threshold method"):
        find_threshold(np.zeros((1, 1, 600), int), edges, "mean", tile_pixels=1)


@pytest.mark.parametrize("method", METHODS)
def test_what_grew_brighter_gives_no_threshold_of_a_flood(method):
    """Four fields 6 dB brighter and a flood in one tile: the flood's tile alone says where the threshold lies."""
    rng = np.random.default_rng(0)
    before, after = rng.gamma(4.4, 0.05 / 4.4, (2, 200, 200)).astype(np.float32)
    wet = np.zeros((200, 200), bool)
    wet[10:40, 12:38] = True
    after[wet] /= 10
    dry = after.copy()
    for k in range(4):
        after[90 + 26 * k : 108 + 26 * k, 60:190] *= 4
    settings = replace(PRACTICES[f"log_ratio_{method}"], tile=50, speckle=SpeckleFilter(radius=20.0))
    found = map_flood(before, after, POWER, pixel_size=PIXEL, settings=settings)
    alone = map_flood(before, dry, POWER, pixel_size=PIXEL, settings=settings)
    assert found.threshold == alone.threshold
    assert found.threshold.value > 0
    assert found.threshold.tiles == 1
    assert ((found.mask == 1) != wet).mean() < 0.02
    # Without the flood, and where a flood went away: nothing to find, as in a scene without any change.
    for one, two in ((before, np.where(wet, after * 10, after)), (dry, before)):
        with pytest.raises(
            InputError, match=r"none of 16 tiles .* right side \(\d+ part at 0 or below.*no flood"
        ):
            map_flood(one, two, POWER, pixel_size=PIXEL, settings=settings)
    # The fuzzy rules part decibels, which lie below 0: they ask for no such limit.
    edges = bin_edges(-30, 30, 0.1)
    counts = tile_histograms(np.where(wet, -25.0, -12.0) + rng.normal(0, 1, wet.shape), edges, 50)
    assert find_threshold(counts, edges, method, tile_pixels=2500).value < -15


def test_a_threshold_of_all_tiles_together_lies_above_the_limit_too():
    """Each tile's threshold lies above 0 (5 and 13), that of all together at -5: between -20 and 10."""
    edges = bin_edges(-30, 30, 1.0)
    one, two = np.zeros((2, 60), int)
    one[[1, 10, 59]] = 400, 200, 400
    two[[40, 46]] = 500
    tiles = np.stack([one, *[two] * 5])[None]
    assert [otsu(t, edges) for t in (one, two, tiles.sum(axis=(0, 1)))] == [5.0, 13.5, -4.5]
    with pytest.raises(InputError, match=r"threshold of 6 tiles together is -4\.50, which is not above 0"):
        find_threshold(tiles, edges, "otsu", tile_pixels=1000, above=0.0)


@pytest.mark.parametrize("method", METHODS)
def test_a_simulated_flood_is_mapped_by_the_log_ratio(method):
    before, after, truth = flooded_pair(160)
    settings = replace(PRACTICES[f"log_ratio_{method}"], tile=40)
    found = map_flood(before, after, POWER, pixel_size=PIXEL, settings=settings)
    iou = ((found.mask == 1) & truth).sum() / ((found.mask == 1) | truth).sum()
    assert iou > 0.75  # a disc of 50 m blurs the shore
    assert found.threshold.method == method
    assert 2.0 < found.threshold.value < 9.0  # between the modes at 0 and 10 dB


def flooded_pair(size, seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    truth = (y - size / 2) ** 2 + (x - size / 3) ** 2 < (size / 5) ** 2
    ground = 0.02 * np.exp(0.3 * ndimage.gaussian_filter(rng.normal(size=(size, size)), 6) * 12)
    before = ground * rng.gamma(4.4, 1 / 4.4, (size, size))
    after = np.where(truth, 0.1, 1.0) * ground * rng.gamma(4.4, 1 / 4.4, (size, size))
    return before.astype(np.float32), after.astype(np.float32), truth


# --- sensitivity


def test_the_area_at_each_threshold_is_that_of_the_rule_at_this_threshold():
    before, after, _ = flooded_pair(60)
    thresholds = [1.0, 2.0, 3.0, 5.0, 8.0]
    settings = replace(PRACTICES["db_drop"], speckle=SpeckleFilter(radius=20.0))
    seasonality = np.zeros((60, 60))
    seasonality[20:30, 10:20] = 12
    slope = np.full((60, 60), 1.0)
    slope[:, 25:] = 9.0
    layers = Layers(seasonality, slope, DEGREES)
    one, two = (smooth_db(i, POWER, settings.speckle, "power", pixel_size=PIXEL) for i in (before, after))
    strength = flood_strength(one, two, "db_drop")
    ground = ground_rules(np.isfinite(strength), settings, layers)
    found = sensitivity(flood_levels(strength, thresholds), ground, thresholds, settings, 100.0)
    for t, n, area in zip(thresholds, found.pixels, found.area_km2, strict=True):
        alone = map_flood(
            before, after, POWER, pixel_size=PIXEL, settings=replace(settings, threshold=t), layers=layers
        )
        assert n == (alone.mask == 1).sum()
        assert area == pytest.approx(n * 1e-4)
    assert found.pixels[0] > found.pixels[2] > found.pixels[-1] > 0
    assert found.rows()[1]["threshold"] == 2.0
    # Areas that differ by row
    by_row = sensitivity(flood_levels(strength, [3.0]), ground, [3.0], settings, np.arange(60.0) * 1e6)
    mask = map_flood(before, after, POWER, pixel_size=PIXEL, settings=settings, layers=layers).mask == 1
    assert by_row.area_km2[0] == pytest.approx((mask.sum(axis=1) * np.arange(60)).sum())
    with pytest.raises(InputError, match="ascend"):
        flood_levels(strength, [2.0, 1.0])


# --- fuzzy rules


def test_memberships_are_the_parabolas_of_the_z_function():
    x = np.array([-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 9.0, np.nan])
    expected = [1, 1, 1 - 2 / 16, 0.5, 2 / 16, 0, 0]
    assert z_membership(x, 0.0, 4.0)[:-1] == pytest.approx(expected)
    assert np.isnan(z_membership(x, 0.0, 4.0)[-1])
    assert z_membership(x, 2.0, 2.0)[:-1].tolist() == [1, 1, 1, 1, 0, 0, 0]


def test_the_slope_of_a_plane_is_that_of_the_plane():
    y, x = np.mgrid[:9, :7].astype(float)
    plane = 3.0 * y * 0.02 * 10 + x * 0.05 * 20  # gradients .06 and .05 on pixels of 10 by 20 m
    slope = slope_degrees(plane, (10.0, 20.0))
    assert np.allclose(slope, math.degrees(math.atan(math.hypot(0.06, 0.05))), atol=1e-4)
    plane[4, 3] = np.nan
    slope = slope_degrees(plane, (10.0, 20.0))
    assert np.isnan(slope[4, 3])
    assert np.isfinite(slope).sum() == 62
    assert np.allclose(slope[np.isfinite(slope)], math.degrees(math.atan(math.hypot(0.06, 0.05))), atol=1e-4)


def test_the_height_limits_are_hydrosars():
    rng = np.random.default_rng(0)
    hand = np.concatenate([np.zeros(500), rng.gamma(2, 6, 5000)])
    kept = hand[hand > 0]
    kept = kept[kept <= np.quantile(kept, 0.9)]
    low, high = hand_limits(count_heights(hand), FuzzySettings())
    assert low == pytest.approx(np.median(kept), abs=0.1)
    assert high == pytest.approx(np.median(kept) + 3 * kept.std() + 5, abs=0.3)


def test_fuzzy_rules_by_hand():
    """Six pixels of one dark region and what removes each; memberships worked by hand."""
    limits = WaterLimits(-26.0, Threshold(-22.0, "given"), (4.0, 12.0))
    db = np.array([[-27, -24, -22.0, -26, -26, -26, -26, -21, np.nan, -26]], np.float32)
    hand = np.array([[0, 8, 8, 12, 1, np.nan, 1, 0, 0, 1.0]])
    slope = np.array([[0, 0, 7.5, 0, 15, 0, 0, 0, 0, 0.0]])
    sizes = np.array([[10, 10, 10, 10, 10, 10, 2, 0, 0, 3]], np.uint8)
    # means: (1+1+1+1)/4; (1+.5+1+.5)/4; (1+.5+.5+0)/4 = .5; ...; a region of 3 pixels: (0+1+1+1)/4
    out = fuzzy_water(db, sizes, hand, slope, limits, FuzzySettings())
    assert out.tolist() == [
        [
            Rule.FLOODED, Rule.FLOODED, Rule.FLOODED, Rule.HIGH_ABOVE_DRAINAGE, Rule.STEEP, Rule.SLOPE_UNKNOWN,
            Rule.FEW_CONNECTED, Rule.DRY, Rule.NO_VALUE, Rule.FLOODED,
        ]
    ]  # fmt: skip
    strict = fuzzy_water(db, sizes, hand, slope, limits, FuzzySettings(membership=0.6))
    assert strict[0, 2] == Rule.LOW_MEMBERSHIP
    assert strict[0, 1] == Rule.FLOODED
    before = np.array([[1, 0, 255, 3]], np.uint8)
    assert water_to_flood(before, np.array([[1, 1, 1, 1]], np.uint8)).tolist() == [[8, 1, 255, 1]]


def water_scene(size=120, seed=0):
    """VH and VV in dB with a lake in a valley, a dark slope, a dark speck, and HAND."""
    rng = np.random.default_rng(seed)
    x = np.broadcast_to(np.arange(float(size)), (size, size))
    hand = np.maximum(np.abs(x - size / 2) - size / 6, 0) * 0.5
    hand[:, -size // 8 :] += np.arange(size // 8) * 8.0  # a steep side
    lake = hand == 0
    dark = lake | (x > size - size // 10)
    dark[3, 3] = True
    images = {
        "VH": np.where(dark, -27.0, -17.0) + rng.normal(0, 0.8, (size, size)),
        "VV": np.where(dark, -20.0, -10.0) + rng.normal(0, 0.8, (size, size)),
    }
    return {k: v.astype(np.float32) for k, v in images.items()}, hand.astype(np.float32), lake


def map_fuzzy_water(images_db, hand_m, settings):
    """The water of one date, all of it at once: provenance (H, W), and the limits found by polarization."""
    limits, maps = {}, []
    for name, db in images_db.items():
        tiles = tile_histograms(db, DB_EDGES, settings.tile)
        threshold = water_threshold(tiles, low_tiles(hand_m, settings), CAPS_DB[name], settings)
        low = median_below(count_below(db, threshold.value))
        limits[name] = WaterLimits(low, threshold, hand_limits(count_heights(hand_m), settings))
        sizes = connected_counts(db <= threshold.value, settings.full_pixels)
        maps.append(fuzzy_water(db, sizes, hand_m, slope_degrees(hand_m, PIXEL), limits[name], settings))
    return combine_water(maps, settings), limits


def test_fuzzy_rules_find_the_lake_and_not_the_dark_slope():
    images, hand, lake = water_scene()
    settings = FuzzySettings(tile=40)
    out, limits = map_fuzzy_water(images, hand, settings)
    assert ((out == Rule.FLOODED) == lake).mean() > 0.98
    assert -26 < limits["VH"].threshold.value <= -23
    assert -19 < limits["VV"].threshold.value <= -15.5
    assert out[3, 3] == Rule.FEW_CONNECTED
    right = out[:, -12:]
    assert not (right == Rule.FLOODED).any()
    assert (right == Rule.HIGH_ABOVE_DRAINAGE).mean() > 0.5
    # No water in the image: the cap holds, and nothing lies below it.
    land = {"VV": np.random.default_rng(0).normal(-8, 1, (120, 120)).astype(np.float32)}
    out, limits = map_fuzzy_water(land, hand, settings)
    assert (out == Rule.DRY).all()
    assert limits["VV"].threshold.value == -15.5
    assert limits["VV"].threshold.method.startswith("cap")


# --- threshold baselines


@pytest.mark.parametrize("kind", ["drop", "after", "both"])
def test_the_stretched_rule_is_the_best_of_all_thresholds(kind):
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, (12, 12))
    labels[0, :3] = 255
    after = np.clip(np.where(labels == 1, 3, 7) + rng.integers(-3, 4, labels.shape), 0, 10)
    before = np.clip(7 + rng.integers(-3, 4, labels.shape), 0, 10)
    pair = np.stack([before, after]).astype(np.uint8)
    valid = rng.random(labels.shape) > 0.1
    rule = fit_stretched_rule(count_pair(pair, labels, valid), parse_unit("digital_number"), kind)
    known = valid & (labels < 2)
    best = 0.0
    for a in range(12) if kind != "drop" else [255]:
        for d in range(-11, 12) if kind != "after" else [-255]:
            flagged = (after <= a) & (before - after >= d)
            both, either = (flagged & (labels == 1))[known].sum(), (flagged | (labels == 1))[known].sum()
            best = max(best, both / either)
    assert rule.iou == pytest.approx(best, abs=1e-12)
    predicted = rule.predict(pair, valid)
    assert (predicted[~valid] == 255).all()
    again = ((predicted == 1) & (labels == 1))[known].sum() / ((predicted == 1) | (labels == 1))[known].sum()
    assert again == pytest.approx(best, abs=1e-12)
    assert (kind == "drop") <= (rule.max_after == 255)
    assert (kind == "after") <= (rule.min_drop == -255)


def test_counts_of_training_pairs_add_up_and_other_units_are_refused():
    rng = np.random.default_rng(6)
    unit = parse_unit("digital_number")
    pairs = [(rng.integers(0, 256, (2, 8, 9)), rng.integers(0, 2, (8, 9))) for _ in range(3)]
    parts = [count_pair(p, m) for p, m in pairs]
    whole = count_pair(np.concatenate([p for p, _ in pairs], 1), np.concatenate([m for _, m in pairs]))
    assert np.array_equal(sum(parts), whole)
    assert fit_stretched_rule(iter(parts), unit) == fit_stretched_rule(whole, unit)
    for other in ("sigma0_db", "unknown", "digital_number_log2"):
        with pytest.raises(UnitError, match="8-bit display values"):
            fit_stretched_rule(whole, parse_unit(other))
    for wrong in (np.full((2, 8, 9), 0.5), np.full((2, 8, 9), 300), np.full((2, 8, 9), -1)):
        with pytest.raises(UnitError, match="8-bit"):
            count_pair(wrong, pairs[0][1])
    with pytest.raises(InputError, match="no flooded training pixel"):
        fit_stretched_rule(count_pair(pairs[0][0], np.zeros((8, 9), int)), unit)
    with pytest.raises(InputError, match="kind"):
        fit_stretched_rule(whole, unit, "ratio")
    with pytest.raises(InputError, match="alike"):
        count_pair(pairs[0][0], np.zeros((8, 8), int))
    with pytest.raises(InputError, match="before, after"):
        StretchedRule(10, 0).predict(np.zeros((3, 4, 4)))


def test_otsu_parts_water_from_land_on_one_date_and_falls_back_where_there_is_none():
    rng = np.random.default_rng(7)
    labels = np.zeros((64, 64), bool)
    labels[:, :25] = True
    scene = np.where(labels, -18, -9) + rng.normal(0, 1.2, (2, 64, 64))
    land = rng.normal(-9, 1.2, (2, 64, 64))
    valid = np.ones((64, 64), bool)
    valid[:4] = False
    rule = fit_otsu_rule([(scene, valid), (land, None)], parse_unit("sigma0_db"), band=1)
    assert rule.fallback == pytest.approx(-13.5, abs=1.0)
    predicted = rule.predict(scene, valid)
    assert (predicted[:4] == 255).all()
    assert ((predicted == 1) == labels)[4:].mean() > 0.995
    assert rule.predict(land).mean() < 0.005
    # Without a fallback Otsu parts land from land.
    assert OtsuRule(1).predict(land).mean() > 0.3
    own = otsu(histogram(scene[1][valid], bin_edges(-45, 5, 0.1)), bin_edges(-45, 5, 0.1))
    assert rule.threshold(scene[1], valid) == own
    assert (rule.predict(np.full((2, 4, 4), np.nan)) == 255).all()
    with pytest.raises(UnitError, match="decibels"):
        fit_otsu_rule([(scene, None)], POWER)


# --- prepare_flood: by windows, on disk


def write_scene(path, bands, unit, place=None):
    place = place or GeoReference("EPSG:32630", (10.0, 0.0, 700_000.0, 0.0, -10.0, 4_400_000.0))
    values = np.stack([np.asarray(v, np.float32) for v in bands.values()])
    write_geotiff(
        path,
        values,
        georeference=place,
        descriptions=list(bands),
        units=[unit] * len(bands),
        nodata=float("nan"),
    )
    return path


def memory_scene(name, bands, unit, time=None):
    values = np.stack([np.asarray(v, np.float32) for v in bands.values()])
    known = [Band(k, parse_unit(unit), k if k in ("VH", "VV") else None) for k in bands]
    place = GeoReference("EPSG:32630", (10.0, 0.0, 700_000.0, 0.0, -10.0, 4_400_000.0))
    return Scene(name, tuple(known), *values.shape[1:], ArraySource(values), place, time=time)


@pytest.fixture(scope="module")
def area(tmp_path_factory):
    """A pair of 150 x 170 pixels with gaps, a seasonality and a slope, as files."""
    folder = tmp_path_factory.mktemp("flood")
    before, after, _ = (i[:150] for i in flooded_pair(170, seed=3))
    before, after = before.copy(), after.copy()
    before[60:64, 40:50], after[0:3, 100:] = np.nan, 0.0
    rng = np.random.default_rng(8)
    seasonality = np.where(ndimage.gaussian_filter(rng.normal(size=before.shape), 5) > 0.05, 11.0, 3.0)
    slope = np.abs(ndimage.gaussian_filter(rng.normal(size=before.shape), 4)) * 60
    slope[100:104, 30:60] = np.nan
    write_scene(folder / "before.tif", {"VV": before * 4, "VH": before}, "sigma0")
    write_scene(folder / "after.tif", {"VH": after, "VV": after * 4}, "sigma0")
    write_scene(folder / "seasonality.tif", {"seasonality": seasonality}, "unknown")
    write_scene(folder / "slope.tif", {"slope": slope}, "unknown")
    return folder, before, after, Layers(seasonality.astype(np.float32), slope.astype(np.float32), DEGREES)


def run(folder, out, **more):
    return prepare_flood(
        folder / "before.tif", folder / "after.tif", out, seasonality=folder / "seasonality.tif",
        slope=folder / "slope.tif", slope_unit=DEGREES, **more,
    )  # fmt: skip


def test_stopped_while_writing_it_leaves_neither_file(area, tmp_path, monkeypatch):
    write = flood_module.write_geotiff

    def stop(path, *words, **options):
        if path.name == "m.tif":
            raise KeyboardInterrupt
        return write(path, *words, **options)

    monkeypatch.setattr(flood_module, "write_geotiff", stop)
    with pytest.raises(KeyboardInterrupt):
        run(area[0], tmp_path / "m.tif")
    assert list(tmp_path.iterdir()) == []


def read(path):
    return open_geotiff(path).source.read([0], Window(0, 0, 150, 170))[0][0]


@pytest.mark.parametrize(
    "settings",
    [
        UN_SPIDER,
        replace(UN_SPIDER, threshold=1.15, speckle=SpeckleFilter(radius=20.0)),
        replace(PRACTICES["log_ratio_kittler_illingworth"], tile=40),
        replace(PRACTICES["log_ratio_otsu"], tile=40),
        FloodSettings(
            "db_drop", 3.0, SpeckleFilter("refined_lee", looks=4.4), "power", max_slope=Slope(5.0, PERCENT)
        ),
        FloodSettings("db_drop", 3.0, SpeckleFilter("gamma_map"), "power"),
    ],
    ids=["un_spider", "20_m", "kittler_illingworth", "otsu", "refined_lee", "gamma_map"],
)
def test_windows_give_the_whole_to_the_last_pixel(settings, area, tmp_path):
    folder, before, after, layers = area
    whole = map_flood(before, after, POWER, pixel_size=PIXEL, settings=settings, layers=layers)
    assert {1, 2, 4, 5, 255} <= set(np.unique(whole.provenance))
    assert Rule.FEW_CONNECTED in whole.provenance or settings.speckle.radius == 50.0
    for window in (57, 4096):
        out = tmp_path / f"w{window}.tif"
        made = run(folder, out, settings=settings, window=window)
        assert np.array_equal(read(made.provenance), whole.provenance), window
        assert np.array_equal(read(made.mask), whole.mask)
        assert made.thresholds[settings.measure] == whole.threshold
        assert made.counts == whole.counts()
        assert sum(made.counts.values()) == before.size  # no pixel without a reason
    assert made.area_km2 == pytest.approx((whole.mask == 1).sum() * 1e-4, rel=1e-3)  # on the ellipsoid


def test_the_files_say_what_was_done(area, tmp_path):
    folder, before, after, layers = area
    seen = []
    made = run(folder, tmp_path / "flood.tif", thresholds=[1.1, 1.5], window=60, progress=seen.append)
    assert seen == [1, 2, 3, 4]  # windows of 100: whole tiles
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["flood-provenance.tif", "flood.tif"]
    assert made.sensitivity.thresholds == (1.1, 1.25, 1.5)
    for threshold, pixels in zip(made.sensitivity.thresholds, made.sensitivity.pixels, strict=True):
        alone = map_flood(
            before,
            after,
            POWER,
            pixel_size=PIXEL,
            settings=replace(UN_SPIDER, threshold=threshold),
            layers=layers,
        )
        assert pixels == (alone.mask == 1).sum()
    import rasterio

    with rasterio.open(made.provenance) as file:
        tags, nodata = file.tags(), file.nodata
        assert file.crs.to_epsg() == 32630
        assert file.transform[:6] == (10.0, 0.0, 700_000.0, 0.0, -10.0, 4_400_000.0)
    legend = dict(p.split("=", 1) for p in tags["SARTRANSFER_LEGEND"].split("; "))
    assert {int(k): v for k, v in legend.items()} == LEGEND
    assert nodata is None
    assert json.loads(tags["SARTRANSFER_FLOOD"])["max_slope"] == {"limit": 5.0, "unit": "degrees"}
    with rasterio.open(made.mask) as file:
        assert file.nodata == 255
        assert file.tags()["SARTRANSFER_CLASSES"] == "0=dry,1=flooded"
    with pytest.raises(OutputError, match="exists"):
        run(folder, tmp_path / "flood.tif")
    again = run(folder, tmp_path / "flood.tif", overwrite=True)
    assert again.counts == made.counts
    with pytest.raises(OutputError, match=r"\.tif"):
        run(folder, tmp_path / "flood.png")
    with pytest.raises(OutputError, match="would be lost"):
        run(folder, folder / "after.tif", overwrite=True)
    with pytest.raises(OutputError, match="no folder"):
        run(folder, tmp_path / "there" / "flood.tif")


def test_both_files_are_written_or_none(area, tmp_path, monkeypatch):
    import sartransfer.prepare.flood as module

    real = module.write_geotiff

    def full(path, *given, **more):
        if path.name == "flood.tif":
            raise OutputError("the disk is full")
        return real(path, *given, **more)

    monkeypatch.setattr(module, "write_geotiff", full)
    with pytest.raises(OutputError, match="full"):
        run(area[0], tmp_path / "flood.tif")
    assert not list(tmp_path.iterdir())


def test_scenes_that_do_not_go_together_are_refused(area, tmp_path):
    folder, before, after, _ = area
    out = tmp_path / "flood.tif"
    flood = memory_scene("after", {"VH": after}, "sigma0")
    with pytest.raises(UnitError, match=r"scene 'before': the unit of band 'VH' is not known"):
        prepare_flood(memory_scene("before", {"VH": before}, "unknown"), flood, out)
    display = [memory_scene(n, {"VH": before}, "digital_number") for n in ("before", "after")]
    with pytest.raises(UnitError, match="cannot be told from digital_number"):
        prepare_flood(*display, out)
    with pytest.raises(UnitError, match="before is gamma0, after sigma0"):
        prepare_flood(memory_scene("before", {"VH": before}, "gamma0"), flood, out)
    with pytest.raises(InputError, match="before is VV, after VH"):
        prepare_flood(memory_scene("before", {"VV": before}, "sigma0"), flood, out)
    with pytest.raises(InputError, match="has no bands that are 'HH'"):
        prepare_flood(memory_scene("before", {"VH": before, "VV": before}, "sigma0"), flood, out, band="HH")
    with pytest.raises(InputError, match="has 149 x 170 pixels"):
        prepare_flood(memory_scene("before", {"VH": before[1:]}, "sigma0"), flood, out)
    with pytest.raises(UnitError, match="degrees or percent"):
        prepare_flood(folder / "before.tif", flood, out, slope=folder / "slope.tif")
    moved = GeoReference("EPSG:32630", (10.0, 0.0, 700_010.0, 0.0, -10.0, 4_400_000.0))
    elsewhere = GeoReference("EPSG:32631", (10.0, 0.0, 700_000.0, 0.0, -10.0, 4_400_000.0))
    for place in (moved, elsewhere):
        with pytest.raises(InputError, match="do not lie on one grid"):
            prepare_flood(
                replace(memory_scene("before", {"VH": before}, "sigma0"), georeference=place), flood, out
            )
    early, late = datetime(2024, 10, 19, tzinfo=UTC), datetime(2024, 10, 31, tzinfo=UTC)
    with pytest.raises(InputError, match="swapped"):
        prepare_flood(memory_scene("before", {"VH": before}, "sigma0", late), replace(flood, time=early), out)
    nowhere = [replace(memory_scene(n, {"VH": before}, "sigma0"), georeference=GeoReference()) for n in "ab"]
    with pytest.raises(InputError, match="pixel_size"):
        prepare_flood(*nowhere, out)
    with pytest.raises(InputError, match="no pixel has a value"):
        prepare_flood(memory_scene("before", {"VH": before * np.nan}, "sigma0"), flood, out)
    with pytest.raises(InputError, match="need the height above"):
        prepare_flood(flood, flood, out, settings=FuzzySettings())
    assert not list(tmp_path.iterdir())
    made = prepare_flood(*nowhere, out, pixel_size=(20.0, 10.0))
    assert made.area_km2 == 0.0
    assert len(made.warnings) == 2


def test_files_that_fetch_dated_are_not_taken_for_each_other(area, tmp_path):
    """`fetch flood` writes the times of its passes as a tag, SARTRANSFER_TIMES."""
    import rasterio

    folder, *_ = area
    paths = [tmp_path / "one.tif", tmp_path / "two.tif"]
    for path, day in zip(paths, ("19", "31"), strict=True):
        shutil.copy(folder / "before.tif", path)
        with rasterio.open(path, "r+") as file:
            file.update_tags(SARTRANSFER_TIMES=f"2024-10-{day}T06:12:54Z 2024-10-{day}T06:13:19Z")
    out = tmp_path / "flood.tif"
    with pytest.raises(InputError, match=r"before is of 2024-10-31.*, after of 2024-10-19.*swapped"):
        prepare_flood(paths[1], paths[0], out)
    with pytest.raises(InputError, match="swapped"):
        pair_catalog({"po": (paths[1], paths[0], folder / "seasonality.tif")})
    with pytest.raises(InputError, match=r"both .*one\.tif: give two files"):
        prepare_flood(paths[0], tmp_path / "." / "one.tif", out)
    assert not out.exists()
    assert prepare_flood(*paths, out).area_km2 == 0.0


def test_pixel_sizes_are_true_in_degrees_and_in_mercator():
    """Against the length of a degree at 39 degrees north on WGS84: 111,014.6 m north, 86,628.2 m east."""
    values = {"VH": np.ones((40, 30))}
    degrees = GeoReference("EPSG:4326", (0.0001, 0.0, -0.4, 0.0, -0.0001, 39.002))
    scene = replace(memory_scene("a", values, "sigma0"), georeference=degrees)
    pair = open_flood_pair(scene, scene, {})
    assert pair.pixel_size == pytest.approx((11.1015, 8.6628), rel=2e-4)
    areas = pair.areas(0, 40)
    assert areas == pytest.approx(11.1015 * 8.6628, rel=5e-4)
    assert (areas[0] < areas[-1]).all()  # southwards pixels grow
    radius = 20037508.342789244
    north = radius * math.log(math.tan(math.radians(90 + 39.0) / 2)) / math.pi
    mercator = GeoReference("EPSG:3857", (10.0, 0.0, 0.0, 0.0, -10.0, north + 200))
    pair = open_flood_pair(*[replace(scene, georeference=mercator)] * 2, {})
    scale = (111_014.6 / 111_319.49 * math.cos(math.radians(39)), 86_628.2 / 111_319.49)
    assert pair.pixel_size == pytest.approx([10 * s for s in scale], rel=5e-4)
    # UTM is within .1 per cent of the truth: a filter takes it at its word, the area does not.
    pair = open_flood_pair(*[memory_scene("a", values, "sigma0")] * 2, {})
    assert pair.pixel_size == (10.0, 10.0)
    areas = pair.areas(0, 40)
    east = 700_000 + 10 * (np.arange(30) + 0.5) - 500_000
    scale = 0.9996 * (
        1 + east**2 / (2 * 6_378_000.0**2)
    )  # of a transverse Mercator projection, to a few 1e-6
    assert np.abs(areas * scale**2 / 100 - 1).max() < 1e-5


def test_fuzzy_rules_by_windows_are_those_of_the_whole(tmp_path):
    after, hand, _ = water_scene()
    rng = np.random.default_rng(9)
    hand += rng.uniform(0, 5, hand.shape).astype(
        np.float32
    )  # steep here and there, also at the edges of windows
    before = {
        k: np.where(np.arange(120) < 50, v, v[:, :1]) + rng.normal(0, 0.1, v.shape) for k, v in after.items()
    }
    after["VH"][10:14, 50:60] = np.nan
    before = {k: v.astype(np.float32) for k, v in before.items()}
    settings = FuzzySettings(tile=40)
    scenes = [memory_scene(n, b, "gamma0_db") for n, b in (("before", before), ("after", after))]
    ground = memory_scene("hand", {"hand": hand}, "unknown")
    months = np.zeros((120, 120))
    months[80:90] = 12
    seasonality = memory_scene("seasonality", {"seasonality": months}, "unknown")
    maps = []
    for images in (before, after):
        # As the driver has them: through float32 power and back.
        unit = parse_unit("gamma0_db")
        images = {
            k: smooth_db(v, unit, SpeckleFilter("none"), "power", pixel_size=PIXEL) for k, v in images.items()
        }
        maps.append(map_fuzzy_water(images, hand, settings)[0])
    whole = water_to_flood(*maps)
    whole[(months == 12) & (whole == Rule.FLOODED)] = Rule.PERMANENT_WATER
    for window in (40, 80, 500):
        made = prepare_flood(
            *scenes,
            tmp_path / f"{window}.tif",
            settings=settings,
            hand=ground,
            seasonality=seasonality,
            window=window,
        )
        provenance = open_geotiff(made.provenance).source.read([0], Window(0, 0, 120, 120))[0][0]
        assert np.array_equal(provenance, whole)
    assert {0, 1, 2, 3, 4, 6, 8} <= set(np.unique(whole))
    assert set(made.thresholds) == {"before VH", "before VV", "after VH", "after VV"}
    wrong = [memory_scene(n, b, "intensity_db") for n, b in (("before", before), ("after", after))]
    with pytest.raises(UnitError, match="water cannot be told from intensity_db"):
        prepare_flood(*wrong, tmp_path / "x.tif", settings=settings, hand=ground)
    one = memory_scene("before", {"VV": before["VV"]}, "gamma0_db")
    made = prepare_flood(one, scenes[1], tmp_path / "vv.tif", settings=settings, hand=ground)
    assert set(made.thresholds) == {"before VV", "after VV"}  # only what both dates have is compared
    with pytest.raises(InputError, match="is in both scenes"):
        prepare_flood(
            one,
            memory_scene("a", {"VH": after["VH"]}, "gamma0_db"),
            tmp_path / "x.tif",
            settings=settings,
            hand=ground,
        )
    others = [memory_scene(s.id, {"HH": before["VV"]}, "gamma0_db") for s in scenes]
    with pytest.raises(InputError, match="no band of VV or VH is in both scenes"):
        prepare_flood(*others, tmp_path / "x.tif", settings=settings, hand=ground)
    with pytest.raises(InputError, match="thresholds"):
        prepare_flood(*scenes, tmp_path / "x.tif", settings=settings, hand=ground, thresholds=[1.0])


def test_the_mean_of_the_focal_filter_is_used_as_it_stands():
    db = np.random.default_rng(0).normal(-12, 2, (30, 30)).astype(np.float32)
    out = smooth_db(db, DB, UN_SPIDER.speckle, "db", pixel_size=PIXEL)
    assert np.array_equal(out, focal_mean(db, radius=5.0))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        UN_SPIDER,
        PRACTICES["db_drop"],
        PRACTICES["log_ratio_otsu"],
        FloodSettings(
            "db_drop", 3.0, SpeckleFilter("lee"), mean_of="power"
        ),  # with looks estimated: never in strips
        FloodSettings("db_drop", 3.0, SpeckleFilter("frost"), mean_of="power"),
    ],
)
def test_strips_of_rows_give_what_all_at_once_gives(monkeypatch, settings, threads):
    """Each step on the whole arrays, and then by strips of two rows in several threads: the same to the bit."""
    rng = np.random.default_rng(8)
    shape = (130, 101)
    before, after = (0.1 * rng.gamma(4.4, 1 / 4.4, shape) for _ in range(2))
    after[20:60, 30:80] *= 0.1
    before[90:100, :30] = 4.0  # above 0 dB, where the ratio of the practice means nothing
    valid = rng.random(shape) > 0.05
    layers = Layers(12.0 * (rng.random(shape) < 0.05), 7 * rng.random(shape), DEGREES)
    size = (25.0, 20.0)
    one, two = (
        smooth_db(x, POWER, settings.speckle, settings.mean_of, valid=valid, pixel_size=size)
        for x in (before, after)
    )
    strength = flood_strength(one, two, settings.measure)
    given = settings.threshold
    if isinstance(given, str):
        given = otsu_of_tiles(strength, settings.tile)
    levels = flood_levels(strength, [given])
    expected = decide(levels, ground_rules(np.isfinite(strength), settings, layers), settings)
    monkeypatch.setattr("sartransfer.radar.flood.STRIP", 2 * shape[1])
    monkeypatch.setattr("sartransfer.compiled.thread_count", lambda: threads)
    found = map_flood(before, after, POWER, pixel_size=size, settings=settings, layers=layers, valid=valid)
    assert np.array_equal(found.provenance, expected)
    assert found.threshold.value == given
    assert (np.array(expected) == Rule.FLOODED).sum() > 500
    positive = int((one >= 0).sum())
    assert positive > 0
    assert any(w.startswith(f"{positive} pixels") for w in found.warnings) == (settings.measure == "db_ratio")


def otsu_of_tiles(strength, tile):
    edges = bin_edges(-30.0, 30.0, 0.1)
    return find_threshold(tile_histograms(strength, edges, tile), edges, "otsu", tile_pixels=tile**2).value


def test_images_without_a_pixel_are_refused():
    empty = np.zeros((0, 4))
    with pytest.raises(InputError, match="at least one pixel"):
        map_flood(empty, empty, DB, pixel_size=PIXEL)
