"""Losses against slow loops over pixels and against torch, segmentation-models-pytorch and closed forms."""

import math

import pytest
import segmentation_models_pytorch as smp
import torch
from torch.nn import functional as F

from sartransfer.errors import InputError, RecipeError
from sartransfer.losses import LOSSES, build_loss

torch.set_num_threads(1)
C = 3


def _batch(seed: int = 0, shape: tuple[int, ...] = (2, 5, 4), dtype: torch.dtype = torch.float64):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape[0], C, *shape[1:], generator=g, dtype=dtype) * 2
    target = torch.randint(0, C, shape, generator=g)
    target[torch.rand(shape, generator=g) < 0.2] = 255
    return logits, target


def _pixels(logits, target):
    """(probabilities, label) of every pixel that counts, with plain Python floats."""
    rows = logits.movedim(1, -1).reshape(-1, C).tolist()
    for row, label in zip(rows, target.reshape(-1).tolist(), strict=True):
        if label != 255:
            total = sum(math.exp(v) for v in row)
            yield [math.exp(v) / total for v in row], label


@pytest.mark.parametrize("shape", [(2, 5, 4), (7,)])
@pytest.mark.parametrize("weights", [None, [0.2, 1.0, 3.0]])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_cross_entropy_and_focal_are_the_weighted_mean_over_pixels(shape, weights, gamma):
    logits, target = _batch(1, shape)
    w = weights or [1.0] * C
    top = sum(-w[y] * (1 - p[y]) ** gamma * math.log(p[y]) for p, y in _pixels(logits, target))
    expected = top / sum(w[y] for _, y in _pixels(logits, target))
    name, options = ("focal", {"gamma": gamma}) if gamma else ("cross_entropy", {})
    loss = build_loss({name: 1.0}, num_classes=C, class_weights=weights, options={name: options})
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_and_its_gradient_are_torchs(smoothing):
    logits, target = _batch(2)
    logits.requires_grad_()
    weights = torch.tensor([0.5, 1.0, 2.0])
    loss = build_loss(
        {"cross_entropy": 1.0},
        num_classes=C,
        class_weights=weights,
        options={"cross_entropy": {"label_smoothing": smoothing}},
    )
    ours = loss(logits, target)
    peer = F.cross_entropy(logits, target, weights.double(), ignore_index=255, label_smoothing=smoothing)
    torch.testing.assert_close(ours, peer)
    torch.testing.assert_close(*(torch.autograd.grad(v, logits)[0] for v in (ours, peer)))


def test_focal_with_gamma_zero_is_cross_entropy():
    logits, target = _batch(3)
    focal = build_loss({"focal": 1.0}, num_classes=C, options={"focal": {"gamma": 0.0}})
    plain = build_loss({"cross_entropy": 1.0}, num_classes=C)
    torch.testing.assert_close(focal(logits, target), plain(logits, target))


@pytest.mark.parametrize("smooth", [0.0, 1.0])
@pytest.mark.parametrize("classes", [None, [1], [0, 2]])
def test_dice_is_the_slow_formula_over_the_classes_present(smooth, classes):
    logits, target = _batch(4)
    target[target == 2] = 0  # class 2 is absent
    both, p_sum, t_sum = [0.0] * C, [0.0] * C, [0.0] * C
    for p, y in _pixels(logits, target):
        both[y] += p[y]
        t_sum[y] += 1
        for c in range(C):
            p_sum[c] += p[c]
    chosen = [c for c in (classes or range(C)) if t_sum[c]]
    terms = [1 - (2 * both[c] + smooth) / (p_sum[c] + t_sum[c] + smooth) for c in chosen]
    loss = build_loss({"dice": 1.0}, num_classes=C, options={"dice": {"smooth": smooth, "classes": classes}})
    assert loss(logits, target).item() == pytest.approx(sum(terms) / len(terms), rel=1e-9)


def test_dice_is_smps_where_every_class_is_present():
    logits, target = _batch(5, (2, 9, 8), torch.float32)
    peer = smp.losses.DiceLoss("multiclass", ignore_index=255)
    ours = build_loss({"dice": 1.0}, num_classes=C)
    torch.testing.assert_close(ours(logits, target), peer(logits, target))


def test_dice_of_a_perfect_and_of_an_inverted_prediction():
    target = torch.tensor([[[0, 1], [1, 0]]])
    right = F.one_hot(target, 2).movedim(-1, 1) * 100.0
    loss = build_loss({"dice": 1.0}, num_classes=2)
    assert loss(right, target).item() == pytest.approx(0.0, abs=1e-6)
    assert loss(-right, target).item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_of_ignored_pixels_gives_zero_with_a_gradient(name):
    logits = torch.randn(2, C, 4, 4, requires_grad=True)
    loss = build_loss({name: 1.0}, num_classes=C)(logits, torch.full((2, 4, 4), 255))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_neither_count_nor_learn(name):
    logits, target = _batch(6)
    other = logits.clone()
    other.movedim(1, -1)[target == 255] = 50.0
    other.requires_grad_()
    loss = build_loss({name: 1.0}, num_classes=C)
    value = loss(other, target)
    torch.testing.assert_close(value, loss(logits, target))
    (grad,) = torch.autograd.grad(value, other)
    assert (grad.movedim(1, -1)[target == 255] == 0).all()
    assert (grad.movedim(1, -1)[target != 255] != 0).any()


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_right_and_stay_finite_on_extreme_logits(name):
    loss = build_loss({name: 1.0}, num_classes=C, options={"focal": {"gamma": 0.5}})
    logits, target = _batch(7, (1, 2, 3))
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits.requires_grad_())
    sharp = (torch.randn(2, C, 4, 4) * 1e4).requires_grad_()
    value = loss(sharp, torch.randint(0, C, (2, 4, 4)))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(sharp.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_everything_is_float32_under_bfloat16(name):
    logits, target = _batch(8, (2, 64, 64), torch.float32)
    half = logits.bfloat16()
    loss = build_loss({name: 1.0}, num_classes=C, class_weights=[1.0, 2.0, 0.5])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(half, target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(half.float(), target))


def test_the_sum_is_weighted_and_takes_bytes_as_labels():
    logits, target = _batch(9)
    both = build_loss({"cross_entropy": 0.5, "dice": 2.0}, num_classes=C)
    one, two = (build_loss({n: 1.0}, num_classes=C)(logits, target) for n in ("cross_entropy", "dice"))
    torch.testing.assert_close(both(logits, target.to(torch.uint8)), 0.5 * one + 2.0 * two)


def test_another_ignore_index_and_no_state():
    logits, target = _batch(10)
    loss = build_loss(
        {"cross_entropy": 1.0, "dice": 1.0, "focal": 1.0},
        num_classes=C,
        ignore_index=-100,
        class_weights=[1, 2, 3],
    )
    plain = build_loss(
        {"cross_entropy": 1.0, "dice": 1.0, "focal": 1.0}, num_classes=C, class_weights=[1, 2, 3]
    )
    moved = torch.where(target == 255, -100, target)
    torch.testing.assert_close(loss(logits, moved), plain(logits, target))
    assert not loss.state_dict()  # class weights never get into a checkpoint


def test_labels_and_shapes_that_do_not_fit_are_refused():
    logits, target = _batch(11)
    loss = build_loss({"dice": 1.0}, num_classes=C)
    target[0, 0, 0] = 7
    with pytest.raises(InputError, match="holds 7: labels go from 0 to 2, and 255 is ignored"):
        loss(logits, target)
    with pytest.raises(InputError, match="do not fit"):
        loss(logits[:, :2], target)
    with pytest.raises(InputError, match="do not fit"):
        loss(logits, target[:, :-1])


@pytest.mark.parametrize(
    ("terms", "more", "match"),
    [
        ({}, {}, "one term at least"),
        ({"dise": 1.0}, {}, "Did you mean 'dice'"),
        ({"dice": 0.0}, {}, "above 0"),
        ({"dice": 1.0}, {"options": {"dice": {"gama": 1}}}, "gama"),
        ({"dice": 1.0}, {"options": {"dice": {"classes": [3]}}}, "from 0 to 2"),
        ({"dice": 1.0}, {"options": {"dice": {"smooth": -1.0}}}, "0 or more"),
        ({"focal": 1.0}, {"options": {"focal": {"gamma": -1.0}}}, "0 or more"),
        ({"cross_entropy": 1.0}, {"class_weights": [1, 2]}, "expected 3 numbers"),
        ({"cross_entropy": 1.0}, {"options": {"cross_entropy": {"label_smoothing": 1.0}}}, "under 1"),
    ],
)
def test_wrong_settings_are_refused_in_plain_words(terms, more, match):
    with pytest.raises(RecipeError, match=match):
        build_loss(terms, num_classes=C, **more)
