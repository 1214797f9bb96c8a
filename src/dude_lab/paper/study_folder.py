"""The folder of a study: one store of runs, and a small folder for each comparison that uses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dude_peft.errors import DudeError
from dude_peft.files import read_json, write_json

from ..compare.comparison_folder import STUDY, ComparisonFolder
from ..folders import check_folder
from .experiments import COMPARISONS, EXPERIMENTS, ComparisonSpec, Experiment, Scale

SCHEMA = 1


class StudyFolder:
    """Paths of one study.

        reproduction.json          scale, experiments, overrides, and for each comparison its recipe and model
        runs/NAME/, state/         one run each, as in a comparison
        parts/NAME/                one comparison each: compare.yaml, base.json, search.json
        README.md, table1.md, table1.json, figure2.png, figure2.svg ...

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.mark = self.path / STUDY

    def check(self, scale: Scale | None = None) -> None:
        """Reject a folder that a study cannot be written to; write nothing.

        Raises:
            DudeError: a folder that cannot be written, one with something else in it, or one of the other scale.
        """
        check_folder(self.path, "-o")
        entries = sorted(p.name for p in self.path.iterdir()) if self.path.is_dir() else []
        facts = self.facts()
        if entries and facts is None:
            raise DudeError(
                f"-o: {self.path} is not empty and holds no study ({', '.join(entries[:4])}). Choose another folder."
            )
        if facts is not None and scale is not None and facts["scale"] != scale:
            raise DudeError(
                f"-o: {self.path} holds a study at scale {facts['scale']}, not {scale}. Choose another folder."
            )

    def facts(self) -> dict[str, Any] | None:
        """Return `reproduction.json`; None if there is none.

        Raises:
            DudeError: it is damaged. It is not written again, since that would lose the comparisons in it.
        """
        return read_json(self.mark, "Restore it from a copy.") if self.mark.is_file() else None

    def begin(
        self, scale: Scale, names: list[str], comparisons: dict[str, dict[str, Any]], overrides: list[str]
    ) -> None:
        """Add experiments and comparisons to what the folder holds."""
        old = self.facts() or {"experiments": [], "parts": {}}
        together = set(old["experiments"]) | set(names)
        facts = {
            "schema": SCHEMA,
            "scale": scale,
            "overrides": overrides,
            "experiments": [name for name in EXPERIMENTS if name in together],
            "parts": {**old["parts"], **comparisons},
        }
        self.path.mkdir(parents=True, exist_ok=True)
        if self.facts() != facts:
            write_json(self.mark, facts)

    def experiments(self) -> list[Experiment]:
        """Return the experiments of the study, in the paper's order.

        Raises:
            DudeError: the folder holds no study.
        """
        facts = self.facts()
        if facts is None:
            raise DudeError(f"{self.path}: no study here. Give the output of `dude reproduce`.")
        return [EXPERIMENTS[name] for name in facts["experiments"]]

    def comparison(self, name: str) -> ComparisonFolder:
        """Return the folder of one of its comparisons."""
        return ComparisonFolder(self.path / "parts" / name, self.path)

    def comparisons(self, experiment: Experiment) -> list[tuple[ComparisonSpec, dict[str, Any], ComparisonFolder]]:
        """Return the experiment's comparisons in the folder: spec, entry of `reproduction.json`, folder."""
        facts = self.facts() or {"parts": {}}
        return [
            (COMPARISONS[one["selection"]], one, self.comparison(name))
            for spec in experiment.comparisons
            for name, one in facts["parts"].items()
            if one["selection"] == spec and self.comparison(name).config.is_file()
        ]
