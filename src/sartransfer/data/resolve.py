"""From the data part of a recipe to scenes in splits, and to what a network trains on."""

from dataclasses import dataclass, replace
from pathlib import Path

from sartransfer.catalog import IGNORE_INDEX, TRAIN, VALIDATION, Catalog, read_catalog
from sartransfer.contract import InputContract
from sartransfer.data.datasets import DATASETS
from sartransfer.data.leakage import check_leakage, refuse_leaks
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
from sartransfer.readers import open_entry
from sartransfer.recipe import DataRecipe


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What one label fraction trains and validates on."""

    catalog: Catalog
    """All splits; training reduced to the fraction."""
    contract: InputContract
    """Inputs, with normalization from these training scenes alone."""
    train: SceneStore
    validation: SceneStore | None


def open_catalog(data: DataRecipe, *, check: bool = True, need_training: bool = True) -> Catalog:
    """Return the catalog that a recipe names, with its classes, its splits and a clean validation.

    Labels are cut to their level and classes left out first; then test sets of whole groups are taken out, then
    validation by whole groups (unless the catalog has one), then test sets of so many patches a class, from the
    groups that training keeps; training labels are made wrong last, where that is asked for. With `check`, the same
    scene, footprint, content or continued image on both sides of a split is an error (`LeakageError`), except as
    `same_scenes` says. Without `need_training` a catalog of test sets alone will do.
    """
    catalog = take_level(_named(data), data.level, data.drop)
    catalog = _with_classes(catalog, data)
    if not catalog.entries:
        raise CatalogError(f"catalog {catalog.name!r} is empty.")
    if data.tests:
        catalog = hold_out_groups(catalog, {n: t.groups for n, t in data.tests.items() if t.groups})
    elif not any(e.split for e in catalog.entries):
        if data.test is None:
            raise CatalogError(
                f"catalog {catalog.name!r} has no splits. Fill the `split` column (train, validation, names of test "
                "sets), or have a test set drawn by group: data.test: {fraction: 0.2}; or name groups: data.tests."
            )
        catalog = assign_test(catalog, data.test.fraction, data.test.seed)
    if not catalog.in_split(TRAIN):
        if not need_training:
            return catalog
        raise CatalogError(
            f"catalog {catalog.name!r} has no scene in the split 'train': nothing to learn from."
        )
    if data.validation.fraction > 0 and not catalog.in_split(VALIDATION):
        catalog = assign_validation(catalog, data.validation.fraction, data.validation.seed)
    for name, test in data.tests.items():
        if test.per_class is not None:
            catalog = draw_per_class(catalog, name, test.per_class, test.seed)
    if check:
        refuse_leaks(check_leakage(catalog), allowed=data.same_scenes, drawn=_drawn(data))
    return flip_labels(catalog, data.label_noise) if data.label_noise else catalog


def same_scenes(data: DataRecipe) -> tuple[str, ...]:
    """Return the test sets that are of the scenes that are trained on: declared so, or drawn from them by patch."""
    return tuple(dict.fromkeys((*data.same_scenes, *_drawn(data))))


def open_training_data(
    catalog: Catalog, data: DataRecipe, *, fraction: float = 1.0, seed: int = 0
) -> TrainingData:
    """Return training and validation scenes of a label fraction, with a contract fitted on its training pixels."""
    reduced = take_fraction(catalog, fraction, seed) if fraction < 1 else catalog
    entries = reduced.in_split(TRAIN)
    contract = resolve_contract(data.bands, open_entry(entries[0]))
    if data.normalization == "training":
        contract = fit_normalization(contract, (open_entry(entry) for entry in entries))
    train = SceneStore(reduced, entries, contract, chip=data.chip)
    held = reduced.in_split(VALIDATION)
    validation = SceneStore(reduced, held, contract, chip=data.chip) if held else None
    return TrainingData(reduced, contract, train, validation)


def _drawn(data: DataRecipe) -> tuple[str, ...]:
    return tuple(name for name, test in data.tests.items() if test.per_class is not None)


def _named(data: DataRecipe) -> Catalog:
    if data.catalog is not None:
        return read_catalog(Path(data.catalog))
    if data.dataset not in DATASETS:
        raise RecipeError(one_of("data.dataset", data.dataset, DATASETS))
    if data.root is None:
        raise RecipeError(f"data.dataset={data.dataset!r} needs data.root: the folder where it lies.")
    return DATASETS[data.dataset](Path(data.root))


def _with_classes(catalog: Catalog, data: DataRecipe) -> Catalog:
    classes = data.classes or catalog.classes
    if not classes:
        raise RecipeError(
            f"catalog {catalog.name!r} names no classes; give data.classes in the order of their labels."
        )
    values = catalog.label_values
    if data.label_values:
        values = {}
        for value, name in data.label_values.items():
            if name not in (*classes, "ignore"):
                raise RecipeError(one_of(f"data.label_values[{value}]", name, (*classes, "ignore")))
            values[value] = IGNORE_INDEX if name == "ignore" else classes.index(name)
    elif data.classes and catalog.classes and tuple(data.classes) != catalog.classes:
        raise RecipeError(
            f"data.classes {list(data.classes)} differ from the catalog's {list(catalog.classes)}. "
            "Leave them out, or say with data.label_values what each value means."
        )
    return replace(catalog, classes=tuple(classes), label_values=values)
