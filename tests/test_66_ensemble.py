"""Ensembles and calibration against brute force, closed forms and peers; and as comparisons write them."""

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from scipy.optimize import minimize_scalar
from sklearn import metrics as peer

from sartransfer import comparison
from sartransfer.calibration import (
    brier_score,
    fit_temperature,
    log_softmax,
    negative_log_likelihood,
    predictive_entropy,
    score_calibration,
)
from sartransfer.catalog import Asset, Catalog, Entry, write_catalog
from sartransfer.certainty import calibration_json, ensembles_json
from sartransfer.cli import scoring
from sartransfer.comparison import compare
from sartransfer.contract import InputBand, InputContract
from sartransfer.ensemble import COLUMNS, EnsembleScores, evaluate_ensemble, join_scores, write_predictions
from sartransfer.errors import CatalogError, InputError
from sartransfer.evaluate import SceneScore, TestScores, evaluate_checkpoint, read_scores
from sartransfer.metrics import expected_calibration_error, scores, softmax
from sartransfer.models import build_model, read_checkpoint, write_checkpoint
from sartransfer.radar.units import parse_unit
from sartransfer.readers.array import write_array
from sartransfer.recipe import parse_recipe
from sartransfer.results import ScoredRun
from sartransfer.scene import Band

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ("ship", "ice", "sea", "land")
BANDS = tuple(Band(n, parse_unit("sigma0_db"), n.upper()) for n in ("vv", "vh"))


def make_logits(seed=0, samples=300, classes=4, skill=1.5, scale=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, samples)
    return scale * (rng.normal(size=(samples, classes)) + skill * np.eye(classes)[labels]), labels


def make_member(logits, labels, test_set="test", classes=CLASSES):
    """The scores of one network on chips, as `evaluate_checkpoint` leaves them."""
    found = []
    for i, (row, label) in enumerate(zip(np.asarray(logits, dtype=np.float32), labels, strict=True)):
        confusion = np.zeros((len(classes),) * 2, dtype=np.int64)
        confusion[label, row.argmax()] = 1
        found.append(SceneScore(f"chip{i}", f"g{i % 5}", confusion, row, int(label)))
    return TestScores(test_set, classes, tuple(found))


def make_members(number=5, samples=200, skill=1.0):
    """Networks that see the same patches, each with an error of its own."""
    rng = np.random.default_rng(number)
    shared, labels = make_logits(1, samples, skill=skill)
    return [make_member(shared + rng.normal(0, 1.2, shared.shape), labels) for _ in range(number)]


# --- calibration ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_found_again(true):
    """Labels drawn from softmax(z / T): the likelihood is highest near T, nearer with more labels."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 2, (40_000, 5))
    p = special.softmax(logits / true, axis=1)
    labels = (p.cumsum(axis=1) < rng.random((len(p), 1))).sum(axis=1)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(true, rel=0.03)
    assert fit_temperature(7 * logits + 100, labels) == pytest.approx(7 * found, rel=1e-9)
    before, after = (score_calibration(logits, labels, t) for t in (1.0, found))
    assert after.nll <= before.nll
    assert after.ece < 0.02


@given(st.integers(0, 10_000), st.floats(-3, 5), st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_the_temperature_is_where_a_search_over_the_likelihood_ends(seed, log_scale, classes):
    logits, labels = make_logits(seed, 60, classes, skill=1.0, scale=np.exp(log_scale))
    found = fit_temperature(logits, labels)

    def loss(log_t):
        return peer.log_loss(
            labels, special.softmax(logits / np.exp(log_t), axis=1), labels=list(range(classes))
        )

    if np.isnan(found):  # no better than chance: warmer is always better
        assert loss(log_scale + 8) <= loss(log_scale + 4) + 1e-9
        return
    ends = (np.log(found) - 3, np.log(found) + 3)
    searched = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-9})
    assert np.log(found) == pytest.approx(searched.x, abs=1e-4)
    assert loss(np.log(found)) <= searched.fun + 1e-12


def test_where_the_likelihood_has_no_maximum_there_is_no_temperature():
    logits, labels = make_logits(0, 50, skill=40)
    assert (logits.argmax(axis=1) == labels).all()
    assert np.isnan(fit_temperature(logits, labels))  # the surer, the likelier
    assert np.isnan(fit_temperature(logits, (labels + 1) % 4))  # the less sure, the likelier
    assert np.isnan(fit_temperature(np.zeros((9, 4)), np.zeros(9, dtype=int)))
    assert np.isnan(fit_temperature(np.zeros((0, 4)), np.zeros(0, dtype=int)))
    logits[0] = -logits[0]  # one error is enough
    assert np.isfinite(fit_temperature(logits, labels))
    with pytest.raises(InputError, match="NaN"):
        fit_temperature([[np.nan, 0.0]], [0])


def test_likelihood_and_brier_score_are_loops_and_sklearns():
    logits, labels = make_logits(4, 120, scale=3)
    p = special.softmax(logits, axis=1)
    assert negative_log_likelihood(logits, labels) == pytest.approx(peer.log_loss(labels, p, labels=range(4)))
    loop = [sum((p[i, c] - (c == y)) ** 2 for c in range(4)) for i, y in enumerate(labels)]
    assert brier_score(p, labels) == pytest.approx(np.mean(loop))
    two = p[:, :2] / p[:, :2].sum(axis=1, keepdims=True)
    binary = labels % 2
    assert brier_score(two, binary) == pytest.approx(2 * peer.brier_score_loss(binary, two[:, 1]))
    assert negative_log_likelihood([[1000.0, 0.0]], [1]) == 1000  # where the probability is 0
    assert np.isnan(negative_log_likelihood(np.zeros((0, 3)), np.zeros(0, int)))
    assert np.isnan(brier_score(np.zeros((0, 3)), np.zeros(0, int)))
    with pytest.raises(ValueError, match="above 0"):
        negative_log_likelihood(logits, labels, 0.0)
    with pytest.raises(InputError, match="call softmax"):
        brier_score(logits, labels)


def test_what_temperature_moves_and_what_not():
    logits, labels = make_logits(5, 400, scale=4)
    one, warm = score_calibration(logits, labels), score_calibration(logits, labels, 3.0)
    assert one.ece == expected_calibration_error(special.softmax(logits, axis=1), labels)
    assert warm == score_calibration(logits / 3, labels)  # only the quotient counts
    assert warm.ece < one.ece
    assert score_calibration(logits + 50, labels).ece == pytest.approx(one.ece, abs=1e-12)
    flat = np.zeros((400, 4))  # 1/4 for each class at every temperature
    assert score_calibration(flat, labels, 9.0) == score_calibration(flat, labels)
    sure = 1e5 * np.eye(4)[labels]
    assert score_calibration(sure, labels) == score_calibration(sure, labels, 0.1)
    assert score_calibration(sure, labels).ece == 0


def test_entropy_is_scipys_and_lies_where_it_must():
    p = np.random.default_rng(0).dirichlet(np.full(6, 0.3), (4, 30))
    p[0, 0] = np.eye(6)[2]
    assert predictive_entropy(p) == pytest.approx(stats.entropy(p, axis=-1))
    assert predictive_entropy(p).shape == (4, 30)
    assert predictive_entropy([0.0, 1.0]) == 0
    assert predictive_entropy(np.full(6, 1 / 6)) == pytest.approx(np.log(6))
    assert log_softmax([0.0, -2000.0]).tolist() == [0, -2000]
    with pytest.raises(InputError, match="sum to 1"):
        predictive_entropy([0.5, 0.1])


# --- joining --------------------------------------------------------------------------------------------------


def by_hand(members):
    """Class, votes and mean probabilities of every patch, in plain loops."""
    found = []
    for i in range(len(members[0].scenes)):
        rows = [m.scenes[i].logits.astype(float) for m in members]
        mean = np.mean([special.softmax(r) for r in rows], axis=0)
        votes = Counter(int(r.argmax()) for r in rows)
        most = max(votes.values())
        best = max((c for c, v in votes.items() if v == most), key=lambda c: (mean[c], -c))
        found.append((best, votes[best], mean))
    return found


@pytest.mark.parametrize("number", [1, 2, 4, 5])
def test_the_vote_is_the_one_by_hand_ties_and_all(number):
    members = make_members(number)
    joined = join_scores(members)
    expected = by_hand(members)
    assert joined.prediction.tolist() == [best for best, _, _ in expected]
    assert joined.votes.tolist() == [votes for _, votes, _ in expected]
    mean = np.stack([m for *_, m in expected])
    assert joined.probabilities == pytest.approx(mean)
    labels = np.array([s.label for s in members[0].scenes])
    if number in (2, 4):
        tied = [Counter(int(m.scenes[i].logits.argmax()) for m in members) for i in range(len(labels))]
        ties = sum(list(c.values()).count(max(c.values())) > 1 for c in tied)
        assert ties > 20  # else this test would show little
    assert joined.accuracy == pytest.approx(peer.accuracy_score(labels, joined.prediction))
    for average in ("macro", "weighted"):
        expected_f1 = peer.f1_score(labels, joined.prediction, average=average)
        assert joined.scores[f"f1_{average}"] == pytest.approx(expected_f1)
    assert joined.top2 == pytest.approx(peer.top_k_accuracy_score(labels, mean, k=2))
    assert joined.entropy == pytest.approx(stats.entropy(mean, axis=1))
    alone = [peer.accuracy_score(labels, [s.logits.argmax() for s in m.scenes]) for m in members]
    assert joined.member_accuracies == pytest.approx(alone)
    if number == 5:
        assert joined.accuracy > np.mean(alone) + 0.02  # errors of their own cancel


def test_spread_is_the_mean_distance_of_the_members_from_their_mean():
    members = make_members(4)
    joined = join_scores(members)
    each = np.stack([special.softmax([s.logits.astype(float) for s in m.scenes], axis=1) for m in members])
    divergence = special.rel_entr(each, each.mean(axis=0)).sum(axis=2).mean(axis=0)
    assert joined.spread == pytest.approx(divergence, abs=1e-9)
    assert (joined.spread <= joined.entropy + 1e-12).all()
    same = join_scores([members[0]] * 3)
    assert np.abs(same.spread).max() < 1e-12
    apart = [make_member([1e3 * np.eye(4)[c]], [0]) for c in range(4)]  # each sure of another class
    assert join_scores(apart).spread[0] == pytest.approx(np.log(4))


def test_an_ensemble_of_one_is_the_run():
    logits, labels = make_logits(7, scale=900)  # probabilities that round to 0 and 1
    member = make_member(logits, labels)
    joined = join_scores([member])
    assert (joined.confusion == member.confusion).all()
    assert joined.top2 == member.top2()
    assert joined.accuracy == scores(member.confusion)["accuracy"]
    assert (joined.votes == 1).all()
    assert (joined.spread == 0).all()


def test_patches_are_joined_by_id_not_by_place():
    members = make_members(3)
    mixed = replace(members[1], scenes=members[1].scenes[::-1])
    assert (join_scores([members[0], mixed]).logits == join_scores(members[:2]).logits).all()


def test_what_cannot_be_joined_is_told():
    first, second, _ = make_members(3)
    with pytest.raises(InputError, match="different classes: ship, ice, sea, land and ice, ship, sea, land"):
        join_scores([first, replace(second, classes=("ice", "ship", "sea", "land"))])
    with pytest.raises(InputError, match="different patches: 200 of 'test' and 199 of 'test'"):
        join_scores([first, replace(second, scenes=second.scenes[1:])])
    with pytest.raises(InputError, match="different patches: 200 of 'test' and 200 of 'other'"):
        join_scores([first, replace(second, test_set="other")])
    flipped = (replace(second.scenes[0], label=(second.scenes[0].label + 1) % 4), *second.scenes[1:])
    with pytest.raises(InputError, match="different labels of 'test'"):
        join_scores([first, replace(second, scenes=flipped)])
    pixels = replace(second, scenes=tuple(replace(s, logits=None) for s in second.scenes))
    with pytest.raises(InputError, match="are of pixels"):
        join_scores([first, pixels])
    with pytest.raises(ValueError, match="needs a member"):
        join_scores([])
    joined = join_scores([first])
    with pytest.raises(ValueError, match="logits have shape"):
        replace(joined, logits=joined.logits[0])
    with pytest.raises(ValueError, match="3 ids, 2 groups"):
        EnsembleScores("t", CLASSES, ("a", "b", "c"), ("g", "g"), np.zeros(3, int), np.zeros((1, 3, 4)))


def test_predictions_are_a_row_a_patch(tmp_path):
    members = make_members(3)
    joined = join_scores(members)
    path = write_predictions(tmp_path / "p.csv", [joined])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    for row, scene, (best, votes, mean) in zip(rows, members[0].scenes, by_hand(members), strict=True):
        assert (row["test_set"], row["id"], row["group"]) == ("test", scene.id, scene.group)
        assert (row["label"], row["prediction"]) == (CLASSES[scene.label], CLASSES[best])
        assert int(row["votes"]) == votes
        assert float(row["mean_probability"]) == pytest.approx(mean[best])
        assert float(row["entropy"]) == pytest.approx(stats.entropy(mean))


# --- as results.json has them -----------------------------------------------------------------------------------


def recipe_of(task="classify", seeds=3, fractions=(1.0,), **training):
    return parse_recipe({
        "name": "r", "task": task, "data": {"catalog": "none.csv"}, "seeds": seeds, "fractions": list(fractions),
        "model": {"name": "resnet18" if task == "classify" else "unet-resnet18"},
        "initializations": {"plain": "random", "bag": {"from": "random", "training": {"bootstrap": True}}},
        "primary": {"metric": "accuracy"}, "training": training,
    })  # fmt: skip


def test_every_start_share_and_test_set_has_its_ensemble():
    recipe = recipe_of(fractions=(1.0, 0.1))
    parts = {
        (start, fraction): make_members(3, skill=skill)
        for (start, fraction), skill in zip(
            [("plain", 1.0), ("plain", 0.1), ("bag", 1.0)], (1.0, 0.5, 2.0), strict=True
        )  # the runs of the last are not there yet
    }
    runs = [
        ScoredRun(start, fraction, seed, {"test": m, "far": replace(m, test_set="far")})
        for (start, fraction), members in parts.items() for seed, m in enumerate(members)
    ]  # fmt: skip
    found = ensembles_json(runs, recipe)
    assert [(e["initialization"], e["fraction"], e["test_set"]) for e in found] == [
        ("plain", 1.0, "test"), ("plain", 1.0, "far"), ("plain", 0.1, "test"), ("plain", 0.1, "far"),
        ("bag", 1.0, "test"), ("bag", 1.0, "far"),
    ]  # fmt: skip
    for entry in found:
        joined = join_scores(parts[entry["initialization"], entry["fraction"]])
        hits = int((joined.prediction == joined.labels).sum())
        peers = stats.binomtest(hits, 200).proportion_ci(0.95, method="exact")
        assert (entry["low"], entry["high"]) == pytest.approx((peers.low, peers.high), abs=1e-9)
        assert entry["bagged"] == (entry["initialization"] == "bag")
        assert (entry["members"], entry["patches"]) == (3, 200)
        assert (entry["accuracy"], entry["top2"]) == (hits / 200, joined.top2)
        assert entry["mean_entropy"] == pytest.approx(joined.entropy.mean())
        assert entry["spread"] == pytest.approx(joined.spread.mean())
    json.dumps(found, allow_nan=False)


def test_temperatures_are_those_of_validation_and_judged_on_the_test_set():
    recipe, members = recipe_of(seeds=3), make_members(3)
    runs = [ScoredRun("plain", 1.0, seed, {"test": m}) for seed, m in enumerate(members)]
    held = {("plain", 1.0, s): make_member(*make_logits(s + 20, skill=0.8, scale=3)) for s in range(2)}
    held["plain", 1.0, 2] = make_member(*make_logits(9, skill=50))  # always right: no temperature
    (found,) = calibration_json(runs, held, recipe)
    fitted = [
        fit_temperature([c.logits for c in h.scenes], [c.label for c in h.scenes]) for h in held.values()
    ]
    assert found["temperatures"] == [*fitted[:2], None]
    assert found["temperature"] == pytest.approx(np.mean(fitted[:2]))
    labels = np.array([s.label for s in members[0].scenes])
    for when, temperatures in (("before", (1, 1, 1)), ("after", (*fitted[:2], 1))):
        p = [
            special.softmax(np.stack([s.logits for s in m.scenes]).astype(float) / t, axis=1)
            for m, t in zip(members, temperatures, strict=True)
        ]
        assert found[f"ece_{when}"] == pytest.approx(
            np.mean([expected_calibration_error(q, labels) for q in p])
        )
        assert found[f"nll_{when}"] == pytest.approx(np.mean([peer.log_loss(labels, q) for q in p]))
        assert found[f"brier_{when}"] == pytest.approx(np.mean([brier_score(q, labels) for q in p]))
        pooled = np.concatenate(p)
        for cell in found[f"bins_{when}"]:
            inside = (pooled.max(axis=1) > cell["low"]) & (pooled.max(axis=1) <= cell["high"])
            assert cell["count"] == inside.sum() > 0
            right = pooled.argmax(axis=1) == np.tile(labels, 3)
            assert cell["accuracy"] == pytest.approx(right[inside].mean())
            assert cell["confidence"] == pytest.approx(pooled.max(axis=1)[inside].mean())
        assert sum(cell["count"] for cell in found[f"bins_{when}"]) == 600
    for nothing in ({}, dict.fromkeys(held)):
        (bare,) = calibration_json(runs, nothing, recipe)
        assert bare["temperature"] is bare["ece_after"] is bare["bins_after"] is None
        assert bare["ece_before"] == found["ece_before"]
    json.dumps([found, bare], allow_nan=False)


def test_pixels_have_neither():
    member = make_members(1)[0]
    bare = replace(member, scenes=tuple(replace(s, logits=None, label=-1) for s in member.scenes))
    for recipe in (recipe_of("segment"), recipe_of()):  # and chips whose logits were thrown away
        runs = [ScoredRun("plain", 1.0, 0, {"test": bare})]
        assert ensembles_json(runs, recipe) == []
        assert calibration_json(runs, {("plain", 1.0, 0): bare}, recipe) == []


# --- with networks ----------------------------------------------------------------------------------------------


def write_chips(folder, counts, *, classes=CLASSES[:3], size=32):
    """A catalog of chips whose classes differ in brightness, by split; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(2)
    entries = []
    for split, count in counts.items():
        for i in range(count):
            values = rng.normal(-12, 3, (2, size, size)) + 3 * (i % len(classes))
            path = write_array(folder / f"{split}{i}.npz", values.astype(np.float32), BANDS)
            entries.append(
                Entry(f"{split}{i}", (Asset(path),), category=classes[i % len(classes)], split=split,
                      group=f"{split}{i // 4}")
            )  # fmt: skip
    return write_catalog(Catalog("chips", tuple(entries), classes), folder / "chips.csv")


def write_member(folder, seed, classes=CLASSES[:3], name="timm:resnet10t", options=None):
    contract = InputContract(
        tuple(InputBand(n, "sigma0_db", n.upper(), mean=-9, std=4) for n in ("vv", "vh"))
    )
    torch.manual_seed(seed)
    model = build_model(name, 2, len(classes), **(options or {}))
    write_checkpoint(
        folder / "best", model, {"classes": list(classes), "contract": contract.to_json(), "identity": folder.name}
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Chips and three networks that were never trained."""
    place = tmp_path_factory.mktemp("ensemble")
    write_chips(place, {"train": 3, "validation": 3, "test": 8})
    for seed in range(3):
        write_member(place / f"m{seed}", seed)
    return place


def joined_by_hand(folder, catalog):
    members = [read_checkpoint(folder / f"m{seed}") for seed in range(3)]
    return [evaluate_checkpoint(m, catalog, "test") for m in members]


def test_networks_are_asked_one_after_the_other(folder):
    from sartransfer.catalog import read_catalog

    catalog = read_catalog(folder / "chips.csv")
    found = evaluate_ensemble((read_checkpoint(folder / f"m{s}") for s in range(3)), catalog, "test")
    expected = by_hand(joined_by_hand(folder, catalog))
    assert found.prediction.tolist() == [best for best, _, _ in expected]
    assert found.probabilities == pytest.approx(np.stack([mean for *_, mean in expected]))
    other = replace(catalog, classes=("ice", "ship", "sea"))
    with pytest.raises(CatalogError, match="same order"):
        evaluate_ensemble([read_checkpoint(folder / "m0")], other, "test")


def test_the_command_prints_and_writes_what_the_ensemble_says(call, folder, tmp_path):
    from sartransfer.catalog import read_catalog

    members = [folder / f"m{s}" for s in range(3)]
    words = (
        "ensemble",
        *members,
        "--catalog",
        folder / "chips.csv",
        "--test",
        "test",
        "-o",
        tmp_path / "out",
    )
    code, printed, said = call(*words)
    assert (code, said) == (0, "")
    joined = join_scores(joined_by_hand(folder, read_catalog(folder / "chips.csv")))
    low, high = joined.interval()
    assert f"{joined.accuracy:.4f} [{low:.4f}, {high:.4f}]" in printed
    for value in (joined.top2, joined.entropy.mean(), joined.spread.mean()):
        assert f"{value:.4f}" in printed
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["prediction"] for r in rows] == [CLASSES[c] for c in joined.prediction]
    told = json.loads((tmp_path / "out" / "ensemble.json").read_text())
    assert told["test"]["accuracy"] == joined.accuracy
    for member in members:
        looks = [json.loads(line) for line in (member / "test-looks.jsonl").read_text().splitlines()]
        assert [(k["test_set"], k["recipe_hash"]) for k in looks] == [("test", member.name)]
    code, _, said = call(*words)
    assert code == 2
    assert "predictions.csv exists" in said
    assert call(*words, "--overwrite")[0] == 0
    code, printed, _ = call(
        "ensemble", members[0], "--catalog", folder / "chips.csv"
    )  # one only, every test set
    assert code == 0
    assert "1 members" not in printed
    assert "test: 1 member" in printed


def test_the_command_tells_which_network_is_asked_and_how_far_it_is(call, folder, monkeypatch):
    seen = []

    class Told(scoring.Progress):
        def update(self, task, **words):
            seen.append(words.get("description") or (words["completed"], words["total"]))
            super().update(task, **words)

    monkeypatch.setattr(scoring, "Progress", Told)
    members = [folder / f"m{s}" for s in range(2)]
    assert call("ensemble", *members, "--catalog", folder / "chips.csv", "--test", "test")[0] == 0
    whole = [(number, 8) for number in range(1, 9)]
    assert seen == ["test: network 1 of 2", *whole, "test: network 2 of 2", *whole]


def test_what_the_command_refuses(call, folder, tmp_path):
    catalog = ("--catalog", folder / "chips.csv")

    def refuse(*words):
        code, _, said = call("ensemble", *words)
        assert code == 2, said
        assert said.count("error:") == 1
        return said.partition("error: ")[2]

    m0, m1 = folder / "m0", folder / "m1"
    other = write_member(tmp_path / "other", 0, ("ice", "ship", "sea"))
    message = refuse(m0, other, *catalog)
    assert "m0/best.safetensors knows the classes ship, ice, sea, " in message
    assert "other/best.safetensors knows ice, ship, sea" in message
    scenes = write_member(
        tmp_path / "scenes", 0, name="unet-resnet18",
        options={"encoder_depth": 3, "decoder_channels": [8, 8, 8]},
    )  # fmt: skip
    assert "scenes/best.safetensors segments scenes" in refuse(m0, scenes, *catalog)
    assert "segments scenes" in refuse(scenes, *catalog)
    assert "m1 is named twice" in refuse(m0, m1, m1, *catalog)
    assert "name the scenes to score on" in refuse(m0, m1)
    assert "name the scenes to score on" in refuse(m0, *catalog, "--dataset", "x=y")
    assert "no split 'tset'; it has train, validation, test" in refuse(m0, *catalog, "--test", "tset")
    assert "a checkpoint is a .safetensors and a .json file" in refuse(m0, tmp_path / "none", *catalog)
    (tmp_path / "file").write_text("mine")
    assert "file" in refuse(m0, *catalog, "-o", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


# --- in a comparison --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A finished comparison of chips: two starts, the second bagged, and two seeds."""
    place = tmp_path_factory.mktemp("compared")
    torch.set_num_threads(1)
    catalog = write_chips(place / "data", {"train": 12, "validation": 9, "test": 9})
    recipe = parse_recipe({
        "name": "chips", "task": "classify", "data": {"catalog": str(catalog)},
        "model": {"name": "timm:resnet10t"}, "seeds": 2, "primary": {"metric": "accuracy"},
        "initializations": {"plain": "random", "bag": {"from": "random", "training": {"bootstrap": True}}},
        "training": {"epochs": 1, "batch_size": 6, "precision": "fp32"},
    })  # fmt: skip
    compare(recipe, place / "out")
    return recipe, place / "out"


def test_a_comparison_of_chips_has_ensembles_and_calibration(compared):
    _, out = compared
    results = json.loads((out / "results.json").read_text())
    assert [r["status"] for r in results["runs"]] == ["finished"] * 4
    for entry in results["ensembles"]:
        runs = [out / "runs" / entry["initialization"] / "1" / f"seed{s}" for s in (0, 1)]
        joined = join_scores([read_scores(r, "test") for r in runs])
        assert (entry["members"], entry["bagged"]) == (2, entry["initialization"] == "bag")
        assert entry["accuracy"] == joined.accuracy
        held = [read_scores(r, "validation") for r in runs]
        assert all(len(h.scenes) == 9 and h.scenes[0].logits is not None for h in held)
        (row,) = [c for c in results["calibration"] if c["initialization"] == entry["initialization"]]
        fitted = [fit_temperature([s.logits for s in h.scenes], [s.label for s in h.scenes]) for h in held]
        assert row["temperatures"] == [None if np.isnan(t) else t for t in fitted]
    assert len(results["ensembles"]) == len(results["calibration"]) == 2
    with (out / "results.csv").open(newline="") as file:
        assert {row["test_set"] for row in csv.DictReader(file)} == {"test"}
    looks = [json.loads(line) for line in (out / "test-looks.jsonl").read_text().splitlines()]
    assert [look["test_set"] for look in looks] == ["test"] * 4


def test_an_older_folder_gains_its_validation_logits(compared, tmp_path, monkeypatch):
    recipe, finished = compared
    out = shutil.copytree(finished, tmp_path / "out")
    before = json.loads((out / "results.json").read_text())
    kept = read_scores(out / "runs/plain/1/seed1", "validation")
    for path in [*out.rglob("validation.json"), *out.rglob("validation.npz")]:
        path.unlink()
    gone = out / "runs/bag/1/seed1"
    (gone / "best.safetensors").unlink()  # scored, and its weights thrown away since

    def refuse(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(comparison, "train_job", refuse)
    looks = (out / "test-looks.jsonl").read_text()
    after = compare(recipe, out).results
    assert [r["status"] for r in after["runs"]] == ["finished"] * 4
    again = read_scores(out / "runs/plain/1/seed1", "validation")
    assert [s.logits.tolist() for s in again.scenes] == [s.logits.tolist() for s in kept.scenes]
    assert after["ensembles"] == before["ensembles"]
    for one, other in zip(after["calibration"], before["calibration"], strict=True):
        if one["initialization"] == "plain":
            assert one == other
        else:
            assert one["temperatures"][1] is None
    assert (out / "test-looks.jsonl").read_text() == looks
    assert read_scores(gone, "validation") is None
    assert softmax(again.scenes[0].logits).sum() == pytest.approx(1)
