"""Flip bits in the files of checkpoints and final adapters, and count which flips are noticed.

    python tests/bit_flips.py [--flips 3] [--seed 0]

Each flip is made in a copy of a small run, for each file in turn. It counts as noticed if loading refuses the file, or
if an earlier checkpoint is used and a note says so.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def flip_bit(path: Path, position: int) -> None:
    """Invert one bit of a file in place; `position` counts bits from its beginning."""
    data = bytearray(path.read_bytes())
    data[position // 8] ^= 1 << (position % 8)
    path.write_bytes(bytes(data))


def flip_random_bit(path: Path, draw: random.Random) -> int:
    """Invert one random bit of a file in place; returns its position."""
    position = draw.randrange(8 * path.stat().st_size)
    flip_bit(path, position)
    return position


def notices(action: Callable[[Any], object]) -> bool:
    """Whether an action that is given a reporter fails, or tells the reporter that something is damaged."""
    from dude_lab.training.reporter import Reporter

    class Notes(Reporter):
        text = ""

        def note(self, text: str) -> None:
            self.text += text

    notes = Notes()
    try:
        action(notes)
    except Exception:
        return True
    return "instead" in notes.text or "begins again" in notes.text


def measure(method: str, base: Path, folder: Path, flips: int, draw: random.Random) -> dict[str, tuple[int, int, int]]:
    """Noticed flips, flips that changed nothing, and flips: in the newest checkpoint, and in the final adapter.

    The newest checkpoint is that of step 4 of 6, so that the optimizer's state decides the result too.
    """
    from tiny_run import Tiny

    from dude_lab.training.finished_run import load_run
    from dude_lab.training.train_run import train

    tiny = Tiny(base, folder)
    tiny.raw["method"] = "full" if method == "full" else {**tiny.raw["method"], "name": method}
    run = tiny.output
    settings = tiny.settings("train.keep_checkpoints=3")
    train(settings)
    place = run / ("model" if method == "full" else "adapter")
    right = {p.name: p.read_bytes() for p in place.iterdir()}
    kept = Path(shutil.copytree(run, folder / "kept"))
    shutil.rmtree(kept / "checkpoints" / "checkpoint-6")
    found = {}

    def again() -> None:
        shutil.rmtree(run)
        shutil.copytree(kept, run)

    noticed = harmless = count = 0
    (kept / "run.json").rename(folder / "run.json")
    newest = kept / "checkpoints" / "checkpoint-4"
    for name in sorted(p.relative_to(kept) for p in newest.iterdir()):
        for _ in range(flips):
            again()
            flip_random_bit(run / name, draw)
            count += 1
            if notices(lambda notes: train(settings, resume="auto", reporter=notes)):
                noticed += 1
            elif {p.name: p.read_bytes() for p in place.iterdir()} == right:
                harmless += 1
    found["checkpoint"] = noticed, harmless, count
    (folder / "run.json").rename(kept / "run.json")
    noticed = count = 0
    for name in sorted(p.relative_to(kept) for p in (kept / place.name).iterdir()):
        for _ in range(flips):
            again()
            flip_random_bit(run / name, draw)
            count += 1
            noticed += notices(lambda notes: load_run(run, device="cpu"))
    found["result"] = noticed, 0, count
    return found


def main() -> None:
    """Print one line for each method."""
    from tiny_run import write_base

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--flips", type=int, default=3, help="in each file")
    parser.add_argument("--methods", nargs="+", default=["lora", "pissa", "dude", "full"])
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    draw = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as folder:
        base = write_base(Path(folder) / "base")
        for method in asked.methods:
            (Path(folder) / method).mkdir()
            for what, (noticed, harmless, count) in measure(
                method, base, Path(folder) / method, asked.flips, draw
            ).items():
                print(f"{method:6} {what:10} noticed {noticed} / {count}, without effect {harmless}", flush=True)


if __name__ == "__main__":
    main()
