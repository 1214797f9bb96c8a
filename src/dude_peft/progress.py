"""How far the start of an adapter has come: told to a listener, or shown as a bar when it takes long.

The bar is that of transformers: `transformers.utils.logging.disable_progress_bar()` turns it off, and it appears on a
terminal or in a notebook alone.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, cast

from .targets import Target

Listener = Callable[[str, int, int], None]
_listener: ContextVar[tuple[Listener, Iterator[int], int] | None] = ContextVar("dude_start_listener", default=None)

PATIENCE = 2.0  # seconds without a bar


@contextlib.contextmanager
def on_start(listener: Listener, of: int = 0) -> Iterator[None]:
    """Within the block, call `listener(module, number, of)` before each module gets its start, and show no bar.

    DuDe decomposes each module then, and counts them: `number` is from 0, `of` how many there are. Other methods place
    one after the other as PEFT finds them; their number counts on through the block, and their `of` is the one given.
    """
    token = _listener.set((listener, itertools.count(), of))
    try:
        yield
    finally:
        _listener.reset(token)


def starting(targets: Sequence[Target], what: str) -> Iterator[Target]:
    """The targets one by one, each told before it comes; `what` is written before the bar."""
    if (heard := _listener.get()) is None:
        yield from _bar(targets, what)
        return
    for number, target in enumerate(targets):
        heard[0](target.name, number, len(targets))
        yield target


def say_start(module: str) -> None:
    """Tell the listener, if there is one, of a module whose place in the whole the caller does not know."""
    if (heard := _listener.get()) is not None:
        listener, numbers, of = heard
        listener(module, next(numbers), of)


def _bar(targets: Sequence[Target], what: str) -> Iterable[Target]:
    from transformers.utils.logging import tqdm

    elsewhere = os.environ.get("LOCAL_RANK", "0") != "0"  # one of several ranks shows it
    wanted = False if "ipykernel" in sys.modules else None  # None: where standard error is a terminal
    bar: Any = tqdm(targets, desc=what, unit="layer", delay=PATIENCE, disable=elsewhere or wanted)
    return cast(Iterable[Target], bar)
