"""Promise: the names of transformers' arguments are accepted with a note, and an unknown key gets the nearest ones."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from dude_lab.cli.commands import app
from dude_lab.config.aliases import ALIASES
from dude_lab.config.compare_settings import load_comparison
from dude_lab.config.data_settings import DataSettings
from dude_lab.config.run_settings import ModelSettings, RunSettings, TrainSettings
from dude_lab.config.yaml_file import fingerprint, override, parse_run
from dude_peft.errors import DudeError

MINIMAL: dict[str, Any] = {"model": "mini", "method": "lora", "data": {"name": "mini_gsm"}, "output": "runs/x"}
THEIRS = {
    "lr": 1e-4,
    "max_steps": 20,
    "warmup_ratio": 0.1,
    "lr_scheduler_type": "constant_with_warmup",
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
}
OURS = {
    "learning_rate": 1e-4,
    "steps": 20,
    "warmup": 0.1,
    "schedule": "constant",
    "batch_size": 4,
    "gradient_accumulation": 2,
}


def test_every_alias_names_a_key_and_is_none() -> None:
    sections = {(): RunSettings, ("model",): ModelSettings, ("data",): DataSettings, ("train",): TrainSettings}
    for section, names in ALIASES.items():
        known = sections[section].model_fields
        assert set(names.values()) <= set(known) and not set(names) & set(known)


def test_a_config_of_their_names_is_ours() -> None:
    notes: list[str] = []
    theirs = parse_run(override({**MINIMAL, "train": dict(THEIRS)}, [], notes))
    assert fingerprint(theirs) == fingerprint(parse_run({**MINIMAL, "train": OURS}))
    assert "train.lr is read as train.learning_rate" in notes and len(notes) == len(THEIRS)
    assert any("batch_size, which counts the examples of all processes" in note for note in notes)


def test_the_callers_config_is_left_alone() -> None:
    raw = {**copy.deepcopy(MINIMAL), "train": dict(THEIRS)}
    before = copy.deepcopy(raw)
    override(raw, ["train.lr=1"])
    assert raw == before


def test_overrides_have_their_names_too() -> None:
    notes: list[str] = []
    raw = {**MINIMAL, "train": {"learning_rate": 1e-3, "steps": 5}}
    run = parse_run(override(raw, ["train.lr=2e-4", "train.max_steps=-1", "train.num_train_epochs=2"], notes))
    assert (run.train.learning_rate, run.train.steps, run.train.epochs) == (2e-4, None, 2)
    assert len(notes) == 3


def test_a_key_given_twice_is_refused() -> None:
    for train in ({"lr": 1, "learning_rate": 1}, {"warmup_ratio": 0.1, "warmup_steps": 3}):
        one, other = train
        with pytest.raises(DudeError, match=rf"train.({one}|{other}) and train.({one}|{other}) are the same key"):
            override({**MINIMAL, "train": train}, [])


def test_a_ratio_is_below_one() -> None:
    with pytest.raises(DudeError, match=r"train.warmup_ratio: a share of the steps, below 1, got 3"):
        override({**MINIMAL, "train": {"warmup_ratio": 3}}, [])


def test_a_comparison_takes_them(tmp_path: Path) -> None:
    raw = {
        "run": {"model": "mini", "data": {"name": "mini_gsm"}, "train": {"max_steps": 5}},
        "methods": ["lora"],
        "learning_rates": [1e-3],
        "output": "runs/c",
    }
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(raw))
    notes: list[str] = []
    settings = load_comparison(path, ["run.train.num_train_epochs=null", "run.train.logging_steps=2"], notes)
    assert settings.run["train"] == {"steps": 5, "epochs": None, "log_every": 2}
    assert len(notes) == 3


def test_the_commands_print_the_notes(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, "train": {"lr": 1e-4, "max_steps": 2}, "output": str(tmp_path / "x")}))
    said = CliRunner().invoke(app, ["validate", str(path)]).output
    assert "! train.lr is read as train.learning_rate" in said and "! train.max_steps is read as train.steps" in said


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"learning_rat": 1}, "unknown key 'train.learning_rat'. Did you mean 'learning_rate'"),
        ({"zzz": 1}, "unknown key 'train.zzz'. The nearest keys are "),
        ({"optimizer": "adamw"}, "unknown key 'train.optimizer'. The nearest keys are "),
    ],
)
def test_an_unknown_key_gets_the_nearest(train: dict[str, Any], said: str) -> None:
    with pytest.raises(DudeError) as caught:
        parse_run({**MINIMAL, "train": train})
    message = str(caught.value)
    assert said in message and "keep_checkpoints" not in message and len(message) < 200
