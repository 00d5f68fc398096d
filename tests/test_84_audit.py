"""Published numbers worked out again: what fits passes, what is planted is found, slips are undone."""

import json

import numpy as np
import pytest
from sklearn import metrics as peer

from sartransfer.audit import audit_claims, example_claims, explain_iou, parse_printed, read_claims
from sartransfer.audit.claims import Claims, split_total
from sartransfer.errors import InputError


def claims(*rows, sums=()):
    return Claims.model_validate({"source": "a test", "rows": list(rows), "sums": list(sums)})


def one(row, **more):
    return audit_claims(claims({"name": "model", **row, **more}))


def verdicts(found):
    return {f.what: f.verdict for f in found}


def labels_of(matrix):
    """Truth and prediction that have a confusion matrix."""
    pairs = [(t, p) for t, row in enumerate(matrix) for p, n in enumerate(row) for _ in range(n)]
    return np.array(pairs).T


@pytest.mark.parametrize(
    ("text", "value", "low", "high"),
    [
        (".712", 0.712, 0.7115, 0.7125), ("0.70", 0.70, 0.695, 0.705), ("2.2", 2.2, 2.15, 2.25), ("1", 1.0, 0.5, 1.5),
        ("83.4 %", 0.834, 0.8335, 0.8345), ("83,4%", 0.834, 0.8335, 0.8345), ("-.1", -0.1, -0.15, -0.05),
        (0.6, 0.6, 0.55, 0.65), (2, 2.0, 1.5, 2.5),
    ],
)  # fmt: skip
def test_a_printed_number_stands_for_all_that_round_to_it(text, value, low, high):
    found = parse_printed(text)
    assert (found.value, found.low, found.high) == pytest.approx((value, low, high))
    assert parse_printed("83.4", percent=True).value == pytest.approx(0.834)


@pytest.mark.parametrize("text", ["", ".", "abc", "1.2.3", "nan", "1e5", True])
def test_what_is_no_printed_number_is_refused(text):
    with pytest.raises(InputError, match="no printed number"):
        parse_printed(text)


@pytest.mark.parametrize("seed", range(6))
def test_scores_of_a_matrix_fit_it_as_scikit_learn_works_them_out(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 5))
    matrix = rng.integers(1, 30, (size, size))
    truth, guess = labels_of(matrix)
    positive = int(rng.integers(size))
    for average in ("class", "macro", "micro", "weighted"):
        own = {"labels": [positive], "average": "macro"} if average == "class" else {"average": average}
        values = {
            "accuracy": peer.accuracy_score(truth, guess),
            "kappa": peer.cohen_kappa_score(truth, guess),
            "precision": peer.precision_score(truth, guess, **own),
            "recall": peer.recall_score(truth, guess, **own),
            "f1": peer.f1_score(truth, guess, **own),
            "iou": peer.jaccard_score(truth, guess, **own),
        }
        row = {"matrix": matrix.tolist(), "positive": positive, "average": average}
        found = one(row, scores={k: f"{v:.4f}" for k, v in values.items()})
        assert verdicts(found) == dict.fromkeys(values, "fits"), average
        # each score moved by two units of its last place is found, and no other
        for name in values:
            moved = {k: f"{v + (0.0002 if k == name else 0):.4f}" for k, v in values.items()}
            assert [k for k, v in verdicts(one(row, scores=moved)).items() if v != "fits"] == [name]


def test_the_other_thing_that_was_printed_is_named():
    counts = {"tp": 60, "fp": 20, "fn": 10, "tn": 110}
    iou, f1, precision, recall = 60 / 90, 120 / 150, 60 / 80, 60 / 70
    (found,) = one({"counts": counts}, scores={"iou": f"{f1:.3f}"})
    assert (found.verdict, found.explanations[0].words) == ("does not fit", "it is f1 of the class")
    assert found.explanations[0].low == pytest.approx(f1)
    (found,) = one({"counts": counts}, scores={"precision": f"{recall:.3f}"})
    assert "it is recall of the class" in [e.words for e in found.explanations]
    (found,) = one({"counts": counts}, scores={"iou": f"{110 / 140:.3f}"})
    assert "it is iou of the other class" in [e.words for e in found.explanations]
    (found,) = one({"counts": counts}, scores={"iou": f"{(iou + 110 / 140) / 2:.3f}"})
    assert "it is iou (macro)" in [e.words for e in found.explanations]
    (found,) = one({"counts": counts}, scores={"iou": ".666"})  # .6667, cut off
    assert found.explanations[0].words == "the digits were cut off, not rounded"
    (found,) = one({"counts": counts}, scores={"iou": ".0067"})
    assert any("a hundredth" in e.words for e in found.explanations)
    assert verdicts(one({"counts": counts}, scores={"precision": f"{precision:.2f}"})) == {
        "precision": "fits"
    }
    (found,) = one({"counts": {"tp": 0, "fp": 0, "fn": 5, "tn": 5}}, scores={"precision": ".5"})
    assert found.verdict == "impossible"


@pytest.mark.parametrize("seed", range(8))
def test_scores_of_one_class_fit_each_other_whatever_the_counts(seed):
    rng = np.random.default_rng(seed)
    tp, fp, fn, tn = rng.integers(1, 200, 4)
    digits = int(rng.integers(1, 5))
    values = {
        "precision": tp / (tp + fp), "recall": tp / (tp + fn), "f1": 2 * tp / (2 * tp + fp + fn),
        "iou": tp / (tp + fp + fn), "accuracy": (tp + tn) / (tp + fp + fn + tn),
    }  # fmt: skip
    found = one({}, scores={k: f"{v:.{digits}f}" for k, v in values.items()})
    assert {f.verdict for f in found} == {"fits"}
    assert len(found) == 4
    percent = one({"percent": True}, scores={k: f"{100 * v:.{digits}f}" for k, v in values.items()})
    assert {f.verdict for f in percent} == {"fits"}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
def test_means_over_classes_fit_each_other_whatever_the_matrix(seed, average):
    matrix = np.random.default_rng(seed).integers(0, 40, (4, 4)) + np.eye(4, dtype=int)
    truth, guess = labels_of(matrix)
    own = {"average": average, "zero_division": 0}
    values = {
        "precision": peer.precision_score(truth, guess, **own), "recall": peer.recall_score(truth, guess, **own),
        "f1": peer.f1_score(truth, guess, **own), "iou": peer.jaccard_score(truth, guess, **own),
        "accuracy": peer.accuracy_score(truth, guess),
    }  # fmt: skip
    found = one({"average": average}, scores={k: f"{v:.4f}" for k, v in values.items()})
    assert {f.verdict for f in found} == {"fits"}


def test_what_scores_leave_for_each_other_is_found_and_explained():
    # F1 = 2 * .6 / 1.6 = .75
    (fits,) = one({}, scores={"iou": ".600", "f1": ".750"})
    assert fits.verdict == "fits"
    (mean,) = one({}, scores={"iou": ".600", "f1": ".700"})
    assert mean.verdict == "does not fit"  # means over tiles may lie so, one confusion matrix cannot
    assert "means over classes or tiles" in mean.explanations[0].words
    (swapped,) = one({}, scores={"iou": ".750", "f1": ".600"})
    assert swapped.verdict == "impossible"
    assert [e.words for e in swapped.explanations] == ["f1 and iou are swapped"]
    assert swapped.explanations[0].low == pytest.approx(0.5995)
    (never,) = one({"average": "macro"}, scores={"iou": ".600", "f1": ".790"})  # above 2 x / (1 + x)
    assert never.verdict == "impossible"
    assert one({"average": "macro"}, scores={"iou": ".600", "f1": ".700"})[0].verdict == "fits"
    (mean,) = one({}, scores={"precision": ".900", "recall": ".500", "f1": ".700"})
    assert mean.verdict == "impossible"
    assert "arithmetic mean" in mean.explanations[0].words
    (geometric,) = one({}, scores={"precision": ".900", "recall": ".400", "f1": ".600"})
    assert "geometric mean" in geometric.explanations[0].words
    (dice,) = one({}, scores={"precision": ".900", "recall": ".400", "iou": ".554"})
    assert "f1 under another name" in dice.explanations[0].words
    assert dice.explanations[0].low == pytest.approx(0.383, abs=2e-3)  # .9 * .4 / (.9 + .4 - .36)
    (low,) = one({}, scores={"iou": ".80", "accuracy": ".70"})
    assert low.verdict == "impossible"  # what is not in the union is right: accuracy >= IoU
    (micro,) = one({"average": "micro"}, scores={"accuracy": ".900", "iou": ".818"})  # .9 / 1.1
    assert micro.verdict == "fits"
    assert one({"average": "micro"}, scores={"accuracy": ".900", "iou": ".850"})[0].verdict == "impossible"
    assert one({"average": "micro"}, scores={"accuracy": ".900", "f1": ".890"})[0].verdict == "impossible"
    assert (
        one({"average": "weighted"}, scores={"recall": ".80", "accuracy": ".90"})[0].verdict == "impossible"
    )


@pytest.mark.parametrize(
    ("scores", "percent"),
    [
        ({"accuracy": "93.1"}, False),
        ({"f1": "-.1"}, False),
        ({"recall": "104"}, True),
        ({"kappa": "-1.2"}, False),
    ],
)
def test_scores_out_of_their_range_are_impossible(scores, percent):
    (found,) = one({"percent": percent}, scores=scores)
    assert found.verdict == "impossible"
    assert "lies outside" in found.message
    assert one({}, scores={"kappa": "-.2"})[0].verdict == "not checkable"


def test_an_iou_of_two_point_two_is_undone_by_the_slips_of_the_reference():
    found = {e.words[:20]: e for e in explain_iou(parse_printed("2.2"), [0.6])}
    odds = found["the intersection was"]
    assert odds.low <= 0.6875 <= odds.high  # .6875 / (1 - .6875) = 2.2
    assert odds.low == pytest.approx(2.15 / 3.15)
    assert explain_iou(parse_printed("2.2"), [0.6])[0] is not None
    assert explain_iou(parse_printed("2.2"), [0.6])[0].words.startswith("the intersection")
    # a table that claims .02 of another model makes the percent the nearer one
    assert explain_iou(parse_printed("2.2"), [0.02])[0].words == "percent were printed as a share"
    assert explain_iou(parse_printed("220"))[0].unknowns <= explain_iou(parse_printed("220"))[-1].unknowns
    assert not explain_iou(parse_printed(".9"))


@pytest.mark.parametrize("seed", range(5))
def test_the_slips_are_what_they_say(seed):
    """Make the slip on masks, print its number, and find the true IoU among the explanations."""
    rng = np.random.default_rng(seed)
    truth = rng.random((64, 64)) < 0.4
    guess = truth ^ (rng.random((64, 64)) < 0.08)
    iou = (truth & guess).sum() / (truth | guess).sum()
    shared = (truth & guess).sum()
    odds = shared / ((truth | guess).sum() - shared)
    mask = truth.astype(np.int64) * 255
    stored = (mask * guess).sum() / (mask.sum() + guess.sum() - (mask * guess).sum())
    halves = [(truth[r] & guess[r]).sum() / (truth[r] | guess[r]).sum() for r in np.split(np.arange(64), 8)]
    slips = {"the intersection": odds, "percent": 100 * iou, "one mask": stored, "the scores": sum(halves)}
    for words, number in slips.items():
        assert number > 1, words
        (found,) = [e for e in explain_iou(parse_printed(f"{number:.3f}")) if e.words.startswith(words)]
        true = np.mean(halves) if words == "the scores" else iou
        assert found.low - 1e-9 <= true <= found.high + 1e-9, words


def test_the_flood_paper_is_audited_as_the_reference_says():
    claim = example_claims("flood")
    assert "Hatami" in claim.source
    found = {f.row: f for f in audit_claims(claim)}
    assert found["Prithvi, fine-tuned"].verdict == "impossible"
    assert found["Prithvi, fine-tuned"].explanations[0].words.startswith("the intersection was divided")
    assert found["UNet, from scratch"].verdict == "not checkable"
    assert found["tiles"].verdict == "impossible"
    assert "156 + 20 + 20 = 196" in found["tiles"].message
    with pytest.raises(InputError, match="flood"):
        example_claims("floods")


@pytest.mark.parametrize(
    ("total", "verdict"),
    [("196", "fits"), (196, "fits"), ("<150", "impossible"), ("<=196", "fits"), (">200", "impossible"),
     (">=196", "fits"), ("about 200", "fits"), ("about 300", "impossible"), (176, "impossible")],
)  # fmt: skip
def test_sums_are_added_up(total, verdict):
    parts = {"train": 156, "validation": 20, "test": 20}
    (found,) = audit_claims(claims(sums=[{"name": "tiles", "parts": parts, "total": total}]))
    assert found.verdict == verdict
    if total == 176:
        assert found.explanations[0].words.startswith("train and ")
    with pytest.raises(ValueError, match="whole number"):
        split_total("many")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "not the keys of claims"), ("{", "not readable as YAML"), ("source: x", "nothing is claimed"),
        ("source: x\nrows: [{name: a, scores: {iuo: .5}}]", "Did you mean 'iou'"),
        ("source: x\nrows: [{name: a, scores: {iou: big}}]", "no printed number"),
        ("source: x\nrows: [{name: a}, {name: a}]", "two rows have one name"),
        ("source: x\nrows: [{name: a, matrix: [[1, 2]]}]", "square"),
        ("source: x\nrows: [{name: a, counts: {tp: 1, fp: 1, fn: 1}}]", "needs tp, fp, fn and tn"),
        ("source: x\nrows: [{name: a, matrix: [[1,2],[3,4]], positive: 2}]", "a class from 0 to 1"),
        ("source: x\nrwos: []", "Did you mean 'rows'"),
    ],
)  # fmt: skip
def test_claims_that_cannot_be_read_are_refused(tmp_path, text, message):
    (tmp_path / "claims.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_claims(tmp_path / "claims.yaml")
    with pytest.raises(InputError, match="no claims at"):
        read_claims(tmp_path / "none.yaml")


def test_the_command_ends_with_one_where_something_is_impossible(call, tmp_path):
    code, out, _ = call("audit", "--example", "flood", "--json", tmp_path / "found.json")
    assert code == 1
    assert "impossible" in out
    kept = json.loads((tmp_path / "found.json").read_text())
    assert kept["findings"][0]["explanations"][0]["low"] == pytest.approx(2.15 / 3.15)
    (tmp_path / "good.json").write_text(
        json.dumps({"source": "x", "rows": [{"name": "a", "scores": {"iou": ".600", "f1": ".750"}}]})
    )
    assert call("audit", tmp_path / "good.json")[0] == 0
    assert call("audit")[0] == 2
    assert call("audit", tmp_path / "good.json", "--example", "flood")[0] == 2
    assert call("audit", "--example", "flood", "--json", tmp_path / "found.json")[0] == 2
