"""The reader ``array``: prepared arrays (.npz), so that training and inference run without rasterio.

Keys: ``data`` (B, H, W), ``names`` (B,), ``units`` (B,); and where they are known ``polarizations`` and
``roles`` (B,; an empty text is none), ``valid`` (H, W) or (B, H, W), ``label`` (H, W), ``crs`` (WKT) and
``transform`` (6,).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sartransfer.errors import InputError, refuse_existing
from sartransfer.npz import UNREADABLE_ZIP, Header, check_members
from sartransfer.radar.units import UNKNOWN, parse_unit
from sartransfer.scene import Band, GeoReference, Scene, Window
from sartransfer.wholefile import replacing


@dataclass(frozen=True, slots=True)
class NpzSource:
    """Pixels of a prepared array; the archive is opened for each read and nothing is kept."""

    path: Path

    def read(self, indices: Sequence[int], window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read the window; what is not finite, or not in ``valid``, is not valid."""
        rows, cols = window.slices
        chosen = list(indices)
        values = read_key(self.path, "data")[chosen, rows, cols]
        valid = np.isfinite(values)
        if "valid" in _headers(self.path):
            mask = read_key(self.path, "valid").astype(bool)
            valid = valid & (mask[chosen, rows, cols] if mask.ndim == 3 else mask[rows, cols])
        return values, valid


def open_array(path: Path, bands: tuple[Band, ...] = ()) -> Scene:
    """Open a prepared array; only its header and names are read now. `bands` replace the names within.

    Raises `InputError` for a missing or damaged file, a missing key, or shapes that do not agree.
    """
    path = Path(path)
    headers = _headers(path)
    if "data" not in headers or len(headers["data"][0]) != 3:
        raise InputError(f"{path}: needs a key 'data' of shape (B, H, W); it has {_listing(headers)}.")
    (count, height, width), dtype = headers["data"]
    if dtype.kind not in "buif":
        raise InputError(f"{path}: 'data' of type {dtype} cannot be read: integers or floats, please.")
    for key, allowed in (("valid", ((height, width), (count, height, width))), ("label", ((height, width),))):
        if key in headers and headers[key][0] not in allowed:
            raise InputError(f"{path}: {key!r} is {headers[key][0]}, but 'data' is {(count, height, width)}.")
    told = bands or _bands(path, headers, count)
    if len(told) != count:
        names = ", ".join(b.name for b in told)
        raise InputError(f"{path} has {count} band(s), but {len(told)} are named: {names}.")
    georeference = GeoReference(
        crs=str(read_key(path, "crs")) if "crs" in headers else None,
        transform=_transform(path) if "transform" in headers else None,
    )
    return Scene(
        id=path.stem,
        bands=told,
        height=height,
        width=width,
        source=NpzSource(path),
        georeference=georeference,
    )


def write_array(
    path: str | Path,
    data: NDArray[Any],
    bands: Sequence[Band],
    *,
    valid: NDArray[np.bool_] | None = None,
    label: NDArray[np.integer[Any]] | None = None,
    georeference: GeoReference | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a prepared array that `open_array` reads back.

    Args:
        path: ends in ``.npz``; written to a temporary name and renamed when it is whole.
        data: (B, H, W).
        bands: B bands; name, unit, polarization and role are kept.
        valid: (H, W) or (B, H, W), True where usable.
        label: (H, W) label values.
        georeference: CRS and transform (control points are not kept).
        overwrite: replace a file that exists.

    Raises `OutputError` if the file exists or cannot be written, `InputError` if shapes do not agree.
    """
    path = Path(path)
    if data.ndim != 3 or len(bands) != len(data) or path.suffix != ".npz":
        raise InputError(f"{path} (.npz) with data of shape {data.shape} and {len(bands)} bands: (B, H, W)?")
    refuse_existing(path, overwrite)
    keys: dict[str, Any] = {
        "data": data,
        "names": np.array([b.name for b in bands]),
        "units": np.array([str(b.unit) for b in bands]),
        "polarizations": np.array([b.polarization or "" for b in bands]),
        "roles": np.array([b.role or "" for b in bands]),
        "valid": valid,
        "label": label,
        "crs": np.array(georeference.crs) if georeference and georeference.crs else None,
        "transform": np.array(georeference.transform) if georeference and georeference.transform else None,
    }
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **{k: v for k, v in keys.items() if v is not None})
    return path


def read_key(path: Path, key: str) -> NDArray[Any]:
    """Read one array of a prepared file whole; raises `InputError` if it is not there or damaged."""
    headers = _headers(path)
    if key not in headers:
        raise InputError(f"{path} has no key {key!r}; it has {_listing(headers)}.")
    try:
        with np.load(path, allow_pickle=False) as file:
            values: NDArray[Any] = file[key]
    except UNREADABLE_ZIP as error:
        raise _damaged(path, error) from error
    return values


def _headers(path: Path) -> dict[str, Header]:
    """Return shape and type of every array in the archive without reading its numbers."""
    if not path.is_file():
        raise InputError(
            f"{path} is not there. Check the path; a catalog's paths are relative to the catalog."
        )
    try:
        return check_members(path)
    except UNREADABLE_ZIP as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} cannot be read as .npz: {error}. Is it whole?")


def _transform(path: Path) -> tuple[float, float, float, float, float, float]:
    values = read_key(path, "transform")
    if values.shape != (6,) or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise InputError(
            f"{path}: 'transform' is {str(values.tolist())[:80]}, must be 6 finite numbers (a, b, c, d, e, f of "
            "x = a*column + b*row + c, y = d*column + e*row + f). Write it again, or leave it out."
        )
    a, b, c, d, e, f = values.astype(float).tolist()
    return a, b, c, d, e, f


def _listing(headers: dict[str, Header]) -> str:
    return ", ".join(f"{key} {shape}" for key, (shape, _) in headers.items()) or "nothing"


def _bands(path: Path, headers: dict[str, Any], count: int) -> tuple[Band, ...]:
    def texts(key: str) -> list[str]:
        values = [str(v) for v in np.atleast_1d(read_key(path, key))] if key in headers else [""] * count
        if len(values) != count:
            raise InputError(f"{path}: {len(values)} {key} for {count} bands.")
        return values

    columns = [texts(key) for key in ("names", "units", "polarizations", "roles")]
    return tuple(
        Band(
            name or f"band_{i + 1}",
            unit=parse_unit(unit) if unit else UNKNOWN,
            polarization=polarization or None,
            role=role or None,
        )
        for i, (name, unit, polarization, role) in enumerate(zip(*columns, strict=True))
    )
