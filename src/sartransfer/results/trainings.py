"""How the entries of a comparison were trained, in words: loss, weights, sampler, rates, augmentation."""

from collections.abc import Mapping
from typing import Any

from sartransfer.recipe import AugmentRecipe, DataRecipe, Recipe, TrainingRecipe
from sartransfer.results.pairs import differs, pairs

PACE = ("optimizer", "schedule", "batch_size", "accumulate", "gradient_clip")
"""What sets how far an epoch goes: where these differ, epochs are no measure of the loss."""
SAMPLERS = {
    "shuffle": "each patch once an epoch",
    "balanced": "balanced, with replacement",
    "exactly-balanced": "exactly balanced batches",
}


def describe_trainings(recipe: Recipe) -> dict[str, dict[str, str]]:
    """Return, for each entry, what a reader of a table of losses must know, in words."""
    return {name: _training_words(recipe.training_of(name), recipe) for name in recipe.initializations}


def _training_words(training: TrainingRecipe, recipe: Recipe) -> dict[str, str]:
    weights = training.class_weights
    optimizer = training.optimizer
    rate = f"{optimizer.lr:g}"
    if optimizer.encoder_lr is not None and optimizer.encoder_lr != optimizer.lr:
        rate += f", encoder {optimizer.encoder_lr:g}"
    sampler = SAMPLERS[training.sampler]
    stop = training.early_stop
    chip = recipe.data.chip
    return {
        "augmentation": augmentation_words(training.augment, recipe.data),
        "input": "whole patches" if chip is None else f"centres of {chip} × {chip} px",
        "loss": loss_words(training.loss, training.loss_options),
        "class_weights": "none" if weights is None else weights if isinstance(weights, str) else "given",
        "sampler": f"{sampler}, from a bootstrap sample" if training.bootstrap else sampler,
        "learning_rate": f"{rate} ({optimizer.name}, {training.schedule.name})",
        "stop": f"at most {training.epochs} epochs"
        + (f", or {stop.patience} without a better one" if stop else ", no early stop"),
        "prediction": "one view"
        if recipe.prediction.views == 1
        else f"mean of {recipe.prediction.views} flips and turns",
    }


def loss_words(loss: Mapping[str, float], options: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a loss for people, such as ``cross-entropy`` or ``combined (lam .3)``."""
    terms = []
    for name, factor in loss.items():
        own = ", ".join(f"{k} {_value(v)}" for k, v in options.get(name, {}).items())
        words = name.replace("cross_entropy", "cross-entropy").replace("_", " ") + (
            f" ({own})" if own else ""
        )
        terms.append(words if factor == 1 else f"{factor:g} × {words}")
    return " + ".join(terms)


def augmentation_words(augment: AugmentRecipe, data: DataRecipe) -> str:
    """Return what was changed at random in training patches, or ``without augmentation``."""
    parts = []
    if data.patch is not None:
        parts.append(f"{'random' if data.patch.redraw else 'fixed random'} crops of {data.patch.side_words}")
    if augment.flips:
        parts.append("flips")
    if augment.rotations:
        parts.append("quarter turns")
    if augment.gain:
        parts.append(f"contrast ±{100 * augment.gain:g} %")
    if augment.shift:
        parts.append(f"brightness ±{augment.shift:g} sd")
    if augment.band_shift:
        parts.append(f"brightness of single bands ±{augment.band_shift:g} sd")
    return ", ".join(parts) or "without augmentation"


def training_notes(recipe: Recipe) -> list[str]:
    """Say of which pairs the epochs must not be compared (learning rates or batches differ), and of wrong labels."""
    notes = []
    noise = recipe.data.label_noise
    if noise is not None:
        kind = "to any other class" if noise.kind == "uniform" else "to the class's look-alike"
        notes.append(
            f"{noise.share:.0%} of the training labels of each class were made wrong on purpose ({kind}); the table of"
            " patches counts them as they were trained on."
        )
    for a, b in pairs(recipe):
        first, second = recipe.training_of(a), recipe.training_of(b)
        if differs(recipe, a, b) == "start":
            continue
        apart = [name for name in PACE if getattr(first, name) != getattr(second, name)]
        if apart:
            settings = ", ".join(f"training.{name}" for name in apart)
            notes.append(
                f"{a} and {b} differ in {settings} too: neither their epochs nor their scores compare the losses alone."
            )
    return notes


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
