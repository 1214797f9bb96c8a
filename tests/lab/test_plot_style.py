"""Each method has one colour and one marker in every picture, and the same picture is the same bytes."""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from test_compare_results import SHARES, filled
from test_report_page import payload

from dude_lab import plot_style
from dude_lab.bench import bench_plot
from dude_lab.bench.bench_results import DORA, DUDE, HAND, Result, exactly
from dude_lab.compare.comparison_plot import draw as draw_comparison
from dude_lab.compare.results import collect
from dude_lab.methods import METHODS
from dude_lab.paper import margins, paper_figures, rates
from dude_lab.plot_style import METHOD_STYLES, OTHER, log_axis, marker_path, picture
from dude_lab.report import write_page
from dude_lab.training.curves import draw_curves

PAPER = ("full", "lora", "dora", "pissa", "dude", "dude_a", "dude_b")
# Machado, Oliveira and Fernandes 2009, severity 1: what deuteranopes and protanopes see, in linear RGB.
SEEN = {
    "all": np.eye(3),
    "deuteranopia": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "protanopia": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, set[tuple[str, Any]]]]:
    """Colour -> markers of every line of every figure that is saved."""
    found: dict[str, set[Any]] = defaultdict(set)

    def look(figure: Figure, *_: Path) -> None:
        for axes in figure.axes:
            for line in axes.get_lines():
                found[to_hex(str(line.get_color())).upper()].add(line.get_marker())

    monkeypatch.setattr(plot_style, "save", look)
    yield found


def markers_of(drawn: dict[str, set[Any]], method: str) -> set[Any]:
    return drawn[METHOD_STYLES[method].color] - {"None", "none", None, "|"}


def lab(color: str, seen: np.ndarray) -> np.ndarray:
    x = np.array([int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    xyz = XYZ @ np.clip(seen @ linear, 0, 1) / (0.9505, 1, 1.089)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_every_method_has_a_colour_and_a_marker_that_no_other_has() -> None:
    assert set(METHOD_STYLES) == set(METHODS)
    for values in ([one.color for one in METHOD_STYLES.values()], [one.marker for one in METHOD_STYLES.values()]):
        assert len({*values, *(OTHER.color, OTHER.marker)} - {OTHER.color, OTHER.marker}) == len(METHODS)
    others = {*plot_style.SERIES_COLORS, plot_style.BASE_COLOR, plot_style.QUIET_COLOR}
    assert not others & {one.color for one in METHOD_STYLES.values()}


def test_the_papers_methods_differ_for_colour_blind_readers() -> None:
    for seen, (one, other) in itertools.product(SEEN.values(), itertools.combinations(PAPER, 2)):
        distance = np.linalg.norm(lab(METHOD_STYLES[one].color, seen) - lab(METHOD_STYLES[other].color, seen))
        assert distance > 15, (one, other)  # CIE 1976; 2.3 is a just noticeable difference


def test_a_comparison_draws_each_method_in_its_colour_and_marker(tmp_path: Path, drawn: dict[str, set[Any]]) -> None:
    draw_comparison(collect(filled(tmp_path, SHARES)), tmp_path / "x.png")
    for method in ("lora", "dora", "full"):
        assert markers_of(drawn, method) == {METHOD_STYLES[method].marker}
    assert not set(drawn) - {METHOD_STYLES[one].color for one in ("lora", "dora", "full")} - {plot_style.BASE_COLOR}


@pytest.mark.parametrize("method", ["dude", "pissa"])
def test_the_picture_of_a_run_has_its_methods_colour(method: str, tmp_path: Path, drawn: dict[str, set[Any]]) -> None:
    records = [{"step": k, "loss": 2.0 - k / 10, "grad_norm": 1.0, "grad_norm_A": 0.5} for k in range(1, 9)]
    records += [{"step": k, "eval": "mini_csqa", "accuracy": k / 10} for k in (0, 8)]
    draw_curves(records, tmp_path / "x.png", method)
    assert markers_of(drawn, method) == {METHOD_STYLES[method].marker}
    assert set(drawn) == {METHOD_STYLES[method].color, plot_style.SERIES_COLORS[0]}


def test_bench_and_margins_use_the_same_colours(tmp_path: Path, drawn: dict[str, set[Any]]) -> None:
    others = {DORA: exactly(1.5), HAND: exactly(0.9)}
    bench_plot.draw(
        [Result("layer", "over PEFT LoRA", "x", exactly(1.0), 3, 1.05, others=others)], tmp_path / "x.png", ""
    )
    for method in ("dude", "dora", "lora"):
        assert markers_of(drawn, method) == {METHOD_STYLES[method].marker}
    assert DUDE in bench_plot.STYLES
    drawn.clear()
    found = [margins.Margin("Table 1", METHODS[one].title, 0.01, 0.0, 0.02, "higher") for one in ("lora", "pissa")]
    margins.draw(found, tmp_path / "x.png")
    for method in ("lora", "pissa"):
        assert markers_of(drawn, method) == {METHOD_STYLES[method].marker}


def test_the_page_takes_colours_and_markers_from_the_same_place(tmp_path: Path) -> None:
    text = write_page([filled(tmp_path, SHARES).path], tmp_path / "page").read_text(encoding="utf-8")
    light = text.partition("@media screen and (prefers-color-scheme: dark)")[0]
    rules = dict(re.findall(r"^\.m-(\w+) \{ --method: (#\w{6}); \}", light, re.MULTILINE))
    assert rules == {**{name: style.color for name, style in METHOD_STYLES.items()}, "other": OTHER.color}
    rows = {row["method"]: row["marker"] for row in payload(text)["rows"]}
    assert rows == {one: marker_path(METHOD_STYLES[one].marker) for one in ("lora", "dora", "full")}


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_picture_is_the_same_bytes(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [tmp_path / f"{k}{suffix}" for k in (1, 2)]
    for name in names:
        draw_curves([{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}], name, "dude", "a run")
        monkeypatch.setattr("matplotlib.__version__", "another")
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")  # the date that matplotlib would write
    assert names[0].read_bytes() == names[1].read_bytes()
    assert b"matplotlib version" not in names[0].read_bytes().lower()


def test_a_logarithmic_axis_has_plain_numbers(tmp_path: Path) -> None:
    with picture(tmp_path / "x.svg", size=(3, 3)) as figure:
        axes: Axes = figure.subplots()
        axes.loglog([1e-3, 10], [0.1, 100])
        log_axis(axes.xaxis)
        log_axis(axes.yaxis, 1, 2, 5)
    text = (tmp_path / "x.svg").read_text()
    assert "mathdefault" not in text and ">0.001<" in text and ">50<" in text
    source = Path(plot_style.__file__).parent
    logarithmic = [p for p in source.rglob("*.py") if 'scale("log")' in p.read_text("utf-8")]
    assert logarithmic and all("log_axis(" in p.read_text("utf-8") for p in logarithmic)


def test_a_loss_is_drawn_from_the_first_step_on_a_logarithmic_axis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = [4.0 * 0.9**k + 0.1 for k in range(60)]
    seen: list[Axes] = []
    monkeypatch.setattr(plot_style, "save", lambda figure, *_: seen.append(figure.axes[0]))
    draw_curves([{"step": k, "loss": loss} for k, loss in enumerate(losses, 1)], tmp_path / "x.png", "dude")
    folder = filled(tmp_path, SHARES)
    for path in folder.runs.glob("*/curves.jsonl"):
        path.write_text("".join(json.dumps({"step": k, "loss": loss}) + "\n" for k, loss in enumerate(losses, 1)))
    draw_comparison(collect(folder), tmp_path / "x.png")
    assert len(seen) == 2
    for axes in seen:
        assert axes.get_yscale() == "log"
        thick = [line for line in axes.get_lines() if line.get_linewidth() > 1]
        low, high = axes.get_ylim()
        assert thick
        for line in thick:
            steps, values = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
            assert steps[0] == 1 and low < values.min() and values.max() < high  # nothing is cut off
    assert np.asarray(seen[0].get_lines()[1].get_ydata())[0] == losses[0]


def test_losses_that_differ_little_have_a_linear_axis(tmp_path: Path) -> None:
    for values, scale in (([1.0, 1.9], "linear"), ([0.0, 2.0], "linear"), ([1.0, 2.1], "log")):
        with picture(tmp_path / "x.png", size=(2, 2)) as figure:
            axes: Axes = figure.subplots()
            axes.plot([1, 2], values)
            plot_style.loss_axis(axes)
        assert axes.get_yscale() == scale


def test_a_comparison_is_titled_by_model_and_data(tmp_path: Path) -> None:
    draw_comparison(collect(filled(tmp_path, SHARES)), tmp_path / "x.svg")
    assert re.search(r">\S+ on \S+<", (tmp_path / "x.svg").read_text())


def test_titles_fit_beside_labels_of_any_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Figure] = []
    monkeypatch.setattr(plot_style, "save", lambda figure, *_: seen.append(figure))
    results = collect(filled(tmp_path, SHARES))
    settings = "(detach_norm=false, init_variant=random, learning_rate=0.001)"
    longer = [replace(row, label=f"{row.label} {settings}") for row in results.rows]
    for rows in (results.rows, longer):
        draw_comparison(replace(results, rows=rows), tmp_path / "x.png")
    for figure in seen:
        FigureCanvasAgg(figure).draw()
        whole = figure.bbox
        for axes in figure.axes:
            names = [*axes.get_yticklabels(), *(text for text in axes.texts if "=" in text.get_text())]
            for text in (axes.title, axes._left_title, *names):  # type: ignore[attr-defined]
                if text.get_text():
                    box = text.get_window_extent()
                    assert box.x0 >= whole.x0 and box.x1 <= whole.x1, text.get_text()


def test_a_picture_is_written_by_one_function() -> None:
    places = [p for p in Path(plot_style.__file__).parent.rglob("*.py") if ".savefig(" in p.read_text("utf-8")]
    assert places == [Path(plot_style.__file__)]
    assert all("plot_style" in Path(str(one.__file__)).read_text("utf-8") for one in (paper_figures, rates))


def test_a_block_that_fails_leaves_the_old_picture(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"old")
    with pytest.raises(ValueError), picture(path, size=(2, 2)) as figure:
        axes: Axes = figure.subplots()
        axes.plot([1], [1])
        raise ValueError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_columns_of_different_values_have_a_panel_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dude_lab.paper.experiments import COMPARISONS
    from dude_lab.paper.paper_tables import ComparisonResult
    from dude_lab.stats.intervals import Interval

    results = collect(filled(tmp_path, SHARES))
    results = replace(results, rows=[replace(row, r=8 * n) for n, row in enumerate(results.rows, 1)])
    comparison = ComparisonResult("ranks", COMPARISONS["ranks"], "mini", None, "mini_", (), "mini_mmlu", results)
    titles: list[list[str]] = []
    monkeypatch.setattr(
        plot_style, "save", lambda figure, *_: titles.append([a.get_title("left") for a in figure.axes])
    )
    for shift in (0.0, 0.01):
        value = {"avg": 0.5, "weighted_avg": 0.5 + shift}
        monkeypatch.setattr(
            paper_figures, "interval", lambda runs, column, prefix, v=value: Interval(v[column.key], 0, 1)
        )
        paper_figures.draw("ranks", comparison, tmp_path / "x.png")
    assert titles == [
        ["Average and weighted accuracy (%), 95% interval: mini on mini_mmlu"],
        [
            f"({k}) {one} accuracy (%), 95% interval: mini on mini_mmlu"
            for k, one in (("a", "Average"), ("b", "Weighted"))
        ],
    ]
