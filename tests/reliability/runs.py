"""The tiny run that the reliability tests disturb, and what of a finished run must not depend on the disturbance."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from faults import Call, Ended, Server, server  # noqa: F401
from tiny_run import Tiny, write_base

from dude_lab.training.run_folder import RunFolder
from dude_peft.files import sha256

METHODS = ("dude", "lora", "pissa", "full")
STEPS = 4
RAM = Path("/dev/shm")  # the folders of thousands of runs: in memory where there is such a place


def outcome(run: Path) -> dict[str, Any]:
    """What two runs of one config share bit for bit: the adapter's files, the curves, results and tokens."""
    folder = RunFolder(run)
    record = json.loads(folder.record.read_text())
    result = folder.model if folder.model.is_dir() else folder.adapter
    curves = [json.loads(line) for line in folder.curves.read_text().splitlines()]
    return {
        "files": {p.relative_to(result).as_posix(): sha256(p) for p in sorted(result.rglob("*")) if p.is_file()},
        "curves": [{k: v for k, v in row.items() if k != "seconds"} for row in curves],
        "metrics": record["metrics"],
        "tokens": record["cost"]["tokens"],
    }


class Subject:
    """One config that is run again and again, each time in a new folder.

    Attributes:
        root: base model, data, config and runs.
        case: the folder of the present run, emptied by `fresh`.
        run: the run's own folder in it.
        whole: `outcome` of the undisturbed run.
    """

    def __init__(self, server: Server, root: Path, method: str, evaluation: bool) -> None:  # noqa: F811
        self.server, self.root, self.method = server, root, method
        self.case = root / "case"
        self.run = self.case / "run"
        tiny = Tiny(write_base(root / "base", layers=1), root)
        if method == "full":
            tiny.raw["method"] = "full"
        else:
            tiny.raw["method"]["name"] = method
        tiny.raw["train"] |= {"steps": STEPS, "save_every": 2, "keep_checkpoints": 1}
        tiny.raw["data"]["validation"] = 0.1
        tiny.raw["output"] = str(self.run)
        if evaluation:
            tiny.raw["eval"] = {"suite": "mini_csqa", "limit": 2, "every": 2}
        self.config = str(tiny.write())
        self.fresh()
        ended = self.train(log_calls=True)
        assert ended.code == 0, ended.output
        self.whole, self.calls, self.seconds = outcome(self.run), ended.calls, ended.seconds

    def fresh(self) -> None:
        """A folder in which nothing has run yet."""
        shutil.rmtree(self.case, ignore_errors=True)
        self.case.mkdir()

    def train(self, **options: Any) -> Ended:
        """`dude train --resume auto`, disturbed as `Server.run` is told."""
        return self.server.run("train", self.config, "--resume", "auto", **{"below": self.case, **options})

    def check(self, saved: bool) -> str:
        """What is wrong with the disturbed run before and after it is resumed; empty if nothing is.

        Args:
            saved: whether a checkpoint was complete before the disturbance, so that one must be there.
        """
        folder = RunFolder(self.run)
        if saved and not folder.record.is_file() and not folder.complete_checkpoints():
            return "no complete checkpoint is left"
        ended = self.train()
        if ended.code != 0:
            return f"resuming ended with {ended.code}: {ended.output[-1500:]}"
        found = outcome(self.run)
        return ", ".join(f"{part} differ" for part, value in self.whole.items() if found[part] != value)

    def saved_before(self, number: int) -> bool:
        """Whether the undisturbed run had completed a checkpoint before its call `number`."""
        return any(c.number < number and c.name == "rename" and c.path.endswith("/manifest.json") for c in self.calls)

    def describe(self, number: int) -> str:
        """The undisturbed run's call of that number, for a message."""
        found = next((c for c in self.calls if c.number == number), None)
        return f"call {number}" if found is None else f"call {number} ({found.name} {found.path})"


def writes(calls: list[Call]) -> list[Call]:
    """The calls that write more than one byte, which a kill can cut in two."""
    return [c for c in calls if c.name == "write" and c.bytes > 1]


@pytest.fixture(scope="session")
def subjects(server: Server) -> Iterator[Any]:  # noqa: F811
    """(method, evaluation=False) -> its `Subject`, made once in a test process."""
    root = Path(tempfile.mkdtemp(prefix="reliability-", dir=RAM if RAM.is_dir() else None))

    @cache
    def subject(method: str, evaluation: bool = False) -> Subject:
        place = root / f"{method}-{evaluation}"
        place.mkdir()
        return Subject(server, place, method, evaluation)

    yield subject
    shutil.rmtree(root)
