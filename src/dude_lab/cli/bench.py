"""`dude bench`: the table of what DuDe costs on this machine."""

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
from dude_peft.files import check_folder

from ..bench import PARTS, cases
from ..bench.bench_plan import Case, Plan
from ..bench.bench_plot import draw
from ..bench.bench_report import about, headline, write_json
from ..bench.bench_results import DORA, DUDE, FROZEN, HAND, Row
from ..training.quiet import quiet
from .boundary import INTERRUPTED
from .console import CHECKED, FAILED, NOTE, console, duration, table

SHORT_NAMES = {FROZEN: "frozen", DORA: "DoRA", HAND: "hand", "pissa_niter_16": "niter 16"}
WIDTH = 100
JSON, PICTURE = "bench.json", "bench.png"


def run(
    part: str, device: str, output: Path | None, *, threads: int | None = None, quick: bool, tiny: bool = False
) -> int:
    """Measure, print the table, and write it; what was measured before an interruption is kept."""
    parts = check(part, device)
    output = output or Path("results", "bench", part)
    check_folder(output, "-o", own=(JSON, PICTURE))
    output.mkdir(parents=True, exist_ok=True)
    if threads is not None:
        torch.set_num_threads(threads)
    quiet()
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    plan, out = Plan(chosen, quick, tiny), console()
    facts = about(plan)
    out.print(f"[dim]{escape(headline(facts))}[/]", soft_wrap=True)
    rows: list[Row] = []
    finished = False
    try:
        for row in measured(cases(parts, plan), out):
            rows.append(row)
            with suppress(OSError):  # a full disk: measuring continues, and the last write raises
                write_json(rows, facts, output / JSON, finished=False)
        finished = True
    except KeyboardInterrupt:
        out.print(f"{NOTE} stopped; what follows was measured before")
    if not rows:
        return INTERRUPTED
    out.print(tables(rows), width=WIDTH)  # first of all: a disk that is full must not lose them
    write_json(rows, facts, output / JSON, finished=finished)
    names = [JSON, PICTURE] if draw(rows, output / PICTURE, headline(facts)) else [JSON]
    out.print(f"written: {', '.join(escape(str(output / name)) for name in names)}", soft_wrap=True)
    return 0 if finished else INTERRUPTED


def check(part: str, device: str) -> list[str]:
    """The parts that are meant.

    Raises:
        DudeError: an unknown part or device, or one that is not there.
    """
    known = ("all", *PARTS)
    if part not in known:
        raise DudeError(f"no part '{part}' to measure: choose from {', '.join(known)}.{did_you_mean(part, known)}")
    if device not in ("auto", "cpu", "cuda"):
        raise DudeError(f"--device must be auto, cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise DudeError("--device cuda: torch sees no CUDA device here. Use --device cpu")
    return list(PARTS) if part == "all" else [part]


def measured(todo: list[Case], out: Console) -> Iterator[Row]:
    """The rows of all cases, with a line for each that is done, and a bar with the time left on a terminal."""
    total, done, begin = sum(case.cost for case in todo), 0.0, time.monotonic()
    with _bar(out, total) as show:
        for number, case in enumerate(todo, 1):
            left = duration((time.monotonic() - begin) / done * (total - done)) + " left" if done else ""
            show(done, f"{number}/{len(todo)}  {case.part}: {case.what}  [dim]{left}[/]")
            for row in _rows(case):
                out.print(_line(row), soft_wrap=not out.is_terminal)
                yield row
            done += case.cost


def _rows(case: Case) -> Iterator[Row]:
    try:
        yield from case.measure()
    except torch.OutOfMemoryError:
        yield Row(case.part, "", case.what, note="left out: out of memory")


@contextmanager
def _bar(out: Console, total: float) -> Iterator[Callable[[float, str], None]]:
    if not out.is_terminal:
        yield lambda done, text: out.print(f"[dim]{text}[/]", soft_wrap=True)
        return
    with Progress(BarColumn(20), TextColumn("{task.description}"), console=out, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done, text: bar.update(task, completed=done, description=text)


def _line(row: Row) -> str:
    if row.measured is None:
        return f"{NOTE} {row.part}: {escape(row.what)}: {escape(row.note)}"
    sign = {"reached": CHECKED, "short": FAILED, None: " "}[row.verdict]
    return f"{sign} {row.part}: {escape(row.what)}: [bold]{row.measured}[/] [dim]{escape(row.group)}[/]"


def tables(rows: list[Row]) -> Group:
    """A table for each group of rows: what is compared, its reach, and who measured what."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.part, row.group), []).append(row)
    return Group(*(_table(f"{part}: {group}", held) for (part, group), held in groups.items()), *_sum(rows))


def _table(title: str, rows: list[Row]) -> Table:
    others = [name for name in SHORT_NAMES if any(name in row.others for row in rows)]
    made = table("", "reach", DUDE, "verdict", *(SHORT_NAMES[name] for name in others), "n", title=title, right=("n",))
    made.collapse_padding = True
    for column in made.columns[1:]:
        column.no_wrap = True
    for row in rows:
        what = escape(row.what) + (f"\n[dim]{escape(row.note)}[/]" if row.note else "")
        made.add_row(what, _reach(row), *_cells(row), *(_other(row, name) for name in others), str(row.n or "-"))
    return made


def _reach(row: Row) -> str:
    return "-" if row.reach is None else f"{'>=' if row.higher_is_better else '<='} {row.reach:g}"


def _cells(row: Row) -> tuple[str, str]:
    colors = {"reached": "[green]reached[/]", "short": "[red]short[/]", None: "-"}
    return str(row.measured or "-"), colors[row.verdict]


def _other(row: Row, name: str) -> str:
    return str(row.others[name]).partition(" ")[0] if name in row.others else "-"


def _sum(rows: list[Row]) -> tuple[str, str]:
    verdicts = [row.verdict for row in rows]
    left_out = sum(row.measured is None for row in rows)
    return (
        f"{verdicts.count('reached')} reached, {verdicts.count('short')} short, {left_out} left out.",
        "Medians (quartiles) of n rounds in which all run once. frozen: the base alone. hand: LoRA by hand.",
    )
