"""From the scores of all runs to the tidy table: one row a value, as results.csv holds them."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sartransfer.evaluate import SceneScore, TestScores
from sartransfer.metrics import scores as score_matrix
from sartransfer.metrics import tidy
from sartransfer.recipe import PrimaryRecipe, Recipe
from sartransfer.statistics import t_interval
from sartransfer.wording import OTHER_DATA, UNSEEN_EVENTS

COLUMNS = ("initialization", "fraction", "seed", "test_set", "group", "scene", "class", "metric", "value")

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
    """To what was trained on: one of the words in `wording`, such as ``unseen events``."""
    grouped: bool = True
    """Whether every scene names its group: scenes of other data that do not may be tiles of one event."""
    held_out: tuple[tuple[str, ...], ...] = ()
    """Groups by the training that held them out, where several trainings share the test set (`folds`)."""

    @property
    def events_unseen(self) -> bool:
        """True where training has seen none of the groups, and they are known."""
        return self.relation == UNSEEN_EVENTS or (self.relation == OTHER_DATA and self.grouped)

    @property
    def is_joined(self) -> bool:
        """True where its groups count among the unseen ones that the verdict rests on."""
        return self.relation == UNSEEN_EVENTS


def tidy_rows(runs: Iterable[ScoredRun], test_sets: Sequence[TestSet] = ()) -> list[Row]:
    """Return one row for each value: whole test sets, their groups, and scenes.

    Of a chip there is only whether it was right (``accuracy``, 0 or 1) and whether its class was among the two
    highest (``top2``), and none for a group that is just the chip itself: all else follows, and thousands of
    chips would fill a hundred megabytes. Where several of `test_sets` hold unseen events, the whole and the
    groups of all of them together follow under the name `UNSEEN_EVENTS`: their scores cannot be had from those of the
    parts.
    """
    rows: list[Row] = []
    unseen = [t.name for t in test_sets if t.is_joined]
    for run in runs:
        head = (run.initialization, run.fraction, run.seed)
        for test_set, found in run.tests.items():
            rows += _whole_and_groups((*head, test_set), found)
            for scene in found.scenes:
                one = TestScores(test_set, found.classes, (scene,))
                place = (*head, test_set, scene.group, scene.id)
                rows += _rows(place, one) if scene.logits is None else _chip_rows(place, one)
        if len(unseen) > 1:
            rows += _whole_and_groups((*head, UNSEEN_EVENTS), joined_scores(run, unseen, UNSEEN_EVENTS))
    return rows


def scores_by_group(found: TestScores) -> dict[str, TestScores]:
    """Return the scores of each group, groups sorted, scenes in their order."""
    parts: dict[str, list[SceneScore]] = {}
    for scene in found.scenes:
        parts.setdefault(scene.group, []).append(scene)
    return {g: TestScores(found.test_set, found.classes, tuple(parts[g])) for g in sorted(parts)}


def is_own_group(group: str, part: TestScores) -> bool:
    """Say whether a group is just one chip, under the chip's own name."""
    return len(part.scenes) == 1 and part.scenes[0].logits is not None and part.scenes[0].id == group


def _whole_and_groups(head: tuple[str, float, int, str], found: TestScores) -> list[Row]:
    rows = _rows((*head, "", ""), found)
    for group, part in scores_by_group(found).items():
        if not is_own_group(group, part):
            rows += _rows((*head, group, ""), part)
    return rows


def _rows(head: tuple[str, float, int, str, str, str], found: TestScores) -> list[Row]:
    rows: list[Row] = [
        (*head, name, metric, value) for name, metric, value in tidy(found.confusion, found.classes)
    ]
    top2 = found.top2()
    if top2 is not None:
        rows.append((*head, "", "top2", top2))
    return rows


def _chip_rows(head: tuple[str, float, int, str, str, str], one: TestScores) -> list[Row]:
    (chip,) = one.scenes
    rows: list[Row] = [(*head, "", "accuracy", float(chip.confusion[chip.label, chip.label]))]
    top2 = one.top2()
    return rows if top2 is None else [*rows, (*head, "", "top2", top2)]


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


def joined_scores(run: ScoredRun, members: Sequence[str], name: str) -> TestScores:
    """Return the scores of several test sets as those of one, called `name`."""
    parts = [run.tests[m] for m in members]
    return TestScores(name, parts[0].classes, tuple(s for part in parts for s in part.scenes))


def describe_test_set(test_set: TestSet) -> dict[str, Any]:
    """Return a test set as JSON values; which training held out what, the results say under ``folds``."""
    kept = {key: value for key, value in asdict(test_set).items() if key != "held_out"}
    return {**kept, "events_unseen": test_set.events_unseen}
