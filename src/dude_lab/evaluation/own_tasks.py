"""A user's own questions as tasks of lm-evaluation-harness: a file with a metric, or a task's YAML file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, cast

from dude_peft.errors import DudeError, quote, shorten, some

from ..config.eval_settings import EvalSettings
from ..data.data_files import Rows, existing, read_rows
from ..data.formats import Chat, Pair, read_records
from .tasks import Unit, flat, harness_task, harness_units

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def file_unit(settings: EvalSettings, tokenizer: Any = None) -> Unit:
    """Return the task of `eval.file`.

    Args:
        settings: with `file` and `metric`.
        tokenizer: renders chats; without one, the records are only checked.

    Raises:
        DudeError: a file or record that cannot be used, or chats and a tokenizer without a template.
    """
    rows = read_rows(str(settings.file))
    metric, [name] = settings.metric or "exact_match", settings.names
    if metric == "choice":
        docs = [_choice(row, settings, rows.place(k)) for k, row in enumerate(rows.rows)]
        config: dict[str, Any] = {
            "output_type": "multiple_choice",
            "doc_to_text": lambda doc: doc["prompt"],
            "doc_to_choice": lambda doc: doc["choices"],
            "doc_to_target": lambda doc: doc["gold"],
            "metric_list": [{"metric": one, "aggregation": "mean", "higher_is_better": True} for one in CHOICE],
        }
        make = partial(harness_task, name, docs, [], 0, settings.seed, config)
        return Unit(name, name, make, (), "file", "acc", "-", 0)
    docs = list(_answers(rows, settings, tokenizer))
    config = {
        "output_type": "generate_until",
        "doc_to_text": lambda doc: doc["prompt"],
        "doc_to_target": lambda doc: doc["answer"],
        "process_results": _score,
        "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": settings.max_new_tokens},
        "metric_list": [{"metric": one, "aggregation": "mean", "higher_is_better": True} for one in GENERATED],
    }
    make = partial(harness_task, name, docs, [], 0, settings.seed, config)
    return Unit(name, name, make, (), "generate", metric, "-", 0)


CHOICE = ("acc", "acc_norm")
GENERATED = ("exact_match", "contains")


def _score(doc: Mapping[str, Any], results: list[str]) -> dict[str, float]:
    said, answer = results[0].strip(), doc["answer"].strip()
    return {"exact_match": float(said == answer), "contains": float(answer in said)}


def _answers(rows: Rows, settings: EvalSettings, tokenizer: Any) -> Iterator[dict[str, Any]]:
    """Yield a prompt and its answer for each record: the completion, or the last turn of the assistant."""
    records = read_records(
        rows,
        prompt=settings.prompt,
        completion=settings.completion,
        column=settings.column,
        as_chats=bool(settings.chat_template),
    )
    if records.format == "text":
        raise DudeError(f"eval.file: {rows.source} is plain text, without answers. Set eval.metric=loss.")
    for k, record in enumerate(records.records):
        if isinstance(record, Chat):
            answer = str(record.messages[-1].get("content") or "")
            if record.messages[-1].get("role") != "assistant" or not answer.strip():
                raise DudeError(f"{rows.place(k)}: the last message is no text of the assistant, the expected answer.")
            yield {"prompt": _rendered(record, tokenizer), "answer": answer}
        else:
            prompt, answer = cast(Pair, record)
            if not answer.strip():
                raise DudeError(f"{rows.place(k)}: the answer is empty.")
            yield {"prompt": prompt, "answer": answer}


def _rendered(chat: Chat, tokenizer: Any) -> str:
    """Return a chat without its last turn, and the beginning of the answer, in the model's chat template."""
    if tokenizer is None:
        return ""
    if not tokenizer.chat_template:
        raise DudeError(
            "eval.file: its records are chats, and the model has no chat template. Use prompts and answers."
        )
    try:
        return str(
            tokenizer.apply_chat_template(
                chat.messages[:-1], tools=chat.tools, tokenize=False, add_generation_prompt=True
            )
        )
    except Exception as error:  # a template is a program: it raises TemplateError, TypeError, anything
        raise DudeError(f"{chat.place}: the model's chat template rejects this chat: {shorten(error)}.") from None


def _choice(row: Mapping[str, Any], settings: EvalSettings, place: str) -> dict[str, Any]:
    """Return prompt, choices and the number of the right one, given as a number from 0, a letter or its text."""
    choices = row.get("choices")
    if (
        not isinstance(choices, list)
        or len(choices) < 2
        or not all(isinstance(one, str) and one.strip() for one in choices)
    ):
        raise DudeError(f"{place}: 'choices' must be a list of at least two texts. The columns are: {some(row)}.")
    answer = row.get(settings.completion or "answer")
    letters = LETTERS[: len(choices)]
    gold: int | None = None
    if type(answer) is int:
        gold = answer if 0 <= answer < len(choices) else None
    elif isinstance(answer, str):
        gold = choices.index(answer) if answer in choices else None
        if gold is None and len(answer.strip()) == 1:
            gold = letters.find(answer.strip())
    if gold is None or gold < 0:
        raise DudeError(
            f"{place}: '{settings.completion or 'answer'}' must be one of the choices, its letter or its number from "
            f"0, got {quote(answer)}."
        )
    template = settings.prompt or "prompt"
    try:
        prompt = template.format(**row) if "{" in template else row[template]
    except (KeyError, ValueError, IndexError, AttributeError, TypeError):
        prompt = None
    if not isinstance(prompt, str) or not prompt.strip():
        raise DudeError(f"{place}: no text for eval.prompt ({quote(template)}). The columns are: {some(row)}.")
    # The harness puts a space between the two, its `target_delimiter`.
    return {"prompt": prompt.rstrip(" "), "choices": [one.strip() for one in choices], "gold": gold}


def yaml_units(settings: EvalSettings) -> list[Unit]:
    """Return the tasks of `eval.lm_eval`, the YAML file of a task or group of lm-evaluation-harness.

    Raises:
        DudeError: no such file, no name in it, or a task that the library cannot load.
    """
    from lm_eval.tasks import TaskManager, get_task_dict

    from .language_model import quiet

    path = existing(str(settings.lm_eval))
    found = re.search(r"^(?:task|group)\s*:\s*[\"']?([^\s\"'#]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise DudeError(f"eval.lm_eval: {path} names no task: it has no line such as 'task: my_task'.")
    name = found[1]
    try:
        with quiet():
            manager = TaskManager(include_path=str(path.resolve().parent), include_defaults=False)
            tasks = flat(get_task_dict([name], manager))
    except Exception as error:  # of the user's file, of its data, of the network
        raise DudeError(f"eval.lm_eval: {path} cannot be loaded ({type(error).__name__}: {shorten(error)}).") from None
    [own] = settings.names
    return harness_units(tasks, settings, own, lambda one: own if len(tasks) == 1 else f"{own}/{one}")
