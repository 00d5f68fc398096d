"""Metrics against scikit-learn, plain loops and identities."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special, stats
from sklearn import metrics as peer

from sartransfer.errors import InputError
from sartransfer.metrics import (
    confusion_matrix,
    confusion_matrix_normalized,
    expected_calibration_error,
    majority_vote,
    mcnemar,
    proportion_interval,
    reliability,
    scores,
    softmax,
    tidy,
    top_k_accuracy,
)

MATRICES = st.integers(1, 5).flatmap(lambda c: hnp.arrays(np.int64, (c, c), elements=st.integers(0, 20)))


def pixels(seed=0, classes=4, shape=(60, 50)):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, shape)
    prediction = np.where(rng.random(shape) < 0.6, target, rng.integers(0, classes, shape))
    return target.astype(np.uint8), prediction.astype(np.uint8)


# --- the confusion matrix ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_confusion_matrix_is_scikit_learns_on_the_pixels_that_count(dtype):
    rng = np.random.default_rng(1)
    target, prediction = pixels(1)
    target[rng.random(target.shape) < 0.2] = 255
    valid = rng.random(target.shape) < 0.9
    counted = valid & (target != 255)
    cm = confusion_matrix(target.astype(dtype), prediction.astype(dtype), 4, valid=valid, ignore_index=255)
    assert cm.dtype == np.int64
    assert (cm == peer.confusion_matrix(target[counted], prediction[counted], labels=range(4))).all()
    assert cm.sum() == counted.sum()


def test_confusion_matrix_is_a_loop_and_parts_add_up():
    target, prediction = pixels(2, classes=3, shape=(11, 7))
    slow = np.zeros((3, 3), dtype=int)
    for t, p in zip(target.ravel(), prediction.ravel(), strict=True):
        slow[t, p] += 1
    assert (confusion_matrix(target, prediction, 3) == slow).all()
    parts = confusion_matrix(target[:4], prediction[:4], 3) + confusion_matrix(target[4:], prediction[4:], 3)
    assert (parts == slow).all()


def test_a_scene_of_several_blocks_and_many_classes_does_not_overflow():
    target, prediction = pixels(3, classes=250, shape=(700, 900))
    target[0, 0] = prediction[0, 0] = 249
    cm = confusion_matrix(target, prediction, 250)
    assert (cm == peer.confusion_matrix(target.ravel(), prediction.ravel(), labels=range(250))).all()


def test_what_does_not_count_may_hold_anything():
    cm = confusion_matrix([0, 1, 99, -7], [0, 0, 50, 1], 2, valid=[True, True, False, True], ignore_index=-7)
    assert cm.tolist() == [[1, 0], [1, 0]]
    assert confusion_matrix([], [], 3).sum() == 0
    assert confusion_matrix([255, 255], [0, 9], 2, ignore_index=255).sum() == 0
    assert confusion_matrix([0, 1, 2], [0, 1, 0], 3, ignore_index=0).tolist() == [
        [0, 0, 0],
        [0, 1, 0],
        [1, 0, 0],
    ]


@pytest.mark.parametrize(
    ("target", "prediction", "words"),
    [
        ([0, 1, 7], [0, 1, 1], "target holds the value 7"),
        ([0, -1, 1], [0, 1, 1], "target holds the value -1"),
        ([0, 255, 1], [0, 1, 3], "prediction holds the value 3"),
    ],
)
def test_a_value_outside_the_classes_is_named(target, prediction, words):
    with pytest.raises(InputError, match=words):
        confusion_matrix(target, prediction, 3, ignore_index=255)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([0, 1], [0], 2), "shapes differ"),
        (([0.0, 1.0], [0, 1], 2), "dtype float64"),
        (([0, 1], [0, 1], 0), "num_classes=0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        confusion_matrix(*arguments)


def test_valid_must_be_boolean():
    with pytest.raises(ValueError, match="valid has dtype"):
        confusion_matrix([0, 1], [0, 1], 2, valid=[0, 1])


@given(MATRICES)
@settings(max_examples=60, deadline=None)
def test_normalized_rows_sum_to_one_or_are_undefined(cm):
    rows = confusion_matrix_normalized(cm)
    for given_row, row in zip(cm, rows, strict=True):
        if given_row.sum() == 0:
            assert np.isnan(row).all()
        else:
            assert row == pytest.approx(given_row / given_row.sum())


# --- scores -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_scores_are_scikit_learns(classes):
    target, prediction = pixels(classes, classes)
    t, p = target.ravel(), prediction.ravel()
    ours = scores(confusion_matrix(target, prediction, classes))
    assert ours["accuracy"] == pytest.approx(peer.accuracy_score(t, p))
    assert ours["precision"] == pytest.approx(peer.precision_score(t, p, average=None))
    assert ours["recall"] == pytest.approx(peer.recall_score(t, p, average=None))
    assert ours["f1"] == pytest.approx(peer.f1_score(t, p, average=None))
    assert ours["iou"] == pytest.approx(peer.jaccard_score(t, p, average=None))
    for average in ("micro", "macro", "weighted"):
        assert ours[f"f1_{average}"] == pytest.approx(peer.f1_score(t, p, average=average))
        assert ours[f"iou_{average}"] == pytest.approx(peer.jaccard_score(t, p, average=average))
    assert ours["undefined_classes"] == 0


def slow_mean(values, weights):
    """Weighted mean over what is defined, by hand."""
    pairs = [(v, w) for v, w in zip(values, weights, strict=True) if v is not None]
    total = sum(w for _, w in pairs)
    return sum(v * w for v, w in pairs) / total if total else math.nan


@given(MATRICES)
@settings(max_examples=150, deadline=None)
def test_scores_are_a_loop_over_classes_and_undefined_is_nan(cm):
    ours = scores(cm)
    n = cm.shape[0]
    f1, iou, support = [], [], []
    for c in range(n):
        hit = int(cm[c, c])
        missed = sum(int(cm[c, j]) for j in range(n)) - hit
        false = sum(int(cm[i, c]) for i in range(n)) - hit
        for name, above, below in (
            ("precision", hit, hit + false),
            ("recall", hit, hit + missed),
            ("f1", 2 * hit, 2 * hit + false + missed),
            ("iou", hit, hit + false + missed),
        ):
            assert ours[name][c] == pytest.approx(above / below if below else math.nan, nan_ok=True)
        f1.append(2 * hit / (2 * hit + false + missed) if hit + false + missed else None)
        iou.append(hit / (hit + false + missed) if hit + false + missed else None)
        support.append(hit + missed)
    assert ours["undefined_classes"] == f1.count(None)
    for name, values in (("f1", f1), ("iou", iou)):
        assert ours[f"{name}_macro"] == pytest.approx(slow_mean(values, [1] * n), nan_ok=True)
        assert ours[f"{name}_weighted"] == pytest.approx(slow_mean(values, support), nan_ok=True)


@given(MATRICES)
@settings(max_examples=60, deadline=None)
def test_identities(cm):
    """f1_micro = A, iou_micro = A / (2 - A), weighted recall = A, iou = f1 / (2 - f1)."""
    ours = scores(cm)
    accuracy = ours["accuracy"]
    assert ours["f1_micro"] == pytest.approx(accuracy, nan_ok=True)
    assert ours["iou_micro"] == pytest.approx(accuracy / (2 - accuracy), nan_ok=True)
    assert ours["iou"] == pytest.approx(ours["f1"] / (2 - ours["f1"]), nan_ok=True)
    if cm.sum():
        assert np.nansum(ours["recall"] * cm.sum(axis=1)) / cm.sum() == pytest.approx(accuracy)


def test_two_classes_by_hand():
    ours = scores([[50, 10], [5, 35]])
    assert ours["accuracy"] == pytest.approx(0.85)
    assert ours["iou_micro"] == pytest.approx(0.85 / 1.15)
    assert ours["iou"] == pytest.approx([50 / 65, 35 / 50])
    assert ours["f1"] == pytest.approx([100 / 115, 70 / 85])


def test_an_absent_class_is_left_out_and_a_missed_class_is_zero():
    absent = scores([[5, 0, 0], [0, 5, 0], [0, 0, 0]])
    assert (absent["iou_macro"], absent["f1_weighted"], absent["undefined_classes"]) == (1, 1, 1)
    assert np.isnan([absent[name][2] for name in ("precision", "recall", "f1", "iou")]).all()
    missed = scores([[5, 0, 0], [0, 5, 0], [4, 0, 0]])
    assert (missed["iou"][2], missed["f1"][2], missed["recall"][2], missed["undefined_classes"]) == (
        0,
        0,
        0,
        0,
    )
    assert np.isnan(missed["precision"][2])
    nothing = scores(np.zeros((2, 2), dtype=int))
    assert np.isnan(nothing["accuracy"])
    assert np.isnan(nothing["iou_micro"])
    assert np.isnan(nothing["f1_macro"])
    assert nothing["undefined_classes"] == 2


@pytest.mark.parametrize(
    "cm", [[[0.5, 1.0], [1.0, 2.0]], [[1, 2, 3], [4, 5, 6]], [[1, -1], [0, 1]], [1, 2], []]
)
def test_what_is_no_confusion_matrix_is_refused(cm):
    with pytest.raises(ValueError, match=r"confusion matrix"):
        scores(cm)


def test_tidy_lists_every_score_once():
    cm = np.array([[50, 10], [5, 35]])
    rows = tidy(cm, ["land", "water"])
    ours = scores(cm)
    whole = ["accuracy", "f1_micro", "f1_macro", "f1_weighted", "iou_micro", "iou_macro", "iou_weighted"]
    by_class = ["precision", "recall", "f1", "iou"]
    assert {(c, m): v for c, m, v in rows} == (
        {("", m): ours[m] for m in whole}
        | {(c, m): ours[m][i] for i, c in enumerate(["land", "water"]) for m in by_class}
    )
    assert len(rows) == len(whole) + 2 * len(by_class)
    assert all(type(value) is float for _, _, value in rows)
    with pytest.raises(ValueError, match="1 class names for 2 classes"):
        tidy(cm, ["land"])


# --- from logits ------------------------------------------------------------------------------------


def patches(seed=0, n=400, classes=5):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels], labels


@pytest.mark.parametrize("k", [1, 2, 4])
def test_top_k_is_scikit_learns(k):
    logits, labels = patches()
    assert top_k_accuracy(logits, labels, k) == pytest.approx(
        peer.top_k_accuracy_score(labels, logits, k=k, labels=range(5))
    )


@given(hnp.arrays(np.int64, (6, 4), elements=st.integers(0, 2)), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_top_k_ranks_ties_as_argmax_does(logits, k):
    labels = np.arange(6) % 4
    ranked = [sorted(range(4), key=lambda c, row=row: (-row[c], c)) for row in logits]
    slow = np.mean([label in order[:k] for label, order in zip(labels, ranked, strict=True)])
    assert top_k_accuracy(logits, labels, k) == pytest.approx(slow)
    assert top_k_accuracy(logits, labels, 1) == np.mean(logits.argmax(axis=1) == labels)


def test_top_k_refuses_and_empties():
    logits, labels = patches(n=10)
    assert np.isnan(top_k_accuracy(np.zeros((0, 3)), [], 1))
    for k in (0, 6):
        with pytest.raises(ValueError, match="k="):
            top_k_accuracy(logits, labels, k)
    with pytest.raises(InputError, match="labels holds the value 9"):
        top_k_accuracy(logits, np.full(10, 9), 2)
    logits[3, 1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        top_k_accuracy(logits, labels, 2)


def test_softmax_is_scipys_and_does_not_overflow():
    logits = np.random.default_rng(0).normal(size=(3, 4, 5)) * 500
    assert softmax(logits) == pytest.approx(special.softmax(logits, axis=-1), abs=1e-15)
    assert softmax([1e30, 1e30]) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_calibration_is_a_loop_over_bins(bins):
    logits, labels = patches()
    p = softmax(3 * logits)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
    diagram = reliability(p, labels, bins)
    total = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        assert diagram.count[b] == inside.sum()
        if inside.any():
            assert diagram.accuracy[b] == pytest.approx(right[inside].mean())
            assert diagram.confidence[b] == pytest.approx(confidence[inside].mean())
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
        else:
            assert np.isnan([diagram.accuracy[b], diagram.confidence[b]]).all()
    assert expected_calibration_error(p, labels, bins) == pytest.approx(total)


def test_calibration_at_the_ends():
    sure = np.eye(3)
    assert expected_calibration_error(sure, [0, 1, 2]) == 0
    assert expected_calibration_error(sure, [1, 2, 0]) == 1
    assert reliability(sure, [0, 1, 2], 10).count.tolist() == [0] * 9 + [3]
    assert np.isnan(expected_calibration_error(np.zeros((0, 3)), []))
    with pytest.raises(InputError, match="softmax"):
        expected_calibration_error([[2.0, -1.0]], [0])
    with pytest.raises(ValueError, match="bins"):
        reliability(sure, [0, 1, 2], 0)


def test_a_model_that_knows_its_doubt_is_calibrated():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 40_000)
    labels = (rng.random((40_000, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(0, 2)
    assert expected_calibration_error(p, labels) < 0.01
    assert expected_calibration_error(p**2 / (p**2).sum(axis=1, keepdims=True), labels) > 0.05


def test_majority_vote_is_a_loop():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), (4, 200))
    votes = p.argmax(axis=2)
    for n, winner in enumerate(majority_vote(votes, p)):
        counts = [int((votes[:, n] == c).sum()) for c in range(3)]
        tied = [c for c in range(3) if counts[c] == max(counts)]
        assert winner == max(tied, key=lambda c, n=n: p[:, n, c].mean())


def test_majority_vote_by_hand():
    p = np.array([[[0.6, 0.4, 0.0]], [[0.0, 0.9, 0.1]]])
    assert majority_vote([[0], [1]], p).tolist() == [1]  # one vote each: 1 has the larger mean
    assert majority_vote([[0], [0]], p).tolist() == [0]  # votes come before probabilities
    assert majority_vote([[2], [0]], np.full((2, 1, 4), 0.25)).tolist() == [0]  # all equal: the lower class
    with pytest.raises(ValueError, match="predictions have shape"):
        majority_vote([0, 1], p)
    with pytest.raises(InputError, match="value 3"):
        majority_vote([[3], [0]], p)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (3, 9), (9, 3), (10, 10), (40, 20)])
def test_mcnemar_is_the_sum_of_binomial_tails(only_a, only_b):
    a = np.array([True] * only_a + [False] * only_b + [True] * 7 + [False] * 4)
    b = np.array([False] * only_a + [True] * only_b + [True] * 7 + [False] * 4)
    n = only_a + only_b
    tail = sum(math.comb(n, i) for i in range(min(only_a, only_b) + 1)) / 2**n
    assert mcnemar(a, b) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(a, b) == pytest.approx(stats.binomtest(only_b, n).pvalue if n else 1.0)


def test_mcnemar_refuses_what_is_not_boolean():
    with pytest.raises(ValueError, match="bool"):
        mcnemar([1, 0], [0, 1])


@pytest.mark.parametrize("hits", [0, 1, 7, 30, 39, 40])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_of_a_share_is_scipys_exact_one(hits, confidence):
    expected = stats.binomtest(hits, 40).proportion_ci(confidence, method="exact")
    assert proportion_interval(hits, 40, confidence) == pytest.approx(
        (expected.low, expected.high), abs=1e-12
    )


def test_the_interval_of_a_share_covers_and_knows_its_limits():
    """By enumeration: for every true share, the outcomes whose interval holds it have at least 95 %."""
    intervals = [proportion_interval(k, 25) for k in range(26)]
    for share in np.linspace(0.01, 0.99, 99):
        held = sum(
            stats.binom.pmf(k, 25, share) for k, (low, high) in enumerate(intervals) if low <= share <= high
        )
        assert held >= 0.95
    low, high = proportion_interval(2413, 2426)  # the paper's 99.46 %
    assert (round(low, 4), round(high, 4)) == (0.9909, 0.9971)
    assert proportion_interval(5, 5)[1] == 1
    assert proportion_interval(0, 5)[0] == 0
    assert all(math.isnan(v) for v in proportion_interval(0, 0))
    for hits, total, confidence in ((6, 5, 0.95), (-1, 5, 0.95), (1, 5, 1.0)):
        with pytest.raises(ValueError, match="Must be 0 <= hits <= total"):
            proportion_interval(hits, total, confidence)


# Compiled counting of pairs (extra `fast`).


@pytest.fixture
def compiled_pairs(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr("sartransfer.compiled.LARGE", 1)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int64", "uint16", "bool"])
@pytest.mark.parametrize("threads", [1, 3])
def test_compiled_counts_are_those_of_a_literal_loop(compiled_pairs, monkeypatch, dtype, threads):
    monkeypatch.setattr("sartransfer.compiled.thread_count", lambda: threads)
    monkeypatch.setattr("sartransfer.paircounts.STEP", 64)
    rng = np.random.default_rng(0)
    classes = 2 if dtype == "bool" else 5
    for size in (1, 3, 4, 1001):
        truth, guess = (rng.integers(0, classes, size).astype(dtype) for _ in range(2))
        valid = rng.random(size) < 0.7
        for keep in (None, valid):
            for ignore in (None, 1):
                slow = np.zeros((classes, classes), int)
                for i, (t, p) in enumerate(zip(truth, guess, strict=True)):
                    if (keep is None or keep[i]) and (ignore is None or int(t) != ignore):
                        slow[int(t), int(p)] += 1
                found = confusion_matrix(truth, guess, classes, valid=keep, ignore_index=ignore)
                assert found.dtype == np.int64
                assert np.array_equal(found, slow)


def test_compiled_counts_refuse_what_is_no_class(compiled_pairs):
    good = np.zeros(20, np.uint8)
    bad = good.copy()
    bad[7] = 9
    with pytest.raises(
        InputError, match=r"target holds the value 9. Must be a class from 0 to 2 or ignore_index=255"
    ):
        confusion_matrix(bad, good, 3, ignore_index=255)
    with pytest.raises(InputError, match="prediction holds the value 9"):
        confusion_matrix(good, bad, 3)
    bad[7] = 255
    assert confusion_matrix(bad, good, 3, ignore_index=255)[0, 0] == 19
    valid = np.arange(20) != 7
    assert confusion_matrix(good, bad, 3, valid=valid)[0, 0] == 19  # what does not count may be anything
    assert confusion_matrix(bad, bad, 3, ignore_index=255)[0, 0] == 19
    wide = np.array([0, 300, 2])
    assert confusion_matrix(wide, wide, 301).trace() == 3
    assert confusion_matrix(np.array([0, -1]), np.array([0, 0]), 2, ignore_index=-1)[0, 0] == 1
    with pytest.raises(InputError, match="target holds the value 300"):
        confusion_matrix(wide, wide, 3)
    assert confusion_matrix(np.array([0, 255]), np.array([255, 0]), 300)[255, 0] == 1
