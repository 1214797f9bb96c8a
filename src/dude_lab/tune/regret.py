"""What `dude tune` loses: its choice against the best of a full sweep, replayed on the runs of a finished sweep.

    python -m dude_lab.tune.regret studies/mini/parts/gpqa ... -o studies/tune

A sweep is the searches of a comparison: each candidate trained to the end and evaluated. The rungs of a tuning are
steps of the same runs, so its choice at any budget follows from the training losses and the metrics of the sweep, and
no run is repeated. A budget is a share of the sweep's time: training and evaluation, without loading the model.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from dude_peft.errors import DudeError
from dude_peft.files import json_values, write_json, write_text

from ..compare.comparison_folder import ComparisonFolder, find_comparison
from ..compare.outcome import difference
from ..compare.results import RowResult
from ..compare.run_store import Run
from ..text import percent
from .halving import Cost, careful_choice, plan_rungs, promoted, recent_loss, shortest_rung

SHARES = (0.05, 0.10, 0.25)
SCHEMA = 1  # of regret.json
BEGIN, END = "<!-- summary -->", "<!-- end of summary -->"  # in the README: the table between them is replaced
KINDS = ("rate, method and rank", "rate and method", "rate")
METHODS = ("lora", "dora", "pissa", "dude")  # full fine-tuning has other rates, and other times


@dataclass(frozen=True)
class Swept:
    """A candidate of a sweep, trained to the end.

    Attributes:
        row: name of its row: method and rank.
        method, r, learning_rate: what it is.
        value: accuracy, or minus the validation loss; higher is better.
        losses: step -> training loss.
        train_seconds, eval_seconds: what it took.
        run: the finished run.
    """

    row: str
    method: str
    r: int | None
    learning_rate: float
    value: float
    losses: dict[int, float | None]
    train_seconds: float
    eval_seconds: float
    run: Run

    @property
    def title(self) -> str:
        """Its name in tables."""
        return f"{self.row} {self.learning_rate:g}"


@dataclass(frozen=True)
class Sweep:
    """The candidates of a sweep, with what they share."""

    name: str
    model: str
    data: str
    metric: str
    steps: int
    warmup: float
    swept: tuple[Swept, ...]

    @property
    def seconds(self) -> float:
        """Time of the sweep."""
        return sum(one.train_seconds + one.eval_seconds for one in self.swept)


def read_sweep(folder: ComparisonFolder, methods: Sequence[str] = METHODS) -> Sweep:
    """Return the finished searches of a comparison.

    Raises:
        DudeError: there is none, or one is missing.
    """
    grid = folder.grid()
    made, model, data, steps, warmup, metric = [], "", "", 0, 0.0, ""
    for row in grid.rows:
        for rate, planned in zip(row.learning_rates, grid.searches(row), strict=False):
            if row.method.name not in methods:
                continue
            run = folder.finished(planned)
            if run is None:
                raise DudeError(f"{folder.path}: the search run {planned.name} is not finished.")
            losses = {one["step"]: one["loss"] for one in run.curves() if "loss" in one}
            loss, found = run.validation_loss, run.accuracy
            value = found if found is not None else -math.inf if loss is None else -loss
            cost = run.record["cost"]
            made.append(
                Swept(row.name, row.method.name, row.r, rate, value, losses, cost["train_seconds"],
                      cost["eval_seconds"], run)
            )  # fmt: skip
            data = planned.settings.data.name or str(planned.settings.data.train or planned.settings.data.hub)
            model = planned.settings.model.name.rstrip("/").rsplit("/", 1)[-1]
            steps, warmup = run.record["training"]["steps"], planned.settings.train.warmup
            metric = "accuracy" if found is not None else "validation loss"
    if not made:
        raise DudeError(f"{folder.path}: no searches over learning rates here. Give a comparison with several.")
    return Sweep(folder.path.resolve().name, model, data, metric, steps, warmup, tuple(made))


def replay(sweep: Sweep, among: Sequence[Swept], share: float) -> tuple[Swept, list[tuple[int, int]]] | None:
    """Return what a tuning chooses within a share of the sweep's time, and its rungs; None if it is too little."""
    budget = share * sum(one.train_seconds + one.eval_seconds for one in among)
    cost = Cost(0.0, fmean(one.train_seconds for one in among) / sweep.steps)
    evaluation = fmean(one.eval_seconds for one in among)
    first = shortest_rung(sweep.steps, sweep.warmup)
    rungs = plan_rungs(len(among), sweep.steps, cost, budget, first=first, evaluation=evaluation)
    if not rungs:
        return None
    alive = list(among)
    for number, rung in enumerate(rungs):
        if number:
            values = {k: recent_loss(one.losses, rungs[number - 1].steps) for k, one in enumerate(alive)}
            alive = [alive[k] for k in promoted(values, rung.candidates)]
    last = rungs[-1].steps
    if last >= sweep.steps:
        choice = max(alive, key=lambda one: one.value)
    else:
        losses = {k: recent_loss(one.losses, last) for k, one in enumerate(alive)}
        choice = alive[careful_choice(losses, {k: one.learning_rate for k, one in enumerate(alive)})]
    return choice, [(rung.steps, rung.candidates) for rung in rungs]


@dataclass(frozen=True)
class Task:
    """Something to choose: among so many candidates of a sweep."""

    kind: str
    what: str
    sweep: Sweep
    among: tuple[Swept, ...]


def tasks(sweep: Sweep) -> list[Task]:
    """Return the choices that a sweep is a test of: all of it, the methods at each rank, the rate of each row."""
    rows = list(dict.fromkeys(one.row for one in sweep.swept))
    ranks = list(dict.fromkeys(one.r for one in sweep.swept))
    made = []
    if len(ranks) > 1:
        made.append(Task(KINDS[0], KINDS[0], sweep, sweep.swept))
    if len(rows) > len(ranks):
        made += [
            Task(KINDS[1], f"{KINDS[1]}, r={r}", sweep, tuple(one for one in sweep.swept if one.r == r)) for r in ranks
        ]
    made += [
        Task(KINDS[2], f"{KINDS[2]}, {row}", sweep, tuple(one for one in sweep.swept if one.row == row)) for row in rows
    ]
    return made


def measure(sweep: Sweep, shares: Sequence[float] = SHARES) -> list[dict[str, Any]]:
    """Return for each task and share what was chosen, the best of the sweep, and the regret."""
    made = []
    for task in tasks(sweep):
        best = max(task.among, key=lambda one: one.value)
        for share in shares:
            found = replay(sweep, task.among, share)
            row: dict[str, Any] = {"sweep": sweep.name, "model": sweep.model, "data": sweep.data}
            row |= {"metric": sweep.metric, "kind": task.kind, "task": task.what}
            row |= {"candidates": len(task.among), "steps": sweep.steps, "share": share}
            row |= {"best": best.title, "best_value": abs(best.value)}
            row |= {"at_random": fmean(best.value - one.value for one in task.among)}
            if found is not None:
                choice, rungs = found
                row |= {"choice": choice.title, "value": abs(choice.value), "regret": best.value - choice.value}
                row |= {"rungs": rungs, "evaluated": rungs[-1][0] >= sweep.steps, "p": _p(best, choice)}
            made.append(row)
    return made


def _p(best: Swept, choice: Swept) -> float | None:
    """Return the p-value of the best's accuracy over the choice's, paired by question; None without answers."""
    if best is choice or best.run.accuracy is None:
        return None
    found = difference(*(RowResult("", "", None, None, (one.run,)) for one in (best, choice)))
    return None if found is None else found.p


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """Return the mean and largest regret of each kind of choice as a table."""
    shares = sorted({row["share"] for row in rows})
    columns = " | ".join(f"{100 * share:g}% of the sweep" for share in shares)
    lines = [
        f"| model | to choose | metric | n | a candidate at random | {columns} |",
        "|---|---|---|---:|---:|" + "---:|" * len(shares),
    ]
    for model, kind, metric in itertools.product(_values(rows, "model"), KINDS, _values(rows, "metric")):
        some = [row for row in rows if (row["model"], row["kind"], row["metric"]) == (model, kind, metric)]
        if some:
            shown = " | ".join(_summary([row for row in some if row["share"] == share]) for share in shares)
            chance = _regret(some[0], fmean(row["at_random"] for row in some))
            lines.append(f"| {model} | {kind} | {metric} | {len(some) // len(shares)} | {chance} | {shown} |")
    return "\n".join(lines) + "\n"


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the tables of regret."""
    shares = sorted({row["share"] for row in rows})
    lines = [
        summary(rows),
        "Mean regret, in brackets the largest; accuracy in points. -: the budget is too small. *: p < 0.05 (paired "
        "bootstrap over the questions, where their answers are stored).",
        "",
    ]
    columns = " | ".join(f"{100 * share:g}%: choice, regret" for share in shares)
    lines.append(f"| model | data (sweep) | to choose | candidates | best of the sweep | {columns} |")
    lines.append("|---|---|---|---:|---|" + "---|" * len(shares))
    found: dict[tuple[str, ...], dict[float, dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["model"], row["sweep"], row["task"]), {})[row["share"]] = row
    for (model, sweep, task), here in found.items():
        first = here[shares[0]]
        best = f"{first['best']}: {_value(first, 'best_value')}"
        shown = " | ".join(_cell(here[share]) for share in shares)
        lines.append(f"| {model} | {first['data']} ({sweep}) | {task} | {first['candidates']} | {best} | {shown} |")
    return "\n".join(lines) + "\n"


def _values(rows: Sequence[dict[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))


def _value(row: dict[str, Any], key: str) -> str:
    return f"{percent(row[key])}%" if row["metric"] == "accuracy" else f"{row[key]:.3f}"


def _regret(row: dict[str, Any], value: float) -> str:
    return percent(value) if row["metric"] == "accuracy" else f"{value:.3f}"


def _cell(row: dict[str, Any]) -> str:
    if "choice" not in row:
        return "-"
    mark = "" if row["evaluated"] else " (by training loss)"
    sure = "" if row["p"] is None or row["p"] >= 0.05 else " *"
    return f"{row['choice']}, {_regret(row, row['regret'])}{sure}{mark}"


def _summary(rows: Sequence[dict[str, Any]]) -> str:
    known = [row["regret"] for row in rows if "regret" in row]
    if not known:
        return "-"
    text = f"{_regret(rows[0], fmean(known))} ({_regret(rows[0], max(known))})"
    return text + (f", {len(rows) - len(known)} too small" if len(known) < len(rows) else "")


def main(arguments: Iterable[str] | None = None) -> None:
    """Measure the regret on comparisons; write `regret.json` and `regret.md`, and the summary into a `README.md`."""
    parser = argparse.ArgumentParser(prog="python -m dude_lab.tune.regret", description=__doc__)
    parser.add_argument("comparisons", nargs="+", type=Path, help="folders of comparisons with searches")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--methods", default=",".join(METHODS))
    given = parser.parse_args(None if arguments is None else list(arguments))
    rows: list[dict[str, Any]] = []
    for path in given.comparisons:
        folder = find_comparison(path)
        if folder is None:
            raise SystemExit(f"{path}: no comparison here.")
        rows += measure(read_sweep(folder, given.methods.split(",")))
    given.output.mkdir(parents=True, exist_ok=True)
    write_json(given.output / "regret.json", json_values({"schema": SCHEMA, "rows": rows}))
    write_text(given.output / "regret.md", markdown(rows))
    readme = given.output / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    before, begin, rest = text.partition(BEGIN)
    if begin and END in rest:
        write_text(readme, f"{before}{BEGIN}\n\n{summary(rows)}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
