"""A trained network, or several, and a scene in; a georeferenced map out."""

import hashlib
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sartransfer import __version__
from sartransfer.ahead import Flow, in_order, strips
from sartransfer.areas import open_ground
from sartransfer.cloud import Layer, cache_within
from sartransfer.contract import InputContract
from sartransfer.data.check import belied_units
from sartransfer.data.ground import pixel_warning
from sartransfer.engines.kinds import AUTO, EAGER, ENGINES, package_versions
from sartransfer.errors import InputError
from sartransfer.geotiff import check_outputs, write_classes_tag
from sartransfer.heap import give_back_memory
from sartransfer.map_files import all_beside, beside_paths, map_paths, write_beside
from sartransfer.map_layers import COLOURS, NODATA, plan_layers, window_values
from sartransfer.members import (
    Member,
    check_members,
    count_windows,
    open_members,
    plan_members,
    predict_member_classes,
    predict_members,
)
from sartransfer.models.checkpoint import Checkpoint, read_checkpoint
from sartransfer.polygons import PolygonOptions, check_extra
from sartransfer.predict import plan_flow, reading_bytes
from sartransfer.readers import open_files
from sartransfer.readers.display import display_warnings
from sartransfer.runs import chosen_weights
from sartransfer.scene import Band, Reading, Scene, Window, format_bands
from sartransfer.stac import MapFacts, scene_time
from sartransfer.streaming import GrowingMap, continues, earlier_task, placed, scene_parts, sidecars
from sartransfer.windows import ScenePlan, cut

__all__ = ["COLOURS", "NODATA", "MapResult", "predict_scene"]

SPREAD = 1024 * 1024  # pixels, evenly spread, that are looked at for what is odd in a scene that has more
VALUES = 4 * SPREAD  # of all bands of them: of many bands fewer pixels
LOOKS, LOOK = 17, 2**14  # blocks of a file that tell it from others, and bytes of each
# What a GeoPackage notes as its time where the scene has none: the same task gives the same bytes.
UNDATED = datetime(2000, 1, 1, tzinfo=UTC)

Elsewhere = Callable[
    [Sequence[Layer], Sequence[Member], Container[Window]], Iterator[tuple[Window, list[NDArray[Any]]]]
]
"""Layers, networks and windows that are done -> the others, in any order, with what each of the layers gets."""

Networks = str | Path | Checkpoint | Sequence[str | Path | Checkpoint]


@dataclass(frozen=True, slots=True)
class MapResult:
    """What was written, and what is odd about it."""

    path: Path
    probabilities: Path | None
    counts: dict[str, int]
    """Pixels of each class."""
    warnings: tuple[str, ...]
    entropy: Path | None = None
    plan: ScenePlan | None = None
    """How the scene went through the network (of several: the first), and the memory that was foreseen."""
    spread: Path | None = None
    polygons: Path | None = None
    item: Path | None = None
    """The STAC item."""
    areas: dict[str, float] | None = None
    """Square metres of each class on the ellipsoid; None where polygons and STAC item were not asked for."""
    engine: str = EAGER
    """What the networks ran in, and how far that is from them on windows of the scene."""


def predict_scene(
    checkpoint: Networks,
    scene: str | Path | Scene,
    out: str | Path,
    *,
    bands: tuple[Band, ...] | str | None = None,
    reader: str | None = None,
    probabilities: bool | str = False,
    entropy: bool = False,
    spread: bool = False,
    polygons: PolygonOptions | None = None,
    stac: bool | datetime = False,
    overwrite: bool = False,
    views: int | None = None,
    device: str = "cpu",
    memory: int | None = None,
    engine: str = EAGER,
    progress: Callable[[int, int], None] | None = None,
    elsewhere: Elsewhere | None = None,
) -> MapResult:
    """Map a scene: its class at every pixel as a cloud-optimized GeoTIFF, georeferenced as the scene.

    A large scene is mapped window by window (`predict.plan_scene`), in memory that does not grow with it. What is
    done is kept in a folder beside the map; where the process is killed, the same call goes on from there, and the
    files are the same to the byte. (That needs a checkpoint and a scene from files.)

    Beside the map stands ``<out>.aux.xml``: class names, colours and pixels as GDAL and QGIS read them.

    Args:
        checkpoint: a run folder, a checkpoint's path, or a checkpoint that was read; several of them are asked
            together: their mean probabilities decide.
        scene: a file that a reader knows, several files of one scene as ``before.tif|after.tif``, or an open
            scene.
        out: where the map goes (uint8, 255 where the scene has no value; class names and colours inside).
        bands: what the scene's bands are, where the file does not say; as text in the words of
            `scene.parse_bands`, file by file with the same ``|``.
        reader: by which the files are read, where their endings do not say it (``display``: backscatter shown as 8-bit
            values); one for all, or file by file with the same ``|``.
        probabilities: write ``<out>-probabilities.tif`` too, one band a class: True or ``float32`` (NaN without a
            value), ``float16`` (rounded to it: smaller), or ``uint8`` (the file's scale of 1/254 applied to 0 to 254;
            255 without a value).
        entropy: write ``<out>-entropy.tif`` too: the entropy of the class probabilities in nats, float32, NaN without
            a value.
        spread: write ``<out>-spread.tif`` too: what several networks disagree about, in nats
            (`map_layers.window_values`).
        polygons: write ``<out>.gpkg`` too (`polygons.write_polygons`; the extra ``gis``).
        stac: write ``<out>.stac.json`` too; a time is taken where the scene tells none.
        overwrite: replace a map that is there.
        views: flips and turns that are averaged (1, 4, 8); None: as many as the checkpoint was made for.
        device: ``cpu`` or ``cuda``.
        memory: bytes that this may take, prediction (`members.plan_members`) and writing one after the other; polygons
            and a STAC item are not counted. None: a size of windows that suits most.
        engine: what the networks run in: ``eager`` (as they are), ``auto`` (the fastest installed engine that agrees
            with the network on windows of this scene) or a name; see `predict.open_engine`.
        progress: called with (windows done, windows in all).
        elsewhere: computes the windows instead (`archive.predict_by_windows`); None: this process.

    Returns:
        `MapResult`; its warnings (values that belie their unit, a scene far from training) are also in the
        map's metadata, as tag ``SARTRANSFER_WARNINGS``.

    Raises:
        InputError, UnitError: a scene that the network cannot take, or without a single valid pixel.
        OutputError: the map exists already or cannot be written. What windows were finished is kept beside it, for the
            same call to go on from; a map that is not whole never gets its name.
    """
    networks = read_networks(checkpoint)
    classes = networks[0].classes
    out = Path(out)
    layers = plan_layers(out, classes, probabilities=probabilities, entropy=entropy, spread=spread)
    if spread and len(networks) < 2:
        raise InputError("spread is what several networks disagree about: name two checkpoints at least.")
    files = scene_files(scene)
    paths = map_paths(out, [layer.path for layer in layers], polygons is not None, bool(stac))
    own = set(placed(out))  # by a call that was killed just then: `out` itself is the last
    rest = [out, *(path for path in paths[1:] if path not in own)]
    check_outputs(rest, files, overwrite, what="map", lost="the scene itself")
    if not isinstance(scene, Scene):
        words = bands if isinstance(bands, str) or bands is None else format_bands(bands)
        scene = open_files(str(scene), words, reader)
    if polygons is not None:
        check_extra()
        open_ground(scene.georeference, scene.height, scene.width)
    taken = scene_time(scene, stac if isinstance(stac, datetime) else None) if stac else None
    for network in networks:
        network.contract.check(scene)
    plans, _ = plan_members(
        networks, scene.height, scene.width, views=views, memory=memory, engine=engine, device=device,
        reading=partial(reading_bytes, scene),
    )  # fmt: skip
    plan = plans[0]
    warnings = _warnings(networks, scene, plan, device)
    engines = _earlier_engines(out, networks) if engine == AUTO else [engine]
    members = open_members(networks, plans, scene, device, views=views, engines=engines)
    task = map_task(members, scene, files, device, reader)
    if own and not continues(layers, scene.height, scene.width, task):
        check_outputs(paths, files, overwrite, what="map", lost="the scene itself")
    vector = beside_paths(out)["polygons"] if polygons is not None else None
    areas: dict[str, float] | None = None
    with GrowingMap(layers, scene.height, scene.width, task) as growing:
        _fill(growing, members, scene, device, elsewhere, progress)
        counts = growing.counts()[: len(classes)].tolist()
        if not any(counts):
            growing.task = None  # there is nothing to go on with
            raise _no_pixel(scene, [network.contract for network in networks])
        facts = None
        if taken is not None:
            facts = MapFacts(
                scene, taken, tuple(layers), classes, vector, tuple(files), tuple(map(_identity, networks)),
                plan.describe(), None,
            )  # fmt: skip
        written = taken or scene.time or UNDATED

        def accompany(made: Sequence[Path]) -> list[tuple[Path, Path]]:
            nonlocal areas
            pairs, areas = write_beside(made[0], out, classes, counts, polygons, written, facts)
            return pairs

        tags = _tags(members, scene, files, warnings)
        growing.finish(
            scene.georeference, tags, overwrite=overwrite, beside=accompany, cache=cache_within(memory)
        )
    names = {layer.path.stem.removeprefix(out.stem): layer.path for layer in layers}
    left = [p for p in all_beside(out) if p not in paths and p.exists()]
    return MapResult(
        path=out,
        probabilities=names.get("-probabilities"),
        counts=dict(zip(classes, counts, strict=True)),
        warnings=(*warnings, *(f"{path} is of an earlier map: remove it, or make it anew." for path in left)),
        entropy=names.get("-entropy"),
        plan=plan,
        spread=names.get("-spread"),
        polygons=vector,
        item=beside_paths(out)["item"] if taken is not None else None,
        areas=areas,
        engine=tags["SARTRANSFER_ENGINE"],
    )


def _warnings(networks: Sequence[Checkpoint], scene: Scene, plan: ScenePlan, device: str) -> list[str]:
    """Return what is odd about a scene for the networks: its values, the size of its pixels, how it is shown."""
    odd = _odd_values(networks, scene, plan, plan_flow(scene, device))
    give_back_memory()  # of pixels that were looked at
    sizes = [pixel_warning(scene, network.metadata.get("pixel_m")) for network in networks]
    return [*odd, *sorted({text for text in sizes if text}), *display_warnings(scene)]


def _fill(
    growing: GrowingMap,
    members: Sequence[Member],
    scene: Scene,
    device: str,
    elsewhere: Elsewhere | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Compute the windows that a map lacks, and add them to it."""
    total = count_windows(members[0].plan, scene.height, scene.width)
    if elsewhere is None:
        scratch = growing.folder if growing.resumable else None
        found = map_arrays(growing.layers, members, scene, device, growing.done, scratch)
    else:
        found = elsewhere(growing.layers, members, growing.done)
    if progress:
        progress(len(growing.done), total)
    for window, arrays in found:
        growing.add(window, arrays)
        if progress:
            progress(len(growing.done), total)


def read_networks(checkpoint: Networks) -> tuple[Checkpoint, ...]:
    """Read one checkpoint or several, and check that they can map a scene together."""
    named = [checkpoint] if isinstance(checkpoint, str | Path | Checkpoint) else list(checkpoint)
    found = tuple(
        c if isinstance(c, Checkpoint) else read_checkpoint(Path(c), which=chosen_weights(Path(c)))
        for c in named
    )
    check_members(found)
    return found


def scene_files(scene: str | Path | Scene) -> list[Path]:
    """Return the files that a scene is read from; none for an open scene."""
    return [] if isinstance(scene, Scene) else [Path(name.strip()) for name in str(scene).split("|")]


def map_arrays(
    layers: Sequence[Layer],
    members: Sequence[Member],
    scene: Scene,
    device: str,
    done: Container[Window],
    scratch: Path | None,
) -> Iterator[tuple[Window, list[NDArray[Any]]]]:
    """Yield windows with what each of the layers gets."""
    if len(members) == len(layers) == 1:
        for window, labels, valid in predict_member_classes(
            members[0], scene, device, done=done, scratch=scratch
        ):
            yield window, [np.where(valid, labels, NODATA)[None].astype(np.uint8)]
        return
    for window, logits, valid in predict_members(members, scene, device, done=done, scratch=scratch):
        yield window, window_values(layers, logits, valid)


def _earlier_engines(out: Path, networks: Sequence[Checkpoint]) -> list[str]:
    """Return the engines that an earlier, stopped call for this map chose: with others it could not be gone on with.

    Of the same networks, and such as ``auto`` may choose: int8 was somebody's wish then, and is not one now.
    """
    task = earlier_task(out)
    found, known = task.get("engines"), {EAGER, *(name for name, each in ENGINES.items() if each.exact)}
    same = task.get("tensors") == [network.metadata.get("sha256") for network in networks]
    good = same and isinstance(found, list) and len(found) == len(networks) and set(found) <= known
    return found if good and isinstance(found, list) else [AUTO]


def _odd_values(networks: Sequence[Checkpoint], scene: Scene, plan: ScenePlan, flow: Flow) -> list[str]:
    """Say what is odd about the scene's values for the networks; those are named where not all of several say it.

    Raises `InputError` where no pixel is valid for all of them.
    """
    contracts = list(dict.fromkeys(network.contract for network in networks))
    told: dict[str, list[str]] = {}
    for contract, sample in zip(contracts, _samples(contracts, scene, plan, flow), strict=True):
        names = [_name(i, each) for i, each in enumerate(networks, 1) if each.contract == contract]
        for text in contract.warnings(scene, Reading(sample, np.ones(sample.shape[1:], dtype=bool))):
            told.setdefault(text, []).extend(names)
    return [
        text if len(names) == len(networks) else f"{', '.join(names)}: {text}" for text, names in told.items()
    ]


def _name(number: int, network: Checkpoint) -> str:
    path = network.path  # without its folders: maps say the same wherever they are made
    return f"network {number} ({path.parent.name}/{path.name})"


def _no_pixel(scene: Scene, contracts: Sequence[InputContract]) -> InputError:
    what = "valid pixel" if len(contracts) == 1 else "pixel that is valid in the bands of all networks"
    odd = "".join(
        f" {text}." for text in belied_units(scene)
    )  # dB that are said to be linear have no logarithm
    return InputError(f"scene {scene.id!r} has no {what}: nothing to map.{odd}")


def _samples(
    contracts: Sequence[InputContract], scene: Scene, plan: ScenePlan, flow: Flow
) -> list[NDArray[np.float32]]:
    """Return valid pixels of the scene, evenly spread, as each contract normalizes them: (C, 1, N).

    Raises `InputError` where none is valid for all contracts.
    """
    most = max(1, min(SPREAD, VALUES // sum(len(contract.bands) for contract in contracts)))
    step = -(-scene.height * scene.width // most)
    step += 1 - step % 2  # odd: else windows of even sides might give the same columns in every row

    def part(window: Window) -> tuple[list[NDArray[np.float32]], bool]:
        found, common = [], np.ones((window.height, window.width), dtype=bool)
        for contract in contracts:
            data, valid = contract.read(scene, window)
            found.append(data.reshape(len(data), -1)[:, np.flatnonzero(valid)[::step]])
            common &= valid
        return found, bool(common.any())

    windows = cut(scene.height, scene.width, plan.core)
    if flow.ahead:
        pieces = (piece for window in windows for piece in strips(window, flow.rows))
        found = list(in_order(part, pieces, 2 * flow.threads, flow.threads))
    else:
        found = [part(window) for window in windows]
    if not any(common for _, common in found):
        raise _no_pixel(scene, contracts)
    return [
        np.concatenate(values, axis=1)[:, None] for values in zip(*(each for each, _ in found), strict=True)
    ]


def map_task(
    members: Sequence[Member], scene: Scene, files: Sequence[Path], device: str, reader: str | None = None
) -> dict[str, Any] | None:
    """Return all that a map depends on, so that a killed one is gone on with; None where that is not known."""
    tensors = [member.checkpoint.metadata.get("sha256") for member in members]
    if not files or None in tensors:
        return None
    return {
        "version": __version__,
        "torch": torch.__version__,
        "tensors": tensors,
        "contracts": [member.checkpoint.contract.to_json() for member in members],
        "scene": [
            *([str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in scene_parts(files)),
            *([p.name, *said] for p, said in sidecars(files)),
        ],
        "bands": [repr(band) for band in scene.bands],
        "plans": [member.plan.to_json() for member in members],
        "views": [member.views for member in members],
        "engines": [member.engine.engine for member in members],
        "packages": package_versions(member.engine.engine for member in members),
        "device": device,
        "classes": list(members[0].checkpoint.classes),
        **({"reader": reader} if reader else {}),
    }


def files_tag(files: Sequence[Path]) -> str:
    """Return what tells a scene's files from others of the same name, for a map's tag ``SARTRANSFER_FILES``.

    A hash of their sizes and of a few blocks of each: the same wherever they lie, and of large ones not all is read.
    Files beside them that tell their place and nodata count as well.
    """
    found = hashlib.sha256()
    beside = dict(sidecars(files))
    for path in (*scene_parts(files), *beside):
        if path in beside:
            found.update(f"{path.suffix};".encode())
            if path.name.endswith(".aux.xml"):
                found.update(f"{beside[path]};".encode())
                continue
        size = path.stat().st_size
        found.update(f"{size};".encode())
        with path.open("rb") as file:
            for i in range(LOOKS):
                file.seek(max(0, size - LOOK) * i // (LOOKS - 1))
                found.update(file.read(LOOK))
    return found.hexdigest()[:16]


def checkpoint_tag(networks: Sequence[Checkpoint]) -> str:
    """Return which networks made a map, for its tag ``SARTRANSFER_CHECKPOINT``."""
    return "; ".join(map(_identity, networks))


def _identity(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.metadata.get('identity', '')} epoch {checkpoint.metadata.get('epoch', '')}"


def _tags(
    members: Sequence[Member], scene: Scene, files: Sequence[Path], warnings: Sequence[str]
) -> dict[str, str]:
    """Return the map's metadata."""
    networks = [member.checkpoint for member in members]
    return {
        "SARTRANSFER_VERSION": __version__,
        "SARTRANSFER_CLASSES": write_classes_tag(networks[0].classes),
        "SARTRANSFER_CHECKPOINT": checkpoint_tag(networks),
        "SARTRANSFER_SCENE": scene.id,
        "SARTRANSFER_METHOD": members[0].plan.describe(),
        "SARTRANSFER_WARNINGS": "; ".join(warnings) or "none",
        "AREA_OR_POINT": "Area",
        **({"SARTRANSFER_FILES": files_tag(files)} if files else {}),
        "SARTRANSFER_ENGINE": "; ".join(dict.fromkeys(member.engine.describe() for member in members)),
    }
