"""The cut of a scene in two halves: areas, directions, and no pixel that training and validation share."""

import numpy as np
import pytest

from sartransfer.data.halves import Cut, cut_in_half, half_mask, half_window, is_on_side
from sartransfer.errors import InputError
from sartransfer.scene import Window


def footprint(height, width, angle, side, middle=None):
    """A square that stands at an angle (degrees) in a grid: True inside."""
    row, col = middle or (height / 2, width / 2)
    y, x = np.mgrid[:height, :width] + 0.5
    turn = np.deg2rad(angle)
    along = (x - col) * np.cos(turn) + (y - row) * np.sin(turn)
    across = -(x - col) * np.sin(turn) + (y - row) * np.cos(turn)
    return (abs(along) < side / 2) & (abs(across) < side / 2)


@pytest.mark.parametrize("angle", [0, 8, 23, 44, 46, 67, 82])
def test_both_sides_have_half_of_the_footprint(angle):
    valid = footprint(180, 200, angle, 110)
    cut = cut_in_half(valid)
    whole = Window(0, 0, 180, 200)
    upper, lower = (half_mask(cut, side, whole) for side in ("upper-right", "lower-left"))
    assert not (upper & lower).any()
    assert (upper & valid).sum() == pytest.approx(valid.sum() / 2, rel=0.02)
    assert (lower & valid).sum() == pytest.approx(valid.sum() / 2, rel=0.02)
    # the cut runs through the middle, parallel to two of the sides
    assert cut.distance(np.array([90.0]), np.array([100.0]))[0] == pytest.approx(0, abs=1)
    direction = np.rad2deg(np.arctan2(cut.normal[0], cut.normal[1])) % 90
    assert min(abs(direction - angle), 90 - abs(direction - angle)) < 1.5


@pytest.mark.parametrize("angle", [10, 30, 60, 80])
def test_the_upper_right_half_holds_the_upper_and_the_right_corner(angle):
    """As the paper's code: NE is bounded by the upper and right extremes of the footprint, SW by the others."""
    valid = footprint(160, 160, angle, 90)
    rows, cols = np.nonzero(valid)
    cut = cut_in_half(valid)
    extremes = [np.argmin(rows), np.argmax(cols), np.argmax(rows), np.argmin(cols)]
    distance = cut.distance(rows[extremes] + 0.5, cols[extremes] + 0.5)
    assert (distance[:2] > 20).all()
    assert (distance[2:] < -20).all()


@pytest.mark.parametrize("buffer", [0.0, 7.5])
@pytest.mark.parametrize("angle", [0, 17, 45, 71])
def test_no_training_patch_sees_a_validation_pixel(angle, buffer):
    rng = np.random.default_rng(angle)
    valid = footprint(140, 150, angle, 95)
    cut = cut_in_half(valid)
    whole = Window(0, 0, 140, 150)
    y, x = np.mgrid[:140, :150] + 0.5
    distance = cut.normal[0] * (y - cut.row) + cut.normal[1] * (x - cut.col)  # pixel by pixel
    np.testing.assert_array_equal(half_mask(cut, "upper-right", whole, buffer), distance > buffer)
    np.testing.assert_array_equal(half_mask(cut, "lower-left", whole, buffer), distance < -buffer)
    validation = half_mask(cut, "upper-right", whole)
    shared = kept = 0
    for _ in range(400):
        size = int(rng.integers(1, 40))
        patch = Window(int(rng.integers(0, 140 - size)), int(rng.integers(0, 150 - size)), size, size)
        for side, wanted in (("upper-right", distance > buffer), ("lower-left", distance < -buffer)):
            assert is_on_side(cut, side, patch, buffer) == wanted[patch.slices].all()
        if is_on_side(cut, "lower-left", patch, buffer):
            kept += 1
            shared += int(validation[patch.slices].sum())
            assert distance[patch.slices].max() < -buffer
    assert kept > 50
    assert shared == 0


def test_the_window_of_a_half_holds_all_of_it_and_no_more():
    cut = Cut(30.0, 40.0, (-np.sqrt(0.5), np.sqrt(0.5)))
    for side in ("upper-right", "lower-left"):
        mask = half_mask(cut, side, Window(0, 0, 60, 50))
        window = half_window(cut, side, 60, 50)
        assert mask[window.slices].sum() == mask.sum()
        edges = mask[window.slices]
        assert edges[0].any()
        assert edges[-1].any()
        assert edges[:, 0].any()
        assert edges[:, -1].any()


def test_what_is_refused():
    with pytest.raises(InputError, match="no pixel of the scene has a value"):
        cut_in_half(np.zeros((5, 5), bool))
    cut = cut_in_half(np.ones((4, 6), bool))
    assert (cut.row, cut.col, cut.normal) == (2.0, 3.0, (-1.0, 0.0))  # straight: a level cut, up is "upper"
    with pytest.raises(InputError, match="side='NE' is not known"):
        half_mask(cut, "NE", Window(0, 0, 4, 6))
    with pytest.raises(InputError, match="buffer=-1"):
        is_on_side(cut, "lower-left", Window(0, 0, 1, 1), -1)
    with pytest.raises(InputError, match="length 1"):
        Cut(0, 0, (1.0, 1.0))
    with pytest.raises(InputError, match="leaves nothing"):
        half_window(Cut(-5.0, 0.0, (-1.0, 0.0)), "upper-right", 4, 4)
