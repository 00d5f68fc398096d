"""A comparison by folds: every group is held out of the training that is scored on it, and all is judged together.

Each fold is an ordinary comparison with the test set `HELD_OUT`. The scores of a start with one seed are those of its
trainings in all folds, scene by scene, so that every group is there once (Stone 1974, J. R. Stat. Soc. B 36, 111-147).
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sartransfer.catalog import TRAIN, VALIDATION, Catalog, write_catalog
from sartransfer.comparison import Watcher, carry_out, check_out
from sartransfer.data.resolve import open_catalog
from sartransfer.data.splits import group_folds
from sartransfer.data.unlabelled import open_unlabelled, refuse_seen_tests
from sartransfer.errors import CatalogError, LeakageError, OutputError, SartransferError
from sartransfer.gather import Comparison
from sartransfer.histories import Learned, same_catalog
from sartransfer.joined import HELD_OUT, gather_folds
from sartransfer.plan import Plan, plan_comparison
from sartransfer.predict import choose_device
from sartransfer.recipe import DataRecipe, Initialization, Recipe, StageRecipe, StagesStart, ValidationRecipe
from sartransfer.runs import read_json, write_json
from sartransfer.textfile import write_text

EACH: Literal["each"] = "each"
"""As many folds as there are groups."""


@dataclass(frozen=True, slots=True)
class Folds:
    """Which groups each fold holds out."""

    recipe: Recipe
    catalogs: tuple[Catalog, ...]
    """One a fold: ``train`` and `HELD_OUT`; validation is not drawn yet."""

    @property
    def groups(self) -> list[list[str]]:
        """The groups that each fold holds out, sorted."""
        return [sorted({e.group or e.id for e in c.in_split(HELD_OUT)}) for c in self.catalogs]

    @property
    def runs(self) -> int:
        """How many trainings that makes."""
        recipe = self.recipe
        return len(self.catalogs) * len(recipe.initializations) * len(recipe.fractions) * len(recipe.seeds)

    def describe(self) -> str:
        """Return what will be done, in a sentence."""
        count, groups, named = len(self.catalogs), sum(map(len, self.groups)), self.recipe.groups_are
        return (
            f"{count} folds of {groups} {named}, {self.runs // count} runs each: {self.runs} runs in all. Each of the "
            f"{groups} {named} is held out once."
        )


def cut_folds(recipe: Recipe, folds: int | Literal["each"], *, seed: int = 0) -> Folds:
    """Deal the groups that a recipe trains or validates on into folds, as `data.splits.group_folds` does.

    The recipe's own test sets take no part: they stay unseen. Of a catalog without splits all groups take part.

    Args:
        recipe: as `Recipe.from_yaml` returns it. folds: how many, or `EACH`: one a group. seed: of the draw.

    Raises:
        CatalogError: an entry without a group, or fewer groups than folds.
        LeakageError: a stage of a chain trains on what a fold would hold out.
    """
    whole = _whole(recipe.data)
    lone = [e.id for e in whole.entries if not e.group]
    if lone:
        raise CatalogError(
            f"folds hold out whole groups, and {len(lone)} scenes to train on have none ({lone[0]}, for one). Fill the "
            f"column `group` of catalog {whole.name!r}: event, city, collection."
        )
    count = len({e.group for e in whole.entries}) if folds == EACH else folds
    if count < 2:
        raise CatalogError(
            f"{count} folds: from 2 to the number of groups, or `{EACH}` where there are two groups."
        )
    cut = Folds(recipe, group_folds(whole, count, seed, name=HELD_OUT))
    _refuse_seen(recipe, whole)
    return cut


def compare_folds(
    cut: Folds,
    out: str | Path,
    *,
    device: str = "auto",
    jobs: int = 1,
    watcher: Watcher | None = None,
) -> Comparison:
    """Compare the starts of a recipe in every fold, in ``folds/K``, and judge all folds as one comparison.

    Finished runs are not repeated. A run that fails is reported and the others go on; a start and seed of which any
    fold is not finished is in no score, and the verdict says that it is incomplete.

    Args:
        cut: from `cut_folds`. out: folder for the folds and their results together.
        device, jobs, watcher: as `comparison.compare` takes them.

    Raises:
        SartransferError: what is wrong in any fold, before the first run.
        OutputError: the folder holds other folds, or another kind of comparison.
    """
    out, device, recipe = Path(out), choose_device(device), cut.recipe
    check_out(out, recipe.name, "folds")
    _check_groups(out, cut)
    (out / "folds").mkdir(parents=True, exist_ok=True)
    for number, catalog in enumerate(cut.catalogs, start=1):
        write_catalog(catalog, _catalog_path(out / "folds", number), overwrite=True)
    plans = plan_folds(cut, out)
    write_json(_groups_path(out), cut.groups)
    write_text(out / "recipe.yaml", recipe.to_yaml())
    if watcher:
        watcher.warn(tuple(dict.fromkeys(text for plan in plans for text in plan.warnings)))
    for number, plan in enumerate(plans):
        _share_stages(plan, out)
        carry_out(plan, device=device, jobs=jobs, watcher=watcher and _Counted(watcher, number, len(plans)))
    return gather_folds(recipe, plans, out, device)


def plan_folds(cut: Folds, out: Path) -> list[Plan]:
    """Plan every fold, from the catalogs that lie in ``out/folds``; errors name the fold."""
    return [_plan(cut.recipe, out, out / "folds", k) for k in range(1, len(cut.catalogs) + 1)]


@contextmanager
def first_fold(cut: Folds, out: str | Path) -> Iterator[Plan]:
    """Plan the first fold without writing into `out`: to say what it takes."""
    check_out(Path(out), cut.recipe.name, "folds")
    _check_groups(Path(out), cut)
    with tempfile.TemporaryDirectory() as folder:
        write_catalog(cut.catalogs[0], _catalog_path(Path(folder), 1))
        yield _plan(cut.recipe, Path(out), Path(folder), 1)


def _whole(data: DataRecipe) -> Catalog:
    """Return the scenes that a recipe trains or validates on, uncut and with their labels as they are."""
    validation = ValidationRecipe(fraction=0) if data.validation.halves else data.validation
    uncut = data.model_copy(update={"validation": validation, "label_noise": None, "external": {}})
    catalog = open_catalog(uncut, check=False, need_splits=False)
    return catalog.where(lambda e: e.split in (TRAIN, VALIDATION))


def _refuse_seen(recipe: Recipe, whole: Catalog) -> None:
    """Refuse chains whose stages see scenes of a group that a fold holds out: none of them would be new."""
    target = whole.with_entries(replace(e, split=HELD_OUT) for e in whole.entries)
    looked_at: set[str] = set()
    for name, start in recipe.initializations.items():
        for stage in _stages(start):
            data, unlabelled = stage.data, stage.task == "reconstruct"
            source = f"{unlabelled} {data.model_dump_json()}"
            if source in looked_at:
                continue
            looked_at.add(source)
            seen = open_unlabelled(data) if unlabelled else open_catalog(data, check=False)
            try:
                refuse_seen_tests(
                    seen,
                    target,
                    stage=stage.name,
                    same_catalog=same_catalog(data, recipe.data),
                    footprint_days=recipe.data.footprint_days,
                    words=Learned(stage.name, "stage", data, not unlabelled).words,
                )
            except LeakageError as error:
                raise LeakageError(
                    f"initialization {name!r} cannot be compared by folds, each of which holds out groups that this "
                    f"stage sees: {error}"
                ) from None


def _stages(start: Initialization) -> Iterator[StageRecipe]:
    """Yield the stages of a chain, those of the chain that it starts from first."""
    if isinstance(start, StagesStart):
        yield from _stages(start.stages[0].start)
        yield from start.stages


def _catalog_path(folder: Path, number: int) -> Path:
    return folder / f"fold-{number}.csv"


def _groups_path(out: Path) -> Path:
    return out / "folds" / "groups.json"


def _check_groups(out: Path, cut: Folds) -> None:
    """Refuse to lay other folds over those that are there: their runs would be of no use."""
    path = _groups_path(out)
    before = read_json(path) if path.is_file() else cut.groups
    if before != cut.groups:
        raise OutputError(
            f"{out} holds {len(before)} folds of other groups than these {len(cut.groups)}. Choose another folder, or "
            "compare with as many folds and the same groups."
        )


def _plan(recipe: Recipe, out: Path, catalogs: Path, number: int) -> Plan:
    """Plan one fold: the recipe, with the catalog of the fold and without test sets of its own."""
    data = recipe.data.model_copy(
        update={
            **dict.fromkeys(("dataset", "root", "level", "test")),
            **dict.fromkeys(("classes", "drop", "same_scenes"), ()),
            **{name: {} for name in ("options", "label_values", "tests", "external")},
            "catalog": str(_catalog_path(catalogs, number).resolve()),
        }
    )
    # The recipe's own test sets take no part; of what is held out the recipe may say it, or the labels' files do.
    ruled = tuple(name for name in recipe.rule_labelled if name == HELD_OUT)
    own = recipe.model_copy(update={"data": data, "tests": (HELD_OUT,), "rule_labelled": ruled})
    try:
        plan = plan_comparison(own, out / "folds" / str(number), stages_looked=True)
    except SartransferError as error:
        raise type(error)(f"fold {number}: {error}") from error
    return replace(plan, runs=tuple(replace(run, fold=number) for run in plan.runs))


def _share_stages(plan: Plan, out: Path) -> None:
    """Let a fold find the links of chains that another has trained: they see none of the groups, and are the same."""
    if any(isinstance(s, StagesStart) for s in plan.recipe.initializations.values()):
        (plan.out / "runs").mkdir(parents=True, exist_ok=True)
        (out / "stages").mkdir(exist_ok=True)
        with suppress(OSError):  # it is there, or there are no links here: then each fold trains its own
            (plan.out / "stages").symlink_to(Path("..", "..", "stages"), target_is_directory=True)


@dataclass(frozen=True, slots=True)
class _Counted:
    """Tells a watcher of the runs of one fold as of some among those of all folds."""

    watcher: Watcher
    number: int
    folds: int

    def warn(self, warnings: Sequence[str]) -> None:
        self.watcher.warn(warnings)

    def run(self, number: int, of: int, name: str, state: str) -> None:
        self.watcher.run(number + self.number * of, of * self.folds, name, state)

    def epoch(self, name: str, epoch: int, of: int, row: dict[str, Any]) -> None:
        self.watcher.epoch(name, epoch, of, row)
