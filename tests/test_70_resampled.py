"""Intervals over test scenes: against one drawing at a time, and how often they hold the truth."""

import numpy as np
import pytest
from scipy import stats

from sartransfer.evaluate import SceneScore, TestScores
from sartransfer.metrics import scores
from sartransfer.recipe import parse_recipe
from sartransfer.results import ScoredRun, TestSet, resampled_json
from sartransfer.results import resampled as module
from sartransfer.wording import UNSEEN_EVENTS

CLASSES = ("dry", "flooded", "ice")


def recipe_of(metric="iou", class_="flooded", seeds=2, task="segment"):
    primary = {"metric": metric} | ({"class": class_} if class_ else {})
    return parse_recipe({
        "name": "fixture", "task": task, "data": {"catalog": "nowhere.csv"}, "model": {"name": "resnet18-aspp"},
        "initializations": {"random": "random", "imagenet": "random"}, "seeds": seeds, "primary": primary,
    })  # fmt: skip


def runs_of(rng, sets, seeds=2, classes=CLASSES, most=50):
    runs = []
    for start in ("random", "imagenet"):
        for seed in range(seeds):
            tests = {
                name: TestScores(
                    name,
                    classes,
                    tuple(
                        SceneScore(f"{g}{i}", g, rng.integers(0, most, (len(classes), len(classes))))
                        for g, number in groups.items()
                        for i in range(number)
                    ),
                )
                for name, groups in sets.items()
            }
            runs.append(ScoredRun(start, 1.0, seed, tests))
    return runs


def sets_of(sets):
    return [TestSet(n, sum(g.values()), len(g), "unseen events") for n, g in sets.items()]


@pytest.mark.parametrize(
    ("metric", "class_"),
    [("iou", "flooded"), ("recall", "ice"), ("precision", "dry"), ("f1", "ice"), ("accuracy", ""), ("f1_micro", ""),
     ("iou_micro", ""), ("iou_macro", ""), ("f1_macro", ""), ("iou_weighted", ""), ("f1_weighted", "")],
)  # fmt: skip
def test_each_drawing_is_scored_as_its_scenes_together(monkeypatch, metric, class_):
    """By brute force: the scenes of a drawing are added up one by one and scored by `metrics.scores`."""
    monkeypatch.setattr(module, "RESAMPLES", 40)
    rng = np.random.default_rng(3)
    sets = {"po": {"po": 7}, "many": dict.fromkeys("abcdef", 2), "few": {"x": 4}}
    runs = runs_of(rng, sets)
    for run in runs:  # a class that is nowhere has no score, and enters no mean
        for scene in run.tests["po"].scenes[:5]:
            scene.confusion[2, :] = scene.confusion[:, 2] = 0
    recipe = recipe_of(metric, class_)
    found = resampled_json(runs, recipe, sets_of(sets))
    assert {(r["test_set"], r["drawn"], r["number"]) for r in found["scores"]} >= {("many", "groups", 6)}
    assert "few" not in {r["test_set"] for r in found["scores"]}  # four scenes

    def value(counts):
        got = np.asarray(scores(counts)[metric])
        return float(got[CLASSES.index(class_)]) if class_ else float(got)

    factor = np.sqrt(6 / 5) * stats.t.ppf(0.975, 5) / stats.norm.ppf(0.975)

    def ends_of(of_each, of_all, least):
        ends = of_all + factor * (np.quantile(of_each, [0.025, 0.975]) - of_all)
        return np.clip(ends, least, 1)

    units = list("abcdef")
    drawn = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), size=40)
    means, wholes = {}, {}
    for start in ("random", "imagenet"):
        by_seed = []
        for run in (r for r in runs if r.initialization == start):
            scenes = run.tests["many"].scenes
            by_seed.append(
                [
                    value(sum(line[units.index(s.group)] * s.confusion for s in scenes))
                    for line in drawn.astype(np.int64)
                ]
            )
        means[start] = np.mean(by_seed, axis=0)
        (row,) = [r for r in found["scores"] if (r["initialization"], r["test_set"]) == (start, "many")]
        mine = [r.tests["many"].confusion for r in runs if r.initialization == start]
        wholes[start] = np.mean([value(confusion) for confusion in mine])
        np.testing.assert_allclose([row["low"], row["high"]], ends_of(means[start], wholes[start], 0))
        assert row["widened"] == pytest.approx(factor)
    (pair,) = [r for r in found["contrasts"] if r["test_set"] == "many"]
    assert (pair["a"], pair["b"]) == ("imagenet", "random")
    ends = ends_of(means["imagenet"] - means["random"], wholes["imagenet"] - wholes["random"], -1)
    np.testing.assert_allclose([pair["low"], pair["high"]], ends)


def test_scenes_of_few_events_are_drawn_within_each_event():
    """Every drawing of two events holds as many scenes of each as there are: a bad event cannot drop out."""
    good, bad = np.array([[90, 0], [0, 10]]), np.array([[50, 40], [10, 0]])
    scenes = {"good": good, "bad": bad}
    sets = {name: {name: 6} for name in scenes}
    tests = {
        name: TestScores(name, ("dry", "flooded"), tuple(SceneScore(f"{name}{i}", name, m) for i in range(6)))
        for name, m in scenes.items()
    }
    runs = [ScoredRun(start, 1.0, s, tests) for start in ("random", "imagenet") for s in range(2)]
    found = resampled_json(runs, recipe_of(), sets_of(sets))
    (row,) = [
        r for r in found["scores"] if r["test_set"] == UNSEEN_EVENTS and r["initialization"] == "random"
    ]
    whole = float(scores(6 * good + 6 * bad)["iou"][1])
    assert (row["low"], row["high"], row["drawn"], row["number"]) == (whole, whole, "scenes", 12)
    assert not resampled_json(runs, recipe_of("accuracy", "", task="classify"), sets_of(sets))["scores"]


@pytest.mark.parametrize(
    ("sizes", "factor"),
    [
        ((5,), np.sqrt(5 / 4) * 2.7764 / 1.95996),
        ((22,), np.sqrt(22 / 21) * 2.0796 / 1.95996),
        ((3, 5), np.sqrt((3 / 2 + 5 / 4) / 2) * 2.4469 / 1.95996),
    ],
)
def test_ends_are_moved_apart_by_the_table_of_t(sizes, factor):
    units = [(f"g{g}", f"s{i}") for g, size in enumerate(sizes) for i in range(size)]
    assert module.widening([*units, *units]) == pytest.approx(
        factor, rel=1e-4
    )  # a unit of several scenes is one
    assert module.widening([("", f"s{i}") for i in range(100_000)]) == pytest.approx(1, abs=1e-4)


def test_ends_are_cut_where_scores_end():
    """One scene of six is all wrong: the distance to the upper end, enlarged, would go beyond 1."""
    right, wrong = np.array([[50, 0], [0, 50]]), np.array([[0, 50], [50, 0]])
    scenes = tuple(SceneScore(f"s{i}", "one", wrong if i == 0 else right) for i in range(6))
    runs = [ScoredRun("random", 1.0, 0, {"one": TestScores("one", ("dry", "flooded"), scenes)})]
    (row,) = resampled_json(runs, recipe_of(seeds=1), [TestSet("one", 6, 1, "unseen events")])["scores"]
    assert row["high"] == 1.0
    assert 0 <= row["low"] < 5 / 7


def scene_of(rng, name, group):
    """A scene of its own size, share of water, recall and false alarms."""
    pixels = int(1000 * rng.lognormal(0, 0.7))
    wet = rng.binomial(pixels, rng.beta(4, 8))
    found, false = rng.binomial(wet, rng.beta(7, 3)), rng.binomial(pixels - wet, rng.beta(1, 9))
    return SceneScore(name, group, np.array([[pixels - wet - false, false], [wet - found, found]]))


@pytest.mark.parametrize("sizes", [(5,), (8,), (3, 3)])
def test_few_scenes_give_an_interval_that_still_holds_the_truth(monkeypatch, sizes):
    """Scenes that are independent; plain percentiles hold the truth in 80 to 85 of 100 here."""
    monkeypatch.setattr(module, "RESAMPLES", 400)
    rng = np.random.default_rng(11)
    population = sum(scene_of(rng, "s", "g").confusion for _ in range(20_000))
    truth = float(scores(population)["iou"][1])
    hits, rounds = 0, 250
    sets = [TestSet("one", sum(sizes), len(sizes), "unseen events")]
    for _ in range(rounds):
        scenes = tuple(scene_of(rng, f"{g}-{i}", f"{g}") for g, n in enumerate(sizes) for i in range(n))
        runs = [ScoredRun("random", 1.0, 0, {"one": TestScores("one", ("dry", "flooded"), scenes)})]
        (row,) = resampled_json(runs, recipe_of(seeds=1), sets, seed=int(rng.integers(1 << 30)))["scores"]
        hits += row["low"] <= truth <= row["high"]
    assert 0.90 <= hits / rounds <= 0.98


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Scenes of one population of known IoU: 95 % of 200 intervals hold it, within what 60 scenes can give."""
    rng = np.random.default_rng(8)
    hits = 0
    truth_iou = (
        0.3 * 0.7 / (0.3 + 0.7 * 0.1)
    )  # a third of pixels flooded, .7 of them found, .1 of the dry called so
    for _ in range(200):
        scenes = []
        for i in range(60):
            pixels = int(rng.integers(500, 1500))
            wet = rng.binomial(pixels, 0.3)
            found, false = rng.binomial(wet, 0.7), rng.binomial(pixels - wet, 0.1)
            counts = np.array([[pixels - wet - false, false], [wet - found, found]])
            scenes.append(SceneScore(f"s{i}", "one", counts))
        runs = [ScoredRun("random", 1.0, 0, {"one": TestScores("one", ("dry", "flooded"), tuple(scenes))})]
        (row,) = resampled_json(runs, recipe_of(seeds=1), [TestSet("one", 60, 1, "unseen events")])["scores"]
        hits += row["low"] <= truth_iou <= row["high"]
    assert 0.88 <= hits / 200 <= 0.99
