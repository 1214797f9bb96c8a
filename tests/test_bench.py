"""Promise: `dude bench` measures every part with nothing but the package, and says what is in reach."""

from __future__ import annotations

import json
from unittest import mock

import pytest
import torch
from conftest import relative_error
from torch import nn
from typer.testing import CliRunner

from dude_peft.bench import PARTS, cases
from dude_peft.bench import plan as plan_room
from dude_peft.bench.decomposition import captured
from dude_peft.bench.memory import allocations
from dude_peft.bench.plan import Case, Plan, too_long
from dude_peft.bench.results import Row, Spread, exactly, number, spread
from dude_peft.bench.rival import HandLora, put_on
from dude_peft.bench.timing import interleave, ratios
from dude_peft.cli.commands import app

MEASURED = [part for part in PARTS if part not in ("layer", "import", "compile")]


@pytest.mark.parametrize("part", [*MEASURED, pytest.param("compile", marks=pytest.mark.slow)])
def test_every_part_yields_rows_with_figures(part):
    rows = [row for case in cases([part], Plan(tiny=True)) for row in case.measure()]
    assert rows
    for row in rows:
        assert row.part == part and row.group and row.measured is not None, row.note
        assert 0 < row.measured.low <= row.measured.median <= row.measured.high < float("inf")


def test_the_command_prints_the_table_and_writes_json_and_a_picture(tmp_path):
    done = CliRunner().invoke(app, ["bench", "layer", "--tiny", "--device", "cpu", "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "<= 1.05" in done.output and "DoRA" in done.output and "CPU time of 1 thread" in done.output
    table = done.output.partition("reach")[2].partition("written")[0]
    assert max(map(len, table.splitlines())) <= 100
    written = json.loads((tmp_path / "out" / "bench.json").read_text())
    (row,) = written["rows"]
    assert row["part"] == "layer" and row["n"] == 3 and row["verdict"] in ("reached", "short")
    assert row["seconds"]["PEFT LoRA"] > 0 and row["others"]["hand-written LoRA"]["median"] > 0
    assert written["finished"] and written["hardware"]["cores"] and written["versions"]["peft"]
    assert (tmp_path / "out" / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("arguments", [["layr"], ["layer", "--device", "tpu"]])
def test_what_is_not_known_is_a_user_error(arguments, tmp_path):
    done = CliRunner().invoke(app, ["bench", *arguments, "-o", str(tmp_path / "out")])
    assert done.exit_code == 2 and ("layer" in done.output or "cuda" in done.output)
    assert not (tmp_path / "out").exists()


def test_an_interruption_keeps_what_was_measured(tmp_path):
    def stop():
        yield Row("layer", "over PEFT LoRA", "second", exactly(2.0), 1)
        raise KeyboardInterrupt

    first = Case("layer", "first", 1.0, lambda: [Row("layer", "over PEFT LoRA", "first", exactly(1.0), 1)])
    todo = [first, Case("layer", "second", 1.0, stop), first]
    with mock.patch("dude_peft.cli.bench.cases", return_value=todo):
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


def test_the_number_of_rounds_fits_a_time_within_limits():
    assert Plan().rounds(1e-9) == 51 and Plan().rounds(60.0) == 5 and Plan(quick=True).rounds(60.0) == 3
    assert Plan().rounds(1.0) > Plan(quick=True).rounds(1.0) > 1


def test_reach_is_a_ceiling_for_costs_and_a_floor_for_rates():
    one = spread([0.9, 1.0, 1.1])
    assert one == Spread(1.0, 0.95, 1.05)
    assert Row("p", "g", "x", one, 3, 1.0).verdict == "reached" and Row("p", "g", "x", one, 3, 0.99).verdict == "short"
    assert Row("p", "g", "x", one, 3, 1.0, True).verdict == "reached"
    assert Row("p", "g", "x", one, 3, 1.01, True).verdict == "short"
    assert Row("p", "g", "x", one, 3).verdict is None and Row("p", "g", "x", reach=1.0).verdict is None
    assert number(1.004) == "1.004" and number(12345.6) == "12346" and number(2.5e-9) == "2.5e-09"


def test_what_takes_too_long_is_left_out_and_says_so():
    with mock.patch.object(plan_room, "speed_of_products", lambda dtype, threads: 1e9):
        assert "17 s" in too_long(4096 * 4096, 256, torch.bfloat16, Plan())
        assert not too_long(4096 * 4096, 200, torch.float32, Plan())
        large = [
            case
            for case in cases(["layer", "step"], Plan())
            if "4096 x 4096, 4096" in case.what or "bf16 L" in case.what
        ]
        rows = [row for case in large for row in case.measure()]
    assert len(rows) == 4 and all(row.measured is None and row.verdict is None for row in rows)
    assert all("left out" in row.note and row.reach is not None for row in rows)


def test_the_peak_of_memory_counts_what_is_held_at_once():
    def run():
        a = torch.empty(1000)
        b = torch.empty(500)
        del a
        return b, torch.empty(200)

    assert allocations(run, "cpu") == (6000, 4000)


def test_the_energy_captured_is_that_of_the_singular_values():
    torch.manual_seed(0)
    W = torch.randn(30, 20)
    _, S, Vh = torch.linalg.svd(W.double(), full_matrices=False)
    assert captured(W, Vh[:3] * 1.001) == pytest.approx(float(S[:3].square().sum()), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_hand_written_rival_is_lora(dtype):
    """A rival that computes something else would be no rival: against autograd through W + B A."""
    torch.manual_seed(0)
    layer = HandLora(nn.Linear(7, 5).to(dtype), 3)
    with torch.no_grad():
        layer.B.normal_()
    x = torch.randn(2, 4, 7, dtype=dtype, requires_grad=True)
    got = torch.autograd.grad(layer(x).square().sum(), (x, layer.A, layer.B))
    dense = nn.functional.linear(
        x.double(), layer.base.weight.double() + layer.B.double() @ layer.A.double(), layer.base.bias.double()
    )
    want = torch.autograd.grad(dense.square().sum(), (x, layer.A, layer.B))
    for some, other in zip(got, want, strict=True):
        assert relative_error(some, other) < (1e-12 if dtype == torch.float64 else 3e-2)
    assert layer.A.dtype == torch.promote_types(dtype, torch.float32)


def test_the_rival_goes_where_lora_goes():
    from dude_peft.bench.models import TINY, base_model

    base = base_model(TINY, torch.float32, "cpu")
    names = {
        name for name, module in put_on(base, 2, ("q_proj", "v_proj")).named_modules() if isinstance(module, HandLora)
    }
    assert names == {"model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"}
    all_linear = put_on(base_model(TINY, torch.float32, "cpu"), 2)
    assert sum(isinstance(module, HandLora) for module in all_linear.modules()) == 7
