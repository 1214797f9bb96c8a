"""What an evaluation gives: metrics, per-item samples, and a table of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dude_peft.files import json_values, write_json, write_text

from ..markdown import escape_markdown


@dataclass(frozen=True)
class Metric:
    """One number with what is needed to read it.

    Attributes:
        task: the set, one of its subjects (`mmlu/anatomy`) or an average (`commonsense`).
        metric: `exact_match`, `acc`, `acc_norm` ...
        value: a share between 0 and 1 for accuracies.
        stderr: its standard error over the questions; NaN where there is one question only.
        n: questions.
        shots: worked examples before each question.
        protocol: `generate`, `cloze`, `letter` or `lm_eval`.
        split: the split of the set.
        truncated: requests that were longer than the model's window and lost their beginning.
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
        samples: task -> one dict a question, with `id`, `prompt`, `gold`, `prediction`, `correct` and the scores.
        seconds: wall-clock time of the evaluation.
        headline: the task of `table` that stands for the whole: the only set, or the average over them.
    """

    table: tuple[Metric, ...]
    samples: Mapping[str, Sequence[Mapping[str, Any]]]
    seconds: float
    headline: str

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Task -> `Metric` as a dict, ready for JSON."""
        return {row.task: json_values(asdict(row)) for row in self.table}

    @property
    def accuracy(self) -> float:
        """The headline's value."""
        return next(row.value for row in self.table if row.task == self.headline)

    def markdown(self, *, subjects: bool = False) -> str:
        """A table after lm-evaluation-harness's.

        Args:
            subjects: also the rows of single MMLU subjects.
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
        note = f"\n\n{cut} requests were longer than the model's window and lost their beginning." if cut else ""
        return _markdown(rows) + note

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


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    rows = [[escape_markdown(cell) for cell in row] for row in rows]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    left = {0, 1, 4}
    head, *body = [
        "| "
        + " | ".join(c.ljust(w) if k in left else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True)))
        + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (w + 2) if k in left else "-" * (w + 1) + ":" for k, w in enumerate(widths)) + "|"
    return "\n".join([head, rule, *body])
