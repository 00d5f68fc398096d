"""A catalog looked over before anything is trained on it."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sartransfer.catalog import IGNORE_INDEX, TRAIN, Catalog, Entry
from sartransfer.contract import InputContract
from sartransfer.data.leakage import content_hashes, cut_apart
from sartransfer.data.normalize import resolve_contract
from sartransfer.data.patches import category_index
from sartransfer.data.strata import check_strata
from sartransfer.errors import CatalogError, SartransferError
from sartransfer.radar.units import Quantity, implausible
from sartransfer.readers import open_entry, read_label, refuse_unsaid_labels, unsaid_labels
from sartransfer.readers.display import display_warnings
from sartransfer.recipe import BandRecipe, StrataRecipe
from sartransfer.scene import Scene, Window

SEEN = 40  # scenes looked at before a comparison
CENTRE = 512  # pixels a side of what is looked at in each
STRIPE = 512  # rows read at a time where a scene is searched for a valid pixel
LABEL_SECONDS = 20.0  # after which no further label is looked at
UNNAMED = (
    "the catalog names no classes, and its labels were not looked at: check the recipe instead (catalog check RECIPE), "
    'or name them in the catalog\'s header, # {"classes": ["dry", "flooded"]}'
)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about one entry, or all of them, that should be mended."""

    kind: Literal[
        "missing file",
        "unreadable",
        "bands",
        "unit",
        "label",
        "empty label",
        "duplicate",
        "empty scene",
        "strata",
    ]
    id: str
    """The entry; the catalog's name for what is wrong with all of them."""
    message: str


@dataclass(frozen=True, slots=True)
class LabelsSeen:
    """What a look at the labels of training scenes found."""

    seen: int
    of: int
    """Training scenes in all."""
    empty: int
    """Of those looked at, with nothing but ignored pixels."""

    def describe(self) -> str:
        """Return it in words."""
        words = f"of {self.seen} of {self.of} training scenes looked at"
        return words + (f"; {self.empty} hold nothing but ignored pixels" if self.empty else "")


def look_at_labels(
    catalog: Catalog, task: str, *, most: int = SEEN, seconds: float = LABEL_SECONDS
) -> LabelsSeen:
    """Read labels of training scenes, spread over the catalog, as training will.

    Args:
        catalog: with training scenes. task: ``segment`` or ``classify``.
        most: scenes that are looked at. seconds: after which no further one is begun; the first is always looked at.

    Raises:
        InputError, CatalogError: a label is missing, cannot be read, has another size than its scene or a value that is
            no class; nothing but ignored pixels is in any of them; or they are 0 and 255 alone, and nothing says what
            255 means (`readers.unsaid_labels`).
    """
    entries, began = catalog.in_split(TRAIN), time.monotonic()
    seen = empty = 0
    for entry in entries[:: max(1, -(-len(entries) // most))]:
        if seen and time.monotonic() - began > seconds:
            break
        seen += 1
        if task == "segment" or entry.label is not None:
            try:
                empty += bool(np.all(read_label(entry, catalog) == IGNORE_INDEX))
            except SartransferError as error:
                words = str(error)
                named = words if f"entry {entry.id!r}" in words else f"training scene {entry.id!r}: {words}"
                raise type(error)(named) from error
        else:
            category_index(catalog, entry)
    if seen and empty == seen:
        raise CatalogError(
            f"the labels of all {seen} training scenes looked at (of {len(entries)}) hold nothing but ignored pixels. "
            "Say with data.label_values, or in the catalog's header, which value means which class: "
            f"{', '.join(catalog.classes)}."
        )
    if task == "segment":
        refuse_unsaid_labels(catalog, entries)
    return LabelsSeen(seen, len(entries), empty)


def check_catalog(
    catalog: Catalog,
    *,
    content: bool = True,
    bands: Sequence[BandRecipe] | None = None,
    strata: StrataRecipe | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Problem]:
    """Return what is wrong with a catalog's files, entry by entry; an empty list is a clean bill.

    Kinds: ``missing file``, ``unreadable`` (damaged, sizes that differ between files, two bands of one name),
    ``bands`` (not those that a recipe asks for, or in units that cannot be turned into those of the first training
    scene), ``unit`` (a band of unknown unit: refused in training; values that belie the
    declared one; before and after a flood of two quantities), ``label`` (another size or place than the scene, values
    outside the classes, a split's masks of 0 and 255 alone where nothing says what 255 means; once, of a catalog with
    labels that names no classes: labels are not looked at then), ``empty label`` (nothing
    but ignored pixels), ``duplicate`` (two entries with one image, in one split or two; the two halves of one scene are
    not), ``empty scene`` (no pixel is valid), ``strata`` (a test scene without what a recipe's strata need).

    Args:
        catalog: to look over.
        content: read every pixel, which finds damaged files and duplicates; False: headers and labels only.
        bands: of a recipe, which every scene must have (empty: those of the first training scene); None: each scene's
            own are looked at.
        strata: of a recipe, by which its test scenes are scored.
        progress: called with (entries done, entries in all).
    """
    problems: list[Problem] = []
    holders: dict[str, Entry] = {}
    contract: InputContract | None = None
    if bands is not None:
        contract, problems = _resolve(catalog, bands)
    refused = {problem.id for problem in problems}
    if not catalog.classes and any(e.label is not None for e in catalog.entries):
        problems = [Problem("label", catalog.name, UNNAMED), *problems]
    for i, entry in enumerate(catalog.entries):
        found = _missing(entry) or _look(
            entry, catalog, contract, own=bands is None, done=entry.id in refused
        )
        problems += found
        if strata is not None and entry.split in catalog.test_sets and not _missing(entry):
            problems += _without_strata(strata, entry)
        if content and not any(p.kind in ("missing file", "unreadable") for p in found):
            problems += _content(entry, holders, contract)
        if progress:
            progress(i + 1, len(catalog.entries))
    return problems + _unsaid(catalog)


def unit_warnings(catalog: Catalog) -> list[str]:
    """Say which scenes' values belie the unit that is declared for them, or were shown by a stretch made for others.

    And which hold no value at all. `SEEN` scenes are looked at, spread over the catalog.
    """
    step = max(1, -(-len(catalog.entries) // SEEN))
    found: list[str] = []
    for entry in catalog.entries[::step]:
        with contextlib.suppress(SartransferError):  # what cannot be read is the runs' to report
            scene = open_entry(entry)
            odd = [*belied_units(scene), *display_warnings(scene)]
            if all(holds_nothing(scene, (band.name,)) for band in scene.bands):
                odd.append("no pixel is valid. Mend it, or leave it out.")
            found += [f"scene {entry.id!r}: {message}" for message in odd]
    return found


def belied_units(scene: Scene) -> list[str]:
    """Return a sentence for each band whose values, in the centre of the scene, belie its unit."""
    data = scene.read(window=scene.central_window(CENTRE)).data
    odd = (
        (band.name, implausible(values, band.unit)) for band, values in zip(scene.bands, data, strict=True)
    )
    return [f"band {name!r} is {words}" for name, words in odd if words]


def holds_nothing(scene: Scene, bands: Sequence[str] | None = None) -> bool:
    """Say whether no pixel of a scene has a value in each of these bands (all); its centre is looked at first."""
    return _nowhere(scene, lambda window: scene.read(bands, window).valid)


def _nowhere(scene: Scene, valid: Callable[[Window], NDArray[np.bool_]]) -> bool:
    """Say whether `valid` is true of no pixel; most scenes are done with at their centre, no part is read at once."""
    if valid(scene.central_window(CENTRE)).any():
        return False
    rows = range(0, scene.height, STRIPE)
    stripes = (Window(row, 0, min(STRIPE, scene.height - row), scene.width) for row in rows)
    return not any(valid(stripe).any() for stripe in stripes)


def _unsaid(catalog: Catalog) -> list[Problem]:
    """Return the first label of each split whose 255 nothing explains; entries without a split are a set too."""
    sets = ([e for e in catalog.entries if e.split == split] for split in (*catalog.splits, None))
    found = [unsaid_labels(catalog, entries) for entries in sets]
    return [Problem("label", entry.id, words) for entry, words in filter(None, found)]


def _without_strata(strata: StrataRecipe, entry: Entry) -> list[Problem]:
    try:
        check_strata(strata, entry)
    except SartransferError as error:
        return [Problem("strata", entry.id, str(error))]
    return []


def _missing(entry: Entry) -> list[Problem]:
    paths = [a.path for a in entry.assets] + ([entry.label] if entry.label else [])
    return [
        Problem("missing file", entry.id, f"{p} is not there; a catalog's paths are relative to the catalog")
        for p in paths
        if not p.exists()
    ]


def _resolve(catalog: Catalog, bands: Sequence[BandRecipe]) -> tuple[InputContract | None, list[Problem]]:
    """Return the inputs that `bands` mean for the first training scene that has them, and what ails those before it."""
    problems: list[Problem] = []
    for entry in catalog.in_split(TRAIN):
        with contextlib.suppress(SartransferError):  # what cannot be opened is told of in its turn
            scene = open_entry(entry)
            try:
                return resolve_contract(bands, scene), problems
            except SartransferError as error:
                problems.append(Problem("bands", entry.id, str(error)))
    return None, problems


def _look(
    entry: Entry, catalog: Catalog, contract: InputContract | None, *, own: bool, done: bool
) -> list[Problem]:
    """Look at files, bands and label of an entry; `own`: at units of all its bands, `done`: its bands are told of."""
    try:
        scene = open_entry(entry)
    except SartransferError as error:
        return [Problem("unreadable", entry.id, str(error))]
    unknown = [b.name for b in scene.bands if own and b.unit.quantity is Quantity.UNKNOWN]
    problems = []
    if unknown:
        message = f"band(s) of unknown unit: {', '.join(unknown)}. Say what they are in the column `bands`."
        problems.append(Problem("unit", entry.id, message))
    problems += [Problem("unit", entry.id, words) for words in _unlike_pairs(scene)]
    if contract is not None and not done:
        try:
            contract.check(scene)
        except SartransferError as error:
            problems.append(Problem("bands", entry.id, str(error)))
    if entry.label is not None and catalog.classes:
        try:
            label = read_label(entry, catalog)
        except SartransferError as error:
            return [*problems, Problem("label", entry.id, str(error))]
        if bool(np.all(label == IGNORE_INDEX)):
            problems.append(
                Problem("empty label", entry.id, f"{entry.label} holds nothing but ignored pixels")
            )
    elif entry.label is None and entry.category is not None and entry.category not in catalog.classes:
        message = f"class {entry.category!r} is not among {', '.join(catalog.classes)}"
        problems.append(Problem("label", entry.id, message))
    return problems


def _unlike_pairs(scene: Scene) -> list[str]:
    """Name the bands of before and after a flood, of one polarization, that are of two quantities."""
    before, after = ([b for b in scene.bands if b.role == role] for role in ("reference", "flood"))
    return [
        f"band {a.name!r} is {a.unit}, {b.name!r} is {b.unit}: two quantities, which cannot be compared. Process both "
        "images alike."
        for a in before
        for b in after
        if a.polarization == b.polarization and a.unit.quantity is not b.unit.quantity
    ]


def _content(entry: Entry, holders: dict[str, Entry], contract: InputContract | None) -> list[Problem]:
    try:
        hashes = content_hashes(entry)
    except SartransferError as error:
        return [Problem("unreadable", entry.id, str(error))]
    found = [holders[h] for h in hashes if h in holders]
    twins = dict.fromkeys(e.id for e in found if e.id != entry.id and not cut_apart(e, entry))
    for value in hashes:
        holders.setdefault(value, entry)
    problems = [Problem("duplicate", entry.id, f"holds the same image as entry {twin!r}") for twin in twins]
    scene = open_entry(entry)
    problems += [Problem("unit", entry.id, message) for message in belied_units(scene)]
    return problems + _empty(entry, scene, contract)


def _empty(entry: Entry, scene: Scene, contract: InputContract | None) -> list[Problem]:
    """Say that no pixel of a scene is valid: in what a recipe asks for, or else in all bands of its own."""
    with contextlib.suppress(SartransferError):  # bands that are not there, or in other units, are told of
        names = list(scene.names)
        if contract is None:
            empty = holds_nothing(scene)
        else:
            names = [n for b in contract.bands for n in b.difference or (b.name,)]
            empty = _nowhere(scene, lambda window: contract.read(scene, window, normalize=False).valid)
        if empty:
            bare = [n for n in scene.names if n in names and holds_nothing(scene, (n,))]
            why = f"there is no value of {', '.join(bare)}" if bare else "none has a value in every band"
            return [
                Problem("empty scene", entry.id, f"no pixel is valid: {why}. Mend the file, or leave it out")
            ]
    return []
