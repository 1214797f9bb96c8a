"""Promise: every value that dude_config.json may hold works, or is refused with key, value and what is allowed."""

from __future__ import annotations

import json
import time
from collections import OrderedDict

import pytest
import torch
from peft import get_peft_model
from torch import nn

from dude_peft import DudeConfig, DudeError, load_adapter
from dude_peft.config import HONOURED

OWN = ("init_variant", "magnitude_axis", "detach_norm", "svd", "svd_seed", "format_version", "weights_sha256")
ODD = [
    None,
    True,
    False,
    0,
    -1,
    3,
    2.5,
    10**30,
    10**400,
    1e300,
    1e-300,
    float("nan"),
    float("inf"),
    "",
    "q_proj",
    "(",
    "(a+)+b",
    "\ud800",
    "x" * 5000,
    [],
    [None],
    [1],
    ["q_proj"],
    [""],
    ["("],
    [["q_proj"]],
    [{}],
    {},
    {"q_proj": 2},
    {"q_proj": None},
    {"q_proj": 10**400},
    {"(": 2},
    {"": 2},
    {"q_proj": {"q_proj": {}}},
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    get_peft_model(tiny(), DudeConfig(r=2, target_modules=["q_proj"])).save_pretrained(str(folder))
    return folder, (folder / "dude_config.json").read_text()


def tiny():
    """A base that costs nothing to build: hundreds are needed."""
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict((name, nn.Linear(6, 5 + i)) for i, name in enumerate(["q_proj", "v_proj", "head"]))
    )


def outcome(folder):
    """Load, and return the message of the refusal or None; the base must be untouched by a refusal."""
    base = tiny()
    try:
        load_adapter(base, folder)
    except DudeError as error:
        fresh = tiny().state_dict()
        assert base.state_dict().keys() == fresh.keys()
        assert all(torch.equal(t, fresh[n]) for n, t in base.state_dict().items())
        return str(error)
    return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("key", sorted({*HONOURED, *OWN, "use_dora", "bias", "unknown"}))
def test_every_odd_value_of_every_key(saved, key):
    folder, text = saved
    raw = json.loads(text)
    refused = 0
    for value in ODD:
        (folder / "dude_config.json").write_text(json.dumps({**raw, key: value}))
        message = outcome(folder)
        if message is not None:
            refused += 1
            assert len(message) < 700, message
            assert any(word in message for word in (key, "q_proj", "matches no module", "adapter has no entry")), (
                message
            )
    assert refused >= 15  # of 34: the free strings take most strings, target lists some lists
    raw.pop(key, None)
    (folder / "dude_config.json").write_text(json.dumps(raw))
    outcome(folder)  # a key that is left out


@pytest.mark.parametrize(
    "text",
    [
        *(
            b"",
            b"{",
            b"[]",
            b"null",
            b"3",
            b'"x"',
            b"\xef\xbb\xbf{}",
            b"\xff\xfe{\x00}\x00",
            b"\x00",
            b"{}",
            b'{"r": 1e999}',
        ),
        *(b"[" * 100_000, b'{"a":' * 100_000, b'{"r": ' + b"9" * 10_000 + b"}", b'{"format_version": true}'),
    ],
    ids=range(15),
)
def test_a_file_that_is_not_what_it_should_be(saved, text):
    folder, _ = saved
    (folder / "dude_config.json").write_bytes(text)
    message = outcome(folder)
    assert message is not None and "dude_config.json" in message and len(message) < 700


def test_a_folder_in_place_of_a_file_and_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    from pathlib import Path

    get_peft_model(tiny(), DudeConfig(r=2, target_modules=["q_proj"])).save_pretrained(str(tmp_path))
    for name in ("dude_config.json", "adapter_model.safetensors"):
        (tmp_path / name).rename(tmp_path / "away")
        (tmp_path / name).mkdir()
        assert f"has no {name}" in outcome(tmp_path)
        (tmp_path / name).rmdir()
        (tmp_path / "away").rename(tmp_path / name)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refuse)
        assert "Permission denied" in outcome(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_dir", refuse)
        assert "Permission denied" in outcome(tmp_path)
    assert "no such folder" in outcome("a\0b")


@pytest.mark.parametrize(
    "options",
    [
        {"r": 2.0},
        {"lora_alpha": True},
        {"lora_alpha": 1e-12},
        {"lora_alpha": 1e12},
        {"r": 10**7},
        {"use_rslora": 1},
        {"lora_dropout": "0.1"},
        {"svd": ["exact"]},
        {"svd_seed": 2**64},
        {"layers_to_transform": [-1], "target_modules": ["q_proj"]},
        {"layers_to_transform": 1, "target_modules": "q_proj"},
        {"task_type": "CLS"},
        {"modules_to_save": "lm_head"},
        {"rank_pattern": ["q_proj"]},
    ],
    ids=str,
)
def test_options_in_code_are_checked_alike(options):
    with pytest.raises(DudeError, match="|".join(options)):
        DudeConfig(**options)


SLOW = ["(a+)+b", "(a|aa)+b", "(.*)*x", ".*.*.*.*.*x", "a?" * 30 + "a" * 30, "(a?){30}a{30}", "(" * 900 + ")" * 900]


@pytest.mark.parametrize("expression", SLOW, ids=range(len(SLOW)))
def test_expressions_that_could_run_for_years_are_refused(expression):
    for option in ("target_modules", "exclude_modules", "layers_pattern", "modules_to_save", "rank_pattern"):
        value = {expression: 2} if option == "rank_pattern" else expression
        value = [expression] if option == "modules_to_save" else value
        with pytest.raises(DudeError, match=option):
            DudeConfig(**{option: value, "layers_to_transform": 1} if option == "layers_pattern" else {option: value})


@pytest.mark.parametrize(
    "expression",
    [
        r".*\.(q|v)_proj",
        r"^(?!.*visual).*(?:q_proj|v_proj)$",
        r"model\.layers\.(\d|1[0-5])\.(self_attn|mlp)\.(q_proj|k_proj|up_proj)",
        r"[^.]+\.[^.]+\.[^.]+\.[^.]+\.q_proj",
        r"(.*\.)?layers\.[0-9]+\..*_proj",
        r"(?:.*?(?:vision|image|language).*?(?:self_attn|attn|mlp).*?(?:k_proj|v_proj|fc1|fc2).*?)|(?:\bmodel\.\d{1,}\.q)",
    ],
)
def test_expressions_as_people_write_them_are_accepted(expression):
    assert DudeConfig(target_modules=expression).target_modules == expression
    assert DudeConfig(rank_pattern={expression: 2}).rank_pattern == {expression: 2}


def test_the_costliest_expression_that_is_accepted_is_quick_on_a_long_name():
    """Counted in processor time of this process, with a margin of two orders: exponential would never come back."""
    import re

    start = time.process_time()
    for expression in (r".*.*.*.*X", r"\w*\w*\w*\w*\w*\w*\w*X", r".*\w*\w*\w*\w*X"):
        DudeConfig(target_modules=expression)
        assert re.fullmatch(expression, "model.layers.11.self_attn.q_proj.experts.3.down_proj_of_some_length") is None
    assert time.process_time() - start < 20
