"""A table of bad inputs: files that a user may hand to the command, and the command line that reads them.

`every_case()` lists them; `outcome` runs one in this process and says what became of it. `python tests/bad_inputs.py`
prints the counts, with a line for each case that ended in anything but a refusal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny_run
import yaml

SECONDS = 60  # far above what any of them takes on an idle machine, where most take milliseconds
LONGEST_MESSAGE = 4_000  # characters of an error; a message that quotes a whole file helps nobody
SHARED = ".shared"  # link to the folder of `make_shared`, for makers that copy from it
VALIDATE = ("validate", "run.yaml")

Maker = Callable[[Path], None]
"""Puts one input at the path it is given: for what is no plain file, or needs more than bytes."""


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes:
        name: unique, `group/what`.
        argv: arguments of `dude`, run in the folder with the files.
        files: path in that folder -> bytes, text, or a `Maker`. Beside them lie `base` (a model), `sums.jsonl` (data),
            `run.yaml` (a valid config of the two) and `finished` (a finished run), unless they are named here.
        accepted: whether the command may also succeed, where the input is odd and not wrong.
        seconds: after which it counts as hanging.
    """

    name: str
    argv: tuple[str, ...] = VALIDATE
    files: Mapping[str, bytes | str | Maker] = field(default_factory=dict)
    accepted: bool = False
    seconds: int = SECONDS


@dataclass(frozen=True)
class Outcome:
    """What became of a case: `refused`, `accepted`, `silent` (success on a wrong input), `traceback`, `hang`, `wrote`
    (a refused command that left files) or `long` (a message of more than `LONGEST_MESSAGE` characters)."""

    kind: str
    text: str

    @property
    def good(self) -> bool:
        return self.kind in ("refused", "accepted")


class _Hang(BaseException):
    pass


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """The working directory is `folder`; `contextlib.chdir` of Python 3.11."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise _Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def config(**changes: Any) -> dict[str, Any]:
    """The valid config, with other sections where they are given."""
    raw: dict[str, Any] = {
        "model": "base",
        "method": {"name": "lora", "r": 4, "target_modules": ["q_proj", "v_proj"]},
        "data": {"train": "sums.jsonl"},
        "train": {"steps": 2, "batch_size": 4, "device": "cpu"},
        "output": "run",
    }
    return {**raw, **changes}


def make_shared(folder: Path) -> Path:
    """The model and the finished run that the cases read, made once (seconds)."""
    from dude_lab.config.yaml_file import parse_run
    from dude_lab.training.train_run import train

    tiny_run.write_base(folder / "base")
    tiny_run.write_sums(folder / "sums.jsonl", 8)
    with inside(folder):
        train(parse_run(config(model=str(folder / "base"), output="finished")))
    return folder


def prepare(case: Case, folder: Path, shared: Path) -> None:
    """Write the case's files, and those that every case has, into an empty folder."""
    (folder / SHARED).symlink_to(shared)
    for name in ("base", "sums.jsonl", "finished"):
        if not any(Path(file).parts[0] == name for file in case.files):
            (folder / name).symlink_to(shared / name)
    (folder / "run.yaml").write_text(yaml.safe_dump(config()), encoding="utf-8")
    for file, content in case.files.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        else:
            path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def outcome(case: Case, folder: Path, shared: Path) -> Outcome:
    """Prepare the case in `folder` and run its command in this process."""
    from typer.testing import CliRunner

    from dude_lab.cli.commands import app

    prepare(case, folder, shared)
    before = _listing(folder)
    with inside(folder):
        try:
            with _alarm(case.seconds):
                result = CliRunner().invoke(app, list(case.argv))
        except _Hang:
            return Outcome("hang", f"nothing after {case.seconds} s")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        if isinstance(result.exception, _Hang):
            return Outcome("hang", f"nothing after {case.seconds} s")
        return Outcome("traceback", f"{type(result.exception).__name__}: {result.exception}"[:300])
    text = result.output
    if result.exit_code == 0:
        return Outcome("accepted" if case.accepted else "silent", text)
    if result.exit_code != 2 or not text.strip():
        return Outcome("traceback", f"exit code {result.exit_code}: {text[:300]}")
    if len(text) > LONGEST_MESSAGE:
        return Outcome("long", f"{len(text)} characters: {text[:200]}")
    if extra := _listing(folder) - before:
        return Outcome("wrote", ", ".join(sorted(extra)))
    return Outcome("refused", text)


def _listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def every_case() -> list[Case]:
    """The whole table."""
    import bad_files
    import bad_settings

    cases: list[Case] = [*bad_settings.cases(), *bad_files.cases()]
    twice = [name for name, count in Counter(case.name for case in cases).items() if count > 1]
    assert not twice, twice
    return cases


def main(words: list[str]) -> None:
    """Run all cases, or those whose name holds one of the words."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    cases = [case for case in every_case() if not words or any(word in case.name for word in words)]
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as top:
        shared = make_shared(Path(top, "shared"))
        for number, case in enumerate(cases):
            folder = Path(top, str(number))
            folder.mkdir()
            found = outcome(case, folder, shared)
            counts[found.kind] += 1
            if not found.good or words:
                print(f"{found.kind:9} {case.name}: {' '.join(found.text.split())[:300]}", flush=True)
    print(f"{len(cases)} cases: " + ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))


if __name__ == "__main__":
    sys.modules["bad_inputs"] = sys.modules["__main__"]  # the parts import this module by its name
    main(sys.argv[1:])
