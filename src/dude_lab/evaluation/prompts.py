"""The questions of an evaluation from their data sets, for answers that are stored without them."""

from __future__ import annotations

import os
from typing import Any

from dude_peft.errors import DudeError

from ..config.eval_settings import BUILT_IN, EvalSettings
from ..data.catalogue import named_set
from ..data.question_types import Problem, subject_heading
from ..data.sets import ROOT_VARIABLE
from .final_number import final_number


def stored_prompts(settings: EvalSettings) -> dict[tuple[str, str], dict[str, Any]]:
    """Prompts and choices by task and question, of the sets that are at hand: generated, or in a local folder.

    Nothing is downloaded. Worked examples before a question are left out.

    Returns:
        (task, id) -> `prompt`, `gold`, and for multiple choice `choices`.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name in settings.names:
        if not name.startswith(BUILT_IN):
            try:
                found |= _of_set(name, settings)
            except DudeError:
                continue  # not at hand
    return found


def _of_set(name: str, settings: EvalSettings) -> dict[tuple[str, str], dict[str, Any]]:
    named = named_set(name)
    root, split = settings.root or os.environ.get(ROOT_VARIABLE), settings.split or named.eval_split
    if not named.embedded and (root is None or named.found(split, root) is None):
        return {}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    protocol = settings.protocol or named.choice_protocol
    for one in named.examples(split, settings.root, None if named.by_subject else settings.limit):
        if isinstance(one, Problem):
            found[name, one.id] = {"prompt": one.prompt, "gold": str(final_number(one.answer))}
            continue
        task = f"{name}/{one.subject}" if named.by_subject else name
        prompt = subject_heading(one, protocol) + one.ask(protocol).contexts[0]
        found[task, one.id] = {"prompt": prompt, "gold": one.gold, "choices": list(one.choices)}
    return found
