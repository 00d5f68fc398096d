"""Which scenes are to be mapped, and what their maps are called."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sartransfer.catalog import Entry, read_catalog
from sartransfer.errors import InputError
from sartransfer.readers.opening import DETECTORS, ENDINGS
from sartransfer.scene import as_utc, format_bands
from sartransfer.stac import SAME_SCENE, time_stamp

CATALOGS = (".csv", ".geojson", ".json")
LISTS = (".txt", *CATALOGS)
REMARK = re.compile(r"(^|\s)#.*")  # a name may hold one


@dataclass(frozen=True, slots=True)
class SceneOrder:
    """One scene to map."""

    name: str
    """Of the map: ``NAME.tif``."""
    scene: str
    """Its file, or its files as ``before.tif|after.tif``; absolute, since workers stand elsewhere."""
    bands: str | None = None
    """What the bands are, where the files do not say (`scene.parse_bands`)."""
    time: datetime | None = None
    """When it was taken, where a catalog says it."""
    reader: str | None = None
    """By which it is read, where the files' endings do not say it (`readers.open_files`)."""

    def options(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of `mapping.predict_scene` for this scene: its reader, and for a STAC item its own time.

        Raises `InputError` where one time is given for all and this scene has another.
        """
        asked = {**asked, "reader": self.reader} if self.reader else asked
        stac = asked.get("stac")
        if not stac or self.time is None:
            return dict(asked)
        if isinstance(stac, datetime) and abs(as_utc(stac) - as_utc(self.time)) > SAME_SCENE:
            raise InputError(
                f"scene {self.name!r} was taken at {time_stamp(as_utc(self.time))}, as its catalog says, and not at "
                f"{time_stamp(as_utc(stac))}. Leave out --time."
            )
        return {**asked, "stac": self.time}


def read_scenes(
    path: str | Path, bands: str | None = None, reader: str | None = None
) -> tuple[SceneOrder, ...]:
    """Read a list of scenes: a text file with a scene a line, or a catalog.

    ``#`` begins a remark at the start of a line or after a space. Paths are relative to the list's folder.
    `bands` and `reader` hold for all scenes of which a catalog does not say it.

    Raises `InputError` for a list that is missing, empty, or has two scenes of one name; `CatalogError`.
    """
    path = Path(path)
    if path.suffix.lower() in CATALOGS:
        orders = [_of_entry(entry, bands, reader) for entry in read_catalog(path).entries]
    else:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read as a list of scenes: {error}.") from error
        words = [w for w in (REMARK.sub("", line).strip() for line in lines) if w]
        orders = []
        for line in words:
            orders.append(order_of(line, bands, path.absolute().parent, reader))
    if not orders:
        raise InputError(f"{path} names no scene: write one a line.")
    check_names(orders)
    return tuple(orders)


def check_names(orders: Sequence[SceneOrder]) -> None:
    """Raise `InputError` where two scenes would be mapped into one file."""
    names = [order.name for order in orders]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise InputError(
            f"two scenes would be mapped as {twice[0]}.tif. Give them ids of their own, in a catalog."
        )


def order_of(
    scene: str, bands: str | None = None, base: Path | None = None, reader: str | None = None
) -> SceneOrder:
    """Return the order for a scene as people write it; paths are relative to `base`, or to where we are."""
    files = [(base or Path.cwd()) / part.strip() for part in scene.split("|")]
    return SceneOrder(_name(files[-1].stem), "|".join(map(str, files)), bands, reader=reader)


def _of_entry(entry: Entry, bands: str | None, reader: str | None) -> SceneOrder:
    files = "|".join(str(asset.path.absolute()) for asset in entry.assets)
    said = "|".join(format_bands(asset.bands) if asset.bands else "" for asset in entry.assets)
    named = [
        "" if a.reader in (ENDINGS.get(a.path.suffix.lower()), *DETECTORS) else a.reader or ""
        for a in entry.assets
    ]
    # One for all is written as people do on the command line: a map made by either is the same.
    readers = ("|".join(named) if len(set(named)) > 1 else named[0]) or reader
    return SceneOrder(_name(entry.id), files, said if said.strip("|") else bands, entry.time, readers)


def _name(text: str) -> str:
    return re.sub(r"[^\w.+=@ -]", "_", text).lstrip(".") or "scene"
