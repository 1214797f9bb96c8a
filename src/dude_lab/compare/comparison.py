"""A comparison: check its YAML, plan its runs, and run them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from dude_peft.errors import DudeError

from ..config.compare_settings import ComparisonSettings, load_comparison
from .comparison_folder import ComparisonFolder, mark_of
from .grid import Grid, PlannedRun, check_questions
from .pool import Pool, Watcher
from .rows import Row, picked
from .search import SearchResult, choose, write_search

PER_METHOD = frozenset({"targets"})  # a check that can fail for one method only: a failed run, not an error


@dataclass(frozen=True)
class Plan:
    """A checked comparison.

    Attributes:
        settings: the YAML.
        grid: its rows and runs.
        folder: its folder.
        base: `identity` of the base model.
        only: names of the rows to run; empty: all. The tables have the others too, with what has run of them.
    """

    settings: ComparisonSettings
    grid: Grid
    folder: ComparisonFolder
    base: dict[str, object]
    only: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows to run."""
        return picked(self.grid.rows, self.only)

    @property
    def run_count(self) -> int:
        """Number of searches, runs, and the base."""
        searches = sum(len(self.grid.searches(row)) for row in self.rows)
        return searches + len(self.rows) * len(self.settings.seeds) + (self.grid.base_run is not None)


def plan_comparison(config: str | Path, overrides: Iterable[str] = (), notes: list[str] | None = None) -> Plan:
    """Read and check a comparison; write nothing.

    What all runs share (model, data, questions) is checked as by `dude validate`, unless every run is finished. `notes`
    as in `yaml_file.override`.

    Raises:
        DudeError: all mistakes that can be found at once, each with its key and remedy.
    """
    settings = load_comparison(config, overrides, notes)
    return plan_settings(settings, ComparisonFolder(settings.output), str(config))


def plan_settings(
    settings: ComparisonSettings, folder: ComparisonFolder, source: str = "config", only: tuple[str, ...] = ()
) -> Plan:
    """Check a comparison with the folder `folder`; write nothing. `only` as in `Plan`.

    Raises:
        DudeError: as `plan_comparison`.
    """
    from ..training.base_model import find_base, identity

    grid = Grid(settings, "", folder.runs, source)  # mistakes in the YAML first: finding them needs no model
    check_questions(grid)
    folder.check()
    first = grid.runs(grid.rows[0], grid.rows[0].learning_rates[0])[0].settings
    base = identity(find_base(first.model, device=first.train.device))
    plan = Plan(settings, Grid(settings, mark_of(base), folder.runs, source), folder, base, only)
    if any(not folder.is_done(run) for run in known_runs(plan)):
        _check_shared(plan)
    _check_unchanged(plan)
    return plan


def compare(plan: Plan, watcher: Watcher, *, retry_failed: bool = False) -> None:
    """Execute the runs of a comparison that no other process has claimed.

    Args:
        plan: a checked comparison.
        watcher: notified of everything that happens.
        retry_failed: also retry runs that failed before.

    Raises:
        Stopped: on request; the same call resumes.
    """
    settings, folder = plan.settings, plan.folder
    pool = Pool(folder, jobs=settings.jobs, threads=settings.torch_threads, retry_failed=retry_failed, watcher=watcher)
    folder.begin(settings, plan.base)
    rates = LearningRates(plan, pool.has_failed)
    watcher.begin(sum(folder.is_done(run) for run in known_runs(plan)), plan.run_count)
    reported: set[str] = set()

    def todo() -> list[PlannedRun]:
        runs = known_runs(plan, rates)
        for row in plan.grid.rows:  # also those that are not run now
            rates.learning_rate(row)
        for found in rates.made.values():
            if found.row not in reported:
                reported.add(found.row)
                write_search(folder, rates.in_order())
                if found.warning:
                    watcher.note(found.warning)
        return runs

    pool.work(todo)


class LearningRates:
    """The learning rates chosen so far; once chosen, a rate stays."""

    def __init__(self, plan: Plan, has_failed: Callable[[PlannedRun], bool] | None = None) -> None:
        self.plan, self.has_failed = plan, has_failed
        self.made: dict[str, SearchResult] = {}

    def learning_rate(self, row: Row) -> float | None:
        """Return the row's learning rate; None if it is not chosen yet, or none could be chosen."""
        if len(row.learning_rates) == 1:
            return row.learning_rates[0]
        if row.name not in self.made:
            choice = choose(self.plan.grid, row, self.plan.folder, self.has_failed)
            if choice is None:
                return None
            self.made[row.name] = choice
        return self.made[row.name].learning_rate

    def in_order(self) -> list[SearchResult]:
        """Return the search results so far, in the order of the rows."""
        return [self.made[row.name] for row in self.plan.grid.rows if row.name in self.made]


def known_runs(plan: Plan, rates: LearningRates | None = None) -> list[PlannedRun]:
    """Return the runs that are determined so far: base, searches, and the runs of rows whose learning rate is known.

    Runs are ordered by seed, so that a comparison that is stopped half-way has rows to compare.
    """
    rates = rates or LearningRates(plan)
    grid = plan.grid
    runs = [grid.base_run] if grid.base_run else []
    for row in plan.rows:
        runs += grid.searches(row)
    by_row = [grid.runs(row, rate) for row in plan.rows if (rate := rates.learning_rate(row)) is not None]
    return runs + [run for seed in zip(*by_row, strict=True) for run in seed]


def _check_unchanged(plan: Plan) -> None:
    """Reject training files that have changed since finished runs of the comparison were trained on them.

    A run is named by the names of its files, so it would stand for the new records.
    """
    from ..training.training_data import load_training

    data = plan.grid.runs(plan.grid.rows[0], plan.grid.rows[0].learning_rates[0])[0].settings.data
    if data.train is None:
        return
    trained: dict[str, str] = {}
    for run in known_runs(plan):
        record = None if run.kind == "base" or run.settings.data != data else plan.folder.record(run)
        if record is not None:
            trained.setdefault(record["provenance"]["data"]["sha256"], run.name)
    if not trained:
        return
    try:
        found = load_training(data)
    except DudeError:  # the tables of finished runs need no data
        return
    trained.pop(found.sha256, None)
    if trained:
        raise DudeError(
            f"data.train: {found.source} has changed since runs of this comparison, such as "
            f"{next(iter(trained.values()))}, were trained on it. Restore the file, or set output to a new folder."
        )


def _check_shared(plan: Plan) -> None:
    """Check what all runs share, with the checks of a single run, and the questions of the searches."""
    from ..evaluation.tasks import build_units
    from ..training.run_plan import make_plan

    grid = plan.grid
    first = grid.runs(grid.rows[0], grid.rows[0].learning_rates[0])[0].settings
    problems: list[str] = []

    def report(name: str, found: str, error: DudeError | None) -> None:
        if error is not None and name not in PER_METHOD:
            problems.append(f"{grid.source}: {error}")

    make_plan(first, report, keep_going=True)
    searches = [run.settings for row in grid.rows for run in grid.searches(row)]
    if searches and searches[0].eval is not None:
        try:
            build_units(searches[0].eval)
        except DudeError as error:
            problems.append(f"{grid.source}: search.eval: {error}")
    if problems:
        raise DudeError("\n".join(problems))
