"""Simulated EW scenes: geometry, backscatter, noise and speckle against closed forms and published numbers."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from sartransfer import compiled
from sartransfer.errors import InputError
from sartransfer.radar.sea_ice import kernels, plain
from sartransfer.radar.sea_ice import scene as scenes
from sartransfer.radar.sea_ice.backscatter import (
    MELTED,
    Surface,
    Weather,
    mean_backscatter,
    polarization_ratio,
    sea_backscatter,
)
from sartransfer.radar.sea_ice.fields import Grid, at_quantile, make_tile
from sartransfer.radar.sea_ice.floes import SIDES, draw_floes, make_floes, mean_area, power_law
from sartransfer.radar.sea_ice.geometry import EDGE, LAND, make_ground
from sartransfer.radar.sea_ice.scene import make_ice_scene
from sartransfer.radar.sea_ice.speckle import row_keys, speckle_table
from sartransfer.radar.sea_ice.swath import EARTH_M, ORBIT_M, SWATH_M, Swath, look_triangle
from sartransfer.readers.sentinel1_annotation import read_sentinel1_annotation


@pytest.fixture(scope="module")
def scene():
    return make_ice_scene(240, 320, 40.0, 2, 7, coast=True)


def made(scene, rows=64):
    """Everything of a scene: surface, level, counts."""
    blocks = list(scene.blocks(rows))
    return (
        np.concatenate([b[1] for b in blocks]),
        np.concatenate([b[2] for b in blocks]),
        np.concatenate([b[3] for b in blocks], axis=1),
    )


def test_the_triangle_of_earth_and_orbit_closes_and_agrees_with_a_real_annotation():
    across = np.linspace(0, SWATH_M, 50)
    angle, slant = look_triangle(across)
    orbit = EARTH_M + ORBIT_M
    # the law of cosines at the point on the ground, whose angle is 180 degrees less the incidence angle
    cosine = EARTH_M**2 + slant**2 + 2 * EARTH_M * slant * np.cos(np.radians(angle))
    np.testing.assert_allclose(np.sqrt(cosine), orbit, rtol=1e-12)
    # 18.92 to 46.39 degrees and 744 to 976 km, middle line of a product of November 2022; the orbit is not round
    np.testing.assert_allclose(angle[[0, -1]], [18.92, 46.39], atol=0.15)
    np.testing.assert_allclose(slant[[0, -1]] / 1e3, [744, 976], atol=4)


def test_noise_and_tables_agree_with_a_real_product():
    root = os.environ.get("SARTRANSFER_DATA")
    folder = Path(root or "-") / "S1A_EW_GRDM_1SDH_20221130T014342_20221130T014446_046117_058549_BB15"
    if not folder.is_dir():
        pytest.skip("SARTRANSFER_DATA does not name a folder with the real Sentinel-1 product")
    real = read_sentinel1_annotation(folder)
    swath = Swath(real.rows, real.columns, 40.0)
    columns = np.arange(60.0, real.columns - 60, 35)
    bounds = np.array(swath.bounds)
    columns = columns[np.abs(columns[:, None] - bounds).min(axis=1) > 60]
    row = np.array([5510.0])  # in the middle of a burst of EW3
    for layer in real.layers:
        table = layer.tables["sigma0"].at(row, columns)[0]
        np.testing.assert_allclose(swath.sigma_table(columns), table, rtol=0.005)
        nesz = 10 * np.log10(layer.noise.at(row, columns, azimuth=False)[0] / table**2)
        ours = 10 * np.log10(swath.nesz(layer.polarization)[columns.astype(int)])
        assert np.abs(ours - nesz).max() < 0.3
        assert np.abs(ours - nesz).mean() < 0.05


def test_a_small_swath_is_the_whole_one_in_small():
    large, small = Swath(64, 10_487, 40.0), Swath(64, 100, 40.0)
    assert large.stretch == pytest.approx(1.0)
    assert small.stretch == pytest.approx(104.87)
    assert large.bounds == (0, 3113, 5013, 7084, 8959, 10_487)
    np.testing.assert_allclose(small.incidence_deg(np.arange(100.0))[[0, -1]], [19.0, 46.3], atol=0.2)
    for pol in ("HH", "HV"):
        for i, bound in enumerate(large.bounds[1:-1]):  # noise steps at every seam
            step = 10 * np.log10(large.nesz(pol)[bound] / large.nesz(pol)[bound - 1])
            assert abs(step) > 0.1, (pol, i, step)
    with pytest.raises(InputError, match="at least 16"):
        Swath(8, 100, 40.0)


def test_sigma_table_is_the_constant_beta_table_over_the_root_of_the_sine():
    swath = Swath(64, 500, 40.0)
    columns = np.arange(500.0)
    angle = np.radians(swath.incidence_deg(columns))
    # sigma0 = beta0 sin(angle), and each is DN^2 / A^2
    np.testing.assert_allclose(1087.0**2 / swath.sigma_table(columns) ** 2, np.sin(angle), rtol=1e-12)


def test_scalloping_is_one_inside_a_burst_and_peaks_between_two():
    swath = Swath(2000, 10_487, 40.0, (0.0,) * 5)
    period = 20_900 / 40.0
    factors = swath.scalloping("HV", np.array([period / 2, period, 1.5 * period]))
    np.testing.assert_allclose(factors[:, 0], 1.0)
    np.testing.assert_allclose(factors[:, 1], (1.23, 1.22, 1.19, 1.17, 1.15))
    np.testing.assert_allclose(factors[:, 2], 1.0)


def test_polarization_ratio_at_its_three_directions_and_between():
    angle = np.linspace(19, 47, 9)
    up, across, down = (
        a * np.exp(b * angle) + c
        for a, b, c in (
            (0.00650704, 0.128983, 0.992839),
            (0.00782194, 0.121405, 0.992839),
            (0.00598416, 0.140952, 0.992885),
        )
    )
    for direction, expected in ((0.0, up), (90.0, across), (180.0, down), (270.0, across)):
        np.testing.assert_allclose(polarization_ratio(angle, direction), expected, rtol=1e-12)
    assert (polarization_ratio(angle, 37.0) > 1).all()  # the sea is brighter in VV


def test_water_brightens_with_wind_and_darkens_with_angle_and_hv_follows_its_published_line():
    wind = np.array([3.0, 6.0, 12.0])[:, None]
    angle = np.linspace(20, 46, 14)
    hh, hv = sea_backscatter(wind, 45.0, angle)
    assert (np.diff(hh, axis=0) > 0).all()
    assert (np.diff(hh, axis=1) < 0).all()
    np.testing.assert_allclose(10 * np.log10(hv), np.broadcast_to(0.592 * wind - 35.652, hv.shape))


@pytest.mark.parametrize(
    ("surface", "slope"), [(Surface.FIRST_YEAR, -0.235), (Surface.OLD, -0.167)], ids=["first-year", "old"]
)
def test_ice_darkens_with_the_published_slope(surface, slope):
    angle = np.linspace(20, 46, 30)
    hh = 10 * np.log10(mean_backscatter(surface, Weather(2, 8.0, 0.0), angle)[0])
    assert np.polyfit(angle, hh, 1)[0] == pytest.approx(slope, abs=1e-9)


def test_melt_narrows_the_contrast_between_ices_and_between_ice_and_water():
    angle = np.array([30.0])
    contrast = []
    for month in (2, 7):
        weather = Weather(month, 7.0, 90.0)
        level = {s: 10 * np.log10(mean_backscatter(s, weather, angle))[:, 0] for s in Surface}
        contrast.append(np.abs(level[Surface.OLD] - level[Surface.FIRST_YEAR]))
    assert (contrast[1] < contrast[0] / 3).all()
    assert max(MELTED) == MELTED[6] == 1.0  # July
    with pytest.raises(InputError, match="month=13"):
        Weather(13, 5.0, 0.0)


def test_speckle_table_has_the_gamma_distribution_of_a_quarter():
    table = speckle_table(10.7)
    assert table.mean(dtype=np.float64) == pytest.approx(0.25, rel=1e-6)
    assert table.var(dtype=np.float64) == pytest.approx(0.25**2 / (10.7 / 4), rel=1e-3)
    assert (np.diff(table) >= 0).all()
    middle = stats.gamma.ppf((np.arange(65536) + 0.5)[1000:-1000] / 65536, 10.7 / 4, scale=1 / 10.7)
    np.testing.assert_allclose(table[1000:-1000], middle, rtol=1e-4)
    with pytest.raises(InputError, match=r"looks=0\.5"):
        speckle_table(0.5)


def product_speckle(seed, layer, rows, columns, table):
    """Speckle as the product's numbers have it: of a surface of backscatter 1, without noise."""
    flat, keys = np.zeros((rows, columns), np.uint8), row_keys(seed, layer, 0, rows + 1)[None]
    loud = np.full(columns, 15_000.0, np.float32)  # of 65,535: rounding to whole numbers is 1e-4 of the mean
    means, noise = np.ones((1, 1, 1, 1), np.float32), np.zeros((1, columns), np.float32)
    factors, bounds = np.ones((1, 1, rows), np.float32), np.array([0, columns])
    counts = plain.radar_rows(flat, flat, means, 30, noise, factors, bounds, loud, keys, table)
    assert counts.max() < 65535
    return (counts[0] / 15_000.0) ** 2


def test_speckle_is_gamma_of_the_products_looks_and_shared_with_neighbours():
    speckle = product_speckle(3, 0, 800, 900, speckle_table(10.7))
    assert speckle.mean() == pytest.approx(1.0, abs=4e-3)
    assert 1 / speckle.var() == pytest.approx(10.7, rel=0.02)
    apart = speckle[::2, ::2].ravel()[::7]  # every second pixel shares nothing
    assert stats.kstest(apart, stats.gamma(10.7, scale=1 / 10.7).cdf).pvalue > 0.01
    centred = speckle - 1

    def shared(down, along):
        a = centred[down:, along:]
        return (a * centred[: a.shape[0], : a.shape[1]]).mean() / speckle.var()

    for lag, expected in (((0, 1), 0.5), ((1, 0), 0.5), ((1, 1), 0.25), ((0, 2), 0.0), ((2, 0), 0.0)):
        assert shared(*lag) == pytest.approx(expected, abs=0.01), lag


def test_layers_and_seeds_have_speckle_of_their_own():
    table = speckle_table(4.0)
    one, other, third = (product_speckle(s, k, 200, 200, table).ravel() for s, k in ((1, 0), (1, 1), (2, 0)))
    for a, b in ((one, other), (one, third)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.02


def test_a_field_has_its_variance_and_correlation_length():
    grid = Grid(2400, 2400, 8)
    field = grid.make(64.0, np.random.default_rng(2), smoothness=3.0)
    assert field.shape == (301, 301)
    assert field.std() == pytest.approx(1.0, abs=0.25)
    # Matern of that spectrum: (1 + r + r^2/3 ...) is messy; over a length it must fall, and over ten lengths vanish
    near, far = (np.corrcoef(field[:, n:].ravel(), field[:, :-n].ravel())[0, 1] for n in (2, 80))
    assert near > 0.9
    assert abs(far) < 0.25


def test_fields_are_bilinear_between_their_nodes():
    grid = Grid(20, 33, 8)
    down, along = (x * 8.0 for x in np.mgrid[: grid.shape[0], : grid.shape[1]].astype(np.float32))
    plane = (2 * down - 3 * along + 1).astype(np.float32)
    row, col = np.mgrid[5:19, :33]
    np.testing.assert_allclose(grid.at_pixels(plane, 5, 14), 2.0 * row - 3.0 * col + 1, atol=1e-3)
    assert at_quantile(np.arange(101, dtype=np.float32), 0.25) == pytest.approx(75)


def test_tiles_have_half_of_the_variance_each():
    rng = np.random.default_rng(0)
    assert make_tile(101, 1.5, rng).std() == pytest.approx(32 / np.sqrt(2), rel=0.01)


def test_floe_sizes_follow_their_power_law():
    rng = np.random.default_rng(4)
    d = power_law(200_000, 2.4, 4.0, 400.0, rng)
    assert 4 <= d.min() < 4.01
    assert d.max() <= 400
    # the exponent by maximum likelihood (Hill), where the upper end is far away
    tail = d[d < 100]
    share = np.log(tail / 4).mean()
    low, high = 1.2, 6.0
    for _ in range(60):  # the mean log of the truncated law, solved by halving
        middle = (low + high) / 2
        a, r = middle - 1, np.log(25.0)
        expected = 1 / a - r / (np.exp(a * r) - 1)
        low, high = (middle, high) if expected > share else (low, middle)
    assert middle == pytest.approx(2.4, abs=0.02)
    assert np.pi / 4 * (d**2).mean() == pytest.approx(mean_area(2.4, 4.0, 400.0), rel=0.03)


def test_floes_are_drawn_as_their_half_planes_say_the_smaller_on_the_larger():
    rng = np.random.default_rng(5)
    n, shape = 60, (70, 90)
    floes = make_floes(
        rng.random((n, 2)) * shape, rng.uniform(4, 30, n), rng.integers(1, 17, n).astype(np.uint8), rng
    )
    assert (np.diff(floes.radius) <= 0).all()
    expected = np.zeros(shape, dtype=np.uint8)
    row, col = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    for i in range(n):
        inside = np.ones(shape, dtype=bool)
        for k in range(SIDES):
            ny, nx = floes.normals[i, k].astype(np.float64)
            inside &= ny * (row - floes.row[i]) + nx * (col - floes.col[i]) <= floes.reach[i, k]
        inside &= np.abs(row - floes.row[i]) <= 1.5 * floes.radius[i] + 1
        expected[inside] = floes.code[i]
    whole = np.zeros(shape, dtype=np.uint8)
    draw_floes(floes, 0, whole)
    np.testing.assert_array_equal(whole, expected)
    part = np.zeros((20, shape[1]), dtype=np.uint8)
    draw_floes(floes.crossing(31, 20), 31, part)
    np.testing.assert_array_equal(part, expected[31:51])


def test_shares_of_ice_land_and_leads_are_those_of_the_month():
    for month, low, high in ((3, 0.5, 0.8), (9, 0.2, 0.5)):
        shares = []
        for seed in range(3):
            ground = make_ground(240, 240, 40.0, Weather(month, 6.0, 0.0), seed, coast=False)
            shares.append((ground.fields[EDGE] > 0.5).mean())
            assert (ground.fields[LAND] < 0).all()
        assert low < np.mean(shares) < high
    coast = make_ground(240, 240, 40.0, Weather(3, 6.0, 0.0), 1, coast=True)
    assert 0.02 < (coast.fields[LAND] > 0).mean() < 0.13


def test_the_same_scene_whichever_block_size(scene):
    whole, parts = made(scene, 240), made(scene, 37)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)
    again = made(make_ice_scene(240, 320, 40.0, 2, 7, coast=True))
    np.testing.assert_array_equal(whole[2], again[2])
    other = made(make_ice_scene(240, 320, 40.0, 2, 8, coast=True))
    assert (whole[2] != other[2]).mean() > 0.9
    assert set(np.unique(whole[0])) >= {Surface.WATER, Surface.FIRST_YEAR, Surface.OLD, Surface.LAND}


@pytest.mark.parametrize("month", [1, 7])
def test_kernels_give_the_bits_of_numpy(month):
    scene = make_ice_scene(64, 150, 40.0, month, 3, coast=True)
    ground, t = scene.ground, scene.tables
    codes = np.zeros((20, 150), dtype=np.uint8)
    floes = ground.floes.crossing(24, 20)
    kernels.floe_rows(0, 20, 24, *floes.arrays(), codes)  # plain Python here, as numba compiles it elsewhere
    expected = np.zeros_like(codes)
    draw_floes(floes, 24, expected)
    np.testing.assert_array_equal(codes, expected)
    surface, level = np.empty_like(codes), np.empty_like(codes)
    arrays = (ground.fields, ground.thresholds.as_array(), codes, *ground.tiles, t.gains)
    kernels.ground(0, 20, 24, ground.grid.step, *arrays, surface, level)
    slow = plain.ground_rows(ground, 24, codes, t.gains)
    np.testing.assert_array_equal(surface, slow[0])
    np.testing.assert_array_equal(level, slow[1])
    counts = np.empty((2, 20, 150), dtype=np.uint16)
    keys = np.stack([row_keys(scene.seed, k, 24, 21) for k in range(2)])
    factors = np.stack([scene.swath.scalloping(p, np.arange(24.0, 44.0)) for p in ("HH", "HV")])
    given = (surface, level, t.means, t.shift, t.noise, factors.astype(np.float32), np.array(scene.swath.bounds),
             t.amplitude, keys, t.speckle)  # fmt: skip
    with np.errstate(over="ignore"):  # hashes are meant to wrap
        kernels.radar(0, 20, *given, counts)
    np.testing.assert_array_equal(counts, plain.radar_rows(*given))


def test_compiled_scene_is_the_numpy_scene(scene, monkeypatch):
    pytest.importorskip("numba")
    slow = made(scene)
    monkeypatch.setattr(compiled, "LARGE", 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    for one, other in zip(made(scene), slow, strict=True):
        np.testing.assert_array_equal(one, other)
    assert scenes.kernel_for(kernels.radar, kernels.RADAR, 1) is not None


def test_numbers_are_signal_plus_noise_by_sub_swath_with_its_error():
    scene = make_ice_scene(600, 500, 40.0, 4, 11, coast=False, noise_error=0.2)
    surface, level, counts = made(scene)
    power = np.square(counts.astype(np.float64) / scene.tables.amplitude)
    signal = scene.expected(0, surface, level)
    annotated = scene.noise_rows(0, 600)
    for k in range(2):
        for s, (first, end) in enumerate(zip(scene.swath.bounds[:-1], scene.swath.bounds[1:], strict=True)):
            part = (slice(None), slice(first, end))
            ratio = power[k][part] / (signal[k][part] + scene.noise_error[k][s] * annotated[k][part])
            few = 3 / np.sqrt(ratio.size / 4)  # neighbours share: a quarter are independent
            assert ratio.mean() == pytest.approx(1.0, abs=0.33 * few + 2e-3), (k, s)
            assert 1 / ratio.var() == pytest.approx(10.7, rel=0.1)


def test_what_is_not_possible_is_refused(scene):
    with pytest.raises(InputError, match="seed=-1"):
        make_ice_scene(64, 64, 40.0, 1, -1)
    with pytest.raises(InputError, match="noise_error"):
        make_ice_scene(64, 64, 40.0, 1, 1, noise_error=0.9)
    with pytest.raises(InputError, match="not in a scene of 240"):
        scene.surface_rows(200, 41)
