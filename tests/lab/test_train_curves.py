"""`curves.jsonl`: that of a resumed run equals that of the undisturbed one, and damage to it is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from test_train_resume import At, Killed, interrupt, kill
from test_train_run import curves
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401

from dude_lab.training.curves import Curves
from dude_lab.training.reporter import Reporter
from dude_lab.training.train_run import Interrupted, train
from dude_peft.errors import DudeError

STEPS = 12


def lines(folder: Path) -> list[dict[str, Any]]:
    """All lines without what depends on the machine's speed."""
    return [{k: v for k, v in record.items() if k != "seconds"} for record in curves(folder)]


class AtStage(Reporter):
    """Calls `deed` when a stage of this name begins."""

    def __init__(self, name: str, deed: Any) -> None:
        self.name, self.deed = name, deed

    def stage(self, text: str) -> Any:
        if text == self.name:
            self.deed()
        return super().stage(text)


@pytest.fixture(scope="module")
def reference(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Tiny]:  # noqa: F811
    """log_every -> an undisturbed run with validation every 4 steps."""
    made = {}
    for log_every in (1, 3, 7):
        made[log_every] = one = Tiny(tiny_base, tmp_path_factory.mktemp(f"log{log_every}"))
        one.raw["train"] |= {"steps": STEPS, "log_every": log_every, "gradient_accumulation": 2, "batch_size": 2}
        one.raw["data"]["validation"] = 0.2
        one.raw["eval"] = {"suite": "mini_csqa", "limit": 1, "every": 4}
        train(one.settings("train.save_every=100", f"output={one.folder / 'whole'}"))
    return made


# save_every, and where the run ends: a step that is logged, or the beginning of a stage.
CUTS = [
    (1, 5, 7),
    (1, 4, 9),
    (3, 5, 12),
    (7, 5, 7),
    (7, 2, 7),
    (7, 3, 7),
    (1, 4, "evaluating at step 8"),
    (7, 4, "validation loss at step 8"),
    (7, 5, "validation loss after"),
    (3, 6, "evaluating after"),
]


@pytest.mark.parametrize(("log_every", "save_every", "where"), CUTS)
def test_killed_and_resumed(
    reference: dict[int, Tiny], tmp_path: Path, log_every: int, save_every: int, where: Any
) -> None:
    one = reference[log_every]
    settings = one.settings(f"train.save_every={save_every}", f"output={tmp_path / 'run'}")
    with pytest.raises(Killed):
        train(settings, reporter=At(where, kill) if isinstance(where, int) else AtStage(where, kill))
    train(settings, resume="auto")
    assert lines(tmp_path / "run") == lines(one.folder / "whole")


@pytest.mark.parametrize("log_every", [1, 7])
def test_stopped_in_an_evaluation(reference: dict[int, Tiny], tmp_path: Path, log_every: int) -> None:
    one = reference[log_every]
    settings = one.settings("train.save_every=100", f"output={tmp_path / 'run'}")
    with pytest.raises(Interrupted):
        train(settings, reporter=AtStage("validation loss at step 4", interrupt))
    train(settings, resume="auto")
    assert lines(tmp_path / "run") == lines(one.folder / "whole")


def test_killed_before_the_record(reference: dict[int, Tiny], tmp_path: Path) -> None:
    """The evaluation after training has its line in the file already, and is made again."""
    one = reference[1]
    shutil.copytree(one.folder / "whole", tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(one.folder / "whole"), str(tmp_path / "run")))
    (tmp_path / "run" / "run.json").unlink()
    train(one.settings("train.save_every=100", f"output={tmp_path / 'run'}"), resume="auto")
    assert lines(tmp_path / "run") == lines(one.folder / "whole")


def test_an_evaluation_stands_before_the_loss_of_its_step(tmp_path: Path) -> None:
    """Also where it was stopped and is made by the resumed run."""
    file = Curves(tmp_path / "curves.jsonl")
    for record in ({"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}):
        file.append(record)
    file.append({"step": 2, "eval_loss": 3.0}, before_loss=True)
    assert [list(r) for r in file.read()] == [["step", "loss"], ["step", "eval_loss"], ["step", "loss"]]


DAMAGE = [
    *(b"\xff\xfe", b"{", b"[1]", b"7", b"\0", b"[" * 100_000),
    *(b'{"loss": 1.0}', b'{"step": "1"}', b'{"step": true}', b'{"step": 1' + b"0" * 5000 + b"}"),
    *(b'{"step": 2, "loss": NaN}', b'{"step": 2, "loss": "low"}', b'{"step": 2, "loss": [1]}'),
]


@pytest.mark.parametrize("line", DAMAGE)
def test_damage_is_refused_by_name(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "curves.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 1.0}\n' + line + b'\n{"step": 3, "loss": 1.0}\n')
    with pytest.raises(DudeError, match=r"curves\.jsonl.*Restore it"):
        Curves(path).read()


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "curves.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    assert Curves(path).read() == [{"step": 1, "loss": 1.0}]
