"""Commands that make maps: predict, vectorize."""

import re
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from sartransfer.cli.cluster import is_list, predict_many
from sartransfer.cli.options import (
    CheckpointPath,
    ClusterKeys,
    ClusterPlain,
    ClusterWords,
    Device,
    Ensemble,
    Overwrite,
    Views,
    check_cluster,
)
from sartransfer.errors import InputError, OutputError, SartransferError, one_of, words_of
from sartransfer.terminal import err, out, show_path

if TYPE_CHECKING:
    from sartransfer.mapping import MapResult
    from sartransfer.models.checkpoint import Checkpoint
    from sartransfer.polygons import PolygonOptions

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12} | {
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40
}  # fmt: skip
AREAS = {"": 1.0, "m2": 1.0, "ha": 1e4, "km2": 1e6}
NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-z0-9]*)\s*")

MinArea = Annotated[
    str,
    typer.Option(
        "--min-area",
        help="Minimum mapping unit of the polygons: 5000m2, 1ha, 0.1km2. Smaller regions join a neighbour.",
    ),
]
Simplify = Annotated[
    float,
    typer.Option(
        "--simplify", min=0.0, help="Metres by which borders are simplified; neighbours stay in touch."
    ),
]


def predict(
    checkpoint: CheckpointPath,
    scenes: Annotated[
        list[str],
        typer.Argument(
            help="Scenes: GeoTIFF, PNG, JPEG, .npz or a product; several files of one scene as 'BEFORE|AFTER'. Or a "
            "list of them: .txt with a scene a line, or a catalog (.csv, .geojson).",
            metavar="SCENE...",
        ),
    ],
    target: Annotated[
        Path, typer.Option("--out", "-o", help="The map to write, a GeoTIFF; of several scenes a folder.")
    ],
    ensemble: Ensemble = None,
    bands: Annotated[
        str | None,
        typer.Option(
            help="What the bands are, in file order, where the file does not say: VV=sigma0_db,VH=sigma0_db; "
            "for several files 'before=sigma0_db|after=sigma0_db'."
        ),
    ] = None,
    reader: Annotated[
        str | None,
        typer.Option(
            help="How the files are read, where their endings do not say it. display: VV of sigma0 or gamma0 shown as "
            "8-bit values, for networks that learned on those.",
        ),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write class probabilities too, as MAP-probabilities.tif.")
    ] = False,
    probabilities_as: Annotated[
        str | None,
        typer.Option(
            "--probabilities-as", help="float32 (as --probabilities), float16 or uint8 (steps of 1/254)."
        ),
    ] = None,
    entropy: Annotated[
        bool,
        typer.Option(
            "--entropy", help="Write the entropy of the probabilities, in nats, as MAP-entropy.tif."
        ),
    ] = False,
    spread: Annotated[
        bool,
        typer.Option("--spread", help="Write what the networks of an ensemble disagree about, in nats."),
    ] = False,
    polygons: Annotated[
        bool, typer.Option("--polygons", help="Write the regions with their areas too, as MAP.gpkg.")
    ] = False,
    min_area: MinArea = "0",
    simplify: Simplify = 0.0,
    stac: Annotated[bool, typer.Option("--stac", help="Write a STAC item too, as MAP.stac.json.")] = False,
    time: Annotated[
        str | None, typer.Option(help="When the scene was taken, for --stac, where the scene does not say.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="What prediction may take: 4GB. Default: windows that suit most.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="auto (the fastest installed that agrees with the network), eager, or a name.")
    ] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it takes, and do nothing.")] = False,
    overwrite: Overwrite = False,
    views: Views = None,
    device: Device = "auto",
    cluster: ClusterWords = None,
    cluster_tls: ClusterKeys = None,
    cluster_plain: ClusterPlain = False,
) -> None:
    """Map scenes with a trained network: classes as cloud-optimized GeoTIFFs, georeferenced as the scenes."""
    from sartransfer.archive.made import refuse_other
    from sartransfer.engines.kinds import NAMES
    from sartransfer.mapping import read_networks
    from sartransfer.predict import choose_device
    from sartransfer.readers import READERS

    check_cluster(cluster, cluster_tls, cluster_plain)
    if engine not in NAMES:  # told before anything is read, and of a dry run too
        raise InputError(one_of("engine", engine, NAMES))
    for name in (reader or "").split("|"):
        if name.strip() and name.strip() not in READERS:
            raise InputError(one_of("reader", name.strip(), READERS))
    folder = len(scenes) > 1 or target.is_dir()
    asked, device = device, device if cluster else choose_device(device)
    if (min_area != "0" or simplify) and not polygons:
        raise SartransferError("--min-area and --simplify are for polygons: add --polygons.")
    options: dict[str, Any] = {
        "probabilities": probabilities_as or probabilities, "entropy": entropy, "spread": spread,
    }  # fmt: skip
    more: dict[str, Any] = {
        "polygons": _polygon_options(min_area, simplify) if polygons else None, "stac": _when(stac, time),
        "bands": bands, "reader": reader, "overwrite": overwrite, **options,
    }  # fmt: skip
    how: dict[str, Any] = {
        "memory": parse_bytes(memory) if memory else None, "views": views, "device": device, "engine": engine
    }  # fmt: skip
    if cluster or is_list(scenes):
        if dry_run:
            raise SartransferError(
                "--dry-run looks at single scenes: leave out --cluster, and name one of the list."
            )
        opened = (cluster, cluster_tls, cluster_plain)
        single = predict_many(
            [checkpoint, *(ensemble or ())], scenes, target, {**more, **how, "device": asked}, opened, folder
        )
        if single is not None:
            _show(single)
        return
    maps = _targets(scenes, target, more) if folder else {scenes[0]: target}
    for scene in scenes:  # a wrong path is told before networks are read
        _check_there(scene, only=not folder)
    networks = read_networks([checkpoint, *(ensemble or ())])
    if dry_run:
        for scene, path in maps.items():
            _foretell(networks, scene, (bands, reader), path, options, how)
        return
    if folder:
        target.mkdir(parents=True, exist_ok=True)
    failed = {}
    for scene, path in maps.items():
        try:
            if folder and path.exists() and not overwrite:
                wanted = {name: value for name, value in {**more, **how}.items() if name != "bands"}
                refuse_other(path, networks, scene, bands, wanted)
                err.print(f"{path}: is there already", highlight=False, markup=False, soft_wrap=True)
                continue
            _map(networks, scene, path, more, how)
        except SartransferError as error:
            if not folder:
                raise
            failed[scene] = words_of(error)
            err.print(f"{scene}: {failed[scene]}", highlight=False, markup=False, soft_wrap=True)
    if failed:
        raise SartransferError(
            f"{len(failed)} of {len(maps)} scenes could not be mapped: {', '.join(failed)}. The others are in {target}."
        )


def vectorize(
    map_path: Annotated[Path, typer.Argument(help="A map of classes: a GeoTIFF.", metavar="MAP")],
    target: Annotated[Path, typer.Option("--out", "-o", help="The polygons to write: a GeoPackage, .gpkg.")],
    min_area: MinArea = "0",
    simplify: Simplify = 0.0,
    overwrite: Overwrite = False,
) -> None:
    """Turn a map into polygons with their areas on the ellipsoid, and tell the area of each class."""
    from sartransfer.polygons import write_polygons

    options = _polygon_options(min_area, simplify)
    with err.status("following borders ..."):
        found = write_polygons(map_path, target, options, overwrite=overwrite)
    _show_areas(found.areas)
    out.print(f"{found.polygons} polygons", highlight=False)
    show_path("polygons", found.path)


def parse_bytes(text: str) -> int:
    """Read an amount of memory: 4GB, 500MB, 2GiB, or bytes."""
    return int(_amount(text, "memory", UNITS, "4GB, 500MB, 2GiB"))


def _amount(text: str, name: str, units: dict[str, Any], examples: str) -> float:
    match = NUMBER.fullmatch(text.lower())
    if match is None or match.group(2) not in units:
        raise InputError(f"{name}={text!r} is not understood. Write it as {examples}.")
    return float(match.group(1)) * float(units[match.group(2)])


def _polygon_options(min_area: str, simplify: float) -> "PolygonOptions":
    from sartransfer.polygons import PolygonOptions

    return PolygonOptions(_amount(min_area, "min-area", AREAS, "5000m2, 1ha, 0.1km2"), simplify)


def _when(stac: bool, time: str | None) -> "bool | datetime":
    if time is None:
        return stac
    if not stac:
        raise InputError("--time is what a STAC item tells: add --stac.")
    try:
        return datetime.fromisoformat(time)
    except ValueError as error:
        raise InputError(f"time={time!r} is not ISO 8601. Write it as 2021-01-01T06:00:00.") from error


def _check_there(scene: str, *, only: bool) -> None:
    """Refuse a scene that is not there where it is the only one; others are told of in their turn."""
    paths = [Path(part.strip()) for part in scene.split("|")]
    if only and (missing := [p for p in paths if not p.exists()]):
        raise InputError(f"{missing[0]} is not there. Check the path.")


def _targets(scenes: list[str], folder: Path, options: dict[str, Any]) -> dict[str, Path]:
    """Return scene -> map in a folder, by the scene's (last) name; refuse two that would write one file."""
    from sartransfer.archive import order_of
    from sartransfer.archive.made import refuse_clashes

    if folder.suffix.lower() in (".tif", ".tiff") and not folder.is_dir():
        raise OutputError(
            f"{len(scenes)} scenes do not go into one map: {folder}. Name a folder (--out maps)."
        )
    found: dict[str, Path] = {}
    for scene in scenes:
        path = folder / f"{order_of(scene).name}.tif"  # as a list of scenes has it
        if path in found.values():
            raise OutputError(
                f"two scenes are called {path.stem!r}: their maps would have one name. Rename one."
            )
        found[scene] = path
    refuse_clashes(found.values(), options)
    return found


def _foretell(
    networks: "tuple[Checkpoint, ...]",
    scene: str,
    read_as: tuple[str | None, str | None],
    path: Path,
    options: dict[str, Any],
    how: dict[str, Any],
) -> None:
    """Print what mapping a scene, with such bands read by such a reader, takes."""
    from sartransfer.forecast import foresee
    from sartransfer.map_layers import plan_layers
    from sartransfer.predict import reading_bytes
    from sartransfer.readers import open_files

    opened = open_files(scene, *read_as)
    for network in networks:
        network.contract.check(opened)
    layers = plan_layers(path, networks[0].classes, **options)
    found = foresee(
        networks, layers, opened.height, opened.width, **how, reading=partial(reading_bytes, opened)
    )
    out.print(
        f"{scene}: {opened.height} x {opened.width} pixels, {found.describe()}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip


def _map(
    networks: "tuple[Checkpoint, ...]", scene: str, path: Path, more: dict[str, Any], how: dict[str, Any]
) -> None:
    """Map one scene, with a bar, and print what came out."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from sartransfer.mapping import predict_scene

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(escape(path.name), total=None)

        def move(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        result = predict_scene(networks, scene, path, **more, **how, progress=move)
    _show(result)


def _show(result: "MapResult") -> None:
    total = sum(result.counts.values())
    for name, count in result.counts.items():
        out.print(f"{name}: {count} pixels, {count / max(1, total):.1%}", highlight=False, markup=False)
    if result.areas:
        _show_areas(result.areas)
    if result.engine != "eager":
        out.print(f"engine: {result.engine}", highlight=False, markup=False)
    for warning in result.warnings:
        err.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)
    show_path("map", result.path)
    for what in ("probabilities", "entropy", "spread", "polygons"):
        if path := getattr(result, what):
            show_path(what, path)
    if result.item:
        show_path("STAC item", result.item)


def _show_areas(areas: dict[str, float]) -> None:
    total = sum(areas.values())
    table = Table("class", "km2", "share", title="area on the ellipsoid")
    for name, area in areas.items():
        table.add_row(escape(name), f"{area / 1e6:,.4f}", f"{area / total:.2%}" if total else "")
    out.print(table)
