"""Pages of the documentation that are generated from the code, and checks of the built site. MkDocs calls `on_...`."""

from __future__ import annotations

import ast
import itertools
import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("src/dude_peft", "src/dude_lab", "mini")
COPIED = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}
STUDIES = ("studies/mini", "studies/small", "studies/tune")
STUDY_FILES = (".md", ".png", ".svg", ".json")
BENCH = "benchmarks/results/bench-epyc-avx2.png"
BENCH_COPY = "images/bench.png"
LINK = re.compile(r"\]\((\.\./[^)#\s]+)(#[^)]*)?\)")
# What the markers `supports` and `rejects` of the tests may name, in the order of the page.
BASES = (
    "float64", "float32", "bfloat16", "float16", "Conv1D", "NF4", "bitsandbytes int8", "torchao int8", "quanto int8",
    "quanto int4", "experts", "other formats",
)  # fmt: skip
ENGINES = (
    "one process", "offload", "DDP", "FSDP1", "FSDP2", "ZeRO-2", "ZeRO-3", "tensor parallel", "files",
)  # fmt: skip
METHODS = ("DuDe", "DuDe, axis in", "DuDe-A", "DuDe-B", "LoRA", "DoRA", "PiSSA", "every method", "other methods")
MARKERS = ("supports", "rejects")
LOADS = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\ssrc=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\b(?![^>]*rel=["']?canonical)[^>]*?\shref=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|@import\s+["'](?:https?:)?//[^"']+|url\(\s*["']?(?:https?:)?//[^)]+""",
    re.IGNORECASE,
)


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, the files from the top of the repository, and the studies."""
    from mkdocs.structure.files import File

    pages = {
        "dev/modules.md": modules_page(),
        "reference/cli.md": cli_page(),
        "reference/yaml.md": yaml_page(),
        "reference/support.md": support_page(),
    }
    for source, name in COPIED.items():
        text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
        for other, copied in COPIED.items():
            text = text.replace(f"]({other})", f"]({copied})")
        pages[name] = re.sub(r"\[([^\]]+)\]\((?:constraints\.txt|recipes)\)", r"`\1`", text)
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    files.append(File.generated(config, BENCH_COPY, abs_src_path=str(ROOT / BENCH)))
    for study in STUDIES:
        for path in sorted((ROOT / study).iterdir()):
            if path.suffix in STUDY_FILES:
                files.append(File.generated(config, f"{study}/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point links to files of the repository outside docs/ at the copies that `on_files` adds to the site."""
    return site_links(markdown, page.file.src_uri)


def site_links(markdown: str, page: str) -> str:
    """Return the text of `page` with links out of docs/ replaced: they work in the repository, these in the site."""
    copies = {BENCH: BENCH_COPY, **COPIED}

    def replaced(match: re.Match[str]) -> str:
        target, anchor = match.groups()
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
        if path.startswith("docs/"):
            return match.group()
        copy = copies.get(path) or (path if path.startswith(STUDIES) else None)
        if copy is None:
            raise ValueError(f"{page}: the site has no copy of {path}")
        return f"]({posixpath.relpath(copy, posixpath.dirname(page) or '.')}{anchor or ''})"

    return LINK.sub(replaced, markdown)


def on_post_build(config: Any) -> None:
    """Fail if a page of the site loads something from another host."""
    from mkdocs.exceptions import PluginError

    if found := loads_from_other_hosts(Path(config.site_dir)):
        raise PluginError("the site loads from other hosts:\n" + "\n".join(found))


def loads_from_other_hosts(site: Path) -> list[str]:
    """Return each script, style sheet, picture or font that a page of `site` loads from another host."""
    return [
        f"{path.relative_to(site)}: {found}"
        for path in sorted(site.rglob("*"))
        if path.suffix in (".html", ".css")
        for found in LOADS.findall(path.read_text(encoding="utf-8"))
    ]


def modules() -> Iterator[tuple[Path, str]]:
    """Each module of the project, relative to the repository, and the first paragraph of its docstring."""
    for source in SOURCES:
        for path in sorted((ROOT / source).rglob("*.py"), key=lambda path: (path.parent, path.name)):
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            if path.name != "__init__.py" or len(text.split()) > 1:
                yield path.relative_to(ROOT), text.partition("\n\n")[0].replace("\n", " ")


def modules_page() -> str:
    """The page `dev/modules.md`: one table a folder."""
    lines = ["# Modules", "", "Generated from the docstrings of the modules."]
    folder = None
    for path, text in modules():
        if path.parent != folder:
            folder = path.parent
            lines += ["", f"## {folder.as_posix()}", "", "| file | contents |", "|---|---|"]
        lines.append(f"| `{path.name}` | {_cell(text)} |")
    return "\n".join(lines) + "\n"


def cli_page() -> str:
    """The page `reference/cli.md`: every command with its arguments and options."""
    import typer

    from dude_lab.cli.commands import app

    group: Any = typer.main.get_command(app)
    lines = ["# Command line", "", "Generated from the commands themselves; `dude COMMAND --help` shows the same.", ""]
    lines += ["| command | |", "|---|---|"]
    lines += [f"| [`dude {name}`](#dude-{name}) | {_cell(one.help)} |" for name, one in group.commands.items()]
    for name, command in group.commands.items():
        shown = [one for one in command.params if not getattr(one, "hidden", False) and one.name != "help"]
        arguments = [one for one in shown if one.param_type_name == "argument"]
        places = [_place(one) for one in arguments]
        lines += [
            "",
            f"## dude {name}",
            "",
            command.help or "",
            "",
            f"    dude {' '.join([name, *places, '[OPTIONS]'])}",
        ]
        if shown:
            lines += ["", "| argument or option | default | meaning |", "|---|---|---|"]
        for one in shown:
            lines.append(f"| {_spelling(one)} | {_default(one)} | {_cell(one.help or '')} |")
    return "\n".join(lines) + "\n"


def _place(argument: Any) -> str:
    name = str(argument.metavar or argument.name.upper())
    if argument.required or "[" in name:
        return name
    return f"[{name}]{'...' if argument.nargs == -1 else ''}"


def _spelling(param: Any) -> str:
    if param.param_type_name == "argument":
        return f"`{param.metavar or param.name.upper()}`"
    kind = param.type_descriptor.annotation
    value = "" if param.is_flag else f" {param.metavar or getattr(kind, '__name__', str(kind)).upper()}"
    return f"`{', '.join(param.opts)}{value}`"


def _default(param: Any) -> str:
    if param.required:
        return "required"
    return "" if param.default in (None, False, ()) else f"`{param.default}`"


def yaml_page() -> str:
    """The page `reference/yaml.md`: every key of the YAML files."""
    from dude_lab.config.yaml_keys import keys

    lines = [
        "# YAML keys",
        "",
        "Generated from the classes that check the files. `dude train` and `dude validate` read a *run*: `model`,",
        "`method`, `data`, `train`, `eval`, `output`. `dude compare` reads a *comparison*, whose key `run` holds the",
        "sections that all of its runs share. Any key can be changed on the command line: `train.steps=400`. Unknown",
        "keys and values of another type are errors.",
    ]
    section = None
    for key in keys():
        if key.section != section:
            section = key.section
            lines += ["", f"## {section}", "", "| key | type | default | meaning |", "|---|---|---|---|"]
        default = key.default if key.default == "required" else f"`{key.default}`"
        lines.append(f"| `{key.key}` | {_cell(key.type)} | {default} | {_cell(key.meaning)} |")
    return "\n".join(lines) + "\n"


class Entry(NamedTuple):
    """A combination that a test shows to work, or to be rejected with a `DudeError`."""

    marker: str
    base: str
    engine: str
    method: str
    test: str


def support_entries(folder: Path = ROOT / "tests") -> list[Entry]:
    """Return what the markers of the test functions in `folder` name, in the order of `BASES`, `ENGINES`, `METHODS`.

    Raises:
        ValueError: a marker on something else than a test function, without its three arguments, or with a value that
            the lists above do not have.
    """
    found = {entry for path in sorted(folder.rglob("test_*.py")) for entry in _entries(path, folder.parent)}
    return sorted(found, key=lambda one: (*_place_of(one.base, one.engine, one.method), one.marker, one.test))


def _place_of(base: str, engine: str, method: str) -> tuple[int, int, int]:
    return BASES.index(base), ENGINES.index(engine), METHODS.index(method)


def _entries(path: Path, top: Path) -> Iterator[Entry]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tests = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    used = set()
    for test in tests:
        for call in _marks(test.decorator_list):
            used.add(call.lineno)
            yield from _combinations(call, f"{path.relative_to(top).as_posix()}::{test.name}")
    if lost := {call.lineno for call in _marks([tree])} - used:
        raise ValueError(f"{path}:{min(lost)}: supports and rejects mark test functions")


def _marks(nodes: Iterable[ast.AST]) -> Iterator[ast.Call]:
    for node in itertools.chain.from_iterable(map(ast.walk, nodes)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MARKERS:
            yield node


def _combinations(call: ast.Call, test: str) -> Iterator[Entry]:
    values = {}
    for keyword in call.keywords:
        value = ast.literal_eval(keyword.value)
        values[keyword.arg] = [value] if isinstance(value, str) else list(value)
    if call.args or list(values) != ["base", "engine", "method"]:
        raise ValueError(f"{test}: a marker has base=, engine= and method=, in this order")
    for (name, given), known in zip(values.items(), (BASES, ENGINES, METHODS), strict=True):
        if unknown := set(given) - set(known):
            raise ValueError(f"{test}: {name} {sorted(unknown)} is not in docs/hooks.py ({', '.join(known)})")
    for base, engine, method in itertools.product(*values.values()):
        yield Entry(call.func.attr, base, engine, method, test)  # type: ignore[attr-defined]


def support_page() -> str:
    """The page `reference/support.md`: what works on which weights in which engine, and the tests that show it."""
    entries = support_entries()
    engines = [engine for engine in ENGINES if any(one.engine == engine for one in entries)]
    lines = [
        "# Support matrix",
        "",
        "Which methods work on which weights with which engine. Generated from the markers of the tests: each entry",
        "links to the tests that show it, and what is not listed was not tested. *Rejected* means a `DudeError` that",
        "names the cause. *Offload* is that of accelerate, *files* is `dude decompose` and `dude merge`, which read a",
        "checkpoint one tensor at a time, *every method* is all of `dude methods`. `make test-quantized` installs the",
        "libraries of quantised weights and runs their tests.",
        "",
        f"| weights | {' | '.join(engines)} |",
        f"|---|{'---|' * len(engines)}",
    ]
    sections = []
    for base in [base for base in BASES if any(one.base == base for one in entries)]:
        cells = []
        for engine in engines:
            some = [one for one in entries if (one.base, one.engine) == (base, engine)]
            cells.append(_summary(some))
            if some:
                sections += ["", f"## {base}: {engine}", "", "| test | methods | |", "|---|---|---|"]
            for test, marker in dict.fromkeys((one.test, one.marker) for one in some):
                methods = "; ".join(one.method for one in some if (one.test, one.marker) == (test, marker))
                sections.append(f"| `{test}` | {methods} | {'works' if marker == 'supports' else 'rejected'} |")
        lines.append(f"| {base} | {' | '.join(cells)} |")
    return "\n".join([*lines, *sections]) + "\n"


def _summary(entries: list[Entry]) -> str:
    if not entries:
        return ""
    methods = {marker: dict.fromkeys(one.method for one in entries if one.marker == marker) for marker in MARKERS}
    parts = [
        f"{'' if marker == 'supports' else 'rejected: '}{'; '.join(names)}"
        for marker, names in methods.items()
        if names
    ]
    anchor = re.sub(r"[^\w\s-]", "", f"{entries[0].base}: {entries[0].engine}".lower()).replace(" ", "-")
    return f"[{'. '.join(parts)}](#{anchor})"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(modules_page(), end="")
