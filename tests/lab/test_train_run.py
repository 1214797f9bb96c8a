"""A run end to end on the tiny base: what lies in its folder, what the numbers are, and that they repeat."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401

from dude_lab.config.yaml_file import load_config
from dude_lab.training.finished_run import load_run, open_run
from dude_lab.training.run_plan import make_plan
from dude_lab.training.train_run import train
from dude_peft.errors import DudeError

IDS = torch.arange(1, 40).view(1, -1)


def curves(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]


def steps(folder: Path) -> list[dict[str, Any]]:
    """What a repeated run must repeat: everything but the clock."""
    return [{k: v for k, v in r.items() if k != "seconds"} for r in curves(folder) if "loss" in r]


def test_the_folder_of_a_run(tiny: Tiny) -> None:  # noqa: F811
    settings = tiny.settings("method.name=dude", "data.validation=0.1")
    result = train(settings)
    names = {p.name for p in tiny.output.iterdir()}
    assert names == {"adapter", "checkpoints", "config.yaml", "curves.jsonl", "curves.png", "eval", "run.json"}
    assert load_config(tiny.output / "config.yaml") == settings
    assert (tiny.output / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in (tiny.output / "checkpoints").iterdir()) == ["checkpoint-4", "checkpoint-6"]

    record = json.loads((tiny.output / "run.json").read_text())
    assert record == result.record
    assert record["schema"] == 1 and record["method"] == "dude" and record["r"] == 4
    assert record["config"] == {**settings.resolved(), "output": tiny.output.name}
    assert record["seeds"] == {"seed": 42, "data_seed": 42, "svd_seed": 0}
    assert len(record["provenance"]["model"]["sha256"]) == len(record["provenance"]["data"]["sha256"]) == 64
    assert record["provenance"]["versions"]["torch"] == torch.__version__
    assert record["provenance"]["data"]["examples"] == 36  # four of forty are set aside
    assert record["init"]["kind"] == "svd" and record["init"]["seconds"] > 0
    cost = record["cost"]
    files = [p for p in (tiny.output / "adapter").iterdir() if p.name.startswith(("adapter_", "dude_"))]
    assert cost["adapter_bytes"] == sum(p.stat().st_size for p in files)  # without card and tokenizer
    assert cost["tokens"] == curves(tiny.output)[-2]["tokens"] > 0
    assert cost["tokens_per_second"] == pytest.approx(cost["tokens"] / cost["train_seconds"], rel=1e-2)
    before, after = record["metrics"]["before"], record["metrics"]["after"]
    assert after["validation_loss"] < before["validation_loss"]


def test_evaluations_are_recorded_and_change_nothing(tiny: Tiny) -> None:  # noqa: F811
    """With dropout on: an evaluation that drew a random number would show in the adapter."""
    train(tiny.settings(f"output={tiny.folder / 'plain'}"))
    tiny.raw["eval"] = {"suite": "mini_csqa", "limit": 3, "every": 2}
    record = train(tiny.settings()).record
    one, two = (f / "adapter" / "adapter_model.safetensors" for f in (tiny.folder / "plain", tiny.output))
    assert one.read_bytes() == two.read_bytes()
    points = [r for r in curves(tiny.output) if "accuracy" in r]
    assert [p["step"] for p in points] == [0, 2, 4, 6] and {p["eval"] for p in points} == {"mini_csqa"}
    for when, point in (("before", points[0]), ("after", points[-1])):
        metrics = record["metrics"][when]
        assert metrics["accuracy"] == point["accuracy"] == metrics["tasks"]["mini_csqa"]["value"]
        assert metrics["tasks"]["mini_csqa"]["n"] == 3
        assert len((tiny.output / "eval" / when / "samples" / "mini_csqa.jsonl").read_text().splitlines()) == 3
    assert record["cost"]["eval_seconds"] > 0


def test_gradient_norms_of_the_groups_make_up_the_whole(tiny: Tiny) -> None:  # noqa: F811
    train(tiny.settings("method.name=dude", "train.gradient_accumulation=2", "train.steps=4"))
    for record in steps(tiny.output):
        groups = [record[f"grad_norm_{g}"] for g in ("A", "B", "m")]
        assert all(g > 0 for g in groups)
        assert math.sqrt(sum(g * g for g in groups)) == pytest.approx(record["grad_norm"], rel=1e-5)


def test_the_first_loss_is_that_of_the_base_on_the_completions(tiny: Tiny) -> None:  # noqa: F811
    """Forty examples in one batch: their order does not matter, and the adapter starts as the identity."""
    from dude_lab.training.base_model import load_base

    settings = tiny.settings(
        "method.name=dude", "method.lora_dropout=0", "train.batch_size=40", "train.steps=1", "train.warmup=0"
    )
    train(settings)
    plan = make_plan(settings)
    model, total, count = load_base(plan.base), 0.0, 0
    for row in plan.train.data:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        logits = model(ids).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum"))
        count += int((labels[1:] != -100).sum())
    assert curves(tiny.output)[0]["loss"] == pytest.approx(total / count, rel=1e-5)


def test_the_same_config_gives_the_same_bits_and_another_seed_does_not(tiny: Tiny) -> None:  # noqa: F811
    folders = [tiny.folder / name for name in ("one", "two", "three", "four")]
    for folder, change in zip(folders, ([], [], ["train.seed=7"], ["train.data_seed=7"]), strict=True):
        train(tiny.settings(f"output={folder}", *change))
    one, two, three, four = (f / "adapter" / "adapter_model.safetensors" for f in folders)
    assert one.read_bytes() == two.read_bytes()
    assert steps(folders[0]) == steps(folders[1])
    assert one.read_bytes() != three.read_bytes()
    # Another order of the data alone: the same start, other batches.
    assert steps(folders[0])[0]["tokens"] != steps(folders[3])[0]["tokens"] or one.read_bytes() != four.read_bytes()


@pytest.mark.parametrize("name", ["dude", "dora", "pissa", "full"])
def test_what_is_saved_is_what_was_trained(tiny: Tiny, name: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Loaded on the untouched base, the saved result gives the logits of the model as it was at the last step."""
    from dude_lab.training import train_run as run_module
    from dude_lab.training.base_model import load_base

    trained: list[torch.Tensor] = []
    save = run_module.save_result

    def spy(model: Any, *rest: Any) -> tuple[Path, int]:
        model.eval()
        with torch.no_grad():
            trained.append(model(IDS).logits.clone())
        return save(model, *rest)

    monkeypatch.setattr(run_module, "save_result", spy)
    if name == "full":
        tiny.raw["method"] = "full"
    result = train(tiny.settings(f"method.name={name}"))
    base, model = load_run(tiny.output)
    with torch.no_grad():
        again = model.eval()(IDS).logits
    assert (again - trained[0]).abs().max() < 2e-6
    if name != "full":  # and it leaves the base as it is, PiSSA's included
        with torch.no_grad(), model.disable_adapter():  # type: ignore[operator]
            off = model(IDS).logits
            assert torch.equal(off, load_base(base).eval()(IDS).logits)
    assert base.name.endswith("model" if name == "full" else base.source.rsplit("/", 1)[-1])
    assert result.folder.model.is_dir() is (name == "full")


def test_every_default_that_matters_is_pinned(tiny: Tiny) -> None:  # noqa: F811
    from dude_lab.training.base_model import load_base
    from dude_lab.training.build_trainer import adapted_model, build_trainer

    plan = make_plan(tiny.settings())
    trainer = build_trainer(plan, adapted_model(plan, load_base(plan.base)), tiny.folder / "checkpoints")
    args = trainer.args
    wanted = {
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "max_grad_norm": 1.0,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "packing": False,
        "completion_only_loss": True,
        "bf16": False,
        "fp16": False,
        "gradient_checkpointing": False,
        "full_determinism": False,
        "seed": 42,
        "data_seed": 42,
        "report_to": [],
        "push_to_hub": False,
        "save_total_limit": None,
        "logging_nan_inf_filter": False,
        "max_steps": 6,
        "load_best_model_at_end": False,
    }
    assert {key: getattr(args, key) for key in wanted} == wanted


def test_a_diverging_run_is_stopped_with_advice(tiny: Tiny) -> None:  # noqa: F811
    tiny.raw["method"] = "full"
    with pytest.raises(DudeError) as caught:
        train(tiny.settings("train.learning_rate=1e30", "train.warmup=0"))
    for word in ("diverged", "step", "train.learning_rate"):
        assert word in str(caught.value)
    assert not (tiny.output / "run.json").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("method.target_modules=[q_prj,v_proj]", "nearest: q_proj"),
        ("method.r=33", "rank 33"),
        ("train.max_length=4", "all 40 training examples"),
        ("data.train=nowhere.jsonl", "nowhere.jsonl"),
        ("train.warmup=6", "train.warmup"),
        ("model.name=/nowhere/at/all", "no such folder"),
    ],
)
def test_nothing_is_written_before_everything_is_checked(tiny: Tiny, change: str, words: str) -> None:  # noqa: F811
    before = sorted(tiny.folder.rglob("*"))
    with pytest.raises(DudeError) as caught:
        train(tiny.settings(change))
    assert words in str(caught.value)
    assert sorted(tiny.folder.rglob("*")) == before


def test_weights_that_are_no_numbers_name_the_module(tiny: Tiny, tmp_path: Path) -> None:  # noqa: F811
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = tiny.raw["model"]
    model = AutoModelForCausalLM.from_pretrained(source)
    model.model.layers[1].self_attn.v_proj.weight.data[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "nan")
    AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path / "nan")
    with pytest.raises(DudeError, match=r"layers\.1\.self_attn\.v_proj"):
        train(tiny.settings(f"model={tmp_path / 'nan'}", "method.name=dude"))
    assert not tiny.output.exists()


def test_a_folder_that_holds_something_else_is_left_alone(tiny: Tiny) -> None:  # noqa: F811
    tiny.output.mkdir()
    (tiny.output / "thesis.txt").write_text("mine")
    with pytest.raises(DudeError, match=r"not empty and is not a run \(thesis\.txt\)"):
        train(tiny.settings())
    assert [p.name for p in tiny.output.iterdir()] == ["thesis.txt"]


def test_a_run_is_never_overwritten(tiny: Tiny) -> None:  # noqa: F811
    train(tiny.settings("train.steps=2"))
    adapter = (tiny.output / "adapter" / "adapter_model.safetensors").read_bytes()
    with pytest.raises(DudeError, match="has this run, finished"):
        train(tiny.settings("train.steps=2"))
    with pytest.raises(DudeError, match=r"has another run .*train\.learning_rate: 0\.01 there, 0\.5 here"):
        train(tiny.settings("train.steps=2", "train.learning_rate=0.5"))
    with pytest.raises(DudeError, match="has another run"):
        train(tiny.settings("train.steps=3"), resume="auto")
    assert (tiny.output / "adapter" / "adapter_model.safetensors").read_bytes() == adapter


def test_an_unfinished_or_absent_run_cannot_be_opened(tiny: Tiny) -> None:  # noqa: F811
    with pytest.raises(DudeError, match="no such folder"):
        open_run(tiny.output)
    with pytest.raises(DudeError, match="not a run"):
        open_run(tiny.folder)
    train(tiny.settings("train.steps=1", "train.warmup=0"))
    (tiny.output / "run.json").unlink()
    with pytest.raises(DudeError, match=r"not finished .*--resume auto"):
        open_run(tiny.output)


def test_an_adapter_of_another_base_or_a_broken_one(tiny: Tiny) -> None:  # noqa: F811
    from tiny_run import write_base

    from dude_lab.config.run_settings import ModelSettings
    from dude_lab.training.base_model import find_base, load_base
    from dude_lab.training.finished_run import attach_adapter

    train(tiny.settings("train.steps=1", "train.warmup=0"))
    weights = tiny.output / "adapter" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DudeError, match=r"adapter_model\.safetensors is damaged"):
        load_run(tiny.output)
    weights.write_bytes(whole)
    other = write_base(tiny.folder / "other", layers=1)
    config = tiny.output / "config.yaml"
    config.write_text(config.read_text().replace(str(tiny.raw["model"]), str(other)))
    with pytest.raises(DudeError, match=r"base model .*other' is not the one that this run was trained on \(sha256"):
        load_run(tiny.output)
    plain = load_base(find_base(ModelSettings(name=str(other)), device="cpu"))
    with pytest.raises(DudeError, match=r"adapter_model\.safetensors: not an adapter of this base.*layers\.1"):
        attach_adapter(plain, tiny.output / "adapter")


def test_the_evaluation_before_training_has_fewer_questions(tiny: Tiny) -> None:  # noqa: F811
    from dude_lab.config.yaml_file import fingerprint

    tiny.raw["eval"] = {"tasks": ["mini_csqa", "mini_boolq"], "limit": 6, "limit_before": 5}
    metrics = train(tiny.settings("train.steps=1", "train.warmup=0")).record["metrics"]
    assert {name: one["n"] for name, one in metrics["before"]["tasks"].items()} == {
        "mini_csqa": 2, "mini_boolq": 2, "average": 4,
    }  # fmt: skip
    assert metrics["after"]["tasks"]["mini_csqa"]["n"] == 6
    assert tiny.settings("eval.limit_before=null").eval.before_training().limit == 6
    default = {k: v for k, v in tiny.raw["eval"].items() if k != "limit_before"}
    tiny.raw["eval"] = default
    assert tiny.settings().eval.before_training().limit == 6 and fingerprint(tiny.settings()) == fingerprint(
        tiny.settings("eval.limit_before=50")
    )
