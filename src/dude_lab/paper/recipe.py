"""The YAML of a study: models, the comparison run on each, what the paper leaves open, what a dry run counts with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from dude_peft.errors import DudeError

from ..compare.rows import expand_rows
from ..config.compare_settings import ComparisonSettings, parse_comparison
from ..config.yaml_file import json_copy, override
from ..config.yaml_reader import read_yaml
from ..settings import Settings, parse
from .experiments import SELECTIONS, Experiment, Scale, Selection

RECIPES = Path(__file__).parent / "recipes"


class ModelEntry(Settings):
    """A base model of a study.

    Attributes:
        name: as `model:` of a run takes it.
        paper: how the paper's tables call it; None where it is not one of the paper's.
        shared: keys for its methods, over the comparison's.
    """

    name: str
    paper: str | None = None
    shared: dict[str, Any] = Field(default_factory=dict)


class Estimate(Settings):
    """What a dry run counts with, no data being at hand.

    Attributes:
        examples: training records.
        tokens: of an example, on average; English at 4.2 characters a token, where nothing was counted.
        longest: tokens of the longest example in a batch.
        questions: asked in one evaluation.
        question_tokens: read for one of them, all choices together.
        generated: tokens written for one of them.
    """

    examples: int = Field(ge=1)
    tokens: int = Field(ge=1)
    longest: int = Field(ge=1)
    questions: int = Field(ge=1)
    question_tokens: int = Field(ge=1)
    generated: int = Field(default=0, ge=0)


class Recipe(Settings):
    """A study.

    Attributes:
        title: for a person.
        models: the comparison is run on each.
        chosen: what the paper leaves open, and what was chosen and why.
        estimate: for a dry run.
        comparison: as `dude compare` takes it, without `output` and `run.model`.
        for_calibration: methods that the calibration alone asks for.
    """

    title: str
    models: list[ModelEntry] = Field(min_length=1)
    chosen: list[str] = Field(min_length=1)
    estimate: Estimate
    comparison: dict[str, Any]
    for_calibration: list[dict[str, Any]] = Field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """A selection of a study's runs on one model: what is worked through, and kept, as one comparison.

    Attributes:
        name: of its folder under `parts/`.
        selection: which runs.
        study: name of the recipe.
        model: whose.
        settings: the comparison; its output is the folder of the whole reproduction.
        recipe: where it is from.
    """

    name: str
    selection: Selection
    study: str
    model: ModelEntry
    settings: ComparisonSettings
    recipe: Recipe

    @property
    def source(self) -> str:
        """For messages."""
        return f"reproduce, {self.name}"


@cache
def load_recipe(scale: Scale, study: str) -> Recipe:
    """The recipe of a study as the package ships it."""
    path = RECIPES / scale / f"{study}.yaml"
    return parse(Recipe, read_yaml(path), str(path))


def parts_of(
    experiments: Iterable[Experiment],
    scale: Scale,
    output: Path,
    overrides: Iterable[str] = (),
    rows: Iterable[str] = (),
) -> tuple[Part, ...]:
    """The parts of experiments, each once, in their order.

    Args:
        experiments: of `catalogue`.
        scale: `mini` or `paper`.
        output: the folder of the reproduction.
        overrides: `key=value`, put into every comparison.
        rows: names of rows, such as `dude-r16`; those alone, where some are given.

    Raises:
        DudeError: an override or a row that does not fit.
    """
    made: dict[str, Part] = {}
    wanted = tuple(rows)
    names: dict[str, None] = {}
    for experiment in experiments:
        for name in experiment.selections:
            for part in _parts(SELECTIONS[name], scale, output, tuple(overrides)):
                here = expand_rows(part.settings, part.source)
                names |= dict.fromkeys(row.name for row in here)
                if part.name in made or (wanted and not any(row.name in wanted for row in here)):
                    continue
                made[part.name] = _with_rows(part, wanted)
    if lost := [row for row in wanted if row not in names]:
        raise DudeError(f"--row {lost[0]}: no row has this name. They are: {', '.join(names)}.")
    return tuple(made.values())


def _parts(selection: Selection, scale: Scale, output: Path, overrides: tuple[str, ...]) -> list[Part]:
    study = selection.studies[scale]
    recipe = load_recipe(scale, study)
    parts = []
    for model in recipe.models:
        raw = json_copy(recipe.comparison)
        raw["run"] = override({**raw["run"], "model": model.name}, ())
        raw["shared"] = {**raw.get("shared", {}), **model.shared}
        raw["output"] = str(output)
        if selection.calibration:
            raw["methods"] = [*raw["methods"], *json_copy(recipe.for_calibration)]
        if selection.above:
            raw["search"] = {**raw["search"], "above": True}
        if selection.first_seed and scale == "paper":
            raw["seeds"] = raw["seeds"][:1]
        narrowed = {pair.partition("=")[0].strip() for pair in overrides}
        if "learning_rates" in narrowed:  # they are meant for every method, also for one with rates of its own
            for entry in raw["methods"]:
                if isinstance(entry, dict):
                    entry.pop("learning_rates", None)
        whole = override(raw, overrides)
        source = f"{scale}/{study}.yaml"
        settings = _select(parse_comparison(whole, source), selection, source, narrowed)
        short = f"-{model.name.rsplit('/', 1)[-1].lower()}" if len(recipe.models) > 1 else ""
        parts.append(Part(f"{selection.name}{short}", selection, study, model, settings, recipe))
    return parts


def _select(
    settings: ComparisonSettings, selection: Selection, source: str, overridden: set[str]
) -> ComparisonSettings:
    """The selection's rows, each with its rank and keys written out; what was overridden is not narrowed again."""
    rows = [
        row
        for row in expand_rows(settings, source)
        if ("methods" in overridden or not selection.methods or row.method.name in selection.methods)
        and ("ranks" in overridden or not selection.ranks or row.r is None or row.r in selection.ranks)
    ]
    return _with(settings, rows)


def _with(settings: ComparisonSettings, rows: Iterable[Any]) -> ComparisonSettings:
    methods = [
        {
            **row.method.model_dump(mode="json", exclude_unset=True),
            "label": row.label,
            "learning_rates": list(row.learning_rates),
        }
        for row in rows
    ]
    raw: Mapping[str, Any] = {**settings.resolved(), "methods": methods, "shared": {}, "ranks": None}
    return parse_comparison(raw, "reproduce")


def _with_rows(part: Part, wanted: tuple[str, ...]) -> Part:
    if not wanted:
        return part
    rows = [row for row in expand_rows(part.settings, part.source) if row.name in wanted]
    return replace(part, settings=_with(part.settings, rows))
