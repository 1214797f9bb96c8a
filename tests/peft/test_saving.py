"""Promise: reloaded = saved, bit for bit by us and equal in stock PEFT; no SVD at load; a wrong file is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import tiny_models as models
import torch
from conftest import AXES, DTYPES, VARIANTS, assert_close
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from dude_peft import DudeError, load_adapter


def moved(family="llama", dtype=torch.float32, size=0.05, **options):
    model = get_peft_model(models.FAMILIES[family](dtype), models.config_for(family, **options)).eval()
    models.move(model, size)
    return model


@pytest.fixture
def no_svd(monkeypatch):
    from dude_peft import layer, svd

    def refuse(*args, **kwargs):
        raise AssertionError("decomposed at load")

    monkeypatch.setattr(layer, "cached_triplets", refuse)
    monkeypatch.setattr(svd, "top_singular_triplets", refuse)


def assert_same_state(got, want):
    got, want = got.state_dict(), want.state_dict()
    assert got.keys() == want.keys()
    for name in want:
        assert got[name].dtype == want[name].dtype and torch.equal(got[name], want[name]), name


@pytest.mark.parametrize("variant", [*VARIANTS, "random"])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_parameter_and_frozen_start_comes_back(tmp_path, request, dtype, axis, variant):
    model = moved(dtype=dtype, magnitude_axis=axis, init_variant=variant, lora_alpha=6)
    model.save_pretrained(str(tmp_path))
    request.getfixturevalue("no_svd")
    again = load_adapter(models.llama(dtype), tmp_path)
    assert_same_state(again, model)
    assert torch.equal(models.logits(again), models.logits(model))


@pytest.mark.parametrize("family", ["gpt2", "phi3", "qwen2", "mini"])
def test_every_architecture(tmp_path, family):
    model = moved(family)
    model.save_pretrained(str(tmp_path))
    assert_same_state(load_adapter(models.FAMILIES[family](), tmp_path), model)
    stock = PeftModel.from_pretrained(models.FAMILIES[family](), str(tmp_path)).eval()
    assert_close(models.logits(stock), models.logits(model))


@pytest.mark.parametrize("options", [{"use_rslora": True, "lora_alpha": 5}, {"rank_pattern": {"q_proj": 2}}], ids=str)
def test_scaling_and_patterns_reach_stock_peft(tmp_path, options):
    model = moved(**options)
    model.save_pretrained(str(tmp_path))
    stock = PeftModel.from_pretrained(models.llama(), str(tmp_path)).eval()
    assert_close(models.logits(stock), models.logits(model))
    assert_same_state(load_adapter(models.llama(), tmp_path), model)


STOCK = """
import sys
class Absent:
    def find_spec(self, name, *rest):
        if name.split(".")[0] == "dude_peft":
            raise ImportError("dude_peft is not installed here")
sys.meta_path.insert(0, Absent())
import torch
torch.set_num_threads(1)
from transformers import AutoModelForCausalLM
from peft import PeftModel
base = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
model = PeftModel.from_pretrained(base, sys.argv[2])
direct = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
direct.load_adapter(sys.argv[2])
ids = torch.load(sys.argv[3])
with torch.no_grad():
    torch.save([model(ids).logits, direct(ids).logits], sys.argv[4])
assert not any(name.startswith("dude_peft") for name in sys.modules)
"""
OURS = """
import sys, torch
torch.set_num_threads(1)
from transformers import AutoModelForCausalLM
from dude_peft import load_adapter
model = load_adapter(AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval(), sys.argv[2])
with torch.no_grad():
    torch.save([model(torch.load(sys.argv[3])).logits], sys.argv[4])
"""


def test_a_fresh_process_with_and_without_dude_peft(tmp_path):
    from transformers import AutoModelForCausalLM

    models.llama().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    model = get_peft_model(base, models.config_for("llama")).eval()
    models.move(model, 0.05)
    model.save_pretrained(str(tmp_path / "adapter"))
    torch.save(models.tokens(), tmp_path / "ids")
    want = models.logits(model)
    results = []
    for script in (STOCK, OURS):
        paths = [str(tmp_path / name) for name in ("base", "adapter", "ids", "out")]
        done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        results.append(torch.load(tmp_path / "out"))
    (peft, transformers), (ours,) = results
    assert_close(peft, want)
    assert_close(transformers, want)  # transformers drops magnitudes whose key lacks ".weight"
    assert torch.equal(ours, want)


def one_step(model, optimizer=None):
    optimizer = optimizer or torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(input_ids=models.tokens(), labels=models.tokens()).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


@pytest.mark.parametrize("axis", AXES)
def test_training_goes_on_where_it_stopped(tmp_path, axis):
    model = moved(magnitude_axis=axis).train()
    optimizer = one_step(model)
    model.save_pretrained(str(tmp_path))
    again = load_adapter(models.llama(), tmp_path, is_trainable=True).train()
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    one_step(model, optimizer)
    one_step(again)
    assert_same_state(again, model)


def test_loaded_for_use_it_is_frozen_and_in_eval_mode(tmp_path):
    moved().save_pretrained(str(tmp_path))
    model = load_adapter(models.llama(), tmp_path)
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_second_adapter_from_a_subfolder_and_modules_to_save(tmp_path):
    model = moved(target_modules=["q_proj"], modules_to_save=["lm_head"])
    model.add_adapter("math", models.config_for("llama", target_modules=["v_proj"], r=2))
    models.move(model, 0.05, seed=2, adapter="math")
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight += 0.1
    model.eval().save_pretrained(str(tmp_path))  # an added adapter is in training mode, a loaded one is not
    again = load_adapter(models.llama(), tmp_path)
    load_adapter(again, tmp_path, "math", subfolder="math")
    for name in ("default", "math"):
        model.set_adapter(name)
        again.set_adapter(name)
        assert torch.equal(models.logits(again), models.logits(model))
    with pytest.raises(DudeError, match="'math'"):
        load_adapter(again, tmp_path, "math", subfolder="math")


def test_the_bf16_file_of_a_float32_adapter_keeps_small_updates(tmp_path):
    """The difference form: what is cast to bfloat16 is the update, not the update's place beside something large."""
    model = moved(size=1e-3)
    model.save_pretrained(str(tmp_path))
    path = tmp_path / "adapter_model.safetensors"
    state = load_file(path)
    save_file({k: (v if "magnitude" in k else v.bfloat16()) for k, v in state.items()}, path, {"format": "pt"})
    base = models.logits(models.llama())
    stock = PeftModel.from_pretrained(models.llama(), str(tmp_path)).eval()
    want = models.logits(model) - base
    error = (models.logits(stock) - base - want).norm() / want.norm()
    assert error < 0.01


def test_axis_in_has_no_stock_form_and_stock_peft_says_so(tmp_path):
    moved(magnitude_axis="in").save_pretrained(str(tmp_path))
    with pytest.raises(KeyError, match="DUDE_IN"):
        PeftModel.from_pretrained(models.llama(), str(tmp_path))


def saved(tmp_path, **options):
    moved(**options).save_pretrained(str(tmp_path))
    return tmp_path / "adapter_model.safetensors"


def rewrite(path, change):
    """Change the entries of an adapter file and forget its hash, as someone who edits it on purpose would."""
    state = load_file(path)
    change(state)
    save_file(state, path, {"format": "pt"})
    config = path.with_name("dude_config.json")
    raw = json.loads(config.read_text())
    raw.pop("weights_sha256")
    config.write_text(json.dumps(raw))


def first(state, part):
    return next(k for k in state if part in k)


def test_truncated_file(tmp_path):
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DudeError, match=r"adapter_model\.safetensors: not a readable safetensors file"):
        load_adapter(models.llama(), tmp_path)


def test_altered_file(tmp_path):
    path = saved(tmp_path)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    base = models.llama()
    with pytest.raises(DudeError, match="SHA-256 differs"):
        load_adapter(base, tmp_path)
    assert not any("lora" in name for name, _ in base.named_modules())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(first(s, "lora_B")), "no entry .*lora_B"),
        (lambda s: s.pop(first(s, "magnitude")), "no entry .*magnitude"),
        (
            lambda s: s.update({first(s, "lora_A"): torch.zeros(8, 5)}),
            r"lora_A.* has shape \(8, 5\), expected \(8, 80\)",
        ),
        (lambda s: s[first(s, "lora_A")].fill_(float("nan")), "not finite"),
        (
            lambda s: s.update({"base_model.model.other.lora_A.weight": torch.zeros(8, 5)}),
            "'base_model.model.other.lora_A.weight' belong to no module",
        ),
    ],
)
def test_damaged_entries(tmp_path, change, message):
    rewrite(saved(tmp_path), change)
    base = models.llama()
    with pytest.raises(DudeError, match=message):
        load_adapter(base, tmp_path)
    assert not any("lora" in name for name, _ in base.named_modules())


def test_adapter_of_another_base(tmp_path):
    saved(tmp_path)
    with pytest.raises(DudeError, match=r"matches no module|belong to no module"):
        load_adapter(models.gpt2(), tmp_path)
    same_shapes = models.llama()
    for parameter in same_shapes.parameters():
        torch.nn.init.normal_(parameter)
    with pytest.raises(DudeError, match=r"another base model: the initial factors of '.*q_proj'"):
        load_adapter(same_shapes, tmp_path)
    from transformers import LlamaForCausalLM

    config = models.llama().config
    config.intermediate_size = 64
    with pytest.raises(
        DudeError,
        match=r"does not fit .*gate_proj.*\(80, 8\), expected \(64, 8\) .* shape \(64, 48\)",
    ):
        load_adapter(LlamaForCausalLM(config), tmp_path)


def test_not_a_dude_adapter(tmp_path):
    from peft import LoraConfig

    get_peft_model(models.llama(), LoraConfig(target_modules=["q_proj"])).save_pretrained(str(tmp_path))
    with pytest.raises(DudeError, match=r"no dude_config\.json"):
        load_adapter(models.llama(), tmp_path)
    with pytest.raises(DudeError, match="no such folder"):
        load_adapter(models.llama(), "nobody/nothing", local_files_only=True)
    saved(tmp_path)
    (tmp_path / "dude_config.json").write_text("{")
    with pytest.raises(DudeError, match="as JSON"):
        load_adapter(models.llama(), tmp_path)
    (tmp_path / "dude_config.json").write_text(json.dumps({"format_version": 99}))
    with pytest.raises(DudeError, match="format_version 99"):
        load_adapter(models.llama(), tmp_path)
    (tmp_path / "dude_config.json").write_text(json.dumps({"format_version": 1, "rnk": 3}))
    with pytest.raises(DudeError, match="unknown key 'rnk'"):
        load_adapter(models.llama(), tmp_path)
