"""Statistics against enumeration, scipy, a slow analysis of variance, and simulations of known truth."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from sartransfer.errors import SartransferError
from sartransfer.statistics import (
    Interval,
    Statement,
    cohen_dz,
    compare_paired,
    crossed_half_width,
    crossed_interval,
    crossed_mean_squares,
    holm,
    sign_flip_test,
    smallest_detectable_difference,
    smallest_sign_flip_p,
    t_interval,
    t_test_p,
)

FINITE = st.floats(-1, 1).map(lambda x: round(x, 3))


def crossed(rng, repeats, seeds, groups, sd_seed, sd_group, sd_residual, mean=0.0):
    """Draw (repeats, S, G) differences, and the group effects (repeats, 1, G) in them."""
    of_group = sd_group * rng.normal(size=(repeats, 1, groups))
    of_seed = sd_seed * rng.normal(size=(repeats, seeds, 1))
    rest = sd_residual * rng.normal(size=(repeats, seeds, groups))
    return mean + of_seed + of_group + rest, of_group


# --- sign flips ------------------------------------------------------------------------------------


@given(st.lists(FINITE, min_size=1, max_size=9))
@settings(max_examples=60, deadline=None)
def test_sign_flip_is_the_share_of_all_patterns(differences):
    d = np.array(differences)
    seen = abs(d.sum())
    sums = [abs(np.dot(signs, d)) for signs in itertools.product((1, -1), repeat=d.size)]
    assert sign_flip_test(d) == pytest.approx(np.mean([s >= seen - 1e-9 for s in sums]), abs=1e-12)


@pytest.mark.parametrize("n", [3, 6, 11])
def test_sign_flip_is_scipys_permutation_test_of_samples(n):
    d = np.random.default_rng(n).normal(0.4, 1, n)
    peer = stats.permutation_test(
        (d,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert sign_flip_test(d) == pytest.approx(peer.pvalue, abs=1e-12)


@pytest.mark.parametrize("n", range(1, 17))
def test_sign_flip_of_one_sign_reaches_the_smallest_p(n):
    d = np.random.default_rng(n).uniform(0.1, 1, n)
    assert sign_flip_test(d) == sign_flip_test(-d) == smallest_sign_flip_p(n) == 2 / 2**n
    assert sign_flip_test(np.zeros(n)) == 1


def test_sign_flip_above_the_limit_is_seeded_and_near_the_exact_p():
    d = np.random.default_rng(5).normal(0.35, 1, 18)
    sums = np.zeros(1)
    for value in d:
        sums = np.concatenate([sums + value, sums - value])
    exact = np.mean(np.abs(sums) >= abs(d.sum()) - 1e-12)
    p = sign_flip_test(d, generator=np.random.default_rng(7))
    assert p == sign_flip_test(d, generator=np.random.default_rng(7))
    assert p != sign_flip_test(d, generator=np.random.default_rng(8))
    assert p == pytest.approx(exact, abs=5 * np.sqrt(exact * (1 - exact) / 65_536))
    assert sign_flip_test(np.ones(40), draws=999) == 1 / 1000  # never 0


@pytest.mark.parametrize("bad", [[], [[1.0, 2.0]]])
def test_sign_flip_refuses_a_wrong_shape(bad):
    with pytest.raises(ValueError, match="shape"):
        sign_flip_test(bad)


def test_functions_over_seeds_refuse_nan():
    for function in (sign_flip_test, t_interval, t_test_p, cohen_dz):
        with pytest.raises(SartransferError, match="finite"):
            function([0.1, np.nan, 0.2])
    for function in (t_interval, t_test_p, cohen_dz):
        with pytest.raises(ValueError, match="2 or more"):
            function([0.1])


# --- t, effect size, Holm --------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("n", [2, 5, 12])
def test_t_interval_and_p_are_scipys(n, confidence):
    d = np.random.default_rng(n).normal(0.3, 1, n)
    peer = stats.ttest_1samp(d, 0)
    low, high = peer.confidence_interval(confidence)
    interval = t_interval(d, confidence)
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-9)
    assert (interval.mean, interval.df) == (pytest.approx(d.mean()), n - 1)
    assert t_test_p(d) == pytest.approx(peer.pvalue, rel=1e-9)
    assert cohen_dz(d) == pytest.approx(peer.statistic / np.sqrt(n), rel=1e-9)


def test_without_spread():
    assert t_test_p([0.0, 0.0]) == 1
    assert t_test_p([0.5, 0.5]) == 0
    assert np.isnan(cohen_dz([0.0, 0.0]))
    assert cohen_dz([-0.5, -0.5]) == -np.inf
    flat = crossed_interval(np.full((3, 4), 0.25))
    assert (flat.low, flat.mean, flat.high) == (0.25, 0.25, 0.25)


def test_holm_worked_by_hand():
    # sorted .01 .015 .03 .04: times 4 3 2 1 = .04 .045 .06 .04, and never falling: .04 .045 .06 .06
    assert holm([0.03, 0.01, 0.04, 0.015]) == pytest.approx([0.06, 0.04, 0.06, 0.045])
    assert holm([0.6, 0.7]) == pytest.approx([1, 1])
    assert holm([0.03]) == pytest.approx([0.03])
    assert holm([]).shape == (0,)
    with pytest.raises(ValueError, match="0 to 1"):
        holm([0.1, np.nan])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_holm_rejects_what_stepping_down_rejects(p_values):
    alpha = 0.05
    rejected = set()
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] * (len(p_values) - rank) > alpha:
            break
        rejected.add(index)
    assert {i for i, p in enumerate(holm(p_values)) if p <= alpha} == rejected


# --- crossed seeds and groups ----------------------------------------------------------------------


def slow_mean_squares(d):
    seeds, groups = d.shape
    grand = sum(d[s, g] for s in range(seeds) for g in range(groups)) / (seeds * groups)
    of_seed = [sum(d[s, g] for g in range(groups)) / groups for s in range(seeds)]
    of_group = [sum(d[s, g] for s in range(seeds)) / seeds for g in range(groups)]
    residual = sum(
        (d[s, g] - of_seed[s] - of_group[g] + grand) ** 2 for s in range(seeds) for g in range(groups)
    )
    return (
        groups * sum((m - grand) ** 2 for m in of_seed) / (seeds - 1),
        seeds * sum((m - grand) ** 2 for m in of_group) / (groups - 1),
        residual / ((seeds - 1) * (groups - 1)),
    )


@pytest.mark.parametrize(("seeds", "groups"), [(2, 2), (3, 7), (6, 4)])
def test_mean_squares_are_the_analysis_of_variance(seeds, groups):
    d = np.random.default_rng(seeds).normal(size=(seeds, groups))
    parts = crossed_mean_squares(d)
    assert parts == pytest.approx(slow_mean_squares(d), rel=1e-9)
    total = (seeds - 1) * parts[0] + (groups - 1) * parts[1] + (seeds - 1) * (groups - 1) * parts[2]
    assert total == pytest.approx(((d - d.mean()) ** 2).sum())


def test_mean_squares_estimate_the_known_variance_of_the_mean():
    seeds, groups, sds = 4, 6, (0.5, 1.0, 1.5)
    d, _ = crossed(np.random.default_rng(0), 6000, seeds, groups, *sds)
    parts = np.array([crossed_mean_squares(one) for one in d])
    estimated = (parts[:, 0] + parts[:, 1] - parts[:, 2]) / (seeds * groups)
    truth = sds[0] ** 2 / seeds + sds[1] ** 2 / groups + sds[2] ** 2 / (seeds * groups)
    standard_error = estimated.std() / np.sqrt(len(d))
    assert estimated.mean() == pytest.approx(truth, abs=4 * standard_error)
    assert d.mean(axis=(1, 2)).var() == pytest.approx(
        truth, rel=0.08
    )  # 4 standard errors of a variance of 6000


@given(st.integers(2, 6), st.integers(2, 8), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_crossed_interval_is_never_shorter_than_one_variance_alone(seeds, groups, seed):
    rng = np.random.default_rng(seed)
    d = crossed(rng, 1, seeds, groups, *rng.uniform(0, 1, 3))[0][0]
    interval = crossed_interval(d)
    half = (interval.high - interval.low) / 2
    ms = crossed_mean_squares(d)
    for own, df in ((ms[0], seeds - 1), (ms[1], groups - 1)):
        assert half >= stats.t.ppf(0.975, df) * np.sqrt(own / (seeds * groups)) * (1 - 1e-9)
    variance = max(ms[0] + ms[1] - ms[2], ms[0], ms[1]) / (seeds * groups)
    assert half == pytest.approx(stats.t.ppf(0.975, interval.df) * np.sqrt(variance), rel=1e-4)
    swapped = crossed_interval(d.T)
    assert (swapped.low, swapped.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("seeds", [2, 3, 4, 6])
@pytest.mark.parametrize("groups", [2, 3, 10, 30])
def test_crossed_interval_misses_in_at_most_five_percent_whatever_the_variances(seeds, groups):
    # Mean and mean squares are independent, and the mean is normal with a known variance: given these
    # the error is known exactly, and only they need to be drawn (common draws for all ratios).
    rng, draws = np.random.default_rng(100 * seeds + groups), 20_000
    residual_df = (seeds - 1) * (groups - 1)
    chi_seed = rng.chisquare(seeds - 1, draws) / (seeds - 1)
    chi_group = rng.chisquare(groups - 1, draws) / (groups - 1)
    chi_residual = rng.chisquare(residual_df, draws) / residual_df
    for of_seed, of_group in itertools.product([0, 0.1, 0.3, 1, 3, 10, 1000], repeat=2):
        half = crossed_half_width(
            (1 + of_seed) * chi_seed, (1 + of_group) * chi_group, chi_residual, seeds, groups
        )
        variance = (1 + of_seed + of_group) / (seeds * groups)
        miss = special.erfc(half / np.sqrt(2 * variance))
        assert miss.mean() <= 0.05 + 4 * miss.std() / np.sqrt(draws), (of_seed, of_group)


def test_groups_with_an_undefined_score_are_dropped_and_counted():
    d = np.random.default_rng(1).normal(size=(3, 6))
    holed = d.copy()
    holed[1, 2] = holed[0, 5] = np.nan
    interval, of_rest = crossed_interval(holed), crossed_interval(d[:, [0, 1, 3, 4]])
    assert interval.dropped_groups == 2
    assert (interval.low, interval.high) == (of_rest.low, of_rest.high)


@pytest.mark.parametrize("d", [np.zeros((1, 5)), np.zeros((5, 1)), np.array([[1, np.nan], [2, 3.0]])])
def test_one_seed_or_one_group_is_refused(d):
    with pytest.raises(SartransferError, match="not estimable"):
        crossed_interval(d)


def test_infinite_scores_are_refused():
    with pytest.raises(SartransferError, match="infinite"):
        crossed_interval([[1, np.inf], [0, 1]])
    with pytest.raises(SartransferError, match="infinite"):
        compare_paired([np.inf, 1], [0, 0], np.zeros((2, 2)), np.zeros((2, 2)), events_unseen=True)


@pytest.mark.parametrize("value", [0.1, 0.7 - 0.6, 1 / 3, -0.011])
@pytest.mark.parametrize("n", [6, 7])
def test_a_spread_of_rounding_is_none(value, n):
    """The standard deviation of six tenths is 1e-17, not 0."""
    d = np.full(n, value)
    assert cohen_dz(d) == np.copysign(np.inf, value)
    assert t_test_p(d) == 0
    d[0] += 1e-9
    assert 1e6 < abs(cohen_dz(d)) < 1e10
    assert np.isnan(cohen_dz(np.zeros(n)))
    assert t_test_p(np.zeros(n)) == 1


# --- power -----------------------------------------------------------------------------------------


def t_detectable(n, power):
    """Smallest difference that the t-test alone finds, from the upper tail of scipy's noncentral t."""
    critical = stats.t.ppf(0.975, n - 1)
    return optimize.brentq(lambda x: stats.nct.sf(critical, n - 1, x) - power, 0.01, 60) / np.sqrt(n)


@pytest.mark.parametrize(("n", "power"), [(6, 0.8), (6, 0.5), (7, 0.8), (9, 0.95), (12, 0.8)])
def test_smallest_detectable_difference_is_called_better_with_its_power(n, power):
    """Both conditions, asked as `compare_paired` asks them, on samples of their own."""
    sd, draws = 0.02, 2500
    delta = smallest_detectable_difference(n, sd, power)
    zero = np.zeros((n, 2))
    samples = np.random.default_rng(n).normal(delta, sd, size=(draws, n))
    better = [
        compare_paired(d, zero[:, 0], d[:, None] + zero, zero, events_unseen=False)[0].verdict == "better"
        for d in samples
    ]
    # 3.5 standard errors of this sample, and 1 % for the draws within (above 11 seeds: for what is left out)
    assert np.mean(better) == pytest.approx(power, abs=3.5 * np.sqrt(power * (1 - power) / draws) + 0.01)


def test_smallest_detectable_difference_of_six_is_of_six_equal_signs():
    """At n = 6 the sign-flip test says yes where all differences have one sign: p = 2/64, else 4/64 or more."""
    delta = smallest_detectable_difference(6, 1.0)
    d = np.random.default_rng(11).normal(delta, 1, (200_000, 6))
    t = d.mean(axis=1) / (d.std(axis=1, ddof=1) / np.sqrt(6))
    power = np.mean((d > 0).all(axis=1) & (t > stats.t.ppf(0.975, 5)))
    assert power == pytest.approx(0.8, abs=0.006)
    assert delta > t_detectable(6, 0.8) * 1.2


def test_smallest_detectable_difference_nears_the_t_test():
    more = [smallest_detectable_difference(n, 1.0) / t_detectable(n, 0.8) for n in range(6, 14)]
    assert (np.diff(more) < 0.002).all()
    assert more[0] == pytest.approx(1.26, abs=0.02)
    assert more[5] < 1.02
    assert more[6:] == pytest.approx([1, 1], abs=1e-6)
    assert smallest_detectable_difference(8, 0.03) == pytest.approx(
        3 * smallest_detectable_difference(8, 0.01)
    )


def test_smallest_detectable_difference_at_the_ends():
    assert smallest_detectable_difference(5, 0.01) == np.inf
    assert smallest_detectable_difference(5, 0.01, confidence=0.9) < np.inf
    assert smallest_detectable_difference(7, 0.01, confidence=0.99) == np.inf
    assert smallest_detectable_difference(1, 0.01) == np.inf
    assert smallest_detectable_difference(8, 0.0) == 0
    assert smallest_detectable_difference(8, 0.01, power=0.02) == 0
    with pytest.raises(ValueError, match="sd"):
        smallest_detectable_difference(8, np.nan)
    with pytest.raises(ValueError, match="power"):
        smallest_detectable_difference(8, 0.01, power=1)


# --- statements ------------------------------------------------------------------------------------


def compare(differences, base=0.7, **options):
    """Compare a = base + differences (S, G) with b = base; the whole is the mean over groups."""
    b = np.full(np.shape(differences), base)
    a = b + differences
    options.setdefault("events_unseen", True)
    return compare_paired(np.nanmean(a, axis=1), np.nanmean(b, axis=1), a, b, **options)


NULLS = [  # seeds, groups, and the standard deviations of seed, group and residual effects
    (6, 5, 0.01, 0.03, 0.01),
    (6, 2, 0.02, 0.02, 0.02),
    (8, 20, 0.02, 0.0, 0.05),
    (10, 3, 0.0, 0.05, 0.01),
    (7, 12, 0.03, 0.03, 0.0),
]


@pytest.mark.parametrize("setting", NULLS)
def test_under_the_null_better_is_said_in_at_most_five_percent(setting):
    """For "on this test set" the truth is the mean over seeds at these very groups, for "on new events" 0."""
    d, of_group = crossed(np.random.default_rng(2024), 1000, *setting)
    fixed = d - of_group.mean(axis=2, keepdims=True)  # truth on the test set: exactly 0
    here = [compare(one)[0].verdict for one in fixed]
    anew = [compare(one)[1].verdict for one in d]
    for verdicts in (here, anew):
        assert verdicts.count("better") <= 50
        assert verdicts.count("better") + verdicts.count("worse") <= 50 + 20  # both sides: 3 standard errors


@pytest.mark.parametrize(("seeds", "groups"), [(3, 2), (4, 8), (5, 30)])
def test_under_the_null_with_few_seeds_new_events_stay_calibrated(seeds, groups):
    d, _ = crossed(np.random.default_rng(7), 1000, seeds, groups, 0.02, 0.02, 0.02)
    statements = [compare(one) for one in d]
    for scope in (0, 1):  # five seeds are never certain
        assert {s[scope].verdict for s in statements} == {"too few runs to tell"}
    # nor is the interval alone, which the verdict does not take: it misses 0 in at most 5 %
    assert sum(s[1].interval.excludes_zero for s in statements) <= 50 + 20


def test_an_effect_is_found_in_at_least_eighty_percent():
    """Effect: 3 points; sd 1 point of seeds, 2 of groups, 2 of the residual; 8 seeds, 10 groups."""
    d, _ = crossed(np.random.default_rng(3), 1000, 8, 10, 0.01, 0.02, 0.02, mean=0.03)
    statements = [compare(one) for one in d]
    for scope in (0, 1):
        assert sum(s[scope].verdict == "better" for s in statements) >= 800
        assert not any(s[scope].verdict == "worse" for s in statements)


def test_this_test_set_and_new_events_answer_different_questions():
    """Where events differ by much and runs do not, three events settle the first and never the second."""
    d = np.array([0.10, 0.00, 0.02]) + np.random.default_rng(0).normal(0, 0.003, (8, 3))
    here, anew = compare(d)
    assert (here.verdict, anew.verdict) == ("better", "too few runs to tell")
    assert here.interval.mean == pytest.approx(anew.interval.mean)
    assert "3 events" in anew.reason


@pytest.mark.parametrize("n", [2, 5])
def test_five_runs_are_never_certain(n):
    for statement in compare(np.random.default_rng(0).normal(0.2, 0.001, (n, 4))):
        assert statement.verdict == "too few runs to tell"
        assert f"{n} paired runs" in statement.reason
        assert statement.interval.low > 0


def test_better_and_worse_mirror_each_other():
    d = np.random.default_rng(0).normal(0.05, 0.005, (6, 4))
    for sign, verdict in ((1, "better"), (-1, "worse")):
        statements = compare(sign * d)
        assert [s.verdict for s in statements] == [verdict, verdict]
        assert statements[0].p_value == 2 / 64
        assert statements[1].p_value is None
        assert [s.scope for s in statements] == ["on this test set", "on new events"]


def test_no_difference_needs_an_interval_within_the_margin():
    d = np.random.default_rng(4).normal(0, 0.002, (8, 6))
    d -= d.mean()
    assert [s.verdict for s in compare(d)] == ["no difference found"] * 2
    assert [s.verdict for s in compare(d, margin=0.0001)] == ["too few runs to tell"] * 2
    assert [s.verdict for s in compare(60 * d)] == ["too few runs to tell"] * 2
    assert [s.verdict for s in compare(np.zeros((6, 3)))] == ["no difference found"] * 2


def test_correction_for_several_contrasts_can_take_the_certainty_away():
    d = np.random.default_rng(0).normal(0.05, 0.005, (6, 4))
    here, anew = compare(d, p_adjusted=0.2)
    assert (here.verdict, anew.verdict) == ("too few runs to tell", "better")
    assert "correction" in here.reason
    assert here.p_adjusted == 0.2
    assert compare(d, p_adjusted=0.05)[0].verdict == "better"


def test_sign_flip_can_veto_the_t_interval():
    d = np.array([0.04, 0.05, 0.045, 0.05, 0.04, -0.004])[:, None] + np.zeros((6, 2))
    here, _ = compare(d)
    assert here.interval.excludes_zero
    assert (here.p_value, here.verdict) == (4 / 64, "too few runs to tell")
    assert "sign-flip test does not confirm" in here.reason


def test_not_estimable_says_why():
    d = np.random.default_rng(0).normal(0.05, 0.005, (6, 4))
    holed = d.copy()
    holed[0, 1:] = np.nan
    for statement, words in (
        (compare(d, events_unseen=False)[1], "also seen in training"),
        (compare(d[:, :1])[1], "only one event"),
        (compare(holed)[1], r"only one event to judge from (3 events left out"),
        (compare(d[:1])[1], "only one run"),
    ):
        assert (statement.verdict, statement.interval) == ("not estimable", None)
        assert words in statement.reason
    one_run, _ = compare(d[:1])
    assert (one_run.verdict, one_run.interval) == ("too few runs to tell", None)
    undefined, _ = compare_paired([np.nan, 1], [0, 0], np.zeros((2, 2)), np.zeros((2, 2)), events_unseen=True)
    assert (undefined.verdict, undefined.p_value) == ("not estimable", None)
    none, nothing = compare_paired([], [], np.zeros((0, 3)), np.zeros((0, 3)), events_unseen=True)
    assert none.verdict == nothing.verdict == "not estimable"


def test_dropped_groups_are_told():
    d = np.random.default_rng(0).normal(0.05, 0.005, (6, 4))
    d[2, 3] = np.nan
    _, anew = compare(d)
    assert (anew.verdict, anew.interval.dropped_groups) == ("better", 1)
    assert "3 events (1 event left out" in anew.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"whole_b": [0.0] * 5}, "whole_a has shape"),
        ({"groups_a": np.zeros((6, 2))}, "groups_a has shape"),
        ({"groups_a": np.zeros((5, 3)), "groups_b": np.zeros((5, 3))}, "6 runs and group scores 5"),
        ({"margin": -0.1}, "margin"),
        ({"margin": np.nan}, "margin"),
        ({"confidence": 95}, "confidence=95"),
        ({"p_adjusted": 1.5}, "p_adjusted"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, words):
    good = {
        "whole_a": [0.0] * 6,
        "whole_b": [0.0] * 6,
        "groups_a": np.zeros((6, 3)),
        "groups_b": np.zeros((6, 3)),
        "events_unseen": True,
    }
    with pytest.raises(ValueError, match=words):
        compare_paired(**(good | change))


def test_values_are_checked_at_birth():
    with pytest.raises(ValueError, match="must hold its mean"):
        Interval(1, 2, 3, 4, 0.95)
    with pytest.raises(ValueError, match="Must be one of"):
        Statement("on mars", None, None, None, "better", "")
    with pytest.raises(ValueError, match="Must be one of"):
        Statement("on new events", None, None, None, "best", "")
