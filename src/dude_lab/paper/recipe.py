"""Recipes: YAML files with models, a comparison to run on each, what the paper leaves open, and sizes for a dry run."""

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
from .experiments import COMPARISONS, ComparisonSpec, Experiment, Scale

RECIPES = Path(__file__).parent / "recipes"


class ModelEntry(Settings):
    """A base model of a recipe.

    Attributes:
        name: as `model:` of a run takes it.
        paper: its name in the paper's tables; None for a model that is not the paper's.
        shared: keys for its methods, merged over the comparison's.
    """

    name: str
    paper: str | None = None
    shared: dict[str, Any] = Field(default_factory=dict)


class Estimate(Settings):
    """Sizes that a dry run counts with, without reading any data.

    Attributes:
        examples: training records.
        tokens: of an example, on average; English at 4.2 characters a token, where nothing was counted.
        longest: tokens of the longest example in a batch.
        questions: in one evaluation.
        question_tokens: tokens read for one question, all answer choices together.
        generated: tokens generated for one question.
    """

    examples: int = Field(ge=1)
    tokens: int = Field(ge=1)
    longest: int = Field(ge=1)
    questions: int = Field(ge=1)
    question_tokens: int = Field(ge=1)
    generated: int = Field(default=0, ge=0)


class Recipe(Settings):
    """A recipe.

    Attributes:
        title: one line.
        models: the comparison is run on each.
        chosen: what the paper leaves open, what was chosen, and why.
        estimate: sizes for a dry run.
        comparison: as `dude compare` takes it, without `output` and `run.model`.
        for_calibration: further methods, for the calibration only.
    """

    title: str
    models: list[ModelEntry] = Field(min_length=1)
    chosen: list[str] = Field(min_length=1)
    estimate: Estimate
    comparison: dict[str, Any]
    for_calibration: list[dict[str, Any]] = Field(default_factory=list)


@dataclass(frozen=True)
class StudyComparison:
    """A comparison of a study: some runs of a recipe on one of its models.

    Attributes:
        name: name of its folder under `parts/`.
        spec: which runs.
        model: base model.
        settings: the comparison as `dude compare` takes it; its output is the folder of the study.
        recipe: where it is from.
        recipe_name: name of that file.
        only: names of the rows to run; empty: all.
    """

    name: str
    spec: ComparisonSpec
    model: ModelEntry
    settings: ComparisonSettings
    recipe: Recipe
    recipe_name: str
    only: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """Where an error message says that the settings are from."""
        return f"reproduce, {self.name}"


@cache
def load_recipe(scale: Scale, name: str) -> Recipe:
    """Load a recipe of the package."""
    path = RECIPES / scale / f"{name}.yaml"
    return parse(Recipe, read_yaml(path), str(path))


def comparisons_of(
    experiments: Iterable[Experiment],
    scale: Scale,
    output: Path,
    overrides: Iterable[str] = (),
    rows: Iterable[str] = (),
) -> tuple[StudyComparison, ...]:
    """Return the comparisons that experiments need, each once, in their order.

    Args:
        experiments: of `experiments.EXPERIMENTS`.
        scale: `mini`, `small` or `paper`.
        output: folder of the study.
        overrides: `key=value`, applied to every comparison.
        rows: names of the rows to run, such as `dude-r16`; empty: all rows.

    Raises:
        DudeError: an override or a row that does not fit.
    """
    made: dict[str, StudyComparison] = {}
    wanted = tuple(rows)
    names: dict[str, None] = {}
    for experiment in experiments:
        for name in experiment.comparisons:
            for comparison in _comparisons(COMPARISONS[name], scale, output, tuple(overrides)):
                here = expand_rows(comparison.settings, comparison.source)
                names |= dict.fromkeys(row.name for row in here)
                if comparison.name in made or (wanted and not any(row.name in wanted for row in here)):
                    continue
                made[comparison.name] = replace(comparison, only=wanted)
    if lost := [row for row in wanted if row not in names]:
        raise DudeError(f"--row {lost[0]}: no row has this name. They are: {', '.join(names)}.")
    return tuple(made.values())


def _comparisons(spec: ComparisonSpec, scale: Scale, output: Path, overrides: tuple[str, ...]) -> list[StudyComparison]:
    recipe = load_recipe(scale, spec.recipes[scale])
    comparisons = []
    for model in recipe.models:
        raw = json_copy(recipe.comparison)
        raw["run"] = override({**raw["run"], "model": model.name}, ())
        raw["shared"] = {**raw.get("shared", {}), **model.shared}
        raw["output"] = str(output)
        if spec.calibration:
            raw["methods"] = [*raw["methods"], *json_copy(recipe.for_calibration)]
        if spec.above:
            raw["search"] = {**raw["search"], "above": True}
        if spec.first_seed and scale == "paper":
            raw["seeds"] = raw["seeds"][:1]
        narrowed = {pair.partition("=")[0].strip() for pair in overrides}
        if spec.learning_rate is not None:
            raw["learning_rates"] = [spec.learning_rate]
        if "learning_rates" in narrowed or spec.learning_rate is not None:  # also of methods with rates of their own
            for entry in raw["methods"]:
                if isinstance(entry, dict):
                    entry.pop("learning_rates", None)
        source = f"{scale}/{spec.recipes[scale]}.yaml"
        settings = _select(parse_comparison(override(raw, overrides), source), spec, source, narrowed)
        short = f"-{model.name.rsplit('/', 1)[-1].lower()}" if len(recipe.models) > 1 else ""
        comparisons.append(StudyComparison(f"{spec.name}{short}", spec, model, settings, recipe, spec.recipes[scale]))
    return comparisons


def _select(
    settings: ComparisonSettings, spec: ComparisonSpec, source: str, overridden: set[str]
) -> ComparisonSettings:
    """Keep the rows of the spec, each with its rank and keys written out; overridden keys are not narrowed again."""
    rows = [
        row
        for row in expand_rows(settings, source)
        if ("methods" in overridden or not spec.methods or row.method.name in spec.methods)
        and ("ranks" in overridden or not spec.ranks or row.r is None or row.r in spec.ranks)
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
