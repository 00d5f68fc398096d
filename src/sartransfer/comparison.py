"""A comparison: initializations x label fractions x seeds, resumable, scored, judged and written down."""

import functools
import multiprocessing
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Protocol

import torch

from sartransfer.catalog import VALIDATION
from sartransfer.children import end_with_parent
from sartransfer.cluster import Cluster, run_tasks
from sartransfer.data.resolve import TrainingData, open_training_data
from sartransfer.errors import OutputError, RecipeError, SartransferError, one_of
from sartransfer.evaluate import evaluate_checkpoint, log_look, read_scores, write_scores
from sartransfer.faults import read_yaml
from sartransfer.gather import Comparison, gather
from sartransfer.models.checkpoint import read_checkpoint
from sartransfer.models.initialize import InitializationReport
from sartransfer.plan import Plan, PlannedRun, plan_comparison
from sartransfer.predict import choose_device
from sartransfer.recipe import Recipe, StagesStart
from sartransfer.runs import commit_of, read_json
from sartransfer.stages import Job, train_job, train_stages
from sartransfer.textfile import write_text

__all__ = ["Comparison", "Watcher", "compare", "gather", "plan_comparison", "train_one"]


class Watcher(Protocol):
    """Who is told how a comparison goes on; the command line shows it, tests may leave it out."""

    def warn(self, warnings: Sequence[str]) -> None:
        """What is odd about scenes and starts: told once, before the first run."""
        ...

    def run(self, number: int, of: int, name: str, state: str) -> None:
        """A run begins, was found finished, has finished or has failed."""
        ...

    def epoch(self, name: str, epoch: int, of: int, row: dict[str, Any]) -> None:
        """An epoch has ended."""
        ...


def compare(
    recipe: Recipe,
    out: str | Path,
    *,
    device: str = "auto",
    jobs: int = 1,
    cluster: Cluster | None = None,
    watcher: Watcher | None = None,
) -> Comparison:
    """Train every start with every seed, score them, and write ``results.json`` and ``results.csv``.

    Finished runs are not repeated, so a comparison that was stopped, or whose recipe has a start, a fraction
    or a seed more, goes on where it is. A run that fails is reported and the others go on.

    Args:
        recipe: as `Recipe.from_yaml` returns it. out: folder for runs and results.
        device: ``auto``, ``cpu`` or ``cuda``. jobs: runs at a time, each in a process of its own with its
            share of the cores; on few cores two runs of one thread are faster than one run of two.
        cluster: from `cluster.open_cluster`: runs are tasks on its workers, after the stages that they share; a run
            whose worker dies goes on, from its last epoch, on another.
        watcher: told how it goes.

    Raises:
        SartransferError: what is wrong before the first run; nothing is trained then.
        ClusterError: the cluster is lost; what is finished is kept.
    """
    plan = plan_comparison(recipe, out)
    if watcher:
        watcher.warn(plan.warnings)
    return carry_out(plan, device=device, jobs=jobs, cluster=cluster, watcher=watcher)


def carry_out(
    plan: Plan,
    *,
    device: str = "auto",
    jobs: int = 1,
    cluster: Cluster | None = None,
    watcher: Watcher | None = None,
) -> Comparison:
    """Do what a plan says; as `compare`, which plans first and tells the plan's warnings."""
    wanted, device = device, choose_device(device)
    check_out(plan.out, plan.recipe.name)
    plan.out.mkdir(parents=True, exist_ok=True)
    write_text(plan.out / "recipe.yaml", plan.recipe.to_yaml())
    if cluster is not None:
        _run_on_cluster(plan, cluster, wanted, watcher)
        return gather(plan, device)
    if jobs > 1:
        _run_in_processes(plan, jobs, device, watcher)
        return gather(plan, device)
    for number, planned in enumerate(plan.runs, start=1):
        if watcher:
            watcher.run(number, len(plan.runs), planned.name, "begins")
        state = _one_run(plan, planned, device, watcher)
        if watcher:
            watcher.run(number, len(plan.runs), planned.name, state)
    return gather(plan, device)


def train_one(
    recipe: Recipe,
    out: str | Path,
    initialization: str,
    seed: int | None = None,
    *,
    device: str = "auto",
    watcher: Watcher | None = None,
) -> tuple[PlannedRun, InitializationReport]:
    """Train one run of a recipe at its largest fraction; a comparison in the same folder finds it finished.

    Returns the run and the report of its initialization. Raises `RecipeError` for a start or seed that the
    recipe does not name.
    """
    if initialization not in recipe.initializations:
        raise RecipeError(one_of("initialization", initialization, recipe.initializations))
    seed = recipe.seeds[0] if seed is None else seed
    if seed not in recipe.seeds:
        raise RecipeError(one_of("seed", seed, recipe.seeds))
    device = choose_device(device)
    plan = plan_comparison(recipe, out)
    check_out(plan.out, plan.recipe.name)
    fraction = max(recipe.fractions)
    planned = next(
        r
        for r in plan.runs
        if (r.initialization, r.job.seed, r.job.fraction) == (initialization, seed, fraction)
    )
    if watcher:
        watcher.warn(plan.warnings)
    if not _is_trained(planned):
        plan.out.mkdir(parents=True, exist_ok=True)
        write_text(plan.out / "recipe.yaml", recipe.to_yaml())
        _train(plan, planned, device, watcher)
    report = InitializationReport.from_json(read_json(planned.folder.path / "initialization.json"))
    return planned, report


def check_out(out: Path, name: str, holds: str = "runs") -> None:
    """Refuse a folder that holds another comparison than `name`, one of another kind, or something else.

    Args:
        out: need not be there. name: of the recipe. holds: ``runs``, or ``folds`` for a comparison by folds.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise OutputError(f"{out} is a file; give a folder.")
    if (out / ("folds" if holds == "runs" else "runs")).is_dir():
        kind = "by folds (--folds)" if holds == "runs" else "without folds"
        raise OutputError(
            f"{out} holds a comparison {kind}. Choose another folder, or compare as it was made."
        )
    kept = out / "recipe.yaml"
    if not kept.is_file():
        if any(out.iterdir()) and not (out / holds).is_dir():
            raise OutputError(f"{out} exists and is not a comparison. Choose an empty or a new folder.")
        return
    import yaml

    try:
        before = read_yaml(kept.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        before, fault = None, " ".join(str(error).split())
    else:
        fault = "it does not hold the keys of a recipe"
    if not isinstance(before, dict):
        raise OutputError(
            f"{kept} is damaged: {fault}. If {out} holds the comparison {name!r}, delete that file (runs are kept); "
            "else choose another folder."
        )
    if before.get("name") != name:
        raise OutputError(
            f"{out} holds the comparison {before.get('name')!r}, not {name!r}. Choose another folder."
        )


def _one_run(plan: Plan, planned: PlannedRun, device: str, watcher: Watcher | None) -> str:
    folder = planned.folder
    state = "found finished"
    try:
        if not _is_trained(planned):
            _train(plan, planned, device, watcher)
            state = "finished"
        _score(plan, planned, device)
        if folder.status(planned.identity) == "failed":  # it was its scoring that had failed
            folder.finish({})
            state = "finished"
    except KeyboardInterrupt:
        raise
    except OutputError:
        raise  # a full disk will not be better in the next run
    except Exception as error:
        return _fail(plan, planned, error)
    return state


def _is_trained(planned: PlannedRun) -> bool:
    """Say whether a run need not be trained: finished, or finished and then failed in its scoring."""
    status = planned.folder.status(planned.identity)
    return status == "finished" or (status == "failed" and "epochs" in planned.folder.record)


def _fail(plan: Plan, planned: PlannedRun, error: Exception) -> str:
    """Write down why a run failed and return it in one line."""
    if planned.folder.status(planned.identity) == "missing":  # it failed before the folder was its own
        planned.folder.start(planned.identity, plan.recipe.to_yaml(), {})
    known = isinstance(error, SartransferError)
    planned.folder.fail(str(error) if known else "".join(traceback.format_exception(error, limit=3)))
    return f"failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}"


def _run_in_processes(plan: Plan, jobs: int, device: str, watcher: Watcher | None) -> None:
    """Train the open runs, `jobs` at a time; links of chains first and once, since runs share them."""
    failed = _train_links(plan, device, watcher)
    threads = max(1, torch.get_num_threads() // jobs)
    context = multiprocessing.get_context("spawn")  # forked processes inherit torch's thread pool, and hang
    with ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_begin_worker, initargs=(threads,)
    ) as pool:
        waiting = {
            pool.submit(_run_by_number, plan.recipe, plan.out, i, device): i
            for i in range(len(plan.runs))
            if i not in failed
        }
        for future in as_completed(waiting):
            number = waiting[future]
            try:
                state = future.result()
            except (OutputError, KeyboardInterrupt):
                pool.shutdown(wait=False, cancel_futures=True)  # those that wait stay open
                raise
            except BrokenExecutor:
                raise SartransferError(
                    f"a process died while training {plan.runs[number].name}: out of memory, perhaps. "
                    "Start again with fewer --jobs; finished runs are kept."
                ) from None
            if watcher:
                watcher.run(number + 1, len(plan.runs), plan.runs[number].name, state)


def _begin_worker(threads: int) -> None:
    end_with_parent()
    torch.set_num_threads(threads)


def _train_links(plan: Plan, device: str, watcher: Watcher | None) -> set[int]:
    """Train the links that open runs need; return the numbers of the runs whose links fail."""
    broken: dict[str, Exception] = {}
    trained, failed = set(), set()
    for number, planned in enumerate(plan.runs):
        name, notify = planned.initialization, watcher.epoch if watcher else None
        if not isinstance(planned.job.start, StagesStart) or name in trained or _is_trained(planned):
            continue
        if name not in broken:
            try:
                train_stages(planned.job.start, plan.out / "stages", device=device, notify=notify)
                trained.add(name)
                continue
            except OutputError:
                raise
            except Exception as error:
                broken[name] = error
        state = _fail(plan, planned, broken[name])
        failed.add(number)
        if watcher:
            watcher.run(number + 1, len(plan.runs), planned.name, state)
    return failed


def _run_on_cluster(plan: Plan, cluster: Cluster, device: str, watcher: Watcher | None) -> None:
    """Train the open runs on a cluster's workers; links of chains first, since runs share them."""
    out = plan.out.resolve()
    failed: dict[str, Exception] = {}
    for names, outcomes in _links_on_cluster(plan, cluster, out, device):
        for name in names:
            if outcomes[name] is not None:
                failed.setdefault(name, SartransferError(outcomes[name]))
    numbers = []
    for number, planned in enumerate(plan.runs):
        if planned.initialization not in failed or _is_trained(planned):
            numbers.append(number)
            continue
        state = _fail(plan, planned, failed[planned.initialization])
        if watcher:
            watcher.run(number + 1, len(plan.runs), planned.name, state)
    # One task for each worker and no more: a run takes so long that none waits for the next one to come.
    task = functools.partial(_run_task, plan.recipe, out, device)
    for number, outcome in run_tasks(cluster, task, numbers, share=out, ahead=1):
        if outcome.kind == OutputError.__name__:
            raise OutputError(outcome.error)  # a full disk will not be better in the next run
        state = outcome.value
        if outcome.error is not None:  # the worker died with it, again and again
            state = _fail(plan, plan.runs[number], SartransferError(outcome.error))
        if watcher:
            watcher.run(number + 1, len(plan.runs), plan.runs[number].name, state)


def _links_on_cluster(
    plan: Plan, cluster: Cluster, out: Path, device: str
) -> Iterator[tuple[tuple[str, ...], dict[str, str | None]]]:
    """Train the links that open runs need, all first links, then all second ones; yield names and what went wrong.

    Links of one place in their chains and of one name may be the same link, kept in one folder: they are one task, in
    which the first trains it and the others find it.
    """
    starts = {r.initialization: r.job.start for r in plan.runs
              if isinstance(r.job.start, StagesStart) and not _is_trained(r)}  # fmt: skip
    broken: set[str] = set()
    for depth in range(1, 1 + max((len(s.stages) for s in starts.values()), default=0)):
        groups: dict[str, list[tuple[str, StagesStart]]] = {}
        for name, start in starts.items():
            if len(start.stages) >= depth and name not in broken:
                part = start.model_copy(update={"stages": start.stages[:depth]})
                groups.setdefault(start.stages[depth - 1].name, []).append((name, part))
        task = functools.partial(_links_task, out, device)
        for group, outcome in run_tasks(cluster, task, groups.values(), share=out, ahead=1):
            if outcome.kind == OutputError.__name__:
                raise OutputError(outcome.error)
            names = tuple(name for name, _ in group)
            found = outcome.value if outcome.error is None else dict.fromkeys(names, outcome.error)
            broken |= {name for name, error in found.items() if error is not None}
            yield names, found


def _links_task(out: Path, device: str, group: list[tuple[str, StagesStart]]) -> dict[str, str | None]:
    """Train the last links of some chains, in a worker; returns what went wrong with each, or None."""
    found: dict[str, str | None] = {}
    for name, start in group:
        try:
            train_stages(start, out / "stages", device=choose_device(device))
            found[name] = None
        except OutputError:
            raise
        except Exception as error:
            known = isinstance(error, SartransferError)
            found[name] = str(error) if known else "".join(traceback.format_exception(error, limit=3))
    return found


def _run_task(recipe: Recipe, out: Path, device: str, number: int) -> str:
    """Do one run of a plan, in a worker of a cluster, on the device that it has."""
    return _run_by_number(recipe, out, number, choose_device(device))


def _run_by_number(recipe: Recipe, out: Path, number: int, device: str) -> str:
    """Do one run of a plan, in a worker: the plan is made once in each process."""
    key = (recipe.digest(), str(out))
    if key not in _PLANS:
        _PLANS[key] = plan_comparison(recipe, out, looked=True)
    plan = _PLANS[key]
    return _one_run(plan, plan.runs[number], device, None)


_PLANS: dict[tuple[str, str], Plan] = {}


def _train(plan: Plan, planned: PlannedRun, device: str, watcher: Watcher | None) -> None:
    data = _training_data(plan, planned.job)
    with planned.folder.alone():
        if _is_trained(planned):  # by another process, since the caller looked
            return
        train_job(
            planned.job,
            planned.folder,
            data,
            identity=planned.identity,
            stages_folder=plan.out / "stages",
            device=device,
            recipe_yaml=plan.recipe.to_yaml(),
            extra={"initialization": planned.initialization, "fraction": planned.job.fraction},
            views=plan.recipe.prediction.views,
            notify=watcher.epoch if watcher else None,
        )


_CACHE: dict[tuple[str, str, float, int], TrainingData] = {}


def _training_data(plan: Plan, job: Job) -> TrainingData:
    """Return training scenes, shared by consecutive runs of one fraction and draw (decoded once)."""
    key = (plan.data_hash, plan.recipe.data.model_dump_json(), job.fraction, job.draw)
    if key not in _CACHE:
        _CACHE.clear()
        _CACHE[key] = open_training_data(plan.catalog, plan.recipe.data, fraction=job.fraction, seed=job.draw)
    return _CACHE[key]


def _score(plan: Plan, planned: PlannedRun, device: str) -> None:
    """Score a run on its test sets; of chips also the validation logits, which temperatures are fitted on."""
    views, folder = plan.recipe.prediction.views, planned.folder.path
    held = plan.recipe.task == "classify" and bool(plan.catalog.in_split(VALIDATION))
    names = [*([VALIDATION] if held else []), *(t.name for t in plan.test_sets)]
    strata = plan.recipe.strata if plan.recipe.task == "segment" else None
    wanted = [name for name in names if read_scores(folder, name, views, strata) is None]
    weights = planned.job.training.weights
    if not wanted or (wanted == [VALIDATION] and not (folder / f"{weights}.safetensors").is_file()):
        return  # a scored run whose weights were thrown away is still good
    checkpoint = read_checkpoint(folder, which=weights)
    commit, dirty = commit_of(Path(__file__).parent)
    for name in wanted:
        found = evaluate_checkpoint(checkpoint, plan.catalog, name, device=device, views=views, strata=strata)
        write_scores(found, folder)
        if name == VALIDATION:
            continue  # it chose the weights: no look at a test set
        log_look(
            plan.out / "test-looks.jsonl",
            name,
            plan.recipe.digest(),
            initialization=planned.initialization,
            seed=planned.job.seed,
            fraction=planned.job.fraction,
            commit=commit,
            dirty=dirty,
        )
