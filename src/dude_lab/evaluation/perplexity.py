"""The perplexity of a plain text, by lm-evaluation-harness: what fine-tuning on something else costs."""

from __future__ import annotations

import math
from statistics import stdev
from typing import Any

from lm_eval.api.instance import Instance

from ..config.eval_settings import EvalSettings
from ..data.texts import passages, text_name
from .language_model import ModelUnderTest, replaced
from .result import Metric

PASSAGE = 2000  # characters; passages are scored by themselves, so that the values are a sample with a standard error


def text_metric(lm: ModelUnderTest, settings: EvalSettings) -> Metric:
    """Return the word perplexity of `settings.text`: exp(-log-likelihood / words), with words split at white space.

    Each passage of some 2,000 characters is scored by itself, after the tokenizer's beginning or end token. The
    standard error is that of the passages.

    Raises:
        DudeError: the text cannot be read.
    """
    source = settings.text
    assert source is not None
    found = passages(source, settings.root, limit=settings.text_limit, length=PASSAGE)
    words = [max(1, len(one.split())) for one in found]
    scores = log_likelihoods(lm, found)
    per_word = -sum(scores) / sum(words)
    value = math.exp(per_word)
    # of the ratio of two sums, by the delta method
    residuals = [-score - per_word * count for score, count in zip(scores, words, strict=True)]
    error = value * stdev(residuals) * math.sqrt(len(found)) / sum(words) if len(found) > 1 else math.nan
    return Metric(text_name(source), "word_perplexity", value, error, sum(words), 0, "perplexity", "test")


def log_likelihoods(lm: ModelUnderTest, texts: list[str]) -> list[float]:
    """Return the log-likelihood of each text, in nats."""
    requests: list[Any] = [
        Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=0, metadata=("text", k, 1))
        for k, text in enumerate(texts)
    ]
    with replaced(lm, "_asked", []), replaced(lm, "_shares_prefix", False):
        return [float(one) for one in lm.loglikelihood_rolling(requests, disable_tqdm=True)]
