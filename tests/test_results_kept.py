"""The finished runs in `results/` are those that today's code would make: a new start must not make them again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from dude_peft.training.base_model import find_base, identity
from dude_peft.training.config_file import fingerprint, parse_run
from dude_peft.training.settings import ModelSettings

RUNS = sorted((Path(__file__).parent.parent / "results" / "mini" / "runs").glob("*/run.json"))
TRAINED = [path for path in RUNS if not path.parent.name.startswith("base-")]


@pytest.fixture(scope="module")
def base() -> str:
    """SHA-256 of the shipped model."""
    return identity(find_base(ModelSettings(name="mini"), device="cpu"))["sha256"]


def key(run: Path, base: str) -> str:
    """Eight digits of what determines a run's result: its config, as today's code reads it, and the base's weights."""
    config = json.loads(run.read_text(encoding="utf-8"))["config"]
    what = [fingerprint(parse_run(config)), base]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]


def test_there_are_runs() -> None:
    assert TRAINED


@pytest.mark.parametrize("path", TRAINED, ids=lambda path: path.parent.name)
def test_a_finished_run_is_known_by_its_name(path: Path, base: str) -> None:
    assert path.parent.name.endswith("-" + key(path, base))
