"""Paired comparison of two starts, "a minus b", with seeds and groups (scenes, events) crossed and random.

S is the number of seeds (runs), G the number of groups; every score is a fraction (0.01 = one point), and
seed s of a is paired with seed s of b. `compare_paired` joins the tests and intervals of `intervals` into two
statements: one on this test set, one on new events. Scores that cannot be used (infinite, or too few of them) raise
SartransferError; arguments of a wrong shape or range raise ValueError.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sartransfer.errors import SartransferError
from sartransfer.intervals import (
    EXACT_SIGN_FLIP_LIMIT,
    Interval,
    check_confidence,
    cohen_dz,
    crossed_half_width,
    crossed_interval,
    crossed_mean_squares,
    fold_means,
    half_width_of_groups,
    has_spread,
    holm,
    reaches,
    sign_flip_test,
    smallest_sign_flip_p,
    t_interval,
    t_test_p,
)
from sartransfer.power import smallest_detectable_difference

__all__ = [
    "EXACT_SIGN_FLIP_LIMIT",
    "FAILS_CORRECTION",
    "SEEN",
    "Interval",
    "Scope",
    "Statement",
    "Verdict",
    "cohen_dz",
    "compare_paired",
    "crossed_half_width",
    "crossed_interval",
    "crossed_mean_squares",
    "fold_means",
    "has_spread",
    "holm",
    "left_out_words",
    "sign_flip_test",
    "smallest_detectable_difference",
    "smallest_sign_flip_p",
    "t_interval",
    "t_test_p",
]

FloatArray = NDArray[np.float64]
Scope = Literal["on this test set", "on new events"]
Verdict = Literal["better", "worse", "too few runs to tell", "no difference found", "not estimable"]

SEEN = "The groups were also seen in training, so they say nothing about new events."
FAILS_CORRECTION = "it does not survive the correction for several contrasts"
INCLUDES_ZERO = "the interval includes 0"
FAILS_SIGN_FLIP = "the sign-flip test does not confirm it"


@dataclass(frozen=True)
class Statement:
    """What may be said about "a minus b" in one scope, with the numbers it stands on."""

    scope: Scope
    interval: Interval | None
    p_value: float | None
    """Exact sign-flip p over seeds; only on this test set."""
    p_adjusted: float | None
    """Holm-adjusted p, where several contrasts were planned."""
    verdict: Verdict
    reason: str
    """One sentence in plain words."""

    def __post_init__(self) -> None:
        """Check scope and verdict."""
        if self.scope not in get_args(Scope):
            raise ValueError(f"scope={self.scope!r}. Must be one of: {get_args(Scope)}")
        if self.verdict not in get_args(Verdict):
            raise ValueError(f"verdict={self.verdict!r}. Must be one of: {get_args(Verdict)}")


def compare_paired(
    whole_a: ArrayLike,
    whole_b: ArrayLike,
    groups_a: ArrayLike,
    groups_b: ArrayLike,
    *,
    events_unseen: bool,
    margin: float = 0.01,
    confidence: float = 0.95,
    p_adjusted: float | None = None,
    p_adjusted_new: float | None = None,
    seen: str = SEEN,
    folds: ArrayLike | None = None,
) -> tuple[Statement, Statement]:
    """Say what may be said about a minus b: on this test set, and on new events.

    `whole_a`, `whole_b` (S,): score of each run on the whole test set, paired by seed. `groups_a`,
    `groups_b` (S, G): score of each run on each group, NaN where undefined. `events_unseen`: whether the
    groups are events that no training run saw. `margin`: smallest difference of interest, in units of the
    score. `p_adjusted`, `p_adjusted_new`: Holm-adjusted p of this contrast (`holm`), where several were planned:
    of `t_test_p` for the first statement, of the crossed interval (`results.corrected`) for the second. They bind the
    verdicts; intervals stay at `confidence`. `seen`: what to say of new events where `events_unseen` is false. `folds`
    (G,): which training had held out each group, where several trainings share the test set and one holds out several
    groups: what that training does it does to all of them, so that the mean of each fold's groups counts as one.

    On this test set (it is fixed, the seeds are random): better or worse if the t interval over seeds excludes 0, and
    the sign-flip p and `p_adjusted` are at most 1 - confidence. On new events (seeds and groups are random, each event
    counts alike): better or worse if the crossed interval excludes 0, and the sign-flip p of the runs' means over the
    events and `p_adjusted_new` are at most 1 - confidence. Otherwise "no difference found" where the interval lies
    within +-margin, else "too few runs to tell". Both say so always where so few seeds can never be sure (under 6 at
    95 %), and where all runs differ by exactly the same. What is certain on new events is so of these very events, too:
    the crossed interval holds the t interval of the runs' means.
    """
    a, b = _pair(whole_a, whole_b, 1, "whole")
    per_group_a, per_group_b = _pair(groups_a, groups_b, 2, "groups")
    if a.size != per_group_a.shape[0]:
        raise ValueError(
            f"whole scores have {a.size} runs and group scores {per_group_a.shape[0]}. Must be the same"
        )
    if not (margin >= 0 and np.isfinite(margin)):
        raise ValueError(f"{margin=}. Must be 0 or more, and finite")
    if not all(p is None or 0 <= p <= 1 for p in (p_adjusted, p_adjusted_new)):
        raise ValueError(f"{p_adjusted=}, {p_adjusted_new=}. Must lie from 0 to 1")
    check_confidence(confidence)
    return (
        _on_this_test_set(a - b, margin, confidence, p_adjusted),
        _on_new_events(
            per_group_a, per_group_b, folds, "" if events_unseen else seen, margin, confidence, p_adjusted_new
        ),
    )


def _on_this_test_set(d: FloatArray, margin: float, confidence: float, p_adjusted: float | None) -> Statement:
    if d.size == 0 or np.isnan(d).any():
        reason = "There are no runs."
        if d.size:
            reason = "The score is undefined on the whole test set in at least one run."
        return Statement("on this test set", None, None, p_adjusted, "not estimable", reason)
    p = sign_flip_test(d)
    interval = t_interval(d, confidence) if d.size >= 2 else None
    smallest = smallest_sign_flip_p(d.size)

    def say(verdict: Verdict, reason: str) -> Statement:
        return Statement("on this test set", interval, p, p_adjusted, verdict, reason)

    if interval is None or not reaches(smallest, confidence):
        return say("too few runs to tell", _too_few(d.size, smallest, confidence))
    if not has_spread(d) and d.any():
        return say("too few runs to tell", _as_one(d.size, interval))
    numbers = f"{_in_words(interval)} over {_count(d.size, 'paired run')} (sign-flip p = {p:.3g}"
    numbers += ")" if p_adjusted is None else f", Holm-adjusted p = {p_adjusted:.3g})"
    doubts = []
    if not interval.excludes_zero:
        doubts.append(INCLUDES_ZERO)
    if not reaches(p, confidence):
        doubts.append(FAILS_SIGN_FLIP)
    if p_adjusted is not None and not reaches(p_adjusted, confidence):
        doubts.append(FAILS_CORRECTION)
    return say(*_verdict(interval, doubts, numbers, margin))


def _on_new_events(
    a: FloatArray,
    b: FloatArray,
    folds: ArrayLike | None,
    seen: str,
    margin: float,
    confidence: float,
    p_adjusted: float | None,
) -> Statement:
    d = a - b
    undefined = np.isnan(d).any(axis=0)
    dropped, groups = int(undefined.sum()), int((~undefined).sum()) if d.size else 0
    one_sided = int((np.isnan(a) != np.isnan(b)).any(axis=0).sum())
    aside = f" ({left_out_words(dropped, one_sided, ' event')})" if dropped else ""
    if folds is not None and d.size:
        d = fold_means(d, folds)
    d = d[:, ~np.isnan(d).any(axis=0)]
    runs, units = d.shape
    reason = seen
    if not reason and runs < 2:
        reason = "There is only one run." if runs else "There are no runs."
    elif not reason and groups < 2:
        reason = f"There is {'only one event' if groups else 'no event'} to judge from{aside}."
    elif not reason and units < 2:
        reason = f"All events were held out of one training{aside}: how trainings differ cannot be known."
    if reason:
        return Statement("on new events", None, None, None, "not estimable", reason)
    interval = replace(crossed_interval(d, confidence), dropped_groups=dropped)

    def say(verdict: Verdict, reason: str) -> Statement:
        return Statement("on new events", interval, None, p_adjusted, verdict, reason)

    if not reaches(smallest := smallest_sign_flip_p(runs), confidence):
        return say("too few runs to tell", _too_few(runs, smallest, confidence))
    if d.any() and not any(has_spread(of_unit) for of_unit in d.T):
        return say("too few runs to tell", _as_one(runs, interval))
    number = f"{groups} events" if units == groups else f"{units} folds of {groups} events"
    alike = "each counting alike" if units == groups else "each fold counting alike"
    numbers = f"{_in_words(interval)} over {_count(runs, 'paired run')} and {number}{aside}, {alike}"
    if p_adjusted is not None:
        numbers += f" (Holm-adjusted p = {p_adjusted:.3g})"
    doubts = [] if interval.excludes_zero else [INCLUDES_ZERO]
    if not reaches(sign_flip_test(d.mean(axis=1)), confidence):
        doubts.append(FAILS_SIGN_FLIP)
    if p_adjusted is not None and not reaches(p_adjusted, confidence):
        doubts.append(FAILS_CORRECTION)
    verdict, reason = _verdict(interval, doubts, numbers, margin)
    if verdict == "too few runs to tell" and half_width_of_groups(d, confidence) >= abs(interval.mean):
        needed = "more events" if units == groups else "more folds"
        reason += f" More runs alone would not settle it: it takes {needed}."
    return say(verdict, reason)


def left_out_words(dropped: int, one_sided: int, noun: str = "") -> str:
    """Say how many groups are left out for an undefined score, and of how many only one start's is undefined."""
    words = f"{_count(dropped, noun.strip()) if noun else dropped} left out, where the score is undefined"
    if not one_sided:
        return words
    return f"{words}{',' if dropped == 1 else f', {one_sided} of them'} for one of the two starts only"


def _verdict(interval: Interval, doubts: Sequence[str], numbers: str, margin: float) -> tuple[Verdict, str]:
    """Word the outcome once the interval and what speaks against certainty are known."""
    if not doubts:
        return ("better" if interval.mean > 0 else "worse"), f"{numbers}."
    joined = " and ".join(filter(None, (", ".join(doubts[:-1]), doubts[-1])))
    points = f"{100 * margin:.3g} point{'' if margin == 0.01 else 's'}"
    if interval.within(margin):
        return "no difference found", f"{numbers}: {joined}, and all of it lies within {points} either way."
    return "too few runs to tell", f"{numbers}: {joined}, and it reaches beyond {points}."


def _too_few(runs: int, smallest: float, confidence: float) -> str:
    return (
        f"With {_count(runs, 'paired run')} the sign-flip test cannot go under p = {smallest:.3g}, so"
        f" {confidence:.0%} certainty is out of reach whatever the scores."
    )


def _as_one(runs: int, interval: Interval) -> str:
    return (
        f"All {runs} runs differ by exactly {100 * interval.mean:+.2f} points: the seed seems to have changed nothing,"
        " so that they count as one run."
    )


def _in_words(interval: Interval) -> str:
    low, mean, high = (f"{100 * x:+.2f}" for x in (interval.low, interval.mean, interval.high))
    return f"The difference is {mean} points, {interval.confidence:.0%} interval {low} to {high},"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _pair(a: ArrayLike, b: ArrayLike, ndim: int, name: str) -> tuple[FloatArray, FloatArray]:
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != ndim or first.shape != second.shape:
        wanted = "(S,)" if ndim == 1 else "(S, G)"
        raise ValueError(f"{name}_a has shape {first.shape}, {name}_b {second.shape}. Both must be {wanted}")
    if np.isinf(first).any() or np.isinf(second).any():
        raise SartransferError(
            f"{name} scores hold infinite values; a score is a number, or NaN where undefined"
        )
    return first, second
