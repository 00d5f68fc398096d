"""Commands about clusters: keys, and job files for SLURM and Kubernetes."""

import re
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from sartransfer.errors import ClusterError, OutputError, SartransferError, one_of, refuse_existing
from sartransfer.terminal import Watcher, err, out, show_path

if TYPE_CHECKING:
    from sartransfer.archive import Archive
    from sartransfer.mapping import MapResult

WARNED = 10  # maps of many whose warnings are printed


def keys(
    folder: Annotated[
        Path, typer.Argument(help="Where to write them; for you alone to read.", metavar="FOLDER")
    ],
) -> None:
    """Make a certificate and its key, by which the processes of one cluster know each other."""
    from sartransfer.cluster import write_keys

    for path in write_keys(folder):
        show_path("keys", path)


def job(
    command: Annotated[
        list[str],
        typer.Argument(
            help="What to run, after --: predict CHECKPOINT scenes.txt --out maps, or compare recipe.yaml -o out; "
            "with absolute paths.",
            metavar="-- COMMAND...",
        ),
    ],
    kind: Annotated[str, typer.Option(help="slurm or kubernetes.")],
    folder: Annotated[
        Path, typer.Option("--folder", help="A folder that all machines see at this path; absolute.")
    ],
    target: Annotated[Path | None, typer.Option("--out", "-o", help="The file; default: print it.")] = None,
    name: Annotated[str, typer.Option(help="Name of the job.")] = "sartransfer",
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 4,
    cores: Annotated[int, typer.Option(min=1, help="Cores of each worker.")] = 4,
    memory: Annotated[str, typer.Option(help="Memory of each worker: 16GB.")] = "16GB",
    time: Annotated[
        str, typer.Option(help="SLURM: after how long the job ends, [DAYS-]HH:MM:SS.")
    ] = "12:00:00",
    partition: Annotated[str, typer.Option(help="SLURM: the partition to run on.")] = "",
    account: Annotated[str, typer.Option(help="SLURM: the account that is charged.")] = "",
    python: Annotated[str, typer.Option(help="The Python with sartransfer, there.")] = "python",
    image: Annotated[str, typer.Option(help="Kubernetes: an image that holds sartransfer.")] = "",
    claim: Annotated[str, typer.Option(help="Kubernetes: a claim to a volume that all pods share.")] = "",
    namespace: Annotated[str, typer.Option(help="Kubernetes: the namespace to run in.")] = "default",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Write a job file: scheduler, workers and one command. None of these has ever run on such a cluster."""
    from sartransfer.cluster import JOBS, JobSettings
    from sartransfer.textfile import write_text

    if kind not in JOBS:
        raise ClusterError(one_of("kind", kind, JOBS))
    if command[0] not in ("predict", "compare"):
        raise ClusterError(one_of("command", command[0], ("predict", "compare")))
    if any(re.match(r"--cluster(-.*|=.*)?$", word, re.DOTALL) for word in command):
        raise ClusterError("leave --cluster out of the command: the job says itself where its workers are.")
    text = JOBS[kind](
        JobSettings(
            tuple(command), str(folder), name, workers, cores, memory, time, partition, account, python, image, claim,
            namespace,
        )
    )  # fmt: skip
    if target is None:
        out.print(text, end="", highlight=False, markup=False, soft_wrap=True)
        return
    refuse_existing(target, overwrite)
    write_text(target, text)
    show_path("job file", target)
    word = (
        f"sbatch {shlex.quote(str(target))}"
        if kind == "slurm"
        else f"kubectl apply -f {shlex.quote(str(target))}"
    )
    err.print(
        f"Read it first: it has never run on such a cluster. Then: {word}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip


def _warn(archive: "Archive") -> None:
    """Print what is odd about the maps, of the first of them; all of it is in the ledger, and in each map's tags."""
    from sartransfer.archive.ledger import LEDGER

    found = [(record["name"], record["warnings"]) for record in archive.records if record.get("warnings")]
    for name, texts in found[:WARNED]:
        for text in texts:
            err.print(f"[yellow]warning:[/] {escape(f'{name}: {text}')}", highlight=False, soft_wrap=True)
    if len(found) > WARNED:
        words = f"{len(found) - WARNED} more maps have warnings: {archive.folder / LEDGER}"
        err.print(f"[yellow]warning:[/] {escape(words)}", highlight=False, soft_wrap=True)


def is_list(scenes: list[str]) -> bool:
    """Say whether one list of scenes is named, and not scenes."""
    from sartransfer.archive.orders import LISTS

    return len(scenes) == 1 and Path(scenes[0]).suffix.lower() in LISTS


def predict_many(
    checkpoints: list[Path],
    scenes: list[str],
    target: Path,
    options: dict[str, Any],
    cluster: tuple[str | None, Path | None, bool],
    folder: bool,
) -> "MapResult | None":
    """Map a list of scenes, and say what failed; or one scene by many workers, and return what came of it.

    `options` are those of `archive.predict_scenes`, bands and reader; `cluster`: where, the folder of its keys, whether
    it may be plain; `folder`: `target` is one.
    """
    from sartransfer.archive import order_of, predict_by_windows, predict_scenes, read_scenes
    from sartransfer.cluster import open_cluster

    bands, reader = options.pop("bands"), options.pop("reader")
    listed = is_list(scenes)
    if (listed or len(scenes) > 1) and target.suffix.lower() in (".tif", ".tiff") and not target.is_dir():
        raise OutputError(f"several scenes do not go into one map: {target}. Name a folder (--out maps).")
    orders = (
        read_scenes(scenes[0], bands, reader)
        if listed
        else tuple(order_of(scene, bands, reader=reader) for scene in scenes)
    )
    where, keys, plain = cluster
    try:
        with Watcher() as watcher, ExitStack() as stack:
            opened = stack.enter_context(open_cluster(where, keys=keys, plain=plain)) if where else None
            if opened and not listed and not folder:
                watcher.progress.update(watcher.bar, description=escape(target.name))

                def move(done: int, of: int) -> None:
                    watcher.progress.update(watcher.bar, completed=done, total=of)

                return predict_by_windows(opened, checkpoints, orders[0], target, progress=move, **options)
            archive = predict_scenes(checkpoints, orders, target, cluster=opened, watcher=watcher, **options)
    except KeyboardInterrupt as stopped:
        if not getattr(stopped, "__notes__", ()):  # of windows that are kept
            stopped.add_note("what is done is kept, and the same command goes on from there.")
        raise
    show_path("maps", archive.folder)
    _warn(archive)
    if archive.failed:
        if all(record["known"] for record in archive.failed):
            raise SartransferError(archive.words())
        err.print(archive.words(), highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(1)
    return None
