"""The paper's experiments by name: the comparisons each needs, the columns of its tables, and its claims."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from dude_peft.errors import DudeError, did_you_mean

Scale = Literal["mini", "small", "paper"]
SCALES: dict[str, str] = {
    "mini": "the embedded model and generated data, no network",
    "small": "SmolLM2-135M and the real data sets, CPU",
    "paper": "the paper's models and data, GPUs",
}
FOUR = ("lora", "dora", "pissa", "dude")
BASELINES = FOUR[:3]
VALIDATION_LOSS = "validation loss"
COMMONSENSE = ("boolq", "piqa", "siqa", "hellaswag", "winogrande", "arc_e", "arc_c", "obqa")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: its key in `published.yaml`.
        title: heading.
        task: task whose metric is shown, without the `mini_` of the generated sets, or `VALIDATION_LOSS`; None: the
            headline metric.
        chance: accuracy of guessing; None: not shown.
        percent: whether the value is a share, shown in %; a perplexity or a loss is not.
    """

    key: str
    title: str
    task: str | None = None
    chance: float | None = None
    percent: bool = True


@dataclass(frozen=True)
class ComparisonSpec:
    """Which runs of a recipe are compared, and the columns of their table.

    Attributes:
        name: name of the comparison.
        recipes: scale -> name of the YAML file in `recipes/SCALE/`; a scale that is not listed does not have it.
        methods: methods of the recipe to compare; empty: all.
        columns: columns of the table.
        published: block of `published.yaml`; None if the paper prints no numbers.
        ranks: ranks of the recipe to compare; empty: all.
        first_seed: at the scale of the paper, use the first seed only.
        calibration: add the recipe's methods `for_calibration`.
        above: use the next learning rate above the one that the recipe's search chooses.
        learning_rate: use it for every row, without a search.
    """

    name: str
    recipes: dict[str, str]
    methods: tuple[str, ...]
    columns: tuple[Column, ...]
    published: str | None
    ranks: tuple[int, ...] = ()
    first_seed: bool = False
    calibration: bool = False
    above: bool = False
    learning_rate: float | None = None

    @property
    def asked(self) -> str:
        """What its models are asked, as the paper calls it."""
        recipe = next(iter(self.recipes.values()))
        names = {"commonsense": "Commonsense", "mmlu": "MMLU"}  # their columns are those of the sets
        first = next(column for column in self.columns if column.percent)
        return names.get(recipe.partition("_")[0], first.title.partition(",")[0])


def _same(recipe: str) -> dict[str, str]:
    return {"mini": recipe, "small": recipe, "paper": recipe}


_SETS = {"arc_e": "arc_easy", "arc_c": "arc_challenge", "obqa": "openbookqa"}
_EIGHT_SETS = (*(Column(key, key, _SETS.get(key, key)) for key in COMMONSENSE), Column("avg", "Average"))
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


def _calibration(recipe: str, *columns: Column, ranks: tuple[int, ...] = ()) -> ComparisonSpec:
    """Full fine-tuning, LoRA at rank 2, and the four methods at rank 16, on the questions of the recipe."""
    name = f"calibration-{recipe.removesuffix('_direct')}"
    return ComparisonSpec(name, {"mini": recipe}, ("full", *FOUR), columns, None, ranks=ranks, calibration=True)


COMPARISONS = {
    one.name: one
    for one in (
        ComparisonSpec(
            "commonsense",
            _same("commonsense"),
            ("full", *FOUR),  # where the recipe has it
            _EIGHT_SETS,
            "commonsense",
        ),
        # Where a search finds two rates equally good, chance decides between them: here all methods have one.
        ComparisonSpec(
            "commonsense-lr0.003",
            {"small": "commonsense"},
            FOUR,
            _EIGHT_SETS,
            None,
            learning_rate=0.003,
        ),
        ComparisonSpec("gpqa", {"mini": "gpqa", "paper": "gpqa"}, FOUR, (Column("score", "GPQA"),), "gpqa"),
        ComparisonSpec("ranks", _same("mmlu"), FOUR, _MMLU, "mmlu"),
        ComparisonSpec(
            "ranks-csqa", {"small": "csqa"}, FOUR, (Column("score", "CommonsenseQA", "commonsense_qa"),), None
        ),
        ComparisonSpec(
            "variants-mmlu", {"mini": "mmlu", "paper": "mmlu"}, (*FOUR, "dude_a", "dude_b"), _MMLU, "mmlu", ranks=(32,)
        ),
        ComparisonSpec(
            "variants-metamath",
            {"mini": "gsm", "paper": "gsm"},
            (*FOUR, "dude_a", "dude_b"),
            (Column("accuracy", "GSM8K"),),
            "gsm",
            first_seed=True,
        ),
        # the same questions after training on the set's own problems; not in the paper, so without its numbers
        ComparisonSpec(
            "variants-gsm",
            {"mini": "gsm_direct"},
            (*FOUR, "dude_a", "dude_b"),
            (Column("accuracy", "GSM8K"),),
            None,
            ranks=(16,),
        ),
        ComparisonSpec(
            "variants-commonsense",
            {"small": "commonsense_variants"},
            (*FOUR, "dude_a", "dude_b"),
            _EIGHT_SETS,
            None,
        ),
        ComparisonSpec(
            "seeds-metamath",
            {"mini": "gsm", "paper": "gsm"},
            FOUR,
            (Column("mean", "GSM8K, mean over seeds"),),
            "seeds",
        ),
        ComparisonSpec(
            "seeds-commonsense", {"small": "commonsense"}, FOUR, (Column("avg", "Average of eight sets"),), None
        ),
        ComparisonSpec(
            "seeds-gsm", {"mini": "gsm_direct"}, FOUR, (Column("mean", "GSM8K, mean over seeds"),), None, ranks=(16,)
        ),
        ComparisonSpec(
            "curves",
            {"mini": "gsm", "small": "gsm", "paper": "curves"},
            ("full", *FOUR),
            (Column("loss", "validation loss", VALIDATION_LOSS, percent=False), Column("accuracy", "GSM8K, last step")),
            None,
        ),
        ComparisonSpec(
            "above-csqa",
            {"small": "csqa_above"},
            FOUR,
            (Column("score", "CommonsenseQA", "commonsense_qa"),),
            None,
            above=True,
        ),
        *(
            ComparisonSpec(
                name,
                {"small": "forgetting"},
                methods,
                (
                    Column("arc_e", "ARC-Easy", "arc_easy"),
                    Column("arc_c", "ARC-Challenge", "arc_challenge"),
                    Column("wikitext", "WikiText-2, word perplexity", "wikitext2", percent=False),
                    Column("csqa", "CommonsenseQA", "commonsense_qa"),
                ),
                None,
                learning_rate=rate,
            )
            for name, methods, rate in (("forgetting", ("full", *FOUR), None), ("forgetting-lr0.003", FOUR, 0.003))
        ),
        *(
            ComparisonSpec(
                name,
                dict.fromkeys(scales, "ablation"),
                ("dude", "dude_random", "pissa", "pissa_random"),
                (Column("score", "Accuracy"),),
                None,
                above=above,
                learning_rate=rate,
            )
            for name, scales, above, rate in (
                ("ablation", ("mini", "small"), False, None),
                ("ablation-above", ("mini", "small"), True, None),
                # On mini the best rates are all equal, so there the two above are comparisons at one rate.
                ("ablation-lr0.003", ("small",), False, 0.003),
                ("ablation-lr0.01", ("small",), False, 0.01),
            )
        ),
        ComparisonSpec("above-gpqa", {"mini": "gpqa"}, FOUR, (Column("score", "GPQA"),), None, above=True),
        ComparisonSpec(
            "above-mmlu", {"mini": "mmlu"}, FOUR, (Column("avg", "Average"),), None, ranks=(16,), above=True
        ),
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
        name: name on the command line.
        title: heading.
        question: what it asks.
        comparisons: names in `COMPARISONS`.
        claims: names in `claims.CLAIMS`.
        figure: which figure to draw (`paper_figures.draw`); None: tables only.
        scales: scales that may have it; a scale has it if it has one of its comparisons.
    """

    name: str
    title: str
    question: str
    comparisons: tuple[str, ...]
    claims: tuple[str, ...]
    figure: Literal["curves", "ranks", "seeds", "rates"] | None = None
    scales: tuple[Scale, ...] = ("mini", "small", "paper")


EXPERIMENTS = {
    one.name: one
    for one in (
        Experiment(
            "table1",
            "Table 1: commonsense",
            "Which method answers eight commonsense sets best after one fine-tuning on CommonsenseQA?",
            ("commonsense", "commonsense-lr0.003"),
            ("best",),
        ),
        Experiment(
            "table2", "Table 2: GPQA", "Which method does best on hard, specialised questions?", ("gpqa",), ("best",)
        ),
        Experiment(
            "table3",
            "Table 3: ranks on MMLU",
            "Is DuDe best at every rank, and does its margin grow with the rank?",
            ("ranks-csqa", "ranks"),
            ("best_at_each_rank", "margin_grows"),
        ),
        Experiment(
            "table4",
            "Table 4: how the singular values are initialised",
            "Are the initialisations DuDe-A and DuDe-B (Eq. 10, 11) better than DuDe's?",
            ("variants-commonsense", "variants-metamath", "variants-gsm", "variants-mmlu"),
            ("best", "variants"),
        ),
        Experiment(
            "figure2",
            "Figure 2: during training",
            "Does DuDe learn faster, closer to full fine-tuning, and is it more accurate throughout?",
            ("curves",),
            ("faster", "near_full", "lower_validation_loss", "higher_throughout", "best"),
            "curves",
        ),
        Experiment(
            "figure3",
            "Figure 3: accuracy against rank",
            "Table 3 as a picture: average and weighted average against rank.",
            ("ranks-csqa", "ranks"),
            (),
            "ranks",
        ),
        Experiment(
            "figure4",
            "Figure 4: accuracy with each seed",
            "The section on seeds as a picture.",
            ("seeds-commonsense", "seeds-metamath", "seeds-gsm"),
            (),
            "seeds",
        ),
        Experiment(
            "seeds",
            "Section 4.5: five seeds",
            "Is DuDe best whatever the seed, and does it vary less?",
            ("seeds-commonsense", "seeds-metamath", "seeds-gsm"),
            ("best", "worst_above_best", "steadier"),
        ),
        Experiment(
            "calibration",
            "Calibration of the generated sets",
            "Not in the paper: can the generated sets distinguish methods?",
            ("calibration-csqa", "calibration-commonsense", "calibration-gpqa", "calibration-mmlu", "calibration-gsm"),
            ("ladder",),
        ),
        Experiment(
            "ablation",
            "Ablation: which part does the work?",
            "Not in the paper: {exact gradient, norm as a constant} x {singular vectors of the weight, random ones} x "
            "{magnitude, none}, at the best learning rate of each, at the next larger one, and at one rate for all "
            "where the best ones differ.",
            ("ablation", "ablation-above", "ablation-lr0.003", "ablation-lr0.01"),
            ("parts_help", "parts_interact"),
            scales=("mini", "small"),
        ),
        Experiment(
            "forgetting",
            "Forgetting: what was known before",
            "Not in the paper: what does fine-tuning on CommonsenseQA cost elsewhere, beside what it gains? At the "
            "best learning rate of each method, and at one for all.",
            ("forgetting", "forgetting-lr0.003"),
            ("forgets_less",),
            scales=("small",),
        ),
        Experiment(
            "rates",
            "Learning rates: what a wrong one costs",
            "Not in the paper: how much does a method lose with a rate that is not its best? By the searches (seed 0, "
            "validation), and by full runs with the next rate above the best (five seeds).",
            ("commonsense", "gpqa", "ranks-csqa", "ranks", "above-csqa", "above-gpqa", "above-mmlu"),
            ("forgiving", "keeps_more"),
            "rates",
            ("mini", "small"),
        ),
    )
}
ALL = "all"


def spec_of(comparison: str) -> ComparisonSpec | None:
    """Return the specification of a comparison; None if it has another name.

    A comparison of several models has one for each, with the model's name at the end.
    """
    name = max((one for one in COMPARISONS if f"{comparison}-".startswith(f"{one}-")), key=len, default=None)
    return COMPARISONS[name] if name else None


def at(scale: Scale) -> tuple[Experiment, ...]:
    """Return the experiments that a scale has, in the paper's order, with the comparisons that they have there."""
    here = {
        one: tuple(name for name in one.comparisons if scale in COMPARISONS[name].recipes)
        for one in EXPERIMENTS.values()
        if scale in one.scales
    }
    return tuple(replace(one, comparisons=comparisons) for one, comparisons in here.items() if comparisons)


def chosen(name: str, scale: Scale) -> tuple[Experiment, ...]:
    """Return the experiment called `name`, or all that the scale has.

    Raises:
        DudeError: the scale has no such experiment.
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
