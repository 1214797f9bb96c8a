"""The picture of a run: loss, gradient norms, and accuracy or learning rate, against the step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..plot_style import DASHES, SERIES_COLORS, MethodStyle, log_axis, method_style, picture
from ..stats.smoothing import inside, smooth

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NORMS = ("grad_norm", "grad_norm_A", "grad_norm_B", "grad_norm_m")


def draw_curves(records: list[dict[str, Any]], path: Path, method: str, title: str = "") -> None:
    """Draw `curves.jsonl`'s records as a PNG.

    Args:
        records: with `step` and any of `loss`, `grad_norm*`, `learning_rate`, `eval_loss`, `accuracy`.
        path: where the picture goes.
        method: whose colour and marker the curves have.
        title: written above it.
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
    kept = [(r["step"], r[key]) for r in records if r.get(key) is not None]
    return [step for step, _ in kept], [value for _, value in kept]


def _both(axes: Axes, steps: list[int], values: list[float], color: str, label: str, dash: Any = "-") -> None:
    """Draw every value as a pale line and the running mean over it, if there are enough values for one."""
    part = inside(len(values))
    if part.start == 0:
        axes.plot(steps, values, color=color, label=label, linewidth=1.5, linestyle=dash)
        return
    axes.plot(steps, values, color=color, alpha=0.22, linewidth=0.8)
    axes.plot(steps[part], smooth(values)[part], color=color, label=label, linewidth=1.7, linestyle=dash)


def _loss(axes: Axes, records: list[dict[str, Any]], style: MethodStyle) -> None:
    _both(axes, *_series(records, "loss"), style.color, "training")
    steps, values = _series(records, "eval_loss")
    if steps:
        line = "-" if len(steps) > 2 else "none"  # a line between start and end alone would say what nobody measured
        axes.plot(
            steps, values, color=style.color, marker=style.marker, markersize=5.5, markerfacecolor="white",
            linestyle=line, linewidth=1, label="validation", zorder=5,
        )  # fmt: skip
        axes.legend()
    axes.set_title("Loss (nats per token)")


def _norms(axes: Axes, records: list[dict[str, Any]], style: MethodStyle) -> None:
    drawn = 0
    for key, color, dash in zip(NORMS, (style.color, *SERIES_COLORS), DASHES, strict=False):
        steps, values = _series(records, key)
        kept = [(s, v) for s, v in zip(steps, values, strict=True) if v > 0]  # the axis is logarithmic
        if kept:
            _both(axes, [s for s, _ in kept], [v for _, v in kept], color, key[len("grad_norm_") :] or "all", dash)
            drawn += 1
    if drawn:
        axes.set_yscale("log")
        log_axis(axes.yaxis, 1, 2, 5)
    if drawn > 1:
        axes.legend(ncols=drawn, loc="upper right", columnspacing=1.0, handlelength=1.2)
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.12)  # room for the legend
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
        axes.annotate(f"{100 * value:.1f}", (step, 100 * value), away, textcoords="offset points", ha=side)
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.12 * (high - low), high + 0.12 * (high - low))
    what = next(r["eval"] for r in reversed(records) if r.get("eval"))
    axes.set_title(f"Accuracy on {what} (%)")


def _learning_rate(axes: Axes, records: list[dict[str, Any]], style: MethodStyle) -> None:
    steps, values = _series(records, "learning_rate")
    axes.plot(steps, values, color=style.color, linewidth=1.7)
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.set_title("Learning rate")
