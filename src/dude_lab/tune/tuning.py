"""Run successive halving: measure the speed, plan the rungs, train, and choose; the same call resumes."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

from dude_peft.errors import DudeError
from dude_peft.files import json_sha256, read_json, write_json

from ..compare.comparison_folder import ComparisonFolder, mark_of
from ..compare.grid import Grid, PlannedRun
from ..compare.pool import Pool, TimeUp, Watcher
from ..compare.rows import Row
from ..compare.worker import write_failure
from ..training.curves import Curves
from ..training.run_folder import RunFolder
from .candidates import Candidates
from .halving import Cost, Rung, plan_rungs, promoted, recent_loss, seconds, shortened, shortest_rung

SCHEMA = 1  # of tune.json
STATE = "tune.json"
SPENT = "tune.spent"  # seconds, in the folder `state`
MEASURED = 4  # steps of the runs that measure the speed
SAMPLE = 20  # questions that measure the time of an evaluation
GRACE = 2.0  # seconds for processes to write a checkpoint at the end of the budget
REMEDY = "Remove it and begin again: the runs stay and are used."


@dataclass(frozen=True)
class Candidate:
    """A method with its rank and a learning rate."""

    row: Row
    learning_rate: float
    run: PlannedRun

    @property
    def name(self) -> str:
        """Name of its run, which is different for each candidate."""
        return self.run.name


@dataclass
class State:
    """What has been decided, as in `tune.json`.

    Attributes:
        plan: the rungs as planned after the speed was measured; empty before.
        done: the finished rungs: step, and names of the candidates that were trained up to it.
        running: the candidates of the rung that is not finished; empty between two rungs.
        ended: why no rung follows; empty before.
        fixed: seconds of a run beside its steps and its evaluation, as measured.
    """

    plan: list[Rung] = field(default_factory=list)
    done: list[tuple[int, list[str]]] = field(default_factory=list)
    running: tuple[int, list[str]] | None = None
    ended: str = ""
    fixed: float = 0.0


class Tuner:
    """A checked tuning, and its folder.

    Args:
        candidates: what to choose from.
        budget: seconds.
        source: name of the YAML, for messages.

    Raises:
        DudeError: a mistake in the YAML, model, data or questions, or a folder with another tuning.
    """

    def __init__(self, candidates: Candidates, budget: float, source: str) -> None:
        from ..training.base_model import find_base, identity

        self.made, self.budget, self.source = candidates, budget, source
        self._ended_with, self._begun = budget, time.monotonic()
        settings = self.settings = candidates.comparison
        self.folder = ComparisonFolder(settings.output)
        grid = Grid(settings, "", self.folder.runs, source)
        self.folder.check()
        first = grid.runs(grid.rows[0], grid.rows[0].learning_rates[0])[0].settings
        self.base = identity(find_base(first.model, device=first.train.device))
        self.grid = Grid(settings, mark_of(self.base), self.folder.runs, source)
        self.candidates = [
            Candidate(row, rate, run)
            for row in self.grid.rows
            for rate, run in zip(row.learning_rates, self.grid.candidates(row), strict=True)
        ]
        if len(self.candidates) < 2:
            raise DudeError(f"{source}: one candidate only, {self.candidates[0].run.title}: nothing to choose. "
                            "Give several --rates, --methods or --ranks.")  # fmt: skip
        self.by_name = {one.name: one for one in self.candidates}
        self.state_file = self.folder.path / STATE
        self.state = self._read()
        self._clock = _Clock(self.folder.state / SPENT, self.spent, Watcher())
        self.steps = self.questions = self.held_out = 0
        self.batch = 1
        self._check()

    # --- what is known before anything runs --------------------------------------------------------------------------

    def _check(self) -> None:
        """Check the first candidate as a run, and the methods; count steps, validation questions and examples."""
        from ..training.base_model import meta_model
        from ..training.run_plan import make_plan, trainable_part

        problems: dict[str, None] = {}

        def report(name: str, found: str, error: DudeError | None) -> None:
            if error is not None:
                problems[f"{self.source}: {error}"] = None

        settings = self.candidates[0].run.settings
        plan = make_plan(settings, report, keep_going=True)
        for row in self.grid.rows[1:] if plan.base is not None else ():  # they differ from the first in the method only
            try:
                trainable_part(meta_model(plan.base), row.method)
            except DudeError as error:
                report("targets", "", error)
        if not problems:
            self.steps = plan.steps
            self.batch = settings.train.batch_size * settings.train.gradient_accumulation
            self.held_out = 0 if plan.validation is None else plan.validation.count
            if settings.eval is not None and settings.eval.has_tasks:
                self.questions = _questions(settings.eval, plan.base.tokenizer)
        if problems:
            raise DudeError("\n".join(problems))

    @property
    def metric(self) -> str:
        """What complete runs are compared by: `accuracy` or `validation loss`."""
        return "accuracy" if self.questions else "validation loss"

    @property
    def sweep_steps(self) -> int:
        """Optimizer steps of all candidates, each trained to the end."""
        return len(self.candidates) * self.steps

    # --- state -------------------------------------------------------------------------------------------------------

    @cached_property
    def _mark(self) -> str:
        return json_sha256({"runs": sorted(self.by_name)})

    def _read(self) -> State:
        if not self.state_file.is_file():
            return State()
        raw = read_json(self.state_file, REMEDY)
        if raw.get("schema") != SCHEMA or raw.get("candidates") != self._mark:
            raise DudeError(
                f"{self.folder.path}: a tuning of other candidates, or with other settings. Choose another folder "
                "with -o DIR."
            )
        try:
            plan = [Rung(int(steps), int(count)) for steps, count in raw["plan"]]
            done = [(int(steps), [str(name) for name in names]) for steps, names in raw["done"]]
            running = raw["running"] and (int(raw["running"][0]), [str(name) for name in raw["running"][1]])
            names = {name for _, some in [*done, *([running] if running else [])] for name in some}
            if not names <= set(self.by_name):
                raise ValueError("a run that is no candidate")
            self._ended_with = float(raw["budget_seconds"])
            return State(plan, done, running or None, str(raw["ended"]), float(raw["fixed_seconds"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DudeError(f"{self.state_file}: damaged ({error}). {REMEDY}") from None

    def _write(self) -> None:
        state = self.state
        state.fixed = self.cost(self.candidates).fixed
        value = {
            "schema": SCHEMA,
            "candidates": self._mark,
            "budget_seconds": self.budget,
            "spent_seconds": round(self.spent, 1),
            "steps": self.steps,
            "metric": self.metric,
            "plan": [[one.steps, one.candidates] for one in state.plan],
            "done": state.done,
            "running": state.running,
            "ended": state.ended,
            "fixed_seconds": round(state.fixed, 3),
        }
        write_json(self.state_file, value)

    @property
    def spent(self) -> float:
        """Seconds in which candidates were trained, over all starts."""
        try:
            return float((self.folder.state / SPENT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0.0

    # --- what has been measured --------------------------------------------------------------------------------------

    def loss(self, candidate: Candidate, steps: int) -> float:
        """Return the training loss over the last third of so many steps; infinite if the candidate failed."""
        return math.inf if self.folder.failure(candidate.run) else recent_loss(self.losses(candidate), steps)

    def losses(self, candidate: Candidate) -> dict[int, float | None]:
        """Return step -> training loss."""
        return {one["step"]: one["loss"] for one in self._records(candidate) if "loss" in one}

    def _records(self, candidate: Candidate) -> list[dict[str, Any]]:
        finished = self.folder.finished(candidate.run)
        return Curves(RunFolder(candidate.run.settings.output).curves).read() if finished is None else finished.curves()

    def cost(self, among: Sequence[Candidate]) -> Cost:
        """Return the mean cost of some candidates, by what their rows have taken so far."""
        steps = [value for one in among for value in self._measured(one.row)[0]]
        fixed = [value for one in among for value in self._measured(one.row)[1]]
        steps = steps or [value for row in self.grid.rows for value in self._measured(row)[0]]
        fixed = fixed or [value for row in self.grid.rows for value in self._measured(row)[1]]
        return Cost(fmean(fixed) if fixed else self.state.fixed, fmean(steps) if steps else 0.0)

    def _measured(self, row: Row) -> tuple[list[float], list[float]]:
        """Return the seconds of a step, and of the rest of a run but the evaluation, of runs of the row."""
        steps, fixed = [], []
        for one in self.candidates:
            if one.row is not row:
                continue
            times = [record["seconds"] for record in self._records(one) if record.get("seconds") is not None]
            if len(times) > 1:
                steps.append(median(after - before for before, after in pairwise(times)))
            wall, first = self._clock.walls.get(one.name), self._clock.lengths.get(one.name, 0)
            if wall is not None and times:
                fixed.append(max(0.0, wall - (times[-1] - (times[first - 1] if 0 < first <= len(times) else 0.0))))
        return steps, fixed

    @property
    def evaluation(self) -> float:
        """Seconds to evaluate a complete run: measured, or by the time of a few questions."""
        records = [self.folder.record(one.run) for one in self.candidates if self.folder.is_done(one.run)]
        known = [record["cost"]["eval_seconds"] for record in records if record]
        if known:
            return fmean(known)
        found = None if self.speed_run is None else self.folder.finished(self.speed_run)
        if found is not None:
            taken = found.source.metrics()["after"]["seconds"]
            return taken * self.questions / max(1, found.after["tasks"][found.after["headline"]]["n"])
        # A forward takes a third of a step's time for an example.
        return self.held_out / (3 * self.batch) * self.cost(self.candidates).step

    @cached_property
    def speed_run(self) -> PlannedRun | None:
        """The evaluation of the base model on a few questions; None without questions."""
        settings = self.candidates[0].run.settings
        if not self.questions or settings.eval is None:
            return None
        limit = min(SAMPLE, settings.eval.limit or SAMPLE)
        few = settings.model_copy(update={"eval": settings.eval.model_copy(update={"limit": limit})})
        name = f"speed-{json_sha256({'eval': few.resolved()['eval'], 'base': self.grid.base_mark})[:8]}"
        return PlannedRun("base", name, few.model_copy(update={"output": self.folder.runs / name}))

    # --- running -----------------------------------------------------------------------------------------------------

    def run(self, watcher: Watcher, show: Callable[[], None] = lambda: None) -> None:
        """Train the candidates that the budget allows; `show` is called once the rungs are planned.

        A tuning that has ended is not changed, unless its budget is larger than before. The time of the checks counts.

        Raises:
            DudeError: the budget is too small for the shortest rungs; says what is needed.
            Stopped: on request; the same call resumes.
        """
        self.folder.begin(self.settings, self.base)
        state, settings = self.state, self.settings
        if state.ended and (self._complete() or self._ended_with >= self.budget):
            show()
            return
        self._clock = _Clock(self.folder.state / SPENT, self.spent + time.monotonic() - self._begun, watcher)
        self._pool = Pool(
            self.folder, jobs=settings.jobs, threads=settings.torch_threads, retry_failed=False, watcher=self._clock
        )
        with self._clock:
            try:
                self._measure()
                show()
                while not self.state.ended:
                    self._rung()
            except TimeUp:
                self.state.ended = "the budget was used up"
            finally:
                self._pool.close()
                self._write()

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.budget - self._clock.spent

    def _measure(self) -> None:
        """Train one candidate of each method for a few steps, evaluate a few questions, and plan the rungs."""
        state = self.state
        if state.ended:  # with a smaller budget
            state.ended, state.plan = "", self.plan(self.budget) if self.cost(self.candidates).step else []
        if state.plan:
            return
        methods = {one.row.method.name: one for one in self.candidates}  # of each the largest rank, which is last
        middle = [self._middle(one.row) for one in methods.values()]
        middle += self.candidates[: max(0, 2 - len(middle))]  # the first run waits until libraries are imported
        if self.speed_run is not None:
            self._work([self.speed_run])
        self._work([one.run for one in middle], stop_at=min(MEASURED, self.steps))
        if not any(self._measured(one.row)[0] for one in self.candidates):
            errors = [(self.folder.failure(one.run) or {}).get("error") for one in middle]
            raise DudeError(f"{self.source}: no candidate could be trained: {next(filter(None, errors), 'stopped')}")
        state.plan = self.plan(self.left)
        if not state.plan:
            cost, count = self.cost(self.candidates), len(self.candidates)
            least = self._clock.spent + seconds([Rung(self.first, count)], self.steps, cost, self.settings.jobs)
            raise DudeError(
                f"--budget: {self.budget:g} s, and {count} candidates need {least:.0f} s for {self.first} steps each "
                f"({cost.fixed:.1f} s to load, {cost.step:.2f} s a step). Give --budget {math.ceil(1.5 * least)}s or "
                "more, or fewer --rates, --methods or --ranks."
            )
        self._write()

    def _middle(self, row: Row) -> Candidate:
        among = [one for one in self.candidates if one.row is row]
        return among[len(among) // 2]

    def plan(self, budget: float) -> list[Rung]:
        """Return the rungs that fit a budget."""
        cost, evaluation = self.cost(self.candidates), self.evaluation
        return plan_rungs(
            len(self.candidates), self.steps, cost, budget, first=self.first, jobs=self.settings.jobs,
            evaluation=evaluation,
        )  # fmt: skip

    @property
    def first(self) -> int:
        """Steps of the first rung, at least."""
        return shortest_rung(self.steps, self.candidates[0].run.settings.train.warmup)

    def _rung(self) -> None:
        """Train the candidates of the next rung, or resume it."""
        state = self.state
        if state.running is None:
            chosen = self._next()
            if chosen is None:
                return
            state.running = chosen
            self._write()
        steps, names = state.running
        some = [self.by_name[name] for name in names]
        self._work([one.run for one in some], stop_at=None if steps >= self.steps else steps)
        state.done.append((steps, names))
        state.running = None
        if steps >= self.steps:
            state.ended = "all rungs are done"
        self._write()

    def _next(self) -> tuple[int, list[str]] | None:
        """Return step and candidates of the next rung, fewer than planned if time is short; None if there is none."""
        state = self.state
        reached = state.done[-1][0] if state.done else 0
        alive = [self.by_name[name] for name in state.done[-1][1]] if state.done else self.candidates
        rungs = [rung for rung in state.plan if rung.steps > reached]
        fitting = shortened(
            rungs, reached, self.steps, self.cost(alive), self.left, self.settings.jobs, self.evaluation
        )
        if not fitting:
            state.ended = "the budget allows no other rung"
            return None
        values = {one.name: self.loss(one, reached) if state.done else 0.0 for one in alive}
        names = promoted(values, fitting[0].candidates)
        if not names or (len(names) < 2 and fitting[0].steps < self.steps):
            state.ended = "every other candidate failed" if names else "every candidate failed"
            return None
        for one in self.candidates if state.done else ():
            if one.name not in names:  # those of many candidates would fill the disk
                shutil.rmtree(RunFolder(self.folder.runs / one.name).checkpoints, ignore_errors=True)
        return fitting[0].steps, names

    @property
    def rungs(self) -> list[tuple[int, list[str]]]:
        """The finished rungs; if the first was not finished, that one with the candidates that have reached it."""
        state = self.state
        if state.done or state.running is None:
            return state.done
        steps, names = state.running
        return [(steps, some)] if (some := [name for name in names if self._reached(name, steps)]) else []

    def _reached(self, name: str, steps: int) -> bool:
        run = self.by_name[name].run
        return self.folder.is_done(run) or self.folder.last_step(run) >= steps

    def _complete(self) -> bool:
        return bool(self.state.done) and self.state.done[-1][0] >= self.steps

    def _work(self, runs: list[PlannedRun], stop_at: int | None = None) -> None:
        for run in runs:
            self._clock.lengths[run.name] = len(Curves(RunFolder(run.settings.output).curves).read())
        self._clock.watcher.begin(sum(self.folder.is_done(run) for run in runs), len(runs))
        self._pool.stop_at = stop_at
        self._pool.deadline = time.monotonic() + max(0.0, self.left - min(GRACE, self.budget / 20))
        self._pool.work(lambda: runs, last=False)
        for name, what in self._pool.killed.items():  # perhaps out of memory: the others continue without it
            run = next(run for run in runs if run.name == name)
            write_failure(self.folder, name, run.settings.resolved(), what.partition(";")[0])
        self._pool.killed.clear()


class _Clock(Watcher):
    """Counts the seconds in which candidates are trained, and those of each run; passes everything on.

    Args:
        path: file with the seconds, which outlives a killed process.
        spent: seconds of earlier starts.
        watcher: notified of everything that happens.
    """

    def __init__(self, path: Path, spent: float, watcher: Watcher) -> None:
        self.path, self._before, self.watcher = path, spent, watcher
        self._since = self._written = time.monotonic()
        self._started: dict[str, float] = {}
        self._first: str | None = None  # the first run, whose time includes that of importing libraries
        self.walls: dict[str, float] = {}
        self.lengths: dict[str, int] = {}

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._write()

    @property
    def spent(self) -> float:
        """Seconds so far, over all starts."""
        return self._before + time.monotonic() - self._since

    def _write(self) -> None:
        part = self.path.with_suffix(".part")
        part.write_text(f"{self.spent:.1f}", encoding="utf-8")
        part.replace(self.path)
        self._written = time.monotonic()

    def started(self, run: PlannedRun) -> None:
        """Note the time."""
        self._started[run.name] = time.monotonic()
        self.watcher.started(run)

    def running(self, runs: Sequence[tuple[PlannedRun, dict[str, Any]]], elsewhere: int) -> None:
        """Write the seconds so far, once a second."""
        if time.monotonic() - self._written >= 1:
            self._write()
        self.watcher.running(runs, elsewhere)

    def finished(self, run: PlannedRun, record: dict[str, Any], *, here: bool) -> None:
        """Note how long the run took, without its evaluation."""
        self._note(run, here, record["cost"]["eval_seconds"])
        self.watcher.finished(run, record, here=here)

    def paused(self, run: PlannedRun, step: int) -> None:
        """Note how long the run took."""
        self._note(run, run.name in self._started)
        self.watcher.paused(run, step)

    def _note(self, run: PlannedRun, here: bool, evaluation: float = 0.0) -> None:
        if not here or run.name not in self._started:
            return
        self.walls[run.name] = time.monotonic() - self._started.pop(run.name) - evaluation
        if self._first is None:
            self._first = run.name
        else:
            self.walls.pop(self._first, None)

    def failed(self, run: PlannedRun, error: str) -> None:
        """Pass it on."""
        self.watcher.failed(run, error)

    def note(self, text: str) -> None:
        """Pass it on."""
        self.watcher.note(text)

    def end(self) -> None:
        """Write the seconds."""
        self._write()
        self.watcher.end()


def _questions(settings: Any, tokenizer: Any) -> int:
    """Return the number of questions of an evaluation."""
    from ..evaluation.tasks import build_units

    sizes = [len(unit.questions) or len(unit.task.eval_docs) for unit in build_units(settings, tokenizer)]
    return sum(min(size, settings.limit or size) for size in sizes)
