"""Reading a data set of the Hugging Face hub."""

from __future__ import annotations

from dude_peft.errors import DudeError

from .data_files import Rows


def read_hub(path: str, subset: str | None, split: str, *, what: str, remedy: str) -> Rows:
    """Every record of a split.

    Args:
        path: `owner/name`.
        subset: its configuration, where it has several; `one+other` reads both, one after the other.
        split: the hub's name of the split.
        what: begins the message, where it cannot be read.
        remedy: ends it.

    Raises:
        DudeError: it cannot be read, or is empty.
    """
    import datasets

    where = path + (f" ({subset})" if subset else "")
    try:
        parts = [datasets.load_dataset(path, one, split=split) for one in (subset.split("+") if subset else [None])]
    except Exception as error:  # every network, cache and permission fault of the hub ends here
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DudeError(f"{what}: {where} could not be read from the hub ({reason}). {remedy}") from None
    rows = [dict(row) for part in parts for row in part]
    if not rows:
        raise DudeError(f"{what}: {where} holds no record on the hub. {remedy}")
    return Rows(f"{where}, split {split}", rows)
