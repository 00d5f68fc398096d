"""What a comparison will do: its runs, its test sets, and what it takes in time, memory and disk."""

import math
import resource
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from sartransfer.baselines import check_baselines
from sartransfer.before import check_networks, check_scenes
from sartransfer.catalog import TRAIN, VALIDATION, Catalog
from sartransfer.data.check import look_at_labels, unit_warnings
from sartransfer.data.ground import in_pixels
from sartransfer.data.leakage import relation, same_ground
from sartransfer.data.patches import check_patches
from sartransfer.data.resolve import TrainingData, open_catalog, open_training_data, same_scenes
from sartransfer.data.rule_labels import is_rule_labelled
from sartransfer.data.splits import fraction_warnings, left_out
from sartransfer.data.strata import check_strata
from sartransfer.errors import RecipeError, one_of
from sartransfer.gpu import on_gpu
from sartransfer.histories import refuse_leaking_starts
from sartransfer.losses import build_loss
from sartransfer.models import build_model
from sartransfer.models.attention import quick_attention
from sartransfer.predict import autocast, choose_device, choose_precision
from sartransfer.readers import refuse_unsaid_labels
from sartransfer.recipe import DataRecipe, Recipe, StagesStart, TrainingRecipe, digest
from sartransfer.results import TestSet, pairs
from sartransfer.runs import RunFolder, fingerprint
from sartransfer.stages import Job, content_of
from sartransfer.statistics import smallest_detectable_difference, smallest_sign_flip_p
from sartransfer.train import keep_freed_memory
from sartransfer.wording import NOT_KNOWN, OTHER_DATA, RULE_LABELS, SAME_SCENES

TIMED_PIXELS = 4 << 20
"""Pixels of a batch up to which a step is timed whole."""
DIFFER_BY = (0.005, 0.01, 0.02)
"""Standard deviations of the paired differences between seeds, for which is told what can be found."""
SLOW_STEP = 5.0
"""Seconds from which one step, after the one to warm up, is timed instead of three."""


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run of a comparison: its job, its folder and what tells it from others."""

    initialization: str
    job: Job
    folder: RunFolder
    identity: str
    fold: int | None = None
    """Of a cross-validation (`folds`), from 1."""

    @property
    def name(self) -> str:
        """As shown to people."""
        share = f", {self.job.fraction:.0%} of the labels" if self.job.fraction < 1 else ""
        fold = "" if self.fold is None else f", fold {self.fold}"
        return f"{self.initialization}{share}, seed {self.job.seed}{fold}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a comparison will do, and what it takes."""

    recipe: Recipe
    out: Path
    catalog: Catalog
    runs: tuple[PlannedRun, ...]
    test_sets: tuple[TestSet, ...]
    data_hash: str
    warnings: tuple[str, ...] = ()
    """What is odd about the scenes and starts: values that belie their units, a run whose data are not at hand."""

    def open_runs(self) -> list[PlannedRun]:
        """The runs that are not finished yet."""
        return [r for r in self.runs if r.folder.status(r.identity) != "finished"]


def plan_comparison(
    recipe: Recipe, out: str | Path, *, looked: bool = False, stages_looked: bool = False
) -> Plan:
    """Return the runs that `recipe` asks for; opens the catalog, checks the splits and every start's data.

    Scenes, labels, networks and losses are looked at too (`before`), so that what would end a run is said here.

    Args:
        recipe: what is asked for. out: the comparison's folder; nothing is written.
        looked: this comparison was planned before, in another process: starts, scenes and networks are not looked at
            again. stages_looked: the caller has looked for test scenes among those of the stages.

    Raises:
        SartransferError: what is wrong with the recipe, its data or its starts (`LeakageError`: a start has seen a test
            scene).
    """
    out = Path(out)
    catalog = open_catalog(recipe.data)
    if recipe.primary.class_ and recipe.primary.class_ not in catalog.classes:
        raise RecipeError(one_of("primary.class", recipe.primary.class_, catalog.classes))
    if recipe.primary.metric == "top2" and len(catalog.classes) < 3:
        raise RecipeError(
            f"primary.metric 'top2' says nothing of {len(catalog.classes)} classes ({', '.join(catalog.classes)}): the"
            " right one is always among the two highest. Take accuracy or f1_macro."
        )
    names = recipe.tests or catalog.test_sets
    for name in names:
        if name not in catalog.test_sets:
            raise RecipeError(one_of("tests", name, catalog.test_sets))
    if not names:
        raise RecipeError("there is no test set: name one in the catalog's `split` column, or set data.test.")
    test_sets = []
    for name in names:
        entries = catalog.in_split(name)
        groups = {e.group or e.id for e in entries}
        grouped = all(e.group for e in entries)
        test_sets.append(
            TestSet(name, len(entries), len(groups), relation_of(recipe, catalog, name), grouped)
        )
        if recipe.task == "segment":
            refuse_unsaid_labels(catalog, entries)
        if (
            recipe.strata and recipe.task == "segment"
        ):  # what they need and lack else ends a run after its training
            for entry in entries:
                check_strata(recipe.strata, entry)
    for name in recipe.rule_labelled:
        if name not in names:
            raise RecipeError(one_of("rule_labelled", name, names))
    check_baselines(recipe, catalog, names)
    warnings: list[str] = []
    if not looked:
        bands = check_scenes(catalog, recipe.task, names, recipe.data.bands)
        check_networks(recipe, catalog, bands)
        starts = recipe.initializations
        warnings += refuse_leaking_starts(starts, catalog, recipe.data, stages=not stages_looked)
    data_hash = fingerprint(catalog)
    runs = []
    for name, start in recipe.initializations.items():
        model = recipe.model_of(name)
        if isinstance(start, StagesStart) and start.model is None:
            start = start.model_copy(update={"model": model})
        stages_hash = content_of(start)
        for fraction in recipe.fractions:
            for seed in recipe.seeds:
                draw = seed if fraction < 1 and recipe.fraction_draw == "by-seed" else 0
                job = Job(name, recipe.task, recipe.data, model, start, recipe.training_of(name), recipe.primary,
                          seed, fraction, draw)  # fmt: skip
                folder = RunFolder(out / "runs" / name / f"{fraction:.4g}" / f"seed{seed}")
                runs.append(PlannedRun(name, job, folder, job.identity(data_hash, stages_hash)))
    # Seeds first: a comparison that is stopped early has all starts with fewer seeds, which can be compared.
    runs.sort(key=lambda r: (-r.job.fraction, recipe.seeds.index(r.job.seed)))
    splits = fraction_warnings(catalog, recipe.fractions)
    if not recipe.data.dataset:  # those of published data are left out on purpose
        splits += left_out(catalog)
    warnings = [*unit_warnings(catalog), *splits, *ground_warnings(recipe.data, catalog, names), *warnings]
    return Plan(recipe, out, catalog, tuple(runs), tuple(test_sets), data_hash, tuple(warnings))


def ground_warnings(data: DataRecipe, catalog: Catalog, names: Collection[str]) -> list[str]:
    """Say which test sets stand on ground that is trained on at another time, where a recipe allows it."""
    if data.footprint_days is None:
        return []
    found = [name for name in same_ground(catalog) if name in names]
    return [
        f"Test set {name!r} stands on ground that is trained on, {data.footprint_days:g} days apart or more "
        "(data.footprint_days): what does not move there was seen."
        for name in found
    ]


def relation_of(recipe: Recipe | None, catalog: Catalog, name: str) -> str:
    """Return how a test set relates to training, in the words of `results.TestSet`; without a recipe, by its scenes.

    Labels are a rule's where the recipe says so (rule_labelled) or their files do (`data.rule_labels`).
    """
    if (recipe is not None and name in recipe.rule_labelled) or is_rule_labelled(catalog, name):
        return RULE_LABELS
    if recipe is not None and name in recipe.data.external:
        return OTHER_DATA
    if recipe is not None and name in same_scenes(recipe.data):
        return SAME_SCENES
    # Without training scenes nothing can be shared, and nothing is known.
    return relation(catalog, name) if catalog.in_split(TRAIN) else NOT_KNOWN


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the open runs of a comparison will take, and what it can find."""

    runs: int
    """Of the whole comparison."""
    open: int
    """Of them, those that are still to be done."""
    labels: str
    """At how many labels was looked, in words."""
    seconds: float
    """Of the open runs together, at most."""
    seconds_per_run: dict[str, float]
    """Initialization -> of one run with its largest share of the labels; an upper bound where training may stop."""
    memory_bytes: int
    disk_bytes: int
    seeds: int
    smallest_p: float
    """Of the exact sign-flip test over so many seeds."""
    contrasts: int
    """That are planned, for which is corrected."""
    detectable: dict[float, float]
    """Standard deviation of the paired differences between seeds -> the smallest true difference that so many seeds
    find in four of five comparisons."""


def estimate(plan: Plan, device: str = "auto", tell: Callable[[str], None] | None = None) -> Estimate:
    """Return what the open runs will take: time and memory from three measured steps, disk from the network.

    Starts that train one network alike are timed once; `tell` hears what is timed, before it is. Labels are looked at
    first (`data.check.look_at_labels`).
    """
    device = choose_device(device)
    recipe, catalog = plan.recipe, plan.catalog
    keep_freed_memory()
    labels = look_at_labels(catalog, recipe.task)
    scenes, held = len(catalog.in_split(TRAIN)), len(catalog.in_split(VALIDATION))
    data = open_training_data(catalog, recipe.data.model_copy(update={"normalization": "none"}))
    patch = None if recipe.data.patch is None else in_pixels(recipe.data.patch, data.train.scenes)
    if patch is not None:
        check_patches(data.train, patch)
    size = data.train.shape(0) if patch is None else (patch.size or 0,) * 2
    seconds: dict[tuple[str, float], float] = {}
    parameters: dict[str, int] = {}
    timed: dict[str, tuple[int, float]] = {}
    for name in recipe.initializations:
        training = recipe.training_of(name)
        parameters[name], step = _timed(plan, name, data, size, device, timed, tell)
        for fraction in recipe.fractions:
            patches = max(1, round(fraction * scenes)) * (1 if patch is None else patch.per_scene)
            epoch = _epoch_seconds(step, training, patches, size, data)
            seconds[name, fraction] = epoch * training.epochs
    unfinished = plan.open_runs()
    # Best, last and, while training, the resume state with Adam's two moments: six copies in float32.
    disk = sum(parameters[r.initialization] * 4 * 2 for r in unfinished)
    disk += max((parameters[r.initialization] * 4 * 3 for r in unfinished), default=0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    n, contrasts = len(recipe.seeds), max(1, len(pairs(recipe)))
    return Estimate(
        runs=len(plan.runs),
        open=len(unfinished),
        labels=labels.describe(),
        seconds=sum(seconds[r.initialization, r.job.fraction] for r in unfinished),
        seconds_per_run={name: seconds[name, max(recipe.fractions)] for name in recipe.initializations},
        memory_bytes=peak + (scenes + held) * size[0] * size[1] * (4 * len(data.contract.bands) + 2),
        disk_bytes=disk,
        seeds=n,
        smallest_p=smallest_sign_flip_p(n),
        contrasts=contrasts,
        detectable={sd: smallest_detectable_difference(n, sd, contrasts=contrasts) for sd in DIFFER_BY},
    )


def _timed(
    plan: Plan,
    name: str,
    data: TrainingData,
    size: tuple[int, int],
    device: str,
    known: dict[str, tuple[int, float]],
    tell: Callable[[str], None] | None,
) -> tuple[int, float]:
    """Return a start's parameters and the seconds of a step; `known`: by what such a step does, added to."""
    model_recipe, training = plan.recipe.model_of(name), plan.recipe.training_of(name)
    batch, bands, classes = training.batch_size, len(data.contract.bands), len(plan.catalog.classes)
    work = digest([
        model_recipe.model_dump(mode="json"), batch, training.precision,
        training.model_dump(mode="json", include={"loss", "loss_options"}),
    ])  # fmt: skip
    if work not in known:
        if tell:
            tell(f"timing steps of {model_recipe.name} ({name}): {batch} of {size[0]} x {size[1]} pixels")
        model = build_model(model_recipe.name, bands, classes, **model_recipe.options)
        model.to(device).to(memory_format=torch.channels_last)
        step = _step_seconds(model, training, plan.recipe.task, size, bands, classes, device)
        known[work] = sum(p.numel() for p in model.parameters()), step
    return known[work]


def _epoch_seconds(
    step: float, training: TrainingRecipe, patches: int, size: tuple[int, int], data: TrainingData
) -> float:
    """Return what an epoch of so many patches takes, validation included: a pass forward is a third of a step."""
    batch, held = training.batch_size, data.validation
    area = 0 if held is None else sum(h * w for h, w in (held.shape(i) for i in range(len(held))))
    repeats = math.ceil(training.min_steps * batch / patches) or 1  # as `samplers.build_sampler` has it
    return step * max(1, repeats * patches / batch) + step / 3 * area / (batch * size[0] * size[1])


def _step_seconds(
    model: torch.nn.Module,
    recipe: TrainingRecipe,
    task: str,
    size: tuple[int, int],
    bands: int,
    classes: int,
    device: str,
) -> float:
    """Time a training step on noise: the median of three, after one to warm up; of slow ones the second is enough."""
    precision = choose_precision(recipe.precision, device)
    loss = build_loss(recipe.loss, num_classes=classes, options=recipe.loss_options)
    # Batches of large patches may be more than this machine's memory: fewer are timed, and the time scaled.
    batch = max(1, min(recipe.batch_size, TIMED_PIXELS // (size[0] * size[1])))
    images = torch.randn(batch, bands, *size, device=device).contiguous(memory_format=torch.channels_last)
    shape = (batch, *size) if task == "segment" else (batch,)
    target = torch.randint(0, classes, shape, device=device)
    times = []
    for _ in range(4):
        began = time.perf_counter()
        with autocast(precision, device), quick_attention(model):
            logits = model(images)
        loss(logits, target).backward()
        if on_gpu(device):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
        if len(times) == 2 and times[1] > SLOW_STEP:
            break
    return sorted(times[1:])[len(times) // 2 - 1] * recipe.batch_size / batch
