"""Scenes: windows, bands, units at reading; band text."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartransfer.errors import InputError, UnitError
from sartransfer.radar.units import UNIT_NAMES, UNKNOWN, parse_unit
from sartransfer.scene import POLARIZATIONS, ArraySource, Band, Scene, Window, format_bands, parse_bands


def scene(values, names=("a", "b"), unit="sigma0", valid=None):
    bands = tuple(Band(n, unit=parse_unit(unit)) for n in names)
    return Scene("s", bands, *values.shape[1:], source=ArraySource(values, valid))


VALUES = np.random.default_rng(0).gamma(4.0, 0.05, (2, 7, 9)).astype(np.float32)


def test_a_window_is_cut_as_numpy_cuts_it():
    data, valid = scene(VALUES).read(window=Window(2, 3, 4, 5))
    np.testing.assert_array_equal(data, VALUES[:, 2:6, 3:8])
    assert valid.all()


def test_bands_come_in_the_asked_order():
    np.testing.assert_array_equal(scene(VALUES).read(["b", "a"]).data, VALUES[::-1])


@pytest.mark.parametrize("window", [Window(0, 0, 8, 9), Window(6, 0, 2, 1), Window(0, 9, 1, 1)])
def test_a_window_that_leaves_the_scene_is_refused(window):
    with pytest.raises(InputError, match="leaves scene"):
        scene(VALUES).read(window=window)


@pytest.mark.parametrize("numbers", [(-1, 0, 1, 1), (0, 0, 0, 1), (0, -2, 1, 1)])
def test_a_window_of_nothing_is_none(numbers):
    with pytest.raises(InputError, match="not a window"):
        Window(*numbers)


def test_units_are_converted_and_what_has_no_value_is_not_valid():
    values = VALUES.copy()
    values[0, 0, 0], values[1, 3, 3] = 0.0, np.nan
    data, valid = scene(values).read(units="sigma0_db")
    expected = np.ones((7, 9), dtype=bool)
    expected[0, 0] = expected[3, 3] = False
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_allclose(data[:, expected], 10 * np.log10(values[:, expected]), rtol=1e-5)
    assert np.isnan(data[0, 0, 0])
    assert not np.isinf(data).any()


def test_the_sources_mask_counts():
    mask = np.ones((7, 9), dtype=bool)
    mask[1, 2] = False
    np.testing.assert_array_equal(scene(VALUES, valid=mask).read().valid, mask)


def test_unknown_units_are_read_as_stored_and_refused_on_conversion():
    plain = Scene("s", (Band("a"),), 7, 9, source=ArraySource(VALUES[:1]))
    np.testing.assert_array_equal(plain.read().data, VALUES[:1])
    with pytest.raises(UnitError, match="cannot turn unknown into sigma0_db"):
        plain.read(units="sigma0_db")


def test_an_unknown_band_names_the_nearest():
    with pytest.raises(InputError, match="Did you mean 'before'"):
        scene(VALUES, names=("before", "after")).read(["befor"])


def test_two_bands_of_one_name_are_refused():
    with pytest.raises(InputError, match="two bands of one name: a"):
        scene(VALUES, names=("a", "a"))


def test_band_text_means_what_the_docstring_says():
    assert parse_bands("") == ()
    assert parse_bands("VV=sigma0_db, x=sigma0_db:vh") == (
        Band("VV", parse_unit("sigma0_db"), "VV"),
        Band("x", parse_unit("sigma0_db"), "VH"),
    )
    assert parse_bands("before=digital_number@reference") == (
        Band("before", parse_unit("digital_number"), role="reference"),
    )
    assert parse_bands("mystery") == (Band("mystery", UNKNOWN),)
    assert parse_bands("HH=sigma0:-") == (Band("HH", parse_unit("sigma0"), None),)
    assert parse_bands("a=sigma0/2021-01-01T06:00:00+00:00")[0].time == datetime(2021, 1, 1, 6, tzinfo=UTC)


@pytest.mark.parametrize("text", ["=sigma0", "a=sigma0,,b", "a=sigma0=b", "a/yesterday", "a=sigma0@"])
def test_band_text_that_does_not_parse_is_refused(text):
    with pytest.raises(InputError):
        parse_bands(text)


def test_wrong_units_and_polarizations_in_band_text():
    with pytest.raises(UnitError, match="Did you mean 'sigma0_db'"):
        parse_bands("VV=sigma0db")
    with pytest.raises(UnitError, match="polarization='XX'"):
        parse_bands("a=sigma0:XX")


def test_names_that_the_text_cannot_hold_are_refused():
    with pytest.raises(InputError, match="cannot be written"):
        format_bands([Band("a,b")])


words = st.text("abcXYZ019_-. ", min_size=1, max_size=8).filter(lambda t: t == t.strip())
bands = st.builds(
    Band,
    words | st.sampled_from(["VV", "hh"]),
    st.sampled_from(UNIT_NAMES).map(parse_unit),
    st.none() | st.sampled_from(POLARIZATIONS),
    st.none() | words,
    st.none() | st.datetimes(timezones=st.none() | st.just(UTC)),
)


@given(st.lists(bands, max_size=4))
def test_band_text_round_trip(values):
    assert parse_bands(format_bands(values)) == tuple(values)
