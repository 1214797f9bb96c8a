"""Promise: without DUDE_TRITON=1, and where Triton cannot compute, plain torch does; at most one warning says so."""

from __future__ import annotations

import sys

import pytest
import torch
from kernel_tools import NAMES, output_arguments

from dude_peft import functional, kernels
from dude_peft.errors import DudeError


def plain_and_asked(ask_for_kernels):
    arguments = output_arguments(5, 16, 6, torch.float32)
    ask_for_kernels("0")
    want = functional.output(*arguments)
    ask_for_kernels("1")
    return want, arguments


def test_without_triton_one_warning_and_plain_torch(ask_for_kernels, monkeypatch):
    want, arguments = plain_and_asked(ask_for_kernels)
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "dude_peft.kernels.triton_kernels", raising=False)
    monkeypatch.delattr("dude_peft.kernels.triton_kernels", raising=False)
    with pytest.warns(RuntimeWarning, match="DUDE_TRITON=1.*triton.*plain torch") as caught:
        assert torch.equal(functional.output(*arguments), want)
        assert torch.equal(functional.output(*arguments), want)
    assert len(caught) == 1


def broken(error):
    def fail(*_):
        raise error

    return type("Room", (), {name: staticmethod(fail) for name in NAMES})


def test_a_kernel_that_fails_is_not_tried_again(ask_for_kernels, monkeypatch):
    want, arguments = plain_and_asked(ask_for_kernels)
    monkeypatch.setattr("dude_peft.kernels.triton_kernels", broken(ValueError("no such arch")), raising=False)
    monkeypatch.setitem(sys.modules, "dude_peft.kernels.triton_kernels", broken(ValueError("no such arch")))
    with pytest.warns(RuntimeWarning, match="ValueError: no such arch") as caught:
        assert torch.equal(functional.output(*arguments), want)
        assert torch.equal(functional.output(*arguments, in_place=True), want)
    assert len(caught) == 1


def test_a_full_memory_is_not_a_broken_kernel(ask_for_kernels, monkeypatch):
    _, arguments = plain_and_asked(ask_for_kernels)
    monkeypatch.setattr("dude_peft.kernels.triton_kernels", broken(torch.OutOfMemoryError("full")), raising=False)
    with pytest.raises(torch.OutOfMemoryError):
        functional.output(*arguments)
    assert not kernels._failed


@pytest.mark.parametrize("value", ["", "0", None])
def test_nobody_who_does_not_ask_gets_a_kernel(ask_for_kernels, monkeypatch, value):
    ask_for_kernels(value or "")
    if value is None:
        monkeypatch.delenv("DUDE_TRITON")
    monkeypatch.setattr("dude_peft.kernels.triton_kernels", broken(AssertionError()), raising=False)
    functional.output(*output_arguments(5, 16, 6, torch.float32))
    assert not kernels._failed


@pytest.mark.parametrize("kind", ["float64", "autograd", "subclass"])
def test_what_a_kernel_cannot_read_is_plain_torchs(ask_for_kernels, monkeypatch, kind):
    ask_for_kernels("1")
    monkeypatch.setattr("dude_peft.kernels.triton_kernels", broken(AssertionError()), raising=False)
    arguments = list(output_arguments(5, 16, 6, torch.float64 if kind == "float64" else torch.float32))
    if kind == "autograd":
        arguments[2].requires_grad_()
    if kind == "subclass":
        arguments[0] = arguments[0].as_subclass(type("Own", (torch.Tensor,), {}))
    y = functional.output(*arguments)
    assert y.shape == (5, 16) and y.requires_grad == (kind == "autograd")
    assert not kernels._failed  # nobody tried


def test_another_value_is_refused(ask_for_kernels):
    ask_for_kernels("yes")
    with pytest.raises(DudeError, match=r"'yes'.*1.*0"):
        functional.output(*output_arguments(5, 16, 6, torch.float32))
