"""`model.quantization`: runs on 4 and 8 bits, from the check of the config to the merged model.

`make test-quantized` installs bitsandbytes; the checks that need no weights run everywhere.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest
from test_train_distributed import adapter, changed, close, launch
from test_train_run import steps
from tiny_run import Tiny, tiny_base  # noqa: F401 - a fixture

from dude_lab.config.yaml_file import fingerprint
from dude_lab.training import base_model
from dude_lab.training.finished_run import load_run
from dude_lab.training.merging import merge
from dude_lab.training.run_plan import make_plan
from dude_lab.training.train_run import train
from dude_peft.errors import DudeError

INSTALLED = importlib.util.find_spec("bitsandbytes") is not None
assert INSTALLED or "EXPECTED_QUANTIZED" not in os.environ
needs_bitsandbytes = pytest.mark.skipif(not INSTALLED, reason="bitsandbytes is not installed: make test-quantized")


@pytest.fixture
def run(tiny_base: Path, tmp_path: Path) -> Tiny:  # noqa: F811
    return Tiny(tiny_base, tmp_path)


def test_without_bitsandbytes_the_package_is_named(run: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "find_spec", lambda name: None)
    with pytest.raises(DudeError, match=r"model.quantization: nf4 needs bitsandbytes.*pip install bitsandbytes"):
        make_plan(run.settings("model.quantization=nf4"))


@pytest.mark.rejects(base="NF4", engine="one process", method=["PiSSA", "other methods"])
@pytest.mark.rejects(base="bitsandbytes int8", engine="one process", method="DoRA")
def test_methods_that_cannot_are_refused_before_anything_is_written(run: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "find_spec", lambda name: True)
    for method, words in (
        ("pissa", "method 'pissa' does not train on nf4 weights.*dude, .*lora, dora"),
        ("svft", "method 'svft'"),
        ("full", "full fine-tuning trains the weights themselves"),
    ):
        with pytest.raises(DudeError, match=words):
            make_plan(run.settings("model.quantization=nf4", f"method={method}"))
    with pytest.raises(DudeError, match="method 'dora' does not train on int8"):
        make_plan(run.settings("model.quantization=int8", "method=dora"))
    assert not run.output.exists()


def test_the_estimate_counts_the_bits(run: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "find_spec", lambda name: True)
    plans = {q: make_plan(run.settings(f"model.quantization={q}", "method=dude")) for q in ("null", "int8", "nf4")}
    full, linear = plans["null"].part.total, plans["null"].part.linear
    assert 0 < linear < full and plans["null"].memory.weights == 4 * full
    assert plans["int8"].memory.weights == linear + 4 * (full - linear)
    assert plans["nf4"].memory.weights == int(linear * (0.5 + 1 / 64 + 1 / 4096) + 4 * (full - linear))


def test_runs_without_it_keep_their_names(run: Tiny) -> None:
    plain = run.settings()
    assert plain.resolved()["model"]["quantization"] is None
    assert fingerprint(plain) == fingerprint(run.settings("model.quantization=null"))
    assert fingerprint(plain) != fingerprint(run.settings("model.quantization=nf4"))


@pytest.mark.supports(base="NF4", engine="one process", method=["DuDe", "LoRA", "DoRA"])
@pytest.mark.supports(base="bitsandbytes int8", engine="one process", method="DuDe")
@needs_bitsandbytes
@pytest.mark.parametrize(("method", "bits"), [("dude", "nf4"), ("dude", "int8"), ("lora", "nf4"), ("dora", "nf4")])
def test_a_run_is_trained_loaded_and_merged(
    run: Tiny, method: str, bits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = f"model.quantization={bits}", f"method={method}", "train.learning_rate=0.02"
    monkeypatch.setattr(
        "bitsandbytes.nn.modules.has_avx512bf16", lambda: False
    )  # no repacking: docs/howto/quantized.md
    train(run.settings(*options))
    record = json.loads((run.output / "run.json").read_text())
    assert record["config"]["model"]["quantization"] == bits
    curves = [json.loads(line) for line in (run.output / "curves.jsonl").read_text().splitlines()]
    losses = [one["loss"] for one in curves if "loss" in one]
    assert losses[-1] < losses[0]
    base, model = load_run(run.output)
    kinds = {type(module).__name__ for module in model.modules()}
    assert ("Linear4bit" if bits == "nf4" else "Linear8bitLt") in kinds and base.settings.quantization == bits
    if method == "dude":
        merged = merge(run.output, tmp_path / "merged")
        assert merged.difference < 1e-5 * merged.scale
        assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())


@pytest.mark.supports(base="NF4", engine="DDP", method=["DuDe", "LoRA"])
@needs_bitsandbytes
def test_one_process_and_two_train_the_same(run: Tiny) -> None:
    """In float32, the adapter too: TRL would round it to bfloat16."""
    from dude_lab.config.yaml_file import parse_run

    run.raw["method"]["lora_dropout"] = 0.0
    options = "model.quantization=nf4", "model.dtype=float32", "train.gradient_accumulation=2"
    configs = {name: changed(run, name, *options, f"method.name={name}") for name in ("dude", "lora")}
    alone = {name: changed(run, f"{name}-alone", *options, f"method.name={name}") for name in configs}
    two = launch(run.folder / "out", [{"raw": raw} for raw in configs.values()])
    for raw in alone.values():
        train(parse_run(raw))
    _, errors = two.communicate(timeout=300)
    assert two.returncode == 0, errors[-3000:]
    for name in configs:
        one, other = (run.folder / folder for folder in (f"{name}-alone", name))
        assert json.loads((other / "run.json").read_text())["provenance"]["hardware"]["engine"] == "ddp"
        close([r["loss"] for r in steps(other)], [r["loss"] for r in steps(one)], 1e-6)
        want, got = adapter(one), adapter(other)
        assert any((value.bfloat16().float() != value).any() for key, value in want.items() if "lora_A" in key)
        for key, value in want.items():
            assert (got[key] - value).abs().max() <= 1e-5 * value.abs().max().clamp_min(1e-3), key
