"""Silence for other libraries: their bars and notices would run through ours."""

from __future__ import annotations

import logging
import os
import warnings


def prepare_environment() -> None:
    """Set what libraries read when they are imported; call before importing them. A user's own setting stands."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def quiet() -> None:
    """Errors only, and no bars, from transformers, datasets, TRL and PEFT."""
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    for name in ("trl", "peft", "accelerate", "lm_eval"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for category in (FutureWarning, UserWarning):
        warnings.filterwarnings(
            "ignore", category=category, module=r"(transformers|trl|peft|torch|accelerate|datasets)\b"
        )
