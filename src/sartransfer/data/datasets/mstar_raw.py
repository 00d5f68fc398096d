"""MSTAR from its Phoenix files as distributed: standard and extended operating conditions, told by the header.

Unpack any of the CDs (Public Target Chips, Public Mixed Targets 1 and 2, Public T-72 Variants 1 and 2) under one
folder. What a chip shows and how it was taken is read from its header: type, serial number and depression. File
endings number the vehicles of one collection, differently in each, and chip sizes differ by class; neither is
looked at. Crop the centre (``data.chip: 80``), never resize.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sartransfer.catalog import TRAIN, Asset, Catalog, Entry
from sartransfer.errors import InputError
from sartransfer.readers.mstar import PhoenixHeader, is_phoenix, read_phoenix_header

SECTOR_DEG = 30  # of azimuth that stay together
CLASSES = {
    "2s1": "2S1",
    "bmp2": "BMP2",
    "brdm2": "BRDM_2",
    "btr60": "BTR60",
    "btr70": "BTR70",
    "d7": "D7",
    "t62": "T62",
    "t72": "T72",
    "zil131": "ZIL131",
    "zsu234": "ZSU_23_4",
}
"""How TargetType begins, letters and digits alone -> class: ``zsu23-4_gun`` is ZSU_23_4."""
FIX = (
    "Download MSTAR's public release (Sensor Data Management System, US Air Force Research Laboratory) and unpack the "
    "CDs under this folder, as they are."
)
SOURCE = (
    "MSTAR, AFRL public release; the division is that of Chen et al. 2016, doi 10.1109/TGRS.2016.2551720, "
    "as listed in github.com/jangsoopark/AConvNet-pytorch"
)


@dataclass(frozen=True, slots=True)
class Part:
    """What goes into one split: vehicles, and the depressions they are seen from."""

    split: str
    depressions_deg: tuple[int, ...]
    vehicles: tuple[tuple[str, str], ...]
    """Class and serial number, the latter in small letters and digits alone."""


TEN = (
    ("2S1", "b01"),
    ("BMP2", "9563"),
    ("BRDM_2", "e71"),
    ("BTR60", "k10yt7532"),
    ("BTR70", "c71"),
    ("D7", "92v13015"),
    ("T62", "a51"),
    ("T72", "132"),
    ("ZIL131", "e12"),
    ("ZSU_23_4", "d08"),
)
FOUR = (("2S1", "b01"), ("BRDM_2", "e71"), ("T72", "a64"), ("ZSU_23_4", "d08"))
SOC = (Part(TRAIN, (17,), TEN), Part("test", (15,), TEN))
EOC1 = (Part(TRAIN, (17,), FOUR), Part("test", (30,), FOUR))
EOC2 = (
    Part(TRAIN, (17,), (("BMP2", "9563"), ("BRDM_2", "e71"), ("BTR70", "c71"), ("T72", "132"))),
    Part("configuration", (15, 17), tuple(("T72", s) for s in ("s7", "a32", "a62", "a63", "a64"))),
    Part(
        "version",
        (15, 17),
        (("BMP2", "9566"), ("BMP2", "c21"), *(("T72", s) for s in ("812", "a04", "a05", "a07", "a10"))),
    ),
)


def mstar_soc(root: Path) -> Catalog:
    """Read MSTAR's standard operating condition: ten vehicles, trained at 17 degrees, tested at 15.

    Published counts, train and test: 2S1 299, 274; BMP2 (9563) 233, 195; BRDM_2 298, 274; BTR60 256, 195; BTR70
    233, 196; D7 299, 274; T62 299, 273; T72 (132) 232, 196; ZIL131 299, 274; ZSU_23_4 299, 274; in all 2,747 and
    2,425. The ten vehicles of the test are those of training, on the same turntable, two degrees lower: the groups
    say so, and a recipe must list ``same_scenes: [test]``.

    A group is a vehicle within 30 degrees of azimuth, because chips follow each other every degree or two and
    look nearly alike: validation drawn chip by chip would test on near-duplicates, drawn by group it tests on
    sides of the vehicle that training has not seen (but for the one or two chips at each border of a sector).

    Raises `InputError` if there are no Phoenix files, one is damaged, or a vehicle of the list is missing.
    """
    return _protocol(Path(root), "mstar-soc", SOC)


def mstar_eoc1(root: Path) -> Catalog:
    """Read MSTAR's EOC-1: four vehicles, trained at 17 degrees, tested at 30.

    Published counts, train and test: 2S1 299, 288; BRDM_2 298, 287; T72 (A64) 299, 288; ZSU_23_4 299, 288. Same
    vehicles in both, hence ``same_scenes: [test]``; groups and errors as in `mstar_soc`.
    """
    return _protocol(Path(root), "mstar-eoc1", EOC1)


def mstar_eoc2(root: Path) -> Catalog:
    """Read MSTAR's EOC-2: trained on four vehicles at 17 degrees, tested on others of their kind at 15 and 17.

    Trained on BMP2 (9563) 233, BRDM_2 298, BTR70 233, T72 (132) 232. Test set ``configuration`` (other fuel drums,
    reactive armour): T72 S7 419, A32 572, A62, A63 and A64 573 each, in all 2,710. Test set ``version`` (other
    builds): BMP2 9566 428 and C21 429, T72 812 426, A04, A05 and A07 573 each, A10 567, in all 3,569. No vehicle of
    a test set is trained on. Groups and errors as in `mstar_soc`.
    """
    return _protocol(Path(root), "mstar-eoc2", EOC2)


def _protocol(root: Path, name: str, parts: tuple[Part, ...]) -> Catalog:
    place = {
        (category, serial, depression): part.split
        for part in parts
        for category, serial in part.vehicles
        for depression in part.depressions_deg
    }
    entries: dict[str, Entry] = {}
    counts: Counter[tuple[str, str, int]] = Counter()
    for path, header in _chips(root):
        category = _category(header)
        if category is None or header.bytes_per_value != 4:
            continue  # calibration targets and full scenes
        if header.serial_number is None or header.depression_deg is None or header.azimuth_deg is None:
            raise InputError(
                f"{path} is a chip of {category}, but its header lacks TargetSerNum, TargetAz, or both of "
                f"DesiredDepression and MeasuredDepression. {FIX}"
            )
        key = (category, _plain(header.serial_number), header.depression_deg)
        if key not in place:
            continue
        counts[key] += 1
        entry = _entry(path, key, header.azimuth_deg, place[key])
        if entry.id in entries:
            twin = entries[entry.id].assets[0].path
            raise InputError(f"{path} and {twin} are one chip twice ({entry.id}). Remove one of them.")
        entries[entry.id] = entry
    if not entries:
        raise InputError(f"{root} holds no chips of {name}. {FIX}")
    # A vehicle may be tested at one of several depressions only, but must be there.
    wanted = {(part.split, category, serial) for part in parts for category, serial in part.vehicles}
    absent = sorted(wanted - {(place[key], key[0], key[1]) for key in counts})
    if absent:
        words = ", ".join(f"{category} {serial} ({split})" for split, category, serial in absent)
        raise InputError(f"{root} holds no chips of {words}, which belong to {name}. {FIX}")
    classes = tuple(sorted({category for part in parts for category, _ in part.vehicles}))
    return Catalog(name, tuple(entries[i] for i in sorted(entries)), classes, source=SOURCE)


def _chips(root: Path) -> list[tuple[Path, PhoenixHeader]]:
    files = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else []
    return [(path, read_phoenix_header(path)) for path in files if is_phoenix(path)]


def _category(header: PhoenixHeader) -> str | None:
    kind = _plain(header.target_type or "")
    return next((name for begin, name in CLASSES.items() if kind.startswith(begin)), None)


def _entry(path: Path, key: tuple[str, str, int], azimuth_deg: float, split: str) -> Entry:
    category, serial, depression = key
    sector = int(azimuth_deg % 360 // SECTOR_DEG) * SECTOR_DEG
    return Entry(
        id=f"{category}/{serial}/{depression}deg/{path.name}",
        assets=(Asset(path, "mstar"),),
        category=category,
        split=split,
        group=f"{category} {serial}, azimuth {sector:03d}",
        platform="MSTAR X-band",
    )


def _plain(text: str) -> str:
    """Return letters and digits alone, small, without a leading SN_: ``SN_C21`` and ``c21`` are one vehicle."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"^sn_", "", text.lower()))
