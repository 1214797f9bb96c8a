"""A full disk, failing device or read-only file system at any call: one line of error, nothing lost, and a resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from faults import FAIL, FAIL_FROM, Call, server  # noqa: F401
from runs import METHODS, Subject, subjects  # noqa: F401
from tally import tally  # noqa: F401

# name: error, action, which calls (see `can_fail` in faults.c; opening for reading fails if EIO), and
# every how many of them one fails with DuDe
FAULTS = {
    "disk full from a call on": ("ENOSPC", FAIL_FROM, "wdn", 1),
    "disk full at one call": ("ENOSPC", FAIL, "wdn", 3),
    "I/O error at one call": ("EIO", FAIL, "wdnxr", 2),
    "read-only from a call on": ("EROFS", FAIL_FROM, "wnx", 1),
}
OTHERS = 16  # with another method every so many
PARTS = 4


def calls_of(subject: Subject, fault: str) -> list[Call]:
    """The calls of an undisturbed run at which a fault can occur."""
    error, _, kinds, _ = FAULTS[fault]
    if error != "EIO":
        return [c for c in subject.calls if c.kind in kinds]
    subject.fresh()
    return subject.train(error=error, below=subject.root, log_calls=True).calls


def wrong_after(subject: Subject, fault: str, calls: Sequence[Call]) -> list[str]:
    """What went wrong in runs with one fault each."""
    error, action, _, _ = FAULTS[fault]
    wrong = []
    for call in calls:
        subject.fresh()
        below = subject.root if error == "EIO" else subject.case
        ended = subject.train(action=action, at=call.number, error=error, below=below)
        where = f"{fault}, {call.name} {call.path}"
        if ended.traceback:
            wrong.append(f"{where}: a traceback: {' '.join(ended.output.splitlines()[-2:])}")
        elif ended.code not in (0, 2):
            wrong.append(f"{where}: exit code {ended.code}: {ended.output[-500:]}")
        elif ended.code == 2 and "error:" not in ended.output:
            wrong.append(f"{where}: exit code 2 without a message: {ended.output[-500:]}")
        elif problem := subject.check(error != "EIO" and subject.saved_before(call.number)):
            wrong.append(f"{where} (exit code {ended.code}): {problem}")
    return wrong


@pytest.mark.parametrize("fault", FAULTS)
def test_some_faults(subjects: Any, tally: Callable[..., None], fault: str) -> None:  # noqa: F811
    subject = subjects("dude")
    calls = calls_of(subject, fault)
    calls = calls[:: len(calls) // 4]
    wrong = wrong_after(subject, fault, calls)
    tally(f"{fault} (part that CI runs)", "dude", len(calls), len(calls) - len(wrong))
    assert not wrong, "\n".join(wrong)


def test_the_base_model_cannot_be_read(subjects: Any) -> None:  # noqa: F811
    """It is opened several times, by Python, Rust and C++, each with errors of its own."""
    subject = subjects("dude")
    fault = "I/O error at one call"
    calls = [call for call in calls_of(subject, fault) if call.path == "/base/model.safetensors"]
    assert len(calls) >= 3
    assert not (wrong := wrong_after(subject, fault, calls)), "\n".join(wrong)


@pytest.mark.reliability
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault(subjects: Any, tally: Callable[..., None], fault: str, part: int) -> None:  # noqa: F811
    for method in METHODS if part == 0 else ("dude",):
        subject = subjects(method)
        calls = calls_of(subject, fault)
        calls = calls[:: FAULTS[fault][3]][part::PARTS] if method == "dude" else calls[::OTHERS]
        wrong = wrong_after(subject, fault, calls)
        tally(fault, method, len(calls), len(calls) - len(wrong))
        assert not wrong, "\n".join(wrong)
