"""Promise: without DUDE_TRITON=1, and for tensors that no kernel reads, plain torch computes; no error is hidden."""

from __future__ import annotations

import sys

import pytest
import torch
from kernel_tools import NAMES, output_arguments

from dude_peft import functional
from dude_peft.errors import DudeError


@pytest.fixture(autouse=True)
def triton_is_installed(monkeypatch):
    """Whether or not it is: what is called are stand-ins."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())


def test_without_triton_the_remedy_is_named(ask_for_kernels, monkeypatch):
    ask_for_kernels("1")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DudeError, match=r"DUDE_TRITON is 1.*pip install triton.*DUDE_TRITON to 0"):
        functional.output(*output_arguments(5, 16, 6, torch.float32))


def broken(error):
    def fail(*_):
        raise error

    return type("Room", (), {name: staticmethod(fail) for name in NAMES})


@pytest.mark.parametrize("error", [ValueError("no such arch"), torch.OutOfMemoryError("full")], ids=repr)
def test_the_error_of_a_kernel_is_raised(ask_for_kernels, monkeypatch, error):
    ask_for_kernels("1")
    monkeypatch.setattr("dude_peft.kernels.triton_kernels", broken(error), raising=False)
    monkeypatch.setitem(sys.modules, "dude_peft.kernels.triton_kernels", broken(error))
    with pytest.raises(type(error), match=str(error)):
        functional.output(*output_arguments(5, 16, 6, torch.float32))


@pytest.mark.parametrize("value", ["", "0", None])
def test_the_kernels_are_opt_in(ask_for_kernels, monkeypatch, value):
    ask_for_kernels(value or "")
    if value is None:
        monkeypatch.delenv("DUDE_TRITON")
    monkeypatch.setattr("dude_peft.kernels.triton_kernels", broken(AssertionError()), raising=False)
    functional.output(*output_arguments(5, 16, 6, torch.float32))


@pytest.mark.parametrize("kind", ["float64", "autograd", "subclass"])
def test_tensors_that_no_kernel_reads(ask_for_kernels, monkeypatch, kind):
    ask_for_kernels("1")
    monkeypatch.setattr("dude_peft.kernels.triton_kernels", broken(AssertionError()), raising=False)
    arguments = list(output_arguments(5, 16, 6, torch.float64 if kind == "float64" else torch.float32))
    if kind == "autograd":
        arguments[2].requires_grad_()
    if kind == "subclass":
        arguments[0] = arguments[0].as_subclass(type("Own", (torch.Tensor,), {}))
    y = functional.output(*arguments)
    assert y.shape == (5, 16) and y.requires_grad == (kind == "autograd")


def test_another_value_is_refused(ask_for_kernels):
    ask_for_kernels("yes")
    with pytest.raises(DudeError, match=r"'yes'.*1.*0"):
        functional.output(*output_arguments(5, 16, 6, torch.float32))
