"""From the scores of all runs to the tidy table, the contrasts with their intervals, and the verdict in words."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.evaluate import TestScores
from sartransfer.metrics import scores as score_matrix
from sartransfer.metrics import tidy
from sartransfer.recipe import PrimaryRecipe, Recipe
from sartransfer.statistics import Statement, cohen_dz, compare_paired, holm, t_interval, t_test_p

COLUMNS = ("initialization", "fraction", "seed", "test_set", "group", "scene", "class", "metric", "value")
UNSEEN = "unseen events"
"""Name of all test sets together whose groups training has not seen."""

Row = tuple[str, float, int, str, str, str, str, str, float]


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """The scores of one finished run on every test set."""

    initialization: str
    fraction: float
    seed: int
    tests: dict[str, TestScores]


@dataclass(frozen=True, slots=True)
class TestSet:
    """What is known of a test set."""

    __test__ = False  # not a test, whatever pytest thinks of the name

    name: str
    scenes: int
    groups: int
    relation: str
    """``unseen events``: none of its groups is in training; ``same scenes``: some are, or its scenes continue
    training scenes; ``not known``: groups are missing in the catalog."""

    @property
    def events_unseen(self) -> bool:
        """True where training has seen none of the groups."""
        return self.relation == "unseen events"


def tidy_rows(runs: Iterable[ScoredRun], test_sets: Sequence[TestSet] = ()) -> list[Row]:
    """Return one row for each value: whole test sets, their groups, and scenes.

    Where several of `test_sets` hold unseen events, the whole and the groups of all of them together follow
    under the name `UNSEEN`: their scores cannot be had from those of the parts.
    """
    rows: list[Row] = []
    unseen = [t.name for t in test_sets if t.events_unseen]
    for run in runs:
        head = (run.initialization, run.fraction, run.seed)
        for test_set, found in run.tests.items():
            rows += _rows((*head, test_set, "", ""), found.confusion, found)
            for group in found.groups:
                part = found.of_group(group)
                rows += _rows((*head, test_set, group, ""), part.confusion, part)
            for scene in found.scenes:
                one = TestScores(test_set, found.classes, (scene,))
                rows += _rows((*head, test_set, scene.group, scene.id), scene.confusion, one)
        if len(unseen) > 1:
            joined = _joined(run, unseen, UNSEEN)
            for group in ("", *joined.groups):
                part = joined.of_group(group) if group else joined
                rows += _rows((*head, UNSEEN, group, ""), part.confusion, part)
    return rows


def _rows(
    head: tuple[str, float, int, str, str, str], confusion: NDArray[np.int64], found: TestScores
) -> list[Row]:
    rows: list[Row] = [(*head, name, metric, value) for name, metric, value in tidy(confusion, found.classes)]
    top2 = found.top2()
    if top2 is not None:
        rows.append((*head, "", "top2", top2))
    return rows


def rows_csv(rows: Iterable[Row]) -> str:
    """Return rows as CSV text; an undefined value is an empty field.

    Values have all their digits: rounded ones would break ties between sign patterns, and change a p.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        value = row[-1]
        writer.writerow((*row[:-1], "" if math.isnan(value) else repr(float(value))))
    return text.getvalue()


def value_of(found: TestScores, primary: PrimaryRecipe) -> float:
    """Return the primary metric of scores, NaN where it is undefined."""
    if primary.metric == "top2":
        top2 = found.top2()
        return math.nan if top2 is None else top2
    value = np.asarray(score_matrix(found.confusion)[primary.metric])
    return float(value[found.classes.index(primary.class_)]) if primary.class_ else float(value)


def score_table(runs: Sequence[ScoredRun], recipe: Recipe, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the mean over seeds of every whole-set metric with its t interval (95 %).

    The interval is undefined (None) for fewer than two seeds. Undefined values are None and enter no mean.
    """
    cells: dict[tuple[str, float, str, str, str], dict[int, float]] = {}
    for start, fraction, seed, test_set, group, scene, name, metric, value in rows:
        if group == "" and scene == "":
            cells.setdefault((start, fraction, test_set, metric, name), {})[seed] = value
    table = []
    for (start, fraction, test_set, metric, name), by_seed in cells.items():
        values = [by_seed.get(seed, math.nan) for seed in recipe.seeds]
        known = np.array([v for v in values if not math.isnan(v)])
        low = high = sd = None
        if len(known) >= 2:
            interval = t_interval(known)
            low, high, sd = interval.low, interval.high, float(known.std(ddof=1))
        table.append(
            {
                "initialization": start,
                "fraction": fraction,
                "test_set": test_set,
                "metric": metric,
                "class": name,
                "mean": float(known.mean()) if len(known) else None,
                "low": low,
                "high": high,
                "sd": sd,
                "n_seeds": len(known),
                "values": [None if math.isnan(v) else v for v in values],
            }
        )
    return table


def pairs(recipe: Recipe) -> list[tuple[str, str]]:
    """Return the contrasts planned by the recipe: (start, baseline of its network).

    With one network: every start against the baseline. With several, each start against the first start
    (or the baseline) of its own network, so that a difference is never one of networks.
    """
    planned = []
    base: dict[str, str] = {recipe.model_of(recipe.baseline_name).model_dump_json(): recipe.baseline_name}
    for name in recipe.initializations:
        base.setdefault(recipe.model_of(name).model_dump_json(), name)
    for name in recipe.initializations:
        against = base[recipe.model_of(name).model_dump_json()]
        if name != against:
            planned.append((name, against))
    return planned


def contrasts(
    runs: Sequence[ScoredRun], recipe: Recipe, test_sets: Sequence[TestSet]
) -> list[dict[str, Any]]:
    """Return each planned difference on each test set, and on all unseen events together, with two statements.

    Differences are paired by seed, and by seed and group; a seed that either start lacks is left out. Within
    one test set and fraction the t tests are corrected for the number of planned contrasts (Holm); one that
    cannot be tested (runs missing, score undefined) counts as not significant.
    """
    found = []
    sets = [(t.name, [t.name], t.events_unseen) for t in test_sets]
    unseen = [t.name for t in test_sets if t.events_unseen]
    if len(unseen) > 1:
        sets.append((UNSEEN, unseen, True))
    index = {(r.initialization, r.fraction, r.seed): r for r in runs}
    for fraction in recipe.fractions:
        for name, members, events_unseen in sets:
            family = []
            for a, b in pairs(recipe):
                both = [s for s in recipe.seeds if (a, fraction, s) in index and (b, fraction, s) in index]
                if both:
                    left = [_joined(index[a, fraction, s], members, name) for s in both]
                    right = [_joined(index[b, fraction, s], members, name) for s in both]
                    family.append((a, b, both, left, right))
            tested = [_differences(left, right, recipe.primary) for *_, left, right in family]
            adjusted = _adjusted(tested, len(pairs(recipe)))
            for (a, b, both, left, right), p in zip(family, adjusted, strict=True):
                found.append(_contrast(a, b, fraction, name, both, left, right, recipe, events_unseen, p))
    return found


def _joined(run: ScoredRun, members: Sequence[str], name: str) -> TestScores:
    parts = [run.tests[m] for m in members]
    return TestScores(name, parts[0].classes, tuple(s for part in parts for s in part.scenes))


def _differences(
    left: Sequence[TestScores], right: Sequence[TestScores], primary: PrimaryRecipe
) -> NDArray[np.float64]:
    return np.array([value_of(x, primary) - value_of(y, primary) for x, y in zip(left, right, strict=True)])


def _adjusted(family: Sequence[NDArray[np.float64]], planned: int) -> list[float | None]:
    """Holm over the `planned` contrasts of one family; None where there is only one, or nothing to test."""
    testable = [len(d) >= 2 and bool(np.isfinite(d).all()) for d in family]
    if planned < 2:
        return [None] * len(family)
    p = [t_test_p(d) if able else 1.0 for d, able in zip(family, testable, strict=True)]
    corrected = holm([*p, *[1.0] * (planned - len(p))])
    return [float(q) if able else None for q, able in zip(corrected, testable, strict=False)]


def _contrast(
    a: str,
    b: str,
    fraction: float,
    test_set: str,
    seeds: Sequence[int],
    left: Sequence[TestScores],
    right: Sequence[TestScores],
    recipe: Recipe,
    events_unseen: bool,
    p_adjusted: float | None,
) -> dict[str, Any]:
    primary = recipe.primary
    differences = _differences(left, right, primary)
    groups = left[0].groups

    def by_group(side: Sequence[TestScores]) -> NDArray[np.float64]:
        return np.array([[value_of(s.of_group(g), primary) for g in groups] for s in side])

    statements: tuple[Statement, ...] = ()
    if len(seeds) >= 2:
        statements = compare_paired(
            np.array([value_of(s, primary) for s in left]),
            np.array([value_of(s, primary) for s in right]),
            by_group(left),
            by_group(right),
            events_unseen=events_unseen,
            margin=recipe.margin,
            p_adjusted=p_adjusted,
        )
    defined = bool(np.isfinite(differences).all())
    return {
        "a": a,
        "b": b,
        "fraction": fraction,
        "test_set": test_set,
        "metric": primary.metric,
        "class": primary.class_,
        "seeds": list(seeds),
        "groups": len(groups),
        "difference": float(differences.mean()) if defined else None,
        "effect_size": _finite(cohen_dz(differences)) if defined and len(seeds) >= 2 else None,
        "per_seed": [_finite(d) for d in differences],
        "statements": [statement_json(s) for s in statements] or [_one_seed()],
    }


def statement_json(statement: Statement) -> dict[str, Any]:
    """Return a statement as JSON values."""
    interval = statement.interval
    return {
        "scope": statement.scope,
        "mean": None if interval is None else interval.mean,
        "low": None if interval is None else _finite(interval.low),
        "high": None if interval is None else _finite(interval.high),
        "df": None if interval is None else _finite(interval.df),
        "p_value": statement.p_value,
        "p_adjusted": statement.p_adjusted,
        "verdict": statement.verdict,
        "reason": statement.reason,
    }


def _one_seed() -> dict[str, Any]:
    return {
        "scope": "on this test set",
        **dict.fromkeys(("mean", "low", "high", "df", "p_value", "p_adjusted")),
        "verdict": "too few runs to tell",
        "reason": "one seed says nothing of chance; six are the fewest that can be certain at 5 %.",
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


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
    unseen = [t for t in test_sets if t.events_unseen]
    names = [UNSEEN] if len(unseen) > 1 else [t.name for t in unseen] or [t.name for t in test_sets]
    sentences = []
    for contrast in found:
        if contrast["test_set"] not in names:
            continue
        here = contrast["test_set"]
        if here == UNSEEN:
            here = f"unseen events ({', '.join(t.name for t in unseen)})"
        share = f" with {contrast['fraction']:.0%} of the labels" if len(recipe.fractions) > 1 else ""
        for statement in contrast["statements"]:
            sentences.append(_sentence(contrast, statement, here, share, metric))
    if not unseen:
        sentences.append(
            "No test set holds unseen events: how the starts compare on a new event is not estimable."
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
            number += f", {contrast['groups']} events"
        number += "."
    place = f"{statement['scope']}, {here}{share}"
    place = place[0].upper() + place[1:]
    if verdict in ("better", "worse"):  # its reason would only repeat the numbers
        return f"{place}: {a} is {verdict} than {b}:{number}"
    return f"{place}: {a} against {b}: {verdict}.{number} {statement['reason']}"


def describe_test_set(test_set: TestSet) -> dict[str, Any]:
    """Return a test set as JSON values."""
    return {**asdict(test_set), "events_unseen": test_set.events_unseen}
