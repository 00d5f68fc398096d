"""Polygons of a map: every pixel in one, holes right, neighbours in touch, areas those of the ellipsoid."""

import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from sartransfer import polygons as module
from sartransfer.areas import open_ground
from sartransfer.errors import InputError, OutputError
from sartransfer.geotiff import write_geotiff
from sartransfer.polygons import PolygonOptions, class_areas, write_polygons
from sartransfer.scene import GeoReference

pyogrio = pytest.importorskip("pyogrio")
shapely = pytest.importorskip("shapely")
pytest.importorskip("pyproj")
CLASSES = {0: "water", 1: "new, young ice", 2: "old = thick"}
UTM = GeoReference("EPSG:32633", (40.0, 0, 300000.0, 0, -40.0, 7800000.0))
POLAR = GeoReference("EPSG:3413", (400.0, 0, -20000.0, 0, -400.0, 25000.0))  # the pole is inside
ACROSS = GeoReference("EPSG:4326", (0.01, 0, 179.5, 0, -0.01, 72.0))
PLACES = {"UTM": UTM, "polar": POLAR, "across 180": ACROSS}
WRITTEN = datetime(2021, 2, 3, 4, 5, 6, tzinfo=UTC)


def labels(height=83, width=97, seed=0):
    """Blobs of three classes with specks, holes in holes, corners that touch, and nodata."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(height, width)), 4)
    found = np.digitize(smooth, [-0.03, 0.05]).astype(np.uint8)
    specks = rng.random(found.shape) < 0.04
    found[specks] = rng.integers(0, 3, specks.sum())
    found[10:40, 10:40] = 0
    found[14:36, 14:36] = 2
    found[18:32, 18:32] = 0
    found[22:28, 22:28] = 1
    found[28, 28] = 1  # touches by its corner alone
    found[60:, :12] = 255
    found[70, 5] = 1
    return found


def write_map(path, values, place=UTM, names=CLASSES):
    import json

    colours = {0: (0, 114, 178), 1: (230, 159, 0), 2: (0, 158, 115)}
    return write_geotiff(
        path, values, georeference=place, nodata=255, tags={"SARTRANSFER_CLASSES": json.dumps(names)},
        colormap=colours,
    )  # fmt: skip


def read_layer(path, layer):
    meta, _, geometry, fields = pyogrio.raw.read(path, layer=layer)
    table = dict(zip(meta["fields"], fields, strict=True))
    return (None if geometry is None else shapely.from_wkb(geometry)), table, meta


def pixel_areas(values, place):
    areas = open_ground(place, *values.shape).pixel_areas(0, len(values))
    return [areas[values == i].sum() for i in range(3)]


def painted(geometry, table, place, shape):
    """The map that the polygons make: each pixel gets the class of those that hold its centre, which must be one."""
    a, b, c, d, e, f = place.transform
    col, row = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
    points = shapely.points(a * col + b * row + c, d * col + e * row + f).ravel()
    tree = shapely.STRtree(points)
    which, found = tree.query(geometry, predicate="contains")
    assert len(np.unique(found)) == len(found)
    out = np.full(len(points), 255, dtype=np.uint8)
    out[found] = table["class_id"][which]
    return out.reshape(shape)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_polygons_are_the_map(tmp_path, place):
    values = labels()
    path = write_map(tmp_path / "map.tif", values, place)
    found = write_polygons(path, tmp_path / "map.gpkg")
    geometry, table, _ = read_layer(found.path, "classes")
    assert len(geometry) == found.polygons
    assert sum(ndimage.label(values == i)[1] for i in range(3)) == found.polygons
    assert shapely.is_valid(geometry).all()
    assert set(shapely.get_type_id(geometry)) == {3}
    np.testing.assert_array_equal(painted(geometry, table, place, values.shape), values)
    assert {
        (i, CLASSES[i], c) for i, c in zip(range(3), ("#0072b2", "#e69f00", "#009e73"), strict=True)
    } == set(zip(table["class_id"].tolist(), table["class"], table["colour"], strict=True))
    assert pyogrio.read_info(found.path, layer="classes")["crs"].rpartition(":")[2] in place.crs
    expected = pixel_areas(values, place)
    sums = np.bincount(table["class_id"], table["area_m2"])
    np.testing.assert_allclose(sums, expected, rtol=1e-7)
    np.testing.assert_allclose(list(found.areas.values()), expected, rtol=1e-12)
    assert list(found.areas) == list(CLASSES.values())
    assert class_areas(path) == {
        CLASSES[i]: (int((values == i).sum()), pytest.approx(expected[i])) for i in range(3)
    }
    _, told, _ = read_layer(found.path, "areas")
    assert told["class"].tolist() == list(CLASSES.values())
    assert told["pixels"].tolist() == [(values == i).sum() for i in range(3)]
    assert told["polygons"].sum() == found.polygons
    np.testing.assert_allclose(told["area_km2"], np.array(expected) / 1e6)
    np.testing.assert_allclose(told["polygons_km2"], np.array(expected) / 1e6, rtol=1e-7)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_minimum_mapping_unit_in_square_metres(tmp_path, place):
    values = labels()
    smallest = 12 * sum(pixel_areas(values, place)) / (values != 255).sum()
    path = write_map(tmp_path / "map.tif", values, place)
    found = write_polygons(path, tmp_path / "map.gpkg", PolygonOptions(min_area=smallest))
    geometry, table, _ = read_layer(found.path, "classes")
    areas = table["area_m2"]
    (island,) = np.flatnonzero(areas < smallest * (1 - 1e-6))  # one pixel that nodata surrounds
    assert areas[island] < 1.2 * smallest / 12
    assert areas.sum() == pytest.approx(sum(pixel_areas(values, place)), rel=1e-7)
    merged = painted(geometry, table, place, values.shape)
    assert ((merged == 255) == (values == 255)).all()
    big = np.zeros(values.shape, dtype=bool)  # what is large enough stays as it was
    for i in range(3):
        number, _ = ndimage.label(values == i)
        big |= np.isin(number, np.flatnonzero(np.bincount(number.ravel()) > 16)) & (number > 0)
    np.testing.assert_array_equal(merged[big], values[big])
    np.testing.assert_allclose(list(found.areas.values()), pixel_areas(values, place))  # of the map as it is


@pytest.mark.parametrize("pixels", [0.5, 1.5, 6.0])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_simplified_borders_leave_no_gaps(tmp_path, place, pixels):
    values = labels()
    values[values == 255] = 1  # then the whole rectangle must stay covered, but for its outline's corners
    side = max(open_ground(place, *values.shape).pixel_sides)
    path = write_map(tmp_path / "map.tif", values, place)
    plain = write_polygons(path, tmp_path / "plain.gpkg")
    found = write_polygons(path, tmp_path / "map.gpkg", PolygonOptions(simplify=pixels * side))
    geometry, table, _ = read_layer(found.path, "classes")
    before, _, _ = read_layer(plain.path, "classes")
    assert found.polygons == plain.polygons
    assert shapely.is_valid(geometry).all()
    assert shapely.coverage_is_valid(geometry)  # neither gaps nor overlaps along common borders
    together = shapely.union_all(geometry)
    assert shapely.get_num_interior_rings(together) == 0
    assert shapely.area(geometry).sum() == pytest.approx(shapely.area(together), rel=1e-9)
    whole = shapely.area(shapely.union_all(before))
    assert abs(shapely.area(together) / whole - 1) < 1e-6 + pixels**2 * 2 / values.size
    points, points_before = (shapely.get_num_coordinates(g).sum() for g in (geometry, before))
    if pixels > 1:
        assert points < 0.8 * points_before
    assert table["area_m2"].sum() == pytest.approx(sum(plain.areas.values()), rel=1e-3)


def test_chunks_and_one_by_one_give_the_same_bytes(tmp_path, monkeypatch):
    path = write_map(tmp_path / "map.tif", labels())
    options = PolygonOptions(min_area=10 * 1600, simplify=60)
    one = write_polygons(path, tmp_path / "one.gpkg", options, written=WRITTEN).path.read_bytes()
    assert write_polygons(path, tmp_path / "two.gpkg", options, written=WRITTEN).path.read_bytes() == one
    monkeypatch.setattr(module, "CHUNK", 7)
    monkeypatch.setattr(module, "PIXELS", 500)
    three = write_polygons(path, tmp_path / "three.gpkg", options, written=WRITTEN)
    for layer in ("classes", "areas"):
        first, again = read_layer(tmp_path / "one.gpkg", layer), read_layer(three.path, layer)
        assert first[1].keys() == again[1].keys()
        for name, column in first[1].items():
            if "area" in name or "km2" in name:  # sums of other chunks round differently
                np.testing.assert_allclose(column, again[1][name], rtol=1e-12)
            else:
                assert (column == again[1][name]).all()
        if first[0] is not None:
            assert shapely.equals_exact(first[0], again[0]).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.tif", "one.gpkg", "three.gpkg", "two.gpkg"]


def test_a_map_of_nothing_is_an_empty_layer(tmp_path):
    path = write_map(tmp_path / "map.tif", np.full((9, 8), 255, np.uint8))
    found = write_polygons(path, tmp_path / "map.gpkg", PolygonOptions(min_area=1e5, simplify=50))
    assert (found.polygons, set(found.areas.values())) == (0, {0.0})
    assert len(read_layer(found.path, "classes")[0]) == 0


def test_what_cannot_be_is_refused_and_leaves_nothing(tmp_path):
    path = write_map(tmp_path / "map.tif", labels())
    floats = write_geotiff(tmp_path / "float.tif", np.zeros((2, 5, 5), np.float32), georeference=UTM)
    nowhere = write_geotiff(tmp_path / "nowhere.tif", np.zeros((5, 5), np.uint8))
    (tmp_path / "there.gpkg").write_text("mine")
    for words, error, message in (
        ((floats, "a.gpkg"), InputError, "has 2 bands of float32"),
        ((nowhere, "a.gpkg"), InputError, "Geocode the"),
        ((path, "a.shp"), OutputError, "does not end in .gpkg"),
        ((path, "no/a.gpkg"), OutputError, "no folder"),
        ((path, "there.gpkg"), OutputError, "exists already"),
        ((tmp_path / "none.tif", "a.gpkg"), InputError, "is not there"),
    ):
        with pytest.raises(error, match=message):
            write_polygons(words[0], tmp_path / words[1])
    for wrong in ({"min_area": -1.0}, {"simplify": float("nan")}):
        with pytest.raises(InputError, match="must be a number of 0 or more"):
            PolygonOptions(**wrong)
    assert (tmp_path / "there.gpkg").read_text() == "mine"
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".gpkg", ".tif", ".tif", ".tif"]


def test_without_the_extra_it_is_named(tmp_path):
    path = write_map(tmp_path / "map.tif", labels())
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.modules['pyogrio'] = None\n"
        "from sartransfer.polygons import write_polygons\n"
        "from sartransfer.errors import InputError\n"
        "try: write_polygons(sys.argv[2], sys.argv[3])\n"
        "except InputError as error: print(error)\n"
    )
    source = str(Path(module.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code, source, str(path), str(tmp_path / "a.gpkg")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert 'pip install "sartransfer[gis]"' in done.stdout


def test_a_full_disk_leaves_nothing(tmp_path):
    values = np.random.default_rng(0).integers(0, 3, (150, 150)).astype(np.uint8)
    path = write_map(tmp_path / "map.tif", values)
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    words = ["-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if mount is None or subprocess.run([mount, *words], capture_output=True, check=False).returncode:
        pytest.skip("a small disk needs root and mount")
    try:
        with pytest.raises(OutputError, match="disk full"):
            write_polygons(path, folder / "map.gpkg")
        assert list(folder.iterdir()) == []
    finally:
        subprocess.run(["umount", str(folder)], check=True)
