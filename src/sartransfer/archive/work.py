"""What a worker does of an archive: a whole scene, or one window of one; networks are read once in each process."""

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sartransfer.archive.ledger import stamp
from sartransfer.archive.made import differences, refuse_other
from sartransfer.archive.orders import SceneOrder
from sartransfer.cloud import Layer
from sartransfer.errors import ClusterError
from sartransfer.geotiff import opened
from sartransfer.mapping import MapResult, map_arrays, predict_scene, read_networks
from sartransfer.members import Member, open_members
from sartransfer.models.checkpoint import Checkpoint
from sartransfer.predict import choose_device
from sartransfer.readers import open_files
from sartransfer.runs import chosen_weights
from sartransfer.scene import Scene, Window
from sartransfer.windows import ScenePlan


@dataclass(frozen=True, slots=True)
class MapTask:
    """What all scenes of an archive are mapped with."""

    checkpoints: tuple[str, ...]
    tensors: tuple[str | None, ...]
    """The SHA-256 of their tensors: a worker that reads others under these names says so."""
    device: str
    options: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class SceneWork:
    """One scene to map, as a worker gets it."""

    order: SceneOrder
    path: Path
    overwrite: bool
    before: list[int] | None
    """What was at `path` when the work was given out (`ledger.stamp`)."""


@dataclass(frozen=True, slots=True)
class WindowTask:
    """What all windows of one scene are mapped with."""

    name: str
    """Told from any other by this."""
    task: MapTask
    order: SceneOrder
    layers: tuple[Layer, ...]
    plans: tuple[ScenePlan, ...]
    views: tuple[int, ...]
    engines: tuple[str, ...]
    """Those that the writer has chosen: all workers ask the same."""


def plan_task(checkpoints: Sequence[str | Path], device: str, options: Mapping[str, Any]) -> MapTask:
    """Read the checkpoints here, so that what is wrong with them is told before any task, and name their tensors."""
    paths = tuple(str(Path(c).resolve()) for c in checkpoints)
    found = MapTask(paths, (None,) * len(paths), device, tuple(options.items()))
    return replace(found, tensors=tuple(c.metadata.get("sha256") for c in loaded(found)))


def map_scene(task: MapTask, asked: SceneWork) -> dict[str, Any]:
    """Map one scene, in a worker; returns its record. Raises as `mapping.predict_scene`."""
    began = time.perf_counter()
    found = map_whole(task, asked)
    return {
        "map": found.path.name,
        "counts": found.counts,
        "warnings": list(found.warnings),
        "seconds": round(time.perf_counter() - began, 2),
        "method": None if found.plan is None else found.plan.describe(),
        "memory": None if found.plan is None else found.plan.memory,
        # What the last bits depend on, and who did it.
        "worker": f"{platform.node()}:{os.getpid()}",
        "checkpoints_read": _READ,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def map_whole(task: MapTask, asked: SceneWork) -> MapResult:
    """Map one scene, in a worker. Raises as `mapping.predict_scene`."""
    networks, order = loaded(task), asked.order
    options = order.options(dict(task.options))
    appeared = asked.path.exists() and stamp(asked.path) != asked.before
    told = asked.path, networks, order.scene, order.bands, options
    if appeared and not asked.overwrite:
        refuse_other(*told)
    if appeared and not differences(*told):
        # A worker made it and died before it could say so: Dask has the task done again.
        counts = count_classes(asked.path, networks[0].classes)
        return MapResult(
            asked.path, None, counts, ("made by a worker that then died: what it warned of is lost",)
        )
    return predict_scene(
        networks, order.scene, asked.path, bands=order.bands, device=choose_device(task.device),
        overwrite=asked.overwrite, **options,
    )  # fmt: skip


def count_classes(path: Path, classes: Sequence[str]) -> dict[str, int]:
    """Return the pixels of each class in a map, read by its tiles."""
    total = np.zeros(256, dtype=np.int64)
    with opened(path) as file:
        for _, window in file.block_windows(1):
            total += np.bincount(file.read(1, window=window).ravel(), minlength=256)
    return {name: int(total[number]) for number, name in enumerate(classes)}


def map_window(work: WindowTask, window: Window) -> list[NDArray[Any]]:
    """Return what one window gives to each layer, in a worker; the scene and the networks are opened once in each."""
    device = choose_device(work.task.device)
    if work.name not in _OPENED:
        _OPENED.clear()
        networks = loaded(work.task)
        scene = open_files(work.order.scene, work.order.bands, work.order.reader)
        members = open_members(networks, work.plans, scene, device, engines=work.engines)
        members = [replace(m, views=v) for m, v in zip(members, work.views, strict=True)]
        _OPENED[work.name] = scene, members
    scene, members = _OPENED[work.name]
    ((_, arrays),) = map_arrays(work.layers, members, scene, device, _AllBut(window), None)
    return arrays


@dataclass(frozen=True, slots=True)
class _AllBut:
    """As if all windows but one were done."""

    wanted: Window

    def __contains__(self, window: object) -> bool:
        return window != self.wanted


_OPENED: dict[str, tuple[Scene, list[Member]]] = {}
_LOADED: dict[tuple[tuple[str, int, int], ...], tuple[Checkpoint, ...]] = {}
_READ = 0


def loaded(task: MapTask) -> tuple[Checkpoint, ...]:
    """Return the checkpoints of a task, read once in each process.

    Raises `ClusterError` where this machine sees other tensors under their paths.
    """
    global _READ
    key = tuple(_seen(Path(path)) for path in task.checkpoints)
    if key not in _LOADED:
        _LOADED.clear()
        _OPENED.clear()
        _LOADED[key] = read_networks(task.checkpoints)
        _READ += 1
    for path, found, wanted in zip(task.checkpoints, _LOADED[key], task.tensors, strict=True):
        if wanted is not None and found.metadata.get("sha256") != wanted:
            raise ClusterError(
                f"{path} holds other weights for a worker than here: do all see the same disk?"
            )
    return _LOADED[key]


def _seen(path: Path) -> tuple[str, int, int]:
    """Return what tells a checkpoint's file from another at its path; the reader says what is wrong with it."""
    file = path / f"{chosen_weights(path)}.safetensors" if path.is_dir() else path.with_suffix(".safetensors")
    try:
        found = file.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), found.st_mtime_ns, found.st_size
