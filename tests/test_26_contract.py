"""The unit contract of a network: what it reads, what it converts, what it refuses and what it warns of."""

import json

import numpy as np
import pytest

from sartransfer.contract import FAR, InputBand, InputContract
from sartransfer.data.normalize import resolve_contract
from sartransfer.errors import InputError, UnitError
from sartransfer.radar.units import parse_unit
from sartransfer.recipe import BandRecipe
from sartransfer.scene import ArraySource, Band, Scene, Window

RNG = np.random.default_rng(3)
POWER = RNG.gamma(2.0, 0.05, (2, 12, 9)).astype(np.float32)


def scene_of(values, *bands, valid=None):
    described = [Band(n, parse_unit(u), *more) for n, u, *more in bands]
    return Scene("s", tuple(described), *values.shape[1:], source=ArraySource(values, valid))


PAIR = scene_of(POWER, ("before", "sigma0", "VV", "reference"), ("after", "sigma0", "VV", "flood"))


def test_it_reads_normalized_in_its_own_units_and_order():
    contract = InputContract(
        (
            InputBand("after", "sigma0_db", mean=-9.0, std=3.0),
            InputBand("before", "sigma0", mean=0.1, std=0.2),
        )
    )
    data, valid = contract.read(PAIR)
    assert data.dtype == np.float32
    assert valid.all()
    np.testing.assert_allclose(data[0], (10 * np.log10(POWER[1].astype(float)) + 9) / 3, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(data[1], (POWER[0].astype(float) - 0.1) / 0.2, rtol=1e-5, atol=1e-6)
    window = Window(2, 3, 5, 4)
    np.testing.assert_array_equal(contract.read(PAIR, window).data, data[:, 2:7, 3:7])


def test_a_difference_is_that_of_the_converted_bands():
    contract = InputContract(
        (InputBand("change", "sigma0_db", difference=("after", "before"), mean=1, std=2),)
    )
    ratio = 10 * np.log10(POWER[1].astype(float) / POWER[0])
    np.testing.assert_allclose(contract.read(PAIR, normalize=False).data[0], ratio, atol=1e-4)
    np.testing.assert_allclose(contract.read(PAIR).data[0], (ratio - 1) / 2, atol=1e-4)


def test_one_band_may_be_wanted_in_two_units():
    contract = InputContract(
        (
            InputBand("before", "sigma0_db"),
            InputBand("change", "sigma0", difference=("after", "before")),
            InputBand("after", "sigma0"),
        )
    )
    data, valid = contract.read(PAIR)
    np.testing.assert_allclose(data[0], 10 * np.log10(POWER[0].astype(float)), atol=1e-4)
    np.testing.assert_allclose(data[1], POWER[1] - POWER[0], atol=1e-6)
    np.testing.assert_array_equal(data[2], POWER[1])
    assert valid.all()
    dark = scene_of(POWER * (np.arange(9) > 0), ("before", "sigma0"), ("after", "sigma0"))
    data, valid = contract.read(
        dark
    )  # the decibel of zero does not exist: nothing there is used, in any unit
    np.testing.assert_array_equal(valid, np.broadcast_to(np.arange(9) > 0, (12, 9)))
    assert (data[:, :, 0] == 0).all()


def test_amplitude_becomes_intensity():
    scene = scene_of(POWER[:1], ("a", "amplitude"))
    contract = InputContract((InputBand("a", "intensity"),))
    np.testing.assert_allclose(contract.read(scene).data[0], POWER[0].astype(float) ** 2, rtol=1e-6)
    decibels = InputContract((InputBand("a", "intensity_db"),)).read(scene).data[0]
    np.testing.assert_allclose(decibels, 20 * np.log10(POWER[0].astype(float)), atol=1e-4)


def test_what_has_no_value_is_the_mean_or_nan():
    values = POWER.copy()
    values[0, 3, 4] = np.nan
    values[1, 5, 6] = 0.0  # has no decibel
    scene = scene_of(values, ("before", "sigma0"), ("after", "sigma0"))
    contract = InputContract(
        (InputBand("before", "sigma0_db", mean=5), InputBand("after", "sigma0_db", mean=5))
    )
    data, valid = contract.read(scene)
    expected = np.ones((12, 9), dtype=bool)
    expected[3, 4] = expected[5, 6] = False
    np.testing.assert_array_equal(valid, expected)
    assert (data[:, ~expected] == 0).all()
    assert np.isfinite(data).all()
    raw = contract.read(scene, normalize=False).data
    assert np.isnan(raw[0, 3, 4])
    assert np.isnan(raw[1, 5, 6])


@pytest.mark.parametrize("unit", ["gamma0_db", "digital_number", "incidence_angle_deg"])
def test_other_quantities_are_refused_by_name(unit):
    contract = InputContract((InputBand("before", unit),))
    for call in (contract.check, contract.read):
        with pytest.raises(UnitError, match=r"sigma0.*" + unit + r"|" + unit + r".*sigma0"):
            call(PAIR)


def test_an_unknown_unit_is_refused_with_the_fix():
    scene = scene_of(POWER[:1], ("x", "unknown"))
    with pytest.raises(UnitError, match="Say what the band is"):
        InputContract((InputBand("x", "sigma0_db"),)).check(scene)


def test_bands_are_found_by_polarization_and_role():
    contract = InputContract(
        (
            InputBand("s1_after", "sigma0_db", "VV", "flood"),
            InputBand("s1_before", "sigma0_db", "VV", "reference"),
            InputBand("change", "sigma0_db", difference=("s1_after", "s1_before")),
        )
    )
    contract.check(PAIR)
    data, _ = contract.read(PAIR)
    np.testing.assert_allclose(data[0], 10 * np.log10(POWER[1].astype(float)), atol=1e-4)
    np.testing.assert_allclose(data[2], data[0] - data[1], atol=1e-5)


def test_one_image_is_never_taken_for_two():
    single = scene_of(POWER[:1], ("before", "sigma0_db", "VV"))
    by_name = InputContract((InputBand("before", "sigma0_db", "VV"), InputBand("after", "sigma0_db", "VV")))
    neither = InputContract((InputBand("a", "sigma0_db", "VV"), InputBand("b", "sigma0_db", "VV")))
    for contract in (by_name, neither):
        for call in (contract.check, contract.read):
            with pytest.raises(InputError, match=r"no band '(after|b)'"):
                call(single)


def test_a_band_that_is_not_there_is_named_with_what_is():
    with pytest.raises(InputError, match=r"no band 'hh' \(sigma0_db, HH\); it has before \(sigma0\)"):
        InputContract((InputBand("hh", "sigma0_db", "HH"),)).check(PAIR)
    with pytest.raises(InputError, match="Did you mean 'after'"):
        InputContract((InputBand("d", "sigma0_db", difference=("aftr", "before")),)).check(PAIR)
    ambiguous = InputContract((InputBand("vv", "sigma0_db", "VV"),))
    with pytest.raises(InputError, match="Name them with `bands`"):
        ambiguous.check(PAIR)


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), float("inf")])
def test_a_band_that_cannot_be_normalized_is_refused_at_birth(std):
    with pytest.raises(InputError, match="is the band constant"):
        InputBand("x", "sigma0", std=std)


def test_an_unknown_unit_name_is_refused_at_birth():
    with pytest.raises(UnitError, match="Did you mean 'sigma0_db'"):
        InputBand("x", "sigma0_dB_")


def test_it_survives_json():
    contract = InputContract(
        (
            InputBand("vv", "sigma0_db", "VV", "flood", mean=-12.25, std=0.1),
            InputBand("change", "sigma0_db", difference=("a", "b"), std=1 / 3),
        )
    )
    assert InputContract.from_json(json.loads(json.dumps(contract.to_json()))) == contract


def warned(values, unit, mean=0.0, std=1.0, valid=None):
    scene = scene_of(values[None].astype(np.float32), ("x", unit), valid=valid)
    contract = InputContract((InputBand("x", unit, mean=mean, std=std),))
    return contract.warnings(scene, contract.read(scene))


def test_plausible_values_near_the_training_pass():
    decibels = RNG.normal(-12, 4, (40, 40))
    assert warned(decibels, "sigma0_db", -12, 4) == []


def test_values_that_belie_their_unit_are_named():
    (text,) = warned(RNG.uniform(0.01, 0.5, (40, 40)), "sigma0_db", 0.25, 0.2)
    assert "'s', band 'x'" in text
    assert "linear power, perhaps" in text
    assert "0 to 90" in warned(np.full((9, 9), 300.0), "incidence_angle_deg", 300, 5)[0]


def test_a_scene_far_from_the_training_is_named():
    near = RNG.normal(-12, 4, (40, 40))
    assert warned(near, "sigma0_db", near.mean() - 0.99 * FAR * 4, 4) == []
    (text,) = warned(near, "sigma0_db", near.mean() - 1.01 * FAR * 4, 4)
    assert "+3.0 training standard deviations" in text


def test_a_window_without_a_valid_pixel_is_named():
    (text,) = warned(np.zeros((5, 5)), "sigma0_db", valid=np.zeros((5, 5), dtype=bool))
    assert "no valid pixel" in text


@pytest.mark.parametrize("cached", [1, 50, 10**9])
@pytest.mark.parametrize("kept", [False, True])
def test_blocks_of_rows_change_no_bit(monkeypatch, cached, kept):
    """Against the formula on whole arrays; one band as read, one converted, one a difference."""
    monkeypatch.setattr("sartransfer.scene.CACHED_PIXELS", cached)
    values = RNG.normal(-14, 3, (2, 37, 11)).astype(np.float32)
    values[0, 5, :4], values[1, 30, 2], values[1, 31, 3] = np.nan, np.inf, -np.inf
    mask = RNG.random((37, 11)) > 0.1

    class New(ArraySource):
        gives_new_arrays = kept

        def read(self, indices, window):
            data, known = super().read(indices, window)
            return data.copy(), known

    bands = tuple(Band(n, parse_unit("sigma0_db")) for n in ("before", "after"))
    scene = Scene("s", bands, 37, 11, source=New(values, mask))
    contracts = (
        [
            InputBand("before", "sigma0_db", mean=-13.7, std=3.1),
            InputBand("after", "sigma0_db", mean=-9, std=0.7),
        ],
        [
            InputBand("after", "sigma0", mean=0.04, std=0.3),
            InputBand("change", "sigma0_db", difference=("after", "before"), mean=0.1, std=1.7),
        ],
    )
    good = mask & np.isfinite(values).all(axis=0)
    power = np.where(good, np.float32(10) ** (np.where(good, values[1], 0) / np.float32(10)), 0)
    plain = (
        np.stack(
            [(values[0] - np.float32(-13.7)) / np.float32(3.1), (values[1] + np.float32(9)) / np.float32(0.7)]
        ),
        np.stack(
            [
                (power - np.float32(0.04)) / np.float32(0.3),
                ((values[1] - values[0]) - np.float32(0.1)) / np.float32(1.7),
            ]
        ),
    )
    before = values.copy()
    for asked, wanted in zip(contracts, plain, strict=True):
        data, valid = InputContract(tuple(asked)).read(scene)
        np.testing.assert_array_equal(valid, good)
        if asked[0].unit == "sigma0_db":
            np.testing.assert_array_equal(data, np.where(good, wanted, 0))
        else:
            np.testing.assert_allclose(data, np.where(good, wanted, 0), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(values, before)


DISPLAY = (("before", "digital_number", None, "reference"), ("after", "digital_number", None, "flood"))
LEARNT = InputContract(  # as of a network that learned on OMBRIA
    (
        InputBand("before", "digital_number", role="reference", mean=129.8, std=49.6),
        InputBand("after", "digital_number", role="flood", mean=150.5, std=50.7),
        InputBand("change", "digital_number", difference=("after", "before"), mean=20.7, std=47.0),
    )
)


def eight_bits(seed=0, size=64):
    rng = np.random.default_rng(seed)
    return np.clip(np.round(rng.normal(140, 49, (2, size, size))), 1, 255).astype(np.float32)


def odd(values, valid=None, contract=LEARNT):
    scene = scene_of(values, *DISPLAY, valid=valid)
    return contract.warnings(scene, contract.read(scene))


def test_display_values_of_another_kind_are_warned_of():
    shown = eight_bits()
    assert odd(shown) == []
    assert odd(shown.astype(np.uint8)) == []
    decibels = shown / 255 * 25 - 25
    for values in (shown / 255, 10 ** (decibels / 10), decibels):
        found = odd(values.astype(np.float32))
        assert ["'before'" in w or "'after'" in w for w in found if "declared digital_number" in w] == [
            True
        ] * 2
    many = shown * 257  # 16 bits: whole, but far and wide
    assert any("standard deviation is" in w and "'before'" in w for w in odd(many))


@pytest.mark.parametrize("share", [0.3, 0.36, 2.9, 3.1])
def test_a_spread_beyond_three_times_that_of_training_is_named(share):
    values = np.random.default_rng(1).normal(size=(60, 60))
    values = (values - values.mean()) / values.std() * 4 * share - 12
    found = [w for w in warned(values, "sigma0_db", -12, 4) if "standard deviation is" in w]
    assert len(found) == (share in (0.3, 3.1))
    assert [w for w in warned(values, "sigma0_db") if "standard deviation is" in w] == []  # never fitted


def test_an_undeclared_black_border_is_named_and_a_declared_one_is_not():
    bordered = eight_bits()
    bordered[1, :, :4] = 0
    (text,) = [w for w in odd(bordered) if "black border" in w]
    assert "band 'after': 6.2 % of its pixels are exactly 0" in text
    assert not any(
        "black border" in w for w in odd(bordered, valid=np.broadcast_to(bordered > 0, (2, 64, 64)).all(0))
    )
    lake = eight_bits()
    lake[1, 20:30, 20:30] = 0  # 2.4 %, nowhere at the edge
    assert not any("black border" in w for w in odd(lake))
    specks = eight_bits()
    specks[1].flat[::500] = 0  # .2 %, as OMBRIA has at most
    assert odd(specks) == []
    stretched = InputContract((InputBand("after", "digital_number_log2", mean=0.44, std=0.03),))
    assert any("black border" in w for w in odd(bordered, contract=stretched))


def test_an_angle_or_decibel_of_zero_is_no_black_border():
    values = np.random.default_rng(2).normal(-3, 3, (40, 40))
    values[:, :4] = 0.0
    assert warned(values, "sigma0_db", -3, 3) == []


def test_the_difference_of_two_quantities_is_refused():
    scene = scene_of(POWER, ("before", "gamma0_db", "VV", "reference"), ("after", "sigma0_db", "VV", "flood"))
    change = BandRecipe(name="change", difference=("after", "before"))
    for recipe in (change, change.model_copy(update={"unit": "gamma0"})):
        with pytest.raises(
            UnitError, match=r"'after' \(sigma0_db\) and 'before' \(gamma0_db\): two quantities"
        ):
            resolve_contract([recipe], scene)
    resolve_contract([change], scene_of(POWER, ("before", "sigma0", "VV"), ("after", "sigma0_db", "VV")))
