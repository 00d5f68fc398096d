"""Scores against their counts, against each other, and against what can be at all."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sartransfer.audit.claims import Claims, Printed, Row, Sum, split_total
from sartransfer.audit.explanations import Explanation, explain_iou
from sartransfer.metrics import scores as score_matrix

Verdict = Literal["fits", "does not fit", "impossible", "not checkable"]
SIGNED = ("kappa",)
"""Scores that may be negative, down to -1."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one claim."""

    row: str
    what: str
    """The score or scores that were looked at."""
    verdict: Verdict
    message: str
    explanations: tuple[Explanation, ...] = ()
    """The smallest first."""


def audit_claims(claims: Claims) -> list[Finding]:
    """Check every row and sum of the claims; rows without a fault get one finding that says what was checked.

    A printed number stands for all that round to it; what fits some of them fits. Checked are: the range of every
    score; scores against the confusion matrix, where there is one; and without it what must hold between scores:

    - of one class F1 = 2 IoU / (1 + IoU), F1 = 2 P R / (P + R), IoU = P R / (P + R - P R), IoU <= accuracy;
    - of summed counts F1 = precision = recall = accuracy A, and IoU = A / (2 - A);
    - of means over classes (or not said) IoU <= F1 <= 2 IoU / (1 + IoU), as 2 x / (1 + x) is concave.
    """
    found: list[Finding] = []
    for row in claims.rows:
        others = [
            r.printed()["iou"].value
            for r in claims.rows
            if r.name != row.name and "iou" in r.scores and r.printed()["iou"].value <= 1
        ]
        mine = list(_row(row, others))
        found += mine or [_nothing(row)]
    return found + [_sum(total) for total in claims.sums]


def _row(row: Row, others: list[float]) -> Iterator[Finding]:
    printed = row.printed()
    sound = {}
    for name, number in printed.items():
        fault = _range(row.name, name, number, others)
        if fault:
            yield fault
        else:
            sound[name] = number
    confusion = row.confusion()
    if confusion is not None:
        yield from _against_counts(row, sound, confusion)
        return
    for relation in RELATIONS[row.average]:
        if all(name in sound for name in relation.names):
            yield relation.check(row.name, sound)


def _range(row: str, name: str, number: Printed, others: list[float]) -> Finding | None:
    least = -1.0 if name in SIGNED else 0.0
    if number.high >= least and number.low <= 1:
        return None
    where = f"{'-1' if least else '0'} and 1"
    message = f"{name} {number.text} lies outside {where}: no prediction can have it."
    slips = tuple(explain_iou(number, others)) if name == "iou" else _other_slips(number)
    return Finding(row, name, "impossible", message, slips)


def _other_slips(number: Printed) -> tuple[Explanation, ...]:
    if not 1 < number.value <= 100:
        return ()
    return (Explanation("percent were printed as a share", number.low / 100, min(number.high / 100, 1.0), 0),)


def _against_counts(
    row: Row, printed: Mapping[str, Printed], confusion: NDArray[np.int64]
) -> Iterator[Finding]:
    """Compare every score with what the counts give; where it differs, look for what it is instead."""
    table = _all_scores(confusion, row.positive)
    for name, number in printed.items():
        kinds = ("class", "macro", "micro", "weighted") if row.average == "unknown" else (row.average,)
        wanted = {k: table[name, k] for k in kinds if (name, k) in table}
        if not wanted:
            yield Finding(row.name, name, "not checkable", f"{name} has no {row.average} form here.")
            continue
        if any(number.holds(v) for v in wanted.values() if not math.isnan(v)):
            yield Finding(row.name, name, "fits", f"{name} {number.text} is what the counts give.")
            continue
        value = next(iter(wanted.values()))
        if math.isnan(value):
            yield Finding(
                row.name, name, "impossible", f"{name} is undefined: the counts hold no such pixel."
            )
            continue
        yield Finding(
            row.name,
            name,
            "does not fit",
            f"{name} {number.text} is printed, the counts give {value:.4f}.",
            tuple(_lookalikes(number, value, table, (name, row.average))),
        )


def _lookalikes(
    number: Printed, value: float, table: Mapping[tuple[str, str], float], own: tuple[str, str]
) -> Iterator[Explanation]:
    """Yield what the counts have that is printed so: cut instead of rounded, another score, another mean."""
    if 0 <= value - number.value < number.step:
        yield Explanation("the digits were cut off, not rounded", value, value, 0)
    for (name, kind), other in table.items():
        if (name, kind) != own and not math.isnan(other) and number.holds(other):
            words = {"class": "of the class", "other": "of the other class"}.get(kind, f"({kind})")
            yield Explanation(f"it is {name} {words}", other, other, 0)
    for factor, words in ((100, "a hundredth"), (0.01, "a hundred times")):
        if number.holds(value / factor):
            yield Explanation(f"it is {words} of the true value: percent and shares", value, value, 0)


def _all_scores(confusion: NDArray[np.int64], positive: int) -> dict[tuple[str, str], float]:
    """Return every score of a matrix by (metric, average)."""
    s = score_matrix(confusion)
    support = confusion.sum(axis=1)
    total = int(support.sum())
    defined = (confusion.sum(axis=0) + support) > 0
    accuracy = float(s["accuracy"])
    # Cohen 1960: agreement beyond what the margins alone would give.
    chance = float((support / max(total, 1) * (confusion.sum(axis=0) / max(total, 1))).sum())
    kappa = (accuracy - chance) / (1 - chance) if chance < 1 else math.nan
    table: dict[tuple[str, str], float] = {}
    for kind in ("class", "macro", "micro", "weighted"):
        table["accuracy", kind] = accuracy
        table["kappa", kind] = kappa
    for name in ("precision", "recall", "f1", "iou"):
        by_class = np.asarray(s[name], dtype=np.float64)
        table[name, "class"] = float(by_class[positive])
        table[name, "macro"] = float(np.mean(np.nan_to_num(by_class[defined])))
        table[name, "weighted"] = float(np.nansum(by_class * support) / total) if total else math.nan
        table[name, "micro"] = float(s["iou_micro"]) if name == "iou" else accuracy
        if len(by_class) == 2:
            table[name, "other"] = float(by_class[1 - positive])
    return table


@dataclass(frozen=True, slots=True)
class Relation:
    """What must hold between scores: the last of `names` lies between what the first ones allow."""

    names: tuple[str, ...]
    words: str
    bounds: Callable[[Mapping[str, Printed]], tuple[float, float]]
    """The least and the largest value that the other scores allow."""
    exact: bool = True
    """Nothing but an error of print can break it; else it holds of means too."""

    def check(self, row: str, printed: Mapping[str, Printed]) -> Finding:
        """Return whether the last score lies within what the others allow."""
        number = printed[self.names[-1]]
        low, high = self.bounds(printed)
        what = " and ".join(self.names)
        if number.high >= low - 1e-9 and number.low <= high + 1e-9:
            return Finding(row, what, "fits", f"{self.words} holds.")
        given = ", ".join(f"{n} {printed[n].text}" for n in self.names[:-1])
        near = f"{low:.4g}" if high - low < 1e-6 else f"{low:.4g} to {high:.4g}"
        message = f"{self.words}: {given} leaves {near} for {self.names[-1]}, not {number.text}."
        slips = tuple(_relation_slips(self, printed))
        possible = self.exact and any("means" in s.words for s in slips)
        return Finding(row, what, "does not fit" if possible else "impossible", message, slips)


def _relation_slips(relation: Relation, printed: Mapping[str, Printed]) -> Iterator[Explanation]:
    names, last = set(relation.names), printed[relation.names[-1]]
    if names == {"f1", "iou"}:
        iou, f1 = printed["iou"], printed["f1"]
        if relation.exact and iou.low <= f1.high and f1.low <= _dice(iou.high):
            yield Explanation(
                "both are means over classes or tiles, which may lie apart so", iou.low, iou.high, 0
            )
        if _dice(f1.low) <= iou.high and iou.low <= _dice(f1.high):
            yield Explanation("f1 and iou are swapped", f1.low, f1.high, 0)
    if names == {"precision", "recall", "f1"}:
        p, r = printed["precision"], printed["recall"]
        for words, low, high in (
            ("f1 is the arithmetic mean of precision and recall", (p.low + r.low) / 2, (p.high + r.high) / 2),
            ("f1 is their geometric mean", math.sqrt(max(p.low * r.low, 0)), math.sqrt(p.high * r.high)),
        ):
            if low <= last.high and last.low <= high:
                yield Explanation(words, *_harmonic_bounds(printed), 0)
    if names == {"precision", "recall", "iou"}:
        low, high = _harmonic_bounds(printed)
        if low <= last.high and last.low <= high:
            yield Explanation("iou is f1 under another name", *_jaccard_bounds(printed), 0)


def _dice(iou: float) -> float:
    return 2 * max(iou, 0.0) / (1 + max(iou, 0.0))


def _harmonic(p: float, r: float) -> float:
    p, r = max(p, 0.0), max(r, 0.0)
    return 2 * p * r / (p + r) if p + r > 0 else 0.0


def _harmonic_bounds(printed: Mapping[str, Printed]) -> tuple[float, float]:
    p, r = printed["precision"], printed["recall"]
    return _harmonic(p.low, r.low), _harmonic(min(p.high, 1.0), min(r.high, 1.0))


def _jaccard_bounds(printed: Mapping[str, Printed]) -> tuple[float, float]:
    low, high = _harmonic_bounds(printed)
    return low / (2 - low), high / (2 - high)


def _own(
    name: str, function: Callable[[float], float]
) -> Callable[[Mapping[str, Printed]], tuple[float, float]]:
    """Return the bounds that one score sets through a rising function."""
    return lambda printed: (function(max(printed[name].low, 0.0)), function(min(printed[name].high, 1.0)))


OF_ONE_CLASS = (
    Relation(("iou", "f1"), "F1 = 2 IoU / (1 + IoU)", _own("iou", _dice)),
    Relation(("precision", "recall", "f1"), "F1 = 2 P R / (P + R)", _harmonic_bounds),
    Relation(("precision", "recall", "iou"), "IoU = P R / (P + R - P R)", _jaccard_bounds),
    Relation(("iou", "accuracy"), "accuracy >= IoU", lambda p: (p["iou"].low, 1.0)),
)
OF_MEANS = (
    Relation(
        ("iou", "f1"), "IoU <= F1 <= 2 IoU / (1 + IoU) of means",
        lambda p: (p["iou"].low, _dice(min(p["iou"].high, 1.0))), exact=False,
    ),
)  # fmt: skip
RELATIONS: dict[str, tuple[Relation, ...]] = {
    "class": OF_ONE_CLASS,
    "macro": OF_MEANS,
    "unknown": OF_MEANS,
    "weighted": (
        *OF_MEANS,
        Relation(("recall", "accuracy"), "recall weighted by class = accuracy", _own("recall", lambda v: v)),
    ),
    "micro": (
        *(
            Relation((name, "accuracy"), f"{name} of summed counts = accuracy", _own(name, lambda v: v))
            for name in ("precision", "recall", "f1")
        ),
        Relation(
            ("accuracy", "iou"), "IoU of summed counts = A / (2 - A)", _own("accuracy", lambda a: a / (2 - a))
        ),
        Relation(("iou", "f1"), "F1 = 2 IoU / (1 + IoU)", _own("iou", _dice)),
    ),
}


def _nothing(row: Row) -> Finding:
    return Finding(
        row.name, ", ".join(row.scores) or "-", "not checkable",
        "within its range; there are no counts and no second score to check it against.",
    )  # fmt: skip


def _sum(claim: Sum) -> Finding:
    relation, stated = split_total(str(claim.total))
    real = sum(claim.parts.values())
    holds = {
        "=": real == stated, "<": real < stated, "<=": real <= stated, ">": real > stated, ">=": real >= stated,
        "about": abs(real - stated) <= 0.05 * stated,
    }[relation]  # fmt: skip
    parts = " + ".join(str(v) for v in claim.parts.values())
    said = f"{relation if relation != '=' else ''} {stated}".strip()
    words = f"{parts} = {real}, said to be {said}"
    if holds:
        return Finding(claim.name, "sum", "fits", f"{words}.")
    slips = [
        Explanation(f"{' and '.join(names)} alone: {sum(claim.parts[n] for n in names)}", 0, 0, 0)
        for names in _subsets(list(claim.parts))
        if len(names) < len(claim.parts) and relation == "=" and sum(claim.parts[n] for n in names) == stated
    ]
    return Finding(claim.name, "sum", "impossible", f"{words}.", tuple(slips[:3]))


def _subsets(names: list[str]) -> Iterator[list[str]]:
    """Yield subsets of names, the larger first; of many parts none."""
    if len(names) > 10:
        return
    numbers = sorted(range(1, 1 << len(names)), key=lambda n: -n.bit_count())
    for number in numbers:
        yield [name for i, name in enumerate(names) if number >> i & 1]
