"""Promise: TRL's DPO and GRPO train a DuDe adapter of the embedded model, as the examples show."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from dude_lab.mini import model_dir
from dude_peft import load_adapter


@pytest.mark.parametrize(
    ("name", "said"), [("dpo", r"right answer preferred: [\d.]+%"), ("grpo", r"mean reward [\d.]+ -> [\d.]+")]
)
def test_an_example_trains_and_saves_a_dude_adapter(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "2"])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    assert re.search(said, capsys.readouterr().out)
    base = AutoModelForCausalLM.from_pretrained(model_dir())
    model = load_adapter(base, tmp_path / name / "adapter")
    moved = [
        float((module.lora_B["default"].weight - module.lora_dude["default"].lora_B0).abs().max())
        for module in model.modules()
        if "default" in getattr(module, "lora_dude", {})
    ]
    assert moved and max(moved) > 0
