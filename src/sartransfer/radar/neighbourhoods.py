"""Sums over the neighbours of every pixel: boxes, discs, rings; the same bits whichever way an image is cut.

Running sums are fast, but what they return depends on where they began, and a threshold may fall the other way in a
window than in the whole image. Here every sum is built from shifted copies in one order, by doubling, in float64, and
block by block so that the copies stay in the processor's cache.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError, UnitError

Array = NDArray[np.float64]
Valid = NDArray[np.bool_] | None
"""Which neighbours have a value; None: all of them."""
Kernel = Callable[[Array, Valid], Array]
"""From a block with its halo (h + 2 ry, w + 2 rx), 0 where there is no value, to the block (h, w)."""

BLOCK = 128  # pixels a side: 128 KiB in float64, a few of which fit into the cache


def check_image(values: NDArray[np.generic], valid: NDArray[np.bool_] | None = None) -> None:
    """Raise `InputError` unless values are a non-empty real (H, W) and valid, if given, is alike."""
    if values.ndim != 2 or 0 in values.shape or values.dtype.kind not in "fiu":
        raise InputError(
            f"an image of shape {values.shape} and type {values.dtype} cannot be filtered: (H, W) of real numbers."
        )
    if valid is not None and (valid.shape != values.shape or valid.dtype != bool):
        raise InputError(
            f"valid has the shape {valid.shape} and type {valid.dtype}; the image is {values.shape}, valid is bool."
        )


def positive(power: NDArray[np.generic], valid: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Return where power (H, W) is a power: valid, finite and not negative.

    Raises `UnitError` for an image that is mostly negative: one of decibels.
    """
    check_image(power, valid)
    good: NDArray[np.bool_] = np.isfinite(power) if valid is None else valid & np.isfinite(power)
    kept: NDArray[np.bool_] = good & np.greater_equal(power, 0)
    known = int(np.count_nonzero(good))
    refuse_decibels(known, known - int(np.count_nonzero(kept)))
    return kept


def refuse_decibels(known: int, negative: int) -> None:
    """Raise `UnitError` if most of the `known` values of an image are negative: then they are no power."""
    if 2 * (known - negative) < known:
        raise UnitError(
            f"{negative} of {known} values are negative: decibels, perhaps? Speckle filters need "
            "linear power; radar.units.convert turns one into the other."
        )


def check_size(size: int) -> int:
    """Return the radius of a box of `size` pixels a side; raises `InputError` unless it is odd and at least 3."""
    if size < 3 or size % 2 == 0:
        raise InputError(f"size={size}: a window round a pixel has an odd number of pixels a side, from 3.")
    return size // 2


def filter_blocks(
    values: NDArray[np.generic],
    valid: NDArray[np.bool_] | None,
    radius: tuple[int, int],
    kernel: Kernel,
    *,
    block: int = BLOCK,
) -> NDArray[np.float32]:
    """Run a kernel over an image (H, W); float32, NaN where the pixel itself has no value.

    Pixels that are not finite, not `valid`, or outside the image are no neighbours: the kernel is told so.
    `radius` is what it needs on each side, (rows, columns); `block` is pixels a side and changes no result.
    """
    check_image(values, valid)
    height, width = values.shape
    out = np.full((height, width), np.nan, dtype=np.float32)
    ry, rx = radius
    # Freeing a chunk this large tells glibc to keep smaller ones: else every block's copies are mapped in anew, page by
    # page, which takes longer than adding them up.
    del_me = np.empty(1 << 21)
    del del_me
    for top in range(0, height, block):
        for left in range(0, width, block):
            bottom, right = min(top + block, height), min(left + block, width)
            x, good = _cut(values, valid, (top - ry, bottom + ry), (left - rx, right + rx))
            middle = good[ry : ry + bottom - top, rx : rx + right - left]
            if middle.any():
                done = kernel(x, None if good.all() else good)
                out[top:bottom, left:right] = np.where(middle, done, np.nan)
    return out


def _cut(
    values: NDArray[np.generic],
    valid: NDArray[np.bool_] | None,
    rows: tuple[int, int],
    cols: tuple[int, int],
) -> tuple[Array, NDArray[np.bool_]]:
    """Cut a rectangle that may leave the image: 0 and not valid there."""
    shape = (rows[1] - rows[0], cols[1] - cols[0])
    x, good = np.zeros(shape), np.zeros(shape, dtype=bool)
    r0, r1 = max(rows[0], 0), min(rows[1], values.shape[0])
    c0, c1 = max(cols[0], 0), min(cols[1], values.shape[1])
    inner = slice(r0 - rows[0], r1 - rows[0]), slice(c0 - cols[0], c1 - cols[0])
    part = values[r0:r1, c0:c1]
    known = np.isfinite(part)
    if valid is not None:
        known &= valid[r0:r1, c0:c1]
    good[inner] = known
    x[inner] = np.where(known, part, 0)
    return x, good


def run_sum(x: Array, length: int, axis: int) -> Array:
    """Return sums of `length` neighbours in a row along an axis of (H, W), which grows shorter by length - 1.

    By doubling: 7 = 1 + 2 + 4 neighbours cost four additions a pixel.
    """
    x = x if axis == 1 else x.T
    count = x.shape[1] - length + 1
    total, start, width, left = None, 0, 1, length
    while left:
        if left & 1:
            part = x[:, start : start + count]
            total = part if total is None else total + part
            start += width
        left >>= 1
        if left:
            x = x[:, :-width] + x[:, width:]
            width *= 2
    assert total is not None  # length is at least 1
    return total if axis == 1 else total.T


def box_sum(x: Array, size: int) -> Array:
    """Return sums over boxes of `size` x `size` pixels, (H - size + 1, W - size + 1)."""
    return run_sum(run_sum(x, size, 0), size, 1)


def disc(radius: float, pixel_size: tuple[float, float] = (1.0, 1.0)) -> tuple[int, ...]:
    """Return a disc as half-widths in pixels, row by row from the top: pixels whose centres lie within `radius`.

    `pixel_size` is (height, width) in the radius' unit: metres, or (1, 1) for a radius in pixels. A row without any
    pixel cannot occur; a radius below one pixel leaves the pixel alone: (0,).
    """
    if not (np.isfinite(radius) and radius >= 0 and min(pixel_size) > 0 and np.isfinite(pixel_size).all()):
        raise InputError(
            f"radius={radius:g} with pixels of {pixel_size}: both must be finite, the radius from 0, pixels above 0."
        )
    reach = radius * (1 + 1e-9)  # 0.3 is 3 pixels of 0.1
    rows = int(reach / pixel_size[0])
    heights = np.abs(np.arange(-rows, rows + 1)) * pixel_size[0]
    return tuple(int(w) for w in np.sqrt(np.maximum(reach**2 - heights**2, 0)) / pixel_size[1])


def disc_sum(x: Array, half_widths: tuple[int, ...]) -> Array:
    """Return sums over a disc (see `disc`), (H - rows + 1, W - 2 max(half_widths))."""
    reach, rows = max(half_widths), len(half_widths)
    height, width = x.shape[0] - rows + 1, x.shape[1] - 2 * reach
    runs = [x[:, reach : reach + width]]
    for half in range(1, reach + 1):
        runs.append(runs[-1] + (x[:, reach - half :][:, :width] + x[:, reach + half :][:, :width]))
    total = np.zeros((height, width))
    for row, half in enumerate(half_widths):
        total += runs[half][row : row + height]
    return total


def ring_sums(x: Array, radius: int) -> dict[int, Array]:
    """Return sums over the neighbours at each distance within a box: squared distance -> (H - 2 r, W - 2 r).

    Two rings of one distance (5, 0) and (4, 3) are one.
    """
    height, width = x.shape[0] - 2 * radius, x.shape[1] - 2 * radius
    pairs = [x[radius : radius + height]]
    pairs += [
        x[radius - k :][:height] + x[radius + k :][:height] for k in range(1, radius + 1)
    ]  # rows k above and k below

    def both(i: int, j: int) -> Array:
        left, right = pairs[i][:, radius - j :][:, :width], pairs[i][:, radius + j :][:, :width]
        return left + right if j else right

    rings: dict[int, Array] = {}
    for i in range(radius + 1):
        for j in range(i, radius + 1):
            part = both(i, j) if i == j else both(i, j) + both(j, i)
            key = i * i + j * j
            rings[key] = rings[key] + part if key in rings else part
    return rings
