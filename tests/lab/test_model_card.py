"""The card beside an adapter: what it says is in the record, and its Python loads the adapter."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from test_exporting import trained
from tiny_run import tiny_base  # noqa: F401

METHODS = [
    {"name": "dude"},
    {"name": "dude", "magnitude_axis": "in"},
    {"name": "dora"},
    {"name": "lora_xs"},
    {"name": "pissa"},
]


@pytest.mark.parametrize("method", METHODS, ids=lambda one: "-".join(one.values()))
def test_the_python_of_the_card_loads_the_adapter(tiny_base: Path, tmp_path: Path, method: dict[str, str]) -> None:  # noqa: F811
    from dude_lab.training.finished_run import load_run

    run = trained(tiny_base, tmp_path, **method)
    card, record = (run / "adapter" / "README.md").read_text(), json.loads((run / "run.json").read_text())
    [code] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert f'from_pretrained("{tiny_base.name}")' in code  # a name, not this machine's path
    space: dict[str, object] = {}
    exec(code.replace(f'"{tiny_base.name}"', repr(str(tiny_base))).replace("THIS FOLDER", str(run / "adapter")), space)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        got, wanted = (model.eval()(ids).logits for model in (space["model"], load_run(run)[1]))  # type: ignore[attr-defined]
    assert torch.allclose(got, wanted, atol=1e-5)

    metadata = ModelCard(card).data
    assert metadata.base_model == tiny_base.name
    assert metadata.library_name == "peft"
    [result] = metadata.eval_results
    task = record["metrics"]["after"]["tasks"]["mini_csqa"]
    assert (result.dataset_name, result.metric_value) == ("mini_csqa", task["value"])
    for text in (record["provenance"]["data"]["sha256"][:12], record["provenance"]["model"]["sha256"][:12], "0.01"):
        assert text in card
    assert re.search(rf"\| mini_csqa \| \S+ +\| +{task['n']} \|", card)
    assert str(tmp_path) not in card


def test_the_tokenizer_is_beside_the_adapter_and_not_counted(tiny_base: Path, tmp_path: Path) -> None:  # noqa: F811
    from transformers import AutoTokenizer

    run = trained(tiny_base, tmp_path, name="lora")
    adapter = run / "adapter"
    assert AutoTokenizer.from_pretrained(adapter).eos_token == "<|end|>"
    record = json.loads((run / "run.json").read_text())
    weights = (adapter / "adapter_model.safetensors").stat().st_size
    assert weights < record["cost"]["adapter_bytes"] < weights + 5_000
    assert {"adapter/README.md", "adapter/tokenizer.json"} <= set(record["files"])
