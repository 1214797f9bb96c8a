"""A study: the comparisons that the paper's experiments need, planned and run in one folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..compare.comparison import LearningRates, Plan, compare, known_runs, plan_settings
from ..compare.comparison_folder import mark_of, read
from ..compare.grid import Grid
from ..compare.pool import Watcher
from .experiments import Experiment, Scale
from .recipe import StudyComparison
from .study_folder import StudyFolder


@dataclass(frozen=True)
class Study:
    """A study that has been checked.

    Attributes:
        folder: where it is.
        scale: `mini`, `small` or `paper`.
        experiments: tables and figures to write.
        comparisons: what they need.
        plans: plan of each comparison.
        overrides: changes to the recipes.
    """

    folder: StudyFolder
    scale: Scale
    experiments: tuple[Experiment, ...]
    comparisons: tuple[StudyComparison, ...]
    plans: tuple[Plan, ...]
    overrides: tuple[str, ...]

    def begin(self) -> None:
        """Write what the folder is to hold, before anything runs, so that tables list what is missing."""
        facts = {
            comparison.name: {
                "selection": comparison.spec.name,
                "study": comparison.recipe_name,
                "model": plan.base["name"],
                "paper": comparison.model.paper,
                "prefix": "mini_" if self.scale == "mini" else "",
                "overrides": list(self.overrides),
            }
            for comparison, plan in zip(self.comparisons, self.plans, strict=True)
        }
        self.folder.begin(self.scale, [one.name for one in self.experiments], facts, list(self.overrides))
        for plan in self.plans:
            plan.folder.begin(plan.settings, plan.base)

    def run(
        self,
        watcher: Callable[[], Watcher],
        *,
        retry_failed: bool = False,
        starting: Callable[[StudyComparison, int], None] = lambda comparison, number: None,
    ) -> None:
        """Run every comparison, one after the other.

        Args:
            watcher: makes one for each comparison.
            retry_failed: also retry runs that failed before.
            starting: called with each comparison and its number before it runs.

        Raises:
            Stopped: on request; the same call resumes.
        """
        self.begin()
        for number, (comparison, plan) in enumerate(zip(self.comparisons, self.plans, strict=True), 1):
            starting(comparison, number)
            compare(plan, watcher(), retry_failed=retry_failed)


def plan_study(
    folder: StudyFolder,
    scale: Scale,
    experiments: tuple[Experiment, ...],
    comparisons: tuple[StudyComparison, ...],
    overrides: tuple[str, ...],
) -> Study:
    """Check every comparison; write nothing.

    Raises:
        DudeError: the folder is in use for something else, or an override, a model or a data set is invalid.
    """
    folder.check(scale)
    plans = tuple(plan_settings(one.settings, folder.comparison(one.name), one.source, one.only) for one in comparisons)
    return Study(folder, scale, experiments, comparisons, plans, overrides)


def progress(plans: Iterable[Plan]) -> tuple[int, int]:
    """Return the number of finished runs and of all runs; a run that several comparisons need counts once."""
    done: dict[str, bool] = {}
    later = 0
    for plan in plans:
        rates = LearningRates(plan)
        for run in known_runs(plan, rates):
            done[run.name] = plan.folder.is_done(run)
        later += sum(rates.learning_rate(row) is None for row in plan.rows) * len(plan.settings.seeds)
    return sum(done.values()), len(done) + later


def stored_progress(folder: StudyFolder, comparisons: tuple[StudyComparison, ...]) -> tuple[int, int] | None:
    """Return the `progress` of the comparisons that the folder has; None if it has none.

    Reads the folder only: the base model is assumed to be the one that a comparison was run with before.
    """
    plans = []
    for comparison in comparisons:
        place = folder.comparison(comparison.name)
        if (base := read(place.base)) is not None:
            grid = Grid(comparison.settings, mark_of(base), place.runs, comparison.source)
            plans.append(Plan(comparison.settings, grid, place, base, comparison.only))
    return progress(plans) if plans else None
