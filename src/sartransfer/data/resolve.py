"""From the data part of a recipe to scenes in splits, and to what a network trains on."""

import inspect
from dataclasses import dataclass, replace
from pathlib import Path

from sartransfer.catalog import IGNORE_INDEX, TRAIN, VALIDATION, Catalog, read_catalog
from sartransfer.contract import InputContract
from sartransfer.data.datasets import DATASETS
from sartransfer.data.halves import take_halves
from sartransfer.data.leakage import Leak, check_leakage, refuse_leaks
from sartransfer.data.levels import take_level
from sartransfer.data.noise import flip_labels
from sartransfer.data.normalize import fit_normalization, resolve_contract
from sartransfer.data.patches import SceneStore
from sartransfer.data.splits import (
    assign_test,
    assign_validation,
    draw_per_class,
    hold_out_groups,
    take_fraction,
)
from sartransfer.errors import CatalogError, RecipeError, one_of
from sartransfer.readers import open_entry, refuse_many_classes, refuse_unsaid_labels
from sartransfer.recipe import DataRecipe, ExternalRecipe
from sartransfer.textfile import composed


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What one label fraction trains and validates on."""

    catalog: Catalog
    """All splits; training reduced to the fraction."""
    contract: InputContract
    """Inputs, with normalization from these training scenes alone."""
    train: SceneStore
    validation: SceneStore | None


def open_catalog(
    data: DataRecipe,
    *,
    check: bool = True,
    need_training: bool = True,
    need_splits: bool = True,
    cut: bool = True,
) -> Catalog:
    """Return the catalog that a recipe names, with its classes, its splits and a clean validation.

    Labels are cut to their level and classes left out first; then test sets of whole groups are taken out, then
    validation by whole groups (unless the catalog has one), then test sets of so many patches a class, from the
    groups that training keeps; then test sets from other data join, and training scenes are cut in halves; training
    labels are made wrong last, where that is asked for. With `check`, the same
    scene, footprint, content or continued image on both sides of a split is an error (`LeakageError`), except as
    `same_scenes` says. Without `need_training` a catalog of test sets alone will do; without `need_splits`
    one that has no splits, and for which the recipe draws no test set, is all ``train``. Without `cut` scenes are left
    whole where the recipe cuts them in halves.
    """
    catalog = take_level(_named(data), data.level, data.drop)
    catalog = _with_classes(catalog, data)
    if not catalog.entries:
        raise CatalogError(f"catalog {catalog.name!r} is empty.")
    if data.tests:
        catalog = hold_out_groups(catalog, {n: t.groups for n, t in data.tests.items() if t.groups})
    elif not any(e.split for e in catalog.entries):
        if data.test is None and need_splits:
            raise CatalogError(
                f"catalog {catalog.name!r} has no splits. Fill the `split` column (train, validation, names of test "
                "sets), or have a test set drawn by group: data.test: {fraction: 0.2}; or name groups: data.tests."
            )
        drawn = data.test
        catalog = assign_test(catalog, drawn.fraction, drawn.seed) if drawn else hold_out_groups(catalog, {})
    if not catalog.in_split(TRAIN):
        if not need_training:
            return catalog
        raise CatalogError(
            f"catalog {catalog.name!r} has no scene in the split 'train': nothing to learn from."
        )
    halves = data.validation.halves
    if halves is None and data.validation.fraction > 0 and not catalog.in_split(VALIDATION):
        catalog = assign_validation(catalog, data.validation.fraction, data.validation.seed)
    for name, test in data.tests.items():
        if test.per_class is not None:
            catalog = draw_per_class(catalog, name, test.per_class, test.seed)
    for name, external in data.external.items():
        catalog = _with_external(catalog, name, external)
    if check:  # before scenes are cut in halves, which share group and footprint and no pixel
        refuse_leaks(find_leaks(catalog, data), allowed=data.same_scenes, drawn=drawn_tests(data))
    if halves is not None and cut:
        catalog = take_halves(catalog, halves)
    return flip_labels(catalog, data.label_noise) if data.label_noise else catalog


def find_leaks(catalog: Catalog, data: DataRecipe) -> list[Leak]:
    """Return what stands on both sides of the splits of a recipe's catalog, before scenes are cut in halves."""
    return check_leakage(catalog, footprint_days=data.footprint_days)


def same_scenes(data: DataRecipe) -> tuple[str, ...]:
    """Return the test sets that are of the scenes that are trained on: declared so, or drawn from them by patch."""
    return tuple(dict.fromkeys((*data.same_scenes, *drawn_tests(data))))


def open_training_data(
    catalog: Catalog, data: DataRecipe, *, fraction: float = 1.0, seed: int = 0
) -> TrainingData:
    """Return training and validation scenes of a label fraction, with a contract fitted on its training pixels.

    Raises `CatalogError` where labels are of 0 and 255 alone and nothing says what 255 means.
    """
    for split in (TRAIN, VALIDATION):
        refuse_unsaid_labels(catalog, catalog.in_split(split))
    reduced = take_fraction(catalog, fraction, seed) if fraction < 1 else catalog
    entries = reduced.in_split(TRAIN)
    contract = resolve_contract(data.bands, open_entry(entries[0]))
    if data.normalization == "training":
        contract = fit_normalization(contract, (open_entry(entry) for entry in entries))
    train = SceneStore(reduced, entries, contract, chip=data.chip, cache=data.cache)
    held = reduced.in_split(VALIDATION)
    validation = SceneStore(reduced, held, contract, chip=data.chip, cache=data.cache) if held else None
    return TrainingData(reduced, contract, train, validation)


def drawn_tests(data: DataRecipe) -> tuple[str, ...]:
    """Return the test sets that are drawn patch by patch from the groups that are trained on."""
    return tuple(name for name, test in data.tests.items() if test.per_class is not None)


def _with_external(catalog: Catalog, name: str, external: ExternalRecipe) -> Catalog:
    """Add the scenes of another catalog as the test set `name`; its classes and label values must agree with ours."""
    where = f"data.external.{name}"
    if name in catalog.splits:
        raise RecipeError(
            f"{where}: catalog {catalog.name!r} has a split {name!r} already. Give another name."
        )
    other = _named(external, where)
    if other.classes and other.classes != catalog.classes:
        raise RecipeError(
            f"{where}: its classes are {', '.join(other.classes)}; ours are {', '.join(catalog.classes)}. They must be "
            "the same, in the same order."
        )
    found = other.in_split(external.split) if external.split else other.entries
    if not found:
        raise RecipeError(f"{where}: " + one_of("split", external.split, other.splits))
    ours, theirs = (c.label_values or _plain(catalog) for c in (catalog, other))
    differ = sorted(v for v in ours.keys() & theirs.keys() if ours[v] != theirs[v])
    if differ:
        raise RecipeError(
            f"{where}: label value {differ[0]} means another class there than in {catalog.name!r}. Write the labels of "
            "one of them anew, so that a value means one thing."
        )
    theirs_named = (  # a name of a group means nothing in another dataset: images and places tell what is the same
        replace(e, id=f"{name}/{e.id}", group=f"{name}/{e.group}" if e.group else None, split=name)
        for e in found
    )
    entries = (*catalog.entries, *theirs_named)
    return replace(
        catalog,
        entries=entries,
        label_values={} if ours == theirs == _plain(catalog) else {**ours, **theirs},
        source=f"{catalog.source}; {name}: {other.source}",
    )


def _plain(catalog: Catalog) -> dict[int, int]:
    return {i: i for i in (*range(len(catalog.classes)), IGNORE_INDEX)}


def _named(data: DataRecipe | ExternalRecipe, where: str = "data") -> Catalog:
    if data.catalog is not None:
        return read_catalog(Path(data.catalog))
    if data.dataset not in DATASETS:
        raise RecipeError(one_of(f"{where}.dataset", data.dataset, DATASETS))
    if data.root is None:
        raise RecipeError(f"{where}.dataset={data.dataset!r} needs {where}.root: the folder where it lies.")
    options = data.options if isinstance(data, DataRecipe) else {}
    try:
        inspect.signature(DATASETS[data.dataset]).bind(Path(data.root), **options)
    except TypeError as error:
        raise RecipeError(f"{where}.options: dataset {data.dataset!r} cannot take them: {error}.") from None
    return DATASETS[data.dataset](Path(data.root), **options)


def _with_classes(catalog: Catalog, data: DataRecipe) -> Catalog:
    classes = tuple(map(composed, data.classes or catalog.classes))
    if not classes:
        raise RecipeError(
            f"catalog {catalog.name!r} names no classes; give data.classes in the order of their labels."
        )
    values = catalog.label_values
    if data.label_values:
        values = {}
        for value, told in data.label_values.items():
            name = composed(told)
            if name not in (*classes, "ignore"):
                raise RecipeError(one_of(f"data.label_values[{value}]", name, (*classes, "ignore")))
            values[value] = IGNORE_INDEX if name == "ignore" else classes.index(name)
    elif data.classes and catalog.classes and classes != catalog.classes:
        if all(e.category is not None and e.label is None for e in catalog.entries):  # no raster, no values
            raise RecipeError(
                f"data.classes {list(data.classes)} differ from the catalog's {list(catalog.classes)}. Leave them out: "
                "scenes name their classes (the column `class`). Their order is the catalog's, by its header "
                '(# {"classes": [...]}) or else by the alphabet; data.drop leaves classes out.'
            )
        raise RecipeError(
            f"data.classes {list(data.classes)} differ from the catalog's {list(catalog.classes)}. "
            "Leave them out, or say with data.label_values what each value means."
        )
    found = replace(catalog, classes=classes, label_values=values)
    if any(e.label is not None and e.category is None for e in found.entries):
        refuse_many_classes(found)
    return found
