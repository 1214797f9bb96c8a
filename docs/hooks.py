"""Pages of the documentation that are generated from the code, and checks of the built site. MkDocs calls `on_...`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("src/dude_peft", "src/dude_lab", "mini")


def modules() -> Iterator[tuple[Path, str]]:
    """Each module of the project, relative to the repository, and the first line of its docstring."""
    for source in SOURCES:
        for path in sorted((ROOT / source).rglob("*.py"), key=lambda path: (path.parent, path.name)):
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            if path.name != "__init__.py" or len(text.split()) > 1:
                yield path.relative_to(ROOT), text.partition("\n\n")[0].replace("\n", " ")


def modules_page() -> str:
    """The page `dev/modules.md`: one table a folder."""
    lines = ["# Modules", "", "Generated from the docstrings of the modules.", ""]
    folder = None
    for path, text in modules():
        if path.parent != folder:
            folder = path.parent
            lines += ["", f"## {folder.as_posix()}", "", "| file | contents |", "|---|---|"]
        lines.append(f"| `{path.name}` | {text.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(modules_page(), end="")
