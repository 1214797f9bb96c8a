"""Injection of an adapter into a model: progress (reported to a listener or shown as a bar), rollback on error, and
the initialisation that several processes divide.

The bar is that of transformers: `transformers.utils.logging.disable_progress_bar()` turns it off, and it appears only
on a terminal or in a notebook.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import Tensor, nn

from .errors import DudeError
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


_distributed: ContextVar[bool] = ContextVar("dude_distributed_init", default=False)


@contextlib.contextmanager
def distributed_init() -> Iterator[None]:
    """Within the block, the processes of `torch.distributed` divide the decompositions of a new DuDe adapter.

    Each process decomposes its share of the weights and receives the initial values of the others from them, so that
    all have the same bits. `get_peft_model` and `add_adapter` are collective in the block: every process of the default
    group has to add the same adapter to the same model. An error in one process is raised in all of them. Without a
    process group, or with one process, the block changes nothing; loading an adapter decomposes nothing and is not
    divided.

    Example:
        ```python
        torch.distributed.init_process_group()
        with distributed_init():
            model = get_peft_model(base, DudeConfig(r=16, target_modules="all-linear"))
        ```
    """
    token = _distributed.set(True)
    try:
        yield
    finally:
        _distributed.reset(token)


def rank_and_count() -> tuple[int, int]:
    """Return the rank of this process and the number of those that divide the initialisation: (0, 1) if none do."""
    group = torch.distributed
    if not _distributed.get() or not group.is_available() or not group.is_initialized():
        return 0, 1
    return group.get_rank(), group.get_world_size()


def share(targets: Sequence[Target]) -> list[Target]:
    """Return the targets that this process decomposes: by size, each process gets one in turn."""
    rank, count = rank_and_count()
    by_size = sorted(targets, key=lambda target: -target.weights * target.shape[0] * target.shape[1])
    mine = set(by_size[rank::count])
    return [target for target in targets if target in mine]


Values = Sequence[Tensor]
Prepared = tuple[Sequence[Target], Mapping[Target, Values]]


def exchange(prepare: Callable[[], Prepared], device: Callable[[Target], torch.device]) -> Prepared:
    """Call `prepare` in each process for its share of the values, and return those of all targets; collective.

    Args:
        prepare: returns all targets and, of this process's share, the values, each of float32 or float64.
        device: the device of a target's values.

    Raises:
        DudeError: another process failed, or has other targets. What `prepare` raises is raised unchanged here.
    """
    group = torch.distributed
    targets: Sequence[Target] = ()
    own: Mapping[Target, Values] = {}
    error: BaseException | None = None
    try:
        targets, own = prepare()
    except BaseException as caught:  # the other processes are waiting
        error = caught
    message = None if error is None else str(error) or type(error).__name__
    shapes = {target: [(value.shape, value.dtype) for value in found] for target, found in own.items()}
    reports: list[Any] = [None] * group.get_world_size()
    group.all_gather_object(reports, (message, list(targets), shapes))
    if error is not None:
        raise error
    for rank, (text, others, _) in enumerate(reports):
        if text is not None:
            raise DudeError(f"process {rank}: {text}")
        if others != list(targets):
            raise DudeError(f"distributed_init: process {rank} adds an adapter with other targets, ranks or scalings")
    owners = {target: (rank, found) for rank, (_, _, part) in enumerate(reports) for target, found in part.items()}
    values = dict(own)
    only_cuda = group.get_backend() == "nccl"
    for target in targets:
        owner, found = owners[target]
        place = device(target)
        carrier = torch.device("cuda", torch.cuda.current_device()) if only_cuda and place.type != "cuda" else place
        if target in own:
            buffer = torch.cat([value.to(carrier).reshape(-1) for value in own[target]])
            group.broadcast(buffer, owner)
            continue
        sizes = [shape.numel() for shape, _ in found]
        buffer = torch.empty(sum(sizes), dtype=found[0][1], device=carrier)
        group.broadcast(buffer, owner)
        parts = zip(buffer.to(place).split(sizes), found, strict=True)
        values[target] = [part.view(shape).clone() for part, (shape, _) in parts]
    return targets, values


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
