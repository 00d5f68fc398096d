"""What a comparison of several contrasts may say of new events, of what it says so, and which shares it takes."""

import itertools
import json

import numpy as np
import pytest
from scipy import stats
from test_80_report import make_results

from sartransfer.errors import RecipeError, SartransferError
from sartransfer.evaluate import SceneScore, TestScores
from sartransfer.recipe import parse_recipe
from sartransfer.report import write_report
from sartransfer.results import ScoredRun, TestSet, contrasts, resampled_json, verdict_words
from sartransfer.results.corrected import adjusted_new, crossed_p
from sartransfer.statistics import compare_paired, crossed_interval
from sartransfer.wording import estimate_words, verdict_parts

CLASSES = ("dry", "flooded")
PIXELS = 20_000


def make_recipe(starts=2, *, seeds=6, **more):
    return parse_recipe({
        "name": "fixture", "task": "segment", "data": {"catalog": "nowhere.csv"}, "model": {"name": "resnet18-aspp"},
        "initializations": dict.fromkeys(["random", *"abcdefgh"][:starts], "random"), "seeds": seeds,
        "primary": {"metric": "accuracy"},
    } | more)  # fmt: skip


def runs_of(recipe, accuracy, test_set="test"):
    """Make runs of `accuracy` (starts, seeds, groups): one scene an event, PIXELS each; NaN: none counted."""
    runs = []
    places = itertools.product(enumerate(recipe.initializations), enumerate(recipe.seeds))
    for (i, start), (j, seed) in places:
        scenes = []
        for g, share in enumerate(accuracy[i, j]):
            right = 0 if np.isnan(share) else round(PIXELS * share)
            wrong = 0 if np.isnan(share) else PIXELS - right
            scenes.append(SceneScore(f"s{g}", f"e{g:02d}", np.array([[right, wrong], [0, 0]])))
        runs.append(ScoredRun(start, 1.0, seed, {test_set: TestScores(test_set, CLASSES, tuple(scenes))}))
    return runs


def null(rng, starts, seeds=8, groups=20):
    """Draw accuracies of starts that are alike: seeds, events, events of a start, and the rest move them."""
    shape = (starts, seeds, groups)
    parts = [rng.normal(0, 0.02, (starts, seeds, 1)), rng.normal(0, 0.05, (1, 1, groups))]
    parts += [rng.normal(0, 0.03, (starts, 1, groups)), rng.normal(0, 0.03, shape)]
    return np.clip(0.6 + sum(parts), 0, 1)


# --- several contrasts -----------------------------------------------------------------------------


def test_with_five_contrasts_five_percent_of_comparisons_err_on_new_events():
    """All starts alike, five against the first: any better or worse in at most 5 % (and binomial slack)."""
    rng = np.random.default_rng(11)
    comparisons = 400
    uncorrected = corrected = 0
    for _ in range(comparisons):
        x = null(rng, 6)
        p = adjusted_new([x[k] - x[0] for k in range(1, 6)], 5)
        new = [
            compare_paired(
                x[k].mean(1), x[0].mean(1), x[k], x[0], events_unseen=True, p_adjusted_new=p[k - 1]
            )[1]
            for k in range(1, 6)
        ]
        uncorrected += any(s.interval.excludes_zero for s in new)
        corrected += any(s.verdict in ("better", "worse") for s in new)
    most = stats.binom.ppf(0.99, comparisons, 0.05)
    assert corrected <= most
    assert uncorrected > most  # the draw can tell


def test_the_interval_stays_and_the_reason_tells_of_the_correction():
    """Of five contrasts: what is clear stays so; what is clear at 95 % alone is not, and says why."""
    rng = np.random.default_rng(0)
    recipe = make_recipe(6, seeds=8)
    told = set()
    for _ in range(8):
        x = null(rng, 6, groups=8)
        x[1] = np.clip(x[1] + 0.2, 0, 1)
        x[2:4] += 0.025
        found = contrasts(runs_of(recipe, x), recipe, [TestSet("test", 8, 8, "unseen events")])
        assert found[0]["statements"][1]["verdict"] == "better"
        for c in found:
            s = c["statements"][1]
            a, b = (list(recipe.initializations).index(c[k]) for k in "ab")
            d = np.round(PIXELS * x)[a] / PIXELS - np.round(PIXELS * x)[b] / PIXELS
            whole = crossed_interval(d)
            assert (s["low"], s["high"]) == pytest.approx((whole.low, whole.high))  # 95 %, corrected or not
            if whole.excludes_zero and s["p_adjusted"] > 0.05:
                assert s["verdict"] == "too few runs to tell"
                assert "it does not survive the correction for several contrasts" in s["reason"]
                assert f"Holm-adjusted p = {s['p_adjusted']:.3g}" in s["reason"]
                told.add("not")
            elif whole.excludes_zero:
                assert s["verdict"] in ("better", "worse")
            else:
                assert s["verdict"] not in ("better", "worse")
    assert told


def test_the_adjusted_p_is_at_least_as_kind_as_bonferroni_and_counts_what_is_missing():
    x = null(np.random.default_rng(5), 4)
    x[1] = np.clip(x[1] + 0.05, 0, 1)
    recipe = make_recipe(4, seeds=8)
    described = [TestSet("test", 20, 20, "unseen events")]
    runs = runs_of(recipe, x)
    found = {c["a"]: c["statements"][1]["p_adjusted"] for c in contrasts(runs, recipe, described)}
    p = {a: crossed_p(np.round(PIXELS * x)[i] / PIXELS - np.round(PIXELS * x)[0] / PIXELS)
         for i, a in enumerate("abc", start=1)}  # fmt: skip
    reached = 0.0
    for rank, a in enumerate(sorted(p, key=p.__getitem__)):
        reached = max(reached, min(1.0, (3 - rank) * p[a]))
        assert found[a] == pytest.approx(reached)
    left = [r for r in runs if r.initialization != "c"]  # of c no run has finished: still three were planned
    (first, _) = contrasts(left, recipe, described)
    assert first["statements"][1]["p_adjusted"] == pytest.approx(min(1, 3 * p["a"]))


def test_one_contrast_is_not_corrected():
    """As `compare_paired` has it without any correction, to the last word."""
    rng = np.random.default_rng(2)
    recipe = make_recipe(2, seeds=8)
    for shift in (0.0, 0.03, 0.1):
        x = np.round(PIXELS * np.clip(null(rng, 2) + np.array([0, shift])[:, None, None], 0, 1)) / PIXELS
        (found,) = contrasts(runs_of(recipe, x), recipe, [TestSet("test", 20, 20, "unseen events")])
        whole = x.mean(axis=2)
        expected = compare_paired(whole[1], whole[0], x[1], x[0], events_unseen=True)
        for got, statement in zip(found["statements"], expected, strict=True):
            assert (got["verdict"], got["reason"]) == (statement.verdict, statement.reason)
            assert got["p_adjusted"] is None
            interval = statement.interval
            assert (got["low"], got["high"]) == pytest.approx((interval.low, interval.high))
        assert "Holm" not in found["statements"][1]["reason"]
        assert "groups_left_out" not in found


@pytest.mark.parametrize(("seeds", "groups"), [(2, 2), (6, 5), (8, 20), (4, 1000)])
def test_the_crossed_p_is_where_the_interval_ends_at_zero(seeds, groups):
    rng = np.random.default_rng(seeds * groups)
    for mean in (0.0, 0.01, -0.05):
        d = (
            mean
            + rng.normal(0, 0.02, (seeds, 1))
            + rng.normal(0, 0.02, (1, groups))
            + rng.normal(0, 0.02, (seeds, groups))
        )
        p = crossed_p(d)
        assert crossed_p(-d) == pytest.approx(p)
        if p > 1e-9:
            assert crossed_interval(d, 1 - min(1.001 * p, 1 - 1e-9)).excludes_zero
            assert not crossed_interval(d, 1 - 0.999 * p).excludes_zero
    assert crossed_p(np.zeros((3, 4))) == 1
    assert crossed_p(np.full((3, 4), 0.25)) == 0
    assert crossed_p(rng.normal(1, 1e-9, (8, 200))) == pytest.approx(1e-12)
    d = rng.normal(size=(6, 4))
    assert crossed_p(d - d.mean()) == pytest.approx(1)
    with pytest.raises(SartransferError, match="2 or more"):
        crossed_p(np.zeros((3, 1)))


# --- of what a statement is made -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("relation", "words"),
    [
        ("same scenes", "The groups were also seen in training"),
        ("not known", "Nothing says whether training has seen"),
        ("labels of a rule", "The labels come from a rule"),
    ],
)
def test_nothing_of_new_events_for_the_reason_that_there_is(relation, words):
    recipe = make_recipe()
    (found,) = contrasts(
        runs_of(recipe, null(np.random.default_rng(0), 2, 6, 4)), recipe, [TestSet("test", 4, 4, relation)]
    )
    new = found["statements"][1]
    assert new["verdict"] == "not estimable"
    assert new["reason"].startswith(words)
    if relation != "same scenes":
        assert "seen in training" not in new["reason"]


@pytest.mark.parametrize("seeds", [2, 6])
def test_the_verdict_counts_the_events_that_have_a_score(seeds):
    recipe = make_recipe(seeds=seeds)
    x = null(np.random.default_rng(4), 2, seeds, 4)
    described = [TestSet("test", 4, 4, "unseen events")]
    whole = verdict_words(recipe, contrasts(runs_of(recipe, x), recipe, described), described)
    assert f"{seeds} seeds, 4 events, each counting alike." in whole[1]
    x[:, :, 2] = np.nan
    (found,) = contrasts(runs_of(recipe, x), recipe, described)
    assert (found["groups"], found["groups_left_out"]) == (4, 1)
    words = verdict_words(recipe, [found], described)
    assert (
        f"{seeds} seeds, 3 events (1 left out, where the score is undefined), each counting alike."
        in words[1]
    )
    assert "4 events" not in " ".join(words)


# --- shares of the labels --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fractions", "named"),
    [
        ([1, 1.0, 0.5], "1.0 and 1.0"),
        ([0.50001, 0.50002], "0.50001 and 0.50002"),
        ([1, 0.99999], "1.0 and 0.99999"),
    ],
)
def test_shares_that_would_be_one_folder_are_refused(fractions, named):
    with pytest.raises(RecipeError, match=rf"(?s)fractions.*{named}"):
        make_recipe(fractions=fractions)
    assert make_recipe(fractions=[1, 0.5, 0.5001]).fractions == (1.0, 0.5, 0.5001)


# --- scenes drawn again ----------------------------------------------------------------------------


def scenes_of(sizes, rng):
    """Two starts, two seeds, one test set of `sizes` scenes per event."""
    recipe = make_recipe(seeds=2)
    runs = []
    for start in recipe.initializations:
        for seed in recipe.seeds:
            scenes = tuple(
                SceneScore(f"e{g}-{i}", f"e{g}", rng.integers(1, 90, (2, 2)))
                for g, size in enumerate(sizes)
                for i in range(size)
            )
            runs.append(ScoredRun(start, 1.0, seed, {"test": TestScores("test", CLASSES, scenes)}))
    return recipe, runs, [TestSet("test", sum(sizes), len(sizes), "unseen events")]


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ((3, 1, 1, 1), "3 of 4 groups have fewer than 3 scenes"),
        ((9, 1), "1 of 2 groups has fewer than 3 scenes"),
        ((3, 2), "1 of 2 groups has fewer than 3 scenes"),
        ((3, 3), None),
        ((5,), None),
        ((2, 1, 1, 1, 1), None),  # five events: these are drawn
        ((1, 1, 1, 1, 1), None),  # five scenes, of no event two
    ],
)
def test_too_few_scenes_of_a_group_have_no_interval(sizes, reason):
    recipe, runs, described = scenes_of(sizes, np.random.default_rng(1))
    found = resampled_json(runs, recipe, described)
    assert [r["initialization"] for r in found["scores"]] == ["random", "a"]
    assert [(r["a"], r["b"]) for r in found["contrasts"]] == [("a", "random")]
    for row in found["scores"] + found["contrasts"]:
        assert row.get("reason") == reason
        assert (row["low"] is None) == (row["high"] is None) == bool(reason)
        if not reason:
            assert row["low"] < row["high"]
    few = scenes_of((2, 1, 1), np.random.default_rng(1))
    assert resampled_json(few[1], few[0], few[2]) == {"scores": [], "contrasts": []}


# --- words of the page -----------------------------------------------------------------------------


def test_the_headline_is_the_verdict_without_place_and_reason():
    recipe = make_recipe(seeds=2)
    described = [TestSet("test", 4, 4, "unseen events")]
    found = contrasts(runs_of(recipe, null(np.random.default_rng(4), 2, 2, 4)), recipe, described)
    sentences = verdict_words(recipe, found, described)
    parts = verdict_parts(sentences, found)
    for sentence, (place, said, reason), statement in zip(
        sentences, parts, found[0]["statements"], strict=True
    ):
        assert sentence == f"{place}: {said} {reason}"  # nothing is lost
        assert place.startswith("On ")
        assert said.startswith("a against random: too few runs to tell. accuracy ")
        assert said.endswith("seeds." if place.startswith("On this") else "events, each counting alike.")
        assert reason == statement["reason"]
    assert verdict_parts(["Nothing to compare."], found) == [("", "Nothing to compare.", "")]
    clear = "On this test set, test: a is better than random: accuracy +0.100 [+0.050, +0.150], 6 seeds."
    assert verdict_parts([clear], found) == [("On this test set, test", clear[24:], "")]
    assert verdict_parts([], []) == [("", "The results hold no verdict.", "")]


def test_intervals_of_scores_end_where_scores_do():
    row = {"mean": 0.13, "low": -1.58, "high": 1.85}
    assert estimate_words(row, cut=True) == ".13 [.00, 1.00]"
    assert estimate_words(row, sign=True) == "+.13 [\N{MINUS SIGN}1.58, +1.85]"
    assert estimate_words({"mean": 0.712, "low": 0.690, "high": 0.734}, cut=True) == ".712 [.690, .734]"
    assert estimate_words({"mean": 0.98, "low": 0.95, "high": 1.01}, cut=True) == ".980 [.950, 1.000]"


def test_the_page_says_it_in_a_line_and_cuts_scores_but_no_differences(tmp_path):
    """On the results of a report's fixture, changed to those of an undecided comparison."""
    folder = make_results(tmp_path, starts=2, test_sets=1, panels=False)
    results = json.loads((folder / "results.json").read_text())
    (contrast,) = results["contrasts"]
    statement = contrast["statements"][0]
    statement |= {
        "verdict": "too few runs to tell",
        "low": -1.7,
        "high": 1.7,
        "reason": "Two seeds tell nothing.",
    }
    results["verdict"] = [
        "On this test set, test-a: optical against random: too few runs to tell. IoU +0.030 [-1.700, +1.700],"
        " 2 seeds. Two seeds tell nothing."
    ]
    for row in results["table"]:
        row |= {"mean": 0.13, "low": -1.58, "high": 1.85}
    results["resampled"] = {
        "scores": [
            {"initialization": "random", "fraction": 1.0, "test_set": "test-a", "drawn": "scenes", "number": 5,
             "low": None, "high": None, "reason": "3 of 4 groups have fewer than 3 scenes"},
            {"initialization": "optical", "fraction": 1.0, "test_set": "test-a", "drawn": "scenes", "number": 5,
             "low": 0.1, "high": 0.2, "widened": 1.437},
        ],
        "contrasts": [],
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    page = write_report(folder).read_text()
    headline = page.split('<p class="headline">')[1].split("</p>")[0]
    assert headline == ("optical against random: too few runs to tell. IoU +0.030 [-1.700, +1.700], 2 seeds.")
    assert '<p class="place">On this test set, test-a</p>' in page
    assert '<p class="reason because">Two seeds tell nothing.</p>' in page
    assert "1.58" not in page.split("</svg>")[-1]
    assert ".13 [.00, 1.00]" in page
    assert page.count("Intervals of scores over seeds are cut at 0 and 1") == 1
    assert "[\N{MINUS SIGN}1.70, +1.70]" in page
    assert ".130 (no interval)" in page
    assert "3 of 4 events have fewer than 3 scenes" in page
    assert "moved away from the value, here to 1.44 times their distance" in page
    assert "results.csv does not give these intervals back" in page
