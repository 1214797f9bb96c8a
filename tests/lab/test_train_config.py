"""A run's YAML: what it means, what is refused, and with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from dude_lab.config.yaml_file import differences, fingerprint, load_config, override, parse_run, to_yaml
from dude_lab.config.yaml_reader import read_yaml
from dude_lab.methods import METHODS, parse_method
from dude_peft.errors import DudeError

MINIMAL = {"model": "mini", "method": "dude", "data": {"name": "mini_gsm"}, "output": "runs/x"}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_short_forms_and_defaults() -> None:
    run = parse_run(MINIMAL)
    assert (run.model.name, run.model.dtype, run.model.trust_remote_code) == ("mini", "auto", False)
    assert run.method.name == "dude"
    assert (run.method.r, run.method.target_modules, run.method.magnitude_axis) == (16, "all-linear", "out")
    assert (run.train.weight_decay, run.train.schedule, run.train.max_grad_norm) == (0.0, "cosine", 1.0)
    assert run.eval is None


@pytest.mark.parametrize(("method", "rate"), [("dude", 5e-5), ("pissa", 5e-5), ("lora", 2e-4), ("full", 2e-5)])
def test_the_learning_rate_is_the_methods_unless_one_is_set(method: str, rate: float) -> None:
    raw = {**MINIMAL, "method": method}
    assert parse_run(raw).train.learning_rate == rate
    assert parse_run({**raw, "train": {"steps": 3}}).train.learning_rate == rate
    assert parse_run({**raw, "train": {"learning_rate": 2e-4}}).train.learning_rate == 2e-4
    assert parse_run(override(raw, ["train.lr=1e-3"], [])).train.learning_rate == 1e-3


def test_resolved_config_reads_back_to_itself(tmp_path: Path) -> None:
    for name in METHODS:
        run = parse_run({**MINIMAL, "method": name, "train": {"learning_rate": 3e-5}, "eval": {"suite": "mini_gsm"}})
        again = load_config(write(tmp_path / f"{name}.yaml", to_yaml(run)))
        assert again == run
        assert type(again.method) is type(run.method)


def test_overrides_are_typed_as_yaml() -> None:
    raw = override(
        MINIMAL, ["train.learning_rate=1e-4", "train.steps=7", "model.dtype=float32", "method.target_modules=[q_proj]"]
    )
    run = parse_run(raw)
    assert (run.train.learning_rate, run.train.steps) == (1e-4, 7)
    assert (run.model.name, run.model.dtype) == ("mini", "float32")
    assert run.method.target_modules == ["q_proj"]  # type: ignore[attr-defined]
    assert MINIMAL["model"] == "mini" and "train" not in MINIMAL  # the caller's mapping is left alone


def test_override_replaces_a_whole_section() -> None:
    assert parse_run(override(MINIMAL, ["method=lora", "method.r=2"])).method.r == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": {"lerning_rate": 1}}, ["unknown key 'train.lerning_rate'", "'learning_rate'"]),
        ({"modle": "x"}, ["unknown key 'modle'", "'model'"]),
        ({"model": {"name": "mini", "dtpe": "auto"}}, ["dtpe", "'dtype'"]),
        ({"method": "dued"}, ["unknown method 'dued'", "'dude'"]),
        ({"method": {"name": "dude", "magnitude_axes": "in"}}, ["magnitude_axes", "'magnitude_axis'"]),
        (
            {"method": {"name": "lora", "magnitude_axis": "in"}},
            ["'lora' has no key 'magnitude_axis'", "dude, dude_a, dude_b"],
        ),
        ({"method": {"name": "full", "r": 4}}, ["'full' has no key 'r'"]),
        ({"method": {"name": "dude", "r": 0}}, ["'r'", "greater than or equal to 1", "got 0"]),
        ({"method": {"name": "dude", "rank_pattern": {"q_proj": 0}}}, ["ranks must be 1 or more", "q_proj"]),
        ({"method": {"name": "dude", "target_modules": []}}, ["name at least one module"]),
        ({"method": 3}, ["'method' must be a name", "3"]),
        ({"train": {"steps": "many"}}, ["'train.steps'", "integer", "'many'"]),
        ({"train": {"steps": 5, "epochs": 1}}, ["steps or epochs, not both"]),
        ({"train": {"warmup": 1.5}}, ["warmup", "1.5"]),
        ({"data": {}}, ["data", "'name', 'train' and 'hub'"]),
        ({"eval": {"suite": "gsm9k"}}, ["gsm9k", "'gsm8k'"]),
    ],
)
def test_mistakes_are_named(change: dict, words: list[str]) -> None:
    with pytest.raises(DudeError) as caught:
        parse_run({**MINIMAL, **change}, "my.yaml")
    for word in ["my.yaml", *words]:
        assert word in str(caught.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(DudeError) as caught:
        parse_run({**MINIMAL, "method": "dued", "train": {"stepz": 1}, "modle": 1})
    for word in ("dued", "train.stepz", "modle"):
        assert word in str(caught.value)


@pytest.mark.parametrize("missing", ["model", "method", "data", "output"])
def test_a_missing_section_is_named(missing: str) -> None:
    with pytest.raises(DudeError, match=f"'{missing}' is required"):
        parse_run({key: value for key, value in MINIMAL.items() if key != missing})


def test_broken_yaml_names_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(DudeError, match=r"bad\.yaml:3:\d+: broken YAML"):
        read_yaml(write(tmp_path / "bad.yaml", "model: mini\nmethod: dude\ndata: {name: [mini_gsm}\n"))


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DudeError, match=r"twice\.yaml:3:1: .*duplicate key 'model'"):
        read_yaml(write(tmp_path / "twice.yaml", "model: mini\noutput: x\nmodel: other\n"))


def test_a_missing_config_suggests_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path / "gsm8k_dude.yaml", "model: mini\n")
    with pytest.raises(DudeError, match=r"gsm8k_dud\.yaml: no such config file\. Did you mean 'gsm8k_dude\.yaml'"):
        read_yaml(tmp_path / "gsm8k_dud.yaml")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words"])
def test_a_config_must_be_a_mapping(tmp_path: Path, text: str) -> None:
    with pytest.raises(DudeError, match="a config is a mapping"):
        read_yaml(write(tmp_path / "list.yaml", text))


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("steps", "write key=value"),
        ("=3", "write key=value"),
        ("output.x=1", "'output' is a value"),
        ("a=[", "not YAML"),
    ],
)
def test_bad_overrides(pair: str, words: str) -> None:
    with pytest.raises(DudeError) as caught:
        override(MINIMAL, [pair])
    assert words in str(caught.value) and pair in str(caught.value)


def test_a_merge_key_and_scientific_numbers(tmp_path: Path) -> None:
    text = "base: &b {steps: 5, learning_rate: 1e-3}\ntrain:\n  <<: *b\n  batch_size: 2\n"
    assert read_yaml(write(tmp_path / "m.yaml", text))["train"] == {"steps": 5, "learning_rate": 1e-3, "batch_size": 2}


def test_fingerprint_is_of_everything_but_the_output() -> None:
    one = parse_run(MINIMAL)
    assert fingerprint(one) == fingerprint(parse_run({**MINIMAL, "output": "elsewhere"}))
    assert fingerprint(one) != fingerprint(parse_run({**MINIMAL, "train": {"seed": 1}}))


def test_differences_name_the_dotted_key() -> None:
    one, other = parse_run(MINIMAL).resolved(), parse_run({**MINIMAL, "train": {"seed": 1}}).resolved()
    assert differences(one, other) == ["train.seed: 42 there, 1 here"]


def test_every_method_builds_the_config_that_it_names() -> None:
    from peft import LoraConfig

    from dude_lab.methods import build
    from dude_peft import DudeConfig

    raw = {"r": 4, "target_modules": ["q_proj"], "lora_dropout": 0.1, "rank_pattern": {"v_proj": 2}}
    for name in ("dude", "dude_a", "dude_b"):
        config = build(parse_method({"name": name, **raw, "magnitude_axis": "in", "detach_norm": True, "svd_seed": 3}))
        assert isinstance(config, DudeConfig)
        assert (config.init_variant, config.magnitude_axis, config.detach_norm, config.svd_seed) == (
            name,
            "in",
            True,
            3,
        )
    for name, dora, init in (("lora", False, True), ("dora", True, True), ("pissa", False, "pissa")):
        config = build(parse_method({"name": name, **raw}))
        assert type(config) is LoraConfig
        assert (config.use_dora, config.init_lora_weights) == (dora, init)
        assert (config.r, config.lora_alpha, config.lora_dropout, config.rank_pattern) == (4, 4, 0.1, {"v_proj": 2})
        assert config.alpha_pattern == {"v_proj": 2}  # the scale is 1 there, too
    assert build(parse_method("full")) is None
