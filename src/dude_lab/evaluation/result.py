"""The result of an evaluation: metrics and their averages, samples, and a table."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dude_peft.files import json_values, write_json, write_text

from ..text import aligned_table

if TYPE_CHECKING:
    from .tasks import Unit


@dataclass(frozen=True)
class Metric:
    """One metric of a task, and how it was measured.

    Attributes:
        task: the set, one of its subjects (`mmlu/anatomy`) or an average (`commonsense`).
        metric: `exact_match`, `acc`, `acc_norm` ...
        value: the value; accuracies are between 0 and 1.
        stderr: its standard error over the questions; NaN where there is one question only.
        n: questions.
        shots: few-shot examples before each question.
        protocol: `generate`, `cloze`, `letter` or `lm_eval`.
        split: the split of the set.
        truncated: requests longer than the model's context, whose beginning was cut off.
        other: the remaining metrics of the task: name -> {"value", "stderr"}.
    """

    task: str
    metric: str
    value: float
    stderr: float
    n: int
    shots: int
    protocol: str
    split: str
    truncated: int = 0
    other: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class EvalResult:
    """Metrics and samples of one evaluation.

    Attributes:
        table: every metric, in the order of the table; averages come after what they average.
        samples: task -> one dict per question, with `id`, `prompt`, `gold`, `prediction`, `correct` and the scores.
        seconds: wall-clock time of the evaluation.
        headline: the task of `table` for the overall result: the only data set, or the average.
    """

    table: tuple[Metric, ...]
    samples: Mapping[str, Sequence[Mapping[str, Any]]]
    seconds: float
    headline: str

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Task -> `Metric` as a dict for JSON."""
        return {row.task: json_values(asdict(row)) for row in self.table}

    @property
    def accuracy(self) -> float:
        """Value of the headline."""
        return next(row.value for row in self.table if row.task == self.headline)

    def markdown(self, *, subjects: bool = False) -> str:
        """Return the table, in the format of lm-evaluation-harness.

        Args:
            subjects: include the rows of single MMLU subjects.
        """
        rows = [["Task", "Protocol", "Shots", "n", "Metric", "Value", "", "Stderr"]]
        for row in self.table:
            if "/" in row.task and not subjects:
                continue
            lines = [(row.metric, row.value, row.stderr)]
            lines += [(name, one["value"], one["stderr"]) for name, one in row.other.items()]
            for k, (metric, value, stderr) in enumerate(lines):
                head = [row.task, row.protocol, str(row.shots), str(row.n)] if k == 0 else [""] * 4
                error = "-" if math.isnan(stderr) else f"{stderr:.4f}"
                rows.append([*head, metric, f"{value:.4f}", "±", error])
        cut = sum(row.truncated for row in self.table if "/" not in row.task)
        note = f"\n\n{cut} requests were longer than the model's context and lost their beginning." if cut else ""
        return aligned_table(rows, left=(0, 1, 4)) + note

    def write(self, folder: str | Path) -> list[Path]:
        """Write `metrics.json`, `metrics.md` and `samples/<task>.jsonl` under `folder`; returns the files."""
        folder = Path(folder)
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        payload = {"headline": self.headline, "seconds": self.seconds, "metrics": self.metrics}
        files = [folder / "metrics.json", folder / "metrics.md"]
        write_json(files[0], payload)
        write_text(files[1], self.markdown(subjects=True) + "\n")
        for task, items in self.samples.items():
            path = folder / "samples" / f"{task.replace('/', '__').replace(':', '__')}.jsonl"
            lines = (json.dumps(json_values(dict(item)), ensure_ascii=False, allow_nan=False) for item in items)
            write_text(path, "".join(line + "\n" for line in lines))
            files.append(path)
        return files


def with_averages(rows: Sequence[Metric], units: Sequence[Unit], suite: str) -> tuple[list[Metric], str]:
    """Return the metrics of the tasks with their averages, and the name of the headline.

    Before the subjects of a set come the mean over its subjects (the average of the DuDe paper), the mean weighted by
    questions (lm-evaluation-harness's `mmlu`), and the mean over the subjects of each group. The unweighted mean of
    several sets, called `suite`, comes last.

    Args:
        rows: one metric for each unit.
        units: the tasks.
        suite: name of the mean over the sets.
    """
    table: list[Metric] = []
    heads: list[Metric] = []
    for name in dict.fromkeys(unit.set_name for unit in units):
        mine = [(row, unit) for row, unit in zip(rows, units, strict=True) if unit.set_name == name]
        parts = [row for row, _ in mine]
        if len(parts) == 1 and parts[0].task == name:
            table += parts
            heads += parts
            continue
        head = _mean(name, parts, lambda _: 1.0)
        table += [head, _mean(f"{name}_weighted", parts, lambda row: row.n)]
        for group in dict.fromkeys(unit.group for _, unit in mine if unit.group):
            table.append(_mean(f"{name}_{group}", [row for row, unit in mine if unit.group == group], lambda _: 1.0))
        table += parts
        heads.append(head)
    if len(heads) == 1:
        return table, heads[0].task
    return [*table, _mean(suite, heads, lambda _: 1.0)], suite


def _mean(name: str, rows: Sequence[Metric], weight: Callable[[Metric], float]) -> Metric:
    """Return the weighted mean of `rows`, with the standard error for independent rows."""
    weights = [weight(row) for row in rows]
    total = sum(weights)

    def one(of: Callable[[Metric], float]) -> float:
        return sum(w * of(row) for w, row in zip(weights, rows, strict=True)) / total

    return Metric(
        task=name,
        metric=_same([row.metric for row in rows], "average"),
        value=one(lambda row: row.value),
        stderr=math.sqrt(sum((w * row.stderr) ** 2 for w, row in zip(weights, rows, strict=True))) / total,
        n=sum(row.n for row in rows),
        shots=max(row.shots for row in rows),
        protocol=_same([row.protocol for row in rows]),
        split=_same([row.split for row in rows]),
        truncated=sum(row.truncated for row in rows),
    )


def _same(values: Sequence[str], mixed: str = "mixed") -> str:
    return values[0] if len(set(values)) == 1 else mixed
