"""Sentinel-1 products of the real layout, written here without the reader; numbers worked out by hand."""

import contextlib
import json
import os
import shutil
import tracemalloc
import warnings
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
from small_safe import (
    Swath,
    angle_at,
    file_names,
    make_product,
    polar_stereographic,
    product_name,
    write_product,
    zip_product,
)

from sartransfer.errors import InputError, OutputError, UnitError
from sartransfer.geotiff import open_geotiff, quiet
from sartransfer.prepare.sentinel1 import prepare_sentinel1
from sartransfer.radar.calibration import LineVectors, calibrate, decibels, floor_power, multilook
from sartransfer.radar.geolocation import GeolocationGrid, build_grid_map
from sartransfer.radar.noise import NoiseBlock, build_noise
from sartransfer.radar.units import parse_unit
from sartransfer.readers import open_scene
from sartransfer.readers import sentinel1 as reading
from sartransfer.readers.sentinel1 import is_sentinel1, open_sentinel1, read_backscatter
from sartransfer.readers.sentinel1_annotation import read_sentinel1_annotation
from sartransfer.scene import Band, Window

REAL = "S1A_EW_GRDM_1SDH_20221130T014342_20221130T014446_046117_058549_BB15"


def on_map(place, row, column):
    """x and y of a point of an image without rotation."""
    return place.c + place.a * column, place.f + place.e * row


def array(*values):
    return np.array(values, dtype=np.float64)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture(scope="module")
def real():
    root = os.environ.get("SARTRANSFER_DATA")
    if not root or not (Path(root) / REAL).is_dir():
        pytest.skip("SARTRANSFER_DATA does not name a folder with the real Sentinel-1 product")
    return Path(root) / REAL


@pytest.fixture(scope="module")
def real_copy(real, tmp_path_factory):
    """The real product renamed as its manifest says, with simulated images of the real size: 0 but near pixel 4000."""
    folder = tmp_path_factory.mktemp("real") / f"{REAL}.SAFE"
    names = json.loads((real / "productInfo.json").read_text())["filenameMap"]
    for name, short in names.items():
        if (real / short).is_file() and not name.startswith(REAL):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(real / short, folder / name)
    manifest = (folder / "manifest.safe").read_text()
    for pol in ("hh", "hv"):
        number = {"hh": "001", "hv": "002"}[pol]
        image = f"measurement/s1a-ew-grd-{pol}-20221130t014342-20221130t014446-046117-058549-{number}.tiff"
        assert f'href="./{image}"' in manifest
        with rasterio.open(
            folder / image, "w", driver="GTiff", dtype="uint16", count=1, height=10708, width=10487,
            sparse_ok=True, crs="EPSG:4326", transform=rasterio.Affine(1e-3, 0, 75, 0, -1e-3, 82),
        ) as file:  # fmt: skip
            counts = np.random.default_rng(len(pol)).integers(20, 900, (8, 60)).astype(np.uint16)
            file.write(counts, 1, window=rasterio.windows.Window(3990, 4004, 60, 8))
    return folder


# --- arrays ---


def test_line_vectors_are_bilinear_as_worked_out_one_by_one(rng):
    pixels = (array(0, 3, 10), array(0, 4, 5, 10), array(2, 10))  # not the same in every line
    values = tuple(rng.normal(size=len(p)) for p in pixels)
    lines = array(0, 7, 9)
    rows, columns = array(0, 1, 6.5, 7, 8, 9, 12), array(0, 1, 2.5, 4, 9, 10, 11)

    def along(i, x):
        at, v = pixels[i], values[i]
        if x <= at[0] or x >= at[-1]:
            return v[0] if x <= at[0] else v[-1]
        k = max(j for j in range(len(at)) if at[j] <= x)
        return v[k] + (v[k + 1] - v[k]) * (x - at[k]) / (at[k + 1] - at[k])

    def point(y, x):
        if y >= lines[-1]:
            return along(2, x)
        k = max(j for j in range(3) if lines[j] <= y)
        t = (y - lines[k]) / (lines[k + 1] - lines[k])
        return (1 - t) * along(k, x) + t * along(k + 1, x)

    expected = [[point(y, x) for x in columns] for y in rows]
    np.testing.assert_allclose(LineVectors(lines, pixels, values).at(rows, columns), expected, rtol=1e-13)
    one = LineVectors(array(5), (array(0, 10),), (array(1, 2),))
    np.testing.assert_allclose(one.at(array(0, 9), array(5)), [[1.5], [1.5]])


def test_tables_that_do_not_hold_together_are_refused():
    with pytest.raises(InputError, match="as many lines"):
        LineVectors(array(0, 1), (array(0),), (array(1),))
    with pytest.raises(InputError, match="lines of a table must increase"):
        LineVectors(array(1, 1), (array(0), array(0)), (array(1), array(1)))
    with pytest.raises(InputError, match="3 columns and 2 values"):
        LineVectors(array(0), (array(0, 1, 2),), (array(1, 2),))
    with pytest.raises(InputError, match="no numbers"):
        LineVectors(array(0), (array(0, 1),), (array(1, np.nan),))
    with pytest.raises(InputError, match="enclose nothing"):
        NoiseBlock("EW1", 5, 4, 0, 9, array(5), array(1))
    with pytest.raises(InputError, match="2 lines and 1 factors"):
        NoiseBlock("EW1", 0, 9, 0, 9, array(0, 9), array(1))


def test_looks_are_averaged_in_linear_power_and_leave_out_what_is_not_valid():
    power = array([1, 3, 5, 7, 99], [5, 7, 9, 11, 99], [1, 1, 4, 8, 99])
    mean, valid = multilook(power, np.ones(power.shape, bool), 2)
    np.testing.assert_array_equal(mean, [[4, 8]])  # the odd row and column are dropped
    assert valid.all()
    good = np.ones(power.shape, bool)
    good[0, 0] = good[0, 2:4] = good[1, 2] = False
    mean, valid = multilook(power, good, 2)
    np.testing.assert_array_equal(mean, [[5, 11]])
    np.testing.assert_array_equal(valid, [[True, False]])  # 3 of 4, 1 of 4
    with pytest.raises(InputError, match="looks=0"):
        multilook(power, good, 0)


def test_flooring_before_averaging_biases_dark_cross_polarization(rng):
    """Open water in HV at -32 dB under noise of -28 dB; 10.7 equivalent looks, as EW GRDM has."""
    water, noise, table = 10**-3.2, 10**-2.8, 1500.0
    speckle = rng.gamma(10.7, 1 / 10.7, (600, 600))
    counts = np.round(np.sqrt(speckle * (water + noise)) * table).astype(np.uint16)
    power = calibrate(counts, np.full(counts.shape, table), noise * table**2)
    assert (power < 0).mean() > 0.1

    def error_db(image):
        return 10 * np.log10(image.mean()) + 32

    valid = np.ones(power.shape, bool)
    average = multilook(power, valid, 2)[0]
    right = floor_power(average)
    early = multilook(floor_power(power), valid, 2)[0]
    assert np.isfinite(decibels(right)).all()
    assert abs(error_db(average)) < 0.03
    assert abs(error_db(right)) < 0.1
    assert error_db(early) > 0.4  # whatever is averaged afterwards
    assert error_db(multilook(early, valid[::2, ::2], 30)[0]) == pytest.approx(error_db(early))
    assert abs(error_db(floor_power(multilook(power, valid, 60)[0]))) < 0.03


def test_noise_keeps_to_its_sub_swath():
    """Two sub-swaths: the second begins at line 6 and column 5, and column 4 is its own from line 20 on."""
    ranges = LineVectors(
        array(0, 10, 30),
        (array(0, 4, 5, 9), array(0, 4, 5, 9), array(0, 3, 4, 9)),
        (array(100, 140, 0, 0), array(110, 150, 20, 60), array(130, 160, 30, 80)),
    )
    blocks = (
        NoiseBlock("EW1", 0, 19, 0, 4, array(0, 10), array(1.0, 1.2)),
        NoiseBlock("EW2", 6, 19, 5, 9, array(6, 16), array(1.5, 1.0)),
        NoiseBlock("EW1", 20, 30, 0, 3, array(20), array(1.0)),
        NoiseBlock("EW2", 20, 30, 4, 9, array(20, 30), array(1.0, 1.1)),
    )
    noise = build_noise(ranges, blocks)
    rows, columns = np.arange(31.0), np.arange(10.0)
    plain, full = noise.at(rows, columns, azimuth=False), noise.at(rows, columns)
    assert plain[6, 5] == 20  # not 0.6 x 20: the vector of line 0 knows nothing of the second sub-swath
    assert plain[10, 4] == 150
    assert plain[10, 5] == 20
    assert plain[30, 3] == 160
    assert plain[30, 4] == 30
    assert plain[20, 2] == pytest.approx(((110 + 40 * 2 / 4) + (130 + 30 * 2 / 3)) / 2)  # lines 10 and 30
    assert plain[20, 4] == pytest.approx(
        (20 + 30) / 2
    )  # within EW2 alone, though line 10 has column 4 in EW1
    assert full[15, 0] == pytest.approx(plain[15, 0] * 1.3)  # beyond line 10, on with the slope
    assert full[18, 7] == pytest.approx(plain[18, 7] * 0.9)
    assert full[25, 0] == plain[25, 0]
    assert full[25, 9] == pytest.approx(plain[25, 9] * 1.05)
    assert plain[2, 7] == pytest.approx(
        140 + (40 - 140) * 2 / 10
    )  # in no block, where there are no data: all there is
    np.testing.assert_array_equal(noise.at(rows[8:12], columns[3:6]), full[8:12, 3:6])
    with pytest.raises(InputError, match="nothing above 0"):
        build_noise(LineVectors(array(0), (array(0, 9),), (array(0, 0),)))


def ellipsoid(latitude, longitude, height):
    lat, lon = np.radians(latitude), np.radians(longitude)
    e2 = 0.0818191908426215**2
    n = 6378137.0 / np.sqrt(1 - e2 * np.sin(lat) ** 2)
    return array(
        (n + height) * np.cos(lat) * np.cos(lon),
        (n + height) * np.cos(lat) * np.sin(lon),
        (n * (1 - e2) + height) * np.sin(lat),
    )


def test_points_on_mountains_move_down_to_the_sea_along_their_range():
    """Against bisection: at one slant range across the track, the points at 0 m and at the terrain's height."""
    lines, pixels = array(0, 500, 1000), array(0, 500, 1000, 1500)
    heights = array([0, 900, 300, 0], [1500, 0, 0, 2000], [100, 700, 0, 0])
    shape = heights.shape
    grid = {k: np.zeros(shape) for k in ("latitude", "longitude", "incidence", "slant")}
    sea = np.zeros((*shape, 2))
    sea_angle = np.zeros(shape)
    for i in range(3):  # the antenna flies north along a meridian and looks east, along a parallel nearly
        lat = 74.0 + 0.2 * i
        antenna = ellipsoid(lat, -20.0, 700e3)
        ahead = ellipsoid(lat + 1e-4, -20.0, 700e3) - antenna
        ahead /= np.linalg.norm(ahead)

        def place(
            reach, height, lat=lat, antenna=antenna, ahead=ahead
        ):  # of zero Doppler, `reach` degrees east
            low, high = lat - 5, lat + 5
            for _ in range(60):
                middle = (low + high) / 2
                beyond = (ellipsoid(middle, -20.0 + reach, height) - antenna) @ ahead > 0
                low, high = (low, middle) if beyond else (middle, high)
            return low, ellipsoid(low, -20.0 + reach, height) - antenna

        def at_range(slant, height, place=place):
            near, far = 1.0, 25.0
            for _ in range(60):
                middle = (near + far) / 2
                near, far = (
                    (near, middle) if np.linalg.norm(place(middle, height)[1]) > slant else (middle, far)
                )
            lat, look = place(near, height)
            up = ellipsoid(lat, near - 20, height + 1) - ellipsoid(lat, near - 20, height)
            return lat, near - 20, np.degrees(np.arccos(-(look @ up) / np.linalg.norm(look)))

        for j in range(4):
            slant = 780e3 + 60e3 * j
            lat_h, lon_h, angle = at_range(slant, heights[i, j])
            grid["latitude"][i, j], grid["longitude"][i, j] = lat_h, lon_h
            grid["incidence"][i, j], grid["slant"][i, j] = angle, slant
            lat_0, lon_0, sea_angle[i, j] = at_range(slant, 0.0)
            sea[i, j] = lat_0, lon_0
    given = GeolocationGrid(
        lines, pixels, grid["latitude"], grid["longitude"], heights, grid["incidence"], grid["slant"]
    )
    moved = given.at_sea_level()
    shift, left = np.zeros(shape), np.zeros(shape)
    for i in range(3):
        for j in range(4):
            right = ellipsoid(*sea[i, j], 0.0)
            before = ellipsoid(given.latitude[i, j], given.longitude[i, j], 0.0)
            after = ellipsoid(moved.latitude[i, j], moved.longitude[i, j], 0.0)
            shift[i, j], left[i, j] = np.linalg.norm(before - right), np.linalg.norm(after - right)
    assert shift.max() > 2000  # metres
    assert left.max() < 25
    assert left[heights < 800].max() < 8
    np.testing.assert_allclose(moved.incidence_deg, sea_angle, atol=0.02)
    assert not moved.height_m.any()


# --- geolocation, at the size of a real EW product ---


def test_the_way_back_from_the_map_is_right_to_a_hundredth_of_a_pixel_where_an_affine_misses_by_ten(rng):
    swath = Swath()
    lines, pixels = np.r_[0:10500:500, 10707].astype(float), np.r_[0:10486:525, 10486].astype(float)
    x, y = polar_stereographic(*swath(lines[:, None], pixels))
    to_map = build_grid_map(lines, pixels, x, y)
    line, pixel = rng.uniform(-0.5, 10707.5, 5000), rng.uniform(-0.5, 10486.5, 5000)
    here = polar_stereographic(*swath(line, pixel))
    found = to_map.inverse(*here)
    error = np.hypot(found[0] - line, found[1] - pixel)
    assert error.max() < 0.01
    again = to_map.forward(*found)
    np.testing.assert_allclose(again, here, atol=0.5)  # metres
    design = np.stack([np.ones(x.size), x.ravel(), y.ravel()], axis=1)
    wanted = np.stack(np.broadcast_arrays(lines[:, None], pixels), axis=-1).reshape(-1, 2)
    affine = np.linalg.lstsq(design, wanted, rcond=None)[0]
    miss = np.stack([np.ones(5000), *here], axis=1) @ affine - np.stack([line, pixel], axis=1)
    assert np.hypot(*miss.T).max() > 10
    far = to_map.inverse(
        *polar_stereographic(*swath(array(-3000.0), array(14000.0)))
    )  # beyond the grid: finite, outside
    assert far[0][0] < -1000
    assert far[1][0] > 12000


def test_a_grid_that_folds_in_a_projection_is_refused():
    lines, pixels = array(0, 1, 2), array(0, 1, 2)
    x = np.array([[178, 179, -180], [178, 179, -180], [178, 179, -180]], dtype=float)
    with pytest.raises(InputError, match="EPSG:3413"):
        build_grid_map(lines, pixels, x, np.repeat([[0.0], [1], [2]], 3, axis=1))
    with pytest.raises(InputError, match="no coordinates"):
        build_grid_map(lines, pixels, np.full((3, 3), np.inf), x)
    with pytest.raises(InputError, match="two lines and two pixels"):
        GeolocationGrid(array(0), pixels, x, x, x, x, x)
    with pytest.raises(InputError, match="latitude must be"):
        GeolocationGrid(lines, pixels, x[:2], x, x, x, x)


# --- simulated products ---


@pytest.mark.parametrize("letter", ["A", "B", "C", "D"])
def test_a_product_says_what_it_is(tmp_path, rng, letter):
    product = make_product(
        rng, mission=f"S1{letter}", mode="IW", polarizations=("VV", "VH"), swath=Swath(10.0, 45.0, 11.0)
    )
    read = read_sentinel1_annotation(write_product(tmp_path, product))
    assert (read.platform, read.mode, read.orbit_pass, read.polarizations) == (
        f"Sentinel-1{letter}", "IW", "DESCENDING", ("VV", "VH"),
    )  # fmt: skip
    assert (read.orbit, read.relative_orbit, read.processor) == (20177, 155, "003.52")
    assert (read.rows, read.columns, read.spacing_m) == (60, 80, (10.0, 10.0))
    assert read.start == datetime(2018, 1, 16, 7, 54, 30, 125000, UTC)
    assert (read.stop - read.start).total_seconds() == 60.375
    assert read.id == product_name(product)
    assert read.azimuth_vectors
    scene = open_sentinel1(tmp_path / f"{product_name(product)}.SAFE")
    assert scene.names == ("amplitude_vv", "sigma0_vv", "amplitude_vh", "sigma0_vh", "incidence_angle_deg")
    assert [str(b.unit) for b in scene.bands] == [
        "amplitude", "sigma0", "amplitude", "sigma0", "incidence_angle_deg",
    ]  # fmt: skip
    assert [b.polarization for b in scene.bands] == ["VV", "VV", "VH", "VH", None]
    assert (scene.platform, scene.time) == (f"Sentinel-1{letter}", read.start)


@pytest.mark.parametrize("quantity", ["sigma0", "beta0", "gamma0"])
def test_backscatter_is_what_the_tables_say(tmp_path, rng, quantity):
    product = make_product(rng)
    counts = product.counts["HV"]
    counts[3, 4] = 0
    folder = write_product(tmp_path, product)
    line, pixel = np.arange(60.0)[:, None], np.arange(80.0)[None, :]
    table = product.table(
        {"sigma0": "sigmaNought", "beta0": "betaNought", "gamma0": "gamma"}[quantity], line, pixel
    )
    noise = (250 + pixel + line / 10) * (1 + line / 1000)  # both tables are linear: interpolation is exact
    dn = counts.astype(float)
    window = Window(1, 2, 40, 50)
    expected = {
        (True, True): (dn**2 - noise) / table**2,
        (True, False): (dn**2 - 250 - pixel - line / 10) / table**2,
        (False, True): dn**2 / table**2,
    }
    for (denoise, azimuth), power in expected.items():
        scene = open_sentinel1(folder, quantity=quantity, denoise=denoise, azimuth_noise=azimuth)
        data, valid = scene.read([f"{quantity}_hv", "amplitude_hv", "incidence_angle_deg"], window)
        inside = np.broadcast_to(power, dn.shape)[window.slices].copy()
        assert not valid[2, 2]  # DN 0: nothing was imaged
        assert valid.sum() == valid.size - 1
        inside[2, 2] = np.nan
        np.testing.assert_allclose(data[0], inside, rtol=2e-5)
        np.testing.assert_array_equal(data[1][valid], dn[window.slices][valid])
        angle = np.broadcast_to(angle_at(np.arange(2.0, 52), 80), (40, 50))
        np.testing.assert_allclose(
            data[2], angle, atol=2e-5
        )  # quadratic in the pixel: a cubic spline is exact


def test_an_image_is_read_in_silence_while_other_threads_end(tmp_path, rng):
    product = read_sentinel1_annotation(write_product(tmp_path, make_product(rng)))
    other = contextlib.ExitStack()
    other.enter_context(quiet())
    with reading._opened(product, product.layers[0], None):
        other.close()
        warnings.warn("not georeferenced", rasterio.errors.NotGeoreferencedWarning, stacklevel=1)


def test_units_are_converted_on_reading_and_bands_are_chosen_by_name(tmp_path, rng):
    folder = write_product(tmp_path, make_product(rng))
    scene = open_sentinel1(folder, (Band("sigma0_hv"),))
    assert scene.names == ("sigma0_hv",)
    linear, db = scene.read().data, scene.read(units="sigma0_db").data
    np.testing.assert_allclose(db[linear > 0], 10 * np.log10(linear[linear > 0]), rtol=1e-5)
    with pytest.raises(InputError, match="Did you mean 'sigma0_hv'"):
        open_sentinel1(folder, (Band("sigma0_vh"),))
    with pytest.raises(UnitError, match="is sigma0, not sigma0_db"):
        open_sentinel1(folder, (Band("sigma0_hv", parse_unit("sigma0_db")),))
    with pytest.raises(InputError, match="Must be one of: sigma0, beta0, gamma0"):
        open_sentinel1(folder, quantity="sigma")


def test_all_layouts_are_one_product(tmp_path, rng):
    product = make_product(rng)
    safe, flat = write_product(tmp_path, product), write_product(tmp_path, product, flat=True)
    ways = {
        "safe": safe,
        "manifest": safe / "manifest.safe",
        "flat": flat,
        "zip": zip_product(safe, tmp_path / "a {b} c.zip"),
        "flat zip": zip_product(flat, tmp_path / f"{product_name(product)}.zip", prefix=""),
    }
    (tmp_path / "out").mkdir()
    reads, maps = {}, {}
    for way, path in ways.items():
        assert is_sentinel1(path)
        scene = open_sentinel1(path)
        assert scene.id == product_name(product)
        reads[way] = scene.read(window=Window(10, 0, 30, 80)).data
        made = prepare_sentinel1(path, tmp_path / "out" / f"{way}.tif")
        maps[way] = open_geotiff(made.path).read().data
        assert [p.name for p in (tmp_path / "out").iterdir() if p.name.startswith(".")] == []
    for way in ways:
        np.testing.assert_array_equal(reads[way], reads["safe"])
        np.testing.assert_array_equal(maps[way], maps["safe"])
    assert len(list(tmp_path.rglob("*.tiff"))) == 4  # nothing was unpacked for good
    assert not is_sentinel1(tmp_path)
    assert not is_sentinel1(tmp_path / "out/safe.tif")
    assert not is_sentinel1(tmp_path / "nothing")


def test_both_versions_of_the_noise_annotation(tmp_path, rng):
    """Without azimuth vectors (before IPF 2.9), in the unit of DN^2 or, before 2015, without the processor's scale."""
    product = make_product(rng, processor="002.53")
    window = Window(0, 0, 60, 80)
    read = {}
    for noise in ("new", "old", "unscaled"):
        folder = tmp_path / noise
        folder.mkdir()
        made = read_sentinel1_annotation(write_product(folder, replace(product, noise=noise)))
        assert made.azimuth_vectors == (noise == "new")
        read[noise] = read_backscatter(made, 1, window, azimuth_noise=False)[0]
        if noise != "new":  # the switch has nothing to switch
            np.testing.assert_array_equal(read_backscatter(made, 1, window)[0], read[noise])
    np.testing.assert_allclose(read["old"], read["new"], rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(read["unscaled"], read["new"], rtol=1e-4, atol=1e-8)


def test_noise_that_is_not_known_is_not_passed_over_and_none_is_subtracted_twice(tmp_path, rng):
    product = make_product(rng)
    for noise in ("none", "removed"):
        (tmp_path / noise).mkdir()
    unknown = write_product(tmp_path / "none", replace(product, noise="none"))
    with pytest.raises(InputError, match=r"noise of HH is not known .*nothing above 0.*denoise=False"):
        open_sentinel1(unknown)
    with pytest.raises(InputError, match="denoise=False"):
        prepare_sentinel1(unknown, tmp_path / "a.tif")
    raw = open_sentinel1(unknown, denoise=False).read(["sigma0_hv"]).data
    removed = write_product(tmp_path / "removed", replace(product, noise="removed"))
    np.testing.assert_array_equal(open_sentinel1(removed).read(["sigma0_hv"]).data, raw)
    made = prepare_sentinel1(removed, tmp_path / "b.tif")
    with rasterio.open(made.path) as file:
        assert file.tags()["NOISE_SUBTRACTED"] == "by the processor"


def test_what_is_missing_is_named(tmp_path, rng):
    product = make_product(rng)
    names = file_names(product, flat=False)["HV"]
    folder = write_product(tmp_path, product)

    def without(name):
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        return kept

    for name, words in zip(
        (names[0], names[1], names[3]),
        (
            r"annotation: annotation/\*hv\*.xml is missing",
            r"calibration-\*hv\*.xml is missing",
            r"hv\*.tiff is missing",
        ),
        strict=True,
    ):
        kept = without(name)
        with pytest.raises(InputError, match=words):
            open_sentinel1(folder)
        (folder / name).write_bytes(kept)
    kept = without(names[2])
    with pytest.raises(InputError, match=r"noise-\*hv\*.xml is missing"):
        open_sentinel1(folder)
    open_sentinel1(folder, denoise=False)
    (folder / names[2]).write_bytes(kept)
    kept = (folder / names[3]).read_bytes()
    (folder / names[3]).write_bytes(b"")
    with pytest.raises(InputError, match=r"002.tiff is empty \(0 bytes\).*image of HV"):
        open_sentinel1(folder)
    (folder / names[3]).write_bytes(kept[: len(kept) // 3])
    with pytest.raises(InputError, match="cannot be read as a TIFF"):
        open_sentinel1(folder).read(window=Window(50, 0, 10, 80))
    shutil.copyfile(write_product(tmp_path / "other", make_product(rng, 50)) / names[3], folder / names[3])
    with pytest.raises(InputError, match="50 x 80 pixels, but one of 60 x 80"):
        open_sentinel1(folder)
    (folder / names[3]).write_bytes(kept)
    (folder / names[0]).write_bytes(b"")
    with pytest.raises(InputError, match=r"is empty \(0 bytes\)"):
        open_sentinel1(folder)
    for wrong, words in (
        (tmp_path / "none", "not there"),
        (tmp_path, "no Sentinel-1 GRD product"),
        (Path(__file__), "no Sent"),
    ):
        with pytest.raises(InputError, match=words):
            open_sentinel1(wrong)


def test_other_kinds_of_product_are_refused(tmp_path, rng):
    product = make_product(rng)
    for field, value, words in (("kind", "SLC", "order the GRD"), ("mode", "WV", "Must be one of: EW, IW")):
        (tmp_path / field).mkdir()
        with pytest.raises(InputError, match=words):
            open_sentinel1(write_product(tmp_path / field, replace(product, **{field: value})))
    folder = write_product(tmp_path, product)
    name = folder / file_names(product, flat=False)["HH"][0]
    text = name.read_text()
    for old, new, words in (
        ("<line>20</line><pixel>40</pixel>", "<line>21</line><pixel>40</pixel>", "must be regular"),
        (
            "<numberOfLines>60</numberOfLines>",
            "<numberOfLines>sixty</numberOfLines>",
            "'sixty', which is no number",
        ),
        ("<pass>Descending</pass>", "", "does not say generalAnnotation/productInformation/pass"),
        ("<product>", '<!DOCTYPE p [<!ENTITY a "b">]><product>', "document type or entities"),
        ("<missionId>S1A</missionId>", "<missionId>ERS</missionId>", "Must be one of: S1A, S1B, S1C, S1D"),
        ("<polarisation>HH<", "<polarisation>VV<", "polarization VV, but HH by its name"),
    ):
        assert old in text
        name.write_text(text.replace(old, new))
        with pytest.raises(InputError, match=words):
            open_sentinel1(folder)


def test_a_zip_that_reaches_out_of_itself_is_refused(tmp_path, rng):
    folder = write_product(tmp_path, make_product(rng))
    good = zip_product(folder, tmp_path / "good.zip")
    link = zipfile.ZipInfo(f"{folder.name}/measurement/more.tiff")
    link.external_attr = 0o120777 << 16
    for number, name in enumerate(
        (
            "../evil.tiff",
            "/etc/evil",
            f"{folder.name}/measurement/../../evil.tiff",
            "a\\..\\evil",
            "c:/evil",
            link,
        )
    ):
        path = tmp_path / f"bad{number}.zip"
        shutil.copyfile(good, path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, b"/etc/passwd")
        with pytest.raises(InputError, match="refused"):
            open_sentinel1(path)
        with pytest.raises(InputError, match="refused"):
            prepare_sentinel1(path, tmp_path / "out.tif")
    assert not (tmp_path.parent / "evil.tiff").exists()
    shutil.copyfile(good, tmp_path / "twice.zip")
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(tmp_path / "twice.zip", "a") as archive,
    ):
        archive.writestr(f"{folder.name}/manifest.safe", b"<a/>")
    with pytest.raises(InputError, match="two files of one name"):
        open_sentinel1(tmp_path / "twice.zip")
    shutil.copyfile(good, tmp_path / "two.zip")
    with zipfile.ZipFile(tmp_path / "two.zip", "a") as archive:
        archive.writestr("other.SAFE/annotation/s1a-ew-grd-hh-x-001.xml", b"<a/>")
    with pytest.raises(InputError, match="holds 2 Sentinel-1 products"):
        open_sentinel1(tmp_path / "two.zip")
    data = good.read_bytes()
    (tmp_path / "half.zip").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="no Sentinel-1 GRD product"):
        open_sentinel1(tmp_path / "half.zip")


def test_a_link_out_of_a_folder_is_refused(tmp_path, rng):
    product = make_product(rng)
    folder = write_product(tmp_path, product)
    image = folder / file_names(product, flat=False)["HH"][3]
    image.rename(tmp_path / "elsewhere.tiff")
    image.symlink_to(tmp_path / "elsewhere.tiff")
    with pytest.raises(InputError, match="leads out of the product: refused"):
        open_sentinel1(folder)


# --- maps ---


def blobs(shape, places, strength=4000.0, width=2.0):
    """Counts whose squares are smooth spots at places (line, pixel), on a ground of 300."""
    rows, columns = np.indices(shape)
    power = np.full(shape, 300.0**2)
    for row, column in places:
        power += strength**2 * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * width**2))
    return np.round(np.sqrt(power)).astype(np.uint16)


@pytest.mark.parametrize("looks", [1, 2])
def test_spots_lie_on_the_map_where_they_lie_on_earth(tmp_path, rng, looks):
    """A swath of 500 x 400 km at 2.5 km a pixel, its grid every 50 km; Snyder's formulas say where each spot is."""
    places = [(22.25, 30.5), (20.0, 130.0), (100.5, 80.0), (171.0, 24.0), (180.75, 133.25), (60.0, 60.5)]
    swath = Swath(2500.0, 80.0, 20.0, 215.0)
    product = make_product(rng, 200, 160, ("HH",), swath=swath)
    product.counts["HH"][:] = blobs((200, 160), places, width=1.5 * looks)
    made = prepare_sentinel1(
        write_product(tmp_path, product), tmp_path / "map.tif", multilook=looks, decibel=False, denoise=False,
        quantity="beta0", pixel_size=2500.0,
    )  # fmt: skip
    assert made.crs == "EPSG:3413"
    with rasterio.open(made.path) as file:
        power, place = file.read(1), file.transform
    power = np.nan_to_num(power - (300 / 450) ** 2)
    rows, columns = np.indices(power.shape)
    errors = []
    for line, pixel in places:
        x, y = polar_stereographic(*swath(line, pixel))
        row, column = (place.f - float(y)) / 2500 - 0.5, (float(x) - place.c) / 2500 - 0.5
        near = np.where(np.hypot(rows - row, columns - column) < 7 * looks, power, 0)
        found = (rows * near).sum() / near.sum(), (columns * near).sum() / near.sum()
        errors.append(np.hypot(found[0] - row, found[1] - column))
    assert max(errors) < 0.05  # of a pixel of the map


def test_a_map_of_even_ground_has_its_value_its_units_and_its_provenance(tmp_path, rng):
    product = make_product(rng, 120, 160)
    product.counts["HH"][:], product.counts["HV"][:] = 90, 45
    product.counts["HV"][:, :20] = 0
    folder = write_product(tmp_path, product)
    told = []
    made = prepare_sentinel1(
        folder,
        tmp_path / "a.tif",
        quantity="beta0",
        denoise=False,
        progress=lambda done, of: told.append((done, of)),
    )
    assert told == [(1, 1)]
    assert made.bands == ("beta0_hh_db", "beta0_hv_db", "incidence_angle_deg")
    assert (made.crs, made.pixel_size, made.unit) == ("EPSG:3413", 80.0, "m")
    scene = open_geotiff(made.path)
    assert [str(b.unit) for b in scene.bands] == ["beta0_db", "beta0_db", "incidence_angle_deg"]
    assert [b.polarization for b in scene.bands] == ["HH", "HV", None]
    data, valid = scene.read()
    np.testing.assert_allclose(data[0][valid], 20 * np.log10(90 / 450), atol=1e-5)
    np.testing.assert_allclose(data[1][valid], 20 * np.log10(45 / 450), atol=1e-5)
    area = 140 * 120 * 40 * 40 / 80**2  # without the first 20 columns, where HV has nothing
    assert valid.sum() == pytest.approx(area, rel=0.05)
    assert made.valid_share == pytest.approx(valid.mean(), abs=1e-9)
    assert np.isnan(data[:, ~valid]).all()
    rows, columns = np.nonzero(valid)
    a, b, c, d, e, f = scene.georeference.transform
    x, y = a * (columns + 0.5) + b * (rows + 0.5) + c, d * (columns + 0.5) + e * (rows + 0.5) + f
    assert (c / 80, f / 80) == (round(c / 80), round(f / 80))  # on multiples of the pixel
    grid_x, grid_y = polar_stereographic(*product.swath(np.arange(120.0)[:, None], np.arange(160.0)))
    nearest = (
        (grid_x.ravel()[None] - x[::97, None]) ** 2 + (grid_y.ravel()[None] - y[::97, None]) ** 2
    ).argmin(axis=1)
    np.testing.assert_allclose(data[2][valid][::97], angle_at(nearest % 160, 160), atol=0.2)
    with rasterio.open(made.path) as file:
        tags = file.tags()
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert np.isnan(file.nodata)
        assert (file.read_masks(1) > 0).sum() == valid.sum()
    assert tags["PRODUCT"] == product_name(product)
    assert tags["PROCESSOR"] == "Sentinel-1 IPF 003.52"
    assert (tags["PASS"], tags["ORBIT"], tags["RELATIVE_ORBIT"]) == ("DESCENDING", "20177", "155")
    assert (tags["QUANTITY"], tags["NOISE_SUBTRACTED"]) == ("beta0", "no")
    assert tags["MULTILOOK"] == "2 x 2 in linear power"
    assert tags["START"] == "2018-01-16T07:54:30.125000+00:00"


def test_the_map_of_dark_water_keeps_its_mean_and_stays_finite(tmp_path, rng):
    """HV counts of noise and little more: their mean on the map, in linear power, is what was put in."""
    product = make_product(rng, 256, 256)
    line, pixel = np.arange(256.0)[:, None], np.arange(256.0)
    noise = (250 + pixel + line / 10) * (1 + line / 1000)
    table = product.table("betaNought", line, pixel)
    true = 10**-3.2
    speckle = rng.gamma(10, 0.1, (256, 256))
    product.counts["HV"][:] = np.round(np.sqrt(speckle * (noise + true * table**2)))
    folder = write_product(tmp_path, product)
    made = {
        azimuth: prepare_sentinel1(
            folder,
            tmp_path / f"{azimuth}.tif",
            quantity="beta0",
            azimuth_noise=azimuth,
            multilook=8,
            decibel=True,
        )
        for azimuth in (True, False)
    }
    data, valid = open_geotiff(made[True].path).read(["beta0_hv_db"])
    assert np.isfinite(data[0][valid]).all()
    assert data[0][valid].min() >= -40
    mean = 10 * np.log10((10 ** (data[0][valid] / 10)).mean())
    assert mean == pytest.approx(-32, abs=0.35)
    without = open_geotiff(made[False].path).read(["beta0_hv_db"]).data
    assert 10 * np.log10((10 ** (without[0][valid] / 10)).mean()) > mean + 0.5  # scalloping left in


def test_larger_pixels_are_means_of_what_lies_in_them(tmp_path, rng):
    """In power, of all pixels inside: speckle averages out, as it would not if single pixels were taken."""
    product = make_product(rng, 240, 240, ("HH",))
    speckle = rng.exponential(size=(240, 240))
    product.counts["HH"][:] = np.maximum(np.round(np.sqrt(speckle) * 450), 1)
    folder = write_product(tmp_path, product)
    made = prepare_sentinel1(
        folder,
        tmp_path / "a.tif",
        quantity="beta0",
        denoise=False,
        decibel=False,
        multilook=1,
        pixel_size=400.0,
    )
    data, valid = open_geotiff(made.path).read(["beta0_hh"])
    values = data[0][valid]
    assert values.mean() == pytest.approx(1, abs=0.03)
    assert 0.07 < values.std() < 0.13  # 100 looks: 0.1


def test_projections_by_latitude_and_by_choice(tmp_path, rng):
    product = make_product(rng)
    for number, (latitude, longitude, code) in enumerate(
        (
            (78.0, -5.0, 3413),
            (-72.0, 100.0, 3031),
            (45.0, 11.0, 32632),
            (-33.0, 18.5, 32734),
            (10.0, -179.99, 32660),
        )
    ):
        (tmp_path / str(number)).mkdir()
        folder = write_product(
            tmp_path / str(number), replace(product, swath=Swath(40.0, latitude, longitude))
        )
        made = prepare_sentinel1(folder, tmp_path / f"{number}.tif")
        assert made.crs == f"EPSG:{code}"
        assert made.valid_share > 0.5
        with rasterio.open(made.path) as file:
            assert file.crs.to_epsg() == code
            center = rasterio.warp.transform(
                file.crs, "EPSG:4326", *[[v] for v in on_map(file.transform, file.height / 2, file.width / 2)]
            )
        expected = replace(product, swath=Swath(40.0, latitude, longitude)).swath(29.5, 39.5)
        assert center[1][0] == pytest.approx(float(expected[0]), abs=0.002)
        assert abs((center[0][0] - float(expected[1]) + 180) % 360 - 180) < 0.01
    folder = tmp_path / "2" / f"{product_name(product)}.SAFE"
    made = prepare_sentinel1(folder, tmp_path / "degrees.tif", crs="EPSG:4326", pixel_size=0.001)
    assert (made.crs, made.unit) == ("EPSG:4326", "degree")
    assert open_geotiff(made.path).read().valid.any()
    for words, fields in (
        ("give pixel_size in degrees", {"crs": "EPSG:4326"}),
        ("crs='EPSG:99' is not known", {"crs": "EPSG:99"}),
        ("pixel_size=0 is not possible", {"pixel_size": 0}),
        ("pixel_size=80000 in EPSG:32632 is", {"pixel_size": 80000}),
        ("pixel_size=1 in EPSG:32632 is", {"pixel_size": 1}),
        ("multilook=0 is not possible", {"multilook": 0}),
        ("Must be one of: sigma0, beta0, gamma0", {"quantity": "sigma"}),
    ):
        with pytest.raises(InputError, match=words):
            prepare_sentinel1(folder, tmp_path / "never.tif", **fields)
    with pytest.raises(InputError, match="antimeridian"):
        prepare_sentinel1(
            tmp_path / "4" / f"{product_name(product)}.SAFE",
            tmp_path / "never.tif",
            crs="EPSG:4326",
            pixel_size=0.001,
        )
    assert not (tmp_path / "never.tif").exists()


def test_pixels_beside_mountains_can_be_placed_at_sea_level(tmp_path, rng):
    """The product's points lie 1000 m high: at 33 degrees their pixels are 1.5 km further out than the sea's are."""
    product = make_product(rng, 60, 80, ("HH",), height=lambda line, pixel: 1000.0)
    product.counts["HH"][:] = blobs((60, 80), [(30, 40)])
    folder = write_product(tmp_path, product)
    peaks, sights = [], []
    for sea in (False, True):
        made = prepare_sentinel1(
            folder, tmp_path / f"{sea}.tif", sea_level=sea, multilook=1, denoise=False, quantity="beta0"
        )
        with rasterio.open(made.path) as file:
            data = file.read(1)
            row, column = np.unravel_index(np.nanargmax(data), data.shape)
            peaks.append(np.array(on_map(file.transform, row + 0.5, column + 0.5)))
            sights.append(file.tags()["GEOCODING"])
    near, far = (np.array(polar_stereographic(*product.swath(30.0, pixel))) for pixel in (0.0, 79.0))
    out = (far - near) / np.linalg.norm(far - near)
    moved = peaks[1] - peaks[0]
    angle = np.radians(angle_at(40, 80))
    assert moved @ out == pytest.approx(-1000 / np.tan(angle), abs=60)  # towards the antenna; pixels of 40 m
    assert abs(moved @ np.array([-out[1], out[0]])) < 60
    assert "on the ellipsoid" in sights[1]


def test_a_map_is_written_whole_or_not_at_all(tmp_path, rng, monkeypatch):
    product = make_product(rng)
    folder = write_product(tmp_path, product)
    out = tmp_path / "maps" / "a.tif"
    with pytest.raises(OutputError, match="Make it first"):
        prepare_sentinel1(folder, out)
    out.parent.mkdir()
    made = prepare_sentinel1(folder, out)
    before = out.read_bytes()
    with pytest.raises(OutputError, match=r"exists already\. Choose another name"):
        prepare_sentinel1(folder, out)

    def stop(done, of):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_sentinel1(folder, out, overwrite=True, progress=stop)
    assert out.read_bytes() == before
    import rasterio.shutil

    def full(*_, **__):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(rasterio.shutil, "copy", full)
        with pytest.raises(OutputError, match="Is the disk full"):
            prepare_sentinel1(folder, out, overwrite=True)
    assert out.read_bytes() == before
    assert [p.name for p in out.parent.iterdir()] == ["a.tif"]
    assert prepare_sentinel1(folder, out, overwrite=True) == made


def test_memory_does_not_grow_with_the_scene(tmp_path, rng, monkeypatch):
    """With blocks of 64 samples and strips of 2^14 pixels, four times the scene takes the same memory at its peak."""
    monkeypatch.setattr("sartransfer.prepare.sentinel1.BLOCK", 64)
    monkeypatch.setattr("sartransfer.prepare.sentinel1.STRIP_PIXELS", 1 << 14)
    seen = []
    monkeypatch.setattr(
        "sartransfer.prepare.sentinel1.read_backscatter",
        lambda product, layer, window, *rest, **more: (
            seen.append(window.height * window.width)
            or read_backscatter(product, layer, window, *rest, **more)
        ),
    )
    peaks = []
    for rows, columns in ((200, 200), (400, 400)):
        folder = tmp_path / str(rows)
        folder.mkdir()
        product = write_product(folder, make_product(rng, rows, columns, ("HH",), step=100))
        tracemalloc.start()
        prepare_sentinel1(product, folder / "a.tif", multilook=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(seen) <= 1 << 14
    assert len(seen) > 20
    assert peaks[1] < 1.3 * peaks[0]


# --- the real product ---


def test_the_real_product_says_that_its_images_are_empty(real):
    with pytest.raises(InputError, match=r"ew-hh.tiff is empty \(0 bytes\)"):
        open_sentinel1(real)
    product = read_sentinel1_annotation(real)
    assert (product.platform, product.mode, product.processor) == ("Sentinel-1A", "EW", "003.52")
    assert (product.orbit, product.relative_orbit, product.orbit_pass) == (46117, 20, "DESCENDING")
    assert (product.rows, product.columns) == (10708, 10487)


def test_real_noise_is_as_worked_out_by_hand(real):
    """Numbers of noise-ew-hv.xml; the vectors are those of lines 4008 and 4175, of lines 0 and 167."""
    noise = read_sentinel1_annotation(real).layers[1].noise

    def at(line, pixel, azimuth=True):
        return float(noise.at([line], [pixel], azimuth=azimuth)[0, 0])

    # EW2, on the vector of line 4008: pixels 3992 and 4032; azimuth lines 4000 and 4010
    along = 2260.028 + 8 / 40 * (2275.807 - 2260.028)
    assert at(4008, 4000, azimuth=False) == pytest.approx(along, rel=1e-6)
    assert at(4008, 4000) == pytest.approx(along * (1.010975 + 0.8 * (1.014942 - 1.010975)), rel=1e-6)
    # EW2, between the vectors: line 4100 is 92 lines of 167 on; azimuth line 4100 itself
    later = 2255.197 + 8 / 40 * (2270.928 - 2255.197)
    assert at(4100, 4000) == pytest.approx((along + 92 / 167 * (later - along)) * 1.077987, rel=1e-6)
    # EW3: pixels 5973 and 6013
    third = 1380.165 + 27 / 40 * (1374.210 - 1380.165)
    assert at(4008, 6000) == pytest.approx(third * (1.002901 + 0.8 * (1.001335 - 1.002901)), rel=1e-6)
    # the seam between EW1 and EW2: noise falls to a quarter from one pixel to the next
    assert at(4008, 3111, azimuth=False) == pytest.approx(14888.53, rel=1e-6)
    assert at(4008, 3112, azimuth=False) == pytest.approx(3614.490, rel=1e-6)
    # EW2 begins at line 128, the vector of line 0 has 0 there: it is not drawn towards 0, which were 22 % too little
    first = 2237.729 + 2 / 40 * (2253.427 - 2237.729)
    assert at(130, 4000) == pytest.approx(first * 1.220667, rel=1e-6)
    # EW1's block ends at line 127, its factors at 120: on with their slope, which the next block (line 128) bears out
    assert at(127, 1000) / at(127, 1000, azimuth=False) == pytest.approx(
        1.092088 - 0.7 * (1.10354 - 1.092088), rel=1e-6
    )
    assert at(128, 1000) / at(128, 1000, azimuth=False) == pytest.approx(1.083405, rel=1e-6)


def test_real_calibration_is_as_worked_out_by_hand(real_copy):
    """Tables of calibration-ew-hv.xml at pixels 4000 and 4040, the same in all lines."""
    product = read_sentinel1_annotation(real_copy)
    assert product.id == REAL
    window = Window(4004, 3990, 8, 60)
    counts = open_sentinel1(real_copy).read(["amplitude_hv"], window).data[0]
    assert counts.min() >= 20
    for quantity, at_4000, at_4040 in (
        ("sigma0", 1513.648, 1511.220),
        ("beta0", 1087.0, 1087.0),
        ("gamma0", 1401.053, 1397.989),
    ):
        power, valid = read_backscatter(product, 1, window, quantity, denoise=False)
        assert valid.all()
        assert power[4, 10] == pytest.approx(counts[4, 10] ** 2 / at_4000**2, rel=1e-6)
        between = at_4000 + 25 / 40 * (at_4040 - at_4000)
        assert power[3, 35] == pytest.approx(counts[3, 35] ** 2 / between**2, rel=1e-6)
    clean = read_backscatter(product, 1, window)[0]
    noise = (2260.028 + 8 / 40 * (2275.807 - 2260.028)) * (1.010975 + 0.8 * (1.014942 - 1.010975))
    assert clean[4, 10] == pytest.approx((counts[4, 10] ** 2 - noise) / 1513.648**2, rel=1e-5)
    assert not read_backscatter(product, 1, Window(0, 0, 2, 2))[1].any()


def test_real_geolocation_leaves_out_every_second_point_and_finds_it_again(real):
    """Where there is only sea (lines from 8000 on), to .02 px of 40 m."""
    grid = read_sentinel1_annotation(real).grid.at_sea_level()
    x, y = polar_stereographic(grid.latitude, grid.longitude)
    lines, pixels = np.r_[0:22:2, 22], np.r_[0:21:2]
    to_map = build_grid_map(
        grid.lines[lines], grid.pixels[pixels], x[np.ix_(lines, pixels)], y[np.ix_(lines, pixels)]
    )
    found = to_map.inverse(x, y)
    error = np.hypot(found[0] - grid.lines[:, None], found[1] - grid.pixels)
    print(np.round(error.max(axis=1), 4))
    sea = (grid.lines >= 8000) & (grid.lines <= 10000)
    assert error[sea].max() < 0.02


def test_real_places_on_land_are_found_again_though_heights_bend_the_map(real):
    grid = read_sentinel1_annotation(real).grid
    sea = grid.at_sea_level()
    flat = np.stack(polar_stereographic(sea.latitude, sea.longitude))
    high = np.stack(polar_stereographic(grid.latitude, grid.longitude))
    assert 1000 < np.hypot(*(high - flat)).max() < 2000  # metres, of mountains of 670 m
    to_map = build_grid_map(grid.lines, grid.pixels, *flat, lift=tuple(high - flat))
    np.testing.assert_allclose(
        to_map.forward(grid.lines[:, None] + 0 * grid.pixels, 0 * grid.lines[:, None] + grid.pixels), high
    )
    line, pixel = np.meshgrid(np.linspace(-0.5, 10707.5, 90), np.linspace(-0.5, 10486.5, 80))
    found = to_map.inverse(*to_map.forward(line, pixel))
    np.testing.assert_allclose(found, [line, pixel], atol=2e-3)


@pytest.mark.filterwarnings("ignore")  # the peer's own
def test_calibration_agrees_with_xarray_sentinel(real_copy):
    peer = pytest.importorskip(
        "xarray_sentinel", reason="xarray-sentinel is not installed: nothing to compare with"
    )
    product = read_sentinel1_annotation(real_copy)
    for layer, pol in enumerate(("HH", "HV")):
        counts = peer.open_sentinel1_dataset(str(real_copy), group=f"EW/{pol}").measurement
        tables = peer.open_sentinel1_dataset(str(real_copy), group=f"EW/{pol}/calibration")
        part = counts.isel({counts.dims[0]: slice(4004, 4012), counts.dims[1]: slice(3990, 4050)})
        for quantity, table in (("sigma0", "sigmaNought"), ("beta0", "betaNought"), ("gamma0", "gamma")):
            theirs = peer.calibrate_intensity(part, tables[table]).values
            ours = read_backscatter(product, layer, Window(4004, 3990, 8, 60), quantity, denoise=False)[0]
            difference = np.abs(10 * np.log10(ours) - 10 * np.log10(theirs))
            print(pol, quantity, "largest difference", difference.max(), "dB")
            assert difference.max() < 0.01


def test_the_command_maps_a_product_and_a_reader_opens_it(tmp_path, capsys, monkeypatch):
    from sartransfer.cli import main

    folder = write_product(tmp_path, make_product(np.random.default_rng(3)))
    found = open_scene(folder)  # by what the folder holds
    assert [str(found.band(f"sigma0_{p}").unit) for p in ("hh", "hv")] == ["sigma0", "sigma0"]
    words = ["sartransfer", "prepare", "sentinel1", str(folder), "-o", str(tmp_path / "map.tif")]
    for code in (0, 2):  # the second time it is there already
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as end:
            main()
        assert (end.value.code or 0) == code
    printed = capsys.readouterr()
    assert "sigma0_hh_db, sigma0_hv_db, incidence_angle_deg" in printed.out
    assert "--overwrite" in printed.err
    assert str(open_scene(tmp_path / "map.tif").bands[0].unit) == "sigma0_db"
