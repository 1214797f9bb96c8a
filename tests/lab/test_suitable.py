"""Promise: what cannot take an adapter is refused by name or left out by name, and an error changes nothing."""

from __future__ import annotations

import types
import warnings

import pytest
import tiny_models as models
import tiny_run
import torch
from peft import get_peft_model
from torch import nn
from torch.nn.utils import parametrizations

from dude_lab.methods import METHODS, parse_method
from dude_lab.training.build_trainer import adapted_model
from dude_lab.training.run_plan import trainable_part
from dude_peft import DudeConfig, DudeError
from dude_peft.baselines.bitfit import BitfitConfig
from dude_peft.targets import find_targets, plan

COMMON = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ATTENTION = {f"{name}_proj" for name in "qkvo"}
GATE_UP, DOWN, ROUTER = (f"model.layers.*.mlp.{name}" for name in ("experts.gate_up_proj", "experts.down_proj", "gate"))


def mixture(kind):
    from transformers import AutoModelForCausalLM, Glm4MoeConfig, MixtralConfig, Qwen3MoeConfig

    torch.manual_seed(0)
    if kind == "mixtral":
        config = MixtralConfig(**COMMON, num_local_experts=4)
    elif kind == "qwen3_moe":
        config = Qwen3MoeConfig(**COMMON, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, head_dim=12)
    else:  # has shared experts of plain linear layers
        config = Glm4MoeConfig(
            **COMMON, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, first_k_dense_replace=0
        )
    return AutoModelForCausalLM.from_config(config).eval()


def state_of(model):
    """All that injection could change, compared with ==."""
    return (
        [(name, type(module), sorted(vars(module))) for name, module in model.named_modules()],
        [(name, id(p), p.requires_grad, p._version) for name, p in model.named_parameters()],
        [list(module._forward_hooks) for module in model.modules()],
    )


@pytest.mark.parametrize("kind", ["mixtral", "glm4_moe", "qwen3_moe"])
def test_experts_and_router_are_left_out_of_all_linear_with_a_note(kind):
    model = mixture(kind)
    before = models.logits(model)
    with pytest.warns(UserWarning, match="leaves out the experts and the router") as notes:
        adapted = get_peft_model(model, DudeConfig(r=4, task_type="CAUSAL_LM", target_modules="all-linear"))
    told = " ".join(str(note.message) for note in notes)
    assert all(name in told for name in (GATE_UP, DOWN, ROUTER))
    assert {name.rsplit(".", 1)[-1] for name in models.dude_layers(adapted)} == ATTENTION
    assert torch.equal(models.logits(adapted.eval()), before)
    if kind == "glm4_moe":
        assert "shared_experts.gate_proj" in told


@pytest.mark.parametrize("kind", ["mixtral", "glm4_moe"])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "full"])
def test_every_method_of_a_comparison_adapts_the_same_modules_of_a_mixture(method, kind):
    small = {"r": 2} if "r" in METHODS[method].settings.model_fields else {}
    small |= {"oft_block_size": 8} if method == "oft" else {}
    settings = parse_method({"name": method, "target_modules": "all-linear", **small})
    model = mixture(kind)
    part = trainable_part(model, settings)
    assert {target.name.rsplit(".", 1)[-1] for target in part.targets} == ATTENTION
    assert any(GATE_UP in note and ROUTER in note for note in part.notes)
    names = {name for name, _ in model.named_parameters()}
    plan_ = types.SimpleNamespace(
        settings=types.SimpleNamespace(method=settings, train=types.SimpleNamespace(seed=0)), part=part
    )
    adapted = adapted_model(plan_, model)
    trained = [(n, p) for n, p in adapted.named_parameters() if p.requires_grad]
    assert trained and not any(".mlp." in name for name, _ in trained)
    assert sum(p.numel() for _, p in trained) == part.trainable
    assert sum(".mlp." in name for name, _ in adapted.named_parameters()) == sum(".mlp." in name for name in names)


@pytest.mark.parametrize("method", ["dude", "lora"])
def test_a_run_on_a_mixture_notes_what_it_leaves_out_and_trains_the_rest(method, tmp_path):
    """`dude validate` and `dude train` show the notes of the plan."""
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM, MixtralConfig

    from dude_lab.training.run_plan import make_plan
    from dude_lab.training.train_run import train

    base = tiny_run.write_base(tmp_path / "base")
    size = AutoConfig.from_pretrained(base).vocab_size
    config = MixtralConfig(
        **{**COMMON, "vocab_size": size}, num_local_experts=4, bos_token_id=None, eos_token_id=0, pad_token_id=0
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    run = tiny_run.Tiny(base, tmp_path)
    run.raw["method"] = {"name": method, "r": 4, "target_modules": "all-linear"}
    settings = run.settings("train.steps=2", "train.save_every=2")
    plan_ = make_plan(settings)
    assert any(GATE_UP in note and ROUTER in note for note in plan_.notes)
    train(settings)
    (adapter,) = {path.parent for path in run.output.rglob("adapter_config.json") if "checkpoint" not in str(path)}
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)  # as stock PEFT reads it
    adapted = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in loaded.state_dict() if ".lora_" in name}
    assert adapted == ATTENTION


def test_an_expression_on_a_mixture_means_whole_names():
    """PEFT would read it as q_proj of every layer of such a model."""
    model = mixture("mixtral")
    config = DudeConfig(r=4, task_type="CAUSAL_LM", target_modules=r"model\.layers\.0\.self_attn\.q_proj")
    adapted = get_peft_model(model, config)
    assert list(models.dude_layers(adapted)) == ["base_model.model.model.layers.0.self_attn.q_proj"]


def test_shared_experts_that_peft_takes_for_the_fused_ones_are_refused_by_name():
    model = mixture("glm4_moe")
    with pytest.raises(DudeError, match=r"'model\.layers\.0\.mlp\.shared_experts\.up_proj' cannot be adapted: PEFT"):
        get_peft_model(model, DudeConfig(r=4, target_modules=["q_proj", "up_proj"]))


class Router(nn.Linear):
    """As Llama 4 has it: two results."""

    def forward(self, x):
        scores = super().forward(x)
        return scores, scores.softmax(-1)


class Rewritten(nn.Linear):
    """As Falcon has it: the same product in other words."""

    def forward(self, x):
        return x @ self.weight.T if self.bias is None else x @ self.weight.T + self.bias


class Scaled(nn.Linear):
    def forward(self, x):
        return 0.5 * super().forward(x)


def test_a_forward_in_other_words_is_a_linear_layer():
    for bias in (True, False):
        model = nn.Sequential(Rewritten(8, 6, bias=bias), Scaled(6, 4))
        assert [t.name for t in find_targets(model, DudeConfig(r=2, target_modules="all-linear")).modules] == ["0"]
        x = torch.randn(3, 8)
        before = model(x)
        assert torch.equal(get_peft_model(model, DudeConfig(r=2, target_modules=["0"])).eval()(x), before)


class Odd(nn.Module):
    """One of everything that cannot take an adapter, and `good`."""

    def __init__(self):
        super().__init__()
        self.good = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.router = Router(8, 4)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.viewed, self.base = nn.Linear(8, 4), nn.Linear(8, 8)
        self.viewed.weight = nn.Parameter(self.base.weight.detach()[2:6])
        self.normed = parametrizations.weight_norm(nn.Linear(8, 8))
        self.old_normed = nn.utils.weight_norm(nn.Linear(8, 8))
        self.one = nn.Linear(8, 8)
        self.other = nn.Sequential(self.one)

    def forward(self, x):
        return self.good(x)


REASONS = {
    "attention.out_proj": "reads its weight without calling it",
    "router": r"Router has a forward of its own, which is not x W\^T \+ b",
    "first": "shared with 'second.weight'|shared with 'first.weight'",
    "second": "shared with",
    "viewed": r"shared with 'base\.weight'",
    "base": r"shared with 'viewed\.weight'",
    "normed": "computed from other parameters",
    "old_normed": "computed from other parameters",
    "one": "stands in several places",
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", REASONS)
def test_a_module_that_cannot_take_an_adapter_is_refused_by_name(name):
    model = Odd()
    before = state_of(model)
    with pytest.raises(DudeError, match=rf"module '{name}' cannot be adapted: .*({REASONS[name]})"):
        get_peft_model(model, DudeConfig(r=2, target_modules=["good", name]))
    assert state_of(model) == before


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_all_linear_leaves_them_out_with_their_names():
    targets, notes = find_targets(Odd(), DudeConfig(r=2, target_modules="all-linear"))
    assert [target.name for target in targets] == ["good"]
    assert all(any(name in note for note in notes) for name in REASONS)


@pytest.mark.parametrize("on_meta", [False, True])
def test_a_tied_output_layer(on_meta):
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta" if on_meta else "cpu"):
        model = LlamaForCausalLM(LlamaConfig(**COMMON, tie_word_embeddings=True))
        model.tie_weights()
    with pytest.raises(DudeError, match=r"'lm_head' cannot be adapted: its weight is shared with 'model\.embed_tok"):
        plan(model, DudeConfig(r=2, target_modules=["lm_head"]))
    assert not any("lm_head" in target.name for target in plan(model, DudeConfig(r=2, target_modules="all-linear")))


def test_a_second_adapter_finds_the_layers_of_the_first():
    model = get_peft_model(models.llama(), models.config_for("llama"))
    model.add_adapter("second", models.config_for("llama"))
    assert len(models.dude_layers(model, "second")) == len(models.dude_layers(model)) == 14


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("calls", [0, 3])
def test_an_error_while_peft_injects_leaves_the_model_as_it_was(error, calls, monkeypatch):
    from dude_peft.layer import DudeVariant

    original, count = DudeVariant.attach, []

    def attach(*args):
        count.append(None)
        if len(count) > calls:
            raise error("in the middle")
        original(*args)

    monkeypatch.setattr(DudeVariant, "attach", attach)
    model, config = models.llama(), models.config_for("llama")
    before, options = state_of(model), dict(vars(config))
    with pytest.raises(error):
        get_peft_model(model, config)
    assert state_of(model) == before and vars(config) == options
    assert not hasattr(model, "peft_config") and all(p.requires_grad for p in model.parameters())
    monkeypatch.undo()
    adapted = get_peft_model(model, config)  # ... so that another attempt trains the adapter alone
    assert all("lora_" in name for name, p in adapted.named_parameters() if p.requires_grad)


def test_an_error_in_a_second_injection_leaves_the_first_adapter(monkeypatch):
    from dude_peft.layer import DudeVariant

    model = get_peft_model(models.llama(), models.config_for("llama")).eval()
    models.move(model, 0.05)
    before, logits = state_of(model), models.logits(model)
    original, count = DudeVariant.attach, []

    def attach(*args):
        count.append(None)
        if len(count) > 5:
            raise KeyboardInterrupt
        original(*args)

    monkeypatch.setattr(DudeVariant, "attach", attach)
    with pytest.raises(KeyboardInterrupt):
        model.add_adapter("second", models.config_for("llama"))
    assert state_of(model) == before and list(model.peft_config) == ["default"]
    assert torch.equal(models.logits(model), logits)


def test_an_error_in_the_injection_of_a_baseline_leaves_the_model_as_it_was():
    """The second target cannot take it, when the first has it already."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.ReLU())
    model[1].weight = nn.Parameter(torch.zeros(8, 8, dtype=torch.int8), requires_grad=False)
    before = state_of(model)
    with pytest.raises(DudeError, match="int8"):
        get_peft_model(model, BitfitConfig(target_modules=["0", "1"]))
    assert state_of(model) == before


class DTensor(torch.Tensor):
    """By its name what torch.distributed.tensor calls a sharded weight."""


class FullyShardedDataParallel(nn.Module):
    """By its name FSDP1's wrapper."""

    def __init__(self, module):
        super().__init__()
        self._fsdp_wrapped_module = module


@pytest.mark.rejects(base="float32", engine=["FSDP1", "tensor parallel"], method="DuDe")
@pytest.mark.parametrize("way", ["dtensor", "fsdp1", "tp_plan"])
def test_a_model_that_is_sharded_already_is_refused(way):
    model = models.llama()
    if way == "dtensor":
        weight = model.model.layers[1].mlp.up_proj.weight
        sharded = torch.Tensor._make_subclass(DTensor, weight.detach(), False)
        model.model.layers[1].mlp.up_proj._parameters["weight"] = sharded
        message = r"'model\.layers\.1\.mlp\.up_proj\.weight' is sharded over processes \(a DTensor .*fully_shard"
    elif way == "fsdp1":
        model.model.layers[0] = FullyShardedDataParallel(model.model.layers[0])
        message = r"'model\.layers\.0' is sharded over processes \(FSDP1\).*fully_shard"
    else:
        model._tp_size = 2
        message = r"divided among 2 processes by tensor parallelism \(tp_plan\)"
    before = state_of(model)
    with warnings.catch_warnings(), pytest.raises(DudeError, match=message):
        get_peft_model(model, models.config_for("llama", target_modules=["q_proj"]))
    assert state_of(model) == before


@pytest.fixture
def one_process(tmp_path):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.rejects(base="float32", engine=["FSDP1", "tensor parallel"], method="DuDe")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", ["fsdp1", "fsdp1 leaves", "fsdp1 before", "tensor parallel"])
def test_a_model_that_is_sharded_afterwards_is_refused_in_its_first_forward(way, one_process):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel as FSDP1
    from torch.distributed.fsdp.wrap import CustomPolicy
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    options = {"use_orig_params": True, "device_id": torch.device("cpu")}
    if way == "fsdp1 before":
        with pytest.raises(DudeError, match=r"sharded over processes \(FSDP1\)"):
            get_peft_model(FSDP1(models.llama(), **options), models.config_for("llama", target_modules=["q_proj"]))
        return
    model = get_peft_model(models.llama(), models.config_for("llama", target_modules=["q_proj"])).train()
    model(models.tokens())
    if way == "fsdp1":
        wrapped = FSDP1(model, **options).train()
    elif way == "fsdp1 leaves":  # as PEFT's policy does, which wraps what is trained apart
        policy = CustomPolicy(lambda m: not list(m.children()) and any(p.requires_grad for p in m.parameters()))
        wrapped = FSDP1(model, auto_wrap_policy=policy, **options).train()
    else:
        mesh = init_device_mesh("cpu", (1,))
        for layer in models.dude_layers(model).values():
            parallelize_module(layer.base_layer, mesh, ColwiseParallel())
        wrapped = model.train()
    message = "DTensor .tensor parallelism" if way == "tensor parallel" else "wrapped in FSDP1"
    with pytest.raises(DudeError, match=message):
        wrapped(models.tokens())
