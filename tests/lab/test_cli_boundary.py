"""No traceback: full disks, read-only file systems, impossible paths and options are one line and exit code 2."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from test_cli_train import dude
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401
from typer.testing import CliRunner

from dude_lab.cli.boundary import REMEDIES, boundary, explain
from dude_lab.cli.commands import app
from dude_lab.folders import check_folder
from dude_lab.training.train_run import train
from dude_peft.errors import DudeError
from dude_peft.files import write_text


class Two:
    """A config and two finished runs, read only."""

    def __init__(self, base: Path, folder: Path) -> None:
        made = Tiny(base, folder)
        self.config = made.write()
        train(made.settings())
        train(made.settings("train.seed=7", f"output={folder / 'other'}"))
        self.run, self.other = made.output, folder / "other"


@pytest.fixture(scope="module")
def two(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Two:  # noqa: F811
    return Two(tiny_base, tmp_path_factory.mktemp("two"))


COMMANDS: dict[str, Callable[[Two, Path], list[object]]] = {
    "train": lambda two, out: ["train", two.config, f"output={out}"],
    "pissa": lambda two, out: ["train", two.config, f"output={out}", "method.name=pissa"],
    "full": lambda two, out: ["train", two.config, f"output={out}", "method=full"],
    "eval": lambda two, out: ["eval", two.run, "--suite", "mini_csqa", "--limit", "100", "-o", out],
    "merge": lambda two, out: ["merge", two.run, "-o", out],
    "compare": lambda two, out: ["compare", two.run, two.other, "-o", out],
    "report": lambda two, out: ["report", two.run, "-o", out],
    "bench": lambda two, out: ["bench", "memory", "--quick", "--tiny", "-o", out],
}
QUICK = ("validate", "train", "eval", "merge", "compare", "report", "bench")


@contextmanager
def mounted(place: Path, options: str) -> Iterator[None]:
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here: not Linux, not root, or not permitted")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def one_line(result: object, *words: str) -> None:
    assert result.exit_code == 2, result.output  # type: ignore[attr-defined]
    said = result.output  # type: ignore[attr-defined]
    assert "Traceback" not in said
    for word in words:
        assert word in said


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_becomes_full(two: Two, tmp_path: Path, name: str) -> None:
    """After some bytes or many, as each command writes; what was measured is on the screen by then."""
    with mounted(tmp_path / "disk", "size=64k"):
        if name in ("eval", "compare", "report", "bench"):
            (tmp_path / "disk" / "other").write_bytes(bytes(60_000))
        result = dude(*COMMANDS[name](two, tmp_path / "disk" / "out"))
        one_line(result, "error: ", "pace")  # "No space left", or "Is there space left?"
        assert len(result.stderr.strip().splitlines()) == 1
        shown = {"eval": "| mini_csqa ", "compare": "LoRA", "bench": "0 left out"}.get(name, "")
        assert shown in result.stdout
        assert not list((tmp_path / "disk").rglob("*.part"))


@pytest.mark.parametrize("name", QUICK)
def test_a_read_only_file_system(two: Two, tmp_path: Path, name: str) -> None:
    with mounted(tmp_path / "disk", "ro"):
        out = tmp_path / "disk" / "out"
        words = ["validate", two.config, f"output={out}"] if name == "validate" else COMMANDS[name](two, out)
        one_line(dude(*words), str(out), "Read-only file system", "Choose another folder")


@pytest.mark.parametrize("name", QUICK)
def test_a_folder_that_cannot_be_made(two: Two, tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for out, words in (
        (tmp_path / "file.txt" / "out", ("lies inside", "file.txt, which is a file")),
        (tmp_path / "file.txt", ("is a file",)),
        (tmp_path / "loop" / "out", ("symbolic links",)),
        (tmp_path / ("n" * 300), ("longer than 255 bytes",)),
    ):
        line = ["validate", two.config, f"output={out}"] if name == "validate" else COMMANDS[name](two, out)
        one_line(dude(*line), *words)
    assert (tmp_path / "file.txt").read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["eval", "RUN", "--suite", "mini_csqa", "--dtype", "float31"], ["'float31'", "float32"]),
        (["eval", "RUN", "--suite", "mini_csqa", "--device", "mps"], ["'mps'", "auto, cpu, cuda"]),
        (["eval", "RUN", "--suite", "mini_csqa", "--device", "cuda:1"], ["'cuda:1'", "CUDA_VISIBLE_DEVICES"]),
        (["eval", "RUN", "--suite", "mini_csqa", "--shots", "1000000"], ["eval.num_fewshot is 1000000"]),
        (["eval", "RUN", "--suite", "mini_csqa", "--limit", "9" * 30], ["'limit'", "less than or equal"]),
        (["eval", "RUN", "--suite", "mini_csqa", "--batch-size", "9" * 30], ["'batch_size'", "less than or equal"]),
        (["eval", "RUN", "--suite", "mini_csqa", "--limit", "-1"], ["--limit"]),
        (["eval", "RUN", "--suite", "mini_csqa", "--root", "/tmp"], ["'root' has no meaning with mini_csqa"]),
        (["eval", "\udcff", "--suite", "mini_csqa"], ["\\udcff"]),
        (["eval", "~nobody-here/x", "--suite", "mini_csqa"], ["no user of this name"]),
        (["merge", "RUN", "-o", "new", "--dtype", "int8"], ["'int8'"]),
        (["merge", "RUN", "-o", "~nobody-here/x"], ["no user of this name"]),
        (["bench", "layer", "--device", "cuda:1"], ["--device"]),
        (["bench", "memory", "--threads", "9" * 12], ["--threads"]),
        (["compare", "n" * 300], ["File name too long"]),
        (["report", "n" * 300, "-o", "new"], ["File name too long"]),
        (["train", "n" * 300], ["File name too long"]),
        (["train", "CONFIG", 'output="a\\0b"'], ["NUL character"]),
        (["train", "CONFIG", "output=~nobody-here/x"], ["no user of this name"]),
    ],
)
def test_options_that_mean_nothing(
    two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = dude(*[{"RUN": two.run, "CONFIG": two.config}.get(word, word) for word in words])
    one_line(result, *said)
    assert len(result.output) < 2000 and list(tmp_path.iterdir()) == []


def test_a_link_that_leads_in_a_circle_is_no_folder_of_runs(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for words in (("compare", tmp_path / "loop"), ("report", tmp_path / "loop", "-o", tmp_path / "page")):
        one_line(dude(*words), "loop", "circle")


@pytest.mark.parametrize("number", sorted(REMEDIES))
def test_every_error_of_the_system_is_explained(number: int) -> None:
    text = explain(OSError(number, os.strerror(number), "/a/folder"))
    assert text is not None and text.startswith("/a/folder: ") and text.endswith(".")
    assert os.strerror(number) in text and "\n" not in text


def test_errors_of_torch_are_told_from_our_own_mistakes() -> None:
    for kind, text in (  # as measured on full disks
        (RuntimeError, "[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
        (RuntimeError, "[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/0"),
        (
            RuntimeError,
            "[enforce fail at inline_container.cc:747] . open file failed with strerror: Input/output error",
        ),
        (RuntimeError, "basic_ios::clear: iostream error"),
        (SafetensorError, "Error while serializing: I/O error: No space left on device (os error 28)"),
        (Exception, "No space left on device (os error 28)"),  # tokenizers
    ):
        assert text in str(explain(kind(text))) and "space" in str(explain(kind(text)))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert "batch size" in str(explain(caught.value))
    assert "batch size" in str(explain(MemoryError()))
    assert explain(RuntimeError("The size of tensor a (3) must match")) is None
    assert explain(KeyError("weight_map")) is None
    with pytest.raises(KeyError), boundary():
        raise KeyError("ours")


def test_a_text_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "table.md"
    write_text(file, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*table\.md"):
        write_text(file, "new")
    with pytest.raises(DudeError, match="No space left"):
        check_folder(tmp_path / "new", "output")
    assert [p.name for p in tmp_path.iterdir()] == ["table.md"] and file.read_text() == "old"


def process(stdout: int, *words: str) -> subprocess.Popen[bytes]:
    code = "from dude_lab.cli.app import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, *words], stdout=stdout, stderr=subprocess.PIPE)


def test_output_into_a_closed_pipe_ends_quietly() -> None:
    closed = process(subprocess.PIPE, "methods")
    assert closed.stdout is not None
    closed.stdout.close()
    assert closed.communicate(timeout=60)[1] == b"" and closed.returncode == 1


def test_output_onto_a_full_disk_is_an_error(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=4k"):
        (tmp_path / "disk" / "other").write_bytes(bytes(4096))
        with (tmp_path / "disk" / "out").open("wb") as file:
            full = process(file.fileno(), "methods")
        said = full.communicate(timeout=60)[1].decode()
    assert full.returncode == 2 and "No space left on device" in said and "Traceback" not in said


def test_the_home_folder(two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` in every path that a shell leaves alone; nothing is called `~` afterwards."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    for name in ("run", "other"):
        (home / name).symlink_to(getattr(two, name))
    (home / "base").symlink_to(dude_base(two))
    (home / "sums.jsonl").symlink_to(two.config.parent / "sums.jsonl")
    (home / "run.yaml").symlink_to(two.config)
    changes = ("output=~/new", "model=~/base", "data.train=~/sums.jsonl", "data.validation=~/sums.jsonl")
    for words in (
        ("train", "~/run.yaml", *changes),
        ("eval", "~/run", "--suite", "mini_csqa", "--limit", "1", "--output=~/answers"),
        ("merge", "~/run", "--output=~/merged"),
        ("compare", "~/run", "~/other", "--output=~/table"),
        ("report", "~/run", "~/other", "--output=~/page"),
    ):
        result = dude(*words)
        assert result.exit_code == 0, result.output
    for name in ("new/run.json", "answers/metrics.json", "merged/config.json", "table/table.md", "page/index.html"):
        assert (home / name).is_file()
    assert list(here.iterdir()) == []


def dude_base(two: Two) -> str:
    import yaml

    return str(yaml.safe_load(two.config.read_text())["model"])


def test_files_of_others_are_not_replaced(two: Two, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "table.txt").write_text("mine")
    for words, place, held in (
        (["compare", two.run, two.other, "-o", two.run], two.run, "config.yaml"),
        (["compare", two.run, two.other, "-o", tmp_path / "notes"], tmp_path / "notes", "table.txt"),
        (["bench", "memory", "--quick", "--tiny", "-o", two.run], two.run, "config.yaml"),
        (["eval", two.run, "--suite", "mini_csqa", "-o", two.other, "--overwrite"], two.other, "config.yaml"),
    ):
        before = sorted(place.rglob("*"))
        one_line(dude(*words), str(place), held)
        assert sorted(place.rglob("*")) == before
    again = ["compare", two.run, two.other, "-o", tmp_path / "table"]
    assert dude(*again).exit_code == 0 and dude(*again).exit_code == 0  # its own files are replaced


def test_a_dry_run_says_where_it_would_go_on(tiny: Tiny) -> None:  # noqa: F811
    config = tiny.write()
    result = dude("train", config, "--dry-run", "--resume", "auto")
    assert result.exit_code == 0 and "the run would start from the beginning" in result.stdout
    one_line(dude("train", config, "--dry-run", "--resume", "must"), "not a run")
    train(tiny.settings())
    result = dude("train", config, "--dry-run", "--resume", "auto")
    assert result.exit_code == 0 and "already finished" in result.stdout
    (tiny.output / "run.json").unlink()
    before = sorted(tiny.output.rglob("*"))
    result = dude("train", config, "--dry-run", "--resume", "auto")
    assert result.exit_code == 0 and "after step 6" in result.stdout and "checkpoint-6" in result.stdout
    assert sorted(tiny.output.rglob("*")) == before
    one_line(dude("train", config, "--dry-run", "--resume", tiny.output / "nothing"), "no such folder")


@pytest.mark.parametrize("charset", ["ascii", "latin-1", "cp1252"])
def test_terminals_without_unicode(two: Two, tmp_path: Path, charset: str) -> None:
    """Every command's output in an encoding that lacks its signs, a name that no such encoding has included."""
    odd = tmp_path / "✓ лес"
    odd_output = f"output={odd}"
    lines: list[list[object]] = [
        ["--help"],
        ["train", "--help"],
        ["methods"],
        ["env"],
        ["validate", two.config, f"output={tmp_path / 'new'}"],
        ["train", two.config, "--dry-run", f"output={tmp_path / 'new'}"],
        ["train", two.config, odd_output, "eval.suite=mini_csqa", "eval.limit=2"],
        ["eval", odd, "--suite", "mini_csqa", "--limit", "2"],
        ["merge", odd, "-o", tmp_path / "×"],
        ["compare", two.run, two.other],
        ["report", two.run, two.other, "-o", tmp_path / "→"],
        ["reproduce", "table1", "--dry-run"],
        ["bench", "memory", "--quick", "--tiny", "-o", tmp_path / "b"],
    ]
    for words in lines if charset == "ascii" else [one for one in lines if not {odd, odd_output, "bench"} & set(one)]:
        result = CliRunner(charset=charset).invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, (words, result.exception, result.output)
    result = CliRunner(charset=charset).invoke(app, ["validate", str(tmp_path / "no ✗ лес.yaml")])
    assert result.exit_code == 2 and "no x \\u043b\\u0435\\u0441.yaml" in result.stderr
