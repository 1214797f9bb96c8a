"""Promise: the supported range of PEFT is the one that pyproject.toml states, and both of its ends are tested."""

from __future__ import annotations

import os
import re

import peft
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.version import Version


def stated() -> Requirement:
    return Requirement(re.search(r'"(peft[><=][^"]+)"', (ROOT / "pyproject.toml").read_text()).group(1))


def test_this_peft_is_in_the_stated_range():
    assert stated().specifier.contains(peft.__version__)


def test_these_tests_run_against_the_peft_that_was_asked_for():
    wanted = os.environ.get("EXPECTED_PEFT")
    assert wanted is None or peft.__version__ == wanted


def test_both_ends_are_what_ci_installs():
    lowest = min(Version(s.version) for s in stated().specifier if s.operator == ">=")
    oldest = next(line.split()[-1] for line in (ROOT / "Makefile").read_text().splitlines() if "OLDEST_PEFT :=" in line)
    newest = next(
        line.split("==")[1] for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("peft==")
    )
    assert Version(oldest).release[:2] == lowest.release[:2] and Version(oldest) >= lowest
    assert stated().specifier.contains(newest) and Version(newest) >= Version(oldest)
