"""Promise: experts named in the YAML are counted, trained, resumed, loaded and merged, and compared like with like."""

from __future__ import annotations

import shutil

import pytest
import tiny_models as models
import tiny_run
import torch
from peft import get_peft_model

from dude_lab.compare.rows import expand_rows
from dude_lab.config.compare_settings import parse_comparison
from dude_lab.config.yaml_file import fingerprint
from dude_lab.methods import build, parse_method
from dude_lab.training.run_plan import as_table, make_plan, trainable_part
from dude_peft import DudeError

EXPERTS = {"target_parameters": models.EXPERTS, "target_modules": []}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny Mixtral with the tokenizer of the other training tests."""
    from transformers import AutoConfig, AutoModelForCausalLM, MixtralConfig

    folder = tiny_run.write_base(tmp_path_factory.mktemp("mixture"))
    config = MixtralConfig(
        vocab_size=AutoConfig.from_pretrained(folder).vocab_size,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.supports(base="experts", engine="one process", method=["DuDe", "LoRA"])
@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
@pytest.mark.parametrize(
    ("method", "gate_up"),
    [
        ({"name": "dude"}, 2 * (3 * (48 + 80) + 80)),
        ({"name": "dude", "magnitude_axis": "in"}, 2 * (3 * (48 + 80) + 48)),
        ({"name": "lora"}, 3 * (48 + 160)),
    ],
)
def test_the_count_is_the_formula_and_the_real_model(method, gate_up, kind):
    settings = parse_method({**method, **EXPERTS, "r": 3})
    model = models.mixture(kind)
    part = trainable_part(model, settings)
    down = 3 * (48 + 80) + {"dude": 80 if "magnitude_axis" in method else 48, "lora": 0}[method["name"]]
    real = get_peft_model(model, build(settings))
    trained = sum(p.numel() for p in real.parameters() if p.requires_grad)
    assert part.trainable == trained == 2 * 4 * (gate_up + down)
    assert part.frozen == sum(p.numel() for n, p in real.named_parameters() if ".lora_dude." in n)


@pytest.fixture
def run(base, tmp_path):
    made = tiny_run.Tiny(base, tmp_path)
    made.raw["method"] = {"name": "dude", "r": 2, "target_modules": ["q_proj"], "target_parameters": models.EXPERTS}
    made.raw["train"] |= {"steps": 4, "save_every": 2}
    return made


def test_a_run_is_planned_trained_resumed_and_merged(run, tmp_path):
    from dude_lab.training.finished_run import load_run
    from dude_lab.training.merging import merge
    from dude_lab.training.train_run import train

    settings = run.settings()
    plan = make_plan(settings)
    rows = {row["module"]: (row["shape"], row["count"]) for row in as_table(plan)}
    assert rows == {
        "model.layers.*.self_attn.q_proj": ((32, 32), 2),
        "model.layers.*.mlp.experts.gate": ((24, 32), 8),
        "model.layers.*.mlp.experts.up": ((24, 32), 8),
        "model.layers.*.mlp.experts.down": ((32, 24), 8),
    }
    train(settings)
    _, loaded = load_run(run.output, device="cpu")
    trained = [p for n, p in loaded.named_parameters() if ".experts.lora_A." in n]
    assert len(trained) == 6 and all(p.abs().sum() > 0 for p in trained)
    merge(run.output, tmp_path / "merged")  # checks the logits itself
    weights = run.output / "adapter" / "adapter_model.safetensors"
    wanted = weights.read_bytes()
    shutil.rmtree(run.output / "adapter")
    shutil.rmtree(run.output / "checkpoints" / "checkpoint-4")
    (run.output / "run.json").unlink()
    train(settings, resume="auto")  # after step 2
    assert weights.read_bytes() == wanted


def test_mistakes_are_named_before_anything_is_written(run):
    run.raw["method"]["target_parameters"] = ["experts.gate_up"]
    with pytest.raises(DudeError, match=r"'experts\.gate_up' matches no parameter .*experts\.gate_up_proj"):
        make_plan(run.settings())
    run.raw["method"] = {"name": "lora", "lora_dropout": 0.1, **EXPERTS}
    with pytest.raises(DudeError, match="PEFT's LoRA has no dropout on experts"):
        make_plan(run.settings())
    with pytest.raises(DudeError, match="'dora' has no key 'target_parameters'"):
        parse_method({"name": "dora", **EXPERTS})
    with pytest.raises(DudeError, match="name at least one module"):
        parse_method({"name": "dude", "target_modules": []})
    with pytest.raises(DudeError, match="an empty list"):
        parse_method({"name": "dude", "target_parameters": []})
    assert not run.output.exists()


def test_a_run_without_experts_has_the_fingerprint_of_older_runs(run):
    run.raw["method"] = {"name": "dude", "r": 4, "target_modules": ["q_proj"]}
    first = fingerprint(run.settings())
    run.raw["method"]["target_parameters"] = models.EXPERTS
    assert fingerprint(run.settings()) != first


def comparison(methods, shared):
    raw = {"run": {"model": "mini"}, "methods": methods, "shared": shared, "learning_rates": [1e-3], "output": "x"}
    return expand_rows(parse_comparison(raw), "c.yaml")


def test_a_comparison_adapts_the_experts_by_every_method_or_by_none():
    assert len(comparison(["dude", "dude_a", "lora", "full"], EXPERTS)) == 4
    with pytest.raises(DudeError, match=r"adapt different experts .*lora-r16: experts.*dora-r16: none.*leave it out"):
        comparison(["lora", "dora"], EXPERTS | {"target_modules": "all-linear"})
    with pytest.raises(DudeError, match="adapt different experts"):
        comparison([{"name": "dude", **EXPERTS}, "lora"], {})
