"""Promise: an adapter whose model DeepSpeed's ZeRO-2 or ZeRO-3 partitions trains as in a single process.

`make test-deepspeed` installs DeepSpeed; without it the tests are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs DeepSpeed (make test-deepspeed)")

PROCESS = """
import json, sys, torch
torch.set_num_threads(1)
import deepspeed, deepspeed.ops
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # compiled otherwise
import tiny_models as models
from peft import get_peft_model

stage, folder = int(sys.argv[1]), sys.argv[2]
deepspeed.init_distributed("gloo")
first = torch.distributed.get_rank() == 0

def adapted():
    model = get_peft_model(models.llama(), models.config_for("llama", target_modules="all-linear")).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    return model, trained, torch.optim.SGD(trained, lr=0.5, momentum=0.9)

alone, trained, optimizer = adapted()
model, _, other = adapted()
engine, *_ = deepspeed.initialize(model=model, optimizer=other, config={
    "train_micro_batch_size_per_gpu": 1,
    "gradient_clipping": 0.05,
    "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
    "zero_allow_untested_optimizer": True,
})
losses, ids = [], models.tokens()
for _ in range(4):
    one = alone(input_ids=ids, labels=ids).loss
    one.backward()
    torch.nn.utils.clip_grad_norm_(trained, 0.05)
    optimizer.step()
    optimizer.zero_grad()
    two = engine(input_ids=ids, labels=ids).loss
    engine.backward(two)
    engine.step()
    losses.append((one.item(), two.item()))
parts = [p for name, p in model.named_parameters() if "lora_" in name]
assert stage < 3 or all(p.numel() == 0 for p in parts), "not partitioned"
with deepspeed.zero.GatheredParameters(parts, enabled=stage == 3):
    if first:
        model.save_pretrained(f"{folder}/two")
        alone.save_pretrained(f"{folder}/one")
        open(f"{folder}/losses.json", "w").write(json.dumps(losses))
torch.distributed.barrier()
"""

PARTITIONED = """
import sys, torch
torch.set_num_threads(1)
import deepspeed, deepspeed.ops
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # compiled otherwise
import tiny_models as models
from peft import get_peft_model
from dude_peft import DudeError, distributed_init, load_adapter

deepspeed.init_distributed("gloo")
settings = {
    "train_micro_batch_size_per_gpu": 1,
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
}
config = models.config_for("llama", target_modules="all-linear")

def partitioned():
    base = models.llama()
    deepspeed.zero.Init(module=base, config_dict_or_path=settings)
    assert all(p.numel() == 0 for p in base.parameters()), "not partitioned"
    return base

alone = get_peft_model(models.llama(), config).train()
trained = [p for p in alone.parameters() if p.requires_grad]
optimizer = torch.optim.SGD(trained, lr=0.5)
with distributed_init():
    model = get_peft_model(partitioned(), config).train()
same = dict(alone.named_parameters())
for name, p in model.named_parameters():
    assert "lora_" not in name or torch.equal(p, same[name]), name
models.move(alone, 0.05)
alone.save_pretrained(sys.argv[1] + f"/{torch.distributed.get_rank()}")
model = load_adapter(partitioned(), sys.argv[1] + f"/{torch.distributed.get_rank()}", is_trainable=True).train()
for name, p in model.named_parameters():
    assert "lora_" not in name or torch.equal(p, same[name]), name
try:
    model.merge_adapter()
    raise SystemExit("merged a weight that is not there")
except DudeError as error:
    assert "divided among processes by DeepSpeed's ZeRO-3" in str(error) and "load it on the base" in str(error), error
other = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
engine, *_ = deepspeed.initialize(
    model=model, optimizer=other, config={**settings, "zero_allow_untested_optimizer": True}
)
losses, ids = [], models.tokens()
for _ in range(3):
    one = alone(input_ids=ids, labels=ids).loss
    one.backward()
    optimizer.step()
    optimizer.zero_grad()
    two = engine(input_ids=ids, labels=ids).loss
    engine.backward(two)
    engine.step()
    losses.append(one.item())
    assert abs(one.item() - two.item()) < 1e-6, (one, two)
assert losses[0] - losses[-1] > 1e-3, losses
parts = [p for name, p in model.named_parameters() if "lora_" in name]
with deepspeed.zero.GatheredParameters(parts):
    for name, p in model.named_parameters():
        if "lora_" in name:
            assert (p - same[name]).abs().max() <= 1e-5 * same[name].abs().max().clamp_min(1e-3), name
torch.distributed.barrier()
"""


def run(place, source, *arguments):
    """Run a script in two processes."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests" / "support"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = place / "process.py"
    script.write_text(source)
    done = subprocess.run(
        [*command, str(script), *arguments], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.supports(base="float32", engine="ZeRO-3", method="DuDe")
def test_an_adapter_is_added_to_a_partitioned_base(tmp_path):
    """`deepspeed.zero.Init` first, the adapter second: new or loaded; trained as in one process. Merging is refused."""
    run(tmp_path, PARTITIONED, str(tmp_path))


@pytest.mark.supports(base="float32", engine=["ZeRO-2", "ZeRO-3"], method="DuDe")
@pytest.mark.parametrize("stage", [2, 3])
def test_two_processes_train_as_one_does(tmp_path, stage):
    from safetensors.torch import load_file

    run(tmp_path, PROCESS, str(stage), str(tmp_path))
    losses = json.loads((tmp_path / "losses.json").read_text())
    assert losses[0][0] - losses[-1][0] > 1e-3, losses  # it trains
    assert all(two == pytest.approx(one, abs=1e-6) for one, two in losses), losses
    one, two = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        assert (one[name] - two[name]).abs().max() <= 1e-5 * one[name].abs().max(), name
