"""Promise: whatever stands in an adapter's two files, loading succeeds or is a DudeError that leaves the base alone."""

from __future__ import annotations

import json
import os
import struct
import warnings
from collections import OrderedDict

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import get_peft_model
from safetensors.torch import load, save
from torch import nn

from dude_peft import DudeConfig, DudeError, load_adapter
from dude_peft.config import HONOURED

EXAMPLES = int(os.environ.get("DUDE_FUZZ_EXAMPLES", "0"))  # of each of four tests, at random; by default 520 in all
FUZZ = settings(
    max_examples=EXAMPLES or 130,
    deadline=None,
    derandomize=not EXAMPLES,  # the same cases in every run of CI
    database=None,
    suppress_health_check=list(HealthCheck),
)
OWN = ("init_variant", "magnitude_axis", "detach_norm", "svd", "svd_seed", "format_version", "weights_sha256")
WORDS = ("q_proj", "head", "0", ".*", "(a+)+", "dude", "in", "out", "exact", "CAUSAL_LM", "LORA", "all-linear")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.sampled_from(WORDS), inner),
    max_leaves=6,
)
KEYS = st.sampled_from([*sorted(HONOURED), *OWN, "bias", "use_dora"]) | st.text(max_size=8)
SHAPES = st.lists(st.integers(0, 7), max_size=3)
TYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool])


def tiny():
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict((name, nn.Linear(6, 5 + i)) for i, name in enumerate(["q_proj", "head"])))


@pytest.fixture(scope="module", params=["out", "in"])
def adapter(request, tmp_path_factory):
    """The folder of a saved adapter, its config as a dict, its tensors, and the bytes of its weights."""
    folder = tmp_path_factory.mktemp("fuzz")
    config = DudeConfig(r=2, target_modules=["q_proj"], modules_to_save=["head"], magnitude_axis=request.param)
    get_peft_model(tiny(), config).save_pretrained(str(folder))
    weights = folder / "adapter_model.safetensors"
    data = weights.read_bytes()
    return folder, json.loads((folder / "dude_config.json").read_text()), load(data), data


def assert_loads_or_is_refused(folder):
    """Load; the base's own parameters keep every bit whatever happens, and a refusal leaves no adapter behind."""
    base = tiny()
    before = {name: parameter.detach().clone() for name, parameter in base.named_parameters()}
    held = dict(base.named_parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            load_adapter(base, folder)
        except DudeError as error:
            assert len(str(error)) < 2000
            assert dict(base.named_parameters()).keys() == before.keys()
    assert all(torch.equal(held[name], before[name]) for name in before)


@FUZZ
@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=2), st.binary(max_size=3), st.integers(0))
def test_any_value_of_any_key_of_the_config(adapter, changes, inserted, place):
    folder, raw, _, data = adapter
    (folder / "adapter_model.safetensors").write_bytes(data)
    text = json.dumps({**raw, **changes}).encode()
    at = place % len(text)
    if inserted:
        text = text[:at] + inserted + text[at + len(inserted) :]
    (folder / "dude_config.json").write_bytes(text)
    assert_loads_or_is_refused(folder)


@FUZZ
@given(st.data())
def test_any_entries_and_bytes_of_the_weights(adapter, data):
    folder, raw, state, _ = adapter
    state = dict(state)
    keys = st.sampled_from(sorted(state))
    for _ in range(data.draw(st.integers(0, 2))):
        name = data.draw(keys | st.text(max_size=5).map(lambda t: f"base_model.model.{t}") | st.text(max_size=8))
        if data.draw(st.booleans()):
            state.pop(name, None)
        else:
            value = data.draw(st.sampled_from([0.0, 1.0, -3e38, float("nan"), float("inf")]))
            state[name] = torch.full(data.draw(SHAPES), value).to(data.draw(TYPES))
    content = bytearray(save(state))
    for _ in range(data.draw(st.integers(0, 2))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    (folder / "adapter_model.safetensors").write_bytes(bytes(content[:cut]))
    without_hash = {key: value for key, value in raw.items() if key != "weights_sha256"}
    (folder / "dude_config.json").write_text(json.dumps(without_hash))
    assert_loads_or_is_refused(folder)


@pytest.mark.parametrize(
    "header",
    [
        b"{}",
        b"[]",
        b'{"a": 3}',
        b"[" * 50_000,
        json.dumps({"x": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}}).encode(),
        json.dumps({"x": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode(),
        json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}).encode(),
    ],
    ids=range(7),
)
def test_headers_that_no_writer_makes(adapter, header):
    folder, raw, _, _ = adapter
    (folder / "dude_config.json").write_text(json.dumps({k: v for k, v in raw.items() if k != "weights_sha256"}))
    for size in (len(header), 2**63, 0):
        (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", size) + header + bytes(8))
        with pytest.raises(DudeError):
            load_adapter(tiny(), folder)
