"""Training on a GPU: the same numbers for the same seed, killed and resumed too, and near the processor's."""

import numpy as np
import pytest
import torch
from small_data import make_catalog, make_model, make_task, numbers, run_fit, same_tensors, tensors

from sartransfer.determinism import deterministic
from sartransfer.recipe import PatchRecipe

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")

RECIPE = {
    "epochs": 3,
    "optimizer": {"name": "adamw", "lr": 1e-3},
    "schedule": {"name": "one-cycle"},
    "average": 0.9,
    "loss": {"cross_entropy": 1.0, "dice": 1.0},
    "augment": {"flips": True, "rotations": True},
}
PATCH = PatchRecipe(size=24, per_scene=2)
VIT = {"width": 32, "depth": 4, "heads": 2, "patch": 8, "decoder": "unet", "decoder_channels": [16, 8, 8, 4]}
NETWORKS = {
    "unet-resnet18": None,
    "resnet18-aspp": None,
    "unet": {"channels": [4, 8, 8, 8, 8]},
    "vit": VIT,
}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """Ten training scenes, a fifth of their label unknown, and two for validation."""
    folder = tmp_path_factory.mktemp("scenes")
    return make_catalog(folder, {"train": 10, "validation": 2}, ignore=0.2, size=48)


def network(name):
    return make_model(name, NETWORKS[name])


def test_on_the_processor_nothing_is_set():
    before = torch.are_deterministic_algorithms_enabled()
    with deterministic("cpu"):
        assert torch.are_deterministic_algorithms_enabled() == before


def test_what_was_set_before_is_set_again(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    cudnn = torch.backends.cudnn
    attention = torch.backends.cuda.cudnn_sdp_enabled
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark, attention()
    with deterministic("cuda"):
        assert torch.are_deterministic_algorithms_enabled()
        assert cudnn.deterministic
        assert not cudnn.benchmark
        assert not attention()
    after = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark, attention()
    assert after == before


@cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_seed_gives_the_same_numbers(tmp_path, catalog, name, precision):
    task = make_task(catalog, RECIPE, patch=PATCH)
    found = [
        run_fit(tmp_path / str(i), task, network(name), seed=s, precision=precision, device="cuda")
        for i, s in enumerate((0, 0, 1))
    ]
    assert numbers(found[0].curves) == numbers(found[1].curves)
    for which in ("best", "last"):
        assert same_tensors(tensors(tmp_path / "0", which), tensors(tmp_path / "1", which))
    assert numbers(found[0].curves) != numbers(found[2].curves)


@cuda
def test_stopped_and_resumed_it_ends_with_the_same_numbers(tmp_path, catalog):
    class PowerError(Exception):
        """As if the power had gone."""

    def die(epoch, of, row):
        if epoch == 2:
            raise PowerError

    task = make_task(catalog, RECIPE, patch=PATCH)
    straight = run_fit(tmp_path / "straight", task, network("resnet18-aspp"), device="cuda")
    with pytest.raises(PowerError):
        run_fit(tmp_path / "killed", task, network("resnet18-aspp"), device="cuda", progress=die)
    resumed = run_fit(tmp_path / "killed", task, network("resnet18-aspp"), device="cuda")
    assert numbers(resumed.curves) == numbers(straight.curves)
    assert same_tensors(tensors(tmp_path / "killed", "last"), tensors(tmp_path / "straight", "last"))


@cuda
@pytest.mark.parametrize("name", NETWORKS)
def test_in_float32_it_is_near_the_processors(tmp_path, catalog, name):
    """One epoch: rounding that differs grows from step to step."""
    task = make_task(catalog, RECIPE | {"epochs": 1}, patch=PATCH)
    found = {d: run_fit(tmp_path / d, task, network(name), device=d).curves[0] for d in ("cpu", "cuda")}
    for key in ("train_loss", "validation_loss"):
        assert np.isclose(found["cuda"][key], found["cpu"][key], rtol=0.02), key
