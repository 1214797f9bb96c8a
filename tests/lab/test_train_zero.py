"""Two processes of `torchrun` under DeepSpeed's ZeRO-2 or ZeRO-3 and one process train the same.

`make test-deepspeed` installs DeepSpeed; without it the tests of runs are skipped.
"""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_distributed import (
    FULL,
    GROUPED,
    WHOLE,
    adapter,
    changed,
    close,
    launch,
    stop_after,
)
from test_train_resume import evaluations
from test_train_run import steps
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401

from dude_lab.training.distributed import check_engine, engine
from dude_lab.training.train_run import train
from dude_peft.errors import DudeError

needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs DeepSpeed (make test-deepspeed)")
CHECKPOINTING = ("method.name=lora", "train.gradient_checkpointing=true", "train.steps=4")


def zero(stage: int) -> dict[str, str]:
    """The variables that `accelerate launch` sets."""
    return {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)}


@pytest.fixture(scope="module")
def both(
    tiny_base: Path,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Tiny, dict[str, list[list[dict[str, Any]]]]]:
    """All runs of two processes, in one start of them."""
    made = Tiny(tiny_base, tmp_path_factory.mktemp("zero"))
    made.raw["method"]["lora_dropout"] = 0.0
    made.raw["train"] |= {"steps": 9, "batch_size": 6, "save_every": 4}  # 40 examples: the last batch has four
    runs: list[dict[str, Any]] = []
    for stage in (2, 3):

        def run(name: str, *overrides: str, stage: int = stage, **more: Any) -> dict[str, Any]:
            return {"raw": changed(made, f"{name}-{stage}", *overrides), "env": zero(stage), **more}

        stop_after(made, f"one-two-{stage}", *GROUPED)
        runs += [
            run("dude", *GROUPED),
            run("full", *FULL),
            run("checkpointing", *CHECKPOINTING),
            run("whole", *WHOLE),
            run("parts", *WHOLE, sigterm_at=6),
            run("parts", *WHOLE, resume="auto"),
            run("two-one", *GROUPED, sigterm_at=6),
            run("one-two", *GROUPED, resume="auto"),
            run("nan", nan_at=6),
        ]
    names = [Path(run["raw"]["output"]).name for run in runs]
    done = launch(made.folder / "out", runs, DS_ACCELERATOR="cpu")
    _, errors = done.communicate(timeout=500)
    assert done.returncode == 0, errors[-3000:]
    results = json.loads((made.folder / "out.json").read_text())
    return made, {name: [r for n, r in zip(names, results, strict=True) if n == name] for name in names}


@needs_deepspeed
@pytest.mark.supports(base="float32", engine=["ZeRO-2", "ZeRO-3"], method=["DuDe", "LoRA"])
@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize(("name", "overrides"), [("dude", GROUPED), ("full", FULL), ("checkpointing", CHECKPOINTING)])
def test_one_process_and_two_train_the_same(both: Any, name: str, overrides: tuple[str, ...], stage: int) -> None:
    from dude_lab.config.yaml_file import parse_run

    made, results = both
    two, alone = made.folder / f"{name}-{stage}", made.folder / f"{name}-alone"
    train(parse_run(changed(made, alone.name, *overrides)), resume="auto")
    ((first, second),) = results[two.name]
    assert first["record"] == second["record"] == json.loads((two / "run.json").read_text())
    assert first["record"]["provenance"]["hardware"]["engine"] == f"zero{stage}"
    one, other = steps(alone), steps(two)
    assert [r["step"] for r in one] == [r["step"] for r in other]
    assert [r["tokens"] for r in one] == [r["tokens"] for r in other]
    norms = [key for key in one[0] if key.startswith("grad_norm")]
    for key in ("loss", "learning_rate", "token_accuracy", *norms):
        close([r[key] for r in other], [r[key] for r in one], 1e-4 if "norm" in key else 1e-6)
    close([r["eval_loss"] for r in evaluations(two)], [r["eval_loss"] for r in evaluations(alone)], 1e-6)
    want, got = adapter(alone), adapter(two)
    assert want.keys() == got.keys()
    for key, value in want.items():
        assert (got[key] - value).abs().max() <= 1e-5 * value.abs().max().clamp_min(1e-3), key


@needs_deepspeed
def test_what_it_saves_is_loaded_by_peft(both: Any) -> None:
    """As stock DoRA, by PEFT alone, in one process."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    made, _ = both
    base = AutoModelForCausalLM.from_pretrained(made.raw["model"])
    ids = torch.arange(1, 9)[None]
    before = base(ids).logits
    model = PeftModel.from_pretrained(base, str(made.folder / "dude-3" / "adapter"))
    assert (model(ids).logits - before).abs().max() > 1e-2


@needs_deepspeed
@pytest.mark.supports(base="float32", engine=["ZeRO-2", "ZeRO-3"], method="PiSSA")
@pytest.mark.parametrize("stage", [2, 3])
def test_stopped_in_one_process_and_resumed_is_the_same_run(both: Any, stage: int) -> None:
    """With dropout, evaluations and a method whose initial adapter is saved: bit for bit."""
    made, results = both
    stopped, resumed = results[f"parts-{stage}"]
    assert [r["kind"] for r in stopped] == ["Interrupted", "Interrupted"]
    assert resumed[0]["record"]["training"]["steps"] == 9
    whole, parts = made.folder / f"whole-{stage}", made.folder / f"parts-{stage}"
    assert steps(parts) == steps(whole) and evaluations(parts) == evaluations(whole)
    assert [r["step"] for r in evaluations(whole)] == [0, 4, 8, 9]
    assert all(torch.equal(value, adapter(parts)[key]) for key, value in adapter(whole).items())


@needs_deepspeed
@pytest.mark.parametrize("stage", [2, 3])
def test_a_run_is_resumed_with_another_number_of_processes(both: Any, stage: int) -> None:
    """By one process without DeepSpeed, and a run of one process by two."""
    from dude_lab.config.yaml_file import parse_run

    made, results = both
    names = f"two-one-{stage}", f"one-two-{stage}"
    assert [r["kind"] for r in results[names[0]][0]] == ["Interrupted", "Interrupted"]
    assert results[names[1]][0][0]["record"]["provenance"]["hardware"]["engine"] == f"zero{stage}"
    train(parse_run(changed(made, names[0], *GROUPED)), resume="auto")
    want = adapter(made.folder / f"dude-{stage}")
    for name in names:
        got = adapter(made.folder / name)
        for key, value in want.items():
            assert (got[key] - value).abs().max() <= 1e-5 * value.abs().max().clamp_min(1e-3), (name, key)
        close(*([r["loss"] for r in steps(made.folder / run)] for run in (name, f"dude-{stage}")))


@needs_deepspeed
@pytest.mark.parametrize("stage", [2, 3])
def test_a_loss_that_is_not_finite_in_one_process_stops_all(both: Any, stage: int) -> None:
    _, results = both
    (nan,) = results[f"nan-{stage}"]
    assert [r["kind"] for r in nan] == ["DudeError", "OtherProcess"]
    assert "the loss was not finite at step 6" in nan[0]["error"] and "checkpoint-4 is the last" in nan[0]["error"]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}, r"zero_stage: 1 is not supported, only 2 and 3 are.*zero2\.yaml"),
        ({"ACCELERATE_DEEPSPEED_CONFIG_FILE": "ds.json"}, r"deepspeed_config_file: ds\.json: .*reads no config"),
        (
            {"ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu"},
            "offload_param_device: cpu: offloading by DeepSpeed is not supported",
        ),
        ({}, r"DeepSpeed is not installed\. Install it \(pip install deepspeed\), or use FSDP2"),
    ],
)
def test_what_is_not_supported_is_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, value in {"WORLD_SIZE": "2", **zero(2), **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DudeError, match=message):
        engine()


def test_the_stage_chooses_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert engine() == "ddp"
    monkeypatch.setenv("WORLD_SIZE", "2")
    for stage in (2, 3):
        for name, value in zero(stage).items():
            monkeypatch.setenv(name, value)
        assert engine() == f"zero{stage}"


@pytest.mark.rejects(base="NF4", engine=["FSDP2", "ZeRO-3"], method=["DuDe", "LoRA"])
def test_quantised_bases_and_float16_are_refused(tiny: Tiny) -> None:  # noqa: F811
    from dude_lab.training.run_plan import make_plan

    plan = make_plan(tiny.settings())
    check_engine(plan, "zero3")
    plan.base.config.quantization_config = {"quant_method": "bitsandbytes"}
    check_engine(plan, "zero2")
    for name, title in (("zero3", "ZeRO-3"), ("fsdp2", "FSDP2")):
        with pytest.raises(DudeError, match=rf"{title} does not shard quantised weights\. Use ZeRO-2 or DDP"):
            check_engine(plan, name)
    half = replace(plan, base=replace(plan.base, dtype=torch.float16, device="cuda"))
    with pytest.raises(DudeError, match=r"ZeRO-2 without a loss scaler does not train float16\. Use bfloat16"):
        check_engine(half, "zero2")
