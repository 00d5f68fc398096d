"""Simulated landscapes and their images, held against distributions, closed forms and a peer's numbers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from sartransfer.data.simulated import MAP_ID, SAR_BANDS, simulated_optical, simulated_sar
from sartransfer.errors import InputError, OutputError
from sartransfer.radar import synthetic
from sartransfer.radar.landscape import (
    CLASSES,
    FOREST,
    OPEN_LAND,
    WATER,
    Landscape,
    make_field,
    make_landscape,
)
from sartransfer.radar.synthetic import (
    Conditions,
    make_conditions,
    make_incidence_angle,
    make_optical,
    make_sar,
    make_scene,
    make_speckle,
    make_texture,
    sigma0_land,
    sigma0_water,
)
from sartransfer.readers.opening import open_entry, read_label

CALM = Conditions(
    wind_speed=5.0, wind_direction_deg=90.0, open_land_db=0.0, forest_db=0.0, near_angle_deg=38.0
)


def homogeneous(value: int, size: int = 200) -> Landscape:
    return Landscape(
        np.full((size, size), value, np.uint8),
        np.zeros((size, size), np.int32),
        np.zeros((size, size), np.float32),
    )


def look(value: int, *, looks: float = 4.0, nesz_db: float = -200.0, angle_deg: float = 38.0, seed: int = 1):
    land = homogeneous(value)
    angle = np.full(land.classes.shape, angle_deg, np.float32)
    rng = np.random.default_rng(seed)
    return make_sar(
        land,
        rng,
        conditions=CALM,
        incidence_angle_deg=angle,
        looks=looks,
        nesz_db=nesz_db,
        texture=False,
    ).astype(float)


@pytest.mark.parametrize("looks", [1.0, 2.0, 4.4, 12.0])
@pytest.mark.parametrize("value", [WATER, OPEN_LAND, FOREST])
def test_a_homogeneous_area_has_the_looks_asked_for(looks: float, value: int) -> None:
    for band in look(value, looks=looks):
        # Of n gamma values the variance is known to sqrt((2 + 6/L) / n), relatively; five of these errors.
        error = 5 * np.sqrt((2 + 6 / looks) / band.size)
        assert band.mean() ** 2 / band.var() == pytest.approx(looks, rel=error)


@pytest.mark.parametrize(
    ("value", "level"), [(OPEN_LAND, synthetic.OPEN_LAND_DB), (FOREST, synthetic.FOREST_DB)]
)
def test_the_mean_is_the_constant_of_the_class(value: int, level: tuple[float, float]) -> None:
    means = 10 * np.log10(look(value).mean(axis=(1, 2)))
    assert means == pytest.approx(level, abs=5 * 4.343 / np.sqrt(4 * 200**2))


def test_the_mean_of_water_follows_the_wind() -> None:
    expected = sigma0_water(5.0, 90.0, 38.0)
    assert look(WATER).mean(axis=(1, 2)) == pytest.approx(expected, rel=5 / np.sqrt(4 * 200**2))


# Angle, wind, direction, sigma nought by a peer: a scalar transcription of xsarsea's gmf_cmod5_generic,
# neutral wind.
PEER = [
    (30, 2, 0, 0.015090297),
    (30, 10, 0, 0.13976835),
    (38, 5, 90, 0.0087965526),
    (38, 5, 0, 0.017204957),
    (45, 3, 180, 0.0037450169),
    (20, 15, 45, 0.81190858),
    (40, 1, 30, 0.0014983039),
    (60, 2, 90, 0.00058924673),
]


@pytest.mark.parametrize(("angle", "wind", "direction", "expected"), PEER)
def test_vv_of_water_equals_a_peers_cmod5n(
    angle: float, wind: float, direction: float, expected: float
) -> None:
    assert sigma0_water(wind, direction, angle)[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("looks", [1.0, 2.0, 4.4])
def test_speckle_is_gamma(looks: float) -> None:
    sample = make_speckle((150, 150), looks, np.random.default_rng(3)).ravel()
    assert stats.kstest(sample, stats.gamma(looks, scale=1 / looks).cdf).pvalue > 0.01


def test_correlated_speckle_is_gamma_too_and_its_neighbours_go_together() -> None:
    speckle = make_speckle((1, 900, 900), 2, np.random.default_rng(4), correlation_px=1.5)[0]
    apart = speckle[::12, ::12].ravel()  # twelve pixels apart nothing is left of the correlation
    assert stats.kstest(apart, stats.gamma(2, scale=0.5).cdf).pvalue > 0.01
    # A field smoothed by a Gaussian of s has the correlation exp(-1 / (4 s^2)) between neighbours; intensity
    # its square. The kernel is sampled and cut, hence the tolerance.
    expected = np.exp(-1 / (4 * 1.5**2)) ** 2
    found = np.corrcoef(speckle[:, :-1].ravel(), speckle[:, 1:].ravel())[0, 1]
    assert found == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("looks", [0.0, 0.5, -1.0, np.nan, np.inf])
def test_looks_that_cannot_be_are_refused(looks: float) -> None:
    with pytest.raises(InputError, match="looks="):
        make_speckle((4, 4), looks, np.random.default_rng(0))


def test_correlated_speckle_of_broken_looks_is_refused() -> None:
    with pytest.raises(InputError, match="whole number"):
        make_speckle((4, 4), 4.4, np.random.default_rng(0), correlation_px=1.0)


def test_texture_is_gamma_of_its_order() -> None:
    texture = make_texture(600, 6.0, 1.2, np.random.default_rng(5))
    apart = texture[::20, ::20].ravel()
    assert stats.kstest(apart, stats.gamma(6, scale=1 / 6).cdf).pvalue > 0.01
    assert texture.mean() == pytest.approx(1.0, abs=0.02)
    assert texture.var() == pytest.approx(1 / 6, rel=0.05)


def test_textured_forest_is_rougher_than_speckle_alone_by_the_product_model() -> None:
    land = homogeneous(FOREST, 500)
    angle = np.full((500, 500), 38.0, np.float32)
    rng = np.random.default_rng(6)
    sar = make_sar(land, rng, conditions=CALM, incidence_angle_deg=angle, looks=4.0, nesz_db=-200.0)
    order, looks = synthetic.FOREST_TEXTURE[0], 4.0
    expected = 1 / order + 1 / looks + 1 / (order * looks)  # relative variance of a product of two gammas
    assert (sar.var(axis=(1, 2)) / sar.mean(axis=(1, 2)) ** 2) == pytest.approx([expected] * 2, rel=0.06)


def test_a_field_has_unit_variance_and_its_edges_do_not_match() -> None:
    fields = np.stack([make_field(64, 4.0, np.random.default_rng(i)) for i in range(200)])
    assert fields.var() == pytest.approx(1.0, abs=0.05)
    assert fields.mean() == pytest.approx(0.0, abs=0.05)
    assert abs(np.corrcoef(fields[:, 0].ravel(), fields[:, -1].ravel())[0, 1]) < 0.1
    assert np.corrcoef(fields[:, 0].ravel(), fields[:, 1].ravel())[0, 1] > 0.9


def test_nothing_is_darker_than_the_noise_floor() -> None:
    dark = look(WATER, nesz_db=-22.0)[1]
    expected = sigma0_water(5.0, 90.0, 38.0)[1] + 10**-2.2
    assert dark.mean() == pytest.approx(expected, rel=5 / np.sqrt(4 * dark.size))
    assert 10 * np.log10(dark.mean()) > -22.0


@pytest.mark.parametrize(("value", "power"), [(OPEN_LAND, 2.0), (FOREST, 1.0)])
def test_brightness_falls_with_the_incidence_angle_by_the_cosine_law(value: int, power: float) -> None:
    land = homogeneous(value, 400)
    angle = make_incidence_angle(400, 30.0, span_deg=15.0)
    rng = np.random.default_rng(7)
    sar = make_sar(
        land,
        rng,
        conditions=CALM,
        incidence_angle_deg=angle,
        looks=8.0,
        nesz_db=-200.0,
        texture=False,
    )
    columns = 10 * np.log10(sar.mean(axis=1, dtype=float))
    for band in columns:
        slope = np.polyfit(angle[0], band, 1)[0]
        # 10 n log10(cos t) has the slope -n tan(t) 10 / ln 10 a radian; at the middle, 37.5 degrees.
        expected = -power * np.tan(np.deg2rad(37.5)) * 10 / np.log(10) * np.pi / 180
        assert slope == pytest.approx(expected, abs=0.01)


def test_gamma_nought_of_forest_is_constant() -> None:
    angles = np.array([20.0, 38.0, 50.0])
    gamma0 = sigma0_land((-9.0, -14.5), 1.0, angles) / np.cos(np.deg2rad(angles))
    assert gamma0 == pytest.approx(np.repeat(gamma0[:, :1], 3, axis=1))


def test_the_incidence_angle_rises_along_the_columns() -> None:
    angle = make_incidence_angle(5, 30.0, span_deg=4.0)
    assert angle[3].tolist() == [30, 31, 32, 33, 34]


def test_the_same_seeds_give_the_same_scene_and_others_another() -> None:
    one, again = make_scene(48, 3, 4), make_scene(48, 3, 4)
    for name in ("classes", "optical", "sar", "incidence_angle_deg"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    other_event, other_place = make_scene(48, 3, 5), make_scene(48, 5, 4)
    np.testing.assert_array_equal(one.classes, other_event.classes)
    np.testing.assert_array_equal(one.optical, other_event.optical)
    assert not np.array_equal(one.sar, other_event.sar)
    assert not np.array_equal(one.classes, other_place.classes)
    np.testing.assert_array_equal(one.incidence_angle_deg, other_place.incidence_angle_deg)


def test_events_differ_more_than_scenes_of_one_event() -> None:
    def level(seed: int, group: int) -> float:
        scene = make_scene(96, seed, group)
        return float(10 * np.log10(scene.sar[0][scene.classes == OPEN_LAND].mean()))

    levels = np.array([[level(100 * g + s, g) for s in range(4)] for g in range(12)])
    assert levels.mean(axis=1).std(ddof=1) > levels.std(axis=1, ddof=1).mean()
    assert stats.f_oneway(*levels).pvalue < 0.01


def test_images_are_finite_and_in_range() -> None:
    shares = np.zeros(len(CLASSES))
    for seed in range(12):
        scene = make_scene(96, seed, seed // 2, looks=1.0)
        assert scene.optical.shape == (3, 96, 96)
        assert scene.sar.shape == (2, 96, 96)
        assert scene.classes.dtype == np.uint8
        assert scene.sar.dtype == scene.optical.dtype == np.float32
        assert np.isfinite(scene.sar).all()
        assert (scene.sar > 0).all()
        assert ((scene.optical > 0) & (scene.optical <= 1)).all()
        assert 0.01 < scene.optical.mean() < 0.25
        shares += np.bincount(scene.classes.ravel(), minlength=3) / scene.classes.size / 12
    assert shares.sum() == pytest.approx(1)
    assert (shares > 0.08).all()
    assert (shares < 0.7).all()


def test_a_class_cannot_be_told_by_one_pixel() -> None:
    # The simulation would be worthless if a threshold did the work: pixel by pixel the classes overlap.
    scenes = [make_scene(96, seed, seed, looks=2.0) for seed in range(8)]
    classes = np.concatenate([s.classes.ravel() for s in scenes])
    for band in np.concatenate([s.sar.reshape(2, -1) for s in scenes], axis=1):
        auc = stats.mannwhitneyu(band[classes == FOREST], band[classes == OPEN_LAND]).statistic
        auc /= (classes == FOREST).sum() * (classes == OPEN_LAND).sum()
        assert 0.5 < auc < 0.85


def test_optical_water_is_darker_than_fields_in_red_when_clear() -> None:
    rng = np.random.default_rng(8)
    land, water = (make_optical(homogeneous(v, 64), rng) for v in (OPEN_LAND, WATER))
    assert land.std(axis=(1, 2)).min() > 0.004
    assert water.mean() < land.mean()


def test_a_landscape_keeps_the_size_of_its_features() -> None:
    def edges(size: int) -> float:
        shares = []
        for seed in range(6):
            c = make_landscape(size, np.random.default_rng(seed)).classes
            shares.append((c[:, 1:] != c[:, :-1]).mean())
        return float(np.mean(shares))

    assert edges(256) == pytest.approx(edges(128), rel=0.35)


def test_bad_arguments_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="size=4"):
        make_landscape(4, rng)
    with pytest.raises(InputError, match="wind_speed=80"):
        replace(CALM, wind_speed=80.0)
    with pytest.raises(InputError, match="near_angle_deg=5"):
        replace(CALM, near_angle_deg=5.0)
    with pytest.raises(InputError, match="order=0"):
        make_texture(16, 0.0, 1.0, rng)
    with pytest.raises(InputError, match="class=3"):
        homogeneous(3, 8)
    with pytest.raises(InputError, match="incidence_angle_deg has the shape"):
        make_sar(homogeneous(0, 8), rng, conditions=CALM, incidence_angle_deg=np.full((4, 4), 38.0))


def test_conditions_are_drawn_within_their_stated_ranges() -> None:
    drawn = [make_conditions(np.random.default_rng(i)) for i in range(200)]
    assert all(1.5 <= c.wind_speed <= 9.0 and 30 <= c.near_angle_deg <= 41 for c in drawn)
    assert np.std([c.open_land_db for c in drawn]) == pytest.approx(1.2, rel=0.2)


def small_sar(folder: Path, seed: int = 0):
    return simulated_sar(
        folder,
        seed=seed,
        train_groups=2,
        test_groups=2,
        scenes_per_test_group=2,
        size=32,
        map_size=48,
    )


def test_the_sar_catalog_reads_back(tmp_path: Path) -> None:
    catalog = small_sar(tmp_path / "sar")
    assert catalog.classes == CLASSES
    assert "not measured" in catalog.source
    assert [len(catalog.in_split(s)) for s in ("train", "test")] == [2, 4]
    assert catalog.test_sets == ("test",)
    train, test = ({e.group for e in catalog.in_split(s)} for s in ("train", "test"))
    assert len(train) == len(test) == 2
    assert not train & test
    places = set()
    for entry in catalog.entries:
        size = 48 if entry.id == MAP_ID else 32
        scene = open_entry(entry)
        data, valid = scene.read()
        assert scene.bands == SAR_BANDS
        assert data.shape == (2, size, size)
        assert valid.all()
        assert set(np.unique(read_label(entry, catalog))) <= {0, 1, 2}
        assert scene.georeference.transform is not None
        places.add(scene.georeference.transform)
    assert len(places) == len(catalog.entries)
    assert [e.split for e in catalog.entries if e.id == MAP_ID] == [None]


def test_no_two_scenes_lie_on_the_same_ground(tmp_path: Path) -> None:
    scenes = [open_entry(e) for e in small_sar(tmp_path / "sar").entries]
    boxes = []
    for s in scenes:
        assert s.georeference.transform is not None
        a, _, x, _, e, y = s.georeference.transform
        boxes.append((x, x + a * s.width, y + e * s.height, y))
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            assert one[1] <= other[0] or other[1] <= one[0] or one[3] <= other[2] or other[3] <= one[2]


def test_written_decibels_are_those_of_the_scene(tmp_path: Path) -> None:
    catalog = small_sar(tmp_path / "sar")
    again = small_sar(tmp_path / "again")
    for one, two in zip(catalog.entries, again.entries, strict=True):
        np.testing.assert_array_equal(open_entry(one).read().data, open_entry(two).read().data)
    data, _ = open_entry(catalog.entries[0]).read(units="sigma0")
    assert (data > 0).all()
    assert 0.005 < data[0].mean() < 0.5
    other = small_sar(tmp_path / "other", seed=1)
    assert not np.array_equal(
        open_entry(catalog.entries[0]).read().data, open_entry(other.entries[0]).read().data
    )


def test_the_optical_catalog_reads_back(tmp_path: Path) -> None:
    catalog = simulated_optical(tmp_path / "optical", train=3, test=1, size=32)
    assert [len(catalog.in_split(s)) for s in ("train", "test")] == [3, 1]
    for entry in catalog.entries:
        scene = open_entry(entry)
        data, valid = scene.read()
        assert scene.names == ("red", "green", "blue")
        assert valid.all()
        assert data.min() >= 0
        assert 5 < data.mean() < 250
        assert data.max() <= 255
        assert read_label(entry, catalog).shape == (32, 32)


def test_a_second_call_reads_and_does_not_write(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "sar"
    first = small_sar(folder)
    times = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert small_sar(folder) == first
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == times
    assert [p.name for p in folder.parent.iterdir()] == ["sar"]


def test_a_folder_of_other_settings_or_contents_is_left_alone(tmp_path: Path) -> None:
    small_sar(tmp_path / "sar")
    with pytest.raises(OutputError, match="other settings"):
        small_sar(tmp_path / "sar", seed=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="holds no simulated data"):
        small_sar(tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match="train_groups=0"):
        simulated_sar(tmp_path / "none", train_groups=0)
    assert not (tmp_path / "none").exists()


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sartransfer.data.simulated._write_sar", full)
    with pytest.raises(OutputError, match="No space left"):
        small_sar(tmp_path / "sar")
    assert list(tmp_path.iterdir()) == []
