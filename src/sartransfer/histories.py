"""What a start was trained on before: whether any link or run behind it has seen a scene that it is scored on."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sartransfer.catalog import TRAIN, VALIDATION, Catalog
from sartransfer.data.resolve import open_catalog, same_scenes
from sartransfer.data.unlabelled import open_unlabelled, refuse_seen_tests
from sartransfer.errors import LeakageError, SartransferError
from sartransfer.faults import read_yaml
from sartransfer.recipe import (
    DataRecipe,
    FileStart,
    Initialization,
    Recipe,
    RunStart,
    StageRecipe,
    StagesStart,
)
from sartransfer.runs import RunFolder, read_json


@dataclass(frozen=True, slots=True)
class Learned:
    """One training that lies behind a start."""

    name: str
    """Of the stage, or of the run's folder."""
    kind: str
    """``stage`` of a chain that is yet to be trained, or an earlier ``run``."""
    data: DataRecipe | None
    """What it is trained on; None: nothing that is at hand says it."""
    labels: bool = True
    path: str = ""
    """Of a run."""

    @property
    def words(self) -> str:
        """What it does with its scenes, for people."""
        if self.kind == "stage":
            return f"stage {self.name!r} would be {'trained' if self.labels else 'pretrained'}"
        link = "" if Path(self.path).name == self.name else f"stage {self.name!r} of "
        return f"{link}run {self.path} was {'trained' if self.labels else 'pretrained'}"


def refuse_leaking_starts(
    starts: Mapping[str, Initialization], target: Catalog, data: DataRecipe, *, stages: bool = True
) -> list[str]:
    """Raise `LeakageError` where a start was, or would be, trained or pretrained on scenes of the target's test sets.

    Looked at are the training and validation scenes of every stage of a chain, and of the run that a start continues,
    of the starts of that run too; each is looked for in the test sets as `refuse_seen_tests` does.

    Args:
        starts: of a recipe, by name. target: the comparison's catalog. data: its recipe.
        stages: False leaves out stages that are yet to be trained: the caller has looked at them.

    Returns:
        Warnings: starts from runs of which the scenes that they were trained on cannot be opened any more.

    Raises:
        LeakageError: names the start, the stage or run, and scenes. CatalogError, InputError: a stage's data are wrong.
    """
    warnings: list[str] = []
    clean: set[str] = set()
    for name, start in starts.items():
        for learned in behind(start):
            if learned.kind == "stage" and not stages:
                continue
            key = "" if learned.data is None else f"{learned.labels} {learned.data.model_dump_json()}"
            if key in clean:
                continue
            seen = None if learned.data is None else _scenes(learned)
            if seen is None or learned.data is None:
                warnings.append(_unknown(name, learned.path))
                continue
            try:
                refuse_seen_tests(
                    seen,
                    target,
                    stage=f"{learned.kind} {learned.name}",
                    same_catalog=same_catalog(learned.data, data),
                    same_scenes=same_scenes(data),
                    footprint_days=data.footprint_days,
                    words=learned.words,
                )
            except LeakageError as error:
                raise LeakageError(f"initialization {name!r}: {error}") from None
            except SartransferError:
                if learned.kind == "stage":
                    raise
                warnings.append(_unknown(name, learned.path))
                continue
            clean.add(key)
    return list(dict.fromkeys(warnings))


def behind(start: Initialization) -> Iterator[Learned]:
    """Yield every training behind a start, of runs by what lies in their folders."""
    yield from _behind(start, set())


def _behind(start: Initialization, visited: set[Path]) -> Iterator[Learned]:
    match start:
        case StagesStart():
            yield from _behind(start.stages[0].start, visited)
            for stage in start.stages:
                yield Learned(stage.name, "stage", stage.data, stage.task != "reconstruct")
        case RunStart():
            yield from _run(Path(start.path), start.which, visited)
        case FileStart() if (Path(start.path).parent / "run.json").is_file():
            yield from _run(Path(start.path), "best", visited)


def _run(path: Path, which: str, visited: set[Path]) -> Iterator[Learned]:
    """Yield what a run learned from, and what lies behind it, by the recipe that lies in its folder."""
    folder = path if path.is_dir() else path.parent
    if folder.resolve() in visited:
        return
    visited.add(folder.resolve())
    unknown = Learned(folder.name, "run", None, path=str(folder))
    try:
        record = RunFolder(folder).record
        file = path / f"{which}.json" if path.is_dir() else path.with_suffix(".json")
        kept = json.loads(file.read_text(encoding="utf-8"))
        values = read_yaml((folder / "recipe.yaml").read_text(encoding="utf-8"))
        if not record.get("identity") or record["identity"] != kept.get("identity"):
            yield unknown  # the weights are not of the run that the folder tells of
            return
        if "initializations" not in values:
            yield from _link(folder, StageRecipe.model_validate(values), visited)
            return
        recipe = Recipe.from_yaml(folder / "recipe.yaml")
        before = recipe.initializations.get(str(record.get("initialization")))
    except (
        OSError, ValueError, TypeError, AttributeError, yaml.YAMLError, ValidationError, SartransferError,
    ):  # fmt: skip
        yield unknown
        return
    for learned in () if before is None else _behind(before, visited):
        # What a finished run's own chain was trained on is past, too.
        yield Learned(learned.name, "run", learned.data, learned.labels, learned.path or str(folder))
    yield Learned(folder.name, "run", recipe.data, path=str(folder))


def _link(folder: Path, stage: StageRecipe, visited: set[Path]) -> Iterator[Learned]:
    """Yield what a link of a chain learned from; the link before it is named in its report, and lies beside it."""
    yield from _behind(stage.start, visited)
    report: dict[str, Any] = read_json(folder / "initialization.json")
    named = re.match(r"(?:run|pretraining) (.+) \((best|last), epoch", str(report.get("source")))
    if named and (folder.parent / named[1] / "run.json").is_file():
        yield from _run(folder.parent / named[1], named[2], visited)
    elif named and stage.start.from_ == "random":
        yield Learned(named[1], "run", None, path=str(folder.parent / named[1]))
    yield Learned(folder.name, "run", stage.data, stage.task != "reconstruct", path=str(folder))


def _scenes(learned: Learned) -> Catalog | None:
    """Return what was trained or validated on, whole; None where a run's scenes are not at hand any more."""
    assert learned.data is not None
    try:
        if learned.labels:
            own = learned.data.model_copy(update={"external": {}, "label_noise": None})
            found = open_catalog(own, check=False, cut=False)
        else:
            found = open_unlabelled(learned.data)
    except SartransferError:
        if learned.kind == "stage":
            raise
        return None
    found = found.where(lambda e: e.split in (TRAIN, VALIDATION))
    there = all(asset.path.exists() for e in found.entries for asset in e.assets)
    return found if there or learned.kind == "stage" else None


def same_catalog(one: DataRecipe, other: DataRecipe) -> bool:
    """Say whether both are of one dataset or catalog, so that a group's name means the same event."""
    return one.dataset == other.dataset if one.dataset else one.catalog == other.catalog


def _unknown(name: str, path: str) -> str:
    return (
        f"Start {name!r}: what {path} was trained on is not at hand, so that it is not known whether it has seen "
        "scenes of the test sets."
    )
