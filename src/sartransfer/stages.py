"""Resolve an initialization: find or train each link of it, hand over its tensors, and train a run from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from sartransfer import __version__
from sartransfer.catalog import Catalog
from sartransfer.data.ground import trained_pixel_metres
from sartransfer.data.resolve import TrainingData, open_catalog, open_training_data
from sartransfer.data.unlabelled import open_unlabelled, open_unlabelled_data
from sartransfer.determinism import deterministic
from sartransfer.errors import RecipeError, WeightsError
from sartransfer.models import Network, build_model
from sartransfer.models.attention import quick_attention
from sartransfer.models.checkpoint import read_checkpoint
from sartransfer.models.initialize import InitializationReport, load_initialization
from sartransfer.models.lora import is_lora, merge_lora
from sartransfer.models.masked import MaskedAutoencoder, check_form, pretraining_report
from sartransfer.models.pretrained import is_pretrained, read_pretrained
from sartransfer.models.prithvi import PrithviSegmenter
from sartransfer.models.prithvi_weights import hub_weights, load_prithvi
from sartransfer.models.weights import Weights, library_weights, read_weights
from sartransfer.predict import choose_precision
from sartransfer.pretrain import pretrain
from sartransfer.recipe import (
    DataRecipe,
    FileStart,
    HubStart,
    Initialization,
    LibraryStart,
    MaskedRecipe,
    ModelRecipe,
    PrimaryRecipe,
    RandomStart,
    RunStart,
    StageRecipe,
    StagesStart,
    TrainingRecipe,
    digest,
    without_places,
)
from sartransfer.runs import RunFolder, environment, fingerprint, read_json, write_json
from sartransfer.train import Fitted, Task, fit

Notify = Callable[[str, int, int, dict[str, Any]], None]
"""Called after each epoch with what is trained, the epoch, the number of epochs and the row of the curves."""


@dataclass(frozen=True, slots=True)
class Job:
    """One training, whole: what, from where, with which seed."""

    name: str
    task: str
    data: DataRecipe
    model: ModelRecipe
    start: Initialization
    training: TrainingRecipe
    primary: PrimaryRecipe
    seed: int
    fraction: float = 1.0
    draw: int = 0
    """Seed of the draw of the scenes that a fraction under 1 holds."""
    masked: MaskedRecipe | None = None
    """For a stage that reconstructs images."""

    def identity(self, data_hash: str, stages_hash: str = "") -> str:
        """Hash of all that the result depends on; where files lie does not enter, their content does.

        Settings left at their defaults do not enter either, so that a new setting of a later version does not
        make finished runs look like others.
        """

        def given(part: BaseModel, *without: str) -> dict[str, Any]:
            return part.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=set(without))

        asked = {
            "task": self.task,
            "data": without_places(given(self.data, "root", "catalog", "cache")),
            "model": given(self.model),
            "start": {**without_places(given(self.start, "training")), "from": self.start.from_},
            "training": given(self.training, "workers", "devices"),
            "primary": given(self.primary),
            "seed": self.seed,
            "fraction": self.fraction,
            "content": data_hash,
            "stages": stages_hash,
        }
        if self.draw:
            asked["draw"] = self.draw
        if self.masked is not None:
            asked["masked"] = given(self.masked)
        return digest(asked)

    @property
    def options(self) -> dict[str, Any]:
        """What the network is built with: its own options, and the low-rank additions that training asks for."""
        return built_options(self.model, self.training)


def built_options(model: ModelRecipe, training: TrainingRecipe) -> dict[str, Any]:
    """Return what a network is built with: its own options, and the low-rank additions that its training asks for.

    Raises `RecipeError` where both name them.
    """
    if training.lora is None:
        return model.options
    if "lora" in model.options:
        raise RecipeError("lora stands in model.options and in training: say it once, in training.lora.")
    return {**model.options, "lora": training.lora.model_dump(mode="json")}


def train_job(
    job: Job,
    folder: RunFolder,
    data: TrainingData,
    *,
    identity: str,
    stages_folder: Path,
    device: str,
    recipe_yaml: str,
    extra: dict[str, Any] | None = None,
    views: int = 1,
    notify: Notify | None = None,
) -> InitializationReport:
    """Train one job into `folder`: build, initialize, fit, and leave checkpoints, curves and reports there.

    Args:
        job: what to train. folder: where; an unfinished run of the same `identity` is resumed.
        data: its scenes. stages_folder: where links of chains are kept and shared.
        device: ``cpu`` or ``cuda``. recipe_yaml: the resolved recipe, kept beside the weights.
        extra: more facts for ``run.json``. views: how many the checkpoint is to be asked with.
        notify: called after each epoch.

    Returns:
        What the initialization found, adapted and left random.
    """
    precision = choose_precision(job.training.precision, device)
    facts = {
        "environment": environment(device, precision),
        "seed": job.seed,
        "weights": job.training.weights,
        **(extra or {}),
    }
    folder.start(identity, recipe_yaml, facts)
    classes = data.catalog.classes
    torch.manual_seed(job.seed)
    model = build_model(job.model.name, len(data.contract.bands), len(classes), **job.options)
    if model.task != job.task:
        raise RecipeError(
            f"model {job.model.name!r} is made to {model.task}, the recipe's task is {job.task!r}."
        )
    frozen = frozen_parts(model, job.training.freeze)
    report = initialize(model, job.start, stages_folder, device=device, notify=notify, freeze=frozen)
    write_json(folder.path / "initialization.json", report.to_json())
    metadata = {
        "sartransfer": __version__,
        "model": {
            "name": job.model.name,
            "in_channels": len(data.contract.bands),
            "num_classes": len(classes),
            "options": job.options,
        },
        "task": job.task,
        "classes": list(classes),
        "contract": data.contract.to_json(),
        "pixel_m": trained_pixel_metres(data.train.scenes, data.catalog.pixel_m),
        "chip": job.data.chip,
        "views": views,
        "primary": job.primary.model_dump(mode="json", by_alias=True),
        "initialization": report.to_json(),
        "identity": identity,
        "seed": job.seed,
        "recipe": recipe_yaml,
        "environment": facts["environment"],
        "source": data.catalog.source,
    }
    task = Task(data.train, data.validation, job.training, job.primary, classes, job.data.patch)
    done: Fitted = fit(
        folder.path,
        model,
        task,
        seed=job.seed,
        device=device,
        precision=precision,
        metadata=metadata,
        progress=None if notify is None else (lambda epoch, of, row: notify(job.name, epoch, of, row)),
    )
    seconds = sum(row["seconds"] or 0.0 for row in done.curves)
    folder.finish({"epochs": done.epochs, "best_epoch": done.best_epoch, "seconds": round(seconds, 1)})
    return report


def initialize(
    model: Network,
    start: Initialization,
    stages_folder: Path,
    *,
    device: str,
    notify: Notify | None = None,
    freeze: Sequence[str] = (),
) -> InitializationReport:
    """Bring `model` to its start; chains are trained (or found) in `stages_folder` first.

    `model` carries its random start already, from a seed that the caller has set. What `freeze` names is frozen beside
    what the start itself freezes. Raises `WeightsError` for weights that do not fit or lack what is expected.
    """
    links: tuple[InitializationReport, ...] = ()
    weights: Weights | None
    match start:
        case RandomStart():
            weights = None
        case LibraryStart():
            weights = library_weights(start.from_, start.name, str(model.built["name"]))
        case FileStart():
            weights = read_weights(Path(start.path))
        case HubStart():
            weights = hub_weights(start.name, start.revision)
        case RunStart():
            weights = run_weights(Path(start.path), start.which)
        case StagesStart():
            # Training the stages draws chance; the run's own must not depend on whether they were found.
            state = torch.get_rng_state()
            folder, links = train_stages(start, stages_folder, device=device, notify=notify)
            torch.set_rng_state(state)
            weights = run_weights(folder.path, start.stages[-1].training.weights)
            weights = replace(weights, source="stages: " + " -> ".join(s.name for s in start.stages))
    settings: dict[str, Any] = {
        "source": "random" if weights is None else weights.source,
        "first_layer": start.first_layer,
        "select": start.select,
        "allow_missing": start.allow_missing,
        "freeze": [*start.freeze, *freeze],
    }
    if isinstance(model, PrithviSegmenter):
        report = load_prithvi(model, weights, **settings)
    else:
        report = load_initialization(model, weights, **settings)
    return report.with_links(links) if links else report


def frozen_parts(model: Network, freeze: str | int) -> list[str]:
    """Return what `training.freeze` names of a network: its encoder, or its patch embedding and first blocks.

    Raises:
        RecipeError: a number for a network without blocks, or more blocks than there are.
    """
    if freeze == "encoder":
        return ["encoder"]
    if not freeze:
        return []
    if not isinstance(model, PrithviSegmenter) or int(freeze) > model.encoder.depth:
        blocks = model.encoder.depth if isinstance(model, PrithviSegmenter) else 0
        raise RecipeError(
            f"training.freeze={freeze}: the encoder of {model.built.get('name')!r} has {blocks} numbered blocks. Take "
            "fewer, `encoder` for all of it, or name its parts in the start's `freeze`."
        )
    return ["encoder.patch_embed", "encoder.cls_token", *(f"encoder.blocks.{i}" for i in range(int(freeze)))]


def pretrain_job(
    job: Job,
    folder: RunFolder,
    catalog: Catalog,
    *,
    identity: str,
    stages_folder: Path,
    device: str,
    recipe_yaml: str,
    notify: Notify | None = None,
) -> InitializationReport:
    """Pretrain one network by masked autoencoding into `folder`; see `train_job` for the arguments.

    Args:
        catalog: from `open_unlabelled`.

    Raises:
        WeightsError: a network that is not of Prithvi's form, or weights that do not fit it.
    """
    data = open_unlabelled_data(catalog, job.data)
    precision = choose_precision(job.training.precision, device)
    facts = {"environment": environment(device, precision), "seed": job.seed, "weights": job.training.weights}
    folder.start(identity, recipe_yaml, facts)
    torch.manual_seed(job.seed)
    bands, masked = len(data.contract.bands), job.masked or MaskedRecipe()
    # The class layer takes no part; two classes are the fewest that a network can have.
    network = check_form(build_model(job.model.name, bands, 2, **job.options), job.model.name)
    whole = initialize(network, job.start, stages_folder, device=device, notify=notify)
    model = MaskedAutoencoder(
        network, width=masked.width, depth=masked.depth, heads=masked.heads, normalize=masked.normalize
    )
    report = pretraining_report(model, whole)
    write_json(folder.path / "initialization.json", report.to_json())
    metadata = {
        "model": network.built,
        "task": job.task,
        "contract": data.contract.to_json(),
        "masked": masked.model_dump(mode="json"),
        "initialization": report.to_json(),
        "identity": identity,
        "seed": job.seed,
        "recipe": recipe_yaml,
        "environment": facts["environment"],
        "source": catalog.source,
        "images": len(data.train),
    }
    with deterministic(device), quick_attention(model):
        done = pretrain(
            folder.path, model, data, job.training, masked, patch=job.data.patch, seed=job.seed, device=device,
            precision=precision, metadata=metadata,
            progress=None if notify is None else (lambda epoch, of, row: notify(job.name, epoch, of, row)),
        )  # fmt: skip
    seconds = sum(row["seconds"] or 0.0 for row in done.curves)
    folder.finish({"epochs": done.epochs, "best_epoch": done.best_epoch, "seconds": round(seconds, 1)})
    return report


def _catalog_of(stage: StageRecipe, *, check: bool = True) -> Catalog:
    if stage.task == "reconstruct":
        return open_unlabelled(stage.data)
    return open_catalog(stage.data, check=check)


def train_stages(
    start: StagesStart, stages_folder: Path, *, device: str, notify: Notify | None = None
) -> tuple[RunFolder, tuple[InitializationReport, ...]]:
    """Train each link of a chain from the one before, or find it trained; return the last and all reports.

    A link is known by the content of its recipe, its data and the links before it, so any run that needs it
    shares it.
    """
    reports: list[InitializationReport] = []
    before: RunFolder | None = None
    chain = content_of(start.stages[0].start)
    for number, stage in enumerate(start.stages):
        # Looking for leaks reads every pixel: once, before the link is trained, not for every run that finds it.
        catalog = _catalog_of(stage, check=False)
        job = stage_job(stage, start, before, number)
        # Where the stage before lies is a path; what it is, is already in `chain`. How its first layer meets
        # the bands may be the chain's word, which enters where it is not the default.
        met = job.start.model_dump(mode="json", include={"first_layer", "select"}, exclude_defaults=True)
        given = stage.start.model_dump(mode="json", include={"first_layer", "select"}, exclude_defaults=True)
        history = digest([chain, met]) if met != given else chain
        identity = replace(job, start=stage.start).identity(fingerprint(catalog), history)
        folder = RunFolder(stages_folder / f"{number + 1}-{stage.name}-{identity}")
        words: dict[str, Any] = {
            "identity": identity,
            "stages_folder": stages_folder,
            "device": device,
            "recipe_yaml": stage.model_dump_json(indent=1, by_alias=True),
            "notify": notify,
        }
        reports.append(_found(folder, identity) or _train_link(job, folder, stage, words))
        before, chain = folder, identity
    assert before is not None  # a chain has at least one stage: the recipe says so
    return before, tuple(reports)


def _found(folder: RunFolder, identity: str) -> InitializationReport | None:
    """Return the report of a link that is trained already, or None."""
    if folder.status(identity) != "finished":
        return None
    return InitializationReport.from_json(read_json(folder.path / "initialization.json"))


def _train_link(
    job: Job, folder: RunFolder, stage: StageRecipe, words: dict[str, Any]
) -> InitializationReport:
    """Train a link; where another process is at it, wait for that and take what it has made."""
    catalog = _catalog_of(stage)
    with folder.alone(wait=True):
        if found := _found(folder, words["identity"]):
            return found
        if stage.task == "reconstruct":
            return pretrain_job(job, folder, catalog, **words)
        return train_job(job, folder, open_training_data(catalog, stage.data), **words)


def stage_job(stage: StageRecipe, chain: StagesStart, before: RunFolder | None, number: int) -> Job:
    """Return the training that one link of a chain is."""
    model = stage.model or chain.model
    if model is None:
        raise RecipeError(f"stage {stage.name!r} names no model, and neither does the initialization.")
    start: Initialization = stage.start
    if before is not None:
        if stage.start.from_ != "random":
            raise RecipeError(
                f"stage {stage.name!r} starts from the stage before it, not from {stage.start.from_!r}: leave "
                "`from` out there, or make it the first stage."
            )
        own = stage.start if {"first_layer", "select"} & stage.start.model_fields_set else chain
        start = RunStart.model_validate(
            {
                "from": "run",
                "path": str(before.path),
                "which": chain.stages[number - 1].training.weights,
                "first_layer": own.first_layer,
                "select": own.select,
                "allow_missing": stage.start.allow_missing,
                "freeze": stage.start.freeze,
            }
        )
    primary = PrimaryRecipe.model_validate({"metric": "iou_macro" if stage.task == "segment" else "accuracy"})
    masked = stage.masked if stage.task == "reconstruct" else None
    return Job(
        f"stage {stage.name}", stage.task, stage.data, model, start, stage.training, primary, stage.seed,
        masked=masked,
    )  # fmt: skip


def content_of(start: Initialization) -> str:
    """Return a hash of the files behind an initialization: its weights, or the data of its stages; else empty."""
    if isinstance(start, StagesStart):
        files = content_of(start.stages[0].start)
        return digest(
            [fingerprint(_catalog_of(stage, check=False)) for stage in start.stages]
            + ([files] if files else [])
        )
    if isinstance(start, FileStart):
        path = Path(start.path)
        if not path.is_file():
            raise WeightsError(f"no weights at {path}. Give the path of a .safetensors or .pth file.")
        return read_weights(path).sha256
    if isinstance(start, RunStart):
        return run_weights(Path(start.path), start.which).sha256
    return ""


def run_weights(path: Path, which: str) -> Weights:
    """Return the tensors of an earlier run or pretraining, with the channels they were made for.

    Low-rank additions are added to the weights that they adapt: whoever takes the tensors need not know of them.
    """
    if is_pretrained(path, which):
        weights, values = read_pretrained(path, which)
        return replace(weights, source=f"pretraining {path.name} ({which}, epoch {values.get('epoch')})")
    checkpoint = read_checkpoint(path, which=which)
    weights = read_weights(checkpoint.path)
    source = f"run {path.name} ({which}, epoch {checkpoint.metadata.get('epoch')})"
    if any(is_lora(name) for name in weights.tensors):
        merge_lora(checkpoint.model)
        weights, source = replace(weights, tensors=checkpoint.model.state_dict()), f"{source}, LoRA merged"
    return replace(weights, source=source)
