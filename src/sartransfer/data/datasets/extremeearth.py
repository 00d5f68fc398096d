"""ExtremeEarth v2: twelve Sentinel-1 EW scenes of 2018, one a month, with polygons drawn by ice analysts."""

import re
from datetime import datetime
from pathlib import Path

from sartransfer.catalog import IGNORE_INDEX, TRAIN, Asset, Catalog, Entry
from sartransfer.errors import InputError

STAMPS = (
    "20180116t075430", "20180213t175444", "20180313t181225", "20180417t074606", "20180515t174633", "20180612t180423",
    "20180717t073809", "20180814t075344", "20180911t175548", "20181016t072958", "20181113t074529", "20181218t075437",
)  # fmt: skip
"""Begin of each scene, UTC; one a month, January to December."""
TESTS = {1: "january", 7: "july"}
"""Month -> test set, as in Karimzadeh and Pires de Lima (IGARSS 2023): freeze-up and melt."""
HALVES = (2, 6, 8, 12)
"""Months of whose scenes one half validates in that paper (`data.halves`)."""
FIX = (
    "Download ExtremeEarth v2 (zenodo.org, doi 10.5281/zenodo.4683174) and its Sentinel-1 products, and make: "
    "sartransfer prepare sentinel1 PRODUCT -o {stamp}.tif for each scene, then sartransfer prepare icechart "
    "Sea_Ice-labels/seaice_s1_{stamp}.shp {stamp}.tif -o seaice_s1_{stamp}.tif --columns extremeearth --polygons; put "
    "all of them under one folder."
)


def extremeearth(root: Path, stamps: tuple[str, ...] = STAMPS) -> Catalog:
    """Read ExtremeEarth's scenes and their ice charts, both prepared as GeoTIFFs: ice or water.

    Anywhere under `root`: a scene's name holds its stamp (``20180116t075430.tif``, or the name of its product), its
    label is ``seaice_s1_<stamp>.tif``, made by `prepare.icechart` from the polygons of the same name. January and July
    are test sets, the others ``train``; months of `HALVES` may be cut in two. The group is the scene.

    Args:
        root: the folder. stamps: the scenes that are wanted, of `STAMPS`.

    Raises `InputError` for a scene or label that is missing (all of them named) or there twice, an unknown stamp.
    """
    root = Path(root)
    unknown = [s for s in stamps if s not in STAMPS]
    if unknown:
        raise InputError(
            f"{', '.join(unknown)}: no scenes of ExtremeEarth v2. They are: {', '.join(STAMPS)}."
        )
    files = sorted(p for p in root.rglob("*.tif") if not p.name.startswith(".")) if root.is_dir() else []
    labels = {s: [p for p in files if re.fullmatch(rf"seaice_s1_{s}", p.stem, re.IGNORECASE)] for s in stamps}
    scenes = {
        s: [p for p in files if s in p.stem.lower() and not p.stem.lower().startswith("seaice")]
        for s in stamps
    }
    missing = [s for s in stamps if not scenes[s]] + [f"seaice_s1_{s}" for s in stamps if not labels[s]]
    if missing:
        raise InputError(f"{root} lacks {', '.join(missing)}. {FIX}")
    for found in (*scenes.values(), *labels.values()):
        if len(found) > 1:
            raise InputError(f"{root}: one scene or label, {len(found)} files: {', '.join(map(str, found))}.")
    return Catalog(
        name="extremeearth",
        entries=tuple(_entry(stamp, scenes[stamp][0], labels[stamp][0]) for stamp in stamps),
        classes=("water", "ice"),
        label_values={0: 0, 1: 1, 255: IGNORE_INDEX},
        source="ExtremeEarth v2, Hughes and Amdal 2021, doi 10.5281/zenodo.4683174; terms in its record",
    )


def _entry(stamp: str, scene: Path, label: Path) -> Entry:
    time = _time(stamp)
    return Entry(
        id=stamp,
        assets=(Asset(scene, "geotiff"),),
        label=label,
        split=TESTS.get(time.month, TRAIN),
        group=stamp,
        time=time,
        platform="Sentinel-1",
    )


def _time(stamp: str) -> datetime:
    return datetime.strptime(stamp.upper(), "%Y%m%dT%H%M%S")
