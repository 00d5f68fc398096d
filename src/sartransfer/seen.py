"""Whether a checkpoint was trained on the scenes it is scored on: by the recipe that lies in its run's folder."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sartransfer.catalog import TRAIN, VALIDATION, Catalog, Entry
from sartransfer.data.leakage import Leak, check_leakage
from sartransfer.data.resolve import open_catalog, same_scenes
from sartransfer.errors import SartransferError
from sartransfer.models.checkpoint import Checkpoint
from sartransfer.plan import relation_of
from sartransfer.recipe import DataRecipe, Recipe
from sartransfer.runs import RunFolder
from sartransfer.wording import NOT_KNOWN, OTHER_DATA, RULE_LABELS, SAME_SCENES, UNSEEN_EVENTS

SCORED = "scored"
DECODED = (
    256 << 20
)  # bytes of training files up to which their pixels are compared, beyond only files of one size
ORDER = (SAME_SCENES, NOT_KNOWN, UNSEEN_EVENTS)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a test set relates to what a checkpoint was trained on."""

    relation: str
    """As of `results.TestSet`."""
    why: str = ""
    """How that is known, or why it is not, in a sentence."""


def standings(
    checkpoints: Mapping[Path, Checkpoint],
    recipe: Recipe | None,
    catalog: Catalog,
    names: Sequence[str],
    *,
    source: Path | None = None,
) -> dict[str, Standing]:
    """Return how test sets of a catalog relate to what checkpoints were trained on, of several the worst.

    Where the recipe that is scored by has the run's own data, its splits say it (`plan.relation_of`). Else the test
    scenes are held against the training scenes of the recipe in the run's folder: by pixels, places and images that are
    continued (`check_leakage`; of large training sets by files of the same bytes, and places). An event that training
    knew from other images without a place is not found, nor what earlier links of a chain were trained on. Without
    those scenes the splits of the catalog itself are believed; of one without training scenes nothing is known.

    Args:
        checkpoints: run folder or file -> what was read from it. recipe: that is scored by; None: a catalog.
        catalog: with the test sets. names: of them. source: the catalog's file, where it has one.
    """
    runs = {}
    for path, network in checkpoints.items():
        data = _data_of(path, network)
        runs["" if data is None else data.model_dump_json()] = data
    own = {key for key, data in runs.items() if recipe is not None and data == recipe.data}
    opened: dict[str, Catalog | None] = {}
    found = {}
    for name in names:
        known = relation_of(recipe, catalog, name)
        if known in (RULE_LABELS, OTHER_DATA):
            found[name] = Standing(known)
            continue
        if recipe is not None and name in same_scenes(recipe.data):
            found[name] = Standing(SAME_SCENES, "as the recipe says (data.same_scenes)")
            continue
        each = [Standing(known)] if own else []
        for key, data in runs.items():
            if key in own:
                continue
            if key not in opened:
                opened[key] = None if data is None else _open(data)
            trained = opened[key]
            if data is None or trained is None:
                each.append(_believed(catalog, known))
            else:
                one = _one_source(data, recipe, catalog, source)
                each.append(_compared(trained, data, catalog, name, same=one))
        found[name] = min(each, key=lambda s: ORDER.index(s.relation))
    return found


def _data_of(path: Path, network: Checkpoint) -> DataRecipe | None:
    """Return what the run of a checkpoint was trained on; None: no run of this checkpoint is there."""
    folder = path if path.is_dir() else path.parent
    try:
        if RunFolder(folder).record.get("identity") != network.metadata.get("identity"):
            return None
        return Recipe.from_yaml(folder / "recipe.yaml").data
    except SartransferError:
        return None


def _open(data: DataRecipe) -> Catalog | None:
    """Return the scenes that a run was trained or validated on, whole; None where they are not at hand."""
    try:
        found = open_catalog(data.model_copy(update={"external": {}}), check=False, cut=False)
    except SartransferError:
        return None
    found = found.where(lambda e: e.split in (TRAIN, VALIDATION))
    return found if all(asset.path.exists() for e in found.entries for asset in e.assets) else None


def _believed(catalog: Catalog, known: str) -> Standing:
    """Say what is to be thought where the training scenes are not at hand."""
    if known == NOT_KNOWN or not catalog.in_split(TRAIN):
        return Standing(NOT_KNOWN, "what the network was trained on is not at hand, or scenes name no group")
    return Standing(known, "if the network was trained on the training scenes named with it")


def _one_source(data: DataRecipe, recipe: Recipe | None, catalog: Catalog, source: Path | None) -> bool:
    """Say whether both catalogs are of one dataset or file, so that a group's name means the same event."""
    if data.catalog is None:
        return catalog.name == data.dataset
    given = recipe.data.catalog if recipe is not None else source
    return given is not None and Path(given).resolve() == Path(data.catalog).resolve()


def _compared(trained: Catalog, data: DataRecipe, catalog: Catalog, name: str, *, same: bool) -> Standing:
    """Hold the scenes of a test set against those that were trained on."""
    tested = tuple(replace(e, split=SCORED) for e in catalog.in_split(name))
    if not tested:
        return Standing(NOT_KNOWN, f"there is no scene in {name!r}")
    groups = {e.group for e in trained.entries if e.group}
    again = sorted({e.group for e in tested if e.group in groups and e.group})
    # By their names groups of two catalogs are not known to be one event, nor to be two.
    shown = [
        replace(e, id=f"trained on/{e.id}", group=e.group if same or not e.group else f"trained on/{e.group}")
        for e in trained.entries
    ]
    both = replace(catalog, entries=(*shown, *tested))
    try:
        small = sum(a.path.stat().st_size for e in trained.entries for a in e.assets) <= DECODED
        leaks = check_leakage(both, pixels=small, footprint_days=data.footprint_days)
        if not small:
            leaks += _same_files(shown, tested)
    except (SartransferError, OSError) as error:
        return Standing(NOT_KNOWN, f"the scenes that were trained on cannot be read: {error}")
    tied = {leak.id_b: leak for leak in leaks if leak.split_b == SCORED}
    if tied:
        first = next(iter(tied.values()))
        words = f"{first.kind}, {first.id_b} and {first.id_a}"
        return Standing(SAME_SCENES, f"{len(tied)} of {len(tested)} scenes, for one by {words}")
    if again and not same:
        words = f"{', '.join(again[:3])} {'is a group' if len(again) == 1 else 'are groups'}"
        return Standing(NOT_KNOWN, f"{words} of the scenes that were trained on too: is it the same event?")
    if lone := next((e.id for e in tested if not e.group), None):
        return Standing(NOT_KNOWN, f"scenes name no group ({lone}, for one)")
    how = "pixels, place or file" if small else "file or place"
    return Standing(
        UNSEEN_EVENTS, f"none of the {len(shown)} scenes that were trained on is among them, by {how}"
    )


def _same_files(trained: Iterable[Entry], tested: Iterable[Entry]) -> list[Leak]:
    """Return test entries with a file that was trained on, to the byte: only files of one size are read."""
    sizes: dict[int, list[tuple[Path, Entry]]] = {}
    for entry in trained:
        for asset in entry.assets:
            if asset.path.is_file():
                sizes.setdefault(asset.path.stat().st_size, []).append((asset.path, entry))
    found = []
    for entry in tested:
        for path in (asset.path for asset in entry.assets if asset.path.is_file()):
            alike = sizes.get(path.stat().st_size, ())
            mine = _digest(path) if alike else b""
            for _, other in [pair for pair in alike if _digest(pair[0]) == mine][:1]:
                found.append(Leak("content", other.split or "", other.id, entry.split or "", entry.id))
    return found


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
