"""How weights are moved: parameters in groups with their learning rates, the optimizer and its schedule."""

import re
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from sartransfer.errors import InputError, RecipeError
from sartransfer.models import Network
from sartransfer.recipe import OptimizerRecipe, ScheduleRecipe

RESNET_STAGE = re.compile(r"^encoder\.layer(\d+)\.")
RESNET_STAGES = 4
STEM = ("encoder.conv1.", "encoder.bn1.", "input_projection.")


def parameter_groups(model: Network, recipe: OptimizerRecipe) -> list[dict[str, Any]]:
    """Return the parameters that learn, in groups with their learning rates, for an optimizer.

    Without ``layer_decay`` two groups: the encoder at ``encoder_lr`` (or ``lr``), the rest at ``lr``. With it a group
    for each layer, the deepest first: ``rate * layer_decay ** (last - layer)``, where the rate is that of the encoder
    or of the rest. A group without parameters is left out; the last group is that of the class layer, unless it is
    frozen.

    Raises:
        InputError: nothing is left to train. RecipeError: ``layer_decay`` for a network without numbered layers.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    if not named:
        raise InputError("every parameter is frozen: nothing is left to train. Shorten `freeze`.")
    encoder = {id(p) for p in model.encoder.parameters()}
    inside = recipe.encoder_lr or recipe.lr
    groups: list[dict[str, Any]]
    if recipe.layer_decay == 1.0:
        groups = [
            {"params": [p for _, p in named if id(p) in encoder], "lr": inside},
            {"params": [p for _, p in named if id(p) not in encoder], "lr": recipe.lr},
        ]
        return [g for g in groups if g["params"]]
    numbers, last = layers_of(model)
    places = sorted({(numbers[n], id(p) not in encoder) for n, p in named})
    groups = []
    for number, outside in places:
        rate = (recipe.lr if outside else inside) * recipe.layer_decay ** (last - number)
        own = [p for n, p in named if (numbers[n], id(p) not in encoder) == (number, outside)]
        groups.append({"params": own, "lr": rate})
    return groups


def layers_of(model: Network) -> tuple[dict[str, int], int]:
    """Return how deep each parameter lies, 0 at the image, and the largest such number.

    Prithvi and its like say so themselves (`models.prithvi.layer_of`); of a ResNet the stem is 0, ``layer1`` to
    ``layer4`` are 1 to 4, and what comes after the encoder is 5.

    Raises:
        RecipeError: another network.
    """
    names = [n for n, _ in model.named_parameters()]
    own, last = getattr(model, "layer_of", None), getattr(model, "last_layer", None)
    if callable(own) and isinstance(last, int):
        return {n: int(own(n)) for n in names}, last
    numbers = {n: _resnet_layer(n) for n in names}
    if any(n is None for n in numbers.values()) or not any(RESNET_STAGE.match(n) for n in names):
        raise RecipeError(
            f"training.optimizer.layer_decay needs a network with numbered layers, a vision transformer of Prithvi's "
            f"form or a ResNet; {model.built.get('name', 'this one')!r} is neither. Leave it out, or set encoder_lr."
        )
    return {n: int(k or 0) for n, k in numbers.items()}, RESNET_STAGES + 1


def _resnet_layer(name: str) -> int | None:
    if name.startswith(STEM):
        return 0
    found = RESNET_STAGE.match(name)
    if found:
        return int(found[1])
    return None if name.startswith("encoder.") else RESNET_STAGES + 1


def decay_groups(module: nn.Module, lr: float) -> list[dict[str, Any]]:
    """Return the parameters that learn in two groups: matrices, and what weight decay leaves alone.

    Biases and the scales of norms are vectors, and are not decayed (He et al. 2022, as their code does).
    """
    moved = [p for p in module.parameters() if p.requires_grad]
    matrices, vectors = [p for p in moved if p.ndim > 1], [p for p in moved if p.ndim <= 1]
    return [{"params": vectors, "lr": lr, "weight_decay": 0.0}, {"params": matrices, "lr": lr}]


def build_optimizer(
    groups: list[dict[str, Any]], recipe: OptimizerRecipe, *, betas: tuple[float, float] = (0.9, 0.999)
) -> torch.optim.Optimizer:
    """Return the optimizer that a recipe names, on parameters in groups."""
    if recipe.name == "sgd":
        return torch.optim.SGD(
            groups, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    kind = torch.optim.Adam if recipe.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=recipe.lr, betas=betas, weight_decay=recipe.weight_decay)


def build_scheduler(
    optimizer: torch.optim.Optimizer, recipe: ScheduleRecipe, steps: int
) -> LRScheduler | None:
    """Return a schedule that is stepped `steps` times, after each step; None for ``constant`` and ``plateau``."""
    if recipe.name == "one-cycle":
        rates = [float(g["lr"]) for g in optimizer.param_groups]
        # PyTorch divides by the length of the rise, which is 0 where it is to take one step exactly.
        share = recipe.warmup * (1 + 1e-6) if recipe.warmup * steps == 1 else recipe.warmup
        return OneCycleLR(optimizer, rates, total_steps=steps, pct_start=share)
    if recipe.name == "cosine":
        return CosineAnnealingLR(optimizer, steps, eta_min=recipe.min_lr)
    return None
