"""The command line: verbs over recipes, catalogs, checkpoints and scenes."""

import errno
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from sartransfer import __version__
from sartransfer.errors import OutputError, SartransferError, one_of
from sartransfer.terminal import (
    Watcher,
    err,
    failure_words,
    out,
    score_table,
    show_estimate,
    show_path,
    show_verdict,
)

if TYPE_CHECKING:
    from sartransfer.gather import Comparison
    from sartransfer.recipe import Recipe

# Heavy packages are imported inside the commands, so that --help and a wrong path answer at once.

app = typer.Typer(
    name="sartransfer",
    help="Which pretrained start works best on your radar images, by how much, and is that certain?",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
)
catalog_app = typer.Typer(no_args_is_help=True, help="List, check and write catalogs of scenes.")
app.add_typer(catalog_app, name="catalog")
FULL = (errno.ENOSPC, errno.EDQUOT)

RecipePath = Annotated[Path, typer.Argument(help="A recipe: a YAML file.", metavar="RECIPE")]
CheckpointPath = Annotated[
    Path,
    typer.Argument(
        help="A run's folder (out/runs/START/FRACTION/seedN) or a .safetensors file.", metavar="CHECKPOINT"
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Change a setting: --set training.epochs=3 (repeatable; paths as in the recipe)."
    ),
]
Views = Annotated[
    int | None,
    typer.Option(help="Flips and turns to average: 1, 4 or 8; default: as the checkpoint was made for."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for runs and results.")]


def main() -> None:
    """Run the command line; a mistake of the user ends in one message and exit code 2."""
    try:
        app(prog_name="sartransfer")
    except SartransferError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno is None:
            raise
        place = f"{error.filename}: " if error.filename else ""
        hint = " Free some space, or choose another place." if error.errno in FULL else ""
        _fail(f"{place}{error.strerror}.{hint}")
    except SystemExit as end:
        terminated = type(end).__name__ == "SIGTERMException"  # Lightning's, which would exit with 0
        if not terminated and not _interrupted(end):
            raise
        resumes = any(word in sys.argv[1:2] for word in ("compare", "demo", "train"))
        text = "finished runs and epochs are kept, and the same command goes on from there."
        err.print(f"stopped: {text if resumes else 'nothing was written.'}", highlight=False, soft_wrap=True)
        sys.exit(143 if terminated else 130)


def _fail(message: str) -> None:
    err.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(2)


def _interrupted(end: BaseException | None) -> bool:
    """Say whether Ctrl-C is behind an exit: Typer and Lightning catch it and exit in their own ways."""
    while end is not None and not isinstance(end, KeyboardInterrupt):
        end = end.__cause__ or end.__context__
    return end is not None


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

    with Watcher() as watcher:
        result = run_demo(folder, seed=seed, device=device, watcher=watcher)
    show_verdict(result.comparison)
    out.print(
        "The images are simulated: optical and multilook SAR pictures of the same kind of landscape.",
        soft_wrap=True,
    )
    show_path("report", result.report)
    show_path("map", result.map.path)
    show_path("figure", result.figure)
    _end(result.comparison)


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
    read = _recipe(recipe, overrides, folder)
    from sartransfer.comparison import compare as run
    from sartransfer.plan import plan_comparison
    from sartransfer.report import write_figures, write_report

    if dry_run:
        show_estimate(plan_comparison(read, folder), device)
        return
    with Watcher() as watcher:
        result = run(read, folder, device=device, jobs=jobs, watcher=watcher)
    runs = result.results["runs"]
    if len(result.failed) < len(runs):
        show_verdict(result)
        write_figures(folder, folder / "figures")
        show_path("report", write_report(folder))
        show_path("results", folder / "results.csv")
    _end(result)


@app.command()
def train(
    recipe: RecipePath,
    folder: Out = Path("out"),
    initialization: Annotated[
        str | None, typer.Option("--start", help="Which of the recipe's initializations; default: the last.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Which seed; default: the recipe's first.")] = None,
    device: Device = "auto",
    overrides: Overrides = None,
) -> None:
    """Train one run of a recipe: one start, one seed; `compare` with the same folder finds it finished."""
    read = _recipe(recipe, overrides, folder)
    from sartransfer.comparison import train_one

    name = initialization or list(read.initializations)[-1]
    with Watcher() as watcher:
        planned, report = train_one(read, folder, name, seed, device=device, watcher=watcher)
    out.print(escape(report.describe()), highlight=False, soft_wrap=True)
    show_path("run", planned.folder.path)
    show_path("checkpoint", planned.folder.path / f"{read.training.weights}.safetensors")


@app.command()
def evaluate(
    checkpoint: CheckpointPath,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="Take the data from this recipe.")] = None,
    catalog: Annotated[
        Path | None, typer.Option("--catalog", help="Or from this catalog (CSV, GeoJSON).")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Or from a known dataset: NAME=FOLDER.")
    ] = None,
    test_set: Annotated[
        str | None, typer.Option("--split", help="Which split of the scenes; default: every test set.")
    ] = None,
    json_out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the scores as JSON too.")
    ] = None,
    overwrite: Overwrite = False,
    views: Views = None,
    device: Device = "auto",
) -> None:
    """Score a checkpoint on the scenes of a recipe, a catalog or a dataset."""
    from sartransfer.data.resolve import open_catalog
    from sartransfer.evaluate import evaluate_checkpoint, log_look, scores_json
    from sartransfer.models.checkpoint import read_checkpoint
    from sartransfer.predict import choose_device
    from sartransfer.runs import chosen_weights, write_json

    if [recipe, catalog, dataset].count(None) != 2:
        raise SartransferError("name the scenes to score on: --recipe, --catalog or --dataset, one of them.")
    if json_out and json_out.exists() and not overwrite:
        raise OutputError(f"{json_out} exists. Choose another name, or overwrite it (--overwrite).")
    if json_out and not json_out.parent.is_dir():
        raise OutputError(f"{json_out} cannot be written: there is no folder {json_out.parent}.")
    device = choose_device(device)
    read = read_checkpoint(checkpoint, which=chosen_weights(checkpoint))
    if recipe is not None:
        found = open_catalog(_recipe(recipe).data, check=False)
    else:
        found = _catalog(str(catalog or dataset))
        if not found.classes:
            found = replace(found, classes=read.classes)
    sets = [test_set] if test_set else list(found.test_sets)
    if not sets:
        raise SartransferError(
            f"catalog {found.name!r} has no test set: only {', '.join(found.splits) or 'scenes without split'}. "
            "Fill its column `split`, or name the split to score on (--split)."
        )
    collected = {}
    for name in sets:
        scores = evaluate_checkpoint(read, found, name, device=device, views=views)
        out.print(score_table(name, scores.confusion, scores.classes, scores.top2()))
        collected[name] = scores_json(scores)
        folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
        log_look(folder / "test-looks.jsonl", name, str(read.metadata.get("identity")), catalog=found.name)
    if json_out:
        write_json(json_out, collected)
        show_path("scores", json_out)


@app.command()
def predict(
    checkpoint: CheckpointPath,
    scene: Annotated[
        str,
        typer.Argument(
            help="A scene: GeoTIFF, PNG, JPEG or .npz; several files of one scene as 'BEFORE|AFTER'.",
            metavar="SCENE",
        ),
    ],
    target: Annotated[Path, typer.Option("--out", "-o", help="The map to write: a GeoTIFF.")],
    bands: Annotated[
        str | None,
        typer.Option(
            help="What the bands are, in file order, where the file does not say: VV=sigma0_db,VH=sigma0_db; "
            "for several files 'before=sigma0_db|after=sigma0_db'."
        ),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write class probabilities too, as MAP-probabilities.tif.")
    ] = False,
    overwrite: Overwrite = False,
    views: Views = None,
    device: Device = "auto",
) -> None:
    """Map a scene with a trained network: classes as a GeoTIFF, georeferenced as the scene."""
    from sartransfer.mapping import predict_scene
    from sartransfer.predict import choose_device

    result = predict_scene(
        checkpoint,
        scene,
        target,
        bands=bands,
        probabilities=probabilities,
        overwrite=overwrite,
        views=views,
        device=choose_device(device),
    )
    total = sum(result.counts.values())
    for name, count in result.counts.items():
        out.print(f"{name}: {count} pixels, {count / total:.1%}", highlight=False)
    for warning in result.warnings:
        err.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)
    show_path("map", result.path)
    if result.probabilities:
        show_path("probabilities", result.probabilities)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A comparison's folder.", metavar="FOLDER")]) -> None:
    """Write the report of a comparison again, from its results."""
    from sartransfer.report import write_figures, write_report

    path = write_report(folder)
    write_figures(folder, folder / "figures")
    show_path("report", path)


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors that complete and check YAML."""
    import json

    from sartransfer.recipe import recipe_schema

    print(json.dumps(recipe_schema(), indent=1))


CatalogSource = Annotated[
    str,
    typer.Argument(
        help="A catalog (CSV, GeoJSON), a recipe (its data), or a known dataset as NAME=FOLDER.",
        metavar="CATALOG",
    ),
]


@catalog_app.command("list")
def catalog_list(
    source: CatalogSource, scenes: Annotated[bool, typer.Option("--scenes", help="List every scene.")] = False
) -> None:
    """Show what a catalog holds: scenes and groups by split, classes, and on request every scene."""
    found = _catalog(source)
    table = Table(
        "split",
        "scenes",
        "groups",
        title=escape(f"{found.name}: {', '.join(found.classes) or 'no classes named'}"),
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
    show_path("catalog", target)


def _catalog(source: str) -> Any:
    from sartransfer.catalog import read_catalog
    from sartransfer.data.datasets import DATASETS

    if Path(source).suffix in (".yaml", ".yml"):
        from sartransfer.data.resolve import open_catalog

        return open_catalog(_recipe(Path(source)).data, check=False)
    name, sign, folder = source.partition("=")
    if sign and name in DATASETS:
        return DATASETS[name](Path(folder))
    if sign and not Path(source).exists():
        raise SartransferError(one_of("dataset", name, DATASETS))
    if source in DATASETS and not Path(source).exists():
        raise SartransferError(f"{source} is a known dataset: say where it lies, as {source}=FOLDER.")
    return read_catalog(Path(source))


def _end(result: "Comparison") -> None:
    """End with what went wrong: exit code 2 for a mistake of the user, 1 for one of ours."""
    if result.failed:
        words = failure_words(result.failed, len(result.results["runs"]))
        if "Traceback" not in words:
            raise SartransferError(words)
        err.print(words, highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(1)


def _recipe(path: Path, overrides: list[str] | None = None, folder: Path | None = None) -> "Recipe":
    """Read a recipe; refuses a `folder` for results in which the resolved recipe would replace this file."""
    from sartransfer.recipe import Recipe

    recipe = Recipe.from_yaml(path, tuple(overrides or ()))
    kept = folder / "recipe.yaml" if folder else None
    if kept is not None and kept.exists() and kept.samefile(path):
        raise OutputError(f"{path} would be replaced by the resolved recipe. Choose another folder (-o).")
    return recipe


@catalog_app.command("folds")
def catalog_folds(
    source: CatalogSource,
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for one catalog a fold.")],
    number: Annotated[int, typer.Option("--folds", min=2, help="How many folds.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Cut a catalog into folds by group, for cross-validation: each group is the test set `held-out` of one fold."""
    from sartransfer.catalog import write_catalog
    from sartransfer.data.splits import group_folds

    folds = group_folds(_catalog(source), number, seed, name="held-out")
    folder.mkdir(parents=True, exist_ok=True)
    for i, fold in enumerate(folds, start=1):
        show_path("catalog", write_catalog(fold, folder / f"fold-{i}.csv", overwrite=overwrite))


if __name__ == "__main__":
    main()
