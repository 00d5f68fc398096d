"""Pretraining on images without labels: what it is taught on, killed and resumed, and that no test scene is seen."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_data import make_catalog, numbers, same_tensors, tensors, write_small

from sartransfer.catalog import Asset, Entry, read_catalog, write_catalog
from sartransfer.data.resolve import open_catalog
from sartransfer.data.unlabelled import (
    UnlabelledSamples,
    open_unlabelled,
    open_unlabelled_data,
    refuse_seen_tests,
)
from sartransfer.errors import CatalogError, InputError, LeakageError, OutputError, RecipeError, WeightsError
from sartransfer.models import build_model
from sartransfer.models.masked import MaskedAutoencoder
from sartransfer.models.pretrained import is_pretrained, read_pretrained
from sartransfer.pretrain import pretrain
from sartransfer.recipe import AugmentRecipe, DataRecipe, MaskedRecipe, StageRecipe, TrainingRecipe

torch.set_num_threads(1)
VIT = {"width": 16, "depth": 1, "heads": 2, "patch": 8, "neck_channels": 4, "head_channels": 4, "frames": 2}
MASKED = MaskedRecipe(width=16, depth=1, heads=2)
TRAINING = {"epochs": 3, "batch_size": 2, "precision": "fp32", "optimizer": {"lr": 0.003}}


class PowerError(Exception):
    """As if the power had gone."""


def data_of(path, **more):
    return DataRecipe.model_validate({"catalog": str(path), "validation": {"fraction": 0.3}} | more)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_small(tmp_path_factory.mktemp("scenes"), {"train": 6, "test": 2}, size=24)


def run(folder, path, *, training=None, progress=None, seed=0, data=None, masked=MASKED):
    recipe = data or data_of(path)
    opened = open_unlabelled_data(open_unlabelled(recipe), recipe)
    torch.manual_seed(seed)
    model = MaskedAutoencoder(build_model("vit", 2, 2, **VIT), width=16, depth=1, heads=2)
    folder.mkdir(exist_ok=True)
    return pretrain(
        folder, model, opened, TrainingRecipe.model_validate(TRAINING | (training or {})), masked, patch=recipe.patch,
        seed=seed, device="cpu", precision="fp32", metadata={"note": float("nan")}, progress=progress,
    )  # fmt: skip


def test_no_label_no_class_and_no_split_is_needed(tmp_path):
    catalog = make_catalog(tmp_path, {"": 4}, size=8)
    entries = [replace(e, label=None, category=None, split=None) for e in catalog.entries]
    bare = write_catalog(replace(catalog, entries=tuple(entries), classes=()), tmp_path / "c.csv")
    found = open_unlabelled(data_of(bare))
    assert {s: len(found.in_split(s)) for s in found.splits} == {"train": 3, "validation": 1}
    opened = open_unlabelled_data(found, data_of(bare))
    assert len(opened.train) == 3
    image, valid, _ = opened.train.read(0)
    assert image.shape == (2, 8, 8)
    assert valid.all()
    samples = UnlabelledSamples(
        opened.train, patch=None, recipe=AugmentRecipe(flips=True, rotations=True), seed=0
    )
    assert set(samples[0]) == {"image", "valid"}
    with pytest.raises(CatalogError, match="nothing to learn from"):
        open_unlabelled(data_of(write_small(tmp_path / "t", {"test": 2}, size=8)))


def test_only_training_images_are_seen_and_normalized_by(path, monkeypatch):
    catalog = open_unlabelled(data_of(path))
    opened = open_unlabelled_data(catalog, data_of(path))
    assert {e.split for e in opened.train.entries} == {"train"}
    assert {e.split for e in opened.validation.entries} == {"validation"}
    pixels = []
    for entry in opened.train.entries:
        with np.load(entry.assets[0].path) as file:
            pixels.append(file["data"].reshape(2, -1).astype(np.float64))
    np.testing.assert_allclose(
        [b.mean for b in opened.contract.bands], np.concatenate(pixels, 1).mean(1), rtol=1e-6
    )
    labelled = open_catalog(data_of(path))
    assert {e.id for e in catalog.in_split("validation")} == {e.id for e in labelled.in_split("validation")}


@pytest.mark.parametrize("schedule", ["constant", "one-cycle", "cosine"])
def test_killed_and_resumed_it_ends_with_the_same_numbers(tmp_path, path, schedule):
    training = {"schedule": {"name": schedule}, "augment": {"flips": True, "gain": 0.2}, "gradient_clip": 1.0}
    whole = run(tmp_path / "whole", path, training=training)
    assert [row["epoch"] for row in whole.curves] == [1, 2, 3]
    assert all(row["train_loss"] > 0 and row["validation_loss"] > 0 for row in whole.curves)

    def die(epoch, of, row):
        if epoch == 2:
            raise PowerError

    with pytest.raises(PowerError):
        run(tmp_path / "killed", path, training=training, progress=die)
    assert not (tmp_path / "killed" / "last.json").exists()
    seen = []
    again = run(tmp_path / "killed", path, training=training, progress=lambda e, *_: seen.append(e))
    assert seen == [3]
    assert numbers(again.curves) == numbers(whole.curves)
    assert again.best_epoch == whole.best_epoch
    for which in ("best", "last"):
        assert same_tensors(tensors(tmp_path / "killed", which), tensors(tmp_path / "whole", which))
    kept = (tmp_path / "whole" / "curves.csv").read_text().splitlines()
    assert kept[0].startswith("epoch,train_loss,validation_loss")
    assert len(kept) == 4


def test_a_full_disk_leaves_the_state_of_the_epoch_before(tmp_path, path, monkeypatch):
    save = torch.save

    def full(kept, file):
        save(kept, file)
        if len(kept["rows"]) == 2:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(OutputError, match=r"cannot write .*resume\.pt: No space left on device"):
            run(tmp_path, path)
    assert [p.name for p in tmp_path.iterdir() if "resume" in p.name] == ["resume.pt"]
    seen = []
    run(tmp_path, path, progress=lambda e, *_: seen.append(e))
    assert seen == [2, 3]


def test_another_seed_is_another_pretraining_and_the_best_epoch_is_kept(tmp_path, path):
    one, other = (run(tmp_path / f"s{s}", path, seed=s) for s in (0, 1))
    assert not same_tensors(tensors(tmp_path / "s0", "last"), tensors(tmp_path / "s1", "last"))
    for done, name in ((one, "s0"), (other, "s1")):
        losses = [row["validation_loss"] for row in done.curves]
        assert done.best_epoch == 1 + int(np.argmin(losses))
        assert json.loads((tmp_path / name / "best.json").read_text())["epoch"] == done.best_epoch
    bare = run(
        tmp_path / "bare", path, data=data_of(path, validation={"fraction": 0}), training={"weights": "last"}
    )
    assert bare.best_epoch == 3
    assert bare.curves[-1]["validation_loss"] is None
    assert same_tensors(tensors(tmp_path / "bare", "best"), tensors(tmp_path / "bare", "last"))


def test_it_diverges_aloud(tmp_path, path):
    with pytest.raises(RecipeError, match=r"diverged.*Lower training\.optimizer\.lr"):
        run(tmp_path / "x", path, training={"optimizer": {"name": "sgd", "lr": 1e18}})
    small = data_of(path, patch={"size": 4})
    with pytest.raises(InputError, match="smaller than the network's patch of 8"):
        run(tmp_path / "y", path, data=small)


def test_the_weights_are_read_back_or_refused(tmp_path, path):
    run(tmp_path / "x", path, training={"epochs": 1})
    assert is_pretrained(tmp_path / "x")
    weights, values = read_pretrained(tmp_path / "x")
    assert values["note"] is None
    assert same_tensors(dict(weights.tensors), tensors(tmp_path / "x", "best"))
    assert not is_pretrained(tmp_path)
    shutil.copy(tmp_path / "x" / "best.json", tmp_path / "x" / "other.json")
    run(tmp_path / "z", path, training={"epochs": 1}, seed=4)
    shutil.copy(tmp_path / "z" / "best.safetensors", tmp_path / "x" / "other.safetensors")
    with pytest.raises(WeightsError, match="not the one"):
        read_pretrained(tmp_path / "x" / "other")
    with pytest.raises(WeightsError, match="not of a pretraining"):
        read_pretrained(tmp_path)


# ---- no scene of a test event ----


def test_a_test_scene_among_the_images_is_refused(tmp_path, path):
    target = open_catalog(data_of(path))
    seen = open_unlabelled(data_of(path))
    refuse_seen_tests(seen, target, stage="mae", same_catalog=True)

    # The same pixels under another name, elsewhere.
    test = target.in_split("test")[0]
    copy = tmp_path / "innocent.npz"
    shutil.copy(test.assets[0].path, copy)
    more = replace(test, id="innocent", assets=(Asset(copy),), label=None, split="train", group=None)
    leaking = seen.with_entries([*seen.entries, more])
    for allowed in ((), ("test",)):  # the image itself never passes
        with pytest.raises(
            LeakageError, match=r"stage 'mae' would be pretrained .* content: .*mae/innocent"
        ) as said:
            refuse_seen_tests(leaking, target, stage="mae", same_catalog=False, same_scenes=allowed)
    assert test.id in str(said.value)

    # Another image of the test event.
    event = replace(seen.in_split("train")[0], group=test.group)
    grouped = seen.with_entries([event, *[e for e in seen.entries if e.id != event.id]])
    with pytest.raises(LeakageError, match="group: 1 of 'test'"):
        refuse_seen_tests(grouped, target, stage="mae", same_catalog=True)
    refuse_seen_tests(grouped, target, stage="mae", same_catalog=True, same_scenes=("test",))
    refuse_seen_tests(
        grouped, target, stage="mae", same_catalog=False
    )  # a name in another catalog says nothing

    # Validation images are looked at as well; images in the stage's own test sets are not, for it never sees them.
    held = seen.with_entries([replace(more, split="validation"), *seen.entries])
    with pytest.raises(LeakageError):
        refuse_seen_tests(held, target, stage="mae", same_catalog=False)
    refuse_seen_tests(
        seen.with_entries([replace(more, split="else"), *seen.entries]),
        target,
        stage="mae",
        same_catalog=False,
    )


def test_groups_may_be_taken_out_of_the_images(tmp_path, path):
    catalog = read_catalog(path)
    entries = [replace(e, split=None) for e in catalog.entries]
    unsplit = write_catalog(catalog.with_entries(entries), tmp_path / "c.csv")
    target = open_catalog(data_of(path))
    with pytest.raises(LeakageError, match=r"data\.tests"):
        refuse_seen_tests(open_unlabelled(data_of(unsplit)), target, stage="mae", same_catalog=False)
    without = data_of(unsplit, tests={"away": {"groups": ["test0", "test1"]}})
    refuse_seen_tests(open_unlabelled(without), target, stage="mae", same_catalog=False)


# ---- the recipe ----


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"task": "segment", "masked": {"ratio": 0.5}}, "goes with task: reconstruct"),
        ({"training": {"loss": {"dice": 1.0}}}, r"training\.loss has no place"),
        ({"training": {"lora": {}}}, r"training\.lora has no place"),
        ({"training": {"freeze": "encoder"}}, r"training\.freeze has no place"),
        ({"training": {"schedule": {"name": "plateau"}}}, "one-cycle or cosine"),
        ({"data": {"catalog": "x", "validation": {"fraction": 0}}}, "needs validation"),
        ({"masked": {"ratio": 1.0}}, "less than 1"),
        ({"masked": {"width": 24}}, "multiple of 16"),
    ],
)
def test_what_a_stage_without_labels_cannot_have(changes, match):
    stage = {"name": "mae", "task": "reconstruct", "data": {"catalog": "x"}, "training": {}}
    assert StageRecipe.model_validate(stage).masked.ratio == 0.75
    with pytest.raises(ValueError, match=match):
        StageRecipe.model_validate(stage | changes)


def test_an_entry_keeps_what_it_is(path):
    catalog = open_unlabelled(data_of(path))
    assert {e.category for e in catalog.entries} == {"unlabelled"}
    assert all(isinstance(e, Entry) and e.label is None for e in catalog.entries)
