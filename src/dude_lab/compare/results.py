"""The results of a comparison, read from its folders: rows, each with its runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dude_peft.errors import DudeError

from ..config.eval_settings import EvalSettings
from ..config.run_settings import RunSettings
from ..config.yaml_file import parse_run
from ..stats.intervals import Table
from ..stats.smoothing import Series
from ..training.finished_run import open_run
from .comparison_folder import ComparisonFolder, find_comparison
from .grid import Grid
from .rows import Row, full_name
from .run_store import FolderRun, Run, find_run
from .search import choose

MOST_KEYS = 3  # settings in a label


@dataclass(frozen=True)
class RowResult:
    """A row of the table.

    Attributes:
        label: its label in the table.
        method: name of the method.
        r: the rank, or None.
        learning_rate: None if it is not chosen yet.
        runs: finished runs, by seed.
        failed: number of failed runs.
        missing: number of runs that are neither finished nor failed.
        tried: number of learning rates of the search.
        at_end: whether the chosen one is the smallest or largest of these.
        above: whether the rate is the next above the best of these (`search.above`).
        candidates: metrics of the search at each of them (`search.SearchResult`); empty without a finished search.
    """

    label: str
    method: str
    r: int | None
    learning_rate: float | None
    runs: tuple[Run, ...]
    failed: int = 0
    missing: int = 0
    tried: int = 1
    at_end: bool = False
    above: bool = False
    candidates: tuple[dict[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Label and rank."""
        return full_name(self.label, self.r)


@dataclass(frozen=True)
class Results:
    """All rows, the base model, and the columns.

    Attributes:
        rows: in the order of the YAML.
        base: evaluation of the base model; None if there is none.
        sets: tasks that get a column.
        headline: task of the accuracy; None without an evaluation.
        jobs: number of runs in parallel; None if unknown.
    """

    rows: tuple[RowResult, ...]
    base: Run | None
    sets: tuple[str, ...]
    headline: str | None
    jobs: int | None = None


def collect(folder: ComparisonFolder) -> Results:
    """Return the results of a comparison, with the number of runs that are missing.

    Raises:
        DudeError: the folder holds no comparison.
    """
    grid = folder.grid()
    rows = tuple(_row(grid, row, folder) for row in grid.rows)
    base = None
    if grid.base_run is not None:
        base = folder.finished(grid.base_run)
    return _results(rows, base, grid.settings.jobs)


def collect_paths(paths: Sequence[Path]) -> tuple[Results, ComparisonFolder | None]:
    """Return the results of comparisons and finished runs; of one comparison alone also its folder.

    Args:
        paths: folders of comparisons (also those in `parts/` of a study) and of runs, packed or not. Rows with the same
            runs are one row; other rows of one name get their comparison's name into their label.

    Raises:
        DudeError: the folder of a study, one without a finished run, two runs of one row and seed, or runs
            with different questions.
    """
    folders = {path: folder for path in paths if (folder := find_comparison(path)) is not None}
    if len(paths) == 1 and folders:
        return collect(folders[paths[0]]), folders[paths[0]]
    found = [(path, collect(folder)) for path, folder in folders.items()]
    if len({path.resolve().name for path in folders}) == len(folders):
        found = [(Path(path.resolve().name), results) for path, results in found]
    rows: dict[tuple[str, ...], tuple[RowResult, str]] = {}
    bases = {results.base.name: results.base for _, results in found if results.base is not None}
    base = next(iter(bases.values())) if len(bases) == 1 else None
    if single := [path for path in paths if path not in folders]:
        runs = collect_runs(single)
        found.append((Path(), runs))
        base = base or runs.base
    for place, results in found:
        for row in results.rows:
            rows.setdefault((row.name, *(run.name for run in row.runs)), (row, place.name and str(place)))
    _check_questions([row for row, _ in rows.values()])
    return _results(_named_apart(list(rows.values())), base, None), None


def collect_runs(paths: Sequence[Path]) -> Results:
    """Return rows of finished runs; runs that differ in the seed only are one row.

    Rows of one name have the settings in which they differ in their label, as in "DuDe (detach_norm=true)", or
    the name of their first run if these are more than three.

    Raises:
        DudeError: a folder without a finished run, two runs of one row and seed, or runs with different questions.
    """
    rows: dict[str, RowResult] = {}
    for path in paths:
        run, settings = _open(path)
        record, config = run.record, settings.resolved()
        key = json.dumps([config["model"], config["method"], config["data"], {**config["train"], "seed": None}])
        rate = settings.train.learning_rate
        old = rows.get(key) or RowResult(record["title"], record["method"], record["r"], rate, ())
        if run.seed in [one.seed for one in old.runs]:
            raise DudeError(f"{path}: a second run of {old.name} with seed {run.seed}. Name each run once.")
        rows[key] = replace(old, runs=tuple(sorted((*old.runs, run), key=lambda one: one.seed)))
    _check_questions(list(rows.values()))
    first = next(iter(rows.values())).runs[0]
    before = first.record["metrics"]["before"]
    base = None
    if before is not None:
        base = Run({**first.record, "metrics": {"before": None, "after": before}}, first.source)
    return _results(_named_apart([(row, _difference(row, rows.values())) for row in rows.values()]), base, None)


def _difference(row: RowResult, rows: Iterable[RowResult]) -> str:
    """Return the settings in which a row differs from the rows of its name; empty if none or more than three."""
    mine = _flat(row.runs[0])
    group = [_flat(one.runs[0]) for one in rows if one.name == row.name]
    keys = [key for key in mine if any(one.get(key) != mine[key] for one in group)]
    return ", ".join(f"{key}={_short(mine[key])}" for key in keys) if len(keys) <= MOST_KEYS else ""


def _flat(run: Run) -> dict[str, Any]:
    """Return the settings of a run that make it another row."""
    config = run.record["config"]
    own = {key: value for section in ("method", "train") for key, value in config[section].items() if key != "seed"}
    return own | {f"{section}.{key}": value for section in ("model", "data") for key, value in config[section].items()}


def _short(value: Any) -> str:
    """Return a setting as in YAML; of a path, its last part."""
    if isinstance(value, str):
        return Path(value).name
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def _check_questions(rows: Sequence[RowResult]) -> None:
    without = [row for row in rows if row.runs and not _questions(row.runs[0])]
    if without and len(without) < sum(bool(row.runs) for row in rows):
        raise DudeError(
            f"{without[0].runs[0].name} was not evaluated on questions, and others were. Give runs with the same "
            "'eval' section."
        )
    if len({json.dumps(_questions(row.runs[0])) for row in rows if row.runs}) > 1:
        raise DudeError("these runs were evaluated on different questions. Give runs with the same 'eval' section.")


def _open(path: Path) -> tuple[Run, RunSettings]:
    """Open a finished run in its folder, or packed.

    Raises:
        DudeError: the run is not finished.
    """
    if not path.exists() and (source := find_run(path)) is not None and (record := source.record()) is not None:
        return Run(record, source), parse_run(record["config"], str(path))
    source = FolderRun(open_run(path)[0].path)
    record = source.record()
    assert record is not None
    return Run(record, source), parse_run(record["config"], str(source.folder.record))


def _row(grid: Grid, row: Row, folder: ComparisonFolder) -> RowResult:
    made = RowResult(row.label, row.method.name, row.r, None, (), tried=len(row.learning_rates))
    rate, at_end = row.learning_rates[0], False
    if made.tried > 1:
        choice = choose(grid, row, folder)
        if choice is None:
            return replace(made, missing=len(grid.settings.seeds))
        made = replace(made, candidates=choice.candidates, above=grid.settings.search.above)
        if choice.learning_rate is None:
            return replace(made, failed=len(grid.settings.seeds))
        rate, at_end = choice.learning_rate, choice.at_end
    runs, failed = [], 0
    for planned in grid.runs(row, rate):
        if (run := folder.finished(planned)) is not None:
            runs.append(run)
        else:
            failed += folder.failure(planned) is not None
    missing = len(grid.settings.seeds) - len(runs) - failed
    return replace(made, learning_rate=rate, runs=tuple(runs), failed=failed, missing=missing, at_end=at_end)


def _results(rows: tuple[RowResult, ...], base: Run | None, jobs: int | None) -> Results:
    run = next((run for row in rows for run in row.runs), base)
    if run is None or not run.after.get("tasks"):
        return Results(rows, base, (), None, jobs)
    headline, tasks = run.after["headline"], run.after["tasks"]
    wanted = EvalSettings.model_validate(run.record["config"]["eval"]).names
    sets = [name for name in wanted if name in tasks]
    if len(wanted) == 1:  # one set: its groups, where it has some
        sets = [name for name in tasks if "/" not in name and name != headline]
    return Results(rows, base, tuple(sets), headline, jobs)


def _questions(run: Run) -> Any:
    asked = run.record["config"]["eval"]
    return (
        {k: v for k, v in asked.items() if k not in ("every", "batch_size", "limit_before") and v is not None}
        if asked
        else None
    )


def _named_apart(rows: Sequence[tuple[RowResult, str]]) -> tuple[RowResult, ...]:
    """Return the rows; those of one name get their comparison, or their first run, into their label."""
    names = [row.name for row, _ in rows]
    return tuple(
        replace(row, label=f"{row.label} ({place or row.runs[0].name})") if names.count(row.name) > 1 else row
        for row, place in rows
    )


def differences(one: RowResult, other: RowResult) -> tuple[list[Table], list[float], list[int]] | None:
    """Return the differences of `one`'s and `other`'s answers, the weight of each task, and the seeds.

    For each task a (seeds, questions) array of -1, 0, 1. None if the rows share no seed, were evaluated on different
    questions, or the accuracy is not the mean of the answers (another metric).
    """
    mine, theirs = ({run.seed: run for run in row.runs} for row in (one, other))
    seeds = [seed for seed in mine if seed in theirs]
    rows: list[dict[str, Any]] = []
    weights: dict[str, float] = {}
    for seed in seeds:
        left, right = mine[seed].answers(), theirs[seed].answers()
        weights = weights or _weights(mine[seed], list(left))
        if {t: [i for i, _ in a] for t, a in left.items()} != {t: [i for i, _ in a] for t, a in right.items()}:
            return None
        for run, answers in ((mine[seed], left), (theirs[seed], right)):
            if set(answers) != set(weights):
                return None
            total = sum(weights[task] * float(np.mean([ok for _, ok in items])) for task, items in answers.items())
            if run.accuracy is None or abs(total - run.accuracy) > 1e-6:
                return None
        rows.append({t: [float(a) - float(b) for (_, a), (_, b) in zip(left[t], right[t], strict=True)] for t in left})
    if not rows or not weights:
        return None
    if any(len({len(row[task]) for row in rows}) > 1 for task in weights):
        return None
    return [np.array([row[task] for row in rows]) for task in weights], list(weights.values()), seeds


def seed_series(row: RowResult, key: str) -> Series | None:
    """Return the row's curves of `key`, one for each run, at the steps that all of them logged; None without one."""
    found = [{r["step"]: r[key] for r in run.curves() if r.get(key) is not None} for run in row.runs]
    steps = sorted(set.intersection(*(set(one) for one in found))) if found else []
    if not steps:
        return None
    return Series(tuple(steps), np.array([[one[step] for step in steps] for one in found], dtype=float))


def _weights(run: Run, tasks: list[str]) -> dict[str, float]:
    """Return the weight of each task in the headline: equal for all sets, and equal for the subjects within a set."""
    names = EvalSettings.model_validate(run.record["config"]["eval"]).names

    def owner(task: str) -> str:
        near = [name for name in names if task == name or task.startswith((f"{name}/", f"{name}_"))]
        return max(near, key=len) if near else task

    owners = [owner(task) for task in tasks]
    return {task: 1 / (len(set(owners)) * owners.count(mine)) for task, mine in zip(tasks, owners, strict=True)}
