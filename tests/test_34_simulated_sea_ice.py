"""Simulated sea-ice scenes on disk: the product read back, the chart read back, what an analyst gets wrong."""

import hashlib
import json
from datetime import UTC, datetime

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely

from sartransfer.catalog import IGNORE_INDEX, read_catalog
from sartransfer.data import simulated_ice
from sartransfer.data.check import check_catalog
from sartransfer.data.datasets import DATASETS
from sartransfer.data.ice_analyst import cell_of, count_cells, draw_chart
from sartransfer.data.seams import read_seams
from sartransfer.data.simulated_ice import (
    IceSettings,
    estimate,
    files_of,
    place_of,
    product_of,
    scene_of,
    simulated_sea_ice,
    write_ice_scenes,
)
from sartransfer.data.simulated_ice_product import describe_product
from sartransfer.errors import InputError, OutputError
from sartransfer.prepare import prepare_icechart, prepare_sentinel1
from sartransfer.readers import open_entry
from sartransfer.readers.geopackage import write_geopackage
from sartransfer.readers.sentinel1_annotation import read_sentinel1_annotation
from sartransfer.readers.sentinel1_writing import write_sentinel1

SETTINGS = IceSettings(seed=4, size=150, months=(1, 7))
TIME = datetime(2018, 1, 15, 8, tzinfo=UTC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """January and July, with their products."""
    path = tmp_path_factory.mktemp("ice") / "scenes"
    write_ice_scenes(path, SETTINGS, safe=True)
    return path


def pixels(path):
    with rasterio.open(path) as file:
        return file.read()


def digests(folder):
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.suffix != ".gpkg"  # SQLite counts its changes
    }


@pytest.mark.parametrize("month", [1, 7])
def test_the_product_prepared_is_the_scene(folder, tmp_path, month):
    files = files_of(folder, month)
    made = prepare_sentinel1(product_of(files), tmp_path / "map.tif")
    assert made.bands == ("sigma0_hh_db", "sigma0_hv_db", "incidence_angle_deg")
    assert (made.crs, made.pixel_size) == ("EPSG:3413", 80.0)
    with rasterio.open(made.path) as one, rasterio.open(files.image) as other:
        # its corner lies on the grid but for rounding: no rows of nothing round it
        assert (one.shape, one.transform) == (other.shape, other.transform)
        found = one.read()
        direct = other.read()
    assert np.isfinite(found).all()
    off = np.abs(found - direct)
    # splines, tables between their marks and 16 bits: thousandths of a decibel, but where HV ends at its floor
    assert np.median(off[:2]) < 2e-3
    assert (off[0] < 0.2).all()
    clear = direct[1] > -34
    assert np.percentile(off[1][clear], 99) < 0.15
    assert off[2].max() < 0.05


def test_the_scene_is_what_was_simulated_within_speckle_and_noise(folder):
    scene = scene_of(SETTINGS, 1)
    surface, level = scene.surface_rows(0, scene.shape[0])
    signal = scene.expected(0, surface, level)[:, :, ::-1]  # near range lies in the east
    mean = signal.reshape(2, 150, 2, 150, 2).mean(axis=(2, 4))
    found = 10 ** (pixels(files_of(folder, 1).image)[:2].astype(np.float64) / 10)
    truth = pixels(files_of(folder, 1).truth)[0]
    np.testing.assert_array_equal(truth, surface[::2, ::2][:, ::-1])
    for kind in np.unique(truth):
        here = truth == kind
        if here.sum() > 1500:
            bias = 10 * np.log10(found[0][here].sum() / mean[0][here].sum())
            assert abs(bias) < 0.1, kind
    # HV too, where it is well above what the annotated noise is wrong by (some hundredths of the noise)
    bright = mean[1] > 10 ** (-23 / 10)
    assert abs(10 * np.log10(found[1][bright].sum() / mean[1][bright].sum())) < 0.15
    # 10.7 looks, 2 x 2 pixels of which neighbours share half: 9/16 of the variance of one is left
    even = (truth == 3) & (mean[0] > 0)
    ratio = (found[0] / mean[0])[even]
    assert 1 / ratio.var() == pytest.approx(10.7 * 16 / 9, rel=0.15)


def test_annotation_says_what_was_written(folder, tmp_path):
    settings = IceSettings(size=64)
    scene, place = scene_of(settings, 3), place_of(settings, 3)
    told = describe_product(scene, place, TIME)
    path = write_sentinel1(tmp_path, told, ((f, c) for f, _, _, c in scene.blocks(50)))
    read = read_sentinel1_annotation(path)
    assert (read.mode, read.platform, read.processor) == ("EW", "Sentinel-1A", None)
    assert (read.rows, read.columns, read.spacing_m) == (128, 128, (40.0, 40.0))
    assert read.start == TIME
    np.testing.assert_allclose(read.grid.latitude, told.grid.latitude, rtol=1e-14)
    np.testing.assert_allclose(read.grid.slant_range_m, told.grid.slant_range_m, rtol=1e-9)
    rows, columns = np.arange(128.0), np.arange(128.0)
    for layer, polarization in zip(read.layers, ("HH", "HV"), strict=True):
        for quantity, table in told.tables.items():
            np.testing.assert_allclose(
                layer.tables[quantity].at(rows, columns), table.at(rows, columns), rtol=1e-8
            )
        np.testing.assert_allclose(
            layer.noise.at(rows, columns), told.noise[polarization].at(rows, columns), rtol=1e-8
        )
        # the noise annotated is the one simulated, but for its error
        amplitude = scene.tables.amplitude.astype(np.float64)
        nesz = layer.noise.at(rows, columns) / amplitude**2
        k = ("HH", "HV").index(polarization)
        np.testing.assert_allclose(nesz, scene.noise_rows(0, 128)[k], rtol=2e-3)
    with pytest.raises(OutputError, match="exists already"):
        write_sentinel1(tmp_path, told, iter(()))


def test_blocks_that_do_not_make_up_a_product_leave_nothing(tmp_path):
    settings = IceSettings(size=64)
    told = describe_product(scene_of(settings, 3), place_of(settings, 3), TIME)
    block = np.ones((2, 50, 128), dtype=np.uint16)
    for blocks, words in (([(0, block)], "50 lines were made, 128"), ([(0, block), (60, block)], "line 60")):
        with pytest.raises(InputError, match=words):
            write_sentinel1(tmp_path, told, iter(blocks))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("month", [1, 7])
def test_the_chart_prepared_is_the_label(folder, tmp_path, month):
    files = files_of(folder, month)
    made = prepare_icechart(files.chart, files.image, tmp_path / "label.tif")
    assert made.hours == 0.0
    np.testing.assert_array_equal(pixels(made.path), pixels(files.label))
    stages = prepare_icechart(files.chart, files.image, tmp_path / "stage.tif", what="stage", dominance=0.51)
    assert stages.counts["open water"] > 0
    numbers, label = pixels(files.polygons)[0], pixels(files.label)[0]
    table = pyogrio.raw.read(files.chart, columns=["id", "POLY_TYPE", "CT"])
    kind = dict(zip(table[3][0].tolist(), table[3][1].tolist(), strict=True))
    ct = dict(zip(table[3][0].tolist(), table[3][2].tolist(), strict=True))
    for number in np.unique(numbers[numbers > 0]):
        expected = 255 if kind[number] == "L" else int(ct[number] >= 10)
        assert set(np.unique(label[numbers == number])) == {expected}
    assert (numbers > 0).mean() > 0.99  # the chart leaves hardly anything out


def test_a_label_is_wrong_here_and_there_and_not_everywhere(folder):
    for month, most in ((1, 0.25), (7, 0.25)):  # a small scene is drawn with a broad brush
        files = files_of(folder, month)
        truth, label = pixels(files.truth)[0], pixels(files.label)[0]
        ice, said = np.isin(truth, (1, 2, 3, 4, 6)), label < 2
        wrong = (label == 1)[said] != ice[said]
        assert 0.002 < wrong.mean() < most


def grid_of_shares(side=60, cell=8):
    """Counts of cells: a straight edge between water and first-year ice, aslant."""
    down, along = np.mgrid[:side, :side]
    ice = along + 0.5 * down > side * 0.75
    counts = np.zeros((side, side, 7), dtype=np.int64)
    counts[..., 0], counts[..., 3] = np.where(ice, 0, cell**2), np.where(ice, cell**2, 0)
    return counts, ice


def test_polygons_of_a_chart_fit_together_and_cover_the_scene():
    counts, ice = grid_of_shares()
    zones = draw_chart(counts, 8, None, 1, mistakes=0.0, displacement_px=4.0)
    shapes = [z.shape for z in zones]
    whole = shapely.union_all(shapes)
    assert all(s.is_valid for s in shapes)
    assert sum(s.area for s in shapes) == pytest.approx(whole.area, rel=1e-9)
    assert whole.buffer(1e-6).covers(shapely.box(0, 0, 480, 480))
    assert all(z.mistake is None for z in zones)
    row, col = np.mgrid[:60, :60] * 8 + 4.0
    said = np.zeros((60, 60), dtype=bool)
    for zone in zones:
        if zone.is_ice:
            said |= shapely.contains_xy(zone.shape, col, row)
    assert (said != ice).mean() < 0.12  # the edge is broad: a tenth of ice is ice
    far = np.abs(np.mgrid[:60, :60][1] + 0.5 * np.mgrid[:60, :60][0] - 45) > 10
    np.testing.assert_array_equal(said[far], ice[far])


def test_land_is_cut_out_of_the_sea_as_maps_have_it():
    counts, _ = grid_of_shares()
    land = shapely.box(100, 100, 180, 160)
    zones = draw_chart(counts, 8, land, 1, mistakes=0.0)
    (coast,) = [z for z in zones if z.kind == "L"]
    assert coast.shape.equals(land)
    assert coast.is_ice is None
    assert all(z.shape.intersection(land).area < 1e-6 for z in zones if z.kind != "L")


def test_mistakes_come_at_the_chosen_rate():
    scene = scene_of(IceSettings(seed=2, size=300), 4)
    cell = cell_of(*scene.shape)
    counts = np.zeros((-(-600 // cell), -(-600 // cell), 7), dtype=np.int64)
    surface, _ = scene.surface_rows(0, 600)
    for first in range(0, 600, 128):
        count_cells(surface[first : first + 128], first, cell, counts)
    assert counts.sum() == 600 * 600
    np.testing.assert_array_equal(counts.sum(axis=(0, 1)), np.bincount(surface.ravel(), minlength=7))
    right = draw_chart(counts, cell, None, 1, mistakes=0.0)
    wrong = draw_chart(counts, cell, None, 1, mistakes=1.0)
    assert len(right) == len(wrong)
    assert not any(z.mistake for z in right)
    changed = [(a, b) for a, b in zip(right, wrong, strict=True) if b.mistake]
    assert len(changed) > len(right) / 2  # but for large polygons of water, which nobody mistakes
    for a, b in changed:
        assert (a.is_ice, b.is_ice) == {
            "water called ice": (False, True),
            "ice called water": (True, False),
            "stage": (True, True),
        }[b.mistake]
    with pytest.raises(InputError, match="mistakes=2"):
        draw_chart(counts, cell, None, 1, mistakes=2.0)


def test_catalog_splits_and_details(folder):
    catalog = DATASETS["simulated-sea-ice"](folder, seed=4, size=150, months=(1, 7))
    assert catalog.test_sets == ("january", "july")
    assert catalog.classes == ("water", "ice")
    assert catalog.label_values[255] == IGNORE_INDEX
    assert read_catalog(folder / "catalog.csv") == catalog
    assert not check_catalog(catalog)
    entry = catalog.in_split("july")[0]
    scene = open_entry(entry)
    assert [str(b.unit) for b in scene.bands] == ["sigma0_db", "sigma0_db", "incidence_angle_deg"]
    angle = scene.read(["incidence_angle_deg"]).data[0]
    assert (np.diff(angle, axis=1) < 0).all()  # near range in the east
    assert files_of(folder, 7).id == entry.id
    details = json.loads(files_of(folder, 7).details.read_text("utf-8"))
    assert (details["month"], details["season"], details["polygons"] > 3) == (7, "melt", True)
    seams = read_seams(entry, scene)
    assert len(seams) == 4
    # the noise of EW1 and EW2 meets where the seam is said to be: raw HV steps there
    assert seams[0][0][1] == pytest.approx(150 * (1 - 0.2968), abs=1)


def test_a_year_lies_apart_north_of_sixty_degrees():
    from rasterio.warp import transform

    for settings in (IceSettings(size=5000), IceSettings(size=200)):
        side, boxes = settings.size * settings.pixel_m, []
        for month in range(1, 13):
            place = place_of(settings, month)
            boxes.append(shapely.box(place.left, place.top - side, place.left + side, place.top))
            assert place.left % settings.pixel_m == 0
        assert shapely.union_all(boxes).area == pytest.approx(12 * side**2)
        corners = shapely.get_coordinates(boxes)
        _, latitude = transform("EPSG:3413", "EPSG:4326", corners[:, 0], corners[:, 1])
        assert min(latitude) > 60


def test_what_was_stopped_goes_on_and_comes_out_the_same(tmp_path):
    settings = IceSettings(seed=1, size=64, months=(2, 3))
    one, other = tmp_path / "one", tmp_path / "other"
    write_ice_scenes(one, settings)
    simulated_sea_ice(other, seed=1, size=64, months=(2,))
    assert len(read_catalog(other / "catalog.csv").entries) == 1
    before = files_of(other, 2).image.stat().st_mtime_ns
    assert estimate(other, settings).scenes == 1
    write_ice_scenes(other, settings)
    assert files_of(other, 2).image.stat().st_mtime_ns == before
    assert digests(one) == digests(other)
    files_of(other, 3).details.unlink()  # what a stopped scene looks like
    assert estimate(other, settings).scenes == 1
    write_ice_scenes(other, settings)
    assert digests(one) == digests(other)
    assert estimate(other, settings).scenes == 0


def test_folders_of_others_are_left_alone(folder, tmp_path):
    with pytest.raises(OutputError, match="of other settings"):
        simulated_sea_ice(folder, seed=4, size=100)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds no simulated scenes"):
        simulated_sea_ice(tmp_path)
    impossible = (
        ({"size": 10}, "size=10"),
        ({"pixel_m": 5000.0}, "pixel_m=5000"),
        ({"months": (3, 2)}, "months"),
        ({"size": 10_000}, "800 km"),
    )
    for wrong, words in impossible:
        with pytest.raises(InputError, match=words):
            simulated_sea_ice(tmp_path / "new", **wrong)
    assert not (tmp_path / "new").exists()


def test_geopackage_is_read_back_by_gdal(tmp_path):
    shapes = [
        shapely.box(0, 0, 2, 3),
        shapely.Polygon([(5, 5), (9, 5), (7, 9)], []).difference(shapely.box(6.5, 6, 7, 7)),
    ]
    path = write_geopackage(
        tmp_path / "a.gpkg", "chart", shapes, {"CT": [10, 92], "POLY_TYPE": ["I", "W"]}, 3413
    )
    meta, _, wkb, values = pyogrio.raw.read(path)
    assert [str(n) for n, _ in pyogrio.list_layers(path)] == ["chart"]
    assert list(meta["fields"]) == ["CT", "POLY_TYPE"]
    assert rasterio.crs.CRS.from_user_input(meta["crs"]).to_epsg() == 3413
    assert [v.tolist() for v in values] == [[10, 92], ["I", "W"]]
    for found, given in zip(shapely.from_wkb(wkb), shapes, strict=True):
        assert found.equals(given)
    with pytest.raises(OutputError, match="exists already"):
        write_geopackage(path, "chart", shapes, {}, 3413)
    with pytest.raises(InputError, match="cannot name"):
        write_geopackage(tmp_path / "b.gpkg", 'a"; DROP', shapes, {}, 3413)
    with pytest.raises(InputError, match="1 values for 2"):
        write_geopackage(tmp_path / "b.gpkg", "a", shapes, {"CT": [1]}, 3413)


def test_command(tmp_path, call):
    out = tmp_path / "ice"
    words = ("simulate", "sea-ice", "-o", out, "--months", "7", "--size", "64", "--seed", "3")
    code, said, _ = call(*words, "--dry-run")
    assert code == 0
    assert "1 of 1 scenes to make" in said
    assert not out.exists()
    code, said, _ = call(*words)
    assert code == 0
    assert "not measured" in said
    assert json.loads((out / "simulated.json").read_text())["seed"] == 3
    code, said, _ = call(*words)
    assert "0 of 1 scenes to make" in said
    for wrong, message in (
        (("--months", "0-3"), "from 1 to 12"),
        (("--months", "x"), "is no month"),
        (("--size", "9"), "size=9"),
    ):
        code, _, err = call("simulate", "sea-ice", "-o", tmp_path / "no", *wrong)
        assert (code, message in err) == (2, True), err
    code, _, err = call("simulate", "sea-ice", "-o", out, "--size", "70", "--months", "7")
    assert (code, "other settings" in err) == (2, True)


def test_version_is_told_apart(folder, monkeypatch):
    monkeypatch.setattr(simulated_ice, "VERSION", 99)
    with pytest.raises(OutputError, match="other settings"):
        simulated_sea_ice(folder, seed=4, size=150, months=(1, 7))
