"""Promise: processes that divide the initialisation get the bits of one process, and an error in one reaches all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models as models
import torch
from conftest import ROOT
from peft import get_peft_model

from dude_peft import DudeError, distributed_init
from dude_peft import model as peft_model
from dude_peft.injection import share
from dude_peft.targets import Target

PROCESS = """
import sys, torch
torch.set_num_threads(1)
rank, folder = int(sys.argv[1]), sys.argv[2]
import torch.distributed as dist
from peft import get_peft_model
import tiny_models as models
from dude_peft import DudeError, distributed_init, experts, model as peft_model

dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
decomposed = []

def counted(weight, name, *args):
    decomposed.append(name)
    return decompose(weight, name, *args)

decompose = peft_model.init_from_svd
peft_model.init_from_svd = experts.init_from_svd = counted

def adapter(model):
    return {name: p.detach() for name, p in model.named_parameters() if "lora_" in name}

def both(model, **options):
    with distributed_init():
        return get_peft_model(model, models.config_for("llama", **{"target_modules": "all-linear", **options}))

def error(model, **options):
    try:
        both(model, **options)
    except DudeError as error:
        assert not any("lora" in name for name, _ in model.named_modules())
        return str(error)

found = {"llama": adapter(both(models.llama())), "decomposed": list(decomposed)}
found["in"] = adapter(both(models.llama(torch.bfloat16), magnitude_axis="in", init_variant="dude_a"))
found["float64"] = adapter(both(models.llama(torch.float64)))
mixed = {"target_modules": ["q_proj", "k_proj"], "target_parameters": models.EXPERTS}
found["experts"] = adapter(both(models.mixture("mixtral"), **mixed))
model = models.llama()
if rank == 1:
    with torch.no_grad():
        for p in model.model.layers.parameters():
            p.fill_(torch.nan)
found["nan"] = error(model)
found["missing"] = error(models.llama(), target_modules=["q_proj"] if rank == 0 else ["no_proj"])
found["other"] = error(models.llama(), r=8 if rank == 0 else 4)
del decomposed[:]
if rank == 0:  # without the block nothing is collective
    get_peft_model(models.llama(), models.config_for("llama", target_modules="all-linear"))
found["alone"] = len(decomposed)
torch.save(found, f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("two")
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests" / "support")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    environment.pop("DUDE_CACHE_DIR", None)
    command = [sys.executable, "-c", PROCESS]
    processes = [
        subprocess.Popen([*command, str(rank), str(folder)], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(e[-3000:] for e in errors)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize(
    ("name", "dtype", "options"),
    [
        ("llama", torch.float32, {}),
        ("in", torch.bfloat16, {"magnitude_axis": "in", "init_variant": "dude_a"}),
        ("float64", torch.float64, {}),
        ("experts", torch.float32, {"target_modules": ["q_proj", "k_proj"], "target_parameters": models.EXPERTS}),
    ],
)
def test_two_processes_have_the_bits_of_one(found, name, dtype, options):
    base = models.mixture("mixtral") if name == "experts" else models.llama(dtype)
    model = get_peft_model(base, models.config_for("llama", **{"target_modules": "all-linear", **options}))
    expected = {key: p.detach() for key, p in model.named_parameters() if "lora_" in key}
    for process in found:
        assert process[name].keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(process[name][key], value) and process[name][key].dtype == value.dtype, key
            assert process[name][key].stride() == value.stride(), key


def test_each_process_decomposes_half_of_the_weights(found):
    names = [set(process["decomposed"]) for process in found]
    assert [len(process["decomposed"]) for process in found] == [7, 7]
    assert len(names[0] | names[1]) == 14


def test_an_error_in_one_process_is_raised_in_all(found):
    for key, words in {"nan": "weights that are not finite", "missing": "no_proj"}.items():
        assert words in found[0][key] and words in found[1][key], key
        assert found[0][key] == f"process 1: {found[1][key]}"
    assert all("other targets, ranks or scalings" in process["other"] for process in found)


def test_without_the_block_a_process_decomposes_everything(found):
    assert [process["alone"] for process in found] == [14, 0]


def test_one_process_is_not_divided(monkeypatch):
    """Without a process group the block changes nothing."""
    called = []
    decompose = peft_model.init_from_svd
    monkeypatch.setattr(peft_model, "init_from_svd", lambda *a: called.append(a[1]) or decompose(*a))
    with distributed_init():
        get_peft_model(models.llama(), models.config_for("llama", target_modules="all-linear"))
        with pytest.raises(DudeError, match="no_proj"):
            get_peft_model(models.llama(), models.config_for("llama", target_modules=["no_proj"]))
    assert len(called) == 14


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_are_complete_disjoint_and_of_similar_size(count, monkeypatch):
    from dude_peft import injection

    sizes = {"q": (64, 64), "k": (16, 64), "up": (256, 64), "down": (64, 256)}
    targets = [Target(f"{i}.{name}", shape, 4, 1.0) for i in range(15) for name, shape in sizes.items()]
    shares = []
    for rank in range(count):
        monkeypatch.setattr(injection, "rank_and_count", lambda rank=rank: (rank, count))
        shares.append(share(targets))
        assert shares[-1] == [target for target in targets if target in shares[-1]]  # in the model's order
    assert sorted(target for part in shares for target in part) == sorted(targets)
    cost = [sum(target.shape[0] * target.shape[1] for target in part) for part in shares]
    assert max(cost) <= 1.1 * min(cost)
