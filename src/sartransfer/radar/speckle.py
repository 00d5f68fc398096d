"""Speckle filters by name: one frozen value says which, with what, and how many neighbours it needs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError, UnitError, one_of
from sartransfer.radar.filters import (
    REFINED_SIZE,
    focal_mean,
    frost,
    gamma_map,
    lee,
    noise_variance,
    quegan,
    refined_lee,
)
from sartransfer.radar.looks import number_of_looks
from sartransfer.radar.neighbourhoods import check_size, disc, positive

__all__ = [
    "FILTERS",
    "SpeckleFilter",
    "focal_mean",
    "frost",
    "gamma_map",
    "lee",
    "number_of_looks",
    "quegan",
    "refined_lee",
]


@dataclass(frozen=True, slots=True)
class SpeckleFilter:
    """A filter and what it is told; callable on power (H, W)."""

    name: str = "focal_mean"
    """A key of `FILTERS`."""
    radius: float = 50.0
    """Of the focal mean, in metres (or pixels, where the pixel size is 1)."""
    size: int = 7
    """Pixels a side, of the others; the refined Lee filter has 7."""
    looks: float | None = None
    """Of lee, refined_lee and gamma_map; None: estimated from the image."""
    damping: float = 2.0
    """Of frost."""

    def __post_init__(self) -> None:
        if self.name not in FILTERS:
            raise InputError(one_of("speckle filter", self.name, FILTERS))
        check_size(self.size)
        if self.name == "refined_lee" and self.size != REFINED_SIZE:
            raise InputError(
                f"size={self.size}: the refined Lee filter is defined for {REFINED_SIZE} pixels."
            )
        if self.looks is not None:
            noise_variance(self.looks)
        if not (np.isfinite(self.radius) and self.radius >= 0):
            raise InputError(f"radius={self.radius:g}: must be finite and at least 0.")
        if not (np.isfinite(self.damping) and self.damping >= 0):
            raise InputError(f"damping={self.damping:g}: must be finite and at least 0.")

    @property
    def needs_looks(self) -> bool:
        """Say whether the filter works with a number of looks."""
        return self.name in ("lee", "refined_lee", "gamma_map")

    def halo(self, pixel_size: tuple[float, float] = (1.0, 1.0)) -> tuple[int, int]:
        """Return the neighbours it needs on each side, (rows, columns); `pixel_size` (height, width)."""
        if self.name == "none":
            return 0, 0
        if self.name == "focal_mean":
            half_widths = disc(self.radius, pixel_size)
            return len(half_widths) // 2, max(half_widths)
        return self.size // 2, self.size // 2

    def __call__(
        self,
        power: NDArray[np.generic],
        valid: NDArray[np.bool_] | None = None,
        *,
        pixel_size: tuple[float, float] = (1.0, 1.0),
    ) -> NDArray[np.float32]:
        """Return the filtered image, float32 (H, W), NaN without a value."""
        return FILTERS[self.name](self, power, valid, pixel_size)

    def mean(
        self,
        values: NDArray[np.generic],
        valid: NDArray[np.bool_] | None = None,
        *,
        pixel_size: tuple[float, float] = (1.0, 1.0),
    ) -> NDArray[np.float32]:
        """Return the focal mean of values that may be negative (decibels), or with ``none`` the values."""
        if self.name == "none":
            return focal_mean(values, valid, radius=0.0)
        if self.name != "focal_mean":
            raise UnitError(
                f"{self.name} is a filter of linear power; only a focal mean can be taken of decibels."
            )
        return focal_mean(values, valid, radius=self.radius, pixel_size=pixel_size)

    def resolve_looks(self, power: NDArray[np.generic], valid: NDArray[np.bool_] | None) -> float:
        """Return the looks that are known, or else those estimated from an image."""
        return number_of_looks(power, valid) if self.looks is None else self.looks


Run = Callable[
    [SpeckleFilter, NDArray[np.generic], NDArray[np.bool_] | None, tuple[float, float]], NDArray[np.float32]
]

FILTERS: dict[str, Run] = {
    "none": lambda f, x, v, p: np.where(positive(x, v), x, np.nan).astype(np.float32),
    "focal_mean": lambda f, x, v, p: focal_mean(x, positive(x, v), radius=f.radius, pixel_size=p),
    "lee": lambda f, x, v, p: lee(x, f.resolve_looks(x, v), v, size=f.size),
    "refined_lee": lambda f, x, v, p: refined_lee(x, f.resolve_looks(x, v), v),
    "frost": lambda f, x, v, p: frost(x, v, size=f.size, damping=f.damping),
    "gamma_map": lambda f, x, v, p: gamma_map(x, f.resolve_looks(x, v), v, size=f.size),
}
