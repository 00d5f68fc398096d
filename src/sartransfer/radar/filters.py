"""Speckle filters in linear power, aware of borders and of pixels without a value.

All take power (H, W) - never decibels, whose mean is not the decibel of the mean -, leave out neighbours that are not
finite, negative, not `valid` or outside the image, and return float32 with NaN where the pixel itself has none. Zero
is a value: no return; where it stands for nodata, say so in `valid`. Variances are those of the window's pixels
(divided by n). The number of looks is what the product's handbook says (Sentinel-1 IW GRD: 4.4), or
`looks.number_of_looks`. Large float32 images go through compiled twins of the numpy kernels where numba is installed
(extra ``fast``; `kernels`): the same bits, sooner.
"""

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError
from sartransfer.radar.directional import edge_aligned_sums
from sartransfer.radar.large import compiled_box, compiled_disc, compiled_frost, compiled_refined
from sartransfer.radar.neighbourhoods import (
    Array,
    Valid,
    box_sum,
    check_size,
    disc,
    disc_sum,
    filter_blocks,
    positive,
    ring_sums,
)

REFINED_SIZE = 7  # the size that the refined Lee filter is defined for


def focal_mean(
    values: NDArray[np.generic],
    valid: NDArray[np.bool_] | None = None,
    *,
    radius: float,
    pixel_size: tuple[float, float] = (1.0, 1.0),
) -> NDArray[np.float32]:
    """Return the mean over a disc round each pixel: all pixels whose centres lie within `radius`.

    `radius` is in pixels, or in metres with `pixel_size` (height, width) in metres. A plain mean of whatever the
    values are: of power for physics; of decibels only where a practice asks for that (`flood.UN_SPIDER`).
    """
    half_widths = disc(radius, pixel_size)

    def kernel(x: Array, good: Valid) -> Array:
        number = (
            float(2 * sum(half_widths) + len(half_widths))
            if good is None
            else disc_sum(good.astype(np.float64), half_widths)
        )
        mean: Array = disc_sum(x, half_widths) * (1 / np.maximum(number, 1))
        return mean

    done = compiled_disc(values, valid, half_widths)
    if done is not None:
        return done
    return filter_blocks(values, valid, (len(half_widths) // 2, max(half_widths)), kernel)


def lee(
    power: NDArray[np.generic], looks: float, valid: NDArray[np.bool_] | None = None, *, size: int = 7
) -> NDArray[np.float32]:
    """Return the Lee filter: mean + b (pixel - mean), b = var(x) / var(z), over `size` x `size` pixels.

    The linear estimate of least squared error for multiplicative noise of variance s2 = 1 / looks:
    var(x) = (var(z) - s2 mean^2) / (1 + s2), not below 0. Lee 1980, IEEE PAMI 2, 165-168, in the form of Lee et al.
    2009, IEEE TGRS 47, 202-213, equations 2 and 3, which is also Kuan's of 1985; Lee's own of 1980 linearizes the
    noise.
    """
    radius, noise = check_size(size), noise_variance(looks)

    def kernel(x: Array, good: Valid) -> Array:
        mean, variance = _moments(x, good, size)
        return _least_squares(_middle(x, radius), mean, variance, noise)

    done = compiled_box(power, valid, size, "lee", noise, looks)
    if done is not None:
        return done
    return filter_blocks(power, positive(power, valid), (radius, radius), kernel)


def refined_lee(
    power: NDArray[np.generic], looks: float, valid: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Return the refined Lee filter: the Lee filter over that half of 7 x 7 pixels which lies along an edge.

    Nine overlapping means of 3 x 3 pixels give four gradients; of the two halves beside the steepest edge that one is
    taken whose outer mean is nearer to the middle one (28 pixels, the edge itself among them). Lee 1981, Computer
    Graphics and Image Processing 17, 24-32; directions as in Lee, Grunes and de Grandi 1999, IEEE TGRS 37,
    2363-2373. A mean of 3 x 3 without any value counts as the middle one.
    """
    noise = noise_variance(looks)

    def kernel(x: Array, good: Valid) -> Array:
        total, squares, number = edge_aligned_sums(x, good)
        weight = 1 / number
        mean = total * weight
        variance = np.maximum(squares * weight - mean * mean, 0)
        return _least_squares(_middle(x, REFINED_SIZE // 2), mean, variance, noise)

    done = compiled_refined(power, valid, noise)
    if done is not None:
        return done
    return filter_blocks(power, positive(power, valid), (3, 3), kernel)


def frost(
    power: NDArray[np.generic],
    valid: NDArray[np.bool_] | None = None,
    *,
    size: int = 7,
    damping: float = 2.0,
) -> NDArray[np.float32]:
    """Return the Frost filter: neighbours weighted by exp(-damping C^2 distance), C the coefficient of variation.

    Distance in pixels, C = standard deviation / mean over `size` x `size` pixels. Frost et al. 1982, IEEE PAMI 4,
    157-166, as written down by Lopes, Touzi and Nezry 1990, IEEE TGRS 28, 992-1000. Needs no looks; `damping` is at
    least 0, and 0 is the mean.
    """
    radius = check_size(size)
    if not (np.isfinite(damping) and damping >= 0):
        raise InputError(f"damping={damping:g}: must be finite and at least 0.")

    def kernel(x: Array, good: Valid) -> Array:
        mean, variance = _moments(x, good, size)
        exponent = -damping * _ratio(variance, mean * mean)
        rings = ring_sums(x, radius)
        ones = None if good is None else ring_sums(good.astype(np.float64), radius)
        counts = _ring_counts(radius)
        above, below = np.zeros(mean.shape), np.zeros(mean.shape)
        first: dict[int, Array] = {}
        for squared, ring in rings.items():
            # The weight at twice the distance is the square of the one at it: fewer exponentials.
            root, times = _root(squared)
            if root and root not in first:
                first[root] = decay(exponent * np.sqrt(float(root)))
            weight = np.ones(mean.shape) if not root else first[root]
            for _ in range(times - 1):
                weight = weight * first[root]
            above += weight * ring
            below += weight * (counts[squared] if ones is None else ones[squared])
        return above / np.where(below > 0, below, 1)

    done = compiled_frost(power, valid, size, damping)
    if done is not None:
        return done
    return filter_blocks(power, positive(power, valid), (radius, radius), kernel)


def gamma_map(
    power: NDArray[np.generic], looks: float, valid: NDArray[np.bool_] | None = None, *, size: int = 7
) -> NDArray[np.float32]:
    """Return the gamma-MAP filter: the likeliest backscatter where it varies by a gamma distribution.

    With Cu^2 = 1 / looks and C = standard deviation / mean over `size` x `size` pixels: the mean where C <= Cu, the
    pixel where C >= sqrt(2) Cu, and between them (m (a - L - 1) + sqrt(m^2 (a - L - 1)^2 + 4 a L m z)) / 2a with
    a = (1 + Cu^2) / (C^2 - Cu^2). Lopes, Nezry, Touzi and Laur 1993, Int. J. Remote Sensing 14, 1735-1758.
    """
    radius, noise = check_size(size), noise_variance(looks)

    def kernel(x: Array, good: Valid) -> Array:
        mean, variance = _moments(x, good, size)
        z = _middle(x, radius)
        squared = _ratio(variance, mean * mean)
        a = (1 + noise) / np.where(squared > noise, squared - noise, 1.0)
        b = mean * (a - looks - 1)
        likeliest = (b + np.sqrt(b * b + 4 * a * looks * mean * z)) / (2 * a)
        return np.where(squared <= noise, mean, np.where(squared >= 2 * noise, z, likeliest))

    done = compiled_box(power, valid, size, "gamma_map", noise, looks)
    if done is not None:
        return done
    return filter_blocks(power, positive(power, valid), (radius, radius), kernel)


def quegan(
    power: NDArray[np.generic], valid: NDArray[np.bool_] | None = None, *, size: int = 7
) -> NDArray[np.float32]:
    """Return the multitemporal filter of a stack (T, H, W): J_k = <I_k> / M  sum over i of I_i / <I_i>.

    <> is the mean over `size` x `size` pixels, M the number of dates with a value at the pixel. Speckle must be
    independent between the dates: then homogeneous ground of L looks comes out with L M N / (M + N - 1), N = size^2.
    Quegan and Yu 2001, IEEE TGRS 39, 2373-2379. A date whose neighbourhood is all 0 gives no ratio. The dates must lie
    on one grid; `valid` is (T, H, W).
    """
    radius = check_size(size)
    if power.ndim != 3 or len(power) < 1 or (valid is not None and valid.shape != power.shape):
        raise InputError(
            f"a stack of shape {power.shape} with valid {None if valid is None else valid.shape}: both must be "
            "(T, H, W), one image a date on one grid."
        )

    def mean_of(x: Array, good: Valid) -> Array:
        return _moments(x, good, size, squares=False)[0]

    means = np.empty(power.shape, dtype=np.float32)
    total, number = np.zeros(power.shape[1:]), np.zeros(power.shape[1:])
    for i, image in enumerate(power):
        means[i] = filter_blocks(
            image, positive(image, None if valid is None else valid[i]), (radius, radius), mean_of
        )
        known = means[i] > 0
        total[known] += image[known] / means[i][known].astype(np.float64)
        number += known
    ratio = total / np.maximum(number, 1)
    out: NDArray[np.float32] = (means * ratio).astype(np.float32)
    return out


def noise_variance(looks: float) -> float:
    """Return the variance of speckle of mean 1, 1 / looks; raises `InputError` unless looks are above 0."""
    if not (np.isfinite(looks) and looks > 0):
        raise InputError(f"looks={looks:g}: the number of looks must be finite and above 0.")
    return 1.0 / looks


def _middle(x: Array, radius: int) -> Array:
    return x[radius:-radius, radius:-radius]


def _moments(x: Array, good: Valid, size: int, *, squares: bool = True) -> tuple[Array, Array]:
    """Return mean and variance over boxes; 0 where no pixel has a value."""
    number = float(size * size) if good is None else np.maximum(box_sum(good.astype(np.float64), size), 1)
    weight = 1 / number
    mean = box_sum(x, size) * weight
    if not squares:
        return mean, mean
    return mean, np.maximum(box_sum(x * x, size) * weight - mean * mean, 0)


def decay(t: Array) -> Array:
    """Return exp(t) for t of 0 or less, 4e-18 below -40: as `kernels.decay_of`, to the last bit."""
    u = np.maximum(t, -40.0) * 0.0078125
    p = u * (1 / 120 + u * (1 / 720))
    p = 1 + u * (1 + u * (1 / 2 + u * (1 / 6 + u * (1 / 24 + p))))
    for _ in range(7):
        p = p * p
    return p


def _root(squared: int) -> tuple[int, int]:
    """Return (s, k) with squared = s k^2 and s without a square in it; (0, 1) for 0."""
    times = max((k for k in range(1, int(squared**0.5) + 1) if squared % (k * k) == 0), default=1)
    return squared // (times * times), times


def _ratio(above: Array, below: Array) -> Array:
    """Return above / below, 0 where there is nothing below."""
    return np.divide(above, below, out=np.zeros(above.shape), where=below > 0)


def _least_squares(z: Array, mean: Array, variance: Array, noise: float) -> Array:
    b = _ratio(np.maximum(variance - noise * (mean * mean), 0), variance * (1 + noise))
    return mean + b * (z - mean)


def _ring_counts(radius: int) -> dict[int, float]:
    counts: dict[int, float] = {}
    for i in range(-radius, radius + 1):
        for j in range(-radius, radius + 1):
            counts[i * i + j * j] = counts.get(i * i + j * j, 0.0) + 1
    return counts
