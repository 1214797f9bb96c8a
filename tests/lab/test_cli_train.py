"""`dude train`, `dude validate` and `--dry-run` as a user meets them: what is shown, exit codes, nothing written."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_run import Tiny, tiny, tiny_base, write_base, write_sums  # noqa: F401
from typer.testing import CliRunner, Result

from dude_lab.cli.commands import app


def dude(*words: object) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def refused(tiny: Tiny, *words: str, overrides: tuple[str, ...] = (), command: str = "train") -> None:  # noqa: F811
    """Exit code 2, every word in the message, no traceback, nothing written."""
    config = tiny.write()
    before = files(tiny.folder)
    result = dude(command, config, *overrides)
    told = result.stderr if command == "train" else result.output
    assert result.exit_code == 2, result.output
    for word in words:
        assert word in told
    assert "Traceback" not in told
    assert files(tiny.folder) == before


def test_train_shows_a_summary_and_writes_the_run(tiny: Tiny) -> None:  # noqa: F811
    result = dude("train", tiny.write(), "method.name=dude", "train.steps=3")
    assert result.exit_code == 0, result.output
    record = json.loads((tiny.output / "run.json").read_text())
    for word in (
        "DuDe, r = 4",
        "training to step 3",
        "step 3/3",
        "tokens/s",
        "peak memory",
        str(tiny.output / "curves.png"),
    ):
        assert word in result.stdout
    assert f"{record['training']['first_loss']:.4f}" in result.stdout
    again = dude("train", tiny.write(), "method.name=dude", "train.steps=3", "--resume", "auto")
    assert again.exit_code == 0 and "already finished; nothing was done" in again.stdout


def test_dry_run_shows_the_plan_and_writes_nothing(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    from transformers import AutoModelForCausalLM

    def no_weights(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", no_weights)
    config = tiny.write()
    before = files(tiny.folder)
    result = dude("train", config, "--dry-run", "method.name=dude", "train.seed=11")
    assert result.exit_code == 0, result.output
    expected = [
        "seed: 11",
        "magnitude_axis: out",
        "model.layers.*.self_attn.q_proj",
        "(16, 32)",
        "trainable: 992 of 33,440",
    ]
    expected += ["steps: 6", "activations", "Question: what is 0 plus 3?", ">>> 3<|end|><<<", "nothing was written"]
    for word in expected:
        assert word in result.stdout, word
    assert files(tiny.folder) == before


def test_validate_ticks_every_check(tiny: Tiny) -> None:  # noqa: F811
    config = tiny.write()
    result = dude("validate", config, "train.steps=2", "data.prompt='{prompt} ='")
    assert result.exit_code == 0, result.output
    assert shlex.join(["dude", "train", str(config), "train.steps=2", "data.prompt='{prompt} ='"]) in result.stdout
    lines = result.stdout.splitlines()
    for name in ("config", "model", "data", "lengths", "targets", "evaluation", "steps", "memory", "output"):
        assert any(line.startswith(f"✓ {name} ") for line in lines), name
    assert "all checks passed" in result.stdout
    assert not tiny.output.exists()


def test_validate_tells_every_mistake_at_once(tiny: Tiny) -> None:  # noqa: F811
    tiny.raw["method"]["target_modules"] = ["q_prj", "v_proj"]
    tiny.raw["data"]["completion"] = "answer"
    tiny.output.mkdir()
    (tiny.output / "thesis.txt").write_text("mine")
    refused(
        tiny,
        "✗ targets",
        "q_prj",
        "q_proj",
        "✗ data",
        "'answer'",
        "✗ output",
        "thesis.txt",
        "3 of",
        "not checked",
        "lengths, steps, memory",
        command="validate",
    )


BAD: list[tuple[dict[str, Any], list[str]]] = [
    ({"modle": "x"}, ["unknown key 'modle'", "'model'"]),
    ({"train": {"steps": "many"}}, ["'train.steps'", "'many'"]),
    ({"method": {"name": "dude", "target_modules": ["q_prj"]}}, ["'q_prj' matches no module", "nearest: q_proj"]),
    ({"method": {"name": "dude", "r": 2, "target_modules": ["q_proj", "v_prj"]}}, ["'v_prj'", "v_proj"]),
    ({"method": {"name": "dude", "r": 0}}, ["'r'", "0"]),
    ({"method": {"name": "dude", "r": 17, "target_modules": ["v_proj"]}}, ["rank 17", "16", "v_proj"]),
    ({"data": {"train": "nowhere.jsonl"}}, ["nowhere.jsonl"]),
    ({"train": {"max_length": 5}}, ["all 40 training examples", "max_length: 5"]),
    ({"model": "/nowhere/base"}, ["/nowhere/base", "no such folder"]),
]


@pytest.mark.parametrize(("change", "words"), BAD)
def test_bad_configs(tiny: Tiny, change: dict[str, Any], words: list[str]) -> None:  # noqa: F811
    tiny.raw |= change
    refused(tiny, *words)


ROW = {"prompt": "1 + 1 =", "completion": " 2"}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([json.dumps(ROW), '{"prompt": "1", '], ["sums.jsonl", "2"]),
        ([json.dumps({"question": "q", "answer": "a"})], ["data.prompt", "no column", "question, answer"]),
        ([json.dumps(ROW), json.dumps({**ROW, "completion": ""})], ["sums.jsonl", "2", "completion"]),
        ([json.dumps(ROW), json.dumps({**ROW, "completion": None})], ["sums.jsonl", "2", "completion"]),
        ([], ["sums.jsonl"]),
    ],
)
def test_bad_data_files(tiny: Tiny, lines: list[str], words: list[str]) -> None:  # noqa: F811
    Path(tiny.raw["data"]["train"]).write_text("\n".join(lines), encoding="utf-8")
    refused(tiny, *words)


def test_a_tokenizer_without_an_end(tiny: Tiny) -> None:  # noqa: F811
    tiny.raw["model"] = str(write_base(tiny.folder / "endless", eos=False))
    refused(tiny, "no end-of-sequence token")


def test_a_folder_of_another_run_and_a_resume_without_checkpoint(tiny: Tiny) -> None:  # noqa: F811
    tiny.output.mkdir()
    (tiny.output / "config.yaml").write_text(yaml.safe_dump({"model": {"name": "other"}}))
    refused(tiny, "has another run", "output=DIR")
    refused(tiny, "--resume must", "not a run", overrides=(f"output={tiny.folder / 'new'}", "--resume", "must"))


def test_broken_yaml_and_a_missing_config(tiny: Tiny) -> None:  # noqa: F811
    config = tiny.write()
    config.write_text("model: [\n", encoding="utf-8")
    result = dude("train", config)
    assert result.exit_code == 2 and f"{config}:2:1: broken YAML" in result.stderr
    result = dude("train", tiny.folder / "rum.yaml")
    assert result.exit_code == 2 and "no such config file" in result.stderr and "'run.yaml'" in result.stderr


def test_overrides_reach_the_run_and_bad_ones_are_told(tiny: Tiny) -> None:  # noqa: F811
    refused(tiny, "unknown key 'train.stepz'", "'steps'", overrides=("train.stepz=3",))
    refused(tiny, "write key=value", overrides=("steps",))
    assert dude("train", tiny.write(), "train.steps=1", "train.warmup=0", "method.r=2").exit_code == 0
    written = yaml.safe_load((tiny.output / "config.yaml").read_text())
    assert (written["train"]["steps"], written["method"]["r"]) == (1, 2)


def test_ctrl_c_says_how_to_go_on(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    import os
    import signal

    from dude_lab.cli.progress_bar import PlainReporter

    show = PlainReporter.progress

    def interrupted(self: PlainReporter, step: int, loss: float, speed: float) -> None:
        show(self, step, loss, speed)
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(PlainReporter, "progress", interrupted)
    config = tiny.write()
    result = dude("train", config, "train.save_every=50")
    assert result.exit_code == 130
    assert "stopped after step 3 of 6" in result.stdout
    assert f"dude train {config} train.save_every=50 --resume auto" in result.stdout
    monkeypatch.undo()
    assert dude("train", config, "train.save_every=50", "--resume", "auto").exit_code == 0


def test_a_line_of_progress_ends_with_the_time_left() -> None:
    from io import StringIO

    from rich.console import Console

    from dude_lab.cli.progress_bar import LiveReporter, PlainReporter
    from dude_lab.training.time_left import Remaining

    for kind, terminal in ((PlainReporter, False), (LiveReporter, True)):
        out = StringIO()
        reporter = kind(Console(file=out, width=110, force_terminal=terminal, color_system=None))
        reporter.begin(0, 20)
        for step, left in enumerate((None, Remaining(123.0, 3), Remaining(50.0, 1), Remaining(0.0)), 1):
            reporter.remaining(left)
            reporter.progress(step, 1.0, 5.0)
            if isinstance(reporter, LiveReporter) and reporter._bar is not None:
                reporter._bar.refresh()
        reporter.end()
        lines = [line.strip() for line in re.split(r"[\r\n]", out.getvalue()) if "tokens/s" in line]
        assert lines[0].endswith("tokens/s")
        for text in ("2 min 03 s left + 3 evaluations", "50.0 s left + 1 evaluation", "0.0 s left"):
            assert any(line.endswith(text) for line in lines), text


def test_the_summary_names_the_next_commands(tiny: Tiny) -> None:  # noqa: F811
    shown = dude("train", tiny.write(), "train.steps=1", "train.warmup=0").stdout
    assert f"next: dude chat {tiny.output}\n" in shown
    assert f"next: dude export {tiny.output} -o {tiny.output}-lora\n" in shown


def test_validate_makes_no_tasks_of_the_questions(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """They take longer than to read and check the questions."""
    from dude_lab.evaluation import own_tasks, tasks

    assert own_tasks.harness_task is tasks.harness_task  # imported before it is replaced
    monkeypatch.setattr(tasks, "harness_task", lambda *args: pytest.fail("made a task"))
    result = dude("validate", tiny.write(), "eval.suite=mini_csqa", "eval.limit=3")
    assert result.exit_code == 0 and "mini_csqa: 3 questions" in result.stdout


LATER = ("datasets", "trl", "lm_eval", "pandas", "matplotlib")
UNUSED = f"""
import sys
sys.argv = ["dude", "validate", *sys.argv[1:]]
from dude_lab.cli.app import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("imported:", *(name for name in {LATER} if name in sys.modules))
"""


def test_validate_imports_nothing_that_only_training_needs(tiny: Tiny) -> None:  # noqa: F811
    words = [sys.executable, "-c", UNUSED, str(tiny.write()), "eval.suite=mini_csqa"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported:"


def test_validate_tokenises_a_sample_and_the_longest(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    from transformers import PreTrainedTokenizerFast

    rows = write_sums(tiny.folder / "sums.jsonl", 3_000).read_text().splitlines()
    rows[7] = json.dumps({"prompt": "Question: what is 1 plus 2 plus 3 plus 4 plus 5?\nAnswer:", "completion": " 15"})
    (tiny.folder / "sums.jsonl").write_text("\n".join(rows))
    seen: list[int] = []
    original = PreTrainedTokenizerFast.__call__

    def counted(self: Any, texts: Any, **options: Any) -> Any:
        seen.append(len(texts))
        return original(self, texts, **options)

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", counted)
    config = tiny.write()
    shown = dude("validate", config, "train.steps=null", "train.epochs=1").stdout
    assert sum(seen) == 2 * 500  # prompts, and prompts with completions
    of_all = dude("train", config, "--dry-run", "train.steps=null", "train.epochs=1").stdout
    assert sum(seen) == 2 * 500 + 2 * 3_000
    longest = re.search(r"longest (\d+) tokens", of_all)
    assert longest and f"{longest[0]}, mean" in shown and "from 500 examples" in shown and "from 500" not in of_all
    assert "3,000 examples" in shown and "750 steps" in shown and "750 steps" in of_all
    means = [float(re.search(r"mean (\d+)", text)[1]) for text in (shown, of_all)]  # type: ignore[index]
    assert abs(means[0] - means[1]) <= 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["train.max_length=25"], "1 of 3,000 training examples are longer than 25"),
        (["train.max_length=5"], "all 3000 training examples are longer"),
        (["train.packing=true"], "packed into"),
    ],
)
def test_validate_counts_all_examples_where_the_sample_has_something_to_report(
    tiny: Tiny,  # noqa: F811
    change: list[str],
    words: str,
) -> None:
    rows = write_sums(tiny.folder / "sums.jsonl", 3_000).read_text().splitlines()
    long = {"prompt": "Question: what is 1 plus 2 plus 3 plus 4 plus 5 plus 6?\nAnswer:", "completion": " 21"}
    rows[7] = json.dumps(long)
    (tiny.folder / "sums.jsonl").write_text("\n".join(rows))
    shown = dude("validate", tiny.write(), *change).output
    assert words in shown and "from 500 examples" not in shown


def test_a_terminal_shows_which_check_is_running() -> None:
    import io

    from rich.console import Console

    from dude_lab.cli.progress_bar import CheckProgress

    out = io.StringIO()
    with CheckProgress(Console(file=out, force_terminal=True, width=90, color_system=None)) as shown:
        shown.started("lengths")
        shown.moved(1_000, 8_000)
        shown._shown.refresh()
        shown.started("targets")
        shown._shown.refresh()
    lines = re.split(r"[\r\n]", out.getvalue())
    assert any("checking lengths" in line and "1000/8000" in line for line in lines)
    assert any("checking targets" in line and "/8000" not in line for line in lines)
    piped = io.StringIO()
    with CheckProgress(Console(file=piped)) as shown:
        shown.started("lengths")
    assert piped.getvalue() == ""
