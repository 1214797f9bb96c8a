"""The result of a tuning: candidates in order, intervals of their differences from the choice, and the YAML to run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dude_peft.files import json_values, read_json, write_json, write_text

from ..compare.outcome import accuracy, difference
from ..compare.results import RowResult
from ..compare.run_store import Run
from ..config.yaml_file import json_copy
from ..config.yaml_reader import dump_yaml
from ..stats.intervals import Interval, t_interval
from ..text import escape_markdown, percent
from ..training.run_folder import VALIDATION_LOSSES, RunFolder
from .halving import TOLERANCE, careful_choice, recent
from .tuning import Candidate, Tuner

SCHEMA = 1  # of ranking.json
LOSS, ACCURACY, TRAINING_LOSS = "validation loss", "accuracy", "training loss"
CLEAR = 0.05  # p-value below which a candidate is worse than the choice


@dataclass(frozen=True)
class Ranked:
    """A candidate and where it stands.

    Attributes:
        candidate: method, rank and rate.
        steps: the step of the last rung that it reached.
        loss: training loss there, over the last third of the steps.
        loss_difference: that loss minus the choice's at the same step, paired by batch.
        value: accuracy or validation loss of a complete run; None if it was not trained to the end.
        interval: of an accuracy, its own interval; of a loss None.
        difference: `value` minus the choice's, paired by question or by batch.
        error: why it failed; empty if it did not.
    """

    candidate: Candidate
    steps: int
    loss: float
    loss_difference: Interval | None = None
    value: float | None = None
    interval: Interval | None = None
    difference: Interval | None = None
    error: str = ""

    @property
    def worse(self) -> bool | None:
        """Whether it is significantly worse than the choice, by what the choice was made by; None for the choice."""
        found = self.difference if self.value is not None else self.loss_difference
        if found is None:
            return None
        higher_is_better = self.value is not None and self.interval is not None
        return found.p < CLEAR and (found.estimate < 0) == higher_is_better


@dataclass(frozen=True)
class Ranking:
    """The candidates in order, the choice first.

    Attributes:
        rows: all candidates that were trained, best first.
        basis: what the choice was made by: `accuracy`, `validation loss` or `training loss`.
        steps: the step at which it was made.
    """

    rows: tuple[Ranked, ...]
    basis: str
    steps: int

    @property
    def choice(self) -> Candidate:
        """The best candidate."""
        return self.rows[0].candidate

    @property
    def close(self) -> list[Candidate]:
        """The other candidates of the last rung that are not significantly worse than the choice."""
        return [row.candidate for row in self.rows[1:] if row.steps == self.steps and not (row.worse or row.error)]


def rank(tuner: Tuner) -> Ranking | None:
    """Return the ranking by what is finished; None if no candidate has reached the first rung.

    Complete runs are ordered as in the search of `dude compare`: by accuracy, then validation loss, then training loss.
    If none is complete, the choice is `halving.careful_choice` at the last finished rung, and the others are ordered by
    the training loss there.
    """
    done = tuner.rungs
    if not done:
        return None
    steps, names = done[-1]
    complete = [tuner.by_name[name] for name in names if tuner.folder.is_done(tuner.by_name[name].run)]
    evaluated = steps >= tuner.steps and bool(complete)
    reached = {name: step for step, some in done for name in some}
    losses = {name: tuner.loss(tuner.by_name[name], step) for name, step in reached.items()}
    last = [one.name for one in complete] if evaluated else [name for name in names if losses[name] < math.inf]
    if not last:
        return None
    order = sorted(last, key=lambda name: _order(tuner, name, losses) if evaluated else (losses[name],))
    rest = sorted((name for name in reached if name not in last), key=lambda name: (-reached[name], losses[name]))
    if not evaluated:
        first = careful_choice(
            {name: losses[name] for name in order}, {name: tuner.by_name[name].learning_rate for name in order}
        )
        order = [first, *(name for name in order if name != first)]
    choice = tuner.by_name[order[0]]
    rows = [_ranked(tuner, choice, tuner.by_name[name], reached[name], losses[name]) for name in [*order, *rest]]
    return Ranking(tuple(rows), tuner.metric if evaluated else TRAINING_LOSS, steps)


def _order(tuner: Tuner, name: str, losses: dict[str, float]) -> tuple[float, ...]:
    after = _run(tuner, tuner.by_name[name]).after
    found, loss = after.get("accuracy"), after.get("validation_loss")
    worst = math.inf
    return (worst if found is None else -found, worst if loss is None else loss, losses[name])


def _run(tuner: Tuner, candidate: Candidate) -> Run:
    found = tuner.folder.finished(candidate.run)
    assert found is not None
    return found


def _ranked(tuner: Tuner, choice: Candidate, one: Candidate, steps: int, loss: float) -> Ranked:
    error = (tuner.folder.failure(one.run) or {}).get("error", "")
    mine, best = recent(tuner.losses(one), steps), recent(tuner.losses(choice), steps)
    pairs = [mine[step] - best[step] for step in mine if step in best]
    by_batch = t_interval(pairs) if one is not choice and len(pairs) > 1 and not error else None
    made = Ranked(one, steps, loss, by_batch, error=error)
    if not (tuner.folder.is_done(one.run) and tuner.folder.is_done(choice.run)):
        return made
    run, other = _run(tuner, one), _run(tuner, choice)
    if run.accuracy is not None:
        rows = [RowResult("", "", None, None, (each,)) for each in (run, other)]
        found = difference(*rows) if one is not choice else None
        return Ranked(one, steps, loss, by_batch, run.accuracy, accuracy([run]), found, error)
    value = run.validation_loss
    left, right = (_validation_losses(tuner, each) for each in (one, choice))
    gap = [a - b for a, b in zip(left, right, strict=True)] if len(left) == len(right) else []
    found = t_interval(gap) if len(gap) > 1 and one is not choice else None
    return Ranked(one, steps, loss, by_batch, value, None, found, error)


def _validation_losses(tuner: Tuner, one: Candidate) -> list[float]:
    """Return the loss of each validation batch; empty if it is not stored, as in a packed study."""
    path = RunFolder(tuner.folder.runs / one.name).evaluations / "after" / VALIDATION_LOSSES
    return [float(loss) for loss in read_json(path, "Remove it.")["losses"]] if path.is_file() else []


def sentences(tuner: Tuner, ranking: Ranking) -> list[str]:
    """Return the outcome in words: the choice, how sure it is, and what to be careful about."""
    one, first = ranking.choice, ranking.rows[0]
    name = f"{one.row.name}, learning rate {one.learning_rate:g}"
    if ranking.basis == TRAINING_LOSS:
        made = [f"Best: {name}, by the training loss ({first.loss:.4f}) after {ranking.steps:,} of {tuner.steps:,} "
                f"steps: the smallest rate within {TOLERANCE:.0%} of the lowest. It was not trained to the end or "
                f"evaluated: {tuner.state.ended}."]  # fmt: skip
    else:
        shown = f"{percent(first.value)}%" if ranking.basis == ACCURACY else f"{first.value:.4f}"
        made = [f"Best: {name}, {ranking.basis} {shown} after {ranking.steps:,} steps."]
    others = [row for row in ranking.rows[1:] if row.steps == ranking.steps and not row.error]
    if others:
        close = [f"{row.row.name} {row.learning_rate:g}" for row in ranking.close]
        text = f"Significantly worse (p < 0.05 each, without correction): {len(others) - len(close)} of the other "
        text += f"{len(others)} of the last rung."
        made.append(text + (f" Not significantly: {', '.join(close)}." if close else ""))
    rates = one.row.learning_rates
    if len(rates) > 1 and one.learning_rate in (min(rates), max(rates)):
        end = "smallest" if one.learning_rate == min(rates) else "largest"
        made.append(f"It is the {end} rate tried, so a better one may lie beyond: give more with --rates.")
    if len(ranking.rows) < len(tuner.candidates):
        made.append(f"{len(tuner.candidates) - len(ranking.rows)} of {len(tuner.candidates)} candidates were "
                    "not reached within the budget.")  # fmt: skip
    made.append("One seed: the intervals say nothing about other seeds.")
    return made


def heads(ranking: Ranking) -> list[str]:
    """Return the heads of the columns."""
    more = [] if ranking.basis == TRAINING_LOSS else [ranking.basis, "from the choice [95%]"]
    return ["", "method", "r", "learning rate", "steps", "training loss", "from the choice [95%]", *more]


def cells(ranking: Ranking) -> list[list[str]]:
    """Return the cells of the ranking, one list for each candidate."""
    made = []
    for number, row in enumerate(ranking.rows, 1):
        one = row.candidate
        line = [str(number), one.row.label, "-" if one.row.r is None else str(one.row.r), f"{one.learning_rate:g}"]
        line += [f"{row.steps:,}", "failed" if row.error else f"{row.loss:.4f}"]
        line.append(_interval(row.loss_difference, share=False))
        if ranking.basis != TRAINING_LOSS:
            share = ranking.basis == ACCURACY
            own = "" if row.value is None else f"{percent(row.value)}%" if share else f"{row.value:.4f}"
            line += [own, _interval(row.difference, share=share)]
        made.append(line)
    return made


def _interval(found: Interval | None, *, share: bool) -> str:
    if found is None:
        return ""
    ends = (found.estimate, found.low, found.high)
    return "{} [{}, {}]".format(*(percent(value, "+") if share else f"{value:+.3f}" for value in ends))


def best_yaml(tuner: Tuner, choice: Candidate) -> str:
    """Return the YAML of the run with the chosen method, rank and rate, for `dude train`."""
    raw = json_copy(tuner.made.run)
    raw["method"] = choice.row.method.model_dump(mode="json", exclude_unset=True)
    raw["train"] = {**(raw.get("train") or {}), "learning_rate": choice.learning_rate}
    raw["output"] = str(tuner.made.output)
    keys = [key for key in ("model", "method", "data", "train", "eval", "output") if key in raw]
    return f"# Written by `dude tune`.\n{dump_yaml({key: raw[key] for key in keys})}"


def write_ranking(tuner: Tuner, ranking: Ranking) -> list[Path]:
    """Write `best.yaml`, `tune.md`, `ranking.json` and the picture into the folder of the tuning; return the paths."""
    from .tune_plot import draw

    folder = tuner.folder.path
    files = [folder / name for name in ("best.yaml", "tune.md", "tune.png", "tune.svg", "ranking.json")]
    write_text(files[0], best_yaml(tuner, ranking.choice))
    write_text(files[1], markdown(tuner, ranking))
    draw(tuner, ranking, files[2], files[3])
    write_json(files[4], json_values(payload(tuner, ranking)))
    return files


def markdown(tuner: Tuner, ranking: Ranking) -> str:
    """Return the ranking as Markdown."""
    names = heads(ranking)
    lines = ["# Tuning", "", *(f"- {escape_markdown(text)}" for text in sentences(tuner, ranking)), ""]
    lines += ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(escape_markdown(cell) for cell in row) + " |" for row in cells(ranking)]
    lines += ["", f"Rungs: {rungs_text(tuner.rungs)}. Seconds: {tuner.spent:.0f} of {tuner.budget:.0f}.", ""]
    lines += ["Training loss: the mean over the last third of the steps so far, on the same batches for all.", ""]
    return "\n".join(lines) + "![Learning rates](tune.png)\n"


def rungs_text(done: Sequence[tuple[int, Sequence[str]]]) -> str:
    """Return the finished rungs in words."""
    return ", ".join(f"{len(names)} candidates to step {steps:,}" for steps, names in done) or "none"


def payload(tuner: Tuner, ranking: Ranking) -> dict[str, Any]:
    """Return the ranking as JSON values."""

    def of(found: Interval | None) -> dict[str, float] | None:
        if found is None:
            return None
        return {"estimate": found.estimate, "low": found.low, "high": found.high, "p": found.p}

    rows = [
        {
            "run": row.candidate.name,
            "method": row.candidate.row.method.name,
            "r": row.candidate.row.r,
            "learning_rate": row.candidate.learning_rate,
            "steps": row.steps,
            "training_loss": row.loss if np.isfinite(row.loss) else None,
            "training_loss_difference": of(row.loss_difference),
            "value": row.value,
            "interval": of(row.interval),
            "difference": of(row.difference),
            "error": row.error or None,
        }
        for row in ranking.rows
    ]
    return {"schema": SCHEMA, "basis": ranking.basis, "steps": ranking.steps, "rows": rows}
