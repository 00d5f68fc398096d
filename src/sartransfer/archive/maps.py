"""Make the maps: scenes as tasks, or windows of one scene, here or on a cluster."""

import functools
import uuid
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from sartransfer.archive.ledger import Ledger, stamp
from sartransfer.archive.made import all_files, is_whole, refuse_clashes, refuse_other
from sartransfer.archive.orders import SceneOrder, check_names
from sartransfer.archive.work import (
    MapTask,
    SceneWork,
    WindowTask,
    loaded,
    map_scene,
    map_whole,
    map_window,
    plan_task,
)
from sartransfer.cloud import Layer
from sartransfer.cluster import Cluster, Outcome, attempt, run_tasks
from sartransfer.geotiff import check_outputs
from sartransfer.mapping import MapResult, predict_scene, scene_files
from sartransfer.members import Member, plan_members
from sartransfer.predict import choose_device
from sartransfer.readers import open_files
from sartransfer.recipe import digest
from sartransfer.scene import Window
from sartransfer.streaming import scene_parts, sidecars
from sartransfer.windows import EXACT, cut


class Watcher(Protocol):
    """Who is told how the scenes go on."""

    def run(self, number: int, of: int, name: str, state: str) -> None:
        """A scene was found finished, has been mapped, or has failed."""
        ...


@dataclass(frozen=True, slots=True)
class Archive:
    """What came of many scenes."""

    folder: Path
    records: tuple[dict[str, Any], ...]
    """One a scene, in the order of the list: as the last line of the ledger for it."""

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The records of scenes that have no map."""
        return [r for r in self.records if r["status"] == "failed"]

    def words(self) -> str:
        """Say what failed, a scene a line."""
        lines = [f"{r['name']}: {r['error']}" for r in self.failed]
        return f"{len(lines)} of {len(self.records)} scenes have no map:\n" + "\n".join(lines)


def predict_scenes(
    checkpoints: Sequence[str | Path],
    scenes: Sequence[SceneOrder],
    out: str | Path,
    *,
    cluster: Cluster | None = None,
    overwrite: bool = False,
    device: str = "auto",
    watcher: Watcher | None = None,
    **options: Any,
) -> Archive:
    """Map many scenes into a folder, ``NAME.tif`` each: one task a scene, on the workers of a cluster or here.

    Each map has one writer, the worker that makes it. A scene that cannot be mapped is reported and the rest goes on. A
    worker that dies is replaced: its scene goes on where it was, and the map is the same. Started again, maps that
    are there are kept, those that were begun go on, and those that failed are tried once more.

    Args:
        checkpoints: run folders or checkpoints' paths, asked together; each worker reads them once.
        scenes: as `read_scenes` returns them. out: the folder, which all workers see at one path.
        cluster: from `open_cluster`; None: one scene after the other, here.
        overwrite: make maps anew that are there. device: of each worker.
        watcher: told how it goes. options: as `mapping.predict_scene` takes them (views, probabilities, ...).

    Raises:
        InputError: two scenes that would write one file. OutputError: another process maps into this folder.
        ClusterError: the cluster is lost.
    """
    check_names(scenes)
    folder = Path(out).resolve()
    refuse_clashes([folder / f"{order.name}.tif" for order in scenes], options)
    task = plan_task(checkpoints, device, options)
    records: dict[str, dict[str, Any]] = {}
    told = 0

    def tell(name: str, state: str) -> None:
        nonlocal told
        told += 1
        if watcher:
            watcher.run(told, len(scenes), name, state)

    with Ledger(folder) as ledger:
        todo = []
        for order in scenes:
            path, key = folder / f"{order.name}.tif", _key(order, task)
            if path.exists() and not overwrite:
                found = ledger.of(order.name, key, path)
                # One that another process left is known by its options; of those that we noted a file may be cut.
                if found and not ("stamp" in found and all(map(is_whole, all_files(path, options)))):
                    found = None
                records[order.name] = record = found or _told_by_itself(path, order, task, key)
                if found is None and record["status"] == "finished":
                    ledger.add(record)
                done = record["status"] == "finished"
                tell(order.name, "found finished" if done else f"failed: {path.name} exists")
                continue
            before = stamp(path)
            ledger.add({"name": order.name, "key": key, "status": "begun", "replaces": before})
            todo.append(SceneWork(order, path, overwrite, before))
        work = functools.partial(map_scene, task)
        outcomes = run_tasks(cluster, work, todo, share=folder) if cluster else _here(work, todo)
        for asked, outcome in outcomes:
            order = asked.order
            if outcome.error is None:
                record = {
                    **outcome.value,
                    "name": order.name,
                    "status": "finished",
                    "stamp": stamp(asked.path),
                }
                tell(order.name, f"mapped in {record['seconds']:.1f} s")
            else:
                record = _failure(order.name, outcome.kind, outcome.error, known=outcome.known)
                tell(order.name, f"failed: {outcome.line}")
            records[order.name] = record
            ledger.add({**record, "key": _key(order, task)})
    return Archive(folder, tuple(records[order.name] for order in scenes))


def predict_by_windows(
    cluster: Cluster,
    checkpoints: Sequence[str | Path],
    order: SceneOrder,
    out: str | Path,
    *,
    device: str = "auto",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> MapResult:
    """Map one scene on a cluster: its windows as tasks where they are exact, and else the scene as one task.

    Of windows this process is the one writer: they come in the order in which they are done, each is on disk and noted
    before the next, so that a call after a kill goes on from there, and the map is that of `mapping.predict_scene`, to
    the byte where the workers compute as this machine does. By the split stage, and by overlapped windows, a scene is
    one task: their windows need what others have left (``docs/clusters.md`` says why).

    Args:
        cluster: from `open_cluster`. checkpoints, options: as `predict_scenes` takes them.
        order: the scene. out: the map. device: of the workers. overwrite: replace a map that is there.
        progress: called with (windows done, windows in all), where windows are tasks.

    Raises as `mapping.predict_scene`, and `ClusterError` where the cluster is lost; what is done is kept then.
    """
    task, target = plan_task(checkpoints, device, options), Path(out).absolute()
    networks = loaded(task)
    scene = open_files(order.scene, order.bands, order.reader)
    how = {name: options[name] for name in ("views", "memory", "engine") if name in options}
    plans, _ = plan_members(networks, scene.height, scene.width, **how)
    if any(plan.method != EXACT for plan in plans):
        check_outputs([target], scene_files(order.scene), overwrite, what="map", lost="the scene itself")
        asked = SceneWork(order, target, overwrite, stamp(target))
        ((_, outcome),) = run_tasks(cluster, functools.partial(map_whole, task), [asked], share=target.parent)
        found: MapResult = outcome.get()
        return found

    def elsewhere(
        layers: Sequence[Layer], members: Sequence[Member], done: Container[Window]
    ) -> Iterator[tuple[Window, list[NDArray[Any]]]]:
        names = tuple(m.engine.engine for m in members)
        views = tuple(m.views for m in members)
        windows = WindowTask(
            uuid.uuid4().hex, task, order, tuple(layers), tuple(m.plan for m in members), views, names
        )
        todo = (w for w in cut(scene.height, scene.width, plans[0].core) if w not in done)
        for window, outcome in run_tasks(
            cluster, functools.partial(map_window, windows), todo, share=target.parent
        ):
            yield window, outcome.get()

    return predict_scene(
        networks, order.scene, target, bands=order.bands, device=choose_device(device), overwrite=overwrite,
        progress=progress, elsewhere=elsewhere, **order.options(options),
    )  # fmt: skip


def _here(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Outcome]]:
    """Do as `run_tasks`, in this process."""
    for item in items:
        yield item, attempt(function, item)


def _told_by_itself(path: Path, order: SceneOrder, task: MapTask, key: str) -> dict[str, Any]:
    """Return the record of a map that the ledger does not know as this task's: finished where it says so itself."""
    outcome = attempt(
        lambda _: refuse_other(
            path, loaded(task), order.scene, order.bands, order.options(dict(task.options))
        ),
        None,
    )
    if outcome.error is not None:
        return _failure(order.name, outcome.kind, outcome.error, known=outcome.known)
    return {"name": order.name, "status": "finished", "map": path.name, "key": key, "stamp": stamp(path)}


def _failure(name: str, kind: str, error: str, *, known: bool = True) -> dict[str, Any]:
    return {"name": name, "status": "failed", "kind": kind, "error": error, "known": known}


def _key(order: SceneOrder, task: MapTask) -> str:
    """Return a hash of what a map depends on: tensors, files of the scene and options."""
    paths = [Path(name) for name in order.scene.split("|")]
    files = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in scene_parts(paths)]
    files += [[str(p), *said] for p, said in sidecars(paths)]
    by = [order.reader] if order.reader else []
    of_catalog = [order.time.isoformat()] if order.time and dict(task.options).get("stac") else []
    return digest(
        [
            task.checkpoints,
            task.tensors,
            order.scene,
            order.bands,
            files,
            repr(sorted(task.options)),
            *of_catalog,
            *by,
        ]
    )
