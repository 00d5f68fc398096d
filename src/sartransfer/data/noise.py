"""Training labels made wrong on purpose: what a loss makes of them is then a measurement."""

from dataclasses import replace

import numpy as np

from sartransfer.catalog import TRAIN, Catalog
from sartransfer.errors import CatalogError, RecipeError, one_of
from sartransfer.recipe import LabelNoiseRecipe

_FLIPS = 2  # keeps this draw's stream apart from those of others with the same seed


def flip_labels(catalog: Catalog, recipe: LabelNoiseRecipe) -> Catalog:
    """Return the catalog with a share of the training patches of each class labelled wrongly.

    Args:
        catalog: of patches; only its split ``train`` is touched, so draw validation and test sets first.
        recipe: share, kind and seed. ``uniform``: to any other class, each as likely; ``alike``: to the class's
            look-alike (a class without one keeps its labels).

    Of N patches of a class, floor(share N + 1/2) are flipped. Nested: with one seed and kind, a larger share
    flips the same patches to the same classes, and more. Never is a label flipped to its own class.

    Raises:
        RecipeError: label rasters, an unknown class in ``alike``, or a share that flips nothing.
        CatalogError: a training patch whose class is unknown, or a single class.
    """
    train = catalog.in_split(TRAIN)
    alike = _checked(catalog, recipe)
    number = len(catalog.classes)
    wrong: dict[str, str] = {}
    for index, name in enumerate(catalog.classes):
        members = [e.id for e in train if e.category == name]
        # One stream a class, and all of it drawn whatever the share: that is what makes larger shares nested.
        rng = np.random.default_rng([_FLIPS, recipe.seed, index])
        order = rng.permutation(len(members))
        others = (index + 1 + rng.integers(max(1, number - 1), size=len(members))) % number
        if recipe.kind == "alike" and name not in alike:
            continue
        for place in order[: int(np.floor(recipe.share * len(members) + 0.5))]:
            wrong[members[place]] = alike.get(name) or catalog.classes[others[place]]
    if not wrong:
        raise RecipeError(
            f"data.label_noise.share={recipe.share:g} changes no label: the classes it is for have too few training "
            "patches. Give a larger share, or leave label_noise out."
        )
    flipped = {e.id: replace(e, category=wrong[e.id]) for e in train if e.id in wrong}
    return catalog.with_entries(flipped.get(e.id, e) for e in catalog.entries)


def _checked(catalog: Catalog, recipe: LabelNoiseRecipe) -> dict[str, str]:
    """Return the look-alikes, after a look at all that could be wrong."""
    if any(e.label is not None for e in catalog.entries):
        raise RecipeError(
            "data.label_noise is for patches with one class each; these scenes have label rasters. Leave it out."
        )
    if len(catalog.classes) < 2:
        raise CatalogError(f"catalog {catalog.name!r} has one class: no label can be flipped to another.")
    for entry in catalog.in_split(TRAIN):
        if entry.category not in catalog.classes:
            raise CatalogError(f"entry {entry.id!r}: {one_of('class', entry.category, catalog.classes)}")
    for name, other in recipe.alike.items():
        for word in (name, other):
            if word not in catalog.classes:
                raise RecipeError(one_of("data.label_noise.alike", word, catalog.classes))
        if name == other:
            raise RecipeError(f"data.label_noise.alike: {name!r} cannot be its own look-alike.")
    return dict(recipe.alike)
