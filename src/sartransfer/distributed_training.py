"""Training on several devices of one machine by Lightning's DDP: the same batches, the same losses, shared out.

Each process takes its share of every batch; the loss is that of the whole batch, so that nothing depends on how many
processes there are but rounding, dropout and what batch norms see (`check_devices`).
"""

import contextlib
import copy
import multiprocessing
import os
import platform
import queue
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, Sampler

from sartransfer import errors
from sartransfer.children import end_with_parent
from sartransfer.data.patches import Samples, SceneStore, WholeScenes
from sartransfer.data.samplers import SampleOrder
from sartransfer.errors import InputError, RecipeError, SartransferError
from sartransfer.gpu import on_gpu
from sartransfer.recipe import TrainingRecipe

START = 300  # seconds that a process may take to load the libraries


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of one training, and which of them this is."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is kept."""
        return self.rank == 0


ALONE = Group()


def check_devices(model: nn.Module, recipe: TrainingRecipe, device: str, samples: int) -> None:
    """Raise `RecipeError` or `InputError` unless a training can be shared out to ``training.devices``.

    Batch norms that learn their statistics need those of the whole batch: on GPUs by `torch.nn.SyncBatchNorm`, which
    does not run on CPUs.
    """
    size = recipe.devices
    if recipe.batch_size % size:
        raise RecipeError(
            f"training.batch_size={recipe.batch_size} cannot be shared out to {size} devices. Take a multiple of it."
        )
    if samples < recipe.batch_size:
        raise InputError(
            f"{samples} training samples are less than one batch of {recipe.batch_size}, which {size} devices were to "
            "share. Lower training.batch_size, or set training.min_steps."
        )
    if on_gpu(device):
        if (there := torch.cuda.device_count()) < size:
            raise InputError(f"training.devices={size}, but {there} CUDA devices are here.")
        return
    model.train()
    if not recipe.freeze_batch_norm and any(m.training for m in model.modules() if isinstance(m, _BatchNorm)):
        raise RecipeError(
            f"training.devices={size} on CPUs: each process would have batch norms of its own (SyncBatchNorm needs "
            "GPUs). Set training.freeze_batch_norm: true, or devices: 1."
        )


def hold_batch_norms(model: nn.Module) -> None:
    """Put all batch norms into evaluation mode: they use and keep the statistics they start with."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def fit_on_devices(
    fit: Callable[..., Any], folder: Path, model: nn.Module, task: Any, *, progress: Any, **options: Any
) -> Any:
    """Call ``fit(folder, model, task, group=...)`` in this process and in ``training.devices`` - 1 others, together.

    This one is the first of the group: it writes, tells of progress and returns. The others are told what is made of
    what, and get the weights from it. They speak over the loopback interface, and meet in a file.

    Raises what `fit` raises, here or in another process; `SartransferError` where one of them dies.
    """
    size = task.training.devices
    context = multiprocessing.get_context("spawn")  # forked processes inherit torch's thread pool, and hang
    told: Any = context.Queue()
    lean = replace(task, train=_without_pixels(task.train), validation=_without_pixels(task.validation))
    # Tensors would travel by shared memory, of which containers have little: the shapes are enough.
    shapes = copy.deepcopy(model).to("meta")
    with tempfile.TemporaryDirectory(prefix="sartransfer-ddp-") as place:
        store = Path(place) / "store"
        others = [
            context.Process(
                target=_member, args=(fit, Group(rank, size), store, told, folder, shapes, lean, options)
            )
            for rank in range(1, size)
        ]
        try:
            for process in others:
                process.start()
            for _ in others:
                _wait(told, others)
            with _joined(ALONE.rank, size, store, options["device"]):
                _share_tensors(model)
                return fit(folder, model, task, group=Group(0, size), progress=progress, **options)
        except RuntimeError as error:  # what torch says when another process has gone
            raise _reason(told, others) or error from error
        finally:
            for process in others:
                if process.pid is not None:
                    process.join(timeout=5)
                    process.kill()
                    process.join()


def _member(
    fit: Callable[..., Any],
    group: Group,
    store: Path,
    told: Any,
    folder: Path,
    model: nn.Module,
    task: Any,
    options: dict[str, Any],
) -> None:
    """Be one of the other processes of a group."""
    end_with_parent()
    try:
        model = model.to_empty(device="cpu")
        told.put(None)
        with _joined(group.rank, group.size, store, options["device"]):
            _share_tensors(model)
            fit(folder, model, task, group=group, progress=None, **options)
    except Exception as error:
        known = isinstance(error, SartransferError)
        told.put((type(error).__name__, str(error), known))
        raise SystemExit(1) from None


def _wait(told: Any, others: list[Any]) -> None:
    """Wait until one process more is ready; raises where one ends instead."""
    waited = 0.0
    while True:
        try:
            found = told.get(timeout=0.5)
        except queue.Empty:
            waited += 0.5
            if any(not p.is_alive() for p in others) or waited > START:
                raise SartransferError(
                    "a process of this training did not start; see its message above."
                ) from None
            continue
        if found is None:
            return
        raise _error(*found)


def _reason(told: Any, others: list[Any]) -> Exception | None:
    """Return the error of another process, if one said why it ended, or that it was killed."""
    for process in others:
        process.join(timeout=5)
    with contextlib.suppress(queue.Empty):
        while True:
            found = told.get(timeout=0.5)
            if found is not None:
                return _error(*found)
    codes = [p.exitcode for p in others if p.exitcode not in (0, None)]
    if codes:
        return SartransferError(
            f"a process of this training died (exit code {codes[0]}): out of memory, perhaps. The same command goes "
            "on from the last epoch."
        )
    return None


def _error(kind: str, words: str, known: bool) -> Exception:
    found = getattr(errors, kind, SartransferError) if known else None
    return found(words) if found else RuntimeError(f"in another process of this training: {kind}: {words}")


@contextlib.contextmanager
def _joined(rank: int, size: int, store: Path, device: str) -> Iterator[None]:
    """Be one of `size` processes, for as long as the context lasts."""
    gpu = on_gpu(device)
    wanted = {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    if platform.system() == "Linux":  # all are on this machine: nothing is to be heard outside of it
        wanted |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        if gpu:
            torch.cuda.set_device(rank)
        meeting = distributed.FileStore(str(store), size)  # type: ignore[attr-defined]
        distributed.init_process_group("nccl" if gpu else "gloo", store=meeting, rank=rank, world_size=size)
        yield
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _share_tensors(model: nn.Module) -> None:
    """Give all processes the first one's weights and buffers, also those that no checkpoint holds."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            sent = tensor.detach()
            if distributed.get_backend() == "nccl":
                sent = sent.cuda()
            sent = sent.contiguous()
            distributed.broadcast(sent, 0)
            tensor.copy_(sent)


def trainer_arguments(group: Group, recipe: TrainingRecipe, device: str) -> dict[str, Any]:
    """Return what Lightning's Trainer must know of a group."""
    # Said, not found out: within a job of SLURM Lightning would take each of its tasks for a part of one training.
    environment = LightningEnvironment()
    environment.set_global_rank(group.rank)
    if group.size == 1:
        return {"devices": 1, "plugins": [environment]}
    gpu = on_gpu(device)
    return {
        "devices": group.size,
        # Buffers are alike in all: held, or of the whole batch. Synchronizing them would hang in a validation of
        # which processes have different numbers of batches.
        "strategy": DDPStrategy(process_group_backend="nccl" if gpu else "gloo", broadcast_buffers=False),
        "plugins": [environment],
        "use_distributed_sampler": False,
        "sync_batchnorm": gpu and not recipe.freeze_batch_norm,
    }


def whole_batch(logits: Tensor, target: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """Return logits and targets of the whole batch from every process's share, in order.

    Only the own share has a gradient. A loss of the result, times `group.size`, gives after DDP's mean the gradient of
    the loss over the whole batch, whatever the loss: also where it counts pixels, or takes a share of them.
    """
    if group.size == 1:
        return logits, target
    parts = _gathered(logits.detach().float(), group)
    parts[group.rank] = logits
    return torch.cat(parts), torch.cat(_gathered(target, group))


def _gathered(own: Tensor, group: Group) -> list[Tensor]:
    sent = own.contiguous()
    parts = [torch.empty_like(sent) for _ in range(group.size)]
    distributed.all_gather(parts, sent)
    return parts


def summed(values: NDArray[Any], group: Group) -> NDArray[Any]:
    """Return the sum of an array over all processes, in its own type."""
    if group.size == 1:
        return values
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    total = torch.from_numpy(values.copy()).to(device)
    distributed.all_reduce(total)
    found: NDArray[Any] = total.cpu().numpy()
    return found


class Batches(Sampler[list[int]]):
    """This process's share of each whole batch of an order: the same samples make the same batch."""

    def __init__(self, order: SampleOrder, batch_size: int, group: Group) -> None:
        self.order, self.batch_size, self.group = order, batch_size, group

    def __len__(self) -> int:
        return len(self.order) // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        share, batch = self.batch_size // self.group.size, []
        for index in self.order:
            batch.append(index)
            if len(batch) == self.batch_size:
                yield batch[self.group.rank * share : (self.group.rank + 1) * share]
                batch = []


def train_loader(
    samples: Samples, sampler: SampleOrder, recipe: TrainingRecipe, group: Group = ALONE
) -> DataLoader[dict[str, Any]]:
    """Return the batches of an epoch, or this process's share of each."""
    if group.size > 1:
        batches = Batches(sampler, recipe.batch_size, group)
        return DataLoader(samples, batch_sampler=batches, num_workers=recipe.workers)
    # An incomplete last batch is left out: batch norm of one or two samples would upset a small training.
    # The order changes every epoch, so no sample is left out for good.
    return DataLoader(
        samples,
        batch_size=recipe.batch_size,
        sampler=sampler,
        drop_last=len(sampler) >= recipe.batch_size,
        num_workers=recipe.workers,
    )


def validation_batches(held: SceneStore, batch_size: int, group: Group) -> tuple[list[list[int]], bool]:
    """Return this process's batches of scenes, and whether others have others; else each process does all."""
    scenes = WholeScenes(held)
    size = scenes.batch_size(batch_size)
    batches = [list(range(i, min(len(scenes), i + size))) for i in range(0, len(scenes), size)]
    shared = 1 < group.size <= len(batches)
    return batches[group.rank :: group.size] if shared else batches, shared


def validation_loader(
    held: SceneStore | None, batch_size: int, group: Group = ALONE
) -> DataLoader[dict[str, Any]] | None:
    """Return the batches of whole scenes to validate with; None: none."""
    if held is None:
        return None
    scenes = WholeScenes(held)
    if group.size == 1:
        return DataLoader(scenes, batch_size=scenes.batch_size(batch_size), num_workers=0)
    return DataLoader(scenes, batch_sampler=validation_batches(held, batch_size, group)[0], num_workers=0)


def _without_pixels(store: SceneStore | None) -> SceneStore | None:
    """Return a store that another process reads for itself: decoded scenes stay behind."""
    return None if store is None else store.without_pixels()
