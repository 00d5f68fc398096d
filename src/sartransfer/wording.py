"""Numbers as people write them in a report."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

MINUS = "\N{MINUS SIGN}"
UNSEEN_EVENTS = "unseen events"
"""Relation of test sets whose groups training has not seen, whatever the groups are, and name of all of them together.

This and those below are how a test set stands to what was trained on (`results.TestSet.relation`)."""
SAME_SCENES = "same scenes"
"""Some of its groups, or of what its scenes continue, are in training."""
OTHER_DATA = "other data"
"""Another dataset gives it (data.external): unseen too, but never joined with our own."""
RULE_LABELS = "labels of a rule"
"""Its labels are a rule's, as the recipe (rule_labelled) or the labels' files say: scores are agreement with it, not
accuracy."""
NOT_KNOWN = "not known"
"""Nobody can say whether training has seen it."""
_EVENTS = re.compile(r"\b(new|unseen|more|each|one|no|\d+) event(s?)\b")


def group_words(text: str, groups: str) -> str:
    """Write what the groups are (``events``, ``collections``, ``scenes``) where a sentence of ours says events."""
    return _EVENTS.sub(lambda m: f"{m[1]} {groups if m[2] else groups.removesuffix('s')}", text)


def number_words(value: float | None, *, decimals: int = 3, sign: bool = False) -> str:
    """Write a score without its leading zero, such as ``.712``, and None as ``undefined``."""
    if value is None:
        return "undefined"
    text = f"{abs(value):.{decimals}f}"
    zero = float(text) == 0
    text = text[1:] if text.startswith("0.") else text
    return ("" if zero else MINUS if value < 0 else "+" if sign else "") + text


def metric_words(metric: str, class_name: str = "") -> str:
    """Write a metric of a recipe as people say it: ``IoU of flooded``, ``F1 (macro)``, ``top-2 accuracy``."""
    names = {"iou": "IoU", "f1": "F1", "top2": "top-2 accuracy"}
    first, _, average = metric.partition("_")
    words = names.get(first, first) + (f" ({average})" if average else "")
    return f"{words} of {class_name}" if class_name else words


def estimate_words(row: Mapping[str, Any], *, sign: bool = False, cut: bool = False) -> str:
    """Write ``.712 [.690, .734]``, with two decimals where the interval is wider than 0.1.

    An end that would be written as 0 and is not has a decimal more, or two: else a sure difference looks unsure.
    With `cut` the interval ends at 0 and 1, beyond which no score lies; a difference may lie there.
    """
    mean, low, high = (row[key] for key in ("mean", "low", "high"))
    if mean is None:
        return "undefined"
    if low is None or high is None:
        return f"{number_words(mean, sign=sign)} (no interval)"
    if cut:
        low, high = max(low, min(mean, 0.0)), min(high, max(mean, 1.0))
    decimals = 2 if high - low > 0.1 else 3
    while decimals < 4 and any(v and abs(v) < 0.5 * 10**-decimals for v in (low, high)):
        decimals += 1
    first, second, third = (number_words(v, decimals=decimals, sign=sign) for v in (mean, low, high))
    return f"{first} [{second}, {third}]"


def verdict_parts(
    sentences: Sequence[str], contrasts: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str, str]]:
    """Split each sentence of a verdict: where it holds, what it says with its numbers, and why it says no more.

    The first and the last are empty where `contrasts` (of the results) do not tell them from the rest.
    """
    return [_parts(s, contrasts) for s in sentences or ["The results hold no verdict."]]


def _parts(sentence: str, contrasts: Sequence[Mapping[str, Any]]) -> tuple[str, str, str]:
    place = reason = ""
    for contrast in contrasts:
        for words in (f": {contrast['a']} against {contrast['b']}: ", f": {contrast['a']} is "):
            if not place and sentence.startswith("On ") and words in sentence:
                place, _, _ = sentence.partition(words)
        for statement in contrast["statements"]:
            if statement["reason"] and sentence.endswith(f" {statement['reason']}"):
                reason = statement["reason"]
    said = sentence.removeprefix(f"{place}: ") if place else sentence
    return place, said.removesuffix(reason).rstrip(), reason


def percent_words(value: float | None) -> str:
    """Write a share in percent with two decimals, such as ``83.21``, and None as ``undefined``."""
    if value is None:
        return "undefined"
    text = f"{100 * value:.2f}"
    return text.replace("-", MINUS) if float(text) else "0.00"


def range_words(low: float | None, high: float | None) -> str:
    """Write an interval in percent, such as ``[82.90, 83.52]``, and ``no interval`` where it has no ends."""
    if low is None or high is None:
        return "no interval"
    return f"[{percent_words(low)}, {percent_words(high)}]"


def p_words(p: float) -> str:
    """Write a p-value such as ``.0081``, ``1``, or ``< .0001``."""
    if p < 1e-4:
        return "< .0001"
    return f"{p:.2g}".replace("0.", ".", 1)


def duration_words(seconds: float | None) -> str:
    """Write a time such as ``2 h 05 min``, ``7 min``, ``42 s`` or ``0.23 s``; None as a dash."""
    if seconds is None:
        return "–"
    minutes = round(seconds / 60)
    if seconds < 9.95:
        return f"{seconds:.2g} s" if seconds >= 0.01 or seconds == 0 else "< 0.01 s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
