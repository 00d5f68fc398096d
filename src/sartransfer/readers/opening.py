"""Which reader opens which file; a catalog's entry as one scene; its label on the same grid."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sartransfer.catalog import IGNORE_INDEX, Asset, Catalog, Entry
from sartransfer.errors import CatalogError, InputError, SartransferError, nearest, one_of
from sartransfer.parts import PartSource
from sartransfer.radar.units import UNIT_NAMES, UNKNOWN
from sartransfer.readers.ai4arctic import open_ai4arctic, read_ai4arctic_label
from sartransfer.readers.array import open_array, read_key
from sartransfer.readers.display import open_display
from sartransfer.readers.geotiff import open_geotiff_scene
from sartransfer.readers.image import open_image, read_image_values
from sartransfer.readers.mstar import is_phoenix, open_mstar
from sartransfer.readers.sentinel1 import is_sentinel1, open_sentinel1
from sartransfer.readers.terrasarx import is_terrasarx, open_terrasarx
from sartransfer.scene import Band, GeoReference, Scene, Source, Window, as_utc, parse_bands

Reader = Callable[[Path, tuple[Band, ...]], Scene]

READERS: dict[str, Reader] = {
    "geotiff": open_geotiff_scene,
    "image": open_image,
    "array": open_array,
    "display": open_display,
    "ai4arctic": open_ai4arctic,
    "mstar": open_mstar,
    "sentinel1": open_sentinel1,
    "terrasarx": open_terrasarx,
}

DETECTORS: dict[str, Callable[[Path], bool]] = {
    "mstar": is_phoenix,
    "sentinel1": is_sentinel1,
    "terrasarx": is_terrasarx,
}
"""Readers known by what a file or folder holds; asked in turn where the ending says nothing."""

ENDINGS = {
    ".tif": "geotiff",
    ".tiff": "geotiff",
    ".png": "image",
    ".jpg": "image",
    ".jpeg": "image",
    ".npz": "array",
    ".nc": "ai4arctic",
}


@dataclass(frozen=True, slots=True)
class StackedSource:
    """The bands of several files on one grid, as one source."""

    sources: tuple[Source, ...]
    counts: tuple[int, ...]
    """Bands of each source."""

    def read(self, indices: Sequence[int], window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read each file once, only if one of its bands is asked for, and keep the asked order."""
        firsts = np.cumsum((0, *self.counts))
        values: dict[int, NDArray[np.generic]] = {}
        valid: dict[int, NDArray[np.bool_]] = {}
        for source, first, count in zip(self.sources, firsts, self.counts, strict=False):
            mine = [i for i in indices if first <= i < first + count]
            if mine:
                data, good = source.read([int(i - first) for i in mine], window)
                values.update(zip(mine, data, strict=True))
                valid.update(zip(mine, good, strict=True))
        return np.stack([values[i] for i in indices]), np.stack([valid[i] for i in indices])


def open_scene(path: str | Path, reader: str | None = None, bands: Sequence[Band] | None = None) -> Scene:
    """Open a file as a scene; pixels are read later, by window.

    Args:
        path: a file, or the folder of a product. In a catalog, name a TerraSAR-X product by its XML file.
        reader: a key of `READERS`; None: by the ending (`ENDINGS`), or else by the content (`DETECTORS`). TIFF
            goes to ``geotiff``, which needs rasterio; ``reader="image"`` opens a plain TIFF without it, and then
            nodata is not known.
        bands: what its bands are, in file order; None: as the file says.

    Raises `InputError` for a missing file, an unknown ending or reader, or a damaged file.
    """
    path = Path(path)
    if reader is None:
        reader = _ending(path) or next((name for name, found in DETECTORS.items() if found(path)), None)
        if reader is None:
            what = "this folder" if path.is_dir() else repr(path.suffix)
            raise InputError(
                f"{path}: no reader is known for {what}. Must be one of: {', '.join(ENDINGS)}"
                f"; or name one of the readers: {', '.join(READERS)}.{nearest(path.suffix, ENDINGS)}"
            )
    if reader not in READERS:
        raise InputError(f"{path}: {one_of('reader', reader, READERS)}")
    if not path.exists():
        raise InputError(
            f"{path} is not there. Check the path; a catalog's paths are relative to the catalog."
        )
    return READERS[reader](path, tuple(bands or ()))


def _ending(path: Path) -> str | None:
    return None if path.is_dir() else ENDINGS.get(path.suffix.lower())


def open_files(files: str, bands: str | None = None, reader: str | None = None) -> Scene:
    """Open a scene as people write it: one path, or several files of one scene as ``before.tif|after.tif``.

    `bands`: what the bands are, in the words of `scene.parse_bands`, file by file with the same ``|``. `reader`: a key
    of `READERS` for all files, or file by file with the same ``|``, empty where the ending says it; None: all do.
    """
    paths = [Path(p.strip()) for p in files.split("|")]
    words = [w.strip() for w in bands.split("|")] if bands else [""] * len(paths)
    if len(words) != len(paths):
        raise InputError(f"{len(paths)} files, but bands for {len(words)}: separate both with '|', alike.")
    readers = [r.strip() or None for r in reader.split("|")] if reader else [None]
    readers *= len(paths) if len(readers) == 1 else 1
    if len(readers) != len(paths):
        raise InputError(
            f"{len(paths)} files, but {len(readers)} readers: separate both with '|', alike, or name one."
        )
    assets = tuple(
        Asset(p, r, parse_bands(w) if w else ()) for p, r, w in zip(paths, readers, words, strict=True)
    )
    if len(assets) == 1:
        return open_scene(assets[0].path, assets[0].reader, assets[0].bands or None)
    return open_entry(Entry(id=paths[-1].stem, assets=assets))


def open_entry(entry: Entry) -> Scene:
    """Open all files of a catalog entry as one scene: their bands stacked on one grid, in catalog order.

    Of an entry that is a part of a scene, what lies outside the part is not valid.

    Time and platform are the entry's, or those of the file that was taken last: of a pair a map shows what is after.
    The georeference is that of the first file that has one. Raises `InputError` if sizes, georeferences or coordinate
    systems do not agree, two bands have one name, or what is called ``before`` was taken later than what is called
    ``after``.
    """
    scenes = [open_scene(a.path, a.reader, a.bands) for a in entry.assets]
    first = scenes[0]
    for asset, scene in zip(entry.assets, scenes, strict=True):
        if (scene.height, scene.width) != (first.height, first.width):
            raise InputError(
                f"entry {entry.id!r}: {entry.assets[0].path} has {first.height} x {first.width} pixels, "
                f"{asset.path} has {scene.height} x {scene.width}. Bring them onto one grid first."
            )
    placed = [s for s in scenes if s.georeference != GeoReference()]
    georeference = placed[0].georeference if placed else GeoReference()
    for scene in placed[1:]:
        check_place(entry, "images", placed[0], scene.georeference)
    source: Source = first.source
    if len(scenes) > 1:
        source = StackedSource(tuple(s.source for s in scenes), tuple(len(s.bands) for s in scenes))
    if entry.part is not None:
        source = PartSource(source, entry.part)
    names = [b.name for s in scenes for b in s.bands]
    if len(set(names)) != len(names):
        raise InputError(
            f"entry {entry.id!r}: two bands have one name ({', '.join(names)}). Name them in `bands`, and "
            f"what their numbers are: before=UNIT|after=UNIT, where UNIT is one of "
            f"{', '.join(u for u in UNIT_NAMES if u != str(UNKNOWN))}."
        )
    _check_dates(entry, scenes)
    last = max(scenes, key=_taken)
    return Scene(
        id=entry.id,
        bands=tuple(b for s in scenes for b in s.bands),
        height=first.height,
        width=first.width,
        source=source,
        georeference=georeference,
        time=entry.time or last.time,
        platform=entry.platform or last.platform,
    )


def _taken(scene: Scene) -> datetime:
    """Return when a scene was taken, to compare it with others; one that does not say is the oldest."""
    return as_utc(scene.time or datetime.min)


def _check_dates(entry: Entry, scenes: Sequence[Scene]) -> None:
    """Refuse a pair whose files are swapped, where bands say which is which and their files say when."""
    dates: dict[str, list[tuple[datetime, Path, str]]] = {"before": [], "after": []}
    for asset, scene in zip(entry.assets, scenes, strict=True):
        for band in scene.bands:
            time = band.time or scene.time
            for when in dates if time else ():
                if band.role == when or when in band.name.lower().split("_"):
                    dates[when].append((as_utc(time), asset.path, band.name))  # type: ignore[arg-type]
    if not dates["before"] or not dates["after"]:
        return
    (first, one, before), (last, two, after) = max(dates["before"]), min(dates["after"])
    if first > last:
        raise InputError(
            f"entry {entry.id!r}: band {before!r} is of {first:%Y-%m-%dT%H:%M:%SZ} ({one}), band {after!r} of "
            f"{last:%Y-%m-%dT%H:%M:%SZ} ({two}): the two files are swapped. Give the earlier one as `before`."
        )


def read_label(entry: Entry, catalog: Catalog, window: Window | None = None) -> NDArray[np.uint8]:
    """Read the label of an entry as class indices (H, W) uint8, `IGNORE_INDEX` where there is none.

    Raster values become classes by ``catalog.label_values``; where that is empty, they must be class indices
    or `IGNORE_INDEX` already. Nodata of a GeoTIFF is ignored unless it is listed. Raises `InputError` for a
    value that is not listed, nodata that is a class index where nothing is listed, a raster of another size or place
    than the scene, or a missing label; `CatalogError` for more classes than eight bits tell apart.
    """
    refuse_many_classes(catalog)
    if entry.label is None:
        raise InputError(f"entry {entry.id!r} has no label raster. Name one in the catalog's column `label`.")
    scene = open_entry(entry)
    values, valid, place = _label_values(entry.label)
    if values.shape != (scene.height, scene.width):
        raise InputError(
            f"entry {entry.id!r}: the label {entry.label} has {values.shape[0]} x {values.shape[1]} pixels, "
            f"the scene has {scene.height} x {scene.width}. Bring them onto one grid first."
        )
    check_place(entry, "scene and label", scene, place)
    if window is not None:
        if not window.is_inside(scene.height, scene.width):
            raise InputError(f"{window} leaves scene {entry.id!r} of {scene.height} x {scene.width} pixels.")
        rows, cols = window.slices
        values, valid = values[rows, cols], valid[rows, cols]
    table = catalog.label_values or {i: i for i in (*range(len(catalog.classes)), IGNORE_INDEX)}
    if not catalog.label_values and not valid.all():
        _refuse_nodata_class(values, valid, catalog.classes, entry)
    classes = _classes(values, valid, table, entry.label)
    if entry.part is not None:
        classes[~entry.part.mask(window or scene.window)] = IGNORE_INDEX
    return classes


def refuse_many_classes(catalog: Catalog) -> None:
    """Raise `CatalogError` for more classes than a raster of class indices can hold beside `IGNORE_INDEX`."""
    if len(catalog.classes) > IGNORE_INDEX:
        raise CatalogError(
            f"catalog {catalog.name!r} has {len(catalog.classes)} classes; label rasters tell at most {IGNORE_INDEX} "
            f"apart ({IGNORE_INDEX} is what is ignored). Join classes with label_values, or leave some out."
        )


def _refuse_nodata_class(
    values: NDArray[np.generic], valid: NDArray[np.bool_], classes: Sequence[str], entry: Entry
) -> None:
    """Refuse a label whose nodata is a class index too: nothing says whether it is that class or nothing."""
    hidden = values[~valid]
    found = sorted(
        {int(v) for v in np.unique(hidden[np.isfinite(hidden)]) if 0 <= v < len(classes) and v == int(v)}
    )
    if not found:
        return
    first = found[0]
    count, example = int((hidden == first).sum()), {str(i): i for i in range(len(classes))}
    raise InputError(
        f"entry {entry.id!r}: its label {entry.label} declares {first} as nodata (or masks {count} pixels of it), and "
        f"{first} is the class {classes[first]!r} too. Say in label_values which it is: "
        f'"{first}": {first} if it is {classes[first]}, "{first}": {IGNORE_INDEX} if it is to be ignored; with all '
        f"classes, such as {json.dumps(example)} (in a recipe, data.label_values with the names of classes or ignore)."
    )


def unsaid_labels(catalog: Catalog, entries: Sequence[Entry]) -> tuple[Entry, str] | None:
    """Say whether the labels of `entries` are a mask of 0 and 255 of which nothing says what 255 means.

    Most masks of a flood are written so, and 255 is ignored where ``catalog.label_values`` does not say otherwise: all
    that is flooded would be left out. Nodata that a file declares says what it is, and so does any other class number
    in one of the labels: they are class indices then. Labels that cannot be read are left to who reads them.

    Returns:
        The first entry whose label holds such a 255, and a sentence; None where all is said.
    """
    if catalog.label_values:
        return None
    found: Entry | None = None
    looked = set()
    for entry in entries:
        if entry.label is None or entry.label in looked:
            continue
        looked.add(entry.label)
        try:
            values, valid, _ = _label_values(entry.label)
        except SartransferError:
            continue
        masked = valid & (values == IGNORE_INDEX)
        if bool((valid & np.isfinite(values) & (values != 0) & ~masked).any()):
            return None
        if found is None and bool(masked.any()):
            found = entry
    if found is None:
        return None
    dry, flooded = catalog.classes[:2] if len(catalog.classes) > 1 else ("dry", "flooded")
    return found, (
        f"its label {found.label} holds {IGNORE_INDEX}, and the {len(looked)} label(s) of its set hold nothing else "
        f"but 0. {IGNORE_INDEX} is ignored where nothing says what it means: is it {flooded}? Then say so in the "
        f'catalog\'s header, # {{"label_values": {{"0": 0, "{IGNORE_INDEX}": 1}}}}, or in a recipe, data.label_values: '
        f"{{0: {dry}, {IGNORE_INDEX}: {flooded}}}. If it is to be ignored, say that: "
        f'"{IGNORE_INDEX}": {IGNORE_INDEX}, or {IGNORE_INDEX}: ignore. Or write the labels with class numbers.'
    )


def refuse_unsaid_labels(catalog: Catalog, entries: Sequence[Entry]) -> None:
    """Raise `CatalogError` where the labels of `entries`, a whole set, are of 0 and 255 alone (`unsaid_labels`)."""
    found = unsaid_labels(catalog, entries)
    if found is not None:
        raise CatalogError(f"entry {found[0].id!r}: {found[1]}")


def _classes(
    values: NDArray[np.generic], valid: NDArray[np.bool_], table: dict[int, int], path: Path
) -> NDArray[np.uint8]:
    found, inverse = np.unique(values, return_inverse=True)
    used = np.bincount(inverse.ravel()[valid.ravel()], minlength=len(found)) > 0
    classes = np.full(len(found), IGNORE_INDEX, dtype=np.uint8)
    for i, value in enumerate(found):
        number = float(value)
        if np.isfinite(number) and number in table:
            classes[i] = table[int(number)]
        elif used[i]:
            raise InputError(
                f"{path}: label value {value} is not listed. "
                f"Listed: {', '.join(str(v) for v in sorted(table))}. "
                f"Say what it means in `label_values` ({IGNORE_INDEX} to ignore it)."
            )
    return classes[inverse].reshape(values.shape)


def _label_values(path: Path) -> tuple[NDArray[np.generic], NDArray[np.bool_], GeoReference]:
    """Return a label raster's raw values (H, W), where they are valid, and where it is on Earth."""
    kind = ENDINGS.get(path.suffix.lower())
    if kind == "array":
        scene = open_array(path)
        values = read_key(path, "label")
        return values, np.ones(values.shape, dtype=bool), scene.georeference
    if kind == "geotiff":
        scene = open_scene(path, kind)
        if len(scene.bands) != 1:
            raise InputError(f"{path}: a label raster must have one band; this one has {len(scene.bands)}.")
        data, valid = scene.source.read([0], scene.window)
        return data[0], valid[0], scene.georeference
    if kind == "ai4arctic":
        packed = read_ai4arctic_label(path)
        return packed, np.ones(packed.shape, dtype=bool), GeoReference()
    if kind is None:
        raise InputError(f"{path}: no label can be read from {path.suffix!r}: {', '.join(ENDINGS)} can.")
    values = read_image_values(path)
    return values, np.ones(values.shape, dtype=bool), GeoReference()


def check_place(entry: Entry, what: str, scene: Scene, other: GeoReference) -> None:
    """Refuse rasters of one size that lie elsewhere: a corner more than half a pixel away, in the scene's CRS."""
    place = scene.georeference
    if place.transform is None or other.transform is None:
        return
    a, b = (np.array(t).reshape(2, 3) for t in (place.transform, other.transform))
    corners = np.array(
        [[0, 0, 1], [scene.width, 0, 1], [0, scene.height, 1], [scene.width, scene.height, 1]]
    ).T
    here, there, systems = a @ corners, b @ corners, ""
    if place.crs is not None and other.crs is not None and place.crs != other.crs:
        there, systems = _into(entry, place.crs, other.crs, there)
    if (
        not np.abs(here - there).max() <= 0.5 * np.abs(a[:, :2]).max()
    ):  # NaN: no such place in the scene's CRS
        raise InputError(
            f"entry {entry.id!r}: {what} do not lie on one grid: transforms {place.transform} and "
            f"{other.transform}{systems}. Warp one onto the other first."
        )


def _into(
    entry: Entry, target: str, source: str, points: NDArray[np.float64]
) -> tuple[NDArray[np.float64], str]:
    """Return points (2, N) of one CRS in another, and words for the two where they are not one in two spellings."""
    try:
        from rasterio._err import CPLE_BaseError  # what its `transform` raises has no public name
        from rasterio.crs import CRS
        from rasterio.errors import CRSError
        from rasterio.warp import transform
    except ImportError:
        raise InputError(
            f"entry {entry.id!r}: whether {target} and {source} are one coordinate system only rasterio can tell "
            "(pip install rasterio)."
        ) from None
    try:
        one, two = CRS.from_user_input(target), CRS.from_user_input(source)
        if one == two:
            return points, ""
        words = " and ".join(
            c.to_string() if c.to_epsg() is None else f"EPSG:{c.to_epsg()}" for c in (one, two)
        )
        return np.array(transform(two, one, *points.tolist()), dtype=np.float64), f", in {words}"
    except (CRSError, CPLE_BaseError) as error:
        raise InputError(
            f"entry {entry.id!r}: the coordinate systems {target} and {source} differ, and nothing goes from one to "
            f"the other: {error}. Warp one onto the other first."
        ) from error
