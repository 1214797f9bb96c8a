"""`dude export`: the adapter of a run as a plain LoRA, its measured difference from the run, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import relative_error
from test_cli_commands import dude
from tiny_run import Tiny, tiny_base  # noqa: F401

from dude_lab.training.train_run import train


def trained(base: Path, folder: Path, **method: Any) -> Path:
    made = Tiny(base, folder)
    made.raw["method"] = {"r": 4, "target_modules": ["q_proj", "v_proj"], **method}
    made.raw["data"]["validation"] = 0.2
    made.raw["eval"] = {"suite": "mini_csqa", "limit": 3}
    train(made.settings(), evaluate_start=False)
    return made.output


@pytest.fixture(scope="module")
def run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    return trained(tiny_base, tmp_path_factory.mktemp("export"), name="dude")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(3, 40)[None]).logits


def test_the_export_is_loaded_by_peft_and_its_figures_are_right(run: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from dude_lab.training.finished_run import load_run

    out = tmp_path / "lora"
    result = dude("export", run, "-o", out, "--tolerance", "0.02")
    assert result.exit_code == 0, result.output
    facts = json.loads((out / "conversion.json").read_text())
    assert facts["relative_error"] <= 0.02
    assert facts["rank"] == json.loads((out / "adapter_config.json").read_text())["r"]
    assert facts["divergence"]["what"] == "validation examples"
    assert facts["divergence"]["mean"] < facts["divergence"]["from_base"] / 100
    assert facts["divergence"]["mean"] <= facts["divergence"]["largest"]
    after = json.loads((run / "run.json").read_text())["metrics"]["after"]
    assert facts["accuracy"]["task"] == "mini_csqa"
    assert facts["accuracy"]["run"] == after["accuracy"]
    assert set(facts["layers"]) == {f"model.layers.{n}.self_attn.{p}" for n in (0, 1) for p in ("q_proj", "v_proj")}

    base, model = load_run(run)
    stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.source), out)
    assert "lora_dude" not in str(stock)
    assert relative_error(logits(stock), logits(model)) < 0.01
    assert AutoTokenizer.from_pretrained(out).eos_token == "<|end|>"
    card = (out / "README.md").read_text()
    for text in (
        f"rank {facts['rank']}",
        f"--max-lora-rank {facts['rank']}",
        "mean KL divergence",
        "mini_csqa, export",
    ):
        assert text in card
    assert max(map(len, result.output.splitlines())) <= 80 + len(str(out))


def test_a_larger_rank_is_closer(run: Path, tmp_path: Path) -> None:
    found = []
    for rank in (2, 8):
        out = tmp_path / f"lora{rank}"
        assert dude("export", run, "-o", out, "--rank", rank, "--no-eval").exit_code == 0
        facts = json.loads((out / "conversion.json").read_text())
        assert facts["rank"] == rank
        assert facts["accuracy"] is None
        found.append((facts["relative_error"], facts["divergence"]["mean"]))
    assert found[1][0] < found[0][0]
    assert found[1][1] < found[0][1]


def test_without_the_data_it_is_exported_unmeasured(tiny_base: Path, tmp_path: Path) -> None:  # noqa: F811
    run = trained(tiny_base, tmp_path, name="dora")
    (tmp_path / "sums.jsonl").unlink()
    result = dude("export", run, "-o", tmp_path / "lora", "--no-eval")
    assert result.exit_code == 0, result.output
    assert "the divergence is not measured" in result.output.replace("\n", " ")
    facts = json.loads((tmp_path / "lora" / "conversion.json").read_text())
    assert facts["divergence"] is None
    assert not facts["weighted_by_inputs"]


def test_as_dora_is_the_stored_adapter(run: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from dude_lab.training.finished_run import load_run

    out = tmp_path / "dora"
    assert dude("export", run, "-o", out, "--as", "dora").exit_code == 0
    assert not (out / "dude_config.json").exists()
    base, model = load_run(run)
    stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.source), out)
    assert relative_error(logits(stock), logits(model)) < 2e-6


def test_as_merged_has_the_dtype_of_the_bases_files(tiny_base: Path, tmp_path: Path) -> None:  # noqa: F811
    from transformers import AutoModelForCausalLM, AutoTokenizer

    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.bfloat16).save_pretrained(half)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(half)
    run = trained(half, tmp_path, name="dude")
    assert json.loads((run / "run.json").read_text())["provenance"]["model"]["dtype"] == "float32"
    result = dude("export", run, "-o", tmp_path / "merged", "--as", "merged")
    assert result.exit_code == 0, result.output
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        assert (tmp_path / "merged" / name).is_file()
    merged, base = (AutoModelForCausalLM.from_pretrained(f, dtype="auto") for f in (tmp_path / "merged", half))
    assert merged.dtype == torch.bfloat16
    assert not torch.equal(logits(merged), logits(base))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--as", "gguf"], "--as must be"),
        (["--rank", "many"], "--rank many: give a number, or auto"),
        (["--rank", "8", "--tolerance", "0.1"], "--tolerance chooses a rank"),
        (["--rank", "33"], "rank=33: give 1 to 32"),
        (["--tolerance", "2"], "tolerance=2.0: give a share"),
        (["--as", "dora", "--rank", "8"], "belong to --as lora"),
        (["--as", "merged", "--tolerance", "0.1"], "a merged model has no rank"),
    ],
)
def test_wrong_options_write_nothing(run: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    result = dude("export", run, "-o", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")
    assert not list(tmp_path.iterdir())


def test_methods_that_cannot_be_exported_say_what_can(tiny_base: Path, tmp_path: Path) -> None:  # noqa: F811
    for name, options, form, message in (
        ("lora", {}, "lora", "plain LoRA already"),
        ("dude", {"magnitude_axis": "in"}, "dora", "--as dora exports DuDe with magnitude_axis: out"),
    ):
        folder = tmp_path / f"{name}-{form}"
        folder.mkdir()
        result = dude("export", trained(tiny_base, folder, name=name, **options), "-o", folder / "out", "--as", form)
        assert result.exit_code == 2
        assert message in result.output.replace("\n", " ")
        assert not (folder / "out").exists()
