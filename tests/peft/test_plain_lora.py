"""Promise: importing dude_peft changes nothing for users of a plain LoraConfig, and PEFT's internals have one room."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models as models
import torch
from conftest import ROOT
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraModel

OPTIONS = [
    {},
    {"use_dora": True},
    {"init_lora_weights": "pissa"},
    {"use_rslora": True, "modules_to_save": ["lm_head"], "bias": "lora_only"},
]
TRAIN = """
import sys, torch
torch.set_num_threads(1)
if sys.argv[1] == "with":
    import dude_peft
    dude_peft.DudeConfig
sys.path.insert(0, sys.argv[2])
import tiny_models as models
from peft import LoraConfig, get_peft_model
result = []
for options in {options!r}:
    base = models.llama()
    torch.manual_seed(3)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **options)
    model = get_peft_model(base, config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        model(input_ids=models.tokens(), labels=models.tokens()).loss.backward()
        optimizer.step()
    from peft import get_peft_model_state_dict
    result.append(dict(get_peft_model_state_dict(model), logits=models.logits(model)))
torch.save(result, sys.argv[3])
"""


def test_training_a_plain_adapter_gives_the_same_bits(tmp_path):
    # models.py itself imports dude_peft, lazily for the names it needs: the process without it gets a stand-in
    path = ROOT / "tests" / "support" / "tiny_models.py"
    source = path.read_text().replace("from dude_peft import DudeConfig", "DudeConfig = None")
    results = []
    for way in ("without", "with"):
        folder = tmp_path / way
        folder.mkdir()
        (folder / "tiny_models.py").write_text(source)
        script = TRAIN.format(options=OPTIONS)
        done = subprocess.run(
            [sys.executable, "-c", script, way, str(folder), str(folder / "out")], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        results.append(torch.load(folder / "out"))
    for plain, beside in zip(*results, strict=True):
        assert plain.keys() == beside.keys()
        assert all(torch.equal(plain[name], beside[name]) for name in plain)


def test_plain_configs_get_the_stock_layer():
    model = get_peft_model(models.llama(), LoraConfig(target_modules=["q_proj"], use_dora=True))
    assert isinstance(model.base_model, LoraModel)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    assert type(layer).__module__.startswith("peft.") and not hasattr(layer, "lora_dude")
    assert type(layer.lora_variant["default"]).__module__.startswith("peft.")


def test_importing_the_package_alone_imports_neither_torch_nor_peft():
    code = "import sys, dude_peft; assert not {'torch', 'peft', 'transformers'} & set(sys.modules), 'heavy import'"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_an_unknown_name_is_an_attribute_error():
    import dude_peft

    with pytest.raises(AttributeError, match="DudeConfg"):
        dude_peft.DudeConfg  # noqa: B018
    assert set(dude_peft.__all__) == set(dir(dude_peft))


KNOW_PEFT = {
    "dude_peft/model.py",
    "dude_peft/hotswap.py",
    "dude_peft/suitable.py",
    "dude_peft/targets.py",
    "dude_peft/layer.py",
    "dude_peft/experts.py",
    "dude_peft/convert.py",
    "dude_peft/baselines/tuner.py",
    "dude_peft/baselines/lora_xs.py",
    "dude_peft/baselines/shifted_lora.py",
    "dude_lab/methods/registry.py",
    "dude_lab/training/sharding.py",
    "dude_lab/training/zero.py",
}


def test_few_modules_import_peft_internals():
    """Everywhere else only what `peft` itself exports is imported."""
    for path in (ROOT / "src").rglob("*.py"):
        if path.relative_to(ROOT / "src").as_posix() in KNOW_PEFT:
            continue
        for node in ast.walk(ast.parse(Path(path).read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [m for m in modules if m.startswith("peft.")], path
