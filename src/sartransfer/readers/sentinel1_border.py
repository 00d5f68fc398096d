"""Where a Sentinel-1 product has border noise, measured in one pass over its co-polarized image (`radar.border`)."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError, one_of
from sartransfer.radar.border import MARGIN_M, Border, border_depth, is_dark, leading_runs
from sartransfer.readers.sentinel1_annotation import Sentinel1Layer, Sentinel1Product
from sartransfer.scene import Window

BORDER_NOISE = ("auto", "mask", "keep")
CLEAN_SINCE = (2, 90)  # the version of the processor that writes 0 where nothing was imaged (March 2018)
STRIP_PIXELS = 1 << 20  # that are looked at in one go

ReadCounts = Callable[[int, Window], NDArray[np.uint16]]
"""From the number of a layer and a window to its numbers DN."""


def has_border_noise(product: Sentinel1Product) -> bool:
    """Say whether a product was made before IPF 2.9: by its manifest, or by its noise, given along range alone."""
    version = (product.processor or "").strip().split(".")
    if len(version) >= 2 and all(part.isdecimal() for part in version[:2]):
        return (int(version[0]), int(version[1])) < CLEAN_SINCE
    return any(layer.noise is not None for layer in product.layers) and not product.azimuth_vectors


def measure_border(product: Sentinel1Product, read: ReadCounts, border_noise: str = "auto") -> Border | None:
    """Return what along the edges has no value, or None where nothing is to be masked.

    The co-polarized image decides for both; memory is that of a strip of `STRIP_PIXELS`.

    Args:
        product: from `read_sentinel1_annotation`. read: the image's numbers, by window.
        border_noise: ``auto`` (products before IPF 2.9), ``mask`` (all), ``keep`` (none).
    """
    if border_noise not in BORDER_NOISE:
        raise InputError(one_of("border_noise", border_noise, BORDER_NOISE))
    if border_noise == "keep" or (border_noise == "auto" and not has_border_noise(product)):
        return None
    number = next((i for i, layer in enumerate(product.layers) if layer.polarization in ("HH", "VV")), 0)
    layer, rows, columns = product.layers[number], product.rows, product.columns
    sides = zip((rows, columns), product.spacing_m, strict=True)
    deep, wide = (max(1, min(round(MARGIN_M / spacing), side // 3)) for side, spacing in sides)
    runs = [np.zeros(n, dtype=np.intp) for n in (rows, rows, columns, columns)]
    left, right, top, bottom = runs
    step = max(1, STRIP_PIXELS // columns)
    for row in range(0, rows, step):
        height = min(step, rows - row)
        counts = read(number, Window(row, 0, height, columns))
        part = slice(row, row + height)
        left[part] = leading_runs(_dark(layer, counts[:, :wide], row, 0))
        right[part] = leading_runs(_dark(layer, counts[:, columns - wide :], row, columns - wide)[:, ::-1])
        if row < deep:
            dark = _dark(layer, counts[: deep - row], row, 0)
            top += np.where(top == row, leading_runs(dark.T), 0)  # no gap so far
        if row + height > rows - deep:
            skipped = max(0, rows - deep - row)
            dark = _dark(layer, counts[skipped:], row + skipped, 0)
            run = leading_runs(dark[::-1].T)
            bottom[:] = np.where(run == len(dark), bottom + run, run)
    limits = (wide, wide, deep, deep)
    return Border(*(border_depth(run, limit) for run, limit in zip(runs, limits, strict=True)))


def _dark(layer: Sentinel1Layer, counts: NDArray[np.uint16], row: int, column: int) -> NDArray[np.bool_]:
    dark = is_dark(counts, None)
    if layer.noise is None or not dark.any():  # the tables are interpolated only where that can matter
        return dark
    rows, columns = (np.arange(n, dtype=np.float64) for n in counts.shape)
    return is_dark(counts, layer.noise.at(rows + row, columns + column))
