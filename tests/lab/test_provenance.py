"""What a run file says of the code that ran."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dude_lab.training import provenance


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    module, results = tmp_path / "package" / "training" / "provenance.py", tmp_path / "results.json"
    module.parent.mkdir(parents=True)
    module.write_text("")
    results.write_text("{}")
    for words in ("init -q", "add -A", "-c user.name=a -c user.email=a@b commit -qm first"):
        subprocess.run(["git", "-C", str(tmp_path), *words.split()], check=True)
    monkeypatch.setattr(provenance, "__file__", str(module))
    provenance.git_state.cache_clear()
    yield tmp_path
    provenance.git_state.cache_clear()


def state() -> dict[str, object]:
    provenance.git_state.cache_clear()
    found = provenance.git_state()
    assert found is not None
    return found


def test_changes_are_those_of_the_code_not_of_results_beside_it(repository: Path) -> None:
    assert len(str(state()["sha"])) == 40 and state()["dirty"] is False
    (repository / "results.json").write_text("{1}")
    assert state()["dirty"] is False
    (repository / "package" / "other.py").write_text("not tracked yet")
    (repository / "package" / "training" / "provenance.py").write_text("changed")
    assert state()["dirty"] is True


def test_code_that_git_does_not_track_has_no_commit(repository: Path) -> None:
    subprocess.run(["git", "-C", str(repository), "rm", "-q", "--cached", "package/training/provenance.py"], check=True)
    provenance.git_state.cache_clear()
    assert provenance.git_state() is None
