"""A packed study: the finished runs of a study as three Parquet files.

    runs.parquet      one row a run: `name`, the fields of `run.json`, `evaluations`, the most used numbers as columns
    curves.parquet    one row a line of `curves.jsonl`, with `run`
    answers.parquet   one row a question, with `run` and `evaluation`, without prompts and texts of choices

A column holds one type. Objects, lists other than of numbers, and values of mixed types are JSON text; the field's
metadata says so (`json`). A null is a field that the row does not have; a field that is null in the row is named in
`null_fields`. The same content gives the same bytes (with the same version of pyarrow).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dude_peft.errors import DudeError
from dude_peft.files import sync

if TYPE_CHECKING:
    import pyarrow as pa

FILES = ("curves.parquet", "answers.parquet", "runs.parquet")  # in the order in which they are put in place
SCHEMA = b"1"
NULLS = "null_fields"
NOT_STORED = ("prompt", "choices")  # fields of an answer that belong to the data set

RUN_FIELDS = (
    "schema", "kind", "config", "method", "title", "r", "seeds", "started", "finished", "provenance", "init", "cost",
    "training", "metrics",
)  # fmt: skip
CURVE_FIELDS = (
    "step", "epoch", "loss", "learning_rate", "grad_norm", "grad_norm_A", "grad_norm_B", "grad_norm_m",
    "token_accuracy", "tokens", "seconds", "eval_loss", "eval", "accuracy",
)  # fmt: skip
ANSWER_FIELDS = ("task", "id", "gold", "prediction", "generated", "loglikelihoods", "correct")
FLAT = (
    "config.model.name", "config.data.name", "config.train.learning_rate", "config.train.steps", "seeds.seed",
    "metrics.after.headline", "metrics.after.accuracy", "metrics.after.validation_loss", "training.last_tenth_loss",
    "cost.train_seconds", "cost.eval_seconds", "cost.init_seconds", "cost.tokens", "cost.peak_memory.bytes",
    "cost.trainable_parameters", "provenance.git.sha",
)  # fmt: skip
JSON_ALWAYS = frozenset({"gold", "prediction"})  # number of a choice, or text, depending on the task

Answers = dict[str, list[dict[str, Any]]]  # task -> samples


class PackedRun:
    """One run of a packed study."""

    def __init__(self, study: PackedStudy, name: str) -> None:
        self.study, self.name = study, name

    def record(self) -> dict[str, Any]:
        """Return its `run.json`."""
        return self.study.records[self.name]

    def metrics(self) -> dict[str, Any]:
        """Return evaluation -> its `metrics.json`."""
        return self.study.evaluations[self.name]

    def curves(self) -> list[dict[str, Any]]:
        """Return its `curves.jsonl`."""
        return self.study.curves.rows(self.name)

    def has_answers(self, task: str) -> bool:
        """Whether the evaluation after training has answers to this task."""
        return task in self._tasks("after")

    def samples(self, evaluation: str = "after") -> Answers:
        """Return task -> answers of an evaluation, in the order of the questions, without prompts and choices."""
        found: Answers = {}
        for one in self.study.answers.rows(self.name):
            if one.pop("evaluation") == evaluation:
                found.setdefault(one["task"], []).append(one)
        return found

    def answers(self) -> dict[str, list[tuple[str, bool]]]:
        """Return task -> id of each question, and whether the answer after training is correct."""
        found: dict[str, list[tuple[str, bool]]] = {}
        for one in self.study.answers.rows(self.name, ("evaluation", "task", "id", "correct")):
            if one["evaluation"] == "after":
                found.setdefault(one["task"], []).append((str(one["id"]), bool(one["correct"])))
        return found

    def evaluations(self) -> list[str]:
        """Return the names of the evaluations with answers or metrics."""
        answered = self.study.answers.rows(self.name, ("evaluation",))
        return sorted({one["evaluation"] for one in answered} | set(self.metrics()))

    def _tasks(self, evaluation: str) -> set[str]:
        rows = self.study.answers.rows(self.name, ("evaluation", "task"))
        return {one["task"] for one in rows if one["evaluation"] == evaluation}


class PackedStudy:
    """The contents of a packed study.

    Attributes:
        records: name -> `run.json`.
        evaluations: name -> evaluation -> `metrics.json`.
    """

    def __init__(self, folder: Path) -> None:
        tables = {name: read_table(folder / name) for name in FILES}
        self.records: dict[str, dict[str, Any]] = {}
        self.evaluations: dict[str, dict[str, Any]] = {}
        runs = tables["runs.parquet"]
        for row in decode(runs.drop_columns([name for name in runs.column_names if name in FLAT])):
            name = row.pop("name")
            self.evaluations[name] = row.pop("evaluations")
            self.records[name] = row
        self.curves = ByRun(tables["curves.parquet"])
        self.answers = ByRun(tables["answers.parquet"])

    def run(self, name: str) -> PackedRun | None:
        """Return a run by its name; None if the study does not have it."""
        return PackedRun(self, name) if name in self.records else None


class ByRun:
    """A table sorted by `run`; the rows of one run are decoded at a time."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table.drop_columns(["run"])
        codes = table["run"].combine_chunks().dictionary_encode()
        indices = codes.indices.to_numpy()
        begins = np.flatnonzero(np.diff(indices, prepend=-1))
        ends = [*begins[1:], len(indices)]
        names = codes.dictionary.to_pylist()
        self._slices = {names[indices[b]]: (int(b), int(e - b)) for b, e in zip(begins, ends, strict=True)}

    def rows(self, run: str, fields: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return the rows of a run, with all or some of their fields."""
        if run not in self._slices:
            return []
        table = self._table if fields is None else self._table.select(fields)
        return decode(table.slice(*self._slices[run]))


def find_packed(folder: Path) -> PackedStudy | None:
    """Return the packed study in a folder; None if there is none.

    Raises:
        DudeError: a file of it is missing or damaged.
    """
    try:
        (folder / "runs.parquet").stat()
    except OSError:
        return None
    marks = []
    for name in FILES:
        try:
            found = (folder / name).stat()
        except OSError as error:
            raise DudeError(f"{folder / name}: {error.strerror}. Restore the file from a copy.") from None
        marks.append((found.st_mtime_ns, found.st_size))
    return _load(folder.resolve(), tuple(marks))


@lru_cache(maxsize=4)
def _load(folder: Path, marks: tuple[tuple[int, int], ...]) -> PackedStudy:
    return PackedStudy(folder)


def read_table(file: Path) -> pa.Table:
    """Read a Parquet file of a packed study.

    Raises:
        DudeError: missing, damaged, or written by a later version.
    """
    import pyarrow
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise DudeError(f"{file}: cannot be read as a packed study ({error}). Restore the file from a copy.") from None
    schema = (table.schema.metadata or {}).get(b"dude_schema")
    if schema != SCHEMA:
        raise DudeError(
            f"{file}: holds packed runs of schema {schema.decode() if schema else None}, and this version reads "
            f"{SCHEMA.decode()}. Update dude-peft."
        )
    return table


def encode(rows: Sequence[Mapping[str, Any]], first: Sequence[str]) -> pa.Table:
    """Return rows as a table from which `decode` restores them exactly, with fields in the order of the table.

    Args:
        rows: JSON objects.
        first: names of the first columns, in this order; the others follow by name.
    """
    import pyarrow as pa

    present = dict.fromkeys(key for row in rows for key in row)
    order = [*(key for key in first if key in present), *sorted(key for key in present if key not in first)]
    columns, fields = [], []
    for key in order:
        kind = "json" if key in JSON_ALWAYS else _kind([row[key] for row in rows if row.get(key) is not None])
        values = [row.get(key) for row in rows]
        if kind == "json":
            values = [json.dumps(row[key], ensure_ascii=False) if key in row else None for row in rows]
        types = {"bool": pa.bool_(), "int": pa.int64(), "float32": pa.float32(), "float64": pa.float64()}
        types |= {f"list {name}": pa.list_(types[name]) for name in ("float32", "float64")}
        columns.append(pa.array(values, types.get(kind, pa.string())))
        fields.append(pa.field(key, columns[-1].type, metadata={"json": "1"} if kind == "json" else None))
    written_as_json = {field.name for field in fields if field.metadata}
    nulls = [[key for key in row if row[key] is None and key not in written_as_json] for row in rows]
    columns.append(pa.array([json.dumps(one) if one else None for one in nulls], pa.string()))
    fields.append(pa.field(NULLS, pa.string()))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _kind(values: Sequence[Any]) -> str:
    """Return the type that represents all of these values exactly."""
    kinds = {type(value) for value in values}
    if kinds == {bool} or kinds == {str}:
        return "bool" if bool in kinds else "str"
    if kinds == {int}:
        return "int" if all(-(2**63) <= value < 2**63 for value in values) else "json"
    if kinds == {float}:
        return _width(values)
    if kinds == {list} and {type(item) for value in values for item in value} == {float}:
        return f"list {_width([item for value in values for item in value])}"
    return "json"


def _width(values: Sequence[float]) -> str:
    array = np.asarray(values, dtype=np.float64)
    with np.errstate(over="ignore"):
        return "float32" if np.array_equal(array.astype(np.float32), array) else "float64"


def decode(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of a table of `encode`, or of some of its columns."""
    nulls: list[str | None] = [None] * table.num_rows
    if NULLS in table.column_names:
        nulls = table[NULLS].to_pylist()
    rows: list[dict[str, Any]] = [{} for _ in nulls]
    for field in table.schema:
        if field.name == NULLS:
            continue
        is_json = b"json" in (field.metadata or {})
        for row, value, named in zip(rows, table[field.name].to_pylist(), nulls, strict=True):
            if value is not None:
                row[field.name] = json.loads(value) if is_json else value
            elif named is not None and field.name in json.loads(named):
                row[field.name] = None
    return rows


def make_tables(runs: Iterable[Any]) -> dict[str, pa.Table]:
    """Return the three tables of finished runs, sorted by name.

    Args:
        runs: each with `name`, `record()`, `metrics()`, `curves()`, `evaluations()` and `samples(evaluation)`.
    """
    import pyarrow as pa

    records, lines, answers = [], [], []
    for run in sorted(runs, key=lambda one: one.name):
        records.append({"name": run.name, **run.record(), "evaluations": run.metrics()})
        lines += [{"run": run.name, **line} for line in run.curves()]
        for evaluation in run.evaluations():
            for samples in run.samples(evaluation).values():
                stored = ({key: value for key, value in one.items() if key not in NOT_STORED} for one in samples)
                answers += [{"run": run.name, "evaluation": evaluation, **one} for one in stored]
    table = encode(records, ("name", *RUN_FIELDS, "evaluations"))
    for path in FLAT:
        values = [_at(record, path.split(".")) for record in records]
        kind = {int: pa.int64(), float: pa.float64()}.get(next((type(one) for one in values if one is not None), str))
        table = table.append_column(path, pa.array(values, kind or pa.string()))
    return {
        "runs.parquet": table,
        "curves.parquet": _with_run(encode(lines, ("run", *CURVE_FIELDS))),
        "answers.parquet": _with_run(encode(answers, ("run", "evaluation", *ANSWER_FIELDS))),
    }


def _with_run(table: pa.Table) -> pa.Table:
    """Add the column `run` to a table without rows, which has no columns."""
    import pyarrow as pa

    return table if "run" in table.column_names else table.append_column("run", pa.array([], pa.string()))


def _at(record: Any, path: Sequence[str]) -> Any:
    for key in path:
        record = record.get(key) if isinstance(record, dict) else None
    return record


def write_table(table: pa.Table, file: Path) -> None:
    """Write a table of `make_tables` as Parquet; the same table gives the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = table.replace_schema_metadata({b"dude_schema": SCHEMA})
    repeated = [name for name in ("run", "evaluation", "task") if name in table.column_names]
    split = [field.name for field in table.schema if pa.types.is_float32(field.type)]
    pq.write_table(
        table,
        file,
        row_group_size=max(1, table.num_rows),
        compression="zstd",
        compression_level=19,
        use_dictionary=repeated,
        use_byte_stream_split=split,
    )
    sync(file)
