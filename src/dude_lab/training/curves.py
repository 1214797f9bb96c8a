"""The curves of a run: `curves.jsonl`, written while it trains, and its picture. Imports no trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dude_peft.errors import DudeError
from dude_peft.files import refuse_constant, sync, write_text

from ..plot_style import DASHES, SERIES_COLORS, MethodStyle, log_axis, loss_axis, method_style, picture
from ..stats.smoothing import inside, smooth
from ..text import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NORMS = ("grad_norm", "grad_norm_A", "grad_norm_B", "grad_norm_m")
REMEDY = "Restore it from a copy, or remove it; then the run has no curves."


class Curves:
    """`curves.jsonl`: one JSON object per line, each with its `step`."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path, self.writes = path, writes  # of several processes only the first one writes

    def read(self) -> list[dict[str, Any]]:
        """Return all records, without an incomplete last line.

        Raises:
            DudeError: the file is not UTF-8, or a line is not a JSON object with numbers and a step.
        """
        if not self.path.is_file():
            return []
        try:
            lines = self.path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DudeError(f"{self.path}: cannot be read ({error}). {REMEDY}") from None
        return [self._record(number, line) for number, line in enumerate(lines[:-1], 1)]

    def _record(self, number: int, line: str) -> dict[str, Any]:
        try:
            record = json.loads(line, parse_constant=refuse_constant)
        except (ValueError, RecursionError) as error:
            raise DudeError(f"{self.path}:{number}: not JSON ({error}). {REMEDY}") from None
        if not isinstance(record, dict) or type(record.get("step")) is not int:
            raise DudeError(f"{self.path}:{number}: not an object with a step: {line[:80]!r}. {REMEDY}")
        for key, value in record.items():
            if key != "eval" and value is not None and type(value) not in (int, float):
                raise DudeError(f"{self.path}:{number}: '{key}' is not a number: {str(value)[:80]!r}. {REMEDY}")
        return record

    def save_to(self, checkpoint: Path) -> None:
        """Copy the file into a checkpoint."""
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        write_text(checkpoint / self.path.name, text)

    def restore(self, checkpoint: Path | None, step: int = -1) -> None:
        """Restore the file as it was at a checkpoint; empty if None.

        A checkpoint of version 0.1.0 has no copy: then everything after `step` is removed.
        """
        if not self.writes:
            return
        copy = checkpoint / self.path.name if checkpoint is not None else None
        if copy is not None and copy.is_file():
            write_text(self.path, copy.read_text(encoding="utf-8"))
            return
        records = [r for r in self.read() if r["step"] <= step] if checkpoint is not None else []
        write_text(self.path, "".join(json.dumps(r) + "\n" for r in records))

    def append(self, record: dict[str, Any], *, before_loss: bool = False) -> None:
        """Append one record and close the file.

        Args:
            record: with its `step`.
            before_loss: insert it before the loss of its step if that is the last record.
        """
        if not self.writes:
            return
        line = json.dumps(record, allow_nan=False) + "\n"
        records = self.read() if before_loss else []
        if records and records[-1]["step"] == record["step"] and "loss" in records[-1]:
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(self.path, "".join([*lines[:-1], line, lines[-1]]))
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)

    def sync(self) -> None:
        """Flush the file to disk."""
        if self.path.is_file():
            sync(self.path)


def draw_curves(records: list[dict[str, Any]], path: Path, method: str, title: str = "") -> None:
    """Draw the records of `curves.jsonl` as a PNG.

    Args:
        records: with `step` and any of `loss`, `grad_norm*`, `learning_rate`, `eval_loss`, `accuracy`.
        path: where the picture goes.
        method: whose colour and marker the curves have.
        title: title of the picture.
    """
    style = method_style(method)
    with picture(path, size=(11, 3.4)) as figure:
        loss, norm, third = figure.subplots(1, 3)
        _loss(loss, records, style)
        _norms(norm, records, style)
        if any(r.get("accuracy") is not None for r in records):
            _accuracy(third, records, style)
        else:
            _learning_rate(third, records, style)
        for axes in (loss, norm, third):
            axes.set_xlabel("step")
            axes.margins(x=0.02)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")


def _series(records: list[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    points = [(r["step"], r[key]) for r in records if r.get(key) is not None]
    return [step for step, _ in points], [value for _, value in points]


def _both(
    axes: Axes, steps: list[int], values: list[float], color: str, label: str, dash: Any = "-", from_start: bool = False
) -> None:
    """Draw every value as a pale line and the running mean over it, if there are enough values for one.

    With `from_start` the mean begins at the first step, with a smaller window.
    """
    part = inside(len(values))
    if part.start == 0:
        axes.plot(steps, values, color=color, label=label, linewidth=1.5, linestyle=dash)
        return
    part = slice(0, part.stop) if from_start else part
    axes.plot(steps, values, color=color, alpha=0.22, linewidth=0.8)
    axes.plot(steps[part], smooth(values)[part], color=color, label=label, linewidth=1.7, linestyle=dash)


def _loss(axes: Axes, records: list[dict[str, Any]], style: MethodStyle) -> None:
    _both(axes, *_series(records, "loss"), style.color, "training", from_start=True)
    steps, values = _series(records, "eval_loss")
    if steps:
        line = (
            "-" if len(steps) > 2 else "none"
        )  # a line between first and last alone would suggest values between them
        axes.plot(
            steps, values, color=style.color, marker=style.marker, markersize=5.5, markerfacecolor="white",
            linestyle=line, linewidth=1, label="validation", zorder=5,
        )  # fmt: skip
        axes.legend()
    loss_axis(axes)
    axes.set_title("Loss (nats per token)")


def _norms(axes: Axes, records: list[dict[str, Any]], style: MethodStyle) -> None:
    drawn = 0
    for key, color, dash in zip(NORMS, (style.color, *SERIES_COLORS), DASHES, strict=False):
        steps, values = _series(records, key)
        positive = [(s, v) for s, v in zip(steps, values, strict=True) if v > 0]  # the axis is logarithmic
        if positive:
            _both(
                axes, [s for s, _ in positive], [v for _, v in positive], color, key[len("grad_norm_") :] or "all", dash
            )
            drawn += 1
    if drawn:
        axes.set_yscale("log")
        log_axis(axes.yaxis, 1, 2, 5)
    if drawn > 1:
        axes.legend(ncols=drawn, loc="upper right", columnspacing=1.0, handlelength=1.2)
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.12)  # space for the legend
    axes.set_title("Gradient norm before clipping")


def _accuracy(axes: Axes, records: list[dict[str, Any]], style: MethodStyle) -> None:
    steps, values = _series(records, "accuracy")
    axes.plot(
        steps, [100 * v for v in values], color=style.color, marker=style.marker, markersize=5.5, linewidth=1.5,
        clip_on=False,
    )  # fmt: skip
    rises = values[-1] >= values[0]
    for step, value, side, above in (
        (steps[0], values[0], "left", not rises),
        (steps[-1], values[-1], "right", True),
    ):
        away = (0, 7 if above else -15)
        axes.annotate(percent(value), (step, 100 * value), away, textcoords="offset points", ha=side)
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.12 * (high - low), high + 0.12 * (high - low))
    what = next(r["eval"] for r in reversed(records) if r.get("eval"))
    axes.set_title(f"Accuracy on {what} (%)")


def _learning_rate(axes: Axes, records: list[dict[str, Any]], style: MethodStyle) -> None:
    steps, values = _series(records, "learning_rate")
    axes.plot(steps, values, color=style.color, linewidth=1.7)
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.set_title("Learning rate")
