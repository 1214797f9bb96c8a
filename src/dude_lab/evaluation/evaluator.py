"""`evaluate`: run lm-evaluation-harness on a model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import lm_eval
import torch

from dude_peft.errors import DudeError

from ..config.eval_settings import EvalSettings
from ..data.question_types import Asked, Problem
from .language_model import ModelUnderTest, Progress, quiet, untouched
from .perplexity import text_metric
from .result import EvalResult, Metric, with_averages
from .tasks import Unit, build_units, final_number


def evaluate(model: Any, tokenizer: Any, settings: EvalSettings, *, progress: Progress | None = None) -> EvalResult:
    """Evaluate a model by lm-evaluation-harness.

    The model may be in training: it is set to evaluation mode without gradients, and afterwards the training flag of
    every module and the random states of Python, numpy and torch are restored.

    Args:
        model: a causal language model of transformers, or a `PeftModel` of one, on its device.
        tokenizer: its tokenizer.
        settings: the tasks and options.
        progress: called as `progress(done, total, what)` after each request.

    Raises:
        DudeError: a data set that cannot be read, a tokenizer without an end-of-text token, or `max_new_tokens`
            above the model's context length.
    """
    if tokenizer.eos_token_id is None:
        raise DudeError("The tokenizer has no end-of-text token (eos_token), so that no answer would end; set one.")
    start = time.perf_counter()
    with untouched(model, tokenizer), quiet(), torch.no_grad():
        units = build_units(settings, tokenizer)
        lm = ModelUnderTest(model, tokenizer, settings.batch_size, progress)
        if settings.max_new_tokens >= lm.max_length and any(unit.protocol == "generate" for unit in units):
            raise DudeError(
                f"eval.max_new_tokens is {settings.max_new_tokens}, but the model's context is {lm.max_length} tokens, "
                "question included; lower it."
            )
        raw: Any = lm_eval.evaluate(lm, {unit.name: unit.task for unit in units}, limit=settings.limit)
        # Inside `untouched`, because reading a task's name draws random numbers.
        rows = [_metric(unit, raw["results"][unit.name], lm.truncated[unit.task.task_name]) for unit in units]
        samples = {unit.name: _samples(unit, raw["samples"][unit.name]) for unit in units}
        text = [text_metric(lm, settings)] if settings.text is not None else []
    table, headline = with_averages(rows, units, settings.suite or "average")
    return EvalResult((*table, *text), samples, time.perf_counter() - start, headline)


def _metric(unit: Unit, results: Mapping[str, Any], truncated: int) -> Metric:
    """Return the metrics of one task: its main metric, and the others."""
    found: dict[str, tuple[float, float]] = {}
    for key, value in results.items():
        name, comma, kind = key.partition(",")
        if not comma or name.endswith("_stderr") or not isinstance(value, (int, float)):
            continue
        stderr = results.get(f"{name}_stderr,{kind}")
        full = name if kind == "none" else f"{name},{kind}"
        found[full] = float(value), float(stderr) if isinstance(stderr, (int, float)) else float("nan")
    main = unit.metric or next(iter(found))
    value, stderr = found.pop(main)
    return Metric(
        task=unit.name,
        metric=main,
        value=value,
        stderr=stderr,
        n=int(results["sample_len"]),
        shots=unit.shots,
        protocol=unit.protocol,
        split=unit.split,
        truncated=truncated,
        other={name: {"value": one[0], "stderr": one[1]} for name, one in found.items()},
    )


def _samples(unit: Unit, logged: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the questions of a task and the answers to them, in the order of the data set."""
    out = []
    for item in sorted(logged, key=lambda one: one["doc_id"]):
        number = item["doc_id"]
        scores = {name: item[name] for name in item["metrics"]}
        question = unit.questions[number] if unit.questions else None
        if question is None and unit.protocol in ("generate", "file"):
            sample = _own_sample(unit, item)
        elif question is None:
            sample = {"id": str(number), "prompt": item["arguments"][0][0], "gold": item["target"]}
            sample["prediction"] = item["filtered_resps"]
        elif isinstance(question, Problem):
            generated = item["filtered_resps"][0]
            sample = {
                "id": question.id,
                "prompt": item["arguments"][0][0],
                "gold": str(final_number(question.answer)),
                "prediction": _text(final_number(generated)),
                "generated": generated,
            }
        else:
            sample = _choice_sample(question, item, unit.metric)
        main = unit.metric or next(iter(scores), "")
        out.append({"task": unit.name, **sample, "correct": bool(scores.get(main)), **scores})
    return out


def _own_sample(unit: Unit, item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sample of a question of `eval.file`."""
    doc, answers = item["doc"], item["filtered_resps"]
    sample = {"id": str(item["doc_id"]), "prompt": item["arguments"][0][0]}
    if unit.protocol == "generate":
        return {**sample, "gold": doc["answer"].strip(), "prediction": answers[0].strip(), "generated": answers[0]}
    likelihoods = [float(one[0]) for one in answers]
    best = max(range(len(likelihoods)), key=likelihoods.__getitem__)
    choices = [one.strip() for one in doc["choices"]]
    return {**sample, "choices": choices, "gold": doc["gold"], "prediction": best, "loglikelihoods": likelihoods}


def _choice_sample(asked: Asked, item: Mapping[str, Any], metric: str) -> dict[str, Any]:
    likelihoods = [float(one[0]) for one in item["filtered_resps"]]
    lengths = [len(one) for one in asked.continuations]
    per_char = [one / n for one, n in zip(likelihoods, lengths, strict=True)] if metric == "acc_norm" else likelihoods
    return {
        "id": asked.question.id,
        "prompt": item["arguments"][0][0],
        "choices": list(asked.question.choices),
        "gold": asked.question.gold,
        "prediction": max(range(len(per_char)), key=per_char.__getitem__),
        "loglikelihoods": likelihoods,
    }


def _text(value: object) -> str | None:
    return None if value is None else str(value)
