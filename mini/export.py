"""`python -m mini.export`: write the generated data sets into the package, as one `.jsonl.gz` a set and split."""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Sequence
from pathlib import Path

from mini.records import SETS, records
from mini.splits import SPLITS

SHIPPED = Path(__file__).parents[1] / "src" / "dude_lab" / "assets" / "mini" / "data"


def encode(name: str, split: str) -> bytes:
    """Return the records as UTF-8, one JSON object per line."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records(name, split)).encode()


def export(folder: Path) -> None:
    """Write every split of every set into `folder`; the same records give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SETS:
        for split in SPLITS:
            (folder / f"{name}.{split}.jsonl.gz").write_bytes(gzip.compress(encode(name, split), 9, mtime=0))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mini.export", description="Write mini's data sets as files.")
    parser.add_argument("-o", "--output", type=Path, default=SHIPPED)
    export(parser.parse_args(arguments).output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
