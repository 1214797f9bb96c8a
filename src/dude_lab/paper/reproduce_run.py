"""A reproduction from its name to its folder: check all parts, work through them, write what was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..compare.comparison import Choices, Plan, compare, known_cells, plan_settings
from ..compare.comparison_folder import mark_of, read
from ..compare.grid import Grid
from ..compare.watcher import Watcher
from .experiments import Experiment, Scale
from .recipe import Part
from .study_folder import StudyFolder


@dataclass(frozen=True)
class Reproduction:
    """A checked reproduction: the experiments asked for, and a plan for each part."""

    experiments: tuple[Experiment, ...]
    scale: Scale
    root: StudyFolder
    parts: tuple[Part, ...]
    plans: tuple[Plan, ...]
    overrides: tuple[str, ...]

    def progress(self) -> tuple[int, int]:
        """Cells that are done, and all that are known so far; one that several parts need counts once."""
        cells: dict[str, bool] = {}
        later = 0
        for plan in self.plans:
            choices = Choices(plan)
            for cell in known_cells(plan, choices):
                cells[cell.name] = plan.folder.is_done(cell)
            later += sum(choices.learning_rate(row) is None for row in plan.grid.rows) * len(plan.settings.seeds)
        return sum(cells.values()), len(cells) + later


def plan_reproduction(
    experiments: tuple[Experiment, ...],
    scale: Scale,
    root: StudyFolder,
    parts: tuple[Part, ...],
    overrides: tuple[str, ...],
) -> Reproduction:
    """Check every part; writes nothing.

    Raises:
        DudeError: a folder of something else, a mistake in an override, a model or set that cannot be read.
    """
    root.check(scale)
    plans = tuple(plan_settings(part.settings, root.comparison(part.name), part.source) for part in parts)
    return Reproduction(experiments, scale, root, parts, plans, overrides)


def stored_progress(root: StudyFolder, parts: tuple[Part, ...]) -> tuple[int, int] | None:
    """Cells that are finished in the folder and all that are known, as far as parts have been begun; else None.

    Reads the folder alone: a part's base model is taken to be the one that it was begun with.
    """
    plans = []
    for part in parts:
        folder = root.comparison(part.name)
        if (base := read(folder.base)) is not None:
            grid = Grid(part.settings, mark_of(base), folder.runs, part.source)
            plans.append(Plan(part.settings, grid, folder, base))
    if not plans:
        return None
    scale: Scale = (root.facts() or {})["scale"]
    return Reproduction((), scale, root, parts, tuple(plans), ()).progress()


def begin(whole: Reproduction) -> None:
    """Write what the folder is to hold, before anything runs: what has not run yet stands in the tables as missing."""
    facts: dict[str, dict[str, Any]] = {
        part.name: {
            "selection": part.selection.name,
            "study": part.study,
            "model": plan.base["name"],
            "paper": part.model.paper,
            "prefix": "mini_" if whole.scale == "mini" else "",
            "overrides": list(whole.overrides),
        }
        for part, plan in zip(whole.parts, whole.plans, strict=True)
    }
    names = [one.name for one in whole.experiments]
    whole.root.begin(whole.scale, names, facts, list(whole.overrides))
    for plan in whole.plans:
        plan.folder.begin(plan.settings, plan.base)


def reproduce(
    whole: Reproduction,
    watcher: Callable[[], Watcher],
    *,
    retry_failed: bool = False,
    starting: Callable[[Part, int], None] = lambda part, number: None,
) -> None:
    """Work through every part, one after the other.

    Args:
        whole: checked.
        watcher: makes one for each part.
        retry_failed: also what failed in an earlier start.
        starting: told which part begins.

    Raises:
        Stopped: on request; the next start goes on.
    """
    begin(whole)
    for number, (part, plan) in enumerate(zip(whole.parts, whole.plans, strict=True), 1):
        starting(part, number)
        compare(plan, watcher(), retry_failed=retry_failed)
