"""Ice charts that could be read in two ways: overlaps, codes that are none, dates alone, the antimeridian."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import shapely
from test_19_icechart import PLACE, STAMP, centres, polygon, wavy, write_chart, write_ice_scene

import sartransfer.prepare.icechart as drawing
from sartransfer.errors import InputError, OutputError
from sartransfer.geotiff import open_geotiff
from sartransfer.prepare.icechart import prepare_icechart
from sartransfer.radar.icechart import (
    COLUMNS,
    Columns,
    IcePolygon,
    Part,
    Reason,
    choose_columns,
    label_value,
    parse_polygon_codes,
    read_polygons,
)
from sartransfer.radar.sigrid3 import CONCENTRATIONS, Kind, half_width
from sartransfer.scene import GeoReference

BOX = shapely.box(480e3, -950e3, 560e3, -880e3)
LEFT, RIGHT = shapely.box(480e3, -950e3, 520e3, -880e3), shapely.box(520e3, -950e3, 560e3, -880e3)


def read_label(path):
    label = open_geotiff(path)
    return label.source.read([0], label.window)[0][0]


# --- polygons that overlap -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [2048, 17])
def test_a_pixel_in_polygons_of_different_labels_has_none(tmp_path, window):
    """Against all polygons that hold a centre, one by one: ice over water over ice too, in any order of the file."""
    rng = np.random.default_rng(11)
    shapes = [wavy(rng, *rng.uniform((510e3, -922e3), (530e3, -908e3)), 12e3) for _ in range(9)]
    codes = ["92", "00", "92", "-9", "60", "01", "-9", "-9", "00"]
    kinds = ["I", "W", "I", "L", "I", "I", "N", "W", "W"]
    values = [1, 0, 1, 255, 1, 0, 255, 0, 0]
    x, y = centres(60, 80)
    inside = np.array([shapely.contains_xy(s, x, y) for s in shapes])
    low = np.where(inside, np.array(values)[:, None, None], 999).min(axis=0)
    high = np.where(inside, np.array(values)[:, None, None], -1).max(axis=0)
    twice = inside.any(axis=0) & (low != high)
    wanted = np.where(inside.any(axis=0) & ~twice, high, 255)
    chart = write_chart(tmp_path / f"{STAMP}.gpkg", shapes, {"POLY_TYPE": kinds, "CT": codes})
    made = prepare_icechart(chart, write_ice_scene(tmp_path), tmp_path / "l.tif", window=window)
    np.testing.assert_array_equal(read_label(made.path), wanted)
    assert twice.sum() > 100
    assert next(n for why, n in made.left_out.items() if why.startswith("contradictory")) == twice.sum()
    assert made.warnings[0].startswith(f"{twice.sum()} pixels (")
    assert "overlapping polygons with different labels: left out" in made.warnings[0]


def test_overlaps_of_one_label_are_no_contradiction(tmp_path):
    chart = write_chart(
        tmp_path / f"{STAMP}.gpkg", [BOX, LEFT, RIGHT], {"CT": ["90", "60", "90"], "SA": [95, 95, 81]}
    )
    scene = write_ice_scene(tmp_path)
    made = prepare_icechart(chart, scene, tmp_path / "l.tif")
    assert (made.counts["ice"], made.left_out, made.warnings) == (4800, {}, ())
    made = prepare_icechart(chart, scene, tmp_path / "s.tif", what="stage")
    assert made.counts["old ice"] == 2400  # and new ice over old ice has no stage
    assert list(made.left_out.values()) == [2400]


@pytest.mark.parametrize("turned", [False, True])
def test_an_edge_along_a_row_of_centres_is_no_overlap(tmp_path, turned):
    side = -900e3 - 20.5 * 500
    shapes = [shapely.box(480e3, side, 560e3, -880e3), shapely.box(480e3, -950e3, 560e3, side)]
    if turned:
        shapes[1] = shapely.reverse(shapes[1])
    chart = write_chart(tmp_path / f"{STAMP}.gpkg", shapes, {"CT": ["90", "00"]})
    made = prepare_icechart(chart, write_ice_scene(tmp_path), tmp_path / "l.tif")
    assert (made.left_out, made.warnings) == ({}, ())
    label = read_label(made.path)
    assert (label[:20] == 1).all()
    assert (label[21:] == 0).all()


# --- codes that are none ---------------------------------------------------------------------------------------------


def read(table, columns=None, **more):
    return read_polygons(choose_columns(list(table), columns, **more), table)


@pytest.mark.parametrize(
    ("column", "values", "listed"),
    [
        ("klass", [1, 0], "0, 1"),
        ("klass", ["1", "0", "99"], "0, 1"),
        ("klass", [2, 1, -9], "1, 2"),
        ("klass", [1, 10], "1, 10"),
        ("CT", [1, 10], "1, 10"),
        ("CT", ["0", "10"], "0, 10"),
        ("CT", [0, 3, 7], "0, 3, 7"),
        ("CT", [0.0, 1.0], "0, 1"),
        ("CT", [0.0, 0.4, 0.95], "0, 0.4, 0.95"),
        ("CT", ["0.4", "1"], "1, 0.4"),
    ],
)
def test_tenths_fractions_and_classes_are_not_taken_for_codes(column, values, listed):
    with pytest.raises(InputError) as caught:
        read({column: values}, {"CT": column})
    said = str(caught.value)
    assert f"column {column} (CT) holds {listed} and no code of 20 or more" in said
    for flag in ("--coding egg", "--coding sigrid3", "--value", "92"):
        assert flag in said
    if column == "CT":
        with pytest.raises(InputError, match="no code of 20 or more"):
            read({column: values})


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("CT", [0, 1, 2, 55, 98, -9, 99]),
        ("CT", [0, 1, 2]),
        ("CT", ["0", "1"]),
        ("klass", ["00", "01", "02", "10"]),
        ("klass", ["1", "55"]),
        ("klass", [1, 98, -9]),
        ("klass", [0, 0]),
        ("klass", [1, 10, 46]),
        ("klass", [1, 12]),
        ("klass", [None, "", "99"]),
    ],
)
def test_charts_of_open_water_and_of_intervals_pass(column, values):
    totals = [p.total for p in read({column: values}, {"CT": column})]
    said = [None if v in (None, "", -9, 99, "99") else CONCENTRATIONS[int(v)] for v in values]
    assert totals == said


def test_who_says_the_code_is_believed():
    table = {"klass": [1, 10, 0]}
    assert [p.total for p in read(table, {"CT": "klass"}, coding="sigrid3")] == [0.5, 1.0, 0.0]
    assert [p.total for p in read(table, {"CT": "klass"}, coding="egg")] == [1.0, 10.0, 0.5]
    assert [p.total for p in read(table, Columns({"CT": "klass"}))] == [0.5, 1.0, 0.0]
    assert [p.total for p in read({"CT": [1, 10]}, "sigrid3")] == [0.5, 1.0]
    assert [p.total for p in read({"CT": ["9+", 10]}, coding="egg")] == [9.5, 10.0]
    assert parse_polygon_codes(["id;CT;POLY_TYPE", "1;1;I"])[1].total == 0.5
    assert not any(columns.assumed for columns in COLUMNS.values())


def test_words_and_numbers_of_ones_own():
    table = {"TYPE": ["Ice", "open water", None, " ice "]}
    values = {"POLY_TYPE": {"ice": "I", "Open Water": "w"}}
    kinds = [p.kind for p in read(table, {"POLY_TYPE": "TYPE"}, values=values)]
    assert kinds == [Kind.ICE, Kind.WATER, None, Kind.ICE]
    with pytest.raises(InputError, match=r"TYPE=open water \(1 polygons\).*--value ice=I"):
        read(table, {"POLY_TYPE": "TYPE"}, values={"POLY_TYPE": {"ice": "I"}})
    numbers = {"klass": [1, 0.0, "01", float("nan")]}
    found = read(numbers, {"POLY_TYPE": "klass"}, values={"POLY_TYPE": {"1": "I", "0": "W"}})
    assert [p.kind for p in found] == [Kind.ICE, Kind.WATER, Kind.ICE, None]
    shares = {"share": [0.0, 0.5, 1.0]}
    found = read(shares, {"CT": "share"}, values={"CT": {"0": "00", "0.5": "50", "1": "92"}})
    assert [p.total for p in found] == [0.0, 5.0, 10.0]
    with pytest.raises(InputError, match=r"column share \(CT\) holds 1 and no code"):
        read(shares, {"CT": "share"}, values={"CT": {"0": "00", "0.5": "50"}})
    with pytest.raises(InputError, match=r"'ice' of POLY_TYPE is to be 'Z'.*I, W, L, S, N"):
        read(table, {"POLY_TYPE": "TYPE"}, values={"POLY_TYPE": {"ice": "Z"}})
    with pytest.raises(InputError, match=r"'half' of CT is to be '44', which is no code of CT"):
        read(shares, {"CT": "share"}, values={"CT": {"half": "44"}})
    with pytest.raises(InputError, match=r"values of SA are named.*--columns SA=MY_COLUMN"):
        read(table, {"POLY_TYPE": "TYPE"}, values={"SA": {"old": "95"}})


def test_what_means_nothing_can_be_added_to_a_known_chart():
    table = {"poly_type": ["I", "I"], "SA": [13, 44]}
    with pytest.raises(InputError, match=r"SA=44 \(1 polygons\).*--undetermined SA=13"):
        read(table, "extremeearth")
    found = read(table, "extremeearth", undetermined={"SA": [44]})
    assert found == [IcePolygon(Kind.ICE), IcePolygon(Kind.ICE)]


# --- eggs that contradict themselves ---------------------------------------------------------------------------------


def egg(what, **codes):
    return label_value(read({name: [code] for name, code in codes.items()}, "sigrid3")[0], what)


def test_half_the_width_of_an_interval():
    for code, middle in CONCENTRATIONS.items():
        low, high = middle - half_width(code), middle + half_width(code)
        assert low == int(low) >= 0
        assert high == int(high) <= 10
        if code > 10 and code not in (55, 92, 98) and code % 10:
            assert (f"{low:.0f}", f"{high:.0f}") == (str(code)[0], str(code)[1].replace("1", "10"))
        else:
            assert low == high or code in (1, 2)


def test_parts_over_the_total_have_no_stage():
    wrong = {"CT": 30, "CA": 40, "SA": 95, "CB": 30, "SB": 93}
    assert egg("stage", **wrong) == Reason.CONTRADICTORY
    assert egg("floe", CT=30, CA=40, FA=5, CB=30, FB=4) == Reason.CONTRADICTORY
    assert egg("concentration", **wrong) == Reason.CONTRADICTORY
    assert egg("ice-water", **wrong) == 1  # ice either way
    assert egg("stage", CT=50, CA=90, SA=95) == Reason.CONTRADICTORY
    # what intervals allow is none: 9+ of 6 + 4, 4 to 6 of 3 + 3, a trace beside the whole
    assert egg("stage", CT=91, CA=70, SA=95, CB=30, SB=93) == 5
    assert egg("stage", CT=46, CA=40, SA=95, CB=20, SB=81) == 5
    assert egg("stage", CT=92, CA=92, SA=95, CB="01", SB=81) == 5
    assert egg("stage", CT=46, CA=40, SA=95, CB=30, SB=81) == Reason.CONTRADICTORY
    # and the share is of all parts: 6.5 of 10, not of 9.5
    assert egg("stage", CT=91, CA=60, SA=95, CB=40, SB=93) == Reason.NOT_DOMINANT
    assert label_value(polygon(9.5, (6.2, 95, None), (3.3, 81, None)), "stage") == 5  # .653
    parts = (Part(6.2, 95, None), Part(3.8, 81, None))
    assert (
        label_value(IcePolygon(Kind.ICE, 9.5, parts, slack=0.5), "stage") == Reason.NOT_DOMINANT
    )  # not .653


@pytest.mark.parametrize("what", ["ice-water", "concentration", "stage", "floe"])
def test_water_with_a_part_of_a_tenth_or_more_is_contradictory(what):
    assert egg(what, POLY_TYPE="W", CT=-9, CA=90, SA=95) == Reason.CONTRADICTORY
    assert egg(what, POLY_TYPE="W", CT=-9, CA=10, SA=95) == Reason.CONTRADICTORY
    assert egg(what, POLY_TYPE="I", CT="01", CA=50, SA=95) == Reason.CONTRADICTORY
    assert egg(what, POLY_TYPE="W", CT="01", CA="01", SA=81, CB="01", SB=98) == 0
    assert egg(what, POLY_TYPE="W", CT=-9, CA=-9, SA=98) == 0
    assert egg(what, POLY_TYPE="L", CT=-9, CA=90, SA=95) == Reason.LAND


def test_the_warning_tells_contradictions_in_codes_from_overlaps(tmp_path):
    table = {"POLY_TYPE": ["W", "W"], "CT": ["-9", "00"], "CA": ["90", "-9"], "SA": ["95", "-9"]}
    chart = write_chart(tmp_path / f"{STAMP}.gpkg", [LEFT, RIGHT], table)
    made = prepare_icechart(chart, write_ice_scene(tmp_path), tmp_path / "l.tif")
    assert made.counts == {"water": 2400, "ice": 0}
    assert len(made.warnings) == 1
    assert made.warnings[0].startswith("2400 pixels are called water and have a tenth of ice or more")


# --- dates alone -----------------------------------------------------------------------------------------------------


def test_a_date_alone_is_warned_of_and_its_far_end_kept(tmp_path):
    chart = write_chart(tmp_path / "chart_20180116.gpkg", [BOX], {"CT": ["90"], "DAY": ["2018-01-16"]})
    scene = write_ice_scene(tmp_path, name="20180117t053000")
    made = prepare_icechart(chart, scene, tmp_path / "l.tif")
    assert made.hours == 29.5
    words = "only the chart's date is known: up to 29.5 h apart. Give --chart-time where you know the hour"
    assert made.warnings == (words,)
    import rasterio

    with rasterio.open(made.path) as file:
        assert json.loads(file.tags()["SARTRANSFER_ICECHART"])["hours"] == 29.5
        assert file.tags()["SARTRANSFER_WARNINGS"] == words
    made = prepare_icechart(chart, scene, tmp_path / "m.tif", time_column="DAY")
    assert (made.hours, made.warnings) == (29.5, (words,))
    made = prepare_icechart(chart, scene, tmp_path / "n.tif", chart_time="2018-01-17T02:30:00")
    assert (made.hours, made.warnings) == (3.0, ())
    day = write_ice_scene(tmp_path, name="S1_20180116")
    made = prepare_icechart(chart, day, tmp_path / "o.tif")
    assert made.hours == 24.0
    assert "only the chart's and the scene's date is known: up to 24.0 h" in made.warnings[0]
    assert "--chart-time and --scene-time" in made.warnings[0]


@pytest.mark.parametrize(
    "name", ["20180110_20180116_chart", "NH_20180116_to_20180119", "a_20180116_20180117T06"]
)
def test_a_name_with_two_dates_is_asked_about(tmp_path, name):
    chart = write_chart(tmp_path / f"{name}.gpkg", [BOX], {"CT": ["90"]})
    scene = write_ice_scene(tmp_path, name="20180116t053000")
    with pytest.raises(InputError, match=r"has two dates in its name, 2018-01-1.*--chart-time"):
        prepare_icechart(chart, scene, tmp_path / "l.tif")
    made = prepare_icechart(chart, scene, tmp_path / "l.tif", chart_time="2018-01-16T05:30:00")
    assert made.hours == 0.0
    assert prepare_icechart(chart, scene, tmp_path / "m.tif", max_hours=None).hours is None


@pytest.mark.parametrize(
    ("name", "hours"),
    [
        ("S1B_EW_20180115T235930_20180116T000030_icechart", 1.0 / 120),  # a scene's start and end
        ("S1B_20180115T235930_dmi_201801152330", 1.0 / 120),
        ("20180116_seaice_20180116T060000", 6.0),  # a date, and its hour
    ],
)
def test_names_that_say_one_time_twice(tmp_path, name, hours):
    chart = write_chart(tmp_path / f"{name}.gpkg", [BOX], {"CT": ["90"]})
    scene = write_ice_scene(tmp_path, name="20180116t000000")
    made = prepare_icechart(chart, scene, tmp_path / "l.tif")
    assert made.hours == pytest.approx(hours)
    assert made.warnings == ()


# --- the antimeridian ------------------------------------------------------------------------------------------------

DATELINE = GeoReference("EPSG:3413", (1000.0, 0.0, -1_440_000.0, 0.0, -1000.0, 1_430_300.0))  # 180 E, 72 N
GREENWICH = GeoReference("EPSG:3413", (1000.0, 0.0, 790_000.0, 0.0, -1000.0, -750_000.0))
GREENLAND = GeoReference("EPSG:3413", (1000.0, 0.0, 300_000.0, 0.0, -1000.0, -1_500_000.0))
POLE = GeoReference("EPSG:3413", (5000.0, 0.0, -201_234.0, 0.0, -5000.0, 147_890.0))


def longitudes(place):
    from pyproj import Transformer

    return Transformer.from_crs(place.crs, "EPSG:4326", always_xy=True).transform(*centres(60, 80, place))


def draw(folder, shapes, codes, place, crs="EPSG:4326"):
    folder.mkdir(exist_ok=True)
    chart = write_chart(folder / f"{STAMP}.shp", shapes, {"CT": codes}, crs=crs)
    made = prepare_icechart(chart, write_ice_scene(folder, place=place), folder / "l.tif")
    return read_label(made.path)


RING = [(170, 60), (-170, 60), (-170, 85), (170, 85)]


@pytest.mark.parametrize("place", [DATELINE, GREENWICH, POLE])
@pytest.mark.parametrize(
    "ring",
    [
        RING,
        [(170, 60), (180, 60), (-180, 60), (-170, 60), (-170, 85), (-180, 85), (180, 85), (170, 85)],
        [(lon, 70 + np.sin(lon)) for lon in np.arange(-180, 180, 5.0)],  # around the pole, and not up to it
        [(lon, 70 + np.sin(lon)) for lon in np.linspace(-180, 180, 73)],
    ],
)
def test_a_ring_that_is_wrapped_is_refused(tmp_path, place, ring):
    rest = shapely.box(-60, 60, 20, 89)
    with pytest.raises(
        InputError, match=r"polygon 2 of the chart has a side from -?1\d\d to -?1\d\d degrees.*0 to 360"
    ):
        draw(tmp_path, [rest, shapely.polygons(ring)], ["00", "90"], place)
    assert not (tmp_path / "l.tif").exists()


def test_a_hole_or_a_part_that_is_wrapped_is_found(tmp_path):
    part = shapely.multipolygons([shapely.box(0, 60, 40, 89), shapely.polygons(RING)])
    with pytest.raises(InputError, match="polygon 1 of the chart has a side from 170 to -170"):
        draw(tmp_path / "part", [part], ["90"], GREENWICH)
    hole = shapely.polygons([(-180, 50), (180, 50), (180, 90), (-180, 90)], holes=[RING])
    with pytest.raises(InputError, match="polygon 1 of the chart has a side from 170 to -170"):
        draw(tmp_path / "hole", [hole], ["90"], GREENWICH)


def test_one_wrapped_on_the_other_side_of_the_earth_does_no_harm(tmp_path):
    south = shapely.polygons([(170, -60), (-170, -60), (-170, -75), (170, -75)])
    label = draw(tmp_path, [shapely.box(-60, 60, 60, 89), south], ["90", "00"], GREENWICH)
    assert (label == 1).all()


@pytest.mark.parametrize("place", [DATELINE, GREENWICH, POLE])
@pytest.mark.parametrize("start", [-180, 0])
def test_belts_and_caps_around_the_earth_pass(tmp_path, place, start):
    lon, lat = longitudes(place)
    middle = float(np.median(lat))
    edge = np.linspace(start, start + 360, 361)
    border = middle + 0.2 * np.sin(3 * np.radians(edge))
    cap = shapely.polygons([*zip(edge, border, strict=True), (start + 360, 90), (start, 90)])
    belt = shapely.polygons([*zip(edge, border, strict=True), (start + 360, 50), (start, 50)])
    label = draw(tmp_path, [cap, belt], ["90", "00"], place)
    wanted = lat > middle + 0.2 * np.sin(3 * np.radians(lon))
    clear = np.abs(lat - middle - 0.2 * np.sin(3 * np.radians(lon))) > 0.01
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(label[clear], wanted[clear])
    assert 0.1 < wanted.mean() < 0.9


@pytest.mark.parametrize("turn", [-360, 0, 360])
@pytest.mark.parametrize("place", [DATELINE, GREENWICH, GREENLAND, POLE])
def test_longitudes_may_begin_where_they_like(tmp_path, place, turn):
    lon, _ = longitudes(place)
    edges = np.arange(-180, 181, 20)
    shapes = [shapely.box(a + turn, 50, b + turn, 90) for a, b in itertools.pairwise(edges)]
    codes = ["90" if k % 2 else "00" for k in range(len(shapes))]
    label = draw(tmp_path, shapes, codes, place)
    np.testing.assert_array_equal(label, np.floor((lon + 180) / 20) % 2)


def test_a_chart_of_0_to_360_has_both_sides_of_greenwich(tmp_path):
    lon, _ = longitudes(GREENWICH)
    label = draw(
        tmp_path, [shapely.box(330, 60, 360, 85), shapely.box(0, 60, 40, 85)], ["90", "00"], GREENWICH
    )
    np.testing.assert_array_equal(label, lon < 0)
    assert 100 < (lon < 0).sum() < 4700


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:4258"])
@pytest.mark.parametrize("start", [-15.0, 345.0, -0.4, 359.6, 179.6, -180.4])
def test_scenes_in_degrees_meet_charts_of_0_to_360(tmp_path, crs, start):
    place = GeoReference("EPSG:4326", (0.01, 0.0, start, 0.0, -0.01, 81.0))
    lon, _ = centres(60, 80, place)
    edges = np.arange(0, 361, 45)
    shapes = [shapely.box(a + 0.001, 60, b + 0.001, 85) for a, b in itertools.pairwise(edges)]
    label = draw(tmp_path, shapes, ["90" if k % 2 else "00" for k in range(8)], place, crs)
    np.testing.assert_array_equal(label, np.floor(((lon - 0.001) % 360) / 45) % 2)


# --- two files or none -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [OutputError("disk full"), KeyboardInterrupt()], ids=lambda e: type(e).__name__
)
def test_a_label_does_not_stay_without_the_polygons(tmp_path, monkeypatch, fault):
    chart = write_chart(tmp_path / f"{STAMP}.gpkg", [LEFT, RIGHT], {"CT": ["90", "00"]})
    scene, out, numbers = write_ice_scene(tmp_path), tmp_path / "l.tif", tmp_path / "n.tif"
    write = drawing.write_geotiff

    def fail(path, *words, **options):
        if path == numbers:
            raise fault
        return write(path, *words, **options)

    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(drawing, "write_geotiff", fail)
    with pytest.raises(type(fault)):
        prepare_icechart(chart, scene, out, polygons_out=numbers)
    assert sorted(tmp_path.iterdir()) == before
    monkeypatch.setattr(drawing, "write_geotiff", write)
    prepare_icechart(chart, scene, out, polygons_out=numbers)  # the next call does not refuse
    assert out.is_file()
    assert numbers.is_file()


def test_the_scene_is_not_written_over(tmp_path):
    chart = write_chart(tmp_path / f"{STAMP}.gpkg", [LEFT, RIGHT], {"CT": ["90", "00"]})
    scene = write_ice_scene(tmp_path)
    before = scene.read_bytes()
    for names in ({"out": scene}, {"out": tmp_path / "l.tif", "polygons_out": scene}):
        with pytest.raises(OutputError, match="which would be lost"):
            prepare_icechart(chart, scene, overwrite=True, **names)
    assert scene.read_bytes() == before


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(capsys, monkeypatch):
    from sartransfer.cli import main

    def run(*words):
        monkeypatch.setattr("sys.argv", ["sartransfer", "prepare", "icechart", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return end.value.code or 0, " ".join(printed.err.split()), printed.out

    return run


def flags():
    from typer.main import get_command

    from sartransfer.cli import app

    chosen = get_command(app).commands["prepare"].commands["icechart"]
    return {flag for parameter in chosen.params for flag in (*parameter.opts, *parameter.secondary_opts)}


def test_every_flag_that_an_error_names_is_one():
    folder = Path(drawing.__file__).parent
    files = [*folder.glob("icechart*.py"), folder.parent / "radar" / "icechart.py"]
    named = {flag for path in files for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", path.read_text())}
    assert named >= {"--layer", "--chart-crs", "--time-column", "--any-time", "--value", "--coding"}
    assert named <= flags()


def test_words_and_numbers_by_the_command(tmp_path, command):
    scene, out = write_ice_scene(tmp_path), tmp_path / "l.tif"
    words = write_chart(tmp_path / f"w_{STAMP}.shp", [LEFT, RIGHT], {"TYPE": ["Fast ice", "open water"]})
    numbers = write_chart(tmp_path / f"n_{STAMP}.shp", [LEFT, RIGHT], {"klass": [1, 0]})
    code, said, _ = command(numbers, scene, "-o", out, "--columns", "CT=klass")
    assert code == 2
    assert "column klass (CT) holds 0, 1" in said
    assert not out.exists()
    wanted = np.repeat([1, 0], 40)[None].repeat(60, axis=0)
    for chart, more in (
        (numbers, ("--columns", "POLY_TYPE=klass", "--value", "1=I", "--value", "0=W")),
        (numbers, ("--columns", "CT=klass", "--value", "1=92", "--value", "0=00")),
        (numbers, ("--columns", "CT=klass", "--coding", "egg")),
        (
            words,
            ("--columns", "poly_type=TYPE", "--value", "fast ice=I", "--value", "POLY_TYPE:Open Water=w"),
        ),
    ):
        code, said, _ = command(chart, scene, "-o", out, "--overwrite", *more)
        assert (code, said) == (0, "")
        np.testing.assert_array_equal(read_label(out), wanted)
    for more, said in (
        (("--value", "ice"), "give TEXT=CODE"),
        (("--value", "ice=I", "--value", "ice=W"), "means I already"),
        (("--value", "ice=44"), "values of CT are named"),
        (("--value", "POLY_TYPE:ice=44"), "no code of POLY_TYPE"),
        (("--coding", "sigrid"), "sigrid3, egg"),
        (("--undetermined", "SA=x"), "give ROLE=CODE,CODE"),
        (("--undetermined", "XX=1"), "column of an ice chart='XX'"),
        (("--edges", "all"), "polygons, labels"),
    ):
        code, err, _ = command(words, scene, "-o", out, "--overwrite", "--columns", "POLY_TYPE=TYPE", *more)
        assert code == 2
        assert said in err


def test_the_command_leads_out_of_every_dead_end(tmp_path, command):
    import pyogrio

    scene, out = write_ice_scene(tmp_path), tmp_path / "l.tif"
    chart = write_chart(
        tmp_path / "two.gpkg", [LEFT, RIGHT], {"CT": ["90", "00"], "SA": [13, -9], "AT": [STAMP] * 2}
    )
    pyogrio.raw.write(
        chart, shapely.to_wkb(np.array([BOX])), [np.array(["x"], object)], ["a"],
        layer="meta", geometry_type="Polygon", crs="EPSG:3413", append=True,
    )  # fmt: skip
    given = []
    for asked, more in (
        ("--layer", ("--layer", "two")),
        ("--undetermined", ("--undetermined", "SA=13")),
        ("--time-column", ("--time-column", "AT")),
    ):
        code, said, _ = command(chart, scene, "-o", out, *given)
        assert code == 2
        assert asked in said
        given += more
    code, said, _ = command(chart, scene, "-o", out, *given, "--buffer", 600, "--edges", "labels")
    assert (code, said) == (0, "")
    assert (read_label(out)[:, 30:50] == np.repeat([1, 255, 0], [9, 2, 9])).all()
    assert (
        command(chart, scene, "-o", out, "--overwrite", *given[:4], "--chart-time", "2018-01-16T08:00:00")[0]
        == 0
    )
    code, said, _ = command(chart, scene, "-o", out, "--overwrite", *given[:4], "--any-time")
    assert (code, said) == (0, "warning: the time between chart and scene was not checked")
    lost = write_chart(tmp_path / f"{STAMP}_lost.shp", [LEFT, RIGHT], {"CT": ["90", "00"]})
    lost.with_suffix(".prj").unlink()
    code, said, _ = command(lost, scene, "-o", out, "--overwrite")
    assert (code, "--chart-crs" in said) == (2, True)
    assert command(lost, scene, "-o", out, "--overwrite", "--chart-crs", PLACE.crs)[0] == 0
    for more in (
        ("--any-time", "--chart-time", "2018-01-16"),
        ("--time-column", "AT", "--chart-time", "2018-01-16"),
    ):
        assert command(lost, scene, "-o", out, "--overwrite", *more)[0] == 2
