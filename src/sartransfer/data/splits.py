"""Splits by whole group or by patch, folds, and label fractions; every draw is a function of the seed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from sartransfer.catalog import TRAIN, VALIDATION, Catalog, Entry
from sartransfer.errors import CatalogError, RecipeError, nearest
from sartransfer.textfile import composed

LISTED = 20  # names of groups that a message lists at most
FEW = 5  # ids of scenes
TEST_FIX = "Name more groups in the column `group`, or fill the column `split` of the catalog."
VALIDATION_FIX = (
    "Name more groups in the catalog's column `group`, give some scenes the split `validation` there, validate on "
    "halves of scenes (data.validation.halves), or do without: data.validation.fraction: 0 and training.weights: last."
)
OFF = 0.2  # of a fraction: by how much more the share that is taken may be another without a word
_PER_CLASS = 1  # keeps this draw's stream apart from those of others with the same seed


def assign_validation(catalog: Catalog, fraction: float, seed: int) -> Catalog:
    """Move whole groups from training to validation, as near to `fraction` of the training scenes as can be.

    Args:
        catalog: with a split ``train`` and no split ``validation``.
        fraction: of the training scenes, between 0 and 1.
        seed: of the draw.

    Entries without a group are a group of their own. Where every group is of one class the draw is made class
    by class. At least one group goes, and at least one stays. Raises `CatalogError` if there are fewer than
    two groups, or validation exists already.
    """
    if catalog.in_split(VALIDATION):
        raise CatalogError(
            f"catalog {catalog.name!r} has a validation split already. Take it, or clear it first."
        )
    return _draw(catalog, TRAIN, VALIDATION, fraction, seed)


def assign_test(catalog: Catalog, fraction: float, seed: int, name: str = "test") -> Catalog:
    """Split the entries that have no split into ``train`` and the test set `name`, by whole group.

    Args:
        catalog: with at least two groups among the entries without a split.
        fraction: of these entries, between 0 and 1.
        seed: of the draw.
        name: of the test set; must not exist.

    Drawn as in `assign_validation`. Raises `CatalogError` as there, or if the name is taken.
    """
    _refuse_taken(catalog, name)
    drawn = _draw(catalog, None, name, fraction, seed)
    return drawn.with_entries(e if e.split else replace(e, split=TRAIN) for e in drawn.entries)


def hold_out_groups(catalog: Catalog, tests: Mapping[str, Sequence[str]]) -> Catalog:
    """Make test sets of whole groups (unseen collections); what else there is to train on is ``train``.

    Args:
        catalog: taken from are its entries in ``train``, or all where no entry has a split.
        tests: name of the test set -> names of its groups. May be empty: then all of these become ``train``.

    Test sets and a validation that are there stay as they are.

    Raises:
        RecipeError: a group that does not exist, or is named twice.
        CatalogError: a name that is taken, or a group of which a part stands in another split.
    """
    source = TRAIN if any(e.split for e in catalog.entries) else None
    groups = {e.group: e for e in catalog.entries if e.group and e.split == source}
    elsewhere = {e.group: e.split for e in catalog.entries if e.group and e.split not in (source, None)}
    test_of: dict[str | None, str] = {}
    for name, wanted in tests.items():
        _refuse_taken(catalog, name)
        for group in map(composed, wanted):
            where = f"data.tests.{name}.groups"
            if group in elsewhere:
                raise CatalogError(
                    f"{where}: group {group!r} stands in the split {elsewhere[group]!r} of catalog {catalog.name!r} "
                    "already. Name groups of `train`, or clear the catalog's `split` column."
                )
            if group not in groups:
                raise RecipeError(_no_group(where, group, sorted(g for g in groups if g)))
            if group in test_of:
                raise RecipeError(f"{where}: group {group!r} is in {test_of[group]!r} already; name it once.")
            test_of[group] = name
    return catalog.with_entries(
        replace(e, split=test_of.get(e.group, TRAIN)) if e.split == source else e for e in catalog.entries
    )


def draw_per_class(catalog: Catalog, name: str, count: int, seed: int) -> Catalog:
    """Move `count` patches of every class from ``train`` to the test set `name`: it shares groups with training.

    Args:
        catalog: of patches, validation and tests of whole groups set aside already. name: of the test set.
        count: patches of each class. seed: of the draw.

    Each class is shuffled by the seed, those of validation and of earlier draws too, and the first in training are
    taken: another validation changes the test set only where it must. Raises `CatalogError`, naming the classes, if
    one has too few patches (training must keep one of each), if the name is taken, or for scenes with rasters.
    """
    _refuse_taken(catalog, name)
    rasters = next((e for e in catalog.in_split(TRAIN) if e.category is None), None)
    if rasters is not None:
        raise CatalogError(
            f"data.tests.{name}.per_class: entry {rasters.id!r} has no class. Patches of a class can be drawn where "
            "each has one; of scenes with label rasters name whole groups (data.tests: {...: {groups: [...]}})."
        )
    chosen: set[str] = set()
    short = []
    for index, category in enumerate(catalog.classes):
        rng = np.random.default_rng([_PER_CLASS, seed, index])
        members = [e for e in catalog.entries if e.category == category]
        shuffled = [members[i] for i in rng.permutation(len(members))]
        left = [e.id for e in shuffled if e.split == TRAIN]
        if len(left) <= count:
            short.append(f"{category} ({len(left)})")
        chosen |= set(left[:count])
    if short:
        raise CatalogError(
            f"data.tests.{name}: {count} patches a class cannot be drawn, and one be left to train on, of "
            f"{', '.join(short)} in the groups that training keeps. Lower per_class, take fewer groups away, or drop "
            "the class (data.drop)."
        )
    return catalog.with_entries(replace(e, split=name) if e.id in chosen else e for e in catalog.entries)


def group_folds(catalog: Catalog, n: int, seed: int, name: str = "test") -> tuple[Catalog, ...]:
    """Return `n` catalogs for cross-validation; in each, other groups are the test set `name`.

    Entries of ``train``, ``validation`` or no split take part, each in the test set of exactly one fold and
    in ``train`` of the others; test sets that exist are left alone. The largest groups are dealt first, each
    to the fold that is smallest then; ties are broken by `seed`. Raises `CatalogError` if there are fewer
    groups than folds, or for a seed below 0.
    """
    if seed < 0:
        raise CatalogError(f"seed={seed} must be 0 or more.")
    taking_part = [e for e in catalog.entries if e.split in (TRAIN, VALIDATION, None)]
    if name in (*catalog.test_sets, TRAIN, VALIDATION):
        raise CatalogError(f"catalog {catalog.name!r} has a split {name!r} already. Give another name.")
    sizes = _sizes(taking_part)
    if not 2 <= n <= len(sizes):
        raise CatalogError(
            f"n={n} folds cannot be made of {len(sizes)} groups: from 2 to the number of groups."
        )
    groups = list(sizes)
    rng = np.random.default_rng(seed)
    shuffled = [groups[i] for i in rng.permutation(len(groups))]
    filled = [0] * n
    fold_of: dict[str, int] = {}
    for group in sorted(shuffled, key=lambda g: -sizes[g]):
        fold_of[group] = filled.index(min(filled))
        filled[fold_of[group]] += sizes[group]
    members = {e.id for e in taking_part}
    return tuple(
        catalog.with_entries(
            replace(e, split=name if fold_of[_group(e)] == k else TRAIN) if e.id in members else e
            for e in catalog.entries
        )
        for k in range(n)
    )


def take_fraction(catalog: Catalog, fraction: float, seed: int) -> Catalog:
    """Keep a `fraction` of the training scenes, as if the others had no label; other splits stay whole.

    Nested: with one seed a smaller fraction lies within a larger one. Patches are drawn class by class. At
    least one scene (one a class) is kept. Raises `CatalogError` for a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise CatalogError(f"fraction={fraction} is not allowed: above 0, up to 1.")
    rng = np.random.default_rng(seed)
    kept: set[str] = set()
    train = catalog.in_split(TRAIN)
    for category in sorted({e.category or "" for e in train}):
        members = [e.id for e in train if (e.category or "") == category]
        order = rng.permutation(len(members))
        kept |= {members[i] for i in order[: _share_of(len(members), fraction)]}
    return catalog.where(lambda e: e.split != TRAIN or e.id in kept)


def fraction_warnings(catalog: Catalog, fractions: Sequence[float]) -> list[str]:
    """Say of which `fractions` the share that `take_fraction` takes is another by more than a fifth of it."""
    classes = Counter(e.category or "" for e in catalog.in_split(TRAIN))
    number = sum(classes.values())
    found = []
    for fraction in fractions:
        taken = sum(_share_of(size, fraction) for size in classes.values())
        if number and abs(taken / number - fraction) > OFF * fraction:
            found.append(
                f"fractions: {fraction:.4g} is not to be had of {number} training scenes: {taken} of them are taken, "
                f"{taken / number:.1%} of the labels. Where results say {fraction:.4g}, it is that share."
            )
    return found


def _share_of(number: int, fraction: float) -> int:
    """Return how many of `number` scenes (of one class) a fraction takes: the nearest, half up, and at least one."""
    return max(1, int(np.floor(fraction * number + 0.5)))


def left_out(catalog: Catalog) -> list[str]:
    """Say how many entries have no split while others have one: nothing trains on them, nor are they tested on."""
    bare = [e.id for e in catalog.entries if not e.split]
    if not bare or len(bare) == len(catalog.entries):
        return []
    listed = ", ".join(bare[:FEW]) + (f" and {len(bare) - FEW} more" if len(bare) > FEW else "")
    return [
        f"{len(bare)} of {len(catalog.entries)} scenes have no split and are left out: {listed}. Fill the column "
        "`split` for them too (train, validation or the name of a test set)."
    ]


def _refuse_taken(catalog: Catalog, name: str) -> None:
    if name in (*catalog.splits, TRAIN, VALIDATION):
        raise CatalogError(f"catalog {catalog.name!r} has a split {name!r} already. Give another name.")


def _no_group(where: str, group: str, known: list[str]) -> str:
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    listed = f"Must be one of: {', '.join(known[:LISTED])}{more}." if known else "No entry has a group."
    return f"{where}={group!r} is not known. {listed}{nearest(group, known)}"


def _group(entry: Entry) -> str:
    return f"group {entry.group}" if entry.group else f"entry {entry.id}"


def _sizes(entries: Sequence[Entry]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for entry in entries:
        sizes[_group(entry)] = sizes.get(_group(entry), 0) + 1
    return sizes


def _draw(catalog: Catalog, source: str | None, target: str, fraction: float, seed: int) -> Catalog:
    if not 0 < fraction < 1:
        raise CatalogError(f"fraction={fraction} is not allowed: between 0 and 1.")
    entries = [e for e in catalog.entries if e.split == source]
    if len(_sizes(entries)) < 2:
        raise CatalogError(
            f"catalog {catalog.name!r}: {target!r} cannot be drawn from {len(entries)} entries in "
            f"{len(_sizes(entries))} group(s) of split {source!r}: at least two groups are needed. "
            + (VALIDATION_FIX if target == VALIDATION else TEST_FIX)
        )
    rng = np.random.default_rng(seed)
    chosen: set[str] = set()
    for stratum in _strata(entries):
        chosen |= _nearest_subset(_sizes(stratum), fraction, rng)
    return catalog.with_entries(
        replace(e, split=target) if e.split == source and _group(e) in chosen else e for e in catalog.entries
    )


def _strata(entries: list[Entry]) -> list[list[Entry]]:
    """Class by class where no group holds two classes and every class has two groups; else all at once."""
    by_class: dict[str, list[Entry]] = {}
    for entry in entries:
        by_class.setdefault(entry.category or "", []).append(entry)
    strata = [by_class[c] for c in sorted(by_class)]
    counts = [len(_sizes(s)) for s in strata]
    torn = sum(counts) != len(_sizes(entries))
    return [entries] if torn or min(counts) < 2 else strata


def _nearest_subset(sizes: dict[str, int], fraction: float, rng: np.random.Generator) -> set[str]:
    """Draw groups whose sizes add up as near to the fraction as any choice can; not none and not all.

    Subset sums as the bits of an integer: bit s of reach[i] says that some of the first i groups add up to s.
    """
    groups = list(sizes)
    order = [groups[i] for i in rng.permutation(len(groups))]
    total = sum(sizes.values())
    goal = fraction * total
    mask = (1 << total) - 1  # sums below the total: at least one group stays
    reach = [1]
    for group in order:
        reach.append((reach[-1] | reach[-1] << sizes[group]) & mask)
    last = reach[-1]
    best = min((s for s in range(1, total) if last >> s & 1), key=lambda s: abs(s - goal))
    chosen = set()
    for i in range(len(order), 0, -1):
        if not reach[i - 1] >> best & 1:
            chosen.add(order[i - 1])
            best -= sizes[order[i - 1]]
    return chosen
