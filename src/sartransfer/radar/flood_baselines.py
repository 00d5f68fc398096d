"""Threshold rules that a network must beat: fitted on training images where they are fitted at all, and so named.

A rule's `predict` takes what a network takes - values (B, H, W) and valid (H, W) - and returns classes: 0 dry,
1 flooded, 255 no value.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError, UnitError
from sartransfer.radar.thresholds import MIN_GAIN, Counts, bimodality, bin_edges, histogram, otsu
from sartransfer.radar.units import Quantity, Scale, Unit

NO_VALUE = 255
LEVELS = 256
KINDS = ("drop", "after", "both")
"""Which thresholds of a stretched pair are fitted: of the drop, of the image after, or of both."""

WATER_EDGES = bin_edges(-45.0, 5.0, 0.1)


@dataclass(frozen=True, slots=True)
class StretchedRule:
    """Flooded where the image after is at most `max_after` and lies at least `min_drop` below the one before.

    On 8-bit display values, whose stretch is not known: the numbers mean nothing beyond the images they were fitted on.
    """

    max_after: int
    """0 to 255; 255: not looked at."""
    min_drop: int
    """before - after, -255 to 255; -255: not looked at."""
    iou: float | None = None
    """Of the flooded class over all training pixels."""

    def predict(
        self, values: NDArray[np.generic], valid: NDArray[np.bool_] | None = None
    ) -> NDArray[np.uint8]:
        """Return classes (H, W) of a pair (2, H, W): before, after."""
        before, after, good = _pair(values, valid)
        flooded = (after <= self.max_after) & (before.astype(np.int16) - after >= self.min_drop)
        return np.where(good, flooded, NO_VALUE).astype(np.uint8)


def count_pair(
    values: NDArray[np.generic], labels: NDArray[np.integer], valid: NDArray[np.bool_] | None = None
) -> Counts:
    """Count a pair's values by class, (2, 256, 256): [class, before, after]; adds up over images.

    `values` (2, H, W) are before and after, whole numbers from 0 to 255; `labels` (H, W) 0 dry, 1 flooded, anything
    else is ignored.
    """
    before, after, good = _pair(values, valid)
    if labels.shape != good.shape:
        raise InputError(f"labels are {labels.shape}, the images {good.shape}: they must be alike.")
    good &= (labels == 0) | (labels == 1)
    where = (labels[good].astype(np.int64) * LEVELS + before[good]) * LEVELS + after[good]
    return np.bincount(where, minlength=2 * LEVELS**2).reshape(2, LEVELS, LEVELS)


def fit_stretched_rule(counts: Counts | Iterable[Counts], unit: Unit, kind: str = "both") -> StretchedRule:
    """Return the rule of greatest IoU of the flooded class over all counted pixels: every threshold is tried.

    Of equal ones the first with the lowest `max_after`, then the lowest `min_drop`. `counts` are those of the training
    images (`count_pair`), summed or one by one. Raises `UnitError` unless the pair is of display values
    (digital_number), `InputError` where no training pixel is flooded.
    """
    if unit != Unit(Quantity.DIGITAL_NUMBER, Scale.LINEAR):
        raise UnitError(
            f"the stretched rule is for 8-bit display values (digital_number), not {unit}: calibrated images have "
            "`flood.FloodSettings`."
        )
    if kind not in KINDS:
        raise InputError(f"kind={kind!r} is not known. Must be one of: {', '.join(KINDS)}.")
    total = counts if isinstance(counts, np.ndarray) else sum(counts, np.zeros((2, LEVELS, LEVELS), np.int64))
    if total.shape != (2, LEVELS, LEVELS) or not total[1].any():
        raise InputError("no flooded training pixel was counted: a threshold cannot be fitted.")
    before, after = np.mgrid[:LEVELS, :LEVELS]
    drop = before - after + LEVELS - 1  # 0 to 510
    by_drop = [
        np.bincount((after * (2 * LEVELS - 1) + drop).ravel(), total[c].ravel(), LEVELS * (2 * LEVELS - 1))
        for c in (0, 1)
    ]
    # [after, drop] -> how many pixels of either class a rule with these thresholds flags; counts below 2^53 are exact
    dry, wet = (
        np.cumsum(np.cumsum(h.reshape(LEVELS, -1)[:, ::-1], axis=1)[:, ::-1], axis=0) for h in by_drop
    )
    iou = wet / (float(total[1].sum()) + dry)
    afters = slice(LEVELS - 1, None) if kind == "drop" else slice(None)
    drops = slice(0, 1) if kind == "after" else slice(None)
    part = iou[afters, drops]
    row, col = np.unravel_index(int(part.argmax()), part.shape)
    max_after = int(row) + (LEVELS - 1 if kind == "drop" else 0)
    return StretchedRule(max_after, int(col) - (LEVELS - 1), float(part[row, col]))


@dataclass(frozen=True, slots=True)
class OtsuRule:
    """Water where backscatter is below Otsu's threshold of the image itself, for single-date images in dB.

    Otsu parts any image, also one without water: where the image has not two populations (`thresholds.bimodality`), the
    threshold is `fallback`, that of all training images together (`fit_otsu_rule`); without one, every image is parted.
    """

    band: int = 0
    """Which of the bands given to `predict` is looked at."""
    fallback: float | None = None
    """dB."""
    min_share: float = 0.05
    """Of the smaller population, below which an image counts as having one only."""

    def threshold(self, db: NDArray[np.floating], valid: NDArray[np.bool_] | None = None) -> float:
        """Return the threshold in dB for an image (H, W)."""
        counts = _count_water(db, valid)
        if np.count_nonzero(counts) < 2:
            if self.fallback is None:
                raise InputError("the image has fewer than two different values: Otsu cannot part it.")
            return self.fallback
        value = otsu(counts, WATER_EDGES)
        if self.fallback is None:
            return value
        share, gain = bimodality(counts, WATER_EDGES, value)
        return value if share >= self.min_share and gain > MIN_GAIN else self.fallback

    def predict(
        self, values: NDArray[np.floating], valid: NDArray[np.bool_] | None = None
    ) -> NDArray[np.uint8]:
        """Return classes (H, W) of bands in dB (B, H, W)."""
        db = values[self.band]
        good = np.isfinite(db) if valid is None else valid & np.isfinite(db)
        if not good.any():
            return np.full(db.shape, NO_VALUE, dtype=np.uint8)
        return np.where(good, db < self.threshold(db, good), NO_VALUE).astype(np.uint8)


def fit_otsu_rule(
    images: Iterable[tuple[NDArray[np.floating], NDArray[np.bool_] | None]], unit: Unit, *, band: int = 0
) -> OtsuRule:
    """Return Otsu's rule whose fallback is the threshold of all training images together; no labels are used.

    `images` are (values (B, H, W) in dB, valid (H, W) or None). Raises `UnitError` unless they are in decibels.
    """
    if unit.scale is not Scale.DB:
        raise UnitError(f"Otsu's rule is for decibels, not {unit}: read the scene with units='sigma0_db'.")
    total = np.zeros(len(WATER_EDGES) - 1, dtype=np.int64)
    for values, valid in images:
        total += _count_water(values[band], valid)
    return OtsuRule(band, otsu(total, WATER_EDGES))


def _count_water(db: NDArray[np.floating], valid: NDArray[np.bool_] | None) -> Counts:
    return histogram(db if valid is None else np.where(valid, db, np.nan), WATER_EDGES)


def _pair(
    values: NDArray[np.generic], valid: NDArray[np.bool_] | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
    if values.ndim != 3 or len(values) != 2:
        raise InputError(f"a pair is (2, H, W): before, after; not {values.shape}.")
    good: NDArray[np.bool_] = np.isfinite(values).all(axis=0)
    if valid is not None:
        good = good & valid
    pair = np.where(good, values, 0)
    if pair.min() < 0 or pair.max() > LEVELS - 1 or (pair != np.floor(pair)).any():
        raise UnitError(
            f"values run from {pair.min():g} to {pair.max():g}: 8-bit display values are whole numbers, 0 to 255."
        )
    before, after = pair.astype(np.uint8)
    return before, after, good
