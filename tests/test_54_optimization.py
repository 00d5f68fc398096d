"""Which parameter learns at which rate: in two groups, or layer by layer."""

import pytest
import torch

from sartransfer.errors import InputError, RecipeError
from sartransfer.models import build_model, freeze
from sartransfer.optimization import (
    build_optimizer,
    build_scheduler,
    decay_groups,
    layers_of,
    parameter_groups,
)
from sartransfer.recipe import OptimizerRecipe, ScheduleRecipe

VIT = {"width": 32, "depth": 3, "heads": 2, "patch": 8, "neck_channels": 8, "head_channels": 8}


def _rates(model, **recipe):
    groups = parameter_groups(model, OptimizerRecipe.model_validate(recipe))
    names = {id(p): n for n, p in model.named_parameters()}
    found = {}
    for group in groups:
        for p in group["params"]:
            assert names[id(p)] not in found
            found[names[id(p)]] = group["lr"]
    return groups, found


def test_each_layer_towards_the_image_learns_more_slowly():
    model = build_model("vit", 2, 2, **VIT)
    groups, found = _rates(model, lr=0.1, layer_decay=0.5)
    assert set(found) == {n for n, _ in model.named_parameters()}
    for name, rate in found.items():
        depth = 4  # decoder, class layer, last norm
        if name.startswith("encoder.blocks."):
            depth = int(name.split(".")[2]) + 1
        elif name.startswith(("encoder.patch_embed", "encoder.cls_token")):
            depth = 0
        assert rate == pytest.approx(0.1 * 0.5 ** (4 - depth)), name
    assert groups[-1]["lr"] == 0.1
    assert [g["lr"] for g in groups] == sorted(g["lr"] for g in groups)
    _, found = _rates(model, lr=0.1, encoder_lr=0.02, layer_decay=0.5)
    assert found["encoder.norm.weight"] == pytest.approx(0.02)
    assert found["encoder.blocks.0.attn.qkv.weight"] == pytest.approx(0.02 / 8)
    assert found["segmentation_head.bias"] == found["decoder.neck.0.weight"] == pytest.approx(0.1)


def test_a_resnets_stages_are_its_layers():
    model = build_model("unet-resnet18", 2, 2, decoder_channels=[8, 8, 8, 8])
    numbers, last = layers_of(model)
    assert last == 5
    for name, number in numbers.items():
        start = name.removeprefix("encoder.")
        expected = int(start[5]) if start.startswith("layer") else 0 if name.startswith("encoder.") else 5
        assert number == expected, name
    _, found = _rates(model, lr=1.0, layer_decay=0.1)
    assert found["encoder.conv1.weight"] == pytest.approx(1e-5)
    assert found["encoder.layer3.0.conv1.weight"] == pytest.approx(1e-2)
    with pytest.raises(RecipeError, match="'unet' is neither"):
        parameter_groups(build_model("unet", 2, 2, channels=[4, 4]), OptimizerRecipe(layer_decay=0.5))


def test_without_it_the_groups_are_encoder_and_rest():
    model = build_model("vit", 2, 2, **VIT)
    groups, found = _rates(model, lr=0.1, encoder_lr=0.01)
    assert [g["lr"] for g in groups] == [0.01, 0.1]
    assert all((rate == 0.01) == name.startswith("encoder.") for name, rate in found.items())
    freeze(model, ["encoder"])
    groups, found = _rates(model, lr=0.1, layer_decay=0.5)
    assert set(found.values()) == {0.1}
    assert not any(n.startswith("encoder.") for n in found)
    freeze(model, ["decoder", "segmentation_head"])
    with pytest.raises(InputError, match="nothing is left to train"):
        parameter_groups(model, OptimizerRecipe())


def test_one_step_moves_each_layer_by_its_rate():
    """Plain SGD on a loss whose gradient is one everywhere: the step is the rate."""
    model = build_model("vit", 2, 2, **VIT)
    recipe = OptimizerRecipe(name="sgd", lr=0.1, momentum=0.0, layer_decay=0.5)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = build_optimizer(parameter_groups(model, recipe), recipe)
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    numbers, last = layers_of(model)
    for name, p in model.named_parameters():
        expected = torch.full_like(p, 0.1 * 0.5 ** (last - numbers[name]))
        torch.testing.assert_close(before[name] - p, expected, rtol=1e-3, atol=1e-6)


def test_vectors_are_not_decayed_in_pretraining():
    model = build_model("vit", 2, 2, **VIT)
    vectors, matrices = decay_groups(model, 0.1)
    assert all(p.ndim <= 1 for p in vectors["params"])
    assert all(p.ndim > 1 for p in matrices["params"])
    assert len(vectors["params"]) + len(matrices["params"]) == len(list(model.parameters()))
    recipe = OptimizerRecipe(weight_decay=0.05)
    optimizer = build_optimizer([vectors, matrices], recipe, betas=(0.9, 0.95))
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.0, 0.05]
    assert {g["betas"] for g in optimizer.param_groups} == {(0.9, 0.95)}
    assert build_scheduler(optimizer, ScheduleRecipe(), 3) is None
