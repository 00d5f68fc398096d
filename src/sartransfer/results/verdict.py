"""The verdict of a comparison in words."""

from collections.abc import Sequence
from typing import Any

from sartransfer.recipe import Recipe
from sartransfer.results.rows import RULE_LABELS, UNSEEN, TestSet


def metric_words(metric: str, class_: str) -> str:
    """Return a metric as people say it: ``IoU of flooded``."""
    words = {"iou": "IoU", "f1": "F1", "top2": "top-2 accuracy"}
    first, _, rest = metric.partition("_")
    name = words.get(first, first) + (f" ({rest})" if rest else "")
    return f"{name} of {class_}" if class_ else name


def verdict_words(recipe: Recipe, found: Sequence[dict[str, Any]], test_sets: Sequence[TestSet]) -> list[str]:
    """Return the verdict, headline first: one sentence a contrast where the verdict rests, then what is missing.

    It rests on the unseen events; only where a recipe has none, on the test sets that it has.
    """
    metric = metric_words(recipe.primary.metric, recipe.primary.class_)
    unseen = [t for t in test_sets if t.is_joined]
    ruled = [t.name for t in test_sets if t.relation == RULE_LABELS]
    own = [t.name for t in test_sets if t.name not in ruled] or ruled
    names = [UNSEEN] if len(unseen) > 1 else [t.name for t in unseen] or own
    sentences = []
    for contrast in found:
        if contrast["test_set"] not in names:
            continue
        here = contrast["test_set"]
        if here == UNSEEN:
            here = f"unseen events ({', '.join(t.name for t in unseen)})"
        here += " (agreement with the rule that made its labels)" if here in ruled else ""
        share = f" with {contrast['fraction']:.0%} of the labels" if len(recipe.fractions) > 1 else ""
        for statement in contrast["statements"]:
            sentences.append(_sentence(contrast, statement, here, share, metric))
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
            number += f" ({aside} left out, where the score is undefined)" if aside else ""
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
