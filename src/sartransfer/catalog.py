"""Catalog: one table of scenes with their labels, splits and groups."""

import csv
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sartransfer.errors import CatalogError, InputError, OutputError, nearest, one_of, refuse_existing
from sartransfer.parts import Part
from sartransfer.recipe.data import name_fault
from sartransfer.scene import Band, format_bands, parse_bands
from sartransfer.textfile import class_names, composed, hidden_character, parse_json
from sartransfer.wholefile import replacing

TRAIN = "train"
VALIDATION = "validation"
IGNORE_INDEX = 255
COLUMNS = ("id", "images", "readers", "bands", "label", "class", "split", "group", "time", "platform")
HEADER = ("name", "classes", "label_values", "source", "pixel_m")
WHOLE = re.compile(r"\s*[+-]?[0-9]+\s*")


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of a scene."""

    path: Path
    reader: str | None = None
    """A key of `readers.READERS`; None: by the file's ending."""
    bands: tuple[Band, ...] = ()
    """What its bands are; empty: as the file says."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One scene of a catalog: its files, its label and where it belongs.

    Id, class and group are `textfile.composed`: one name in two forms of Unicode is one group, and no leak.
    """

    id: str
    assets: tuple[Asset, ...]
    label: Path | None = None
    """A raster of label values on the scene's grid (segmentation)."""
    category: str | None = None
    """The name of the scene's class (classification)."""
    split: str | None = None
    """``train``, ``validation``, the name of a test set (`recipe.data.name_fault`), or None: not assigned."""
    group: str | None = None
    """What must not be torn apart: event, city, collection, acquisition."""
    time: datetime | None = None
    platform: str | None = None
    part: Part | None = None
    """The part of the scene that this entry is: no pixel and no label outside it is read; None: all of it."""

    def __post_init__(self) -> None:
        for name in ("id", "category", "group"):
            value = getattr(self, name)
            if value and composed(value) != value:
                object.__setattr__(self, name, composed(value))
        if not self.id:
            raise CatalogError("a catalog entry needs an id.")
        if not self.assets:
            raise CatalogError(f"entry {self.id!r} names no file.")
        fault = name_fault(self.split) if self.split else None
        if fault:  # here and not in `Catalog`: a table's row is known while its entry is made
            raise CatalogError(f"entry {self.id!r}: split {fault}")


@dataclass(frozen=True, slots=True)
class Catalog:
    """Scenes and what their labels mean."""

    name: str
    entries: tuple[Entry, ...]
    classes: tuple[str, ...]
    """Class names; a class's index is its place here."""
    label_values: dict[int, int] = field(default_factory=dict)
    """Label raster value -> class index, or `IGNORE_INDEX`; empty: values are class indices already."""
    source: str = ""
    """Where the data come from and on what terms, in a sentence."""
    pixel_m: float | None = None
    """The side of a pixel on the ground in metres, where the files do not say it; None: not known, or they do."""

    def __post_init__(self) -> None:
        if self.pixel_m is not None and not 0 < self.pixel_m < math.inf:
            raise CatalogError(f"catalog {self.name!r}: pixel_m={self.pixel_m:g}: metres, above 0.")
        ids = [e.id for e in self.entries]
        if len(set(ids)) != len(ids):
            twice = sorted({i for i in ids if ids.count(i) > 1})[:5]
            raise CatalogError(f"catalog {self.name!r}: ids must be unique; twice: {', '.join(twice)}.")
        try:
            object.__setattr__(self, "classes", class_names(self.classes))
        except ValueError as error:
            raise CatalogError(f"catalog {self.name!r}: {error}.") from error
        bad = {v for v in self.label_values.values() if v != IGNORE_INDEX and not 0 <= v < len(self.classes)}
        if bad:
            raise CatalogError(
                f"catalog {self.name!r}: label values point at classes {sorted(bad)}; "
                f"there are {len(self.classes)} ({', '.join(self.classes)}), or {IGNORE_INDEX} to ignore."
            )

    def in_split(self, split: str) -> tuple[Entry, ...]:
        """Return the entries of one split, in catalog order."""
        return tuple(e for e in self.entries if e.split == split)

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits, in order of appearance; entries without one are left out."""
        return tuple(dict.fromkeys(e.split for e in self.entries if e.split))

    @property
    def test_sets(self) -> tuple[str, ...]:
        """The splits that are neither training nor validation."""
        return tuple(s for s in self.splits if s not in (TRAIN, VALIDATION))

    def where(self, keep: Callable[[Entry], bool]) -> "Catalog":
        """Return the catalog of the entries for which `keep` is true."""
        return replace(self, entries=tuple(e for e in self.entries if keep(e)))

    def with_entries(self, entries: Iterable[Entry]) -> "Catalog":
        """Return this catalog with other entries."""
        return replace(self, entries=tuple(entries))


def read_catalog(path: str | Path) -> Catalog:
    """Read a catalog from CSV (comma, semicolon or tab; UTF-8) or GeoJSON (``.geojson``, ``.json``).

    Columns are `COLUMNS`; only ``id`` and ``images`` (or ``image``) must be there. Several files of one scene
    are joined by ``|``, as are their readers and `bands` (see `scene.parse_bands`). Paths are relative to the
    catalog's folder. Name, classes, label values, source and ``pixel_m`` stand in a first line ``# {json}`` of the CSV,
    or in the member ``sartransfer`` of the GeoJSON; without them the classes are those of the column ``class``.

    Raises `InputError` for a file that is missing or no such table, `CatalogError`, naming the row, for what
    does not hold together: a header with other members or values, names with characters that are not seen.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there. Check the path of the catalog.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as UTF-8 text: {error}.") from error
    told, rows = _parse_json(path, text) if _is_json(path) else _parse_csv(path, text)
    header = _header(path, told)
    base = path.absolute().parent
    entries = tuple(_entry(f"{path}, row {number}", row, base) for number, row in rows)
    found = tuple(sorted({e.category for e in entries if e.category}))
    catalog = Catalog(
        name=str(header.get("name") or path.stem),
        entries=entries,
        classes=header.get("classes") or found,
        label_values=header.get("label_values") or {},
        source=str(header.get("source") or ""),
        pixel_m=header.get("pixel_m"),
    )
    for category in found:
        if category not in catalog.classes:
            raise CatalogError(f"{path}: {one_of('class', category, catalog.classes)}")
    return catalog


def write_catalog(catalog: Catalog, path: str | Path, overwrite: bool = False) -> Path:
    """Write a catalog as CSV or GeoJSON, by the ending, so that `read_catalog` reads it back equal.

    Paths become relative to the catalog's folder. Raises `OutputError` if the file exists already, cannot be written
    or ends in neither ``.csv`` nor ``.geojson`` or ``.json``, and `CatalogError` for what could not be read back.
    """
    path = Path(path)
    if path.suffix.lower() not in (".csv", ".geojson", ".json"):
        raise OutputError(
            f"{path}: a catalog is written as .csv (a table) or .geojson (or .json). Name it "
            f"{path.stem or 'catalog'}.csv, for example."
        )
    refuse_existing(path, overwrite)
    header = {
        "name": catalog.name,
        "classes": list(catalog.classes),
        "label_values": {str(k): v for k, v in catalog.label_values.items()},
        "source": catalog.source,
    } | ({} if catalog.pixel_m is None else {"pixel_m": catalog.pixel_m})
    rows = [_row(entry, path.absolute().parent) for entry in catalog.entries]
    text = _format_json(header, rows) if _is_json(path) else _format_csv(header, rows)
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CatalogError(
            f"catalog {catalog.name!r}: {text[max(0, error.start - 20) : error.end + 20]!r} holds a character that "
            "UTF-8 cannot say. Rename it."
        ) from error
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return path


def _is_json(path: Path) -> bool:
    return path.suffix.lower() in (".json", ".geojson")


def _parse_csv(path: Path, text: str) -> tuple[Any, list[tuple[int, dict[str, str]]]]:
    header: Any = None
    lines = io.StringIO(text, newline="")
    first = lines.readline()
    skipped = 0
    if first.startswith("#"):
        header, skipped = _first_line(path, first.lstrip("#")), 1
        first = lines.readline()
    known = (*COLUMNS, "image")
    delimiter = max(",;\t", key=lambda d: sum(c.strip(' "\r\n') in known for c in first.split(d)))
    columns = [c.strip() for c in next(csv.reader([first], delimiter=delimiter), [])]
    _check_columns(path, columns)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    rows = []
    try:
        for values in reader:
            if not any(v.strip() for v in values):
                continue
            number = reader.line_num + skipped + 1
            if len(values) > len(columns):
                raise CatalogError(
                    f"{path}, row {number}: {len(values)} values for {len(columns)} columns. "
                    f"Put a value that holds {delimiter!r} in double quotes."
                )
            rows.append((number, dict(zip(columns, values, strict=False))))
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as CSV: {error} (line {reader.line_num}).") from error
    return header, rows


def _parse_json(path: Path, text: str) -> tuple[Any, list[tuple[int, dict[str, str]]]]:
    try:
        document = parse_json(text)
        features = [dict(f["properties"]) for f in document["features"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read as a GeoJSON FeatureCollection: {error}.") from error
    rows = []
    for number, properties in enumerate(features, start=1):
        _check_columns(path, list(properties))
        for column, value in properties.items():
            if isinstance(value, bool | list | dict):
                raise CatalogError(
                    f"{path}, row {number}: {column} must be text, not {json.dumps(value)[:80]}. Put it in quotes; "
                    "several files of one scene are joined by |."
                )
        rows.append((number, {k: "" if v is None else str(v) for k, v in properties.items()}))
    return document.get("sartransfer"), rows


def _first_line(path: Path, text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise CatalogError(
            f"{path}: the first line begins with # but is no JSON ({error}). "
            'It should look like # {"name": "mine", "classes": ["dry", "flooded"]}'
        ) from error


def _header(path: Path, told: Any) -> dict[str, Any]:
    """Return what a catalog's header says, checked: nothing in it is passed over, or read as something else."""
    if told is None:
        return {}
    try:
        if not isinstance(told, dict):
            raise ValueError(
                f'it must be an object, {{"name": ..., "classes": [...]}}, not {json.dumps(told)[:80]}'
            )
        for key in told:
            if key not in HEADER:
                raise ValueError(
                    f"{key!r} is not known. Must be one of: {', '.join(HEADER)}.{nearest(key, HEADER)}"
                )
        header = {key: value for key, value in told.items() if value is not None}
        for key in ("name", "source"):
            if isinstance(header.get(key), bool | list | dict):
                raise ValueError(f"{key} must be text in quotes, not {json.dumps(header[key])[:80]}")
        if "classes" in header:
            header["classes"] = class_names(header["classes"])
        if "label_values" in header:
            header["label_values"] = _label_values(header["label_values"])
        if "pixel_m" in header:
            header["pixel_m"] = _metres(header["pixel_m"])
    except ValueError as error:
        raise CatalogError(f"{path}: its header does not hold together: {error}.") from error
    return header


def _label_values(told: Any) -> dict[int, int]:
    if not isinstance(told, dict):
        raise ValueError(
            f'label_values must be an object, {{"0": 0, "255": 1}}: raster value -> class number, not '
            f"{json.dumps(told)[:80]}"
        )
    found: dict[int, int] = {}
    for key, value in told.items():
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, str):
            whole = WHOLE.fullmatch(value) is not None
        if not WHOLE.fullmatch(key) or not whole or isinstance(value, bool):
            raise ValueError(
                f"label_values: {key!r}: {json.dumps(value)[:80]} are not a label's raster value and the number of its "
                f'class, whole numbers such as {{"0": 0, "255": 1}} ({IGNORE_INDEX} to ignore it)'
            )
        if int(key) in found:
            raise ValueError(f"label_values: {int(key)} stands twice")
        found[int(key)] = int(value)
    return found


def _metres(told: Any) -> float:
    if isinstance(told, bool | list | dict):
        raise ValueError(f"pixel_m must be a number of metres, not {json.dumps(told)[:80]}")
    try:
        return float(told)
    except (ValueError, OverflowError):
        raise ValueError(f"pixel_m must be a number of metres, not {told!r:.80}") from None


def _check_columns(path: Path, columns: list[str]) -> None:
    known = (*COLUMNS, "image")
    for column in columns:
        if column not in known:
            raise CatalogError(
                f"{path}: column {column!r} is not known. Must be one of: {', '.join(COLUMNS)}."
                f"{nearest(column, known)}"
            )
    if "id" not in columns or ("images" in columns) == ("image" in columns):
        raise CatalogError(
            f"{path}: needs the columns id and images (or image); it has {', '.join(columns)}."
        )
    if len(set(columns)) != len(columns):
        raise CatalogError(f"{path}: a column stands there twice: {', '.join(columns)}.")


def _entry(where: str, row: dict[str, str], base: Path) -> Entry:
    """Make an entry of one row; `base` is the folder that paths are relative to."""
    cell = {k: v.strip() for k, v in row.items()}
    images = cell.get("images") or cell.get("image", "")
    paths = _split(images)
    if not all(paths):
        raise CatalogError(
            f"{where}: images {images!r} have a | with no file beside it. Take it out, or name the file."
        )
    for column in ("id", "class", "group", "platform"):
        if hidden := hidden_character(cell.get(column, "")):
            raise CatalogError(
                f"{where}: {column} {cell[column]!r} holds a character that is not seen ({hidden}). Write it anew."
            )
    readers = _parts(where, "readers", cell, len(paths))
    bands = _parts(where, "bands", cell, len(paths))
    time = cell.get("time")
    try:
        return Entry(
            id=cell.get("id", ""),
            assets=tuple(
                Asset(_absolute(base, p), r or None, parse_bands(b))
                for p, r, b in zip(paths, readers, bands, strict=True)
            ),
            label=_absolute(base, cell["label"]) if cell.get("label") else None,
            category=cell.get("class") or None,
            split=cell.get("split") or None,
            group=cell.get("group") or None,
            time=datetime.fromisoformat(time) if time else None,
            platform=cell.get("platform") or None,
        )
    except ValueError as error:
        raise CatalogError(f"{where}: time {time!r} is not ISO 8601 (2021-01-01T06:00:00).") from error
    except CatalogError as error:
        raise CatalogError(f"{where}: {error}") from error


def _row(entry: Entry, base: Path) -> dict[str, str]:
    if entry.part is not None:
        raise CatalogError(
            f"entry {entry.id!r} is a part of a scene, which a catalog file cannot say. Write the catalog uncut, and "
            "have the recipe cut it (data.validation.halves)."
        )
    for path in (*(a.path for a in entry.assets), *([entry.label] if entry.label else [])):
        words = str(path)
        if "|" in words or words != words.strip() or any(c in words for c in "\r\n\0"):
            raise CatalogError(
                f"entry {entry.id!r}: a path with |, line ends or spaces at its ends: {words!r}. Rename it."
            )
    for column, value in (
        ("id", entry.id), ("class", entry.category), ("group", entry.group), ("platform", entry.platform),
    ):  # fmt: skip
        if hidden := hidden_character(value or ""):
            raise CatalogError(
                f"entry {entry.id!r}: {column} {value!r} holds a character that is not seen ({hidden}). Rename it."
            )
    row = {
        "id": entry.id,
        "images": "|".join(_relative(base, a.path) for a in entry.assets),
        "readers": "|".join(a.reader or "" for a in entry.assets),
        "bands": "|".join(format_bands(a.bands) for a in entry.assets),
        "label": _relative(base, entry.label) if entry.label else "",
        "class": entry.category or "",
        "split": entry.split or "",
        "group": entry.group or "",
        "time": entry.time.isoformat() if entry.time else "",
        "platform": entry.platform or "",
    }
    return row | {k: "" for k in ("readers", "bands") if not row[k].strip("|")}


def _format_csv(header: dict[str, Any], rows: Iterable[dict[str, str]]) -> str:
    out = io.StringIO(newline="")
    out.write(f"# {json.dumps(header, ensure_ascii=False)}\n")
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _format_json(header: dict[str, Any], rows: Iterable[dict[str, str]]) -> str:
    features = [{"type": "Feature", "id": r["id"], "geometry": None, "properties": r} for r in rows]
    document = {"type": "FeatureCollection", "sartransfer": header, "features": features}
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def _split(text: str) -> list[str]:
    return [p.strip() for p in text.split("|")] if text else []


def _parts(where: str, column: str, cell: dict[str, str], count: int) -> list[str]:
    """Split a cell that has one part an image; an empty cell is nothing for each."""
    parts = _split(cell.get(column, "")) or [""] * count
    if len(parts) != count:
        raise CatalogError(f"{where}: {count} images, but {len(parts)} {column}. Join one for each with |.")
    return parts


def _absolute(base: Path, text: str) -> Path:
    return Path(os.path.normpath(base / text))


def _relative(base: Path, path: Path) -> str:
    try:
        return Path(os.path.relpath(path.absolute(), base)).as_posix()
    except ValueError:  # another drive
        return path.absolute().as_posix()
