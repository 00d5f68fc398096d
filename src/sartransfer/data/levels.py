"""Labels in levels (``settlement/high density/skyscrapers``): how many of them count, and classes left out."""

from collections.abc import Sequence
from dataclasses import replace

from sartransfer.catalog import Catalog
from sartransfer.errors import CatalogError, RecipeError, one_of

SEPARATOR = "/"


def cut_label(category: str, level: int) -> str:
    """Return the first `level` parts of a label; one of fewer parts stays whole. Parts are trimmed of spaces.

    Raises `CatalogError` for a label with an empty part (``water//lake``).
    """
    parts = [p.strip() for p in category.split(SEPARATOR)]
    if not all(parts):
        raise CatalogError(
            f"the class {category!r} has an empty part. Write levels as settlement/high density/skyscrapers."
        )
    return SEPARATOR.join(parts[:level])


def take_level(catalog: Catalog, level: int | None = None, drop: Sequence[str] = ()) -> Catalog:
    """Return a catalog of patches whose labels have `level` parts at most, without the classes in `drop`.

    Args:
        catalog: of patches, each with a class. level: how many parts of a label count; None: all of it.
        drop: names of classes as they are at that level; their patches are left out.

    The classes become those that remaining patches have, in the order of the catalog's (sorted, where it names
    none). With neither `level` nor `drop` the catalog is returned as it is.

    Raises:
        RecipeError: scenes with label rasters, or a name in `drop` that is no class.
        CatalogError: a label with an empty part, a class that holds another one (``settlement`` beside
            ``settlement/high density``), or fewer than two classes left.
    """
    if level is None and not drop:
        return catalog
    rasters = next((e for e in catalog.entries if e.label is not None), None)
    if rasters is not None:
        raise RecipeError(
            f"data.level and data.drop are for patches with one class each; {rasters.id!r} has a label raster. "
            "Leave them out; with data.label_values a raster's values may be joined or ignored."
        )
    short = {c: c if level is None else cut_label(c, level) for c in _categories(catalog)}
    # A patch without any class stays: whether that is an error is not for the levels to say.
    entries = [e if e.category is None else replace(e, category=short[e.category]) for e in catalog.entries]
    known = tuple(dict.fromkeys(short.values()))
    for name in drop:
        if name not in known:
            raise RecipeError(one_of("data.drop", name, known))
    entries = [e for e in entries if e.category not in drop]
    left = {e.category for e in entries}
    classes = tuple(c for c in known if c in left)
    if len(classes) < 2:
        raise CatalogError(
            f"catalog {catalog.name!r}: {len(classes)} class(es) remain with data.level={level} and "
            f"data.drop={list(drop)}: {', '.join(classes) or 'none'}. At least two are needed."
        )
    for one in classes if level is not None else ():
        inside = [c for c in classes if c.startswith(one + SEPARATOR)]
        if inside:
            raise CatalogError(
                f"catalog {catalog.name!r}, data.level={level}: the class {one!r} holds the class {inside[0]!r}; a "
                f"patch would belong to both. Label its patches to that level, or leave one of the two out "
                f"(data.drop), or take a lower level."
            )
    return replace(catalog, entries=tuple(entries), classes=classes)


def _categories(catalog: Catalog) -> tuple[str, ...]:
    """All labels, those the catalog names first and in its order."""
    used = {e.category for e in catalog.entries if e.category is not None}
    return tuple(dict.fromkeys((*catalog.classes, *sorted(used))))
