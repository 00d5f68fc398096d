"""The kernels in numpy, for where numba is not installed: the same numbers, bit for bit."""

import numpy as np
from numpy.typing import NDArray

from sartransfer.radar.sea_ice.backscatter import Surface
from sartransfer.radar.sea_ice.fields import TILE_SCALE, Field
from sartransfer.radar.sea_ice.floes import OLD_FROM, TONES
from sartransfer.radar.sea_ice.geometry import (
    AGE,
    EDGE,
    FROST,
    LAND,
    LEAD_1,
    LEAD_2,
    TONE,
    WIND,
    Ground,
)
from sartransfer.radar.sea_ice.speckle import independent

MIDDLE = 32.5  # level of no deviation, and half a level for rounding


def ground_rows(
    ground: Ground, first: int, floes: NDArray[np.uint8], gains: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return surface and level (rows, width) of rows from `first` on.

    Args:
        ground: of the scene. floes: codes of these rows. gains: (7, 3), levels a surface gains by region, texture,
        tone.
    """
    rows, limits = len(floes), ground.thresholds.as_array()
    at = [ground.grid.at_pixels(field, first, rows) for field in ground.fields]
    bulk = _tiled(ground.tiles[1], first, floes.shape)
    one = np.float32(1 / TILE_SCALE)
    texture = (_tiled(ground.tiles[0], first, floes.shape).astype(np.int32) + bulk).astype(np.float32) * one
    edge = at[EDGE] + limits[7] * (bulk.astype(np.float32) * one)
    pack, lead = edge >= 1, (np.abs(at[LEAD_1]) < limits[0]) | (np.abs(at[LEAD_2]) < limits[1])
    frost, floe = at[FROST], np.where(floes >= OLD_FROM, Surface.OLD, Surface.FIRST_YEAR)
    in_lead = np.where(
        frost > limits[4], Surface.YOUNG, np.where(frost > limits[3], Surface.NEW, Surface.WATER)
    )
    matrix = np.where(at[AGE] > limits[2], Surface.OLD, Surface.FIRST_YEAR)
    in_pack = np.where(lead, in_lead, np.where(floes > 0, floe, matrix))
    on_floe = np.where(pack, ~lead, edge > 0) & (floes > 0)
    open_sea = np.where((edge > -3) & (frost + edge > limits[5]), Surface.NEW, Surface.WATER)
    sea = np.where(pack, in_pack, np.where(on_floe, floe, open_sea))
    dry, fast = at[LAND] > 0, at[LAND] > limits[6]
    surface = np.where(dry, Surface.LAND, np.where(fast, Surface.FAST, sea)).astype(np.uint8)
    tone = ((floes.astype(np.int32) - 1) % TONES).astype(np.float32) - np.float32(TONES / 2 - 0.5)
    tone = np.where(on_floe & ~dry & ~fast, tone, np.float32(0))
    region = np.where(surface == Surface.WATER, at[WIND], at[TONE])
    gain = gains[surface]
    value = gain[..., 0] * region + gain[..., 1] * texture + gain[..., 2] * tone
    value = value + np.float32(MIDDLE)
    return surface, np.floor(np.clip(value, 0, 63)).astype(np.uint8)


def radar_rows(
    surface: NDArray[np.uint8],
    level: NDArray[np.uint8],
    means: Field,
    shift: int,
    noise: Field,
    factors: Field,
    bounds: NDArray[np.int64],
    amplitude: Field,
    keys: NDArray[np.uint64],
    table: Field,
) -> NDArray[np.uint16]:
    """Return the 16-bit numbers of both polarizations (2, rows, columns); arguments as `scene.RadarTables` has them."""
    rows, columns = surface.shape
    which = np.arange(columns) >> shift
    out = np.empty((len(keys), rows, columns), dtype=np.uint16)
    for k, row_keys in enumerate(keys):
        raw = independent(row_keys, columns + 1, table)
        pairs = raw[:, :-1] + raw[:, 1:]
        speckle = pairs[:-1] + pairs[1:]
        factor = np.repeat(factors[k], np.diff(bounds), axis=0).T
        power = (means[k][surface, level, which] + noise[k] * factor) * speckle
        value = np.sqrt(power) * amplitude + np.float32(0.5)
        out[k] = np.clip(value, 1, 65535).astype(np.uint16)
    return out


def _tiled(tile: NDArray[np.int8], first: int, shape: tuple[int, int]) -> NDArray[np.int8]:
    rows = (np.arange(shape[0]) + first) % len(tile)
    out: NDArray[np.int8] = tile[rows[:, None], np.arange(shape[1]) % tile.shape[1]]
    return out
