"""AI4Arctic (the AutoICE challenge): Sentinel-1 EW scenes with ice charts, raw or ready to train."""

import itertools
import re
from pathlib import Path

from sartransfer.catalog import IGNORE_INDEX, TRAIN, Asset, Catalog, Entry
from sartransfer.errors import InputError, one_of
from sartransfer.radar.icechart import CLASSES, What
from sartransfer.readers.ai4arctic import CHARTS, NO_CLASS, stamp_of

TEST = "test"
_TEST_FOLDER = re.compile(r"(?<![a-z])test(?![a-z])")
FIX = (
    "Download AI4Arctic from DTU Data (doi 10.11583/DTU.c.6244065): *_icechart_*.nc (raw) or *_prep.nc (ready to "
    "train; with *_reference.nc for the test scenes), in a folder each."
)


def ai4arctic(root: Path, what: What = "ice-water") -> Catalog:
    """Read AI4Arctic's scenes, raw or ready to train: HH and HV in dB and the incidence angle, ice or water.

    Ice is a concentration of a tenth or more. Units are found out file by file (`readers.ai4arctic`). The split
    ``test`` are scenes with a ``_reference.nc`` (which holds their chart), or in a folder that is called test; all
    others are ``train``. The group is the acquisition: scenes of one region on other days are not kept together.

    Args:
        root: folder of one edition; needs h5py when scenes are opened.
        what: ``ice-water``, ``concentration``, ``stage`` or ``floe``; the last two with 65 % dominance.

    Raises `InputError` if there are no such files, or both editions: they are of the same scenes.
    """
    root = Path(root)
    if what not in CLASSES:
        raise InputError(one_of("what", what, CLASSES))
    ready, raw = sorted(root.rglob("*_prep.nc")), sorted(root.rglob("*_icechart_*.nc"))
    if ready and raw:
        raise InputError(f"{root} holds {len(raw)} raw and {len(ready)} ready-to-train scenes. {FIX}")
    if not ready and not raw:
        raise InputError(f"{root} holds no scenes of AI4Arctic. {FIX}")
    entries = []
    for path in ready or raw:
        reference = next((p for p in _references(path) if p.is_file()), None)
        folders = [part.lower() for part in path.relative_to(root.parent).parts[:-1]]
        held_out = reference is not None or any(_TEST_FOLDER.search(folder) for folder in folders)
        time = stamp_of(path)
        entries.append(
            Entry(
                id=path.stem.removesuffix("_prep"),
                assets=(Asset(path, "ai4arctic"),),
                label=reference or path,
                split=TEST if held_out else TRAIN,
                group=f"{time:%Y%m%dT%H%M%S}",
                time=time,
                platform="Sentinel-1",
            )
        )
    return Catalog(
        name="ai4arctic",
        entries=tuple(entries),
        classes=CLASSES[what],
        label_values=packed_values(what),
        source="AI4Arctic Sea Ice Challenge Dataset, Buus-Hinkler et al. 2022, doi 10.11583/DTU.c.6244065",
    )


def packed_values(what: What) -> dict[int, int]:
    """Return the class of every packed label value (`readers.ai4arctic.pack`)."""
    choices = [(*range(len(CLASSES[chart])), NO_CLASS) for chart in CHARTS]
    place = 0 if what == "ice-water" else list(CHARTS).index(what)
    table = {}
    for values in itertools.product(*choices):
        packed = values[0] + 16 * values[1] + 256 * values[2]
        value = values[place]
        if value == NO_CLASS:
            table[packed] = IGNORE_INDEX
        else:
            table[packed] = int(value >= 1) if what == "ice-water" else value
    return table


def _references(path: Path) -> tuple[Path, ...]:
    stem = path.stem.removesuffix("_prep")
    return path.with_name(f"{stem}_prep_reference.nc"), path.with_name(f"{stem}_reference.nc")
