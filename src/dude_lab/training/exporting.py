"""Export a finished run's adapter in a form that servers load, with its measured difference from the run's model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dude_peft.errors import DudeError
from dude_peft.files import public_name, write_json, write_text

from ..folders import atomic_folder
from ..text import aligned_table, percent
from .examples import length_limit, tokenize
from .finished_run import load_run, open_run
from .gguf_adapter import check_gguf, write_gguf_adapter
from .merging import check_output
from .model_card import model_card
from .record import read_record
from .reporter import Reporter

if TYPE_CHECKING:
    import torch

    from dude_peft.convert import LoraConversion

    from ..config.run_settings import RunSettings
    from .base_model import Base

EXAMPLES = 16  # of the run's data: so many for the weights of the inputs, and so many others for the divergence
LORA = "lora"  # the converted adapter's name beside the run's own
GGUF = "adapter.gguf"
WORST = 5  # layers named in the card


@dataclass(frozen=True)
class KLDivergence:
    """Kullback-Leibler divergence of next-token distributions, in nats, over the tokens of some texts.

    Attributes:
        mean, largest: of the tuned model from the exported one.
        from_base: mean divergence of the tuned model from its base.
        tokens: number of tokens.
        what: the texts.
    """

    mean: float
    largest: float
    from_base: float
    tokens: int
    what: str


@dataclass(frozen=True)
class Exported:
    """An exported adapter and how close it is to the run's model.

    Attributes:
        folder: of the adapter.
        rank: of its layers.
        relative_error: share of the change of the weights (weighted by their inputs) that it leaves out.
        weighted: whether the error is weighted.
        divergence: None if the run's data cannot be read.
        accuracy: task, accuracy in the run's record and of the exported adapter; None without an evaluation.
        gguf: whether `adapter.gguf` is in the folder.
    """

    folder: Path
    rank: int
    relative_error: float
    weighted: bool
    divergence: KLDivergence | None
    accuracy: tuple[str, float, float] | None
    gguf: bool = False


def export_lora(
    run: Path,
    output: Path,
    *,
    rank: int | Literal["auto"] = "auto",
    tolerance: float | None = None,
    gguf: bool = False,
    evaluate: bool = True,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> Exported:
    """Write a finished run's adapter as a plain LoRA adapter, its tokenizer and a card with the measured differences.

    Args:
        run: the run's folder; its method has a magnitude (DuDe, DoRA).
        output: a new folder.
        rank: see `to_lora`.
        tolerance: see `to_lora`; None for its default.
        gguf: write the adapter as `adapter.gguf` as well, for llama.cpp.
        evaluate: repeat the evaluation of the run's config with the exported adapter.
        device: `auto`, `cpu` or `cuda`.
        reporter: called about the progress.

    Raises:
        DudeError: not a finished run, a method without a magnitude, `output` is not empty, or see `to_lora`.
    """
    from dude_peft.convert import TOLERANCE, input_moments, to_lora

    reporter = reporter or Reporter()
    check_output(output)
    folder, settings = open_run(run)
    record = read_record(folder)
    with reporter.stage(f"loading {run}"):
        base, model = load_run(run, device=device)
    if gguf:
        check_gguf(base.config)
    model.eval()
    weighting: list[torch.Tensor] = []
    probes, what = weighting, ""
    try:
        weighting, probes, what = _texts(settings, base)
    except DudeError as error:
        reporter.note(f"the run's data cannot be read, so the divergence is not measured: {error}")
    model_any: Any = model
    with reporter.stage("converting"):
        moments = input_moments(model_any, ({"input_ids": ids} for ids in weighting)) if weighting else None
        found = to_lora(
            model_any,
            rank=rank,
            tolerance=TOLERANCE if tolerance is None else tolerance,
            moments=moments,
            progress=lambda done, total, name: reporter.prepared("converting", done, total, None),
        )
    with atomic_folder(output) as part:
        found.save(part)
        if gguf:
            write_gguf_adapter(part / GGUF, found.state, base.config, found.rank, f"{record['title']} on {base.name}")
        _load_beside(model_any, part)
        divergence = None
        if probes:
            with reporter.stage("comparing with the run's model"):
                divergence = _divergence(model_any, probes, what)
        accuracy = _accuracy(model_any, base, settings, record, reporter) if evaluate else None
        base.tokenizer.save_pretrained(part)
        exported = Exported(output, found.rank, found.relative_error, moments is not None, divergence, accuracy, gguf)
        write_text(part / "README.md", _card(exported, found, record))
        write_json(part / "conversion.json", _facts(exported, found))
    return exported


def _texts(settings: RunSettings, base: Base) -> tuple[list[torch.Tensor], list[torch.Tensor], str]:
    """Return the token ids (1, length) of some texts for the moments, of others for the divergence, and their name."""
    import torch

    from .training_data import load_training

    data = load_training(settings.data)
    limit = length_limit(settings.train, base.config)

    def ids(rows: Any, start: int, what: str) -> list[torch.Tensor]:
        chosen = rows.select(range(min(start, len(rows)), min(start + EXAMPLES, len(rows))))
        if not len(chosen):
            return []
        found = tokenize(chosen, base.tokenizer, settings.train, limit, what)
        return [torch.tensor([one], device=base.device) for one in found.data["input_ids"]]

    weighting = ids(data.train, 0, "training")
    if data.validation is not None and len(data.validation):
        return weighting, ids(data.validation, 0, "validation"), "validation examples"
    return weighting, ids(data.train, EXAMPLES, "training") or weighting, "training examples"


def _load_beside(model: Any, folder: Path) -> None:
    """Load the adapter as PEFT does, beside the run's own."""
    model.load_adapter(str(folder), adapter_name=LORA, is_trainable=False)
    model.eval()


def _divergence(model: Any, texts: list[torch.Tensor], what: str) -> KLDivergence:
    import torch

    def log_probabilities(ids: torch.Tensor) -> torch.Tensor:
        return model(input_ids=ids).logits[0].float().log_softmax(dim=-1)

    def divergences(tuned: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        # A sum of small differences of both signs: float64, and never below zero.
        return (tuned.exp().double() * (tuned - other).double()).sum(dim=-1).clamp_min(0)

    values, from_base = [], []
    own = model.active_adapter
    with torch.no_grad():
        for ids in texts:
            model.set_adapter(own)
            tuned = log_probabilities(ids)
            with model.disable_adapter():
                from_base.append(divergences(tuned, log_probabilities(ids)))
            model.set_adapter(LORA)
            values.append(divergences(tuned, log_probabilities(ids)))
    model.set_adapter(own)
    every = torch.cat(values)
    return KLDivergence(float(every.mean()), float(every.max()), float(torch.cat(from_base).mean()), len(every), what)


def _accuracy(
    model: Any, base: Base, settings: RunSettings, record: dict[str, Any], reporter: Reporter
) -> tuple[str, float, float] | None:
    after = record["metrics"]["after"] or {}
    if settings.eval is None or after.get("accuracy") is None:
        return None
    from ..evaluation.evaluator import evaluate

    model.set_adapter(LORA)
    with reporter.stage(f"evaluating on {after['headline']}"):
        result = evaluate(model, base.tokenizer, settings.eval, progress=reporter.asked)
    return result.headline, after["accuracy"], result.accuracy


def _worst(found: LoraConversion) -> Iterator[tuple[str, float]]:
    ranked = sorted(found.layers.items(), key=lambda one: -one[1].relative)
    return ((name, error.relative) for name, error in ranked[:WORST])


def _facts(exported: Exported, found: LoraConversion) -> dict[str, Any]:
    divergence = exported.divergence
    return {
        "rank": exported.rank,
        "relative_error": exported.relative_error,
        "weighted_by_inputs": exported.weighted,
        "divergence": None if divergence is None else divergence.__dict__,
        "accuracy": None
        if exported.accuracy is None
        else dict(zip(("task", "run", "exported"), exported.accuracy, strict=True)),
        "layers": {name: {"change": one.change, "error": one.error} for name, one in found.layers.items()},
    }


def _card(exported: Exported, found: LoraConversion, record: dict[str, Any]) -> str:
    base, title = public_name(record["provenance"]["model"]["name"]), record["title"]
    worst = [("layer", "share of its change left out"), *((name, f"{error:.1%}") for name, error in _worst(found))]
    intro = (
        f"Converted from an adapter trained by {title}, whose magnitude makes the change of the weights a matrix of "
        f"full rank. This is the closest LoRA of its rank.\n\n{summary_table(exported)}\n\n"
        f"Layers with the largest error:\n\n{aligned_table(worst)}"
    )
    load = [
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        "",
        f'base = AutoModelForCausalLM.from_pretrained("{base}")',
        'model = PeftModel.from_pretrained(base, "THIS FOLDER")',
        "```",
        "",
        f"vLLM: `vllm serve {base} --enable-lora --max-lora-rank {exported.rank} --lora-modules tuned=THIS_FOLDER`",
    ]
    if exported.gguf:
        load += ["", f"llama.cpp: `llama-cli -m BASE.gguf --lora {GGUF}`"]
    name = f"{title} adapter as a plain LoRA of rank {exported.rank}"
    return model_card(record, title=name, intro=intro, load="\n".join(load))


def summary_table(exported: Exported) -> str:
    """Return the measured differences as a Markdown table."""
    weighted = ", weighted by inputs" if exported.weighted else ""
    rows = [
        ["measured", "value"],
        ["rank", str(exported.rank)],
        [f"change left out{weighted}", f"{exported.relative_error:.2%}"],
    ]
    if (found := exported.divergence) is not None:
        rows += [
            ["mean KL divergence, run to export", f"{found.mean:.1e}"],
            ["largest of any token", f"{found.largest:.1e}"],
            ["mean KL divergence, run to base", f"{found.from_base:.1e}"],
            [f"tokens ({found.what})", f"{found.tokens:,}"],
        ]
    if exported.accuracy is not None:
        task, before, after = exported.accuracy
        rows += [[f"{task}, run", f"{percent(before)}%"], [f"{task}, export", f"{percent(after)}%"]]
    return aligned_table(rows)


def export_dora(run: Path, output: Path) -> Path:
    """Write a finished run's adapter as the stock DoRA adapter that it is stored as, with its tokenizer.

    Raises:
        DudeError: not a finished run, `output` is not empty, or a method whose adapter no stock layer computes.
    """
    check_output(output)
    folder, settings = open_run(run)
    from .finished_run import run_base

    _, base = run_base(run, device="cpu")
    axis = getattr(settings.method, "magnitude_axis", "out")
    if settings.method.name not in ("dude", "dude_a", "dude_b", "dora") or axis != "out":
        raise DudeError(
            f"{run}: --as dora exports DuDe with magnitude_axis: out, and DoRA. Export this run --as merged"
            + (" or --as lora." if axis == "in" else ".")
        )
    with atomic_folder(output) as part:
        shutil.copytree(folder.adapter, part, dirs_exist_ok=True)
        (part / "dude_config.json").unlink(missing_ok=True)
        base.tokenizer.save_pretrained(part)
    return output
