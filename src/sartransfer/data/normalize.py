"""From the bands a recipe names to the contract of a network: units from a scene, statistics from training."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from sartransfer.contract import InputBand, InputContract
from sartransfer.errors import InputError, UnitError
from sartransfer.radar.units import Quantity, parse_unit
from sartransfer.recipe import BandRecipe
from sartransfer.scene import Scene, Window

BLOCK_PIXELS = 1 << 22  # rows are read in blocks of about this many pixels, so that memory stays flat


def resolve_contract(bands: Sequence[BandRecipe], scene: Scene) -> InputContract:
    """Return the inputs that `bands` ask for, with the units `scene` has where none is asked for.

    Means are 0 and standard deviations 1 until `fit_normalization`. Empty `bands`: all of the scene's.
    Raises `UnitError` if a band's unit is unknown, `InputError` if the scene has no such band.
    """
    wanted = bands or tuple(BandRecipe(name=name) for name in scene.names)
    inputs = []
    for recipe in wanted:
        first = scene.band(recipe.difference[0] if recipe.difference else recipe.name)
        unit = recipe.unit or str(first.unit)
        if parse_unit(unit).quantity is Quantity.UNKNOWN:
            raise UnitError(
                f"scene {scene.id!r}: the unit of band {first.name!r} is unknown, and a network must know what it "
                "is fed. Say so in the file's band description or the catalog's `bands` column, e.g. "
                f"{first.name}=sigma0_db."
            )
        inputs.append(
            InputBand(
                name=recipe.name,
                unit=unit,
                polarization=None if recipe.difference else first.polarization,
                role=None if recipe.difference else first.role,
                difference=recipe.difference,
            )
        )
    contract = InputContract(tuple(inputs))
    contract.check(scene)
    return contract


def fit_normalization(contract: InputContract, scenes: Iterable[Scene]) -> InputContract:
    """Return `contract` with mean and standard deviation of each input over all valid pixels of `scenes`.

    Exact in one pass over the pixels, block by block, in float64 (Chan et al. 1983, pairwise update).
    Raises `InputError` when no pixel is valid or an input is constant.
    """
    count = 0
    mean = np.zeros(len(contract.bands))
    squares = np.zeros(len(contract.bands))
    for scene in scenes:
        for window in _row_blocks(scene):
            data, valid = contract.read(scene, window, normalize=False)
            values = data[:, valid].astype(np.float64)
            n = values.shape[1]
            if n == 0:
                continue
            block_mean = values.mean(axis=1)
            block_squares = ((values - block_mean[:, None]) ** 2).sum(axis=1)
            delta = block_mean - mean
            total = count + n
            mean = mean + delta * (n / total)
            squares = squares + block_squares + delta**2 * (count * n / total)
            count = total
    if count == 0:
        raise InputError("no valid pixel in the training scenes: nothing to normalize by.")
    std = np.sqrt(squares / count)
    for band, average, deviation in zip(contract.bands, mean, std, strict=True):
        # Sums of a constant .1 round: what is left over is no deviation (float32 steps by 1.2e-7 of the value).
        if not deviation > 1e-7 * abs(average):
            raise InputError(f"band {band.name!r} is constant over the training scenes; leave it out.")
    bands = (
        replace(band, mean=float(m), std=float(s))
        for band, m, s in zip(contract.bands, mean, std, strict=True)
    )
    return InputContract(tuple(bands))


def _row_blocks(scene: Scene) -> Iterable[Window]:
    rows = max(1, BLOCK_PIXELS // scene.width)
    for row in range(0, scene.height, rows):
        yield Window(row, 0, min(rows, scene.height - row), scene.width)
