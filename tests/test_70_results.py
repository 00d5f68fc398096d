"""From fabricated scores to rows, contrasts and words; every interval worked out again from the CSV alone."""

import csv
import io
import itertools
import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as peer

from sartransfer.evaluate import SceneScore, TestScores
from sartransfer.recipe import parse_recipe
from sartransfer.results import (
    ScoredRun,
    TestSet,
    contrasts,
    pairs,
    rows_csv,
    score_table,
    tidy_rows,
    value_of,
    verdict_words,
)
from sartransfer.statistics import crossed_half_width, crossed_mean_squares
from sartransfer.wording import UNSEEN_EVENTS, metric_words

HEADER = "initialization,fraction,seed,test_set,group,scene,class,metric,value"
PER_CLASS = {"precision", "recall", "f1", "iou"}
WHOLE = {"accuracy", "f1_micro", "f1_macro", "f1_weighted", "iou_micro", "iou_macro", "iou_weighted"}
CLASSES = ("dry", "flooded")


def make_recipe(starts=("random", "imagenet"), *, seeds=6, metric="iou", class_="flooded", **more):
    primary = {"metric": metric} | ({"class": class_} if class_ else {})
    starts = starts if isinstance(starts, dict) else dict.fromkeys(starts, "random")
    values = {
        "name": "fixture", "task": "segment", "data": {"catalog": "nowhere.csv"}, "model": {"name": "resnet18-aspp"},
        "initializations": starts, "seeds": seeds, "primary": primary,
    }  # fmt: skip
    return parse_recipe(values | more)


def matrix(rng, share, pixels=4000, flooded=0.3):
    """A 2 x 2 confusion of one scene, of which about `share` of the flooded and of the dry are found."""
    positive = int(pixels * flooded)
    hit, quiet = rng.binomial(positive, share), rng.binomial(pixels - positive, share)
    return np.array([[quiet, pixels - positive - quiet], [positive - hit, hit]])


def make_runs(recipe, sets, *, seed=0, effect=None, sd=(0.01, 0.03, 0.01)):
    """Draw scores of every run: seeds, scenes and (seed, scene) move the share that is found.

    `sets`: name -> {group: scenes}. `effect`: start -> added share. `sd`: of seed, scene and residual.
    """
    rng = np.random.default_rng(seed)
    level = {
        (t, g, i): 0.8 + sd[1] * rng.normal()
        for t, gs in sets.items()
        for g, n in gs.items()
        for i in range(n)
    }
    runs = []
    for start, fraction, number in itertools.product(recipe.initializations, recipe.fractions, recipe.seeds):
        shift = (effect or {}).get(start, 0) + sd[0] * rng.normal()
        tests = {}
        for test_set, groups in sets.items():
            scenes = []
            for group, count in groups.items():
                for i in range(count):
                    share = np.clip(level[test_set, group, i] + shift + sd[2] * rng.normal(), 0, 1)
                    scenes.append(SceneScore(f"{test_set}-{group}-{i}", group, matrix(rng, share)))
            tests[test_set] = TestScores(test_set, CLASSES, tuple(scenes))
        runs.append(ScoredRun(start, fraction, number, tests))
    return runs


def describe(sets, **relations):
    return [TestSet(t, sum(g.values()), len(g), relations.get(t, "unseen events")) for t, g in sets.items()]


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


SETS = {"test": {"e0": 2, "e1": 1, "e2": 3}, "albania": {"e3": 2}, "guyana": {"e4": 1, "e5": 2}}
RELATIONS = {"test": "same scenes"}


# --- rows ------------------------------------------------------------------------------------------


def test_rows_have_the_columns_and_metrics_that_are_promised():
    recipe = make_recipe()
    runs = make_runs(recipe, SETS)
    text = rows_csv(tidy_rows(runs))
    assert text.splitlines()[0] == HEADER
    rows = read(text)
    assert {r["metric"] for r in rows if r["class"]} == PER_CLASS
    assert {r["metric"] for r in rows if not r["class"]} == WHOLE
    assert {r["class"] for r in rows} == {"", *CLASSES}
    places = {(r["test_set"], r["group"], r["scene"]) for r in rows}
    expected = {(t, "", "") for t in SETS}
    expected |= {(t, g, "") for t, groups in SETS.items() for g in groups}
    expected |= {
        (t, g, f"{t}-{g}-{i}") for t, groups in SETS.items() for g, n in groups.items() for i in range(n)
    }
    assert places == expected
    per_place = len(WHOLE) + len(PER_CLASS) * len(CLASSES)
    assert len(rows) == len(runs) * len(expected) * per_place
    assert len({tuple(r[c] for c in r if c != "value") for r in rows}) == len(rows)  # one row a value
    assert text == rows_csv(tidy_rows(make_runs(recipe, SETS)))


def test_rows_are_sklearns_on_the_pixels_that_were_counted():
    recipe = make_recipe()
    runs = make_runs(recipe, SETS)
    rows = read(rows_csv(tidy_rows(runs)))
    table = {tuple(r[c] for c in HEADER.split(",")[:-1]): r["value"] for r in rows}
    run = runs[7]
    head = (run.initialization, "1.0", str(run.seed))
    found = run.tests["guyana"]
    scenes = {("", ""): found.scenes, ("e5", ""): [s for s in found.scenes if s.group == "e5"]}
    scenes |= {(s.group, s.id): [s] for s in found.scenes}
    for (group, scene), members in scenes.items():
        counts = sum(s.confusion for s in members)
        truth = np.repeat([0, 0, 1, 1], counts.ravel())
        guess = np.repeat([0, 1, 0, 1], counts.ravel())

        def value(metric, class_="", place=(group, scene)):
            return float(table[(*head, "guyana", *place, class_, metric)])

        assert value("accuracy") == pytest.approx(peer.accuracy_score(truth, guess))
        for name, function in (("f1", peer.f1_score), ("iou", peer.jaccard_score)):
            for average in ("micro", "macro", "weighted"):
                assert value(f"{name}_{average}") == pytest.approx(function(truth, guess, average=average))
        for metric, function in (
            ("precision", peer.precision_score),
            ("recall", peer.recall_score),
            ("f1", peer.f1_score),
            ("iou", peer.jaccard_score),
        ):
            by_class = function(truth, guess, average=None)
            assert [value(metric, c) for c in CLASSES] == pytest.approx(by_class)


def test_what_is_undefined_is_an_empty_field():
    dry = TestScores("test", CLASSES, (SceneScore("s", "e", np.array([[50, 0], [0, 0]])),))
    rows = read(rows_csv(tidy_rows([ScoredRun("random", 1.0, 0, {"test": dry})])))
    values = {(r["metric"], r["class"]): r["value"] for r in rows if not r["group"]}
    assert {k for k, v in values.items() if v == ""} == {(m, "flooded") for m in PER_CLASS}
    assert values["accuracy", ""] == "1.0"
    assert (
        value_of(dry, make_recipe(metric="iou_macro", class_="").primary) == 1
    )  # of the class that is there


def chip_runs(recipe, *, seed=0, chips=30, groups=3):
    rng = np.random.default_rng(seed)
    classes = ("ship", "ice", "sea")
    runs = []
    for start, number in itertools.product(recipe.initializations, recipe.seeds):
        scenes = []
        for i in range(chips):
            label = i % 3
            logits = rng.normal(size=3).astype(np.float32)
            logits[label] += 1
            counts = np.zeros((3, 3), dtype=np.int64)
            counts[label, logits.argmax()] = 1
            scenes.append(SceneScore(f"c{i}", f"g{i // 4 % groups}", counts, logits, label))
        runs.append(ScoredRun(start, 1.0, number, {"test": TestScores("test", classes, tuple(scenes))}))
    return runs


def test_chips_have_top2_rows():
    recipe = make_recipe(metric="top2", class_="", task="classify", model={"name": "resnet18"})
    runs = chip_runs(recipe)
    rows = read(rows_csv(tidy_rows(runs)))
    assert {r["metric"] for r in rows if not r["class"]} == WHOLE | {"top2"}
    found = runs[3].tests["test"]
    for group in ("", "g1"):
        members = [s for s in found.scenes if group in ("", s.group)]
        expected = peer.top_k_accuracy_score(
            [s.label for s in members], np.stack([s.logits for s in members]), k=2, labels=[0, 1, 2]
        )
        (row,) = [
            r for r in rows
            if (r["initialization"], r["seed"], r["group"], r["scene"], r["metric"])
            == (runs[3].initialization, str(runs[3].seed), group, "", "top2")
        ]  # fmt: skip
        assert float(row["value"]) == pytest.approx(expected)
    assert value_of(found, recipe.primary) == found.top2()


# --- everything from the CSV alone -----------------------------------------------------------------


def hand_holm(p_values):
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    out, reached = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        reached = max(reached, min(1.0, p_values[i] * (len(p_values) - rank)))
        out[i] = reached
    return out


def sign_flip(d):
    sums = np.array(list(itertools.product((1, -1), repeat=len(d)))) @ d
    return float(np.mean(np.abs(sums) >= abs(d.sum()) - 1e-12 * np.abs(d).sum()))


def scores_from(rows, start, fraction, test_set, group, primary, seeds):
    wanted = (start, str(float(fraction)), test_set, group, "", primary.metric, primary.class_)
    keys = ("initialization", "fraction", "test_set", "group", "scene", "metric", "class")
    found = {int(r["seed"]): r["value"] for r in rows if tuple(r[k] for k in keys) == wanted}
    return np.array([float(found[s]) if found[s] else math.nan for s in seeds])


def check_again(text, results, recipe, test_sets):
    """Work every contrast out again from the CSV's text, and compare; return the verdicts seen."""
    rows = read(text)
    unseen = {t.name: t.events_unseen for t in test_sets} | {UNSEEN_EVENTS: True}
    verdicts = []
    families = {}
    for c in results:
        families.setdefault((c["fraction"], c["test_set"]), []).append(c)
    planned = len(pairs(recipe))
    for (fraction, test_set), family in families.items():
        whole = []
        for c in family:
            a, b = (scores_from(rows, c[k], fraction, test_set, "", recipe.primary, c["seeds"]) for k in "ab")
            whole.append(a - b)
        usable = [np.isfinite(d).all() and len(d) > 1 for d in whole]
        p = [
            float(stats.ttest_1samp(d, 0).pvalue) if ok else 1.0 for d, ok in zip(whole, usable, strict=True)
        ]
        adjusted = hand_holm(p + [1.0] * (planned - len(p)))
        for c, d, ok, p_holm in zip(family, whole, usable, adjusted, strict=False):
            n = len(d)
            assert [x if x is not None else math.nan for x in c["per_seed"]] == pytest.approx(d, nan_ok=True)
            if not ok:
                verdicts += [s["verdict"] for s in c["statements"]]
                continue
            assert c["difference"] == pytest.approx(d.mean())
            assert c["effect_size"] == pytest.approx(d.mean() / d.std(ddof=1))
            here, anew = c["statements"]
            half = stats.t.ppf(0.975, n - 1) * stats.sem(d)
            assert (here["low"], here["high"]) == pytest.approx((d.mean() - half, d.mean() + half))
            assert here["p_value"] == sign_flip(d)
            assert here["p_adjusted"] == (pytest.approx(p_holm) if planned > 1 else None)
            apart = abs(d.mean()) > half and sign_flip(d) <= 0.05 and (planned < 2 or p_holm <= 0.05)
            assert here["verdict"] == word(d.mean(), half, apart, n, recipe.margin)
            groups = sorted({r["group"] for r in rows if r["test_set"] == test_set and r["group"]})
            assert c["groups"] == len(groups)
            place = (c["fraction"], test_set)
            sides = [
                [scores_from(rows, c[k], *place, g, recipe.primary, c["seeds"]) for g in groups] for k in "ab"
            ]
            e = np.transpose(np.subtract(*sides))
            if held_out := next((t.held_out for t in test_sets if t.name == test_set), ()):  # folds
                places = [
                    [groups.index(g) for g in of if np.isfinite(e[:, groups.index(g)]).all()]
                    for of in held_out
                ]
                e = np.stack([e[:, of].mean(axis=1) for of in places if of], axis=1)
            e = e[:, np.isfinite(e).all(axis=0)]
            if not unseen[test_set] or e.shape[1] < 2:
                assert (anew["verdict"], anew["mean"], anew["low"]) == ("not estimable", None, None)
            else:
                half = float(crossed_half_width(*crossed_mean_squares(e), *e.shape))
                assert anew["mean"] == pytest.approx(e.mean())
                assert (anew["low"], anew["high"]) == pytest.approx((e.mean() - half, e.mean() + half))
                apart = abs(e.mean()) > half and sign_flip(e.mean(axis=1)) <= 0.05
                assert anew["verdict"] == word(e.mean(), half, apart, n, recipe.margin)
            verdicts += [here["verdict"], anew["verdict"]]
    return verdicts


def word(mean, half, apart, seeds, margin):
    if seeds < 6:
        return "too few runs to tell"
    if apart:
        return "better" if mean > 0 else "worse"
    return (
        "no difference found" if -margin <= mean - half and mean + half <= margin else "too few runs to tell"
    )


CASES = [  # starts and their effects, seeds, margin
    ({"random": 0, "imagenet": 0.1}, 6, 0.01),
    ({"random": 0, "imagenet": 0.05, "sar": -0.1, "other": 0}, 7, 0.01),
    ({"random": 0, "imagenet": 0.0}, 8, 0.5),
    ({"random": 0, "imagenet": 0.1}, 5, 0.01),
]


@pytest.mark.parametrize(("effect", "seeds", "margin"), CASES)
def test_every_interval_and_verdict_follows_from_the_csv(effect, seeds, margin):
    recipe = make_recipe(tuple(effect), seeds=seeds, margin=margin, fractions=[1.0, 0.1])
    sets = describe(SETS, **RELATIONS)
    runs = make_runs(recipe, SETS, effect=effect, seed=seeds)
    found = contrasts(runs, recipe, sets)
    text = rows_csv(tidy_rows(runs, sets))
    assert len(found) == 2 * (len(SETS) + 1) * (len(effect) - 1)
    verdicts = check_again(text, found, recipe, sets)
    assert "not estimable" in verdicts
    if seeds == 5:
        assert not {"better", "worse", "no difference found"} & set(verdicts)
    if margin == 0.5:
        assert "no difference found" in verdicts
    if len(effect) > 2:
        assert {"better", "worse"} <= set(verdicts)


def test_ties_between_sign_patterns_survive_the_csv():
    """Thirds and sixths: rounded to six digits, equal sums would differ and the p would change."""
    recipe = make_recipe(("random", "imagenet"), metric="accuracy", class_="")
    runs = chip_runs(recipe, chips=9)
    sets = [TestSet("test", 9, 3, "unseen events")]
    found = contrasts(runs, recipe, sets)
    check_again(rows_csv(tidy_rows(runs, sets)), found, recipe, sets)
    d = np.array(found[0]["per_seed"])
    assert len(set(np.abs(d * 9).round(6))) < len(d)  # ties there are


def test_undefined_groups_follow_from_the_csv_too():
    recipe = make_recipe(("random", "imagenet", "sar"))
    runs = make_runs(recipe, {"test": {f"e{i}": 1 for i in range(5)}}, effect={"imagenet": 0.1})
    for run in runs[:9]:  # in some runs of two starts event e1 is dry, and called dry: IoU of flooded is 0/0
        scenes = list(run.tests["test"].scenes)
        scenes[1] = SceneScore("dry", "e1", np.array([[4000, 0], [0, 0]]))
        run.tests["test"] = TestScores("test", CLASSES, tuple(scenes))
    sets = [TestSet("test", 5, 5, "unseen events")]
    found = contrasts(runs, recipe, sets)
    check_again(rows_csv(tidy_rows(runs, sets)), found, recipe, sets)
    for c in found:
        assert c["groups"] == 5
        reason = c["statements"][1]["reason"]
        assert (
            "4 events (1 event left out, where the score is undefined, for one of the two starts only)"
            in reason
        )


# --- contrasts -------------------------------------------------------------------------------------


def test_pairs_stay_within_a_network():
    unet = {"name": "unet-resnet18"}
    recipe = make_recipe(
        {
            "aspp-random": "random",
            "unet-random": {"from": "random", "model": unet},
            "aspp-imagenet": {"from": "torchvision", "name": "resnet18"},
            "unet-imagenet": {"from": "torchvision", "name": "resnet18", "model": unet},
            "wide": {"from": "random", "model": {"name": "unet-resnet18", "options": {"dropout": 0.5}}},
        }
    )
    assert pairs(recipe) == [("aspp-imagenet", "aspp-random"), ("unet-imagenet", "unet-random")]
    one = make_recipe(("a", "b", "c"), baseline="b")
    assert pairs(one) == [("a", "b"), ("c", "b")]
    spelled = make_recipe({"a": "random", "b": {"from": "random", "model": {"name": "resnet18-aspp"}}})
    assert pairs(spelled) == [("b", "a")]  # the recipe's network, said again


def test_unseen_events_are_pooled_and_no_others():
    recipe = make_recipe()
    runs = make_runs(recipe, SETS, effect={"imagenet": 0.05})
    sets = describe(SETS, **RELATIONS)
    found = {c["test_set"]: c for c in contrasts(runs, recipe, sets)}
    assert list(found) == ["test", "albania", "guyana", UNSEEN_EVENTS]
    assert found[UNSEEN_EVENTS]["groups"] == 3
    for seed, value in zip(recipe.seeds, found[UNSEEN_EVENTS]["per_seed"], strict=True):
        iou = {}
        for r in runs:
            if r.seed == seed:
                counts = r.tests["albania"].confusion + r.tests["guyana"].confusion
                iou[r.initialization] = counts[1, 1] / (counts.sum() - counts[0, 0])
        assert value == pytest.approx(iou["imagenet"] - iou["random"])
    assert [c["test_set"] for c in contrasts(runs, recipe, sets[:2])] == ["test", "albania"]
    pooled = [r for r in read(rows_csv(tidy_rows(runs, sets))) if r["test_set"] == UNSEEN_EVENTS]
    assert {(r["group"], r["scene"]) for r in pooled} == {("", ""), ("e3", ""), ("e4", ""), ("e5", "")}
    assert not [r for r in tidy_rows(runs, sets[:2]) if r[3] == UNSEEN_EVENTS]


def test_one_event_or_seen_ones_say_nothing_of_new_events():
    recipe = make_recipe()
    sets = {"test": {f"e{i}": 2 for i in range(6)}, "albania": {"e9": 8}}
    runs = make_runs(recipe, sets, effect={"imagenet": 0.15})
    for relation in ("same scenes", "not known"):
        test, albania = contrasts(runs, recipe, describe(sets, test=relation))
        assert [s["verdict"] for s in test["statements"]] == ["better", "not estimable"]
        assert [s["verdict"] for s in albania["statements"]] == ["better", "not estimable"]
        told = {"same scenes": "also seen in training", "not known": "Nothing says whether training has seen"}
        assert told[relation] in test["statements"][1]["reason"]
        assert "only one event" in albania["statements"][1]["reason"]


def test_a_seed_that_one_start_lacks_is_left_out():
    recipe = make_recipe(("random", "imagenet", "sar"), seeds=[4, 9, 2, 7, 1, 0, 3])
    runs = make_runs(recipe, SETS)
    runs = [r for r in runs if (r.initialization, r.seed) != ("imagenet", 9)]
    sets = describe(SETS, **RELATIONS)
    found = contrasts(list(reversed(runs)), recipe, sets)
    assert found == contrasts(runs, recipe, sets)  # the order of the runs is nothing
    seeds = {c["a"]: c["seeds"] for c in found}
    assert seeds == {"imagenet": [4, 2, 7, 1, 0, 3], "sar": [4, 9, 2, 7, 1, 0, 3]}
    check_again(rows_csv(tidy_rows(runs, sets)), found, recipe, sets)


def test_holm_counts_the_planned_contrasts_even_where_one_cannot_be_tested():
    """A start whose runs failed, or whose score is undefined, must not lift the correction off the others."""
    recipe = make_recipe(("random", "a", "b", "c"))
    sets = {"test": {"e0": 1, "e1": 1, "e2": 1}}
    runs = make_runs(recipe, sets, effect={"a": 0.03, "b": 0.02})
    described = describe(sets)
    runs = [r for r in runs if r.initialization != "c"]  # none of c has finished
    runs = [r for r in runs if (r.initialization, r.seed > 0) != ("b", True)]  # one of b has
    found = {c["a"]: c for c in contrasts(runs, recipe, described)}
    assert list(found) == ["a", "b"]
    p = stats.ttest_1samp(found["a"]["per_seed"], 0).pvalue
    assert found["a"]["statements"][0]["p_adjusted"] == pytest.approx(min(1, 3 * p))
    assert found["b"]["statements"][0]["p_adjusted"] is None
    two = make_recipe(("random", "a"))
    alone = contrasts([r for r in runs if r.initialization != "b"], two, described)[0]
    assert alone["statements"][0]["p_adjusted"] is None  # one planned contrast needs no correction


def test_one_seed_is_no_verdict():
    recipe = make_recipe(seeds=1)
    (found,) = contrasts(
        make_runs(recipe, {"test": {"e0": 2, "e1": 2}}), recipe, [TestSet("test", 4, 2, "x")]
    )
    assert [s["verdict"] for s in found["statements"]] == ["too few runs to tell"]
    assert found["effect_size"] is None
    assert found["difference"] is not None


def test_a_score_that_is_undefined_everywhere_is_not_estimable():
    recipe = make_recipe()
    dry = TestScores("test", CLASSES, (SceneScore("s", "e", np.array([[50, 0], [0, 0]])),))
    runs = [ScoredRun(i, 1.0, s, {"test": dry}) for i in recipe.initializations for s in recipe.seeds]
    (found,) = contrasts(runs, recipe, [TestSet("test", 1, 1, "unseen events")])
    assert (found["difference"], found["effect_size"], found["per_seed"]) == (None, None, [None] * 6)
    assert [s["verdict"] for s in found["statements"]] == ["not estimable"] * 2
    table = score_table(runs, recipe, tidy_rows(runs))
    (row,) = [
        r for r in table if (r["initialization"], r["metric"], r["class"]) == ("random", "iou", "flooded")
    ]
    assert (row["mean"], row["low"], row["n_seeds"], row["values"]) == (None, None, 0, [None] * 6)


def test_the_table_is_the_mean_over_seeds_with_its_t_interval():
    recipe = make_recipe(seeds=[3, 1, 2])
    runs = make_runs(recipe, SETS)[:-1]  # one run of imagenet is missing: seed 2
    for row in score_table(runs, recipe, tidy_rows(runs)):
        values = [v for v in row["values"] if v is not None]
        assert row["n_seeds"] == len(values) == (3 if row["initialization"] == "random" else 2)
        assert row["mean"] == pytest.approx(np.mean(values))
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert (row["low"], row["high"]) == pytest.approx((low, high))
        assert row["sd"] == pytest.approx(np.std(values, ddof=1))
        if (row["metric"], row["class"]) == ("iou", "flooded"):
            own = {r.seed: r for r in runs if r.initialization == row["initialization"]}
            expected = [
                value_of(own[s].tests[row["test_set"]], recipe.primary) if s in own else None
                for s in (3, 1, 2)
            ]
            assert row["values"] == expected
    (alone,) = {r["low"] for r in score_table(runs[:1], recipe, tidy_rows(runs[:1]))}
    assert alone is None


# --- words -----------------------------------------------------------------------------------------


def test_the_verdict_rests_on_the_unseen_and_says_both_things():
    recipe = make_recipe()
    runs = make_runs(recipe, SETS, effect={"imagenet": 0.1})
    sets = describe(SETS, **RELATIONS)
    words = verdict_words(recipe, contrasts(runs, recipe, sets), sets)
    assert len(words) == 3
    assert words[2].startswith("Each test set is judged at 95% by itself: there are 6 statements in all")
    here = "unseen events (albania, guyana)"
    assert words[0].startswith(
        f"On this test set, {here}: imagenet is better than random: IoU of flooded +0."
    )
    assert words[1].startswith(f"On new events, {here}: imagenet ")
    assert "6 seeds" in words[0]
    assert "6 seeds, 3 events" in words[1]


def test_without_unseen_events_the_verdict_says_so():
    recipe = make_recipe()
    sets = {"test": SETS["test"]}
    described = describe(sets, test="same scenes")
    words = verdict_words(recipe, contrasts(make_runs(recipe, sets), recipe, described), described)
    assert words[0].startswith("On this test set, test: imagenet against random: ")
    assert "not estimable" in words[1]
    assert (
        words[-1]
        == "No test set holds unseen events: how the starts compare on a new event is not estimable."
    )
    assert "Nothing to compare" in verdict_words(recipe, [], described)[-1]


def test_worse_and_fractions_are_worded():
    recipe = make_recipe(fractions=[1.0, 0.25])
    sets = {"test": {f"e{i}": 2 for i in range(6)}}
    described = describe(sets)
    found = contrasts(make_runs(recipe, sets, effect={"imagenet": -0.15}), recipe, described)
    words = verdict_words(recipe, found, described)
    assert words[0].startswith(
        "On this test set, test with 100% of the labels: imagenet is worse than random: "
    )
    assert words[3].startswith("On new events, test with 25% of the labels: imagenet is worse than random: ")


@pytest.mark.parametrize(
    ("metric", "class_", "words"),
    [
        ("iou", "flooded", "IoU of flooded"),
        ("f1_macro", "", "F1 (macro)"),
        ("top2", "", "top-2 accuracy"),
        ("accuracy", "", "accuracy"),
        ("recall", "dry", "recall of dry"),
    ],
)
def test_metrics_are_called_what_people_call_them(metric, class_, words):
    assert metric_words(metric, class_) == words


# --- the whole path, a thousand times --------------------------------------------------------------


def simulate(comparisons, *, seeds=6, groups=6, effect=0.0, sd=(0.01, 0.02, 0.01), fixed=False, first=0):
    """Draw comparisons of two starts, whole: pixels counted, scored, paired and judged; return the verdicts.

    The draw: the share of pixels found is .8 + a scene's own + a run's own + a (run, scene)'s own + the
    effect, which differs from event to event by `sd[1]`; `fixed` makes those differences cancel on the test
    set, so that the truth there is the effect itself.
    """
    recipe = make_recipe(seeds=seeds, metric="accuracy", class_="")
    described = [TestSet("test", groups, groups, "unseen events")]
    rng = np.random.default_rng([77, first])
    verdicts = []
    for _ in range(comparisons):
        level = 0.8 + 0.03 * rng.normal(size=groups)
        between = sd[1] * rng.normal(size=groups)
        if fixed:
            between -= between.mean()
        runs = []
        for start in recipe.initializations:
            moved = effect + between if start == "imagenet" else 0.0
            # differences of two runs shall have the stated deviations: each side carries half the variance
            run = sd[0] / math.sqrt(2) * rng.normal(size=(seeds, 1))
            rest = sd[2] / math.sqrt(2) * rng.normal(size=(seeds, groups))
            found = rng.binomial(20_000, np.clip(level + moved + run + rest, 0, 1))
            for seed in recipe.seeds:
                scenes = tuple(
                    SceneScore(f"s{g}", f"e{g}", np.array([[n, 20_000 - n], [0, 0]]))
                    for g, n in enumerate(found[seed])
                )
                runs.append(ScoredRun(start, 1.0, seed, {"test": TestScores("test", CLASSES, scenes)}))
        (contrast,) = contrasts(runs, recipe, described)
        verdicts.append([s["verdict"] for s in contrast["statements"]])
    return verdicts


def test_under_the_null_at_most_five_percent_are_called_better():
    """A thousand comparisons without an effect of the start, for each statement under its own null."""
    on_this_set = [v[0] for v in simulate(1000, fixed=True)]
    on_new_events = [v[1] for v in simulate(1000, first=1)]
    for verdicts in (on_this_set, on_new_events):
        assert verdicts.count("better") <= 50
        assert verdicts.count("better") + verdicts.count("worse") <= 50
        assert set(verdicts) <= {"better", "worse", "too few runs to tell", "no difference found"}


def test_an_effect_is_called_better_in_at_least_eighty_percent():
    """Four points, where seeds differ by one, events by two and the rest by one; 6 seeds, 6 events."""
    verdicts = simulate(400, effect=0.04, first=2)
    for scope in (0, 1):
        said = [v[scope] for v in verdicts]
        assert said.count("better") >= 0.8 * len(said)
        assert "worse" not in said


def test_five_seeds_are_never_certain():
    for verdicts in simulate(50, seeds=5, effect=0.1, first=3):
        assert verdicts == ["too few runs to tell"] * 2


def test_one_event_is_never_enough_for_new_events():
    for verdicts in simulate(50, groups=1, effect=0.1, first=4):
        assert verdicts == ["better", "not estimable"]
