"""Labels that a rule has made, as their files say themselves: scores on them are agreement with that rule."""

from collections.abc import Iterable
from pathlib import Path

from sartransfer.catalog import Catalog, Entry
from sartransfer.errors import InputError
from sartransfer.geotiff import opened

RULE_TAG = "SARTRANSFER_FLOOD"
"""Tag of a mask that ``prepare flood`` has made, and of the labels of tiles that are cut from it: the rule as JSON."""
ENDINGS = (".tif", ".tiff")


def rule_of_label(path: Path) -> str | None:
    """Return what a label raster says of the rule that made it; None where it says nothing, or cannot be opened."""
    if path.suffix.lower() not in ENDINGS:
        return None
    try:
        with opened(path) as file:
            return file.tags().get(RULE_TAG) or None
    except InputError:  # whoever reads its pixels will say so
        return None


def ruled_entries(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Return the entries whose labels are a rule's, by the labels' files."""
    known: dict[Path, bool] = {}
    found = []
    for entry in entries:
        if entry.label is not None:
            if entry.label not in known:
                known[entry.label] = rule_of_label(entry.label) is not None
            if known[entry.label]:
                found.append(entry)
    return tuple(found)


def is_rule_labelled(catalog: Catalog, test_set: str) -> bool:
    """Say whether a test set has a label that a rule has made: one is enough to make its scores agreement."""
    return bool(ruled_entries(catalog.in_split(test_set)))
