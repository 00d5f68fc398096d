"""How a number can have come about that cannot be: known slips, each with the true score that it implies."""

from collections.abc import Sequence
from dataclasses import dataclass

from sartransfer.audit.claims import Printed

MASK = 255  # of masks that are stored as 0 and 255
MOST_TERMS = 64  # classes, tiles or batches whose scores may have been summed


@dataclass(frozen=True, slots=True)
class Explanation:
    """A slip, and what the score would be without it."""

    words: str
    low: float
    """Least true score that the slip prints so."""
    high: float
    unknowns: int
    """Numbers that the slip needs and nobody has said: fewer is the smaller explanation."""
    far: float = 0.0
    """Distance of the true score from the nearest one that the publication claims of others; 0 where there is none."""


def explain_iou(printed: Printed, others: Sequence[float] = ()) -> list[Explanation]:
    """Return the slips that print an IoU above 1 as `printed`, the smallest explanation first.

    Smaller is an explanation that needs fewer numbers nobody has said; of equal ones that whose true score lies nearest
    to the IoU that the same publication claims of `others`. The slips are:

    - I / (U - I): the intersection divided by what is not shared, which is IoU / (1 - IoU), from 0 to infinity.
    - percent printed as a share, or a decimal point moved by one place.
    - the sum over n classes, tiles or batches where the mean was meant.
    - one mask of 0 and 255 against one of 0 and 1, intersection as their product and union as the sum less that:
      255 TP / (TP + FP + 255 FN), from 0 to 255.
    """
    found = []
    slips: tuple[tuple[str, float, float, int], ...] = (
        ("the intersection was divided by what is not shared, I / (U - I)",
         _shared(printed.low), _shared(printed.high), 0),
        ("percent were printed as a share", printed.low / 100, printed.high / 100, 0),
        ("the decimal point has moved by one place", printed.low / 10, printed.high / 10, 0),
        (f"the scores of {_terms(printed)} classes, tiles or batches were added up, not averaged",
         *_summed(printed), 1),
        ("one mask held 0 and 255, the other 0 and 1: 255 TP / (TP + FP + 255 FN)", *_stored(printed), 1),
    )  # fmt: skip
    for words, low, high, unknowns in slips:
        low, high = max(low, 0.0), min(high, 1.0)
        if low <= high and printed.value > 1 and high > 0:
            far = min((max(low - o, o - high, 0.0) for o in others), default=0.0)
            found.append(Explanation(words, low, high, unknowns, far))
    return sorted(found, key=lambda e: (e.unknowns, e.far))


def _shared(odds: float) -> float:
    """Return the IoU of which I / (U - I) is `odds`."""
    return max(odds, 0.0) / (1 + max(odds, 0.0))


def _terms(printed: Printed) -> str:
    return f"{_least_terms(printed)} or more"


def _least_terms(printed: Printed) -> int:
    return next((n for n in range(2, MOST_TERMS + 1) if printed.low <= n), MOST_TERMS)


def _summed(printed: Printed) -> tuple[float, float]:
    """Return the means that a sum of `_least_terms` to `MOST_TERMS` scores stands for."""
    least = _least_terms(printed)
    return (printed.low / MOST_TERMS, printed.high / least) if printed.low <= MOST_TERMS else (1.0, 0.0)


def _stored(printed: Printed) -> tuple[float, float]:
    """Return the true IoU that 255 TP / (TP + FP + 255 FN) = v allows: all errors FP, or all FN.

    With TP = 1: FP + 255 FN = 255 / v - 1. IoU = 1 / (1 + FP + FN) is v / 255 with FN = 0, and greatest with FP = 0:
    1 / (1 + (255 / v - 1) / 255) = 255 v / (255 v + 255 - v).
    """
    if not printed.low > 0 or printed.high > MASK:
        return 1.0, 0.0
    high = printed.high
    return printed.low / MASK, MASK * high / (MASK * high + MASK - high)
