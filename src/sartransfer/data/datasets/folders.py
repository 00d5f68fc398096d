"""Datasets of patches sorted into one folder a class: any such folder, MSTAR, NWPU-RESISC45, EuroSAT."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sartransfer.catalog import TRAIN, VALIDATION, Asset, Catalog, Entry
from sartransfer.errors import InputError
from sartransfer.radar.units import parse_unit
from sartransfer.readers import ENDINGS
from sartransfer.scene import Band

SPLITS = {"train": TRAIN, "validation": VALIDATION, "val": VALIDATION, "valid": VALIDATION, "test": "test"}
MAGNITUDE = (Band("magnitude", unit=parse_unit("digital_number")),)
SECTOR = 12  # chips, some 15 degrees of azimuth
COLOURS = tuple(Band(n, unit=parse_unit("optical")) for n in ("red", "green", "blue"))


def class_folders(
    root: Path,
    name: str | None = None,
    bands: Sequence[Band] = (),
    *,
    platform: str | None = None,
    source: str = "",
    fix: str = "Put the images into <root>/<class>/ or <root>/{train,validation,test}/<class>/.",
) -> Catalog:
    """Read patches sorted by class: ``root/<class>/*``, or ``root/{train,validation,test}/<class>/*``.

    Args:
        root: the folder. Without split folders the entries have no split yet (`splits.assign_test`).
        name: of the catalog; None: the folder's.
        bands: what the files' bands are, e.g. ``parse_bands("amplitude=amplitude:HH")``; empty: as the
            files say (grey images digital_number, colour optical).
        platform: what took them.
        source: where they come from and on what terms.
        fix: what to do if the folder is not so, for the error.

    Groups are not known from folders alone: neighbouring patches of one image may stand on both sides of a
    split. Add groups in a catalog file if you know them. Raises `InputError` if there are no such folders.
    """
    root = Path(root)
    inside = _folders(root)
    parts: list[tuple[str | None, Path]] = [(SPLITS[p.name], p) for p in inside if p.name in SPLITS]
    if parts and len(parts) != len(inside):
        odd = ", ".join(p.name for p in inside if p.name not in SPLITS)
        raise InputError(f"{root} holds split folders and others beside them ({odd}). {fix}")
    entries = []
    for split, folder in parts or [(None, root)]:
        for category in _folders(folder):
            for path in sorted(p for p in category.iterdir() if p.suffix.lower() in ENDINGS):
                id = "/".join(n for n in (split, category.name, path.stem) if n)
                entries.append(
                    Entry(
                        id=id,
                        assets=(Asset(path, None, tuple(bands)),),
                        category=category.name,
                        split=split,
                        platform=platform,
                    )
                )
    if not entries:
        raise InputError(f"{root} holds no folders of images ({', '.join(ENDINGS)}). {fix}")
    classes = tuple(sorted({e.category for e in entries if e.category}))
    return Catalog(name or root.name, tuple(entries), classes, source=source)


def mstar(root: Path) -> Catalog:
    """Read MSTAR's ten targets, standard operating conditions: trained at 17 degrees, tested at 15.

    Chips are 8-bit magnitudes, stretched for display: ``digital_number``, not amplitude. Their size differs
    by class: crop the centre, since resizing would tell the class. The pictures carry no azimuth, but their
    numbers follow the turntable: chips next to each other in number correlate with .8 to .9, any two of a class
    with .4 to .65. So `SECTOR` consecutive chips of a vehicle are one group, and a validation set of whole groups
    is not one of near-duplicates. The test set shows the same vehicles from another depression, not new ones.
    """
    catalog = class_folders(
        root,
        "mstar",
        MAGNITUDE,
        platform="MSTAR X-band",
        source="MSTAR, AFRL public release, as JPEG in github.com/hunterlew/mstar_with_machine_learning",
        fix="Download the ten-class MSTAR chips as {train,test}/<class>/*.jpeg "
        "(github.com/hunterlew/mstar_with_machine_learning).",
    )
    seen: Counter[tuple[str | None, str | None]] = Counter()
    entries = []
    for entry in catalog.entries:  # sorted by name, and so by number
        place = (entry.split, entry.category)
        sector = seen[place] // SECTOR
        seen[place] += 1
        entries.append(replace(entry, group=f"{entry.category}/{entry.split or 'all'}/sector {sector}"))
    return catalog.with_entries(entries)


def nwpu(root: Path) -> Catalog:
    """Read NWPU-RESISC45 (optical, RGB, 256 px), or some of its classes, as {train,test}/<class>/*.jpg."""
    return class_folders(
        root,
        "nwpu",
        COLOURS,
        source="NWPU-RESISC45, Cheng et al. 2017, doi 10.1109/JPROC.2017.2675998; no terms stated",
        fix="Download NWPU-RESISC45 and sort it into {train,test}/<class>/*.jpg or <class>/*.jpg.",
    )


def eurosat(root: Path) -> Catalog:
    """Read EuroSAT's RGB edition (optical, 64 px, ten classes) as <class>/*.jpg: no split, no group.

    Its patches come from few Sentinel-2 products whose names are not published with the pictures.
    """
    return class_folders(
        root,
        "eurosat",
        COLOURS,
        platform="Sentinel-2",
        source="EuroSAT, Helber et al. 2019, doi 10.1109/JSTARS.2019.2918242; MIT",
        fix="Download EuroSAT (RGB), github.com/phelber/EuroSAT; give the folder of the class folders.",
    )


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
