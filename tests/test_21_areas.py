"""Areas on the ellipsoid: of pixels and polygons, in degrees, UTM and polar coordinates, across 180 and the pole."""

import itertools

import numpy as np
import pytest
from rasterio.warp import transform

from sartransfer.areas import divided, open_ground, polygon_areas
from sartransfer.errors import InputError
from sartransfer.scene import GeoReference

pyproj = pytest.importorskip("pyproj")
shapely = pytest.importorskip("shapely")
WGS84 = pyproj.Geod(ellps="WGS84")
PLACES = {
    "degrees": ("EPSG:4326", (0.01, 0, 10.0, 0, -0.02, 79.0)),
    "degrees across 180": ("EPSG:4326", (0.05, 0, 177.5, 0, -0.02, -60.0)),
    "degrees, turned": ("EPSG:4326", (0.01, 0.004, 10.0, 0.003, -0.02, 50.0)),
    "UTM": ("EPSG:32633", (40.0, 0, 300000.0, 0, -40.0, 7800000.0)),
    "polar": ("EPSG:3413", (400.0, 0, 500000.0, 0, -400.0, -900000.0)),
    "polar with the pole": ("EPSG:3995", (5000.0, 0, -230000.0, 0, -5000.0, 270000.0)),
    "polar across 180": ("EPSG:3995", (4000.0, 0, -100000.0, 0, -4000.0, 2000000.0)),
    "equal area": ("EPSG:3035", (100.0, 0, 4000000.0, 0, -100.0, 3000000.0)),
    "feet": ("EPSG:2263", (100.0, 0, 900000.0, 0, -100.0, 300000.0)),
}
HEIGHT, WIDTH = 97, 91


def slow_area(crs, place, corners):
    """The area inside a ring of pixel corners: each side in 64 pieces, each a geodesic."""
    points = []
    for (c0, r0), (c1, r1) in zip(corners, corners[1:] + corners[:1], strict=True):
        points += [(c0 + (c1 - c0) * t / 64, r0 + (r1 - r0) * t / 64) for t in range(64)]
    a, b, c, d, e, f = place
    x, y = zip(*[(a * col + b * row + c, d * col + e * row + f) for col, row in points], strict=True)
    datum = pyproj.CRS(crs).geodetic_crs
    lon, lat = transform(crs, datum.to_wkt(), x, y)
    return abs(pyproj.CRS(crs).get_geod().polygon_area_perimeter(lon, lat)[0])


@pytest.mark.parametrize("name", PLACES)
def test_pixels_are_as_large_as_their_outlines(name):
    crs, place = PLACES[name]
    ground = open_ground(GeoReference(crs, place), HEIGHT, WIDTH)
    areas = np.concatenate([ground.pixel_areas(first, min(30, HEIGHT - first)) for first in (0, 30, 60, 90)])
    assert areas.shape == (HEIGHT, WIDTH)
    for row, col in ((0, 0), (96, 90), (3, 77), (48, 45), (53, 46), (54, 46), (60, 8)):
        corners = [(col, row), (col + 1, row), (col + 1, row + 1), (col, row + 1)]
        assert areas[row, col] == pytest.approx(slow_area(crs, place, corners), rel=2e-6)
    if name != "polar with the pole":  # there the outline of a block may go round the pole: tested below
        block = [(10, 5), (81, 5), (81, 90), (10, 90)]
        assert areas[5:90, 10:81].sum() == pytest.approx(slow_area(crs, place, block), rel=1e-6)


def test_pixels_in_degrees_have_the_area_of_the_closed_form():
    """Between two parallels of an ellipsoid: Snyder 1987, Map Projections, eq. 3-12."""
    a, f = WGS84.a, WGS84.f
    e = np.sqrt(f * (2 - f))

    def q(lat):
        s = np.sin(np.radians(lat))
        return (1 - e**2) * (s / (1 - e**2 * s**2) - np.log((1 - e * s) / (1 + e * s)) / (2 * e))

    ground = open_ground(GeoReference("EPSG:4326", (0.01, 0, 179.7, 0, -0.02, 79.0)), HEIGHT, WIDTH)
    north = 79.0 - 0.02 * np.arange(HEIGHT)
    expected = a**2 * np.radians(0.01) * (q(north) - q(north - 0.02)) / 2
    np.testing.assert_allclose(ground.pixel_areas(0, HEIGHT), expected[:, None] * np.ones(WIDTH), rtol=1e-7)


def test_the_whole_earth_in_degrees():
    a, b = WGS84.a, WGS84.b
    e = np.sqrt(1 - (b / a) ** 2)
    earth = 2 * np.pi * a**2 + np.pi * b**2 / e * np.log((1 + e) / (1 - e))  # surface of an oblate ellipsoid
    ground = open_ground(GeoReference("EPSG:4326", (1.0, 0, -180.0, 0, -1.0, 90.0)), 180, 360)
    assert ground.pixel_areas(0, 180).sum() == pytest.approx(earth, rel=1e-6)
    with pytest.raises(InputError, match="half the Earth"):
        open_ground(GeoReference("EPSG:3857", (3e5, 0, -2e7, 0, -3e5, 2e7)), 133, 133)
    one = open_ground(GeoReference("EPSG:4326", (1e-3, 0, 10.0, 0, -1e-3, 50.0)), 1, 1)
    two = open_ground(GeoReference("EPSG:4326", (1e-3, 0, 10.0, 0, -1e-3, 50.0)), 2, 3)
    assert one.pixel_areas(0, 1)[0, 0] == pytest.approx(two.pixel_areas(0, 2)[0, 0], rel=1e-6)


def test_a_cap_around_the_pole_is_as_large_as_the_closed_form():
    ground = open_ground(GeoReference("EPSG:3995", PLACES["polar with the pole"][1]), HEIGHT, WIDTH)
    turn = np.linspace(0, 2 * np.pi, 721)[:-1]
    x, y = transform("EPSG:4326", "EPSG:3995", np.degrees(turn), np.full(720, 88.5))
    a, _, c, _, e, f = ground.transform
    cap = shapely.Polygon(np.stack([(np.array(x) - c) / a, (np.array(y) - f) / e], axis=1))
    parallel = [abs(WGS84.polygon_area_perimeter(np.degrees(turn), np.full(720, 88.5))[0])]
    np.testing.assert_allclose(polygon_areas(ground, np.array([cap])), parallel, rtol=1e-5)
    s = np.sin(np.radians(88.5))
    e2 = WGS84.f * (2 - WGS84.f)
    e1 = np.sqrt(e2)
    q1, qp = [
        (1 - e2) * (v / (1 - e2 * v**2) - np.log((1 - e1 * v) / (1 + e1 * v)) / (2 * e1)) for v in (s, 1.0)
    ]
    np.testing.assert_allclose(
        polygon_areas(ground, np.array([cap])), np.pi * WGS84.a**2 * (qp - q1), rtol=5e-5
    )


@pytest.mark.parametrize("name", PLACES)
def test_polygons_are_the_sum_of_their_pixels_and_holes_are_taken_off(name):
    crs, place = PLACES[name]
    ground = open_ground(GeoReference(crs, place), HEIGHT, WIDTH)
    pixels = ground.pixel_areas(0, HEIGHT)
    whole = shapely.box(0, 0, WIDTH, HEIGHT)
    holed = shapely.Polygon(
        [(5, 5), (80, 5), (80, 90), (5, 90)],
        [[(30, 30), (60, 30), (60, 70), (30, 70)], [(7, 7), (8, 7), (8, 8), (7, 8)]],
    )
    small = shapely.box(40, 11, 41, 12)
    sums = [
        pixels.sum(),
        pixels[5:90, 5:80].sum() - pixels[30:70, 30:60].sum() - pixels[7, 7],
        pixels[11, 40],
    ]
    found = polygon_areas(ground, np.array([whole, holed, small]))
    np.testing.assert_allclose(found, sums, rtol=3e-6)
    assert polygon_areas(ground, np.array([], dtype=object)).shape == (0,)


def test_edges_are_divided_evenly_and_only_along_themselves():
    polygons = np.array([
        shapely.Polygon([(0, 0), (4, 0), (4, 3), (0, 3)], [[(1, 1), (2, 1), (2, 2), (1, 2)]]),
        shapely.box(10, 10, 11, 12.5),
    ])  # fmt: skip
    points, rings, firsts = divided(polygons, 1.0)
    again = shapely.from_ragged_array(shapely.GeometryType.POLYGON, points, (rings, firsts))
    assert shapely.equals(again, polygons).all()
    for first, last in itertools.pairwise(rings):
        steps = np.hypot(*np.diff(points[first:last], axis=0).T)
        assert (steps <= 1).all()
        assert (points[first] == points[last - 1]).all()
    assert np.diff(rings).tolist() == [15, 5, 9]
    with pytest.raises(ValueError, match="polygons are expected"):
        divided(np.array([shapely.Point(1, 2)]), 1.0)


def test_a_map_without_a_known_place_has_no_areas():
    for place, words in (
        (GeoReference(), "no coordinate reference system"),
        (GeoReference("EPSG:4326", None, ((0, 0, 1, 1, 0), (0, 5, 2, 1, 0), (5, 0, 1, 0, 0))), "Geocode"),
        (GeoReference("EPSG:9999999", (1, 0, 0, 0, -1, 0)), "is not known"),
        (GeoReference("EPSG:4978", (1, 0, 0, 0, -1, 0)), "neither geographic nor projected"),
        (GeoReference("EPSG:4807", (0.1, 0, 0, 0, -0.1, 50)), "not in degrees"),
        (GeoReference("EPSG:4326", (1.0, 0, 0, 0, -1.0, 120.0)), "leaves what"),
    ):
        with pytest.raises(InputError, match=words):
            open_ground(place, 50, 50)
