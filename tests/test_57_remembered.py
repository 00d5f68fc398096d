"""Features of a frozen encoder are worked out once for each image, and training ends where it would without that."""

from dataclasses import replace

import pytest
import torch
from small_data import contract_of, make_catalog, numbers, run_fit, same_tensors, tensors
from torch import nn

from sartransfer.catalog import Entry
from sartransfer.data.patches import SceneStore
from sartransfer.models import build_model
from sartransfer.models.network import freeze
from sartransfer.recipe import AugmentRecipe, PrimaryRecipe, TrainingRecipe
from sartransfer.remembered import can_remember, remembering
from sartransfer.train import Task

PLAIN = AugmentRecipe(flips=False, rotations=False)
CLASSES = ("ice", "land", "water")


def chips(folder, side=40, each=4):
    catalog = make_catalog(folder, {"train": 3 * each, "validation": 6}, size=side)
    entries = [
        Entry(e.id, e.assets, category=CLASSES[i % 3], split=e.split, group=e.id)
        for i, e in enumerate(catalog.entries)
    ]
    return replace(catalog.with_entries(entries), classes=CLASSES)


def task_of(catalog, **training):
    contract = contract_of(catalog)
    recipe = TrainingRecipe.model_validate(
        {"batch_size": 4, "epochs": 4, "precision": "fp32", "augment": {"flips": False, "rotations": False}}
        | training
    )
    stores = (SceneStore(catalog, catalog.in_split(s), contract, chip=32) for s in ("train", "validation"))
    return Task(*stores, recipe, PrimaryRecipe(metric="accuracy"), CLASSES, None)


def network(seed=0, frozen=True, **options):
    torch.manual_seed(seed)
    model = build_model("resnet18", 2, 3, **options)
    if frozen:
        freeze(model, ["encoder"])
    return model


def counted(model):
    """The network's encoder, and how many images it is asked for."""
    asked, forward = [], type(model.encoder).forward
    model.encoder.forward = lambda x: asked.append(len(x)) or forward(model.encoder, x)
    return asked


def test_the_encoder_sees_each_image_once_and_training_is_the_same(tmp_path, monkeypatch):
    catalog = chips(tmp_path / "data")
    plain = network()
    monkeypatch.setattr("sartransfer.remembered.can_remember", lambda *_: False)
    without = run_fit(tmp_path / "plain", task_of(catalog), plain)
    monkeypatch.undo()
    model = network()
    asked = counted(model)
    found = run_fit(tmp_path / "remembered", task_of(catalog), model)
    # 12 training and 6 validation images in batches of 4, the last filled up; without memory four times as many.
    assert sum(asked) == 4 * (3 + 2)
    for one, other in zip(found.curves, without.curves, strict=True):
        for column in ("train_loss", "validation_loss", "validation_metric"):
            assert one[column] == pytest.approx(other[column], rel=1e-4, abs=1e-5)
    ours, theirs = tensors(tmp_path / "remembered", "last"), tensors(tmp_path / "plain", "last")
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-5)
    assert torch.equal(ours["encoder.conv1.weight"], network().state_dict()["encoder.conv1.weight"])
    assert not torch.equal(ours["head.weight"], network().state_dict()["head.weight"])


def test_a_training_that_was_stopped_ends_with_the_same_numbers(tmp_path):
    catalog = chips(tmp_path / "data")
    whole = run_fit(tmp_path / "whole", task_of(catalog), network())

    class StopError(Exception):
        pass

    def stop(epoch, of, row):
        if epoch == 2:
            raise StopError

    with pytest.raises(StopError):
        run_fit(tmp_path / "stopped", task_of(catalog), network(), progress=stop)
    resumed = run_fit(tmp_path / "stopped", task_of(catalog), network())
    assert numbers(resumed.curves) == numbers(whole.curves)
    assert same_tensors(tensors(tmp_path / "stopped", "last"), tensors(tmp_path / "whole", "last"))


def test_rows_are_those_of_the_encoder_in_any_company():
    model = network().train()
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(7, 2, 32, 32, generator=generator)
    with torch.no_grad():
        wanted = model.encoder(images)
    with remembering(model, PLAIN, 4, "cpu") as remembered:
        assert remembered is not None
        first = model.encoder(images[[0, 1, 2]])
        again = model.encoder(images[[2, 6, 0, 5, 2]])
        assert (remembered.asked, remembered.met) == (8, 3)
        with torch.autocast("cpu", torch.bfloat16):  # another precision is another answer
            half = model.encoder(images[[0]])
        assert half.dtype == torch.bfloat16
        changed = images[[0]].clone()
        changed[0, 1, 31, 31] += 1e-6
        assert not torch.equal(model.encoder(changed), first[:1])
    torch.testing.assert_close(first, wanted[:3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again, wanted[[2, 6, 0, 5, 2]], rtol=1e-4, atol=1e-5)
    assert torch.equal(again[0], first[2])
    assert torch.equal(again[0], again[4])
    assert "forward" not in vars(model.encoder)  # the class's own is back


def test_one_band_is_remembered_as_well():
    """Its channels-last stride is no stride of one, which a view as bytes would not take."""
    torch.manual_seed(0)
    model = build_model("resnet18", 1, 3)
    freeze(model, ["encoder"])
    model.train().to(memory_format=torch.channels_last)
    images = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = model.encoder(images)
    with remembering(model, PLAIN, 4, "cpu") as remembered:
        assert remembered is not None
        for form in (torch.contiguous_format, torch.channels_last):  # one image, however it lies
            found = model.encoder(images.contiguous(memory_format=form))
        assert (remembered.asked, remembered.met) == (8, 4)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_nothing_is_remembered_where_features_change():
    augment = {"flips": True, "rotations": True}
    assert can_remember(network(), AugmentRecipe(**augment), "cpu")  # eight views at most come again
    assert not can_remember(network(), AugmentRecipe(**augment, gain=0.1), "cpu")
    assert not can_remember(network(), PLAIN, "cuda")
    assert not can_remember(network(frozen=False), PLAIN, "cpu")
    partly = network(frozen=False)
    freeze(partly, ["encoder.layer1"])
    assert not can_remember(partly, PLAIN, "cpu")
    drops = network()
    drops.encoder.layer4.add_module("drop", nn.Dropout(0.5))
    assert not can_remember(drops, PLAIN, "cpu")
    projected = network(frozen=False)
    projected.add_input_projection(3)
    freeze(projected, ["encoder"])
    assert not can_remember(projected, PLAIN, "cpu")
    torch.manual_seed(0)
    segments = build_model("unet-resnet18", 2, 3, encoder_depth=3, decoder_channels=[8, 8, 8])
    freeze(segments, ["encoder"])
    assert not can_remember(segments, PLAIN, "cpu")
