"""The YAML of a comparison: a run config, and the methods, ranks, seeds and learning rates to run it with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from dude_peft.errors import DudeError

from ..settings import Settings, UserPath, parse
from .eval_settings import SOURCES, EvalSettings
from .yaml_file import json_copy, override
from .yaml_reader import read_yaml

SET_BY_THE_COMPARISON = {
    "method": "list it under methods",
    "output": "write it at the top level",
    "train.seed": "write seeds at the top level",
    "train.learning_rate": "write learning_rates at the top level",
}


class SearchSettings(Settings):
    """The search for a learning rate.

    Attributes:
        seed: seed of the search runs; should not be one of `seeds`.
        steps: optimizer steps of a search run. As many as the other runs if null.
        eval: evaluation of the search runs, merged over `run.eval`; never on the test split. If null, the learning rate
            is chosen by the loss on `run.data.validation`.
        above: train with the next larger of `learning_rates` instead of the best, to measure what too large a rate
            costs.
    """

    seed: int = Field(default=0, ge=0, lt=2**32)
    steps: int | None = Field(default=None, ge=1)
    eval: dict[str, Any] | None = Field(default_factory=lambda: {"limit": 300}, validate_default=True)
    above: bool = False

    @field_validator("eval")
    @classmethod
    def _on_validation(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is None:
            return None
        if value.get("split") == "test":
            raise ValueError("a learning rate is never chosen on the test split; name another split")
        if not {"file", "lm_eval"} & set(value):
            value = {"split": "validation", **value}
        # Merged over run.eval, it needs no suite of its own.
        parse(EvalSettings, value if set(SOURCES) & set(value) else {"suite": "mini", **value}, "search.eval")
        return value


class ComparisonSettings(Settings):
    """A comparison.

    Attributes:
        run: config of a run without method, output, seed and learning rate: the base of every run.
        methods: names, or mappings with the method's keys and optionally `label` and `learning_rates`.
        shared: keys that apply to every method that has them.
        ranks: run every method that has a rank at each of these, unless its entry sets `r`.
        seeds: run each method with each seed.
        learning_rates: with one value, use it; with several, choose one per method and rank on validation data.
        search: how the learning rate is chosen.
        jobs: runs in parallel.
        threads: torch threads per run. If null, the cores divided by `jobs`.
        output: folder of the comparison.
    """

    run: dict[str, Any]
    methods: list[str | dict[str, Any]] = Field(min_length=1)
    shared: dict[str, Any] = Field(default_factory=dict)
    ranks: list[int] | None = Field(default=None, min_length=1)
    seeds: list[int] = Field(default_factory=lambda: [42], min_length=1)
    learning_rates: list[float] = Field(min_length=1)
    search: SearchSettings = SearchSettings()
    jobs: int = Field(default=1, ge=1)
    threads: int | None = Field(default=None, ge=1)
    output: UserPath

    @field_validator("ranks", "seeds", "learning_rates")
    @classmethod
    def _each_once(cls, value: list[Any] | None) -> list[Any] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("a value is listed twice; list each value once")
        return value

    @field_validator("learning_rates")
    @classmethod
    def _positive(cls, value: list[float]) -> list[float]:
        if any(rate <= 0 for rate in value):
            raise ValueError("a learning rate must be above 0")
        return value

    @model_validator(mode="after")
    def _nothing_set_twice(self) -> ComparisonSettings:
        for dotted, remedy in SET_BY_THE_COMPARISON.items():
            section, _, key = dotted.rpartition(".")
            values = self.run.get(section) if section else self.run
            if isinstance(values, Mapping) and key in values:
                raise ValueError(f"'run.{dotted}' is set by the comparison: {remedy}, and remove it here")
        return self

    def resolved(self) -> dict[str, Any]:
        """Return plain values for YAML and JSON, with every default."""
        return self.model_dump(mode="json")

    @property
    def torch_threads(self) -> int:
        """Torch threads of each run."""
        import os

        return self.threads or max(1, (os.cpu_count() or 1) // self.jobs)


def parse_comparison(raw: Mapping[str, Any], source: str = "config") -> ComparisonSettings:
    """Validate the keys of a comparison; `grid.Grid` validates its runs.

    Raises:
        DudeError: lists every mistake, each with its key and remedy.
    """
    return parse(ComparisonSettings, raw, source)


def load_comparison(
    path: str | Path, overrides: Iterable[str] = (), notes: list[str] | None = None
) -> ComparisonSettings:
    """Read the YAML at `path`, apply the `key=value` overrides, and validate it; `notes` as in `override`."""
    raw = json_copy(read_yaml(path))
    if "methods" not in raw:
        more = " (a config of a single run: use `dude train`)" if "method" in raw else ""
        raise DudeError(f"{path}: not a comparison, it has no 'methods'{more}. Name some: methods: [lora, dude].")
    if isinstance(raw.get("run"), Mapping):
        raw["run"] = override(
            raw["run"], (), notes
        )  # `model: mini` in its long form, so that run.model.dtype=... finds it
    return parse_comparison(override(raw, overrides, notes), str(path))
