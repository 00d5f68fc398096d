"""Where the sub-swaths of a scene meet, as the file or what lies beside it says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.catalog import Entry
from sartransfer.errors import InputError
from sartransfer.geotiff import opened
from sartransfer.scene import GeoReference, Scene

TAG = "SEAMS"
"""Tag of a GeoTIFF: JSON, a list of lines, each a list of [x, y] on the map."""


def read_seams(entry: Entry, scene: Scene) -> tuple[NDArray[np.float64], ...] | None:
    """Return the seams of a scene as lines (N, 2) of rows and columns; None where nothing says where they are.

    Looked for: the tag `TAG` of its GeoTIFF (as `prepare.sentinel1` writes it), then ``details/<id>.json`` beside the
    scene's folder with ``seams: [{line: [[row, column], ...]}]`` (as simulated scenes have it). No seams at all are an
    empty tuple. Raises `InputError` for something else under these names.
    """
    for asset in entry.assets:
        tagged = _tag(asset.path)
        if tagged is not None:
            return tuple(_to_pixels(line, scene.georeference) for line in _lines(tagged, asset.path))
        for name in (scene.id, asset.path.stem):
            file = asset.path.parent.parent / "details" / f"{name}.json"
            if file.is_file():
                return _details(file)
    return None


def _details(file: Path) -> tuple[NDArray[np.float64], ...] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8")).get("seams")
        return None if found is None else tuple(_lines([seam["line"] for seam in found], file))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: its `seams` are not [{{line: [[row, column], ...]}}]: {error}.") from error


def _lines(values: Any, where: Path) -> list[NDArray[np.float64]]:
    try:
        lines = [np.asarray(line, dtype=np.float64) for line in values]
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: seams must be lines of pairs of numbers: {error}.") from error
    if any(line.ndim != 2 or line.shape[1] != 2 or not np.isfinite(line).all() for line in lines):
        raise InputError(f"{where}: seams must be lines of pairs of numbers.")
    return lines


def _to_pixels(line: NDArray[np.float64], place: GeoReference) -> NDArray[np.float64]:
    """Bring points (N, 2) of x and y to rows and columns, counted from the corner of the first pixel."""
    if place.transform is None:
        raise InputError("seams on a map, but the scene does not lie on one.")
    a, b, c, d, e, f = place.transform
    x, y = line[:, 0] - c, line[:, 1] - f
    area = a * e - b * d
    return np.stack([(a * y - d * x) / area, (e * x - b * y) / area], axis=1)


def _tag(path: Path) -> Any:
    if path.suffix.lower() not in (".tif", ".tiff") or not path.is_file():
        return None
    with opened(path) as file:
        text = file.tags().get(TAG)
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: its tag {TAG} is not JSON: {error}.") from error
