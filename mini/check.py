"""`python -m mini.check RUN`: does a pretraining run, finished or not, repeat the shipped model's loss?"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from dude_peft.errors import DudeError

WINDOW = 25  # steps
SHIPPED = Path(__file__).parents[1] / "src" / "dude_lab" / "assets" / "mini" / "loss.json"
TOLERANCE = 0.01


def window_losses(log: Path) -> list[float]:
    """Mean training loss of each whole window of `WINDOW` steps of a run's `log.jsonl`, in nats per token.

    Raises:
        DudeError: there is no such log, or it has not one whole window.
    """
    if not log.is_file():
        raise DudeError(f"{log}: no such file; give the folder of a run of `python -m mini.pretrain`")
    losses = [json.loads(line)["loss"] for line in log.read_text(encoding="utf-8").splitlines()]
    if len(losses) < WINDOW:
        raise DudeError(f"{log} has {len(losses)} steps; {WINDOW} are needed for the first comparison")
    return [sum(losses[i : i + WINDOW]) / WINDOW for i in range(0, len(losses) - WINDOW + 1, WINDOW)]


def shipped_losses() -> list[float]:
    """Return `window_losses` of the run that made the shipped weights."""
    return json.loads(SHIPPED.read_text(encoding="utf-8"))["losses"]


def differences(losses: Sequence[float], shipped: Sequence[float]) -> list[float]:
    """Return the relative difference of the loss in each window that both runs have."""
    return [a / b - 1 for a, b in zip(losses, shipped, strict=False)]


def keep(run: Path, shipped: Path = SHIPPED) -> None:
    """Write the losses of a finished run as those of the shipped model."""
    losses = [round(loss, 5) for loss in window_losses(run / "log.jsonl")]
    shipped.write_text(json.dumps({"window": WINDOW, "losses": losses}) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line: return 0 if the last window agrees to `TOLERANCE`, 1 if not, 2 for an error."""
    parser = argparse.ArgumentParser(
        prog="python -m mini.check",
        description=f"Compare a pretraining run with the shipped model's, {WINDOW} steps at a time.",
    )
    parser.add_argument("run", type=Path, help="folder of a run of `python -m mini.pretrain`")
    a = parser.parse_args(arguments)
    try:
        mine, shipped = window_losses(a.run / "log.jsonl"), shipped_losses()
    except DudeError as error:
        print(f"error: {error}")
        return 2
    found = differences(mine, shipped)
    print(f"{'steps':>7} {'this run':>9} {'shipped':>9} {'difference':>11}")
    for i in sorted({*range(0, len(found), max(1, len(found) // 12)), len(found) - 1}):
        print(f"{(i + 1) * WINDOW:7d} {mine[i]:9.4f} {shipped[i]:9.4f} {found[i]:+11.3%}")
    whole = len(found) == len(shipped)
    good = abs(found[-1]) <= TOLERANCE
    print(
        f"{'the whole run' if whole else f'the first {len(found)} of {len(shipped)} windows'}: "
        f"largest difference {max(map(abs, found)):.3%}, last {found[-1]:+.3%}; "
        f"{'agrees' if good else 'does not agree'} to {TOLERANCE:.0%}"
    )
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
