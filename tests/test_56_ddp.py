"""Training by several processes: the batches, the losses and the weights of one process, within rounding."""

import queue

import numpy as np
import pytest
import torch
from small_data import make_catalog, make_model, make_task, numbers, run_fit, tensors
from torch import nn
from torch.nn import functional as F

from sartransfer import distributed_training
from sartransfer.data.patches import Samples
from sartransfer.data.samplers import build_sampler
from sartransfer.distributed_training import (
    Batches,
    Group,
    check_devices,
    fit_on_devices,
    train_loader,
    validation_batches,
)
from sartransfer.errors import InputError, RecipeError, SartransferError
from sartransfer.recipe import DataRecipe, ModelRecipe, PrimaryRecipe, RandomStart, TrainingRecipe
from sartransfer.stages import Job

torch.set_num_threads(1)
# Dropout draws for each process alone, so that it has none here.
ASPP = {"aspp_channels": 8, "rates": [1, 2, 3], "dropout": 0.0}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """Scenes of which so much is unknown that halves of a batch differ in how many pixels count."""
    return make_catalog(tmp_path_factory.mktemp("scenes"), {"train": 9, "validation": 5}, ignore=0.5)


def small_network():
    return make_model("resnet18-aspp", ASPP)


def test_two_processes_train_as_one(catalog, tmp_path):
    """The same losses, best epoch and weights, though halves of a batch differ in how many pixels count."""
    training = {
        "epochs": 2, "batch_size": 4, "freeze_batch_norm": True, "loss": {"cross_entropy": 1.0, "dice": 1.0},
        "optimizer": {"name": "sgd", "lr": 0.02}, "gradient_clip": 1.0, "class_weights": "balanced",
        "augment": {"flips": True, "gain": 0.1}, "average": 0.5,
    }  # fmt: skip
    told = []
    one = run_fit(tmp_path / "one", make_task(catalog, training), small_network())
    shared = make_task(catalog, training | {"devices": 2})
    two = run_fit(tmp_path / "two", shared, small_network(), progress=lambda *a: told.append(a))
    assert [(e, of) for e, of, _ in told] == [(1, 2), (2, 2)]
    assert (two.epochs, two.best_epoch) == (one.epochs, one.best_epoch)
    for mine, other in zip(numbers(two.curves), numbers(one.curves), strict=True):
        assert mine == pytest.approx(other, rel=1e-4)
    start = small_network().state_dict()
    for which in ("best", "last"):
        found, wanted = tensors(tmp_path / "two", which), tensors(tmp_path / "one", which)
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-4, msg=name)
            if "running" in name:  # statistics are held
                assert torch.equal(tensor, start[name])
        moved = [n for n in wanted if not torch.equal(wanted[n], start[n])]
        assert any("bn1.weight" in n for n in moved)  # what batch norms learn besides goes on
    kept = {p.name for p in (tmp_path / "two").iterdir()}
    assert kept == {p.name for p in (tmp_path / "one").iterdir()}


def failing(folder, model, task, *, group, **options):
    """A training in which the second process finds a mistake, while the first waits for it."""
    if group.rank == 1:
        raise InputError(f"scene {folder.name!r} is damaged.")
    torch.distributed.barrier()


def test_what_goes_wrong_in_another_process_is_told_here(catalog, tmp_path):
    task = make_task(catalog, {"devices": 2})
    with pytest.raises(InputError, match="scene 'x' is damaged"):
        fit_on_devices(failing, tmp_path / "x", nn.Linear(1, 1), task, device="cpu", progress=None)
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("size", [2, 3, 6])
def test_shares_of_batches_make_the_batches(catalog, size):
    task = make_task(catalog, {"batch_size": 6, "min_steps": 5})
    samples = Samples(task.train, patch=None, recipe=task.training.augment, seed=3)
    sampler = build_sampler(samples, task.training)
    order = list(sampler)
    shares = [list(Batches(sampler, 6, Group(rank, size))) for rank in range(size)]
    assert {len(s) for s in shares} == {len(order) // 6} == {len(Batches(sampler, 6, Group(0, size)))}
    joined = [[i for part in parts for i in part] for parts in zip(*shares, strict=True)]
    assert joined == [order[i : i + 6] for i in range(0, len(order) - 5, 6)]
    alone = train_loader(samples, sampler, task.training)
    assert [b["image"].shape[0] for b in alone] == [6] * len(joined)


def test_validation_batches_are_shared_whole_or_not_at_all(catalog):
    held = make_task(catalog).validation
    both = [validation_batches(held, 2, Group(rank, 2)) for rank in range(2)]
    assert [shared for _, shared in both] == [True, True]
    assert sorted(b for batches, _ in both for b in batches) == [[0, 1], [2, 3], [4]]
    few = [validation_batches(held, 4, Group(rank, 3)) for rank in range(3)]
    assert few == [([[0, 1, 2, 3], [4]], False)] * 3


def test_the_gradient_is_that_of_the_whole_batch(monkeypatch):
    """By hand, without processes: DDP's mean over what each share gives, for a mean over known pixels alone."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Conv2d(2, 3, 1)
    images = torch.randn(4, 2, 5, 5, generator=generator)
    target = torch.randint(0, 3, (4, 5, 5), generator=generator)
    target[:2, :4] = 255
    wanted = torch.autograd.grad(F.cross_entropy(net(images), target, ignore_index=255), net.weight)[0]
    with torch.no_grad():
        everyone = [net(images[:2]), net(images[2:])]
    answers = iter([everyone, [target[:2], target[2:]]] * 2)
    monkeypatch.setattr(distributed_training, "_gathered", lambda own, group: list(next(answers)))
    found = []
    for rank, part in enumerate((slice(0, 2), slice(2, 4))):
        logits, known = distributed_training.whole_batch(net(images[part]), target[part], Group(rank, 2))
        loss = 2 * F.cross_entropy(logits, known, ignore_index=255)
        found.append(torch.autograd.grad(loss, net.weight)[0])
    torch.testing.assert_close(torch.stack(found).mean(0), wanted)


def test_what_cannot_be_shared_out_is_refused():
    def recipe(**values):
        return TrainingRecipe.model_validate({"devices": 2, "batch_size": 4} | values)

    model = small_network()
    with pytest.raises(RecipeError, match="batch_size=5 cannot be shared out to 2 devices"):
        check_devices(model, recipe(batch_size=5), "cpu", 99)
    with pytest.raises(InputError, match="3 training samples are less than one batch of 4"):
        check_devices(model, recipe(), "cpu", 3)
    with pytest.raises(RecipeError, match=r"SyncBatchNorm needs GPUs\). Set training.freeze_batch_norm"):
        check_devices(model, recipe(), "cpu", 99)
    check_devices(model, recipe(freeze_batch_norm=True), "cpu", 99)
    check_devices(nn.Conv2d(1, 1, 1), recipe(), "cpu", 99)
    with pytest.raises(InputError, match="devices=2, but 0 CUDA devices are here"):
        check_devices(model, recipe(), "cuda", 99) if not torch.cuda.is_available() else pytest.skip(
            "a GPU is here"
        )


def test_how_many_devices_share_a_run_does_not_make_it_another():
    def identity(**training):
        return Job(
            "n", "segment", DataRecipe(catalog="c.csv"), ModelRecipe(name="unet-resnet18"), RandomStart(),
            TrainingRecipe.model_validate(training), PrimaryRecipe(metric="iou_macro"), 0,
        ).identity("data")  # fmt: skip

    assert identity(devices=2) == identity()
    assert identity(freeze_batch_norm=True) != identity()


class Ended:
    """A process that has ended."""

    def __init__(self, exitcode):
        self.exitcode = exitcode

    def join(self, timeout):
        pass


def test_a_process_that_was_killed_is_told_of():
    silent = queue.SimpleQueue()
    found = distributed_training._reason(silent, [Ended(0), Ended(-9)])
    assert isinstance(found, SartransferError)
    assert "died (exit code -9)" in str(found)
    assert distributed_training._reason(silent, [Ended(0)]) is None
    silent.put(("ValueError", "no such thing", False))
    assert "ValueError: no such thing" in str(distributed_training._reason(silent, [Ended(1)]))


def test_summed_alone_is_what_it_was():
    values = np.array([1, 2])
    assert distributed_training.summed(values, Group()) is values


def test_a_run_within_a_slurm_job_is_a_run_of_its_own(catalog, tmp_path, monkeypatch):
    """Lightning would refuse a job of several tasks, and write nothing in any task but the first."""
    for name, value in {
        "NTASKS": "5",
        "PROCID": "3",
        "LOCALID": "3",
        "JOB_ID": "7",
        "JOB_NAME": "ice",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    found = run_fit(tmp_path, make_task(catalog, {"epochs": 1}), small_network())
    assert found.epochs == 1
    assert (tmp_path / "last.safetensors").is_file()
    assert list((tmp_path / "tensorboard").iterdir())
