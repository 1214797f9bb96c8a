"""Promise: a DuDe adapter on experts is as exact as one on a linear layer, and is never loaded in part."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import warnings
from typing import Any

import pytest
import tiny_models as models
import torch
from conftest import AXES, ROOT, TOLERANCE, assert_close, relative_error
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

from dude_peft import DudeConfig, DudeError, load_adapter, reference
from dude_peft.base_weight import STACKS
from dude_peft.experts import DudeExperts
from dude_peft.targets import find_targets

IDS = models.tokens(2, 24)
LAYER = "model.layers.0.mlp.experts"


def config(**options):
    options = {"r": 4, "target_modules": [], "target_parameters": models.EXPERTS, **options}
    return DudeConfig(task_type="CAUSAL_LM", **options)


def adapted(kind, dtype=torch.float32, size=0.05, implementation="eager", **options):
    model = get_peft_model(models.mixture(kind, dtype, implementation), config(**options)).eval()
    models.move(model, size)
    return model


def experts_of(model, layer=0):
    return next(m for n, m in model.named_modules() if isinstance(m, DudeExperts) and f"layers.{layer}." in n)


def logits(model):
    return models.logits(model, IDS)


def base_values(model):
    return {n: p.detach().clone() for n, p in model.named_parameters() if ".lora_" not in n}


def assert_bits(model, before):
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in before.items())


@pytest.mark.supports(base="experts", engine="one process", method=["DuDe", "DuDe, axis in"])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", models.MIXTURES)
def test_at_initialisation_the_model_is_the_base_bit_for_bit(kind, dtype, axis):
    base = models.mixture(kind, dtype)
    plain, before = logits(base), {n: p.detach().clone() for n, p in base.named_parameters()}
    model = get_peft_model(base, config(magnitude_axis=axis))
    assert torch.equal(logits(model.eval()), plain)
    output = model.train()(IDS, labels=IDS)
    assert torch.equal(output.logits, plain)
    output.loss.backward()
    assert {n.rpartition(".lora_")[0] for n, p in model.named_parameters() if p.requires_grad} == {
        f"base_model.model.model.layers.{layer}.mlp.experts" for layer in (0, 1)
    }
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    unloaded = model.unload()
    assert_bits(unloaded, before)
    assert torch.equal(logits(unloaded), plain)


@pytest.mark.parametrize("implementation", ["grouped_mm", "batched_mm"])
@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
def test_other_implementations_differ_by_the_order_of_their_sums(kind, implementation):
    base = models.mixture(kind, implementation=implementation)
    plain = logits(base)
    assert_close(logits(get_peft_model(base, config()).eval()), plain)


def dense_experts(layer, adapter, dtype):
    """The experts with W' of the reference as their parameters, and the leaves from which they are made."""
    experts = copy.deepcopy(layer.base_layer).to(dtype)
    leaves, values = {}, {}
    for name, start in layer.lora_dude[adapter].items():
        stack, s = layer.stacks[name], layer.stack_scaling(adapter, name)
        leaves[name] = [p.detach().to(dtype).requires_grad_() for p in layer.trained(adapter, name)]
        made = []
        for e, W0 in enumerate(stack.weight(getattr(experts, stack.parameter).detach())):
            A0, B0 = start.lora_A0[e].to(dtype), start.lora_B0[e].to(dtype)
            dA, dB, m = (p[e] for p in leaves[name])
            made.append(reference.composed_weight(m, W0 - s * B0 @ A0, A0 + dA, B0 + dB, s, start.axis))
        values.setdefault(stack.parameter, []).append((stack, torch.stack(made)))
    parameters = {}
    for name, parts in values.items():
        interleaved, transposed = parts[0][0].interleaved, parts[0][0].transposed
        made = [weight for _, weight in parts]
        whole = torch.stack(made, dim=2).flatten(1, 2) if interleaved else torch.cat(made, dim=1)
        parameters[name] = whole.transpose(1, 2) if transposed else whole
    return experts, parameters, leaves


def inputs(layer, dtype, count=21, seed=0):
    generator = torch.Generator().manual_seed(seed)
    stack, base = layer.stacks["up"], layer.base_layer
    _, k = stack.shape(getattr(base, stack.parameter))
    x = torch.randn(count, k, generator=generator, dtype=torch.float64)
    scores = torch.rand(count, base.num_experts, generator=generator, dtype=torch.float64)
    weights, index = scores.softmax(-1).topk(2)
    return x.to(dtype).requires_grad_(), index, weights.to(dtype).requires_grad_()


@pytest.mark.parametrize("kind", models.MIXTURES)
@pytest.mark.parametrize("axis", AXES)
def test_output_and_gradient_are_those_of_the_dense_formula_in_float64(kind, axis):
    layer = experts_of(adapted(kind, magnitude_axis=axis, lora_alpha=8).train())
    x, index, weights = inputs(layer, torch.float32)
    y = layer(x, index, weights)
    G = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    (y * G).sum().backward()
    experts, parameters, leaves = dense_experts(layer, "default", torch.float64)
    x64, weights64 = (t.detach().double().requires_grad_() for t in (x, weights))
    y64 = torch.func.functional_call(experts, parameters, (x64, index, weights64))
    (y64 * G.double()).sum().backward()
    assert relative_error(y, y64) < 1e-6
    assert relative_error(x.grad, x64.grad) < 1e-6
    assert relative_error(weights.grad, weights64.grad) < 1e-6
    for name in STACKS:
        for got, want in zip(layer.trained("default", name), leaves[name], strict=True):
            assert relative_error(got.grad, want.grad) < 1e-6, name
    with torch.no_grad():  # without a gradient other code runs
        assert relative_error(layer(x, index, weights), y64) < 1e-6


@pytest.mark.parametrize(("kind", "biases"), [("mixtral", False), ("gpt_oss", False), ("gpt_oss", True)])
@pytest.mark.parametrize("axis", AXES)
def test_gradcheck_of_the_whole_forward(kind, biases, axis):
    small = {"hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 1}
    model = models.mixture(kind, torch.float64, **small)
    model = get_peft_model(model, config(r=2, magnitude_axis=axis)).train()
    models.move(model, 0.2)
    layer = experts_of(model)
    x, index, weights = inputs(layer, torch.float64, count=4)
    for name, parameter in layer.base_layer.named_parameters():
        parameter.requires_grad_(biases and name.endswith("bias"))
    trained = [p for p in layer.parameters() if p.requires_grad]

    def forward(x, weights, *_):
        return layer(x, index, weights)

    assert torch.autograd.gradcheck(forward, (x, weights, *trained), fast_mode=True)


@pytest.mark.supports(base="experts", engine="one process", method=["DuDe", "DuDe, axis in"])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", models.MIXTURES)
def test_merged_equals_unmerged_and_unmerging_restores_the_bits(kind, dtype, axis):
    model = adapted(kind, dtype, magnitude_axis=axis)
    before, unmerged = base_values(model), logits(model)
    plain = logits(models.mixture(kind, dtype))
    assert not torch.equal(unmerged, plain)
    model.merge_adapter(safe_merge=axis == "in")
    changed = [n for n, p in model.named_parameters() if n in before and not torch.equal(p, before[n])]
    assert len(changed) == 4
    merged = logits(model)
    assert relative_error(merged, unmerged) < (1e-6 if dtype == torch.float32 else TOLERANCE[dtype])
    with model.disable_adapter():
        assert torch.equal(logits(model), plain)
    assert_bits(model, before)
    assert torch.equal(logits(model), unmerged)
    model.merge_adapter()
    model.unmerge_adapter()
    assert_bits(model, before)
    plain_model = model.merge_and_unload()
    assert not any(".lora_" in name for name, _ in plain_model.named_parameters())
    assert torch.equal(logits(plain_model), merged)


@pytest.mark.supports(base="experts", engine="one process", method="DuDe-A")
@pytest.mark.parametrize("axis", AXES)
def test_two_adapters_compose_switch_and_merge(axis):
    model = adapted("qwen3_moe", magnitude_axis=axis)
    one = logits(model)
    model.add_adapter("second", config(r=2, magnitude_axis=axis, init_variant="dude_a"))
    models.move(model, 0.05, seed=1, adapter="second")
    before = base_values(model)
    assert torch.equal(logits(model), one)
    assert not any(p.requires_grad for n, p in model.named_parameters() if ".second." in n)
    model.set_adapter("second")
    assert not torch.equal(logits(model), one)
    model.base_model.set_adapter(["default", "second"])
    both = logits(model)
    model.merge_adapter(["default", "second"])
    assert relative_error(logits(model), both) < 1e-6
    model.unmerge_adapter()
    assert_bits(model, before)
    model.delete_adapter("second")
    model.set_adapter("default")
    assert torch.equal(logits(model), one)


def test_an_expert_without_a_token_has_a_gradient_of_zero():
    layer = experts_of(adapted("mixtral").train())
    x, index, weights = inputs(layer, torch.float32)
    layer(x, index % 2, weights).sum().backward()
    for name in STACKS:
        for parameter in layer.trained("default", name):
            assert parameter.grad is not None
            assert parameter.grad[:2].abs().sum() > 0
            assert torch.equal(parameter.grad[2:], torch.zeros_like(parameter.grad[2:]))


def test_a_part_of_the_experts_can_be_adapted():
    model = adapted("gpt_oss", target_parameters=["layers.1.mlp.experts.down_proj"], target_modules=["q_proj"])
    assert experts_of(model, 1).lora_A["default"].keys() == {"down"}
    assert sum(isinstance(module, DudeExperts) for module in model.modules()) == 1
    unmerged = logits(model)
    assert relative_error(logits(model.merge_and_unload()), unmerged) < 1e-6


def test_ranks_and_scalings_by_pattern():
    model = adapted("qwen2_moe", lora_alpha=8, rank_pattern={"down_proj": 2}, alpha_pattern={"gate_up_proj": 2})
    layer = experts_of(model)
    assert [layer.lora_A["default"][name].weight.shape[1] for name in STACKS] == [4, 4, 2]
    assert [layer.stack_scaling("default", name) for name in STACKS] == [0.5, 0.5, 4.0]
    unmerged = logits(model)
    assert relative_error(logits(model.merge_and_unload()), unmerged) < 1e-6


def test_dropout_acts_in_training_alone():
    model = adapted("mixtral", lora_dropout=0.5)
    evaluated = logits(model)
    with torch.no_grad():
        torch.manual_seed(0)
        first, second = model.train()(IDS).logits, model(IDS).logits
    assert not torch.equal(first, second)
    model(IDS, labels=IDS).loss.backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
    assert torch.equal(logits(model.eval()), evaluated)


def test_gradient_checkpointing_gives_the_same_gradient():
    model = adapted("qwen3_moe").train()

    def gradients():
        model.zero_grad()
        model(IDS, labels=IDS).loss.backward()
        return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}

    plain = gradients()
    model.gradient_checkpointing_enable()
    checkpointed = gradients()
    assert all(torch.equal(checkpointed[name], value) for name, value in plain.items())


@pytest.mark.parametrize("axis", AXES)
def test_in_eval_a_step_of_training_is_seen(axis):
    """Factors are cached in eval."""
    model = adapted("mixtral", magnitude_axis=axis)
    first = logits(model)
    assert torch.equal(logits(model), first)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.1)
    changed = logits(model)
    assert torch.equal(logits(copy.deepcopy(model)), changed)
    assert not torch.equal(changed, first)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("kind", models.MIXTURES)
def test_saved_and_loaded_is_the_same_adapter_bit_for_bit(kind, axis, tmp_path):
    model = adapted(kind, magnitude_axis=axis, target_modules=["q_proj"], rank_pattern={"down_proj": 2})
    model.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        loaded = load_adapter(models.mixture(kind), tmp_path, is_trainable=True)
    mine, theirs = dict(model.named_parameters()), dict(loaded.named_parameters())
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert all(mine[name].requires_grad == theirs[name].requires_grad for name in mine)
    assert torch.equal(logits(loaded.eval()), logits(model))
    again = get_peft_model(
        models.mixture(kind),
        config(magnitude_axis=axis, target_modules=["q_proj"], rank_pattern={"down_proj": 2}, svd="exact"),
    )
    set_peft_model_state_dict(again, load_file(tmp_path / "adapter_model.safetensors"))  # as trainers resume
    assert torch.equal(logits(again.eval()), logits(model))


def test_stock_peft_refuses_a_saved_adapter_with_experts(tmp_path):
    model = adapted("mixtral", target_modules=["q_proj"])
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "DUDE_EXPERTS"
    with pytest.raises(KeyError, match="DUDE_EXPERTS"):
        PeftModel.from_pretrained(models.mixture("mixtral"), tmp_path)


def changed_file(tmp_path, change):
    """A saved adapter with entries changed."""
    adapted("mixtral").save_pretrained(tmp_path)
    about = json.loads((tmp_path / "dude_config.json").read_text())
    del about["weights_sha256"]
    (tmp_path / "dude_config.json").write_text(json.dumps(about))
    file = tmp_path / "adapter_model.safetensors"
    state = load_file(file)
    change(state)
    save_file(state, file, {"format": "pt"})


ENTRY = f"base_model.model.{LAYER}.lora_A.gate.weight"


def test_a_file_that_does_not_fit_is_refused(tmp_path):
    base = models.mixture("mixtral")
    changed_file(tmp_path, lambda state: state.pop(ENTRY))
    with pytest.raises(DudeError, match=r"no entry .*experts\.lora_A\.gate\.weight"):
        load_adapter(base, tmp_path)
    changed_file(tmp_path, lambda state: state.update({ENTRY: state[ENTRY][:3].contiguous()}))
    with pytest.raises(DudeError, match=r"shape \(3, 4, 48\), expected \(4, 4, 48\).* of 4 experts"):
        load_adapter(base, tmp_path)
    adapted("mixtral").save_pretrained(tmp_path)
    with torch.no_grad():
        base.get_parameter(f"{LAYER}.gate_up_proj")[2].normal_()
    before = state_of(base)
    with pytest.raises(DudeError, match=r"made for another base model: .* of expert 2 in"):
        load_adapter(base, tmp_path)
    assert state_of(base) == before


def state_of(model):
    return (
        [(name, type(module), sorted(vars(module))) for name, module in model.named_modules()],
        [(name, id(p), p.requires_grad, p._version) for name, p in model.named_parameters()],
    )


class Bank(nn.Module):
    """Three dimensions without transformers' contract."""

    def __init__(self):
        super().__init__()
        self.bank = nn.Parameter(torch.randn(3, 8, 8))


def a_bank():
    return nn.ModuleDict({"experts": Bank()})


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (
            "mixtral",
            {"target_parameters": ["experts.up_proj"]},
            r"'experts.up_proj' matches no parameter.*\*.*down_proj",
        ),
        ("llama", {}, "matches no parameter of three dimensions .the model has none"),
        ("mixtral", {"r": 49}, "rank 49 is above 48.*gate_up_proj"),
        (
            "bank",
            {"target_parameters": ["experts.bank"], "task_type": None},
            "'experts' is a Bank: DuDe adapts experts",
        ),
        ("mixtral", {"rank_pattern": {"gate_upp": 2}}, "rank_pattern: 'gate_upp' matches no module"),
        ("parallel", {}, "expert parallelism"),
        ("nan", {}, r"'model\.layers\.1\.mlp\.experts\.3\.down' has 1 weights that are not finite"),
        ("meta", {}, "has no values"),
        ("zero3", {}, r"experts\.down_proj' is divided among processes by DeepSpeed's ZeRO-3.*Add the adapter first"),
        ("lora", {}, "has an adapter of another method"),
    ],
)
def test_mistakes_are_named_and_change_nothing(make, options, message):
    model = a_bank() if make == "bank" else models.llama() if make == "llama" else models.mixture("mixtral")
    if make == "parallel":
        model.get_submodule(LAYER)._is_expert_parallel = True
    if make == "nan":
        model.get_parameter("model.layers.1.mlp.experts.down_proj").data[3, 1, 1] = torch.nan
    if make == "zero3":
        emptied: Any = model.get_parameter("model.layers.1.mlp.experts.down_proj")
        emptied.ds_shape, emptied.ds_numel, emptied.data = emptied.shape, emptied.numel(), emptied.data.new_empty(0)
    if make == "meta":
        model = model.to("meta")
    if make == "lora":
        model = get_peft_model(model, LoraConfig(target_modules=[], target_parameters=models.EXPERTS)).base_model.model
    before = state_of(model)
    options = {"r": 4, "target_modules": [], "target_parameters": models.EXPERTS, **options}
    with pytest.raises(DudeError, match=message):
        get_peft_model(model, DudeConfig(**options))
    assert state_of(model) == before


def test_a_string_is_not_a_list_of_parameters():
    with pytest.raises(DudeError, match="target_parameters must be a list of parameter names"):
        config(target_parameters="experts.down_proj")


def test_an_adapter_cannot_be_added_while_one_is_merged():
    model = adapted("mixtral")
    model.merge_adapter()
    with pytest.raises(DudeError, match="merged"):
        model.add_adapter("second", config())


def test_all_linear_takes_experts_along_where_they_are_named():
    model = models.mixture("qwen3_moe")
    targets, notes = find_targets(model, config(target_modules="all-linear"))
    assert {t.name.rpartition(".")[2] for t in targets} == {*STACKS, "q_proj", "k_proj", "v_proj", "o_proj"}
    assert len(notes) == 1
    assert notes[0] == "target_parameters leaves out model.layers.*.mlp.gate"
    [note] = find_targets(model, config(target_modules="all-linear", target_parameters=None)).notes
    assert "name their parameters in target_parameters" in note
    base = logits(model)
    both = get_peft_model(model, config(target_modules="all-linear"))
    assert torch.equal(logits(both.eval()), base)
    assert len(models.dude_layers(both)) == 10


def test_the_state_dict_has_three_dimensions_and_no_adapter_name():
    state = get_peft_model_state_dict(adapted("gpt_oss"))
    shapes = {key.partition(".experts.")[2]: tuple(value.shape) for key, value in state.items() if ".layers.0." in key}
    assert shapes["lora_A.gate.weight"] == (4, 4, 48)
    assert shapes["lora_B.down.weight"] == (4, 48, 4)
    assert shapes["lora_magnitude_vector.up.weight"] == (4, 80)
    assert len(shapes) == 15


@pytest.mark.rejects(base="experts", engine="files", method="DuDe")
def test_what_has_no_form_for_experts_says_so(tmp_path):
    from dude_peft.convert import to_lora
    from dude_peft.streaming import decompose_checkpoint, merge_checkpoint

    model = adapted("mixtral")
    with pytest.raises(DudeError, match="has experts, which no plain LoRA of one rank replaces"):
        to_lora(model)
    model.save_pretrained(tmp_path / "adapter")
    models.mixture("mixtral").save_pretrained(tmp_path / "base")
    with pytest.raises(DudeError, match="experts are not decomposed or merged by tensor"):
        merge_checkpoint(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    with pytest.raises(DudeError, match="experts are not decomposed or merged by tensor"):
        decompose_checkpoint(tmp_path / "base", tmp_path / "factors", config(), jobs=1)
    assert not (tmp_path / "merged").exists() and not (tmp_path / "factors").exists()


PROCESS = """
import sys, torch
torch.set_num_threads(1)
rank, folder = int(sys.argv[1]), sys.argv[2]
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
import tiny_models as models
from test_experts import IDS, adapted, steps

dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
ddp = DistributedDataParallel(adapted("mixtral").train())  # which fails where a parameter has no gradient
steps(ddp, [IDS[rank : rank + 1]])
if rank == 0:
    ddp.module.save_pretrained(f"{folder}/ddp")
sharded = adapted("mixtral").train()
for layer in sharded.get_submodule("base_model.model.model.layers"):
    fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
fully_shard(sharded, mesh=init_device_mesh("cpu", (2,)))
steps(sharded, [IDS[rank : rank + 1]])
sharded.save_pretrained(f"{folder}/fsdp2", is_main_process=rank == 0)
dist.destroy_process_group()
"""


def steps(model, batches):
    """Two steps of SGD on the mean loss of the batches."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        for batch in batches:
            (model(input_ids=batch, labels=batch).loss / len(batches)).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.supports(base="experts", engine=["DDP", "FSDP2"], method="DuDe")
def test_two_processes_train_and_save_as_one_does(tmp_path):
    path = os.pathsep.join(str(ROOT / folder) for folder in ("src", "tests", "tests/support", "tests/peft"))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROCESS]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    model = adapted("mixtral").train()
    steps(model, [IDS[:1], IDS[1:]])
    model.save_pretrained(tmp_path / "one")
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(e[-3000:] for e in errors)
    want = load_file(tmp_path / "one" / "adapter_model.safetensors")
    for name in ("ddp", "fsdp2"):
        got = load_file(tmp_path / name / "adapter_model.safetensors")
        assert got.keys() == want.keys()
        for key in want:
            assert_close(got[key], want[key])
