"""Promise: an adapter on a model that FSDP2 shards trains, saves and loads as in a single process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import tiny_models as models
import torch
from conftest import ROOT, assert_close
from peft import get_peft_model
from safetensors.torch import load_file

PROCESS = """
import sys, torch
torch.set_num_threads(1)
rank, folder = int(sys.argv[1]), sys.argv[2]
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from peft import get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
import tiny_models as models
from dude_peft import DudeError, load_adapter

dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))

def shard(model):
    for layer in model.get_submodule("base_model.model.model.layers"):
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)

def adapted(**options):
    return get_peft_model(models.llama(), models.config_for("llama", modules_to_save=["lm_head"], **options)).eval()

model = adapted()
models.move(model, 0.05)
shard(model).save_pretrained(f"{folder}/sharded", is_main_process=rank == 0)
dist.barrier()
state = load_file(f"{folder}/single/adapter_model.safetensors")
other = shard(adapted(init_variant="dude_a"))  # another start: A0, B0 and P0 have to come from the file
set_peft_model_state_dict(other, state)
same = shard(adapted())  # the same start, as when training is resumed
set_peft_model_state_dict(same, state)
logits = [models.logits(m) for m in (model, other, same)]
other.save_pretrained(f"{folder}/again", is_main_process=rank == 0)
for name in ("lm_head.weight", "model.norm.weight"):
    try:
        set_peft_model_state_dict(same, {**state, f"base_model.model.x.{name}": torch.zeros(3)})
        raise SystemExit("accepted a foreign entry")
    except DudeError:
        pass
model = adapted().train()
shard(model)
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.SGD(trained, lr=0.5)
for _ in range(2):
    for _ in range(3):
        model(input_ids=models.tokens(), labels=models.tokens()).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
assert all(module.lora_dude["default"]._micro_steps is None for module in models.dude_layers(model).values())
model.save_pretrained(f"{folder}/accumulated", is_main_process=rank == 0)
base = models.llama()
for layer in base.model.layers:
    fully_shard(layer, mesh=mesh)
for add in (lambda: load_adapter(base, f"{folder}/single"), lambda: get_peft_model(base, models.config_for("llama"))):
    try:
        add()
        raise SystemExit("accepted a sharded base")
    except DudeError as error:
        assert "is sharded over processes" in str(error) and "Add or load the adapter first" in str(error), error
assert not any("lora" in name for name, _ in base.named_modules())
if rank == 0:
    torch.save(logits, f"{folder}/logits")
dist.destroy_process_group()
"""


@pytest.mark.supports(base="float32", engine="FSDP2", method="DuDe")
def test_two_processes_save_and_load_as_one_does(tmp_path):
    model = get_peft_model(models.llama(), models.config_for("llama", modules_to_save=["lm_head"])).eval()
    models.move(model, 0.05)
    model.save_pretrained(str(tmp_path / "single"))
    want = models.logits(model)
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests" / "support")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROCESS]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    model = get_peft_model(models.llama(), models.config_for("llama", modules_to_save=["lm_head"])).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        for _ in range(3):
            model(input_ids=models.tokens(), labels=models.tokens()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(str(tmp_path / "one"))
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(e[-3000:] for e in errors)
    for name in ("sharded", "again"):
        got, one = (load_file(tmp_path / n / "adapter_model.safetensors") for n in (name, "single"))
        assert got.keys() == one.keys() and all(torch.equal(got[k], one[k]) for k in one), name
    file = "adapter_model.safetensors"
    got, one = (load_file(tmp_path / n / file) for n in ("accumulated", "one"))
    assert got.keys() == one.keys()
    for name in one:
        assert_close(got[name], one[name])
    assert (tmp_path / "sharded" / file).read_bytes() == (tmp_path / "single" / file).read_bytes()
    for logits in torch.load(tmp_path / "logits"):
        assert_close(logits, want)


def test_parameters_without_values_are_not_saved_as_an_adapter():
    from dude_peft import DudeError
    from dude_peft.checkpoint import to_stored

    model = get_peft_model(models.llama(), models.config_for("llama", target_modules=["q_proj"]))
    state = {k: v for k, v in model.state_dict().items() if "lora_" in k}
    for emptied in ("lora_A.default", "lora_dude.default.lora_B0"):
        partial = {k: (v.new_empty(0) if emptied in k else v) for k, v in state.items()}
        with pytest.raises(DudeError, match="have no values in this process"):
            to_stored(partial, "out", ".default")


def test_the_shape_of_a_partitioned_weight_is_known_and_its_values_are_not():
    """As ZeRO-3 leaves a parameter between the forwards."""
    from dude_peft import DudeError
    from dude_peft.base_weight import dense_weight, weight_shape

    layer = torch.nn.Linear(3, 5)
    weight = layer.weight
    weight.ds_shape, weight.ds_numel, weight.data = weight.shape, weight.numel(), torch.empty(0)
    assert weight_shape(layer) == (5, 3)
    with pytest.raises(DudeError, match=r"'x' is divided among processes by DeepSpeed's ZeRO-3.*load it on the base"):
        dense_weight(layer, "x")
