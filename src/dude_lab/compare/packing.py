"""Pack the run folders of a study into three Parquet files, and unpack them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dude_peft.errors import DudeError
from dude_peft.files import write_json, write_text

from ..config.yaml_reader import dump_yaml, read_yaml
from ..folders import folder_bytes
from ..training.run_folder import VALIDATION_LOSSES, RunFolder
from .comparison_folder import STUDY, claim
from .packed import FILES, NOT_STORED, PackedRun, PackedStudy, find_packed, make_tables, write_table
from .run_store import FolderRun, RunStore, Source, samples_file

WEIGHTS = ("adapter", "model", "checkpoints")
DERIVED = frozenset({"curves.png", "metrics.md", "summary.json"})  # made from files that are stored
LEFT_OUT = frozenset({VALIDATION_LOSSES})  # its mean is in `run.json`
KNOWN = frozenset({"config.yaml", "run.json", "curves.jsonl", "metrics.json"}) | DERIVED | LEFT_OUT
PARTS = ".packed.part"


@dataclass(frozen=True)
class Packing:
    """The result of packing or unpacking.

    Attributes:
        folder: folder of the study that was written.
        runs: number of runs that were packed or unpacked.
        unfinished: names of run folders that were left as they are.
        files: number of files before and after.
        bytes: size before and after.
    """

    folder: Path
    runs: int
    unfinished: tuple[str, ...]
    files: tuple[int, int]
    bytes: tuple[int, int]


def pack(path: str | Path, output: Path | None = None, *, discard_weights: bool = False) -> Packing:
    """Pack the finished runs of a study; their folders are removed after the written files have been read and compared.

    A killed process leaves the folders, or the packed files and some folders; packing again completes it.

    Args:
        path: folder of the study: of `dude compare` or `dude reproduce`.
        output: a new folder for the packed study; the study at `path` is not changed then.
        discard_weights: remove trained weights and checkpoints, which a packed study does not hold.

    Raises:
        DudeError: no study, a study in use, or runs with files that would be lost.
    """
    study = _study(path)
    with _alone(study):
        store, before = RunStore(study), _size(study)
        runs = [_checked(run) for run in store]
        if not runs:
            raise DudeError(f"{study}: no finished run, so there is nothing to pack.")
        names = {run.name for run in runs}
        folders = sorted(p for p in store.folders.glob("*") if p.is_dir())
        if output is None:
            _check_losses([p for p in folders if p.name in names], discard_weights)
        target = study if output is None else _copy(study, output)
        _write(target, runs)
        if output is None:
            for folder in folders:
                if folder.name in names:
                    _remove(folder)
            _tidy(study)
        left = tuple(p.name for p in folders if p.name not in names)
    return Packing(target, len(runs), left, (before[0], _size(target)[0]), (before[1], _size(target)[1]))


def unpack(path: str | Path, output: Path | None = None) -> Packing:
    """Write every packed run as a folder, and remove the packed files.

    A run that has a folder is not written again.

    Args:
        path: folder of a packed study.
        output: a new folder for the study; the one at `path` is not changed then.

    Raises:
        DudeError: no packed study, or a study in use.
    """
    study = _study(path)
    with _alone(study):
        packed, before = find_packed(study), _size(study)
        if packed is None:
            raise DudeError(f"{study}: no packed runs (no runs.parquet).")
        target = study if output is None else _copy(study, output)
        if output is not None:
            for path in sorted(p for p in (study / "runs").glob("*") if p.is_dir()):
                shutil.copytree(path, target / "runs" / path.name, dirs_exist_ok=True)
        written = 0
        for name in packed.records:
            folder = RunFolder(target / "runs" / name)
            if not folder.record.is_file():
                _write_folder(folder, PackedRun(packed, name))
                written += 1
        if output is None:
            for name in reversed(FILES):
                (study / name).unlink()
    return Packing(target, written, (), (before[0], _size(target)[0]), (before[1], _size(target)[1]))


def _study(path: str | Path) -> Path:
    """Check that a path is the folder of a study, of `dude compare` or `dude reproduce`; return it."""
    path = Path(path)
    if not path.is_dir():
        raise DudeError(f"{path}: no such folder. Give the output of `dude compare` or `dude reproduce`.")
    if path.resolve().parent.name == "parts" and (path.resolve().parent.parent / STUDY).is_file():
        raise DudeError(f"{path}: one comparison of a study, whose runs are shared. Give {path.parent.parent}.")
    if not any((path / name).is_file() for name in ("compare.yaml", STUDY)):
        raise DudeError(
            f"{path}: neither a comparison nor a study (no compare.yaml, no {STUDY}). "
            "Give the output of `dude compare` or `dude reproduce`."
        )
    return path


@contextmanager
def _alone(study: Path) -> Iterator[None]:
    """Lock the study against another packing; raise `DudeError` while a process works on one of its runs."""
    state = study / "state"
    made = not state.exists()
    state.mkdir(exist_ok=True)
    locks = []
    try:
        for name in (".packing", *sorted(p.name.removesuffix(".lock") for p in state.glob("*.lock"))):
            if (lock := claim(state, name)) is None:
                what = "another process is packing it" if name == ".packing" else f"a process is working on {name}"
                raise DudeError(f"{study}: {what}. Stop it, or try again when it has ended.")
            locks.append(lock)
        yield
    finally:
        for lock in locks:
            lock.release()
        (state / ".packing.lock").unlink(missing_ok=True)
        if made and not any(state.iterdir()):
            state.rmdir()


def _checked(run: Source) -> Source:
    """Check that a packed study can store all of a run; return the run."""
    record = run.record()
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise DudeError(f"runs/{run.name}/run.json: damaged. Restore it, or remove the folder to train the run again.")
    if isinstance(run, FolderRun) and run.folder.config.is_file():
        there = read_yaml(run.folder.config)
        if {**there, "output": None} != {**record["config"], "output": None}:
            raise DudeError(f"{run.folder.config}: not the config of the run's run.json. Restore one of the two.")
    return run


def _check_losses(folders: list[Path], discard_weights: bool) -> None:
    """Raise `DudeError` if packing in place would remove something that is not stored."""
    weights = [p / name for p in folders for name in WEIGHTS if (p / name).is_dir()]
    if weights and not discard_weights:
        size = sum(map(folder_bytes, weights))
        raise DudeError(
            f"{weights[0]}: {len({p.parent for p in weights})} runs have trained weights ({size / 2**20:.0f} MiB), "
            "which a packed study does not store. Write the packed study elsewhere with -o DIR, or remove them with "
            "--discard-weights."
        )
    for folder in folders:
        for file in folder.rglob("*"):
            inside = file.relative_to(folder).parts
            if file.is_dir() or inside[0] in WEIGHTS or file.name.startswith("."):
                continue
            is_answers = inside[0] == "eval" and inside[-2] == "samples" and file.suffix == ".jsonl"
            if not is_answers and file.name not in KNOWN:
                raise DudeError(f"{file}: not a file of a run; packing would remove it. Move it, or use -o DIR.")


def _write(target: Path, runs: list[Source]) -> None:
    """Write the three files to a temporary folder, compare them with the runs, and move them into place."""
    parts = target / PARTS
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir()
    for name, table in make_tables(runs).items():
        write_table(table, parts / name)
    written = PackedStudy(parts)
    for run in runs:
        found = written.run(run.name)
        if found is None or content(found) != content(run):
            raise DudeError(f"{parts}: {run.name} differs when read back; no run was removed. Please report this.")
    for name in FILES:
        os.replace(parts / name, target / name)
    parts.rmdir()


def content(run: Source) -> dict[str, Any]:
    """Return everything that a packed study stores of a run."""
    answers = {
        evaluation: {
            task: [{key: value for key, value in one.items() if key not in NOT_STORED} for one in samples]
            for task, samples in run.samples(evaluation).items()
        }
        for evaluation in run.evaluations()
    }
    return {"record": run.record(), "metrics": run.metrics(), "curves": run.curves(), "answers": answers}


def _write_folder(folder: RunFolder, run: Source) -> None:
    """Write a run's folder, `run.json` last: until it exists, the run is read from the packed files."""
    shutil.rmtree(folder.path, ignore_errors=True)
    record = run.record()
    assert record is not None
    for evaluation in run.evaluations():
        samples = run.samples(evaluation)
        (folder.evaluations / evaluation / ("samples" if samples else "")).mkdir(parents=True)
        if evaluation in run.metrics():
            write_json(folder.evaluations / evaluation / "metrics.json", run.metrics()[evaluation])
        for task, found in samples.items():
            write_text(samples_file(folder, evaluation, task), _lines(found))
    folder.path.mkdir(parents=True, exist_ok=True)
    if record.get("kind") != "base":
        write_text(folder.curves, _lines(run.curves()))
        write_text(folder.config, dump_yaml(record["config"]))
    write_json(folder.record, record)


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows)


def _remove(folder: Path) -> None:
    """Remove a folder, `run.json` first, so that a partly removed folder is not a finished run."""
    (folder / "run.json").unlink(missing_ok=True)
    shutil.rmtree(folder)


def _tidy(study: Path) -> None:
    """Remove locks and logs of packed runs; records of failures stay."""
    for file in (study / "state").glob("*"):
        if not file.name.endswith(".failed.json") and file.name != ".packing.lock":
            file.unlink(missing_ok=True)
    for folder in (study / "runs", study / "state"):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _copy(study: Path, output: Path) -> Path:
    """Copy a study without its runs to a new folder."""
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise DudeError(f"-o: {output} exists. Choose a new folder.")
    ignored = {study.resolve() / name for name in ("runs", *FILES, PARTS)}

    def ignore(folder: str, names: list[str]) -> set[str]:
        here = Path(folder).resolve()
        locks = {name for name in names if here.name == "state" and not name.endswith(".failed.json")}
        return {name for name in names if here / name in ignored} | locks

    shutil.copytree(study, output, ignore=ignore, dirs_exist_ok=True)
    if (output / "state").is_dir() and not any((output / "state").iterdir()):
        (output / "state").rmdir()
    return output


def _size(folder: Path) -> tuple[int, int]:
    """Return the number of files in a folder and their size, without locks."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"]
    return len(files), sum(p.stat().st_size for p in files)
