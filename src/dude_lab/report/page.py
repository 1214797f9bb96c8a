"""From folders of finished runs to `index.html`: check, collect, render, write."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from dude_peft.errors import DudeError
from dude_peft.files import json_values, write_text

from ..compare.comparison_folder import ComparisonFolder
from ..compare.results import Results, collect_paths
from ..compare.table import columns, make_table
from ..folders import check_folder
from ..plot_style import method_rules
from .answer_table import make_answers
from .configs import failures, run_cards, searches
from .payload import DUDE, make_payload, opening_pair, opening_sentence

MARK = '<meta name="generator" content="dude report">'
SCRIPTS = ("charts.js", "curves.js", "plots.js", "answers.js")


def write_page(paths: Sequence[Path], output: Path) -> Path:
    """Write the page about comparisons and finished runs, and return its file.

    The page depends on the runs alone: written again, it has the same bytes.

    Args:
        paths: folders of comparisons, also those in `parts/` of a study, and of runs.
        output: folder of the page, created if missing.

    Raises:
        DudeError: no finished run, runs that cannot be compared, or an `index.html` of something else.
    """
    file = _check(output)
    results, folder = collect_paths(paths)
    if not any(row.runs for row in results.rows):
        raise DudeError(f"{paths[0]}: there is no finished run. Run `dude compare` with its YAML file first.")
    text = render(results, folder)
    output.mkdir(parents=True, exist_ok=True)
    write_text(file, text)
    return file


def render(results: Results, folder: ComparisonFolder | None = None) -> str:
    """Return the page as text.

    Args:
        results: at least one finished run.
        folder: of the comparison, for what failed and how learning rates were chosen.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    table = make_table(results)
    heads, cells = columns(table)
    style, script = _part("style.css") + method_rules(), "".join(_part(name) for name in SCRIPTS)
    answers = make_answers(results)
    opens = opening_pair(results, answers["pairs"])
    methods = {row.name: row.method for row in results.rows}
    dude = opens is not None and methods[opens[0]] == "dude" and methods.get(opens[1], "base") not in (*DUDE, "base")
    payload = {
        **make_payload(results, table),
        "answers": {**answers, "opens": opens},
        "differences": table["differences"],
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_part("page.html")).render(
        title=_title(results),
        mark=Markup(MARK),
        # No source but the page's own two blocks, by their hashes: a script in somebody's data does not run.
        policy=f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        style=Markup(style),
        script=Markup(script),
        data=Markup(_inert(payload)),
        table=table,
        opening=opening_sentence(opens, table["differences"]) if opens and dude else "",
        heads=heads,
        rows=[[(label, "", ""), *(_emphasis(cell) for cell in line)] for label, *line in cells],
        failures=failures(folder),
        searches=searches(folder),
        runs=run_cards(results),
        curves=[one["key"] for one in payload["curves"]],
        ranks=list(dict.fromkeys(row["r"] for row in payload["rows"] if row["r"] is not None)),
        pairs=len(payload["answers"]["pairs"]),
        compared=results.headline is not None,
    ) + "\n"  # fmt: skip


def _check(output: Path) -> Path:
    check_folder(output, "-o")
    file = output / "index.html"
    if file.is_file() and MARK not in file.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise DudeError(f"-o: {file} is not a page of `dude report` and would be overwritten. Choose another folder.")
    return file


def _title(results: Results) -> str:
    labels = list(dict.fromkeys(row.label for row in results.rows if row.runs))
    named = ", ".join(labels[:-1]) + " and " + labels[-1] if 1 < len(labels) < 6 else f"{len(labels)} methods"
    named = labels[0] if len(labels) == 1 else named
    return f"{named} on {results.headline}" if results.headline else named


def _emphasis(cell: str) -> tuple[str, str, str]:
    """Return the text before, inside and after Markdown's bold."""
    before, mark, rest = cell.partition("**")
    inside, _, after = rest.partition("**")
    return (before, inside, after) if mark else (cell, "", "")


def _inert(value: Any) -> str:
    """Return JSON for a script element: nothing in it ends the element or begins another."""
    text = json.dumps(json_values(value), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _part(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
