"""Tiles of 256 px from mapped floods: training filtered by the share flooded, tests whole, split by event."""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.catalog import IGNORE_INDEX, TRAIN, VALIDATION, Asset, Catalog, Entry, write_catalog
from sartransfer.data.rule_labels import RULE_TAG, rule_of_label
from sartransfer.errors import CatalogError, InputError, one_of
from sartransfer.geotiff import write_geotiff
from sartransfer.prepare.flood_pair import check_order
from sartransfer.prepare.patches import (
    CATALOG,
    MANIFEST,
    STRIP_VALUES,
    folder_names,
    open_folder,
    place_of,
    write_patch,
)
from sartransfer.readers import open_entry, open_scene, read_label, refuse_unsaid_labels
from sartransfer.runs import fingerprint, write_json
from sartransfer.scene import Band, Scene, Window

VERSION = 2  # 2: labels say of which rule they are
SIZE = 256
MIN_FLOODED = 0.1  # as in the flood paper, which filters its test tiles too
MIN_KNOWN = 0.7
TEST = "test"
LISTING = "tiles.json"
FILTERED = "catalog-filtered.csv"
PAPER = (156, 20, 20)
"""Training, validation and test tiles of the flood paper."""


@dataclass(frozen=True, slots=True)
class TileSettings:
    """How scenes are cut and which tiles are kept."""

    size: int = SIZE
    """Pixels a side."""
    min_flooded: float = MIN_FLOODED
    """Least share of a training tile's known pixels that is flooded."""
    min_known: float = MIN_KNOWN
    """Least share of a training or validation tile with a label and a value; a test tile needs one pixel."""
    flooded: str = "flooded"
    """The class whose share counts."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"size={self.size}: 1 pixel or more.")
        for name in ("min_flooded", "min_known"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name):g}: a share from 0 to 1.")


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile, and what is in it."""

    id: str
    event: str
    split: str
    row: int
    col: int
    known: float
    """Share of its pixels with a label and a value in every band."""
    flooded: float
    """Share of these that is flooded."""
    sha256: str
    """Of values, validity and label, as arrays."""


@dataclass(frozen=True, slots=True)
class PreparedTiles:
    """What was cut, and what was not."""

    catalog: Path
    filtered: Path
    """The same with the test tiles filtered as training is: for comparison with who did so."""
    listing: Path
    """``tiles.json``: settings, counts and hashes."""
    counts: dict[str, dict[str, int]]
    """Split -> event -> tiles."""
    filtered_tests: dict[str, int]
    """Test set -> its tiles that the filter of training would have kept."""
    left_out: dict[str, int]
    """Why -> places."""
    hash: str
    """Of all tiles, their splits and order."""


def prepare_tiles(
    catalog: Catalog,
    out: str | Path,
    settings: TileSettings | None = None,
    *,
    tests: Sequence[str] = (),
    validation: Sequence[str] = (),
    counts: tuple[int, int, int] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PreparedTiles:
    """Cut every scene of a catalog into tiles that do not overlap, with their labels and a catalog of their own.

    Splits are by event (the catalog's `group`): those named in `tests` are test sets of their own name, those in
    `validation` are validated on, the rest is trained on; a catalog that has splits already keeps them. Training tiles
    under ``min_flooded`` are left out; validation and test tiles never are, since a map is not made of flooded places
    alone. ``catalog-filtered.csv`` holds the tests filtered too, so that both can be reported. The labels of tiles of a
    rule's mask keep its tag (`data.rule_labels`), so that scores on them are called agreement.

    With `counts` (training, validation, test) tiles are drawn as the flood paper's must have been: from all events
    together, all filtered. Tiles of one flood are then on both sides, and a recipe must say so (same_scenes: [test]).

    Args:
        catalog: scenes with label rasters and events. out: new or empty folder, or of the same job, which goes on.
        settings: how tiles are cut and which are left out; None: `TileSettings()`.
        seed: of the draw, with `counts`. progress: told (scenes done, scenes in all).

    Raises:
        CatalogError: no class of that name, no label, no event, an event that is not there, no test.
        InputError: nothing is left, or fewer tiles than `counts`. OutputError: the folder holds something else.
    """
    out, settings = Path(out), settings or TileSettings()
    catalog = _split_by_event(_checked(catalog, settings), tests, validation, counts)
    open_folder(
        out,
        {"kind": "tiles", "version": VERSION, **asdict(settings), "content": fingerprint(catalog), "seed": seed,
         "splits": {e.id: e.split or "" for e in catalog.entries}, "counts": list(counts or ())},
    )  # fmt: skip
    tiles: list[Tile] = []
    entries: dict[str, Entry] = {}
    left_out = {"too little known": 0, "too little flooded": 0, "at the edges": 0}
    names = folder_names(catalog)
    for number, entry in enumerate(catalog.entries):
        scene = open_entry(entry)
        edge = -(-scene.height // settings.size) * -(-scene.width // settings.size)
        left_out["at the edges"] += edge - (scene.height // settings.size) * (scene.width // settings.size)
        for tile, made in _cut(
            catalog, entry, scene, settings, out / names[entry.id], left_out, counts is not None
        ):
            tiles.append(tile)
            entries[tile.id] = made
        if progress:
            progress(number + 1, len(catalog.entries))
    tiles = _drawn(tiles, counts, seed) if counts else tiles
    _check_any(tiles, left_out, out, names.values())
    return _finish(catalog, tiles, entries, settings, out, left_out, counts)


Pair = tuple[Path, Path, Path]
"""Before, after and mask."""


def pair_catalog(pairs: Mapping[str, Pair] | Iterable[tuple[str, Pair]]) -> Catalog:
    """Return a catalog of mapped floods: event -> (before, after, mask), as fetch and prepare flood write them.

    An event may have several pairs, as ``(event, pair)`` one after another: they are of one group, and so of one side
    of a split. Bands are called ``before_vv``, ``after_vv`` and so on, with the units that the files declare.

    Raises `InputError` for a pair given twice, a mask that cannot be read, and dates that are swapped; `CatalogError`
    for a mask of 0 and 255 alone, where 255 is not declared as nodata.
    """
    entries: list[Entry] = []
    rules, seen = [], set[Pair]()
    given = list(pairs.items() if isinstance(pairs, Mapping) else pairs)
    events = {event for event, _ in given}
    for event, (before, after, mask) in given:
        files = (before.resolve(), after.resolve(), mask.resolve())
        if files in seen:
            raise InputError(f"event {event!r}: the pair {before} and {after} is given twice. Give it once.")
        seen.add(files)
        ident, number = event, 1
        while ident in {e.id for e in entries} or (number > 1 and ident in events):
            number += 1
            ident = f"{event}-{number}"
        if not mask.is_file():
            raise InputError(
                f"the mask {mask} cannot be read: it is not there. Make it first (prepare flood)."
            )
        one, two = open_scene(before), open_scene(after)
        check_order(before, after, one, two)
        assets = tuple(
            Asset(path, "geotiff", tuple(_renamed(b, when, role) for b in scene.bands))
            for path, scene, when, role in (
                (before, one, "before", "reference"),
                (after, two, "after", "flood"),
            )
        )
        entries.append(Entry(ident, assets, label=mask, group=event, platform="Sentinel-1"))
        refuse_unsaid_labels(Catalog(ident, (entries[-1],), ("dry", "flooded")), entries[-1:])
        rules.append(f"{ident}: {_origin_of(mask)}")
    return Catalog(
        "floods",
        tuple(entries),
        ("dry", "flooded"),
        {0: 0, 1: 1, 255: IGNORE_INDEX},
        source="labels of " + "; ".join(rules),
    )


def _origin_of(mask: Path) -> str:
    """Return in words where a mask comes from, as far as it says so."""
    rule = rule_of_label(mask)
    return f"a rule from the same images ({rule})" if rule else "unknown origin"


def _renamed(band: Band, when: str, role: str) -> Band:
    return replace(band, name=f"{when}_{(band.polarization or band.name).lower()}", role=role)


def _checked(catalog: Catalog, settings: TileSettings) -> Catalog:
    if settings.flooded not in catalog.classes:
        raise CatalogError(one_of("flooded class", settings.flooded, catalog.classes))
    for entry in catalog.entries:
        if entry.label is None:
            raise CatalogError(
                f"entry {entry.id!r} has no label raster: map the flood first (prepare flood)."
            )
        if entry.group is None:
            raise CatalogError(f"entry {entry.id!r} names no event. Fill the column `group`.")
    refuse_unsaid_labels(catalog, catalog.entries)
    return catalog


def _split_by_event(
    catalog: Catalog, tests: Sequence[str], validation: Sequence[str], counts: tuple[int, int, int] | None
) -> Catalog:
    events = tuple(dict.fromkeys(e.group or "" for e in catalog.entries))
    for name in (*tests, *validation):
        if name not in events:
            raise CatalogError(one_of("event", name, events))
    if counts is not None:
        if tests or validation or min(counts) < 0 or counts[0] < 1 or counts[2] < 1:
            raise InputError(f"counts={counts}: training and test from 1, and no events beside them.")
        return catalog.with_entries(replace(e, split=TRAIN) for e in catalog.entries)
    given = {e.split for e in catalog.entries}
    if given != {None} and not tests and not validation:
        if None in given:
            raise CatalogError("some scenes have a split and some have none: fill the column, or empty it.")
        return catalog
    if not tests:
        raise CatalogError(
            f"no test: name the events to hold out whole (--test), of {', '.join(events)}; or draw tiles as the flood "
            "paper did (--counts 156,20,20), which says nothing of new floods."
        )
    split = {**dict.fromkeys(validation, VALIDATION), **{t: t for t in tests}}
    if all(event in split for event in events):
        raise CatalogError(
            f"no event is left to train on: {', '.join(events)} are all held out. Map another flood, or hold out fewer."
        )
    return catalog.with_entries(replace(e, split=split.get(e.group or "", TRAIN)) for e in catalog.entries)


def _cut(
    catalog: Catalog,
    entry: Entry,
    scene: Scene,
    settings: TileSettings,
    folder: Path,
    left_out: dict[str, int],
    filter_all: bool,
) -> Iterator[tuple[Tile, Entry]]:
    """Yield the tiles of a scene that are kept, written to the folder; count the others."""
    flooded = catalog.classes.index(settings.flooded)
    split = entry.split or TRAIN
    rule = rule_of_label(entry.label) if entry.label else None
    tags = {RULE_TAG: rule} if rule else None
    for window, values, valid, label in _windows(catalog, entry, scene, settings.size):
        known = (label != IGNORE_INDEX) & valid.all(axis=0)
        share = float(known.mean())
        wet = float((label[known] == flooded).mean()) if known.any() else 0.0
        tested = split not in (TRAIN, VALIDATION) and not filter_all
        if not known.any() or (not tested and share < settings.min_known):
            left_out["too little known"] += 1
            continue
        if (split == TRAIN or filter_all) and wet < settings.min_flooded:
            left_out["too little flooded"] += 1
            continue
        name = f"r{window.row:05d}_c{window.col:05d}"
        label = np.where(known, label, np.uint8(IGNORE_INDEX))
        image, mask = folder / f"{name}.tif", folder / f"{name}_label.tif"
        folder.mkdir(exist_ok=True)
        if not image.exists():
            write_patch(image, scene, window, values, valid)
        if not mask.exists():
            place = place_of(scene, window)
            write_geotiff(
                mask, label, georeference=place, descriptions=["class"], nodata=float(IGNORE_INDEX), tags=tags
            )
        tile = Tile(
            f"{entry.id}_{name}", entry.group or entry.id, split, window.row, window.col, share, wet,
            _hash(values, valid, label),
        )  # fmt: skip
        made = replace(
            entry, id=tile.id, assets=(Asset(image, "geotiff", scene.bands),), label=mask, split=split
        )
        yield tile, made


def _windows(
    catalog: Catalog, entry: Entry, scene: Scene, size: int
) -> Iterator[tuple[Window, NDArray[np.generic], NDArray[np.bool_], NDArray[np.uint8]]]:
    """Yield whole tiles with raw values and validity (B, s, s) and label (s, s), reading strips of rows."""
    strip = size * max(1, STRIP_VALUES // max(1, len(scene.bands) * scene.width * size))
    for top in range(0, scene.height, strip):
        part = Window(top, 0, min(strip, scene.height - top), scene.width)
        values, valid = scene.source.read(range(len(scene.bands)), part)
        valid = valid & np.isfinite(values)
        label = read_label(entry, catalog, part)
        for row in range(0, part.height - size + 1, size):
            for col in range(0, scene.width - size + 1, size):
                rows, cols = slice(row, row + size), slice(col, col + size)
                window = Window(top + row, col, size, size)
                yield window, values[:, rows, cols], valid[:, rows, cols], label[rows, cols]


def _hash(values: NDArray[Any], valid: NDArray[np.bool_], label: NDArray[np.uint8]) -> str:
    digest = hashlib.sha256(f"{values.shape} {values.dtype}".encode())
    for array in (np.where(valid, values, np.zeros((), values.dtype)), valid, label):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _drawn(tiles: list[Tile], counts: tuple[int, int, int], seed: int) -> list[Tile]:
    """Return so many tiles for training, validation and test, drawn from all together; in the order of the scenes."""
    if len(tiles) < sum(counts):
        raise InputError(
            f"{len(tiles)} tiles are left, {sum(counts)} were asked for ({counts[0]} + {counts[1]} + {counts[2]}). Map "
            "a larger area, or lower min_flooded or min_known."
        )
    order = np.random.default_rng(seed).permutation(len(tiles))
    ends = np.cumsum(counts)
    split = {int(i): (TRAIN, VALIDATION, TEST)[int(np.searchsorted(ends, n, "right"))]
             for n, i in enumerate(order[: ends[-1]])}  # fmt: skip
    return [replace(tile, split=split[i]) for i, tile in enumerate(tiles) if i in split]


def _check_any(tiles: Sequence[Tile], left_out: Mapping[str, int], out: Path, folders: Iterable[str]) -> None:
    if any(t.split == TRAIN for t in tiles) and any(t.split not in (TRAIN, VALIDATION) for t in tiles):
        return
    for name in folders:  # other settings may try the same folder
        shutil.rmtree(out / name, ignore_errors=True)
    (out / MANIFEST).unlink()
    why = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
    raise InputError(
        f"no training tile or no test tile is left: {why}. Lower size, min_flooded or min_known."
    )


def _finish(
    catalog: Catalog,
    tiles: Sequence[Tile],
    entries: Mapping[str, Entry],
    settings: TileSettings,
    out: Path,
    left_out: dict[str, int],
    counts: tuple[int, int, int] | None,
) -> PreparedTiles:
    """Write the listing, then the filtered catalog, then the catalog, whose being there says that all is."""
    by_split: dict[str, dict[str, int]] = {}
    for tile in tiles:
        events = by_split.setdefault(tile.split, {})
        events[tile.event] = events.get(tile.event, 0) + 1
    tests = [s for s in by_split if s not in (TRAIN, VALIDATION)]
    kept = {s: sum(t.split == s and _passes(t, settings) for t in tiles) for s in tests}
    whole = hashlib.sha256("\n".join(f"{t.id} {t.split} {t.sha256}" for t in tiles).encode()).hexdigest()
    how = (
        "tiles of all events drawn into training, validation and test, all filtered: scores say nothing of new floods"
        if counts
        else "split by event; training filtered, tests whole"
    )
    write_json(
        out / LISTING,
        {"version": VERSION, **asdict(settings), "how": how, "counts": by_split, "tests_filtered": kept,
         "left_out": left_out, "hash": whole, "tiles": [asdict(t) for t in tiles]},
    )  # fmt: skip
    source = "; ".join(s for s in (catalog.source, how) if s)
    name = f"{catalog.name}, tiles of {settings.size} px"
    made = Catalog(
        name, tuple(replace(entries[t.id], split=t.split) for t in tiles), catalog.classes, source=source
    )
    strict = made.with_entries(
        e
        for e, t in zip(made.entries, tiles, strict=True)
        if t.split in (TRAIN, VALIDATION) or _passes(t, settings)
    )
    filtered = write_catalog(replace(strict, name=f"{name}, tests filtered"), out / FILTERED, overwrite=True)
    path = write_catalog(made, out / CATALOG)
    return PreparedTiles(path, filtered, out / LISTING, by_split, kept, left_out, whole)


def _passes(tile: Tile, settings: TileSettings) -> bool:
    return tile.flooded >= settings.min_flooded and tile.known >= settings.min_known
