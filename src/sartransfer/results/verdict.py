"""The verdict of a comparison in words."""

from collections.abc import Sequence
from typing import Any

from sartransfer.recipe import FileStart, Recipe, RunStart, StagesStart
from sartransfer.results.rows import TestSet
from sartransfer.statistics import left_out_words
from sartransfer.wording import RULE_LABELS, UNSEEN_EVENTS, metric_words


def verdict_words(recipe: Recipe, found: Sequence[dict[str, Any]], test_sets: Sequence[TestSet]) -> list[str]:
    """Return the verdict, headline first: one sentence a contrast where the verdict rests, then what is missing.

    It rests on the unseen events; only where a recipe has none, on the test sets that it has. Then it is said what the
    statements do not tell: of which the sides differ in sign, what macro scores do where groups lack classes, what the
    correction for several contrasts and the intervals leave out.
    """
    metric = metric_words(recipe.primary.metric, recipe.primary.class_)
    unseen = [t for t in test_sets if t.is_joined]
    ruled = [t.name for t in test_sets if t.relation == RULE_LABELS]
    own = [t.name for t in test_sets if t.name not in ruled] or ruled
    names = [UNSEEN_EVENTS] if len(unseen) > 1 else [t.name for t in unseen] or own
    sentences = []
    for contrast in found:
        if contrast["test_set"] not in names:
            continue
        here = contrast["test_set"]
        if here == UNSEEN_EVENTS:
            here = f"unseen events ({', '.join(t.name for t in unseen)})"
        here += " (agreement with the rule that made its labels)" if here in ruled else ""
        share = f" with {contrast['fraction']:.0%} of the labels" if len(recipe.fractions) > 1 else ""
        for statement in contrast["statements"]:
            sentences.append(_sentence(contrast, statement, here, share, metric))
        sentences += _asides(contrast, f"{here}{share}", recipe.task)
    if not unseen:
        sentences.append(
            "No test set holds unseen events: how the starts compare on a new event is not estimable."
        )
    if ruled:
        sentences.append(
            f"The labels of {', '.join(ruled)} come from a rule: scores there are agreement with it, not accuracy."
        )
    if not found:
        sentences.append(
            "Nothing to compare: the recipe has one initialization, or too few runs have finished."
        )
    return [*sentences, *_not_counted(recipe, found)]


def _asides(contrast: dict[str, Any], place: str, task: str) -> list[str]:
    """Say what a reader of both statements of a contrast must know to reconcile them."""
    found = []
    here, new = contrast["statements"][0], contrast["statements"][-1]
    certain = any(s["verdict"] in ("better", "worse") for s in (here, new))
    both = [s["mean"] for s in (here, new) if s["mean"] is not None]
    if len(both) == 2 and both[0] * both[1] < 0 and certain:
        what = "pixels" if task == "segment" else "patches"
        found.append(
            f"The two statements on {contrast['a']} and {contrast['b']}, {place}, point in opposite directions: the "
            f"first counts all {what} alike, the second each event alike."
        )
    if new["mean"] is not None and (lacking := contrast.get("groups_lacking_classes")):
        found.append(
            f"Of {contrast['groups']} events ({place}), {lacking} lack a class: the macro score of such an event leaves"
            " that class out, or counts it as 0 where a start predicts it anywhere."
        )
    return found


def _not_counted(recipe: Recipe, found: Sequence[dict[str, Any]]) -> list[str]:
    """Say what no interval and no correction counts: other families of statements, another earlier training."""
    sentences = []
    if len({(c["fraction"], c["test_set"]) for c in found}) > 1:
        stated = sum(s["mean"] is not None for c in found for s in c["statements"])
        each = "test set and share of the labels" if len(recipe.fractions) > 1 else "test set"
        sentences.append(
            f"Each {each} is judged at 95% by itself: there are {stated} statements in all, and nothing is corrected"
            " across them."
        )
    compared = {name for c in found for name in (c["a"], c["b"])}
    once = [
        name
        for name, start in recipe.initializations.items()
        if name in compared and isinstance(start, StagesStart | RunStart | FileStart)
    ]
    if once:
        sentences.append(
            f"The weights that {', '.join(once)} {'starts' if len(once) == 1 else 'start'} from were trained once:"
            " another such training is not in the intervals."
        )
    return sentences


def _sentence(contrast: dict[str, Any], statement: dict[str, Any], here: str, share: str, metric: str) -> str:
    a, b, verdict = contrast["a"], contrast["b"], statement["verdict"]
    number = ""
    if statement["mean"] is not None:
        number = f" {metric} {statement['mean']:+.3f}"
        if statement["low"] is not None:
            number += f" [{statement['low']:+.3f}, {statement['high']:+.3f}]"
        number += f", {len(contrast['seeds'])} seeds"
        if statement["scope"] == "on new events":
            aside = contrast.get("groups_left_out", 0)
            number += f", {contrast['groups'] - aside} events"
            number += f" ({left_out_words(aside, contrast.get('groups_of_one_start', 0))})" if aside else ""
            folds = contrast.get("folds")
            number += f" in {folds} folds, each fold counting alike" if folds else ", each counting alike"
        number += "."
    place = f"{statement['scope']}, {here}{share}"
    if contrast.get("differs") == "start and training":
        place += " (start and training differ, and the recipe has no closer baseline)"
    elif contrast.get("differs") == "network":
        place += " (the networks differ, not the starts alone)"
    place = place[0].upper() + place[1:]
    if verdict in ("better", "worse"):  # its reason would only repeat the numbers
        return f"{place}: {a} is {verdict} than {b}:{number}"
    return f"{place}: {a} against {b}: {verdict}.{number} {statement['reason']}"
