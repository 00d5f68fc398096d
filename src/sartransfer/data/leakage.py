"""Leakage: what stands on both sides of a split and makes a test easier than it looks."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sartransfer.catalog import TRAIN, VALIDATION, Catalog, Entry
from sartransfer.data.stitching import (
    Lines,
    border_lines,
    group_pairs,
    stitch_groups,
    stitch_lines,
    stitch_pairs,
)
from sartransfer.errors import LeakageError
from sartransfer.readers import open_entry, open_scene
from sartransfer.scene import GeoReference, Scene, Window, as_utc
from sartransfer.wording import NOT_KNOWN, SAME_SCENES, UNSEEN_EVENTS

__all__ = [
    "Leak",
    "check_leakage",
    "content_hashes",
    "refuse_leaks",
    "refused",
    "relation",
    "same_ground",
    "stitch_groups",
    "stitch_pairs",
]

Kind = Literal["group", "content", "footprint", "continued image"]
OF_SAME_SCENES: tuple[Kind, ...] = ("group", "footprint", "continued image")
ONE_IMAGE: tuple[Kind, ...] = ("group", "continued image")
WHOLE = 4_000_000  # pixels up to which a file is compared by its decoded pixels, beyond by its bytes
FOOTPRINTS = (
    " If what is to be told moves (sea ice), say after how many days a place holds another scene: "
    "data.footprint_days."
)
LEAST_OVERLAP = 0.01  # of the smaller footprint: neighbours that only touch, or share a line, do not count


@dataclass(frozen=True, slots=True)
class Leak:
    """One entry of each of two splits that should not stand on both sides."""

    kind: Kind
    """``group``: one group; ``content``: one image; ``footprint``: one place on Earth; ``continued image``:
    one image, cut into tiles."""
    split_a: str
    id_a: str
    split_b: str
    id_b: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.id_b} ({self.split_b}) and {self.id_a} ({self.split_a})"


def check_leakage(
    catalog: Catalog, *, pixels: bool = True, footprint_days: float | None = None
) -> list[Leak]:
    """Return what stands on both sides of train, validation or test sets.

    Looked for: a group in two splits; an image in two splits, by its decoded pixels (beyond 4 million pixels
    by its bytes); footprints that overlap by over 1 % of the smaller; and, among
    images without coordinates, tiles of one image that can be stitched together (`stitching`). Ids are
    unique in a catalog already. Of each kind, an entry leaks once into each earlier split. Entries without
    a split are left out.

    Args:
        catalog: its files are opened; raises `InputError` if one cannot be read.
        pixels: False leaves out ``content`` and ``continued image``, for which every file is read whole.
        footprint_days: footprints of scenes that were taken so many days apart, or more, may overlap; None:
            whatever their dates, they may not.
    """
    entries = [e for e in catalog.entries if e.split]
    order = [*(s for s in (TRAIN, VALIDATION) if s in catalog.splits), *catalog.test_sets]
    entries.sort(key=lambda e: order.index(e.split or ""))
    keys: dict[Kind, list[tuple[str, ...]]] = {"group": [(e.group,) if e.group else () for e in entries]}
    scenes = [open_entry(e) for e in entries]
    if pixels:
        keys["content"] = [content_hashes(e) for e in entries]
        keys["continued image"] = _continued(scenes)
    leaks = [leak for kind, values in keys.items() for leak in _shared(kind, entries, values)]
    return leaks + list(_overlapping(entries, scenes, footprint_days))


def same_ground(catalog: Catalog) -> tuple[str, ...]:
    """Return the test sets with a scene whose footprint overlaps one of training or validation, at any date."""
    entries = sorted((e for e in catalog.entries if e.split), key=lambda e: e.split in catalog.test_sets)
    leaks = list(_overlapping(entries, [open_entry(e) for e in entries], None))
    trained = {TRAIN, VALIDATION}
    tied = {s for k in leaks if {k.split_a, k.split_b} & trained for s in (k.split_a, k.split_b)} - trained
    return tuple(name for name in catalog.test_sets if name in tied)


def refuse_leaks(leaks: Iterable[Leak], allowed: Collection[str] = (), drawn: Collection[str] = ()) -> None:
    """Raise `LeakageError`, with counts and examples, unless every leak is allowed.

    Args:
        leaks: as `check_leakage` returns them.
        allowed: names of test sets that are declared to be of the same scenes as training: their groups,
            footprints and continued images pass. The same image twice never passes, nor does anything between
            training and validation.
        drawn: names of test sets drawn patch by patch from the training groups (`splits.draw_per_class`): with
            training, and with each other, they share groups and the images that patches were cut from. Patches that
            overlap on the ground are refused.
    """
    wrong = refused(leaks, allowed, drawn)
    if not wrong:
        return
    counts: dict[tuple[str, str, str], list[Leak]] = {}
    for leak in wrong:
        counts.setdefault((leak.kind, leak.split_a, leak.split_b), []).append(leak)
    lines = [
        f"{kind}: {len(found)} of {b!r} stand in {a!r} too, e.g. {found[0].id_a} and {found[0].id_b}"
        for (kind, a, b), found in counts.items()
    ]
    raise LeakageError(
        "the splits leak. "
        + "; ".join(lines)
        + ". Give what belongs together one `group` in the catalog and split by it, remove the copies, or, if a "
        "published test set is meant to be of the same scenes, list it under data.same_scenes in the recipe."
        + (FOOTPRINTS if any(leak.kind == "footprint" for leak in wrong) else "")
    )


def refused(leaks: Iterable[Leak], allowed: Collection[str] = (), drawn: Collection[str] = ()) -> list[Leak]:
    """Return the leaks that `refuse_leaks` refuses."""
    mixed = {TRAIN, *drawn}
    return [
        leak
        for leak in leaks
        if not (
            leak.kind in OF_SAME_SCENES
            and {leak.split_a, leak.split_b} & (set(allowed) - {TRAIN, VALIDATION})
        )
        and not (leak.kind in ONE_IMAGE and leak.split_a in mixed and leak.split_b in mixed)
    ]


def relation(catalog: Catalog, test_set: str, leaks: Iterable[Leak] = ()) -> str:
    """Say how a test set relates to what is trained on, in the words of `wording`.

    ``same scenes``: a group is shared, or one of `leaks` ties the two. ``unseen events``: every entry on both
    sides has a group and none is shared. ``not known``: groups are missing.
    """
    trained = [*catalog.in_split(TRAIN), *catalog.in_split(VALIDATION)]
    tested = catalog.in_split(test_set)
    sides = {TRAIN, VALIDATION}
    tied = any({k.split_a, k.split_b} & sides and test_set in (k.split_a, k.split_b) for k in leaks)
    groups = {e.group for e in trained}
    if tied or any(e.group in groups for e in tested if e.group):
        return SAME_SCENES
    return UNSEEN_EVENTS if tested and all(e.group for e in (*trained, *tested)) else NOT_KNOWN


def content_hashes(entry: Entry) -> tuple[str, ...]:
    """Return a SHA-256 for each file of an entry that holds an image: pixels and validity as they decode.

    Files of more than 4 million pixels are hashed by their bytes (folders: by the path). An image of one
    single value (all nodata, all black) is nobody's copy and is left out.
    """
    out = []
    for asset in entry.assets:
        scene = open_scene(asset.path, asset.reader, asset.bands)
        if scene.height * scene.width > WHOLE:
            out.append(_file_hash(asset.path))
            continue
        data, valid = scene.source.read(range(len(scene.bands)), scene.window)
        values = np.where(valid, data, np.zeros((), dtype=data.dtype)).astype(np.float32)
        if values.min() == values.max():
            continue
        digest = hashlib.sha256(f"{values.shape}".encode())
        digest.update(values.tobytes())
        digest.update(np.packbits(valid).tobytes())
        out.append(digest.hexdigest())
    return tuple(out)


def _file_hash(path: Path) -> str:
    if path.is_dir():
        return str(path.resolve())
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _continued(scenes: Sequence[Scene]) -> list[tuple[str, ...]]:
    """The number of the stitched image of each scene without coordinates, as a key; none for the others."""
    plain = [i for i, s in enumerate(scenes) if s.georeference == GeoReference()]
    labels = group_pairs(len(plain), stitch_lines([_lines(scenes[i]) for i in plain]))
    out: list[tuple[str, ...]] = [() for _ in scenes]
    for i, label in zip(plain, labels, strict=True):
        out[i] = (str(label),)
    return out


def _lines(scene: Scene) -> Lines:
    h, w = scene.height, scene.width
    if h * w <= WHOLE:
        return border_lines(scene.read().data)
    right, left = scene.read(window=Window(0, w - 1, h, 1)).data, scene.read(window=Window(0, 0, h, 1)).data
    bottom, top = scene.read(window=Window(h - 1, 0, 1, w)).data, scene.read(window=Window(0, 0, 1, w)).data
    return right[:, :, 0], left[:, :, 0], bottom[:, 0], top[:, 0]


def _shared(kind: Kind, entries: Sequence[Entry], keys: Sequence[tuple[str, ...]]) -> Iterator[Leak]:
    """Yield, for each entry, the first of each earlier split with which it shares a key."""
    holders: dict[str, dict[str, list[Entry]]] = {}
    for entry, mine in zip(entries, keys, strict=True):
        split = entry.split or ""
        partners: dict[str, Entry] = {}
        for key in mine:
            for other, held in holders.get(key, {}).items():
                first = next((e for e in held if other != split and not cut_apart(e, entry)), None)
                if first is not None:
                    partners[other] = first
        for other, partner in partners.items():
            yield Leak(kind, other, partner.id, split, entry.id)
        for key in mine:
            held = holders.setdefault(key, {}).setdefault(split, [])
            if entry.part is not None or all(
                e.part for e in held
            ):  # of whole scenes the first stands for all
                held.append(entry)


def cut_apart(one: Entry, other: Entry) -> bool:
    """Say whether two entries are the two sides of one scene: they share its group and footprint, and no pixel."""
    if one.part is None or other.part is None or one.assets != other.assets:
        return False
    return one.part.cut == other.part.cut and one.part.side != other.part.side


def _days_apart(one: Scene, other: Scene) -> float:
    """Return the days between two scenes; 0 where a time is not known."""
    if one.time is None or other.time is None:
        return 0.0
    return abs((as_utc(one.time) - as_utc(other.time)).total_seconds()) / 86400


def _overlapping(
    entries: Sequence[Entry], scenes: Sequence[Scene], footprint_days: float | None
) -> Iterator[Leak]:
    placed = [i for i, s in enumerate(scenes) if s.georeference.crs]
    if not placed:
        return
    import shapely

    from sartransfer.geotiff import footprint

    owners: list[int] = []
    outlines: list[NDArray[np.float64]] = []
    for i in placed:
        outline = footprint(scenes[i].georeference, scenes[i].height, scenes[i].width)
        if outline is not None:
            # a second copy a turn to the west, for those that run on past the antimeridian
            copies = [outline, outline - [360.0, 0.0]] if outline[:, 0].max() > 180 else [outline]
            owners += [i] * len(copies)
            outlines += copies
    shapes = [
        shapely.Polygon(o) if scenes[i].georeference.transform else _hull(o)
        for i, o in zip(owners, outlines, strict=True)
    ]
    seen: set[tuple[int, str]] = set()
    tree = shapely.STRtree(shapes)
    for a, b in sorted(
        {tuple(sorted((int(p), int(q)))) for p, q in tree.query(shapes, predicate="intersects").T}
    ):
        one, two = entries[owners[a]], entries[owners[b]]
        if one.split == two.split or (owners[b], one.split or "") in seen or cut_apart(one, two):
            continue
        if footprint_days is not None and _days_apart(scenes[owners[a]], scenes[owners[b]]) >= footprint_days:
            continue
        smaller = min(shapes[a].area, shapes[b].area)
        if shapes[a].intersection(shapes[b]).area > LEAST_OVERLAP * smaller:
            seen.add((owners[b], one.split or ""))
            yield Leak("footprint", one.split or "", one.id, two.split or "", two.id)


def _hull(points: NDArray[np.float64]) -> Any:
    import shapely

    return shapely.MultiPoint(points).convex_hull
