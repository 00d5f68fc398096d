"""Read what the runs of a comparison left, judge, and write results.json, results.csv and the panels."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sartransfer import __version__
from sartransfer.baselines import rule_rows, rules_json, score_rules
from sartransfer.catalog import VALIDATION
from sartransfer.certainty import RunKey, calibration_json, ensembles_json
from sartransfer.errors import InputError
from sartransfer.evaluate import TestScores, read_scores, uncounted_warning
from sartransfer.panels import write_panels
from sartransfer.plan import Plan, PlannedRun
from sartransfer.predict import choose_precision
from sartransfer.recipe import without_places
from sartransfer.results import (
    ScoredRun,
    contrasts,
    describe_test_set,
    patches_json,
    resampled_json,
    rows_csv,
    score_table,
    strata_rows,
    tidy_rows,
    verdict_words,
)
from sartransfer.runs import environment, read_json, write_json
from sartransfer.textfile import write_text
from sartransfer.timings import waiting_warning
from sartransfer.wording import NOT_KNOWN, OTHER_DATA, RULE_LABELS, group_words


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of it."""

    out: Path
    results: dict[str, Any]
    """As in ``results.json``."""

    @property
    def verdict(self) -> list[str]:
        """The verdict in words, headline first."""
        words: list[str] = self.results["verdict"]
        return words

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The runs that failed, with their errors."""
        return [r for r in self.results["runs"] if r["status"] == "failed"]


@dataclass(frozen=True, slots=True)
class Found:
    """What the runs of a comparison left, read and not yet judged."""

    scored: Sequence[ScoredRun]
    validations: Mapping[RunKey, TestScores | None]
    rules: tuple[list[ScoredRun], dict[str, dict[str, str]]]
    """As `baselines.score_rules` returns them."""
    looks: list[dict[str, Any]]
    sentences: Sequence[str] = ()
    """What the verdict must say besides."""
    warnings: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """More members of the results."""


def gather(plan: Plan, device: str = "cpu") -> Comparison:
    """Read the scores of all finished runs, judge, and write results; trains nothing."""
    recipe = plan.recipe
    scored, validations = [], {}
    for planned in plan.runs:
        tests = read_tests(planned, plan)
        if tests is not None:
            key = (planned.initialization, planned.job.fraction, planned.job.seed)
            scored.append(ScoredRun(*key, tests))
            validations[key] = read_scores(planned.folder.path, VALIDATION, recipe.prediction.views)
    rules = score_rules(recipe, plan.catalog, plan.test_sets, plan.data_hash, plan.out / "rules")
    looks = count_looks(read_looks(plan.out / "test-looks.jsonl"))
    result = write_results(plan, Found(scored, validations, rules, looks), device)
    if scored:
        write_panels(plan.out, plan.catalog, scored, recipe, _folders(plan), device)
    return result


def read_tests(planned: PlannedRun, plan: Plan) -> dict[str, TestScores] | None:
    """Return the scores of a run on every test set; None where it is not finished or not scored on all as asked."""
    if planned.folder.status(planned.identity) != "finished":
        return None
    recipe = plan.recipe
    strata = recipe.strata if recipe.task == "segment" else None
    tests = {}
    for test_set in plan.test_sets:
        kept = read_scores(planned.folder.path, test_set.name, recipe.prediction.views, strata)
        if kept is None:
            return None
        tests[test_set.name] = kept
    return tests


def write_results(plan: Plan, left: Found, device: str = "cpu") -> Comparison:
    """Judge what the runs left, and write ``results.json`` and ``results.csv`` into the plan's folder."""
    recipe, scored = plan.recipe, left.scored
    runs = [_run_json(planned, plan.out) for planned in plan.runs]
    rows = tidy_rows(scored, plan.test_sets)
    ruled, rule_words = left.rules
    groups = recipe.groups_are
    found = contrasts(scored, recipe, plan.test_sets)
    sentences = [*verdict_words(recipe, found, plan.test_sets), *left.sentences]
    verdict = [group_words(sentence, groups) for sentence in sentences]
    for contrast in found:
        for statement in contrast["statements"]:
            statement["reason"] = group_words(statement["reason"], groups)
    precision = choose_precision(recipe.training.precision, device)
    results = {
        "sartransfer": __version__,
        "name": recipe.name,
        "description": recipe.description,
        "task": recipe.task,
        "simulated": "simulated" in plan.catalog.source,
        "created": max((r["finished"] for r in runs if r["finished"]), default=None),
        "classes": list(plan.catalog.classes),
        "primary": recipe.primary.model_dump(mode="json", by_alias=True),
        "baseline": recipe.baseline_name,
        "initializations": list(recipe.initializations),
        "fractions": list(recipe.fractions),
        "fraction_draw": recipe.fraction_draw,
        "seeds": list(recipe.seeds),
        "groups_are": groups,
        "verdict": verdict,
        "test_sets": [describe_test_set(t) for t in plan.test_sets],
        "table": score_table(scored, recipe, rows),
        "contrasts": found,
        "resampled": resampled_json(scored, recipe, plan.test_sets),
        "runs": runs,
        "confusion": list(_confusions(scored, plan)),
        **({"strata": strata_rows(scored, recipe)} if recipe.strata and recipe.task == "segment" else {}),
        **({"rules": rules_json(ruled, rule_words, plan.test_sets)} if recipe.baselines else {}),
        "ensembles": ensembles_json(scored, recipe),
        "calibration": calibration_json(scored, left.validations, recipe),
        **patches_json(scored, recipe, plan.test_sets, plan.catalog),
        "initialization_reports": _reports(plan),
        "recipe": yaml.safe_dump(without_places(recipe.to_json()), sort_keys=False, allow_unicode=True),
        "recipe_hash": recipe.digest(),
        "environment": _environment(plan) or environment(device, precision),
        "data": _data_json(plan),
        "looks": left.looks,
        "warnings": [group_words(w, groups) for w in (*_warnings(plan, runs, scored), *left.warnings)],
        **left.facts,
    }
    write_text(plan.out / "results.csv", rows_csv([*rows, *rule_rows(ruled, plan.test_sets)]))
    write_json(plan.out / "results.json", results)
    return Comparison(plan.out, results)


def _folders(plan: Plan) -> dict[tuple[str, float, int], Path]:
    return {(r.initialization, r.job.fraction, r.job.seed): r.folder.path for r in plan.runs}


def _run_json(planned: PlannedRun, out: Path) -> dict[str, Any]:
    status = planned.folder.status(planned.identity)
    record = planned.folder.record if status != "missing" else {}
    curves: dict[str, list[float | None]] = {}
    file = planned.folder.path / "curves.csv"
    if status != "missing" and file.is_file():
        curves = _curves(file)
    return {
        "initialization": planned.initialization,
        "fraction": planned.job.fraction,
        "seed": planned.job.seed,
        "status": "missing" if status == "unfinished" else status,
        "error": record.get("error"),
        "epochs": record.get("epochs"),
        "best_epoch": record.get("best_epoch"),
        "seconds": record.get("seconds"),
        "finished": record.get("finished"),
        "folder": str(planned.folder.path.relative_to(out)),
        "curves": curves,
        **({} if planned.fold is None else {"fold": planned.fold}),
    }


def _curves(file: Path) -> dict[str, list[float | None]]:
    """Return the columns of a run's curves; raises `InputError` for a file that is damaged."""
    try:
        head, *lines = file.read_text(encoding="utf-8").splitlines()
        cells = [line.split(",") for line in lines]
        return {
            column: [float(c[i]) if c[i] else None for c in cells] for i, column in enumerate(head.split(","))
        }
    except (ValueError, IndexError) as error:
        raise InputError(
            f"{file} is damaged ({error}). Delete it and run again: weights and scores stay, its curves are gone."
        ) from error


def _confusions(scored: Sequence[ScoredRun], plan: Plan) -> Iterator[dict[str, Any]]:
    for name in plan.recipe.initializations:
        for fraction in plan.recipe.fractions:
            for test_set in plan.test_sets:
                parts = [
                    r.tests[test_set.name].confusion
                    for r in scored
                    if r.initialization == name and r.fraction == fraction
                ]
                if parts:
                    yield {
                        "initialization": name,
                        "fraction": fraction,
                        "test_set": test_set.name,
                        "matrix": sum(parts[1:], start=parts[0]).tolist(),
                    }


def _reports(plan: Plan) -> dict[str, Any]:
    reports = {}
    for planned in plan.runs:
        file = planned.folder.path / "initialization.json"
        if planned.initialization not in reports and _belongs(planned) and file.is_file():
            report = read_json(file)
            if not isinstance(report, dict):
                raise InputError(
                    f"{file} is damaged: it holds {type(report).__name__}, not a report. Delete its run's folder "
                    f"{file.parent} and run again."
                )
            reports[planned.initialization] = report
    return reports


def _belongs(planned: PlannedRun) -> bool:
    """Say whether what lies in the run's folder is of this run, not of an earlier recipe."""
    return planned.folder.status(planned.identity) != "missing"


def _environment(plan: Plan) -> dict[str, Any] | None:
    for planned in plan.runs:
        found: dict[str, Any] | None = planned.folder.record.get("environment")
        if found and _belongs(planned):
            return found
    return None


def _data_json(plan: Plan) -> dict[str, Any]:
    catalog = plan.catalog
    splits = {}
    for split in catalog.splits:
        entries = catalog.in_split(split)
        splits[split] = {"scenes": len(entries), "groups": len({e.group or e.id for e in entries})}
    normalization: list[dict[str, Any]] = []
    for planned in plan.runs:
        which = planned.folder.path / "last.json"
        largest = planned.job.fraction == max(plan.recipe.fractions)
        if len({r.fold for r in plan.runs}) > 1:
            break  # each fold has measured its own
        if largest and _belongs(planned) and which.is_file():
            try:
                contract = read_json(which)["contract"]
                normalization = [{k: b[k] for k in ("name", "unit", "mean", "std")} for b in contract]
            except (KeyError, TypeError) as error:
                raise InputError(
                    f"{which} is damaged: it does not say the bands (contract: {error}). Delete its run's folder "
                    f"{which.parent} and run again."
                ) from error
            break
    return {
        "catalog": catalog.name,
        "source": catalog.source,
        "hash": plan.data_hash,
        "splits": splits,
        "normalization": normalization,
    }


def read_looks(path: Path) -> list[dict[str, Any]]:
    """Return the logged looks at test scores, oldest first; none where there is no log.

    Lines that a kill cut off are passed over. Raises `InputError` for a line that is whole but no look.
    """
    looks: list[dict[str, Any]] = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            look = json.loads(line)
        except (ValueError, RecursionError):
            continue
        said = look if isinstance(look, dict) else {}
        if not all(isinstance(said.get(key), str) for key in ("time", "test_set", "recipe_hash")):
            raise InputError(
                f"{path}, line {number} is no look at a test set (time, test_set, recipe_hash): {line[:80]!r}. It was "
                "changed since it was written; put it right, or remove that line."
            )
        looks.append(said)
    return looks


def count_looks(looks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the looks at test scores, those of one recipe at one test set counted together."""
    seen: dict[tuple[str, str], dict[str, Any]] = {}
    for look in looks:
        key = (look["test_set"], look["recipe_hash"])
        kept = seen.setdefault(
            key, {"time": look["time"], "test_set": key[0], "recipe_hash": key[1], "runs": 0}
        )
        kept["runs"] += 1
    return list(seen.values())


def _warnings(plan: Plan, runs: list[dict[str, Any]], scored: Sequence[ScoredRun]) -> list[str]:
    found = list(plan.warnings)
    for state in ("failed", "missing"):
        count = sum(r["status"] == state for r in runs)
        if count:
            found.append(
                f"{count} of {len(runs)} runs {'have failed' if state == 'failed' else 'are not finished'}."
            )
    if slow := waiting_warning((run.folder.path for run in plan.runs), plan.recipe.data.cache):
        found.append(slow)
    for tests in (run.tests for run in scored[:1]):  # which pixels count is the same for all runs
        found += [text for scores in tests.values() if (text := uncounted_warning(scores))]
    for test_set in plan.test_sets:
        if test_set.relation == RULE_LABELS:
            found.append(
                f"The labels of test set {test_set.name!r} come from a rule: its scores are agreement with that rule."
            )
        elif test_set.relation == NOT_KNOWN:
            found.append(
                f"Nothing says whether training has seen the events of test set {test_set.name!r}: scenes name no "
                "group (the column `group`). Its scores may say nothing of new events."
            )
        elif test_set.relation == OTHER_DATA and not test_set.grouped:
            found.append(
                f"Scenes of test set {test_set.name!r} name no group (the column `group`): nothing tells which are of "
                "one event, and its scores say nothing of new events."
            )
        elif not test_set.events_unseen:
            found.append(
                f"Test set {test_set.name!r} shares groups with training, or continues its scenes: "
                "its scores say nothing of new events."
            )
    return found
