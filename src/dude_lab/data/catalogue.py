"""The data sets that have names: where each one's files are, its splits, and how it is usually asked."""

from __future__ import annotations

from dataclasses import replace

from ..config.set_names import COMMONSENSE, GPQA, GPQA_BOTH
from . import parsers, readers
from .data_files import read_rows
from .sets import Hub, NamedSet

_ARC_PARTS = {"train": "Train", "validation": "Dev", "test": "Test"}

_MINI = {
    "mini_gsm": "gsm8k",
    "mini_metamath": "metamathqa",
    "mini_csqa": "commonsense_qa",
    **{f"mini_{name}": name for name in COMMONSENSE},
    "mini_mmlu": "mmlu",
    "mini_gpqa": "gpqa_diamond",
}


def all_sets() -> list[NamedSet]:
    """The published sets, then the generated ones."""
    published = _published()
    by_name = {one.name: one for one in published}
    return [*published, *(_mini(mini, by_name[name]) for mini, name in _MINI.items())]


def _published() -> list[NamedSet]:
    three = {"train": "train", "validation": "validation", "test": "test"}
    two = {"train": "train", "validation": "validation"}
    return [
        NamedSet(
            "gsm8k",
            parsers.gsm8k,
            {"train": ("train.jsonl",), "test": ("test.jsonl",)},
            Hub("openai/gsm8k", "main", {"train": "train", "test": "test"}),
            "train",
            "test",
            "train",
            protocol="generate",
            metric="exact_match",
        ),
        NamedSet(
            "metamathqa",
            parsers.metamathqa,
            {"train": ("MetaMathQA-395K.json", "train.jsonl", "sample.jsonl")},
            Hub("meta-math/MetaMathQA", None, {"train": "train"}),
            "train",
            "train",
            None,
            reader=read_rows,
            protocol="generate",
            metric="exact_match",
        ),
        NamedSet(
            "commonsense_qa",
            parsers.commonsense_qa,
            {"train": ("train_rand_split.jsonl",), "validation": ("dev_rand_split.jsonl",)},
            Hub("tau/commonsense_qa", None, two),
            "train",
            "validation",
            "train",
        ),
        NamedSet(
            "boolq",
            parsers.boolq,
            {"train": ("train.jsonl",), "validation": ("val.jsonl", "dev.jsonl")},
            Hub("google/boolq", None, two),
            "train",
            "validation",
            "train",
        ),
        NamedSet(
            "piqa",
            parsers.piqa,
            {"train": ("train.jsonl",), "validation": ("valid.jsonl",)},
            Hub("baber/piqa", None, two),
            "train",
            "validation",
            "train",
            reader=readers.with_labels("label"),
            metric="acc_norm",
        ),
        NamedSet(
            "siqa",
            parsers.siqa,
            {"train": ("train.jsonl",), "validation": ("dev.jsonl",)},
            Hub("lighteval/siqa", None, two),
            "train",
            "validation",
            "train",
            reader=readers.with_labels("label"),
        ),
        NamedSet(
            "hellaswag",
            parsers.hellaswag,
            {
                "train": ("hellaswag_train.jsonl",),
                # Whole and with its tags; whole without them; a part with them.
                "validation": ("hellaswag_val.jsonl", "hellaswag_val_full.txt", "hellaswag_val_1000.jsonl"),
            },
            Hub("Rowan/hellaswag", None, two),
            "train",
            "validation",
            "train",
            reader=readers.hellaswag,
            metric="acc_norm",
        ),
        NamedSet(
            "winogrande",
            parsers.winogrande,
            {"train": ("train_xl.jsonl",), "validation": ("dev.jsonl",)},
            Hub("allenai/winogrande", "winogrande_xl", two),
            "train",
            "validation",
            "train",
            reader=readers.with_labels("answer"),
        ),
        *(
            NamedSet(
                name,
                parsers.arc,
                {split: (f"{title}-{part}.jsonl",) for split, part in _ARC_PARTS.items()},
                Hub("allenai/ai2_arc", title, three),
                "train",
                "test",
                "train",
                metric="acc_norm",
            )
            for name, title in (("arc_easy", "ARC-Easy"), ("arc_challenge", "ARC-Challenge"))
        ),
        NamedSet(
            "openbookqa",
            parsers.openbookqa,
            {"train": ("train.jsonl",), "validation": ("dev.jsonl",), "test": ("test.jsonl",)},
            Hub("allenai/openbookqa", "main", three),
            "train",
            "test",
            "train",
            metric="acc_norm",
        ),
        NamedSet(
            "mmlu",
            parsers.mmlu,
            {"train": ("auxiliary_train/",), "validation": ("val/",), "dev": ("dev/",), "test": ("test/",)},
            Hub(
                "cais/mmlu",
                "all",
                {"train": "auxiliary_train", "validation": "validation", "dev": "dev", "test": "test"},
            ),
            "train",
            "test",
            "dev",
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
                "train",
                "train",
                None,
                reader=readers.gpqa,
                protocol="letter",
                folder="gpqa",
            )
            for name in GPQA
        ),
        NamedSet(
            GPQA_BOTH,
            parsers.gpqa,
            {"train": ("./",)},
            Hub("Idavidrein/gpqa", "gpqa_main+gpqa_extended", {"train": "train"}),
            "train",
            "train",
            None,
            reader=readers.gpqa_both,
            protocol="letter",
            folder="gpqa",
        ),
    ]


def _mini(name: str, real: NamedSet) -> NamedSet:
    """The generated set that stands for `real`: the same family, prompts and scores.

    None is asked by letter unless `protocol: letter` says so: a model as small as `mini` knows many answers, and binds
    no letters to them.
    """
    return replace(
        real,
        protocol="cloze" if real.protocol == "letter" else real.protocol,
        name=name,
        files={},
        hub=None,
        generated=True,
        train_split="train",
        eval_split="train" if name == "mini_metamath" else "test",
        fewshot_split="train",
        extra_splits=("train", "validation", "test"),
    )
