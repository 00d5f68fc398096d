"""The equivalent number of looks of an image, estimated where it is homogeneous."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sartransfer.errors import InputError
from sartransfer.radar.neighbourhoods import Array, check_size, positive

LOOKS_WINDOW = 9  # pixels a side of the windows in which looks are estimated: small enough for one field


def number_of_looks(
    power: NDArray[np.generic], valid: NDArray[np.bool_] | None = None, *, size: int = LOOKS_WINDOW
) -> float:
    """Return the equivalent number of looks of an image: what most of its windows of `size` x `size` pixels have.

    In each window without a gap: mean^2 / variance (variance over n - 1); texture and edges lower it, so the mode of
    its logarithm over all windows is that of the homogeneous ones (Anfinsen, Doulgeris and Eltoft 2009, IEEE TGRS 47,
    3795-3809), found by a Gaussian kernel density of Silverman's width, and freed of its bias of first order in 1/n.
    Speckle that is correlated between pixels comes out a little high. Raises `InputError` where not one window is whole
    and of more than one value.
    """
    check_size(size)
    good = positive(power, valid)
    height, width = (n // size * size for n in power.shape)
    blocks = (height // size, size, width // size, size)
    whole = good[:height, :width].reshape(blocks).all(axis=(1, 3))
    x = np.where(good[:height, :width], power[:height, :width], 0).astype(np.float64).reshape(blocks)
    n = size * size
    mean = x.mean(axis=(1, 3))
    variance = ((x - mean[:, None, :, None]) ** 2).sum(axis=(1, 3)) / (n - 1)
    # Equal values leave a variance of rounding errors, not of speckle.
    usable = whole & (variance > 1e-12 * mean**2)
    if not usable.any():
        raise InputError(
            f"the number of looks cannot be estimated: none of {whole.size} windows of {size} x {size} pixels is whole "
            "and of more than one value. Give `looks`, or a smaller size."
        )
    mode = float(np.exp(_mode(np.log(mean[usable] ** 2 / variance[usable]))))
    return mode * float(np.exp(-(1 + 2 / mode) / n))


def _mode(values: Array) -> float:
    """Return the mode of a density estimated from values (n,); of a few of them, their median."""
    low, high = np.quantile(values, [0.25, 0.75])
    spread = min(float(values.std()), float(high - low) / 1.349) or float(values.std())
    if len(values) < 10 or spread == 0:
        return float(np.median(values))
    width = 0.9 * spread * len(values) ** -0.2
    step = width / 8
    first = float(values.min()) - 4 * width
    counts = np.bincount(((values - first) / step).astype(np.int64), minlength=1)
    density = ndimage.gaussian_filter1d(np.pad(counts.astype(np.float64), 40), 8.0, mode="constant")
    return float(first + (int(density.argmax()) - 40 + 0.5) * step)
