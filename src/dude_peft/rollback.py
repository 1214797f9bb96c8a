"""Injection is all or nothing: after an error a model is what it was before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

Saved = tuple[dict[str, Any], list[tuple[Any, Any]]]


@contextlib.contextmanager
def unchanged_on_error(*models: nn.Module) -> Iterator[None]:
    """Within the block, an exception of any kind (KeyboardInterrupt included) undoes every change to the models.

    That is: each module's class, attributes, submodules, parameters, buffers and hooks, and which parameters are
    trained. Values of parameters are not copied; PEFT writes none of those that were there while it injects.
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
    """A module's attributes, and the contents of those that are dictionaries or sets."""
    containers = [value for value in attributes.values() if isinstance(value, dict | set)]
    return dict(attributes), [(container, container.copy()) for container in containers]
