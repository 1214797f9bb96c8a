"""The card (README.md) beside an adapter: method, base, data, hyperparameters, results, and how to load it."""

from __future__ import annotations

from typing import Any

from dude_peft.files import public_name

from ..folders import without_paths
from ..methods import METHODS
from ..text import MISSING, aligned_table, escape_markdown, percent

EXPORTED = ("dude", "dude_a", "dude_b", "dora")  # methods that `dude export` converts
LIBRARIES = ("dude_peft", "torch", "transformers", "peft")
SHOWN = ("learning_rate", "schedule", "warmup", "batch_size", "gradient_accumulation", "weight_decay", "max_grad_norm")

TEMPLATE = """\
# {{ title }} of {{ base }}

{{ intro }}

{{ sections | join("\n\n") }}
"""


def model_card(record: dict[str, Any], *, title: str | None = None, intro: str = "", load: str | None = None) -> str:
    """Return the card of a finished run's adapter, with the metadata block that the Hugging Face hub reads.

    Args:
        record: the run's record.
        title: of the page, without the base; by default the method.
        intro: a paragraph under the title.
        load: the section on loading, by default that of the run's own adapter.
    """
    from huggingface_hub import ModelCardData
    from jinja2 import Template

    base, method = _base(record), METHODS[record["method"]]
    data = ModelCardData(
        base_model=base,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=sorted({"lora", record["method"]}),
        model_name=f"{method.title} adapter of {base}",
        eval_results=_eval_results(record),
    )
    sections = [
        "## Load\n\n" + (load or _load(record)),
        "## Training\n\n" + _training(record),
        "## Results\n\n" + _results(record),
        "## Limits\n\n" + _limits(record),
    ]
    page = Template(TEMPLATE).render(
        title=title or f"{method.title} adapter", base=base, intro=intro or _intro(record), sections=sections
    )
    return f"---\n{data.to_yaml()}\n---\n\n{page}\n"


def _intro(record: dict[str, Any]) -> str:
    method, training = METHODS[record["method"]], record["training"]
    steps = f"{training['steps']:,} steps ({training['epochs']:.2g} epochs)"
    return (
        f"{method.title} ({method.source}), trained for {steps}: "
        f"{record['cost']['trainable_parameters']:,} of {record['cost']['total_parameters']:,} parameters."
    )


def _load(record: dict[str, Any]) -> str:
    base, method = _base(record), METHODS[record["method"]]
    stock = record["config"].get("method", {}).get("magnitude_axis", "out") == "out"  # a DoRA adapter for PEFT
    imports, call = ["from peft import PeftModel"], "PeftModel.from_pretrained"
    if (method.config or "").startswith("dude_peft.baselines"):
        imports = ["import dude_peft.baselines  # makes the method known to PEFT", *imports]
    elif (method.config or "").startswith("dude_peft.") and not stock:
        imports, call = ["from dude_peft import load_adapter"], "load_adapter"
    lines = [
        "```python",
        *imports,
        "from transformers import AutoModelForCausalLM",
        "",
        f'base = AutoModelForCausalLM.from_pretrained("{base}")',
        f'model = {call}(base, "THIS FOLDER")',
        "```",
    ]
    if record["method"] in EXPORTED:
        lines += ["", "Servers that refuse DoRA load the plain LoRA adapter that `dude export RUN -o DIR` writes."]
    return "\n".join(lines)


def _base(record: dict[str, Any]) -> str:
    return public_name(record["provenance"]["model"]["name"]) or "the base model"


def _training(record: dict[str, Any]) -> str:
    config, provenance = record["config"], record["provenance"]
    model, data, train = provenance["model"], provenance["data"], config["train"]
    method = {k: v for k, v in config["method"].items() if v not in (None, {}, [], False) and k != "name"}
    identity = model.get("sha256") or model.get("commit") or "unknown"
    rows = [
        ("key", "value"),
        ("base", f"{_base(record)} ({identity[:12]}), {model.get('dtype') or ''}"),
        ("data", f"{without_paths(data['source'])}: {data['trained_on']:,} examples, SHA-256 {data['sha256'][:12]}"),
        *((key, _shown(value)) for key, value in method.items()),
        *((key, _shown(train[key])) for key in SHOWN if key in train),
        ("seed", str(train["seed"])),
        ("versions", ", ".join(f"{name} {provenance['versions'].get(name)}" for name in LIBRARIES)),
    ]
    return aligned_table(rows, left=(0, 1))


def _shown(value: Any) -> str:
    return (
        ", ".join(map(str, value))
        if isinstance(value, list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _results(record: dict[str, Any]) -> str:
    before, after = (record["metrics"][when] or {} for when in ("before", "after"))
    loss = record["training"].get("last_tenth_loss")
    lines = [f"Training loss, mean of the last tenth of the steps: {loss:.4g}."] if loss is not None else []
    if after.get("validation_loss") is not None:
        lines.append(f"Validation loss: {after['validation_loss']:.4g}.")
    if tasks := after.get("tasks"):
        rows = [("task", "metric", "n", "base", "tuned")]
        for name, task in tasks.items():
            old = (before.get("tasks") or {}).get(name)
            base = f"{percent(old['value'])}%" if old else MISSING
            rows.append((name, str(task.get("metric", "")), f"{task['n']:,}", base, f"{percent(task['value'])}%"))
        lines += ["", aligned_table(rows, left=(0, 1))]
    return "\n".join(lines) or "Not evaluated."


def _limits(record: dict[str, Any]) -> str:
    base = escape_markdown(_base(record))
    return (
        f"The adapter fits {base} alone, of the hash above. It has the limits and the licence of its base and of its "
        "data, and was measured on nothing but what stands here."
    )


def _eval_results(record: dict[str, Any]) -> list[Any] | None:
    from huggingface_hub import EvalResult

    tasks = (record["metrics"]["after"] or {}).get("tasks") or {}
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=name,
            dataset_name=name,
            dataset_split=task.get("split"),
            metric_type=str(task.get("metric") or "accuracy"),
            metric_value=task["value"],
        )
        for name, task in tasks.items()
    ] or None
