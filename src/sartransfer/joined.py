"""Folds joined: what their runs left, scene by scene, judged as one comparison in which every group is there once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sartransfer.baselines import PREFIX, score_rules
from sartransfer.catalog import TRAIN, VALIDATION
from sartransfer.certainty import RunKey
from sartransfer.evaluate import TestScores
from sartransfer.gather import Comparison, Found, count_looks, read_looks, read_tests, write_results
from sartransfer.models.checkpoint import read_checkpoint
from sartransfer.panels import rank_scenes, write_panel
from sartransfer.plan import Plan, PlannedRun
from sartransfer.recipe import FileStart, Recipe, RunStart, StagesStart, digest
from sartransfer.results import ScoredRun, TestSet, value_of
from sartransfer.wording import UNSEEN_EVENTS

HELD_OUT = "held-out"
"""Name of the test set of every fold, and of all of them together."""
LISTED = 5  # starts and seeds that a warning lists, and folds of each


def gather_folds(recipe: Recipe, plans: Sequence[Plan], out: Path, device: str = "cpu") -> Comparison:
    """Join what the folds left, judge it as one comparison, and write results and panels; trains nothing.

    Args:
        recipe: of the comparison. plans: of all its folds, in their order. out: where the results go.
        device: on which panels are predicted.
    """
    scored, open_folds = join_runs(plans)
    joined = _joined_plan(recipe, plans, out)
    incomplete = _incomplete(open_folds)
    unknown = _unchecked(recipe)
    facts: dict[str, Any] = {"folds": [_fold_json(number, p) for number, p in enumerate(plans, start=1)]}
    found = Found(
        scored,
        {},  # each fold's training has a temperature of its own: none of them is the joined scores'
        _join_rules(plans),
        _looks(recipe, plans),
        sentences=[*_words(recipe, joined, len(plans)), *unknown, *incomplete],
        warnings=[*unknown, *incomplete],
        facts=facts,
    )
    result = write_results(joined, found, device)
    _write_panels(joined, plans, scored, device)
    return result


def join_runs(plans: Sequence[Plan]) -> tuple[list[ScoredRun], dict[RunKey, list[int]]]:
    """Return the scores of each start, fraction and seed over all folds, scene by scene, every group once.

    Those of which a fold is not finished are left out; they are the second value, with the numbers of those folds.
    """
    parts: dict[RunKey, list[TestScores]] = {}
    unfinished: dict[RunKey, list[int]] = {}
    for number, plan in enumerate(plans, start=1):
        for planned in plan.runs:
            tests = read_tests(planned, plan)
            if tests is None:
                unfinished.setdefault(_key(planned), []).append(number)
            else:
                parts.setdefault(_key(planned), []).append(tests[HELD_OUT])
    whole = {key: found for key, found in parts.items() if key not in unfinished}
    return [ScoredRun(*key, {HELD_OUT: _joined(found)}) for key, found in whole.items()], unfinished


def _joined(parts: Sequence[TestScores]) -> TestScores:
    return replace(parts[0], scenes=tuple(s for part in parts for s in part.scenes))


def _key(planned: PlannedRun) -> RunKey:
    return planned.initialization, planned.job.fraction, planned.job.seed


def _joined_plan(recipe: Recipe, plans: Sequence[Plan], out: Path) -> Plan:
    """Return a plan whose one test set holds every group once, and whose runs are those of all folds."""
    entries = {e.id: e for plan in plans for e in plan.catalog.in_split(HELD_OUT)}
    sets = [plan.test_sets[0] for plan in plans]
    relation = next((t.relation for t in sets if t.relation != UNSEEN_EVENTS), UNSEEN_EVENTS)
    held = tuple(_held_out(plan) for plan in plans)
    test_set = TestSet(
        HELD_OUT, sum(t.scenes for t in sets), sum(t.groups for t in sets), relation, held_out=held
    )
    return Plan(
        recipe,
        out,
        plans[0].catalog.with_entries(entries.values()),
        tuple(run for plan in plans for run in plan.runs),
        (test_set,),
        digest([plan.data_hash for plan in plans]),
        tuple(dict.fromkeys(w for plan in plans for w in plan.warnings)),
    )


def _held_out(plan: Plan) -> tuple[str, ...]:
    return tuple(sorted({e.group or e.id for e in plan.catalog.in_split(HELD_OUT)}))


def _fold_json(number: int, plan: Plan) -> dict[str, Any]:
    counts = {split: len(plan.catalog.in_split(split)) for split in (TRAIN, VALIDATION, HELD_OUT)}
    return {"fold": number, "folder": f"folds/{number}", "held_out": list(_held_out(plan)), "scenes": counts}


def _words(recipe: Recipe, joined: Plan, folds: int) -> list[str]:
    """Say what was held out of what, and what the intervals do not count."""
    (test_set,) = joined.test_sets
    return [
        f"Each of the {test_set.groups} {recipe.groups_are} was held out of the training that is scored on it "
        f"({folds} folds). Runs of one seed in different folds are different trainings: the score of a seed joins "
        f"{folds} of them. Their training scenes overlap, which the intervals do not count."
    ]


def _unchecked(recipe: Recipe) -> list[str]:
    """Name the starts whose weights may have seen what is held out: nothing here can tell."""
    names = []
    for name, start in recipe.initializations.items():
        while isinstance(start, StagesStart):
            start = start.stages[0].start
        if isinstance(start, RunStart | FileStart):
            names.append(name)
    if not names:
        return []
    return [
        f"Whether the weights of {', '.join(names)} (an earlier run, a file) have seen a held-out scene is not known."
    ]


def _incomplete(unfinished: Mapping[RunKey, Sequence[int]]) -> list[str]:
    if not unfinished:
        return []
    named = []
    for (name, fraction, seed), numbers in unfinished.items():
        share = f", {fraction:.0%} of the labels" if fraction < 1 else ""
        lacking = (
            f"fold {', '.join(map(str, numbers))}" if len(numbers) <= LISTED else f"{len(numbers)} folds"
        )
        named.append(f"{name}{share}, seed {seed} ({lacking})")
    more = f"; and {len(named) - LISTED} more" if len(named) > LISTED else ""
    return [
        f"Incomplete: a start and seed is scored only with all its folds. Not finished: {'; '.join(named[:LISTED])}"
        f"{more}."
    ]


def _join_rules(plans: Sequence[Plan]) -> tuple[list[ScoredRun], dict[str, dict[str, str]]]:
    """Join the threshold rules, each fitted on the training scenes of its fold."""
    parts: dict[str, list[ScoredRun]] = {}
    said: dict[str, list[str]] = {}
    for plan in plans:
        found, words = score_rules(
            plan.recipe, plan.catalog, plan.test_sets, plan.data_hash, plan.out / "rules"
        )
        for run in found:
            parts.setdefault(run.initialization, []).append(run)
        for name, by_set in words.items():
            said.setdefault(name, []).append(by_set[HELD_OUT])
    whole = [runs for runs in parts.values() if len(runs) == len(plans)]
    joined = [
        replace(runs[0], tests={HELD_OUT: _joined([r.tests[HELD_OUT] for r in runs])}) for runs in whole
    ]
    names = [run.initialization.removeprefix(PREFIX) for run in joined]
    return joined, {name: {HELD_OUT: _one_of(said[name])} for name in names}


def _one_of(words: Sequence[str]) -> str:
    return words[0] if len(set(words)) == 1 else f"in each fold anew, in the first: {words[0]}"


def _looks(recipe: Recipe, plans: Iterable[Plan]) -> list[dict[str, Any]]:
    """Return the looks at the test scores of all folds; those of this recipe's folds are this recipe's."""
    looks: list[dict[str, Any]] = []
    for plan in plans:
        mine = plan.recipe.digest()
        for look in read_looks(plan.out / "test-looks.jsonl"):
            looks.append(look | ({"recipe_hash": recipe.digest()} if look["recipe_hash"] == mine else {}))
    return count_looks(sorted(looks, key=lambda look: str(look["time"])))


def _write_panels(joined: Plan, plans: Sequence[Plan], scored: Sequence[ScoredRun], device: str) -> None:
    """Write the best, median and worst scene over all folds, each as the networks that had not seen it map it."""
    recipe = joined.recipe
    for seed in recipe.seeds:
        chosen = {
            run.initialization: run
            for run in scored
            if (run.fraction, run.seed) == (max(recipe.fractions), seed)
        }
        folders = [_weights_folders(plan, chosen) for plan in plans]
        if set(chosen) == set(recipe.initializations) and all(folders):
            break
    else:
        return  # weights were thrown away: what panels there are stay as they are
    (joined.out / "panels").mkdir(exist_ok=True)
    for old in (joined.out / "panels").glob("*.npz"):
        old.unlink()
    values = {name: value_of(run.tests[HELD_OUT], recipe.primary) for name, run in chosen.items()}
    best = max(values, key=lambda name: values[name] if values[name] == values[name] else -1.0)
    for rank, scene in rank_scenes(chosen[best].tests[HELD_OUT], recipe).items():
        fold = next(
            i for i, p in enumerate(plans) if any(e.id == scene for e in p.catalog.in_split(HELD_OUT))
        )
        checkpoints = {
            name: read_checkpoint(folder, which=recipe.training_of(name).weights)
            for name, folder in folders[fold].items()
        }
        for checkpoint in checkpoints.values():
            checkpoint.model.to(device).eval()
        path = joined.out / "panels" / f"{HELD_OUT}-{rank}.npz"
        write_panel(
            path,
            joined.catalog,
            scene,
            rank,
            chosen,
            checkpoints,
            HELD_OUT,
            recipe,
            device,
            chosen[best].seed,
        )


def _weights_folders(plan: Plan, chosen: Mapping[str, ScoredRun]) -> dict[str, Path]:
    """Return the run folder of each chosen run in one fold; empty where the weights of any are not there."""
    found = {
        run.initialization: run.folder.path
        for run in plan.runs
        if run.initialization in chosen
        and _key(run)[1:] == (chosen[run.initialization].fraction, chosen[run.initialization].seed)
    }
    weights = (
        folder / f"{plan.recipe.training_of(name).weights}.safetensors" for name, folder in found.items()
    )
    return found if all(path.is_file() for path in weights) else {}
