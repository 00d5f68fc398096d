"""The command line: verbs over recipes, catalogs, checkpoints and scenes."""

import errno
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sartransfer import __version__
from sartransfer.errors import OutputError, SartransferError, one_of

if TYPE_CHECKING:
    from sartransfer.gather import Comparison
    from sartransfer.plan import Plan
    from sartransfer.recipe import Recipe

# Heavy packages are imported inside the commands, so that --help and a wrong path answer at once.

app = typer.Typer(
    name="sartransfer",
    help="Which pretrained start works best on your radar images, by how much, and is that certain?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
catalog_app = typer.Typer(no_args_is_help=True, help="List, check and write catalogs of scenes.")
app.add_typer(catalog_app, name="catalog")
out = Console()
err = Console(stderr=True)

RecipePath = Annotated[Path, typer.Argument(help="A recipe: a YAML file.", metavar="RECIPE")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting: --set training.epochs=3 (repeatable).")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for runs and results.")]


def main() -> None:
    """Run the command line; a mistake of the user ends in one message and exit code 2."""
    try:
        app()
    except SartransferError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
            raise
        err.print(
            f"[bold red]error:[/] {escape(str(error))}. Free some space, or choose another place.",
            soft_wrap=True,
        )
        sys.exit(2)


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for data, runs, report and map.")
    ] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the simulated scenes.")] = 0,
    device: Device = "auto",
) -> None:
    """Compare two starts on simulated scenes, write the report and map a scene: needs no data."""
    from sartransfer.demo import run_demo

    with _Watcher() as watcher:
        result = run_demo(folder, seed=seed, device=device, watcher=watcher)
    _say(result.comparison)
    out.print("The images are simulated: optical and multilook SAR pictures of the same kind of landscape.")
    _path("report", result.report)
    _path("map", result.map.path)
    _path("figure", result.figure)


@app.command()
def compare(
    recipe: RecipePath,
    folder: Out = Path("out"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it takes and train nothing.")] = False,
    device: Device = "auto",
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, each with its share of the cores.")] = 1,
    overrides: Overrides = None,
) -> None:
    """Train every start with every seed, score them, and say which is better and whether that is certain."""
    from sartransfer.comparison import compare as run
    from sartransfer.plan import plan_comparison
    from sartransfer.report import write_figures, write_report

    read = _recipe(recipe, overrides)
    if dry_run:
        _show_estimate(plan_comparison(read, folder), device)
        return
    with _Watcher() as watcher:
        result = run(read, folder, device=device, jobs=jobs, watcher=watcher)
    _say(result)
    write_figures(folder, folder / "figures")
    _path("report", write_report(folder))
    _path("results", folder / "results.csv")
    if result.failed:
        raise typer.Exit(1)


@app.command()
def train(
    recipe: RecipePath,
    folder: Out = Path("out"),
    initialization: Annotated[
        str | None, typer.Option("--start", help="Which initialization; default: the last.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Which seed; default: the recipe's first.")] = None,
    device: Device = "auto",
    overrides: Overrides = None,
) -> None:
    """Train one run of a recipe: one start, one seed; `compare` with the same folder finds it finished."""
    from sartransfer.comparison import train_one

    read = _recipe(recipe, overrides)
    name = initialization or list(read.initializations)[-1]
    with _Watcher() as watcher:
        planned, report = train_one(read, folder, name, seed, device=device, watcher=watcher)
    out.print(report.describe())
    _path("run", planned.folder.path)
    _path("checkpoint", planned.folder.path / f"{read.training.weights}.safetensors")


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A run folder or a checkpoint.")],
    recipe: Annotated[Path | None, typer.Option("--recipe", help="Take the data from this recipe.")] = None,
    catalog: Annotated[
        Path | None, typer.Option("--catalog", help="Or from this catalog (CSV, GeoJSON).")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Or from a known dataset: NAME=FOLDER.")
    ] = None,
    test_set: Annotated[
        str | None, typer.Option("--split", help="Which split; default: every test set.")
    ] = None,
    json_out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the scores as JSON too.")
    ] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
) -> None:
    """Score a checkpoint on the scenes of a recipe, a catalog or a dataset."""
    from sartransfer.data.resolve import open_catalog
    from sartransfer.evaluate import evaluate_checkpoint, log_look, scores_json
    from sartransfer.models.checkpoint import read_checkpoint
    from sartransfer.recipe import DataRecipe
    from sartransfer.runs import write_json
    from sartransfer.train import choose_device

    if json_out and json_out.exists() and not overwrite:
        raise OutputError(f"{json_out} exists. Choose another name, or overwrite it (--overwrite).")
    read = read_checkpoint(checkpoint)
    if recipe is not None:
        found = open_catalog(_recipe(recipe, None).data, check=False)
    elif catalog is not None or dataset is not None:
        name, _, root = (dataset or "").partition("=")
        values: dict[str, Any] = (
            {"catalog": str(catalog)} if catalog else {"dataset": name, "root": root or "."}
        )
        found = open_catalog(
            DataRecipe.model_validate({**values, "classes": read.classes, "validation": {"fraction": 0}})
            if catalog
            else DataRecipe.model_validate({**values, "validation": {"fraction": 0}}),
            check=False,
            need_training=False,
        )
    else:
        raise SartransferError("name the scenes to score on: --recipe, --catalog or --dataset NAME=FOLDER.")
    sets = [test_set] if test_set else list(found.test_sets)
    collected = {}
    for name in sets:
        scores = evaluate_checkpoint(read, found, name, device=choose_device(device))
        out.print(_score_table(name, scores.confusion, scores.classes, scores.top2()))
        collected[name] = scores_json(scores)
        folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
        log_look(folder / "test-looks.jsonl", name, str(read.metadata.get("identity")), catalog=found.name)
    if json_out:
        write_json(json_out, collected)
        _path("scores", json_out)


@app.command()
def predict(
    checkpoint: Annotated[Path, typer.Argument(help="A run folder or a checkpoint.")],
    scene: Annotated[Path, typer.Argument(help="A scene: GeoTIFF, PNG, JPEG or .npz.")],
    target: Annotated[Path, typer.Option("--out", "-o", help="The map to write: a GeoTIFF.")],
    bands: Annotated[
        str | None, typer.Option(help="What the scene's bands are: 'VV=sigma0_db,VH=sigma0_db'.")
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write class probabilities too.")
    ] = False,
    overwrite: Overwrite = False,
    device: Device = "auto",
) -> None:
    """Map a scene with a trained network: classes as a GeoTIFF, georeferenced as the scene."""
    from sartransfer.mapping import predict_scene
    from sartransfer.scene import parse_bands
    from sartransfer.train import choose_device

    result = predict_scene(
        checkpoint,
        scene,
        target,
        bands=parse_bands(bands) if bands else None,
        probabilities=probabilities,
        overwrite=overwrite,
        device=choose_device(device),
    )
    total = sum(result.counts.values())
    for name, count in result.counts.items():
        out.print(f"{name}: {count} pixels, {count / total:.1%}", highlight=False)
    for warning in result.warnings:
        err.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)
    _path("map", result.path)
    if result.probabilities:
        _path("probabilities", result.probabilities)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A comparison's folder.")]) -> None:
    """Write the report of a comparison again, from its results."""
    from sartransfer.report import write_figures, write_report

    path = write_report(folder)
    write_figures(folder, folder / "figures")
    _path("report", path)


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors that complete and check YAML."""
    import json

    from sartransfer.recipe import recipe_schema

    print(json.dumps(recipe_schema(), indent=1))


CatalogSource = Annotated[
    str,
    typer.Argument(help="A catalog (CSV, GeoJSON), or a known dataset as NAME=FOLDER.", metavar="CATALOG"),
]


@catalog_app.command("list")
def catalog_list(
    source: CatalogSource, scenes: Annotated[bool, typer.Option("--scenes", help="List every scene.")] = False
) -> None:
    """Show what a catalog holds: scenes and groups by split, classes, and on request every scene."""
    found = _catalog(source)
    table = Table(
        "split", "scenes", "groups", title=f"{found.name}: {', '.join(found.classes) or 'no classes named'}"
    )
    for split in (*found.splits, None):
        entries = [e for e in found.entries if e.split == split]
        if entries:
            groups = {e.group or e.id for e in entries}
            table.add_row(escape(split or "(none)"), str(len(entries)), str(len(groups)))
    out.print(table)
    if scenes:
        for e in found.entries:
            row = (
                e.id,
                e.split or "-",
                e.group or "-",
                e.category or (str(e.label) if e.label else "no label"),
            )
            out.print(escape("  ".join(row)), highlight=False, soft_wrap=True)
    if found.source:
        out.print(escape(found.source), soft_wrap=True)


@catalog_app.command("check")
def catalog_check(source: CatalogSource) -> None:
    """Look for what is wrong: missing files, sizes, labels, units, duplicates, and scenes on both sides of a split."""
    from sartransfer.data.check import check_catalog
    from sartransfer.data.leakage import check_leakage

    found = _catalog(source)
    problems = check_catalog(found)
    for problem in problems:
        out.print(
            f"[yellow]{problem.kind}[/] {escape(problem.id)}: {escape(problem.message)}",
            highlight=False,
            soft_wrap=True,
        )
    leaks = [] if any(p.kind in ("missing file", "unreadable") for p in problems) else check_leakage(found)
    for leak in leaks:
        out.print(f"[yellow]leak[/] {escape(str(leak))}", highlight=False, soft_wrap=True)
    out.print(
        f"{len(found.entries)} scenes, {len(problems)} problems, {len(leaks)} leaks between splits.",
        highlight=False,
    )
    if problems or leaks:
        raise typer.Exit(1)


@catalog_app.command("write")
def catalog_write(
    source: CatalogSource,
    target: Annotated[Path, typer.Option("--out", "-o", help="The catalog to write: .csv or .geojson.")],
    overwrite: Overwrite = False,
) -> None:
    """Write a dataset's or another catalog's scenes as CSV or GeoJSON, to be edited and used in a recipe."""
    from sartransfer.catalog import write_catalog

    found = _catalog(source)
    write_catalog(found, target, overwrite=overwrite)
    _path("catalog", target)


def _catalog(source: str) -> Any:
    from sartransfer.catalog import read_catalog
    from sartransfer.data.datasets import DATASETS

    name, sign, folder = source.partition("=")
    if sign and name in DATASETS:
        return DATASETS[name](Path(folder))
    if sign and not Path(source).exists():
        raise SartransferError(one_of("dataset", name, DATASETS))
    return read_catalog(Path(source))


def _recipe(path: Path, overrides: list[str] | None) -> "Recipe":
    from sartransfer.recipe import Recipe

    return Recipe.from_yaml(path, tuple(overrides or ()))


def _path(what: str, path: Path) -> None:
    out.print(f"{what}: {escape(str(path))}", highlight=False, soft_wrap=True)


def _say(result: "Comparison") -> None:
    for sentence in result.verdict:
        out.print(escape(sentence), highlight=False, soft_wrap=True)
    for run in result.failed:
        name = f"{run['initialization']}, seed {run['seed']}"
        err.print(f"[bold red]failed:[/] {escape(name)}: {escape(str(run['error']))}", soft_wrap=True)


def _score_table(name: str, confusion: Any, classes: tuple[str, ...], top2: float | None) -> Table:
    from sartransfer.metrics import tidy

    table = Table("class", "metric", "value", title=escape(name))
    rows = list(tidy(confusion, classes))
    if top2 is not None:
        rows.append(("", "top2", top2))
    for class_, metric, value in rows:
        table.add_row(escape(class_), metric, "undefined" if value != value else f"{value:.4f}")
    return table


def _show_estimate(plan: "Plan", device: str) -> None:
    from sartransfer.plan import estimate

    with out.status("measuring three training steps a network ..."):
        found = estimate(plan, device)
    table = Table("", "", show_header=False, title=f"{escape(plan.recipe.name)}: what it takes")
    table.add_row("runs", f"{found['runs']}, of which {found['open']} are still to be done")
    for name, seconds in found["seconds_per_run"].items():
        table.add_row(f"one run, {escape(name)}", f"at most {_duration(seconds)}")
    table.add_row(
        "time in all", f"at most {_duration(found['seconds'])} on this machine, after the stages of chains"
    )
    table.add_row("memory", f"about {found['memory_bytes'] / 2**30:.1f} GiB")
    table.add_row("disk", f"about {found['disk_bytes'] / 2**30:.2f} GiB")
    n = found["seeds"]
    table.add_row(f"smallest p with {n} seeds", f"{found['smallest_p']:.3f} (exact sign-flip test)")
    for sd, difference in found["detectable"].items():
        text = "none: too few seeds to be certain" if difference == float("inf") else f"{difference:.3f}"
        table.add_row(f"smallest difference found, if seeds differ by {sd:g}", text)
    out.print(table)
    out.print(
        "Smallest difference: what is called better in four of five comparisons, for that standard deviation "
        "of the paired differences between seeds (in the primary metric, on a fixed test set).",
        soft_wrap=True,
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class _Watcher:
    """Shows runs and epochs as they go: a live line in a terminal, a line a run elsewhere."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn(),
            console=err, transient=True, disable=not err.is_terminal,
        )  # fmt: skip
        self.bar = self.progress.add_task("", total=1, note="")

    def __enter__(self) -> "_Watcher":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def run(self, number: int, of: int, name: str, state: str) -> None:
        """Print a finished run, or begin the bar of a new one."""
        if state == "begins":
            self.progress.update(
                self.bar, description=f"[{number}/{of}] {escape(name)}", completed=0, note=""
            )
        else:
            err.print(f"[{number}/{of}] {name}: {state}", highlight=False, markup=False, soft_wrap=True)

    def epoch(self, name: str, epoch: int, of: int, row: dict[str, Any]) -> None:
        """Move the bar."""
        note = f"loss {row['train_loss']:.3f}"
        if row.get("validation_metric") is not None:
            note += f", validation {row['validation_metric']:.3f}"
        self.progress.update(self.bar, total=of, completed=epoch, note=f"{epoch}/{of} {note}")


if __name__ == "__main__":
    main()
