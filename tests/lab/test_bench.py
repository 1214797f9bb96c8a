"""Promise: `dude bench` measures every part with nothing but the package, and says what is in target."""

from __future__ import annotations

import json
from importlib.util import find_spec
from unittest import mock

import pytest
import torch
from typer.testing import CliRunner

from dude_lab.bench import PARTS, cases
from dude_lab.bench import bench_plan as plan_module
from dude_lab.bench.bench_plan import Case, Plan, too_long
from dude_lab.bench.bench_results import Result, Spread, exactly, number, spread
from dude_lab.bench.decomposition import captured
from dude_lab.bench.peak_memory import allocations
from dude_lab.bench.timing import interleave, ratios, seconds_of
from dude_lab.cli.commands import app

MEASURED = [part for part in PARTS if part not in ("layer", "quantized", "import", "compile")]
QUANTIZED = pytest.param(
    "quantized",
    marks=pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes: make test-quantized runs this"),
)


@pytest.mark.parametrize("part", [*MEASURED, QUANTIZED, pytest.param("compile", marks=pytest.mark.slow)])
def test_every_part_yields_rows_with_figures(part):
    rows = [row for case in cases([part], Plan(tiny=True)) for row in case.measure()]
    assert rows
    for row in rows:
        assert row.part == part and row.group and row.measured is not None, row.note
        assert 0 < row.measured.low <= row.measured.median <= row.measured.high < float("inf")


def test_without_bitsandbytes_its_part_says_so(monkeypatch):
    monkeypatch.setattr("dude_lab.bench.quantized_layer.find_spec", lambda name: None)
    rows = [row for case in cases(["quantized"], Plan(tiny=True)) for row in case.measure()]
    assert rows and all(row.measured is None and "bitsandbytes is not installed" in row.note for row in rows)


def test_the_command_prints_the_table_and_writes_json_and_a_picture(tmp_path):
    done = CliRunner().invoke(app, ["bench", "layer", "--tiny", "--device", "cpu", "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "<= 1.05" in done.output and "DoRA" in done.output and "CPU time of 1 thread" in done.output
    table = done.output.partition("target")[2].partition("written")[0]
    assert max(map(len, table.splitlines())) <= 100
    written = json.loads((tmp_path / "out" / "bench.json").read_text())
    row, axis_in = written["rows"]
    assert "magnitude_axis" in axis_in["group"] and axis_in["seconds"]["DuDe"] != row["seconds"]["DuDe"]
    assert row["part"] == "layer" and row["n"] == 3 and row["verdict"] in ("met", "missed")
    assert row["seconds"]["PEFT LoRA"] > 0 and row["others"]["hand-written LoRA"]["median"] > 0
    assert written["finished"] and written["hardware"]["cores"] and written["versions"]["peft"]
    assert (tmp_path / "out" / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_the_help_names_every_part():
    done = CliRunner().invoke(app, ["bench", "--help"], env={"COLUMNS": "120"})
    assert all(part in done.output for part in PARTS)


@pytest.mark.parametrize("arguments", [["layr"], ["layer", "--device", "tpu"]])
def test_what_is_not_known_is_a_user_error(arguments, tmp_path):
    done = CliRunner().invoke(app, ["bench", *arguments, "-o", str(tmp_path / "out")])
    assert done.exit_code == 2 and ("layer" in done.output or "cuda" in done.output)
    assert not (tmp_path / "out").exists()


def test_an_interruption_keeps_what_was_measured(tmp_path):
    def stop():
        yield Result("layer", "over PEFT LoRA", "second", exactly(2.0), 1)
        raise KeyboardInterrupt

    first = Case("layer", "first", 1.0, lambda: [Result("layer", "over PEFT LoRA", "first", exactly(1.0), 1)])
    todo = [first, Case("layer", "second", 1.0, stop), first]
    with mock.patch("dude_lab.cli.bench.cases", return_value=todo):
        done = CliRunner().invoke(app, ["bench", "layer", "-o", str(tmp_path)])
    assert done.exit_code == 130
    written = json.loads((tmp_path / "bench.json").read_text())
    assert [row["what"] for row in written["rows"]] == ["first", "second"] and not written["finished"]
    assert "2.000" in done.output


def test_every_round_runs_everybody_once_and_what_comes_before_is_not_timed():
    clock, calls = [0.0], []

    def work(name, seconds):
        def run():
            calls.append(name)
            clock[0] += seconds

        return run

    runs = {"PEFT LoRA": work("l", 2.0), "DuDe": work("d", 3.0)}
    with mock.patch("time.thread_time", lambda: clock[0]):  # the tests have one thread
        seconds = interleave(runs, Plan(), {"DuDe": work("before", 100.0)}, rounds=4)
    assert calls.count("l") == calls.count("d") == calls.count("before") == 5  # one round to warm up
    assert ratios(seconds)["DuDe"] == Spread(1.5, 1.5, 1.5)
    assert ratios(seconds, inverse=True)["DuDe"].median == pytest.approx(2 / 3)


def test_on_a_gpu_the_time_is_what_lies_between_events():
    clock = [0.0]

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = clock[0]

        def elapsed_time(self, end):
            return 1e3 * (end.at - self.at)

    def work(seconds):
        clock[0] += seconds

    with mock.patch("torch.cuda.Event", Event), mock.patch("torch.cuda.synchronize") as wait:
        assert seconds_of(lambda: work(2.0), "cuda", lambda: work(5.0)) == 2.0
    assert wait.called


def test_the_sizes_are_those_of_the_table():
    for device in ("cpu", "cuda"):
        listed = [case.what for case in cases(["layer"], Plan(device))]
        assert len(set(listed)) == len(listed)
        square = {
            f"{t} {d} x {d}, {n} tokens" for t in ("fp32", "bf16") for d in (1024, 4096) for n in (64, 256, 1024, 4096)
        }
        assert square <= set(listed)
    assert {f"bf16 4096 x 11008, r = {r}, {n} tokens" for r in (64, 256) for n in (1024, 4096, 16384)} <= set(listed)
    assert {"bf16 1024 x 4096, 16384 tokens", "bf16 4096 x 4096, r = 64, 1024 tokens"} <= set(listed)
    assert len(list(cases(["step"], Plan("cuda")))) == 7
    scored = {case.what for case in cases(["score"], Plan(quick=True)) if case.what.startswith("fp32")}
    assert scored == {f"fp32 {d} x {d}, {n}" for d in (576, 1024) for n in ("1 token", "512 tokens", "1024 tokens")}


def test_scoring_takes_its_factors_from_the_cache_and_leaves_the_layers_in_training():
    from dude_lab.bench.layer_time import layers_of
    from dude_peft import functional

    (one, _) = cases(["score"], Plan(tiny=True))
    (trained,) = cases(["layer"], Plan(tiny=True))
    list(trained.measure())  # the same layers, with gradients
    with mock.patch.object(functional, "composition", side_effect=functional.composition) as computed:
        assert [row.n for row in one.measure()] == [3]
    assert computed.call_count == 1
    layers = layers_of(one.measure.args[0], "cpu")
    assert all(module.training for layer in layers.values() for module in layer.modules())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("part", [part for part in PARTS if part != "import"])
def test_every_part_on_a_gpu(part):
    rows = [row for case in cases([part], Plan("cuda", tiny=True)) for row in case.measure()]
    assert rows and all(row.measured is not None for row in rows), [row.note for row in rows]


def test_the_number_of_rounds_fits_a_time_within_limits():
    assert Plan().rounds(1e-9) == 51 and Plan().rounds(60.0) == 5 and Plan(quick=True).rounds(60.0) == 3
    assert Plan().rounds(1.0) > Plan(quick=True).rounds(1.0) > 1


def test_a_target_is_a_ceiling_for_costs_and_a_floor_for_rates():
    one = spread([0.9, 1.0, 1.1])
    assert one == Spread(1.0, 0.95, 1.05)
    assert (
        Result("p", "g", "x", one, 3, 1.0).verdict == "met" and Result("p", "g", "x", one, 3, 0.99).verdict == "missed"
    )
    assert Result("p", "g", "x", one, 3, 1.0, True).verdict == "met"
    assert Result("p", "g", "x", one, 3, 1.01, True).verdict == "missed"
    assert Result("p", "g", "x", one, 3).verdict is None and Result("p", "g", "x", target=1.0).verdict is None
    assert number(1.004) == "1.004" and number(12345.6) == "12346" and number(2.5e-9) == "2.5e-09"


@pytest.mark.parametrize("width", [80, 100])
def test_tables_fit_the_terminal_and_list_what_was_left_out_below(width):
    from rich.console import Console

    from dude_lab.bench.bench_results import grouped
    from dude_lab.cli.bench import tables

    others = {name: Spread(1.0, 0.9, 1.1) for name in ("frozen", "PEFT DoRA", "hand-written LoRA")}
    one = Result(
        "layer", "over PEFT LoRA", "fp32 4096 x 4096, 1024 tokens", Spread(1.25, 1.21, 1.31), 51, 1.05, False, others
    )
    rows = [
        one,
        Result("layer", "axis in", "first", exactly(2.0), 1),
        one,
        Result("layer", "x", "slow", note="left out: 9 s"),
    ]
    console = Console(width=width)
    with console.capture() as capture:
        console.print(tables(rows, width))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width and [line for line in lines if "left out: 9 s" in line] == [
        "layer: slow: left out: 9 s"
    ]
    assert ("1.250 (1.210-1.310)" in capture.get()) is (width == 100) and "1.250" in capture.get()
    assert [line.split(": ")[1].rstrip() for line in lines if line.startswith("layer: ")] == [
        "over PEFT LoRA",
        "axis in",
        "slow",
    ]
    assert [len(group) for group in grouped(rows).values()] == [2, 1, 1]


def test_the_picture_names_each_group_once(tmp_path):
    from dude_lab.bench import bench_plot

    names = ["a", "b", "a", "b"]
    rows = [Result("step", name, f"case {k}", exactly(1.0), 1) for k, name in enumerate(names)]
    with mock.patch.object(bench_plot, "_places", side_effect=bench_plot._places) as places:
        assert bench_plot.draw(rows, tmp_path / "bench.png", "title")
    assert [row.group for row in places.call_args.args[0]] == ["a", "a", "b", "b"]


def test_what_takes_too_long_is_left_out_and_says_so():
    with mock.patch.object(plan_module, "speed_of_products", lambda dtype, threads: 1e9):
        assert "17 s" in too_long(4096 * 4096, 256, torch.bfloat16, Plan())
        assert not too_long(4096 * 4096, 200, torch.float32, Plan())
        large = [
            case
            for case in cases(["layer", "step"], Plan())
            if "4096 x 4096, 4096" in case.what or "bf16 L" in case.what
        ]
        rows = [row for case in large for row in case.measure()]
    assert len(rows) == 4 and all(row.measured is None and row.verdict is None for row in rows)
    assert all("left out" in row.note and row.target is not None for row in rows)


def test_the_peak_of_memory_counts_what_is_held_at_once(capfd):
    def run():
        a = torch.empty(1000)
        b = torch.empty(500)
        del a
        return b, torch.empty(200)

    assert allocations(run, "cpu") == (6000, 4000)
    assert capfd.readouterr().err == ""  # the profiler is not heard


def test_the_energy_captured_is_that_of_the_singular_values():
    torch.manual_seed(0)
    W = torch.randn(30, 20)
    _, S, Vh = torch.linalg.svd(W.double(), full_matrices=False)
    assert captured(W, Vh[:3] * 1.001) == pytest.approx(float(S[:3].square().sum()), rel=1e-12)
