"""Pretraining on images without labels: masked autoencoding, resumable by epoch, the best and the last weights kept."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sartransfer.data.patches import EpochSampler, SceneStore
from sartransfer.data.unlabelled import UnlabelledData, UnlabelledSamples
from sartransfer.errors import InputError, RecipeError
from sartransfer.models.masked import MaskedAutoencoder
from sartransfer.models.pretrained import write_pretrained
from sartransfer.optimization import build_optimizer, build_scheduler, decay_groups
from sartransfer.predict import autocast
from sartransfer.recipe import MaskedRecipe, PatchRecipe, TrainingRecipe
from sartransfer.scene import Window
from sartransfer.textfile import write_text
from sartransfer.train import CURVES, Fitted, Progress, curves_csv, keep_freed_memory
from sartransfer.wholefile import replacing

BETAS = (0.9, 0.95)  # of AdamW, He et al. 2022, table 8


@dataclass
class _State:
    """How far a pretraining has got."""

    rows: list[dict[str, float | None]]
    best_value: float = math.inf
    best_epoch: int = 0


def pretrain(
    folder: Path,
    model: MaskedAutoencoder,
    data: UnlabelledData,
    training: TrainingRecipe,
    masked: MaskedRecipe,
    *,
    patch: PatchRecipe | None,
    seed: int,
    device: str,
    precision: str,
    metadata: dict[str, Any],
    progress: Progress | None = None,
) -> Fitted:
    """Pretrain `model` and keep ``best`` and ``last`` weights and ``curves.csv`` in `folder`.

    Chance (order, places, augmentation, what is hidden) follows from `seed` and the epoch, so a pretraining killed at
    any moment and started again goes on from its last finished epoch and ends with the same numbers on the same
    machine. Validation hides the same patches in every epoch.

    Args:
        folder: the run's folder; ``resume.pt`` in it is picked up.
        model: initialized. data: images. training, masked: how. patch: random patches; None: whole images.
        seed: of this run. device: ``cpu`` or ``cuda``. precision: ``fp32`` or ``bf16``.
        metadata: what goes beside the weights.
        progress: called after each epoch with (epoch, epochs, the row of the curves).

    Raises:
        RecipeError: the training diverged. InputError: images smaller than two patches. OutputError: a full disk.
    """
    keep_freed_memory()
    model.to(device)
    samples = UnlabelledSamples(data.train, patch=patch, recipe=training.augment, seed=seed)
    sampler = EpochSampler(samples)
    batches = max(1, len(sampler) // training.batch_size)
    optimizer = build_optimizer(decay_groups(model, training.optimizer.lr), training.optimizer, betas=BETAS)
    scheduler = build_scheduler(optimizer, training.schedule, batches * training.epochs)
    state = _resume(folder, model, optimizer, scheduler)

    def loss_of(batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, int]:
        image, valid = (_whole_patches(batch[k], model.patch).to(device) for k in ("image", "valid"))
        with autocast(precision, device):
            kept, hidden = model.draw(image, masked.ratio, generator)
            return model.loss(image, kept, hidden, valid)

    for epoch in range(len(state.rows) + 1, training.epochs + 1):
        began = time.perf_counter()
        samples.epoch = epoch - 1
        torch.manual_seed(_seed(seed, epoch, 0))
        hide = torch.Generator().manual_seed(_seed(seed, epoch, 1))
        loader = DataLoader(
            samples,
            batch_size=training.batch_size,
            sampler=sampler,
            drop_last=len(sampler) >= training.batch_size,
            num_workers=training.workers,
        )
        model.train()
        total, count = 0.0, 0
        for batch in loader:
            loss, number = loss_of(batch, hide)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if training.gradient_clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), training.gradient_clip)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            total, count = total + float(loss.detach()) * number, count + number
        row: dict[str, float | None] = dict.fromkeys(CURVES)
        row |= {
            "epoch": epoch,
            "train_loss": total / max(1, count),
            "learning_rate": float(optimizer.param_groups[-1]["lr"]),
        }
        if count == 0 or not math.isfinite(total):
            raise RecipeError(
                f"the pretraining diverged, or no image has a valid patch: its loss is {row['train_loss']} over "
                f"{count} patches in epoch {epoch}. Lower training.optimizer.lr, or set training.gradient_clip."
            )
        if data.validation is not None:
            row["validation_loss"] = _validate(model, data.validation, samples.patch, loss_of)
        row["seconds"] = round(time.perf_counter() - began, 2)
        state.rows.append(row)
        value = row["validation_loss"] if row["validation_loss"] is not None else -epoch
        if value < state.best_value or state.best_epoch == 0:
            state.best_value, state.best_epoch = value, epoch
            write_pretrained(folder / "best", model, {**metadata, "epoch": epoch})
        write_text(folder / "curves.csv", curves_csv(state.rows))
        if epoch == training.epochs:
            write_pretrained(folder / "last", model, {**metadata, "epoch": epoch})
        _save(folder, model, optimizer, scheduler, state)
        if progress:
            progress(epoch, training.epochs, row)
    return Fitted(len(state.rows), state.best_epoch, state.rows)


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _whole_patches(x: Tensor, patch: int) -> Tensor:
    """Cut an image (..., H, W) at the bottom and on the right to whole patches."""
    height, width = (n // patch * patch for n in x.shape[-2:])
    if height == 0 or width == 0:
        raise InputError(
            f"an image of {tuple(x.shape[-2:])} pixels is smaller than the network's patch of {patch}."
        )
    return x[..., :height, :width]


def _validate(
    model: MaskedAutoencoder, store: SceneStore, patch: PatchRecipe | None, loss_of: Any
) -> float | None:
    """Return the mean loss over the validation images: the centre of each, as large as a training patch."""
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for number, batch in enumerate(_centres(store, patch)):
            loss, patches = loss_of(batch, torch.Generator().manual_seed(_seed(number, 2)))
            total, count = total + float(loss) * patches, count + patches
    return total / count if count else None


def _centres(store: SceneStore, patch: PatchRecipe | None) -> Iterator[dict[str, Tensor]]:
    for index in range(len(store)):
        height, width = store.shape(index)
        h, w = (min(n, patch.size or n) if patch else n for n in (height, width))
        image, valid, _ = store.read(index, Window((height - h) // 2, (width - w) // 2, h, w))
        yield {
            "image": torch.from_numpy(np.ascontiguousarray(image))[None],
            "valid": torch.from_numpy(np.ascontiguousarray(valid))[None],
        }


def _resume(folder: Path, model: MaskedAutoencoder, optimizer: Any, scheduler: Any) -> _State:
    file = folder / "resume.pt"
    if not file.is_file():
        return _State([])
    kept = torch.load(file, map_location="cpu", weights_only=True)
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    if scheduler is not None:
        scheduler.load_state_dict(kept["scheduler"])
    return _State(kept["rows"], kept["best_value"], kept["best_epoch"])


def _save(folder: Path, model: MaskedAutoencoder, optimizer: Any, scheduler: Any, state: _State) -> None:
    kept = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": None if scheduler is None else scheduler.state_dict(),
        "rows": state.rows,
        "best_value": state.best_value,
        "best_epoch": state.best_epoch,
    }
    with replacing(folder / "resume.pt") as temporary:
        torch.save(kept, temporary)
