"""A run that is killed at any file-system call, or at any moment, resumes to the same adapter bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from faults import COUNT, KILL, TEAR, server  # noqa: F401
from runs import METHODS, Subject, subjects, writes  # noqa: F401
from tally import tally  # noqa: F401

PARTS = 4
EVERY = {"dude": 1, "pissa": 1, "lora": 2, "full": 2}  # the last two write what the first two write, and less


def all_kills(subject: Subject) -> list[tuple[int, int]]:
    """(action, call) for every call that changes the folder, and every write that a kill can cut in two.

    A sync is left out: what a kill after it leaves is what a kill before it leaves.
    """
    changes = [c for c in subject.calls if c.kind != "r" and c.name != "sync"]
    return [(KILL, c.number) for c in changes] + [(TEAR, c.number) for c in writes(subject.calls)]


def wrong_after(subject: Subject, kills: Sequence[tuple[int, int]]) -> list[str]:
    """What went wrong in runs with one kill each."""
    wrong = []
    for action, number in kills:
        subject.fresh()
        ended = subject.train(action=action, at=number)
        where = f"{'torn' if action == TEAR else 'killed'} at {subject.describe(number)}"
        if not ended.killed:
            wrong.append(f"{where}: not killed but ended with {ended.code}: {ended.output[-500:]}")
        elif problem := subject.check(subject.saved_before(number)):
            wrong.append(f"{where}: {problem}")
    return wrong


@pytest.mark.parametrize("method", METHODS)
def test_killed_at_some_calls(subjects: Any, tally: Callable[..., None], method: str) -> None:  # noqa: F811
    subject = subjects(method)
    kills = random.Random(method).sample(all_kills(subject), 5)
    wrong = wrong_after(subject, kills)
    tally("SIGKILL at a file-system call (part that CI runs)", method, len(kills), len(kills) - len(wrong))
    assert not wrong, "\n".join(wrong)


@pytest.mark.reliability
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("method", METHODS)
def test_killed_at_every_call(subjects: Any, tally: Callable[..., None], method: str, part: int) -> None:  # noqa: F811
    """Every second call where a method writes nothing that others do not."""
    subject = subjects(method)
    for action, what in ((KILL, "SIGKILL before a file-system call"), (TEAR, "SIGKILL in the middle of a write")):
        kills = [kill for kill in all_kills(subject)[:: EVERY[method]][part::PARTS] if kill[0] == action]
        wrong = wrong_after(subject, kills)
        tally(what, method, len(kills), len(kills) - len(wrong))
        assert not wrong, "\n".join(wrong)


@pytest.mark.reliability
@pytest.mark.parametrize("method", METHODS)
def test_killed_at_any_moment(subjects: Any, tally: Callable[..., None], method: str) -> None:  # noqa: F811
    """Up to three kills a run, in loading, decomposing, training, saving and evaluating alike."""
    subject = subjects(method, evaluation=True)
    moments, wrong, kills = random.Random(method), [], 0
    for number in range(12):
        subject.fresh()
        survived = 0
        while survived < 3 and subject.train(kill_after=moments.uniform(0, subject.seconds)).killed:
            survived += 1
        kills += survived
        if problem := subject.check(saved=False):
            wrong.append(f"run {number}, {survived} kills: {problem}")
    tally("SIGKILL at a random moment, up to 3 in a run with evaluations", method, kills, kills - len(wrong))
    assert not wrong, "\n".join(wrong)
    assert kills >= 12


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_on_disk_before_it_is_called_complete(subjects: Any, method: str) -> None:  # noqa: F811
    """What a manifest or `run.json` vouches for was synced, and its folder, before that file appears."""
    subject = subjects(method)
    subject.fresh()
    calls = subject.train(log_calls=True, action=COUNT).calls
    final = "model" if method == "full" else "adapter"
    finished = next(c.number for c in calls if c.path == "/run/run.json" and c.name == "rename")
    names = [p.name for p in (subject.run / final).iterdir()]
    assert names
    for name in names:
        paths = {f"/run/{final}/{name}", f"/run/.{final}.part/{name}"}
        mine = [c for c in calls if c.path in paths and c.number < finished and c.kind in "wd"]
        assert mine and mine[-1].name == "sync", f"{name} was not synced after its last write"
    moved = next(c.number for c in calls if c.path == f"/run/{final}" and c.name == "rename")
    assert any(c.name == "sync" and c.path == "/run" and moved < c.number < finished for c in calls)
