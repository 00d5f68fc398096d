"""Commands that score checkpoints: evaluate, ensemble."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from sartransfer.cli.areas import LEFT_OUT
from sartransfer.cli.options import (
    CatalogOption,
    CheckpointPath,
    DatasetOption,
    Device,
    Ensemble,
    Overwrite,
    RecipeOption,
    Views,
    check_one_source,
    open_scored_scenes,
    read_recipe,
    splits_to_score,
)
from sartransfer.errors import SartransferError, refuse_existing, refuse_input
from sartransfer.terminal import err, out, score_table, show_path, show_warnings
from sartransfer.wording import OTHER_DATA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sartransfer.catalog import Catalog
    from sartransfer.ensemble import EnsembleScores
    from sartransfer.models.checkpoint import Checkpoint
    from sartransfer.seen import Standing


def evaluate(
    checkpoint: CheckpointPath,
    recipe: RecipeOption = None,
    catalog: CatalogOption = None,
    dataset: DatasetOption = None,
    more: Ensemble = None,
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
    """Score a checkpoint, or several together, on the scenes of a recipe, a catalog or a dataset."""
    from sartransfer.evaluate import check_together, evaluate_checkpoint, scores_json, uncounted_warning
    from sartransfer.mapping import checkpoint_tag
    from sartransfer.predict import choose_device
    from sartransfer.runs import write_json
    from sartransfer.seen import standings

    check_one_source(recipe, catalog, dataset)
    if json_out:
        sources = [Path(p) for p in (recipe, catalog, checkpoint, *(more or ())) if p is not None]
        refuse_input(json_out, sources)
        refuse_existing(json_out, overwrite)
    device = choose_device(device)
    paths = (checkpoint, *(more or ()))
    networks = tuple(map(_read, paths))
    check_together(networks)
    found = open_scored_scenes(recipe, catalog, dataset, networks[0].classes)
    asked = read_recipe(recipe) if recipe else None
    strata = asked.strata if asked else None
    names = splits_to_score(found, test_set)
    with err.status("looking whether the test scenes were trained on ..."):
        known = standings(dict(zip(paths, networks, strict=True)), asked, found, names, source=catalog)
    show_warnings(_shown_oddly(found, names))
    collected = {}
    for name in names:
        scores = evaluate_checkpoint(networks, found, name, device=device, views=views, strata=strata)
        title = f"{name}: {len(networks)} networks" if len(networks) > 1 else name
        out.print(score_table(title, scores.confusion, scores.classes, scores.top2()))
        collected[name] = scores_json(scores) | {
            "checkpoint": checkpoint_tag(networks),
            "member_views": [views or network.views for network in networks],
            "relation": known[name].relation,
            "relation_why": known[name].why,
        }
        _warn(name, known[name])
        if text := uncounted_warning(scores):
            show_warnings([text])
        for path, network in zip(paths, networks, strict=True):
            _log(path, network.metadata.get("identity"), found, name)
    if json_out:
        write_json(json_out, collected)
        show_path("scores", json_out)


def ensemble(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of runs (out/runs/START/FRACTION/seed*) or .safetensors files, one or more.",
            metavar="CHECKPOINT...",
            show_default=False,
        ),
    ],
    recipe: RecipeOption = None,
    catalog: CatalogOption = None,
    dataset: DatasetOption = None,
    test_set: Annotated[
        str | None,
        typer.Option("--test", "--split", help="Which split of the scenes; default: every test set."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for predictions.csv, a row a patch, and ensemble.json."),
    ] = None,
    overwrite: Overwrite = False,
    views: Views = None,
    device: Device = "auto",
) -> None:
    """Join networks that classify patches: majority vote, ties and top-2 by mean probability."""
    from sartransfer.certainty import ensemble_json
    from sartransfer.ensemble import check_member, write_predictions
    from sartransfer.predict import choose_device
    from sartransfer.runs import write_json

    check_one_source(recipe, catalog, dataset)
    kept = [folder / name for name in ("predictions.csv", "ensemble.json")] if folder else []
    for path in kept:
        if path.exists():  # their folder need not be there yet
            refuse_existing(path, overwrite)
    device = choose_device(device)
    if twice := [p for p in checkpoints if [c.resolve() for c in checkpoints].count(p.resolve()) > 1]:
        raise SartransferError(f"{twice[0]} is named twice: it would have two votes.")
    first = _read(checkpoints[0])
    identities = {}
    for path in checkpoints:  # all are looked at before the first is asked
        member = _read(path)
        check_member(member, first)
        identities[path] = member.metadata.get("identity")
    found = open_scored_scenes(recipe, catalog, dataset, first.classes)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    joined = []
    for name in splits_to_score(found, test_set):
        scores = _evaluate_members(checkpoints, found, name, device, views)
        joined.append(scores)
        out.print(_ensemble_table(scores))
        for path, identity in identities.items():
            _log(path, identity, found, name)
    if folder:
        show_path("predictions", write_predictions(kept[0], joined))
        write_json(kept[1], {e.test_set: ensemble_json(e) for e in joined})
        show_path("scores", kept[1])


def _read(path: Path) -> "Checkpoint":
    from sartransfer.models.checkpoint import read_checkpoint
    from sartransfer.runs import chosen_weights

    return read_checkpoint(path, which=chosen_weights(path))


def _evaluate_members(
    checkpoints: list[Path], catalog: "Catalog", name: str, device: str, views: int | None
) -> "EnsembleScores":
    """Score networks together, read one at a time, with a bar that tells which is asked."""
    from sartransfer.ensemble import evaluate_ensemble

    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(escape(name), total=None)

        def members() -> "Iterator[Checkpoint]":
            for number, path in enumerate(checkpoints, start=1):
                bar.update(task, description=escape(f"{name}: network {number} of {len(checkpoints)}"))
                yield _read(path)

        def move(done: int, of: int) -> None:
            bar.update(task, completed=done, total=of)

        return evaluate_ensemble(members(), catalog, name, device=device, views=views, progress=move)


def _ensemble_table(found: "EnsembleScores") -> Table:
    low, high = found.interval()
    alone = found.member_accuracies
    values = found.scores
    size = f"{found.members} member{'s' if found.members > 1 else ''}"
    table = Table("", "", show_header=False, title=escape(f"{found.test_set}: {size}"))
    table.add_row("patches", str(len(found.ids)))
    table.add_row("accuracy", f"{found.accuracy:.4f} [{low:.4f}, {high:.4f}]")
    table.add_row("members alone", f"{sum(alone) / len(alone):.4f} ({min(alone):.4f} to {max(alone):.4f})")
    table.add_row("f1_macro", f"{values['f1_macro']:.4f}")
    table.add_row("f1_weighted", f"{values['f1_weighted']:.4f}")
    if found.top2 is not None:
        table.add_row("top2", f"{found.top2:.4f}")
    table.add_row("mean entropy", f"{found.entropy.mean():.4f} nats")
    table.add_row("spread", f"{found.spread.mean():.4f} nats")
    return table


def _shown_oddly(catalog: "Catalog", names: list[str]) -> list[str]:
    """Say, once each, what display values of the scenes are made of that their stretch was not made for."""
    from sartransfer.readers import open_entry
    from sartransfer.readers.display import display_warnings

    asked = [e for name in names for e in catalog.in_split(name) if "display" in {a.reader for a in e.assets}]
    return list(dict.fromkeys(text for e in asked for text in display_warnings(open_entry(e))))


def _warn(name: str, found: "Standing") -> None:
    """Say of a test set's scores what they are not."""
    if found.relation in LEFT_OUT and found.relation != OTHER_DATA:
        words = f"{name}: {LEFT_OUT[found.relation]}" + (f" ({found.why})" if found.why else "")
        show_warnings([f"{words}. Its scores say nothing certain of new scenes."])


def _log(path: Path, identity: object, catalog: "Catalog", split: str) -> None:
    """Note a look at test scores beside the checkpoint."""
    from sartransfer.evaluate import log_look

    folder = path if path.is_dir() else path.parent
    log_look(folder / "test-looks.jsonl", split, str(identity), catalog=catalog.name)
