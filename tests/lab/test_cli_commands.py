"""`dude eval`, `merge`, `env`, `methods`, `--help`, and what every command does with a user's mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_cli_train import dude
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401

from dude_lab.training.train_run import train


@pytest.fixture(scope="module")
def run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A finished DuDe run; read only but for its `eval` folder."""
    made = Tiny(tiny_base, tmp_path_factory.mktemp("run"))
    train(made.settings("method.name=dude", "train.learning_rate=0.1"))
    return made.output


EVAL = ("--suite", "mini_csqa", "--limit", "4")


def test_eval_of_a_run_writes_into_it(run: Path) -> None:
    result = dude("eval", run, *EVAL)
    assert result.exit_code == 0, result.output
    assert "| Task " in result.stdout and "| mini_csqa " in result.stdout
    folder = run / "eval" / "mini_csqa"
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]["mini_csqa"]
    assert metrics["n"] == 4 and f"{metrics['value']:.4f}" in result.stdout
    samples = [json.loads(line) for line in (folder / "samples" / "mini_csqa.jsonl").read_text().splitlines()]
    assert len(samples) == 4
    about = json.loads((folder / "provenance.json").read_text())
    assert about["model"]["run"] == str(run) and len(about["model"]["sha256"]) == 64

    again = dude("eval", run, *EVAL)
    assert again.exit_code == 2 and "already has results" in again.stderr and "--overwrite" in again.stderr
    (folder / "samples" / "mini_sums.jsonl").write_text("{}\n")  # of an earlier version of the suite
    assert dude("eval", run, *EVAL, "--overwrite").exit_code == 0
    assert [path.name for path in (folder / "samples").iterdir()] == ["mini_csqa.jsonl"]


def test_eval_tells_the_adapter_from_its_base(run: Path, tiny_base: Path, tmp_path: Path) -> None:  # noqa: F811
    def likelihoods(model: Path, name: str) -> list[float]:
        result = dude("eval", model, *EVAL, "-o", tmp_path / name)
        assert result.exit_code == 0, result.output
        lines = (tmp_path / name / "samples" / "mini_csqa.jsonl").read_text().splitlines()
        return [value for line in lines for value in json.loads(line)["loglikelihoods"]]

    trained, base = likelihoods(run, "run"), likelihoods(tiny_base, "base")
    assert trained != base
    merged = tmp_path / "merged"
    assert dude("merge", run, "-o", merged).exit_code == 0
    assert likelihoods(merged, "again") == pytest.approx(trained, rel=1e-4)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["/nowhere/run", *EVAL], ["/nowhere/run", "no such folder"]),
        (["RUN", "--suite", "gsm9k"], ["no suite is called 'gsm9k'", "'gsm8k'"]),
        (["RUN", "--suite", "gsm8k", "--root", "/nowhere/data"], ["/nowhere/data"]),
    ],
)
def test_eval_mistakes(run: Path, words: list[str], told: list[str]) -> None:
    result = dude("eval", *[str(run) if word == "RUN" else word for word in words])
    assert result.exit_code == 2, result.output
    for word in told:
        assert word in result.stderr
    assert not (run / "eval" / "gsm8k").exists()


def test_merge_writes_a_plain_model(run: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from dude_lab.training.finished_run import load_run

    result = dude("merge", run, "-o", tmp_path / "merged")
    assert result.exit_code == 0, result.output
    assert "largest difference from the logits" in " ".join(result.stdout.split())
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert type(plain).__module__.startswith("transformers.") and not hasattr(plain, "peft_config")
    ids = torch.arange(1, 30).view(1, -1)
    with torch.no_grad():
        _, adapted = load_run(run)
        assert (plain.eval()(ids).logits - adapted.eval()(ids).logits).abs().max() < 1e-5
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").eos_token == "<|end|>"
    assert [p.name for p in tmp_path.iterdir()] == ["merged"]  # nothing half-written is left

    result = dude("merge", run, "-o", tmp_path / "merged")
    assert result.exit_code == 2 and "not empty" in result.stderr


def test_a_merged_model_goes_into_the_folder_behind_a_link_but_not_into_the_current_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert dude("merge", run, "-o", tmp_path / "link").exit_code == 0
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "model.safetensors").is_file()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for command in ("merge", "export"):
        refused = dude(command, run, "-o", ".")
        assert refused.exit_code == 2 and "this is the current folder" in " ".join(refused.stderr.split())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["here", "link", "real"]


def test_a_merge_by_tensor_is_the_same_model(run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    assert dude("merge", run, "-o", tmp_path / "merged").exit_code == 0
    result = dude("merge", run, "-o", tmp_path / "streamed", "--stream")
    assert result.exit_code == 0 and "KiB" in result.stdout
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "streamed"))
    assert one.keys() == two.keys()
    assert all(float((one[name] - two[name]).abs().max()) < 1e-6 for name in one)
    assert (tmp_path / "streamed" / "tokenizer.json").is_file()
    result = dude("merge", run, "-o", tmp_path / "other", "--stream", "--dtype", "bfloat16")
    assert result.exit_code == 2 and "--stream" in result.stderr and not (tmp_path / "other").exists()


def test_decompose_writes_factors_that_an_adapter_begins_with(tmp_path: Path) -> None:
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from dude_lab.mini import model_dir
    from dude_peft import DudeConfig

    wanted = ("--rank", "4", "--target-modules", "q_proj,v_proj", "--jobs", "1")  # processes: test_streaming.py
    result = dude("decompose", model_dir(), "-o", tmp_path / "f", *wanted)
    assert result.exit_code == 0 and "10 weights at rank 4" in result.stdout
    base = AutoModelForCausalLM.from_pretrained(model_dir())
    get_peft_model(base, DudeConfig(r=4, target_modules=["q_proj", "v_proj"], factors=str(tmp_path / "f")))
    result = dude("decompose", tmp_path, "-o", tmp_path / "g")
    assert result.exit_code == 2 and "safetensors" in result.stderr and not (tmp_path / "g").exists()


def test_a_merge_that_is_wrong_is_not_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dude_lab.training import merging

    honest = merging._logits
    calls: list[int] = []

    def off(model: object, base: object) -> torch.Tensor:
        calls.append(1)
        return honest(model, base) + 0.1 * (len(calls) - 1)  # type: ignore[arg-type]

    monkeypatch.setattr(merging, "_logits", off)
    result = dude("merge", run, "-o", tmp_path / "merged")
    assert result.exit_code == 2 and "nothing was written" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_merge_needs_a_finished_run(tmp_path: Path) -> None:
    result = dude("merge", tmp_path / "none", "-o", tmp_path / "merged")
    assert result.exit_code == 2 and "no such folder" in result.stderr
    result = dude("merge", tmp_path, "-o", tmp_path / "merged")
    assert result.exit_code == 2 and "not a run" in result.stderr


def test_env_names_what_a_bug_report_needs() -> None:
    result = dude("env")
    assert result.exit_code == 0
    for word in ("dude_peft", "torch", "transformers", "peft", "trl", "lm_eval", "processor", "GPU"):
        assert word in result.stdout
    assert str(Path.home()) not in result.stdout and str(Path.cwd()) not in result.stdout


def test_version() -> None:
    from dude_peft import __version__

    result = dude("--version")
    assert result.exit_code == 0 and result.stdout == f"dude-peft {__version__}\n"


def test_methods_lists_all() -> None:
    from dude_lab.methods import METHODS

    result = dude("methods")
    for name in METHODS:
        assert f" {name} " in result.stdout


def test_help_imports_nothing_heavy() -> None:
    """One process of its own: what is imported, not how long it takes."""
    code = (
        "import sys\nsys.argv = ['dude', '--help']\nfrom dude_lab.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as e:\n    assert not e.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets', 'lm_eval', 'matplotlib', 'pydantic', 'numpy'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for command in ("train", "eval", "merge", "validate", "env"):
        assert f" {command} " in done.stdout


@pytest.mark.parametrize(
    "module", ["methods", "paper.recipe", "compare.pool", "compare.processes", "compare.table", "report.page"]
)
def test_what_plans_and_shows_runs_imports_no_torch(module: str) -> None:
    """A comparison's first process, its stand-by workers and the report work on records."""
    code = f"import sys, dude_lab.{module}\nassert not {{'torch', 'transformers', 'peft', 'trl'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_missing_library_says_what_to_install() -> None:
    code = (
        "import sys\nsys.modules['typer'] = None\nsys.argv = ['dude', '--help']\n"
        "from dude_lab.cli.app import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "typer is not installed" in done.stderr and "pip install 'dude-peft[cli]'" in done.stderr
    assert "Traceback" not in done.stderr
