"""Training: against a plain loop written by hand, killed and resumed, best and last weights told apart."""

import csv
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from small_data import (
    ASPP,
    CLASSES,
    contract_of,
    make_catalog,
    make_model,
    make_task,
    numbers,
    run_fit,
    same_tensors,
    tensors,
    write_small,
)
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from sartransfer import train
from sartransfer.catalog import Asset, Catalog, Entry
from sartransfer.data.patches import Samples, SceneStore
from sartransfer.data.resolve import open_catalog, open_training_data
from sartransfer.errors import InputError, OutputError, RecipeError
from sartransfer.evaluate import evaluate_checkpoint
from sartransfer.models import build_model, freeze, read_checkpoint
from sartransfer.readers.array import write_array
from sartransfer.recipe import (
    AugmentRecipe,
    DataRecipe,
    ModelRecipe,
    PatchRecipe,
    PrimaryRecipe,
    RandomStart,
    TrainingRecipe,
)
from sartransfer.runs import RunFolder
from sartransfer.scene import Band
from sartransfer.stages import Job, train_job
from sartransfer.train import CURVES, choose_device, choose_precision, primary_value

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """Ten training scenes, a fifth of their label unknown, and two for validation."""
    splits = {"train": 10, "validation": 2}
    return make_catalog(tmp_path_factory.mktemp("scenes"), splits, ignore=0.2)


@pytest.fixture(scope="module")
def misleading(tmp_path_factory):
    """Validation labels turned round: what is learned makes the validation worse, so best is not last."""
    splits = {"train": 2, "validation": 2}
    return make_catalog(tmp_path_factory.mktemp("wrong"), splits, wrong=["validation"], ignore=0.1)


class PowerError(Exception):
    """As if the power had gone."""


# ---- against a plain loop ----


def plain_loop(task, model, *, seed=0, weight=None, optimizer, scheduler=None, clip=None, accumulate=1):
    """What `fit` claims to do, written out; returns the learning rate at the end of each epoch."""
    recipe = task.training
    samples = Samples(task.train, patch=None, recipe=recipe.augment, seed=seed)
    model.to(memory_format=torch.channels_last).train()
    rates = []
    for epoch in range(recipe.epochs):
        samples.epoch = epoch
        order = np.random.default_rng([seed, epoch]).permutation(len(samples))
        batches = [order[i : i + recipe.batch_size] for i in range(0, len(order), recipe.batch_size)]
        batches = [b for b in batches if len(b) == recipe.batch_size]
        for number, batch in enumerate(batches, start=1):
            chosen = [samples[int(i)] for i in batch]
            images = torch.stack([s["image"] for s in chosen]).contiguous(memory_format=torch.channels_last)
            masks = torch.stack([s["mask"] for s in chosen])
            loss = F.cross_entropy(model(images), masks, weight=weight, ignore_index=255)
            (loss / accumulate).backward()
            if number % accumulate == 0 or number == len(batches):
                if clip:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
                if scheduler is not None:
                    scheduler.step()
        rates.append(optimizer.param_groups[-1]["lr"])
    return rates


def groups_of(model, lr, encoder_lr=None):
    encoder = list(model.encoder.parameters())
    mine = {id(p) for p in encoder}
    rest = [p for p in model.parameters() if id(p) not in mine]
    return [{"params": encoder, "lr": encoder_lr or lr}, {"params": rest, "lr": lr}]


def check_against(folder, task, model, rates):
    fitted = run_fit(folder, task)
    found, expected = tensors(folder, "last"), model.state_dict()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name].contiguous(), rtol=1e-4, atol=1e-5)
    assert [r["learning_rate"] for r in fitted.curves] == pytest.approx(rates, rel=1e-9)
    return fitted


OPTIMIZERS = [
    ({"name": "adam", "lr": 1e-3, "weight_decay": 0.1}, torch.optim.Adam, {"weight_decay": 0.1}),
    ({"name": "adamw", "lr": 1e-3, "weight_decay": 0.1}, torch.optim.AdamW, {"weight_decay": 0.1}),
    (
        {"name": "sgd", "lr": 0.02, "momentum": 0.8, "weight_decay": 1e-3, "encoder_lr": 0.005},
        torch.optim.SGD,
        {"momentum": 0.8, "weight_decay": 1e-3},
    ),
]


@pytest.mark.parametrize(("recipe", "kind", "options"), OPTIMIZERS, ids=["adam", "adamw", "sgd"])
def test_optimizers(tmp_path, catalog, recipe, kind, options):
    task = make_task(catalog, {"optimizer": recipe, "augment": {"flips": True, "gain": 0.1}})
    model = make_model()
    optimizer = kind(groups_of(model, recipe["lr"], recipe.get("encoder_lr")), **options)
    check_against(tmp_path, task, model, plain_loop(task, model, optimizer=optimizer))


@pytest.mark.parametrize("name", ["one-cycle", "cosine"])
def test_schedules_step_by_step(tmp_path, catalog, name):
    schedule = {"name": name, "warmup": 0.4, "min_lr": 1e-4}
    optimizer = {"name": "sgd", "lr": 0.02, "encoder_lr": 0.005}
    task = make_task(catalog, {"epochs": 3, "optimizer": optimizer, "schedule": schedule})
    model = make_model()
    sgd = torch.optim.SGD(groups_of(model, 0.02, 0.005), momentum=0.9)
    if name == "one-cycle":
        by_hand = torch.optim.lr_scheduler.OneCycleLR(sgd, [0.005, 0.02], total_steps=6, pct_start=0.4)
    else:
        by_hand = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 6, eta_min=1e-4)
    rates = plain_loop(task, model, optimizer=sgd, scheduler=by_hand)
    assert len(set(rates)) == 3
    check_against(tmp_path, task, model, rates)


def test_one_cycle_whose_rise_is_one_step(tmp_path, catalog):
    schedule = {"name": "one-cycle", "warmup": 0.25}  # of 4 steps: PyTorch alone divides by zero
    fitted = run_fit(tmp_path, make_task(catalog, {"schedule": schedule, "optimizer": {"lr": 0.01}}))
    # step 1 at lr / 25, then three steps of the fall from lr: a cosine from lr at step 1 to almost 0 at step 4
    assert fitted.curves[0]["learning_rate"] == pytest.approx(
        0.01 * (1 + math.cos(math.pi * 2 / 3)) / 2, rel=1e-3
    )


def test_gradients_are_clipped_and_added_up(tmp_path, catalog):
    recipe = {
        "batch_size": 2,
        "accumulate": 2,  # of 5 batches: two full steps and one of a single batch
        "gradient_clip": 0.05,
        "optimizer": {"name": "sgd", "lr": 0.5},
        "schedule": {"name": "cosine"},
    }
    task = make_task(catalog, recipe)
    model = make_model()
    sgd = torch.optim.SGD(groups_of(model, 0.5), momentum=0.9)
    by_hand = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 6, eta_min=1e-8)
    rates = plain_loop(task, model, optimizer=sgd, scheduler=by_hand, clip=0.05, accumulate=2)
    check_against(tmp_path, task, model, rates)


def test_two_batches_of_four_are_one_of_eight(tmp_path):
    known = make_catalog(tmp_path / "scenes", {"train": 8}, size=32)  # every pixel counts: equal denominators
    found = []
    for batch, accumulate in ((4, 2), (8, 1)):
        model = make_model()
        norms = [n for n, m in model.named_modules() if isinstance(m, _BatchNorm)]
        freeze(model, norms)  # otherwise each batch is normalized by itself
        task = make_task(
            known,
            {
                "batch_size": batch,
                "accumulate": accumulate,
                "optimizer": {"name": "sgd", "lr": 0.05},
                "epochs": 3,
            },
        )
        folder = tmp_path / str(batch)
        run_fit(folder, task, model)
        found.append(tensors(folder, "last"))
    start = make_model().state_dict()
    name = "encoder.layer3.1.conv2.weight"
    assert not torch.allclose(found[0][name], start[name], atol=1e-4)
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-4, atol=1e-5)


def test_balanced_class_weights(tmp_path, catalog):
    task = make_task(catalog, {"class_weights": "balanced", "optimizer": {"name": "sgd", "lr": 0.02}})
    masks = np.concatenate([task.train.read(i)[2].mask.ravel() for i in range(10)])
    inverse = 1 / np.array([(masks == 0).sum(), (masks == 1).sum()])
    weight = torch.tensor(inverse / inverse.mean(), dtype=torch.float32)
    assert abs(float(weight[0] - weight[1])) > 0.01
    model = make_model()
    sgd = torch.optim.SGD(groups_of(model, 0.02), momentum=0.9)
    check_against(tmp_path, task, model, plain_loop(task, model, optimizer=sgd, weight=weight))


def test_class_weights_that_do_not_fit_are_refused(tmp_path, catalog):
    with pytest.raises(InputError, match="3 numbers, there are 2 classes"):
        run_fit(tmp_path, make_task(catalog, {"class_weights": [1, 2, 3]}))
    more = Catalog("c", catalog.entries, (*CLASSES, "ice"))
    with pytest.raises(InputError, match="balanced, but training has no ice"):
        run_fit(tmp_path, make_task(more, {"class_weights": "balanced"}))


def test_ignored_pixels_do_not_count(tmp_path, catalog):
    """Known pixels alone make the loss: a hand-made mean over them is what the curves say."""
    task = make_task(catalog, {"epochs": 1, "batch_size": 10, "optimizer": {"name": "sgd", "lr": 1e-9}})
    fitted = run_fit(tmp_path, task)
    model = make_model().train()
    with torch.no_grad():
        logits = model(torch.stack([torch.from_numpy(task.train.read(i)[0]) for i in range(10)]))
    masks = torch.stack([torch.from_numpy(task.train.read(i)[2].mask.astype(np.int64)) for i in range(10)])
    known = masks != 255
    log_p = logits.log_softmax(1).gather(1, torch.where(known, masks, 0)[:, None])[:, 0]
    assert fitted.curves[0]["train_loss"] == pytest.approx(float(-log_p[known].mean()), rel=1e-4)


def rows_of(folder):
    with (folder / "curves.csv").open() as file:
        return list(csv.DictReader(file))


# ---- killed and resumed ----

ONE_CYCLE = ("unet-resnet18", {"epochs": 4, "schedule": {"name": "one-cycle"}}, None)
PLATEAU = (
    "resnet18-aspp",
    {
        "epochs": 12,
        "optimizer": {"name": "adam", "lr": 0.003},
        "schedule": {"name": "plateau", "patience": 1, "factor": 0.5},
        "early_stop": {"patience": 4},
        "augment": {"flips": True, "rotations": True, "band_shift": 0.2},
    },
    PatchRecipe(size=16, per_scene=4),
)
CASES = [ONE_CYCLE, PLATEAU]


def network(name):
    return make_model(name, ASPP | {"dropout": 0.5} if name == "resnet18-aspp" else None)


@pytest.fixture(scope="module", params=CASES, ids=["one-cycle", "plateau"])
def whole(request, misleading, tmp_path_factory):
    """A case and how it goes without interruption."""
    name, recipe, patch = request.param
    folder = tmp_path_factory.mktemp("whole")
    return request.param, run_fit(folder, make_task(misleading, recipe, patch=patch), network(name)), folder


def test_the_cases_are_worth_interrupting(whole):
    (name, _, _), fitted, _ = whole
    rates = {row["learning_rate"] for row in fitted.curves}
    assert len(rates) >= 3
    assert fitted.best_epoch < fitted.epochs
    if name == "resnet18-aspp":
        assert 4 < fitted.epochs < 12  # stopped early


@pytest.mark.parametrize(
    ("where", "workers"),
    [("mid-epoch", 0), ("mid-epoch", 1), ("best kept", 0), ("curves written", 0), ("epoch done", 0)],
)
def test_interrupted_anywhere_it_ends_with_the_same_numbers(
    tmp_path, monkeypatch, misleading, whole, where, workers
):
    (name, recipe, patch), expected, folder = whole
    task = make_task(misleading, recipe | {"workers": workers}, patch=patch)
    with monkeypatch.context() as patched:
        step, keep, save = train.Learner.training_step, train.Keeper._write, train.Keeper._save

        def in_step(self, batch, index):
            if where == "mid-epoch" and self.trainer.current_epoch == 2 and index == self.steps_per_epoch - 1:
                raise PowerError
            return step(self, batch, index)

        def in_write(self, which, epoch):
            keep(self, which, epoch)
            if where == "best kept" and which == "best" and epoch == expected.best_epoch:
                raise PowerError

        def in_save(self, trainer):
            if where == "curves written" and len(self.rows) == 3:
                raise PowerError
            save(self, trainer)

        def progress(epoch, of, row):
            if where == "epoch done" and epoch == 3:
                raise PowerError

        patched.setattr(train.Learner, "training_step", in_step)
        patched.setattr(train.Keeper, "_write", in_write)
        patched.setattr(train.Keeper, "_save", in_save)
        with pytest.raises(PowerError):
            run_fit(tmp_path, task, network(name), progress=progress)
    resumed = (tmp_path / "resume.pt").exists()
    assert resumed or (where, expected.best_epoch) == ("best kept", 1)  # nothing to go on from, yet
    again = run_fit(tmp_path, task, make_model(name, seed=99) if resumed else network(name))
    assert numbers(again.curves) == numbers(expected.curves)
    assert (again.epochs, again.best_epoch) == (expected.epochs, expected.best_epoch)
    for which in ("best", "last"):
        assert same_tensors(tensors(tmp_path, which), tensors(folder, which))


def test_killed_after_the_last_epoch_it_does_no_further_one(tmp_path, misleading, whole):
    (name, recipe, patch), expected, folder = whole
    task = make_task(misleading, recipe, patch=patch)

    def progress(epoch, of, row):
        if epoch == expected.epochs:
            raise PowerError

    with pytest.raises(PowerError):
        run_fit(tmp_path, task, network(name), progress=progress)
    again = run_fit(tmp_path, task, network(name))
    assert (again.epochs, again.best_epoch) == (expected.epochs, expected.best_epoch)
    assert numbers(again.curves) == numbers(expected.curves)
    assert same_tensors(tensors(tmp_path, "last"), tensors(folder, "last"))


def whole_job(folder, catalog_path):
    """One run, from the catalog's file to finished: what the killed process and this one both do."""
    data = DataRecipe.model_validate({"catalog": catalog_path, "validation": {"fraction": 0.3}})
    training = TrainingRecipe.model_validate(
        {"epochs": 4, "batch_size": 2, "precision": "fp32", "schedule": {"name": "one-cycle"},
         "augment": {"flips": True, "rotations": True}}
    )  # fmt: skip
    model = ModelRecipe(name="resnet18-aspp", options=ASPP | {"dropout": 0.5})
    start = RandomStart.model_validate({"from": "random"})
    job = Job(
        "random",
        "segment",
        data,
        model,
        start,
        training,
        PrimaryRecipe.model_validate({"metric": "accuracy"}),
        3,
    )
    run = RunFolder(folder)
    if run.status("x") != "finished":
        opened = open_training_data(open_catalog(data), data)
        train_job(job, run, opened, identity="x", stages_folder=folder.parent, device="cpu", recipe_yaml="")
    return run


KILLED = """
import sys
sys.path[:0] = sys.argv[1:3]
import test_55_train as here
from pathlib import Path

step = here.train.Learner.training_step

def underway(self, batch, index):
    if self.trainer.current_epoch == 2 and index == 2:  # the third epoch, in its third batch
        print("underway", flush=True)
        sys.stdin.read()  # until killed
    return step(self, batch, index)

here.train.Learner.training_step = underway
here.whole_job(Path(sys.argv[3]), sys.argv[4])
"""


def test_killed_with_sigkill_in_mid_epoch_it_goes_on_and_ends_with_the_same_numbers(tmp_path):
    path = write_small(tmp_path / "data", {"train": 12, "test": 2})
    here = Path(__file__).parent
    script = [
        sys.executable,
        "-c",
        KILLED,
        str(here),
        str(here.parent / "src"),
        str(tmp_path / "killed"),
        path,
    ]
    child = subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "underway\n"
        assert [row["epoch"] for row in rows_of(tmp_path / "killed")] == ["1", "2"]
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
    assert child.returncode == -signal.SIGKILL
    killed = RunFolder(tmp_path / "killed")
    assert killed.status("x") == "unfinished"
    assert (killed.path / "resume.pt").is_file()
    seconds = [row["seconds"] for row in rows_of(killed.path)]

    whole_job(killed.path, path)
    straight = whole_job(tmp_path / "straight", path)
    assert killed.status("x") == "finished"
    rows = [rows_of(run.path) for run in (killed, straight)]
    assert [row["seconds"] for row in rows[0][:2]] == seconds  # these epochs were not done again
    assert numbers(rows[0]) == numbers(rows[1])
    assert len(rows[0]) == 4
    for which in ("best", "last"):
        assert same_tensors(tensors(killed.path, which), tensors(straight.path, which))
    for key in ("epochs", "best_epoch"):
        assert killed.record[key] == straight.record[key]


# ---- chance ----


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(tmp_path, misleading):
    name, recipe, patch = PLATEAU
    task = make_task(misleading, recipe | {"epochs": 2}, patch=patch)
    found = [run_fit(tmp_path / str(i), task, network(name), seed=s) for i, s in enumerate((0, 0, 1))]
    assert numbers(found[0].curves) == numbers(found[1].curves)
    assert same_tensors(tensors(tmp_path / "0", "last"), tensors(tmp_path / "1", "last"))
    assert numbers(found[0].curves) != numbers(found[2].curves)


def test_workers_change_nothing(tmp_path, misleading):
    name, recipe, patch = PLATEAU
    found = []
    for workers in (0, 1):
        task = make_task(misleading, recipe | {"epochs": 2, "workers": workers}, patch=patch)
        found.append(numbers(run_fit(tmp_path / str(workers), task, network(name)).curves))
    assert found[0] == found[1]


# ---- best and last ----


@pytest.fixture(scope="module", params=["loss", "metric"])
def judged(request, misleading, tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    recipe = {"epochs": 8, "optimizer": {"lr": 0.002}, "monitor": request.param, "batch_size": 2}
    return request.param, folder, run_fit(folder, make_task(misleading, recipe))


def validation_by_hand(checkpoint, catalog):
    """Mean cross-entropy over known pixels, and the IoU of water, pixel by pixel."""
    losses, both, either = [], 0, 0
    for entry in catalog.in_split("validation"):
        with np.load(entry.label) as file:
            values, label = file["data"], file["label"].astype(np.int64)
        means, stds = (
            np.array([getattr(b, k) for b in checkpoint.contract.bands])[:, None, None]
            for k in ("mean", "std")
        )
        image = torch.from_numpy(((values - means) / stds).astype(np.float32))[None]
        with torch.no_grad():
            p = checkpoint.model(image).double().log_softmax(1)[0].numpy()
        for (row, col), truth in np.ndenumerate(label):
            if truth != 255:
                losses.append(-p[truth, row, col])
                guess = int(p[1, row, col] > p[0, row, col])
                both += guess == truth == 1
                either += guess == 1 or truth == 1
    return float(np.mean(losses)), both / either


def test_best_is_the_epoch_that_validation_judges_best(judged, misleading):
    monitor, folder, fitted = judged
    losses = [row["validation_loss"] for row in fitted.curves]
    metrics = [row["validation_metric"] for row in fitted.curves]
    expected = int(np.argmin(losses)) if monitor == "loss" else int(np.argmax(metrics))
    assert fitted.best_epoch == expected + 1
    assert fitted.best_epoch < fitted.epochs == 8  # the situation that tells them apart
    for which, epoch in (("best", fitted.best_epoch), ("last", 8)):
        checkpoint = read_checkpoint(folder, which=which)
        assert checkpoint.metadata["epoch"] == epoch
        loss, iou = validation_by_hand(checkpoint, misleading)
        assert loss == pytest.approx(losses[epoch - 1], rel=1e-4)
        assert iou == pytest.approx(metrics[epoch - 1], rel=1e-9)


def test_what_is_scored_is_what_was_asked_for(judged, misleading):
    _, folder, fitted = judged
    found = {}
    for which, epoch in (("best", fitted.best_epoch), ("last", 8)):
        scored = evaluate_checkpoint(read_checkpoint(folder, which=which), misleading, "validation")
        confusion = scored.confusion
        found[which] = confusion
        iou = confusion[1, 1] / (confusion[1].sum() + confusion[:, 1].sum() - confusion[1, 1])
        assert iou == pytest.approx(fitted.curves[epoch - 1]["validation_metric"], rel=1e-9)
    assert (found["best"] != found["last"]).any()
    assert not same_tensors(tensors(folder, "best"), tensors(folder, "last"))


def scripted(monkeypatch, losses):
    """Let the validation loss be these numbers, epoch by epoch."""

    def validation_step(self, batch, index):
        self.validation_sum, self.validation_count = losses[self.trainer.current_epoch], 1

    monkeypatch.setattr(train.Learner, "validation_step", validation_step)


@pytest.mark.parametrize(
    ("losses", "stop", "epochs", "best"),
    [
        ([1.0, 0.9, 0.8, 0.95, 0.85, 0.7], {"patience": 2}, 5, 3),
        ([1.0, 0.9, 0.8, 0.95, 0.75, 0.7], {"patience": 2}, 6, 6),
        # gains under min_delta do not prolong the wait, but they are gains: the lowest is kept
        ([1.0, 0.9, 0.8, 0.65, 0.6, 0.5, 0.45, 0.0], {"patience": 3, "min_delta": 0.3}, 7, 7),
        ([math.nan, 1.0, 0.5, 0.6], None, 4, 3),
        ([1.0, math.nan, 0.5, 0.6], None, 4, 3),
        ([0.5, 0.5, 0.5], {"patience": 2}, 3, 1),
    ],
)
def test_early_stop_and_best(tmp_path, monkeypatch, misleading, losses, stop, epochs, best):
    scripted(monkeypatch, losses)
    task = make_task(misleading, {"epochs": len(losses), "early_stop": stop, "batch_size": 2})
    fitted = run_fit(tmp_path, task)
    assert (fitted.epochs, fitted.best_epoch) == (epochs, best)
    assert read_checkpoint(tmp_path, which="best").metadata["epoch"] == best
    assert read_checkpoint(tmp_path, which="last").metadata["epoch"] == epochs
    # the kept weights are those of that epoch: a training that ends there has them as its last
    run_fit(tmp_path / "short", make_task(misleading, {"epochs": best, "batch_size": 2}))
    assert same_tensors(tensors(tmp_path, "best"), tensors(tmp_path / "short", "last"))


def test_plateau_follows_the_validation_loss(tmp_path, monkeypatch, misleading):
    losses = [1.0, 1.1, 1.2, 0.9, 0.95, 0.96, 0.97, 0.98]
    scripted(monkeypatch, losses)
    schedule = {"name": "plateau", "patience": 1, "factor": 0.5}
    task = make_task(
        misleading, {"epochs": 8, "schedule": schedule, "optimizer": {"lr": 0.008}, "batch_size": 2}
    )
    fitted = run_fit(tmp_path, task)
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.008)
    by_hand = torch.optim.lr_scheduler.ReduceLROnPlateau(sgd, patience=1, factor=0.5)
    rates = []
    for loss in losses:
        rates.append(sgd.param_groups[0]["lr"])
        by_hand.step(loss)
    assert len(set(rates)) == 3
    assert [r["learning_rate"] for r in fitted.curves] == pytest.approx(rates)


def test_a_metric_that_is_undefined_at_first_does_not_win(tmp_path, monkeypatch, misleading):
    values = [math.nan, 0.2, 0.5, math.nan, 0.4]

    monkeypatch.setattr(train, "primary_value", lambda *_: next(script))
    script = iter(values)
    fitted = run_fit(tmp_path, make_task(misleading, {"epochs": 5, "monitor": "metric", "batch_size": 2}))
    assert [r["validation_metric"] for r in fitted.curves] == [None, 0.2, 0.5, None, 0.4]
    assert fitted.best_epoch == 3


def test_without_validation_the_last_weights_are_the_best_there_are(tmp_path, catalog):
    task = make_task(catalog.where(lambda e: e.split == "train"), {"early_stop": {"patience": 1}})
    fitted = run_fit(tmp_path, task)
    assert (fitted.epochs, fitted.best_epoch) == (2, 2)
    assert fitted.curves[0]["validation_loss"] is None
    assert same_tensors(tensors(tmp_path, "best"), tensors(tmp_path, "last"))


# ---- what stays, what is written ----


def test_what_is_frozen_does_not_move(tmp_path, catalog):
    model = make_model()
    frozen = freeze(model, ["encoder.conv1", "encoder.bn1", "encoder.layer1", "encoder.layer2.0.bn1"])
    start = {n: t.clone() for n, t in model.state_dict().items()}
    task = make_task(catalog, {"optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1}})
    run_fit(tmp_path, task, model)
    end = tensors(tmp_path, "last")
    still = ("encoder.conv1.", "encoder.bn1.", "encoder.layer1.", "encoder.layer2.0.bn1.")
    for name, tensor in start.items():
        assert torch.equal(end[name], tensor) == name.startswith(still), name  # running statistics too
    assert set(frozen) == {n for n, _ in model.named_parameters() if n.startswith(still)}


def test_all_frozen_is_refused(tmp_path, catalog):
    model = make_model()
    freeze(model, ["*"])
    with pytest.raises(InputError, match="every parameter is frozen"):
        run_fit(tmp_path, make_task(catalog), model)


def test_curves_and_tensorboard_are_written(tmp_path, catalog):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = []
    fitted = run_fit(tmp_path, make_task(catalog), progress=lambda *now: seen.append(now))
    assert [(e, of) for e, of, _ in seen] == [(1, 2), (2, 2)]
    rows = rows_of(tmp_path)
    assert tuple(rows[0]) == CURVES
    for text, row in zip(rows, fitted.curves, strict=True):
        assert {k: float(v) for k, v in text.items()} == pytest.approx(row, rel=1e-6)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    logged = [(e.step, e.value) for e in events.Scalars("validation_loss")]
    assert logged == [(r["epoch"], pytest.approx(r["validation_loss"], rel=1e-6)) for r in fitted.curves]
    kept = {p.name for p in tmp_path.iterdir()}
    assert {"best.safetensors", "best.json", "last.safetensors", "last.json", "resume.pt"} <= kept
    assert not [n for n in kept if n.endswith(".tmp")]


def test_bf16_trains_and_keeps_float32(tmp_path, catalog):
    task = make_task(catalog, {"epochs": 3, "optimizer": {"lr": 3e-3}})
    short, full = (run_fit(tmp_path / p, task, precision=p) for p in ("bf16", "fp32"))
    assert numbers(short.curves) != numbers(full.curves)
    assert short.curves[-1]["validation_loss"] == pytest.approx(full.curves[-1]["validation_loss"], abs=0.1)
    assert short.curves[-1]["train_loss"] < short.curves[0]["train_loss"]
    assert {t.dtype for n, t in tensors(tmp_path / "bf16", "best").items() if "tracked" not in n} == {
        torch.float32
    }


def test_fewer_scenes_than_a_batch_are_one_batch(tmp_path, misleading):
    fitted = run_fit(tmp_path, make_task(misleading, {"batch_size": 16, "schedule": {"name": "cosine"}}))
    assert fitted.epochs == 2


def test_a_training_that_diverges_says_so(tmp_path, catalog):
    task = make_task(catalog, {"optimizer": {"name": "sgd", "lr": 1e30}})
    with pytest.raises(RecipeError, match=r"diverged: its loss is .* Lower training.optimizer.lr"):
        run_fit(tmp_path, task)


def test_a_full_disk_is_one_clear_message(tmp_path, monkeypatch, catalog):
    def full(self, path, *more):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Trainer, "save_checkpoint", full)
    with pytest.raises(OutputError, match=r"cannot write .*resume\.pt: No space left on device"):
        run_fit(tmp_path, make_task(catalog))
    assert [p for p in tmp_path.iterdir() if "resume" in p.name] == []


def test_chips_are_classified(tmp_path):
    rng = np.random.default_rng(0)
    entries = []
    for split, count in (("train", 8), ("validation", 4)):
        for i in range(count):
            values = rng.normal(3.0 * (i % 2), 1, (1, 20, 20)).astype(np.float32)
            path = write_array(tmp_path / f"{split}{i}.npz", values, [Band("a", train_unit())])
            entries.append(Entry(f"{split}{i}", (Asset(path),), category=CLASSES[i % 2], split=split))
    chips = Catalog("chips", tuple(entries), CLASSES)
    primary = PrimaryRecipe.model_validate({"metric": "accuracy"})
    task = make_task(chips, {"epochs": 2, "optimizer": {"lr": 3e-3}}, primary=primary)
    model = make_model("resnet18", {"dropout": 0.2}, bands=1)
    fitted = run_fit(tmp_path / "run", task, model)
    checkpoint = read_checkpoint(tmp_path / "run", which="last")
    scored = evaluate_checkpoint(checkpoint, chips, "validation")
    logits = torch.tensor(np.stack([s.logits for s in scored.scenes]))
    truth = torch.tensor([s.label for s in scored.scenes])
    assert fitted.curves[-1]["validation_loss"] == pytest.approx(
        float(F.cross_entropy(logits, truth)), rel=1e-3
    )
    assert fitted.curves[-1]["validation_metric"] == float((logits.argmax(1) == truth).float().mean())


def train_unit():
    from sartransfer.radar.units import parse_unit

    return parse_unit("sigma0_db")


# ---- small parts ----


def test_primary_values():
    confusion = np.array([[5, 1, 0], [2, 3, 0], [0, 0, 0]])
    classes = ("a", "b", "c")

    def value(metric, class_="", **more):
        return primary_value(
            confusion, PrimaryRecipe.model_validate({"metric": metric, "class": class_}), classes, **more
        )

    assert value("iou", "b") == 3 / 6
    assert value("recall", "a") == 5 / 6
    assert value("accuracy") == 8 / 11
    assert math.isnan(value("iou", "c"))
    assert value("top2", top2=10) == 10 / 11
    assert math.isnan(
        primary_value(np.zeros((3, 3), int), PrimaryRecipe.model_validate({"metric": "top2"}), classes)
    )


def test_devices_and_precisions(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == "cpu"
    with pytest.raises(InputError, match="Use device=cpu"):
        choose_device("cuda")
    with pytest.raises(InputError, match="Must be one of: auto, cpu, cuda"):
        choose_device("gpu")
    assert choose_precision("fp32", "cpu") == "fp32"
    for can in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda can=can: can)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert choose_precision("auto", "cpu") == ("bf16" if can else "fp32")


def test_the_store_and_the_contract_are_what_a_checkpoint_carries(tmp_path, catalog):
    task = make_task(catalog, {"epochs": 1})
    run_fit(tmp_path, task)
    back = read_checkpoint(tmp_path)
    assert back.contract == task.train.contract == contract_of(catalog)
    assert back.classes == CLASSES
    assert isinstance(task.train, SceneStore)
    assert (
        build_model("unet-resnet18", 2, 2, **back.metadata["model"]["options"]).built["name"]
        == "unet-resnet18"
    )
    assert AugmentRecipe() == task.training.augment


# ---- a moving average of the weights ----


def test_the_average_is_the_formula_over_all_steps_and_survives_a_stop(tmp_path, catalog, monkeypatch):
    """The kept weights are the average worked out by hand from the weights after each step."""
    settings = {"epochs": 3, "average": 0.9, "batch_size": 5}
    steps = []
    update = train.AveragedModel.update_parameters

    def spy(self, model):
        steps.append({n: t.detach().clone() for n, t in model.state_dict().items()})
        update(self, model)

    monkeypatch.setattr(train.AveragedModel, "update_parameters", spy)
    fitted = run_fit(tmp_path / "straight", make_task(catalog, settings))
    assert len(steps) == 6  # two batches an epoch
    expected = steps[0]
    for n, now in enumerate(steps[1:], start=1):
        kept = min(0.9, (1 + n) / (10 + n))
        for name, old in expected.items():
            expected[name] = old * kept + now[name] * (1 - kept) if old.is_floating_point() else now[name]
    found = tensors(tmp_path / "straight", "last")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value.contiguous(), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found["encoder.conv1.weight"], steps[-1]["encoder.conv1.weight"], atol=1e-6)

    saved = train.Keeper._save

    def cut(self, trainer):
        saved(self, trainer)
        if len(self.rows) == 2:
            raise PowerError

    monkeypatch.setattr(train.Keeper, "_save", cut)
    with pytest.raises(PowerError):
        run_fit(tmp_path / "cut", make_task(catalog, settings))
    monkeypatch.setattr(train.Keeper, "_save", saved)
    again = run_fit(tmp_path / "cut", make_task(catalog, settings))
    assert numbers(again.curves) == numbers(fitted.curves)
    assert same_tensors(tensors(tmp_path / "straight", "last"), tensors(tmp_path / "cut", "last"))
