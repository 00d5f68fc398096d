"""Top-k losses against their definition over all subsets, gradcheck and closed forms."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sartransfer import train
from sartransfer.errors import InputError, RecipeError
from sartransfer.losses import (
    CombinedLoss,
    GeneralizedCrossEntropy,
    TopKSmoothLoss,
    build_loss,
    complement_weights,
    topk,
)
from sartransfer.recipe import TrainingRecipe

torch.set_num_threads(1)
SEVEN = 2.0535728860  # n = 7, equal scores, k = 2, tau = alpha = 1; log(1 + e * 15 / 6)


def by_subsets(scores, target, k, tau, alpha=1.0):
    """Loss of each row (N,) by the definition, Berrada et al. (2018): every set of k classes, in float64.

    tau log sum_Y exp((alpha [y not in Y] + sum_{j in Y} s_j / k) / tau) - the same over the Y that hold y.
    """
    s = scores.double()
    subsets = torch.tensor(list(itertools.combinations(range(s.shape[1]), k)))
    values = s[:, subsets].sum(2) / k
    hit = (subsets == target[:, None, None]).any(2)
    every = torch.logsumexp((values + alpha * (~hit).double()) / tau, 1)
    return tau * (every - torch.logsumexp(torch.where(hit, values / tau, -torch.inf), 1))


def draw(seed, rows, n, scale=1.0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    scores = (torch.randn(rows, n, generator=g, dtype=torch.float64) * scale).to(dtype)
    return scores.requires_grad_(), torch.randint(0, n, (rows,), generator=g)


def by_row(loss, scores, target):
    """Loss of each row and the gradient of their sum, one call a row (a mean would hide small ones)."""
    values = torch.stack([loss(scores[i : i + 1], target[i : i + 1]) for i in range(len(scores))])
    return values.detach(), torch.autograd.grad(values.sum(), scores)[0]


@pytest.mark.parametrize("tau", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0, 1e3])
@pytest.mark.parametrize(("dtype", "far"), [(torch.float64, 1e-11), (torch.float32, 5e-6)])
def test_the_closed_form_is_the_sum_over_all_pairs(tau, scale, dtype, far):
    for n in (3, 4, 7, 30):
        scores, target = draw(n, 8, n, scale, dtype)
        value, gradient = by_row(TopKSmoothLoss(2, tau), scores, target)
        exact = by_subsets(scores, target, 2, tau)
        (slope,) = torch.autograd.grad(exact.sum(), scores)
        assert ((value - exact).abs() / exact.abs().clamp(min=1)).max() < far
        # Both round: the definition itself only knows its exponents to 1e-12 at the largest scale.
        assert (gradient - slope).abs().max() < max(far, 1e-9)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize(("scale", "tau"), [(1.0, 1.0), (1.0, 0.1), (1e3, 0.1), (1e-3, 2.0)])
def test_any_k_is_the_sum_over_all_subsets(k, scale, tau):
    for n in (k + 1, k + 2, 8, 11):
        scores, target = draw(100 + n, 6, n, scale)
        settings = TopKSmoothLoss(k, tau, 0.7).settings
        # k = 2 too by the recursion, which the module does not take for it
        value = topk._any_k(scores, target, None, k, settings)
        exact = by_subsets(scores, target, k, tau, 0.7).mean()
        slopes = [torch.autograd.grad(v, scores)[0] for v in (value, exact)]
        torch.testing.assert_close(value, exact, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(*slopes, rtol=0, atol=1e-10)
        torch.testing.assert_close(TopKSmoothLoss(k, tau, 0.7)(scores, target), value, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_any_k_holds_in_float32_and_for_many_classes(k):
    scores, target = draw(5, 8, 25, 30.0, torch.float32)
    value, exact = TopKSmoothLoss(k, 0.5)(scores, target), by_subsets(scores, target, k, 0.5).mean()
    torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=1e-6)
    many, label = draw(6, 4, 1001, 3.0)
    polynomial = np.array([np.poly(-np.exp(np.delete(row, y) / k))[k - 1 : k + 1] for row, y in
                           zip(many.detach().numpy(), label.numpy(), strict=True)])  # fmt: skip
    at_label = many.detach().gather(1, label[:, None])[:, 0].numpy() / k
    expected = np.logaddexp(0, 1 + np.log(polynomial[:, 1] / polynomial[:, 0]) - at_label).mean()
    assert TopKSmoothLoss(k)(many, label).item() == pytest.approx(expected, rel=1e-10)


def test_top_1_is_cross_entropy_with_a_margin():
    scores, target = draw(7, 9, 6)
    margin = scores + (1 - F.one_hot(target, 6)).double()
    torch.testing.assert_close(TopKSmoothLoss(1)(scores, target), F.cross_entropy(margin, target))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_constant_of_seven_equal_scores(dtype):
    far = 1e-10 if dtype == torch.float64 else 2e-7
    assert math.log1p(math.e * 15 / 6) == pytest.approx(SEVEN, abs=5e-11)
    for level in (0.0, -3.0, 1e4):
        loss = TopKSmoothLoss()(torch.full((5, 7), level, dtype=dtype), torch.tensor([0, 1, 3, 5, 6]))
        assert loss.item() == pytest.approx(SEVEN, abs=far)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("n", [3, 4, 8])
@pytest.mark.parametrize("weights", [False, True])
def test_gradcheck_and_gradgradcheck(k, n, weights):
    scores, target = draw(20 + n, 4, n, 2.0)
    target[1] = 255
    loss = TopKSmoothLoss(k, 0.7, class_weights=[0.5 + i for i in range(n)] if weights else None)
    assert torch.autograd.gradcheck(lambda s: loss(s, target), scores)
    if n > k:
        assert torch.autograd.gradgradcheck(lambda s: loss(s, target), scores)


def test_gradcheck_where_scores_tie():
    """The two highest others are one class, then another: no kink may show, in either derivative."""
    scores = torch.tensor([[1.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0], [5.0, 5.0, 1.0, 5.0]]).double()
    scores.requires_grad_()
    target = torch.tensor([0, 2, 1])
    loss = TopKSmoothLoss()
    assert torch.autograd.gradcheck(lambda s: loss(s, target), scores)
    assert torch.autograd.gradgradcheck(lambda s: loss(s, target), scores)
    (slope,) = torch.autograd.grad(loss(scores, target), scores)
    torch.testing.assert_close(slope[0, 1:], slope[0, 1].expand(3))
    torch.testing.assert_close(slope[1, [0, 1, 3]], slope[1, 0].expand(3))


def test_the_way_of_tensors_is_the_way_of_arrays():
    """What a GPU computes, and what second derivatives go through, against what a CPU computes."""
    for n, scale, tau in ((3, 1.0, 1.0), (9, 100.0, 0.3), (40, 1e4, 0.1), (12, 0.0, 1.0)):
        scores, target = draw(30 + n, 20, n, scale)
        target[::6] = 255
        loss = TopKSmoothLoss(2, tau, class_weights=torch.linspace(0.2, 2, n))
        weights = loss.class_weights.double()
        value, gradient = topk._top2_by_torch(scores, target, weights, loss.settings, differentiate=True)
        ours = loss(scores, target)
        torch.testing.assert_close(ours, value, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.autograd.grad(ours, scores)[0], gradient, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_nothing_jumps_where_the_highest_other_leaves_the_rest_behind(tau):
    """Past a gap of 138 tau (float32) the sums underflow and the row is worked out another way."""
    gaps = torch.linspace(0, 400, 801) * tau
    scores = torch.tensor([0.0, -0.3, 0.2, -1.0]).repeat(801, 1) * tau
    scores[:, 1] += gaps
    scores.requires_grad_()
    target = torch.full((801,), 3)
    value, gradient = by_row(TopKSmoothLoss(2, tau), scores, target)
    exact = by_subsets(scores, target, 2, tau)
    (slope,) = torch.autograd.grad(exact.sum(), scores)
    torch.testing.assert_close(value.double(), exact, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(gradient, slope, rtol=1e-5, atol=1e-6)
    together = torch.autograd.grad(TopKSmoothLoss(2, tau)(scores, target), scores)[0]
    torch.testing.assert_close(together * 801, gradient)


def test_blocks_do_not_show(monkeypatch):
    scores, target = draw(8, 50, 7, 60.0, torch.float32)
    target[3] = 255
    loss = TopKSmoothLoss(2, 0.2, class_weights=[1, 2, 3, 4, 5, 6, 7])
    whole = loss(scores, target)
    (slope,) = torch.autograd.grad(whole, scores)
    monkeypatch.setattr(topk, "BLOCK", 20)
    torch.testing.assert_close(loss(scores, target), whole)
    torch.testing.assert_close(torch.autograd.grad(loss(scores, target), scores)[0], slope)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_scores_of_ten_thousand_stay_finite(k, dtype, tau):
    scores = torch.tensor([[1e4, 0, -1e4, 1e4], [1e4, -1e4, -1e4, -1e4], [-1e4, 1e4, 0, 1e4], [1e4] * 4])
    scores = torch.cat([scores, -scores]).to(dtype).requires_grad_()
    for label in range(4):
        target = torch.full((8,), label)
        value = TopKSmoothLoss(k, tau)(scores, target)
        (slope,) = torch.autograd.grad(value, scores)
        exact = by_subsets(scores, target, k, tau).mean()
        assert value.dtype == torch.float32
        assert slope.dtype == dtype
        assert torch.isfinite(slope).all()
        torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=1e-6)


def test_what_is_not_finite_is_not_hidden():
    scores, target = draw(9, 3, 5)
    for bad in (math.nan, math.inf, -math.inf):
        with torch.no_grad():
            scores[1, target[1]] = bad
        value = TopKSmoothLoss()(scores, target)
        assert bool(torch.isfinite(value)) == (bad == math.inf)  # a label of infinite score costs nothing


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_gradient_sums_to_zero_and_pulls_the_label_by_at_most_one_kth(k):
    for scale in (0.1, 3.0, 300.0):
        scores, target = draw(10, 60, 9, scale)
        value, slope = by_row(TopKSmoothLoss(k, 0.5), scores, target)
        pull = slope.gather(1, target[:, None])
        assert (value >= 0).all()
        assert slope.sum(1).abs().max() < 1e-12
        assert (pull <= 0).all()
        assert (pull >= -1 / k - (0.0 if k == 2 else 1e-12)).all()
        assert (slope.scatter(1, target[:, None], 0.0) >= (0.0 if k == 2 else -1e-12)).all()


def test_a_label_among_two_classes_is_always_hit():
    scores, target = draw(11, 4, 2)
    for loss in (TopKSmoothLoss(), TopKSmoothLoss(3), TopKSmoothLoss(5, class_weights=[1, 2])):
        value = loss(scores, target)
        assert value.item() == 0.0
        assert torch.equal(torch.autograd.grad(value, scores)[0], torch.zeros_like(scores))
        with pytest.raises(InputError, match="holds 2"):
            loss(scores, target + 2)


LOSSES = [
    TopKSmoothLoss(),
    TopKSmoothLoss(3, 0.5),
    TopKSmoothLoss(class_weights=[0.3, 1, 2, 0, 1]),
    TopKSmoothLoss(divide_by="count", class_weights=[0.3, 1, 2, 0, 1]),
    GeneralizedCrossEntropy(class_weights=[0.3, 1, 2, 0, 1]),
    CombinedLoss(class_weights=[0.3, 1, 2, 0, 1]),
    CombinedLoss(weight_on="top2", class_weights=[0.3, 1, 2, 0, 1]),
]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("last", [False, True])
def test_dense_targets_are_rows_laid_out_as_an_image(loss, last):
    g = torch.Generator().manual_seed(12)
    image = torch.randn(2, 5, 4, 6, generator=g)
    image = (image.contiguous(memory_format=torch.channels_last) if last else image).requires_grad_()
    target = torch.randint(0, 5, (2, 4, 6), generator=g)
    target[torch.rand(2, 4, 6, generator=g) < 0.3] = 255
    rows = image.detach().permute(0, 2, 3, 1).reshape(-1, 5)[target.reshape(-1) != 255].requires_grad_()
    dense, flat = loss(image, target), loss(rows, target[target != 255])
    torch.testing.assert_close(dense, flat)
    slope = torch.autograd.grad(dense, image)[0].permute(0, 2, 3, 1)
    torch.testing.assert_close(slope[target != 255], torch.autograd.grad(flat, rows)[0])
    assert (slope[target == 255] == 0).all()
    with torch.no_grad():
        torch.testing.assert_close(loss(image, target), dense)
    (twice,) = torch.autograd.grad(3 * loss(image, target), image)
    torch.testing.assert_close(twice.permute(0, 2, 3, 1), 3 * slope)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_batch_with_nothing_that_counts_gives_zero(loss):
    for scores, target in (
        (torch.randn(3, 5), torch.full((3,), 255)),
        (torch.randn(2, 5, 3, 3), torch.full((2, 3, 3), 255)),
        (torch.randn(0, 5), torch.zeros(0, dtype=torch.long)),
    ):
        value = loss(scores.requires_grad_(), target)
        assert value.item() == 0.0
        assert torch.equal(torch.autograd.grad(value, scores)[0], torch.zeros_like(scores))


@pytest.mark.parametrize("k", [2, 3])
def test_weights_and_divisors_are_sums_by_hand(k):
    scores, target = draw(13, 10, 5)
    target[4] = 255
    kept = target != 255
    terms = by_subsets(scores[kept], target[kept], k, 1.0)
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0, 0.0])
    share = weights[target[kept]].double()
    for divide_by, below in (("weights", share.sum()), ("count", kept.sum())):
        loss = TopKSmoothLoss(k, class_weights=weights, divide_by=divide_by)
        torch.testing.assert_close(loss(scores, target), (terms * share).sum() / below)
        assert not loss.state_dict()
    only = TopKSmoothLoss(k, class_weights=[0, 0, 0, 0, 1.0])
    rest = torch.where(target == 4, 255, target)  # no pixel has a weight
    assert only(scores, rest).item() == 0.0


def test_another_ignore_index_even_a_class_and_labels_in_bytes():
    scores, target = draw(14, 12, 5, 1.0, torch.float32)
    plain = TopKSmoothLoss()
    for k in (2, 3):
        for number in (-100, 3):
            marked = torch.where(target == 3, number, target)
            moved = torch.where(target == 3, 255, target)
            loss = TopKSmoothLoss(k, ignore_index=number)
            torch.testing.assert_close(loss(scores, marked), TopKSmoothLoss(k)(scores, moved))
    assert torch.equal(plain(scores, target.to(torch.uint8)), plain(scores, target))


def test_ignored_rows_may_hold_anything():
    scores, target = draw(15, 6, 4, 1.0, torch.float32)
    target[2] = 255
    with torch.no_grad():
        scores[2] = math.nan
    for k in (2, 3):
        value = TopKSmoothLoss(k)(scores, target)
        (slope,) = torch.autograd.grad(value, scores)
        keep = torch.arange(6) != 2
        torch.testing.assert_close(value, TopKSmoothLoss(k)(scores[keep], target[keep]))
        assert (slope[2] == 0).all()


def test_eq_3_gives_the_papers_numbers():
    counts = [24930, 2979, 4485, 6029, 4911, 2240, 6826]
    printed = [0.087373, 0.157191, 0.152401, 0.147490, 0.151046, 0.159542, 0.144955]
    coded = [0.611609, 1.100340, 1.066810, 1.032433, 1.057325, 1.116794, 1.014688]
    np.testing.assert_allclose(complement_weights(counts, literal=True), printed, atol=6e-7)
    np.testing.assert_allclose(complement_weights(counts), coded, atol=6e-7)
    assert complement_weights(counts, literal=True).sum() == pytest.approx(1.0)
    assert complement_weights(counts).mean() == pytest.approx(1.0)
    np.testing.assert_allclose(complement_weights([0, 30, 10]), [1.5, 0.375, 1.125])
    for wrong in ([5], [], [0, 0], [3, -1], [1.0, math.nan], [[1, 2]]):
        with pytest.raises(InputError, match="counts="):
            complement_weights(wrong)


def test_taken_literally_the_weights_make_the_top_2_term_nearly_inert():
    """With eq. (3) as printed its factors are .017 to .032 against .8 of cross-entropy."""
    counts = [24930, 2979, 4485, 6029, 4911, 2240, 6826]
    scores, target = torch.zeros(7, 7), torch.arange(7)
    loss = CombinedLoss(weight_on="top2", class_weights=complement_weights(counts, literal=True).tolist())
    top2 = [loss(scores[i : i + 1], target[i : i + 1]).item() - 0.8 * math.log(7) for i in range(7)]
    shares = np.array(top2) / SEVEN
    assert shares.min() == pytest.approx(0.2 * 0.087373, rel=1e-4)
    assert shares.max() == pytest.approx(0.2 * 0.159542, rel=1e-4)


@pytest.mark.parametrize(("wanted", "literal"), [("complement", False), ("complement-literal", True)])
def test_a_recipe_may_ask_for_them(monkeypatch, wanted, literal):
    counts = np.array([30, 0, 10])
    monkeypatch.setattr(train, "class_frequencies", lambda store: counts)
    task = SimpleNamespace(
        training=TrainingRecipe(class_weights=wanted), train=None, classes=("ice", "water", "land")
    )
    np.testing.assert_allclose(train._class_weights(task), complement_weights(counts, literal=literal))


@pytest.mark.parametrize("weight_on", ["both", "top2"])
@pytest.mark.parametrize("lam", [0.0, 0.2, 1.0])
def test_the_combined_loss_is_the_sum_of_its_parts(weight_on, lam):
    scores, target = draw(16, 12, 5, 2.0)
    target[3] = 255
    weights = torch.tensor([0.5, 1.0, 2.0, 0.1, 1.4]).double()
    kept = target != 255
    w = weights[target[kept]]
    cross = -F.log_softmax(scores[kept], 1).gather(1, target[kept, None])[:, 0]
    pairs = by_subsets(scores[kept], target[kept], 2, 0.7, 1.5)
    v = w if weight_on == "both" else torch.ones_like(w)
    for divide_by, below in (("count", (11.0, 11.0)), ("weights", (v.sum(), w.sum()))):
        loss = CombinedLoss(
            lam, 0.7, weight_on, alpha=1.5, class_weights=weights.float(), divide_by=divide_by
        )
        expected = (1 - lam) * (v * cross).sum() / below[0] + lam * (w * pairs).sum() / below[1]
        torch.testing.assert_close(loss(scores, target), expected, rtol=1e-7, atol=0)
        assert torch.autograd.gradcheck(lambda s, loss=loss: loss(s, target), scores)
        assert not loss.state_dict()


def test_generalized_cross_entropy_lies_between_cross_entropy_and_one_minus_p():
    scores, target = draw(17, 12, 5, 2.0)
    p = scores.softmax(1).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(GeneralizedCrossEntropy(1.0)(scores, target), (1 - p).mean())
    torch.testing.assert_close(GeneralizedCrossEntropy(0.7)(scores, target), ((1 - p**0.7) / 0.7).mean())
    cross = F.cross_entropy(scores, target)
    torch.testing.assert_close(GeneralizedCrossEntropy(1e-9)(scores, target), cross, rtol=1e-7, atol=0)
    # its gradient is cross-entropy's times p^q: what the network does not believe teaches less
    (slope,) = torch.autograd.grad(GeneralizedCrossEntropy(0.7)(scores, target), scores)
    logp = F.log_softmax(scores, 1).gather(1, target[:, None])[:, 0]
    (expected,) = torch.autograd.grad((-(p.detach() ** 0.7) * logp).mean(), scores)
    torch.testing.assert_close(slope, expected)
    loss = GeneralizedCrossEntropy()
    assert torch.autograd.gradcheck(lambda s: loss(s, target), scores)
    assert torch.autograd.gradgradcheck(lambda s: loss(s, target), scores)
    sharp = (scores.detach().float() * 1e4).requires_grad_()
    (steep,) = torch.autograd.grad(loss(sharp, target), sharp)
    assert torch.isfinite(steep).all()


def test_the_recipes_names_build_the_modules():
    scores, target = draw(18, 9, 4, 1.0, torch.float32)
    weights = [1.0, 2.0, 3.0, 0.5]
    for name, options, module in (
        (
            "topk_smooth",
            {"k": 3, "tau": 0.5, "alpha": 2.0},
            TopKSmoothLoss(3, 0.5, 2.0, class_weights=weights),
        ),
        ("topk_smooth", {}, TopKSmoothLoss(class_weights=weights)),
        (
            "combined",
            {"lam": 0.4, "weight_on": "top2"},
            CombinedLoss(0.4, 1.0, "top2", class_weights=weights),
        ),
        ("generalized_cross_entropy", {"q": 0.4}, GeneralizedCrossEntropy(0.4, class_weights=weights)),
    ):
        built = build_loss({name: 2.0}, num_classes=4, class_weights=weights, options={name: options})
        torch.testing.assert_close(built(scores, target), 2 * module(scores, target))


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("topk_smooth", {"k": 0}, "k=0: must be a whole number from 1"),
        ("topk_smooth", {"k": 2.0}, "k=2.0"),
        ("topk_smooth", {"k": True}, "k=True"),
        ("topk_smooth", {"tau": 0.0}, "tau=0.0: must be above 0"),
        ("topk_smooth", {"tau": math.inf}, "tau=inf"),
        ("topk_smooth", {"alpha": -1.0}, "alpha=-1.0: must be 0 or more"),
        ("topk_smooth", {"alpha": math.nan}, "alpha=nan"),
        ("topk_smooth", {"divide_by": "weight"}, "Did you mean 'weights'"),
        ("combined", {"lam": 1.5}, "lam=1.5: must be from 0 to 1"),
        ("combined", {"weight_on": "top-2"}, "Did you mean 'top2'"),
        ("combined", {"tau": -1.0}, "tau=-1.0"),
        ("generalized_cross_entropy", {"q": 0.0}, "q=0.0: must be above 0"),
        ("generalized_cross_entropy", {"q": 1.1}, "q=1.1"),
    ],
)
def test_wrong_settings_are_refused_in_plain_words(name, options, match):
    with pytest.raises(RecipeError, match=match):
        build_loss({name: 1.0}, num_classes=4, options={name: options})


def test_weights_labels_and_shapes_that_do_not_fit_are_refused():
    for weights in ([1.0, -1.0], [0.0, 0.0], [[1.0]], [math.nan, 1.0]):
        with pytest.raises(RecipeError, match="class_weights="):
            TopKSmoothLoss(class_weights=weights)
    scores, target = draw(19, 6, 4)
    for k in (2, 3):
        for label in (4, -1, 254):
            wrong = target.clone()
            wrong[2] = label
            with pytest.raises(InputError, match=f"holds {label}: labels go from 0 to 3, and 255 is ignored"):
                TopKSmoothLoss(k)(scores, wrong)
    for loss in (TopKSmoothLoss(), GeneralizedCrossEntropy(), CombinedLoss()):
        with pytest.raises(InputError, match="do not fit"):
            loss(scores, target[:3])
        with pytest.raises(InputError, match="integer"):
            loss(scores, target.float())
    with pytest.raises(InputError, match="3 class weights do not fit"):
        TopKSmoothLoss(class_weights=[1, 2, 3])(scores, target)


def test_a_network_learns_with_it():
    """Two of three classes cannot be told apart: top-2 is content when both are ahead of the third."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 1, generator=g)
    target = torch.where(x[:, 0] > 0, 2, torch.randint(0, 2, (300,), generator=g))
    layer = torch.nn.Linear(1, 3)
    for _ in range(200):
        layer.zero_grad()
        TopKSmoothLoss(tau=0.3)(layer(x), target).backward()
        with torch.no_grad():
            for p in layer.parameters():
                p -= p.grad
    two = layer(x).topk(2, dim=1).indices
    assert (two == target[:, None]).any(1).float().mean() > 0.97
