"""Pages of the documentation that are generated from the code, and checks of the built site. MkDocs calls `on_...`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("src/dude_peft", "src/dude_lab", "mini")
COPIED = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}
STUDY = "studies/mini"
STUDY_FILES = (".md", ".png", ".svg", ".json")
BENCH = "benchmarks/results/bench-epyc-avx2.png"
LOADS = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\ssrc=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\b(?![^>]*rel=["']?canonical)[^>]*?\shref=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|@import\s+["'](?:https?:)?//[^"']+|url\(\s*["']?(?:https?:)?//[^)]+""",
    re.IGNORECASE,
)


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, the files from the top of the repository, and the study."""
    from mkdocs.structure.files import File

    pages = {"dev/modules.md": modules_page(), "reference/cli.md": cli_page(), "reference/yaml.md": yaml_page()}
    for source, name in COPIED.items():
        text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
        for other, copied in COPIED.items():
            text = text.replace(f"]({other})", f"]({copied})")
        pages[name] = re.sub(r"\[([^\]]+)\]\((?:constraints\.txt|recipes)\)", r"`\1`", text)
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    files.append(File.generated(config, "images/bench.png", abs_src_path=str(ROOT / BENCH)))
    for path in sorted((ROOT / STUDY).iterdir()):
        if path.suffix in STUDY_FILES:
            files.append(File.generated(config, f"{STUDY}/{path.name}", abs_src_path=str(path)))
    return files


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


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(modules_page(), end="")
