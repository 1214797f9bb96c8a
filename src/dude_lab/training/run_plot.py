"""The picture of a run: loss, gradient norms, and accuracy or learning rate, against the step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours: told apart by colour-blind readers and in grey.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8A8A8A"
NORMS = (
    ("grad_norm", "all", GREY),
    ("grad_norm_A", "A", BLUE),
    ("grad_norm_B", "B", ORANGE),
    ("grad_norm_m", "m", GREEN),
)
STYLE = {
    "font.size": 9.5,
    "text.parse_math": False,  # a dollar sign in a label is one
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def draw_curves(records: list[dict[str, Any]], path: Path, title: str = "") -> None:
    """Draw `curves.jsonl`'s records as a PNG.

    Args:
        records: with `step` and any of `loss`, `grad_norm*`, `learning_rate`, `eval_loss`, `accuracy`.
        path: where the picture goes.
        title: written above it.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(11, 3.4), layout="constrained")
        loss, norm, third = figure.subplots(1, 3)
        _loss(loss, records)
        _norms(norm, records)
        if any(r.get("accuracy") is not None for r in records):
            _accuracy(third, records)
        else:
            _learning_rate(third, records)
        for axes in (loss, norm, third):
            axes.set_xlabel("step")
            axes.margins(x=0.02)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        figure.savefig(path, dpi=150)


def smooth(values: list[float], window: int) -> list[float]:
    """Centred running mean; at the ends the window is cut, so nothing is shifted and nothing is made up."""
    half = window // 2
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    result = []
    for i in range(len(values)):
        reach = min(half, i, len(values) - 1 - i)
        result.append((sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1))
    return result


def _series(records: list[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    kept = [(r["step"], r[key]) for r in records if r.get(key) is not None]
    return [step for step, _ in kept], [value for _, value in kept]


def _both(axes: Axes, steps: list[int], values: list[float], color: str, label: str) -> None:
    """Every value in a pale line and the running mean over it, where there are enough to need one."""
    window = max(1, len(values) // 20)
    if window < 3:
        axes.plot(steps, values, color=color, label=label, linewidth=1.5)
        return
    axes.plot(steps, values, color=color, alpha=0.22, linewidth=0.8)
    axes.plot(steps, smooth(values, window), color=color, label=label, linewidth=1.7)


def _loss(axes: Axes, records: list[dict[str, Any]]) -> None:
    _both(axes, *_series(records, "loss"), BLUE, "training")
    steps, values = _series(records, "eval_loss")
    if steps:
        line = "-" if len(steps) > 2 else "none"  # a line between start and end alone would say what nobody measured
        axes.plot(steps, values, color=ORANGE, marker="o", markersize=4.5, linestyle=line, label="validation", zorder=5)
        axes.legend()
    axes.set_title("Loss (nats per token)", loc="left", fontsize=10)


def _norms(axes: Axes, records: list[dict[str, Any]]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    drawn = 0
    for key, label, color in NORMS:
        steps, values = _series(records, key)
        kept = [(s, v) for s, v in zip(steps, values, strict=True) if v > 0]  # the axis is logarithmic
        if kept:
            _both(axes, [s for s, _ in kept], [v for _, v in kept], color, label)
            drawn += 1
    if drawn:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    if drawn > 1:
        axes.legend(ncols=drawn, loc="upper right", columnspacing=1.0, handlelength=1.2)
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.12)  # room for the legend
    axes.set_title("Gradient norm before clipping", loc="left", fontsize=10)


def _accuracy(axes: Axes, records: list[dict[str, Any]]) -> None:
    steps, values = _series(records, "accuracy")
    axes.plot(steps, [100 * v for v in values], color=PURPLE, marker="o", markersize=4.5, linewidth=1.5, clip_on=False)
    rises = values[-1] >= values[0]
    for step, value, side, above in (
        (steps[0], values[0], "left", not rises),
        (steps[-1], values[-1], "right", True),
    ):
        away = (0, 7 if above else -15)
        axes.annotate(
            f"{100 * value:.1f}", (step, 100 * value), away, textcoords="offset points", ha=side, color=PURPLE
        )
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.12 * (high - low), high + 0.12 * (high - low))
    what = next(r["eval"] for r in reversed(records) if r.get("eval"))
    axes.set_title(f"Accuracy on {what} (%)", loc="left", fontsize=10)


def _learning_rate(axes: Axes, records: list[dict[str, Any]]) -> None:
    steps, values = _series(records, "learning_rate")
    axes.plot(steps, values, color=PURPLE, linewidth=1.7)
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.set_title("Learning rate", loc="left", fontsize=10)
