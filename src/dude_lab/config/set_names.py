"""The names of the data sets: all that a config needs in order to be checked, without importing what reads them."""

from __future__ import annotations

COMMONSENSE = ("boolq", "piqa", "siqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
"""The eight evaluation sets of the commonsense suite."""

GPQA = ("gpqa_main", "gpqa_diamond", "gpqa_extended")
GPQA_BOTH = "gpqa_main_extended"
"""The two that the DuDe paper fine-tunes on, one after the other; questions in both stand there twice."""

MINI_COMMONSENSE = tuple(f"mini_{name}" for name in COMMONSENSE)

GENERATION_SETS = frozenset({"gsm8k", "metamathqa", "mini_gsm", "mini_metamath"})
"""Answered with free text; all the others are multiple choice."""

REAL_SETS = ("gsm8k", "metamathqa", "commonsense_qa", *COMMONSENSE, "mmlu", *GPQA, GPQA_BOTH)
MINI_SETS = ("mini_gsm", "mini_metamath", "mini_csqa", *MINI_COMMONSENSE, "mini_mmlu", "mini_gpqa")
SET_NAMES = frozenset(REAL_SETS + MINI_SETS)
