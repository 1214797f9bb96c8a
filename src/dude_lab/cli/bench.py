"""`dude bench`: measure, and print the results as tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from rich.console import Console, Group
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from dude_peft.errors import DudeError, did_you_mean

from ..bench import PARTS, cases
from ..bench.bench_plan import Case, Plan, clock_name
from ..bench.bench_plot import draw
from ..bench.bench_results import (
    BASELINE,
    DORA,
    DUDE,
    FROZEN,
    HALF_LORA,
    HAND,
    Result,
    Spread,
    about,
    grouped,
    headline,
    number,
    write_json,
)
from ..folders import check_folder
from ..training.reporter import quiet
from . import INTERRUPTED
from .console import CHECKED, FAILED, NOTE, console, duration, table

SHORT_NAMES = {
    FROZEN: "frozen",
    BASELINE: "LoRA",
    HALF_LORA: "LoRA bf16",
    DORA: "DoRA",
    HAND: "hand",
    "pissa_niter_16": "niter 16",
}
WIDTH = 100
JSON, PICTURE = "bench.json", "bench.png"
VERDICTS = {"met": "[green]met[/]", "missed": "[red]missed[/]", None: "-"}


def run(
    part: str, device: str, output: Path | None, *, threads: int | None = None, quick: bool, tiny: bool = False
) -> int:
    """Measure, print the tables and write them; after an interruption the results so far."""
    parts = check(part, device)
    output = output or Path("results", "bench", part)
    check_folder(output, "-o", own=(JSON, PICTURE))
    output.mkdir(parents=True, exist_ok=True)
    if threads is not None:
        torch.set_num_threads(threads)
    quiet()
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    plan, out = Plan(chosen, quick, tiny), console()
    facts = about(chosen, clock_name(chosen), torch.get_num_threads(), quick=quick)
    out.print(f"[dim]{escape(headline(facts))}[/]", soft_wrap=True)
    rows: list[Result] = []
    finished = False
    try:
        for row in measured(cases(parts, plan), out):
            rows.append(row)
            with suppress(OSError):  # a full disk: measuring continues, and the last write raises
                write_json(rows, facts, output / JSON, finished=False)
        finished = True
    except KeyboardInterrupt:
        out.print(f"{NOTE} interrupted; results so far:")
    if not rows:
        return INTERRUPTED
    out.print(tables(rows, min(out.width, WIDTH)), width=WIDTH)  # before writing: a full disk must not lose them
    write_json(rows, facts, output / JSON, finished=finished)
    names = [JSON, PICTURE] if draw(rows, output / PICTURE, headline(facts)) else [JSON]
    out.print(f"written: {', '.join(escape(str(output / name)) for name in names)}", soft_wrap=True)
    return 0 if finished else INTERRUPTED


def check(part: str, device: str) -> list[str]:
    """Return the parts to measure.

    Raises:
        DudeError: an unknown part, or an unknown or missing device.
    """
    known = ("all", *PARTS)
    if part not in known:
        raise DudeError(f"unknown part '{part}', expected one of {', '.join(known)}.{did_you_mean(part, known)}")
    if device not in ("auto", "cpu", "cuda"):
        raise DudeError(f"--device must be auto, cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise DudeError("--device cuda: torch sees no CUDA device here. Use --device cpu")
    return list(PARTS) if part == "all" else [part]


def measured(todo: list[Case], out: Console) -> Iterator[Result]:
    """Yield the results of all cases; print a line for each, on a terminal with a bar and the time left."""
    total, done, begin = sum(case.cost for case in todo), 0.0, time.monotonic()
    with _bar(out, total) as show:
        for number, case in enumerate(todo, 1):
            left = duration((time.monotonic() - begin) / done * (total - done)) + " left" if done else ""
            show(done, f"{number}/{len(todo)}  {case.part}: {case.what}  [dim]{left}[/]")
            for row in _rows(case):
                out.print(_line(row), soft_wrap=not out.is_terminal)
                yield row
            done += case.cost


def _rows(case: Case) -> Iterator[Result]:
    try:
        yield from case.measure()
    except torch.OutOfMemoryError:
        yield Result(case.part, "", case.what, note="left out: out of memory")


@contextmanager
def _bar(out: Console, total: float) -> Iterator[Callable[[float, str], None]]:
    if not out.is_terminal:
        yield lambda done, text: out.print(f"[dim]{text}[/]", soft_wrap=True)
        return
    with Progress(BarColumn(20), TextColumn("{task.description}"), console=out, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done, text: bar.update(task, completed=done, description=text)


def _line(row: Result) -> str:
    if row.measured is None:
        return f"{NOTE} {row.part}: {escape(row.what)}: {escape(row.note)}"
    sign = {"met": CHECKED, "missed": FAILED, None: " "}[row.verdict]
    return f"{sign} {row.part}: {escape(row.what)}: [bold]{row.measured}[/] [dim]{escape(row.group)}[/]"


def tables(rows: list[Result], width: int = WIDTH) -> Group:
    """Return a table for each group of results, and what was left out.

    A row has the case, its target, and the figure of each method; on a terminal narrower than `WIDTH` no quartiles.
    """
    groups = grouped([row for row in rows if row.measured is not None])
    made = [_table(f"{part}: {group}", some, width >= WIDTH) for (part, group), some in groups.items()]
    notes = [f"[dim]{row.part}: {escape(row.what)}: {escape(row.note)}[/]" for row in rows if row.measured is None]
    return Group(*made, *notes, *_sum(rows, width >= WIDTH))


def _table(title: str, rows: list[Result], quartiles: bool) -> Table:
    others = [name for name in SHORT_NAMES if any(name in row.others for row in rows)]
    made = table("", "target", DUDE, "verdict", *(SHORT_NAMES[name] for name in others), "n", title=title, right=("n",))
    made.collapse_padding = True
    for column in made.columns[1:]:
        column.no_wrap = True
    for row in rows:
        figures = _target(row), _figure(row.measured, quartiles), VERDICTS[row.verdict]
        made.add_row(escape(row.what), *figures, *(_figure(row.others.get(name)) for name in others), str(row.n))
    return made


def _target(row: Result) -> str:
    return "-" if row.target is None else f"{'>=' if row.higher_is_better else '<='} {row.target:g}"


def _figure(found: Spread | None, quartiles: bool = False) -> str:
    return "-" if found is None else str(found) if quartiles else number(found.median)


def _sum(rows: list[Result], quartiles: bool) -> tuple[str, str]:
    verdicts = [row.verdict for row in rows]
    left_out = sum(row.measured is None for row in rows)
    return (
        f"{verdicts.count('met')} targets met, {verdicts.count('missed')} missed, {left_out} left out.",
        f"Medians{' (quartiles)' if quartiles else ''} of n rounds. frozen: base layer alone. hand: hand-written LoRA.",
    )
