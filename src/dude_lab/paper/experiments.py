"""The paper's experiments by name: the runs each needs, the layout of its table, and what the paper claims of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from dude_peft.errors import DudeError, did_you_mean

Scale = Literal["mini", "paper"]
FOUR = ("lora", "dora", "pissa", "dude")
RIVALS = FOUR[:3]
COMMONSENSE = ("boolq", "piqa", "siqa", "hellaswag", "winogrande", "arc_e", "arc_c", "obqa")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: in `published.yaml`.
        title: as the table writes it.
        task: whose metric it is, without the `mini_` of the generated sets; None for the headline.
        chance: the share that guessing has right; None where the table does not show it.
    """

    key: str
    title: str
    task: str | None = None
    chance: float | None = None


@dataclass(frozen=True)
class Selection:
    """Some runs of a study.

    Attributes:
        name: of the selection; results are kept under it.
        studies: scale -> the YAML file in `recipes/SCALE/` without its suffix; other scales have none of it.
        methods: which of its methods; all where empty.
        ranks: which of its ranks; all where empty.
        first_seed: at the paper's scale, the first seed alone.
        published: block of `published.yaml`; None where the paper prints no numbers.
        columns: of its table.
        calibration: the recipe's methods `for_calibration` too.
        above: with the next learning rate above the one that the recipe's search chooses.
    """

    name: str
    studies: dict[str, str]
    methods: tuple[str, ...]
    columns: tuple[Column, ...]
    published: str | None
    ranks: tuple[int, ...] = ()
    first_seed: bool = False
    calibration: bool = False
    above: bool = False


def _same(study: str) -> dict[str, str]:
    return {"mini": study, "paper": study}


_SETS = {"arc_e": "arc_easy", "arc_c": "arc_challenge", "obqa": "openbookqa"}
_MMLU = (
    Column("humanities", "Humanities", "mmlu_humanities"),
    Column("social_science", "Social science", "mmlu_social_sciences"),
    Column("stem", "STEM", "mmlu_stem"),
    Column("other", "Other", "mmlu_other"),
    Column("avg", "Average"),
    Column("weighted_avg", "Weighted", "mmlu_weighted"),
)

_GUESSED = {"boolq": 1 / 2, "piqa": 1 / 2, "siqa": 1 / 3, "hellaswag": 1 / 4, "winogrande": 1 / 2, "arc_e": 1 / 4,
            "arc_c": 1 / 4, "obqa": 1 / 4}  # fmt: skip


def _calibration(study: str, *columns: Column, ranks: tuple[int, ...] = ()) -> Selection:
    """Full fine-tuning, LoRA at rank 2, and the four at rank 16, all asked what the study asks."""
    name = f"calibration-{study.removesuffix('_direct')}"
    return Selection(name, {"mini": study}, ("full", *FOUR), columns, None, ranks=ranks, calibration=True)


SELECTIONS = {
    one.name: one
    for one in (
        Selection(
            "commonsense",
            _same("commonsense"),
            FOUR,
            (*(Column(key, key, _SETS.get(key, key)) for key in COMMONSENSE), Column("avg", "Average")),
            "commonsense",
        ),
        Selection("gpqa", _same("gpqa"), FOUR, (Column("score", "GPQA"),), "gpqa"),
        Selection("ranks", _same("mmlu"), FOUR, _MMLU, "mmlu"),
        Selection("variants-mmlu", _same("mmlu"), (*FOUR, "dude_a", "dude_b"), _MMLU, "mmlu", ranks=(32,)),
        Selection(
            "variants-metamath",
            _same("gsm"),
            (*FOUR, "dude_a", "dude_b"),
            (Column("accuracy", "GSM8K"),),
            "gsm",
            first_seed=True,
        ),
        # the same questions after the set's own problems: not of the paper, so its numbers do not stand beside
        Selection(
            "variants-gsm",
            {"mini": "gsm_direct"},
            (*FOUR, "dude_a", "dude_b"),
            (Column("accuracy", "GSM8K"),),
            None,
            ranks=(16,),
        ),
        Selection("seeds-metamath", _same("gsm"), FOUR, (Column("mean", "GSM8K, mean over seeds"),), "seeds"),
        Selection(
            "seeds-gsm", {"mini": "gsm_direct"}, FOUR, (Column("mean", "GSM8K, mean over seeds"),), None, ranks=(16,)
        ),
        Selection(
            "curves",
            {"mini": "gsm", "paper": "curves"},
            ("full", *FOUR),
            (Column("accuracy", "GSM8K, last step"),),
            None,
        ),
        Selection("above-gpqa", {"mini": "gpqa"}, FOUR, (Column("score", "GPQA"),), None, above=True),
        Selection("above-mmlu", {"mini": "mmlu"}, FOUR, (Column("avg", "Average"),), None, ranks=(16,), above=True),
        _calibration("gsm_direct", Column("accuracy", "mini_gsm", chance=0.0)),
        _calibration("csqa", Column("score", "mini_csqa", chance=1 / 5)),
        _calibration(
            "commonsense",
            *(Column(key, key, _SETS.get(key, key), _GUESSED[key]) for key in COMMONSENSE),
            Column("avg", "Average", chance=sum(_GUESSED.values()) / len(_GUESSED)),
        ),
        _calibration("gpqa", Column("score", "mini_gpqa", chance=1 / 4)),
        _calibration("mmlu", Column("avg", "mini_mmlu", chance=1 / 4), ranks=(2, 16)),
    )
}


@dataclass(frozen=True)
class Experiment:
    """A table, a figure, or the section on seeds.

    Attributes:
        name: as the command takes it.
        title: for a person.
        question: what it asks.
        selections: names of the runs that it is made of.
        figure: which drawing, for `figures.draw`; None for a table alone.
        claims: names in `claims.CLAIMS`.
        scales: that have it, if they have its selections.
    """

    name: str
    title: str
    question: str
    selections: tuple[str, ...]
    claims: tuple[str, ...]
    figure: Literal["curves", "ranks", "seeds", "rates"] | None = None
    scales: tuple[Scale, ...] = ("mini", "paper")


EXPERIMENTS = {
    one.name: one
    for one in (
        Experiment(
            "table1",
            "Table 1: commonsense",
            "Which method answers eight commonsense sets best after one fine-tuning on CommonsenseQA?",
            ("commonsense",),
            ("best",),
        ),
        Experiment(
            "table2", "Table 2: GPQA", "Which method does best on hard, specialised questions?", ("gpqa",), ("best",)
        ),
        Experiment(
            "table3",
            "Table 3: ranks on MMLU",
            "Does DuDe lead at every rank, and does its lead grow with the rank?",
            ("ranks",),
            ("best_at_each_rank", "lead_grows"),
        ),
        Experiment(
            "table4",
            "Table 4: where the singular values start",
            "Do the starts DuDe-A and DuDe-B (Eq. 10, 11) do better than DuDe's?",
            ("variants-metamath", "variants-gsm", "variants-mmlu"),
            ("best", "variants"),
        ),
        Experiment(
            "figure2",
            "Figure 2: along the training",
            "Does DuDe learn faster, nearer to full fine-tuning, and lead all the way?",
            ("curves",),
            ("faster", "near_full", "ahead_throughout", "best"),
            "curves",
        ),
        Experiment(
            "figure3",
            "Figure 3: accuracy against rank",
            "Table 3 as a picture: average and weighted average against rank.",
            ("ranks",),
            (),
            "ranks",
        ),
        Experiment(
            "figure4",
            "Figure 4: accuracy with each seed",
            "The section on seeds as a picture.",
            ("seeds-metamath", "seeds-gsm"),
            (),
            "seeds",
        ),
        Experiment(
            "seeds",
            "Section 4.5: five seeds",
            "Does DuDe lead whatever the seed, and does it vary less?",
            ("seeds-metamath", "seeds-gsm"),
            ("best", "worst_above_best", "steadier"),
        ),
        Experiment(
            "calibration",
            "Calibration of the generated sets",
            "Not of the paper: can the generated sets tell methods apart?",
            ("calibration-csqa", "calibration-commonsense", "calibration-gpqa", "calibration-mmlu", "calibration-gsm"),
            ("ladder",),
        ),
        Experiment(
            "rates",
            "Learning rates: what a wrong one costs",
            "Not of the paper: how much does a method lose with a rate that is not its best? By the searches (seed 0, "
            "validation), and by whole runs with the next rate above the best (five seeds).",
            ("commonsense", "gpqa", "ranks", "above-gpqa", "above-mmlu"),
            ("forgiving", "keeps_more"),
            "rates",
            ("mini",),
        ),
    )
}
ALL = "all"


def at(scale: Scale) -> tuple[Experiment, ...]:
    """Every experiment that a scale has, in the paper's order, with the selections that it has there."""
    here = {
        one: tuple(part for part in one.selections if scale in SELECTIONS[part].studies)
        for one in EXPERIMENTS.values()
        if scale in one.scales
    }
    return tuple(replace(one, selections=parts) for one, parts in here.items() if parts)


def chosen(name: str, scale: Scale) -> tuple[Experiment, ...]:
    """The experiment called `name`, or with `all` every one that the scale has.

    Raises:
        DudeError: there is none.
    """
    known = {one.name: one for one in at(scale)}
    if name == ALL:
        return tuple(known.values())
    if name not in known:
        names = (*known, ALL)
        there = f" at scale {scale}" if name in EXPERIMENTS else ""
        raise DudeError(
            f"no experiment is called {name!r}{there}.{did_you_mean(name, names)} Known: {', '.join(names)}."
        )
    return (known[name],)
