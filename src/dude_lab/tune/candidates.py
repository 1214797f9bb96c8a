"""The candidates of `dude tune`: a comparison made of a run's YAML, or read from that of a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dude_peft.errors import DudeError, did_you_mean

from ..config.compare_settings import ComparisonSettings, load_comparison, parse_comparison
from ..config.run_settings import RunSettings
from ..config.yaml_file import json_copy, override, parse_run
from ..config.yaml_reader import read_yaml
from ..data.catalogue import SETS
from ..methods import METHODS

RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
FULL_RATES = tuple(rate / 10 for rate in RATES)  # full fine-tuning takes about a tenth of LoRA's rate
QUESTIONS = 300  # of the validation split, each task, at most
VALIDATION = "validation"
SEED = 0  # of the runs: another than a run's own, whose result is still to be measured
# Keys of `train` without a meaning for a candidate: it ends when the halving says so, and is reported by `dude tune`.
OF_ONE_EVALUATION = ("every", "limit_before", "split", "skip", "text", "text_limit")
# Every step is logged, since the candidates are compared by the loss of each.
OF_ONE_RUN = ("log_every", "early_stopping_patience", "load_best_model_at_end", "metric_for_best_model", "report_to")


@dataclass(frozen=True)
class Candidates:
    """What `dude tune` chooses from.

    Attributes:
        comparison: methods, ranks and learning rates; its search runs are the candidates.
        run: the YAML of the run that the choice is for, without method and learning rate.
        output: folder of the run that the choice is for.
    """

    comparison: ComparisonSettings
    run: dict[str, Any]
    output: Path


@dataclass(frozen=True)
class TuneOptions:
    """The options of `dude tune`, which come before the YAML.

    Attributes:
        methods, ranks, rates: names, ranks and learning rates to choose from; empty: those of the YAML, and for a run
            `RATES`.
        metric: `accuracy` on the validation split of `eval`, or the `loss` on `data.validation`; None: the accuracy if
            `eval` has questions with a validation split.
        output: folder of the tuning; None: that of the comparison, or of the run with `-tune`.
        jobs, threads: runs in parallel, and torch threads of each; None: as in the comparison, or one run.
    """

    methods: Sequence[str] = ()
    ranks: Sequence[int] = ()
    rates: Sequence[float] = ()
    metric: str | None = None
    output: Path | None = None
    jobs: int | None = None
    threads: int | None = None

    def check(self) -> None:
        """Check the names.

        Raises:
            DudeError: no such method or metric.
        """
        for name in self.methods:
            if name not in METHODS:
                hint = did_you_mean(name, METHODS)
                raise DudeError(f"--methods: no method is called '{name}'.{hint} Known: {', '.join(METHODS)}.")
        if self.metric not in (None, "accuracy", "loss"):
            raise DudeError(f"--metric: accuracy or loss, got '{self.metric}'.")

    @property
    def changes(self) -> dict[str, Any]:
        """The keys of a comparison's YAML that these options replace as they are."""
        values = {"ranks": list(self.ranks), "jobs": self.jobs, "threads": self.threads}
        return {key: value for key, value in values.items() if value}


def load_candidates(
    config: Path,
    overrides: Iterable[str] = (),
    options: TuneOptions = TuneOptions(),
    notes: list[str] | None = None,
) -> Candidates:
    """Return the candidates of a run's YAML, or of a comparison's.

    Args:
        config: the YAML file.
        overrides: `key=value`, as for `dude train` or `dude compare`.
        options: those of the command.
        notes: as in `yaml_file.override`.

    Raises:
        DudeError: a mistake in the YAML or the options.
    """
    raw = read_yaml(config)
    options.check()
    if "methods" in raw:
        return _of_comparison(config, overrides, options, notes)
    return _of_run(config, override(raw, overrides, notes), options, notes)


def _of_run(config: Path, raw: dict[str, Any], options: TuneOptions, notes: list[str] | None) -> Candidates:
    settings = parse_run(raw, str(config))
    section: dict[str, Any] = json_copy(raw["method"])
    own = section.pop("name")
    names = list(options.methods) or [own]
    known = {key for name in names for key in METHODS[name].settings.model_fields}
    if options.ranks and "r" not in known:
        raise DudeError(f"--ranks: none of the methods has a rank ({', '.join(names)}). Leave it out.")
    entries = [{"name": name, "learning_rates": list(options.rates or _rates(name))} for name in names]
    run = {key: value for key, value in raw.items() if key not in ("method", "output")}
    train = dict(run.get("train") or {})
    for key in ("seed", "learning_rate", *OF_ONE_RUN):
        train.pop(key, None)
    search, asked = _search(settings, options.metric, str(config))
    if search is not None and notes is not None and (shared := _also_asked(settings, search["limit"])):
        notes.append(
            f"{shared} is evaluated on its validation split, whose first {search['limit']} questions choose here. For "
            f"a result on others, set eval.skip={search['limit']}"
        )
    candidate: dict[str, Any] = {**json_copy(run), "train": train}
    candidate.pop("eval", None)
    if asked is not None:
        candidate["eval"] = asked
    comparison = parse_comparison(
        {
            "run": candidate,
            "methods": entries,
            "shared": {key: value for key, value in section.items() if key in known},
            "seeds": [settings.train.seed],
            "learning_rates": list(options.rates or RATES),
            "search": {"seed": SEED if settings.train.seed != SEED else SEED + 1, "eval": search},
            "output": str(options.output or Path(f"{settings.output}-tune")),
            **options.changes,
        },
        str(config),
    )
    return Candidates(comparison, run, settings.output)


def _of_comparison(config: Path, overrides: Iterable[str], options: TuneOptions, notes: list[str] | None) -> Candidates:
    settings = load_comparison(config, overrides, notes)
    raw: dict[str, Any] = json_copy(settings.resolved()) | options.changes
    if options.methods:
        there = {_name(entry): entry for entry in raw["methods"]}
        raw["methods"] = [there.get(name, name) for name in options.methods]
    if options.rates:
        raw["learning_rates"] = list(options.rates)
        raw["methods"] = [_without_rates(entry) for entry in raw["methods"]]
    if options.metric == "loss":
        raw["search"]["eval"] = None
    if options.output is not None:
        raw["output"] = str(options.output)
    if isinstance(train := raw["run"].get("train"), dict):
        train.pop("log_every", None)
    comparison = parse_comparison(raw, str(config))
    run = json_copy(settings.run)
    run["train"] = {**(run.get("train") or {}), "seed": comparison.seeds[0]}
    return Candidates(comparison, run, Path(f"{comparison.output}-best"))


def _rates(method: str) -> tuple[float, ...]:
    return FULL_RATES if method == "full" else RATES


def _name(entry: str | Mapping[str, Any]) -> str:
    return entry if isinstance(entry, str) else str(entry["name"])


def _without_rates(entry: str | Mapping[str, Any]) -> Any:
    return entry if isinstance(entry, str) else {key: value for key, value in entry.items() if key != "learning_rates"}


def _search(settings: RunSettings, metric: str | None, source: str) -> tuple[dict[str, Any] | None, Any]:
    """Return `search.eval` of the comparison, and `run.eval`, by what the candidates are evaluated on."""
    asked = settings.eval
    splits = asked is not None and (asked.suite is not None or asked.tasks is not None)
    if metric != "loss" and splits:
        assert asked is not None
        limit = min(QUESTIONS, asked.limit or QUESTIONS)
        kept = asked.model_dump(mode="json", exclude_unset=True)
        return {"limit": limit}, {key: value for key, value in kept.items() if key not in OF_ONE_EVALUATION}
    if metric == "accuracy":
        found = "has questions of its own, without a validation split" if asked and asked.has_tasks else "has none"
        raise DudeError(
            f"{source}: --metric accuracy: needs questions with a validation split (eval.suite), and 'eval' {found}. "
            "Use --metric loss, with data.validation."
        )
    if settings.data.validation is None:
        what = "eval.suite is not set" if not splits else "--metric is loss"
        raise DudeError(
            f"{source}: nothing to choose by: data.validation is not set, and {what}. Set one of them, for instance "
            "data.validation=0.05."
        )
    return None, None


def _also_asked(settings: RunSettings, limit: int) -> str:
    """Return the data sets whose first questions choose, and are a part of the run's own evaluation; empty if none."""
    asked = settings.eval
    if asked is None or (asked.skip or 0) >= limit:
        return ""
    split = asked.split
    return ", ".join(name for name in asked.names if name in SETS and (split or SETS[name].eval_split) == VALIDATION)
