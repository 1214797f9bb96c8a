"""A transformers or PEFT model for lm-evaluation-harness; its state is restored after an evaluation."""

from __future__ import annotations

import contextlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import lm_eval.api.task
import numpy as np
import torch
import transformers
from lm_eval.api.model import CacheHook
from lm_eval.models.huggingface import HFLM
from tqdm import tqdm

from . import shared_prefix

Answer = tuple[float, bool]
Progress = Callable[[int, int, str], None]
"""Called with the number of finished requests, of all requests, and the current activity."""


class ModelUnderTest(HFLM):
    """A silent `HFLM` that reports its progress and counts the requests that exceed the context.

    Args:
        model: a causal language model, or a PEFT model of one.
        tokenizer: its tokenizer.
        batch_size: sequences in one forward.
        progress: called after each request.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int, progress: Progress | None) -> None:
        # The harness ties weights on loading, which could undo what a method untied.
        with replaced(model, "tie_weights", lambda *_, **__: None):
            # Log-probabilities in float32: in bfloat16, different choices would round to the same value.
            super().__init__(
                pretrained=model,
                tokenizer=tokenizer,
                backend="causal",
                batch_size=batch_size,
                softmax_dtype="float32",
            )
        self.progress = progress
        self.truncated: Counter[str] = Counter()
        self._asked: list[Any] = []
        self._shares_prefix: bool | None = None  # None: not known yet

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Score each (context, continuation)."""
        self._asked = requests
        self._follow(len(requests), "scoring choices")
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        if len(self._asked) == len(requests):
            for instance, (_, context, continuation) in zip(self._asked, requests, strict=True):
                # The last token is only predicted, and takes no place in the context.
                if len(context) + len(continuation) - 1 > self.max_length:
                    self.truncated[instance.task_name] += 1
        asked = [n for n, (_, p, c) in enumerate(requests) if p and c and len(p) + len(c) - 1 <= self.max_length]
        answers: dict[int, Answer] = {}
        if asked and self._shares_prefix is not False:
            answers = self._by_question(requests, asked)
        rest = [n for n in range(len(requests)) if n not in answers]
        found = super()._loglikelihood_tokens([requests[n] for n in rest], *args, **kwargs) if rest else []
        answers |= dict(zip(rest, found, strict=True))
        return [answers[n] for n in range(len(requests))]

    def _by_question(self, requests: Any, asked: list[int]) -> dict[int, Answer]:
        """Score requests by `shared_prefix.score`, if the model gives the same numbers in that way.

        The shortest questions are scored in both ways first; a model that ignores the mask or the positions (a
        recurrent one, flash attention) is then left to the harness.
        """
        grouped = shared_prefix.questions([requests[n] for n in asked])
        answers: dict[int, Answer] = {}
        if self._shares_prefix is None:
            sample = grouped[-shared_prefix.COMPARED :]
            numbers = [asked[k] for one in sample for k in one.numbers]
            expected = super()._loglikelihood_tokens([requests[n] for n in numbers], disable_tqdm=True)
            try:
                found = [one for some in shared_prefix.score(self.model, sample, self.device) for one in some]
                self._shares_prefix = shared_prefix.agree(found, expected, shared_prefix.dtype_of(self.model))
            except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError):
                self._shares_prefix = False
            answers = dict(zip(numbers, expected, strict=True))
            grouped = grouped[: -len(sample)]
        if not self._shares_prefix:
            return answers
        for pack in shared_prefix.packs(grouped):
            for one, scores in zip(pack, shared_prefix.score(self.model, pack, self.device), strict=True):
                for k, score in zip(one.numbers, scores, strict=True):
                    answers[asked[k]] = score
                    self.cache_hook.add_partial("loglikelihood", requests[asked[k]][0], score)
        return answers

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """Generate an answer to each prompt."""
        self._follow(len(requests), "generating answers")
        for instance in requests:
            limit = self.max_length - instance.args[1].get("max_gen_toks", self.max_gen_toks)
            if len(self.tok_encode(instance.args[0])) > limit:
                self.truncated[instance.task_name] += 1
        return super().generate_until(requests, disable_tqdm=True)

    def _follow(self, total: int, what: str) -> None:
        self.set_cache_hook(_ProgressHook(self.progress, total, what))


class _ProgressHook(CacheHook):
    """A cache hook, called by the harness after every answer, that reports the progress."""

    def __init__(self, progress: Progress | None, total: int, what: str) -> None:
        super().__init__(None)
        self.progress, self.total, self.what, self.done = progress, total, what, 0

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total, self.what)


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set the attribute `name` of the instance `owner` to `value` inside the block."""
    own = vars(owner)
    before = {name: own[name]} if name in own else {}
    own[name] = value
    try:
        yield
    finally:
        del own[name]
        own.update(before)


@contextlib.contextmanager
def untouched(model: torch.nn.Module, tokenizer: Any) -> Iterator[None]:
    """Restore every module's training flag, the tokenizer's padding and all random states after the block."""
    flags = [(module, module.training) for module in model.modules()]
    padding = tokenizer.padding_side, tokenizer.pad_token
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    device_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag
        tokenizer.padding_side, tokenizer.pad_token = padding
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if device_states is not None:
            torch.cuda.set_rng_state_all(device_states)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the harness and transformers inside the block, except for errors."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "transformers", "transformers.generation")]
    levels = [one.level for one in loggers]
    verbosity = transformers.logging.get_verbosity()
    for one in loggers:
        one.setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()

    def silent(*args: Any, **kwargs: Any) -> Any:
        return tqdm(*args, **{**kwargs, "disable": True})

    try:
        with replaced(lm_eval.api.task, "tqdm", silent):
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
