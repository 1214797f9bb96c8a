"""The rows of a comparison, and the runs of each row."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dude_peft.errors import DudeError, quote

from ..config.compare_settings import ComparisonSettings
from ..config.eval_settings import OF_FILES, SOURCES, EvalSettings
from ..config.run_settings import RunSettings
from ..config.yaml_file import fingerprint, fingerprinted, json_copy, parse_run
from ..data.catalogue import SETS
from .rows import Row, expand_rows

BASE = "base"


@dataclass(frozen=True)
class PlannedRun:
    """A run of a comparison: training, or the evaluation of the base model.

    Attributes:
        kind: `base`, `search` (for the learning rate) or `run`.
        name: name of its folder: readable, with eight digits of a hash of what determines its result.
        settings: its config; for `base` only model, eval and device matter.
        row: `Row.name`; empty for the base.
    """

    kind: Literal["base", "search", "run"]
    name: str
    settings: RunSettings
    row: str = ""

    @property
    def title(self) -> str:
        """Its name in messages."""
        if self.kind == "base":
            return "base"
        train = self.settings.train
        return f"{self.row}, seed {train.seed}, lr {train.learning_rate:g}" + (" (search)" * (self.kind == "search"))


class Grid:
    """All rows and runs of a comparison, validated on construction.

    Args:
        settings: the comparison.
        base_mark: identifies the base (`mark_of`: SHA-256 of its files); part of the hash in every run's name.
        folder: parent of the run folders.
        source: name of the YAML, for messages.

    Raises:
        DudeError: all mistakes in methods, ranks and the run config that can be found without loading anything.
    """

    def __init__(self, settings: ComparisonSettings, base_mark: str, folder: Path, source: str = "config") -> None:
        self.settings, self.base_mark, self.folder, self.source = settings, base_mark, folder, source
        self.rows = expand_rows(settings, source)
        self._runs: dict[tuple[str, float], tuple[PlannedRun, ...]] = {}
        self._searches: dict[str, tuple[PlannedRun, ...]] = {}
        problems: dict[str, None] = {}
        for row in self.rows:
            try:
                for rate in row.learning_rates:
                    self._runs[row.name, rate] = self._make_runs(row, rate)
                self._searches[row.name] = self._make_searches(row)
            except DudeError as error:
                problems[str(error)] = None
        if problems:
            raise DudeError("\n".join(problems))
        _once([run for row in self.rows for run in self.runs(row, row.learning_rates[0])], source)

    def runs(self, row: Row, learning_rate: float) -> tuple[PlannedRun, ...]:
        """Return the runs of a row at one of its learning rates, one for each seed."""
        return self._runs[row.name, learning_rate]

    def searches(self, row: Row) -> tuple[PlannedRun, ...]:
        """Return the search runs of a row, one for each learning rate; empty if it has only one."""
        return self._searches[row.name]

    @property
    def base_run(self) -> PlannedRun | None:
        """The evaluation of the base model; None without an evaluation."""
        settings = self.runs(self.rows[0], self.rows[0].learning_rates[0])[0].settings
        if settings.eval is None or not settings.eval.has_tasks:
            return None
        values = fingerprinted(settings)
        key = _key({"model": values["model"], "eval": values["eval"], "device": values["train"]["device"]}, self)
        name = f"{BASE}-{key}"
        return PlannedRun("base", name, settings.model_copy(update={"output": self.folder / name}))

    def _make_runs(self, row: Row, learning_rate: float) -> tuple[PlannedRun, ...]:
        return tuple(
            self._planned("run", row, self._run(row, learning_rate, seed, self.settings.run))
            for seed in self.settings.seeds
        )

    def candidates(self, row: Row) -> tuple[PlannedRun, ...]:
        """Return the runs of a search for each learning rate of a row, even if it has only one.

        Raises:
            DudeError: there are no questions and no validation data to choose by.
        """
        return self.searches(row) or self._make_candidates(row)

    def _make_searches(self, row: Row) -> tuple[PlannedRun, ...]:
        return () if len(row.learning_rates) == 1 else self._make_candidates(row)

    def _make_candidates(self, row: Row) -> tuple[PlannedRun, ...]:
        raw, seed = self._search_config(), self.settings.search.seed
        return tuple(self._planned("search", row, self._run(row, rate, seed, raw)) for rate in row.learning_rates)

    def _planned(self, kind: Literal["search", "run"], row: Row, settings: RunSettings) -> PlannedRun:
        train = settings.train
        rate = f"{train.learning_rate:.3g}".replace("e-0", "e-")
        readable = f"{'search-' * (kind == 'search')}{row.name}-lr{rate}-s{train.seed}"
        name = f"{readable}-{_key(fingerprint(settings), self)}"
        return PlannedRun(kind, name, settings.model_copy(update={"output": self.folder / name}), row.name)

    def _run(self, row: Row, learning_rate: float, seed: int, raw: Mapping[str, Any]) -> RunSettings:
        values = json_copy(raw)
        train = values.setdefault("train", {})
        if not isinstance(train, dict):
            raise DudeError(f"{self.source}: run.train: a section with keys such as steps, got {quote(train)}.")
        train |= {"seed": seed, "learning_rate": learning_rate}
        return parse_run({**values, "method": row.method, "output": str(self.folder)}, f"{self.source}: run")

    def _search_config(self) -> dict[str, Any]:
        """Return `run` with the changes of `search`."""
        raw, search = json_copy(self.settings.run), self.settings.search
        asked = raw.pop("eval", None)
        if search.eval is not None:
            if asked and {"file", "lm_eval"} & set(asked) and not set(SOURCES) & set(search.eval):
                raise DudeError(
                    f"{self.source}: several learning_rates, and run.eval has questions of your own: a rate is not "
                    "chosen on the questions that the table is about. Give search.eval.file (or suite or lm_eval), "
                    "or search.eval: null with run.data.validation."
                )
            if not set(SOURCES) & {*(asked or ()), *search.eval}:
                raise DudeError(
                    f"{self.source}: several learning_rates and no questions to choose among them by: give run.eval, "
                    "search.eval.suite, or search.eval: null with run.data.validation."
                )
            keep = {
                k: v
                for k, v in (asked or {}).items()
                if k not in ("every", "limit", "skip", "split", "text", "text_limit")
            }
            if set(SOURCES) & set(search.eval):
                keep = {k: v for k, v in keep.items() if k not in (*SOURCES, *OF_FILES)}
            raw["eval"] = keep | search.eval
            if asked and any(asked.get(key) and asked[key] == raw["eval"].get(key) for key in ("file", "lm_eval")):
                raise DudeError(
                    f"{self.source}: search.eval and run.eval have the same questions: a learning rate is not chosen "
                    "on the questions that the table is about. Name another file."
                )
        elif not (raw.get("data") or {}).get("validation"):
            raise DudeError(
                f"{self.source}: search.eval is null, so the learning rate is chosen by validation loss, and "
                "run.data.validation is not set. Set it, for instance to 0.05."
            )
        if search.steps is not None:
            raw["train"] = {**raw.get("train", {}), "steps": search.steps}
            raw["train"].pop("epochs", None)
        return raw


def check_questions(grid: Grid) -> None:
    """Check that no search asks questions of a named set that the table is about.

    Raises:
        DudeError: names the set and its split.
    """
    for row in grid.rows:
        table = grid.runs(row, row.learning_rates[0])[0].settings.eval
        for search in grid.searches(row)[:1]:
            if table is None or search.settings.eval is None:
                continue
            if found := _shared_questions(table, search.settings.eval):
                raise DudeError(
                    f"{grid.source}: search.eval asks questions of {found}, and so does run.eval: a learning rate is "
                    "not chosen on the questions that the table is about. Name another split in one of them, or set "
                    "run.eval.skip to the number of questions of the search."
                )


def _shared_questions(one: EvalSettings, other: EvalSettings) -> str | None:
    """Return a named set and split of which both evaluations ask the same questions; None if there is none."""
    for name in (name for name in one.names if name in other.names and name in SETS):
        splits = {asked.split or SETS[name].eval_split for asked in (one, other)}
        ranges = [(asked.skip or 0, (asked.skip or 0) + (asked.limit or math.inf)) for asked in (one, other)]
        if len(splits) == 1 and max(start for start, _ in ranges) < min(end for _, end in ranges):
            return f"{name}, split '{splits.pop()}'"
    return None


def _once(runs: list[PlannedRun], source: str) -> None:
    seen: dict[str, PlannedRun] = {}
    for run in runs:
        mark = fingerprint(run.settings)
        if mark in seen:
            raise DudeError(
                f"{source}: methods: '{seen[mark].row}' and '{run.row}' are the same run. Remove one of them."
            )
        seen[mark] = run


def _key(what: Any, grid: Grid) -> str:
    text = json.dumps([what, grid.base_mark], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
