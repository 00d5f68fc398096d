"""Whether a map that is there is the one that is asked for: of these files, networks and options."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import datetime
from itertools import count, product, takewhile
from pathlib import Path
from typing import Any

from sartransfer.cloud import Layer
from sartransfer.engines.kinds import ENGINES
from sartransfer.errors import InputError, OutputError, SartransferError
from sartransfer.geotiff import opened
from sartransfer.map_files import map_paths
from sartransfer.map_layers import plan_layers
from sartransfer.mapping import files_tag, scene_files
from sartransfer.members import plan_members
from sartransfer.models.checkpoint import Checkpoint
from sartransfer.polygons import LAYER, PolygonOptions, describe_options
from sartransfer.readers import open_files
from sartransfer.scene import Scene
from sartransfer.stac import scene_time, time_stamp
from sartransfer.streaming import OPTIONS_TAG, map_note
from sartransfer.windows import OVERLAP, ScenePlan

FLOAT32 = "float32"
PLAIN = {"polygons": None, "stac": False, "probabilities": False, "entropy": False, "spread": False}
"""What `mapping.predict_scene` writes beside the classes where nothing is said."""
TRAILER = 4  # bytes that GDAL's COG driver writes behind each tile


def all_files(path: Path, options: dict[str, Any]) -> list[Path]:
    """Return every file of a map that is asked for with options of `mapping.predict_scene`."""
    asked, layers = {**PLAIN, **options}, _layers(path, ("a", "b"), options)  # classes change no name
    return map_paths(
        path, [layer.path for layer in layers], asked["polygons"] is not None, bool(asked["stac"])
    )


def refuse_clashes(paths: Iterable[Path], options: dict[str, Any]) -> None:
    """Raise `InputError` where two maps that are asked for with these options would write one file."""
    writer: dict[Path, Path] = {}
    for path in paths:
        for file in all_files(path, options):
            if (other := writer.setdefault(file, path)) != path:
                raise InputError(
                    f"two scenes would write {file.name}: one mapped as {other.name}, one as {path.name}. Rename one, "
                    "or give them ids of their own in a catalog."
                )


def _layers(path: Path, classes: Sequence[str], options: dict[str, Any]) -> list[Layer]:
    """Return the layers that options ask for."""
    asked = {**PLAIN, **options}
    names = ("probabilities", "entropy", "spread")
    return plan_layers(path, classes, **{name: asked[name] for name in names})


def refuse_other(
    path: Path, networks: Sequence[Checkpoint], scene: str, bands: str | None, options: dict[str, Any]
) -> None:
    """Raise `OutputError` for a map that was made otherwise than it is asked for now; see `differences`."""
    if found := differences(path, networks, scene, bands, options):
        raise OutputError(
            f"{path} exists and was made otherwise: {'; '.join(found)}. Overwrite it (--overwrite), or name another "
            "folder."
        )


def differences(
    path: Path, networks: Sequence[Checkpoint], scene: str, bands: str | None, options: dict[str, Any]
) -> list[str]:
    """Return in words what tells a map that is there from the one that is asked for; nothing: it is that one.

    All that changes a map is compared: files of the scene and what its bands are, networks, views, how exact the engine
    computes (those in float32 agree within `engines.choice.BOUND`), windows where they are not exact, layers and their
    types, settings of polygons, the time of a STAC item. Device and versions are not.

    Args:
        path: the map. networks: as `mapping.read_networks` returns them. scene, bands: as text.
        options: of `mapping.predict_scene`.

    Raises `InputError` for a scene that cannot be opened.
    """
    files = all_files(path, options)
    if missing := [p.name for p in files if not p.exists()]:
        return [f"{', '.join(missing)} is not beside it"]
    try:
        with opened(path) as file:
            tags = file.tags()
        made = json.loads(tags[OPTIONS_TAG])
    except SartransferError:
        return ["it is no map"]
    except (LookupError, ValueError):
        return ["it does not say with which options, as maps of an earlier version"]
    if cut := [p.name for p in files if not is_whole(p)]:
        return ["it is not whole" if cut == [path.name] else f"{', '.join(cut)} is not whole"]
    found = open_files(scene, bands, options.get("reader"))
    words = []
    if (tags.get("SARTRANSFER_SCENE"), tags.get("SARTRANSFER_FILES")) != (
        found.id,
        files_tag(scene_files(scene)),
    ):
        words.append("it is of other files")
    return [*words, *_compared(made, _wanted(path, networks, found, options)), *_beside(path, found, options)]


def is_whole(path: Path) -> bool:
    """Say whether a file of a map is there to its last byte, by what it says of itself; no pixel is read."""
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            return _tiles_end(path) <= path.stat().st_size
        if path.suffix == ".gpkg":
            with path.open("rb") as file:  # https://www.sqlite.org/fileformat.html, 1.3: page size, pages
                head = file.read(32)
            side, pages = int.from_bytes(head[16:18], "big"), int.from_bytes(head[28:32], "big")
            return len(head) == 32 and path.stat().st_size >= (65536 if side == 1 else side) * pages
        text = path.read_text("utf-8")
        if path.suffix == ".json":
            return bool(json.loads(text))
        return text.rstrip().endswith("</PAMDataset>")
    except (OSError, ValueError, SartransferError):
        return False


def _tiles_end(path: Path) -> int:
    """Return where the last tile of a GeoTIFF ends, of all bands and overviews: what its directories say of them.

    Raises `ValueError` where one is nowhere, `InputError` for what is no GeoTIFF.
    """
    with opened(path) as file:
        trailer = TRAILER if file.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG" else 0
        rows, cols = file.block_shapes[0]
        grid = product(range(-(-file.height // rows)), range(-(-file.width // cols)))
        ends = [_tile_end(file, band, None, y, x) for y, x in grid for band in file.indexes]
        if 0 in ends:
            raise ValueError(f"{path}: a tile is nowhere.")
        for band in file.indexes:
            for level in range(len(file.overviews(band))):  # their sizes are rounded in one way or another
                for y in count():
                    row = list(takewhile(bool, (_tile_end(file, band, level, y, x) for x in count())))
                    ends += row
                    if not row:
                        break
    return max(ends) + trailer


def _tile_end(file: Any, band: int, level: int | None, row: int, col: int) -> int:
    """Return where a tile of an overview (None: of the pixels themselves) ends; 0 where it is nowhere."""
    place, size = (
        file.get_tag_item(f"BLOCK_{what}_{col}_{row}", "TIFF", bidx=band, ovr=level)
        for what in ("OFFSET", "SIZE")
    )
    return int(place) + int(size) if place and size else 0


def _wanted(
    path: Path, networks: Sequence[Checkpoint], scene: Scene, options: dict[str, Any]
) -> dict[str, Any]:
    """Return what the map's note would be."""
    views = options.get("views")
    how = {name: options[name] for name in ("views", "memory", "engine") if name in options}
    plans, _ = plan_members(networks, scene.height, scene.width, **how)
    task = {
        "tensors": [network.metadata.get("sha256") for network in networks],
        "contracts": [network.contract.to_json() for network in networks],
        "classes": list(networks[0].classes),
        "bands": [repr(band) for band in scene.bands],
        "plans": [plan.to_json() for plan in plans],
        "views": [views or network.views for network in networks],
        "engines": [options.get("engine", "eager")] * len(networks),
        **({"reader": options["reader"]} if options.get("reader") else {}),
    }
    note: dict[str, Any] = json.loads(json.dumps(map_note(task, _layers(path, networks[0].classes, options))))
    return note


def _compared(made: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    words = []
    if made.get("networks") != wanted["networks"]:
        words.append("by other networks")
    if made.get("bands") != wanted["bands"]:
        words.append("its bands were taken for something else")
    if made.get("reader") != wanted.get("reader"):
        words.append(
            f"read by {made.get('reader', 'its ending')} instead of {wanted.get('reader', 'its ending')}"
        )
    if made.get("views") != wanted["views"]:
        words.append(f"views={_list(made.get('views'))} instead of {_list(wanted['views'])}")
    ours, theirs = (list(map(_precision, note.get("engines") or ())) for note in (wanted, made))
    if ours != theirs:
        words.append(f"computed in {_list(theirs)} instead of {_list(ours)}")
    plans = [note.get("plans") or [] for note in (made, wanted)]
    if plans[0] != plans[1] and any(method == OVERLAP for plan in plans for method, *_ in plan):
        words.append(f"by {_plans(plans[0])} instead of {_plans(plans[1])} (memory)")
    layers = made.get("layers") or {}
    for name, dtype in wanted["layers"].items():
        if layers.get(name) != dtype:
            words.append(f"{name.strip('-') or 'classes'} as {layers.get(name)} instead of {dtype}")
    return words


def _precision(engine: str) -> str:
    return engine if engine in ENGINES and not ENGINES[engine].exact else FLOAT32


def _list(values: Any) -> str:
    return ", ".join(dict.fromkeys(map(str, values or ["?"])))


def _plans(plans: list[list[Any]]) -> str:
    return "; ".join(
        dict.fromkeys(ScenePlan(method, 1, core, halo).describe() for method, core, halo in plans)
    )


def _beside(path: Path, scene: Scene, options: dict[str, Any]) -> list[str]:
    """Compare what the polygons and the STAC item beside a map say of themselves."""
    words = []
    polygons: PolygonOptions | None = options.get("polygons")
    if polygons is not None and (made := _noted_polygons(path.with_suffix(".gpkg"))) != describe_options(
        polygons
    ):
        words.append(
            f"polygons with {made or 'settings that are not known'} instead of {describe_options(polygons)}"
        )
    if stac := options.get("stac"):
        wanted = time_stamp(scene_time(scene, stac if isinstance(stac, datetime) else None))
        try:
            said = json.loads(path.with_suffix(".stac.json").read_text("utf-8"))["properties"]["datetime"]
        except (OSError, ValueError, LookupError, TypeError):
            said = "no time"
        if said != wanted:
            words.append(f"a STAC item of {said} instead of {wanted}")
    return words


def _noted_polygons(path: Path) -> str:
    """Return what a GeoPackage says of how its polygons were made; empty where it does not."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            row = database.execute(
                "SELECT description FROM gpkg_contents WHERE table_name = ?", (LAYER,)
            ).fetchone()
    except sqlite3.Error:
        return ""
    return str(row[0] or "") if row else ""
