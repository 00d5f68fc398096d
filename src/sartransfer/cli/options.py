"""What several commands take, and how the words become recipes and catalogs."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sartransfer.errors import OutputError, SartransferError, one_of

if TYPE_CHECKING:
    from sartransfer.catalog import Catalog
    from sartransfer.recipe import Recipe

RecipePath = Annotated[Path, typer.Argument(help="A recipe: a YAML file.", metavar="RECIPE")]
CheckpointPath = Annotated[
    Path,
    typer.Argument(
        help="A run's folder (out/runs/START/FRACTION/seedN) or a .safetensors file.", metavar="CHECKPOINT"
    ),
]
Ensemble = Annotated[
    list[Path] | None,
    typer.Option("--ensemble", help="Ask this checkpoint too (repeatable): mean probabilities decide."),
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
RecipeOption = Annotated[Path | None, typer.Option("--recipe", help="Take the data from this recipe.")]
CatalogOption = Annotated[
    Path | None, typer.Option("--catalog", help="Take the data from this catalog (CSV, GeoJSON).")
]
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="Take the data from a known dataset: NAME=FOLDER.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for runs and results.")]
Devices = Annotated[
    int | None,
    typer.Option(
        min=1, help="Processes that share each batch, one a GPU (or on cores); as --set training.devices=N."
    ),
]
FoldWords = Annotated[
    str | None,
    typer.Option(
        "--folds",
        help="Cross-validation: so many folds of whole groups, or `each` to leave out each group once.",
        metavar="N|each",
    ),
]
ClusterWords = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="Run as tasks on workers: local:4, slurm:8,cores=4,..., kubernetes:8,image=..., tls://HOST:PORT or "
        "file:SCHEDULER.json (docs/clusters.md).",
    ),
]
ClusterKeys = Annotated[
    Path | None,
    typer.Option(
        "--cluster-tls", help="Folder with the keys of a running cluster (sartransfer cluster keys)."
    ),
]
ClusterPlain = Annotated[
    bool, typer.Option("--cluster-plain", help="Join a cluster beyond this machine without encryption.")
]
CatalogSource = Annotated[
    str,
    typer.Argument(
        help="A catalog (CSV, GeoJSON), a recipe (its data), or a known dataset as NAME=FOLDER.",
        metavar="CATALOG",
    ),
]


def read_recipe(path: Path, overrides: list[str] | None = None, folder: Path | None = None) -> "Recipe":
    """Read a recipe; refuses a `folder` for results in which the resolved recipe would replace this file."""
    from sartransfer.recipe import Recipe

    recipe = Recipe.from_yaml(path, tuple(overrides or ()))
    kept = folder / "recipe.yaml" if folder else None
    if kept is not None and kept.exists() and kept.samefile(path):
        raise OutputError(f"{path} would be replaced by the resolved recipe. Choose another folder (-o).")
    return recipe


def check_cluster(cluster: str | None, keys: Path | None, plain: bool) -> None:
    """Refuse what says how a cluster is joined where none is named: it would change nothing without a word."""
    for flag, given in (("--cluster-tls", keys is not None), ("--cluster-plain", plain)):
        if given and not cluster:
            raise SartransferError(
                f"{flag} is for --cluster: add --cluster tls://HOST:PORT, or leave it out."
            )


def with_devices(overrides: list[str] | None, devices: int | None) -> list[str] | None:
    """Return the overrides, with the number of devices among them where it is given."""
    return overrides if devices is None else [*(overrides or ()), f"training.devices={devices}"]


def recipe_of(source: str, overrides: list[str] | None = None) -> "Recipe | None":
    """Read the recipe that a word on the command line names; None: it names a catalog or a dataset."""
    if Path(source).suffix in (".yaml", ".yml"):
        return read_recipe(Path(source), overrides)
    if overrides:
        raise SartransferError(f"--set changes settings of a recipe, and {source} is none (.yaml).")
    return None


def open_scenes(source: str, recipe: "Recipe | None" = None) -> "Catalog":
    """Open the scenes that a word on the command line names: a catalog, a recipe (as read), or NAME=FOLDER."""
    from sartransfer.catalog import read_catalog
    from sartransfer.data.datasets import DATASETS

    recipe = recipe or recipe_of(source)
    if recipe is not None:
        from sartransfer.data.resolve import open_catalog

        return open_catalog(recipe.data, check=False)
    name, sign, folder = source.partition("=")
    if sign and name in DATASETS:
        return DATASETS[name](Path(folder))
    if sign and not Path(source).exists():
        raise SartransferError(one_of("dataset", name, DATASETS))
    if source in DATASETS and not Path(source).exists():
        raise SartransferError(f"{source} is a known dataset: say where it lies, as {source}=FOLDER.")
    return read_catalog(Path(source))


def open_scored_scenes(
    recipe: Path | None, catalog: Path | None, dataset: str | None, classes: tuple[str, ...]
) -> "Catalog":
    """Open the scenes to score on; a catalog that names no classes has those of the checkpoint."""
    if recipe is not None:
        from sartransfer.data.resolve import open_catalog

        return open_catalog(read_recipe(recipe).data, check=False)
    found = open_scenes(str(catalog or dataset))
    return found if found.classes else replace(found, classes=classes)


def check_one_source(recipe: Path | None, catalog: Path | None, dataset: str | None) -> None:
    """Refuse no source of scenes to score on, and more than one."""
    if [recipe, catalog, dataset].count(None) != 2:
        raise SartransferError("name the scenes to score on: --recipe, --catalog or --dataset, one of them.")


def splits_to_score(catalog: "Catalog", name: str | None) -> list[str]:
    """Return the split that was asked for, or every test set."""
    found = [name] if name else list(catalog.test_sets)
    if not found:
        raise SartransferError(
            f"catalog {catalog.name!r} has no test set: only {', '.join(catalog.splits) or 'scenes without split'}. "
            "Fill its column `split`, or name the split to score on (--split)."
        )
    return found
