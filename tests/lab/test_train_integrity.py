"""A damaged file of a run folder is noticed: an earlier checkpoint is used, or the file is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from bit_flips import flip_bit
from test_train_resume import At, Killed, interrupt, kill, result, steps
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401

from dude_lab.training.reporter import Reporter
from dude_lab.training.run_checkpoint import WITHOUT_SUMS, fault
from dude_lab.training.train_run import Interrupted, train
from dude_peft.errors import DudeError


class Notes(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def undisturbed(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The folder of a finished run with its checkpoints 4 and 6."""
    made = Tiny(tiny_base, tmp_path_factory.mktemp("undisturbed"))
    train(made.settings())
    return made.output


@pytest.fixture
def stopped(undisturbed: Path, tiny: Tiny) -> Tiny:  # noqa: F811
    """The same run as a kill before its result would leave it."""
    tiny.raw["data"]["train"] = str(undisturbed.parent / "sums.jsonl")
    shutil.copytree(undisturbed, tiny.output)
    config = tiny.output / "config.yaml"
    config.write_text(config.read_text().replace(str(undisturbed), str(tiny.output)))
    (tiny.output / "run.json").unlink()
    shutil.rmtree(tiny.output / "adapter")
    return tiny


FILES = ("adapter_model.safetensors", "optimizer.pt", "trainer_state.json", "rng_state.pth", "manifest.json")


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_in_the_newest_checkpoint(stopped: Tiny, undisturbed: Path, name: str) -> None:
    file = stopped.output / "checkpoints" / "checkpoint-6" / name
    flip_bit(file, 8 * (file.stat().st_size // 2))
    with pytest.raises(DudeError, match=rf"checkpoint-6 is not a complete checkpoint: {name}.*--resume auto"):
        train(stopped.settings(), resume=str(file.parent))
    notes = Notes()
    train(stopped.settings(), resume="auto", reporter=notes)
    assert len(notes.notes) == 1 and f"checkpoint-6: {name}" in notes.notes[0] and "checkpoint-4" in notes.notes[0]
    assert result(stopped.output) == result(undisturbed)
    assert steps(stopped.output) == steps(undisturbed)


def test_every_key_of_a_manifest_is_protected(stopped: Tiny) -> None:
    """Also the one that would turn a manifest into one of before there were checksums."""
    checkpoint = stopped.output / "checkpoints" / "checkpoint-6"
    manifest = checkpoint / "manifest.json"
    text = manifest.read_text()
    for before, after in (
        ('"sha256"', '"sha257"'),
        ('"content_sha256"', '"content_sha257"'),
        ('"tokens": ', '"tokens": 1'),
    ):
        manifest.write_text(text.replace(before, after))
        assert fault(checkpoint) is not None
    manifest.write_text(text)
    assert fault(checkpoint) is None


def test_all_checkpoints_damaged(stopped: Tiny, undisturbed: Path) -> None:
    for step in (4, 6):
        flip_bit(stopped.output / "checkpoints" / f"checkpoint-{step}" / "optimizer.pt", 4001)
    with pytest.raises(DudeError, match=r"no complete checkpoint .*checkpoint-6: optimizer.pt .*checkpoint-4"):
        train(stopped.settings(), resume="must")
    notes = Notes()
    train(stopped.settings(), resume="auto", reporter=notes)
    assert len(notes.notes) == 2 and all("training begins again" in text for text in notes.notes)
    assert result(stopped.output) == result(undisturbed)


def test_a_manifest_without_checksums_is_accepted(stopped: Tiny, undisturbed: Path) -> None:
    """As version 0.1.0 wrote it."""
    manifest = stopped.output / "checkpoints" / "checkpoint-6" / "manifest.json"
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({key: value for key, value in values.items() if key in WITHOUT_SUMS}))
    notes = Notes()
    train(stopped.settings(), resume="auto", reporter=notes)
    assert not notes.notes
    assert result(stopped.output) == result(undisturbed)


def test_a_damaged_later_checkpoint_costs_no_good_one(tiny: Tiny) -> None:  # noqa: F811
    """With one checkpoint to keep, that is the newest written, not the damaged one with a higher number."""
    settings = tiny.settings("train.steps=8", "train.keep_checkpoints=1", "train.save_every=4")
    with pytest.raises(Killed):
        train(settings, reporter=At(5, kill))
    place = tiny.output / "checkpoints"
    shutil.copytree(place / "checkpoint-4", place / "checkpoint-8")
    flip_bit(place / "checkpoint-8" / "optimizer.pt", 4001)
    with pytest.raises(Interrupted):
        train(settings, resume="auto", reporter=At(5, interrupt))  # saves after step 6
    assert sorted(p.name for p in place.iterdir()) == ["checkpoint-6", "checkpoint-8"]
    notes = Notes()
    train(settings, resume="auto", reporter=notes)
    assert "resuming from checkpoint-6" in notes.notes[0]
    assert [p.name for p in place.iterdir()] == ["checkpoint-8"] and fault(place / "checkpoint-8") is None


def test_saving_hashes_the_newest_checkpoint_alone(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    from dude_peft import files

    hashed: list[Path] = []
    right = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: hashed.append(path) or right(path))
    train(tiny.settings("train.keep_checkpoints=3"))
    optimizers = [path.parent.name for path in hashed if path.name == "optimizer.pt"]
    assert optimizers == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
