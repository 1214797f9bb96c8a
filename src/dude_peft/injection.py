"""Injection of an adapter into a model: progress (reported to a listener or shown as a bar), and rollback on error.

The bar is that of transformers: `transformers.utils.logging.disable_progress_bar()` turns it off, and it appears only
on a terminal or in a notebook.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, cast

from torch import nn

from .targets import Target

Listener = Callable[[str, int, int], None]
_listener: ContextVar[tuple[Listener, Iterator[int], int] | None] = ContextVar("dude_init_listener", default=None)

PATIENCE = 2.0  # seconds before the bar appears


@contextlib.contextmanager
def on_init(listener: Listener, of: int = 0) -> Iterator[None]:
    """Within the block, call `listener(module, number, of)` before each module is initialised, and show no bar.

    `number` counts from 0. For DuDe `of` is the number of targets; for other methods, which PEFT injects one by one, it
    is the argument `of`.
    """
    token = _listener.set((listener, itertools.count(), of))
    try:
        yield
    finally:
        _listener.reset(token)


def reported(targets: Sequence[Target], what: str) -> Iterator[Target]:
    """Yield the targets, each reported before it is yielded; `what` is the title of the bar."""
    if (listening := _listener.get()) is None:
        yield from _bar(targets, what)
        return
    for number, target in enumerate(targets):
        listening[0](target.name, number, len(targets))
        yield target


def report_init(module: str) -> None:
    """Report a module whose position among the targets the caller does not know."""
    if (listening := _listener.get()) is not None:
        listener, numbers, of = listening
        listener(module, next(numbers), of)


def _bar(targets: Sequence[Target], what: str) -> Iterable[Target]:
    from transformers.utils.logging import tqdm

    elsewhere = os.environ.get("LOCAL_RANK", "0") != "0"  # one of several ranks shows it
    wanted = False if "ipykernel" in sys.modules else None  # None: where standard error is a terminal
    bar: Any = tqdm(targets, desc=what, unit="layer", delay=PATIENCE, disable=elsewhere or wanted)
    return cast(Iterable[Target], bar)


Saved = tuple[dict[str, Any], list[tuple[Any, Any]]]


@contextlib.contextmanager
def unchanged_on_error(*models: nn.Module) -> Iterator[None]:
    """Undo every change to the models if the block raises anything, KeyboardInterrupt included.

    Restored are each module's class, attributes, submodules, parameters, buffers and hooks, and which parameters are
    trained. Values of parameters are not copied: PEFT writes to none of the existing ones while it injects.
    """
    modules = {id(module): module for model in models for module in model.modules()}
    kinds = [(module, type(module)) for module in modules.values()]
    states = [(module, _saved(module.__dict__)) for module in modules.values()]
    trained = [(parameter, parameter.requires_grad) for model in models for parameter in model.parameters()]
    try:
        yield
    except BaseException:
        for module, kind in kinds:
            module.__class__ = kind
        for module, (attributes, containers) in states:
            for container, content in containers:
                container.clear()
                container.update(content)
            module.__dict__.clear()
            module.__dict__.update(attributes)
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)
        raise


def _saved(attributes: dict[str, Any]) -> Saved:
    """Return a module's attributes, and the contents of those that are dictionaries or sets."""
    containers = [value for value in attributes.values() if isinstance(value, dict | set)]
    return dict(attributes), [(container, container.copy()) for container in containers]
