"""Data sets of the catalogue as tasks of lm-evaluation-harness, their questions, and how an answer is scored."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from dude_peft.errors import DudeError, quote

from ..config.eval_settings import BUILT_IN, EvalSettings
from ..data.catalogue import named_set
from ..data.question_types import Asked, Problem, Question, subject_heading
from ..data.sets import ROOT_VARIABLE, NamedSet

if TYPE_CHECKING:
    from lm_eval.api.task import Task

STOP = ("Question:",)
"""Strings that end a generated answer, beside the end-of-text token. An empty line does not: some answers of GSM8K have
one, two of them in its test split."""


@dataclass(frozen=True)
class Unit:
    """One task of lm-evaluation-harness: a data set, a subject of one, or a built-in task.

    Attributes:
        name: the task's name, `<set>` or `<set>/<subject>`.
        set_name: the data set, or the built-in task as written in the config.
        make: makes `task`, which takes longer than reading the questions.
        questions: the questions, in order; empty for a built-in task.
        protocol: `generate`, `cloze`, `letter`, `file` (choices of `eval.file`) or `lm_eval`.
        metric: the main metric; empty for a built-in task.
        split: the split that is evaluated.
        shots: few-shot examples before each question.
        group: the group of an MMLU subject.
    """

    name: str
    set_name: str
    make: Callable[[], Task]
    questions: Sequence[Asked | Problem]
    protocol: str
    metric: str
    split: str
    shots: int
    group: str | None = None

    @cached_property
    def task(self) -> Task:
        """lm-evaluation-harness's object."""
        return self.make()


def build_units(settings: EvalSettings, tokenizer: Any = None) -> list[Unit]:
    """Return the tasks of `settings`, with their records read and checked.

    Args:
        settings: the evaluation.
        tokenizer: renders the chats of `settings.file`; without one, they are only checked.

    Raises:
        DudeError: a data set that cannot be read, an unknown split, or too few few-shot examples.
    """
    from .own_tasks import file_unit, yaml_units

    if settings.file is not None:
        return [file_unit(settings, tokenizer)]
    if settings.lm_eval is not None:
        return yaml_units(settings)
    units: list[Unit] = []
    for name in settings.names:
        units += _built_in(name, settings) if name.startswith(BUILT_IN) else _named(named_set(name), settings)
    return units


def _named(named: NamedSet, settings: EvalSettings) -> list[Unit]:
    split = settings.split or named.eval_split
    shots = settings.num_fewshot or 0
    examples = _examples(named, split, settings)
    worked: list[Any] = []
    if shots:
        if named.fewshot_split is None:
            raise DudeError(f"{named.name} has no split for few-shot examples; set eval.num_fewshot to 0.")
        worked = list(named.examples(named.fewshot_split, settings.root))
    if not examples or (settings.skip and named.by_subject and not _subjects(examples, settings)):
        rest = f" after the first {settings.skip:,} (eval.skip)" if settings.skip else ""
        raise DudeError(f"{named.name}, split {split}, has no questions{rest}.")
    if isinstance(examples[0], Problem):
        make = partial(_generate_task, named.name, examples, worked, shots, settings)
        return [Unit(named.name, named.name, make, examples, "generate", named.metric, split, shots)]
    protocol = settings.protocol or named.choice_protocol
    metric = "acc" if protocol == "letter" else named.metric
    units = []
    for subject, part in _subjects(examples, settings) if named.by_subject else [(None, examples)]:
        asked = [one.ask(protocol) for one in part]
        pool = [one.ask(protocol) for one in worked if subject is None or one.subject == subject]
        name = named.name if subject is None else f"{named.name}/{subject}"
        if len(pool) < shots:
            raise DudeError(
                f"{name}: eval.num_fewshot is {shots}, but its split {named.fewshot_split!r} has {len(pool)} examples."
            )
        ask = partial(_choice_task, name, asked, pool, shots, settings, protocol, subject)
        group = part[0].group if subject is not None else None
        if subject is not None and group is None:
            raise DudeError(f"{name}: subject {quote(subject)} has no known group; add a 'group' to its records.")
        units.append(Unit(name, named.name, ask, asked, protocol, metric, split, shots, group))
    return units


def _examples(named: NamedSet, split: str, settings: EvalSettings) -> list[Any]:
    """Return the questions of a set after `skip` and up to `limit`; all of a set that is asked by subject."""
    if named.by_subject:
        return list(named.examples(split, settings.root))
    skip = settings.skip or 0
    return list(named.examples(split, settings.root, settings.limit and settings.limit + skip))[skip:]


def _subjects(questions: Sequence[Any], settings: EvalSettings) -> list[tuple[str | None, list[Question]]]:
    parts: dict[str, list[Question]] = {}
    for one in questions:
        parts.setdefault(one.subject, []).append(one)
    skip = settings.skip or 0
    end = settings.limit and settings.limit + skip
    return [(subject, part[skip:end]) for subject, part in parts.items() if part[skip:end]]


def _choice_task(
    name: str,
    asked: Sequence[Asked],
    worked: Sequence[Asked],
    shots: int,
    settings: EvalSettings,
    protocol: str,
    subject: str | None,
) -> Task:
    blank = len(asked[0].contexts) > 1  # a blank within a sentence: one context for each choice, one continuation
    metrics = ["acc"] if blank or protocol == "letter" else ["acc", "acc_norm"]
    config = {
        "output_type": "multiple_choice",
        "doc_to_text": (lambda doc: doc["gold"]) if blank else (lambda doc: doc["contexts"][0]),
        "doc_to_choice": (lambda doc: doc["contexts"]) if blank else (lambda doc: doc["continuations"]),
        "doc_to_target": (lambda doc: doc["continuations"][0]) if blank else (lambda doc: doc["gold"]),
        "metric_list": [{"metric": one, "aggregation": "mean", "higher_is_better": True} for one in metrics],
    }
    if subject is not None and protocol == "letter":
        config["description"] = subject_heading(asked[0].question, "letter")
        config["fewshot_config"] = {"sampler": "first_n"}

    def docs(part: Sequence[Asked]) -> list[dict[str, Any]]:
        return [
            {"contexts": list(one.contexts), "continuations": list(one.continuations), "gold": one.question.gold}
            for one in part
        ]

    return harness_task(name, docs(asked), docs(worked), shots, settings.seed, config)


def _generate_task(
    name: str, problems: Sequence[Any], worked: Sequence[Any], shots: int, settings: EvalSettings
) -> Task:
    def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
        gold = final_number(doc["answer"])
        return {
            "exact_match": float(gold is not None and final_number(results[0]) == gold),
            "flexible_match": float(gold is not None and last_number(results[0]) == gold),
        }

    config = {
        "output_type": "generate_until",
        "doc_to_text": lambda doc: doc["prompt"],
        "doc_to_target": lambda doc: doc["answer"],
        "process_results": score,
        "generation_kwargs": {"until": list(STOP), "do_sample": False, "max_gen_toks": settings.max_new_tokens},
        "metric_list": [
            {"metric": one, "aggregation": "mean", "higher_is_better": True}
            for one in ("exact_match", "flexible_match")
        ],
    }

    def docs(part: Sequence[Problem]) -> list[dict[str, Any]]:
        return [{"prompt": one.prompt, "answer": one.answer} for one in part]

    return harness_task(name, docs(problems), docs(worked), shots, settings.seed, config)


def harness_task(
    name: str, docs: list[dict[str, Any]], worked: list[dict[str, Any]], shots: int, seed: int, config: dict[str, Any]
) -> Task:
    """Return an lm-evaluation-harness task on records, some of them few-shot examples, and the rest of its config."""
    import datasets
    from lm_eval.api.task import ConfigurableTask

    splits = {"eval": datasets.Dataset.from_list(docs)}
    if worked:
        splits["fewshot"] = datasets.Dataset.from_list(worked)
    task = ConfigurableTask(
        config={
            "task": name,
            "custom_dataset": lambda **_: splits,
            "test_split": "eval",
            "fewshot_split": "fewshot" if worked else None,
            "num_fewshot": shots,
            **config,
        }
    )
    task.set_fewshot_seed(seed)
    return task


def _built_in(name: str, settings: EvalSettings) -> list[Unit]:
    from lm_eval.tasks import TaskManager, get_task_dict

    from .language_model import quiet

    wanted = name.removeprefix(BUILT_IN)
    with quiet():
        manager = TaskManager()
    if wanted not in manager.all_tasks:
        raise DudeError(f"lm-evaluation-harness has no task {quote(wanted)}; `lm-eval ls tasks` lists them.")
    try:
        with quiet():
            tasks = flat(get_task_dict([wanted], manager))
    except Exception as error:  # its data sets come from the hub: every network fault ends here
        raise DudeError(f"{name} cannot be loaded ({type(error).__name__}: {error}).") from None
    return harness_units(tasks, settings, name, lambda one: f"{BUILT_IN}{one}")


def harness_units(
    tasks: Mapping[str, Any], settings: EvalSettings, name: str, unit_name: Callable[[str], str]
) -> list[Unit]:
    """Return the units of tasks that lm-evaluation-harness made, with the few-shot examples of `settings`.

    Args:
        tasks: by name, as `flat` returns them.
        settings: the evaluation.
        name: of the whole in `settings`.
        unit_name: the name in tables for that of a task.
    """
    units = []
    for one, task in tasks.items():
        if settings.num_fewshot is not None:
            task.set_config("num_fewshot", settings.num_fewshot)
        task.set_fewshot_seed(settings.seed)
        shots = task.get_config("num_fewshot") or 0
        units.append(Unit(unit_name(one), name, partial(_made, task), (), "lm_eval", "", "-", shots))
    return units


def _made(task: Any) -> Any:
    return task


def flat(tasks: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the tasks of nested groups by name."""
    out: dict[str, Any] = {}
    for key, value in tasks.items():
        out.update(flat(value) if isinstance(value, Mapping) else {str(key): value})
    return out


def stored_prompts(settings: EvalSettings) -> dict[tuple[str, str], dict[str, Any]]:
    """Return prompts and choices by task and question, of data sets that need no download.

    For answers that are stored without their prompts. Few-shot examples are left out.

    Returns:
        (task, id) -> `prompt`, `gold`, and for multiple choice `choices`.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name in settings.names if settings.file is None and settings.lm_eval is None else ():
        if not name.startswith(BUILT_IN):
            try:
                found |= _prompts_of(name, settings)
            except DudeError:
                continue  # not on this machine
    return found


def _prompts_of(name: str, settings: EvalSettings) -> dict[tuple[str, str], dict[str, Any]]:
    named = named_set(name)
    root, split = settings.root or os.environ.get(ROOT_VARIABLE), settings.split or named.eval_split
    if not named.embedded and (root is None or named.find(split, root) is None):
        return {}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    protocol = settings.protocol or named.choice_protocol
    for one in _examples(named, split, settings):
        if isinstance(one, Problem):
            found[name, one.id] = {"prompt": one.prompt, "gold": str(final_number(one.answer))}
            continue
        task = f"{name}/{one.subject}" if named.by_subject else name
        prompt = subject_heading(one, protocol) + one.ask(protocol).contexts[0]
        found[task, one.id] = {"prompt": prompt, "gold": one.gold, "choices": list(one.choices)}
    return found


# --- the number a worked solution ends in: what GSM8K's exact match compares -----------------------------------------

_NUMBER = r"[-−]?\s?\$?\s?[-−]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
_MARKED = re.compile(rf"####\s*({_NUMBER})")
_SAID = re.compile(rf"[Tt]he answer is:?\s*({_NUMBER})")
_ANY = re.compile(_NUMBER)


def final_number(text: str) -> Decimal | None:
    """Return the number after the first `####`, else after `The answer is` (MetaMathQA's ending).

    Thousands separators, a dollar sign, a trailing dot and trailing zeros make no difference.

    >>> final_number("so 2 * 600 = 1200.\\n#### $1,200.")
    Decimal('1200')
    """
    match = _MARKED.search(text) or _SAID.search(text)
    return None if match is None else _decimal(match.group(1))


def last_number(text: str) -> Decimal | None:
    """Return the last number in `text`: lm-evaluation-harness's `flexible-extract`."""
    found = _ANY.findall(text)
    return _decimal(found[-1]) if found else None


def _decimal(text: str) -> Decimal:
    negative = text.lstrip()[0] in "-−" or "-" in text or "−" in text
    value = Decimal(re.sub(r"[^\d.]", "", text))
    return -value if negative else value
