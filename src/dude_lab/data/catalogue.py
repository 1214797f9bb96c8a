"""The registry of named data sets: the files and splits of each, and how its questions are asked.

An entry here is all that a data set needs: `data.name`, `eval.suite`, the suites and the error messages read `SETS`.
"""

from __future__ import annotations

from dataclasses import replace

from dude_peft.errors import DudeError, did_you_mean, quote

from . import parsers, readers
from .data_files import read_rows
from .sets import Hub, NamedSet

_EMBEDDED = {
    "mini_gsm": "gsm8k",
    "mini_metamath": "metamathqa",
    "mini_csqa": "commonsense_qa",
    "mini_boolq": "boolq",
    "mini_piqa": "piqa",
    "mini_siqa": "siqa",
    "mini_hellaswag": "hellaswag",
    "mini_winogrande": "winogrande",
    "mini_arc_easy": "arc_easy",
    "mini_arc_challenge": "arc_challenge",
    "mini_openbookqa": "openbookqa",
    "mini_mmlu": "mmlu",
    "mini_gpqa": "gpqa_diamond",
}
"""Set that ships with the package -> the published set whose schema, prompts and metric it shares."""


_TWO = {"train": "train", "validation": "validation"}  # splits that have the same name on the hub
_THREE = {**_TWO, "test": "test"}

_PUBLISHED = (
    NamedSet(
        "gsm8k",
        parsers.gsm8k,
        {"train": ("train.jsonl",), "test": ("test.jsonl",)},
        Hub("openai/gsm8k", "main", {"train": "train", "test": "test"}),
        eval_split="test",
        protocol="generate",
        metric="exact_match",
    ),
    NamedSet(
        "metamathqa",
        parsers.metamathqa,
        {"train": ("MetaMathQA-395K.json", "train.jsonl", "sample.jsonl")},
        Hub("meta-math/MetaMathQA", None, {"train": "train"}),
        eval_split="",
        fewshot_split=None,
        reader=read_rows,
        protocol="generate",
        metric="exact_match",
    ),
    NamedSet(
        "commonsense_qa",
        parsers.commonsense_qa,
        {"train": ("train_rand_split.jsonl",), "validation": ("dev_rand_split.jsonl",)},
        Hub("tau/commonsense_qa", None, _TWO),
    ),
    NamedSet(
        "boolq",
        parsers.boolq,
        {"train": ("train.jsonl",), "validation": ("val.jsonl", "dev.jsonl")},
        Hub("google/boolq", None, _TWO),
        suites=("commonsense",),
    ),
    NamedSet(
        "piqa",
        parsers.piqa,
        {"train": ("train.jsonl",), "validation": ("valid.jsonl",)},
        Hub("baber/piqa", None, _TWO),
        reader=readers.with_labels("label"),
        metric="acc_norm",
        suites=("commonsense",),
    ),
    NamedSet(
        "siqa",
        parsers.siqa,
        {"train": ("train.jsonl",), "validation": ("dev.jsonl",)},
        Hub("lighteval/siqa", None, _TWO),
        reader=readers.with_labels("label"),
        suites=("commonsense",),
    ),
    NamedSet(
        "hellaswag",
        parsers.hellaswag,
        {
            "train": ("hellaswag_train.jsonl",),
            # All records with their tags; all without tags; some with tags.
            "validation": ("hellaswag_val.jsonl", "hellaswag_val_full.txt", "hellaswag_val_1000.jsonl"),
        },
        Hub("Rowan/hellaswag", None, _TWO),
        reader=readers.hellaswag,
        metric="acc_norm",
        suites=("commonsense",),
    ),
    NamedSet(
        "winogrande",
        parsers.winogrande,
        {"train": ("train_xl.jsonl",), "validation": ("dev.jsonl",)},
        Hub("allenai/winogrande", "winogrande_xl", _TWO),
        reader=readers.with_labels("answer"),
        suites=("commonsense",),
    ),
    *(
        NamedSet(
            name,
            parsers.arc,
            {
                "train": (f"{title}-Train.jsonl",),
                "validation": (f"{title}-Dev.jsonl",),
                "test": (f"{title}-Test.jsonl",),
            },
            Hub("allenai/ai2_arc", title, _THREE),
            eval_split="test",
            metric="acc_norm",
            suites=("commonsense",),
        )
        for name, title in (("arc_easy", "ARC-Easy"), ("arc_challenge", "ARC-Challenge"))
    ),
    NamedSet(
        "openbookqa",
        parsers.openbookqa,
        {"train": ("train.jsonl",), "validation": ("dev.jsonl",), "test": ("test.jsonl",)},
        Hub("allenai/openbookqa", "main", _THREE),
        eval_split="test",
        metric="acc_norm",
        suites=("commonsense",),
    ),
    NamedSet(
        "mmlu",
        parsers.mmlu,
        {"train": ("auxiliary_train/",), "validation": ("val/",), "dev": ("dev/",), "test": ("test/",)},
        Hub("cais/mmlu", "all", {**_THREE, "train": "auxiliary_train", "dev": "dev"}),
        eval_split="test",
        fewshot_split="dev",
        reader=readers.mmlu,
        protocol="letter",
        by_subject=True,
    ),
    *(
        NamedSet(
            name,
            parsers.gpqa,
            {"train": (f"{name}.csv",)},
            Hub("Idavidrein/gpqa", name, {"train": "train"}),
            eval_split="train",
            fewshot_split=None,
            reader=readers.gpqa,
            protocol="letter",
            folder="gpqa",
        )
        for name in ("gpqa_main", "gpqa_diamond", "gpqa_extended")
    ),
    # The training data of the DuDe paper: one after the other, a question that is in both twice.
    NamedSet(
        "gpqa_main_extended",
        parsers.gpqa,
        {"train": ("./",)},
        Hub("Idavidrein/gpqa", "gpqa_main+gpqa_extended", {"train": "train"}),
        eval_split="train",
        fewshot_split=None,
        reader=readers.gpqa_both,
        protocol="letter",
        folder="gpqa",
    ),
)


def _embedded(name: str, published: NamedSet) -> NamedSet:
    """Return the entry of a set that ships with the package.

    None is asked by letter unless `protocol: letter` says so: a model as small as `mini` knows many answers, but does
    not bind letters to them.
    """
    return replace(
        published,
        protocol="cloze" if published.protocol == "letter" else published.protocol,
        name=name,
        files={},
        hub=None,
        embedded=True,
        train_split="train",
        eval_split="test" if published.eval_split else "",
        fewshot_split="train",
        suites=("mini", *(f"mini_{suite}" for suite in published.suites)) if published.eval_split else (),
        extra_splits=("train", "validation", "test"),
    )


def _entries() -> dict[str, NamedSet]:
    published = {one.name: one for one in _PUBLISHED}
    return published | {name: _embedded(name, published[real]) for name, real in _EMBEDDED.items()}


SETS: dict[str, NamedSet] = _entries()
"""Name -> data set: the published sets, then those that ship with the package."""


def named_set(name: str) -> NamedSet:
    """Return the set called `name`.

    Raises:
        DudeError: no set has this name.
    """
    if name not in SETS:
        raise DudeError(f"no data set is called {quote(name)}.{did_you_mean(name, SETS)} Known: {', '.join(SETS)}.")
    return SETS[name]


def suites() -> dict[str, tuple[str, ...]]:
    """Return suite name -> its sets: the groups that entries name, then each set with an evaluation split by itself."""
    evaluated = [one for one in SETS.values() if one.eval_split]
    groups = dict.fromkeys(suite for one in evaluated for suite in one.suites)
    members = {suite: tuple(one.name for one in evaluated if suite in one.suites) for suite in groups}
    return members | {one.name: (one.name,) for one in evaluated}
