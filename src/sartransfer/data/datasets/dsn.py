"""The patches of Deep SAR-Net (Huang et al., 2020): five classes of TerraSAR-X, eight of SLC land cover.

Patches of 64 px were cut with a step of 40 to 50, so that neighbours share pixels: a split that is not drawn by
what overlaps tests on what it has trained on.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sartransfer.catalog import TRAIN, VALIDATION, Asset, Catalog, Entry
from sartransfer.data.overlap import content_pairs, position_pairs, split_groups
from sartransfer.data.stitching import group_pairs
from sartransfer.errors import InputError
from sartransfer.radar.units import parse_unit
from sartransfer.readers import open_scene
from sartransfer.readers.image import read_image_values
from sartransfer.scene import Band

AMPLITUDE = parse_unit("amplitude")
SHARES = {TRAIN: 0.6, VALIDATION: 0.2, "test": 0.2}
SOURCE = "Deep SAR-Net, Huang et al. 2020, doi 10.1016/j.isprsjprs.2020.01.016; github.com/Alien9427/DSN; MIT"
TSX_NAME = re.compile(r"(?P<category>.+)_(?P<image>TSX_\w+?_(?P<pol>HH|HV|VH|VV))_(?P<row>\d+)_(?P<col>\d+)")
SLC_NAME = re.compile(r"(?P<category>.+)_(?P<image>\w+?_(?P<pol>HH|HV|VH|VV))_(?P<col>\d+)_(?P<row>\d+)")
TSX_FIX = (
    "Download the TerraSAR-X patches of github.com/Alien9427/DSN as 16-bit amplitudes (the rounded modulus), "
    "<class>/<class>_TSX_<product>_<polarization>_<row>_<column>.png."
)
SLC_FIX = (
    "Download the SLC patches of github.com/Alien9427/DSN as 16-bit amplitudes (the rounded modulus), "
    "<class>/<class>_<product>_<polarization>_<column>_<row>.png, with slc_train_3.txt and slc_val_3.txt beside them."
)


def tsx5(root: Path) -> Catalog:
    """Read the five TerraSAR-X classes: 1,613 patches of 64 px, amplitude, in train, validation and test.

    Groups are what hangs together by overlap: patches of one product whose places, row and column of the upper
    left corner as in their names, are at most 64 px apart, and so on (48 groups, of 1 to 186 patches). All 3,970
    pairs of patches that share pixels lie within groups, and on what they share they are equal to the last bit.
    Blocks of coordinates would tear many apart: 450 pairs with blocks of 500 px. Whole groups are divided 60, 20
    and 20 % such that each class has its share in each split (`overlap.split_groups`; nothing is drawn): 945,
    336 and 332 patches.

    Class and product are confounded: *residential* comes from two products in VV, the four other classes from one
    in HH, so that a network may learn the product instead. And the products stand in every split, so that nothing
    is learned here about a new product. Neither can be mended with these patches. Source: `SOURCE`. Raises
    `InputError` if the folder is not so.
    """
    patches = _patches(Path(root), TSX_NAME, TSX_FIX)
    size = _size(patches[0].path)
    pairs = position_pairs(_places(patches), [p.image for p in patches], size)
    groups = _groups(patches, pairs)
    split = split_groups(groups, [p.category for p in patches], SHARES)
    entries = [_entry(p, split[g], g) for p, g in zip(patches, groups, strict=True)]
    return Catalog("tsx5", tuple(entries), _classes(patches), source=SOURCE)


def s1slc8(root: Path) -> Catalog:
    """Read the eight SLC classes as the authors split them: 2,230 patches to train on, 320 (`slc_val_3`) to test.

    Groups are what hangs together by overlap, by the places in the names (column and row here) and by the pixels
    themselves, since some names lie: of 4,238 pairs that share pixels 87 do so elsewhere than their names say.
    There are 744 groups, of 1 to 148 patches. The authors' split was drawn patch by patch: 227 of its 320 test
    patches show pixels that are trained on, 247 are in a group with training. It measures memory as well as
    skill, and a recipe must say ``same_scenes: [test]`` to use it; `s1slc8_apart` has none of this.

    Source: `SOURCE`. Raises `InputError` if the folder is not so.
    """
    root = Path(root)
    patches = _patches(root, SLC_NAME, SLC_FIX)
    groups = _slc_groups(patches)
    split = _listed(root / "slc_train_3.txt", TRAIN) | _listed(root / "slc_val_3.txt", "test")
    here = {f"{p.category}/{p.path.stem}" for p in patches}
    missing = sorted(split.keys() - here)
    if missing:
        raise InputError(
            f"{root} lacks {len(missing)} patches of its lists: {', '.join(missing[:3])}. {SLC_FIX}"
        )
    entries = [
        _entry(p, split[name], g)
        for p, g in zip(patches, groups, strict=True)
        if (name := f"{p.category}/{p.path.stem}") in split
    ]
    return Catalog("s1slc8", tuple(entries), _classes(patches), source=SOURCE)


def s1slc8_apart(root: Path) -> Catalog:
    """Read the eight SLC classes in train, validation and test without a shared pixel between any two.

    Whole groups, as in `s1slc8`, divided 60, 20 and 20 % such that each class has its share in each split
    (`overlap.split_groups`; nothing is drawn): 1,506, 524 and 520 patches. Products are shared between the splits,
    places are not. Raises `InputError` if the folder is not so.
    """
    patches = _patches(Path(root), SLC_NAME, SLC_FIX)
    groups = _slc_groups(patches)
    split = split_groups(groups, [p.category for p in patches], SHARES)
    entries = [_entry(p, split[g], g) for p, g in zip(patches, groups, strict=True)]
    return Catalog("s1slc8-apart", tuple(entries), _classes(patches), source=SOURCE)


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch, and what its name says."""

    path: Path
    category: str
    image: str
    """Product and polarization: what it was cut from."""
    polarization: str
    row: int
    col: int


def _patches(root: Path, pattern: re.Pattern[str], fix: str) -> list[Patch]:
    patches = []
    for path in sorted(root.glob("*/*.png")):
        name = pattern.fullmatch(path.stem)
        if name is None or name["category"] != path.parent.name:
            raise InputError(f"{path}: the name does not say class, product, polarization and place. {fix}")
        patches.append(
            Patch(path, name["category"], name["image"], name["pol"], int(name["row"]), int(name["col"]))
        )
    if not patches:
        raise InputError(f"{root} holds no <class>/*.png. {fix}")
    return patches


def _size(path: Path) -> int:
    scene = open_scene(path)
    if scene.height != scene.width:
        raise InputError(f"{path} has {scene.height} x {scene.width} pixels: patches are square.")
    return scene.height


def _places(patches: Sequence[Patch]) -> "np.ndarray[tuple[int, int], np.dtype[np.int64]]":
    return np.array([(p.row, p.col) for p in patches], dtype=np.int64)


def _slc_groups(patches: Sequence[Patch]) -> list[str]:
    size = _size(patches[0].path)
    pixels = [np.asarray(read_image_values(p.path)) for p in patches]
    for patch, values in zip(patches, pixels, strict=True):
        if values.shape != (size, size):
            raise InputError(f"{patch.path} has {values.shape} pixels, the others {size} x {size}. {SLC_FIX}")
    pairs = position_pairs(_places(patches), [p.image for p in patches], size)
    return _groups(patches, sorted({*pairs, *content_pairs(np.stack(pixels).astype(np.int64))}))


def _groups(patches: Sequence[Patch], pairs: Sequence[tuple[int, int]]) -> list[str]:
    """Name each component of overlap after the image of its first patch."""
    labels = group_pairs(len(patches), pairs)
    names: dict[int, str] = {}
    counts: dict[str, int] = {}
    for patch, label in zip(patches, labels.tolist(), strict=True):
        if label not in names:
            number = counts[patch.image] = counts.get(patch.image, 0) + 1
            names[label] = f"{patch.image}/{number:03d}"
    return [names[label] for label in labels.tolist()]


def _entry(patch: Patch, split: str, group: str) -> Entry:
    band = Band("amplitude", AMPLITUDE, patch.polarization)
    return Entry(
        id=f"{patch.category}/{patch.path.stem}",
        assets=(Asset(patch.path, "image", (band,)),),
        category=patch.category,
        split=split,
        group=group,
        platform="TerraSAR-X" if patch.image.startswith("TSX") else None,
    )


def _classes(patches: Sequence[Patch]) -> tuple[str, ...]:
    return tuple(sorted({p.category for p in patches}))


def _listed(path: Path, split: str) -> dict[str, str]:
    """Read a list of the authors: <class>/<name> without ending -> split."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. {SLC_FIX}") from error
    if not rows or "path" not in rows[0]:
        raise InputError(f"{path} lists nothing: its columns are path and catename. {SLC_FIX}")
    return {Path(row["path"]).with_suffix("").as_posix(): split for row in rows}
