"""Preparing one's own data: scenes with label rasters cut into patches with one class each."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.catalog import Asset, Catalog, Entry, write_catalog
from sartransfer.data.tiling import MIN_KNOWN, MIN_SHARE, Tiling, check_tiling, tile_labels
from sartransfer.errors import CatalogError, InputError, OutputError, one_of
from sartransfer.geotiff import write_geotiff
from sartransfer.readers import open_entry, read_label, refuse_unsaid_labels
from sartransfer.runs import fingerprint, read_json, write_json
from sartransfer.scene import GeoReference, Scene, Window

VERSION = (
    1  # raise when patches come out otherwise, so that a stopped job of an older version is not gone on with
)
STRIP_VALUES = 1 << 26  # values of a scene that are held in memory at once, about
CATALOG = "catalog.csv"
MANIFEST = "prepare.json"


@dataclass(frozen=True, slots=True)
class PreparedPatches:
    """What was cut, and what was not."""

    catalog: Path
    """The catalog of the patches."""
    counts: dict[str, int]
    """Class -> patches; a class without any is 0."""
    groups: int
    """Collections that the patches come from."""
    unknown: int
    """Places left out since too few of their pixels have a label and a value."""
    mixed: int
    """Places left out since no class has the wanted share, or two have the same."""
    edge: int
    """Places left out at the right and lower edges, where a whole patch does not fit."""


def prepare_patches(
    catalog: Catalog,
    out: str | Path,
    size: int = 160,
    *,
    min_share: float = MIN_SHARE,
    min_known: float = MIN_KNOWN,
    progress: Callable[[int, int], None] | None = None,
) -> PreparedPatches:
    """Cut every scene of a catalog into patches that do not overlap, and write them with a catalog of their own.

    A patch has the class that most of its pixels have (`data.tiling.tile_labels`); where the catalog names a
    class instead of a label raster, all of a scene's patches have it. Patches are GeoTIFFs in the type the scene has
    (16 bits stay 16 bits), with its units, bands and place, ``out/<scene>/r<row>_c<col>.tif``; the collection (the
    catalog's `group`) is the scene's group, or its id. Split, time and platform stay the scene's.

    Stopped and called again with the same arguments, it goes on where it was; ``catalog.csv`` comes last, so that
    its being there says that all is.

    Args:
        catalog: scenes with labels. out: the folder to write to; new, empty, or of the same job.
        size: pixels a side. min_share: least share of the winning class among the known pixels.
        min_known: least share of pixels with a label and a value. progress: told (scenes done, scenes in all).

    Raises:
        OutputError: the folder holds something else, or a finished job. InputError: not one patch came of it, or a
        scene cannot be read. CatalogError: no classes, or a scene with neither label nor class.
    """
    out = Path(out)
    check_tiling(size, min_share, min_known)
    _check_labels(catalog)
    settings = {
        "version": VERSION, "size": size, "min_share": min_share, "min_known": min_known,
        "content": fingerprint(catalog),
    }  # fmt: skip
    open_folder(out, settings)
    folders = folder_names(catalog)
    entries: list[Entry] = []
    unknown = mixed = edge = 0
    for number, entry in enumerate(catalog.entries):
        scene = open_entry(entry)
        for tiling, values, valid, top in _tilings(catalog, entry, scene, size, min_share, min_known):
            unknown, mixed, edge = unknown + tiling.unknown, mixed + tiling.mixed, edge + tiling.edge
            for window, category in zip(tiling.windows, tiling.classes, strict=True):
                name = f"r{window.row:05d}_c{window.col:05d}"
                path = out / folders[entry.id] / f"{name}.tif"
                if not path.exists():
                    path.parent.mkdir(exist_ok=True)
                    part = replace(window, row=window.row - top).slices
                    write_patch(path, scene, window, values[:, *part], valid[:, *part])
                entries.append(_entry(entry, name, path, scene, catalog.classes[category]))
        if progress:
            progress(number + 1, len(catalog.entries))
    if not entries:
        (out / MANIFEST).unlink()  # nothing was begun: other settings may try the same folder
        raise InputError(
            f"no patch of {size} px came of {len(catalog.entries)} scenes: {unknown} places with too few known pixels, "
            f"{mixed} without a clear majority, {edge} at the edges. Lower size, min_known or min_share."
        )
    name = f"{catalog.name}, patches of {size} px"
    made = Catalog(name, tuple(entries), catalog.classes, source=catalog.source)
    path = write_catalog(made, out / CATALOG)
    counts = {c: sum(e.category == c for e in entries) for c in catalog.classes}
    return PreparedPatches(path, counts, len({e.group for e in entries}), unknown, mixed, edge)


def _entry(entry: Entry, name: str, path: Path, scene: Scene, category: str) -> Entry:
    """Return the catalog entry of one patch: its scene's, with a class of its own."""
    return replace(
        entry,
        id=f"{entry.id}_{name}",
        assets=(Asset(path, "geotiff", scene.bands),),
        label=None,
        category=category,
        group=entry.group or entry.id,
    )


def _check_labels(catalog: Catalog) -> None:
    if not catalog.classes:
        raise CatalogError(f"catalog {catalog.name!r} names no classes: patches cannot be labelled.")
    for entry in catalog.entries:
        if entry.label is None and entry.category is None:
            raise CatalogError(
                f"entry {entry.id!r} has neither a label raster nor a class. Fill the column `label` or `class`, "
                "or take it out."
            )
        if entry.label is None and entry.category not in catalog.classes:
            raise CatalogError(f"entry {entry.id!r}: {one_of('class', entry.category, catalog.classes)}")
    refuse_unsaid_labels(catalog, catalog.entries)


def open_folder(out: Path, settings: dict[str, Any]) -> None:
    """Make the folder, or find it as the same job left it."""
    manifest = out / MANIFEST
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file. Name a folder.")
    if not manifest.exists():
        if out.is_dir() and any(out.iterdir()):
            raise OutputError(f"{out} holds something else ({MANIFEST} is not there). Name a new folder.")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{out} cannot be made: {error.strerror}.") from error
        write_json(manifest, settings)
        return
    found = read_json(manifest)
    if found != settings:
        odd = [k for k in settings if not isinstance(found, dict) or found.get(k) != settings[k]]
        raise OutputError(f"{out} holds patches of another job (other {', '.join(odd)}). Name a new folder.")
    if (out / CATALOG).exists():
        raise OutputError(
            f"{out / CATALOG} exists already: these patches are done. Use it, or name a new folder."
        )


def folder_names(catalog: Catalog) -> dict[str, str]:
    """Return a folder name for each entry; a number is added where two ids come to the same."""
    names: dict[str, str] = {}
    taken: set[str] = {CATALOG, MANIFEST}
    for entry in catalog.entries:
        plain = re.sub(r"[^\w.-]+", "_", entry.id).strip(".") or "scene"
        name, number = plain, 1
        while name.lower() in taken:
            number += 1
            name = f"{plain}-{number}"
        taken.add(name.lower())
        names[entry.id] = name
    return names


def _tilings(
    catalog: Catalog, entry: Entry, scene: Scene, size: int, min_share: float, min_known: float
) -> Iterator[tuple[Tiling, NDArray[np.generic], NDArray[np.bool_], int]]:
    """Tile a scene strip by strip: the tiling, raw values and validity (B, h, W), and the strip's first row."""
    indices = range(len(scene.bands))
    rows = size * max(1, STRIP_VALUES // (len(scene.bands) * scene.width * max(1, size)))
    for top in range(0, scene.height, rows):
        window = Window(top, 0, min(rows, scene.height - top), scene.width)
        values, valid = scene.source.read(indices, window)
        valid = valid & np.isfinite(values)
        if entry.label is None:
            label = np.full(valid.shape[1:], catalog.classes.index(entry.category or ""), dtype=np.uint8)
        else:
            label = read_label(entry, catalog, window)
        tiling = tile_labels(
            label, valid.all(axis=0), size, min_share=min_share, min_known=min_known, first_row=top
        )
        yield tiling, values, valid, top


def write_patch(
    path: Path, scene: Scene, window: Window, values: NDArray[np.generic], valid: NDArray[np.bool_]
) -> None:
    nodata = None
    if not valid.all():
        values, nodata = _marked(values, valid)
    write_geotiff(
        path,
        values,
        georeference=place_of(scene, window),
        descriptions=scene.names,
        units=[str(b.unit) for b in scene.bands],
        nodata=nodata,
        overwrite=True,
    )


def _marked(values: NDArray[Any], valid: NDArray[np.bool_]) -> tuple[NDArray[Any], float]:
    """Return values (B, H, W) with one number that no valid pixel has where they are not valid, and the number."""
    if values.dtype.kind == "f":
        return np.where(valid, values, np.array(np.nan, values.dtype)), float("nan")
    values = values.astype(np.uint8) if values.dtype == bool else values
    limits = np.iinfo(values.dtype)
    used = set(np.unique(values[valid]).tolist())
    numbers = (0, limits.max, *range(limits.min, limits.min + len(used) + 1))
    free = (n for n in numbers if n not in used and n <= limits.max)
    number = next(free, None)
    if number is None:  # all 256 values of 8 bits are in use: a wider type has room
        wider = np.promote_types(values.dtype, np.int16 if values.dtype.itemsize == 1 else np.int32)
        return _marked(values.astype(wider), valid)
    return np.where(valid, values, np.array(number, values.dtype)), number


def place_of(scene: Scene, window: Window) -> GeoReference:
    """Return where a window of a scene is on Earth: its transform moved, or control points at its own corners."""
    whole = scene.georeference
    if whole.transform is not None:
        a, b, c, d, e, f = whole.transform
        west = c + a * window.col + b * window.row
        north = f + d * window.col + e * window.row
        return GeoReference(whole.crs, (a, b, west, d, e, north))
    if len(whole.gcps) < 3:
        return GeoReference(whole.crs)
    # The scene's own points lie all over it: kept, every patch would claim the whole scene's footprint.
    rows = np.array([0.0, 0.0, window.height, window.height])
    cols = np.array([0.0, window.width, window.width, 0.0])
    points = _interpolated(np.array(whole.gcps), rows + window.row, cols + window.col)
    corners = np.column_stack([rows, cols, points])
    return GeoReference(whole.crs, gcps=tuple((p[0], p[1], p[2], p[3], p[4]) for p in corners.tolist()))


def _interpolated(
    gcps: NDArray[np.float64], rows: NDArray[np.float64], cols: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return x, y, z (N, 3) at pixel corners: linear between control points (N, 5), a plane beyond them."""
    from scipy.interpolate import LinearNDInterpolator
    from scipy.spatial import QhullError

    plane, *_ = np.linalg.lstsq(np.column_stack([np.ones(len(gcps)), gcps[:, :2]]), gcps[:, 2:], rcond=None)
    flat: NDArray[np.float64] = np.column_stack([np.ones(len(rows)), rows, cols]) @ plane
    try:
        # What the plane leaves over is interpolated: exact on the points, and smooth where there are none.
        left = gcps[:, 2:] - np.column_stack([np.ones(len(gcps)), gcps[:, :2]]) @ plane
        bent = LinearNDInterpolator(gcps[:, :2], left, fill_value=0.0)(rows, cols)
    except QhullError:  # all points on one line
        return flat
    return np.asarray(flat + bent, dtype=np.float64)
