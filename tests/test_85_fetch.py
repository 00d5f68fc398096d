"""Images of a flood from archives: a STAC server on loopback with items of the real form, and their COGs over HTTP."""

import copy
import json
from datetime import UTC, datetime

import numpy as np
import pytest
import rasterio
from shapely.geometry import box, mapping
from small_stac import RTC, SearchServer, StaticServer, rtc_item, rustac_server

from sartransfer import open_scene
from sartransfer.errors import FetchError, InputError, OutputError, SartransferError, UnitError
from sartransfer.fetch import (
    PRESETS,
    FloodRequest,
    fetch_flood,
    open_archive,
    parse_box,
    parse_period,
    plan_flood,
    read_area,
    read_provenance,
)
from sartransfer.fetch import flood as flood_module
from sartransfer.fetch import stac as stac_module
from sartransfer.fetch.passes import Acquisition, choose_passes, covered_share, passes_of, usable
from sartransfer.fetch.request import area_mask, parse_area, plan_grid, utm_code
from sartransfer.fetch.stac import acquisition_of, bare_address, own_endpoint
from sartransfer.radar.speckle import SpeckleFilter, lee

# odc-stac, odc-geo and rasterio call affine and shapely in ways that these deprecate.
pytestmark = [
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

CRS, LEFT, TOP = 32630, 720000.0, 4370000.0  # in Valencia's zone; a grid of multiples of 10 m
HEIGHT, WIDTH = 60, 80
BEFORE, AFTER = "2024-10-07/2024-10-28", "2024-10-30/2024-11-11"
NAME = "S1A_IW_GRDH_1SDV_{0}T061254_{0}T061319_056344_06E6A5_rtc"


def power(seed, shape=(2, HEIGHT, WIDTH), mean=0.05):
    """Backscatter of 4.4 looks, (bands, H, W)."""
    return np.random.default_rng(seed).gamma(4.4, mean / 4.4, shape).astype(np.float32)


def area_file(folder, left=LEFT + 100, top=TOP - 100, right=LEFT + 700, bottom=TOP - 500):
    """A polygon in degrees that lies within a box of the projection, as a GeoJSON file."""
    from rasterio.warp import transform_geom

    geometry = transform_geom(f"EPSG:{CRS}", "EPSG:4326", mapping(box(left, bottom, right, top)))
    path = folder / "area.geojson"
    path.write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": geometry}))
    return path


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setitem(stac_module.HTTP_OPTIONS, "GDAL_HTTP_MAX_RETRY", "0")  # the tests wait for no server
    with StaticServer(tmp_path / "archive") as server:
        yield server


@pytest.fixture
def items(files):
    """Two passes of orbit 8 and decoys: another orbit (before only), another mode, one polarization, elsewhere."""
    base = {"left": LEFT, "top": TOP}
    return [
        rtc_item(files, NAME.format("20241007"), power(1), **base),
        rtc_item(files, NAME.format("20241019"), power(2), **base),
        rtc_item(files, NAME.format("20241031"), power(3), **base),
        rtc_item(files, NAME.format("20241020"), power(4), orbit=103, state="ascending", **base),
        rtc_item(files, NAME.format("20241021").replace("IW", "EW"), power(5), **base),
        rtc_item(files, NAME.format("20241022"), power(6)[:1], polarizations=("VV",), **base),
        rtc_item(files, NAME.format("20241023"), power(7), left=LEFT + 50_000, top=TOP),
    ]  # fmt: skip


@pytest.fixture(params=["own", "rustac"])
def endpoint(request, items, tmp_path):
    """A STAC API over the items: the tests' own server, and rustac's."""
    if request.param == "own":
        with SearchServer(items) as server:
            yield server.url
    else:
        with rustac_server(items, tmp_path) as url:
            yield url


@pytest.fixture
def own(items):
    with SearchServer(items) as server:
        yield server


def request_of(folder, **more):
    area = more.pop("area", None) or read_area(area_file(folder))
    return FloodRequest(area, parse_period(BEFORE), parse_period(AFTER), **more)


def archive_of(url):
    return open_archive(endpoint=url, collection=RTC)


def test_two_dates_come_from_a_stac_server_as_the_cogs_hold_them(endpoint, files, tmp_path):
    plan = plan_flood(request_of(tmp_path), archive_of(endpoint))
    assert [f.id for f in plan.frames("before")] == [NAME.format("20241019")]  # the last one before
    assert [f.id for f in plan.frames("after")] == [NAME.format("20241031")]
    assert "descending, relative orbit 8" in plan.choice.why
    assert plan.dropped["before"] == {
        "mode EW, not IW": 1,
        "without VH": 1,
    }  # the one elsewhere was not even sent
    assert not any(name.endswith(".tiff") for _, name, _ in files.asked)  # nothing was loaded yet
    assert plan.bytes_to_load == 2 * plan.grid.height * plan.grid.width * 2 * 4

    made = fetch_flood(plan, tmp_path / "out")
    grid = plan.grid
    row, col = round((TOP - grid.top) / 10), round((grid.left - LEFT) / 10)
    assert (grid.crs, grid.left % 10, grid.top % 10) == ("EPSG:32630", 0.0, 0.0)
    for path, seed in ((made.before, 2), (made.after, 3)):
        scene = open_scene(path)
        assert [(b.name, str(b.unit), b.polarization) for b in scene.bands] == [
            ("gamma0_vv", "gamma0", "VV"), ("gamma0_vh", "gamma0", "VH"),
        ]  # fmt: skip
        data, valid = scene.read()
        # the grid lies on the archive's pixels: what is read is what the files hold, to the last bit
        np.testing.assert_array_equal(data, power(seed)[:, row : row + grid.height, col : col + grid.width])
        assert valid.all()
    assert made.coverage == {"before": 1.0, "after": 1.0}
    assert made.warnings == ()
    kept = read_provenance(tmp_path / "out")
    assert kept["unit"] == "gamma0"
    assert kept["archive"]["collection"] == RTC
    assert kept["items"]["after"][0] == {
        "id": NAME.format("20241031"), "time": "2024-10-31T06:12:54.653288+00:00", "platform": "SENTINEL-1A",
        "mode": "IW", "pass": "descending", "relative_orbit": 8, "polarizations": ["VV", "VH"],
    }  # fmt: skip
    assert kept["not_taken"]["before"] == [NAME.format("20241007"), NAME.format("20241020")]
    assert not (tmp_path / "out" / ".fetch").exists()


def test_all_pages_of_a_search_are_read_and_only_what_every_server_knows_is_asked(own, tmp_path):
    own.page = 1
    plan = plan_flood(request_of(tmp_path), archive_of(own.url))
    assert len(plan.found["before"]) == 3
    first = own.asked[0]
    assert first.keys() == {"collections", "intersects", "datetime", "limit"}
    assert first["datetime"] == "2024-10-07T00:00:00Z/2024-10-28T23:59:59Z"
    assert len(own.asked) > 4  # one page an item


def test_decibels_and_a_speckle_filter_are_what_the_functions_make_of_the_loaded_power(own, tmp_path):
    filtered = request_of(tmp_path, speckle=SpeckleFilter("lee", looks=4.4, size=5), decibel=True)
    made = fetch_flood(plan_flood(filtered, archive_of(own.url)), tmp_path / "db")
    plain = fetch_flood(plan_flood(request_of(tmp_path), archive_of(own.url)), tmp_path / "plain")
    raw, _ = open_scene(plain.after).read()
    scene = open_scene(made.after)
    assert [str(b.unit) for b in scene.bands] == ["gamma0_db", "gamma0_db"]
    assert scene.names == ("gamma0_vv_db", "gamma0_vh_db")
    expected = 10 * np.log10([lee(band, 4.4, size=5) for band in raw])
    np.testing.assert_allclose(scene.read().data, expected, rtol=0, atol=1e-4)


def test_a_coarser_grid_holds_means_of_power(own, tmp_path):
    plan = plan_flood(request_of(tmp_path, resolution=20.0), archive_of(own.url))
    made = fetch_flood(plan, tmp_path / "out")
    data, _ = open_scene(made.after).read()
    row, col = round((TOP - plan.grid.top) / 10), round((plan.grid.left - LEFT) / 10)
    block = power(3)[:, row : row + 2 * plan.grid.height, col : col + 2 * plan.grid.width]
    means = block.reshape(2, plan.grid.height, 2, plan.grid.width, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(data, means, rtol=1e-5)


def test_an_interrupted_fetch_goes_on_with_the_parts_it_lacks(own, files, tmp_path, monkeypatch):
    monkeypatch.setattr(flood_module, "PART", 32)
    out = tmp_path / "out"
    plan = plan_flood(request_of(tmp_path), archive_of(own.url))
    files.broken = {"20241031"}
    with pytest.raises(FetchError, match=r"cannot be read.*what has been read is kept"):
        fetch_flood(plan, out)
    assert not (out / "before.tif").exists()
    parts = sorted(p.name for p in (out / ".fetch" / plan.digest()).glob("*.npy"))
    assert parts
    assert all(p.startswith("before") for p in parts)
    (out / ".fetch" / plan.digest() / parts[0]).write_bytes(b"torn")  # a torn part is loaded again
    files.broken, files.asked = set(), []
    seen = []
    made = fetch_flood(plan, out, progress=lambda done, of: seen.append((done, of)))
    asked = [name for _, name, _ in files.asked if name.endswith(".tiff")]
    assert any("20241031" in name for name in asked)
    assert seen[-1] == (8, 8)
    assert len(parts) == 4
    again = fetch_flood(plan_flood(request_of(tmp_path), archive_of(own.url)), tmp_path / "whole")
    for one, two in ((made.before, again.before), (made.after, again.after)):
        np.testing.assert_array_equal(open_scene(one).read().data, open_scene(two).read().data)


def test_parts_that_are_whole_are_not_loaded_twice(own, files, tmp_path):
    out, plan = tmp_path / "out", plan_flood(request_of(tmp_path), archive_of(own.url))
    files.broken = {"20241031"}
    with pytest.raises(FetchError):
        fetch_flood(plan, out)
    files.broken, files.asked = set(), []
    fetch_flood(plan, out)
    assert not any("20241019" in name for _, name, _ in files.asked)


def test_nodata_of_the_archive_counts_against_the_coverage(files, items, tmp_path):
    torn = power(8)
    torn[:, :, 30:] = -32768.0
    items[2] = rtc_item(files, NAME.format("20241031"), torn, left=LEFT, top=TOP)
    with SearchServer(items) as server:
        plan = plan_flood(request_of(tmp_path), archive_of(server.url))
        share = (300 - 100) / 600  # of the 60 columns of the area, 20 lie left of column 30
        with pytest.raises(FetchError, match=r"3\d\.\d% of the area's pixels have a value after"):
            fetch_flood(plan, tmp_path / "out")
        assert not (tmp_path / "out" / "after.tif").exists()
        lax = plan_flood(request_of(tmp_path, min_coverage=0.2), archive_of(server.url))
        made = fetch_flood(lax, tmp_path / "out")
    assert made.coverage["after"] == pytest.approx(share, abs=0.03)
    assert any("has no value after" in w for w in made.warnings)
    data, valid = open_scene(made.after).read()
    assert np.isnan(data[:, ~valid]).all()
    assert (data[:, valid] > 0).all()


def test_two_frames_of_a_pass_are_joined(files, tmp_path):
    whole = power(11)
    items = [rtc_item(files, NAME.format("20241019"), power(10), left=LEFT, top=TOP)]
    for number, rows in enumerate((slice(0, 35), slice(25, 60))):  # they overlap, as slices of a pass do
        name = f"S1A_IW_GRDH_1SDV_20241031T0612{10 + 25 * number}_20241031T061319_056344_06E6A{number}_rtc"
        items.append(rtc_item(files, name, whole[:, rows], left=LEFT, top=TOP - 10 * rows.start))
    with SearchServer(items) as server:
        plan = plan_flood(request_of(tmp_path), archive_of(server.url))
        assert len(plan.passes("after")) == 1
        assert len(plan.frames("after")) == 2
        made = fetch_flood(plan, tmp_path / "out")
    row, col = round((TOP - plan.grid.top) / 10), round((plan.grid.left - LEFT) / 10)
    expected = whole[:, row : row + plan.grid.height, col : col + plan.grid.width]
    np.testing.assert_array_equal(open_scene(made.after).read().data, expected)


def test_later_passes_lie_on_top_where_they_have_a_value(files, items, tmp_path):
    torn = power(2)
    torn[:, :30] = -32768.0  # the later pass before the flood lacks its upper half
    items[1] = rtc_item(files, NAME.format("20241019"), torn, left=LEFT, top=TOP)
    with SearchServer(items) as server:
        plan = plan_flood(request_of(tmp_path, dates="all"), archive_of(server.url))
        assert [f.time.day for f in plan.frames("before")] == [7, 19]
        made = fetch_flood(plan, tmp_path / "out")
    row, col = round((TOP - plan.grid.top) / 10), round((plan.grid.left - LEFT) / 10)
    both = np.where(torn > 0, torn, power(1))[:, row : row + plan.grid.height, col : col + plan.grid.width]
    np.testing.assert_array_equal(open_scene(made.before).read().data, both)


def frame(day, orbit=8, state="descending", west=0.0, east=1.0, hour=6, platform="SENTINEL-1A", **more):
    """A frame over 0 to 1 degrees of latitude."""
    values = {"polarizations": ("VV", "VH"), "mode": "IW"} | more
    return Acquisition(
        f"{state}-{orbit}-{day}-{hour}-{west:g}", datetime(2024, 10, day, hour, tzinfo=UTC), state, orbit,
        box(west, 0, east, 1), platform=platform, **values,
    )  # fmt: skip


UNIT_BOX = parse_box("0,0,1,1")


def simple(**more):
    return FloodRequest(
        UNIT_BOX, parse_period("2024-10-01/2024-10-15"), parse_period("2024-10-16/2024-10-31"), **more
    )


def test_the_orbit_is_the_one_that_covers_most_before_and_after():
    before = [frame(1, 8, west=0.4), frame(2, 30, east=0.7), frame(3, 81)]
    after = [frame(20, 8), frame(21, 30), frame(22, 81, east=0.3)]
    chosen = choose_passes(before, after, simple())
    # smaller of the two coverages: orbit 8 .6, orbit 30 .7, orbit 81 .3
    assert chosen.before[0].orbit == chosen.after[0].orbit == ("descending", 30)
    assert chosen.before[0].coverage == pytest.approx(0.7)
    assert chosen.warnings == ()


def test_ascending_and_descending_of_one_number_are_two_orbits():
    with pytest.raises(FetchError, match=r"no relative orbit has images both before \(descending 8\)"):
        choose_passes([frame(1, 8)], [frame(20, 8, "ascending")], simple())


def test_orbits_are_mixed_only_where_that_is_asked_for_and_then_with_a_warning():
    before, after = [frame(1, 8)], [frame(20, 30)]
    with pytest.raises(FetchError, match="--mix-orbits"):
        choose_passes(before, after, simple())
    chosen = choose_passes(before, after, simple(mix_orbits=True))
    assert (chosen.before[0].orbit[1], chosen.after[0].orbit[1]) == (8, 30)
    assert "orbit descending 8, after of descending 30" in chosen.warnings[0]
    both = choose_passes([*before, frame(2, 30, east=0.2)], after, simple(mix_orbits=True))
    assert both.before[0].orbit == both.after[0].orbit  # allowed is not wanted: a shared orbit is taken


def test_of_passes_that_cover_alike_the_last_before_and_the_first_after_are_taken():
    before, after = [frame(1), frame(13)], [frame(18), frame(30)]
    chosen = choose_passes(before, after, simple())
    assert (chosen.before[0].time.day, chosen.after[0].time.day) == (13, 18)
    partial = choose_passes([*before[:1], frame(13, east=0.5)], after, simple())
    assert partial.before[0].time.day == 1
    every = choose_passes(before, after, simple(dates="all"))
    assert [p.time.day for p in every.before] == [1, 13]


def test_frames_of_one_minute_are_one_pass_and_those_of_two_satellites_are_two():
    frames = [
        frame(1, east=0.5),
        frame(1, west=0.4),
        frame(7, platform="SENTINEL-1B"),
        frame(1, hour=18, orbit=9),
    ]
    found = passes_of(frames, UNIT_BOX)
    assert [len(p.frames) for p in found] == [2, 1, 1]
    assert covered_share(found[0].frames, UNIT_BOX) == pytest.approx(1.0)
    assert covered_share(frames[:1], UNIT_BOX) == pytest.approx(0.5)


def test_filters_say_what_they_take_out():
    found = [frame(1), frame(2, mode="EW"), frame(3, polarizations=("HH",)), frame(4, orbit=9), frame(5, "x")]
    found[4] = frame(5, state="ascending")
    kept, dropped = usable(found, simple(relative_orbit=8, orbit_pass="descending"))
    assert [k.time.day for k in kept] == [1]
    assert dropped == {
        "mode EW, not IW": 1, "without VV and VH": 1, "not of relative orbit 8": 1, "not descending": 1,
    }  # fmt: skip
    aside = usable([frame(1, west=5, east=6)], simple())[1]
    assert aside == {"beside the area": 1}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"before": "2024-09-01/2024-09-10"}, "no image before .* the archive has none. Widen the period"),
        ({"orbit_pass": "ascending"}, "no image after .* 1 not ascending"),
        ({"relative_orbit": 103}, "no image after .*relative orbit 103"),
    ],
)
def test_empty_answers_say_why(own, tmp_path, more, message):
    before = parse_period(more.pop("before", BEFORE))
    asked = FloodRequest(read_area(area_file(tmp_path)), before, parse_period(AFTER), **more)
    with pytest.raises(FetchError, match=message):
        plan_flood(asked, archive_of(own.url))


def test_partial_coverage_is_told_before_anything_is_loaded(own, files, tmp_path):
    wide = read_area(area_file(tmp_path, right=LEFT + 1600))  # the images end at LEFT + 800
    with pytest.raises(FetchError, match=r"cover 4\d\.\d% of the area by their footprints, less than 95%"):
        plan_flood(request_of(tmp_path, area=wide), archive_of(own.url))
    assert not files.asked


@pytest.mark.parametrize("answer", ["nothing", "html", "error"])
def test_a_server_that_does_not_answer_is_told_in_one_sentence(own, answer, tmp_path, monkeypatch):
    url = own.url
    if answer == "nothing":
        url = "http://127.0.0.1:9"
    else:

        def reply(self, value, status=200):
            body = (
                b"<html>hello</html>" if answer == "html" else b'{"code": "x", "description": "overloaded"}'
            )
            self.answer(200 if answer == "html" else 500, body)

        monkeypatch.setattr("small_stac.Search.reply", reply)
    with pytest.raises(FetchError, match=url.replace(".", r"\.")):
        plan_flood(request_of(tmp_path), archive_of(url))


def test_items_must_say_their_orbit_or_let_it_be_worked_out(files, items, tmp_path):
    for item in items:
        del item["properties"]["sat:relative_orbit"]
        item["properties"]["sat:absolute_orbit"] = (
            39156  # of Sentinel-1A: relative orbit 59 (ESA's own metadata)
        )
    with SearchServer(items) as server:
        plan = plan_flood(request_of(tmp_path, orbit_pass="descending"), archive_of(server.url))
        assert plan.frames("after")[0].relative_orbit == 59
        for item in items:
            del item["properties"]["sat:absolute_orbit"]
        with pytest.raises(
            FetchError, match=r"3 without a relative orbit or pass .needed unless --mix-orbits"
        ):
            plan_flood(request_of(tmp_path), archive_of(server.url))
        mixed = plan_flood(
            request_of(tmp_path, mix_orbits=True, orbit_pass="descending"), archive_of(server.url)
        )
        # two that do not say their orbit are not of one orbit
        assert mixed.choice.warnings == (
            "before is of orbit descending not known, after of descending not known: differences of geometry look "
            "like change.",
        )


def test_one_item_without_an_orbit_does_not_stop_a_search(call, items, tmp_path):
    with SearchServer(items) as server:
        whole = plan_flood(request_of(tmp_path), archive_of(server.url))
    lacking = copy.deepcopy(items[1])
    del lacking["properties"]["sat:relative_orbit"]
    lacking["properties"]["platform"] = "SENTINEL-1E"  # whose first orbit nobody knows
    other = copy.deepcopy(lacking)
    lacking["id"], other["id"] = lacking["id"] + "x", other["id"] + "y"
    other["properties"] |= {"sat:relative_orbit": 8, "sat:orbit_state": None}
    with SearchServer([lacking, *items, other]) as server:
        plan = plan_flood(request_of(tmp_path), archive_of(server.url))
        for period in ("before", "after"):
            assert [f.id for f in plan.frames(period)] == [f.id for f in whole.frames(period)]
        told = "without a relative orbit or pass (needed unless --mix-orbits)"
        assert sum(d.get(told, 0) for d in plan.dropped.values()) == 2
        code, out, err = call(
            "fetch", "flood", "--area", area_file(tmp_path), "--before", BEFORE, "--after", AFTER, "--endpoint",
            server.url, "--collection", RTC, "--dry-run",
        )  # fmt: skip
        assert code == 0, err
        assert "2 without a relative orbit or pass" in " ".join(out.split())


@pytest.mark.parametrize(
    ("platform", "absolute", "relative"),
    [
        ("sentinel-1a", 39156, 59),
        ("SENTINEL-1B", 10788, 87),  # S1B_IW_SLC__1SDV_20180505T161525_..., its manifest
        ("sentinel-1c", 1681, 110),
        ("sentinel-1c", 8018, 147),  # the last before it was moved
        ("sentinel-1c", 8019, 46),
        ("sentinel-1d", 42, 1),
        ("sentinel-1e", 1, None),
    ],
)
def test_absolute_orbits_become_relative_ones(platform, absolute, relative, items):
    import pystac

    said = copy.deepcopy(items[0])
    del said["properties"]["sat:relative_orbit"]
    said["properties"] |= {"platform": platform, "sat:absolute_orbit": absolute}
    item = pystac.Item.from_dict(said)
    assert acquisition_of(item).relative_orbit == relative
    item.datetime = None
    del item.properties["start_datetime"]
    with pytest.raises(FetchError, match="does not say its time"):
        acquisition_of(item)


def test_an_item_cannot_make_this_machine_read_its_own_files(files, items, tmp_path):
    for item in items:
        for asset in item["assets"].values():
            asset["href"] = str(files.folder / asset["href"].split("/", 3)[3])
    with SearchServer(items) as server:
        plan = plan_flood(request_of(tmp_path), archive_of(server.url))
        with pytest.raises(FetchError, match="only http, https and s3 addresses are read"):
            fetch_flood(plan, tmp_path / "out")


def test_files_that_are_there_are_kept_unless_they_may_be_replaced(own, tmp_path):
    plan = plan_flood(request_of(tmp_path), archive_of(own.url))
    fetch_flood(plan, tmp_path / "out")
    with pytest.raises(OutputError, match="--overwrite"):
        fetch_flood(plan, tmp_path / "out")
    fetch_flood(plan, tmp_path / "out", overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        fetch_flood(plan, tmp_path / "file")


def test_units_are_known_by_collection_or_must_be_said():
    assert str(archive_of("https://stac.example.org/v1").unit) == "gamma0"
    assert str(open_archive("planetary-computer").unit) == "gamma0"
    assert str(open_archive("copernicus").unit) == "sigma0"
    with pytest.raises(UnitError, match="say it"):
        open_archive(endpoint="https://stac.example.org", collection="s1-of-ours")
    assert str(open_archive(endpoint="https://x.org", collection="ours", unit="sigma0_db").unit) == "sigma0"
    with pytest.raises(UnitError, match="must be gamma0 or sigma0"):
        open_archive(endpoint="https://x.org", collection="ours", unit="optical")
    for words in ({"source": "nasa"}, {"endpoint": "ftp://x.org", "collection": RTC}, {"endpoint": "https://x.org"},
                  {"source": "copernicus", "endpoint": "https://x.org", "collection": RTC}):  # fmt: skip
        with pytest.raises(InputError):
            open_archive(**words)
    assert own_endpoint("https://x.org/stac/", RTC, None).url == "https://x.org/stac"
    assert bare_address("https://a.org/b/c.tif?sig=secret#x") == "https://a.org/b/c.tif"


def test_periods_are_whole_days_and_areas_are_degrees(tmp_path):
    period = parse_period("2024-10-07/2024-10-08")
    assert (period.end - period.start).total_seconds() == 2 * 86400 - 1
    assert str(parse_period("2024-10-07T06:00:00+02:00/2024-10-08T00:00:00Z")).startswith(
        "2024-10-07T04:00:00Z"
    )
    assert parse_period("2024-10-19") == parse_period("2024-10-19/2024-10-19")
    assert str(parse_period(" 2024-10-19 ")) == "2024-10-19T00:00:00Z/2024-10-19T23:59:59Z"
    for text in (
        "2024-10-07T06:00:00",
        "2024-10",
        "10/07/2024",
        "2024-13-01",
        "a/b",
        "2024-10-08/2024-10-07",
        "1/2/3",
    ):
        with pytest.raises(InputError, match="period"):
            parse_period(text)
    with pytest.raises(InputError, match="swapped"):
        FloodRequest(UNIT_BOX, parse_period(AFTER), parse_period(BEFORE))
    for box_words in ("1,2,3", "3,0,1,1", "500000,4000000,510000,4100000", "-170,0,170,1"):
        with pytest.raises(InputError):
            parse_box(box_words)
    parts = {"type": "FeatureCollection", "features": [
        {"type": "Feature", "properties": {}, "geometry": mapping(box(0, 0, 1, 1))},
        {"type": "Feature", "properties": {}, "geometry": mapping(box(0.5, 0, 2, 1))},
    ]}  # fmt: skip
    assert parse_area(parts).geometry.area == pytest.approx(2.0)
    for bad in ([], {"type": "Point", "coordinates": [0, 0]}, {"type": "FeatureCollection", "features": []},
                {"type": "Polygon", "coordinates": [[["a", 0]]]}, {"type": "Polygon"}):  # fmt: skip
        with pytest.raises(InputError):
            parse_area(bad)
    (tmp_path / "bad.geojson").write_text("{")
    with pytest.raises(InputError, match="cannot be read as GeoJSON"):
        read_area(tmp_path / "bad.geojson")
    with pytest.raises(InputError, match="not there"):
        read_area(tmp_path / "none.geojson")
    for values in ({"polarizations": ("HH",)}, {"polarizations": ()}, {"orbit_pass": "down"}, {"relative_orbit": 176},
                   {"resolution": 0.0}, {"dates": "two"}, {"min_coverage": 2.0}):  # fmt: skip
        with pytest.raises(SartransferError):
            simple(**values)


def test_the_grid_holds_the_area_and_lies_on_multiples_of_the_resolution():
    request = simple(resolution=100.0)
    grid = plan_grid(request)
    assert grid.crs == "EPSG:32631"
    assert grid.left % 100 == grid.top % 100 == 0
    # one degree at the equator is 111 km; the edge of a zone lies 0.1 % larger than true
    assert grid.width == pytest.approx(1113.2 * 1.001, rel=5e-3)
    assert grid.height == pytest.approx(1105.7 * 1.001, rel=5e-3)
    assert area_mask(UNIT_BOX, grid).mean() > 0.98
    assert utm_code(-0.4, 39.3) == "EPSG:32630"
    assert utm_code(19.0, -33.0) == "EPSG:32734"
    assert utm_code(180.0, 1.0) == "EPSG:32660"
    with pytest.raises(InputError, match="Cut the area into parts"):
        plan_grid(FloodRequest(parse_box("0,0,3,3"), parse_period(BEFORE), parse_period(AFTER)))
    for crs in ("EPSG:4326", "EPSG:0", "EPSG:2263"):  # degrees, nothing, feet
        with pytest.raises(InputError, match="crs="):
            plan_grid(simple(resolution=100.0, crs=crs))
    tiny = FloodRequest(
        parse_box("0.00001,0.00001,0.00002,0.00002"), parse_period(BEFORE), parse_period(AFTER)
    )
    assert area_mask(tiny.area, plan_grid(tiny)).any()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_whole_and_say_that_they_are_inferred(name):
    preset = PRESETS[name]
    request = FloodRequest(
        preset.area, preset.before, preset.after, orbit_pass=preset.orbit_pass, note=preset.note
    )
    assert "inferred" in preset.note
    assert len(preset.reasons) >= 3
    # every orbit of one satellite comes back after 12 days: one pass of each at least in either period
    for period in (preset.before, preset.after):
        assert (period.end - period.start).days >= 12
    grid = plan_grid(request)
    assert 1000 < grid.height < 12000
    assert 1000 < grid.width < 12000


def test_the_command_lists_fetches_and_refuses(call, own, files, tmp_path):
    words = ["fetch", "flood", "--area", area_file(tmp_path), "--before", BEFORE, "--after", AFTER,
             "--endpoint", own.url, "--collection", RTC]  # fmt: skip
    code, out, err = call(*words, "--dry-run")
    assert code == 0, err
    assert NAME.format("20241019") in out.replace("\n", "") or "2024-10-19" in out
    assert "relative orbit 8" in out.replace("\n", " ")
    assert not files.asked
    code, out, err = call(*words, "-o", tmp_path / "out", "--db")
    assert code == 0, err
    with rasterio.open(tmp_path / "out" / "after.tif") as file:
        assert file.descriptions == ("gamma0_vv_db", "gamma0_vh_db")
    code, out, err = call(*words, "-o", tmp_path / "out")
    assert (code, "exists already" in err) == (2, True)
    code, out, err = call(
        "fetch", "flood", "--area", area_file(tmp_path), "--endpoint", own.url, "-o", tmp_path / "x"
    )
    assert code == 2
    assert "--before" in err
    code, out, err = call("fetch", "flood", "--preset", "valenica", "-o", tmp_path / "x")
    assert code == 2
    assert "valencia" in err
    code, out, err = call(*words)
    assert code == 2
    assert "--out" in err


def test_a_preset_is_written_down_as_inferred(call, own, tmp_path):
    preset = PRESETS["valencia"]
    code, _out, err = call("fetch", "flood", "--preset", "valencia", "--area", area_file(tmp_path),
                          "--endpoint", own.url, "--collection", RTC, "-o", tmp_path / "out")  # fmt: skip
    assert code == 0, err
    kept = read_provenance(tmp_path / "out")
    assert kept["note"].startswith("Valencia, October 2024; inferred")
    assert kept["periods"]["before"] == str(preset.before)
