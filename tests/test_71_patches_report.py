"""What comparisons of classified patches report besides, worked out again from results.csv; nothing was measured."""

import base64
import csv
import dataclasses
import io
import itertools
import json
import math
import runpy
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from test_80_report import SCRIPT, Page, edit, make_results

from sartransfer import figures, gather, report, tables, wording
from sartransfer.catalog import Asset, Catalog, Entry, write_catalog
from sartransfer.errors import InputError
from sartransfer.evaluate import SceneScore, TestScores, write_scores
from sartransfer.plan import plan_comparison
from sartransfer.radar.units import parse_unit
from sartransfer.readers.array import write_array
from sartransfer.recipe import parse_recipe
from sartransfer.results import (
    ScoredRun,
    TestSet,
    collection_rows,
    contrasts,
    count_patches,
    describe_trainings,
    differs,
    mcnemar_rows,
    mcnemar_statements,
    pairs,
    rows_csv,
    tidy_rows,
    verdict_words,
)
from sartransfer.scene import Band
from sartransfer.statistics import crossed_half_width, crossed_mean_squares
from sartransfer.wording import UNSEEN_EVENTS

ROOT = Path(__file__).parent.parent
CLASSES = ("settlement", "bare ground", "water")
OTHER = {"from": "random", "first_layer": "mean"}  # another start that needs no file
COMBINED = {"training": {"loss": {"combined": 1.0}}}
ENTRIES = {"random": "random", "other": OTHER, "random-combined": {"from": "random", **COMBINED},
           "other-combined": {**OTHER, **COMBINED}}  # fmt: skip
FRACTIONS, SEEDS = (1.0, 0.25), (4, 1, 7)
SPLITS = {"train": (24, 4), "validation": (6, 2), "known": (24, 4), "new": (60, 5)}


def make_recipe(entries=None, **more):
    values = {
        "name": "fixture", "task": "classify", "data": {"catalog": "nowhere.csv"}, "model": {"name": "resnet18"},
        "initializations": entries or ENTRIES, "seeds": list(SEEDS), "primary": {"metric": "accuracy"},
    }  # fmt: skip
    return parse_recipe(values | more)


def make_catalog(folder):
    """Patches of noise in named collections; the test set `known` is of the collections of training."""
    folder.mkdir()
    rng = np.random.default_rng(5)
    entries = []
    for split, (count, groups) in SPLITS.items():
        town = {"known": "train"}.get(split, split)
        for i in range(count):
            values = rng.normal(size=(1, 8, 8)).astype(np.float32)
            path = write_array(
                folder / f"{split}{i}.npz", values, [Band("hh", parse_unit("sigma0_db"), "HH")]
            )
            name = CLASSES[(i * i + i // 7) % 3]
            entries.append(
                Entry(f"{split}{i}", (Asset(path),), category=name, split=split, group=f"{town}-{i % groups}")
            )
    return write_catalog(
        Catalog("patches", tuple(entries), CLASSES, source="simulated"), folder / "catalog.csv"
    )


def draw_scores(rng, entries, test_set, skill):
    """Logits of every patch, drawn; what comes of them is counted as `evaluate` does."""
    chips = []
    for entry in entries:
        label = CLASSES.index(entry.category)
        logits = rng.normal(size=len(CLASSES)).astype(np.float32)
        logits[label] += skill
        counts = np.zeros((len(CLASSES),) * 2, dtype=np.int64)
        counts[label, logits.argmax()] = 1
        chips.append(SceneScore(entry.id, entry.group, counts, logits, label))
    return TestScores(test_set, CLASSES, tuple(chips))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A comparison whose folders were written by hand, gathered: (folder, plan, scored runs)."""
    folder = tmp_path_factory.mktemp("patches")
    data = {"catalog": str(make_catalog(folder / "data")), "same_scenes": ["known"]}
    training = {"epochs": 9, "early_stop": {"patience": 3}}
    recipe = make_recipe(data=data, fractions=list(FRACTIONS), training=training)
    plan = plan_comparison(recipe, folder / "out")
    runs = []
    for number, planned in enumerate(plan.runs):
        rng = np.random.default_rng([3, number])
        skill = 0.8 + 0.7 * planned.initialization.startswith("other") + 0.4 * np.log10(planned.job.fraction)
        tests = {t: draw_scores(rng, plan.catalog.in_split(t), t, skill) for t in ("known", "new")}
        planned.folder.start(planned.identity, recipe.to_yaml(), {})
        epochs = int(rng.integers(4, 10))
        rows = [f"{e},{1 / e},{0.5 + e / 40},{rng.normal()}" for e in range(1, epochs + 1)]
        head = "epoch,validation_loss,validation_metric,learning_rate"
        (planned.folder.path / "curves.csv").write_text("\n".join([head, *rows]) + "\n")
        planned.folder.finish({"epochs": epochs, "best_epoch": epochs - 3, "seconds": 100.0 + number})
        for found in tests.values():
            write_scores(found, planned.folder.path)
        runs.append(ScoredRun(planned.initialization, planned.job.fraction, planned.job.seed, tests))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gather, "write_panels", lambda *_: [])  # there are no weights to predict with
        gather.gather(plan)
    report.write_report(folder / "out")
    return folder / "out", plan, runs


@pytest.fixture(scope="module")
def rows(done):
    return list(csv.DictReader(io.StringIO((done[0] / "results.csv").read_text())))


@pytest.fixture(scope="module")
def results(done):
    return json.loads((done[0] / "results.json").read_text())


def chip_values(rows, name, fraction, seed, test_set, metric="accuracy"):
    """The 0/1 of every patch by id, from the CSV alone."""
    head = (name, str(fraction), str(seed), test_set, metric)
    keys = ("initialization", "fraction", "seed", "test_set", "metric")
    return {r["scene"]: float(r["value"]) for r in rows if r["scene"] and tuple(r[k] for k in keys) == head}


# --- results.csv -----------------------------------------------------------------------------------


def test_of_a_patch_the_csv_holds_two_values(rows):
    runs = len(ENTRIES) * len(FRACTIONS) * len(SEEDS)
    chips = [r for r in rows if r["scene"]]
    assert {r["metric"] for r in chips} == {"accuracy", "top2"}
    assert len(chips) == runs * 2 * (SPLITS["known"][0] + SPLITS["new"][0])
    assert {float(r["value"]) for r in chips} == {0.0, 1.0}
    assert {r["class"] for r in chips} == {""}
    whole = 7 + 4 * len(CLASSES) + 1
    places = {(r["test_set"], r["group"]) for r in rows if not r["scene"]}
    known = {("known", g) for g in ("", *(f"train-{i}" for i in range(4)))}
    assert places == known | {("new", g) for g in ("", *(f"new-{i}" for i in range(5)))}
    assert len(rows) - len(chips) == runs * len(places) * whole


def test_wholes_and_collections_follow_from_the_patches(rows):
    labels = {}
    for r in rows:
        if not r["scene"] and r["metric"] in ("accuracy", "top2"):
            chips = [
                float(c["value"])
                for c in rows
                if c["scene"]
                and all(c[k] == r[k] for k in ("initialization", "fraction", "seed", "test_set", "metric"))
                and r["group"] in ("", c["group"])
            ]
            assert float(r["value"]) == pytest.approx(np.mean(chips))
            labels[r["test_set"], r["group"]] = len(chips)
    assert labels["new", "new-0"] == 12


def test_a_group_that_is_the_patch_itself_has_no_row():
    rng = np.random.default_rng(0)
    tests = {}
    for t in "ab":
        names = [(f"{t}{i}", f"{t}{i}") for i in range(9)] + [
            (f"{t}9", "harbour")
        ]  # the last: alone, but a place
        entries = [Entry(i, (Asset(Path("x")),), category="water", group=g) for i, g in names]
        tests[t] = draw_scores(rng, entries, t, 1)
    runs = [ScoredRun("random", 1.0, 0, tests)]
    sets = [TestSet(t, 10, 10, "unseen events") for t in ("a", "b")]
    found = tidy_rows(runs, sets)
    assert {(r[3], r[4]) for r in found if not r[5]} == {
        (t, g) for t in ("a", "b", UNSEEN_EVENTS) for g in ("", "harbour")
    }
    assert len([r for r in found if r[5]]) == 2 * 10 * 2


def test_scenes_keep_all_their_rows():
    """As before: everything for the whole, each group and each scene, whatever a group is called."""
    scenes = tuple(SceneScore(f"s{i}", f"s{i}", np.array([[5, i], [1, 7]])) for i in range(3))
    found = tidy_rows([ScoredRun("random", 1.0, 0, {"test": TestScores("test", CLASSES[:2], scenes)})])
    per_place = 7 + 4 * 2
    assert [(r[4], r[5]) for r in found[::per_place]] == [
        *(("", ""), ("s0", ""), ("s1", ""), ("s2", "")), *(("s0", "s0"), ("s1", "s1"), ("s2", "s2")),
    ]  # fmt: skip
    assert len(found) == 7 * per_place
    assert "top2" not in rows_csv(found)


# --- contrasts -------------------------------------------------------------------------------------


def test_losses_are_compared_from_one_start_and_starts_with_one_loss():
    recipe = make_recipe()
    assert pairs(recipe) == [
        ("other", "random"),
        ("random-combined", "random"),
        ("other-combined", "random-combined"),
        ("other-combined", "other"),
    ]
    assert [differs(recipe, a, b) for a, b in pairs(recipe)] == ["start", "training", "start", "training"]


def test_a_recipe_may_ask_for_pairs_of_other_networks_and_the_verdict_says_that_they_are():
    recipe = make_recipe()
    asked = [("random-combined", "random"), ("other", "random-combined")]
    own = {"from": "random", "model": {"name": "unet", "options": {}}}
    starts = {**recipe.to_json()["initializations"], "plain": own}
    more = [*asked, ("other", "plain"), ("random", "other")]
    wider = type(recipe).model_validate({**recipe.to_json(), "initializations": starts, "contrasts": more})
    # what is planned anyway, in whatever order, is not planned twice
    assert pairs(wider) == [*pairs(recipe), ("other", "random-combined"), ("other", "plain")]
    assert differs(wider, "other", "plain") == "network"
    assert differs(wider, "other", "random-combined") == "start and training"


def entry(start, loss=None, model=None):
    values = {"from": "random"} if start == "a" else {"from": "random", "first_layer": start}
    values |= {"training": {"loss": {loss: 1.0}}} if loss else {}
    return values | ({"model": {"name": model}} if model else {})


CASES = {
    "three losses from one start": (
        {"ce": entry("a"), "top2": entry("a", "topk_smooth"), "both": entry("a", "combined")}, {},
        [("top2", "ce"), ("both", "ce")],
    ),
    "the baseline's start and training come first, whatever the order": (
        {"b-top2": entry("mean", "topk_smooth"), "b": entry("mean"), "a-top2": entry("a", "topk_smooth"),
         "a": entry("a")}, {"baseline": "a"},
        [("b-top2", "a-top2"), ("b-top2", "b"), ("b", "a"), ("a-top2", "a")],
    ),
    "an override that changes nothing is none": (
        {"a": entry("a"), "b": entry("mean", "cross_entropy")}, {}, [("b", "a")],
    ),
    "two that share nothing, and nothing closer": (
        {"a": entry("a"), "b-top2": entry("mean", "topk_smooth")}, {}, [("b-top2", "a")],
    ),
    "an island is tied to the base by one pair": (
        {"a": entry("a"), "b-top2": entry("mean", "topk_smooth"), "c-top2": entry("conv1x1", "topk_smooth")}, {},
        [("b-top2", "a"), ("c-top2", "b-top2")],
    ),
    "never across networks": (
        {"a": entry("a"), "a-top2": entry("a", "topk_smooth"), "wide": entry("a", model="resnet34"),
         "wide-top2": entry("a", "topk_smooth", "resnet34")}, {},
        [("a-top2", "a"), ("wide-top2", "wide")],
    ),
    "without trainings of their own: as before": (
        {"u-b": entry("mean", model="resnet34"), "a": entry("a"), "u-a": entry("a", model="resnet34"),
         "b": entry("mean")}, {"baseline": "a"},
        [("u-a", "u-b"), ("b", "a")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_pairs(case):
    entries, more, expected = CASES[case]
    recipe = make_recipe(entries, **more)
    assert pairs(recipe) == expected
    for a, b in expected:
        closer = [
            n for n in entries
            if n != a and recipe.model_of(n) == recipe.model_of(a) and differs(recipe, a, n) != "start and training"
        ]  # fmt: skip
        assert differs(recipe, a, b) != "start and training" or not closer or b == recipe.baseline_name


def test_a_difference_in_both_says_so():
    recipe = make_recipe({"a": entry("a"), "b-top2": entry("mean", "topk_smooth")}, seeds=6)
    rng = np.random.default_rng(1)
    chips = [
        Entry(f"c{i}", (Asset(Path("x")),), category=CLASSES[i % 3], group=f"g{i % 4}") for i in range(40)
    ]
    runs = [
        ScoredRun(n, 1.0, s, {"t": draw_scores(rng, chips, "t", 1 + (n == "a"))})
        for n in recipe.initializations
        for s in recipe.seeds
    ]
    sets = [TestSet("t", 40, 4, "unseen events")]
    (found,) = contrasts(runs, recipe, sets)
    assert found["differs"] == "start and training"
    words = verdict_words(recipe, [found], sets)
    assert "(start and training differ, and the recipe has no closer baseline)" in words[0]
    plain = make_recipe({"a": entry("a"), "b-top2": entry("mean")}, seeds=6)
    (same,) = contrasts(runs, plain, sets)
    assert "differs" not in same
    assert "closer baseline" not in verdict_words(plain, [same], sets)[0]
    assert {k: v for k, v in found.items() if k != "differs"} == same


def test_contrasts_follow_from_the_patches(rows, results):
    """The sign flip and t intervals by seed, and by seed and collection, from the 0/1 of every patch."""
    assert len(results["contrasts"]) == 4 * len(FRACTIONS) * 2
    for c in results["contrasts"]:
        sides = [
            [chip_values(rows, c[k], c["fraction"], s, c["test_set"]) for s in SEEDS] for k in ("a", "b")
        ]
        d = np.array(
            [np.mean(list(x.values())) - np.mean(list(y.values())) for x, y in zip(*sides, strict=True)]
        )
        assert c["per_seed"] == pytest.approx(d)
        here, new = c["statements"]
        assert (here["low"], here["high"]) == pytest.approx(stats.t.interval(0.95, 2, d.mean(), stats.sem(d)))
        groups = {r["scene"]: r["group"] for r in rows if r["scene"] and r["test_set"] == c["test_set"]}
        if c["test_set"] == "known":
            assert new["verdict"] == "not estimable"
            continue
        e = np.array([
            [np.mean([x[i] - y[i] for i in x if groups[i] == g]) for g in sorted(set(groups.values()))]
            for x, y in zip(*sides, strict=True)
        ])  # fmt: skip
        half = float(crossed_half_width(*crossed_mean_squares(e), *e.shape))
        assert (new["low"], new["high"]) == pytest.approx((e.mean() - half, e.mean() + half))


# --- patch by patch --------------------------------------------------------------------------------


def exact_p(only_a, only_b):
    """Two-sided binomial p, added up over every outcome that is no likelier than the one seen."""
    n = only_a + only_b
    ways = [math.comb(n, k) for k in range(n + 1)]
    return sum(w for w in ways if w <= ways[only_a]) / 2**n


def hand_holm(p_values):
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    out, reached = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        reached = max(reached, min(1.0, p_values[i] * (len(p_values) - rank)))
        out[i] = reached
    return out


def test_mcnemar_follows_from_the_patches(rows, results, done):
    planned = pairs(done[1].recipe)
    keys = [(m["a"], m["b"], m["fraction"], m["test_set"], m["seed"]) for m in results["mcnemar"]]
    assert keys == [
        (a, b, f, t, s)
        for f in FRACTIONS
        for t in ("known", "new")
        for a, b in planned
        for s in (*SEEDS, None)
    ]
    for m in results["mcnemar"]:
        if m["seed"] is None:
            continue
        a, b = (chip_values(rows, m[k], m["fraction"], m["seed"], m["test_set"]) for k in ("a", "b"))
        only_a, only_b = sum(a[i] > b[i] for i in a), sum(b[i] > a[i] for i in a)
        assert (m["only_a"], m["only_b"], m["patches"]) == (only_a, only_b, len(a))
        assert m["p_value"] == pytest.approx(exact_p(only_a, only_b))
        assert m["p_value"] == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)
    for start in range(0, len(keys), len(SEEDS) + 1):
        seeds = results["mcnemar"][start : start + len(SEEDS)]
        assert [m["p_adjusted"] for m in seeds] == pytest.approx(hand_holm([m["p_value"] for m in seeds]))


def test_the_vote_of_the_seeds_is_tested_too(results, done):
    runs = {(r.initialization, r.fraction, r.seed): r for r in done[2]}

    def voted(name, fraction, test_set):
        members = [runs[name, fraction, s].tests[test_set].scenes for s in SEEDS]
        right = []
        for chips in zip(*members, strict=True):
            votes = Counter(int(c.logits.argmax()) for c in chips)
            shares = np.mean([np.exp(c.logits) / np.exp(c.logits).sum() for c in chips], axis=0)
            best = max(votes.values())
            winner = max((k for k in votes if votes[k] == best), key=lambda k: shares[k])
            right.append(winner == chips[0].label)
        return np.array(right)

    found = [m for m in results["mcnemar"] if m["seed"] is None]
    assert len(found) == 4 * len(FRACTIONS) * 2
    for m in found:
        a, b = (voted(m[k], m["fraction"], m["test_set"]) for k in ("a", "b"))
        assert (m["only_a"], m["only_b"]) == (int((a & ~b).sum()), int((b & ~a).sum()))
        assert m["p_value"] == pytest.approx(exact_p(m["only_a"], m["only_b"]))
        assert (m["members"], m["p_adjusted"]) == (3, None)


def test_seeds_are_joined_to_one_statement():
    def one(seed, only_a, only_b, p, adjusted):
        return {"a": "x", "b": "y", "fraction": 1.0, "test_set": "t", "seed": seed, "patches": 200, "only_a": only_a,
                "only_b": only_b, "p_value": p, "p_adjusted": adjusted}  # fmt: skip

    seeds = [one(0, 20, 2, 0.001, 0.004), one(1, 9, 8, 1.0, 1.0), one(2, 3, 30, 0.0005, 0.002)]
    seeds.append(one(3, 12, 6, 0.2, 0.4))
    vote = one(None, 15, 3, 0.0075, None) | {"members": 4}
    (found,) = mcnemar_statements([*seeds, vote])
    assert (found["seeds"], found["significant"], found["for_a"]) == (4, 2, 1)
    assert found["median_p"] == pytest.approx(0.1005)
    assert found["words"] == (
        "Of 200 patches x alone has 10.5 right and y alone 7 (median over 4 seeds, median p = .1). 2 of 4 seeds tell"
        " them apart at p < 0.05 after Holm over the seeds: 1 for x and 1 for y. The majority vote of the 4 seeds: 15"
        " against 3, p = .0075."
    )
    (quiet,) = mcnemar_statements([one(0, 9, 8, 1.0, 1.0)])
    assert quiet["words"].endswith(
        "(median over 1 seed, median p = 1). No seed tells them apart at p < 0.05."
    )
    assert quiet["majority"] is None


def test_several_unseen_test_sets_are_tested_together_and_pixels_never():
    recipe = make_recipe({"a": "random", "b": OTHER}, seeds=2)
    rng = np.random.default_rng(2)
    parts = {
        t: [Entry(f"{t}{i}", (Asset(Path("x")),), category=CLASSES[i % 3]) for i in range(20)] for t in "uv"
    }
    for t, entries in parts.items():
        parts[t] = [dataclasses.replace(e, group=f"{t}{i % 3}") for i, e in enumerate(entries)]
    runs = [
        ScoredRun(n, 1.0, s, {t: draw_scores(rng, e, t, 1) for t, e in parts.items()})
        for n, s in itertools.product(recipe.initializations, recipe.seeds)
    ]
    sets = [TestSet(t, 20, 3, "unseen events") for t in "uv"]
    found = mcnemar_rows(runs, recipe, sets)
    cells = {(m["test_set"], m["seed"]): (m["only_a"], m["only_b"]) for m in found}
    for seed in recipe.seeds:
        assert cells[UNSEEN_EVENTS, seed] == tuple(np.add(cells["u", seed], cells["v", seed]))
    assert {m["test_set"] for m in mcnemar_rows(runs, recipe, [sets[0]])} == {"u"}
    scenes = (SceneScore("s", "e", np.eye(3, dtype=np.int64)),)
    pixels = [dataclasses.replace(r, tests={"u": TestScores("u", CLASSES, scenes)}) for r in runs]
    assert mcnemar_rows(pixels, recipe, [sets[0]]) == []
    runs[0].tests["u"] = dataclasses.replace(runs[0].tests["u"], scenes=runs[0].tests["u"].scenes[1:])
    with pytest.raises(InputError, match="scored on different patches"):
        mcnemar_rows(runs, recipe, [sets[0]])


# --- collections, counts, trainings ----------------------------------------------------------------


def test_collections_follow_from_the_patches(rows, results):
    found = results["patches"]["collections"]
    assert len(found) == len(ENTRIES) * len(FRACTIONS) * (4 + 5)
    groups = {r["scene"]: r["group"] for r in rows if r["scene"]}
    for c in found:
        by_seed = []
        for seed in SEEDS:
            chips = chip_values(rows, c["initialization"], c["fraction"], seed, c["test_set"])
            mine = [v for i, v in chips.items() if groups[i] == c["group"]]
            by_seed.append(np.mean(mine))
        assert c["values"] == pytest.approx(by_seed)
        assert (c["patches"], c["mean"]) == (len(mine), pytest.approx(np.mean(by_seed)))
        if np.ptp(by_seed) > 0:
            expected = stats.t.interval(0.95, 2, np.mean(by_seed), stats.sem(by_seed))
            assert (c["low"], c["high"]) == pytest.approx(expected)
    entries = [Entry(f"c{i}", (Asset(Path("x")),), category="water", group=f"c{i}") for i in range(4)]
    alone = ScoredRun("random", 1.0, 4, {"t": draw_scores(np.random.default_rng(0), entries, "t", 1)})
    assert collection_rows([alone], make_recipe()) == []


def test_patches_are_counted_by_class_split_and_collection(done, results):
    catalog = done[1].catalog
    assert results["patches"]["counts"] == count_patches(catalog)
    for row in count_patches(catalog):
        count, groups = SPLITS[row["split"]]
        assert (row["patches"], row["collections"]) == (count, groups)
        found = Counter(e.category for e in catalog.entries if e.split == row["split"])
        assert row["classes"] == [found[c] for c in CLASSES]
    for groups in (None, "own"):
        mine = [dataclasses.replace(e, group=e.id if groups else None) for e in catalog.entries]
        assert {r["collections"] for r in count_patches(catalog.with_entries(mine))} == {None}


@pytest.mark.parametrize(
    ("augment", "data", "words"),
    [
        ({}, {}, "without augmentation"),
        ({"flips": True}, {}, "flips"),
        ({"flips": True, "rotations": True, "gain": 0.4}, {}, "flips, quarter turns, contrast ±40 %"),
        ({"shift": 0.9, "band_shift": 0.5}, {}, "brightness ±0.9 sd, brightness of single bands ±0.5 sd"),
        ({"flips": True}, {"patch": {"size": 128}}, "random crops of 128 px, flips"),
        ({}, {"patch": {"size": 128, "redraw": False}}, "fixed random crops of 128 px"),
    ],
)  # fmt: skip
def test_augmentation_is_said_in_words(augment, data, words):
    recipe = make_recipe(data={"catalog": "x.csv"} | data, training={"augment": augment})
    assert {t["augmentation"] for t in describe_trainings(recipe).values()} == {words}


def test_trainings_and_what_makes_epochs_incomparable(tmp_path, results):
    from sartransfer.results.trainings import training_notes

    slow = {"from": "random", "training": {
        "loss": {"topk_smooth": 1.0}, "loss_options": {"topk_smooth": {"tau": 0.5}}, "sampler": "balanced",
        "class_weights": "complement", "bootstrap": True, "optimizer": {"lr": 1e-5, "encoder_lr": 1e-6},
    }}  # fmt: skip
    recipe = make_recipe({"random": "random", "slow": slow}, data={
        "catalog": "x.csv", "chip": 80, "label_noise": {"share": 0.2},
    }, training={"loss": {"cross_entropy": 0.5, "focal": 1.0}}, prediction={"views": 8})  # fmt: skip
    first, second = describe_trainings(recipe).values()
    assert first["loss"] == "0.5 × cross-entropy + focal"
    assert second["loss"] == "topk smooth (tau 0.5)"
    assert second["sampler"] == "balanced, with replacement, from a bootstrap sample"
    assert second["learning_rate"] == "1e-05, encoder 1e-06 (adamw, constant)"
    assert second["class_weights"] == "complement"
    assert (first["input"], first["prediction"]) == ("centres of 80 × 80 px", "mean of 8 flips and turns")
    assert first["stop"] == "at most 30 epochs, no early stop"
    noise, pace = training_notes(recipe)
    assert noise.startswith(
        "20% of the training labels of each class were made wrong on purpose (to any other class)"
    )
    assert pace.startswith("slow and random differ in training.optimizer too")
    assert results["patches"]["notes"] == []  # the losses of the fixture share their rates
    assert results["patches"]["trainings"]["other"]["stop"] == "at most 9 epochs, or 3 without a better one"


# --- the report ------------------------------------------------------------------------------------


def percents(values):
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    low, high = np.mean(values) - half, np.mean(values) + half
    return f"{100 * np.mean(values):.2f} [{100 * low:.2f}, {100 * high:.2f}]".replace("-", "−")


@pytest.fixture(scope="module")
def page(done):
    return Page(done[0] / "report.html")


def test_the_tables_hold_the_scores_of_the_csv(page, rows):
    section = page.text[page.text.index("Patches by class and split") :]
    for name, (count, _) in SPLITS.items():
        assert name in section
        assert str(count) in section
    whole = [r for r in rows if not r["scene"] and not r["group"] and not r["class"]]
    for fraction in FRACTIONS:
        for name, test_set in itertools.product(ENTRIES, ("known", "new")):
            cells = []
            for metric in ("f1_macro", "f1_weighted", "accuracy", "top2"):
                keys = ("initialization", "fraction", "test_set", "metric")
                values = [
                    float(r["value"])
                    for r in whole
                    if tuple(r[k] for k in keys) == (name, str(fraction), test_set, metric)
                ]
                assert len(values) == len(SEEDS)
                cells.append(percents(values))
            assert " ".join(cells) in section
    assert (
        "The same for all entries: without augmentation; input: whole patches; class weights: none"
        in page.text
    )
    assert "length: at most 9 epochs, or 3 without a better one" in page.text


def test_epochs_and_ensembles_are_in_the_tables(page, results):
    for row in tables.epoch_rows(results, 1.0):
        runs = [r for r in results["runs"] if (r["initialization"], r["fraction"]) == (row["name"], 1.0)]
        for key in ("best_epoch", "epochs", "seconds"):
            values = [r[key] for r in runs]
            found = row[key]
            assert (found["median"], found["low"], found["high"]) == (
                np.median(values),
                min(values),
                max(values),
            )
        median, low, high = (f"{row['epochs'][k]:g}" for k in ("median", "low", "high"))
        assert f"{median} {low} to {high}" in page.text
    assert len(results["ensembles"]) == len(ENTRIES) * len(FRACTIONS) * 2
    for e in results["ensembles"]:
        words = f"{100 * e['accuracy']:.2f} [{100 * e['low']:.2f}, {100 * e['high']:.2f}]"
        assert words in page.text
    assert "ensemble of 3" in page.text


def test_every_section_on_patches_is_there(page, results):
    assert not page.open
    assert "patches" in {s["id"] for s in page.named("section")}
    assert "#patches" in {a["href"] for a in page.named("a")}
    order = ["What may be said", "How the entries were trained", "Patches by class and split", "Scores in percent",
             "Epochs and time until the stop", "Final accuracy in percent", "Accuracy by collection: new",
             "Patch by patch", "What may be said at each share of the labels", "Learning curves"]  # fmt: skip
    places = [page.text.index(words) for words in order]
    assert places == sorted(places)
    for m in results["patches"]["mcnemar"]:
        assert m["words"] in page.text
    assert "Accuracy by collection: known (same scenes)" in page.text
    assert "about 6 patches" in page.text  # a quarter of 24
    assert "same start" in page.text
    assert "same training" in page.text


def test_every_fraction_has_its_verdicts(page, results):
    shown = page.text[page.text.index("What may be said at each share of the labels") :]
    shown = shown[: shown.index("Learning curves")]
    assert shown.count("on this test set:") == len(results["contrasts"])
    for c in results["contrasts"]:
        for s in c["statements"]:
            if s["mean"] is not None:
                assert wording.estimate_words(s, sign=True) in shown


def test_what_comes_from_outside_is_escaped(done, tmp_path):
    """Names of classes, collections, test sets; a mark-up in any of them stays words."""
    text = (done[0] / "results.json").read_text()
    evil = f"{SCRIPT}$x_1$&'"
    for word in ("settlement", "new-1", "train-2", "without augmentation", "validation"):
        assert f'"{word}"' in text
        text = text.replace(f'"{word}"', json.dumps(f"{word}{evil}"))
    text = text.replace('"random-combined"', json.dumps(f"random-combined{evil}"))
    (tmp_path / "results.json").write_text(text)
    edit(tmp_path, lambda r: r.update(fractions=[1.0]))
    path = report.write_report(tmp_path)
    page = Page(path)
    assert "<script" not in path.read_text()
    assert page.named("script") == []
    assert f"new-1{evil}" in page.text
    assert f"settlement{evil}" in page.text
    svgs = [i["src"] for i in page.named("img") if i["src"].startswith("data:image/svg+xml;base64,")]
    assert len(svgs) >= 8  # differences, scores, stops, two of collections, curves, two of confusion
    for svg in svgs:
        root = ElementTree.fromstring(base64.b64decode(svg.split(",", 1)[1]))
        assert not [e for e in root.iter() if e.tag.endswith("script")]


def test_a_comparison_of_scenes_shows_nothing_of_this(tmp_path):
    """Its page has the sections that it had, and not a byte more."""
    folder = make_results(tmp_path, starts=2, test_sets=1, panels=False)
    html = report.write_report(folder).read_text()
    sections = [s["id"] for s in Page(folder / "report.html").named("section")]
    assert sections == [
        *("statements", "differences", "scores", "curves", "confusion", "panels", "loading", "runs", "data"),
        *("looks", "recipe", "environment", "warnings"),
    ]
    for word in ("McNemar", "Patch", "collection", "augmentation", '<nav aria-label="Sections" style'):
        assert word not in html
    edit(folder, lambda r: r.update(patches={"counts": []}, mcnemar=[{}]))
    assert report.write_report(folder).read_text() == html
    assert not [p for p in report.write_figures(folder, tmp_path / "f") if "stop" in p.name]


def test_results_from_before_still_make_a_page(tmp_path):
    folder = make_results(tmp_path, task="classify", panels=False)
    page = Page(report.write_report(folder))
    assert "Scores in percent" in page.text
    assert "Patch by patch" not in page.text
    edit(folder, lambda r: r.update(table=[], contrasts=[], runs=[], confusion=[], verdict=[]))
    assert "Patches" in Page(report.write_report(folder)).text


# --- figures ---------------------------------------------------------------------------------------


def test_the_figure_of_stops_is_bold_until_the_first_seed_stops(results):
    figure = figures.draw_stopping(results, 1.0)
    axes = figure.get_axes()[0]
    lines = [x for x in axes.get_lines() if x.get_linestyle() == "-" and x.get_linewidth() == 1.8]
    assert len(lines) == len(ENTRIES)
    for name, line in zip(ENTRIES, lines, strict=True):
        runs = [r for r in results["runs"] if (r["initialization"], r["fraction"]) == (name, 1.0)]
        together = min(r["epochs"] for r in runs)
        assert line.get_xdata().tolist() == list(range(1, together + 1))
        expected = np.mean([r["curves"]["validation_metric"][:together] for r in runs], axis=0)
        np.testing.assert_allclose(line.get_ydata(), expected)
    stops = sorted(
        float(x.get_xdata()[0]) for x in axes.get_lines() if len(x.get_xdata()) == 1 and x.get_marker()
    )
    marked = sorted(float(r["epochs"]) for r in results["runs"] if r["fraction"] == 1.0)
    assert Counter(marked) - Counter(stops) == Counter()
    bars = figure.get_axes()[-1].patches
    assert [b.get_width() for b in bars] == [
        np.median([r["epochs"] for r in results["runs"] if (r["initialization"], r["fraction"]) == (n, 1.0)])
        for n in ENTRIES
    ]
    assert figures.draw_stopping(results | {"runs": []}, 1.0) is None


def test_collections_are_drawn_loss_against_loss(results):
    figure = figures.draw_collections(results, 1.0, "new")
    titles = [a.get_title(loc="left") for a in figure.get_axes()]
    assert titles == ["random / random-combined", "other / other-combined"]
    labels = [t.get_text() for t in figure.get_axes()[0].get_yticklabels()]
    assert sorted(labels) == [f"new-{i} (12)" for i in range(5)]
    plain = results | {
        "contrasts": [{k: v for k, v in c.items() if k != "differs"} for c in results["contrasts"]]
    }
    assert len(figures.draw_collections(plain, 1.0, "new").get_axes()) == 1
    assert figures.draw_collections(results, 1.0, "nowhere") is None


def test_label_efficiency_of_another_metric(results):
    figure = figures.draw_label_efficiency(results, "top2")
    for axes, test_set in zip(figure.get_axes(), ("known", "new"), strict=True):
        means = {
            tuple(line.get_ydata())
            for line in axes.get_lines()
            if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"
        }
        expected = {
            tuple(
                next(
                    r["mean"] for r in results["table"]
                    if (r["initialization"], r["fraction"], r["test_set"], r["metric"]) == (n, f, test_set, "top2")
                )
                for f in sorted(FRACTIONS)
            )
            for n in ENTRIES
        }  # fmt: skip
        assert means == expected


def test_the_plots_are_written_as_files(done, tmp_path):
    names = {p.name for p in report.write_figures(done[0], tmp_path / "f")}
    assert {
        "until-the-stop.png",
        "collections-new.png",
        "collections-known.png",
        "label-efficiency.png",
    } <= names


# --- words and the Markdown tables -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "words"),
    [(1.0, "1"), (0.0312, ".031"), (0.0081, ".0081"), (0.5, ".5"), (9e-5, "< .0001"), (0.0, "< .0001")],
)
def test_p_words(p, words):
    assert wording.p_words(p) == words


@pytest.mark.parametrize(
    ("value", "words"), [(0.83214, "83.21"), (1.0, "100.00"), (-0.0012, "−0.12"), (-1e-9, "0.00"), (None, "undefined")]
)  # fmt: skip
def test_percent_words(value, words):
    assert wording.percent_words(value) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "–"), (0, "0 s"), (0.0004, "< 0.01 s"), (0.234, "0.23 s"), (9.94, "9.9 s"), (9.96, "10 s"), (45, "45 s"),
     (119.4, "119 s"), (120, "2 min"), (600, "10 min"), (3569, "59 min"), (3571, "1 h 00 min"), (9000, "2 h 30 min")],
)  # fmt: skip
def test_duration_words(seconds, words):
    assert wording.duration_words(seconds) == words


def table_of(folder, capsys):
    runpy.run_path(str(ROOT / "results" / "table.py"))["main"](folder)
    return capsys.readouterr().out


def test_the_markdown_table_holds_the_same(done, rows, results, capsys):
    text = table_of(done[0], capsys)
    assert len({line.count("|") for line in text.split("known, 100")[1].split("\n\n")[1].splitlines()}) == 1
    for fraction, name, test_set in itertools.product(FRACTIONS, ENTRIES, ("known", "new")):
        values = [np.mean(list(chip_values(rows, name, fraction, seed, test_set).values())) for seed in SEEDS]
        assert percents(values).replace("−", "-") in text
    for m in results["patches"]["mcnemar"]:
        assert (
            f"| {m['a']} - {m['b']} | {m['test_set']} | {m['only_a']:g} | {m['only_b']:g} | {m['median_p']:.2g} |"
            in text
        )
    for e in results["ensembles"]:
        assert f"| {e['initialization']} | {e['test_set']} | 3 | {100 * e['accuracy']:.2f} [" in text


def test_the_markdown_table_of_scenes_is_as_it_was(tmp_path, capsys):
    text = table_of(make_results(tmp_path, panels=False), capsys)
    assert text.startswith(
        "iou of flooded: mean over seeds and 95 % t interval\n\n| initialization | test-a |"
    )
    assert "McNemar" not in text
