"""The folder of a reproduction: one store of runs, and a small folder for each part that draws on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dude_peft.errors import DudeError
from dude_peft.files import check_folder, read_json, write_json

from ..compare.comparison_folder import ComparisonFolder
from .experiments import EXPERIMENTS, SELECTIONS, Experiment, Scale, Selection

SCHEMA = 1


class PartFolder(ComparisonFolder):
    """A part's comparison: its config and choices in `parts/NAME/`, its runs in the store that all parts share.

    A run is named by what determines it, so a run that two parts need is one folder.
    """

    def __init__(self, root: str | Path, name: str) -> None:
        super().__init__(root)
        self.name = name
        self.own = self.path / "parts" / name
        self.config = self.own / "compare.yaml"
        self.base = self.own / "base.json"
        self.search = self.own / "search.json"
        self.table_md = self.own / "table.md"
        self.table_json = self.own / "table.json"
        self.picture = self.own / "curves.png"

    def check(self) -> None:
        """Refuse a root that holds something else; writes nothing.

        Raises:
            DudeError: a file, or a folder that holds something else.
        """
        Root(self.path).check()

    def begin(self, settings: Any, base: dict[str, Any]) -> None:
        """As a comparison's, in the part's own folder."""
        self.own.mkdir(parents=True, exist_ok=True)
        super().begin(settings, base)


class Root:
    """The whole folder.

    reproduction.json          scale, command, and for each part its selection, model and rows
    runs/NAME/, state/         one run each, as in a comparison
    parts/NAME/                compare.yaml, base.json, search.json
    README.md, table1.md, table1.json, figure2.png, figure2.svg ...
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.mark = self.path / "reproduction.json"

    def check(self, scale: Scale | None = None) -> None:
        """Refuse a path that a reproduction may not be written to; writes nothing.

        Raises:
            DudeError: a folder that cannot be written, one with something else in it, or one of the other scale.
        """
        check_folder(self.path, "-o")
        held = sorted(p.name for p in self.path.iterdir()) if self.path.is_dir() else []
        facts = self.facts()
        if held and facts is None:
            raise DudeError(
                f"-o: {self.path} is not empty and holds no reproduction ({', '.join(held[:4])}). "
                "Choose another folder."
            )
        if facts is not None and scale is not None and facts["scale"] != scale:
            raise DudeError(
                f"-o: {self.path} holds a reproduction at scale {facts['scale']}, not {scale}. Choose another folder."
            )

    def facts(self) -> dict[str, Any] | None:
        """`reproduction.json`; None where there is none.

        Raises:
            DudeError: it is damaged: written again, it would forget the parts of earlier starts.
        """
        return read_json(self.mark, "Restore it from a copy.") if self.mark.is_file() else None

    def begin(self, scale: Scale, names: list[str], parts: dict[str, dict[str, Any]], overrides: list[str]) -> None:
        """Say what the folder holds; experiments and parts of earlier starts stay."""
        old = self.facts() or {"experiments": [], "parts": {}}
        together = set(old["experiments"]) | set(names)
        facts = {
            "schema": SCHEMA,
            "scale": scale,
            "overrides": overrides,
            "experiments": [name for name in EXPERIMENTS if name in together],
            "parts": {**old["parts"], **parts},
        }
        self.path.mkdir(parents=True, exist_ok=True)
        if self.facts() != facts:
            write_json(self.mark, facts)

    def experiments(self) -> list[Experiment]:
        """Those that were asked for, in the paper's order.

        Raises:
            DudeError: no reproduction there.
        """
        facts = self.facts()
        if facts is None:
            raise DudeError(f"{self.path}: no reproduction here. Give the output of `dude reproduce`.")
        return [EXPERIMENTS[name] for name in facts["experiments"]]

    def parts(self, experiment: Experiment) -> list[tuple[Selection, dict[str, Any], PartFolder]]:
        """The experiment's parts that have been begun: selection, facts (`model`, `paper`), folder."""
        facts = self.facts() or {"parts": {}}
        return [
            (SELECTIONS[one["selection"]], one, PartFolder(self.path, name))
            for selection in experiment.selections
            for name, one in facts["parts"].items()
            if one["selection"] == selection and PartFolder(self.path, name).config.is_file()
        ]


def find_comparison(path: str | Path) -> ComparisonFolder | None:
    """The comparison, or the part of a reproduction, whose folder `path` is; None where it is neither.

    Raises:
        DudeError: it is a whole reproduction; names its parts.
    """
    path = Path(path)
    if (facts := Root(path).facts()) is not None:
        parts = [name for name in facts["parts"] if PartFolder(path, name).config.is_file()]
        raise DudeError(
            f"{path}: a reproduction of {len(parts)} parts, each a comparison of its own. Give one of them, such as "
            f"{path / 'parts' / parts[0] if parts else 'parts/NAME'}. Parts: {', '.join(parts) or 'none yet'}."
        )
    here = path.resolve()
    root = here.parent.parent
    if here.parent.name == "parts" and (facts := Root(root).facts()) is not None and here.name in facts["parts"]:
        return PartFolder(path.parent.parent if path.name == here.name else root, here.name)
    folder = ComparisonFolder(path)
    return folder if folder.config.is_file() else None
