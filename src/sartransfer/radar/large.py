"""Where a compiled kernel takes over from numpy: large float32 images, where numba is installed."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.compiled import Kernel, kernel_for, run_bands
from sartransfer.radar import directional_kernels, kernels
from sartransfer.radar.neighbourhoods import check_image, refuse_decibels

Image = NDArray[np.generic]
Filtered = NDArray[np.float32]
MODES = {"lee": 0, "gamma_map": 1}
NOTHING = np.zeros((1, 1), dtype=bool)  # stands for a mask that is not given


def compiled_box(
    power: Image, valid: NDArray[np.bool_] | None, size: int, mode: str, noise: float, looks: float
) -> Filtered | None:
    """Return `filters.lee` or `filters.gamma_map` (a key of `MODES`); None: numpy shall do it."""
    kernel = _kernel(power, kernels.box_rows, kernels.BOX_SIGNATURE, kernels.HELPERS) if size == 7 else None
    return _run(kernel, power, valid, (MODES[mode], noise, looks))


def compiled_frost(
    power: Image, valid: NDArray[np.bool_] | None, size: int, damping: float
) -> Filtered | None:
    """Return `filters.frost`; None: numpy shall do it."""
    kernel = (
        _kernel(power, kernels.frost_rows, kernels.FROST_SIGNATURE, kernels.HELPERS) if size == 7 else None
    )
    return _run(kernel, power, valid, (damping,))


def compiled_refined(power: Image, valid: NDArray[np.bool_] | None, noise: float) -> Filtered | None:
    """Return `filters.refined_lee`; None: numpy shall do it."""
    helpers = (*kernels.HELPERS, *directional_kernels.HELPERS)
    kernel = _kernel(power, directional_kernels.refined_rows, directional_kernels.SIGNATURE, helpers)
    return _run(kernel, power, valid, (noise,))


def compiled_disc(
    values: Image, valid: NDArray[np.bool_] | None, half_widths: tuple[int, ...]
) -> Filtered | None:
    """Return `filters.focal_mean`; None: numpy shall do it."""
    kernel = _kernel(values, kernels.disc_rows, kernels.DISC_SIGNATURE, kernels.HELPERS)
    return _run(kernel, values, valid, (np.array(half_widths, dtype=np.int64),), power=False)


def _kernel(image: Image, function: Kernel, signature: str, helpers: tuple[Kernel, ...]) -> Kernel | None:
    if image.ndim != 2 or image.dtype != np.float32 or not image.dtype.isnative:
        return None
    return kernel_for(function, signature, image.size, helpers)


def _run(
    kernel: Callable[..., Any] | None,
    image: Image,
    valid: NDArray[np.bool_] | None,
    settings: tuple[Any, ...],
    *,
    power: bool = True,
) -> Filtered | None:
    if kernel is None:
        return None
    check_image(image, valid)
    image = np.ascontiguousarray(image)
    mask = NOTHING if valid is None else np.ascontiguousarray(valid)
    out = np.empty(image.shape, dtype=np.float32)

    def work(top: int, bottom: int) -> tuple[int, int]:
        found: tuple[int, int] = kernel(image, mask, valid is not None, top, bottom, *settings, out)
        return found

    known, negative = np.sum(run_bands(work, len(image)), axis=0)
    if power:
        refuse_decibels(int(known), int(negative))
    return out
