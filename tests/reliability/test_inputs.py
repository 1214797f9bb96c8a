"""The whole table of bad inputs, and fuzzing with many more cases than CI has time for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT
from tally import tally  # noqa: F401

PARTS = 4
EXAMPLES = "500"  # of each of the tests of `test_fuzz`


@pytest.mark.reliability
@pytest.mark.parametrize("part", range(PARTS))
def test_all_bad_inputs(tmp_path: Path, tally: Callable[..., None], part: int) -> None:  # noqa: F811
    import bad_inputs

    shared = bad_inputs.make_shared(tmp_path / "shared")
    cases, wrong = bad_inputs.every_case()[part::PARTS], []
    for number, case in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = bad_inputs.outcome(case, folder, shared)
        if not found.good:
            wrong.append(f"{case.name}: {found.kind}: {found.text}")
    tally("bad input on the command line", "all commands", len(cases), len(cases) - len(wrong))
    assert not wrong, "\n".join(wrong)


@pytest.mark.reliability
@pytest.mark.parametrize(("file", "what"), [("test_fuzz", "adapter files"), ("test_bad_inputs", "YAML, settings")])
def test_fuzz(tally: Callable[..., None], file: str, what: str) -> None:  # noqa: F811
    """Counted from what hypothesis says about each test."""
    path = f"tests/{file}.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--hypothesis-show-statistics"]
    done = subprocess.run(
        [*command, "--deselect", f"{path}::test_bad_input", path],
        cwd=ROOT,
        env={**os.environ, "DUDE_FUZZ_EXAMPLES": EXAMPLES},
        capture_output=True,
        text=True,
    )
    found = re.findall(r"(\d+) passing(?: examples)?, (\d+) failing", done.stdout)
    passing, failing = (sum(int(pair[place]) for pair in found) for place in (0, 1))
    tally("fuzz case of hypothesis", what, passing + failing, passing)
    assert done.returncode == 0 and passing, done.stdout[-3000:]
