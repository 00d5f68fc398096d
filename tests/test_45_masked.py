"""Masked autoencoding: which patches are hidden, what is painted, and the loss, against slow loops."""

import math

import pytest
import torch

from sartransfer.errors import InputError, RecipeError, WeightsError
from sartransfer.models import build_model, load_initialization
from sartransfer.models.masked import MaskedAutoencoder, check_form, pretraining_report
from sartransfer.models.prithvi_weights import load_prithvi
from sartransfer.models.weights import Weights

torch.set_num_threads(1)
TINY = {"width": 32, "depth": 2, "heads": 2, "patch": 4, "neck_channels": 8, "head_channels": 8}


def _model(bands=2, **options):
    torch.manual_seed(0)
    masked = {k: options.pop(k) for k in ("normalize",) if k in options}
    network = build_model("vit", bands, 2, **{**TINY, **options})
    return MaskedAutoencoder(network, width=16, depth=1, heads=2, **masked).eval(), network


def test_a_network_of_own_size_is_built_by_name():
    model = build_model("vit", 3, 2)
    assert (model.encoder.width, model.encoder.depth, model.encoder.patch) == (192, 8, 16)
    small = build_model("vit", 4, 2, **TINY, frames=2, decoder="fcn")
    assert (small.encoder.width, small.encoder.depth, small.stride, small.frames) == (32, 2, 4, 2)
    assert small.eval()(torch.zeros(1, 4, 12, 16)).shape == (1, 2, 12, 16)


@pytest.mark.parametrize(("ratio", "seen"), [(0.75, 6), (0.5, 12), (0.999, 1), (0.001, 23)])
def test_so_many_patches_are_hidden_and_each_as_often(ratio, seen):
    model, _ = _model()
    x = torch.zeros(400, 2, 16, 24)  # 24 patches
    kept, hidden = model.draw(x, ratio, torch.Generator().manual_seed(1))
    assert kept.shape == (400, seen)
    assert (hidden.sum(1) == 24 - seen).all()
    for row, own in zip(kept, hidden, strict=True):
        assert row.tolist() == [i for i in range(24) if not own[i]]
    expected = 400 * (24 - seen) / 24
    spread = math.sqrt(400 * (24 - seen) / 24 * seen / 24)
    assert ((hidden.sum(0) - expected).abs() < 5 * spread + 1).all()
    again = model.draw(x, ratio, torch.Generator().manual_seed(1))
    assert torch.equal(kept, again[0])
    with pytest.raises(InputError, match="one patch of 4"):
        model.draw(torch.zeros(1, 2, 4, 4), ratio, torch.Generator())


@pytest.mark.parametrize(("bands", "frames"), [(2, 1), (2, 2), (6, 2)])
def test_patches_are_the_tokens_own_pixels(bands, frames):
    model, _ = _model(bands, frames=frames)
    x = torch.randn(2, bands, 8, 12)
    found = model.patches(x)
    each = bands // frames
    assert found.shape == (2, frames * 2 * 3, 16 * each)
    for t in range(frames):
        for row in range(2):
            for column in range(3):
                cut = x[:, t * each : (t + 1) * each, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                own = found[:, (t * 2 + row) * 3 + column].reshape(2, 4, 4, each)
                assert torch.equal(own.permute(0, 3, 1, 2), cut)


@pytest.mark.parametrize("normalize", [True, False])
def test_the_loss_is_the_mean_over_hidden_valid_patches(normalize):
    model, _ = _model(4, frames=2, normalize=normalize)
    x = torch.randn(3, 4, 8, 16)
    kept, hidden = model.draw(x, 0.6, torch.Generator().manual_seed(2))
    valid = torch.rand(3, 8, 16) < 0.6
    valid[0] = False
    with torch.no_grad():
        loss, number = model.loss(x, kept, hidden, valid)
        painted, own = model(x, kept), model.patches(x)
        whole, all_hidden = model.loss(x, kept, hidden)
    errors, every = [], []
    for b in range(3):
        for token in range(16):
            if not hidden[b, token]:
                continue
            pixels = own[b, token].double()
            if normalize:
                mean = pixels.mean()
                scale = math.sqrt(((pixels - mean) ** 2).sum() / (len(pixels) - 1) + 1e-6)
                pixels = (pixels - mean) / scale
            error = float(((painted[b, token].double() - pixels) ** 2).mean())
            every.append(error)
            row, column = divmod(token % 8, 4)
            if valid[b, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].float().mean() >= 0.5:
                errors.append(error)
    assert 0 < number == len(errors) < all_hidden == len(every)
    assert float(loss) == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    assert float(whole) == pytest.approx(sum(every) / len(every), rel=1e-5)


def test_nothing_is_seen_of_a_hidden_patch():
    model, _ = _model(2, frames=2)
    x = torch.randn(1, 2, 16, 16)
    kept, hidden = model.draw(x, 0.75, torch.Generator().manual_seed(3))
    changed = model.patches(x).clone()
    changed[hidden] = 7.0
    rows = changed.reshape(1, 2, 4, 4, 4, 4, 1).permute(0, 1, 6, 2, 4, 3, 5).reshape(1, 2, 16, 16)
    assert torch.equal(model.patches(rows)[~hidden], model.patches(x)[~hidden])
    with torch.no_grad():
        torch.testing.assert_close(model(rows, kept), model(x, kept), rtol=0, atol=1e-6)
        other = model(-x, kept)
    assert (other - model(x, kept)).abs().max() > 1e-3


def test_with_all_patches_seen_the_encoder_is_the_networks():
    model, network = _model(2, frames=2)
    x = torch.randn(2, 2, 12, 8)
    kept = torch.arange(12).expand(2, -1)
    with torch.no_grad():
        torch.testing.assert_close(model.encoder.visible(x, kept), network.encoder.tokens(x)[-1])
        # A token knows its place: seen in another order they come out in that order.
        turned = model.encoder.visible(x, kept.flip(1))
        torch.testing.assert_close(
            turned[:, 1:].flip(1), network.encoder.tokens(x)[-1][:, 1:], rtol=1e-4, atol=1e-5
        )


def test_it_learns_to_paint_what_can_be_known():
    """Every patch of an image is the same, light or dark on one side: what is hidden follows from what is seen."""
    model, _ = _model(1)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(5)
    pattern = torch.linspace(-1, 1, 4).expand(4, 4).repeat(3, 3)
    losses = []
    for _ in range(60):
        sign = torch.randint(0, 2, (16, 1, 1, 1), generator=generator) * 2.0 - 1
        x = sign * pattern.expand(16, 1, 12, 12)
        loss, _ = model.loss(x, *model.draw(x, 0.75, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    blind = (
        15 / 16
    )  # the best answer of one who sees nothing is 0: the mean square of a scaled patch of 16 pixels
    assert losses[0] > 0.9 * blind
    assert losses[-1] < 0.3 * blind


def test_its_decoder_fits_no_network_and_its_encoder_fits_all_of_the_form():
    model, _ = _model(2, frames=2)
    report = pretraining_report(
        model, load_initialization(build_model("vit", 2, 2, **TINY, frames=2), None, source="r")
    )
    assert set(report.random) == set(model.state_dict())
    assert report.parameters["total"] == sum(p.numel() for p in model.parameters())
    target = build_model("vit", 4, 2, **{**TINY, "decoder": "fcn"}, frames=4)
    found = load_prithvi(target, Weights(model.state_dict(), "pretraining"), source="pretraining")
    assert not found.partial
    assert set(found.loaded) == {n for n in target.state_dict() if n.startswith("encoder.")}
    assert {n.partition(".")[0] for n in found.ignored} == {"reconstruction"}
    with pytest.raises(WeightsError, match=r"'unet' cannot be pretrained .* `vit`"):
        check_form(build_model("unet", 2, 2, channels=[4, 4]), "unet")
    with pytest.raises(RecipeError, match="multiple of 16"):
        MaskedAutoencoder(target, width=24, heads=2)
