"""Areas corrected for a map's errors: the published example, and many simulated maps."""

import numpy as np
import pytest
from scipy import stats

from sartransfer.area_estimates import adjusted_areas, corrected_areas
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
    again = corrected_areas(np.stack([np.diag([10, 20])] * 6), mapped)
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


def matrix_of(wet, recall, false, pixels=20_000):
    """Expected pixels of an event: rows truth (dry, wet), columns map."""
    flood = wet * pixels
    dry = pixels - flood
    return np.array([[dry * (1 - false), dry * false], [flood * (1 - recall), flood * recall]])


def event_of(rng, wet, pixels=20_000, cut=False):
    """An event whose recall and false alarms are its own, about .85 and .03."""
    recall = np.clip(0.85 + 0.08 * rng.normal(), 0.01, 0.999)
    false = np.clip(abs(0.03 + 0.02 * rng.normal()), 0, 1)
    return np.round(matrix_of(wet, recall, false, pixels))


@pytest.mark.parametrize("wet", [0.01, 0.1, 0.3, 0.6])
def test_how_much_flood_the_tests_hold_does_not_move_the_estimate(wet):
    """The same recall and false alarms, tests 30 % wet: the truth comes out whatever the share of this map."""
    tests = np.stack([matrix_of(0.3, 0.85, 0.03)] * 8)
    scene = matrix_of(wet, 0.85, 0.03, 100)
    found = corrected_areas(tests, scene.sum(0), ["dry", "wet"])
    np.testing.assert_allclose(found.area, [100 * (1 - wet), 100 * wet])
    assert any("of this map" in note for note in found.notes) == (wet != 0.3)
    if wet == 0.01:  # points of another place and Olofsson's estimator: nine times the truth
        assert adjusted_areas(tests.sum(0), scene.sum(0)).area[1] > 9


def test_two_classes_are_those_of_rogan_and_gladen():
    rng = np.random.default_rng(2)
    tests = np.stack([event_of(rng, wet) for wet in rng.uniform(0.1, 0.5, 7)])
    together, mapped = tests.sum(0), np.array([70.0, 30.0])
    recall, false = together[1, 1] / together[1].sum(), together[0, 1] / together[0].sum()
    found = corrected_areas(tests, mapped)
    assert found.area[1] == pytest.approx((30 - false * 100) / (recall - false))
    off = []  # by the same closed form: this scene with the errors of one event, corrected by the others
    for g, one in enumerate(tests):
        rest = np.delete(tests, g, axis=0).sum(0)
        r, f = rest[1, 1] / rest[1].sum(), rest[0, 1] / rest[0].sum()
        shown = found.area[1] * one[1, 1] / one[1].sum() + found.area[0] * one[0, 1] / one[0].sum()
        off.append(found.area[1] - (shown - f * 100) / (r - f))
    error = np.std(off, ddof=1) * np.sqrt(1 + 1 / 7)
    np.testing.assert_allclose(found.standard_error, error)
    ends = found.area[1] + stats.t.ppf([0.025, 0.975], 6) * error
    np.testing.assert_allclose([found.low[1], found.high[1]], ends)


def test_three_classes_come_out_of_their_rates():
    """Of other shares than the tests', by rates that each row of the tests has."""
    rates = np.array([[0.9, 0.08, 0.02], [0.1, 0.7, 0.2], [0.05, 0.15, 0.8]])
    tests = np.stack([np.diag(n) @ rates for n in ([500, 300, 200], [100, 700, 200], [300, 300, 400])] * 2)
    true = np.array([5.0, 15.0, 80.0])
    found = corrected_areas(tests, rates.T @ true)
    np.testing.assert_allclose(found.area, true)
    np.testing.assert_allclose(found.high - found.low, 0, atol=1e-9)
    with_none = np.zeros((6, 4, 4))  # a fourth class that is nowhere
    with_none[:, :3, :3] = tests
    found = corrected_areas(with_none, np.append(rates.T @ true, 0.0), ["a", "b", "c", "d"])
    np.testing.assert_allclose(found.area, [*true, 0.0])
    assert "d is neither in the map nor in any test scene: told as 0." in found.notes


@pytest.mark.parametrize(("groups", "shift"), [(5, "same"), (20, "same"), (8, "much less"), (8, "much more")])
def test_the_interval_holds_the_area_of_a_new_scene(groups, shift):
    """95 of 100 new scenes of the same population of errors, and of scenes with 1 and 60 % of flood besides."""
    rng = np.random.default_rng(4)
    inside, rounds = 0, 200
    for _ in range(rounds):
        tests = np.stack([event_of(rng, rng.beta(2, 5)) for _ in range(groups)])
        scene = event_of(rng, {"same": rng.beta(2, 5), "much less": 0.01, "much more": 0.6}[shift])
        found = corrected_areas(tests, scene.sum(0))
        inside += found.low[1] <= scene[1].sum() <= found.high[1]
    assert 0.92 <= inside / rounds <= 0.996


def test_an_event_without_the_class_counts_for_false_alarms_and_not_for_the_spread():
    rng = np.random.default_rng(6)
    tests = np.stack([event_of(rng, wet) for wet in (0.1, 0.2, 0.3, 0.2, 0.15)])
    dry = np.array([[19_000.0, 1000.0], [0.0, 0.0]])
    mapped = np.array([80.0, 20.0])
    found = corrected_areas(np.stack([*tests, dry]), mapped)
    together = tests.sum(0) + dry
    recall, false = together[1, 1] / together[1].sum(), together[0, 1] / together[0].sum()
    assert found.area[1] == pytest.approx((20 - false * 100) / (recall - false))
    with pytest.raises(InputError, match=r"4 groups of test scenes hold every class \(wet is in 4 of 6\)"):
        corrected_areas(np.stack([*tests[:4], dry, dry]), mapped, ["dry", "wet"])


def test_less_than_the_false_alarms_is_told_as_nothing_and_said():
    tests = np.stack([matrix_of(w, 0.85, f) for w, f in ((0.2, 0.04), (0.3, 0.05), (0.1, 0.06))] * 2)
    found = corrected_areas(tests, np.array([99.0, 1.0]), ["dry", "wet"])
    np.testing.assert_allclose(found.area, [100, 0])
    assert found.low[1] == 0
    assert found.high[0] == 100
    assert found.high[1] > 0
    assert found.notes[0].startswith("wet: the rates give -")
    assert "told as 0" in found.notes[0]
    assert found.notes[0].endswith("this scene errs unlike the test groups.")
    near = corrected_areas(tests, np.array([95.5, 4.5]), ["dry", "wet"])  # within what the groups differ by
    assert near.notes[0].endswith("less of it than false alarms alone would.")


def test_what_cannot_be_known_is_refused():
    for confusion, mapped, words in (
        (np.eye(3) * 5, [1, 2], "do not belong together"),
        (np.array([[5, 0], [3, 1]]), [1, 2], "fewer than two reference"),
        (np.eye(2) * 5, [0, 0], "must not be empty"),
        (-np.eye(2), [1, 1], "must be 0 or more"),
    ):
        with pytest.raises(InputError, match=words):
            adjusted_areas(confusion, np.array(mapped, dtype=float))
    square = np.array([1.0, 1.0])
    for one, mapped, words in (
        (np.ones((4, 2, 2), dtype=int), square, "4 groups of test scenes are too few .* not estimable"),
        (np.array([[[5, 0], [0, 0]]] * 6), square, "no test scene holds class 1"),
        (np.array([[[5, 0], [0, 0]]] * 5 + [[[5, 1], [0, 0]]]), [1, 0], "no test scene holds class 1"),
        (np.array([[[5, 0], [5, 0]]] * 6), square, "no pixel of the test scenes was mapped as class 1"),
        (np.array([[[6, 4], [6, 4]]] * 6), square, "does not tell them apart, and areas are not estimable"),
        (np.array([[[2, 8], [7, 3]]] * 6), square, "does not tell them apart"),  # the wrong way round
        (np.array([[[51, 49], [49, 51]]] * 6), square, "enlarged 50 times .20 at most., and areas are not"),
        (np.array([[[50, 50], [50, 50]]] * 5 + [[[9000, 0], [0, 9000]]]), square, "without one of the test"),
        # Four classes of which each is told from each, but whose rates are not independent.
        (np.array([[[2, 0, 1, 1], [0, 2, 1, 1], [1, 1, 2, 0], [1, 1, 0, 2]]] * 6), np.ones(4), "hardly tell"),
    ):
        with pytest.raises(InputError, match=words):
            corrected_areas(one, np.array(mapped, dtype=float))
