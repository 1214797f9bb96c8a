"""How far the decomposition of a model has come, told to whoever wants to show it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

Listener = Callable[[str, int, int], None]
_listener: ContextVar[Listener | None] = ContextVar("dude_start_listener", default=None)


@contextlib.contextmanager
def on_start(listener: Listener) -> Iterator[None]:
    """Within the block, call `listener(module, number, of)` before each module is decomposed; number counts from 0."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def say_start(module: str, number: int, of: int) -> None:
    """Tell the listener, if there is one."""
    listener = _listener.get()
    if listener is not None:
        listener(module, number, of)
