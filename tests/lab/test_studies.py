"""The packed studies: today's code takes their runs for its own and finds in them what the tables say."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from dude_lab.compare.packed import NOT_STORED, PackedStudy, find_packed
from dude_lab.compare.results import collect_runs
from dude_lab.config.run_settings import ModelSettings
from dude_lab.config.yaml_file import fingerprint, parse_run
from dude_lab.paper.experiment_summary import experiment_summary
from dude_lab.paper.experiments import Scale, chosen
from dude_lab.paper.paper_tables import AT_END
from dude_lab.paper.recipe import comparisons_of
from dude_lab.paper.study import stored_progress
from dude_lab.paper.study_folder import StudyFolder
from dude_lab.paper.study_report import write_experiment
from dude_lab.training.base_model import find_base, identity

MINI = ROOT / "studies" / "mini"


@pytest.fixture(scope="module")
def study() -> PackedStudy:
    found = find_packed(MINI)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def base() -> str:
    """SHA-256 of the shipped model."""
    return identity(find_base(ModelSettings(name="mini"), device="cpu"))["sha256"]


def key(config: dict[str, Any], base: str) -> str:
    """Eight digits of what determines a run's result: its config, as today's code reads it, and the base's weights."""
    what = [fingerprint(parse_run(config)), base]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]


def test_every_run_is_known_by_its_name(study: PackedStudy, base: str) -> None:
    trained = {name: one for name, one in study.records.items() if one.get("kind") != "base"}
    assert len(trained) == 594 and len(study.records) == 600
    assert [name for name, one in trained.items() if not name.endswith("-" + key(one["config"], base))] == []


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in MINI.parent.glob("*/runs.parquet")), ids=lambda p: p.name
)
def test_no_run_names_a_folder_of_a_machine(folder: Path) -> None:
    packed = find_packed(folder)
    assert packed is not None and packed.records
    outputs = [one["config"].get("output", "") for one in packed.records.values()]
    assert [one for one in outputs if Path(one).is_absolute()] == []


def test_nothing_is_left_to_run() -> None:
    comparisons = comparisons_of(chosen("all", "mini"), "mini", MINI, (), [])
    done, known = stored_progress(StudyFolder(MINI), comparisons) or (0, 0)
    assert done == known == 600


def test_every_answer_is_there_and_no_prompt(study: PackedStudy) -> None:
    import pyarrow.parquet as pq

    schema = pq.read_schema(MINI / "answers.parquet")
    assert not set(NOT_STORED) & set(schema.names)
    table = pq.read_table(MINI / "answers.parquet", columns=["run", "task", "correct"])
    right: Counter[tuple[str, str]] = Counter()
    asked: Counter[tuple[str, str]] = Counter()
    for run, task, correct in zip(*(table[name].to_pylist() for name in ("run", "task", "correct")), strict=True):
        right[run, task] += correct
        asked[run, task] += 1
    assert sum(asked.values()) == 311_340
    for (run, task), n in asked.items():
        metric = study.records[run]["metrics"]["after"]["tasks"][task]
        assert (n, right[run, task] / n) == (metric["n"], pytest.approx(metric["value"], abs=1e-12))


@pytest.mark.parametrize(
    ("scale", "name"),
    [
        ("mini", "table2"),
        ("mini", "seeds"),
        *(("small", name) for name in ("table1", "table3", "figure2", "figure3", "ablation", "forgetting", "rates")),
    ],
)
def test_the_tables_are_those_of_the_runs(scale: Scale, name: str, tmp_path: Path) -> None:
    stored = MINI.parent / scale
    shutil.copytree(stored, tmp_path / "study")
    files = [f"{name}.{kind}" for kind in ("md", "json")]
    for file in files:
        (tmp_path / "study" / file).unlink()
    (experiment,) = chosen(name, scale)
    write_experiment(StudyFolder(tmp_path / "study"), experiment, scale)
    for file in files:
        assert (tmp_path / "study" / file).read_text() == (stored / file).read_text()


@pytest.mark.parametrize("scale", ["mini", "small"])
def test_the_readme_has_the_summary_of_each_experiment(scale: str) -> None:
    folder = MINI.parent / scale
    text, marked = (folder / "README.md").read_text(), 0
    for file in sorted(folder.glob("*.json")):
        made = json.loads(file.read_text())
        if "tables" not in made:
            continue
        summary = "\n".join(experiment_summary(file.stem, made))
        assert summary in text, file.stem
        marked += AT_END in summary
    assert marked == {"mini": 2, "small": 0}[scale]  # rows whose rate is at an end of its search


def test_the_tree_stays_small() -> None:
    files = [path for path in MINI.rglob("*") if path.is_file() and "state" not in path.parts]
    assert len(files) < 100 and sum(path.stat().st_size for path in files) < 12e6


def test_runs_of_one_method_have_what_differs_in_their_label() -> None:
    small = find_packed(MINI.parent / "small")
    assert small is not None

    # Runs of one method and rate differ in what they are asked.
    asked = [
        name for name, one in small.records.items() if (one["config"]["eval"] or {}).get("suite") == "commonsense_qa"
    ]

    def labels(*starts: str) -> list[str]:
        names = [next(name for name in asked if name.startswith(f"{start}-s42-")) for start in starts]
        return [row.label for row in collect_runs([MINI.parent / "small" / "runs" / name for name in names]).rows]

    assert labels("dude-r16-lr0.003", "dude-detached-norm-r16-lr0.003") == [
        "DuDe (detach_norm=false)",
        "DuDe (detach_norm=true)",
    ]
    assert labels("dude-random-vectors-r16-lr0.001", "dude-random-vectors-r16-lr0.003") == [
        "DuDe, random vectors (learning_rate=0.001)",
        "DuDe, random vectors (learning_rate=0.003)",
    ]
    assert labels("dude-r16-lr0.003", "pissa-random-vectors-r16-lr0.003") == ["DuDe", "PiSSA, random vectors"]
