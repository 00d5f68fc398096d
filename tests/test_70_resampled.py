"""Intervals over test scenes: against one drawing at a time, and how often they hold the truth."""

import numpy as np
import pytest

from sartransfer.evaluate import SceneScore, TestScores
from sartransfer.metrics import scores
from sartransfer.recipe import parse_recipe
from sartransfer.results import UNSEEN, ScoredRun, TestSet, resampled_json
from sartransfer.results import resampled as module

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

    units = list("abcdef")
    drawn = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), size=40)
    means = {}
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
        np.testing.assert_allclose([row["low"], row["high"]], np.quantile(means[start], [0.025, 0.975]))
    (pair,) = [r for r in found["contrasts"] if r["test_set"] == "many"]
    assert (pair["a"], pair["b"]) == ("imagenet", "random")
    ends = np.quantile(means["imagenet"] - means["random"], [0.025, 0.975])
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
    (row,) = [r for r in found["scores"] if r["test_set"] == UNSEEN and r["initialization"] == "random"]
    whole = float(scores(6 * good + 6 * bad)["iou"][1])
    assert (row["low"], row["high"], row["drawn"], row["number"]) == (whole, whole, "scenes", 12)
    assert not resampled_json(runs, recipe_of("accuracy", "", task="classify"), sets_of(sets))["scores"]


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
