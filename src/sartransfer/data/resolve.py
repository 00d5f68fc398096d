"""From the data part of a recipe to scenes in splits, and to what a network trains on."""

from dataclasses import dataclass, replace
from pathlib import Path

from sartransfer.catalog import IGNORE_INDEX, TRAIN, VALIDATION, Catalog, read_catalog
from sartransfer.contract import InputContract
from sartransfer.data.datasets import DATASETS
from sartransfer.data.leakage import check_leakage, refuse_leaks
from sartransfer.data.normalize import fit_normalization, resolve_contract
from sartransfer.data.patches import SceneStore
from sartransfer.data.splits import assign_test, assign_validation, take_fraction
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

    Validation is drawn from training by whole groups unless the catalog has one. With `check`, the same scene,
    footprint, content or continued image on both sides of a split is an error (`LeakageError`), except for
    test sets that the recipe lists as ``same_scenes``. Without `need_training` a catalog of test sets alone will do.
    """
    catalog = _named(data)
    catalog = _with_classes(catalog, data)
    if not catalog.entries:
        raise CatalogError(f"catalog {catalog.name!r} is empty.")
    if not any(e.split for e in catalog.entries):
        if data.test is None:
            raise CatalogError(
                f"catalog {catalog.name!r} has no splits. Fill the `split` column (train, validation, names of test "
                "sets), or have a test set drawn by group: data.test: {fraction: 0.2}."
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
    if check:
        refuse_leaks(check_leakage(catalog), allowed=data.same_scenes)
    return catalog


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
