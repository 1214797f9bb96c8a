"""Score the choices of a question in one forward: its prompt is computed once, and logits only where they are scored.

Questions are packed into one sequence. A token attends to the tokens before it of its prompt and of its own choice, and
its position is that in the unpacked text, so that each choice sees what it would see alone. There is no padding.

    tokens     p p p a a b b q q c d
    prompt     0 0 0 0 0 0 0 1 1 1 1
    choice     - - - 0 0 1 1 - - 0 1
    position   0 1 2 3 4 3 4 0 1 2 2
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Answer = tuple[float, bool]
PACK = 384  # tokens of a sequence: a longer one spends more on attention between questions, which is masked
COMPARED = 4  # questions that are scored in both ways before the packed one is used
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
HALF_TOLERANCE = 0.2


@dataclass
class Question:
    """A prompt and its choices, as tokens, with the number of the request that each choice came from."""

    prompt: tuple[int, ...]
    choices: list[tuple[int, ...]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens of the packed question: the last one of a choice is only predicted."""
        return len(self.prompt) + sum(len(choice) - 1 for choice in self.choices)


def questions(requests: Sequence[tuple[Any, list[int], list[int]]]) -> list[Question]:
    """Return the requests (text, prompt, choice) grouped by prompt, the longest first."""
    found: dict[tuple[int, ...], Question] = {}
    for number, (_, prompt, choice) in enumerate(requests):
        one = found.setdefault(tuple(prompt), Question(tuple(prompt)))
        one.choices.append(tuple(choice))
        one.numbers.append(number)
    return sorted(found.values(), key=lambda one: -one.length)


def packs(asked: Sequence[Question], size: int = PACK) -> Iterator[list[Question]]:
    """Yield the questions in packs of at most `size` tokens, or of one question."""
    pack: list[Question] = []
    for one in asked:
        if pack and sum(other.length for other in pack) + one.length > size:
            yield pack
            pack = []
        pack.append(one)
    if pack:
        yield pack


def score(model: Any, pack: Sequence[Question], device: Any) -> list[list[Answer]]:
    """Return log-likelihood and whether it is the greedy one of each choice of each question.

    Args:
        model: a causal language model that takes a mask (1, 1, n, n) to add to the attention scores, `position_ids` and
            `logits_to_keep`.
        pack: of questions.
        device: of the model.
    """
    tokens: list[int] = []
    owner: list[int] = []
    branch: list[int] = []
    position: list[int] = []
    scored: list[tuple[int, int]] = []  # index of the token that predicts, and the predicted one
    for number, one in enumerate(pack):
        last = len(tokens) + len(one.prompt) - 1
        tokens += one.prompt
        position += range(len(one.prompt))
        branch += [-1] * len(one.prompt)
        for k, choice in enumerate(one.choices):
            scored.append((last, choice[0]))
            for offset, token in enumerate(choice[:-1]):
                scored.append((len(tokens), choice[offset + 1]))
                tokens.append(token)
                position.append(len(one.prompt) + offset)
                branch.append(k)
        owner += [number] * one.length
    kept, where = torch.tensor([i for i, _ in scored]).unique(return_inverse=True)
    logits = model(
        input_ids=torch.tensor([tokens], device=device),
        attention_mask=_mask(owner, branch, dtype_of(model)).to(device),
        position_ids=torch.tensor([position], device=device),
        logits_to_keep=kept.to(device),
        use_cache=False,
    ).logits
    if logits.shape[1] != len(kept):
        raise ValueError("the model ignores logits_to_keep")
    log_probabilities = logits[0].float().log_softmax(dim=-1)
    predicted = torch.tensor([token for _, token in scored], device=device)
    rows = where.to(device)
    values = log_probabilities[rows, predicted].tolist()
    greedy = (log_probabilities.argmax(dim=-1)[rows] == predicted).tolist()
    results, at = [], 0
    for one in pack:
        found = []
        for choice in one.choices:
            part = slice(at, at + len(choice))
            found.append((sum(values[part]), all(greedy[part])))
            at += len(choice)
        results.append(found)
    return results


def dtype_of(model: Any) -> torch.dtype:
    """Return the dtype of a model's parameters; float32 of one that has none."""
    return next((parameter.dtype for parameter in model.parameters()), torch.float32)


def _mask(owner: list[int], branch: list[int], dtype: torch.dtype) -> Tensor:
    """Return the mask (1, 1, n, n): 0 where a token attends, else the smallest number."""
    own, branches = torch.tensor(owner), torch.tensor(branch)
    index = torch.arange(len(owner))
    attends = own[:, None] == own
    attends &= index[:, None] >= index
    attends &= (branches == -1) | (branches[:, None] == branches)
    return torch.zeros(len(owner), len(owner), dtype=dtype).masked_fill_(~attends, torch.finfo(dtype).min)[None, None]


def agree(one: Sequence[Answer], other: Sequence[Answer], dtype: torch.dtype) -> bool:
    """Return whether two scorings of the same requests are equal but for rounding."""
    limit = TOLERANCE.get(dtype, HALF_TOLERANCE)
    return all(abs(a - b) <= limit * max(1.0, abs(b)) for (a, _), (b, _) in zip(one, other, strict=True))
