"""Samplers for a training loader: each an order of samples that follows from (seed, epoch) alone."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from sartransfer.data.patches import EpochSampler, Samples
from sartransfer.data.sampling import balanced_order, exactly_balanced_order
from sartransfer.errors import CatalogError, RecipeError
from sartransfer.recipe import TrainingRecipe


def build_sampler(samples: Samples, recipe: TrainingRecipe) -> "SampleOrder":
    """Return the sampler that ``training.sampler`` names; raises as the samplers do."""
    if recipe.sampler == "balanced":
        return BalancedSampler(samples)
    if recipe.sampler == "exactly-balanced":
        return ExactlyBalancedSampler(samples, recipe.batch_size)
    return EpochSampler(samples, repeats=math.ceil(recipe.min_steps * recipe.batch_size / len(samples)) or 1)


class BalancedSampler(Sampler[int]):
    """As many draws an epoch as there are samples, with replacement, p proportional to 1 / N_class."""

    def __init__(self, samples: Samples) -> None:
        """Raises `RecipeError` for segmentation, `CatalogError` for a class without training patches."""
        self.samples, self.classes = samples, _classes_to_balance(samples, "balanced")

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[int]:
        yield from balanced_order(self.classes, [self.samples.seed, self.samples.epoch]).tolist()


class ExactlyBalancedSampler(Sampler[int]):
    """An order in which each batch holds equally many of each class, for a loader that batches it in order."""

    def __init__(self, samples: Samples, batch_size: int) -> None:
        """Raises as `BalancedSampler`, and `RecipeError` for a batch size that is no multiple of the classes."""
        self.samples, self.batch_size = samples, batch_size
        self.classes = _classes_to_balance(samples, "exactly-balanced")
        self.number = len(samples.store.catalog.classes)
        if batch_size % self.number:
            below, above = (batch_size // self.number + i for i in (0, 1))
            near = " or ".join(str(n * self.number) for n in (below, above) if n)
            raise RecipeError(
                f"training.batch_size={batch_size} cannot hold equally many of {self.number} classes, as "
                f"training.sampler: exactly-balanced asks. Take {near}, or sampler: balanced."
            )

    def __len__(self) -> int:
        return max(1, len(self.samples) // self.batch_size) * self.batch_size

    def __iter__(self) -> Iterator[int]:
        seed = [self.samples.seed, self.samples.epoch]
        yield from exactly_balanced_order(
            self.classes, self.number, self.batch_size, len(self), seed
        ).tolist()


def _classes_to_balance(samples: Samples, name: str) -> NDArray[np.int64]:
    if samples.classes is None:
        raise RecipeError(
            f"training.sampler: {name} is for patches with one class each; these scenes have label rasters. "
            "Leave it out; training.class_weights: balanced weighs pixels instead."
        )
    known = samples.store.catalog.classes
    missing = [c for i, c in enumerate(known) if not (samples.classes == i).any()]
    if missing:
        raise CatalogError(
            f"training.sampler: {name}, but there is no training patch of {', '.join(missing)}. "
            "Leave the class out (data.drop), or the sampler."
        )
    return samples.classes


SampleOrder = EpochSampler | BalancedSampler | ExactlyBalancedSampler
