"""Which samples an epoch sees, in which order: balanced by class, or bootstrapped; arrays in, arrays out."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import CatalogError, RecipeError, one_of
from sartransfer.recipe import PatchRecipe

REDRAWS = 1000  # bootstrap samples drawn before a class is said to be too rare for one
_BOOTSTRAP, _BALANCED, _EXACTLY = 1, 2, 3  # keys that keep the streams of one seed apart


def bootstrap_scenes(number: int, seed: int, classes: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Draw `number` of as many scenes, with replacement (Efron 1979): indices (N,), sorted.

    Args:
        number: of scenes. seed: of the run.
        classes: class index of each (N,); then the draw is made anew until it holds every class that is there, so
            that no sub-model is without a rare class. None: the first draw counts.

    Raises `CatalogError` if 1000 draws all lack a class.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_BOOTSTRAP,)))
    for _ in range(REDRAWS):
        chosen = np.sort(rng.integers(number, size=number))
        if classes is None or len(np.unique(classes[chosen])) == len(np.unique(classes)):
            return chosen
    raise CatalogError(
        f"training.bootstrap: {REDRAWS} samples of {number} patches were drawn, and each lacked a class. "
        "Give the rare classes more patches, or drop them (data.drop)."
    )


def balanced_order(classes: NDArray[np.int64], seed: Sequence[int]) -> NDArray[np.int64]:
    """Draw N of N samples with replacement, each with probability 1 / (K N_class): sample numbers (N,).

    Args:
        classes: class index of each sample (N,). seed: integers; the order is a function of them alone.

    The second draw of sample i is i + N, the third i + 2 N, so that each may be changed (augmented) anew.
    """
    rng = np.random.default_rng(np.random.SeedSequence(list(seed), spawn_key=(_BALANCED,)))
    _, place, counts = np.unique(classes, return_inverse=True, return_counts=True)
    p = 1.0 / (len(counts) * counts[place])
    return _numbered(rng.choice(len(classes), size=len(classes), p=p / p.sum()), len(classes))


def exactly_balanced_order(
    classes: NDArray[np.int64], number: int, batch: int, length: int, seed: Sequence[int]
) -> NDArray[np.int64]:
    """Return sample numbers (`length`,) of which each `batch` holds batch / number of every class.

    Args:
        classes: class index of each sample (N,), each of range(`number`) at least once. batch: a multiple of
            `number`. length: a multiple of `batch`. seed: integers; the order is a function of them alone.

    A class is gone through in a new order as often as need be: no sample comes again before all of its class
    were there. Repetitions are numbered as in `balanced_order`.
    """
    rng = np.random.default_rng(np.random.SeedSequence(list(seed), spawn_key=(_EXACTLY,)))
    batches, each = length // batch, batch // number
    columns = []
    for index in range(number):
        members = np.flatnonzero(classes == index)
        rounds = -(-batches * each // len(members))
        gone_through = np.concatenate([rng.permutation(members) for _ in range(rounds)])
        columns.append(gone_through[: batches * each].reshape(batches, each))
    order = rng.permuted(np.concatenate(columns, axis=1), axis=1)
    return _numbered(order.ravel(), len(classes))


def class_shares(patch: PatchRecipe, classes: Sequence[str]) -> dict[int, float]:
    """Return class index -> least share of a patch; raises `RecipeError` for a class that is not there."""
    for name in patch.min_class:
        if name not in classes:
            raise RecipeError(one_of("data.patch.min_class", name, classes))
    return {classes.index(name): share for name, share in patch.min_class.items()}


def _numbered(drawn: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """Add `number` to a sample for each time it was there before."""
    order = np.argsort(drawn, kind="stable")
    ordered = drawn[order]
    first = np.searchsorted(ordered, ordered, side="left")
    out = drawn.astype(np.int64)
    out[order] += number * (np.arange(len(drawn)) - first)
    return out
