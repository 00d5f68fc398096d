"""The unit contract: what a band's numbers are, and which can be turned into which."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import UnitError, one_of


class Quantity(StrEnum):
    """What a number stands for."""

    SIGMA0 = "sigma0"  # backscatter per ground area
    GAMMA0 = "gamma0"  # backscatter per area perpendicular to the look direction
    BETA0 = "beta0"  # radar brightness
    INTENSITY = "intensity"  # power without calibration
    AMPLITUDE = "amplitude"  # square root of power, without calibration
    DIGITAL_NUMBER = "digital_number"  # stretched or quantized for display: no physics can be read off
    INCIDENCE_ANGLE = "incidence_angle"
    OPTICAL = "optical"  # reflectance or its display value
    UNKNOWN = "unknown"


class Scale(StrEnum):
    """How a quantity is written down."""

    LINEAR = "linear"
    DB = "db"
    LOG2 = "log2"  # log2(x + 1) / 16: 16 bits of amplitude within 0 and 1
    DEGREES = "deg"


POWERS = (Quantity.SIGMA0, Quantity.GAMMA0, Quantity.BETA0, Quantity.INTENSITY)
COUNTS = (Quantity.AMPLITUDE, Quantity.DIGITAL_NUMBER)
"""What is stored as whole numbers of 8 or 16 bits, and so has the scale log2."""

LOG2_BITS = 16.0  # of the amplitudes that the scale log2 was made for

# Values outside these limits belie the unit a band declares (soft limits: they raise warnings, not errors).
PLAUSIBLE = {
    ("sigma0", "db"): (-60.0, 30.0),
    ("gamma0", "db"): (-60.0, 30.0),
    ("beta0", "db"): (-60.0, 40.0),
    ("amplitude", "log2"): (0.0, 1.0),
    ("digital_number", "log2"): (0.0, 1.0),
    ("incidence_angle", "deg"): (0.0, 90.0),
}


@dataclass(frozen=True, slots=True)
class Unit:
    """A quantity and its scale; refuses pairs that do not exist (an angle in dB)."""

    quantity: Quantity
    """What the number stands for."""
    scale: Scale
    """How it is written down: linear, dB, log2 or degrees."""

    def __post_init__(self) -> None:
        allowed: tuple[Scale, ...] = (Scale.LINEAR,)
        if self.quantity in POWERS:
            allowed = (Scale.LINEAR, Scale.DB)
        if self.quantity in COUNTS:
            allowed = (Scale.LINEAR, Scale.LOG2)
        if self.quantity is Quantity.INCIDENCE_ANGLE:
            allowed = (Scale.DEGREES,)
        if self.scale not in allowed:
            raise UnitError(
                f"{self.quantity} cannot have the scale {self.scale!s}. Must be one of: {', '.join(allowed)}."
            )

    def __str__(self) -> str:
        return self.quantity.value if self.scale is Scale.LINEAR else f"{self.quantity}_{self.scale}"


UNKNOWN = Unit(Quantity.UNKNOWN, Scale.LINEAR)
DIGITAL_NUMBERS = Unit(Quantity.DIGITAL_NUMBER, Scale.LINEAR)
ROUNDING = 1e-6  # of a number: what float32 may lose when it is normalized and brought back
WHOLE = 1e-3  # how far from a whole number a digital number may be
BROKEN = 0.01  # share of the values that may be farther, as other quantiles here are of 1 %
UNIT_NAMES = tuple(
    [str(Unit(q, Scale.LINEAR)) for q in Quantity if q is not Quantity.INCIDENCE_ANGLE]
    + [str(Unit(q, Scale.DB)) for q in POWERS]
    + ["incidence_angle_deg"]
    + [str(Unit(q, Scale.LOG2)) for q in COUNTS]
)


def parse_unit(text: str) -> Unit:
    """Return the unit named `text`: ``sigma0_db``, ``sigma0``, ``incidence_angle_deg``, ``amplitude_log2`` ...

    Raises `UnitError` for a name that is not in `UNIT_NAMES`.
    """
    name = text.strip().lower()
    if name not in UNIT_NAMES:
        raise UnitError(one_of("unit", text, UNIT_NAMES))
    if name == "incidence_angle_deg":
        return Unit(Quantity.INCIDENCE_ANGLE, Scale.DEGREES)
    if name.endswith("_db"):
        return Unit(Quantity(name.removesuffix("_db")), Scale.DB)
    if name.endswith("_log2"):
        return Unit(Quantity(name.removesuffix("_log2")), Scale.LOG2)
    return Unit(Quantity(name), Scale.LINEAR)


def can_convert(source: Unit, target: Unit) -> bool:
    """Say whether `convert` knows a way from one unit to the other."""
    if Quantity.UNKNOWN in (source.quantity, target.quantity):
        return False
    if source == target:
        return True
    if source.quantity == target.quantity and source.quantity in POWERS:
        return True
    if source.quantity == target.quantity and target.scale is Scale.LOG2:
        return True
    return source.scale is Scale.LINEAR and (source.quantity, target.quantity) == (
        Quantity.AMPLITUDE,
        Quantity.INTENSITY,
    )


def convert(values: NDArray[np.floating], source: Unit, target: Unit) -> NDArray[np.float32]:
    """Convert `values` (any shape) from one unit to another; what has no image becomes NaN, never infinite.

    Known ways: linear <-> dB of the same power (10 log10), amplitude -> intensity (its square), amplitude or
    digital number -> log2, which is log2(x + 1) / 16 (of a negative number NaN). The decibel of zero or of a
    negative power does not exist and is NaN. Raises `UnitError`, naming both sides, for any other pair: sigma0
    and gamma0, for example, differ by the cosine of the incidence angle, which one number does not know. The way
    back from log2 is not offered: it returns no whole numbers, only what float32 has left of them.

    The transform log2(x + 1) / 16 of 16-bit amplitudes is that of the code to Huang et al., GRSL 2020
    (github.com/Alien9427/SAR_specific_models); its mean over their TerraSAR-X patches is .41900105, the standard
    deviation .06154960. Zero stays zero, and a value of 16 bits lies within 0 and 1.
    """
    if not can_convert(source, target):
        hint = (
            " Say what the band is: in the file's band description, or in the catalog's `bands` column."
            if Quantity.UNKNOWN in (source.quantity, target.quantity)
            else " Known: linear <-> dB of one quantity, amplitude -> intensity, amplitude or digital number -> log2."
        )
        raise UnitError(f"cannot turn {source} into {target}.{hint}")
    out = np.asarray(values, dtype=np.float32)
    if source == target:
        return out
    if target.scale is Scale.LOG2:
        counts = np.where(out >= 0, out, np.float32(np.nan)).astype(np.float64)
        return (np.log2(counts + 1.0) / LOG2_BITS).astype(np.float32)
    if source.quantity is Quantity.AMPLITUDE:
        out = np.where(out >= 0, out * out, np.float32(np.nan))
        source = Unit(Quantity.INTENSITY, Scale.LINEAR)
    if source.scale is target.scale:
        return out
    if target.scale is Scale.DB:
        positive = out > 0
        return np.where(positive, 10.0 * np.log10(np.where(positive, out, 1.0)), np.float32(np.nan)).astype(
            np.float32
        )
    power: NDArray[np.float32] = np.power(np.float32(10.0), out / np.float32(10.0)).astype(np.float32)
    return power


def implausible(values: NDArray[np.floating], unit: Unit, *, slack: float = 0.0) -> str | None:
    """Return a sentence if `values` belie their declared `unit`, else None; NaN are left out.

    Decibels that are all positive, angles of 300, linear powers below zero, or digital numbers that are no whole
    numbers, or none above 1, are what a wrong declaration looks like.

    Args:
        values: any shape. unit: what they are said to be.
        slack: by how much rounding may have moved them.
    """
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return None
    low, high = (float(v) for v in np.quantile(finite, [0.01, 0.99]))
    if unit.scale is Scale.DB and low > 0:
        return f"declared {unit}, but 99 % of the values are positive (from {low:.3g}): linear power, perhaps"
    limits = PLAUSIBLE.get((unit.quantity.value, unit.scale.value))
    if limits and (low < limits[0] or high > limits[1]):
        return (
            f"declared {unit}, but values run from {low:.4g} to {high:.4g}; "
            f"expected {limits[0]:g} to {limits[1]:g}"
        )
    if unit.scale is Scale.LINEAR and unit.quantity in POWERS and low < 0:
        return f"declared linear {unit}, but values fall to {low:.4g}: decibels, perhaps"
    if unit == DIGITAL_NUMBERS:
        return _no_counts(finite, slack)
    return None


def _no_counts(values: NDArray[np.floating], slack: float) -> str | None:
    """Say that finite values are no digital numbers, which are whole and reach above 1."""
    highest = float(values.max())
    slack += ROUNDING * float(np.abs(values).max())
    if highest <= 1.0 + slack and bool((np.abs(values) > slack).any()):  # all 0 says nothing
        return (
            f"declared {DIGITAL_NUMBERS}, but no value is above 1 (highest {highest:.4g}): a share of 1, linear power "
            "or decibels, perhaps"
        )
    broken = np.abs(values - np.round(values)) > WHOLE + slack
    if np.count_nonzero(broken) > BROKEN * values.size:
        return (
            f"declared {DIGITAL_NUMBERS}, but values like {float(values[broken][0]):.4g} are no whole numbers: "
            "decibels, linear power or an image that was resampled, perhaps"
        )
    return None
