"""Areas corrected for a map's errors: the published example, and many simulated maps."""

import numpy as np
import pytest

from sartransfer.area_estimates import adjusted_areas, resampled_areas
from sartransfer.errors import InputError


def test_the_example_of_olofsson_and_others():
    """Olofsson et al. 2014, section 5: deforestation, forest gain, stable forest, stable non-forest, 30 m pixels."""
    mapped_rows = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
    hectares = np.array([200_000, 150_000, 3_200_000, 6_450_000]) * 0.09
    found = adjusted_areas(mapped_rows.T, hectares)
    # Printed there: 21,158 ± 6158; 11,686 ± 3756; 285,770 ± 15,510; 581,386 ± 16,282 ha.
    np.testing.assert_allclose(found.area, [21_158, 11_686, 285_770, 581_386], atol=1)
    np.testing.assert_allclose(1.96 * found.standard_error, [6158, 3756, 15_510, 16_282], atol=1)
    assert found.area.sum() == pytest.approx(hectares.sum())


def test_a_map_without_errors_keeps_its_areas():
    mapped = np.array([3.0, 5.0])
    found = adjusted_areas(np.diag([10, 20]), mapped)
    np.testing.assert_allclose(found.area, mapped)
    np.testing.assert_allclose(found.standard_error, 0)
    again = resampled_areas(np.stack([np.diag([10, 20])] * 6), mapped)
    for values in (again.area, again.low, again.high):
        np.testing.assert_allclose(values, mapped)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth = (rng.random(200_000) < 0.2).astype(int)
    wrong = np.where(truth == 1, rng.random(truth.size) < 0.3, rng.random(truth.size) < 0.05)
    told = np.where(wrong, 1 - truth, truth)
    mapped = np.bincount(told).astype(float)
    inside = 0
    for _ in range(300):
        points = rng.choice(truth.size, 400, replace=False)
        confusion = np.zeros((2, 2), dtype=int)
        np.add.at(confusion, (truth[points], told[points]), 1)
        found = adjusted_areas(confusion, mapped)
        inside += found.low[1] <= truth.sum() <= found.high[1]
    assert 0.90 <= inside / 300 <= 0.985
    assert abs(mapped[1] / truth.sum() - 1) > 0.05  # the map itself is far off


def test_groups_that_err_alike_give_a_wider_interval_than_their_pixels():
    rng = np.random.default_rng(1)
    groups = []
    for _ in range(12):
        miss = rng.uniform(0.0, 0.5)  # of the event
        wet = rng.binomial(4000, 1 - miss)
        groups.append([[9500, 500], [4000 - wet, wet]])
    confusions, mapped = np.array(groups), np.array([80.0, 20.0])
    pixels = adjusted_areas(confusions.sum(0), mapped)
    found = resampled_areas(confusions, mapped)
    np.testing.assert_allclose(found.area, pixels.area)
    assert (found.standard_error > 5 * pixels.standard_error).all()
    slow = []
    for _ in range(400):  # by hand
        some = confusions[rng.integers(0, 12, 12)].sum(0)
        slow.append((some / some.sum(0) * mapped).sum(1))
    np.testing.assert_allclose(found.standard_error, np.std(slow, axis=0), rtol=0.15)
    assert (found.low < found.area).all()
    assert (found.area < found.high).all()
    again = resampled_areas(confusions, mapped)
    np.testing.assert_array_equal(found.low, again.low)


def test_what_cannot_be_known_is_refused():
    for confusion, mapped, words in (
        (np.eye(3) * 5, [1, 2], "do not belong together"),
        (np.array([[5, 0], [3, 1]]), [1, 2], "fewer than two reference"),
        (np.eye(2) * 5, [0, 0], "must not be empty"),
        (-np.eye(2), [1, 1], "must be 0 or more"),
    ):
        with pytest.raises(InputError, match=words):
            adjusted_areas(confusion, np.array(mapped, dtype=float))
    with pytest.raises(InputError, match="too few"):
        resampled_areas(np.ones((4, 2, 2), dtype=int), np.array([1.0, 1.0]))
    with pytest.raises(InputError, match="no test scene was ever mapped as"):
        resampled_areas(np.array([[[5, 0], [5, 0]]] * 6), np.array([1.0, 1.0]))
