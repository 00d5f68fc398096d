"""Random changes of training samples, each drawn from a generator that is handed in."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sartransfer.contract import InputContract
from sartransfer.recipe import AugmentRecipe

T = TypeVar("T", bound=np.generic)


def augment(
    image: NDArray[np.float32],
    mask: NDArray[np.uint8] | None,
    valid: NDArray[np.bool_],
    contract: InputContract,
    recipe: AugmentRecipe,
    generator: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None, NDArray[np.bool_]]:
    """Turn, mirror and restretch one sample as the recipe asks.

    Args:
        image: (C, H, W), normalized. mask: (H, W) class indices, or None for a chip. valid: (H, W).
        contract: says which inputs are differences, so that they follow their two bands.
        recipe: what may happen. generator: where chance comes from.

    Returns:
        image, mask and valid, contiguous; the label is moved with the image, never changed.
    """
    turns = 0
    if recipe.rotations:
        turns = (
            int(generator.integers(4)) if image.shape[1] == image.shape[2] else 2 * int(generator.integers(2))
        )
    mirror = bool(recipe.flips and generator.integers(2))
    image, valid = _turn(image, turns, mirror), _turn(valid, turns, mirror)
    mask = None if mask is None else _turn(mask, turns, mirror)
    if recipe.gain or recipe.shift or recipe.band_shift:
        image = restretch(image, contract, recipe, generator) * valid
    return np.ascontiguousarray(image), None if mask is None else np.ascontiguousarray(mask), valid


def restretch(
    image: NDArray[np.float32], contract: InputContract, recipe: AugmentRecipe, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Scale and shift an image (C, H, W) about the training mean, in training standard deviations.

    With z the normalized value, z' = g z + s + t: g and s are drawn once for all bands, t for each. A
    difference a - b becomes what the difference of the changed a and b is:
    g z + (s (sd_a - sd_b) + t_a sd_a - t_b sd_b) / sd; so inputs never contradict each other.
    """
    gain = 1 + recipe.gain * generator.uniform(-1, 1)
    shift = recipe.shift * generator.uniform(-1, 1)
    plain = {b.name: b for b in contract.bands if b.difference is None}
    own = {name: recipe.band_shift * generator.uniform(-1, 1) for name in sorted(plain)}
    offsets = []
    for band in contract.bands:
        if band.difference is None:
            offsets.append(shift + own[band.name])
            continue
        a, b = (plain.get(name) for name in band.difference)
        if a is None or b is None or not a.unit == b.unit == band.unit:
            # a band that is not an input of its own, or in another unit: only its difference can move
            offsets.append(recipe.band_shift * generator.uniform(-1, 1))
            continue
        moved = shift * (a.std - b.std) + own[a.name] * a.std - own[b.name] * b.std
        offsets.append(moved / band.std)
    return image * np.float32(gain) + np.array(offsets, dtype=np.float32)[:, None, None]


def _turn(array: NDArray[T], turns: int, mirror: bool) -> NDArray[T]:
    turned = np.rot90(array, turns, axes=(-2, -1))
    return turned[..., ::-1] if mirror else turned
