"""What every test file shares: the tolerance table, tiny models of each architecture, adapters moved at random."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if not torch.cuda.is_available():  # before anybody imports Triton, if it is installed: it then runs on the CPU
    os.environ.setdefault("TRITON_INTERPRET", "1")
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]
START = time.time()

# The one table of tolerances: the largest error, relative to the largest entry compared, by dtype. What was measured is
# a few units in the last place; a looser value needs the measured error in the commit message.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}

AXES = ("out", "in")
VARIANTS = ("dude", "dude_a", "dude_b")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """The largest difference over the largest entry wanted."""
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).abs().max() / want.abs().max().clamp_min(1e-300))


def assert_close(got: torch.Tensor, want: torch.Tensor, dtype: torch.dtype = torch.float32) -> None:
    error = relative_error(got, want)
    assert error <= TOLERANCE[dtype], f"relative error {error:.3e} above {TOLERANCE[dtype]:.0e} of {dtype}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability-summary", metavar="FILE.json", help="write what the reliability tests counted")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The counts of all processes of a session, which pytest-xdist sends with the reports."""
    if (path := config.getoption("--reliability-summary")) is None:
        return
    sys.path.insert(0, str(ROOT / "tests" / "reliability"))
    from tally import summary

    reports = [r for kind in ("passed", "failed") for r in terminalreporter.getreports(kind) if r.when == "call"]
    found = summary(reports, time.time() - START)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    for row in found["rows"]:
        terminalreporter.write_line(f"{row['what']}, {row['subject']}: {row['good']:,} of {row['tried']:,}")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets, which the project does not ship: that of DUDE_DATA_DIR and no other."""
    folder = os.environ.get("DUDE_DATA_DIR")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs real data sets: set DUDE_DATA_DIR to the folder that holds them (CONTRIBUTING.md)")
    return Path(folder)


@pytest.fixture
def ask_for_kernels(monkeypatch):
    """A function that sets DUDE_TRITON as a new process would find it; afterwards nothing has happened."""
    from dude_peft import kernels

    def set_to(value: str) -> None:
        monkeypatch.setenv("DUDE_TRITON", value)
        kernels.enabled.cache_clear()

    yield set_to
    monkeypatch.undo()
    kernels.enabled.cache_clear()


@pytest.fixture(params=["thin", "temporary"])
def way(request, monkeypatch):
    """Both ways of axis `"out"` without a gradient, whatever the shape: thin products, and a temporary W'."""
    pays = request.param == "temporary"
    monkeypatch.setattr("dude_peft.functional.temporary_weight_pays", lambda *shape: pays)
    if not pays:
        monkeypatch.setattr("dude_peft.cache.CACHED_WEIGHT", 0)
    return request.param
