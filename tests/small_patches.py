"""Small catalogs of patches, each with one class: without files, and cities of noise in a catalog file."""

from pathlib import Path

import numpy as np
from PIL import Image

from sartransfer.catalog import Asset, Catalog, Entry, write_catalog
from sartransfer.radar.units import parse_unit
from sartransfer.recipe import DataRecipe
from sartransfer.scene import Band

AMPLITUDE = (Band("amplitude", parse_unit("amplitude"), "HH"),)


def patches(labels, groups=None, split=None):
    """A catalog of patches without files."""
    groups = groups or [None] * len(labels)
    entries = tuple(
        Entry(f"p{i}", (Asset(Path("x.png")),), category=c, group=g, split=split)
        for i, (c, g) in enumerate(zip(labels, groups, strict=True))
    )
    return Catalog("c", entries, tuple(dict.fromkeys(labels)))


def write_png(path, rng, size=16):
    """Noise of 16 bits."""
    Image.fromarray(rng.integers(0, 65000, (size, size)).astype(np.uint16)).save(path)
    return path


def write_cities(folder):
    """Six cities of 30 patches, imbalanced, in a catalog file; each patch its own noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    entries = []
    for city in "abcdef":
        for i in range(30):
            label = (
                "town/dense" if i < 18 else "town/open" if i < 22 else "water/sea" if i < 28 else "odd/odd"
            )
            path = write_png(folder / f"{city}{i}.png", rng)
            entries.append(
                Entry(f"{city}{i}", (Asset(path, "image", AMPLITUDE),), category=label, group=city)
            )
    classes = tuple(dict.fromkeys(e.category for e in entries))
    return write_catalog(Catalog("cities", tuple(entries), classes), folder / "catalog.csv")


def recipe_of(path, **more):
    """The data part of a recipe: those cities at level 1, without what is odd."""
    return DataRecipe.model_validate({"catalog": str(path), "level": 1, "drop": ["odd"]} | more)


TESTS = {"test1": {"per_class": 9, "seed": 3}, "test2": {"groups": ["b", "e"]}}


def ids(catalog, split):
    """The ids of a split."""
    return {e.id for e in catalog.in_split(split)}
