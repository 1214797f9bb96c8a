"""The questions that one row answers correctly and another does not, from the stored answers of the runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from typing import Any

from ..compare.outcome import groups
from ..compare.results import Results
from ..compare.run_store import Run

SHOWN = 20  # questions in each direction of a pair
NO_PROMPT = "(The prompt is not stored with the run, and its data set is not available.)"
LONGEST_QUESTION, LONGEST_ANSWER = 1200, 500  # characters

Key = tuple[str, str]  # task and id of a question
Items = dict[Key, tuple[bool, str]]  # whether it was right, and what was answered


@dataclass
class _Store:
    """Questions and texts of the page, each once."""

    questions: list[dict[str, str]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    _places: dict[Key, int] = field(default_factory=dict)
    _known: dict[str, int] = field(default_factory=dict)

    def question(self, key: Key, asked: Mapping[str, str]) -> int:
        if key not in self._places:
            self._places[key] = len(self.questions)
            self.questions.append({"task": key[0], "id": key[1], **asked})
        return self._places[key]

    def text(self, text: str) -> int:
        if text not in self._known:
            self._known[text] = len(self.texts)
            self.texts.append(text)
        return self._known[text]


def make_answers(results: Results) -> dict[str, Any]:
    """Return the pairs of rows that are compared, and each of them with the base, with the questions they differ in.

    Returns:
        `pairs`: for each the names, the seeds, the number of questions, how often each has more seeds right, and for
        both directions up to `SHOWN` entries: question, seed, how many seeds of each are right, an answer of each.
        `questions` and `texts` are what these point to.
    """
    asked: dict[Key, dict[str, str]] = {}
    items: dict[tuple[str, int], Items] = {}
    for row in results.rows:
        for run in row.runs:
            items[row.name, run.seed] = _items(run, asked)
    names = [list(combinations([row.name for row in rows], 2)) for _, rows in groups(results)]
    pairs = list(dict.fromkeys(pair for group in names for pair in group))
    seeds = {row.name: [run.seed for run in row.runs] for row in results.rows}
    if results.base is not None and results.base.record.get("kind") == "base":
        before = _items(results.base, asked)
        compared = dict.fromkeys(row.name for _, rows in groups(results) for row in rows)
        for name in compared:
            pairs.append((name, "base"))
        items |= {("base", seed): before for one in seeds.values() for seed in one}
        seeds["base"] = sorted({seed for one in seeds.values() for seed in one})
    store = _Store()
    made = []
    for one, other in pairs:
        common = [seed for seed in seeds[one] if seed in seeds[other]]
        if pair := _pair(store, asked, [(s, items[one, s], items[other, s]) for s in common]):
            made.append({"one": one, "other": other, **pair})
    return {"pairs": made, "questions": store.questions, "texts": store.texts}


def _pair(
    store: _Store, asked: Mapping[Key, Mapping[str, str]], runs: list[tuple[int, Items, Items]]
) -> dict[str, Any] | None:
    if not runs:
        return None
    common = [key for key in runs[0][1] if all(key in left and key in right for _, left, right in runs)]
    if not common:
        return None
    counts = {
        key: (sum(left[key][0] for _, left, _ in runs), sum(right[key][0] for _, _, right in runs)) for key in common
    }
    lists, more = [], []
    for sign in (1, -1):
        ahead = [key for key in common if sign * (counts[key][0] - counts[key][1]) > 0]
        ahead.sort(key=lambda key: -abs(counts[key][0] - counts[key][1]))  # stable: then in the order of the set
        more.append(len(ahead))
        shown = []
        for key in ahead[:SHOWN]:
            seed, left, right = next(run for run in runs if sign * (run[1][key][0] - run[2][key][0]) > 0)
            place = store.question(key, asked[key])
            shown.append([place, seed, *counts[key], store.text(left[key][1]), store.text(right[key][1])])
        lists.append(shown)
    return {"n": len(common), "seeds": [seed for seed, _, _ in runs], "more": more, "lists": lists}


def _items(run: Run, asked: dict[Key, dict[str, str]]) -> Items:
    """Return whether each question was answered correctly, and the answer; add the questions to `asked`."""
    found: Items = {}
    for task, one in _samples(run):
        key = (task, str(one["id"]))
        if key not in asked:
            asked[key] = {"prompt": _end(str(one.get("prompt", ""))), "gold": _choice(one, one.get("gold"))}
        found[key] = (bool(one["correct"]), _answer(one))
    return found


def _samples(run: Run) -> Iterator[tuple[str, dict[str, Any]]]:
    for task, samples in run.samples().items():
        for one in samples:
            yield task, one if "prompt" in one else {**one, **_question(run, task, one)}


def _question(run: Run, task: str, sample: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a packed run lacks of a question, from its data set."""
    asked = run.record["config"].get("eval")
    found = _stored_prompts(json.dumps(asked)).get((task, str(sample["id"]))) if asked else None
    if found is None or found["gold"] != sample.get("gold"):  # another version of the set
        return {"prompt": NO_PROMPT}
    return found


@lru_cache(maxsize=8)
def _stored_prompts(asked: str) -> dict[Key, dict[str, Any]]:
    from ..config.eval_settings import EvalSettings
    from ..evaluation.tasks import stored_prompts

    return stored_prompts(EvalSettings.model_validate(json.loads(asked)))


def _answer(sample: Mapping[str, Any]) -> str:
    said = sample.get("generated")
    if isinstance(said, str):
        return _start(said.strip()) or "(nothing)"
    return _choice(sample, sample.get("prediction"))


def _choice(sample: Mapping[str, Any], value: Any) -> str:
    """Return a choice's text for its number."""
    choices = sample.get("choices")
    if isinstance(choices, list) and isinstance(value, int) and 0 <= value < len(choices):
        return _start(str(choices[value]))
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return "(none)" if value is None else _start(str(value))


def _start(text: str) -> str:
    return text if len(text) <= LONGEST_ANSWER else text[:LONGEST_ANSWER] + " …"


def _end(prompt: str) -> str:
    """Return the end of a prompt: few-shot examples may come before it."""
    return prompt if len(prompt) <= LONGEST_QUESTION else "… " + prompt[-LONGEST_QUESTION:]
