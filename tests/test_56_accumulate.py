"""Gradients added up over batches: the step of one large batch, but for batch norm."""

import numpy as np
import torch
from small_data import make_catalog, make_model, make_task, run_fit, tensors
from torch.nn import functional

PLAIN = {
    "epochs": 1, "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.0}, "weights": "last",
}  # fmt: skip


def steady(model):
    """The model with batch norm that always answers by its running statistics, so that a batch is nothing to it."""
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.forward = lambda x, part=part: functional.batch_norm(
                x, part.running_mean, part.running_var, part.weight, part.bias
            )
    return model


def trained(tmp_path, name, *, fixed, **training):
    task = make_task(make_catalog(tmp_path / f"data-{name}", {"train": 8}), PLAIN | training)
    options = {"aspp_channels": 4, "rates": [1, 2, 3], "dropout": 0.0}
    model = make_model("resnet18-aspp", options)
    run_fit(tmp_path / name, task, steady(model) if fixed else model)
    return tensors(tmp_path / name, "last")


def test_four_batches_of_two_are_one_of_eight_but_for_batch_norm(tmp_path):
    """8 scenes an epoch: without batch statistics the weights agree; with them each batch is normalized by its own."""
    whole = trained(tmp_path, "whole", fixed=True, batch_size=8)
    parts = trained(tmp_path, "parts", fixed=True, batch_size=2, accumulate=4)
    assert whole.keys() == parts.keys()
    for key, value in whole.items():
        np.testing.assert_allclose(parts[key], value, rtol=1e-4, atol=1e-6, err_msg=key)
    norm = [trained(tmp_path, f"norm{n}", fixed=False, batch_size=n, accumulate=8 // n) for n in (8, 2)]
    weights = [k for k in norm[0] if k.endswith("conv1.weight")]
    assert any(not np.allclose(norm[0][k], norm[1][k], rtol=1e-4, atol=1e-6) for k in weights)
