"""A catalog looked over before anything is trained on it."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sartransfer.catalog import IGNORE_INDEX, Catalog, Entry
from sartransfer.data.leakage import content_hashes, cut_apart
from sartransfer.errors import SartransferError
from sartransfer.radar.units import Quantity, implausible
from sartransfer.readers import open_entry, read_label
from sartransfer.scene import Scene

SEEN = 40  # scenes looked at before a comparison
CENTRE = 512  # pixels a side of what is looked at in each


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about one entry that should be mended."""

    kind: Literal["missing file", "unreadable", "unit", "label", "empty label", "duplicate"]
    id: str
    """The entry."""
    message: str


def check_catalog(
    catalog: Catalog, *, content: bool = True, progress: Callable[[int, int], None] | None = None
) -> list[Problem]:
    """Return what is wrong with a catalog's files, entry by entry; an empty list is a clean bill.

    Kinds: ``missing file``, ``unreadable`` (damaged, sizes that differ between files, two bands of one name),
    ``unit`` (a band of unknown unit: refused in training; values that belie the
    declared one), ``label`` (another size than the scene, values outside the
    classes), ``empty label`` (nothing but ignored pixels), ``duplicate`` (two entries with one
    image, in one split or two; the two halves of one scene are not).

    Args:
        catalog: to look over.
        content: read every pixel, which finds damaged files and duplicates; False: headers and labels only.
        progress: called with (entries done, entries in all).
    """
    problems: list[Problem] = []
    holders: dict[str, Entry] = {}
    for i, entry in enumerate(catalog.entries):
        found = _missing(entry) or _look(entry, catalog)
        problems += found
        if content and not any(p.kind in ("missing file", "unreadable") for p in found):
            problems += _content(entry, holders)
        if progress:
            progress(i + 1, len(catalog.entries))
    return problems


def unit_warnings(catalog: Catalog) -> list[str]:
    """Say which scenes' values belie the unit that is declared for them, from `SEEN` scenes spread over the catalog."""
    step = max(1, -(-len(catalog.entries) // SEEN))
    found = []
    for entry in catalog.entries[::step]:
        with contextlib.suppress(SartransferError):  # what cannot be read is the runs' to report
            found += [f"scene {entry.id!r}: {message}" for message in belied_units(open_entry(entry))]
    return found


def belied_units(scene: Scene) -> list[str]:
    """Return a sentence for each band whose values, in the centre of the scene, belie its unit."""
    data = scene.read(window=scene.central_window(CENTRE)).data
    odd = (
        (band.name, implausible(values, band.unit)) for band, values in zip(scene.bands, data, strict=True)
    )
    return [f"band {name!r} is {words}" for name, words in odd if words]


def _missing(entry: Entry) -> list[Problem]:
    paths = [a.path for a in entry.assets] + ([entry.label] if entry.label else [])
    return [
        Problem("missing file", entry.id, f"{p} is not there; a catalog's paths are relative to the catalog")
        for p in paths
        if not p.exists()
    ]


def _look(entry: Entry, catalog: Catalog) -> list[Problem]:
    try:
        scene = open_entry(entry)
    except SartransferError as error:
        return [Problem("unreadable", entry.id, str(error))]
    unknown = [b.name for b in scene.bands if b.unit.quantity is Quantity.UNKNOWN]
    problems = []
    if unknown:
        message = f"band(s) of unknown unit: {', '.join(unknown)}. Say what they are in the column `bands`."
        problems.append(Problem("unit", entry.id, message))
    if entry.label is not None:
        try:
            label = read_label(entry, catalog)
        except SartransferError as error:
            return [*problems, Problem("label", entry.id, str(error))]
        if bool(np.all(label == IGNORE_INDEX)):
            problems.append(
                Problem("empty label", entry.id, f"{entry.label} holds nothing but ignored pixels")
            )
    elif entry.category is not None and entry.category not in catalog.classes:
        message = f"class {entry.category!r} is not among {', '.join(catalog.classes)}"
        problems.append(Problem("label", entry.id, message))
    return problems


def _content(entry: Entry, holders: dict[str, Entry]) -> list[Problem]:
    try:
        hashes = content_hashes(entry)
    except SartransferError as error:
        return [Problem("unreadable", entry.id, str(error))]
    found = [holders[h] for h in hashes if h in holders]
    twins = dict.fromkeys(e.id for e in found if e.id != entry.id and not cut_apart(e, entry))
    for value in hashes:
        holders.setdefault(value, entry)
    problems = [Problem("duplicate", entry.id, f"holds the same image as entry {twin!r}") for twin in twins]
    return problems + [Problem("unit", entry.id, message) for message in belied_units(open_entry(entry))]
