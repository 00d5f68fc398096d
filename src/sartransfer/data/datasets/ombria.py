"""OMBRIA: Sentinel-1 tiles before and after floods, with Copernicus EMS masks (Drakonakis et al., 2022)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sartransfer.catalog import TRAIN, Asset, Catalog, Entry
from sartransfer.data.leakage import stitch_groups
from sartransfer.errors import InputError
from sartransfer.radar.units import parse_unit
from sartransfer.readers import open_entry
from sartransfer.scene import Band

BEFORE = Band("before", unit=parse_unit("digital_number"), role="reference")
AFTER = Band("after", unit=parse_unit("digital_number"), role="flood")
# Of Sentinel-1 GRD in IW, high resolution (Sentinel-1 Product Specification, ESA S1-RS-MDA-52-7441), which the authors
# took from Google Earth Engine; the PNG say nothing, and some tiles are so smooth that they may have been resampled.
PIXEL_M = 10.0
EVENTS = ("ALBANIA", "GUYANA")
FIX = (
    "Download OMBRIA (github.com/geodrak/OMBRIA) and unpack it so that the folder holds "
    "OmbriaS1/{train,test}/{BEFORE,AFTER,MASK}/S1_*_NNNN.png and, for the 2021 floods, "
    "2021/{ALBANIA,GUYANA}/Sentinel1/{BEFORE,AFTER,MASK}."
)


def ombria(root: Path) -> Catalog:
    """Read OMBRIA's Sentinel-1 part: splits ``train``, ``test``, ``albania``, ``guyana``; dry or flooded.

    Bands ``before`` (role reference) and ``after`` (role flood) are 8-bit display values, not calibrated. The
    published tiles carry no coordinates and were cut from a few large images; the groups are the images as
    far as tiles can be stitched together again (`leakage.stitch_groups`): 69 of the 70 published test tiles
    continue an image that is trained on. The floods of 2021 are images of their own: one group each.

    Source: IEEE JSTARS, doi 10.1109/JSTARS.2022.3147559 (document 9723593). Raises `InputError` if the
    folder is not as published.
    """
    root = Path(root)
    base = root if (root / "OmbriaS1").is_dir() else root.parent
    entries: list[Entry] = []
    for split in (TRAIN, "test"):
        entries += _part(base / "OmbriaS1" / split, split, "S1_before_", "S1_after_", "S1_mask_")
    entries = _with_stitched_groups(entries)
    for event in EVENTS:
        folder = base / "2021" / event / "Sentinel1"
        if folder.is_dir():
            entries += _part(folder, event.lower(), "imbefore_", "imafter_", "gt_", group=event.lower())
    return Catalog(
        name="ombria",
        entries=tuple(entries),
        classes=("dry", "flooded"),
        label_values={0: 0, 255: 1},
        source="OMBRIA, github.com/geodrak/OMBRIA, IEEE 9723593; no terms stated",
        pixel_m=PIXEL_M,
    )


def _part(
    folder: Path, split: str, before: str, after: str, mask: str, group: str | None = None
) -> list[Entry]:
    files = [sorted((folder / n).glob("*.png")) for n in ("BEFORE", "AFTER", "MASK")]
    keys = [
        {p.stem.removeprefix(prefix): p for p in paths}
        for paths, prefix in zip(files, (before, after, mask), strict=True)
    ]
    if not keys[0] or keys[0].keys() != keys[1].keys() or keys[0].keys() != keys[2].keys():
        raise InputError(
            f"{folder} holds {len(keys[0])} images before, {len(keys[1])} after and {len(keys[2])} masks; at "
            f"least one of each was expected, of the same numbers. {FIX}"
        )
    return [
        Entry(
            id=f"{split}_{key}",
            assets=(Asset(path, "image", (BEFORE,)), Asset(keys[1][key], "image", (AFTER,))),
            label=keys[2][key],
            split=split,
            group=group,
            platform="Sentinel-1",
        )
        for key, path in sorted(keys[0].items(), key=lambda kv: (len(kv[0]), kv[0]))
    ]


def _with_stitched_groups(entries: list[Entry]) -> list[Entry]:
    images: list[NDArray[np.float32]] = [open_entry(e).read().data for e in entries]
    labels = stitch_groups(images)
    return [replace(e, group=f"image_{k:03d}") for e, k in zip(entries, labels, strict=True)]
