"""What a statement must not say: certain on new events alone, of folds as if of events, across families, of one run."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from test_70_contrasts import CLASSES, PIXELS, make_recipe, null, runs_of

from sartransfer import plan
from sartransfer.catalog import Asset, Catalog, Entry
from sartransfer.errors import InputError, SartransferError
from sartransfer.evaluate import SceneScore, TestScores
from sartransfer.gather import _warnings
from sartransfer.results import ScoredRun, TestSet, contrasts, verdict_words
from sartransfer.results.corrected import crossed_p
from sartransfer.statistics import (
    compare_paired,
    crossed_interval,
    fold_means,
    smallest_detectable_difference,
    t_interval,
)
from sartransfer.wording import OTHER_DATA, UNSEEN_EVENTS, estimate_words, group_words

RESULTS = Path(__file__).parents[1] / "results"
UNSEEN_SET = TestSet("test", 8, 8, UNSEEN_EVENTS)


def compare(d, **options):
    d = np.asarray(d, dtype=float)
    zero = np.zeros_like(d)
    return compare_paired(d.mean(axis=1), zero[:, 0], d, zero, events_unseen=True, **options)


def of_accuracies(a, b):
    """Accuracies (starts, seeds, groups) of two starts, as `runs_of` takes them: the second is compared."""
    return np.stack([np.asarray(b, dtype=float), np.asarray(a, dtype=float)])


# --- new events are certain only where the runs are ------------------------------------------------


def test_new_events_need_the_sign_flip_test_too():
    """Five runs agree and one does not: neither statement is certain, and both say why."""
    seeds = np.array([0.03, 0.032, 0.028, 0.031, 0.029, -0.0005])
    noise = np.random.default_rng(0).normal(0, 0.002, (6, 8))
    d = seeds[:, None] + noise - noise.mean(axis=1, keepdims=True)
    here, new = compare(d)
    assert new.interval.excludes_zero  # the interval alone would have called it better
    for statement in (here, new):
        assert statement.verdict == "too few runs to tell"
        assert "the sign-flip test does not confirm it" in statement.reason


def test_what_is_certain_on_new_events_is_certain_on_these_events():
    """Drawn near the border, where the mean over events is the score of the test set."""
    rng = np.random.default_rng(3)
    new_certain = 0
    for _ in range(400):
        d = 0.02 + 0.012 * rng.normal(size=(6, 1)) + 0.01 * rng.normal(size=(1, 20))
        here, new = compare(d + 0.01 * rng.normal(size=(6, 20)))
        assert new.verdict == here.verdict or new.verdict not in ("better", "worse")
        new_certain += new.verdict == "better"
    assert new_certain > 100


# --- folds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("folds", "groups"), [(2, 20), (5, 20), (5, 10)])
def test_what_a_folds_training_does_is_counted_once(folds, groups):
    """No effect but one of each training set on all that it holds out, and one of each event and run."""
    rng = np.random.default_rng(folds)
    comparisons = 300
    number = np.repeat(np.arange(folds), groups // folds)
    naive = said = 0
    for _ in range(comparisons):
        d = 0.01 * rng.normal(size=(1, folds))[:, number] + 0.005 * rng.normal(size=(6, folds))[:, number]
        d = d + 0.005 * rng.normal(size=(1, groups)) + 0.005 * rng.normal(size=(6, groups))
        naive += compare(d)[1].verdict in ("better", "worse")
        said += compare(d, folds=number)[1].verdict in ("better", "worse")
    most = stats.binom.ppf(0.99, comparisons, 0.05)
    assert said <= most
    assert naive > most  # the draw can tell


def test_fold_means_are_those_of_each_folds_complete_groups():
    d = np.arange(12.0).reshape(2, 6)
    d[1, 1] = np.nan
    number = [3, 3, 1, 1, 1, 7]
    expected = [[3.0, 0.0, 5.0], [9.0, 6.0, 11.0]]
    assert fold_means(d, number).tolist() == expected
    d[0, 5] = np.nan
    assert np.isnan(fold_means(d, number)[:, 2]).all()
    with pytest.raises(ValueError, match="folds have shape"):
        fold_means(d, [1, 2])


def test_contrasts_of_folds_cross_seeds_with_the_folds():
    x = null(np.random.default_rng(8), 2, 6, 6)
    recipe = make_recipe(2)
    held = (("e00", "e03"), ("e01", "e02"), ("e04", "e05"))
    described = TestSet("test", 6, 6, UNSEEN_EVENTS, held_out=held)
    (found,) = contrasts(runs_of(recipe, x), recipe, [described])
    d = np.round(PIXELS * x)[1] / PIXELS - np.round(PIXELS * x)[0] / PIXELS
    means = np.stack([d[:, [0, 3]].mean(1), d[:, [1, 2]].mean(1), d[:, [4, 5]].mean(1)], axis=1)
    expected = crossed_interval(means)
    new = found["statements"][1]
    assert (new["mean"], new["low"], new["high"]) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )
    assert found["folds"] == 3
    assert "3 folds of 6 events, each fold counting alike" in new["reason"]
    words = verdict_words(recipe, [found], [described])[1]
    assert "6 seeds, 6 events in 3 folds, each fold counting alike." in words
    # as many folds as groups: each is a group, and nothing changes
    each = TestSet("test", 6, 6, UNSEEN_EVENTS, held_out=tuple((f"e{g:02d}",) for g in range(6)))
    assert contrasts(runs_of(recipe, x), recipe, [each]) == contrasts(
        runs_of(recipe, x), recipe, [TestSet("test", 6, 6, UNSEEN_EVENTS)]
    )


def test_the_correction_of_several_contrasts_counts_folds_as_well():
    x = null(np.random.default_rng(9), 3, 6, 4)
    recipe = make_recipe(3)
    held = (("e00", "e01"), ("e02", "e03"))
    found = contrasts(runs_of(recipe, x), recipe, [TestSet("test", 4, 4, UNSEEN_EVENTS, held_out=held)])
    counted = np.round(PIXELS * x) / PIXELS
    p = [crossed_p((counted[i] - counted[0]).reshape(6, 2, 2).mean(axis=2)) for i in (1, 2)]
    expected = {min(p): min(1, 2 * min(p)), max(p): min(1, max(2 * min(p), max(p)))}
    for c, one in zip(found, p, strict=True):
        assert c["statements"][1]["p_adjusted"] == pytest.approx(expected[one])


# --- other data without groups ---------------------------------------------------------------------


def entry(name, split, group):
    return Entry(name, (Asset(Path(f"{name}.tif")),), category="dry", split=split, group=group)


def test_tiles_of_other_data_without_groups_are_no_events():
    entries = [entry(f"t{i}", "train", f"e{i}") for i in range(3)]
    tiles = [entry(f"far/{i}", "far", None) for i in range(8)]
    catalog = Catalog("c", (*entries, *tiles), ("dry", "flooded"))
    recipe = SimpleNamespace(rule_labelled=(), data=SimpleNamespace(external={"far": None}))
    assert plan.relation_of(recipe, catalog, "far") == OTHER_DATA  # what it is called does not change
    lone = TestSet("test", 8, 8, OTHER_DATA, grouped=False)
    assert not lone.events_unseen
    assert TestSet("test", 8, 8, OTHER_DATA).events_unseen
    segment = make_recipe()
    (found,) = contrasts(runs_of(segment, null(np.random.default_rng(0), 2, 6, 8)), segment, [lone])
    new = found["statements"][1]
    assert (new["verdict"], new["mean"]) == ("not estimable", None)
    assert new["reason"].startswith("Its scenes name no group")
    planned = SimpleNamespace(
        warnings=(), runs=(), recipe=SimpleNamespace(data=SimpleNamespace(cache="none"))
    )
    planned.test_sets = (lone,)
    (warning,) = _warnings(planned, [], [])
    assert "name no group" in warning
    assert "shares groups" not in warning


# --- what the words leave out no more --------------------------------------------------------------


def test_several_families_are_counted_and_one_is_not():
    x = null(np.random.default_rng(4), 2, 6, 4)
    recipe = make_recipe(2, fractions=[1.0, 0.5])
    runs = [ScoredRun(r.initialization, f, r.seed, r.tests) for f in (1.0, 0.5) for r in runs_of(recipe, x)]
    described = [TestSet("test", 4, 4, UNSEEN_EVENTS)]
    found = contrasts(runs, recipe, described)
    words = verdict_words(recipe, found, described)
    assert words[-1] == (
        "Each test set and share of the labels is judged at 95% by itself: there are 4 statements in all, and nothing"
        " is corrected across them."
    )
    one = make_recipe(2)
    said = verdict_words(one, contrasts(runs_of(one, x), one, described), described)
    assert not any("by itself" in w for w in said)


def test_an_earlier_training_is_said_to_be_outside_the_intervals():
    stage = {"name": "before", "task": "segment", "data": {"catalog": "far.csv"}, "training": {"epochs": 1}}
    starts = {
        "random": "random",
        "chain": {"from": "stages", "stages": [stage]},
        "file": {"from": "file", "path": "w.safetensors"},
        "library": {"from": "torchvision", "name": "resnet18"},
    }
    recipe = make_recipe(initializations=starts)
    x = null(np.random.default_rng(4), 4, 6, 4)
    described = [TestSet("test", 4, 4, UNSEEN_EVENTS)]
    words = verdict_words(recipe, contrasts(runs_of(recipe, x), recipe, described), described)
    assert words[-1] == (
        "The weights that chain, file start from were trained once: another such training is not in the intervals."
    )
    plain = make_recipe(2)
    said = verdict_words(plain, contrasts(runs_of(plain, x[:2]), plain, described), described)
    assert not any("trained once" in w for w in said)


def test_statements_that_point_in_opposite_directions_are_told_of():
    """One large event is much better, seven small ones are a little worse: pixels say better, events worse."""
    rng = np.random.default_rng(2)
    recipe = make_recipe(2)
    runs = []
    for start in recipe.initializations:
        for seed in recipe.seeds:
            share = 0.7 + rng.normal(0, 0.001, 8)
            share += np.array([0.1] + [-0.05] * 7) * (start == "a")
            sizes = np.array([200_000] + [4_000] * 7)
            scenes = tuple(
                SceneScore(f"s{g}", f"e{g}", np.array([[n - w, w], [0, 0]]))
                for g, (n, w) in enumerate(zip(sizes, np.round(sizes * (1 - share)).astype(int), strict=True))
            )
            runs.append(ScoredRun(start, 1.0, seed, {"test": TestScores("test", CLASSES, scenes)}))
    found = contrasts(runs, recipe, [UNSEEN_SET])
    here, new = found[0]["statements"]
    assert here["verdict"] == "better"
    assert new["mean"] < 0
    words = verdict_words(recipe, found, [UNSEEN_SET])
    assert words[2] == (
        "The two statements on a and random, test, point in opposite directions: the first counts all pixels alike,"
        " the second each event alike."
    )
    assert words[1].count("8 events, each counting alike") == 2 - (
        "better" in words[1] or "worse" in words[1]
    )
    agreeing = runs_of(recipe, null(np.random.default_rng(0), 2, 6, 8))
    said = verdict_words(recipe, contrasts(agreeing, recipe, [UNSEEN_SET]), [UNSEEN_SET])
    assert not any("opposite" in w for w in said)


def test_where_two_events_are_too_few_more_runs_are_not_asked_for():
    runs = np.random.default_rng(0).normal(0, 0.001, (6, 2))
    (_, new) = compare(np.array([0.10, 0.01]) + runs)
    assert new.verdict == "too few runs to tell"
    assert new.reason.endswith("More runs alone would not settle it: it takes more events.")
    assert group_words(new.reason, "cities").endswith("it takes more cities.")
    (_, same) = compare(np.random.default_rng(1).normal(0.02, 0.05, (6, 1)) + np.zeros((6, 8)) + 1e-4)
    assert same.verdict == "too few runs to tell"
    assert "more events" not in same.reason


def test_a_group_that_is_undefined_for_one_start_only_is_counted_as_such():
    """A dry event: the start that finds nothing there has IoU 0/0, the other 0; both miss another one."""
    recipe = make_recipe(2, primary={"metric": "iou", "class": "flooded"})
    rng = np.random.default_rng(1)
    runs = []
    for start in recipe.initializations:
        for seed in recipe.seeds:
            scenes = [
                SceneScore(f"s{g}", f"e{g}", np.array([[500, 20], [30, 450 + rng.integers(20)]]))
                for g in range(4)
            ]
            scenes.append(SceneScore("dry", "e4", np.array([[1000, 0 if start == "random" else 7], [0, 0]])))
            scenes.append(SceneScore("none", "e5", np.array([[1000, 0], [0, 0]])))
            runs.append(ScoredRun(start, 1.0, seed, {"test": TestScores("test", CLASSES, tuple(scenes))}))
    (found,) = contrasts(runs, recipe, [TestSet("test", 6, 6, UNSEEN_EVENTS)])
    assert (found["groups_left_out"], found["groups_of_one_start"]) == (2, 1)
    told = "(2 {}left out, where the score is undefined, 1 of them for one of the two starts only)"
    assert told.format("events ") in found["statements"][1]["reason"]
    assert told.format("") in verdict_words(recipe, [found], [UNSEEN_SET])[1]


def test_macro_scores_of_events_without_a_class_are_told_of():
    recipe = make_recipe(2, primary={"metric": "iou_macro"})
    x = null(np.random.default_rng(4), 2, 6, 4)  # one class each: the other is absent
    described = [TestSet("test", 4, 4, UNSEEN_EVENTS)]
    (found,) = contrasts(runs_of(recipe, x), recipe, described)
    assert found["groups_lacking_classes"] == 4
    words = verdict_words(recipe, [found], described)
    assert words[2].startswith("Of 4 events (test), 4 lack a class: the macro score")
    plain = make_recipe(2)
    (other,) = contrasts(runs_of(plain, x), plain, described)
    assert "groups_lacking_classes" not in other


def test_sides_of_other_groups_are_refused():
    recipe = make_recipe(2)
    x = null(np.random.default_rng(4), 2, 6, 4)
    runs = runs_of(recipe, x)
    scenes = runs[-1].tests["test"].scenes
    moved = (*scenes[:3], SceneScore("s3", "elsewhere", scenes[3].confusion))
    runs[-1].tests["test"] = TestScores("test", CLASSES, moved)
    with pytest.raises(InputError, match="different groups of test set 'test': e03, elsewhere not in all"):
        contrasts(runs, recipe, [TestSet("test", 4, 4, UNSEEN_EVENTS)])


# --- runs that differ by nothing -------------------------------------------------------------------


def test_equal_differences_are_one_run():
    for step in (0.002, 0.7 - 0.6):
        d = np.full((6, 4), step) + np.arange(4) / 1000
        for statement in compare(d):
            assert statement.verdict == "too few runs to tell"
            assert statement.reason.startswith("All 6 runs differ by exactly +")
    assert [s.verdict for s in compare(np.zeros((6, 4)))] == ["no difference found"] * 2
    d[0, 0] += 0.001
    assert "exactly" not in compare(d)[1].reason


def test_the_crossed_p_of_rounded_equal_differences_is_zero():
    assert crossed_p(np.full((3, 4), 0.7) - 0.6) == 0
    assert crossed_p((np.full((3, 4), 0.3) - 0.1) * 3) == 0


# --- how many seeds --------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "contrasts_planned"), [(6, 5), (8, 3), (12, 5)])
def test_the_smallest_difference_of_several_contrasts_is_found_with_its_power(n, contrasts_planned):
    """Holm over differences of which one is there: four in five comparisons call it better, or a few more."""
    m, draws = contrasts_planned, 4000
    delta = smallest_detectable_difference(n, 0.01, contrasts=m)
    d = 0.01 * np.random.default_rng(n).normal(size=(draws, m, n))
    d[:, 0] += delta
    p = stats.ttest_1samp(d, 0, axis=2).pvalue
    order = np.argsort(p, axis=1)
    steps = np.maximum.accumulate(np.take_along_axis(p, order, 1) * np.arange(m, 0, -1), axis=1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, steps, axis=1)
    first = d[:, 0]
    signs = 1 - 2 * ((np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1)
    flips = np.mean(np.abs(first @ signs.T) >= first.sum(axis=1, keepdims=True) - 1e-12, axis=1)
    better = (first.mean(axis=1) > 0) & (adjusted[:, 0] <= 0.05) & (flips <= 0.05)
    assert 0.78 <= better.mean() <= 0.88
    assert delta > 1.1 * smallest_detectable_difference(n, 0.01)
    with pytest.raises(ValueError, match="contrasts=0"):
        smallest_detectable_difference(n, 0.01, contrasts=0)


# --- words of numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.004, 0.116, "+.060 [+.004, +.116]"),
        (-0.116, -0.004, "\N{MINUS SIGN}.060 [\N{MINUS SIGN}.116, \N{MINUS SIGN}.004]"),
        (0.0003, 0.0597, "+.0300 [+.0003, +.0597]"),
        (0.0, 0.12, "+.06 [.00, +.12]"),
        (0.01, 0.15, "+.08 [+.01, +.15]"),
    ],
)
def test_an_end_that_is_not_zero_is_not_written_as_zero(low, high, words):
    assert estimate_words({"mean": (low + high) / 2, "low": low, "high": high}, sign=True) == words


# --- what is committed -----------------------------------------------------------------------------


def load_rejudge():
    spec = importlib.util.spec_from_file_location("rejudge", RESULTS / "rejudge.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FOLDERS = sorted(path.parent.name for path in RESULTS.glob("*/results.json"))


@pytest.mark.parametrize("name", FOLDERS)
def test_committed_verdicts_are_those_of_todays_rules(name):
    """Every statement of results.json follows from the CSV beside it."""
    again = list(load_rejudge().rejudge(RESULTS / name))
    assert len(again) == len(json.loads((RESULTS / name / "results.json").read_text())["contrasts"])
    for contrast, statements in again:
        for old, new in zip(contrast["statements"], statements, strict=True):
            place = (contrast["test_set"], contrast["a"], contrast["b"], new["scope"])
            assert (old["verdict"], place) == (new["verdict"], place)
            if new["mean"] is not None:
                assert [old[k] for k in ("mean", "low", "high")] == pytest.approx(
                    [new[k] for k in ("mean", "low", "high")]
                )
                whole = [d for d in contrast["per_seed"] if d is not None]
                if new["scope"] == "on this test set" and len(whole) > 1:
                    assert new["low"] == pytest.approx(t_interval(whole).low)
    assert FOLDERS, "no folder of results"


def test_top2_of_two_classes_is_refused(monkeypatch, tmp_path):
    """Of two classes the right one is always among the two highest; of three it need not be."""
    seen = []
    for classes in (("dry", "flooded"), ("dry", "flooded", "ice")):
        catalog = Catalog("c", (entry("a", "train", "g"), entry("b", "test", "h")), classes)
        monkeypatch.setattr(plan, "open_catalog", lambda _, found=catalog: found)
        recipe = make_recipe(task="classify", model={"name": "resnet18"}, primary={"metric": "top2"})
        with pytest.raises(SartransferError) as told:  # of three classes: that no such file can be read
            plan.plan_comparison(recipe, tmp_path / "out")
        seen.append(str(told.value))
    assert "'top2' says nothing of 2 classes (dry, flooded)" in seen[0]
    assert "top2" not in seen[1]
