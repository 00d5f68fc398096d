"""The unit contract against closed forms."""

import numpy as np
import pytest

from sartransfer.errors import UnitError
from sartransfer.radar.units import (
    UNIT_NAMES,
    UNKNOWN,
    Quantity,
    Scale,
    Unit,
    can_convert,
    convert,
    implausible,
    parse_unit,
)


@pytest.mark.parametrize("name", UNIT_NAMES)
def test_every_name_comes_back(name):
    assert str(parse_unit(name)) == name


@pytest.mark.parametrize("quantity", [Quantity.AMPLITUDE, Quantity.DIGITAL_NUMBER, Quantity.INCIDENCE_ANGLE])
def test_only_powers_have_decibels(quantity):
    with pytest.raises(UnitError, match="cannot have the scale db"):
        Unit(quantity, Scale.DB)


def test_a_near_miss_is_named():
    with pytest.raises(UnitError, match="sigma0_db"):
        parse_unit("sigma_db")


def test_decibels_are_ten_logarithms():
    power = np.array([0.001, 0.5, 1.0, 2.0, 100.0], dtype=np.float32)
    expected = [-30.0, 10 * np.log10(0.5), 0.0, 10 * np.log10(2.0), 20.0]
    db = convert(power, parse_unit("sigma0"), parse_unit("sigma0_db"))
    np.testing.assert_allclose(db, expected, atol=1e-5)
    np.testing.assert_allclose(convert(db, parse_unit("sigma0_db"), parse_unit("sigma0")), power, rtol=1e-5)


def test_what_has_no_decibel_is_nan_and_never_infinite():
    out = convert(np.array([0.0, -1.0, np.nan, 1.0]), parse_unit("gamma0"), parse_unit("gamma0_db"))
    np.testing.assert_array_equal(np.isnan(out), [True, True, True, False])


def test_amplitude_becomes_its_square():
    amplitude = np.array([0.0, 2.0, 10.0, -1.0])
    out = convert(amplitude, parse_unit("amplitude"), parse_unit("intensity"))
    np.testing.assert_allclose(out, [0.0, 4.0, 100.0, np.nan])
    db = convert(amplitude, parse_unit("amplitude"), parse_unit("intensity_db"))
    np.testing.assert_allclose(db, [np.nan, 20 * np.log10(2.0), 20.0, np.nan], rtol=1e-6)
    assert not can_convert(parse_unit("amplitude"), parse_unit("sigma0"))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("sigma0", "gamma0"),
        ("digital_number", "sigma0"),
        ("intensity", "amplitude"),
        ("optical", "sigma0_db"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_both_sides(source, target):
    with pytest.raises(UnitError, match=f"cannot turn {source} into {target}"):
        convert(np.ones(2), parse_unit(source), parse_unit(target))


def test_unknown_converts_to_nothing_not_even_itself():
    assert not can_convert(UNKNOWN, UNKNOWN)
    with pytest.raises(UnitError, match="Say what the band is"):
        convert(np.ones(2), UNKNOWN, parse_unit("sigma0"))


def test_digital_numbers_are_whole_and_reach_above_one():
    unit = parse_unit("digital_number")
    eight = np.random.default_rng(0).integers(0, 256, (40, 40)).astype(np.float32)
    decibels = eight / 255 * 25 - 25
    assert implausible(eight, unit) is None
    assert implausible(257 * eight, unit) is None
    assert implausible(np.zeros((4, 4)), unit) is None  # says nothing
    assert "no value is above 1 (highest 1)" in (implausible(eight / 255, unit) or "")
    assert "no value is above 1" in (implausible(10 ** (decibels / 10), unit) or "")
    assert "no value is above 1" in (implausible(decibels, unit) or "")
    assert "no whole numbers" in (implausible(eight * 0.37, unit) or "")
    few = eight.copy()
    few.flat[:16] += 0.5  # 1 % of them
    assert implausible(few, unit) is None
    few.flat[16] += 0.5
    assert "values like" in (implausible(few, unit) or "")
    moved = eight + 0.004
    assert implausible(moved, unit)
    assert implausible(moved, unit, slack=0.004) is None


def test_declarations_that_the_values_belie_are_found():
    rng = np.random.default_rng(0)
    power = rng.gamma(4.0, 0.05, 5000)
    assert implausible(power, parse_unit("sigma0")) is None
    assert "linear power" in (implausible(power, parse_unit("sigma0_db")) or "")
    assert "decibels" in (implausible(10 * np.log10(power), parse_unit("sigma0")) or "")
    assert implausible(10 * np.log10(power), parse_unit("sigma0_db")) is None
    assert implausible(np.full(3, np.nan), parse_unit("sigma0_db")) is None


@pytest.mark.parametrize("quantity", ["amplitude", "digital_number"])
def test_sixteen_bits_become_a_share_of_sixteen_doublings(quantity):
    """log2(x + 1) / 16 by hand: 0 -> 0, 1 -> 1/16, 3 -> 2/16, 255 -> 8/16, 65535 -> 1."""
    counts = np.array([0, 1, 3, 255, 65535, -1, np.nan])
    out = convert(counts, parse_unit(quantity), parse_unit(f"{quantity}_log2"))
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, np.array([0, 1 / 16, 1 / 8, 1 / 2, 1, np.nan, np.nan], np.float32))
    again = convert(out, parse_unit(f"{quantity}_log2"), parse_unit(f"{quantity}_log2"))
    np.testing.assert_array_equal(again, out)


def test_the_mean_that_the_authors_give_is_an_amplitude_of_about_a_hundred():
    """Their mean of .41900105 is log2(104.3) / 16, and one deviation above it log2(206.4) / 16."""
    amplitudes = np.array([2 ** (16 * 0.41900105) - 1, 2 ** (16 * (0.41900105 + 0.06154960)) - 1])
    np.testing.assert_allclose(amplitudes, [103.3, 205.4], atol=0.4)
    out = convert(amplitudes, parse_unit("amplitude"), parse_unit("amplitude_log2"))
    np.testing.assert_allclose(out, [0.41900105, 0.48055065], rtol=1e-6)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("amplitude_log2", "amplitude"),
        ("amplitude_log2", "intensity"),
        ("digital_number_log2", "digital_number"),
        ("digital_number", "amplitude_log2"),
        ("amplitude", "digital_number_log2"),
        ("intensity", "amplitude_log2"),
        ("sigma0", "amplitude_log2"),
    ],
)
def test_there_is_one_way_to_log2_and_none_back(source, target):
    assert not can_convert(parse_unit(source), parse_unit(target))
    with pytest.raises(UnitError, match=f"cannot turn {source} into {target}"):
        convert(np.ones(2), parse_unit(source), parse_unit(target))


@pytest.mark.parametrize("quantity", [Quantity.SIGMA0, Quantity.INTENSITY, Quantity.OPTICAL])
def test_only_counts_have_log2(quantity):
    with pytest.raises(UnitError, match="cannot have the scale log2"):
        Unit(quantity, Scale.LOG2)


def test_amplitudes_declared_log2_are_noticed():
    rng = np.random.default_rng(0)
    counts = rng.rayleigh(100, 5000)
    log2 = convert(counts, parse_unit("amplitude"), parse_unit("amplitude_log2"))
    assert implausible(log2, parse_unit("amplitude_log2")) is None
    assert "expected 0 to 1" in (implausible(counts, parse_unit("amplitude_log2")) or "")
