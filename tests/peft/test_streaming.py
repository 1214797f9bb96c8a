"""Checkpoints one tensor at a time: the same decompositions and the same merged weights as in memory."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from conftest import AXES, ROOT, TOLERANCE, relative_error
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import gpt2, llama, logits, move

from dude_peft import DudeConfig, DudeError, load_adapter, streaming, svd
from dude_peft.streaming import decompose_checkpoint, merge_checkpoint, read_header

LEFT = 8 * 4096 * 2048 * 2  # bytes: eight times the largest weight, 4096 x 2048 in bfloat16
ALL = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def saved(folder: Path, model: Any, shard: str = "40KB") -> Path:
    model.save_pretrained(folder, max_shard_size=shard)
    return folder


def read(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


def initial(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.named_parameters() if "lora_" in name}


@pytest.mark.supports(base=["float32", "bfloat16", "Conv1D"], engine="files", method="DuDe")
@pytest.mark.parametrize("family", [llama, gpt2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_begins_with_the_decompositions_of_a_folder(family: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    base, factors = saved(tmp_path / "base", family(dtype)), tmp_path / "factors"
    assert len(list(base.glob("*.safetensors"))) > 1
    seen: list[tuple[int, int, str]] = []
    count = decompose_checkpoint(base, factors, DudeConfig(**ALL), jobs=1, report=lambda *a: seen.append(a))
    assert count == len(seen) and seen[-1][0] == seen[-1][1] == sum(one[0] - before for one, before in _steps(seen))
    want = initial(get_peft_model(read(base), DudeConfig(**ALL)))
    with mock.patch.object(svd, "top_singular_triplets", side_effect=AssertionError("decomposed again")):
        got = initial(get_peft_model(read(base), DudeConfig(**ALL, factors=str(factors))))
    assert got.keys() == want.keys() and all(torch.equal(got[name], want[name]) for name in want)


def _steps(seen: list[tuple[int, int, str]]) -> list[tuple[tuple[int, int, str], int]]:
    return list(zip(seen, [0, *(one[0] for one in seen)], strict=False))


def test_processes_of_their_own_give_the_same_files(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", llama())
    for name, jobs in (("one", 1), ("two", 2)):
        decompose_checkpoint(base, tmp_path / name, DudeConfig(**ALL), jobs=jobs)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.safetensors"))
    assert files and files == sorted(p.relative_to(tmp_path / "two") for p in (tmp_path / "two").rglob("*.safetensors"))
    for file in files:
        one, two = load_file(tmp_path / "one" / file), load_file(tmp_path / "two" / file)
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_is_there_is_not_decomposed_again(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", llama())
    decompose_checkpoint(base, tmp_path / "f", DudeConfig(**ALL), jobs=1)
    first, *others = sorted((tmp_path / "f").rglob("*.safetensors"))
    whole = first.read_bytes()
    first.write_bytes(whole[:-1])  # as a disk may leave it
    with mock.patch.object(streaming, "top_singular_triplets", side_effect=svd.top_singular_triplets) as decompose:
        decompose_checkpoint(base, tmp_path / "f", DudeConfig(**ALL), jobs=1)
    assert decompose.call_count == 1 and len(others) > 10 and len(first.read_bytes()) == len(whole)


def test_other_weights_or_a_larger_rank_are_not_in_the_folder(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", llama())
    decompose_checkpoint(base, tmp_path / "f", DudeConfig(**ALL), jobs=1)
    with pytest.raises(
        DudeError, match=r"factors: .* has no decomposition of 'model.layers.0.self_attn.q_proj' of rank 5"
    ):
        get_peft_model(read(base), DudeConfig(**{**ALL, "r": 5}, factors=str(tmp_path / "f")))
    other = read(base)
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight.mul_(1.01)
    with pytest.raises(DudeError, match=r"no decomposition of 'model.layers.1.mlp.up_proj'"):
        get_peft_model(other, DudeConfig(**ALL, factors=str(tmp_path / "f")))
    assert not any("lora" in name for name, _ in other.named_modules())


def test_the_folder_is_not_saved_with_the_adapter(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", llama())
    decompose_checkpoint(base, tmp_path / "f", DudeConfig(**ALL), jobs=1)
    get_peft_model(read(base), DudeConfig(**ALL, factors=str(tmp_path / "f"))).save_pretrained(tmp_path / "adapter")
    text = "".join(path.read_text() for path in (tmp_path / "adapter").glob("*.json"))
    assert "factors" not in text
    raw = json.loads((tmp_path / "adapter" / "dude_config.json").read_text())
    (tmp_path / "adapter" / "dude_config.json").write_text(json.dumps({**raw, "factors": "/etc"}))
    with pytest.raises(DudeError, match="unknown key 'factors'"):
        load_adapter(read(base), tmp_path / "adapter")


# --- merge ----------------------------------------------------------------------------------------------------------


def adapter_on(base: Path, folder: Path, **options: Any) -> Path:
    model = get_peft_model(read(base), DudeConfig(**{**ALL, **options}))
    move(model, 0.05)
    model.save_pretrained(folder)
    return folder


@pytest.mark.supports(base=["float32", "bfloat16", "Conv1D"], engine="files", method=["DuDe", "DuDe, axis in"])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", [llama, gpt2])
def test_the_merged_checkpoint_is_the_merged_model(family: Any, dtype: torch.dtype, axis: str, tmp_path: Path) -> None:
    base = saved(tmp_path / "base", family(dtype))
    adapter = adapter_on(
        base, tmp_path / "adapter", magnitude_axis=axis, rank_pattern={"mlp.c_fc" if family is gpt2 else "up_proj": 3}
    )
    merge_checkpoint(base, adapter, tmp_path / "merged", rows=7)
    want = load_adapter(read(base), adapter).merge_and_unload()
    got = read(tmp_path / "merged")
    for (name, a), (_, b) in zip(got.state_dict().items(), want.state_dict().items(), strict=True):
        assert a.dtype == b.dtype == dtype and relative_error(a, b) <= TOLERANCE[dtype] / 2, name
    assert relative_error(logits(got), logits(want)) <= TOLERANCE[dtype]


def test_long_rows_are_read_fewer_at_a_time(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", llama())
    adapter = adapter_on(base, tmp_path / "adapter")
    read_rows, sizes = streaming.Stored.read, []

    def spy(stored: Any, rows: slice | None = None) -> torch.Tensor:
        made = read_rows(stored, rows)
        sizes.append(made.shape)
        return made

    with mock.patch.object(streaming, "ENTRIES", 480), mock.patch.object(streaming.Stored, "read", spy):
        merge_checkpoint(base, adapter, tmp_path / "merged")
        decompose_checkpoint(base, tmp_path / "f", DudeConfig(**ALL), jobs=1)
    assert {shape[1]: shape[0] for shape in sizes if shape[0] * shape[1] == 480} == {48: 10, 80: 6}
    assert max(math.prod(shape) for shape in sizes) == 480
    want = load_adapter(read(base), adapter).merge_and_unload()
    assert relative_error(logits(read(tmp_path / "merged")), logits(want)) <= TOLERANCE[torch.float32]


def test_an_adapter_that_has_not_moved_gives_the_same_bytes(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", llama(torch.bfloat16))
    get_peft_model(read(base), DudeConfig(**ALL)).save_pretrained(tmp_path / "adapter")
    merge_checkpoint(base, tmp_path / "adapter", tmp_path / "merged")
    for path in base.glob("*.safetensors"):
        old, new = load_file(path), load_file(tmp_path / "merged" / path.name)
        assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)


def test_modules_to_save_replace_their_tensors(tmp_path: Path) -> None:
    model = llama()
    base = saved(tmp_path / "base", model)
    tuned = get_peft_model(read(base), DudeConfig(**ALL, modules_to_save=["lm_head"]))
    with torch.no_grad():
        tuned.base_model.model.lm_head.modules_to_save["default"].weight.add_(1)
    tuned.save_pretrained(adapter := tmp_path / "adapter")
    merge_checkpoint(base, adapter, tmp_path / "merged")
    want = load_adapter(read(base), adapter).merge_and_unload().lm_head.weight
    got = read(tmp_path / "merged").lm_head.weight
    assert torch.equal(got, want) and not torch.equal(got, model.lm_head.weight)


@pytest.mark.parametrize("stop", [1, 9, 20])
def test_an_interrupted_merge_does_the_rest(stop: int, tmp_path: Path) -> None:
    base = saved(tmp_path / "base", llama())
    adapter = adapter_on(base, tmp_path / "adapter")
    merge_checkpoint(base, adapter, tmp_path / "whole")
    count = 0

    def interrupt(*_: Any) -> None:
        nonlocal count
        count += 1
        if count == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_checkpoint(base, adapter, tmp_path / "cut", report=interrupt)
    assert not (tmp_path / "cut" / "config.json").exists() and not list((tmp_path / "cut").glob(".*"))
    there = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cut").iterdir()}
    merge_checkpoint(base, adapter, tmp_path / "cut")
    assert all((tmp_path / "cut" / name).stat().st_mtime_ns == time for name, time in there.items())
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "cut" / path.name).read_bytes() == path.read_bytes()


def test_what_does_not_fit_is_refused_and_leaves_no_config(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", llama())
    adapter = adapter_on(base, tmp_path / "adapter")
    torch.manual_seed(9)
    other_model = llama()
    with torch.no_grad():
        for parameter in other_model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.02)
    other = saved(tmp_path / "other", other_model)
    with pytest.raises(DudeError, match="made for another base model"):
        merge_checkpoint(other, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged" / "config.json").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(DudeError, match=r"holds thesis.tex already"):
        merge_checkpoint(base, adapter, tmp_path / "mine")
    with pytest.raises(DudeError, match="no safetensors of a model here"):
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "config.json").write_text((base / "config.json").read_text())
        merge_checkpoint(tmp_path / "empty", adapter, tmp_path / "merged2")
    (base / "config.json").write_text("{")
    with pytest.raises(DudeError, match=r"no model can be made of its config.json"):
        decompose_checkpoint(base, tmp_path / "f", DudeConfig(**ALL))


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw["x"].update(data_offsets=[0, 10**9]),
        lambda raw: raw["x"].update(data_offsets=[8, 4]),
        lambda raw: raw["x"].update(shape=[-2, -2]),
        lambda raw: raw["x"].update(shape=[2, 3]),
        lambda raw: raw["x"].pop("dtype"),
        lambda raw: raw.update(x=[]),
    ],
)
def test_a_damaged_header_is_an_error_of_one_line(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(2, 2)}, path)
    assert read_header(path)["x"].read().shape == (2, 2)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    raw = json.loads(data[8 : 8 + length])
    change(raw)
    text = json.dumps(raw).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with pytest.raises(DudeError, match="not a readable safetensors file") as error:
        read_header(path)
    assert "\n" not in str(error.value)
    path.write_bytes(b"\xff" * 8 + text)
    with pytest.raises(DudeError, match="not a readable safetensors file"):
        read_header(path)


def test_an_index_cannot_name_a_file_elsewhere(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", llama())
    index = json.loads((base / "model.safetensors.index.json").read_text())
    index["weight_map"]["lm_head.weight"] = "../secret.safetensors"
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DudeError, match="names a file outside its folder"):
        decompose_checkpoint(base, tmp_path / "f", DudeConfig(**ALL))


def test_a_weight_that_is_not_finite_is_named(tmp_path: Path) -> None:
    model = llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 3] = torch.nan
    base = saved(tmp_path / "base", model)
    with pytest.raises(DudeError, match=r"module 'model.layers.1.mlp.up_proj' has 1 weights that are not finite"):
        decompose_checkpoint(base, tmp_path / "f", DudeConfig(**ALL), jobs=1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and sets a limit of the address space")
def test_a_checkpoint_several_times_the_memory_that_is_left(tmp_path: Path) -> None:
    """206 MiB in bfloat16, with 128 MiB of address space left. Loading them fails."""
    code = f"""
        import resource, sys
        from pathlib import Path
        sys.path[:0] = [{str(ROOT / "tests")!r}, {str(ROOT / "tests" / "support")!r}]
        import torch
        torch.set_num_threads(1)
        from transformers import LlamaConfig, LlamaForCausalLM
        from dude_peft import DudeConfig, streaming
        from peft import get_peft_model
        here, step = Path({str(tmp_path)!r}), sys.argv[1]
        names = ["q_proj", "o_proj", "up_proj"]
        config = DudeConfig(r=4, target_modules=names, task_type="CAUSAL_LM")
        if step == "make":
            shape = LlamaConfig(vocab_size=64, hidden_size=2048, intermediate_size=4096, num_hidden_layers=3,
                                num_attention_heads=8, num_key_value_heads=1, head_dim=256)
            model = LlamaForCausalLM(shape).to(torch.bfloat16)
            model.save_pretrained(here / "base", max_shard_size="80MB")
            get_peft_model(model, config).save_pretrained(here / "adapter")
            sys.exit()
        streaming.meta_model(here / "base"), DudeConfig.from_pretrained(str(here / "adapter"))  # what is imported once
        small = torch.randn(64, 64)
        torch.linalg.eigh(small.double() @ small.double().T), torch.linalg.qr(small)
        size = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
        resource.setrlimit(resource.RLIMIT_AS, (size + {LEFT}, -1))
        streaming.decompose_checkpoint(here / "base", here / "factors", config, jobs=1)
        streaming.merge_checkpoint(here / "base", here / "adapter", here / "merged")
        try:
            LlamaForCausalLM.from_pretrained(here / "base", dtype=torch.bfloat16)
        except (MemoryError, OSError, RuntimeError):
            sys.exit(7)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    for step, wanted in (("make", 0), ("use", 7)):
        done = subprocess.run([*command, step], capture_output=True, text=True, timeout=300)
        assert done.returncode == wanted, (step, done.returncode, done.stderr[-3000:])
    total = sum(path.stat().st_size for path in (tmp_path / "base").glob("*.safetensors"))
    assert total > 1.5 * LEFT
