"""`dude tune`: choose learning rate, method and rank within a budget of time."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.markup import escape
from rich.text import Text

from dude_peft.errors import DudeError

from ..compare.pool import Stopped
from ..training.reporter import quiet
from ..tune.candidates import TuneOptions, load_candidates
from ..tune.halving import parse_budget, seconds
from ..tune.ranking import Ranking, cells, heads, rank, sentences, write_ranking
from ..tune.tuning import Tuner
from . import FAILED_RUNS, INTERRUPTED
from .compare_progress import make_watcher
from .console import NOTE, console, duration, show_next, show_notes, table


def run(
    config: Path,
    overrides: list[str],
    *,
    budget: str,
    methods: str | None,
    ranks: str | None,
    rates: str | None,
    metric: str | None,
    output: Path | None,
    jobs: int | None,
    threads: int | None,
    dry_run: bool,
) -> int:
    """Tune; return the exit code: 0 a choice was made, 1 no candidate could be trained, 130 stopped."""
    out, allowed = console(), parse_budget(budget)
    notes: list[str] = []
    quiet()
    try:
        asked = TuneOptions(
            methods=_words(methods),
            ranks=[int(value) for value in _numbers(ranks, "--ranks", whole=True)],
            rates=_numbers(rates, "--rates"),
            metric=metric,
            output=output,
            jobs=jobs,
            threads=threads,
        )
        candidates = load_candidates(config, overrides, asked, notes)
        tuner = Tuner(candidates, allowed, str(config))
    finally:
        show_notes(notes)
    options = {"--methods": methods, "--ranks": ranks, "--rates": rates, "--metric": metric, "-o": output,
               "--jobs": jobs, "--threads": threads}  # fmt: skip
    given = [word for key, value in options.items() if value is not None for word in (key, str(value))]
    again = ["dude", "tune", str(config), *overrides, *given]
    _show_candidates(tuner)
    if dry_run:
        _show_dry_run(tuner)
        return 0
    try:
        tuner.run(make_watcher(out), lambda: _show_rungs(tuner))
    except Stopped:
        out.print(f"{NOTE} stopped after {duration(tuner.spent)}; what was trained stays. Resume with")
        out.print(Text(f"  {shlex.join([*again, '--budget', budget])}"), soft_wrap=True)
        return INTERRUPTED
    ranking = rank(tuner)
    if ranking is None:
        raise DudeError(_nothing(tuner, allowed))
    _show_ranking(tuner, ranking)
    files = write_ranking(tuner, ranking)
    out.print()
    for what, path in zip(("run", "table", "picture"), files, strict=False):
        out.print(Text(f"{what + ':':9}{path}"), soft_wrap=True)
    show_next(["dude", "train", str(files[0])])
    if ranking.basis == "training loss":
        show_next([*again, "--budget", f"{_minutes(2 * allowed)}m"])
    return FAILED_RUNS if all(row.error for row in ranking.rows) else 0


def _minutes(value: float) -> int:
    """Return seconds as whole minutes, rounded up."""
    return max(1, -int(-value // 60))


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _numbers(text: str | None, option: str, *, whole: bool = False) -> list[float]:
    words = _words(text)
    try:
        values = [float(int(word)) if whole else float(word) for word in words]
    except ValueError:
        values = [0.0]
    if any(not 0 < value < float("inf") for value in values) or len(set(values)) < len(values):
        kind = "whole numbers above 0, such as 4,16" if whole else "numbers above 0, such as 1e-4,1e-3"
        raise DudeError(f"{option}: {text!r}: write {kind}, each once.")
    return values


def _show_candidates(tuner: Tuner) -> None:
    out, settings = console(), tuner.settings
    rows = ", ".join(row.name for row in tuner.grid.rows)
    rates = sorted({one.learning_rate for one in tuner.candidates})
    out.print(
        f"{len(tuner.candidates)} candidates: {escape(rows)}; learning rates {', '.join(f'{rate:g}' for rate in rates)}"
    )
    by = f"{tuner.questions:,} validation questions" if tuner.questions else f"{tuner.held_out:,} validation examples"
    out.print(
        f"a complete run has {tuner.steps:,} steps; compared by {tuner.metric}, {by}; {settings.jobs} in parallel, "
        f"{settings.torch_threads} torch threads each"
    )
    out.print(f"folder: {escape(str(tuner.folder.path))}", soft_wrap=True)


def _show_rungs(tuner: Tuner) -> None:
    """Show the measured speed, and what the budget allows."""
    out, state = console(), tuner.state
    cost, evaluation, jobs = tuner.cost(tuner.candidates), tuner.evaluation, tuner.settings.jobs
    each = cost.of(tuner.steps) + evaluation
    out.print(
        f"measured: {cost.step:.2f} s a step, {cost.fixed:.1f} s to load and initialise, {evaluation:.1f} s to evaluate"
    )
    out.print(
        f"all candidates to the end: about {duration(each * len(tuner.candidates) / jobs)}; the budget is "
        f"{duration(tuner.budget)}, {duration(tuner.spent)} are spent"
    )
    rows = table("rung", "candidates", "to step", "about", right=("rung", "candidates", "to step", "about"))
    reached = 0
    for number, rung in enumerate(state.plan, 1):
        time = seconds([rung], tuner.steps, cost, jobs, evaluation, reached)
        rows.add_row(str(number), str(rung.candidates), f"{rung.steps:,}", duration(time))
        reached = rung.steps
    out.print(rows)
    if state.plan and state.plan[-1].steps < tuner.steps:
        out.print(f"{NOTE} the budget is too small to train any candidate to the end: the choice is by training loss")


def _show_dry_run(tuner: Tuner) -> None:
    out, state = console(), tuner.state
    if state.plan:
        _show_rungs(tuner)
        out.print(f"{len(state.done)} of {len(state.plan)} rungs are done" + (f"; {state.ended}" * bool(state.ended)))
    else:
        out.print(
            "The speed is not measured yet: the first minutes train one candidate of each method for a few steps, then "
            "the rungs are shown. Half of the candidates stay from rung to rung; the last two or three are trained to "
            "the end and evaluated, if the budget allows."
        )
    out.print("[dim]Dry run: nothing was written.[/]")


def _show_ranking(tuner: Tuner, ranking: Ranking) -> None:
    out = console()
    names = heads(ranking)
    rows = table(*names, right=tuple(names[2:]))
    for line in cells(ranking):
        rows.add_row(*(escape(cell) for cell in line))
    out.print()
    out.print(rows, soft_wrap=not out.is_terminal)
    for text in sentences(tuner, ranking):
        out.print(escape(text), soft_wrap=not out.is_terminal)
    for row in ranking.rows:
        if row.error:
            out.print(f"{NOTE} {escape(row.candidate.run.title)} failed: {escape(row.error)}", soft_wrap=True)


def _nothing(tuner: Tuner, allowed: float) -> str:
    """Return the error of a tuning in which no rung was finished."""
    errors = [found["error"] for one in tuner.candidates if (found := tuner.folder.failure(one.run))]
    if len(errors) == len(tuner.candidates):
        return f"every candidate failed, the first with: {errors[0]}"
    return (
        f"--budget: {allowed:g} s were used up before all candidates had trained {tuner.state.plan[0].steps} steps. "
        if tuner.state.plan
        else f"--budget: {allowed:g} s were used up before the speed was measured. "
    ) + f"What was trained stays: give --budget {_minutes(3 * allowed)}m with the same folder."
