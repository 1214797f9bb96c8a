"""The folder of a reproduction: one store of runs, and a small folder for each part that draws on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dude_peft.errors import DudeError
from dude_peft.files import read_json, write_json

from ..compare.comparison_folder import STUDY, ComparisonFolder
from ..folders import check_folder
from .experiments import EXPERIMENTS, SELECTIONS, Experiment, Scale, Selection

SCHEMA = 1


class StudyFolder:
    """The whole folder.

    reproduction.json          scale, command, and for each part its selection, model and rows
    runs/NAME/, state/         one run each, as in a comparison
    parts/NAME/                compare.yaml, base.json, search.json
    README.md, table1.md, table1.json, figure2.png, figure2.svg ...
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.mark = self.path / STUDY

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

    def comparison(self, name: str) -> ComparisonFolder:
        """Return the folder of one of its comparisons."""
        return ComparisonFolder(self.path / "parts" / name, self.path)

    def parts(self, experiment: Experiment) -> list[tuple[Selection, dict[str, Any], ComparisonFolder]]:
        """The experiment's parts that have been begun: selection, facts (`model`, `paper`), folder."""
        facts = self.facts() or {"parts": {}}
        return [
            (SELECTIONS[one["selection"]], one, self.comparison(name))
            for selection in experiment.selections
            for name, one in facts["parts"].items()
            if one["selection"] == selection and self.comparison(name).config.is_file()
        ]
