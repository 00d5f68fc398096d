"""Ice charts: codes against the published tables, rasters against shapely, buffers and dominance by hand."""

import itertools
import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import shapely

from sartransfer.errors import InputError, OutputError
from sartransfer.geotiff import open_geotiff, write_geotiff
from sartransfer.prepare.icechart import prepare_icechart
from sartransfer.prepare.icechart_time import parse_span
from sartransfer.radar.icechart import (
    CLASSES,
    FLOE_CLASSES,
    STAGE_CLASSES,
    Columns,
    IcePolygon,
    Part,
    Reason,
    choose_columns,
    label_value,
    parse_polygon_codes,
    read_polygons,
)
from sartransfer.radar.sigrid3 import (
    CONCENTRATIONS,
    FORMS,
    NOT_FILLED,
    STAGES,
    Kind,
    parse_code,
    parse_egg,
    parse_egg_code,
)
from sartransfer.scene import GeoReference, Window

# JCOMM Technical Report 23, table of concentrations: interval codes are the lowest and the highest tenth; 81 and 91 end
# at 10/10. Copied from the report as (code, lowest, highest).
INTERVALS = (
    (12, 1, 2), (13, 1, 3), (23, 2, 3), (24, 2, 4), (34, 3, 4), (35, 3, 5), (45, 4, 5), (46, 4, 6), (56, 5, 6),
    (57, 5, 7), (67, 6, 7), (68, 6, 8), (78, 7, 8), (79, 7, 9), (81, 8, 10), (89, 8, 9), (91, 9, 10),
)  # fmt: skip
# The classes of the AI4Arctic manual, table 8, by hand.
MANUAL_STAGE = {
    "new ice": {81, 82}, "young ice": {83, 84, 85}, "thin first-year ice": {87, 88, 89},
    "thick first-year ice": {86, 91, 93}, "old ice": {95, 96, 97},
}  # fmt: skip
MANUAL_FLOE = {
    "ice cake": {2}, "small floe": {3}, "medium floe": {4}, "big floe": {5}, "vast floe": {6, 7}, "bergs": {9, 10},
}  # fmt: skip


@pytest.mark.parametrize(("code", "low", "high"), INTERVALS)
def test_an_interval_is_its_middle(code, low, high):
    assert CONCENTRATIONS[code] == (low + high) / 2


def test_the_other_codes_are_those_of_the_report():
    assert {c: CONCENTRATIONS[c] for c in (0, 55, 1, 92)} == {0: 0, 55: 0, 1: 0.5, 92: 10}
    assert all(CONCENTRATIONS[10 * n] == n for n in range(1, 10))
    assert len(CONCENTRATIONS) == len(INTERVALS) + 9 + 6
    assert sorted(STAGES) == [0, 55, 70, *range(80, 90), 91, 93, *range(95, 99)]
    assert sorted(FORMS) == [*range(23), 91]
    assert STAGES[93] == "thick first-year ice"
    assert FORMS[7] == "giant floe (> 10 km)"


def test_stages_and_forms_have_the_classes_of_the_manual():
    for what, table, manual in (
        ("stage", STAGE_CLASSES, MANUAL_STAGE),
        ("floe", FLOE_CLASSES, MANUAL_FLOE),
    ):
        assert set(CLASSES[what][1:]) == set(manual)
        assert table == {code: CLASSES[what].index(name) for name, codes in manual.items() for code in codes}


@pytest.mark.parametrize("value", ["", " ", None, float("nan"), -9, "-9", "-99", "9-", -9.0])
def test_what_is_not_filled(value):
    assert parse_code(value) == NOT_FILLED
    assert parse_egg_code(value, "CT") == NOT_FILLED


def test_one_code_however_it_is_written():
    assert parse_code("08") == parse_code(8) == parse_code(8.0) == parse_code(" 8 ") == 8
    assert parse_code("7.5") == "7.5"
    assert parse_code("ice") == "ice"


def test_an_egg_reads_as_sigrid():
    # The example of the Canadian Ice Service's guide, in kind: 9+ in all; old, thick first-year and new ice.
    assert parse_egg("9+ | 4 3 2 | 7. 4• 1 | 5 4 3") == {
        "CT": 91, "CA": 40, "CB": 30, "CC": 20, "SA": 95, "SB": 93, "SC": 81, "FA": 5, "FB": 4, "FC": 3,
    }  # fmt: skip
    assert parse_egg("4-6") == {"CT": 46}
    assert parse_egg("8-10 | | 6")["CT"] == 81
    assert parse_egg("10 | 10 | 1. | 8") == {"CT": 92, "CA": 92, "SA": 91, "FA": 8}
    assert parse_egg("5 | 2 2 1 | 9. 6 5 1")["CD"] == 81
    assert parse_egg_code("9", "FA") == 10  # icebergs
    assert parse_egg_code("-", "SA") == 70  # brash ice
    with pytest.raises(InputError, match=r"symbol 'Q' of SA"):
        parse_egg("5 | 5 | Q")
    with pytest.raises(InputError, match="more than 3"):
        parse_egg("9 | 3 2 2 2")
    with pytest.raises(InputError, match="total"):
        parse_egg("9 8 | 3")


def polygon(total, *parts, kind=Kind.ICE):
    return IcePolygon(kind, total, tuple(Part(*p) for p in parts))


@pytest.mark.parametrize(
    ("total", "tenths"), [(0, 0), (0.5, 0), (1, 1), (1.5, 2), (4.5, 5), (8, 8), (9, 9), (9.5, 10), (10, 10)]
)
def test_concentration_in_tenths(total, tenths):
    assert label_value(polygon(total), "concentration") == tenths
    assert label_value(polygon(total)) == (tenths > 0)


def test_kind_and_concentration_decide_between_ice_and_water():
    assert label_value(IcePolygon(Kind.ICE)) == 1
    assert label_value(IcePolygon(Kind.WATER)) == 0
    assert label_value(IcePolygon(None, 3.0)) == 1
    assert label_value(IcePolygon(Kind.ICE, 0.5)) == 0  # open water: less than a tenth
    assert label_value(IcePolygon(Kind.WATER, 8.0)) == Reason.CONTRADICTORY
    assert label_value(IcePolygon()) == label_value(IcePolygon(Kind.NO_DATA, 5.0)) == Reason.UNKNOWN
    for what in CLASSES:
        assert label_value(IcePolygon(Kind.LAND, 5.0), what) == Reason.LAND
        assert label_value(IcePolygon(Kind.SHELF), what) == Reason.LAND
        assert label_value(IcePolygon(Kind.WATER, 0.0), what) == 0
    assert label_value(IcePolygon(Kind.ICE), "concentration") == Reason.UNKNOWN
    assert label_value(IcePolygon(Kind.ICE), "stage") == Reason.UNKNOWN


def test_dominance_by_hand():
    old, thick, new, glacier = 95, 93, 81, 98
    # 6 of 9 tenths is .667, 5 of 8 is .625; the threshold is .65
    assert label_value(polygon(9, (6, old, None), (3, new, None)), "stage") == 5
    assert label_value(polygon(8, (5, old, None), (3, new, None)), "stage") == Reason.NOT_DOMINANT
    assert label_value(polygon(8, (5, old, None), (3, new, None)), "stage", dominance=0.6) == 5
    # parts of one class are added: 4 + 3 of 10 old ice (95 and 97)
    assert label_value(polygon(10, (4, old, None), (3, 97, None), (3, thick, None)), "stage") == 5
    # exactly the threshold is enough
    assert label_value(polygon(10, (6.5, thick, None), (3.5, new, None)), "stage") == 4
    assert label_value(polygon(10, (7, glacier, None), (3, new, None)), "stage") == Reason.NO_CLASS
    assert label_value(polygon(10, (7, None, None), (3, new, None)), "stage") == Reason.UNKNOWN
    # one part without a concentration is all of the ice; beside others its share is not known
    assert label_value(polygon(4, (None, thick, 5)), "stage") == 4
    assert label_value(IcePolygon(Kind.ICE, None, (Part(None, 83, None),)), "stage") == 2
    assert label_value(polygon(9, (None, old, None), (3, new, None)), "stage") == Reason.UNKNOWN
    # nothing but parts: their sum is the whole
    assert label_value(IcePolygon(Kind.ICE, None, (Part(6, old, None), Part(3, new, None))), "stage") == 5


def autoice(total, parts, table):
    """The challenge's rule, written down on its own: classes of tenths, parts of one class added, 65 % of the total."""
    tenths = {10 * n: n for n in range(1, 10)} | {91: 10, 92: 10}
    added = {}
    for code, stage in parts:
        added[table[stage]] = added.get(table[stage], 0) + tenths[code]
    best = max(added, key=added.get)
    return best if added[best] * 100 >= 65 * tenths[total] else None


@pytest.mark.parametrize(
    ("what", "table", "column"), [("stage", STAGE_CLASSES, "S"), ("floe", FLOE_CLASSES, "F")]
)
def test_dominance_agrees_with_the_rule_of_autoice(what, table, column):
    rng = np.random.default_rng(3)
    dominant = 0
    for _ in range(300):
        total = int(rng.choice([20, 30, 40, 50, 60, 70, 80, 90, 91, 92]))
        whole = total // 10 if total < 91 else 10
        cuts = np.sort(rng.choice(np.arange(1, whole), size=min(2, whole - 1), replace=False))
        tenths = np.diff([0, *cuts, whole])
        parts = [(92 if t == 10 else int(t) * 10, int(rng.choice(list(table)))) for t in tenths]
        row = {"CT": [total], "POLY_TYPE": ["I"]}
        for letter, (code, kind) in zip("ABC", parts, strict=False):
            row |= {f"C{letter}": [code], f"{column}{letter}": [kind]}
        found = label_value(read_polygons(choose_columns(list(row)), row)[0], what)
        wanted = autoice(total, parts, table)
        assert found == (Reason.NOT_DOMINANT if wanted is None else wanted)
        dominant += wanted is not None
    assert 50 < dominant < 290


def test_floe_size_and_fast_ice():
    assert label_value(polygon(9, (6, 95, 5), (3, 93, 4)), "floe") == 4
    assert label_value(polygon(10, (4, 95, 6), (4, 93, 7), (2, 81, 2)), "floe") == 5
    assert label_value(polygon(10, (9, 95, 5), (1, 93, 8)), "floe") == Reason.NO_CLASS
    assert label_value(polygon(10, (10, 81, 22)), "floe") == Reason.NO_CLASS
    assert label_value(polygon(0.5, (0.5, 81, 1)), "floe") == 0


@pytest.mark.parametrize("dominance", [0.5, 0, 1.1, float("nan")])
def test_a_dominance_that_two_classes_could_have_is_refused(dominance):
    with pytest.raises(InputError, match=r"over 0.5"):
        label_value(polygon(9), "stage", dominance)
    with pytest.raises(InputError, match="Did you mean 'stage'"):
        label_value(polygon(9), "stages")


def test_columns_are_found_whatever_their_case_and_can_be_named():
    assert choose_columns(["id", "poly_type", "SA"]).names == {"POLY_TYPE": "poly_type", "SA": "SA"}
    assert choose_columns(["E_CT", "E_SA"]).coding == "egg"
    own = choose_columns(["Total", "kind"], {"CT": "total", "POLY_TYPE": "kind"})
    assert own.names == {"CT": "Total", "POLY_TYPE": "kind"}
    with pytest.raises(InputError, match="Did you mean 'Total'"):
        choose_columns(["Total"], {"CT": "Totl"})
    with pytest.raises(InputError, match="neither the kind"):
        choose_columns(["a", "b"])
    with pytest.raises(InputError, match="column of an ice chart='XX' is not known"):
        choose_columns(["a"], {"XX": "a"})
    with pytest.raises(InputError, match="columns='sigrid' is not known"):
        choose_columns(["CT"], "sigrid")


def test_unknown_codes_are_named_with_their_number():
    table = {"CT": ["92", "44", "44"], "SA": [95, "x", -9], "POLY_TYPE": ["I", "Q", "L"]}
    with pytest.raises(InputError) as caught:
        read_polygons(choose_columns(list(table)), table)
    for words in ("CT=44 (2 polygons)", "SA=x (1 polygons)", "POLY_TYPE=Q (1 polygons)"):
        assert words in str(caught.value)


def test_extremeearth_has_slips_in_its_stage_and_intervals_in_its_concentration():
    table = {"poly_type": ["I", "I", "L"], "CT": ["45", "13", None], "SA": [13, 95, -1]}
    found = read_polygons(choose_columns(list(table), "extremeearth"), table)
    assert found[0] == IcePolygon(Kind.ICE, 4.5)
    assert found[1] == polygon(2.0, (None, 95, None))
    assert [label_value(p, "stage") for p in found] == [Reason.UNKNOWN, 5, Reason.LAND]
    with pytest.raises(InputError, match=r"SA=-1 \(1 polygons\), SA=13 \(1 polygons\)"):
        read_polygons(choose_columns(list(table)), table)
    own = Columns({"CT": "CT", "SA": "SA"}, undetermined={"SA": frozenset({13, -1})})
    assert read_polygons(choose_columns(list(table), own), table)[0].total == 4.5


def test_polygon_codes_of_ai4arctic():
    lines = [
        "id;CT;CA;SA;FA;CB;SB;FB;CC;SC;FC;CN;CD;CF;POLY_TYPE",
        "33;92;-9;91; 8;-9;-9;-9;-9;-9;-9;-9;-9;-9;I",
        "35; 1;-9;-9;-9;-9;-9;-9;-9;-9;-9;98;-9;-9;I",
        "41;91;60;95; 5;20;93; 4;10;81;99;-9;-9;-9;I",
        "7;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;-9;W",
    ]
    found = parse_polygon_codes(lines)
    assert found[33] == polygon(10.0, (None, 91, 8))
    assert found[41] == polygon(9.5, (6.0, 95, 5), (2.0, 93, 4), (1.0, 81, None))
    assert [label_value(found[n], "concentration") for n in (33, 35, 41, 7)] == [10, 0, 10, 0]
    assert [label_value(found[n], "stage") for n in (33, 35, 41, 7)] == [4, 0, Reason.NOT_DOMINANT, 0]
    assert [label_value(found[n], "floe") for n in (33, 35)] == [Reason.NO_CLASS, 0]
    with pytest.raises(InputError, match="3 fields, not 15"):
        parse_polygon_codes([lines[0], "1;2;3"])
    with pytest.raises(InputError, match="does not begin"):
        parse_polygon_codes(["1;2"])


# --- charts as files -------------------------------------------------------------------------------------------------

PIXEL = 500.0
PLACE = GeoReference("EPSG:3413", (PIXEL, 0.0, 500_000.0, 0.0, -PIXEL, -900_000.0))
STAMP = "20180116t075430"


def centres(height, width, place=PLACE):
    a, b, c, d, e, f = place.transform
    rows, cols = np.mgrid[:height, :width] + 0.5
    return a * cols + b * rows + c, d * cols + e * rows + f


def write_ice_scene(folder, height=60, width=80, place=PLACE, name=STAMP):
    return write_geotiff(
        folder / f"{name}.tif",
        np.zeros((1, height, width), np.float32),
        georeference=place,
        descriptions=["sigma0_hh_db"],
    )


def write_chart(path, geometries, table, crs="EPSG:3413"):
    pyogrio = pytest.importorskip("pyogrio", reason="ice charts need pyogrio (the extra icechart)")
    pyogrio.raw.write(
        path,
        shapely.to_wkb(np.array(geometries)),
        [np.array(v, dtype=None if np.asarray(v).dtype.kind in "iM" else object) for v in table.values()],
        list(table),
        geometry_type="Polygon",
        crs=crs,
    )
    return path


def wavy(rng, x, y, radius, corners=17):
    """A polygon with dents around a point."""
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    far = radius * rng.uniform(0.5, 1.0, corners)
    return shapely.polygons(np.stack([x + far * np.cos(angle), y + far * np.sin(angle)], axis=1))


def voronoi(rng, count=9):
    """A partition of the scene and its surroundings, as a chart is."""
    box = shapely.box(490_000, -940_000, 550_000, -890_000)
    points = shapely.multipoints(
        np.stack([rng.uniform(495e3, 545e3, count), rng.uniform(-935e3, -895e3, count)], 1)
    )
    cells = shapely.get_parts(shapely.voronoi_polygons(points, extend_to=box))
    return list(shapely.intersection(cells, box))


TABLE = {
    "poly_type": ["I", "W", "L", "I", "N", "I", "W", "I", "S"],
    "CT": ["92", "00", "-9", "01", "50", "91", "-9", "40", "-9"],
    "SA": [95, -9, -9, -9, 95, 93, -9, 81, -9],
}
EXPECTED = [1, 0, 255, 0, 255, 1, 0, 1, 255]


@pytest.mark.parametrize("ending", [".shp", ".gpkg"])
@pytest.mark.parametrize("window", [2048, 17])
def test_the_raster_is_point_in_polygon_at_pixel_centres(tmp_path, ending, window):
    cells = voronoi(np.random.default_rng(4))
    chart = write_chart(tmp_path / f"seaice_s1_{STAMP}{ending}", cells, TABLE)
    done = []
    made = prepare_icechart(
        chart,
        write_ice_scene(tmp_path),
        tmp_path / "label.tif",
        window=window,
        progress=lambda *a: done.append(a),
    )
    x, y = centres(60, 80)
    wanted = np.full((60, 80), 255)
    for cell, value in zip(cells, EXPECTED, strict=True):
        wanted[shapely.contains_xy(cell, x, y)] = value
    label = open_geotiff(tmp_path / "label.tif")
    raw, valid = label.source.read([0], label.window)
    np.testing.assert_array_equal(raw[0], wanted)
    np.testing.assert_array_equal(valid[0], wanted != 255)
    assert made.counts == {"water": (wanted == 0).sum(), "ice": (wanted == 1).sum()}
    assert sum(made.left_out.values()) == (wanted == 255).sum()
    assert set(made.left_out) <= {"land or ice shelf", "unknown or not filled"}
    assert made.hours == 0.0
    assert done[-1][0] == done[-1][1] == len(done) == (1 if window == 2048 else 4 * 5)
    assert label.georeference.transform == PLACE.transform


def test_the_label_says_what_it_is(tmp_path):
    import rasterio

    chart = write_chart(tmp_path / f"{STAMP}.gpkg", voronoi(np.random.default_rng(1)), TABLE)
    scene = write_ice_scene(tmp_path)
    for what, classes in CLASSES.items():
        made = prepare_icechart(
            chart, scene, tmp_path / f"{what}.tif", what=what, columns="extremeearth", dominance=0.7
        )
        assert made.classes == classes
        with rasterio.open(made.path) as file:
            tags = file.tags()
            assert file.nodata == 255
            assert file.colormap(1)[0] == (0, 100, 255, 255)
        assert tags["SARTRANSFER_CLASSES"].split(",")[1] == f"1={classes[1]}"
        assert json.loads(tags["SARTRANSFER_ICECHART"])["dominance"] == 0.7
    assert not list(tmp_path.glob(".*tmp*"))


@pytest.mark.parametrize("buffer_m", [700.0, 2_500.0])
def test_the_buffer_is_the_distance_to_the_nearest_edge(tmp_path, buffer_m):
    rng = np.random.default_rng(7)
    island = wavy(rng, 520_000, -915_000, 9_000)
    rest = shapely.difference(shapely.box(480_000, -950_000, 560_000, -880_000), island)
    chart = write_chart(
        tmp_path / f"{STAMP}.gpkg", [island, rest], {"POLY_TYPE": ["I", "W"], "CT": ["60", "00"]}
    )
    scene = write_ice_scene(tmp_path)
    prepare_icechart(chart, scene, tmp_path / "label.tif", buffer_m=buffer_m, window=33)
    label = open_geotiff(tmp_path / "label.tif").source.read([0], open_geotiff(scene).window)[0][0]
    x, y = centres(60, 80)
    ends = shapely.get_coordinates(island)
    brute = np.full(x.shape, np.inf)
    for (x0, y0), (x1, y1) in itertools.pairwise(ends):  # distance to each side, by hand
        along = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2)
        along = np.clip(along, 0, 1)
        brute = np.minimum(brute, np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0)))
    clear = np.abs(brute - buffer_m) > 0.0013 * buffer_m  # a buffer's arcs are 16 pieces a quarter
    assert clear.mean() > 0.99
    np.testing.assert_array_equal((label == 255)[clear], (brute <= buffer_m)[clear])
    np.testing.assert_array_equal((label == 1)[label != 255], shapely.contains_xy(island, x, y)[label != 255])


def test_edges_between_polygons_of_one_label_can_be_kept(tmp_path):
    boxes = [
        shapely.box(480_000, -950_000, 515_000, -880_000),
        shapely.box(515_000, -950_000, 530_000, -880_000),
        shapely.box(530_000, -950_000, 560_000, -880_000),
    ]
    chart = write_chart(tmp_path / f"{STAMP}.gpkg", boxes, {"CT": ["92", "60", "00"]})
    scene = write_ice_scene(tmp_path)
    x, _ = centres(60, 80)
    for edges, near in (
        ("polygons", np.minimum(abs(x - 515e3), abs(x - 530e3))),
        ("labels", abs(x - 530e3)),
    ):
        made = prepare_icechart(chart, scene, tmp_path / "l.tif", buffer_m=1_000, edges=edges, overwrite=True)
        assert made.left_out == {"near a polygon's edge": (near <= 1_000).sum()}


def test_a_polygon_whose_sides_cross_is_drawn_and_buffered(tmp_path):
    crossed = shapely.polygons([(505e3, -905e3), (535e3, -925e3), (535e3, -905e3), (505e3, -925e3)])
    around = shapely.difference(
        shapely.box(480_000, -950_000, 560_000, -880_000), shapely.make_valid(crossed)
    )
    chart = write_chart(tmp_path / f"{STAMP}.gpkg", [around, crossed], {"CT": ["00", "92"]})
    scene = write_ice_scene(tmp_path)
    made = prepare_icechart(chart, scene, tmp_path / "l.tif", buffer_m=500, edges="labels")
    x, y = centres(60, 80)
    triangles = shapely.make_valid(crossed)
    clear = shapely.distance(shapely.boundary(triangles), shapely.points(x, y)) > 501
    assert made.counts["ice"] == (shapely.contains_xy(triangles, x, y) & clear).sum() > 50


def test_an_edge_just_outside_the_scene_has_its_buffer_inside(tmp_path):
    boxes = [
        shapely.box(480_000, -950_000, 499_900, -880_000),
        shapely.box(499_900, -950_000, 560_000, -880_000),
    ]
    chart = write_chart(tmp_path / f"{STAMP}.gpkg", boxes, {"CT": ["92", "00"]})
    made = prepare_icechart(chart, write_ice_scene(tmp_path), tmp_path / "l.tif", buffer_m=400)
    assert made.left_out == {
        "near a polygon's edge": 60
    }  # the first column: centres at 250 m, edge at -100 m
    assert made.counts == {"water": 60 * 79, "ice": 0}


def test_sides_keep_their_course_through_reprojection(tmp_path):
    """A parallel is a straight side in degrees and an arc on a polar map: 12 degrees of it bow out by kilometres."""
    from pyproj import Transformer

    to_degrees = Transformer.from_crs("EPSG:3413", "EPSG:4326", always_xy=True)
    x, y = centres(60, 80)
    lon, lat = to_degrees.transform(x, y)
    middle = float(np.median(lat))
    west, east = lon.min() - 8, lon.max() + 8
    boxes = [
        shapely.box(west, middle, east, lat.max() + 1),
        shapely.box(west, lat.min() - 1, east, middle),
    ]
    chart = write_chart(tmp_path / f"{STAMP}.shp", boxes, {"CT": ["90", "00"]}, crs="EPSG:4326")
    prepare_icechart(chart, write_ice_scene(tmp_path), tmp_path / "l.tif")
    label = open_geotiff(tmp_path / "l.tif").source.read([0], open_geotiff(tmp_path / "l.tif").window)[0][0]
    # An eighth of a pixel is 62 m or 0.00056 degrees of latitude; sides may be a tenth of one off.
    clear = abs(lat - middle) > 0.0006
    np.testing.assert_array_equal(label[clear], (lat > middle)[clear])
    straight = shapely.transform(
        np.array(boxes), lambda p: np.stack(to_degrees.transform(*p.T, direction="INVERSE"), 1)
    )
    assert (shapely.contains_xy(straight[0], x, y) != (lat > middle)).sum() > 100  # without it


def test_a_chart_across_the_antimeridian(tmp_path):
    place = GeoReference(
        "EPSG:3413", (1000.0, 0.0, -1_440_000.0, 0.0, -1000.0, 1_430_300.0)
    )  # around 180 E, 72 N
    boxes = [shapely.box(150, 60, 180, 85), shapely.box(-180, 60, -150, 85)]
    chart = write_chart(tmp_path / f"{STAMP}.gpkg", boxes, {"CT": ["90", "00"]}, crs="EPSG:4326")
    made = prepare_icechart(chart, write_ice_scene(tmp_path, place=place), tmp_path / "l.tif")
    from pyproj import Transformer

    x, y = centres(60, 80, place)
    lon, _ = Transformer.from_crs("EPSG:3413", "EPSG:4326", always_xy=True).transform(x, y)
    assert 0.2 < (lon > 0).mean() < 0.8
    assert made.counts == {"water": (lon < 0).sum(), "ice": (lon > 0).sum()}


# --- what is refused -------------------------------------------------------------------------------------------------


def ice_everywhere(folder, name=STAMP, **table):
    table = table or {"CT": ["90"]}
    return write_chart(folder / f"{name}.shp", [shapely.box(480_000, -950_000, 560_000, -880_000)], table)


def test_time_between_chart_and_scene(tmp_path):
    scene = write_ice_scene(tmp_path)
    day = ice_everywhere(tmp_path, "chart_20180116")
    out = tmp_path / "l.tif"

    def hours(chart, **more):
        return prepare_icechart(chart, scene, out, overwrite=True, **more).hours

    # a date is the whole day: its nearest hour decides what is refused, its farthest is kept
    assert hours(day) == pytest.approx(24 - (7 + 54.5 / 60))
    assert hours(day, scene_time="2018-01-17T03:00:00") == 27.0
    with pytest.raises(InputError, match=r"is of 2018-01-16, .*: 6\.5 hours apart"):
        hours(day, scene_time="2018-01-17T06:30:00")
    late = ice_everywhere(tmp_path, "dmi_201801161254_SouthEast")
    assert hours(late) == pytest.approx(4 + 59.5 / 60)
    with pytest.raises(
        InputError, match=r"12:54:00 UTC.*07:54:30 UTC: 5\.0 hours apart, more than max_hours=4"
    ):
        hours(late, max_hours=4)
    assert hours(late, max_hours=None) is None
    assert hours(late, chart_time=datetime(2018, 1, 16, 8, 54, 30)) == 1.0
    assert hours(late, chart_time="2018-01-16T10:54:30+02:00") == 1.0
    nameless = ice_everywhere(tmp_path, "chart", CT=["90"], VALID=["2018-01-16 05:54:30"])
    assert hours(nameless, time_column="VALID") == 2.0
    with pytest.raises(InputError, match="does not say when it is valid"):
        hours(nameless)
    with pytest.raises(InputError, match=r"time_column='VALIDD' is not known.*Did you mean 'VALID'"):
        hours(nameless, time_column="VALIDD")
    with pytest.raises(InputError, match=r"--chart-time \(chart_time\): 'tomorrow' is no time"):
        hours(nameless, chart_time="tomorrow")
    unnamed = write_ice_scene(tmp_path, name="scene")
    with pytest.raises(InputError, match="does not say when it was taken"):
        prepare_icechart(day, unnamed, out, overwrite=True)
    made = prepare_icechart(day, unnamed, out, overwrite=True, max_hours=None)
    assert made.warnings == ("the time between chart and scene was not checked",)


def test_the_farthest_of_several_times_counts(tmp_path):
    halves = [
        shapely.box(480_000, -950_000, 520_000, -880_000),
        shapely.box(520_000, -950_000, 560_000, -880_000),
    ]
    far = shapely.box(2e6, 2e6, 2.1e6, 2.1e6)  # another region, another day: does not count
    table = {
        "CT": ["90", "00", "50"],
        "DATE": ["2018-01-16T07:54:30", "2018-01-16T11:54:30", "2017-01-01T00:00:00"],
    }
    chart = write_chart(tmp_path / "c.gpkg", [*halves, far], table)
    made = prepare_icechart(chart, write_ice_scene(tmp_path), tmp_path / "l.tif", time_column="DATE")
    assert (made.hours, made.polygons) == (4.0, 2)


def test_the_scene_may_say_its_time_in_its_tags(tmp_path):
    scene = write_geotiff(
        tmp_path / "scene.tif", np.zeros((60, 80), np.float32), georeference=PLACE,
        tags={"START": "2018-01-16T09:54:30.125000"},
    )  # fmt: skip
    made = prepare_icechart(ice_everywhere(tmp_path), scene, tmp_path / "l.tif")
    assert made.hours == pytest.approx(2.0, abs=1e-4)


def test_spans_of_time():
    day = parse_span("2018-01-16", "here")
    assert day == parse_span("20180116", "here")
    assert day.end - day.start == timedelta(days=1)
    moment = parse_span("20180117t013000", "here")
    assert moment.start == moment.end == datetime(2018, 1, 17, 1, 30, tzinfo=UTC)
    assert parse_span("2018/01/17 01:30:00", "here") == moment  # a time in a Shapefile's column of text
    assert (day.hours_to(moment), moment.hours_to(day)) == (1.5, 1.5)


def test_files_that_cannot_be_used(tmp_path):
    scene, out = write_ice_scene(tmp_path), tmp_path / "l.tif"
    chart = ice_everywhere(tmp_path)
    chart.with_suffix(".prj").unlink()
    with pytest.raises(InputError, match=rf"{STAMP}\.prj beside it is missing.*chart_crs"):
        prepare_icechart(chart, scene, out)
    assert prepare_icechart(chart, scene, out, chart_crs="EPSG:3413").counts["ice"] == 60 * 80
    with pytest.raises(OutputError, match="exists already"):
        prepare_icechart(chart, scene, out, chart_crs="EPSG:3413")
    with pytest.raises(OutputError, match=r"does not end in .tif"):
        prepare_icechart(chart, scene, tmp_path / "l.png")
    with pytest.raises(InputError, match="is not known"):
        prepare_icechart(chart, scene, tmp_path / "m.tif", chart_crs="EPSG:0")
    with pytest.raises(InputError, match="is not there"):
        prepare_icechart(tmp_path / "none.shp", scene, tmp_path / "m.tif")
    for content, words in (
        (b"no package", "is no GeoPackage"),
        (b"SQLite format 3\0", "cannot be read as an ice chart"),
    ):
        (tmp_path / "bad.gpkg").write_bytes(content)
        with pytest.raises(InputError, match=words):
            prepare_icechart(tmp_path / "bad.gpkg", scene, tmp_path / "m.tif")
    (tmp_path / "chart.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"must end in .shp or .gpkg"):
        prepare_icechart(tmp_path / "chart.zip", scene, tmp_path / "m.tif")
    assert not (tmp_path / "m.tif").exists()


def test_a_chart_of_elsewhere_and_one_of_land_alone(tmp_path):
    scene, out = write_ice_scene(tmp_path), tmp_path / "l.tif"
    away = write_chart(tmp_path / f"a_{STAMP}.gpkg", [shapely.box(0, 0, 1e5, 1e5)], {"CT": ["90"]})
    with pytest.raises(InputError, match=r"does not overlap scene.*0 to 100000"):
        prepare_icechart(away, scene, out)
    land = ice_everywhere(tmp_path, POLY_TYPE=["L"])
    with pytest.raises(InputError, match=r"no pixel of the scene has a class.*4800 pixels land"):
        prepare_icechart(land, scene, out)
    odd = ice_everywhere(tmp_path, f"b_{STAMP}", CT=["44"])
    with pytest.raises(InputError, match=r"CT=44 \(1 polygons\)"):
        prepare_icechart(odd, scene, out)
    assert not out.exists()


def test_scenes_that_are_not_on_a_map(tmp_path):
    chart, out = ice_everywhere(tmp_path), tmp_path / "l.tif"
    points = GeoReference("EPSG:4326", gcps=((0, 0, -30, 80, 0), (0, 80, -29, 80, 0), (60, 0, -30, 79, 0)))
    scene = write_ice_scene(tmp_path, place=points)
    with pytest.raises(InputError, match=r"control points only.*prepare sentinel1"):
        prepare_icechart(chart, scene, out)
    degrees = GeoReference("EPSG:4326", (0.01, 0.0, -16.0, 0.0, -0.01, 81.0))
    scene = write_ice_scene(tmp_path, place=degrees, name=f"d_{STAMP}")
    with pytest.raises(InputError, match="lies in degrees"):
        prepare_icechart(chart, scene, out, buffer_m=100)
    assert prepare_icechart(chart, scene, out).counts["ice"] > 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"what": "kind"}, "what='kind'"),
        ({"dominance": 0.4}, "over 0.5"),
        ({"buffer_m": -1}, "buffer_m=-1"),
        ({"edges": "some"}, "edges='some'"),
        ({"max_hours": -1}, "max_hours=-1"),
        ({"window": 0}, "window=0"),
        ({"layer": "other"}, "no layer 'other'"),
    ],
)
def test_settings_that_are_not_allowed(tmp_path, settings, words):
    with pytest.raises(InputError, match=words):
        prepare_icechart(ice_everywhere(tmp_path), write_ice_scene(tmp_path), tmp_path / "l.tif", **settings)


def test_the_command_draws_a_chart(tmp_path, capsys, monkeypatch):
    from sartransfer.cli import main

    cells = voronoi(np.random.default_rng(4))
    chart = write_chart(tmp_path / f"seaice_s1_{STAMP}.gpkg", cells, TABLE)
    words = ["sartransfer", "prepare", "icechart", chart, write_ice_scene(tmp_path), "-o", tmp_path / "l.tif"]

    def run(*more):
        monkeypatch.setattr("sys.argv", [str(w) for w in (*words, *more)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, capsys.readouterr()

    code, printed = run("--columns", "CT=CT", "--columns", "POLY_TYPE=poly_type", "--columns", "SA=SA")
    assert code == 0
    assert "water" in printed.out
    assert "label: " in printed.out
    for more, said in (
        ((), "--overwrite"),
        (("--what", "iec", "--overwrite"), "ice-water"),
        (("--columns", "sigrid", "--overwrite"), "sigrid3"),
        (("--columns", "CT=CT", "--columns", "egg", "--overwrite"), "ROLE=COLUMN"),
    ):
        code, printed = run(*more)
        assert code == 2
        assert said in printed.err


def test_polygons_are_numbered_where_it_is_asked(tmp_path):
    """Each pixel by shapely, one at a time: the place of the polygon that holds its centre, from 1."""
    scene = write_ice_scene(tmp_path)
    x, y = centres(60, 80)
    middle = (x.min() + x.max()) / 2
    low, high = min(y.min(), y.max()) - 1e4, max(y.min(), y.max()) + 1e4
    shapes = [
        shapely.box(x.min() - 1e4, low, middle + 7.0, high),
        shapely.box(middle + 7.0, low, x.max() - 1400.0, high),
    ]
    chart = write_chart(
        tmp_path / f"chart_{STAMP}.gpkg", shapes, {"CT": ["91", "92"], "POLY_TYPE": ["I", "I"]}
    )
    numbers = tmp_path / "numbers.tif"
    prepare_icechart(chart, scene, tmp_path / "label.tif", polygons_out=numbers, window=17)
    drawn = open_geotiff(numbers).source.read([0], Window(0, 0, 60, 80))[0][0]
    wanted = np.zeros((60, 80), int)
    for number, shape in enumerate(shapes, start=1):
        wanted[shapely.contains_xy(shape, x, y)] = number
    assert set(np.unique(wanted)) == {0, 1, 2}
    np.testing.assert_array_equal(drawn, wanted)
    with pytest.raises(OutputError, match="exists"):
        prepare_icechart(chart, scene, tmp_path / "again.tif", polygons_out=numbers)
    assert not (tmp_path / "again.tif").exists()
    with pytest.raises(OutputError, match="give two names"):
        prepare_icechart(chart, scene, tmp_path / "one.tif", polygons_out=tmp_path / "one.tif")
