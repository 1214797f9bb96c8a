"""Two processes of `torchrun` and one train the same: losses, tokens, adapters. One of them writes, and all agree."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_train_resume import evaluations
from test_train_run import steps
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401

from dude_lab.training.run_plan import make_plan
from dude_lab.training.train_run import train
from dude_peft.errors import DudeError

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def changed(run: Tiny, output: str, *overrides: str) -> dict[str, Any]:
    from dude_lab.config.yaml_file import override

    return override(copy.deepcopy(run.raw), [*overrides, f"output={run.folder / output}"])


@pytest.fixture(scope="module")
def both(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tiny, list[list[dict[str, Any]]]]:  # noqa: F811
    """All runs of two processes, in one start of them, and those of one process that they are compared with."""
    made = Tiny(tiny_base, tmp_path_factory.mktemp("two"))
    made.raw["method"]["lora_dropout"] = 0.0
    made.raw["train"] |= {"steps": 9, "batch_size": 6, "save_every": 4}  # 40 examples: the last batch has four
    runs = [
        {"raw": changed(made, "plain", *PLAIN)},
        {"raw": changed(made, "grouped", *GROUPED)},
        {"raw": changed(made, "whole", *WHOLE)},
        {"raw": changed(made, "parts", *WHOLE), "sigterm_at": 6},
        {"raw": changed(made, "parts", *WHOLE), "resume": "auto"},
        {"raw": changed(made, "nan"), "nan_at": 6},
        {"raw": changed(made, "odd", "train.batch_size=5")},
    ]
    (made.folder / "runs.json").write_text(json.dumps(runs))
    script = [
        str(ROOT / "tests" / "support" / "distributed_script.py"),
        str(made.folder / "out.json"),
        str(made.folder / "runs.json"),
    ]
    done = subprocess.run([*TORCHRUN, *script], capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return made, json.loads((made.folder / "out.json").read_text())


# Evaluated before it is trained; an epoch of 32 examples ends with a batch of two, both in the first process.
PLAIN = ("data.validation=0.2",)
# An epoch of 40 examples and steps of 12: the last step of an epoch has a batch of four alone.
GROUPED = ("method.name=dude", "train.group_by_length=true", "train.gradient_accumulation=2")
WHOLE = ("method.name=pissa", "method.lora_dropout=0.1", "data.validation=0.2", "eval.suite=mini_csqa", "eval.limit=2",
         "eval.every=4")  # fmt: skip


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def close(one: Iterable[float], two: Iterable[float], tolerance: float = 2e-6) -> None:
    assert list(one) == pytest.approx(list(two), rel=tolerance)


@pytest.mark.parametrize(("name", "overrides"), [("plain", PLAIN), ("grouped", GROUPED)])
def test_one_process_and_two_train_the_same(both: Any, name: str, overrides: tuple[str, ...]) -> None:
    from dude_lab.config.yaml_file import parse_run

    made, results = both
    two, alone = made.folder / name, made.folder / f"{name}-alone"
    train(parse_run(changed(made, alone.name, *overrides)))
    first, second = results[["plain", "grouped"].index(name)]
    assert first["record"] == second["record"] == json.loads((two / "run.json").read_text())
    assert first["record"]["training"]["processes"] == 2
    size = 12 if name == "grouped" else 6
    assert f"2 processes: a step takes {size} examples, 3 (train.batch_size / 2) x 2 processes" in first["notes"][0]
    assert second["notes"] == []
    one, other = steps(alone), steps(two)
    assert [r["step"] for r in one] == [r["step"] for r in other] == list(range(1, 10))
    assert [r["tokens"] for r in one] == [r["tokens"] for r in other]
    for key in ("loss", "learning_rate", "grad_norm", "grad_norm_A", "grad_norm_B", "token_accuracy"):
        close([r[key] for r in other], [r[key] for r in one], 1e-4 if "norm" in key else 2e-6)
    close([r["eval_loss"] for r in evaluations(two)], [r["eval_loss"] for r in evaluations(alone)])
    want, got = adapter(alone), adapter(two)
    assert want.keys() == got.keys()
    for key, value in want.items():
        assert (got[key] - value).abs().max() <= 1e-4 * value.abs().max().clamp_min(1e-3), key


def test_stopped_in_one_process_and_resumed_is_the_same_run(both: Any) -> None:
    """With dropout, evaluations and a method whose start is saved: bit for bit."""
    made, results = both
    stopped, resumed = results[3], results[4]
    assert [r["kind"] for r in stopped] == ["Interrupted", "Interrupted"]
    assert stopped[0]["error"] == "stopped after step 6 of 9"
    assert resumed[0]["record"]["training"]["steps"] == 9
    whole, parts = made.folder / "whole", made.folder / "parts"
    assert steps(parts) == steps(whole) and evaluations(parts) == evaluations(whole)
    assert [r["step"] for r in evaluations(whole)] == [0, 4, 8, 9]
    assert all(torch.equal(value, adapter(parts)[key]) for key, value in adapter(whole).items())
    kept = {p.name for p in (parts / "checkpoints" / "checkpoint-9").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth", "manifest.json"} <= kept
    assert not list(parts.rglob(".*"))


def test_what_one_process_meets_all_of_them_obey(both: Any) -> None:
    made, results = both
    nan, odd = results[5], results[6]
    assert [r["kind"] for r in nan] == ["DudeError", "OtherProcess"]
    assert "the loss was not finite at step 6" in nan[0]["error"] and "checkpoint-4 is the last" in nan[0]["error"]
    assert json.loads((made.folder / "nan" / "diverged.json").read_text())["step"] == 6
    assert [r["kind"] for r in odd] == ["DudeError", "OtherProcess"]
    for word in ("train.batch_size: 5", "2 processes", "Set train.batch_size to 4 or 6"):
        assert word in odd[0]["error"]
    assert not (made.folder / "odd").exists()


def test_a_batch_that_cannot_be_divided_is_told_by_validate_too(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(DudeError, match=r"4 is not a multiple of the 3 processes.*Set train.batch_size to 3 or 6"):
        make_plan(tiny.settings())
    shared = make_plan(tiny.settings("train.batch_size=6")).memory.activations
    monkeypatch.delenv("WORLD_SIZE")
    assert make_plan(tiny.settings("train.batch_size=6")).memory.activations == 3 * shared


@pytest.mark.slow
def test_torchrun_of_the_command(tiny: Tiny) -> None:  # noqa: F811
    """One of the processes prints; a run that is refused leaves nothing."""
    command = [*TORCHRUN, "-m", "dude_lab.cli.app", "train", str(tiny.write())]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("training to step 6") == done.stdout.count("step 6/6") == 1
    assert len(steps(tiny.output)) == 6
    again = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert again.returncode != 0 and again.stderr.count("has this run, finished") == 1
