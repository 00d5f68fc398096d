"""Training of one run with Lightning: resumable by epoch, the best and the last weights kept."""

import ctypes
import logging
import math
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from torch import Tensor

from sartransfer.catalog import IGNORE_INDEX
from sartransfer.data.patches import Samples, SceneStore, class_frequencies
from sartransfer.data.samplers import build_sampler
from sartransfer.data_wait import DataWait
from sartransfer.determinism import deterministic
from sartransfer.distributed_training import (
    ALONE,
    Group,
    check_devices,
    fit_on_devices,
    hold_batch_norms,
    summed,
    train_loader,
    trainer_arguments,
    validation_batches,
    validation_loader,
    whole_batch,
)
from sartransfer.errors import InputError, RecipeError
from sartransfer.gpu import on_gpu
from sartransfer.losses import build_loss, complement_weights
from sartransfer.metrics import confusion_matrix, scores
from sartransfer.models import Network
from sartransfer.models.attention import quick_attention
from sartransfer.models.averaging import AveragedModel, average_of
from sartransfer.models.checkpoint import write_checkpoint
from sartransfer.optimization import build_optimizer, build_scheduler, parameter_groups
from sartransfer.predict import choose_device, choose_precision
from sartransfer.recipe import PrimaryRecipe, TrainingRecipe
from sartransfer.remembered import remembering
from sartransfer.textfile import write_text
from sartransfer.whole_images import whole_logits
from sartransfer.wholefile import replacing

__all__ = ["CURVES", "Fitted", "Task", "choose_device", "choose_precision", "fit", "keep_freed_memory"]

CURVES = ("epoch", "train_loss", "validation_loss", "validation_metric", "learning_rate", "seconds")
Progress = Callable[[int, int, dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Task:
    """What one training works on."""

    train: SceneStore
    validation: SceneStore | None
    """None: nothing is validated, and the last weights are the ones."""
    training: TrainingRecipe
    primary: PrimaryRecipe
    classes: tuple[str, ...]
    patch: Any
    """`recipe.PatchRecipe` or None: whole scenes."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """How a training went."""

    epochs: int
    """Epochs done."""
    best_epoch: int
    """Epoch (from 1) whose weights are kept as best."""
    curves: list[dict[str, float | None]]
    """One row an epoch, columns as in `CURVES`."""


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory instead of handing it back after every batch.

    Activations of tens of megabytes are otherwise mapped, zeroed page by page and unmapped in each step:
    measured on 2 cores, a U-Net step takes 1.4 s instead of 2.1 s. Does nothing on other C libraries.
    """
    if platform.system() == "Linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block gets a mapping of its own
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the top of the heap is not handed back
        libc.mallopt(-2, 64 << 20)  # M_TOP_PAD: grow in steps of 64 MiB


def fit(
    folder: Path,
    model: Network,
    task: Task,
    *,
    seed: int,
    device: str,
    precision: str,
    metadata: dict[str, Any],
    progress: Progress | None = None,
    group: Group | None = None,
) -> Fitted:
    """Train `model` and keep ``best`` and ``last`` checkpoints in `folder`.

    Chance (order, augmentation, dropout) follows from `seed`, the epoch and the sample's index, so a
    training killed at any moment and started again goes on from its last finished epoch and ends with the
    same numbers on the same machine.

    Args:
        folder: the run's folder; ``resume.pt`` in it is picked up.
        model: initialized. task: data, recipe and classes. seed: of this run.
        device: ``cpu`` or ``cuda``. precision: ``fp32`` or ``bf16``.
        metadata: what goes into the checkpoints beside the tensors.
        progress: called after each epoch with (epoch, epochs, the row of the curves).
        group: the processes that share this training, of which this is one; None: ``training.devices`` of them are
            started.

    Raises:
        OutputError: the disk is full. InputError: samples that cannot be batched, or shared out.
    """
    keep_freed_memory()
    samples = Samples(
        task.train,
        patch=task.patch,
        recipe=task.training.augment,
        seed=seed,
        bootstrap=task.training.bootstrap,
    )
    sampler = build_sampler(samples, task.training)
    if group is None and task.training.devices > 1:
        check_devices(model, task.training, device, len(sampler))
        given = {"seed": seed, "device": device, "precision": precision, "metadata": metadata}
        return cast(Fitted, fit_on_devices(fit, folder, model, task, progress=progress, **given))
    group = group or ALONE
    learner = Learner(model, task, group, steps_per_epoch=_steps(len(sampler), task.training))
    keeper = Keeper(folder, learner, task, metadata, seed, samples, progress)
    resume = folder / "resume.pt"
    with warnings.catch_warnings():
        # Lightning advises more data workers and says that no logger is set; scenes are in memory already.
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", module="torch.optim.lr_scheduler")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        trainer = Trainer(
            accelerator="gpu" if on_gpu(device) else "cpu",
            precision="bf16-mixed" if precision == "bf16" else "32-true",
            max_epochs=task.training.epochs,
            accumulate_grad_batches=task.training.accumulate,
            gradient_clip_val=task.training.gradient_clip,
            callbacks=[DataWait(folder, write=group.is_first), keeper],  # the keeper saves the state last
            logger=TensorBoardLogger(save_dir=folder, name="tensorboard", version=""),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=10**9,
            **trainer_arguments(group, task.training, device),
        )
        model.to(memory_format=torch.channels_last)
        learner.judged.to(memory_format=torch.channels_last)
        known = remembering(model, task.training.augment, task.training.batch_size, device)
        with deterministic(device), quick_attention(model), known:
            trainer.fit(
                learner,
                train_dataloaders=train_loader(samples, sampler, task.training, group),
                val_dataloaders=validation_loader(task.validation, task.training.batch_size, group),
                ckpt_path=str(resume) if resume.is_file() else None,
                weights_only=True,
            )
    return Fitted(len(keeper.rows), keeper.best_epoch, keeper.rows)


class Learner(LightningModule):
    """Network, loss and optimizer, as Lightning wants them."""

    def __init__(self, model: Network, task: Task, group: Group = ALONE, *, steps_per_epoch: int) -> None:
        super().__init__()
        self.model, self.task, self.group, self.steps_per_epoch = model, task, group, steps_per_epoch
        self.loss = build_loss(
            task.training.loss,
            num_classes=len(task.classes),
            class_weights=_class_weights(task),
            options=task.training.loss_options,
        )
        self.plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        self.averaged: AveragedModel | None = None
        if task.training.average:
            self.averaged = average_of(model, task.training.average)
        self.reset()

    @property
    def judged(self) -> Network:
        """What is validated and kept: the network, or the moving average of its weights."""
        if self.averaged is None:
            return self.model
        return cast(Network, self.averaged.module)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Move the average after each step (not after each batch whose gradient is only added up)."""
        if self.averaged is not None and self.trainer.global_step > self.averaged_steps:
            self.averaged_steps = self.trainer.global_step
            self.averaged.update_parameters(self.model)

    averaged_steps = 0

    def reset(self) -> None:
        """Forget what the epoch summed up."""
        self.train_sum: float | Tensor = 0.0
        self.train_count = 0
        self.validation_sum, self.validation_count = 0.0, 0
        self.confusion: NDArray[np.int64] = np.zeros((len(self.task.classes),) * 2, dtype=np.int64)
        self.top2 = 0

    def share_validation(self) -> None:
        """Add up what each process of the group has validated."""
        held = self.task.validation
        if held is not None and validation_batches(held, self.task.training.batch_size, self.group)[1]:
            sums = np.array([self.validation_sum, self.validation_count, self.top2], dtype=np.float64)
            total, count, top2 = summed(sums, self.group)
            self.validation_sum, self.validation_count, self.top2 = float(total), int(count), int(top2)
            self.confusion = summed(self.confusion, self.group)

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        """Loss of one batch."""
        images = batch["image"].contiguous(memory_format=torch.channels_last)
        logits, target = whole_batch(self.model(images), batch["mask"], self.group)
        loss: Tensor = self.loss(logits, target)
        # Not read here: on a GPU the processor would wait for every step.
        self.train_sum = self.train_sum + loss.detach().double() * len(logits)
        self.train_count += len(logits)
        return loss * self.group.size if self.group.size > 1 else loss

    def validation_step(self, batch: dict[str, Any], index: int) -> None:
        """Add a batch of whole scenes to the validation loss and the confusion matrix."""
        images = batch["image"].contiguous(memory_format=torch.channels_last)
        mask = batch["mask"]
        logits = whole_logits(self.judged, images)
        known = int((mask != IGNORE_INDEX).sum())
        if known:
            self.validation_sum += float(self.loss(logits, mask)) * known
            self.validation_count += known
        self.confusion += confusion_matrix(
            mask.cpu().numpy(),
            logits.argmax(1).cpu().numpy(),
            len(self.task.classes),
            ignore_index=IGNORE_INDEX,
        )
        if logits.ndim == 2:
            two = logits.topk(min(2, logits.shape[1]), dim=1).indices
            self.top2 += int((two == mask[:, None]).any(1).sum())

    def configure_optimizers(self) -> Any:
        """Build optimizer and schedule from the recipe."""
        recipe, schedule = self.task.training.optimizer, self.task.training.schedule
        optimizer = build_optimizer(parameter_groups(self.model, recipe), recipe)
        scheduler = build_scheduler(optimizer, schedule, self.steps_per_epoch * self.task.training.epochs)
        if schedule.name == "plateau":
            # Stepped by the keeper, before it writes the resume state; Lightning would step it after.
            self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer, patience=schedule.patience, factor=schedule.factor, min_lr=schedule.min_lr
            )
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Keeper(Callback):
    """After each epoch: curves, best weights, early stop, and the state from which a killed run resumes."""

    def __init__(
        self,
        folder: Path,
        learner: Learner,
        task: Task,
        metadata: dict[str, Any],
        seed: int,
        samples: Samples,
        progress: Progress | None,
    ) -> None:
        self.folder, self.learner, self.task, self.metadata = folder, learner, task, metadata
        self.seed, self.samples, self.progress, self.group = seed, samples, progress, learner.group
        self.rows: list[dict[str, float | None]] = []
        self.best_value = math.inf
        self.best_epoch = 0
        self.stop_value = math.inf
        self.waited = 0
        self.began = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training must remember."""
        plateau = self.learner.plateau
        return {
            "rows": self.rows,
            "best_value": self.best_value,
            "best_epoch": self.best_epoch,
            "stop_value": self.stop_value,
            "waited": self.waited,
            "plateau": None
            if plateau is None
            else {k: v for k, v in plateau.state_dict().items() if _plain(v)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what an earlier process left."""
        self.rows, self.best_value = state["rows"], state["best_value"]
        self.best_epoch, self.waited = state["best_epoch"], state["waited"]
        self.stop_value = state.get("stop_value", self.best_value)
        self._plateau_state = state["plateau"]
        # Lightning makes the iterator of a resumed epoch before the epoch starts: workers must know the epoch.
        self.samples.epoch = len(self.rows)
        self._resumed = True

    _plateau_state: dict[str, Any] | None = None
    _resumed = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do no further epoch where the one before was the last: killed after it, before the run was closed."""
        if self.rows and self._is_over(len(self.rows)):
            trainer.should_stop = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed what the epoch draws, from the run's seed and the epoch."""
        if self._plateau_state is not None and self.learner.plateau is not None:
            self.learner.plateau.load_state_dict(self._plateau_state)
            self._plateau_state = None
        self.samples.epoch = trainer.current_epoch
        own = [self.group.rank] if self.group.rank else []  # each process has dropout of its own
        torch.manual_seed(
            int(np.random.SeedSequence([self.seed, trainer.current_epoch, *own]).generate_state(1)[0])
        )
        if self.task.training.freeze_batch_norm:
            hold_batch_norms(self.learner.model)
        if self._resumed:
            # An iterator of a DataLoader draws one number when it is made. In a resumed epoch that was done
            # before the seeding, in any other epoch but the first it comes after: dropout must not see that.
            torch.empty((), dtype=torch.int64).random_()
            self._resumed = False
        self.learner.reset()
        self.began = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the epoch and write everything down; the order matters, the resume state comes last."""
        learner, epoch = self.learner, trainer.current_epoch + 1
        learner.share_validation()
        row: dict[str, float | None] = dict.fromkeys(CURVES)
        row |= {
            "epoch": epoch,
            "train_loss": float(learner.train_sum) / max(1, learner.train_count),
            "learning_rate": float(trainer.optimizers[0].param_groups[-1]["lr"]),
            "seconds": round(time.perf_counter() - self.began, 2),
        }
        if not math.isfinite(row["train_loss"] or 0.0):
            raise RecipeError(
                f"the training diverged: its loss is {row['train_loss']} in epoch {epoch}. Lower "
                "training.optimizer.lr, or set training.gradient_clip."
            )
        if learner.validation_count:
            row["validation_loss"] = learner.validation_sum / learner.validation_count
            value = primary_value(learner.confusion, self.task.primary, self.task.classes, learner.top2)
            row["validation_metric"] = None if math.isnan(value) else value
        self.rows.append(row)
        self._judge(row, epoch)
        if self.group.is_first:
            write_text(self.folder / "curves.csv", curves_csv(self.rows))
        logger = trainer.logger
        if logger is not None:
            logger.log_metrics({k: v for k, v in row.items() if k != "epoch" and v is not None}, step=epoch)
        if self._is_over(epoch):
            self._write("last", epoch)
            trainer.should_stop = True
        self._save(trainer)
        if self.progress:
            self.progress(epoch, self.task.training.epochs, row)

    def _is_over(self, epoch: int) -> bool:
        stop = self.task.training.early_stop
        return epoch >= self.task.training.epochs or (stop is not None and self.waited >= stop.patience)

    def _judge(self, row: dict[str, float | None], epoch: int) -> None:
        if row["validation_loss"] is None:  # nothing to judge by: the newest weights are the best there are
            self.best_epoch = epoch
            if epoch >= self.task.training.epochs:
                self._write("best", epoch)
            return
        loss = row["validation_loss"]
        if self.learner.plateau is not None:
            self.learner.plateau.step(loss)
        metric = row["validation_metric"]
        value = loss if self.task.training.monitor == "loss" else (math.inf if metric is None else -metric)
        if math.isnan(value):
            value = math.inf  # nothing compares with NaN: kept as best, it would never be beaten
        delta = self.task.training.early_stop.min_delta if self.task.training.early_stop else 0.0
        first = self.best_epoch == 0
        if first or value < self.best_value:
            self.best_value, self.best_epoch = value, epoch
            self._write("best", epoch)
        if (
            first or value < self.stop_value - delta
        ):  # too small a gain is kept, but does not prolong the wait
            self.stop_value, self.waited = value, 0
        else:
            self.waited += 1

    def _write(self, name: str, epoch: int) -> None:
        if not self.group.is_first:
            return
        write_checkpoint(self.folder / name, self.learner.judged, {**self.metadata, "epoch": epoch})

    def _save(self, trainer: Trainer) -> None:
        resume = self.folder / "resume.pt"
        if not self.group.is_first:
            trainer.save_checkpoint(resume)  # all must call it; the first alone writes
            return
        with replacing(resume) as temporary:
            trainer.save_checkpoint(temporary)


def primary_value(
    confusion: NDArray[np.int64], primary: PrimaryRecipe, classes: tuple[str, ...], top2: int = 0
) -> float:
    """Return the primary metric of a confusion matrix (K, K); NaN where it is undefined."""
    if primary.metric == "top2":
        total = int(confusion.sum())
        return top2 / total if total else math.nan
    value = scores(confusion)[primary.metric]
    if primary.class_:
        return float(np.asarray(value)[classes.index(primary.class_)])
    return float(np.asarray(value))


def curves_csv(rows: list[dict[str, float | None]]) -> str:
    """Return the curves as CSV text; what is undefined stays empty."""
    lines = [",".join(CURVES)]
    for row in rows:
        lines.append(",".join("" if row[c] is None else f"{row[c]:.7g}" for c in CURVES))
    return "\n".join(lines) + "\n"


def _plain(value: object) -> bool:
    return isinstance(value, int | float | str | bool | list | tuple) or value is None


def _steps(samples: int, recipe: TrainingRecipe) -> int:
    batches = max(1, samples // recipe.batch_size) if samples >= recipe.batch_size else 1
    return math.ceil(batches / recipe.accumulate)


def _class_weights(task: Task) -> list[float] | None:
    wanted = task.training.class_weights
    if wanted is None:
        return None
    if wanted == "balanced":
        counts = class_frequencies(task.train)
        if (counts == 0).any():
            missing = [c for c, n in zip(task.classes, counts, strict=True) if n == 0]
            raise InputError(f"class_weights: balanced, but training has no {', '.join(missing)}.")
        inverse = 1.0 / counts
        return [float(w) for w in inverse / inverse.mean()]
    if wanted == "complement" or wanted == "complement-literal":
        counts = class_frequencies(task.train)
        return [float(w) for w in complement_weights(counts, literal=wanted == "complement-literal")]
    if len(wanted) != len(task.classes):
        raise InputError(f"class_weights has {len(wanted)} numbers, there are {len(task.classes)} classes.")
    return [float(w) for w in wanted]
