"""Two processes of `torchrun`, DDP or FSDP2, and one train the same: losses, tokens, adapters. One writes."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_train_resume import evaluations
from test_train_run import steps
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401

from dude_lab.training.distributed import engine
from dude_lab.training.run_plan import make_plan
from dude_lab.training.train_run import train
from dude_peft.errors import DudeError

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
FSDP1 = {"ACCELERATE_USE_FSDP": "true"}  # as `accelerate launch` sets them
FSDP2 = {**FSDP1, "FSDP_VERSION": "2"}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def changed(run: Tiny, output: str, *overrides: str) -> dict[str, Any]:
    from dude_lab.config.yaml_file import override

    return override(copy.deepcopy(run.raw), [*overrides, f"output={run.folder / output}"])


@pytest.fixture(scope="module")
def both(
    tiny_base: Path,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Tiny, dict[str, list[list[dict[str, Any]]]]]:
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
        {"raw": changed(made, "sharded", *GROUPED), "env": FSDP2},
        {"raw": changed(made, "sharded-full", *FULL), "env": FSDP2},
        {"raw": changed(made, "sharded-whole", *WHOLE), "env": FSDP2},
        {"raw": changed(made, "sharded-parts", *WHOLE), "env": FSDP2, "sigterm_at": 6},
        {"raw": changed(made, "sharded-parts", *WHOLE), "env": FSDP2, "resume": "auto"},
        {"raw": changed(made, "two-one", *GROUPED), "env": FSDP2, "sigterm_at": 6},
        {"raw": changed(made, "one-two", *GROUPED), "env": FSDP2, "resume": "auto"},
        {"raw": changed(made, "sharded-nan"), "env": FSDP2, "nan_at": 6},
        {"raw": changed(made, "fsdp1"), "env": FSDP1},
        {"raw": changed(made, "bad-weight", "method.name=dude", f"model={with_nan(tiny_base, made.folder / 'bad')}")},
    ]
    names = [Path(run["raw"]["output"]).name for run in runs]
    stop_after(made, "one-two", *GROUPED)
    done = launch(made.folder / "out", runs)
    _, errors = done.communicate(timeout=500)
    assert done.returncode == 0, errors[-3000:]
    results = json.loads((made.folder / "out.json").read_text())
    return made, {name: [r for n, r in zip(names, results, strict=True) if n == name] for name in names}


def with_nan(base: Path, folder: Path) -> Path:
    """Save a copy of a base of which one weight is not finite."""
    shutil.copytree(base, folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.1.self_attn.v_proj.weight"][0, 0] = float("nan")
    save_file(weights, file, {"format": "pt"})
    return folder


def launch(place: Path, runs: list[dict[str, Any]], **environment: str) -> subprocess.Popen[str]:
    """Start two processes that carry out the runs and write `place`.json."""
    listed = place.with_suffix(".runs.json")
    listed.write_text(json.dumps(runs))
    script = [str(ROOT / "tests" / "support" / "distributed_script.py"), str(place.with_suffix(".json")), str(listed)]
    return subprocess.Popen([*TORCHRUN, *script], stderr=subprocess.PIPE, text=True, env={**ENVIRONMENT, **environment})


def stop_after(run: Tiny, name: str, *overrides: str) -> None:
    """Leave the folder of a run of one process as a crash after the checkpoint of step 8 does."""
    from dude_lab.config.yaml_file import parse_run

    train(parse_run(changed(run, name, *overrides)))
    folder = run.folder / name
    (folder / "run.json").unlink()
    shutil.rmtree(folder / "adapter")
    shutil.rmtree(folder / "checkpoints" / "checkpoint-9")


KILLED = {"one-killed": [1], "all-killed": [0, 1]}  # by SIGKILL in step 6
# Evaluated before it is trained; an epoch of 32 examples ends with a batch of two, both in the first process.
PLAIN = ("data.validation=0.2",)
# An epoch of 40 examples and steps of 12: the last step of an epoch has a batch of four alone.
GROUPED = ("method.name=dude", "train.group_by_length=true", "train.gradient_accumulation=2")
FULL = ("method={name: full}", "data.validation=0.2", "train.learning_rate=1e-3")
WHOLE = ("method.name=pissa", "method.lora_dropout=0.1", "data.validation=0.2", "eval.suite=mini_csqa", "eval.limit=2",
         "eval.every=4")  # fmt: skip


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = [*folder.glob("adapter/adapter_model.safetensors"), *folder.glob("model/model.safetensors")]
    return load_file(path)


def close(one: Iterable[float], two: Iterable[float], tolerance: float = 2e-6) -> None:
    assert list(one) == pytest.approx(list(two), rel=tolerance)


@pytest.mark.supports(base="float32", engine=["DDP", "FSDP2"], method=["DuDe", "LoRA"])
@pytest.mark.parametrize(
    ("name", "overrides"), [("plain", PLAIN), ("grouped", GROUPED), ("sharded", GROUPED), ("sharded-full", FULL)]
)
def test_one_process_and_two_train_the_same(both: Any, name: str, overrides: tuple[str, ...]) -> None:
    from dude_lab.config.yaml_file import parse_run

    made, results = both
    two, alone = made.folder / name, made.folder / f"{name}-alone"
    train(parse_run(changed(made, alone.name, *overrides)))
    ((first, second),) = results[name]
    assert first["record"] == second["record"] == json.loads((two / "run.json").read_text())
    assert first["record"]["training"]["processes"] == 2
    assert first["record"]["provenance"]["hardware"]["engine"] == ("fsdp2" if name.startswith("sharded") else "ddp")
    size = 12 if overrides is GROUPED else 6
    assert f"2 processes: a step takes {size} examples, 3 (train.batch_size / 2) x 2 processes" in first["notes"][0]
    assert second["notes"] == []
    one, other = steps(alone), steps(two)
    assert [r["step"] for r in one] == [r["step"] for r in other] == list(range(1, 10))
    assert [r["tokens"] for r in one] == [r["tokens"] for r in other]
    norms = [key for key in one[0] if key.startswith("grad_norm")]
    for key in ("loss", "learning_rate", "token_accuracy", *norms):
        close([r[key] for r in other], [r[key] for r in one], 1e-4 if "norm" in key else 2e-6)
    close([r["eval_loss"] for r in evaluations(two)], [r["eval_loss"] for r in evaluations(alone)])
    want, got = adapter(alone), adapter(two)
    assert want.keys() == got.keys()
    for key, value in want.items():
        assert (got[key] - value).abs().max() <= 1e-4 * value.abs().max().clamp_min(1e-3), key


@pytest.mark.supports(base="float32", engine=["DDP", "FSDP2"], method="PiSSA")
@pytest.mark.parametrize("prefix", ["", "sharded-"])
def test_stopped_in_one_process_and_resumed_is_the_same_run(both: Any, prefix: str) -> None:
    """With dropout, evaluations and a method whose start is saved: bit for bit."""
    made, results = both
    stopped, resumed = results[f"{prefix}parts"]
    assert [r["kind"] for r in stopped] == ["Interrupted", "Interrupted"]
    assert stopped[0]["error"] == "stopped after step 6 of 9"
    assert resumed[0]["record"]["training"]["steps"] == 9
    whole, parts = made.folder / f"{prefix}whole", made.folder / f"{prefix}parts"
    assert steps(parts) == steps(whole) and evaluations(parts) == evaluations(whole)
    assert [r["step"] for r in evaluations(whole)] == [0, 4, 8, 9]
    assert all(torch.equal(value, adapter(parts)[key]) for key, value in adapter(whole).items())
    kept = {p.name for p in (parts / "checkpoints" / "checkpoint-9").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth", "manifest.json"} <= kept
    assert not list(parts.rglob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLED)
def test_killed_with_fsdp2_and_resumed_is_the_same_run(both: Any, name: str) -> None:
    """From the checkpoint of step 4, bit for bit."""
    made, _ = both
    run = {"raw": changed(made, name, *GROUPED), "env": FSDP2}
    killed = launch(made.folder / f"{name}-first", [{**run, "sigkill_at": 6, "sigkill": KILLED[name]}])
    _, errors = killed.communicate(timeout=300)
    assert killed.returncode != 0 and "SIGKILL" in errors, errors[-3000:]
    resumed = launch(made.folder / f"{name}-second", [{**run, "resume": "auto"}])
    _, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors[-3000:]
    [results] = json.loads((made.folder / f"{name}-second.json").read_text())
    assert [r["record"]["training"]["steps"] for r in results] == [9, 9]
    want, got = made.folder / "sharded", made.folder / name
    assert steps(got) == steps(want)
    assert all(torch.equal(value, adapter(got)[key]) for key, value in adapter(want).items())
    assert not list(got.rglob(".*"))


def test_the_processes_divide_the_decompositions(both: Any) -> None:
    """DuDe's: two of the four layers, in the first process."""
    _, results = both
    assert [results[name][0][0]["initialised"] for name in ("grouped", "sharded")] == [2, 2]


def test_a_run_is_resumed_with_another_number_of_processes(both: Any) -> None:
    """A sharded run by one process, and a run of one process by two with FSDP2."""
    from dude_lab.config.yaml_file import parse_run

    made, results = both
    assert [r["kind"] for r in results["two-one"][0]] == ["Interrupted", "Interrupted"]
    assert results["one-two"][0][0]["record"]["provenance"]["hardware"]["engine"] == "fsdp2"
    assert "is of 1 processes, and now there are 2" in results["one-two"][0][0]["notes"][-1]
    train(parse_run(changed(made, "two-one", *GROUPED)), resume="auto")
    want = adapter(made.folder / "sharded")
    for name in ("two-one", "one-two"):
        got = adapter(made.folder / name)
        for key, value in want.items():
            assert (got[key] - value).abs().max() <= 1e-5 * value.abs().max().clamp_min(1e-3), (name, key)
        close(*([r["loss"] for r in steps(made.folder / run)] for run in (name, "sharded")))


def test_what_one_process_meets_all_of_them_obey(both: Any) -> None:
    made, results = both
    (odd,), (old,) = results["odd"], results["fsdp1"]
    for name in ("nan", "sharded-nan"):
        (nan,) = results[name]
        assert [r["kind"] for r in nan] == ["DudeError", "OtherProcess"]
        assert "the loss was not finite at step 6" in nan[0]["error"] and "checkpoint-4 is the last" in nan[0]["error"]
        assert json.loads((made.folder / name / "diverged.json").read_text())["step"] == 6
    assert "FSDP1 is not supported" in old[0]["error"] and "fsdp_version: 2" in old[0]["error"]
    assert not (made.folder / "fsdp1").exists()
    assert [r["kind"] for r in odd] == ["DudeError", "OtherProcess"]
    for word in ("train.batch_size: 5", "2 processes", "Set train.batch_size to 4 or 6"):
        assert word in odd[0]["error"]
    assert not (made.folder / "odd").exists()
    (bad,) = results["bad-weight"]  # decomposed by one of them: raised in both, reported by the first
    assert [r["kind"] for r in bad] == ["DudeError", "OtherProcess"]
    assert bad[0]["error"].count("v_proj' has 1 weights that are not finite") == 1
    assert not (made.folder / "bad-weight").exists()


def test_engines_that_are_not_supported_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_PARALLELISM_CONFIG", "true")
    assert engine() == "ddp"  # one process: nothing is divided
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DudeError, match=r"tensor or context parallelism\) is not supported. Use DDP, FSDP2"):
        engine()
    monkeypatch.setenv("ACCELERATE_USE_PARALLELISM_CONFIG", "false")
    for name, value in FSDP2.items():
        monkeypatch.setenv(name, value)
    assert engine() == "fsdp2"


@pytest.mark.parametrize(("name", "title"), [("fsdp2", "FSDP2"), ("zero2", "ZeRO-2"), ("zero3", "ZeRO-3")])
def test_a_sharded_model_does_not_load_the_best_checkpoint(tiny: Tiny, name: str, title: str) -> None:  # noqa: F811
    """It would silently keep the parameters of the last step."""
    from dude_lab.training.distributed import Processes
    from dude_lab.training.reporter import Reporter
    from dude_lab.training.train_run import _train

    settings = tiny.settings("data.validation=0.2", "eval.every=2", "train.load_best_model_at_end=true")
    with pytest.raises(DudeError, match=f"load_best_model_at_end: a model that {title} has sharded"):
        _train(settings, None, Reporter(), True, Processes(engine=name), None)
    assert not tiny.output.exists()


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
